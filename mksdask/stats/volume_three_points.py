"""3-point statistics of one volume of any size, for chosen offsets of the third point.

The volume is cut into tiles. Each is read with a halo that holds the lags and the offsets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import DTypeLike

from mksdask.arrays import Array, ArrayLike
from mksdask.bases.base import Basis
from mksdask.compute.blocks import array_of, fold_parts
from mksdask.compute.operation import Operation, operation
from mksdask.compute.plans import Limit, Plan, Stage, fft_operations
from mksdask.samples import Volume, check_confidence
from mksdask.schema.arguments import checked
from mksdask.stats.halos import HaloedTiles
from mksdask.stats.lags import LagFFT
from mksdask.stats.three_points import NAME, ThreePointKernel, Triple, kernel_of, labels_of
from mksdask.storage.atomic import Url
from mksdask.storage.blocks import layout_begun
from mksdask.storage.results import Result


@dataclass(frozen=True)
class _OfTile:
    """The kernel of one tile with its halo: sums over s in the tile, (*lags, n_offsets, n_triples).

    With a mask, two more columns hold Ω[r, r'] and the number of observed voxels.
    """

    whole: ThreePointKernel
    offsets: tuple[tuple[int, ...], ...]  # along a periodic axis, at most half of its period

    def __call__(self, block: Array, inner: tuple[slice, ...], mask: Array | None = None) -> Array:
        n, whole = len(inner), self.whole
        lags = LagFFT(block.shape[:n], (False,) * n, whole.transform.reach, real=whole.transform.real)
        kernel = replace(whole, transform=lags, offsets=self.offsets)
        states = sorted({state for triple in kernel.triples for state in triple})
        is_first = np.zeros(lags.spatial, dtype=bool)
        is_first[inner] = True
        weights = None
        if mask is not None:
            check_confidence(mask)
            weights = mask.astype(kernel.dtype, copy=False)
        fields = dict(zip(states, kernel.basis.weighted_fields(block, weights, states, kernel.dtype), strict=True))
        firsts = {a: np.where(is_first, fields[a], 0) for a in {a for a, _, _ in kernel.triples}}
        tail = len(kernel.triples) + 2 * (mask is not None)
        out = np.empty((*lags.shape, len(self.offsets), tail), dtype=np.float64 if lags.real else np.complex128)
        kernel.correlate(firsts, fields, [1.0] * len(self.offsets), out)
        if mask is not None:
            for number, offset in enumerate(self.offsets):
                found = kernel.confident(np.where(is_first, mask, 0), mask, offset)
                out[..., number, -2], out[..., number, -1] = found
        return out


def _sums_of(rows: Array) -> Array:
    return rows[0]


def _divided(sums: Array, *, kernel: ThreePointKernel, is_masked: bool) -> Array:
    """Divide the sums of all tiles by Ω[r, r'], or return NaN where no three voxels are observed."""
    counts = np.stack([np.broadcast_to(kernel.counts(o), sums.shape[:-2]) for o in kernel.offsets], axis=-1)
    omega, observed = (sums[..., -2].real, np.rint(sums[..., -1].real)) if is_masked else (counts, counts)
    with np.errstate(invalid="ignore"):
        return np.asarray(sums[..., : len(kernel.triples)] / np.where(observed > 0, omega, np.nan)[..., None])


@dataclass(frozen=True)
class _OfVolume(Operation[Any]):
    """The checked arguments of `correlate_volume3`."""

    volume: Volume
    triples: tuple[Triple, ...]
    kernel: ThreePointKernel
    scratch: Url | None

    @property
    def tile_kernel(self) -> _OfTile:
        spatial, periodic = self.volume.grid.shape, self.volume.grid.periodic
        offsets = tuple(
            tuple(
                (o + n // 2) % n - n // 2 if wraps else o for o, n, wraps in zip(each, spatial, periodic, strict=True)
            )
            for each in self.kernel.offsets
        )
        return _OfTile(self.kernel, offsets)

    @property
    def sums_shape(self) -> tuple[int, ...]:
        n_columns = len(self.triples) + 2 * (self.volume.confidence is not None)
        return (*self.kernel.transform.shape, len(self.kernel.offsets), n_columns)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float64 if self.kernel.transform.real else np.complex128)

    @property
    def result_bytes(self) -> int:
        return int(np.prod(self.sums_shape)) * self.dtype.itemsize

    def tiles(self, limit: Limit) -> HaloedTiles:
        volume, kernel = self.volume, self.kernel
        reach = [low for low, _ in kernel.transform.reach]
        halo = np.maximum(reach, np.abs(self.tile_kernel.offsets).max(axis=0)).tolist()
        firsts, seconds, thirds = ({triple[i] for triple in kernel.triples} for i in range(3))
        n_fields = len(firsts) + len(firsts | set(seconds) | set(thirds)) + 3
        # Transforms are longer than the block, by the lags.
        n_spectra = (len(seconds) + 4) * (1 if kernel.transform.real else 2)
        voxel_bytes = 2 * volume.voxel_bytes + n_fields * kernel.result_dtype.itemsize
        voxel_bytes += int(1.5 * n_spectra * kernel.dtype.itemsize) + (72 if volume.confidence is not None else 0)
        merged = 4 * self.result_bytes
        if merged + voxel_bytes > limit.task_bytes:
            raise limit.refusal(merged + voxel_bytes, "the sums of all lags, offsets and triples", "take fewer of them")
        rest = replace(limit, held_bytes=merged)
        remedy = "lower the cutoff, or take shorter offsets"
        begun = None if self.scratch is None else layout_begun(self.scratch, "tile", len(halo))
        return HaloedTiles.of(
            volume.data, volume.grid, halo, voxel_bytes, rest, remedy=remedy, begun=begun, mask=volume.confidence
        )

    def sums(self, tiles: HaloedTiles) -> Any:
        """Add up the sums of all tiles, as one delayed value. With `scratch`, those of each tile are kept there."""
        name = "three-point-sums"
        if self.scratch is None:
            return tiles.fold(self.tile_kernel, np.add, name=name)
        rows = tiles.stack(self.tile_kernel, self.sums_shape, self.dtype, name=name)
        kept = Result.of(rows, self.scratch, "scratch", layout={"tile": tiles.tiling.tile}).write()
        parts = [(row,) for row in kept.to_delayed(optimize_graph=False).ravel()]
        return fold_parts(_sums_of, np.add, parts, name=name, of=())

    def plan(self, limit: Limit) -> Plan:
        tiles, kernel = self.tiles(limit), self.kernel
        tiling = tiles.tiling
        operations = fft_operations(tiling.largest_block, real=kernel.transform.real)
        operations *= kernel.n_transforms * tiling.n_tiles
        read = float(tiling.voxels_read() * self.volume.voxel_bytes)
        task_bytes = tiles.task_bytes + 4 * self.result_bytes
        written = 0.0 if self.scratch is None else float(self.result_bytes * tiling.n_tiles)
        stage = Stage("3-point statistics", tiling.n_tiles, task_bytes, read, written, operations)
        layout = {"volume": tiling.spatial, "tile": tiling.tile, "lags": kernel.transform.shape}
        return Plan("correlate_volume3", layout | {"offsets": len(kernel.offsets)}, (stage,), limit)

    def run(self) -> Any:
        volume, kernel = self.volume, self.kernel
        function = partial(_divided, kernel=kernel, is_masked=volume.confidence is not None)
        sums = self.sums(self.tiles(Limit.of()))
        found = array_of(sums, kernel.tail, self.dtype, name="correlate-volume3", function=function)
        if volume.labels is None:
            return found
        dims, coords = labels_of(volume.grid, kernel.transform, kernel.offsets, self.triples)
        return xr.DataArray(found, dims=dims, coords=coords, name=NAME, attrs=dict(volume.labels.attrs))


@operation
@checked
def correlate_volume3(
    volume: ArrayLike,
    basis: Basis | None,
    offsets: Sequence[Sequence[int]],
    *,
    cutoff: int | Sequence[int] | None,
    correlations: Sequence[Triple] | None = None,
    periodic_axes: int | Sequence[int] | None = None,
    confidence_index: ArrayLike | None = None,
    dtype: DTypeLike = "float32",
    scratch: Url | None = None,
) -> Operation[Any]:
    """Compute 3-point statistics of one volume of any size, for lags up to a cutoff.

    See `correlate3` for the formula.

    Parameters
    ----------
    volume : array, shape (*spatial,)
        Local state of each voxel, with 1 to 3 axes and any chunks: NumPy, zarr, dask, or a variable of the Dataset that
        `open_volume` returns.
    basis, cutoff, periodic_axes, dtype
        As in `correlate_volume`. `cutoff` is required.
    offsets, correlations
        As in `correlate3`.
    confidence_index : array, shape (*spatial,), optional
        Weight c[s] in [0, 1] of each voxel, as in `correlate3`.
    scratch : str or path, optional
        A store that keeps the sums of each tile. With `scratch`, the call computes them at once. If it is killed, the
        same call continues where the first one stopped; see `mksdask.storage.materialize`. You remove the store
        yourself.

    Returns
    -------
    dask array or DataArray, shape (*lags, n_offsets, n_triples), float64 or complex128
        As `correlate3` returns them for one sample. Lag 0 is at index `cutoff`. The result is lazy. It does not depend
        on the tiles but for rounding.

    Raises
    ------
    ValueError
        As in `correlate3` and `correlate_volume`.

    Notes
    -----
    Tiles are read with a halo that holds the lags and the offsets. `mksdask.plan` shows what a task takes.

    References
    ----------
    Torquato, S. Random Heterogeneous Materials. Springer, 2002, section 2.1.

    Examples
    --------
    >>> import numpy as np
    >>> from mksdask import PrimitiveBasis
    >>> volume = np.random.default_rng(0).integers(0, 2, (40, 30, 20))
    >>> f = correlate_volume3(volume, PrimitiveBasis(2), [(1, 0, 0)], cutoff=3, correlations=[(1, 1, 1)])
    >>> f.shape, bool(abs(f[6, 3, 3, 0, 0].compute() - 1 / 8) < 0.01)
    ((7, 7, 7, 1, 1), True)
    """
    found = Volume.of(volume, basis, confidence_index=confidence_index, periodic_axes=periodic_axes)
    if cutoff is None:
        msg = "cutoff must be an integer, or one for each axis, because tiles are read with a halo of it; got None"
        raise ValueError(msg)
    kernel, triples = kernel_of(found.grid, found.basis, offsets, correlations, cutoff, dtype)
    return _OfVolume(found, triples, kernel, scratch)
