"""Arrays that came in a message, moved to where their data type belongs.

Workers unpack arrays where they happen to lie among the bytes of a message. NumPy hands no such array to BLAS, and
numba compiles another function for it. Sums are then added in another order and take longer, so results would depend
on which chunks were moved between workers.
"""

from __future__ import annotations

import pickle
from typing import Any

import cloudpickle
import numpy as np
from distributed import get_worker

from mksdask.compute.client import distributed_client

_ALIGNMENT = 16  # bytes: the largest that NumPy asks for
_PLAIN = (type(None), bool, int, float, complex, str, bytes, np.generic)


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
