"""Show the progress of dask, on a cluster or in this process, in a terminal or a notebook."""

from __future__ import annotations

import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

from dask.callbacks import Callback
from dask.utils import key_split
from distributed import Client

from mksdask.compute.client import distributed_client
from mksdask.display.notebook import Cell, Html, in_notebook

BAR_WIDTH = 30
# Seconds between two counts.
INTERVAL = 0.25


class _Counts(ABC):
    """Counts the tasks that there are and those that are done, and names the stage that runs."""

    @abstractmethod
    def read(self) -> tuple[int, int, str]:
        """Count the tasks submitted and done since the start, and name a stage that runs."""

    @abstractmethod
    def close(self) -> None:
        """Stop counting."""


def _task_counts(dask_scheduler: Any) -> tuple[int, int, str]:
    prefixes = dask_scheduler.task_prefixes.values()
    begun = sum(prefix.state_counts["waiting"] for prefix in prefixes)
    done = sum(prefix.state_counts["memory"] for prefix in prefixes)
    running = [prefix.name for prefix in prefixes if prefix.states["processing"]]
    return begun, done, running[0] if running else ""


class _OfCluster(_Counts):
    def __init__(self, client: Client) -> None:
        self.client = client
        self.begun, self.done, _ = client.run_on_scheduler(_task_counts)

    def read(self) -> tuple[int, int, str]:
        begun, done, running = self.client.run_on_scheduler(_task_counts)
        return begun - self.begun, done - self.done, running

    def close(self) -> None:
        pass


class _OfProcess(_Counts):
    def __init__(self) -> None:
        self.begun, self.done = 0, 0
        self.running: Counter[str] = Counter()
        self.callback = Callback(start_state=self._start, pretask=self._before, posttask=self._after)
        self.callback.register()

    def _start(self, dsk: Any, state: Any) -> None:
        self.begun += len(state["ready"]) + len(state["waiting"])

    def _before(self, key: Any, dsk: Any, state: Any) -> None:
        self.running[key_split(key)] += 1

    def _after(self, key: Any, result: Any, dsk: Any, state: Any, worker_id: Any) -> None:
        self.done += 1
        self.running[key_split(key)] -= 1

    def read(self) -> tuple[int, int, str]:
        running = [name for name, n in list(self.running.items()) if n > 0]
        return self.begun, self.done, running[0] if running else ""

    def close(self) -> None:
        self.callback.unregister()


def _left(done: int, total: int, seconds: float) -> str:
    """Say how long the rest takes if it goes on as it began. Tasks that are not known yet are not counted."""
    if not 0 < done < total:
        return ""
    rest = round(seconds * (total - done) / done)
    return f"{rest} s left" if rest < 100 else f"{rest // 60} min left" if rest < 6000 else f"{rest // 3600} h left"


class _Terminal:
    def show(self, title: str, done: int, total: int, running: str, left: str) -> None:
        filled = BAR_WIDTH * done // max(1, total)
        bar = "█" * filled + "·" * (BAR_WIDTH - filled)
        self._write(f"  {title:<34} {bar} {done:>5}/{total:<5} {left:<12} {running[:24]:<24}")

    def close(self, title: str, seconds: float) -> None:
        self._write(" " * (BAR_WIDTH + 91))
        self._write("")

    @staticmethod
    def _write(text: str) -> None:
        sys.stderr.write(f"\r{text}")
        sys.stderr.flush()


class _Notebook:
    def __init__(self) -> None:
        self.cell = Cell()

    def show(self, title: str, done: int, total: int, running: str, left: str) -> None:
        share = done / max(1, total)
        self._show(title, share, f"{done:,} of {total:,} tasks {running} {left}".rstrip())

    def close(self, title: str, seconds: float) -> None:
        self._show(title, 1.0, f"{seconds:.1f} s")

    def _show(self, title: str, share: float, text: str) -> None:
        bar = (
            '<span style="display:inline-block;width:16em;height:.7em;border-radius:.35em;'
            'background:color-mix(in srgb,currentColor 15%,transparent)">'
            f'<span style="display:block;height:100%;width:{share:.1%};border-radius:.35em;background:#4477AA"></span>'
            "</span>"
        )
        html = f'<div style="font:13px system-ui,sans-serif">{escape(title)} {bar} {escape(text)}</div>'
        self.cell.show(Html(html, f"{title} {share:.0%} {text}"))


@contextmanager
def progress(title: str = "") -> Iterator[None]:
    """Show how many tasks are done, which stage runs, and how long the rest takes, while the block inside computes.

    All tasks of the current cluster are counted, also those of other users. Without a cluster, the tasks of dask in
    this process are counted. In a terminal, the bar is one line on the standard error stream, which is removed at the
    end. In a notebook, the bar is in the output of the cell. Nothing is shown elsewhere, for example if output goes to
    a file.

    Parameters
    ----------
    title : str
        Text in front of the bar.

    Examples
    --------
    >>> import dask.array as da
    >>> with progress("squares"):
    ...     int((da.arange(10, chunks=2) ** 2).sum().compute())
    285
    """
    view = _Notebook() if in_notebook() else _Terminal() if sys.stderr.isatty() else None
    if view is None:
        yield
        return
    client = distributed_client()
    counts = _OfProcess() if client is None else _OfCluster(client)
    ended, start = threading.Event(), time.perf_counter()

    def watch() -> None:
        while not ended.wait(INTERVAL):
            begun, done, running = counts.read()
            view.show(title, done, begun, running, _left(done, begun, time.perf_counter() - start))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        counts.close()
        view.close(title, time.perf_counter() - start)
