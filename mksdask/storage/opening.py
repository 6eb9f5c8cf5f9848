"""All stores are opened here, after a check of what their metadata say, and before any chunk is decoded.

Metadata of stores of this package must be what their seal says, and their chunks are checked when they are read. Other
programs leave out chunks of one value, and these cannot be told from chunks that were lost. So they are counted when a
store of others is opened, and the user says whether they are right.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
import zarr

from mksdask.arrays import warn_caller
from mksdask.storage.arrays import WholeChunks, all_chunks_of
from mksdask.storage.atomic import FORMAT, SEAL, Location, is_generation, is_sealed, metadata_of, sha256_of
from mksdask.storage.checksums import METADATA, CheckedStore, WrittenStore, fault
from mksdask.storage.errors import DamageError
from mksdask.storage.layouts import INDEX_CHANGED, MISSING, Layout
from mksdask.storage.limits import CODECS, DEEPEST, PLAIN, large_label, objection_to, old_objection_to
from mksdask.storage.links import files_in

Mode = Literal["r", "r+"]
CHANGED_METADATA = "is not what was written"


def check_store(location: Location) -> dict[str, Any]:
    """Check the metadata of a store of this package and of all its arrays, and return those of the store.

    Raises
    ------
    DamageError
        If the metadata were changed after this package wrote them.
    FileNotFoundError
        If there is no zarr group or array.
    ValueError
        If the store or a member of it is of zarr format 2; if an array has a codec or a data type that the package
        does not write, or several compressors; or if it has chunks of size 0, too many chunks, or labels that are too
        large to be read on opening. The message names the array and what was found. Also if another version of the
        package wrote the store.
    """
    metadata, damage = checked_metadata(location)
    if damage:
        raise damage[0]
    return metadata


def checked_metadata(location: Location) -> tuple[dict[str, Any], list[DamageError]]:
    """Read the metadata of a store, and list their damage. Refuse everything else that `check_store` refuses."""
    location.fs.invalidate_cache()
    members = list(members_of(location))
    for name, found in members:
        _refuse(location, name, objection_to(name, found, CODECS))
    metadata: dict[str, Any] = members[0][1]
    if not is_sealed(metadata):
        return metadata, []
    attributes = metadata["attributes"]
    if attributes.get("format") != FORMAT:
        msg = (
            f"{location.path} holds a {attributes.get('mksdask')} of format {attributes.get('format')!r}, and this "
            f"version of mksdask reads only format {FORMAT}; make it again"
        )
        raise ValueError(msg)
    url = str(location.store)
    if attributes.get(SEAL) != sha256_of(metadata):
        remedy = (
            "make the store again, or restore it from a copy. If you copied the attributes of a store of mksdask to "
            f"another one, remove {SEAL!r} and 'format' there"
        )
        return metadata, [DamageError(url, "", "zarr.json", CHANGED_METADATA, remedy)]
    # An append that was killed may have left a larger number of samples.
    free = 1 if str(attributes.get("mksdask")).endswith("ensemble") else 0
    damage = []
    for name, known in metadata["consolidated_metadata"]["metadata"].items():
        copies = [_but_shape(found, free) for each, found in members if each == name]
        if len(copies) < 2:
            damage.append(DamageError(url, name, "zarr.json", MISSING))
        elif any(copy != _but_shape(known, free) for copy in copies):
            damage.append(DamageError(url, name, "zarr.json", CHANGED_METADATA))
    return metadata, damage


def _but_shape(metadata: dict[str, Any], first: int) -> tuple[Any, ...]:
    return metadata | {"shape": None}, len(metadata["shape"]), metadata["shape"][first:]


def checked_store(
    location: Location, metadata: Mapping[str, Any], name: str | None = None, *, allow_missing: bool = False
) -> CheckedStore:
    """Open a store for reading, after a check of its metadata, so that all its chunks are checked when they are read.

    Parameters
    ----------
    location, metadata
        The store, and its metadata.
    name : str, optional
        The only array that will be read. Default: all.
    allow_missing : bool, default False
        Whether chunks that another program did not write are taken as the fill value.

    Raises
    ------
    ValueError
        If another program wrote the store, chunks are missing, and `allow_missing` is not set.
    """
    url, remedy, inner = str(location.store), "", location.opened(read_only=True)
    if is_sealed(metadata):
        attributes = metadata["attributes"]
        if str(attributes.get("mksdask")).startswith("partial "):
            remedy = "the store is not complete; repeat the call that writes it"
        layouts = {key: Layout.of(found) for key, found in metadata["consolidated_metadata"]["metadata"].items()}
        return CheckedStore(
            inner,
            url,
            layouts,
            attributes[SEAL],
            remedy=remedy,
            stamp=str(attributes.get("stamp", "")),
            follow_links=location.follow_links,
        )
    names = [name] if name is not None else sorted({key for key, _ in members_of(location)})
    arrays = {
        key: found for key in names if (found := foreign_metadata(location, key) or {}).get("node_type") == "array"
    }
    layouts = {key: Layout.of(found) for key, found in arrays.items()}
    for key, layout in layouts.items():
        n_missing, n_chunks = count_missing(location, key, layout)
        if n_missing:
            told = f"{url} lacks {n_missing} of {n_chunks} chunks of its array {key!r}"
            fill = arrays[key].get("fill_value")
            if not allow_missing:
                msg = (
                    f"{told}. If its author left them out because they hold nothing but {fill}, pass "
                    "allow_missing=True, or --allow-missing to the command. Otherwise get a whole copy of it"
                )
                raise ValueError(msg)
            warn_caller(f"{told}; they are read as {fill}")
    stamp, newest = location.modified(), location.newest()
    return CheckedStore(
        inner,
        url,
        layouts,
        stamp,
        allow_missing=allow_missing,
        stamp=stamp,
        newest=newest,
        follow_links=location.follow_links,
    )


def count_missing(location: Location, name: str, layout: Layout) -> tuple[int, int]:
    """Count the chunks of an array that are not in a store, and all of them, without reading them.

    If an object holds several chunks, its index is read.

    Raises
    ------
    DamageError
        If such an index is damaged.
    ValueError
        If a link leads out of the store, and such links are not followed.
    """
    folder = "/".join(part for part in (location.path, name) if part) + "/"
    if location.is_local:
        keys = [*files_in(folder, follow_links=location.follow_links)]
        for key in filter(lambda key: Path(folder, key).is_symlink(), keys):
            location.check_link(f"{name}/{key}".lstrip("/"))
    else:
        keys = [path.removeprefix(folder) for path in location.fs.find(folder)]
    paths = {block: f"{folder}{key}" for key in keys if (block := layout.block(key)) is not None}
    n_objects = math.prod(layout.counts)
    if layout.parts is None:
        return n_objects - len(paths), n_objects
    n_chunks = math.prod(-(-n // part) for n, part in zip(layout.shape, layout.parts, strict=True))
    n_there, size = 0, layout.index_bytes
    found = location.fs.cat_ranges(list(paths.values()), [-size] * len(paths), [None] * len(paths))
    for (block, path), content in zip(paths.items(), found, strict=True):
        index = layout.index(np.frombuffer(content, dtype=np.uint8))
        if index is None:
            raise fault(str(location.store), name, path.removeprefix(folder), None, INDEX_CHANGED)
        n_there += math.prod(along.stop for along in layout.held(block)) - len(layout.absent(index, block))
    return n_chunks - n_there, n_chunks


def open_group(location: Location) -> zarr.Group:
    """Open the group of a store for reading, after `check_store`."""
    return zarr.open_group(checked_store(location, _check_group(location)), mode="r", zarr_format=3)


def open_array(location: Location, name: str = "", mode: Mode = "r") -> zarr.Array[Any]:
    """Open one array of a store of this package, or a store that is itself an array, after the same check."""
    metadata = check_store(location)
    found = foreign_metadata(location, name)
    if found is None or found.get("node_type") == "group":
        msg = f"{location.path} has no array {name!r}"
        raise FileNotFoundError(msg)
    if mode == "r":
        array = zarr.open_array(checked_store(location, metadata, name), path=name, mode=mode, zarr_format=3)
        # zarr does not let a shard choose where its parts go.
        return array if array.shards or array.compressors else WholeChunks(array.async_array)
    written = WrittenStore(location.opened(), str(location.store), name, found)
    return all_chunks_of(zarr.open_array(written, path=name, mode=mode, zarr_format=3))


def open_dataset(location: Location, chunks: Any, *, allow_missing: bool = False) -> xr.Dataset:
    """Open a store lazily by xarray, after `check_store`. Coordinates are read at once, unless they are large."""
    metadata = _check_group(location)
    opened = partial(
        xr.open_zarr,
        checked_store(location, metadata, allow_missing=allow_missing),
        consolidated=metadata.get("consolidated_metadata") is not None,
        zarr_format=3,
    )
    dataset: xr.Dataset = opened(chunks=chunks)
    if all(values.chunks is None for values in dataset.coords.values()):
        return dataset
    return dataset.assign_coords(small_coords(opened(chunks=None)))


def small_coords(dataset: xr.Dataset) -> dict[str, xr.Variable]:
    """Read the coordinates of a store that xarray does not read on opening, unless they are as large as data."""
    return {
        str(name): values.variable.load()
        for name, values in dataset.coords.items()
        if name not in dataset.xindexes
        and not large_label([*values.shape], [*values.encoding.get("chunks", values.shape)], values.dtype.itemsize)
    }


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
    try:
        found = _any_metadata(location, name)
    except RecursionError:
        is_deep = True
    else:
        is_deep = _is_deep(found)
    _refuse(location, name, f"has metadata that are nested more than {DEEPEST} levels deep" if is_deep else None)
    return found


def _any_metadata(location: Location, name: str) -> dict[str, Any] | None:
    for key in METADATA:
        location.check_link(f"{name}/{key}".lstrip("/"))
    found = metadata_of(location, name)
    if found is not None:
        return found
    for key, node_type in ((".zarray", "array"), (".zgroup", "group")):
        if (found := metadata_of(location, name, key)) is not None:
            attributes = metadata_of(location, name, ".zattrs") or {}
            return found | {"zarr_format": 2, "node_type": node_type, "attributes": attributes}
    return None


def _is_deep(found: Any) -> bool:
    """Whether lists and dictionaries lie in each other more than `DEEPEST` levels deep."""
    level = [found]
    for _ in range(DEEPEST):
        level = [
            child
            for each in level
            if isinstance(each, dict | list)
            for child in (each.values() if isinstance(each, dict) else each)
        ]
    return any(isinstance(each, dict | list) for each in level)


def open_foreign(
    location: Location, name: str = "", *, is_label: bool = False, allow_missing: bool = False
) -> zarr.Array[Any]:
    """Open an array that another program wrote in zarr format 2 or 3, if it holds numbers in plain codecs.

    With `is_label`, the array is to be read whole, and refused if it is too large for that. With `allow_missing`,
    chunks that are not in the store are taken as the fill value, and a warning counts them.

    Raises
    ------
    FileNotFoundError
        If there is no array.
    ValueError
        If it has another codec or data type, or fails another check of `check_store`; or if chunks are missing, and
        `allow_missing` is not set.
    """
    root = foreign_metadata(location) or {}
    if is_sealed(root):
        check_store(location)
    metadata = foreign_metadata(location, name)
    if metadata is None or metadata.get("node_type") != "array":
        msg = f"{location.path} has no array {name!r}"
        raise FileNotFoundError(msg)
    is_old = metadata.get("zarr_format") == 2
    allowed = (*CODECS, "endian", *(f"numcodecs.{codec}" for codec in PLAIN))
    objection = (
        old_objection_to(metadata, is_label=is_label)
        if is_old
        else objection_to(name, metadata, allowed, is_label=is_label)
    )
    _refuse(location, name, objection)
    store = checked_store(location, root, name, allow_missing=allow_missing)
    return zarr.open_array(store, path=name, mode="r", zarr_format=2 if is_old else 3)


def members_of(location: Location, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the metadata of a node and of everything below it, both from files and from consolidated metadata."""
    metadata = foreign_metadata(location, name)
    if metadata is None:
        if not name:
            what = "is not a zarr v3 group" if location.exists() else "does not exist"
            msg = f"{location.path} {what}"
            raise FileNotFoundError(msg)
        return
    yield from _consolidated(name, metadata)
    if metadata.get("node_type") == "array":
        return
    for info in location.fs.ls("/".join(part for part in (location.path, name) if part), detail=True):
        child = info["name"].rstrip("/").rpartition("/")[2]
        if info["type"] != "file" and not (is_sealed(metadata) and is_generation(child)):
            yield from members_of(location, f"{name}/{child}".lstrip("/"))


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
