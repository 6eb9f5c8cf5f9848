"""What X is: its geometry, its phases, and the shape of its samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from mksdask.arrays import SPATIAL_DIMS, ArrayLike, unwrap


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
