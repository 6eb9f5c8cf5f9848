"""Raw voxels: files of numbers without a description, whose shape and data type the caller knows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mksdask.arrays import Array
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
    """

    path: Path
    shape: tuple[int, ...]
    dtype: str
    offset: int = 0

    def __call__(self, first: int, last: int) -> Array:
        """Return the rows from `first` to `last`."""
        # Values are read, not mapped, so that the memory of the process does not grow with the pages that it has seen.
        row = int(np.prod(self.shape[1:]))
        start = self.offset + first * row * np.dtype(self.dtype).itemsize
        values = np.fromfile(self.path, dtype=self.dtype, count=(last - first) * row, offset=start)
        return values.reshape(last - first, *self.shape[1:])


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
    dtype, offset = np.dtype(choice.dtype), choice.offset or 0
    if dtype.kind not in "biuf":
        msg = f"dtype={choice.dtype!r} of {path} must be a real number, such as 'uint16'"
        raise ValueError(msg)
    axes = choice.axes or "xyz"[: len(shape)][::-1]
    if sorted(axes) != sorted("xyz"[: len(shape)]):
        msg = f"axes={axes!r} of {path} must name the {len(shape)} axes that shape={shape} names, such as 'zyx'"
        raise ValueError(msg)
    wanted, there = offset + int(np.prod(shape, dtype=object)) * dtype.itemsize, path.stat().st_size
    if offset < 0 or wanted != there:
        count = " × ".join(map(str, shape))
        msg = (
            f"{path} has {there} bytes, but {count} values of {dtype.itemsize} bytes after an offset of {offset} "
            f"bytes are {wanted}; mend shape=, dtype= or offset="
        )
        raise ValueError(msg)
    in_file = tuple(shape["xyz".index(axis)] for axis in axes)
    kernel = Raw(path, in_file, dtype.str, offset)
    return Source(lazy_slabs(kernel, in_file, dtype), axes, {}, format="raw")
