"""EBSD maps in HDF5 files: which maps a file holds, and how its headers are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import h5py
import numpy as np

from mksdask.arrays import Array
from mksdask.importers.sources import check_inside, members, reading

Maker = Literal["EDAX", "Oxford", "Bruker", "orix", "APEX"]
# By these entries of the header of a map, and of the group Sample beside it, its maker is known.
MARKS: dict[str, Maker] = {
    "X Cells": "Oxford",
    "NCOLS": "Bruker",
    "nColumns": "EDAX",
    "Number Of Columns": "EDAX",
}


@contextmanager
def opened(path: str) -> Iterator[h5py.File]:
    """Open a file for reading. All errors of what is read in the block name the file."""
    with reading(path):
        try:
            file = h5py.File(path, "r")
        except OSError as error:
            msg = f"{path}: this is not an HDF5 file, or it is truncated ({error})"
            raise ValueError(msg) from None
        with file:
            yield file


def text_of(path: str, entry: Any) -> str:
    """Return the first value of a header entry as text."""
    check_inside(entry, path)
    value = np.asarray(entry[()]).ravel()
    if not value.size:
        return ""
    return value[0].decode("utf-8", "replace").strip("\0 \t\r\n") if isinstance(value[0], bytes) else str(value[0])


def texts_of(path: str, group: Mapping[str, Any]) -> dict[str, str]:
    """Return the entries of a group as texts."""
    return {name: text_of(path, entry) for name, entry in members(group) if isinstance(entry, h5py.Dataset)}


def numbers_of(path: str, data: Any) -> Array:
    """Return a dataset of one number for each record, which may be a column."""
    check_inside(data, path)
    return np.asarray(data[()]).reshape(-1)


def maps_in(path: str) -> dict[str, Maker]:
    """Find all EBSD maps of a file: the group of each, and its maker.

    Raises
    ------
    ValueError
        If the file is not an HDF5 file.
    """
    found: dict[str, Maker] = {}

    def visit(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Group):
            return
        parent, _, last = name.rpartition("/")
        if last == "EBSD" and {"Header", "Data"} <= set(item):
            entries = {*item["Header"], *item.parent.get("Sample", ())}
            maker = next((maker for mark, maker in MARKS.items() if mark in entries), None)
            if maker is not None:
                found[parent] = maker
        elif last == "EBSD" and "ANG" in item:
            found[parent] = "APEX"
        elif last == "crystal_map" and {"header", "data"} <= set(item):
            found[name] = "orix"

    with opened(path) as file:
        # Links are not followed.
        file.visititems(visit)
    return found


def chosen_map(path: str, scan: str | None) -> tuple[str, Maker]:
    """Return the group of the map that is wanted, or of the only one, and its maker.

    Raises
    ------
    ValueError
        If there is no such map, or there are several and none is named.
    """
    found = maps_in(path)
    # A scan may be named by the last part of its path.
    fitting = [name for name in found if scan in (None, name)] or [
        name for name in found if name.rpartition("/")[2] == scan
    ]
    if len(fitting) != 1:
        msg = f"{path}: scan must be one of the scans in the file, {list(found)}, got scan={scan!r}"
        raise ValueError(msg)
    if found[fitting[0]] == "APEX":
        msg = (
            f"{path}: {fitting[0]} is a map of EDAX APEX, which holds matrices whose frame is not documented; export "
            "it as .ang or .oh5 from OIM Analysis"
        )
        raise ValueError(msg)
    return fitting[0], found[fitting[0]]
