"""Sizes and places of voxels in TIFF files: of OME, ImageJ, vendors of microscopes, and baseline tags."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any
from xml.etree import ElementTree as ET

import tifffile

from mksdask.display.cards import printed_unit
from mksdask.importers.formats.dims import placed
from mksdask.importers.formats.pictures import spacing_of_dots
from mksdask.schema.units import METRES, converted, in_one_unit, length_unit

# Sizes, their unit, and what was assumed; None if the file does not say it in this way.
Sizes = tuple[dict[str, float], str | None, tuple[str, ...]]
# Centimetres of the tag ResolutionUnit, and dots per inch that printers have in centimetres too.
CENTIMETRE, INCH, PRINTERS = 3, 2, (72, 96, 150, 200, 300, 600, 1200)


def tiff_sizes(file: tifffile.TiffFile, series: int, *, has_depth: bool) -> Sizes:
    """Read the sizes of voxels.

    Parameters
    ----------
    file : TiffFile
        The open file.
    series : int
        Number of the series of pages.
    has_depth : bool
        Whether the image has an axis z.

    Returns
    -------
    spacing : dict
        Size along those of x, y, z for which the file states it.
    units : str or None
        Unit of the sizes, by the name of this package.
    assumed : tuple of str
        What the file does not say.

    Raises
    ------
    ValueError
        If a unit is not known.
    """
    for reader in (_ome, _imagej, _tifffile, _vendor):
        found = reader(file, series, has_depth)
        if found is not None:
            return found
    return _tags(file, series)


def tiff_origin(
    file: tifffile.TiffFile, series: int, spacing: Mapping[str, float], units: str | None, first: Mapping[str, int]
) -> dict[str, float]:
    """Read the position of the first voxel.

    ImageJ states which voxel lies at the origin, as a number of voxels: voxel i lies at (i - origin) · size. OME states
    where each plane lies.

    Parameters
    ----------
    file : TiffFile
        The open file.
    series : int
        Number of the series of pages.
    spacing, units
        What `tiff_sizes` found.
    first : dict
        Numbers of the first plane by the names of OME: ``TheZ``, ``TheC`` and ``TheT``.

    Returns
    -------
    dict
        Position along those of x, y, z for which the file states it, in the unit of the spacing. There is none if it is
        0.

    Raises
    ------
    ValueError
        If a unit is not known.
    """
    found: dict[str, float] = {}
    if not file.ome_metadata:
        stated = file.imagej_metadata or _json(file, series)
        # Where y rises upwards, the rows are kept as they lie, without their places.
        for axis in "xz" if stated.get("inverty") else "xyz":
            number = stated.get(f"{axis}origin")
            if isinstance(number, int | float):
                found[axis] = -number * spacing.get(axis, 1.0)
        return placed(found, spacing, spacing)
    where = f"{file.filehandle.path}: Position"
    listed = [plane for image in ome_images(file)[series : series + 1] for plane in image.findall("{*}Pixels/{*}Plane")]
    listed = [plane for plane in listed if all(int(plane.get(key, 0)) == number for key, number in first.items())]
    for plane in listed[:1]:
        for axis in spacing:
            place, unit = (plane.get(f"Position{axis.upper()}{word}") for word in ("", "Unit"))
            # Without a unit, places are in the frame of the microscope, which has any.
            if place is None or unit in (None, "reference frame"):
                continue
            name = length_unit(unit, where=where)
            if name is not None and units is not None:
                found[axis] = converted(float(place), name, units)
            elif name == units:
                found[axis] = float(place)
    return placed(found, spacing, spacing)


def ome_images(file: tifffile.TiffFile) -> list[ET.Element]:
    """List the images that the OME metadata describe. There are none without OME metadata."""
    return ET.fromstring(file.ome_metadata).findall("{*}Image") if file.ome_metadata else []


def _resolution(file: tifffile.TiffFile, series: int) -> tuple[dict[str, float], int]:
    """Read the dots per unit along x and y, and the number of the unit."""
    tags = file.series[series].keyframe.tags
    dots = {}
    for axis, name in (("x", "XResolution"), ("y", "YResolution")):
        value = tags.valueof(name)
        if value is not None:
            above, below = value if isinstance(value, tuple) else (value, 1)
            if above and below:
                dots[axis] = above / below
    return dots, int(tags.valueof("ResolutionUnit", default=INCH))


def _tags(file: tifffile.TiffFile, series: int) -> Sizes:
    """Read the baseline tags."""
    dots, unit = _resolution(file, series)
    if unit == CENTIMETRE:
        per_inch = {axis: 2.54 * number for axis, number in dots.items()}
        if any(abs(number - printer) < 0.1 for number in per_inch.values() for printer in PRINTERS):
            return spacing_of_dots(per_inch)
        return {axis: float(f"{1e4 / number:.12g}") for axis, number in dots.items()}, "um" if dots else None, ()
    if unit == INCH:
        return spacing_of_dots(dots)
    steps = {axis: 1 / number for axis, number in dots.items()}
    if len(set(steps.values())) > 1:
        # A resolution without a unit is the shape of a voxel.
        return steps, None, ()
    return {}, None, ()


def _ome(file: tifffile.TiffFile, series: int, has_depth: bool) -> Sizes | None:  # noqa: FBT001
    """Read the metadata of OME. Their default unit is the micrometre."""
    if not file.ome_metadata:
        return None
    images = ome_images(file)
    pixels = images[series].find("{*}Pixels") if series < len(images) else None
    if pixels is None:
        told = "the sizes of voxels are in another file, which the OME metadata name, and are not read; say spacing="
        return {}, None, (told,)
    axes = "xyz" if has_depth else "xy"
    stated = {axis: f"PhysicalSize{axis.upper()}" for axis in axes if f"PhysicalSize{axis.upper()}" in pixels.attrib}
    where = f"{file.filehandle.path}: PhysicalSize"
    units = {axis: length_unit(pixels.get(f"{key}Unit", "µm"), where=where) for axis, key in stated.items()}
    # A size of 0 stands for one that is not known.
    sizes = {axis: float(pixels.attrib[key]) for axis, key in stated.items() if float(pixels.attrib[key]) > 0}
    return (*in_one_unit(sizes, units), ())


def _imagej(file: tifffile.TiffFile, series: int, has_depth: bool) -> Sizes | None:  # noqa: FBT001
    """Read the metadata of ImageJ: dots per unit in the tags, and the distance of slices where it is not 1."""
    return None if not file.imagej_metadata else _calibrated(file, series, file.imagej_metadata, has_depth=has_depth)


def _tifffile(file: tifffile.TiffFile, series: int, has_depth: bool) -> Sizes | None:  # noqa: FBT001
    """Read the metadata that tifffile writes as JSON, with the words of ImageJ or of OME."""
    stated = _json(file, series)
    sizes = {axis: stated[key] for axis in "xyz" if (key := f"PhysicalSize{axis.upper()}") in stated}
    if sizes:
        where = f"{file.filehandle.path}: PhysicalSize"
        units = {axis: length_unit(stated.get(f"PhysicalSize{axis.upper()}Unit", "µm"), where=where) for axis in sizes}
        return (*in_one_unit({axis: float(size) for axis, size in sizes.items()}, units), ())
    if isinstance(stated.get("spacing"), int | float) or isinstance(stated.get("unit"), str):
        return _calibrated(file, series, stated, has_depth=has_depth)
    return None


def _json(file: tifffile.TiffFile, series: int) -> dict[str, Any]:
    """Read what tifffile writes as JSON."""
    text = file.series[series].keyframe.shaped_description
    try:
        return dict(json.loads(text)) if text else {}
    except ValueError:
        return {}


def _calibrated(file: tifffile.TiffFile, series: int, stated: Mapping[str, Any], *, has_depth: bool) -> Sizes | None:
    """Read a calibration by the rules of ImageJ."""
    dots, number = _resolution(file, series)
    name = stated.get("unit")
    unit = length_unit(name, where=f"{file.filehandle.path}: unit")
    steps = {axis: float(f"{1 / each:.12g}") for axis, each in dots.items()}
    depth = stated.get("spacing")
    calibration: tuple[str, ...] = ()
    if has_depth and depth is not None and float(depth):
        steps["z"] = abs(float(depth))
    if unit == "inch":
        found = spacing_of_dots(dots)
        return {axis: 2.54e4 * step for axis, step in steps.items()} if found[0] else {}, found[1], found[2]
    if unit is not None:
        # Axes may have units of their own.
        units = {
            axis: length_unit(stated.get(f"{axis}unit", name), where=f"{file.filehandle.path}: {axis}unit")
            for axis in "xyz"
        }
        if has_depth and depth is None and dots:
            # ImageJ writes no distance of slices if it is 1.
            steps["z"] = 1.0
            unit = printed_unit(units["z"] or "unit of length")
            calibration = (f"slices are 1 {unit} apart, because ImageJ writes no spacing if it is 1; say spacing=",)
        return (*in_one_unit(steps, units), calibration)
    if number != 1 and name is None:
        # Without a unit of ImageJ, the tags have one. The distance of slices has none.
        spacing, unit, assumed = _tags(file, series)
        if "z" in steps and steps["z"] != 1.0:
            assumed = (*assumed, f"a distance of slices of {steps['z']:g} without a unit is left out; say spacing=")
        return spacing, unit, assumed
    if len(set(steps.values())) > 1 and {"x", "y"} <= set(steps):
        return steps, None, ()
    return {}, None, ()


def _metres(value: Any) -> float:
    """Take a number of metres. What is no positive number gives 0."""
    return float(value) if isinstance(value, int | float) and value > 0 else 0.0


def _lsm(found: Mapping[str, Any]) -> tuple[float, float, float]:
    """Read the metadata of a confocal microscope of Zeiss."""
    x, y, z = (_metres(found.get(f"VoxelSize{axis}")) for axis in "XYZ")
    return x, y, z


def _fei(found: Mapping[str, Any]) -> tuple[float, float, float]:
    """Read the metadata of an electron microscope of FEI or Thermo Fisher."""
    scan = found.get("Scan") or found.get("EScan") or {}
    return _metres(scan.get("PixelWidth")), _metres(scan.get("PixelHeight")), 0.0


def _sem(found: Mapping[str, Any]) -> tuple[float, float, float]:
    """Read the metadata of an electron microscope of Zeiss: the name, the size, and its unit."""
    for key in ("ap_image_pixel_size", "ap_pixel_size"):
        if key in found and len(found[key]) > 2:
            size = _metres(found[key][1]) * METRES.get(str(found[key][2]).strip().replace("µ", "u"), 0.0)
            return size, size, 0.0
    return 0.0, 0.0, 0.0


def _sis(found: Mapping[str, Any]) -> tuple[float, float, float]:
    """Read the metadata of a microscope of Olympus."""
    return _metres(found.get("pixelsizex")), _metres(found.get("pixelsizey")), 0.0


def _tvips(found: Mapping[str, Any]) -> tuple[float, float, float]:
    """Read the metadata of a camera of TVIPS, in nanometres."""
    return 1e-9 * _metres(found.get("PixelSizeX")), 1e-9 * _metres(found.get("PixelSizeY")), 0.0


def _stk(found: Mapping[str, Any]) -> tuple[float, float, float]:
    """Read the metadata of MetaMorph, which name their unit."""
    metre = METRES.get(str(found.get("CalibrationUnits", "")).strip(), 0.0)
    return metre * _metres(found.get("XCalibration")), metre * _metres(found.get("YCalibration")), 0.0


def _micromanager(found: Mapping[str, Any]) -> tuple[float, float, float]:
    """Read the summary of Micro-Manager, in micrometres."""
    summary = found.get("Summary", {})
    size = 1e-6 * _metres(summary.get("PixelSize_um"))
    return size, size, 1e-6 * _metres(summary.get("z-step_um"))


_VENDORS: dict[str, Callable[[Mapping[str, Any]], tuple[float, float, float]]] = {
    "lsm_metadata": _lsm,
    "fei_metadata": _fei,
    "sem_metadata": _sem,
    "sis_metadata": _sis,
    "tvips_metadata": _tvips,
    "stk_metadata": _stk,
    "micromanager_metadata": _micromanager,
}


def _vendor(file: tifffile.TiffFile, series: int, has_depth: bool) -> Sizes | None:  # noqa: FBT001
    """Read the metadata of vendors of microscopes, as tifffile gives them."""
    for name, sizes_of in _VENDORS.items():
        found = getattr(file, name)
        if isinstance(found, Mapping):
            sizes = dict(zip("xyz" if has_depth else "xy", sizes_of(found), strict=False))
            steps = {axis: float(f"{1e6 * size:.12g}") for axis, size in sizes.items() if size}
            if steps:
                return steps, "um", ()
    return None
