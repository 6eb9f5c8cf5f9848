"""Clusters: the connected components of a phase in a volume of any size.

Voxels are connected if they share a face. The volume is cut into tiles. Each tile is labelled by itself, labels that
meet at the face of two tiles are paired, and one task unites all pairs. No task holds more than a tile, and the labels
of the faces.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.ndimage
import scipy.sparse
import scipy.sparse.csgraph
import xarray as xr
from numpy.typing import NDArray

from mksdask.arrays import Array, ArrayLike, is_lazy, unwrap_volume
from mksdask.compute.blocks import array_of, map_parts
from mksdask.compute.graph import stored_array
from mksdask.compute.plans import Limit
from mksdask.samples import Grid
from mksdask.schema.arguments import checked

# A tile has at most this many voxels.
TILE_VOXELS = 2**23
# Bytes of a voxel in a task, beside those that are read: its mask, its label in the tile and in the volume, and where
# labels begin.
WORK = 32
# Sizes of clusters are counted in classes from 2**k to 2**(k + 1) - 1 voxels.
CLASSES = 48


def join_labels(n: int, pairs: Array) -> tuple[int, NDArray[np.int64]]:
    """Unite labels that are paired.

    Parameters
    ----------
    n : int
        Number of labels, which are 1 … n.
    pairs : ndarray of int, shape (2, n_pairs)
        Pairs of labels that belong together.

    Returns
    -------
    n_joined : int
        Number of labels that are left.
    joined : ndarray of int64, shape (n + 1,)
        New label of each label. That of 0 is 0.
    """
    rows, columns = pairs - 1
    graph = scipy.sparse.coo_matrix((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(n, n))
    n_joined, joined = scipy.sparse.csgraph.connected_components(graph, directed=False)
    return int(n_joined), np.concatenate([[0], joined + 1]).astype(np.int64)


def label_sample(mask: Array, periodic: Sequence[bool]) -> tuple[Array, int]:
    """Number the clusters of a mask, (*spatial,), across periodic sides too. Also return how many there are."""
    labels, n = scipy.ndimage.label(mask)
    ends = [
        _meeting(np.take(labels, -1, axis=axis), np.take(labels, 0, axis=axis)) for axis in np.flatnonzero(periodic)
    ]
    if not n or not ends:
        return labels, n
    n_joined, joined = join_labels(n, np.concatenate(ends, axis=1))
    return joined[labels], n_joined


def _meeting(last: Array, first: Array) -> NDArray[np.int64]:
    """List the different pairs of labels that meet where a face touches another, (2, n_pairs)."""
    both = (last > 0) & (first > 0)
    pairs = np.stack([last[both], first[both]]).astype(np.int64)
    return np.unique(pairs, axis=1) if pairs.size else pairs


@dataclass(frozen=True)
class _Tile:
    """What is kept of a tile: its faces, and of each label the number of voxels and the first of them."""

    sizes: NDArray[np.int64]
    firsts: NDArray[np.int64]
    faces: tuple[tuple[Array, Array], ...]


@dataclass(frozen=True)
class _Labels:
    """The kernel of one tile: the labels of a phase in it, and what is kept of them."""

    phase: int
    spatial: tuple[int, ...]

    def mask(self, box: tuple[slice, ...], source: Any) -> Array:
        """Read a tile. A source that is cut already has the shape of the tile."""
        shape = tuple(along.stop - along.start for along in box)
        return np.asarray(source if tuple(source.shape) == shape else source[box]) == self.phase

    def __call__(self, box: tuple[slice, ...], source: Any) -> _Tile:
        labels, n = scipy.ndimage.label(self.mask(box, source))
        sizes = np.bincount(labels.ravel(), minlength=n + 1)[1:]
        places = np.flatnonzero(labels)
        firsts = np.full(n + 1, -1, dtype=np.int64)
        # Of several values for one label, the last one stays, so places are taken backwards.
        firsts[labels.ravel()[places][::-1]] = places[::-1]
        inside = np.unravel_index(firsts[1:], labels.shape)
        whole = tuple(part + along.start for part, along in zip(inside, box, strict=True))
        faces = tuple((np.take(labels, 0, axis=axis), np.take(labels, -1, axis=axis)) for axis in range(labels.ndim))
        return _Tile(sizes, np.ravel_multi_index(whole, self.spatial).astype(np.int64), faces)


@dataclass(frozen=True)
class _Relabelled:
    """The kernel that labels a tile again, and replaces its labels by those of the volume."""

    labels: _Labels

    def __call__(self, box: tuple[slice, ...], number: int, clusters: _Clusters, source: Any) -> Array:
        found, _ = scipy.ndimage.label(self.labels.mask(box, source))
        return clusters.labels[number][found]


@dataclass(frozen=True)
class _Clusters:
    """All clusters of a volume: the labels of each tile, the sizes of clusters, and along which axes one percolates."""

    labels: tuple[NDArray[np.int64], ...]
    sizes: NDArray[np.int64]
    percolates: tuple[bool, ...]


def _light(tile: _Tile, borders: tuple[tuple[bool, bool], ...]) -> tuple[Any, ...]:
    """Keep of a tile what is needed of all tiles at once: no faces, but the labels at the borders of the volume."""
    at_borders = [
        tuple(
            np.unique(face) if is_border else np.zeros(0, dtype=np.int64)
            for face, is_border in zip(*sides, strict=True)
        )
        for sides in zip(tile.faces, borders, strict=True)
    ]
    return tile.sizes, tile.firsts, at_borders


def _pairs_between(last: _Tile, first: _Tile, axis: int) -> NDArray[np.int64]:
    return _meeting(last.faces[axis][1], first.faces[axis][0])


@dataclass(frozen=True)
class _United:
    """The kernel that unites the labels of all tiles.

    A meeting is (tile, next tile, axis, whether it is across a periodic side of the volume).
    """

    meetings: tuple[tuple[int, int, int, bool], ...]
    n_axes: int

    def __call__(self, tiles: Sequence[Any], pairs: Sequence[Array]) -> _Clusters:
        counts = [len(sizes) for sizes, _, _ in tiles]
        offsets = np.cumsum([0, *counts])
        n = int(offsets[-1])
        shifted = [
            found + np.array([[offsets[a]], [offsets[b]]])
            for (a, b, _, _), found in zip(self.meetings, pairs, strict=True)
        ]
        nothing = np.zeros((2, 0), dtype=np.int64)
        n_joined, joined = join_labels(n, np.concatenate([nothing, *shifted], axis=1))
        sizes = np.zeros(n_joined, dtype=np.int64)
        firsts = np.full(n_joined, np.iinfo(np.int64).max)
        np.add.at(sizes, joined[1:] - 1, np.concatenate([nothing[0], *(tile[0] for tile in tiles)]))
        np.minimum.at(firsts, joined[1:] - 1, np.concatenate([nothing[0], *(tile[1] for tile in tiles)]))
        # Clusters are numbered by their first voxels, so that numbers do not depend on the tiles.
        rank = np.zeros(n_joined + 1, dtype=np.int64)
        rank[1 + np.argsort(firsts)] = np.arange(1, n_joined + 1)
        joined = rank[joined]
        labels = tuple(np.concatenate([[0], joined[1 + low : 1 + high]]) for low, high in itertools.pairwise(offsets))
        return _Clusters(
            labels,
            sizes[np.argsort(firsts)],
            tuple(self._percolates(axis, n, offsets, tiles, shifted) for axis in range(self.n_axes)),
        )

    def _percolates(self, axis: int, n: int, offsets: Array, tiles: Sequence[Any], pairs: Sequence[Array]) -> bool:
        """Whether a cluster reaches from side to side along an axis, without a step across this side."""
        kept = [
            found
            for (_, _, along, is_around), found in zip(self.meetings, pairs, strict=True)
            if not (is_around and along == axis)
        ]
        _, joined = join_labels(n, np.concatenate([np.zeros((2, 0), dtype=np.int64), *kept], axis=1))
        sides = []
        for side in (0, 1):
            found = [borders[axis][side] for _, _, borders in tiles]
            sides.append(
                np.concatenate([joined[part[part > 0] + offset] for part, offset in zip(found, offsets, strict=False)])
            )
        first, last = sides
        return bool(np.intersect1d(first, last).size)


@dataclass(frozen=True)
class _Tiling:
    """The tiles of a volume, and the tasks that label them."""

    data: Any
    kernel: _Labels
    grid: Grid
    steps: tuple[int, ...]

    @classmethod
    def of(cls, data: Any, phase: int, grid: Grid) -> _Tiling:
        limit, shape = Limit.of(), tuple(map(int, data.shape))
        voxel_bytes = data.dtype.itemsize * (1 if stored_array(data) is not None else 2) + WORK
        voxels = min(TILE_VOXELS, limit.task_bytes // voxel_bytes)
        if voxels < 1:
            raise limit.refusal(voxel_bytes, "a tile of one voxel", "make the volume smaller")
        edge = max(1, int(voxels ** (1.0 / len(shape)) + 1e-9))
        chunks = data.chunksize if is_lazy(data) else (1,) * len(shape)
        steps = tuple(min(n, edge - edge % c if edge > c else edge) for n, c in zip(shape, chunks, strict=True))
        return cls(data, _Labels(phase, shape), grid, steps)

    @property
    def along(self) -> list[list[slice]]:
        """Slices of the tiles along each axis."""
        return [
            [slice(i, min(i + step, n)) for i in range(0, n, step)]
            for n, step in zip(self.data.shape, self.steps, strict=True)
        ]

    def clusters(self) -> tuple[list[Any], Any]:
        """Return the parts of the tiles, (box, source), and all clusters, as one delayed value."""
        boxes, shape = [*itertools.product(*self.along)], tuple(map(len, self.along))
        source, data = stored_array(self.data), self.data
        if source is not None:
            tiles = map_parts(self.kernel, [(box,) for box in boxes], name="label-tiles", shared=(source,), of=(data,))
            sources = [source] * len(boxes)
        else:
            sources = [data[box].rechunk(-1).to_delayed(optimize_graph=False).item() for box in boxes]
            tiles = map_parts(self.kernel, [*zip(boxes, sources, strict=True)], name="label-tiles", of=())
        places = [*np.ndindex(*shape)]
        borders = [tuple((i == 0, i == n - 1) for i, n in zip(place, shape, strict=True)) for place in places]
        meetings: list[tuple[int, int, int, bool]] = []
        for number, place in enumerate(places):
            for axis, n in enumerate(shape):
                is_around = place[axis] == n - 1
                if not is_around or self.grid.periodic[axis]:
                    other = tuple((i + (a == axis)) % n if a == axis else i for a, i in enumerate(place))
                    meetings.append((number, int(np.ravel_multi_index(other, shape)), axis, is_around))
        light = map_parts(_light, [*zip(tiles, borders, strict=True)], name="labels-of-tiles", of=())
        met = [(tiles[a], tiles[b], axis) for a, b, axis, _ in meetings]
        pairs = map_parts(_pairs_between, met, name="labels-that-meet", of=()) if met else []
        (united,) = map_parts(_United(tuple(meetings), len(shape)), [(light, pairs)], name="unite-labels", of=())
        return [*zip(boxes, sources, strict=True)], united

    def labelled(self) -> Any:
        """Label the volume lazily, in chunks of one tile."""
        parts, united = self.clusters()
        kernel, source = _Relabelled(self.kernel), stored_array(self.data)
        if source is not None:
            given: list[Any] = [(box, number, united) for number, (box, _) in enumerate(parts)]
            found = map_parts(kernel, given, name="relabel-tiles", shared=(source,), of=(self.data,))
        else:
            given = [(box, number, united, part) for number, (box, part) in enumerate(parts)]
            found = map_parts(kernel, given, name="relabel-tiles", of=())
        shapes = [tuple(along.stop - along.start for along in box) for box, _ in parts]
        blocks = [array_of(value, shape, np.int64, name="clusters") for value, shape in zip(found, shapes, strict=True)]
        for axis in reversed(range(self.data.ndim)):
            n = len(self.along[axis])
            blocks = [np.concatenate(blocks[i : i + n], axis=axis) for i in range(0, len(blocks), n)]
        return blocks[0]


def _tiling(
    volume: ArrayLike, phase: Any, periodic_axes: int | Sequence[int] | None
) -> tuple[_Tiling, xr.DataArray | None]:
    data, labels = unwrap_volume(volume)
    if not 1 <= data.ndim <= 3 or 0 in data.shape or data.dtype.kind not in "biu":
        msg = f"volume must hold phase numbers along 1 to 3 axes, got shape {tuple(data.shape)} of {data.dtype}"
        raise ValueError(msg)
    if not isinstance(phase, int | np.integer) or isinstance(phase, bool):
        msg = f"phase must be the number of a phase, got {phase!r}"
        raise ValueError(msg)
    return _Tiling.of(data, int(phase), Grid.of(labels, data.shape, periodic_axes, first=0)), labels


@checked
def label_clusters(volume: ArrayLike, phase: int, *, periodic_axes: int | Sequence[int] | None = None) -> Any:
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
    tiling, labels = _tiling(volume, phase, periodic_axes)
    found = tiling.labelled()
    if labels is None:
        return found
    attrs = {key: labels.attrs[key] for key in ("periodic_axes", "periods") if key in labels.attrs}
    return xr.DataArray(found, dims=labels.dims, coords=labels.coords, name="clusters", attrs=attrs)


@checked
def cluster_statistics(
    volume: ArrayLike, phase: int, *, periodic_axes: int | Sequence[int] | None = None
) -> xr.Dataset:
    """Count the clusters of a phase in a volume of any size, and say how large they are and whether one percolates.

    Parameters
    ----------
    volume, phase, periodic_axes
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
    tiling, _ = _tiling(volume, phase, periodic_axes)
    _, united = tiling.clusters()
    axes = tiling.grid.axes

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


def _number(clusters: _Clusters) -> Array:
    return np.asarray(len(clusters.sizes))


def _largest(clusters: _Clusters) -> Array:
    return np.asarray(clusters.sizes.max() / clusters.sizes.sum() if len(clusters.sizes) else 0.0)


def _percolates(clusters: _Clusters) -> Array:
    return np.array(clusters.percolates)


def _size_classes(clusters: _Clusters) -> NDArray[np.int64]:
    # The logarithm of an integer below 2**53 is exact enough to tell powers of 2.
    classes = np.frexp(clusters.sizes.astype(np.float64))[1] - 1
    return np.bincount(classes, minlength=CLASSES).astype(np.int64)
