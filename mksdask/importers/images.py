"""Import of images into stores: they are streamed, and may be cropped, segmented and cut into windows."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr

from mksdask.arrays import SPATIAL_DIMS, numbers_argument, shown, sizes_argument, warn_caller
from mksdask.display.cards import printed_unit
from mksdask.importers.formats.raw_files import data_type
from mksdask.importers.image_files import input_files, open_source
from mksdask.importers.phases import choose_mapping, choose_names, mapped_fields
from mksdask.importers.segmentation import refuse_grey_phases
from mksdask.importers.sources import ANGLES, AssumedWarning, Choice, SlabSize, Source
from mksdask.importers.windows import corner_coordinates, cut_windows
from mksdask.schema.arguments import checked
from mksdask.schema.units import METRES, UNKNOWN, converted, length_argument
from mksdask.storage.atomic import Url, check_apart
from mksdask.storage.ensembles import create_ensemble, open_ensemble
from mksdask.storage.microstructures import store_layout_begun
from mksdask.storage.sources import recorded
from mksdask.storage.volumes import VOLUME_SHARD, create_volume, open_volume

# What the record of a store calls the size of the slabs in which an image is read.
_SLAB = "bytes of a slab"


@checked
def import_images(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    url: Url,
    *,
    dataset: str | None = None,
    series: int | None = None,
    channel: int | None = None,
    time: int | None = None,
    axes: str | None = None,
    shape: Sequence[int] | None = None,
    dtype: Any = None,
    offset: int | None = None,
    pattern: str | None = None,
    join: Literal["slices", "samples"] = "slices",
    phases: Mapping[float, str | int] | Literal["values"] | None = None,
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
    follow_links: bool = False,
) -> xr.Dataset:
    """Import images into a store: one volume, or an ensemble of windows or samples.

    The files are streamed, so they may be larger than memory. Grey levels can be segmented into phases on the way. What
    a file says of its axes, voxel sizes and units is used. What it does not say is assumed, with a warning.

    Parameters
    ----------
    path : str, path, or sequence of them
        TIFF, PNG, JPEG, BMP, GIF or WebP images (one image, a stack, a folder, or a pattern such as
        ``slices/*.tif``); ``.npy`` or ``.npz``; HDF5, DREAM.3D or MATLAB 7.3; netCDF; ``.vti``, ``.pvti``, legacy
        ``.vtk`` or ``.vtkhdf``; zarr or OME-Zarr; NRRD; MetaImage; NIfTI; or raw voxels in a file of any name.
    url : str or path
        Place of the store: a path, or any URL that fsspec knows.
    dataset : str, optional
        Name of the array, if a file holds several.
    series, channel, time : int, optional
        Number of the series of pages, of the channel and of the time, counted from 0, if a file holds several.
    axes : str, optional
        Names of the axes in the order of the file: x, y, z, and s for samples. By default they are read from the file,
        or are "zyx" for images and VTK, and "xyz" or "sxyz" for arrays. Axes of length 1 are dropped by default.
    shape : sequence of int, optional
        Numbers of voxels along x, y, z of a file of raw values, in which x changes fastest. If another axis changes
        fastest, give `axes` too.
    dtype : dtype, optional
        Data type of raw values, such as "uint16", or ">u2" for big-endian ones.
    offset : int, optional
        Number of bytes of a file before its raw values. Default: 0.
    pattern : str, optional
        Pattern of the names of the files to take from a folder, such as "slice*.tif".
    join : {"slices", "samples"}
        Whether several files are slices of one image, or samples of an ensemble. In one TIFF file or animation, times
        and pages without a name are then samples.
    phases : dict or "values", optional
        Phase of each value, as a name or as a number. Names are numbered in the order in which they first appear.
        "values" stores the values unchanged, whatever they are.
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
        Unit of the spacing. Without `spacing`, the voxel size that a file states in another unit is converted to it.
    crop : dict, optional
        For each axis to cut, the first voxel to keep and the one after the last, such as
        ``{"x": (0, 200), "z": (50, None)}``.
    window : int or sequence of int, optional
        Number of voxels along each axis of a window. With it, the image is cut into windows that lie side by side, and
        voxels beyond the last whole window are dropped. The coordinates ``corner_x``, … along ``sample`` say where the
        first voxel of each window lies in the image, in the unit of the spacing.
    periodic_axes : sequence of int
        Axes along which a volume or samples are periodic. Windows are not periodic.
    mode : {"w-", "w"}
        "w-" refuses to overwrite anything, and "w" overwrites an ensemble or a volume.
    resume : bool, default False
        Continue from what a killed call has written; see `create_volume`.
    allow_missing : bool, default False
        Whether chunks that a zarr store or an HDF5 file lacks are taken as its fill value. A warning counts them. By
        default it is refused, because chunks that were left out cannot be told from chunks that were lost.
    follow_links : bool, default False
        Whether links of an HDF5 file or of a header are followed to files outside its folder, and links in a zarr store
        out of the store. Links to files in the folder or the store are always followed.

    Returns
    -------
    xarray.Dataset
        The store, opened lazily by `open_volume` or, for windows and samples, by `open_ensemble`. The attributes of
        ``microstructure`` hold the path, format and axes of the source, and what was assumed. Coordinates begin at 0.
        If the file says that its first voxel lies elsewhere, the attribute ``origin`` of a volume holds this position
        along x, y, z, and exports use it. If the file marks voxels that were not measured, their ``confidence_index``
        is 0, and 1 elsewhere.

    Warns
    -----
    AssumedWarning
        If something that the file does not say was assumed, such as the order of its axes. The message names the
        argument that says it.

    Raises
    ------
    FileNotFoundError
        If there is no file to read.
    FileExistsError
        If the store exists and `mode` is "w-".
    ValueError
        If the format is not known, the file cannot be read, or an argument does not fit the image. Values of the image
        that `phases` does not list are named. Also if `url` is an input, lies in one, or holds one; if chunks of a
        zarr store or an HDF5 file are missing; or if an image that is not segmented holds few integers that are not
        numbered from 0 or 1, such as 0 and 255. The message says how to name these phases.

    Notes
    -----
    A task holds a slab of at most 128 MiB of the file, its phases and a copy of the phases; or a band of windows. The
    shards of a volume are as thick as a slab. ``.npz`` files and single images are loaded whole.
    Files are read once; with `otsu` twice, or three times if their values are not of 8 or 16 bits. Without
    segmentation, one slab is read twice, or the whole if it seems to hold few integers.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from pathlib import Path
    >>> folder = Path(tempfile.mkdtemp())
    >>> np.save(folder / "scan.npy", np.random.default_rng(0).integers(0, 255, (20, 20, 20), dtype="uint8"))
    >>> options = {"axes": "xyz", "thresholds": 100, "names": ("pore", "grain")}
    >>> stored = import_images(folder / "scan.npy", folder / "scan.zarr", **options)
    >>> dict(stored.sizes), stored.microstructure.attrs["phases"]
    ({'x': 20, 'y': 20, 'z': 20}, ['pore', 'grain'])
    """
    segmentation = {"phases": phases, "thresholds": thresholds, "otsu": otsu}
    if sum(option is not None for option in segmentation.values()) > 1:
        given = [name for name, option in segmentation.items() if option is not None]
        msg = f"phases, thresholds and otsu exclude each other, got {' and '.join(given)}; give only one of them"
        raise ValueError(msg)
    if join not in ("slices", "samples"):
        msg = f"join must be 'slices' or 'samples', got {join!r}"
        raise ValueError(msg)
    inputs = input_files(path, pattern)
    check_apart(url, *inputs)
    choice = Choice(
        dataset=dataset,
        series=series,
        channel=channel,
        time=time,
        shape=None if shape is None else sizes_argument(shape, name="shape"),
        dtype=None if dtype is None else data_type(dtype),
        offset=offset,
        pattern=pattern,
        join=join,
        follow_links=follow_links,
        has_spacing=spacing is not None,
        allow_missing=allow_missing,
    )
    size = SlabSize(_slab_bytes_begun(url) if resume else None)
    with size.applied():
        source = open_source(path, choice, axes=axes)
    data, spatial = _cropped(source, crop)
    steps, unit, assumed = _spacing(source, spacing, units, spatial)
    if window is None and _is_in_slabs(source, data):
        data = data.rechunk({0: size.rows(data.shape, data.dtype)})
    mapping, found = choose_mapping(source, data, phases, thresholds, otsu)
    phase_names = choose_names(source, names, found, mapping)
    if mapping is None and phases is None and ANGLES not in source.axes and source.missing is None:
        refuse_grey_phases(data, str(inputs[0]))
    fields = mapped_fields(source, data, mapping)
    is_ensemble = "s" in source.axes or window is not None
    corners: dict[str, Any] = {}
    if window is not None:
        if ANGLES in source.axes or "s" in source.axes:
            what = "orientations, which are" if ANGLES in source.axes else "samples that are"
            msg = f"window={window!r} cuts one image, but {path} holds {what} stored whole; leave window out"
            raise ValueError(msg)
        fields = {name: cut_windows(field, source.axes, spatial, window) for name, field in fields.items()}
        corners = corner_coordinates(
            [data.shape[source.axes.index(axis)] for axis in spatial],
            fields["microstructure"].shape[1:],
            dict(zip(spatial, steps, strict=True)),
            unit,
            {axis: ends[0] or 0 for axis, ends in (crop or {}).items()},
            spatial.index(source.axes[0]),
        )
        periodic_axes = ()
    else:
        fields = {name: _transposed(field, source.axes, spatial) for name, field in fields.items()}
    shards = [] if is_ensemble else _shards(source, data, spatial, size)
    if shards:
        # The method "tasks" splits each slab where it lies, so that workers exchange nothing.
        fields = {
            name: field.rechunk((*shards, *field.shape[len(shards) :]), method="tasks")
            for name, field in fields.items()
        }
    answers = {"axes=": axes, "spacing=": spacing, "units=": units}
    answered = tuple(f"say {name}" for name, value in answers.items() if value is not None)
    told = [text for text in (*source.assumed, *assumed) if not text.endswith(answered)]
    for text in told:
        warn_caller(f"{inputs[0]}: {text}", AssumedWarning)
    attrs = _provenance(inputs, source, told)
    if source.origin and not is_ensemble:
        attrs["origin"] = _first_voxel(source, crop, steps, spatial)
    dims = [*(["sample"] if is_ensemble else []), *spatial, *(["angle"] if ANGLES in source.axes else [])]
    coords = corners | ({"sample": list(source.labels)} if source.labels else {})
    labelled = {
        name: xr.DataArray(field, coords, dims=dims[: field.ndim], attrs=attrs) for name, field in fields.items()
    }
    X = labelled["microstructure"]
    options = {
        "confidence_index": labelled.get("confidence_index"),
        "spacing": steps,
        "units": unit,
        "phases": phase_names,
        "periodic_axes": periodic_axes,
        "mode": mode,
        "resume": resume,
    }
    with recorded(*inputs, call="import_images", layout={_SLAB: (size.n_bytes,)}):
        if is_ensemble:
            create_ensemble(url, X, **options)
            return open_ensemble(url)
        create_volume(url, X, chunks=shards, **options)
        return open_volume(url)


def _slab_bytes_begun(url: Url) -> int | None:
    """Find the size of the slabs of an import that an earlier call began or completed."""
    found = store_layout_begun(url, _SLAB, 1)
    return None if found is None else found[0]


def _is_in_slabs(source: Source, data: Any) -> bool:
    """Whether an image is read in slabs along its first axis."""
    return (
        "s" not in source.axes and len(source.axes.replace(ANGLES, "")) > 1 and all(n == 1 for n in data.numblocks[1:])
    )


def _transposed(field: Any, axes: str, spatial: str) -> Any:
    """Put the axes of a file into the order of the store, with each sample in one chunk."""
    places = [axes.index(axis) for axis in ("s" if "s" in axes else "") + spatial]
    field = field.transpose([*places, *range(len(places), field.ndim)])
    return field.rechunk(dict.fromkeys(range(1, field.ndim), -1)) if "s" in axes else field


def _shards(source: Source, data: Any, spatial: str, size: SlabSize) -> list[int]:
    """Choose the shape of the shards of a volume."""
    shards = [VOLUME_SHARD[len(spatial)]] * len(spatial)
    if _is_in_slabs(source, data):
        # Shards are as thick as the slab that a task reads, so that no task has to wait for the slabs of others.
        slow = spatial.index(source.axes[0])
        shards[slow] = min(shards[slow], size.rows(data.shape, data.dtype))
    return shards


def _first_voxel(source: Source, crop: Any, steps: Sequence[float], spatial: str) -> list[float]:
    """Find the position of the first voxel that is stored, in the unit of the store."""
    places = []
    for axis, step in zip(spatial, steps, strict=True):
        first = (crop or {}).get(axis, (0, None))[0] or 0
        # The unit of the store may be another one than that of the file.
        places.append(step * (source.origin.get(axis, 0.0) / source.spacing.get(axis, 1.0) + first))
    return places


def _provenance(inputs: Sequence[Any], source: Source, told: Sequence[str]) -> dict[str, Any]:
    """Say in attributes where an image came from, and what was assumed of it."""
    # The first input is the folder, if it is a folder of images.
    n_files = len(inputs) - int(inputs[0].is_dir())
    more = f" and others, {n_files} files" if n_files > 1 else ""
    attrs: dict[str, Any] = {
        "source": f"{inputs[0].absolute()}{more}",
        "format": source.format,
        "source_axes": source.axes,
    }
    return attrs | ({"assumed": list(told)} if told else {})


def _cropped(source: Source, crop: Mapping[str, tuple[int | None, int | None]] | None) -> tuple[Any, str]:
    """Crop the image. Return it with the axes of the file, and the spatial axes in the order of the store."""
    spatial = "".join(axis for axis in SPATIAL_DIMS if axis in source.axes)
    if spatial != "xyz"[: len(spatial)]:
        msg = (
            f"axes={source.axes!r} must name x for an image with one axis, x and y for two, and x, y and z for three; "
            "call the axes of a slice x and y, also if it lies along other axes"
        )
        raise ValueError(msg)
    given: Any = {} if crop is None else crop
    if not isinstance(given, Mapping):
        msg = f"crop must map axes to their first and last voxels, such as {{'x': (0, 200)}}, got {shown(crop)}"
        raise TypeError(msg)
    cuts = dict(given)
    parts = []
    for axis, length in zip(source.axes, source.data.shape, strict=True):
        if axis == ANGLES:
            parts.append(slice(None))
            continue
        cut = cuts.pop(axis, (None, None))
        is_pair = isinstance(cut, list | tuple) and len(cut) == 2
        if not is_pair or not all(n is None or isinstance(n, int | np.integer) for n in cut):
            msg = f"crop of {axis} must be the first voxel and the one after the last, got {shown(cut)}"
            raise TypeError(msg)
        low, high = cut
        first, last = 0 if low is None else int(low), length if high is None else int(high)
        if not 0 <= first < last <= length:
            msg = f"crop of {axis} must lie within 0 and {length}, with the first below the last, got ({low}, {high})"
            raise ValueError(msg)
        parts.append(slice(first, last))
    if cuts:
        msg = f"crop names the axes {sorted(cuts)}, which the image does not have; its axes are {sorted(source.axes)}"
        raise ValueError(msg)
    return source.data[tuple(parts)], spatial


def _spacing(
    source: Source, spacing: float | Sequence[float] | None, units: str | None, spatial: str
) -> tuple[tuple[float, ...], str, list[str]]:
    """Choose the voxel size along each spatial axis and its unit: from the arguments, from the file, or 1 voxel.

    If the file states the size along some axes only, the others get the same size. The third result says what was
    assumed.
    """
    wanted = None if units is None else length_argument(units)
    if spacing is not None:
        steps = numbers_argument(spacing, "spacing")
        if steps.shape not in ((), (len(spatial),)):
            msg = f"spacing must be a number, or one for each of the axes {', '.join(spatial)}, got {spacing!r}"
            raise ValueError(msg)
        return tuple(np.broadcast_to(steps, (len(spatial),)).tolist()), wanted or source.units or UNKNOWN, []
    known = {axis: abs(step) for axis, step in source.spacing.items() if axis in spatial}
    if not known:
        assumed = [f"spacing 1 {printed_unit(wanted)} assumed; say spacing="] if wanted in METRES else []
        return (1.0,) * len(spatial), wanted or "voxel", assumed
    assumed = []
    if missing := "".join(sorted(set(spatial) - set(known))):
        step = next(iter(known.values()))
        if any(abs(other - step) > 1e-9 * step for other in known.values()):
            msg = (
                f"the file gives the spacing {known}, but none for the axes {', '.join(missing)}; give spacing= with "
                "one number for each axis"
            )
            raise ValueError(msg)
        assumed = [f"spacing {step:g} along {missing} assumed, as along {''.join(sorted(known))}; say spacing="]
        known |= dict.fromkeys(missing, step)
    unit = source.units or wanted or UNKNOWN
    if wanted in METRES and unit in METRES:
        known, unit = {axis: converted(step, unit, wanted) for axis, step in known.items()}, wanted
    return tuple(known[axis] for axis in spatial), unit, assumed
