"""Images in VTK files: XML files (.vti) and legacy files (.vtk). Raw values are not read whole."""

from __future__ import annotations

import base64
import itertools
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np

from mksdask.arrays import Array
from mksdask.importers.sources import Choice, Source, chosen_dataset, lazy_slabs

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
LEGACY_TYPES = {
    "char": "i1",
    "unsigned_char": "u1",
    "short": "i2",
    "unsigned_short": "u2",
    "int": "i4",
    "unsigned_int": "u4",
    "long": "i8",
    "unsigned_long": "u8",
    "float": "f4",
    "double": "f8",
}


@dataclass(frozen=True)
class _VtkImage:
    """One array of an image.

    Parameters
    ----------
    path : path
        The file.
    shape : tuple of int
        Numbers of voxels along z, y, x. The x axis runs fastest.
    dtype : dtype
        dtype of the stored values, with its byte order.
    spacing : tuple of float
        Voxel size along x, y, z.
    offset : int or None
        Position in bytes at which raw values begin, if the file holds raw values.
    values : ndarray or None
        All values, if the file does not hold raw values.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    spacing: tuple[float, ...]
    offset: int | None
    values: Array | None = None

    def read(self, first: int, last: int) -> Array:
        """Read the planes along z from `first` to `last`, (last - first, y, x), in the native byte order."""
        if self.values is not None:
            return self.values[first:last]
        plane = self.shape[1] * self.shape[2]
        with self.path.open("rb") as file:
            file.seek((self.offset or 0) + first * plane * self.dtype.itemsize)
            raw = file.read((last - first) * plane * self.dtype.itemsize)
        if len(raw) < (last - first) * plane * self.dtype.itemsize:
            msg = f"{self.path} ends before the {self.shape[0]} planes that its header announces; it is truncated"
            raise ValueError(msg)
        rows = np.frombuffer(raw, self.dtype).reshape(last - first, *self.shape[1:])
        return rows.astype(self.dtype.newbyteorder("="))


def open_vtk(path: Path, choice: Choice) -> Source:
    """Open one scalar array of an image in a `.vti` or `.vtk` file.

    Raises
    ------
    ValueError
        If the file is not image data, or holds no such array. The message lists the arrays.
    """
    choice.check(path, "dataset")
    opened = _open_xml if path.suffix.lower() == ".vti" else _open_legacy
    image = opened(path, choice.dataset)
    steps = dict(zip("xyz", image.spacing, strict=True))
    return Source(lazy_slabs(image.read, image.shape, image.dtype), "zyx", steps)


def _shape(extent: tuple[int, ...], *, of_cells: bool) -> tuple[int, ...]:
    """Return the numbers of points along z, y, x, or of the cells between them. A flat axis has one layer of either."""
    sizes = [high - low + 1 for low, high in zip(extent[::2], extent[1::2], strict=True)]
    return tuple(max(1, size - 1) if of_cells else size for size in sizes[::-1])


def _open_xml(path: Path, dataset: str | None) -> _VtkImage:
    head, appended, is_raw = _header(path)
    try:
        root = ET.fromstring(head)
    except ET.ParseError as error:
        msg = f"{path} is not the XML of a VTK file: {error}"
        raise ValueError(msg) from error
    image = root.find("ImageData")
    if image is None:
        msg = f"{path} is a VTK file of type {root.get('type')!r}, expected ImageData"
        raise ValueError(msg)
    pieces = image.findall("Piece")
    if len(pieces) != 1:
        msg = f"{path} is in {len(pieces)} pieces, expected one; write the image as one piece"
        raise ValueError(msg)
    extent = tuple(map(int, pieces[0].get("Extent", image.get("WholeExtent", "")).split()))
    arrays = {
        str(array.get("Name")): (array, of_cells)
        for kind, of_cells in (("PointData", False), ("CellData", True))
        for group in pieces[0].findall(kind)
        for array in group.findall("DataArray")
        if int(array.get("NumberOfComponents") or 1) == 1
    }
    array, of_cells = arrays[chosen_dataset(dataset, list(arrays), path, none="none with one component")]
    order = "<" if root.get("byte_order", "LittleEndian") == "LittleEndian" else ">"
    if array.get("type") not in XML_TYPES:
        msg = f"{path}: {array.get('Name')} is of type {array.get('type')!r}, expected one of {', '.join(XML_TYPES)}"
        raise ValueError(msg)
    dtype = np.dtype(order + XML_TYPES[str(array.get("type"))])
    counter = np.dtype(order + XML_TYPES[root.get("header_type", "UInt32")])
    compressor = root.get("compressor")
    if compressor not in (None, "vtkZLibDataCompressor"):
        msg = f"{path} is compressed by {compressor}; write it with zlib, or uncompressed"
        raise ValueError(msg)
    shape = _shape(extent, of_cells=of_cells)
    spacing = tuple(float(step) for step in (image.get("Spacing") or "1 1 1").split())
    form = array.get("format", "ascii")
    if form == "ascii":
        values = np.array((array.text or "").split(), dtype=np.float64 if dtype.kind == "f" else np.int64)
        return _VtkImage(path, shape, dtype.newbyteorder("="), spacing, None, _reshaped(values, shape, path, dtype))
    if form == "appended":
        start = appended + int(array.get("offset", 0))
        if is_raw and compressor is None:
            return _VtkImage(path, shape, dtype, spacing, start + counter.itemsize)
        with path.open("rb") as file:
            file.seek(start)
            data = file.read()
        data = data if is_raw else data[: data.index(b"<")] if b"<" in data else data
    else:
        is_raw, data = False, (array.text or "").strip().encode()
    content = _unpacked(data, counter, is_raw=is_raw, is_compressed=compressor is not None)
    n_bytes = int(np.prod(shape)) * dtype.itemsize
    values = np.frombuffer(content[:n_bytes], dtype)
    return _VtkImage(path, shape, dtype.newbyteorder("="), spacing, None, _reshaped(values, shape, path, dtype))


def _header(path: Path) -> tuple[bytes, int, bool]:
    """Read the XML without the appended data.

    Returns
    -------
    bytes, int, bool
        The XML, the position in bytes at which the appended data begin, and whether these are raw.
    """
    head = b""
    with path.open("rb") as file:
        while True:
            more = file.read(2**16)
            head += more
            found = re.search(rb"<AppendedData[^>]*?encoding\s*=\s*[\"'](\w+)[\"'][^>]*>\s*_", head)
            if found is not None:
                return head[: found.start()] + b"</VTKFile>", found.end(), found[1] == b"raw"
            if not more:
                return head, 0, False


def _unpacked(data: bytes, counter: np.dtype[Any], *, is_raw: bool, is_compressed: bool) -> bytes:
    """Decode the values that follow a header of numbers.

    Without compression the header is the number of bytes. With compression it is the number of blocks, their size, the
    size of the last block, and the compressed size of each block.
    """

    def numbers(n: int, first: int = 0) -> Array:
        start, n_bytes = first * counter.itemsize, (first + n) * counter.itemsize
        head = data if is_raw else base64.b64decode(data[: -(-n_bytes // 3) * 4])
        return np.frombuffer(head[start:n_bytes], counter).astype(np.int64)

    if not is_compressed:
        n_bytes = int(numbers(1)[0])
        body = data if is_raw else base64.b64decode(data[: -(-(n_bytes + counter.itemsize) // 3) * 4])
        return body[counter.itemsize : counter.itemsize + n_bytes]
    n_blocks = int(numbers(1)[0])
    sizes = numbers(n_blocks, 3)
    n_header = (3 + n_blocks) * counter.itemsize
    start = n_header if is_raw else -(-n_header // 3) * 4
    body = data[start:] if is_raw else base64.b64decode(data[start : start + -(-int(sizes.sum()) // 3) * 4])
    ends = np.cumsum((0, *sizes))
    return b"".join(zlib.decompress(body[a:b]) for a, b in itertools.pairwise(ends))


def _reshaped(values: Array, shape: tuple[int, ...], path: Path, dtype: np.dtype[Any]) -> Array:
    """Give values the shape that the header announces, and the native byte order."""
    if values.size != np.prod(shape):
        msg = f"{path} holds {values.size} values, but its header announces {' × '.join(map(str, shape[::-1]))}"
        raise ValueError(msg)
    return values.reshape(shape).astype(dtype.newbyteorder("="))


def _open_legacy(path: Path, dataset: str | None) -> _VtkImage:
    arrays: dict[str, tuple[np.dtype[Any], bool, int]] = {}
    with path.open("rb") as file:
        if not file.readline().startswith(b"# vtk DataFile"):
            msg = f"{path} does not begin with '# vtk DataFile', so it is not a VTK file"
            raise ValueError(msg)
        file.readline()
        is_binary = file.readline().strip().upper() == b"BINARY"
        sizes: tuple[int, ...] = ()
        spacing: tuple[float, ...] = (1.0, 1.0, 1.0)
        of_cells = False
        while line := file.readline():
            words = line.decode("latin-1").split()
            keyword = words[0].upper() if words else ""
            if keyword == "DATASET" and words[1].upper() != "STRUCTURED_POINTS":
                msg = f"{path} is a VTK file of type {words[1]}, expected STRUCTURED_POINTS"
                raise ValueError(msg)
            if keyword == "DIMENSIONS":
                sizes = tuple(map(int, words[1:4]))
            elif keyword in ("SPACING", "ASPECT_RATIO"):
                spacing = tuple(map(float, words[1:4]))
            elif keyword in ("POINT_DATA", "CELL_DATA"):
                of_cells = keyword == "CELL_DATA"
            elif keyword == "SCALARS" and words[2].lower() in LEGACY_TYPES and (len(words) < 4 or words[3] == "1"):
                dtype = np.dtype(">" + LEGACY_TYPES[words[2].lower()])
                place = file.tell()
                if not file.readline().upper().startswith(b"LOOKUP_TABLE"):
                    file.seek(place)
                arrays[words[1]] = dtype, of_cells, file.tell()
                if is_binary:
                    shape = _shape(_extent(sizes), of_cells=of_cells)
                    file.seek(int(np.prod(shape)) * dtype.itemsize, 1)
        dtype, of_cells, offset = arrays[chosen_dataset(dataset, list(arrays), path, none="none with one component")]
        shape = _shape(_extent(sizes), of_cells=of_cells)
        if is_binary:
            return _VtkImage(path, shape, dtype, spacing, offset)
        file.seek(offset)
        values = np.fromstring(file.read().decode("latin-1"), sep=" ", count=int(np.prod(shape)))
    return _VtkImage(path, shape, dtype.newbyteorder("="), spacing, None, _reshaped(values, shape, path, dtype))


def _extent(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the first and the last point along each axis."""
    return tuple(bound for size in sizes for bound in (0, size - 1))
