"""Arrays that came in a message, moved to where their data type belongs.

Workers unpack arrays where they happen to lie among the bytes of a message. NumPy hands no such array to BLAS, and
numba compiles another function for it. Sums are then added in another order and take longer, so results would depend
on which chunks were moved between workers.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import cloudpickle
import numpy as np
from dask.base import normalize_token
from distributed import get_worker

from mksdask.compute.client import distributed_client

_ALIGNMENT = 16  # bytes: the largest that NumPy asks for
_PLAIN = (type(None), bool, int, float, complex, str, bytes, np.generic)


class AlignedTask:
    """A task of the graph, which calls a kernel with aligned arrays."""

    def __init__(self, kernel: Callable[..., Any]) -> None:
        self.kernel = kernel

    def __call__(self, *values: Any, **options: Any) -> Any:
        """Call the kernel. The kernel itself may hold arrays too, as a partial function or a method does."""
        options = {key: aligned(value) for key, value in options.items()}
        return aligned(self.kernel)(*map(aligned, values), **options)

    def __dask_tokenize__(self) -> object:
        return normalize_token(self.kernel)


def aligned(value: Any) -> Any:
    """Return a value whose arrays are aligned. Only arrays that are not are copied.

    Parameters
    ----------
    value : object
        An array, or an object that holds arrays, such as a fitted estimator.
    """
    if isinstance(value, np.ndarray):
        return value if value.flags.aligned else value.copy()
    if isinstance(value, _PLAIN):
        return value
    if type(value) in (tuple, list):
        return type(value)(map(aligned, value))
    return _rebuilt(value) if _may_have_been_sent() else value


def _rebuilt(value: Any) -> Any:
    """Unpickle an object around aligned copies of its buffers, if some of them are not aligned."""
    buffers: list[pickle.PickleBuffer] = []
    try:
        stream = cloudpickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    except (TypeError, AttributeError, pickle.PicklingError):
        # No message has brought what cannot be pickled.
        return value
    arrays = [np.frombuffer(buffer.raw(), dtype=np.uint8) for buffer in buffers]
    if all(array.ctypes.data % _ALIGNMENT == 0 for array in arrays):
        return value
    return pickle.loads(stream, buffers=[array.copy() for array in arrays])


def _may_have_been_sent() -> bool:
    try:
        get_worker()
    except ValueError:
        return distributed_client() is not None
    return True
