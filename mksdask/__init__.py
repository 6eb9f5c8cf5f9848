"""Materials Knowledge Systems on dask: structure–property linkages for ensembles larger than memory."""

import mksdask.startup  # it handles signals while the rest is imported

# isort: split

from importlib import import_module
from typing import Any

import mksdask.accessor  # noqa: F401  the import registers .mks with xarray
from mksdask.bases import FourierBasis, GivenStates, GSHBasis, LegendreBasis, PrimitiveBasis, ProductBasis
from mksdask.compute.operation import plan
from mksdask.compute.plans import Plan
from mksdask.compute.progress import progress
from mksdask.compute.watching import PartialResult, draw_with
from mksdask.compute.workers import configure_workers
from mksdask.homogenization import MissingPropertyWarning, MKSHomogenizationModel
from mksdask.localization import MKSLocalizationModel
from mksdask.stats.windows import sample_windows
from mksdask.storage.ensembles import append_ensemble, create_ensemble, open_ensemble
from mksdask.storage.models import load_model, save_model
from mksdask.storage.verification import verify
from mksdask.storage.volumes import create_volume, open_volume
from mksdask.structure import MKSStructureAnalysis


def _draw_partial(partial: PartialResult) -> Any:
    # Imported on first use, so that workers do without matplotlib, which would take tens of megabytes there.
    return import_module("mksdask.tools").draw_partial(partial)


configure_workers()
draw_with(_draw_partial)

__all__ = [
    "FourierBasis",
    "GSHBasis",
    "GivenStates",
    "LegendreBasis",
    "MKSHomogenizationModel",
    "MKSLocalizationModel",
    "MKSStructureAnalysis",
    "MissingPropertyWarning",
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
    "verify",
]
__version__ = "0.1.0"
