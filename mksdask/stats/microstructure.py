"""The microstructure function of one volume: the fields c m[h; s] of its blocks, a few planes at a time."""

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

SLAB_VOXELS = 2**22  # of a block that are expanded together: large enough for huge pages


@dataclass(frozen=True)
class VolumeCorrelation:
    """The statistics that are wanted of a volume.

    Parameters
    ----------
    volume : Volume
        What they are statistics of.
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
        """The dtype of fields and of statistics."""
        return self.volume.basis.result_dtype(self.dtype)

    @property
    def indices(self) -> tuple[tuple[int, int], ...]:
        """The pairs by the positions of their states."""
        return indices_of(self.pairs, self.volume.basis)

    @property
    def fields(self) -> VolumeFields:
        """How blocks are expanded into the states of the pairs."""
        states = tuple(sorted({state for pair in self.indices for state in pair}))
        return VolumeFields(self.volume.basis, len(self.volume.spatial), states, self.dtype)

    def label(self, array: Any, lags: Sequence[Array], name: str) -> Any:
        """Label statistics at lags, if the volume is labelled."""
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
        Spatial axes of the volume.
    states : tuple of int
        Numbers of the states that are wanted.
    dtype : dtype
        Real precision of the fields.
    """

    basis: Basis
    n_spatial: int
    states: tuple[int, ...]
    dtype: np.dtype[Any]

    def of_block(self, values: Array, confidence: Array | None) -> Iterator[tuple[int, int, Array]]:
        """First plane, state and field of planes; what the volume holds where c = 0 does not matter.

        Raises
        ------
        ValueError
            If values are NaN or outside the domain, or weights outside [0, 1].
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
    """First plane, number and field of planes of a mask (0), and of where it is above 0 (1)."""
    confidence = confidence.reshape(three_axes(confidence.shape, 1))
    for planes in _slabs(confidence):
        check_confidence(confidence[planes])
        yield planes.start, 0, confidence[planes].astype(dtype)
        yield planes.start, 1, (confidence[planes] > 0).astype(dtype)


def mask_pairs(mask: Any) -> tuple[tuple[int, int], ...]:
    """Pairs of mask fields for Ω and for the number of observed pairs: the same where it is true or false."""
    return ((0, 0),) if mask.dtype == bool else ((0, 0), (1, 1))


def _slabs(block: Array) -> Iterator[slice]:
    """Planes of a block that are worked on together."""
    step = max(1, SLAB_VOXELS // int(np.prod(block.shape[1:3])))
    for start in range(0, len(block), step):
        yield slice(start, min(start + step, len(block)))
