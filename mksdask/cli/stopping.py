"""Signals that stop the command, such as Ctrl-C: the workers end at once, and what is not complete is removed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# For so many seconds after a signal, further ones are ignored, because the command is removing what is not complete.
# Then it is stopped again, in case that something has swallowed the first exception, and after that it ends anyway.
PATIENCE = 30.0
# Seconds in which the scheduler notices that killed workers are gone. Nobody would get an answer from them.
NOTICE = 10.0


class Stop:
    """Whether a signal has asked the command to stop, and the workers that end with it."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.is_last = False
        self.ended = threading.Event()
        self._is_watched = False
        self._since = 0.0
        self._is_deferred = False
        self._cluster: Any = None

    def __call__(self, number: int, frame: Any) -> None:
        """Handle a signal: end the workers, and raise KeyboardInterrupt."""
        now = time.monotonic()
        if self.number is None or now - self._since >= PATIENCE:
            self.number, self._since = number, now
            if not self._is_deferred:
                self._raise()

    def _raise(self) -> None:
        if self._cluster is not None:
            if not self._is_watched:
                self._is_watched = True
                threading.Thread(target=self._watch, daemon=True).start()
            end_workers(self._cluster)
        raise KeyboardInterrupt

    def _watch(self) -> None:
        """Stop the command again if it has not ended, and at last end the process."""
        if self.ended.wait(PATIENCE + 1) or self.number is None:
            return
        os.kill(os.getpid(), self.number)
        if not self.ended.wait(PATIENCE):
            os._exit(128 + self.number)

    def defer(self) -> None:
        """Stop only when `ending` begins, because what starts now cannot be left half done."""
        self._is_deferred = True

    @contextmanager
    def ending(self, cluster: Any) -> Iterator[None]:
        """End the workers of a cluster first if the block inside is stopped, so that none of them writes any more."""
        self._cluster, self._is_deferred = cluster, False
        try:
            if self.number is not None:
                self._raise()
            yield
        finally:
            self._cluster = None


# The command that runs in this process.
STOP = Stop()


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Handle signals while the block inside runs. A signal that the process ignores already is still ignored.

    If the block sets `is_last`, signals are ignored afterwards, because the process is about to end.
    """
    STOP.__init__()  # type: ignore[misc]
    handled = {}
    # Only the main thread may set handlers.
    with suppress(ValueError):
        for number in SIGNALS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                handled[number] = signal.signal(number, STOP)
    try:
        yield STOP
    finally:
        STOP.ended.set()
        for number, handler in handled.items():
            signal.signal(number, signal.SIG_IGN if STOP.is_last else handler)


@contextmanager
def blocked() -> Iterator[None]:
    """Let the threads and processes that the block inside starts ignore the signals.

    A terminal sends Ctrl-C to all processes of a command. The workers leave it to the command to end them.
    """
    if os.name != "posix":
        yield
        return
    # The process that removes the semaphores of killed workers would warn of them.
    with _environment(PYTHONWARNINGS="ignore"):
        resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def end_workers(cluster: Any) -> None:
    """Kill the worker processes of a cluster, and start no others in their place."""
    for nanny in list(cluster.workers.values()):
        pid = nanny.pid
        nanny.close_gracefully()
        if pid:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
    until = time.monotonic() + NOTICE
    while cluster.scheduler.workers and time.monotonic() < until:
        time.sleep(0.02)
