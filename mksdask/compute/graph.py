"""Questions about the graph of a dask array, and blocks of several arrays that are computed together."""

from __future__ import annotations

import copy
import itertools
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, is_dataclass
from functools import cached_property, partial
from types import MethodType
from typing import Any

import dask.array as da
import numpy as np
from dask._task_spec import Alias, Task
from dask.array.chunk import getitem
from dask.array.core import getter, getter_nofancy
from dask.base import tokenize
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.utils import key_split

from mksdask.compute.faults import Guarded, block_text, retries

# Beginnings of the names of layers that hold the arrays that are read.
_HOLDERS = ("original-", "shared-")
_PACKAGE = __name__.partition(".")[0]
# The functions by which dask cuts arrays.
_SLICING = (getitem, getter, getter_nofancy)


def token_of(*values: Any) -> str:
    """Make a name for values. Equal values have the same name in every process, whatever it has imported."""
    try:
        return str(tokenize(*map(content_of, values)))
    except RecursionError:
        # An object of another package may hold itself.
        return str(tokenize(*values))


def content_of(value: Any) -> Any:
    """Take objects apart into what their name depends on: their type, and the values of their attributes.

    dask would pickle them, and dask-ml, once it is imported, would name estimators in a way of its own. A pickle
    depends on which texts are the same object, and dask-ml looks only at the ends of large arrays.
    """
    if isinstance(value, dict):
        return ["dict", *([str(key), content_of(value[key])] for key in sorted(value, key=str))]
    if type(value) in (tuple, list):
        return [type(value).__name__, *map(content_of, value)]
    if isinstance(value, partial):
        return ["partial", *map(content_of, (value.func, value.args, value.keywords))]
    if isinstance(value, MethodType):
        return ["method", value.__func__.__qualname__, content_of(value.__self__)]
    kind = type(value)
    is_known = is_dataclass(value) or hasattr(value, "get_params") or kind.__module__.startswith(f"{_PACKAGE}.")
    is_pickled_otherwise = any({"__reduce__", "__reduce_ex__"} & vars(base).keys() for base in kind.__mro__[:-1])
    if isinstance(value, type) or not is_known or is_pickled_otherwise or hasattr(value, "__dask_tokenize__"):
        return value
    state = value.__getstate__()
    if not isinstance(state, dict):
        return value
    # A property that was computed before must not change the name.
    state = {key: held for key, held in state.items() if not isinstance(getattr(kind, key, None), cached_property)}
    return [f"{kind.__module__}.{kind.__qualname__}", content_of(state)]


def renamed(array: da.Array, name: str) -> da.Array:
    """Return the same array under another name."""
    return array.map_blocks(unchanged, dtype=array.dtype, meta=array._meta, name=name)


def settled(array: da.Array, name: str) -> da.Array:
    """Return the same array under a new name, with tasks that are fused already.

    If an array is used in several computations, dask may fuse its tasks in another way in each of them. Then different
    tasks have the same name, of which dask warns.
    """
    fresh = renamed(array, name)
    return da.Array(da.Array.__dask_optimize__(fresh.dask, fresh.__dask_keys__()), name, fresh.chunks, meta=fresh._meta)


def stored_array(data: Any) -> Any:
    """Find the stored array that a dask array only views in chunks.

    Returns
    -------
    array, StoredBox or None
        The array on disk or in memory, or the box of it that slices cut out. Data that is no dask array is returned as
        it is. None if the dask array does more than view another array.
    """
    if not isinstance(data, da.Array):
        return data
    names = [name for name in data.dask.layers if not name.startswith("getitem-")]
    origin = next((name for name in names if name.startswith("original-")), None)
    if origin is None or set(names) != {origin, origin.removeprefix("original-")}:
        return None
    (array,) = dict(data.dask.layers[origin]).values()
    if array.dtype != data.dtype or len(array.shape) != data.ndim:
        return None
    if origin == f"original-{data.name}":
        return array if tuple(array.shape) == data.shape else None
    box = _box_of(data)
    return None if box is None else StoredBox(array, box)


@dataclass(frozen=True)
class StoredBox:
    """A box of a stored array, which is read like an array.

    Parameters
    ----------
    array : array
        The stored array.
    box : tuple of slice
        First voxel along each axis, and the first one beyond.
    """

    array: Any
    box: tuple[slice, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the stored array."""
        return np.dtype(self.array.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of voxels along each axis."""
        return tuple(along.stop - along.start for along in self.box)

    def __getitem__(self, key: Any) -> Any:
        """Read a part, by slices, or by numbers of rows along the first axes.

        Raises
        ------
        IndexError
            If a step or a number is negative, or a number lies outside the box: the stored array may reach beyond it.
        """
        keys = key if isinstance(key, tuple) else (key,)
        whole = (*keys, *(slice(None),) * (len(self.box) - len(keys)))
        return self.array[tuple(_within(along, part) for along, part in zip(self.box, whole, strict=True))]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:  # noqa: FBT001  the protocol of NumPy
        return np.asarray(self[()], dtype)


def _within(outer: slice, part: Any) -> Any:
    """Return the part of an axis that is a part of a slice of it."""
    n = outer.stop - outer.start
    if isinstance(part, slice):
        start, stop, step = part.indices(n)
        if step > 0:
            return slice(outer.start + start, outer.start + stop, step)
    else:
        rows = np.asarray(part)
        if rows.dtype.kind in "iu" and ((rows >= 0) & (rows < n)).all():
            return outer.start + rows
    msg = f"{part!r} is not a part of a box of {n} voxels along an axis"
    raise IndexError(msg)


def _box_of(data: da.Array) -> tuple[slice, ...] | None:
    """Find the box that a dask array, which is made by slices alone, cuts out. Return None if it is no box.

    What slices do is known from the chunks along each axis.
    """
    box = []
    for axis, edges in enumerate(_edges(data)):
        blocks = [(0,) * axis + (i,) + (0,) * (data.ndim - axis - 1) for i in range(data.numblocks[axis])]
        read = [_slices_of((data.name, *block), data.dask.layers) for block in blocks]
        if None in read or any(len(slices or ()) != data.ndim for slices in read):
            return None
        along = [slices[axis] for slices in read if slices is not None]
        first = along[0].start
        if along != [slice(first + a, first + b) for a, b in itertools.pairwise(edges)]:
            return None
        box.append(slice(first, first + edges[-1]))
    return tuple(box)


def _slices_of(key: Any, layers: Any) -> tuple[slice, ...] | None:
    """Find the slices of the stored array that a chunk holds. Return None if its tasks are others than slices."""
    task = layers[key[0]].get(key)
    if isinstance(task, Alias):
        return _slices_of(task.target, layers)
    if not isinstance(task, Task) or task.func not in _SLICING:
        return None
    source, slices = (getattr(each, "value", each) for each in task.args[:2])
    if not all(isinstance(part, slice) and part.step in (None, 1) for part in slices):
        return None
    if not isinstance(source.key, tuple):
        return tuple(slice(part.start, part.stop) for part in slices)
    outer = _slices_of(source.key, layers)
    if outer is None or len(outer) != len(slices):
        return None
    inside = (_within(of, part) for of, part in zip(outer, slices, strict=True))
    return tuple(slice(part.start, part.stop) for part in inside)


def check_known(data: Any, name: str = "X") -> None:
    """Refuse a dask array whose number of samples is not known.

    Raises
    ------
    ValueError
        If it is not. The message names the call that finds it.
    """
    if isinstance(data, da.Array) and data.ndim and np.isnan(data.shape[0]):
        msg = f"{name} has chunks of unknown sizes; call {name}.compute_chunk_sizes() first"
        raise ValueError(msg)


def is_cheap(data: Any) -> bool:
    """Whether parts of an array can be read without computing: from memory, or from a store that a dask array views."""
    views = ("original-", "open_dataset-", "from-zarr-", "array-", "getitem-", "transpose-")
    return not isinstance(data, da.Array) or all(name.startswith(views) for name in data.dask.layers)


def arrays_read(array: Any) -> Iterator[Any]:
    """Yield the arrays in the graph of a lazy array that are no blocks of it: those from which blocks are read.

    Of an array in memory, one part is enough, because all parts are views of the same array.
    """
    if not isinstance(array, da.Array):
        yield array
        return
    for name, layer in array.dask.layers.items():
        if name.startswith(_HOLDERS):
            values = [*dict(layer).values()]
        elif isinstance(layer, MaterializedLayer):
            values = [*itertools.islice(layer.values(), 1)]
        else:
            continue
        for value in values:
            yield getattr(value, "value", value)


def unchanged(block: Any) -> Any:
    """Return the block itself. This kernel gives an array another name."""
    return block


def optimized_together(
    *arrays: da.Array, cuts: Sequence[da.Array] | None = None, inputs: Sequence[Any] = ()
) -> dict[Any, Any]:
    """Optimize arrays together, and return their delayed blocks by key.

    A task on which several arrays depend stays one task. `dask.optimize` would fuse it into the blocks of each array,
    and it would run once for each of them. An error of a task names its stage and its block. After an error that may
    heal by itself, the task runs again.

    Parameters
    ----------
    *arrays : dask array
        The arrays.
    cuts : sequence of dask array, optional
        An array for each of `arrays`, whose chunks say where its blocks lie. Default: the arrays themselves.
    inputs : sequence of arrays
        Arrays in the graph whose tasks say where their blocks lie too. Those that are not lazy are left out.

    Returns
    -------
    dict of tuple to Delayed
        The delayed block of each key.
    """
    graph = HighLevelGraph.merge(*(array.dask for array in arrays))
    keys = [(array.name, *block) for array in arrays for block in np.ndindex(*array.numblocks)]
    layer = f"blocks-{uuid.uuid4().hex}"
    tasks = da.Array.__dask_optimize__(graph, keys)
    edges = {array.name: _edges(array) for array in inputs if isinstance(array, da.Array)}
    for array, cut in zip(arrays, arrays if cuts is None else cuts, strict=True):
        edges[array.name] = edges[cut.name] = _edges(cut)
    n_retries = retries()
    guarded = {key: _guarded(task, edges, n_retries) for key, task in dict(tasks).items()}
    optimized = HighLevelGraph.from_collections(layer, guarded)
    return {key: Delayed(key, optimized, layer=layer) for key in keys}


def _edges(array: da.Array) -> list[list[int]]:
    return [np.cumsum((0, *sizes)).tolist() for sizes in array.chunks]


def _guarded(task: Any, edges: dict[str, list[list[int]]], n_retries: int) -> Any:
    """Let a task tell where it failed. `edges` holds where the blocks of arrays begin, by name."""
    if not isinstance(task, Task) or isinstance(task.func, Guarded):
        return task
    name, *block = task.key if isinstance(task.key, tuple) else (task.key,)
    where = f"stage {key_split(name)}"
    # If dask has fused tasks, their name ends with that of the last one.
    found = next((along for end, along in edges.items() if name.endswith(end)), None)
    if found is not None:
        where += f", {block_text([(along[i], along[i + 1]) for i, along in zip(block, found, strict=True)])}"
    elif block:
        where += f", block {tuple(block)}"
    new = copy.copy(task)
    new.func = Guarded(task.func, where, n_retries)
    return new
