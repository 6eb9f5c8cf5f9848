"""Images in stores of zarr: arrays, arrays in groups, and OME-Zarr."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from mksdask.arrays import Array
from mksdask.compute.graph import token_of
from mksdask.importers.formats.dims import (
    LETTERS,
    Selection,
    axes_of_hyperspy,
    even_step,
    placed,
    select,
    sized,
    sizes_of_hyperspy,
    unread_sizes,
)
from mksdask.importers.formats.packing import Packing
from mksdask.importers.sources import Choice, Source, check_chunks, chosen_dataset, lazy_view, reading
from mksdask.storage.atomic import Location
from mksdask.storage.opening import foreign_metadata, open_foreign

# Groups are searched for arrays to this depth.
DEEPEST = 8


@dataclass(frozen=True)
class _Part:
    """A zarr array as dask reads it: errors of codecs name the store.

    Parameters
    ----------
    array : zarr.Array
        The array.
    path : str
        Path of the store.
    """

    array: zarr.Array[Any]
    path: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.array.dtype)

    @property
    def ndim(self) -> int:
        return self.array.ndim

    def __getitem__(self, index: Any) -> Array:
        with reading(self.path, f"the part {index} of its array {self.array.path!r}"):
            return np.asarray(self.array[index])


def open_zarr(path: Path, choice: Choice) -> Source:
    """Open a zarr array, one array of a zarr group, or the finest level of an OME-Zarr image."""
    choice.check(path, "dataset", "series", "channel", "time", "follow_links")
    location = replace(Location.of(path), follow_links=choice.follow_links)
    node = foreign_metadata(location)
    if node is None:
        msg = "there is no array and no group of zarr"
        raise FileNotFoundError(msg)
    if choice.dataset is None and node.get("node_type") != "array":
        if images := _multiscales(node):
            return replace(_ome_zarr(location, "", images, choice, path), phases=_phases(node))
        if choice.series is not None or (foreign_metadata(location, "0") or {}).get("node_type") == "group":
            # Programs that convert images of microscopes number the images of a file.
            return _series(location, choice, path)
    if choice.series is not None:
        msg = f"{path} has no series of images, so series={choice.series} says nothing; leave it out"
        raise ValueError(msg)
    return _array(location, node, choice, path)


def _multiscales(node: Mapping[str, Any]) -> list[Any]:
    """Return the images that the attributes of a group describe, in OME-Zarr 0.5 or earlier."""
    attrs = node.get("attributes", {})
    return list(attrs.get("ome", attrs).get("multiscales") or [])


def _phases(node: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of phases that `mksdask.exporters` writes beside an image."""
    names = node.get("attributes", {}).get("names")
    found = names.get("phases") if isinstance(names, dict) else None
    return tuple(found) if isinstance(found, list) and all(isinstance(name, str) for name in found) else ()


def _series(location: Location, choice: Choice, path: Path) -> Source:
    """Open one of the numbered images of a store."""
    images: dict[int, list[Any]] = {}
    while (node := foreign_metadata(location, str(len(images)))) is not None and (found := _multiscales(node)):
        images[len(images)] = found
    if choice.series is None and len(images) == 1:
        return _ome_zarr(location, "0", images[0], choice, path)
    if choice.series not in images:
        if not images:
            return _array(location, foreign_metadata(location) or {}, choice, path)
        msg = f"{path} holds {len(images)} images; choose one of them by series=, from 0 to {len(images) - 1}"
        raise ValueError(msg)
    return _ome_zarr(location, str(choice.series), images[choice.series], choice, path)


def _joined(*names: str) -> str:
    return "/".join(name.strip("/") for name in names if name.strip("/"))


def _opened(location: Location, name: str, selection: Selection, packing: Packing, choice: Choice) -> Any:
    """Make a lazy array of the chosen part, in chunks of the store."""
    array = open_foreign(location, name, allow_missing=choice.allow_missing)
    check_chunks(array.shape, array.chunks, array.dtype, f"{location.path}/{name}".rstrip("/"))
    token = f"zarr-{token_of(location.path, name)}"
    data = lazy_view(_Part(array, location.path), array.chunks, token)[selection.index]
    return data.map_blocks(packing.unpack, dtype=packing.dtype, meta=np.empty((0,) * data.ndim, packing.dtype))


def _ome_zarr(location: Location, group: str, images: Sequence[Any], choice: Choice, path: Path) -> Source:
    """Open the finest level of an image of OME-Zarr, with the voxel size that all its transformations make."""
    if len(images) > 1 and choice.series is None:
        msg = f"{path} describes {len(images)} images; choose one of them by series=, from 0 to {len(images) - 1}"
        raise ValueError(msg)
    number = 0 if group or choice.series is None else choice.series
    if number >= len(images):
        msg = f"{path} describes {len(images)} images, so series={number} must lie within 0 and {len(images) - 1}"
        raise ValueError(msg)
    image = images[number]
    level = image["datasets"][0]
    name = _joined(group, level["path"])
    metadata = foreign_metadata(location, name) or {}
    shape = metadata.get("shape", ())
    # Versions before 0.3 have five axes in a fixed order, and 0.3 has only names.
    stated = [axis if isinstance(axis, dict) else {"name": axis} for axis in image.get("axes", "tczyx")]
    selection = select([axis.get("name") for axis in stated], shape, choice, path)
    scale, shift = np.ones(len(shape)), np.zeros(len(shape))
    is_stated = False
    for step in (*level.get("coordinateTransformations", ()), *image.get("coordinateTransformations", ())):
        kind = step.get("type")
        if kind == "scale" and "scale" in step:
            scale *= np.asarray(step["scale"], dtype=float)
            shift *= np.asarray(step["scale"], dtype=float)
            is_stated = True
        elif kind == "translation" and "translation" in step:
            shift += np.asarray(step["translation"], dtype=float)
        elif kind != "identity":
            msg = f"{path} has a coordinate transformation {kind!r}, which is not read; give spacing= and axes="
            raise ValueError(msg)
    spatial = selection.spatial
    sizes = {axis: float(scale[i]) for i, axis in spatial} if is_stated else {}
    steps, unit, told = sized(sizes, {axis: stated[i].get("unit") for i, axis in spatial}, choice, path)
    packing = Packing.of({}, _dtype(metadata))
    data = _opened(location, name, selection, packing, choice)
    origin = placed({axis: float(shift[i]) for i, axis in spatial}, sizes, steps)
    return Source(data, selection.axes, steps, unit, (*selection.assumed, *told), format="ome-zarr", origin=origin)


def _dtype(metadata: Mapping[str, Any]) -> np.dtype[Any]:
    """Read the data type of an array of either format of zarr. Strange ones are refused when the array is opened."""
    try:
        return np.dtype(metadata.get("data_type") or metadata.get("dtype"))
    except TypeError:
        return np.dtype("u1")


def _array(location: Location, node: Mapping[str, Any], choice: Choice, path: Path) -> Source:
    """Open a store that is an array, or one array of a group."""
    if node.get("node_type") == "array":
        if choice.dataset is not None:
            msg = f"dataset={choice.dataset!r} does not apply to {path}, which is an array; leave it out"
            raise ValueError(msg)
        arrays, name, group = {"": node}, "", ""
    else:
        arrays = dict(_arrays(location))
        wanted = None if choice.dataset is None else choice.dataset.strip("/")
        images = wanted and _multiscales(foreign_metadata(location, wanted) or {})
        if wanted and images:
            return _ome_zarr(location, wanted, images, choice, path)
        name = chosen_dataset(wanted, [name for name, found in arrays.items() if len(found["shape"]) >= 2], path)
        group = name.rpartition("/")[0]
    metadata = arrays[name]
    attrs = metadata.get("attributes", {})
    names = metadata.get("dimension_names") or attrs.get("_ARRAY_DIMENSIONS")
    of_hyperspy = _axes_of_hyperspy(location, group, metadata["shape"]) if name else []
    names = [axis.get("name") for axis in of_hyperspy] or names
    selection = select(names, metadata["shape"], choice, path)
    sizes, places, units, told = sizes_of_hyperspy(
        {axis: of_hyperspy[i] for i, axis in selection.spatial if of_hyperspy}
    )
    for label, part in zip(names or (), selection.index, strict=False):
        axis, beside = LETTERS.get(str(label).lower()), arrays.get(_joined(group, str(label)), {"shape": [0]})
        if not isinstance(part, slice) or axis not in ("x", "y", "z") or axis not in selection.axes:
            continue
        if len(beside["shape"]) == 1 and beside["shape"][0] > 1:
            values = np.asarray(open_foreign(location, _joined(group, str(label)), is_label=True)[:])
            sizes[axis], more = even_step(values, axis)
            places[axis] = float(values[0])
            told += more
            units[axis] = beside.get("attributes", {}).get("units")
    if not sizes:
        told += unread_sizes(attrs, node.get("attributes", {}))
    steps, unit, unknown = sized(sizes, units, choice, path)
    told += unknown
    if names and metadata.get("zarr_format") == 2 and metadata.get("fill_value"):
        # In format 2, xarray writes the value of what was not measured in this place.
        attrs = {"_FillValue": metadata["fill_value"]} | attrs
    packing = Packing.of(attrs, _dtype(metadata))
    data = _opened(location, name, selection, packing, choice)
    told, origin = (*selection.assumed, *told), placed(places, sizes, steps)
    return Source(data, selection.axes, steps, unit, told, packing.missing, format="zarr", origin=origin)


def _axes_of_hyperspy(location: Location, group: str, shape: Sequence[int]) -> list[dict[str, Any]]:
    """Read the attributes of each axis from groups beside the array, as HyperSpy writes them. Others have none."""
    found = []
    for number, n in enumerate(shape):
        name = _joined(group, f"axis-{number}")
        attrs = (foreign_metadata(location, name) or {}).get("attributes", {})
        said = {key: value for key, value in attrs.items() if key != "axis"}
        if (foreign_metadata(location, f"{name}/axis") or {}).get("shape") == [n]:
            said["axis"] = np.asarray(open_foreign(location, f"{name}/axis", is_label=True)[:])
        found.append(said)
    return axes_of_hyperspy(found, shape)


def _arrays(location: Location, group: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the names and metadata of the arrays in a group and in the groups in it."""
    folder = Path(location.path) / group
    for each in sorted(folder.iterdir()):
        name = _joined(group, each.name)
        found = foreign_metadata(location, name) if each.is_dir() else None
        if found is None:
            continue
        if found.get("node_type") == "array":
            yield name, found
        elif name.count("/") < DEEPEST:
            yield from _arrays(location, name)
