"""OME-Zarr 0.5: one image with several levels, each half as fine as the one before."""

from __future__ import annotations

from typing import Any

from mksdask.compute.graph import renamed, token_of
from mksdask.exporters.fields import Exported
from mksdask.storage.atomic import EXPORTS, Location, Url, check_ours, remove_leftovers
from mksdask.storage.blocks import Blocks, Variable
from mksdask.storage.staging import staged

# A shard of an image has about so many voxels along each axis, and a chunk at most.
SHARD = {1: 2**22, 2: 2**11, 3: 2**8}
CHUNK = {1: 2**18, 2: 2**9, 3: 2**6}
# An image whose axes are all shorter than this needs no further level.
SMALL = 2**8
MOST_LEVELS = 4
# Units by the names of OME-Zarr.
UNITS = {
    "m": "meter",
    "cm": "centimeter",
    "mm": "millimeter",
    "um": "micrometer",
    "nm": "nanometer",
    "angstrom": "angstrom",
    "pm": "picometer",
    "inch": "inch",
}


def write_ome_zarr(url: Url, fields: list[Exported], mode: str) -> None:
    """Write one field into an OME-Zarr image. The axes are (sample, component,) z, y, x.

    Raises
    ------
    ValueError
        If there are several fields, or the image has one axis; or if it has samples and components, because OME-Zarr
        has only one axis of another kind.
    FileExistsError
        If something is at `url` that may not be replaced. In an object store nothing is replaced, because what this
        package replaces there lies in a folder of the store, where other programs do not find it.
    """
    place = Location.of(url)
    if not place.is_local and place.exists():
        msg = f"{url} exists, and images in an object store are not replaced; choose another url, or remove it first"
        raise FileExistsError(msg)
    if len(fields) != 1:
        msg = f"an OME-Zarr image holds one array, got {[field.name for field in fields]}; choose one by variable="
        raise ValueError(msg)
    field = fields[0]
    if len(field.shape) < 2:
        msg = f"{field.name} has one axis, and an OME-Zarr image has two or three; export .vti"
        raise ValueError(msg)
    if field.has_samples and field.has_components:
        msg = (
            f"{field.name} has samples and components, and an OME-Zarr image has one axis beside the spatial ones; "
            "choose one of them by select="
        )
        raise ValueError(msg)
    data, axes = _ordered(field)
    levels = _levels(field, data)
    variables, datasets = {}, []
    for number, (level, objects) in enumerate(levels):
        parts = tuple(min(size, n, CHUNK[len(field.shape)]) for size, n in zip(objects, level.shape, strict=True))
        objects = tuple(-(-size // part) * part for size, part in zip(objects, parts, strict=True))
        variables[str(number)] = Variable(level, tuple(axis["name"] for axis in axes), objects, parts)
        datasets.append(_dataset(field, number, len(axes)))
    image = {"name": field.title, "axes": axes, "datasets": datasets, "type": "every second voxel"}
    ome: dict[str, Any] = {"version": "0.5", "multiscales": [image]}
    names = {"phases": field.phases, "components": field.components, "samples": field.samples}
    with staged(url, mode, EXPORTS) as location:
        blocks = Blocks(location, EXPORTS[0], variables)
        blocks.open(EXPORTS)
        check_ours(location, EXPORTS)
        blocks.write()
        remove_leftovers(location)
        blocks.finish(keep_record=False, ome=ome, names={name: list(texts) for name, texts in names.items() if texts})


def _ordered(field: Exported) -> tuple[Any, list[dict[str, str]]]:
    """Return the values with the axes of the image, and these axes."""
    others = [dim for dim in field.array.dims if dim not in field.dims]
    array = field.array.transpose(*others, *field.dims[::-1])
    first = []
    if field.has_samples:
        first = [{"name": "sample", "type": "sample"}]
    elif field.has_components:
        first = [{"name": "c", "type": "channel"}]
    unit = {} if field.unit is None else {"unit": UNITS[field.unit]}
    return array.data, [*first, *({"name": axis, "type": "space"} | unit for axis in "zyx"[-len(field.shape) :])]


def _levels(field: Exported, data: Any) -> list[tuple[Any, tuple[int, ...]]]:
    """Return the values of each level, and the shape of its shards. A task makes its part of all levels at once."""
    n_first = data.ndim - len(field.shape)
    size = SHARD[len(field.shape)]
    if field.has_samples:
        # Samples are small, and lie in the chunks of the store.
        chunk = data.chunks[0][0] if hasattr(data, "chunks") else max(1, 2**24 // max(1, data[0].size))
        return [(data.astype(field.dtype, copy=False), (int(chunk), *data.shape[1:]))]
    objects = tuple(1 for _ in data.shape[:n_first]) + tuple(min(size, n) for n in data.shape[n_first:])
    found = [(data.astype(field.dtype, copy=False), objects)]
    if not hasattr(data, "dask") or any(n % 2 for along in data.chunks[n_first:] for n in along[:-1]):
        # Parts of chunks of odd sizes would not make whole shards.
        return found
    shards = [min(max(along), size) for along in data.chunks[n_first:]]
    while len(found) < MOST_LEVELS and max(found[-1][0].shape[n_first:]) > SMALL and all(n % 2 == 0 for n in shards):
        finer = found[-1][0]
        shards = [max(1, n // 2) for n in shards]
        coarse = finer[(slice(None),) * n_first + (slice(None, None, 2),) * len(field.shape)]
        level_objects = (1,) * n_first + tuple(min(a, n) for a, n in zip(shards, coarse.shape[n_first:], strict=True))
        found.append((renamed(coarse, f"level-{token_of(coarse.name)}"), level_objects))
    return found


def _dataset(field: Exported, level: int, n_axes: int) -> dict[str, Any]:
    """Describe a level: its voxel size and its first voxel. Every second voxel of the finer level is there."""
    n_first = n_axes - len(field.shape)
    scale = [1.0] * n_first + [float(step) * 2**level for step in field.steps[::-1]]
    changes: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
    if any(field.origin):
        changes.append({"type": "translation", "translation": [0.0] * n_first + list(map(float, field.origin[::-1]))})
    return {"path": str(level), "coordinateTransformations": changes}
