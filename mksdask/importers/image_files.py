"""The kinds of image files: the suffix of a file chooses its reader."""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil

from mksdask.arrays import shown
from mksdask.compute.graph import renamed, token_of
from mksdask.importers.formats.hdf5_files import open_hdf5
from mksdask.importers.formats.metaimage_files import open_metaimage
from mksdask.importers.formats.netcdf_files import is_classic_netcdf, open_netcdf3
from mksdask.importers.formats.nifti_files import open_nifti
from mksdask.importers.formats.nrrd_files import open_nrrd
from mksdask.importers.formats.numpy_files import open_numpy
from mksdask.importers.formats.raw_files import open_raw
from mksdask.importers.formats.vtk_hdf_files import open_vtkhdf
from mksdask.importers.formats.vtk_legacy_files import open_vtk
from mksdask.importers.formats.vtk_xml_files import open_pvti, open_vti
from mksdask.importers.formats.zarr_files import open_zarr
from mksdask.importers.image_samples import join_samples, picture_samples
from mksdask.importers.image_sequences import (
    PICTURES,
    TIFFS,
    folder_pictures,
    natural,
    open_picture,
    open_sequence,
)
from mksdask.importers.sources import ANGLES, Choice, Source, reading


def _open_hdf5_or_netcdf(path: Path, choice: Choice) -> Source:
    """Open a file whose suffix leaves open whether it is of HDF5 or of netCDF 3."""
    if path.suffix.lower() == ".mat" and not h5py.is_hdf5(path):
        msg = f"{path} is not a file of MATLAB 7.3; save it in MATLAB by save(name, '-v7.3')"
        raise ValueError(msg)
    return (open_netcdf3 if is_classic_netcdf(path) else open_hdf5)(path, choice)


# The reader for each suffix.
READERS: dict[str, Callable[[Path, Choice], Source]] = {
    **dict.fromkeys((*PICTURES, *TIFFS), open_picture),
    **dict.fromkeys((".npy", ".npz"), open_numpy),
    **dict.fromkeys(
        (".h5", ".hdf5", ".hdf", ".he5", ".hspy", ".nxs", ".mat", ".dream3d", ".nc", ".nc4", ".cdf"),
        _open_hdf5_or_netcdf,
    ),
    ".vti": open_vti,
    ".pvti": open_pvti,
    ".vtk": open_vtk,
    ".vtkhdf": open_vtkhdf,
    **dict.fromkeys((".nrrd", ".nhdr"), open_nrrd),
    **dict.fromkeys((".mha", ".mhd"), open_metaimage),
    **dict.fromkeys((".nii", ".gz"), open_nifti),
    ".zarr": open_zarr,
}


def open_source(path: Any, choice: Choice | None = None, *, axes: str | None = None) -> Source:
    """Open an image of any known format.

    Parameters
    ----------
    path : str, path or sequence of them
        A file, a folder of images, a pattern such as ``slices/*.png``, or files in their order.
    choice : Choice, optional
        What to read of a file that holds several images, or that does not describe itself.
    axes : str, optional
        Names of the axes in the order of the file. By default they are read from the file, or follow the custom of its
        format: "zyx" for images and VTK, "xyz" for arrays.

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
    choice = replace(choice or Choice(), axes=axes)
    files, left_out = _files(path, choice.pattern, are_slices=choice.join == "slices")
    files = [file.absolute() for file in files]
    if choice.join == "samples" and len(files) > 1:
        if all(file.suffix.lower() in (*PICTURES, *TIFFS) for file in files) and "s" not in (axes or ""):
            found = picture_samples(files, replace(choice, pattern=None, join="slices"))
            return _with_axes(_stamped(found, files), None, str(files[0]))
        alone = partial(open_source, choice=replace(choice, pattern=None, join="slices"), axes=axes)
        return _stamped(join_samples(alone, files), files)
    if len(files) > 1:
        found = open_sequence(files, replace(choice, pattern=None))
    else:
        with reading(files[0]):
            found = _open(files[0], choice)
    found = replace(found, assumed=(*found.assumed, *left_out))
    found = _stamped(replace(found, data=_in_order_of_bytes(found.data)), files)
    found = replace(found, format=found.format or files[0].suffix.lower().lstrip(".") or "zarr")
    named = _with_axes(found, axes, str(files[0]))
    _check_memory(named, str(files[0]))
    if choice.join == "samples" and "s" not in named.axes:
        return replace(named, data=named.data[None], axes="s" + named.axes)
    return named


def _stamped(source: Source, files: Sequence[Path]) -> Source:
    """Name an array after the paths, sizes and times of its files, so that no import of changed files is resumed."""
    stamps = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in (*files, *source.beside)]
    return replace(source, data=renamed(source.data, f"image-{token_of(source.data.name, stamps)}"))


def _in_order_of_bytes(data: Any) -> Any:
    """Convert numbers to the order of bytes of this machine, and to one name of each data type."""
    return data.astype(np.dtype(data.dtype.newbyteorder("=").str)) if data.dtype.kind in "biuf" else data


def _check_memory(source: Source, path: str) -> None:
    """Refuse a file whose smallest part that can be read does not fit in memory, however small the file is.

    Raises
    ------
    ValueError
        If it does not.
    """
    part = math.prod(max(sizes) for sizes in source.data.chunks) * source.data.dtype.itemsize
    # Positions along an axis are in memory as a whole.
    part = max(part, 16 * max(source.data.shape))
    free = int(psutil.virtual_memory().available)
    if part > free:
        msg = (
            f"{path} says that it holds {source.data.shape} voxels of dtype {source.data.dtype}, and "
            f"{part} bytes are needed at once, more than the {free} bytes of memory that are free; write it anew in "
            "smaller chunks or slices"
        )
        raise ValueError(msg)


def input_files(path: Any, pattern: str | None = None) -> list[Path]:
    """List the files that `open_source` reads, and the folder if `path` is one.

    Parameters
    ----------
    path : str, path or sequence of them
        As in `open_source`.
    pattern : str, optional
        Pattern of the names of the files to take from a folder.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    """
    folder = [Path(path)] if isinstance(path, str | os.PathLike) and Path(path).is_dir() else []
    return folder + [file for file in _files(path, pattern, are_slices=False)[0] if file not in folder]


def _open(file: Path, choice: Choice) -> Source:
    """Open a file by the reader for its suffix."""
    suffix = file.suffix.lower()
    choice = replace(choice, pattern=None)
    if choice.shape is not None and suffix not in READERS:
        return open_raw(file, choice)
    if suffix in READERS:
        return READERS[suffix](file, choice)
    if file.is_dir():
        return open_zarr(file, choice)
    msg = (
        f"path {str(file)!r} has a format that is not known; the known ones are {', '.join(READERS)}. If it "
        "holds nothing but voxels after an optional header, give shape=, dtype= and offset="
    )
    raise ValueError(msg)


def _with_axes(source: Source, axes: Any, path: str) -> Source:
    """Check the dtype, name the axes, and let positions rise along each axis.

    If `axes` does not name them, axes of length 1 are removed.
    """
    data = source.data
    if not data.ndim or 0 in data.shape:
        msg = f"{path} holds no image: its array has shape {data.shape}"
        raise ValueError(msg)
    if data.dtype.kind not in "biuf" or data.dtype.itemsize > 8:
        msg = f"{path} holds values of dtype {data.dtype}, expected real numbers of at most 64 bits; convert them"
        raise ValueError(msg)
    if axes is not None and not isinstance(axes, str):
        msg = f"axes must be a text such as 'zyx', got {axes!r}"
        raise TypeError(msg)
    if axes is None and any(text.startswith("axes ") for text in source.assumed):
        _refuse_colours(source, path)
    has_angles = source.axes.endswith(ANGLES)
    wanted = axes if axes is None or not has_angles else axes.removesuffix(ANGLES) + ANGLES
    if wanted is None or len(wanted) == sum(n > 1 for n in data.shape) < data.ndim:
        source = _without_single(source)
        data = source.data
    wanted = wanted or source.axes
    known = set("sxyz") | ({ANGLES} if has_angles else set())
    if len(wanted) != data.ndim or len(set(wanted)) != len(wanted) or not set(wanted) <= known:
        msg = (
            f"axes={wanted!r} must name the {data.ndim} axes of {path}, of shape {data.shape}, by x, y, z, and s for "
            f"samples, each at most once; such as {'szyx'[-data.ndim :]!r}"
        )
        raise ValueError(msg)
    # Voxel sizes belong to the axes of the file, whatever these are called.
    own = source.axes if len(source.axes) == data.ndim else wanted
    steps = {new: source.spacing[old] for old, new in zip(own, wanted, strict=True) if old in source.spacing}
    backwards = tuple(slice(None, None, -1 if steps.get(axis, 1.0) < 0 else None) for axis in wanted)
    # The last voxel of an axis that falls becomes the first one.
    first = {new: source.origin[old] for old, new in zip(own, wanted, strict=True) if old in source.origin}
    first |= {
        axis: first[axis] + (n - 1) * steps[axis]
        for axis, n in zip(wanted, data.shape, strict=True)
        if axis in first and steps.get(axis, 1.0) < 0
    }
    spacing = {axis: abs(step) for axis, step in steps.items()}
    return replace(source, data=data[backwards], axes=wanted, spacing=spacing, origin=first)


def _refuse_colours(source: Source, path: str) -> None:
    """Refuse an array whose axes have no names and whose last axis may be the colours of an image."""
    data = source.data
    if data.dtype == np.uint8 and data.ndim > 2 and data.shape[-1] in (3, 4):
        msg = (
            f"{path} holds uint8 values of shape {data.shape} without names of axes, and the last axis may be the "
            f"colours of an image; convert it to grey levels, or pass axes={source.axes!r} if it is an axis of space"
        )
        raise ValueError(msg)


def _without_single(source: Source) -> Source:
    """Remove axes of length 1, and call the axes that stay x, y, z in their order."""
    data, axes = source.data, source.axes
    n_extra = max(0, data.ndim - len(axes))
    axes = "?" * n_extra + axes[len(axes) - (data.ndim - n_extra) :]
    keep = [i for i, (axis, n) in enumerate(zip(axes, data.shape, strict=True)) if n > 1 or axis in ("s", ANGLES)]
    if data.ndim > 3 and "s" in axes and data.shape[axes.index("s")] == 1 and "say axes=" in " ".join(source.assumed):
        keep.remove(axes.index("s"))
    if len(keep) == data.ndim or not {axes[i] for i in keep} & set("xyz"):
        return source if len(source.axes) == data.ndim else replace(source, axes=axes)
    gone = "".join(axis for i, axis in enumerate(axes) if i not in keep).replace("?", "")
    stay = [axes[i] for i in keep]
    names = dict(zip(sorted({*stay} & set("xyz")), "xyz", strict=False))
    called = "".join(names.get(axis, axis) for axis in stay)
    told = f"axes {gone or 'without a name'} of length 1 dropped"
    told += f", so that {''.join(stay)} are called {called}" if "".join(stay) != called else ""
    return replace(
        source,
        data=data[tuple(slice(None) if i in keep else 0 for i in range(data.ndim))],
        axes=called,
        spacing={name: source.spacing[axis] for axis, name in names.items() if axis in source.spacing},
        origin={name: source.origin[axis] for axis, name in names.items() if axis in source.origin},
        assumed=(*source.assumed, f"{told}; say axes="),
    )


def _files(path: Any, pattern: str | None, *, are_slices: bool) -> tuple[list[Path], tuple[str, ...]]:
    """List the files that a path, a folder, a pattern or a sequence names, and say what was left out of a folder."""
    is_folder = isinstance(path, str | os.PathLike) and Path(path).is_dir()
    if pattern is not None and (not is_folder or Path(pattern).is_absolute()):
        msg = f"pattern={pattern!r} names files in a folder, such as 'slice*.tif', but path {path!r} is no folder"
        raise ValueError(msg)
    left_out: tuple[str, ...] = ()
    if not isinstance(path, str | os.PathLike):
        files = path if isinstance(path, list | tuple) else [path]
        if not all(isinstance(each, str | os.PathLike) for each in files):
            msg = f"path must be a path, or a list of paths, got {shown(path)}"
            raise TypeError(msg)
        files = [Path(each) for each in files]
    elif any(sign in str(path) for sign in "*?[") and not Path(path).exists():
        files = sorted(map(Path, glob.glob(str(path), recursive=True)), key=natural)  # noqa: PTH207
    else:
        files = [Path(path)]
    if len(files) == 1 and files[0].is_dir() and (pattern is not None or not _is_zarr(files[0])):
        files, left_out = folder_pictures(files[0], pattern, are_slices=are_slices)
    missing = [str(file) for file in files if not file.exists()]
    if not files or missing:
        msg = f"{missing[0]} does not exist" if missing else f"path {str(path)!r} names no image"
        raise FileNotFoundError(msg)
    return files, left_out


def _is_zarr(folder: Path) -> bool:
    """Whether a folder is a store of zarr, by its name or by its metadata."""
    return folder.suffix == ".zarr" or any((folder / name).exists() for name in ("zarr.json", ".zgroup", ".zarray"))
