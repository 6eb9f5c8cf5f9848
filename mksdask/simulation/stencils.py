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

from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from mksdask.compute.threads import over_parts
from mksdask.simulation.forces import (
    anisotropic_stress,
    forces_2d,
    forces_3d,
    forces_anisotropic_2d,
    forces_anisotropic_3d,
    isotropic_stress,
)

Float = NDArray[np.float64]
Single = NDArray[np.float32]
Real = NDArray[np.floating[Any]]


def n_strain_components(dim: int) -> int:
    """Number of independent strain components: 3 in 2D, 6 in 3D."""
    return dim * (dim + 1) // 2


def in_single(values: Real, factor: float | Float) -> Single:
    """Multiply the values of n samples by a factor, or by one for each sample, and round them to float32."""
    out = np.empty(values.shape, dtype=np.float32)
    return np.multiply(values, np.reshape(factor, (-1, *(1,) * (values.ndim - 1))), out=out, casting="same_kind")


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

    def single(self, factor: float | Float) -> Self:
        """Return the stencil in float32, with its stiffnesses multiplied by a factor, or by one for each sample."""

    def forces(self, u: Real, macro: Real, active: NDArray[np.bool_], out: Real) -> Real:
        """Write the forces ``Bᵀ C (B u + E)`` of active samples to `out`, (n, n_fields, *spatial).

        All arrays, and those of the stencil, have one precision.
        """


class Material(Stencil, Protocol):
    """The elastic stiffness of each voxel of n samples."""

    def of_samples(self, rows: NDArray[np.intp]) -> Self:
        """Return the material of some of the samples."""

    def of_planes(self, first: int, last: int) -> Self:
        """Return the material of some planes across the first spatial axis."""

    def stress(self, strain: Float) -> Float:
        """Return the stress that belongs to a strain, both (n, *spatial, n_components)."""


@dataclass(frozen=True)
class Isotropic:
    """Lamé moduli of each voxel, (n, nx, ny[, nz])."""

    lam: Real
    mu: Real

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the voxels, (n, *spatial)."""
        return self.lam.shape

    @property
    def n_fields(self) -> int:
        """Number of components of the displacement."""
        return len(self.shape) - 1

    def single(self, factor: float | Float) -> Isotropic:
        """Return the material in float32, with its moduli multiplied by a factor, or by one for each sample."""
        return Isotropic(in_single(self.lam, factor), in_single(self.mu, factor))

    def of_samples(self, rows: NDArray[np.intp]) -> Isotropic:
        """Return the material of some of the samples."""
        return Isotropic(self.lam[rows], self.mu[rows])

    def of_planes(self, first: int, last: int) -> Isotropic:
        """Return the material of some planes across the first spatial axis."""
        return Isotropic(self.lam[:, first:last], self.mu[:, first:last])

    def largest(self) -> Float:
        """Return the largest λ + 2 μ of each sample."""
        return np.asarray((self.lam + 2 * self.mu).reshape(len(self.lam), -1).max(axis=1))

    def forces(self, u: Real, macro: Real, active: NDArray[np.bool_], out: Real) -> Real:
        """Write the forces on the corners to `out`, (n, dim, *spatial)."""
        kernel = forces_2d if u.shape[1] == 2 else forces_3d
        over_parts(partial(kernel, u, self.lam, self.mu, macro, active, out), u.shape[2])
        return out

    def stress(self, strain: Float) -> Float:
        """Return the stress ``λ tr(ε) 1 + 2 μ ε``."""
        stress, n_components = np.empty(strain.shape), strain.shape[-1]
        flat = strain.reshape(-1, n_components), stress.reshape(-1, n_components)
        isotropic_stress(self.lam.reshape(-1), self.mu.reshape(-1), *flat)
        return stress


@dataclass(frozen=True)
class Anisotropic:
    """Any stiffness in each voxel, packed as the upper triangle of its matrix, row by row.

    The shape of ``packed`` is (n, nx[, ny], n_packed, n_last).
    """

    packed: Real

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the voxels, (n, *spatial)."""
        return (*self.packed.shape[:-2], self.packed.shape[-1])

    @property
    def n_fields(self) -> int:
        """Number of components of the displacement."""
        return len(self.shape) - 1

    def single(self, factor: float | Float) -> Anisotropic:
        """Return the material in float32, with its stiffnesses multiplied by a factor, or by one for each sample."""
        return Anisotropic(in_single(self.packed, factor))

    def of_samples(self, rows: NDArray[np.intp]) -> Anisotropic:
        """Return the material of some of the samples."""
        return Anisotropic(self.packed[rows])

    def of_planes(self, first: int, last: int) -> Anisotropic:
        """Return the material of some planes across the first spatial axis."""
        return Anisotropic(self.packed[:, first:last])

    def largest(self) -> Float:
        """Return the largest entry of each sample."""
        return np.asarray(np.abs(self.packed).reshape(len(self.packed), -1).max(axis=1))

    def forces(self, u: Real, macro: Real, active: NDArray[np.bool_], out: Real) -> Real:
        """Write the forces on the corners to `out`, (n, dim, *spatial)."""
        kernel = forces_anisotropic_2d if u.shape[1] == 2 else forces_anisotropic_3d
        over_parts(partial(kernel, u, self.packed, macro, active, out), u.shape[2])
        return out

    def stress(self, strain: Float) -> Float:
        """Return the stress ``C ε``."""
        stress, last = np.empty(strain.shape), strain.shape[-2:]
        flat = strain.reshape(-1, *last), stress.reshape(-1, *last)
        anisotropic_stress(self.packed.reshape(-1, *self.packed.shape[-2:]), *flat)
        return stress
