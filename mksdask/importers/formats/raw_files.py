"""Raw voxels: values without a description, whose shape and data type the caller or a header beside them states."""

from __future__ import annotations

import bz2
import gzip
import math
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from mksdask.arrays import Array, as_lazy
from mksdask.importers.formats.dims import Selection
from mksdask.importers.formats.packing import Packing
from mksdask.importers.sources import Choice, Source, lazy_slabs

# Bytes of a compressed file that are read at once.
PIECE = 2**24


@dataclass(frozen=True)
class Raw:
    """The kernel that reads rows of raw values.

    Parameters
    ----------
    path : path
        The file.
    shape : tuple of int
        Numbers of voxels along the axes of the file. The last one changes fastest.
    dtype : str
        Data type, with its order of bytes.
    offset : int
        Number of bytes before the values.
    parts : tuple of path
        The files, if there are several, each with as many rows. By default there is only `path`.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: str
    offset: int = 0
    parts: tuple[Path, ...] = ()

    def others(self, path: Path) -> tuple[Path, ...]:
        """The files of values other than the one that the caller names."""
        return tuple(part for part in self.parts or (self.path,) if part != path)

    @property
    def row_bytes(self) -> int:
        """Number of bytes of a row."""
        return math.prod(self.shape[1:]) * np.dtype(self.dtype).itemsize

    def __call__(self, first: int, last: int) -> Array:
        """Return the rows from `first` to `last`."""
        # Values are read, not mapped, so that the memory of the process does not grow with the pages that it has seen.
        parts = self.parts or (self.path,)
        of_part = self.shape[0] // len(parts)
        count, found = math.prod(self.shape[1:]), []
        for number in range(first // of_part, (last - 1) // of_part + 1):
            low, high = max(first, number * of_part) - number * of_part, min(last - number * of_part, of_part)
            start = self.offset + low * self.row_bytes
            values = np.fromfile(parts[number], dtype=self.dtype, count=(high - low) * count, offset=start)
            found.append(values.reshape(high - low, *self.shape[1:]))
        return found[0] if len(found) == 1 else np.concatenate(found)

    def check_size(self, remedy: str) -> None:
        """Check that each file holds exactly the bytes of its values. The remedy ends the message.

        Raises
        ------
        ValueError
            If one does not.
        """
        parts = self.parts or (self.path,)
        if self.shape[0] % len(parts):
            msg = f"{self.path} names {len(parts)} files, which cannot hold {self.shape[0]} slices in equal parts"
            raise ValueError(msg)
        count = " × ".join(map(str, self.shape[::-1]))
        wanted = self.offset + self.shape[0] // len(parts) * self.row_bytes
        for part in parts:
            there = part.stat().st_size
            if self.offset < 0 or there != wanted:
                msg = (
                    f"{part} has {there} bytes, but {count} values of {np.dtype(self.dtype).itemsize} bytes after an "
                    f"offset of {self.offset} bytes are {wanted}"
                    + (f" in each of {len(parts)} files" if len(parts) > 1 else "")
                    + f"; {remedy}"
                )
                raise ValueError(msg)


@dataclass(frozen=True)
class Described:
    """The kernel that reads rows of the chosen part of raw values, and unpacks them."""

    raw: Raw
    selection: Selection
    packing: Packing

    @property
    def path(self) -> Path:
        """The file."""
        return self.raw.path

    def __call__(self, first: int, last: int) -> Array:
        """Return the rows from `first` to `last`."""
        values = self.raw(first, last)
        return self.packing.unpack(values[(slice(None), *self.selection.index[1:])])


def described(raw: Raw, selection: Selection, packing: Packing | None = None) -> Any:
    """Make a lazy array of the chosen part of raw values, after a check of the sizes of the files."""
    raw.check_size("the file was cut, or its header is that of another one")
    packing = packing or Packing.of({}, raw.dtype)
    while isinstance(number := selection.index[0], int) and not raw.parts:
        raw = replace(raw, shape=raw.shape[1:], offset=raw.offset + number * raw.row_bytes)
        selection = replace(selection, index=selection.index[1:])
    if isinstance(number, int):
        msg = f"{raw.path}: a channel or a time cannot be chosen if each slice is in a file of its own; give axes="
        raise ValueError(msg)
    return lazy_slabs(Described(raw, selection, packing), selection.shape, np.dtype(packing.dtype))


def unpacked(raw: Raw, packer: str, selection: Selection) -> Any:
    """Make an array of the chosen part of values that are packed as a whole, and are therefore loaded as a whole."""
    return as_lazy(loaded(raw, packer)[selection.index])


def loaded(raw: Raw, packer: str) -> Array:
    """Load values that are packed as a whole.

    Parameters
    ----------
    raw : Raw
        The file and what it holds when it is unpacked. The offset is that of the packed bytes.
    packer : {"zlib", "gzip", "bzip2", "text"}
        How the values are packed.

    Raises
    ------
    ValueError
        If they do not fit in memory, or are not as many as they should be.
    """
    wanted, free = raw.shape[0] * raw.row_bytes, int(psutil.virtual_memory().available)
    if wanted > free:
        msg = (
            f"{raw.path} is unpacked as a whole to {wanted} bytes, more than the {free} bytes of memory that are free; "
            "save it without compression, and it is read in slabs"
        )
        raise ValueError(msg)
    if packer == "text":
        values = np.fromstring(raw.path.read_bytes()[raw.offset :].decode("ascii"), dtype=raw.dtype, sep=" ")
        there = values.nbytes
    else:
        content = _inflated(raw, packer, wanted)
        there = len(content)
        values = np.frombuffer(content, dtype=raw.dtype) if there == wanted else np.empty(0)
    if there != wanted:
        count = " × ".join(map(str, raw.shape[::-1]))
        more = f"more than {wanted}" if there > wanted else f"{there}"
        msg = f"{raw.path} holds {more} bytes when it is unpacked, but {count} values are {wanted} bytes; it is damaged"
        raise ValueError(msg)
    return values.reshape(raw.shape)


def _inflated(raw: Raw, packer: str, wanted: int) -> bytes:
    """Unpack at most one byte more than is wanted."""
    with raw.path.open("rb") as file:
        file.seek(raw.offset)
        if packer == "gzip":
            with gzip.GzipFile(fileobj=file) as inner:
                return inner.read(wanted + 1)
        if packer == "bzip2":
            with bz2.BZ2File(file) as inner:
                return inner.read(wanted + 1)
        # Both a header of zlib and one of gzip are understood.
        engine, found, size = zlib.decompressobj(wbits=47), [], 0
        while size <= wanted and not engine.eof and (piece := file.read(PIECE)):
            found.append(engine.decompress(piece, wanted + 1 - size))
            size += len(found[-1])
        return b"".join(found)


def data_type(dtype: Any, order: str | None = None) -> str:
    """Spell a data type of raw values.

    Parameters
    ----------
    dtype : dtype
        The data type, such as "uint16".
    order : {"little", "big"}, optional
        Order of the bytes. By default it is that of `dtype`.

    Raises
    ------
    ValueError
        If there is no such data type.
    """
    try:
        found = np.dtype(dtype)
    except TypeError as error:
        msg = f"dtype={dtype!r} is no data type; the usual ones are uint8, uint16, int16, int32 and float32"
        raise ValueError(msg) from error
    return (found if order is None else found.newbyteorder("<" if order == "little" else ">")).str


def open_raw(path: Path, choice: Choice) -> Source:
    """Open a file that holds nothing but values, after an optional header of `offset` bytes.

    Parameters
    ----------
    path : path
        The file.
    choice : Choice
        Its shape, dtype, offset and axes are used. The shape is along x, y, z. By default x changes fastest.

    Raises
    ------
    ValueError
        If the dtype is missing, or the file does not hold exactly so many bytes.
    """
    choice.check(path, "shape", "dtype", "offset")
    shape = choice.shape or ()
    if choice.dtype is None:
        msg = f"{path} holds raw values, whose data type it does not say; give dtype=, such as 'uint16' or '>u2'"
        raise ValueError(msg)
    dtype = np.dtype(choice.dtype)
    if dtype.kind not in "biuf":
        msg = f"dtype={choice.dtype!r} of {path} must be a real number, such as 'uint16'"
        raise ValueError(msg)
    axes = choice.axes or "xyz"[: len(shape)][::-1]
    if sorted(axes) != sorted("xyz"[: len(shape)]):
        msg = f"axes={axes!r} of {path} must name the {len(shape)} axes that shape={shape} names, such as 'zyx'"
        raise ValueError(msg)
    kernel = Raw(path, tuple(shape["xyz".index(axis)] for axis in axes), dtype.str, choice.offset or 0)
    kernel.check_size("mend shape=, dtype= or offset=")
    return Source(lazy_slabs(kernel, kernel.shape, dtype), axes, {}, format="raw")
