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
        `LeadingScaler`, `PolynomialFeatures`, `LeastSquares`; its `predict` takes `return_std`.

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
            ("regression", LeastSquares()),
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


class LeastSquares(LinearRegression):
    r"""`LinearRegression` that knows how sure it is.

    With the monomials m(μ), a constant among them, and the matrix M of those of all samples, the predictive variance
    of a new measurement is :math:`s^2 (1 + m^T (M^T M)^{-1} m)`, where s² is such that errors of each sample by all
    others, divided by their standard deviations, have a mean square of 1.

    Attributes
    ----------
    spread_ : ndarray, shape (n_targets,)
        s, in units of the targets.

    References
    ----------
    Seber, G. A., Lee, A. J. Linear Regression Analysis (2nd ed., 2003), sections 5.3 and 10.2.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.linspace(-1, 1, 20)[:, None]
    >>> noisy = X[:, 0] + 0.1 * np.random.default_rng(0).normal(size=20)
    >>> mean, spread = LeastSquares().fit(X, noisy).predict([[0.0], [3.0]], return_std=True)
    >>> bool(0.05 < spread[0] < 0.15), bool(spread[1] > 1.3 * spread[0])
    (True, True)
    """

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit, and measure the spread.

        Parameters
        ----------
        X : array, shape (n_samples, n_features)
            Monomials.
        y : array, shape (n_samples,) or (n_samples, n_targets)
            Targets.
        sample_weight : array, shape (n_samples,), optional
            Weights; the spread is that of a sample of unit weight.
        """
        super().fit(X, y, sample_weight)
        weights = np.ones(len(np.asarray(y))) if sample_weight is None else np.asarray(sample_weight, dtype=float)
        rows = self._rows(np.asarray(X)) * np.sqrt(weights)[:, None]
        values, right = np.linalg.svd(rows, full_matrices=False)[1:]
        kept = values > values[0] * max(rows.shape) * np.finfo(float).eps
        self._whitening = right[kept].T / values[kept]
        leverage = np.minimum(np.square(rows @ self._whitening).sum(axis=1), 1.0 - 1e-9)
        errors = (np.asarray(y).reshape(len(rows), -1) - super().predict(X).reshape(len(rows), -1)) ** 2
        squares = weights[:, None] * errors / (1.0 - leverage)[:, None]
        free = leverage < 1.0 - 1e-6
        self.spread_ = np.sqrt(squares[free].mean(axis=0)) if free.any() else np.full(squares.shape[1], np.inf)
        return self

    def predict(self, X: ArrayLike, return_std: bool = False) -> Any:  # noqa: FBT001, FBT002
        """Targets, and with `return_std` the standard deviation of each.

        Parameters
        ----------
        X : array, shape (n_samples, n_features)
            Monomials.
        return_std : bool, default False
            Whether to return a pair.

        Returns
        -------
        ndarray, shape (n_samples,) or (n_samples, n_targets), or a pair of them
        """
        mean = super().predict(X)
        if not return_std:
            return mean
        spread = np.sqrt(1.0 + self.leverage(X))[:, None] * self.spread_
        return mean, spread.reshape(mean.shape)

    def leverage(self, X: ArrayLike) -> NDArray[Any]:
        """M (MᵀM)⁻¹ mᵀ of each row: the variance of the prediction, but for the noise, over s².

        Parameters
        ----------
        X : array, shape (n_samples, n_features)
            Monomials.
        """
        check_is_fitted(self)
        return np.asarray(np.square(self._rows(np.asarray(X)) @ self._whitening).sum(axis=1))

    def posterior(self, X: ArrayLike) -> tuple[NDArray[Any], float]:
        """What training leaves open of predictions, over s².

        Parameters
        ----------
        X : array, shape (n_samples, n_features)
            Monomials.

        Returns
        -------
        covariance : ndarray, shape (n_samples, n_samples)
            Without the noise of a measurement.
        noise : float
            Variance of a measurement: 1.
        """
        check_is_fitted(self)
        rows = self._rows(np.asarray(X)) @ self._whitening
        return np.asarray(rows @ rows.T), 1.0

    def _rows(self, monomials: NDArray[Any]) -> NDArray[Any]:
        ones = np.ones((len(monomials), int(self.fit_intercept)))
        return np.concatenate([ones, monomials], axis=1)
