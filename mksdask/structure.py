"""MKSStructureAnalysis: microstructures → 2-point statistics → scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from mksdask.arrays import Array, ArrayLike, is_lazy, to_numpy, unwrap
from mksdask.bases.base import Basis
from mksdask.compute.operation import Operation, operation
from mksdask.compute.watching import Watch
from mksdask.display.cards import WithCard, card, centre_of, picture, points
from mksdask.reduction.ensemble import EnsembleStatistics, Reducible, StatisticsOptions
from mksdask.reduction.fit import Fit, FitTransform, label_scores
from mksdask.reduction.nearest import NearestMixin
from mksdask.reduction.pca import PCA
from mksdask.reduction.projection import Projection, variance_facts, variance_picture
from mksdask.reduction.reducers import require_methods, set_parameter
from mksdask.reduction.shared import SharedStatistics, SharingMixin
from mksdask.samples import Grid, Samples
from mksdask.schema import (
    FLAG,
    NOTHING,
    NUMBERS,
    ArrayOf,
    Choice,
    Dtype,
    Listed,
    Number,
    Part,
    Record,
    Saved,
    Whole,
    agree,
)
from mksdask.stats.features import FeatureMap
from mksdask.stats.pairs import Pairs, resolve_pairs
from mksdask.storage.atomic import Url

DEFAULT_COMPONENTS = 5
# Components that a card draws.
MOST_DRAWN = 3
# One spatial axis, or some.
AXES = Whole(0, 2) | Listed(Whole(0, 2))


class MKSStructureAnalysis(
    SharingMixin, NearestMixin, WithCard, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator
):
    r"""2-point statistics of an ensemble, reduced to a few scores a sample.

    .. math:: f_j[k] \approx \sum_{k'} \mu_j[k']\, \varphi[k', k] + \bar f[k]

    Parameters
    ----------
    basis : Basis or None
        Basis of the local state; None if X already is m[h; s].
    dimension_reducer : transformer, optional
        Anything with `fit_transform` and `transform`. Default `mksdask.reduction.PCA`, which is out of core. For
        lazy X, one from dask-ml, or with `partial_fit`.
    n_components : int, optional
        Number of components, set on a clone of the reducer by `fit`. Default: 5 for the default reducer, whatever
        a reducer of your own says otherwise.
    periodic_axes, correlations, cutoff, dtype
        As in `mksdask.stats.correlate`.
    compute_correlations : bool, default True
        False if X already holds statistics, (n_samples, *lags, n_pairs).
    store_correlations : bool, default False
        Keep the statistics of the last `fit` and `transform`, as `fit_correlations` and `transform_correlations`:
        in memory for X in memory, as a lazy array for lazy X, which computes them anew.
    mean_center : bool, default False
        Take each sample's own mean off its statistics. For one periodic pair that mean is the squared volume
        fraction, and what follows is blind to it.
    weights : sequence of float, optional
        A positive weight for each pair of correlations, that its statistics are multiplied by before they are reduced.
        Default: all alike.
    scratch : str or path, optional
        Where statistics of lazy X that are read twice are kept meanwhile; see `mksdask.reduction.PCA`.

    Attributes
    ----------
    reduced_fit_data : ndarray, shape (n_samples, n_components)
        Scores μ of the samples seen by `fit`.
    components_ : ndarray, shape (n_components, *lags, n_pairs)
        Components φ as maps of the lag. With `weights`, w φ are orthonormal.
    dimension_reducer_ : transformer
        The fitted reducer.
    grid_ : Grid
        Geometry of the samples seen by `fit`. Later samples are compared with it: other phases are refused, other voxel
        sizes, units or periodic axes are warned of.
    size_, periodic_axes_, phases_
        Of `grid_`: spatial shape of a sample, which flat X of later calls has; numbers of the periodic axes; names of
        the phases.

    Notes
    -----
    `fit` on lazy X computes three times with the default reducer: statistics to scratch, Gram matrix, components; or
    twice, moments and scores, where there are no more features than samples. `transform` computes nothing.

    Lags that a mask leaves unobserved in some samples are missing values, which `mksdask.reduction.PCA` fills (solvers
    "auto" and "gram"); other reducers refuse them. One that is observed in no sample is refused.

    References
    ----------
    Niezgoda, S. R., Kanjarla, A. K., Kalidindi, S. R. Novel microstructure quantification framework for
    databasing, visualization, and analysis of microstructure data. Integr. Mater. Manuf. Innov. 2 (2013) 3.

    Examples
    --------
    >>> from mksdask import PrimitiveBasis
    >>> from mksdask.datasets import make_microstructure
    >>> X = make_microstructure(n_samples=12, size=(13, 13), grain_size=(3, 3))
    >>> analysis = MKSStructureAnalysis(PrimitiveBasis(2), n_components=3, periodic_axes=[0, 1])
    >>> analysis.fit_transform(X).shape, analysis.components_.shape
    ((12, 3), (3, 13, 13, 2))
    """

    _saved = Saved(
        {
            "basis": Part(Basis) | NOTHING,
            "dimension_reducer": Part(Projection, Pipeline) | NOTHING,
            "n_components": Whole() | Number() | NOTHING,
            "periodic_axes": AXES | NOTHING,
            "correlations": Listed(Record(Whole(), Whole())) | NOTHING,
            "compute_correlations": FLAG,
            "store_correlations": FLAG,
            "mean_center": FLAG,
            "weights": Listed(Number()) | NOTHING,
            "cutoff": Whole(0) | Listed(Whole(0), 1, 3) | NOTHING,
            "dtype": Choice("float32", "float64") | Dtype("f4 f8"),
        },
        fitted={
            "dimension_reducer_": Part(Projection, Pipeline, fitted=True),
            "reduced_fit_data": ArrayOf("f4 f8", "n_samples", "n_components"),
            "grid_": Part(Grid),
            "_statistics_shape": Listed(Whole(1, sized=True), 2, 4),
            "_statistics_dtype": Dtype(NUMBERS),
        },
        is_model=True,
    )

    def __init__(
        self,
        basis: Basis | None = None,
        *,
        dimension_reducer: Any = None,
        n_components: int | None = None,
        periodic_axes: int | Sequence[int] | None = None,
        correlations: Pairs | None = None,
        compute_correlations: bool = True,
        store_correlations: bool = False,
        mean_center: bool = False,
        weights: Sequence[float] | None = None,
        cutoff: int | Sequence[int] | None = None,
        dtype: DTypeLike = "float32",
        scratch: Url | None = None,
    ) -> None:
        self.basis = basis
        self.dimension_reducer = dimension_reducer
        self.n_components = n_components
        self.periodic_axes = periodic_axes
        self.correlations = correlations
        self.compute_correlations = compute_correlations
        self.store_correlations = store_correlations
        self.mean_center = mean_center
        self.weights = weights
        self.cutoff = cutoff
        self.dtype = dtype
        self.scratch = scratch

    @operation
    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        size: Sequence[int] | None = None,
        confidence_index: ArrayLike | None = None,
        *,
        watch: Watch = False,
        resume: bool = False,
    ) -> Operation[Self]:
        """Compute statistics and fit the reducer.

        Parameters
        ----------
        X : array, shape (n_samples, *spatial), or (n_samples, n_voxels) with `size`
            Local state of each voxel; NumPy, dask, zarr or xarray; or what `share` returned.
        y : array, optional
            Handed to the reducer, for supervised ones.
        size : tuple of int, optional
            Spatial shape of flat samples.
        confidence_index : array, shape (n_samples, *spatial), flat, or (*spatial,), optional
            Confidence in each voxel.
        watch : bool, path or callable, default False
            Show the mean statistics of the first pair and the scores of some samples while the run goes on, of what is
            done so far: True in the cell of a notebook, or a line in a terminal; in a picture such as "live.png"; or by
            calling a function with a `mksdask.PartialResult`, about once a second.
        resume : bool, default False
            Of lazy X, keep the statistics that are in `scratch` when the call is killed or fails, and go on with those
            that an earlier call for the same samples left there. One such call at a time.

        Raises
        ------
        TypeError
            If the reducer lacks a method, or would load lazy X whole.
        ValueError
            If shapes do not fit, or a lag is observed by no pair of voxels; or if `resume` has no `scratch`.
        """
        return Fit(self, self._statistics(X, size, confidence_index, resume=resume), _target(y), watch, resume)

    @operation
    def fit_transform(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        size: Sequence[int] | None = None,
        confidence_index: ArrayLike | None = None,
        *,
        watch: Watch = False,
        resume: bool = False,
    ) -> Operation[Any]:
        """`fit`, and the scores of the same samples.

        Parameters
        ----------
        X, y, size, confidence_index, watch, resume
            As in `fit`.

        Returns
        -------
        array of the kind of `X`, shape (n_samples, n_components)
            `reduced_fit_data`, which is in memory already.
        """
        statistics = self._statistics(X, size, confidence_index, resume=resume)
        return FitTransform(self, statistics, _target(y), watch, resume, "fit_transform", X)

    def _fit(self, statistics: Reducible, y: Array | None, *, watch: Watch, resume: bool) -> None:
        """Reduce statistics, and remember what they were."""
        if self.store_correlations:
            self.fit_correlations = statistics.values
        self.dimension_reducer_, self.reduced_fit_data = statistics.reduce(
            self._reducer(statistics), y, scratch=self.scratch, watch=watch, resume=resume
        )
        self.grid_, found = statistics.grid, statistics.map
        self._statistics_shape, self._statistics_dtype = found.shape, found.dtype

    def _statistics(
        self,
        X: ArrayLike,
        size: Sequence[int] | None,
        confidence_index: ArrayLike | None,
        *,
        like: Grid | None = None,
        resume: bool = False,
    ) -> Reducible:
        """The statistics that are reduced: of samples, or shared ones; `like` is the grid of `fit`."""
        if resume and self.scratch is None:
            msg = "resume keeps statistics in scratch; give the model scratch=, a folder that all workers reach"
            raise ValueError(msg)
        if like is None:
            self._check_arguments()
        if isinstance(X, SharedStatistics):
            if size is not None or confidence_index is not None or self.store_correlations:
                msg = (
                    "X is shared statistics; size and confidence_index go to share, and store_correlations must be "
                    "False"
                )
                raise ValueError(msg)
            X.check(self._parameters(), self.periodic_axes)
            return X
        samples = Samples.of(
            X,
            self.basis if self.compute_correlations else None,
            size=size,
            confidence_index=confidence_index if self.compute_correlations else None,
            periodic_axes=self.periodic_axes if like is None else None,
            like=like,
        )
        options = StatisticsOptions(self.correlations, self.cutoff, self.dtype, self.mean_center, self.weights)
        return EnsembleStatistics.of(samples.require(like is None), options, are_given=not self.compute_correlations)

    def transform(
        self, X: ArrayLike, size: Sequence[int] | None = None, confidence_index: ArrayLike | None = None
    ) -> Any:
        """Scores of samples, lazily for lazy input.

        Parameters
        ----------
        X : array, shape (n_samples, *spatial) or flat
            Local state of each voxel.
        size : tuple of int, optional
            Spatial shape of flat samples; default that of `fit`.
        confidence_index : array, shape (n_samples, *spatial), flat, or (*spatial,), optional
            Confidence in each voxel.

        Returns
        -------
        array of the kind of `X`, shape (n_samples, n_components)
        """
        check_is_fitted(self, "dimension_reducer_")
        statistics = self._statistics(X, size, confidence_index, like=self.grid_)
        if statistics.map.shape != self._statistics_shape:
            msg = (
                f"X gives statistics of shape {statistics.map.shape} a sample, fit saw {self._statistics_shape}; use "
                f"samples of size={self.size_}, or a cutoff that fits both"
            )
            raise ValueError(msg)
        if self.store_correlations:
            self.transform_correlations = statistics.values
        fitted = self.reduced_fit_data
        scores = statistics.scores(self.dimension_reducer_, n_components=fitted.shape[1], dtype=fitted.dtype)
        return label_scores(scores, X)

    def inverse_transform(self, X: ArrayLike) -> Any:
        """2-point statistics that belong to scores (Eq. 2).

        Parameters
        ----------
        X : array, shape (n_samples, n_components)
            Scores.

        Returns
        -------
        array of the kind of `X`, shape (n_samples, *lags, n_pairs)
            With `mean_center`, but for each sample's own mean, which the scores do not know.
        """
        check_is_fitted(self, "dimension_reducer_")
        require_methods(self.dimension_reducer_, ["inverse_transform"], "dimension_reducer")
        scores, _ = unwrap(X, name="scores")
        rows = self.dimension_reducer_.inverse_transform(scores)
        return self._map.unflatten(rows)

    @property
    def size_(self) -> tuple[int, ...]:
        """Spatial shape of the samples seen by `fit`."""
        return self.grid_.shape

    @property
    def periodic_axes_(self) -> list[int]:
        """Periodic axes of the samples seen by `fit`."""
        return self.grid_.periodic_axes

    @property
    def phases_(self) -> tuple[str, ...]:
        """Names of the phases of the samples seen by `fit`."""
        return self.grid_.phases

    @property
    def _n_features_out(self) -> int:
        return int(self.reduced_fit_data.shape[1])

    def _card(self) -> str:
        n_axes = len(self._statistics_shape) - 1
        scores = self.reduced_fit_data
        title = f"{type(self).__name__}: {len(scores)} samples, {scores.shape[1]} components"
        pictures = []
        if hasattr(self.dimension_reducer_, "explained_variance_ratio_"):
            pictures.append(variance_picture(self.dimension_reducer_))
        if scores.shape[1] > 1:
            pictures.append(points(scores[:, :2], "scores μ₁, μ₂"))
        if hasattr(self.dimension_reducer_, "components_") and 1 <= n_axes <= 3:
            components = np.real(self._map.unflatten(np.asarray(self.dimension_reducer_.components_[:MOST_DRAWN])))
            pictures += [
                picture(centre_of(component[..., 0], n_axes), f"φ{number}, first pair", diverging=True)
                for number, component in enumerate(components, 1)
            ]
        return card(title, self._facts() | variance_facts(self.dimension_reducer_), pictures)

    def _facts(self) -> dict[str, Any]:
        *lags, n_pairs = self._statistics_shape
        return {"size": self.size_, "lags": tuple(lags), "pairs": n_pairs, "reducer": repr(self.dimension_reducer_)}

    def _restored(self, most: int) -> None:
        n_features = math.prod(self._statistics_shape) * (2 if self._statistics_dtype.kind == "c" else 1)
        agree("the number of features of dimension_reducer_", self.dimension_reducer_.n_features_in_, n_features)
        if self.compute_correlations and self.basis is not None:
            pairs = resolve_pairs(self.correlations, self.basis)
            agree("the number of pairs", len(pairs), self._statistics_shape[-1])
        scores = self.dimension_reducer_.transform(np.zeros((1, n_features), self.reduced_fit_data.dtype))
        agree("the number of components of reduced_fit_data", self.reduced_fit_data.shape[1], scores.shape[1])

    def __getstate__(self) -> dict[str, Any]:
        # A lazy attribute would take its whole graph, data included, into the pickle.
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if not is_lazy(value)}

    @property
    def components_(self) -> Array:
        """Components φ, shape (n_components, *lags, n_pairs)."""
        check_is_fitted(self, "dimension_reducer_")
        return np.asarray(self._map.unflatten(np.asarray(self.dimension_reducer_.components_)))

    @property
    def _map(self) -> FeatureMap:
        """How the statistics seen by `fit` stand in a row."""
        return FeatureMap(self._statistics_shape, self._statistics_dtype, self.weights)

    def _parameters(self) -> dict[str, Any]:
        """The parameters that say what the statistics are."""
        names = ("basis", "correlations", "compute_correlations", "mean_center", "weights", "cutoff")
        return {name: getattr(self, name) for name in names} | {"dtype": np.dtype(self.dtype)}

    def _check_arguments(self) -> None:
        if self.dimension_reducer is not None:
            require_methods(self.dimension_reducer, ["fit_transform", "transform"], "dimension_reducer")

    def _reducer(self, statistics: Reducible) -> Any:
        """A reducer to fit."""
        if self.dimension_reducer is None:
            most = min(DEFAULT_COMPONENTS, len(statistics), statistics.map.n_features)
            return PCA(most if self.n_components is None else self.n_components, scratch=self.scratch)
        reducer = clone(self.dimension_reducer, safe=False)
        if self.n_components is not None:
            set_parameter(reducer, "n_components", self.n_components, "dimension_reducer")
        return reducer


def _target(y: ArrayLike | None) -> Array | None:
    return None if y is None else to_numpy(y)
