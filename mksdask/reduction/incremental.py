"""Principal components of data that arrive in pieces, or that are too many for an exact reduction.

A piece is summed up by a sketch: its mean, its leading singular directions scaled by their singular values, and its
exact scatter. Two sketches merge into that of both pieces; what is lost is what lies beyond their rank.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import zarr
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from mksdask.arrays import ArrayLike
from mksdask.reduction.projection import Projection, matrix_of
from mksdask.reduction.sketch import Sketch, sketch_rank, sketch_rows
from mksdask.storage.atomic import Location, Url, staged
from mksdask.storage.opening import open_group

Array = NDArray[Any]

PARAMETERS = ("n_components", "oversampling", "whiten")


class IncrementalPCA(Projection):
    r"""Principal component analysis of rows that arrive over time, or in more chunks than an exact one can take.

    Parameters
    ----------
    n_components : int
        Number of components.
    oversampling : int, optional
        Directions that are kept beyond `n_components` while sketches are merged. Default: twice as many, 40 at least.
    whiten : bool, default False
        Scale scores to unit variance.

    Attributes
    ----------
    components_ : ndarray, shape (n_components_, n_features)
        Orthonormal rows, float64; the entry of largest magnitude is positive. Directions without variance complete
        the others.
    mean_ : ndarray, shape (n_features,)
        Mean of each feature, float64; exact.
    singular_values_, explained_variance_, explained_variance_ratio_ : ndarray, shape (n_components_,)
        Falling; float64. The ratio is that to the exact total variance.
    noise_variance_ : float
        Mean variance of the directions that are left out.
    n_components_, n_features_in_, n_samples_seen_ : int
        Sizes.

    Notes
    -----
    Each chunk is summed up by its `n_components` + `oversampling` leading directions; sketches are merged by pairs, in
    an order that the chunks alone fix, with the correction for the difference of their means. The result is exact where
    the data have no more directions than that. Elsewhere a merge loses what lies beyond the sketch. Five components of
    2-point statistics of micrographs, 40 samples a chunk, by `oversampling`:

    ============  ====================  =====================  =========================  ==========================
    oversampling  variance, one kind    largest angle / rad    variance, seven kinds      explained variance ratio
    ============  ====================  =====================  =========================  ==========================
    0             1.5e-1                9.8e-2                 2.1e-1                     5.7e-4
    10            2.3e-3                5.6e-3                 2.1e-2                     9.2e-6
    20            3.1e-4                1.1e-3                 6.3e-3                     2.4e-6
    45            6.1e-6                6.2e-5                 7.4e-4                     2.5e-7
    ============  ====================  =====================  =========================  ==========================

    Variances are off by so much of themselves, the ratio of the total. Where the spectrum decays as slowly as 1/k, 1000
    samples of 2000 features, the default leaves 3e-3 of the fifth variance and 1e-4 of the total.

    A task holds its chunk in float64, or five sketches of ``8 (n_components + oversampling) n_features`` bytes each;
    one more waits in each level of the tree.

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

    def __init__(self, n_components: int, *, oversampling: int | None = None, whiten: bool = False) -> None:
        self.n_components = n_components
        self.oversampling = oversampling
        self.whiten = whiten

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Start anew with these rows.

        Parameters
        ----------
        X : array, shape (n_samples, n_features)
            NumPy or dask, whole rows in each chunk.
        y : None
            Ignored.

        Raises
        ------
        ValueError
            If X is not a finite matrix.
        """
        self._sketch = None
        return self.partial_fit(X)

    def partial_fit(self, X: ArrayLike, y: object = None) -> Self:
        """Go on with further rows; lazy ones are read once.

        Parameters
        ----------
        X : array, shape (n_samples, n_features)
            NumPy or dask, whole rows in each chunk. Any number of rows, one too.
        y : None
            Ignored.

        Raises
        ------
        ValueError
            If X is not a finite matrix, or has other features than the rows before.
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
        """Add the rows that another one has seen.

        Parameters
        ----------
        other : IncrementalPCA
            Fitted on other rows of the same features; left as it is.

        Returns
        -------
        IncrementalPCA
            Itself: as after fitting on the rows of both, up to what lies beyond the sketches.

        Raises
        ------
        ValueError
            If the features differ.
        """
        mine, theirs = self._seen(), other._seen()
        if len(mine.mean) != len(theirs.mean):
            msg = f"other has {len(theirs.mean)} features, this one {len(mine.mean)}"
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

    def save(self, url: Url) -> None:
        """Write what has been seen to a zarr store, whole or not at all; `load` takes it up.

        Parameters
        ----------
        url : str or path
            A path, or any URL that fsspec knows; an earlier save there is replaced, and nothing else.

        Raises
        ------
        FileExistsError
            If something else is there.
        """
        sketch = self._seen()
        with staged(url, "w", ("incremental-pca",)) as location:
            group = zarr.open_group(location.store, mode="w")
            parameters = {name: getattr(self, name) for name in PARAMETERS}
            group.attrs.update({"mksdask": "incremental-pca", "parameters": parameters})
            group.attrs.update({"count": sketch.count, "scatter": sketch.scatter})
            group.create_array("mean", data=sketch.mean)
            group.create_array("directions", data=sketch.directions)

    @classmethod
    def load(cls, url: Url) -> Self:
        """Read what `save` wrote.

        Parameters
        ----------
        url : str or path
            Where it is.

        Raises
        ------
        ValueError
            If there is no such store.
        """
        location = Location.of(url)
        try:
            group = open_group(location)
        except FileNotFoundError as error:
            msg = f"{url} holds no saved IncrementalPCA"
            raise ValueError(msg) from error
        attrs: dict[str, Any] = dict(group.attrs)
        if attrs.get("mksdask") != "incremental-pca":
            msg = f"{url} holds no saved IncrementalPCA"
            raise ValueError(msg)
        found = cls(**attrs["parameters"])
        mean, directions = (np.asarray(group[name][:]) for name in ("mean", "directions"))  # type: ignore[index]
        found._set(Sketch(int(attrs["count"]), mean, directions, float(attrs["scatter"])))
        return found
