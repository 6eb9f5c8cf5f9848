"""The phases of the voxels of an image, the names of phases, and where voxels were measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mksdask.arrays import Array, numbers_argument
from mksdask.importers.segmentation import Thresholds, Values, by_otsu, by_thresholds, by_values
from mksdask.importers.sources import ANGLES, Source


def choose_mapping(
    source: Source,
    data: Any,
    phases: Mapping[float, str | int] | Literal["values"] | None,
    thresholds: float | Sequence[float] | None,
    otsu: int | None,
) -> tuple[Values | Thresholds | None, list[str] | None]:
    """Choose the mapping of values to phases, and the names of the phases if the mapping holds names."""
    if ANGLES in source.axes and ((phases or "values") != "values" or thresholds or otsu):
        msg = "the dataset holds orientations, which have no grey levels; leave phases, thresholds and otsu out"
        raise ValueError(msg)
    if otsu is not None and source.missing is not None:
        msg = f"otsu={otsu} needs an image without voxels that were not measured; give thresholds= instead"
        raise ValueError(msg)
    if isinstance(phases, str) and phases == "values":
        return None, None
    if phases is not None:
        return by_values(phases)
    if thresholds is not None:
        return by_thresholds(np.atleast_1d(numbers_argument(thresholds, "thresholds")).tolist()), None
    return (None if otsu is None else by_otsu(data, otsu)), None


def choose_names(
    source: Source, names: Sequence[str] | None, found: list[str] | None, mapping: Values | Thresholds | None
) -> list[str] | None:
    """Choose the names of the phases: from the argument, from the mapping of values to names, or from the file."""
    if names is None:
        return found or (list(source.phases) if mapping is None and source.phases else None)
    if found is not None or mapping is None:
        shown_names = ",".join(f"{number}:{name}" for number, name in enumerate(names))
        msg = (
            f"names={list(names)} are for thresholds, otsu, or numbers in phases; leave names out if phases holds "
            "names already, or if the image is grey. The labels 0, 1, … of an image are named by "
            f"phases={dict(enumerate(names))} (--phases {shown_names})"
        )
        raise ValueError(msg)
    if len(names) != mapping.n_phases:
        msg = f"names must name {mapping.n_phases} phases, got {list(names)}"
        raise ValueError(msg)
    return list(names)


def mapped_fields(source: Source, data: Any, mapping: Values | Thresholds | None) -> dict[str, Any]:
    """Map the values of an image to phases, and say where they were measured, if the file says where they were not."""
    if mapping is None:
        fields = {"microstructure": data}
    else:
        kernel = mapping if source.missing is None else _Segmented(mapping, source.missing)
        fields = {"microstructure": _mapped(data, kernel, "segment")}
    if source.missing is not None:
        # Orientations that were not measured are NaN in all three angles.
        of_voxel = data[..., 0] if ANGLES in source.axes else data
        fields["confidence_index"] = _mapped(of_voxel, _Measured(source.missing), "measured")
    return fields


def _mapped(data: Any, kernel: Any, token: str) -> Any:
    return data.map_blocks(kernel, dtype=np.uint8, meta=np.empty((0,) * data.ndim, np.uint8), token=token)


@dataclass(frozen=True)
class _Measured:
    """The kernel that gives voxels the confidence 1, or 0 if they have the value of voxels that were not measured."""

    missing: float

    def __call__(self, block: Array) -> Array:
        return (~_is_missing(block, self.missing)).astype(np.uint8)


@dataclass(frozen=True)
class _Segmented:
    """The kernel that maps values to phases, and voxels that were not measured to phase 0."""

    mapping: Values | Thresholds
    missing: float

    def __call__(self, block: Array) -> Array:
        gaps = _is_missing(block, self.missing)
        phases = np.zeros(block.shape, dtype=np.uint8)
        phases[~gaps] = self.mapping(block[~gaps])
        return phases


def _is_missing(block: Array, missing: float) -> Array:
    """Find the voxels that have the value of voxels that were not measured, which may be NaN."""
    return np.isnan(block) if np.isnan(missing) else block == missing
