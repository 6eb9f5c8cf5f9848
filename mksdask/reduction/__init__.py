"""Principal components of statistics that may exceed memory: f_j[k] ≈ Σ_k' μ_j[k'] φ[k', k] + f̄[k] (Eq. 2)."""

from mksdask.reduction.incremental import IncrementalPCA
from mksdask.reduction.kept import KeptFeatures
from mksdask.reduction.pca import PCA

__all__ = ["PCA", "IncrementalPCA", "KeptFeatures"]
