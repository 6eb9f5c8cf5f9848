"""The door of stores: what they say of their arrays is checked before any chunk of them is decoded.

Metadata names codecs and data types, and whoever made a store chose them. Some codecs run code that is in the chunks,
such as pickle, and data types of objects need such codecs. A store of this package has none of them, and neither has an
image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import xarray as xr
import zarr

from mksdask.storage.atomic import Location, metadata_of

_INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
NUMBERS = ("bool", *_INTEGERS, "float16", "float32", "float64", "complex64", "complex128")
TEXTS = ("string", "fixed_length_utf32", "null_terminated_bytes")
CODECS = ("bytes", "transpose", "blosc", "zstd", "gzip", "crc32c", "sharding_indexed", "vlen-utf8")
# Of numcodecs, which turn numbers into numbers, or pack bytes.
PLAIN = (
    *("blosc", "zlib", "gzip", "zstd", "lz4", "bz2", "lzma"),
    *("shuffle", "delta", "fixedscaleoffset", "quantize", "bitround", "packbits", "astype"),
    *("crc32", "crc32c", "adler32", "fletcher32"),
)

Mode = Literal["r", "r+"]


def check_store(location: Location) -> dict[str, Any]:
    """Look at what a store of this package says of itself and of all its arrays, and return its own metadata.

    Raises
    ------
    FileNotFoundError
        If there is no zarr.
    ValueError
        If it, or a member of it, is of zarr format 2, or an array has a codec or a data type that the package does not
        write. The message names it.
    """
    location.fs.invalidate_cache()
    for name, metadata in _members(location):
        _refuse(location, name, _objection(metadata, CODECS))
    return metadata_of(location) or {}


def open_group(location: Location, mode: Mode = "r") -> zarr.Group:
    """Open the group of a store that passes `check_store`."""
    _check_group(location)
    return zarr.open_group(location.store, mode=mode, zarr_format=3)


def open_array(location: Location, name: str = "", mode: Mode = "r") -> zarr.Array[Any]:
    """Open one array of a store of this package, or the array that a store is, after the same look at it."""
    metadata = foreign_metadata(location, name)
    if metadata is None or metadata.get("node_type") == "group":
        msg = f"{location.path} has no array {name!r}"
        raise FileNotFoundError(msg)
    _refuse(location, name, _objection(metadata, CODECS))
    return zarr.open_array(location.store, path=name, mode=mode, zarr_format=3)


def open_dataset(location: Location, chunks: Any) -> xr.Dataset:
    """Open a store that passes `check_store` by xarray, lazily; its coordinates are read."""
    is_consolidated = _check_group(location).get("consolidated_metadata") is not None
    dataset: xr.Dataset = xr.open_zarr(location.store, chunks=chunks, consolidated=is_consolidated, zarr_format=3)
    return dataset


def _check_group(location: Location) -> dict[str, Any]:
    metadata = check_store(location)
    if metadata.get("node_type") != "group":
        msg = f"{location.path} is a zarr array and no group"
        raise FileNotFoundError(msg)
    return metadata


def foreign_metadata(location: Location, name: str = "") -> dict[str, Any] | None:
    """What a group or array of others says of itself, of zarr format 2 in the words of format 3; None without one."""
    found = metadata_of(location, name)
    if found is not None:
        return found
    for key, node_type in ((".zarray", "array"), (".zgroup", "group")):
        if (found := metadata_of(location, name, key)) is not None:
            attributes = metadata_of(location, name, ".zattrs") or {}
            return found | {"zarr_format": 2, "node_type": node_type, "attributes": attributes}
    return None


def open_foreign(location: Location, name: str = "") -> zarr.Array[Any]:
    """Open an array of others, of zarr format 2 or 3, if it holds numbers that plain codecs have packed.

    Raises
    ------
    FileNotFoundError
        If there is no array.
    ValueError
        If it has another codec or data type.
    """
    metadata = foreign_metadata(location, name)
    if metadata is None or metadata.get("node_type") != "array":
        msg = f"{location.path} has no array {name!r}"
        raise FileNotFoundError(msg)
    is_old = metadata.get("zarr_format") == 2
    allowed = (*CODECS, "endian", *(f"numcodecs.{codec}" for codec in PLAIN))
    _refuse(location, name, _old_objection(metadata) if is_old else _objection(metadata, allowed))
    return zarr.open_array(location.store, path=name, mode="r", zarr_format=2 if is_old else 3)


def _members(location: Location, name: str = "") -> Iterator[tuple[str, Any]]:
    """Metadata of a node and of all below it, as it is there and as the consolidated metadata have it."""
    metadata = foreign_metadata(location, name)
    if metadata is None:
        if not name:
            msg = f"{location.path} is not a zarr v3 group"
            raise FileNotFoundError(msg)
        return
    yield from _consolidated(name, metadata)
    if metadata.get("node_type") == "array":
        return
    for info in location.fs.ls("/".join(part for part in (location.path, name) if part), detail=True):
        if info["type"] != "file":
            yield from _members(location, f"{name}/{info['name'].rstrip('/').rpartition('/')[2]}".lstrip("/"))


def _consolidated(name: str, metadata: Any) -> Iterator[tuple[str, Any]]:
    yield name, metadata
    if isinstance(metadata, dict) and (consolidated := metadata.get("consolidated_metadata")):
        below = consolidated.get("metadata") if isinstance(consolidated, dict) else None
        if not isinstance(below, dict):
            yield name, None
            return
        for child, found in below.items():
            yield from _consolidated(f"{name}/{child}".lstrip("/"), found)


def _refuse(location: Location, name: str, objection: str | None) -> None:
    if objection:
        what = f"its array {name!r}" if name else "it"
        msg = (
            f"{location.path} will not be opened, because {what} {objection}; nothing of it was decoded. If you trust "
            "who made it, open it with zarr yourself, and write its numbers anew by create_ensemble or create_volume"
        )
        raise ValueError(msg)


def _objection(metadata: Any, codecs: tuple[str, ...]) -> str | None:
    """What speaks against decoding what has this metadata, if it is an array of format 3."""
    if not isinstance(metadata, dict) or metadata.get("zarr_format") != 3:
        of_format = metadata.get("zarr_format") if isinstance(metadata, dict) else None
        return f"is of zarr format {of_format}, not 3 (mksdask import reads images of format 2)"
    if metadata.get("node_type") == "group":
        return None
    kind = metadata.get("data_type")
    kind = kind.get("name") if isinstance(kind, dict) else kind
    if kind not in (*NUMBERS, *TEXTS):
        return f"has the data type {kind!r}, which is none of numbers or texts"
    return _strange_codec(metadata.get("codecs"), codecs)


def _strange_codec(found: Any, allowed: tuple[str, ...]) -> str | None:
    if not isinstance(found, list):
        return f"names no list of codecs but {found!r}"
    for codec in found:
        name = codec.get("name") if isinstance(codec, dict) else codec
        if name not in allowed:
            return f"has the codec {name!r}, which is none of {', '.join(allowed)}"
        options = codec.get("configuration") if isinstance(codec, dict) else {}
        if name == "sharding_indexed":
            inner = options if isinstance(options, dict) else {}
            for key in ("codecs", "index_codecs"):
                if strange := _strange_codec(inner.get(key, []), allowed):
                    return strange
        elif strange := _strange_options(name, options):
            return strange
    return None


def _strange_options(name: str, options: Any) -> str | None:
    """A codec that turns numbers into objects."""
    for key in ("dtype", "astype", "encode_dtype", "decode_dtype"):
        if isinstance(options, Mapping) and options.get(key) is not None and not _is_number(options[key]):
            return f"has the codec {name!r} with {key} {options[key]!r}, which is no number"
    return None


def _old_objection(metadata: Mapping[str, Any]) -> str | None:
    """What speaks against decoding an array of format 2."""
    if not _is_number(metadata.get("dtype")):
        return f"has the dtype {metadata.get('dtype')!r}, which is no number"
    for codec in (metadata.get("compressor"), *(metadata.get("filters") or ())):
        if codec is None:
            continue
        name = codec.get("id") if isinstance(codec, dict) else codec
        if name not in PLAIN:
            return f"has the codec {name!r}, which is none of {', '.join(PLAIN)}"
        if strange := _strange_options(name, codec):
            return strange
    return None


def _is_number(dtype: Any) -> bool:
    try:
        return isinstance(dtype, str) and np.dtype(dtype).kind in "biufc"
    except TypeError:
        return False
