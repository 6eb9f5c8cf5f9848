"""Places in a saved model, the readers and writers of models, and errors that name the place."""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from mksdask.arrays import Array

# Objects may be nested to this depth.
MOST_DEPTH = 8
# A model may hold this many values even if its file is smaller.
FEW = 2**16


Take: TypeAlias = Callable[[int, tuple[int, ...], np.dtype[Any]], Array]
_PLAIN = (bool, int, float, str, list, tuple, dict, type(None))


class Writer:
    """Takes the arrays of a model while the rest of it becomes JSON."""

    def __init__(self) -> None:
        self.arrays: list[Array] = []

    def refusal(self, path: str, got: str, expected: str) -> TypeError:
        """Make the error for a part of a model that cannot be saved."""
        return TypeError(f"{path} is {got}, which cannot be saved; expected {expected}. Use pickle to keep the model")


class Reader:
    """Gives the arrays of a model that is read. Each array can be taken once.

    Parameters
    ----------
    start, end : str
        Start and end of error messages. They name the store and the remedy.
    most : int
        Number of bytes in the store.
    take : callable
        ``take(number, shape, dtype)`` returns an array, or raises ValueError.
    """

    def __init__(self, start: str, end: str, most: int, take: Take) -> None:
        self.most = max(most, FEW)
        self._start, self._end, self._take = start, end, take
        self._taken: set[int] = set()

    def refusal(self, path: str, got: str, expected: str) -> ValueError:
        """Make the error for a value in a store that is wrong."""
        return self.complaint(f"{path} is {got}, expected {expected}")

    def complaint(self, text: str) -> ValueError:
        """Make an error that names the store and the remedy."""
        return ValueError(f"{self._start}: {text}. {self._end}")

    def array(self, number: int, shape: tuple[int, ...], dtype: np.dtype[Any], path: str) -> Array:
        """Take an array.

        Raises
        ------
        ValueError
            If it was taken before, or cannot be read.
        """
        if number in self._taken:
            raise self.refusal(path, f"array {number}, which is taken", "an array of its own")
        self._taken.add(number)
        try:
            return self._take(number, shape, dtype)
        except ValueError as error:
            text = f"{path}: {error}"
            raise self.complaint(text) from error


@dataclass(frozen=True)
class Place:
    """The place of a value in a model.

    Parameters
    ----------
    path : str
        The place in words, such as "PCA.components_".
    book : Writer or Reader
        What the model is written to or read from.
    fitted : bool
        Whether the object has its fitted attributes.
    sizes : dict of str to int
        Lengths of the named axes of the object.
    depth : int
        How many objects are around the object.
    """

    path: str
    book: Any
    fitted: bool = True
    sizes: dict[str, int] = field(default_factory=dict)
    depth: int = 0

    def at(self, step: str) -> Place:
        """Return a place below this one."""
        return replace(self, path=self.path + step)

    def of_part(self, *, fitted: bool) -> Place:
        """Return the place of an object inside this one.

        Raises
        ------
        TypeError, ValueError
            If objects are nested too deep.
        """
        if self.depth >= MOST_DEPTH:
            raise self.book.refusal(
                self.path, "an object inside others", f"objects inside objects up to {MOST_DEPTH} deep"
            )
        return replace(self, fitted=fitted, sizes={}, depth=self.depth + 1)

    def refusal(self, value: object, expected: str) -> Exception:
        """Make the error for a value that is not of the expected kind."""
        kind = type(value)
        got = reprlib.repr(value) if isinstance(value, _PLAIN) else f"of {kind.__module__}.{kind.__qualname__}"
        if isinstance(value, np.ndarray):
            got = f"an array of {value.dtype} of shape {value.shape}"
        error: Exception = self.book.refusal(self.path, got, expected)
        return error
