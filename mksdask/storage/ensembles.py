"""Stores of ensembles: create, append, open."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr

from mksdask.arrays import (
    SPATIAL_DIMS,
    Array,
    ArrayLike,
    as_lazy,
    concatenate_samples,
    dims_of,
    is_lazy,
    numbers_argument,
    refuse_unnumeric,
    shown,
    unwrap,
)
from mksdask.compute.plans import largest_divisor, samples_per_chunk
from mksdask.labels import index_in_order, matched, quantity, sample_index
from mksdask.samples import Grid, refuse_ambiguous_lines
from mksdask.schema.arguments import checked
from mksdask.storage.atomic import Location, Url, attributes_of, is_marked, is_sealed, metadata_of, seal
from mksdask.storage.blocks import Variable
from mksdask.storage.coordinates import append_coordinates, check_appended, encoded, sample_coordinates, storable
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
from mksdask.storage.opening import open_array
from mksdask.storage.sources import provenance, sources_of
from mksdask.storage.writing import Writing, write_blocks

READ_BYTES = 2**20
# The variables whose values have limits.
LIMITED = ("microstructure", "phase", "confidence_index")
# The variables of an ensemble.
NAMES = ("microstructure", "response", "phase", "confidence_index")


@checked
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
    """Store an ensemble of microstructures, and their responses if there are any.

    Parameters
    ----------
    url : str or path
        A path, or any URL that fsspec knows.
    X : array, shape (n_samples, *spatial), or (n_samples, *spatial, 3) of Bunge angles in radians
        An array of NumPy, dask, zarr or xarray. Lazy input is written chunk by chunk. The last axis holds angles if it
        is called ``angle``, if `spacing` has one entry for each axis between the first and the last one, or if X is a
        floating-point array of 4 or more axes and its last axis has length 3.
    y : array, shape (n_samples, ...), optional
        Response of each sample: its properties, or fields on its voxels. The store keeps what a DataArray says of it:
        names of components, its unit in the attribute ``units``, which may be any text, and its name.
    phase : array, shape (n_samples, *spatial), optional
        Phase number of each voxel. Use it if X holds something else, such as orientations.
    confidence_index : array, shape (n_samples, *spatial), optional
        Confidence in the measurement of each voxel, in [0, 1]. Samples that have labels in X and in another array are
        paired by them. All coordinates along the samples are stored: numbers, texts and datetime64.
    spacing : float or sequence of float
        Voxel size along each spatial axis, in `units`. A sequence with one entry says that samples have one axis.
    units : str
        Unit of length: m, cm, mm, um (or µm), nm, angstrom, pm or inch, in a known spelling; "voxel" if lengths count
        voxels, or "unit" if their unit is another one.
    phases : sequence of str, optional
        Names of the phases 0, 1, ….
    periodic_axes : sequence of int
        Axes along which the samples are periodic. The functions of the package use these axes by default. If X is a
        DataArray, its own description replaces each of the following that is left at its default: `periodic_axes`,
        `phases`, and `spacing` together with `units`.
    chunks : int or "auto"
        Number of samples in a shard. A shard is the unit of writing and of lazy reading.
    mode : {"w-", "w"}
        "w-" refuses to overwrite. "w" overwrites an ensemble or a volume, which stays until the new store is complete.
    resume : bool, default False
        If the call fails or is killed, keep what has been written in ``{url}.partial``. Continue with what an earlier
        call with the same samples and options left there. Only one such call may run at a time, and a second one is
        refused. A complete store of the same samples and options is taken as done.

    Raises
    ------
    FileExistsError
        If the store exists and `mode` is "w-"; or if something else is at `url`, such as an empty folder, or a store
        that holds files which this package did not write. Nothing there is changed.
    ValueError
        If shapes or the labels of samples do not agree, if a coordinate has a dtype that a store does not hold, if an
        option is out of range, or if `url` lies inside a store. Also if X may be one image without an axis of samples,
        or may have colours along its last axis; the dims of a DataArray say what it is.

    Notes
    -----
    One task writes one shard of each variable. X and y are computed together, and only once. A task needs the memory
    of one shard of each.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> url = tempfile.mkdtemp() + "/ensemble.zarr"
    >>> create_ensemble(url, np.zeros((4, 8, 8), dtype="uint8"), np.arange(4.0), spacing=0.5, units="um")
    >>> dict(open_ensemble(url).sizes)
    {'sample': 4, 'x': 8, 'y': 8}
    """
    dims = dims_of(unwrap(X)[1])
    if dims[:1] == SPATIAL_DIMS[:1] and "sample" not in dims:
        msg = f"X must have an axis of samples, got the dims {dims}; use create_volume, or X.expand_dims('sample')"
        raise ValueError(msg)
    X, y, phase, confidence_index = _aligned(X, y, phase, confidence_index)
    data, labels = unwrap(X)
    angles = has_angles(X, data, spacing)
    spatial = tuple(int(n) for n in data.shape[1 : data.ndim - angles])
    if not 1 <= len(spatial) <= 3 or not data.shape[0]:
        msg = (
            "X must be (n_samples, *spatial) with at least one sample and 1 to 3 spatial axes, got shape "
            f"{tuple(data.shape)}; if X is one sample, add an axis of samples: X[None]"
        )
        raise ValueError(msg)
    n_samples, names = int(data.shape[0]), SPATIAL_DIMS[: len(spatial)]
    if np.ndim(numbers_argument(spacing, "spacing")) == 0:
        refuse_ambiguous_lines(X, spatial, labels, argument="spacing")
    refuse_colours(data, labels, spacing, name="X")
    rows = _rows(chunks, data, n_samples, int(np.prod(spatial)))
    attrs, coords = description(
        X,
        Grid.of(labels, spatial),
        spatial,
        spacing=spacing,
        units=units,
        phases=phases,
        periodic_axes=periodic_axes,
    )
    dims = ("sample", *names, *(("angle",) if angles else ()))
    data, phase, confidence_index = within_limits(data, phase, confidence_index, attrs, has_angles=bool(angles))
    variables = {"microstructure": _ensemble_variable(data, dims, rows, attrs)}
    if y is not None:
        response = _beside(y, "y", n_samples)
        attributes = kept_attrs(y) | quantity(y)
        variables["response"] = _ensemble_variable(response, _response_dims(y, response, spatial), rows, attributes)
    for name, array in {"phase": phase, "confidence_index": confidence_index}.items():
        if array is None:
            continue
        beside = _beside(array, name, n_samples)
        if beside.shape[1:] != spatial:
            msg = f"{name} must have shape {(n_samples, *spatial)}, got {beside.shape}"
            raise ValueError(msg)
        variables[name] = _ensemble_variable(beside, ("sample", *names), rows, kept_attrs(array))
    if isinstance(y, xr.DataArray):
        of_components = [dim for dim in y.dims[1:] if dim in y.coords and str(dim) not in coords]
        coords = coords.assign_coords(storable(xr.Dataset(coords={dim: y.coords[dim] for dim in of_components})).coords)
    own = sample_coordinates((X, y, phase, confidence_index))
    if taken := sorted(set(map(str, own.variables)) & {*coords.variables, *NAMES, *dims[1:]}):
        msg = f"the coordinates {taken} of samples have names that the store uses for something else; rename them"
        raise ValueError(msg)
    create_store(url, variables, coords.assign_coords(own.coords), mode, "ensemble", resume=resume)


def _aligned(*arrays: ArrayLike | None) -> list[Any]:
    """Transpose the variables of an ensemble to the order of a store, and pair their samples by label."""
    turned = {name: in_order(_named(array)) for name, array in zip(NAMES, arrays, strict=True)}
    if sample_index(turned["microstructure"]) is None:
        index_in_order(turned["response"])
    index, of = next(
        ((index, name) for name, array in turned.items() if (index := sample_index(array)) is not None), (None, "X")
    )
    words = {"microstructure": "X", "response": "y"}
    return [matched(array, index, name=words.get(name, name), of=words.get(of, of)) for name, array in turned.items()]


def _named(array: ArrayLike | None) -> Any:
    """Give the axis of samples of a DataArray its name in a store."""
    if not isinstance(array, xr.DataArray) or not array.ndim:
        return array
    is_named = "sample" in array.dims or array.dims[0] in SPATIAL_DIMS
    return array if is_named else array.rename({array.dims[0]: "sample"})


def _rows(chunks: int | str, data: Any, n_samples: int, n_voxels: int) -> int:
    """Choose the number of samples in a shard. With "auto", lazy data keep their chunks if these are regular."""
    if not (isinstance(chunks, str) and chunks == "auto"):
        if isinstance(chunks, bool) or not isinstance(chunks, int | np.integer) or chunks < 1:
            msg = f"chunks must be 'auto' or a positive number of samples, got {chunks!r}"
            raise ValueError(msg)
        return min(int(chunks), n_samples)
    if is_lazy(data):
        sizes = data.chunks[0]
        if len(set(sizes[:-1])) <= 1 and sizes[-1] <= sizes[0]:
            return int(sizes[0])
    return samples_per_chunk(n_samples, n_voxels)


def _ensemble_variable(data: Any, dims: tuple[str, ...], rows: int, attrs: Mapping[str, Any]) -> Variable:
    """Cut a variable into shards of some rows, and these into chunks of about `READ_BYTES`."""
    shape = tuple(int(n) for n in data.shape)
    sample_bytes = max(1, int(np.prod(shape[1:])) * data.dtype.itemsize)
    inner = largest_divisor(rows, READ_BYTES // sample_bytes)
    return Variable(data, dims, (rows, *shape[1:]), (inner, *shape[1:]), attrs)


def _beside(array: ArrayLike, name: str, n_samples: int) -> Any:
    """Check that an array has one entry for each sample."""
    data, _ = unwrap(array, name=name)
    refuse_unnumeric(data, name=name)
    if data.dtype.itemsize > (16 if data.dtype.kind == "c" else 8) or data.dtype.kind == "O":
        msg = f"{name} must hold numbers of at most 64 bits, got {shown(data)}; convert it, such as by astype(float)"
        raise TypeError(msg)
    if data.ndim < 1 or data.shape[0] != n_samples:
        msg = (
            f"{name} must have one entry for each of the {n_samples} samples of X along its first axis, got "
            f"shape {data.shape}"
        )
        raise ValueError(msg)
    return data


def _response_dims(y: ArrayLike, data: Any, spatial: tuple[int, ...]) -> tuple[str, ...]:
    """Name the axes of a response: those of the samples if it is a field, and numbered ones otherwise."""
    if isinstance(y, xr.DataArray):
        return ("sample", *map(str, y.dims[1:]))
    rest = data.shape[1:]
    if rest[: len(spatial)] == spatial:
        return ("sample", *SPATIAL_DIMS[: len(spatial)], *(f"component_{i}" for i in range(len(rest) - len(spatial))))
    return ("sample", *(f"response_{i}" for i in range(len(rest))))


def append_ensemble(
    url: Url,
    X: ArrayLike,
    y: ArrayLike | None = None,
    *,
    phase: ArrayLike | None = None,
    confidence_index: ArrayLike | None = None,
) -> None:
    """Add samples to the end of an ensemble.

    Parameters
    ----------
    url : str or path
        A store that `create_ensemble` made.
    X : array, shape (n_new, *spatial)
        New samples, with the same axes and the same kind of numbers as the stored ones.
    y, phase, confidence_index : array, optional
        As in `create_ensemble`. Give exactly those that the store has. The coordinates along the samples must be those
        that the store has, too.

    Raises
    ------
    BlockingIOError
        If another call changes the ensemble. Only one call at a time may append to it, and a second one is refused.
    ValueError
        If the new samples do not fit the stored ones, or if another program wrote the store.

    Notes
    -----
    If the last shard is not full, it is read, and written again as a whole, together with the first new samples.
    Readers see the new samples when all of them are written. An append that is killed leaves the ensemble as it was.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> url = tempfile.mkdtemp() + "/ensemble.zarr"
    >>> create_ensemble(url, np.zeros((4, 8, 8), dtype="uint8"), chunks=3)
    >>> append_ensemble(url, np.ones((3, 8, 8), dtype="uint8"))
    >>> open_ensemble(url).microstructure.mean(("x", "y")).values.tolist()
    [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    """
    # A place without an ensemble gets no lock.
    open_ensemble(url)
    location = Location.of(url)
    if not is_marked(location, ("ensemble",)) or not is_sealed(metadata_of(location) or {}):
        msg = f"{os.fspath(url)} was not written by create_ensemble, so it stays as it is; copy it with create_ensemble"
        raise ValueError(msg)
    given = dict(zip(NAMES, _aligned(X, y, phase, confidence_index), strict=True))
    with location.locked() as check_lock:
        _append(location, given, check_lock)


def _append(location: Location, given: Mapping[str, ArrayLike | None], check_lock: Callable[[], None]) -> None:
    """Add samples to the end of an ensemble that this call has locked."""
    stored = open_ensemble(location.store)
    new = {
        name: unwrap(_like(array, stored.get(name)), name=name)[0] for name, array in given.items() if array is not None
    }
    if "microstructure" in new and "microstructure" in stored:
        attrs, angles = stored["microstructure"].attrs, "angle" in stored["microstructure"].dims
        _check_grid(_like(given["microstructure"], stored["microstructure"]), stored["microstructure"])
        data, phase, confidence = map(new.get, LIMITED)
        checked = within_limits(data, phase, confidence, attrs, has_angles=angles)
        new |= {name: array for name, array in zip(LIMITED, checked, strict=True) if array is not None}
    if set(new) != set(stored.data_vars):
        msg = (
            f"the ensemble holds {sorted(map(str, stored.data_vars))}, got {sorted(new)}; give exactly the variables "
            "that it holds"
        )
        raise ValueError(msg)
    if lacking := [name for name, data in new.items() if not data.ndim]:
        msg = f"{', '.join(lacking)} must have an axis of samples, got single numbers"
        raise ValueError(msg)
    counts = {name: data.shape[0] for name, data in new.items()}
    if len(set(counts.values())) != 1:
        msg = f"all variables must have the same number of new samples, got {counts}"
        raise ValueError(msg)
    for name, data in new.items():
        have = stored[name]
        _check_components(given[name], have, name)
        integers = data.dtype.kind in "iu" and have.dtype.kind in "iu"
        fits = integers or np.can_cast(data.dtype, have.dtype, casting="same_kind")
        if data.shape[1:] != have.shape[1:] or not fits:
            msg = (
                f"new {name} has shape {data.shape} and dtype {data.dtype}, which does not fit the stored samples of "
                f"shape {have.shape[1:]} and dtype {have.dtype}; give samples of this shape and kind"
            )
            raise ValueError(msg)
    own = sample_coordinates(given.values())
    check_appended(stored, own)
    coords = encoded(location, own)
    n_old = stored.sizes["sample"]
    n_new = n_old + counts["microstructure"]
    parts = []
    for name, data in new.items():
        target = open_array(location, name, mode="r+")
        # An append that was killed may have left samples behind. They are cut off, so that they do not pass for data.
        target.resize((n_old, *target.shape[1:]))
        shard = target.shards or target.chunks
        start = n_old // shard[0] * shard[0]
        tail = np.asarray(stored[name][start:n_old].data)
        joined = data
        if len(tail):
            joined = concatenate_samples([as_lazy(tail) if is_lazy(data) else tail, data])
        joined = joined.rechunk(shard) if is_lazy(joined) else as_lazy(joined, shard)
        target.resize((n_new, *target.shape[1:]))
        part = Writing(_checked_cast(joined, target.dtype, name), target, start)
        parts.append((part, part.blocks()))
    write_blocks(parts, in_memory=not any(is_lazy(data) for data in new.values()))
    append_coordinates(location, coords, n_old)
    check_lock()
    attributes = attributes_of(location)
    made = dict(attributes.get("provenance") or {})
    added = provenance(sources_of(*new.values())) | {"samples": n_new - n_old}
    # The store is not any more what the call that created it makes.
    made |= {"computation": "", "appended": [*made.get("appended", ()), added]}
    seal(location, attributes | {"provenance": made}, members=True)


def _like(array: ArrayLike | None, stored: xr.DataArray | None) -> ArrayLike | None:
    """Transpose a DataArray to the order of the stored dims. Other arrays stay as they are."""
    if stored is None or not isinstance(array, xr.DataArray) or set(array.dims) != set(stored.dims):
        return array
    return array.transpose(*stored.dims)


def _check_grid(array: ArrayLike | None, stored: xr.DataArray) -> None:
    """Refuse samples whose labels say that their phases or their voxels are not those of the stored ones."""
    if isinstance(array, xr.DataArray) and array.dims == stored.dims:
        n_spatial = sum(dim in SPATIAL_DIMS for dim in stored.dims)
        new, have = (Grid.of(each, each.shape[1 : 1 + n_spatial]) for each in (array, stored))
        have.check_appended(new)


def _check_components(array: ArrayLike, stored: xr.DataArray, name: str) -> None:
    """Refuse an array whose components have other names than the stored ones, or stand in another order."""
    for dim in stored.dims[1:] if isinstance(array, xr.DataArray) else ():
        if dim not in SPATIAL_DIMS and dim in stored.coords and dim in array.coords:
            have, got = (each.coords[dim].to_numpy().tolist() for each in (stored, array))
            if have != got:
                msg = f"new {name} has {got} along {str(dim)!r}, and the ensemble has {have}; give them in this order"
                raise ValueError(msg)


def _checked_cast(array: Any, dtype: np.dtype[Any], name: str) -> Any:
    """Cast to the stored dtype. Refuse integers and large numbers that it cannot hold."""
    return array if array.dtype == dtype else array.map_blocks(_cast_block, to=dtype, of=name, dtype=dtype)


def _cast_block(block: Array, *, to: np.dtype[Any], of: str) -> Array:
    with np.errstate(over="ignore"):
        cast = block.astype(to)
    is_lost = not np.array_equal(cast, block) if to.kind in "iu" else (np.isfinite(block) & ~np.isfinite(cast)).any()
    if is_lost:
        msg = f"{of} holds values from {block.min()} to {block.max()}, which the stored dtype {to} cannot hold"
        raise ValueError(msg)
    return cast


@checked
def open_ensemble(url: Url, *, allow_missing: bool = False, follow_links: bool = False) -> xr.Dataset:
    """Open an ensemble lazily.

    Parameters
    ----------
    url : str or path
        A path, or any URL that fsspec knows.
    allow_missing : bool, default False
        Whether chunks that another program did not write are taken as the fill value. A warning counts them. Chunks of
        stores of this package are never missing.
    follow_links : bool, default False
        Whether links in the store are followed out of it. By default they are refused: those to arrays and to metadata
        on opening, and those to chunks when they are read.

    Returns
    -------
    xarray.Dataset
        The variable ``microstructure``, and those of ``response``, ``phase`` and ``confidence_index`` that are stored.
        They are dask arrays, and each chunk is one shard. The dims are ``sample, x, y, z``, and ``angle`` for
        orientations. The coordinates of voxels are in physical units. Those of samples, such as their names, are what
        `create_ensemble` was given.

    Raises
    ------
    FileNotFoundError
        If there is no store.
    ValueError
        If the store is not an ensemble; or if one of its arrays has a codec or a data type that the package does not
        write, such as pickle. Then nothing is decoded. Also if chunks are missing, if a link leads out of the store, or
        if the store was damaged. Damage of a chunk is found when the chunk is read.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> url = tempfile.mkdtemp() + "/ensemble.zarr"
    >>> create_ensemble(url, np.zeros((4, 8, 8), dtype="uint8"), chunks=2)
    >>> open_ensemble(url).microstructure.chunks
    ((2, 2), (8,), (8,))
    """
    return open_microstructures(url, "ensemble", allow_missing=allow_missing, follow_links=follow_links)
