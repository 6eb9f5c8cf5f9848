"""Images in files of arrays: NumPy, HDF5 and DREAM.3D, netCDF, zarr and OME-Zarr."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
from scipy.io import netcdf_file

from mksdask.arrays import Array, as_lazy
from mksdask.importers.sources import (
    Choice,
    Source,
    array_axes,
    check_inside,
    chosen_dataset,
    lazy_slabs,
    mean_step,
)
from mksdask.importers.units import length_unit
from mksdask.storage.atomic import Location
from mksdask.storage.opening import foreign_metadata, open_foreign


@dataclass(frozen=True)
class _Npy:
    """The kernel that reads rows of a NumPy file."""

    path: Path

    def __call__(self, first: int, last: int) -> Array:
        return np.array(np.load(self.path, mmap_mode="r", allow_pickle=False)[first:last])


def open_numpy(path: Path, choice: Choice) -> Source:
    """Open a `.npy` file, or one array of an `.npz` file, which is loaded whole."""
    choice.check(path, *(["dataset"] if path.suffix.lower() == ".npz" else []))
    if path.suffix.lower() == ".npy":
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            msg = (
                f"{path} cannot be read as an array of numbers ({error}); nothing is unpickled, so save the array with "
                "a numeric dtype"
            )
            raise ValueError(msg) from error
        if not array.size or not array.ndim:
            return Source(as_lazy(np.asarray(array)), array_axes(array.ndim), {})
        return Source(lazy_slabs(_Npy(path), array.shape, array.dtype), array_axes(array.ndim), {})
    if not zipfile.is_zipfile(path):
        msg = f"{path} cannot be read as arrays: it is not an .npz file"
        raise ValueError(msg)
    with np.load(path, allow_pickle=False) as arrays:
        name = chosen_dataset(choice.dataset, arrays.files, path)
        _check_size(path, name, arrays.zip)
        try:
            array = arrays[name]
        except ValueError as error:
            msg = f"{path}: {name} cannot be read as an array of numbers ({error}); nothing is unpickled"
            raise ValueError(msg) from error
    return Source(as_lazy(array), array_axes(array.ndim), {})


def _check_size(path: Path, name: str, archive: zipfile.ZipFile) -> None:
    """Refuse an array of an `.npz` file that does not fit in memory, where it would be unpacked as a whole."""
    member = archive.getinfo(name if name in archive.namelist() else f"{name}.npy")
    free = int(psutil.virtual_memory().available)
    if member.file_size > free:
        msg = (
            f"{path}: {name} is unpacked as a whole, from {member.compress_size} to {member.file_size} bytes, more "
            f"than the {free} bytes of memory that are free; save it as a .npy file, which is read in slabs"
        )
        raise ValueError(msg)


@dataclass(frozen=True)
class _Hdf5:
    """The kernel that reads rows of an HDF5 dataset, without its last axis if this is to be squeezed."""

    path: Path
    name: str
    squeeze: bool = False

    def __call__(self, first: int, last: int) -> Array:
        with h5py.File(self.path, "r") as file:
            array = file[self.name]
            check_inside(array, self.path)
            rows = np.asarray(array[first:last])
        return rows[..., 0] if self.squeeze else rows


def open_hdf5(path: Path, choice: Choice) -> Source:
    """Open one dataset of an HDF5 file, of DREAM.3D or of netCDF 4, which are HDF5 files."""
    choice.check(path, "dataset")
    dataset = choice.dataset
    with h5py.File(path, "r") as file:
        images: list[str] = []

        def visit(name: str, item: Any) -> None:
            is_array = isinstance(item, h5py.Dataset) and item.dtype.kind in "biuf"
            if is_array and len([n for n in item.shape if n > 1]) >= 2 and "_SIMPL_GEOMETRY" not in name:
                images.append(name)

        file.visititems(visit)
        wanted = None if dataset is None else dataset.strip("/")
        matches = [name for name in images if wanted is not None and (name == wanted or name.endswith("/" + wanted))]
        name = matches[0] if len(matches) == 1 else chosen_dataset(wanted, images, path)
        array = file[name]
        check_inside(array, path)
        container = "/".join(name.split("/")[:-2])
        geometry = file.get(f"{container}/_SIMPL_GEOMETRY") if container else None
        if geometry is not None:
            spacing = geometry["SPACING"]
            check_inside(spacing, path)
            steps = dict(zip("xyz", (float(step) for step in spacing[:]), strict=True))
            squeeze = array.ndim == 4 and array.shape[-1] == 1
            shape = array.shape[:-1] if squeeze else array.shape
            if len(shape) != 3:
                msg = f"{path}: {name} has {array.shape[-1]} components in each voxel; choose a dataset with one"
                raise ValueError(msg)
            return Source(lazy_slabs(_Hdf5(path, name, squeeze), shape, array.dtype), "zyx", steps)
        axes, steps, units = array_axes(array.ndim), {}, None
        scales = [dim[0] if len(dim) else None for dim in array.dims]
        names = "".join(scale.name.split("/")[-1].lower() if scale else "?" for scale in scales)
        if len(names) == array.ndim and set(names) <= set("xyz"):
            axes = names
        for axis, scale in zip(axes, scales, strict=True):
            if scale is not None and len(scale) > 1 and not _is_bare(scale):
                check_inside(scale, path)
                steps[axis] = mean_step(scale[()])
                units = length_unit(scale.attrs.get("units", units), where=str(path))
        return Source(lazy_slabs(_Hdf5(path, name), array.shape, array.dtype), axes, steps, units)


def _is_bare(scale: h5py.Dataset) -> bool:
    """Whether a dimension of netCDF 4 has a name and a length, but no coordinates. Its numbers are then zeros."""
    return np.bytes_(scale.attrs.get("NAME", b"")).startswith(b"This is a netCDF dimension but not a netCDF variable")


def is_classic_netcdf(path: Path) -> bool:
    """Whether a file is of netCDF 3, which is not HDF5."""
    with path.open("rb") as file:
        return file.read(3) == b"CDF"


@dataclass(frozen=True)
class _NetCdf3:
    """The kernel that reads rows of a variable of a netCDF 3 file."""

    path: Path
    name: str

    def __call__(self, first: int, last: int) -> Array:
        with netcdf_file(self.path, "r", mmap=True) as file:
            # The rows are copied, because mapped memory may not outlive the file.
            rows = np.array(file.variables[self.name].data[first:last])
        return rows.astype(rows.dtype.newbyteorder("="))


def open_netcdf3(path: Path, choice: Choice) -> Source:
    """Open one variable of a netCDF 3 file."""
    choice.check(path, "dataset")
    with netcdf_file(path, "r", mmap=False) as file:
        images = [name for name, item in file.variables.items() if len(item.shape) >= 2]
        name = chosen_dataset(choice.dataset, images, path)
        array = file.variables[name]
        shape, dtype, dims = array.shape, array.data.dtype.newbyteorder("="), array.dimensions
        steps, units = {}, None
        for dim in dims:
            if dim in file.variables and len(file.variables[dim].data) > 1 and dim.lower() in "xyz":
                steps[dim.lower()] = mean_step(file.variables[dim].data)
                units = length_unit(getattr(file.variables[dim], "units", units), where=str(path))
    axes = "".join(dim.lower() for dim in dims)
    axes = axes if len(axes) == len(shape) and set(axes) <= set("xyz") else array_axes(len(shape))
    return Source(lazy_slabs(_NetCdf3(path, name), shape, dtype), axes, steps, units)


def open_zarr(path: Path, choice: Choice) -> Source:
    """Open a zarr array, one array of a zarr group, or the finest level of an OME-Zarr image."""
    choice.check(path, "dataset")
    dataset, allow_missing = choice.dataset, choice.allow_missing
    location = Location.of(path)
    node = foreign_metadata(location)
    if node is None:
        msg = "there is no array and no group of zarr"
        raise FileNotFoundError(msg)
    if node.get("node_type") == "array":
        array = open_foreign(location, allow_missing=allow_missing)
        return Source(as_lazy(array), array_axes(array.ndim), {})
    attrs = node.get("attributes", {})
    images = attrs.get("ome", attrs).get("multiscales")
    if images and dataset is None:
        # Images that this package exported name their phases.
        phases = tuple(attrs["names"].get("phases", ())) if isinstance(attrs.get("names"), dict) else ()
        return replace(_ome_zarr(location, images[0], allow_missing=allow_missing), phases=phases)
    return _zarr_of_group(location, dataset, path, allow_missing=allow_missing)


def _ome_zarr(location: Location, image: Any, *, allow_missing: bool) -> Source:
    level = image["datasets"][0]
    data = as_lazy(open_foreign(location, level["path"], allow_missing=allow_missing))
    named = [axis if isinstance(axis, dict) else {"name": axis} for axis in image.get("axes", ())]
    if not named:
        return Source(data, "tczyx"[-data.ndim :].replace("t", "").replace("c", ""), {})
    # Ensembles that this package exported have an axis of samples.
    letters = ["s" if axis["name"] == "sample" else str(axis["name"]) for axis in named]
    keep = [i for i, letter in enumerate(letters) if letter in ("s", "x", "y", "z")]
    scale = next((step["scale"] for step in level.get("coordinateTransformations", ()) if "scale" in step), None)
    steps = {} if scale is None else {letters[i]: float(scale[i]) for i in keep if letters[i] != "s"}
    # Axes other than x, y, z are channels and times; the first channel at the first time is taken.
    data = data[tuple(slice(None) if i in keep else 0 for i in range(data.ndim))]
    units = length_unit(next((named[i].get("unit") for i in keep if letters[i] != "s"), None), where=location.path)
    return Source(data, "".join(letters[i] for i in keep), steps, units)


def _zarr_of_group(location: Location, dataset: str | None, path: Path, *, allow_missing: bool) -> Source:
    names = sorted(folder.name for folder in Path(location.path).iterdir() if folder.is_dir())
    members = {name: foreign_metadata(location, name) or {} for name in names}
    arrays = {name: found for name, found in members.items() if found.get("node_type") == "array"}
    name = chosen_dataset(dataset, [name for name, found in arrays.items() if len(found["shape"]) >= 2], path)
    data = as_lazy(open_foreign(location, name, allow_missing=allow_missing))
    dims = arrays[name].get("dimension_names") or arrays[name]["attributes"].get("_ARRAY_DIMENSIONS")
    if not dims or not all(dim and dim in "xyz" for dim in dims):
        return Source(data, array_axes(data.ndim), {})
    steps, units = {}, None
    for dim in dims:
        if dim in arrays and arrays[dim]["shape"][0] > 1:
            steps[dim] = mean_step(np.asarray(open_foreign(location, dim, is_label=True)[:]))
            units = length_unit(arrays[dim].get("attributes", {}).get("units", units), where=str(path))
    return Source(data, "".join(dims), steps, units)
