"""Influence kernels of blocks of samples: p[s] = Σ_h Σ_r α[h; r] m[h; s - r], NumPy in and NumPy out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
import scipy.linalg
from numpy.typing import NDArray

from mksdask.bases.base import Basis
from mksdask.least_squares import absorb, empty_factor, solve

Array = NDArray[Any]

# Small samples are transformed together, up to this many voxels and this many samples.
BATCH_VOXELS = 2**18
BATCH_SAMPLES = 32


@dataclass(frozen=True)
class Transform:
    """Discrete Fourier transform over the spatial axes, of half the frequencies for real fields."""

    spatial: tuple[int, ...]
    real: bool

    @property
    def frequencies(self) -> tuple[int, ...]:
        """Shape of a spectrum."""
        *leading, last = self.spatial
        return (*leading, last // 2 + 1 if self.real else last)

    @property
    def batch(self) -> int:
        """Samples that are transformed together."""
        return min(BATCH_SAMPLES, max(1, BATCH_VOXELS // int(np.prod(self.spatial))))

    def forward(self, fields: Array) -> Array:
        """(..., *spatial) → (..., *frequencies)."""
        axes = tuple(range(fields.ndim - len(self.spatial), fields.ndim))
        return np.asarray((scipy.fft.rfftn if self.real else scipy.fft.fftn)(fields, axes=axes))

    def inverse(self, spectra: Array) -> Array:
        """(..., *frequencies) → (..., *spatial); `spectra` may be overwritten."""
        axes = tuple(range(spectra.ndim - len(self.spatial), spectra.ndim))
        function = scipy.fft.irfftn if self.real else scipy.fft.ifftn
        return np.asarray(function(spectra, s=self.spatial, axes=axes, overwrite_x=True))


@dataclass(frozen=True)
class Expansion:
    """Spectra M[h; k] of the local states of samples, but for the last state of a complete basis: Σ_h m[h; s] = 1."""

    basis: Basis | None
    n_states: int
    transform: Transform
    dtype: np.dtype[Any]

    @property
    def is_complete(self) -> bool:
        """Whether Σ_h m[h; s] = 1."""
        return self.basis is not None and self.basis.is_complete

    @property
    def n_transformed(self) -> int:
        """Number of states that are transformed."""
        return self.n_states - self.is_complete

    @property
    def field_dtype(self) -> np.dtype[Any]:
        """The dtype of fields and kernels."""
        return self.dtype if self.transform.real else np.result_type(self.dtype, np.complex64)

    @property
    def spectral_dtype(self) -> np.dtype[Any]:
        """The dtype of spectra."""
        return np.result_type(self.dtype, np.complex64)

    def spectra(self, samples: Array) -> Iterator[Array]:
        """M[h; k] of a batch, one state at a time, each (n, *frequencies)."""
        states = range(self.n_transformed)
        if self.basis is not None:
            for field in self.basis.fields(samples, states, self.dtype):
                yield self.transform.forward(field)
            return
        for state in states:
            field = np.ascontiguousarray(samples[..., state], dtype=self.field_dtype)
            yield _finite(self.transform.forward(field), "X", len(self.transform.spatial))


def _sums(spectra: Array, n_spatial: int) -> Array:
    """The zero frequency of spectra (..., *frequencies)."""
    return spectra.reshape(*spectra.shape[: spectra.ndim - n_spatial], -1)[..., 0]


def _finite(spectra: Array, name: str, n_spatial: int) -> Array:
    """Refuse spectra of fields that were not finite: their sums tell."""
    if not np.isfinite(_sums(spectra, n_spatial)).all():
        msg = f"{name} holds NaN or infinite values; leave out the samples that have them"
        raise ValueError(msg)
    return spectra


@dataclass
class Calibration:
    """Least-squares factors of all samples seen: one problem a frequency, and zero frequency by itself.

    Away from zero frequency the states of a complete basis sum to zero, so all but the last are kept there.
    """

    waves: Array  # (n_transformed, n_transformed + n_components, n_frequencies)
    mean: Array  # (n_states, n_states + n_components, 1)
    n_samples: int

    def copy(self) -> Calibration:
        """Factors that can be added to."""
        return Calibration(self.waves.copy(), self.mean.copy(), self.n_samples)

    def merge(self, other: Calibration) -> Calibration:
        """Factors of the samples of both."""
        merged = self.copy()
        absorb(merged.waves, other.waves)
        absorb(merged.mean, other.mean)
        merged.n_samples += other.n_samples
        return merged


def calibrate(
    samples: Array, responses: Array, seen: Calibration | None = None, *, expansion: Expansion
) -> Calibration:
    """Factors of a block, and of the samples `seen` before.

    Parameters
    ----------
    samples : ndarray, shape (n, *spatial)
        Local states.
    responses : ndarray, shape (n, *spatial, n_components)
        Response of each voxel.
    seen : Calibration, optional
        Factors of further samples, left as they are.
    expansion : Expansion
        How samples become spectra.

    Raises
    ------
    ValueError
        If values are not finite, or outside the domain of the basis.
    """
    transform, n_states, n_transformed = expansion.transform, expansion.n_states, expansion.n_transformed
    n_components, n_spatial = responses.shape[-1], len(transform.spatial)
    n_voxels = int(np.prod(transform.spatial))
    dtype, width = expansion.spectral_dtype, n_transformed + n_components
    if seen is None:
        waves = empty_factor(n_transformed, n_components, int(np.prod(transform.frequencies)), dtype)
        # Sums are few, and exact enough only in double precision.
        factors = Calibration(waves, empty_factor(n_states, n_components, 1, np.complex128), 0)
    else:
        factors = seen.copy()
    for start in range(0, len(samples), transform.batch):
        batch = slice(start, start + transform.batch)
        n_rows = len(samples[batch])
        rows = np.empty((n_rows, width, *transform.frequencies), dtype=dtype)
        for state, spectrum in enumerate(expansion.spectra(samples[batch])):
            rows[:, state] = spectrum
        for component in range(n_components):
            field = responses[batch][..., component].astype(expansion.field_dtype)
            rows[:, n_transformed + component] = _finite(transform.forward(field), "y", n_spatial)
        sums = _sums(rows, n_spatial).astype(np.complex128)
        states, targets = sums[:, :n_transformed], sums[:, n_transformed:]
        if expansion.is_complete:
            states = np.concatenate([states, n_voxels - states.sum(axis=1, keepdims=True)], axis=1)
        absorb(factors.mean, np.concatenate([states, targets], axis=1)[..., None])
        absorb(factors.waves, rows.reshape(n_rows, width, -1))
        factors.n_samples += n_rows
    return factors


def influence_kernels(calibration: Calibration, expansion: Expansion, *, ridge: float, rcond: float | None) -> Array:
    """α[h; r] of least norm, lag 0 in the centre: (*spatial, n_states, n_components)."""
    transform, n_states = expansion.transform, expansion.n_states
    n_components = calibration.mean.shape[1] - n_states
    epsilon = float(np.finfo(expansion.dtype).eps)
    rcond = epsilon * max(calibration.n_samples, n_states) if rcond is None else rcond
    states = calibration.waves[:, : expansion.n_transformed]
    # By Parseval, the transforms carry rounding errors of about this size at each frequency.
    squares = sum(float(np.vdot(row, row).real) for row in states)
    floor = 4.0 * epsilon * float(np.sqrt(squares / states.shape[-1]))
    # Orthonormal columns that span Σ_h α = 0, where the norm is that of all states.
    span = scipy.linalg.null_space(np.ones((1, n_states))) if expansion.is_complete else np.eye(n_states)
    coordinates = span[:-1] - span[-1] if expansion.is_complete else span
    waves = solve(calibration.waves, coordinates, rcond=rcond, floor=floor, ridge=ridge)
    mean = solve(calibration.mean, np.eye(n_states), rcond=rcond, floor=0.0, ridge=ridge)
    kernels = np.empty((*transform.spatial, n_states, n_components), dtype=expansion.field_dtype)
    for h, c in np.ndindex(n_states, n_components):
        spectrum = np.tensordot(span[h], waves[:, c], axes=1).astype(expansion.spectral_dtype)
        spectrum[0] = mean[h, c, 0]
        kernels[..., h, c] = scipy.fft.fftshift(transform.inverse(spectrum.reshape(transform.frequencies)))
    return kernels


def resized(kernels: Array, size: Sequence[int]) -> Array:
    """Kernels on a larger domain: zero beyond the lags they have, lag 0 in the centre again."""
    for axis, (n, wanted) in enumerate(zip(kernels.shape, size, strict=False)):
        if n == wanted:
            continue
        if n % 2 == 0:
            # Lag -n/2 of a periodic kernel is lag n/2 too: each gets a half.
            half = np.take(kernels, [0], axis=axis) / 2
            kernels = np.concatenate([half, np.delete(kernels, 0, axis=axis), half], axis=axis)
        before = wanted // 2 - n // 2
        padding = [(0, 0)] * kernels.ndim
        padding[axis] = (before, wanted - before - kernels.shape[axis])
        kernels = np.pad(kernels, padding)
    return kernels


def transfer_function(kernels: Array, *, expansion: Expansion) -> Array:
    """Spectra by which those of the transformed states are multiplied: (n_transformed, n_components, *frequencies)."""
    transform, n_components = expansion.transform, kernels.shape[-1]
    if expansion.is_complete:
        kernels = kernels[..., :-1, :] - kernels[..., -1:, :]
    out = np.empty((expansion.n_transformed, n_components, *transform.frequencies), dtype=expansion.spectral_dtype)
    for h, c in np.ndindex(out.shape[:2]):
        out[h, c] = transform.forward(scipy.fft.ifftshift(resized(kernels[..., h, c], transform.spatial)))
    return out


def localize(
    samples: Array,
    transfer: Array,
    offset: Array,
    *,
    expansion: Expansion,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
) -> Array:
    """p[s] of a block: (n, *spatial) → (n, *shape), components last."""
    transform = expansion.transform
    out = np.empty((len(samples), *transform.spatial, len(offset)), dtype=dtype)
    for start in range(0, len(samples), transform.batch):
        batch = slice(start, start + transform.batch)
        batch_shape = (len(samples[batch]), *transform.frequencies)
        sums = [np.zeros(batch_shape, dtype=expansion.spectral_dtype) for _ in offset]
        for state, spectrum in enumerate(expansion.spectra(samples[batch])):
            for total, response in zip(sums, transfer[state], strict=True):
                total += spectrum * response
        for component, total in enumerate(sums):
            field = transform.inverse(total) + offset[component]
            out[batch][..., component] = field if dtype.kind == "c" else field.real
    return out.reshape(len(samples), *shape)
