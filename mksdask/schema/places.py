"""Places in a saved model: what is written to, or read from, and the errors that name the place."""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from mksdask.arrays import Array

# Objects inside objects.
MOST_DEPTH = 8
# Up to so many things are no burden, however small the file is.
FEW = 2**16


Take: TypeAlias = Callable[[int, tuple[int, ...], np.dtype[Any]], Array]
_PLAIN = (bool, int, float, str, list, tuple, dict, type(None))


class Writer:
    """What a model is written to: arrays are kept aside while the rest becomes JSON."""

    def __init__(self) -> None:
        self.arrays: list[Array] = []

    def refusal(self, path: str, got: str, expected: str) -> TypeError:
        """Which part of a model cannot be saved."""
        return TypeError(
            f"{path} is {got}, which cannot be saved; expected {expected}. Use pickle to keep the model for yourself"
        )


class Reader:
    """What a model is read from: each array is taken once.

    Parameters
    ----------
    start, end : str
        Of errors.
    most : int
        Bytes of the store.
    take : callable
        ``take(number, shape, dtype)`` returns an array, or raises ValueError.
    """

    def __init__(self, start: str, end: str, most: int, take: Take) -> None:
        self.most = max(most, FEW)
        self._start, self._end, self._take = start, end, take
        self._taken: set[int] = set()

    def refusal(self, path: str, got: str, expected: str) -> ValueError:
        """What is wrong in a store."""
        return self.complaint(f"{path} is {got}, expected {expected}")

    def complaint(self, text: str) -> ValueError:
        """An error that names the store, and the remedy."""
        return ValueError(f"{self._start}: {text}. {self._end}")

    def array(self, number: int, shape: tuple[int, ...], dtype: np.dtype[Any], path: str) -> Array:
        """An array that has not been taken before."""
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
    """Where in a model a value is."""

    path: str
    book: Any  # Writer or Reader
    fitted: bool = True
    sizes: dict[str, int] = field(default_factory=dict)  # of the named axes of one object
    depth: int = 0

    def at(self, step: str) -> Place:
        """A place below this one."""
        return replace(self, path=self.path + step)

    def of_part(self, *, fitted: bool) -> Place:
        """The place of an object inside this one."""
        if self.depth >= MOST_DEPTH:
            raise self.book.refusal(
                self.path, "an object inside others", f"objects inside objects up to {MOST_DEPTH} deep"
            )
        return replace(self, fitted=fitted, sizes={}, depth=self.depth + 1)

    def refusal(self, value: object, expected: str) -> Exception:
        """What is wrong with a value."""
        kind = type(value)
        got = reprlib.repr(value) if isinstance(value, _PLAIN) else f"of {kind.__module__}.{kind.__qualname__}"
        if isinstance(value, np.ndarray):
            got = f"an array of {value.dtype} of shape {value.shape}"
        error: Exception = self.book.refusal(self.path, got, expected)
        return error
