"""Provenance: the stores and files that a result was made of, by which call, and whether they are what they were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from mksdask.compute.graph import arrays_read
from mksdask.compute.transforms import fft_library
from mksdask.storage.atomic import Location, Url, attributes_of
from mksdask.storage.checksums import CheckedStore
from mksdask.storage.errors import ChangedError

# What the caller of the storage room says of itself: its name and parameters, and files that graphs do not show.
_CALL: ContextVar[dict[str, Any]] = ContextVar("call", default={})  # noqa: B039  it is never changed in place
# More files than these are recorded as the folder of the first.
_MOST_FILES = 16
_LIBRARIES = ("numpy", "scipy", "dask", "zarr")  # those that compute and store in each run


@contextmanager
def recorded(*inputs: Url, **described: Any) -> Iterator[None]:
    """Record inputs that graphs do not show, and the name and parameters of the call, with all that is written.

    If a call of another function is described already, its description stays.
    """
    known = _CALL.get()
    places = [str(Location.of(each).place.store) for each in inputs]
    if len(places) > _MOST_FILES:
        places = [str(Path(places[0]).parent)]
    token = _CALL.set(described | known | {"inputs": (*known.get("inputs", ()), *places)})
    try:
        yield
    finally:
        _CALL.reset(token)


def recorded_layout() -> dict[str, tuple[int, ...]]:
    """Read how the caller has cut the computation of a store, as it said by `recorded`."""
    found: dict[str, tuple[int, ...]] = _CALL.get().get("layout", {})
    return found


def libraries() -> dict[str, str]:
    """Versions of the libraries that compute and store now."""
    return {name: version(name) for name in (*_LIBRARIES, *({fft_library()} - {"scipy"}))}


def provenance(sources: Mapping[str, str], computation: str = "") -> dict[str, Any]:
    """Make the record of how a store was made.

    Parameters
    ----------
    sources : mapping of str to str
        What `sources_of` returned.
    computation : str
        A digest of the computation. Stores of equal digests hold equal numbers.
    """
    call = _CALL.get()
    return {
        "computation": computation,
        "version": version("mksdask"),
        "libraries": libraries(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "inputs": dict(sources),
    } | {key: call[key] for key in ("call", "parameters", "recipe") if key in call}


def chain_of(url: Url, stamp: str | None = None) -> Iterator[str]:
    """Say in one line for each store and file how a store was made, from itself back to its first inputs.

    Parameters
    ----------
    url : str or path
        The store.
    stamp : str, optional
        The stamp that it had when it was an input. A line says if it has another one now.
    """
    location = Location.of(url)
    attributes = attributes_of(location) if location.exists() else {}
    found = attributes.get("provenance")
    said = "" if stamp is None or (location.exists() and location.stamp() == stamp) else " (changed or removed since)"
    if not isinstance(found, dict):
        yield f"{url}{said}"
        return
    how = f" by {found['call']}" if "call" in found else ""
    given = "".join(f" --{name} {value}".rstrip() for name, value in found.get("parameters", {}).items())
    yield f"{url}{said}: {attributes.get('mksdask')}, {found['time']}, mksdask {found['version']}{how}{given}"
    if not said:
        for place, known in found.get("inputs", {}).items():
            yield from (f"  {line}" for line in chain_of(place, known))


def sources_of(*arrays: Any) -> dict[str, str]:
    """Find the stores and files that lazy arrays read, and their stamps.

    Returns
    -------
    dict of str to str
        Path or URL of each, and its stamp. A store that was opened by this package has the stamp of that moment. Others
        have the stamp of now. In place of scratch stand the sources of it. What only this process knows, such as a
        store in memory, is left out.
    """
    found: dict[str, str] = {place: Location.of(place).stamp() for place in _CALL.get().get("inputs", ())}
    for array in arrays:
        for held in arrays_read(array):
            place, stamp = _place_of(_unwrapped(held))
            attributes = attributes_of(Location.of(place)) if place else {}
            if str(attributes.get("mksdask")).endswith("scratch"):
                # Scratch is removed, so it is known by what it was made of.
                found |= attributes.get("fingerprint", {}).get("sources", {})
            elif place and place not in found:
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
