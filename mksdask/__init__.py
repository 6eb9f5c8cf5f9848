"""Materials Knowledge Systems on dask."""
from mksdask.bases import PrimitiveBasis
