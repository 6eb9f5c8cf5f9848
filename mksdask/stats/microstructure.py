"""The microstructure function of one volume: what `correlate_volume` is asked for, and the fields of a block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import DTypeLike
from sklearn.base import clone

from mksdask.arrays import Array, ArrayLike, axes_argument, unwrap_volume
from mksdask.bases.base import Basis, n_spatial_axes, state_labels
from mksdask.compute.graph import stored_array
from mksdask.samples import periodic_axes_of
from mksdask.stats.correlation import Pairs, lag_labels, resolve_pairs
from mksdask.stats.pencils import three_axes

SLAB_VOXELS = 2**22  # of a block that are expanded together: large enough for huge pages


@dataclass(frozen=True)
class VolumeProblem:
    """The arguments of `correlate_volume`, checked."""

    data: Any
    samples: xr.DataArray | None  # labels, with an axis of samples
    basis: Basis | None
    mask: Any
    spatial: tuple[int, ...]
    periodic: tuple[bool, ...]
    states: tuple[int, ...]
    pairs: tuple[tuple[int, int], ...]  # labels of states
    dtype: np.dtype[Any]
    is_real: bool

    @classmethod
    def of(
        cls,
        volume: ArrayLike,
        basis: Basis | None,
        correlations: Pairs | None,
        periodic_axes: int | Sequence[int] | None,
        confidence_index: ArrayLike | None,
        dtype: DTypeLike,
    ) -> VolumeProblem:
        """Check arguments; their errors are those of `correlate_volume`."""
        data, labels = unwrap_volume(volume)
        n_spatial = n_spatial_axes(basis, data[None])
        spatial = tuple(int(n) for n in data.shape[:n_spatial])
        if 0 in data.shape:
            msg = f"volume holds no voxels, got shape {tuple(data.shape)}"
            raise ValueError(msg)
        samples = None if labels is None else labels.expand_dims("sample")
        real_dtype = np.dtype(dtype)
        if real_dtype not in (np.float32, np.float64):
            msg = f"dtype must be float32 or float64, got {dtype!r}"
            raise ValueError(msg)
        if periodic_axes is None:
            periodic_axes = periodic_axes_of(samples)
        periodic = axes_argument(periodic_axes, n_spatial)
        states = state_labels(basis, data)
        pairs = resolve_pairs(correlations, states, basis)
        is_real = data.dtype.kind != "c" if basis is None else not basis.is_complex
        mask = None
        if confidence_index is not None:
            if isinstance(confidence_index, xr.DataArray) and labels is not None:
                confidence_index = confidence_index.transpose(*(d for d in labels.dims if d in confidence_index.dims))
            mask, _ = unwrap_volume(confidence_index, name="confidence_index")
            if tuple(mask.shape) != spatial:
                msg = f"confidence_index must have the shape of the volume, {spatial}, got {mask.shape}"
                raise ValueError(msg)
        basis = None if basis is None else clone(basis)
        return cls(data, samples, basis, mask, spatial, periodic, tuple(states), pairs, real_dtype, is_real)

    @property
    def indices(self) -> tuple[tuple[int, int], ...]:
        """The pairs by numbers of states."""
        return tuple((self.states.index(a), self.states.index(b)) for a, b in self.pairs)

    @property
    def fields(self) -> VolumeFields:
        """How blocks are expanded into the states of the pairs."""
        states = tuple(sorted({state for pair in self.indices for state in pair}))
        return VolumeFields(self.basis, len(self.spatial), states, self.dtype, self.is_real)

    @property
    def voxel_bytes(self) -> int:
        """Bytes of a voxel of the volume, with its mask."""
        components = int(np.prod(self.data.shape[len(self.spatial) :]))
        return int(self.data.dtype.itemsize * components + (0 if self.mask is None else self.mask.dtype.itemsize))

    @property
    def is_stored(self) -> bool:
        """Whether tasks can read what they need by themselves."""
        return stored_array(self.data) is not None and (self.mask is None or stored_array(self.mask) is not None)

    def label(self, array: da.Array, lags: Sequence[Array], name: str) -> Any:
        """Dims and coordinates for statistics at lags, where the volume has any."""
        if self.samples is None:
            return array
        dims, coords = lag_labels(self.samples, lags, self.pairs, self.basis)
        return xr.DataArray(array, dims=dims, coords=coords, name=name, attrs=dict(self.samples.attrs))


@dataclass(frozen=True)
class VolumeFields:
    """Expansion of blocks of a volume into fields c m[h; s], a few planes at a time.

    Parameters
    ----------
    basis : Basis or None
        As in `correlate_volume`.
    n_spatial : int
        Spatial axes of the volume.
    states : tuple of int
        Numbers of the states that are wanted.
    dtype : dtype
        Real precision of the fields.
    is_real : bool
        Whether they are real.
    """

    basis: Basis | None
    n_spatial: int
    states: tuple[int, ...]
    dtype: np.dtype[Any]
    is_real: bool

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
            part, weight = values[planes], None
            if confidence is not None:
                _check_confidence(confidence[planes])
                observed = confidence[planes] > 0
                fill = 0 if self.basis is None else self.basis.placeholder
                part = np.where(observed if part.ndim == observed.ndim else observed[..., None], part, fill)
                weight = confidence[planes].astype(self.dtype)
            for state, field in zip(self.states, self._expanded(part), strict=True):
                if self.basis is None and not np.isfinite(field).all():
                    msg = "volume holds NaN or infinite values; give voxels without data a confidence_index of 0"
                    raise ValueError(msg)
                yield planes.start, state, field if weight is None else field * weight

    def _expanded(self, part: Array) -> Iterable[Array]:
        if self.basis is not None:
            return self.basis.fields(part, self.states, self.dtype)
        dtype = self.dtype if self.is_real else np.result_type(self.dtype, np.complex64)
        return (part[..., state].astype(dtype) for state in self.states)


def mask_fields(confidence: Array, dtype: DTypeLike = np.float64) -> Iterator[tuple[int, int, Array]]:
    """First plane, number and field of planes of a mask (0), and of where it is above 0 (1)."""
    confidence = confidence.reshape(three_axes(confidence.shape, 1))
    for planes in _slabs(confidence):
        _check_confidence(confidence[planes])
        yield planes.start, 0, confidence[planes].astype(dtype)
        yield planes.start, 1, (confidence[planes] > 0).astype(dtype)


def mask_pairs(mask: Any) -> tuple[tuple[int, int], ...]:
    """Pairs of mask fields for Ω and for the number of observed pairs: the same where it is true or false."""
    return ((0, 0),) if mask.dtype == bool else ((0, 0), (1, 1))


def _check_confidence(confidence: Array) -> None:
    lowest, highest = confidence.min(), confidence.max()
    if not (lowest >= 0.0 and highest <= 1.0):
        msg = f"confidence_index must lie in [0, 1] without NaN, got values from {lowest} to {highest}"
        raise ValueError(msg)


def _slabs(block: Array) -> Iterator[slice]:
    """Planes of a block that are worked on together."""
    step = max(1, SLAB_VOXELS // int(np.prod(block.shape[1:3])))
    for start in range(0, len(block), step):
        yield slice(start, min(start + step, len(block)))
