"""Results of the last computations on arrays in memory, so that a search does not repeat them.

Arrays are recognized by comparison with copies of those seen before. No array can pass for another one, or for what it
was before it was changed. Each process keeps its own results.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from mksdask.compute.plans import cache_limit
from mksdask.types import Array

T = TypeVar("T")

# Most results that are kept.
MOST = 1024
# Bytes of an array that are compared first, so that most different arrays are told apart at once.
_SAMPLE_BYTES = 4096


@dataclass
class _Kept:
    """A result, or copies of arrays with their number."""

    value: Any
    n_bytes: int = 0


class Recent:
    """Keeps the results that were used last, up to `mksdask.cache-limit` bytes of dask's configuration.

    The last result is always kept, unless the limit is 0. Threads that need the same result wait for the first of them.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self.clear()
        if hasattr(os, "register_at_fork"):
            # A thread that is computing does not exist in a child process, which would wait for it forever.
            os.register_at_fork(after_in_child=self.clear)

    def clear(self) -> None:
        """Forget everything."""
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def number_of(self, *arrays: Array | None) -> int:
        """Return a number for the content of arrays. Equal arrays have the same number as long as they are kept.

        Parameters
        ----------
        *arrays : ndarray or None
            Arrays in memory. They are copied.
        """
        outline = tuple(map(_outline, arrays))
        with self._lock:
            known = [key for key in self._kept if isinstance(key, _Content) and key.outline == outline]
            for key in known:
                if all(map(_equal, arrays, self._kept[key].value)):
                    self._kept.move_to_end(key)
                    return key.number
            key = _Content(outline, next(self._numbers))
            copies = tuple(None if array is None else array.copy() for array in arrays)
            self._kept[key] = _Kept(copies, _bytes_of(copies))
            self._drop()
        return key.number

    def result(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the result that is kept under a key, or make it.

        Parameters
        ----------
        key : hashable
            A name for the result, which must be different for different results.
        make : callable
            Makes the result. Nobody may change it.
        """
        if not cache_limit():
            return make()
        with self._lock:
            kept = self._kept.get(key)
            is_new = kept is None
            if kept is None:
                kept = self._kept[key] = _Kept(Future())
            self._kept.move_to_end(key)
        future: Future[T] = kept.value
        if is_new:
            try:
                made = make()
            except BaseException as error:
                with self._lock:
                    self._kept.pop(key, None)
                future.set_exception(error)
                raise
            with self._lock:
                kept.n_bytes = _bytes_of(made)
                self._drop()
            future.set_result(made)
        return future.result()

    def _drop(self) -> None:
        """Forget what was used least recently, until the rest is within the limits."""
        limit, total = cache_limit(), sum(kept.n_bytes for kept in self._kept.values())
        while len(self._kept) > 1 and (total > limit or len(self._kept) > MOST):
            total -= self._kept.popitem(last=False)[1].n_bytes


@dataclass(frozen=True)
class _Content:
    """The key of copies of arrays."""

    outline: Any
    number: int


def _outline(array: Array | None) -> Any:
    """Return the shape, the dtype and some values of an array."""
    if array is None:
        return None
    return array.shape, array.dtype.str, array.flat[:: max(1, array.nbytes // _SAMPLE_BYTES)].tobytes()


def _equal(array: Array | None, other: Array | None) -> bool:
    """Compare two arrays bit by bit. Their shapes and dtypes are the same already."""
    if array is None or other is None:
        return array is other
    bits = f"u{array.itemsize}" if array.itemsize <= 8 else array.dtype
    return np.array_equal(array.view(bits), other.view(bits))


def _bytes_of(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return value.nbytes
    parts = value if isinstance(value, tuple) else getattr(value, "__dict__", {}).values()
    return sum(_bytes_of(part) for part in parts if isinstance(part, np.ndarray | tuple))


RECENT = Recent()


def recalled(key: Hashable | None, make: Callable[[], T]) -> T:
    """Return the result that is kept under a key, or make it. Without a key, it is made."""
    return make() if key is None else RECENT.result(key, make)
