"""Kernels, the covariance functions of scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mksdask.arrays import Array
from mksdask.schema import Choice, Number, Saved

KERNELS = ("rbf", "polynomial", "matern")


@dataclass(frozen=True)
class CovarianceKernel:
    """A kernel with fixed parameters.

    Parameters
    ----------
    kind : str or callable
        Name of the kernel, or a function. See `KernelRegressor`.
    gamma, degree, coef0 : float
        Parameters of the kernel.
    """

    kind: str | Callable[[Array, Array], Array]
    gamma: float = 1.0
    degree: float = 3
    coef0: float = 1.0

    _saved = Saved({"kind": Choice(*KERNELS), "gamma": Number(0), "degree": Number(0), "coef0": Number(0)})

    def __call__(self, a: Array, b: Array) -> Array:
        """Compute the kernel matrix, (len(a), len(b))."""
        if callable(self.kind):
            return np.asarray(self.kind(a, b), dtype=np.float64)
        product = a @ b.T
        if self.kind == "polynomial":
            product *= self.gamma
            product += self.coef0
            return np.asarray(product**self.degree)
        squares = product
        squares *= -2.0
        squares += np.einsum("ik,ik->i", a, a)[:, None]
        squares += np.einsum("ik,ik->i", b, b)
        np.maximum(squares, 0.0, out=squares)
        if self.kind == "rbf":
            squares *= -self.gamma
            return np.exp(squares, out=squares)
        # The length scale ℓ follows from 1/ℓ² = 2γ, as for rbf.
        ratio = np.sqrt(10.0 * self.gamma * squares)
        return np.asarray((1.0 + ratio + ratio**2 / 3.0) * np.exp(-ratio))

    def diagonal(self, a: Array) -> Array:
        """Compute k(x, x) of each row."""
        if callable(self.kind):
            return np.array([float(self(row[None], row[None])[0, 0]) for row in a])
        if self.kind == "polynomial":
            return np.asarray((self.gamma * np.einsum("ik,ik->i", a, a) + self.coef0) ** self.degree)
        return np.ones(len(a))
