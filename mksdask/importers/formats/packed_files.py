"""Raw voxels that are packed as one stream, or written as text. They are read slab by slab all the same.

A stream is unpacked from its beginning. Each process keeps the streams that it has unpacked in part, and a slab goes on
where an earlier one ended. So each process unpacks a file about once for each of its threads, in bounded memory.
"""

from __future__ import annotations

import bz2
import math
import threading
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np

from mksdask.arrays import Array
from mksdask.importers.formats.raw_files import Raw
from mksdask.importers.formats.vtk_values import TextValues

# Bytes of a packed file that are read at once, and most bytes that are unpacked at once.
PIECE, MOST_UNPACKED = 2**20, 2**22
# No packer makes one byte of more than so many.
MOST_PACKED = {"zlib": 1100, "gzip": 1100, "bzip2": 10**7}
# A process keeps so many streams.
MOST_STREAMS = 16


@dataclass(frozen=True)
class Packed(Raw):
    """The kernel that reads rows of values that are packed as one stream. The offset is that of the packed bytes.

    Parameters
    ----------
    packer : {"zlib", "gzip", "bzip2"}
        How the values are packed.
    skip : int
        Number of bytes before the values, when they are unpacked.
    n_bytes : int
        Number of bytes of the stream when it is unpacked. Default: it ends with the values.
    """

    packer: str = "gzip"
    skip: int = 0
    n_bytes: int = 0

    def of_first(self, number: int) -> Self:
        """Return what has one number along the first axis, which is gone then."""
        return replace(self, shape=self.shape[1:], skip=self.skip + number * self.row_bytes, n_bytes=self._all_bytes())

    def _all_bytes(self) -> int:
        return self.n_bytes or self.skip + self.shape[0] * self.row_bytes

    def check_size(self, remedy: str) -> None:
        """Check what can be checked before the stream is unpacked. The remedy ends the message.

        Raises
        ------
        ValueError
            If a stream of this length cannot hold so many bytes.
        """
        there = self.path.stat().st_size - self.offset
        if there * MOST_PACKED[self.packer] < self._all_bytes():
            msg = f"{self.path} holds {there} packed bytes, which cannot be the {self._count()} values; {remedy}"
            raise ValueError(msg)

    def __call__(self, first: int, last: int) -> Array:
        """Return the rows from `first` to `last`."""
        start, n = self.skip + first * self.row_bytes, (last - first) * self.row_bytes
        stat = self.path.stat()
        name = (str(self.path), stat.st_size, stat.st_mtime_ns, self.offset, self.packer)
        stream = _STREAMS.taken(name, start) or _Stream(self.path, self.offset, self.packer)
        stream.skip_to(start)
        content = stream.read(n)
        if len(content) < n:
            self._refuse(f"{stream.position}")
        if start + n == self._all_bytes() and stream.read(1):
            self._refuse(f"more than {self._all_bytes()}")
        _STREAMS.kept(name, stream)
        return np.frombuffer(content, dtype=self.dtype).reshape(last - first, *self.shape[1:])

    def _count(self) -> str:
        return " × ".join(map(str, self.shape[::-1]))

    def _refuse(self, there: str) -> NoReturn:
        what = "its values" if self.n_bytes else f"{self._count()} values"
        header = f" with a header of {self.skip} bytes" if self.skip and not self.n_bytes else ""
        wanted = f"{what} are {self._all_bytes()} bytes{header}"
        msg = f"{self.path} holds {there} bytes when it is unpacked, but {wanted}; it is damaged, or cut"
        raise ValueError(msg)


class _Stream:
    """A packed stream that is unpacked piece by piece.

    Parameters
    ----------
    path : path
        The file.
    offset : int
        Position of the stream in the file.
    packer : {"zlib", "gzip", "bzip2"}
        How it is packed.

    Attributes
    ----------
    position : int
        Number of bytes that were unpacked.
    """

    def __init__(self, path: Path, offset: int, packer: str) -> None:
        self.path, self.packer = path, packer
        self.position = 0
        self._place, self._waiting, self._engine = offset, b"", self._new_engine()

    def _new_engine(self) -> Any:
        # Both a header of zlib and one of gzip are understood.
        return bz2.BZ2Decompressor() if self.packer == "bzip2" else zlib.decompressobj(wbits=47)

    def read(self, n: int) -> bytearray:
        """Unpack `n` bytes, or fewer at the end of the stream."""
        content, size = bytearray(n), 0
        with self.path.open("rb") as file:
            file.seek(self._place)
            while size < n and (found := self._piece(file, min(n - size, MOST_UNPACKED))):
                content[size : size + len(found)] = found
                size += len(found)
            self._place = file.tell()
        self.position += size
        del content[size:]
        return content

    def skip_to(self, position: int) -> None:
        """Unpack what comes before a position."""
        while self.position < position and self.read(min(position - self.position, MOST_UNPACKED)):
            pass

    def _piece(self, file: Any, most: int) -> bytes:
        """Unpack at least one byte, unless the stream has ended."""
        while True:
            if self._engine.eof:
                # Files of gzip and bzip2 may hold several streams, which follow each other, and zeros after the last.
                self._waiting = self._engine.unused_data or file.read(PIECE)
                if self.packer == "zlib" or not self._waiting.strip(b"\0"):
                    return b""
                self._engine = self._new_engine()
            is_last = False
            if not self._waiting and getattr(self._engine, "needs_input", True):
                self._waiting = file.read(PIECE)
                is_last = not self._waiting
            found: bytes = self._engine.decompress(self._waiting, most)
            self._waiting = getattr(self._engine, "unconsumed_tail", b"")
            if found or (is_last and not self._engine.eof):
                return found


class _Streams:
    """The streams that a process has unpacked in part."""

    def __init__(self) -> None:
        self._lock, self._kept = threading.Lock(), list[tuple[tuple[Any, ...], _Stream]]()

    def taken(self, name: tuple[Any, ...], start: int) -> _Stream | None:
        """Take the stream of this name that ends nearest before a position, if there is one."""
        with self._lock:
            found = [each for each in self._kept if each[0] == name and each[1].position <= start]
            if not found:
                return None
            best = max(found, key=lambda each: each[1].position)
            self._kept.remove(best)
        return best[1]

    def kept(self, name: tuple[Any, ...], stream: _Stream) -> None:
        """Keep a stream for the next slab."""
        with self._lock:
            self._kept = [*self._kept, (name, stream)][-MOST_STREAMS:]


_STREAMS = _Streams()


@dataclass(frozen=True)
class Text(Raw):
    """The kernel that reads rows of values that are written as text.

    Parameters
    ----------
    values : TextValues
        The numbers of the text.
    before : int
        How many of them precede the first row.
    """

    values: TextValues | None = None
    before: int = 0

    @classmethod
    def of(cls, raw: Raw) -> Text:
        """Find the rows of a text.

        Raises
        ------
        ValueError
            If it has more or fewer numbers.
        """
        dtype = np.dtype(raw.dtype).newbyteorder("=")
        every, end = math.prod(raw.shape[1:]), raw.path.stat().st_size
        values = TextValues.find(raw.path, dtype, raw.offset, raw.shape[0] * every, every, end=end)
        return cls(raw.path, raw.shape, dtype.str, raw.offset, values=values)

    def of_first(self, number: int) -> Self:
        """Return what has one number along the first axis, which is gone then."""
        return replace(self, shape=self.shape[1:], before=self.before + number * math.prod(self.shape[1:]))

    def check_size(self, remedy: str) -> None:
        """Check nothing more: the numbers were counted."""

    def __call__(self, first: int, last: int) -> Array:
        """Return the rows from `first` to `last`."""
        assert self.values is not None
        count = math.prod(self.shape[1:])
        values = self.values.read(self.before + first * count, self.before + last * count)
        return values.reshape(last - first, *self.shape[1:])
