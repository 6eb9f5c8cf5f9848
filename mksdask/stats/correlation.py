"""2-point statistics of ensembles: f[h, h'; r] for all lags r of each sample.

    f[h, h'; r] = 1/Ω[r] Σ_s m*[h; s] m[h'; s + r]

computed as a product of transforms, few samples at a time so that the work stays in cache.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self, TypeAlias

import numpy as np
import xarray as xr
from numpy.typing import DTypeLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from mksdask.arrays import Array, ArrayLike, axes_argument, label, names, unwrap, unwrap_samples
from mksdask.bases import PrimitiveBasis
from mksdask.bases.base import Basis, n_spatial_axes, state_labels
from mksdask.compute.blocks import check_whole_samples, map_samples
from mksdask.compute.operation import Limit, Plan, SampleWork, chunk_layout, fft_operations, planner_of
from mksdask.samples import as_samples, periodic_axes_of, spacing_of
from mksdask.stats.lags import LagTransform

Pairs: TypeAlias = Sequence[tuple[int, int]]

# Transforms of about this many voxels stay in cache; small samples are transformed together.
BATCH_VOXELS = 2**15


@dataclass(frozen=True)
class _Correlation:
    """The kernel of one block of samples.

    `pairs` are indices of states. Where all states of a sum ``Σ_h w_h m[h; s] = 1`` take part, the last of them is
    never transformed. If all weights are 1 and the cell is periodic, the last pair of a full row follows from
    ``Σ_h' f[h, h'; r] = v_h``.
    """

    basis: Basis | None
    transform: LagTransform
    pairs: tuple[tuple[int, int], ...]
    n_states: int
    dtype: np.dtype[Any]

    @property
    def result_dtype(self) -> np.dtype[Any]:
        return self.dtype if self.transform.real else np.result_type(self.dtype, np.complex64)

    def __call__(self, block: Array, confidence: Array | None = None, shared: Array | None = None) -> Array:
        """f[h, h'; r] of a block: (n, *spatial) → (n, *lags, n_pairs)."""
        out = np.empty((len(block), *self.transform.shape, len(self.pairs)), dtype=self.result_dtype)
        masks, weight, whole = None, None, None
        if confidence is None:
            ones = np.ones((1, *self.transform.spatial)) if shared is None else shared[None]
            masks = None if shared is None else ones.astype(self.dtype)
            weight, whole = self._weight(ones, is_masked=shared is not None), self._whole(ones)
        for start in range(0, len(block), self._batch):
            rows = slice(start, start + self._batch)
            if confidence is not None:
                weight, whole = self._weight(confidence[rows], is_masked=True), self._whole(confidence[rows])
                masks = confidence[rows].astype(self.dtype, copy=False)
            self._correlate(block[rows], masks, weight, whole, out[rows])
        return out

    @cached_property
    def _batch(self) -> int:
        """Samples that are transformed together: many small ones, one large one."""
        return max(1, BATCH_VOXELS // int(np.prod(self.transform.lengths)))

    @cached_property
    def _needed(self) -> list[int]:
        return sorted({state for pair in self.pairs for state in pair})

    @cached_property
    def _unity(self) -> Array | None:
        """Weights w_h with Σ_h w_h m[h; s] = 1, where all these states are needed, and others."""
        unity = None if self.basis is None or self.n_states == 1 else self.basis.unity
        return unity if unity is not None and set(np.flatnonzero(unity)) <= set(self._needed) else None

    @cached_property
    def _derived(self) -> int | None:
        """The state that follows from the others."""
        return None if self._unity is None else int(np.flatnonzero(self._unity)[-1])

    @cached_property
    def _full_rows(self) -> dict[int, list[int]]:
        """Positions of the pairs (a, 0) … (a, n - 1) by the last of them, for each a that has them all once."""
        if self._unity is None or not ((self._unity == 1.0).all() and all(self.transform.periodic)):
            return {}
        rows: dict[int, list[int]] = {}
        for position, (a, _) in enumerate(self.pairs):
            rows.setdefault(a, []).append(position)
        everything = list(range(self.n_states))
        return {row[-1]: row[:-1] for row in rows.values() if sorted(self.pairs[p][1] for p in row) == everything}

    def _weight(self, confidence: Array, *, is_masked: bool) -> Array | float:
        """1/Ω[r]."""
        if not is_masked:
            omega = self.transform.count_pairs()
            return 1.0 / float(omega.flat[0]) if all(self.transform.periodic) else (1.0 / omega).astype(self.dtype)
        lowest, highest = confidence.min(), confidence.max()
        if not (lowest >= 0.0 and highest <= 1.0):
            msg = f"confidence_index must lie in [0, 1] without NaN, got values from {lowest} to {highest}"
            raise ValueError(msg)
        return (1.0 / self.transform.count_confident_pairs(confidence)).astype(self.dtype)

    def _whole(self, confidence: Array) -> Array | None:
        """Transform of Σ_h w_h c m[h; s] = c."""
        return None if self._unity is None else self.transform.forward(confidence.astype(self.dtype, copy=False))

    def _fields(self, samples: Array, masks: Array | None, states: Sequence[int]) -> Iterator[Array]:
        """Fields c m[h; s] of some states; what X holds where c = 0 does not matter, be it NaN."""
        if masks is not None:
            observed = masks > 0
            fill = 0 if self.basis is None else self.basis.placeholder
            samples = np.where(observed if samples.ndim == masks.ndim else observed[..., None], samples, fill)
        if self.basis is not None:
            for field in self.basis.fields(samples, states, self.dtype):
                yield field if masks is None else field * masks
            return
        for state in states:
            field = np.ascontiguousarray(samples[..., state], dtype=self.result_dtype)
            if not np.isfinite(field).all():
                msg = (
                    f"X holds NaN or infinite values in state {state}; give voxels without data a confidence_index of 0"
                )
                raise ValueError(msg)
            yield field if masks is None else field * masks

    def _correlate(self, samples: Array, masks: Array | None, weight: Any, whole: Array | None, out: Array) -> None:
        states = [state for state in self._needed if state != self._derived]
        spectra: dict[int, Array] = {}
        for state, field in zip(states, self._fields(samples, masks, states), strict=True):
            spectra[state] = self.transform.forward(field)
        if whole is not None and self._unity is not None and self._derived is not None:
            rest = np.broadcast_to(whole, (len(samples), *whole.shape[1:])).copy()
            for state, spectrum in spectra.items():
                if self._unity[state]:
                    rest -= spectrum if self._unity[state] == 1.0 else self._unity[state] * spectrum
            spectra[self._derived] = rest if self._unity[self._derived] == 1.0 else rest / self._unity[self._derived]
        full_rows = self._full_rows if masks is None else {}
        for position, (a, b) in enumerate(self.pairs):
            if position not in full_rows:
                self.transform.inverse(spectra[a].conj() * spectra[b], out[..., position], weight)
        for position, others in full_rows.items():
            origin = (slice(None), *(slice(0, 1),) * (out.ndim - 2))
            fraction = spectra[self.pairs[position][0]][origin].real * weight
            np.subtract(fraction, out[..., others[0]], out=out[..., position])
            for other in others[1:]:
                out[..., position] -= out[..., other]

    @property
    def sample_bytes(self) -> int:
        """Bytes of the statistics of one sample."""
        return int(np.prod(self.transform.shape)) * len(self.pairs) * self.result_dtype.itemsize

    def task_bytes(self, n_samples: int, *, is_masked: bool = False) -> int:
        """Peak bytes of a task beyond its input block: the result, and the work arrays of one batch."""
        *leading, last = self.transform.lengths
        frequencies = int(np.prod(leading)) * (last // 2 + 1 if self.transform.real else last)
        batch = min(n_samples, self._batch)
        work = (len(self._needed) + 6) * frequencies * 2 * self.dtype.itemsize
        if is_masked:
            # Ω[r] is found in double precision.
            work += 16 * int(np.prod(leading)) * (last // 2 + 1)
        return n_samples * self.sample_bytes + batch * work


def resolve_pairs(
    correlations: Pairs | None, states: Sequence[int], basis: Basis | None = None
) -> tuple[tuple[int, int], ...]:
    """Pairs of state labels; the default pairs the first state with each, and, if it is constant, each with itself.

    Raises
    ------
    ValueError
        If a pair is not two labels of `states`.
    """
    if correlations is None:
        weights = None if basis is None else basis.unity
        if weights is None or np.count_nonzero(weights) != 1 or len(states) == 1:
            return tuple((states[0], other) for other in states)
        # Statistics of a constant state know means alone.
        constant = states[int(np.argmax(weights != 0.0))]
        others = [state for state in states if state != constant]
        return (*((constant, state) for state in states), *((state, state) for state in others))
    pairs = []
    for pair in correlations:
        if np.shape(pair) != (2,) or any(h not in states for h in pair):
            msg = f"correlations must be pairs of local states out of {tuple(states)}, got {pair!r} in {correlations!r}"
            raise ValueError(msg)
        pairs.append((int(pair[0]), int(pair[1])))
    if not pairs:
        msg = "correlations is empty; name at least one pair, such as [(0, 0)], or leave it None"
        raise ValueError(msg)
    return tuple(pairs)


def correlate(
    X: ArrayLike,
    basis: Basis | None,
    *,
    periodic_axes: int | Sequence[int] | None = None,
    confidence_index: ArrayLike | None = None,
    correlations: Pairs | None = None,
    cutoff: int | Sequence[int] | None = None,
    dtype: DTypeLike = "float32",
) -> Any:
    r"""2-point statistics of each sample.

    .. math:: f[h, h'; r] = \frac{1}{\Omega[r]} \sum_s m^*[h; s]\, m[h'; s + r]

    Parameters
    ----------
    X : array, shape (n_samples, *spatial)
        Local state of each voxel, 1 to 3 spatial axes; NumPy, dask, zarr or xarray. With ``basis=None``, the
        microstructure function itself, (n_samples, *spatial, n_states).
    basis : Basis or None
        Basis of the local state.
    periodic_axes : sequence of int, optional
        Spatial axes that are periodic. Default: what a DataArray's ``periodic_axes`` attribute says, else none.
    confidence_index : array, shape (n_samples, *spatial) or (*spatial,), optional
        Weight c[s] in [0, 1] of each voxel: m is weighted by c, and ``Ω[r] = Σ_s c[s] c[s + r]``. A lag that no
        pair of voxels observes is NaN. Where c is 0, X may hold anything, NaN too.
    correlations : list of (int, int), optional
        Pairs (h, h') of state labels. Default (0, 0), (0, 1), …, (0, n - 1), which determine all others of a primitive
        basis on a periodic domain. Where the first state is constant, as of the other bases, these are means, and the
        autocorrelations (1, 1), …, (n - 1, n - 1) follow.
    cutoff : int or sequence of int, optional
        Largest lag along each axis; lags then run from -cutoff to cutoff. Default -(n//2) to (n - 1)//2.
    dtype : {"float32", "float64"}
        Precision of transforms and result. The rounding error is about ``1e-6 · max(1, Ω[0]/Ω[r])`` in float32.

    Returns
    -------
    array of the kind of `X`, shape (n_samples, *lags, n_pairs)
        Lag 0 is at index n//2 of each axis, or at `cutoff`. Complex for complex bases. A DataArray has dims
        ``lag_x``, … in the units of `X`, and ``pair``, such as "0,1" or, of named phases, "pore–grain", with
        ``state_1`` and ``state_2``.

    Raises
    ------
    ValueError
        If an axis, pair or cutoff does not exist, if a chunk cuts through samples, or, when the block is
        computed, if values are NaN or outside the domain.

    Notes
    -----
    Lazy for lazy input: one task a chunk, which needs its result and ``n_states + 6`` transforms of one sample beyond
    its input; a chunk that would not fit into a worker is cut, see `mksdask.plan`. Axes that are not periodic are
    padded to n + (largest lag) only, and rows of padding are not transformed.

    References
    ----------
    Cecen, A., Fast, T., Kalidindi, S. R. Versatile algorithms for the computation of 2-point spatial
    correlations in quantifying material structure. Integr. Mater. Manuf. Innov. 5 (2016) 1.

    Examples
    --------
    >>> import numpy as np
    >>> from mksdask import PrimitiveBasis
    >>> X = np.array([[0, 0, 1, 1]])
    >>> f = correlate(X, PrimitiveBasis(2), periodic_axes=[0], correlations=[(0, 0)])
    >>> f[0, :, 0].tolist()  # lags -2, -1, 0, 1
    [0.0, 0.25, 0.5, 0.25]
    """
    problem = CorrelationProblem.of(X, basis, periodic_axes, confidence_index, correlations, cutoff, dtype)
    kernel, labels = problem.kernel, problem.labels
    result = map_samples(
        kernel,
        problem.work().fitting(problem.data),
        problem.masks,
        tail=(*kernel.transform.shape, len(problem.pairs)),
        dtype=kernel.result_dtype,
        name="correlate",
        shared=problem.shared,
    )
    if labels is None:
        return result
    dims, coords = lag_labels(labels, kernel.transform.lags, problem.pairs, kernel.basis)
    return label(result, labels, dims=dims, coords=coords, name="two_point_statistics", attrs=labels.attrs)


def lag_labels(
    samples: xr.DataArray, lags: Sequence[Array], pairs: Sequence[tuple[int, int]], basis: Basis | None
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Dims and coordinates of statistics of samples: lags in their units, and pairs of states or of named phases."""
    axes = spacing_of(samples, len(lags))
    coords: dict[str, Any] = {
        f"lag_{dim}": (f"lag_{dim}", along * step, {"units": units})
        for (dim, step, units), along in zip(axes, lags, strict=True)
    }
    phases = samples.attrs.get("phases") or ()
    if isinstance(basis, PrimitiveBasis) and len(phases) > max(max(pair) for pair in pairs):
        coords["pair"] = names([f"{phases[a]}–{phases[b]}" for a, b in pairs])
    else:
        coords["pair"] = names([f"{a},{b}" for a, b in pairs])
    coords["state_1"] = ("pair", [a for a, _ in pairs])
    coords["state_2"] = ("pair", [b for _, b in pairs])
    return (*(f"lag_{dim}" for dim, _, _ in axes), "pair"), coords


@dataclass(frozen=True)
class CorrelationProblem:
    """The arguments of `correlate`, checked, and its kernel."""

    data: Any
    labels: xr.DataArray | None
    masks: Any
    shared: tuple[Any, ...]
    pairs: tuple[tuple[int, int], ...]  # labels of states
    kernel: _Correlation

    @classmethod
    def of(
        cls,
        X: ArrayLike,
        basis: Basis | None,
        periodic_axes: int | Sequence[int] | None,
        confidence_index: ArrayLike | None,
        correlations: Pairs | None,
        cutoff: int | Sequence[int] | None,
        dtype: DTypeLike,
    ) -> CorrelationProblem:
        """Check arguments; their errors are those of `correlate`."""
        data, labels = unwrap_samples(X)
        n_spatial = n_spatial_axes(basis, data)
        if 0 in data.shape[1 : 1 + n_spatial]:
            msg = f"X must have voxels along each axis, got shape {tuple(data.shape)}"
            raise ValueError(msg)
        states = state_labels(basis, data)
        pairs = resolve_pairs(correlations, states, basis)
        real_dtype = np.dtype(dtype)
        if real_dtype not in (np.float32, np.float64):
            msg = f"dtype must be float32 or float64, got {dtype!r}"
            raise ValueError(msg)
        if periodic_axes is None:
            periodic_axes = periodic_axes_of(labels)
        is_real = data.dtype.kind != "c" if basis is None else basis.result_dtype(real_dtype).kind != "c"
        transform = LagTransform.plan(
            data.shape[1 : 1 + n_spatial], axes_argument(periodic_axes, n_spatial), cutoff, real=is_real
        )
        kernel = _Correlation(
            None if basis is None else clone(basis),
            transform,
            tuple((states.index(a), states.index(b)) for a, b in pairs),
            len(states),
            real_dtype,
        )
        masks, shared = _masks(confidence_index, labels, data.shape[0], transform.spatial)
        return cls(data, labels, masks, shared, pairs, kernel)

    def work(self, *, what: str = "statistics", copies: int = 0) -> SampleWork:
        """What tasks need; with `copies` of the result that a stage fused to them makes."""
        kernel, mask = self.kernel, 0
        if self.masks is not None:
            mask = int(np.prod(kernel.transform.spatial)) * self.masks.dtype.itemsize
        sample = int(np.prod(self.data.shape[1:])) * self.data.dtype.itemsize
        n_transforms = len({state for pair in kernel.pairs for state in pair}) + len(kernel.pairs)
        one = kernel.sample_bytes

        def task_bytes(n: int) -> int:
            return kernel.task_bytes(n, is_masked=bool(mask or self.shared)) + copies * n * one

        return SampleWork(
            what,
            sample + mask,
            task_bytes,
            one,
            n_transforms * fft_operations(kernel.transform.lengths, real=kernel.transform.real),
            "take fewer lags, pairs or states, or smaller samples",
        )


@planner_of(correlate)
def _plan(
    X: ArrayLike,
    basis: Basis | None,
    *,
    periodic_axes: int | Sequence[int] | None = None,
    confidence_index: ArrayLike | None = None,
    correlations: Pairs | None = None,
    cutoff: int | Sequence[int] | None = None,
    dtype: DTypeLike = "float32",
) -> Plan:
    problem = CorrelationProblem.of(X, basis, periodic_axes, confidence_index, correlations, cutoff, dtype)
    limit, transform = Limit.of(), problem.kernel.transform
    stage = problem.work().stage(problem.data, limit)
    layout = chunk_layout(problem.data, stage) | {"lags": transform.shape, "transform": transform.lengths}
    return Plan("correlate", layout, (stage,), limit)


def _masks(
    confidence_index: ArrayLike | None, labels: xr.DataArray | None, n_samples: int, spatial: tuple[int, ...]
) -> tuple[Any, tuple[Any, ...]]:
    """Masks of the samples, or the one that all share; a labelled one is laid along the dims of X."""
    if confidence_index is None:
        return None, ()
    if isinstance(confidence_index, xr.DataArray) and labels is not None:
        confidence_index = confidence_index.transpose(*(dim for dim in labels.dims if dim in confidence_index.dims))
    masks, _ = unwrap(confidence_index, name="confidence_index")
    check_whole_samples(masks, name="confidence_index")
    if masks.shape == spatial:
        return None, (masks,)
    if masks.shape != (n_samples, *spatial):
        msg = (
            f"confidence_index must have shape {(n_samples, *spatial)}, or {spatial} for one mask shared by all "
            "samples; "
            f"got {masks.shape}"
        )
        raise ValueError(msg)
    return masks, ()


def autocorrelate(X: ArrayLike, basis: Basis | None, *, correlations: Pairs | None = None, **options: Any) -> Any:
    """Autocorrelations f[h, h; r] of each sample; see `correlate` for the options, shapes and errors.

    Parameters
    ----------
    X : array, shape (n_samples, *spatial)
        Local state of each voxel.
    basis : Basis or None
        Basis of the local state.
    correlations : list of (int, int), optional
        Pairs (h, h). Default: those of all states.
    **options
        `periodic_axes`, `confidence_index`, `cutoff` and `dtype` of `correlate`.

    Returns
    -------
    array of the kind of `X`, shape (n_samples, *lags, n_pairs)

    Examples
    --------
    >>> import numpy as np
    >>> from mksdask import PrimitiveBasis
    >>> autocorrelate(np.array([[0, 0, 1, 1]]), PrimitiveBasis(2), periodic_axes=0)[0, 2].tolist()
    [0.5, 0.5]
    """
    states = _states_of(X, basis)
    pairs = [(h, h) for h in states] if correlations is None else correlations
    if any(a != b for a, b in pairs):
        msg = f"autocorrelate takes pairs (h, h), got {pairs!r}; use correlate or crosscorrelate"
        raise ValueError(msg)
    return correlate(X, basis, correlations=pairs, **options)


def crosscorrelate(X: ArrayLike, basis: Basis | None, *, correlations: Pairs | None = None, **options: Any) -> Any:
    """Cross-correlations f[h, h'; r], h ≠ h', of each sample; see `correlate` for the options, shapes and errors.

    Parameters
    ----------
    X : array, shape (n_samples, *spatial)
        Local state of each voxel.
    basis : Basis or None
        Basis of the local state.
    correlations : list of (int, int), optional
        Pairs (h, h'). Default: all with h before h'.
    **options
        `periodic_axes`, `confidence_index`, `cutoff` and `dtype` of `correlate`.

    Returns
    -------
    array of the kind of `X`, shape (n_samples, *lags, n_pairs)

    Examples
    --------
    >>> import numpy as np
    >>> from mksdask import PrimitiveBasis
    >>> crosscorrelate(np.array([[0, 0, 1, 1]]), PrimitiveBasis(2), periodic_axes=0)[0, :, 0].tolist()
    [0.5, 0.25, 0.0, 0.25]
    """
    states = _states_of(X, basis)
    pairs = list(itertools.combinations(states, 2)) if correlations is None else correlations
    if any(a == b for a, b in pairs):
        msg = f"crosscorrelate takes pairs of different states, got {pairs!r}; use correlate or autocorrelate"
        raise ValueError(msg)
    if not pairs:
        msg = f"crosscorrelate needs two local states, the basis has {len(states)}"
        raise ValueError(msg)
    return correlate(X, basis, correlations=pairs, **options)


def _states_of(X: ArrayLike, basis: Basis | None) -> tuple[int, ...]:
    return basis.states if basis is not None else state_labels(None, unwrap(X)[0])


class TwoPointStatistics(TransformerMixin, BaseEstimator):
    """`correlate` as a transformer for pipelines.

    Parameters
    ----------
    basis : Basis or None
        Basis of the local state; None if X already is m[h; s].
    periodic_axes, correlations, cutoff, dtype
        As in `correlate`.
    confidence_index : array, shape (*spatial,), optional
        One mask for all samples. Masks that differ between samples go to `transform`.
    flatten : bool, default False
        Return (n_samples, n_features) for the next step of a pipeline, instead of (n_samples, *lags, n_pairs).

    Attributes
    ----------
    size_ : tuple of int
        Spatial shape of the samples seen by `fit`.
    periodic_axes_ : sequence of int
        `periodic_axes`, or what the DataArray seen by `fit` said.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.decomposition import PCA
    >>> from sklearn.pipeline import make_pipeline
    >>> from mksdask import PrimitiveBasis
    >>> X = np.random.default_rng(0).integers(0, 2, (8, 5, 5))
    >>> statistics = TwoPointStatistics(PrimitiveBasis(2), periodic_axes=[0, 1], flatten=True)
    >>> make_pipeline(statistics, PCA(2)).fit_transform(X).shape
    (8, 2)
    """

    def __init__(
        self,
        basis: Basis | None = None,
        *,
        periodic_axes: int | Sequence[int] | None = None,
        confidence_index: ArrayLike | None = None,
        correlations: Pairs | None = None,
        cutoff: int | Sequence[int] | None = None,
        dtype: DTypeLike = "float32",
        flatten: bool = False,
    ) -> None:
        self.basis = basis
        self.periodic_axes = periodic_axes
        self.confidence_index = confidence_index
        self.correlations = correlations
        self.cutoff = cutoff
        self.dtype = dtype
        self.flatten = flatten

    def fit(self, X: ArrayLike, y: object = None, *, size: Sequence[int] | None = None) -> Self:
        """Remember the shape of the samples; nothing is computed.

        Parameters
        ----------
        X : array, shape (n_samples, *spatial), or (n_samples, n_voxels) with `size`
            Local state of each voxel.
        y : None
            Ignored.
        size : tuple of int, optional
            Spatial shape of flat samples.
        """
        samples = as_samples(X, size, trailing=_trailing(self.basis))
        self.size_ = tuple(samples.shape[1 : 1 + n_spatial_axes(self.basis, samples)])
        self.periodic_axes_ = periodic_axes_of(unwrap(X)[1]) if self.periodic_axes is None else self.periodic_axes
        data = unwrap(samples)[0]
        # One sample of that shape, of which nothing is read.
        like = np.broadcast_to(np.zeros((), dtype=data.dtype), (1, *data.shape[1:]))
        problem = CorrelationProblem.of(
            like, self.basis, self.periodic_axes_, None, self.correlations, self.cutoff, self.dtype
        )
        self._pairs, self._lags = problem.pairs, problem.kernel.transform.lags
        self._is_complex = not problem.kernel.transform.real
        return self

    def transform(self, X: ArrayLike, *, confidence_index: ArrayLike | None = None) -> Any:
        """2-point statistics of `X`, lazily for lazy input.

        Parameters
        ----------
        X : array, shape (n_samples, *spatial) or flat
            Local state of each voxel.
        confidence_index : array, shape (n_samples, *spatial), optional
            Instead of the mask given at construction.

        Returns
        -------
        array of the kind of `X`, shape (n_samples, *lags, n_pairs) or (n_samples, n_features)
        """
        size = getattr(self, "size_", None)
        if confidence_index is None:
            confidence_index = self.confidence_index
        elif size is not None and confidence_index.shape != size:
            confidence_index = as_samples(confidence_index, size, name="confidence_index")
        statistics = correlate(
            as_samples(X, size if unwrap(X)[0].ndim == 2 else None, trailing=_trailing(self.basis)),
            self.basis,
            periodic_axes=getattr(self, "periodic_axes_", self.periodic_axes),
            confidence_index=confidence_index,
            correlations=self.correlations,
            cutoff=self.cutoff,
            dtype=self.dtype,
        )
        return flat_features(statistics) if self.flatten else statistics

    def get_feature_names_out(self, input_features: object = None) -> NDArray[Any]:
        """Names of the columns, with `flatten`: the pair of states and the lag in voxels, f[0, 1; 3, -2].

        Parameters
        ----------
        input_features : None
            Ignored.

        Raises
        ------
        ValueError
            Without `flatten`, where results are maps.
        """
        check_is_fitted(self, "size_")
        if not self.flatten:
            msg = "the statistics are maps (*lags, n_pairs), without columns; use flatten=True for names and set_output"
            raise ValueError(msg)
        found = [
            f"{part}f[{a}, {b}; {', '.join(map(str, lag))}]"
            for lag in itertools.product(*(along.tolist() for along in self._lags))
            for a, b in self._pairs
            for part in (("Re ", "Im ") if self._is_complex else ("",))
        ]
        return np.array(found, dtype=object)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags


def _trailing(basis: Basis | None) -> int:
    return 1 if basis is None else basis.state_axes


def _flatten_block(block: Array) -> Array:
    flat = block.reshape(len(block), -1)
    return flat.view(flat.real.dtype) if flat.dtype.kind == "c" else flat


def flat_features(statistics: ArrayLike) -> Any:
    """(n_samples, *lags, n_pairs) → (n_samples, n_features), NumPy or dask; complex as (real, imaginary) pairs."""
    data, _ = unwrap(statistics, name="statistics")
    n_features = int(np.prod(data.shape[1:])) * (2 if data.dtype.kind == "c" else 1)
    return map_samples(
        _flatten_block, data, tail=(n_features,), dtype=np.empty(0, data.dtype).real.dtype, name="flat_features"
    )
