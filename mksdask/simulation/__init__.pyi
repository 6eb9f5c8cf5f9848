from .bounded_regressor import (
    BoundedRegressor as BoundedRegressor,
)
from .bounds import (
    Bounds as Bounds,
    hashin_shtrikman_bounds as hashin_shtrikman_bounds,
    voigt_reuss_bounds as voigt_reuss_bounds,
)
from .cahn_hilliard import (
    CahnHilliardSimulation as CahnHilliardSimulation,
)
from .conduction import (
    ConductionResponse as ConductionResponse,
    effective_conductivity as effective_conductivity,
    solve_conduction as solve_conduction,
)
from .conjugate_gradients import (
    ConvergenceError as ConvergenceError,
)
from .crystals import (
    single_crystal_stiffness as single_crystal_stiffness,
)
from .elasticity import (
    effective_expansion as effective_expansion,
    effective_stiffness as effective_stiffness,
    mean_stress as mean_stress,
    solve_fields as solve_fields,
)
from .fe_simulation import (
    ElasticFESimulation as ElasticFESimulation,
)
from .moduli import (
    ElasticConstants as ElasticConstants,
    engineering_constants as engineering_constants,
    isotropic_stiffness as isotropic_stiffness,
)
from .solver import (
    ElasticResponse as ElasticResponse,
)
