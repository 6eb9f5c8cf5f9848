"""Equilibrium of elastic samples under imposed mean stresses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mksdask.simulation.conjugate_gradients import conjugate_gradients
from mksdask.simulation.stencils import Float, Material, jit


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
    """

    def __init__(self, material: Material, stress: Float, lam: float) -> None:
        self.material, self.free = material, np.flatnonzero(np.isfinite(stress[0]))
        self.stress = stress[:, self.free]
        n, *spatial = material.shape
        self.shape, self.size = (n, len(spatial), *spatial), len(spatial) * int(np.prod(spatial))
        self.coupling = np.empty((n, len(self.free), self.size))
        self.stiffness = np.empty((n, len(self.free), len(self.free)))
        active = np.ones(n, dtype=bool)
        for position, unit in enumerate(np.eye(stress.shape[1])[self.free]):
            macro = np.tile(unit, (n, 1))
            forces = material.forces(np.zeros(self.shape), macro, active, np.empty(self.shape))
            self.coupling[:, position] = forces.reshape(n, -1)
            self.stiffness[:, :, position] = self._uniform_stress(macro)
        reference = np.eye(stress.shape[1])
        dim = len(spatial)
        reference[range(dim), range(dim)] = 2.0
        reference[:dim, :dim] += lam
        self.compliance = np.linalg.inv(reference[np.ix_(self.free, self.free)]) * (dim / self.size)

    def _uniform_stress(self, macro: Float) -> Float:
        """Sum the imposed components of the stresses that uniform strains cause, (n, n_free), over the voxels."""
        n, dim, *spatial = self.shape
        strain = np.broadcast_to(macro.reshape(n, *(1,) * dim, -1), (n, *spatial, macro.shape[1]))
        return np.asarray(self.material.stress(strain).sum(axis=tuple(range(1, dim + 1)))[:, self.free])

    def equilibrium(
        self,
        macro: Float,
        precondition: Callable[[Float], NDArray[np.floating]],
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
        n, size, shape, free = len(macro), self.size, self.shape, self.free
        inside = np.empty(shape)

        def apply(p: Float, active: NDArray[np.bool_], out: Float) -> None:
            strain = np.zeros_like(macro)
            strain[:, free] = p[:, size:]
            fluctuation = np.ascontiguousarray(p[:, :size]).reshape(shape)
            out[:, :size] = self.material.forces(fluctuation, strain, active, inside).reshape(n, -1)
            _multiply_control(self.coupling, self.stiffness, p, size, out)

        def preconditioned(r: Float) -> Float:
            z = np.empty_like(r)
            z[:, :size] = precondition(r[:, :size].reshape(shape)).reshape(n, -1)
            for row, residual in zip(z, r, strict=True):
                row[size:] = self.compliance @ residual[size:]
            return z

        residual = np.empty((n, size + len(free)))
        acting = self.material.forces(np.zeros(shape), macro, np.ones(n, dtype=bool), np.empty(shape))
        residual[:, :size] = ((0.0 if forces is None else forces) - acting).reshape(n, -1)
        residual[:, size:] = self.stress * (size // len(shape[2:])) - self._uniform_stress(macro)
        load = np.abs(macro).max(axis=1) * self.material.largest() + np.abs(self.stress).max(axis=1)
        if forces is not None:
            load += np.abs(forces.reshape(n, -1)).max(axis=1)
        x, iterations = conjugate_gradients(residual, apply, preconditioned, load, tolerance, max_iterations)
        macro = macro.copy()
        macro[:, free] = x[:, size:]
        return x[:, :size].reshape(shape), macro, iterations
