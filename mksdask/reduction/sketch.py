"""Sketches: the mean, the leading singular directions and the scatter of rows. Two sketches merge into one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import scipy.linalg

from mksdask.arrays import Array
from mksdask.compute.blocks import computed, fold_samples
from mksdask.schema import ArrayOf, Number, Saved, Whole


@dataclass(frozen=True)
class Sketch:
    """A summary of rows: their mean, and their scatter matrix up to a rank.

    Parameters
    ----------
    count : int
        Number of rows.
    mean : ndarray, shape (n_features,)
        Mean of the rows, float64.
    directions : ndarray, shape (≤ rank, n_features)
        Singular values times right singular vectors of the centred rows, in falling order, float64.
    scatter : float
        Exact sum of squares of the centred rows.
    """

    count: int
    mean: Array
    directions: Array
    scatter: float

    _saved = Saved(
        {
            "count": Whole(1),
            "mean": ArrayOf("f8", "n_features"),
            "directions": ArrayOf("f8", "rank", "n_features"),
            "scatter": Number(0),
        }
    )

    @classmethod
    def of(cls, rows: Array, rank: int) -> Sketch:
        """Make the sketch of some rows.

        Raises
        ------
        ValueError
            If a value is not finite.
        """
        values = rows.astype(np.float64)
        mean = values.mean(axis=0)
        values -= mean
        scatter = float(np.vdot(values, values))
        if not np.isfinite(scatter):
            msg = (
                "X holds NaN or infinite values, which sketches cannot fill; leave out these samples, or use "
                "PCA(solver='gram') for missing values"
            )
            raise ValueError(msg)
        values = _no_taller(values)
        return cls(len(rows), mean, _leading_directions(values, rank), scatter)

    def merge(self, other: Sketch, rank: int) -> Sketch:
        """Make the sketch of the rows of both.

        The directions of both are stacked, with one more row for the difference of their means, as in Ross, Lim, Lin,
        Yang (2008), Eq. 3 and 4. The scatter follows Chan, Golub, LeVeque (1983), Eq. 2.1.
        """
        count = self.count + other.count
        shift = other.mean - self.mean
        weight = self.count * other.count / count
        rows = np.concatenate([self.directions, other.directions, np.sqrt(weight) * shift[None]])
        scatter = self.scatter + other.scatter + weight * float(shift @ shift)
        directions = _leading_directions(_no_taller(rows), rank)
        return Sketch(count, self.mean + shift * (other.count / count), directions, scatter)

    @staticmethod
    def bytes_beside(n_rows: int, n_features: int) -> int:
        """Bytes that the sketch of rows takes beside the rows: a copy of them, and factors of their matrix."""
        n = min(n_rows, n_features)
        # LAPACK takes three squares of length n, beside the triangle, two sets of vectors, and a copy of the triangle.
        factors = 8 * (n_features * n + 7 * n * n)
        return max(factors, 8 * (3 * n_rows * n_features + n * n)) if n_rows > n_features else factors


def _no_taller(rows: Array) -> Array:
    """Make a matrix of no more rows than columns with the same singular values and right singular vectors."""
    return np.asarray(np.linalg.qr(rows, mode="r")) if len(rows) > rows.shape[1] else rows


def _leading_directions(rows: Array, rank: int) -> Array:
    """Compute the leading singular values times right singular vectors, shape (≤ rank, n_features).

    The matrix is not squared. Its rows may be overwritten.
    """
    basis, triangle = scipy.linalg.qr(rows.T, mode="economic", overwrite_a=True, check_finite=False)
    _, values, right = scipy.linalg.svd(triangle.T, full_matrices=False, overwrite_a=True, check_finite=False)
    return np.asarray((values[:rank, None] * right[:rank]) @ basis.T)


def sketch_rows(data: Any, rank: int) -> Sketch:
    """Make the sketch of all rows. Lazy rows, which must be whole in each chunk, are read once.

    Raises
    ------
    ValueError
        If a value is not finite, or if chunks cut through rows.
    """
    kernel, merge = partial(Sketch.of, rank=rank), partial(Sketch.merge, rank=rank)
    sketch: Sketch = computed(fold_samples(kernel, merge, data, name="sketch"))
    return sketch


def sketch_rank(n_components: int, oversampling: int | None) -> int:
    """Choose the number of directions that a sketch keeps for a number of components.

    Raises
    ------
    ValueError
        If `oversampling` is no integer, or negative.
    """
    if oversampling is not None and (not isinstance(oversampling, int | np.integer) or oversampling < 0):
        msg = f"oversampling must be an integer from 0, or None, got {oversampling!r}"
        raise ValueError(msg)
    return n_components + (max(40, 2 * n_components) if oversampling is None else int(oversampling))
