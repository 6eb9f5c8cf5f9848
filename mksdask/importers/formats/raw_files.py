"""Raw voxels: values without a description, whose shape and data type the caller or a header beside them states."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from mksdask.arrays import Array
from mksdask.importers.formats.dims import Selection
from mksdask.importers.formats.packing import Packing
from mksdask.importers.sources import Choice, Source, lazy_slabs


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

    def of_first(self, number: int) -> Self:
        """Return what has one number along the first axis, which is gone then."""
        return replace(self, shape=self.shape[1:], offset=self.offset + number * self.row_bytes)

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
        raw = raw.of_first(number)
        selection = replace(selection, index=selection.index[1:])
    if isinstance(number, int):
        msg = f"{raw.path}: a channel or a time cannot be chosen if each slice is in a file of its own; give axes="
        raise ValueError(msg)
    return lazy_slabs(Described(raw, selection, packing), selection.shape, np.dtype(packing.dtype))


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
