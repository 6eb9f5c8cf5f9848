"""Fluxes on a periodic grid of voxels, with one multilinear (Q1) element for each voxel, and their equilibrium.

The potential is ``G·x + T(x)``, with an imposed mean gradient G and a periodic fluctuation T on the corners of the
voxels. As in `stencils`, T is a sum of monomials ξ^σ inside an element, with coefficients U_σ. For an isotropic
conductivity k, the energy is a sum of ``k |σ| 12^(1 - |σ|) U_σ²`` over all σ except 0. A tensor couples those
coefficients whose gradients hold the same monomial.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial, reduce

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from mksdask.compute.threads import over_parts
from mksdask.simulation.equilibrium import equilibrium, gradient_of_planes, kept_if_small, single_precision, symbols
from mksdask.simulation.stencils import Float, element_plane, jit, n_element_planes


@dataclass(frozen=True)
class Conductive:
    """The conductivity of each voxel.

    Parameters
    ----------
    packed : ndarray, shape (n, n_packed, *spatial)
        One number for each voxel, or the upper triangle of a tensor, row by row.
    """

    packed: Float

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the voxels, (n, *spatial)."""
        return (len(self.packed), *self.packed.shape[2:])

    @property
    def n_fields(self) -> int:
        """There is one potential."""
        return 1

    def largest(self) -> Float:
        """Return the largest entry of each sample."""
        return np.asarray(np.abs(self.packed).reshape(len(self.packed), -1).max(axis=1))

    def forces(self, u: Float, macro: Float, active: NDArray[np.bool_], out: Float) -> Float:
        """Write the flows ``Bᵀ K (B T + G)`` out of the corners to `out`, (n, 1, *spatial)."""
        n, *spatial = self.shape
        # In 2D, the samples are volumes that are one voxel thick, without a gradient across.
        thick = (n, *(1,) * (3 - len(spatial)), *spatial)
        packed, gradient = self.packed, macro
        if len(spatial) == 2:
            gradient = np.concatenate([np.zeros((n, 1)), macro], axis=1)
            if packed.shape[1] > 1:
                nothing = np.zeros_like(packed[:, 0])
                packed = np.stack([packed[:, 0], nothing, nothing, *packed.swapaxes(0, 1)], axis=1)
        arguments = (u.reshape(thick), packed.reshape(n, -1, *thick[1:]), gradient, active, out.reshape(thick))
        over_parts(partial(_flows, *arguments), thick[1])
        return out

    def flux(self, gradient: Float) -> Float:
        """Return the flux ``K g`` that belongs to a gradient, both (n, *spatial, dim)."""
        if self.packed.shape[1] == 1:
            return gradient * self.packed[:, 0, ..., None]
        flux = np.zeros_like(gradient)
        for entry, row, column in zip(self.packed.swapaxes(0, 1), *np.triu_indices(gradient.shape[-1]), strict=True):
            flux[..., row] += entry * gradient[..., column]
            if row != column:
                flux[..., column] += entry * gradient[..., row]
        return flux


@jit
def _flows(u, packed, macro, active, out, first, last):  # type: ignore[no-untyped-def]
    """``out = Bᵀ K (B u + G)``; u, out (n, nx, ny, nz); packed (n, 1 or 6, nx, ny, nz)."""
    n, nx, ny, nz = u.shape
    is_tensor = packed.shape[1] > 1
    xy = xz = yz = 0.0
    spare = np.zeros(nz)
    for s in range(n):
        if not active[s]:
            continue
        out[s, first:last] = 0.0
        gx, gy, gz = macro[s, 0], macro[s, 1], macro[s, 2]
        for step in range(n_element_planes(first, last, nx)):
            i = element_plane(step, first, last, nx)
            ip = i + 1 if i + 1 < nx else 0
            is_lower, is_upper = first <= i < last, first <= ip < last
            for j in range(ny):
                jp = j + 1 if j + 1 < ny else 0
                r00, r10, r01, r11 = u[s, i, j], u[s, ip, j], u[s, i, jp], u[s, ip, jp]
                o00, o10 = out[s, i, j] if is_lower else spare, out[s, ip, j] if is_upper else spare
                o01, o11 = out[s, i, jp] if is_lower else spare, out[s, ip, jp] if is_upper else spare
                for k in range(nz):
                    kp = k + 1 if k + 1 < nz else 0
                    xx = packed[s, 0, i, j, k]
                    yy = zz = xx
                    if is_tensor:
                        xy, xz, yy = packed[s, 1, i, j, k], packed[s, 2, i, j, k], packed[s, 3, i, j, k]
                        yz, zz = packed[s, 4, i, j, k], packed[s, 5, i, j, k]
                    elif xx == 0.0:
                        continue
                    # Means and differences along z, then y, then x.
                    m00, d00 = 0.5 * (r00[k] + r00[kp]), r00[kp] - r00[k]
                    m10, d10 = 0.5 * (r10[k] + r10[kp]), r10[kp] - r10[k]
                    m01, d01 = 0.5 * (r01[k] + r01[kp]), r01[kp] - r01[k]
                    m11, d11 = 0.5 * (r11[k] + r11[kp]), r11[kp] - r11[k]
                    y0, y1, yz0, yz1 = m01 - m00, m11 - m10, d01 - d00, d11 - d10
                    z0, z1 = 0.5 * (d00 + d01), 0.5 * (d10 + d11)
                    x100 = 0.5 * (m10 + m11 - m00 - m01) + gx
                    x010, x110 = 0.5 * (y0 + y1) + gy, (y1 - y0) / 12.0
                    x001, x101 = 0.5 * (z0 + z1) + gz, (z1 - z0) / 12.0
                    x011, x111 = 0.5 * (yz0 + yz1) / 12.0, (yz1 - yz0) / 144.0
                    # The load of each coefficient.
                    f100 = xx * x100 + xy * x010 + xz * x001
                    f010 = xy * x100 + yy * x010 + yz * x001
                    f001 = xz * x100 + yz * x010 + zz * x001
                    f110 = (xx + yy) * x110 + yz * x101 + xz * x011
                    f101 = yz * x110 + (xx + zz) * x101 + xy * x011
                    f011 = xz * x110 + xy * x101 + (yy + zz) * x011
                    f111 = (xx + yy + zz) * x111
                    # Back to the corners, along x, then y, then z.
                    y0, y1 = 0.5 * f010 - f110, 0.5 * f010 + f110
                    z0, z1 = 0.25 * f001 - 0.5 * f101, 0.25 * f001 + 0.5 * f101
                    yz0, yz1 = 0.5 * f011 - f111, 0.5 * f011 + f111
                    half = 0.5 * f100
                    m, d = 0.5 * (-half - y0), z0 - yz0
                    o00[k] += m - d
                    o00[kp] += m + d
                    m, d = 0.5 * (-half + y0), z0 + yz0
                    o01[k] += m - d
                    o01[kp] += m + d
                    m, d = 0.5 * (half - y1), z1 - yz1
                    o10[k] += m - d
                    o10[kp] += m + d
                    m, d = 0.5 * (half + y1), z1 + yz1
                    o11[k] += m - d
                    o11[kp] += m + d


@lru_cache(maxsize=2)
def _green(spatial: tuple[int, ...]) -> NDArray[np.float32]:
    """Invert the stencil of the conductivity 1 at each rfft frequency. It is 0 at the zero frequency."""
    dim = len(spatial)
    squares, norms, _ = symbols(spatial, halved=dim - 1)
    symbol: Float = np.zeros(())
    for axis in range(dim):
        factors = [squares[other] if other == axis else norms[other] for other in range(dim)]
        symbol = symbol + reduce(np.multiply.outer, factors)
    symbol[(0,) * dim] = np.inf
    green = (1.0 / symbol).astype(np.float32)
    green.flags.writeable = False
    return green


def _precondition(green: NDArray[np.float32], r: Float) -> NDArray[np.float32]:
    axes = tuple(range(2, r.ndim))
    v = scipy.fft.rfftn(single_precision(r), axes=axes)

    def multiply(first: int, last: int) -> None:
        v[:, :, first:last] *= green[first:last]

    over_parts(multiply, len(green))
    return np.asarray(scipy.fft.irfftn(v, s=r.shape[2:], axes=axes, overwrite_x=True))


def solve_fluxes(
    material: Conductive, macro_gradient: Float, *, unit: float, tolerance: float, max_iterations: int
) -> tuple[Float, Float]:
    """Solve for the gradient and the flux of a batch of periodic cells under imposed mean gradients.

    Parameters
    ----------
    material : Conductive
        Conductivity of each voxel.
    macro_gradient : ndarray, shape (n, dim)
        Imposed mean gradient of each cell.
    unit : float
        A conductivity of the material, by which it is divided in the computation.
    tolerance, max_iterations
        As in `equilibrium`.

    Returns
    -------
    gradient, flux : ndarray, shape (n, *spatial, dim)
        Means of each element.

    Raises
    ------
    ConvergenceError
        If a cell needs more than `max_iterations`.
    """
    spatial = material.shape[1:]
    amplitude = np.abs(macro_gradient).max(axis=1, keepdims=True)
    amplitude[amplitude == 0.0] = 1.0
    precondition = partial(_precondition, kept_if_small(_green, spatial))
    fluctuation, _ = equilibrium(
        Conductive(material.packed / unit), macro_gradient / amplitude, precondition, tolerance, max_iterations
    )
    potential = fluctuation[:, 0] * amplitude.reshape(-1, *(1,) * len(spatial))
    gradient = np.empty((*material.shape, len(spatial)))
    flux = np.empty_like(gradient)

    def respond(first: int, last: int) -> None:
        planes = slice(first, last)
        for axis in range(len(spatial)):
            gradient[:, planes, ..., axis] = gradient_of_planes(potential, axis, first, last)
        gradient[:, planes] += macro_gradient.reshape(len(gradient), *(1,) * len(spatial), -1)
        flux[:, planes] = Conductive(material.packed[:, :, planes]).flux(gradient[:, planes])

    over_parts(respond, spatial[0])
    return gradient, flux
