"""Constituents whose stiffness is given by matrices of phases, or by matrices or moduli of each voxel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike as NumpyLike, NDArray

from mksdask.arrays import Array, numbers_argument
from mksdask.simulation.constituents import Constituents, Reference, lame_moduli, phase_numbers
from mksdask.simulation.crystals import voigt_average
from mksdask.simulation.forces import jit
from mksdask.simulation.stencils import Anisotropic, Float, Isotropic, n_strain_components

# Rows of a 6 × 6 matrix that plane strain keeps.
PLANE = (0, 1, 5)
# Share of the largest entry of a matrix that rounding may leave of a zero, in double and in lower precision.
ROUNDING, LOW_ROUNDING = 1e-9, 1e-5


@jit
def _pack(matrices, kept, rounding, out):  # type: ignore[no-untyped-def]
    """Write the upper triangles of (n_lines, n_last, c, c) to `out`, (n_lines, n_packed, n_last).

    Return whether all matrices are finite, symmetric, and without negative eigenvalues, by a Cholesky factorization
    that passes over zero pivots.
    """
    n_lines, n_last, c, _ = matrices.shape
    work = np.empty((c, c))
    for line in range(n_lines):
        for k in range(n_last):
            largest = 0.0
            for i in range(c):
                for j in range(c):
                    value = matrices[line, k, i, j]
                    if not np.isfinite(value):
                        return False
                    work[i, j] = value
                    largest = max(largest, abs(value))
            margin = rounding * largest
            for i in range(c):
                for j in range(i):
                    if abs(work[i, j] - work[j, i]) > margin:
                        return False
                    work[i, j] = work[j, i] = 0.5 * (work[i, j] + work[j, i])
            position = 0
            for i in range(len(kept)):
                for j in range(i, len(kept)):
                    out[line, position, k] = work[kept[i], kept[j]]
                    position += 1
            for i in range(c):
                pivot = work[i, i]
                if pivot < -margin:
                    return False
                if pivot <= margin:
                    for j in range(i + 1, c):
                        if abs(work[i, j]) > np.sqrt(rounding) * largest:
                            return False
                    continue
                for j in range(i + 1, c):
                    factor = work[i, j] / pivot
                    for m in range(j, c):
                        work[j, m] -= factor * work[i, m]
    return True


def packed_stiffness(matrices: Array) -> Anisotropic | None:
    """Pack the stiffness of each voxel, or return None if a matrix is not finite, symmetric and without negative modes.

    Parameters
    ----------
    matrices : ndarray, shape (n, nx, ny[, nz], c, c)
        Stiffness of each voxel, c = 6, or c = 3 in 2D. In 2D, a 6 × 6 matrix stands for plane strain.
    """
    *lines, last, c, _ = matrices.shape
    kept = np.array(PLANE if len(lines) == 2 and c == 6 else range(c))
    n_packed = n_strain_components(len(kept))
    packed = np.empty((int(np.prod(lines)), n_packed, last))
    values = np.ascontiguousarray(matrices, dtype=np.float64).reshape(-1, last, c, c)
    is_low = matrices.dtype.kind == "f" and matrices.dtype.itemsize < 8
    is_right = _pack(values, kept, LOW_ROUNDING if is_low else ROUNDING, packed)
    return Anisotropic(packed.reshape(*lines, n_packed, last)) if is_right else None


def isotropic_part(stiffness: Float) -> tuple[float, float]:
    """Compute the Lamé moduli λ, μ of the mean of a stiffness over all orientations, 6 × 6 or 3 × 3 (in the plane)."""
    if len(stiffness) == 6:
        return voigt_average(stiffness)
    normal, coupling = stiffness[0, 0] + stiffness[1, 1], 2.0 * stiffness[0, 1]
    shear = 0.125 * (normal - coupling) + 0.5 * stiffness[2, 2]
    return float(0.25 * (normal + coupling) - shear), float(shear)


def grouped_references(moduli: list[tuple[float, float]]) -> Iterator[tuple[NDArray[np.intp], Reference, Float]]:
    """Round the ratio λ / μ of each sample to a power of 2, so that samples that are alike share a reference.

    A sample without stiffness has the reference 1, 1.
    """
    rounded = [float(np.clip(np.rint(np.log2(max(lam / mu, 0.25))), -2, 8)) if mu > 0.0 else 0.0 for lam, mu in moduli]
    units = np.array([mu if mu > 0.0 else 1.0 for _, mu in moduli])
    for power in sorted(set(rounded)):
        rows = np.flatnonzero(np.array(rounded) == power)
        yield rows, (2.0**power, 1.0), units[rows]


@dataclass(frozen=True)
class StiffnessPhases(Constituents):
    """Phases with any stiffness: voxels hold phase numbers.

    Parameters
    ----------
    stiffness : ndarray, shape (n_phases, 6, 6) or (n_phases, 3, 3)
        Stiffness matrix of each phase.
    """

    stiffness: Float

    material_fields = 28

    @property
    def n_phases(self) -> int:  # type: ignore[override]
        """Number of phases."""
        return len(self.stiffness)

    @classmethod
    def of(cls, stiffness: NumpyLike) -> StiffnessPhases:
        """Check the matrices.

        Raises
        ------
        ValueError
            If they have another shape, or stand for no stable phase.
        """
        values = numbers_argument(stiffness, "stiffness")
        if values.ndim != 3 or not len(values) or values.shape[1:] not in ((3, 3), (6, 6)):
            msg = (
                "stiffness must hold a matrix for each phase of X, shape (n_phases, 6, 6), or (n_phases, 3, 3) for 2D "
                f"samples, got shape {values.shape}; if it holds the stiffness of each voxel, leave X out"
            )
            raise ValueError(msg)
        wrong = [phase for phase, matrix in enumerate(values) if packed_stiffness(matrix[None, None, None]) is None]
        if wrong or not values.any():
            found = f"that of phase {wrong[0]} is {values[wrong[0]].tolist()}" if wrong else "all of them are 0"
            msg = (
                "stiffness must hold finite and symmetric matrices without negative eigenvalues, not 0 in all phases; "
                f"{found}"
            )
            raise ValueError(msg)
        return cls(0.5 * (values + values.swapaxes(1, 2)))

    def references(self, material: Any) -> Iterator[tuple[NDArray[np.intp], Reference, float]]:
        """Means over the phases."""
        lam, mu = isotropic_part(self.stiffness.mean(axis=0))
        yield np.arange(material.shape[0]), (lam, mu), mu

    def material(self, *blocks: Array) -> Anisotropic:
        """Return the stiffness of each voxel.

        Raises
        ------
        ValueError
            If the block holds a value that is not a phase number.
        """
        phase = phase_numbers(blocks[0], len(self.stiffness), "stiffness")
        kept = np.array(PLANE if phase.ndim == 3 and self.stiffness.shape[-1] == 6 else range(self.stiffness.shape[-1]))
        rows, columns = np.triu_indices(len(kept))
        table = self.stiffness[:, kept[rows], kept[columns]]
        packed = np.empty((*phase.shape[:-1], len(rows), phase.shape[-1]))
        for position, entry in enumerate(table.T):
            packed[..., position, :] = entry[phase]
        return Anisotropic(packed)


@dataclass(frozen=True)
class VoxelStiffness(Constituents):
    """Voxels hold their stiffness matrices."""

    trailing = 2
    material_fields = 57
    is_of_voxels = True

    def references(self, material: Any) -> Iterator[tuple[NDArray[np.intp], Reference, Float]]:
        """Mean over the voxels of each sample, with its ratio rounded."""
        moduli = []
        for packed in material.packed:
            mean = np.moveaxis(packed, -2, -1).reshape(-1, packed.shape[-2]).mean(axis=0)
            n = 6 if len(mean) == 21 else 3
            stiffness = np.zeros((n, n))
            rows, columns = np.triu_indices(n)
            stiffness[rows, columns] = stiffness[columns, rows] = mean
            moduli.append(isotropic_part(stiffness))
        yield from grouped_references(moduli)

    def material(self, *blocks: Array) -> Anisotropic:
        """Return the stiffness of each voxel.

        Raises
        ------
        ValueError
            If a matrix stands for no stable material.
        """
        material = packed_stiffness(blocks[0])
        if material is None:
            msg = (
                "stiffness must hold finite and symmetric matrices without negative eigenvalues, but some voxels have "
                "another one"
            )
            raise ValueError(msg)
        return material


@dataclass(frozen=True)
class VoxelModuli(Constituents):
    """Isotropic voxels, which hold their Young's moduli and their Poisson's ratios.

    Parameters
    ----------
    poissons_ratio : float or None
        Poisson's ratio of all voxels, unless a second array holds those of each.
    """

    poissons_ratio: float | None = None

    material_fields = 6
    is_of_voxels = True

    @classmethod
    def of(cls, poissons_ratio: float) -> VoxelModuli:
        """Check Poisson's ratio of all voxels.

        Raises
        ------
        ValueError
            If the voxels are not elastically stable.
        """
        if not -1.0 < poissons_ratio < 0.5:
            msg = f"poissons_ratio must lie between -1 and 0.5, both excluded, got {poissons_ratio}"
            raise ValueError(msg)
        return cls(poissons_ratio)

    @property
    def n_arrays(self) -> int:  # type: ignore[override]
        """Number of arrays that hold the values."""
        return 1 if self.poissons_ratio is not None else 2

    def references(self, material: Any) -> Iterator[tuple[NDArray[np.intp], Reference, Float]]:
        """Means over the voxels of each sample, with its ratio rounded."""
        moduli = zip(material.lam, material.mu, strict=True)
        yield from grouped_references([(float(lam.mean()), float(mu.mean())) for lam, mu in moduli])

    def material(self, *blocks: Array) -> Isotropic:
        """Return the moduli of each voxel.

        Raises
        ------
        ValueError
            If a voxel is not elastically stable.
        """
        young = np.asarray(blocks[0], dtype=np.float64)
        poisson: NDArray[np.float64] | float = (
            np.asarray(blocks[1], dtype=np.float64) if self.poissons_ratio is None else self.poissons_ratio
        )
        if young.size and not (np.isfinite(young).all() and young.min() >= 0.0):
            msg = "elastic_modulus must be finite, and positive or 0 in each voxel"
            raise ValueError(msg)
        if not ((np.asarray(poisson) > -1.0) & (np.asarray(poisson) < 0.5)).all():
            msg = "poissons_ratio must lie between -1 and 0.5, both excluded, in each voxel"
            raise ValueError(msg)
        return Isotropic(*lame_moduli(young, poisson))
