"""Units of length, as files name them and as this package names them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Length of each unit in metres, by the name that this package uses.
METRES = {"m": 1.0, "cm": 1e-2, "mm": 1e-3, "um": 1e-6, "nm": 1e-9, "angstrom": 1e-10, "pm": 1e-12, "inch": 2.54e-2}
# Words that files use for these names, in lower case.
_WORDS = {
    "m": ("meter", "metre", "meters", "metres"),
    "cm": ("centimeter", "centimetre", "centimeters", "centimetres"),
    "mm": ("millimeter", "millimetre", "millimeters", "millimetres"),
    "um": ("µm", "μm", "\\u00b5m", "micron", "microns", "micrometer", "micrometre", "micrometers", "micrometres"),
    "nm": ("nanometer", "nanometre", "nanometers", "nanometres"),
    "angstrom": ("å", "å", "angstroms", "ångström", "ångstrom"),
    "pm": ("picometer", "picometre", "picometers", "picometres"),
    "inch": ("in", "inches", '"'),
}
_NAMES = {word: name for name, words in _WORDS.items() for word in (name, *words)}
# Words for the absence of a unit.
_NO_UNIT = ("", "pixel", "pixels", "px", "voxel", "voxels", "none", "unknown", "reference frame")
# The unit of stores whose voxel sizes are known, and their unit is not.
UNKNOWN = "unit"


def length_unit(stated: Any, *, where: str) -> str | None:
    """Return the name that this package uses for a unit of length, or None if there is no unit.

    Parameters
    ----------
    stated : str, bytes or None
        Unit, as a file or an argument states it, such as "micron" or b"µm".
    where : str
        What states it, for the message of the error, such as the path of a file.

    Raises
    ------
    ValueError
        If it is no known unit of length.

    Examples
    --------
    >>> length_unit("Microns", where="scan.tif"), length_unit("pixel", where="scan.tif")
    ('um', None)
    """
    text = stated.decode("utf-8", "replace") if isinstance(stated, bytes) else "" if stated is None else str(stated)
    text = text.strip("\x00 \t\r\n")
    if text.lower() in _NO_UNIT:
        return None
    if text.lower() not in _NAMES:
        msg = f"{where}: {text!r} is no known unit of length; the known ones are {', '.join(METRES)}"
        raise ValueError(msg)
    return _NAMES[text.lower()]


def length_argument(units: str) -> str:
    """Check the argument `units` of a public call, and return the name that this package uses for it.

    Raises
    ------
    ValueError
        If it is no known unit of length.

    Examples
    --------
    >>> length_argument("µm"), length_argument("pixel"), length_argument("unit")
    ('um', 'voxel', 'unit')
    """
    text = units.strip().lower()
    if text in (UNKNOWN, *_NO_UNIT):
        return UNKNOWN if text == UNKNOWN else "voxel"
    if text not in _NAMES:
        msg = (
            f"units must be a unit of length, such as 'um', got {units!r}; the known ones are {', '.join(METRES)}. Say "
            f"'voxel' if lengths count voxels, or {UNKNOWN!r} if their unit is another one or not known"
        )
        raise ValueError(msg)
    return _NAMES[text]


def named_as_here(units: str) -> str:
    """Return the name that this package uses for a unit that an array states, or the text itself if it is not known."""
    return _NAMES.get(units.strip().lower(), units)


def in_one_unit(steps: Mapping[str, float], units: Mapping[str, str | None]) -> tuple[dict[str, float], str | None]:
    """Convert voxel sizes that are stated in several units to the unit of the first axis.

    Parameters
    ----------
    steps : dict
        Voxel size along each axis for which a file states it.
    units : dict
        Unit of each axis, by the name of this package.

    Returns
    -------
    steps : dict
        Voxel size along each axis in one unit.
    unit : str or None
        This unit.

    Raises
    ------
    ValueError
        If some axes have a unit and others have none.

    Examples
    --------
    >>> in_one_unit({"x": 500.0, "z": 2.0}, {"x": "nm", "z": "um"})
    ({'x': 500.0, 'z': 2000.0}, 'nm')
    """
    found = {axis: units.get(axis) for axis in sorted(steps)}
    known = {axis: unit for axis, unit in found.items() if unit is not None}
    if not known:
        return dict(steps), None
    if len(known) < len(found):
        msg = f"the voxel sizes {dict(steps)} have the units {found}; give spacing= and units= for all axes"
        raise ValueError(msg)
    unit = next(iter(known.values()))
    return {axis: converted(step, known[axis], unit) for axis, step in steps.items()}, unit


def converted(length: float, unit: str, wanted: str) -> float:
    """Convert a length from one unit of `METRES` to another.

    Examples
    --------
    >>> converted(2.0, "um", "nm")
    2000.0
    """
    # Rounding to 15 digits keeps 2 um at exactly 2000 nm.
    return length if unit == wanted else float(f"{length * METRES[unit] / METRES[wanted]:.15g}")
