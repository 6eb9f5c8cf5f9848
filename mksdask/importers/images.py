"""Import of images into stores: they are streamed, and may be cropped, segmented and cut into windows."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from mksdask.arrays import SPATIAL_DIMS, Array, concatenate_samples, sizes_argument
from mksdask.importers.image_files import input_files, open_source
from mksdask.importers.segmentation import Thresholds, Values, by_otsu, by_thresholds, by_values
from mksdask.importers.sources import Source, slab_thickness
from mksdask.storage.atomic import Url, check_apart
from mksdask.storage.ensembles import create_ensemble, open_ensemble
from mksdask.storage.sources import recording
from mksdask.storage.volumes import VOLUME_SHARD, create_volume, open_volume

# Number of bytes of the windows that are cut together.
BAND_BYTES = 2**25


@recording(input_files)
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
    allow_missing: bool = False,
) -> xr.Dataset:
    """Import images into a store: one volume, or an ensemble of windows or samples.

    The files are streamed, so they may be larger than memory. Grey levels can be segmented into phases on the way.

    Parameters
    ----------
    path : str, path, or sequence of them
        TIFF, PNG, JPEG or BMP images (one image, a stack, a folder, or a pattern such as ``slices/*.tif``); ``.npy`` or
        ``.npz``; HDF5 or DREAM.3D; netCDF; ``.vti`` or legacy ``.vtk``; zarr or OME-Zarr.
    url : str or path
        Place of the store: a path, or any URL that fsspec knows.
    dataset : str, optional
        Name of the array, if a file holds several.
    axes : str, optional
        Names of the axes in the order of the file: x, y, z, and s for samples. By default they are read from the file,
        or are "zyx" for images and VTK, and "xyz" or "sxyz" for arrays.
    phases : dict, optional
        Phase of each value, as a name or as a number. Names are numbered in the order in which they first appear.
    thresholds : float or sequence of float, optional
        Grey levels that rise. Phase k begins at the k-th threshold.
    otsu : int, optional
        Number of phases, which are separated by Otsu's thresholds of the cropped image. Without `phases`, `thresholds`
        and `otsu`, the values are stored unchanged.
    names : sequence of str, optional
        Names of the phases that `thresholds`, `otsu`, or numbers in `phases` make.
    spacing : float or sequence of float, optional
        Voxel size along x, y, z. By default it is read from the file, or is 1 voxel.
    units : str, optional
        Unit of the spacing.
    crop : dict, optional
        For each axis to cut, the first voxel to keep and the one after the last, such as
        ``{"x": (0, 200), "z": (50, None)}``.
    window : int or sequence of int, optional
        Number of voxels along each axis of a window. With it, the image is cut into windows that lie side by side, and
        voxels beyond the last whole window are dropped.
    periodic_axes : sequence of int
        Axes along which a volume or samples are periodic. Windows are not periodic.
    mode : {"w-", "w"}
        "w-" refuses to overwrite anything, and "w" overwrites an ensemble or a volume.
    resume : bool, default False
        Continue from what a killed call has written; see `create_volume`.
    allow_missing : bool, default False
        Whether chunks that a zarr store lacks are taken as its fill value. A warning counts them. By default the store
        is refused, because chunks that were left out cannot be told from chunks that were lost.

    Returns
    -------
    xarray.Dataset
        The store, opened lazily by `open_volume` or, for windows and samples, by `open_ensemble`.

    Raises
    ------
    FileNotFoundError
        If there is no file to read.
    FileExistsError
        If the store exists and `mode` is "w-".
    ValueError
        If the format is not known, or an argument does not fit the image. Values of the image that `phases` does not
        list are named. Also if `url` is an input, lies in one, or holds one; or if chunks of a zarr store are missing.

    Notes
    -----
    A task holds a slab of at most 128 MiB of the file, its phases and a copy of the phases; or a band of windows. The
    shards of a volume are as thick as a slab. ``.npz`` files, compressed VTK files and single images are loaded whole.
    Files are read once; with `otsu` twice, or three times if their values are not of 8 or 16 bits.

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
    segmentation = {"phases": phases, "thresholds": thresholds, "otsu": otsu}
    if sum(option is not None for option in segmentation.values()) > 1:
        given = [name for name, option in segmentation.items() if option is not None]
        msg = f"phases, thresholds and otsu exclude each other, got {' and '.join(given)}; give only one of them"
        raise ValueError(msg)
    check_apart(url, *input_files(path))
    source = open_source(path, dataset=dataset, axes=axes, allow_missing=allow_missing)
    data, spatial = _cropped(source, crop)
    is_in_slabs = data.ndim == len(spatial) > 1 and all(n == 1 for n in data.numblocks[1:])
    thickness = slab_thickness(data.shape, data.dtype)
    if is_in_slabs and window is None:
        data = data.rechunk({0: thickness})
    mapping, found_names = _segmentation(data, phases, thresholds, otsu)
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
            msg = f"window={window!r} cuts one image, but {path} holds samples that are stored whole; leave window out"
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
        # Shards are as thick as the slab that a task reads, so that no task has to wait for the slabs of others.
        slow = spatial.index(order[0])
        shards[slow] = min(shards[slow], thickness)
        # The method "tasks" splits each slab where it lies, so that workers exchange nothing.
        data = data.rechunk(tuple(shards), method="tasks")
    create_volume(url, data, periodic_axes=periodic_axes, chunks=shards, **options)
    return open_volume(url)


def _cropped(source: Source, crop: Mapping[str, tuple[int | None, int | None]] | None) -> tuple[Any, str]:
    """Crop the image. Return it with the axes of the file, and the spatial axes in the order of the store."""
    spatial = "".join(axis for axis in SPATIAL_DIMS if axis in source.axes)
    if spatial != "xyz"[: len(spatial)]:
        msg = (
            f"axes={source.axes!r} must name x for an image with one axis, x and y for two, and x, y and z for three; "
            "call the axes of a slice x and y, also if it lies along other axes"
        )
        raise ValueError(msg)
    cuts = dict(crop or {})
    parts = []
    for axis, length in zip(source.axes, source.data.shape, strict=True):
        low, high = cuts.pop(axis, (None, None))
        first, last = 0 if low is None else int(low), length if high is None else int(high)
        if not 0 <= first < last <= length:
            msg = f"crop of {axis} must lie within 0 and {length}, with the first below the last, got ({low}, {high})"
            raise ValueError(msg)
        parts.append(slice(first, last))
    if cuts:
        msg = f"crop names the axes {sorted(cuts)}, which the image does not have; its axes are {sorted(source.axes)}"
        raise ValueError(msg)
    return source.data[tuple(parts)], spatial


def _segmentation(
    data: Any,
    phases: Mapping[float, str | int] | None,
    thresholds: float | Sequence[float] | None,
    otsu: int | None,
) -> tuple[Values | Thresholds | None, list[str] | None]:
    """Choose the mapping of values to phases, and the names of the phases if the mapping holds names."""
    if phases is not None:
        return by_values(phases)
    if thresholds is not None:
        return by_thresholds(np.atleast_1d(thresholds).tolist()), None
    return (None if otsu is None else by_otsu(data, otsu)), None


def _spacing(source: Source, spacing: float | Sequence[float] | None, spatial: str) -> tuple[float, ...]:
    """Choose the voxel size along each spatial axis: from the argument, from the file, or 1.

    If the file states it for some axes only, the others get the same size.
    """
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
            msg = (
                f"the file gives the spacing {known}, but none for the axes {missing}; give spacing= with one number "
                "for each axis"
            )
            raise ValueError(msg)
        known |= dict.fromkeys(missing, next(iter(known.values())))
    return tuple(abs(known[axis]) for axis in spatial) if known else (1.0,) * len(spatial)


def _names(
    names: Sequence[str] | None, found: list[str] | None, mapping: Values | Thresholds | None
) -> list[str] | None:
    """Choose the names of the phases: from the argument, or from the mapping of values to names."""
    if names is None:
        return found
    if found is not None or mapping is None:
        msg = (
            f"names={list(names)} are for thresholds, otsu, or numbers in phases; leave names out if phases holds "
            "names already, or if the image is not segmented"
        )
        raise ValueError(msg)
    if len(names) != mapping.n_phases:
        msg = f"names must name {mapping.n_phases} phases, got {list(names)}"
        raise ValueError(msg)
    return list(names)


@dataclass(frozen=True)
class _Cut:
    """The kernel that cuts a band, with the axes of the file and one window thick, into windows with the store's axes.

    Parameters
    ----------
    window : tuple of int
        Size of a window, with the axes in the order of the file.
    order : tuple of int
        Position in the file of each axis of the store.
    """

    window: tuple[int, ...]
    order: tuple[int, ...]

    def __call__(self, slab: Array) -> Array:
        counts = [n // size for n, size in zip(slab.shape, self.window, strict=True)]
        n_axes = slab.ndim
        split = slab.reshape([n for pair in zip(counts, self.window, strict=True) for n in pair])
        places = [2 * axis for axis in self.order] + [2 * axis + 1 for axis in self.order]
        return split.transpose(places).reshape(-1, *(self.window[axis] for axis in self.order[:n_axes]))


def _windows(data: Any, order: str, spatial: str, window: int | Sequence[int]) -> Any:
    """Cut an image with the axes `order` into windows with the axes `spatial`, (n_windows, *window)."""
    sizes = sizes_argument(window, name="window")
    sizes = sizes * len(spatial) if len(sizes) == 1 else sizes
    in_file = tuple(sizes[spatial.index(axis)] for axis in order) if len(sizes) == len(spatial) else ()
    if not in_file or any(size > n for size, n in zip(in_file, data.shape, strict=True)):
        shape = tuple(data.shape[order.index(axis)] for axis in spatial)
        msg = (
            f"window must be one size, or one for each axis, that fits into the image of {shape} voxels, got "
            f"{window!r}; give smaller windows, or as many numbers as axes"
        )
        raise ValueError(msg)
    in_store = tuple(order.index(axis) for axis in spatial)
    counts = [n // size for n, size in zip(data.shape, in_file, strict=True)]
    whole = data[tuple(slice(0, n * size) for n, size in zip(counts, in_file, strict=True))]
    chunks: list[Any] = [in_file[0], *(-1,) * (data.ndim - 1)]
    if data.ndim > 1:
        # A slab is cut into bands along the slowest axis of the order of windows, so that this order stays.
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
    return concatenate_samples(parts)
