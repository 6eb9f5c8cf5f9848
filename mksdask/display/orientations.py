"""Colours of crystal orientations: which direction of the crystal lies along a direction of the sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mksdask.types import Array

# Order of the main axis, and whether mirrors hold it, of the Laue groups whose sector is bounded by such an axis. The
# sector of the group begins at this azimuth from x, in degrees.
_AXES = {
    "triclinic": (1, False, 0.0),
    "monoclinic": (2, False, 0.0),
    "orthorhombic": (2, True, 0.0),
    "tetragonal-low": (4, False, 0.0),
    "tetragonal": (4, True, 0.0),
    "trigonal-low": (3, False, 0.0),
    "trigonal": (3, True, -30.0),
    "hexagonal-low": (6, False, 0.0),
    "hexagonal": (6, True, 0.0),
}
# Directions that are red, green and blue, as a legend names them.
CORNERS = {
    "cubic": ("001", "101", "111"),
    "cubic-low": ("001", "101", "111"),
    "hexagonal": ("c", "a", "30° from a"),
    "tetragonal": ("001", "100", "110"),
    "orthorhombic": ("001", "100", "010"),
}
# Shares of the corners are raised to this power, which makes the middle of the sector nearly white.
_POWER = 0.7
# Colour of points that are not indexed. No direction has it.
NOWHERE = 0.0


def ipf_colours(angles: Array, laue_group: str = "cubic", direction: Sequence[float] = (0.0, 0.0, 1.0)) -> Array:
    """Colour orientations by the direction of the crystal that lies along a direction of the sample.

    This is the colour key of inverse pole figures (IPF). The direction of the crystal is turned by the symmetry of the
    crystal into a sector of the sphere. Its colour is red at the main axis, and green and blue at the two other corners
    of the sector; between them it is mixed from the shares of the corners. Cubic crystals are red if a <001> lies along
    the direction of the sample, green for <101> and blue for <111>; hexagonal ones red for the c axis, green for an
    axis a and blue between two of them. Triclinic crystals are white at the axis c, and have a circle of colours across
    it. Crystals of m-3 have the colours of m-3m.

    Parameters
    ----------
    angles : ndarray, shape (..., 3)
        Bunge angles φ1, Φ, φ2 in radians: active rotations from crystal to sample.
    laue_group : str, default "cubic"
        Laue group of the crystals, as in `GSHBasis`.
    direction : sequence of 3 floats
        Direction of the sample. Default: z.

    Returns
    -------
    ndarray, shape (..., 3), float64
        Red, green and blue from 0 to 1. Black where an angle is NaN.

    Raises
    ------
    ValueError
        If there is no such Laue group.

    References
    ----------
    Nolze, G. & Hielscher, R. Orientations – perfectly colored. J. Appl. Cryst. 49 (2016) 1786.

    Examples
    --------
    >>> import numpy as np
    >>> ipf_colours(np.array([[0.3, 0.0, 0.1], [0.0, np.pi / 4, 0.0]])).round(3).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """
    if laue_group not in _AXES and laue_group not in ("cubic", "cubic-low"):
        msg = f"laue_group must be one of {', '.join((*_AXES, 'cubic-low', 'cubic'))}, got {laue_group!r}"
        raise ValueError(msg)
    sample = np.asarray(direction, dtype=float) / np.linalg.norm(direction)
    found = _in_crystal(np.asarray(angles, dtype=float), sample)
    shares = _cubic(found) if laue_group.startswith("cubic") else _uniaxial(found, *_AXES[laue_group])
    with np.errstate(invalid="ignore", divide="ignore"):
        colours = (shares / shares.max(axis=-1, keepdims=True)) ** _POWER
    return np.where(np.isfinite(colours), colours, NOWHERE)


def phase_ipf_colours(angles: Array, phase: Array | None, laue_groups: Sequence[str]) -> Array:
    """Colour the orientations of several phases, each by the key of its Laue group; see `ipf_colours`.

    Parameters
    ----------
    angles : ndarray, shape (..., 3)
        Bunge angles in radians.
    phase : ndarray of int, shape (...,), or None
        Number of the phase of each point, or None if there is only one.
    laue_groups : sequence of str
        Laue group of each phase, by its number; "" for the number of points that are not indexed.

    Returns
    -------
    ndarray, shape (..., 3), float64
        Red, green and blue from 0 to 1. Black where there is no orientation.

    Raises
    ------
    ValueError
        If the crystals have several Laue groups, and `phase` is None.
    """
    known = {group for group in laue_groups if group}
    if phase is None or len(known) == 1:
        if len(known) != 1:
            msg = f"the crystals have the Laue groups {sorted(known)}; give the phase of each point, or one group"
            raise ValueError(msg)
        return ipf_colours(angles, known.pop())
    colours = np.full(angles.shape, NOWHERE)
    for group in known:
        is_there = np.isin(phase, [number for number, each in enumerate(laue_groups) if each == group])
        colours[is_there] = ipf_colours(angles[is_there], group)
    return colours


def legend(laue_groups: Sequence[str]) -> str:
    """Say in one line what the colours mean."""
    known = sorted({group for group in laue_groups if group})
    texts = [
        "{}: red {}, green {}, blue {}".format(group, *CORNERS[group]) if group in CORNERS else group for group in known
    ]
    return "crystal direction along z; " + "; ".join(texts)


def _in_crystal(angles: Array, sample: Array) -> Array:
    """Return a direction of the sample in the axes of the crystals: R⁻¹ v, with R = Rz(φ1) Rx(Φ) Rz(φ2)."""
    phi1, tilt, phi2 = np.moveaxis(angles, -1, 0)
    x = sample[0] * np.cos(phi1) + sample[1] * np.sin(phi1)
    y = sample[1] * np.cos(phi1) - sample[0] * np.sin(phi1)
    y, z = y * np.cos(tilt) + sample[2] * np.sin(tilt), sample[2] * np.cos(tilt) - y * np.sin(tilt)
    return np.stack([x * np.cos(phi2) + y * np.sin(phi2), y * np.cos(phi2) - x * np.sin(phi2), z], axis=-1)


def _cubic(directions: Array) -> Array:
    """Write directions as sums of 001, 101 and 111, after symmetry has made 0 ≤ y ≤ x ≤ z of them."""
    y, x, z = np.moveaxis(np.sort(np.abs(directions), axis=-1), -1, 0)
    return np.stack([z - x, np.sqrt(2.0) * (x - y), np.sqrt(3.0) * y], axis=-1)


def _uniaxial(directions: Array, order: int, has_mirrors: bool, first: float) -> Array:  # noqa: FBT001
    """Write directions as sums of the main axis and of the two ends of the sector of azimuths."""
    x, y, z = np.moveaxis(directions, -1, 0)
    if order % 2:
        # There is an inversion, and no mirror across the main axis.
        sign = np.where(z < 0, -1.0, 1.0)
        x, y = x * sign, y * sign
    period = 2.0 * np.pi / order
    azimuth = (np.arctan2(y, x) - np.deg2rad(first)) % period
    width = period / 2 if has_mirrors else period
    azimuth = np.minimum(azimuth, period - azimuth) if has_mirrors else azimuth
    across = np.hypot(x, y)
    if order == 1:
        # A circle of colours, and white in its middle.
        hue = azimuth[..., None] / period - np.array([0.0, 1.0, 2.0]) / 3.0
        colour = np.clip(2.0 - 6.0 * np.abs(hue - np.round(hue)), 0.0, 1.0)
        return np.abs(z)[..., None] + across[..., None] * colour
    if width < np.pi - 1e-9:
        ends = np.sin(width - azimuth) / np.sin(width), np.sin(azimuth) / np.sin(width)
    else:
        ends = 1.0 - azimuth / width, azimuth / width
    return np.stack([np.abs(z), across * ends[0], across * ends[1]], axis=-1)
