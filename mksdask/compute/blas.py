"""One thread of BLAS for each task while tasks run in threads of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import dask
from threadpoolctl import ThreadpoolController

from mksdask.compute.client import distributed_client

_lock = threading.Lock()
_calls: list[None] = []
_limits: list[Any] = []


@contextmanager
def one_thread_of_blas() -> Iterator[None]:
    """Give BLAS one thread for each task while tasks run in threads of this process.

    More threads would wait for each other. Workers that dask starts have one thread of BLAS by default.
    """
    if distributed_client() is None and dask.config.get("scheduler", None) in (None, "threads", "threading"):
        with _shared_limit():
            yield
    else:
        yield


def borrowing(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Make a kernel of tasks that calls an estimator of scikit-learn safe in threads.

    Some estimators, such as those of nearest neighbours, limit BLAS while they predict. Threads that do so at the same
    time lift their limits in any order, and the last one may restore the limit of another one, for good. While the
    kernel runs, BLAS has one thread already.
    """
    return partial(_with_one_thread, kernel)


def _with_one_thread(kernel: Callable[..., Any], *blocks: Any, **options: Any) -> Any:
    with _shared_limit():
        return kernel(*blocks, **options)


@contextmanager
def _shared_limit() -> Iterator[None]:
    """Limit BLAS to one thread. The limit is one for the whole process. Calls share it, and the last one lifts it."""
    with _lock:
        if not _calls:
            _release()
            _limits.append(_controller().limit(limits=1, user_api="blas"))
        _calls.append(None)
    try:
        yield
    finally:
        with _lock:
            _calls.pop()
            if not _calls:
                _release()
                _limits.pop().restore_original_limits()
                _release()


def _release() -> None:
    """Let any thread change the limit. From version 3.8 of threadpoolctl on, only the thread that set it may."""
    for library in _controller().lib_controllers:
        if hasattr(library, "clear_controlling_thread"):
            library.clear_controlling_thread(force=True)


@cache
def _controller() -> ThreadpoolController:
    """Find the libraries of this process, which takes milliseconds. NumPy and SciPy have loaded theirs."""
    return ThreadpoolController()
