"""Influence kernels of blocks of samples: p[s] = Σ_h Σ_r α[h; r] m[h; s - r], NumPy in and NumPy out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.fft
import scipy.linalg

from mksdask.arrays import Array
from mksdask.bases.base import Basis
from mksdask.localization.least_squares import absorb, empty_factor, solve

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
    """Spectra M[h; k] of the local states of samples.

    Of a basis with Σ_h w_h m[h; s] = 1, the last state that takes part in the sum is derived from the others instead of
    being transformed.
    """

    basis: Basis
    transform: Transform
    dtype: np.dtype[Any]

    @property
    def n_states(self) -> int:
        """Number of states of the basis."""
        return len(self.basis.states)

    @cached_property
    def unity(self) -> Array | None:
        """Weights w_h with Σ_h w_h m[h; s] = 1; None where there are none."""
        return self.basis.unity

    @cached_property
    def derived(self) -> int | None:
        """The state that is derived."""
        return None if self.unity is None else int(np.flatnonzero(self.unity)[-1])

    @cached_property
    def transformed(self) -> list[int]:
        """States that are transformed."""
        return [state for state in range(self.n_states) if state != self.derived]

    def reduce(self, kernels: Array) -> Array:
        """What acts on the transformed states alone, but for the mean: (n_states, ...) → (n_transformed, ...)."""
        if self.unity is None:
            return kernels
        share = (self.unity / self.unity[self.derived])[self.transformed].astype(kernels.real.dtype)
        return kernels[self.transformed] - share.reshape(-1, *(1,) * (kernels.ndim - 1)) * kernels[self.derived]

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
        for field in self.basis.fields(samples, self.transformed, self.dtype):
            yield self.transform.forward(field)


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

    Away from zero frequency Σ_h w_h M[h; k] = 0 in a basis with Σ_h w_h m[h; s] = 1, so one state fewer is kept there.
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
    transform, n_states, n_transformed = expansion.transform, expansion.n_states, len(expansion.transformed)
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
        means = np.empty((n_rows, n_states + n_components, 1), dtype=np.complex128)
        means[:, expansion.transformed, 0] = sums[:, :n_transformed]
        means[:, n_states:, 0] = sums[:, n_transformed:]
        if expansion.unity is not None:
            others = sums[:, :n_transformed] @ expansion.unity[expansion.transformed]
            means[:, expansion.derived, 0] = (n_voxels - others) / expansion.unity[expansion.derived]
        absorb(factors.mean, means)
        absorb(factors.waves, rows.reshape(n_rows, width, -1))
        factors.n_samples += n_rows
    return factors


def influence_kernels(calibration: Calibration, expansion: Expansion, *, ridge: float, rcond: float | None) -> Array:
    """α[h; r] of least norm, lag 0 in the centre: (*spatial, n_states, n_components)."""
    transform, n_states = expansion.transform, expansion.n_states
    n_components = calibration.mean.shape[1] - n_states
    epsilon = float(np.finfo(expansion.dtype).eps)
    # The triangles have n_states columns, however many samples they stand for.
    rcond = 10.0 * epsilon * n_states if rcond is None else rcond
    states = calibration.waves[:, : len(expansion.transformed)]
    # By Parseval, the transforms carry rounding errors of about this size at each frequency.
    squares = sum(float(np.linalg.norm(row.astype(np.complex128)) ** 2) for column in states for row in column)
    floor = 4.0 * epsilon * float(np.sqrt(squares / states.shape[-1]))
    if not np.isfinite(floor):
        msg = f"X is too large for {expansion.dtype}, whose transforms overflow; scale X, or pass y in float64"
        raise ValueError(msg)
    # Orthonormal columns that span Σ_h w_h α_h = 0, where the norm is that of all states.
    span = np.eye(n_states) if expansion.unity is None else scipy.linalg.null_space(expansion.unity[None])
    waves = solve(calibration.waves, expansion.reduce(span), rcond=rcond, floor=floor, ridge=ridge)
    mean = solve(calibration.mean, np.eye(n_states), rcond=rcond, floor=0.0, ridge=ridge)
    kernels = np.empty((*transform.spatial, n_states, n_components), dtype=expansion.field_dtype)
    for h, c in np.ndindex(n_states, n_components):
        spectrum = np.tensordot(span[h], waves[:, c], axes=1).astype(expansion.spectral_dtype)
        spectrum[0] = mean[h, c, 0]
        kernels[..., h, c] = scipy.fft.fftshift(transform.inverse(spectrum.reshape(transform.frequencies)))
    if not np.isfinite(kernels).all():
        msg = "the kernels overflow: X and y differ by too many orders of magnitude; scale one of them"
        raise ValueError(msg)
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
    transform = expansion.transform
    effective = expansion.reduce(np.moveaxis(kernels, (-2, -1), (0, 1)))
    out = np.empty((*effective.shape[:2], *transform.frequencies), dtype=expansion.spectral_dtype)
    for h, c in np.ndindex(out.shape[:2]):
        out[h, c] = transform.forward(scipy.fft.ifftshift(resized(effective[h, c], transform.spatial)))
    return out


def uniform_response(kernels: Array, expansion: Expansion) -> Array:
    """The part of the response that all voxels of all samples share, that of Σ_h w_h m = 1: (n_components,)."""
    wide = np.result_type(kernels, np.float64)
    if expansion.unity is None:
        return np.zeros(kernels.shape[-1], dtype=wide)
    axes = tuple(range(kernels.ndim - 2))
    return np.asarray(
        kernels[..., expansion.derived, :].sum(axis=axes, dtype=wide) / expansion.unity[expansion.derived]
    )


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
            del spectrum
        for component in range(len(offset)):
            field = transform.inverse(sums.pop(0)) + offset[component]
            out[batch][..., component] = field if dtype.kind == "c" else field.real
            del field
    return out.reshape(len(samples), *shape)
