"""The statistics of an ensemble, as a reducer takes them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import DTypeLike

from mksdask.arrays import Array, is_lazy, is_trial_of_dask_ml
from mksdask.compute.graph import token_of
from mksdask.compute.plans import Limit, Plan, cache_limit, chunk_layout
from mksdask.compute.recent import RECENT, recalled
from mksdask.compute.transforms import fft_library
from mksdask.compute.watching import FeatureChannel, Plane, Watch, watching
from mksdask.reduction.pca import PCA, stages_of_pca
from mksdask.reduction.reducers import fit_scores, scores_of, takes_no_negatives
from mksdask.reduction.strategy import result_bytes_of
from mksdask.samples import Grid, Samples
from mksdask.stats.correlation import Correlation
from mksdask.stats.features import FeatureMap, rounding_of
from mksdask.stats.pairs import Pairs
from mksdask.storage.atomic import Url


class Reducible(Protocol):
    """Statistics that a structure analysis can reduce: `EnsembleStatistics` or `SharedStatistics`."""

    @property
    def grid(self) -> Grid:
        """Geometry of the samples."""

    @property
    def map(self) -> FeatureMap:
        """How the statistics of a sample stand in a row of features."""

    @property
    def values(self) -> Any:
        """Statistics, shape (n_samples, *lags, n_pairs)."""

    @property
    def index(self) -> pd.Index | None:
        """Labels of the samples, or None if they have none."""

    def __len__(self) -> int: ...

    def reduce(
        self, reducer: Any, y: Array | None, *, scratch: Url | None = None, watch: Watch = False, resume: bool = False
    ) -> tuple[Any, Array]:
        """Fit a reducer. See `EnsembleStatistics.reduce`."""

    def scores(self, reducer: Any, *, n_components: int, dtype: np.dtype[Any]) -> Any:
        """Compute the scores by a fitted reducer, shape (n_samples, n_components)."""

    def plan(self, name: str, reducer: Any, limit: Limit) -> Plan:
        """Plan `reduce` within a limit of memory."""


@dataclass(frozen=True)
class StatisticsOptions:
    """The parameters of a structure analysis that decide what its features are."""

    correlations: Pairs | None
    cutoff: int | Sequence[int] | None
    dtype: DTypeLike
    mean_center: bool
    weights: Sequence[float] | None


@dataclass(frozen=True)
class EnsembleStatistics:
    """The statistics of samples, which are computed here, or which the user gives in place of samples.

    Parameters
    ----------
    samples : Samples
        Samples, or statistics of samples.
    options : StatisticsOptions
        What to compute.
    correlation : Correlation or None
        Computes the statistics. None if the samples are statistics already.
    """

    samples: Samples
    options: StatisticsOptions
    correlation: Correlation | None

    @classmethod
    def of(cls, samples: Samples, options: StatisticsOptions, *, are_given: bool) -> EnsembleStatistics:
        """Check the options, and raise the errors of `correlate`."""
        if are_given:
            return cls(samples, options, None)
        # Preparing features takes copies of the statistics in the same task.
        copies = 1 + options.mean_center + (options.weights is not None)
        return cls(
            samples,
            options,
            Correlation.of(samples, options.correlations, options.cutoff, options.dtype, copies=copies),
        )

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def grid(self) -> Grid:
        """Geometry of the samples."""
        return self.samples.grid

    @property
    def index(self) -> pd.Index | None:
        """Labels of the samples, or None if they have none."""
        return self.samples.index

    @cached_property
    def values(self) -> Any:
        """Statistics, shape (n_samples, *lags, n_pairs). They are lazy for lazy samples."""
        if self.correlation is None:
            return self.samples.data
        if self._known is None:
            return self.correlation.compute()
        return recalled((self._known, "statistics"), self.correlation.compute).copy()

    @cached_property
    def _known(self) -> Hashable:
        """What the statistics are made of, if they are in memory and can be kept for later calls."""
        samples = self.samples
        arrays = [array for array in (samples.data, samples.confidence) if array is not None]
        n_bytes = sum(array.nbytes for array in arrays) + len(self) * self.map.n_features * self.map.dtype.itemsize
        if samples.is_lazy or n_bytes > cache_limit() or is_trial_of_dask_ml():
            return None
        return RECENT.number_of(*map(np.asarray, arrays)), token_of(
            self.correlation and self.correlation.kernel, fft_library()
        )

    @cached_property
    def map(self) -> FeatureMap:
        """How the statistics of a sample stand in a row of features."""
        if self.correlation is None:
            return FeatureMap(tuple(map(int, self.values.shape[1:])), self.values.dtype, self.options.weights)
        return FeatureMap(self.correlation.shape, self.correlation.kernel.result_dtype, self.options.weights)

    def features(self, reducer: Any, watched: FeatureChannel | None = None) -> Any:
        """Make rows for a reducer, shape (n_samples, n_features)."""
        return self.map.rows(
            self.values,
            may_have_gaps=self._fills_gaps(reducer),
            mean_center=self.options.mean_center,
            dtype=np.dtype(self.options.dtype),
            watched=watched,
            rounding=self._rounding(reducer),
        )

    @staticmethod
    def _fills_gaps(reducer: Any) -> bool:
        return isinstance(reducer, PCA) and reducer.solver in ("auto", "gram")

    def _rounding(self, reducer: Any) -> float | None:
        if not takes_no_negatives(reducer):
            return None
        # Statistics that the user gives may be those of any basis. Their mean makes parts of all negative.
        sign = False if self.options.mean_center else self.samples.basis.is_non_negative
        return rounding_of(self.map.dtype, is_non_negative=sign)

    def reduce(
        self, reducer: Any, y: Array | None, *, scratch: Url | None = None, watch: Watch = False, resume: bool = False
    ) -> tuple[Any, Array]:
        """Fit a reducer.

        Parameters
        ----------
        reducer : transformer
            The reducer. It is fitted in place.
        y : ndarray or None
            Targets for a supervised reducer.
        scratch : str or path, optional
            Folder that keeps lazy statistics if they are read more than once.
        watch : bool, path or callable
            Where to show partial results.
        resume : bool
            Whether to continue with the statistics that an earlier call left in `scratch`.

        Returns
        -------
        reducer : transformer
            The fitted reducer.
        scores : ndarray, shape (n_samples, n_components)
            Scores of the samples.
        """
        if self.samples.is_lazy and isinstance(reducer, PCA):
            # Refuse what does not fit before anything is computed.
            self.plan("fit", reducer, Limit.of())
        lags = self.map.shape[:-1]
        plane = Plane.of(lags, self.grid.axes)
        with watching(watch, plane, len(self), "samples") as watcher:
            watched = None
            if watcher is not None:
                watched = FeatureChannel.of(watcher.channel, plane, self.map.shape, is_complex=self.map.is_complex)
            features = self.features(reducer, watched)
            name = self._name(reducer) if resume and is_lazy(features) else None
            known = self._known and (self._known, token_of(self.options))
            scores = fit_scores(reducer, features, y, scratch=scratch, resume=name, known=known)
            if watcher is not None:
                mean = None if self.options.mean_center else getattr(reducer, "mean_", None)
                watcher.finish(None if mean is None else self.map.unflatten(mean[None])[0], scores)
        return reducer, scores

    def _name(self, reducer: Any) -> str:
        """Name lazy features by what they are made of.

        The name depends neither on a watcher nor on the size of workers, so that a later call finds the same features.
        """
        samples, correlation = self.samples, self.correlation
        made_of = (samples.data, samples.confidence, correlation and correlation.kernel, self.options, self.map)
        return token_of(*made_of, self._fills_gaps(reducer), self._rounding(reducer), fft_library())

    def scores(self, reducer: Any, *, n_components: int, dtype: np.dtype[Any]) -> Any:
        """Compute the scores by a fitted reducer, shape (n_samples, n_components), lazily for lazy samples."""
        return scores_of(reducer, self.features(reducer), n_components=n_components, dtype=dtype)

    def plan(self, name: str, reducer: Any, limit: Limit) -> Plan:
        """Plan `reduce` within a limit of memory."""
        # Features of samples in memory are not computed for a plan: one number stands for all.
        shape, dtype = (len(self), self.map.n_features), np.empty(0, self.map.dtype).real.dtype
        is_stored = not is_lazy(self.samples.data)
        features = np.broadcast_to(np.zeros((), dtype), shape) if is_stored else self.features(reducer)
        stage, layout = None, {"samples": features.shape[0], "features": features.shape[1]}
        if self.correlation is not None:
            stage = self.correlation.work.stage(self.samples.data, limit)
            layout = chunk_layout(self.samples.data, stage) | {"statistics": self.map.shape}
        if not isinstance(reducer, PCA):
            return Plan(name, layout, () if stage is None else (stage,), limit, (f"{reducer!r} is not planned.",))
        stages, of_reducer = stages_of_pca(reducer, features, limit, stage)
        result_bytes = result_bytes_of(features.shape, reducer.n_components, features.dtype.itemsize)
        return Plan(name, layout | of_reducer, stages, limit, result_bytes=result_bytes)
