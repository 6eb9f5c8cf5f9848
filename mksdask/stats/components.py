"""Kernels that find the connected components of a phase: of one sample, and tile by tile of a volume of any size."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.ndimage
import scipy.sparse
import scipy.sparse.csgraph
from numpy.typing import NDArray

from mksdask.arrays import Array


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
    ends = [meeting(np.take(labels, -1, axis=axis), np.take(labels, 0, axis=axis)) for axis in np.flatnonzero(periodic)]
    if not n or not ends:
        return labels, n
    n_joined, joined = join_labels(n, np.concatenate(ends, axis=1))
    return joined[labels], n_joined


def meeting(last: Array, first: Array) -> NDArray[np.int64]:
    """List the different pairs of labels that meet where a face touches another, (2, n_pairs)."""
    both = (last > 0) & (first > 0)
    pairs = np.stack([last[both], first[both]]).astype(np.int64)
    return np.unique(pairs, axis=1) if pairs.size else pairs


@dataclass(frozen=True)
class TileLabels:
    """What is kept of a tile: its faces, and of each label the number of voxels and the first of them."""

    sizes: NDArray[np.int64]
    firsts: NDArray[np.int64]
    faces: tuple[tuple[Array, Array], ...]


@dataclass(frozen=True)
class LabelTile:
    """The kernel of one tile: the labels of a phase in it, and what is kept of them."""

    phase: int
    spatial: tuple[int, ...]
    is_kept: bool = False  # whether the source holds the labels themselves, which were kept in a store

    def numbers(self, box: tuple[slice, ...], source: Any) -> NDArray[np.int32]:
        """Label a tile. A source that is cut already has the shape of the tile."""
        shape = tuple(along.stop - along.start for along in box)
        values = np.asarray(source if tuple(source.shape) == shape else source[box])
        return values if self.is_kept else scipy.ndimage.label(values == self.phase)[0]

    def __call__(self, box: tuple[slice, ...], source: Any) -> TileLabels:
        """Label a tile, and keep what the union needs."""
        labels = self.numbers(box, source)
        n = int(labels.max())
        sizes = np.bincount(labels.ravel(), minlength=n + 1)[1:]
        places = np.flatnonzero(labels)
        firsts = np.full(n + 1, -1, dtype=np.int64)
        # Of several values for one label, the last one stays, so places are taken backwards.
        firsts[labels.ravel()[places][::-1]] = places[::-1]
        inside = np.unravel_index(firsts[1:], labels.shape)
        whole = tuple(part + along.start for part, along in zip(inside, box, strict=True))
        faces = tuple((np.take(labels, 0, axis=axis), np.take(labels, -1, axis=axis)) for axis in range(labels.ndim))
        return TileLabels(sizes, np.ravel_multi_index(whole, self.spatial).astype(np.int64), faces)


@dataclass(frozen=True)
class RelabelTile:
    """The kernel that labels a tile again, and replaces its labels by those of the volume."""

    labels: LabelTile

    def __call__(self, box: tuple[slice, ...], number: int, clusters: Clusters, source: Any) -> Array:
        """Give each voxel of a tile the number of its cluster."""
        return clusters.labels[number][self.labels.numbers(box, source)]


@dataclass(frozen=True)
class NumberTile:
    """The kernel that labels a tile by itself, for a store."""

    labels: LabelTile

    def __call__(self, box: tuple[slice, ...], source: Any) -> NDArray[np.int32]:
        """Label a tile."""
        return self.labels.numbers(box, source)


@dataclass(frozen=True)
class Clusters:
    """All clusters of a volume: the labels of each tile, the sizes of clusters, and along which axes one percolates."""

    labels: tuple[NDArray[np.int64], ...]
    sizes: NDArray[np.int64]
    percolates: tuple[bool, ...]


def without_faces(tile: TileLabels, borders: tuple[tuple[bool, bool], ...]) -> tuple[Any, ...]:
    """Keep of a tile what is needed of all tiles at once: no faces, but the labels at the borders of the volume."""
    at_borders = [
        tuple(
            np.unique(face) if is_border else np.zeros(0, dtype=np.int64)
            for face, is_border in zip(*sides, strict=True)
        )
        for sides in zip(tile.faces, borders, strict=True)
    ]
    return tile.sizes, tile.firsts, at_borders


def pairs_between(last: TileLabels, first: TileLabels, axis: int) -> NDArray[np.int64]:
    """List the pairs of labels that meet between a tile and the next one along an axis, (2, n_pairs)."""
    return meeting(last.faces[axis][1], first.faces[axis][0])


@dataclass(frozen=True)
class UniteTiles:
    """The kernel that unites the labels of all tiles.

    A meeting is (tile, next tile, axis, whether it is across a periodic side of the volume).
    """

    meetings: tuple[tuple[int, int, int, bool], ...]
    n_axes: int

    def __call__(self, tiles: Sequence[Any], pairs: Sequence[Array]) -> Clusters:
        """Unite what `without_faces` keeps of all tiles by the pairs of labels of each meeting."""
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
        return Clusters(
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
