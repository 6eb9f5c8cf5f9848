"""HDF5 files of VTK (.vtkhdf) that hold an image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mksdask.arrays import Array
from mksdask.importers.formats.vtk_files import Field, Geometry, check_extent, shape_of, source_of
from mksdask.importers.sources import Choice, Source, check_inside, members

ROOT = "VTKHDF"


@dataclass(frozen=True)
class _Planes:
    """The kernel that reads planes of a dataset, at one time if there are several.

    The dataset may lack flat axes.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    is_flat: bool
    time: int | None

    def __call__(self, first: int, last: int) -> Array:
        """Read the planes along z from `first` to `last`, (last - first, y, x), in the native byte order."""
        with h5py.File(self.path) as file:
            rows = slice(None) if self.is_flat else slice(first, last)
            found = np.asarray(file[self.name][rows if self.time is None else (self.time, rows)])
        planes = found.reshape(last - first, *self.shape[1:])
        return planes.astype(found.dtype.newbyteorder("="), copy=False)


def open_vtkhdf(path: Path, choice: Choice) -> Source:
    """Open one array of an image in a `.vtkhdf` file.

    Raises
    ------
    ValueError
        If the file is no image, or an array has another shape; if it holds no such array, or several and none is named;
        or if it holds several times and none is chosen.
    """
    choice.check(path, "dataset", "time")
    with h5py.File(path) as file:
        if not isinstance(file.get(ROOT), h5py.Group):
            msg = f"{path} has no group {ROOT}, so it is no HDF5 file of VTK"
            raise ValueError(msg)
        root = file[ROOT]
        check_inside(root, path)
        kind = _text(root.attrs.get("Type", b""))
        if kind != "ImageData":
            msg = f"{path} is a VTK file of type {kind!r}, expected ImageData"
            raise ValueError(msg)
        said = {name: np.atleast_1d(root.attrs[name]).tolist() for name in root.attrs if name != "Type"}
        geometry = Geometry(
            tuple(map(int, said.get("WholeExtent", ()))),
            tuple(map(float, said.get("Spacing", (1, 1, 1)))),
            tuple(map(float, said.get("Origin", (0, 0, 0)))),
            tuple(map(float, said.get("Direction", Geometry(()).direction))),
        )
        time = _time(path, root, choice)
        check_extent(path, geometry.extent)
        fields = []
        for group, of_cells in (("PointData", False), ("CellData", True)):
            for name, data in members(root[group]) if group in root else ():
                check_inside(data, path)
                shape = data.shape if time is None else data.shape[1:]
                expected = shape_of(geometry.extent, of_cells=of_cells)
                thick = tuple(
                    n for n, m in zip(expected, shape_of(geometry.extent, of_cells=False), strict=True) if m > 1
                )
                # VTK leaves flat axes out.
                known = expected if tuple(shape[:3]) == expected else thick
                n_components = int(np.prod(shape[len(known) :]))
                planes = _Planes(
                    path, data.name, expected, len(known) < 3 and geometry.extent[4] == geometry.extent[5], time
                )
                opened = partial(_opened, path, data.dtype, tuple(shape), known, planes)
                fields.append(Field(name, of_cells, n_components, opened))
        # The exporter of this package writes its notes as attributes.
        notes = {name: list(map(_text, said[name])) for name in ("units", "phases") if name in said}
        return source_of(path, geometry, fields, choice.dataset, notes)


def _opened(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], known: tuple[int, ...], planes: _Planes) -> Any:
    if shape[: len(known)] != known:
        msg = f"{path}: {planes.name} has the shape {shape} along z, y, x, but its header announces {planes.shape}"
        raise ValueError(msg)
    return dtype, planes


def _time(path: Path, root: Any, choice: Choice) -> int | None:
    """Choose one of several times. Return None if the arrays have no axis of times."""
    if "Steps" not in root:
        if choice.time is not None:
            msg = f"time={choice.time} does not apply to {path}, which holds no times; leave it out"
            raise ValueError(msg)
        return None
    n = int(root["Steps"].attrs["NSteps"])
    time = choice.time if choice.time is not None or n > 1 else 0
    if time is None or not 0 <= time < n:
        msg = f"{path} holds {n} times; choose one by time=, from 0 to {n - 1}"
        raise ValueError(msg)
    return time


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
