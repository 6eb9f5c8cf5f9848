"""How far samples lie from those of fit in the space of scores: whether a model has seen their like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mksdask.arrays import Array, warn_caller

# Samples that lie outside of the range of fit by more standard deviations than this are unlike those of fit.
FAR = 1.0
# So large a share of samples of the same kind may be unlike those of fit by chance.
BY_CHANCE = 0.1
# Scores that vary less than this share of those that vary most are rounding.
ROUNDING = 1e-6


class ExtrapolationWarning(UserWarning):
    """Some samples are unlike those of fit, so that predictions for them are extrapolated."""


@dataclass(frozen=True)
class Seen:
    """The kernel that measures how far scores lie outside of the range of those of fit.

    Parameters
    ----------
    lowest, highest, spread : ndarray, shape (n_components,)
        Range and standard deviation of each score in fit. Scores that are rounding have an infinite spread.
    """

    lowest: NDArray[np.float64]
    highest: NDArray[np.float64]
    spread: NDArray[np.float64]

    @classmethod
    def of(cls, scores: Array) -> Self:
        """Learn the scores of fit, (n_samples, n_components)."""
        values = np.asarray(scores, dtype=np.float64)
        spread = values.std(axis=0)
        spread[spread <= ROUNDING * spread.max(initial=0.0)] = np.inf
        if len(values) < 2 * values.shape[1]:
            # So few samples fill no range: each new one lies outside of it.
            spread[:] = np.inf
        return cls(values.min(axis=0), values.max(axis=0), spread)

    def __call__(self, scores: Array) -> NDArray[np.float64]:
        """Compute the distance of each sample, shape (n,): the largest of its components."""
        beyond = np.maximum(scores - self.highest, self.lowest - scores)
        return np.asarray(np.maximum(beyond / self.spread, 0.0).max(axis=1, initial=0.0))


def warn_of_far(distances: NDArray[np.float64]) -> None:
    """Warn if more samples are unlike those of fit than may be so by chance."""
    n_far = int((distances > FAR).sum())
    if n_far > BY_CHANCE * len(distances):
        warn_caller(
            f"{n_far} of {len(distances)} samples are unlike the samples of fit: their scores lie outside of the range "
            f"of those by up to {distances.max():.2g} standard deviations, and their predictions are extrapolated; fit "
            "to samples that are like them, with the same periodic axes, voxel size and kind of structure",
            ExtrapolationWarning,
        )
