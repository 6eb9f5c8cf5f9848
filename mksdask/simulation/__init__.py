"""Simulation of the physics of voxel samples: elasticity, conduction, and spinodal decomposition."""

from mksdask.simulation.bounded_regressor import BoundedRegressor
from mksdask.simulation.bounds import Bounds, hashin_shtrikman_bounds, voigt_reuss_bounds
from mksdask.simulation.cahn_hilliard import CahnHilliardSimulation
from mksdask.simulation.conduction import ConductionResponse, effective_conductivity, solve_conduction
from mksdask.simulation.conjugate_gradients import ConvergenceError
from mksdask.simulation.crystals import single_crystal_stiffness
from mksdask.simulation.elasticity import effective_expansion, effective_stiffness, mean_stress, solve_fields
from mksdask.simulation.fe_simulation import ElasticFESimulation
from mksdask.simulation.moduli import ElasticConstants, engineering_constants, isotropic_stiffness
from mksdask.simulation.solver import ElasticResponse

__all__ = [
    "BoundedRegressor",
    "Bounds",
    "CahnHilliardSimulation",
    "ConductionResponse",
    "ConvergenceError",
    "ElasticConstants",
    "ElasticFESimulation",
    "ElasticResponse",
    "effective_conductivity",
    "effective_expansion",
    "effective_stiffness",
    "engineering_constants",
    "hashin_shtrikman_bounds",
    "isotropic_stiffness",
    "mean_stress",
    "single_crystal_stiffness",
    "solve_conduction",
    "solve_fields",
    "voigt_reuss_bounds",
]
