"""Pictures in files. A file is replaced as a whole, and pictures of this package can be told from those of others."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

_MARK = "drawn by mksdask"
# Under which name a format keeps the program that drew the picture. Other formats keep nothing.
_NAMES = {".png": "Software", ".pdf": "Creator", ".svg": "Creator", ".ps": "Creator", ".eps": "Creator"}


def save_picture(figure: Any, path: Path) -> None:
    """Draw a figure of matplotlib into a file, completely or not at all."""
    new = path.with_name(f".{path.stem}-{uuid.uuid4().hex[:8]}{path.suffix}")
    name = _NAMES.get(path.suffix.lower())
    try:
        figure.savefig(new, metadata=None if name is None else {name: _MARK})
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def is_our_picture(path: Path) -> bool:
    """Whether a file is a picture that `save_picture` drew, in a format that can tell."""
    return path.suffix.lower() in _NAMES and path.is_file() and _MARK.encode() in path.read_bytes()
