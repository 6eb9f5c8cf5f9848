"""Opens TIFF files, and keeps the log of tifffile short.

A damaged file may have thousands of broken tags on each page. tifffile logs each of them whenever it reads the page.
"""

from __future__ import annotations

import logging
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tifffile

# So many messages about a file are passed on. A file with more faults than `MOST_FAULTS` is refused.
MOST_TOLD, MOST_FAULTS = 3, 10_000
_LOGGER = logging.getLogger("tifffile")


class _Few(logging.Filter):
    """Passes on the first messages that a thread logs, and ends the reading of a file that has too many faults."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.thread, self.n = path, threading.get_ident(), 0

    def filter(self, record: logging.LogRecord) -> bool:
        if threading.get_ident() != self.thread:
            return True
        self.n += 1
        if self.n > MOST_FAULTS:
            msg = (
                f"{self.path} has more than {MOST_FAULTS} faults, such as broken tags ({record.getMessage()}); get a "
                "whole copy of it, or save it again in the program that wrote it"
            )
            raise ValueError(msg)
        return self.n <= MOST_TOLD


@contextmanager
def opened_tiff(path: Path) -> Iterator[tifffile.TiffFile]:
    """Open a TIFF file. Inside the block, this thread passes on only the first messages of tifffile.

    Raises
    ------
    ValueError
        If tifffile finds too many faults in the file.
    """
    few = _Few(path)
    _LOGGER.addFilter(few)
    try:
        with tifffile.TiffFile(path) as file:
            yield file
    finally:
        _LOGGER.removeFilter(few)


def check_chain(file: tifffile.TiffFile, path: Path) -> None:
    """Refuse a file whose pages follow each other in a circle, in which tifffile would not come to an end.

    Raises
    ------
    ValueError
        If a page is followed by one before it.
    """
    handle, tiff, seen = file.filehandle, file.tiff, set()
    offset = file.pages.first.offset if file.pages else 0
    while 0 < offset < handle.size:
        if offset in seen:
            msg = f"{path} holds pages that follow each other in a circle; get a whole copy of it, or save it again"
            raise ValueError(msg)
        seen.add(offset)
        try:
            handle.seek(offset)
            (n_tags,) = struct.unpack(tiff.tagnoformat, handle.read(tiff.tagnosize))
            handle.seek(offset + tiff.tagnosize + n_tags * tiff.tagsize)
            (offset,) = struct.unpack(tiff.offsetformat, handle.read(tiff.offsetsize))
        except (struct.error, OSError, ValueError):
            return
