"""Images in HDF5 files: any dataset, DREAM.3D of all formats, netCDF 4, NeXus, ilastik and MATLAB 7.3."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mksdask.arrays import Array
from mksdask.importers.formats.dims import (
    Selection,
    axes_of_hyperspy,
    even_step,
    placed,
    select,
    sized,
    sizes_of_hyperspy,
    unread_sizes,
)
from mksdask.importers.formats.hdf5_links import check_readable, followed, opened, outside
from mksdask.importers.formats.packing import Packing
from mksdask.importers.sources import (
    ANGLES,
    Choice,
    Source,
    assumed_axes,
    check_chunks,
    check_inside,
    chosen_dataset,
    lazy_slabs,
)

# Groups are searched for images to this depth.
DEEPEST = 30
# Angles beyond this are no radians.
MOST_RADIANS = 2.0 * np.pi + 1e-3


@dataclass(frozen=True)
class _Hdf5:
    """The kernel that reads rows of an HDF5 dataset."""

    path: Path
    name: str
    selection: Selection
    packing: Packing
    follow_links: bool = False

    def __call__(self, first: int, last: int) -> Array:
        with opened(self.path, self.name) as array:
            values: Any = array
            # HDF5 would look for such a file in the folder of the process.
            if place := outside(array, self.path, self.name, follow_links=self.follow_links):
                values = np.memmap(place[0], array.dtype, "r", place[1], array.shape)
            return self.packing.unpack(self.selection.read(values, first, last))


@dataclass(frozen=True)
class _Orientations:
    """The kernel that reads rows of Euler angles, which are NaN in voxels of phase 0."""

    path: Path
    name: str
    phases: str | None

    def __call__(self, first: int, last: int) -> Array:
        with opened(self.path, self.name) as array:
            angles = np.asarray(array[first:last]).astype(np.float32)
        is_indexed = np.ones(angles.shape[:3], dtype=bool)
        if self.phases is not None:
            with opened(self.path, self.phases) as array:
                is_indexed = np.asarray(array[first:last]).reshape(is_indexed.shape) != 0
        angles[~is_indexed] = np.nan
        outside = is_indexed & ~(np.abs(angles) <= MOST_RADIANS).all(axis=-1)
        if outside.any():
            msg = (
                f"{self.path}: {self.name} holds the Euler angles {angles[outside][0].tolist()}, expected radians "
                "within ±2π; convert degrees to radians"
            )
            raise ValueError(msg)
        return angles


def open_hdf5(path: Path, choice: Choice) -> Source:
    """Open one dataset of an HDF5 file, of DREAM.3D, of netCDF 4 or of MATLAB 7.3, which are HDF5 files."""
    choice.check(path, "dataset", "channel", "time", "follow_links")
    place, name = _chosen(path, choice)
    with opened(place, name) as array:
        check_readable(array, place, name, follow_links=choice.follow_links, allow_missing=choice.allow_missing)
        if array.chunks is not None:
            check_chunks(array.shape, array.chunks, array.dtype, f"{place}: {name}")
        geometry = _geometry(array)
        if geometry is not None:
            if choice.channel is not None or choice.time is not None:
                msg = f"{path}: {name} has no axes of channels and times; leave channel= and time= out"
                raise ValueError(msg)
            return _of_geometry(place, array, geometry, choice)
        names = _names(array)
        default = None
        if "MATLAB_class" in array.attrs:
            default = "szyx"[-array.ndim :]
        elif names is None and "element_size_um" in array.attrs and array.ndim <= 3:
            default = "zyx"[-array.ndim :]
        selection = select(names, array.shape, choice, path, default=default)
        if default and "MATLAB_class" in array.attrs:
            reason = ", because MATLAB stores its axes x, y, z in reverse order"
            selection = replace(selection, assumed=assumed_axes(default, reason))
        steps, units, told, origin = _steps(array, selection, choice)
        packing = Packing.of(array.attrs, array.dtype)
        data = lazy_slabs(
            _Hdf5(place, name, selection, packing, choice.follow_links), selection.shape, np.dtype(packing.dtype)
        )
        kind = "matlab" if "MATLAB_class" in array.attrs else ""
        more = outside(array, place, name, follow_links=choice.follow_links)
        beside = (*([place] if place != path else []), *([more[0]] if more else []))
        told = (*selection.assumed, *told)
        return Source(data, selection.axes, steps, units, told, packing.missing, kind, beside=beside, origin=origin)


def _chosen(path: Path, choice: Choice) -> tuple[Path, str]:
    """Return the file and the name of the dataset that is wanted, or of the only image that there is."""
    wanted = None if choice.dataset is None else choice.dataset.strip("/")
    if wanted and (found := followed(path, wanted, follow_links=choice.follow_links)):
        with h5py.File(found[0], "r") as file:
            if _is_array(file[found[1]]):
                return found
    with h5py.File(path, "r") as file:
        images = list(_images(file)) or list(_links(file))
        signal = _signal(file)
    matches = [name for name in images if wanted and (name == wanted or name.endswith("/" + wanted))]
    if wanted is None and signal in images:
        matches = [str(signal)]
    name = matches[0] if len(matches) == 1 else chosen_dataset(wanted, images, path)
    found = followed(path, name, follow_links=choice.follow_links)
    assert found is not None
    with h5py.File(found[0], "r") as file:
        if not _is_array(file[found[1]]):
            msg = f"{path}: {name} leads to {found[1]} of {found[0]}, which is no array of numbers; choose dataset="
            raise ValueError(msg)
    return found


def _is_array(item: Any) -> bool:
    return isinstance(item, h5py.Dataset) and item.dtype.kind in "biuf"


def _images(group: h5py.Group, prefix: str = "", seen: frozenset[Any] = frozenset()) -> Iterator[str]:
    """Yield the names of arrays of two or more axes. Links are not followed."""
    seen |= {group.id}
    for name in group:
        full = f"{prefix}{name}"
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            continue
        item = group[name]
        if isinstance(item, h5py.Group):
            # A group that holds itself would be searched without end.
            if name not in ("#refs#", "_SIMPL_GEOMETRY") and item.id not in seen and full.count("/") < DEEPEST:
                yield from _images(item, full + "/", seen)
        elif _is_array(item) and len([n for n in item.shape if n > 1]) >= 2:
            geometry = _geometry(item)
            if geometry is None or _cells(geometry) == item.shape[:3]:
                yield full


def _links(group: h5py.Group) -> Iterator[str]:
    """Yield the names of links at the top of a file that holds no image itself."""
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            yield name


def _signal(file: h5py.File) -> str | None:
    """Return the name of the dataset that NeXus calls the default one, if it is named from the root on."""
    group: Any = file
    for _ in range(DEEPEST):
        if "signal" in group.attrs:
            return f"{group.name}/{_text(group.attrs['signal'])}".strip("/")
        default = _text(group.attrs.get("default"))
        if not isinstance(default, str) or not isinstance(group.get(default, getlink=True), h5py.HardLink):
            return None
        group = group[default]
        if not isinstance(group, h5py.Group):
            return None
    return None


def _text(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _names(array: h5py.Dataset) -> list[str | None] | None:
    """Read the names of the axes of a dataset, from whichever of the customs the file follows."""
    tags = _text(array.attrs.get("axistags"))
    if isinstance(tags, str):
        return [str(axis.get("key")) for axis in json.loads(tags)["axes"]]
    if axes := _axes_of_hyperspy(array):
        return [axis.get("name") for axis in axes]
    scales = _scales(array)
    names = [
        _text(dim.label) or (scale.name.split("/")[-1] if scale is not None else None)
        for dim, scale in zip(array.dims, scales, strict=True)
    ]
    if any(names):
        return names
    labels = array.attrs.get("axes", array.parent.attrs.get("axes"))
    if labels is None or (array.parent.attrs.get("signal") is None and "axes" not in array.attrs):
        return None
    found = [str(_text(label)) for label in np.atleast_1d(labels)]
    if len(found) == 1 and array.ndim > 1:
        found = found[0].split(":") if ":" in found[0] else list(found[0])
    return list(found) if len(found) == array.ndim else None


def _axes_of_hyperspy(array: h5py.Dataset) -> list[dict[str, Any]]:
    """Read the attributes of each axis from groups beside the array, as HyperSpy writes them. Others have none."""
    names = [f"axis-{number}" for number in range(array.ndim)]
    if not all(isinstance(array.parent.get(name, getlink=True), h5py.HardLink) for name in names):
        return []
    found = []
    for name, n in zip(names, array.shape, strict=True):
        group = array.parent[name]
        said = {key: _text(value) for key, value in group.attrs.items() if key != "axis"}
        is_uneven = isinstance(group, h5py.Group) and isinstance(group.get("axis", getlink=True), h5py.HardLink)
        if is_uneven and getattr(group["axis"], "shape", None) == (n,):
            check_inside(group["axis"], array.file.filename)
            said["axis"] = group["axis"][()]
        found.append(said)
    return axes_of_hyperspy(found, array.shape)


def _scales(array: h5py.Dataset) -> list[h5py.Dataset | None]:
    """List the coordinates along each axis, where there are any."""
    scales = [dim[0] if len(dim) else None for dim in array.dims]
    if not any(scale is not None for scale in scales) and "signal" in array.parent.attrs:
        named = [str(_text(label)) for label in np.atleast_1d(array.parent.attrs.get("axes", []))]
        if len(named) == array.ndim:
            scales = [
                array.parent[name] if isinstance(array.parent.get(name, getlink=True), h5py.HardLink) else None
                for name in named
            ]
    return scales


def _steps(
    array: h5py.Dataset, selection: Selection, choice: Choice
) -> tuple[dict[str, float], str | None, tuple[str, ...], dict[str, float]]:
    """Read the voxel sizes along the axes that are left, their unit, what was assumed, and where the first voxel is."""
    path = array.file.filename
    spatial = selection.spatial
    if "element_size_um" in array.attrs:
        sizes = np.atleast_1d(array.attrs["element_size_um"]).astype(float).tolist()
        # Files of two-dimensional images state three sizes too.
        if len(sizes) >= len(spatial):
            return {axis: size for (_, axis), size in zip(spatial, sizes[-len(spatial) :], strict=True)}, "um", (), {}
    tags = _text(array.attrs.get("axistags"))
    if isinstance(tags, str):
        resolutions = [float(axis.get("resolution", 0)) for axis in json.loads(tags)["axes"]]
        return {axis: resolutions[i] for i, axis in spatial if resolutions[i] > 0}, None, (), {}
    of_hyperspy = _axes_of_hyperspy(array)
    found, places, stated, told = sizes_of_hyperspy({axis: of_hyperspy[i] for i, axis in spatial if of_hyperspy})
    for (i, axis), scale in ((pair, _scales(array)[pair[0]]) for pair in spatial):
        if scale is None or scale.dtype.kind not in "iuf" or scale.shape != (array.shape[i],) or _is_bare(scale):
            continue
        if scale.size < 2:
            continue
        check_inside(scale, path)
        found[axis], more = even_step(scale[()], axis)
        places[axis] = float(scale[0])
        told += more
        stated[axis] = scale.attrs.get("units")
    if not found:
        told += unread_sizes(array.attrs, array.parent.attrs, array.file.attrs)
    steps, unit, more = sized(found, stated, choice, path)
    return steps, unit, (*told, *more), placed(places, found, steps)


def _is_bare(scale: h5py.Dataset) -> bool:
    """Whether a dimension of netCDF 4 has a name and a length, but no coordinates. Its numbers are then zeros."""
    return np.bytes_(scale.attrs.get("NAME", b"")).startswith(b"This is a netCDF dimension but not a netCDF variable")


@dataclass(frozen=True)
class _Geometry:
    """The grid of an image of DREAM.3D: voxels along x, y, z, their sizes, the first corner, and the stated unit."""

    cells: tuple[int, ...]
    spacing: tuple[float, ...]
    corner: tuple[float, ...]
    unit: Any


def _geometry(array: h5py.Dataset) -> _Geometry | None:
    """Read the grid of the image to which a dataset belongs, in the layout of DREAM3D-NX or of DREAM.3D 6."""
    group = array.parent
    for _ in range(DEEPEST):
        if "_SPACING" in group.attrs and "_DIMENSIONS" in group.attrs:
            corner = _real(group.attrs.get("_ORIGIN", (0.0, 0.0, 0.0)))
            cells, steps = _whole(group.attrs["_DIMENSIONS"]), _real(group.attrs["_SPACING"])
            return _Geometry(cells, steps, corner, group.attrs.get("_UNITS"))
        if group.get("_SIMPL_GEOMETRY", getlink=True) is not None:
            names = ("SPACING", "DIMENSIONS", "ORIGIN")
            steps, cells, corner = (_stated(group, f"_SIMPL_GEOMETRY/{name}") for name in names)
            corner = (0.0, 0.0, 0.0) if corner is None else corner
            return (
                None if cells is None or steps is None else _Geometry(_whole(cells), _real(steps), _real(corner), None)
            )
        if group.name == "/":
            return None
        group = group.parent
    return None


def _stated(group: h5py.Group, name: str) -> Any:
    """Read a few numbers of the file itself. None if there are none."""
    item = group.get(name)
    if not isinstance(item, h5py.Dataset):
        return None
    check_inside(item, group.file.filename)
    return item[()] if item.size == 3 else None


def _whole(values: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in np.ravel(values))


def _real(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in np.ravel(values))


def _cells(geometry: _Geometry) -> tuple[int, ...]:
    """Shape of an array of one value for each voxel. The axes of the file are z, y, x."""
    return geometry.cells[::-1]


def _of_geometry(path: Path, array: h5py.Dataset, geometry: _Geometry, choice: Choice) -> Source:
    """Open one value for each voxel of an image of DREAM.3D, or the Euler angles of each voxel."""
    name = array.name.strip("/")
    if len(geometry.cells) != 3 or array.shape[:3] != _cells(geometry) or array.ndim > 4:
        msg = (
            f"{path}: {name} has the shape {array.shape}, but the image has {geometry.cells} voxels along x, y, z; "
            "choose a dataset with one value for each voxel"
        )
        raise ValueError(msg)
    # Some versions write a number in place of the name of the unit.
    stated = _text(geometry.unit) if isinstance(_text(geometry.unit), str) else None
    sizes = dict(zip("xyz", geometry.spacing, strict=True))
    steps, units, told = sized(sizes, dict.fromkeys("xyz", stated), choice, path)
    corner = dict(zip("xyz", geometry.corner, strict=True))
    # The file gives a corner, and an image that begins at it has its first voxel at 0.
    middle = {axis: place + 0.5 * sizes[axis] for axis, place in corner.items()}
    origin = placed(middle, sizes, steps) if placed(corner, sizes, sizes) else {}
    n_values = array.shape[3] if array.ndim == 4 else 1
    if n_values == 1:
        index = (slice(None),) * 3 + (0,) * (array.ndim - 3)
        selection = Selection(index, "zyx", array.shape[:3])
        kernel = _Hdf5(path, name, selection, Packing.of({}, array.dtype))
        data = lazy_slabs(kernel, array.shape[:3], array.dtype)
        return Source(data, "zyx", steps, units, told, format="dream3d", origin=origin)
    if n_values != 3 or "euler" not in name.split("/")[-1].lower():
        msg = (
            f"{path}: {name} has {n_values} components in each voxel; choose a dataset with one, or with Euler angles "
            "in radians"
        )
        raise ValueError(msg)
    beside = array.parent.get("Phases", getlink=True)
    phases = None
    if isinstance(beside, h5py.HardLink) and array.parent["Phases"].shape[:3] == array.shape[:3]:
        phases = f"{array.parent.name}/Phases".strip("/")
    data = lazy_slabs(_Orientations(path, name, phases), array.shape, np.float32)
    missing = None if phases is None else float("nan")
    return Source(data, "zyx" + ANGLES, steps, units, told, missing, "dream3d", origin=origin)
