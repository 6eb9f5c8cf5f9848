"""MKSStructureAnalysis: from microstructures to 2-point statistics, and from these to scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import DTypeLike
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from mksdask.arrays import Array, ArrayLike, is_lazy, label, unwrap
from mksdask.bases.base import Basis
from mksdask.bases.given import GivenStates, trailing_axes
from mksdask.compute.operation import Operation, operation
from mksdask.compute.watching import Watch
from mksdask.display.cards import WithCard, card
from mksdask.labels import matched_values
from mksdask.reduction.ensemble import EnsembleStatistics, Reducible, StatisticsOptions
from mksdask.reduction.fit import Fit, FitTransform
from mksdask.reduction.kept import KeptFeatures
from mksdask.reduction.nearest import NearestMixin
from mksdask.reduction.projection import Projection, label_scores, reduction_pictures, variance_facts
from mksdask.reduction.reducers import new_reducer, require_methods
from mksdask.reduction.shared import SharedStatistics, SharingMixin
from mksdask.samples import Grid, Samples
from mksdask.schema import FLAG, NOTHING, ArrayOf, Choice, Dtype, Listed, Number, Part, Record, Saved, Whole, agree
from mksdask.schema.arguments import checked
from mksdask.stats.features import FeatureMap
from mksdask.stats.lags import LagFFT
from mksdask.stats.pairs import Pairs, lag_labels, resolve_pairs
from mksdask.storage.atomic import Url

# One spatial axis, or several.
AXES = Whole(0, 2) | Listed(Whole(0, 2))


class MKSStructureAnalysis(
    SharingMixin, NearestMixin, WithCard, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator
):
    r"""Describe the microstructure of each sample by a few numbers, its scores, so that samples can be compared.

    The analysis computes the 2-point statistics f of each sample and reduces them to scores μ, by default with
    principal component analysis (PCA). Samples with similar statistics have similar scores. The components φ tell what
    a score means. For each sample j, and for each lag and pair k,

    .. math:: f_j[k] \approx \sum_{k'} \mu_j[k']\, \varphi[k', k] + \bar f[k]

    where f̄ is the mean of all samples (Eq. 2).

    Parameters
    ----------
    basis : Basis or None
        Basis of the local state. None if X already holds m[h; s]; see `mksdask.GivenStates`.
    dimension_reducer : transformer, optional
        Any object with `fit_transform` and `transform`. Lazy X needs one with `partial_fit`, or one from dask-ml. A
        reducer that takes no negative numbers, such as NMF, gets 0 for values that only rounding has made negative.
        Default: `mksdask.reduction.PCA`, which works out of core.
    n_components : int, optional
        Number of components, which `fit` sets on a clone of the reducer. Default: 5 for the default reducer. Any other
        reducer keeps its own number.
    periodic_axes, correlations, cutoff, dtype
        As in `mksdask.stats.correlate`.
    compute_correlations : bool, default True
        False if X already holds statistics, of shape (n_samples, *lags, n_pairs).
    store_correlations : bool, default False
        Keep the statistics of the last `fit` and `transform` as `fit_correlations` and `transform_correlations`. For
        lazy X they are lazy arrays, and each use computes the statistics again.
    mean_center : bool, default False
        Subtract from the statistics of each sample their own mean. With one periodic pair, this mean is the squared
        volume fraction, and the scores then hold no information about it.
    weights : sequence of float, optional
        A positive weight w for each pair, which multiplies its statistics before they are reduced. Default: all equal.
    scratch : str or path, optional
        Where the statistics of lazy X are kept while they are read twice; see `mksdask.reduction.PCA`.

    Attributes
    ----------
    reduced_fit_data : ndarray, shape (n_samples, n_components)
        Scores μ of the samples of `fit`.
    components_ : ndarray, shape (n_components, *lags, n_pairs)
        Components φ as maps of the lag. With `weights`, w φ are orthonormal.
    dimension_reducer_ : transformer
        The fitted reducer.
    grid_ : Grid
        Geometry of the samples of `fit`. Later samples are compared with it: samples with other phases are refused, and
        another voxel size, other units or other periodic axes give a warning.
    size_, periodic_axes_, phases_
        Parts of `grid_`: spatial shape, also of flat samples in later calls; periodic axes; names of the phases.

    Notes
    -----
    On lazy X, `fit` with the default reducer computes three times: statistics to scratch, Gram matrix, components. If
    there are no more features than samples, it computes twice: moments, scores. `transform` computes nothing.

    *Searches.* The statistics and eigenvectors of the last samples in memory are kept, so that `GridSearchCV` and the
    like compute them once for each fold and not for each candidate. A result is used again only for samples that equal
    a copy of those that gave it, under the same basis and options. Up to ``mksdask.cache-limit`` bytes (512 MiB) are
    kept, and those least recently used are dropped first; ``dask.config.set({"mksdask.cache-limit": 0})`` keeps
    nothing. Each process keeps its own: with ``n_jobs``, each worker of joblib computes the statistics of a fold once.
    Nothing is kept of lazy X. `share` computes statistics once for all folds and takes less memory.

    *dask-ml.* Its reducers take lazy X in chunks, but `dask_ml.decomposition.PCA` gathers all statistics in one task.
    Its splitters and `ParallelPostFit` take flat samples, with `size` in `fit`, and `train_test_split` takes a
    DataArray too. `ParallelPostFit` drops one axis of X and makes one column of predictions, so it takes neither images
    nor models of several properties. Models themselves are lazy for lazy X. The searches of dask-ml load lazy X, so
    give them the result of `share`.

    With a mask, some samples may not observe all lags. `mksdask.reduction.PCA` fills these missing values if its solver
    is "auto" or "gram". Other reducers refuse them. A lag that no sample observes is always refused.

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
            "dimension_reducer": Part(Projection, KeptFeatures, Pipeline) | NOTHING,
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
            "dimension_reducer_": Part(Projection, KeptFeatures, Pipeline, fitted=True),
            "reduced_fit_data": ArrayOf("f4 f8", "n_samples", "n_components"),
            "grid_": Part(Grid),
            "_map": Part(FeatureMap),
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
    @checked
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
        """Compute the statistics of samples and fit the reducer to them.

        Parameters
        ----------
        X : array, shape (n_samples, *spatial), or (n_samples, n_voxels) with `size`
            Local state of each voxel, as NumPy, dask, zarr or xarray; or the result of `share`.
        y : array, optional
            Targets for a supervised reducer. Samples of y and of `confidence_index` that have labels are put into the
            order of those of X, if X has labels too.
        size : tuple of int, optional
            Spatial shape of a sample. It is required for flat samples, and for samples with one axis, unless X
            is a DataArray with the dims ``sample`` and ``x``.
        confidence_index : array, shape (n_samples, *spatial), flat, or (*spatial,), optional
            Confidence in each voxel.
        watch : bool, path or callable, default False
            Show partial results during the run: the mean statistics of the first pair, and scores of some samples. True
            shows them in the cell of a notebook, or as a line in a terminal. A path such as "live.png" keeps a picture
            there. A function is called with a `mksdask.PartialResult`, about once a second.
        resume : bool, default False
            For lazy X. If the call fails or is killed, its statistics stay in `scratch`, and the next call for the same
            samples continues with them. Only one such call may run at a time, and a second one is refused.

        Raises
        ------
        TypeError
            If the reducer lacks a method, is a class, or would load lazy X whole, or if the basis is none.
        ValueError
            If shapes or the labels of samples do not fit, if no pair of voxels observes a lag, or if `resume` has no
            `scratch`.
        """
        statistics = self._statistics(X, size, confidence_index, resume=resume)
        return Fit(self, statistics, _target(y, statistics), watch, resume)

    @operation
    @checked
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
        """Do what `fit` does, and return the scores of the same samples.

        Parameters
        ----------
        X, y, size, confidence_index, watch, resume
            As in `fit`.

        Returns
        -------
        array of the kind of `X`, shape (n_samples, n_components)
            `reduced_fit_data`. Its values are in memory already.
        """
        statistics = self._statistics(X, size, confidence_index, resume=resume)
        return FitTransform(self, statistics, _target(y, statistics), watch, resume, "fit_transform", X)

    def _fit(self, statistics: Reducible, y: Array | None, *, watch: Watch, resume: bool) -> None:
        """Reduce statistics, and remember their grid and how they stand in a row of features."""
        if self.store_correlations:
            self.fit_correlations = statistics.values
        self.dimension_reducer_, self.reduced_fit_data = statistics.reduce(
            self._reducer(statistics), y, scratch=self.scratch, watch=watch, resume=resume
        )
        self.grid_, self._map = statistics.grid, statistics.map

    def _statistics(
        self,
        X: ArrayLike,
        size: Sequence[int] | None,
        confidence_index: ArrayLike | None,
        *,
        like: Grid | None = None,
        resume: bool = False,
    ) -> Reducible:
        """Prepare the statistics of samples, or take shared ones. `like` is the grid of `fit`, or None in `fit`."""
        if resume and self.scratch is None:
            msg = "resume keeps statistics in scratch; give the model scratch=, a folder that all workers reach"
            raise ValueError(msg)
        if like is None:
            self._check_arguments()
        if isinstance(X, SharedStatistics):
            if size is not None or confidence_index is not None or self.store_correlations:
                msg = "X is shared statistics; size and confidence_index go to share; store_correlations must be False"
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

    @checked
    def transform(
        self, X: ArrayLike, size: Sequence[int] | None = None, confidence_index: ArrayLike | None = None
    ) -> Any:
        """Compute the scores of samples, lazily for lazy input.

        Parameters
        ----------
        X, size, confidence_index
            As in `fit`. The default of `size` is that of `fit`.

        Returns
        -------
        array of the kind of `X`, shape (n_samples, n_components)
        """
        return self._transformed(X, size, confidence_index)[0]

    def _transformed(
        self, X: ArrayLike, size: Sequence[int] | None, confidence_index: ArrayLike | None
    ) -> tuple[Any, pd.Index | None]:
        """Compute scores. Also return the labels of the samples."""
        check_is_fitted(self, "dimension_reducer_")
        statistics = self._statistics(X, size, confidence_index, like=self.grid_)
        if statistics.map.shape != self._map.shape:
            msg = (
                f"X gives statistics of shape {statistics.map.shape} for each sample, but fit saw {self._map.shape}; "
                f"use samples of size={self.size_}, or set a cutoff that suits both sizes"
            )
            raise ValueError(msg)
        if self.store_correlations:
            self.transform_correlations = statistics.values
        fitted = self.reduced_fit_data
        scores = statistics.scores(self.dimension_reducer_, n_components=fitted.shape[1], dtype=fitted.dtype)
        return label_scores(scores, X), statistics.index

    def inverse_transform(self, X: ArrayLike) -> Any:
        """Compute the 2-point statistics that belong to scores, by Eq. 2.

        Parameters
        ----------
        X : array, shape (n_samples, n_components)
            Scores.

        Returns
        -------
        array of the kind of `X`, shape (n_samples, *lags, n_pairs)
            With `mean_center`, the mean of each sample is missing, because scores do not hold it.
        """
        check_is_fitted(self, "dimension_reducer_")
        remedy = "use one that has, such as PCA()"
        require_methods(self.dimension_reducer_, ["inverse_transform"], "dimension_reducer", remedy)
        scores, labels = unwrap(X, name="scores")
        if np.isnan(scores.shape).any():
            msg = f"X must have a known number of rows, got shape {scores.shape}; call X.compute_chunk_sizes() first"
            raise ValueError(msg)
        statistics = self._map.unflatten(self.dimension_reducer_.inverse_transform(scores))
        return self._label(statistics, labels)

    def _label(self, statistics: Any, labels: xr.DataArray | None) -> Any:
        """Label statistics that follow from the scores of some samples."""
        grid, coords = self.grid_, dict[str, Any]()
        dims = (*grid.dims, "pair")
        if self.compute_correlations:
            basis = GivenStates(statistics.shape[-1]) if self.basis is None else self.basis
            pairs = self.correlations if self.basis is None and self.correlations else None
            lags = LagFFT.of(grid.shape, grid.periodic, self.cutoff, real=True).lags
            dims, coords = lag_labels(grid, lags, pairs or resolve_pairs(self.correlations, basis), basis)
        return label(statistics, labels, dims=dims, coords=coords, name="two_point_statistics")

    @property
    def size_(self) -> tuple[int, ...]:
        """Spatial shape of the samples of `fit`."""
        return self.grid_.shape

    @property
    def periodic_axes_(self) -> list[int]:
        """Periodic axes of the samples of `fit`."""
        return self.grid_.periodic_axes

    @property
    def phases_(self) -> tuple[str, ...]:
        """Names of the phases of the samples of `fit`."""
        return self.grid_.phases

    @property
    def _n_features_out(self) -> int:
        return int(self.reduced_fit_data.shape[1])

    def _card(self) -> str:
        reducer, scores = self.dimension_reducer_, self.reduced_fit_data
        title = f"{type(self).__name__}: {len(scores)} samples, {scores.shape[1]} components"
        return card(title, self._facts() | variance_facts(reducer), reduction_pictures(reducer, scores, self._map))

    def _facts(self) -> dict[str, Any]:
        *lags, n_pairs = self._map.shape
        return {"size": self.size_, "lags": tuple(lags), "pairs": n_pairs, "reducer": repr(self.dimension_reducer_)}

    def _restored(self, most: int) -> None:
        found, n_features = self.reduced_fit_data, self._map.n_features
        agree("the number of features of dimension_reducer_", self.dimension_reducer_.n_features_in_, n_features)
        if self.compute_correlations and self.basis is not None:
            agree("the number of pairs", len(resolve_pairs(self.correlations, self.basis)), self._map.shape[-1])
        scores = self.dimension_reducer_.transform(np.zeros((1, n_features), found.dtype))
        agree("the number of components of reduced_fit_data", found.shape[1], scores.shape[1])

    def __getstate__(self) -> dict[str, Any]:
        # The pickle of a lazy attribute would hold its whole graph with all data.
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if not is_lazy(value)}

    @property
    def components_(self) -> Array:
        """Components φ, shape (n_components, *lags, n_pairs)."""
        check_is_fitted(self, "dimension_reducer_")
        return np.asarray(self._map.unflatten(np.asarray(self.dimension_reducer_.components_)))

    def components_map(self) -> xr.DataArray:
        """Label the components for figures: by lags in the units of the samples, and by the phases of each pair.

        Returns
        -------
        DataArray, shape (n_components, *lags, n_pairs)
            `components_`, with the share of the variance that each explains, if the reducer knows it.

        Examples
        --------
        >>> from mksdask.bases import PrimitiveBasis
        >>> from mksdask.datasets import make_microstructure
        >>> X = make_microstructure(n_samples=9, size=(16, 16), seed=0)
        >>> MKSStructureAnalysis(PrimitiveBasis(2), n_components=2).fit(X).components_map().dims
        ('component', 'lag_x', 'lag_y', 'pair')
        """
        components = self.components_
        number = xr.DataArray(np.arange(1, 1 + len(components)), dims="component")
        coords = {"component": number}
        if (shares := getattr(self.dimension_reducer_, "explained_variance_ratio_", None)) is not None:
            coords["variance"] = number.copy(data=np.asarray(shares))
        return self._label(components, number.assign_coords(coords)).rename("components")

    def _parameters(self) -> dict[str, Any]:
        """Collect the parameters on which the statistics depend."""
        names = ("basis", "correlations", "compute_correlations", "mean_center", "weights", "cutoff")
        return {name: getattr(self, name) for name in names} | {"dtype": np.dtype(self.dtype)}

    def _check_arguments(self) -> None:
        trailing_axes(self.basis)
        if self.dimension_reducer is not None:
            remedy = "pass a transformer that also takes new samples, such as PCA(), KernelPCA() or Isomap()"
            require_methods(self.dimension_reducer, ["fit_transform", "transform"], "dimension_reducer", remedy)

    def _reducer(self, statistics: Reducible) -> Any:
        """Make the reducer to fit."""
        most = min(len(statistics), statistics.map.n_features)
        return new_reducer(self.dimension_reducer, self.n_components, most=most, scratch=self.scratch)


def _target(y: ArrayLike | None, statistics: Reducible) -> Array | None:
    return None if y is None else matched_values(y, statistics.index, name="y")
