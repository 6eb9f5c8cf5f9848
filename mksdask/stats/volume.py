"""2-point statistics of one volume larger than memory, for lags up to a cutoff: an exact sum over tiles.

Each voxel s belongs to one tile; s + r then lies in the tile or in a halo of the cutoff about it. With the tile and the
haloed tile padded to one length, ``Σ_{s in tile} m*[h; s] m[h'; s + r]`` is a product of transforms, and the sum over a
run of tiles is taken in Fourier space: one inverse transform serves all of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeAlias

import dask
import dask.array as da
import numba
import numpy as np
import scipy.fft
import xarray as xr
from dask.utils import parse_bytes
from distributed import default_client
from distributed.system import MEMORY_LIMIT
from numpy.typing import DTypeLike, NDArray
from sklearn.base import clone

from mksdask.arrays import (
    ArrayLike,
    axes_argument,
    merge_tree,
    names,
    periodic_axes_of,
    spacing_of,
    stored_array,
    unwrap_volume,
)
from mksdask.bases.base import Basis, n_spatial_axes, state_labels
from mksdask.resuming import materialize
from mksdask.staging import Url
from mksdask.stats.correlation import Pairs, resolve_pairs
from mksdask.stats.lags import LagTransform

Array: TypeAlias = NDArray[Any]
Box: TypeAlias = Sequence[tuple[int, int]]  # first voxel along each axis, and the first beyond

# Tasks that a sum is cut into; they do not depend on the workers, so that results do not either.
LEAST_RUNS, MOST_RUNS = 8, 128
TILES_OF_RUN = 8  # or more, so that the inverse transform of a run costs little
SHORTEST = 16  # voxels along the edge of a tile, if the volume is larger
LONGEST = 640  # of a transform along one axis
BUSY = 0.75  # share of a worker's memory that a plan may fill

_jit = numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz"})


@_jit
def _accumulate(total, a, b):  # type: ignore[no-untyped-def]
    """Total += conj(a) b, in double precision."""
    for i in range(total.size):
        total[i] += np.complex128(a[i].conjugate()) * np.complex128(b[i])


@dataclass(frozen=True)
class Tiling:
    """How a volume is cut, and the transform that serves all of its tiles.

    Parameters
    ----------
    spatial, periodic : tuple
        Voxels along each axis, and whether it is periodic.
    cutoff : tuple of int
        Largest lag along each axis: the width of the halo.
    tile : tuple of int
        Voxels of a tile along each axis; the last ones may have fewer.
    real : bool
        Whether fields are real.
    """

    spatial: tuple[int, ...]
    periodic: tuple[bool, ...]
    cutoff: tuple[int, ...]
    tile: tuple[int, ...]
    real: bool

    @cached_property
    def transform(self) -> LagTransform:
        """Transform of the padded tile: a haloed tile starts one cutoff before its tile, so lags are 0 to 2 cutoffs."""
        last = len(self.tile) - 1
        lengths = tuple(
            scipy.fft.next_fast_len(t + 2 * c, real=self.real and axis == last)
            for axis, (t, c) in enumerate(zip(self.tile, self.cutoff, strict=True))
        )
        return LagTransform(lengths, (True,) * len(lengths), tuple((0, 2 * c) for c in self.cutoff), self.real)

    @property
    def counts(self) -> tuple[int, ...]:
        """Tiles along each axis."""
        return tuple(-(-n // t) for n, t in zip(self.spatial, self.tile, strict=True))

    @property
    def n_tiles(self) -> int:
        """Number of tiles."""
        return int(np.prod(self.counts))

    @property
    def n_runs(self) -> int:
        """Number of tasks, each of which sums a run of tiles."""
        return min(self.n_tiles, max(LEAST_RUNS, min(MOST_RUNS, self.n_tiles // TILES_OF_RUN)))

    @property
    def n_frequencies(self) -> int:
        """Frequencies of a padded tile."""
        *leading, last = self.transform.lengths
        return int(np.prod(leading)) * (last // 2 + 1 if self.real else last)

    def runs(self) -> list[tuple[int, int]]:
        """First tile of each run, and the first beyond it."""
        bounds = np.linspace(0, self.n_tiles, self.n_runs + 1).round().astype(int).tolist()
        return list(itertools.pairwise(bounds))

    def box(self, number: int) -> list[tuple[int, int]]:
        """First voxel of a tile along each axis, and the first beyond it."""
        place = np.unravel_index(number, self.counts)
        return [(int(i) * t, min((int(i) + 1) * t, n)) for i, t, n in zip(place, self.tile, self.spatial, strict=True)]

    def haloed(self, box: Box) -> list[tuple[int, int]]:
        """A box with its halo."""
        return [(low - c, high + c) for (low, high), c in zip(box, self.cutoff, strict=True)]

    def voxels_read(self) -> int:
        """Voxels that all tiles read, halos included."""
        total = 1
        for n, t, c, wraps in zip(self.spatial, self.tile, self.cutoff, self.periodic, strict=True):
            starts = np.arange(0, n, t)
            low, high = starts - c, np.minimum(starts + t, n) + c
            if not wraps:
                low, high = np.maximum(low, 0), np.minimum(high, n)
            total *= int((high - low).sum())
        return total


def _segments(low: int, high: int, n: int, *, wraps: bool) -> list[tuple[slice, slice]]:
    """Where voxels low … high - 1 of an axis stand in the volume, and where they go in a block that starts at low."""
    if not wraps:
        first, last = max(low, 0), min(high, n)
        return [(slice(first, last), slice(first - low, last - low))]
    out, position = [], low
    while position < high:
        start = position % n
        stop = min(n, start + high - position)
        out.append((slice(start, stop), slice(position - low, position - low + stop - start)))
        position += stop - start
    return out


def _axes_of(box: Box, tiling: Tiling) -> tuple[list[list[tuple[slice, slice]]], tuple[slice, ...]]:
    """Segments of a box along each axis, and where the voxels that exist stand in it."""
    axes = [
        _segments(low, high, n, wraps=wraps)
        for (low, high), n, wraps in zip(box, tiling.spatial, tiling.periodic, strict=True)
    ]
    return axes, tuple(slice(parts[0][1].start, parts[-1][1].stop) for parts in axes)


def _read(source: Any, box: Box, tiling: Tiling) -> Array:
    """The voxels of a box that exist."""
    axes, inner = _axes_of(box, tiling)
    trailing = source.shape[len(axes) :]
    out = np.empty((*(s.stop - s.start for s in inner), *trailing), dtype=source.dtype)
    for parts in itertools.product(*axes):
        target = tuple(slice(to.start - s.start, to.stop - s.start) for (_, to), s in zip(parts, inner, strict=True))
        out[target] = np.asarray(source[tuple(part for part, _ in parts)])
    return out


def _gather(lazy: da.Array, box: Box, tiling: Tiling) -> Any:
    """`_read` of a dask array, as one delayed block."""
    axes, _ = _axes_of(box, tiling)
    for axis, parts in enumerate(axes):
        pieces = [lazy[(slice(None),) * axis + (part,)] for part, _ in parts]
        lazy = pieces[0] if len(pieces) == 1 else da.concatenate(pieces, axis=axis)
    # Graphs that are optimized one by one give different tasks the same key.
    return lazy.rechunk(-1).to_delayed(optimize_graph=False).item()


@dataclass
class TileSums:
    """What a run of tiles adds up to: Σ m* m' and Ω at each lag, and their products from run to run."""

    products: Array  # (*lags, n_pairs)
    omega: Array  # (*lags,)
    observed: Array  # (*lags,) pairs with confidence above 0
    squares: tuple[Array, Array, Array] | None = None  # Σ |N|², Σ N Ω, Σ Ω² over runs

    @classmethod
    def of(cls, run: Array, *, with_squares: bool) -> TileSums:
        """The sums of one run, (1, *lags, n_pairs + 2)."""
        products, omega, observed = run[0, ..., :-2], run[0, ..., -2].real, run[0, ..., -1].real
        squares = (np.abs(products) ** 2, products * omega[..., None], omega**2) if with_squares else None
        return cls(products, omega, observed, squares)

    def __add__(self, other: TileSums) -> TileSums:
        squares = None
        if self.squares is not None and other.squares is not None:
            squares = tuple(a + b for a, b in zip(self.squares, other.squares, strict=True))
        return TileSums(
            self.products + other.products,
            self.omega + other.omega,
            self.observed + other.observed,
            squares,  # type: ignore[arg-type]
        )


@dataclass(frozen=True)
class _TileSum:
    """The kernel of one run of tiles. `pairs` are indices of states."""

    basis: Basis | None
    tiling: Tiling
    pairs: tuple[tuple[int, int], ...]
    dtype: np.dtype[Any]

    def __call__(self, run: tuple[int, int], source: Any, mask: Any = None, *, is_block: bool = False) -> Array:
        """Sums of a run of tiles, read from arrays; or of one tile, whose haloed blocks are given.

        Σ m* m' of each pair, Ω, and the number of observed pairs, at each lag: (1, *lags, n_pairs + 2).
        """
        transform, n_frequencies = self.tiling.transform, self.tiling.n_frequencies
        totals = np.zeros((len(self.pairs), n_frequencies), dtype=np.complex128)
        weights = None if mask is None else np.zeros((2, self._n_mask_frequencies), dtype=np.complex128)
        counts = np.zeros(transform.shape)
        padded, filled = np.zeros(transform.lengths, dtype=self._field_dtype), None
        for number in range(*run):
            box = self.tiling.box(number)
            haloed = self.tiling.haloed(box)
            inner = _axes_of(haloed, self.tiling)[1]
            if inner != filled:
                padded[...] = 0
                filled = inner
            values = source if is_block else _read(source, haloed, self.tiling)
            confidence = None
            if mask is None or weights is None:
                counts += self._count(box)
            else:
                confidence = np.asarray(mask if is_block else _read(mask, haloed, self.tiling))
                self._weigh(confidence, inner, box, weights)
            self._add(np.asarray(values), inner, box, confidence, padded, totals)
        return self._sums(totals, weights, counts)

    @property
    def _mask_transform(self) -> LagTransform:
        lengths = self.tiling.transform.lengths
        return LagTransform(lengths, (True,) * len(lengths), self.tiling.transform.reach, real=True)

    @property
    def _n_mask_frequencies(self) -> int:
        *leading, last = self.tiling.transform.lengths
        return int(np.prod(leading)) * (last // 2 + 1)

    def _add(
        self,
        values: Array,
        inner: tuple[slice, ...],
        box: Box,
        confidence: Array | None,
        padded: Array,
        totals: Array,
    ) -> None:
        """Add the products of one tile's transforms; `padded` is 0 but for the voxels of the box that exist."""
        firsts, seconds = ({pair[side] for pair in self.pairs} for side in (0, 1))
        whole = scipy.fft.rfftn if self.tiling.real else scipy.fft.fftn
        tile = tuple(slice(c, c + high - low) for (low, high), c in zip(box, self.tiling.cutoff, strict=True))
        needed = sorted(firsts | seconds)
        spectra: dict[tuple[int, int], Array] = {}
        for state, field in zip(needed, self._fields(values, confidence, needed), strict=True):
            padded[inner] = field
            if state in firsts:
                spectra[0, state] = self.tiling.transform.forward(padded[tile][None]).reshape(-1)
            if state in seconds:
                spectra[1, state] = np.asarray(whole(padded)).reshape(-1)
        for total, (a, b) in zip(totals, self.pairs, strict=True):
            _accumulate(total, spectra[0, a], spectra[1, b])

    @property
    def _field_dtype(self) -> np.dtype[Any]:
        return self.dtype if self.tiling.real else np.result_type(self.dtype, np.complex64)

    def _fields(self, values: Array, confidence: Array | None, states: Sequence[int]) -> Iterator[Array]:
        """Fields c m[h; s]; what the volume holds where c = 0 does not matter."""
        if confidence is not None:
            observed = confidence > 0
            fill = 0 if self.basis is None else self.basis.placeholder
            values = np.where(observed if values.ndim == observed.ndim else observed[..., None], values, fill)
            confidence = confidence.astype(self.dtype)
        fields: Any
        if self.basis is not None:
            fields = self.basis.fields(values, states, self.dtype)
        else:
            fields = (values[..., state].astype(self._field_dtype) for state in states)
        for field in fields:
            if self.basis is None and not np.isfinite(field).all():
                msg = "volume holds NaN or infinite values; give voxels without data a confidence_index of 0"
                raise ValueError(msg)
            yield field if confidence is None else field * confidence

    def _weigh(self, confidence: Array, inner: tuple[slice, ...], box: Box, weights: Array) -> None:
        """Add a tile's part of Ω, and of the number of pairs that are observed."""
        lowest, highest = confidence.min(), confidence.max()
        if not (lowest >= 0.0 and highest <= 1.0):
            msg = f"confidence_index must lie in [0, 1] without NaN, got values from {lowest} to {highest}"
            raise ValueError(msg)
        tile = tuple(slice(c, c + high - low) for (low, high), c in zip(box, self.tiling.cutoff, strict=True))
        shape = [high - low for low, high in self.tiling.haloed(box)]
        for total, values in zip(weights, (confidence, confidence > 0), strict=True):
            halo = np.zeros(shape)
            halo[inner] = values
            first, second = (self._mask_transform.forward(part[None]).reshape(-1) for part in (halo[tile], halo))
            _accumulate(total, first, second)

    def _count(self, box: Box) -> Array:
        """Voxel pairs (s, s + r) with s in a tile, at each lag."""
        counts = np.ones((1,) * len(box))
        for axis, ((low, high), c, n, wraps) in enumerate(
            zip(box, self.tiling.cutoff, self.tiling.spatial, self.tiling.periodic, strict=True)
        ):
            lags = np.arange(-c, c + 1)
            along = np.minimum(high, n - lags) - np.maximum(low, -lags)
            along = np.full(len(lags), high - low) if wraps else np.maximum(along, 0)
            counts = counts * along.reshape([-1 if a == axis else 1 for a in range(len(box))]).astype(float)
        return counts

    def _sums(self, totals: Array, weights: Array | None, counts: Array) -> Array:
        transform = self.tiling.transform
        *leading, last = transform.lengths
        shape = (1, *leading, last // 2 + 1 if self.tiling.real else last)
        out = np.empty((1, *transform.shape, len(self.pairs) + 2), np.float64 if self.tiling.real else np.complex128)
        for position, total in enumerate(totals):
            transform.inverse(total.reshape(shape), out[..., position], 1.0)
        out[0, ..., -2:] = counts[..., None]
        if weights is not None:
            part = np.empty((1, *transform.shape))
            for position, total in enumerate(weights):
                self._mask_transform.inverse(total.reshape(1, *leading, last // 2 + 1), part, 1.0)
                out[..., position - 2] = part
        return out


@dataclass(frozen=True)
class _Work:
    """What a task of a tile sum needs."""

    n_firsts: int
    n_seconds: int
    n_pairs: int
    field_bytes: int  # of a voxel of a field
    source_bytes: int  # of a voxel of the volume, with its mask
    is_masked: bool
    with_squares: bool

    def task_bytes(self, tiling: Tiling) -> int:
        """Peak bytes of a task: block, field, spectra, one more for the transform, totals, and its result."""
        block = int(np.prod([t + 2 * c for t, c in zip(tiling.tile, tiling.cutoff, strict=True)]))
        spectrum = tiling.n_frequencies * self.field_bytes * (2 if tiling.real else 1)
        totals = 16 * tiling.n_frequencies * self.n_pairs
        work = block * (self.source_bytes + 2 * self.field_bytes) + (self.n_firsts + self.n_seconds + 2) * spectrum
        if self.is_masked:
            *leading, last = tiling.transform.lengths
            of_mask = 16 * int(np.prod(leading)) * (last // 2 + 1)
            totals += 2 * of_mask
            work = max(work, block * (self.source_bytes + 8) + 4 * of_mask)
        n_lags = int(np.prod(tiling.transform.shape))
        result = n_lags * 8 * (self.n_pairs * (1 if tiling.real else 2) * (1 + 2 * self.with_squares) + 3)
        return work + totals + 2 * result

    def operations(self, tiling: Tiling) -> float:
        """Floating-point operations of all tiles' transforms and products, about."""
        n = float(np.prod(tiling.transform.lengths))
        transforms = (self.n_firsts + self.n_seconds + 8 * self.is_masked) * 2.5 * n * np.log2(n)
        return tiling.n_tiles * (transforms + 8.0 * tiling.n_frequencies * self.n_pairs)


def plan_tiles(
    spatial: tuple[int, ...],
    periodic: tuple[bool, ...],
    cutoff: tuple[int, ...],
    work: _Work,
    limit: int,
    *,
    real: bool,
) -> Tiling:
    """The cheapest tiling whose tasks fit.

    Raises
    ------
    ValueError
        If none does, with the limit that would.
    """
    best: tuple[float, Tiling] | None = None
    least = 0
    candidates = _fast_lengths(max(LONGEST, 4 * max(cutoff) + 2 * SHORTEST))
    for longest in candidates:
        tile = []
        for n, c in zip(spatial, cutoff, strict=True):
            lengths = [length for length in candidates if min(n, SHORTEST) + 2 * c <= length <= longest]
            if not lengths:
                break
            # Tiles of one size, and the work of an axis is that of its transforms.
            sizes = [min(n, length - 2 * c) for length in lengths]
            costs = [-(-n // size) * length for size, length in zip(sizes, lengths, strict=True)]
            size = sizes[int(np.argmin(costs))]
            tile.append(-(-n // -(-n // size)))
        if len(tile) < len(spatial):
            continue
        tiling = Tiling(spatial, periodic, cutoff, tuple(tile), real)
        needed, cost = work.task_bytes(tiling), work.operations(tiling)
        least = min(least or needed, needed)
        if needed <= limit and (best is None or cost < 0.97 * best[0]):
            best = cost, tiling
    if best is None:
        msg = (
            f"memory_limit leaves {limit / 2**20:.0f} MiB to a task, but lags up to cutoff={cutoff} need "
            f"{least / 2**20:.0f} MiB; raise memory_limit by a factor of {least / limit:.1f}, use fewer threads a "
            "worker, or lower the cutoff"
        )
        raise ValueError(msg)
    return best[1]


def _fast_lengths(longest: int) -> list[int]:
    """Lengths of fast transforms up to one."""
    lengths, n = [], 2
    while (n := scipy.fft.next_fast_len(n, real=True)) <= longest:
        lengths.append(n)
        n += 1
    return lengths


def _task_limit(memory_limit: int | str | None) -> int:
    """Bytes that a task may take: a worker's memory, shared by its threads."""
    try:
        workers = default_client().scheduler_info(n_workers=-1)["workers"].values()
    except ValueError:
        workers = []
    limits = [(info["memory_limit"] or MEMORY_LIMIT, info["nthreads"]) for info in workers]
    if not limits:
        limits = [(MEMORY_LIMIT, dask.system.CPU_COUNT)]
    return int(min(BUSY * (limit if memory_limit is None else parse_bytes(memory_limit)) / n for limit, n in limits))


def _kernel(
    volume: ArrayLike,
    basis: Basis | None,
    cutoff: int | Sequence[int] | None,
    correlations: Pairs | None,
    periodic_axes: int | Sequence[int] | None,
    confidence_index: ArrayLike | None,
    dtype: DTypeLike,
    return_std: bool,  # noqa: FBT001
    memory_limit: int | str | None,
) -> tuple[_TileSum, Any, tuple[tuple[int, int], ...]]:
    """Check the arguments of `correlate_volume`, choose the tiling; the kernel of a run, the mask, pairs of labels."""
    data, labels = unwrap_volume(volume)
    n_spatial = n_spatial_axes(basis, data[None])
    spatial = tuple(int(n) for n in data.shape[:n_spatial])
    samples = None if labels is None else labels.expand_dims("sample")
    real_dtype = np.dtype(dtype)
    if real_dtype not in (np.float32, np.float64):
        msg = f"dtype must be float32 or float64, got {dtype!r}"
        raise ValueError(msg)
    if periodic_axes is None:
        periodic_axes = periodic_axes_of(samples)
    periodic = axes_argument(periodic_axes, n_spatial)
    if cutoff is None:
        msg = "cutoff must be a number of voxels, or one for each axis; all lags of a volume do not fit a tile"
        raise ValueError(msg)
    reach = tuple(low for low, _ in LagTransform.plan(spatial, periodic, cutoff, real=True).reach)
    states = state_labels(basis, data)
    labelled = resolve_pairs(correlations, states, basis)
    pairs = tuple((states.index(a), states.index(b)) for a, b in labelled)
    is_complex = data.dtype.kind == "c" if basis is None else basis.is_complex
    mask = None
    if confidence_index is not None:
        if isinstance(confidence_index, xr.DataArray) and labels is not None:
            confidence_index = confidence_index.transpose(*(d for d in labels.dims if d in confidence_index.dims))
        mask, _ = unwrap_volume(confidence_index, name="confidence_index")
        if tuple(mask.shape) != spatial:
            msg = f"confidence_index must have the shape of the volume, {spatial}, got {mask.shape}"
            raise ValueError(msg)
    work = _Work(
        len({a for a, _ in pairs}),
        len({b for _, b in pairs}),
        len(pairs),
        real_dtype.itemsize * (2 if is_complex else 1),
        data.dtype.itemsize * int(np.prod(data.shape[n_spatial:])) + (0 if mask is None else mask.dtype.itemsize),
        mask is not None,
        return_std,
    )
    tiling = plan_tiles(spatial, periodic, reach, work, _task_limit(memory_limit), real=not is_complex)
    return _TileSum(None if basis is None else clone(basis), tiling, pairs, real_dtype), mask, labelled


def tiling_of(
    volume: ArrayLike,
    basis: Basis | None,
    *,
    cutoff: int | Sequence[int] | None,
    correlations: Pairs | None = None,
    periodic_axes: int | Sequence[int] | None = None,
    confidence_index: ArrayLike | None = None,
    dtype: DTypeLike = "float32",
    return_std: bool = False,
    memory_limit: int | str | None = None,
) -> Tiling:
    """How `correlate_volume` would cut a volume; its parameters and errors."""
    options = (cutoff, correlations, periodic_axes, confidence_index, dtype, return_std, memory_limit)
    return _kernel(volume, basis, *options)[0].tiling


def correlate_volume(
    volume: ArrayLike,
    basis: Basis | None,
    *,
    cutoff: int | Sequence[int] | None,
    correlations: Pairs | None = None,
    periodic_axes: int | Sequence[int] | None = None,
    confidence_index: ArrayLike | None = None,
    dtype: DTypeLike = "float32",
    return_std: bool = False,
    memory_limit: int | str | None = None,
    scratch: Url | None = None,
) -> Any:
    r"""2-point statistics of one volume of any size, for lags up to a cutoff.

    .. math:: f[h, h'; r] = \frac{1}{\Omega[r]} \sum_s m^*[h; s]\, m[h'; s + r]

    Exact: the volume is cut into tiles, each is read with a halo of the cutoff, and what they contribute is added in
    double precision.

    Parameters
    ----------
    volume : array, shape (*spatial,)
        Local state of each voxel, 1 to 3 axes, chunked however it is: NumPy, zarr, dask, or what `open_volume` gives.
        With ``basis=None`` the microstructure function itself, (*spatial, n_states); for orientations, their angles.
    basis : Basis or None
        Basis of the local state.
    cutoff : int or sequence of int
        Largest lag along each axis, up to n - 1 on an axis that is not periodic and (n - 1)//2 on a periodic one.
    correlations : list of (int, int), optional
        Pairs (h, h') of state labels. Default as in `correlate`.
    periodic_axes : sequence of int, optional
        Axes that are periodic. Default: what a DataArray's ``periodic_axes`` attribute says, else none.
    confidence_index : array, shape (*spatial,), optional
        Weight c[s] in [0, 1] of each voxel, as in `correlate`.
    dtype : {"float32", "float64"}
        Precision of the transforms; sums are in double precision. The rounding error is about
        ``1e-6 · max(1, Ω[0]/Ω[r])`` in float32, however many tiles there are.
    return_std : bool, default False
        Return a standard error too.
    memory_limit : int or str, optional
        Bytes of a worker, such as "4GiB". Default: what the cluster's workers have, or this machine.
    scratch : str or path, optional
        Where the sums of runs of tiles are kept, so that a call that was killed goes on with what is missing when it is
        made again; see `mksdask.store.materialize`. They are computed at once then. It is yours to remove.

    Returns
    -------
    f : dask array or DataArray, shape (*lags, n_pairs)
        Lag 0 is at index `cutoff`. Lazy, float64 (complex128 for complex bases). A DataArray has dims ``lag_x``, … in
        the units of the volume, and ``pair``.
    std : the same kind and shape
        With `return_std`: the infinitesimal jackknife over the runs of tiles as replicates. It is an error of the mean
        of the material where runs are much larger than its features.

    Raises
    ------
    ValueError
        If an axis, pair or cutoff does not exist, if no tiling fits into `memory_limit` (with the limit that would do),
        or, when it is computed, if values are NaN or outside the domain.

    Notes
    -----
    Each voxel is read about ``(1 + 2 cutoff / tile)³`` times. A task adds up a run of tiles; there are at most 128,
    whatever the workers, so that results are equal to the last bit from run to run. A zarr array, and a dask array that
    is one in chunks, are read by the tasks themselves. Any other dask array is cut in the graph, one task a tile, and
    what neighbouring tiles share is kept in memory meanwhile: better write it with `create_volume` first.

    References
    ----------
    Cecen, A., Fast, T., Kalidindi, S. R. Versatile algorithms for the computation of 2-point spatial
    correlations in quantifying material structure. Integr. Mater. Manuf. Innov. 5 (2016) 1.

    Examples
    --------
    >>> import numpy as np
    >>> from mksdask import PrimitiveBasis
    >>> volume = np.random.default_rng(0).integers(0, 2, (60, 50, 40))
    >>> f = correlate_volume(volume, PrimitiveBasis(2), cutoff=4, correlations=[(0, 0)])
    >>> f.shape
    (9, 9, 9, 1)
    >>> bool(np.isclose(f[4, 4, 4, 0].compute(), (volume == 0).mean()))
    True
    """
    options = (cutoff, correlations, periodic_axes, confidence_index, dtype, return_std, memory_limit)
    kernel, mask, pairs = _kernel(volume, basis, *options)
    data, labels = unwrap_volume(volume)
    samples = None if labels is None else labels.expand_dims("sample")
    tiling = kernel.tiling
    runs = _runs(kernel, data, mask)
    if scratch is not None:
        runs = materialize(runs, scratch, progress=False)
    total = _total(runs, with_squares=return_std)
    shape = (*tiling.transform.shape, len(pairs))
    result_dtype = np.float64 if tiling.real else np.complex128
    token = dask.base.tokenize(kernel, data, mask, return_std, scratch)

    def lazily(function: Callable[[TileSums], Array], name: str, kind: Any) -> Any:
        task = dask.delayed(function, name=f"{name}-kernel-{token}")(total, dask_key_name=f"{name}-{token}")
        array = da.from_delayed(task, shape, dtype=kind, name=f"{name}-array-{token}")
        return array if samples is None else _label(array, samples, tiling, pairs, name)

    mean = lazily(_ratio, "two_point_statistics", result_dtype)
    if not return_std:
        return mean
    return mean, lazily(partial(_standard_error, n_runs=runs.shape[0]), "standard_error", np.float64)


def _runs(kernel: _TileSum, data: Any, mask: Any) -> da.Array:
    """The sums of all runs, lazily: (n_runs, *lags, n_pairs + 2)."""
    tiling = kernel.tiling
    source, weights = stored_array(data), stored_array(mask)
    token = dask.base.tokenize(kernel, data, mask)
    run = dask.delayed(kernel, name=f"correlate-volume-kernel-{token}")
    parts = []
    if source is not None and (mask is None or weights is not None):
        whole = dask.delayed(source, name=f"volume-{token}")
        masks = None if mask is None else dask.delayed(weights, name=f"confidence-{token}")
        for number, bounds in enumerate(tiling.runs()):
            parts.append(run(bounds, whole, masks, dask_key_name=f"correlate-volume-{token}-{number}"))
    else:
        blocks, masks = (None if array is None else da.asarray(array) for array in (data, mask))
        for number in range(tiling.n_tiles):
            box = tiling.haloed(tiling.box(number))
            parts.append(
                run(
                    (number, number + 1),
                    _gather(blocks, box, tiling),
                    None if masks is None else _gather(masks, box, tiling),
                    is_block=True,
                    dask_key_name=f"correlate-volume-{token}-{number}",
                )
            )
    shape = (1, *tiling.transform.shape, len(kernel.pairs) + 2)
    dtype = np.float64 if tiling.real else np.complex128
    arrays = [da.from_delayed(part, shape, dtype=dtype, name=f"run-{part.key}") for part in parts]
    return da.concatenate(arrays)


def _total(runs: da.Array, *, with_squares: bool) -> Any:
    """The sum over runs, added in their order."""
    token = dask.base.tokenize(runs, with_squares)
    leaf = dask.delayed(partial(TileSums.of, with_squares=with_squares), name=f"sums-kernel-{token}")
    parts = [
        leaf(block, dask_key_name=f"sums-{token}-{number}")
        for number, block in enumerate(runs.to_delayed(optimize_graph=False).ravel())
    ]
    return merge_tree(parts, TileSums.__add__, name=f"add-tiles-{token}")


def _ratio(sums: TileSums) -> Array:
    """f[h, h'; r], NaN where no pair of voxels is observed."""
    omega = np.where(np.rint(sums.observed) > 0, sums.omega, np.nan)[..., None]
    return np.asarray(sums.products / omega)


def _standard_error(sums: TileSums, *, n_runs: int) -> Array:
    """Spread of f over the runs, each left out in turn, to first order: Σ (N_k - f Ω_k)² / Ω²."""
    if sums.squares is None or n_runs < 2:
        return np.full(sums.products.shape, np.nan)
    mean = _ratio(sums)
    products, mixed, omegas = sums.squares
    scatter = products - 2.0 * (mean.conj() * mixed).real + np.abs(mean) ** 2 * omegas[..., None]
    return np.asarray(np.sqrt(np.maximum(scatter, 0.0) * n_runs / (n_runs - 1)) / sums.omega[..., None])


def _label(array: da.Array, samples: xr.DataArray, tiling: Tiling, pairs: Box, name: str) -> xr.DataArray:
    axes = spacing_of(samples, len(tiling.spatial))
    coords: dict[str, Any] = {
        f"lag_{dim}": (f"lag_{dim}", np.arange(-c, c + 1) * step, {"units": units})
        for (dim, step, units), c in zip(axes, tiling.cutoff, strict=True)
    }
    coords["pair"] = names([f"{a},{b}" for a, b in pairs])
    coords["state_1"] = ("pair", [a for a, _ in pairs])
    coords["state_2"] = ("pair", [b for _, b in pairs])
    dims = (*(f"lag_{dim}" for dim, _, _ in axes), "pair")
    return xr.DataArray(array, dims=dims, coords=coords, name=name, attrs=dict(samples.attrs))
