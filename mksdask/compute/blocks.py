"""Kernels of NumPy blocks in the graph: one task for each chunk of samples, or for each part of something else.

A kernel of samples is a function of NumPy blocks whose first axis is the sample. `map_samples` and `fold_samples` call
it directly for NumPy input, and put it into one task for each chunk of dask input. The first makes an array of what
the tasks return, the second merges it into one value. `map_parts` and `fold_parts` do the same where the work is cut
otherwise: into tiles or pencils of a volume, or slabs of features.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr
from dask import delayed
from dask.base import normalize_token, tokenize
from dask.utils import key_split
from numpy.typing import DTypeLike

from mksdask.compute.graph import optimized_together, renamed

Merge = Callable[[Any, Any], Any]


def check_whole_samples(array: Any, *, name: str = "X", labels: xr.DataArray | None = None) -> None:
    """Refuse a dask array whose chunks cut through a sample.

    Raises
    ------
    ValueError
        With the chunks that were got and the `rechunk` call (`chunk` for a DataArray) that mends them.
    """
    if not isinstance(array, da.Array):
        return
    if any(len(sizes) > 1 for sizes in array.chunks[1:]):
        axes: Sequence[Any]
        axes, method = (range(array.ndim), "rechunk") if labels is None else (labels.dims, "chunk")
        mended = dict(zip(axes, [array.chunks[0][0], *[-1] * (array.ndim - 1)], strict=True))
        msg = (
            f"{name} must hold whole samples in each chunk, but its chunks are {array.chunks}. "
            f"Use {name} = {name}.{method}({mended})"
        )
        raise ValueError(msg)


def _whole(block: Any) -> Any:
    """Unpack the nested lists in which `blockwise` hands over contracted axes of one chunk."""
    while isinstance(block, list):
        (block,) = block
    return block


class _BlockTask:
    """Call a kernel on blocks that `blockwise` may have wrapped in lists."""

    def __init__(self, kernel: Callable[..., Any]) -> None:
        self.kernel = kernel

    def __call__(self, *blocks: Any, **options: Any) -> Any:
        return self.kernel(*(_whole(block) for block in blocks), **options)

    def __dask_tokenize__(self) -> object:
        return normalize_token(self.kernel)


# Names of stages, as `map_samples` is told.
_stages: set[str] = set()


def stage_of(data: da.Array) -> str:
    """The last stage of the package that a dask array goes through; "" without one."""
    stages = [stage for stage in map(key_split, data.dask.layers) if stage in _stages]
    return stages[-1] if stages else ""


def map_samples(
    kernel: Callable[..., Any],
    *arrays: Any,
    tail: Sequence[int],
    dtype: DTypeLike,
    name: str,
    shared: Sequence[Any] = (),
    options: Mapping[str, Any] | None = None,
) -> Any:
    """Apply a kernel to chunks of samples: one task a chunk, or at once for NumPy input.

    Parameters
    ----------
    kernel : callable
        ``kernel(*blocks, *shared, **options)`` takes arrays of shape (n, ...) and returns (n, *tail). It must not
        depend on how samples are grouped.
    *arrays : ndarray, dask array or None
        Inputs of shape (n_samples, ...). If one is lazy the result is lazy, and all follow the
        sample chunks of the first lazy one.
    tail : sequence of int
        Shape of one sample of the result.
    dtype : dtype
        dtype of the result.
    name : str
        Name of the stage, as the dashboard shows it.
    shared : sequence of dask arrays of one chunk or ndarrays
        Further arguments that are the same for each chunk, once in the graph, not in each task.
    options : mapping, optional
        Keyword arguments that are the same for each chunk, such as fitted estimators, once in the graph too.
    """
    _stages.add(name)
    if not _any_lazy(arrays):
        return kernel(*arrays, *map(np.asarray, shared), **(options or {}))
    # Pure: named by what they are, so that a run that was killed is known again.
    constants = {key: delayed(value, pure=True) for key, value in (options or {}).items()}
    return _for_each_chunk(kernel, arrays, shared, constants, tail, dtype, token=name)


def fold_samples(
    kernel: Callable[..., Any],
    merge: Merge,
    *arrays: Any,
    name: str,
    shared: Sequence[Any] = (),
    options: Mapping[str, Any] | None = None,
    chains: int | None = None,
) -> Any:
    """Merge the values of a kernel for chunks of samples: one task a chunk, or one value at once for NumPy input.

    Parameters
    ----------
    kernel : callable
        ``kernel(*blocks, *shared, **options)`` takes arrays of shape (n, ...) and returns a value of any kind. With
        `chains`, the value so far comes after `shared`: None at the start of a chain.
    merge : callable
        ``merge(a, b)`` is the value of the samples of both, a before b. It leaves a and b as they are.
    *arrays, name, shared, options
        As in `map_samples`.
    chains : int, optional
        Make so many values at most. Each passes from chunk to chunk of a chain, which saves memory if a value is
        larger than a chunk. Default: a value for each chunk.

    Returns
    -------
    Delayed, or the value for NumPy input
        Values are merged in a binary tree that the number of chunks alone fixes. Names of tasks are new each time.
    """
    start = () if chains is None else (None,)
    if not _any_lazy(arrays):
        return kernel(*arrays, *map(np.asarray, shared), *start, **(options or {}))
    token = uuid.uuid4().hex
    whole = delayed(partial(kernel, **options), name=f"{name}-kernel-{token}") if options else kernel
    if chains is None:
        task, constants = (_applied, {"kernel": whole}) if options else (kernel, {})
        arrays, shared = (tuple(map(_renamed, group)) for group in (arrays, shared))
        found = _for_each_chunk(task, arrays, shared, constants, (), object, name=f"{name}-{token}")
        return _merged(list(optimized_together(found).values()), merge, f"{name}-{token}")
    # Packed by one task a chunk, so that what arrays are computed from together is computed once.
    packed = _for_each_chunk(_packed, arrays, shared, {}, (), object, name=f"{name}-data-{token}")
    chunks, values = list(optimized_together(packed).values()), []
    absorb = delayed(_absorbed, name=f"{name}-absorb-kernel-{token}")
    for chain in np.array_split(np.arange(len(chunks)), min(chains, len(chunks))):
        value = None
        for number in chain:
            value = absorb(whole, chunks[number], value, dask_key_name=f"{name}-{token}-{number}")
        values.append(value)
    return _merged(values, merge, f"{name}-{token}")


def map_parts(
    kernel: Callable[..., Any],
    parts: Sequence[Sequence[Any]],
    *,
    name: str,
    shared: Sequence[Any] = (),
    of: Sequence[Any] | None = None,
) -> list[Any]:
    """Apply a kernel to parts of something, one task each, which are returned.

    Parameters
    ----------
    kernel : callable
        ``kernel(*part, *shared)``.
    parts : sequence of sequences
        Arguments of each task; those that are delayed are computed before.
    name : str
        Name of the stage, as the dashboard shows it.
    shared : sequence
        Further arguments that are the same for each task, once in the graph.
    of : sequence, optional
        What `shared` is made of. Then tasks are named by it, by the kernel and by the parts, so that the same tasks
        have the same names each time. Default: names are new each time.
    """
    token = uuid.uuid4().hex if of is None else tokenize(kernel, parts, *of)
    task = delayed(kernel, name=f"{name}-kernel-{token}")
    constants = [
        None if value is None else delayed(value, name=f"shared-{name}-{token}-{number}", traverse=False)
        for number, value in enumerate(shared)
    ]
    return [task(*part, *constants, dask_key_name=f"{name}-{token}-{number}") for number, part in enumerate(parts)]


def fold_parts(
    kernel: Callable[..., Any],
    merge: Merge,
    parts: Sequence[Sequence[Any]],
    *,
    name: str,
    shared: Sequence[Any] = (),
    of: Sequence[Any] | None = None,
) -> Any:
    """Merge the values of a kernel for parts of something, lazily, in a tree that their number alone fixes.

    Parameters
    ----------
    kernel, parts, name, shared, of
        As in `map_parts`.
    merge : callable
        ``merge(a, b)``, which leaves both as they are.
    """
    values = map_parts(kernel, parts, name=name, shared=shared, of=None if of is None else (merge, *of))
    return _merged(values, merge, values[0].key)


def array_of(
    value: Any, shape: Sequence[int], dtype: DTypeLike, *, name: str, function: Callable[[Any], Any] | None = None
) -> Any:
    """A dask array of one chunk: a delayed value, or a function of it, which is one task named by what it is."""
    token = tokenize(function, value)
    if function is not None:
        value = delayed(function, name=f"{name}-kernel-{token}")(value, dask_key_name=f"{name}-{token}")
    return da.from_delayed(value, tuple(shape), dtype=np.dtype(dtype), name=f"{name}-array-{token}")


def computed(value: Any) -> Any:
    """The value, with all that is lazy in it computed together."""
    return dask.compute(value)[0]


def in_chunks_of(lazy: da.Array, array: Any) -> Any:
    """An array, NumPy or dask, cut along its first axis as a lazy one is."""
    rows = lazy.chunks[0]
    if not isinstance(array, da.Array):
        return da.from_array(array, chunks=(rows, *array.shape[1:]))
    return array if array.chunks[0] == rows else array.rechunk({0: rows})


def _renamed(array: Any) -> Any:
    """A lazy array under a new name.

    Another computation may fuse tasks of the same array otherwise, and must not find its names used for other tasks.
    """
    if not isinstance(array, da.Array):
        return array
    return renamed(array, f"{key_split(array.name)}-{uuid.uuid4().hex}")


def _any_lazy(arrays: Sequence[Any]) -> bool:
    return any(isinstance(array, da.Array) for array in arrays)


def _for_each_chunk(
    kernel: Callable[..., Any],
    arrays: Sequence[Any],
    shared: Sequence[Any],
    constants: Mapping[str, Any],
    tail: Sequence[int],
    dtype: DTypeLike,
    **names: str,
) -> da.Array:
    """One task for each chunk of the first lazy array, which all follow; `names` are the token or name of `blockwise`.

    The kernel may return an object that is no array if `tail` is empty.
    """
    lazy = next(array for array in arrays if isinstance(array, da.Array))
    sample = 0
    operands: list[Any] = []
    next_index = len(tail) + 1
    for array in arrays:
        if array is None:
            operands += [None, None]
            continue
        array = in_chunks_of(lazy, array)
        check_whole_samples(array)
        operands += [array, (sample, *range(next_index, next_index + array.ndim - 1))]
        next_index += array.ndim - 1
    for array in shared:
        whole = array if isinstance(array, da.Array) else da.from_array(array, chunks=-1)
        operands += [whole, tuple(range(next_index, next_index + whole.ndim))]
        next_index += whole.ndim
    return da.blockwise(
        _BlockTask(kernel),
        tuple(range(len(tail) + 1)),
        *operands,
        new_axes={axis + 1: size for axis, size in enumerate(tail)},
        concatenate=False,
        dtype=np.dtype(dtype),
        meta=np.empty((0,) * (len(tail) + 1), dtype=dtype),
        align_arrays=False,
        **names,
        **constants,
    )


def _applied(*blocks: Any, kernel: Callable[..., Any]) -> Any:
    return kernel(*blocks)


def _packed(*blocks: Any) -> tuple[Any, ...]:
    return blocks


def _absorbed(kernel: Callable[..., Any], blocks: tuple[Any, ...], value: Any) -> Any:
    return kernel(*blocks, value)


def _merged(values: Sequence[Any], merge: Merge, name: str) -> Any:
    """Delayed values merged by pairs; the name is unique to them."""
    task, level = delayed(merge, name=f"merge-{name}-kernel"), 0
    while len(values) > 1:
        values = [
            task(*pair, dask_key_name=f"merge-{name}-{level}-{i}") if len(pair) > 1 else pair[0]
            for i, pair in enumerate(values[start : start + 2] for start in range(0, len(values), 2))
        ]
        level += 1
    return values[0]
