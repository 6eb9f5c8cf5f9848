"""Kernel ridge regression on all samples, by one Cholesky factorization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from mksdask.regression.kernels import Kernel
from mksdask.storage.schema import ArrayOf, Number, Part, Saved

Array = NDArray[Any]


@dataclass(frozen=True)
class ExactFit:
    """Kernel ridge regression on all samples.

    Parameters
    ----------
    kernel : Kernel
        k.
    scores : ndarray, shape (n_samples, n_components)
        Scaled.
    triangle : ndarray, shape (n_samples, n_samples)
        L of L Lᵀ = K + αI.
    dual : ndarray, shape (n_samples, n_outputs)
        (K + αI)⁻¹ of the targets.
    alpha : float
        Ridge.
    """

    kernel: Kernel
    scores: Array
    triangle: Array
    dual: Array
    alpha: float

    _saved = Saved(
        {
            "kernel": Part(Kernel),
            "scores": ArrayOf("f8", "n_samples", "n_components"),
            "triangle": ArrayOf("f8", "n_samples", "n_samples"),
            "dual": ArrayOf("f8", "n_samples", "n_outputs"),
            "alpha": Number(0),
        }
    )

    @classmethod
    def of(cls, kernel: Kernel, scores: Array, targets: Array, alpha: float) -> ExactFit:
        """From scaled scores and centred targets, (n_samples, n_outputs)."""
        matrix = kernel(scores, scores)
        matrix[np.diag_indices_from(matrix)] += alpha
        triangle = scipy.linalg.cholesky(matrix, lower=True, overwrite_a=True, check_finite=False)
        return cls(kernel, scores, triangle, scipy.linalg.cho_solve((triangle, True), targets), alpha)

    @property
    def known(self) -> Array:
        """Scaled scores that kernels are taken with."""
        return self.scores

    def predict(self, scores: Array) -> Array:
        """Targets, (n_rows, n_outputs)."""
        return np.asarray(self.kernel(scores, self.scores) @ self.dual)

    def spread(self, scores: Array) -> Array:
        """Predictive variance over s². Rasmussen, Williams (2006), Eq. 2.26, of a new measurement."""
        solved = scipy.linalg.solve_triangular(
            self.triangle, self.kernel(self.scores, scores), lower=True, check_finite=False, overwrite_b=True
        )
        explained = np.einsum("ji,ji->i", solved, solved)
        return np.asarray(np.maximum(self.kernel.diagonal(scores) - explained, 0.0) + self.alpha)

    def covariance(self, scores: Array) -> Array:
        """Covariance over s² of the function at scores, (n, n), without the noise of a measurement."""
        solved = scipy.linalg.solve_triangular(self.triangle, self.kernel(self.scores, scores), lower=True)
        return np.asarray(self.kernel(scores, scores) - solved.T @ solved)

    def squared_ratios(self, groups: Array | None) -> Array:
        """Sum over samples of (error by all others, or all other groups)² over its variance but for s²."""
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
