from .chords import (
    chord_lengths as chord_lengths,
)
from .chords import (
    lineal_path as lineal_path,
)
from .correlation import (
    autocorrelate as autocorrelate,
)
from .correlation import (
    correlate as correlate,
)
from .correlation import (
    crosscorrelate as crosscorrelate,
)
from .radial import (
    integral_range as integral_range,
)
from .radial import (
    pair_correlation as pair_correlation,
)
from .radial import (
    radial_average as radial_average,
)
from .radial import (
    specific_surface as specific_surface,
)
from .transformer import (
    TwoPointStatistics as TwoPointStatistics,
)
from .volume import (
    correlate_volume as correlate_volume,
)
