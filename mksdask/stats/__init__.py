"""2-point statistics f[h, h'; r]."""

from mksdask.stats.correlation import TwoPointStatistics, autocorrelate, correlate, crosscorrelate

__all__ = ["TwoPointStatistics", "autocorrelate", "correlate", "crosscorrelate"]
