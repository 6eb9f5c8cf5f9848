"""Images in NRRD files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mksdask.importers.formats.dims import LETTERS, Selection, placed, select, sized
from mksdask.importers.formats.headers import (
    HEADER_BYTES,
    axes_of,
    checked_sizes,
    files_beside,
    head_of,
    numbers_in,
    turned,
)
from mksdask.importers.formats.packed_files import Packed, Text
from mksdask.importers.formats.raw_files import Raw, described
from mksdask.importers.sources import Choice, Source

# Data types by the names of NRRD, each of which may also be written as `signed short int`.
_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"), "i8"),
    **dict.fromkeys(("signed long long int",), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
# Kinds of axes of NRRD that lie in space.
_IN_SPACE = ("domain", "space", "none", "???", "")


def open_nrrd(path: Path, choice: Choice) -> Source:
    """Open an NRRD file, or the detached values of an `.nhdr` header."""
    choice.check(path, "channel", "time", "follow_links")
    content = head_of(path)
    if not content.startswith(b"NRRD000"):
        msg = f"{path} is no NRRD file, which begins with NRRD000"
        raise ValueError(msg)
    end = re.search(rb"\r?\n\r?\n", content)
    head = (content[: end.start()] if end else content).decode("utf-8", "replace")
    fields: dict[str, str] = {}
    lines = head.splitlines()[1:]
    listed: list[str] = []
    for number, line in enumerate(lines):
        key, colon, value = line.partition(": ")
        if colon and not line.startswith("#") and ":=" not in key:
            fields[re.sub(r"[ -]", "", key.lower())] = value.strip()
            if key.lower() in ("data file", "datafile") and value.startswith("LIST"):
                listed = lines[number + 1 :]
                break
    if missing := [key for key in ("dimension", "sizes", "type", "encoding") if key not in fields]:
        msg = f"{path}: the header has no {', '.join(missing)}"
        raise ValueError(msg)
    (n_axes,) = numbers_in(fields["dimension"], int, path, "dimension") or [0]
    shape = checked_sizes(numbers_in(fields["sizes"], int, path, "sizes"), n_axes, path)
    if fields["type"].lower() not in _TYPES:
        msg = f"{path} holds values of type {fields['type']!r}, expected integers or real numbers"
        raise ValueError(msg)
    dtype = np.dtype(_TYPES[fields["type"].lower()])
    if dtype.itemsize > 1:
        if fields.get("endian") not in ("little", "big") and not fields["encoding"].lower().startswith(("t", "a")):
            msg = f"{path}: the header does not state endian, the order of the bytes; add endian: little, or big"
            raise ValueError(msg)
        dtype = dtype.newbyteorder(">" if fields.get("endian") == "big" else "<")
    names, default = _nrrd_names(fields, n_axes)
    selection = select(names, shape, choice, path, default=default)
    steps, unit, told, origin = _nrrd_steps(fields, selection, choice, path)
    told = (*selection.assumed, *told)
    skip = _skipped(fields, path)
    if "datafile" in fields:
        parts = files_beside(fields["datafile"], path, choice, listed)
        raw = Raw(parts[0], shape, dtype.str, skip[1], parts if len(parts) > 1 else ())
    elif end is None:
        msg = f"{path}: the header does not end within {HEADER_BYTES} bytes, by a line without text"
        raise ValueError(msg)
    else:
        raw = Raw(path, shape, dtype.str, end.end() + max(0, skip[1]))
    encoding = fields["encoding"].lower()
    packer = {"gz": "gzip", "gzip": "gzip", "bz2": "bzip2", "bzip2": "bzip2"}.get(encoding)
    packer = "text" if encoding in ("txt", "text", "ascii") else packer
    if encoding != "raw" and (packer is None or raw.parts):
        msg = f"{path} is packed by {encoding!r}, which is not read here; save it with the encoding raw or gzip"
        raise ValueError(msg)
    if skip[0] or (skip[1] == -1 and encoding != "raw"):
        msg = (
            f"{path}: lines or packed bytes before the values are not skipped; save it without line skip and byte skip"
        )
        raise ValueError(msg)
    if skip[1] == -1:
        raw = Raw(raw.path, shape, dtype.str, raw.path.stat().st_size - raw.shape[0] * raw.row_bytes)
    if packer is not None:
        raw = Text.of(raw) if packer == "text" else Packed(raw.path, shape, dtype.str, raw.offset, packer=packer)
    data, beside = described(raw, selection), raw.others(path)
    return Source(data, selection.axes, steps, unit, told, format="nrrd", beside=beside, origin=origin)


def _skipped(fields: Mapping[str, str], path: Path) -> tuple[int, int]:
    """Read the numbers of lines and of bytes before the values."""
    lines, count = ((numbers_in(fields.get(key, "0"), int, path, key) or [0])[0] for key in ("lineskip", "byteskip"))
    return lines, count


def _nrrd_names(fields: Mapping[str, str], n_axes: int) -> tuple[list[str] | None, str | None]:
    """Name the axes of the file by its labels, or by its kinds of axes."""
    labels = [label.strip().lower() for label in re.findall(r'"([^"]*)"', fields.get("labels", ""))]
    if len(labels) == n_axes and all(label in LETTERS for label in labels):
        return labels[::-1], None
    kinds = [kind.lower() for kind in fields.get("kinds", "").split()]
    if len(kinds) != n_axes:
        return axes_of(n_axes)
    letters = iter("xyz")
    names = [next(letters, "?") if kind in _IN_SPACE else "t" if kind == "time" else "c" for kind in kinds]
    return axes_of(n_axes) if "?" in names else (names[::-1], None)


def _nrrd_steps(
    fields: Mapping[str, str], selection: Selection, choice: Choice, path: Path
) -> tuple[dict[str, float], str | None, tuple[str, ...], dict[str, float]]:
    """Read the voxel sizes, their unit and the position of the first voxel, and say if the axes are turned."""
    kept = [i for i, part in enumerate(selection.index) if isinstance(part, slice)]
    n_axes = len(selection.index)
    places = {axis: n_axes - 1 - i for i, axis in zip(kept, selection.axes, strict=True) if axis in "xyz"}
    told: tuple[str, ...] = ()
    sizes: dict[str, float] = {}
    units: dict[str, Any] = {}
    origin: dict[str, float] = {}
    if "spacedirections" in fields:
        found = re.findall(r"none|\([^)]*\)", fields["spacedirections"])
        vectors = {
            axis: numbers_in(found[place].strip("()").replace(",", " "), float, path, "space directions")
            for axis, place in places.items()
            if place < len(found) and found[place] != "none"
        }
        sizes = {axis: float(np.linalg.norm(vector)) for axis, vector in vectors.items()}
        matrix = np.array([vectors[axis] for axis in sorted(vectors)])
        if len({len(vector) for vector in vectors.values()}) == 1 and matrix.shape[0] == matrix.shape[1]:
            told = turned(matrix, selection.axes)
            first = numbers_in(fields.get("spaceorigin", "").strip("()").replace(",", " "), float, path, "space origin")
            if not told and len(first) == len(vectors):
                origin = dict(zip(sorted(vectors), first, strict=True))
        stated = re.findall(r'"([^"]*)"', fields.get("spaceunits", ""))
        # These are the units of the directions in space, and there is one for all lengths.
        units = dict.fromkeys(sizes, stated[0] if len(set(stated)) == 1 else " and ".join(stated))
    elif "spacings" in fields:
        spacings = numbers_in(fields["spacings"], float, path, "spacings")
        stated = re.findall(r'"([^"]*)"', fields.get("units", ""))
        for axis, place in places.items():
            if place < len(spacings) and np.isfinite(spacings[place]):
                sizes[axis] = spacings[place]
                units[axis] = stated[place] if place < len(stated) else None
    steps, unit, more = sized(sizes, units, choice, path)
    return steps, unit, (*told, *more), placed(origin, sizes, steps)
