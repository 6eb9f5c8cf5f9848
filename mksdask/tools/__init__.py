"""Figures of microstructures, statistics, scores and linkages.

Each function returns a Figure, which you can save with `savefig` or leave as the value of a notebook cell. No function
opens a window.
"""

from mksdask.display.orientations import ipf_colours
from mksdask.tools.correlations import draw_autocorrelations, draw_components, draw_correlations, draw_crosscorrelations
from mksdask.tools.fields import (
    draw_coeff,
    draw_concentrations,
    draw_concentrations_compare,
    draw_differences,
    draw_microstructure_strain,
    draw_microstructures,
    draw_strains,
    draw_strains_compare,
)
from mksdask.tools.interactive import show_volume
from mksdask.tools.live import draw_partial
from mksdask.tools.scores import draw_component_variance, draw_components_scatter, draw_evolution
from mksdask.tools.validation import (
    draw_goodness_of_fit,
    draw_gridscores,
    draw_gridscores_matrix,
    draw_learning_curves,
)

__all__ = [
    "draw_autocorrelations",
    "draw_coeff",
    "draw_component_variance",
    "draw_components",
    "draw_components_scatter",
    "draw_concentrations",
    "draw_concentrations_compare",
    "draw_correlations",
    "draw_crosscorrelations",
    "draw_differences",
    "draw_evolution",
    "draw_goodness_of_fit",
    "draw_gridscores",
    "draw_gridscores_matrix",
    "draw_learning_curves",
    "draw_microstructure_strain",
    "draw_microstructures",
    "draw_partial",
    "draw_strains",
    "draw_strains_compare",
    "ipf_colours",
    "show_volume",
]
