"""Stores of zarr whose chunks are checked when they are read, and get their checksums when they are written.

zarr takes a chunk that is missing for zeros. Its message of a wrong checksum says neither which chunk it is nor what to
do. Stores are therefore read through `CheckedStore`. It checks every chunk and every index of a shard, and hands them
to zarr without their checksums, so that they are not computed twice. What zarr writes through `WrittenStore` gets
checksums where zarr's own codec would have put them, without a copy.
"""

from __future__ import annotations

import asyncio
import copy
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.storage import LocalStore, WrapperStore

from mksdask.arrays import Array
from mksdask.compute.faults import retried_async, retries, telling
from mksdask.storage.errors import ChangedError, DamageError
from mksdask.storage.layouts import (
    CHECKSUM_BYTES,
    EMPTY,
    INDEX_CHANGED,
    MISSING,
    SHORT,
    Layout,
    has_checksum,
    metadata_without_checksums,
)
from mksdask.storage.links import refuse_link

METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
# What `CheckedStore._checked` says of bytes that may be those of several parts.
_UNSURE = object()


class CheckedStore(WrapperStore[Store]):
    """A store of zarr whose chunks are checked when they are read.

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
        self.stamp, self.newest, self.follow_links = stamp, newest, follow_links
        # Time, file and size of the metadata when they were last seen to have the stamp.
        self._same: tuple[int, ...] = ()

    def _with_store(self, store: Store) -> Self:
        new = copy.copy(self)
        new._store = store
        return new

    def __str__(self) -> str:
        return self.url

    def __dask_tokenize__(self) -> Any:
        return "mksdask-store", self.url, self.token, self.allow_missing

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Read metadata, or a chunk, or a part of it, and check it."""
        name = self._place(key)[0]
        what = f"chunk {key.removeprefix(f'{name}/')} of the array {name!r}" if name else key
        get = self._get_metadata if _is_metadata(key) else self._get_chunk
        with telling(f"reading {what} of {self.url}", is_last=False, only=_is_of_reading):
            return await retried_async(partial(get, key, prototype, byte_range), self.n_retries)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Read several chunks or parts of them, as `get` does."""
        return list(await asyncio.gather(*(self.get(key, prototype, span) for key, span in key_ranges)))

    async def _get_metadata(self, key: str, prototype: BufferPrototype, span: ByteRequest | None) -> Buffer | None:
        await asyncio.to_thread(self._check_link, key)
        found = await self._store.get(key, prototype, span)
        if found is None or span is not None or not key.endswith("zarr.json"):
            return found
        metadata = metadata_without_checksums(json.loads(found.to_bytes()))
        return prototype.buffer.from_bytes(json.dumps(metadata).encode())

    async def _get_chunk(self, key: str, prototype: BufferPrototype, span: ByteRequest | None) -> Buffer | None:
        if isinstance(self._store, LocalStore):
            checked = await asyncio.to_thread(self._read, self._store.root, key, span)
        else:
            checked = await self._fetch(key, prototype, span)
        return None if checked is None else prototype.buffer.from_array_like(checked)

    def _read(self, root: Path, key: str, span: ByteRequest | None) -> Any:
        """Read a chunk from a file, and refuse it if its store is no longer the one that was opened."""
        self._check_link(key)
        layout = self._place(key)[1]
        try:
            checked = self._checked(_read(Path(root, key), _extended(span, layout)), key, span)
            if checked is _UNSURE:
                self._checked(_read(Path(root, key), None), key, None)
                checked = _read(Path(root, key), span)
        except DamageError:
            # The chunks of a store that took the place of this one may have other sizes.
            if not self.newest:
                self._check_same(root, key)
            raise
        # A chunk is that of the store that was opened, if this store is still there after the chunk was read.
        self._check_same(root, key)
        return checked

    async def _fetch(self, key: str, prototype: BufferPrototype, span: ByteRequest | None) -> Any:
        """Read a chunk from an object store, and refuse it if its store is no longer the one that was opened."""

        async def fetched(span: ByteRequest | None) -> Array | None:
            found = await self._store.get(key, prototype, span)
            return None if found is None else found.as_numpy_array().view(np.uint8)

        try:
            checked = self._checked(await fetched(_extended(span, self._place(key)[1])), key, span)
            if checked is _UNSURE:
                self._checked(await fetched(None), key, None)
                checked = await fetched(span)
        except DamageError:
            if self.stamp:
                await self._check_there(prototype)
            raise
        return checked

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
        metadata = root / "zarr.json"
        try:
            found = metadata.stat()
            known = found.st_mtime_ns, found.st_ino, found.st_size
            if known == self._same:
                return
            stamp = json.loads(metadata.read_bytes())["attributes"].get("stamp")
        except (OSError, ValueError, KeyError) as error:
            raise ChangedError(self.url) from error
        if stamp != self.stamp:
            raise ChangedError(self.url)
        self._same = known

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

    def _checked(self, data: Array | None, key: str, span: ByteRequest | None) -> Any:
        """Check what was read, and take the checksums off."""
        name, layout, block = self._place(key)

        def refuse(part: tuple[int, ...] | None, kind: str) -> None:
            remedy = self.remedy if kind == MISSING else ""
            raise fault(self.url, name, key.removeprefix(f"{name}/"), part, kind, remedy)

        if data is None:
            if not self.allow_missing:
                refuse(None, MISSING)
            return None
        if layout is None:
            return data
        if isinstance(span, RangeByteRequest):
            if len(data) < span.end - span.start + CHECKSUM_BYTES * layout.is_checked:
                refuse(None, SHORT)
            if not layout.is_checked:
                return data
            # Several parts may have been read at once. Then the whole object tells.
            return data[:-CHECKSUM_BYTES] if has_checksum(data) else _UNSURE
        if isinstance(span, SuffixByteRequest) and layout.parts is not None:
            index = layout.index(data)
            if index is None:
                refuse(None, INDEX_CHANGED if len(data) else EMPTY)
            elif not self.allow_missing and (absent := layout.absent(index, block)):
                refuse(absent[0], MISSING)
            return layout.without_checksums(data)
        for part, kind in layout.faults(data, block):
            if kind != MISSING or not self.allow_missing:
                refuse(part, kind)
        return layout.without_checksums(data)


class WrittenStore(CheckedStore):
    """A store of zarr whose chunks get checksums when they are written, and whose metadata say so.

    Parameters
    ----------
    store : Store
        The store that takes the chunks.
    url : str
        Its path or URL, for messages.
    name : str
        Name of the only array that is written.
    metadata : mapping
        Metadata of this array. Its codecs end with those of the checksums.

    Notes
    -----
    Chunks that have not been written yet are taken as the fill value.
    """

    def __init__(self, store: Store, url: str, name: str, metadata: Mapping[str, Any]) -> None:
        super().__init__(store, url, {name: Layout.of(metadata)}, url, allow_missing=True)
        self.codecs = metadata["codecs"]

    async def set(self, key: str, value: Buffer) -> None:
        """Write metadata or a chunk."""
        layout, data = self._place(key)[1], value.as_numpy_array()
        if _is_metadata(key):
            metadata = json.loads(data.tobytes()) | {"codecs": self.codecs}
            # The array may have another length now.
            self.layouts = dict.fromkeys(self.layouts, Layout.of(metadata))
            await self._store.set(key, type(value).from_bytes(json.dumps(metadata, indent=2).encode()))
            return
        assert layout is not None
        pieces = layout.with_checksums(data)
        if isinstance(self._store, LocalStore):
            await asyncio.to_thread(_write, Path(self._store.root, key), pieces)
        else:
            await self._store.set(key, type(value).from_array_like(np.concatenate(pieces)))


def fault(url: str, name: str, key: str, part: tuple[int, ...] | None, kind: str, remedy: str = "") -> DamageError:
    """Describe damage of an object, or of a part of it."""
    which = f"chunk {key}" if part is None else f"part {', '.join(map(str, part))} of chunk {key}"
    return DamageError(url, name, which, kind, remedy)


def _is_metadata(key: str) -> bool:
    return key.rpartition("/")[2] in METADATA


def _is_of_reading(error: Exception) -> bool:
    return not isinstance(error, DamageError | ChangedError)


def _extended(span: ByteRequest | None, layout: Layout | None) -> ByteRequest | None:
    """Extend a range of bytes of a chunk without checksums by the checksum that follows it in the store."""
    if layout is None:
        return span
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


def _write(path: Path, pieces: Sequence[Array]) -> None:
    """Write a file beside its place, and move it there, so that it is never half there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Such a name is known as a leftover of a store.
    beside = path.with_suffix(f".{uuid.uuid4().hex}.partial")
    try:
        with beside.open("wb") as file:
            file.writelines(piece.data for piece in pieces)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
