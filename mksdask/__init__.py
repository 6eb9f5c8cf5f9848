"""Materials Knowledge Systems on dask: structure–property linkages for ensembles larger than memory."""

from mksdask.bases import PrimitiveBasis
from mksdask.homogenization import MKSHomogenizationModel
from mksdask.localization import MKSLocalizationModel
from mksdask.store import append_ensemble, create_ensemble, create_volume, open_ensemble, open_volume
from mksdask.structure import MKSStructureAnalysis

__all__ = [
    "MKSHomogenizationModel",
    "MKSLocalizationModel",
    "MKSStructureAnalysis",
    "PrimitiveBasis",
    "append_ensemble",
    "create_ensemble",
    "create_volume",
    "open_ensemble",
    "open_volume",
]
__version__ = "0.1.0"
