"""All stores are opened here, after a check of what their metadata say, and before any chunk is decoded.

The metadata of an array name its codecs and its data type, and the author of a store chooses them. Some codecs, such as
pickle, run code that is in the chunks, and data types of objects need such codecs. Stores of this package and images do
not use them.
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
# Codecs of numcodecs that turn numbers into numbers, or pack bytes.
PLAIN = (
    *("blosc", "zlib", "gzip", "zstd", "lz4", "bz2", "lzma"),
    *("shuffle", "delta", "fixedscaleoffset", "quantize", "bitround", "packbits", "astype"),
    *("crc32", "crc32c", "adler32", "fletcher32"),
)

Mode = Literal["r", "r+"]


def check_store(location: Location) -> dict[str, Any]:
    """Check the metadata of a store of this package and of all its arrays, and return those of the store.

    Raises
    ------
    FileNotFoundError
        If there is no zarr group or array.
    ValueError
        If the store or a member of it is of zarr format 2, or if an array has a codec or a data type that the package
        does not write. The message names the array and what was found.
    """
    location.fs.invalidate_cache()
    for name, metadata in _members(location):
        _refuse(location, name, _objection(metadata, CODECS))
    return metadata_of(location) or {}


def open_group(location: Location, mode: Mode = "r") -> zarr.Group:
    """Open the group of a store, after `check_store`."""
    _check_group(location)
    return zarr.open_group(location.store, mode=mode, zarr_format=3)


def open_array(location: Location, name: str = "", mode: Mode = "r") -> zarr.Array[Any]:
    """Open one array of a store of this package, or a store that is itself an array, after the same check."""
    metadata = foreign_metadata(location, name)
    if metadata is None or metadata.get("node_type") == "group":
        msg = f"{location.path} has no array {name!r}"
        raise FileNotFoundError(msg)
    _refuse(location, name, _objection(metadata, CODECS))
    return zarr.open_array(location.store, path=name, mode=mode, zarr_format=3)


def open_dataset(location: Location, chunks: Any) -> xr.Dataset:
    """Open a store lazily by xarray, after `check_store`. Coordinates are read at once."""
    is_consolidated = _check_group(location).get("consolidated_metadata") is not None
    dataset: xr.Dataset = xr.open_zarr(location.store, chunks=chunks, consolidated=is_consolidated, zarr_format=3)
    return dataset


def _check_group(location: Location) -> dict[str, Any]:
    metadata = check_store(location)
    if metadata.get("node_type") != "group":
        msg = f"{location.path} is a zarr array, not a group"
        raise FileNotFoundError(msg)
    return metadata


def foreign_metadata(location: Location, name: str = "") -> dict[str, Any] | None:
    """Read the metadata of a group or array that another program wrote. Return None if there is none.

    Metadata of zarr format 2 are returned with the main keys of format 3.
    """
    found = metadata_of(location, name)
    if found is not None:
        return found
    for key, node_type in ((".zarray", "array"), (".zgroup", "group")):
        if (found := metadata_of(location, name, key)) is not None:
            attributes = metadata_of(location, name, ".zattrs") or {}
            return found | {"zarr_format": 2, "node_type": node_type, "attributes": attributes}
    return None


def open_foreign(location: Location, name: str = "") -> zarr.Array[Any]:
    """Open an array that another program wrote in zarr format 2 or 3, if it holds numbers in plain codecs.

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
    """Yield the metadata of a node and of everything below it, both from files and from consolidated metadata."""
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
    """Yield metadata, and the consolidated metadata that they contain."""
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
            "its author, open it with zarr yourself, and write its numbers anew by create_ensemble or create_volume"
        )
        raise ValueError(msg)


def _objection(metadata: Any, codecs: tuple[str, ...]) -> str | None:
    """Say why an array of format 3 with these metadata must not be decoded. Return None if it may be."""
    if not isinstance(metadata, dict) or metadata.get("zarr_format") != 3:
        of_format = metadata.get("zarr_format") if isinstance(metadata, dict) else None
        return f"is of zarr format {of_format}, not 3 (mksdask import reads images of format 2)"
    if metadata.get("node_type") == "group":
        return None
    kind = metadata.get("data_type")
    kind = kind.get("name") if isinstance(kind, dict) else kind
    if kind not in (*NUMBERS, *TEXTS):
        return f"has the data type {kind!r}, which is neither a number nor a text"
    return _strange_codec(metadata.get("codecs"), codecs)


def _strange_codec(found: Any, allowed: tuple[str, ...]) -> str | None:
    """Say which codec of a list is not allowed. Return None if all are allowed."""
    if not isinstance(found, list):
        return f"names no list of codecs but {found!r}"
    for codec in found:
        name = codec.get("name") if isinstance(codec, dict) else codec
        if name not in allowed:
            return f"has the codec {name!r}, which is not one of {', '.join(allowed)}"
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
    """Say which option of a codec makes it read or write something other than numbers."""
    for key in ("dtype", "astype", "encode_dtype", "decode_dtype"):
        if isinstance(options, Mapping) and options.get(key) is not None and not _is_number(options[key]):
            return f"has the codec {name!r} with {key} {options[key]!r}, which is not a number"
    return None


def _old_objection(metadata: Mapping[str, Any]) -> str | None:
    """Say why an array of format 2 must not be decoded. Return None if it may be."""
    if not _is_number(metadata.get("dtype")):
        return f"has the dtype {metadata.get('dtype')!r}, which is not a number"
    for codec in (metadata.get("compressor"), *(metadata.get("filters") or ())):
        if codec is None:
            continue
        name = codec.get("id") if isinstance(codec, dict) else codec
        if name not in PLAIN:
            return f"has the codec {name!r}, which is not one of {', '.join(PLAIN)}"
        if strange := _strange_options(name, codec):
            return strange
    return None


def _is_number(dtype: Any) -> bool:
    """Whether a dtype in the spelling of NumPy is a number."""
    try:
        return isinstance(dtype, str) and np.dtype(dtype).kind in "biufc"
    except TypeError:
        return False
