"""Writing a lazy result block by block, so that a run that was killed goes on where it stopped."""

from __future__ import annotations

import itertools
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import dask
import dask.array as da
import numpy as np
import xarray as xr
import zarr
from distributed import as_completed
from zarr.codecs import BloscCodec

from mksdask.arrays import ArrayLike
from mksdask.compute.blocks import stage_of
from mksdask.compute.client import distributed_client, settled
from mksdask.compute.graph import optimized_together
from mksdask.compute.progress import progress as show_progress
from mksdask.storage.atomic import (
    RESULTS,
    Location,
    Url,
    attributes_of,
    check_outside,
    consolidate,
    staged,
)
from mksdask.storage.opening import open_array, open_dataset

DEFAULT_NAME = "result"
# Number of a block along each axis.
Block: TypeAlias = tuple[int, ...]


def fingerprint_of(data: da.Array) -> dict[str, Any]:
    """What a result is made of: its layout, and a token of its graph, so of its inputs and parameters."""
    return {
        "shape": list(map(int, data.shape)),
        "dtype": str(data.dtype),
        "chunks": [list(map(int, sizes)) for sizes in data.chunks],
        "computation": str(data.name),
    }


def _regular(data: da.Array) -> da.Array:
    """The same with chunks of one size along each axis, but for a smaller last one: those that a store has."""
    if not data.shape or 0 in data.shape:
        msg = f"lazy must have an axis, and none that is empty, got shape {data.shape}; compute it instead"
        raise ValueError(msg)
    if any(np.isnan(n) for n in data.shape):
        msg = "lazy has chunks of unknown sizes; call lazy.compute_chunk_sizes() first"
        raise ValueError(msg)
    wanted = tuple(max(sizes) for sizes in data.chunks)
    return data if all(set(sizes[:-1]) <= {sizes[0]} for sizes in data.chunks) else data.rechunk(wanted)


def _missing(location: Location, name: str, counts: tuple[int, ...]) -> list[Block]:
    """Blocks that have not been written: the store has no object of theirs."""
    folder = f"{location.path}/{name}/c/"
    location.fs.invalidate_cache()
    there = {key.partition(folder)[2] for key in location.fs.find(folder)} if location.fs.exists(folder) else set()
    blocks = itertools.product(*(range(n) for n in counts))
    return [block for block in blocks if "/".join(map(str, block)) not in there]


def materialize(lazy: ArrayLike, url: Url, *, resume: bool = True, progress: bool = True) -> Any:
    """Write a lazy array into a store, block by block; called again after a run was killed, write what is missing.

    Parameters
    ----------
    lazy : dask array, or DataArray that holds one
        What is to be computed: statistics, predictions, fields.
    url : str or path
        A path, or any URL that fsspec knows.
    resume : bool, default True
        Go on with what an earlier call left there. False refuses a store that is not complete.
    progress : bool, default True
        Show a progress bar, in a terminal or a notebook; see `mksdask.progress`.

    Returns
    -------
    dask array or DataArray
        The stored result, opened lazily.

    Raises
    ------
    FileExistsError
        If something else is at `url`, be it an empty folder, or a part of this result and `resume` is False.
    TypeError
        If `lazy` is not lazy.
    ValueError
        If what is there was computed from other inputs or with other parameters; the message says what differs. If
        `url` lies inside a store.

    Notes
    -----
    A block is one object of the store, which is written whole and at once: it is the record of its own completion, for
    any number of writers. The store's attributes hold the layout and a token of the computation. Memory is that of the
    tasks that make the blocks.

    Examples
    --------
    >>> import dask.array as da, tempfile
    >>> squares = da.arange(10, chunks=4) ** 2
    >>> stored = materialize(squares, tempfile.mkdtemp() + "/squares.zarr", progress=False)
    >>> stored.compute().tolist()
    [0, 1, 4, 9, 16, 25, 36, 49, 64, 81]
    """
    return keep(lazy, url, "result", resume=resume, progress=progress)


def keep(lazy: ArrayLike, url: Url, kind: str, *, resume: bool = True, progress: bool = False) -> Any:
    """`materialize`, into a store that is marked as of some kind: a result, or a copy in scratch."""
    data, labels, name = _unwrap(lazy)
    location = write_blocks(data, url, kind, labels=labels, name=name, resume=resume, progress=progress)
    opened = open_dataset(location, chunks={})[name]
    return opened if labels is not None else opened.data


def reserve(lazy: ArrayLike, url: Url, kind: str) -> None:
    """Make an empty store for `keep`, or refuse now what it would refuse when all that it needs is computed."""
    data, labels, name = _unwrap(lazy)
    _open(data, url, kind, labels, name)


def _unwrap(lazy: ArrayLike) -> tuple[da.Array, xr.DataArray | None, str]:
    labels = lazy if isinstance(lazy, xr.DataArray) else None
    data = lazy.data if labels is not None else lazy
    if not isinstance(data, da.Array):
        msg = f"lazy must be a dask array, or a DataArray that holds one, got {type(data).__name__}"
        raise TypeError(msg)
    return _regular(data), labels, DEFAULT_NAME if labels is None or labels.name is None else str(labels.name)


def is_kept(lazy: ArrayLike, url: Url, kind: str, *, in_part: bool = False) -> bool:
    """Whether the whole of this very result is at `url`, or also if only a part of it is."""
    found = attributes_of(Location.of(url))
    marks = (kind, f"partial {kind}") if in_part else (kind,)
    return found.get("mksdask") in marks and found.get("fingerprint") == fingerprint_of(_unwrap(lazy)[0])


@contextmanager
def place_of_result(lazy: ArrayLike, url: Url, *, overwrite: bool, resume: bool) -> Iterator[Location]:
    """Where to write a result: its place; or beside it, while another result is there that is to be replaced.

    Raises
    ------
    FileExistsError
        If what is there is no result.
    """
    location = Location.of(url)
    if not overwrite or not location.exists() or (resume and is_kept(lazy, url, "result", in_part=True)):
        yield location
        return
    with staged(url, "w", RESULTS, resume=resume) as beside:
        yield beside


def save_result(dataset: xr.Dataset, url: Url, mode: str) -> None:
    """Write results that are in memory to a store, whole or not at all."""
    with staged(url, mode, RESULTS) as location:
        marked = dataset.assign_attrs(mksdask="result")
        marked.to_zarr(location.store, mode="w-", consolidated=False, zarr_format=3)
        consolidate(location)


def write_blocks(
    data: da.Array,
    url: Url,
    kind: str,
    *,
    labels: xr.DataArray | None = None,
    name: str = DEFAULT_NAME,
    resume: bool = True,
    progress: bool = False,
    parts: tuple[int, ...] | None = None,
    compressed: bool = True,
) -> Location:
    """Write the blocks that are missing at `url`; see `materialize`.

    Parameters
    ----------
    data : dask array
        With chunks of one size along each axis, but for a smaller last one.
    url, resume, progress
        As in `materialize`.
    kind : str
        What the store is marked as when it is complete.
    labels : DataArray, optional
        Dims, coordinates and attributes.
    name : str
        Name of the variable.
    parts : tuple of int, optional
        Shape of the parts of a block that readers want, if not all of it.
    compressed : bool, default True
        Whether compressing is worth its time.
    """
    location, target = _open(data, url, kind, labels, name, resume=resume, parts=parts, compressed=compressed)
    with show_progress(name) if progress else nullcontext():
        write_missing(location, {name: Writing(data, target)})
    # The attribute comes last, as the record that all is there.
    if attributes_of(location).get("mksdask") != kind:
        consolidate(location)
        zarr.open_group(location.store, mode="r+").attrs["mksdask"] = kind
    return location


def _open(
    data: da.Array, url: Url, kind: str, labels: xr.DataArray | None, name: str, *, resume: bool = True, **options: Any
) -> tuple[Location, zarr.Array[Any]]:
    """Where to write, and the array there; made if it is not."""
    location, fingerprint = Location.of(url), fingerprint_of(data)
    # An array takes this along to the workers: blocks of nothing but the fill value leave an object too.
    with zarr.config.set({"array.write_empty_chunks": True}):
        create = partial(_create, location, kind, name, data, labels, fingerprint, **options)
        return location, _target(url, location, kind, name, fingerprint, create, resume=resume)


@dataclass(frozen=True)
class Writing:
    """An array that is to be computed, in blocks that are objects of a store; and where in it they go."""

    data: da.Array
    target: zarr.Array[Any]
    start: int = 0  # along the first axis

    def blocks(self) -> list[Block]:
        """Numbers of all blocks."""
        return list(np.ndindex(*self.data.numblocks))

    def task(self, call: str) -> da.Array:
        """An array of the same blocks, which are written when they are computed."""
        starts = [np.cumsum((0, *sizes)) for sizes in self.data.chunks]
        starts[0] = starts[0] + self.start
        # The name says what is written, to the dashboard, and is new, lest the scheduler remember a call that wrote
        # elsewhere.
        stage = stage_of(self.data)
        return self.data.map_blocks(
            partial(_write, starts=tuple(tuple(along.tolist()) for along in starts)),
            target=dask.delayed(self.target),
            chunks=tuple((1,) * n for n in self.data.numblocks),
            dtype=np.uint8,
            meta=np.empty((0,) * self.data.ndim, dtype=np.uint8),
            name=f"{stage}-store-{call}" if stage else f"store-{call}",
        )


def write_shards(
    sources: Sequence[Any],
    targets: Sequence[Any],
    shards: Sequence[tuple[int, ...]],
    starts: Sequence[int] | None = None,
) -> None:
    """Write whole shards, all variables in one computation; `starts` are multiples of the shards along axis 0."""
    starts = [0] * len(sources) if starts is None else starts
    lazy = any(isinstance(source, da.Array) for source in sources)
    arrays = [
        source.rechunk(shard) if isinstance(source, da.Array) else da.from_array(source, chunks=shard)
        for source, shard in zip(sources, shards, strict=True)
    ]
    parts = [Writing(data, target, start) for data, target, start in zip(arrays, targets, starts, strict=True)]
    call = uuid.uuid4().hex
    settled(partial(_store, [(part, part.blocks()) for part in parts], call), stage=call, in_memory=not lazy)


def write_missing(location: Location, parts: Mapping[str, Writing]) -> None:
    """Compute, together, the blocks of arrays that the store lacks, and write them."""
    missing = [(part, _missing(location, name, part.data.numblocks)) for name, part in parts.items()]
    if any(blocks for _, blocks in missing):
        call = uuid.uuid4().hex
        settled(partial(_store, missing, call), stage=call)


def _store(parts: Sequence[tuple[Writing, list[Block]]], call: str, **options: Any) -> None:
    """Compute blocks and write them, one task each, with the call in their names."""
    writes = [part.task(f"{number}{call}") for number, (part, _) in enumerate(parts)]
    together = optimized_together(*writes)
    tasks = [
        together[(write.name, *block)] for write, (_, blocks) in zip(writes, parts, strict=True) for block in blocks
    ]
    client = distributed_client()
    if client is None or options:
        dask.compute(*tasks, **options)
        return
    # What is written is forgotten at once: a worker that dies takes along only what it was working on.
    pending = as_completed(client.compute(tasks))
    try:
        for future in pending:
            if future.status != "finished":
                future.result()
    except BaseException:
        client.cancel(list(pending.futures))
        raise


def _write(block: Any, *, target: zarr.Array[Any], starts: tuple[tuple[int, ...], ...], block_id: Block) -> Any:
    target[tuple(slice(along[i], along[i + 1]) for along, i in zip(starts, block_id, strict=True))] = np.asarray(block)
    return np.zeros((1,) * len(block_id), dtype=np.uint8)


def _target(
    url: Url,
    location: Location,
    kind: str,
    name: str,
    fingerprint: dict[str, Any],
    create: Callable[[], None],
    *,
    resume: bool,
) -> zarr.Array[Any]:
    """The array to write into, new or that of an earlier call for the same result."""
    is_new = not location.exists()
    if is_new:
        check_outside(location)
        try:
            create()
        except OSError:
            # Another writer of the same result may have made it meanwhile.
            if not location.exists():
                raise
    found = attributes_of(location)
    state = found.get("mksdask")
    if state not in (kind, f"partial {kind}") or "fingerprint" not in found:
        what = "result of materialize" if kind == "result" else "copy in scratch of this package"
        msg = f"{os.fspath(url)} exists and is no {what}; choose another url, or move it away"
        raise FileExistsError(msg)
    differing = [key for key in fingerprint if fingerprint[key] != found["fingerprint"].get(key)]
    if differing:
        told = "; ".join(f"{key} {found['fingerprint'].get(key)}, now {fingerprint[key]}" for key in differing)
        msg = f"{os.fspath(url)} holds a result of other inputs or parameters: {told}; choose another url, or remove it"
        raise ValueError(msg)
    if state != kind and not resume and not is_new:
        msg = f"{os.fspath(url)} holds a part of this result; pass resume=True to go on, or remove it"
        raise FileExistsError(msg)
    return open_array(location, name, mode="r+")


def _create(
    location: Location,
    kind: str,
    name: str,
    data: da.Array,
    labels: xr.DataArray | None,
    fingerprint: dict[str, Any],
    *,
    parts: tuple[int, ...] | None = None,
    compressed: bool = True,
) -> None:
    """An empty array with all that describes it, made beside its place and moved there."""
    new = location.sibling("partial")
    try:
        if labels is not None:
            labels.coords.to_dataset().to_zarr(new.store, mode="w-", consolidated=False)
        group = zarr.open_group(new.store, mode="a")
        group.attrs.update({"mksdask": f"partial {kind}", "fingerprint": fingerprint})
        blocks = tuple(max(sizes) for sizes in data.chunks)
        inner = blocks if parts is None else tuple(map(min, parts, blocks))
        whole = tuple(-(-n // part) * part for n, part in zip(blocks, inner, strict=True))
        shuffle: Literal["shuffle", "bitshuffle"] = "bitshuffle" if data.dtype.itemsize == 1 else "shuffle"
        compressor = BloscCodec(cname="zstd", clevel=3, shuffle=shuffle, typesize=data.dtype.itemsize)
        group.create_array(
            name,
            shape=data.shape,
            dtype=data.dtype,
            chunks=inner,
            shards=None if parts is None else whole,
            compressors=compressor if compressed else None,
            dimension_names=[f"dim_{axis}" for axis in range(data.ndim)]
            if labels is None
            else [str(dim) for dim in labels.dims],
            attributes={} if labels is None else dict(labels.attrs),
        )
        new.replace(location)
    finally:
        new.remove()
