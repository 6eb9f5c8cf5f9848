"""The kinds of image files: the suffix of a file chooses its reader."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr

from mksdask.arrays import shown
from mksdask.compute.graph import renamed, token_of
from mksdask.importers.array_files import is_classic_netcdf, open_hdf5, open_netcdf3, open_numpy, open_zarr
from mksdask.importers.raster_files import open_sequence, open_tiff
from mksdask.importers.sources import Source, array_axes
from mksdask.importers.vtk_files import open_vtk

IMAGES = (".png", ".jpg", ".jpeg", ".bmp")


def open_source(
    path: Any, *, dataset: str | None = None, axes: str | None = None, allow_missing: bool = False
) -> Source:
    """Open an image of any known format.

    Parameters
    ----------
    path : str, path or sequence of them
        A file, a folder of images, a pattern such as ``slices/*.png``, or files in their order.
    dataset : str, optional
        Name of the array, if a file holds several.
    axes : str, optional
        Names of the axes in the order of the file. By default they are read from the file, or follow the custom of its
        format: "zyx" for images and VTK, "xyz" for arrays.
    allow_missing : bool, default False
        Whether chunks that a zarr store lacks are taken as its fill value.

    Returns
    -------
    Source
        The image, as a lazy array.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the format is not known, or the array is not an image of 1 to 3 axes.
    """
    files = [file.absolute() for file in _files(path)]
    try:
        found = _open(files, dataset, allow_missing=allow_missing)
    except (OSError, tifffile.TiffFileError, KeyError, zarr.errors.BaseZarrError) as error:
        msg = f"{files[0]} cannot be read as a {files[0].suffix.lower() or 'zarr'} file: {error}"
        raise ValueError(msg) from error
    # The name of the array depends on the paths, sizes and times of the files, so that no import is resumed from files
    # that have changed.
    stamps = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    stamped = renamed(found.data, f"image-{token_of(found.data.name, stamps)}")
    return _with_axes(replace(found, data=stamped), axes, str(files[0]))


def input_files(path: Any) -> list[Path]:
    """List the files that `open_source` reads, and the folder if `path` is one.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    """
    folder = [Path(path)] if isinstance(path, str | os.PathLike) and Path(path).is_dir() else []
    return folder + [file for file in _files(path) if file not in folder]


def _open(files: Sequence[Path], dataset: str | None, *, allow_missing: bool) -> Source:
    """Choose the reader of a file by its suffix."""
    first = files[0]
    suffix = first.suffix.lower()
    if dataset is not None and (len(files) > 1 or suffix in (*IMAGES, ".tif", ".tiff", ".npy")):
        msg = f"dataset={dataset!r} names one of several arrays of a file, but {first} holds one image; leave it out"
        raise ValueError(msg)
    if len(files) > 1 or suffix in IMAGES:
        return open_sequence(files)
    if suffix in (".tif", ".tiff"):
        return open_tiff(first)
    if suffix in (".npy", ".npz"):
        return open_numpy(first, dataset)
    if suffix in (".h5", ".hdf5", ".hdf", ".dream3d", ".nc", ".nc4", ".cdf"):
        return open_netcdf3(first, dataset) if is_classic_netcdf(first) else open_hdf5(first, dataset)
    if suffix in (".vti", ".vtk"):
        return open_vtk(first, dataset)
    if suffix == ".zarr" or first.is_dir():
        return open_zarr(first, dataset, allow_missing=allow_missing)
    msg = (
        f"path {str(first)!r} has a format that is not known; the known formats are .tif, .png, .jpg, .bmp, .npy, "
        ".npz, .h5, .hdf5, .dream3d, .nc, .vti, .vtk and .zarr"
    )
    raise ValueError(msg)


def _with_axes(source: Source, axes: str | None, path: str) -> Source:
    """Check the dtype, and name the axes.

    If there are more than three axes, and `axes` does not name them, axes of length 1 are removed.
    """
    data = source.data
    if not data.ndim or 0 in data.shape:
        msg = f"{path} holds no image: its array has shape {data.shape}"
        raise ValueError(msg)
    if data.dtype.kind not in "biuf":
        msg = f"{path} holds values of dtype {data.dtype}, expected real numbers"
        raise ValueError(msg)
    if axes is None:
        while data.ndim > 3 and 1 in data.shape:
            data = data[tuple(0 if i == data.shape.index(1) else slice(None) for i in range(data.ndim))]
        if not source.axes and data.dtype == np.uint8 and data.ndim > 2 and data.shape[-1] in (3, 4):
            guess = array_axes(data.ndim)
            msg = (
                f"{path} holds uint8 values of shape {data.shape} without names of axes, and the last axis may be the "
                f"colours of an image; convert it to grey levels, or pass axes={guess!r} if it is an axis of space"
            )
            raise ValueError(msg)
        axes = (source.axes or array_axes(data.ndim))[-data.ndim :]
    if (
        not isinstance(axes, str)
        or len(axes) != data.ndim
        or len(set(axes)) != len(axes)
        or not set(axes) <= set("sxyz")
    ):
        msg = (
            f"axes={axes!r} must name the {data.ndim} axes of {path}, of shape {data.shape}, by x, y, z, and s for "
            "samples, each at most once; such as 'zyx'"
        )
        raise ValueError(msg)
    return replace(source, data=data, axes=axes)


def _files(path: Any) -> list[Path]:
    """List the files that a path, a folder, a pattern or a sequence names."""
    if not isinstance(path, str | os.PathLike):
        files = path if isinstance(path, list | tuple) else [path]
        if not all(isinstance(each, str | os.PathLike) for each in files):
            msg = f"path must be a path, or a list of paths, got {shown(path)}"
            raise TypeError(msg)
        files = [Path(each) for each in files]
    elif any(sign in str(path) for sign in "*?[") and not Path(path).exists():
        files = sorted(map(Path, glob.glob(str(path), recursive=True)), key=_natural)  # noqa: PTH207
    else:
        files = [Path(path)]
    if len(files) == 1 and files[0].is_dir() and files[0].suffix != ".zarr" and not (files[0] / "zarr.json").exists():
        known = (*IMAGES, ".tif", ".tiff")
        files = sorted((file for file in files[0].iterdir() if file.suffix.lower() in known), key=_natural)
    missing = [str(file) for file in files if not file.exists()]
    if not files or missing:
        found = f"names files that are not there: {missing[:3]}" if missing else "names no image"
        msg = f"path {str(path)!r} {found}"
        raise FileNotFoundError(msg)
    return files


def _natural(path: Path) -> list[Any]:
    """Sort key by which slice2 comes before slice10."""
    parts = "".join(sign if sign.isdigit() else f" {sign} " for sign in path.name).split()
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]
