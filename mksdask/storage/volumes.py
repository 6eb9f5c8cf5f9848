"""Stores of volumes: create, open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import xarray as xr

from mksdask.arrays import SPATIAL_DIMS, ArrayLike, shown, sizes_argument, unwrap
from mksdask.samples import Grid
from mksdask.schema.arguments import checked
from mksdask.storage.atomic import Url
from mksdask.storage.blocks import Variable
from mksdask.storage.microstructures import (
    create_store,
    description,
    has_angles,
    in_order,
    kept_attrs,
    open_microstructures,
    refuse_colours,
    within_limits,
)

VOLUME_SHARD = {1: 2**22, 2: 2**11, 3: 2**8}
VOLUME_CHUNK = {1: 2**18, 2: 2**9, 3: 2**6}


@checked
def create_volume(
    url: Url,
    volume: ArrayLike,
    *,
    phase: ArrayLike | None = None,
    confidence_index: ArrayLike | None = None,
    spacing: float | Sequence[float] = 1.0,
    units: str = "voxel",
    phases: Sequence[str] | None = None,
    periodic_axes: int | Sequence[int] = (),
    chunks: int | Sequence[int] | Literal["auto"] = "auto",
    mode: Literal["w-", "w"] = "w-",
    resume: bool = False,
) -> None:
    """Store one volume, cut into blocks in space.

    Parameters
    ----------
    url : str or path
        A path, or any URL that fsspec knows.
    volume : array, shape (*spatial,), or (*spatial, 3) of Bunge angles in radians
        Local state of each voxel, with 1 to 3 axes. Lazy input is written block by block. `create_ensemble` says when
        the last axis holds angles; its X has one more axis.
    phase : array, shape (*spatial,), optional
        Phase number of each voxel. Use it if `volume` holds something else, such as orientations.
    confidence_index : array, shape (*spatial,), optional
        Confidence in the measurement of each voxel, in [0, 1].
    spacing, units, phases, periodic_axes, mode, resume
        As in `create_ensemble`.
    chunks : int, sequence of int or "auto"
        Number of voxels of a shard along each axis. A shard is the unit of writing and of lazy reading. Default: 256 in
        3D.

    Raises
    ------
    FileExistsError
        If the store exists and `mode` is "w-", or if something else is at `url`, as in `create_ensemble`.
    ValueError
        If shapes do not agree, if an option is out of range, or if `url` lies inside a store.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> url = tempfile.mkdtemp() + "/volume.zarr"
    >>> create_volume(url, np.zeros((40, 40, 40), dtype="uint8"), chunks=16)
    >>> open_volume(url).microstructure.chunks[0]
    (16, 16, 8)
    """
    volume = in_order(volume)
    data, labels = unwrap(volume, name="volume")
    angles = has_angles(volume, data[None], spacing)
    spatial = tuple(int(n) for n in data.shape[: data.ndim - angles])
    if not 1 <= len(spatial) <= 3 or 0 in spatial:
        msg = f"volume must have 1 to 3 axes, none of them empty, got shape {spatial}"
        raise ValueError(msg)
    refuse_colours(data, labels, spacing, name="volume")
    attrs, coords = description(
        volume,
        Grid.of(labels, spatial, first=0),
        spatial,
        spacing=spacing,
        units=units,
        phases=phases,
        periodic_axes=periodic_axes,
    )
    data, phase, confidence_index = within_limits(data, phase, confidence_index, attrs, has_angles=bool(angles))
    wanted = VOLUME_SHARD[len(spatial)] if isinstance(chunks, str) and chunks == "auto" else chunks
    sizes = sizes_argument(wanted, name="chunks")
    sizes = sizes * len(spatial) if len(sizes) == 1 else sizes
    if len(sizes) != len(spatial):
        msg = f"chunks must be 'auto', a number of voxels, or one for each of {len(spatial)} axes, got {shown(chunks)}"
        raise ValueError(msg)
    # A shard holds whole chunks, and may reach beyond the end of the array.
    inner = tuple(min(int(size), n, VOLUME_CHUNK[len(spatial)]) for size, n in zip(sizes, spatial, strict=True))
    shards = tuple(-(-min(int(size), n) // chunk) * chunk for size, n, chunk in zip(sizes, spatial, inner, strict=True))
    dims = SPATIAL_DIMS[: len(spatial)]
    tail = (3,) * angles
    variables = {
        "microstructure": Variable(data, (*dims, *("angle",) * angles), shards + tail, inner + tail, attrs),
    }
    for name, array in {"phase": phase, "confidence_index": confidence_index}.items():
        if array is None:
            continue
        beside, _ = unwrap(in_order(array), name=name)
        if beside.shape != spatial:
            msg = f"{name} must have shape {spatial}, got {beside.shape}"
            raise ValueError(msg)
        variables[name] = Variable(beside, dims, shards, inner, kept_attrs(array))
    create_store(url, variables, coords, mode, "volume", resume=resume)


@checked
def open_volume(url: Url, *, allow_missing: bool = False, follow_links: bool = False) -> xr.Dataset:
    """Open a volume lazily.

    Parameters
    ----------
    url, allow_missing, follow_links
        As in `open_ensemble`.

    Returns
    -------
    xarray.Dataset
        The variable ``microstructure``, and those of ``phase`` and ``confidence_index`` that are stored. They are dask
        arrays, and each chunk is one shard. The dims are ``x, y, z``, and ``angle`` for orientations.

    Raises
    ------
    FileNotFoundError, ValueError
        As in `open_ensemble`, and if the store is not a volume.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> url = tempfile.mkdtemp() + "/volume.zarr"
    >>> create_volume(url, np.zeros((4, 4), dtype="uint8"), spacing=2.0, units="nm")
    >>> open_volume(url).x.values.tolist()
    [0.0, 2.0, 4.0, 6.0]
    """
    return open_microstructures(url, "volume", allow_missing=allow_missing, follow_links=follow_links)
