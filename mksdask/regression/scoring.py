"""Scores of lazy predictions, which are computed a chunk at a time.

Accuracy is that of dask-ml. Its `r2_score` fails with dask 2025.2 and later, and it takes no weights, so R² is summed
here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from dask_ml.metrics import accuracy_score
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.pipeline import Pipeline

from mksdask.arrays import Array, ArrayLike, refuse_unnumeric
from mksdask.compute.blocks import computed, fold_samples, in_chunks_of, map_samples
from mksdask.labels import paired


def refuse_overflow(*fitted: Array) -> None:
    """Refuse a fit whose numbers are not finite.

    Raises
    ------
    ValueError
        If a number is NaN or infinite.
    """
    if not all(np.isfinite(part).all() for part in fitted):
        msg = "the fit overflowed, so its predictions would be NaN; scale X and y to numbers of order one"
        raise ValueError(msg)


class PairedScore(RegressorMixin):
    """A regressor whose R² pairs the samples of X, y and weights by their labels, as its `fit` does."""

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Compute R² of the predictions.

        Parameters
        ----------
        X : array, shape (n_samples, n_features)
            Scores of samples.
        y : array, shape (n_samples,) or (n_samples, n_targets)
            True targets. Samples that have labels in X too are paired by them, and so are weights.
        sample_weight : array, shape (n_samples,), optional
            Weight of each sample.
        """
        y, sample_weight = paired(X, y, sample_weight=sample_weight)
        for name, array in {"y": y, "sample_weight": sample_weight}.items():
            refuse_unnumeric(array, name=name)
        try:
            return float(super().score(X, y, sample_weight))
        except (TypeError, ValueError) as error:
            if "X" in str(error):
                raise
            msg = f"y or sample_weight does not fit to X: {error}"
            raise ValueError(msg) from error


@dataclass(frozen=True)
class Errors:
    """Sums over samples from which R² follows.

    Parameters
    ----------
    weight : float
        Sum of the weights of the samples.
    mean, scatter, residual : ndarray, shape (n_properties,)
        Mean of the true properties, and sums of their squared deviations from it and from the predictions.
    """

    weight: float
    mean: Array
    scatter: Array
    residual: Array

    @classmethod
    def of(cls, truth: Array, predicted: Array, weights: Array | None = None) -> Self:
        """Sum over a block of samples.

        Raises
        ------
        ValueError
            If shapes differ, or a value is not finite.
        """
        truth, predicted = (np.asarray(part, np.float64).reshape(len(part), -1) for part in (truth, predicted))
        if truth.shape[1] != predicted.shape[1]:
            msg = f"y must have {predicted.shape[1]} properties for each sample, as in fit, got {truth.shape[1]}"
            raise ValueError(msg)
        if not (np.isfinite(truth).all() and np.isfinite(predicted).all()):
            msg = "y and the predictions must be finite to be scored; leave out the samples without a property"
            raise ValueError(msg)
        weights = np.ones(len(truth)) if weights is None else np.asarray(weights, np.float64)
        mean = weights @ truth / (weights.sum() or 1.0)
        return cls(
            float(weights.sum()), mean, weights @ np.square(truth - mean), weights @ np.square(truth - predicted)
        )

    def merge(self, other: Errors) -> Errors:
        """Add the samples of another block."""
        weight, shift = self.weight + other.weight, other.mean - self.mean
        share = other.weight / (weight or 1.0)
        scatter = self.scatter + other.scatter + self.weight * share * np.square(shift)
        return Errors(weight, self.mean + share * shift, scatter, self.residual + other.residual)

    @property
    def r2(self) -> float:
        """R², averaged over properties. A constant property counts 0 if it is missed, as in scikit-learn."""
        is_constant = self.scatter == 0
        missed = np.where(is_constant, self.residual > 0, self.residual / np.where(is_constant, 1.0, self.scatter))
        return float((1.0 - missed).mean())


def _known(truth: Array) -> Array:
    """Refuse samples of unknown class."""
    if pd.isna(truth).any():
        msg = "y must hold the class of each sample that is scored; leave out the samples of unknown class"
        raise ValueError(msg)
    return truth


def lazy_score(linker: Any, truth: Any, predicted: Any, weights: Any) -> float | None:
    """Score lazy predictions as the linker itself would score them. They are computed once.

    Parameters
    ----------
    linker : estimator
        A fitted regressor or classifier.
    truth : array, shape (n_samples,) or (n_samples, n_properties)
        True properties or classes.
    predicted : dask array of the shape of `truth`
        Predictions of the linker.
    weights : array, shape (n_samples,), or None
        Weight of each sample.

    Returns
    -------
    float or None
        R² or accuracy. None if the linker has a score of its own.
    """
    last = linker[-1] if isinstance(linker, Pipeline) else linker
    score = getattr(type(last), "score", RegressorMixin.score)
    if len(predicted) < 2 or score not in (RegressorMixin.score, PairedScore.score, ClassifierMixin.score):
        return None
    truth, weights = (None if part is None else in_chunks_of(predicted, part) for part in (truth, weights))
    if score is not ClassifierMixin.score:
        truth = truth.rechunk(dict.fromkeys(range(1, truth.ndim), -1))
        errors = fold_samples(Errors.of, Errors.merge, truth, predicted, weights, name="score")
        return float(computed(errors).r2)
    if truth.ndim > 1:
        return None
    truth = map_samples(_known, truth, tail=(), dtype=truth.dtype, name="known")
    return float(accuracy_score(truth, predicted, sample_weight=weights))
