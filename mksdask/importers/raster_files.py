"""Images in TIFF files, and in PNG, JPEG and BMP files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import tifffile
from PIL import Image

from mksdask.arrays import Array, as_lazy
from mksdask.importers.sources import Choice, Source, lazy_slabs
from mksdask.importers.units import length_unit


@dataclass(frozen=True)
class _Sequence:
    """The kernel that reads images from a sequence of files, each of which holds one image."""

    files: tuple[Path, ...]
    shape: tuple[int, ...]
    dtype: Any

    def __call__(self, first: int, last: int) -> Array:
        slab = np.empty((last - first, *self.shape), dtype=self.dtype)
        for number, file in enumerate(self.files[first:last]):
            image = read_image(file)
            if image.shape != self.shape or image.dtype != self.dtype:
                msg = (
                    f"{file} is an image of shape {image.shape} and dtype {image.dtype}, but the first image of the "
                    f"sequence has shape {self.shape} and dtype {self.dtype}; all must be alike"
                )
                raise ValueError(msg)
            slab[number] = image
        return slab


def read_image(path: Path) -> Array:
    """Read the grey levels of an image, (rows, columns).

    Raises
    ------
    ValueError
        If the image has colours.
    """
    if path.suffix.lower() in (".tif", ".tiff"):
        image = tifffile.imread(path)
    else:
        with Image.open(path) as opened:
            # An image with a palette gives its indices, which are labels.
            image = np.asarray(opened)
    if (
        image.ndim == 3
        and image.shape[-1] in (3, 4)
        and all(np.array_equal(image[..., 0], image[..., i]) for i in (1, 2))
    ):
        image = image[..., 0]
    if image.ndim != 2:
        msg = f"{path} must be one image of grey levels, got an array of shape {image.shape}; convert colours to grey"
        raise ValueError(msg)
    return np.asarray(image)


def open_sequence(files: Sequence[Path], choice: Choice) -> Source:
    """Open one image, which is loaded whole, or a sequence of images as slices along z."""
    choice.check(files[0])
    image = read_image(files[0])
    spacing, units = _tiff_spacing(files[0]) if files[0].suffix.lower() in (".tif", ".tiff") else ({}, None)
    if len(files) == 1:
        return Source(as_lazy(image, -1), "yx", spacing, units)
    read = _Sequence(tuple(files), image.shape, image.dtype)
    return Source(lazy_slabs(read, (len(files), *image.shape), image.dtype), "zyx", spacing, units)


@dataclass(frozen=True)
class _TiffPages:
    """The kernel that reads pages of a TIFF file, or slices of a stack that is stored in one piece."""

    path: Path
    in_one_piece: bool

    def __call__(self, first: int, last: int) -> Array:
        if self.in_one_piece:
            return np.asarray(tifffile.memmap(self.path, mode="r")[first:last])
        pages = tifffile.imread(self.path, key=range(first, last))
        return np.asarray(pages if last - first > 1 else pages[None])


def open_tiff(path: Path, choice: Choice) -> Source:
    """Open a TIFF file of one image, or of a stack of images."""
    choice.check(path)
    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        shape, names, dtype = series.shape, series.axes, series.dtype
        in_one_piece = series.dataoffset is not None and len(series.pages) == 1 and len(shape) > 2
        n_pages = len(series.pages)
    spacing, units = _tiff_spacing(path)
    if "S" in names and len(shape) > 2:
        msg = f"{path} has {shape[names.index('S')]} colours in each voxel; convert it to grey levels"
        raise ValueError(msg)
    if len(shape) == 2:
        return Source(as_lazy(read_image(path), -1), "yx", spacing, units)
    if len(shape) != 3 or not (in_one_piece or n_pages == shape[0]):
        msg = f"{path} has the axes {names} of lengths {shape}; expected one image, or a stack of images"
        raise ValueError(msg)
    return Source(lazy_slabs(_TiffPages(path, in_one_piece), shape, dtype), "zyx", spacing, units)


def _tiff_spacing(path: Path) -> tuple[dict[str, float], str | None]:
    """Read the spacing and its unit from OME or ImageJ metadata, or from baseline tags in centimetres.

    A resolution in dots per inch is ignored, because it does not describe the voxels of a microscope.
    """
    with tifffile.TiffFile(path) as file:
        if file.ome_metadata:
            pixels = ET.fromstring(file.ome_metadata).find(".//{*}Pixels")
            found = {} if pixels is None else pixels.attrib
            spacing = {axis: float(found[key]) for axis in "xyz" if (key := f"PhysicalSize{axis.upper()}") in found}
            return spacing, length_unit(found.get("PhysicalSizeXUnit", "µm"), where=str(path)) if spacing else None
        tags = file.pages[0].tags
        steps = {}
        for axis, tag in (("x", "XResolution"), ("y", "YResolution")):
            if tag in tags:
                dots, of = tags[tag].value
                if dots:
                    steps[axis] = of / dots
        if file.imagej_metadata and file.imagej_metadata.get("unit"):
            unit = length_unit(file.imagej_metadata["unit"], where=str(path))
            if "spacing" in file.imagej_metadata:
                steps["z"] = float(file.imagej_metadata["spacing"])
            return (steps, unit) if unit not in (None, "inch") else ({}, None)
        if steps and "ResolutionUnit" in tags and int(tags["ResolutionUnit"].value) == 3:
            return {axis: 1e4 * step for axis, step in steps.items()}, "um"
    return {}, None
