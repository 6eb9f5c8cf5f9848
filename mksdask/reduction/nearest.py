"""The rows of a catalogue that are nearest to others, a chunk of it at a time."""

from __future__ import annotations

import uuid
from functools import partial
from typing import Any

import dask
import dask.array as da
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from mksdask.arrays import Array
from mksdask.compute.blocks import check_whole_samples, merge_tree
from mksdask.compute.graph import delayed_blocks

# Distances of queries to the rows of a chunk that are held at once.
DISTANCE_BYTES = 2**25

# Distances, rising, and rows of the catalogue: (n_queries, ≤ n) each.
Found = tuple[NDArray[np.float64], NDArray[np.intp]]


def nearest_rows(queries: NDArray[np.float64], catalogue: Any, n: int) -> Found:
    """The n rows nearest to each query, by Euclidean distance.

    Parameters
    ----------
    queries : ndarray, shape (n_queries, n_components)
        Scores.
    catalogue : array, shape (n_rows, n_components)
        Scores, NumPy or dask.
    n : int
        How many; fewer if the catalogue has fewer.

    Raises
    ------
    ValueError
        If n is not positive, or the catalogue has another number of components.
    """
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        msg = f"n must be a positive integer, got {n!r}"
        raise ValueError(msg)
    if catalogue.ndim != 2 or catalogue.shape[1] != queries.shape[1] or 0 in catalogue.shape:
        msg = (
            f"among must hold scores (n_catalogue, {queries.shape[1]}), as transform gives them, or samples of the "
            f"size that fit saw; got shape {tuple(catalogue.shape)}"
        )
        raise ValueError(msg)
    if not isinstance(catalogue, da.Array):
        return _nearest_of_block(catalogue, queries, n, 0)
    check_whole_samples(catalogue, name="among")
    token, (blocks,) = uuid.uuid4().hex, delayed_blocks(catalogue)
    shared, kernel = dask.delayed(queries), dask.delayed(_nearest_of_block, name=f"nearest-kernel-{token}")
    starts = np.cumsum((0, *catalogue.chunks[0]))
    parts = [
        kernel(block, shared, n, int(start), dask_key_name=f"nearest-{token}-{number}")
        for number, (block, start) in enumerate(zip(blocks, starts[:-1], strict=True))
    ]
    found: Found = merge_tree(parts, partial(_merge, n=n), name=f"merge-nearest-{token}").compute()
    return found


def _nearest_of_block(rows: Array, queries: NDArray[np.float64], n: int, start: int) -> Found:
    if not np.isfinite(rows).all():
        msg = "among holds NaN or infinite scores; leave these rows out"
        raise ValueError(msg)
    n = min(n, len(rows))
    distances, indices = np.empty((len(queries), n)), np.empty((len(queries), n), dtype=np.intp)
    step = max(1, DISTANCE_BYTES // (8 * len(rows)))
    for first in range(0, len(queries), step):
        found = cdist(queries[first : first + step], rows)
        farthest = np.partition(found, n - 1, axis=1)[:, n - 1]
        for query, (of_rows, limit) in enumerate(zip(found, farthest, strict=True), first):
            # Of rows as near as each other, the first; so that chunks make no difference.
            near = np.flatnonzero(of_rows <= limit)
            order = near[np.argsort(of_rows[near], kind="stable")[:n]]
            distances[query], indices[query] = of_rows[order], order + start
    return distances, indices


def _merge(a: Found, b: Found, n: int) -> Found:
    distances, indices = (np.concatenate(pair, axis=1) for pair in zip(a, b, strict=True))
    distances, indices = _sorted(distances, indices)
    return distances[:, :n], indices[:, :n]


def _sorted(distances: NDArray[np.float64], indices: NDArray[np.intp]) -> Found:
    """By distance, and by row where these are equal."""
    order = np.lexsort((indices, distances), axis=1)
    return np.take_along_axis(distances, order, axis=1), np.take_along_axis(indices, order, axis=1)
