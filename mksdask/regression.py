"""Linkages from scores to properties: p_eff = F(μ)."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import PolynomialFeatures
from sklearn.utils.validation import check_is_fitted, validate_data


def polynomial_regression(degree: int = 1) -> Pipeline:
    """Least squares on all monomials of the scores up to a degree (Eq. 3 with a polynomial F).

    Parameters
    ----------
    degree : int
        Largest total degree.

    Returns
    -------
    sklearn.pipeline.Pipeline
        `LeadingScaler`, `PolynomialFeatures`, `LinearRegression`.

    Examples
    --------
    >>> import numpy as np
    >>> scores = np.linspace(-1, 1, 9)[:, None]
    >>> linkage = polynomial_regression(2).fit(scores, scores[:, 0] ** 2)
    >>> round(float(linkage.predict([[0.5]])[0]), 12)
    0.25
    """
    return Pipeline(
        [
            ("scale", LeadingScaler()),
            ("monomials", PolynomialFeatures(degree=degree, include_bias=False)),
            ("regression", LinearRegression()),
        ]
    )


class LeadingScaler(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Divide all scores by the standard deviation of the first.

    Kernels and monomials then see numbers of order one, while the components keep their relative size: small ones
    stay small, as they should. A `StandardScaler` would blow the noise of the last components up.

    Attributes
    ----------
    scale_ : float
        Standard deviation of the first score; 1 where it is 0.
    """

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Measure the spread of the first score.

        Parameters
        ----------
        X : array, shape (n_samples, n_components)
            Scores.
        y : None
            Ignored.
        """
        scores = validate_data(self, X)
        self.scale_ = float(np.std(scores[:, 0])) or 1.0
        return self

    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """Divide by `scale_`.

        Parameters
        ----------
        X : array, shape (n_samples, n_components)
            Scores.

        Returns
        -------
        ndarray, shape (n_samples, n_components)
        """
        check_is_fitted(self)
        return validate_data(self, X, reset=False) / self.scale_
