"""How dask starts workers on this machine, and when it warns, where nothing else is configured.

Blocks of a store are unpacked into buffers of a few hundred kilobytes. The allocator takes memory of that size from the
system anew each time, and dask has it give all of it back at once: then the pages of every buffer are zeroed and mapped
again, which takes longer than to unpack it. Workers that are started after this package is imported keep some of it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import dask
import distributed.config  # noqa: F401  its defaults come first
from threadpoolctl import threadpool_limits

from mksdask.compute.client import distributed_client

# Of glibc, in bytes, and the number of heaps that its threads share; elsewhere they do nothing.
ALLOCATION = {
    "MALLOC_MMAP_THRESHOLD_": 2**22,
    "MALLOC_TRIM_THRESHOLD_": 2**24,
    "MALLOC_TOP_PAD_": 2**22,
    "MALLOC_ARENA_MAX": 2,
}
# A graph holds a fitted model once, components or factors of tens of megabytes; a warning below that is noise.
LARGE_GRAPH = "64MB"
_blas_lock = threading.Lock()
_blas_calls: list[None] = []
_blas_limits: list[threadpool_limits] = []


@contextmanager
def one_thread_of_blas() -> Iterator[None]:
    """While tasks run in threads of this process, one thread of BLAS for each: more would wait for one another.

    Workers that dask starts have one anyway.
    """
    in_threads = distributed_client() is None and dask.config.get("scheduler", None) in (None, "threads", "threading")
    if not in_threads:
        yield
        return
    # Calls at the same time share the limit, which is that of the process: the last one lifts it.
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
    """Make `ALLOCATION` and `LARGE_GRAPH` defaults of distributed's configuration; what users configure stays."""
    settings = {
        "nanny": {"pre-spawn-environ": ALLOCATION},
        "admin": {"large-graph-warning-threshold": LARGE_GRAPH},
    }
    dask.config.update_defaults({"distributed": settings})
