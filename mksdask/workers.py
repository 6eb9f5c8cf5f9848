"""How dask starts workers on this machine, where nothing else is configured.

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


def configure_workers() -> None:
    """Make `ALLOCATION` the default of `distributed.nanny.pre-spawn-environ`; what users configure stays."""
    dask.config.update_defaults({"distributed": {"nanny": {"pre-spawn-environ": ALLOCATION}}})
