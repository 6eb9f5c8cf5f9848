"""Exact principal component analysis, in memory or out of core."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import dask
import dask.array as da
import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.linalg.blas import dsyrk
from sklearn.base import clone

from mksdask.arrays import ArrayLike, check_whole_samples, merge_tree, unwrap
from mksdask.planning import Limit, Plan, Stage, planner_of
from mksdask.reduction.projection import Projection
from mksdask.reduction.spill import LEAST_WIDTH, SLAB_BYTES, SpilledRows, slab_width, spill
from mksdask.staging import Url

Array = NDArray[Any]

# Partial Gram matrices that are added up in a tree; fixed, so that repeated runs agree to the last bit.
GRAM_TASKS = 32


@dataclass(frozen=True)
class _GramPlan:
    """How a lazy matrix with more features than samples is reduced: slabs that fit beside Gram matrices."""

    width: int
    stages: tuple[Stage, ...]

    @classmethod
    def of(cls, features: da.Array, n_components: int, limit: Limit, first: Stage | None = None) -> _GramPlan:
        """Choose slabs; `first` is the stage that writes rows, where it does more than that.

        Raises
        ------
        ValueError
            If nothing fits, with the limit that would.
        """
        (n, p), itemsize = features.shape, features.dtype.itemsize
        # The sum of Gram matrices, a part of it that is added, and one that is computed.
        grams, rows = 3 * 8 * n * n, max(features.chunks[0])
        if first is None:
            first = Stage("write rows", len(features.chunks[0]), 2 * rows * p * itemsize, float(n * p * itemsize))
        narrowest = grams + min(p, LEAST_WIDTH) * n * (itemsize + 8)
        # The vectors that project a slab on the components.
        vectors = 8 * (n_components + 1) * n
        least = max(first.task_bytes, narrowest, narrowest - grams + vectors)
        if least > limit.task_bytes:
            what = f"reducing {n} samples of {p} features in chunks of {rows} samples"
            raise limit.refusal(least, what, "reduce fewer samples at once, or rechunk X to fewer samples a chunk")
        width = slab_width(n, p, features.dtype, min(SLAB_BYTES, limit.task_bytes - max(grams, vectors)))
        n_slabs = -(-p // width)
        matrix, slab = float(n * p * itemsize), n * min(width, p) * (itemsize + 8)
        stages = (
            replace(first, bytes_written=matrix),
            Stage("Gram matrix", min(GRAM_TASKS, n_slabs), slab + grams, matrix, 0.0, float(p) * n * n),
            # Where there are no workers, the components come together beside the slab.
            Stage("components", n_slabs, slab + vectors, matrix, 0.0, 2.0 * p * n * n_components),
        )
        return cls(width, stages)


def _gram_of_slabs(run: Array, *, rows: SpilledRows) -> Array:
    """Upper triangle of Σ (f - f̄)(f - f̄)ᵀ over a run of slabs, (1, n, n)."""
    gram, matrix = np.zeros((rows.n_samples, rows.n_samples), order="F"), rows.open()
    for index in run:
        gram = _add_gram(gram, np.asarray(matrix[:, rows.slabs[index]]))
    return gram[None]


def _add_gram(gram: Array, slab: Array) -> Array:
    centred = slab.astype(np.float64)
    centred -= centred.mean(axis=0)
    return dsyrk(1.0, centred.T, beta=1.0, c=gram, trans=1, overwrite_c=1)


def _project_slab(slab: Array, left: Array) -> Array:
    """Components and mean of a slab of features: (k + 1, width)."""
    values = slab.astype(np.float64)
    mean = values.mean(axis=0)
    values -= mean
    return np.concatenate([left.T @ values, mean[None]])


def _components_of_slab(index: Array, left: Array, *, rows: SpilledRows) -> Array:
    (number,) = index
    return _project_slab(np.asarray(rows.open()[:, rows.slabs[number]]), left)


@dataclass
class _Moments:
    """Count, mean and scatter Σ (f - f̄)ᵀ(f - f̄) of some rows."""

    count: int
    mean: Array
    scatter: Array

    @classmethod
    def of(cls, block: Array) -> _Moments:
        values = block.astype(np.float64)
        mean = values.mean(axis=0) if len(values) else np.zeros(values.shape[1])
        values -= mean
        return cls(len(values), mean, values.T @ values)

    def merge(self, other: _Moments) -> _Moments:
        """Chan, Golub, LeVeque (1983), Eq. 2.1."""
        count = self.count + other.count
        if not count:
            return self
        shift = other.mean - self.mean
        weight = self.count * other.count / count
        scatter = self.scatter + other.scatter + weight * np.outer(shift, shift)
        return _Moments(count, self.mean + shift * (other.count / count), scatter)


def _leading(matrix: Array, k: int, *, lower: bool) -> tuple[Array, Array]:
    """The k largest eigenvalues, falling, and their vectors."""
    n = len(matrix)
    values, vectors = scipy.linalg.eigh(matrix, lower=lower, subset_by_index=[n - k, n - 1], check_finite=False)
    return np.maximum(values[::-1], 0.0), vectors[:, ::-1]


class PCA(Projection):
    r"""Exact principal component analysis, in memory or out of core.

    With the centred matrix :math:`F = U \Sigma \Phi`, the scores are :math:`\mu = U \Sigma` and the components
    the rows of :math:`\Phi`. They come from an eigendecomposition of :math:`F F^T` (n × n) where there are more
    features than samples, of :math:`F^T F` otherwise; both are accumulated in float64.

    Parameters
    ----------
    n_components : int, optional
        Number of components. Default: as many as samples or features.
    scratch : str or path, optional
        Where lazy input with more features than samples is written once, uncompressed, to be read twice. All workers
        must reach it. Default: the system's temporary folder. It is removed at the end, also on error.

    Attributes
    ----------
    components_ : ndarray, shape (n_components_, n_features)
        Orthonormal rows, in the dtype of the input; the entry of largest magnitude is positive. A direction without
        variance is a row of zeros.
    mean_ : ndarray, shape (n_features,)
        Mean of each feature, float64.
    singular_values_, explained_variance_, explained_variance_ratio_ : ndarray, shape (n_components_,)
        Falling; float64.
    n_components_, n_features_in_, n_samples_ : int
        Sizes.

    Notes
    -----
    Squaring the matrix squares its condition number: components with σ_k/σ_1 above 1e-3 (float64 input) or 3e-2
    (float32 input) are exact to rounding.

    Passes over lazy input: one where n_features <= n_samples. Otherwise one over the input and two over the scratch
    store, each a computation of its own. A task then holds a slab of features of all samples (96 MiB, or less if a
    worker has less, see `mksdask.plan`) and up to three Gram matrices of 8 n² bytes.

    References
    ----------
    Sirovich, L. Turbulence and the dynamics of coherent structures, part 1. Q. Appl. Math. 45 (1987) 561.
    Chan, T. F., Golub, G. H., LeVeque, R. J. Algorithms for computing the sample variance. Am. Stat. 37 (1983) 242.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(20, 100))
    >>> pca = PCA(3)
    >>> scores = pca.fit_transform(X)
    >>> bool(np.allclose(pca.transform(X), scores))
    True
    """

    def __init__(self, n_components: int | None = None, *, scratch: Url | None = None) -> None:
        self.n_components = n_components
        self.scratch = scratch

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Find the components.

        Parameters
        ----------
        X : array, shape (n_samples, n_features)
            NumPy or dask, whole rows in each chunk.
        y : None
            Ignored.

        Raises
        ------
        ValueError
            If X is not a finite matrix, or has too few samples or features for `n_components`.
        """
        self.fit_transform(X)
        return self

    def fit_transform(self, X: ArrayLike, y: object = None) -> Any:
        """Find the components and return the scores, which need no further pass.

        Parameters
        ----------
        X : array, shape (n_samples, n_features)
            NumPy or dask, whole rows in each chunk.
        y : None
            Ignored.

        Returns
        -------
        array of the kind of `X`, shape (n_samples, n_components_)
        """
        scores = self.fit_scores(X)
        data, _ = unwrap(X)
        if isinstance(data, da.Array) and isinstance(scores, np.ndarray):
            return da.from_array(scores, chunks=(data.chunks[0], -1))
        return scores

    def fit_scores(self, X: ArrayLike) -> Any:
        """`fit_transform`, with the scores as an ndarray where `fit` has them anyway.

        Parameters
        ----------
        X : array, shape (n_samples, n_features)
            NumPy or dask, whole rows in each chunk.

        Returns
        -------
        ndarray, shape (n_samples, n_components_)
            A dask array, which takes another pass, for lazy X with no more features than samples.
        """
        data, _ = unwrap(X)
        k = self._check(data)
        is_wide = data.shape[1] > data.shape[0]
        if isinstance(data, da.Array):
            check_whole_samples(data)
            return self._fit_wide(data, k) if is_wide else self._fit_tall(data, k)
        if is_wide:
            gram = _add_gram(np.zeros((len(data), len(data)), order="F"), data)
            _check_finite(gram)
            left, scores = self._decompose_gram(gram, k)
            scores *= self._set_components(_project_slab(data, left), data.dtype)
            return scores.astype(data.dtype)
        self._decompose_moments(_Moments.of(data), k, data.dtype)
        return self.transform(data)

    def _check(self, data: Any) -> int:
        if data.ndim != 2 or 0 in data.shape:
            msg = f"X must be a matrix (n_samples, n_features), got shape {tuple(data.shape)}"
            raise ValueError(msg)
        if data.dtype.kind not in "f":
            msg = f"X must be float32 or float64, got {data.dtype}"
            raise TypeError(msg)
        limit = min(data.shape)
        k = limit if self.n_components is None else self.n_components
        if not isinstance(k, int | np.integer) or not 1 <= k <= limit:
            msg = (
                f"n_components={self.n_components!r} must be an integer between 1 and {limit}, the smaller of "
                f"n_samples={data.shape[0]} and n_features={data.shape[1]}"
            )
            raise ValueError(msg)
        self.n_samples_, self.n_features_in_ = map(int, data.shape)
        return int(k)

    def _fit_wide(self, data: da.Array, k: int) -> Array:
        width = _GramPlan.of(data, k, Limit.of()).width
        with spill(data, self.scratch, width=width) as rows:
            n_slabs = len(rows.slabs)
            runs = da.arange(n_slabs, chunks=-(-n_slabs // GRAM_TASKS))
            n = rows.n_samples
            partial_grams = runs.map_blocks(
                partial(_gram_of_slabs, rows=rows),
                chunks=((1,) * runs.numblocks[0], (n,), (n,)),
                new_axis=[1, 2],
                dtype=np.float64,
                meta=np.empty((0, 0, 0)),
                name="gram-" + dask.base.tokenize(rows),
            )
            gram = np.asarray(partial_grams.sum(axis=0, split_every=2).compute())
            _check_finite(gram)
            left, scores = self._decompose_gram(gram, k)
            widths = tuple(slab.stop - slab.start for slab in rows.slabs)
            slabs = da.arange(n_slabs, chunks=1)
            projected = da.blockwise(
                partial(_components_of_slab, rows=rows),
                "kf",
                slabs,
                "f",
                da.from_array(left, chunks=-1),
                "nj",
                new_axes={"k": k + 1},
                adjust_chunks={"f": widths},
                concatenate=True,
                dtype=np.float64,
                meta=np.empty((0, 0)),
                name="components-" + dask.base.tokenize(rows),
            )
            scores *= self._set_components(projected.compute(), data.dtype)
        return scores.astype(data.dtype)

    def _fit_tall(self, data: da.Array, k: int) -> da.Array:
        plan_pca(data, k, Limit.of())
        moments_of = dask.delayed(_Moments.of)
        blocks = [moments_of(block) for block in data.to_delayed().ravel()]
        moments = merge_tree(blocks, _Moments.merge, name="merge-moments-" + dask.base.tokenize(data))
        self._decompose_moments(moments.compute(), k, data.dtype)
        return self.transform(data)

    def _decompose_gram(self, gram: Array, k: int) -> tuple[Array, Array]:
        """Vectors that project the centred matrix on its components, and the scores but for signs."""
        values, vectors = _leading(gram, k, lower=False)
        self._set_spectrum(values, float(np.trace(gram)))
        singular = self.singular_values_
        has_variance = _has_variance(values, len(gram))
        inverse = np.divide(1.0, singular, out=np.zeros_like(singular), where=has_variance)
        return vectors * inverse, vectors * np.where(has_variance, singular, 0.0)

    def _decompose_moments(self, moments: _Moments, k: int, dtype: np.dtype[Any]) -> None:
        _check_finite(moments.scatter)
        values, vectors = _leading(moments.scatter, k, lower=True)
        self._set_spectrum(values, float(np.trace(moments.scatter)))
        components = vectors.T * _has_variance(values, len(moments.scatter))[:, None]
        self._set_components(np.concatenate([components, moments.mean[None]]), dtype)

    def _set_spectrum(self, values: Array, total: float) -> None:
        self.n_components_ = len(values)
        self.singular_values_ = np.sqrt(values)
        self.explained_variance_ = values / max(1, self.n_samples_ - 1)
        self.explained_variance_ratio_ = values / total if total > 0 else np.zeros_like(values)

    def _set_components(self, projected: Array, dtype: np.dtype[Any]) -> Array:
        """Store components and mean; return the sign of each component's scores."""
        components = projected[:-1]
        largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1)
        signs = np.where(largest < 0, -1.0, 1.0)
        self.components_ = (components * signs).astype(dtype)
        self.mean_ = projected[-1].astype(np.float64)
        return signs[:, 0]


def plan_pca(features: Any, n_components: int, limit: Limit, first: Stage | None = None) -> tuple[Stage, ...]:
    """Stages of `PCA.fit`; `first` is the stage of the last pass over the input, where it does more than PCA's."""
    n, p = map(int, features.shape)
    itemsize = features.dtype.itemsize
    if not isinstance(features, da.Array):
        small = 8 * min(n, p) ** 2
        whole = Stage("PCA in memory", 1, n * p * 8 + 3 * small, n * p * itemsize, 0.0, float(p) * n * min(n, p))
        return (whole,) if first is None else (first, whole)
    if p > n:
        return _GramPlan.of(features, n_components, limit, first).stages
    rows = max(features.chunks[0])
    moments = rows * p * (itemsize + 8) + 3 * 8 * p * p
    # Statistics are computed twice, for the moments and for the scores.
    moments = max(moments, 0 if first is None else first.task_bytes + 8 * rows * p + 3 * 8 * p * p)
    scores = rows * (p * (itemsize + 8) + 8 * n_components)
    if max(moments, scores) > limit.task_bytes:
        what = f"reducing {p} features in chunks of {rows} samples"
        raise limit.refusal(max(moments, scores), what, "rechunk X to fewer samples a chunk")
    stages = (Stage("moments", len(features.chunks[0]), moments, float(n * p * itemsize), 0.0, float(n) * p * p),)
    return (*stages, Stage("scores", len(features.chunks[0]), scores, float(n * p * itemsize)))


def result_bytes_of(shape: tuple[int, int], n_components: int) -> int:
    """Bytes of scores and components in the caller's process, while they are put together in double precision."""
    return 8 * (n_components + 1) * (shape[0] + 2 * shape[1])


@planner_of(PCA.fit, PCA.fit_transform)
def _plan(pca: PCA, X: ArrayLike, y: object = None) -> Plan:
    data, limit = unwrap(X)[0], Limit.of()
    k = clone(pca)._check(data)
    stages = plan_pca(data, k, limit)
    layout = {"samples": data.shape[0], "features": data.shape[1], "components": k}
    if len(stages) == 3:
        layout["features of a slab"] = _GramPlan.of(data, k, limit).width
    return Plan("PCA.fit", layout, stages, limit, result_bytes=result_bytes_of(data.shape, k))


def _has_variance(values: Array, size: int) -> Array:
    """Which eigenvalues are more than rounding."""
    return values > values[0] * size * np.finfo(float).eps


def _check_finite(matrix: Array) -> None:
    if not np.isfinite(matrix).all():
        msg = "X holds NaN or infinite values; PCA needs finite features"
        raise ValueError(msg)
