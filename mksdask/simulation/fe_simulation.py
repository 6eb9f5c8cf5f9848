"""Elastic finite elements as an object that is set up once and run on samples, as in the PyMKS paper."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Self

from numpy.typing import ArrayLike as NumpyLike

from mksdask.arrays import ArrayLike
from mksdask.simulation.elasticity import solve_fields
from mksdask.simulation.solver import ElasticResponse

_ARGUMENTS = tuple(name for name in inspect.signature(solve_fields).parameters if name != "X")


class ElasticFESimulation:
    """Simulate linear elasticity of periodic voxel samples by finite elements, with one Q1 element for each voxel.

    This is `solve_fields`, which is given its samples later. `effective_stiffness` computes stiffness tensors.

    Parameters
    ----------
    elastic_modulus, poissons_ratio : sequence of float, optional
        Young's modulus and Poisson's ratio of each phase, for samples that hold phase numbers.
    crystal_stiffness : sequence of float or array, shape (6, 6), optional
        Elastic constants of the crystal, for samples that hold orientations.
    stiffness : array, shape (n_phases, 6, 6), optional
        Stiffness matrix of each phase, instead of the moduli.
    macro_strain, macro_stress : float, sequence or square array, optional
        Imposed mean strain and stress.
    eigenstrain : float, sequence or array, optional
        Strain of each phase without stress.
    tolerance : float, default 1e-8
        Tolerance at which the solver stops.
    max_iterations : int, default 1000
        Limit of iterations.

    Attributes
    ----------
    strain, stress : array, shape (n_samples, *spatial, n_components)
        Means of each element after `run`, in the order xx, yy, (zz, yz, xz,) xy with engineering shear. They are arrays
        of the same kind as the input.
    displacement : array, shape (n_samples, *nodes, dim)
        Displacement of the corners of the voxels.
    mean_strain, mean_stress : array, shape (n_samples, n_components)
        Averages over each sample.
    response : ElasticResponse or xarray.Dataset
        All of these together. It is a Dataset if `run` was given a DataArray.

    Examples
    --------
    >>> import numpy as np
    >>> simulation = ElasticFESimulation(elastic_modulus=(100, 150), poissons_ratio=(0.3, 0.3), macro_strain=0.001)
    >>> simulation.run(np.array([[[0, 1], [1, 0]]])).mean_strain.round(12).tolist()
    [[0.001, 0.0, 0.0]]
    """

    strain: Any
    stress: Any
    displacement: Any
    mean_strain: Any
    mean_stress: Any

    def __init__(
        self,
        *,
        elastic_modulus: Sequence[float] | None = None,
        poissons_ratio: Sequence[float] | None = None,
        crystal_stiffness: NumpyLike | None = None,
        stiffness: ArrayLike | None = None,
        macro_strain: float | NumpyLike = 0.01,
        macro_stress: float | NumpyLike | None = None,
        eigenstrain: float | ArrayLike | None = None,
        tolerance: float = 1e-8,
        max_iterations: int = 1000,
    ) -> None:
        self.elastic_modulus = elastic_modulus
        self.poissons_ratio = poissons_ratio
        self.crystal_stiffness = crystal_stiffness
        self.stiffness = stiffness
        self.macro_strain = macro_strain
        self.macro_stress = macro_stress
        self.eigenstrain = eigenstrain
        self.tolerance = tolerance
        self.max_iterations = max_iterations

    def run(self, X: ArrayLike) -> Self:
        """Solve all samples. Lazy input gives lazy results.

        Parameters
        ----------
        X : array, shape (n_samples, *spatial), or (n_samples, *spatial, 3) with `crystal_stiffness`
            Phase number, counted from 0, or orientation of each voxel.

        Returns
        -------
        ElasticFESimulation
            The simulation itself, with the results as attributes.

        Raises
        ------
        ValueError, ConvergenceError
            As `solve_fields`.
        """
        self.response = solve_fields(X, **{name: getattr(self, name) for name in _ARGUMENTS})
        for field in ElasticResponse._fields:
            setattr(self, field, getattr(self.response, field))
        return self
