"""Figures. Each function returns its Figure, for `savefig` or as the value of a notebook cell; none shows anything."""

from mksdask.tools.correlations import draw_autocorrelations, draw_components, draw_correlations, draw_crosscorrelations
from mksdask.tools.fields import draw_microstructure_strain, draw_microstructures
from mksdask.tools.models import (
    draw_component_variance,
    draw_components_scatter,
    draw_goodness_of_fit,
    draw_gridscores,
    draw_gridscores_matrix,
    draw_learning_curves,
)

__all__ = [
    "draw_autocorrelations",
    "draw_component_variance",
    "draw_components",
    "draw_components_scatter",
    "draw_correlations",
    "draw_crosscorrelations",
    "draw_goodness_of_fit",
    "draw_gridscores",
    "draw_gridscores_matrix",
    "draw_learning_curves",
    "draw_microstructure_strain",
    "draw_microstructures",
]
