"""Ensembles and volumes on zarr: create, append, open.

A store is a plain zarr v3 group that `xarray.open_zarr` opens as it is. The unit of writing is the shard, which
one task writes whole; a shard holds smaller chunks, so that one sample can be read alone. What readers see
is the group's consolidated metadata, written last: a store, or an append, either is there or is not.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import dask.array as da
import numpy as np
import xarray as xr

from mksdask.arrays import SPATIAL_DIMS, Array, ArrayLike, axes_argument, is_lazy, unwrap
from mksdask.compute.graph import token_of
from mksdask.compute.plans import largest_divisor, samples_per_chunk
from mksdask.samples import Grid
from mksdask.storage.atomic import (
    MICROSTRUCTURES,
    Location,
    Url,
    check_ours,
    consolidate,
    remove_leftovers,
    staged,
)
from mksdask.storage.blocks import Blocks, Variable, Writing, write_blocks
from mksdask.storage.opening import open_array, open_dataset

READ_BYTES = 2**20
VOLUME_SHARD = {1: 2**22, 2: 2**11, 3: 2**8}
VOLUME_CHUNK = {1: 2**18, 2: 2**9, 3: 2**6}


def _create(
    url: Url, variables: Mapping[str, Variable], coords: xr.Dataset, mode: str, kind: str, *, resume: bool
) -> None:
    """Write a store beside its place, and move it there."""
    with staged(url, mode, MICROSTRUCTURES, resume=resume) as location:
        if location.is_local:
            Path(location.path).parent.mkdir(parents=True, exist_ok=True)
        blocks = Blocks(location, kind, variables, coords)
        blocks.open(MICROSTRUCTURES)
        # It will be moved as it is, into the place of the store.
        check_ours(location, MICROSTRUCTURES)
        blocks.write()
        remove_leftovers(location)
        # The stamp tells a store from one that stood in its place before.
        blocks.finish(keep_record=False, stamp=uuid.uuid4().hex)


def _kept_attrs(array: ArrayLike) -> dict[str, Any]:
    """Attributes of a DataArray that a store can hold: texts, numbers and lists of them."""
    if not isinstance(array, xr.DataArray):
        return {}
    return {
        str(key): value
        for key, value in array.attrs.items()
        if isinstance(value, str | int | float)
        or (isinstance(value, list) and all(isinstance(v, str | int | float) for v in value))
    }


def _in_order(array: ArrayLike) -> ArrayLike:
    """A DataArray with its dims in the order sample, x, y, z, others; anything else as it is."""
    if not isinstance(array, xr.DataArray) or not set(SPATIAL_DIMS) & set(array.dims):
        return array
    first = [dim for dim in ("sample", *SPATIAL_DIMS) if dim in array.dims]
    return array.transpose(*first, *(dim for dim in array.dims if dim not in first))


def _like(array: ArrayLike, stored: xr.DataArray | None) -> ArrayLike:
    """A DataArray with its dims in the order of those stored; anything else as it is."""
    if stored is None or not isinstance(array, xr.DataArray) or set(array.dims) != set(stored.dims):
        return array
    return array.transpose(*stored.dims)


def _steps(spacing: float | Sequence[float], n_spatial: int) -> tuple[float, ...]:
    steps = np.asarray(spacing, dtype=float)
    if steps.shape not in ((), (n_spatial,)) or not (np.isfinite(steps).all() and (steps > 0).all()):
        msg = f"spacing must be a positive number, or one for each of the {n_spatial} spatial axes; got {spacing!r}"
        raise ValueError(msg)
    return tuple(np.broadcast_to(steps, n_spatial).tolist())


def _coords(spatial: tuple[int, ...], steps: tuple[float, ...], units: str) -> xr.Dataset:
    coords = {
        dim: (dim, np.arange(n) * step, {"units": units, "spacing": step})
        for dim, n, step in zip(SPATIAL_DIMS, spatial, steps, strict=False)
    }
    return xr.Dataset(coords=coords)


def _microstructure_attrs(phases: Sequence[str] | None, periodic_axes: Any, spatial: tuple[int, ...]) -> dict[str, Any]:
    flags = axes_argument(periodic_axes, len(spatial))
    # By name, so that the attribute stays true when dims are reordered or indexed away.
    axes = [axis for axis, wraps in enumerate(flags) if wraps]
    attrs: dict[str, Any] = {
        "periodic_axes": [SPATIAL_DIMS[axis] for axis in axes],
        "periods": [spatial[axis] for axis in axes],
    }
    if phases is not None:
        attrs["phases"] = [str(phase) for phase in phases]
    return attrs


def _inherit(grid: Grid, spacing: Any, units: str, phases: Any, periodic_axes: Any) -> tuple[Any, str, Any, Any]:
    """Take what was left at its default from the grid of the samples."""
    if np.ndim(spacing) == 0 and spacing == 1.0 and units == "voxel":
        spacing, units = [abs(step) for step in grid.steps], grid.axes[0].units
    if phases is None:
        phases = grid.phases or None
    if np.size(periodic_axes) == 0:
        periodic_axes = grid.periodic_axes
    return spacing, units, phases, periodic_axes


def _ensemble_variable(data: Any, dims: tuple[str, ...], rows: int, attrs: Mapping[str, Any]) -> Variable:
    shape = tuple(int(n) for n in data.shape)
    sample_bytes = max(1, int(np.prod(shape[1:])) * data.dtype.itemsize)
    inner = largest_divisor(rows, READ_BYTES // sample_bytes)
    return Variable(data, dims, (rows, *shape[1:]), (inner, *shape[1:]), attrs)


def _has_angles(X: Any, data: Any, spacing: float | Sequence[float]) -> bool:
    """Whether the last axis holds Bunge angles instead of voxels."""
    if isinstance(X, xr.DataArray):
        return str(X.dims[-1]) == "angle"
    if np.ndim(spacing) == 1:
        return data.ndim == len(spacing) + 2 and data.shape[-1] == 3  # type: ignore[arg-type]
    return data.ndim >= 4 and data.shape[-1] == 3 and data.dtype.kind == "f"


def _beside(array: ArrayLike, name: str, n_samples: int) -> Any:
    data, _ = unwrap(array, name=name)
    if data.ndim < 1 or data.shape[0] != n_samples:
        msg = (
            f"{name} must have one entry for each of the {n_samples} samples of X along its first axis, got "
            f"shape {data.shape}"
        )
        raise ValueError(msg)
    return data


def _response_dims(y: ArrayLike, data: Any, spatial: tuple[int, ...]) -> tuple[str, ...]:
    if isinstance(y, xr.DataArray):
        return ("sample", *map(str, y.dims[1:]))
    rest = data.shape[1:]
    if rest[: len(spatial)] == spatial:
        return ("sample", *SPATIAL_DIMS[: len(spatial)], *(f"component_{i}" for i in range(len(rest) - len(spatial))))
    return ("sample", *(f"response_{i}" for i in range(len(rest))))


def create_ensemble(
    url: Url,
    X: ArrayLike,
    y: ArrayLike | None = None,
    *,
    phase: ArrayLike | None = None,
    confidence_index: ArrayLike | None = None,
    spacing: float | Sequence[float] = 1.0,
    units: str = "voxel",
    phases: Sequence[str] | None = None,
    periodic_axes: int | Sequence[int] = (),
    chunks: int | Literal["auto"] = "auto",
    mode: Literal["w-", "w"] = "w-",
    resume: bool = False,
) -> None:
    """Store an ensemble of microstructures, with responses if there are any.

    Parameters
    ----------
    url : str or path
        A path, or any URL that fsspec knows.
    X : array, shape (n_samples, *spatial), or (n_samples, *spatial, 3) of Bunge angles in radians
        NumPy, dask, zarr or xarray; lazy input is written chunk by chunk. The last axis holds angles if it is called
        ``angle``, or if `spacing` names the axes before it, or if X is a floating array of 4 or more axes whose last
        has length 3.
    y : array, shape (n_samples, ...), optional
        Response of each sample: properties, or fields.
    phase : array, shape (n_samples, *spatial), optional
        Phase number of each voxel, where X holds something else, such as orientations.
    confidence_index : array, shape (n_samples, *spatial), optional
        Confidence in each voxel, in [0, 1].
    spacing : float or sequence of float
        Voxel size along each spatial axis, in `units`.
    units : str
        Unit of length.
    phases : sequence of str, optional
        Names of the phases 0, 1, ….
    periodic_axes : sequence of int
        Axes along which the samples are periodic; the functions of the package then use it by default. Where this,
        `phases`, or `spacing` and `units` are left at their defaults, what a DataArray says of itself stands.
    chunks : int or "auto"
        Samples in a shard, the unit of writing and of lazy reading.
    mode : {"w-", "w"}
        Refuse to overwrite, or overwrite an ensemble or a volume: the old store stays until the new one is complete.
    resume : bool, default False
        Keep what has been written when the call is killed or fails, in ``{url}.partial``, and go on with what an
        earlier call with the same samples left there.

    Raises
    ------
    FileExistsError
        If the store exists and `mode` is "w-"; or if something else is at `url`, be it an empty folder or a store with
        files of others in it. Nothing of it is touched.
    ValueError
        If shapes do not agree or an option is out of range; or if `url` lies inside a store.

    Notes
    -----
    One task writes one shard of each variable; X and y are computed together, once. Memory is one shard a task.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> url = tempfile.mkdtemp() + "/ensemble.zarr"
    >>> create_ensemble(url, np.zeros((4, 8, 8), dtype="uint8"), np.arange(4.0), spacing=0.5, units="um")
    >>> dict(open_ensemble(url).sizes)
    {'sample': 4, 'x': 8, 'y': 8}
    """
    labels = unwrap(X)[1]
    if labels is not None and labels.dims[:1] == SPATIAL_DIMS[:1] and "sample" not in labels.dims:
        msg = f"X has no axis of samples, its dims are {labels.dims}; use create_volume, or X.expand_dims('sample')"
        raise ValueError(msg)
    X = _in_order(X)
    data, labels = unwrap(X)
    angles = _has_angles(X, data, spacing)
    spatial = tuple(int(n) for n in data.shape[1 : data.ndim - angles])
    if not 1 <= len(spatial) <= 3 or not data.shape[0]:
        msg = (
            "X must be (n_samples, *spatial) with at least one sample and 1 to 3 spatial axes, got shape "
            f"{tuple(data.shape)}"
        )
        raise ValueError(msg)
    n_samples, names = int(data.shape[0]), SPATIAL_DIMS[: len(spatial)]
    grid = Grid.of(labels, spatial)
    spacing, units, phases, periodic_axes = _inherit(grid, spacing, units, phases, periodic_axes)
    rows = _rows(chunks, data, n_samples, int(np.prod(spatial)))
    attrs = _kept_attrs(X) | _microstructure_attrs(phases, periodic_axes, spatial)
    dims = ("sample", *names, *(("angle",) if angles else ()))
    variables = {"microstructure": _ensemble_variable(data, dims, rows, attrs)}
    if y is not None:
        response = _beside(y, "y", n_samples)
        variables["response"] = _ensemble_variable(response, _response_dims(y, response, spatial), rows, {})
    for name, array in {"phase": phase, "confidence_index": confidence_index}.items():
        if array is None:
            continue
        beside = _beside(_in_order(array), name, n_samples)
        if beside.shape[1:] != spatial:
            msg = f"{name} must have shape {(n_samples, *spatial)}, got {beside.shape}"
            raise ValueError(msg)
        variables[name] = _ensemble_variable(beside, ("sample", *names), rows, _kept_attrs(array))
    coords = _coords(spatial, _steps(spacing, len(spatial)), units)
    if y is not None and isinstance(y, xr.DataArray):
        coords = coords.assign_coords(
            {
                str(dim): (dim, np.asarray(y.coords[dim]))
                for dim in y.dims[1:]
                if dim in y.coords and str(dim) not in coords and y.coords[dim].dtype.kind in "iuf"
            }
        )
    _create(url, variables, coords, mode, "ensemble", resume=resume)


def _rows(chunks: int | str, data: Any, n_samples: int, n_voxels: int) -> int:
    if chunks != "auto":
        if not isinstance(chunks, int | np.integer) or chunks < 1:
            msg = f"chunks must be 'auto' or a positive number of samples, got {chunks!r}"
            raise ValueError(msg)
        return min(int(chunks), n_samples)
    if is_lazy(data):
        sizes = data.chunks[0]
        if len(set(sizes[:-1])) <= 1 and sizes[-1] <= sizes[0]:
            return int(sizes[0])
    return samples_per_chunk(n_samples, n_voxels)


def append_ensemble(
    url: Url,
    X: ArrayLike,
    y: ArrayLike | None = None,
    *,
    phase: ArrayLike | None = None,
    confidence_index: ArrayLike | None = None,
) -> None:
    """Add samples to an ensemble.

    Parameters
    ----------
    url : str or path
        A store that `create_ensemble` made.
    X : array, shape (n_new, *spatial)
        As stored already.
    y, phase, confidence_index : array, optional
        Needed if and only if the store has them.

    Raises
    ------
    ValueError
        If the new samples do not fit the stored ones.

    Notes
    -----
    A partial last shard is read and written anew, whole and at once, with its first new samples. Readers see the new
    samples when all are written; an append that is killed leaves the ensemble as it was.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> url = tempfile.mkdtemp() + "/ensemble.zarr"
    >>> create_ensemble(url, np.zeros((4, 8, 8), dtype="uint8"), chunks=3)
    >>> append_ensemble(url, np.ones((3, 8, 8), dtype="uint8"))
    >>> open_ensemble(url).microstructure.mean(("x", "y")).values.tolist()
    [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    """
    stored = open_ensemble(url)
    given = {"microstructure": X, "response": y, "phase": phase, "confidence_index": confidence_index}
    new = {
        name: unwrap(_like(array, stored.get(name)), name=name)[0] for name, array in given.items() if array is not None
    }
    if set(new) != set(stored.data_vars):
        msg = (
            f"the ensemble holds {sorted(map(str, stored.data_vars))}, got {sorted(new)}; give all of them and "
            "no others"
        )
        raise ValueError(msg)
    counts = {name: data.shape[0] for name, data in new.items()}
    if len(set(counts.values())) != 1:
        msg = f"all variables need the same number of new samples, got {counts}"
        raise ValueError(msg)
    for name, data in new.items():
        have = stored[name]
        integers = data.dtype.kind in "iu" and have.dtype.kind in "iu"
        fits = integers or np.can_cast(data.dtype, have.dtype, casting="same_kind")
        if data.shape[1:] != have.shape[1:] or not fits:
            msg = (
                f"new {name} of shape {data.shape} and dtype {data.dtype} does not fit the stored samples of "
                f"shape {have.shape[1:]} and dtype {have.dtype}"
            )
            raise ValueError(msg)
    location = Location.of(url)
    n_old = stored.sizes["sample"]
    n_new = n_old + counts["microstructure"]
    parts = []
    for name, data in new.items():
        target = open_array(location, name, mode="r+")
        # What an append that was killed left behind is cut off before it can be mistaken for data.
        target.resize((n_old, *target.shape[1:]))
        shard = target.shards or target.chunks
        start = n_old // shard[0] * shard[0]
        tail = np.asarray(stored[name][start:n_old].data)
        joined = da.concatenate([da.from_array(tail), da.asarray(data)]).rechunk(shard)
        if not is_lazy(data):
            joined = da.from_array(np.concatenate([tail, data]), chunks=shard)
        target.resize((n_new, *target.shape[1:]))
        part = Writing(_checked_cast(joined, target.dtype, name), target, start)
        parts.append((part, part.blocks()))
    write_blocks(parts, in_memory=not any(is_lazy(data) for data in new.values()))
    consolidate(location)


def _checked_cast(array: da.Array, dtype: np.dtype[Any], name: str) -> da.Array:
    """Cast to the stored dtype; integers must survive it."""
    return array if array.dtype == dtype else array.map_blocks(_cast_block, to=dtype, of=name, dtype=dtype)


def _cast_block(block: Array, *, to: np.dtype[Any], of: str) -> Array:
    cast = block.astype(to)
    if to.kind in "iu" and not np.array_equal(cast, block):
        msg = f"{of} holds values from {block.min()} to {block.max()}, which the stored dtype {to} cannot hold"
        raise ValueError(msg)
    return cast


def open_store(url: Url) -> xr.Dataset:
    """Open an ensemble or a volume lazily, whichever is there; see `open_ensemble` and `open_volume`.

    Parameters
    ----------
    url : str or path
        A path, or any URL that fsspec knows.
    """
    return _open(url, None)


def _open(url: Url, kind: str | None) -> xr.Dataset:
    location = Location.of(url)
    maker = (f"create_{kind}" if kind else "create_ensemble or create_volume") + ", or by mksdask import"
    try:
        dataset = open_dataset(location, chunks=None)
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
        other = "volume" if kind == "ensemble" else "ensemble"
        how = ", or cut it into windows by sample_windows, or mksdask import --window" if other == "volume" else ""
        msg = f"{os.fspath(url)} is not one {kind}; open it with open_{other}{how}"
        raise ValueError(msg)
    encoding = dataset["microstructure"].encoding
    blocks = encoding.get("shards") or encoding["chunks"]
    sizes = dict(zip(map(str, dataset["microstructure"].dims), blocks, strict=True))
    chunks = {dim: sizes.get(str(dim), -1) for dim in dataset.dims}
    if "stamp" not in dataset.attrs:
        return open_dataset(location, chunks=chunks)
    # Named by the stamp too: what was computed of another store must not pass for what this one gives.
    token = token_of(location.path, dataset.attrs["stamp"], {dim: int(n) for dim, n in dataset.sizes.items()})
    lazy: xr.Dataset = dataset.drop_attrs(deep=False).assign_attrs(mksdask=dataset.attrs["mksdask"])
    return lazy.chunk(chunks, name_prefix="open_dataset-", token=token)


def open_ensemble(url: Url) -> xr.Dataset:
    """Open an ensemble lazily.

    Parameters
    ----------
    url : str or path
        A path, or any URL that fsspec knows.

    Returns
    -------
    xarray.Dataset
        Variables ``microstructure`` and, where stored, ``response``, ``phase`` and ``confidence_index``, as dask arrays
        of one shard a chunk. Dims ``sample, x, y, z`` (and ``angle``) with coordinates in physical units.

    Raises
    ------
    FileNotFoundError
        If there is no store.
    ValueError
        If the store is not an ensemble; or if an array of it has a codec or data type that the package does not write,
        such as pickle. Nothing is decoded then.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> url = tempfile.mkdtemp() + "/ensemble.zarr"
    >>> create_ensemble(url, np.zeros((4, 8, 8), dtype="uint8"), chunks=2)
    >>> open_ensemble(url).microstructure.chunks
    ((2, 2), (8,), (8,))
    """
    return _open(url, "ensemble")


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
        Local state of each voxel, 1 to 3 axes; lazy input is written block by block. When the last axis holds angles is
        said in `create_ensemble`, whose X has one axis more.
    phase : array, shape (*spatial,), optional
        Phase number of each voxel, where `volume` holds something else, such as orientations.
    confidence_index : array, shape (*spatial,), optional
        Confidence in each voxel, in [0, 1].
    spacing, units, phases, periodic_axes, mode, resume
        As in `create_ensemble`.
    chunks : int, sequence of int or "auto"
        Voxels of a shard along each axis, the unit of writing and of lazy reading; default 256 in 3D.

    Raises
    ------
    FileExistsError
        If the store exists and `mode` is "w-"; or if something else is at `url`.
    ValueError
        If shapes do not agree or an option is out of range.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> url = tempfile.mkdtemp() + "/volume.zarr"
    >>> create_volume(url, np.zeros((40, 40, 40), dtype="uint8"), chunks=16)
    >>> open_volume(url).microstructure.chunks[0]
    (16, 16, 8)
    """
    volume = _in_order(volume)
    data, labels = unwrap(volume, name="volume")
    angles = _has_angles(volume if labels is not None else data[None], data[None], spacing)
    spatial = tuple(int(n) for n in data.shape[: data.ndim - angles])
    if not 1 <= len(spatial) <= 3 or 0 in spatial:
        msg = f"volume must have 1 to 3 axes, none of them empty, got shape {spatial}"
        raise ValueError(msg)
    grid = Grid.of(labels, spatial, first=0)
    spacing, units, phases, periodic_axes = _inherit(grid, spacing, units, phases, periodic_axes)
    wanted = VOLUME_SHARD[len(spatial)] if isinstance(chunks, str) and chunks == "auto" else chunks
    sizes = np.broadcast_to(np.asarray(wanted), (len(spatial),))
    if sizes.dtype.kind not in "iu" or sizes.min() < 1:
        msg = f"chunks must be 'auto' or positive numbers of voxels, got {chunks!r}"
        raise ValueError(msg)
    # A shard holds whole chunks, and may reach beyond the end of the array.
    inner = tuple(min(int(size), n, VOLUME_CHUNK[len(spatial)]) for size, n in zip(sizes, spatial, strict=True))
    shards = tuple(-(-min(int(size), n) // chunk) * chunk for size, n, chunk in zip(sizes, spatial, inner, strict=True))
    dims = SPATIAL_DIMS[: len(spatial)]
    attrs = _kept_attrs(volume) | _microstructure_attrs(phases, periodic_axes, spatial)
    tail = (3,) * angles
    variables = {
        "microstructure": Variable(data, (*dims, *("angle",) * angles), shards + tail, inner + tail, attrs),
    }
    for name, array in {"phase": phase, "confidence_index": confidence_index}.items():
        if array is None:
            continue
        beside, _ = unwrap(_in_order(array), name=name)
        if beside.shape != spatial:
            msg = f"{name} must have shape {spatial}, got {beside.shape}"
            raise ValueError(msg)
        variables[name] = Variable(beside, dims, shards, inner, _kept_attrs(array))
    _create(url, variables, _coords(spatial, _steps(spacing, len(spatial)), units), mode, "volume", resume=resume)


def open_volume(url: Url) -> xr.Dataset:
    """Open a volume lazily.

    Parameters
    ----------
    url : str or path
        A path, or any URL that fsspec knows.

    Returns
    -------
    xarray.Dataset
        Variable ``microstructure`` and, where stored, ``phase`` and ``confidence_index``, as dask arrays of one shard a
        chunk.

    Raises
    ------
    FileNotFoundError
        If there is no store.
    ValueError
        If the store is not one volume; or if an array of it has a codec or data type that the package does not write,
        such as pickle. Nothing is decoded then.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> url = tempfile.mkdtemp() + "/volume.zarr"
    >>> create_volume(url, np.zeros((4, 4), dtype="uint8"), spacing=2.0, units="nm")
    >>> open_volume(url).x.values.tolist()
    [0.0, 2.0, 4.0, 6.0]
    """
    return _open(url, "volume")
