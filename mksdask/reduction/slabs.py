"""Read a matrix in slabs of features. A slab holds some features of all samples.

The matrix may be in memory, on disk, or lazy. A pass over it is a *fold*: ``fold(slabs, *shared)`` takes an iterator of
``(number, slab)`` and returns one value. A task folds a run of slabs. The values of tasks are merged in a tree, which
depends only on how the matrix is cut.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from mksdask.arrays import Array
from mksdask.compute.blas import one_thread_of_blas
from mksdask.compute.blocks import computed, fold_parts, map_parts
from mksdask.storage.atomic import Url
from mksdask.storage.scratch import SpilledRows, slab_width, spill

Fold = Callable[..., Any]

# Number of values that are merged in a tree. It is fixed, so that repeated calls agree to the last bit.
RUNS = 32


class Slabs(ABC):
    """A matrix that is read in slabs."""

    @abstractmethod
    def reduce(
        self, fold: Fold, merge: Callable[[Any, Any], Any], *shared: Any, name: str, only: Sequence[int] | None = None
    ) -> Any:
        """Fold the slabs, and merge the values of all tasks.

        Parameters
        ----------
        fold : callable
            ``fold(slabs, *shared)``, as above.
        merge : callable
            ``merge(a, b)``, which must not change a or b.
        *shared
            Further arguments of `fold`. The graph holds them once.
        name : str
            Name of the stage, as the dashboard shows it.
        only : sequence of int, optional
            Numbers of the slabs to fold. Default: all.
        """

    @abstractmethod
    def each(self, fold: Fold, *shared: Any, name: str) -> list[Any]:
        """Fold the slabs, and return the value of each task, in the order of the features."""


@dataclass(frozen=True)
class MemorySlabs(Slabs):
    """A NumPy matrix."""

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
        """Fold all slabs in this process."""
        return fold(self._slabs(only), *shared)

    def each(self, fold: Fold, *shared: Any, name: str) -> list[Any]:
        """Fold each slab in this process."""
        return [fold(iter([slab]), *shared) for slab in self._slabs()]


class _LazySlabs(Slabs):
    """A matrix whose slabs are read by tasks."""

    @abstractmethod
    def runs(self, only: Sequence[int] | None, most: int | None) -> list[tuple[Any, Any]]:
        """List the arguments of `read` for each task.

        There is one task for each slab on disk or stripe. For slabs on disk, `most` limits the number of tasks.
        """

    @staticmethod
    @abstractmethod
    def read(source: Any, pieces: Any) -> Iterator[tuple[int, Array]]:
        """Read the slabs of a task."""

    def reduce(
        self, fold: Fold, merge: Callable[[Any, Any], Any], *shared: Any, name: str, only: Sequence[int] | None = None
    ) -> Any:
        """Fold runs of slabs in tasks, and merge their values in a tree."""
        kernel = partial(_fold_run, fold, type(self).read)
        with one_thread_of_blas():
            return computed(fold_parts(kernel, merge, self.runs(only, RUNS), name=name, shared=shared))

    def each(self, fold: Fold, *shared: Any, name: str) -> list[Any]:
        """Fold slabs in tasks."""
        kernel = partial(_fold_run, fold, type(self).read)
        with one_thread_of_blas():
            found: list[Any] = computed(map_parts(kernel, self.runs(None, None), name=name, shared=shared))
        return found


def _fold_run(fold: Fold, read: Callable[..., Any], source: Any, pieces: Any, *shared: Any) -> Any:
    return fold(read(source, pieces), *shared)


@dataclass(frozen=True)
class StoredSlabs(_LazySlabs):
    """A matrix on disk."""

    rows: SpilledRows

    def runs(self, only: Sequence[int] | None, most: int | None) -> list[tuple[Any, Any]]:
        """List runs of neighbouring slabs."""
        numbers = list(range(len(self.rows.slabs))) if only is None else list(only)
        step = 1 if most is None else -(-len(numbers) // most)
        return [(self.rows, numbers[start : start + step]) for start in range(0, len(numbers), step)]

    @staticmethod
    def read(source: SpilledRows, pieces: Sequence[int]) -> Iterator[tuple[int, Array]]:
        """Read slabs from the store."""
        matrix = source.open()
        for number in pieces:
            yield number, np.asarray(matrix[:, source.slabs[number]])


@dataclass(frozen=True)
class StripedSlabs(_LazySlabs):
    """A lazy matrix that is chunked in features. A task takes a stripe: all samples of one chunk of features.

    Parameters
    ----------
    matrix : dask array, shape (n_samples, n_features)
        The matrix.
    width : int
        Largest number of features in a slab. A stripe holds one or more slabs.
    """

    matrix: Any
    width: int

    @cached_property
    def _pieces(self) -> list[list[tuple[int, slice]]]:
        """For each stripe, the numbers of its slabs and their columns in the stripe."""
        pieces, number = [], 0
        for size in self.matrix.chunks[1]:
            starts = range(0, size, self.width)
            pieces.append([(number + i, slice(start, start + self.width)) for i, start in enumerate(starts)])
            number += len(starts)
        return pieces

    def runs(self, only: Sequence[int] | None, most: int | None) -> list[tuple[Any, Any]]:
        """List the stripes. Each is a task of its own, so that no stripe waits in memory for another one."""
        blocks = self.matrix.to_delayed(optimize_graph=False)
        wanted = None if only is None else set(only)
        chosen = [[piece for piece in pieces if wanted is None or piece[0] in wanted] for pieces in self._pieces]
        return [(list(blocks[:, stripe]), pieces) for stripe, pieces in enumerate(chosen) if pieces]

    @staticmethod
    def read(source: Sequence[Array], pieces: Sequence[tuple[int, slice]]) -> Iterator[tuple[int, Array]]:
        """Cut the slabs from the chunks of a stripe."""
        for number, columns in pieces:
            yield number, np.concatenate([block[:, columns] for block in source])


@contextmanager
def slabs_of(data: Any, width: int, scratch: Url | None, resume: str | None = None) -> Iterator[Slabs]:
    """Read any matrix in slabs.

    A lazy matrix that is chunked in features is read in stripes. A lazy matrix whose chunks are whole rows is copied to
    disk first. `spill` says when the copy is removed.

    Parameters
    ----------
    data : array, shape (n_samples, n_features)
        The matrix, NumPy or dask.
    width : int
        Largest number of features in a slab of lazy data. 0 if the matrix is in memory.
    scratch, resume
        Of the copy, as in `spill`.

    Yields
    ------
    Slabs
    """
    if not width:
        yield MemorySlabs(data)
    elif data.numblocks[1] > 1:
        yield StripedSlabs(data, width)
    else:
        with spill(data, scratch, width=width, resume=resume) as rows:
            yield StoredSlabs(rows)
