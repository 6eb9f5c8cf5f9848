"""How exact the volume fractions of a volume are, as commands tell it with --representative."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from mksdask.display.cards import printed_unit
from mksdask.stats.representativity import edge_of, phase_fraction_interval

# The confidence of the intervals.
CONFIDENCE = 0.95


def told(intervals: list[dict[str, Any]], *, as_json: bool) -> list[Any]:
    """Tell the intervals of a volume, as entries for JSON or as sentences."""
    return [*intervals] if as_json else [_sentence(**interval) for interval in intervals]


def intervals_of(stored: xr.Dataset) -> list[dict[str, Any]]:
    """Find the interval of the fraction of each phase of a volume, and the size that would give a smaller error."""
    volume = stored["phase"] if "phase" in stored else stored["microstructure"]
    phases = None if volume.attrs.get("phases") else np.asarray(np.unique(volume.data)).tolist()
    mask = stored.get("confidence_index")
    table = phase_fraction_interval(volume, phases=phases, confidence_index=mask).compute()
    units, found = str(volume[volume.dims[0]].attrs.get("units", "voxel")), []
    for number, phase in enumerate(table.phase.to_numpy()):
        row = table.isel(phase=number)
        error = float(row.error)
        if not error > 0:
            continue
        name = str(row.name_of_phase.item()) if "name_of_phase" in row.coords else f"phase {phase}"
        # The smaller error is a third, rounded down to 1, 2 or 5 with zeros.
        power = 10.0 ** np.floor(np.log10(error / 3.0))
        wanted = power * max(step for step in (1, 2, 5) if step * power <= error / 3.0)
        size = float(edge_of(row, wanted, CONFIDENCE, volume.ndim))
        found.append(
            {
                "phase": name,
                "fraction": float(row.fraction),
                "error": error,
                "confidence": CONFIDENCE,
                "integral_range": float(row.integral_range),
                "wanted_error": float(wanted),
                "needed_size": size,
                "units": units,
                "n_axes": volume.ndim,
            }
        )
    return found


def _sentence(**row: Any) -> str:
    """Write an interval as a sentence: "pore (19.6 ± 0.7) % of the volume (95 %)", and the size for a smaller one."""
    digits, axes = max(0, -int(np.floor(np.log10(100.0 * row["error"])))), row["n_axes"]
    shape, whole = {1: ("line", "length"), 2: ("square", "area"), 3: ("cube", "volume")}[axes]
    size = float(f"{row['needed_size']:.2g}")
    return (
        f"{row['phase']} ({100 * row['fraction']:.{digits}f} ± {100 * row['error']:.{digits}f}) % of the {whole} "
        f"({row['confidence']:.0%}); ± {100 * row['wanted_error']:g} % of the {whole} needs a {shape} of "
        f"{size:.12g} {printed_unit(row['units'])}"
    ).replace("95%", "95 %")
