"""The output of a notebook's cell, that changes while the cell runs."""

from __future__ import annotations

import sys
from typing import Any


def in_notebook() -> bool:
    """Whether a notebook's kernel runs this, which shows more than text."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


class Cell:
    """A place in the output of the current cell; what is shown there replaces what was."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, value: Any) -> None:
        """Show a value as a notebook would."""
        from IPython.display import display

        if self._handle is None:
            self._handle = display(value, display_id=True)
        else:
            self._handle.update(value)


class Html:
    """HTML with a text beside it, for what shows no HTML."""

    def __init__(self, html: str, text: str) -> None:
        self._html, self._text = html, text

    def _repr_html_(self) -> str:
        return self._html

    def __repr__(self) -> str:
        return self._text
