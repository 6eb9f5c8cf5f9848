"""Simulation of the physics of voxel samples: elasticity, conduction, and spinodal decomposition."""

from mksdask.simulation.cahn_hilliard import CahnHilliardSimulation
from mksdask.simulation.conduction import ConductionResponse, effective_conductivity, solve_conduction
from mksdask.simulation.conjugate_gradients import ConvergenceError
from mksdask.simulation.crystals import single_crystal_stiffness
from mksdask.simulation.elasticity import effective_expansion, effective_stiffness, mean_stress, solve_fields
from mksdask.simulation.fe_simulation import ElasticFESimulation
from mksdask.simulation.solver import ElasticResponse

__all__ = [
    "CahnHilliardSimulation",
    "ConductionResponse",
    "ConvergenceError",
    "ElasticFESimulation",
    "ElasticResponse",
    "effective_conductivity",
    "effective_expansion",
    "effective_stiffness",
    "mean_stress",
    "single_crystal_stiffness",
    "solve_conduction",
    "solve_fields",
]
