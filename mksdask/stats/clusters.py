"""Clusters: the connected components of a phase in a volume of any size.

Voxels are connected if they share a face. The volume is cut into tiles. Each tile is labelled by itself, labels that
meet at the face of two tiles are paired, and one task unites all pairs. No task holds more than a tile, and the labels
of the faces.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mksdask.arrays import Array, ArrayLike, is_lazy
from mksdask.compute.blocks import array_of, map_parts
from mksdask.compute.graph import stored_array
from mksdask.compute.operation import Operation, operation
from mksdask.compute.plans import Limit, Plan, Stage
from mksdask.samples import Grid
from mksdask.schema.arguments import checked
from mksdask.stats.components import (
    Clusters,
    LabelTile,
    NumberTile,
    RelabelTile,
    UniteTiles,
    pairs_between,
    without_faces,
)
from mksdask.stats.phases import phases_argument
from mksdask.storage.atomic import Url
from mksdask.storage.blocks import layout_begun
from mksdask.storage.results import Result

# A tile has at most this many voxels.
TILE_VOXELS = 2**23
# Bytes of a voxel in a task, beside those that are read: its mask, its label in the tile and in the volume, and where
# labels begin.
WORK = 32
# Sizes of clusters are counted in classes from 2**k to 2**(k + 1) - 1 voxels.
CLASSES = 48


@dataclass(frozen=True)
class _Tiling:
    """The tiles of a volume, and the tasks that label them."""

    data: Any
    kernel: LabelTile
    grid: Grid
    steps: tuple[int, ...]

    @classmethod
    def of(cls, data: Any, phase: int, grid: Grid, limit: Limit, begun: tuple[int, ...] | None = None) -> _Tiling:
        """Choose the largest tiles that fit. Those of a call that was begun are taken, if they fit."""
        shape = tuple(map(int, data.shape))
        voxel_bytes = _voxel_bytes(data)
        voxels = min(TILE_VOXELS, limit.task_bytes // voxel_bytes)
        if voxels < 1:
            raise limit.refusal(voxel_bytes, "a tile of one voxel", "make the volume smaller")
        edge = max(1, int(voxels ** (1.0 / len(shape)) + 1e-9))
        chunks = data.chunksize if is_lazy(data) else (1,) * len(shape)
        steps = tuple(min(n, edge - edge % c if edge > c else edge) for n, c in zip(shape, chunks, strict=True))
        if begun is not None and np.prod(begun) * voxel_bytes <= limit.task_bytes:
            steps = tuple(min(n, step) for n, step in zip(shape, begun, strict=True))
        return cls(data, LabelTile(phase, shape), grid, steps)

    @property
    def task_bytes(self) -> int:
        """Peak bytes of a task that labels a tile."""
        return int(np.prod(self.steps)) * _voxel_bytes(self.data)

    @property
    def along(self) -> list[list[slice]]:
        """Slices of the tiles along each axis."""
        return [
            [slice(i, min(i + step, n)) for i in range(0, n, step)]
            for n, step in zip(self.data.shape, self.steps, strict=True)
        ]

    @property
    def boxes(self) -> list[tuple[slice, ...]]:
        """All tiles."""
        return [*itertools.product(*self.along)]

    def clusters(self) -> Any:
        """Find all clusters, as one delayed value."""
        shape = tuple(map(len, self.along))
        tiles = self._mapped(self.kernel, [(box,) for box in self.boxes], "label-tiles")
        places = [*np.ndindex(*shape)]
        borders = [tuple((i == 0, i == n - 1) for i, n in zip(place, shape, strict=True)) for place in places]
        meetings: list[tuple[int, int, int, bool]] = []
        for number, place in enumerate(places):
            for axis, n in enumerate(shape):
                is_around = place[axis] == n - 1
                if not is_around or self.grid.periodic[axis]:
                    other = tuple((i + (a == axis)) % n if a == axis else i for a, i in enumerate(place))
                    meetings.append((number, int(np.ravel_multi_index(other, shape)), axis, is_around))
        kept = map_parts(without_faces, [*zip(tiles, borders, strict=True)], name="labels-of-tiles", of=())
        met = [(tiles[a], tiles[b], axis) for a, b, axis, _ in meetings]
        pairs = map_parts(pairs_between, met, name="labels-that-meet", of=()) if met else []
        (united,) = map_parts(UniteTiles(tuple(meetings), len(shape)), [(kept, pairs)], name="unite-labels", of=())
        return united

    def labelled(self) -> Any:
        """Label the volume lazily, in chunks of one tile."""
        united = self.clusters()
        parts = [(box, number, united) for number, box in enumerate(self.boxes)]
        return self._assembled(RelabelTile(self.kernel), parts, np.int64, "relabel-tiles")

    def kept(self, scratch: Url) -> _Tiling:
        """Label all tiles by themselves now, and keep their labels in a store, from which later passes read them."""
        lazy = self._assembled(NumberTile(self.kernel), [(box,) for box in self.boxes], np.int32, "labels-to-keep")
        stored = Result.of(lazy, scratch, "scratch", layout={"tile": self.steps}).write()
        return replace(self, data=stored, kernel=replace(self.kernel, is_kept=True))

    def _mapped(self, kernel: Any, parts: Sequence[tuple[Any, ...]], name: str) -> list[Any]:
        """Apply a kernel to all tiles: ``kernel(*part, source)``."""
        source = stored_array(self.data)
        if source is not None:
            return map_parts(kernel, parts, name=name, shared=(source,), of=(self.data,))
        blocks = [self.data[box].rechunk(-1).to_delayed(optimize_graph=False).item() for box in self.boxes]
        return map_parts(kernel, [(*part, block) for part, block in zip(parts, blocks, strict=True)], name=name, of=())

    def _assembled(self, kernel: Any, parts: Sequence[tuple[Any, ...]], dtype: Any, name: str) -> Any:
        """Make an array of the blocks that a kernel returns for all tiles."""
        blocks = [
            array_of(value, tuple(along.stop - along.start for along in box), dtype, name="clusters")
            for value, box in zip(self._mapped(kernel, parts, name), self.boxes, strict=True)
        ]
        for axis in reversed(range(self.data.ndim)):
            n = len(self.along[axis])
            blocks = [np.concatenate(blocks[i : i + n], axis=axis) for i in range(0, len(blocks), n)]
        return blocks[0]


def _voxel_bytes(data: Any) -> int:
    return int(data.dtype.itemsize) * (1 if stored_array(data) is not None else 2) + WORK


@dataclass(frozen=True)
class Clustering(Operation[Any]):
    """The checked arguments of `label_clusters`, and those of `cluster_statistics`."""

    name: str
    data: Any
    labels: xr.DataArray | None
    phase: int
    grid: Grid
    scratch: Url | None

    @classmethod
    def of(
        cls, name: str, volume: ArrayLike, phase: Any, periodic_axes: int | Sequence[int] | None, scratch: Url | None
    ) -> Clustering:
        """Check the arguments of a call."""
        data, labels = phases_argument(volume, phase)
        return cls(name, data, labels, int(phase), Grid.of(labels, data.shape, periodic_axes, first=0), scratch)

    def tiling(self, limit: Limit) -> _Tiling:
        """Choose the tiles."""
        begun = None if self.scratch is None else layout_begun(self.scratch, "tile", self.data.ndim)
        return _Tiling.of(self.data, self.phase, self.grid, limit, begun)

    def plan(self, limit: Limit) -> Plan:
        """Plan the passes over the tiles."""
        tiling, n = self.tiling(limit), int(np.prod(self.data.shape))
        read, kept = float(n * self.data.dtype.itemsize), 4.0 * n * (self.scratch is not None)
        n_tiles, task_bytes = len(tiling.boxes), tiling.task_bytes
        stages = [Stage("label tiles", n_tiles, task_bytes, read, kept)]
        if self.scratch is not None:
            stages.append(Stage("read labels", n_tiles, task_bytes, kept))
        # Faces wait for those of the next tiles.
        faces = 8 * sum(int(np.prod(tiling.steps)) // step for step in tiling.steps) * n_tiles
        stages.append(Stage("unite labels", 1, faces))
        if self.name == "label_clusters":
            stages.append(Stage("label volume", n_tiles, task_bytes, kept or read))
        notes = (
            "One task also holds about 100 bytes for each cluster of each tile, whose number nobody knows before.",
        )
        return Plan(self.name, {"volume": tiling.kernel.spatial, "tile": tiling.steps}, tuple(stages), limit, notes)

    def run(self) -> Any:
        """Label the clusters, or compute their statistics."""
        tiling = self.tiling(Limit.of())
        if self.scratch is not None:
            tiling = tiling.kept(self.scratch)
        if self.name == "cluster_statistics":
            return _statistics(tiling.clusters(), self.grid)
        found = tiling.labelled()
        if self.labels is None:
            return found
        attrs = {key: self.labels.attrs[key] for key in ("periodic_axes", "periods") if key in self.labels.attrs}
        return xr.DataArray(found, dims=self.labels.dims, coords=self.labels.coords, name="clusters", attrs=attrs)


@operation
@checked
def label_clusters(
    volume: ArrayLike,
    phase: int,
    *,
    periodic_axes: int | Sequence[int] | None = None,
    scratch: Url | None = None,
) -> Operation[Any]:
    """Number the clusters of a phase in a volume of any size, and give each voxel the number of its cluster.

    Voxels of a phase belong to one cluster if a path from face to face leads from one to the other inside the phase.

    Parameters
    ----------
    volume : array, shape (*spatial,)
        Phase number of each voxel, with 1 to 3 axes and any chunks: NumPy, zarr, dask, or a variable of the Dataset
        that `open_volume` returns.
    phase : int
        Number of the phase.
    periodic_axes : sequence of int, optional
        Numbers of the periodic axes. Default: those in the attribute ``periodic_axes`` of a DataArray, or none.
    scratch : str or path, optional
        A store that keeps the labels of tiles, 4 bytes for a voxel before compression. With `scratch`, the call labels
        all tiles at once. If it is killed, the same call continues where the first one stopped. You remove the store
        yourself. Default: tiles are labelled each time they are needed.

    Returns
    -------
    dask array or DataArray, shape (*spatial,), int64
        Number of the cluster, in the order of the first voxels of clusters, and 0 outside the phase. It does not depend
        on the tiles. `mksdask.storage.materialize` writes it to a store, block by block, and goes on after a call that
        was killed.

    Raises
    ------
    ValueError
        If the volume does not hold phase numbers, an axis does not exist, or not even one voxel fits into a task.

    Notes
    -----
    The volume is read twice, in tiles of up to 8 million voxels. A task takes up to 300 MB. One task holds some numbers
    for each cluster of each tile.

    References
    ----------
    Hoshen, J., Kopelman, R. Percolation and cluster distribution. Phys. Rev. B 14 (1976) 3438.

    Examples
    --------
    >>> import numpy as np
    >>> label_clusters(np.array([[1, 0, 1], [1, 0, 1], [0, 1, 0]]), 1).compute().tolist()
    [[1, 0, 2], [1, 0, 2], [0, 3, 0]]
    """
    return Clustering.of("label_clusters", volume, phase, periodic_axes, scratch)


@operation
@checked
def cluster_statistics(
    volume: ArrayLike,
    phase: int,
    *,
    periodic_axes: int | Sequence[int] | None = None,
    scratch: Url | None = None,
) -> Operation[xr.Dataset]:
    """Count the clusters of a phase in a volume of any size, and say how large they are and whether one percolates.

    Parameters
    ----------
    volume, phase, periodic_axes, scratch
        As in `label_clusters`.

    Returns
    -------
    xarray.Dataset
        ``n_clusters``, the number of clusters; ``largest``, the share of the phase that lies in the largest one;
        ``percolates``, for each axis whether a cluster reaches from side to side, where the two sides of this axis
        themselves do not count as connected; and ``counts``, the number of clusters of 2^k to 2^(k+1) - 1 voxels, with
        the coordinates ``voxels``, the least number of voxels of the class, and ``volume``, the same in the units of
        the volume. All are lazy.

    Raises
    ------
    ValueError
        As in `label_clusters`.

    Examples
    --------
    >>> import numpy as np
    >>> found = cluster_statistics(np.array([[1, 0, 1], [1, 0, 1], [0, 0, 1]]), 1)
    >>> int(found.n_clusters), float(found.largest), found.percolates.values.tolist(), found.counts[:3].values.tolist()
    (2, 0.6, [True, False], [0, 2, 0])
    """
    return Clustering.of("cluster_statistics", volume, phase, periodic_axes, scratch)


def _statistics(united: Any, grid: Grid) -> xr.Dataset:
    """Compute the statistics of all clusters, which are one delayed value."""
    axes = grid.axes

    def lazily(function: Any, shape: tuple[int, ...], dtype: Any, name: str) -> Any:
        return array_of(united, shape, dtype, name=name, function=function)

    least = 2 ** np.arange(CLASSES, dtype=np.int64)
    units = f"{axes[0].units}^{len(axes)}"
    cell = float(np.prod([abs(axis.step) for axis in axes]))
    return xr.Dataset(
        {
            "n_clusters": ((), lazily(_number, (), np.int64, "n-clusters")),
            "largest": ((), lazily(_largest, (), np.float64, "largest-cluster")),
            "percolates": ("axis", lazily(_percolates, (len(axes),), np.bool_, "percolates")),
            "counts": ("class", lazily(_size_classes, (CLASSES,), np.int64, "sizes-of-clusters")),
        },
        coords={
            "axis": [axis.name for axis in axes],
            "voxels": ("class", least),
            "volume": ("class", least * cell, {"units": units}),
        },
    )


def _number(clusters: Clusters) -> Array:
    return np.asarray(len(clusters.sizes))


def _largest(clusters: Clusters) -> Array:
    return np.asarray(clusters.sizes.max() / clusters.sizes.sum() if len(clusters.sizes) else 0.0)


def _percolates(clusters: Clusters) -> Array:
    return np.array(clusters.percolates)


def _size_classes(clusters: Clusters) -> NDArray[np.int64]:
    # The logarithm of an integer below 2**53 is exact enough to tell powers of 2.
    classes = np.frexp(clusters.sizes.astype(np.float64))[1] - 1
    return np.bincount(classes, minlength=CLASSES).astype(np.int64)
