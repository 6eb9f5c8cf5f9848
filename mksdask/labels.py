"""Labels of samples. Two arrays that both carry them are paired by label, and results keep them.

A DataArray carries labels if it has an index along its samples. A Series or a DataFrame of pandas always carries them.
Where one of two arrays carries no labels, the order of the samples counts.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from mksdask.arrays import Array, ArrayLike, is_lazy, to_numpy, warn_caller
from mksdask.compute.blocks import take_samples

# A message names so many labels.
MOST_NAMED = 3
# Names that say what an array is for, and not which quantity it holds.
ROLES = ("response", "prediction", "field")


def sample_dim(array: xr.DataArray) -> Hashable:
    """Name of the axis of samples: "sample" if there is one, and otherwise the first axis."""
    return "sample" if "sample" in array.dims else array.dims[0]


def sample_index(array: Any) -> pd.Index | None:
    """Find the labels of the samples of an array. Return None if there are none.

    Parameters
    ----------
    array : array, or object with an attribute ``index``
        An array whose first axis is that of the samples.
    """
    if not isinstance(array, xr.DataArray):
        index = getattr(array, "index", None)
        return index if isinstance(index, pd.Index) else None
    if not array.ndim:
        return None
    dim = sample_dim(array)
    found = {name: index for name, index in array.xindexes.items() if array.coords[name].dims == (dim,)}
    first = found.get(dim, next(iter(found.values()), None))
    return None if first is None else first.to_pandas_index()


def index_in_order(y: Any) -> pd.Index | None:
    """Find the labels of y, which is paired by position with samples that carry none.

    Warns
    -----
    UserWarning
        If the labels are the numbers of the samples in another order.
    """
    index = sample_index(y)
    if index is not None and not isinstance(y, xr.DataArray) and pd.api.types.is_integer_dtype(index):
        positions = np.arange(len(index))
        if not (index == positions).all() and np.array_equal(np.sort(index), positions):
            warn_caller(
                "the index of y holds the numbers of the samples in another order, but X has no labels, so that they "
                "are paired by position; pass y.sort_index() if X is in the order of the numbers, or y.to_numpy() if "
                "not"
            )
    return index


def quantity(array: Any) -> dict[str, str]:
    """Read which quantity an array holds, as attributes ``long_name`` and ``units``, as far as its labels say it."""
    if not isinstance(array, xr.DataArray | pd.Series):
        return {}
    name = None if array.name in ROLES else array.name
    said = {"long_name": array.attrs.get("long_name", name), "units": array.attrs.get("units")}
    return {key: text for key, text in said.items() if isinstance(text, str) and text}


def quantity_text(array: Any) -> str:
    """Name the quantity that an array holds, and its unit, such as "stress / MPa". Return "" if its labels say neither.

    The name of an array counts if it does not say what the array is for.
    """
    return " / ".join(quantity(array).values())


def first_index(*arrays: Any) -> pd.Index | None:
    """Find the labels of the first array that carries labels."""
    return next((index for index in map(sample_index, arrays) if index is not None), None)


def matched(
    array: ArrayLike, like: pd.Index | None, *, name: str, of: str = "X", cuts: Sequence[int] | None = None
) -> Any:
    """Put the samples of an array into the order of other samples, by their labels. Nothing is computed.

    Parameters
    ----------
    array : array or None
        An array whose first axis is that of the samples.
    like : Index or None
        Labels of the other samples.
    name, of : str
        Name of `array`, and of the array that has the labels `like`, in errors.
    cuts : sequence of int, optional
        Number of samples in each chunk of the other array.

    Returns
    -------
    array
        The argument itself if it has the same order, or if one of the two has no labels. Labels may repeat if both
        arrays have the same ones in the same order, as they have after samples were drawn with repetition.

    Raises
    ------
    ValueError
        If the labels are not the same.
    """
    rows = _rows(array, like, name, of)
    if rows is None:
        return array
    if not isinstance(array, xr.DataArray):
        return array.iloc[rows]
    dim = sample_dim(array)
    if array.dims[0] != dim or not is_lazy(array):
        return array.isel({dim: rows})
    coords = array.coords.to_dataset().isel({dim: rows}).coords
    data = take_samples(array.data, rows, cuts)
    return xr.DataArray(data, dims=array.dims, coords=coords, name=array.name, attrs=array.attrs)


def paired(X: ArrayLike, y: ArrayLike | None, **beside: ArrayLike | None) -> list[Any]:
    """Put y, and other arrays by their names, into the order of the samples of X, by labels, as `matched` does.

    If X has no labels, all take the order of y.
    """
    index = first_index(X, y)
    return [matched(array, index, name=name) for name, array in {"y": y, **beside}.items()]


def matched_values(
    array: ArrayLike, like: pd.Index | None, *, name: str, of: str = "X", remedy: str | None = None
) -> Array:
    """Compute an array, and put its samples into the order of other samples, as `matched` does.

    `remedy` is the end of the message for other labels.
    """
    rows = _rows(array, like, name, of, remedy)
    values = to_numpy(array, name=name)
    return values if rows is None else values[rows]


def _rows(
    array: ArrayLike, like: pd.Index | None, name: str, of: str, remedy: str | None = None
) -> NDArray[np.intp] | None:
    """Find the row of each label. Return None if the samples stay in their order."""
    own = sample_index(array)
    if own is None or like is None or own.equals(like):
        return None
    if own.nlevels != like.nlevels:
        # Labels of several levels are tuples, which equal no other labels.
        own, like = (pd.Index(index.to_numpy(), dtype=object, tupleize_cols=False) for index in (own, like))
    faults = []
    for whose, index in ((name, own), (of, like)):
        if not index.is_unique:
            faults.append(f"{whose} has {_some(index[index.duplicated()].unique())} more than once")
    lacking, further = like[~like.isin(own)], own[~own.isin(like)]
    faults += [f"{name} lacks {_some(lacking.unique())}"] * bool(len(lacking))
    faults += [f"{of} lacks {_some(further.unique())}"] * bool(len(further))
    if faults:
        values = f"{name}.data" if isinstance(array, xr.DataArray) else f"{name}.to_numpy()"
        default = (
            f"select the same samples of both, or pass {values} if its samples stand in the order of those of {of}"
        )
        msg = (
            f"{name} must have the sample labels of {of}, in any order, but {', and '.join(faults)}; "
            f"{remedy or default}"
        )
        raise ValueError(msg)
    return np.asarray(own.get_indexer(like))


def _some(labels: pd.Index) -> str:
    """Name the first of some labels, and say how many there are."""
    first = ", ".join(str(label) if isinstance(label, pd.Timestamp) else repr(label) for label in labels[:MOST_NAMED])
    count = f"{len(labels)} label{'s' if len(labels) > 1 else ''}"
    return f"{count} ({first}{', …' if len(labels) > MOST_NAMED else ''})"
