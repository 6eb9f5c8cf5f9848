"""The rows of a catalogue that are nearest to others, a chunk of it at a time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.utils.validation import check_is_fitted

from mksdask.arrays import Array, ArrayLike, to_numpy, unwrap
from mksdask.compute.blocks import check_whole_samples, computed, fold_samples

# Distances of queries to the rows of a chunk that are held at once.
DISTANCE_BYTES = 2**25

# Distances, rising, and rows, (n_queries, ≤ n) each; and the number of rows among which they were sought.
Found = tuple[NDArray[np.float64], NDArray[np.intp], int]


def nearest_rows(queries: NDArray[np.float64], catalogue: Any, n: int) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """The n rows nearest to each query, by Euclidean distance.

    Parameters
    ----------
    queries : ndarray, shape (n_queries, n_components)
        Scores.
    catalogue : array, shape (n_rows, n_components)
        Scores, NumPy or dask.
    n : int
        How many; fewer if the catalogue has fewer.

    Returns
    -------
    distances, rows : ndarray, shape (n_queries, ≤ n)
        The nearest first; of rows as near as each other, the first.

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
    check_whole_samples(catalogue, name="among")
    kernel, merge = partial(_nearest_of_block, n=n), partial(_merge, n=n)
    found = fold_samples(kernel, merge, catalogue, name="nearest", shared=(queries,))
    distances, rows, _ = computed(found)
    return distances, rows


def _nearest_of_block(rows: Array, queries: NDArray[np.float64], n: int) -> Found:
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
            distances[query], indices[query] = of_rows[order], order
    return distances, indices, len(rows)


def _merge(a: Found, b: Found, n: int) -> Found:
    """The nearest among the rows of both, those of b after those of a."""
    distances, indices = np.concatenate([a[0], b[0]], axis=1), np.concatenate([a[1], b[1] + a[2]], axis=1)
    # By distance, and by row where these are equal.
    order = np.lexsort((indices, distances), axis=1)[:, :n]
    return np.take_along_axis(distances, order, axis=1), np.take_along_axis(indices, order, axis=1), a[2] + b[2]


class NearestMixin:
    """Adds `nearest` to a structure analysis: the samples of a catalogue that are most like others."""

    def nearest(
        self: Any,
        X_query: ArrayLike,
        n: int = 5,
        *,
        among: ArrayLike | None = None,
        size: Sequence[int] | None = None,
        confidence_index: ArrayLike | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
        """The samples of a catalogue that are most like others: nearest in the space of scores.

        Parameters
        ----------
        X_query : array, shape (n_queries, *spatial) or flat
            Local state of each voxel.
        n : int, default 5
            How many, or all if the catalogue has fewer.
        among : array, shape (n_catalogue, n_components) or (n_catalogue, *spatial), optional
            The catalogue: scores, as `transform` gives them, or samples; computed once, a chunk at a time. Default: the
            samples of `fit`.
        size : tuple of int, optional
            Spatial shape of flat queries; default that of `fit`.
        confidence_index : array, shape (n_queries, *spatial), flat, or (*spatial,), optional
            Confidence in each voxel of the queries.

        Returns
        -------
        distances : ndarray, shape (n_queries, n)
            Euclidean distances of scores, rising.
        indices : ndarray, shape (n_queries, n)
            Rows of the catalogue; of rows as near as each other, the first.

        Notes
        -----
        Memory is that of a chunk of the catalogue, and of 16 n_queries n bytes for each chunk that is not merged yet.

        Examples
        --------
        >>> from mksdask import PrimitiveBasis
        >>> from mksdask.datasets import make_microstructure
        >>> X = make_microstructure(n_samples=12, size=(13, 13), grain_size=(3, 3))
        >>> analysis = MKSStructureAnalysis(PrimitiveBasis(2), n_components=3, periodic_axes=[0, 1]).fit(X)
        >>> distances, indices = analysis.nearest(X[4:6], n=2)
        >>> indices[:, 0]
        array([4, 5])
        """
        check_is_fitted(self, "dimension_reducer_")
        queries = to_numpy(self.transform(X_query, size, confidence_index)).astype(np.float64)
        catalogue: Any = self.reduced_fit_data if among is None else unwrap(among, name="among")[0]
        return nearest_rows(queries, catalogue if catalogue.ndim == 2 else unwrap(self.transform(among))[0], n)
