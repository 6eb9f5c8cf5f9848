"""Wait for a cluster: say which worker is silent, end a run without progress, and say if the scheduler is gone."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dask.core import flatten
from dask.utils import key_split, parse_timedelta
from distributed import CancelledError, Client, Future, rejoin, secede

from mksdask.compute.client import one_span, setting

TIMEOUT_KEY = "mksdask.timeout"
# Seconds between two looks at the cluster. A scheduler that starts a computation may not answer for a while.
INTERVAL, ANSWER = 5.0, 60.0
# A worker that has sent nothing for so many seconds is silent.
SILENCE = 60.0
# A task that has run for so many seconds, and so many times longer than others of its stage, may be stuck.
LONG, LONGER = 600.0, 20.0
_KEPT = "what is in stores and in scratch is kept, and the same call goes on with it where it takes resume or scratch"


def timeout() -> float | None:
    """Return after how many seconds without progress a run ends: ``mksdask.timeout`` of the configuration of dask.

    Raises
    ------
    ValueError
        If it is not a time, such as 600 or "10 minutes".
    """
    given = setting(TIMEOUT_KEY)
    if given is None:
        return None
    try:
        seconds = float(parse_timedelta(given)) if isinstance(given, str | int | float) else 0.0
    except (KeyError, ValueError):
        seconds = 0.0
    if not seconds > 0:
        msg = f"{TIMEOUT_KEY} of the configuration of dask must be a time, such as '10 minutes', got {given!r}"
        raise ValueError(msg)
    return seconds


def get_from(client: Client) -> Callable[..., Any]:
    """Return a scheduler for `dask.compute` that waits for a cluster as `waiting` does."""

    def get(graph: Any, keys: Any, **options: Any) -> Any:
        with one_span():
            packed = client.get(graph, keys, sync=False, **options)
        futures = [future for future in flatten([packed], container=(list, tuple)) if isinstance(future, Future)]
        try:
            with waiting(client, lambda: futures):
                return client.gather(packed)
        finally:
            for future in futures:
                future.release()

    return get


@contextmanager
def waiting(client: Client, futures: Callable[[], Sequence[Future]]) -> Iterator[None]:
    """Watch a cluster while the block inside waits for futures of it.

    Parameters
    ----------
    client : Client
        The client of the cluster.
    futures : callable
        Returns the futures that are not done yet.

    Warns
    -----
    UserWarning
        Once for each worker that is silent, or works on one task for very long, and if the scheduler is silent.

    Raises
    ------
    TimeoutError
        If no task was finished in the time that ``mksdask.timeout`` says.
    ConnectionError
        If the connection to the scheduler is lost.
    """
    watch = _Watch(client, futures, timeout())
    watch.start()
    try:
        with _making_room():
            yield
    except CancelledError as error:
        if watch.failure is not None:
            raise watch.failure from error
        if client.status == "running" and "scheduler-connection-lost" not in str(error):
            raise
        address = client.scheduler.address if client.scheduler is not None else ""
        msg = f"the scheduler {address} is gone; {_KEPT}"
        raise ConnectionError(msg) from error
    finally:
        watch.stop()


@contextmanager
def _making_room() -> Iterator[None]:
    """Leave the thread of a worker to other tasks while a task waits for them, such as a fit inside a search."""
    try:
        secede()
    except (ValueError, AttributeError, KeyError):
        # This is no task, or one that has left its thread before.
        yield
        return
    try:
        yield
    finally:
        rejoin()


class _Watch:
    """A thread that looks at a cluster from time to time."""

    def __init__(self, client: Client, futures: Callable[[], Sequence[Future]], limit: float | None) -> None:
        self.client, self.futures, self.limit = client, futures, limit
        self.failure: TimeoutError | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look_often, daemon=True, name="mksdask-waiting")
        self._told: set[str] = set()
        self._n_done, self._since = -1, time.monotonic()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread. If it waits for an answer of the scheduler, it ends by itself later."""
        self._ended.set()

    def _look_often(self) -> None:
        interval = INTERVAL if self.limit is None else min(INTERVAL, self.limit / 4)
        while not self._ended.wait(interval) and self.client.status == "running":
            silent = self._look()
            idle = time.monotonic() - self._since
            if self.limit is not None and idle > self.limit and not self._ended.is_set():
                who = f" {'; '.join(silent)};" if silent else ""
                self.failure = TimeoutError(
                    f"no task was finished in {idle:.0f} s, which is more than {TIMEOUT_KEY} allows;{who} {_KEPT}"
                )
                self.client.cancel(list(self.futures()), reason="timeout")
                return

    def _look(self) -> list[str]:
        """Look once, warn of what is new, and return what is silent."""
        try:
            n_done, silent = self.client.run_on_scheduler(
                _state, silence=SILENCE, long=LONG, longer=LONGER, callback_timeout=ANSWER
            )
        except TimeoutError:
            silent = {"scheduler": f"the scheduler {self.client.scheduler.address} does not answer"}
        except Exception:
            # The connection is lost, and the client tells of it.
            return []
        else:
            if n_done != self._n_done:
                self._n_done, self._since = n_done, time.monotonic()
        for name in silent.keys() - self._told:
            if not self._ended.is_set():
                self._told.add(name)
                warnings.warn(
                    f"{silent[name]}. The run waits for it. To end a run without progress, set {TIMEOUT_KEY} of the "
                    "configuration of dask, such as to '10 minutes'",
                    UserWarning,
                    stacklevel=2,
                )
        return list(silent.values())


def _state(dask_scheduler: Any, silence: float, long: float, longer: float) -> tuple[int, dict[str, str]]:
    """Count the tasks that are done, and describe workers that are silent while tasks wait for them."""
    n_done = sum(prefix.state_counts["memory"] for prefix in dask_scheduler.task_prefixes.values())
    silent, now = {}, time.time()
    for address, worker in dask_scheduler.workers.items():
        seconds, n_tasks = now - worker.last_seen, len(worker.processing)
        if not n_tasks:
            continue
        who = f"worker {address} (process {getattr(worker, 'pid', '?')})"
        if seconds > silence:
            silent[address] = f"{who} has been silent for {seconds:.0f} s, and has {n_tasks} tasks to do"
            continue
        for task, duration in worker.executing.items():
            if duration > max(long, longer * task.prefix.duration_average):
                stage = key_split(task.key)
                silent[address] = f"{who} has worked on one task of stage {stage} for {duration / 60:.0f} minutes"
    return n_done, silent
