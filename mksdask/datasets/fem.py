"""Linear elasticity on a voxel grid: one trilinear (Q1) element a voxel, periodic cell.

The displacement is ``u(x) = E·x + ũ(x)`` with an imposed mean strain ``E`` and a
periodic fluctuation ``ũ`` that lives on the voxels' corners. Inside an element at unit
spacing, with local coordinates ``ξ ∈ [-1/2, 1/2]``, Q1 interpolation is

    ũ_c(ξ) = Σ_σ U_{c,σ} ξ^σ ,   σ ∈ {0,1}^d ,

where ``U_{c,σ}`` takes the difference (σ_i = 1) or the mean (σ_i = 0) of the nodal values along
each axis. The monomials ``ξ^σ`` are orthogonal with norms ``12^{-|σ|}``, so the element
energy, which 2×2(×2) Gauss points integrate exactly, is a short sum over monomials and no element
matrix is ever formed. Strain components are in the order xx, yy, zz, yz, xz, xy (2D: xx, yy, xy),
with engineering shear.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numba
import numpy as np
import scipy.fft
from numpy.typing import NDArray

Float = NDArray[np.float64]

# Samples are solved together up to this many unknowns, so that a batch stays in cache.
BATCH_UNKNOWNS = 2**18

_jit = numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz"})


class ConvergenceError(ArithmeticError):
    """The conjugate gradients stopped at the iteration limit, short of the tolerance."""


class ElasticFields(NamedTuple):
    """Element and nodal fields of a batch of periodic cells."""

    strain: Float
    stress: Float
    fluctuation: Float
    iterations: NDArray[np.int64]


@_jit
def _forces_2d(u, lam, mu, macro, active, out):  # type: ignore[no-untyped-def]
    """Out = Bᵀ C (B u + E), plane strain; u, out (n, 2, nx, ny); lam, mu (n, nx, ny)."""
    n, _, nx, ny = u.shape
    for s in range(n):
        if not active[s]:
            continue
        out[s] = 0.0
        for i in range(nx):
            ip = i + 1 if i + 1 < nx else 0
            for j in range(ny):
                jp = j + 1 if j + 1 < ny else 0
                a, b = u[s, 0, i, j], u[s, 0, ip, j]
                c, d = u[s, 0, i, jp], u[s, 0, ip, jp]
                x10, x01, x11 = 0.5 * (b + d - a - c), 0.5 * (c + d - a - b), a + d - b - c
                a, b = u[s, 1, i, j], u[s, 1, ip, j]
                c, d = u[s, 1, i, jp], u[s, 1, ip, jp]
                y10, y01, y11 = 0.5 * (b + d - a - c), 0.5 * (c + d - a - b), a + d - b - c

                la, m = lam[s, i, j], mu[s, i, j]
                exx, eyy = x10 + macro[s, 0], y01 + macro[s, 1]
                trace = la * (exx + eyy)
                half_xx = 0.5 * (trace + 2.0 * m * exx)
                half_yy = 0.5 * (trace + 2.0 * m * eyy)
                half_xy = 0.5 * m * (x01 + y10 + macro[s, 2])
                hourglass = (la + 3.0 * m) / 12.0

                h = hourglass * x11
                out[s, 0, i, j] += h - half_xx - half_xy
                out[s, 0, ip, j] += half_xx - half_xy - h
                out[s, 0, i, jp] += half_xy - half_xx - h
                out[s, 0, ip, jp] += half_xx + half_xy + h
                h = hourglass * y11
                out[s, 1, i, j] += h - half_xy - half_yy
                out[s, 1, ip, j] += half_xy - half_yy - h
                out[s, 1, i, jp] += half_yy - half_xy - h
                out[s, 1, ip, jp] += half_xy + half_yy + h


@_jit
def _forces_3d(u, lam, mu, macro, active, out):  # type: ignore[no-untyped-def]
    """Out = Bᵀ C (B u + E); u, out (n, 3, nx, ny, nz); lam, mu (n, nx, ny, nz).

    Works on one row of elements at a time. ``w[c, m, k]`` holds the node values
    combined over x and y: m = 0 mean-mean, 1 difference in x, 2 difference in y, 3 both.
    """
    n, _, nx, ny, nz = u.shape
    w = np.empty((3, 4, nz + 1))
    f_mean = np.zeros((3, 4, nz + 1))
    f_diff = np.zeros((3, 4, nz + 1))
    for s in range(n):
        if not active[s]:
            continue
        out[s] = 0.0
        e0, e1, e2 = macro[s, 0], macro[s, 1], macro[s, 2]
        e3, e4, e5 = macro[s, 3], macro[s, 4], macro[s, 5]
        for i in range(nx):
            ip = i + 1 if i + 1 < nx else 0
            for j in range(ny):
                jp = j + 1 if j + 1 < ny else 0
                for c in range(3):
                    r00, r10 = u[s, c, i, j], u[s, c, ip, j]
                    r01, r11 = u[s, c, i, jp], u[s, c, ip, jp]
                    w0, w1, w2, w3 = w[c, 0], w[c, 1], w[c, 2], w[c, 3]
                    for k in range(nz):
                        p, q = r10[k] - r00[k], r11[k] - r01[k]
                        w0[k] = 0.25 * (r00[k] + r10[k] + r01[k] + r11[k])
                        w1[k] = 0.5 * (p + q)
                        w2[k] = 0.5 * (r01[k] + r11[k] - r00[k] - r10[k])
                        w3[k] = q - p
                    w0[nz], w1[nz], w2[nz], w3[nz] = w0[0], w1[0], w2[0], w3[0]
                la_row, mu_row = lam[s, i, j], mu[s, i, j]
                for k in range(nz):
                    la, m = la_row[k], mu_row[k]
                    x100 = 0.5 * (w[0, 1, k] + w[0, 1, k + 1])
                    x010 = 0.5 * (w[0, 2, k] + w[0, 2, k + 1])
                    x110 = 0.5 * (w[0, 3, k] + w[0, 3, k + 1])
                    x001 = w[0, 0, k + 1] - w[0, 0, k]
                    x101 = w[0, 1, k + 1] - w[0, 1, k]
                    x011 = w[0, 2, k + 1] - w[0, 2, k]
                    x111 = w[0, 3, k + 1] - w[0, 3, k]
                    y100 = 0.5 * (w[1, 1, k] + w[1, 1, k + 1])
                    y010 = 0.5 * (w[1, 2, k] + w[1, 2, k + 1])
                    y110 = 0.5 * (w[1, 3, k] + w[1, 3, k + 1])
                    y001 = w[1, 0, k + 1] - w[1, 0, k]
                    y101 = w[1, 1, k + 1] - w[1, 1, k]
                    y011 = w[1, 2, k + 1] - w[1, 2, k]
                    y111 = w[1, 3, k + 1] - w[1, 3, k]
                    z100 = 0.5 * (w[2, 1, k] + w[2, 1, k + 1])
                    z010 = 0.5 * (w[2, 2, k] + w[2, 2, k + 1])
                    z110 = 0.5 * (w[2, 3, k] + w[2, 3, k + 1])
                    z001 = w[2, 0, k + 1] - w[2, 0, k]
                    z101 = w[2, 1, k + 1] - w[2, 1, k]
                    z011 = w[2, 2, k + 1] - w[2, 2, k]
                    z111 = w[2, 3, k + 1] - w[2, 3, k]

                    # monomial 1
                    exx, eyy, ezz = x100 + e0, y010 + e1, z001 + e2
                    trace = la * (exx + eyy + ezz)
                    f_mean[0, 1, k] = trace + 2.0 * m * exx
                    f_mean[1, 2, k] = trace + 2.0 * m * eyy
                    f_diff[2, 0, k] = trace + 2.0 * m * ezz
                    yz = m * (y001 + z010 + e3)
                    xz = m * (x001 + z100 + e4)
                    xy = m * (x010 + y100 + e5)
                    f_diff[1, 0, k] = yz
                    f_mean[2, 2, k] = yz
                    f_diff[0, 0, k] = xz
                    f_mean[2, 1, k] = xz
                    f_mean[0, 2, k] = xy
                    f_mean[1, 1, k] = xy

                    # monomials x, y, z: norm 1/12
                    l12, m12 = la / 12.0, m / 12.0
                    tx, ty, tz = l12 * (y110 + z101), l12 * (x110 + z011), l12 * (x101 + y011)
                    shear_x, shear_y, shear_z = m12 * (y101 + z110), m12 * (x011 + z110), m12 * (x011 + y101)
                    f_mean[0, 3, k] = ty + 3.0 * m12 * x110
                    f_diff[0, 1, k] = tz + 3.0 * m12 * x101
                    f_diff[0, 2, k] = shear_y + shear_z
                    f_mean[1, 3, k] = tx + 3.0 * m12 * y110
                    f_diff[1, 1, k] = shear_x + shear_z
                    f_diff[1, 2, k] = tz + 3.0 * m12 * y011
                    f_mean[2, 3, k] = shear_x + shear_y
                    f_diff[2, 1, k] = tx + 3.0 * m12 * z101
                    f_diff[2, 2, k] = ty + 3.0 * m12 * z011

                    # monomials xy, yz, xz: norm 1/144
                    h = (la + 4.0 * m) / 144.0
                    f_diff[0, 3, k], f_diff[1, 3, k], f_diff[2, 3, k] = h * x111, h * y111, h * z111

                for c in range(3):
                    o00, o10 = out[s, c, i, j], out[s, c, ip, j]
                    o01, o11 = out[s, c, i, jp], out[s, c, ip, jp]
                    for mode in range(4):
                        mean, diff, row = f_mean[c, mode], f_diff[c, mode], w[c, mode]
                        row[0] = 0.5 * (mean[0] + mean[nz - 1]) + diff[nz - 1] - diff[0]
                        for k in range(1, nz):
                            row[k] = 0.5 * (mean[k] + mean[k - 1]) + diff[k - 1] - diff[k]
                    w0, w1, w2, w3 = w[c, 0], w[c, 1], w[c, 2], w[c, 3]
                    for k in range(nz):
                        q, dx, dy, h = 0.25 * w0[k], 0.5 * w1[k], 0.5 * w2[k], w3[k]
                        o00[k] += q - dx - dy + h
                        o10[k] += q + dx - dy - h
                        o01[k] += q - dx + dy - h
                        o11[k] += q + dx + dy + h


@_jit
def _descend(x, r, p, kp, rz, active):  # type: ignore[no-untyped-def]
    """X += α p, r -= α K p with α = (r, z) / (p, K p), one α for each sample."""
    n, size = x.shape
    for s in range(n):
        if active[s]:
            energy = 0.0
            for k in range(size):
                energy += p[s, k] * kp[s, k]
            alpha = rz[s] / energy
            for k in range(size):
                x[s, k] += alpha * p[s, k]
                r[s, k] -= alpha * kp[s, k]


@_jit
def _conjugate(p, r, z, rz, active):  # type: ignore[no-untyped-def]
    """P = z + β p with β = (r, z) / (r, z)_previous; (r, z) is updated in place."""
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


@_jit
def _multiply_green(green, v):  # type: ignore[no-untyped-def]
    """In place v_a ← Σ_b G_ab v_b for each frequency; G symmetric, packed row by row."""
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


def _forces(u: Float, lam: Float, mu: Float, macro: Float, active: NDArray[np.bool_], out: Float) -> Float:
    (_forces_2d if u.shape[1] == 2 else _forces_3d)(u, lam, mu, macro, active, out)
    return out


def batch_size(spatial: tuple[int, ...]) -> int:
    """Number of samples that are solved together."""
    return max(1, BATCH_UNKNOWNS // (len(spatial) * int(np.prod(spatial))))


def n_strain_components(dim: int) -> int:
    """Number of independent strain components: 3 in 2D, 6 in 3D."""
    return dim * (dim + 1) // 2


@lru_cache(maxsize=2)
def green_operator(spatial: tuple[int, ...], lam: float, mu: float) -> NDArray[np.float32]:
    """Inverse of the homogeneous stiffness stencil at each rfft frequency.

    Parameters
    ----------
    spatial : tuple of int
        Voxels along each of 2 or 3 axes.
    lam, mu : float
        Lamé moduli of the homogeneous reference.

    Returns
    -------
    ndarray, shape (dim·(dim+1)/2, *rfft_shape), float32
        The upper triangle of the symmetric dim × dim inverse, row by row; 0 at the zero
        frequency, where the stencil is singular. Single precision is enough: a preconditioner
        steers the iteration, it does not enter the solution.
    """
    dim = len(spatial)
    axes = tuple(range(1, dim + 1))
    rows, cols = np.triu_indices(dim)
    lam_field, mu_field = (np.full((1, *spatial), value) for value in (lam, mu))
    macro, active = np.zeros((1, n_strain_components(dim))), np.ones(1, dtype=bool)
    symbol = []
    for column in range(dim):
        delta = np.zeros((1, dim, *spatial))
        delta[(0, column, *(0,) * dim)] = 1.0
        response = _forces(delta, lam_field, mu_field, macro, active, np.empty_like(delta))
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


def _solve_batch(
    lam: Float, mu: Float, macro: Float, green: NDArray[np.float32], tolerance: float, max_iterations: int
) -> tuple[Float, NDArray[np.int64]]:
    """Fluctuation (n, dim, *spatial) at equilibrium, by preconditioned conjugate gradients."""
    n, *spatial = lam.shape
    x = np.zeros((n, len(spatial), *spatial))
    active = np.ones(n, dtype=bool)
    r = -_forces(x, lam, mu, macro, active, np.empty_like(x))
    kp = np.empty_like(x)
    p = np.zeros_like(x)
    rz = np.zeros(n)
    no_macro = np.zeros_like(macro)
    iterations = np.zeros(n, dtype=np.int64)
    flat = (n, -1)

    # A homogeneous cell leaves only rounding in its right-hand side.
    load = np.abs(macro).max(axis=1) * (lam + 2 * mu).reshape(flat).max(axis=1)
    active &= np.abs(r.reshape(flat)).max(axis=1) > 1e-13 * load
    _conjugate(p.reshape(flat), r.reshape(flat), _precondition(green, r).reshape(flat), rz, active)
    target = tolerance**2 * rz
    active &= rz > 0.0
    for _ in range(max_iterations):
        if not active.any():
            return x, iterations
        _forces(p, lam, mu, no_macro, active, kp)
        _descend(x.reshape(flat), r.reshape(flat), p.reshape(flat), kp.reshape(flat), rz, active)
        _conjugate(p.reshape(flat), r.reshape(flat), _precondition(green, r).reshape(flat), rz, active)
        iterations[active] += 1
        active &= rz > target
    if active.any():
        reached = np.sqrt((rz / np.where(target > 0, target, 1.0))[active].max()) * tolerance
        msg = (
            f"{active.sum()} of {n} samples did not converge in max_iterations={max_iterations}: the worst reached a "
            f"relative residual of {reached:.1e}, tolerance={tolerance:.1e}. Raise max_iterations or tolerance, or "
            "lower the contrast between the phases."
        )
        raise ConvergenceError(msg)
    return x, iterations


def _strain(u: Float, macro: Float) -> Float:
    """Mean strain of each element, (n, *spatial, n_components)."""
    dim = u.shape[1]
    rows, cols = voigt_pairs(dim)

    def gradient(component: int, axis: int) -> Float:
        field = u[:, component]
        for other in range(dim):
            shifted = np.roll(field, -1, axis=1 + other)
            field = shifted - field if other == axis else 0.5 * (shifted + field)
        return field

    strain = np.empty((len(u), *u.shape[2:], len(rows)))
    for v, (a, b) in enumerate(zip(rows, cols, strict=True)):
        strain[..., v] = gradient(a, b) if a == b else gradient(a, b) + gradient(b, a)
        strain[..., v] += macro[:, v].reshape(-1, *(1,) * dim)
    return strain


def voigt_pairs(dim: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Tensor indices of the strain components xx, yy, (zz, yz, xz,) xy."""
    return ((0, 1, 0), (0, 1, 1)) if dim == 2 else ((0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1))


def _stress(strain: Float, lam: Float, mu: Float) -> Float:
    dim = strain.ndim - 2
    stress = strain * mu[..., None]
    stress[..., :dim] *= 2.0
    stress[..., :dim] += (lam * strain[..., :dim].sum(axis=-1))[..., None]
    return stress


def solve_elasticity(
    lam: Float,
    mu: Float,
    macro_strain: Float,
    *,
    reference: tuple[float, float],
    tolerance: float = 1e-8,
    max_iterations: int = 1000,
) -> ElasticFields:
    """Equilibrium of periodic voxel cells under imposed mean strains.

    Minimises ``1/2 Σ_e ∫ (B ũ + E) : C (B ũ + E)`` over periodic ``ũ`` by conjugate gradients,
    preconditioned in Fourier space with the inverse stencil of a homogeneous
    reference, for which the number of iterations does not depend on the grid.

    Parameters
    ----------
    lam, mu : ndarray, shape (n, nx, ny[, nz]), float64
        Lamé moduli of each voxel, in any one unit of stress. 2D means plane strain.
    macro_strain : ndarray, shape (n, n_components), float64
        Imposed mean strain of each sample; engineering shear.
    reference : tuple of float
        Lamé moduli of the homogeneous reference; only their ratio matters to the iteration.
    tolerance : float
        Stop when the preconditioned residual norm has fallen by this factor. It estimates the relative energy-norm
        error, and underestimates it as the contrast grows.
    max_iterations : int
        Limit of iterations.

    Returns
    -------
    ElasticFields
        ``strain`` and ``stress``, shape (n, *spatial, n_components): element means.
        ``fluctuation``, shape (n, dim, *spatial): ũ at each voxel's lower corner, in voxels.
        ``iterations``, shape (n,).

    Raises
    ------
    ConvergenceError
        If a sample needs more than ``max_iterations``; the message says how far it got.

    Notes
    -----
    Peak memory beyond the results is about ``5 · dim + 3`` float64 fields of the batch of samples that are
    solved together (at most ``BATCH_UNKNOWNS`` unknowns, at least one sample).

    References
    ----------
    Schneider, M., Merkert, D., Kabel, M. FFT-based homogenization for microstructures discretized by
    linear hexahedral elements. Int. J. Numer. Meth. Eng. 109 (2017) 1461.
    Leute, R. J. et al. Elimination of ringing artifacts by finite-element projection in FFT-based
    homogenization. J. Comput. Phys. 453 (2022) 110931.

    Examples
    --------
    A homogeneous cell strains homogeneously.

    >>> import numpy as np
    >>> one = np.ones((1, 4, 4))
    >>> fields = solve_elasticity(one, one, np.array([[0.1, 0.0, 0.0]]), reference=(1.0, 1.0))
    >>> fields.stress.mean(axis=(0, 1, 2)).round(12).tolist()
    [0.3, 0.1, 0.0]
    """
    n, *spatial = lam.shape
    dim = len(spatial)
    # Dimensionless inside, so that single precision in the preconditioner is safe for any unit.
    unit = reference[1]
    amplitude = np.abs(macro_strain).max(axis=1)
    amplitude[amplitude == 0.0] = 1.0
    green = green_operator(tuple(spatial), reference[0] / unit, 1.0)
    strain = np.empty((n, *spatial, n_strain_components(dim)))
    stress = np.empty_like(strain)
    fluctuation = np.empty((n, dim, *spatial))
    iterations = np.empty(n, dtype=np.int64)
    batch = batch_size(tuple(spatial))
    for start in range(0, n, batch):
        rows = slice(start, start + batch)
        scale = amplitude[rows]
        u, iterations[rows] = _solve_batch(
            lam[rows] / unit, mu[rows] / unit, macro_strain[rows] / scale[:, None], green, tolerance, max_iterations
        )
        fluctuation[rows] = u * scale.reshape(-1, *(1,) * (dim + 1))
        strain[rows] = _strain(fluctuation[rows], macro_strain[rows])
        stress[rows] = _stress(strain[rows], lam[rows], mu[rows])
    return ElasticFields(strain, stress, fluctuation, iterations)
