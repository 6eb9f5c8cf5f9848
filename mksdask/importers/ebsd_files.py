"""EBSD maps as vendors write them: header, and records by number, as they stand in the file."""

from __future__ import annotations

import configparser
import io
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import h5py
import numpy as np
import pandas as pd

from mksdask.arrays import Array
from mksdask.bases.gsh import LAUE_GROUPS

# Where OIM Analysis puts its sample axes A1, A2 on a map whose x runs right and y down, by the number of its setting:
# the schematics in its HDF5 files show them.
EDAX_AXES = {1: ("y", "x"), 2: ("-y", "-x"), 3: ("-x", "y"), 4: ("x", "-y")}
DEFAULT_EDAX_SETTING = 2
OXFORD_AXES = ("x", "-y")
# Laue groups by the numbers of OIM Analysis, of the monoclinic settings only the one with b unique. Channel 5 and AZtec
# number them from 1 in the order of LAUE_GROUPS.
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
OXFORD_GROUPS = dict(enumerate(LAUE_GROUPS, start=1))
# Fields of a record of a .crc file, by the numbers in the .cpr file; numbers beyond are float32.
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
# Unindexed points of OIM Analysis have angles of 4π, a confidence below 0, a fit of 180° or positions like this.
EDAX_NOWHERE = -1111111.0
SCAN_BYTES = 2**24
NEWLINE = 10


class Phase(NamedTuple):
    """A phase of a map: its number in the records, its name and Laue group."""

    number: int
    name: str
    laue_group: str


class Records(NamedTuple):
    """Records of a map: Bunge angles in radians as the vendor means them, phase number and confidence in [0, 1]."""

    angles: Array
    phase: Array
    confidence: Array


@dataclass(frozen=True)
class EbsdFile(ABC):
    """One map in one file (or two). Records run along x first."""

    path: str
    shape: tuple[int, int]  # columns along x, rows along y
    step: tuple[float, float]  # micrometres along x and y
    phases: tuple[Phase, ...]
    axes: tuple[str, str]  # directions of the Euler frame's x and y axes on the map
    frame: str  # where `axes` come from

    #: Whether the x axis of trigonal and hexagonal crystals is a* instead of a.
    has_reciprocal_axes: ClassVar[bool] = False

    @property
    def n_points(self) -> int:
        """Number of records."""
        return self.shape[0] * self.shape[1]

    def prepare(self, records_per_block: int) -> EbsdFile:
        """Check that the file has all its records, and note where blocks of them start if that has to be searched."""
        return self

    @abstractmethod
    def read(self, start: int, stop: int) -> Records:
        """Records `start` to `stop`; `start` is the first of a block."""

    def _origin(self) -> tuple[float, float]:
        """Position of the first record, which a map cut from a larger one has elsewhere."""
        return 0.0, 0.0

    def _positions(self, start: int, stop: int) -> tuple[Array, Array]:
        """Where records should lie, in micrometres."""
        rows, columns = np.divmod(np.arange(start, stop), self.shape[0])
        x, y = (0.0 if first == EDAX_NOWHERE else first for first in self._origin())
        return x + columns * self.step[0], y + rows * self.step[1]

    def _check_positions(self, start: int, x: Array, y: Array) -> None:
        """Refuse records that do not run along x first on the header's grid."""
        for name, found, expected, step in zip(
            "xy", (x, y), self._positions(start, start + len(x)), self.step, strict=True
        ):
            off = np.abs(found - expected) > 0.5 * step
            off &= found != EDAX_NOWHERE
            if off.any():
                record = int(np.argmax(off))
                msg = (
                    f"{self.path}: record {start + record} lies at {name} = {found[record]:g}, expected "
                    f"{expected[record]:g} on a grid of {self.shape[0]} × {self.shape[1]} points with steps "
                    f"{self.step}; the header does not belong to these records"
                )
                raise ValueError(msg)


def _count(path: str, what: str, found: int, expected: int, shape: tuple[int, int]) -> None:
    if found != expected:
        msg = (
            f"{path}: holds {found} {what}, expected {expected} for the {shape[0]} × {shape[1]} points of the header; "
            "the file is truncated, or belongs to another map"
        )
        raise ValueError(msg)


def _header_value(path: str, header: dict[str, str], key: str, kind: type) -> Any:
    if key not in header:
        msg = f"{path}: the header has no {key}, expected {'a number' if kind is not str else 'a text'}"
        raise ValueError(msg)
    try:
        value = header[key] if kind is str else kind(header[key].replace(",", "."))
    except ValueError:
        msg = f"{path}: {key} of the header is {header[key]!r}, expected {'a number' if kind is not str else 'a text'}"
        raise ValueError(msg) from None
    return value


def _grid(path: str, header: dict[str, str], keys: Sequence[str]) -> tuple[tuple[int, int], tuple[float, float]]:
    """Shape and step from the header's entries for columns, rows, step along x and along y."""
    columns, rows = (_header_value(path, header, key, int) for key in keys[:2])
    steps = tuple(_header_value(path, header, key, float) for key in keys[2:])
    if min(columns, rows) < 1 or not all(np.isfinite(step) and step > 0 for step in steps):
        msg = f"{path}: the header tells of {columns} × {rows} points with steps {steps}, expected positive numbers"
        raise ValueError(msg)
    return (columns, rows), (steps[0], steps[1])


def _laue_group(path: str, name: str, number: int, groups: dict[int, str]) -> str:
    if number not in groups:
        msg = f"{path}: phase {name!r} has Laue group {number}, expected one of {sorted(groups)}"
        raise ValueError(msg)
    return groups[number]


def _edax_records(
    phases: Sequence[Phase], angles: Array, phase: Array, confidence: Array, fit: Array | None, *, is_nowhere: Array
) -> Records:
    has_none = ~np.isfinite(angles) | (np.abs(angles - 4 * np.pi) < 1e-2)
    is_unindexed = is_nowhere | ~(confidence >= 0) | has_none.any(axis=-1)
    if fit is not None:
        is_unindexed |= fit >= 180.0
    # A single phase has the number 0, which means none beside others.
    phase = np.where(phase >= 0, phases[0].number, phase) if len(phases) == 1 else phase
    is_unindexed |= phase <= 0
    return Records(angles, np.where(is_unindexed, 0, phase), np.where(is_unindexed, 0.0, np.clip(confidence, 0, 1)))


def _edax_frame(path: str, setting: int | None, stated: int | None) -> tuple[tuple[str, str], str]:
    number = setting if setting is not None else stated if stated is not None else DEFAULT_EDAX_SETTING
    origin = "given" if setting is not None else "stated in the file" if stated is not None else "assumed"
    if number not in EDAX_AXES:
        msg = (
            f"{path}: setting must be one of {sorted(EDAX_AXES)}, the number of OIM's coordinate system, "
            f"got {number!r}, {origin}"
        )
        raise ValueError(msg)
    return EDAX_AXES[number], f"EDAX setting {number}, {origin}"


@dataclass(frozen=True)
class EdaxHdf5(EbsdFile):
    """HDF5 file of OIM Analysis."""

    scan: str = ""

    @classmethod
    def open(cls, path: str, setting: int | None, scan: str | None) -> EdaxHdf5:
        """Read the header of a scan."""
        with _hdf5(path) as file:
            scans = [name for name in file if f"{name}/EBSD/Data" in file and f"{name}/EBSD/Header" in file]
            if scan is None and len(scans) == 1:
                scan = scans[0]
            if scan not in scans:
                msg = f"{path}: scan must be one of the scans in the file, {scans}, got {scan!r}"
                raise ValueError(msg)
            entries = file[f"{scan}/EBSD/Header"]
            header = {name: _text(entries[name]) for name in entries if hasattr(entries[name], "dtype")}
            if "Grid Type" in header and not header["Grid Type"].lower().startswith("sqr"):
                _refuse_grid(path, header["Grid Type"])
            shape, step = _grid(path, header, ("nColumns", "nRows", "Step X", "Step Y"))
            phases = []
            for number, entry in sorted(((int(k), v) for k, v in entries.get("Phase", {}).items()), key=lambda e: e[0]):
                facts = {name: _text(entry[name]) for name in ("MaterialName", "Symmetry") if name in entry}
                name = facts.get("MaterialName") or f"phase {number}"
                group = int(_header_value(path, facts, "Symmetry", int))
                phases.append(Phase(number, name, _laue_group(path, name, group, EDAX_GROUPS)))
            stated = entries.get("Coordinate System/ID")
            axes, frame = _edax_frame(path, setting, None if stated is None else int(stated[0]))
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
                    msg = f"{self.path}: {self.scan}/EBSD/Data has no {name}, it holds {sorted(data)}"
                    raise ValueError(msg)
            for name in ("Phi1", "Phi", "Phi2", "Phase", "CI", "Fit", "X Position", "Y Position"):
                if name in data:
                    _count(self.path, f"records of {name}", int(data[name].shape[0]), self.n_points, self.shape)
        return self

    def read(self, start: int, stop: int) -> Records:
        """Records `start` to `stop`."""
        with _hdf5(self.path) as file:
            data = file[f"{self.scan}/EBSD/Data"]
            angles = np.stack([data[name][start:stop] for name in ("Phi1", "Phi", "Phi2")], axis=-1)
            is_nowhere = np.zeros(stop - start, dtype=bool)
            if "X Position" in data and "Y Position" in data:
                x, y = data["X Position"][start:stop], data["Y Position"][start:stop]
                self._check_positions(start, x, y)
                is_nowhere = x == EDAX_NOWHERE
            fit = data["Fit"][start:stop] if "Fit" in data else None
            phase, confidence = data["Phase"][start:stop].astype(np.int64), data["CI"][start:stop]
        return _edax_records(self.phases, angles, phase, confidence, fit, is_nowhere=is_nowhere)


def _hdf5(path: str) -> Any:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        msg = f"{path}: is no HDF5 file, or is truncated ({error})"
        raise ValueError(msg) from None


def _text(entry: Any) -> str:
    """First value of a header entry."""
    value = np.asarray(entry[()]).ravel()
    if not value.size:
        return ""
    return value[0].decode("utf-8", "replace").strip() if isinstance(value[0], bytes) else str(value[0])


def _refuse_grid(path: str, kind: str) -> None:
    msg = f"{path}: the points lie on a grid {kind!r}, expected a square one; convert the map to a square grid first"
    raise ValueError(msg)


@dataclass(frozen=True)
class OxfordCrc(EbsdFile):
    """Binary .crc of Channel 5 and AZtec, whose records the .cpr text beside it describes."""

    record: tuple[tuple[str, str], ...] = ()

    has_reciprocal_axes: ClassVar[bool] = True

    @classmethod
    def open(cls, path: str) -> OxfordCrc:
        """Read the .cpr file."""
        described = _beside(path, ".cpr")
        parser = configparser.ConfigParser(interpolation=None, strict=False, allow_no_value=True)
        try:
            parser.read_string(Path(described).read_text(encoding="latin-1").removeprefix("\xef\xbb\xbf"))
        except configparser.Error as error:
            msg = f"{described}: is no .cpr file of sections and key=value lines ({error})"
            raise ValueError(msg) from None
        sections = {name.lower(): dict(parser[name]) for name in parser.sections()}
        for name in ("job", "fields", "phases"):
            if name not in sections:
                msg = f"{described}: has no section [{name.title()}], it has {parser.sections()}"
                raise ValueError(msg)
        shape, step = _grid(described, sections["job"], ("xcells", "ycells", "griddistx", "griddisty"))
        record = [("phase", "u1")]
        for position in range(1, int(_header_value(described, sections["fields"], "count", int)) + 1):
            number = int(_header_value(described, sections["fields"], f"field{position}", int))
            name, kind = CRC_FIELDS.get(number, (f"field{number}", "<f4"))
            record.append((name, kind))
        missing = {"phi1", "tilt", "phi2"} - {name for name, _ in record}
        if missing:
            msg = f"{described}: the records hold no Euler angles, they hold {[name for name, _ in record]}"
            raise ValueError(msg)
        phases = []
        for number in range(1, int(_header_value(described, sections["phases"], "count", int)) + 1):
            entries = sections.get(f"phase{number}", {})
            name = str(_header_value(described, entries, "structurename", str))
            group = int(_header_value(described, entries, "lauegroup", int))
            phases.append(Phase(number, name, _laue_group(described, name, group, OXFORD_GROUPS)))
        surface = [float(sections.get("acquisition surface", {}).get(f"euler{axis}", 0.0)) for axis in (1, 2, 3)]
        _refuse_surface(described, surface)
        frame = "Oxford sample frame CS0"
        return cls(_beside(path, ".crc"), shape, step, tuple(phases), OXFORD_AXES, frame, tuple(record))

    @property
    def _dtype(self) -> np.dtype[Any]:
        return np.dtype(list(self.record))

    def _origin(self) -> tuple[float, float]:
        first = np.fromfile(self.path, dtype=self._dtype, count=1)
        return float(first["x"][0]), float(first["y"][0])

    def prepare(self, records_per_block: int) -> OxfordCrc:
        """Check the size of the file."""
        size, width = Path(self.path).stat().st_size, self._dtype.itemsize
        if size != self.n_points * width:
            where = f"record {size // width} is cut or missing" if size < self.n_points * width else "is too long"
            msg = (
                f"{self.path}: {where}: expected {self.n_points} records of {width} bytes for {self.shape[0]} × "
                f"{self.shape[1]} points, {self.n_points * width} bytes, got {size}"
            )
            raise ValueError(msg)
        return self

    def read(self, start: int, stop: int) -> Records:
        """Records `start` to `stop`."""
        table = np.fromfile(self.path, dtype=self._dtype, count=stop - start, offset=start * self._dtype.itemsize)
        if {"x", "y"} <= set(table.dtype.names or ()):
            self._check_positions(start, table["x"], table["y"])
        angles = np.stack([table[name] for name in ("phi1", "tilt", "phi2")], axis=-1)
        error = table["error"] if "error" in (table.dtype.names or ()) else np.zeros(len(table))
        return _oxford_records(angles, table["phase"].astype(np.int64), error)


def _oxford_records(angles: Array, phase: Array, error: Array) -> Records:
    """Points without solution have phase 0, or an error number even if software has filled in an orientation."""
    is_indexed = (phase > 0) & (error == 0)
    return Records(angles, np.where(is_indexed, phase, 0), is_indexed.astype(np.float32))


def _refuse_surface(path: str, angles: Sequence[float]) -> None:
    if any(angles):
        msg = (
            f"{path}: the acquisition surface is turned by the Euler angles {list(angles)}, expected 0, 0, 0: "
            "orientations and map have different frames; export the map with orientations relative to the surface"
        )
        raise ValueError(msg)


def _beside(path: str, suffix: str) -> str:
    """The file of the same name with another suffix, in the case that exists."""
    for candidate in (suffix, suffix.upper()):
        other = Path(path).with_suffix(candidate)
        if other.exists():
            return str(other)
    msg = f"{Path(path).with_suffix(suffix)} does not exist; a map of this kind is a .cpr and a .crc file of one name"
    raise FileNotFoundError(msg)


@dataclass(frozen=True)
class _TextFile(EbsdFile):
    """A map as lines of numbers after a header."""

    first_byte: int = 0
    first_line: int = 1
    columns: tuple[str, ...] = ()
    block: int = 0
    offsets: tuple[int, ...] = field(default=(), repr=False)

    #: Columns that are used.
    used: ClassVar[tuple[str, ...]] = ()

    def prepare(self, records_per_block: int) -> Any:
        """Count the lines, and note the byte at which each block of records starts."""
        offsets, n_lines, position, last = [self.first_byte], 0, self.first_byte, b"\n"
        with Path(self.path).open("rb") as file:
            file.seek(self.first_byte)
            while part := file.read(SCAN_BYTES):
                ends = np.flatnonzero(np.frombuffer(part, dtype=np.uint8) == NEWLINE)
                numbers = n_lines + 1 + np.arange(len(ends))
                offsets += (position + 1 + ends[numbers % records_per_block == 0]).tolist()
                n_lines, position, last = n_lines + len(ends), position + len(part), part[-1:]
        n_lines += last != b"\n"
        n_blocks = -(-self.n_points // records_per_block)
        if n_lines > self.n_points:
            # Empty lines at the end are none.
            with Path(self.path).open("rb") as file:
                file.seek(offsets[n_blocks - 1])
                beyond = file.read().splitlines()[self.n_points - (n_blocks - 1) * records_per_block :]
            n_lines = self.n_points + sum(bool(line.strip()) for line in beyond)
        _count(self.path, "lines of records", n_lines, self.n_points, self.shape)
        return replace(self, block=records_per_block, offsets=(*offsets, position)[: n_blocks + 1])

    def _origin(self) -> tuple[float, float]:
        with Path(self.path).open("rb") as file:
            file.seek(self.first_byte)
            words = file.readline().replace(b",", b".").split()
        x, y = (self.columns.index(name) for name in (("x", "y") if "x" in self.columns else ("X", "Y")))
        return float(words[x]), float(words[y])

    def _table(self, start: int, stop: int) -> dict[str, Array]:
        """The columns that are used, of one block of records."""
        position = start // self.block
        with Path(self.path).open("rb") as file:
            file.seek(self.offsets[position])
            text = file.read(self.offsets[position + 1] - self.offsets[position])
        if b"," in text:
            text = text.replace(b",", b".")
        places = [self.columns.index(name) for name in self.used if name in self.columns]
        # With the last column, which a line that was cut lacks.
        wanted = sorted({*places, len(self.columns) - 1})
        try:
            frame = pd.read_csv(
                io.BytesIO(text), sep=r"\s+", header=None, usecols=wanted, dtype=np.float64, nrows=stop - start
            )
            values = frame.to_numpy()
            is_good = values.shape == (stop - start, len(wanted)) and not np.isnan(values).any()
        except ValueError:
            is_good = False
        if not is_good:
            self._explain(text, start, stop)
        return {self.columns[place]: values[:, wanted.index(place)] for place in places}

    def _explain(self, text: bytes, start: int, stop: int) -> None:
        """Find the record that is no record."""
        for number, line in enumerate(text.splitlines()[: stop - start]):
            words = line.split()
            try:
                numbers = [float(word) for word in words]
                is_good = len(numbers) >= len(self.columns) and bool(np.isfinite(numbers).all())
            except ValueError:
                is_good = False
            if not is_good:
                record = start + number
                msg = (
                    f"{self.path}: record {record}, line {self.first_line + record}, is "
                    f"{line[:80].decode('latin-1')!r}, expected {len(self.columns)} numbers: "
                    f"{', '.join(self.columns)}"
                )
                raise ValueError(msg)
        found = len(text.splitlines())
        msg = f"{self.path}: records {start} to {stop} cannot be read, expected {stop - start} lines, got {found}"
        raise ValueError(msg)


@dataclass(frozen=True)
class EdaxAng(_TextFile):
    """.ang text of OIM Analysis."""

    used: ClassVar[tuple[str, ...]] = ("phi1", "Phi", "phi2", "x", "y", "CI", "phase", "fit")

    @classmethod
    def open(cls, path: str, setting: int | None) -> EdaxAng:
        """Read the lines that start with #."""
        header: dict[str, str] = {}
        phases: list[dict[str, str]] = []
        first_byte, first_line, first, in_notes = 0, 1, "", False
        for line, size in _lines(path):
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
            _refuse_grid(path, header["GRID"])
        shape, step = _grid(path, header, ("NCOLS_ODD", "NROWS", "XSTEP", "YSTEP"))
        found = []
        for position, entries in enumerate(phases, start=1):
            name = entries.get("MaterialName") or entries.get("Formula", "")
            group = int(_header_value(path, entries, "Symmetry", int))
            number = int(entries["Phase"]) if entries["Phase"].isdigit() else position
            found.append(Phase(number, name, _laue_group(path, name, group, EDAX_GROUPS)))
        axes, frame = _edax_frame(path, setting, None)
        n_columns = len(first.split())
        names = ("phi1", "Phi", "phi2", "x", "y", "IQ", "CI", "phase", "detector", "fit")[:n_columns]
        if n_columns < 8:
            msg = (
                f"{path}: record 0, line {first_line}, is {first[:80]!r}, expected at least 8 numbers: phi1, Phi, "
                "phi2, x, y, IQ, CI, phase"
            )
            raise ValueError(msg)
        return cls(path, shape, step, tuple(found), axes, frame, first_byte, first_line, names)

    def read(self, start: int, stop: int) -> Records:
        """Records `start` to `stop`."""
        table = self._table(start, stop)
        self._check_positions(start, table["x"], table["y"])
        angles = np.stack([table[name] for name in ("phi1", "Phi", "phi2")], axis=-1)
        is_nowhere = table["x"] == EDAX_NOWHERE
        phase = table["phase"].astype(np.int64)
        return _edax_records(self.phases, angles, phase, table["CI"], table.get("fit"), is_nowhere=is_nowhere)


@dataclass(frozen=True)
class OxfordCtf(_TextFile):
    """.ctf text of Channel 5 and AZtec."""

    used: ClassVar[tuple[str, ...]] = ("Phase", "X", "Y", "Error", "Euler1", "Euler2", "Euler3")
    has_reciprocal_axes: ClassVar[bool] = True

    @classmethod
    def open(cls, path: str) -> OxfordCtf:
        """Read the lines up to the names of the columns."""
        header: dict[str, str] = {}
        phases: list[Phase] = []
        names: tuple[str, ...] = ()
        first_byte, first_line, n_phases = 0, 1, -1
        for line, size in _lines(path):
            first_byte, first_line = first_byte + size, first_line + 1
            words = line.strip().split("\t")
            if n_phases > len(phases):
                phases.append(cls._phase(path, len(phases) + 1, words))
            elif words[0] == "Phases":
                n_phases = int(_header_value(path, dict([_pair(words)]), "Phases", int))
            elif words[0] == "Phase":
                names = tuple(words)
                break
            else:
                header.update([_pair(words)])
        missing = [name for name in ("Phase", "Euler1", "Euler2", "Euler3") if name not in names]
        if missing:
            msg = f"{path}: has no line of column names with {', '.join(missing)}, expected one after the header"
            raise ValueError(msg)
        if header.get("JobMode", "Grid").lower() != "grid":
            _refuse_grid(path, header["JobMode"])
        shape, step = _grid(path, header, ("XCells", "YCells", "XStep", "YStep"))
        surface = [float(header.get(f"AcqE{axis}", "0").replace(",", ".") or 0) for axis in (1, 2, 3)]
        _refuse_surface(path, surface)
        frame = "Oxford sample frame CS0"
        return cls(path, shape, step, tuple(phases), OXFORD_AXES, frame, first_byte, first_line, names)

    @staticmethod
    def _phase(path: str, number: int, words: list[str]) -> Phase:
        if len(words) < 4 or not words[3].strip().isdigit():
            msg = (
                f"{path}: phase {number} of the header is {words!r}, expected lattice constants, angles, name and Laue "
                "group"
            )
            raise ValueError(msg)
        return Phase(number, words[2], _laue_group(path, words[2], int(words[3]), OXFORD_GROUPS))

    def read(self, start: int, stop: int) -> Records:
        """Records `start` to `stop`, degrees turned into radians."""
        table = self._table(start, stop)
        if "X" in table and "Y" in table:
            self._check_positions(start, table["X"], table["Y"])
        angles = np.deg2rad(np.stack([table[name] for name in ("Euler1", "Euler2", "Euler3")], axis=-1))
        phase = table["Phase"].astype(np.int64)
        return _oxford_records(angles, phase, table.get("Error", np.zeros(len(phase))))


def _pair(words: list[str]) -> tuple[str, str]:
    return words[0].strip(), words[1].strip() if len(words) > 1 else ""


def _lines(path: str) -> Iterator[tuple[str, int]]:
    """Lines of a text file and their sizes in bytes."""
    with Path(path).open("rb") as file:
        for raw in file:
            yield raw.decode("latin-1").rstrip("\r\n"), len(raw)


def open_ebsd(path: str, setting: int | None, scan: str | None) -> EbsdFile:
    """The map of a file, by its suffix.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the suffix is unknown, the header is malformed, or an argument does not belong to this kind of file.
    """
    if not Path(path).is_file():
        msg = f"{path} is no file"
        raise FileNotFoundError(msg)
    suffix = Path(path).suffix.lower()
    file = _open(path, suffix, setting, scan)
    if not file.phases:
        msg = f"{path}: the header names no phase, expected one at least, with its Laue group"
        raise ValueError(msg)
    return file


def _open(path: str, suffix: str, setting: int | None, scan: str | None) -> EbsdFile:
    is_edax = suffix in (".h5", ".hdf5", ".oh5", ".ang")
    if setting is not None and not is_edax:
        msg = f"setting={setting!r} is of EDAX files; {path} has the one frame of Oxford files"
        raise ValueError(msg)
    if scan is not None and (not is_edax or suffix == ".ang"):
        msg = f"scan={scan!r} names a scan of an HDF5 file; {path} holds one map"
        raise ValueError(msg)
    if suffix == ".ang":
        return EdaxAng.open(path, setting)
    if is_edax:
        return EdaxHdf5.open(path, setting, scan)
    if suffix in (".crc", ".cpr"):
        return OxfordCrc.open(path)
    if suffix == ".ctf":
        return OxfordCtf.open(path)
    msg = f"{path}: the suffix must be .h5, .hdf5, .oh5 or .ang (EDAX), .crc, .cpr or .ctf (Oxford), got {suffix!r}"
    raise ValueError(msg)
