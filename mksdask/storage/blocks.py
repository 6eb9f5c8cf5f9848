"""`Blocks`: arrays of a store that are written block by block, and a record of the computation that made them.

One task writes one block. A block is one object of the store, or several whole objects. An object appears in the store
only when it is complete. So its presence shows that it is done, however many writers there are. The attributes of the
store record the computation of the arrays. If a call is killed, a later call for the same arrays therefore writes only
the blocks that are missing.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import xarray as xr
import zarr

from mksdask.arrays import as_lazy, is_lazy, warn_caller
from mksdask.storage.arrays import create_array
from mksdask.storage.atomic import (
    Kinds,
    Location,
    Url,
    attributes_of,
    check_ours,
    check_outside,
    metadata_of,
    seal,
)
from mksdask.storage.coordinates import storable, write_coords
from mksdask.storage.opening import open_array
from mksdask.storage.sources import check_unchanged, provenance, sources_of
from mksdask.storage.staging import put, remove_strays, upload
from mksdask.storage.writing import Block, Failure, Writing, write_blocks

# The attribute that lists blocks that were left out.
LEFT_OUT = "left_out"

# Words of messages for stores of each kind: what was expected, what is there instead, and the remedy.
_WORDS = {
    "result": (
        "a result of materialize",
        "a result of other inputs or parameters",
        "choose another url, remove it, or pass overwrite=True",
    ),
    "scratch": (
        "a copy in scratch of this package",
        "a result of other inputs or parameters",
        "choose another url, or remove it",
    ),
}
_OF_STORES = (
    "a part of a store of this package",
    "a part of a store of other samples, or with other options",
    "remove it, or call without resume",
)


@dataclass(frozen=True)
class Variable:
    """An array that is to be stored.

    Parameters
    ----------
    data : ndarray or dask array
        The values. If the chunks of a dask array are whole objects, it is written chunk by chunk. All other data are
        written object by object.
    dims : tuple of str
        Names of the axes.
    objects : tuple of int
        Shape of an object of the store.
    parts : tuple of int, optional
        Shape of the parts of an object that can be read separately. Default: an object is read as a whole.
    attrs : mapping
        Attributes, of types that JSON has.
    is_compressed : bool, default True
        Whether to compress the objects.
    computation : str, optional
        A name that identifies the computation of the data. Default: the name that dask gives them.
    """

    data: Any
    dims: tuple[str, ...]
    objects: tuple[int, ...]
    parts: tuple[int, ...] | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict)
    is_compressed: bool = True
    computation: str | None = None

    def create(self, group: zarr.Group, name: str) -> None:
        """Make an empty array in a group."""
        create_array(
            group,
            name,
            shape=self.data.shape,
            dtype=np.dtype(self.data.dtype),
            objects=self.objects,
            parts=self.parts,
            dims=self.dims,
            attrs=self.attrs,
            is_compressed=self.is_compressed,
        )

    @cached_property
    def blocks(self) -> Any:
        """The data, cut into the blocks that tasks write, as a dask array."""
        if not is_lazy(self.data):
            return as_lazy(self.data, self.objects)
        sizes = [
            tuple(n % step for n in along[:-1]) for along, step in zip(self.data.chunks, self.objects, strict=True)
        ]
        return self.data.rechunk(self.objects) if any(map(any, sizes)) else self.data


@dataclass(frozen=True)
class Blocks:
    """The arrays of a store that is written block by block.

    Parameters
    ----------
    location : Location
        Where the store is.
    kind : str
        The mark of the store when it is complete.
    variables : mapping of str to Variable
        The arrays. They are computed together.
    coords : Dataset
        Coordinates. They are written when the store is made.
    reads : sequence of arrays
        Further arrays that are read, if the graph of the variables does not hold them.
    layout : mapping of str to tuple of int
        How the computation is cut, for a later call that goes on with it on workers of another size; see
        `layout_begun`.
    """

    location: Location
    kind: str
    variables: Mapping[str, Variable]
    coords: xr.Dataset = field(default_factory=xr.Dataset)
    reads: Sequence[Any] = ()
    layout: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @cached_property
    def record(self) -> dict[str, Any]:
        """The record of the arrays: shape, dtype, blocks and attributes of each, and a token of its computation."""
        arrays = {name: variable.blocks for name, variable in self.variables.items()}
        found = {
            name: {
                "shape": list(map(int, data.shape)),
                "dtype": str(data.dtype),
                "chunks": list(map(int, data.chunksize)),
                "computation": self.variables[name].computation or str(data.name),
                "dims": list(self.variables[name].dims),
                "attributes": dict(self.variables[name].attrs),
            }
            for name, data in arrays.items()
        }
        coords = {name: [values.to_numpy().tolist(), values.attrs] for name, values in self.coords.variables.items()}
        digest = hashlib.sha256(json.dumps(coords, default=str).encode()).hexdigest()
        # A round trip through JSON makes the record equal to the one that is read from a store.
        known: dict[str, Any] = json.loads(
            json.dumps(
                {"kind": self.kind, "arrays": found, "coordinates": digest, "sources": self.sources}
                | {"layout": {name: [*map(int, sizes)] for name, sizes in self.layout.items()}}
            )
        )
        return known

    @cached_property
    def sources(self) -> dict[str, str]:
        """The stores and files that the arrays are read from, and their stamps when the call began."""
        return sources_of(*(variable.data for variable in self.variables.values()), *self.reads)

    @property
    def computation(self) -> str:
        """A digest of the record, which stays when the record does not."""
        return hashlib.sha256(json.dumps(self.record, sort_keys=True).encode()).hexdigest()

    def is_done(self) -> bool:
        """Whether a complete store of these arrays is there."""
        found = attributes_of(self.location)
        return bool(found.get("mksdask") == self.kind) and self.computation == str(
            (found.get("provenance") or {}).get("computation")
        )

    def stale_sources(self) -> list[str]:
        """List the sources that were changed since an earlier call wrote a part of these arrays here.

        Results are left out, because a user may want to keep what was computed. They are refused instead.
        """
        found = attributes_of(self.location)
        if self.kind == "result" or found.get("mksdask") != f"partial {self.kind}":
            return []
        before = found.get("fingerprint", {}).get("sources", {})
        return [place for place, stamp in self.sources.items() if before.get(place, stamp) != stamp]

    def state(self) -> Literal["absent", "partial", "complete", "other"]:
        """Whether the store is absent, holds a part of these arrays, holds all of them, or holds something else."""
        if not self.location.exists():
            return "absent"
        found = attributes_of(self.location)
        if found.get("fingerprint") != self.record:
            return "other"
        return {self.kind: "complete", f"partial {self.kind}": "partial"}.get(str(found.get("mksdask")), "other")  # type: ignore[return-value]

    def open(self, kinds: Kinds | None = None) -> None:
        """Make the store if there is none, and refuse a store of something else.

        A part of a store, or of scratch, whose sources were changed since then is removed, with a warning.

        Parameters
        ----------
        kinds : tuple of str, optional
            Marks that an existing store may have. Default: `kind`.

        Raises
        ------
        FileExistsError
            If something is there that is not such a store.
        ValueError
            If the store was made from other data or with other options, or lies inside another store.
        """
        location, record = self.location, self.record
        remove_strays(location)
        if changed := self.stale_sources():
            check_ours(location, (self.kind,))
            warn_caller(f"{', '.join(changed)} changed after an earlier call began {location.path}, which begins anew")
            location.remove()
        # On an object store, a store whose objects were not all made has no metadata of its arrays.
        if not location.exists() or (self.state() == "partial" and not self._is_made()):
            check_outside(location)
            try:
                self._create()
            except OSError:
                # Another writer of the same arrays may have made the store in the meantime.
                if not location.exists():
                    raise
        found = attributes_of(location)
        expected, held, remedy = _WORDS.get(self.kind, _OF_STORES)
        if str(found.get("mksdask")).removeprefix("partial ") not in (kinds or (self.kind,)) or (
            "fingerprint" not in found
        ):
            msg = f"{location.path} exists and is not {expected}; choose another url, or move it away"
            raise FileExistsError(msg)
        if found["fingerprint"] != record:
            told = "; ".join(_differences(found["fingerprint"], record))
            msg = f"{location.path} holds {held}: {told}; {remedy}"
            raise ValueError(msg)

    def _create(self) -> None:
        """Make an empty store with its record beside the place, and move it there."""
        if self.location.is_local:
            new = self.location.sibling("new")
            try:
                self.make(new)
                put(new, self.location)
            finally:
                new.remove()
            return
        with tempfile.TemporaryDirectory(prefix="mksdask-") as folder:
            new = Location.of(f"{folder}/new.zarr")
            self.make(new)
            upload(new, self.location)

    def make(self, new: Location) -> None:
        """Make an empty store of these arrays at another place, with their record and coordinates."""
        if self.coords.variables:
            write_coords(storable(self.coords.drop_attrs(deep=False)), new)
        group = zarr.open_group(new.opened(), mode="a")
        for name, variable in self.variables.items():
            variable.create(group, name)
        members = sorted(map(str, (*self.variables, *self.coords.variables)))
        marks = {"mksdask": f"partial {self.kind}", "members": members, "fingerprint": self.record}
        seal(new, attributes_of(new) | marks, members=True)

    def _is_made(self) -> bool:
        return "consolidated_metadata" in (metadata_of(self.location) or {})

    def write(self, *, is_skipping: bool = False) -> None:
        """Compute the blocks that are missing in the store, or were left out, all together, and write them.

        Parameters
        ----------
        is_skipping : bool, default False
            Whether a block that cannot be computed is left out: it is NaN, the attribute ``left_out`` of the store
            lists it, and a warning tells of it.
        """
        parts = [
            Writing(variable.blocks, open_array(self.location, name, mode="r+"))
            for name, variable in self.variables.items()
        ]
        attributes = attributes_of(self.location)
        known = [(name, tuple(block)) for name, block, _ in attributes.pop(LEFT_OUT, [])]
        missing = [
            (part, sorted({*self._missing(name, part), *(block for of, block in known if of == name)}))
            for name, part in zip(self.variables, parts, strict=True)
        ]
        if not any(blocks for _, blocks in missing):
            return
        failures: list[Failure] | None = [] if is_skipping else None
        in_memory = not any(is_lazy(variable.data) for variable in self.variables.values())
        write_blocks(missing, in_memory=in_memory, failures=failures)
        check_unchanged(self.sources)
        if not failures and not known:
            return
        names = list(self.variables)
        found = [[names[number], list(block), text] for number, block, text in sorted(failures or [])]
        # The list is written first, so that a block of NaN is never taken for one that is done.
        seal(self.location, attributes | ({LEFT_OUT: found} if found else {}))
        for number, block, _ in failures or []:
            parts[number].target[parts[number].region(block)] = np.nan
        if found:
            warn_caller(
                f"{self.location.path} lacks {len(found)} of {sum(len(part.blocks()) for part in parts)} blocks. They "
                f"are NaN, and {LEFT_OUT!r} of its attributes lists them. The same call tries them again. The first "
                f"one: {found[0][2]}"
            )

    def _missing(self, name: str, part: Writing) -> list[Block]:
        """List the blocks of which at least one object is not in the store."""
        folder, fs = f"{self.location.path}/{name}/c/", self.location.fs
        fs.invalidate_cache()
        there = {key.partition(folder)[2] for key in fs.find(folder)} if fs.exists(folder) else set()
        return [
            block
            for block in part.blocks()
            if not all("/".join(map(str, key)) in there for key in part.objects(block, self.variables[name].objects))
        ]

    def finish(self, *, keep_record: bool = True, **attributes: Any) -> None:
        """Mark the store as complete, and add attributes. A store that has the mark already stays as it is."""
        attrs = attributes_of(self.location)
        if attrs.get("mksdask") == self.kind:
            return
        known = {name: value for name, value in attrs.items() if keep_record or name != "fingerprint"}
        # The mark is written last, because it records that the store is complete.
        layout = {"layout": {name: [*map(int, sizes)] for name, sizes in self.layout.items()}} if self.layout else {}
        made = {"mksdask": self.kind, "provenance": provenance(self.sources, self.computation) | layout}
        seal(self.location, known | attributes | made)


def layout_begun(url: Url | Location, name: str, n: int) -> tuple[int, ...] | None:
    """Read how the computation was cut that an earlier call began or completed. Return None if nothing tells it.

    Parameters
    ----------
    url : str, path or Location
        Where the call writes.
    name, n
        The name of the layout, and how many numbers it has.
    """
    attributes = attributes_of(url if isinstance(url, Location) else Location.of(url))
    # A store that is complete has no fingerprint any more.
    found: Any = attributes.get("fingerprint", attributes.get("provenance"))
    for key in ("layout", name):
        found = found.get(key) if isinstance(found, dict) else None
    is_sound = isinstance(found, list) and len(found) == n and all(type(size) is int and size > 0 for size in found)
    return tuple(found) if is_sound else None


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    """Say in words how two records differ."""
    before, now = found.get("sources", {}), wanted["sources"]
    yield from (
        f"{place} was changed or replaced since then" for place in now if before.get(place, now[place]) != now[place]
    )
    yield from (f"it was not made of {place}" for place in now if place not in before)
    yield from (f"it was made of {place} too" for place in before if place not in now)
    for name, now in wanted.get("arrays", {}).items():
        before = found.get("arrays", {}).get(name)
        if before is None:
            yield f"no {name}"
            continue
        for key in now:
            if before.get(key) != now[key]:
                yield f"{key} {before.get(key)}, now {now[key]}"
    for name, now in wanted.get("layout", {}).items():
        if (before := found.get("layout", {}).get(name)) != now:
            yield f"{name} {before}, which workers of this size do not take, now {now}"
    for key in ("kind", "coordinates"):
        if found.get(key) != wanted[key]:
            yield f"other {key}"
