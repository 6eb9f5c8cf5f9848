"""2-point statistics as a scikit-learn transformer."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from mksdask.arrays import Array, ArrayLike
from mksdask.bases.base import Basis
from mksdask.samples import Samples
from mksdask.schema.arguments import checked
from mksdask.stats.correlation import Correlation
from mksdask.stats.features import flat_features
from mksdask.stats.pairs import Pairs


class TwoPointStatistics(TransformerMixin, BaseEstimator):
    """Compute 2-point statistics as a step of a scikit-learn pipeline. It does what `correlate` does.

    Parameters
    ----------
    basis : Basis or None
        Basis of the local state. None if X already holds m[h; s].
    periodic_axes, correlations, cutoff, dtype
        As in `correlate`.
    confidence_index : array, shape (*spatial,), optional
        One mask for all samples. If each sample has its own mask, pass the masks to `transform`.
    flatten : bool, default False
        Return rows (n_samples, n_features), as the next step of a pipeline needs them, instead of maps (n_samples,
        *lags, n_pairs).

    Attributes
    ----------
    grid_ : Grid
        Geometry of the samples of `fit`, with which later samples are compared.
    size_ : tuple of int
        Spatial shape of the samples of `fit`.
    periodic_axes_ : list of int
        The parameter `periodic_axes`, or the periodic axes that the DataArray of `fit` named.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.decomposition import PCA
    >>> from sklearn.pipeline import make_pipeline
    >>> from mksdask import PrimitiveBasis
    >>> X = np.random.default_rng(0).integers(0, 2, (8, 5, 5))
    >>> statistics = TwoPointStatistics(PrimitiveBasis(2), periodic_axes=[0, 1], flatten=True)
    >>> make_pipeline(statistics, PCA(2)).fit_transform(X).shape
    (8, 2)
    """

    def __init__(
        self,
        basis: Basis | None = None,
        *,
        periodic_axes: int | Sequence[int] | None = None,
        confidence_index: ArrayLike | None = None,
        correlations: Pairs | None = None,
        cutoff: int | Sequence[int] | None = None,
        dtype: DTypeLike = "float32",
        flatten: bool = False,
    ) -> None:
        self.basis = basis
        self.periodic_axes = periodic_axes
        self.confidence_index = confidence_index
        self.correlations = correlations
        self.cutoff = cutoff
        self.dtype = dtype
        self.flatten = flatten

    @checked
    def fit(self, X: ArrayLike, y: object = None, *, size: Sequence[int] | None = None) -> Self:
        """Remember the grid of the samples. This computes nothing.

        Parameters
        ----------
        X : array, shape (n_samples, *spatial), or (n_samples, n_voxels) with `size`
            Local state of each voxel.
        y : None
            Ignored.
        size : tuple of int, optional
            Spatial shape of a sample, as in `correlate`.
        """
        samples = Samples.of(X, self.basis, size=size, periodic_axes=self.periodic_axes)
        self.grid_ = samples.grid
        self.size_, self.periodic_axes_ = samples.spatial, samples.grid.periodic_axes
        found = self._correlation(samples)
        self._pairs, self._lags = found.pairs, found.kernel.transform.lags
        self._is_complex = not found.kernel.transform.real
        return self

    def _correlation(self, samples: Samples) -> Correlation:
        return Correlation.of(samples, self.correlations, self.cutoff, self.dtype)

    @checked
    def transform(self, X: ArrayLike, *, confidence_index: ArrayLike | None = None) -> Any:
        """Compute the 2-point statistics of samples, lazily for lazy input.

        Parameters
        ----------
        X : array, shape (n_samples, *spatial) or flat
            Local state of each voxel.
        confidence_index : array, shape (n_samples, *spatial), optional
            Confidence in each voxel, which replaces the parameter `confidence_index`.

        Returns
        -------
        array of the kind of `X`, shape (n_samples, *lags, n_pairs) or (n_samples, n_features)
        """
        mask = self.confidence_index if confidence_index is None else confidence_index
        like = getattr(self, "grid_", None)
        samples = Samples.of(
            X, self.basis, confidence_index=mask, periodic_axes=None if like else self.periodic_axes, like=like
        )
        statistics = self._correlation(samples).run()
        return flat_features(statistics) if self.flatten else statistics

    def get_feature_names_out(self, input_features: object = None) -> Array:
        """Name the columns of flat statistics by pair of states and lag in voxels, such as f[0, 1; 3, -2].

        Parameters
        ----------
        input_features : None
            Ignored.

        Raises
        ------
        ValueError
            If `flatten` is False, because maps have no columns.
        """
        check_is_fitted(self, "size_")
        if not self.flatten:
            msg = "the statistics are maps (*lags, n_pairs) without columns; use flatten=True for names and set_output"
            raise ValueError(msg)
        found = [
            f"{part}f[{a}, {b}; {', '.join(map(str, lag))}]"
            for lag in itertools.product(*(along.tolist() for along in self._lags))
            for a, b in self._pairs
            for part in (("Re ", "Im ") if self._is_complex else ("",))
        ]
        return np.array(found, dtype=object)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags
