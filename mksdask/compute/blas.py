"""One thread of BLAS for each task while tasks run in threads of this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import dask
from threadpoolctl import threadpool_limits

from mksdask.compute.client import distributed_client

_lock = threading.Lock()
_calls: list[None] = []
_limits: list[threadpool_limits] = []


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
    with _lock:
        if not _calls:
            _limits.append(threadpool_limits(1, user_api="blas"))
        _calls.append(None)
    try:
        yield
    finally:
        with _lock:
            _calls.pop()
            if not _calls:
                _limits.pop().restore_original_limits()
