"""EBSD maps of EDAX OIM Analysis: HDF5 files and `.ang` text files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from mksdask.arrays import Array
from mksdask.importers.ebsd.hdf5 import opened, text_of, texts_of
from mksdask.importers.ebsd.maps import (
    NOWHERE,
    EbsdFile,
    Phase,
    Records,
    check_count,
    even_columns,
    header_grid,
    header_value,
    laue_group,
    laue_group_of,
)
from mksdask.importers.ebsd.text import TextFile, present_columns, text_lines
from mksdask.importers.sources import check_inside, members

# Directions of the sample axes A1 and A2 of OIM Analysis, by the number of its setting, on a map whose x runs to the
# right and whose y runs down. The schematics in its HDF5 files show them.
EDAX_AXES = {1: ("y", "x"), 2: ("-y", "-x"), 3: ("-x", "y"), 4: ("x", "-y")}
DEFAULT_EDAX_SETTING = 2
# Laue groups by the numbers of OIM Analysis. Of the monoclinic settings, only the one with the unique axis b is
# supported.
EDAX_GROUPS = {
    1: "triclinic",
    20: "monoclinic",
    22: "orthorhombic",
    4: "tetragonal-low",
    42: "tetragonal",
    3: "trigonal-low",
    32: "trigonal",
    6: "hexagonal-low",
    62: "hexagonal",
    23: "cubic-low",
    43: "cubic",
}

# Number of records that are looked at together.
PART = 2**24
# Names under which versions write the Laue group of a phase, or its space group.
SYMMETRIES = ("Symmetry", "LGsymID", "SpaceGroupNumber")
# Names that later versions write into the group Sample, beside the header.
BESIDE = {
    "nColumns": "Number Of Columns",
    "nRows": "Number Of Rows",
    "Step X": "Step X",
    "Step Y": "Step Y",
    "Grid Type": "Grid Type",
}


def _records(
    phases: Sequence[Phase],
    angles: Array,
    phase: Array,
    confidence: Array,
    fit: Array | None,
    *,
    is_nowhere: Array,
    has_numbers: bool = False,
) -> Records:
    """Recognise the points that are not indexed, and give them the phase 0 and the confidence 0."""
    has_none = ~np.isfinite(angles) | (np.abs(angles - 4 * np.pi) < 1e-2)
    is_unindexed = is_nowhere | ~(confidence >= 0) | has_none.any(axis=-1)
    if fit is not None:
        is_unindexed |= fit >= 180.0
    # In a map of one phase the number 0 stands for this phase, unless other points have its number. In a map of several
    # phases it means that there is none.
    phase = np.where(phase >= has_numbers, phases[0].number, phase) if len(phases) == 1 else phase
    is_unindexed |= phase <= 0
    return Records(angles, np.where(is_unindexed, 0, phase), np.where(is_unindexed, 0.0, np.clip(confidence, 0, 1)))


def _frame(path: str, setting: int | None, stated: int | None) -> tuple[tuple[str, str], str]:
    """Choose the axes of the Euler angles: from the argument, from the file, or by default; and say which it was."""
    number = setting if setting is not None else stated if stated is not None else DEFAULT_EDAX_SETTING
    origin = "given" if setting is not None else "stated in the file" if stated is not None else "assumed"
    if number not in EDAX_AXES:
        msg = (
            f"{path}: setting must be one of {sorted(EDAX_AXES)}, the number of a coordinate system of OIM Analysis, "
            f"got {number!r} ({origin})"
        )
        raise ValueError(msg)
    return EDAX_AXES[number], f"EDAX setting {number}, {origin}"


@dataclass(frozen=True)
class EdaxHdf5(EbsdFile):
    """An HDF5 file of OIM Analysis.

    Parameters
    ----------
    path, shape, step, phases, axes, frame
        See `EbsdFile`.
    scan : str
        Name of the scan in the file.
    has_numbers : bool
        Whether some points have the number of a phase, and not only 0; `prepare` sets it.
    """

    scan: str = ""
    has_numbers: bool = False

    @classmethod
    def open(cls, path: str, setting: int | None, scan: str) -> EdaxHdf5:
        """Read the header of a scan."""
        with opened(path) as file:
            entries = file[f"{scan}/EBSD/Header"]
            header = texts_of(path, entries)
            # Later versions write the grid beside the header.
            beside = texts_of(path, file.get(f"{scan}/Sample", {}))
            header = {name: beside[other] for name, other in BESIDE.items() if other in beside} | header
            shape, step = header_grid(path, header, ("nColumns", "nRows", "Step X", "Step Y"))
            even = even_columns(path, header.get("Grid Type", "sqr"), shape[0], None)
            n_records = int(np.prod(np.shape(file.get(f"{scan}/EBSD/Data/Phi1", ()))))
            if even is not None and n_records == shape[0] * shape[1]:
                even = shape[0]
            phases = []
            for number, entry in sorted(
                ((int(k), v) for k, v in members(entries.get("Phase", {}))), key=lambda e: e[0]
            ):
                facts = {key: text_of(path, entry[key]) for key in ("MaterialName", *SYMMETRIES) if key in entry}
                name = facts.get("MaterialName") or f"phase {number}"
                key = next((key for key in SYMMETRIES if key in facts), SYMMETRIES[0])
                group = header_value(path, facts, key, int)
                if key == "SpaceGroupNumber":
                    phases.append(Phase(number, name, laue_group_of(path, name, space_group=group)))
                else:
                    phases.append(Phase(number, name, laue_group(path, name, group, EDAX_GROUPS)))
            stated = entries.get("Coordinate System/ID")
            if stated is not None:
                check_inside(stated, path)
            axes, frame = _frame(path, setting, None if stated is None else int(stated[0]))
        return cls(path, shape, step, tuple(phases), axes, frame, even=even, scan=scan)

    def _origin(self) -> tuple[float, float]:
        with opened(self.path) as file:
            data = file[f"{self.scan}/EBSD/Data"]
            return float(data["X Position"][0]), float(data["Y Position"][0])

    def prepare(self, points_per_block: int) -> EdaxHdf5:
        """Check that each field has all its records."""
        with opened(self.path) as file:
            data = file[f"{self.scan}/EBSD/Data"]
            for name in ("Phi1", "Phi", "Phi2", "Phase", "CI"):
                if name not in data:
                    msg = f"{self.path}: {self.scan}/EBSD/Data has no {name}; it holds {sorted(data)}"
                    raise ValueError(msg)
            for name in ("Phi1", "Phi", "Phi2", "Phase", "CI", "Fit", "X Position", "Y Position"):
                if name in data:
                    check_inside(data[name], self.path)
                    check_count(self.path, f"records of {name}", int(data[name].shape[0]), self.n_records, self.shape)
            parts = (data["Phase"][start : start + PART] for start in range(0, self.n_records, PART))
            return replace(self, has_numbers=any((part > 0).any() for part in parts))

    def read(self, start: int, stop: int) -> Records:
        """Read the points from `start` to `stop`."""
        first, last = self.record_of(start), self.record_of(stop)
        with opened(self.path) as file:
            data = file[f"{self.scan}/EBSD/Data"]
            angles = np.stack([data[name][first:last] for name in ("Phi1", "Phi", "Phi2")], axis=-1)
            is_nowhere = np.zeros(last - first, dtype=bool)
            if "X Position" in data and "Y Position" in data:
                x, y = data["X Position"][first:last], data["Y Position"][first:last]
                self._check_positions(first, x, y)
                is_nowhere = x == NOWHERE
            fit = data["Fit"][first:last] if "Fit" in data else None
            phase, confidence = data["Phase"][first:last].astype(np.int64), data["CI"][first:last]
        records = _records(
            self.phases, angles, phase, confidence, fit, is_nowhere=is_nowhere, has_numbers=self.has_numbers
        )
        return self._on_grid(records, start, stop)


@dataclass(frozen=True)
class EdaxAng(TextFile):
    """An `.ang` text file of OIM Analysis."""

    used: ClassVar[tuple[str, ...]] = ("phi1", "Phi", "phi2", "x", "y", "CI", "phase", "fit")

    @classmethod
    def open(cls, path: str, setting: int | None) -> EdaxAng:
        """Read the header, whose lines start with #."""
        header: dict[str, str] = {}
        phases: list[dict[str, str]] = []
        first_byte, first_line, first, in_notes = 0, 1, "", False
        for line, size in text_lines(path):
            if not line.startswith("#"):
                first = line
                break
            first_byte, first_line = first_byte + size, first_line + 1
            key, _, value = re.sub(r"[\s:]+", " ", line[1:]).strip().partition(" ")
            if key == "NOTES":
                in_notes = value.strip().lower() == "start"
            if in_notes:
                continue
            if key == "Phase":
                phases.append({"Phase": value})
            elif phases and key in ("MaterialName", "Symmetry", "Formula"):
                phases[-1][key] = value.strip()
            header.setdefault(key, value.strip())
        shape, step = header_grid(path, header, ("NCOLS_ODD", "NROWS", "XSTEP", "YSTEP"))
        stated = header_value(path, header, "NCOLS_EVEN", int) if "NCOLS_EVEN" in header else None
        even = even_columns(path, header.get("GRID", "SqrGrid"), shape[0], stated)
        found = []
        for position, entries in enumerate(phases, start=1):
            name = entries.get("MaterialName") or entries.get("Formula", "")
            group = header_value(path, entries, "Symmetry", int)
            number = int(entries["Phase"]) if entries["Phase"].isdigit() else position
            found.append(Phase(number, name, laue_group(path, name, group, EDAX_GROUPS)))
        axes, frame = _frame(path, setting, None)
        names = ("phi1", "Phi", "phi2", "x", "y", "IQ", "CI", "phase", "detector", "fit")
        columns = present_columns(path, names, first, first_line, "phase")
        return cls(
            path,
            shape,
            step,
            tuple(found),
            axes,
            frame,
            even=even,
            first_byte=first_byte,
            first_line=first_line,
            columns=columns,
        )

    def read(self, start: int, stop: int) -> Records:
        """Read the points from `start` to `stop`."""
        table = self._table(start, stop)
        self._check_positions(self.record_of(start), table["x"], table["y"])
        angles = np.stack([table[name] for name in ("phi1", "Phi", "phi2")], axis=-1)
        is_nowhere = table["x"] == NOWHERE
        phase = table["phase"].astype(np.int64)
        records = _records(self.phases, angles, phase, table["CI"], table.get("fit"), is_nowhere=is_nowhere)
        return self._on_grid(records, start, stop)
