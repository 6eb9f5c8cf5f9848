"""What the graph of a dask array says, and blocks of several arrays that are computed together."""

from __future__ import annotations

import uuid
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph


def token_of(*values: Any) -> str:
    """A name for values, which is the same for equal ones in every process."""
    return str(tokenize(*values))


def renamed(array: da.Array, name: str) -> da.Array:
    """The same array under another name."""
    return array.map_blocks(unchanged, dtype=array.dtype, meta=array._meta, name=name)


def stored_array(data: Any) -> Any:
    """The array on disk, or in memory, of which a dask array is nothing but a view in chunks; None if it is more."""
    if not isinstance(data, da.Array):
        return data
    layers = dict(data.dask.layers)
    origin = layers.pop(f"original-{data.name}", None)
    if origin is None or list(layers) != [data.name]:
        return None
    (array,) = dict(origin).values()
    return array if tuple(array.shape) == data.shape and array.dtype == data.dtype else None


def is_cheap(data: Any) -> bool:
    """Whether parts of an array are at hand: in memory, or in a store that a dask array is a view of."""
    views = ("original-", "open_dataset-", "from-zarr-", "array-", "getitem-", "transpose-")
    return not isinstance(data, da.Array) or all(name.startswith(views) for name in data.dask.layers)


def unchanged(block: Any) -> Any:
    """The block itself, for giving an array another name."""
    return block


def optimized_together(*arrays: da.Array) -> dict[Any, Any]:
    """Delayed blocks of arrays, by their keys; what arrays are computed from together is one task for all of them.

    `dask.optimize` would fuse it into the blocks of each.
    """
    graph = HighLevelGraph.merge(*(array.dask for array in arrays))
    keys = [(array.name, *block) for array in arrays for block in np.ndindex(*array.numblocks)]
    layer = f"blocks-{uuid.uuid4().hex}"
    optimized = HighLevelGraph.from_collections(layer, da.Array.__dask_optimize__(graph, keys))
    return {key: Delayed(key, optimized, layer=layer) for key in keys}
