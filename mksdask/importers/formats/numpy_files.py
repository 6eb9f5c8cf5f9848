"""Images in files of NumPy."""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from mksdask.arrays import Array, as_lazy
from mksdask.importers.sources import Choice, Source, array_axes, assumed_axes, chosen_dataset, lazy_slabs

# The header of a .npy file in an archive is read from so many bytes.
HEADER_BYTES = 2**16


@dataclass(frozen=True)
class _Npy:
    """The kernel that reads rows of a NumPy file. In a file in Fortran order, they are parts of all its columns."""

    path: Path

    def __call__(self, first: int, last: int) -> Array:
        return np.array(np.load(self.path, mmap_mode="r", allow_pickle=False)[first:last], order="C")


def open_numpy(path: Path, choice: Choice) -> Source:
    """Open a `.npy` file, or one array of an `.npz` file, which is loaded whole."""
    is_archive = path.suffix.lower() == ".npz"
    choice.check(path, *(["dataset"] if is_archive else []))
    if is_archive:
        return _open_archive(path, choice.dataset)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        msg = (
            f"{path} cannot be read as an array of numbers ({error}); nothing is unpickled, so save the array with a "
            "numeric dtype"
        )
        raise ValueError(msg) from error
    if not isinstance(array, np.ndarray):
        msg = f"{path} is an archive of arrays; call it .npz"
        raise TypeError(msg)
    axes = array_axes(array.ndim)
    if not array.size or not array.ndim:
        return Source(as_lazy(np.asarray(array)), axes, {})
    return Source(lazy_slabs(_Npy(path), array.shape, array.dtype), axes, {}, assumed=assumed_axes(axes))


def _open_archive(path: Path, dataset: str | None) -> Source:
    if not zipfile.is_zipfile(path):
        msg = f"{path} cannot be read as arrays: it is not an .npz file"
        raise ValueError(msg)
    with np.load(path, allow_pickle=False) as arrays:
        name = chosen_dataset(dataset, arrays.files, path)
        _check_size(path, name, arrays.zip)
        try:
            array = arrays[name]
        except ValueError as error:
            msg = f"{path}: {name} cannot be read as an array of numbers ({error}); nothing is unpickled"
            raise ValueError(msg) from error
    axes = array_axes(array.ndim)
    return Source(as_lazy(array), axes, {}, assumed=assumed_axes(axes))


def _check_size(path: Path, name: str, archive: zipfile.ZipFile) -> None:
    """Refuse an array that does not fit in memory, where it is unpacked as a whole, or whose header is not true."""
    member = archive.getinfo(name if name in archive.namelist() else f"{name}.npy")
    free = int(psutil.virtual_memory().available)
    if member.file_size > free:
        msg = (
            f"{path}: {name} is unpacked as a whole, from {member.compress_size} to {member.file_size} bytes, more "
            f"than the {free} bytes of memory that are free; save it as a .npy file, which is read in slabs"
        )
        raise ValueError(msg)
    with archive.open(member) as file:
        header = _header(file)
    if header is None:
        return
    shape, dtype = header
    wanted = math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and wanted > member.file_size:
        msg = (
            f"{path}: {name} says that it holds {shape} values of dtype {dtype}, which are {wanted} bytes, but it has "
            f"{member.file_size}; the file is damaged"
        )
        raise ValueError(msg)


def _header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]] | None:
    """Read the shape and the dtype of an array. None if it is no array, which NumPy then says."""
    try:
        version = np.lib.format.read_magic(file)
        read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version[0]]
        shape, _, dtype = read(file, max_header_size=HEADER_BYTES)
    except (ValueError, KeyError):
        return None
    return shape, dtype
