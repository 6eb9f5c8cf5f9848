"""The stores and files that lazy arrays read, and whether they are still what they were."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from mksdask.compute.graph import arrays_read
from mksdask.storage.atomic import Location
from mksdask.storage.checksums import ChangedError, CheckedStore


def sources_of(*arrays: Any) -> dict[str, str]:
    """Find the stores and files that lazy arrays read, and their stamps.

    Returns
    -------
    dict of str to str
        Path or URL of each, and its stamp. A store that was opened by this package has the stamp of that moment. Others
        have the stamp of now. What only this process knows, such as a store in memory, is left out.
    """
    found: dict[str, str] = {}
    for array in arrays:
        for held in arrays_read(array):
            place, stamp = _place_of(_unwrapped(held))
            if place and place not in found:
                found[place] = stamp or Location.of(place).stamp()
    return dict(sorted(found.items()))


def check_unchanged(sources: Mapping[str, str]) -> None:
    """Refuse to go on if a source has another stamp now.

    Raises
    ------
    ChangedError
        If one has. The message names it.
    """
    for place, stamp in sources.items():
        if Location.of(place).stamp() != stamp:
            raise ChangedError(place)


def _unwrapped(value: Any) -> Any:
    """Take off the wrappers of xarray and of this package."""
    while not isinstance(value, zarr.Array | np.ndarray):
        inner = next((getattr(value, name) for name in ("array", "_array") if hasattr(value, name)), None)
        if inner is None:
            break
        value = inner
    return value


def _place_of(value: Any) -> tuple[str, str]:
    """Find the path or URL of a stored array, and the stamp that it had when it was opened. Empty texts if unknown."""
    if isinstance(value, zarr.Array):
        store: Any = value.store
        if isinstance(store, CheckedStore):
            return store.url, store.stamp
        while isinstance(store, WrapperStore):
            store = store._store
        if isinstance(store, LocalStore):
            return str(store.root), ""
        if isinstance(store, FsspecStore):
            protocol = getattr(store.fs, "protocol", "")
            is_known = "memory" not in protocol
            return (str(store.fs.unstrip_protocol(store.path)) if is_known else ""), ""
        return "", ""
    if isinstance(value, np.memmap) and value.filename is not None:
        return str(Path(value.filename).absolute()), ""
    # A dataset of HDF5.
    name = getattr(getattr(value, "file", None), "filename", None)
    return (str(Path(name).absolute()) if isinstance(name, str) and Path(name).exists() else ""), ""
