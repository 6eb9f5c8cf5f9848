"""2-point statistics f[h, h'; r], of ensembles and of volumes, and what follows from them."""

from mksdask.stats.correlation import TwoPointStatistics, autocorrelate, correlate, crosscorrelate
from mksdask.stats.radial import integral_range, pair_correlation, radial_average, specific_surface
from mksdask.stats.volume import correlate_volume

__all__ = [
    "TwoPointStatistics",
    "autocorrelate",
    "correlate",
    "correlate_volume",
    "crosscorrelate",
    "integral_range",
    "pair_correlation",
    "radial_average",
    "specific_surface",
]
