"""Axes by the names that files give them, in any case: space, samples, channels and times. One channel is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mksdask.arrays import Array
from mksdask.importers.sources import Choice, array_axes, assumed_axes
from mksdask.schema.units import in_one_unit, length_unit

# Names of axes in lower case, and the letter of each. One channel "c" and one time "t" of a file are read.
LETTERS = {
    **{letter: letter for letter in "xyzct"},
    **dict.fromkeys(("sample", "samples"), "s"),
    **dict.fromkeys(("channel", "channels"), "c"),
    **dict.fromkeys(("time", "times"), "t"),
}
# Parts of names of attributes that look like voxel sizes.
SIZES = ("spacing", "voxel", "pixel", "resolution", "scale", "element_size")
# A shift that is a smaller share of a voxel is rounding.
SAME_PLACE = 1e-6
# Steps between coordinates that differ by more than this share are told.
UNEVEN = 1e-3
# What HyperSpy writes in the place of a name or a unit that is not known.
UNKNOWN = ("_None_", "<undefined>")


@dataclass(frozen=True)
class Selection:
    """The part of an array that is read.

    Parameters
    ----------
    index : tuple of slice or int
        The whole axes, and the number along each other axis.
    axes : str
        Letters of the axes that are left.
    shape : tuple of int
        Shape of the part.
    assumed : tuple of str
        What was assumed of the axes.
    """

    index: tuple[slice | int, ...]
    axes: str
    shape: tuple[int, ...]
    assumed: tuple[str, ...] = ()

    @property
    def spatial(self) -> list[tuple[int, str]]:
        """The axes x, y, z that are left: their numbers in the whole array, and their letters."""
        kept = [i for i, part in enumerate(self.index) if isinstance(part, slice)]
        return [(i, axis) for i, axis in zip(kept, self.axes, strict=True) if axis in "xyz"]

    def read(self, array: Array, first: int, last: int) -> Array:
        """Read the rows from `first` to `last` along the first axis that stays."""
        index, is_done = [], False
        for part in self.index:
            is_rows = isinstance(part, slice) and not is_done
            index.append(slice(first, last) if is_rows else part)
            is_done = is_done or is_rows
        return np.asarray(array[tuple(index)])


def select(
    names: Sequence[str | None] | None, shape: Sequence[int], choice: Choice, path: Path, *, default: str | None = None
) -> Selection:
    """Choose the part of an array that is one image, by the names of its axes.

    Parameters
    ----------
    names : sequence of str or None
        Names of the axes. None if the file does not name them.
    shape : sequence of int
        Shape of the array.
    choice : Choice
        The channel and the time, and the axes if the caller names them.
    path : path
        The file, for messages.
    default : str, optional
        The axes that are assumed of a file that does not name them. Default: x, y, z.

    Raises
    ------
    ValueError
        If there are several channels or times, and none is chosen; or if there is no such channel or time.
    """
    shape = tuple(int(n) for n in shape)
    whole = (slice(None),) * len(shape)
    letters = [LETTERS.get(str(name).lower()) for name in names or ()]
    is_known = (
        [letter is not None or n == 1 for letter, n in zip(letters, shape, strict=False)]
        if len(letters) == len(shape)
        else []
    )
    known = [letter for letter in letters if letter is not None]
    if not is_known or not all(is_known) or len(set(known)) < len(known) or not {*known} & {*"xyz"}:
        for name, chosen in (("channel", choice.channel), ("time", choice.time)):
            if chosen is not None:
                msg = f"{path} has no axis that is called {name}, so {name}={chosen} says nothing; leave it out"
                raise ValueError(msg)
        axes = default or array_axes(len(shape))
        reason = f", because the file calls them {', '.join(map(str, names))}" if names and any(names) else ""
        return Selection(whole, axes, shape, assumed_axes(axes, reason))
    if choice.axes is not None and len(choice.axes) == len(shape):
        # The names of the caller may say that channels or times are samples.
        return Selection(whole, "".join(letter or "?" for letter in letters), shape)
    index: list[slice | int] = []
    for letter, n in zip(letters, shape, strict=True):
        if letter is None:
            index.append(0)
        elif letter in "ct":
            index.append(_chosen(n, "channel" if letter == "c" else "time", choice, path))
        else:
            index.append(slice(None))
    for letter, name, chosen in (("c", "channel", choice.channel), ("t", "time", choice.time)):
        if chosen is not None and letter not in letters:
            msg = f"{path} has no axis of {name}s, so {name}={chosen} says nothing; leave it out"
            raise ValueError(msg)
    kept = [i for i, part in enumerate(index) if isinstance(part, slice)]
    return Selection(tuple(index), "".join(str(letters[i]) for i in kept), tuple(shape[i] for i in kept))


def _chosen(n: int, name: str, choice: Choice, path: Path) -> int:
    """Return the number of the channel or of the time that is read."""
    number = choice.channel if name == "channel" else choice.time
    if number is None and n > 1:
        msg = f"{path} holds {n} {name}s; choose one of them by {name}=, from 0 to {n - 1}"
        raise ValueError(msg)
    if not 0 <= (number or 0) < n:
        msg = f"{path} holds {n} {name}s, so {name}={number} must lie within 0 and {n - 1}"
        raise ValueError(msg)
    return number or 0


def even_step(coordinates: Array, axis: str) -> tuple[float, tuple[str, ...]]:
    """Compute the step of coordinates along an axis, and say so if it is the mean of steps that differ."""
    steps = np.diff(np.asarray(coordinates, dtype=float))
    mean = float(np.mean(steps))
    if not np.isfinite(mean) or mean == 0:
        return 1.0, (f"spacing 1 along {axis} assumed, because its coordinates do not rise; say spacing=",)
    if np.abs(steps - mean).max() > UNEVEN * abs(mean):
        between = f"the mean of steps from {steps.min():g} to {steps.max():g}"
        return mean, (f"spacing {mean:g} along {axis} assumed, {between}; say spacing=",)
    return mean, ()


def axes_of_hyperspy(groups: Sequence[Mapping[str, Any]], shape: Sequence[int]) -> list[dict[str, Any]]:
    """Take what HyperSpy writes in a group for each axis, without what is not known.

    Parameters
    ----------
    groups : sequence of mapping
        Attributes of the groups beside an array. Uneven axes have their coordinates under the key ``axis``.
    shape : sequence of int
        Shape of the array.

    Returns
    -------
    list of dict
        The name, units, scale and offset of each axis, or its coordinates. The list is empty if the groups are not
        those of HyperSpy.
    """
    lengths = [
        len(each["axis"]) if "axis" in each else each.get("size") if "scale" in each else None for each in groups
    ]
    if lengths != list(shape):
        return []
    return [{key: value for key, value in group.items() if str(value) not in UNKNOWN} for group in groups]


def sizes_of_hyperspy(
    axes: Mapping[str, Mapping[str, Any]],
) -> tuple[dict[str, float], dict[str, float], dict[str, Any], tuple[str, ...]]:
    """Read voxel sizes that HyperSpy wrote.

    Parameters
    ----------
    axes : dict
        What `axes_of_hyperspy` found along x, y, z.

    Returns
    -------
    sizes, places, units : dict
        Voxel size along each axis, position of the first voxel, and unit. They are empty if all sizes are 1 without a
        unit, which HyperSpy writes if it does not know them.
    told : tuple of str
        What was assumed.
    """
    sizes: dict[str, float] = {}
    places: dict[str, float] = {}
    told: tuple[str, ...] = ()
    for axis, said in axes.items():
        if "axis" in said:
            places[axis] = float(said["axis"][0])
            sizes[axis], more = even_step(said["axis"], axis)
            told += more
        else:
            sizes[axis], places[axis] = float(said["scale"]), float(said.get("offset", 0))
    units = {axis: said["units"] for axis, said in axes.items() if "units" in said}
    return (sizes, places, units, told) if units or {*sizes.values()} != {1.0} else ({}, {}, {}, told)


def unread_sizes(*attributes: Mapping[str, Any]) -> tuple[str, ...]:
    """Say which attributes look like voxel sizes, but are not read because they follow no standard."""
    found = {str(key) for attrs in attributes for key in attrs}
    unread = sorted(key for key in found if any(word in key.lower() for word in SIZES) and key != "scale_factor")
    if not unread:
        return ()
    return (f"spacing 1 assumed, because the attributes {', '.join(unread)} follow no standard; say spacing=",)


def sized(
    steps: Mapping[str, float], stated: Mapping[str, Any], choice: Choice, path: Path | str
) -> tuple[dict[str, float], str | None, tuple[str, ...]]:
    """Convert the voxel sizes of a file to one unit.

    Parameters
    ----------
    steps : dict
        Voxel size along each axis for which the file states it.
    stated : dict
        Unit of each axis, as the file states it.
    choice : Choice
        Says whether the caller gives the voxel sizes, so that those of the file need not be understood.
    path : path
        The file, for messages.

    Returns
    -------
    steps, unit
        As of `in_one_unit`. A unit that is no known length is left out.
    told : tuple of str
        What was left out.

    Raises
    ------
    ValueError
        If some axes have a unit and others have none.
    """
    units: dict[str, str | None] = {}
    for axis in steps:
        try:
            units[axis] = length_unit(stated.get(axis), where=str(path))
        except ValueError:
            text = f"unit {str(stated[axis])!r} along {axis} is no known length and is left out; say units="
            return dict(steps), None, (text,)
    try:
        return *in_one_unit(steps, units), ()
    except ValueError as error:
        if choice.has_spacing:
            return {}, None, ()
        msg = f"{path}: {error}"
        raise ValueError(msg) from error


def placed(places: Mapping[str, float], stated: Mapping[str, float], steps: Mapping[str, float]) -> dict[str, float]:
    """Convert the position of the first voxel to the unit of the steps.

    Parameters
    ----------
    places : dict
        Position along each axis for which the file states it.
    stated : dict
        Voxel size along each axis, as the file states it.
    steps : dict
        The same in the unit of the steps, as of `sized`.

    Returns
    -------
    dict
        The position, or nothing if it is 0.
    """
    found = {
        axis: float(place) * (abs(steps[axis] / stated[axis]) if stated.get(axis) and axis in steps else 1.0)
        for axis, place in places.items()
    }
    return found if any(abs(place) > SAME_PLACE * abs(steps.get(axis, 1.0)) for axis, place in found.items()) else {}
