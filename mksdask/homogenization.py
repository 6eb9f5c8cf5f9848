"""MKSHomogenizationModel: microstructures → 2-point statistics → scores → effective property."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray
from sklearn.base import clone
from sklearn.metrics import r2_score
from sklearn.pipeline import Pipeline
from sklearn.utils import Tags, get_tags
from sklearn.utils.validation import check_is_fitted

from mksdask.arrays import ArrayLike, label, map_samples, to_numpy, unwrap
from mksdask.bases.base import Basis
from mksdask.planning import planner_of
from mksdask.regression import polynomial_regression
from mksdask.staging import Url
from mksdask.stats.correlation import Pairs
from mksdask.structure import MKSStructureAnalysis, plan_analysis, require_methods, set_parameter


def _predict_block(scores: NDArray[Any], *, linker: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.asarray(linker.predict(scores.astype(np.float64))).astype(dtype, copy=False)


class MKSHomogenizationModel(MKSStructureAnalysis):
    r"""Linkage from microstructure to effective property.

    .. math:: p^{eff}_j = F(\mu_j)

    with the scores :math:`\mu_j` of `MKSStructureAnalysis`.

    Parameters
    ----------
    basis : Basis or None
        Basis of the local state; None if X already is m[h; s].
    dimension_reducer, n_components
        As in `MKSStructureAnalysis`.
    property_linker : estimator, optional
        Anything with `fit` and `predict`, classifiers too. Default: polynomial regression of `degree`.
    degree : int, optional
        Degree of the polynomial, set on a clone of the linker by `fit`. Default: 1 for the default linker, whatever a
        linker of your own says otherwise.
    periodic_axes, correlations, compute_correlations, store_correlations, mean_center, cutoff, dtype, scratch
        As in `MKSStructureAnalysis`.

    Attributes
    ----------
    reduced_fit_data, reduced_predict_data : array, shape (n_samples, n_components)
        Scores of the samples of `fit` and of the last `predict`.
    coef_, intercept_ : ndarray
        Of the linker, where it has them.
    components_, dimension_reducer_, size_
        As in `MKSStructureAnalysis`.
    property_linker_ : estimator
        The fitted linker.

    Notes
    -----
    `fit` computes lazy X as often as `MKSStructureAnalysis.fit`, and lazy y once. `predict` of lazy X is lazy.

    References
    ----------
    Brough, D. B., Wheeler, D., Kalidindi, S. R. Materials Knowledge Systems in Python: a data science framework
    for accelerated development of hierarchical materials. Integr. Mater. Manuf. Innov. 6 (2017) 36.

    Examples
    --------
    >>> from mksdask import PrimitiveBasis
    >>> from mksdask.datasets import make_elastic_stiffness
    >>> X, y = make_elastic_stiffness(n_samples=(40, 40), grain_size=((3, 3), (9, 9)))
    >>> model = MKSHomogenizationModel(PrimitiveBasis(2), n_components=4, degree=2, periodic_axes=[0, 1])
    >>> bool(model.fit(X[::2], y[::2]).score(X[1::2], y[1::2]) > 0.99)
    True
    """

    def __init__(
        self,
        basis: Basis | None = None,
        *,
        dimension_reducer: Any = None,
        n_components: int | None = None,
        property_linker: Any = None,
        degree: int | None = None,
        periodic_axes: int | Sequence[int] | None = None,
        correlations: Pairs | None = None,
        compute_correlations: bool = True,
        store_correlations: bool = False,
        mean_center: bool = False,
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
            cutoff=cutoff,
            dtype=dtype,
            scratch=scratch,
        )
        self.property_linker = property_linker
        self.degree = degree

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        size: Sequence[int] | None = None,
        confidence_index: ArrayLike | None = None,
    ) -> Self:
        """Fit the reducer on the statistics of X, and the linker on the scores.

        Parameters
        ----------
        X : array, shape (n_samples, *spatial), or (n_samples, n_voxels) with `size`
            Local state of each voxel; NumPy, dask, zarr or xarray.
        y : array, shape (n_samples,) or (n_samples, n_properties)
            Effective properties, or classes.
        size : tuple of int, optional
            Spatial shape of flat samples.
        confidence_index : array, shape (n_samples, *spatial), flat, or (*spatial,), optional
            Confidence in each voxel.

        Raises
        ------
        TypeError
            If the reducer or the linker lacks a method, or would load lazy X whole.
        ValueError
            If shapes do not fit.
        """
        if y is None:
            msg = (
                "y is missing: a homogenization model needs a property for each sample; use "
                "MKSStructureAnalysis without one"
            )
            raise ValueError(msg)
        target = to_numpy(y)
        n_samples = unwrap(X)[0].shape[0]
        if target.ndim == 0 or len(target) != n_samples:
            msg = f"y must have one entry for each of the {n_samples} samples of X, got shape {target.shape}"
            raise ValueError(msg)
        self._fit_reduced(X, target, size, confidence_index)
        linker = self._linker()
        scores = self.reduced_fit_data.astype(np.float64)
        linker.fit(scores, target)
        self.property_linker_ = linker
        trial = np.asarray(linker.predict(scores[:1]))
        self._target_shape, self._target_dtype = trial.shape[1:], trial.dtype
        return self

    def predict(
        self, X: ArrayLike, size: Sequence[int] | None = None, confidence_index: ArrayLike | None = None
    ) -> Any:
        """Effective properties of samples, lazily for lazy input.

        Parameters
        ----------
        X : array, shape (n_samples, *spatial) or flat
            Local state of each voxel.
        size : tuple of int, optional
            Spatial shape of flat samples; default that of `fit`.
        confidence_index : array, shape (n_samples, *spatial), flat, or (*spatial,), optional
            Confidence in each voxel.

        Returns
        -------
        array of the kind of `X`, shape (n_samples,) or (n_samples, n_properties)
        """
        check_is_fitted(self, "property_linker_")
        scores = self.transform(X, size, confidence_index)
        self.reduced_predict_data = scores
        data, labels = unwrap(scores, name="scores")
        predicted = map_samples(
            partial(_predict_block, dtype=self._target_dtype),
            data,
            tail=self._target_shape,
            dtype=self._target_dtype,
            name="predict",
            options={"linker": self.property_linker_},
        )
        if labels is None:
            return predicted
        dims = tuple(f"property_{axis}" for axis in range(len(self._target_shape)))
        return label(predicted, labels, dims=dims, coords={}, name="prediction")

    def score(
        self,
        X: ArrayLike,
        y: ArrayLike,
        size: Sequence[int] | None = None,
        confidence_index: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> float:
        """The linker's own score: R² for regression, accuracy for classification. Computes lazy input once.

        Parameters
        ----------
        X, size, confidence_index
            As in `predict`.
        y : array, shape (n_samples,) or (n_samples, n_properties)
            True properties or classes.
        sample_weight : array, shape (n_samples,), optional
            Weight of each sample.
        """
        check_is_fitted(self, "property_linker_")
        weights = {} if sample_weight is None else {"sample_weight": to_numpy(sample_weight)}
        scores = to_numpy(self.transform(X, size, confidence_index)).astype(np.float64)
        linker = self.property_linker_
        if callable(getattr(linker, "score", None)):
            return float(linker.score(scores, to_numpy(y), **weights))
        return float(r2_score(to_numpy(y), linker.predict(scores), **weights))

    @property
    def coef_(self) -> NDArray[Any]:
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
        if self.property_linker is not None:
            require_methods(self.property_linker, ["fit", "predict"], "property_linker")
        n_states = None if self.basis is None else len(self.basis.states)
        n_pairs = n_states if self.correlations is None else len(self.correlations)
        if self.mean_center and n_pairs == 1:
            warnings.warn(
                "mean_center=True takes the squared volume fraction out of the only pair of correlations; a linkage "
                "without it is blind. Set mean_center=False, or use more pairs",
                UserWarning,
                stacklevel=4,
            )

    def _linker(self) -> Any:
        if self.property_linker is None:
            return polynomial_regression(1 if self.degree is None else self.degree)
        linker = clone(self.property_linker, safe=False)
        if self.degree is not None:
            set_parameter(linker, "degree", self.degree, "property_linker")
        return linker

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        if self.property_linker is None:
            linker_tags = get_tags(polynomial_regression())
        elif hasattr(self.property_linker, "__sklearn_tags__"):
            linker_tags = get_tags(self.property_linker)
        else:
            return tags
        tags.estimator_type = linker_tags.estimator_type
        tags.regressor_tags = linker_tags.regressor_tags
        tags.classifier_tags = linker_tags.classifier_tags
        return tags


planner_of(MKSHomogenizationModel.fit)(plan_analysis)
