"""Constituents of a microstructure: the elastic materials that the values of voxels stand for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mksdask.arrays import SPATIAL_DIMS, Array, numbers_argument
from mksdask.bases.gsh import check_angles
from mksdask.grid import Grid
from mksdask.simulation.crystals import turned_stiffness, voigt_average
from mksdask.simulation.stencils import Anisotropic, Float, Isotropic, Material

# Lamé moduli λ, μ of a homogeneous material.
Reference = tuple[float, float]


def cubic_grid(labels: xr.DataArray | None, spatial: Sequence[int]) -> Grid:
    """Make the grid of samples, and check that its voxels are cubes, and its axes in the order of tensors.

    Raises
    ------
    ValueError
        If they are not.
    """
    grid = Grid.of(labels, tuple(spatial))
    if set(grid.dims) <= set(SPATIAL_DIMS):
        grid.check_order(sorted(grid.dims), "components of tensors are in the order")
    steps, units = np.abs(grid.steps), {axis.units for axis in grid.axes}
    if not np.allclose(steps, steps[0], rtol=1e-6, atol=0.0) or len(units) > 1:
        msg = (
            f"X must have cubic voxels, got voxels of {grid.voxel_text}; resample X to the same spacing along all axes"
        )
        raise ValueError(msg)
    return grid


def phase_numbers(block: Array, n_phases: int, argument: str) -> NDArray[np.intp]:
    """Return the phase numbers of a block, which has one for each value of an argument.

    Raises
    ------
    ValueError
        If the block holds a value that is not a phase number.
    """
    phase = block.astype(np.intp)
    if block.size and not (block.min() >= 0 and block.max() < n_phases and np.array_equal(phase, block)):
        found = np.unique(block)[:8].tolist()
        msg = (
            f"X must hold phase numbers 0…{n_phases - 1}, one for each value of {argument}, got values such "
            f"as {found}; number the phases of your data from 0"
        )
        raise ValueError(msg)
    return phase


def lame_moduli(
    young: NDArray[np.float64], poisson: NDArray[np.float64] | float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the Lamé moduli λ, μ from Young's moduli and Poisson's ratios."""
    mu = young / (2.0 * (1.0 + poisson))
    return 2.0 * mu * poisson / (1.0 - 2.0 * poisson), mu


class Constituents(ABC):
    """A translation of the values of voxels into the stiffness of each voxel."""

    #: Number of arrays that hold the values.
    n_arrays: ClassVar[int] = 1
    #: Number of axes that they have after the spatial ones.
    trailing: ClassVar[int] = 0
    #: Number of float64 fields that the stiffness takes while it is made.
    material_fields: ClassVar[int] = 0
    #: Number of phases, unless voxels hold something else than phase numbers.
    n_phases: int | None = None
    #: Whether voxels hold the stiffness itself.
    is_of_voxels: ClassVar[bool] = False

    @abstractmethod
    def references(self, material: Any) -> Iterator[tuple[NDArray[np.intp], Reference, float | Float]]:
        """Choose homogeneous materials like the samples of a material.

        They depend on each sample alone, so that a result does not depend on how samples are grouped into chunks.

        Yields
        ------
        rows : ndarray of int
            Samples that share a reference.
        reference : tuple of float
            Lamé moduli λ, μ of a homogeneous material like them.
        unit : float or ndarray
            Stiffness of these samples, or of each of them.
        """

    @abstractmethod
    def material(self, *blocks: Array) -> Material:
        """Return the stiffness of each voxel of a block."""


@dataclass(frozen=True)
class IsotropicPhases(Constituents):
    """Isotropic phases: voxels hold phase numbers, and each phase has its Lamé moduli.

    Parameters
    ----------
    lam, mu : ndarray, shape (n_phases,)
        Lamé moduli λ and μ of each phase.
    """

    lam: NDArray[np.float64]
    mu: NDArray[np.float64]

    material_fields = 2

    @property
    def n_phases(self) -> int:  # type: ignore[override]
        """Number of phases."""
        return len(self.mu)

    @classmethod
    def from_engineering(cls, elastic_modulus: Sequence[float], poissons_ratio: Sequence[float]) -> IsotropicPhases:
        """Compute the Lamé moduli from Young's moduli and Poisson's ratios.

        Raises
        ------
        ValueError
            If the two arguments differ in length, or a phase is not elastically stable.
        """
        young = np.atleast_1d(numbers_argument(elastic_modulus, "elastic_modulus"))
        poisson = np.atleast_1d(numbers_argument(poissons_ratio, "poissons_ratio"))
        if young.ndim != 1 or young.shape != poisson.shape:
            msg = (
                "elastic_modulus and poissons_ratio must both hold one value for each phase, got "
                f"{young.tolist()} and {poisson.tolist()}"
            )
            raise ValueError(msg)
        if not (np.isfinite(young).all() and (young >= 0).all() and (young > 0).any()):
            msg = f"elastic_modulus must be positive, or 0 for pores, and not 0 in all phases; got {young.tolist()}"
            raise ValueError(msg)
        if not ((poisson > -1.0) & (poisson < 0.5)).all():
            msg = f"poissons_ratio must lie between -1 and 0.5, both excluded, got {poisson.tolist()}"
            raise ValueError(msg)
        return cls(*lame_moduli(young, poisson))

    def references(self, material: Any) -> Iterator[tuple[NDArray[np.intp], Reference, float]]:
        """Means of the Lamé moduli over the phases."""
        lam, mu = float(self.lam.mean()), float(self.mu.mean())
        yield np.arange(material.shape[0]), (lam, mu), mu

    def material(self, *blocks: Array) -> Isotropic:
        """Return the moduli of each voxel.

        Raises
        ------
        ValueError
            If the block holds a value that is not a phase number.
        """
        phase = phase_numbers(blocks[0], len(self.lam), "elastic_modulus")
        return Isotropic(self.lam[phase], self.mu[phase])


@dataclass(frozen=True)
class CrystalOrientations(Constituents):
    """Crystals of one kind: voxels hold the orientation of the crystal, as Bunge angles.

    Parameters
    ----------
    crystal : ndarray, shape (6, 6)
        Stiffness of the crystal in its own frame.
    """

    crystal: NDArray[np.float64]

    trailing = 1
    material_fields = 28

    def references(self, material: Any) -> Iterator[tuple[NDArray[np.intp], Reference, float]]:
        """Lamé moduli of the Voigt average over all orientations."""
        lam, mu = voigt_average(self.crystal)
        yield np.arange(material.shape[0]), (lam, mu), mu

    def material(self, *blocks: Array) -> Anisotropic:
        """Return the stiffness of each voxel in the frame of the sample."""
        check_angles(blocks[0])
        return turned_stiffness(self.crystal, blocks[0])
