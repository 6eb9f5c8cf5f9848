"""Use any reducer on rows of features: those of scikit-learn and dask-ml, and `PCA` of this package."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from sklearn import decomposition
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils import get_tags

from mksdask.arrays import Array, is_lazy, is_number, to_numpy
from mksdask.compute.blas import borrowing
from mksdask.compute.blocks import map_samples
from mksdask.compute.graph import settled
from mksdask.reduction.pca import PCA
from mksdask.storage.atomic import Url
from mksdask.storage.scratch import spill

DEFAULT_COMPONENTS = 5
# The PCA of dask-ml 2025.1 has no such attribute, but scikit-learn 1.8 reads it in transform.
_LACKING = "power_iteration_normalizer"


def _reduce_block(block: Array, *, reducer: Any, dtype: np.dtype[Any]) -> Array:
    return np.asarray(reducer.transform(block)).astype(dtype, copy=False)


def is_out_of_core(reducer: object) -> bool:
    """Whether a reducer takes dask arrays without loading them completely."""
    return isinstance(reducer, PCA) or type(reducer).__module__.partition(".")[0] == "dask_ml"


def takes_no_negatives(reducer: Any) -> bool:
    """Whether a reducer, or the first step of a pipeline, takes only numbers that are not negative, as `NMF` does."""
    while isinstance(reducer, Pipeline):
        reducer = next((step for _, step in reducer.steps if step not in (None, "passthrough")), None)
    return hasattr(reducer, "__sklearn_tags__") and bool(get_tags(reducer).input_tags.positive_only)


def needs_targets(reducer: Any) -> bool:
    """Whether a reducer is supervised."""
    return hasattr(reducer, "__sklearn_tags__") and bool(get_tags(reducer).target_tags.required)


def fit_scores(
    reducer: Any,
    features: Any,
    y: Array | None = None,
    *,
    scratch: Url | None = None,
    resume: str | None = None,
    known: Hashable = None,
) -> Array:
    """Fit a reducer, and return the scores of the same samples.

    Parameters
    ----------
    reducer : transformer
        The reducer. It is fitted in place.
    features : ndarray or dask array, shape (n_samples, n_features)
        Features, with whole rows in each chunk.
    y : ndarray, optional
        Targets for a supervised reducer. They are used for features in memory only.
    scratch : str or path, optional
        Folder that keeps lazy features if they are read more than once.
    resume : str, optional
        A name for what the features are. The copy that an earlier call with this name left in `scratch` is used again.
    known : hashable, optional
        A name for what features in memory are. `PCA` uses again what it has found for this name.

    Returns
    -------
    ndarray, shape (n_samples, n_components)
        Scores.

    Raises
    ------
    TypeError
        If the reducer would load lazy features completely.
    """
    if isinstance(reducer, PCA):
        return to_numpy(reducer.fit_scores(features, resume=resume, known=known))
    if not is_lazy(features):
        found = reducer.fit_transform(features) if y is None else reducer.fit_transform(features, y)
        # Partial least squares returns scores of the targets too.
        return np.asarray(found[0] if isinstance(found, tuple) else found)
    if is_out_of_core(reducer):
        return to_numpy(reducer.fit_transform(settled(features, f"features-{uuid.uuid4().hex}")))
    if not callable(getattr(reducer, "partial_fit", None)):
        msg = (
            f"dimension_reducer {reducer!r} would load lazy X whole; use mksdask.reduction.PCA, a reducer of dask-ml, "
            "or one with partial_fit, such as sklearn.decomposition.IncrementalPCA, or pass X as a NumPy array"
        )
        raise TypeError(msg)
    with spill(features, scratch, resume=resume) as rows:
        wanted: Any = getattr(reducer, "n_components", None)
        least = int(wanted) if is_number(wanted) else 1
        for batch in _batches(rows.blocks(), rows.n_samples, least):
            reducer.partial_fit(batch)
        return np.concatenate([np.asarray(reducer.transform(block)) for block in rows.blocks()])


def _batches(blocks: Iterator[Array], n_samples: int, least: int) -> Iterator[Array]:
    """Join blocks until each batch has at least `least` rows. scikit-learn needs one row for each component."""
    batch: list[Array] = []
    remaining = n_samples
    for block in blocks:
        batch.append(block)
        remaining -= len(block)
        if sum(map(len, batch)) >= least and (remaining >= least or remaining == 0):
            yield np.concatenate(batch)
            batch = []


def scores_of(reducer: Any, features: Any, *, n_components: int, dtype: np.dtype[Any]) -> Any:
    """Compute scores of features by a fitted reducer, shape (n_samples, n_components), lazily for lazy features."""
    if is_out_of_core(reducer):
        return reducer.transform(features)
    kernel: Callable[..., Array] = partial(_reduce_block, dtype=dtype)
    kernel = borrowing(kernel) if is_lazy(features) else kernel
    return map_samples(kernel, features, tail=(n_components,), dtype=dtype, name="reduce", options={"reducer": reducer})


def require_methods(estimator: object, methods: Sequence[str], name: str, remedy: str) -> None:
    """Refuse an estimator that lacks a method, and a class in place of an estimator.

    Raises
    ------
    TypeError
        If a method is missing, or the class is given. The message names the argument, the methods and the remedy.
    """
    if isinstance(estimator, type):
        msg = f"{name} must be an instance, got the class {estimator.__name__}; pass {estimator.__name__}()"
        raise TypeError(msg)
    missing = [method for method in methods if not callable(getattr(estimator, method, None))]
    if missing:
        msg = (
            f"{name} must have the methods {' and '.join(methods)}, but {estimator!r} has no "
            f"{' and no '.join(missing)}; {remedy}"
        )
        raise TypeError(msg)


def set_parameter(estimator: Any, parameter: str, value: Any, argument: str) -> None:
    """Set a parameter of an estimator, or of the step of a pipeline that has this parameter.

    Raises
    ------
    ValueError
        If there is no such parameter.
    """
    known = estimator.get_params() if hasattr(estimator, "get_params") else vars(estimator)
    matches = [name for name in known if name == parameter or name.endswith("__" + parameter)]
    if not matches:
        msg = (
            f"{argument} {estimator!r} has no parameter {parameter}; leave {parameter}=None, and set the parameters of "
            f"{argument} itself"
        )
        raise ValueError(msg)
    name = min(matches, key=len)
    if hasattr(estimator, "set_params"):
        estimator.set_params(**{name: value})
    else:
        setattr(estimator, name, value)


def new_reducer(given: Any, n_components: int | None, *, most: int, scratch: Url | None) -> Any:
    """Make the reducer that a fit uses: a clone of the given one, or `PCA` if none is given.

    Parameters
    ----------
    given : transformer or None
        The parameter `dimension_reducer` of a model.
    n_components : int or None
        Number of components to set. Default: that of the given reducer, or 5 for `PCA`.
    most : int
        Largest number of components that the statistics have. It bounds the default of `PCA`.
    scratch : str or path, optional
        Scratch folder of `PCA`.

    Raises
    ------
    ValueError
        If the given reducer has no parameter `n_components`, but a number is to be set.
    """
    if given is None:
        return PCA(min(DEFAULT_COMPONENTS, most) if n_components is None else n_components, scratch=scratch)
    reducer = clone(given, safe=False)
    if isinstance(reducer, decomposition.PCA) and is_out_of_core(reducer) and not hasattr(reducer, _LACKING):
        setattr(reducer, _LACKING, "auto")
    if n_components is not None:
        set_parameter(reducer, "n_components", n_components, "dimension_reducer")
    return reducer
