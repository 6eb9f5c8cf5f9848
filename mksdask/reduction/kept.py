"""A reducer that passes some features on beside its scores, such as volume fractions among 2-point statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from mksdask.arrays import Array, ArrayLike, integers, shown, validated
from mksdask.reduction.reducers import require_methods
from mksdask.schema import Listed, Part, Saved, Whole, agree


def _learns_piecewise(kept: KeptFeatures) -> bool:
    return hasattr(kept.reducer, "partial_fit")


class KeptFeatures(TransformerMixin, BaseEstimator):
    """Pass some features on, followed by the scores that another reducer makes of all features.

    A regressor may need features as they are. `mksdask.simulation.BoundedRegressor` needs volume fractions, and lag 0
    of the autocorrelation of a phase is its volume fraction.

    Parameters
    ----------
    reducer : transformer
        Makes the scores, such as `mksdask.reduction.PCA`.
    columns : sequence of int
        Numbers of the features that are passed on. In a row of statistics of shape (*lags, n_pairs), a feature has the
        number ``np.ravel_multi_index((*lag, pair), (*lags, n_pairs))``.

    Attributes
    ----------
    reducer_ : transformer
        The fitted reducer.
    n_features_in_ : int
        Number of features.

    Notes
    -----
    Lazy statistics need a reducer with `partial_fit`, such as `mksdask.reduction.IncrementalPCA`.

    Examples
    --------
    >>> import numpy as np
    >>> from mksdask.reduction import PCA, KeptFeatures
    >>> X = np.random.default_rng(0).normal(size=(20, 100))
    >>> scores = KeptFeatures(PCA(3), columns=[50]).fit_transform(X)
    >>> scores.shape, bool((scores[:, 0] == X[:, 50]).all())
    ((20, 4), True)
    """

    _saved = Saved(
        {"reducer": Part(TransformerMixin), "columns": Listed(Whole(0), 1)},
        fitted={"reducer_": Part(TransformerMixin, fitted=True), "n_features_in_": Whole(1, sized=True)},
    )

    def __init__(self, reducer: Any, columns: Sequence[int]) -> None:
        self.reducer = reducer
        self.columns = columns

    def fit(self, X: ArrayLike, y: Array | None = None) -> Self:
        """Fit the reducer to features, shape (n_samples, n_features).

        Raises
        ------
        ValueError
            If there are no such columns.
        TypeError
            If the reducer has no methods `fit` and `transform`.
        """
        require_methods(self.reducer, ["fit", "transform"], "reducer", "pass a reducer, such as PCA(5)")
        X = self._checked(X, reset=True)
        reducer = clone(self.reducer, safe=False)
        self.reducer_ = reducer.fit(X) if y is None else reducer.fit(X, y)
        return self

    @available_if(_learns_piecewise)
    def partial_fit(self, X: ArrayLike, y: Array | None = None) -> Self:
        """Continue to fit the reducer with more samples."""
        X = self._checked(X, reset=not hasattr(self, "reducer_"))
        if not hasattr(self, "reducer_"):
            self.reducer_ = clone(self.reducer)
        self.reducer_.partial_fit(X)
        return self

    def transform(self, X: ArrayLike) -> Array:
        """Return the columns and the scores, shape (n_samples, n_columns + n_components)."""
        check_is_fitted(self)
        X = self._checked(X, reset=False)
        scores = np.asarray(self.reducer_.transform(X))
        return np.concatenate([X[:, np.asarray(self.columns)].astype(scores.dtype), scores], axis=1)

    def _checked(self, X: ArrayLike, *, reset: bool) -> Array:
        # Gaps are for the reducer to fill or to refuse.
        rows: Array = validated(self, X, reset=reset, ensure_all_finite=False)
        given, n_features = integers(self.columns), rows.shape[1]
        if given is None or not len(given) or not 0 <= given.min() <= given.max() < n_features:
            msg = f"columns must hold numbers of features, from 0 to {n_features - 1}, got {shown(self.columns)}"
            raise ValueError(msg)
        return rows

    def _restored(self, most: int) -> None:
        agree("the number of features of reducer_", self.reducer_.n_features_in_, self.n_features_in_)
