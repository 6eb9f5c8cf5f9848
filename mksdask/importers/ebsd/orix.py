"""EBSD maps of orix: `CrystalMap` objects, and the HDF5 files that orix and kikuchipy write.

orix keeps the Euler angles of the file from which it read a map, so that their frame is that of the vendor.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mksdask.arrays import Array
from mksdask.importers.ebsd.hdf5 import numbers_of, opened, texts_of
from mksdask.importers.ebsd.maps import EbsdFile, Phase, Records, header_value, laue_group_of
from mksdask.importers.sources import members
from mksdask.schema.units import length_unit


def is_crystal_map(value: Any) -> bool:
    """Whether a value is a `CrystalMap` of orix."""
    return any(each.__module__.startswith("orix.") and each.__name__ == "CrystalMap" for each in type(value).__mro__)


@dataclass(frozen=True, eq=False)
class OrixMap(EbsdFile):
    """A map in memory.

    Parameters
    ----------
    path, shape, step, phases, axes, frame
        See `EbsdFile`.
    records : Records, of shape (n_points,)
        All records of the map.
    """

    records: Records = field(default_factory=lambda: Records(*[np.empty(0)] * 3), repr=False)

    @classmethod
    def open(cls, path: str, axes: tuple[str, str], frame: str, scan: str) -> OrixMap:
        """Read a map from an HDF5 file. If a point has several orientations, the first one is taken."""
        with opened(path) as file:
            header, data = texts_of(path, file[f"{scan}/header"]), file[f"{scan}/data"]
            phases = {
                int(number): texts_of(path, entry) for number, entry in members(file.get(f"{scan}/header/phases", {}))
            }
            symmetries = {
                number: (facts.get("name", ""), facts.get("space_group", ""), facts.get("point_group", ""))
                for number, facts in phases.items()
            }
            missing = [name for name in ("phi1", "Phi", "phi2", "phase_id", "x", "y") if name not in data]
            if missing:
                msg = f"{path}: {scan}/data has no {missing[0]}; it holds {sorted(data)}"
                raise ValueError(msg)
            n = int(data["phase_id"].shape[0])
            angles = [numbers_of(path, data[name]).reshape(n, -1)[:, 0] for name in ("phi1", "Phi", "phi2")]
            x, y = (np.broadcast_to(numbers_of(path, data[axis]), n) for axis in "xy")
            is_in_data = numbers_of(path, data["is_in_data"]).astype(bool) if "is_in_data" in data else np.ones(n, bool)
            confidence = numbers_of(path, data["ci"]) if "ci" in data else np.ones(n)
            steps = [header_value(path, header, f"{axis}_step", float) for axis in "xy"]
            phase = np.where(is_in_data, numbers_of(path, data["phase_id"]), -1)
        unit, euler = header.get("scan_unit", "px"), np.stack(angles, axis=-1)
        return cls._made(path, euler, phase, confidence, (x, y), steps, symmetries, unit, axes, frame)

    @classmethod
    def of(cls, crystal_map: Any, axes: tuple[str, str], frame: str) -> OrixMap:
        """Take a map from a `CrystalMap`. If a point has several orientations, the first one is taken."""
        if crystal_map.ndim > 2:
            msg = f"the CrystalMap has {crystal_map.ndim} axes, expected 1 or 2; select one layer of it"
            raise ValueError(msg)
        rotations = crystal_map.rotations
        angles = np.asarray(rotations.to_euler()).reshape(crystal_map.size, -1, 3)[:, 0]
        symmetries = {
            int(number): (
                str(phase.name),
                str(getattr(phase.space_group, "number", "")),
                str(getattr(phase.point_group, "name", "")),
            )
            for number, phase in crystal_map.phases
        }
        n = crystal_map.size
        x, y = (np.zeros(n) if along is None else np.asarray(along) for along in (crystal_map.x, crystal_map.y))
        confidence = np.asarray(crystal_map.prop["ci"] if "ci" in crystal_map.prop else np.ones(n)).reshape(n, -1)[:, 0]
        steps = [float(crystal_map.dx), float(crystal_map.dy)]
        phase = np.asarray(crystal_map.phase_id)
        unit = str(crystal_map.scan_unit)
        return cls._made("CrystalMap", angles, phase, confidence, (x, y), steps, symmetries, unit, axes, frame)

    @classmethod
    def _made(
        cls,
        path: str,
        angles: Array,
        phase_id: Array,
        confidence: Array,
        positions: tuple[Array, Array],
        steps: list[float],
        symmetries: dict[int, tuple[str, str, str]],
        scan_unit: str,
        axes: tuple[str, str],
        frame: str,
    ) -> OrixMap:
        """Put records on their places. Places without a record are not indexed."""
        # A step of 0 stands for an axis with one point.
        step = tuple(value if value > 0 else max(*steps, 1.0 if max(steps) <= 0 else 0.0) for value in steps)
        columns, rows = (np.round((along - along.min()) / width) for along, width in zip(positions, step, strict=True))
        for axis, along, cells, width in zip("xy", positions, (columns, rows), step, strict=True):
            if np.abs(along - along.min() - cells * width).max() > 0.1 * width:
                msg = f"{path}: the points do not lie on a grid with the step {width:g} along {axis}"
                raise ValueError(msg)
        shape = int(columns.max()) + 1, int(rows.max()) + 1
        places = (rows * shape[0] + columns).astype(np.int64)
        if len(np.unique(places)) != len(places):
            msg = f"{path}: several points lie at one place of the grid of {shape[0]} × {shape[1]} points"
            raise ValueError(msg)
        # orix counts phases from 0, or from 1, and -1 stands for no phase.
        first = int(0 in symmetries)
        phases = []
        for number, (name, text, symbol) in sorted(symmetries.items()):
            if number >= 0:
                group = laue_group_of(path, name, space_group=int(text) if text.isdigit() else None, symbol=symbol)
                phases.append(Phase(number + first, name, group))
        n = shape[0] * shape[1]
        records = Records(np.full((n, 3), np.nan), np.zeros(n, np.int64), np.zeros(n, np.float32))
        is_indexed = phase_id >= 0
        records.angles[places] = angles
        records.phase[places] = np.where(is_indexed, phase_id + first, 0)
        records.confidence[places] = np.where(is_indexed, np.clip(np.nan_to_num(confidence), 0, 1), 0)
        unit = length_unit(scan_unit, where=path) or "voxel"
        return cls(path, shape, (step[0], step[1]), tuple(phases), axes, frame, units=unit, records=records)

    def read(self, start: int, stop: int) -> Records:
        """Return the records from `start` to `stop`."""
        return Records(*(part[start:stop] for part in self.records))
