"""The microstructure function of one volume.

Blocks of the volume are expanded into the fields c m[h; s], a few planes at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import DTypeLike

from mksdask.arrays import Array
from mksdask.bases.base import Basis
from mksdask.samples import Volume, check_confidence
from mksdask.stats.pairs import indices_of, lag_labels
from mksdask.stats.pencils import three_axes

# This many voxels of a block are expanded together. That is large enough for huge pages of memory.
SLAB_VOXELS = 2**22


@dataclass(frozen=True)
class VolumeCorrelation:
    """A volume, and the statistics to compute of it.

    Parameters
    ----------
    volume : Volume
        Volume whose statistics are computed.
    pairs : tuple of (int, int)
        Pairs of state labels.
    dtype : dtype
        Real precision of the fields.
    """

    volume: Volume
    pairs: tuple[tuple[int, int], ...]
    dtype: np.dtype[Any]

    @property
    def is_real(self) -> bool:
        """Whether fields and statistics are real."""
        return not self.volume.basis.is_complex

    @property
    def result_dtype(self) -> np.dtype[Any]:
        """The dtype of fields and statistics."""
        return self.volume.basis.result_dtype(self.dtype)

    @property
    def indices(self) -> tuple[tuple[int, int], ...]:
        """Pairs of positions of states in the basis."""
        return indices_of(self.pairs, self.volume.basis)

    @property
    def fields(self) -> VolumeFields:
        """Expansion of blocks into the states of the pairs."""
        states = tuple(sorted({state for pair in self.indices for state in pair}))
        return VolumeFields(self.volume.basis, len(self.volume.spatial), states, self.dtype)

    def label(self, array: Any, lags: Sequence[Array], name: str) -> Any:
        """Label statistics by lag and pair, if the volume is labelled."""
        volume = self.volume
        if volume.labels is None:
            return array
        dims, coords = lag_labels(volume.grid, lags, self.pairs, volume.basis)
        return xr.DataArray(array, dims=dims, coords=coords, name=name, attrs=dict(volume.labels.attrs))


@dataclass(frozen=True)
class VolumeFields:
    """Expansion of blocks of a volume into fields c m[h; s], a few planes at a time.

    Parameters
    ----------
    basis : Basis
        Basis of the local state.
    n_spatial : int
        Number of spatial axes of the volume.
    states : tuple of int
        Positions in the basis of the states to compute.
    dtype : dtype
        Real precision of the fields.
    """

    basis: Basis
    n_spatial: int
    states: tuple[int, ...]
    dtype: np.dtype[Any]

    def of_block(self, values: Array, confidence: Array | None) -> Iterator[tuple[int, int, Array]]:
        """Expand a block, and yield for a few planes at a time the first plane, the state, and its field.

        Where c = 0, the values of the block do not matter.

        Raises
        ------
        ValueError
            If a value is NaN or outside the domain, or a weight lies outside [0, 1].
        """
        values = values.reshape(*three_axes(values.shape[: self.n_spatial], 1), *values.shape[self.n_spatial :])
        if confidence is not None:
            confidence = confidence.reshape(values.shape[:3])
        for planes in _slabs(values):
            weights = None if confidence is None else confidence[planes]
            if weights is not None:
                check_confidence(weights)
            expanded = self.basis.weighted_fields(values[planes], weights, self.states, self.dtype)
            for state, field in zip(self.states, expanded, strict=True):
                yield planes.start, state, field


def mask_fields(confidence: Array, dtype: DTypeLike = np.float64) -> Iterator[tuple[int, int, Array]]:
    """Yield for a few planes of a mask at a time: the first plane, the number of a field, and the field.

    Field 0 is the mask itself. Field 1 is 1 where the mask is above 0.
    """
    confidence = confidence.reshape(three_axes(confidence.shape, 1))
    for planes in _slabs(confidence):
        check_confidence(confidence[planes])
        yield planes.start, 0, confidence[planes].astype(dtype)
        yield planes.start, 1, (confidence[planes] > 0).astype(dtype)


def mask_pairs(mask: Any) -> tuple[tuple[int, int], ...]:
    """Choose the pairs of mask fields for Ω and for the number of observed pairs. A mask of bool needs only one."""
    return ((0, 0),) if mask.dtype == bool else ((0, 0), (1, 1))


def _slabs(block: Array) -> Iterator[slice]:
    """Yield slices of planes of a block that are computed together."""
    step = max(1, SLAB_VOXELS // int(np.prod(block.shape[1:3])))
    for start in range(0, len(block), step):
        yield slice(start, min(start + step, len(block)))
