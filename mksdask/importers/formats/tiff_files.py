"""TIFF files: pages, series, channels and times, read page by page, or row by row of a large page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from mksdask.arrays import Array
from mksdask.importers.formats.lzw import check_codes
from mksdask.importers.formats.pictures import Picture, checked_number, one_channel
from mksdask.importers.formats.tiff_opening import check_chain, opened_tiff
from mksdask.importers.formats.tiff_sizes import Sizes, ome_images, tiff_origin, tiff_sizes
from mksdask.importers.sources import Choice

# Words for the axes, as tifffile calls them, that are neither x, y nor z.
_AXES = {"T": "time", "C": "channel", "S": "channel", "E": "channel"}
# Axes of pages about which a file does not say what they are.
_UNNAMED = "IQ"


@dataclass(frozen=True)
class _Contiguous:
    """The kernel that reads rows of an image that is stored in one piece, as in a file of raw values.

    Parameters
    ----------
    path : path
        The file.
    offset, shape, dtype
        The image in the file.
    before : tuple of int or None
        For each axis, the number that is chosen of it. None stands for all.
    channel : int or None
        Number of the channel of the last axis, if there is one.
    has_channels : bool
        Whether the last axis holds channels.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: str
    before: tuple[int | None, ...]
    channel: int | None = None
    has_channels: bool = False

    def __call__(self, first: int, last: int) -> Array:
        whole = np.memmap(self.path, self.dtype, "r", self.offset, self.shape)
        rows = whole[tuple(slice(None) if number is None else number for number in self.before)][first:last]
        rows = one_channel(rows, self.path, self.channel) if self.has_channels else rows
        return np.array(rows, dtype=rows.dtype.newbyteorder("="))


@dataclass(frozen=True)
class _Pages:
    """The kernel that reads pages of TIFF files: one page for each row, or several.

    Parameters
    ----------
    files : tuple of path
        The file of each page.
    numbers : tuple of int
        Number of each page in its file.
    shape, dtype
        A page.
    channels : int or None
        Axis of a page that holds channels.
    channel : int or None
        Number of the channel that is read.
    inner : tuple of int
        Number of pages of a row, along each axis. There are none if a row is one page.
    """

    files: tuple[Path, ...]
    numbers: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: Any
    channels: int | None = None
    channel: int | None = None
    inner: tuple[int, ...] = ()

    def __call__(self, first: int, last: int) -> Array:
        n_pages, n_rows = int(np.prod(self.inner, dtype=int)), last - first
        first, last = first * n_pages, last * n_pages
        inside = [n for axis, n in enumerate(self.shape) if axis != self.channels]
        slab = np.empty((last - first, *inside), dtype=self.dtype)
        for _, numbers in groupby(range(first, last), key=lambda number: self.files[number]):
            # Pages that follow each other in one file are read from one open file.
            pages = list(numbers)
            with opened_tiff(self.files[pages[0]]) as file:
                for number in pages:
                    slab[number - first] = self._page(file, number)
        return slab.reshape(n_rows, *self.inner, *inside)

    def _page(self, file: tifffile.TiffFile, number: int) -> Array:
        found = file.pages[self.numbers[number]]
        _check_strips(found, self.files[number])
        check_codes(found, self.files[number])
        page = np.asarray(found.asarray()).reshape(self.shape)
        if self.channels is None:
            return page
        return one_channel(np.moveaxis(page, self.channels, -1), self.files[number], self.channel)


@dataclass(frozen=True)
class _Rows:
    """The kernel that reads rows of one page, of which it decodes only the strips or tiles that hold them.

    Parameters
    ----------
    path : path
        The file.
    number : int
        Number of the page.
    channels : bool
        Whether a page has an axis of channels.
    channel : int or None
        Number of the channel that is read.
    """

    path: Path
    number: int
    channels: bool = False
    channel: int | None = None

    def __call__(self, first: int, last: int) -> Array:
        with opened_tiff(self.path) as file:
            page = file.pages.get(self.number)
            _check_strips(page, self.path)
            check_codes(page, self.path)
            n_planes, _, length, width, n_samples = page.shaped
            high = page.tilelength if page.is_tiled else min(page.rowsperstrip or length, length)
            across = -(-width // page.tilewidth) if page.is_tiled else 1
            down = -(-length // high)
            rows = np.zeros((n_planes, last - first, width, n_samples), dtype=page.dtype)
            for index, (offset, n_bytes) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True)):
                start = index % (across * down) // across * high
                if start >= last or start + high <= first or not n_bytes:
                    continue
                file.filehandle.seek(offset)
                data = file.filehandle.read(n_bytes)
                segment, (plane, _, y, x, _), _ = page.decode(data, index, **_tables(page))
                if segment is None:
                    continue
                low, top = max(first, y), min(last, y + segment.shape[1], length)
                rows[plane, low - first : top - first, x : x + segment.shape[2]] = segment[
                    0, low - y : top - y, : width - x
                ]
        if not self.channels:
            return rows.reshape(last - first, width)
        flat = np.moveaxis(rows, 0, -2).reshape(last - first, width, -1)
        return one_channel(flat, self.path, self.channel)


@dataclass(frozen=True)
class _Inside:
    """The kernel that reads slices that are all in one page."""

    pages: _Pages

    def __call__(self, first: int, last: int) -> Array:
        return self.pages(0, 1)[0, first:last]


def _tables(page: Any) -> dict[str, Any]:
    """Give what the decoder of JPEG needs beside the data."""
    return {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader} if page.compression in (6, 7) else {}


def tiff_picture(path: Path, choice: Choice) -> Picture:
    """Read the header of a TIFF file.

    Parameters
    ----------
    path : path
        The file.
    choice : Choice
        The series, the channel and the time to read, and the names of axes that the file does not name.

    Returns
    -------
    Picture
        The image, which may be a stack.

    Raises
    ------
    ValueError
        If the file holds several series, channels or times, and none is chosen; if a page is not accounted for; if its
        compression is not known; or if it has colours.
    """
    choice.check(path, "series", "channel", "time")
    with opened_tiff(path) as file:
        check_chain(file, path)
        if not file.pages or not file.series:
            msg = f"{path} holds no image; write it anew with at least one page"
            raise ValueError(msg)
        _account(file, path)
        joined, assumed = _chosen_series(file, path, choice)
        number, series = joined[0], file.series[joined[0]]
        if len(joined) > 1:
            names, shape = "I" + series.axes, (len(joined), *series.shape)
        else:
            names, shape = series.axes, series.shape
        if "S" in names and choice.axes is not None and len(choice.axes) == sum(n > 1 for n in shape):
            # The caller says that channels of colour are something else, such as slices.
            names = names.replace("S", "Q")
        wanted, axes = _wanted(names, shape, path, choice, _channel_names(file, number))
        kernel, is_whole = _kernel(file, joined, names, shape, wanted, path, choice)
        _check_codec(series.keyframe, path)
        keep = [n for axis, n, at in zip(names, shape, wanted, strict=True) if at is None and axis != "S"]
        (spacing, units, told), origin = _sizes(file, number, axes, choice)
        dtype = series.dtype.newbyteorder("=")
        if choice.axes is None and axes == "zyx" and len(joined) == 1 and "Z" not in names:
            assumed = (*assumed, "pages without a name are taken for slices along z; say axes=")
        told = (*assumed, *told, *_remarks(file, series, transparency="S" in names and choice.channel is None))
        if "S" in names and choice.channel is None:
            _check_colours(kernel, names)
        return Picture(path, kernel, tuple(keep), dtype, axes, spacing, units, told, is_whole=is_whole, origin=origin)


def _sizes(file: tifffile.TiffFile, series: int, axes: str, choice: Choice) -> tuple[Sizes, dict[str, float]]:
    """Read the sizes of voxels and the place of the first, and say how to give sizes that are not understood."""
    first = {"TheZ": 0, "TheC": choice.channel or 0, "TheT": choice.time or 0}
    try:
        sizes: Sizes = ({}, None, ()) if choice.has_spacing else tiff_sizes(file, series, has_depth="z" in axes)
        places = tiff_origin(file, series, *sizes[:2], first)
    except ValueError as error:
        msg = f"{error}; give spacing= and units="
        raise ValueError(msg) from error
    return sizes, {axis: place for axis, place in places.items() if axis in axes}


def _check_colours(kernel: Any, names: str) -> None:
    """Refuse colours before anything is written, at least those of the first row."""
    try:
        kernel(0, 1)
    except ValueError as error:
        if names == "SYX":
            msg = f"{error}; if the channels are slices, say axes='zyx'"
            raise ValueError(msg) from error
        raise


def _account(file: tifffile.TiffFile, path: Path) -> None:
    """Refuse a file with pages that belong to no series, or with planes that are in no page."""
    used: set[int] = set()
    for series in file.series:
        for level in series.levels:
            for page in level.pages:
                if page is None:
                    msg = f"{path}: its OME metadata name planes that are not there; put all files of the set beside it"
                    raise ValueError(msg)
                if page.parent is file and isinstance(page.index, int):
                    used.add(page.index)
    lost = [number for number in range(len(file.pages)) if number not in used]
    if lost:
        msg = (
            f"{path} has {len(file.pages)} pages, but its metadata describe only {len(used)}; the pages {lost[:5]} "
            "belong to no image. Write it anew without these pages, or without the metadata"
        )
        raise ValueError(msg)
    stated = (file.imagej_metadata or {}).get("images", 1)
    n_planes = sum(series.size // max(1, series.keyframe.size) for series in file.series)
    if isinstance(stated, int) and stated > max(n_planes, len(file.pages)):
        msg = f"{path} says that it has {stated} images, but only {n_planes} of them can be read; save it again"
        raise ValueError(msg)


def _chosen_series(file: tifffile.TiffFile, path: Path, choice: Choice) -> tuple[list[int], tuple[str, ...]]:
    """Choose the series of pages to read: one, or several of one page each that make a stack."""
    every = list(range(len(file.series)))
    assumed: tuple[str, ...] = ()
    if choice.series is not None:
        checked_number("series", choice.series, len(every), path)
        return [choice.series], assumed
    full = [i for i in every if not file.series[i].keyframe.is_reduced]
    if full and len(full) < len(every):
        small = [i for i in every if i not in full]
        told = f"series {', '.join(map(str, small))}, marked as a reduced copy, is left out; say series="
        assumed, every = (told,), full
    first = file.series[every[0]]
    alike = {(series.shape, series.axes, series.dtype) for series in (file.series[i] for i in every)}
    if len(every) == 1:
        return every, assumed
    if len(alike) == 1 and len(first.pages) == 1 and first.axes in ("YX", "YXS") and not file.is_ome:
        told = f"{len(every)} series of one page each are joined as slices along z; say series="
        return every, assumed if choice.join == "samples" else (*assumed, told)
    names = [f"{image.get('Name')}, " if image.get("Name") else "" for image in ome_images(file)]
    names += [""] * (len(file.series) - len(names))
    listed = "; ".join(
        f"{i}: {names[i]}{series.axes.lower()} {'x'.join(map(str, series.shape))} {series.dtype}"
        for i, series in enumerate(file.series[:12])
    )
    msg = (
        f"{path} holds {len(file.series)} series of pages, which are not of one stack; choose one by series= "
        f"(--series): {listed}{'; …' if len(file.series) > 12 else ''}"
    )
    raise ValueError(msg)


def _channel_names(file: tifffile.TiffFile, series: int) -> list[str]:
    """List the names of channels that the metadata of OME give."""
    images = ome_images(file)
    found = images[series].findall("{*}Pixels/{*}Channel") if series < len(images) else []
    return [str(channel.get("Name", "")) for channel in found]


def _wanted(
    names: str, shape: Sequence[int], path: Path, choice: Choice, channels: Sequence[str]
) -> tuple[list[int | None], str]:
    """Choose of each axis one number, or all, which is None. Name the axes that stay.

    Raises
    ------
    ValueError
        If an axis is none of a volume, and nothing is chosen of it.
    """
    wanted: list[int | None] = []
    used = set()
    for axis, n in zip(names, shape, strict=True):
        option = _AXES.get(axis, "")
        number = getattr(choice, option) if option and option not in used else None
        if axis in "YX":
            wanted.append(None)
        elif axis == "S":
            if n > 1 or choice.channel is not None:
                checked_number("channel", number, n, path)
                used.add(option)
            wanted.append(None)
        elif option and number is not None:
            used.add(option)
            wanted.append(checked_number(option, number, n, path))
        else:
            wanted.append(0 if n == 1 else None)
    for option in ("channel", "time"):
        number = getattr(choice, option)
        if number and option not in used:
            msg = f"{option}={number} must be 0, because {path} has one {option}; leave it out"
            raise ValueError(msg)
    stay = "".join(axis for axis, at in zip(names, wanted, strict=True) if at is None and axis != "S")
    if choice.axes is not None and len(choice.axes) == len(stay):
        return wanted, choice.axes
    before = stay.replace("Y", "").replace("X", "")
    if choice.join == "samples" and choice.axes is None and stay.endswith("YX") and before in ("T", "TZ", *_UNNAMED):
        return wanted, "szyx" if "Z" in before else "syx"
    if not stay.endswith("YX") or len(before) > 1 or before not in ("", "Z", *_UNNAMED):
        raise ValueError(_several(names, shape, stay, path, channels))
    return wanted, "zyx" if before else "yx"


def _several(names: str, shape: Sequence[int], stay: str, path: Path, channels: Sequence[str]) -> str:
    """Say which axes a file has beside those of a volume, and how to choose."""
    sizes = dict(zip(names, shape, strict=True))
    remedies = []
    for axis in stay:
        if axis in _AXES:
            option = _AXES[axis]
            listed = ", ".join(f"{i}: {name}" for i, name in enumerate(channels) if name) if axis == "C" else ""
            numbers = f"--{option} 0 to {sizes[axis] - 1}{f'; {listed}' if listed else ''}"
            remedies.append(f"one of {sizes[axis]} {option}s by {option}= ({numbers})")
    remedy = f"choose {' and '.join(remedies)}" if remedies else ""
    if len(stay) <= 4:
        remedy += f"{', or ' if remedy else ''}say what they are by axes=, such as {'szyx'[-len(stay) :]!r}"
    listed = ", ".join(f"{axis.lower()} of length {sizes[axis]}" for axis in stay)
    return f"{path} has the axes {listed}, which are not those of one volume; {remedy or 'write one volume a file'}"


def _kernel(
    file: tifffile.TiffFile,
    joined: Sequence[int],
    names: str,
    shape: Sequence[int],
    wanted: Sequence[int | None],
    path: Path,
    choice: Choice,
) -> tuple[Any, bool]:
    """Make the kernel that reads the chosen part of an image. Tell whether it decodes the whole, whatever is read."""
    series = file.series[joined[0]]
    page = series.keyframe
    has_channels = "S" in names
    channel = choice.channel if has_channels else None
    size = file.filehandle.size
    if len(joined) == 1 and series.dataoffset is not None and (not has_channels or names.endswith("S")):
        if series.dataoffset + series.nbytes > size:
            raise ValueError(_cut_off(path))
        dtype = page.dtype.newbyteorder(file.byteorder).str
        return _Contiguous(path, series.dataoffset, tuple(shape), dtype, tuple(wanted), channel, has_channels), False
    last = file.series[joined[-1]].pages[-1]
    for each in (page, last):
        _check_strips(each, path)
    ends = [start + n for start, n in zip(last.dataoffsets, last.databytecounts, strict=False)]
    if last.parent is file and max(ends, default=0) > size:
        raise ValueError(_cut_off(path))
    pages = [page for number in joined for page in file.series[number].pages]
    inside = page.shape
    before = len(shape) - len(inside)
    if int(np.prod(shape[:before])) != len(pages):
        # A series may have lost axes of length 1 of its pages.
        inside = tuple(n for n in page.shape if n > 1)
        before = len(shape) - len(inside)
    if int(np.prod(shape[:before])) != len(pages) or any(wanted[before:]):
        msg = (
            f"{path} has the axes {names.lower()} of lengths {tuple(shape)} in {len(pages)} pages; write a slice a page"
        )
        raise ValueError(msg)
    grid = np.arange(len(pages)).reshape(tuple(shape[:before]))
    chosen = grid[tuple(slice(None) if at is None else at for at in wanted[:before])].reshape(-1)
    folder = path.parent
    files = tuple(Path(pages[i].parent.filehandle.path) for i in chosen)
    outside = next((other for other in files if other.parent.resolve() != folder.resolve()), None)
    if outside is not None:
        msg = f"{path} names pages in another folder, {outside}, and only files beside it are read; copy them there"
        raise ValueError(msg)
    if (
        len(chosen) == 1
        and [axis for axis in names[before:] if axis != "S"] == ["Y", "X"]
        and None not in wanted[:before]
    ):
        high = page.tilelength if page.is_tiled else page.rowsperstrip or page.imagelength
        return _Rows(files[0], int(pages[chosen[0]].index), has_channels, channel), high >= page.imagelength
    place = names.index("S") - before if has_channels else None
    numbers = tuple(int(pages[i].index) for i in chosen)
    rows = [n for n, at in zip(shape[:before], wanted[:before], strict=True) if at is None]
    read = _Pages(files, numbers, tuple(shape[before:]), page.dtype, place, channel, tuple(rows[1:]))
    return (_Inside(read), True) if None not in wanted[:before] else (read, False)


def _cut_off(path: Path) -> str:
    return f"{path} ends before its last voxel; copy it again from where it was made"


def _check_strips(page: Any, path: Path) -> None:
    """Refuse a page that does not name all of its strips or tiles. The voxels of others would be taken for zeros."""
    frame = page.keyframe
    if (frame.is_tiled or frame.rowsperstrip) and len(page.dataoffsets) < math.prod(frame.chunked):
        msg = (
            f"{path} holds only {len(page.dataoffsets)} of the {math.prod(frame.chunked)} strips or tiles of a page; "
            "copy it again from where it was made"
        )
        raise ValueError(msg)


def _check_codec(page: Any, path: Path) -> None:
    """Decode the first strip or tile, so that a compression that is not known is refused before anything is written."""
    if page.compression not in tifffile.TIFF.DECOMPRESSORS:
        name = getattr(page.compression, "name", page.compression)
        msg = f"{path} is compressed by {name}, which is not known; save it again with LZW, or without compression"
        raise ValueError(msg)
    if not page.dataoffsets or not page.databytecounts[0]:
        return
    handle = page.parent.filehandle
    handle.seek(page.dataoffsets[0])
    if page.is_contiguous or page.compression == 1:
        return
    data = handle.read(page.databytecounts[0])
    check_codes(page, path)
    try:
        page.decode(data, 0, **_tables(page))
    except Exception as error:
        name = getattr(page.compression, "name", page.compression)
        msg = (
            f"{path}: its first strip or tile, of {page.bitspersample} bits a voxel, compressed by {name}, cannot be "
            f"read ({error}); check that the file is whole, or save it again with LZW, or without compression"
        )
        raise ValueError(msg) from error


def _remarks(file: tifffile.TiffFile, series: Any, *, transparency: bool) -> tuple[str, ...]:
    """Say what the file says of its values that is not applied to them."""
    page = series.keyframe
    told = []
    photometric = getattr(page.photometric, "name", "")
    if photometric == "PALETTE":
        told.append("the picture has a palette, of which the indices are read and not the colours")
    if photometric == "MINISWHITE":
        told.append("the file says that 0 is white; the values are read as they are, not inverted")
    orientation = int(page.tags.valueof("Orientation", default=1))
    if orientation > 1:
        told.append(
            f"the file asks to be turned or mirrored for display (orientation {orientation}), which is not done"
        )
    if transparency and page.extrasamples:
        told.append("the transparency is left out; say channel=")
    if "cf" in (file.imagej_metadata or {}):
        told.append("the values are those of the file, without ImageJ's calibration of grey levels")
    return tuple(told)
