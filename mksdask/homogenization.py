"""MKSHomogenizationModel: from microstructures to scores, and from scores to effective properties."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import DTypeLike, NDArray
from sklearn.metrics import r2_score
from sklearn.pipeline import Pipeline
from sklearn.utils import Tags, get_tags
from sklearn.utils.validation import check_is_fitted

from mksdask.arrays import (
    Array,
    ArrayLike,
    is_lazy,
    is_trial_of_dask_ml,
    label,
    refuse_path,
    to_numpy,
    unwrap,
    warn_caller,
)
from mksdask.bases.base import Basis
from mksdask.compute.operation import Operation, operation
from mksdask.compute.watching import Watch
from mksdask.labels import first_index, index_in_order, matched, matched_values, quantity, sample_index
from mksdask.reduction.fit import Fit
from mksdask.reduction.reducers import needs_targets
from mksdask.regression import borrowed, next_samples, polynomial_regression
from mksdask.regression.linkers import LINKERS, new_linker
from mksdask.regression.responses import ResponsesMixin, respond_block, respond_block_with_spread, takes
from mksdask.regression.scoring import lazy_score
from mksdask.regression.targets import check_fits, known_targets
from mksdask.schema import NOTHING, TEXT, Choice, Named, Part, Saved, Whole
from mksdask.schema.arguments import checked
from mksdask.simulation.bounded_regressor import BoundedRegressor
from mksdask.stats.pairs import Pairs
from mksdask.storage.atomic import Url
from mksdask.structure import MKSStructureAnalysis


class MissingPropertyWarning(UserWarning):
    """Some samples of a fit have no property."""


def _rows(array: ArrayLike, index: pd.Index | None, n_samples: int, name: str) -> Array:
    """Load an array in the order of the labels of samples, after a check that it has one row for each sample."""
    refuse_path(array, name=name)
    rows = matched_values(array, index, name=name)
    if rows.ndim == 0 or len(rows) != n_samples:
        turned = f"; pass {name}.T" if rows.ndim == 2 and rows.shape[1] == n_samples else ""
        msg = f"{name} must have one entry for each of the {n_samples} samples of X, got shape {rows.shape}{turned}"
        raise ValueError(msg)
    return rows


@dataclass(frozen=True)
class _FitLinkage(Fit):
    """The checked arguments of `fit`, with the linker to fit."""

    linker: Any = None
    is_known: Any = None
    targets: Any = None
    options: Any = None
    quantity: Any = None

    def run(self) -> Any:
        self._warn_of_gaps()
        model, linker = super().run(), self.linker
        scores = model.reduced_fit_data.astype(np.float64)
        linker.fit(scores[self.is_known], self.targets, **self.options)
        model.property_linker_, model._quantity = linker, self.quantity
        model._try_linker()
        return model

    def _warn_of_gaps(self) -> None:
        n_missing = int((~self.is_known).sum())
        if n_missing:
            msg = (
                f"{n_missing} of {len(self.is_known)} samples have no property (NaN in y). The reducer is fitted to "
                "all samples, the linker to the others. If this is intended, ignore warnings of the category "
                "mksdask.MissingPropertyWarning"
            )
            warn_caller(msg, MissingPropertyWarning)


class MKSHomogenizationModel(ResponsesMixin, MKSStructureAnalysis):
    r"""Predict effective properties of samples, such as their stiffness, from their microstructure.

    The model computes the scores μ of each sample as `MKSStructureAnalysis` does. It fits a function F, the linker, to
    the scores and to known properties. For sample j (Eq. 3),

    .. math:: p^{eff}_j = F(\mu_j)

    Parameters
    ----------
    basis, dimension_reducer, n_components
        As in `MKSStructureAnalysis`.
    property_linker : {"polynomial", "kernel"} or estimator, default "polynomial"
        `mksdask.regression.polynomial_regression` of `degree`, `mksdask.regression.KernelRegressor`, or any regressor
        or classifier with `fit` and `predict`. With a classifier, the model is a classifier too.
    degree : int, optional
        Degree of the polynomial, which `fit` sets on a clone of the linker. Default: 1 for the polynomial. Any other
        linker keeps its own degree.
    periodic_axes, correlations, compute_correlations, store_correlations, mean_center, weights, cutoff, dtype, scratch
        As in `MKSStructureAnalysis`.

    Attributes
    ----------
    reduced_fit_data, reduced_predict_data : array, shape (n_samples, n_components)
        Scores of the samples of `fit` and of the last `predict`.
    property_linker_ : estimator
        The fitted linker.
    coef_, intercept_ : ndarray
        Coefficients and intercept of the linker, if it has them.
    classes_ : ndarray, shape (n_classes,)
        Classes, if the linker is a classifier.
    components_, dimension_reducer_, grid_, size_, periodic_axes_, phases_
        As in `MKSStructureAnalysis`.

    Notes
    -----
    `fit` computes lazy X as often as `MKSStructureAnalysis.fit` does, and lazy y once. `predict` of lazy X is lazy.

    References
    ----------
    Brough, D. B., Wheeler, D., Kalidindi, S. R. Materials Knowledge Systems in Python: a data science framework
    for accelerated development of hierarchical materials. Integr. Mater. Manuf. Innov. 6 (2017) 36.

    Examples
    --------
    >>> from mksdask import PrimitiveBasis
    >>> from mksdask.datasets.responses import make_elastic_stiffness
    >>> X, y = make_elastic_stiffness(n_samples=(40, 40), grain_size=((3, 3), (9, 9)))
    >>> model = MKSHomogenizationModel(PrimitiveBasis(2), n_components=4, degree=2, periodic_axes=[0, 1])
    >>> bool(model.fit(X[::2], y[::2]).score(X[1::2], y[1::2]) > 0.99)
    True

    With a classifier as the linker, y holds classes, and `predict_proba` and the like exist if the classifier has them:

    >>> from sklearn.linear_model import LogisticRegression
    >>> names = ["fine"] * 40 + ["coarse"] * 40
    >>> linker = LogisticRegression()
    >>> classifier = MKSHomogenizationModel(PrimitiveBasis(2), property_linker=linker, periodic_axes=[0, 1])
    >>> classifier.fit(X[::2], names[::2]).score(X[1::2], names[1::2]) > 0.9
    True
    >>> classifier.classes_.tolist(), classifier.predict_proba(X[:3]).shape
    (['coarse', 'fine'], (3, 2))
    """

    _saved = Saved(
        MKSStructureAnalysis._saved.parameters
        | {
            "property_linker": Choice(*LINKERS) | Part(BoundedRegressor, *borrowed.LINKERS) | NOTHING,
            "degree": Whole() | NOTHING,
        },
        fitted=MKSStructureAnalysis._saved.fitted
        | {"property_linker_": Part(BoundedRegressor, *borrowed.LINKERS, fitted=True), "_quantity": Named(TEXT)},
        is_model=True,
    )

    def __init__(
        self,
        basis: Basis | None = None,
        *,
        dimension_reducer: Any = None,
        n_components: int | None = None,
        property_linker: Any = "polynomial",
        degree: int | None = None,
        periodic_axes: int | Sequence[int] | None = None,
        correlations: Pairs | None = None,
        compute_correlations: bool = True,
        store_correlations: bool = False,
        mean_center: bool = False,
        weights: Sequence[float] | None = None,
        cutoff: int | Sequence[int] | None = None,
        dtype: DTypeLike = "float32",
        scratch: Url | None = None,
    ) -> None:
        super().__init__(
            basis,
            dimension_reducer=dimension_reducer,
            n_components=n_components,
            periodic_axes=periodic_axes,
            correlations=correlations,
            compute_correlations=compute_correlations,
            store_correlations=store_correlations,
            mean_center=mean_center,
            weights=weights,
            cutoff=cutoff,
            dtype=dtype,
            scratch=scratch,
        )
        self.property_linker = property_linker
        self.degree = degree

    @operation
    @checked
    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        size: Sequence[int] | None = None,
        confidence_index: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        *,
        watch: Watch = False,
        resume: bool = False,
    ) -> Operation[Self]:
        """Fit the reducer to the statistics of X, and the linker to scores and properties.

        Parameters
        ----------
        X, size, confidence_index, watch, resume
            As in `MKSStructureAnalysis.fit`.
        y : array, shape (n_samples,) or (n_samples, n_properties)
            Effective properties, or classes as numbers or text, as an array or a table of pandas. NaN, or None among
            text, marks a sample without known properties. The reducer is fitted to all samples, the linker to those
            with properties. If the samples of X and y have labels, a property belongs to the sample with its label,
            and so do entries of `groups` and `confidence_index`. Otherwise the order counts.
        groups : array, shape (n_samples,), optional
            The group of each sample, such as its grain shape, for linkers that take groups. With groups, the spread
            that `KernelRegressor` predicts holds for samples of groups that it has not seen.

        Raises
        ------
        TypeError
            If the reducer or the linker lacks a method or parameter or is a class, if the reducer would load lazy X
            whole, or if y mixes numbers and text.
        ValueError
            As in `MKSStructureAnalysis.fit`, or if y does not hold one entry for each sample, with its label.

        Warns
        -----
        mksdask.MissingPropertyWarning
            If y holds NaN. Whoever leaves out properties on purpose can ignore this category:
            ``warnings.simplefilter("ignore", mksdask.MissingPropertyWarning)``.
        """
        if y is None:
            msg = "y is missing; pass a property for each sample, or use MKSStructureAnalysis, which needs none"
            raise ValueError(msg)
        statistics = self._statistics(X, size, confidence_index, resume=resume)
        index = index_in_order(y) if statistics.index is None else statistics.index
        target = _rows(y, index, len(statistics), "y")
        is_known, targets = known_targets(target)
        linker, options = new_linker(self.property_linker, self.degree), {}
        check_fits(targets, linker)
        if groups is not None:
            if not takes(linker.fit, "groups"):
                msg = f"property_linker {linker!r} does not take groups; use property_linker='kernel', or groups=None"
                raise TypeError(msg)
            options["groups"] = _rows(groups, index, len(statistics), "groups")[is_known]
        if not is_known.all() and needs_targets(self.dimension_reducer):
            msg = f"dimension_reducer {self.dimension_reducer!r} needs y of all samples; leave out those without"
            raise ValueError(msg)
        given = targets if is_known.all() else target
        of_linker = (linker, is_known, targets, options, quantity(y))
        return _FitLinkage(self, statistics, given, watch, resume, "fit", *of_linker)

    def _try_linker(self) -> None:
        """See what it predicts."""
        trial = np.asarray(self.property_linker_.predict(self.reduced_fit_data[:1].astype(np.float64)))
        self._target_shape, self._target_dtype = trial.shape[1:], trial.dtype
        if trial.dtype.kind == "U":
            # The label of one sample may be shorter than others, which must not be cut.
            classes = getattr(self.property_linker_, "classes_", None)
            labels = classes if isinstance(classes, list) else [classes]
            self._target_dtype = np.dtype(object) if classes is None else np.result_type(*labels)

    def _restored(self, most: int) -> None:
        super()._restored(most)
        self._try_linker()

    @checked
    def predict(
        self,
        X: ArrayLike,
        size: Sequence[int] | None = None,
        confidence_index: ArrayLike | None = None,
        *,
        return_std: bool = False,
    ) -> Any:
        """Predict effective properties of samples, lazily for lazy input.

        Parameters
        ----------
        X, size, confidence_index
            As in `transform`.
        return_std : bool, default False
            Return the standard deviation of each prediction too. The linkers "polynomial" and "kernel" and Gaussian
            processes know it.

        Returns
        -------
        array of the kind of `X`, shape (n_samples,) or (n_samples, n_properties)
            Predicted properties or classes. With `return_std`, a pair of such arrays: properties and standard
            deviations. DataArrays have the unit of the y of `fit`, and the prediction its name.

        Raises
        ------
        TypeError
            If `return_std` is true, but the `predict` of the linker does not take it.

        Warns
        -----
        mksdask.ExtrapolationWarning
            If X is in memory, and `distance` is more than 1 for more than 10 % of the samples: `fit` has not seen their
            like. For lazy X, `distance` tells it.
        """
        check_is_fitted(self, "property_linker_")
        linker, shape = self.property_linker_, self._target_shape
        if return_std and not takes(self._last_step.predict, "return_std"):
            msg = f"property_linker {linker!r} does not know how sure it is; use 'kernel' or 'polynomial'"
            raise TypeError(msg)
        if shape and is_trial_of_dask_ml():
            msg = (
                "dask_ml.wrappers.ParallelPostFit takes models of one property, because it makes one column of "
                f"predictions, but this model predicts {shape[0]}; call the model itself, which is lazy for lazy X"
            )
            raise ValueError(msg)
        kernel = respond_block_with_spread if return_std else respond_block
        self.reduced_predict_data = self.transform(X, size, confidence_index)
        self._warn_of_far(self.reduced_predict_data)
        predicted, labels = self._respond(kernel, (2, *shape) if return_std else shape, self._target_dtype, "predict")
        dims = tuple(f"property_{axis}" for axis in range(len(shape)))
        named = {"prediction": predicted[:, 0], "spread": predicted[:, 1]} if return_std else {"prediction": predicted}
        # A spread has the unit of its property, and is another quantity.
        said = {"prediction": self._quantity, "spread": {k: v for k, v in self._quantity.items() if k == "units"}}
        parts = tuple(label(named[k], labels, dims=dims, coords={}, name=k, attrs=said[k]) for k in named)
        return parts if return_std else parts[0]

    def _facts(self) -> dict[str, Any]:
        return super()._facts() | {
            "linker": getattr(self.property_linker_, "in_words", repr(self.property_linker_)),
            "properties": int(np.prod(self._target_shape)),
        }

    @checked
    def suggest(
        self,
        X_pool: ArrayLike,
        n: int,
        size: Sequence[int] | None = None,
        confidence_index: ArrayLike | None = None,
    ) -> NDArray[np.intp]:
        """Choose the samples to simulate next: those whose properties would tell most about the whole pool.

        Parameters
        ----------
        X_pool : array, shape (n_pool, *spatial) or flat
            Samples without a property, or the result of `share`.
        n : int
            Number of samples to choose.
        size, confidence_index
            As in `transform`.

        Returns
        -------
        ndarray of int, shape (n,)
            Rows of `X_pool`, with the most useful first; see `mksdask.regression.next_samples`.

        Raises
        ------
        TypeError
            If the linker does not know the covariance of its predictions.
        ValueError
            If n is not between 1 and the size of the pool.

        Examples
        --------
        >>> import warnings
        >>> from mksdask import MissingPropertyWarning, PrimitiveBasis
        >>> from mksdask.datasets.responses import make_elastic_stiffness
        >>> X, y = make_elastic_stiffness(n_samples=(40, 40), grain_size=((3, 3), (9, 9)))
        >>> y[8:] = float("nan")  # not simulated yet, on purpose
        >>> warnings.simplefilter("ignore", MissingPropertyWarning)
        >>> model = MKSHomogenizationModel(PrimitiveBasis(2), property_linker="kernel", periodic_axes=[0, 1])
        >>> next_ones = 8 + model.fit(X, y).suggest(X[8:], 4)
        >>> next_ones.shape
        (4,)
        """
        check_is_fitted(self, "property_linker_")
        return next_samples(self.property_linker_, to_numpy(self.transform(X_pool, size, confidence_index)), n)

    def score(
        self,
        X: ArrayLike,
        y: ArrayLike,
        size: Sequence[int] | None = None,
        confidence_index: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> float:
        """Score predictions with the score of the linker: R² for regression, accuracy for classification.

        For lazy X, X and lazy y are computed once, together, and a chunk at a time. A linker with a score of its own
        gets all scores and y in memory.

        Parameters
        ----------
        X, size, confidence_index
            As in `transform`.
        y : array, shape (n_samples,) or (n_samples, n_properties)
            True properties or classes.
        sample_weight : array, shape (n_samples,), optional
            Weight of each sample. Labels of samples count as in `fit`.

        Raises
        ------
        ValueError
            If y or `sample_weight` has other samples than X.
        """
        check_is_fitted(self, "property_linker_")
        if is_lazy(X):
            given = {"y": y, "sample_weight": sample_weight}
            # A copy predicts, so that `reduced_predict_data` stays that of the last call of predict.
            predicted = unwrap(copy(self).predict(X, size, confidence_index))[0]
            index = first_index(X, confidence_index, y)
            rows = [None if part is None else matched(part, index, name=name) for name, part in given.items()]
            truth, weight = (
                part if part is None else unwrap(part)[0] if is_lazy(part) else to_numpy(part) for part in rows
            )
            score = lazy_score(self.property_linker_, truth, predicted, weight)
            if score is not None:
                return score
        found, index = self._transformed(X, size, confidence_index)
        index = sample_index(y) if index is None else index
        is_known, truth = known_targets(matched_values(y, index, name="y"))
        if not is_known.all():
            msg = f"y must hold a property for each sample that is scored, but {np.sum(~is_known)} have NaN"
            raise ValueError(msg)
        weights = {}
        if sample_weight is not None:
            weights["sample_weight"] = matched_values(sample_weight, index, name="sample_weight")
        scores, linker = to_numpy(found).astype(np.float64), self.property_linker_
        if callable(getattr(linker, "score", None)):
            return float(linker.score(scores, truth, **weights))
        return float(r2_score(truth, linker.predict(scores), **weights))

    @property
    def coef_(self) -> Array:
        """Coefficients of the linker."""
        return np.asarray(self._last_step.coef_)

    @property
    def intercept_(self) -> Any:
        """Intercept of the linker."""
        return self._last_step.intercept_

    @property
    def _last_step(self) -> Any:
        check_is_fitted(self, "property_linker_")
        linker = self.property_linker_
        return linker[-1] if isinstance(linker, Pipeline) else linker

    def _check_arguments(self) -> None:
        super()._check_arguments()
        n_states = None if self.basis is None else len(self.basis.states)
        n_pairs = n_states if self.correlations is None else len(self.correlations)
        if self.mean_center and n_pairs == 1:
            warn_caller(
                "mean_center=True removes the squared volume fraction from the only pair of correlations, so the "
                "linkage is blind to it; set mean_center=False, or use more pairs"
            )

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        linker = polynomial_regression() if self.property_linker is None else self.property_linker
        if isinstance(linker, str):
            linker = LINKERS.get(linker, polynomial_regression)()
        if isinstance(linker, type) or not hasattr(linker, "__sklearn_tags__"):
            return tags
        linker_tags = get_tags(linker)
        tags.estimator_type = linker_tags.estimator_type
        tags.regressor_tags = linker_tags.regressor_tags
        tags.classifier_tags = linker_tags.classifier_tags
        return tags
