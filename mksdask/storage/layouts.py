"""Where the parts of an object of a store lie, and the checksums that follow them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import google_crc32c
import numpy as np

from mksdask.arrays import Array

CHECKSUM_BYTES = 4
CHECKSUM = "crc32c"
MISSING, EMPTY, SHORT = "is missing", "is empty", "is shorter than it was written"
CHANGED, INDEX_CHANGED = "has a checksum that is not the stored one", "has an index that was changed or cut off"
# The index of a shard marks parts that it does not hold with this offset and this length.
_ABSENT = np.uint64(2**64 - 1)


def checksum(data: Array) -> Array:
    """Compute the checksum of bytes."""
    return np.array([google_crc32c.value(data)], dtype="<u4").view(np.uint8)


def has_checksum(data: Array) -> bool:
    """Whether bytes end with their own checksum."""
    if len(data) < CHECKSUM_BYTES:
        return False
    return checksum(data[:-CHECKSUM_BYTES]).tobytes() == data[-CHECKSUM_BYTES:].tobytes()


@dataclass(frozen=True)
class Layout:
    """How an array is cut into objects, these into parts, and which of them have checksums.

    Parameters
    ----------
    shape, objects : tuple of int
        Shape of the array, and of one object.
    parts : tuple of int or None
        Shape of a part, if objects are shards that hold an index.
    is_checked, is_index_checked : bool
        Whether each part, or each object without parts, ends with a checksum, and whether the index does.
    prefix, separator : str
        What keys of objects begin with, and what stands between their numbers.
    """

    shape: tuple[int, ...]
    objects: tuple[int, ...]
    parts: tuple[int, ...] | None
    is_checked: bool
    is_index_checked: bool
    prefix: str = "c"
    separator: str = "/"

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> Layout:
        """Read the layout from metadata that were checked before."""
        shape = tuple(metadata["shape"])
        if metadata["zarr_format"] == 2:
            separator = metadata.get("dimension_separator") or "."
            return cls(
                shape,
                tuple(metadata["chunks"]),
                None,
                is_checked=False,
                is_index_checked=False,
                prefix="",
                separator=separator,
            )
        objects = tuple(metadata["chunk_grid"]["configuration"]["chunk_shape"])
        keys = metadata.get("chunk_key_encoding") or {"name": "default"}
        separator = (keys.get("configuration") or {}).get("separator") or ("/" if keys["name"] == "default" else ".")
        prefix = "c" if keys["name"] == "default" else ""
        codecs, parts, is_index_checked = metadata["codecs"], None, False
        if _is_plain_shard(codecs):
            options = codecs[0]["configuration"]
            parts, codecs = tuple(options["chunk_shape"]), options["codecs"]
            is_index_checked = _name(options["index_codecs"][-1]) == CHECKSUM
        is_checked = _name(codecs[-1]) == CHECKSUM and _name(codecs[0]) != "sharding_indexed"
        return cls(shape, objects, parts, is_checked, is_index_checked, prefix, separator)

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """The number of objects along each axis."""
        return tuple(-(-n // step) for n, step in zip(self.shape, self.objects, strict=True))

    @cached_property
    def parts_along(self) -> tuple[int, ...]:
        """The number of parts of an object along each axis."""
        return tuple(n // step for n, step in zip(self.objects, self.parts or self.objects, strict=True))

    @property
    def index_bytes(self) -> int:
        """Bytes of the index of a shard."""
        return 16 * math.prod(self.parts_along) + CHECKSUM_BYTES * self.is_index_checked

    def key(self, block: tuple[int, ...]) -> str:
        """Name an object by its position."""
        if not block and not self.prefix:
            return "0"
        return self.separator.join((*((self.prefix,) if self.prefix else ()), *map(str, block)))

    def block(self, key: str) -> tuple[int, ...] | None:
        """Find the position of an object from its name. Return None if it is not one of the array."""
        numbers = [*([] if key == self.prefix else key.split(self.separator))]
        if self.prefix and numbers:
            numbers = numbers[1:] if numbers[0] == self.prefix else ["?"]
        elif not self.shape and key == "0":
            return ()
        if len(numbers) != len(self.shape) or not all(number.isdecimal() for number in numbers):
            return None
        block = tuple(map(int, numbers))
        return block if all(i < n for i, n in zip(block, self.counts, strict=True)) else None

    def held(self, block: tuple[int, ...]) -> tuple[slice, ...]:
        """Select the parts of an object that lie in the array. Those beyond its end are not written."""
        return tuple(
            slice(0, -(-min(n - i * step, step) // part))
            for n, i, step, part in zip(self.shape, block, self.objects, self.parts or self.objects, strict=True)
        )

    def index(self, data: Array) -> Array | None:
        """Read the index at the end of a shard: an offset and a length of each part. Return None if it is damaged."""
        if len(data) < self.index_bytes:
            return None
        found = data[-self.index_bytes :]
        if self.is_index_checked:
            if not has_checksum(found):
                return None
            found = found[:-CHECKSUM_BYTES]
        # Bytes may begin at any address.
        return np.frombuffer(found.tobytes(), dtype="<u8").reshape(*self.parts_along, 2)

    def absent(self, index: Array, block: tuple[int, ...]) -> list[tuple[int, ...]]:
        """List the parts that an object should hold, and that its index does not have."""
        gone = (index[self.held(block)] == _ABSENT).all(axis=-1)
        return [tuple(map(int, part)) for part in np.argwhere(gone)]

    def faults(self, data: Array, block: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...] | None, str]]:
        """Yield what is damaged in an object: which part, or None for the whole of it, and the kind of damage."""
        if not len(data):
            yield None, EMPTY
            return
        if self.parts is None:
            if self.is_checked and not has_checksum(data):
                yield None, CHANGED
            return
        index = self.index(data)
        if index is None:
            yield None, INDEX_CHANGED
            return
        for part in self.absent(index, block):
            yield part, MISSING
        for part in np.ndindex(*(along.stop for along in self.held(block))):
            start, length = map(int, index[part])
            if start == _ABSENT:
                continue
            if start + length > len(data) - self.index_bytes:
                yield part, SHORT
            elif self.is_checked and not has_checksum(data[start : start + length]):
                yield part, CHANGED

    def without_checksums(self, data: Array) -> Array:
        """Take the checksums off an object that was checked, or off the index of one. `data` may be changed."""
        if self.parts is None:
            return data[: -CHECKSUM_BYTES if self.is_checked else None]
        end = len(data) - CHECKSUM_BYTES * self.is_index_checked
        if not self.is_checked:
            return data[:end]
        start = end - 16 * math.prod(self.parts_along)
        index = np.frombuffer(data[start:end].tobytes(), dtype="<u8").reshape(-1, 2).copy()
        index[index[:, 0] != _ABSENT, 1] -= CHECKSUM_BYTES
        data = data if data.flags.writeable else data.copy()
        data[start:end] = index.view(np.uint8).ravel()
        return data[:end]

    def with_checksums(self, data: Array) -> list[Array]:
        """Put checksums behind the parts of an object without them, or behind an object without parts.

        Returns
        -------
        list of array of uint8
            What is written one after the other. Views of `data` alternate with checksums.
        """
        if self.parts is None:
            return [data, checksum(data)] if self.is_checked else [data]
        end = len(data) - 16 * math.prod(self.parts_along)
        index = np.frombuffer(data[end:].tobytes(), dtype="<u8").reshape(-1, 2).copy()
        pieces, there = [], np.flatnonzero(index[:, 0] != _ABSENT)
        for shift, part in enumerate(there[np.argsort(index[there, 0])] if self.is_checked else ()):
            start, length = map(int, index[part])
            piece = data[start : start + length]
            pieces += [piece, checksum(piece)]
            index[part] += np.array([shift, 1], dtype="<u8") * CHECKSUM_BYTES
        head, tail = pieces or [data[:end]], index.view(np.uint8).ravel()
        return [*head, tail, checksum(tail)] if self.is_index_checked else [*head, tail]


def _name(codec: Any) -> Any:
    return codec.get("name") if isinstance(codec, dict) else codec


def _is_plain_shard(codecs: list[Any]) -> bool:
    """Whether objects are shards, through no other codec, with an index at their end."""
    if len(codecs) != 1 or _name(codecs[0]) != "sharding_indexed":
        return False
    return codecs[0]["configuration"].get("index_location", "end") == "end"


def metadata_without_checksums(metadata: Any) -> Any:
    """Metadata of arrays as `CheckedStore` hands them out: without the codecs of the checksums that it takes off."""
    if not isinstance(metadata, dict) or metadata.get("zarr_format") != 3:
        return metadata
    if metadata.get("node_type") == "group":
        known = metadata.get("consolidated_metadata")
        if not isinstance(known, dict):
            return metadata
        members = {name: metadata_without_checksums(found) for name, found in known["metadata"].items()}
        return metadata | {"consolidated_metadata": known | {"metadata": members}}
    codecs, layout = metadata["codecs"], Layout.of(metadata)
    if layout.parts is None:
        return metadata | {"codecs": codecs[:-1] if layout.is_checked else codecs}
    options = dict(codecs[0]["configuration"])
    for key, is_checked in (("codecs", layout.is_checked), ("index_codecs", layout.is_index_checked)):
        options[key] = options[key][:-1] if is_checked else options[key]
    return metadata | {"codecs": [{"name": "sharding_indexed", "configuration": options}]}
