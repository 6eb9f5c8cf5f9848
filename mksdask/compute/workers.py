"""Defaults of how dask starts workers on this machine, and of when it warns. What users configure stays.

Blocks of a store are unpacked into buffers of a few hundred kilobytes. By default, the allocator gets memory of that
size from the system each time, and dask makes it return the memory at once. The pages of each buffer are then zeroed
and mapped again, which takes longer than unpacking. Workers that start after the import of this package keep some of
this memory.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dask
import distributed.config  # noqa: F401  its defaults must be set before those of this module
from threadpoolctl import threadpool_limits

from mksdask.compute.client import distributed_client

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
_blas_lock = threading.Lock()
_blas_calls: list[None] = []
_blas_limits: list[threadpool_limits] = []


@contextmanager
def one_thread_of_blas() -> Iterator[None]:
    """Give BLAS one thread for each task while tasks run in threads of this process.

    More threads would wait for each other. Workers that dask starts have one thread of BLAS by default.
    """
    in_threads = distributed_client() is None and dask.config.get("scheduler", None) in (None, "threads", "threading")
    if not in_threads:
        yield
        return
    # The limit is one for the whole process. Calls at the same time share it, and the last one lifts it.
    with _blas_lock:
        if not _blas_calls:
            _blas_limits.append(threadpool_limits(1, user_api="blas"))
        _blas_calls.append(None)
    try:
        yield
    finally:
        with _blas_lock:
            _blas_calls.pop()
            if not _blas_calls:
                _blas_limits.pop().restore_original_limits()


def configure_workers() -> None:
    """Make the settings of this module defaults of the configuration of distributed. What users configure stays."""
    settings: dict[str, dict[str, Any]] = {
        "nanny": {"pre-spawn-environ": ALLOCATION},
        "admin": {"large-graph-warning-threshold": LARGE_GRAPH},
    }
    if not PROFILES_SAFELY:
        settings["worker"] = {"profile": {"enabled": False}}
    dask.config.update_defaults({"distributed": settings})
