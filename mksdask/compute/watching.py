"""Results of a computation that still runs: tasks publish what they have, and the client adds it up and shows it.

A task publishes only a plane of lags, and some features of some samples. Watching therefore costs a few kilobytes for
each task, for results of any size.
"""

from __future__ import annotations

import os
import sys
import threading
import uuid
import warnings
from collections import Counter
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
from mksdask.display.pictures import is_our_picture, save_picture
from mksdask.types import Array

# The topic of the cluster under which tasks publish.
TOPIC = "mksdask-watch"
# Seconds between two pictures.
INTERVAL = 1.0
# Number of lags that are shown on each side of the origin, by the number of axes.
REACH = {1: 512, 2: 40}
# The picture of scores is made of so many features, of so many samples of a block, and of so many samples in all.
SKETCHED_FEATURES, SKETCHED_ROWS, MOST_ROWS = 512, 16, 4096


@dataclass(frozen=True)
class PartialResult:
    """What is known while a computation runs.

    Parameters
    ----------
    done, total : int
        How many samples or tiles are done, and how many there are.
    unit : str
        What is counted: "samples" or "tiles".
    statistics : xarray.DataArray, shape (lag_x,) or (lag_x, lag_y)
        2-point statistics of the first pair around lag 0, as the mean of the samples or tiles that are done. For 3D
        lags, they are in the plane of lag_z = 0.
    scores : ndarray, shape (n, 2), or None
        Scores of some of the samples that are done, on the leading components of these samples. At the end, the scores
        of all samples. None if there are no scores.
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
    """The lags that are shown.

    Parameters
    ----------
    dims : tuple of str
        Dims of the plane.
    coords : tuple
        Name, lags and attributes of each axis of the plane.
    index : tuple
        Index of the plane in the array of all lags.
    """

    dims: tuple[str, ...]
    coords: tuple[Any, ...]
    index: tuple[Any, ...]

    @classmethod
    def of(cls, lags: Sequence[int], axes: Sequence[tuple[str, float, str]]) -> Plane:
        """Take the plane around lag 0, which is at index n//2 of each axis.

        Parameters
        ----------
        lags : sequence of int
            Number of lags along each axis.
        axes : sequence of (str, float, str)
            Name, step and units of each axis, as in a `Grid`.
        """
        n_axes = min(2, len(lags))
        reach, dims, coords = REACH[n_axes], [], []
        index: list[Any] = []
        for axis, (n, (dim, step, units)) in enumerate(zip(lags, axes, strict=True)):
            origin = n // 2
            if axis >= n_axes:
                index.append(origin)
                continue
            index.append(slice(max(0, origin - reach), origin + reach + 1))
            # The axes of statistics that the user gave in place of samples are lags already.
            dims.append(dim if dim.startswith("lag_") else f"lag_{dim}")
            coords.append((dims[-1], (np.arange(n)[index[-1]] - origin) * step, {"units": units}))
        return cls(tuple(dims), tuple(coords), tuple(index))

    def label(self, values: Array) -> xr.DataArray:
        """Label the values of the plane with its lags."""
        return xr.DataArray(values, dims=self.dims, coords=dict(zip(self.dims, self.coords, strict=True)))


@dataclass(frozen=True)
class Channel:
    """The name under which tasks of one computation publish."""

    name: str

    def publish(self, key: int, done: int, total: Any, weight: Any, rows: Array | None = None) -> None:
        """Send sums, and the weights by which they are divided. A message replaces an earlier one of the same key.

        Parameters
        ----------
        key : int
            Identifies the block, so that a block counts once even if it is computed twice.
        done : int
            Number of samples or tiles in the sums.
        total, weight : array, shape of the plane or flat
            Sums over the plane, and their weights.
        rows : ndarray, shape (n, n_sketched), optional
            Some features of some samples.
        """
        message = {
            "name": self.name,
            "key": key,
            "done": done,
            "total": np.asarray(total, dtype=np.float32).tobytes(),
            "weight": np.asarray(weight, dtype=np.float32).tobytes(),
            "rows": b"" if rows is None else np.asarray(rows, dtype=np.float32).tobytes(),
        }
        if self.name in _listeners:
            _listeners[self.name](message)
            return
        # Outside of a worker nobody listens, and the message is dropped.
        with suppress(ValueError):
            get_worker().log_event(TOPIC, message)


@dataclass(frozen=True)
class FeatureChannel:
    """Publishes blocks of features, whose rows are the flattened statistics of samples.

    Parameters
    ----------
    channel : Channel
        Where to publish.
    shown : ndarray
        Numbers of the features in the plane that is shown.
    sketched : ndarray
        Numbers of the features from which scores are made.
    """

    channel: Channel
    shown: Array
    sketched: Array

    @classmethod
    def of(cls, channel: Channel, plane: Plane, shape: Sequence[int], *, is_complex: bool) -> FeatureChannel:
        """Choose the features of statistics of shape (*lags, n_pairs). Those of the first pair are shown."""
        step = 2 if is_complex else 1
        n_features = int(np.prod(shape)) * step
        shown = np.arange(0, n_features, step).reshape(shape)[(*plane.index, 0)].ravel()
        sketched = np.unique(np.linspace(0, n_features - 1, SKETCHED_FEATURES).astype(int))
        return cls(channel, shown, sketched)

    def publish(self, block: Array, first: int) -> None:
        """Send the shown part of a block. `first` is the number of its first sample, which identifies the block."""
        values = block[:, self.shown]
        rows = np.nan_to_num(block[:SKETCHED_ROWS, self.sketched].astype(np.float32))
        total, weight = np.nansum(values, axis=0, dtype=np.float64), np.sum(~np.isnan(values), axis=0)
        self.channel.publish(first, len(block), total, weight, rows)


# What takes the messages of each channel in this process, and how many channels listen to each client.
_listeners: dict[str, Callable[[dict[str, Any]], None]] = {}
_subscribed: Counter[str] = Counter()
_lock = threading.Lock()


def _dispatch(event: tuple[float, dict[str, Any]]) -> None:
    listener = _listeners.get(event[1]["name"])
    if listener is not None:
        listener(event[1])


class Watcher:
    """Adds up what tasks publish, and shows it about once a second.

    Parameters
    ----------
    show : callable
        ``show(partial)`` shows a `PartialResult`. It is called in a thread of its own.
    plane, total, unit
        As in `watching`.
    """

    def __init__(self, show: Callable[[PartialResult], None], plane: Plane, total: int, unit: str) -> None:
        self.channel = Channel(uuid.uuid4().hex)
        self._show, self._plane, self._total, self._unit = show, plane, total, unit
        self._sums: dict[int, tuple[int, Array, Array]] = {}
        self._rows: list[Array] = []
        self._lock, self._news, self._ended = threading.Lock(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._refresh, daemon=True)
        self._failure: Exception | None = None

    def receive(self, message: dict[str, Any]) -> None:
        """Take the message of a task."""
        total, weight, rows = (np.frombuffer(message[name], dtype=np.float32) for name in ("total", "weight", "rows"))
        with self._lock:
            if len(rows) and message["key"] not in self._sums:
                self._rows.append(rows.reshape(min(SKETCHED_ROWS, message["done"]), -1))
                self._rows = self._rows[-(MOST_ROWS // SKETCHED_ROWS) :]
            self._sums[message["key"]] = (message["done"], total, weight)
        self._news.set()

    def start(self, client: Client | None) -> None:
        """Listen to tasks in this process, and to the workers of a client."""
        _listeners[self.channel.name] = self.receive
        if client is not None:
            with _lock:
                _subscribed[client.id] += 1
                if _subscribed[client.id] == 1:
                    client.subscribe_topic(TOPIC, _dispatch)
        self._thread.start()

    def stop(self, client: Client | None) -> None:
        """Stop listening, and warn if `show` has failed."""
        self._ended.set()
        self._news.set()
        self._thread.join()
        del _listeners[self.channel.name]
        if client is not None:
            with _lock:
                _subscribed[client.id] -= 1
                if not _subscribed[client.id]:
                    del _subscribed[client.id]
                    if client.status == "running":
                        client.unsubscribe_topic(TOPIC)
                        client.run_on_scheduler(_forget)
        if self._failure is not None:
            warnings.warn(f"watch failed and showed no more results: {self._failure!r}", RuntimeWarning, stacklevel=4)

    def finish(self, statistics: Array | None, scores: Array | None = None) -> None:
        """Show the final result.

        Parameters
        ----------
        statistics : ndarray, shape (*lags, n_pairs), or None
            Mean of the statistics. None shows the mean of what tasks have published.
        scores : ndarray, shape (n_samples, n_components), optional
            Scores of all samples.
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
        # An error in what shows results must not stop the computation.
        try:
            self._show(partial)
        except Exception as error:
            self._failure = error


def _scores(rows: Sequence[Array]) -> Array | None:
    """Compute the scores of rows on their own two leading components. The largest score of each is positive."""
    if sum(map(len, rows)) < 3:
        return None
    centred = np.concatenate(rows).astype(np.float64)
    centred -= centred.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    scores = left[:, :2] * values[:2]
    return np.asarray(scores * np.sign(scores[np.abs(scores).argmax(axis=0), range(scores.shape[1])]))


def _forget(dask_scheduler: Any) -> None:
    """Let the scheduler forget old messages. It keeps a topic for ever, so all computations share one."""
    broker = getattr(dask_scheduler, "_broker", None)
    if broker is not None:
        broker.truncate(TOPIC)


# The function that draws a partial result. The package sets it on import, because this module may not import figures.
_drawing: list[Callable[[PartialResult], Any]] = []


def draw_with(draw: Callable[[PartialResult], Any]) -> None:
    """Set the function that draws partial results. It takes a `PartialResult` and returns a matplotlib figure."""
    _drawing[:] = [draw]


def _figure(partial: PartialResult) -> Any:
    (draw,) = _drawing
    return draw(partial)


@dataclass(frozen=True)
class LivePicture:
    """Shows results as a picture in a file. The file is complete at any time, and replaces what was there.

    Parameters
    ----------
    path : Path
        The file, and not a link to it.
    """

    path: Path

    @classmethod
    def of(cls, watch: str | os.PathLike[str], *, overwrite: bool) -> LivePicture:
        """Check that a picture can be kept in a file. Without `overwrite`, it may replace only such a picture.

        Raises
        ------
        FileExistsError
            If there is a file that this package did not draw.
        ValueError
            If the path is not that of a picture in a folder that exists.
        """
        path, is_place = Path(watch), "\0" not in os.fspath(watch)
        path = path.resolve() if is_place else path
        if (
            not is_place
            or not path.suffix
            or not path.parent.is_dir()
            or path.is_symlink()
            or (path.exists() and not path.is_file())
        ):
            msg = f"watch={os.fspath(watch)!r} must be a picture such as 'live.png', in a folder that exists"
            raise ValueError(msg)
        if path.exists() and not (overwrite or is_our_picture(path)):
            msg = (
                f"watch={os.fspath(watch)!r} exists, and this package did not draw it; choose another name, or move "
                "the file away"
            )
            raise FileExistsError(msg)
        return cls(path)

    def __call__(self, partial: PartialResult) -> None:
        """Draw what is known."""
        save_picture(_figure(partial), self.path)


class _Notebook:
    """Shows results as a picture in the output of a notebook cell."""

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
    return LivePicture.of(watch, overwrite=False)


@contextmanager
def watching(watch: Watch, plane: Plane, total: int, unit: str) -> Iterator[Watcher | None]:
    """Show partial results while the block inside computes.

    Parameters
    ----------
    watch : bool, path or callable
        False shows nothing. True shows results in the cell of a notebook, or as a line in a terminal. A path keeps a
        picture there, which replaces only such a picture. A callable is called with each `PartialResult`, in a thread
        of its own.
    plane : Plane
        The lags to show.
    total : int
        Number of samples or tiles in all.
    unit : str
        What is counted: "samples" or "tiles".

    Yields
    ------
    Watcher or None
        The watcher whose channel tasks publish to. None if `watch` is False.

    Raises
    ------
    TypeError
        If `watch` is none of these.
    FileExistsError
        If there is a file that this package did not draw.
    ValueError
        If the path is not that of a picture in a folder that exists.
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
