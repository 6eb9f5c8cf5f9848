"""Images of VTK: XML files (.vti, .pvti), legacy files (.vtk) and HDF5 files (.vtkhdf). They are read slab by slab."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mksdask.arrays import Array
from mksdask.importers.formats.dims import SAME_PLACE, placed
from mksdask.importers.formats.vtk_values import Values
from mksdask.importers.sources import Source, lazy_slabs
from mksdask.schema.units import length_unit


@dataclass(frozen=True)
class Geometry:
    """Where the points of an image lie.

    Parameters
    ----------
    extent : tuple of int
        Numbers of the first and the last point along each axis: x low, x high, y low, y high, z low, z high.
    spacing : tuple of float
        Distance of points along the three axes.
    origin : tuple of float
        Position of the point with the numbers 0, 0, 0.
    direction : tuple of float
        Nine numbers, row by row, of the matrix that turns the axes of the image into those of space.
    """

    extent: tuple[int, ...]
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0)
    origin: tuple[float, ...] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Field:
    """One array of an image.

    Parameters
    ----------
    name : str
        Name of the array.
    of_cells : bool
        Whether there is one value for each cell between points, and not for each point.
    n_components : int
        Number of values of a cell or point.
    open : callable
        Returns the dtype of the values, and a function ``read(first, last)`` of the planes along z. It is called for
        the array that is chosen.
    """

    name: str
    of_cells: bool
    n_components: int
    open: Callable[[], tuple[np.dtype[Any], Callable[[int, int], Array]]]


@dataclass(frozen=True)
class Piece:
    """A part of an image.

    Parameters
    ----------
    values : Values
        Its values; those along x follow each other.
    low : tuple of int
        Numbers of its first voxel in the image along z, y, x.
    shape : tuple of int
        Numbers of voxels along z, y, x.
    """

    values: Values
    low: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Pieces:
    """The kernel that reads planes of an image that is in one or more pieces."""

    pieces: tuple[Piece, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __call__(self, first: int, last: int) -> Array:
        """Read the planes along z from `first` to `last`, (last - first, y, x), in the native byte order."""
        out = np.empty((last - first, *self.shape[1:]), self.dtype.newbyteorder("="))
        for piece in self.pieces:
            start, stop = max(first, piece.low[0]), min(last, piece.low[0] + piece.shape[0])
            if start >= stop:
                continue
            plane = piece.shape[1] * piece.shape[2]
            found = piece.values.read((start - piece.low[0]) * plane, (stop - piece.low[0]) * plane)
            where = [slice(low, low + n) for low, n in zip(piece.low[1:], piece.shape[1:], strict=True)]
            out[(slice(start - first, stop - first), *where)] = found.reshape(stop - start, *piece.shape[1:])
        return out


@dataclass(frozen=True)
class _Flipped:
    """The kernel that reads planes of an image some of whose axes run backwards."""

    read: Callable[[int, int], Array]
    n: int
    flips: tuple[bool, ...]

    def __call__(self, first: int, last: int) -> Array:
        planes = self.read(self.n - last, self.n - first) if self.flips[0] else self.read(first, last)
        return planes[tuple(slice(None, None, -1 if is_flipped else 1) for is_flipped in self.flips)]


def shape_of(extent: Sequence[int], *, of_cells: bool) -> tuple[int, ...]:
    """Return the numbers of points along z, y, x, or of the cells between them. A flat axis has one layer of either."""
    sizes = [high - low + 1 for low, high in zip(extent[::2], extent[1::2], strict=True)]
    return tuple(max(1, size - 1) if of_cells else size for size in sizes[::-1])


def check_extent(path: Path, extent: Sequence[int]) -> tuple[int, ...]:
    """Refuse an extent that is not six numbers, or that holds no point."""
    if len(extent) != 6 or any(low > high for low, high in zip(extent[::2], extent[1::2], strict=True)):
        text = " ".join(map(str, extent))
        msg = f"{path}: the extent {text!r} holds no image, expected six numbers such as 0 9 0 9 0 9"
        raise ValueError(msg)
    return tuple(extent)


def check_pieces(path: Path, extents: Sequence[Sequence[int]], whole: Sequence[int], *, of_cells: bool) -> None:
    """Refuse pieces that do not make up the whole image, or that lie beyond it."""
    boxes = [
        [(low, low + n) for low, n in zip(extent[::2], shape_of(extent, of_cells=of_cells)[::-1], strict=True)]
        for extent in (whole, *extents)
    ]
    # The image is cut at all ends of pieces, and each part must belong to a piece.
    cuts = [sorted({end for box in boxes for end in box[axis]}) for axis in range(3)]
    is_covered = np.zeros([len(along) - 1 for along in cuts], dtype=bool)
    for box in boxes[1:]:
        is_covered[tuple(slice(*map(cuts[axis].index, box[axis])) for axis in range(3))] = True
    is_outside = any(cuts[axis][0] < boxes[0][axis][0] or cuts[axis][-1] > boxes[0][axis][1] for axis in range(3))
    if is_outside or not is_covered.all():
        what = "lie beyond" if is_outside else "leave gaps in"
        msg = f"{path}: its {len(extents)} pieces {what} the image of the extent {' '.join(map(str, whole))!r}"
        raise ValueError(msg)


def source_of(
    path: Path, geometry: Geometry, fields: Sequence[Field], dataset: str | None, notes: Mapping[str, Sequence[str]]
) -> Source:
    """Make the source of one array of an image.

    Parameters
    ----------
    path : path
        The file, for messages.
    geometry : Geometry
        Where the points lie.
    fields : sequence of Field
        The arrays of the image.
    dataset : str or None
        Name of the wanted array.
    notes : mapping
        Texts of the file, by their names. The first one of "units" is the unit of length.

    Raises
    ------
    ValueError
        If there is no such array, or several and none is named; or if the axes are turned by other angles than 90°.
    """
    field = _chosen(fields, dataset, path)
    dtype, read = field.open()
    shape = shape_of(check_extent(path, geometry.extent), of_cells=field.of_cells)
    axes, flips = _axes(path, geometry)
    if any(flips):
        read = _Flipped(read, shape[0], flips)
    steps = {}
    for axis, step, n in zip(
        axes[::-1], geometry.spacing, shape_of(geometry.extent, of_cells=False)[::-1], strict=True
    ):
        if not (math.isfinite(step) and step > 0) and n > 1:
            msg = f"{path}: the spacing along its axes is {geometry.spacing}, expected positive numbers"
            raise ValueError(msg)
        if n > 1:
            steps[axis] = float(step)
    assumed = []
    origin = _first_place(geometry, axes, flips, of_cells=field.of_cells)
    unit = length_unit(next(iter(notes.get("units", ())), None), where=str(path))
    data = lazy_slabs(read, shape, dtype.newbyteorder("="))
    thick = [place for place, n in enumerate(shape_of(geometry.extent, of_cells=False)) if n > 1]
    if thick and len(thick) < 3:
        data = data[tuple(slice(None) if place in thick else 0 for place in range(3))]
        kept = [axes[place] for place in thick]
        names = dict(zip(sorted(kept), "xyz", strict=False))
        if any(axis != name for axis, name in names.items()):
            assumed.append(f"the image is flat, and its axes {', '.join(sorted(kept))} are {', '.join(names.values())}")
        axes, steps = "".join(names[axis] for axis in kept), {names[axis]: step for axis, step in steps.items()}
        origin = {names[axis]: place for axis, place in origin.items() if axis in names}
    return Source(data, axes, steps, unit, tuple(assumed), phases=tuple(notes.get("phases", ())), origin=origin)


def _first_place(geometry: Geometry, axes: str, flips: Sequence[bool], *, of_cells: bool) -> dict[str, float]:
    """Find the position of the first value. There is none if it is 0, or if the first corner of cells is at 0."""
    places, corners = {}, []
    for number, (axis, is_flipped) in enumerate(zip(axes[::-1], flips[::-1], strict=True)):
        low, high = geometry.extent[2 * number : 2 * number + 2]
        step, start = geometry.spacing[number], geometry.origin["xyz".index(axis)]
        corner = start - step * high if is_flipped else start + step * low
        places[axis] = float(corner + 0.5 * step * (of_cells and high > low))
        corners.append(abs(corner) > SAME_PLACE * step)
    steps = dict(zip(axes[::-1], geometry.spacing, strict=True))
    return placed(places, steps, steps) if any(corners) else {}


def _axes(path: Path, geometry: Geometry) -> tuple[str, tuple[bool, ...]]:
    """Name the axes of the file, slowest first, and say which run backwards."""
    matrix = np.reshape(geometry.direction, (3, 3))
    nearest = np.round(matrix)
    if not np.allclose(matrix, nearest, atol=1e-6) or not np.array_equal(
        np.abs(nearest) @ np.abs(nearest.T), np.eye(3)
    ):
        msg = (
            f"{path}: its axes are turned by the matrix {matrix.round(6).tolist()}, and only turns by 90° are read; "
            "resample the image on the axes x, y, z"
        )
        raise ValueError(msg)
    # The column of an axis of the file holds its direction in space.
    spatial = [int(np.argmax(np.abs(nearest[:, axis]))) for axis in (2, 1, 0)]
    flips = tuple(bool(nearest[row, axis] < 0) for row, axis in zip(spatial, (2, 1, 0), strict=True))
    return "".join("xyz"[row] for row in spatial), flips


def _chosen(fields: Sequence[Field], dataset: str | None, path: Path) -> Field:
    """Choose the array with one component that is wanted, or the only one."""
    names = [field.name for field in fields]
    qualified = [f"{'CellData' if field.of_cells else 'PointData'}/{field.name}" for field in fields]
    keys = [name if names.count(name) == 1 else full for name, full in zip(names, qualified, strict=True)]
    usable = [place for place, field in enumerate(fields) if field.n_components == 1]
    wanted = [place for place in range(len(fields)) if dataset in (keys[place], qualified[place])]
    if dataset is None and len(usable) == 1:
        return fields[usable[0]]
    if len(wanted) == 1 and wanted[0] in usable:
        return fields[wanted[0]]
    others = [f"{keys[place]} ({fields[place].n_components} components)" for place in range(len(fields))]
    listed = [keys[place] if place in usable else others[place] for place in range(len(fields))]
    text = ", ".join(listed[:12]) + (", …" if len(listed) > 12 else "")
    if len(wanted) == 1:
        msg = (
            f"{path}: {others[wanted[0]]} holds more than one number for each voxel; write one component as an array "
            f"of its own, or choose another array by dataset=; there are: {text}"
        )
    else:
        told = f"has no dataset {dataset!r}" if dataset else "needs dataset=" if usable else "holds no image"
        msg = f"{path} {told}; there are: {text or 'none'}"
    raise ValueError(msg)


def check_type(path: Path, name: str, kind: str, types: Mapping[str, str], order: str) -> np.dtype[Any]:
    """Return the dtype of values from the name of their type."""
    if kind not in types:
        msg = f"{path}: {name} is of type {kind!r}, expected one of {', '.join(types)}"
        raise ValueError(msg)
    return np.dtype(order + types[kind])
