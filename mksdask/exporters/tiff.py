"""TIFF files with the size and place of voxels: in the way of ImageJ where it has the type, and of OME elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from mksdask.arrays import Array
from mksdask.exporters.fields import Exported

# Types of ImageJ, and of OME.
IMAGEJ_TYPES = ("uint8", "uint16", "float32")
OME_TYPES = (*IMAGEJ_TYPES, "int8", "int16", "int32", "uint32", "float64")
# Classic TIFF, which ImageJ reads, is no larger.
MOST_BYTES = 2**32 - 2**25
# Units by the names of ImageJ and of OME.
UNITS = {"um": "µm", "angstrom": "Å", "inch": "in"}


def write_tiff(path: Path, fields: list[Exported]) -> None:
    """Write one field into a TIFF file, page by page. Samples are times, and components are channels.

    Raises
    ------
    ValueError
        If there are several fields, the image has one axis, or neither ImageJ nor OME has the type.
    """
    if len(fields) != 1:
        msg = f"a TIFF file holds one array, and there are {[field.name for field in fields]}; choose by variable="
        raise ValueError(msg)
    field = fields[0]
    if field.dtype.name not in OME_TYPES:
        msg = (
            f"{field.name} holds {field.dtype}, and TIFF files of ImageJ and OME hold {', '.join(OME_TYPES)}; convert "
            "it by .astype, or export .vti or OME-Zarr"
        )
        raise ValueError(msg)
    if len(field.shape) < 2:
        msg = f"{field.name} has one axis, and a TIFF file holds images; export .vti or OME-Zarr"
        raise ValueError(msg)
    is_imagej = (
        not path.name.lower().endswith((".ome.tif", ".ome.tiff"))
        and field.dtype.name in IMAGEJ_TYPES
        and field.array.nbytes < MOST_BYTES
    )
    axes = "T" * field.has_samples + "Z" * (len(field.shape) == 3) + "C" * field.has_components + "YX"
    sizes = {"T": len(field.samples), "C": len(field.components), **dict(zip("XYZ", field.shape, strict=False))}
    shape = tuple(sizes[axis] for axis in axes)
    # ImageJ orders pages by channels first, then along z. OME is told the order.
    metadata = _metadata(field, axes, is_imagej=is_imagej)
    with tifffile.TiffWriter(path, bigtiff=not is_imagej, imagej=is_imagej, ome=not is_imagej) as file:
        file.write(
            _pages(field),
            shape=shape,
            dtype=field.dtype,
            photometric="minisblack",
            metadata=metadata,
            resolution=(1.0 / field.steps[0], 1.0 / field.steps[1]),
            resolutionunit="NONE",
        )


def _metadata(field: Exported, axes: str, *, is_imagej: bool) -> dict[str, Any]:
    unit = UNITS.get(field.unit or "", field.unit or "pixel")
    step = dict(zip("XYZ", field.steps, strict=False))
    first = dict(zip("XYZ", field.origin, strict=False)) if any(field.origin) else {}
    if is_imagej:
        found: dict[str, Any] = {"axes": axes, "unit": "um" if field.unit == "um" else unit}
        if "Z" in step:
            found["spacing"] = step["Z"]
        if field.value_unit:
            found["Info"] = field.title
        if field.components:
            # Each page has a label: first channels, then planes along z, then samples.
            found["Labels"] = [
                f"{sample} {component}".strip()
                for sample in field.samples or ("",)
                for _ in range(field.shape[2] if "Z" in step else 1)
                for component in field.components
            ]
        # ImageJ counts voxels, from the first one to the origin.
        return found | {f"{axis.lower()}origin": -place / step[axis] for axis, place in first.items() if place}
    found = {"axes": axes, "Name": field.title}
    for axis, size in step.items():
        found |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": unit}
    if field.components:
        found["Channel"] = {"Name": list(field.components)}
    if first:
        n_channels, n_times = max(1, len(field.components)), max(1, len(field.samples))
        depths = np.tile(np.repeat(np.arange(field.shape[2] if "Z" in step else 1), n_channels), n_times)
        found["Plane"] = {}
        for axis, place in first.items():
            places = place + step[axis] * (depths if axis == "Z" else 0 * depths)
            found["Plane"] |= {f"Position{axis}": places.tolist(), f"Position{axis}Unit": [unit] * len(places)}
    return found


def _pages(field: Exported) -> Iterator[Array]:
    """Yield the pages of a file: planes along z, and for each plane its components."""
    samples = range(len(field.samples)) if field.has_samples else (None,)
    for sample in samples:
        slabs = field.slabs(sample)
        # An image with two axes is one page.
        for planes in slabs if len(field.shape) == 3 else [np.concatenate(list(slabs))[None]]:
            for plane in planes:
                yield from np.moveaxis(plane, -1, 0) if field.has_components else [plane]
