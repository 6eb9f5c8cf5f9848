"""Principal components of statistics that do not fit in memory: f_j[k] ≈ Σ μ_j[k'] φ[k', k] + f̄[k]."""

from mksdask.reduction.incremental import IncrementalPCA
from mksdask.reduction.pca import PCA

__all__ = ["PCA", "IncrementalPCA"]
