"""Synthetic microstructures, alone or with their simulated responses."""

from mksdask.datasets.generator import (
    MicrostructureGenerator,
    make_checkerboard_microstructure,
    make_delta_microstructures,
    make_microstructure,
)
from mksdask.datasets.polycrystal import (
    ComponentTexture,
    FibreTexture,
    RandomTexture,
    Texture,
    make_polycrystal,
)
from mksdask.datasets.responses import (
    make_cahn_hilliard,
    make_conduction_random,
    make_elastic_FE_strain_delta,
    make_elastic_FE_strain_random,
    make_elastic_stiffness,
    make_elastic_stress_random,
)
from mksdask.simulation import (
    CahnHilliardSimulation,
    ConvergenceError,
    ElasticFESimulation,
    ElasticResponse,
    effective_stiffness,
    mean_stress,
    solve_fields,
)

__all__ = [
    "CahnHilliardSimulation",
    "ComponentTexture",
    "ConvergenceError",
    "ElasticFESimulation",
    "ElasticResponse",
    "FibreTexture",
    "MicrostructureGenerator",
    "RandomTexture",
    "Texture",
    "effective_stiffness",
    "make_cahn_hilliard",
    "make_checkerboard_microstructure",
    "make_conduction_random",
    "make_delta_microstructures",
    "make_elastic_FE_strain_delta",
    "make_elastic_FE_strain_random",
    "make_elastic_stiffness",
    "make_elastic_stress_random",
    "make_microstructure",
    "make_polycrystal",
    "mean_stress",
    "solve_fields",
]
