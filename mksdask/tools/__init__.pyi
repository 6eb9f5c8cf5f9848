from .correlations import (
    draw_autocorrelations as draw_autocorrelations,
)
from .correlations import (
    draw_components as draw_components,
)
from .correlations import (
    draw_correlations as draw_correlations,
)
from .correlations import (
    draw_crosscorrelations as draw_crosscorrelations,
)
from .fields import (
    draw_coeff as draw_coeff,
)
from .fields import (
    draw_concentrations as draw_concentrations,
)
from .fields import (
    draw_concentrations_compare as draw_concentrations_compare,
)
from .fields import (
    draw_differences as draw_differences,
)
from .fields import (
    draw_microstructure_strain as draw_microstructure_strain,
)
from .fields import (
    draw_microstructures as draw_microstructures,
)
from .fields import (
    draw_strains as draw_strains,
)
from .fields import (
    draw_strains_compare as draw_strains_compare,
)
from .interactive import (
    show_volume as show_volume,
)
from .live import (
    draw_partial as draw_partial,
)
from .scores import (
    draw_component_variance as draw_component_variance,
)
from .scores import (
    draw_components_scatter as draw_components_scatter,
)
from .scores import (
    draw_evolution as draw_evolution,
)
from .validation import (
    draw_goodness_of_fit as draw_goodness_of_fit,
)
from .validation import (
    draw_gridscores as draw_gridscores,
)
from .validation import (
    draw_gridscores_matrix as draw_gridscores_matrix,
)
from .validation import (
    draw_learning_curves as draw_learning_curves,
)
