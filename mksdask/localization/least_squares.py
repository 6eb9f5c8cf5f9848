"""Solve many small least-squares problems at once, one for each frequency. Their rows arrive in blocks.

A *factor* is an array of shape (n_unknowns, n_unknowns + n_targets, n_problems) that replaces all rows absorbed so far.
For each problem it holds the triangle R and the targets Qᴴp of the QR factorization of the rows [M | p]. It has the
layout of a block of rows, so a factor can be absorbed into another one, which merges the two. No matrix is squared: R
has the singular values of M.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import DTypeLike

from mksdask.arrays import Array

# This many problems are computed side by side, in buffers that stay in cache.
_TILE = 32
# One sweep of reflections absorbs at most this many rows.
_MOST_ROWS = 32
# At most this many problems are solved together, which bounds the memory of the work arrays.
SOLVE_TILE = 2**16

_jit = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})


def empty_factor(n_unknowns: int, n_targets: int, n_problems: int, dtype: DTypeLike) -> Array:
    """Make the factor of no rows."""
    return np.zeros((n_unknowns, n_unknowns + n_targets, n_problems), dtype=dtype)


def absorb(factor: Array, rows: Array, left: Array | None = None) -> Array:
    """Update a factor in place with further rows.

    Parameters
    ----------
    factor : ndarray, shape (n_unknowns, n_unknowns + n_targets, n_problems)
        complex64 or complex128. The arithmetic is in double precision.
    rows : ndarray, shape (n_rows, n_unknowns + n_targets, n_problems)
        Rows [M | p] of each problem, or another factor.
    left : ndarray, shape (n_problems,), optional
        Array of float64. To each entry is added what the reflections leave of the targets in the rows: the squared
        norm of their part outside the range of M, summed over targets.

    Returns
    -------
    ndarray
        The same array as `factor`.

    Notes
    -----
    The rows are absorbed by Householder reflections, which keep the diagonal real and not negative. They keep norms, so
    ``|p|²`` of all rows is ``|Qᴴp|²`` of the factor and what is left.

    References
    ----------
    Golub, G. H., Van Loan, C. F. Matrix Computations (4th ed., 2013), section 5.1.
    """
    left = np.empty(0) if left is None else left
    for start in range(0, len(rows), _MOST_ROWS):
        _absorb(factor, rows[start : start + _MOST_ROWS], left)
    return factor


@_jit
def _absorb(factor, rows, left):  # type: ignore[no-untyped-def]
    n_unknowns, width, n_problems = factor.shape
    n_rows = rows.shape[0]
    re, im = np.zeros((n_rows, width, _TILE)), np.zeros((n_rows, width, _TILE))
    top_re, top_im = np.zeros((width, _TILE)), np.zeros((width, _TILE))
    squares, leading, scale, inverse = np.zeros(_TILE), np.zeros(_TILE), np.zeros(_TILE), np.zeros(_TILE)
    dot_re, dot_im = np.zeros(_TILE), np.zeros(_TILE)
    for start in range(0, n_problems, _TILE):
        size = min(_TILE, n_problems - start)
        for i in range(n_rows):
            for k in range(width):
                for t in range(size):
                    value = rows[i, k, start + t]
                    re[i, k, t], im[i, k, t] = value.real, value.imag
        for j in range(n_unknowns):
            for k in range(j, width):
                for t in range(size):
                    value = factor[j, k, start + t]
                    top_re[k, t], top_im[k, t] = value.real, value.imag
            # A reflection moves column j of the rows onto the diagonal r ≥ 0, which becomes √(r² + Σ|a|²).
            squares[:] = 0.0
            for i in range(n_rows):
                for t in range(_TILE):
                    squares[t] += re[i, j, t] * re[i, j, t] + im[i, j, t] * im[i, j, t]
            for t in range(_TILE):
                s = squares[t]
                if s > 1e-290:
                    r = top_re[j, t]
                    norm = np.sqrt(r * r + s)
                    # For the reflector v = (r - norm, a), these are r - norm without cancellation, 2/|v|², 1/norm.
                    leading[t], scale[t], inverse[t] = -s / (r + norm), (r + norm) / norm / s, 1.0 / norm
                    top_re[j, t] = norm
                else:
                    leading[t], scale[t], inverse[t] = 0.0, 0.0, 0.0
            for k in range(j + 1, width):
                for t in range(_TILE):
                    dot_re[t] = leading[t] * top_re[k, t]
                    dot_im[t] = leading[t] * top_im[k, t]
                for i in range(n_rows):
                    for t in range(_TILE):
                        dot_re[t] += re[i, j, t] * re[i, k, t] + im[i, j, t] * im[i, k, t]
                        dot_im[t] += re[i, j, t] * im[i, k, t] - im[i, j, t] * re[i, k, t]
                for t in range(_TILE):
                    top_re[k, t] += dot_re[t] * inverse[t]
                    top_im[k, t] += dot_im[t] * inverse[t]
                    dot_re[t] *= scale[t]
                    dot_im[t] *= scale[t]
                for i in range(n_rows):
                    for t in range(_TILE):
                        re[i, k, t] -= re[i, j, t] * dot_re[t] - im[i, j, t] * dot_im[t]
                        im[i, k, t] -= re[i, j, t] * dot_im[t] + im[i, j, t] * dot_re[t]
            for k in range(j, width):
                for t in range(size):
                    factor[j, k, start + t] = complex(top_re[k, t], top_im[k, t])
        if left.size:
            squares[:] = 0.0
            for i in range(n_rows):
                for k in range(n_unknowns, width):
                    for t in range(_TILE):
                        squares[t] += re[i, k, t] * re[i, k, t] + im[i, k, t] * im[i, k, t]
            for t in range(size):
                left[start + t] += squares[t]


def solve(factor: Array, coordinates: Array, *, rcond: float, floor: float, ridge: float = 0.0) -> Array:
    """Solve all problems for the solutions of minimum norm in the space that the columns of `coordinates` span.

    Parameters
    ----------
    factor : ndarray, shape (n_unknowns, n_unknowns + n_targets, n_problems)
        Factor of the rows [M | p].
    coordinates : ndarray, shape (n_unknowns, n_unknowns)
        A real and regular matrix. M x = p is solved for c with x = coordinates · c, and the norm is that of c.
    rcond : float
        Singular values of M · coordinates below `rcond` times the largest of their problem count as zero.
    floor : float
        Singular values below it count as zero too. They are what rounding leaves of a problem without data.
    ridge : float, default 0
        Weight of |c|² beside the squared error.

    Returns
    -------
    ndarray, shape (n_unknowns, n_targets, n_problems)
        The coordinates c.
    """
    n_unknowns, width, n_problems = factor.shape
    solution = np.zeros((n_unknowns, width - n_unknowns, n_problems), dtype=factor.dtype)
    for start in range(0, n_problems, SOLVE_TILE):
        part = slice(start, start + SOLVE_TILE)
        rows = factor[..., part].astype(np.complex128)
        rows[:, :n_unknowns] = np.einsum("ijf,jk->ikf", rows[:, :n_unknowns], coordinates)
        triangle = absorb(np.zeros_like(rows), rows)
        if ridge:
            penalty = np.zeros_like(rows)
            penalty[range(n_unknowns), range(n_unknowns)] = np.sqrt(ridge)
            absorb(triangle, penalty)
        found = np.zeros((n_unknowns, width - n_unknowns, triangle.shape[-1]), dtype=np.complex128)
        is_certain = _substitute(triangle, rcond, floor, found)
        doubtful = np.flatnonzero(~is_certain)
        if doubtful.size:
            found[..., doubtful] = _truncated(triangle[..., doubtful], rcond, floor)
        solution[..., part] = found
    return solution


@_jit
def _substitute(triangle, rcond, floor, solution):  # type: ignore[no-untyped-def]
    """Solve by back substitution where it is certain that no singular value counts as zero. Return where it is.

    In the Frobenius norm, 1/‖R⁻¹‖ is a lower bound of the smallest singular value, and ‖R‖ is an upper bound of the
    largest.
    """
    n_unknowns, width, n_problems = triangle.shape
    is_certain = np.zeros(n_problems, dtype=np.bool_)
    inverse = np.zeros((n_unknowns, n_unknowns), dtype=np.complex128)
    for f in range(n_problems):
        regular = True
        norm = 0.0
        for j in range(n_unknowns):
            regular = regular and triangle[j, j, f].real > floor
            for k in range(j, n_unknowns):
                norm += abs(triangle[j, k, f]) ** 2
        if not regular:
            continue
        inverse_norm = 0.0
        for k in range(n_unknowns):
            for j in range(k, -1, -1):
                total = 1.0 + 0.0j if j == k else 0.0j
                for i in range(j + 1, k + 1):
                    total -= triangle[j, i, f] * inverse[i, k]
                inverse[j, k] = total / triangle[j, j, f].real
                inverse_norm += abs(inverse[j, k]) ** 2
        smallest = 1.0 / np.sqrt(inverse_norm)
        if not (smallest > floor and smallest > rcond * np.sqrt(norm)):
            continue
        is_certain[f] = True
        for target in range(n_unknowns, width):
            for j in range(n_unknowns - 1, -1, -1):
                total = triangle[j, target, f]
                for i in range(j + 1, n_unknowns):
                    total -= triangle[j, i, f] * solution[i, target - n_unknowns, f]
                solution[j, target - n_unknowns, f] = total / triangle[j, j, f].real
    return is_certain


def _truncated(triangle: Array, rcond: float, floor: float) -> Array:
    """Solve problems by their singular values, for the solutions of minimum norm."""
    n_unknowns = len(triangle)
    left, values, right = np.linalg.svd(np.moveaxis(triangle[:, :n_unknowns], -1, 0))
    counts = (values > rcond * values[:, :1]) & (values > floor)
    inverse = np.divide(1.0, values, out=np.zeros_like(values), where=counts)
    targets = np.einsum("fji,jkf->fik", left.conj(), triangle[:, n_unknowns:])
    return np.einsum("fji,fj,fjk->ikf", right.conj(), inverse, targets)
