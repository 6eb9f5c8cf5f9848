"""Values of VTK files: raw, as text, in base64, and in compressed blocks. Each kind is read piece by piece."""

from __future__ import annotations

import base64
import binascii
import lzma
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from struct import pack
from typing import Any, NoReturn, Protocol

import numpy as np
from numcodecs import lz4

from mksdask.arrays import Array

# Number of bytes of a text that are searched for numbers together.
SCAN_BYTES = 2**22
# Letters of numbers, and what whole numbers do not hold.
_SIGNS = b"0123456789+-.eEnNaAiIfF \t\r\n\v\f"
_NOT_WHOLE = re.compile(rb"[.eEnN]")


class Values(Protocol):
    """Numbers of one array, in the order of the file."""

    def read(self, start: int, stop: int) -> Array:
        """Read the numbers from `start` to `stop`, in the native byte order."""


def _cut_short(path: Path) -> NoReturn:
    msg = f"{path} ends before the values that its header announces; it is truncated"
    raise ValueError(msg)


@dataclass(frozen=True)
class RawValues:
    """Values that stand in a file as they are.

    Parameters
    ----------
    path : path
        The file.
    dtype : dtype
        dtype of the values, with their byte order.
    offset : int
        Position in bytes of the first value.
    """

    path: Path
    dtype: np.dtype[Any]
    offset: int

    def read(self, start: int, stop: int) -> Array:
        """Read the numbers from `start` to `stop`, in the native byte order."""
        size = self.dtype.itemsize
        values = np.fromfile(self.path, self.dtype, stop - start, offset=self.offset + start * size)
        if len(values) < stop - start:
            _cut_short(self.path)
        return values.astype(self.dtype.newbyteorder("="), copy=False)


@dataclass(frozen=True)
class TextValues:
    """Values that are written as text.

    Parameters
    ----------
    path : path
        The file.
    dtype : dtype
        dtype of the values, native.
    every : int
        So many numbers lie between two marks.
    marks : tuple of int
        Position in bytes of each number that is a multiple of `every`, and of the end.
    factor : int
        Factor of the written numbers: 255 for colours, which are written as shares of 1.
    """

    path: Path
    dtype: np.dtype[Any]
    every: int
    marks: tuple[int, ...] = field(repr=False)
    factor: int = 1

    @classmethod
    def find(
        cls,
        path: Path,
        dtype: np.dtype[Any],
        offset: int,
        n: int,
        every: int,
        *,
        end: int | None = None,
        factor: int = 1,
    ) -> TextValues:
        """Find `n` numbers of a text that begins at `offset`, and marks between them.

        Raises
        ------
        ValueError
            If there are fewer numbers before the end of the file or before `end`, or more before `end`.
        """
        marks: list[int] = []
        n_found, position, was_space = 0, offset, True
        last = path.stat().st_size if end is None else end
        with path.open("rb") as file:
            file.seek(offset)
            while n_found <= n and (part := file.read(min(SCAN_BYTES, last - position))):
                is_space = np.frombuffer(part, np.uint8) <= 32
                starts = position + np.flatnonzero(~is_space & np.concatenate(([was_space], is_space[:-1])))
                marks += starts[-n_found % every : max(0, n - n_found) : every].tolist()
                if n_found <= n < n_found + len(starts):
                    last = min(last, int(starts[n - n_found])) if end is None else last
                n_found, position, was_space = n_found + len(starts), position + len(part), bool(is_space[-1])
        if n_found < n or (end is not None and n_found > n):
            much = f"only {n_found}" if n_found < n else "more"
            msg = f"{path} holds {much} values, but its header announces {n}; it is truncated, or its header is wrong"
            raise ValueError(msg)
        return cls(path, dtype, every, (*marks, last), factor)

    def read(self, start: int, stop: int) -> Array:
        """Read the numbers from `start` to `stop`, in the native byte order."""
        out = np.empty(stop - start, self.dtype)
        with self.path.open("rb") as file:
            for mark in range(start // self.every, -(-stop // self.every)):
                file.seek(self.marks[mark])
                found = self._parsed(file.read(self.marks[mark + 1] - self.marks[mark]))
                first = mark * self.every
                low, high = max(start, first), min(stop, first + len(found))
                out[low - start : high - start] = found[low - first : high - first]
                if len(found) < self.every and high < stop:
                    self._refuse()
        return out

    def _parsed(self, text: bytes) -> Array:
        """Read the numbers of a text, and check that their dtype holds them."""
        is_whole = self.dtype.kind in "iu" and not _NOT_WHOLE.search(text)
        kind = (np.uint64 if self.dtype.kind == "u" else np.int64) if is_whole else np.float64
        # A minus sign would wrap around in an unsigned number.
        if text.translate(None, _SIGNS) or (kind == np.uint64 and b"-" in text):
            self._refuse()
        try:
            found = np.fromstring(text, kind, sep=" ")
        except (ValueError, DeprecationWarning):  # old versions of NumPy warn, and return fewer numbers
            self._refuse()
        if self.factor != 1:
            found = np.round(found * self.factor)
        with np.errstate(invalid="ignore", over="ignore"):
            converted = found.astype(self.dtype)
        if self.dtype.kind in "iu" and not np.array_equal(converted, found):
            self._refuse()
        return converted

    def _refuse(self) -> NoReturn:
        msg = f"{self.path} holds text among its values that is no number of type {self.dtype}; the file is damaged"
        raise ValueError(msg)


@dataclass(frozen=True)
class Stream:
    """Bytes that stand in a file as they are, or in base64.

    Parameters
    ----------
    path : path
        The file.
    offset, end : int
        Positions of the first byte or letter, and beyond the last one that may belong to it.
    is_raw : bool
        Whether the bytes are not in base64.
    """

    path: Path
    offset: int
    end: int
    is_raw: bool

    def read(self, start: int, n: int) -> bytes:
        """Read `n` bytes from the one with the number `start`."""
        low, high = (start, start + n) if self.is_raw else (start // 3 * 4, -(-(start + n) // 3) * 4)
        if self.offset + high > self.end:
            _cut_short(self.path)
        with self.path.open("rb") as file:
            file.seek(self.offset + low)
            found = file.read(high - low)
        if len(found) < high - low:
            _cut_short(self.path)
        return found if self.is_raw else self._decoded(found)[start % 3 : start % 3 + n]

    def after(self, n: int) -> Stream:
        """Return the bytes after a first part of `n` bytes, which ends with its own padding if it is in base64."""
        return Stream(self.path, self.offset + (n if self.is_raw else -(-n // 3) * 4), self.end, self.is_raw)

    def _decoded(self, text: bytes) -> bytes:
        try:
            return base64.b64decode(text, validate=True)
        except binascii.Error as error:
            msg = f"{self.path} holds base64 that cannot be decoded ({error}); the file is damaged"
            raise ValueError(msg) from None


@dataclass(frozen=True)
class StreamValues:
    """Values in a stream after `skip` bytes."""

    stream: Stream
    dtype: np.dtype[Any]
    skip: int

    def read(self, start: int, stop: int) -> Array:
        """Read the numbers from `start` to `stop`, in the native byte order."""
        size = self.dtype.itemsize
        found = np.frombuffer(self.stream.read(self.skip + start * size, (stop - start) * size), self.dtype)
        return found.astype(self.dtype.newbyteorder("="), copy=False)


def _zlib(packed: bytes, size: int) -> bytes:
    return zlib.decompressobj().decompress(packed, size)


def _lz4(packed: bytes, size: int) -> bytes:
    return bytes(lz4.decompress(pack("<I", size) + packed))


def _lzma(packed: bytes, size: int) -> bytes:
    return lzma.LZMADecompressor(memlimit=2**28).decompress(packed, size)


DECODERS: dict[str, Callable[[bytes, int], bytes]] = {
    "vtkZLibDataCompressor": _zlib,
    "vtkLZ4DataCompressor": _lz4,
    "vtkLZMADataCompressor": _lzma,
}


@dataclass(frozen=True)
class PackedValues:
    """Values in compressed blocks of one size, of which the last may be smaller.

    Parameters
    ----------
    stream : Stream
        The blocks.
    dtype : dtype
        dtype of the values, with their byte order.
    compressor : str
        Name of the compressor.
    block : int
        Number of bytes of a block.
    size : int
        Number of bytes of all values.
    starts : tuple of int
        Position in the stream of each compressed block, and of the end.
    """

    stream: Stream
    dtype: np.dtype[Any]
    compressor: str
    block: int
    size: int
    starts: tuple[int, ...] = field(repr=False)

    def read(self, start: int, stop: int) -> Array:
        """Read the numbers from `start` to `stop`, in the native byte order."""
        low, high = start * self.dtype.itemsize, stop * self.dtype.itemsize
        first, last = low // self.block, -(-high // self.block)
        packed = memoryview(self.stream.read(self.starts[first], self.starts[last] - self.starts[first]))
        parts = []
        for number in range(first, last):
            begin, end = (self.starts[number + more] - self.starts[first] for more in (0, 1))
            parts.append(self._unpacked(bytes(packed[begin:end]), number))
        content = b"".join(parts)[low - first * self.block :][: high - low]
        return np.frombuffer(content, self.dtype).astype(self.dtype.newbyteorder("="), copy=False)

    def _unpacked(self, packed: bytes, number: int) -> bytes:
        size = min(self.block, self.size - number * self.block)
        try:
            found = DECODERS[self.compressor](packed, size)
        except (zlib.error, lzma.LZMAError, RuntimeError) as error:
            found, why = b"", f" ({error})"
        else:
            why = ""
        if len(found) != size:
            msg = f"{self.stream.path}: block {number} of its values cannot be unpacked{why}; the file is damaged"
            raise ValueError(msg)
        return found


def values_in(
    stream: Stream, dtype: np.dtype[Any], counter: np.dtype[Any], compressor: str | None, n_bytes: int, what: str
) -> Values:
    """Find the values that follow a header of numbers in a stream.

    Without compression the header is the number of bytes. With compression it is the number of blocks, their size, the
    size of the last block (0 if it is not smaller), and the compressed size of each block.

    Parameters
    ----------
    stream : Stream
        The header and the values.
    dtype, counter : dtype
        dtypes of the values and of the header.
    compressor : str or None
        Name of the compressor.
    n_bytes : int
        Number of bytes that the values need.
    what : str
        What the values are, for the message.

    Raises
    ------
    ValueError
        If there are more or fewer bytes, or the compressor is not known.
    """
    size, found = counter.itemsize, announced(stream, counter, compressor)
    if found != n_bytes:
        msg = f"{stream.path}: {what} holds {found} bytes, but the header of the file announces {n_bytes}"
        raise ValueError(msg)
    if compressor is None:
        stream.read(size + n_bytes - 1, 1)
        return StreamValues(stream, dtype, size)
    if compressor not in DECODERS:
        msg = f"{stream.path} is compressed by {compressor}, expected one of {', '.join(DECODERS)}"
        raise ValueError(msg)
    n_blocks, block, _ = np.frombuffer(stream.read(0, 3 * size), counter).tolist()
    packed = np.frombuffer(stream.read(3 * size, n_blocks * size), counter)
    starts = (0, *np.cumsum(packed.astype(np.uint64)).tolist())
    blocks = stream.after((3 + n_blocks) * size)
    blocks.read(starts[-1] - 1, 1)
    return PackedValues(blocks, dtype, compressor, block, n_bytes, starts)


def announced(stream: Stream, counter: np.dtype[Any], compressor: str | None) -> int:
    """Return the number of bytes that the header of a stream announces."""
    if compressor is None:
        return int(np.frombuffer(stream.read(0, counter.itemsize), counter)[0])
    n_blocks, block, rest = np.frombuffer(stream.read(0, 3 * counter.itemsize), counter).tolist()
    return int(n_blocks * block - (block - rest if rest else 0))
