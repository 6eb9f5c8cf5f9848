"""Kernel ridge regression with a predictive spread: exact for few samples, through landmarks for any number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, MultiOutputMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from mksdask.arrays import LABELLED, Array, ArrayLike, is_lazy, is_number, label, to_numpy, unwrap, validated
from mksdask.compute.blocks import computed, fold_samples, map_samples
from mksdask.compute.graph import check_known
from mksdask.compute.operation import Operation, operation
from mksdask.compute.plans import Limit, Plan, Stage
from mksdask.display.cards import WithCard, card
from mksdask.labels import paired
from mksdask.regression.evidence import leave_one_out, select, spectrum_of
from mksdask.regression.exact import ExactFit
from mksdask.regression.kernels import KERNELS, CovarianceKernel
from mksdask.regression.landmarks import (
    ROWS_AT_ONCE,
    LandmarkFeatures,
    LandmarkFit,
    absorb,
    choose_landmarks,
    factor_of_rows,
    spectrum_of_factor,
    task_bytes,
)
from mksdask.regression.scoring import PairedScore, refuse_overflow
from mksdask.regression.targets import group_names, lazy_rows
from mksdask.schema import FLAG, NOTHING, POSITIVE, ArrayOf, Choice, Number, Part, Saved, Whole, agree
from mksdask.schema.arguments import checked

# By default, up to so many samples are fitted exactly. This takes four matrices of 128 MB.
EXACT_SAMPLES = 4000
LANDMARKS = 1000
# Kernel parameters are chosen on at most so many samples.
SELECTION_SAMPLES = 1000
# So many candidates are drawn for each landmark.
POOL = 8
# Rows are predicted in pieces whose kernel matrix takes this many bytes.
PREDICTION_BYTES = 32 * 2**20


class KernelRegressor(WithCard, MultiOutputMixin, PairedScore, BaseEstimator):
    r"""Kernel ridge regression on scores, with a predictive spread, for any number of samples.

    .. math:: p(\mu) = \bar p + \sum_j k(\mu, \mu_j) c_j, \qquad (K + \alpha I) c = p - \bar p

    This is the mean of a Gaussian process of variance s², whose measurements have noise of variance α s². All scores
    are divided by the largest standard deviation among the components, so that γ is of order one.

    Parameters
    ----------
    kernel : {"rbf", "polynomial", "matern"} or callable, default "rbf"
        rbf
            :math:`\exp(-\gamma |\mu - \mu'|^2)`
        polynomial
            :math:`(\gamma\, \mu \cdot \mu' + c_0)^{degree}`
        matern
            The Matérn kernel with ν = 5/2 and the length scale :math:`1/\sqrt{2\gamma}`.
        callable
            ``kernel(A, B)`` takes two matrices of scaled scores and returns the kernel of their rows, shape
            (len(A), len(B)). The kernel must be symmetric and positive.
    alpha : float or "auto", default "auto"
        Ridge α.
    gamma : float or "auto", default "auto"
        Parameter γ of the kernel.
    degree, coef0 : float, default 3 and 1
        Parameters of the polynomial kernel.
    n_landmarks : int, optional
        Number of landmarks through which the kernel is approximated (Nyström). Default: None, which means an exact fit
        for up to 4000 samples, and 1000 landmarks for more.
    criterion : {"likelihood", "loo"}, default "likelihood"
        Criterion by which "auto" chooses: the marginal likelihood, or the mean squared error of predicting each sample
        from all others. Both have a closed form for any α. γ is chosen on at most 1000 samples.
    random_state : int or RandomState, optional
        Source of the random draws of landmarks and of the samples on which parameters are chosen. Default: 0, so that
        a repeated fit gives the same result.

    Attributes
    ----------
    alpha_, gamma_ : float
        The given or the chosen parameters.
    landmarks_ : ndarray, shape (≤ n_landmarks, n_components), or None
        Landmarks in scaled scores. None for an exact fit.
    scale_ : float
        Largest standard deviation among the scores, or 1 if no score varies.
    spread_ : ndarray, shape (n_outputs,)
        Scale s of the predictive spread, in units of the targets.
    n_features_in_ : int
        Number of components.

    Notes
    -----
    *Spread.* The spread is calibrated by leaving out one sample at a time, or one group at a time if `fit` is given
    groups. s² of each output is chosen such that the errors of predicting each sample from all others, divided by their
    standard deviations, have a mean square of 1. G groups determine the spread with only G - 1 degrees of freedom, so
    it is widened by :math:`\sqrt{(G - 1)/(G - 3)}`, the standard deviation of Student's t. At least 3 degrees of
    freedom are counted.

    *Landmarks* are drawn from the samples by randomly pivoted Cholesky. The least squares problem on their features is
    solved by streamed QR factors of [1 | Φ | y], with one task for each chunk. This does not square the condition
    number.

    *Memory.* A task with landmarks takes its chunk and 12 matrices of 8 n_landmarks² bytes, for any number of samples.
    Lazy scores are then read three times: for the scale and the candidates, for the factors, and for the calibration.
    An exact fit loads the scores and takes 4 matrices of 8 n² bytes.

    References
    ----------
    Rasmussen, C. E., Williams, C. K. I. Gaussian Processes for Machine Learning. MIT Press (2006).
    Chen, Y., Epperly, E. N., Tropp, J. A., Webber, R. J. Randomly pivoted Cholesky. Commun. Pure Appl. Math. 78 (2025)
    995.

    Examples
    --------
    >>> import numpy as np
    >>> scores = np.random.default_rng(0).uniform(-2, 2, size=(60, 2))
    >>> model = KernelRegressor().fit(scores, np.sin(scores).sum(axis=1))
    >>> mean, spread = model.predict([[0.5, -1.0]], return_std=True)
    >>> bool(abs(mean[0] - np.sin(0.5) + np.sin(1.0)) < 0.01), bool(spread[0] < 0.01)
    (True, True)
    """

    landmarks_: Array | None
    _fit: ExactFit | LandmarkFit

    _saved = Saved(
        {
            "kernel": Choice(*KERNELS),
            "alpha": Choice("auto") | Number(),
            "gamma": Choice("auto") | Number(),
            "degree": Number(),
            "coef0": Number(),
            "n_landmarks": Whole() | NOTHING,
            "criterion": Choice("likelihood", "loo"),
            "random_state": Whole() | NOTHING,
        },
        fitted={
            "_fit": Part(ExactFit, LandmarkFit),
            "scale_": POSITIVE,
            "spread_": ArrayOf("f8", "n_outputs", finite=False),
            "_mean": ArrayOf("f8", "n_outputs"),
            "_deviation": ArrayOf("f8", "n_outputs"),
            "_one_column": FLAG,
        },
    )

    def __init__(
        self,
        kernel: str | Callable[[Array, Array], Array] = "rbf",
        *,
        alpha: float | str = "auto",
        gamma: float | str = "auto",
        degree: float = 3,
        coef0: float = 1.0,
        n_landmarks: int | None = None,
        criterion: str = "likelihood",
        random_state: Any = None,
    ) -> None:
        self.kernel = kernel
        self.alpha = alpha
        self.gamma = gamma
        self.degree = degree
        self.coef0 = coef0
        self.n_landmarks = n_landmarks
        self.criterion = criterion
        self.random_state = random_state

    @operation
    @checked
    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> Operation[Self]:
        """Choose the parameters that are "auto", and fit.

        Parameters
        ----------
        X : array, shape (n_samples, n_components)
            Scores; NumPy, or dask with whole rows in each chunk.
        y : array, shape (n_samples,) or (n_samples, n_outputs)
            Targets; NumPy or dask. Samples that have labels in both X and y are paired by them, and so are `groups`.
        groups : array, shape (n_samples,), optional
            Group of each sample, such as its grain shape. The spread is then calibrated by leaving out whole groups, so
            that it holds for samples of a group that training has not seen. Only an exact fit takes groups.

        Raises
        ------
        ValueError
            If a parameter is not valid, if the arrays do not fit together, or if they hold NaN.
        """
        return _Fit(self, X, *paired(X, y, groups=groups))

    def _fit_checked(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None) -> None:
        self._check_parameters()
        data: Any = unwrap(X)[0] if isinstance(X, LABELLED) else X
        check_known(data)
        if is_lazy(data) and self._n_landmarks(len(data)) is not None:
            data, target = lazy_rows(data, y)
            self.n_features_in_ = int(data.shape[1])
        else:
            loaded = to_numpy(data) if is_lazy(data) else data, y if y is None else to_numpy(y, name="y")
            data, target = validated(self, *loaded, dtype=np.float64, multi_output=True, y_numeric=True)
            target = np.asarray(target, dtype=np.float64)
        n_landmarks = self._n_landmarks(len(data))
        if groups is not None and n_landmarks is not None:
            msg = (
                f"groups need an exact fit, got {n_landmarks} landmarks for {len(data)} samples; use n_landmarks=None "
                f"and at most {EXACT_SAMPLES} samples"
            )
            raise ValueError(msg)
        self._one_column = target.ndim == 1
        target = target.reshape(len(target), -1)
        random = check_random_state(0 if self.random_state is None else self.random_state)
        rng = np.random.default_rng(random.randint(2**31))
        if n_landmarks is None:
            self._fit_exact(data, target, None if groups is None else group_names(groups), rng)
        else:
            self._fit_landmarks(data, target, n_landmarks, rng)

    def _restored(self, most: int) -> None:
        self._check_parameters()
        fit = self._fit
        weights = fit.dual if isinstance(fit, ExactFit) else fit.weights
        agree("the outputs of _fit", weights.shape[1], len(self._mean))
        agree("_one_column", self._one_column, self._one_column and len(self._mean) == 1)
        self._set_fit(fit)
        self.n_features_in_ = int(fit.known.shape[1])

    def _set_fit(self, fit: ExactFit | LandmarkFit) -> None:
        if isinstance(fit, ExactFit):
            kernel, weights, self.landmarks_ = fit.kernel, fit.dual, None
        else:
            kernel, weights, self.landmarks_ = fit.features.kernel, fit.weights, fit.features.landmarks
        refuse_overflow(weights, self._mean, self._deviation)
        self._fit, self.alpha_, self.gamma_ = fit, fit.alpha, kernel.gamma

    @property
    def in_words(self) -> str:
        """What the regressor is, for cards and the command."""
        names = {"rbf": "Gaussian", "polynomial": "polynomial", "matern": "Matérn"}
        return f"kernel ridge regression, {names.get(str(self.kernel), self.kernel)} kernel"

    def _card(self) -> str:
        known = {"samples": len(self._fit.known)} if self.landmarks_ is None else {"landmarks": len(self.landmarks_)}
        facts = {"components": self.n_features_in_, "α": self.alpha_, "γ": self.gamma_}
        return card("KernelRegressor", known | facts | {"spread s": self.spread_.tolist()})

    def _check_parameters(self) -> None:
        if not callable(self.kernel) and not (isinstance(self.kernel, str) and self.kernel in KERNELS):
            msg = f"kernel must be one of {', '.join(KERNELS)}, or a callable, got {self.kernel!r}"
            raise ValueError(msg)
        for name in ("alpha", "gamma"):
            value = getattr(self, name)
            if not (isinstance(value, str) and value == "auto") and not (is_number(value) and value > 0):
                msg = f"{name} must be a positive number or 'auto', got {value!r}"
                raise ValueError(msg)
        if not (is_number(self.degree) and self.degree > 0):
            msg = f"degree must be a positive number, got {self.degree!r}"
            raise ValueError(msg)
        if not (is_number(self.coef0) and self.coef0 >= 0):
            msg = f"coef0 must be a number from 0 upwards, got {self.coef0!r}"
            raise ValueError(msg)
        if self.criterion not in ("likelihood", "loo"):
            msg = f"criterion must be 'likelihood' or 'loo', got {self.criterion!r}"
            raise ValueError(msg)
        if isinstance(self.random_state, int) and not 0 <= self.random_state < 2**32:
            msg = f"random_state must lie between 0 and {2**32 - 1}, got {self.random_state!r}"
            raise ValueError(msg)
        n = self.n_landmarks
        if n is not None and (isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1):
            msg = f"n_landmarks must be a positive integer or None, got {n!r}"
            raise ValueError(msg)

    def _n_landmarks(self, n_samples: int) -> int | None:
        """Choose the number of landmarks. None stands for an exact fit."""
        return LANDMARKS if self.n_landmarks is None and n_samples > EXACT_SAMPLES else self.n_landmarks

    def _kernel(self, gamma: float) -> CovarianceKernel:
        return CovarianceKernel(self.kernel, gamma, float(self.degree), float(self.coef0))

    def _fit_exact(self, scores: Array, target: Array, groups: Array | None, rng: np.random.Generator) -> None:
        n = len(scores)
        self.scale_ = float(scores.std(axis=0).max()) or 1.0
        scaled, self._mean = scores / self.scale_, target.mean(axis=0)
        deviation = target.std(axis=0)
        self._deviation = np.where(deviation > 0, deviation, 1.0)
        centred = (target - self._mean) / self._deviation
        some = np.sort(rng.choice(n, min(n, SELECTION_SAMPLES), replace=False))
        alpha, gamma = self._select(scaled[some], centred[some])
        kernel = self._kernel(gamma)
        if self.alpha == "auto" and len(some) < n:
            matrix = kernel(scaled, scaled)
            spectrum = spectrum_of(matrix, centred)
            ridges, by_leaving = spectrum.ridges(), self.criterion == "loo"
            merits = leave_one_out(matrix, centred, ridges) if by_leaving else spectrum.log_likelihood(ridges)
            alpha = float(ridges[merits.argmax()])
        refuse_overflow(scaled, centred)
        try:
            fit = ExactFit.of(kernel, scaled, centred, alpha)
        except np.linalg.LinAlgError as error:
            msg = f"alpha={self.alpha!r} is too small, because the kernel matrix is singular; give a larger one"
            raise ValueError(msg) from error
        self._set_fit(fit)
        if groups is not None and (len(groups) != n or len(np.unique(groups)) < 2):
            msg = f"groups must name a group for each of {n} samples, two groups or more, got shape {np.shape(groups)}"
            raise ValueError(msg)
        self.spread_ = np.sqrt(fit.squared_ratios(groups) / n) * self._deviation
        if groups is not None:
            # Few groups determine the spread poorly: widen it by Student's t, with at least 3 degrees of freedom.
            degrees = max(3, len(np.unique(groups)) - 1)
            self.spread_ *= np.sqrt(degrees / (degrees - 2))

    def _fit_landmarks(self, scores: Any, target: Any, n_landmarks: int, rng: np.random.Generator) -> None:
        # Refuse what does not fit before anything is computed.
        task_bytes(n_landmarks, scores, target, Limit.of())
        n = len(scores)
        some = np.sort(rng.choice(n, min(n, max(POOL * n_landmarks, SELECTION_SAMPLES)), replace=False))
        found = computed((scores[some], target[some], scores.std(axis=0), target.mean(axis=0), target.std(axis=0)))
        pool, of_pool, deviations, self._mean, deviation = (np.asarray(value, dtype=np.float64) for value in found)
        if not all(np.isfinite(value).all() for value in (deviations, self._mean)):
            msg = "X or y holds NaN or infinite values; leave out the samples that have them"
            raise ValueError(msg)
        self.scale_ = float(deviations.max()) or 1.0
        self._deviation = np.where(deviation > 0, deviation, 1.0)
        pool, of_pool = pool / self.scale_, (of_pool - self._mean) / self._deviation
        few = rng.permutation(len(pool))[:SELECTION_SAMPLES]
        alpha, gamma = self._select(pool[few], of_pool[few])
        kernel = self._kernel(gamma)
        features = LandmarkFeatures.of(kernel, choose_landmarks(kernel, pool, n_landmarks, rng))
        factor = self._over_blocks(partial(factor_of_rows, features), absorb, scores, target, name="factor")
        if self.alpha == "auto" and self.criterion == "likelihood":
            spectrum = spectrum_of_factor(features, factor, n, float(kernel.diagonal(pool).mean()))
            ridges = spectrum.ridges()
            alpha = float(ridges[spectrum.log_likelihood(ridges).argmax()])
        fit = LandmarkFit.of(features, factor, alpha)
        self._set_fit(fit)
        ratios = self._over_blocks(fit.squared_ratios, np.add, scores, target, name="calibration")
        self.spread_ = np.sqrt(ratios / n) * self._deviation

    def _select(self, scores: Array, targets: Array) -> tuple[float, float]:
        alpha, gamma = (None if value == "auto" else float(value) for value in (self.alpha, self.gamma))
        kernel = self._kernel(1.0)
        if alpha is not None and gamma is not None:
            return alpha, gamma
        return select(kernel, scores, targets, alpha=alpha, gamma=gamma, criterion=self.criterion)

    def _over_blocks(
        self, fold: Callable[..., Any], merge: Callable[..., Any], scores: Any, target: Any, *, name: str
    ) -> Any:
        """Fold scaled scores and targets block by block, and merge the results in a tree that only the chunks fix."""
        options = {"fold": fold, "scale": self.scale_, "mean": self._mean, "deviation": self._deviation}
        return computed(fold_samples(_scaled_fold, merge, scores, target, name=name, options=options))

    @checked
    def predict(self, X: ArrayLike, return_std: bool = False) -> Any:  # noqa: FBT001, FBT002
        """Predict the targets of scores, lazily for lazy scores.

        Parameters
        ----------
        X : array, shape (n_samples, n_components)
            Scores.
        return_std : bool, default False
            Return the standard deviation of each prediction too. It is that of a new measurement, including its noise.

        Returns
        -------
        array of the kind of `X`, shape (n_samples,) or (n_samples, n_outputs)
            Predictions. With `return_std`, a pair of such arrays: predictions and standard deviations.
        """
        check_is_fitted(self, "scale_")
        data, labels = unwrap(X) if isinstance(X, LABELLED) else (X, None)
        if not is_lazy(data):
            data = validated(self, data, reset=False)
        elif data.ndim != 2 or data.shape[1] != self.n_features_in_:
            msg = f"X must have {self.n_features_in_} components as in fit, got shape {tuple(data.shape)}"
            raise ValueError(msg)
        n_outputs = len(self._mean)
        found = map_samples(
            partial(_predict_block, with_spread=return_std),
            data,
            tail=(n_outputs * (1 + return_std),),
            dtype=np.float64,
            name="predict",
            options={"model": self},
        )
        parts = (found[:, :n_outputs], found[:, n_outputs:]) if return_std else (found,)
        dims = () if self._one_column else ("property_0",)
        parts = tuple(
            label(part[:, 0] if self._one_column else part, labels, dims=dims, coords={}, name=name)
            for part, name in zip(parts, ("prediction", "spread"), strict=False)
        )
        return parts if return_std else parts[0]

    def posterior(self, X: ArrayLike) -> tuple[Array, float]:
        """Compute the uncertainty that training leaves in predictions, divided by s².

        Parameters
        ----------
        X : ndarray, shape (n_samples, n_components)
            Scores.

        Returns
        -------
        covariance : ndarray, shape (n_samples, n_samples)
            Covariance of the predictions, without the noise of measurements.
        noise : float
            Variance of the noise of a measurement, α.
        """
        check_is_fitted(self, "scale_")
        return self._fit.covariance(validated(self, X, reset=False) / self.scale_), self._fit.alpha


def _scaled_fold(
    scores: Array, target: Array, *, fold: Callable[..., Any], scale: float, mean: Array, deviation: Array
) -> Any:
    targets = (target.reshape(len(target), -1).astype(np.float64) - mean) / deviation
    return fold(scores.astype(np.float64) / scale, targets)


def _predict_block(block: Array, *, model: KernelRegressor, with_spread: bool) -> Array:
    n_outputs, fit = len(model._mean), model._fit
    found = np.empty((len(block), n_outputs * (1 + with_spread)))
    step = max(1, PREDICTION_BYTES // (8 * len(fit.known)))
    for start in range(0, len(block), step):
        scores = block[start : start + step].astype(np.float64) / model.scale_
        rows = found[start : start + step]
        rows[:, :n_outputs] = fit.predict(scores) * model._deviation + model._mean
        if with_spread:
            rows[:, n_outputs:] = np.sqrt(fit.spread(scores))[:, None] * model.spread_
    return found


@dataclass(frozen=True)
class _Fit(Operation[KernelRegressor]):
    """The arguments of `KernelRegressor.fit`, which are checked when it runs."""

    regressor: KernelRegressor
    X: ArrayLike
    y: ArrayLike
    groups: ArrayLike | None

    def run(self) -> KernelRegressor:
        self.regressor._fit_checked(self.X, self.y, self.groups)
        return self.regressor

    def plan(self, limit: Limit) -> Plan:
        (data, _), (target, _), regressor = unwrap(self.X), unwrap(self.y, name="y"), self.regressor
        n, k = map(int, data.shape)
        layout = {"samples": n, "components": k}
        m = regressor._n_landmarks(n)
        if m is None:
            exact = Stage("kernel regression in memory", 1, 4 * 8 * n * n, float(data.nbytes), 0.0, 20.0 * n**3)
            return Plan("KernelRegressor.fit", layout, (exact,), limit)
        task = task_bytes(m, data, target, limit)
        rows = max(data.chunks[0]) if is_lazy(data) else n
        n_tasks = len(data.chunks[0]) if is_lazy(data) else 1
        stages = (
            Stage("scale and pool", n_tasks, 3 * rows * 8 * k, float(data.nbytes)),
            Stage("factor", n_tasks, task, float(data.nbytes), 0.0, 2.0 * n * m * (m + k) * (1 + 1 / ROWS_AT_ONCE)),
            Stage("calibration", n_tasks, task, float(data.nbytes), 0.0, 2.0 * n * m * (m + k)),
        )
        return Plan("KernelRegressor.fit", layout | {"landmarks": m}, stages, limit)
