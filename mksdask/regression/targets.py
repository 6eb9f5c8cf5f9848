"""Targets of a linkage: properties that are numbers, or classes that are numbers or text. Some may be unknown."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import is_regressor

from mksdask.arrays import Array


def known_targets(y: Array) -> tuple[NDArray[np.bool_], Array]:
    """Find the samples that have a target. The others have NaN, or None among classes.

    Parameters
    ----------
    y : ndarray, shape (n_samples,) or (n_samples, n_targets)
        Targets. Arrays of objects may hold numbers, or text.

    Returns
    -------
    is_known : ndarray of bool, shape (n_samples,)
        Which samples have a target.
    targets : ndarray, shape (n_known,) or (n_known, n_targets)
        Their targets. They are numbers or text of a fixed width, also if `y` holds objects.

    Raises
    ------
    TypeError
        If objects are neither all numbers nor all text.
    ValueError
        If no sample has a target, if a sample has only some of its targets, or if NumPy has made the text "nan" of NaN.
    """
    if y.dtype.kind == "U" and (y == "nan").any():
        msg = (
            "y holds the text 'nan', which NumPy makes of NaN in an array of text; mark samples of unknown class by "
            "None, such as np.array(['a', None])"
        )
        raise ValueError(msg)
    if y.dtype.kind not in "biufcOTU":
        msg = f"y must hold numbers, or text for classes, got dtype {y.dtype}; convert it, such as y.astype(float)"
        raise TypeError(msg)
    if y.dtype.kind not in "fcOT":
        return np.ones(len(y), dtype=bool), y
    values = y.astype(object) if y.dtype.kind == "T" else y
    missing = np.asarray(pd.isna(values)).reshape(len(y), -1)
    some = np.asarray(missing.any(axis=1))
    if (some != missing.all(axis=1)).any():
        row = int(np.flatnonzero(some != missing.all(axis=1))[0])
        msg = f"y must hold all properties of a sample or none (NaN), got {y[row]} for sample {row}"
        raise ValueError(msg)
    if some.all():
        msg = "y is NaN for all samples; at least one sample must have a property"
        raise ValueError(msg)
    known = values[~some]
    return ~some, _plain(known) if known.dtype.kind == "O" else known


def check_fits(targets: Array, linker: Any) -> None:
    """Refuse targets that are no real numbers, if the linker is a regressor.

    Raises
    ------
    TypeError
        If they hold text or complex numbers.
    """
    if hasattr(linker, "__sklearn_tags__") and is_regressor(linker) and targets.dtype.kind not in "biuf":
        msg = (
            f"y holds {targets.dtype}, but property_linker {linker!r} is a regressor, which needs real numbers; "
            "convert y, such as y.astype(float), or use a classifier for classes"
        )
        raise TypeError(msg)


def _plain(objects: Array) -> Array:
    """Turn an array of objects into one of numbers or text."""
    items = objects.ravel().tolist()
    is_text = [isinstance(item, str) for item in items]
    found = np.array(items) if all(is_text) or not any(is_text) else objects
    if found.dtype.kind not in "biufcU" or found.size != objects.size:
        kinds = ", ".join(sorted({type(item).__name__ for item in items}))
        msg = f"y must hold numbers alone, or text alone, got objects of the types {kinds}; use y.astype(str) for text"
        raise TypeError(msg)
    return found.reshape(objects.shape)
