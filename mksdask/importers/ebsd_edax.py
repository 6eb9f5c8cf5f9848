"""EBSD maps of EDAX OIM Analysis: HDF5 files and `.ang` text files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import h5py
import numpy as np

from mksdask.arrays import Array
from mksdask.importers.ebsd_maps import (
    NOWHERE,
    EbsdFile,
    Phase,
    Records,
    check_count,
    header_grid,
    header_value,
    laue_group,
    refuse_grid,
)
from mksdask.importers.ebsd_text import TextFile, text_lines
from mksdask.importers.sources import check_inside

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


def _records(
    phases: Sequence[Phase], angles: Array, phase: Array, confidence: Array, fit: Array | None, *, is_nowhere: Array
) -> Records:
    """Recognise the points that are not indexed, and give them the phase 0 and the confidence 0."""
    has_none = ~np.isfinite(angles) | (np.abs(angles - 4 * np.pi) < 1e-2)
    is_unindexed = is_nowhere | ~(confidence >= 0) | has_none.any(axis=-1)
    if fit is not None:
        is_unindexed |= fit >= 180.0
    # In a map of one phase the number 0 stands for this phase. In a map of several phases it means that there is none.
    phase = np.where(phase >= 0, phases[0].number, phase) if len(phases) == 1 else phase
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
    """

    scan: str = ""

    @classmethod
    def open(cls, path: str, setting: int | None, scan: str | None) -> EdaxHdf5:
        """Read the header of a scan."""
        with _hdf5(path) as file:
            scans = [name for name in file if f"{name}/EBSD/Data" in file and f"{name}/EBSD/Header" in file]
            if scan is None and len(scans) == 1:
                scan = scans[0]
            if scan not in scans:
                msg = f"{path}: scan must be one of the scans in the file, {scans}, got scan={scan!r}"
                raise ValueError(msg)
            entries = file[f"{scan}/EBSD/Header"]
            header = {name: _text(path, entries[name]) for name in entries if hasattr(entries[name], "dtype")}
            if "Grid Type" in header and not header["Grid Type"].lower().startswith("sqr"):
                refuse_grid(path, header["Grid Type"])
            shape, step = header_grid(path, header, ("nColumns", "nRows", "Step X", "Step Y"))
            phases = []
            for number, entry in sorted(((int(k), v) for k, v in entries.get("Phase", {}).items()), key=lambda e: e[0]):
                facts = {name: _text(path, entry[name]) for name in ("MaterialName", "Symmetry") if name in entry}
                name = facts.get("MaterialName") or f"phase {number}"
                group = header_value(path, facts, "Symmetry", int)
                phases.append(Phase(number, name, laue_group(path, name, group, EDAX_GROUPS)))
            stated = entries.get("Coordinate System/ID")
            if stated is not None:
                check_inside(stated, path)
            axes, frame = _frame(path, setting, None if stated is None else int(stated[0]))
        return cls(path, shape, step, tuple(phases), axes, frame, str(scan))

    def _origin(self) -> tuple[float, float]:
        with _hdf5(self.path) as file:
            data = file[f"{self.scan}/EBSD/Data"]
            return float(data["X Position"][0]), float(data["Y Position"][0])

    def prepare(self, records_per_block: int) -> EdaxHdf5:
        """Check that each field has all its records."""
        with _hdf5(self.path) as file:
            data = file[f"{self.scan}/EBSD/Data"]
            for name in ("Phi1", "Phi", "Phi2", "Phase", "CI"):
                if name not in data:
                    msg = f"{self.path}: {self.scan}/EBSD/Data has no {name}; it holds {sorted(data)}"
                    raise ValueError(msg)
            for name in ("Phi1", "Phi", "Phi2", "Phase", "CI", "Fit", "X Position", "Y Position"):
                if name in data:
                    check_inside(data[name], self.path)
                    check_count(self.path, f"records of {name}", int(data[name].shape[0]), self.n_points, self.shape)
        return self

    def read(self, start: int, stop: int) -> Records:
        """Read the records from `start` to `stop`."""
        with _hdf5(self.path) as file:
            data = file[f"{self.scan}/EBSD/Data"]
            angles = np.stack([data[name][start:stop] for name in ("Phi1", "Phi", "Phi2")], axis=-1)
            is_nowhere = np.zeros(stop - start, dtype=bool)
            if "X Position" in data and "Y Position" in data:
                x, y = data["X Position"][start:stop], data["Y Position"][start:stop]
                self._check_positions(start, x, y)
                is_nowhere = x == NOWHERE
            fit = data["Fit"][start:stop] if "Fit" in data else None
            phase, confidence = data["Phase"][start:stop].astype(np.int64), data["CI"][start:stop]
        return _records(self.phases, angles, phase, confidence, fit, is_nowhere=is_nowhere)


def _hdf5(path: str) -> Any:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        msg = f"{path}: this is not an HDF5 file, or it is truncated ({error})"
        raise ValueError(msg) from None


def _text(path: str, entry: Any) -> str:
    """Return the first value of a header entry as text."""
    check_inside(entry, path)
    value = np.asarray(entry[()]).ravel()
    if not value.size:
        return ""
    return value[0].decode("utf-8", "replace").strip() if isinstance(value[0], bytes) else str(value[0])


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
        if header.get("GRID", "SqrGrid").lower() != "sqrgrid":
            refuse_grid(path, header["GRID"])
        shape, step = header_grid(path, header, ("NCOLS_ODD", "NROWS", "XSTEP", "YSTEP"))
        found = []
        for position, entries in enumerate(phases, start=1):
            name = entries.get("MaterialName") or entries.get("Formula", "")
            group = header_value(path, entries, "Symmetry", int)
            number = int(entries["Phase"]) if entries["Phase"].isdigit() else position
            found.append(Phase(number, name, laue_group(path, name, group, EDAX_GROUPS)))
        axes, frame = _frame(path, setting, None)
        n_columns = len(first.split())
        names = ("phi1", "Phi", "phi2", "x", "y", "IQ", "CI", "phase", "detector", "fit")[:n_columns]
        if n_columns < 8:
            msg = (
                f"{path}: record 0, line {first_line}, is {first[:80]!r}, expected at least 8 numbers: "
                "phi1, Phi, phi2, x, y, IQ, CI, phase"
            )
            raise ValueError(msg)
        return cls(path, shape, step, tuple(found), axes, frame, first_byte, first_line, names)

    def read(self, start: int, stop: int) -> Records:
        """Read the records from `start` to `stop`."""
        table = self._table(start, stop)
        self._check_positions(start, table["x"], table["y"])
        angles = np.stack([table[name] for name in ("phi1", "Phi", "phi2")], axis=-1)
        is_nowhere = table["x"] == NOWHERE
        phase = table["phase"].astype(np.int64)
        return _records(self.phases, angles, phase, table["CI"], table.get("fit"), is_nowhere=is_nowhere)
