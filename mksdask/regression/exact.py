"""Kernel ridge regression on all samples, by one Cholesky factorization."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from mksdask.arrays import Array
from mksdask.regression.kernels import CovarianceKernel
from mksdask.schema import ArrayOf, Number, Part, Saved


@dataclass(frozen=True)
class ExactFit:
    """Kernel ridge regression that keeps all samples.

    Parameters
    ----------
    kernel : CovarianceKernel
        Kernel function k.
    scores : ndarray, shape (n_samples, n_components)
        Scaled scores.
    triangle : ndarray, shape (n_samples, n_samples)
        Cholesky factor L, with L Lᵀ = K + αI.
    dual : ndarray, shape (n_samples, n_outputs)
        Dual coefficients (K + αI)⁻¹ y of the centred targets y.
    alpha : float
        Ridge α.
    """

    kernel: CovarianceKernel
    scores: Array
    triangle: Array
    dual: Array
    alpha: float

    _saved = Saved(
        {
            "kernel": Part(CovarianceKernel),
            "scores": ArrayOf("f8", "n_samples", "n_components"),
            "triangle": ArrayOf("f8", "n_samples", "n_samples"),
            "dual": ArrayOf("f8", "n_samples", "n_outputs"),
            "alpha": Number(0),
        }
    )

    @classmethod
    def of(cls, kernel: CovarianceKernel, scores: Array, targets: Array, alpha: float) -> ExactFit:
        """Fit the kernel to scaled scores and centred targets, (n_samples, n_outputs)."""
        matrix = kernel(scores, scores)
        matrix[np.diag_indices_from(matrix)] += alpha
        triangle = scipy.linalg.cholesky(matrix, lower=True, overwrite_a=True, check_finite=False)
        return cls(kernel, scores, triangle, scipy.linalg.cho_solve((triangle, True), targets), alpha)

    @property
    def known(self) -> Array:
        """Scaled scores with which the kernel compares new scores."""
        return self.scores

    def predict(self, scores: Array) -> Array:
        """Predict targets, (n_rows, n_outputs)."""
        return np.asarray(self.kernel(scores, self.scores) @ self.dual)

    def spread(self, scores: Array) -> Array:
        """Compute the predictive variance of new measurements, divided by s². Rasmussen, Williams (2006), Eq. 2.26."""
        solved = scipy.linalg.solve_triangular(
            self.triangle, self.kernel(self.scores, scores), lower=True, check_finite=False, overwrite_b=True
        )
        explained = np.einsum("ji,ji->i", solved, solved)
        return np.asarray(np.maximum(self.kernel.diagonal(scores) - explained, 0.0) + self.alpha)

    def covariance(self, scores: Array) -> Array:
        """Compute the covariance of the predictions, (n, n), divided by s². It excludes the measurement noise."""
        solved = scipy.linalg.solve_triangular(self.triangle, self.kernel(self.scores, scores), lower=True)
        return np.asarray(self.kernel(scores, scores) - solved.T @ solved)

    def squared_ratios(self, groups: Array | None) -> Array:
        """Sum e²/v over samples: e is the error if the sample, or its group, is left out, and s² v is its variance."""
        inverse = scipy.linalg.lapack.dpotri(self.triangle, lower=True)[0]
        if groups is None:
            return np.asarray((self.dual**2 / inverse.diagonal()[:, None]).sum(axis=0))
        inverse += np.tril(inverse, -1).T
        total = np.zeros(self.dual.shape[1])
        for group in np.unique(groups):
            among = np.flatnonzero(groups == group)
            covariance = np.linalg.inv(inverse[np.ix_(among, among)])
            errors = covariance @ self.dual[among]
            total += (errors**2 / covariance.diagonal()[:, None]).sum(axis=0)
        return total
