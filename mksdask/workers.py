"""How dask starts workers on this machine, and when it warns, where nothing else is configured.

Blocks of a store are unpacked into buffers of a few hundred kilobytes. The allocator takes memory of that size from the
system anew each time, and dask has it give all of it back at once: then the pages of every buffer are zeroed and mapped
again, which takes longer than to unpack it. Workers that are started after this package is imported keep some of it.
"""

from __future__ import annotations

import dask
import distributed.config  # noqa: F401  its defaults come first

# Of glibc, in bytes, and the number of heaps that its threads share; elsewhere they do nothing.
ALLOCATION = {
    "MALLOC_MMAP_THRESHOLD_": 2**22,
    "MALLOC_TRIM_THRESHOLD_": 2**24,
    "MALLOC_TOP_PAD_": 2**22,
    "MALLOC_ARENA_MAX": 2,
}
# A graph holds a fitted model once, components or factors of tens of megabytes; a warning below that is noise.
LARGE_GRAPH = "64MB"


def configure_workers() -> None:
    """Make `ALLOCATION` and `LARGE_GRAPH` defaults of distributed's configuration; what users configure stays."""
    settings = {
        "nanny": {"pre-spawn-environ": ALLOCATION},
        "admin": {"large-graph-warning-threshold": LARGE_GRAPH},
    }
    dask.config.update_defaults({"distributed": settings})
