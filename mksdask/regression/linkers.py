"""Linkers by their names, and any others: what predicts properties, or classes, of scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sklearn.base import clone

from mksdask.reduction.reducers import require_methods, set_parameter
from mksdask.regression.kernel_regressor import KernelRegressor
from mksdask.regression.polynomial import polynomial_regression

LINKERS: dict[str, Callable[[], Any]] = {"polynomial": polynomial_regression, "kernel": KernelRegressor}


def new_linker(linker: Any, degree: int | None) -> Any:
    """Make a linker to fit: that of a name, or a clone of the one that is given.

    Parameters
    ----------
    linker : str, estimator or None
        A name in `LINKERS`, or a regressor or classifier. None stands for "polynomial".
    degree : int or None
        Its degree, if it is not None.

    Raises
    ------
    TypeError
        If the linker is a class, or lacks a method.
    ValueError
        If there is no linker of this name, or it has no degree.
    """
    linker = "polynomial" if linker is None else linker
    if isinstance(linker, str):
        if linker not in LINKERS:
            msg = f"property_linker must be an estimator or one of {', '.join(LINKERS)}, got {linker!r}"
            raise ValueError(msg)
        made = LINKERS[linker]()
    else:
        remedy = f"pass a regressor or classifier, such as Ridge(), or one of {', '.join(LINKERS)}"
        require_methods(linker, ["fit", "predict"], "property_linker", remedy)
        made = clone(linker, safe=False)
    if degree is not None:
        set_parameter(made, "degree", degree, "property_linker")
    return made
