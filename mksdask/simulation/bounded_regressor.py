"""Regression whose predictions keep the bounds of Voigt and Reuss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike as NumpyLike
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin, clone
from sklearn.metrics import r2_score
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from mksdask.arrays import Array, ArrayLike, integers, numbers_argument, shown, to_numpy, validated
from mksdask.labels import paired
from mksdask.reduction.reducers import require_methods
from mksdask.regression import borrowed, polynomial_regression
from mksdask.schema import FLAG, NOTHING, ArrayOf, Listed, Number, Part, Saved, Whole, agree
from mksdask.schema.arguments import checked
from mksdask.simulation.bounds import voigt_reuss_bounds
from mksdask.simulation.stencils import Float

# Share of the largest property below which a distance between the bounds counts as rounding.
ROUNDING = 1e-9
# Share of the largest property by which targets may lie outside the bounds, such as by tolerances of a solver.
MARGIN = 0.01

_REAL = "i1 i2 i4 i8 u1 u2 u4 u8 f4 f8"
_TENSORS = ArrayOf(_REAL, "n_phases", "n_components", "n_components")


class BoundedRegressor(MultiOutputMixin, RegressorMixin, BaseEstimator):
    r"""Regressor of stiffness or conductivity tensors whose predictions lie between Reuss and Voigt for each sample.

    The bounds R and V of `voigt_reuss_bounds` follow from the volume fractions of a sample, which are among its
    features. With D = V - R, a regressor of your choice learns the normalized tensor

    .. math:: N = D^{-1/2}\, (C - R)\, D^{-1/2}, \qquad 0 \le N \le 1

    from all features. The eigenvalues of its predictions are moved into the range from 0 to 1, and C follows from N.
    So a prediction is never unstable, and is exact where one phase is all.

    Parameters
    ----------
    properties : array, shape (n_phases,) or (n_phases, n, n)
        Property of each phase: a number, such as a conductivity, or a symmetric matrix, such as a stiffness.
    regressor : estimator, optional
        Regressor of the entries of N. Default: `mksdask.regression.polynomial_regression` of degree 2.
    columns : sequence of int, optional
        Columns of the features that hold the fractions of the phases, in their order. The fraction of the last phase
        may be left out. Default: the first n_phases - 1 columns.
    normalize : bool, default True
        Whether the regressor learns N. Otherwise it learns C, and N follows from its predictions.

    Attributes
    ----------
    regressor_ : estimator
        The fitted regressor.
    n_features_in_ : int
        Number of features.

    Notes
    -----
    The range of N is convex. So to move N into it brings N nearer to all that lies in the range, and also to the truth:
    without `normalize`, no prediction gets a larger error of N than that of the regressor alone. With `normalize`,
    errors are often smaller, above all for fractions far from those of `fit`, but not always.

    As the `property_linker` of `mksdask.MKSHomogenizationModel`, it needs a reducer that passes fractions on, such as
    `mksdask.reduction.KeptFeatures`: the lag 0 of an autocorrelation is the fraction of its phase.

    References
    ----------
    Hill, R. The elastic behaviour of a crystalline aggregate. Proc. Phys. Soc. A 65 (1952) 349.

    Examples
    --------
    >>> import numpy as np
    >>> from mksdask.simulation import effective_conductivity
    >>> X = (np.random.default_rng(0).random((40, 12, 12)) < np.linspace(0.1, 0.9, 40)[:, None, None]).astype(int)
    >>> tensors = effective_conductivity(X, conductivity=(1.0, 10.0))
    >>> fractions = 1.0 - X.mean(axis=(1, 2))[:, None]
    >>> model = BoundedRegressor([1.0 * np.eye(2), 10.0 * np.eye(2)]).fit(fractions, tensors)
    >>> model.predict([[1.0], [0.0]]).round(9).tolist()
    [[[1.0, 0.0], [0.0, 1.0]], [[10.0, 0.0], [0.0, 10.0]]]
    """

    _saved = Saved(
        {
            "properties": _TENSORS | ArrayOf(_REAL, "n_phases") | Listed(Number() | Listed(Listed(Number()))),
            "regressor": Part(*borrowed.LINKERS) | NOTHING,
            "columns": Listed(Whole(0)) | NOTHING,
            "normalize": FLAG,
        },
        fitted={
            "regressor_": Part(*borrowed.LINKERS, fitted=True),
            "n_features_in_": Whole(1, sized=True),
            "_shape": Listed(Whole(1), 0, 2),
        },
    )

    def __init__(
        self,
        properties: NumpyLike,
        regressor: Any = None,
        *,
        columns: Sequence[int] | None = None,
        normalize: bool = True,
    ) -> None:
        self.properties = properties
        self.regressor = regressor
        self.columns = columns
        self.normalize = normalize

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    @checked
    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit the regressor to normalized tensors.

        Parameters
        ----------
        X : array, shape (n_samples, n_features)
            Features, with the fractions of the phases among them.
        y : array, shape (n_samples, n, n), (n_samples, n²) or (n_samples,)
            Tensors, or numbers if the properties are numbers. Samples that have labels in X too are paired by them.

        Raises
        ------
        ValueError
            If the fractions are none, if y has another shape than the properties, or if it lies outside the bounds.
        """
        (y,) = paired(X, y)
        features, target = validated(self, X), np.asarray(to_numpy(y, name="y"), dtype=np.float64)
        lower, root, inverse = self._bounds(features)
        n = lower.shape[-1]
        kinds: list[tuple[int, ...]] = [(n, n), (n * n,), *[()] * (n == 1)]
        if target.ndim == 0 or target.shape[1:] not in kinds or len(target) != len(features):
            msg = (
                f"y must hold one tensor {n} × {n} for each of the {len(features)} samples, as properties do, got "
                f"shape {target.shape}"
            )
            raise ValueError(msg)
        self._shape = target.shape[1:]
        above = target.reshape(-1, n, n) - lower
        gap = root @ root
        largest = np.abs(np.asarray(self.properties)).max()
        if not np.isfinite(target).all() or not (
            _lowest(above) > -MARGIN * largest and _lowest(gap - above) > -MARGIN * largest
        ):
            msg = (
                "y must lie between the bounds that follow from properties and fractions; check the unit and the order "
                "of properties, and columns, which says where X holds the fractions"
            )
            raise ValueError(msg)
        # One phase alone has no range in which its tensor could lie.
        is_mixed = np.abs(gap).max(axis=(1, 2)) > ROUNDING * largest
        if not is_mixed.any():
            msg = "X must hold samples of more than one phase, got one phase alone in each sample"
            raise ValueError(msg)
        learnt = inverse @ above @ inverse if self.normalize else target.reshape(-1, n, n)
        entries = learnt[:, *np.triu_indices(n)]
        regressor = polynomial_regression(2) if self.regressor is None else self.regressor
        require_methods(regressor, ["fit", "predict"], "regressor", "pass a regressor, such as Ridge(), or None")
        regressor = clone(regressor, safe=False)
        self.regressor_ = regressor.fit(features[is_mixed], (entries if n > 1 else entries[:, 0])[is_mixed])
        return self

    def predict(self, X: ArrayLike) -> Array:
        """Predict tensors between the bounds.

        Parameters
        ----------
        X : array, shape (n_samples, n_features)
            Features, with the fractions of the phases among them.

        Returns
        -------
        ndarray, shape (n_samples, n, n), (n_samples, n²) or (n_samples,)
            Tensors, or numbers, in the shape of y.
        """
        check_is_fitted(self)
        features = validated(self, X, reset=False)
        lower, root, inverse = self._bounds(features)
        n = lower.shape[-1]
        rows, columns = np.triu_indices(n)
        normal = np.empty(lower.shape)
        normal[:, rows, columns] = np.reshape(self.regressor_.predict(features), (len(features), len(rows)))
        normal[:, columns, rows] = normal[:, rows, columns]
        if not self.normalize:
            normal = inverse @ (normal - lower) @ inverse
        values, vectors = np.linalg.eigh(normal)
        half = root @ vectors
        tensors = lower + (half * np.clip(values, 0.0, 1.0)[:, None]) @ half.swapaxes(1, 2)
        tensors = 0.5 * (tensors + tensors.swapaxes(1, 2))
        return np.asarray(tensors.reshape(len(features), *self._shape))

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Compute R² of the predictions, of all entries of the tensors together.

        Parameters
        ----------
        X, y
            As in `fit`.
        sample_weight : array, shape (n_samples,), optional
            Weight of each sample. Labels of samples count as in `fit`.
        """
        y, sample_weight = paired(X, y, sample_weight=sample_weight)
        predicted, truth = self.predict(X), np.asarray(to_numpy(y, name="y"))
        if truth.shape != predicted.shape:
            msg = f"y must have the shape {predicted.shape} of the predictions, got {truth.shape}"
            raise ValueError(msg)
        pair = (part.reshape(len(part), -1) for part in (truth, predicted))
        return float(r2_score(*pair, sample_weight=sample_weight, multioutput="variance_weighted"))

    def _restored(self, most: int) -> None:
        agree("the number of features of regressor_", self.regressor_.n_features_in_, self.n_features_in_)
        n = np.shape(self.properties)[-1] if np.ndim(self.properties) > 1 else 1
        agree("whether _shape is that of a tensor", self._shape in ((n, n), (n * n,), *[()] * (n == 1)), expected=True)

    def _bounds(self, features: Array) -> tuple[Float, Float, Float]:
        """Compute the lower bound R of each sample, D^(1/2) and D^(-1/2), (n_samples, n, n).

        Directions in which the bounds meet have 0 in both roots.
        """
        properties = numbers_argument(self.properties, "properties")
        n_phases = len(np.atleast_1d(properties))
        given = integers(range(n_phases - 1) if self.columns is None else self.columns)
        if n_phases == 1 or given is None or len(given) not in (n_phases - 1, n_phases):
            msg = (
                f"columns must be the columns of X that hold the fractions of the {n_phases} phases of properties, of "
                f"which the last may be left out, got {shown(self.columns)}"
            )
            raise ValueError(msg)
        if given.min() < 0 or given.max() >= features.shape[1]:
            msg = f"columns must lie between 0 and {features.shape[1] - 1}, got {given.tolist()}"
            raise ValueError(msg)
        fractions = np.asarray(features[:, given], dtype=np.float64)
        if len(given) < n_phases:
            fractions = np.concatenate([fractions, 1.0 - fractions.sum(axis=1, keepdims=True)], axis=1)
        # Fractions in single precision may miss 0 and 1 by rounding.
        rounded = np.clip(fractions, 0.0, None)
        fractions = np.where(fractions > -1e-6, rounded, fractions)
        sums = fractions.sum(axis=1, keepdims=True)
        fractions = np.where(np.abs(sums - 1.0) < 1e-5, fractions / np.where(sums > 0, sums, 1.0), fractions)
        lower, upper = voigt_reuss_bounds(fractions, properties)
        if properties.ndim == 1:
            lower, upper = lower[:, None, None], upper[:, None, None]
        values, vectors = np.linalg.eigh(upper - lower)
        root = np.sqrt(np.where(values > ROUNDING * np.abs(properties).max(), values, 0.0))
        inverse = np.divide(1.0, root, out=np.zeros_like(root), where=root > 0.0)
        turned = vectors.swapaxes(1, 2)
        return lower, (vectors * root[:, None]) @ turned, (vectors * inverse[:, None]) @ turned


def _lowest(matrices: Float) -> float:
    """Find the lowest eigenvalue of symmetric matrices."""
    return float(np.linalg.eigvalsh(matrices).min())
