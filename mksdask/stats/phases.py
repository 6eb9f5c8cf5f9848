"""Checks of the arguments of functions of one phase."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from mksdask.arrays import ArrayLike, unwrap_volume
from mksdask.bases.primitive import PrimitiveBasis
from mksdask.samples import Grid, Samples, Volume


def phases_argument(volume: ArrayLike, phase: Any) -> tuple[Any, xr.DataArray | None]:
    """Check a volume of phase numbers, and the number of a phase, and split the volume into its data and its labels.

    Raises
    ------
    ValueError
        If the volume holds something else, or `phase` is no number of a phase.
    """
    data, labels = unwrap_volume(volume)
    if not 1 <= data.ndim <= 3 or 0 in data.shape or data.dtype.kind not in "biu":
        msg = f"volume must hold phase numbers along 1 to 3 axes, got shape {tuple(data.shape)} of {data.dtype}"
        raise ValueError(msg)
    _check_phase(phase, () if labels is None else Grid.of(labels, data.shape, None, first=0).phases)
    return data, labels


def volume_of_phases(
    volume: ArrayLike,
    phase: Any,
    periodic_axes: int | Sequence[int] | None,
    confidence_index: ArrayLike | None,
) -> Volume:
    """Check a volume of phase numbers, the number of a phase, and the mask, and make the volume.

    Raises
    ------
    ValueError
        If the volume holds something else, `phase` is no number of a phase, or the mask has another shape.
    """
    phases_argument(volume, phase)
    return Volume.of(volume, PrimitiveBasis(2), periodic_axes=periodic_axes, confidence_index=confidence_index)


def samples_of_phases(
    X: ArrayLike,
    phase: Any,
    size: Sequence[int] | None,
    periodic_axes: int | Sequence[int] | None,
    confidence_index: ArrayLike | None,
) -> Samples:
    """Check samples of phase numbers, and the number of a phase, and make the samples.

    Raises
    ------
    ValueError
        If the samples hold something else, or `phase` is no number of a phase.
    """
    masks = {"confidence_index": confidence_index, "periodic_axes": periodic_axes}
    samples = Samples.of(X, PrimitiveBasis(2), size=size, **masks)  # type: ignore[arg-type]
    if samples.data.dtype.kind not in "biu":
        msg = f"X must hold phase numbers, got {samples.data.dtype}; use X.astype(int) if they are"
        raise ValueError(msg)
    _check_phase(phase, samples.grid.phases)
    return samples


def _check_phase(phase: Any, names: Sequence[str]) -> None:
    is_integer = isinstance(phase, int | np.integer) and not isinstance(phase, bool)
    if not is_integer or (names and not 0 <= phase < len(names)):
        known = f"; the phases are {', '.join(f'{i} {name}' for i, name in enumerate(names))}" if names else ""
        msg = f"phase must be the number of a phase, such as 0, got {phase!r}{known}"
        raise ValueError(msg)
