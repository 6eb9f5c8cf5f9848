"""Elastic forces on a periodic grid of voxels, with one multilinear (Q1) element for each voxel.

The displacement is ``u(x) = E·x + ũ(x)``, with an imposed mean strain ``E`` and a periodic fluctuation ``ũ`` that is
given on the corners of the voxels. Inside an element at unit spacing, with local coordinates ``ξ ∈ [-1/2, 1/2]``, the
Q1 interpolation is

    ũ_c(ξ) = Σ_σ U_{c,σ} ξ^σ ,   σ ∈ {0,1}^d ,

where ``U_{c,σ}`` takes the difference (σ_i = 1) or the mean (σ_i = 0) of the nodal values along each axis. The
monomials ``ξ^σ`` are orthogonal with norms ``12^{-|σ|}``. So the energy of an element, which 2×2(×2) Gauss points
integrate exactly, is a short sum over monomials, and no element matrix is ever formed. Strain components are in the
order xx, yy, zz, yz, xz, xy (2D: xx, yy, xy), with engineering shear.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Protocol, Self

import numba
import numpy as np
from numpy.typing import NDArray

from mksdask.compute.threads import over_parts

Float = NDArray[np.float64]

jit = numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz"})


def n_strain_components(dim: int) -> int:
    """Number of independent strain components: 3 in 2D, 6 in 3D."""
    return dim * (dim + 1) // 2


def voigt_pairs(dim: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Rows and columns in the tensor of the strain components xx, yy, (zz, yz, xz,) xy."""
    return ((0, 1, 0), (0, 1, 1)) if dim == 2 else ((0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1))


class Stencil(Protocol):
    """The forces of fields on the voxels of n samples."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the voxels, (n, *spatial)."""

    @property
    def n_fields(self) -> int:
        """Number of unknown fields."""

    def largest(self) -> Float:
        """Estimate the largest stiffness of each sample, (n,)."""

    def forces(self, u: Float, macro: Float, active: NDArray[np.bool_], out: Float) -> Float:
        """Write the forces ``Bᵀ C (B u + E)`` of active samples to `out`, (n, n_fields, *spatial)."""


class Material(Stencil, Protocol):
    """The elastic stiffness of each voxel of n samples."""

    def scaled(self, factor: float | Float) -> Self:
        """Return the same material with its stiffnesses multiplied by a factor, or by one for each sample."""

    def of_samples(self, rows: NDArray[np.intp]) -> Self:
        """Return the material of some of the samples."""

    def of_planes(self, first: int, last: int) -> Self:
        """Return the material of some planes across the first spatial axis."""

    def stress(self, strain: Float) -> Float:
        """Return the stress that belongs to a strain, both (n, *spatial, n_components)."""


@dataclass(frozen=True)
class Isotropic:
    """Lamé moduli of each voxel, (n, nx, ny[, nz])."""

    lam: Float
    mu: Float

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the voxels, (n, *spatial)."""
        return self.lam.shape

    @property
    def n_fields(self) -> int:
        """Number of components of the displacement."""
        return len(self.shape) - 1

    def scaled(self, factor: float | Float) -> Isotropic:
        """Return the same material with its moduli multiplied by a factor, or by one for each sample."""
        factor = np.reshape(factor, (-1, *(1,) * self.n_fields))
        return Isotropic(self.lam * factor, self.mu * factor)

    def of_samples(self, rows: NDArray[np.intp]) -> Isotropic:
        """Return the material of some of the samples."""
        return Isotropic(self.lam[rows], self.mu[rows])

    def of_planes(self, first: int, last: int) -> Isotropic:
        """Return the material of some planes across the first spatial axis."""
        return Isotropic(self.lam[:, first:last], self.mu[:, first:last])

    def largest(self) -> Float:
        """Return the largest λ + 2 μ of each sample."""
        return np.asarray((self.lam + 2 * self.mu).reshape(len(self.lam), -1).max(axis=1))

    def forces(self, u: Float, macro: Float, active: NDArray[np.bool_], out: Float) -> Float:
        """Write the forces on the corners to `out`, (n, dim, *spatial)."""
        kernel = _forces_2d if u.shape[1] == 2 else _forces_3d
        over_parts(partial(kernel, u, self.lam, self.mu, macro, active, out), u.shape[2])
        return out

    def stress(self, strain: Float) -> Float:
        """Return the stress ``λ tr(ε) 1 + 2 μ ε``."""
        dim = strain.ndim - 2
        stress = strain * self.mu[..., None]
        stress[..., :dim] *= 2.0
        stress[..., :dim] += (self.lam * strain[..., :dim].sum(axis=-1))[..., None]
        return stress


@dataclass(frozen=True)
class Anisotropic:
    """Any stiffness in each voxel, packed as the upper triangle of its matrix, row by row.

    The shape of ``packed`` is (n, nx[, ny], n_packed, n_last).
    """

    packed: Float

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the voxels, (n, *spatial)."""
        return (*self.packed.shape[:-2], self.packed.shape[-1])

    @property
    def n_fields(self) -> int:
        """Number of components of the displacement."""
        return len(self.shape) - 1

    def scaled(self, factor: float | Float) -> Anisotropic:
        """Return the same material with its stiffnesses multiplied by a factor, or by one for each sample."""
        return Anisotropic(self.packed * np.reshape(factor, (-1, *(1,) * (self.packed.ndim - 1))))

    def of_samples(self, rows: NDArray[np.intp]) -> Anisotropic:
        """Return the material of some of the samples."""
        return Anisotropic(self.packed[rows])

    def of_planes(self, first: int, last: int) -> Anisotropic:
        """Return the material of some planes across the first spatial axis."""
        return Anisotropic(self.packed[:, first:last])

    def largest(self) -> Float:
        """Return the largest entry of each sample."""
        return np.asarray(np.abs(self.packed).reshape(len(self.packed), -1).max(axis=1))

    def forces(self, u: Float, macro: Float, active: NDArray[np.bool_], out: Float) -> Float:
        """Write the forces on the corners to `out`, (n, dim, *spatial)."""
        dim = u.shape[1]
        # In 2D the samples are treated as volumes that are one voxel thick and have no displacement across.
        thick = (*u.shape[:3], 1, u.shape[-1]) if dim == 2 else u.shape
        packed = self.packed.reshape(thick[0], *thick[2:4], *self.packed.shape[-2:])
        arguments = (u.reshape(thick), packed, macro, active, *_monomials(dim), out.reshape(thick))
        over_parts(partial(_forces_anisotropic, *arguments), u.shape[2])
        return out

    def stress(self, strain: Float) -> Float:
        """Return the stress ``C ε``."""
        n_components = strain.shape[-1]
        rows, columns = np.triu_indices(n_components)
        stress = np.zeros_like(strain)
        for position, (row, column) in enumerate(zip(rows, columns, strict=True)):
            entry = self.packed[..., position, :]
            stress[..., row] += entry * strain[..., column]
            if row != column:
                stress[..., column] += entry * strain[..., row]
        return stress


@lru_cache(maxsize=2)
def _monomials(dim: int) -> tuple[NDArray[np.int64], Float]:
    """List the coefficients U that make the strain of each monomial ξ^τ, and the norms of the monomials.

    The first array has shape (n_monomials, n_components, 2). It holds the positions ``8 c + 4 σ_x + 2 σ_y + σ_z`` of
    U_{c,σ}, or -1 where there is no coefficient. In 2D, σ_x and σ_y take the places of σ_x and σ_z.
    """
    places = (4, 1) if dim == 2 else (4, 2, 1)
    sources, norms = [], []
    for tau in itertools.product((0, 1), repeat=dim):
        if all(tau):
            continue

        def coefficient(component: int, axis: int, tau: tuple[int, ...] = tau) -> int:
            """Position of the coefficient of ξ^τ in the derivative of a displacement along an axis, or -1."""
            if tau[axis]:
                return -1
            return 8 * component + sum(place for a, place in enumerate(places) if tau[a] or a == axis)

        sources.append(
            [(coefficient(a, b), coefficient(b, a) if a != b else -1) for a, b in zip(*voigt_pairs(dim), strict=True)]
        )
        norms.append(12.0 ** -sum(tau))
    return np.array(sources), np.array(norms)


@jit
def n_element_planes(first, last, n):  # type: ignore[no-untyped-def]
    """Count the planes of elements whose corners lie in the planes `first` to `last` of n planes of corners."""
    return n if last - first == n else last - first + 1


@jit
def element_plane(step, first, last, n):  # type: ignore[no-untyped-def]
    """Return one of these planes of elements. Each corner gets its forces in the same order for all parts of n."""
    if first > 0:
        return first - 1 + step
    return step if step < last else n - 1


@jit
def _forces_2d(u, lam, mu, macro, active, out, first, last):  # type: ignore[no-untyped-def]
    """``out = Bᵀ C (B u + E)`` in plane strain; u, out (n, 2, nx, ny); lam, mu (n, nx, ny)."""
    n, _, nx, ny = u.shape
    spare = np.zeros(ny)
    for s in range(n):
        if not active[s]:
            continue
        out[s, :, first:last] = 0.0
        for step in range(n_element_planes(first, last, nx)):
            i = element_plane(step, first, last, nx)
            ip = i + 1 if i + 1 < nx else 0
            is_lower, is_upper = first <= i < last, first <= ip < last
            x0, x1 = out[s, 0, i] if is_lower else spare, out[s, 0, ip] if is_upper else spare
            y0, y1 = out[s, 1, i] if is_lower else spare, out[s, 1, ip] if is_upper else spare
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
                x0[j] += h - half_xx - half_xy
                x1[j] += half_xx - half_xy - h
                x0[jp] += half_xy - half_xx - h
                x1[jp] += half_xx + half_xy + h
                h = hourglass * y11
                y0[j] += h - half_xy - half_yy
                y1[j] += half_xy - half_yy - h
                y0[jp] += half_yy - half_xy - h
                y1[jp] += half_xy + half_yy + h


@jit
def _forces_3d(u, lam, mu, macro, active, out, first, last):  # type: ignore[no-untyped-def]
    """``out = Bᵀ C (B u + E)``; u, out (n, 3, nx, ny, nz); lam, mu (n, nx, ny, nz).

    The function works on one row of elements at a time. ``w[c, m, k]`` holds the values of the nodes combined over x
    and y: m = 0 is the mean over both axes, 1 the difference in x, 2 the difference in y, and 3 the difference in both.
    """
    n, _, nx, ny, nz = u.shape
    w, spare = np.empty((3, 4, nz + 1)), np.zeros(nz)
    f_mean = np.zeros((3, 4, nz + 1))
    f_diff = np.zeros((3, 4, nz + 1))
    for s in range(n):
        if not active[s]:
            continue
        out[s, :, first:last] = 0.0
        e0, e1, e2 = macro[s, 0], macro[s, 1], macro[s, 2]
        e3, e4, e5 = macro[s, 3], macro[s, 4], macro[s, 5]
        for step in range(n_element_planes(first, last, nx)):
            i = element_plane(step, first, last, nx)
            ip = i + 1 if i + 1 < nx else 0
            is_lower, is_upper = first <= i < last, first <= ip < last
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
                    o00, o10 = out[s, c, i, j] if is_lower else spare, out[s, c, ip, j] if is_upper else spare
                    o01, o11 = out[s, c, i, jp] if is_lower else spare, out[s, c, ip, jp] if is_upper else spare
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


@jit
def _forces_anisotropic(u, packed, macro, active, sources, norms, out, first, last):  # type: ignore[no-untyped-def]
    """``out = Bᵀ C (B u + E)``; u, out (n, dim, nx, ny, nz); packed (n, nx, ny, n_packed, nz).

    The function works on one row of elements at a time, monomial by monomial.
    """
    n, dim, nx, ny, nz = u.shape
    n_components = sources.shape[1]
    w, spare = np.empty((dim, 4, nz + 1)), np.zeros(nz)
    coefficients = np.empty((8 * dim, nz))
    loads = np.empty((8 * dim, nz))
    strain = np.empty((n_components, nz))
    stress = np.empty(nz)
    for s in range(n):
        if not active[s]:
            continue
        out[s, :, first:last] = 0.0
        for step in range(n_element_planes(first, last, nx)):
            i = element_plane(step, first, last, nx)
            ip = i + 1 if i + 1 < nx else 0
            is_lower, is_upper = first <= i < last, first <= ip < last
            for j in range(ny):
                jp = j + 1 if j + 1 < ny else 0
                for c in range(dim):
                    r00, r10 = u[s, c, i, j], u[s, c, ip, j]
                    r01, r11 = u[s, c, i, jp], u[s, c, ip, jp]
                    w0, w1, w2, w3 = w[c, 0], w[c, 2], w[c, 1], w[c, 3]
                    for k in range(nz):
                        p, q = r10[k] - r00[k], r11[k] - r01[k]
                        w0[k] = 0.25 * (r00[k] + r10[k] + r01[k] + r11[k])
                        w1[k] = 0.5 * (p + q)
                        w2[k] = 0.5 * (r01[k] + r11[k] - r00[k] - r10[k])
                        w3[k] = q - p
                    for mode in range(4):
                        row = w[c, mode]
                        row[nz] = row[0]
                        mean, diff = coefficients[8 * c + 2 * mode], coefficients[8 * c + 2 * mode + 1]
                        for k in range(nz):
                            mean[k] = 0.5 * (row[k] + row[k + 1])
                            diff[k] = row[k + 1] - row[k]
                loads[:] = 0.0
                stiffness = packed[s, i, j]
                for m in range(len(norms)):
                    for v in range(n_components):
                        row, uniform = strain[v], macro[s, v] if m == 0 else 0.0
                        row[:] = uniform
                        for source in sources[m, v]:
                            if source >= 0:
                                part = coefficients[source]
                                for k in range(nz):
                                    row[k] += part[k]
                    for v in range(n_components):
                        if sources[m, v, 0] < 0 and sources[m, v, 1] < 0:
                            continue
                        stress[:] = 0.0
                        for other in range(n_components):
                            if m > 0 and sources[m, other, 0] < 0 and sources[m, other, 1] < 0:
                                continue
                            low, high = min(v, other), max(v, other)
                            entry = stiffness[low * n_components - low * (low + 1) // 2 + high]
                            row = strain[other]
                            for k in range(nz):
                                stress[k] += entry[k] * row[k]
                        for source in sources[m, v]:
                            if source >= 0:
                                load = loads[source]
                                for k in range(nz):
                                    load[k] += norms[m] * stress[k]
                for c in range(dim):
                    o00, o10 = out[s, c, i, j] if is_lower else spare, out[s, c, ip, j] if is_upper else spare
                    o01, o11 = out[s, c, i, jp] if is_lower else spare, out[s, c, ip, jp] if is_upper else spare
                    for mode in range(4):
                        mean, diff, row = loads[8 * c + 2 * mode], loads[8 * c + 2 * mode + 1], w[c, mode]
                        row[0] = 0.5 * (mean[0] + mean[nz - 1]) + diff[nz - 1] - diff[0]
                        for k in range(1, nz):
                            row[k] = 0.5 * (mean[k] + mean[k - 1]) + diff[k - 1] - diff[k]
                    w0, w1, w2, w3 = w[c, 0], w[c, 2], w[c, 1], w[c, 3]
                    for k in range(nz):
                        q, dx, dy, h = 0.25 * w0[k], 0.5 * w1[k], 0.5 * w2[k], w3[k]
                        o00[k] += q - dx - dy + h
                        o10[k] += q + dx - dy - h
                        o01[k] += q - dx + dy - h
                        o11[k] += q + dx + dy + h
