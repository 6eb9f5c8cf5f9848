"""Functions for the arguments of public calls: they unwrap arrays of NumPy, dask, zarr or xarray, and check values.

A result has the kind of the argument: `label` wraps it again if the argument was labelled.
"""

from __future__ import annotations

import inspect
import os
import reprlib
import warnings
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import scipy.sparse
import sklearn
import xarray as xr
import zarr
from numpy.typing import DTypeLike, NDArray
from sklearn.utils.validation import validate_data

from mksdask.compute.alignment import aligned
from mksdask.compute.blocks import check_whole_samples, computed_array
from mksdask.types import Array as Array, ArrayLike as ArrayLike

# Types of arrays that must not go through `numpy.asarray`, which computes them or loses their labels or masks.
LABELLED = (da.Array, xr.DataArray, xr.Dataset, zarr.Array, np.ma.MaskedArray)
# The function of dask-ml that tries what an estimator returns.
DASK_ML_TRIAL = "_get_output_dask_ar_meta_for_estimator"
SPATIAL_DIMS = ("x", "y", "z")
# Before 2026.9, xarray reads texts as objects, and compares or writes those of any length only in part.
TEXT = np.dtypes.StringDType() if tuple(map(int, xr.__version__.split(".")[:2])) >= (2026, 9) else np.dtype(object)
# Folders of the packages whose lines mean nothing to a user who gets a warning.
PACKAGES = tuple(str(Path(module).parent) for module in (__file__, sklearn.__file__))


def is_lazy(array: object) -> bool:
    """Whether `array` is a dask array, or a DataArray that holds one."""
    return isinstance(array.data if isinstance(array, xr.DataArray) else array, da.Array)


def as_lazy(array: Any, chunks: Any = "auto") -> da.Array:
    """Make a dask array of an array in memory, in chunks, or of a zarr array, in its own; a dask array stays one."""
    if isinstance(array, zarr.Array):
        return da.from_zarr(array)
    return array if isinstance(array, da.Array) else da.from_array(array, chunks=chunks)


def concatenate_samples(parts: Sequence[Any]) -> Any:
    """Join samples along their first axis: lazily if the first part is lazy."""
    return da.concatenate(parts) if is_lazy(parts[0]) else np.concatenate(parts)


def unwrap(array: ArrayLike, *, name: str = "X") -> tuple[Any, xr.DataArray | None]:
    """Split an argument into its NumPy or dask data and its labels.

    Parameters
    ----------
    array : array
        NumPy, dask, zarr or xarray, or what `numpy.asarray` takes.
    name : str
        Name of the argument in errors.

    Returns
    -------
    data : ndarray or dask array
        The data.
    labels : DataArray or None
        The argument itself if it is a DataArray.

    Raises
    ------
    TypeError
        If `array` is a Dataset, a masked or a sparse array, a path, or not numeric.
    ValueError
        If `array` is a list of arrays of different shapes.
    """
    if isinstance(array, xr.Dataset):
        raise TypeError(_dataset_message(array, name))
    data = array.data if isinstance(array, xr.DataArray) else array
    if isinstance(data._meta if isinstance(data, da.Array) else data, np.ma.MaskedArray):
        raise TypeError(_mask_message(name, is_lazy=isinstance(data, da.Array)))
    if isinstance(array, xr.DataArray):
        return data, array
    if isinstance(array, da.Array):
        return array, None
    if isinstance(array, zarr.Array):
        return da.from_zarr(array), None
    if scipy.sparse.issparse(array):
        msg = f"{name} is sparse, which is not supported; pass {name}.toarray()"
        raise TypeError(msg)
    refuse_path(array, name=name)
    data = in_memory(array, name=name)
    if data.dtype.kind not in "biufc":
        msg = f"{name} must be numeric, got {type(array).__name__} of dtype {data.dtype}"
        raise TypeError(msg)
    return data, None


def refuse_path(array: Any, *, name: str) -> None:
    """Refuse a path in place of an array.

    Raises
    ------
    TypeError
        If `array` is a path, or a text.
    """
    if isinstance(array, str | os.PathLike):
        msg = (
            f"{name} is the path {os.fspath(array)!r}, not an array; read the file first, such as with "
            "mksdask.open_ensemble for a store, mksdask.importers.import_images for images, or pandas.read_csv for a "
            "table"
        )
        raise TypeError(msg)


def in_memory(array: Any, *, name: str) -> NDArray[Any]:
    """Do what `numpy.asarray` does, with errors that name the argument.

    Raises
    ------
    TypeError
        If `array` is a table with some columns that are not numeric, or refuses to become a NumPy array.
    ValueError
        If `array` is a list of arrays of different shapes, or cannot be converted for another reason.
    """
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(_mask_message(name))
    if isinstance(array, pd.DataFrame):
        texts = [str(column) for column, dtype in array.dtypes.items() if dtype.kind not in "biufc"]
        if 0 < len(texts) < len(array.columns):
            msg = f"{name} is a DataFrame whose columns {texts} are not numeric; select the columns that are"
            raise TypeError(msg)
    try:
        return np.asarray(array)
    except ValueError as error:
        msg = f"{name} cannot be converted to a NumPy array: {error}"
        if isinstance(array, list | tuple) and (other := _first_of_another_shape(array)):
            msg = (
                f"{name} must be a list of arrays of one shape, but {name}[0] has the shape {np.shape(array[0])} and "
                f"{name}[{other}] the shape {np.shape(array[other])}; cut all to one size, or pass each size by itself"
            )
        raise ValueError(msg) from error
    except (TypeError, RuntimeError, NotImplementedError) as error:
        # Tensors of other libraries tell in this way that they are on a GPU, or part of a gradient.
        msg = f"{name} of type {type(array).__name__} cannot be converted to a NumPy array: {error}"
        raise TypeError(msg) from error


def _first_of_another_shape(arrays: Sequence[Any]) -> int | None:
    """Return the position of the first array of a list whose shape is not that of the first. None if there is none."""
    try:
        return next((i for i, array in enumerate(arrays) if np.shape(array) != np.shape(arrays[0])), None)
    except ValueError:
        return None


def _dataset_message(dataset: xr.Dataset, name: str) -> str:
    variables = [str(variable) for variable in dataset.data_vars]
    usual = "response" if name == "y" else "microstructure"
    example = usual if usual in variables else next(iter(variables), None)
    if example is None:
        return f"{name} is an xarray.Dataset without variables; pass an array"
    lacks = "" if usual in variables else f", and none of them is {usual!r}"
    return (
        f"{name} is an xarray.Dataset; pass one of its variables, such as {name}[{example!r}]. It holds "
        f"{', '.join(variables)}{lacks}"
    )


def dims_of(labels: xr.DataArray | None) -> tuple[Any, ...]:
    """Names of the axes of a labelled array. Without labels, there are none."""
    return () if labels is None else labels.dims


def unwrap_samples(array: ArrayLike, *, name: str = "X") -> tuple[Any, xr.DataArray | None]:
    """Split an ensemble as `unwrap` does, after a check that each chunk holds whole samples along the first axis.

    Raises
    ------
    TypeError
        As in `unwrap`.
    ValueError
        If a chunk cuts through samples, or the dims of a DataArray say that samples do not lie along its first axis.
    """
    data, labels = unwrap(array, name=name)
    refuse_unnumeric(data, name=name)
    dims = dims_of(labels)
    if "sample" in dims[1:]:
        msg = f"{name} must have 'sample' as its first dim, got {dims}; use {name}.transpose('sample', ...)"
        raise ValueError(msg)
    if dims[:1] == SPATIAL_DIMS[:1]:
        msg = (
            f"{name} has no axis of samples, its dims are {dims}; use {name}.expand_dims('sample') if it is one sample"
            ", or a function of volumes, such as correlate_volume"
        )
        raise ValueError(msg)
    if is_lazy(data):
        check_whole_samples(data, name=name, labels=labels)
    return data, labels


def unwrap_volume(array: ArrayLike, *, name: str = "volume") -> tuple[Any, xr.DataArray | None]:
    """Split one volume as `unwrap` does, after a check that it has no axis of samples.

    Raises
    ------
    TypeError
        As in `unwrap`.
    ValueError
        If the dims of a DataArray say that it is an ensemble, or chunks have unknown sizes.
    """
    data, labels = unwrap(array, name=name)
    refuse_unnumeric(data, name=name)
    if "sample" in dims_of(labels):
        msg = f"{name} must be one volume, got the dims {dims_of(labels)} of an ensemble; select one of its samples"
        raise ValueError(msg)
    if any(np.isnan(n) for n in data.shape):
        msg = f"{name} has chunks of unknown sizes; call {name}.compute_chunk_sizes() first"
        raise ValueError(msg)
    return data, labels


def label(
    data: Any,
    labels: xr.DataArray | None,
    *,
    dims: Sequence[str],
    coords: Mapping[str, Any],
    name: str,
    attrs: Mapping[str, Any] | None = None,
) -> Any:
    """Wrap a result in a DataArray, with the sample axis of `labels` and its coordinates. Without labels, return it.

    Parameters
    ----------
    data : ndarray or dask array, shape (n_samples, ...)
        Result.
    labels : DataArray or None
        The argument from which it was computed.
    dims : sequence of str
        Names of the axes after that of samples.
    coords : mapping
        Further coordinates.
    name : str
        Name of the result.
    attrs : mapping, optional
        Attributes of the result.
    """
    if labels is None:
        return data
    sample = labels.dims[0]
    others = [key for key, value in labels.coords.items() if value.dims not in ((sample,), ())]
    # A Dataset keeps the indexes too.
    kept = labels.coords.to_dataset().drop_vars(others).assign_coords(coords).coords
    return xr.DataArray(data, dims=(str(sample), *dims), coords=kept, name=name, attrs=dict(attrs or {}))


def label_alike(
    data: Any,
    labels: xr.DataArray | None,
    n_spatial: int,
    *,
    name: str,
    dims: Sequence[str] = (),
    coords: Mapping[str, Any] | None = None,
) -> Any:
    """Label a result of shape (n_samples, *spatial, ...) that has the samples, spatial axes and attributes of `labels`.

    Parameters
    ----------
    data, labels, name
        As in `label`.
    n_spatial : int
        Number of spatial axes.
    dims, coords
        Names and coordinates of the axes after the spatial ones.
    """
    if labels is None:
        return data
    spatial = tuple(map(str, labels.dims[1 : 1 + n_spatial]))
    kept = {dim: labels.coords[dim] for dim in spatial if dim in labels.coords}
    return label(data, labels, dims=(*spatial, *dims), coords={**kept, **(coords or {})}, name=name, attrs=labels.attrs)


def names(values: Sequence[str]) -> NDArray[Any]:
    """Make a coordinate of strings, in the dtype that zarr stores and returns unchanged."""
    return np.array(list(values), dtype=TEXT)


def is_text(values: NDArray[Any]) -> bool:
    """Whether an array holds text, in any of the dtypes that NumPy, pandas and zarr have for it."""
    kind = values.dtype.kind
    return kind in "UT" or (kind == "O" and all(isinstance(each, str) for each in values.flat))


def sizes_argument(size: Any, *, name: str = "size") -> tuple[int, ...]:
    """Check an argument that holds numbers of voxels along 1 to 3 axes, and return them as a tuple.

    Raises
    ------
    ValueError
        If they are not positive integers.
    """
    wanted = integers(size)
    if wanted is None or not 1 <= len(wanted) <= 3 or wanted.min() < 1:
        msg = f"{name} must be 1 to 3 positive numbers of voxels, got {shown(size)}"
        raise ValueError(msg)
    return tuple(wanted.tolist())


def integers(value: Any) -> NDArray[np.integer] | None:
    """Make an array with one axis of integers in memory, or return None if the value holds something else."""
    try:
        found = np.atleast_1d(np.asarray(None if is_lazy(value) else value))
    except (TypeError, ValueError, NotImplementedError):
        return None
    return found if found.dtype.kind in "iu" and found.ndim == 1 else None


def is_number(value: object) -> bool:
    """Whether a parameter is a finite real number."""
    try:
        return not isinstance(value, bool) and isinstance(value, Real) and bool(np.isfinite(float(value)))
    except OverflowError:
        return False


def shown(value: Any) -> str:
    """Show a bad argument in an error, in a few words."""
    if hasattr(value, "shape") and hasattr(value, "dtype") and np.ndim(value):
        return f"{type(value).__name__} of shape {tuple(value.shape)} and dtype {value.dtype}"
    return reprlib.repr(value)


def numbers_argument(value: Any, name: str) -> NDArray[np.float64]:
    """Check an argument that holds real numbers in memory, such as a list, and return them in float64.

    Raises
    ------
    TypeError
        If it is lazy, or holds no real numbers.
    ValueError
        If it is a list of lists of different lengths.
    """
    if isinstance(value, str):
        msg = f"{name} must be real numbers in memory, got {shown(value)}"
        raise ValueError(msg)
    data = value if is_lazy(value) or isinstance(value, xr.Dataset) else unwrap(value, name=name)[0]
    if is_lazy(data) or not isinstance(data, np.ndarray) or data.dtype.kind not in "biuf":
        msg = f"{name} must be real numbers in memory, got {shown(value)}"
        raise TypeError(msg)
    return np.asarray(data, dtype=np.float64)


def validated(estimator: Any, X: Any, *y: Any, **options: Any) -> Any:
    """Do what `validate_data` of scikit-learn does for X, or for X and y, with errors that name the argument.

    Raises
    ------
    TypeError
        If an array is masked, or holds text, dates or structures, or if y is sparse.
    ValueError
        As `validate_data` does.
    """
    for array, name in zip((X, *y), ("X", "y"), strict=False):
        refuse_unnumeric(array, name=name)
        if name == "y" and scipy.sparse.issparse(array):
            msg = "y is sparse, which is not supported; pass y.toarray()"
            raise TypeError(msg)
    try:
        return validate_data(estimator, X, *y, **options)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        msg = f"{'X or y' if y else 'X'} cannot be used: {error}"
        raise kind(msg) from error


def refuse_unnumeric(array: Any, *, name: str) -> None:
    """Refuse a masked array, a path, and an array of text, of dates or of structures.

    Raises
    ------
    TypeError
        If `array` is one of these.
    """
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(_mask_message(name))
    refuse_path(array, name=name)
    kind = getattr(getattr(array, "dtype", None), "kind", "f")
    if kind not in "biufc" and not (kind == "O" and isinstance(array, np.ndarray | pd.Series)):
        msg = f"{name} must hold numbers, got {shown(array)}"
        raise TypeError(msg)


def _mask_message(name: str, *, is_lazy: bool = False) -> str:
    values, mask = (
        ("dask.array.ma.getdata({})", "dask.array.ma.getmaskarray({})") if is_lazy else ("{}.data", "{}.mask")
    )
    remedy = f"pass {values.format(name)}"
    if name == "y":
        filled = "dask.array.ma.filled(y, numpy.nan)" if is_lazy else "y.filled(numpy.nan)"
        remedy = f"pass {filled}, which marks what is not known"
    elif name in ("X", "volume"):
        remedy += f", and confidence_index=~{mask.format(name)}"
    return f"{name} is a masked array, and its mask would be lost; {remedy}"


def axes_argument(axes: int | Sequence[int] | None, n_spatial: int, *, name: str = "periodic_axes") -> tuple[bool, ...]:
    """Turn a list of axis numbers into one flag for each spatial axis.

    Raises
    ------
    ValueError
        If an axis does not exist.
    """
    given: Any = () if axes is None else axes
    is_empty = (isinstance(given, list | tuple) and not given) or (isinstance(given, np.ndarray) and not given.size)
    wanted = np.array([], dtype=int) if is_empty else integers(axes)
    if wanted is None:
        msg = f"{name} must be numbers of spatial axes, such as [0, 1], got {shown(axes)}"
        raise ValueError(msg)
    if any(not 0 <= axis < n_spatial for axis in wanted):
        msg = (
            f"{name}={axes!r} names an axis outside 0…{n_spatial - 1}; samples have {n_spatial} spatial axes. If they "
            "are flat, pass their shape as size="
        )
        raise ValueError(msg)
    return tuple(axis in wanted for axis in range(n_spatial))


def precision_argument(dtype: DTypeLike) -> np.dtype[Any]:
    """Check that `dtype` is float32 or float64, and return it.

    Raises
    ------
    ValueError
        If it is another dtype.
    """
    try:
        precision = np.dtype(dtype)
    except (TypeError, ValueError, AttributeError):
        precision = np.dtype(object)
    if precision not in (np.float32, np.float64):
        msg = f"dtype must be float32 or float64, got {shown(dtype)}"
        raise ValueError(msg)
    return precision


def warn_caller(message: str, category: type[Warning] = UserWarning) -> None:
    """Give a warning that points to the line which called this package. Wrappers of scikit-learn are skipped too."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_code.co_filename.startswith(PACKAGES):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def is_trial_of_dask_ml() -> bool:
    """Whether a wrapper of dask-ml calls, with one row of zeros, to see which kind of result comes back."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_name != DASK_ML_TRIAL:
        frame = frame.f_back
    return frame is not None


def to_numpy(array: ArrayLike, *, name: str = "the array") -> NDArray[Any]:
    """Convert any array to an aligned one of NumPy. A lazy array is computed.

    Raises
    ------
    TypeError
        If `array` is a Dataset, or as in `in_memory`.
    ValueError
        As in `in_memory`.
    """
    if isinstance(array, xr.Dataset):
        raise TypeError(_dataset_message(array, name))
    data = array.data if isinstance(array, xr.DataArray) else array
    return computed_array(data) if isinstance(data, da.Array) else aligned(in_memory(data, name=name))
