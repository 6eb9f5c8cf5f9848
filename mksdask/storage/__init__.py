"""Everything that knows zarr: stores that are there whole or not at all."""

from mksdask.storage.ensembles import (
    append_ensemble,
    create_ensemble,
    create_volume,
    open_ensemble,
    open_store,
    open_volume,
)
from mksdask.storage.results import materialize

__all__ = [
    "append_ensemble",
    "create_ensemble",
    "create_volume",
    "materialize",
    "open_ensemble",
    "open_store",
    "open_volume",
]
