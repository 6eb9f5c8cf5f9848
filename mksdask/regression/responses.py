"""What a fitted linker says of the scores of samples: its predictions, and a number for each class."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from mksdask.arrays import Array, ArrayLike, is_lazy, label, unwrap
from mksdask.compute.blas import borrowing
from mksdask.compute.blocks import map_samples


def takes(method: Callable[..., Any], parameter: str) -> bool:
    """Whether a method of a linker has a parameter."""
    return parameter in inspect.signature(method).parameters


def respond_block(
    scores: Array, *, linker: Any, method: str = "predict", output: int | None = None, dtype: np.dtype[Any]
) -> Array:
    """Call a method of a linker that returns a row for each sample, or take one `output` of several."""
    found = getattr(linker, method)(scores.astype(np.float64))
    return np.asarray(found if output is None else found[output]).astype(dtype, copy=False)


def respond_block_with_spread(scores: Array, *, linker: Any, dtype: np.dtype[Any]) -> Array:
    """Predict properties and their standard deviations, shape (n, 2, ...)."""
    found = linker.predict(scores.astype(np.float64), return_std=True)
    return np.stack([np.asarray(part) for part in found], axis=1).astype(dtype, copy=False)


def _linker_has(method: str) -> Callable[[Any], bool]:
    """Make the check of a method that exists where the linker has it. The linker raises its own AttributeError."""
    return lambda model: callable(getattr(getattr(model, "property_linker_", model.property_linker), method))


class ResponsesMixin:
    """Adds the methods of classifiers to a model that has a linker. They exist where its linker has them."""

    @property
    def classes_(self: Any) -> Any:
        """Classes that the linker tells apart, in the order of the columns of `predict_proba`."""
        check_is_fitted(self, "property_linker_")
        return self.property_linker_.classes_

    @available_if(_linker_has("predict_proba"))
    def predict_proba(
        self: Any, X: ArrayLike, size: Sequence[int] | None = None, confidence_index: ArrayLike | None = None
    ) -> Any:
        """Predict the probability of each class, if the linker does, lazily for lazy input.

        Parameters
        ----------
        X, size, confidence_index
            As in `transform`.

        Returns
        -------
        array of the kind of `X`, shape (n_samples, n_classes)
            Probabilities, in the order of `classes_`. A list of such arrays if the linker has several outputs.
        """
        return self._of_classes("predict_proba", "probability", X, size, confidence_index)

    @available_if(_linker_has("predict_log_proba"))
    def predict_log_proba(
        self: Any, X: ArrayLike, size: Sequence[int] | None = None, confidence_index: ArrayLike | None = None
    ) -> Any:
        """Predict the logarithm of the probability of each class, if the linker does, lazily for lazy input.

        Parameters
        ----------
        X, size, confidence_index
            As in `transform`.

        Returns
        -------
        array of the kind of `X`, shape (n_samples, n_classes)
            Logarithms of what `predict_proba` returns.
        """
        return self._of_classes("predict_log_proba", "log_probability", X, size, confidence_index)

    @available_if(_linker_has("decision_function"))
    def decision_function(
        self: Any, X: ArrayLike, size: Sequence[int] | None = None, confidence_index: ArrayLike | None = None
    ) -> Any:
        """Compute how clearly the linker decides for each class, if it does, lazily for lazy input.

        Parameters
        ----------
        X, size, confidence_index
            As in `transform`.

        Returns
        -------
        array of the kind of `X`, shape (n_samples,) or (n_samples, n_classes)
            Values of the `decision_function` of the linker. For two classes, a positive value means the second one.
        """
        return self._of_classes("decision_function", "decision", X, size, confidence_index)

    def _respond(
        self: Any, kernel: Callable[..., Array], tail: tuple[int, ...], dtype: np.dtype[Any], name: str, **options: Any
    ) -> tuple[Any, Any]:
        """Apply a kernel of the linker to `reduced_predict_data`, and return the result with the labels of samples."""
        scores, labels = unwrap(self.reduced_predict_data, name="scores")
        whole: Callable[..., Array] = partial(kernel, dtype=dtype, **options)
        whole, linker = borrowing(whole) if is_lazy(scores) else whole, {"linker": self.property_linker_}
        return map_samples(whole, scores, tail=tail, dtype=dtype, name=name, options=linker), labels

    def _of_classes(
        self: Any,
        method: str,
        name: str,
        X: ArrayLike,
        size: Sequence[int] | None,
        confidence_index: ArrayLike | None,
    ) -> Any:
        """Call a method of the linker that returns a number for each class."""
        check_is_fitted(self, "property_linker_")
        linker = self.property_linker_
        trial = getattr(linker, method)(self.reduced_fit_data[:1].astype(np.float64))
        has_outputs = isinstance(trial, list)
        self.reduced_predict_data = self.transform(X, size, confidence_index)
        found = []
        for output, one in enumerate(map(np.asarray, trial if has_outputs else [trial])):
            options = {"method": method, "output": output if has_outputs else None}
            data, labels = self._respond(respond_block, one.shape[1:], one.dtype, method, **options)
            # The columns of a decision may stand for pairs of classes.
            coords = {}
            if name != "decision":
                coords["class"] = linker.classes_[output] if has_outputs else linker.classes_
            dims = tuple(coords) or ("output",) * (one.ndim - 1)
            found.append(label(data, labels, dims=dims, coords=coords, name=name))
        return found if has_outputs else found[0]
