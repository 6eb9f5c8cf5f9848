"""The mean of a field of one volume, and how well the volume determines it: kernels of `representativity`.

The variance of the mean of a volume V is A σ²/V, where A is the integral range, the integral of the autocorrelation.
A σ² is the spectral density of the field at frequency 0. The volume itself gives the density at low frequencies: the
squares of its components along waves that are long against the features of the material. A line through their
logarithm, as a function of the squared frequency, gives the value at 0, and says how well it is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats

from mksdask.arrays import Array
from mksdask.samples import check_confidence

# Numbers of waves among which the fit chooses.
WAVES = (16, 24, 32, 48, 64, 96, 128, 192, 256)
# The largest drop of the logarithm of the spectral density over the waves of the fit. Beyond it, a line does not fit.
# A drop must be larger by so many of its standard errors, or it may be chance. Where a fit ends by chance, the density
# at 0 is too high. These numbers and those of waves give the nominal coverage, see benchmarks/representativity.py.
DROP = 0.35
STANDARD_ERRORS = 1.5
# What is told of each mean, in this order.
COLUMNS = ("mean", "error", "low", "high", "standard_error", "integral_range", "degrees_of_freedom")


@dataclass(frozen=True)
class Cells:
    """The kernel of one box: sums of the fields, of the weights and of their squares over cells of the volume.

    Parameters
    ----------
    phases : tuple of int or None
        Phases whose indicators are the fields. None if the volume holds the field itself.
    size : tuple of int
        Number of voxels of a cell along each axis.
    shape : tuple of int
        Number of cells of the volume along each axis.
    """

    phases: tuple[int, ...] | None
    size: tuple[int, ...]
    shape: tuple[int, ...]

    def __call__(self, box: tuple[slice, ...], source: Any, mask: Any, *, is_cut: bool = False) -> Array:
        """Read a box, or take one that is cut already, and return the sums, (n_fields + 2, *cells)."""
        values = np.asarray(source if is_cut else source[box])
        weights = None
        if mask is not None:
            weights = np.asarray(mask if is_cut else mask[box])
            check_confidence(weights)
        fields: list[Any] = [values] if self.phases is None else [values == phase for phase in self.phases]
        if self.phases is None and np.isnan(values).any():
            known = ~np.isnan(values)
            weights = known.astype(float) if weights is None else weights * known
            fields = [np.where(known, values, 0)]
        if not np.isfinite(fields[0]).all():
            msg = (
                "field must hold finite numbers, or NaN where nothing is known, got infinite ones; replace them by NaN"
            )
            raise ValueError(msg)
        ones = np.broadcast_to(np.uint8(1), values.shape)
        if weights is None:
            parts = [*fields, ones, ones]
        else:
            parts = [*(field * weights for field in fields), weights, np.square(weights, dtype=np.float64)]
        out = np.zeros((len(parts), *self.shape))
        place = tuple(
            slice(along.start // size, -(-along.stop // size)) for along, size in zip(box, self.size, strict=True)
        )
        for target, part in zip(out, parts, strict=True):
            target[place] = self._sums(part)
        return out

    def _sums(self, values: Array) -> Array:
        for axis in reversed(range(values.ndim)):
            starts = np.arange(0, values.shape[axis], self.size[axis])
            values = np.add.reduceat(values, starts, axis=axis, dtype=np.float64)
        return values


@dataclass(frozen=True)
class Waves:
    """The waves along one axis: their means over cells, (n_waves, n_cells), and their frequencies."""

    means: Array
    frequencies: Array

    @classmethod
    def of(cls, n: int, size: int, step: float, *, wraps: bool) -> Waves:
        """Make the waves of an axis of n voxels, up to a quarter of the number of cells."""
        starts = np.arange(0, n, size)
        most = min(max(1, len(starts) // 4) if len(starts) > 16 else len(starts), 1 + WAVES[-1])
        number, shift = np.arange(most), np.zeros(most)
        if wraps:
            # Half as many frequencies, with a cosine and a sine each.
            shift[2::2] = -np.pi / 2
            number = (number + 1) // 2
        half = np.pi * number[:, None] / n * (1.0 if wraps else 0.5)  # half of the phase from voxel to voxel
        sizes = np.diff([*starts, n])
        # The sum of a cosine over neighbouring voxels is a geometric series.
        with np.errstate(invalid="ignore"):
            shares = np.where(half > 0, np.sin(sizes * half) / (sizes * np.sin(half)), 1.0)
        means = shares * np.cos(2 * half * (starts + sizes / 2) + shift[:, None])
        return cls(means, number / (n * step) * (1.0 if wraps else 0.5))


def _along(cells: Array, matrices: Sequence[Array]) -> Array:
    """Multiply each axis of an array by a matrix."""
    for axis, matrix in enumerate(matrices):
        cells = np.moveaxis(np.tensordot(matrix, cells, axes=(1, axis)), 0, axis)
    return cells


def _spectrum(sums: Array, waves: Sequence[Waves]) -> tuple[Array, Array]:
    """Compute the spectral density of each field along waves: (n_fields, n_waves), by rising frequency (n_waves,)."""
    *fields, weights, squares = sums
    total = weights.sum()
    means, powers = [wave.means for wave in waves], [wave.means**2 for wave in waves]
    # A wave counts as far as it differs from its mean over the volume.
    offset = _along(weights, means) / total
    norms = _along(squares, powers) - 2.0 * offset * _along(squares, means) + offset**2 * squares.sum()
    frequencies = np.zeros((1,) * len(waves))
    for axis, wave in enumerate(waves):
        along = wave.frequencies**2
        frequencies = frequencies + along.reshape([-1 if a == axis else 1 for a in range(len(waves))])
    order = np.argsort(frequencies, axis=None, kind="stable")[1 : 1 + WAVES[-1]]
    order = order[norms.ravel()[order] > 1e-6 * squares.sum()]
    found = []
    for field in fields:
        parts = _along(field - field.sum() / total * weights, means)
        found.append((parts**2).ravel()[order] / norms.ravel()[order])
    return np.array(found), frequencies.ravel()[order]


def _density_at_zero(density: Array, frequencies: Array) -> tuple[float, float]:
    """Extrapolate a spectral density to frequency 0. Return it, with the degrees of freedom of this estimate.

    The squares are exponentially distributed, up to a factor, so a generalized linear model fits their logarithm.
    """
    n_known = len(density)
    if n_known == 0 or not density.any():
        return 0.0, max(1.0, float(n_known))
    counts = [n for n in WAVES if n < n_known] + [min(n_known, WAVES[-1])]
    found: tuple[float, float] | None = None
    for n in counts:
        design = np.ones((n, 1)) if n < 6 else np.stack([np.ones(n), frequencies[:n] / frequencies[n - 1]], axis=1)
        line = _fitted(density[:n], design)
        spread = np.linalg.inv(design.T @ design)
        if found is not None and len(line) > 1 and -line[1] - STANDARD_ERRORS * np.sqrt(2.0 * spread[1, 1]) > DROP:
            break
        found = float(np.exp(line[0])), 1.0 / float(spread[0, 0])
    assert found is not None
    return found


def _fitted(values: Array, design: Array) -> Array:
    """Fit the logarithm of the mean of exponentially distributed values by a line, with most likelihood."""
    line = np.zeros(design.shape[1])
    line[0] = np.log(values.mean())
    for _ in range(50):
        expected = np.exp(np.clip(design @ line, -600.0, 600.0))
        change = np.linalg.lstsq(design, (values - expected) / expected, rcond=None)[0]
        line = line + change * min(1.0, 2.0 / max(1e-12, float(np.abs(change).max())))
        if np.abs(change).max() < 1e-8:
            break
    return line


def estimates(sums: Array, *, waves: Sequence[Waves], cell: float, confidence: float, is_fraction: bool) -> Array:
    """Compute `COLUMNS` for each field, (n_fields, n_columns). `cell` is the size of a voxel."""
    *fields, weights, squares = sums
    total = float(weights.sum())
    out = np.full((len(fields), len(COLUMNS)), np.nan)
    if not total:
        return out
    densities, frequencies = _spectrum(sums, waves)
    for row, field, density in zip(out, fields, densities, strict=True):
        mean = float(field.sum()) / total
        at_zero, degrees = _density_at_zero(density, frequencies)
        deviation = np.sqrt(at_zero * float(squares.sum())) / total
        variance = mean * (1.0 - mean) if is_fraction else 1.0
        error = deviation * float(scipy.stats.t.ppf(0.5 + confidence / 2.0, degrees))
        low, high = mean - error, mean + error
        if is_fraction and variance > 0:
            low, high = _ends_of_fraction(mean, error**2 / variance)
        row[:5] = mean, (high - low) / 2.0, low, high, deviation
        row[5:] = at_zero * cell / variance if variance > 0 else np.nan, degrees
    return out


def _ends_of_fraction(mean: float, share: float) -> tuple[float, float]:
    """Return the ends of the interval of all v with (v - mean)² ≤ share · v (1 - v)."""
    centre = (mean + share / 2.0) / (1.0 + share)
    half = float(np.sqrt(share * (mean * (1.0 - mean) + share / 4.0))) / (1.0 + share)
    return max(0.0, centre - half), min(1.0, centre + half)
