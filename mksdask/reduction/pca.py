"""Principal component analysis in memory or out of core: exact, of sketches, or of a random subspace."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from operator import add
from typing import Any, Self

import numpy as np
import scipy.linalg
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Tags, check_random_state

from mksdask.arrays import Array, ArrayLike, is_lazy, unwrap
from mksdask.compute.blocks import computed, fold_samples, in_chunks_of
from mksdask.compute.operation import Operation, operation
from mksdask.compute.plans import Limit, Plan, Stage
from mksdask.reduction.by_features import Gram, centred_gram, components_of, gram_of_complete, gram_of_gappy, gram_times
from mksdask.reduction.by_samples import Moments, moments_of_gappy
from mksdask.reduction.missing import check_observed
from mksdask.reduction.projection import Projection, matrix_of
from mksdask.reduction.sketch import sketch_rank, sketch_rows
from mksdask.reduction.slabs import Slabs, slabs_of
from mksdask.reduction.strategy import Strategy, result_bytes_of
from mksdask.schema import FLAG, NOTHING, ArrayOf, Choice, Number, Saved, Whole
from mksdask.storage.atomic import Url
from mksdask.storage.scratch import spill

SOLVERS = ("auto", "gram", "incremental", "randomized")
# Passes over features, or samples, with gaps; they end when the scatter matrix changes by less of its trace.
MOST_PASSES, TOLERANCE = 500, 1e-9
# Eigenvalues above this share of the largest are exact, whatever is rounded; below it components are looked at, and are
# rounding if their length or their product with others is wrong by more than `_SKEW`.
_EXACT = {"f": 1e-3, "d": 1e-6}
_SKEW = 0.05
_PART_BYTES = 2**26


def _leading(matrix: Array, n_components: int | float) -> tuple[Array, Array]:
    """The largest eigenvalues, falling, and their vectors: so many, or what holds that fraction of the trace."""
    n = len(matrix)
    is_number = isinstance(n_components, int)
    first = n - int(n_components) if is_number else 0
    values, vectors = scipy.linalg.eigh(matrix, subset_by_index=[first, n - 1], check_finite=False)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    if not is_number:
        k = number_that_holds(n_components, values)
        values, vectors = values[:k], vectors[:, :k]
    return values, vectors


def number_that_holds(fraction: float, variances: Array) -> int:
    """How many of falling variances exceed a fraction of their sum."""
    held = np.cumsum(variances) / (variances.sum() or 1.0)
    return min(len(variances), int(np.searchsorted(held, fraction, side="right")) + 1)


def _varies(values: Array, size: int) -> Array:
    """Which eigenvalues are more than rounding in double precision."""
    return values > values[0] * size * np.finfo(float).eps


def _less_mean(columns: Array) -> Array:
    """Columns without what the rounded means of features leave in them."""
    return np.asarray(columns - columns.mean(axis=0))


def _directions(components: Array) -> Array:
    """Which rows are of unit length and orthogonal to those before them: others come of rounding of products."""
    k, n_features = components.shape
    gram, width = np.zeros((k, k)), max(1, _PART_BYTES // (8 * k))
    for start in range(0, n_features, width):
        part = components[:, start : start + width]
        gram += part @ part.T
    found = np.zeros(k, dtype=bool)
    for number in range(k):
        shared = float(np.square(gram[number, :number][found[:number]]).sum())
        found[number] = abs(gram[number, number] - 1.0) < _SKEW and shared < _SKEW**2
    return found


class PCA(Projection):
    r"""Principal component analysis, in memory or out of core, of data chunked in samples and features.

    With the centred matrix :math:`F = U \Sigma \Phi`, the scores are :math:`\mu = U \Sigma` and the components
    the rows of :math:`\Phi`.

    Parameters
    ----------
    n_components : int or float, optional
        Number of components; a fraction between 0 and 1 is that of the variance which they must exceed. Default: as
        many as samples or features, whichever are fewer.
    solver : {"auto", "gram", "incremental", "randomized"}, default "auto"
        gram
            Exact: eigendecomposition of :math:`F F^T` (n × n), summed up over slabs of features, where there are more
            features than samples, of :math:`F^T F` otherwise.
        incremental
            One pass over samples, whose sketches are merged; see `IncrementalPCA` for what is lost.
        randomized
            Subspace iteration on :math:`F F^T` from a random start, one pass over slabs of features each, for what
            has too many samples and too many features.
        auto
            The first of these that fits into memory, see `mksdask.plan`; gram for data in memory.
    whiten : bool, default False
        Scale scores to unit variance.
    random_state : int or RandomState, optional
        Start of the randomized solver. Default: 0, so that it repeats.
    oversampling : int, optional
        Directions beyond `n_components` that the incremental and the randomized solver carry along. Default: twice as
        many, 40 at least.
    iterated_power : int, default 3
        Passes of the randomized solver but for the last two.
    scratch : str or path, optional
        Where lazy input that must be read by slabs but is chunked in samples alone is written once, uncompressed. All
        workers must reach it. Default: the system's temporary folder. It is removed at the end, also on error.

    Attributes
    ----------
    solver_ : str
        What was chosen.
    components_ : ndarray, shape (n_components_, n_features)
        Orthonormal rows, in the dtype of the input; the entry of largest magnitude is positive. Directions without
        variance complete the others.
    mean_ : ndarray, shape (n_features,)
        Mean of each feature, float64.
    singular_values_, explained_variance_, explained_variance_ratio_ : ndarray, shape (n_components_,)
        Falling; float64. The ratio is 0 where nothing varies.
    noise_variance_ : float
        Mean variance of the directions that are left out.
    n_components_, n_features_in_, n_samples_ : int
        Sizes.
    n_iter_ : int
        Passes over what had gaps; 0 where nothing was missing.

    Notes
    -----
    Storage is in the dtype of the input, and so are products of features; sums of more than 1024 are in float64. The
    gram solver squares the matrix, and so its condition number: components with σ_k/σ_1 above 1e-3 (float64 input) or
    3e-2 (float32 input) are exact to rounding.

    *Passes over lazy input.* Gram, more features than samples: chunks of whole rows are read once, and the copy in
    `scratch` twice; input chunked in features is read twice, a stripe of all samples at a time, and not copied. Gram
    otherwise: once. Incremental: once. Randomized: `iterated_power` + 2, of the copy or by stripes. Scores need a
    further pass where `fit` is by samples. A task holds a slab of features of all samples (96 MiB, or less if a worker
    has less), its stripe if there is one, and up to three matrices of 8 n² bytes (gram) or 8 n l (randomized).

    *Missing values.* NaN is what was not observed. The gram solver then minimizes
    :math:`\sum (f - \bar f - \mu \Phi)^2` over what was: gaps are filled by regression on the components, these found
    anew, until they stay. Only what has gaps is read again. It needs `n_components` as an integer; a feature that was
    observed in no more samples than there are components is interpolated, and tells nothing.

    References
    ----------
    Sirovich, L. Turbulence and the dynamics of coherent structures, part 1. Q. Appl. Math. 45 (1987) 561.
    Chan, T. F., Golub, G. H., LeVeque, R. J. Algorithms for computing the sample variance. Am. Stat. 37 (1983) 242.
    Halko, N., Martinsson, P.-G., Tropp, J. A. Finding structure with randomness. SIAM Rev. 53 (2011) 217, Alg. 4.4.
    Kiers, H. A. L. Weighted least squares fitting using ordinary least squares algorithms. Psychometrika 62 (1997) 251.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(20, 100))
    >>> pca = PCA(3)
    >>> scores = pca.fit_transform(X)
    >>> bool(np.allclose(pca.transform(X), scores))
    True
    """

    n_samples_: int
    n_iter_: int
    solver_: str

    _saved = Saved(
        {
            "n_components": Whole() | Number() | NOTHING,
            "solver": Choice(*SOLVERS),
            "whiten": FLAG,
            "random_state": Whole() | NOTHING,
            "oversampling": Whole() | NOTHING,
            "iterated_power": Whole(),
        },
        fitted={
            "components_": ArrayOf("f4 f8", "n_components_", "n_features_in_"),
            "mean_": ArrayOf("f8", "n_features_in_"),
            "singular_values_": ArrayOf("f8", "n_components_"),
            "explained_variance_": ArrayOf("f8", "n_components_"),
            "explained_variance_ratio_": ArrayOf("f8", "n_components_"),
            "noise_variance_": Number(),
            "n_samples_": Whole(1),
            "n_iter_": Whole(0),
            "solver_": Choice(*SOLVERS),
        },
    )

    def __init__(
        self,
        n_components: int | float | None = None,
        *,
        solver: str = "auto",
        whiten: bool = False,
        random_state: Any = None,
        oversampling: int | None = None,
        iterated_power: int = 3,
        scratch: Url | None = None,
    ) -> None:
        self.n_components = n_components
        self.solver = solver
        self.whiten = whiten
        self.random_state = random_state
        self.oversampling = oversampling
        self.iterated_power = iterated_power
        self.scratch = scratch

    @operation
    def fit(self, X: ArrayLike, y: object = None) -> Operation[Self]:
        """Find the components.

        Parameters
        ----------
        X : array, shape (n_samples, n_features)
            NumPy or dask, chunked in samples and features; float32 or float64, if it is lazy.
        y : None
            Ignored.

        Raises
        ------
        TypeError
            If X is of another dtype.
        ValueError
            If X is not a matrix, holds infinite values, or has too few samples or features for `n_components`; if a
            feature is NaN in all samples; or if nothing fits into memory, with the limit that would do.
        """
        return _Fit(self, X)

    @operation
    def fit_transform(self, X: ArrayLike, y: object = None) -> Operation[Any]:
        """Find the components and return the scores.

        Parameters
        ----------
        X : array, shape (n_samples, n_features)
            As in `fit`.
        y : None
            Ignored.

        Returns
        -------
        array of the kind of `X`, shape (n_samples, n_components_)
        """
        return _FitTransform(self, X)

    def fit_scores(self, X: ArrayLike, *, resume: str | None = None) -> Any:
        """`fit_transform`, with the scores as an ndarray where `fit` has them anyway.

        Parameters
        ----------
        X : array, shape (n_samples, n_features)
            As in `fit`.
        resume : str, optional
            A name of what X is: the copy that an earlier call of that name left in `scratch` when it was killed is
            taken up. One call of a name at a time.

        Returns
        -------
        ndarray, shape (n_samples, n_components_)
            A dask array, which takes another pass, for lazy X that `fit` reads by samples.
        """
        data = matrix_of(self, X, reset=True)
        k = self._check(data)
        found = Strategy.of(self, data, Limit.of())
        self.solver_, self.n_iter_ = found.solver, 0
        if found.solver == "incremental":
            self._set_sketch(
                sketch_rows(found.rows_of(data), sketch_rank(int(k), self.oversampling)), int(k), data.dtype
            )
            return self.transform(data)
        if found.by_samples:
            self._fit_moments(found.rows_of(data), k)
            return self.transform(data)
        with slabs_of(data, found.width, self.scratch, resume) as slabs:
            return self._fit_slabs(slabs, k, data.dtype)

    def _check(self, data: Any) -> int | float:
        if data.ndim != 2 or 0 in data.shape:
            msg = f"X must be a matrix (n_samples, n_features), got shape {tuple(data.shape)}"
            raise ValueError(msg)
        if data.dtype not in (np.float32, np.float64):
            msg = f"X must be float32 or float64, got {data.dtype}"
            raise TypeError(msg)
        if self.solver not in SOLVERS:
            msg = f"solver must be one of {', '.join(SOLVERS)}, got {self.solver!r}"
            raise ValueError(msg)
        if not isinstance(self.iterated_power, int | np.integer) or self.iterated_power < 0:
            msg = f"iterated_power must be an integer from 0, got {self.iterated_power!r}"
            raise ValueError(msg)
        limit = min(data.shape)
        k = limit if self.n_components is None else self.n_components
        is_fraction = isinstance(k, float | np.floating) and 0 < k < 1
        is_number = isinstance(k, int | np.integer) and not isinstance(k, bool) and 1 <= k <= limit
        if not (is_fraction or is_number):
            msg = (
                f"n_components={self.n_components!r} must be an integer between 1 and {limit}, the smaller of "
                f"n_samples={data.shape[0]} and n_features={data.shape[1]}, or a fraction of the variance between 0 "
                "and 1"
            )
            raise ValueError(msg)
        if is_fraction and self.solver in ("incremental", "randomized"):
            msg = (
                f"n_components={k} is a fraction, which needs all variances; the {self.solver} solver finds the "
                "leading ones. Give their number, or use solver='gram'"
            )
            raise ValueError(msg)
        self.n_samples_, self.n_features_in_ = map(int, data.shape)
        return float(k) if is_fraction else int(k)

    def _fit_slabs(self, slabs: Slabs, k: int | float, dtype: np.dtype[Any]) -> Array:
        n = self.n_samples_
        basis: Array | None = None
        if self.solver_ == "gram":
            gram = slabs.reduce(gram_of_complete, Gram.merge, n, name="gram")
            total, basis = self._fill(slabs, gram, k) if gram.gappy else (centred_gram(gram.total), None)
            values, vectors = _leading(total, k)
            trace = float(np.trace(total))
        else:
            values, vectors, trace = self._iterate(slabs, int(k))
        varies, singular = _varies(values, n), np.sqrt(values)
        left = vectors * np.divide(1.0, singular, out=np.zeros_like(values), where=varies)
        parts = slabs.each(components_of, left, basis, dtype, name="components")
        components, self.mean_, start = np.empty((len(values), self.n_features_in_), dtype), np.empty(0), 0
        means = []
        while parts:
            # Let go of one by one: beside the whole there is no room for all of them.
            part, mean = parts.pop(0)
            components[:, start : start + len(mean)] = part
            means.append(mean)
            start += len(mean)
        self.mean_ = np.concatenate(means)
        if values[-1] < _EXACT[dtype.char] * values[0]:
            varies &= _directions(components)
        self._set_spectrum(np.where(varies, values, 0.0), trace, (n, self.n_features_in_))
        signs = self._set_components(components, varies)
        scores = vectors * np.where(varies, self.singular_values_, 0.0) * signs
        return np.asarray(scores / self._scale()).astype(dtype)

    def _fill(self, slabs: Slabs, gram: Gram, k: int | float) -> tuple[Array, Array]:
        """The Gram matrix with gaps filled, and the left singular vectors that they were filled by."""
        self._refuse_fraction(k)
        n, before = self.n_samples_, gram.total
        basis: Array | None = None
        for _ in range(MOST_PASSES):
            gappy = slabs.reduce(gram_of_gappy, add, n, basis, name="gram-of-gappy", only=gram.gappy)
            total = centred_gram(gram.total + gappy)
            self.n_iter_ += 1
            basis = _leading(total, int(k))[1]
            if np.linalg.norm(total - before) <= TOLERANCE * np.trace(total):
                return total, basis
            before = total
        self._warn()
        assert basis is not None
        return total, basis

    def _iterate(self, slabs: Slabs, k: int) -> tuple[Array, Array, float]:
        """Leading eigenvalues and vectors of F Fᵀ, and its trace."""
        seed = check_random_state(0 if self.random_state is None else self.random_state)
        size = min(self.n_samples_, self.n_features_in_, sketch_rank(k, self.oversampling))
        basis = scipy.linalg.qr(seed.normal(size=(self.n_samples_, size)), mode="economic")[0]
        for _ in range(self.iterated_power):
            product = slabs.reduce(gram_times, add, _less_mean(basis), name="gram-times")
            basis = scipy.linalg.qr(_less_mean(product[:-1]), mode="economic")[0]
        product = slabs.reduce(gram_times, add, _less_mean(basis), name="gram-times")
        values, vectors = _leading(basis.T @ _less_mean(product[:-1]), k)
        return values, basis @ vectors, float(product[-1, 0])

    def _fit_moments(self, data: Any, k: int | float) -> None:
        moments = computed(fold_samples(Moments.of, Moments.merge, data, name="moments"))
        scatter, mean = moments.scatter, moments.mean
        if moments.count < len(data):
            self._refuse_fraction(k)
            check_observed(moments.seen)
            if is_lazy(data):
                with spill(data, self.scratch) as rows:
                    scatter, mean = self._fill_rows(rows.lazy(), moments, int(k))
            else:
                scatter, mean = self._fill_rows(data, moments, int(k))
        values, vectors = _leading(scatter, k)
        values = np.where(_varies(values, len(scatter)), values, 0.0)
        self._set_spectrum(values, float(np.trace(scatter)), (self.n_samples_, len(scatter)))
        self.mean_ = mean
        # Orthonormal already, those without variance too.
        self._set_components(np.ascontiguousarray(vectors.T).astype(data.dtype), np.ones(len(values), dtype=bool))

    def _fill_rows(self, data: Any, complete: Moments, k: int) -> tuple[Array, Array]:
        """Scatter and mean with gaps filled."""
        components, mean, before = None, complete.sums / complete.seen, complete.scatter
        for _ in range(MOST_PASSES):
            options, name = {"components": components, "mean": mean}, "moments-of-gappy"
            gappy = fold_samples(moments_of_gappy, Moments.merge, data, name=name, options=options)
            moments = complete.merge(computed(gappy))
            self.n_iter_ += 1
            components, mean = _leading(moments.scatter, k)[1].T, moments.mean
            if np.linalg.norm(moments.scatter - before) <= TOLERANCE * np.trace(moments.scatter):
                break
            before = moments.scatter
        else:
            self._warn()
        return moments.scatter, mean

    def _refuse_fraction(self, k: int | float) -> None:
        if not isinstance(k, int) or k >= min(self.n_samples_, self.n_features_in_):
            msg = (
                f"X holds NaN, and n_components={self.n_components!r}; what was not observed is filled by the "
                "components, so give their number, fewer than samples and features"
            )
            raise ValueError(msg)

    def _warn(self) -> None:
        warnings.warn(
            f"Gaps of X still changed after {MOST_PASSES} passes; too much is missing for {self.n_components} "
            "components. Use fewer, or leave out what is observed least",
            ConvergenceWarning,
            stacklevel=5,
        )

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.solver in ("auto", "gram") and isinstance(self.n_components, int | np.integer)
        return tags


def stages_of_pca(
    pca: PCA, features: Any, limit: Limit, first: Stage | None = None
) -> tuple[tuple[Stage, ...], dict[str, Any]]:
    """Stages of `PCA.fit` and its layout; `first` is the stage of the pass over the input, if it does more."""
    clone(pca)._check(features)
    found = Strategy.of(pca, features, limit, first)
    layout = {"components": pca.n_components or min(features.shape), "solver": found.solver}
    if found.width:
        layout["features of a slab"] = found.width
    return found.stages, layout


@dataclass(frozen=True)
class _Fit(Operation[PCA]):
    """The arguments of `PCA.fit`."""

    pca: PCA
    X: ArrayLike

    def plan(self, limit: Limit) -> Plan:
        data = unwrap(self.X)[0]
        stages, layout = stages_of_pca(self.pca, data, limit)
        layout = {"samples": data.shape[0], "features": data.shape[1]} | layout
        result_bytes = result_bytes_of(data.shape, self.pca.n_components, data.dtype.itemsize)
        return Plan("PCA.fit", layout, stages, limit, result_bytes=result_bytes)

    def run(self) -> PCA:
        self.pca.fit_scores(self.X)
        return self.pca


@dataclass(frozen=True)
class _FitTransform(_Fit):
    """The arguments of `PCA.fit_transform`."""

    def run(self) -> Any:
        scores = self.pca.fit_scores(self.X)
        return in_chunks_of(unwrap(self.X)[0], scores) if is_lazy(self.X) and isinstance(scores, np.ndarray) else scores
