"""2-point statistics of one volume for lags up to a cutoff, as an exact sum over tiles.

Each voxel s belongs to one tile. Then s + r lies in this tile or in its halo, which is as wide as the cutoff. The tile
and the tile with its halo are padded to the same length, so ``Σ_{s in tile} m*[h; s] m[h'; s + r]`` is a product in
Fourier space. Products of a run of tiles are added there, and one inverse transform serves the whole run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import dask.array as da
import numpy as np

from mksdask.arrays import Array
from mksdask.compute.blocks import array_of, computed, fold_parts, map_parts
from mksdask.compute.graph import stored_array
from mksdask.compute.plans import Limit, Plan, Stage
from mksdask.compute.watching import Channel, Plane, Watch, watching
from mksdask.stats.lags import LagFFT
from mksdask.stats.microstructure import VolumeCorrelation, VolumeFields, mask_fields, mask_pairs
from mksdask.stats.pencils import Pencils, three_axes
from mksdask.stats.tiling import Box, TileWork, Tiling, choose_tiling
from mksdask.storage.atomic import Url
from mksdask.storage.blocks import layout_begun
from mksdask.storage.results import Result

# The products of at most this many tiles are added in the precision of the transforms. Their sums are then added in
# double precision. With so few tiles, the rounding error of sums is smaller than that of the transforms.
TILES_TOGETHER = 16


@dataclass
class TileSums:
    """The sums over a run of tiles, or over several runs: Σ m* m' and Ω at each lag.

    For a standard error, they also hold the sums over runs of the squares and products of these two.
    """

    products: Array  # (*lags, n_pairs)
    omega: Array  # (*lags,)
    observed: Array  # (*lags,), number of pairs with confidence above 0
    squares: tuple[Array, Array, Array] | None = None  # Σ |N|², Σ N Ω, Σ Ω² over runs

    @classmethod
    def of(cls, run: Array, *, with_squares: bool) -> TileSums:
        """Make the sums of one run from the result of its task, (1, *lags, n_pairs + 2)."""
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


class _Products:
    """The products of the transforms of a run of tiles, added up. `pairs` holds numbers of fields."""

    def __init__(self, tiling: Tiling, pairs: Sequence[tuple[int, int]], dtype: np.dtype[Any]) -> None:
        self.tiling, self.pairs = tiling, pairs
        self.pencils = Pencils(tiling.transform, dtype)
        spectral, plane = self.pencils.dtype, self.pencils.transform.plane
        n_tile, n_block = (three_axes(shape, 1)[0] for shape in (tiling.tile, tiling.largest_block))
        self.firsts = {a: np.zeros((n_tile, *plane), dtype=spectral) for a, _ in pairs}
        self.seconds = {b: np.zeros((n_block, *plane), dtype=spectral) for _, b in pairs}
        self.totals = [self.pencils.empty_total() for _ in pairs]

    def add(self, fields: Iterator[tuple[int, int, Array]], box: Box) -> None:
        """Add the products of one tile.

        `fields` yields planes of the tile with its halo, as far as they lie in the volume: the first plane, the number
        of the field, and its values.
        """
        haloed = self.tiling.haloed(box)
        edges = [slice(low - first, high - first) for (low, high), (first, _) in zip(box, haloed, strict=True)]
        tile, inner = (three_axes(slices, slice(0, 1)) for slices in (edges, self.tiling.parts_of(haloed)[1]))
        n_planes = three_axes([high - low for low, high in haloed], 1)[0]
        of_tile = tuple(slice(t.start - i.start, t.stop - i.start) for t, i in zip(tile[1:], inner[1:], strict=True))
        for start, number, values in fields:
            first, last = inner[0].start + start, inner[0].start + start + len(values)
            if number in self.seconds:
                gap = (inner[1].start, inner[2].start)
                self.pencils.transform_planes(values, self.seconds[number][first:last], gap)
            low, high = max(first, tile[0].start), min(last, tile[0].stop)
            if number in self.firsts and low < high:
                part = values[(slice(low - first, high - first), *of_tile)]
                out = self.firsts[number][low - tile[0].start : high - tile[0].start]
                self.pencils.transform_planes(part, out)
        for spectra in self.seconds.values():
            spectra[: inner[0].start] = 0
            spectra[inner[0].stop : n_planes] = 0
        self.pencils.add_products(
            {number: spectra[: tile[0].stop - tile[0].start] for number, spectra in self.firsts.items()},
            {number: spectra[:n_planes] for number, spectra in self.seconds.items()},
            self.pairs,
            self.totals,
        )

    def at_lags(self) -> Iterator[Array]:
        """Yield the sums at each lag, (*lags), one pair after the other, and set them to zero."""
        keep = [np.arange(n) for n in three_axes(self.tiling.lags, 1)]
        for total in self.totals:
            planes = self.pencils.invert_total(total, keep[0])
            values = np.empty(
                [len(k) for k in keep], dtype=np.float64 if self.pencils.transform.real else np.complex128
            )
            self.pencils.invert_planes(planes, (keep[1], keep[2]), values)
            total.fill(0)
            yield _whole(values.reshape(self.tiling.lags), self.tiling)


def _whole(values: Array, tiling: Tiling) -> Array:
    """Complete values at half of the lags to values at all lags, by f(-r) = f*(r)."""
    if not tiling.half:
        return values
    mirrored = np.flip(values)[:-1].conj()
    return np.concatenate([mirrored, values])


@dataclass(frozen=True)
class _TileSum:
    """The kernel of one run of tiles. `pairs` holds positions of states in the basis."""

    fields: VolumeFields
    tiling: Tiling
    pairs: tuple[tuple[int, int], ...]
    is_gathered: bool = False  # whether the graph gathers the block of each tile, instead of the task

    def __call__(self, run: tuple[int, int], source: Any, mask: Any, watched: tuple[Channel, Plane] | None) -> Array:
        """Add up a run of tiles, which are read from arrays, or one tile, whose blocks with halos are given.

        The result has shape (1, *lags, n_pairs + 2). It holds Σ m* m' of each pair, Ω, and the number of observed pairs
        of voxels at each lag. If the run is watched, partial sums are published.
        """
        tiling = self.tiling
        products, weights = _Products(tiling, self.pairs, self.fields.dtype), None
        if mask is not None:
            weights = _Products(replace(tiling, real=True), mask_pairs(mask), np.dtype(np.float64))
        shape = [2 * c + 1 for c in tiling.cutoff]
        out = np.zeros((1, *shape, len(self.pairs) + 2), np.float64 if tiling.real else np.complex128)
        counts: Any = 0.0
        first, last = run
        for start in range(first, last, TILES_TOGETHER):
            for number in range(start, min(start + TILES_TOGETHER, last)):
                box = tiling.box(number)
                haloed = tiling.haloed(box)
                values = source if self.is_gathered else tiling.read(source, haloed)
                confidence = None
                if weights is None:
                    counts = counts + self._count(box)
                else:
                    confidence = mask if self.is_gathered else tiling.read(mask, haloed)
                    weights.add(mask_fields(confidence), box)
                products.add(self.fields.of_block(values, confidence), box)
            for position, found in enumerate(products.at_lags()):
                out[0, ..., position] += found
            if weights is not None:
                of_mask = [*weights.at_lags()]
                out[0, ..., -2] += of_mask[0]
                out[0, ..., -1] += of_mask[-1]
            if watched is not None:
                channel, plane = watched
                omega = _whole(counts, tiling) if weights is None else out[0, ..., -2].real
                done = min(start + TILES_TOGETHER, last) - first
                channel.publish(first, done, out[(0, *plane.index, 0)].real, omega[plane.index])
        if weights is None:
            out[0, ..., -2:] = _whole(counts, tiling)[..., None]
        return out

    def _count(self, box: Box) -> Array:
        """Count the pairs of voxels (s, s + r) with s in a tile, at each lag."""
        tiling = self.tiling
        counts = np.ones((1,) * len(box))
        for axis, ((low, high), b, c, n, wraps) in enumerate(
            zip(box, tiling.before, tiling.cutoff, tiling.spatial, tiling.periodic, strict=True)
        ):
            lags = np.arange(-b, c + 1)
            along = np.minimum(high, n - lags) - np.maximum(low, -lags)
            along = np.full(len(lags), high - low) if wraps else np.maximum(along, 0)
            counts = counts * along.reshape([-1 if a == axis else 1 for a in range(len(box))]).astype(float)
        return counts


def sum_tiles(
    problem: VolumeCorrelation,
    cutoff: int | Sequence[int],
    limit: Limit,
    *,
    return_std: bool = False,
    scratch: Url | None = None,
    watch: Watch = False,
) -> Any:
    """Compute statistics up to a cutoff lazily, with their standard error if `return_std`; see `correlate_volume`."""
    kernel, _ = _tile(problem, cutoff, limit, return_std=return_std, scratch=scratch)
    tiling = kernel.tiling
    if watch is False:
        return _statistics(problem, kernel, _runs(kernel, problem), return_std=return_std, scratch=scratch)
    plane = Plane.of([2 * c + 1 for c in tiling.cutoff], problem.volume.grid.axes)
    with watching(watch, plane, tiling.n_tiles, "tiles") as watcher:
        assert watcher is not None
        runs = _runs(kernel, problem, (watcher.channel, plane))
        found = _statistics(problem, kernel, runs, return_std=return_std, scratch=scratch)
        known = computed(found)
        watcher.finish(np.asarray(known[0] if return_std else known))
    return known


def _statistics(
    problem: VolumeCorrelation, kernel: _TileSum, runs: Any, *, return_std: bool, scratch: Url | None
) -> Any:
    """Compute statistics from the sums of runs, lazily."""
    tiling = kernel.tiling
    if scratch is not None:
        runs = Result.of(runs, scratch, "scratch", layout={"tile": tiling.tile}).write()
    # The runs are added in their order.
    parts = [(block,) for block in runs.to_delayed(optimize_graph=False).ravel()]
    leaf = partial(TileSums.of, with_squares=return_std)
    total = fold_parts(leaf, TileSums.__add__, parts, name="sums", of=())
    shape = (*(2 * c + 1 for c in tiling.cutoff), len(problem.pairs))

    def lazily(function: Callable[[TileSums], Array], name: str, kind: Any) -> Any:
        array = array_of(total, shape, kind, name=name, function=function)
        return problem.label(array, [np.arange(-c, c + 1) for c in tiling.cutoff], name)

    mean = lazily(_ratio, "two_point_statistics", np.float64 if tiling.real else np.complex128)
    if not return_std:
        return mean
    return mean, lazily(partial(_standard_error, n_runs=runs.shape[0]), "standard_error", np.float64)


def plan_tile_sum(
    problem: VolumeCorrelation,
    cutoff: int | Sequence[int],
    limit: Limit,
    *,
    return_std: bool = False,
    scratch: Url | None = None,
) -> Plan:
    """Plan `sum_tiles`."""
    kernel, work = _tile(problem, cutoff, limit, return_std=return_std, scratch=scratch)
    tiling = kernel.tiling
    n_runs = tiling.n_runs if problem.volume.is_stored else tiling.n_tiles
    sums = float(work.result_bytes(tiling) * n_runs)
    kept = 0.0 if scratch is None else sums
    read = float(tiling.voxels_read() * problem.volume.voxel_bytes)
    notes: tuple[str, ...] = (f"Each voxel is read {tiling.voxels_read() / np.prod(tiling.spatial):.2f} times.",)
    if not problem.volume.is_stored:
        notes += ("The volume is neither stored nor in memory. Write it with create_volume first.",)
    return Plan(
        "correlate_volume",
        {
            "volume": tiling.spatial,
            "lags": " × ".join(f"±{c}" for c in tiling.cutoff),
            "tile": tiling.tile,
            "tiles": tiling.n_tiles,
            "FFT lengths": tuple(n for n in tiling.transform.lengths if n > 1),
        },
        (
            Stage("tile sums", n_runs, work.task_bytes(tiling, limit.n_threads), read, kept, work.operations(tiling)),
            Stage("add up", 2 * n_runs + return_std, work.merge_bytes(tiling), kept),
        ),
        limit,
        notes,
    )


def _tile(
    problem: VolumeCorrelation, cutoff: int | Sequence[int], limit: Limit, *, return_std: bool, scratch: Url | None
) -> tuple[_TileSum, TileWork]:
    """Make the kernel of a run of tiles, with the cheapest tiling that fits, and the work of its tasks.

    A sum that an earlier call began in `scratch` keeps its tiles.
    """
    reach = LagFFT.of(problem.volume.spatial, problem.volume.grid.periodic, cutoff, real=True).reach
    indices = problem.indices
    work = TileWork(
        len({a for a, _ in indices}),
        len({b for _, b in indices}),
        len(indices),
        problem.dtype.itemsize * (1 if problem.is_real else 2),
        problem.volume.voxel_bytes,
        problem.volume.confidence is not None,
        return_std,
        not problem.volume.is_stored,
    )
    tiling = choose_tiling(
        problem.volume.spatial,
        problem.volume.grid.periodic,
        tuple(low for low, _ in reach),
        work,
        limit,
        real=problem.is_real,
        half=len(problem.volume.spatial) > 1 and all(a == b for a, b in indices),
        begun=None if scratch is None else layout_begun(scratch, "tile", len(problem.volume.spatial)),
    )
    return _TileSum(problem.fields, tiling, indices), work


def _runs(kernel: _TileSum, problem: VolumeCorrelation, watched: tuple[Channel, Plane] | None = None) -> Any:
    """Compute the sums of all runs lazily: (n_runs, *lags, n_pairs + 2)."""
    tiling, data, mask = kernel.tiling, problem.volume.data, problem.volume.confidence
    source, weights = stored_array(data), stored_array(mask)
    if source is not None and (mask is None or weights is not None):
        parts: list[Any] = [(run,) for run in tiling.runs()]
        shared: tuple[Any, ...] = (source, weights, watched)
    else:
        lazy = [None if array is None else da.asarray(array) for array in (data, mask)]
        parts, shared = [], (watched,)
        kernel = replace(kernel, is_gathered=True)
        for number in range(tiling.n_tiles):
            box = tiling.haloed(tiling.box(number))
            blocks = [None if array is None else tiling.gather(array, box) for array in lazy]
            parts.append(((number, number + 1), *blocks))
    # Watching does not change results, so it does not change the names of tasks.
    sums = map_parts(kernel, parts, name="correlate-volume", shared=shared, of=(data, mask), unit="tiles")
    shape = (1, *(2 * c + 1 for c in tiling.cutoff), len(kernel.pairs) + 2)
    dtype = np.float64 if tiling.real else np.complex128
    return np.concatenate([array_of(part, shape, dtype, name="run") for part in sums])


def _ratio(sums: TileSums) -> Array:
    """Compute f[h, h'; r]. It is NaN at lags at which no pair of voxels is observed."""
    omega = np.where(np.rint(sums.observed) > 0, sums.omega, np.nan)[..., None]
    with np.errstate(invalid="ignore"):
        return np.asarray(sums.products / omega)


def _standard_error(sums: TileSums, *, n_runs: int) -> Array:
    """Compute the standard error of f, with each run k left out in turn, to first order: Σ (N_k - f Ω_k)² / Ω²."""
    if sums.squares is None or n_runs < 2:
        return np.full(sums.products.shape, np.nan)
    mean = _ratio(sums)
    products, mixed, omegas = sums.squares
    scatter = products - 2.0 * (mean.conj() * mixed).real + np.abs(mean) ** 2 * omegas[..., None]
    return np.asarray(np.sqrt(np.maximum(scatter, 0.0) * n_runs / (n_runs - 1)) / sums.omega[..., None])
