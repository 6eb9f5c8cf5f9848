"""Nyström features: a kernel approximated through a few landmarks, and least squares on them by streamed QR factors.

A factor R of the rows [1 | Φ | y] represents all rows that it has absorbed: RᵀR = Σ rowᵀ row. It is computed by
reflections, which do not square the condition number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

from mksdask.arrays import Array, is_lazy
from mksdask.compute.plans import Limit
from mksdask.regression.evidence import Spectrum
from mksdask.regression.kernels import CovarianceKernel
from mksdask.schema import ArrayOf, Number, Part, Saved, agree

# Directions of the landmarks' kernel matrix are kept above this share of the largest eigenvalue. Others are rounding.
_LEAST = 1e-13
# The number of rows absorbed at once, in multiples of the number of columns.
ROWS_AT_ONCE = 3


def task_bytes(n_landmarks: int, scores: Any, target: Any, limit: Limit) -> int:
    """Count the peak bytes of a task on a chunk of scores.

    Raises
    ------
    DoesNotFitError
        If the scores are lazy, and a task does not fit.
    """
    others = 1 + (1 if target.ndim == 1 else target.shape[1])
    rows, columns = max(scores.chunks[0]) if is_lazy(scores) else len(scores), n_landmarks + others
    # A task holds the rows to absorb, their stack below a factor, a copy of it for LAPACK, and their kernel matrix.
    needed = int(8 * columns * columns * (3 * ROWS_AT_ONCE + 3) + 3 * rows * 8 * (scores.shape[1] + others - 1))
    if needed > limit.task_bytes and is_lazy(scores):
        what = f"regression on {n_landmarks} landmarks"
        raise limit.refusal(needed, what, "use fewer n_landmarks, or smaller chunks of X")
    return needed


@dataclass(frozen=True)
class LandmarkFeatures:
    """Features φ with φ(x)·φ(x') ≈ k(x, x'). This is exact if x or x' is a landmark."""

    kernel: CovarianceKernel
    landmarks: Array
    whitening: Array  # (n_landmarks, n_features)

    _saved = Saved(
        {
            "kernel": Part(CovarianceKernel),
            "landmarks": ArrayOf("f8", "n_landmarks", "n_components"),
            "whitening": ArrayOf("f8", "n_landmarks", "n_features"),
        }
    )

    @classmethod
    def of(cls, kernel: CovarianceKernel, landmarks: Array) -> LandmarkFeatures:
        """Make features from landmarks, (n_landmarks, n_components)."""
        values, vectors = scipy.linalg.eigh(kernel(landmarks, landmarks), check_finite=False)
        kept = values > _LEAST * values[-1]
        return cls(kernel, landmarks, vectors[:, kept] / np.sqrt(values[kept]))

    def __call__(self, scores: Array) -> Array:
        """Compute the features of rows, (n_rows, n_features)."""
        return np.asarray(self.kernel(scores, self.landmarks) @ self.whitening)

    @property
    def n_features(self) -> int:
        """Number of features."""
        return int(self.whitening.shape[1])


def choose_landmarks(kernel: CovarianceKernel, pool: Array, n: int, rng: np.random.Generator) -> Array:
    """Choose rows of a pool that explain the other rows well.

    They are the pivots of a Cholesky factorization of the kernel matrix. Each pivot is drawn with a probability
    proportional to the part of its diagonal that is not yet explained: Chen, Epperly, Tropp, Webber, Randomly pivoted
    Cholesky. Commun. Pure Appl. Math. 78 (2025) 995, Alg. 1.

    Parameters
    ----------
    kernel : CovarianceKernel
        Kernel with fixed parameters.
    pool : ndarray, shape (n_rows, n_components)
        Scaled scores.
    n : int
        Largest number of landmarks.
    rng : Generator
        Source of random numbers.
    """
    left = kernel.diagonal(pool).astype(np.float64)
    least = 1e-13 * float(left.sum())
    factor: Array = np.empty((min(n, len(pool)), len(pool)))
    chosen: list[int] = []
    while len(chosen) < len(factor) and left.sum() > least:
        pivot = int(rng.choice(len(pool), p=left / left.sum()))
        known = factor[: len(chosen)]
        column = kernel(pool, pool[pivot : pivot + 1])[:, 0] - known.T @ known[:, pivot]
        # `left` was updated by differences, so a small value may be pure rounding.
        if column[pivot] > 0:
            factor[len(chosen)] = column / np.sqrt(column[pivot])
            left = np.maximum(left - factor[len(chosen)] ** 2, 0.0)
            chosen.append(pivot)
        left[pivot] = 0.0
    return np.asarray(pool[sorted(chosen)])


def absorb(factor: Array | None, rows: Array) -> Array:
    """Absorb further rows into a factor, and return the new factor."""
    stacked = rows if factor is None else np.concatenate([factor, rows])
    return np.asarray(np.linalg.qr(stacked, mode="r"))


def factor_of_rows(features: LandmarkFeatures, scores: Array, targets: Array) -> Array:
    """Compute the factor of a block of samples."""
    factor: Array | None = None
    for part in _parts(features, len(scores), targets.shape[1]):
        phi = features(scores[part])
        factor = absorb(factor, np.concatenate([np.ones((len(phi), 1)), phi, targets[part]], axis=1))
    assert factor is not None
    return factor


def _parts(features: LandmarkFeatures, n_rows: int, n_outputs: int) -> Iterator[slice]:
    step = ROWS_AT_ONCE * (1 + features.n_features + n_outputs)
    return (slice(start, start + step) for start in range(0, n_rows, step))


@dataclass(frozen=True)
class LandmarkFit:
    """Ridge regression on landmark features, with a constant that is not shrunk.

    Parameters
    ----------
    features : LandmarkFeatures
        Features φ.
    weights : ndarray, shape (1 + n_features, n_outputs)
        Weights of the constant and of the features.
    triangle : ndarray, shape (1 + n_features, 1 + n_features)
        Factor R of the penalized problem. The covariance of the weights is s²α (RᵀR)⁻¹.
    alpha : float
        Ridge α.
    """

    features: LandmarkFeatures
    weights: Array
    triangle: Array
    alpha: float

    _saved = Saved(
        {
            "features": Part(LandmarkFeatures),
            "weights": ArrayOf("f8", "1 + n_features", "n_outputs"),
            "triangle": ArrayOf("f8", "1 + n_features", "1 + n_features"),
            "alpha": Number(0),
        }
    )

    def _restored(self, most: int) -> None:
        agree("n_features", self.features.n_features, len(self.weights) - 1)

    @classmethod
    def of(cls, features: LandmarkFeatures, factor: Array, alpha: float) -> LandmarkFit:
        """Fit from the factor of all samples."""
        m = 1 + features.n_features
        square = np.zeros((max(m, len(factor)), factor.shape[1]))
        square[: len(factor)] = factor
        penalty = np.zeros((m - 1, factor.shape[1]))
        np.fill_diagonal(penalty[:, 1:], np.sqrt(alpha))
        whole = absorb(square, penalty)
        triangle = whole[:m, :m]
        return cls(features, scipy.linalg.solve_triangular(triangle, whole[:m, m:]), triangle, alpha)

    @property
    def known(self) -> Array:
        """Scaled scores with which the kernel compares new scores."""
        return self.features.landmarks

    def predict(self, scores: Array) -> Array:
        """Predict targets, (n_rows, n_outputs)."""
        return np.asarray(self.features(scores) @ self.weights[1:] + self.weights[0])

    def leverage(self, phi: Array) -> Array:
        """Compute the weight of a sample with features φ in its own prediction, if the fit has absorbed it."""
        rows = np.concatenate([np.ones((len(phi), 1)), phi], axis=1)
        solved = scipy.linalg.solve_triangular(self.triangle, rows.T, trans="T", check_finite=False)
        return np.asarray(np.einsum("mi,mi->i", solved, solved))

    def spread(self, scores: Array) -> Array:
        """Compute the predictive variance of samples that the fit has not absorbed, divided by s²."""
        phi = self.features(scores)
        unexplained = np.maximum(self.features.kernel.diagonal(scores) - np.einsum("im,im->i", phi, phi), 0.0)
        return np.asarray(unexplained + self.alpha * (1.0 + self.leverage(phi)))

    def covariance(self, scores: Array) -> Array:
        """Compute the covariance of the predictions, (n, n), divided by s². It excludes the measurement noise."""
        phi = self.features(scores)
        rows = np.concatenate([np.ones((len(phi), 1)), phi], axis=1)
        solved = scipy.linalg.solve_triangular(self.triangle, rows.T, trans="T")
        return np.asarray(self.features.kernel(scores, scores) - phi @ phi.T + self.alpha * (solved.T @ solved))

    def squared_ratios(self, scores: Array, targets: Array) -> Array:
        """Sum e²/v over absorbed samples: e is the error if the sample is left out, and s² v is its variance."""
        total = np.zeros(targets.shape[1])
        for part in _parts(self.features, len(scores), targets.shape[1]):
            phi = self.features(scores[part])
            leverage = np.minimum(self.leverage(phi), 1.0 - 1e-9)
            unexplained = self.features.kernel.diagonal(scores[part]) - np.einsum("im,im->i", phi, phi)
            variance = np.maximum(unexplained, 0.0) + self.alpha / (1.0 - leverage)
            errors = (targets[part] - phi @ self.weights[1:] - self.weights[0]) / (1.0 - leverage)[:, None]
            total += (errors**2 / variance[:, None]).sum(axis=0)
        return total


def spectrum_of_factor(features: LandmarkFeatures, factor: Array, n_samples: int, diagonal: float) -> Spectrum:
    """Compute the spectrum of ΦΦᵀ after the constant is projected out."""
    m = 1 + features.n_features
    rest = factor[m:, m:]
    left, singular, _ = scipy.linalg.svd(factor[1:m, 1:m], full_matrices=False)
    coordinates = left.T @ factor[1:m, m:]
    outside = (rest**2).sum(axis=0) + np.maximum((factor[1:m, m:] ** 2).sum(axis=0) - (coordinates**2).sum(axis=0), 0.0)
    return Spectrum(singular**2, coordinates, outside, n_samples, diagonal)
