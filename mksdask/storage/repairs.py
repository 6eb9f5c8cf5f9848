"""Damaged objects of a result are computed again, and written only if they are what was stored before."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mksdask.arrays import ArrayLike, to_numpy
from mksdask.compute.blocks import computed
from mksdask.storage.atomic import Location, Url, attributes_of
from mksdask.storage.blocks import Blocks
from mksdask.storage.errors import DamageError
from mksdask.storage.layouts import CHECKSUM_BYTES, Layout
from mksdask.storage.opening import checked_metadata, open_array
from mksdask.storage.results import Result
from mksdask.storage.sources import check_unchanged, libraries
from mksdask.storage.verification import verify
from mksdask.storage.writing import Writing


def repair(url: Url, lazy: ArrayLike) -> tuple[DamageError, ...]:
    """Compute damaged blocks of a result again, and write them into its store.

    Parameters
    ----------
    url : str or path
        A complete result that `materialize` wrote.
    lazy : dask array, or DataArray that holds one
        What was given to `materialize`: statistics, responses, predictions or scores of the same inputs with the same
        parameters.

    Returns
    -------
    tuple of DamageError
        What was damaged, and is repaired. It is empty if nothing was.

    Raises
    ------
    BlockingIOError
        If another call writes to `url`.
    ChangedError
        If an input changes meanwhile.
    FileExistsError, ValueError
        If `url` holds no complete result of `lazy` (the message says what differs); if its metadata are damaged; or if
        a block that is computed now is not the one that was stored. Then nothing is written.

    Notes
    -----
    What is left of a damaged object tells whether the new one is the same: its checksum, or all other bytes. If nothing
    is left, the same computation must have been made with the same versions of NumPy, SciPy, dask and zarr. Objects
    that are not damaged are not touched. Blocks are computed one after the other, so the call needs the memory of one.

    Examples
    --------
    >>> import dask.array as da, tempfile
    >>> from pathlib import Path
    >>> from mksdask.storage import materialize
    >>> folder = Path(tempfile.mkdtemp())
    >>> squares = da.arange(10, chunks=4) ** 2
    >>> stored = materialize(squares, folder / "squares.zarr", progress=False)
    >>> (folder / "squares.zarr" / "result" / "c" / "1").unlink()
    >>> [damage.chunk for damage in repair(folder / "squares.zarr", squares)]
    ['chunk c/1']
    >>> stored.compute().tolist()
    [0, 1, 4, 9, 16, 25, 36, 49, 64, 81]
    """
    damage = damage_of(url)
    if damage:
        blocks = Result.of(lazy, url, "result").blocks
        # A store of something else is refused, with what differs.
        blocks.open()
        repair_blocks(blocks, damage)
    return damage


def damage_of(url: Url) -> tuple[DamageError, ...]:
    """List what is damaged in a result, and refuse a store in which nothing can be repaired."""
    location = Location.of(url)
    kind = attributes_of(location).get("mksdask")
    if kind != "result":
        what = f"is marked as {kind!r}" if kind else "is not a store of this package"
        msg = (
            f"{url} {what}, and only results can be computed again; restore it from a copy, or make it again by the "
            "call that wrote it"
        )
        raise ValueError(msg)
    _, damage = checked_metadata(location)
    if damage:
        raise damage[0]
    return verify(url).damage


def repair_blocks(blocks: Blocks, damage: Sequence[DamageError]) -> None:
    """Compute the blocks of a complete result in which something is damaged, and put them back."""
    wanted = _keys_of(damage)
    with tempfile.TemporaryDirectory(prefix="mksdask-") as folder:
        new = Location.of(f"{folder}/new.zarr")
        # Coordinates are written here too.
        blocks.make(new)
        for name, variable in blocks.variables.items():
            part = Writing(variable.blocks, open_array(new, name, mode="r+"))
            layout = _layout_of(blocks.location, name)
            for block in part.blocks():
                if wanted.get(name, set()) & set(map(layout.key, part.objects(block, variable.objects))):
                    part.target[part.region(block)] = to_numpy(computed(part.data.blocks[block]))
        check_unchanged(blocks.sources)
        put_back(blocks.location, new, damage)


def put_back(location: Location, new: Location, damage: Sequence[DamageError]) -> None:
    """Copy damaged objects of a store from a new store of the same arrays, if all of them agree with what is left.

    Raises
    ------
    ValueError
        If one does not. Then nothing is copied.
    """
    with location.locked():
        found: dict[str, bytes] = {}
        for name, keys in _keys_of(damage).items():
            layout = _layout_of(location, name)
            for key in sorted(keys):
                path = f"{name}/{key}"
                # The object takes the place of a link, but a folder that is a link would lead it out of the store.
                location.check_link(path.rpartition("/")[0])
                found[path] = new.fs.cat_file(f"{new.path}/{path}")
                _check_agrees(location, path, found[path], layout, layout.block(key) or ())
        for path, content in found.items():
            location.write(path, content)


def _keys_of(damage: Sequence[DamageError]) -> Mapping[str, set[str]]:
    """Collect the keys of damaged objects of each array."""
    keys: dict[str, set[str]] = {}
    for each in damage:
        keys.setdefault(each.array, set()).add(each.chunk.rpartition(" ")[2])
    return keys


def _layout_of(location: Location, name: str) -> Layout:
    metadata, _ = checked_metadata(location)
    return Layout.of(metadata["consolidated_metadata"]["metadata"][name])


def _check_agrees(location: Location, path: str, new: bytes, layout: Layout, block: tuple[int, ...]) -> None:
    """Refuse a new object that is not the one that was stored, as far as what is left of that one tells."""
    try:
        old = location.fs.cat_file(f"{location.path}/{path}")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        old = b""
    known, now = (attributes_of(location).get("provenance") or {}).get("libraries", {}), libraries()
    differ = [name for name in known | now if known.get(name) != now.get(name)]
    others = [f"{name} {known[name]}" if name in known else f"no {name}" for name in differ]
    is_proven, is_other = bool(old), len(old) > len(new)
    for first, last in _spans(new, layout, block):
        left, end = old[first:last], last - CHECKSUM_BYTES
        is_whole = len(left) == last - first
        is_proven = is_proven and is_whole
        agrees = (
            old[end:last] == new[end:last] or old[first:end] == new[first:end]
            if is_whole
            else new[first:].startswith(left)
        )
        is_other = is_other or not agrees
    if is_other or (others and not is_proven):
        why = f", which was computed with {', '.join(others)}" if others else ""
        msg = (
            f"{location.path} stays as it is, because {path} that is computed now "
            f"{'is not' if is_other else 'cannot be proven to be'} the one that was stored{why}; make the result again"
        )
        raise ValueError(msg)


def _spans(data: bytes, layout: Layout, block: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Yield the first byte of each piece of an object that ends with a checksum, and the first byte after it."""
    if layout.parts is None:
        yield 0, len(data)
        return
    index = layout.index(np.frombuffer(data, dtype=np.uint8))
    assert index is not None
    for part in np.ndindex(*(along.stop for along in layout.held(block))):
        start, length = map(int, index[part])
        yield start, start + length
    yield len(data) - layout.index_bytes, len(data)
