from .coefficients import (
    texture_coefficients as texture_coefficients,
    volume_texture_coefficients as volume_texture_coefficients,
)
from .distribution import (
    odf as odf,
    pole_figure as pole_figure,
    texture_index as texture_index,
)
from .misorientations import (
    mackenzie_density as mackenzie_density,
    misorientation_density as misorientation_density,
    volume_misorientation_density as volume_misorientation_density,
)
