"""Polynomial regression from scores to properties, with a predictive spread."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
import scipy.linalg
from sklearn.base import BaseEstimator, MultiOutputMixin, OneToOneFeatureMixin, RegressorMixin, TransformerMixin
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import PolynomialFeatures
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from mksdask.arrays import Array, ArrayLike, numbers_argument, shown, to_numpy, validated
from mksdask.compute.plans import refuse_unless_fits
from mksdask.labels import paired
from mksdask.regression.scoring import PairedScore, refuse_overflow
from mksdask.schema import FLAG, POSITIVE, TEXT, ArrayOf, Listed, Number, Part, Record, Saved, Whole, agree
from mksdask.schema.arguments import checked

# Largest degree of a polynomial.
MOST_DEGREE = 1000


class LabelledPipeline(Pipeline):
    """A pipeline whose `fit` and `score` pair the samples of X and y by their labels, where both have them.

    The steps of a pipeline are fitted to arrays that have lost their labels, so the pipeline pairs before its steps.
    Otherwise it is a pipeline of scikit-learn, with its parameters and attributes.
    """

    _saved = Saved(
        {
            "steps": Listed(Record(TEXT, Part(TransformerMixin, RegressorMixin, fitted=None)), 1),
            "verbose": FLAG,
        }
    )

    @property
    def in_words(self) -> str:
        """What the pipeline is, for cards and the command."""
        degree = self.get_params().get("monomials__degree")
        return "pipeline" if degree is None else f"polynomial regression of degree {degree}"

    def fit(self, X: ArrayLike, y: ArrayLike | None = None, **params: Any) -> Self:
        """Fit the steps.

        Parameters
        ----------
        X : array, shape (n_samples, n_features)
            Features of samples.
        y : array, shape (n_samples,) or (n_samples, n_targets)
            Targets. Samples that have labels in X too are paired by them, and so are arrays in `params`.
        **params
            Parameters of the `fit` of steps, such as ``regression__sample_weight``.
        """
        y, *values = paired(X, y, **params)
        try:
            shape = np.shape(X)
        except TypeError as error:
            msg = f"X must be a matrix (n_samples, n_features), got {shown(X)}"
            raise TypeError(msg) from error
        except ValueError as error:
            msg = f"X must be a matrix (n_samples, n_features), got rows of different shapes: {shown(X)}"
            raise ValueError(msg) from error
        _refuse_many_monomials(self, shape)
        return super().fit(X, y, **dict(zip(params, values, strict=True)))

    def score(self, X: ArrayLike, y: ArrayLike | None = None, sample_weight: ArrayLike | None = None) -> float:
        """Score the predictions as the last step does.

        Parameters
        ----------
        X, y
            As in `fit`.
        sample_weight : array, shape (n_samples,), optional
            Weight of each sample.
        """
        y, sample_weight = paired(X, y, sample_weight=sample_weight)
        return float(super().score(X, y, sample_weight))


def _refuse_many_monomials(pipeline: Pipeline, shape: tuple[int, ...]) -> None:
    """Check the degrees of monomials, and refuse more of them than memory holds."""
    for step in (step for _, step in pipeline.steps if isinstance(step, PolynomialFeatures)):
        degree = step.degree
        if not isinstance(degree, int | np.integer) or isinstance(degree, bool) or not 0 <= degree <= MOST_DEGREE:
            if isinstance(degree, tuple):
                continue
            msg = f"degree must be an integer from 0 to {MOST_DEGREE}, got {shown(degree)}"
            raise ValueError(msg)
        if len(shape) == 2:
            count = math.comb(shape[1] + int(degree), int(degree))
            what = f"a polynomial of degree {degree} has {count} monomials of {shape[1]} scores, and the fit"
            refuse_unless_fits(3 * 8 * count * shape[0], what, "use a smaller degree or fewer components")


def polynomial_regression(degree: int = 1) -> LabelledPipeline:
    """Make a linkage by least squares on all monomials of the scores up to a degree (Eq. 3 with a polynomial F).

    Parameters
    ----------
    degree : int
        Largest total degree of the monomials.

    Returns
    -------
    sklearn.pipeline.Pipeline
        Steps `LeadingScaler`, `PolynomialFeatures` and `LeastSquares`. Its `predict` takes `return_std`. Its `fit` and
        `score` pair samples by label, where both X and y have labels.

    Examples
    --------
    >>> import numpy as np
    >>> scores = np.linspace(-1, 1, 9)[:, None]
    >>> linkage = polynomial_regression(2).fit(scores, scores[:, 0] ** 2)
    >>> round(float(linkage.predict([[0.5]])[0]), 12)
    0.25
    """
    return LabelledPipeline(
        [
            ("scale", LeadingScaler()),
            ("monomials", PolynomialFeatures(degree=degree, include_bias=False)),
            ("regression", LeastSquares()),
        ]
    )


class LeadingScaler(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Scaler that divides all scores by the standard deviation of the first score.

    Kernels and monomials then see numbers of order one, and components keep their relative size: small components stay
    small, as they should. A `StandardScaler` would amplify the noise of the last components.

    Attributes
    ----------
    scale_ : float
        Standard deviation of the first score, or 1 if it is 0.
    """

    _saved = Saved({}, fitted={"scale_": POSITIVE, "n_features_in_": Whole(1, sized=True)})

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Compute the standard deviation of the first score.

        Parameters
        ----------
        X : array, shape (n_samples, n_components)
            Scores.
        y : None
            Ignored.
        """
        scores = validated(self, X)
        self.scale_ = float(np.std(scores[:, 0])) or 1.0
        return self

    def transform(self, X: ArrayLike) -> Array:
        """Divide scores by `scale_`.

        Parameters
        ----------
        X : array, shape (n_samples, n_components)
            Scores.

        Returns
        -------
        ndarray, shape (n_samples, n_components)
        """
        check_is_fitted(self)
        return validated(self, X, reset=False) / self.scale_


class LeastSquares(MultiOutputMixin, PairedScore, BaseEstimator):
    r"""Linear regression that also predicts its own error.

    Let m(μ) be the monomials of a sample, including a constant, and M the matrix of the monomials of all samples. The
    predictive variance of a new measurement is :math:`s^2 (1 + m^T (M^T M)^{-1} m)`. The scale s² is calibrated by
    leaving out one sample at a time: the errors of predicting each sample from all others, divided by their standard
    deviations, have a mean square of 1.

    One QR factorization gives coefficients, errors and variances. If columns depend on each other, a singular value
    decomposition replaces it, and the solution has the least norm.

    Attributes
    ----------
    coef_ : ndarray, shape (n_features,) or (n_targets, n_features)
        Coefficients of the monomials.
    intercept_ : float or ndarray, shape (n_targets,)
        Constant term.
    spread_ : ndarray, shape (n_targets,)
        Scale s of the predictive spread, in units of the targets.

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

    _saved = Saved(
        {},
        fitted={
            "coef_": ArrayOf("f8", "n_features_in_") | ArrayOf("f8", "n_targets", "n_features_in_"),
            "intercept_": Number() | ArrayOf("f8", "n_targets"),
            "spread_": ArrayOf("f8", "n_targets", finite=False),
            "_mean": ArrayOf("f8", "n_features_in_"),
            "_whitening": ArrayOf("f8", "n_features_in_", None),
            "_constant": Number(0),
        },
    )

    def _restored(self, most: int) -> None:
        agree("shape of intercept_", np.shape(self.intercept_), self.coef_.shape[:-1])
        agree("spread_", len(self.spread_), 1 if self.coef_.ndim == 1 else len(self.coef_))
        self.n_features_in_ = len(self._mean)

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit the coefficients, and calibrate the spread.

        Parameters
        ----------
        X : array, shape (n_samples, n_features)
            Monomials.
        y : array, shape (n_samples,) or (n_samples, n_targets)
            Targets.
        sample_weight : array, shape (n_samples,), optional
            Weights of the samples. The spread then is that of a sample of unit weight.
        """
        y, sample_weight = paired(X, y, sample_weight=sample_weight)
        X, target = validated(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True)
        if sample_weight is not None:
            sample_weight = numbers_argument(to_numpy(sample_weight, name="sample_weight"), "sample_weight")
            if not (sample_weight >= 0).all():
                msg = "sample_weight must hold numbers from 0, without NaN"
                raise ValueError(msg)
        weights = _check_sample_weight(sample_weight, X, dtype=np.float64)
        total, targets = weights.sum(), target.reshape(len(target), -1).astype(np.float64)
        self._mean = weights @ X / total
        constants = weights @ targets / total
        root = np.sqrt(weights)[:, None]
        rows, measured = (X - self._mean) * root, (targets - constants) * root
        orthonormal, self._whitening = _orthonormalize(rows)
        self._constant = 1.0 / total
        coefficients = self._whitening @ (orthonormal.T @ measured)
        refuse_overflow(coefficients, constants)
        self.coef_, self.intercept_ = coefficients.T, constants - self._mean @ coefficients
        if target.ndim == 1:
            self.coef_, self.intercept_ = self.coef_[0], float(self.intercept_[0])
        leverage = weights * self._constant + np.square(orthonormal).sum(axis=1)
        free = leverage < 1.0 - 1e-6
        errors = (measured - rows @ coefficients)[free] ** 2 / (1.0 - leverage[free])[:, None]
        self.spread_ = np.sqrt(errors.mean(axis=0)) if free.any() else np.full(targets.shape[1], np.inf)
        return self

    @checked
    def predict(self, X: ArrayLike, return_std: bool = False) -> Any:  # noqa: FBT001, FBT002
        """Predict targets and, with `return_std`, the standard deviation of each prediction.

        Parameters
        ----------
        X : array, shape (n_samples, n_features)
            Monomials.
        return_std : bool, default False
            Whether to return the standard deviations too. They are those of a new measurement, including its noise.

        Returns
        -------
        ndarray, shape (n_samples,) or (n_samples, n_targets)
            Predictions. With `return_std`, a pair of such arrays: predictions and standard deviations.
        """
        check_is_fitted(self)
        X = validated(self, X, reset=False, dtype=np.float64)
        mean = X @ self.coef_.T + self.intercept_
        if not return_std:
            return mean
        spread = np.sqrt(1.0 + self.leverage(X))[:, None] * self.spread_
        return mean, spread.reshape(mean.shape)

    def leverage(self, X: ArrayLike) -> Array:
        """Compute mᵀ (MᵀM)⁻¹ m of each row: the variance of the prediction without noise, divided by s².

        Parameters
        ----------
        X : array, shape (n_samples, n_features)
            Monomials.
        """
        check_is_fitted(self)
        return np.asarray(self._constant + np.square(self._whitened(X)).sum(axis=1))

    def posterior(self, X: ArrayLike) -> tuple[Array, float]:
        """Compute the uncertainty that training leaves in predictions, divided by s².

        Parameters
        ----------
        X : array, shape (n_samples, n_features)
            Monomials.

        Returns
        -------
        covariance : ndarray, shape (n_samples, n_samples)
            Covariance of the predictions, without the noise of measurements.
        noise : float
            Variance of the noise of a measurement, which is 1.
        """
        check_is_fitted(self)
        rows = self._whitened(X)
        return np.asarray(self._constant + rows @ rows.T), 1.0

    def _whitened(self, X: ArrayLike) -> Array:
        return np.asarray((validated(self, X, reset=False, dtype=np.float64) - self._mean) @ self._whitening)


def _orthonormalize(rows: Array) -> tuple[Array, Array]:
    """Compute orthonormal columns Q that span the columns of a matrix A, and the matrix W with A W = Q."""
    if rows.shape[0] >= rows.shape[1]:
        q, triangle = scipy.linalg.qr(rows, mode="economic", check_finite=False)
        if scipy.linalg.lapack.dtrcon(triangle)[0] > max(rows.shape) * np.finfo(float).eps:
            return q, scipy.linalg.solve_triangular(triangle, np.eye(len(triangle)), check_finite=False)
    left, values, right = scipy.linalg.svd(rows, full_matrices=False, check_finite=False)
    kept = values > values[0] * max(rows.shape) * np.finfo(float).eps
    return left[:, kept], right[kept].T / values[kept]
