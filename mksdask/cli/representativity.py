"""How exact the volume fractions of a volume are, as commands tell it with --representative."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from mksdask.display.cards import printed_unit
from mksdask.stats.representativity import edge_of, phase_fraction_interval

# The confidence of the intervals.
CONFIDENCE = 0.95


def told_intervals(stored: xr.Dataset, *, as_json: bool) -> list[Any]:
    """Compute the intervals of a volume, as entries for JSON or as sentences."""
    intervals = intervals_of(stored)
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
                "wanted_error": float(wanted),
                "needed_size": size,
                "units": units,
                "n_axes": volume.ndim,
            }
        )
    return found


def _sentence(**row: Any) -> str:
    """Write an interval as a sentence, such as "pore 19.6 ± 0.7 % (95 %); ± 0.2 % needs a cube of 1900 µm"."""
    digits, shape = max(0, -int(np.floor(np.log10(100.0 * row["error"])))), {1: "line", 2: "square", 3: "cube"}
    size = float(f"{row['needed_size']:.2g}")
    return (
        f"{row['phase']} {100 * row['fraction']:.{digits}f} ± {100 * row['error']:.{digits}f} % "
        f"({row['confidence']:.0%}); ± {100 * row['wanted_error']:g} % needs a {shape[row['n_axes']]} of {size:.12g} "
        f"{printed_unit(row['units'])}"
    ).replace("95%", "95 %")
