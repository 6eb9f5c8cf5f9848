"""Linear models of scikit-learn, fitted to the problem at each frequency."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone, is_regressor
from sklearn.linear_model import ElasticNet, Lasso, LinearRegression, MultiTaskElasticNet, MultiTaskLasso, Ridge
from sklearn.utils import get_tags

from mksdask.arrays import Array, is_number
from mksdask.schema import FLAG, NOTHING, TEXT, Kind, Named, Number, Place

# Squared error, plus a penalty.
_PLAIN = (LinearRegression, Ridge)
# Squared error over twice the number of rows, plus a penalty.
_AVERAGED = (Lasso, ElasticNet, MultiTaskLasso, MultiTaskElasticNet)
# Models that depend on the rows through their factor, and at most on the number of rows. Derived classes may not.
FACTORED = {model.__name__: model for model in (*_PLAIN, *_AVERAGED)}
# Real problems of about this many numbers are made at once.
_TILE_NUMBERS = 2**18


def takes_factors(model: Any) -> bool:
    """Whether a linear model, or None, is fitted to factors. Otherwise it needs all rows."""
    return model is None or type(model) in FACTORED.values()


def check_penalty(alpha: Any, linear_model: Any) -> None:
    """Check the ridge parameter, and the linear model, which has a penalty of its own.

    Raises
    ------
    TypeError
        As `check_linear_model`.
    ValueError
        As `check_linear_model`, if alpha is neither a number from 0 nor "gcv", or if there are two penalties.
    """
    is_chosen = isinstance(alpha, str) and alpha == "gcv"
    if not is_chosen and not (is_number(alpha) and float(alpha) >= 0):
        msg = f"alpha must be a number from 0, got {alpha!r}; alpha='gcv' chooses it"
        raise ValueError(msg)
    if linear_model is None:
        return
    check_linear_model(linear_model)
    if alpha != 0:
        msg = f"linear_model has a penalty of its own, so alpha must be 0, got {alpha!r}"
        raise ValueError(msg)


def check_linear_model(model: Any) -> None:
    """Refuse a linear model that cannot be fitted to the problem at each frequency.

    Raises
    ------
    TypeError
        If it is no regressor of scikit-learn.
    ValueError
        If it has parameters that make no sense there.
    """
    if isinstance(model, type) or not isinstance(model, BaseEstimator) or not is_regressor(model):
        msg = f"linear_model must be a linear model of scikit-learn, such as Ridge(fit_intercept=False), got {model!r}"
        raise TypeError(msg)
    parameters = model.get_params(deep=False)
    if parameters.get("fit_intercept", False):
        msg = (
            f"linear_model must have fit_intercept=False, got {model!r}: the series has kernels and no other term; use "
            "linear_model.set_params(fit_intercept=False)"
        )
        raise ValueError(msg)
    if parameters.get("positive", False):
        msg = f"linear_model must have positive=False, got {model!r}: the signs of spectra are not those of kernels"
        raise ValueError(msg)
    if "cv" in parameters:
        msg = (
            f"linear_model must not split rows by itself, as {model!r} does: each sample has two rows, and each "
            "frequency would choose for itself; use alpha='gcv', or GridSearchCV over linear_model__alpha"
        )
        raise ValueError(msg)


def ridge_of(model: Any, ridge: float | str) -> float | str | None:
    """Return the ridge if the problem is ridge regression or least squares, which `solve` solves. Otherwise None.

    Parameters
    ----------
    model : estimator or None
        The linear model.
    ridge : float or "gcv"
        The ridge if there is no linear model.
    """
    if model is None:
        return ridge
    if type(model) is LinearRegression:
        return 0.0
    if type(model) is Ridge and is_number(model.alpha) and model.alpha >= 0:
        return float(model.alpha)
    return None


def solve_with(model: Any, rows: Array, coordinates: Array, *, n_rows: int, floor: float) -> Array:
    """Fit a linear model to all problems, one after the other, as real problems with twice as many rows and unknowns.

    Parameters
    ----------
    model : estimator
        A linear model that `check_linear_model` accepts.
    rows : ndarray, shape (n, n_unknowns + n_targets, n_problems)
        Rows [M | p] of each problem, or the factor of such rows.
    coordinates : ndarray, shape (n_unknowns, n_coordinates)
        M · coordinates · c = p is solved for c.
    n_rows : int
        Number of rows that M has, or had before it was factored.
    floor : float
        Problems whose M · coordinates has a norm up to it get the solution 0. Their rows are rounding errors.

    Returns
    -------
    ndarray, shape (n_coordinates, n_targets, n_problems)
        The coordinates c.

    Raises
    ------
    TypeError
        If the fitted model has no coefficients.
    ValueError
        If it has an intercept beside its coefficients.

    Notes
    -----
    M c = p is the real problem ``[[Re M, -Im M], [Im M, Re M]] [Re c; Im c] = [Re p; Im p]``. A factor holds R and Qᴴp
    in place of M and p, and ``|p - M c|² = |Qᴴp - R c|² + const``. A model that divides the squared error by the number
    of rows would divide that of a factor by too few. Therefore the factor is scaled by the root of the ratio of both
    numbers. Its targets are smaller than p, so a tolerance relative to them is stricter than on all rows.
    """
    model = clone(model)
    if "warm_start" in model.get_params():
        model.set_params(warm_start=False)
    n, width, n_problems = rows.shape
    n_unknowns, n_coordinates = coordinates.shape
    n_targets = width - n_unknowns
    scale = np.sqrt(n / max(n_rows, 1)) if isinstance(model, _AVERAGED) else 1.0
    together = get_tags(model).target_tags.multi_output
    groups = [slice(None)] if together else [slice(target, target + 1) for target in range(n_targets)]
    solution = np.zeros((n_coordinates, n_targets, n_problems), dtype=rows.dtype)
    tile = max(1, _TILE_NUMBERS // max(1, 4 * n * n_coordinates))
    for start in range(0, n_problems, tile):
        part = np.moveaxis(rows[..., start : start + tile], -1, 0).astype(np.complex128)
        states, targets = part[..., :n_unknowns] @ coordinates, scale * part[..., n_unknowns:]
        is_there = np.linalg.norm(states, axis=(1, 2)) > floor
        states *= scale
        design = np.concatenate(
            [np.concatenate([states.real, -states.imag], axis=2), np.concatenate([states.imag, states.real], axis=2)],
            axis=1,
        )
        target = np.concatenate([targets.real, targets.imag], axis=1)
        for problem in np.flatnonzero(is_there):
            for group in groups:
                wanted = target[problem][:, group]
                model.fit(design[problem], wanted if together else wanted[:, 0])
                found = _coefficients(model, 2 * n_coordinates)
                solution[:, group, start + problem] = (found[:, :n_coordinates] + 1j * found[:, n_coordinates:]).T
    return solution


def _coefficients(model: Any, n: int) -> Array:
    """Read the coefficients of a fitted model: (n_targets, n)."""
    found = np.asarray(getattr(model, "coef_", np.empty(0)))
    if not found.size or found.size % n:
        msg = f"linear_model must have coef_ of {n} features after fit, but {model!r} has shape {found.shape}"
        raise TypeError(msg)
    if np.any(getattr(model, "intercept_", 0.0)):
        msg = f"linear_model {model!r} has an intercept beside its coefficients, but the series has kernels alone"
        raise ValueError(msg)
    return found.reshape(-1, n)


class LinearModelKind(Kind):
    """A linear model that is fitted to factors, by its parameters."""

    _parameters = Named(FLAG | Number() | TEXT | NOTHING)

    def __str__(self) -> str:
        return f"a {' or '.join(sorted(FACTORED))}"

    def _takes(self, value: Any) -> bool:
        return type(value) in FACTORED.values()

    def _accepts(self, encoded: Any) -> bool:
        is_known = isinstance(encoded, dict) and set(encoded) == {"class", "parameters"}
        return is_known and isinstance(encoded["class"], str) and encoded["class"] in FACTORED

    def _encode(self, value: Any, place: Place) -> Any:
        return {"class": type(value).__name__, "parameters": self._parameters.write(value.get_params(), place)}

    def _decode(self, encoded: Any, place: Place) -> Any:
        parameters = self._parameters.read(encoded["parameters"], place)
        model = FACTORED[encoded["class"]]
        if set(parameters) - set(model().get_params()):
            raise place.refusal(encoded["parameters"], f"parameters of {encoded['class']}")
        return model(**parameters)
