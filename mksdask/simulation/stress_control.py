"""Equilibrium of elastic samples under imposed mean stresses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mksdask.simulation.conjugate_gradients import conjugate_gradients, write_residuals
from mksdask.simulation.elements import total_stress
from mksdask.simulation.forces import jit
from mksdask.simulation.stencils import Float, Material, Single, in_single


@jit
def _multiply_control(coupling, stiffness, p, size, out):  # type: ignore[no-untyped-def]
    """Write the stresses of fluctuations and mean strains p, times the number of voxels, to the end of `out`."""
    n, k, _ = coupling.shape
    for s in range(n):
        for i in range(k):
            total = 0.0
            for m in range(size):
                total += coupling[s, i, m] * p[s, m]
            for j in range(k):
                total += stiffness[s, i, j] * p[s, size + j]
            out[s, size + i] = total


class StressControl:
    """Equilibrium under imposed mean stresses: the mean strains that belong to them are further unknowns.

    By symmetry, the mean stress of a fluctuation ũ is the product of ũ with the forces of a unit mean strain.

    Parameters
    ----------
    material : Isotropic or Anisotropic
        Stiffness of each voxel of n cells.
    stress : ndarray, shape (n, n_components)
        Imposed mean stress. NaN stands for components whose strain is imposed, the same ones in all cells.
    lam : float
        The modulus λ of the homogeneous reference, whose μ is 1.
    unit : float or ndarray, shape (n,)
        Stiffness by which those of the material are divided.
    """

    def __init__(self, material: Material, stress: Float, lam: float, unit: float | Float) -> None:
        self.material, self.free = material, np.flatnonzero(np.isfinite(stress[0]))
        self.stress, self.unit = stress[:, self.free], unit
        n, *spatial = material.shape
        self.shape, self.size = (n, len(spatial), *spatial), len(spatial) * int(np.prod(spatial))
        every, nothing = np.ones(n, dtype=bool), np.zeros(self.shape)
        self.coupling = np.empty((n, len(self.free), *self.shape[1:]), dtype=np.float32)
        self.stiffness = np.empty((n, len(self.free), len(self.free)), dtype=np.float32)
        for position, component in enumerate(np.eye(stress.shape[1])[self.free]):
            macro = np.tile(component, (n, 1))
            forces = material.forces(nothing, macro, every, np.empty(self.shape))
            self.coupling[:, position] = in_single(forces, 1.0 / unit)
            self.stiffness[:, :, position] = self._stresses(nothing, macro)
        reference = np.eye(stress.shape[1])
        dim = len(spatial)
        reference[range(dim), range(dim)] = 2.0
        reference[:dim, :dim] += lam
        self.compliance = np.linalg.inv(reference[np.ix_(self.free, self.free)]) * (dim / self.size)

    def _stresses(self, u: Float, macro: Float) -> Float:
        """Sum the imposed components of the stress, (n, n_free), over the voxels."""
        return np.asarray(total_stress(self.material, u, macro)[:, self.free] / np.reshape(self.unit, (-1, 1)))

    def equilibrium(
        self,
        macro: Float,
        precondition: Callable[[Single], Single],
        tolerance: float,
        max_iterations: int,
        forces: Float | None = None,
    ) -> tuple[Float, Float, NDArray[np.int64]]:
        """Find the fluctuation and the mean strain, as `equilibrium` finds the fluctuation.

        Parameters
        ----------
        macro : ndarray, shape (n, n_components)
            Imposed mean strain, with 0 where a stress is imposed.
        precondition, tolerance, max_iterations, forces
            As in `equilibrium`.

        Returns
        -------
        fluctuation : ndarray, shape (n, dim, *spatial)
        macro : ndarray, shape (n, n_components)
        iterations : ndarray, shape (n,)

        Raises
        ------
        ConvergenceError
            As in `equilibrium`.
        """
        n, size, shape, free, unit = len(macro), self.size, self.shape, self.free, self.unit
        single, inside = self.material.single(1.0 / unit), np.empty(shape, dtype=np.float32)
        coupling, sums = self.coupling.reshape(n, len(free), size), self.stress * (size // len(shape[2:]))

        def strains(x: Float) -> Float:
            """Return the mean strain that belongs to the unknowns."""
            whole = macro.copy()
            whole[:, free] = x[:, size:]
            return whole

        def apply(p: Single, active: NDArray[np.bool_], out: Single) -> None:
            strain = np.zeros(macro.shape, dtype=np.float32)
            strain[:, free] = p[:, size:]
            fluctuation = np.ascontiguousarray(p[:, :size]).reshape(shape)
            out[:, :size] = single.forces(fluctuation, strain, active, inside).reshape(n, -1)
            _multiply_control(coupling, self.stiffness, p, size, out)

        def residual(x: Float, active: NDArray[np.bool_], out: Single) -> None:
            u, strain, acting = np.ascontiguousarray(x[:, :size]).reshape(shape), strains(x), np.empty(shape)
            self.material.forces(u, strain, active, acting)
            write_residuals(forces, acting, unit, active, inside)
            out[active, :size] = inside.reshape(n, -1)[active]
            out[active, size:] = (sums - self._stresses(u, strain))[active]

        def preconditioned(r: Single) -> Single:
            z = np.empty_like(r)
            z[:, :size] = precondition(r[:, :size].reshape(-1, *shape[1:])).reshape(len(r), -1)
            for row, rest in zip(z, r, strict=True):
                row[size:] = self.compliance @ rest[size:]
            return z

        load = np.abs(macro).max(axis=1) * self.material.largest() / unit + np.abs(self.stress).max(axis=1)
        if forces is not None:
            load += np.abs(forces).reshape(n, -1).max(axis=1)
        x, iterations = conjugate_gradients(
            (n, size + len(free)), residual, apply, preconditioned, load, tolerance, max_iterations
        )
        return x[:, :size].reshape(shape), strains(x), iterations
