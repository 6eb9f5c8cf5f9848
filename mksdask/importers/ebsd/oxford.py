"""EBSD maps of Oxford Channel 5 and AZtec: `.crc` files with their `.cpr`, `.ctf` text files and `.h5oina` files."""

from __future__ import annotations

import configparser
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mksdask.arrays import Array
from mksdask.bases.gsh import LAUE_GROUPS
from mksdask.importers.ebsd.hdf5 import opened, texts_of
from mksdask.importers.ebsd.maps import (
    EbsdFile,
    Phase,
    Records,
    check_count,
    header_grid,
    header_value,
    laue_group,
    refuse_grid,
)
from mksdask.importers.ebsd.text import TextFile, present_columns, text_lines
from mksdask.importers.sources import check_inside

# Directions on the map of the x and y axes to which the Euler angles refer.
OXFORD_AXES = ("x", "-y")
OXFORD_FRAME = "Oxford sample frame CS0"
# Channel 5 and AZtec number the Laue groups from 1 in this order.
OXFORD_GROUPS = dict(enumerate(LAUE_GROUPS, start=1))
# The angle of this name says how the map is turned about the normal of its surface. Text files do not state it, and are
# those of a map that is turned by π.
SCAN_TURN = "Scanning Rotation Angle"
TURNED_AXES = {round(math.pi, 3): OXFORD_AXES, 0.0: ("-x", "y")}
# Fields of a record of a .crc file, by their numbers in the .cpr file. Fields with other numbers are float32.
CRC_FIELDS = {
    1: ("x", "<f4"),
    2: ("y", "<f4"),
    3: ("phi1", "<f4"),
    4: ("tilt", "<f4"),
    5: ("phi2", "<f4"),
    6: ("mad", "<f4"),
    7: ("bc", "u1"),
    8: ("bs", "u1"),
    9: ("unknown", "u1"),
    10: ("bands", "u1"),
    11: ("error", "u1"),
    12: ("reliability", "<f4"),
}


def _records(angles: Array, phase: Array, error: Array) -> Records:
    """Recognise the points that are not indexed, and give them the phase 0; indexed points get the confidence 1.

    A point without a solution has the phase 0, or an error number, even if software has filled in an orientation.
    """
    is_indexed = (phase > 0) & (error == 0)
    return Records(angles, np.where(is_indexed, phase, 0), is_indexed.astype(np.float32))


def _refuse_surface(path: str, angles: Sequence[float]) -> None:
    """Refuse a map whose orientations do not refer to its surface."""
    if any(angles):
        msg = (
            f"{path}: the acquisition surface is turned by the Euler angles {list(angles)}, expected 0, 0, 0, because "
            "the orientations and the map have different frames otherwise; export the map with orientations relative "
            "to the surface"
        )
        raise ValueError(msg)


@dataclass(frozen=True)
class OxfordCrc(EbsdFile):
    """A binary `.crc` file of Channel 5 and AZtec. The `.cpr` text file beside it describes its records.

    Parameters
    ----------
    path, shape, step, phases, axes, frame
        See `EbsdFile`.
    record : tuple of (str, str)
        Name and dtype of each field of a record.
    """

    record: tuple[tuple[str, str], ...] = ()

    has_reciprocal_axes: ClassVar[bool] = True

    @classmethod
    def open(cls, path: str) -> OxfordCrc:
        """Read the header in the `.cpr` file."""
        described = _beside(path, ".cpr")
        parser = configparser.ConfigParser(interpolation=None, strict=False, allow_no_value=True)
        try:
            parser.read_string(Path(described).read_text(encoding="latin-1").removeprefix("\xef\xbb\xbf"))
        except (configparser.Error, AttributeError) as error:
            # A line that goes on after one without a value is an AttributeError.
            msg = f"{described}: this is not a .cpr file, which has sections and lines key=value ({error})"
            raise ValueError(msg) from None
        sections = {name.lower(): dict(parser[name]) for name in parser.sections()}
        for name in ("job", "fields", "phases"):
            if name not in sections:
                msg = f"{described}: there is no section [{name.title()}]; the sections are {parser.sections()}"
                raise ValueError(msg)
        shape, step = header_grid(described, sections["job"], ("xcells", "ycells", "griddistx", "griddisty"))
        record = [("phase", "u1")]
        for position in range(1, header_value(described, sections["fields"], "count", int) + 1):
            number = header_value(described, sections["fields"], f"field{position}", int)
            name, kind = CRC_FIELDS.get(number, (f"field{number}", "<f4"))
            record.append((name, kind))
        missing = {"phi1", "tilt", "phi2"} - {name for name, _ in record}
        if missing:
            msg = (
                f"{described}: the records hold no Euler angles, only the fields {[name for name, _ in record]}; "
                "export the map with its orientations"
            )
            raise ValueError(msg)
        phases = []
        for number in range(1, header_value(described, sections["phases"], "count", int) + 1):
            entries = sections.get(f"phase{number}", {})
            name = header_value(described, entries, "structurename", str)
            group = header_value(described, entries, "lauegroup", int)
            phases.append(Phase(number, name, laue_group(described, name, group, OXFORD_GROUPS)))
        angles = dict.fromkeys(("euler1", "euler2", "euler3"), "0")
        stated = angles | sections.get("acquisition surface", {})
        surface = [header_value(described, stated, angle, float) for angle in angles]
        _refuse_surface(described, surface)
        return cls(_beside(path, ".crc"), shape, step, tuple(phases), OXFORD_AXES, OXFORD_FRAME, record=tuple(record))

    @property
    def _dtype(self) -> np.dtype[Any]:
        return np.dtype(list(self.record))

    def _origin(self) -> tuple[float, float]:
        first = np.fromfile(self.path, dtype=self._dtype, count=1)
        return float(first["x"][0]), float(first["y"][0])

    def prepare(self, points_per_block: int) -> OxfordCrc:
        """Check that the size of the file is that of all its records."""
        size, width = Path(self.path).stat().st_size, self._dtype.itemsize
        if size != self.n_points * width:
            is_short = size < self.n_points * width
            where = f"record {size // width} is cut or missing" if is_short else "the file is too long"
            msg = (
                f"{self.path}: {where}: expected {self.n_points} records of {width} bytes for {self.shape[0]} × "
                f"{self.shape[1]} points, which are {self.n_points * width} bytes, got {size} bytes"
            )
            raise ValueError(msg)
        return self

    def read(self, start: int, stop: int) -> Records:
        """Read the records from `start` to `stop`."""
        table = np.fromfile(self.path, dtype=self._dtype, count=stop - start, offset=start * self._dtype.itemsize)
        if {"x", "y"} <= set(table.dtype.names or ()):
            self._check_positions(start, table["x"], table["y"])
        angles = np.stack([table[name] for name in ("phi1", "tilt", "phi2")], axis=-1)
        error = table["error"] if "error" in (table.dtype.names or ()) else np.zeros(len(table))
        return _records(angles, table["phase"].astype(np.int64), error)


@dataclass(frozen=True)
class OxfordHdf5(EbsdFile):
    """An `.h5oina` file of AZtec.

    Parameters
    ----------
    path, shape, step, phases, axes, frame
        See `EbsdFile`.
    scan : str
        Name of the slice in the file.
    """

    scan: str = ""

    has_reciprocal_axes: ClassVar[bool] = True

    @classmethod
    def open(cls, path: str, scan: str) -> OxfordHdf5:
        """Read the header of a slice."""
        with opened(path) as file:
            entries = file[f"{scan}/EBSD/Header"]
            header = texts_of(path, entries)
            shape, step = header_grid(path, header, ("X Cells", "Y Cells", "X Step", "Y Step"))
            phases = []
            for number in sorted(map(int, entries.get("Phases", ()))):
                facts = texts_of(path, entries[f"Phases/{number}"])
                name = facts.get("Phase Name") or f"phase {number}"
                group = header_value(path, facts, "Laue Group", int)
                phases.append(Phase(number, name, laue_group(path, name, group, OXFORD_GROUPS)))
            turn = header_value(path, header, SCAN_TURN, float) if SCAN_TURN in header else math.nan
        axes = OXFORD_AXES if math.isnan(turn) else TURNED_AXES.get(round(abs(turn), 3))
        if axes is None:
            msg = (
                f"{path}: the scan is turned by {turn:g} radians about the normal of the surface, and only 0 and π are "
                "read; export a map whose rows run along the tilt axis"
            )
            raise ValueError(msg)
        frame = "Oxford sample surface CS1, " + (
            "scanning rotation of π assumed" if math.isnan(turn) else f"scanning rotation of {turn:.4g} stated"
        )
        return cls(path, shape, step, tuple(phases), axes, frame, scan=scan)

    def prepare(self, points_per_block: int) -> OxfordHdf5:
        """Check that each field has all its records."""
        with opened(self.path) as file:
            data = file[f"{self.scan}/EBSD/Data"]
            for name in ("Phase", "Euler"):
                if name not in data:
                    msg = f"{self.path}: {self.scan}/EBSD/Data has no {name}; it holds {sorted(data)}"
                    raise ValueError(msg)
            for name in ("Phase", "Euler", "Error", "X", "Y"):
                if name in data:
                    check_inside(data[name], self.path)
                    check_count(self.path, f"records of {name}", int(data[name].shape[0]), self.n_points, self.shape)
        return self

    def _origin(self) -> tuple[float, float]:
        with opened(self.path) as file:
            data = file[f"{self.scan}/EBSD/Data"]
            # The first point of a map of another outline has no position.
            return tuple(float(np.nan_to_num(data[name][0].ravel()[0])) for name in ("X", "Y"))  # type: ignore[return-value]

    def read(self, start: int, stop: int) -> Records:
        """Read the records from `start` to `stop`."""
        with opened(self.path) as file:
            data = file[f"{self.scan}/EBSD/Data"]
            if "X" in data and "Y" in data:
                self._check_positions(start, data["X"][start:stop].ravel(), data["Y"][start:stop].ravel())
            angles = data["Euler"][start:stop]
            phase = data["Phase"][start:stop].ravel().astype(np.int64)
            code = data["Error"][start:stop].ravel() if "Error" in data else np.ones(stop - start)
        # 1 is success, 7 is an orientation that software has filled in, and the others are reasons for none.
        return _records(angles, phase, np.where(code <= 1, 0, code))


def _beside(path: str, suffix: str) -> str:
    """Find the file of the same name with another suffix, in lower or upper case."""
    for candidate in (suffix, suffix.upper()):
        other = Path(path).with_suffix(candidate)
        if other.exists():
            return str(other)
    msg = (
        f"{Path(path).with_suffix(suffix)} does not exist; a map of this kind is a .cpr and a .crc file of the same "
        "name: put both into one folder"
    )
    raise FileNotFoundError(msg)


@dataclass(frozen=True)
class OxfordCtf(TextFile):
    """A `.ctf` text file of Channel 5 and AZtec."""

    used: ClassVar[tuple[str, ...]] = ("Phase", "X", "Y", "Z", "Error", "Euler1", "Euler2", "Euler3")
    has_reciprocal_axes: ClassVar[bool] = True

    @classmethod
    def open(cls, path: str) -> OxfordCtf:
        """Read the header, which ends with the line of the names of the columns."""
        header: dict[str, str] = {}
        phases: list[Phase] = []
        names: tuple[str, ...] = ()
        first_byte, first_line, n_phases = 0, 1, -1
        for line, size in text_lines(path):
            if names:
                names = present_columns(path, names, line, first_line, "Euler3")
                break
            first_byte, first_line = first_byte + size, first_line + 1
            words = line.strip().split("\t")
            if n_phases > len(phases):
                phases.append(cls._phase(path, len(phases) + 1, words))
            elif words[0] == "Phases":
                n_phases = header_value(path, dict([_pair(words)]), "Phases", int)
            elif words[0] == "Phase":
                names = tuple(words)
            else:
                header.update([_pair(words)])
        missing = [name for name in ("Phase", "Euler1", "Euler2", "Euler3") if name not in names]
        if missing:
            msg = f"{path}: there is no line of column names with {', '.join(missing)}, expected one after the header"
            raise ValueError(msg)
        if header.get("JobMode", "Grid").lower() != "grid":
            refuse_grid(path, header["JobMode"])
        shape, step = header_grid(path, header, ("XCells", "YCells", "XStep", "YStep"))
        angles = {angle: header.get(angle) or "0" for angle in ("AcqE1", "AcqE2", "AcqE3")}
        _refuse_surface(path, [header_value(path, angles, angle, float) for angle in angles])
        layers, z_step = 1, 1.0
        if "Z" in names or header_value(path, {"ZCells": "1"} | header, "ZCells", int) > 1:
            layers = header_value(path, header, "ZCells", int)
            z_step = header_value(path, header, "ZStep", float)
            if layers < 1 or not (layers == 1 or 0 < z_step < math.inf):
                msg = f"{path}: the header describes {layers} layers with steps {z_step}, expected positive numbers"
                raise ValueError(msg)
        return cls(
            path,
            (shape[0], shape[1] * layers),
            step,
            tuple(phases),
            OXFORD_AXES,
            OXFORD_FRAME,
            layers=layers,
            z_step=z_step,
            first_byte=first_byte,
            first_line=first_line,
            columns=names,
        )

    @staticmethod
    def _phase(path: str, number: int, words: list[str]) -> Phase:
        """Read the line of one phase."""
        if len(words) < 4 or not words[3].strip().isdigit():
            msg = (
                f"{path}: phase {number} of the header is {words!r}, expected its lattice constants, angles, name and "
                "Laue group"
            )
            raise ValueError(msg)
        return Phase(number, words[2], laue_group(path, words[2], int(words[3]), OXFORD_GROUPS))

    def read(self, start: int, stop: int) -> Records:
        """Read the records from `start` to `stop`, and convert degrees to radians."""
        table = self._table(start, stop)
        if "X" in table and "Y" in table:
            self._check_positions(start, table["X"], table["Y"])
        if "Z" in table:
            self._check_layers(start, table["Z"], *self._first("Z"))
        angles = np.deg2rad(np.stack([table[name] for name in ("Euler1", "Euler2", "Euler3")], axis=-1))
        phase = table["Phase"].astype(np.int64)
        return _records(angles, phase, table.get("Error", np.zeros(len(phase))))


def _pair(words: list[str]) -> tuple[str, str]:
    """Split a line of the header into its key and its value, "" if it has none."""
    return words[0].strip(), words[1].strip() if len(words) > 1 else ""
