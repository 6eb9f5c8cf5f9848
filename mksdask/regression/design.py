"""The choice of the samples to measure next: their measurement tells most about the samples that stay unmeasured."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from mksdask.arrays import ArrayLike, numbers_argument, to_numpy
from mksdask.schema.arguments import checked

# At most so many samples are candidates and stand for the whole pool: their covariance takes 128 MB.
CANDIDATES = 4000


@checked
def next_samples(linker: Any, scores: ArrayLike, n: int, *, random_state: int | None = 0) -> NDArray[np.intp]:
    r"""Choose the samples of a pool that are most worth measuring.

    Samples are chosen one after the other. Each step chooses the sample i that reduces the predictive variance of the
    whole pool the most, by

    .. math:: \sum_j \frac{C_{ij}^2}{C_{ii} + \sigma^2}

    and then conditions the covariance C on it. For both regressors of this package, C does not depend on the measured
    values, so a batch needs no measurements in between. Two samples that are alike are not both chosen. Outliers that
    tell nothing about other samples are not chosen either.

    Parameters
    ----------
    linker : estimator
        A fitted regressor with a method ``posterior(scores)``, or a pipeline whose last step has one, such as
        `KernelRegressor` and `polynomial_regression`.
    scores : array, shape (n_pool, n_components)
        Scores of the pool. If there are more than 4000 samples, 4000 of them are drawn at random, and n of these are
        chosen.
    n : int
        Number of samples to choose, at most 4000.
    random_state : int, optional
        Seed of the random draw.

    Returns
    -------
    ndarray of int, shape (n,)
        Rows of `scores`, the most useful first.

    Raises
    ------
    TypeError
        If the linker has no method `posterior`.
    ValueError
        If n is not an integer between 1 and the size of the pool, or 4000.

    References
    ----------
    Cohn, D. A., Ghahramani, Z., Jordan, M. I. Active learning with statistical models. J. Artif. Intell. Res. 4 (1996)
    129.
    Seo, S., Wallat, M., Graepel, T., Obermayer, K. Gaussian process regression: active data selection and test point
    rejection. IJCNN (2000) 241.

    Examples
    --------
    >>> import numpy as np
    >>> from mksdask.regression import polynomial_regression
    >>> linker = polynomial_regression(1).fit([[0.0], [0.1], [0.2]], [0.0, 0.1, 0.25])
    >>> next_samples(linker, np.linspace(-1, 1, 21)[:, None], 2)
    array([ 0, 20])
    """
    pool = numbers_argument(to_numpy(scores, name="scores"), "scores")
    if pool.ndim != 2:
        msg = f"scores must be a matrix (n_samples, n_components), got shape {pool.shape}"
        raise ValueError(msg)
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or not 1 <= n <= min(len(pool), CANDIDATES):
        msg = f"n must be an integer between 1 and {min(len(pool), CANDIDATES)}, for a pool of {len(pool)}, got {n!r}"
        raise ValueError(msg)
    if isinstance(linker, Pipeline):
        pool, linker = linker[:-1].transform(pool), linker[-1]
    if not callable(getattr(linker, "posterior", None)):
        msg = (
            f"property_linker {linker!r} does not know the covariance of its predictions; use 'kernel', 'polynomial' "
            "or an estimator with a method posterior(scores) that returns this matrix and the variance of a measurement"
        )
        raise TypeError(msg)
    rows = np.arange(len(pool))
    if len(pool) > CANDIDATES:
        rows = np.sort(np.random.default_rng(random_state).choice(len(pool), CANDIDATES, replace=False))
    covariance, noise = linker.posterior(pool[rows])
    gains = np.square(covariance).sum(axis=0)
    chosen = np.empty(n, dtype=np.intp)
    for number in range(n):
        merit = gains / (np.maximum(covariance.diagonal(), 0.0) + noise)
        merit[chosen[:number]] = -np.inf
        i = chosen[number] = merit.argmax()
        step = covariance[i] / np.sqrt(max(covariance[i, i], 0.0) + noise)
        # This updates the squared column norms to those of C - s sᵀ, without another pass over the matrix.
        gains += step**2 * (step @ step) - 2.0 * step * (covariance @ step)
        covariance -= np.outer(step, step)
    return np.asarray(rows[chosen])
