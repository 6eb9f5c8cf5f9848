"""Legacy files of VTK (.vtk): images, and rectilinear grids with one spacing along each axis."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NoReturn
from urllib.parse import unquote

import numpy as np

from mksdask.arrays import Array
from mksdask.importers.formats.vtk_files import Field, Geometry, Piece, Pieces, check_type, shape_of, source_of
from mksdask.importers.formats.vtk_values import RawValues, TextValues
from mksdask.importers.sources import Choice, Source

# Types of values; "bit" stands for itself because eight of them share a byte.
LEGACY_TYPES = {
    "char": "i1",
    "signed_char": "i1",
    "unsigned_char": "u1",
    "short": "i2",
    "unsigned_short": "u2",
    "int": "i4",
    "unsigned_int": "u4",
    "long": "i8",
    "unsigned_long": "u8",
    "long_long": "i8",
    "unsigned_long_long": "u8",
    "vtktypeint64": "i8",
    "vtktypeuint64": "u8",
    "vtkidtype": "i4",
    "float": "f4",
    "double": "f8",
}
TEXTS = ("string", "utf8_string")
# Numbers of components of the attributes that have a fixed one.
COMPONENTS = {
    "VECTORS": 3,
    "NORMALS": 3,
    "TENSORS": 9,
    "TENSORS6": 6,
    "GLOBAL_IDS": 1,
    "PEDIGREE_IDS": 1,
    "EDGE_FLAGS": 1,
}
# A coordinate lies at most this share of a step beside its place on a grid with one spacing.
SAME_STEP = 1e-3
# A line of a header is at most so long.
LONGEST_LINE = 2**16


@dataclass
class _Reader:
    """Reads a file keyword by keyword, and notes where values stand."""

    path: Path
    file: BinaryIO
    is_binary: bool = False
    kind: str = ""
    sizes: tuple[int, ...] = ()
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0)
    origin: tuple[float, ...] = (0.0, 0.0, 0.0)
    coordinates: dict[str, Array] = field(default_factory=dict)
    fields: list[Field] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)
    of_cells: bool | None = None

    def run(self) -> None:
        """Read the whole header."""
        if not self.file.readline(LONGEST_LINE).startswith(b"# vtk DataFile"):
            self._refuse("does not begin with '# vtk DataFile', so it is not a VTK file")
        self.file.readline(LONGEST_LINE)
        form = self.file.readline(LONGEST_LINE).strip().upper()
        if form not in (b"ASCII", b"BINARY"):
            self._refuse(f"says {form.decode('latin-1')[:40]!r} in its third line, expected ASCII or BINARY")
        self.is_binary = form == b"BINARY"
        while (words := self._words()) is not None:
            method = getattr(self, f"_on_{words[0].lower()}", None)
            try:
                if method is not None:
                    method(words)
                elif words[0].upper() in COMPONENTS:
                    self._add(words[1], COMPONENTS[words[0].upper()], words[2])
                else:
                    self._refuse(f"holds the line {' '.join(words)[:60]!r}, which is not understood")
            except (IndexError, TypeError) as error:
                msg = f"{self.path} holds the line {' '.join(words)[:60]!r}, which is not complete"
                raise ValueError(msg) from error

    def geometry(self) -> Geometry:
        """Return where the points lie."""
        if self.kind == "RECTILINEAR_GRID":
            for place, axis in enumerate("XYZ"):
                along = self.coordinates.get(axis)
                if along is None or len(along) != self.sizes[place]:
                    self._refuse(f"does not hold {self.sizes[place]} {axis}_COORDINATES")
            found = [self._step(axis) for axis in "XYZ"]
            self.spacing, self.origin = (tuple(each) for each in zip(*found, strict=True))
        return Geometry(tuple(end for n in self.sizes for end in (0, n - 1)), self.spacing, self.origin)

    def _step(self, axis: str) -> tuple[float, float]:
        """Return the step of the coordinates along an axis, and the first one."""
        along = self.coordinates[axis]
        if len(along) == 1:
            return 0.0, float(along[0])
        mean = float(along[-1] - along[0]) / (len(along) - 1)
        # The coordinates may be rounded to float32.
        allowed = SAME_STEP * mean + 4 * np.finfo(np.float32).eps * np.abs(along).max()
        if not (mean > 0 and np.abs(along - along[0] - mean * np.arange(len(along))).max() <= allowed):
            steps = np.diff(along)
            self._refuse(
                f"has {axis}_COORDINATES with steps from {steps.min():g} to {steps.max():g}, expected one step; "
                "resample it on an image with one spacing"
            )
        return mean, float(along[0])

    def _words(self) -> list[str] | None:
        """Read the next line that is not empty, as words. Return None at the end of the file."""
        while line := self.file.readline(LONGEST_LINE):
            if words := line.decode("latin-1").split():
                return words
        return None

    def _refuse(self, what: str) -> NoReturn:
        msg = f"{self.path} {what}"
        raise ValueError(msg)

    def _on_dataset(self, words: list[str]) -> None:
        self.kind = words[1].upper()
        if self.kind not in ("STRUCTURED_POINTS", "RECTILINEAR_GRID"):
            self._refuse(
                f"is a VTK file of type {words[1]}, expected STRUCTURED_POINTS, or RECTILINEAR_GRID with one spacing"
            )

    def _on_dimensions(self, words: list[str]) -> None:
        self.sizes = tuple(self._count(word) for word in words[1:4])
        if len(self.sizes) != 3 or 0 in self.sizes:
            self._refuse(f"has the dimensions {' '.join(words[1:])!r}, expected three positive numbers")

    def _on_spacing(self, words: list[str]) -> None:
        self.spacing = self._numbers(words)

    _on_aspect_ratio = _on_spacing

    def _on_origin(self, words: list[str]) -> None:
        self.origin = self._numbers(words)

    def _numbers(self, words: list[str]) -> tuple[float, ...]:
        try:
            found = tuple(map(float, words[1:4]))
        except ValueError:
            found = ()
        if len(found) != 3 or not all(map(math.isfinite, found)):
            self._refuse(f"holds the line {' '.join(words)[:60]!r}, expected three numbers")
        return found

    def _count(self, word: str) -> int:
        """Read a number of things, which is no larger than what the file can hold."""
        if not word.isdigit():
            self._refuse(f"holds {word[:40]!r} where a number is expected")
        return int(word)

    def _on_x_coordinates(self, words: list[str]) -> None:
        n = self._count(words[1])
        _, values = self._values(words[0], words[2], n, n)
        self.coordinates[words[0][0].upper()] = values.read(0, n).astype(float)

    _on_y_coordinates = _on_z_coordinates = _on_x_coordinates

    def _on_point_data(self, words: list[str]) -> None:
        self.of_cells = words[0].upper() == "CELL_DATA"
        shape = shape_of(self._extent(), of_cells=self.of_cells)
        if self._count(words[1]) != math.prod(shape):
            self._refuse(
                f"says {' '.join(words)}, but its dimensions make {math.prod(shape)} "
                f"{'cells' if self.of_cells else 'points'}"
            )

    _on_cell_data = _on_point_data

    def _extent(self) -> tuple[int, ...]:
        if not self.sizes:
            self._refuse("holds values before its dimensions")
        return tuple(end for n in self.sizes for end in (0, n - 1))

    def _on_metadata(self, words: list[str]) -> None:
        while self.file.readline(LONGEST_LINE).strip():
            pass

    def _on_lookup_table(self, words: list[str]) -> None:
        self._values(words[1], "unsigned_char" if self.is_binary else "float", 4 * self._count(words[2]), 2**16)

    def _on_scalars(self, words: list[str]) -> None:
        place = self.file.tell()
        following = self.file.readline(LONGEST_LINE)
        if not following.upper().startswith(b"LOOKUP_TABLE"):
            self.file.seek(place)
        self._add(words[1], self._count(words[3]) if len(words) > 3 else 1, words[2])

    def _on_color_scalars(self, words: list[str]) -> None:
        self._add(words[1], self._count(words[2]), "unsigned_char", factor=1 if self.is_binary else 255)

    def _on_texture_coordinates(self, words: list[str]) -> None:
        self._add(words[1], self._count(words[2]), words[3])

    def _on_field(self, words: list[str]) -> None:
        for _ in range(self._count(words[2])):
            of_array = self._words()
            while of_array is not None and of_array[0].upper() == "METADATA":
                self._on_metadata(of_array)
                of_array = self._words()
            if of_array is None:
                self._refuse("ends inside of a FIELD; it is truncated")
            name, n_components, n_tuples, kind = of_array[0], *map(self._count, of_array[1:3]), of_array[3]
            if kind.lower() in TEXTS:
                # A text takes at least a byte.
                if n_components * n_tuples > self.path.stat().st_size - self.file.tell():
                    self._refuse(f"ends before the values of {name} that its header announces; it is truncated")
                texts = [self._text() for _ in range(n_components * n_tuples)]
                if self.of_cells is None:
                    self.notes[unquote(name)] = texts
            elif self.of_cells is None:
                self._values(name, kind, n_components * n_tuples, 2**16)
            else:
                self._add(name, n_components, kind, n_tuples)

    def _text(self) -> str:
        """Read a text: a line, or with its length before it."""
        if not self.is_binary:
            return unquote(self.file.readline(LONGEST_LINE).decode("latin-1").strip())
        # The two highest bits of the first byte tell how many bytes the length has.
        first = self.file.read(1) or b"\0"
        more = (7, 3, 1, 0)[first[0] >> 6]
        length = int.from_bytes(bytes([first[0] & 63]) + self.file.read(more), "big")
        return self.file.read(min(length, LONGEST_LINE)).decode("utf-8", "replace")

    def _add(self, name: str, n_components: int, kind: str, n: int | None = None, *, factor: int = 1) -> None:
        """Note an array of points or cells, and pass over its values."""
        if self.of_cells is None:
            self._refuse(f"holds the values of {name} before POINT_DATA or CELL_DATA")
        shape = shape_of(self._extent(), of_cells=self.of_cells)
        if n not in (None, math.prod(shape)):
            self._refuse(f"holds {n} values of {name}, but its header announces {math.prod(shape)}")
        plane = shape[1] * shape[2]
        dtype, values = self._values(name, kind, n_components * math.prod(shape), n_components * plane, factor=factor)
        read = Pieces((Piece(values, (0, 0, 0), shape),), shape, dtype)
        self.fields.append(
            Field(
                unquote(name), self.of_cells, n_components, partial(self._checked, self.path, name, kind, dtype, read)
            )
        )

    @staticmethod
    def _checked(path: Path, name: str, kind: str, dtype: np.dtype[Any], read: Pieces) -> Any:
        check_type(path, name, kind.lower(), LEGACY_TYPES, "=")
        return dtype, read

    def _values(self, name: str, kind: str, n: int, every: int, *, factor: int = 1) -> tuple[np.dtype[Any], Any]:
        """Find `n` values at this place, and pass over them."""
        if kind.lower() == "bit":
            dtype, n_bytes = np.dtype("u1"), -(-n // 8)
        else:
            dtype = check_type(self.path, name, kind.lower(), LEGACY_TYPES, ">")
            n_bytes = n * dtype.itemsize
        place, size = self.file.tell(), self.path.stat().st_size
        if self.is_binary:
            if place + n_bytes > size:
                self._refuse(f"ends before the {n} values of {name} that its header announces; it is truncated")
            self.file.seek(n_bytes, 1)
            return dtype, RawValues(self.path, dtype, place)
        if 2 * n - 1 > size - place:
            self._refuse(f"ends before the {n} values of {name} that its header announces; it is truncated")
        values = TextValues.find(self.path, dtype.newbyteorder("="), place, n, every, factor=factor)
        self.file.seek(values.marks[-1])
        return dtype, values


def open_vtk(path: Path, choice: Choice) -> Source:
    """Open one array of an image in a legacy `.vtk` file.

    Raises
    ------
    ValueError
        If the file is no image, or is damaged or truncated; or if it holds no such array, or several and none is named.
        The message lists the arrays.
    """
    choice.check(path, "dataset")
    with path.open("rb") as file:
        reader = _Reader(path, file)
        reader.run()
    if not reader.sizes:
        msg = f"{path} holds no image: it has no line DIMENSIONS"
        raise ValueError(msg)
    return source_of(path, reader.geometry(), reader.fields, choice.dataset, reader.notes)
