"""2-point statistics of one volume for lags up to a cutoff: an exact sum over tiles.

Each voxel s belongs to one tile; s + r then lies in the tile or in a halo of the cutoff about it. With the tile and the
haloed tile padded to one length, ``Σ_{s in tile} m*[h; s] m[h'; s + r]`` is a product of transforms, and the sum over a
run of tiles is taken in Fourier space: one inverse transform serves all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import dask
import dask.array as da
import numpy as np
from numpy.typing import NDArray

from mksdask.compute.blocks import merge_tree
from mksdask.compute.graph import stored_array
from mksdask.compute.operation import Limit, Plan, Stage
from mksdask.compute.watching import Channel, Plane, Watch, watching
from mksdask.samples import spacing_of
from mksdask.stats.lags import LagTransform
from mksdask.stats.microstructure import VolumeFields, VolumeProblem, mask_fields, mask_pairs
from mksdask.stats.pencils import Pencils, three_axes
from mksdask.stats.tiling import Box, TileWork, Tiling, plan_tiles
from mksdask.storage.atomic import Url
from mksdask.storage.blocks import keep

Array: TypeAlias = NDArray[Any]

# Tiles whose products are added up in the precision of the transforms, before their sums are in double precision: few
# enough for rounding to stay below that of the transforms.
TILES_TOGETHER = 16


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


class _Products:
    """Products of the transforms of a run of tiles, added up; `pairs` are numbers of fields."""

    def __init__(self, tiling: Tiling, pairs: Sequence[tuple[int, int]], dtype: np.dtype[Any]) -> None:
        self.tiling, self.pairs = tiling, pairs
        self.pencils = Pencils(tiling.transform, dtype)
        spectral, plane = self.pencils.dtype, self.pencils.transform.plane
        n_tile, n_block = (three_axes(shape, 1)[0] for shape in (tiling.tile, tiling.largest_block))
        self.firsts = {a: np.zeros((n_tile, *plane), dtype=spectral) for a, _ in pairs}
        self.seconds = {b: np.zeros((n_block, *plane), dtype=spectral) for _, b in pairs}
        self.totals = [self.pencils.empty_total() for _ in pairs]

    def add(self, fields: Iterator[tuple[int, int, Array]], box: Box) -> None:
        """Add a tile's products, from planes (first plane, field, values) of what exists of its haloed box."""
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
        """The sums at each lag, (*lags), one pair after the other; they start anew then."""
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
    """Values at all lags, from those of a tiling of half of them: f(-r) = f*(r)."""
    if not tiling.half:
        return values
    mirrored = np.flip(values)[:-1].conj()
    return np.concatenate([mirrored, values])


@dataclass(frozen=True)
class _TileSum:
    """The kernel of one run of tiles. `pairs` are numbers of states."""

    fields: VolumeFields
    tiling: Tiling
    pairs: tuple[tuple[int, int], ...]

    def __call__(
        self,
        run: tuple[int, int],
        source: Any,
        mask: Any = None,
        *,
        is_block: bool = False,
        watched: tuple[Channel, Plane] | None = None,
    ) -> Array:
        """Sums of a run of tiles, read from arrays; or of one tile, whose haloed blocks are given.

        Σ m* m' of each pair, Ω, and the number of observed pairs, at each lag: (1, *lags, n_pairs + 2). Sums so far are
        published where they are watched.
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
                values = source if is_block else tiling.read(source, haloed)
                confidence = None
                if weights is None:
                    counts = counts + self._count(box)
                else:
                    confidence = mask if is_block else tiling.read(mask, haloed)
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
        """Voxel pairs (s, s + r) with s in a tile, at each lag."""
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
    problem: VolumeProblem,
    cutoff: int | Sequence[int],
    limit: Limit,
    *,
    return_std: bool = False,
    scratch: Url | None = None,
    watch: Watch = False,
) -> Any:
    """Statistics up to a cutoff, lazily, and with `return_std` their standard error; see `correlate_volume`."""
    kernel, _ = _tile(problem, cutoff, limit, return_std=return_std)
    tiling = kernel.tiling
    if watch is False:
        return _statistics(problem, kernel, _runs(kernel, problem), return_std=return_std, scratch=scratch)
    plane = Plane.of([2 * c + 1 for c in tiling.cutoff], spacing_of(problem.samples, len(tiling.cutoff)))
    with watching(watch, plane, tiling.n_tiles, "tiles") as watcher:
        assert watcher is not None
        runs = _runs(kernel, problem, (watcher.channel, plane))
        found = _statistics(problem, kernel, runs, return_std=return_std, scratch=scratch)
        computed = dask.compute(found)[0]
        watcher.finish(np.asarray(computed[0] if return_std else computed))
    return computed


def _statistics(
    problem: VolumeProblem, kernel: _TileSum, runs: da.Array, *, return_std: bool, scratch: Url | None
) -> Any:
    """Statistics from the sums of runs, lazily."""
    tiling, data, mask = kernel.tiling, problem.data, problem.mask
    if scratch is not None:
        runs = keep(runs, scratch, "scratch")
    total = _total(runs, with_squares=return_std)
    shape = (*(2 * c + 1 for c in tiling.cutoff), len(problem.pairs))
    token = dask.base.tokenize(kernel, data, mask, return_std, scratch)

    def lazily(function: Callable[[TileSums], Array], name: str, kind: Any) -> Any:
        task = dask.delayed(function, name=f"{name}-kernel-{token}")(total, dask_key_name=f"{name}-{token}")
        array = da.from_delayed(task, shape, dtype=kind, name=f"{name}-array-{token}")
        return problem.label(array, [np.arange(-c, c + 1) for c in tiling.cutoff], name)

    mean = lazily(_ratio, "two_point_statistics", np.float64 if tiling.real else np.complex128)
    if not return_std:
        return mean
    return mean, lazily(partial(_standard_error, n_runs=runs.shape[0]), "standard_error", np.float64)


def plan_tile_sum(
    problem: VolumeProblem,
    cutoff: int | Sequence[int],
    limit: Limit,
    *,
    return_std: bool = False,
    scratch: Url | None = None,
) -> Plan:
    """What `sum_tiles` will take."""
    kernel, work = _tile(problem, cutoff, limit, return_std=return_std)
    tiling = kernel.tiling
    n_runs = tiling.n_runs if problem.is_stored else tiling.n_tiles
    sums = float(work.result_bytes(tiling) * n_runs)
    kept = 0.0 if scratch is None else sums
    read = float(tiling.voxels_read() * problem.voxel_bytes)
    notes: tuple[str, ...] = (f"Each voxel is read {tiling.voxels_read() / np.prod(tiling.spatial):.2f} times.",)
    if not problem.is_stored:
        notes += ("The volume is neither stored nor in memory: write it with create_volume first.",)
    return Plan(
        "correlate_volume",
        {
            "volume": tiling.spatial,
            "lags": " × ".join(f"±{c}" for c in tiling.cutoff),
            "tile": tiling.tile,
            "tiles": tiling.n_tiles,
            "transform": tuple(n for n in tiling.transform.lengths if n > 1),
        },
        (
            Stage("tile sums", n_runs, work.task_bytes(tiling), read, kept, work.operations(tiling)),
            Stage("add up", 2 * n_runs + return_std, work.merge_bytes(tiling), kept),
        ),
        limit,
        notes,
    )


def _tile(
    problem: VolumeProblem, cutoff: int | Sequence[int], limit: Limit, *, return_std: bool
) -> tuple[_TileSum, TileWork]:
    """The kernel of a run of tiles, with the cheapest tiling that fits, and what its tasks take."""
    reach = LagTransform.plan(problem.spatial, problem.periodic, cutoff, real=True).reach
    indices = problem.indices
    work = TileWork(
        len({a for a, _ in indices}),
        len({b for _, b in indices}),
        len(indices),
        problem.dtype.itemsize * (1 if problem.is_real else 2),
        problem.voxel_bytes,
        problem.mask is not None,
        return_std,
        not problem.is_stored,
    )
    tiling = plan_tiles(
        problem.spatial,
        problem.periodic,
        tuple(low for low, _ in reach),
        work,
        limit,
        real=problem.is_real,
        half=len(problem.spatial) > 1 and all(a == b for a, b in indices),
    )
    return _TileSum(problem.fields, tiling, indices), work


def _runs(kernel: _TileSum, problem: VolumeProblem, watched: tuple[Channel, Plane] | None = None) -> da.Array:
    """The sums of all runs, lazily: (n_runs, *lags, n_pairs + 2)."""
    tiling, data, mask = kernel.tiling, problem.data, problem.mask
    source, weights = stored_array(data), stored_array(mask)
    token = dask.base.tokenize(kernel, data, mask)
    run = dask.delayed(kernel, name=f"correlate-volume-kernel-{token}")
    parts = []
    # Results are the same whoever watches, so this is in no name.
    options = {} if watched is None else {"watched": watched}
    if source is not None and (mask is None or weights is not None):
        whole = dask.delayed(source, name=f"volume-{token}")
        masks = None if mask is None else dask.delayed(weights, name=f"confidence-{token}")
        for number, bounds in enumerate(tiling.runs()):
            parts.append(run(bounds, whole, masks, dask_key_name=f"correlate-volume-{token}-{number}", **options))
    else:
        blocks, masks = (None if array is None else da.asarray(array) for array in (data, mask))
        for number in range(tiling.n_tiles):
            box = tiling.haloed(tiling.box(number))
            parts.append(
                run(
                    (number, number + 1),
                    tiling.gather(blocks, box),
                    None if masks is None else tiling.gather(masks, box),
                    is_block=True,
                    dask_key_name=f"correlate-volume-{token}-{number}",
                    **options,
                )
            )
    shape = (1, *(2 * c + 1 for c in tiling.cutoff), len(kernel.pairs) + 2)
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
    with np.errstate(invalid="ignore"):
        return np.asarray(sums.products / omega)


def _standard_error(sums: TileSums, *, n_runs: int) -> Array:
    """Spread of f over the runs, each left out in turn, to first order: Σ (N_k - f Ω_k)² / Ω²."""
    if sums.squares is None or n_runs < 2:
        return np.full(sums.products.shape, np.nan)
    mean = _ratio(sums)
    products, mixed, omegas = sums.squares
    scatter = products - 2.0 * (mean.conj() * mixed).real + np.abs(mean) ** 2 * omegas[..., None]
    return np.asarray(np.sqrt(np.maximum(scatter, 0.0) * n_runs / (n_runs - 1)) / sums.omega[..., None])
