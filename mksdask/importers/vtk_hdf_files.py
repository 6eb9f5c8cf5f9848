"""HDF5 files of VTK (.vtkhdf) that hold an image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mksdask.arrays import Array
from mksdask.importers.sources import Choice, Source, check_inside
from mksdask.importers.vtk_files import Field, Geometry, shape_of, source_of

ROOT = "VTKHDF"


@dataclass(frozen=True)
class _Planes:
    """The kernel that reads planes of a dataset, at one time if there are several."""

    path: Path
    name: str
    time: int | None

    def __call__(self, first: int, last: int) -> Array:
        """Read the planes along z from `first` to `last`, (last - first, y, x), in the native byte order."""
        with h5py.File(self.path) as file:
            planes = file[self.name]
            found = np.asarray(planes[first:last] if self.time is None else planes[self.time, first:last])
        return found.astype(found.dtype.newbyteorder("="), copy=False)


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
        fields, notes = [], {}
        for group, of_cells in (("PointData", False), ("CellData", True)):
            for name, data in root[group].items() if group in root else ():
                check_inside(data, path)
                n_axes = 3 if time is None else 4
                n_components = int(np.prod(data.shape[n_axes:]))
                opened = partial(
                    _opened, path, data.name, data.dtype, data.shape[n_axes - 3 :], time, geometry, of_cells
                )
                fields.append(Field(name, of_cells, n_components, opened))
        for name, data in root["FieldData"].items() if "FieldData" in root else ():
            if name in ("units", "phases") and h5py.check_string_dtype(data.dtype) is not None:
                check_inside(data, path)
                notes[name] = [_text(text) for text in np.atleast_1d(data[()]).ravel()[:1000]]
        return source_of(path, geometry, fields, choice.dataset, notes)


def _opened(
    path: Path,
    name: str,
    dtype: np.dtype[Any],
    found: tuple[int, ...],
    time: int | None,
    geometry: Geometry,
    of_cells: bool,  # noqa: FBT001
) -> Any:
    expected = shape_of(geometry.extent, of_cells=of_cells)
    if tuple(found[:3]) != expected:
        msg = f"{path}: {name} has the shape {tuple(found)} along z, y, x, but its header announces {expected}"
        raise ValueError(msg)
    return dtype, _Planes(path, name, time)


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
