"""Defaults of how dask starts workers on this machine, and of when it warns. What users configure stays.

Blocks of a store are unpacked into buffers of a few hundred kilobytes. By default, the allocator gets memory of that
size from the system each time, and dask makes it return the memory at once. The pages of each buffer are then zeroed
and mapped again, which takes longer than unpacking. Workers that start after the import of this package keep some of
this memory.
"""

from __future__ import annotations

import sys
from typing import Any

import dask

# Settings of glibc: sizes in bytes, and the number of heaps that threads share. Other C libraries ignore them.
ALLOCATION = {
    "MALLOC_MMAP_THRESHOLD_": 2**22,
    "MALLOC_TRIM_THRESHOLD_": 2**24,
    "MALLOC_TOP_PAD_": 2**22,
    "MALLOC_ARENA_MAX": 2,
}
# A graph holds a fitted model once. Its components or factors take tens of megabytes, which need no warning.
LARGE_GRAPH = "64MB"
# In earlier versions of CPython, a collection of garbage while the profiler of dask looks at the threads of a worker
# may stop the worker for ever (CPython issue 106883).
PROFILES_SAFELY = sys.version_info >= (3, 11, 9)


def configure_workers() -> None:
    """Make the settings of this module defaults of the configuration of distributed. What users configure stays.

    This is called when distributed has been imported, because its own defaults must be set before.
    """
    settings: dict[str, dict[str, Any]] = {
        "nanny": {"pre-spawn-environ": ALLOCATION},
        "admin": {"large-graph-warning-threshold": LARGE_GRAPH},
    }
    if not PROFILES_SAFELY:
        settings["worker"] = {"profile": {"enabled": False}}
    dask.config.update_defaults({"distributed": settings})
