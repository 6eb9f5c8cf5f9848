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
from mksdask.compute.transforms import irfftn_in_place
from mksdask.simulation.elements import gradient_of_planes, parts_of_planes
from mksdask.simulation.equilibrium import equilibrium, kept_if_small, symbols
from mksdask.simulation.forces import (
    CHUNK,
    WIDTH,
    coefficients,
    combine,
    distribute,
    element_plane,
    jit,
    multiply_3,
    n_element_planes,
    scatter,
)
from mksdask.simulation.stencils import Float, Real, Single, in_single


@dataclass(frozen=True)
class Conductive:
    """The conductivity of each voxel.

    Parameters
    ----------
    packed : ndarray, shape (n, n_packed, *spatial)
        One number for each voxel, or the upper triangle of a tensor, row by row.
    """

    packed: Real

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

    def single(self, factor: float | Float) -> Conductive:
        """Return the conductivity in float32, multiplied by a factor, or by one for each sample."""
        return Conductive(in_single(self.packed, factor))

    def forces(self, u: Real, macro: Real, active: NDArray[np.bool_], out: Real) -> Real:
        """Write the flows ``Bᵀ K (B T + G)`` out of the corners to `out`, (n, 1, *spatial)."""
        n, *spatial = self.shape
        # In 2D, the samples are volumes that are one voxel thick, without a gradient across.
        thick = (n, *(1,) * (3 - len(spatial)), *spatial)
        packed, gradient = self.packed, macro
        if len(spatial) == 2:
            gradient = np.pad(macro, ((0, 0), (1, 0)))
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
    half, norm, last_norm = u.dtype.type(0.5), u.dtype.type(1.0 / 12.0), u.dtype.type(1.0 / 144.0)
    w, f = np.zeros((4, WIDTH), dtype=u.dtype), np.zeros((8, WIDTH), dtype=u.dtype)
    tensor = np.zeros((6, WIDTH), dtype=u.dtype)
    for s in range(n):
        if not active[s]:
            continue
        out[s, first:last] = 0.0
        gx, gy, gz = macro[s, 0], macro[s, 1], macro[s, 2]
        for step in range(n_element_planes(first, last, nx)):
            i = element_plane(step, first, last, nx)
            ip = i + 1 if i + 1 < nx else 0
            for j in range(ny):
                jp = j + 1 if j + 1 < ny else 0
                for start in range(0, nz, CHUNK):
                    size = min(CHUNK, nz - start)
                    end = start + size if start + size < nz else 0
                    combine(u[s], i, ip, j, jp, start, size, end, w, 0)
                    for entry in range(6):
                        if packed.shape[1] == 1 and entry not in (0, 3, 5):
                            continue
                        row = packed[s, entry if packed.shape[1] > 1 else 0, i, j, start:]
                        for k in range(size):
                            tensor[entry, k] = row[k]
                    for k in range(size):
                        x100, x010, x110, x001, x101, x011, x111 = coefficients(w, 0, k, half)
                        xx, xy, xz, yy = tensor[0, k], tensor[1, k], tensor[2, k], tensor[3, k]
                        yz, zz = tensor[4, k], tensor[5, k]
                        x, y, z = multiply_3(x100 + gx, x010 + gy, x001 + gz, xx, xy, xz, yy, yz, zz)
                        yz_x, xz_y, xy_z = multiply_3(x011, x101, x110, yy + zz, xy, xz, xx + zz, yz, xx + yy)
                        all_axes = last_norm * (xx + yy + zz) * x111
                        distribute(f, 0, k, half, x, y, norm * xy_z, z, norm * xz_y, norm * yz_x, all_axes)
                    scatter(f, 0, i, ip, j, jp, start, size, end, first, last, out[s])


@lru_cache(maxsize=2)
def _green(spatial: tuple[int, ...]) -> Single:
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


def _precondition(green: Single, r: Single) -> Single:
    axes = tuple(range(2, r.ndim))
    v = scipy.fft.rfftn(r, axes=axes)

    def multiply(first: int, last: int) -> None:
        v[:, :, first:last] *= green[first:last]

    over_parts(multiply, len(green))
    return irfftn_in_place(v, r.shape[2:], axes)


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
        material, macro_gradient / amplitude, precondition, tolerance, max_iterations, unit=unit
    )
    fluctuation *= amplitude.reshape(-1, *(1,) * (1 + len(spatial)))
    gradient = np.empty((*material.shape, len(spatial)))
    flux = np.empty_like(gradient)

    def respond(first: int, last: int) -> None:
        for start, end in parts_of_planes(material.shape, first, last):
            part = gradient_of_planes(fluctuation, macro_gradient, start, end)
            gradient[:, start:end], flux[:, start:end] = part, Conductive(material.packed[:, :, start:end]).flux(part)

    over_parts(respond, spatial[0])
    return gradient, flux
