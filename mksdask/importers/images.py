"""Images of others into stores: streamed, segmented, cropped, cut into windows."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mksdask.arrays import SPATIAL_DIMS, sizes_argument
from mksdask.importers.segmentation import Thresholds, Values, by_otsu, by_thresholds, by_values
from mksdask.importers.sources import Source, input_files, open_source, slab_thickness
from mksdask.storage.atomic import Url, check_apart
from mksdask.storage.ensembles import VOLUME_SHARD, create_ensemble, create_volume, open_ensemble, open_volume

Array = NDArray[Any]

# Of the windows that are cut together.
BAND_BYTES = 2**25


def import_images(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    url: Url,
    *,
    dataset: str | None = None,
    axes: str | None = None,
    phases: Mapping[float, str | int] | None = None,
    thresholds: float | Sequence[float] | None = None,
    otsu: int | None = None,
    names: Sequence[str] | None = None,
    spacing: float | Sequence[float] | None = None,
    units: str | None = None,
    crop: Mapping[str, tuple[int | None, int | None]] | None = None,
    window: int | Sequence[int] | None = None,
    periodic_axes: int | Sequence[int] = (),
    mode: Any = "w-",
    resume: bool = False,
) -> xr.Dataset:
    """Stream images into a volume store, or an ensemble store of windows or samples.

    Parameters
    ----------
    path : str, path, or sequence of them
        TIFF (one image, a stack, a folder, a pattern such as ``slices/*.tif``), PNG, JPEG, BMP; ``.npy``, ``.npz``;
        HDF5 and DREAM.3D; netCDF; ``.vti``, legacy ``.vtk``; zarr and OME-Zarr.
    url : str or path
        Of the store to make.
    dataset : str, optional
        Which array of a file that holds several.
    axes : str, optional
        Axes as the file orders them, by x, y, z, and s for samples. Default: what the file says, or "zyx" for images
        and VTK, "xyz" and "sxyz" for arrays.
    phases : dict, optional
        Phase of each value: names, numbered as they first appear, or numbers.
    thresholds : float or sequence of float, optional
        Rising grey levels; phase k begins at the k-th.
    otsu : int, optional
        Number of phases that are parted by Otsu's thresholds, of the cropped image. Without any of these three, values
        are stored as they are.
    names : sequence of str, optional
        Names of the phases that `thresholds`, `otsu`, or numbers in `phases` make.
    spacing : float or sequence of float, optional
        Voxel size along x, y, z. Default: what the file says, or 1 voxel.
    units : str, optional
        Of the spacing.
    crop : dict, optional
        First voxel and the one behind the last, of axes to cut, such as ``{"x": (0, 200), "z": (50, None)}``.
    window : int or sequence of int, optional
        Voxels along each axis of windows that the image is cut into, side by side; what is left over is dropped.
    periodic_axes : sequence of int
        Axes along which samples are periodic; windows are not.
    mode : {"w-", "w"}
        Refuse to overwrite, or overwrite an ensemble or a volume.
    resume : bool, default False
        Go on with what a call that was killed has written; see `create_volume`.

    Returns
    -------
    xarray.Dataset
        What `open_volume` or, for windows and samples, `open_ensemble` returns.

    Raises
    ------
    FileNotFoundError, FileExistsError
        If there is nothing to read, or something where it is to be written.
    ValueError
        If the format is not known, or an argument does not fit the image; if `url` is an input, lies in one, or holds
        one; values of which `phases` says nothing are named.

    Notes
    -----
    Memory of a task is a slab of 128 MiB of the file or less, its phases and a copy of these; or a band of windows.
    Shards of a volume are as thick as a slab. ``.npz``, compressed VTK, and single images are loaded whole. Files are
    read once, twice with `otsu`, three times if they are not of 8 or 16 bits.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from pathlib import Path
    >>> folder = Path(tempfile.mkdtemp())
    >>> np.save(folder / "scan.npy", np.random.default_rng(0).integers(0, 255, (20, 20, 20), dtype="uint8"))
    >>> stored = import_images(folder / "scan.npy", folder / "scan.zarr", thresholds=100, names=("pore", "grain"))
    >>> dict(stored.sizes), stored.microstructure.attrs["phases"]
    ({'x': 20, 'y': 20, 'z': 20}, ['pore', 'grain'])
    """
    if sum(option is not None for option in (phases, thresholds, otsu)) > 1:
        msg = "phases, thresholds and otsu exclude each other; give one"
        raise ValueError(msg)
    check_apart(url, *input_files(path))
    source = open_source(path, dataset=dataset, axes=axes)
    data, spatial = _cropped(source, crop)
    is_in_slabs = data.ndim == len(spatial) > 1 and all(n == 1 for n in data.numblocks[1:])
    thickness = slab_thickness(data.shape, data.dtype)
    if is_in_slabs and window is None:
        data = data.rechunk({0: thickness})
    mapping: Values | Thresholds | None = None
    found_names = None
    if phases is not None:
        mapping, found_names = by_values(phases)
    elif thresholds is not None:
        mapping = by_thresholds(np.atleast_1d(thresholds).tolist())
    elif otsu is not None:
        mapping = by_otsu(data, otsu)
    if mapping is not None:
        data = data.map_blocks(mapping, dtype=np.uint8, meta=np.empty((0,) * data.ndim, np.uint8), token="segment")
    options = {
        "spacing": _spacing(source, spacing, spatial),
        "units": units or source.units or ("voxel" if spacing is None and not source.spacing else "unit"),
        "phases": _names(names, found_names, mapping),
        "mode": mode,
        "resume": resume,
    }
    order = source.axes.replace("s", "")
    has_samples = "s" in source.axes
    if window is not None:
        if has_samples:
            msg = "window cuts one image; this file holds samples, which are stored as they are"
            raise ValueError(msg)
        create_ensemble(url, _windows(data, order, spatial, window), **options)
        return open_ensemble(url)
    data = data.transpose([source.axes.index(axis) for axis in ("s" if has_samples else "") + spatial])
    if has_samples:
        create_ensemble(
            url, data.rechunk(dict.fromkeys(range(1, data.ndim), -1)), periodic_axes=periodic_axes, **options
        )
        return open_ensemble(url)
    shards = [VOLUME_SHARD[len(spatial)]] * len(spatial)
    if is_in_slabs:
        # As thick as what a task reads: no task has to wait for the slabs of others.
        slow = spatial.index(order[0])
        shards[slow] = min(shards[slow], thickness)
        # By tasks, which split slabs where they are: nothing has to be exchanged.
        data = data.rechunk(tuple(shards), method="tasks")
    create_volume(url, data, periodic_axes=periodic_axes, chunks=shards, **options)
    return open_volume(url)


def _cropped(source: Source, crop: Mapping[str, tuple[int | None, int | None]] | None) -> tuple[da.Array, str]:
    """The part of the image that is wanted, axes as in the file; and the spatial axes in the order of the store."""
    spatial = "".join(axis for axis in SPATIAL_DIMS if axis in source.axes)
    if spatial != "xyz"[: len(spatial)]:
        # Slices along other axes are images all the same.
        msg = f"axes {source.axes!r} must name x, then y, then z"
        raise ValueError(msg)
    cuts = dict(crop or {})
    parts = []
    for axis, length in zip(source.axes, source.data.shape, strict=True):
        low, high = cuts.pop(axis, (None, None))
        first, last = 0 if low is None else int(low), length if high is None else int(high)
        if not 0 <= first < last <= length:
            msg = f"crop of {axis} must lie within 0 and {length}, the first below the last, got ({low}, {high})"
            raise ValueError(msg)
        parts.append(slice(first, last))
    if cuts:
        msg = f"crop names axes {sorted(cuts)} that the image does not have; it has {sorted(source.axes)}"
        raise ValueError(msg)
    return source.data[tuple(parts)], spatial


def _spacing(source: Source, spacing: float | Sequence[float] | None, spatial: str) -> tuple[float, ...]:
    if spacing is not None:
        steps = np.asarray(spacing, dtype=float)
        if steps.shape not in ((), (len(spatial),)):
            msg = f"spacing must be a number, or one for each of the axes {', '.join(spatial)}, got {spacing!r}"
            raise ValueError(msg)
        return tuple(np.broadcast_to(steps, (len(spatial),)).tolist())
    known = {axis: step for axis, step in source.spacing.items() if axis in spatial}
    if known and set(known) != set(spatial):
        missing = sorted(set(spatial) - set(known))
        if any(abs(step - next(iter(known.values()))) > 1e-9 * abs(step) for step in known.values()):
            msg = f"the file gives the spacing of {known}, not of {missing}; give spacing= for all axes"
            raise ValueError(msg)
        known |= dict.fromkeys(missing, next(iter(known.values())))
    return tuple(abs(known[axis]) for axis in spatial) if known else (1.0,) * len(spatial)


def _names(
    names: Sequence[str] | None, found: list[str] | None, mapping: Values | Thresholds | None
) -> list[str] | None:
    if names is None:
        return found
    if found is not None or mapping is None:
        msg = f"names={list(names)} are for thresholds, otsu, or numbers in phases; names in phases name themselves"
        raise ValueError(msg)
    if len(names) != mapping.n_phases:
        msg = f"names must name {mapping.n_phases} phases, got {list(names)}"
        raise ValueError(msg)
    return list(names)


@dataclass(frozen=True)
class _Cut:
    """A band of windows, axes as in the file and one window thick, into windows with the axes of the store."""

    window: tuple[int, ...]  # in the order of the file
    order: tuple[int, ...]  # of the store's axes in the file

    def __call__(self, slab: Array) -> Array:
        counts = [n // size for n, size in zip(slab.shape, self.window, strict=True)]
        n_axes = slab.ndim
        split = slab.reshape([n for pair in zip(counts, self.window, strict=True) for n in pair])
        places = [2 * axis for axis in self.order] + [2 * axis + 1 for axis in self.order]
        return split.transpose(places).reshape(-1, *(self.window[axis] for axis in self.order[:n_axes]))


def _windows(data: da.Array, order: str, spatial: str, window: int | Sequence[int]) -> da.Array:
    sizes = sizes_argument(window, name="window")
    sizes = sizes * len(spatial) if len(sizes) == 1 else sizes
    in_file = tuple(sizes[spatial.index(axis)] for axis in order) if len(sizes) == len(spatial) else ()
    if not in_file or any(size > n for size, n in zip(in_file, data.shape, strict=True)):
        shape = tuple(data.shape[order.index(axis)] for axis in spatial)
        msg = (
            f"window must be one size, or one for each axis, that fits into the image of {shape} voxels, got {window!r}"
        )
        raise ValueError(msg)
    in_store = tuple(order.index(axis) for axis in spatial)
    counts = [n // size for n, size in zip(data.shape, in_file, strict=True)]
    whole = data[tuple(slice(0, n * size) for n, size in zip(counts, in_file, strict=True))]
    chunks: list[Any] = [in_file[0], *(-1,) * (data.ndim - 1)]
    if data.ndim > 1:
        # A slab is cut into bands along the axis whose windows differ slowest, so that their order stays.
        across = next(axis for axis in in_store if axis)
        row_bytes = data.dtype.itemsize * int(np.prod(in_file)) * int(np.prod(counts[1:])) // counts[across]
        chunks[across] = in_file[across] * max(1, BAND_BYTES // row_bytes)
    bands = whole.rechunk(chunks)
    cut = _Cut(in_file, in_store)
    parts = []
    for block in np.ndindex(*bands.numblocks):
        band = bands.blocks[block]
        n_each = int(np.prod([n // size for n, size in zip(band.shape, in_file, strict=True)]))
        parts.append(
            band.map_blocks(
                cut,
                chunks=((n_each,), *((size,) for size in sizes)),
                new_axis=data.ndim,
                dtype=data.dtype,
                meta=np.empty((0,) * (data.ndim + 1), dtype=data.dtype),
                token="cut-windows",
            )
        )
    return da.concatenate(parts)
