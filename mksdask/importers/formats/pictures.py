"""What is known of a picture, or of a stack of pictures, before its values are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mksdask.arrays import Array
from mksdask.importers.sources import Source, lazy_slabs

# Names of the channels of colours, by their number.
COLOURS = {2: ("grey", "alpha"), 3: ("red", "green", "blue"), 4: ("red", "green", "blue", "alpha")}
# So many dots per inch and fewer are the resolution of a printer, a screen or a camera, and not that of a microscope.
MOST_DOTS = 2400


@dataclass(frozen=True)
class Picture:
    """A file of pictures that is opened, but of which only the header is read.

    Parameters
    ----------
    path : path
        The file.
    read : callable
        ``read(first, last)`` returns the rows from `first` to `last` of the first axis. It can be pickled.
    shape : tuple of int
        Number of voxels along each axis.
    dtype : dtype
        dtype of the values.
    axes : str
        "yx", "zyx", or what the caller names.
    spacing, units, assumed, origin
        As in `Source`.
    kind : str
        Format of the file, such as "PNG".
    is_whole : bool
        Whether the file is decoded as a whole, whatever is read of it.
    """

    path: Path
    read: Callable[[int, int], Array]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axes: str
    spacing: dict[str, float] = field(default_factory=dict)
    units: str | None = None
    assumed: tuple[str, ...] = ()
    kind: str = "TIFF"
    is_whole: bool = False
    origin: dict[str, float] = field(default_factory=dict)

    def source(self) -> Source:
        """Make a lazy array of the picture."""
        if self.is_whole:
            data = lazy_slabs(_Whole(self.path, self.read, self.shape[0]), (1, *self.shape), self.dtype)[0]
        else:
            data = lazy_slabs(self.read, self.shape, self.dtype)
        return Source(data, self.axes, dict(self.spacing), self.units, self.assumed, origin=dict(self.origin))


@dataclass(frozen=True)
class _Whole:
    """The kernel that reads a picture as one row."""

    path: Path
    read: Callable[[int, int], Array]
    n_rows: int

    def __call__(self, first: int, last: int) -> Array:
        return self.read(0, self.n_rows)[None]


def one_channel(values: Array, path: Path, channel: int | None) -> Array:
    """Take one channel of pictures, (..., n_channels), or the grey level that all channels of colour have in common.

    Parameters
    ----------
    values : array, shape (..., n_channels)
        Pictures.
    path : path
        The file, for the message.
    channel : int or None
        Number of the channel.

    Raises
    ------
    ValueError
        If no channel is chosen, and the channels differ.
    """
    n = values.shape[-1]
    if channel is not None:
        return values[..., channel]
    n_colours = n - 1 if n in (2, 4) else n
    if n > 4 or not all(np.array_equal(values[..., 0], values[..., i]) for i in range(1, n_colours)):
        names = ", ".join(f"{i}: {name}" for i, name in enumerate(COLOURS.get(n, map(str, range(n)))))
        msg = (
            f"{path} has colours, in {n} channels ({names}); choose one by channel= (--channel), or convert the "
            "picture to grey levels"
        )
        raise ValueError(msg)
    return values[..., 0]


def checked_number(name: str, number: int | None, n: int, path: Path) -> int | None:
    """Check the number of a part that a caller chose of `n` parts, such as a channel. None stays None.

    Raises
    ------
    ValueError
        If there is no such part.
    """
    if number is not None and not 0 <= number < n:
        msg = f"{name}={number} must be a number from 0 to {n - 1}, because {path} has {n} of this kind"
        raise ValueError(msg)
    return number


def spacing_of_dots(dots: dict[str, float]) -> tuple[dict[str, float], str | None, tuple[str, ...]]:
    """Take a resolution in dots per inch for the size of voxels, or leave it out if it is that of a printer.

    Parameters
    ----------
    dots : dict
        Dots per inch along x and y.

    Returns
    -------
    spacing : dict
        Voxel size along x and y in micrometres.
    units : str or None
        Their unit.
    assumed : tuple of str
        What was left out.
    """
    dots = {axis: number for axis, number in dots.items() if number > 0}
    steps = {axis: float(f"{2.54e4 / number:.12g}") for axis, number in dots.items()}
    if not dots or max(dots.values()) <= 1:
        return {}, None, ()
    if max(dots.values()) <= MOST_DOTS:
        number = round(max(dots.values()), 2)
        told = (
            f"a resolution of {number:g} dots per inch is taken for that of a printer, a screen or a camera, and "
            f"left out; if voxels have {steps['x' if 'x' in steps else 'y']:.4g} µm, say spacing="
        )
        return {}, None, (told,)
    return steps, "um", ()
