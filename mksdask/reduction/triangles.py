"""Symmetric matrices of which one triangle is kept, so that those which wait to be merged take half of the memory."""

from __future__ import annotations

import numpy as np

from mksdask.arrays import Array


def packed(matrix: Array) -> Array:
    """Pack the upper triangle of a matrix, (n, n) → (n (n + 1) / 2,), column by column."""
    n = len(matrix)
    triangle = np.empty(n * (n + 1) // 2, dtype=matrix.dtype)
    for column in range(n):
        triangle[column_of(column)] = matrix[: column + 1, column]
    return triangle


def unpacked(triangle: Array) -> Array:
    """Make the symmetric matrix, (n, n), of which the upper triangle is packed."""
    n = side_of(triangle)
    matrix = np.empty((n, n), dtype=triangle.dtype)
    for column in range(n):
        matrix[column, : column + 1] = matrix[: column + 1, column] = triangle[column_of(column)]
    return matrix


def side_of(triangle: Array) -> int:
    """Find the number n of rows of the matrix whose upper triangle is packed.

    Examples
    --------
    >>> side_of(packed(np.eye(5)))
    5
    """
    return int(np.sqrt(2.0 * len(triangle)))


def column_of(number: int) -> slice:
    """Find the part of a packed triangle that is a column, from the first row to the diagonal."""
    start = number * (number + 1) // 2
    return slice(start, start + number + 1)
