"""Images in MetaImage files, as ITK writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mksdask.importers.formats.dims import placed, select, sized
from mksdask.importers.formats.headers import axes_of, checked_sizes, files_beside, head_of, numbers_in, turned
from mksdask.importers.formats.packed_files import Packed, Text
from mksdask.importers.formats.raw_files import Raw, described
from mksdask.importers.sources import Choice, Source

# Data types by their names.
_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip


def open_metaimage(path: Path, choice: Choice) -> Source:
    """Open a MetaImage: an `.mha` file, or the detached values of an `.mhd` header."""
    choice.check(path, "channel", "follow_links")
    content, fields, start = head_of(path), dict[str, str](), 0
    listed: list[str] = []
    while start < len(content):
        end = content.find(b"\n", start)
        line = content[start : end if end >= 0 else len(content)].decode("utf-8", "replace").strip()
        start = end + 1 if end >= 0 else len(content)
        key, equal, value = line.partition("=")
        if not equal:
            msg = f"{path}: the header of a MetaImage has lines such as NDims = 3, got {line[:40]!r}"
            raise ValueError(msg)
        fields[key.strip()] = value.strip()
        if key.strip() == "ElementDataFile":
            listed = content[start:].decode("utf-8", "replace").splitlines() if value.strip().startswith("LIST") else []
            break
    if missing := [key for key in ("NDims", "DimSize", "ElementType", "ElementDataFile") if key not in fields]:
        msg = f"{path}: the header has no {', '.join(missing)}"
        raise ValueError(msg)
    (n_axes,) = numbers_in(fields["NDims"], int, path, "NDims") or [0]
    shape = checked_sizes(numbers_in(fields["DimSize"], int, path, "DimSize"), n_axes, path)
    if fields["ElementType"] not in _TYPES:
        msg = f"{path} holds values of type {fields['ElementType']!r}, expected one of {', '.join(_TYPES)}"
        raise ValueError(msg)
    is_big = _flag(fields, "BinaryDataByteOrderMSB", "ElementByteOrderMSB")
    dtype = np.dtype(_TYPES[fields["ElementType"]]).newbyteorder(">" if is_big else "<")
    names, default = axes_of(n_axes)
    n_channels = (numbers_in(fields.get("ElementNumberOfChannels", "1"), int, path, "ElementNumberOfChannels") or [1])[
        0
    ]
    if n_channels > 1:
        shape, names, default = (*shape, n_channels), None if names is None else [*names, "c"], f"{default}c"
    selection = select(names, shape, choice, path, default=default)
    spacings = numbers_in(fields.get("ElementSpacing", fields.get("ElementSize", "")), float, path, "ElementSpacing")
    sizes = dict(zip("xyz", spacings[:3], strict=False))
    stated = fields.get("DistanceUnits", "")
    steps, unit, told = sized(sizes, dict.fromkeys("xyz", "" if stated == "?" else stated), choice, path)
    turn = next((fields[key] for key in ("TransformMatrix", "Rotation", "Orientation") if key in fields), "")
    matrix = np.array(numbers_in(turn, float, path, "TransformMatrix"))
    told += selection.assumed
    turn_told = turned(matrix.reshape(n_axes, n_axes), selection.axes) if matrix.size == n_axes**2 else ()
    told += turn_told
    first = next((fields[key] for key in ("Offset", "Position", "Origin") if key in fields), "")
    places = dict(zip("xyz", numbers_in(first, float, path, "Offset")[:3], strict=False))
    origin = {} if turn_told else placed({a: places[a] for a in selection.axes if a in places}, sizes, steps)
    place, parts = path, tuple[Path, ...]()
    if fields["ElementDataFile"] not in ("LOCAL", "Local", "local"):
        start = 0
        place, *more = parts = files_beside(fields["ElementDataFile"], path, choice, listed)
        parts = parts if more else ()
    skip = (numbers_in(fields.get("HeaderSize", "0"), int, path, "HeaderSize") or [0])[0]
    raw = Raw(place, shape, dtype.str, start + max(0, skip), parts)
    if skip == -1:
        raw = Raw(place, shape, dtype.str, place.stat().st_size - shape[0] * raw.row_bytes)
    if _flag(fields, "CompressedData"):
        if parts:
            msg = f"{path} is compressed in {len(parts)} files, which is not read here; save it without compression"
            raise ValueError(msg)
        raw = Packed(place, shape, dtype.str, raw.offset, packer="zlib")
    elif "BinaryData" in fields and not _flag(fields, "BinaryData"):
        raw = Text.of(raw)
    data, beside = described(raw, selection), raw.others(path)
    return Source(data, selection.axes, steps, unit, told, format="metaimage", beside=beside, origin=origin)


def _flag(fields: Mapping[str, str], *keys: str) -> bool:
    """Whether one of the keys is there and true."""
    return any(fields.get(key, "").lower() in ("true", "1") for key in keys)
