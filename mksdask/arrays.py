"""NumPy, dask or xarray in, the same kind out.

A stage of the package is a *kernel*, a function of NumPy blocks whose first axis is the sample. `map_samples` calls it
directly for NumPy input and puts it into one task a chunk for dask input. `DataArray` input is
unwrapped by `unwrap`, and the stage puts the labels back on its result.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any, TypeAlias

import dask.array as da
import numpy as np
import scipy.sparse
import xarray as xr
import zarr
from dask import delayed
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from dask.utils import key_split
from numpy.typing import DTypeLike, NDArray

ArrayLike: TypeAlias = Any  # ndarray, dask.array.Array, zarr.Array or xarray.DataArray
# What is not an array of NumPy, or becomes one.
LABELLED = (da.Array, xr.DataArray, xr.Dataset, zarr.Array, np.ma.MaskedArray)
SPATIAL_DIMS = ("x", "y", "z")


def is_lazy(array: object) -> bool:
    """Whether `array` is a dask array, or a DataArray that holds one."""
    return isinstance(array.data if isinstance(array, xr.DataArray) else array, da.Array)


def unwrap(array: ArrayLike, *, name: str = "X") -> tuple[Any, xr.DataArray | None]:
    """Split an input into its NumPy or dask data and the DataArray that labels it, if any.

    Raises
    ------
    TypeError
        If `array` is a Dataset or a masked array, or cannot become a numeric array.
    """
    if isinstance(array, xr.Dataset):
        variables = ", ".join(map(str, array.data_vars))
        msg = f"{name} is an xarray.Dataset; pass one of its variables ({variables}), such as {name}['microstructure']"
        raise TypeError(msg)
    if isinstance(array, xr.DataArray):
        return array.data, array
    if isinstance(array, da.Array):
        return array, None
    if isinstance(array, zarr.Array):
        return da.from_zarr(array), None
    if isinstance(array, np.ma.MaskedArray):
        msg = f"{name} is a masked array, whose mask would be lost; pass its data, and confidence_index=~mask"
        raise TypeError(msg)
    if scipy.sparse.issparse(array):
        msg = f"{name} is sparse, which is not supported; pass {name}.toarray()"
        raise TypeError(msg)
    data = np.asarray(array)
    if data.dtype.kind not in "biufc":
        msg = f"{name} must be numeric, got {type(array).__name__} of dtype {data.dtype}"
        raise TypeError(msg)
    return data, None


def unwrap_samples(array: ArrayLike, *, name: str = "X") -> tuple[Any, xr.DataArray | None]:
    """`unwrap` an ensemble: samples along the first axis, each whole in one chunk.

    Raises
    ------
    TypeError, ValueError
        As `unwrap` and `check_whole_samples`; or if the dims of a DataArray say that samples lie elsewhere.
    """
    data, labels = unwrap(array, name=name)
    if labels is not None and "sample" in labels.dims[1:]:
        msg = f"{name} must have 'sample' as its first dim, got {labels.dims}; use {name}.transpose('sample', ...)"
        raise ValueError(msg)
    if labels is not None and labels.dims[:1] == SPATIAL_DIMS[:1]:
        msg = (
            f"{name} has no axis of samples, its dims are {labels.dims}; use {name}.expand_dims('sample') for "
            "one sample"
        )
        raise ValueError(msg)
    check_whole_samples(data, name=name, labels=labels)
    return data, labels


def unwrap_volume(array: ArrayLike, *, name: str = "volume") -> tuple[Any, xr.DataArray | None]:
    """`unwrap` one volume, which has no axis of samples.

    Raises
    ------
    TypeError, ValueError
        As `unwrap`; or if the dims of a DataArray say that it is an ensemble, or chunks are of unknown sizes.
    """
    data, labels = unwrap(array, name=name)
    if labels is not None and "sample" in labels.dims:
        msg = f"{name} must be one volume, got the dims {labels.dims} of an ensemble; select one sample of it"
        raise ValueError(msg)
    if any(np.isnan(n) for n in data.shape):
        msg = f"{name} has chunks of unknown sizes; call {name}.compute_chunk_sizes() first"
        raise ValueError(msg)
    return data, labels


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


def delayed_blocks(*arrays: da.Array) -> tuple[list[Any], ...]:
    """Blocks of arrays of one chunk along all axes but the first, each made by as few tasks as may be.

    Their names are new each time, so that another computation on the same arrays, which dask may fuse otherwise, gives
    no name of theirs to a task of its own.
    """
    own = [
        array.map_blocks(
            unchanged, dtype=array.dtype, meta=array._meta, name=f"{key_split(array.name)}-{uuid.uuid4().hex}"
        )
        for array in arrays
    ]
    blocks = optimized_together(*own)
    return tuple([blocks[(array.name, *block)] for block in np.ndindex(*array.numblocks)] for array in own)


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


def as_samples(array: ArrayLike, size: Sequence[int] | None, *, name: str = "X", trailing: int = 0) -> Any:
    """Give flat samples their spatial shape back: (n_samples, n_voxels) → (n_samples, *size).

    Parameters
    ----------
    array : array
        Shape (n_samples, *spatial), or flat where `size` is given.
    size : sequence of int or None
        Spatial shape of a sample.
    name : str
        The argument's name in errors.
    trailing : int
        Number of axes after the spatial ones (local states, angles) that `size` does not name.

    Raises
    ------
    ValueError
        If the shapes do not agree.
    """
    data, labels = unwrap(array, name=name)
    array = data if labels is None else array
    if size is None:
        return array
    size = tuple(int(n) for n in np.atleast_1d(size))
    shape = tuple(array.shape)
    if shape[1 : 1 + len(size)] == size and len(shape) == 1 + len(size) + trailing:
        return array
    if len(shape) == 2 and shape[1] % int(np.prod(size)) == 0 and (trailing or shape[1] == np.prod(size)):
        rest = (shape[1] // int(np.prod(size)),) if trailing else ()
        return data.reshape(shape[0], *size, *rest)
    msg = (
        f"{name} of shape {shape} does not hold samples of size={size}; expected (n_samples, "
        f"{', '.join(map(str, size))}) or flat samples of {int(np.prod(size))} values"
    )
    raise ValueError(msg)


def spacing_of(labels: xr.DataArray | None, n_spatial: int) -> tuple[tuple[str, float, str], ...]:
    """Name, spacing and units of each spatial axis, from a DataArray's coordinates; else x, y, z, 1 and voxel."""
    axes = []
    for axis in range(n_spatial):
        dim, step, units = SPATIAL_DIMS[axis], 1.0, "voxel"
        if labels is not None:
            dim = str(labels.dims[axis + 1])
            if dim in labels.coords and labels.coords[dim].ndim == 1:
                coordinate = labels.coords[dim]
                units = str(coordinate.attrs.get("units", units))
                if coordinate.size > 1:
                    step = float(coordinate[-1] - coordinate[0]) / (coordinate.size - 1)
                else:
                    step = float(coordinate.attrs.get("spacing", step))
        axes.append((dim, step, units))
    return tuple(axes)


def label(
    data: Any,
    labels: xr.DataArray,
    *,
    dims: Sequence[str],
    coords: Mapping[str, Any],
    name: str,
    attrs: Mapping[str, Any] | None = None,
) -> xr.DataArray:
    """Wrap a result computed from `labels`, keeping the coordinates of its sample axis."""
    sample = str(labels.dims[0])
    kept = {key: value for key, value in labels.coords.items() if value.dims in ((sample,), ())}
    return xr.DataArray(data, dims=(sample, *dims), coords={**kept, **coords}, name=name, attrs=dict(attrs or {}))


def names(values: Sequence[str]) -> NDArray[Any]:
    """Strings for a coordinate, of the dtype that zarr stores and gives back unchanged."""
    return np.array(list(values), dtype=np.dtypes.StringDType())


def periodic_axes_of(labels: xr.DataArray | None) -> list[int]:
    """Spatial axes that the ``periodic_axes`` attribute of samples names, by dim or by number; none without one.

    A ``periods`` attribute beside it holds the voxels of each period: an axis that was cut is periodic no more.
    """
    if labels is None:
        return []
    dims = [str(dim) for dim in labels.dims[1:]]
    named = list(np.atleast_1d(labels.attrs.get("periodic_axes", [])))
    # A dim that is no longer there, or shorter, has been indexed.
    periods = dict(zip(named, np.atleast_1d(labels.attrs.get("periods", [])), strict=False))
    present = [
        axis
        for axis in named
        if not isinstance(axis, str) or (axis in dims and labels.sizes[axis] == periods.get(axis, labels.sizes[axis]))
    ]
    return [dims.index(axis) if isinstance(axis, str) else int(axis) for axis in present]


def phases_of(labels: xr.DataArray | None) -> tuple[str, ...]:
    """Names of phases that labels say; none without any."""
    return () if labels is None else tuple(map(str, labels.attrs.get("phases") or ()))


def check_phases(labels: xr.DataArray | None, seen: Sequence[str]) -> None:
    """Refuse samples whose phases have other names, or another order, than those seen before.

    Raises
    ------
    ValueError
        That tells both.
    """
    found = phases_of(labels)
    if found and seen and found != tuple(seen):
        msg = (
            f"X has the phases {list(found)}, fit saw {list(seen)}; number phases alike, or remove the attribute "
            "'phases' if these are the same by other names"
        )
        raise ValueError(msg)


def sizes_argument(size: Any, *, name: str = "size") -> tuple[int, ...]:
    """Numbers of voxels along 1 to 3 axes.

    Raises
    ------
    ValueError
        If they are not positive integers.
    """
    wanted = np.atleast_1d(np.asarray(size))
    if wanted.dtype.kind not in "iu" or wanted.ndim != 1 or not 1 <= len(wanted) <= 3 or wanted.min() < 1:
        msg = f"{name} must be 1 to 3 positive numbers of voxels, got {size!r}"
        raise ValueError(msg)
    return tuple(wanted.tolist())


def is_number(value: object) -> bool:
    """Whether a parameter is a finite real number."""
    return isinstance(value, Real) and bool(np.isfinite(float(value)))


def axes_argument(axes: int | Sequence[int] | None, n_spatial: int, *, name: str = "periodic_axes") -> tuple[bool, ...]:
    """Turn a list of axis numbers into one flag for each spatial axis.

    Raises
    ------
    ValueError
        If an axis does not exist.
    """
    wanted = np.atleast_1d(np.asarray([] if axes is None else axes))
    if wanted.size and wanted.dtype.kind not in "iu":
        msg = f"{name} must be numbers of spatial axes, such as [0, 1], got {axes!r}"
        raise ValueError(msg)
    if any(not 0 <= axis < n_spatial for axis in wanted):
        msg = (
            f"{name}={axes!r} names an axis outside 0…{n_spatial - 1}; samples have {n_spatial} spatial axes. "
            "Flat samples need their shape as size="
        )
        raise ValueError(msg)
    return tuple(axis in wanted for axis in range(n_spatial))


def to_numpy(array: ArrayLike) -> NDArray[Any]:
    """Compute a lazy array; anything else through `numpy.asarray`."""
    if isinstance(array, xr.Dataset):
        msg = f"got an xarray.Dataset; pass one of its variables: {', '.join(map(str, array.data_vars))}"
        raise TypeError(msg)
    data = array.data if isinstance(array, xr.DataArray) else array
    return np.asarray(data.compute() if isinstance(data, da.Array) else data)
