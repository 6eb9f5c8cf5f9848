"""Conjugate gradients for the samples of a batch, each of which has a step of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from mksdask.compute.threads import over_parts
from mksdask.simulation.forces import jit
from mksdask.simulation.stencils import Float, Single

# Factor by which residuals may fall in single precision, which adds about 1e-7 of the residual times the contrast.
RENEWAL = 1e-4

# Unknowns of which a product is summed at once. Threads share the blocks of a large sample.
BLOCK = 2**18


class ConvergenceError(ArithmeticError):
    """The conjugate gradients reached the limit of iterations before they reached the tolerance."""


@jit
def _multiply(a, b, active, sums, first, last):  # type: ignore[no-untyped-def]
    """``sums[s, block] = (a, b)`` over the blocks `first` to `last` of each active sample."""
    for s in range(len(a)):
        if active[s]:
            for block in range(first, last):
                part = slice(block * BLOCK, (block + 1) * BLOCK)
                left, right = a[s, part], b[s, part]
                total = 0.0
                for k in range(len(left)):
                    total += left[k] * right[k]
                sums[s, block] = total


@jit
def _descend(x, r, p, kp, alpha, active, first, last):  # type: ignore[no-untyped-def]
    """``x += α p``, ``r -= α K p`` in some blocks, where each sample has its own α."""
    for s in range(len(x)):
        if active[s]:
            part = slice(first * BLOCK, last * BLOCK)
            step, found, left = p[s, part], x[s, part], r[s, part]
            exact, single = alpha[s], np.float32(alpha[s])
            for k in range(len(step)):
                found[k] += exact * step[k]
            forces = kp[s, part]
            for k in range(len(step)):
                left[k] -= single * forces[k]


@jit
def _conjugate(p, z, beta, active, first, last):  # type: ignore[no-untyped-def]
    """``p = z + β p`` in some blocks."""
    for s in range(len(p)):
        if active[s]:
            part = slice(first * BLOCK, last * BLOCK)
            step, new, single = p[s, part], z[s, part], np.float32(beta[s])
            for k in range(len(step)):
                step[k] = new[k] + single * step[k]


def _products(a: Single, b: Single, active: NDArray[np.bool_]) -> Float:
    """Compute (a, b) of each active sample. The sum has one order for any number of threads."""
    sums = np.zeros((len(a), n_blocks(a)))
    over_parts(partial(_multiply, a, b, active, sums), sums.shape[1])
    return np.asarray(np.add.accumulate(sums, axis=1)[:, -1])


def write_residuals(
    forces: Float | None, acting: Float, unit: float | Float, active: NDArray[np.bool_], out: Single
) -> None:
    """Write ``forces - acting / unit`` of active samples to `out`. All fields have shape (n, n_fields, *spatial)."""
    rows = slice(None) if active.all() else np.flatnonzero(active)
    scale = -1.0 / np.broadcast_to(unit, len(active)).reshape(-1, *(1,) * (acting.ndim - 1))[rows]

    def write(first: int, last: int) -> None:
        part = acting[rows, :, first:last]
        part *= scale
        if forces is not None:
            part += forces[rows, :, first:last]
        out[rows, :, first:last] = part

    over_parts(write, acting.shape[2])


def _ratio(a: Float, b: Float) -> Float:
    """``a / b``, and 0 where b is not positive."""
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0.0)


def n_blocks(a: Single) -> int:
    """Count the blocks of the unknowns of a sample."""
    return -(-a.shape[1] // BLOCK)


def conjugate_gradients(
    shape: tuple[int, int],
    residual: Callable[[Float, NDArray[np.bool_], Single], None],
    apply: Callable[[Single, NDArray[np.bool_], Single], None],
    precondition: Callable[[Single], Single],
    load: Float,
    tolerance: float,
    max_iterations: int,
) -> tuple[Float, NDArray[np.int64]]:
    """Solve K x = f of each of n samples together, by preconditioned conjugate gradients from x = 0.

    Directions and residuals have single precision, and x has double precision. Whenever the residual of a sample has
    fallen by the factor `RENEWAL`, or to the tolerance, it is computed anew in double precision, and the iteration goes
    on from there. So a sample that has converged has done so in double precision.

    Parameters
    ----------
    shape : tuple of int
        Number of samples, and of unknowns of each.
    residual : callable
        ``residual(x, active, out)`` computes f - K x of active samples in float64 and writes it to `out`, float32.
    apply : callable
        ``apply(p, active, out)`` writes K p of active samples to `out`, both float32. K is symmetric, without negative
        eigenvalues.
    precondition : callable
        Approximates x that belongs to the residuals of any number of samples: a symmetric and positive map.
    load : ndarray, shape (n,)
        Size of the loads of each sample. Residuals that are only rounding errors of it need no iteration.
    tolerance, max_iterations
        As in `equilibrium`.

    Returns
    -------
    x : ndarray, shape (n, size), float64
    iterations : ndarray, shape (n,)

    Raises
    ------
    ConvergenceError
        If a sample needs more than `max_iterations`.

    References
    ----------
    van der Vorst, H. A., Ye, Q. Residual replacement strategies for Krylov subspace iterative methods for the
    convergence of true residuals. SIAM J. Sci. Comput. 22 (2000) 835.
    """
    n = shape[0]
    x = np.zeros(shape)
    r, z, p = (np.zeros(shape, dtype=np.float32) for _ in range(3))
    iterations, active, converged = np.zeros(n, dtype=np.int64), np.ones(n, dtype=bool), np.zeros(n, dtype=bool)

    def preconditioned(rows: NDArray[np.bool_]) -> Single:
        """Return z of some samples. That of others stays as it is."""
        if rows.all():
            return precondition(r)
        z[rows] = precondition(r[rows])
        return z

    residual(x, active, r)
    active &= np.abs(r).max(axis=1) > 1e-13 * load
    if not active.any():
        return x, iterations
    z = preconditioned(active)
    rz = _products(r, z, active)
    renewed, target = rz.copy(), tolerance**2 * rz
    active &= rz > 0.0
    over_parts(partial(_conjugate, p, z, np.zeros(n), active), n_blocks(p))
    for _ in range(max_iterations):
        # K p takes the place of z, which p has taken in.
        apply(p, active, z)
        # What has no energy, such as a movement inside a pore, is no way to go.
        alpha = _ratio(rz, _products(p, z, active))
        over_parts(partial(_descend, x, r, p, z, alpha, active), n_blocks(r))
        iterations[active] += 1
        active &= ~converged
        if not active.any():
            return x, iterations
        z = preconditioned(active)
        new = _products(r, z, active)
        stale = active & (new <= np.maximum(RENEWAL**2 * renewed, target))
        if stale.any():
            residual(x, stale, r)
            active[stale] &= np.abs(r[stale]).max(axis=1) > 1e-13 * load[stale]
            z = preconditioned(stale)
            renewed[stale] = new[stale] = _products(r, z, stale)[stale]
        # Those that have converged take one more step, whose direction is known.
        converged = active & (new <= target)
        over_parts(partial(_conjugate, p, z, _ratio(new, rz), active), n_blocks(p))
        rz[active] = new[active]
    active &= ~converged
    if active.any():
        reached = np.sqrt((rz / np.where(target > 0, target, 1.0))[active].max()) * tolerance
        msg = (
            f"{active.sum()} of {n} samples did not converge in max_iterations={max_iterations}: the worst of them "
            f"reached a relative residual of {reached:.1e}, but tolerance is {tolerance:.1e}. Raise max_iterations or "
            "tolerance, or lower the contrast between the voxels."
        )
        raise ConvergenceError(msg)
    return x, iterations
