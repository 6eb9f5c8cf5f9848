"""Many files of pictures as slices of one image."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mksdask.arrays import Array
from mksdask.importers.formats.picture_files import pillow_picture
from mksdask.importers.formats.pictures import Picture
from mksdask.importers.formats.tiff_files import tiff_picture
from mksdask.importers.sources import Choice, Source, lazy_slabs, reading

TIFFS = (".tif", ".tiff", ".lsm", ".btf", ".tf8", ".stk")
PICTURES = (".png", ".apng", ".jpg", ".jpeg", ".jpe", ".bmp", ".dib", ".gif", ".webp", ".jp2")
# Files that scanners, cameras and systems leave beside images.
_BESIDE = (".txt", ".log", ".md", ".xml", ".json", ".csv", ".ini", ".inf", ".db", ".pdf", ".html")


@dataclass(frozen=True)
class _Joined:
    """The kernel that reads slices from the files of pictures, of which each holds one slice or several.

    Parameters
    ----------
    files : tuple of path
        The file of each slice.
    reads : tuple of callable
        The kernel of each file.
    starts : tuple of int
        Number of the first slice of each file, and the number of all slices.
    shape, dtype
        A slice.
    is_flat : bool
        Whether a file holds one slice, without an axis along which slices are counted.
    """

    files: tuple[Path, ...]
    reads: tuple[Any, ...]
    starts: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: Any
    is_flat: bool

    def __call__(self, first: int, last: int) -> Array:
        slab = np.empty((last - first, *self.shape), dtype=self.dtype)
        number = int(np.searchsorted(self.starts, first, side="right")) - 1
        while number < len(self.reads) and self.starts[number] < last:
            start, end = self.starts[number : number + 2]
            low, high = max(first, start), min(last, end)
            slices = (
                self.reads[number](0, self.shape[0])[None]
                if self.is_flat
                else self.reads[number](low - start, high - start)
            )
            if slices.shape[1:] != self.shape:
                msg = f"{self.files[low]} changed while it was read: a slice has the shape {slices.shape[1:]} now"
                raise ValueError(msg)
            slab[low - first : high - first] = slices
            number += 1
        return slab


def open_picture(path: Path, choice: Choice) -> Source:
    """Open one file of pictures, which may be a stack."""
    return picture_of(path, choice).source()


def open_sequence(files: Sequence[Path], choice: Choice) -> Source:
    """Open a sequence of pictures as slices along z.

    Parameters
    ----------
    files : sequence of path
        Files of TIFF, PNG, JPEG, BMP, GIF or WebP, in the order of the slices. Each may hold several slices.
    choice : Choice
        What to read of each file.

    Returns
    -------
    Source
        The image. Only the headers of the files are read.

    Raises
    ------
    ValueError
        If a file differs from most of the others in size, dtype, format, spacing, or number of slices. It is named.
    """
    _refuse_order_of_shell(files)
    pictures = [picture_of(file, replace(choice, axes=None)) for file in files]
    for picture in pictures:
        if any(file != picture.path for file in getattr(picture.read, "files", ())):
            msg = f"{picture.path} holds pages of other files too, as its OME metadata say; import it alone"
            raise ValueError(msg)
    check_alike(pictures, "slices")
    first = pictures[0]
    is_flat = len(first.axes) == 2
    counts = [1 if is_flat else picture.shape[0] for picture in pictures]
    starts = np.concatenate([[0], np.cumsum(counts)])
    owners = tuple(file for file, n in zip(files, counts, strict=True) for _ in range(n))
    shape = first.shape if is_flat else first.shape[1:]
    read = _Joined(
        owners, tuple(picture.read for picture in pictures), tuple(starts.tolist()), shape, first.dtype, is_flat
    )
    told = list(dict.fromkeys(each for picture in pictures for each in picture.assumed))
    if not is_flat:
        told.append(f"{len(files)} files of several slices each are joined along z; say join=")
    axes = choice.axes if choice.axes is not None and len(choice.axes) == 3 else "zyx"
    return Source(
        lazy_slabs(read, (int(starts[-1]), *shape), first.dtype),
        axes,
        dict(first.spacing),
        first.units,
        (*told[:6], *_gaps(files)),
        origin=dict(first.origin),
    )


def picture_of(path: Path, choice: Choice) -> Picture:
    """Read the header of a picture.

    Raises
    ------
    ValueError
        If it is no picture.
    """
    suffix = path.suffix.lower()
    if suffix not in (*TIFFS, *PICTURES):
        msg = f"{path} is no picture, but one of several files that are joined as slices; leave it out by a pattern"
        raise ValueError(msg)
    with reading(path):
        return (tiff_picture if suffix in TIFFS else pillow_picture)(path, choice)


def check_alike(pictures: Sequence[Picture], what: str) -> None:
    """Refuse pictures that differ from most of the others, which are `what`.

    Raises
    ------
    ValueError
        If some differ. The first of them is named, with what it is.
    """
    heads = [
        (
            picture.shape if what == "samples" else picture.shape[-2:],
            str(picture.dtype),
            picture.kind,
            len(picture.shape),
            tuple(sorted(picture.spacing.items())),
            picture.units,
        )
        for picture in pictures
    ]
    usual, n = Counter(heads).most_common(1)[0]
    if n == len(heads):
        return
    names = ("size", "dtype", "format", "number of axes", "spacing", "units")
    number = next(i for i, head in enumerate(heads) if head != usual)
    differing = [
        f"{name} {_text(name, got)} instead of {_text(name, most)}"
        for name, got, most in zip(names, heads[number], usual, strict=True)
        if got != most
    ]
    rest = f", and {len(heads) - n - 1} more differ" if len(heads) - n > 1 else ""
    msg = (
        f"{pictures[number].path} does not belong to the other {what}: {', '.join(differing)}{rest}; all must be "
        "alike; take it out of the folder, or choose files by a pattern (--pattern)"
    )
    raise ValueError(msg)


def _text(name: str, value: Any) -> str:
    """Write a part of a header."""
    if name == "size":
        return "x".join(map(str, value[::-1]))
    return str(dict(value)) if name == "spacing" else str(value)


def folder_pictures(
    folder: Path, pattern: str | None = None, *, are_slices: bool = True
) -> tuple[list[Path], tuple[str, ...]]:
    """List the pictures of a folder in the order of their numbers.

    Parameters
    ----------
    folder : path
        A folder of pictures. Hidden files are passed over.
    pattern : str, optional
        Pattern of the names to take, such as "slice*.tif". Other files are left out then.
    are_slices : bool
        Whether the pictures are slices of one image. Samples may have any names.

    Returns
    -------
    files : list of path
        The pictures. There are none if the folder holds none. If `pattern` matches no picture, other files.
    assumed : tuple of str
        What was left out.

    Raises
    ------
    ValueError
        If a file does not belong to the others: an image of another format, or a name that differs from theirs in more
        than its number.
    """
    found = sorted(
        (file for file in folder.glob(pattern or "*") if not file.name.startswith(".") and not file.is_dir()),
        key=natural,
    )
    files = [file for file in found if file.suffix.lower() in (*TIFFS, *PICTURES)]
    if not files:
        return (found if pattern else []), ()
    formats = Counter(_format(file) for file in files)
    usual = formats.most_common(1)[0][0]
    strange = [file for file in files if _format(file) != usual]
    strange += [file for file in found if file not in files and file.suffix.lower() not in _BESIDE and file.is_file()]
    if strange:
        raise ValueError(_foreign(strange, f"the others are {usual} files", folder))
    texts = Counter(_words(file) for file in files)
    usual_text = texts.most_common(1)[0][0]
    if are_slices and len(texts) > 1 and any(_numbers(file) for file in files):
        strange = [file for file in files if _words(file) != usual_text]
        like = next(file.name for file in files if _words(file) == usual_text)
        raise ValueError(_foreign(strange, f"its name differs from {like} in more than its number", folder))
    left = [file.name for file in found if file not in files]
    if not left:
        return files, ()
    listed = ", ".join(left[:3]) + (", …" if len(left) > 3 else "")
    return files, (f"left out of the folder, because they are no pictures: {listed}; say pattern=",)


def _format(file: Path) -> str:
    """Name the format of a picture by its suffix."""
    suffix = file.suffix.lower().lstrip(".")
    return {"tif": "tiff", "jpg": "jpeg", "jpe": "jpeg", "dib": "bmp"}.get(suffix, suffix)


def _foreign(strange: Sequence[Path], why: str, folder: Path) -> str:
    """Say which file does not belong to the others."""
    rest = f", nor do {len(strange) - 1} more" if len(strange) > 1 else ""
    return (
        f"{strange[0]} does not belong to the slices in {folder}{rest}: {why}; take it out of the folder, or choose "
        "files by a pattern (--pattern 'slice*.tif')"
    )


def natural(path: Path) -> list[Any]:
    """Sort key by which slice2 comes before slice10."""
    parts = "".join(sign if sign.isdigit() else f" {sign} " for sign in path.name).split()
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]


def _words(file: Path) -> str:
    """Take the name of a file without its numbers."""
    return re.sub(r"\d+", "#", file.stem.lower())


def _numbers(file: Path) -> list[int]:
    """Take the numbers in the name of a file."""
    return [int(number) for number in re.findall(r"\d+", file.stem)]


def _refuse_order_of_shell(files: Sequence[Path]) -> None:
    """Refuse files in the order of their letters, as a shell gives them, if their numbers are in another order.

    Raises
    ------
    ValueError
        If slice10 comes before slice2.
    """
    letters = [str(file) for file in files]
    if len(files) > 2 and letters == sorted(letters) and list(files) != sorted(files, key=natural):
        at = next(i for i, (a, b) in enumerate(pairwise(files)) if natural(a) > natural(b))
        msg = (
            f"{files[at].name} comes before {files[at + 1].name}, in the order of letters and not of numbers; give the "
            "folder, or the pattern in quotes, such as 'slices/*.tif'"
        )
        raise ValueError(msg)


def _gaps(files: Sequence[Path]) -> tuple[str, ...]:
    """Say which numbers are missing in the names of slices."""
    numbers = [_numbers(file) for file in files]
    if len({_words(file) for file in files}) > 1 or not numbers[0]:
        return (f"the files are not numbered alike; they are joined as {_some(files)}; say pattern=",)
    columns = np.array(numbers, dtype=object).T
    varying = [column for column in columns if len(set(column)) > 1]
    counted = next((column for column in varying[::-1] if len(set(column)) == len(files)), None)
    if counted is None:
        return (f"the names of the files count along several axes; they are joined as {_some(files)}; say pattern=",)
    steps = [abs(after - before) for before, after in pairwise(counted)]
    usual = math.gcd(*steps) if len(varying) == 1 else min(steps)
    gaps = [i for i, step in enumerate(steps) if step > usual]
    if not gaps or (len(varying) > 1 and len(gaps) > 1):
        return ()
    n_missing = sum(steps[i] // usual - 1 for i in gaps)
    told = f"{n_missing} of the numbers of slices are missing, the first after {files[gaps[0]].name}"
    return (f"{told}; slices beside a gap are joined as neighbours",)


def _some(files: Sequence[Path]) -> str:
    """Name the first files and the last one."""
    names = [file.name for file in files]
    return ", ".join(names if len(names) <= 3 else [*names[:2], "…", names[-1]])
