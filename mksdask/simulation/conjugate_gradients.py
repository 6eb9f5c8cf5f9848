"""Conjugate gradients for the samples of a batch, each of which has a step of its own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mksdask.simulation.stencils import Float, jit


class ConvergenceError(ArithmeticError):
    """The conjugate gradients reached the limit of iterations before they reached the tolerance."""


@jit
def _descend(x, r, p, kp, rz, active):  # type: ignore[no-untyped-def]
    """``x += α p``, ``r -= α K p`` with ``α = (r, z) / (p, K p)``, where each sample has its own α."""
    n, size = x.shape
    for s in range(n):
        if active[s]:
            energy = 0.0
            for k in range(size):
                energy += p[s, k] * kp[s, k]
            # What has no energy, such as a movement inside a pore, is no way to go.
            alpha = rz[s] / energy if energy > 0.0 else 0.0
            for k in range(size):
                x[s, k] += alpha * p[s, k]
                r[s, k] -= alpha * kp[s, k]


@jit
def _conjugate(p, r, z, rz, active):  # type: ignore[no-untyped-def]
    """``p = z + β p`` with ``β = (r, z) / (r, z)_previous``; (r, z) is updated in place."""
    n, size = p.shape
    for s in range(n):
        if active[s]:
            new = 0.0
            for k in range(size):
                new += r[s, k] * z[s, k]
            beta = new / rz[s] if rz[s] > 0.0 else 0.0
            rz[s] = new
            for k in range(size):
                p[s, k] = z[s, k] + beta * p[s, k]


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
    _conjugate(p, r, precondition(r), rz, active)
    target = tolerance**2 * rz
    active &= rz > 0.0
    for _ in range(max_iterations):
        if not active.any():
            return x, iterations
        apply(p, active, kp)
        _descend(x, r, p, kp, rz, active)
        _conjugate(p, r, precondition(r), rz, active)
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
