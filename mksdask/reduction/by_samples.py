"""Means and scatter matrices of features, summed over blocks of samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mksdask.arrays import Array
from mksdask.reduction.missing import fill_rows, refuse_infinite
from mksdask.reduction.triangles import column_of, packed, unpacked


@dataclass
class Moments:
    """Moments of features over some rows, one row for each sample.

    Parameters
    ----------
    count : int
        Number of complete rows.
    mean : ndarray, shape (n_features,)
        Mean of the complete rows.
    triangle : ndarray, shape (n_features (n_features + 1) / 2,)
        Packed upper triangle of the scatter matrix Σ (f - f̄)ᵀ(f - f̄) of the complete rows.
    seen, sums : ndarray, shape (n_features,)
        Number and sum of the observed values of each feature, over all rows.
    """

    count: int
    mean: Array
    triangle: Array
    seen: Array
    sums: Array

    @classmethod
    def of(cls, block: Array) -> Moments:
        """Compute the moments of a block of rows, which may have gaps."""
        values = block.astype(np.float64)
        gaps = ~np.isfinite(values.sum(axis=1))
        seen, sums = np.full(values.shape[1], len(values)), np.zeros(values.shape[1])
        if gaps.any():
            refuse_infinite(block)
            seen, sums = seen - np.isnan(values).sum(axis=0), np.nansum(values[gaps], axis=0)
            values = values[~gaps]
        mean = values.mean(axis=0) if len(values) else np.zeros(values.shape[1])
        sums += len(values) * mean
        values -= mean
        # The product is symmetric to the last bit. The columns of its transpose lie in one piece.
        return cls(len(values), mean, packed((values.T @ values).T), seen, sums)

    @property
    def scatter(self) -> Array:
        """Scatter matrix of the complete rows, shape (n_features, n_features)."""
        return unpacked(self.triangle)

    def merge(self, other: Moments) -> Moments:
        """Compute the moments of the rows of both, by Chan, Golub, LeVeque (1983), Eq. 2.1."""
        count, seen, sums = self.count + other.count, self.seen + other.seen, self.sums + other.sums
        if not count:
            return Moments(count, self.mean, self.triangle, seen, sums)
        shift = other.mean - self.mean
        weight = self.count * other.count / count
        triangle = self.triangle + other.triangle
        for number, along in enumerate(shift):
            triangle[column_of(number)] += weight * (shift[: number + 1] * along)
        return Moments(count, self.mean + shift * (other.count / count), triangle, seen, sums)


def moments_of_gappy(block: Array, components: Array | None, mean: Array) -> Moments:
    """Compute the moments of the rows that have gaps. `fill_rows` fills the gaps first."""
    rows = block[np.isnan(block).any(axis=1)].astype(np.float64)
    return Moments.of(fill_rows(rows, components, mean))
