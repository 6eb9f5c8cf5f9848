"""Put kernels into the graph: one task for each chunk of samples, or for each part of something else.

A kernel of samples is a function of NumPy blocks whose first axis is the sample. `map_samples` and `fold_samples` call
it directly for NumPy input, and put it into one task for each chunk of dask input. `map_samples` makes an array of what
the tasks return, and `fold_samples` merges it into one value. `map_parts` and `fold_parts` do the same for work that is
cut in another way, such as into tiles or pencils of a volume, or into slabs of features.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import dask
import dask.array as da
import numpy as np
import xarray as xr
from dask import delayed
from dask.layers import ArraySliceDep
from dask.utils import key_split
from numpy.typing import DTypeLike, NDArray

from mksdask.compute.alignment import aligned
from mksdask.compute.client import distributed_client
from mksdask.compute.faults import samples_text, telling
from mksdask.compute.graph import check_known, optimized_together, renamed, stored_array, token_of
from mksdask.compute.transforms import fft_library, transforms_by
from mksdask.compute.waiting import get_from

Merge = Callable[[Any, Any], Any]


def check_whole_samples(array: Any, *, name: str = "X", labels: xr.DataArray | None = None) -> None:
    """Refuse a dask array whose chunks cut through a sample.

    Raises
    ------
    ValueError
        If a chunk holds only part of a sample. The message gives the chunks and the `rechunk` call that mends them,
        or the `chunk` call for a DataArray.
    """
    if not isinstance(array, da.Array):
        return
    if any(len(sizes) > 1 for sizes in array.chunks[1:]):
        check_known(array, name)
        axes: Sequence[Any]
        axes, method = (range(array.ndim), "rechunk") if labels is None else (labels.dims, "chunk")
        first = array.chunks[0][0]
        mended = dict(zip(axes, [first if first > 0 else -1, *[-1] * (array.ndim - 1)], strict=True))
        msg = (
            f"{name} must hold whole samples in each chunk, but its axes are cut into {array.numblocks} chunks. "
            f"Use {name} = {name}.{method}({mended})"
        )
        raise ValueError(msg)


def _whole(block: Any) -> Any:
    """Unpack the nested lists in which `blockwise` passes contracted axes that have one chunk."""
    while isinstance(block, list):
        (block,) = block
    return block


class AlignedTask:
    """A task of the graph, which calls a kernel with aligned arrays. An error names the stage, and the part of it.

    It computes Fourier transforms by the library that the configuration named when the graph was made.

    Parameters
    ----------
    kernel : callable
        The kernel.
    stage : str
        Name of the stage.
    """

    def __init__(self, kernel: Callable[..., Any], stage: str) -> None:
        self.kernel, self.stage, self.fft = kernel, stage, fft_library()

    def __call__(self, *values: Any, part: str = "", **options: Any) -> Any:
        """Call the kernel. The kernel itself may hold arrays too, as a partial function or a method does."""
        where = f"stage {self.stage}, {part}" if part else f"stage {self.stage}"
        with telling(where), transforms_by(self.fft):
            options = {key: aligned(value) for key, value in options.items()}
            return aligned(self.kernel)(*map(aligned, values), **options)

    def __dask_tokenize__(self) -> object:
        return token_of(self.kernel, self.fft)


class _BlockTask(AlignedTask):
    """A task on blocks that `blockwise` may have wrapped in lists. Before them stands the range of their samples.

    `empty` is the result for a chunk without samples, which many kernels do not take. None calls the kernel.
    """

    def __init__(self, kernel: Callable[..., Any], stage: str, empty: NDArray[Any] | None = None) -> None:
        super().__init__(kernel, stage)
        self.empty = empty

    def __call__(self, *blocks: Any, **options: Any) -> Any:
        (span,), *values = blocks
        if span.start == span.stop and self.empty is not None:
            return self.empty
        part = samples_text(span.start, span.stop)
        return super().__call__(*map(_whole, values), part=part, **options)


# Names of the stages that `map_samples` has made.
_stages: set[str] = set()


def stage_of(data: da.Array) -> str:
    """Name of the last stage of the package in the graph of a dask array, or "" if there is none."""
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
    """Apply a kernel to chunks of samples, with one task for each chunk. NumPy input is computed at once.

    Parameters
    ----------
    kernel : callable
        ``kernel(*blocks, *shared, **options)`` takes arrays of shape (n, ...) and returns (n, *tail). It must not
        depend on how samples are grouped.
    *arrays : ndarray, dask array or None
        Inputs of shape (n_samples, ...). If one is lazy, the result is lazy, and all inputs are cut along the samples
        as the first lazy one is.
    tail : sequence of int
        Shape of one sample of the result.
    dtype : dtype
        dtype of the result.
    name : str
        Name of the stage, as the dashboard shows it.
    shared : sequence of ndarray or dask array
        Further arguments, which are the same for each chunk. The graph holds them once, not in each task.
    options : mapping, optional
        Keyword arguments, which are the same for each chunk, such as fitted estimators. The graph holds them once.
    """
    _stages.add(name)
    if not _any_lazy(arrays):
        return _called(kernel, arrays, shared, **(options or {}))
    # They are pure, so their names depend on their values alone, and a run that was killed is recognized.
    constants = {key: delayed(value, name=f"{key}-{token_of(value)}") for key, value in (options or {}).items()}
    task = _BlockTask(kernel, name, np.empty((0, *tail), dtype=dtype))
    return _for_each_chunk(task, arrays, shared, constants, tail, dtype, token=name)


def fold_samples(
    kernel: Callable[..., Any],
    merge: Merge,
    *arrays: Any,
    name: str,
    shared: Sequence[Any] = (),
    options: Mapping[str, Any] | None = None,
    chains: int | None = None,
) -> Any:
    """Merge the values that a kernel returns for chunks of samples. NumPy input is computed at once.

    Parameters
    ----------
    kernel : callable
        ``kernel(*blocks, *shared, **options)`` takes arrays of shape (n, ...) and returns a value of any kind. With
        `chains`, one more argument follows `shared`: the value so far, which is None at the start of a chain.
    merge : callable
        ``merge(a, b)`` returns the value of the samples of both, where those of a come first. It must not change a
        or b.
    *arrays, name, shared, options
        As in `map_samples`.
    chains : int, optional
        Largest number of values to make. Each value passes from chunk to chunk of a chain, which saves memory if a
        value is larger than a chunk. Default: one value for each chunk.

    Returns
    -------
    Delayed, or the value for NumPy input
        Values are merged in a binary tree, which depends on the number of chunks alone. Chunks without samples do not
        count, unless there are no others. The tasks have new names in each call.
    """
    start = () if chains is None else (None,)
    if not _any_lazy(arrays):
        return _called(kernel, arrays, shared, *start, **(options or {}))
    token = uuid.uuid4().hex
    whole = delayed(partial(kernel, **options), name=f"{name}-kernel-{token}") if options else kernel
    if chains is None:
        called, constants = (_applied, {"kernel": whole}) if options else (kernel, {})
        arrays, shared = (tuple(map(_renamed, group)) for group in (arrays, shared))
        task = _BlockTask(called, name)
        found = _for_each_chunk(task, arrays, shared, constants, (), object, name=f"{name}-{token}")
        return _merged([value for value, _ in _with_samples(found)], merge, f"{name}-{token}")
    # One task packs the blocks of a chunk, so that tasks on which several arrays depend run once.
    packed = _for_each_chunk(_BlockTask(_packed, name), arrays, shared, {}, (), object, name=f"{name}-data-{token}")
    chunks, values = _with_samples(packed, inputs=arrays), []
    absorb = delayed(AlignedTask(_absorbed, name), name=f"{name}-absorb-kernel-{token}")
    for chain in np.array_split(np.arange(len(chunks)), min(chains, len(chunks))):
        value = None
        for number in chain:
            chunk, part = chunks[number]
            value = absorb(whole, chunk, value, part=part, dask_key_name=f"{name}-{token}-{number}")
        values.append(value)
    return _merged(values, merge, f"{name}-{token}")


def map_parts(
    kernel: Callable[..., Any],
    parts: Sequence[Sequence[Any]],
    *,
    name: str,
    shared: Sequence[Any] = (),
    of: Sequence[Any] | None = None,
    unit: str | None = None,
) -> list[Any]:
    """Apply a kernel to parts of something, and return one task for each part.

    Parameters
    ----------
    kernel : callable
        ``kernel(*part, *shared)``.
    parts : sequence of sequences
        Arguments of each task. Delayed arguments are computed before the task runs.
    name : str
        Name of the stage, as the dashboard shows it.
    shared : sequence
        Further arguments, which are the same for each task. The graph holds them once.
    of : sequence, optional
        What `shared` is made of. The names of tasks then depend on `of`, the kernel and the parts alone, so that equal
        tasks have equal names in each call. Default: the tasks have new names in each call.
    unit : str, optional
        What a part holds, such as "tiles", for errors. The first argument of each task is then the number of the first
        of them, and the number after that of the last.
    """
    token = uuid.uuid4().hex if of is None else token_of(kernel, parts, fft_library(), *of)
    task = delayed(AlignedTask(kernel, name), name=f"{name}-kernel-{token}")
    constants = [
        None if value is None else delayed(value, name=f"shared-{name}-{token}-{number}", traverse=False)
        for number, value in enumerate(shared)
    ]
    return [
        task(
            *part, *constants, part=_part_text(unit, part, number, len(parts)), dask_key_name=f"{name}-{token}-{number}"
        )
        for number, part in enumerate(parts)
    ]


def fold_parts(
    kernel: Callable[..., Any],
    merge: Merge,
    parts: Sequence[Sequence[Any]],
    *,
    name: str,
    shared: Sequence[Any] = (),
    of: Sequence[Any] | None = None,
) -> Any:
    """Merge the values that a kernel returns for parts of something, lazily, in a tree that only their number fixes.

    Parameters
    ----------
    kernel, parts, name, shared, of
        As in `map_parts`.
    merge : callable
        ``merge(a, b)``, which must not change a or b.
    """
    values = map_parts(kernel, parts, name=name, shared=shared, of=None if of is None else (merge, *of))
    return _merged(values, merge, values[0].key)


def array_of(
    value: Any, shape: Sequence[int], dtype: DTypeLike, *, name: str, function: Callable[[Any], Any] | None = None
) -> Any:
    """Make a dask array of one chunk from a delayed value.

    If a function is given, the array holds the function of the value. This is one task, whose name depends on the
    function and the value alone.
    """
    token = token_of(function, value)
    if function is not None:
        task = delayed(AlignedTask(function, name), name=f"{name}-kernel-{token}")
        value = task(value, dask_key_name=f"{name}-{token}")
    return da.from_delayed(value, tuple(shape), dtype=np.dtype(dtype), name=f"{name}-array-{token}")


def computed(value: Any) -> Any:
    """Compute all lazy parts of a value together, and return the value with the results in their places.

    On a cluster, this waits as `mksdask.compute.waiting` says.
    """
    client = distributed_client()
    options = {} if client is None else {"scheduler": get_from(client)}
    return aligned(dask.compute(value, **options)[0])


def computed_array(array: da.Array) -> NDArray[Any]:
    """Compute a dask array, as `computed` does. An error names the stage and the block.

    After an error that may heal by itself, a task runs again.
    """
    fresh = _renamed(array)
    blocks = optimized_together(fresh)
    if blocks:
        fresh = da.Array(dict(next(iter(blocks.values())).dask), fresh.name, fresh.chunks, meta=fresh._meta)
    return cast("NDArray[Any]", computed(fresh))


def in_chunks_of(lazy: da.Array, array: Any) -> Any:
    """Cut a NumPy or dask array along its first axis as a lazy array is cut."""
    rows = lazy.chunks[0]
    if not isinstance(array, da.Array):
        return da.from_array(array, chunks=(rows, *array.shape[1:]))
    return array if array.chunks[0] == rows else array.rechunk({0: rows})


def take_samples(array: Any, rows: NDArray[np.intp], cuts: Sequence[int] | None = None) -> Any:
    """Put the samples of an array into another order: lazily for a lazy array, of which nothing is computed here.

    Parameters
    ----------
    array : ndarray or dask array, shape (n_samples, ...)
        The samples.
    rows : ndarray of int, shape (n_samples,)
        Number of each sample, in the new order.
    cuts : sequence of int, optional
        Number of samples in each chunk of the result, if `array` is a view of a store. Default: as in `array`.

    Returns
    -------
    array of the same kind, shape (n_samples, ...)
        It has one task for each chunk if `array` is a view of a store, or if the new order only moves chunks and the
        samples inside them. Otherwise, samples move between chunks.
    """
    if not isinstance(array, da.Array):
        return array[rows]
    tail, dtype, source = array.shape[1:], array.dtype, stored_array(array)
    if source is not None:
        numbers = da.from_array(rows, chunks=(tuple(array.chunks[0] if cuts is None else cuts),))
        options = {"source": NamedArray(source, str(array.name))}
        return map_samples(_read_rows, numbers, tail=tail, dtype=dtype, name="take-samples", options=options)
    edges = np.cumsum((0, *array.chunks[0]))
    chunk = np.searchsorted(edges, rows, side="right") - 1
    moves = np.flatnonzero(np.diff(chunk, prepend=-1))
    if len(moves) != len(np.unique(chunk)) or any(len(sizes) > 1 for sizes in array.chunks[1:]):
        return array[rows]
    moved = array.blocks[chunk[moves]]
    return map_samples(_rows_of, moved, rows - edges[chunk], tail=tail, dtype=dtype, name="take-samples")


class NamedArray:
    """A stored array, under the name of the dask array that views it."""

    def __init__(self, array: Any, name: str) -> None:
        self.array, self.name = array, name

    def __dask_tokenize__(self) -> str:
        return self.name


def _read_rows(rows: NDArray[np.intp], *, source: NamedArray) -> NDArray[Any]:
    # Stores read rows in rising order, and each one once.
    rising, places = np.unique(rows, return_inverse=True)
    return np.asarray(source.array[rising])[places]


def _rows_of(block: NDArray[Any], rows: NDArray[np.intp]) -> NDArray[Any]:
    return block[rows]


def _renamed(array: Any) -> Any:
    """Give a lazy array a new name.

    Another computation may fuse the tasks of the same array in another way, so the two may not share names of tasks.
    """
    if not isinstance(array, da.Array):
        return array
    return renamed(array, f"{key_split(array.name)}-{uuid.uuid4().hex}")


def _any_lazy(arrays: Sequence[Any]) -> bool:
    return any(isinstance(array, da.Array) for array in arrays)


def _for_each_chunk(
    task: _BlockTask,
    arrays: Sequence[Any],
    shared: Sequence[Any],
    constants: Mapping[str, Any],
    tail: Sequence[int],
    dtype: DTypeLike,
    **names: str,
) -> da.Array:
    """Make one task for each chunk of the first lazy array, as which all arrays are cut.

    `names` holds the `token` or the `name` of `blockwise`. If `tail` is empty, the task may return any object.
    """
    lazy = next(array for array in arrays if isinstance(array, da.Array))
    sample = 0
    operands: list[Any] = [ArraySliceDep((lazy.chunks[0],)), (sample,)]
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
        whole = array.rechunk(-1) if isinstance(array, da.Array) else da.from_array(array, chunks=-1)
        operands += [whole, tuple(range(next_index, next_index + whole.ndim))]
        next_index += whole.ndim
    return da.blockwise(
        task,
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


def _with_samples(array: da.Array, inputs: Sequence[Any] = ()) -> list[tuple[Any, str]]:
    """List the delayed blocks of chunks that hold samples, or the first block, each with the name of its samples."""
    edges = itertools.pairwise(np.cumsum((0, *array.chunks[0])).tolist())
    found = list(zip(optimized_together(array, inputs=inputs).values(), edges, strict=True))
    found = [(block, span) for block, span in found if span[0] < span[1]] or found[:1]
    return [(block, samples_text(*span)) for block, span in found]


def _called(
    kernel: Callable[..., Any], arrays: Sequence[Any], shared: Sequence[Any], *more: Any, **options: Any
) -> Any:
    """Call a kernel of NumPy input at once."""
    with transforms_by(fft_library()):
        return kernel(*map(aligned, (*arrays, *map(np.asarray, shared))), *more, **options)


def _applied(*blocks: Any, kernel: Callable[..., Any]) -> Any:
    return kernel(*blocks)


def _packed(*blocks: Any) -> tuple[Any, ...]:
    return blocks


def _absorbed(kernel: Callable[..., Any], blocks: tuple[Any, ...], value: Any) -> Any:
    return kernel(*blocks, value)


def _part_text(unit: str | None, part: Sequence[Any], number: int, n_parts: int) -> str:
    if unit is None:
        return f"part {number + 1} of {n_parts}"
    first, end = part[0]
    return f"{unit} {first} to {end - 1}"


def _merged(values: Sequence[Any], merge: Merge, name: str) -> Any:
    """Merge delayed values in pairs. No other values may have the same name."""
    task, level = delayed(AlignedTask(merge, f"merge-{key_split(name)}"), name=f"merge-{name}-kernel"), 0
    while len(values) > 1:
        values = [
            task(*pair, dask_key_name=f"merge-{name}-{level}-{i}") if len(pair) > 1 else pair[0]
            for i, pair in enumerate(values[start : start + 2] for start in range(0, len(values), 2))
        ]
        level += 1
    return values[0]
