"""Names for the types of arrays in signatures."""

from __future__ import annotations

from typing import Any, TypeAlias

from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
ArrayLike: TypeAlias = Any  # ndarray, dask.array.Array, zarr.Array or xarray.DataArray
