"""2-point statistics f[h, h'; r] of ensembles and of volumes, chords, and results that follow from statistics."""

from mksdask.stats.chords import chord_lengths, lineal_path
from mksdask.stats.correlation import autocorrelate, correlate, crosscorrelate
from mksdask.stats.radial import integral_range, pair_correlation, radial_average, specific_surface
from mksdask.stats.transformer import TwoPointStatistics
from mksdask.stats.volume import correlate_volume

__all__ = [
    "TwoPointStatistics",
    "autocorrelate",
    "chord_lengths",
    "correlate",
    "correlate_volume",
    "crosscorrelate",
    "integral_range",
    "lineal_path",
    "pair_correlation",
    "radial_average",
    "specific_surface",
]
