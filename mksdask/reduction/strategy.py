"""Choose how PCA is fitted within a limit of memory: by which solver, and how the data is cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from mksdask.arrays import is_lazy
from mksdask.compute.blocks import check_whole_samples
from mksdask.compute.plans import DoesNotFitError, Limit, Stage, values_of_a_thread
from mksdask.reduction.sketch import Sketch, sketch_rank
from mksdask.reduction.slabs import RUNS
from mksdask.storage.scratch import LEAST_WIDTH, SLAB_BYTES, slab_width


class Reducer(Protocol):
    """The parameters of a PCA on which its strategy depends."""

    n_components: int | float | None
    solver: str
    oversampling: int | None
    iterated_power: int


@dataclass(frozen=True)
class Strategy:
    """A way to fit PCA.

    Parameters
    ----------
    solver : {"gram", "incremental", "randomized"}
        The solver.
    stages : tuple of Stage
        The tasks of a fit.
    by_samples : bool
        Whether the data is read in chunks of whole rows. Otherwise it is read in slabs of features.
    width : int
        Features of a slab. 0 if the data is not cut into slabs.
    rows : int
        Samples of a chunk. 0 if the data is not cut into rows.
    """

    solver: str
    stages: tuple[Stage, ...]
    by_samples: bool
    width: int = 0
    rows: int = 0

    @classmethod
    def of(cls, pca: Reducer, data: Any, limit: Limit, first: Stage | None = None) -> Strategy:
        """Choose the first strategy that fits.

        Parameters
        ----------
        pca : PCA
            Its parameters.
        data : array, shape (n_samples, n_features)
            The matrix to reduce.
        limit : Limit
            The memory of a worker.
        first : Stage, optional
            The stage that makes the features, if it is more than reading them.

        Raises
        ------
        DoesNotFitError
            If nothing fits. The message names the smallest limit with which a strategy would fit.
        """
        n, p = map(int, data.shape)
        k = min(n, p) if pca.n_components is None or pca.n_components < 1 else int(pca.n_components)
        solvers = [pca.solver]
        if pca.solver == "auto":
            solvers = [
                "gram",
                *(["incremental", "randomized"] if isinstance(pca.n_components, int | np.integer) else []),
            ]
        rank = sketch_rank(k, pca.oversampling)
        if not is_lazy(data):
            small, itemsize = 8 * min(n, p) ** 2, data.dtype.itemsize
            whole = Stage("PCA in memory", 1, n * p * 8 + 3 * small, n * p * itemsize, 0.0, float(p) * n * min(n, p))
            by_samples = solvers[0] == "incremental" or (solvers[0] == "gram" and p <= n)
            return cls(solvers[0], (whole,) if first is None else (first, whole), by_samples=by_samples)
        refusals = []
        for solver in solvers:
            try:
                if solver == "incremental" or (solver == "gram" and p <= n):
                    return cls._in_rows(solver, data, rank, k, limit, first)
                columns, passes = (n, 1) if solver == "gram" else (min(n, p, rank), pca.iterated_power + 1)
                return cls._in_slabs(solver, data, columns, passes, k, limit, first)
            except DoesNotFitError as refusal:
                refusals.append(refusal)
        raise min(refusals, key=lambda refusal: refusal.least_bytes)

    @classmethod
    def _in_rows(cls, solver: str, data: Any, rank: int, k: int, limit: Limit, first: Stage | None) -> Strategy:
        """Plan chunks of whole rows."""
        (n, p), itemsize, rows = map(int, data.shape), data.dtype.itemsize, max(data.chunks[0])
        is_gram, is_cut = solver == "gram", data.numblocks[1] > 1
        # A value of the tree is one triangle of the scatter matrix, or a sketch. The merge of sketches factors both.
        value = 4 * p * p if is_gram else 8 * rank * p
        merge = value if is_gram else value + Sketch.bytes_beside(2 * rank + 1, p)

        def scores_on(rows: int) -> int:
            return rows * (p * (itemsize * (2 + is_cut) + 8) + 8 * k)

        def peak_on(rows: int) -> int:
            # Rows that are put together from several chunks are in memory twice.
            block = rows * p * itemsize * (1 + is_cut)
            beside = 8 * rows * p + 12 * p * p if is_gram else Sketch.bytes_beside(rows, p) + value
            own = block + beside if first is None else max(block + beside, first.task_bytes + beside)
            return max(own, merge) + values_of_a_thread(-(-n // rows), limit.n_threads) * value

        if is_cut:
            # The number of rows can be chosen to fit, because they are put together in any case.
            # Fewer rows are more tasks, whose values wait to be merged.
            needed = {r: max(peak_on(r), scores_on(r)) for r in _halves(rows)}
            fits = (r for r, n_bytes in needed.items() if n_bytes <= limit.task_bytes)
            rows = next(fits, min(needed, key=needed.__getitem__))
        peak, scores = peak_on(rows), scores_on(rows)
        if max(peak, scores) > limit.task_bytes:
            what = f"reducing {p} features in chunks of {rows} samples by the {solver} solver"
            raise limit.refusal(max(peak, scores), what, "rechunk X to fewer samples in each chunk")
        n_tasks, read = -(-n // rows), float(n * p * itemsize)
        name = "moments" if solver == "gram" else "sketches"
        stages = (
            Stage(name, n_tasks, peak, read, 0.0, 4.0 * n * p * (p if solver == "gram" else max(data.chunks[0])) / 2),
            Stage("scores", n_tasks, scores, read),
        )
        return cls(solver, stages, by_samples=True, rows=rows)

    @classmethod
    def _in_slabs(
        cls, solver: str, data: Any, columns: int, passes: int, k: int, limit: Limit, first: Stage | None
    ) -> Strategy:
        """Plan slabs of features that fit beside the sums, which are matrices of so many columns."""
        (n, p), itemsize, rows = data.shape, data.dtype.itemsize, max(data.chunks[0])
        is_striped, matrix = data.numblocks[1] > 1, float(data.nbytes)
        stripe = n * max(data.chunks[1]) * itemsize if is_striped else 0
        if first is None:
            first = Stage("write rows", len(data.chunks[0]), 2 * rows * p * itemsize, matrix)
        n_values = data.numblocks[1] if is_striped else RUNS
        # Of a Gram matrix, one triangle waits in the tree. A task has the matrix, working memory, and the triangle.
        value, own = (4 * n * n, 16 * n * n) if solver == "gram" else (8 * n * columns, 32 * n * columns)
        kept = own + values_of_a_thread(n_values, limit.n_threads) * value
        # Bytes of the vectors that project a slab onto the components.
        vectors = 8 * (k + 1) * n
        beside = stripe + max(kept, vectors)
        least = beside + min(p, LEAST_WIDTH) * n * 2 * itemsize
        if max(least, 0 if is_striped else first.task_bytes) > limit.task_bytes:
            least = max(least, 0 if is_striped else first.task_bytes)
            chunk = f"{max(data.chunks[1])} features" if is_striped else f"{rows} samples"
            fewer = "features" if is_striped else "samples"
            what = f"reducing {n} samples of {p} features in chunks of {chunk} by the {solver} solver"
            raise limit.refusal(
                least, what, f"reduce fewer samples at once, or rechunk X to fewer {fewer} in each chunk"
            )
        width = slab_width(n, p, data.dtype, min(SLAB_BYTES, limit.task_bytes - beside))
        n_tasks = data.numblocks[1] if is_striped else -(-p // width)
        slab = stripe + n * min(width, p) * 2 * itemsize
        name = "Gram matrix" if solver == "gram" else "subspace"
        n_runs = n_tasks if is_striped else min(RUNS, n_tasks)
        reading = Stage(name, n_runs, slab + kept, passes * matrix, 0.0, passes * float(p) * n * columns)
        components = Stage("components", n_tasks, slab + vectors, matrix, 0.0, 2.0 * p * n * k)
        copying = () if is_striped else (replace(first, bytes_written=matrix),)
        return cls(solver, (*copying, reading, components), by_samples=False, width=width)

    def rows_of(self, data: Any) -> Any:
        """Rechunk lazy data so that each chunk holds whole rows."""
        if not is_lazy(data):
            return data
        if data.numblocks[1] > 1:
            data = data.rechunk((self.rows, -1))
        check_whole_samples(data)
        return data


def _halves(rows: int) -> Iterator[int]:
    while rows:
        yield rows
        rows //= 2


def result_bytes_of(shape: tuple[int, int], n_components: int | float | None, itemsize: int) -> int:
    """Count the bytes that scores and components take in the process of the caller while they are put together."""
    k = min(shape) if n_components is None or n_components < 1 else int(n_components)
    return int(2 * 8 * k * shape[0] + itemsize * k * shape[1] + 2 * (itemsize * k + 8) * shape[1])
