"""The choice of a ridge by generalized cross-validation, from least-squares factors alone."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from mksdask.arrays import Array

# The ridges that are tried are 10^(j / _STEPS). Every _COARSE-th is tried first.
_STEPS = 16
_COARSE = 4
# Above the largest σ² by this factor, kernels are practically zero.
_BEYOND = 100.0
# At most this many problems are decomposed together, which bounds the memory of the work arrays.
_TILE = 2**16
# Bytes for each singular value while the ridge is chosen.
FILTER_BYTES = 64


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def _kept(squares, powers, weights, ridge):  # type: ignore[no-untyped-def]
    """Sum the powers and weights that stay in the residual."""
    kept_powers = kept_weights = 0.0
    for i in range(len(squares)):
        kept = ridge / (squares[i] + ridge)
        kept_powers += kept * kept * powers[i]
        kept_weights += kept * weights[i]
    return kept_powers, kept_weights


@dataclass
class Filters:
    """What ridge regression makes of the targets p of many problems M x = p, for any ridge λ.

    With the singular values σ and left singular vectors u of M, it keeps ``λ / (σ² + λ)`` of each ``uᴴp`` in the
    residual, and everything outside the range of M. Problems are added in sets.

    Parameters
    ----------
    outside : float
        Σ |p|² outside the range of M, over all problems. Each problem counts with its weight.
    n_rows : float
        Number of rows of all problems. Each problem counts with its weight.
    """

    outside: float
    n_rows: float

    def __post_init__(self) -> None:
        self._parts: list[Array] = []  # σ², |uᴴp|² and weight: (3, n_values)

    def add(self, factor: Array, coordinates: Array, weights: Array, *, rcond: float, floor: float) -> None:
        """Add problems, as `solve` of `least_squares` takes them.

        Parameters
        ----------
        factor : ndarray, shape (n_unknowns, n_unknowns + n_targets, n_problems)
            Factor of the rows [M | p].
        coordinates : ndarray, shape (n_unknowns, n_unknowns)
            M · coordinates is decomposed.
        weights : ndarray, shape (n_problems,)
            How often each problem counts.
        rcond, floor : float
            Singular values below `rcond` times the largest of their problem, or below `floor`, count as zero.
        """
        n_unknowns, _, n_problems = factor.shape
        for start in range(0, n_problems if n_unknowns else 0, _TILE):
            part = slice(start, start + _TILE)
            rows = np.moveaxis(factor[..., part], -1, 0).astype(np.complex128)
            matrices = rows[:, :, :n_unknowns] @ coordinates
            if n_unknowns > 1:
                left, values, _ = np.linalg.svd(matrices)
            else:
                left, values = np.ones_like(matrices), np.abs(matrices[..., 0])
            powers = (np.abs(left.conj().swapaxes(1, 2) @ rows[:, :, n_unknowns:]) ** 2).sum(axis=2)
            powers *= weights[part, None]
            counts = (values > rcond * values[:, :1]) & (values > floor)
            shares = np.broadcast_to(weights[part, None], values.shape)[counts]
            self.outside += float(powers[~counts].sum())
            self._parts.append(np.stack([values[counts] ** 2, powers[counts], shares]))

    def choose(self, epsilon: float) -> float:
        """Choose the ridge with the smallest GCV(λ) of `MKSLocalizationModel`: 0, or 10^(j/16) with a whole number j.

        Parameters
        ----------
        epsilon : float
            Rounding unit of the factors.
        """
        squares, powers, weights = np.concatenate([np.empty((3, 0)), *self._parts], axis=1)
        unfitted = self.n_rows - float(weights.sum())

        def criterion(step: int) -> float:
            """GCV(λ), up to a factor that does not depend on λ."""
            kept_powers, kept_weights = _kept(squares, powers, weights, 10.0 ** (step / _STEPS))
            return float((self.outside + kept_powers) * self.n_rows / (unfitted + kept_weights) ** 2)

        if not squares.size:
            return 0.0
        # Below the smallest σ² by ε, kernels are those without a ridge.
        ends = np.log10(np.clip([squares.min() * epsilon, squares.max() * _BEYOND], 1e-290, 1e290))
        steps = range(int(np.floor(_STEPS * ends[0])), int(np.ceil(_STEPS * ends[1])) + 1)
        found = {step: criterion(step) for step in steps[::_COARSE]}
        best = min(found, key=found.__getitem__)
        found |= {step: criterion(step) for step in range(best - _COARSE + 1, best + _COARSE)}
        best = min(found, key=found.__getitem__)
        # Residuals below it are rounding errors.
        rounding = (10.0 * epsilon) ** 2 * (self.outside + float(powers.sum())) / self.n_rows
        if unfitted > 0 and self.outside * self.n_rows / unfitted**2 <= found[best] + rounding:
            return 0.0
        return float(10.0 ** (best / _STEPS))
