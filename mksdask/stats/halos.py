"""Tiles of a volume that are read with a halo, for kernels whose result at a voxel depends on voxels nearby."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from mksdask.arrays import as_lazy
from mksdask.compute.blocks import Merge, array_of, fold_parts, map_parts
from mksdask.compute.graph import stored_array
from mksdask.compute.plans import Limit
from mksdask.samples import Grid
from mksdask.stats.tiling import Tiling

# A kernel of one tile: the tile with its halo, as far as it lies in the volume; where the tile lies in this block; and
# the same block of the mask, if there is one.
TileKernel = Callable[..., Any]

# Most voxels of a tile with its halo.
BLOCK_VOXELS = 2**23


@dataclass(frozen=True)
class _OfTile:
    """The task of one tile. The blocks are given, or read from the arrays that hold the volume and its mask."""

    kernel: TileKernel
    tiling: Tiling
    is_gathered: bool

    def __call__(self, number: int, *sources: Any) -> Any:
        tiling = self.tiling
        box = tiling.box(number)
        haloed = tiling.haloed(box)
        block, *mask = sources if self.is_gathered else [tiling.read(source, haloed) for source in sources]
        starts = [low if wraps else max(low, 0) for (low, _), wraps in zip(haloed, tiling.periodic, strict=True)]
        inner = tuple(slice(low - s, high - s) for (low, high), s in zip(box, starts, strict=True))
        return self.kernel(block, inner, *mask)


@dataclass(frozen=True)
class _Row:
    """The task of one tile, whose value becomes a row of an array."""

    task: _OfTile

    def __call__(self, number: int, *sources: Any) -> Any:
        return self.task(number, *sources)[None]


@dataclass(frozen=True)
class HaloedTiles:
    """The tiles of a volume with their halos, and the tasks on them.

    Parameters
    ----------
    data : ndarray or dask array, shape (*spatial, ...)
        The volume.
    tiling : Tiling
        The tiles. Their cutoff is the width of the halo.
    voxel_bytes : int
        Peak bytes of a task for each voxel of a tile with its halo.
    mask : ndarray or dask array, shape (*spatial,), or None
        What a kernel gets beside the volume.
    """

    data: Any
    tiling: Tiling
    voxel_bytes: int
    mask: Any = None

    @classmethod
    def of(
        cls,
        data: Any,
        grid: Grid,
        halo: Sequence[int],
        voxel_bytes: int,
        limit: Limit,
        *,
        remedy: str,
        begun: tuple[int, ...] | None = None,
        mask: Any = None,
    ) -> HaloedTiles:
        """Choose the largest tiles that fit into memory, up to `BLOCK_VOXELS` with the halo.

        `begun` is the tile of a call that was begun. It is taken if it fits.

        Raises
        ------
        DoesNotFitError
            If a tile of one voxel does not fit. `remedy` says what the caller can change.
        """
        spatial, most = grid.shape, max(grid.shape)

        def of_tile(tile: tuple[int, ...]) -> HaloedTiles:
            return cls(data, Tiling(spatial, grid.periodic, tuple(halo), tile, real=True), voxel_bytes, mask)

        least = of_tile((1,) * len(spatial))
        if least.task_bytes > limit.task_bytes:
            raise limit.refusal(least.task_bytes, f"a tile with a halo of {max(halo)} voxels", remedy)
        if begun is not None and all(size <= n for size, n in zip(begun, spatial, strict=True)):
            found = of_tile(begun)
            if found.task_bytes <= limit.task_bytes:
                return found
        best, low, high = least, 1, most
        while low <= high:
            edge = (low + high) // 2
            found = of_tile(tuple(-(-n // -(-n // min(edge, n))) for n in spatial))
            if found.task_bytes <= min(limit.task_bytes, max(BLOCK_VOXELS * voxel_bytes, 8 * least.task_bytes)):
                best, low = found, edge + 1
            else:
                high = edge - 1
        return best

    @property
    def task_bytes(self) -> int:
        """Peak bytes of a task."""
        return int(np.prod(self.tiling.largest_block)) * self.voxel_bytes

    def map(self, kernel: TileKernel, dtype: DTypeLike, *, name: str, tail: tuple[int, ...] = ()) -> Any:
        """Make a lazy array in chunks of one tile, (*spatial, *tail), of the blocks (*tile, *tail) of a kernel."""
        task, parts, options = self._tasks(kernel)
        tiling = self.tiling
        blocks = [
            array_of(value, (*(high - low for low, high in tiling.box(number)), *tail), dtype, name=name)
            for number, value in enumerate(map_parts(task, parts, name=name, **options))
        ]
        for axis in reversed(range(len(tiling.spatial))):
            n = tiling.counts[axis]
            blocks = [np.concatenate(blocks[i : i + n], axis=axis) for i in range(0, len(blocks), n)]
        return blocks[0]

    def fold(self, kernel: TileKernel, merge: Merge, *, name: str) -> Any:
        """Merge what a kernel returns for all tiles, as one delayed value."""
        task, parts, options = self._tasks(kernel)
        return fold_parts(task, merge, parts, name=name, **options)

    def stack(self, kernel: TileKernel, shape: tuple[int, ...], dtype: DTypeLike, *, name: str) -> Any:
        """Make a lazy array in chunks of one tile, (n_tiles, *shape), of what a kernel returns for each tile."""
        task, parts, options = self._tasks(kernel)
        values = map_parts(_Row(task), parts, name=name, **options)
        return np.concatenate([array_of(value, (1, *shape), dtype, name=name) for value in values])

    def _tasks(self, kernel: TileKernel) -> tuple[_OfTile, list[tuple[Any, ...]], dict[str, Any]]:
        tiling = self.tiling
        arrays = [self.data] if self.mask is None else [self.data, self.mask]
        sources, numbers = [stored_array(array) for array in arrays], range(tiling.n_tiles)
        if all(source is not None for source in sources):
            options = {"shared": sources, "of": arrays}
            return _OfTile(kernel, tiling, is_gathered=False), [(number,) for number in numbers], options
        boxes = [tiling.haloed(tiling.box(number)) for number in numbers]
        lazy = [as_lazy(array) for array in arrays]
        parts = [(number, *(tiling.gather(each, box) for each in lazy)) for number, box in enumerate(boxes)]
        return _OfTile(kernel, tiling, is_gathered=True), parts, {"of": ()}
