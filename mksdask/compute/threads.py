"""All threads of a worker for one task: for samples so large that there are few of them, or that fill a worker."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import scipy.fft
from dask.system import CPU_COUNT
from distributed import get_worker

# Parts of a range for each thread. Several of them even out threads that other programs slow down.
PARTS_OF_A_THREAD = 4

_task = threading.local()
_worker = threading.Lock()


def threads_of_worker() -> int:
    """Count the threads of the worker, or of the process, in which a task runs."""
    try:
        return int(get_worker().state.nthreads)
    except ValueError:
        # Processes that dask starts without a cluster have one thread each.
        return CPU_COUNT if multiprocessing.parent_process() is None else 1


@contextmanager
def whole_worker() -> Iterator[None]:
    """Give all threads of the worker to this task. Other tasks that ask for them wait until it ends."""
    n_threads = threads_of_worker()
    if n_threads == 1 or getattr(_task, "pool", None) is not None:
        yield
        return
    with _worker, ThreadPoolExecutor(n_threads) as pool, scipy.fft.set_workers(n_threads):
        _task.pool, _task.n_parts = pool, n_threads * PARTS_OF_A_THREAD
        try:
            yield
        finally:
            _task.pool = None


def over_parts(kernel: Callable[[int, int], object], n: int) -> None:
    """Call a kernel on the range from 0 to n, or on parts of it if the task has all threads of its worker.

    Parameters
    ----------
    kernel : callable
        ``kernel(first, last)`` writes what belongs to this part of the range. What it writes must not depend on how
        the range is cut.
    n : int
        End of the range.
    """
    pool = getattr(_task, "pool", None)
    if pool is None or n < 2:
        kernel(0, n)
        return
    n_parts = min(n, _task.n_parts)
    edges = [n * part // n_parts for part in range(n_parts + 1)]
    for _ in pool.map(kernel, edges[:-1], edges[1:]):
        pass


class OnWholeWorker:
    """A kernel that has all threads of its worker while it runs.

    Parameters
    ----------
    kernel : callable
        The kernel. It uses the threads by `over_parts`, and in Fourier transforms of SciPy.
    """

    def __init__(self, kernel: Callable[..., Any]) -> None:
        self.kernel = kernel

    def __call__(self, *blocks: Any, **options: Any) -> Any:
        """Call the kernel."""
        with whole_worker():
            return self.kernel(*blocks, **options)
