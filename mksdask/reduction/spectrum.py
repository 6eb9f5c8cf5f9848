"""Leading eigenvalues and eigenvectors of a Gram or scatter matrix, and which of them are more than rounding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from mksdask.arrays import Array

# At least so many eigenvectors are computed. Others follow in powers of two. A few more components then need no other
# decomposition, and the first components do not depend on how many are wanted.
LEAST_VECTORS = 16
# Components are mere rounding if their length, or their product with other components, is wrong by more than this.
_SKEW = 0.05
_PART_BYTES = 2**26


@dataclass(frozen=True)
class Spectrum:
    """The leading eigenvalues of a matrix, in falling order, and their vectors.

    Parameters
    ----------
    values : ndarray, shape (k,)
        Eigenvalues.
    vectors : ndarray, shape (n, k)
        Eigenvectors in columns.
    trace : float
        Trace of the matrix.
    """

    values: Array
    vectors: Array
    trace: float

    @classmethod
    def of(cls, matrix: Array, n_components: int | float) -> Spectrum:
        """Decompose a matrix, to `vectors_for(n_components, n)` eigenvectors."""
        n, k = len(matrix), vectors_for(n_components, len(matrix))
        values, vectors = scipy.linalg.eigh(matrix, subset_by_index=[n - k, n - 1], check_finite=False)
        return cls(np.maximum(values[::-1], 0.0), vectors[:, ::-1], float(np.trace(matrix)))

    def leading(self, n_components: int | float) -> tuple[Array, Array]:
        """Return the leading eigenvalues and vectors: a number of them, or as many as exceed a fraction of the sum."""
        k = n_components if isinstance(n_components, int) else number_that_holds(n_components, self.values)
        return self.values[:k], self.vectors[:, :k]


def vectors_for(n_components: int | float, n: int) -> int:
    """Choose the number of eigenvectors to compute for a number of components, or a fraction of the variance."""
    if not isinstance(n_components, int):
        return n
    return min(n, max(LEAST_VECTORS, 1 << (n_components - 1).bit_length()))


def number_that_holds(fraction: float, variances: Array) -> int:
    """Count how many variances, which fall, are needed to exceed a fraction of their sum."""
    held = np.cumsum(variances) / (variances.sum() or 1.0)
    return min(len(variances), int(np.searchsorted(held, fraction, side="right")) + 1)


def varies(values: Array, size: int) -> Array:
    """Find the eigenvalues that are more than rounding in double precision."""
    return np.asarray(values > values[0] * size * np.finfo(float).eps)


def directions(components: Array) -> Array:
    """Find the rows of unit length that are orthogonal to the rows before. Other rows are rounding of products."""
    k, n_features = components.shape
    gram, width = np.zeros((k, k)), max(1, _PART_BYTES // (8 * k))
    for start in range(0, n_features, width):
        part = components[:, start : start + width]
        gram += part @ part.T
    found = np.zeros(k, dtype=bool)
    for number in range(k):
        shared = float(np.square(gram[number, :number][found[:number]]).sum())
        found[number] = abs(gram[number, number] - 1.0) < _SKEW and shared < _SKEW**2
    return found
