"""A matrix by slabs of features, all samples × some features at a time, wherever it lies.

A pass is a *fold*: ``fold(slabs, *shared)`` goes over an iterator of ``(number, slab)`` and returns one value. A task
folds a run of slabs; what the tasks return is merged in a tree that the layout alone fixes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from mksdask.arrays import Array, is_lazy
from mksdask.compute.blocks import computed, fold_parts, map_parts
from mksdask.compute.workers import one_thread_of_blas
from mksdask.storage.atomic import Url
from mksdask.storage.scratch import SpilledRows, slab_width, spill

Fold = Callable[..., Any]

# Partial results that are merged in a tree; fixed, so that repeated runs agree to the last bit.
RUNS = 32


class Slabs(ABC):
    """A matrix that is read by slabs."""

    @abstractmethod
    def reduce(
        self, fold: Fold, merge: Callable[[Any, Any], Any], *shared: Any, name: str, only: Sequence[int] | None = None
    ) -> Any:
        """One pass whose parts are merged.

        Parameters
        ----------
        fold : callable
            ``fold(slabs, *shared)``.
        merge : callable
            ``merge(a, b)``, which leaves both as they are.
        *shared
            Further arguments, once in the graph.
        name : str
            Name of the stage, as the dashboard shows it.
        only : sequence of int, optional
            Numbers of the slabs to go over. Default: all.
        """

    @abstractmethod
    def each(self, fold: Fold, *shared: Any, name: str) -> list[Any]:
        """One pass; what each task returns, in the order of features."""


@dataclass(frozen=True)
class MemorySlabs(Slabs):
    """Slabs of a NumPy matrix."""

    matrix: Array

    def _slabs(self, only: Sequence[int] | None = None) -> Iterator[tuple[int, Array]]:
        n_samples, n_features = self.matrix.shape
        width = slab_width(n_samples, n_features, self.matrix.dtype)
        for number, start in enumerate(range(0, self.matrix.shape[1], width)):
            if only is None or number in only:
                yield number, self.matrix[:, start : start + width]

    def reduce(
        self, fold: Fold, merge: Callable[[Any, Any], Any], *shared: Any, name: str, only: Sequence[int] | None = None
    ) -> Any:
        """In this process."""
        return fold(self._slabs(only), *shared)

    def each(self, fold: Fold, *shared: Any, name: str) -> list[Any]:
        """In this process."""
        return [fold(iter([slab]), *shared) for slab in self._slabs()]


class _LazySlabs(Slabs):
    """Slabs that tasks read."""

    @abstractmethod
    def runs(self, only: Sequence[int] | None, most: int | None) -> list[tuple[Any, Any]]:
        """Arguments of `read` for each task: at most `most`, or as many as the layout allows."""

    @staticmethod
    @abstractmethod
    def read(source: Any, pieces: Any) -> Iterator[tuple[int, Array]]:
        """The slabs of a task."""

    def reduce(
        self, fold: Fold, merge: Callable[[Any, Any], Any], *shared: Any, name: str, only: Sequence[int] | None = None
    ) -> Any:
        """By tasks, merged in a tree."""
        kernel = partial(_fold_run, fold, type(self).read)
        with one_thread_of_blas():
            return computed(fold_parts(kernel, merge, self.runs(only, RUNS), name=name, shared=shared))

    def each(self, fold: Fold, *shared: Any, name: str) -> list[Any]:
        """By tasks."""
        kernel = partial(_fold_run, fold, type(self).read)
        with one_thread_of_blas():
            found: list[Any] = computed(map_parts(kernel, self.runs(None, None), name=name, shared=shared))
        return found


def _fold_run(fold: Fold, read: Callable[..., Any], source: Any, pieces: Any, *shared: Any) -> Any:
    return fold(read(source, pieces), *shared)


@dataclass(frozen=True)
class StoredSlabs(_LazySlabs):
    """Slabs of a matrix on disk."""

    rows: SpilledRows

    def runs(self, only: Sequence[int] | None, most: int | None) -> list[tuple[Any, Any]]:
        """Slabs next to one another."""
        numbers = list(range(len(self.rows.slabs))) if only is None else list(only)
        step = 1 if most is None else -(-len(numbers) // most)
        return [(self.rows, numbers[start : start + step]) for start in range(0, len(numbers), step)]

    @staticmethod
    def read(source: SpilledRows, pieces: Sequence[int]) -> Iterator[tuple[int, Array]]:
        """From the store."""
        matrix = source.open()
        for number in pieces:
            yield number, np.asarray(matrix[:, source.slabs[number]])


@dataclass(frozen=True)
class StripedSlabs(_LazySlabs):
    """Slabs of a lazy matrix that is chunked in features: a task takes a stripe, all samples of a chunk of features."""

    matrix: Any  # a dask array
    width: int  # features of a slab, of which a stripe holds one or more

    @cached_property
    def _pieces(self) -> list[list[tuple[int, slice]]]:
        """Number, and columns in its stripe, of each slab of each stripe."""
        pieces, number = [], 0
        for size in self.matrix.chunks[1]:
            starts = range(0, size, self.width)
            pieces.append([(number + i, slice(start, start + self.width)) for i, start in enumerate(starts)])
            number += len(starts)
        return pieces

    def runs(self, only: Sequence[int] | None, most: int | None) -> list[tuple[Any, Any]]:
        """Stripes: one run each, since the sum of two need not wait in memory."""
        blocks = self.matrix.to_delayed(optimize_graph=False)
        wanted = None if only is None else set(only)
        chosen = [[piece for piece in pieces if wanted is None or piece[0] in wanted] for pieces in self._pieces]
        return [(list(blocks[:, stripe]), pieces) for stripe, pieces in enumerate(chosen) if pieces]

    @staticmethod
    def read(source: Sequence[Array], pieces: Sequence[tuple[int, slice]]) -> Iterator[tuple[int, Array]]:
        """From the chunks of a stripe."""
        for number, columns in pieces:
            yield number, np.concatenate([block[:, columns] for block in source])


@contextmanager
def slabs_of(data: Any, width: int, scratch: Url | None, resume: str | None = None) -> Iterator[Slabs]:
    """Slabs of a matrix: of one in memory, of stripes of a lazy one, or, if its chunks are whole rows, of a copy.

    Parameters
    ----------
    data : array, shape (n_samples, n_features)
        NumPy or dask.
    width : int
        Features of a slab of lazy data, at most.
    scratch : str or path, optional
        Where the copy is made; see `spill`.
    resume : str, optional
        As there.
    """
    if not is_lazy(data):
        yield MemorySlabs(data)
    elif data.numblocks[1] > 1:
        yield StripedSlabs(data, width)
    else:
        with spill(data, scratch, width=width, resume=resume) as rows:
            yield StoredSlabs(rows)
