"""Spectra of samples: the Fourier transforms M[h; k] of their microstructure function m[h; s]."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.fft
import scipy.linalg

from mksdask.arrays import Array
from mksdask.bases.base import Basis
from mksdask.compute.transforms import irfftn_in_place

# Small samples are transformed together, up to this many voxels and this many samples.
BATCH_VOXELS = 2**18
BATCH_SAMPLES = 32


@dataclass(frozen=True)
class FieldFFT:
    """The discrete Fourier transform over the spatial axes. For real fields it keeps half of the frequencies.

    Parameters
    ----------
    spatial : tuple of int
        Number of voxels along each axis.
    real : bool
        Whether the fields are real.
    """

    spatial: tuple[int, ...]
    real: bool

    @property
    def frequencies(self) -> tuple[int, ...]:
        """Shape of a spectrum."""
        *leading, last = self.spatial
        return (*leading, last // 2 + 1 if self.real else last)

    @property
    def multiplicity(self) -> Array:
        """How many frequencies of the full spectrum each kept one stands for, by its index along the last axis."""
        n_last = self.frequencies[-1]
        halved = np.arange(n_last) % (self.spatial[-1] / 2) > 0 if self.real else np.zeros(n_last)
        return np.where(halved, 2.0, 1.0)

    @property
    def batch(self) -> int:
        """Number of samples that are transformed together."""
        return min(BATCH_SAMPLES, max(1, BATCH_VOXELS // int(np.prod(self.spatial))))

    def batches(self, n_samples: int) -> list[slice]:
        """Cut samples into batches."""
        return [slice(start, start + self.batch) for start in range(0, n_samples, self.batch)]

    def field_bytes(self, spectral_itemsize: int) -> int:
        """Bytes of one field of a sample, for the bytes of one number of its spectrum."""
        return int(np.prod(self.spatial)) * spectral_itemsize // (2 if self.real else 1)

    def forward(self, fields: Array) -> Array:
        """Transform fields (..., *spatial) to spectra (..., *frequencies)."""
        axes = tuple(range(fields.ndim - len(self.spatial), fields.ndim))
        return np.asarray((scipy.fft.rfftn if self.real else scipy.fft.fftn)(fields, axes=axes))

    def inverse(self, spectra: Array) -> Array:
        """Transform spectra (..., *frequencies) back to fields (..., *spatial). This may overwrite `spectra`."""
        axes = tuple(range(spectra.ndim - len(self.spatial), spectra.ndim))
        if self.real:
            return irfftn_in_place(spectra, self.spatial, axes)
        return np.asarray(scipy.fft.ifftn(spectra, axes=axes, overwrite_x=True))


@dataclass(frozen=True)
class Expansion:
    """Computes the spectra M[h; k] of samples, the Fourier transforms of their microstructure function m[h; s].

    If Σ_h w_h m[h; s] = 1 holds in the basis, the last state of that sum is not transformed. It follows from the
    others.

    Parameters
    ----------
    basis : Basis
        Basis of the local state.
    transform : FieldFFT
        Transform over the spatial axes.
    dtype : dtype
        Real precision of fields and spectra.
    """

    basis: Basis
    transform: FieldFFT
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, basis: Basis, spatial: tuple[int, ...], dtype: np.dtype[Any]) -> Expansion:
        """Choose the transform and the precision for responses, or kernels, of a dtype."""
        precision = np.dtype(np.float32 if dtype in (np.float32, np.complex64) else np.float64)
        is_real = not basis.is_complex and dtype.kind != "c"
        return cls(basis, FieldFFT(spatial, is_real), precision)

    @property
    def n_states(self) -> int:
        """Number of states of the basis."""
        return len(self.basis.states)

    @cached_property
    def unity(self) -> Array | None:
        """Weights w_h with Σ_h w_h m[h; s] = 1. None if no weights do so."""
        return self.basis.unity

    @property
    def span(self) -> Array:
        """Orthonormal columns that span Σ_h w_h α_h = 0, or all kernels if no weights w_h exist."""
        unity = self.basis.unity
        return np.eye(len(self.basis.states)) if unity is None else scipy.linalg.null_space(unity[None])

    @cached_property
    def derived(self) -> int | None:
        """Index of the state that follows from the others. None if there is none."""
        return None if self.unity is None else int(np.flatnonzero(self.unity)[-1])

    @cached_property
    def transformed(self) -> list[int]:
        """Indices of the states that are transformed."""
        return [state for state in range(self.n_states) if state != self.derived]

    def reduce(self, kernels: Array) -> Array:
        """Rewrite kernels of all states as kernels of the transformed states: (n_states, ...) → (n_transformed, ...).

        The responses are the same, up to the part that `uniform_response` computes.
        """
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
        """Yield M[h; k] of a batch, one transformed state after the other. Each has shape (n, *frequencies)."""
        for field in self.basis.fields(samples, self.transformed, self.dtype):
            yield self.transform.forward(field)
