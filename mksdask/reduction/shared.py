"""Statistics that are computed once for many fits: grid search, random search, cross-validation, learning curves.

The scores of an ensemble on all its principal components are its statistics in rotated coordinates. PCA of some rows of
these scores is therefore PCA of the statistics of these samples, and works on a matrix with no more columns than the
ensemble has samples. A PCA with all components contains those with fewer components, so one PCA for each fold serves
all candidates of a search.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.base import clone

from mksdask.arrays import Array, ArrayLike
from mksdask.compute.graph import token_of
from mksdask.compute.operation import Operation, operation
from mksdask.compute.plans import Limit, Plan
from mksdask.compute.recent import recalled
from mksdask.compute.watching import Watch
from mksdask.reduction.fit import Fit
from mksdask.reduction.pca import PCA
from mksdask.reduction.reducers import fit_scores, takes_no_negatives
from mksdask.reduction.spectrum import number_that_holds
from mksdask.samples import Grid
from mksdask.schema.arguments import checked
from mksdask.stats.features import FeatureMap, rounding_of, without_negatives
from mksdask.storage.atomic import Url

# Directions with a smaller share of the largest variance are rounding of the statistics.
_ROUNDING = {"f": 1e-14, "d": 1e-28}


@dataclass(frozen=True)
class Statistics:
    """The geometry and features of shared statistics, and the parameters of the model that made them."""

    parameters: dict[str, Any]
    grid: Grid
    map: FeatureMap

    def check(self, parameters: dict[str, Any], periodic_axes: Any) -> None:
        """Refuse a model that would compute other statistics.

        Raises
        ------
        ValueError
            If a parameter differs. The message names it.
        """
        for name, value in parameters.items():
            if token_of(_canonical(value)) != token_of(_canonical(self.parameters[name])):
                msg = (
                    f"X shares statistics of {name}={self.parameters[name]!r}, but the model has {name}={value!r}; "
                    f"call share of a model with that {name}, or leave {name} out of the search"
                )
                raise ValueError(msg)
        shared = self.grid.periodic_axes
        if periodic_axes is not None and set(np.atleast_1d(periodic_axes)) != set(shared):
            msg = (
                f"X shares statistics of periodic_axes={shared!r}, but the model has {periodic_axes!r}; call share of "
                "a model with these periodic_axes"
            )
            raise ValueError(msg)


def _canonical(value: Any) -> Any:
    return tuple(map(_canonical, value)) if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class _Ensemble:
    """What all rows of shared statistics have in common."""

    uid: str
    statistics: Statistics
    reducer: PCA
    scores: Array
    index: pd.Index | None


class SharedStatistics:
    """Statistics of samples that are computed once. They take the place of X in `fit`, `transform`, `predict`, `score`.

    `MKSStructureAnalysis.share` makes them. They are indexed by rows, as an array is, which copies nothing. The model
    selection of scikit-learn and dask-ml splits them in this way.

    Attributes
    ----------
    shape : tuple of int
        (n_samples, n_directions). The directions are all those in which the ensemble varies, or as many as `share` was
        told to keep.
    dtype : dtype
        float64.

    Notes
    -----
    The scores take 8 bytes each. The components of all directions are kept too. PCAs of folds are kept up to
    ``mksdask.cache-limit`` bytes of dask's configuration (512 MiB), and the least recently used are dropped first. Each
    process keeps its own.
    """

    ndim = 2
    dtype = np.dtype(np.float64)

    def __init__(self, ensemble: _Ensemble, rows: Array) -> None:
        self._ensemble, self._rows = ensemble, rows

    @classmethod
    def of(cls, statistics: Statistics, reducer: PCA, scores: Array, index: pd.Index | None = None) -> Self:
        """Make shared statistics from the PCA of an ensemble, its scores, and the labels of its samples."""
        rounding = _ROUNDING[reducer.components_.dtype.char] * len(scores)
        kept = max(1, int(np.count_nonzero(reducer.explained_variance_ > rounding * reducer.explained_variance_[0])))
        for name in ("components_", "singular_values_", "explained_variance_", "explained_variance_ratio_"):
            setattr(reducer, name, getattr(reducer, name)[:kept])
        reducer.n_components_ = kept
        scores = scores[:, :kept].astype(np.float64)
        return cls(_Ensemble(uuid.uuid4().hex, statistics, reducer, scores, index), np.arange(len(scores)))

    @property
    def shape(self) -> tuple[int, int]:
        """(n_samples, n_directions)."""
        return len(self._rows), self._ensemble.scores.shape[1]

    @property
    def index(self) -> pd.Index | None:
        """Labels of the samples, or None if they have none."""
        index = self._ensemble.index
        return None if index is None else index[self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> SharedStatistics:
        rows = index[0] if isinstance(index, tuple) and index[1:] in ((Ellipsis,), (slice(None),)) else index
        if isinstance(rows, tuple):
            msg = f"shared statistics are indexed by samples alone, got {index!r}; use one index, such as X[:10]"
            raise IndexError(msg)
        return SharedStatistics(self._ensemble, np.atleast_1d(self._rows[rows]))

    def __repr__(self) -> str:
        statistics = f"{self.map.shape} {self.map.dtype}"
        return f"<SharedStatistics of {len(self)} samples, {self.shape[1]} directions of {statistics}>"

    def __dask_tokenize__(self) -> tuple[str, str]:
        return self._key

    @cached_property
    def _key(self) -> tuple[str, str]:
        return self._ensemble.uid, hashlib.blake2b(self._rows.tobytes()).hexdigest()

    @property
    def grid(self) -> Grid:
        """Geometry of the samples."""
        return self._ensemble.statistics.grid

    @property
    def map(self) -> FeatureMap:
        """How the statistics of a sample stand in a row of features."""
        return self._ensemble.statistics.map

    @property
    def values(self) -> Array:
        """Statistics, shape (n_samples, *lags, n_pairs)."""
        return np.asarray(self.map.unflatten(self.features()))

    def check(self, parameters: dict[str, Any], periodic_axes: Any) -> None:
        """Refuse a model that would compute other statistics.

        Raises
        ------
        ValueError
            If a parameter differs. The message names it.
        """
        self._ensemble.statistics.check(parameters, periodic_axes)

    def features(self) -> Array:
        """Compute the features: the statistics, with one sample in each row."""
        rows = self._ensemble.scores[self._rows].astype(self._ensemble.reducer.components_.dtype)
        return np.asarray(self._ensemble.reducer.inverse_transform(rows))

    def reduce(
        self, reducer: Any, y: Array | None, *, scratch: Url | None = None, watch: Watch = False, resume: bool = False
    ) -> tuple[Any, Array]:
        """Fit a reducer to these samples, and return it with their scores. See `EnsembleStatistics.reduce`.

        `scratch`, `watch` and `resume` have no effect, because the statistics are already computed.
        """
        if type(reducer) is PCA and reducer.solver in ("auto", "gram"):
            scores = self._ensemble.scores[self._rows]
            fitted = RotatedPCA.of(reducer, self._ensemble, recalled(self._key, lambda: PCA(solver="gram").fit(scores)))
            return fitted, fitted.rotate(scores)
        return reducer, fit_scores(reducer, self._features_for(reducer), y)

    def plan(self, name: str, reducer: Any, limit: Limit) -> Plan:
        """Refuse to plan, because the statistics are in memory.

        Raises
        ------
        TypeError
            In any case.
        """
        msg = f"X is shared statistics, which are in memory, and {name} takes no more; plan share instead"
        raise TypeError(msg)

    def scores(self, reducer: Any, *, n_components: int = 0, dtype: Any = None) -> Array:
        """Compute the scores of these samples by a fitted reducer."""
        if isinstance(reducer, RotatedPCA) and reducer.is_of(self._ensemble):
            return reducer.rotate(self._ensemble.scores[self._rows])
        return np.asarray(reducer.transform(self._features_for(reducer)))

    def _features_for(self, reducer: Any) -> Array:
        """Compute the features. They are not negative if the reducer takes no negative numbers."""
        if not takes_no_negatives(reducer):
            return self.features()
        parameters = self._ensemble.statistics.parameters
        basis = parameters["basis"] if parameters["compute_correlations"] else None
        sign = False if parameters["mean_center"] else None if basis is None else basis.is_non_negative
        features = self.features()
        return without_negatives(features, rounding_of(features.dtype, is_non_negative=sign))


class RotatedPCA(PCA):
    """PCA of samples whose statistics are shared. It computes components only when they are used.

    It equals `PCA` fitted to the statistics, up to the signs of components.
    """

    _ensemble: _Ensemble | None
    # It is saved, and read again, as a PCA.
    _saved = PCA._saved

    @classmethod
    def of(cls, reducer: PCA, ensemble: _Ensemble, rotation: PCA) -> Self:
        """Take the leading components of a PCA of scores.

        Parameters
        ----------
        reducer : PCA
            Its parameters say how many components to take.
        ensemble : _Ensemble
            The ensemble whose scores were reduced.
        rotation : PCA
            The PCA of its scores, with all components.

        Raises
        ------
        ValueError
            If there are fewer components than the reducer needs.
        """
        wanted, most = reducer.n_components, rotation.n_components_
        if isinstance(wanted, float | np.floating) and 0 < wanted < 1:
            k = number_that_holds(float(wanted), rotation.explained_variance_)
        elif wanted is None or (
            isinstance(wanted, int | np.integer) and not isinstance(wanted, bool) and 1 <= wanted <= most
        ):
            k = most if wanted is None else int(wanted)
        else:
            msg = (
                f"n_components={wanted!r} must be an integer between 1 and {most}, or a fraction of the variance "
                f"between 0 and 1, because {rotation.n_samples_} samples vary in {most} of the shared directions"
            )
            raise ValueError(msg)
        found = cls(**reducer.get_params())
        total = float(rotation.explained_variance_.sum()) * max(1, rotation.n_samples_ - 1)
        shape = (rotation.n_samples_, ensemble.reducer.n_features_in_)
        found._set_spectrum(rotation.singular_values_[:k] ** 2, total, shape)
        found.n_samples_, found.n_iter_, found.solver_ = rotation.n_samples_, 0, "gram"
        found._ensemble, found._rotation, found._centre = ensemble, rotation.components_[:k], rotation.mean_
        return found

    def is_of(self, ensemble: _Ensemble) -> bool:
        """Whether this is a PCA of scores of that ensemble, so that `rotate` takes them."""
        return self._ensemble is not None and self._ensemble.uid == ensemble.uid

    def rotate(self, scores: Array) -> Array:
        """Compute the scores on these components from the shared scores."""
        assert self._ensemble is not None
        turned = (scores - self._centre) @ self._rotation.T / self._scale()
        return np.asarray(turned.astype(self._ensemble.reducer.components_.dtype))

    @cached_property
    def components_(self) -> Array:  # type: ignore[override]
        """Components of the statistics."""
        assert self._ensemble is not None
        components = self._ensemble.reducer.components_
        return np.asarray(self._rotation.astype(components.dtype) @ components)

    @cached_property
    def mean_(self) -> Array:  # type: ignore[override]
        """Mean of the statistics."""
        assert self._ensemble is not None
        reducer = self._ensemble.reducer
        return np.asarray(self._centre @ reducer.components_ + reducer.mean_)

    def __getstate__(self) -> dict[str, Any]:
        # The pickled state holds the components and the mean, and so does without the ensemble.
        assert self.components_ is not None
        assert self.mean_ is not None
        state: dict[str, Any] = super().__getstate__()
        return state | {"_ensemble": None, "_rotation": None}


@dataclass(frozen=True)
class _Share(Fit):
    """The checked arguments of `share`."""

    parameters: Any = None

    def run(self) -> SharedStatistics:
        model = super().run()
        reducer = model.dimension_reducer_
        if reducer.n_iter_:
            msg = (
                "X has statistics with NaN: some lags are observed in some samples only, and the values that fill them "
                "depend on the fold. Set cutoff to leave out the largest lags"
            )
            raise ValueError(msg)
        statistics = Statistics(self.parameters, model.grid_, self.statistics.map)
        return SharedStatistics.of(statistics, reducer, model.reduced_fit_data, self.statistics.index)


class SharingMixin:
    """Adds `share` to a structure analysis."""

    @operation
    @checked
    def share(
        self: Any,
        X: ArrayLike,
        size: Sequence[int] | None = None,
        confidence_index: ArrayLike | None = None,
        *,
        n_components: int | None = None,
        watch: Watch = False,
        resume: bool = False,
    ) -> Operation[SharedStatistics]:
        """Compute statistics once for many fits. The result takes the place of X.

        Grid search, random search, cross-validation and learning curves split the result. Statistics are then computed
        only here, and a PCA once for each set of training samples, for any `n_components` and linker. Each PCA is of
        the training samples alone, so that nothing leaks from the fold that is left out.

        Parameters
        ----------
        X : array, shape (n_samples, *spatial), or (n_samples, n_voxels) with `size`
            Local state of each voxel.
        size : tuple of int, optional
            Spatial shape of flat samples.
        confidence_index : array, shape (n_samples, *spatial), flat, or (*spatial,), optional
            Confidence in each voxel.
        n_components : int, optional
            Number of directions of the ensemble to keep. Default: all, which loses nothing, and takes the memory of as
            many rows of statistics as there are samples.
        watch, resume
            As in `fit`.

        Returns
        -------
        SharedStatistics
            Statistics for this model, and for models that differ from it only in `n_components`, `dimension_reducer`
            and linker.

        Raises
        ------
        ValueError
            If some lags are observed in some samples only, because the values that fill them depend on the fold.

        Examples
        --------
        >>> from sklearn.model_selection import GridSearchCV
        >>> from mksdask import MKSHomogenizationModel, PrimitiveBasis
        >>> from mksdask.datasets.responses import make_elastic_stiffness
        >>> X, y = make_elastic_stiffness(n_samples=(30, 30), grain_size=((3, 3), (9, 9)))
        >>> model = MKSHomogenizationModel(PrimitiveBasis(2), periodic_axes=[0, 1])
        >>> search = GridSearchCV(model, {"n_components": [2, 4, 8], "degree": [1, 2]}, cv=3)
        >>> bool(search.fit(model.share(X), y).best_score_ > 0.99)
        True
        >>> search.predict(X).shape
        (60,)
        """
        reducer = PCA(n_components, solver="gram" if n_components is None else "auto", scratch=self.scratch)
        model = clone(self, safe=False).set_params(
            dimension_reducer=reducer, n_components=None, store_correlations=False
        )
        statistics = model._statistics(X, size, confidence_index, resume=resume)
        return _Share(model, statistics, None, watch, resume, "share", self._parameters())
