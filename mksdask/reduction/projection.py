"""Rows to scores on components, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from mksdask.arrays import ArrayLike, map_samples, unwrap

Array = NDArray[Any]


def _scores_of_block(block: Array, components: Array, mean: Array) -> Array:
    return (block - mean).astype(np.result_type(block, components), copy=False) @ components.T


def _rows_of_block(block: Array, components: Array, mean: Array) -> Array:
    return (block @ components + mean).astype(np.result_type(block, components), copy=False)


class Projection(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Rows to scores and back, for estimators that fit `components_`, `mean_` and `explained_variance_`.

    Scores of one that has a true `whiten` parameter have unit variance.
    """

    components_: Array
    mean_: Array
    explained_variance_: Array
    n_components_: int
    n_features_in_: int

    def transform(self, X: ArrayLike) -> Any:
        """Scores μ = (f - f̄) Φᵀ; lazy for lazy input, one task a chunk.

        Parameters
        ----------
        X : array, shape (n_samples, n_features)
            NumPy or dask.

        Returns
        -------
        array of the kind of `X`, shape (n_samples, n_components_)

        Raises
        ------
        ValueError
            If the number of features is not that of `fit`.
        """
        check_is_fitted(self, "components_")
        data, _ = unwrap(X)
        if data.ndim != 2 or data.shape[1] != self.n_features_in_:
            msg = f"X must have {self.n_features_in_} features as in fit, got shape {tuple(data.shape)}"
            raise ValueError(msg)
        return map_samples(
            _scores_of_block,
            data,
            tail=(self.n_components_,),
            dtype=np.result_type(data.dtype, self.components_.dtype),
            name="pca-transform",
            shared=(self._scaled(-1), self.mean_),
        )

    def inverse_transform(self, X: ArrayLike) -> Any:
        """Rows f = μ Φ + f̄ (Eq. 2); lazy for lazy input.

        Parameters
        ----------
        X : array, shape (n_samples, n_components_)
            Scores.

        Returns
        -------
        array of the kind of `X`, shape (n_samples, n_features)
        """
        check_is_fitted(self, "components_")
        data, _ = unwrap(X)
        return map_samples(
            _rows_of_block,
            data,
            tail=(self.n_features_in_,),
            dtype=np.result_type(data.dtype, self.components_.dtype),
            name="pca-inverse",
            shared=(self._scaled(1), self.mean_),
        )

    @property
    def _n_features_out(self) -> int:
        return self.n_components_

    def _scaled(self, power: int) -> Array:
        """Components that give whitened scores (-1), or rows from them (1)."""
        if not getattr(self, "whiten", False):
            return self.components_
        deviation = np.sqrt(self.explained_variance_)
        factor = np.where(deviation > 0, deviation, 1.0) ** power
        return (self.components_ * factor[:, None]).astype(self.components_.dtype)
