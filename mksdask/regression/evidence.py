"""Choice of kernel parameters: how well a kernel explains measurements.

The measures have a closed form. One decomposition of the kernel matrix serves every ridge α.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg
from scipy.optimize import minimize_scalar

from mksdask.arrays import Array
from mksdask.regression.kernels import CovarianceKernel

# The ridges to try, relative to the mean of the kernel's diagonal.
RIDGES = np.logspace(-12, 2, 141)
# The first, coarse trial values of γ, as powers of two relative to the inverse of the median squared distance.
_COARSE = {"rbf": np.arange(-14, 6, 2.0), "matern": np.arange(-14, 6, 2.0), "polynomial": np.arange(-10, 5, 2.0)}


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of a kernel matrix, and the targets expressed in its eigenvectors.

    Parameters
    ----------
    values : ndarray, shape (m,)
        Eigenvalues, except those that are known to be 0.
    coordinates : ndarray, shape (m, n_outputs)
        Coordinates of the centred targets along the eigenvectors of `values`.
    rest : ndarray, shape (n_outputs,)
        Sum of squares of the centred targets along all other eigenvectors.
    n_samples : int
        Number of samples.
    diagonal : float
        Mean of the kernel's diagonal. Ridges are multiples of it.
    """

    values: Array
    coordinates: Array
    rest: Array
    n_samples: int
    diagonal: float

    def ridges(self) -> Array:
        """Return the ridges to try."""
        return RIDGES * self.diagonal

    def log_likelihood(self, ridges: Array) -> Array:
        """Compute log p(y) of y ~ N(0, s²(K + αI)) for each α, with the best s² of each output, summed over outputs.

        Rasmussen, Williams, Gaussian Processes for Machine Learning (2006), Eq. 5.8.
        """
        sums = self.values + ridges[:, None]
        variances = ((1.0 / sums) @ self.coordinates**2 + self.rest / ridges[:, None]) / self.n_samples
        determinants = np.log(sums).sum(axis=1) + (self.n_samples - len(self.values)) * np.log(ridges)
        tiny = np.finfo(float).tiny
        return -0.5 * (
            self.n_samples * np.log(np.maximum(variances, tiny)).sum(axis=1) + self.coordinates.shape[1] * determinants
        )


def leave_one_out(matrix: Array, targets: Array, ridges: Array) -> Array:
    """Score each α by the mean squared error of predicting each sample from all others.

    The score is -n/2 times the log of this error, summed over outputs. The errors follow Rasmussen, Williams (2006),
    Eq. 5.12.
    """
    values, vectors = scipy.linalg.eigh(matrix, check_finite=False)
    inverse = 1.0 / (np.maximum(values, 0.0) + ridges[:, None])
    coordinates, squares = vectors.T @ targets, vectors**2
    found = np.empty(len(ridges))
    for number, scale in enumerate(inverse):
        errors = vectors @ (scale[:, None] * coordinates) / (squares @ scale)[:, None]
        found[number] = -len(targets) * np.log(np.mean(errors**2, axis=0) + np.finfo(float).tiny).sum() / 2
    return found


def spectrum_of(matrix: Array, targets: Array) -> Spectrum:
    """Compute the spectrum of the kernel matrix of samples."""
    values, vectors = scipy.linalg.eigh(matrix, check_finite=False)
    diagonal = float(np.trace(matrix)) / len(matrix)
    return Spectrum(np.maximum(values, 0.0), vectors.T @ targets, np.zeros(targets.shape[1]), len(targets), diagonal)


def select(
    kernel: CovarianceKernel, scores: Array, targets: Array, *, alpha: float | None, gamma: float | None, criterion: str
) -> tuple[float, float]:
    """Choose the α and γ that explain the targets best. Values that are given stay fixed.

    Parameters
    ----------
    kernel : CovarianceKernel
        A kernel with the kind, degree and coef0 to use. Its gamma is ignored.
    scores : ndarray, shape (n_samples, n_components)
        Scaled scores.
    targets : ndarray, shape (n_samples, n_outputs)
        Centred targets, each output of unit variance.
    alpha, gamma : float or None
        A fixed value, or None if the value is to be chosen.
    criterion : {"likelihood", "loo"}
        Measure of the best explanation: the marginal likelihood, or the error of leaving one sample out.

    Returns
    -------
    alpha, gamma : float
    """

    def best(log_gamma: float) -> tuple[float, float]:
        """Return the best score for a γ, and the α that reaches it."""
        matrix = replace(kernel, gamma=2.0**log_gamma)(scores, scores)
        if criterion == "likelihood":
            spectrum = spectrum_of(matrix, targets)
            ridges = spectrum.ridges() if alpha is None else np.array([alpha])
            merits = spectrum.log_likelihood(ridges)
        else:
            ridges = RIDGES * np.trace(matrix) / len(matrix) if alpha is None else np.array([alpha])
            merits = leave_one_out(matrix, targets, ridges)
        number = int(merits.argmax())
        return float(merits[number]), float(ridges[number])

    if callable(kernel.kind):
        gamma = 1.0
    if gamma is not None:
        return best(float(np.log2(gamma)))[1], gamma
    start = -np.log2(_squared_spread(scores, kernel))
    coarse = _COARSE[str(kernel.kind)]
    merits = [best(start + step)[0] for step in coarse]
    middle = start + coarse[int(np.argmax(merits))]
    found = minimize_scalar(
        lambda log_gamma: -best(log_gamma)[0],
        bounds=(middle - 2.0, middle + 2.0),
        method="bounded",
        options={"xatol": 0.05, "maxiter": 12},
    )
    log_gamma = float(found.x) if -found.fun > max(merits) else float(middle)
    return best(log_gamma)[1], 2.0**log_gamma


def _squared_spread(scores: Array, kernel: CovarianceKernel) -> float:
    """Return the scale of 1/γ: the median squared distance, or the mean square for kernels of inner products."""
    squares = np.einsum("ik,ik->i", scores, scores)
    if kernel.kind == "polynomial":
        return float(squares.mean()) or 1.0
    distances = squares[:, None] + squares - 2.0 * scores @ scores.T
    return float(np.median(distances[np.triu_indices(len(scores), 1)])) or 1.0 if len(scores) > 1 else 1.0
