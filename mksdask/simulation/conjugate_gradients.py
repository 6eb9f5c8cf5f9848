"""Conjugate gradients for the samples of a batch, each of which has a step of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from mksdask.compute.threads import over_parts
from mksdask.simulation.stencils import Float, jit

# Unknowns of which a product is summed at once. Threads share the blocks of a large sample.
BLOCK = 2**18


class ConvergenceError(ArithmeticError):
    """The conjugate gradients reached the limit of iterations before they reached the tolerance."""


@jit
def _multiply(a, b, active, sums, first, last):  # type: ignore[no-untyped-def]
    """``sums[s, block] = (a, b)`` over the blocks `first` to `last` of each active sample."""
    n, size = a.shape
    for s in range(n):
        if active[s]:
            for block in range(first, last):
                total = 0.0
                for k in range(block * BLOCK, min((block + 1) * BLOCK, size)):
                    total += a[s, k] * b[s, k]
                sums[s, block] = total


@jit
def _descend(x, r, p, kp, alpha, active, first, last):  # type: ignore[no-untyped-def]
    """``x += α p``, ``r -= α K p`` in some blocks, where each sample has its own α."""
    n, size = x.shape
    for s in range(n):
        if active[s]:
            for k in range(first * BLOCK, min(last * BLOCK, size)):
                x[s, k] += alpha[s] * p[s, k]
                r[s, k] -= alpha[s] * kp[s, k]


@jit
def _conjugate(p, z, beta, active, first, last):  # type: ignore[no-untyped-def]
    """``p = z + β p`` in some blocks."""
    n, size = p.shape
    for s in range(n):
        if active[s]:
            for k in range(first * BLOCK, min(last * BLOCK, size)):
                p[s, k] = z[s, k] + beta[s] * p[s, k]


def _products(a: NDArray[np.floating], b: NDArray[np.floating], active: NDArray[np.bool_]) -> Float:
    """Compute (a, b) of each active sample. The sum has one order for any number of threads."""
    sums = np.zeros((len(a), n_blocks(a)))
    over_parts(partial(_multiply, a, b, active, sums), sums.shape[1])
    return np.asarray(np.add.accumulate(sums, axis=1)[:, -1])


def _ratio(a: Float, b: Float) -> Float:
    """``a / b``, and 0 where b is not positive."""
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0.0)


def n_blocks(a: NDArray[np.floating]) -> int:
    """Count the blocks of the unknowns of a sample."""
    return -(-a.shape[1] // BLOCK)


def conjugate_gradients(
    r: Float,
    apply: Callable[[Float, NDArray[np.bool_], Float], None],
    precondition: Callable[[Float], NDArray[np.floating]],
    load: Float,
    tolerance: float,
    max_iterations: int,
) -> tuple[Float, NDArray[np.int64]]:
    """Solve K x = r of each of n samples together, by preconditioned conjugate gradients from x = 0.

    Parameters
    ----------
    r : ndarray, shape (n, size)
        The right-hand sides. They become the residuals.
    apply : callable
        ``apply(p, active, out)`` writes K p of active samples to `out`. K is symmetric, without negative eigenvalues.
    precondition : callable
        Approximates x that belongs to r: a symmetric and positive map.
    load : ndarray, shape (n,)
        Size of the loads of each sample. Right-hand sides that are only rounding errors of it need no iteration.
    tolerance, max_iterations
        As in `equilibrium`.

    Returns
    -------
    x : ndarray, shape (n, size)
    iterations : ndarray, shape (n,)

    Raises
    ------
    ConvergenceError
        If a sample needs more than `max_iterations`.
    """
    n = len(r)
    x, p, kp = np.zeros_like(r), np.zeros_like(r), np.empty_like(r)
    rz, iterations = np.zeros(n), np.zeros(n, dtype=np.int64)
    # The right-hand side of a homogeneous cell holds only rounding errors.
    active = np.abs(r).max(axis=1) > 1e-13 * load

    def turn() -> None:
        """Choose the next direction, and compute (r, z)."""
        z = precondition(r)
        new = _products(r, z, active)
        over_parts(partial(_conjugate, p, z, _ratio(new, rz), active), n_blocks(p))
        rz[active] = new[active]

    turn()
    target = tolerance**2 * rz
    active &= rz > 0.0
    for _ in range(max_iterations):
        if not active.any():
            return x, iterations
        apply(p, active, kp)
        # What has no energy, such as a movement inside a pore, is no way to go.
        alpha = _ratio(rz, _products(p, kp, active))
        over_parts(partial(_descend, x, r, p, kp, alpha, active), n_blocks(x))
        turn()
        iterations[active] += 1
        active &= rz > target
    if active.any():
        reached = np.sqrt((rz / np.where(target > 0, target, 1.0))[active].max()) * tolerance
        msg = (
            f"{active.sum()} of {n} samples did not converge in max_iterations={max_iterations}: the worst of them "
            f"reached a relative residual of {reached:.1e}, but tolerance is {tolerance:.1e}. Raise max_iterations or "
            "tolerance, or lower the contrast between the voxels."
        )
        raise ConvergenceError(msg)
    return x, iterations
