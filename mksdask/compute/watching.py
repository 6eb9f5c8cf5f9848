"""Results of a computation while it goes on: tasks publish what they have, the client adds it up and shows it.

What is published is small, a plane of lags and some features of some samples, so that watching costs a few kilobytes a
task, whatever the size of the result.
"""

from __future__ import annotations

import os
import sys
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import xarray as xr
from distributed import Client, get_worker

from mksdask.compute.client import distributed_client
from mksdask.display.notebook import Cell, in_notebook
from mksdask.types import Array

# Seconds between two pictures.
INTERVAL = 1.0
# Lags on each side of the origin that are shown, by the number of axes.
REACH = {1: 512, 2: 40}
# Features, and samples of a block, that the picture of scores is made of; and samples in all.
SKETCHED_FEATURES, SKETCHED_ROWS, MOST_ROWS = 512, 16, 4096


@dataclass(frozen=True)
class PartialResult:
    """What is known while a computation goes on.

    Parameters
    ----------
    done, total : int
        Of `unit`.
    unit : str
        What is counted: samples, tiles.
    statistics : xarray.DataArray, shape (lag_x,) or (lag_x, lag_y)
        2-point statistics of the first pair about lag 0, of 3D lags the plane of lag_z = 0; the mean of what is done.
    scores : ndarray, shape (n, 2), or None
        Of some of the samples that are done, on the leading components of these; at the end, those of all samples.
    """

    done: int
    total: int
    unit: str
    statistics: xr.DataArray
    scores: Array | None = None

    def __str__(self) -> str:
        origin = self.statistics.to_numpy()[tuple(n // 2 for n in self.statistics.shape)]
        return f"{self.done:,} of {self.total:,} {self.unit}, f[0] = {origin:.5g}"


Watch: TypeAlias = bool | str | os.PathLike[str] | Callable[[PartialResult], None]


@dataclass(frozen=True)
class Plane:
    """The lags that are shown, of all that there are."""

    dims: tuple[str, ...]
    coords: tuple[Any, ...]
    index: tuple[Any, ...]

    @classmethod
    def of(cls, lags: Sequence[int], axes: Sequence[tuple[str, float, str]]) -> Plane:
        """About lag 0, which is at n//2 of each axis; `axes` are those of a grid: name, step and units."""
        n_axes = min(2, len(lags))
        reach, dims, coords = REACH[n_axes], [], []
        index: list[Any] = []
        for axis, (n, (dim, step, units)) in enumerate(zip(lags, axes, strict=True)):
            origin = n // 2
            if axis >= n_axes:
                index.append(origin)
                continue
            index.append(slice(max(0, origin - reach), origin + reach + 1))
            # Statistics that are given as such have lags already.
            dims.append(dim if dim.startswith("lag_") else f"lag_{dim}")
            coords.append((dims[-1], (np.arange(n)[index[-1]] - origin) * step, {"units": units}))
        return cls(tuple(dims), tuple(coords), tuple(index))

    def label(self, values: Array) -> xr.DataArray:
        """A plane with its lags."""
        return xr.DataArray(values, dims=self.dims, coords=dict(zip(self.dims, self.coords, strict=True)))


@dataclass(frozen=True)
class Channel:
    """Where tasks publish."""

    topic: str

    def publish(self, key: int, done: int, total: Any, weight: Any, rows: Array | None = None) -> None:
        """Send sums, and the weights that they are divided by; what has the same key as before replaces it."""
        message = {
            "key": key,
            "done": done,
            "total": np.asarray(total, dtype=np.float32).tobytes(),
            "weight": np.asarray(weight, dtype=np.float32).tobytes(),
            "rows": b"" if rows is None else np.asarray(rows, dtype=np.float32).tobytes(),
        }
        if self.topic in _listeners:
            _listeners[self.topic](message)
            return
        # Nobody may be there to listen: then nothing is lost.
        with suppress(ValueError):
            get_worker().log_event(self.topic, message)


@dataclass(frozen=True)
class FeatureChannel:
    """Publishes blocks of features, one sample a row, that are flattened statistics."""

    channel: Channel
    shown: Array
    sketched: Array

    @classmethod
    def of(cls, channel: Channel, plane: Plane, shape: Sequence[int], *, is_complex: bool) -> FeatureChannel:
        """Of statistics (*lags, n_pairs), of which the first pair is shown."""
        step = 2 if is_complex else 1
        n_features = int(np.prod(shape)) * step
        shown = np.arange(0, n_features, step).reshape(shape)[(*plane.index, 0)].ravel()
        sketched = np.unique(np.linspace(0, n_features - 1, SKETCHED_FEATURES).astype(int))
        return cls(channel, shown, sketched)

    def publish(self, block: Array, first: int) -> None:
        """Send what is shown of a block, whose first sample has that number; the same block again counts once."""
        values = block[:, self.shown]
        rows = np.nan_to_num(block[:SKETCHED_ROWS, self.sketched].astype(np.float32))
        total, weight = np.nansum(values, axis=0, dtype=np.float64), np.sum(~np.isnan(values), axis=0)
        self.channel.publish(first, len(block), total, weight, rows)


# Of watchers in this process, by topic.
_listeners: dict[str, Callable[[dict[str, Any]], None]] = {}


class Watcher:
    """Adds up what tasks publish, and shows it now and then."""

    def __init__(self, show: Callable[[PartialResult], None], plane: Plane, total: int, unit: str) -> None:
        self.channel = Channel(f"mksdask-watch-{uuid.uuid4().hex}")
        self._show, self._plane, self._total, self._unit = show, plane, total, unit
        self._sums: dict[int, tuple[int, Array, Array]] = {}
        self._rows: list[Array] = []
        self._lock, self._news, self._ended = threading.Lock(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._refresh, daemon=True)
        self._failure: Exception | None = None

    def receive(self, message: dict[str, Any]) -> None:
        """Take what a task published."""
        total, weight, rows = (np.frombuffer(message[name], dtype=np.float32) for name in ("total", "weight", "rows"))
        with self._lock:
            if len(rows) and message["key"] not in self._sums:
                self._rows.append(rows.reshape(min(SKETCHED_ROWS, message["done"]), -1))
                self._rows = self._rows[-(MOST_ROWS // SKETCHED_ROWS) :]
            self._sums[message["key"]] = (message["done"], total, weight)
        self._news.set()

    def start(self, client: Client | None) -> None:
        """Listen, in this process and to the workers of a client."""
        _listeners[self.channel.topic] = self.receive
        if client is not None:
            client.subscribe_topic(self.channel.topic, lambda event: self.receive(event[1]))
        self._thread.start()

    def stop(self, client: Client | None) -> None:
        """Listen no more; warn if showing has failed."""
        self._ended.set()
        self._news.set()
        self._thread.join()
        del _listeners[self.channel.topic]
        if client is not None and client.status == "running":
            client.unsubscribe_topic(self.channel.topic)
            client.run_on_scheduler(_forget, topic=self.channel.topic)
        if self._failure is not None:
            warnings.warn(f"watch failed and showed no more: {self._failure!r}", RuntimeWarning, stacklevel=4)

    def finish(self, statistics: Array | None, scores: Array | None = None) -> None:
        """Show the result in the place of what was known before.

        Parameters
        ----------
        statistics : ndarray, shape (*lags, n_pairs), or None
            Their mean; None to leave what was added up.
        scores : ndarray, shape (n_samples, n_components), optional
            Of all samples.
        """
        self._ended.set()
        self._news.set()
        self._thread.join()
        if self._failure is not None or (statistics is None and not self._sums):
            return
        if statistics is None:
            shown = self._partial().statistics
        else:
            shown = self._plane.label(np.real(statistics[(*self._plane.index, 0)]))
        found = None if scores is None or scores.shape[1] < 2 else np.asarray(scores)[:, :2]
        self._call(PartialResult(self._total, self._total, self._unit, shown, found))

    def _refresh(self) -> None:
        while not self._ended.is_set():
            self._news.wait()
            if self._ended.wait(0.0) or self._failure is not None:
                return
            self._news.clear()
            self._call(self._partial())
            self._ended.wait(INTERVAL)

    def _partial(self) -> PartialResult:
        with self._lock:
            done = sum(count for count, _, _ in self._sums.values())
            total = np.sum([part for _, part, _ in self._sums.values()], axis=0, dtype=np.float64)
            weight = np.sum([part for _, _, part in self._sums.values()], axis=0, dtype=np.float64)
            rows = list(self._rows)
        mean = np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0)
        plane = self._plane.label(mean.reshape([len(along) for _, along, _ in self._plane.coords]))
        return PartialResult(min(done, self._total), self._total, self._unit, plane, _scores(rows))

    def _call(self, partial: PartialResult) -> None:
        # What is shown must not stop what is computed.
        try:
            self._show(partial)
        except Exception as error:
            self._failure = error


def _scores(rows: Sequence[Array]) -> Array | None:
    """Scores of rows on their own two leading components, the largest score of each positive."""
    if sum(map(len, rows)) < 3:
        return None
    centred = np.concatenate(rows).astype(np.float64)
    centred -= centred.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    scores = left[:, :2] * values[:2]
    return np.asarray(scores * np.sign(scores[np.abs(scores).argmax(axis=0), range(scores.shape[1])]))


def _forget(dask_scheduler: Any, topic: str) -> None:
    broker = getattr(dask_scheduler, "_broker", None)
    if broker is not None:
        broker.truncate(topic)


# What draws a partial result, as the package says when it is imported: figures lie above computations.
_drawing: list[Callable[[PartialResult], Any]] = []


def draw_with(draw: Callable[[PartialResult], Any]) -> None:
    """Set the function that draws partial results: it takes a `PartialResult` and returns a matplotlib figure."""
    _drawing[:] = [draw]


def _figure(partial: PartialResult) -> Any:
    (draw,) = _drawing
    return draw(partial)


class _File:
    """The picture in a file, which is there whole at any time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, partial: PartialResult) -> None:
        figure = _figure(partial)
        new = self.path.with_name(f".{self.path.stem}-{uuid.uuid4().hex[:8]}{self.path.suffix}")
        try:
            figure.savefig(new)
            new.replace(self.path)
        finally:
            new.unlink(missing_ok=True)


class _Notebook:
    """The picture in the output of a cell."""

    def __init__(self) -> None:
        self.cell = Cell()

    def __call__(self, partial: PartialResult) -> None:
        self.cell.show(_figure(partial))


def _line(partial: PartialResult) -> None:
    end = "\n" if partial.done == partial.total else ""
    print(f"\r  {partial!s:<70}", end=end, file=sys.stderr, flush=True)  # noqa: T201


def _shower(watch: Watch) -> Callable[[PartialResult], None]:
    if watch is True:
        return _Notebook() if in_notebook() else _line
    if callable(watch):
        return watch
    if not isinstance(watch, str | os.PathLike):
        msg = f"watch must be True, the path of a picture, or a callable that takes a PartialResult, got {watch!r}"
        raise TypeError(msg)
    # A picture is written through a link, which stays.
    path = Path(os.path.realpath(watch))
    if not path.suffix or not path.parent.is_dir() or path.is_symlink() or (path.exists() and not path.is_file()):
        msg = f"watch={os.fspath(watch)!r} must be a picture such as 'live.png', in a folder that exists"
        raise ValueError(msg)
    return _File(path)


@contextmanager
def watching(watch: Watch, plane: Plane, total: int, unit: str) -> Iterator[Watcher | None]:
    """Watch what is computed inside; None if `watch` is False.

    Parameters
    ----------
    watch : bool, path or callable
        True shows in the cell of a notebook, or as a line in a terminal; a path keeps a picture there; a callable is
        called with each `PartialResult`, in a thread of its own.
    plane : Plane
        The lags to show.
    total : int
        How many there will be.
    unit : str
        Of what.

    Raises
    ------
    TypeError, ValueError
        If `watch` is something else.
    """
    if watch is False:
        yield None
        return
    watcher, client = Watcher(_shower(watch), plane, total, unit), distributed_client()
    watcher.start(client)
    try:
        yield watcher
    finally:
        watcher.stop(client)
