"""Principal components of data that arrive in pieces, or that are too large for an exact reduction.

A sketch summarizes a piece: it holds its mean, its leading singular directions scaled by their singular values, and its
exact scatter. Two sketches merge into the sketch of both pieces. A merge loses the directions beyond the rank.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from mksdask.arrays import ArrayLike, shown
from mksdask.reduction.projection import Projection, matrix_of
from mksdask.reduction.sketch import Sketch, sketch_rank, sketch_rows
from mksdask.schema import FLAG, NOTHING, Part, Saved, Whole
from mksdask.schema.arguments import checked
from mksdask.storage.atomic import Url
from mksdask.storage.models import read_state, write_state

# Mark of the stores that `save` writes.
KIND = "incremental-pca"


class IncrementalPCA(Projection):
    r"""Principal component analysis of rows that arrive over time, or that are too many for an exact analysis.

    Parameters
    ----------
    n_components : int
        Number of components.
    oversampling : int, optional
        Directions that sketches keep beyond `n_components`. Default: ``max(40, 2 * n_components)``.
    whiten : bool, default False
        Scale scores to unit variance.

    Attributes
    ----------
    components_ : ndarray, shape (n_components_, n_features)
        Components, float64, in orthonormal rows. The entry of largest magnitude in a row is positive. If the data vary
        in fewer directions, arbitrary orthonormal rows complete the others.
    mean_ : ndarray, shape (n_features,)
        Exact mean of each feature, float64.
    singular_values_, explained_variance_, explained_variance_ratio_ : ndarray, shape (n_components_,)
        Singular values and variances in falling order, and the variances divided by the exact total variance, float64.
    noise_variance_ : float
        Mean variance of the directions that are left out.
    n_components_, n_features_in_, n_samples_seen_ : int
        Number of components, features and samples.

    Notes
    -----
    A sketch keeps the `n_components` + `oversampling` leading directions of each chunk. Sketches are merged in pairs,
    and corrected for the difference of their means. The order depends on the chunks alone. The result is exact if the
    data have no more directions than a sketch. Otherwise each merge loses the directions beyond. This table shows the
    relative errors for five components of 2-point statistics of micrographs, with 40 samples in a chunk. For the ratio,
    the error is relative to the total variance:

    ============  ====================  =====================  =========================  ==========================
    oversampling  variance, one kind    largest angle / rad    variance, seven kinds      explained variance ratio
    ============  ====================  =====================  =========================  ==========================
    0             1.5e-1                9.8e-2                 2.1e-1                     5.7e-4
    10            2.3e-3                5.6e-3                 2.1e-2                     9.2e-6
    20            3.1e-4                1.1e-3                 6.3e-3                     2.4e-6
    45            6.1e-6                6.2e-5                 7.4e-4                     2.5e-7
    ============  ====================  =====================  =========================  ==========================

    For a spectrum that decays as slowly as 1/k, with 1000 samples of 2000 features, the error with the default
    `oversampling` is 3e-3 of the fifth variance, and 1e-4 of the total variance.

    A task holds its chunk in float64, or five sketches of ``8 (n_components + oversampling) n_features`` bytes each.
    One more sketch waits in each level of the tree.

    References
    ----------
    Ross, D. A., Lim, J., Lin, R.-S., Yang, M.-H. Incremental learning for robust visual tracking. Int. J. Comput. Vis.
    77 (2008) 125.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(60, 8)) @ np.diag([8, 4, 2, 1, 0, 0, 0, 0])
    >>> first, second = IncrementalPCA(2).partial_fit(X[:25]), IncrementalPCA(2).partial_fit(X[25:])
    >>> both, whole = first.merge(second), IncrementalPCA(2).fit(X)
    >>> both.n_samples_seen_, bool(np.allclose(both.explained_variance_, whole.explained_variance_))
    (60, True)
    """

    _sketch: Sketch | None

    _saved = Saved(
        {"n_components": Whole(1), "oversampling": Whole(0) | NOTHING, "whiten": FLAG},
        fitted={"_sketch": Part(Sketch)},
    )

    def __init__(self, n_components: int, *, oversampling: int | None = None, whiten: bool = False) -> None:
        self.n_components = n_components
        self.oversampling = oversampling
        self.whiten = whiten

    @checked
    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Fit these rows, and forget all earlier ones.

        Parameters
        ----------
        X : array, shape (n_samples, n_features)
            Rows: NumPy, or dask with whole rows in each chunk.
        y : None
            Ignored.

        Raises
        ------
        ValueError
            If X is not a finite matrix.
        """
        self._sketch = None
        return self.partial_fit(X)

    @checked
    def partial_fit(self, X: ArrayLike, y: object = None) -> Self:
        """Continue with further rows. Lazy rows are read once.

        Parameters
        ----------
        X : array, shape (n_samples, n_features)
            One or more rows: NumPy, or dask with whole rows in each chunk.
        y : None
            Ignored.

        Raises
        ------
        ValueError
            If X is not a finite matrix, or has another number of features than the rows before.
        """
        seen: Sketch | None = getattr(self, "_sketch", None)
        data = matrix_of(self, X, reset=seen is None)
        rank = self._rank()
        if data.ndim != 2 or 0 in data.shape or data.dtype.kind not in "fiub":
            msg = f"X must be a real matrix (n_samples, n_features), got shape {tuple(data.shape)} of {data.dtype}"
            raise ValueError(msg)
        found = sketch_rows(data, rank)
        self._set(found if seen is None else seen.merge(found, rank))
        return self

    def merge(self, other: IncrementalPCA) -> Self:
        """Add the rows that another estimator has seen.

        Parameters
        ----------
        other : IncrementalPCA
            An estimator fitted to other rows of the same features. It does not change.

        Returns
        -------
        IncrementalPCA
            This estimator. It is as after a fit to the rows of both, up to the directions beyond the sketches.

        Raises
        ------
        ValueError
            If the numbers of features differ.
        """
        given: Any = other
        if not isinstance(given, IncrementalPCA):
            msg = f"other must be a fitted IncrementalPCA, got {shown(other)}"
            raise TypeError(msg)
        mine, theirs = self._seen(), other._seen()
        if len(mine.mean) != len(theirs.mean):
            msg = (
                f"other has {len(theirs.mean)} features, but this estimator has {len(mine.mean)}; merge estimators "
                "that were fitted to the same features"
            )
            raise ValueError(msg)
        self._set(mine.merge(theirs, self._rank()))
        return self

    def _seen(self) -> Sketch:
        check_is_fitted(self, "components_")
        assert self._sketch is not None
        return self._sketch

    def _rank(self) -> int:
        k = self.n_components
        if not isinstance(k, int | np.integer) or k < 1:
            msg = f"n_components must be a positive integer, got {k!r}"
            raise ValueError(msg)
        return sketch_rank(int(k), self.oversampling)

    def _set(self, sketch: Sketch) -> None:
        self._sketch, self.n_samples_seen_ = sketch, sketch.count
        self._set_sketch(sketch, int(self.n_components), np.dtype(float))

    def _restored(self, most: int) -> None:
        if self._sketch is not None:
            self._set(self._sketch)

    def save(self, url: Url) -> None:
        """Write the fitted state to a zarr store, completely or not at all. `load` reads it.

        Parameters
        ----------
        url : str or path
            A path, or any URL that fsspec knows. If an earlier save is there, it is replaced.

        Raises
        ------
        FileExistsError
            If anything else is there.
        """
        self._seen()
        write_state(self, url, KIND)

    @classmethod
    def load(cls, url: Url) -> Self:
        """Read an estimator that `save` has written.

        Parameters
        ----------
        url : str or path
            Path or URL of the store.

        Returns
        -------
        IncrementalPCA
            The estimator, which can continue with further rows.

        Raises
        ------
        ValueError
            If there is no such store, or if it is damaged.
        """
        return read_state(url, cls, kind=KIND)
