"""EBSD maps of Bruker Esprit in HDF5 files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from mksdask.arrays import Array
from mksdask.importers.ebsd.hdf5 import numbers_of, opened, texts_of
from mksdask.importers.ebsd.maps import (
    EbsdFile,
    Phase,
    Records,
    check_count,
    header_grid,
    header_value,
    laue_group_of,
    refuse_grid,
)
from mksdask.importers.sources import check_inside

# Directions on the map of the x and y axes to which the Euler angles refer, for the coordinate system with this number.
BRUKER_AXES = {5: ("-x", "y")}
DEFAULT_BRUKER_SYSTEM = 5


@dataclass(frozen=True, eq=False)
class BrukerHdf5(EbsdFile):
    """An HDF5 file of Esprit.

    Parameters
    ----------
    path, shape, step, phases, axes, frame
        See `EbsdFile`.
    scan : str
        Name of the scan in the file.
    order : ndarray of int, shape (n_points,), or None
        Number in the file of each record of the map, if the file holds them in another order.
    """

    scan: str = ""
    order: Array | None = field(default=None, repr=False)

    has_reciprocal_axes: ClassVar[bool] = True

    @classmethod
    def open(cls, path: str, scan: str) -> BrukerHdf5:
        """Read the header of a scan, and the place of each record."""
        with opened(path) as file:
            entries = file[f"{scan}/EBSD/Header"]
            header = texts_of(path, entries)
            if header.get("Grid Type", "isometric") != "isometric":
                refuse_grid(path, header["Grid Type"])
            shape, step = header_grid(path, header, ("NCOLS", "NROWS", "XSTEP", "YSTEP"))
            phases = []
            for number in sorted(map(int, entries.get("Phases", ()))):
                facts = texts_of(path, entries[f"Phases/{number}"])
                name = facts.get("Name") or f"phase {number}"
                space_group = header_value(path, facts, "IT", int)
                phases.append(Phase(number, name, laue_group_of(path, name, space_group=space_group)))
            systems = texts_of(path, entries.get("Coordinate Systems", {}))
            system = int(header_value(path, {"ID": str(DEFAULT_BRUKER_SYSTEM)} | systems, "ID", float))
            if system not in BRUKER_AXES:
                msg = f"{path}: the coordinate system has the number {system}, expected one of {sorted(BRUKER_AXES)}"
                raise ValueError(msg)
            n_records = int(np.prod(np.shape(file.get(f"{scan}/EBSD/Data/phi1", ()))))
            shape, order = _places(path, _sem_of(file, scan), shape, n_records)
        frame = f"Bruker coordinate system {system}, " + ("stated in the file" if "ID" in systems else "assumed")
        return cls(path, shape, step, tuple(phases), BRUKER_AXES[system], frame, scan=scan, order=order)

    def prepare(self, points_per_block: int) -> BrukerHdf5:
        """Check that each field has all its records."""
        with opened(self.path) as file:
            data = file[f"{self.scan}/EBSD/Data"]
            for name in ("phi1", "PHI", "phi2", "Phase"):
                if name not in data:
                    msg = f"{self.path}: {self.scan}/EBSD/Data has no {name}; it holds {sorted(data)}"
                    raise ValueError(msg)
                check_inside(data[name], self.path)
                check_count(self.path, f"records of {name}", int(data[name].shape[0]), self.n_points, self.shape)
        return self

    def read(self, start: int, stop: int) -> Records:
        """Read the records from `start` to `stop`, and convert degrees to radians."""
        rows = np.arange(start, stop) if self.order is None else self.order[start:stop]
        first, last = int(rows.min()), int(rows.max()) + 1
        with opened(self.path) as file:
            data = file[f"{self.scan}/EBSD/Data"]
            columns = [data[name][first:last].reshape(-1)[rows - first] for name in ("phi1", "PHI", "phi2", "Phase")]
        phase = columns[3].astype(np.int64)
        is_indexed = phase > 0
        angles = np.deg2rad(np.stack(columns[:3], axis=-1))
        return Records(angles, np.where(is_indexed, phase, 0), is_indexed.astype(np.float32))


def _sem_of(file: Any, scan: str) -> Any:
    """Return the group that holds the column and the row of each record, or an empty one."""
    return file.get(f"{scan}/EBSD/SEM") or file.get(f"{scan}/SEM") or {}


def _places(path: str, sem: Any, shape: tuple[int, int], n_records: int) -> tuple[tuple[int, int], Array | None]:
    """Return the shape of the part that was measured, and the order of its records, if they do not run along x."""
    names = [next((name for name in (axis, f"SEM {axis}") if name in sem), None) for axis in ("IX", "IY")]
    if None in names:
        return shape, None
    x, y = (numbers_of(path, sem[name]).astype(np.int64) for name in names)
    if not x.size or not x.size == y.size == n_records:
        msg = (
            f"{path}: {names[0]} and {names[1]} tell the columns of {x.size} and the rows of {y.size} records, but "
            f"there are {n_records} records; the file is truncated, or parts of it belong to another map"
        )
        raise ValueError(msg)
    columns, rows = (int(along.max() - along.min()) + 1 for along in (x, y))
    place = (y - y.min()) * columns + x - x.min()
    order = np.argsort(place, kind="stable")
    if columns * rows != place.size or not np.array_equal(place[order], np.arange(place.size)):
        msg = f"{path}: the points fill no rectangle of {columns} × {rows} points; export a rectangular part of the map"
        raise ValueError(msg)
    return (columns, rows), None if np.array_equal(order, np.arange(place.size)) else order
