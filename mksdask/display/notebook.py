"""Output of a notebook cell that changes while the cell runs."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, which can show more than text."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None


class Cell:
    """A place in the output of the current cell. Each value shown there replaces the one before."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, value: Any) -> None:
        """Show a value as a notebook shows the last value of a cell."""
        if self._handle is None:
            self._handle = import_module("IPython.display").display(value, display_id=True)
        else:
            self._handle.update(value)


class Html:
    """HTML, together with a text for programs that show no HTML."""

    def __init__(self, html: str, text: str) -> None:
        self._html, self._text = html, text

    def _repr_html_(self) -> str:
        return self._html

    def __repr__(self) -> str:
        return self._text
