"""Images of all kinds of files as lazy arrays, with what the files say of spacing and units.

Each reader returns a `Source`. What it reads later, slab by slab along the first axis of the file, is a kernel that
knows the path alone, so that workers open the file themselves.
"""

from __future__ import annotations

import glob
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import dask.array as da
import h5py
import numpy as np
import tifffile
import zarr
from dask.base import tokenize
from numpy.typing import NDArray
from PIL import Image
from scipy.io import netcdf_file

from mksdask.compute.graph import unchanged
from mksdask.importers.vtk_files import open_vtk
from mksdask.storage.atomic import Location
from mksdask.storage.opening import foreign_metadata, open_foreign

Array = NDArray[Any]

# Bytes of the slabs that are read together.
SLAB_BYTES = 2**27
MOST_ROWS = 2048
UNITS = {"micron": "um", "microns": "um", "µm": "um", "μm": "um", "\\u00b5m": "um", "micrometer": "um", "": None}
IMAGES = (".png", ".jpg", ".jpeg", ".bmp")


@dataclass(frozen=True)
class Source:
    """An image that was opened, not read.

    Parameters
    ----------
    data : dask array
        Values, axes as in the file.
    axes : str
        One of x, y, z for each axis, s for samples, such as "zyx".
    spacing : dict
        Voxel size along x, y, z, as far as the file says.
    units : str or None
        Of the spacing.
    """

    data: da.Array
    axes: str
    spacing: dict[str, float]
    units: str | None = None


@dataclass(frozen=True)
class _Slabs:
    """The kernel that reads rows of a file, given the numbers of the first and the others of them."""

    read: Callable[[int, int], Array]

    def __call__(self, numbers: NDArray[np.int64]) -> Array:
        return self.read(int(numbers[0]), int(numbers[-1]) + 1)


def slab_thickness(shape: Sequence[int], dtype: Any) -> int:
    """Rows that a task reads: a power of two, so that shards of a store can be as thick."""
    row_bytes = max(1, int(np.prod(shape[1:])) * np.dtype(dtype).itemsize)
    return min(MOST_ROWS, 1 << max(0, (SLAB_BYTES // row_bytes).bit_length() - 1))


def lazy_slabs(read: Callable[[int, int], Array], shape: Sequence[int], dtype: Any) -> da.Array:
    """A lazy array of which ``read(first, last)`` returns rows."""
    n, rest = int(shape[0]), tuple(int(size) for size in shape[1:])
    chunks = da.core.normalize_chunks((slab_thickness(shape, dtype),), (n,), dtype=np.int64)
    return da.arange(n, chunks=chunks).map_blocks(
        _Slabs(read),
        chunks=(chunks[0], *((size,) for size in rest)),
        new_axis=list(range(1, len(shape))),
        dtype=dtype,
        meta=np.empty((0,) * len(shape), dtype=dtype),
        token="read-image",
    )


def open_source(path: Any, *, dataset: str | None = None, axes: str | None = None) -> Source:
    """Open an image.

    Parameters
    ----------
    path : str, path or list of them
        A file, a folder of images, a pattern such as ``slices/*.png``, or files in their order.
    dataset : str, optional
        Which array of a file that holds several.
    axes : str, optional
        Axes as the file orders them. Default: what the file says, or the custom of its format: "zyx" for images and
        VTK, "xyz" for arrays.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the format is not known, or the array is not an image of 1 to 3 axes.
    """
    files = [file.absolute() for file in _files(path)]
    try:
        found = _open(files, dataset)
    except (OSError, tifffile.TiffFileError, KeyError, zarr.errors.BaseZarrError) as error:
        msg = f"{files[0]} cannot be read as a {files[0].suffix.lower() or 'zarr'} file: {error}"
        raise ValueError(msg) from error
    # Whoever goes on with a part of an image must know that it is the same, by whatever path.
    stamps = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    stamped = found.data.map_blocks(
        unchanged, dtype=found.data.dtype, meta=found.data._meta, name=f"image-{tokenize(found.data.name, stamps)}"
    )
    return _with_axes(replace(found, data=stamped), axes, str(files[0]))


def _open(files: Sequence[Path], dataset: str | None) -> Source:
    """By suffix; VTK knows its axes."""
    first = files[0]
    suffix = first.suffix.lower()
    if len(files) > 1 or suffix in IMAGES:
        return _open_sequence(files)
    if suffix in (".tif", ".tiff"):
        return _open_tiff(first)
    if suffix in (".npy", ".npz"):
        return _open_numpy(first, dataset)
    if suffix in (".h5", ".hdf5", ".hdf", ".dream3d", ".nc", ".nc4", ".cdf"):
        return _open_netcdf3(first, dataset) if _is_classic_netcdf(first) else _open_hdf5(first, dataset)
    if suffix in (".vti", ".vtk"):
        image = open_vtk(first, dataset)
        steps = dict(zip("xyz", image.spacing, strict=True))
        return Source(lazy_slabs(image.read, image.shape, image.dtype), "zyx", steps)
    if suffix == ".zarr" or first.is_dir():
        return _open_zarr(first, dataset)
    msg = (
        f"path {str(first)!r} has a format that is not known; known are .tif, .png, .jpg, .bmp, .npy, .npz, .h5, "
        ".hdf5, .dream3d, .nc, .vti, .vtk and .zarr"
    )
    raise ValueError(msg)


def _with_axes(source: Source, axes: str | None, path: str) -> Source:
    """Check dtype and axes; axes of length one that have no name go."""
    data = source.data
    if not data.ndim or 0 in data.shape:
        msg = f"{path} holds no image: its array is of shape {data.shape}"
        raise ValueError(msg)
    if data.dtype.kind not in "biuf":
        msg = f"{path} holds values of dtype {data.dtype}, expected numbers"
        raise ValueError(msg)
    if axes is None:
        while data.ndim > 3 and 1 in data.shape:
            data = data[tuple(0 if i == data.shape.index(1) else slice(None) for i in range(data.ndim))]
        axes = source.axes if len(source.axes) == data.ndim else source.axes[-data.ndim :]
    if len(axes) != data.ndim or len(set(axes)) != len(axes) or not set(axes) <= set("sxyz"):
        msg = (
            f"axes={axes!r} must name the {data.ndim} axes of {path}, of shape {data.shape}, by x, y, z, and s for "
            "samples; such as 'zyx'"
        )
        raise ValueError(msg)
    return replace(source, data=data, axes=axes)


def _files(path: Any) -> list[Path]:
    if not isinstance(path, str | os.PathLike):
        files = [Path(each) for each in path]
    elif any(sign in str(path) for sign in "*?[") and not Path(path).exists():
        files = sorted(map(Path, glob.glob(str(path), recursive=True)), key=_natural)  # noqa: PTH207
    else:
        files = [Path(path)]
    if len(files) == 1 and files[0].is_dir() and files[0].suffix != ".zarr" and not (files[0] / "zarr.json").exists():
        known = (*IMAGES, ".tif", ".tiff")
        files = sorted((file for file in files[0].iterdir() if file.suffix.lower() in known), key=_natural)
    missing = [str(file) for file in files if not file.exists()]
    if not files or missing:
        msg = f"path {str(path)!r} " + (
            f"names files that are not there: {missing[:3]}" if missing else "names no image"
        )
        raise FileNotFoundError(msg)
    return files


def input_files(path: Any) -> list[Path]:
    """What `open_source` will read, and the folder if it is given one.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    """
    folder = [Path(path)] if isinstance(path, str | os.PathLike) and Path(path).is_dir() else []
    return folder + [file for file in _files(path) if file not in folder]


def _natural(path: Path) -> list[Any]:
    """slice2 before slice10."""
    parts = "".join(sign if sign.isdigit() else f" {sign} " for sign in path.name).split()
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]


@dataclass(frozen=True)
class _Sequence:
    """Images, one a file."""

    files: tuple[Path, ...]
    shape: tuple[int, ...]
    dtype: Any

    def __call__(self, first: int, last: int) -> Array:
        slab = np.empty((last - first, *self.shape), dtype=self.dtype)
        for number, file in enumerate(self.files[first:last]):
            image = read_image(file)
            if image.shape != self.shape or image.dtype != self.dtype:
                msg = (
                    f"{file} is {image.shape} {image.dtype}, the first image of the sequence {self.shape} "
                    f"{self.dtype}; all must be alike"
                )
                raise ValueError(msg)
            slab[number] = image
        return slab


def read_image(path: Path) -> Array:
    """Grey levels, (rows, columns).

    Raises
    ------
    ValueError
        If it has colours.
    """
    if path.suffix.lower() in (".tif", ".tiff"):
        image = tifffile.imread(path)
    else:
        with Image.open(path) as opened:
            # Indices of a palette are labels.
            image = np.asarray(opened)
    if (
        image.ndim == 3
        and image.shape[-1] in (3, 4)
        and all(np.array_equal(image[..., 0], image[..., i]) for i in (1, 2))
    ):
        image = image[..., 0]
    if image.ndim != 2:
        msg = f"{path} must be one image of grey levels, got an array of shape {image.shape}; convert colours to grey"
        raise ValueError(msg)
    return np.asarray(image)


def _open_sequence(files: Sequence[Path]) -> Source:
    image = read_image(files[0])
    spacing, units = _tiff_spacing(files[0]) if files[0].suffix.lower() in (".tif", ".tiff") else ({}, None)
    if len(files) == 1:
        return Source(da.from_array(image, chunks=-1), "yx", spacing, units)
    read = _Sequence(tuple(files), image.shape, image.dtype)
    return Source(lazy_slabs(read, (len(files), *image.shape), image.dtype), "zyx", spacing, units)


@dataclass(frozen=True)
class _TiffPages:
    """Pages of a TIFF file, or rows of one that is stored in one piece."""

    path: Path
    in_one_piece: bool

    def __call__(self, first: int, last: int) -> Array:
        if self.in_one_piece:
            return np.asarray(tifffile.memmap(self.path, mode="r")[first:last])
        pages = tifffile.imread(self.path, key=range(first, last))
        return np.asarray(pages if last - first > 1 else pages[None])


def _open_tiff(path: Path) -> Source:
    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        shape, names, dtype = series.shape, series.axes, series.dtype
        in_one_piece = series.dataoffset is not None and len(series.pages) == 1 and len(shape) > 2
        n_pages = len(series.pages)
    spacing, units = _tiff_spacing(path)
    if "S" in names and len(shape) > 2:
        msg = f"{path} has {shape[names.index('S')]} colours a voxel; convert it to grey levels"
        raise ValueError(msg)
    if len(shape) == 2:
        return Source(da.from_array(read_image(path), chunks=-1), "yx", spacing, units)
    if len(shape) != 3 or not (in_one_piece or n_pages == shape[0]):
        msg = f"{path} has the axes {names} of lengths {shape}; expected one image, or a stack of them"
        raise ValueError(msg)
    return Source(lazy_slabs(_TiffPages(path, in_one_piece), shape, dtype), "zyx", spacing, units)


def _tiff_spacing(path: Path) -> tuple[dict[str, float], str | None]:
    """Of OME, ImageJ, or baseline tags in centimetres; dots per inch say nothing of a microscope."""
    with tifffile.TiffFile(path) as file:
        if file.ome_metadata:
            pixels = ET.fromstring(file.ome_metadata).find(".//{*}Pixels")
            found = {} if pixels is None else pixels.attrib
            spacing = {axis: float(found[key]) for axis in "xyz" if (key := f"PhysicalSize{axis.upper()}") in found}
            return spacing, _unit(found.get("PhysicalSizeXUnit", "µm")) if spacing else None
        tags = file.pages[0].tags
        steps = {}
        for axis, tag in (("x", "XResolution"), ("y", "YResolution")):
            if tag in tags:
                dots, of = tags[tag].value
                if dots:
                    steps[axis] = of / dots
        if file.imagej_metadata and file.imagej_metadata.get("unit"):
            unit = _unit(str(file.imagej_metadata["unit"]))
            if "spacing" in file.imagej_metadata:
                steps["z"] = float(file.imagej_metadata["spacing"])
            return (steps, unit) if unit not in (None, "pixel", "inch") else ({}, None)
        if steps and "ResolutionUnit" in tags and int(tags["ResolutionUnit"].value) == 3:
            return {axis: 1e4 * step for axis, step in steps.items()}, "um"
    return {}, None


def _unit(name: str) -> str | None:
    name = name.strip()
    return UNITS.get(name.lower(), name)


@dataclass(frozen=True)
class _Npy:
    path: Path

    def __call__(self, first: int, last: int) -> Array:
        return np.array(np.load(self.path, mmap_mode="r", allow_pickle=False)[first:last])


def _open_numpy(path: Path, dataset: str | None) -> Source:
    if path.suffix == ".npy":
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            msg = f"{path} cannot be read as an array of numbers ({error}); nothing is unpickled"
            raise ValueError(msg) from error
        if not array.size or not array.ndim:
            return Source(da.from_array(np.asarray(array)), _of_array(array.ndim), {})
        return Source(lazy_slabs(_Npy(path), array.shape, array.dtype), _of_array(array.ndim), {})
    if not zipfile.is_zipfile(path):
        msg = f"{path} cannot be read as arrays: it is no .npz file"
        raise ValueError(msg)
    with np.load(path, allow_pickle=False) as arrays:
        name = _choose(dataset, arrays.files, path)
        try:
            array = arrays[name]
        except ValueError as error:
            msg = f"{path}: {name} cannot be read as an array of numbers ({error}); nothing is unpickled"
            raise ValueError(msg) from error
    return Source(da.from_array(array, chunks="auto"), _of_array(array.ndim), {})


def _of_array(n_axes: int) -> str:
    return "sxyz" if n_axes > 3 else "xyz"[:n_axes]


def _choose(dataset: str | None, names: Sequence[str], path: Path) -> str:
    if dataset in names:
        return str(dataset)
    if dataset is None and len(names) == 1:
        return names[0]
    listed = ", ".join(names[:12]) + (", …" if len(names) > 12 else "") if names else "none that is an image"
    msg = f"{path} " + (f"has no dataset {dataset!r}" if dataset else "needs dataset=") + f"; there are: {listed}"
    raise ValueError(msg)


@dataclass(frozen=True)
class _Hdf5:
    path: Path
    name: str
    squeeze: bool

    def __call__(self, first: int, last: int) -> Array:
        with h5py.File(self.path, "r") as file:
            rows = np.asarray(file[self.name][first:last])
        return rows[..., 0] if self.squeeze else rows


def _open_hdf5(path: Path, dataset: str | None) -> Source:
    with h5py.File(path, "r") as file:
        images: list[str] = []

        def visit(name: str, item: Any) -> None:
            is_array = isinstance(item, h5py.Dataset) and item.dtype.kind in "biuf"
            if is_array and len([n for n in item.shape if n > 1]) >= 2 and "_SIMPL_GEOMETRY" not in name:
                images.append(name)

        file.visititems(visit)
        wanted = None if dataset is None else dataset.strip("/")
        matches = [name for name in images if wanted is not None and (name == wanted or name.endswith("/" + wanted))]
        name = matches[0] if len(matches) == 1 else _choose(wanted, images, path)
        array = file[name]
        container = "/".join(name.split("/")[:-2])
        geometry = file.get(f"{container}/_SIMPL_GEOMETRY") if container else None
        if geometry is not None:
            steps = dict(zip("xyz", (float(step) for step in geometry["SPACING"][:]), strict=True))
            squeeze = array.ndim == 4 and array.shape[-1] == 1
            shape = array.shape[:-1] if squeeze else array.shape
            if len(shape) != 3:
                msg = f"{path}: {name} has {array.shape[-1]} components a voxel; choose a dataset with one"
                raise ValueError(msg)
            return Source(lazy_slabs(_Hdf5(path, name, squeeze), shape, array.dtype), "zyx", steps)
        axes, steps, units = _of_array(array.ndim), {}, None
        scales = [(dim[0][()], dim[0]) if len(dim) else None for dim in array.dims]
        names = "".join(scale[1].name.split("/")[-1].lower() if scale else "?" for scale in scales)
        if len(names) == array.ndim and set(names) <= set("xyz"):
            axes = names
        for axis, scale in zip(axes, scales, strict=True):
            if scale is not None and len(scale[0]) > 1:
                steps[axis] = float(np.mean(np.diff(scale[0].astype(float))))
                units = _text(scale[1].attrs.get("units", units))
        return Source(lazy_slabs(_Hdf5(path, name, False), array.shape, array.dtype), axes, steps, units)  # noqa: FBT003


def _text(value: Any) -> str | None:
    return _unit(value.decode() if isinstance(value, bytes) else str(value)) if value is not None else None


def _is_classic_netcdf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(3) == b"CDF"


@dataclass(frozen=True)
class _NetCdf3:
    path: Path
    name: str

    def __call__(self, first: int, last: int) -> Array:
        with netcdf_file(self.path, "r", mmap=True) as file:
            # A copy: what is mapped may not outlive the file.
            rows = np.array(file.variables[self.name].data[first:last])
        return rows.astype(rows.dtype.newbyteorder("="))


def _open_netcdf3(path: Path, dataset: str | None) -> Source:
    with netcdf_file(path, "r", mmap=False) as file:
        images = [name for name, item in file.variables.items() if len(item.shape) >= 2]
        name = _choose(dataset, images, path)
        array = file.variables[name]
        shape, dtype, dims = array.shape, array.data.dtype.newbyteorder("="), array.dimensions
        steps, units = {}, None
        for dim in dims:
            if dim in file.variables and len(file.variables[dim].data) > 1 and dim.lower() in "xyz":
                steps[dim.lower()] = float(np.mean(np.diff(file.variables[dim].data.astype(float))))
                units = _text(getattr(file.variables[dim], "units", units))
    axes = "".join(dim.lower() for dim in dims)
    axes = axes if len(axes) == len(shape) and set(axes) <= set("xyz") else _of_array(len(shape))
    return Source(lazy_slabs(_NetCdf3(path, name), shape, dtype), axes, steps, units)


def _open_zarr(path: Path, dataset: str | None) -> Source:
    """An array, an array of a group, or the finest level of an OME-Zarr image."""
    location = Location.of(path)
    node = foreign_metadata(location)
    if node is None:
        msg = "there is no array and no group of zarr"
        raise FileNotFoundError(msg)
    if node.get("node_type") == "array":
        array = open_foreign(location)
        return Source(da.from_zarr(array), _of_array(array.ndim), {})
    attrs = node.get("attributes", {})
    images = attrs.get("ome", attrs).get("multiscales")
    return _ome_zarr(location, images[0]) if images and dataset is None else _zarr_of_group(location, dataset, path)


def _ome_zarr(location: Location, image: Any) -> Source:
    level = image["datasets"][0]
    data = da.from_zarr(open_foreign(location, level["path"]))
    named = [axis if isinstance(axis, dict) else {"name": axis} for axis in image.get("axes", ())]
    if not named:
        return Source(data, "tczyx"[-data.ndim :].replace("t", "").replace("c", ""), {})
    keep = [i for i, axis in enumerate(named) if axis["name"] in "xyz"]
    scale = next((step["scale"] for step in level.get("coordinateTransformations", ()) if "scale" in step), None)
    steps = {} if scale is None else {named[i]["name"]: float(scale[i]) for i in keep}
    # The first channel at the first time.
    data = data[tuple(slice(None) if i in keep else 0 for i in range(data.ndim))]
    units = _text(next((named[i].get("unit") for i in keep), None))
    return Source(data, "".join(named[i]["name"] for i in keep), steps, units)


def _zarr_of_group(location: Location, dataset: str | None, path: Path) -> Source:
    names = sorted(folder.name for folder in Path(location.path).iterdir() if folder.is_dir())
    members = {name: foreign_metadata(location, name) or {} for name in names}
    arrays = {name: found for name, found in members.items() if found.get("node_type") == "array"}
    name = _choose(dataset, [name for name, found in arrays.items() if len(found["shape"]) >= 2], path)
    data = da.from_zarr(open_foreign(location, name))
    dims = arrays[name].get("dimension_names") or arrays[name]["attributes"].get("_ARRAY_DIMENSIONS")
    if not dims or not all(dim and dim in "xyz" for dim in dims):
        return Source(data, _of_array(data.ndim), {})
    steps, units = {}, None
    for dim in dims:
        if dim in arrays and arrays[dim]["shape"][0] > 1:
            steps[dim] = float(np.mean(np.diff(np.asarray(open_foreign(location, dim)[:], dtype=float))))
            units = _text(arrays[dim].get("attributes", {}).get("units", units))
    return Source(data, "".join(dims), steps, units)
