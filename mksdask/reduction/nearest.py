"""Find the rows of a catalogue that are nearest to other rows, one chunk of the catalogue at a time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.utils.validation import check_is_fitted

from mksdask.arrays import Array, ArrayLike, is_lazy, is_trial_of_dask_ml, label, to_numpy, unwrap
from mksdask.compute.blocks import check_whole_samples, computed, fold_samples, map_samples
from mksdask.reduction.extrapolation import Seen, warn_of_far
from mksdask.schema.arguments import checked

# Bytes of the distances between queries and rows that are held at once.
DISTANCE_BYTES = 2**25

# Distances in rising order, and rows, both of shape (n_queries, ≤ n); and the number of rows that were searched.
Found = tuple[NDArray[np.float64], NDArray[np.intp], int]


def nearest_rows(queries: NDArray[np.float64], catalogue: Any, n: int) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Find the n rows that are nearest to each query, by Euclidean distance.

    Parameters
    ----------
    queries : ndarray, shape (n_queries, n_components)
        Scores of the queries.
    catalogue : array, shape (n_rows, n_components)
        Scores of the catalogue, NumPy or dask.
    n : int
        Number of rows to find. All rows are found if the catalogue has fewer.

    Returns
    -------
    distances, rows : ndarray, shape (n_queries, ≤ n)
        Distances and row numbers, nearest first. Rows at the same distance are in the order of the catalogue.

    Raises
    ------
    ValueError
        If n is not positive, if the catalogue has another number of components, or if it holds NaN or infinite values.
    """
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        msg = f"n must be a positive integer, got {n!r}"
        raise ValueError(msg)
    if catalogue.ndim != 2 or catalogue.shape[1] != queries.shape[1] or 0 in catalogue.shape:
        msg = (
            f"among must hold scores of shape (n_catalogue, {queries.shape[1]}), as transform returns them, or samples "
            f"of the size that fit saw, got shape {tuple(catalogue.shape)}"
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
            # Rows at the same distance keep their order, so that the result does not depend on the chunks.
            near = np.flatnonzero(of_rows <= limit)
            order = near[np.argsort(of_rows[near], kind="stable")[:n]]
            distances[query], indices[query] = of_rows[order], order
    return distances, indices, len(rows)


def _merge(a: Found, b: Found, n: int) -> Found:
    """Merge the nearest rows of two runs of the catalogue, where the rows of b follow those of a."""
    distances, indices = np.concatenate([a[0], b[0]], axis=1), np.concatenate([a[1], b[1] + a[2]], axis=1)
    # Sorted by distance, and rows at the same distance by their number.
    order = np.lexsort((indices, distances), axis=1)[:, :n]
    return np.take_along_axis(distances, order, axis=1), np.take_along_axis(indices, order, axis=1), a[2] + b[2]


class NearestMixin:
    """Adds `nearest` and `distance` to a structure analysis."""

    def distance(
        self: Any, X: ArrayLike, size: Sequence[int] | None = None, confidence_index: ArrayLike | None = None
    ) -> Any:
        """Tell how far samples lie from those of `fit`, lazily for lazy input. A model knows little of far samples.

        Parameters
        ----------
        X, size, confidence_index
            As in `transform`.

        Returns
        -------
        array of the kind of `X`, shape (n_samples,)
            How far the scores of a sample lie outside of the range of those of `fit`, in standard deviations of `fit`.
            The largest of the components counts. It is 0 for a sample within the range. A sample above 1 is unlike
            those of `fit`. It is 0 for all if `fit` saw too few samples to tell: fewer than two for each component.

        Notes
        -----
        The distance is in the space of scores. It does not see what the components leave out, and it does not see gaps
        between groups of samples.

        Examples
        --------
        >>> from mksdask import MKSStructureAnalysis, PrimitiveBasis
        >>> from mksdask.datasets import make_microstructure
        >>> X = make_microstructure(n_samples=40, size=(21, 21), grain_size=(3, 3), seed=0)
        >>> analysis = MKSStructureAnalysis(PrimitiveBasis(2), n_components=3, periodic_axes=[0, 1]).fit(X)
        >>> bool(analysis.distance(X).max() < 0.01), bool(analysis.distance(X[:1] * 0) > 1.0)
        (True, True)
        """
        return self.distance_of_scores(self.transform(X, size, confidence_index))

    def distance_of_scores(self: Any, scores: Any) -> Any:
        """Compute the distances of scores that `transform` has returned."""
        data, labels = unwrap(scores, name="scores")
        kernel = Seen.of(self.reduced_fit_data)
        found = map_samples(kernel, data, tail=(), dtype=np.float64, name="distance")
        return label(found, labels, dims=(), coords={}, name="distance")

    def _warn_of_far(self: Any, scores: Any) -> None:
        """Warn if scores in memory lie far from those of `fit`."""
        if not is_lazy(scores) and not is_trial_of_dask_ml():
            warn_of_far(to_numpy(self.distance_of_scores(scores)))

    @checked
    def nearest(
        self: Any,
        X_query: ArrayLike,
        n: int = 5,
        *,
        among: ArrayLike | None = None,
        size: Sequence[int] | None = None,
        confidence_index: ArrayLike | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
        """Find the samples of a catalogue that are most similar to other samples: the nearest in the space of scores.

        Parameters
        ----------
        X_query : array, shape (n_queries, *spatial) or flat
            Local state of each voxel of the queries.
        n : int, default 5
            Number of samples to find for each query. All samples are found if the catalogue has fewer.
        among : array, shape (n_catalogue, n_components) or (n_catalogue, *spatial), optional
            The catalogue: scores, as `transform` returns them, or samples. It is read once, one chunk at a time.
            Default: the samples of `fit`.
        size : tuple of int, optional
            Spatial shape of flat queries. Default: that of `fit`.
        confidence_index : array, shape (n_queries, *spatial), flat, or (*spatial,), optional
            Confidence in each voxel of the queries.

        Returns
        -------
        distances : ndarray, shape (n_queries, n)
            Euclidean distances of scores, in rising order.
        indices : ndarray, shape (n_queries, n)
            Rows of the catalogue. Rows at the same distance are in the order of the catalogue.

        Raises
        ------
        ValueError
            As `nearest_rows` and `transform` raise it.

        Notes
        -----
        This takes the memory of a chunk of the catalogue, and 16 n_queries n bytes for each chunk that is not yet
        merged.

        Examples
        --------
        >>> from mksdask import MKSStructureAnalysis, PrimitiveBasis
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
