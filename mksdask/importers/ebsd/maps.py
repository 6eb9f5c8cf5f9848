"""EBSD maps as vendors write them: the grid, phases and frame of the header, and the records of the points.

Records hold what stands in the file. `mksdask.importers.orientation_maps` converts them to the conventions of this
package.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, NoReturn

import numpy as np

from mksdask.arrays import Array

# OIM Analysis writes this position for some points that are not indexed.
NOWHERE = -1111111.0


# Number of the last space group of each Laue group.
SPACE_GROUPS = (
    (2, "triclinic"),
    (15, "monoclinic"),
    (74, "orthorhombic"),
    (88, "tetragonal-low"),
    (142, "tetragonal"),
    (148, "trigonal-low"),
    (167, "trigonal"),
    (176, "hexagonal-low"),
    (194, "hexagonal"),
    (206, "cubic-low"),
    (230, "cubic"),
)
# Symbols of the point groups of each Laue group.
POINT_GROUPS = {
    "triclinic": ("1", "-1"),
    "monoclinic": ("2", "m", "2/m", "121", "1m1", "12/m1", "112", "11m", "112/m"),
    "orthorhombic": ("222", "mm2", "mmm"),
    "tetragonal-low": ("4", "-4", "4/m"),
    "tetragonal": ("422", "4mm", "-42m", "-4m2", "4/mmm"),
    "trigonal-low": ("3", "-3"),
    "trigonal": ("32", "321", "312", "3m", "-3m"),
    "hexagonal-low": ("6", "-6", "6/m"),
    "hexagonal": ("622", "6mm", "-6m2", "-62m", "6/mmm"),
    "cubic-low": ("23", "m3", "m-3"),
    "cubic": ("432", "-43m", "m3m", "m-3m"),
}


class Phase(NamedTuple):
    """A phase of a map: its number in the records, its name and its Laue group."""

    number: int
    name: str
    laue_group: str


class Records(NamedTuple):
    """Records of points of a map.

    They hold the Bunge angles in radians in the vendor's convention, the phase number (0 if the point is not indexed)
    and the confidence in [0, 1].
    """

    angles: Array
    phase: Array
    confidence: Array


@dataclass(frozen=True)
class EbsdFile(ABC):
    """One map in one file, or in two files that belong together. Records run along x first.

    Parameters
    ----------
    path : str
        The file that holds the records.
    shape : (int, int)
        Number of columns along x and of rows along y.
    step : (float, float)
        Distances between points along x and y, in micrometres.
    phases : tuple of Phase
        Phases that the header names.
    axes : (str, str)
        Directions on the map of the x and y axes to which the Euler angles refer, such as "x" and "-y".
    frame : str
        The rule from which `axes` were found, for the attributes of the store.
    layers : int
        Number of layers along z of a map with three axes. Their rows follow each other, and `shape` counts all rows.
    z_step : float
        Distance between layers.
    units : str
        Unit of the steps.
    even : int or None
        Number of points of the second row, the fourth, … of a hexagonal grid, whose other rows have ``shape[0]``. They
        are shifted by half a step. None if the grid is square.
    """

    path: str
    shape: tuple[int, int]
    step: tuple[float, float]
    phases: tuple[Phase, ...]
    axes: tuple[str, str]
    frame: str
    layers: int = 1
    z_step: float = 1.0
    units: str = "um"
    even: int | None = None

    #: Whether the x axis of trigonal and hexagonal crystals lies along a* instead of a.
    has_reciprocal_axes: ClassVar[bool] = False

    @property
    def n_points(self) -> int:
        """Number of points of the grid that is read."""
        return self.shape[0] * self.shape[1]

    @property
    def n_records(self) -> int:
        """Number of records in the file."""
        return self.record_of(self.n_points)

    def record_of(self, point: int) -> int:
        """Return the number of the record of a point, which is the first one of a row if the grid is hexagonal."""
        if self.even is None:
            return point
        rows = point // self.shape[0]
        return rows // 2 * (self.shape[0] + self.even) + rows % 2 * self.shape[0]

    def prepare(self, points_per_block: int) -> EbsdFile:
        """Check that the file has all its records, and find where blocks of records start if that needs a search."""
        return self

    @abstractmethod
    def read(self, start: int, stop: int) -> Records:
        """Read the points from `start` to `stop`, where `start` is the first point of a block."""

    def _on_grid(self, records: Records, start: int, stop: int) -> Records:
        """Give each point from `start` to `stop` the nearest record, which is itself unless the grid is hexagonal.

        Points of shifted rows lie between two records that are equally near. They get the one to the right, and the
        last point of a row that has no such record gets the one to the left.
        """
        if self.even is None:
            return records
        rows, columns = np.divmod(np.arange(start, stop), self.shape[0])
        is_shifted = rows % 2 == 1
        first = rows // 2 * (self.shape[0] + self.even) + is_shifted * self.shape[0] - self.record_of(start)
        nearest = first + np.where(is_shifted, np.minimum(columns, self.even - 1), columns)
        return Records(*(part[nearest] for part in records))

    def _origin(self) -> tuple[float, float]:
        """Position of the first record. It is not 0, 0 in a map that was cut from a larger one."""
        return 0.0, 0.0

    def _positions(self, start: int, stop: int) -> tuple[Array, Array]:
        """Positions in micrometres at which the header expects the records."""
        numbers = np.arange(start, stop)
        columns: Array
        if self.even is None:
            rows, columns = np.divmod(numbers, self.shape[0])
        else:
            pairs, columns = np.divmod(numbers, self.shape[0] + self.even)
            is_shifted = columns >= self.shape[0]
            rows, columns = 2 * pairs + is_shifted, np.where(is_shifted, columns - self.shape[0] + 0.5, columns)
        rows %= self.shape[1] // self.layers
        x, y = (0.0 if first == NOWHERE else first for first in self._origin())
        return x + columns * self.step[0], y + rows * self.step[1]

    def _check_positions(self, start: int, x: Array, y: Array) -> None:
        """Refuse records that do not run along x first on the grid of the header."""
        for name, found, expected, step in zip(
            "xy", (x, y), self._positions(start, start + len(x)), self.step, strict=True
        ):
            off = np.abs(found - expected) > (0.5 if self.even is None else 0.25) * step
            off &= found != NOWHERE
            if off.any():
                record = int(np.argmax(off))
                msg = (
                    f"{self.path}: record {start + record} lies at {name} = {found[record]:g}, expected "
                    f"{expected[record]:g} on a grid of {self.shape[0]} × {self.shape[1]} points with steps "
                    f"{self.step}; the header does not belong to these records"
                )
                raise ValueError(msg)

    def _check_layers(self, start: int, z: Array, first: float) -> None:
        """Refuse records of a map with three axes whose layers do not follow each other."""
        layer = np.arange(start, start + len(z)) // (self.n_points // self.layers)
        off = np.abs(z - first - layer * self.z_step) > 0.5 * self.z_step
        if off.any():
            record = start + int(np.argmax(off))
            msg = f"{self.path}: record {record} lies at z = {z[record - start]:g}, expected layers {self.z_step} apart"
            raise ValueError(msg)


def check_count(path: str, what: str, found: int, expected: int, shape: tuple[int, int]) -> None:
    """Refuse a file that holds more or fewer records than the grid of its header has points."""
    if found != expected:
        msg = (
            f"{path}: holds {found} {what}, expected {expected} for the {shape[0]} × {shape[1]} points of the header; "
            "the file is truncated, or belongs to another map"
        )
        raise ValueError(msg)


def header_value(path: str, header: Mapping[str, str], key: str, kind: type) -> Any:
    """Return an entry of a header as an int, a float or a str; numbers may have a decimal comma.

    Raises
    ------
    ValueError
        If there is no such entry, or it is not a number where one is needed.
    """
    expected = "a text" if kind is str else "a number"
    if header.get(key) is None:
        msg = (
            f"{path}: the header has no {key}, expected {expected}; if orix reads this kind of file, import what "
            "orix.io.load(path) returns"
        )
        raise ValueError(msg)
    try:
        return header[key] if kind is str else kind(header[key].replace(",", "."))
    except ValueError:
        msg = f"{path}: {key} of the header is {header[key]!r}, expected {expected}"
        raise ValueError(msg) from None


def header_grid(
    path: str, header: Mapping[str, str], keys: Sequence[str]
) -> tuple[tuple[int, int], tuple[float, float]]:
    """Return the shape and the steps of a map, from the entries for columns, rows, step along x and step along y."""
    columns, rows = (header_value(path, header, key, int) for key in keys[:2])
    steps = tuple(header_value(path, header, key, float) for key in keys[2:])
    if min(columns, rows) < 1 or not all(np.isfinite(step) and step > 0 for step in steps):
        msg = f"{path}: the header describes {columns} × {rows} points with steps {steps}, expected positive numbers"
        raise ValueError(msg)
    return (columns, rows), (steps[0], steps[1])


def laue_group_of(path: str, name: str, *, space_group: int | None = None, symbol: str = "") -> str:
    """Return the name of the Laue group of a phase, from its space group, or from the symbol of its point group.

    Raises
    ------
    ValueError
        If neither is known.
    """
    if space_group is not None and 1 <= space_group <= SPACE_GROUPS[-1][0]:
        return next(group for last, group in SPACE_GROUPS if space_group <= last)
    found = next((group for group, symbols in POINT_GROUPS.items() if symbol in symbols), None)
    if found is None:
        msg = (
            f"{path}: phase {name!r} has the space group {space_group} and the point group {symbol!r}, expected one "
            "that is known; write the symmetry of the phase into the file"
        )
        raise ValueError(msg)
    return found


def laue_group(path: str, name: str, number: int, groups: Mapping[int, str]) -> str:
    """Return the name of the Laue group of a phase, from the number by which the vendor calls it."""
    if number not in groups:
        msg = f"{path}: phase {name!r} has Laue group {number}, expected one of {sorted(groups)}"
        raise ValueError(msg)
    return groups[number]


def even_columns(path: str, kind: str, columns: int, even: int | None) -> int | None:
    """Return the number of points of each second row of a hexagonal grid, or None if the grid is square.

    Raises
    ------
    ValueError
        If the grid is of another kind, or its rows differ by more than one point.
    """
    kind = kind.lower().rstrip("#")
    if kind.startswith("sqr"):
        return None
    if not kind.startswith("hex"):
        refuse_grid(path, kind)
    even = columns - 1 if even is None else even
    if even not in (columns - 1, columns) or even < 1:
        msg = f"{path}: rows of its hexagonal grid have {columns} and {even} points, expected as many, or one less"
        raise ValueError(msg)
    return even


def refuse_grid(path: str, kind: str) -> NoReturn:
    """Refuse a map whose points do not lie on a square grid."""
    msg = f"{path}: the points lie on a grid {kind!r}, expected a square one; convert the map to a square grid first"
    raise ValueError(msg)
