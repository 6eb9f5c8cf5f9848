"""Headers of images whose voxels follow or lie beside them. In all of these formats x changes fastest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mksdask.importers.sources import Choice, checked_place

# Headers are texts of a few hundred bytes.
HEADER_BYTES = 2**20
# A turn of the axes in space that is smaller than this is rounding.
SAME_DIRECTION = 1e-4


def numbers_in(text: str, kind: Any, path: Path, field: str) -> list[Any]:
    """Read the numbers of a field of a header."""
    try:
        return [kind(number) for number in text.split()]
    except ValueError as error:
        msg = f"{path}: {field} of the header is {text!r}, expected numbers"
        raise ValueError(msg) from error


def checked_sizes(sizes: Sequence[int], n_axes: int, path: Path) -> tuple[int, ...]:
    """Check the numbers of voxels, and return them in the order of the file, in which the fastest axis is the last."""
    if len(sizes) != n_axes or not 1 <= n_axes <= 5 or min(sizes) < 1:
        msg = f"{path}: the header names the sizes {list(sizes)} of {n_axes} axes, expected up to 5 positive ones"
        raise ValueError(msg)
    return tuple(sizes[::-1])


def axes_of(n_axes: int) -> tuple[list[str] | None, str | None]:
    """Name the axes of a header that does not, and of more than three say which are assumed."""
    return (list("xyz"[:n_axes][::-1]), None) if n_axes <= 3 else (None, "?" * (n_axes - 4) + "szyx")


def turned(directions: Any, names: str) -> tuple[str, ...]:
    """Say that a file turns the axes of its voxels in space, if it does."""
    with np.errstate(invalid="ignore"):
        unit = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    if np.allclose(unit, np.eye(len(unit)), atol=SAME_DIRECTION):
        return ()
    return (f"directions of the axes {names} left out, which the file turns or mirrors in space; say axes=",)


def files_beside(text: str, path: Path, choice: Choice, listed: Sequence[str]) -> tuple[Path, ...]:
    """List the files of values that a header names: one, a list in the header, or a pattern with its numbers."""
    words = text.split()
    if words[:1] == ["LIST"]:
        names = [name for name in listed if name.strip()]
    elif len(words) >= 4 and "%" in words[0]:
        low, high, step = numbers_in(" ".join(words[1:4]), int, path, "the names of files")
        if not re.fullmatch(r"[^%]*%0?\d*d[^%]*", words[0]) or step == 0 or not 0 < (high - low) / step + 1 <= 10**6:
            msg = f"{path} names its values by the pattern {text!r}, expected one number such as %03d, and its range"
            raise ValueError(msg)
        names = [words[0] % number for number in range(low, high + (1 if step > 0 else -1), step)]
    else:
        names = [text]
    return tuple(
        checked_place(n.strip(), path, "its header", path.parent, follow_links=choice.follow_links) for n in names
    )


def head_of(path: Path) -> bytes:
    """Read the part of a file in which its header ends."""
    with path.open("rb") as file:
        return file.read(HEADER_BYTES)
