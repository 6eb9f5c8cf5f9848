"""What the metadata of arrays may say: formats, codecs, data types, and sizes. No chunk is decoded before this check.

The author of a store chooses its codecs and its data types. Some codecs, such as pickle, run code that is in the
chunks, and data types of objects need such codecs. Stores of this package and images do not use them. Metadata of a few
bytes can also ask for gigabytes. There are limits to that, which no honest store reaches.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np

_INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
NUMBERS = ("bool", *_INTEGERS, "float16", "float32", "float64", "complex64", "complex128")
TEXTS = ("string", "fixed_length_utf32", "null_terminated_bytes")
COMPRESSORS = ("blosc", "zlib", "gzip", "zstd", "lz4", "bz2", "lzma")
CODECS = ("bytes", "transpose", "blosc", "zstd", "gzip", "crc32c", "sharding_indexed", "vlen-utf8")
# Codecs of numcodecs that turn numbers into numbers, or pack bytes.
PLAIN = (
    *COMPRESSORS,
    *("shuffle", "delta", "fixedscaleoffset", "quantize", "bitround", "packbits", "astype"),
    *("crc32", "crc32c", "adler32", "fletcher32"),
)

# The index of a shard is read whole, and its size must follow from the number of chunks.
INDEX_CODECS = ("bytes", "crc32c")
# Dask keeps about 50 bytes for each chunk of an array, even if it is not read.
MOST_CHUNKS = 10**7
# What is read on opening: 8 million numbers, as labels of so many samples or voxels along one axis.
LABEL_BYTES = 2**26
MOST_LABEL_CHUNKS = 10**4
TEXT_BYTES = 2**16
# Saved models nest about 20 lists. Python walks about 1000.
DEEPEST = 100


def objection_to(name: str, metadata: Any, codecs: tuple[str, ...], *, is_label: bool = False) -> str | None:
    """Say why an array of format 3 with these metadata must not be decoded. Return None if it may be."""
    if not isinstance(metadata, dict) or metadata.get("zarr_format") != 3:
        of_format = metadata.get("zarr_format") if isinstance(metadata, dict) else None
        return f"is of zarr format {of_format}, not 3 (mksdask import reads images of format 2)"
    if metadata.get("node_type") == "group":
        strange = sorted(set(metadata) - {"zarr_format", "node_type", "attributes", "consolidated_metadata"})
        return f"has the metadata {strange}, which zarr does not know" if strange else None
    data_type = metadata.get("data_type")
    kind = data_type.get("name") if isinstance(data_type, dict) else data_type
    if kind not in (*NUMBERS, *TEXTS):
        return f"has the data type {kind!r}, which is neither a number nor a text"
    options = data_type.get("configuration") if isinstance(data_type, dict) else None
    # Texts of any length are kept as objects of 16 bytes or more.
    item_bytes = np.dtype(kind).itemsize if kind in NUMBERS else _option(options, "length_bytes", 16)
    if not isinstance(item_bytes, int) or not 0 <= item_bytes <= TEXT_BYTES:
        return f"has texts of {item_bytes!r} bytes, and the longest that are read have {TEXT_BYTES}"
    shape, chunks = metadata.get("shape"), _option(_option(metadata, "chunk_grid"), "configuration")
    chunks = _option(chunks, "chunk_shape")
    # xarray reads an array on opening if it has the name of its only dimension.
    is_label = is_label or metadata.get("dimension_names") == [name.rpartition("/")[2]]
    return (
        _strange_codec(metadata.get("codecs"), codecs, chunks)
        or _strange_chunks(shape, chunks)
        or (large_label(shape, chunks, item_bytes) if is_label else None)
    )


def _option(options: Any, key: str, default: Any = None) -> Any:
    return options.get(key, default) if isinstance(options, dict) else default


def _strange_chunks(shape: Any, chunks: Any) -> str | None:
    """Say why an array cannot be cut into these chunks. Return None if it can be."""
    is_whole = all(
        isinstance(sizes, list) and all(isinstance(size, int) and size >= least for size in sizes)
        for sizes, least in ((shape, 0), (chunks, 1))
    )
    if not is_whole or len(shape) != len(chunks):
        return (
            f"has the shape {reprlib.repr(shape)} in chunks of shape {reprlib.repr(chunks)}, where chunks need a whole "
            "number of at least 1 for each axis"
        )
    if (n_chunks := _count(shape, chunks)) > MOST_CHUNKS:
        return (
            f"has {n_chunks} chunks of shape {chunks}, more than {MOST_CHUNKS}, which do not fit in memory even "
            "unread; rechunk it to larger chunks"
        )
    return None


def _count(shape: list[int], chunks: list[int]) -> int:
    return math.prod(-(-n // size) for n, size in zip(shape, chunks, strict=True))


def large_label(shape: Any, chunks: Any, item_bytes: int) -> str | None:
    """Say why labels of an axis are too large to be read on opening. Return None if they are not."""
    n_chunks, n_bytes = _count(shape, chunks), max(math.prod(shape), math.prod(chunks)) * item_bytes
    if n_bytes <= LABEL_BYTES and n_chunks <= MOST_LABEL_CHUNKS:
        return None
    return (
        f"labels an axis, so it would be read on opening, but it has {n_bytes} bytes in {n_chunks} chunks, more than "
        f"{LABEL_BYTES} bytes or {MOST_LABEL_CHUNKS} chunks; remove these labels, or store them in one chunk"
    )


def _strange_codec(found: Any, allowed: tuple[str, ...], shape: Any) -> str | None:
    """Say which codec of a list is not allowed for chunks of a shape. Return None if all are allowed."""
    if not isinstance(found, list):
        return f"names no list of codecs but {found!r}"
    for codec in found:
        name, options = _option(codec, "name", codec), _option(codec, "configuration", {})
        if name not in allowed:
            return f"has the codec {name!r}, which is not one of {', '.join(allowed)}"
        if name == "sharding_indexed":
            inner = _option(options, "chunk_shape")
            if strange := (
                _strange_codec(_option(options, "codecs", []), allowed, inner)
                or _strange_codec(_option(options, "index_codecs", []), INDEX_CODECS, inner)
                or _strange_chunks(shape, inner)
            ):
                return strange
        elif strange := _strange_options(name, options):
            return strange
    return _repeated(_names(found))


def _names(codecs: list[Any]) -> list[str]:
    """Names of codecs, and of those inside shards, through all of which the same bytes go."""
    names = []
    for codec in codecs:
        name = _option(codec, "name", codec)
        names.append(name.removeprefix("numcodecs."))
        if name == "sharding_indexed":
            names += _names(_option(_option(codec, "configuration"), "codecs", []))
    return names


def _repeated(names: list[str]) -> str | None:
    """Say which codecs, one after the other, can make gigabytes of a few bytes. Return None if there are none.

    One compressor makes at most some thousand bytes of one, but each further one does it again. So do filters that
    widen numbers.
    """
    compressors = [name for name in names if name in COMPRESSORS]
    widening = [name for name in names if name in ("packbits", "fixedscaleoffset", "quantize", "astype")]
    if len(compressors) > 1:
        return f"has {len(compressors)} compressors one after the other ({', '.join(compressors)}), where one is enough"
    if len(set(widening)) < len(widening):
        return f"has the same filter twice ({', '.join(widening)}), where one is enough"
    return None


def _strange_options(name: str, options: Any) -> str | None:
    """Say which option of a codec makes it read or write something other than numbers."""
    for key in ("dtype", "astype", "encode_dtype", "decode_dtype"):
        if isinstance(options, Mapping) and options.get(key) is not None and not _is_number(options[key]):
            return f"has the codec {name!r} with {key} {options[key]!r}, which is not a number"
    return None


def old_objection_to(metadata: Mapping[str, Any], *, is_label: bool) -> str | None:
    """Say why an array of format 2 must not be decoded. Return None if it may be."""
    dtype, shape, chunks = (metadata.get(key) for key in ("dtype", "shape", "chunks"))
    if not _is_number(dtype):
        return f"has the dtype {dtype!r}, which is not a number"
    names = []
    for codec in (metadata.get("compressor"), *(metadata.get("filters") or ())):
        if codec is None:
            continue
        name = _option(codec, "id", codec)
        if name not in PLAIN:
            return f"has the codec {name!r}, which is not one of {', '.join(PLAIN)}"
        if strange := _strange_options(name, codec):
            return strange
        names.append(name)
    return (
        _repeated(names)
        or _strange_chunks(shape, chunks)
        or (large_label(shape, chunks, np.dtype(dtype).itemsize) if is_label else None)
    )


def _is_number(dtype: Any) -> bool:
    """Whether a dtype in the spelling of NumPy is a number."""
    try:
        return isinstance(dtype, str) and np.dtype(dtype).kind in "biufc"
    except TypeError:
        return False
