"""Writing to zarr so that a store is there whole or not at all.

A new store is written beside its place and moved there at the end. Whole shards are written, each by one task. What
readers see is the group's consolidated metadata, which is written last.
"""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import fsspec
import zarr

Url: TypeAlias = str | os.PathLike[str]


@dataclass(frozen=True)
class Location:
    """A path or an fsspec URL."""

    fs: Any
    path: str
    is_local: bool

    @classmethod
    def of(cls, url: Url) -> Location:
        """Parse a path or URL."""
        fs, path = fsspec.core.url_to_fs(os.fspath(url))
        protocols = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
        return cls(fs, path.rstrip("/"), "file" in protocols)

    @property
    def store(self) -> Any:
        """What zarr and xarray take."""
        return self.path if self.is_local else self.fs.unstrip_protocol(self.path)

    def sibling(self, tag: str) -> Location:
        """A new name beside this one."""
        return Location(self.fs, f"{self.path}.{tag}-{uuid.uuid4().hex[:8]}", self.is_local)

    def exists(self) -> bool:
        """Whether anything is there."""
        return bool(self.fs.exists(self.path))

    def remove(self) -> None:
        """Remove what is there, if anything."""
        if self.exists():
            self.fs.rm(self.path, recursive=True)

    def replace(self, other: Location) -> None:
        """Take the place of `other`, which is back at once if that fails."""
        if not self.is_local:
            other.remove()
            # The group's metadata comes last: until then the copy is not a store.
            keys = sorted(self.fs.find(self.path), key=lambda key: key.removeprefix(self.path) == "/zarr.json")
            for key in keys:
                self.fs.cp_file(key, other.path + key.removeprefix(self.path))
            self.remove()
            return
        retired = other.sibling("old")
        try:
            if other.exists():
                Path(other.path).rename(retired.path)
            Path(self.path).rename(other.path)
        except BaseException:
            if retired.exists() and not other.exists():
                Path(retired.path).rename(other.path)
            raise
        retired.remove()


def remove_store(url: Url) -> None:
    """Remove a store, if it exists."""
    Location.of(url).remove()


def consolidate(location: Location) -> None:
    """Let readers see what the arrays' metadata says now."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        zarr.consolidate_metadata(location.store)


def is_store(location: Location) -> bool:
    """Whether a store of this package is there."""
    try:
        return "mksdask" in zarr.open_group(location.store, mode="r").attrs
    except (FileNotFoundError, ValueError):
        return False


@contextmanager
def staged(url: Url, mode: str, *, resume: bool = False) -> Iterator[Location]:
    """A location beside `url` that takes its place at the end, and vanishes on error; with `resume` it stays then."""
    if mode not in ("w-", "w"):
        msg = f"mode must be 'w-' (refuse to overwrite) or 'w' (overwrite), got {mode!r}"
        raise ValueError(msg)
    target = Location.of(url)
    if mode == "w-" and target.exists():
        msg = (
            f"{os.fspath(url)} exists; choose another url, pass mode='w' to overwrite it, or append to it with "
            "append_ensemble"
        )
        raise FileExistsError(msg)
    staging = Location(target.fs, f"{target.path}.partial", target.is_local) if resume else target.sibling("partial")
    if target.exists() and not is_store(target):
        msg = (
            f"{os.fspath(url)} exists and is not a store of this package, so it will not be replaced; choose "
            "another url"
        )
        raise FileExistsError(msg)
    try:
        yield staging
        if mode == "w-" and target.exists():
            msg = f"{os.fspath(url)} was made by somebody else meanwhile; choose another url, or pass mode='w'"
            raise FileExistsError(msg)
        staging.replace(target)
    finally:
        if not resume:
            staging.remove()
