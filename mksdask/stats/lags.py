"""The transform of samples to their statistics: padding, the lags that are kept, and Ω[r]."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.fft

from mksdask.arrays import Array, integers
from mksdask.compute.transforms import fast_length, irfftn_in_place


@dataclass(frozen=True)
class LagFFT:
    """The Fourier transform of samples, and its inverse at the lags that are kept.

    Parameters
    ----------
    spatial : tuple of int
        Number of voxels along each axis.
    periodic : tuple of bool
        Whether each axis is periodic.
    reach : tuple of (int, int)
        For each axis, numbers (a, b): the lags from -a to b are kept.
    real : bool
        Whether m[h; s] is real.
    """

    spatial: tuple[int, ...]
    periodic: tuple[bool, ...]
    reach: tuple[tuple[int, int], ...]
    real: bool

    @classmethod
    def of(
        cls, spatial: Sequence[int], periodic: Sequence[bool], cutoff: int | Sequence[int] | None, *, real: bool
    ) -> LagFFT:
        """Choose the transform for a `cutoff`, or for None, which keeps the lags from -(n//2) to (n - 1)//2.

        Raises
        ------
        ValueError
            If `cutoff` is not an integer for each axis, or too large for the samples.
        """
        spatial, n_spatial = tuple(map(int, spatial)), len(spatial)
        if cutoff is None:
            return cls(spatial, tuple(periodic), tuple((n // 2, (n - 1) // 2) for n in spatial), real)
        given = integers(cutoff)
        if given is None or len(given) not in (1, n_spatial):
            msg = (
                f"cutoff must be an integer, or one for each of the {n_spatial} spatial axes; it counts voxels; got "
                f"{cutoff!r}"
            )
            raise ValueError(msg)
        cutoffs = [int(c) for c in np.broadcast_to(given, (n_spatial,))]
        largest = [(n - 1) // 2 if wraps else n - 1 for n, wraps in zip(spatial, periodic, strict=True)]
        if any(not 0 <= c <= limit for c, limit in zip(cutoffs, largest, strict=True)):
            msg = (
                f"cutoff={cutoff!r} must lie between 0 and {tuple(largest)} for samples of {spatial} voxels: at most "
                "n - 1 on an axis of n voxels, or (n - 1)//2 if the axis is periodic"
            )
            raise ValueError(msg)
        return cls(spatial, tuple(periodic), tuple((c, c) for c in cutoffs), real)

    @property
    def lags(self) -> tuple[Array, ...]:
        """Lags of each axis, in voxels."""
        return tuple(np.arange(-low, high + 1) for low, high in self.reach)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of lags along each axis."""
        return tuple(low + high + 1 for low, high in self.reach)

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Length of the transform along each axis. If the axis is not periodic, padding keeps lags from wrapping."""
        last = len(self.spatial) - 1
        return tuple(
            n if wraps else fast_length(n + max(reach), real=self.real and axis == last)
            for axis, (n, wraps, reach) in enumerate(zip(self.spatial, self.periodic, self.reach, strict=True))
        )

    def forward(self, fields: Array) -> Array:
        """Transform fields (n, *spatial). Rows that hold only padding are not transformed."""
        last = len(self.spatial)
        if self.lengths == self.spatial:
            return (scipy.fft.rfftn if self.real else scipy.fft.fftn)(fields, axes=range(1, last + 1))
        transform = scipy.fft.rfft if self.real else scipy.fft.fft
        spectra = transform(fields, n=self.lengths[-1], axis=last)
        for axis in range(last - 1, 0, -1):
            spectra = scipy.fft.fft(spectra, n=self.lengths[axis - 1], axis=axis, overwrite_x=True)
        return spectra

    def inverse(self, spectra: Array, out: Array, weight: Array | float) -> None:
        """Write ``weight · F⁻¹(spectra)`` at the lags that are kept to `out` (n, *lags). `spectra` is overwritten."""
        last, waiting = len(self.spatial), list[int]()
        # One weight for all lags takes in the division by the number of frequencies.
        norm = "backward" if isinstance(weight, np.ndarray) else "forward"
        weight = weight if isinstance(weight, np.ndarray) else weight / math.prod(self.lengths)
        for axis, (low, high) in enumerate(self.reach, start=1):
            length = self.lengths[axis - 1]
            waiting.append(axis)
            if axis < last and low + high + 1 <= 0.8 * length:
                # The other lags are dropped now, so that the next axes have fewer rows to transform.
                spectra = scipy.fft.ifftn(spectra, axes=waiting, norm=norm, overwrite_x=True)
                spectra = np.take(spectra, np.r_[0 : high + 1, length - low : length], axis=axis)
                waiting = []
        lengths = [self.lengths[axis - 1] for axis in waiting]
        if self.real:
            spectra = irfftn_in_place(spectra, lengths, waiting, norm=norm)
        else:
            spectra = scipy.fft.ifftn(spectra, s=lengths, axes=waiting, norm=norm, overwrite_x=True)
        for corner in itertools.product((False, True), repeat=last):
            source = tuple(
                slice(length - low, length) if negative else slice(0, high + 1)
                for negative, (low, high), length in zip(corner, self.reach, spectra.shape[1:], strict=True)
            )
            target = tuple(
                slice(0, low) if negative else slice(low, low + high + 1)
                for negative, (low, high) in zip(corner, self.reach, strict=True)
            )
            lags: tuple[Any, ...] = (Ellipsis, *target)
            factor = weight[lags] if isinstance(weight, np.ndarray) else weight
            np.multiply(spectra[(slice(None), *source)], factor, out=out[(slice(None), *target)])

    def counts_along(self) -> list[Array]:
        """Count the pairs of voxels at each lag of each axis, in float64. Without a mask, Ω[r] is their product."""
        return [
            np.full(len(lags), float(n)) if wraps else n - np.abs(lags).astype(float)
            for n, wraps, lags in zip(self.spatial, self.periodic, self.lags, strict=True)
        ]

    def count_pairs(self) -> Array:
        """Compute Ω[r] without a mask, the number of pairs of voxels at each lag, in float64."""
        counts = np.ones((1,) * len(self.spatial))
        for axis, along in enumerate(self.counts_along()):
            counts = counts * along.reshape([-1 if a == axis else 1 for a in range(len(self.spatial))])
        return counts

    def count_confident_pairs(self, confidence: Array) -> Array:
        """Compute Ω[r] = Σ_s c[s] c[s + r] of masks (n, *spatial) in float64. It is NaN if no pair has both c > 0."""
        transform = LagFFT(self.spatial, self.periodic, self.reach, real=True)

        def autocorrelation(fields: Array) -> Array:
            spectra = transform.forward(fields)
            out = np.empty((len(fields), *self.shape))
            transform.inverse(spectra.conj() * spectra, out, 1.0)
            return out

        support = (confidence > 0).astype(np.float64)
        observed = np.rint(autocorrelation(support))
        is_indicator = np.array_equal(support, confidence)
        omega = observed if is_indicator else autocorrelation(confidence.astype(np.float64))
        return np.where(observed > 0, omega, np.nan)
