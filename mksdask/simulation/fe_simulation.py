"""Elastic finite elements as an object that is set up once and run on samples, as in the PyMKS paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from numpy.typing import ArrayLike as NumpyLike

from mksdask.arrays import ArrayLike
from mksdask.simulation.elasticity import effective_stiffness, solve_fields
from mksdask.simulation.solver import ElasticResponse


class ElasticFESimulation:
    """Simulate linear elasticity of periodic voxel samples by finite elements, with one Q1 element for each voxel.

    `solve_fields` takes more: stiffness matrices, values of each voxel, mean stresses and eigenstrains.

    Parameters
    ----------
    elastic_modulus, poissons_ratio : sequence of float, optional
        Young's modulus and Poisson's ratio of each phase, for samples that hold phase numbers.
    crystal_stiffness : sequence of float or array, shape (6, 6), optional
        Elastic constants of the crystal, for samples that hold orientations; see `solve_fields`.
    macro_strain : float, sequence or square array, default 0.01
        Imposed mean strain; see `solve_fields`.
    tolerance : float, default 1e-8
        Tolerance at which the solver stops; see `solve_fields`.
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
        macro_strain: float | NumpyLike = 0.01,
        tolerance: float = 1e-8,
        max_iterations: int = 1000,
    ) -> None:
        self.elastic_modulus = elastic_modulus
        self.poissons_ratio = poissons_ratio
        self.crystal_stiffness = crystal_stiffness
        self.macro_strain = macro_strain
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
        self.response = solve_fields(X, macro_strain=self.macro_strain, **self._options)
        for field in ElasticResponse._fields:
            setattr(self, field, getattr(self.response, field))
        return self

    def stiffness(self, X: ArrayLike) -> Any:
        """Compute the effective stiffness of all samples; see `effective_stiffness`.

        Parameters
        ----------
        X : array, shape (n_samples, *spatial), or (n_samples, *spatial, 3) with `crystal_stiffness`
            Phase number, counted from 0, or orientation of each voxel.

        Returns
        -------
        array of the kind of `X`, shape (n_samples, n_components, n_components)
            Stiffness in the unit of the moduli.
        """
        return effective_stiffness(X, **self._options)

    @property
    def _options(self) -> dict[str, Any]:
        names = ("elastic_modulus", "poissons_ratio", "crystal_stiffness", "tolerance", "max_iterations")
        return {name: getattr(self, name) for name in names}
