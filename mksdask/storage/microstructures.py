"""What stores of ensembles and of volumes have in common: labels of axes and phases, writing, and opening.

A store is a plain zarr v3 group, which `xarray.open_zarr` opens too. The unit of writing is the shard: one task writes
a whole shard. A shard holds smaller chunks, so that one sample can be read alone. Readers use the consolidated metadata
of the group, which is written last. A store or an append is therefore either complete or invisible.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from mksdask.arrays import (
    SPATIAL_DIMS,
    Array,
    ArrayLike,
    axes_argument,
    is_lazy,
    numbers_argument,
    shown,
    unwrap,
)
from mksdask.compute.graph import token_of
from mksdask.samples import Grid, check_confidence
from mksdask.schema.arguments import checked
from mksdask.schema.units import length_argument
from mksdask.storage.atomic import MICROSTRUCTURES, Location, Url, check_ours, remove_leftovers
from mksdask.storage.blocks import Blocks, Variable, layout_begun
from mksdask.storage.opening import foreign_metadata, open_dataset, small_coords
from mksdask.storage.sources import recorded_layout
from mksdask.storage.staging import staged, unfinished

# Values of uint8 from here on are not taken for phases, if the last axis may hold colours.
MOST_PHASES = 16


def create_store(
    url: Url, variables: Mapping[str, Variable], coords: xr.Dataset, mode: str, kind: str, *, resume: bool
) -> None:
    """Write a store beside its place, and move it there when it is complete.

    With `resume`, a complete store of the same arrays is taken as done. What a killed call has written of a source that
    was changed since then is written anew, with a warning.
    """
    layout = recorded_layout()
    if resume and Blocks(Location.of(url), kind, variables, coords, layout=layout).is_done():
        return
    with staged(url, mode, MICROSTRUCTURES, resume=resume) as location:
        if location.is_local:
            Path(location.path).parent.mkdir(parents=True, exist_ok=True)
        blocks = Blocks(location, kind, variables, coords, layout=layout)
        blocks.open(MICROSTRUCTURES)
        # All that is in this folder will be moved into the place of the store.
        check_ours(location, MICROSTRUCTURES)
        blocks.write()
        remove_leftovers(location)
        blocks.finish(keep_record=False)


def store_layout_begun(url: Url, name: str, n: int) -> tuple[int, ...] | None:
    """Find how a computation was cut whose store an earlier call began or completed; see `layout_begun`."""
    for place in (unfinished(url, MICROSTRUCTURES), Location.of(url)):
        if (found := layout_begun(place, name, n)) is not None:
            return found
    return None


def description(
    X: ArrayLike,
    grid: Grid,
    spatial: tuple[int, ...],
    *,
    spacing: float | Sequence[float],
    units: str,
    phases: Sequence[str] | None,
    periodic_axes: int | Sequence[int],
) -> tuple[dict[str, Any], xr.Dataset]:
    """Describe microstructures in the words of a store.

    Parameters
    ----------
    X : array
        The microstructures. If they are a DataArray, the store keeps their attributes.
    grid : Grid
        What X says of itself. It replaces the arguments below that are left at their defaults.
    spatial : tuple of int
        Voxels along each axis.
    spacing, units, phases, periodic_axes
        As in `create_ensemble`.

    Returns
    -------
    attrs : dict
        Attributes of the variable ``microstructure``.
    coords : Dataset
        Coordinates along each axis.

    Raises
    ------
    ValueError
        If a spacing is not positive, `units` is no unit of length, or an axis does not exist.
    """
    units = length_argument(units)
    if np.ndim(spacing) == 0 and spacing == 1.0 and units == "voxel":
        spacing, units = [abs(step) for step in grid.steps], grid.axes[0].units
    if phases is None:
        phases = grid.phases or None
    elif not isinstance(phases, list | tuple | np.ndarray) or not all(isinstance(name, str) for name in phases):
        msg = f"phases must be a list of names, such as ['pore', 'grain'], got {shown(phases)}"
        raise TypeError(msg)
    is_empty = isinstance(periodic_axes, list | tuple) and not periodic_axes
    flags = axes_argument(grid.periodic_axes if is_empty else periodic_axes, len(spatial))
    axes = [axis for axis, wraps in enumerate(flags) if wraps]
    # Axes are stored by name, so that the attribute stays true when dims are transposed or indexed away.
    attrs = kept_attrs(X) | {
        "periodic_axes": [SPATIAL_DIMS[axis] for axis in axes],
        "periods": [spatial[axis] for axis in axes],
    }
    if phases is not None:
        attrs["phases"] = [str(phase) for phase in phases]
    if "origin" in attrs:
        attrs |= _origin_of_part(X, attrs.pop("origin"), len(spatial))
    coords = {
        dim: (dim, np.arange(n) * step, {"units": units, "spacing": step})
        for dim, n, step in zip(SPATIAL_DIMS, spatial, _steps(spacing, len(spatial)), strict=False)
    }
    return attrs, xr.Dataset(coords=coords)


def _origin_of_part(X: Any, origin: Any, n_spatial: int) -> dict[str, Any]:
    """Move the attribute `origin` of an import to the first voxel of a part, because its coordinates begin at 0 again.

    An array without the axes x, y(, z) of the import has no such attribute any more.
    """
    dims, places = SPATIAL_DIMS[:n_spatial], np.atleast_1d(origin).tolist()
    if "sample" in X.dims or not set(dims) <= {*X.dims} or len(places) < n_spatial:
        return {}
    first = [float(X.coords[dim][0]) if dim in X.coords else 0.0 for dim in dims]
    return {"origin": [float(place) + more for place, more in zip(places, first, strict=False)]}


def _steps(spacing: float | Sequence[float], n_spatial: int) -> tuple[float, ...]:
    """Voxel size along each axis."""
    steps = numbers_argument(spacing, "spacing")
    if steps.shape not in ((), (n_spatial,)) or not (np.isfinite(steps).all() and (steps > 0).all()):
        msg = f"spacing must be a positive number, or one for each of the {n_spatial} spatial axes; got {spacing!r}"
        raise ValueError(msg)
    return tuple(np.broadcast_to(steps, n_spatial).tolist())


def refuse_colours(data: Any, labels: xr.DataArray | None, spacing: float | Sequence[float], *, name: str) -> None:
    """Refuse images with colours, whose last axis would be stored as an axis of space.

    Values in memory tell colours from phases. Lazy values are not looked at, so shape and dtype decide.

    Raises
    ------
    ValueError
        If the last axis may hold colours, and neither dims nor one spacing for each axis say that it is one of space.
    """
    is_named = labels is not None or np.ndim(numbers_argument(spacing, "spacing")) > 0
    if is_named or data.dtype != np.uint8 or data.ndim < 3 or data.shape[-1] not in (3, 4):
        return
    if is_lazy(data) or (data.size and data.max() >= MOST_PHASES):
        dims = ("sample",) * (name == "X") + SPATIAL_DIMS
        values = "lazy uint8 values" if is_lazy(data) else f"uint8 values up to {data.max()}"
        msg = (
            f"{name} of shape {tuple(data.shape)} holds {values}, and its last axis may be the colours of an image; "
            f"make one number of them, such as {name}[..., :3].mean(axis=-1), and find the phases. If it is an axis of "
            f"space, pass spacing= with one number for each spatial axis, or a DataArray with dims such as {dims}"
        )
        raise ValueError(msg)


def within_limits(
    data: Any, phase: Any, confidence_index: Any, attrs: Mapping[str, Any], *, has_angles: bool
) -> tuple[Any, Any, Any]:
    """Check that each phase has a name, if phases have names, and that confidences lie in [0, 1].

    Values in memory are checked now, and lazy ones where they are computed.

    Returns
    -------
    data, phase, confidence_index : arrays
        The arguments, with the checks of lazy values.
    """
    names = list(attrs.get("phases") or ())
    if names and phase is not None:
        phase = _limited(phase, partial(_check_names, names=names), "phase")
    elif names and not has_angles and data.dtype.kind in "biu":
        data = _limited(data, partial(_check_names, names=names), "X")
    if confidence_index is not None:
        confidence_index = _limited(confidence_index, _check_confidence, "confidence_index")
    return data, phase, confidence_index


def _limited(array: Any, check: Callable[[Any], Any], name: str) -> Any:
    """Check an array in memory, or put the check into the tasks of a lazy one."""
    data, labels = unwrap(array, name=name)
    if not is_lazy(data):
        if data.size:
            check(data)
        return array
    data = data.map_blocks(check, dtype=data.dtype, meta=data._meta, token="check-values")
    return data if labels is None else labels.copy(data=data)


def _check_confidence(block: Array) -> Array:
    if block.size:
        check_confidence(block)
    return block


def _check_names(block: Array, *, names: Sequence[str]) -> Array:
    if block.dtype.kind in "biu" and block.size and int(block.max()) >= len(names):
        msg = f"phases must name each phase, but {names} has no name for the phase {block.max()}; give all names"
        raise ValueError(msg)
    return block


def kept_attrs(array: ArrayLike) -> dict[str, Any]:
    """Select the attributes of a DataArray that a store can hold: texts, numbers, and lists of them."""
    if not isinstance(array, xr.DataArray):
        return {}
    return {
        str(key): value
        for key, value in array.attrs.items()
        if isinstance(value, str | int | float)
        or (isinstance(value, list) and all(isinstance(v, str | int | float) for v in value))
    }


def in_order(array: ArrayLike) -> ArrayLike:
    """Transpose a DataArray to the dims sample, x, y, z and then all others. Other arrays stay as they are."""
    if not isinstance(array, xr.DataArray) or not set(SPATIAL_DIMS) & set(array.dims):
        return array
    first = [dim for dim in ("sample", *SPATIAL_DIMS) if dim in array.dims]
    return array.transpose(*first, *(dim for dim in array.dims if dim not in first))


def has_angles(X: ArrayLike, data: Any, spacing: Any) -> bool:
    """Whether the last axis holds Bunge angles and not voxels."""
    if isinstance(X, xr.DataArray):
        return str(X.dims[-1]) == "angle"
    if isinstance(spacing, list | tuple) or (isinstance(spacing, np.ndarray) and spacing.ndim == 1):
        return data.ndim == len(spacing) + 2 and data.shape[-1] == 3
    return data.ndim >= 4 and data.shape[-1] == 3 and data.dtype.kind == "f"


@checked
def open_store(url: Url, *, allow_missing: bool = False, follow_links: bool = False) -> xr.Dataset:
    """Open a store lazily that holds an ensemble or a volume.

    Parameters
    ----------
    url : str or path
        A path, or any URL that fsspec knows.
    allow_missing, follow_links : bool, default False
        As in `open_ensemble`.

    Returns
    -------
    xarray.Dataset
        What `open_ensemble` or `open_volume` returns.

    Raises
    ------
    FileNotFoundError, ValueError
        As in `open_ensemble` and `open_volume`.
    """
    return open_microstructures(url, None, allow_missing=allow_missing, follow_links=follow_links)


def open_microstructures(
    url: Url, kind: Literal["ensemble", "volume"] | None, *, allow_missing: bool = False, follow_links: bool = False
) -> xr.Dataset:
    """Open a store lazily, in chunks of one shard. With `kind`, refuse a store of the other kind."""
    location = replace(Location.of(url), follow_links=follow_links)
    maker = (f"create_{kind}" if kind else "create_ensemble or create_volume") + ", or by mksdask import"
    mark = ((foreign_metadata(location) or {}).get("attributes") or {}).get("mksdask")
    if mark == "model":
        msg = f"{os.fspath(url)} holds a model, not samples; open it with load_model, and give a store of samples here"
        raise ValueError(msg)
    try:
        dataset = open_dataset(location, chunks=None, allow_missing=allow_missing)
    except FileNotFoundError as error:
        what = "is not a zarr v3 group" if location.exists() else "does not exist"
        msg = f"{os.fspath(url)} {what}; make one with {maker}"
        raise FileNotFoundError(msg) from error
    except KeyError as error:
        msg = f"{os.fspath(url)} holds arrays whose dimensions have no names; make it with {maker}"
        raise ValueError(msg) from error
    if "microstructure" not in dataset:
        names = sorted(map(str, dataset.data_vars))
        if mark == "result":
            msg = (
                f"{os.fspath(url)} holds a result, {', '.join(names)}, and not samples; open it with "
                f"xarray.open_zarr({os.fspath(url)!r})"
            )
            raise ValueError(msg)
        msg = f"{os.fspath(url)} holds {names}, but no variable 'microstructure'; make it with {maker}"
        raise ValueError(msg)
    if kind is not None and ("sample" in dataset["microstructure"].dims) != (kind == "ensemble"):
        found, wanted, how = ("an ensemble", "a volume", "open it with open_ensemble")
        if kind == "ensemble":
            found, wanted = wanted, found
            how = "open it with open_volume, or cut it into windows by sample_windows, or mksdask import --window"
        msg = f"{os.fspath(url)} holds {found}, not {wanted}; {how}"
        raise ValueError(msg)
    encoding = dataset["microstructure"].encoding
    blocks = encoding.get("shards") or encoding["chunks"]
    sizes = dict(zip(map(str, dataset["microstructure"].dims), blocks, strict=True))
    chunks = {dim: sizes.get(str(dim), -1) for dim in dataset.dims}
    # The stamp is part of the names in the graph. A result of an earlier store at this place thus has another name.
    stamp = dataset.attrs.get("stamp") or location.modified()
    token = token_of(location.path, stamp, {dim: int(n) for dim, n in dataset.sizes.items()})
    if "stamp" in dataset.attrs:
        dataset = dataset.drop_attrs(deep=False).assign_attrs(mksdask=dataset.attrs["mksdask"])
    coords = small_coords(dataset)
    lazy: xr.Dataset = dataset.drop_vars(coords).chunk(chunks, name_prefix="open_dataset-", token=token)
    return lazy.assign_coords(coords)
