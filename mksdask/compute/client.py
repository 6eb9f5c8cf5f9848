"""The scheduler that computes, and computations that leave no task behind when they fail."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dask
import dask.system
from distributed import Client, default_client


def settled(compute: Callable[..., Any], *, tag: str, in_memory: bool = False) -> Any:
    """Run a computation that writes; if it fails, come back only when none of its tasks runs any more.

    A task that outlived the failure would write to what has been cleaned up meanwhile.

    Parameters
    ----------
    compute : callable
        Takes the options of `dask.compute`.
    tag : str
        What the names of the writing tasks contain.
    in_memory : bool
        Whether all data is in memory: then it stays in this process, whatever cluster is at hand.
    """
    client = None if in_memory else distributed_client()
    try:
        if in_memory or (client is None and dask.config.get("scheduler", None) in (None, "threads", "threading")):
            # Leaving the pool waits for what runs in it.
            with ThreadPoolExecutor(dask.system.CPU_COUNT) as pool:
                return compute(scheduler="threads", pool=pool)
        return compute()
    except BaseException:
        while client is not None and client.status == "running" and any(client.run(_is_running, tag).values()):
            time.sleep(0.1)
        raise


def distributed_client() -> Client | None:
    """The distributed client that computes, if there is one."""
    if dask.config.get("scheduler", None) not in (None, "dask.distributed", "distributed"):
        return None
    try:
        return default_client()
    except ValueError:
        return None


def _is_running(tag: str, dask_worker: Any) -> bool:
    return any(tag in str(task.key) for task in list(dask_worker.state.executing))
