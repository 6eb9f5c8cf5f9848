"""Principal component analysis, in memory or out of core: exact, from sketches, or in a random subspace."""

from __future__ import annotations

import warnings
from collections.abc import Hashable
from dataclasses import dataclass
from functools import partial
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
from mksdask.compute.recent import recalled
from mksdask.reduction.by_features import Gram, centred_gram, components_of, gram_of_complete, gram_of_gappy, gram_times
from mksdask.reduction.by_samples import Moments, moments_of_gappy
from mksdask.reduction.missing import check_observed
from mksdask.reduction.projection import Projection, label_scores, matrix_of
from mksdask.reduction.sketch import sketch_rank, sketch_rows
from mksdask.reduction.slabs import Slabs, slabs_of
from mksdask.reduction.spectrum import Spectrum, directions, varies, vectors_for
from mksdask.reduction.strategy import Strategy, result_bytes_of
from mksdask.schema import FLAG, NOTHING, ArrayOf, Choice, Number, Saved, Whole
from mksdask.schema.arguments import checked
from mksdask.storage.atomic import Url
from mksdask.storage.scratch import spill

SOLVERS = ("auto", "gram", "incremental", "randomized")
# Most passes that fill gaps. They end earlier if the scatter matrix changes by less than TOLERANCE of its trace.
MOST_PASSES, TOLERANCE = 500, 1e-9
# Rounding does not affect eigenvalues above this share of the largest one. Below it, components are checked.
_EXACT = {"f": 1e-3, "d": 1e-6}


def _less_mean(columns: Array) -> Array:
    """Centre columns, which removes what the rounded means of features have left in them."""
    return np.asarray(columns - columns.mean(axis=0))


class PCA(Projection):
    r"""Principal component analysis, in memory or out of core, of data that is chunked in samples and features.

    The centred matrix is :math:`F = U \Sigma \Phi`. The scores are :math:`\mu = U \Sigma`, and the components are the
    rows of :math:`\Phi`.

    Parameters
    ----------
    n_components : int or float, optional
        Number of components, or a fraction between 0 and 1 of the variance, which the components must exceed. Default:
        the number of samples or of features, whichever is smaller.
    solver : {"auto", "gram", "incremental", "randomized"}, default "auto"
        gram
            Exact. If there are more features than samples, this is the eigendecomposition of :math:`F F^T` (n × n),
            which is summed over slabs of features. Otherwise it is that of :math:`F^T F`.
        incremental
            Merges sketches of chunks of samples, in one pass. `IncrementalPCA` says how exact this is.
        randomized
            Subspace iteration on :math:`F F^T` from a random start, for data with too many samples and too many
            features. Each iteration is one pass over slabs of features.
        auto
            The first of these that fits into memory, as `mksdask.plan` shows. For data in memory this is gram.
    whiten : bool, default False
        Scale scores to unit variance.
    random_state : int or RandomState, optional
        Source of the random start of the randomized solver. Default: 0, so that a repeated fit gives the same result.
    oversampling : int, optional
        Directions beyond `n_components` that the incremental and randomized solvers keep. Default:
        ``max(40, 2 * n_components)``.
    iterated_power : int, default 3
        Number of iterations of the randomized solver. It makes two more passes.
    scratch : str or path, optional
        Folder for an uncompressed copy of lazy data. The copy is made if data that is chunked in samples alone must be
        read in slabs. All workers must reach the folder. The copy is removed at the end, also on error. Default: the
        temporary folder of the system.

    Attributes
    ----------
    solver_ : str
        The solver that was used.
    components_ : ndarray, shape (n_components_, n_features)
        Components in orthonormal rows, in the dtype of X. The entry of largest magnitude in a row is positive. If the
        data vary in fewer directions, arbitrary orthonormal rows complete the others.
    mean_ : ndarray, shape (n_features,)
        Mean of each feature, float64.
    singular_values_, explained_variance_, explained_variance_ratio_ : ndarray, shape (n_components_,)
        Singular values and variances in falling order, and the variances divided by the total variance, float64. The
        ratio is 0 if nothing varies.
    noise_variance_ : float
        Mean variance of the directions that are left out.
    n_components_, n_features_in_, n_samples_ : int
        Number of components, features and samples.
    n_iter_ : int
        Number of passes that filled gaps. 0 if no value was missing.

    Notes
    -----
    Data and products of features have the dtype of X. Sums of more than 1024 products are in float64. The gram solver
    squares the matrix, and so its condition number: components with σ_k/σ_1 above 1e-3 (float64 input) or 3e-2 (float32
    input) are exact to rounding.

    *Passes over lazy data.* If there are more features than samples, the gram solver needs slabs of features. It reads
    chunks of whole rows once, and their copy in `scratch` twice. Data that is chunked in features is not copied, but
    read twice; a task takes a stripe, which is all samples of one chunk of features. If there are fewer features, the
    gram solver reads the data once. The incremental solver reads it once. The randomized solver reads the copy, or the
    stripes, `iterated_power` + 2 times. If `fit` reads chunks of samples, the scores need one more pass.

    *Memory.* For slabs, a task holds a slab of features of all samples, its stripe if there is one, and up to three
    matrices of 8 n² bytes (gram) or 8 n l bytes (randomized, with l = `n_components` + `oversampling`). A slab takes
    96 MiB, or less if a worker has less memory.

    *Missing values.* Values that were not observed are NaN. The gram solver then minimizes
    :math:`\sum (f - \bar f - \mu \Phi)^2` over the observed values. It fills gaps by regression on the components, and
    computes the components again, until they no longer change. Only the data with gaps is read again. This needs an
    integer `n_components`. If a feature was observed in no more samples than there are components, it is interpolated,
    and carries no information.

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
    @checked
    def fit(self, X: ArrayLike, y: object = None) -> Operation[Self]:
        """Find the components.

        Parameters
        ----------
        X : array, shape (n_samples, n_features)
            Rows: NumPy, or dask with chunks in samples and features. A dask array must be float32 or float64.
        y : None
            Ignored.

        Returns
        -------
        PCA
            This estimator.

        Raises
        ------
        TypeError
            If a lazy X has another dtype.
        ValueError
            If X is not a matrix, holds infinite values, or has too few samples or features for `n_components`; if a
            feature is NaN in all samples; or if nothing fits into memory. The message then names the limit that would
            do.
        """
        return _Fit(self, X)

    @operation
    @checked
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
            Scores.

        Raises
        ------
        TypeError, ValueError
            As in `fit`.
        """
        return _FitTransform(self, X)

    def fit_scores(self, X: ArrayLike, *, resume: str | None = None, known: Hashable = None) -> Any:
        """Find the components and return the scores, in memory if `fit` computes them anyway.

        Parameters
        ----------
        X : array, shape (n_samples, n_features)
            As in `fit`.
        resume : str, optional
            A name for what X is. The copy that an earlier call with this name left in `scratch`, because it was killed,
            is completed and used. Only one call at a time may use a name.
        known : hashable, optional
            A name for what X in memory is. Eigenvectors that an earlier call with this name has found are used again.

        Returns
        -------
        ndarray or dask array, shape (n_samples, n_components_)
            Scores. They are a dask array if X is lazy and `fit` reads chunks of samples. Computing them then takes
            another pass.
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
            self._fit_moments(found.rows_of(data), k, known)
            return self.transform(data)
        with slabs_of(data, found.width, self.scratch, resume) as slabs:
            return self._fit_slabs(slabs, k, data.dtype, known)

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
                f"n_components={k} is a fraction, which needs all variances, but the {self.solver} solver finds only "
                "the leading ones; use an integer n_components, or solver='gram'"
            )
            raise ValueError(msg)
        self.n_samples_, self.n_features_in_ = map(int, data.shape)
        return float(k) if is_fraction else int(k)

    def _fit_slabs(self, slabs: Slabs, k: int | float, dtype: np.dtype[Any], known: Hashable) -> Array:
        n = self.n_samples_
        if self.solver_ == "gram":
            key = None if known is None else (known, "gram", vectors_for(k, n))
            spectrum, basis = recalled(key, partial(self._decompose, slabs, k))
        else:
            spectrum, basis = self._iterate(slabs, int(k)), None
        values, vectors = spectrum.leading(k)
        varied, singular = varies(values, n), np.sqrt(values)
        left = vectors * np.divide(1.0, singular, out=np.zeros_like(values), where=varied)
        parts = slabs.each(components_of, left, basis, dtype, name="components")
        components, self.mean_, start = np.empty((len(values), self.n_features_in_), dtype), np.empty(0), 0
        means = []
        while parts:
            # Each part is freed when it is copied. Memory does not hold all parts and the whole at once.
            part, mean = parts.pop(0)
            components[:, start : start + len(mean)] = part
            means.append(mean)
            start += len(mean)
        self.mean_ = np.concatenate(means)
        if values[-1] < _EXACT[dtype.char] * values[0]:
            varied &= directions(components)
        self._set_spectrum(np.where(varied, values, 0.0), spectrum.trace, (n, self.n_features_in_))
        signs = self._set_components(components, varied)
        scores = vectors * np.where(varied, self.singular_values_, 0.0) * signs
        return np.asarray(scores / self._scale()).astype(dtype)

    def _decompose(self, slabs: Slabs, k: int | float) -> tuple[Spectrum, Array | None]:
        """Decompose the Gram matrix. If there are gaps, return the left singular vectors that fill them too."""
        gram = slabs.reduce(gram_of_complete, Gram.merge, self.n_samples_, name="gram")
        total, basis = self._fill(slabs, gram, k) if gram.gappy else (centred_gram(gram.total), None)
        return Spectrum.of(total, k), basis

    def _fill(self, slabs: Slabs, gram: Gram, k: int | float) -> tuple[Array, Array]:
        """Fill gaps, and return the Gram matrix and the left singular vectors by which gaps were filled."""
        self._refuse_fraction(k)
        # The first pass is never the last, because this lacks a triangle.
        n, before = self.n_samples_, np.triu(gram.total)
        basis: Array | None = None
        for _ in range(MOST_PASSES):
            gappy = slabs.reduce(gram_of_gappy, add, n, basis, name="gram-of-gappy", only=gram.gappy)
            total = centred_gram(gram.total + gappy)
            self.n_iter_ += 1
            basis = Spectrum.of(total, k).leading(k)[1]
            if np.linalg.norm(total - before) <= TOLERANCE * np.trace(total):
                return total, basis
            before = total
        self._warn()
        assert basis is not None
        return total, basis

    def _iterate(self, slabs: Slabs, k: int) -> Spectrum:
        """Decompose F Fᵀ by subspace iteration."""
        seed = check_random_state(0 if self.random_state is None else self.random_state)
        size = min(self.n_samples_, self.n_features_in_, sketch_rank(k, self.oversampling))
        basis = scipy.linalg.qr(seed.normal(size=(self.n_samples_, size)), mode="economic")[0]
        for _ in range(self.iterated_power):
            product = slabs.reduce(gram_times, add, _less_mean(basis), name="gram-times")
            basis = scipy.linalg.qr(_less_mean(product[:-1]), mode="economic")[0]
        product = slabs.reduce(gram_times, add, _less_mean(basis), name="gram-times")
        values, vectors = Spectrum.of(basis.T @ _less_mean(product[:-1]), k).leading(k)
        return Spectrum(values, basis @ vectors, float(product[-1, 0]))

    def _fit_moments(self, data: Any, k: int | float, known: Hashable) -> None:
        key = None if known is None else (known, "moments", vectors_for(k, self.n_features_in_))
        spectrum, mean = recalled(key, partial(self._decompose_moments, data, k))
        values, vectors = spectrum.leading(k)
        values = np.where(varies(values, len(mean)), values, 0.0)
        self._set_spectrum(values, spectrum.trace, (self.n_samples_, len(mean)))
        self.mean_ = mean.copy()
        # All vectors are orthonormal, also those without variance.
        self._set_components(np.ascontiguousarray(vectors.T).astype(data.dtype), np.ones(len(values), dtype=bool))

    def _decompose_moments(self, data: Any, k: int | float) -> tuple[Spectrum, Array]:
        """Decompose the scatter matrix, and return the mean too."""
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
        return Spectrum.of(scatter, k), mean

    def _fill_rows(self, data: Any, complete: Moments, k: int) -> tuple[Array, Array]:
        """Fill gaps, and return the scatter matrix and the mean."""
        components, mean, scatter = None, complete.sums / complete.seen, complete.scatter
        for _ in range(MOST_PASSES):
            options, name = {"components": components, "mean": mean}, "moments-of-gappy"
            gappy = fold_samples(moments_of_gappy, Moments.merge, data, name=name, options=options)
            moments = complete.merge(computed(gappy))
            self.n_iter_ += 1
            before, scatter = scatter, moments.scatter
            components, mean = Spectrum.of(scatter, k).leading(k)[1].T, moments.mean
            if np.linalg.norm(scatter - before) <= TOLERANCE * np.trace(scatter):
                break
        else:
            self._warn()
        return scatter, mean

    def _refuse_fraction(self, k: int | float) -> None:
        if not isinstance(k, int) or k >= min(self.n_samples_, self.n_features_in_):
            msg = (
                f"X holds NaN, and n_components={self.n_components!r}; the components fill what was not observed, so "
                "give their number, which must be less than that of samples and of features"
            )
            raise ValueError(msg)

    def _warn(self) -> None:
        warnings.warn(
            f"Gaps of X still changed after {MOST_PASSES} passes; too many values are missing for "
            f"n_components={self.n_components}. Use fewer components, or leave out the features with most gaps",
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
    """Plan the stages of `PCA.fit` and their layout. `first` is as in `Strategy.of`."""
    clone(pca)._check(features)
    found = Strategy.of(pca, features, limit, first)
    layout = {"components": pca.n_components or min(features.shape), "solver": found.solver}
    if found.width:
        layout["features of a slab"] = found.width
    return found.stages, layout


@dataclass(frozen=True)
class _Fit(Operation[PCA]):
    """The arguments of `PCA.fit`, which are checked when it is planned or run."""

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
    """The arguments of `PCA.fit_transform`, which are checked when it is planned or run."""

    def run(self) -> Any:
        scores = self.pca.fit_scores(self.X)
        if is_lazy(self.X) and isinstance(scores, np.ndarray):
            scores = in_chunks_of(unwrap(self.X)[0], scores)
        return label_scores(scores, self.X)
