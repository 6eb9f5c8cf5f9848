"""Targets of a linkage: properties that are numbers, or classes that are numbers or text. Some may be unknown."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import is_regressor

from mksdask.arrays import Array, ArrayLike, shown, to_numpy, unwrap
from mksdask.compute.blocks import check_whole_samples, in_chunks_of


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


def lazy_rows(data: Any, y: ArrayLike) -> tuple[Any, Any]:
    """Check lazy scores, and cut their targets as they are cut.

    Parameters
    ----------
    data : dask array, shape (n_samples, n_components)
        Scores.
    y : array, shape (n_samples,) or (n_samples, n_targets)
        Targets.

    Raises
    ------
    TypeError
        If they hold no real numbers.
    ValueError
        If shapes do not fit, or a chunk cuts through a row of scores.
    """
    target, _ = unwrap(y, name="y")
    if data.ndim != 2 or 0 in data.shape:
        msg = f"X must be a matrix (n_samples, n_components) of known shape, got shape {tuple(data.shape)}"
        raise ValueError(msg)
    for name, array in (("X", data), ("y", target)):
        if array.dtype.kind not in "biuf":
            msg = f"{name} must hold real numbers, got {shown(array)}"
            raise TypeError(msg)
    if target.ndim not in (1, 2) or target.shape[0] != len(data):
        msg = f"y must have one entry for each of the {len(data)} samples of X, got shape {tuple(target.shape)}"
        raise ValueError(msg)
    check_whole_samples(data)
    return data, in_chunks_of(data, target).rechunk(dict.fromkeys(range(1, target.ndim), -1))


def group_names(groups: ArrayLike) -> Array:
    """Take the names of groups, and refuse what cannot be told apart."""
    names = to_numpy(groups)
    try:
        np.unique(names)
    except TypeError as error:
        msg = f"groups must hold numbers or names, got {names.dtype} values such as {names.ravel()[:1].tolist()}"
        raise TypeError(msg) from error
    return names


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
