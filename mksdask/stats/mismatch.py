"""How far the statistics of one structure are from those that are wanted, and the way down: gradient and descent.

    E = 1/n Σ_pairs Σ_r (f[h, h'; r] - f*[h, h'; r])² / (f*(0) - f*(∞))²

The sum runs over the n lags that are known. E is the square of the error, as `reconstruct` reports it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.fft

from mksdask.arrays import Array
from mksdask.compute.transforms import irfftn_in_place
from mksdask.stats.lags import LagFFT

# Steps that the descent remembers, to estimate the curvature.
MEMORY = 8
# Shortenings of one step before the descent ends.
SHORTEST = 20


@dataclass(frozen=True)
class Mismatch:
    """The difference between the statistics of a structure and those that are wanted.

    Parameters
    ----------
    transform : LagFFT
        Transform of one structure to its statistics.
    pairs : tuple of (int, int)
        Pairs of phases.
    wanted : ndarray, shape (n_pairs, *lags)
        Wanted statistics. NaN where they are not known.
    scales : tuple of float
        f(0) - f(∞) of each pair.
    """

    transform: LagFFT
    pairs: tuple[tuple[int, int], ...]
    wanted: Array
    scales: tuple[float, ...]

    @cached_property
    def _axes(self) -> tuple[int, ...]:
        return tuple(range(1, 1 + len(self.transform.spatial)))

    @cached_property
    def _phases(self) -> list[int]:
        """Phases that occur in the pairs."""
        return sorted({phase for pair in self.pairs for phase in pair})

    @cached_property
    def _is_whole(self) -> bool:
        """Whether all lags of a periodic structure are known. The sum over lags is then one over frequencies."""
        transform = self.transform
        return all(transform.periodic) and transform.shape == transform.spatial and not np.isnan(self.wanted).any()

    @cached_property
    def _known(self) -> Array:
        return ~np.isnan(self.wanted)

    @cached_property
    def _weight(self) -> Array:
        """1/Ω[r]."""
        return (1.0 / np.broadcast_to(self.transform.count_pairs(), self.transform.shape)).astype(self.wanted.dtype)

    def _forward(self, fields: Array) -> Array:
        return np.asarray(scipy.fft.rfftn(fields, s=self.transform.lengths, axes=self._axes))

    def _scattered(self, values: Array) -> Array:
        """Lay values at lags, (n, *lags), into the box of the transform, where lag 0 is the first voxel."""
        out = np.zeros((len(values), *self.transform.lengths), dtype=values.dtype)
        along = zip(self.transform.lags, self.transform.lengths, strict=True)
        places = np.ix_(np.arange(len(values)), *(lags % n for lags, n in along))
        out[places] = values
        return out

    @cached_property
    def _spectra(self) -> Array:
        """Transforms of the wanted statistics, if all lags are known."""
        return self._forward(self._scattered(self.wanted))

    @cached_property
    def _counts(self) -> Array:
        """How often each frequency of a real transform counts."""
        n = self.transform.lengths[-1]
        counts = np.full(n // 2 + 1, 2.0, dtype=self.wanted.dtype)
        counts[0] = 1.0
        if n % 2 == 0:
            counts[-1] = 1.0
        return counts

    def __call__(self, fields: Array) -> tuple[float, Array, Array]:
        """Compute the mismatch of a structure.

        Parameters
        ----------
        fields : ndarray, shape (n_phases, *spatial)
            Share of each phase in each voxel.

        Returns
        -------
        value : float
            E.
        gradient : ndarray, shape (n_phases, *spatial)
            dE/dm[h; s].
        squares : ndarray, shape (n_pairs,)
            The part of E of each pair, times the number of pairs.
        """
        spectra = dict(zip(self._phases, self._forward(fields[self._phases]), strict=True))
        gradients = {phase: np.zeros_like(spectrum) for phase, spectrum in spectra.items()}
        difference = self._difference_of_spectra if self._is_whole else self._difference_at_lags
        squares = np.empty(len(self.pairs))
        for position, (a, b) in enumerate(self.pairs):
            squares[position], slope = difference(position, spectra[a].conj() * spectra[b])
            gradients[a] += slope.conj() * spectra[b]
            gradients[b] += slope * spectra[a]
        gradient = np.zeros(fields.shape, dtype=self.wanted.dtype)
        inside = tuple(slice(n) for n in self.transform.spatial)
        for phase, spectrum in gradients.items():
            gradient[phase] = irfftn_in_place(spectrum, self.transform.lengths, range(spectrum.ndim))[inside]
        return float(squares.mean()), gradient, squares

    def _difference_of_spectra(self, position: int, product: Array) -> tuple[float, Array]:
        """Return the square of the difference of a pair, and the spectrum of its derivative by f."""
        n, scale = int(np.prod(self.transform.spatial)), self.scales[position]
        product /= n
        product -= self._spectra[position]
        square = np.sum((product.real**2 + product.imag**2) * self._counts, dtype=np.float64) / (n * scale) ** 2
        product *= 2.0 / (len(self.pairs) * n**2 * scale**2)
        return float(square), product

    def _difference_at_lags(self, position: int, product: Array) -> tuple[float, Array]:
        known, scale = self._known[position], self.scales[position]
        found = np.empty((1, *self.transform.shape), dtype=self.wanted.dtype)
        self.transform.inverse(product[None], found, self._weight)
        difference = np.where(known, found[0] - self.wanted[position], 0)
        n_known = int(np.count_nonzero(known))
        square = np.sum(difference**2, dtype=np.float64) / (n_known * scale**2)
        difference *= self._weight * (2.0 / (len(self.pairs) * n_known * scale**2))
        return float(square), self._forward(self._scattered(difference[None]))[0]


def _dot(a: Array, b: Array) -> float:
    # BLAS would add in an order that depends on the number of its threads.
    return float(np.sum(a * b, dtype=np.float64))


def descend(
    function: Callable[[Array], tuple[float, Array]], x: Array, n_steps: int, *, first: float
) -> tuple[Array, int]:
    """Minimize a function by L-BFGS with steps that are shortened until they lead down.

    Parameters
    ----------
    function : callable
        ``function(x)`` returns the value and the gradient.
    x : ndarray
        The start.
    n_steps : int
        Largest number of steps.
    first : float
        Mean size of the change of x in the first step.

    Returns
    -------
    x : ndarray
        The lowest point found.
    n_calls : int
        Number of calls of the function.

    References
    ----------
    Nocedal, J. Updating quasi-Newton matrices with limited storage. Math. Comput. 35 (1980) 773.
    """
    value, gradient = function(x)
    history: list[tuple[Array, Array, float]] = []
    n_calls = 1
    for _ in range(n_steps):
        direction = _direction(gradient, history)
        if not history:
            length = np.sqrt(_dot(direction, direction) / direction.size)
            if not length:
                break
            direction *= first / length
        slope = _dot(gradient, direction)
        step, found = 1.0, None
        for _ in range(SHORTEST):
            trial = x + x.dtype.type(step) * direction
            new_value, new_gradient = function(trial)
            n_calls += 1
            if new_value <= value + 1e-4 * step * slope:
                found = trial
                break
            # The parabola through both values and the slope has its lowest point here.
            lowest = -slope * step**2 / (2.0 * (new_value - value - slope * step))
            step = min(0.5 * step, max(0.1 * step, lowest))
        if found is None:
            break
        change, bend = found - x, new_gradient - gradient
        curvature = _dot(change, bend)
        sizes = _dot(change, change) * _dot(bend, bend)
        if curvature > 1e-10 * np.sqrt(sizes) > 0:
            history = [*history, (change, bend, curvature)][-MEMORY:]
        x, value, gradient = found, new_value, new_gradient
    return x, n_calls


def _direction(gradient: Array, history: list[tuple[Array, Array, float]]) -> Array:
    """Return the step of L-BFGS, or the negative gradient if it leads up."""
    direction, shares = -gradient, []
    kind: Any = gradient.dtype.type
    for change, bend, curvature in reversed(history):
        shares.append(_dot(change, direction) / curvature)
        direction -= kind(shares[-1]) * bend
    if history:
        _, bend, curvature = history[-1]
        direction *= kind(curvature / _dot(bend, bend))
    for (change, bend, curvature), share in zip(history, reversed(shares), strict=True):
        direction += kind(share - _dot(bend, direction) / curvature) * change
    if _dot(direction, gradient) < 0:
        return direction
    history.clear()
    return -gradient
