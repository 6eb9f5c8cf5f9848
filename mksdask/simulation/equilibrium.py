"""Equilibrium of periodic voxel samples, by conjugate gradients that are preconditioned in Fourier space.

The elastic forces come from `stencils`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from mksdask.simulation.stencils import Float, Isotropic, Material, Stencil, jit, n_strain_components, voigt_pairs

# Largest number of unknowns that are solved together, so that a batch stays in cache.
BATCH_UNKNOWNS = 2**18


class ConvergenceError(ArithmeticError):
    """The conjugate gradients reached the limit of iterations before they reached the tolerance."""


class ElasticFields(NamedTuple):
    """Fields on the elements and nodes of a batch of periodic cells, and the number of iterations of each cell."""

    strain: Float
    stress: Float
    fluctuation: Float
    iterations: NDArray[np.int64]


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


@jit
def _multiply_green(green, v):  # type: ignore[no-untyped-def]
    """``v_a ← Σ_b G_ab v_b`` in place, for each frequency. The symmetric G is packed as its upper triangle, by rows."""
    n, dim, size = v.shape
    for s in range(n):
        if dim == 2:
            for k in range(size):
                a, b = v[s, 0, k], v[s, 1, k]
                v[s, 0, k] = green[0, k] * a + green[1, k] * b
                v[s, 1, k] = green[1, k] * a + green[2, k] * b
        else:
            for k in range(size):
                a, b, c = v[s, 0, k], v[s, 1, k], v[s, 2, k]
                v[s, 0, k] = green[0, k] * a + green[1, k] * b + green[2, k] * c
                v[s, 1, k] = green[1, k] * a + green[3, k] * b + green[4, k] * c
                v[s, 2, k] = green[2, k] * a + green[4, k] * b + green[5, k] * c


def batch_size(spatial: tuple[int, ...]) -> int:
    """Choose the number of samples that are solved together."""
    return max(1, BATCH_UNKNOWNS // (len(spatial) * int(np.prod(spatial))))


@lru_cache(maxsize=2)
def green_operator(spatial: tuple[int, ...], lam: float, mu: float) -> NDArray[np.float32]:
    """Invert the stiffness stencil of a homogeneous reference at each rfft frequency.

    Parameters
    ----------
    spatial : tuple of int
        Voxels along each of 2 or 3 axes.
    lam, mu : float
        Lamé moduli of the homogeneous reference.

    Returns
    -------
    ndarray, shape (dim·(dim+1)/2, *rfft_shape), float32
        The upper triangle of the symmetric dim × dim inverse, row by row. It is 0 at the zero frequency, where the
        stencil is singular. Single precision is enough, because a preconditioner steers the iteration but does not
        enter the solution.
    """
    dim = len(spatial)
    axes = tuple(range(1, dim + 1))
    rows, cols = np.triu_indices(dim)
    material = Isotropic(*(np.full((1, *spatial), value) for value in (lam, mu)))
    macro, active = np.zeros((1, n_strain_components(dim))), np.ones(1, dtype=bool)
    symbol = []
    for column in range(dim):
        delta = np.zeros((1, dim, *spatial))
        delta[(0, column, *(0,) * dim)] = 1.0
        response = material.forces(delta, macro, active, np.empty_like(delta))
        symbol.append(scipy.fft.rfftn(response[0], axes=axes).real)
    matrices = np.moveaxis(np.array(symbol), (0, 1), (-2, -1))
    origin = (0,) * dim
    matrices[origin] = np.eye(dim)
    inverse = np.linalg.inv(matrices)
    inverse[origin] = 0.0
    green = np.ascontiguousarray(np.moveaxis(inverse[..., rows, cols], -1, 0), dtype=np.float32)
    green.flags.writeable = False
    return green


def _precondition(green: NDArray[np.float32], r: Float) -> NDArray[np.float32]:
    axes = tuple(range(2, r.ndim))
    v = scipy.fft.rfftn(r.astype(np.float32), axes=axes)
    _multiply_green(green.reshape(len(green), -1), v.reshape(*v.shape[:2], -1))
    return scipy.fft.irfftn(v, s=r.shape[2:], axes=axes, overwrite_x=True)


def equilibrium(
    material: Stencil,
    macro: Float,
    precondition: Callable[[Float], NDArray[np.floating]],
    tolerance: float,
    max_iterations: int,
) -> tuple[Float, NDArray[np.int64]]:
    """Find the fluctuation at which the forces of a material vanish, by preconditioned conjugate gradients.

    Parameters
    ----------
    material : Stencil
        The forces.
    macro : ndarray, shape (n, n_components)
        Imposed mean of each sample.
    precondition : callable
        Approximates the fluctuation that belongs to forces: a symmetric and positive map of fields.
    tolerance : float
        Factor by which the preconditioned residual norm is reduced.
    max_iterations : int
        Limit of iterations.

    Returns
    -------
    fluctuation : ndarray, shape (n, n_fields, *spatial)
    iterations : ndarray, shape (n,)

    Raises
    ------
    ConvergenceError
        If a sample needs more than `max_iterations`.
    """
    n, *spatial = material.shape
    x = np.zeros((n, material.n_fields, *spatial))
    active = np.ones(n, dtype=bool)
    r = -material.forces(x, macro, active, np.empty_like(x))
    kp = np.empty_like(x)
    p = np.zeros_like(x)
    rz = np.zeros(n)
    no_macro = np.zeros_like(macro)
    iterations = np.zeros(n, dtype=np.int64)
    flat = (n, -1)

    # The right-hand side of a homogeneous cell holds only rounding errors, so it needs no iteration.
    load = np.abs(macro).max(axis=1) * material.largest()
    active &= np.abs(r.reshape(flat)).max(axis=1) > 1e-13 * load
    _conjugate(p.reshape(flat), r.reshape(flat), precondition(r).reshape(flat), rz, active)
    target = tolerance**2 * rz
    active &= rz > 0.0
    for _ in range(max_iterations):
        if not active.any():
            return x, iterations
        material.forces(p, no_macro, active, kp)
        _descend(x.reshape(flat), r.reshape(flat), p.reshape(flat), kp.reshape(flat), rz, active)
        _conjugate(p.reshape(flat), r.reshape(flat), precondition(r).reshape(flat), rz, active)
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


def element_gradient(field: Float, axis: int) -> Float:
    """Compute the mean derivative in each element of a field on the corners, (n, *spatial), along an axis."""
    for other in range(field.ndim - 1):
        shifted = np.roll(field, -1, axis=1 + other)
        field = shifted - field if other == axis else 0.5 * (shifted + field)
    return field


def _strain(u: Float, macro: Float) -> Float:
    """Compute the mean strain of each element, (n, *spatial, n_components)."""
    dim = u.shape[1]
    rows, cols = voigt_pairs(dim)
    strain = np.empty((len(u), *u.shape[2:], len(rows)))
    for v, (a, b) in enumerate(zip(rows, cols, strict=True)):
        strain[..., v] = element_gradient(u[:, a], b)
        if a != b:
            strain[..., v] += element_gradient(u[:, b], a)
        strain[..., v] += macro[:, v].reshape(-1, *(1,) * dim)
    return strain


def solve_elasticity(
    material: Material,
    macro_strain: Float,
    *,
    reference: tuple[float, float],
    tolerance: float = 1e-8,
    max_iterations: int = 1000,
) -> ElasticFields:
    """Solve for the equilibrium of a batch of periodic voxel cells under imposed mean strains.

    The solver minimises the elastic energy ``1/2 Σ_e ∫ (B ũ + E) : C (B ũ + E)`` over periodic ``ũ`` by conjugate
    gradients. They are preconditioned in Fourier space with the inverse stencil of a homogeneous reference. With this
    preconditioner the number of iterations does not depend on the grid. All cells are solved together.

    Parameters
    ----------
    material : Isotropic or Anisotropic
        Stiffness of each voxel of n cells, in any one unit of stress. The cells have 2 or 3 spatial axes; cells with 2
        axes are in plane strain.
    macro_strain : ndarray, shape (n, n_components), float64
        Imposed mean strain of each cell, with engineering shear.
    reference : tuple of float
        Lamé moduli λ, μ of the homogeneous reference. Only their ratio matters to the iteration.
    tolerance : float
        The iteration stops when the preconditioned residual norm has fallen by this factor. The factor estimates the
        relative error in the energy norm, and underestimates it as the contrast grows.
    max_iterations : int
        Limit of iterations.

    Returns
    -------
    ElasticFields
        ``strain`` and ``stress``, shape (n, *spatial, n_components): means of each element.
        ``fluctuation``, shape (n, dim, *spatial): ũ at the lower corner of each voxel, in voxels.
        ``iterations``, shape (n,): number of iterations of each cell.

    Raises
    ------
    ConvergenceError
        If a cell needs more than ``max_iterations``. The message says how far it got.

    Notes
    -----
    Peak memory beyond the results is one more copy of the material and about ``5 · dim + 1`` float64 fields.
    `batch_size` tells how many cells fit in cache together.

    References
    ----------
    Schneider, M., Merkert, D., Kabel, M. FFT-based homogenization for microstructures discretized by
    linear hexahedral elements. Int. J. Numer. Meth. Eng. 109 (2017) 1461.
    Leute, R. J. et al. Elimination of ringing artifacts by finite-element projection in FFT-based
    homogenization. J. Comput. Phys. 453 (2022) 110931.

    Examples
    --------
    The strain of a homogeneous cell is homogeneous.

    >>> import numpy as np
    >>> one = np.ones((1, 4, 4))
    >>> fields = solve_elasticity(Isotropic(one, one), np.array([[0.1, 0.0, 0.0]]), reference=(1.0, 1.0))
    >>> fields.stress.mean(axis=(0, 1, 2)).round(12).tolist()
    [0.3, 0.1, 0.0]
    """
    spatial = tuple(material.shape[1:])
    # The computation is dimensionless, so that single precision in the preconditioner is safe for any unit.
    unit = reference[1]
    amplitude = np.abs(macro_strain).max(axis=1)
    amplitude[amplitude == 0.0] = 1.0
    green = green_operator(spatial, reference[0] / unit, 1.0)
    macro = macro_strain / amplitude[:, None]
    precondition = partial(_precondition, green)
    fluctuation, iterations = equilibrium(material.scaled(1.0 / unit), macro, precondition, tolerance, max_iterations)
    fluctuation *= amplitude.reshape(-1, *(1,) * (len(spatial) + 1))
    strain = _strain(fluctuation, macro_strain)
    return ElasticFields(strain, material.stress(strain), fluctuation, iterations)
