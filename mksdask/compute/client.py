"""Find the client of a cluster, and wait until no task of a failed computation runs any more."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import dask
import dask.system
from distributed import Client, default_client, span

# The longest time in seconds in which a cluster answers.
ANSWER = 20.0


with span("mksdask"):
    _SPAN = dask.get_annotations()["span"]


def one_span() -> AbstractContextManager[None]:
    """Put what is sent to a cluster meanwhile into one span, unless the caller has opened another.

    The scheduler and the workers keep figures of each span until they end, and a computation without one opens its own.
    """
    return nullcontext() if "span" in dask.get_annotations() else dask.annotate(span=_SPAN)


def settled(compute: Callable[..., Any], *, tag: str, in_memory: bool = False) -> Any:
    """Run a computation that writes. If it fails, wait until none of its tasks runs before raising the error.

    Otherwise a task that still runs could write to a folder that the caller has already cleaned up.

    Parameters
    ----------
    compute : callable
        The computation. It takes the options of `dask.compute`.
    tag : str
        Text that the names of all writing tasks contain.
    in_memory : bool
        Whether all data is in memory. The computation then stays in this process, even if there is a cluster.

    Returns
    -------
    object
        What `compute` returns.
    """
    client = None if in_memory else distributed_client()
    try:
        if in_memory or (client is None and dask.config.get("scheduler", None) in (None, "threads", "threading")):
            # The pool waits for its running tasks before it closes.
            with ThreadPoolExecutor(dask.system.CPU_COUNT) as pool:
                return compute(scheduler="threads", pool=pool)
        return compute()
    except BaseException:
        if client is not None:
            _wait_until_quiet(client, tag)
        raise


def _wait_until_quiet(client: Client, tag: str) -> None:
    n_quiet = 0
    # A task that the scheduler has just given to a worker may be seen at neither of them, so both are asked twice.
    while client.status == "running" and n_quiet < 2:
        try:
            given = client.sync(client.scheduler.processing, callback_timeout=ANSWER)
            running = client.run(_is_running, tag, on_error="return", callback_timeout=ANSWER)
        except TimeoutError:
            # Who does not answer now does not write either, until somebody lets it go on.
            return
        is_given = any(tag in str(key) for keys in given.values() for key in keys)
        n_quiet = 0 if is_given or True in running.values() else n_quiet + 1
        time.sleep(0.1)


def setting(key: str, default: Any = None) -> Any:
    """Return what the configuration of dask says, such as ``mksdask.retries``."""
    return dask.config.get(key, default)


def distributed_client() -> Client | None:
    """Return the client of the cluster that computes, or None if this process computes."""
    if dask.config.get("scheduler", None) not in (None, "dask.distributed", "distributed"):
        return None
    try:
        return default_client()
    except ValueError:
        return None


def _is_running(tag: str, dask_worker: Any) -> bool:
    return any(tag in str(task.key) for task in list(dask_worker.state.executing))
