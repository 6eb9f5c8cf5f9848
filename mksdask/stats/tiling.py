"""The tiling of a volume: tiles with halos, the runs of tiles that tasks add up, and the choice of the tile."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from mksdask.arrays import Array
from mksdask.compute.plans import Limit
from mksdask.compute.transforms import fast_length
from mksdask.stats.microstructure import SLAB_VOXELS
from mksdask.stats.pencils import PencilFFT, three_axes

Box: TypeAlias = Sequence[tuple[int, int]]  # first voxel along each axis, and the first beyond

# Numbers of tasks of a sum. They do not depend on the workers, so results do not depend on the workers either.
LEAST_RUNS, MOST_RUNS = 8, 128
TILES_OF_RUN = 8  # a run has at least so many tiles, so that its inverse transform costs little
SHORTEST = 16  # a tile has at least so many voxels along its edge, if the volume is larger
LONGEST = 640  # the longest transform along one axis, for small cutoffs
LARGE = 2**24  # a volume with more voxels is cut, so that several workers share it
READING = 60.0  # reading and expanding a voxel takes as long as so many floating-point operations


@dataclass(frozen=True)
class Tiling:
    """The cut of a volume into tiles, with the transform that serves all tiles.

    Parameters
    ----------
    spatial, periodic : tuple
        Number of voxels along each axis, and whether the axis is periodic.
    cutoff : tuple of int
        Largest lag along each axis.
    tile : tuple of int
        Number of voxels of a tile along each axis. The last tile along an axis may have fewer.
    real : bool
        Whether fields are real.
    half : bool
        Whether only lags from 0 on are computed along the first axis. This is enough for autocorrelations, because
        f(-r) = f*(r).
    """

    spatial: tuple[int, ...]
    periodic: tuple[bool, ...]
    cutoff: tuple[int, ...]
    tile: tuple[int, ...]
    real: bool
    half: bool = False

    @property
    def before(self) -> tuple[int, ...]:
        """Width of the halo before a tile along each axis. After the tile, the halo is as wide as the cutoff."""
        return (0, *self.cutoff[1:]) if self.half else self.cutoff

    @property
    def lags(self) -> tuple[int, ...]:
        """Number of lags along each axis. They start at lag ``-before``."""
        return tuple(b + c + 1 for b, c in zip(self.before, self.cutoff, strict=True))

    @cached_property
    def transform(self) -> PencilFFT:
        """Transform of the padded tile."""
        return PencilFFT.padded(self.largest_block, real=self.real)

    @property
    def largest_block(self) -> tuple[int, ...]:
        """Number of voxels of a tile with its halo along each axis."""
        return tuple(t + n - 1 for t, n in zip(self.tile, self.lags, strict=True))

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of tiles along each axis."""
        return tuple(-(-n // t) for n, t in zip(self.spatial, self.tile, strict=True))

    @property
    def n_tiles(self) -> int:
        """Number of tiles."""
        return int(np.prod(self.counts))

    @property
    def n_runs(self) -> int:
        """Number of tasks. Each of them adds up a run of tiles."""
        return min(self.n_tiles, max(LEAST_RUNS, min(MOST_RUNS, self.n_tiles // TILES_OF_RUN)))

    def runs(self) -> list[tuple[int, int]]:
        """List the first tile of each run, and the first tile after the run."""
        bounds = np.linspace(0, self.n_tiles, self.n_runs + 1).round().astype(int).tolist()
        return list(itertools.pairwise(bounds))

    def box(self, number: int) -> list[tuple[int, int]]:
        """Return the first voxel of a tile along each axis, and the first voxel after the tile."""
        place = np.unravel_index(number, self.counts)
        return [(int(i) * t, min((int(i) + 1) * t, n)) for i, t, n in zip(place, self.tile, self.spatial, strict=True)]

    def haloed(self, box: Box) -> list[tuple[int, int]]:
        """Extend a box by its halo. The result may reach beyond the volume."""
        return [(low - b, high + c) for (low, high), b, c in zip(box, self.before, self.cutoff, strict=True)]

    def voxels_read(self) -> int:
        """Count the voxels that all tiles read, with their halos."""
        total = 1
        for n, t, b, c, wraps in zip(self.spatial, self.tile, self.before, self.cutoff, self.periodic, strict=True):
            starts = np.arange(0, n, t)
            low, high = starts - b, np.minimum(starts + t, n) + c
            if not wraps:
                low, high = np.maximum(low, 0), np.minimum(high, n)
            total *= int((high - low).sum())
        return total

    def parts_of(self, box: Box) -> tuple[list[list[tuple[slice, slice]]], tuple[slice, ...]]:
        """Cut a box into segments along each axis, and find the part of the box that lies in the volume."""
        axes = [
            _segments(low, high, n, wraps=wraps)
            for (low, high), n, wraps in zip(box, self.spatial, self.periodic, strict=True)
        ]
        return axes, tuple(slice(parts[0][1].start, parts[-1][1].stop) for parts in axes)

    def read(self, source: Any, box: Box) -> Array:
        """Read the voxels of a box that lie in the volume from an array."""
        axes, inner = self.parts_of(box)
        if all(len(parts) == 1 for parts in axes):
            return np.asarray(source[tuple(parts[0][0] for parts in axes)])
        trailing = source.shape[len(axes) :]
        out = np.empty((*(s.stop - s.start for s in inner), *trailing), dtype=source.dtype)
        for parts in itertools.product(*axes):
            place = tuple(slice(to.start - s.start, to.stop - s.start) for (_, to), s in zip(parts, inner, strict=True))
            out[place] = np.asarray(source[tuple(part for part, _ in parts)])
        return out

    def gather(self, lazy: Any, box: Box) -> Any:
        """Gather the voxels of a box that lie in the volume from a dask array, as one delayed block."""
        axes, _ = self.parts_of(box)
        # One slice for all axes along which the box is whole makes a smaller graph than one after the other.
        lazy = lazy[tuple(parts[0][0] if len(parts) == 1 else slice(None) for parts in axes)]
        for axis, parts in enumerate(axes):
            if len(parts) > 1:
                lazy = np.concatenate([lazy[(slice(None),) * axis + (part,)] for part, _ in parts], axis=axis)
        # Graphs that are optimized separately can have the same key for different tasks.
        return lazy.rechunk(-1).to_delayed(optimize_graph=False).item()


def _segments(low: int, high: int, n: int, *, wraps: bool) -> list[tuple[slice, slice]]:
    """List the pairs of slices by which the voxels low … high - 1 of an axis are copied.

    The first slice of a pair is in the volume. The second is in a block that starts at `low`.
    """
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


@dataclass(frozen=True)
class TileWork:
    """The work of the tasks of a tile sum: memory and operations for a given tiling."""

    n_firsts: int  # number of states that stand first in a pair
    n_seconds: int  # number of states that stand second in a pair
    n_pairs: int
    field_bytes: int  # bytes of a voxel of a field
    source_bytes: int  # bytes of a voxel of the volume, with its mask
    is_masked: bool
    with_squares: bool  # whether a standard error is computed
    is_gathered: bool  # whether the graph gathers blocks from a dask array

    def task_bytes(self, tiling: Tiling, n_threads: int) -> int:
        """Peak bytes of a task: its block, spectra of planes, totals, its result, work arrays, and sums that wait.

        In each level of the tree, one sum waits for its partner. The threads of a worker share them.
        """
        transform = tiling.transform
        block = int(np.prod(tiling.largest_block))
        spectra = self._plane_entries(tiling, self.n_firsts, self.n_seconds, real=tiling.real) * self.field_bytes
        totals = transform.n_frequencies * self.n_pairs * self.field_bytes
        if tiling.real:
            spectra, totals = 2 * spectra, 2 * totals
        if self.is_masked:
            of_mask = PencilFFT(transform.lengths, real=True)
            spectra += 16 * self._plane_entries(tiling, 2, 2, real=True)
            totals += 16 * of_mask.n_frequencies * 2
        blocks = self.source_bytes * block * (2 if self.is_gathered else 1)
        # Voxels that are expanded together take memory for fields, for the work of the basis, and for lines.
        expanded = min(block, max(SLAB_VOXELS, block // three_axes(tiling.largest_block, 1)[0]))
        work = expanded * (3 * self.field_bytes + 16 * self.is_masked)
        waiting = -(-self._levels(tiling) // n_threads) * self._sum_bytes(tiling)
        return waiting + max(blocks + spectra + totals + work, totals + 2 * self.result_bytes(tiling))

    def _plane_entries(self, tiling: Tiling, n_firsts: int, n_seconds: int, *, real: bool) -> int:
        y, z = PencilFFT(tiling.transform.lengths, real=real).plane
        first, second = (three_axes(shape, 1)[0] for shape in (tiling.tile, tiling.largest_block))
        return (n_firsts * first + n_seconds * second) * y * z

    def result_bytes(self, tiling: Tiling) -> int:
        """Bytes of the sums of one run."""
        n_lags = int(np.prod([2 * c + 1 for c in tiling.cutoff]))
        return n_lags * (self.n_pairs + 2) * (8 if tiling.real else 16)

    def merge_bytes(self, tiling: Tiling) -> int:
        """Peak bytes of the addition of runs. In a branch of the tree, sums wait for one another.

        Sums that were added are freed when the scheduler has heard of it.
        """
        return self._sum_bytes(tiling) * (3 + self._levels(tiling))

    def _sum_bytes(self, tiling: Tiling) -> int:
        """Bytes of the sums of one run, with squares if there is a standard error."""
        n_lags = int(np.prod([2 * c + 1 for c in tiling.cutoff]))
        squares = 8 * n_lags * (self.n_pairs * (2 if tiling.real else 3) + 1) if self.with_squares else 0
        return self.result_bytes(tiling) + squares

    @staticmethod
    def _levels(tiling: Tiling) -> int:
        """Count the levels of the tree in which runs are added."""
        return max(1, tiling.n_runs - 1).bit_length()

    def operations(self, tiling: Tiling) -> float:
        """Count the floating-point operations of all transforms and products."""
        n = float(np.prod(tiling.transform.lengths))
        full = 2.5 * n * np.log2(max(n, 2.0)) * (1 if tiling.real else 2)
        transforms = (self.n_firsts + self.n_seconds + 8 * self.is_masked) * full
        products = 8.0 * tiling.transform.n_frequencies * self.n_pairs
        return tiling.n_tiles * (transforms + products) + tiling.n_runs * (self.n_pairs + 2 * self.is_masked) * full

    def cost(self, tiling: Tiling) -> float:
        """Cost of a tiling, in floating-point operations. Reading is included."""
        return self.operations(tiling) + READING * tiling.voxels_read()


def choose_tiling(
    spatial: tuple[int, ...],
    periodic: tuple[bool, ...],
    cutoff: tuple[int, ...],
    work: TileWork,
    limit: Limit,
    *,
    real: bool,
    half: bool = False,
    begun: tuple[int, ...] | None = None,
) -> Tiling:
    """Choose the cheapest tiling whose tasks fit into memory.

    Parameters
    ----------
    spatial, periodic, cutoff, real, half
        As in `Tiling`.
    work : TileWork
        Memory and operations of the tasks.
    limit : Limit
        Memory of a worker.
    begun : tuple of int, optional
        The tile of a sum that an earlier call began. It is taken if it fits.

    Raises
    ------
    ValueError
        If no tiling fits. The message names the smallest limit that would do.
    """
    if begun is not None and all(size <= n for size, n in zip(begun, spatial, strict=True)):
        tiling = Tiling(spatial, periodic, cutoff, begun, real, half)
        if max(work.task_bytes(tiling, limit.n_threads), work.merge_bytes(tiling)) <= limit.task_bytes:
            return tiling
    best: tuple[int, float, Tiling] | None = None
    least = 0
    candidates = _fast_lengths(max(LONGEST, 4 * max(cutoff) + 2 * SHORTEST))
    halos = [c if half and axis == 0 else 2 * c for axis, c in enumerate(cutoff)]
    for longest in candidates:
        tile = []
        for n, halo in zip(spatial, halos, strict=True):
            lengths = [length for length in candidates if min(n, SHORTEST) + halo <= length <= longest]
            if not lengths:
                break
            # The cost of an axis is that of its transforms. Then tiles get nearly the same size.
            sizes = [min(n, length - halo) for length in lengths]
            costs = [-(-n // size) * length for size, length in zip(sizes, lengths, strict=True)]
            size = sizes[int(np.argmin(costs))]
            tile.append(-(-n // -(-n // size)))
        if len(tile) < len(spatial):
            continue
        tiling = Tiling(spatial, periodic, cutoff, tuple(tile), real, half)
        needed = max(work.task_bytes(tiling, limit.n_threads), work.merge_bytes(tiling))
        least = min(least or needed, needed)
        if needed <= limit.task_bytes:
            # Several workers need several tasks, and a standard error needs replicates. Both matter more than cost.
            is_large = work.with_squares or np.prod(spatial) > LARGE
            n_tasks = min(tiling.n_tiles, LEAST_RUNS) if is_large else 0
            cost = work.cost(tiling)
            if best is None or n_tasks > best[0] or (n_tasks == best[0] and cost < 0.97 * best[1]):
                best = n_tasks, cost, tiling
    if best is None:
        raise limit.refusal(least, f"a tile for lags up to cutoff={cutoff}", "lower the cutoff")
    return best[2]


def _fast_lengths(longest: int) -> list[int]:
    """List the lengths of fast transforms up to `longest`."""
    lengths, n = [], 1
    while (n := fast_length(n)) <= longest:
        lengths.append(n)
        n += 1
    return lengths
