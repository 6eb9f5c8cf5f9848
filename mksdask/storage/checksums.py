"""Chunks are checked when they are read: none may be missing, and each must have the checksum that it was written with.

zarr takes a chunk that is missing for zeros. Its message of a wrong checksum says neither which chunk it is nor what to
do. Stores are therefore read through `CheckedStore`. It checks every chunk and every index of a shard, and hands them
to zarr without their checksums, so that they are not computed twice.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, WrapperStore

from mksdask.arrays import Array
from mksdask.compute.faults import retried_async, retries, telling
from mksdask.storage.errors import ChangedError, DamageError
from mksdask.storage.links import refuse_link

CHECKSUM_BYTES = 4
CHECKSUM = "crc32c"
MISSING, EMPTY, SHORT = "is missing", "is empty", "is shorter than it was written"
LINKED = "is a link that leads out of the store"
CHANGED_METADATA = "is not what was written"
CHANGED, INDEX_CHANGED = "has a checksum that is not the stored one", "has an index that was changed or cut off"
# The index of a shard marks parts that it does not hold with this offset and this length.
_ABSENT = np.uint64(2**64 - 1)
METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")


def has_checksum(data: Array) -> bool:
    """Whether bytes end with their own checksum."""
    if len(data) < CHECKSUM_BYTES:
        return False
    found: int = google_crc32c.value(data[:-CHECKSUM_BYTES])
    return found.to_bytes(CHECKSUM_BYTES, "little") == data[-CHECKSUM_BYTES:].tobytes()


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


def _name(codec: Any) -> Any:
    return codec.get("name") if isinstance(codec, dict) else codec


def _is_plain_shard(codecs: list[Any]) -> bool:
    """Whether objects are shards, through no other codec, with an index at their end."""
    if len(codecs) != 1 or _name(codecs[0]) != "sharding_indexed":
        return False
    return codecs[0]["configuration"].get("index_location", "end") == "end"


def _without_checksums(metadata: Any) -> Any:
    """Metadata of arrays as `CheckedStore` hands them out: without the codecs of the checksums that it takes off."""
    if not isinstance(metadata, dict) or metadata.get("zarr_format") != 3:
        return metadata
    if metadata.get("node_type") == "group":
        known = metadata.get("consolidated_metadata")
        if not isinstance(known, dict):
            return metadata
        members = {name: _without_checksums(found) for name, found in known["metadata"].items()}
        return metadata | {"consolidated_metadata": known | {"metadata": members}}
    codecs, layout = metadata["codecs"], Layout.of(metadata)
    if layout.parts is None:
        return metadata | {"codecs": codecs[:-1] if layout.is_checked else codecs}
    options = dict(codecs[0]["configuration"])
    for key, is_checked in (("codecs", layout.is_checked), ("index_codecs", layout.is_index_checked)):
        options[key] = options[key][:-1] if is_checked else options[key]
    return metadata | {"codecs": [{"name": "sharding_indexed", "configuration": options}]}


class CheckedStore(WrapperStore[Store]):
    """A store of zarr that is only read, and whose chunks are checked.

    Parameters
    ----------
    store : Store
        The store that holds the chunks.
    url : str
        Its path or URL, for messages.
    layouts : mapping of str to Layout
        The arrays by name.
    token : str
        Changes whenever the store does. It becomes a part of the names of lazy arrays.
    remedy : str
        What to do if a chunk is missing. Default: the usual words.
    allow_missing : bool, default False
        Whether a missing chunk is taken as the fill value.
    stamp : str
        The stamp of the store when it was opened. If it has another one when a chunk is read, the chunk is refused.
    newest : int
        When a file of a store without a stamp was changed last. A chunk that was changed later is refused.
    follow_links : bool, default False
        Whether a link out of the store is read. By default it is refused.

    Notes
    -----
    A read that fails for a reason that may heal by itself is tried again; see `mksdask.compute.faults`. How often was
    configured where the store was opened, and holds on all workers.
    """

    def __init__(
        self,
        store: Store,
        url: str,
        layouts: Mapping[str, Layout],
        token: str,
        *,
        remedy: str = "",
        allow_missing: bool = False,
        stamp: str = "",
        newest: int = 0,
        follow_links: bool = False,
    ) -> None:
        super().__init__(store)
        self.url, self.layouts, self.token, self.remedy, self.allow_missing = url, layouts, token, remedy, allow_missing
        self.n_retries = retries()
        self.stamp, self.newest, self.follow_links, self._same = stamp, newest, follow_links, b""

    def _with_store(self, store: Store) -> CheckedStore:
        new = CheckedStore(
            store,
            self.url,
            self.layouts,
            self.token,
            remedy=self.remedy,
            allow_missing=self.allow_missing,
            stamp=self.stamp,
            newest=self.newest,
            follow_links=self.follow_links,
        )
        new.n_retries = self.n_retries
        return new

    def __dask_tokenize__(self) -> Any:
        return "mksdask-store", self.url, self.token, self.allow_missing

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Read metadata, or a chunk, or a part of it, and check it."""
        name = self._place(key)[0]
        what = f"chunk {key.removeprefix(f'{name}/')} of the array {name!r}" if name else key
        with telling(f"reading {what} of {self.url}", is_last=False, only=_is_of_reading):
            return await retried_async(partial(self._get_same, key, prototype, byte_range), self.n_retries)

    async def _get_same(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None) -> Buffer | None:
        """Read a chunk, and refuse it if its store is no longer the one that was opened."""
        store = self._store
        root = store.root if isinstance(store, LocalStore) and key.rpartition("/")[2] not in METADATA else None
        try:
            found = await self._get(key, prototype, byte_range)
        except DamageError:
            # The chunks of a store that took the place of this one may have other sizes.
            if root is not None and not self.newest:
                await asyncio.to_thread(self._check_same, root, key)
            elif root is None and self.stamp and not key.endswith(METADATA):
                await self._check_there(prototype)
            raise
        # A chunk is that of the store that was opened, if this store is still there after the chunk was read.
        if root is not None:
            await asyncio.to_thread(self._check_same, root, key)
        return found

    async def _check_there(self, prototype: BufferPrototype) -> None:
        """Say that a chunk on an object store is missing because its store was replaced or removed, if it was."""
        found = await self._store.get("zarr.json", prototype)
        attributes = {} if found is None else json.loads(found.to_bytes()).get("attributes") or {}
        # The stores of other programs have no stamp.
        if found is None or attributes.get("stamp", self.stamp) != self.stamp:
            raise ChangedError(self.url)

    def _check_same(self, root: Path, key: str) -> None:
        """Refuse a chunk if its store was replaced or changed after it was opened."""
        if self.newest:
            with suppress(OSError):
                if Path(root, key).stat().st_mtime_ns > self.newest:
                    raise ChangedError(self.url)
            return
        if not self.stamp:
            return
        try:
            found = os.stat(root / "zarr.json")  # noqa: PTH116
            known = f"{found.st_mtime_ns} {found.st_ino} {found.st_size}".encode()
            if known != self._same:
                if json.loads((root / "zarr.json").read_bytes())["attributes"].get("stamp") != self.stamp:
                    raise ChangedError(self.url)
                self._same = known
        except (OSError, ValueError, KeyError) as error:
            if isinstance(error, ChangedError):
                raise
            raise ChangedError(self.url) from error

    async def _get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None) -> Buffer | None:
        name, layout, block = self._place(key)
        is_metadata = key.rpartition("/")[2] in METADATA
        if is_metadata or layout is None:
            await asyncio.to_thread(self._check_link, key)
        if is_metadata:
            found = await self._store.get(key, prototype, byte_range)
            if found is None or byte_range is not None or not key.endswith("zarr.json"):
                return found
            return prototype.buffer.from_bytes(json.dumps(_without_checksums(json.loads(found.to_bytes()))).encode())
        if layout is None:
            found = await self._store.get(key, prototype, byte_range)
            if found is None and not self.allow_missing:
                self._refuse(name, key, None, MISSING)
            return found
        wanted = _extended(byte_range, layout)
        if isinstance(self._store, LocalStore):
            path = Path(self._store.root, key)

            def read() -> Any:
                self._check_link(key)
                return self._checked(_read(path, wanted), name, layout, block, byte_range)

            checked = await asyncio.to_thread(read)
        else:
            buffer = await self._store.get(key, prototype, wanted)
            data = None if buffer is None else buffer.as_numpy_array().view(np.uint8)
            checked = self._checked(data, name, layout, block, byte_range)
        if checked is _UNSURE:
            # Several parts may have been read at once. Then the whole object tells.
            await self._get(key, prototype, None)
            return await self._store.get(key, prototype, byte_range)
        return None if checked is None else prototype.buffer.from_array_like(checked)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Read several chunks or parts of them, as `get` does."""
        return list(await asyncio.gather(*(self.get(key, prototype, span) for key, span in key_ranges)))

    def _place(self, key: str) -> tuple[str, Layout | None, tuple[int, ...]]:
        """Find the array of a key, and the position of the object in it."""
        for name, layout in self.layouts.items():
            inner = key.removeprefix(f"{name}/") if name else key
            if (inner != key or not name) and (block := layout.block(inner)) is not None:
                return name, layout, block
        return "", None, ()

    def _check_link(self, key: str) -> None:
        if isinstance(self._store, LocalStore) and not self.follow_links:
            refuse_link(self._store.root, key)

    def _refuse(self, name: str, key: str, part: tuple[int, ...] | None, kind: str) -> None:
        raise fault(self.url, name, key.removeprefix(f"{name}/"), part, kind, self.remedy if kind == MISSING else "")

    def _checked(
        self, data: Array | None, name: str, layout: Layout, block: tuple[int, ...], span: ByteRequest | None
    ) -> Any:
        """Check what was read, and take the checksums off."""
        key = layout.key(block)
        if data is None:
            if not self.allow_missing:
                self._refuse(name, key, None, MISSING)
            return None
        if isinstance(span, RangeByteRequest):
            if len(data) < span.end - span.start + CHECKSUM_BYTES * layout.is_checked:
                self._refuse(name, key, None, SHORT)
            if not layout.is_checked:
                return data
            return data[:-CHECKSUM_BYTES] if has_checksum(data) else _UNSURE
        if isinstance(span, SuffixByteRequest) and layout.parts is not None:
            index = layout.index(data)
            if index is None:
                self._refuse(name, key, None, INDEX_CHANGED if len(data) else EMPTY)
            elif not self.allow_missing and (absent := layout.absent(index, block)):
                self._refuse(name, key, absent[0], MISSING)
            return layout.without_checksums(data)
        for part, kind in layout.faults(data, block):
            if kind != MISSING or not self.allow_missing:
                self._refuse(name, key, part, kind)
        return layout.without_checksums(data)


def fault(url: str, name: str, key: str, part: tuple[int, ...] | None, kind: str, remedy: str = "") -> DamageError:
    """Describe damage of an object, or of a part of it."""
    which = f"chunk {key}" if part is None else f"part {', '.join(map(str, part))} of chunk {key}"
    return DamageError(url, name, which, kind, remedy)


def _is_of_reading(error: Exception) -> bool:
    return not isinstance(error, DamageError | ChangedError)


_UNSURE = object()


def _extended(span: ByteRequest | None, layout: Layout) -> ByteRequest | None:
    """Extend a range of bytes of a chunk without checksums by the checksum that follows it in the store."""
    if isinstance(span, RangeByteRequest):
        return RangeByteRequest(span.start, span.end + CHECKSUM_BYTES * layout.is_checked)
    if isinstance(span, SuffixByteRequest) and layout.parts is not None:
        return SuffixByteRequest(layout.index_bytes)
    return span


def _read(path: Path, span: ByteRequest | None) -> Array | None:
    """Read a file, or a range of it, into an array that may be changed. Return None if there is no file."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            first, last = 0, size
            if isinstance(span, RangeByteRequest):
                first, last = span.start, min(span.end, size)
            elif isinstance(span, SuffixByteRequest):
                first = max(0, size - span.suffix)
            elif isinstance(span, OffsetByteRequest):
                first = span.offset
            file.seek(first)
            data = np.empty(max(0, last - first), dtype=np.uint8)
            return data[: file.readinto(data.data)]
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None
