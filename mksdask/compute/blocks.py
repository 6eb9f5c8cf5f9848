"""Kernels of NumPy blocks in the graph: one task for each chunk of samples.

A kernel is a function of NumPy blocks whose first axis is the sample. `map_samples` calls it directly for NumPy input,
and puts it into one task for each chunk of dask input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask import delayed
from dask.utils import key_split
from numpy.typing import DTypeLike


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
        axes: Sequence[Any] = range(array.ndim) if labels is None else labels.dims
        mended = dict(zip(axes, [array.chunks[0][0], *[-1] * (array.ndim - 1)], strict=True))
        method = "rechunk" if labels is None else "chunk"
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
        from dask.base import normalize_token

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
        ``kernel(*blocks, *shared)`` takes arrays of shape (n, ...) and returns (n, *tail). It must not depend on how
        samples are grouped.
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
    lazy = next((array for array in arrays if isinstance(array, da.Array)), None)
    if lazy is None:
        return kernel(*arrays, *(np.asarray(array) for array in shared), **(options or {}))
    sample = 0
    operands: list[Any] = []
    next_index = len(tail) + 1
    for array in arrays:
        if array is None:
            operands += [None, None]
            continue
        if not isinstance(array, da.Array):
            array = da.from_array(array, chunks=(lazy.chunks[0], *array.shape[1:]))
        elif array.chunks[0] != lazy.chunks[0]:
            array = array.rechunk({0: lazy.chunks[0]})
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
        token=name,
        align_arrays=False,
        # Pure: named by what they are, so that a run that was killed is known again.
        **{key: delayed(value, pure=True) for key, value in (options or {}).items()},
    )


def merge_tree(parts: Sequence[Any], merge: Callable[[Any, Any], Any], *, name: str) -> Any:
    """Merge delayed values by pairs, in a tree that the number of values alone fixes.

    Parameters
    ----------
    parts : sequence of Delayed
        At least one.
    merge : callable
        ``merge(a, b)``, which leaves both as they are.
    name : str
        Prefix of the keys, unique to these values.

    Returns
    -------
    Delayed
    """
    task, level, values = delayed(merge, name=f"{name}-kernel"), 0, list(parts)
    while len(values) > 1:
        values = [
            task(*values[i : i + 2], dask_key_name=f"{name}-{level}-{i}") if i + 1 < len(values) else values[i]
            for i in range(0, len(values), 2)
        ]
        level += 1
    return values[0]
