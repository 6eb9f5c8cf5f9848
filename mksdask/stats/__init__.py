"""2-point statistics f[h, h'; r]."""

from mksdask.stats.correlation import TwoPointStatistics, autocorrelate, correlate, crosscorrelate
from mksdask.stats.volume import correlate_volume

__all__ = ["TwoPointStatistics", "autocorrelate", "correlate", "correlate_volume", "crosscorrelate"]
