"""What stores of ensembles and of volumes have in common: labels of axes and phases, writing, and opening.

A store is a plain zarr v3 group, which `xarray.open_zarr` opens too. The unit of writing is the shard: one task writes
a whole shard. A shard holds smaller chunks, so that one sample can be read alone. Readers use the consolidated metadata
of the group, which is written last. A store or an append is therefore either complete or invisible.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from mksdask.arrays import SPATIAL_DIMS, ArrayLike, axes_argument
from mksdask.compute.graph import token_of
from mksdask.samples import Grid
from mksdask.storage.atomic import MICROSTRUCTURES, Location, Url, check_ours, remove_leftovers
from mksdask.storage.blocks import Blocks, Variable
from mksdask.storage.opening import open_dataset, small_coords
from mksdask.storage.staging import staged


def create_store(
    url: Url, variables: Mapping[str, Variable], coords: xr.Dataset, mode: str, kind: str, *, resume: bool
) -> None:
    """Write a store beside its place, and move it there when it is complete.

    With `resume`, a complete store of the same arrays is taken as done.
    """
    if resume and Blocks(Location.of(url), kind, variables, coords).is_done():
        return
    with staged(url, mode, MICROSTRUCTURES, resume=resume) as location:
        if location.is_local:
            Path(location.path).parent.mkdir(parents=True, exist_ok=True)
        blocks = Blocks(location, kind, variables, coords)
        blocks.open(MICROSTRUCTURES)
        # All that is in this folder will be moved into the place of the store.
        check_ours(location, MICROSTRUCTURES)
        blocks.write()
        remove_leftovers(location)
        blocks.finish(keep_record=False)


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
        If a spacing is not positive, or an axis does not exist.
    """
    if np.ndim(spacing) == 0 and spacing == 1.0 and units == "voxel":
        spacing, units = [abs(step) for step in grid.steps], grid.axes[0].units
    if phases is None:
        phases = grid.phases or None
    flags = axes_argument(grid.periodic_axes if np.size(periodic_axes) == 0 else periodic_axes, len(spatial))
    axes = [axis for axis, wraps in enumerate(flags) if wraps]
    # Axes are stored by name, so that the attribute stays true when dims are transposed or indexed away.
    attrs = kept_attrs(X) | {
        "periodic_axes": [SPATIAL_DIMS[axis] for axis in axes],
        "periods": [spatial[axis] for axis in axes],
    }
    if phases is not None:
        attrs["phases"] = [str(phase) for phase in phases]
    coords = {
        dim: (dim, np.arange(n) * step, {"units": units, "spacing": step})
        for dim, n, step in zip(SPATIAL_DIMS, spatial, _steps(spacing, len(spatial)), strict=False)
    }
    return attrs, xr.Dataset(coords=coords)


def _steps(spacing: float | Sequence[float], n_spatial: int) -> tuple[float, ...]:
    """Voxel size along each axis."""
    steps = np.asarray(spacing, dtype=float)
    if steps.shape not in ((), (n_spatial,)) or not (np.isfinite(steps).all() and (steps > 0).all()):
        msg = f"spacing must be a positive number, or one for each of the {n_spatial} spatial axes; got {spacing!r}"
        raise ValueError(msg)
    return tuple(np.broadcast_to(steps, n_spatial).tolist())


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


def has_angles(X: ArrayLike, data: Any, spacing: float | Sequence[float]) -> bool:
    """Whether the last axis holds Bunge angles and not voxels."""
    if isinstance(X, xr.DataArray):
        return str(X.dims[-1]) == "angle"
    if np.ndim(spacing) == 1:
        return data.ndim == len(spacing) + 2 and data.shape[-1] == 3  # type: ignore[arg-type]
    return data.ndim >= 4 and data.shape[-1] == 3 and data.dtype.kind == "f"


def open_store(url: Url, *, allow_missing: bool = False) -> xr.Dataset:
    """Open a store lazily that holds an ensemble or a volume.

    Parameters
    ----------
    url : str or path
        A path, or any URL that fsspec knows.
    allow_missing : bool, default False
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
    return open_microstructures(url, None, allow_missing=allow_missing)


def open_microstructures(
    url: Url, kind: Literal["ensemble", "volume"] | None, *, allow_missing: bool = False
) -> xr.Dataset:
    """Open a store lazily, in chunks of one shard. With `kind`, refuse a store of the other kind."""
    location = Location.of(url)
    maker = (f"create_{kind}" if kind else "create_ensemble or create_volume") + ", or by mksdask import"
    try:
        dataset = open_dataset(location, chunks=None, allow_missing=allow_missing)
    except FileNotFoundError as error:
        msg = f"{os.fspath(url)} is not a zarr v3 group; make one with {maker}"
        raise FileNotFoundError(msg) from error
    except KeyError as error:
        msg = f"{os.fspath(url)} holds arrays whose dimensions have no names; make it with {maker}"
        raise ValueError(msg) from error
    if "microstructure" not in dataset:
        msg = (
            f"{os.fspath(url)} holds {sorted(map(str, dataset.data_vars))}, but no variable 'microstructure'; "
            f"make it with {maker}"
        )
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
