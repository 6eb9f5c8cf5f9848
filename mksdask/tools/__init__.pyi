from .correlations import (
    draw_autocorrelations as draw_autocorrelations,
    draw_coeff as draw_coeff,
    draw_components as draw_components,
    draw_correlations as draw_correlations,
    draw_crosscorrelations as draw_crosscorrelations,
)
from .curves import (
    draw_chord_lengths as draw_chord_lengths,
    draw_clusters as draw_clusters,
    draw_radial as draw_radial,
    draw_reconstruction as draw_reconstruction,
)
from .fields import (
    draw_concentrations as draw_concentrations,
    draw_concentrations_compare as draw_concentrations_compare,
    draw_differences as draw_differences,
    draw_microstructure_strain as draw_microstructure_strain,
    draw_microstructures as draw_microstructures,
    draw_strains as draw_strains,
    draw_strains_compare as draw_strains_compare,
    ipf_colours as ipf_colours,
)
from .interactive import (
    show_volume as show_volume,
)
from .live import (
    draw_partial as draw_partial,
)
from .scores import (
    draw_component_variance as draw_component_variance,
    draw_components_scatter as draw_components_scatter,
    draw_evolution as draw_evolution,
)
from .texture import (
    draw_misorientations as draw_misorientations,
    draw_odf as draw_odf,
    draw_pole_figure as draw_pole_figure,
)
from .validation import (
    draw_goodness_of_fit as draw_goodness_of_fit,
    draw_gridscores as draw_gridscores,
    draw_gridscores_matrix as draw_gridscores_matrix,
    draw_learning_curves as draw_learning_curves,
)
