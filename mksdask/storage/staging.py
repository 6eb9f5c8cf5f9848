"""New stores and files become visible when they are complete, and replace earlier ones in one step.

On a disk, a new store is written beside its place and moved there at the end. An object store cannot move. There, a new
store is written in its place, marked as partial until it is complete. If it replaces a store, it is written into a
folder of that store with a new name, a generation. Then one small object, the ``zarr.json`` of the store, is replaced:
its attribute ``generation`` names the folder, and `Location.of` follows it. What was there before is removed
afterwards. No object is copied.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from mksdask.storage.atomic import (
    GENERATION,
    LEFTOVER,
    RESULTS,
    Kinds,
    Location,
    Url,
    attributes_of,
    check_ours,
    check_outside,
    contents_of,
    holds_instead,
    is_marked,
    keys_of,
    metadata_of,
    remove_keys,
    remove_store,
    seal,
)
from mksdask.storage.locks import neighbours, remove_unfinished

# What the names of stores end with that a call makes for itself beside the place of a store.
_OLD, _NEW = (re.compile(rf"\.{kind}-[0-9a-f]{{8}}") for kind in ("old", "new"))
_PARTIAL_LOCK = re.compile(r"\.partial-[0-9a-f]{8}\.lock")
# What a store that is being written contains, before its members are known.
_UNMARKED = re.compile(rf"([^/]+/)?(zarr\.json|zarr{LEFTOVER}|c(/[0-9]+)*({LEFTOVER})?)|[^/]+")


def put(new: Location, other: Location, kinds: Kinds = ()) -> None:
    """Move a new store to a place, and replace a store of one of `kinds` there. On failure, restore that store.

    On an object store, `new` is a generation at the place, or the place itself.
    """
    check_ours(other, kinds)
    if not new.is_local:
        if new != other:
            _switch(new)
        return
    retired = other.sibling("old")
    try:
        if other.exists():
            Path(other.path).rename(retired.path)
        Path(new.path).rename(other.path)
    except BaseException:
        if retired.exists() and not other.exists():
            Path(retired.path).rename(other.path)
        raise
    remove_store(retired, kinds)


def _switch(new: Location) -> None:
    """Make a generation the one that the place names, and then remove everything else there."""
    place, name = new.place, new.path.rpartition("/")[2]
    # The list of arrays shows that what remains of the old store, if the call is killed, is ours.
    known = {"mksdask": attributes_of(new)["mksdask"], "members": attributes_of(place).get("members", [])}
    seal(place, known | {"generation": name}, fresh=True)
    remove_keys(place, [key for key in keys_of(place) if key != "zarr.json" and not key.startswith(f"{name}/")])


def upload(new: Location, other: Location) -> None:
    """Write the objects of a store on this machine to an object store. It is a partial store until all are there.

    Each object is written once, and the metadata of the group twice: first without those of its arrays.
    """
    seal(other, attributes_of(new), fresh=True)
    # The metadata of an array show that its chunks are ours.
    for key in sorted(keys_of(new), key=lambda key: (not key.endswith("zarr.json"), key)):
        if key != "zarr.json":
            other.fs.pipe_file(f"{other.path}/{key}", Path(new.path, key).read_bytes())
    other.write("zarr.json", Path(new.path, "zarr.json").read_bytes())


@contextmanager
def staged(url: Url, mode: str, kinds: Kinds, *, resume: bool = False) -> Iterator[Location]:
    """Yield a location beside `url`, and move what was written there to `url` at the end.

    Parameters
    ----------
    url : str or path
        The place of the store.
    mode : {"w-", "w"}
        "w-" refuses to overwrite. "w" replaces a store of one of `kinds`.
    kinds : tuple of str
        Marks of the stores that may be replaced.
    resume : bool, default False
        On error, keep what was written in ``{url}.partial``. Otherwise it is removed on error.

    Raises
    ------
    FileExistsError
        If something is there that may not be replaced.
    BlockingIOError
        If another call changes the store at `url`, or with `resume` what is in ``{url}.partial``.
    ValueError
        If `url` lies inside a store, or `mode` is another word.
    """
    if mode not in ("w-", "w"):
        msg = f"mode must be 'w-' (refuse to overwrite) or 'w' (overwrite), got {mode!r}"
        raise ValueError(msg)
    target = Location.of(url)
    if target.is_local:
        _clear_up(target, kinds)
    if mode == "w-" and target.exists() and not _is_unfinished(target, kinds):
        msg = (
            f"{os.fspath(url)} exists; choose another url, pass mode='w' to overwrite it, or append to it with "
            "append_ensemble"
        )
        raise FileExistsError(msg)
    check_ours(target, kinds)
    check_outside(target)
    if target.exists():
        # A call that changes the old store is found before the new one is computed.
        with target.locked():
            pass
    is_own = target.is_local and not resume
    beside = target.sibling("partial") if is_own else _beside(target)
    with beside.locked():
        staging, is_moved = beside if target.is_local else _generation(target, kinds, resume=resume), False
        try:
            yield staging
            with target.locked():
                if mode == "w-" and staging != target and target.exists():
                    msg = (
                        f"{os.fspath(url)} was made by another program meanwhile; choose another url, or pass mode='w'"
                    )
                    raise FileExistsError(msg)
                put(staging, target, kinds)
                is_moved = True
        finally:
            if not (resume or is_moved):
                staging.remove()


def unfinished(url: Url, kinds: Kinds) -> Location:
    """Find where a call with `resume` writes a store of one of `kinds` before it is complete."""
    target = Location.of(url)
    return _beside(target) if target.is_local else _generation(target, kinds, resume=True)


def _beside(target: Location) -> Location:
    return target.place.at(f"{target.place.path}.partial")


def _generation(target: Location, kinds: Kinds, *, resume: bool) -> Location:
    """Choose where in an object store a store is written: in its place if that is empty, or beside what is there."""
    if not target.exists():
        return target
    if _is_unfinished(target, kinds):
        if not resume:
            remove_store(target, kinds)
        return target.place
    place, current = target.place, target.path.rpartition("/")[2]
    if resume:
        found = {GENERATION.match(key) for key in keys_of(place)}
        for name in sorted({each[0] for each in found if each} - {current}):
            if _is_unfinished(place.generation(name), kinds):
                return place.generation(name)
    return place.generation(f"g-{uuid.uuid4().hex[:8]}")


def _is_unfinished(location: Location, kinds: Kinds) -> bool:
    """Whether a store on an object store is one that `staged` began, and that is not complete."""
    if location.is_local or not is_marked(location, kinds):
        return False
    attributes = attributes_of(location)
    # A partial result with a record is one that `materialize` goes on with.
    return attributes["mksdask"].startswith("partial ") and (kinds != RESULTS or "fingerprint" not in attributes)


def _clear_up(target: Location, kinds: Kinds) -> None:
    """Put back a store that a killed call was about to replace, and remove what killed calls left beside it.

    Only what is provably of this package is touched, and only if the process that owned it no longer runs.
    """
    remove_unfinished(target.path)
    for lock in neighbours(target.path, _PARTIAL_LOCK):
        stray = target.at(lock.as_posix().removesuffix(".lock"))
        with suppress(BlockingIOError), stray.locked():
            _remove_stray(stray)
            remove_strays(stray)
    retired = [old for old in neighbours(target.path, _OLD) if old.is_dir()]
    with suppress(BlockingIOError), target.locked() if retired else nullcontext():
        for old in map(target.at, map(Path.as_posix, retired)):
            if not target.exists():
                if holds_instead(old, kinds) is None:
                    Path(old.path).rename(target.path)
            elif metadata_of(old) is None or is_marked(old, kinds):
                # The call may have been killed when it had removed all but a few folders.
                _remove_stray(old)


def remove_strays(location: Location) -> None:
    """Remove what calls that were killed left when they began the store here. No other call may be writing it."""
    for stray in neighbours(location.path, _NEW) if location.is_local else ():
        _remove_stray(location.at(stray.as_posix()))


def _remove_stray(location: Location) -> None:
    """Remove what a killed call left under a name of its own, if it holds only what this package writes."""
    if Path(location.path).is_symlink() or not Path(location.path).is_dir():
        return
    contents = contents_of(location)
    if all(_UNMARKED.fullmatch(name) and (is_folder or "/" in name or name[0] == "z") for name, is_folder in contents):
        location.remove()


def check_file(path: Path, *, overwrite: bool = True) -> None:
    """Refuse to replace anything that is not a regular file. Without `overwrite`, refuse to replace files too.

    Raises
    ------
    FileExistsError
        If something is there that will not be replaced. The message names the path.
    """
    if path.exists() and not (overwrite and path.is_file()):
        what = "" if path.is_file() else " and is not a regular file"
        msg = f"{path} exists{what}, so it will not be replaced; choose another place"
        raise FileExistsError(msg)


@contextmanager
def staged_file(path: Path, *, overwrite: bool = True, resume: bool = False) -> Iterator[Path]:
    """Yield a new name beside a file, and move what was written there to the file at the end. On error, remove it.

    With `resume`, a file of the same content may be there.
    """
    # The whole name stays, because several suffixes may say the format, such as those of .ome.tif.
    new = path.with_name(f".{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        yield new
        if resume and path.is_file() and path.read_bytes() == new.read_bytes():
            return
        check_file(path, overwrite=overwrite)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
