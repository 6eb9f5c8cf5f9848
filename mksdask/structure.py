"""MKSStructureAnalysis: microstructures → 2-point statistics → scores."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import DTypeLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from mksdask.arrays import ArrayLike, is_lazy, label, to_numpy, unwrap, unwrap_samples
from mksdask.bases.base import Basis, n_spatial_axes, trailing_axes
from mksdask.compute.blocks import map_samples
from mksdask.compute.operation import Limit, Plan, SampleWork, chunk_layout, planner_of
from mksdask.compute.watching import FeatureChannel, Plane, Watch, watching
from mksdask.display.cards import WithCard, card, centre_of, picture, points
from mksdask.reduction.layout import result_bytes_of
from mksdask.reduction.nearest import nearest_rows
from mksdask.reduction.pca import PCA, plan_pca
from mksdask.reduction.projection import Projection, variance_facts, variance_picture
from mksdask.reduction.shared import SharedStatistics, Statistics
from mksdask.samples import as_samples, check_phases, periodic_axes_of, phases_of, spacing_of
from mksdask.stats.correlation import CorrelationProblem, Pairs, correlate, flat_features, resolve_pairs
from mksdask.storage.atomic import Url
from mksdask.storage.schema import (
    FLAG,
    NOTHING,
    NUMBERS,
    TEXT,
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
from mksdask.storage.scratch import spill

DEFAULT_COMPONENTS = 5
# Components that a card draws.
MOST_DRAWN = 3
# One spatial axis, or some.
AXES = Whole(0, 2) | Listed(Whole(0, 2))


@dataclass(frozen=True)
class _Preparation:
    """Rows of statistics → features: gaps refused or left to the reducer, means taken off, pairs weighted."""

    may_have_gaps: bool
    mean_center: bool
    weights: NDArray[np.float64] | None
    watched: FeatureChannel | None = None

    def __call__(self, block: NDArray[Any], numbers: NDArray[np.intp] | None = None) -> NDArray[Any]:
        if self.watched is not None and numbers is not None:
            self.watched.publish(block, int(numbers[0]))
        if not self.may_have_gaps and not np.isfinite(block).all():
            msg = (
                "the 2-point statistics hold NaN: some lags are observed by no pair of voxels, because of the "
                "confidence_index. Set cutoff to leave out the largest lags, or use mksdask.reduction.PCA with an "
                "integer n_components, which fills gaps"
            )
            raise ValueError(msg)
        if self.mean_center:
            block = block - np.nanmean(block, axis=1, keepdims=True)
        if self.weights is not None:
            by_pair = block.reshape(len(block), -1, len(self.weights))
            block = (by_pair * self.weights.astype(block.dtype)).reshape(block.shape)
        return block


def _reduce_block(block: NDArray[Any], *, reducer: Any) -> NDArray[Any]:
    return np.asarray(reducer.transform(block))


def require_methods(estimator: object, methods: Sequence[str], name: str) -> None:
    """Refuse an estimator that lacks a method.

    Raises
    ------
    TypeError
        That names the argument and the methods.
    """
    missing = [method for method in methods if not callable(getattr(estimator, method, None))]
    if missing:
        msg = f"{name} must have the methods {' and '.join(methods)}; {estimator!r} has no {' and no '.join(missing)}"
        raise TypeError(msg)


class MKSStructureAnalysis(WithCard, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
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
    size_ : tuple of int
        Spatial shape of the samples seen by `fit`; flat X of later calls has it.
    periodic_axes_ : sequence of int
        `periodic_axes`, or what the DataArray seen by `fit` said.
    phases_ : tuple of str
        Names of the phases, where the DataArray seen by `fit` said them; later ones must be of the same.

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
            "periodic_axes_": AXES,
            "phases_": Listed(TEXT),
            "size_": Listed(Whole(1), 1, 3),
            "_spacing": Listed(Record(Number(), TEXT)),
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

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        size: Sequence[int] | None = None,
        confidence_index: ArrayLike | None = None,
        *,
        watch: Watch = False,
        resume: bool = False,
    ) -> Self:
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
        self._fit_reduced(X, y, size, confidence_index, watch=watch, resume=resume)
        return self

    def fit_transform(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        size: Sequence[int] | None = None,
        confidence_index: ArrayLike | None = None,
        *,
        watch: Watch = False,
        resume: bool = False,
    ) -> Any:
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
        self.fit(X, y, size, confidence_index, watch=watch, resume=resume)
        scores = self.reduced_fit_data
        if is_lazy(X):
            scores = da.from_array(scores, chunks=(unwrap(X)[0].chunks[0], -1))
        return _label_scores(scores, X)

    def _fit_reduced(
        self,
        X: ArrayLike,
        y: ArrayLike | None,
        size: Sequence[int] | None,
        confidence_index: ArrayLike | None,
        *,
        watch: Watch = False,
        resume: bool = False,
    ) -> None:
        target = None if y is None else to_numpy(y)
        if resume and self.scratch is None:
            msg = "resume keeps statistics in scratch; give the model scratch=, a folder that all workers reach"
            raise ValueError(msg)
        if isinstance(X, SharedStatistics):
            # There is nothing to watch: statistics are there.
            self._fit_shared(X, target, size, confidence_index)
            return
        samples = self._checked_samples(X, size)
        statistics = self._statistics(samples, confidence_index)
        self._statistics_shape = tuple(int(n) for n in statistics.shape[1:])
        self._statistics_dtype = statistics.dtype
        if self.store_correlations:
            self.fit_correlations = statistics
        reducer = self._reducer((len(statistics), _n_features(statistics)))
        lags = self._statistics_shape[:-1]
        plane = Plane.of(lags, spacing_of(unwrap(samples)[1], len(lags)))
        with watching(watch, plane, len(statistics), "samples") as watcher:
            watched = None
            if watcher is not None:
                is_complex = statistics.dtype.kind == "c"
                watched = FeatureChannel.of(watcher.channel, plane, self._statistics_shape, is_complex=is_complex)
            features = self._features(statistics, reducer, watched)
            # Named by what they are, whoever watches.
            name = str(self._features(statistics, reducer).name) if resume and is_lazy(features) else None
            self.reduced_fit_data = self._reduce(reducer, features, target, name)
            self.dimension_reducer_ = reducer
            if watcher is not None:
                mean = None if self.mean_center else getattr(reducer, "mean_", None)
                watcher.finish(None if mean is None else self._unflatten(mean[None])[0], self.reduced_fit_data)

    def _fit_shared(
        self,
        shared: SharedStatistics,
        y: NDArray[Any] | None,
        size: Sequence[int] | None,
        confidence_index: ArrayLike | None,
    ) -> None:
        self._check_arguments()
        self._check_shared(shared, size, confidence_index)
        statistics = shared.statistics
        self.size_, self.periodic_axes_ = statistics.size, statistics.periodic_axes
        self.phases_ = statistics.phases
        self._spacing: tuple[tuple[float, str], ...] = ()
        self._statistics_shape, self._statistics_dtype = statistics.shape, statistics.dtype
        reducer = self._reducer((len(shared), shared.n_features))
        self.dimension_reducer_, self.reduced_fit_data = shared.reduce(reducer, y)

    def _check_shared(
        self, shared: SharedStatistics, size: Sequence[int] | None, confidence_index: ArrayLike | None
    ) -> None:
        if size is not None or confidence_index is not None or self.store_correlations:
            msg = "X is shared statistics; size and confidence_index go to share, and store_correlations must be False"
            raise ValueError(msg)
        shared.statistics.check(self._statistics_parameters(), self.periodic_axes)

    def _statistics_parameters(self) -> dict[str, Any]:
        names = ("basis", "correlations", "compute_correlations", "mean_center", "weights", "cutoff")
        return {name: getattr(self, name) for name in names} | {"dtype": np.dtype(self.dtype)}

    def _checked_samples(self, X: ArrayLike, size: Sequence[int] | None) -> Any:
        self._check_arguments()
        samples = as_samples(X, size, trailing=self._trailing)
        data, labels = unwrap(X)
        if not data.shape[0]:
            msg = f"X holds no samples, got shape {tuple(data.shape)}"
            raise ValueError(msg)
        self.periodic_axes_ = periodic_axes_of(labels) if self.periodic_axes is None else self.periodic_axes
        self.size_ = tuple(int(n) for n in samples.shape[1 : 1 + self._n_spatial(samples)])
        self.phases_, self._spacing = phases_of(labels), _spacing(labels, len(self.size_))
        return samples

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
        if isinstance(X, SharedStatistics):
            self._check_shared(X, size, confidence_index)
            if X.statistics.shape != self._statistics_shape:
                msg = f"X shares statistics of shape {X.statistics.shape} a sample, fit saw {self._statistics_shape}"
                raise ValueError(msg)
            return X.scores(self.dimension_reducer_)
        self._check_labels(unwrap(X)[1])
        if size is None and unwrap(X)[0].ndim == 2:
            size = self.size_
        statistics = self._statistics(as_samples(X, size, trailing=self._trailing), confidence_index)
        if tuple(statistics.shape[1:]) != self._statistics_shape:
            msg = (
                f"X gives statistics of shape {tuple(statistics.shape[1:])} a sample, fit saw "
                f"{self._statistics_shape}; use samples of size={self.size_}, or a cutoff that fits both"
            )
            raise ValueError(msg)
        if self.store_correlations:
            self.transform_correlations = statistics
        features = self._features(statistics, self.dimension_reducer_)
        if not isinstance(features, da.Array) or _is_lazy_reducer(self.dimension_reducer_):
            return _label_scores(self.dimension_reducer_.transform(features), X)
        scores = map_samples(
            _reduce_block,
            features,
            tail=self.reduced_fit_data.shape[1:],
            dtype=self.reduced_fit_data.dtype,
            name="reduce",
            options={"reducer": self.dimension_reducer_},
        )
        return _label_scores(scores, X)

    def _check_labels(self, labels: xr.DataArray | None) -> None:
        """Refuse samples of other phases; warn of those whose voxels have another size."""
        check_phases(labels, getattr(self, "phases_", ()))
        seen, found = getattr(self, "_spacing", None), _spacing(labels, len(self.size_))
        if seen and found and len(seen) == len(found) and not all(map(_is_alike, seen, found)):
            warnings.warn(
                f"X has voxels of {_sizes_text(found)}, fit saw {_sizes_text(seen)}: lags of as many voxels are other "
                "distances; resample X, or fit to such samples",
                UserWarning,
                stacklevel=4,
            )

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
        return self._unflatten(rows)

    def share(
        self,
        X: ArrayLike,
        size: Sequence[int] | None = None,
        confidence_index: ArrayLike | None = None,
        *,
        n_components: int | None = None,
        watch: Watch = False,
        resume: bool = False,
    ) -> SharedStatistics:
        """Compute statistics once, for many fits: what it returns goes in the place of X.

        Grid and random search, cross-validation and learning curves split it, so that statistics are computed here
        alone, and a PCA once for each set of training samples, whatever `n_components` and the linker are. Nothing
        leaks from a fold that is left out: PCA is of the training samples alone.

        Parameters
        ----------
        X : array, shape (n_samples, *spatial), or (n_samples, n_voxels) with `size`
            Local state of each voxel.
        size : tuple of int, optional
            Spatial shape of flat samples.
        confidence_index : array, shape (n_samples, *spatial), flat, or (*spatial,), optional
            Confidence in each voxel.
        n_components : int, optional
            Directions of the ensemble that are kept. Default: all, which loses nothing, and takes memory for as many
            rows of statistics as there are samples.
        watch, resume
            As in `fit`.

        Returns
        -------
        SharedStatistics
            For this model, and those that differ in `n_components`, `dimension_reducer`, linker alone.

        Raises
        ------
        ValueError
            If some lags are observed in some samples only: what fills them depends on the fold.

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
        model = self._that_shares(n_components)
        model._fit_reduced(X, None, size, confidence_index, watch=watch, resume=resume)
        reducer = model.dimension_reducer_
        if reducer.n_iter_:
            msg = (
                "X has statistics with NaN: some lags are observed in some samples only, and what fills them depends "
                "on the fold. Set cutoff to leave out the largest lags"
            )
            raise ValueError(msg)
        statistics = Statistics(
            self._statistics_parameters(),
            model.periodic_axes_,
            model.size_,
            model._statistics_shape,
            model._statistics_dtype,
            model.phases_,
        )
        return SharedStatistics.of(statistics, reducer, model.reduced_fit_data)

    def _that_shares(self, n_components: int | None) -> MKSStructureAnalysis:
        reducer = PCA(n_components, solver="gram" if n_components is None else "auto", scratch=self.scratch)
        model: MKSStructureAnalysis = clone(self, safe=False)
        return model.set_params(dimension_reducer=reducer, n_components=None, store_correlations=False)

    def nearest(
        self,
        X_query: ArrayLike,
        n: int = 5,
        *,
        among: ArrayLike | None = None,
        size: Sequence[int] | None = None,
        confidence_index: ArrayLike | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
        """The samples of a catalogue that are most like others: nearest in the space of scores.

        Parameters
        ----------
        X_query : array, shape (n_queries, *spatial) or flat
            Local state of each voxel.
        n : int, default 5
            How many, or all if the catalogue has fewer.
        among : array, shape (n_catalogue, n_components) or (n_catalogue, *spatial), optional
            The catalogue: scores, as `transform` gives them, or samples; computed once, a chunk at a time. Default: the
            samples of `fit`.
        size : tuple of int, optional
            Spatial shape of flat queries; default that of `fit`.
        confidence_index : array, shape (n_queries, *spatial), flat, or (*spatial,), optional
            Confidence in each voxel of the queries.

        Returns
        -------
        distances : ndarray, shape (n_queries, n)
            Euclidean distances of scores, rising.
        indices : ndarray, shape (n_queries, n)
            Rows of the catalogue; of rows as near as each other, the first.

        Notes
        -----
        Memory is that of a chunk of the catalogue, and of 16 n_queries n bytes for each chunk that is not merged yet.

        Examples
        --------
        >>> from mksdask import PrimitiveBasis
        >>> from mksdask.datasets import make_microstructure
        >>> X = make_microstructure(n_samples=12, size=(13, 13), grain_size=(3, 3))
        >>> analysis = MKSStructureAnalysis(PrimitiveBasis(2), n_components=3, periodic_axes=[0, 1]).fit(X)
        >>> distances, indices = analysis.nearest(X[4:6], n=2)
        >>> indices[:, 0]
        array([4, 5])
        """
        check_is_fitted(self, "dimension_reducer_")
        queries = to_numpy(self.transform(X_query, size, confidence_index)).astype(np.float64)
        if among is None:
            catalogue: Any = self.reduced_fit_data
        else:
            catalogue, _ = unwrap(among, name="among")
            if catalogue.ndim != 2:
                catalogue, _ = unwrap(self.transform(among))
        return nearest_rows(queries, catalogue, n)

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
            components = np.real(self._unflatten(np.asarray(self.dimension_reducer_.components_[:MOST_DRAWN])))
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
            pairs = resolve_pairs(self.correlations, self.basis.states, self.basis)
            agree("the number of pairs", len(pairs), self._statistics_shape[-1])
        scores = self.dimension_reducer_.transform(np.zeros((1, n_features), self.reduced_fit_data.dtype))
        agree("the number of components of reduced_fit_data", self.reduced_fit_data.shape[1], scores.shape[1])

    def __getstate__(self) -> dict[str, Any]:
        # A lazy attribute would take its whole graph, data included, into the pickle.
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if not is_lazy(value)}

    @property
    def components_(self) -> NDArray[Any]:
        """Components φ, shape (n_components, *lags, n_pairs)."""
        check_is_fitted(self, "dimension_reducer_")
        return np.asarray(self._unflatten(np.asarray(self.dimension_reducer_.components_)))

    def _unflatten(self, rows: Any) -> Any:
        if self._statistics_dtype.kind == "c":
            rows = rows[:, 0::2] + 1j * rows[:, 1::2]
        maps = rows.reshape(-1, *self._statistics_shape)
        return maps if self.weights is None else maps / np.asarray(self.weights, dtype=maps.real.dtype)

    @property
    def _trailing(self) -> int:
        return trailing_axes(self.basis if self.compute_correlations else None)

    def _n_spatial(self, samples: Any) -> int:
        return n_spatial_axes(self.basis if self.compute_correlations else None, samples)

    def _check_arguments(self) -> None:
        if self.dimension_reducer is not None:
            require_methods(self.dimension_reducer, ["fit_transform", "transform"], "dimension_reducer")

    def _weights(self, statistics: Any) -> NDArray[np.float64] | None:
        """Of the features of a lag: complex ones are two each."""
        if self.weights is None:
            return None
        weights = np.asarray(self.weights, dtype=np.float64)
        if weights.shape != (statistics.shape[-1],) or not (np.isfinite(weights) & (weights > 0)).all():
            msg = f"weights must be {statistics.shape[-1]} positive numbers, one for each pair, got {self.weights!r}"
            raise ValueError(msg)
        return np.repeat(weights, 2) if statistics.dtype.kind == "c" else weights

    def _statistics(self, samples: ArrayLike, confidence_index: ArrayLike | None) -> Any:
        if not self.compute_correlations:
            return unwrap(samples)[0]
        if (
            confidence_index is not None
            and unwrap(confidence_index)[0].ndim == 2
            and len(self.size_) > 1
            and confidence_index.shape != self.size_
        ):
            confidence_index = as_samples(confidence_index, self.size_, name="confidence_index")
        data, labels = unwrap_samples(samples)
        if isinstance(confidence_index, xr.DataArray) and labels is not None:
            confidence_index = confidence_index.transpose(*(dim for dim in labels.dims if dim in confidence_index.dims))
        return correlate(
            self._work(data, confidence_index).fitting(data),
            self.basis,
            periodic_axes=self.periodic_axes_,
            confidence_index=confidence_index,
            correlations=self.correlations,
            cutoff=self.cutoff,
            dtype=self.dtype,
        )

    def _work(self, data: Any, confidence_index: ArrayLike | None) -> SampleWork:
        """What the tasks need that compute statistics and hand them on as features."""
        problem = CorrelationProblem.of(
            data, self.basis, self.periodic_axes_, confidence_index, self.correlations, self.cutoff, self.dtype
        )
        return problem.work(copies=1 + self.mean_center + (self.weights is not None))

    def _features(self, statistics: Any, reducer: Any, watched: FeatureChannel | None = None) -> Any:
        flat = flat_features(statistics)
        if flat.dtype.kind not in "f":
            flat = flat.astype(self.dtype)
        fills_gaps = isinstance(reducer, PCA) and reducer.solver in ("auto", "gram")
        kernel = _Preparation(fills_gaps, self.mean_center, self._weights(statistics), watched)
        numbers = None if watched is None else np.arange(len(flat))
        return map_samples(kernel, flat, numbers, tail=flat.shape[1:], dtype=flat.dtype, name="features")

    def _reducer(self, shape: tuple[int, int]) -> Any:
        if self.dimension_reducer is None:
            wanted = min(DEFAULT_COMPONENTS, *shape) if self.n_components is None else self.n_components
            return PCA(wanted, scratch=self.scratch)
        reducer = clone(self.dimension_reducer, safe=False)
        if self.n_components is not None:
            set_parameter(reducer, "n_components", self.n_components, "dimension_reducer")
        return reducer

    def _reduce(self, reducer: Any, features: Any, y: NDArray[Any] | None, resume: str | None = None) -> NDArray[Any]:
        if not is_lazy(features):
            return np.asarray(reducer.fit_transform(features) if y is None else reducer.fit_transform(features, y))
        if isinstance(reducer, PCA):
            return to_numpy(reducer.fit_scores(features, resume=resume))
        if _is_lazy_reducer(reducer):
            return to_numpy(reducer.fit_transform(features))
        if not callable(getattr(reducer, "partial_fit", None)):
            msg = (
                f"dimension_reducer {reducer!r} would load lazy X whole; use mksdask.reduction.PCA, a reducer of "
                "dask-ml, "
                "one with partial_fit such as sklearn.decomposition.IncrementalPCA, or pass X as a NumPy array"
            )
            raise TypeError(msg)
        with spill(features, self.scratch, resume=resume) as rows:
            # A batch must have at least as many rows as there are components.
            least = int(getattr(reducer, "n_components", None) or 1)
            batch: list[NDArray[Any]] = []
            remaining = rows.n_samples
            for block in rows.blocks():
                batch.append(block)
                remaining -= len(block)
                if sum(map(len, batch)) >= least and (remaining >= least or remaining == 0):
                    reducer.partial_fit(np.concatenate(batch))
                    batch = []
            return np.concatenate([np.asarray(reducer.transform(block)) for block in rows.blocks()])


@planner_of(MKSStructureAnalysis.fit, MKSStructureAnalysis.fit_transform)
def plan_analysis(
    analysis: MKSStructureAnalysis,
    X: ArrayLike,
    y: ArrayLike | None = None,
    size: Sequence[int] | None = None,
    confidence_index: ArrayLike | None = None,
) -> Plan:
    """What `fit` will take, but for the linkage of a homogenization model, which sees scores alone."""
    return _plan_fit(clone(analysis, safe=False), f"{type(analysis).__name__}.fit", X, size, confidence_index)


@planner_of(MKSStructureAnalysis.share)
def plan_sharing(
    analysis: MKSStructureAnalysis,
    X: ArrayLike,
    size: Sequence[int] | None = None,
    confidence_index: ArrayLike | None = None,
    *,
    n_components: int | None = None,
) -> Plan:
    """What `share` will take."""
    name = f"{type(analysis).__name__}.share"
    return _plan_fit(analysis._that_shares(n_components), name, X, size, confidence_index)


def _plan_fit(
    model: MKSStructureAnalysis,
    name: str,
    X: ArrayLike,
    size: Sequence[int] | None,
    confidence_index: ArrayLike | None,
) -> Plan:
    limit = Limit.of()
    samples = model._checked_samples(X, size)
    statistics = model._statistics(samples, confidence_index)
    reducer = model._reducer((len(statistics), _n_features(statistics)))
    features = model._features(statistics, reducer)
    stage, layout = None, {"samples": features.shape[0], "features": features.shape[1]}
    if model.compute_correlations:
        data = unwrap_samples(samples)[0]
        stage = model._work(data, confidence_index).stage(data, limit)
        layout = chunk_layout(data, stage) | {"statistics": tuple(map(int, statistics.shape[1:]))}
    if not isinstance(reducer, PCA):
        first = () if stage is None else (stage,)
        return Plan(name, layout, first, limit, (f"{reducer!r} is not planned.",))
    stages, of_reducer = plan_pca(reducer, features, limit, stage)
    result_bytes = result_bytes_of(features.shape, reducer.n_components, features.dtype.itemsize)
    layout |= of_reducer
    return Plan(name, layout, stages, limit, result_bytes=result_bytes)


def _n_features(statistics: Any) -> int:
    return int(np.prod(statistics.shape[1:])) * (2 if statistics.dtype.kind == "c" else 1)


def _is_lazy_reducer(reducer: object) -> bool:
    """Whether a reducer takes dask arrays without loading them whole."""
    return isinstance(reducer, PCA) or type(reducer).__module__.partition(".")[0] == "dask_ml"


def set_parameter(estimator: Any, parameter: str, value: Any, argument: str) -> None:
    """Set a parameter of an estimator, or of the step of a pipeline that has it.

    Raises
    ------
    ValueError
        If there is no such parameter.
    """
    known = estimator.get_params() if hasattr(estimator, "get_params") else vars(estimator)
    matches = [name for name in known if name == parameter or name.endswith("__" + parameter)]
    if not matches:
        msg = (
            f"{argument} {estimator!r} has no parameter {parameter}; leave {parameter}=None and set up the "
            f"{argument} itself"
        )
        raise ValueError(msg)
    name = min(matches, key=len)
    if hasattr(estimator, "set_params"):
        estimator.set_params(**{name: value})
    else:
        setattr(estimator, name, value)


def _spacing(labels: xr.DataArray | None, n_spatial: int) -> tuple[tuple[float, str], ...]:
    """Size and unit of voxels along each axis, where labels have coordinates of each."""
    if labels is None or labels.ndim <= n_spatial:
        return ()
    if any(str(dim) not in labels.coords for dim in labels.dims[1 : 1 + n_spatial]):
        return ()
    return tuple((step, units) for _, step, units in spacing_of(labels, n_spatial))


def _is_alike(a: tuple[float, str], b: tuple[float, str]) -> bool:
    return a[1] == b[1] and abs(a[0] - b[0]) <= 1e-6 * abs(a[0])


def _sizes_text(spacing: Sequence[tuple[float, str]]) -> str:
    return " × ".join(f"{step:g} {units}" for step, units in spacing)


def _label_scores(scores: Any, X: ArrayLike) -> Any:
    if not isinstance(X, xr.DataArray):
        return scores
    return label(scores, X, dims=("component",), coords={"component": np.arange(scores.shape[1])}, name="scores")
