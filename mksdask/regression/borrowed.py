"""What classes of scikit-learn save, so that models with them can be saved.

A table names the parameters that have an effect. A class of scikit-learn may have others, which come and go with its
versions. An object in which one of these differs from its default is not saved.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin, TransformerMixin
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from mksdask.schema import (
    FLAG,
    LABELS,
    NOTHING,
    NUMBERS,
    TEXT,
    ArrayOf,
    Choice,
    Listed,
    Named,
    Number,
    Part,
    Place,
    Record,
    Saved,
    Whole,
    agree,
)

# Kinds of linkers that can be saved, if they have a table.
LINKERS = (Pipeline, RegressorMixin, ClassifierMixin)
# Of polynomials that are read from a file.
MOST_DEGREE = 1000


class _Borrowed(Saved):
    """The table of a class of scikit-learn, without the parameters that must have their defaults.

    `harmless` names parameters that change no result, and may have any value. They are not saved.
    """

    def __init__(self, *tables: Any, harmless: tuple[str, ...] = (), **options: Any) -> None:
        super().__init__(*tables, **options)
        self._harmless = harmless

    def encode(self, value: Any, place: Place) -> dict[str, Any]:
        defaults = type(value)().get_params()
        for name, own in value.get_params().items():
            is_listed = name in self.parameters or name in self._harmless
            if not is_listed and own is not defaults[name] and own != defaults[name]:
                raise place.at(f".{name}").refusal(own, f"{defaults[name]!r}, its default")
        return super().encode(value, place)


def _refit(monomials: PolynomialFeatures, most: int) -> None:
    """Fit anew: what a fit finds is the number of monomials alone."""
    monomials.fit(np.zeros((1, monomials.n_features_in_)))
    if monomials.n_output_features_ > most:
        msg = f"{monomials.n_output_features_} monomials are more than the {most} bytes of the store"
        raise ValueError(msg)


def _check_scaler(scaler: StandardScaler, most: int) -> None:
    agree("n_features_in_", scaler.n_features_in_, len(scaler.mean_))
    agree("whether scale_ is None", scaler.scale_ is None, not scaler.with_std)
    agree("whether var_ is None", scaler.var_ is None, not scaler.with_std)


def _check_classifier(classifier: LogisticRegression, most: int) -> None:
    n_classes = len(classifier.classes_)
    agree("n_features_in_", classifier.n_features_in_, classifier.coef_.shape[1])
    agree("the number of rows of coef_", len(classifier.coef_), 1 if n_classes == 2 else n_classes)
    if classifier.classes_.dtype.kind in "OT":
        classifier.classes_ = np.array(classifier.classes_.tolist())
    agree("classes_", classifier.classes_.tolist(), np.unique(classifier.classes_).tolist())


# A pipeline's folder of cached steps is not saved.
Saved(
    {
        "steps": Listed(Record(TEXT, Part(TransformerMixin, RegressorMixin, ClassifierMixin, fitted=None)), 1),
        "verbose": FLAG,
    }
).of(Pipeline)
Saved(
    {
        "degree": Whole(0, MOST_DEGREE) | Record(Whole(0, MOST_DEGREE), Whole(0, MOST_DEGREE)),
        "interaction_only": FLAG,
        "include_bias": FLAG,
        "order": Choice("C", "F"),
    },
    fitted={"n_features_in_": Whole(1, sized=True)},
    restore=_refit,
).of(PolynomialFeatures)
_Borrowed(
    {"with_mean": FLAG, "with_std": FLAG},
    fitted={
        "mean_": ArrayOf("f8", "n_features"),
        "var_": ArrayOf("f8", "n_features") | NOTHING,
        "scale_": ArrayOf("f8", "n_features") | NOTHING,
        "n_samples_seen_": Number(1),
        "n_features_in_": Whole(1, sized=True),
    },
    restore=_check_scaler,
    harmless=("copy",),
).of(StandardScaler)
_Borrowed(
    {
        "C": Number(0),
        "class_weight": Choice("balanced") | Named(Number(0)) | NOTHING,
        "fit_intercept": FLAG,
        "max_iter": Whole(1),
        "solver": Choice("lbfgs", "newton-cg", "newton-cholesky", "liblinear", "sag", "saga"),
        "tol": Number(0),
        "random_state": Whole(0, 2**32 - 1) | NOTHING,
    },
    fitted={
        "classes_": LABELS | ArrayOf(NUMBERS, "n_classes"),
        "coef_": ArrayOf("f8", "n_rows", "n_features"),
        "intercept_": ArrayOf("f8", "n_rows"),
        "n_features_in_": Whole(1, sized=True),
    },
    restore=_check_classifier,
    harmless=("n_jobs", "verbose", "warm_start"),
).of(LogisticRegression)
