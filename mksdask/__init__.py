"""Materials Knowledge Systems on dask: structure–property linkages for ensembles larger than memory."""

import mksdask.accessor  # noqa: F401  registers .mks of xarray
from mksdask.bases import FourierBasis, GSHBasis, LegendreBasis, PrimitiveBasis, ProductBasis
from mksdask.homogenization import MKSHomogenizationModel
from mksdask.localization import MKSLocalizationModel
from mksdask.planning import Plan, plan
from mksdask.progress_bar import progress
from mksdask.saving import load_model, save_model
from mksdask.store import append_ensemble, create_ensemble, create_volume, open_ensemble, open_volume
from mksdask.structure import MKSStructureAnalysis
from mksdask.watching import PartialResult
from mksdask.windows import sample_windows
from mksdask.workers import configure_workers

configure_workers()

__all__ = [
    "FourierBasis",
    "GSHBasis",
    "LegendreBasis",
    "MKSHomogenizationModel",
    "MKSLocalizationModel",
    "MKSStructureAnalysis",
    "PartialResult",
    "Plan",
    "PrimitiveBasis",
    "ProductBasis",
    "append_ensemble",
    "create_ensemble",
    "create_volume",
    "load_model",
    "open_ensemble",
    "open_volume",
    "plan",
    "progress",
    "sample_windows",
    "save_model",
]
__version__ = "0.1.0"
