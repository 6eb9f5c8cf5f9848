"""Plans: what an operation takes before it runs, within the memory of a worker, and how samples are cut to fit."""

from __future__ import annotations

import math
import reprlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import dask
import dask.array as da
import dask.system
import numpy as np
import psutil
from dask.utils import parse_bytes
from distributed import default_client
from distributed.system import MEMORY_LIMIT

from mksdask.compute.graph import check_known
from mksdask.compute.threads import OnWholeWorker
from mksdask.display.cards import card, value_text

# The statistics of a chunk of this many voxels take tens of megabytes for each pair. A worker of 1 GiB holds several of
# them.
CHUNK_VOXELS = 2**22
# Enough chunks to keep a few workers busy and a progress bar moving.
LEAST_CHUNKS = 8
# Share of its memory that a worker may fill. dask pauses a worker at 0.8.
BUSY = 0.8
MIB = 2**20
# Memory of a worker without its tasks: the interpreter, the libraries, and the compiler of kernels after its first use.
# Fresh workers took 290 to 380 MiB after small work with kernels that were compiled before, and 420 MiB otherwise. One
# that compiled all kernels of finite elements, one after the other, took 460 MiB.
PROCESS_BYTES = 448 * MIB
# Keys of the limits in dask's configuration: memory of a worker, and bytes of results that a process keeps.
MEMORY_LIMIT_KEY = "mksdask.memory-limit"
CACHE_LIMIT_KEY = "mksdask.cache-limit"
CACHE_LIMIT = "512MiB"

_WOULD_DO = "the smallest memory_limit that would do is"
_SINGLE = ("sync", "synchronous", "single-threaded")


def samples_per_chunk(n_samples: int, n_voxels: int) -> int:
    """Choose the number of samples in a chunk, and so in a task.

    Parameters
    ----------
    n_samples : int
        Samples in the ensemble.
    n_voxels : int
        Voxels in a sample.

    Returns
    -------
    int
        At least 1.

    Examples
    --------
    >>> samples_per_chunk(2000, 64**3), samples_per_chunk(1200, 21**2)
    (16, 150)
    """
    return max(1, min(CHUNK_VOXELS // max(1, n_voxels), -(-n_samples // LEAST_CHUNKS)))


def largest_divisor(number: int, limit: int) -> int:
    """Find the largest divisor of `number` that is at most `limit`. It is at least 1."""
    return next(d for d in range(min(number, max(1, limit)), 0, -1) if number % d == 0)


def values_of_a_thread(n_values: int, n_threads: int) -> int:
    """Count the values that a worker holds for each of its threads, while values of tasks are merged in a binary tree.

    In each level of the tree, one value waits for its partner. Values that were merged are freed when the scheduler has
    heard of the merge. By then, each thread has made two others.

    Examples
    --------
    >>> values_of_a_thread(32, 1), values_of_a_thread(32, 4)
    (8, 4)
    """
    levels = max(0, n_values - 1).bit_length()
    return -(-min(levels + 2 * n_threads + 1, 2 * n_values) // n_threads)


class DoesNotFitError(ValueError):
    """The error that is raised if an operation needs more memory than a task may take, however its data is cut.

    Attributes
    ----------
    worker_bytes, least_bytes : int
        Memory of the worker, and the smallest that would do, which the message names. 0 if it names none.
    """

    worker_bytes = least_bytes = 0

    def naming(self, least_bytes: int) -> DoesNotFitError:
        """Make the same error with another memory of a worker that would do."""
        before, after = (f"{_WOULD_DO} {n // MIB} MiB" for n in (self.least_bytes, least_bytes))
        error = DoesNotFitError(str(self).replace(before, after))
        error.worker_bytes, error.least_bytes = self.worker_bytes, least_bytes
        return error


@dataclass(frozen=True)
class Limit:
    """The memory of a worker, which its threads share.

    Parameters
    ----------
    worker_bytes : int
        Memory of the worker.
    n_threads : int
        Number of its threads, and so of tasks that run at once.
    held_bytes : int
        Bytes of each task that are taken already.
    """

    worker_bytes: int
    n_threads: int
    held_bytes: int = 0

    @classmethod
    def of(cls, memory_limit: int | str | None = None) -> Self:
        """Make the limit that is given, or find that of dask's configuration, of the cluster, or of this machine.

        If the workers of a cluster differ, the limit is that of the worker with the least memory for a task.

        Raises
        ------
        ValueError
            If `memory_limit` is no number of bytes.
        """
        if memory_limit is None:
            memory_limit = dask.config.get(MEMORY_LIMIT_KEY, None)
        given = None if memory_limit is None else bytes_argument(memory_limit)
        scheduler = dask.config.get("scheduler", None)
        if scheduler in (None, "dask.distributed", "distributed"):
            try:
                workers = default_client().scheduler_info(n_workers=-1)["workers"].values()
            except ValueError:
                workers = []
            limits = [cls(given or info["memory_limit"] or MEMORY_LIMIT, info["nthreads"]) for info in workers]
            if limits:
                return min(limits, key=lambda limit: limit.task_bytes)
        return cls(given or MEMORY_LIMIT, 1 if scheduler in _SINGLE else dask.system.CPU_COUNT)

    @property
    def task_bytes(self) -> int:
        """Bytes that a task may take, which are the share of one thread without what is taken already."""
        return max(0, int((BUSY * self.worker_bytes - PROCESS_BYTES) / self.n_threads) - self.held_bytes)

    def __str__(self) -> str:
        threads = f"{self.n_threads} thread" + "s" * (self.n_threads != 1)
        return (
            f"a worker of {size_text(self.worker_bytes)} with {threads} has {size_text(self.task_bytes)} for each task"
        )

    def refusal(self, needed: int, what: str, remedy: str) -> DoesNotFitError:
        """Make the error to raise if `what` needs more bytes than a task may take."""
        whole = replace(self, held_bytes=0)
        needed += self.held_bytes
        least = math.ceil((needed * self.n_threads + PROCESS_BYTES) / BUSY / MIB)
        # Bytes of a task are rounded down.
        least += replace(whole, worker_bytes=least * MIB).task_bytes < needed
        error = DoesNotFitError(
            f"memory_limit of {size_text(self.worker_bytes)} leaves {size_text(whole.task_bytes)} to a task beside "
            f"the {size_text(PROCESS_BYTES)} of the process, but {what} needs {size_text(needed)}; {_WOULD_DO} "
            f"{least} MiB. Raise it, use fewer threads for each worker, or {remedy}"
        )
        error.worker_bytes, error.least_bytes = self.worker_bytes, least * MIB
        return error


def refuse_unless_fits(needed: int, what: str, remedy: str) -> None:
    """Refuse what is computed in this process at once, and needs more memory than this machine has free.

    Raises
    ------
    DoesNotFitError
        If `what` needs more. The message says how much.
    """
    free = int(psutil.virtual_memory().available)
    if needed > free:
        msg = f"{what} needs {size_text(needed)} of memory, and {size_text(free)} are free; {remedy}"
        raise DoesNotFitError(msg)


def bytes_argument(limit: int | str, *, name: str = "memory_limit", least: int = 1) -> int:
    """Read a number of bytes, which may be a text such as "2GiB".

    Raises
    ------
    ValueError
        If it is no number of bytes, or less than `least`.
    """
    try:
        given = int(parse_bytes(limit)) if isinstance(limit, int | float | str) else int(limit)
    except (TypeError, ValueError, OverflowError):
        given = -1
    if given < least:
        msg = f"{name} must be a number of bytes, such as 2**31 or '2GiB', got {reprlib.repr(limit)}"
        raise ValueError(msg)
    return given


def cache_limit() -> int:
    """Bytes of results that a process keeps for later calls. 0 keeps none.

    Raises
    ------
    ValueError
        If dask's configuration holds no number of bytes.
    """
    return bytes_argument(dask.config.get(CACHE_LIMIT_KEY, CACHE_LIMIT), name=CACHE_LIMIT_KEY, least=0)


@dataclass(frozen=True)
class Stage:
    """All tasks of one kind.

    Parameters
    ----------
    name : str
        What the tasks do.
    n_tasks : int
        Number of tasks.
    task_bytes : int
        Peak memory of one task, with its input and with the results that wait in memory meanwhile.
    bytes_read, bytes_written : float
        Bytes that all tasks read and write, before compression.
    operations : float
        Approximate number of floating-point operations of all tasks.
    """

    name: str
    n_tasks: int
    task_bytes: int
    bytes_read: float = 0.0
    bytes_written: float = 0.0
    operations: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What an operation takes, as `plan` returns it.

    Parameters
    ----------
    operation : str
        Name of the operation.
    layout : mapping of str to object
        How data is cut, in the words of the operation: sizes of chunks, tiles and transforms.
    stages : tuple of Stage
        Kinds of tasks, in the order in which they run.
    limit : Limit
        The memory for which the plan was made.
    notes : tuple of str
        Further sentences for the reader.
    result_bytes : int
        Bytes of the result that the process of the caller holds. 0 for a lazy result.
    """

    operation: str
    layout: Mapping[str, Any]
    stages: tuple[Stage, ...]
    limit: Limit
    notes: tuple[str, ...] = ()
    result_bytes: int = 0

    @property
    def peak_bytes(self) -> int:
        """Largest memory of a task, in bytes."""
        return max(stage.task_bytes for stage in self.stages)

    @property
    def n_tasks(self) -> int:
        """Number of tasks of all stages."""
        return sum(stage.n_tasks for stage in self.stages)

    @property
    def bytes_read(self) -> float:
        """Bytes that all stages read, before compression."""
        return sum(stage.bytes_read for stage in self.stages)

    @property
    def bytes_written(self) -> float:
        """Bytes that all stages write, before compression."""
        return sum(stage.bytes_written for stage in self.stages)

    @property
    def operations(self) -> float:
        """Approximate number of floating-point operations of all stages."""
        return sum(stage.operations for stage in self.stages)

    def _rows(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [("stage", "tasks", "memory", "reads", "writes", "operations")]
        for stage in self.stages:
            found = (stage.task_bytes, stage.bytes_read, stage.bytes_written)
            sizes = [size_text(n) if n else "–" for n in found]
            operations = f"{stage.operations:.1e}" if stage.operations else "–"
            rows.append((stage.name, f"{stage.n_tasks:,}", *sizes, operations))
        return rows

    def _sentences(self) -> tuple[str, ...]:
        fits = f"A task takes at most {size_text(self.peak_bytes)}; {self.limit}."
        result = (f"The process of the caller holds {size_text(self.result_bytes)} of the result.",)
        return (fits, *(result if self.result_bytes else ()), *self.notes)

    def __str__(self) -> str:
        width = max((len(name) for name in self.layout), default=0)
        lines = [f"Plan of {self.operation}"]
        lines += [f"  {name:<{width}}  {value_text(value)}" for name, value in self.layout.items()]
        lines += ["", *(f"  {line}" for line in self._sentences()), ""]
        rows = self._rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for name, *cells in rows:
            padded = (f"{cell:>{w}}" for cell, w in zip(cells, widths[1:], strict=True))
            lines.append("  ".join([f"  {name:<{widths[0]}}", *padded]))
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return card(f"Plan of {self.operation}", self.layout, notes=self._sentences(), table=self._rows())


def size_text(n_bytes: float) -> str:
    """Write a number of bytes with three figures and a unit, such as "1.5 GiB"."""
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n_bytes >= size:
            return f"{n_bytes / size:.3g} {unit}" if n_bytes < 1000 * size else f"{n_bytes / size:.0f} {unit}"
    return f"{n_bytes:.0f} B"


@dataclass(frozen=True)
class SampleWork:
    """What a task on samples of an ensemble needs.

    Parameters
    ----------
    what : str
        What the task does. This is its name in plans and errors.
    input_bytes : int
        Bytes of one sample. A task holds all samples of its chunk.
    task_bytes : callable
        ``task_bytes(n)`` returns the peak bytes of a task on n samples, beyond its input.
    result_bytes : int
        Bytes of the result for one sample.
    operations : float
        Approximate number of floating-point operations for one sample.
    remedy : str
        What else would help if one sample does not fit.
    is_large : bool
        Whether the kernel of one sample can share its work among threads, and has enough of it.
    """

    what: str
    input_bytes: int
    task_bytes: Callable[[int], int]
    result_bytes: int
    operations: float = 0.0
    remedy: str = "take smaller samples"
    is_large: bool = False

    def peak(self, chunk: int, n: int) -> int:
        """Peak bytes of a task on n samples of a chunk."""
        return chunk * self.input_bytes + self.task_bytes(n)

    def samples_that_fit(self, chunk: int, limit: Limit) -> int:
        """Find how many samples of a chunk a task may take: all of them, or as many as fit.

        Raises
        ------
        DoesNotFitError
            If one sample does not fit. The message names the smallest limit that would do.
        """
        if self.peak(chunk, chunk) <= limit.task_bytes:
            return chunk
        if self.peak(chunk, 1) > limit.task_bytes:
            needed = self.peak(chunk, 1)
            if self.is_large:
                # One task at a time, while the others wait with their samples.
                needed += (limit.n_threads - 1) * chunk * self.input_bytes
                limit = replace(limit, n_threads=1)
                if needed <= limit.task_bytes:
                    return 1
            of_chunk = f" out of a chunk of {chunk}" if chunk > 1 else ""
            remedy = self.remedy + " in smaller chunks" * (chunk > 1)
            raise limit.refusal(needed, f"{self.what} of one sample{of_chunk}", remedy)
        low, high = 1, chunk
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.peak(chunk, middle) <= limit.task_bytes else (low, middle)
        return low

    def fitting(self, data: Any, limit: Limit | None = None) -> Any:
        """Cut the chunks of lazy samples that are too large for a task. Other data is returned as it is."""
        if not isinstance(data, da.Array) or any(np.isnan(data.chunks[0])) or not data.shape[0]:
            return data
        sizes, largest = data.chunks[0], max(data.chunks[0])
        n = self.samples_that_fit(largest, Limit.of() if limit is None else limit)
        if n >= largest:
            return data
        even = largest_divisor(largest, n)
        step = even if 2 * even >= n else -(-largest // -(-largest // n))
        return data.rechunk({0: tuple(min(step, size - start) for size in sizes for start in range(0, size, step))})

    def takes_worker(self, data: Any, limit: Limit) -> bool:
        """Decide whether each task has all threads of its worker, one task after the other.

        That is so for large samples in fewer chunks than a worker has threads, or of which one takes more memory than
        the share of a thread. A call on samples in memory has all threads, unless it runs in a thread beside others.
        """
        if not self.is_large or limit.n_threads == 1:
            return False
        if not isinstance(data, da.Array):
            return threading.current_thread() is threading.main_thread()
        chunks = self.fitting(data, limit).chunks[0]
        return len(chunks) < limit.n_threads or self.peak(max(data.chunks[0]), max(chunks)) > limit.task_bytes

    def kernel_on(self, kernel: Callable[..., Any], data: Any) -> Callable[..., Any]:
        """Return a kernel for samples, which has all threads of its worker if `takes_worker`.

        Raises
        ------
        DoesNotFitError
            If large samples in memory need more memory than this machine has free.
        """
        if self.is_large and not isinstance(data, da.Array):
            refuse_unless_fits(self.task_bytes(len(data)), f"{self.what} of {len(data)} samples", self.remedy)
        return OnWholeWorker(kernel) if self.takes_worker(data, Limit.of()) else kernel

    def stage(self, data: Any, limit: Limit) -> Stage:
        """Plan the tasks on all samples: chunks that fit for lazy samples, one call for samples in memory."""
        check_known(data)
        chunks = self.fitting(data, limit).chunks[0] if isinstance(data, da.Array) else (len(data),)
        chunk = max(data.chunks[0]) if isinstance(data, da.Array) else len(data)
        return Stage(
            self.what,
            len(chunks),
            self.peak(chunk, max(chunks)),
            float(len(data) * self.input_bytes),
            0.0,
            len(data) * self.operations,
        )


def thread_notes(work: SampleWork, data: Any, limit: Limit) -> tuple[str, ...]:
    """Make the notes of a plan on samples: whether a task has all threads of its worker."""
    if not work.takes_worker(data, limit):
        return ()
    share = size_text(Limit(limit.worker_bytes, 1).task_bytes)
    return (f"Each task has all {limit.n_threads} threads of its worker and their {share}, one after the other.",)


def chunk_layout(data: Any, stage: Stage) -> dict[str, Any]:
    """Make the layout of an operation on samples: the number of samples, in all and in a task."""
    layout: dict[str, Any] = {"samples": len(data), "sample": tuple(map(int, data.shape[1:]))}
    if isinstance(data, da.Array):
        return layout | {"samples of a chunk": max(data.chunks[0]), "samples of a task": -(-len(data) // stage.n_tasks)}
    return layout | {"in memory": "one call"}


def fft_operations(lengths: tuple[int, ...], *, real: bool) -> float:
    """Estimate the number of floating-point operations of a fast Fourier transform."""
    n = float(np.prod(lengths))
    return (2.5 if real else 5.0) * n * float(np.log2(max(n, 2.0)))
