"""Stores on zarr. A store is either complete or not there."""

from mksdask.storage.ensembles import append_ensemble, create_ensemble, open_ensemble
from mksdask.storage.microstructures import open_store
from mksdask.storage.results import materialize
from mksdask.storage.verification import verify
from mksdask.storage.volumes import create_volume, open_volume

__all__ = [
    "append_ensemble",
    "create_ensemble",
    "create_volume",
    "materialize",
    "open_ensemble",
    "open_store",
    "open_volume",
    "verify",
]
