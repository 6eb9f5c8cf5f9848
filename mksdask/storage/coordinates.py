"""Coordinates in stores, such as the names of samples, or the temperature at which each was made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from mksdask.arrays import Array, ArrayLike, is_text
from mksdask.labels import sample_dim, sample_index
from mksdask.storage.arrays import write_dataset
from mksdask.storage.atomic import Location
from mksdask.storage.limits import LABEL_BYTES
from mksdask.storage.opening import open_array

# A chunk of a coordinate holds so many samples, and the appended ones too while there is room.
SAMPLES = 2**16
# Units of time in a store, and the resolution of datetime64 that each stands for.
_UNITS = {"seconds": "s", "milliseconds": "ms", "microseconds": "us", "nanoseconds": "ns"}


def sample_coordinates(arrays: Iterable[ArrayLike | None]) -> xr.Dataset:
    """Collect the coordinates of samples. The index along the samples is called ``sample``.

    Parameters
    ----------
    arrays : iterable of arrays
        Arrays whose samples are in the same order. If two have a coordinate of one name, the first counts.

    Raises
    ------
    ValueError
        If a store cannot hold a coordinate.
    """
    found: dict[str, Any] = {}
    for array in arrays:
        if not isinstance(array, xr.DataArray):
            continue
        dim = sample_dim(array)
        if getattr(sample_index(array), "nlevels", 1) > 1:
            msg = (
                f"the samples have a MultiIndex, which a store cannot hold; use reset_index({str(dim)!r}), and its "
                "levels are stored as coordinates"
            )
            raise ValueError(msg)
        for key, values in array.coords.items():
            name = "sample" if key == dim else str(key)
            if values.dims == (dim,) and name not in found:
                found[name] = (("sample",), values.data, values.attrs)
    coords = storable(xr.Dataset(coords=found))
    if "sample" in coords:
        _check_size(coords.sizes["sample"], coords["sample"].dtype)
    return coords


def _check_size(n_samples: int, dtype: np.dtype[Any]) -> None:
    """Refuse so many labels of samples that the store could not be opened, as they are read then."""
    # Texts of any length count as they do in a store, whatever xarray reads them as.
    if n_samples * (16 if dtype.kind in "OT" else dtype.itemsize) > LABEL_BYTES:
        msg = (
            f"{n_samples} labels of samples take more than the {LABEL_BYTES} bytes that are read when a store is "
            "opened; leave out the labels by X.drop_vars('sample')"
        )
        raise ValueError(msg)


def storable(coords: xr.Dataset) -> xr.Dataset:
    """Load coordinates, in the dtypes in which a store holds them: numbers, texts and dates.

    Raises
    ------
    ValueError
        If a coordinate has another dtype or, in its name, a space.
    """
    found = {}
    for name, values in coords.variables.items():
        data = values.to_numpy()
        kind, has_space = data.dtype.kind, " " in str(name) and values.dims != (name,)
        if is_text(data):
            data, kind = data.astype(np.dtypes.StringDType()), "T"
        if kind not in "biufcTM" or has_space:
            what = "a space in its name" if has_space else f"values of dtype {data.dtype}"
            msg = (
                f"the coordinate {str(name)!r} has {what}, and a store holds numbers, texts and datetime64 under names "
                f"without spaces; change it, or leave it out by drop_vars({str(name)!r})"
            )
            raise ValueError(msg)
        found[name] = (values.dims, data, values.attrs)
    return xr.Dataset(coords=found, attrs=coords.attrs)


def write_coords(coords: xr.Dataset, location: Location) -> None:
    """Make a store of coordinates. Samples can be appended to those along them."""
    coords, chunks = coords.copy(), {}
    for name, values in coords.variables.items():
        if values.dims == ("sample",):
            chunks[name] = (SAMPLES,)
        if values.dtype.kind == "M":
            unit = next(word for word, short in _UNITS.items() if short == np.datetime_data(values.dtype)[0])
            coords[name].encoding = {"units": f"{unit} since 1970-01-01", "dtype": "int64"}
    write_dataset(coords, location, chunks)


def check_appended(stored: xr.Dataset, new: xr.Dataset) -> None:
    """Refuse new samples whose coordinates are not those of the stored samples.

    Raises
    ------
    ValueError
        If coordinates are missing or additional, if they are of another kind, or if a label is there already.
    """
    have = {str(name): values for name, values in stored.coords.items() if values.dims == ("sample",)}
    missing, further = sorted(set(have) - set(new.variables)), sorted(set(map(str, new.variables)) - set(have))
    if missing:
        msg = (
            f"X lacks the coordinates {missing} of samples, which the ensemble has; give X as a DataArray with them, "
            f"such as X.assign_coords({missing[0]}=('sample', values))"
        )
        raise ValueError(msg)
    if further:
        msg = (
            f"X has the coordinates {further} of samples, which the ensemble lacks; leave them out by "
            f"X.drop_vars({further})"
        )
        raise ValueError(msg)
    for name, values in have.items():
        if not _fits(new[name].dtype, values.dtype):
            msg = (
                f"the coordinate {name!r} of X has dtype {new[name].dtype}, which does not fit the stored "
                f"{values.dtype}; give values of this kind"
            )
            raise ValueError(msg)
    if "sample" in have:
        _check_size(stored.sizes["sample"] + new.sizes["sample"], have["sample"].dtype)
        old, added = have["sample"].to_index(), new["sample"].to_index()
        twice = added[added.isin(old) | added.duplicated()]
        if old.is_unique and len(twice):
            msg = (
                f"X has {len(twice)} samples whose label is in the ensemble already, such as {twice[0]!r}; give each "
                "sample a label of its own in the coordinate 'sample'"
            )
            raise ValueError(msg)


def append_coordinates(location: Location, new: Mapping[str, Array], n_old: int) -> None:
    """Write coordinates of new samples, in the numbers of the store, behind those of the stored samples."""
    for name, data in new.items():
        target = open_array(location, name, mode="r+")
        # An append that was killed may have left samples behind.
        target.resize((n_old,))
        target.resize((n_old + len(data),))
        target[n_old:] = data


def encoded(location: Location, coords: xr.Dataset) -> dict[str, Array]:
    """Write coordinates in the numbers of the store: integers of the same size, and dates in the same unit.

    Raises
    ------
    ValueError
        If a value does not fit.
    """
    found = {}
    for name, values in coords.variables.items():
        target, data = open_array(location, str(name)), values.to_numpy()
        kind: Any = target.dtype
        if data.dtype.kind == "M":
            kind = f"datetime64[{_UNITS[str(target.attrs['units']).split()[0]]}]"
        cast = data.astype(kind)
        if data.dtype.kind in "iuM" and (cast != data)[~np.isnat(data) if data.dtype.kind == "M" else ...].any():
            msg = f"the coordinate {str(name)!r} of X has values that the stored {kind} cannot hold; round them first"
            raise ValueError(msg)
        found[str(name)] = cast.astype(np.int64) if data.dtype.kind == "M" else cast
    return found


def _fits(new: np.dtype[Any], stored: np.dtype[Any]) -> bool:
    """Whether numbers of a dtype can be cast to the stored one. Texts and dates stay what they are."""
    kinds = {"text" if dtype.kind in "OTU" else dtype.kind for dtype in (new, stored)}
    if {"text", "M"} & kinds:
        return len(kinds) == 1
    return (new.kind in "iu" and stored.kind in "iu") or bool(np.can_cast(new, stored, casting="same_kind"))
