"""EBSD maps in text files: records as lines of numbers after a header."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np
import pandas as pd

from mksdask.arrays import Array
from mksdask.importers.ebsd.maps import EbsdFile, check_count

# Number of bytes of a file that are searched for line ends together.
SCAN_BYTES = 2**24
NEWLINE = 10


@dataclass(frozen=True)
class TextFile(EbsdFile):
    """A map whose records are lines of numbers after a header.

    Parameters
    ----------
    path, shape, step, phases, axes, frame
        See `EbsdFile`.
    first_byte, first_line : int
        Position of the first record in the file; lines are counted from 1.
    columns : tuple of str
        Names of the columns.
    block : int
        Number of points of a block; `prepare` sets it.
    offsets : tuple of int
        Position in bytes at which each block starts, and the end of the last block; `prepare` sets them.
    """

    first_byte: int = 0
    first_line: int = 1
    columns: tuple[str, ...] = ()
    block: int = 0
    offsets: tuple[int, ...] = field(default=(), repr=False)

    #: Names of the columns that are read.
    used: ClassVar[tuple[str, ...]] = ()

    def prepare(self, points_per_block: int) -> Any:
        """Count the lines, and find the byte at which each block of records starts."""
        room = Path(self.path).stat().st_size - self.first_byte
        if self.n_records > room:
            # A record takes at least a byte.
            check_count(self.path, "bytes of records", room, self.n_records, self.shape)
        n_blocks = -(-self.n_points // points_per_block)
        firsts = [self.record_of(min(self.n_points, block * points_per_block)) for block in range(n_blocks + 1)]
        offsets, n_lines, position, last = [self.first_byte], 0, self.first_byte, b"\n"
        with Path(self.path).open("rb") as file:
            file.seek(self.first_byte)
            while part := file.read(SCAN_BYTES):
                ends = np.flatnonzero(np.frombuffer(part, dtype=np.uint8) == NEWLINE)
                low, high = np.searchsorted(firsts, (n_lines + 1, n_lines + len(ends) + 1))
                offsets += (position + 1 + ends[np.array(firsts[low:high], dtype=int) - n_lines - 1]).tolist()
                n_lines, position, last = n_lines + len(ends), position + len(part), part[-1:]
        n_lines += last != b"\n"
        if n_lines > self.n_records:
            # Empty lines at the end of the file do not count as records.
            with Path(self.path).open("rb") as file:
                file.seek(offsets[n_blocks - 1])
                beyond = file.read().splitlines()[self.n_records - firsts[n_blocks - 1] :]
            n_lines = self.n_records + sum(bool(line.strip()) for line in beyond)
        check_count(self.path, "lines of records", n_lines, self.n_records, self.shape)
        return replace(self, block=points_per_block, offsets=(*offsets, position)[: n_blocks + 1])

    def _origin(self) -> tuple[float, float]:
        x, y = self._first(*(("x", "y") if "x" in self.columns else ("X", "Y")))
        return x, y

    def _first(self, *names: str) -> list[float]:
        """Numbers of the first record in the columns of these names."""
        with Path(self.path).open("rb") as file:
            file.seek(self.first_byte)
            line = file.readline().replace(b",", b".")
        if not set(names) <= {*self.columns}:
            msg = f"{self.path}: the header names the columns {list(self.columns)}, expected {list(names)} among them"
            raise ValueError(msg)
        try:
            return [float(line.split()[self.columns.index(name)]) for name in names]
        except ValueError:
            self._explain(line, 0, 1)

    def _table(self, start: int, stop: int) -> dict[str, Array]:
        """Read the columns that are used, for one block of points."""
        position = start // self.block
        start, stop = self.record_of(start), self.record_of(stop)
        with Path(self.path).open("rb") as file:
            file.seek(self.offsets[position])
            text = file.read(self.offsets[position + 1] - self.offsets[position])
        if b"," in text:
            text = text.replace(b",", b".")
        places = [self.columns.index(name) for name in self.used if name in self.columns]
        # The last column is read too, because a line that was cut lacks it.
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

    def _explain(self, text: bytes, start: int, stop: int) -> NoReturn:
        """Raise an error that names the first line that is not a record."""
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


def present_columns(path: str, names: Sequence[str], line: str, number: int, needed: str) -> tuple[str, ...]:
    """Return the names of the columns that the first record has: trailing columns may be left out.

    Parameters
    ----------
    path : str
        The file, for the message.
    names : sequence of str
        Names of the columns, as the header or the format orders them.
    line : str
        The first record.
    number : int
        Number of this line.
    needed : str
        Name of the last column that must be there.

    Raises
    ------
    ValueError
        If it is not there.
    """
    if needed not in names:
        msg = f"{path}: the header names the columns {list(names)}, expected {needed!r} among them"
        raise ValueError(msg)
    found = tuple(names[: len(line.split())])
    if needed not in found:
        wanted = names[: list(names).index(needed) + 1]
        msg = (
            f"{path}: record 0, line {number}, is {line[:80]!r}, expected at least {len(wanted)} numbers: "
            f"{', '.join(wanted)}"
        )
        raise ValueError(msg)
    return found


def text_lines(path: str) -> Iterator[tuple[str, int]]:
    """Iterate over the lines of a text file and their sizes in bytes."""
    with Path(path).open("rb") as file:
        for raw in file:
            yield raw.decode("latin-1").rstrip("\r\n"), len(raw)
