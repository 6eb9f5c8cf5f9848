"""Blocks of lazy arrays are computed together, and one task writes each of them to a stored array."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeAlias

import dask
import dask.array as da
import numpy as np
import zarr
from dask.optimization import cull
from distributed import Client, Future, as_completed

from mksdask.compute.blocks import stage_of
from mksdask.compute.client import distributed_client, one_span, settled
from mksdask.compute.faults import retried, retries, telling
from mksdask.compute.graph import optimized_together
from mksdask.compute.waiting import waiting

# Position of a block, or of an object, along each axis.
Block: TypeAlias = tuple[int, ...]

# A block that could not be computed: the number of its array, its position, and the error.
Failure: TypeAlias = tuple[int, Block, str]


@dataclass(frozen=True)
class Writing:
    """The blocks of a lazy array, and the stored array to which they are written."""

    data: da.Array
    target: zarr.Array[Any]
    start: int = 0  # where the blocks begin in the stored array, along its first axis

    def blocks(self) -> list[Block]:
        """List the positions of all blocks."""
        return list(np.ndindex(*self.data.numblocks))

    @cached_property
    def edges(self) -> tuple[tuple[int, ...], ...]:
        """Where blocks begin along each axis of the data, and where the last one ends."""
        return tuple(tuple(np.cumsum((0, *sizes)).tolist()) for sizes in self.data.chunks)

    @property
    def starts(self) -> tuple[tuple[int, ...], ...]:
        """Where blocks begin along each axis of the stored array, and where the last one ends."""
        first, *others = self.edges
        return (tuple(edge + self.start for edge in first), *others)

    def region(self, block: Block) -> tuple[slice, ...]:
        """Select a block in the stored array."""
        return _region(self.starts, block)

    def objects(self, block: Block, shape: Sequence[int]) -> Iterator[Block]:
        """Yield the positions of the objects of this shape that make up a block."""
        spans = ((along[i], along[i + 1], step) for along, i, step in zip(self.edges, block, shape, strict=True))
        return itertools.product(*(range(first // step, -(-last // step)) for first, last, step in spans))

    def task(self, call: str) -> da.Array:
        """Make a lazy array of the same blocks. To compute one of its blocks is to write the block."""
        # The dashboard shows the name. It is a new name, so that the scheduler does not reuse a task that wrote to
        # another place.
        stage = stage_of(self.data)
        return self.data.map_blocks(
            partial(_write, starts=self.starts, n_retries=retries()),
            target=dask.delayed(self.target),
            chunks=tuple((1,) * n for n in self.data.numblocks),
            dtype=np.uint8,
            meta=np.empty((0,) * self.data.ndim, dtype=np.uint8),
            name=f"{stage}-store-{call}" if stage else f"store-{call}",
        )


def write_blocks(
    parts: Sequence[tuple[Writing, list[Block]]], *, in_memory: bool, failures: list[Failure] | None = None
) -> None:
    """Compute blocks of arrays together and write them, one task for each block.

    Parameters
    ----------
    parts : sequence of (Writing, list of Block)
        The arrays, and which blocks of each are written.
    in_memory : bool
        Whether all data are in memory. If so, this process writes them, even if there is a cluster.
    failures : list of (int, Block, str), optional
        If it is given, blocks that cannot be computed are added to it, and the others are written: the number of the
        array, the position of the block, and the error. Default: the first error is raised.
    """
    call = uuid.uuid4().hex
    settled(partial(_compute, parts, call, failures), tag=call, in_memory=in_memory)


def _compute(
    parts: Sequence[tuple[Writing, list[Block]]], call: str, failures: list[Failure] | None, **options: Any
) -> None:
    """Compute blocks and write them. The names of the tasks contain the name of the call."""
    writes = [part.task(f"{number}{call}") for number, (part, _) in enumerate(parts)]
    together = optimized_together(*writes, cuts=[part.data for part, _ in parts])
    places = [(number, block) for number, (_, blocks) in enumerate(parts) for block in blocks]
    tasks = [together[(writes[number].name, *block)] for number, block in places]
    client = distributed_client()
    if client is not None and not options:
        _compute_on(client, tasks, places, failures)
    elif failures is None:
        dask.compute(*tasks, **options)
    else:
        # One thread computes all that a block needs, so that an error concerns this block alone.
        with nullcontext(options["pool"]) if "pool" in options else ThreadPoolExecutor(1) as pool:
            errors = pool.map(_error_of, tasks)
            failures += [(*place, error) for place, error in zip(places, errors, strict=True) if error is not None]


def _error_of(task: Any) -> str | None:
    try:
        dask.compute(task, scheduler="sync")
    except Exception as error:
        return " ".join(str(error).split())
    return None


def _compute_on(
    client: Client, tasks: Sequence[Any], places: Sequence[tuple[int, Block]], failures: list[Failure] | None
) -> None:
    """Compute tasks on a cluster. The scheduler forgets each task once it is done.

    A worker that dies thus loses only its unfinished blocks.
    """
    keys = [task.key for task in tasks]
    graph = cull(dict(tasks[0].dask), keys)[0] if tasks else {}
    with one_span():
        # `client.compute` would note each task in the span, which the scheduler keeps.
        futures = client.get(graph, keys, sync=False)
    place_of = {future.key: place for future, place in zip(futures, places, strict=True)}
    pending = as_completed(futures)
    del futures
    failed: list[Future] = []
    try:
        with waiting(client, lambda: list(pending.futures)):
            for future in pending:
                if future.status == "finished":
                    continue
                failed.append(future)
                if failures is None or future.status != "error":
                    future.result()
                else:
                    failures.append((*place_of[future.key], " ".join(str(future.exception()).split())))
    except BaseException:
        client.cancel(list(pending.futures))
        raise
    finally:
        # Otherwise the scheduler would hold the error, and the next call would get it at once.
        if failed:
            client.cancel(failed)


def _region(starts: Sequence[Sequence[int]], block: Block) -> tuple[slice, ...]:
    return tuple(slice(along[i], along[i + 1]) for along, i in zip(starts, block, strict=True))


def _write(
    block: Any, *, target: zarr.Array[Any], starts: tuple[tuple[int, ...], ...], n_retries: int, block_id: Block
) -> Any:
    values, region = np.asarray(block), _region(starts, block_id)
    with telling(f"writing to {target.store}", is_last=False):
        retried(partial(target.__setitem__, region, values), n_retries)
    return np.zeros((1,) * len(block_id), dtype=np.uint8)
