"""XML files of VTK: images (.vti), and images in several files (.pvti).

A parser passes over the file once, piece by piece, and notes where values stand. Values are read later.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np

from mksdask.arrays import Array
from mksdask.importers.formats.vtk_files import (
    Field,
    Geometry,
    Piece,
    Pieces,
    check_extent,
    check_pieces,
    check_type,
    shape_of,
    source_of,
)
from mksdask.importers.formats.vtk_values import Stream, TextValues, Values, announced, values_in
from mksdask.importers.sources import Choice, Source

XML_TYPES = {
    "Int8": "i1",
    "UInt8": "u1",
    "Int16": "i2",
    "UInt16": "u2",
    "Int32": "i4",
    "UInt32": "u4",
    "Int64": "i8",
    "UInt64": "u8",
    "Float32": "f4",
    "Float64": "f8",
}
# Number of bytes that are parsed together.
PARSE_BYTES = 2**20
# Names of the texts that are read.
NOTES = ("units", "phases")
# A note is a text of at most so many bytes.
LONGEST_NOTE = 2**16


class _Found(Exception):  # noqa: N818
    """The parser has reached raw bytes, which are no XML."""


@dataclass
class _Element:
    """An element of the file, with the positions of its content."""

    tag: str
    attributes: dict[str, str]
    start: int = 0
    end: int = 0
    text_end: int = -1
    children: list[_Element] = field(default_factory=list)

    def all(self, tag: str) -> Iterator[_Element]:
        return (child for child in self.children if child.tag == tag)

    def first(self, tag: str) -> _Element | None:
        return next(self.all(tag), None)


class _Parser:
    """Makes elements of a file without keeping its text."""

    def __init__(self, path: Path) -> None:
        self.path, self.open, self.root, self.is_waiting = path, [], _Element("", {}), False
        self.open.append(self.root)
        self.parser = expat.ParserCreate()
        self.parser.StartElementHandler, self.parser.EndElementHandler = self._start, self._end
        self.parser.EntityDeclHandler = self._refuse_entity

    def run(self) -> _Element:
        """Parse the file up to its end, or up to raw bytes."""
        try:
            with self.path.open("rb") as file:
                while part := file.read(PARSE_BYTES):
                    self.parser.Parse(part, False)  # noqa: FBT003
                self.parser.Parse(b"", True)  # noqa: FBT003
        except expat.ExpatError as error:
            msg = f"{self.path} is not the XML of a VTK file, or it is truncated: {error}"
            raise ValueError(msg) from error
        except _Found:
            pass
        if not self.root.children or self.root.children[0].tag != "VTKFile":
            msg = f"{self.path} is not the XML of a VTK file: it has no element VTKFile"
            raise ValueError(msg)
        return self.root.children[0]

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        element = _Element(tag, attributes, self.parser.CurrentByteIndex)
        self._begin()
        parent = self.open[-1]
        parent.text_end = element.start if parent.text_end < 0 else parent.text_end
        parent.children.append(element)
        self.open.append(element)
        if tag == "AppendedData" and attributes.get("encoding", "raw") == "raw":
            raise _Found
        self.is_waiting = True
        # The first letters after the tag tell where the content begins.
        self.parser.CharacterDataHandler = self._text

    def _begin(self) -> None:
        """Note where the content of the last opened element begins."""
        if self.is_waiting:
            self.open[-1].start = self.parser.CurrentByteIndex
        self.is_waiting, self.parser.CharacterDataHandler = False, None

    def _text(self, text: str) -> None:
        self._begin()

    def _end(self, tag: str) -> None:
        self._begin()
        element = self.open.pop()
        element.end = self.parser.CurrentByteIndex
        element.text_end = element.end if element.text_end < 0 else element.text_end

    def _refuse_entity(self, *declared: Any) -> None:
        msg = f"{self.path} declares entities of XML, which no VTK file needs"
        raise ValueError(msg)


@dataclass(frozen=True)
class _File:
    """A file that is parsed: where its values stand, and in which form."""

    path: Path
    root: _Element
    appended: int
    appended_end: int
    is_raw: bool

    @classmethod
    def of(cls, path: Path) -> _File:
        """Parse a file."""
        root, size = _Parser(path).run(), path.stat().st_size
        found = root.first("AppendedData")
        if found is None:
            return cls(path, root, 0, 0, is_raw=False)
        with path.open("rb") as file:
            file.seek(found.start)
            head = file.read(LONGEST_NOTE)
        mark = re.match(rb"(<AppendedData(?:[^>\"']|\"[^\"]*\"|'[^']*')*>)?\s*_", head)
        if mark is None:
            msg = f"{path}: its appended data do not begin with '_'; the file is damaged"
            raise ValueError(msg)
        return cls(path, root, found.start + mark.end(), found.end or size, is_raw=not found.end)

    @property
    def counter(self) -> np.dtype[Any]:
        """Type of the numbers that stand before values."""
        return np.dtype(self.order + XML_TYPES.get(self.root.attributes.get("header_type", ""), "u4"))

    @property
    def order(self) -> str:
        """Byte order of the values."""
        return ">" if self.root.attributes.get("byte_order") == "BigEndian" else "<"

    @property
    def compressor(self) -> str | None:
        """Name of the compressor."""
        return self.root.attributes.get("compressor") or None

    def image(self, kind: str) -> tuple[_Element, Geometry]:
        """Return the element of the image, and its geometry."""
        image = self.root.first(kind)
        if image is None:
            msg = f"{self.path} is a VTK file of type {self.root.attributes.get('type')!r}, expected {kind}"
            raise ValueError(msg)
        said = image.attributes
        return image, Geometry(
            self.extent(said.get("WholeExtent", "")),
            self.numbers(said.get("Spacing", "1 1 1"), float),
            self.numbers(said.get("Origin", "0 0 0"), float),
            self.numbers(said.get("Direction", "1 0 0 0 1 0 0 0 1"), float, 9),
        )

    def numbers(self, text: str, kind: Any, n: int = 3) -> tuple[Any, ...]:
        """Read the numbers of an attribute."""
        try:
            found = tuple(map(kind, text.split()))
        except ValueError:
            found = ()
        if len(found) != n:
            msg = f"{self.path}: {text!r} in its header is not a list of {n} numbers; the file is damaged"
            raise ValueError(msg)
        return found

    def extent(self, text: str) -> tuple[int, ...]:
        """Read an extent."""
        return self.numbers(text, int, 6)

    def notes(self, image: _Element) -> dict[str, list[str]]:
        """Read the texts that the package knows."""
        found = {}
        for group in image.all("FieldData"):
            for array in group.all("Array"):
                name = array.attributes.get("Name", "")
                if name in NOTES and array.attributes.get("type") == "String":
                    found[name] = bytes(self._letters(array)).decode("utf-8", "replace").split("\0")[:-1]
        return found

    def _letters(self, array: _Element) -> Array:
        if array.attributes.get("format", "ascii") == "ascii":
            with self.path.open("rb") as file:
                file.seek(array.start)
                return np.array(file.read(min(LONGEST_NOTE, array.text_end - array.start)).split(), dtype=np.uint8)
        stream = self._stream(array)
        n = announced(stream, self.counter, self.compressor)
        if n > LONGEST_NOTE:
            return np.empty(0, np.uint8)
        return values_in(stream, np.dtype("u1"), self.counter, self.compressor, n, "a text").read(0, n)

    def values(self, array: _Element, dtype: np.dtype[Any], n: int, every: int) -> Values:
        """Find `n` values of an array, after a check that the file holds them."""
        if array.attributes.get("format", "ascii") == "ascii":
            return TextValues.find(self.path, dtype.newbyteorder("="), array.start, n, every, end=array.text_end)
        stream, name = self._stream(array), array.attributes.get("Name", "")
        return values_in(stream, dtype, self.counter, self.compressor, n * dtype.itemsize, name)

    def _stream(self, array: _Element) -> Stream:
        if array.attributes.get("format") == "appended":
            start = self.appended + self.numbers(array.attributes.get("offset", "0"), int, 1)[0]
            return Stream(self.path, start, self.appended_end, self.is_raw)
        with self.path.open("rb") as file:
            file.seek(array.start)
            head = file.read(LONGEST_NOTE)
        return Stream(self.path, array.start + len(head) - len(head.lstrip()), array.text_end, is_raw=False)


@dataclass(frozen=True)
class _Part:
    """One piece of an image: its file, its element, and its extent."""

    file: _File
    element: _Element
    extent: tuple[int, ...]

    def arrays(self) -> dict[tuple[bool, str], _Element]:
        """List the arrays of points and of cells."""
        return {
            (of_cells, array.attributes.get("Name", "")): array
            for kind, of_cells in (("PointData", False), ("CellData", True))
            for group in self.element.all(kind)
            for array in group.all("DataArray")
        }


def _parts(file: _File, image: _Element) -> list[_Part]:
    """List the pieces of an image that hold points."""
    parts = [_Part(file, piece, file.extent(piece.attributes.get("Extent", ""))) for piece in image.all("Piece")]
    return [part for part in parts if all(a <= b for a, b in zip(part.extent[::2], part.extent[1::2], strict=True))]


def _components(array: _Element) -> int:
    return int(array.attributes.get("NumberOfComponents") or 1)


def _opened(parts: Sequence[_Part], whole: tuple[int, ...], key: tuple[bool, str]) -> Any:
    """Find the values of an array in all pieces. Return its dtype, and the kernel that reads planes."""
    of_cells, name = key
    found = parts[0].arrays()[key]
    path, kind = parts[0].file.path, found.attributes.get("type", "")
    dtype = check_type(path, name, kind, XML_TYPES, "=")
    check_pieces(path, [part.extent for part in parts], whole, of_cells=of_cells)
    pieces = []
    for part in parts:
        array = part.arrays().get(key)
        if array is None or array.attributes.get("type") != kind or _components(array) != 1:
            msg = f"{part.file.path}: the piece {part.extent} holds no {name} of type {kind}, as other pieces do"
            raise ValueError(msg)
        shape = shape_of(part.extent, of_cells=of_cells)
        low = tuple(a - b for a, b in zip(part.extent[::2], whole[::2], strict=True))[::-1]
        order = np.dtype(part.file.order + XML_TYPES[kind])
        values = part.file.values(array, order, shape[0] * shape[1] * shape[2], shape[1] * shape[2])
        pieces.append(Piece(values, low, shape))
    return dtype, Pieces(tuple(pieces), shape_of(whole, of_cells=of_cells), dtype)


def _source(path: Path, geometry: Geometry, parts: Sequence[_Part], notes: Any, dataset: str | None) -> Source:
    check_extent(path, geometry.extent)
    if not parts:
        msg = f"{path} holds no piece of an image"
        raise ValueError(msg)
    fields = [
        Field(
            key[1],
            key[0],
            _components(array),
            partial(_opened, parts, geometry.extent, key),
        )
        for key, array in parts[0].arrays().items()
    ]
    return source_of(path, geometry, fields, dataset, notes)


def open_vti(path: Path, choice: Choice) -> Source:
    """Open one array of an image in a `.vti` file.

    Raises
    ------
    ValueError
        If the file is not an image, or is damaged or truncated; or if it holds no such array, or several and none is
        named. The message lists the arrays.
    """
    choice.check(path, "dataset")
    file = _File.of(path)
    image, geometry = file.image("ImageData")
    return _source(path, geometry, _parts(file, image), file.notes(image), choice.dataset)


def open_pvti(path: Path, choice: Choice) -> Source:
    """Open one array of an image whose pieces are in `.vti` files beside a `.pvti` file, or below it.

    Raises
    ------
    ValueError
        As in `open_vti`; also if a piece lies elsewhere, or has another spacing.
    """
    choice.check(path, "dataset")
    whole = _File.of(path)
    image, geometry = whole.image("PImageData")
    parts: list[_Part] = []
    for piece in image.all("Piece"):
        name = piece.attributes.get("Source", "")
        place = path.parent / name
        if not place.resolve().is_relative_to(path.parent.resolve()):
            msg = f"{path}: its piece {name!r} does not lie in the folder of the file; put all files into one folder"
            raise ValueError(msg)
        if not place.is_file():
            msg = f"{path}: its piece {name!r} is not there; put all files into one folder"
            raise ValueError(msg)
        file = _File.of(place)
        of_piece, other = file.image("ImageData")
        if "Direction" not in image.attributes:
            # Some versions of VTK write the direction into the pieces only.
            geometry = replace(geometry, direction=other.direction)
        if not np.allclose(other.spacing + other.direction, geometry.spacing + geometry.direction, rtol=1e-6):
            msg = f"{path}: its piece {name!r} has the spacing {other.spacing}, the whole has {geometry.spacing}"
            raise ValueError(msg)
        parts += _parts(file, of_piece)
    return _source(path, geometry, parts, whole.notes(image), choice.dataset)
