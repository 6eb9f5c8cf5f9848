"""From rows of features to scores on components, and back."""

from __future__ import annotations

from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted

from mksdask.arrays import LABELLED, Array, ArrayLike, label, refuse_unnumeric, unwrap, validated
from mksdask.compute.blocks import AlignedTask, map_samples
from mksdask.display.cards import WithCard, bars, card, centre_of, picture, points
from mksdask.reduction.missing import coefficients_of, refuse_infinite
from mksdask.reduction.sketch import Sketch
from mksdask.stats.features import FeatureMap

# Bytes of the directions without variance that are found at once.
_COMPLEMENT_BYTES = 64 * 2**20
# A card draws at most this many bars of variance, and this many components.
_MOST_BARS = 12
_MOST_COMPONENTS = 3


def _scores_of_block(block: Array, components: Array, mean: Array, scale: Array, *, fills_gaps: bool) -> Array:
    dtype = np.result_type(block, components)
    centred = (block - mean).astype(dtype, copy=False)
    scores = centred @ components.T
    gaps = ~np.isfinite(scores).all(axis=1)
    if gaps.any() and not fills_gaps:
        msg = (
            "X holds NaN or infinite values; if these features were not observed, fit PCA(solver='gram') with an "
            "integer n_components, which fills gaps"
        )
        raise ValueError(msg)
    if gaps.any():
        scores[gaps] = _scores_of_gappy(centred[gaps].astype(np.float64), components.astype(np.float64))
    return np.asarray(scores / scale).astype(dtype, copy=False)


def _scores_of_gappy(rows: Array, components: Array) -> Array:
    """Compute the scores of rows with gaps, by least squares on the features that were observed in each row."""
    missing = np.isnan(rows)
    refuse_infinite(rows)
    if missing.all(axis=1).any():
        msg = "X holds samples of which no feature was observed; leave out these samples"
        raise ValueError(msg)
    return coefficients_of(rows.T, components.T).T


def _part_of_scores(block: Array, components: Array, mean: Array) -> Array:
    """Compute the part of the scores that some of the features contribute, shape (n, 1, k)."""
    part = (block - mean) @ components.T.astype(np.float64)
    if not np.isfinite(part).all():
        msg = (
            "X holds NaN or infinite values; if these features were not observed, each chunk must hold whole rows: use "
            "X.rechunk({1: -1})"
        )
        raise ValueError(msg)
    return part[:, None]


def _rows_of_block(block: Array, components: Array, mean: Array, scale: Array) -> Array:
    dtype = np.result_type(block, components)
    return ((block * scale).astype(dtype, copy=False) @ components + mean).astype(dtype, copy=False)


def matrix_of(estimator: BaseEstimator, X: ArrayLike, *, reset: bool) -> Any:
    """Return X as a matrix. Lazy and labelled arrays are unwrapped, and all others are checked by scikit-learn.

    Raises
    ------
    ValueError
        If X is no matrix, or if it has another number of features than in `fit` and `reset` is false.
    """
    if not isinstance(X, LABELLED):
        # Values that are not finite are refused or filled when the blocks are read.
        return validated(estimator, X, reset=reset, dtype=(np.float64, np.float32), ensure_all_finite=False)
    data, _ = unwrap(X)
    if not reset and (data.ndim != 2 or data.shape[1] != estimator.n_features_in_):
        msg = f"X must have {estimator.n_features_in_} features as in fit, got shape {tuple(data.shape)}"
        raise ValueError(msg)
    return data


def label_scores(scores: Any, X: ArrayLike) -> Any:
    """Label scores as X is. They stay as they are if X is no DataArray."""
    return _labelled(scores, X, "component", "scores")


def _labelled(rows: Any, X: ArrayLike, dim: str, name: str) -> Any:
    """Label rows with the samples of X, if X is a DataArray."""
    if not isinstance(X, xr.DataArray):
        return rows
    return label(rows, X, dims=(dim,), coords={dim: np.arange(rows.shape[1])}, name=name)


class Projection(WithCard, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Base of estimators that fit `components_`, `mean_` and `explained_variance_`. It maps rows to scores and back.

    The scores have unit variance if the estimator has a parameter `whiten` that is true.
    """

    components_: Array
    mean_: Array
    explained_variance_: Array
    n_components_: int
    n_features_in_: int

    def transform(self, X: ArrayLike) -> Any:
        """Compute the scores μ = (f - f̄) Φᵀ, lazily for lazy rows, with one task for each chunk.

        If a row holds NaN, and the estimator fills gaps, the scores of the row are the least-squares solution of
        (f - f̄) = μ Φ on the features that were observed. The row must then be whole in its chunk.

        Parameters
        ----------
        X : array, shape (n_samples, n_features)
            Rows: NumPy, or dask with chunks in samples and features.

        Returns
        -------
        array of the kind of `X`, shape (n_samples, n_components_)
            Scores.

        Raises
        ------
        ValueError
            If the number of features is not that of `fit`. When the result is computed: if a row holds infinite values,
            NaN that the estimator does not fill, or nothing but NaN.
        """
        check_is_fitted(self, "components_")
        data = matrix_of(self, X, reset=False)
        dtype = np.result_type(data.dtype, self.components_.dtype)
        if isinstance(data, da.Array) and data.numblocks[1] > 1:
            parts = da.blockwise(
                AlignedTask(_part_of_scores, "pca-transform"),
                "ijk",
                data,
                "ij",
                da.from_array(self.components_, chunks=(-1, data.chunks[1])),
                "kj",
                da.from_array(self.mean_, chunks=(data.chunks[1],)),
                "j",
                adjust_chunks={"j": 1},
                dtype=np.float64,
                meta=np.empty((0, 0, 0)),
                token="pca-transform",
                align_arrays=False,
            )
            return label_scores((parts.sum(axis=1, split_every=2) / self._scale()).astype(dtype), X)
        scores = map_samples(
            partial(_scores_of_block, fills_gaps=get_tags(self).input_tags.allow_nan),
            data,
            tail=(self.n_components_,),
            dtype=dtype,
            name="pca-transform",
            shared=(self.components_, self.mean_, self._scale()),
        )
        return label_scores(scores, X)

    def inverse_transform(self, X: ArrayLike) -> Any:
        """Compute the rows f = μ Φ + f̄ (Eq. 2), lazily for lazy scores.

        Parameters
        ----------
        X : array, shape (n_samples, n_components_)
            Scores.

        Returns
        -------
        array of the kind of `X`, shape (n_samples, n_features)
            Rows.

        Raises
        ------
        TypeError
            If X does not hold numbers.
        ValueError
            If X does not hold a score of each component.
        """
        check_is_fitted(self, "components_")
        data, _ = unwrap(X)
        refuse_unnumeric(data, name="X")
        if data.ndim != 2 or data.shape[1] != self.n_components_:
            msg = f"X must hold scores of the {self.n_components_} components of fit, got shape {tuple(data.shape)}"
            raise ValueError(msg)
        rows = map_samples(
            _rows_of_block,
            data,
            tail=(self.n_features_in_,),
            dtype=np.result_type(data.dtype, self.components_.dtype),
            name="pca-inverse",
            shared=(self.components_, self.mean_, self._scale()),
        )
        return _labelled(rows, X, "feature", "features")

    def _restored(self, most: int) -> None:
        """Set the sizes of an estimator that was read from a store."""
        self.n_components_, self.n_features_in_ = map(int, self.components_.shape)

    def _card(self) -> str:
        seen = getattr(self, "n_samples_", None) or getattr(self, "n_samples_seen_", None)
        facts = {"samples": seen, "features": self.n_features_in_} | variance_facts(self)
        pictures = [] if np.isnan(self.explained_variance_ratio_).any() else [variance_picture(self)]
        return card(f"{type(self).__name__}, {self.n_components_} components", facts, pictures)

    @property
    def _n_features_out(self) -> int:
        return self.n_components_

    def _scale(self) -> Array:
        """Compute the divisors of the scores: their standard deviations for whitened scores, otherwise 1."""
        deviation = np.sqrt(self.explained_variance_)
        is_whitened = getattr(self, "whiten", False)
        return np.where(deviation > 0, deviation, 1.0) if is_whitened else np.ones_like(deviation)

    def _set_sketch(self, sketch: Sketch, n_components: int, dtype: np.dtype[Any]) -> None:
        k = min(n_components, len(sketch.directions))
        singular = np.linalg.norm(sketch.directions[:k], axis=1)
        # Singular values below this are rounding of the sums, or of the data.
        varies = singular > singular[0] * max(np.finfo(float).eps * len(sketch.mean), 10 * np.finfo(dtype).eps)
        self._set_spectrum(np.where(varies, singular**2, 0.0), sketch.scatter, (sketch.count, len(sketch.mean)))
        self.mean_ = sketch.mean
        self._set_components(
            (sketch.directions[:k] / np.where(varies, singular, np.inf)[:, None]).astype(dtype), varies
        )

    def _set_spectrum(self, values: Array, total: float, shape: tuple[int, int]) -> None:
        """Set the attributes that follow from the leading eigenvalues σ² of the scatter matrix and from its trace."""
        n_samples, self.n_features_in_ = shape
        self.n_components_, degrees = len(values), max(1, n_samples - 1)
        self.singular_values_, self.explained_variance_ = np.sqrt(values), values / degrees
        self.explained_variance_ratio_ = values / total if total > 0 else np.zeros_like(values)
        left = min(shape) - len(values)
        self.noise_variance_ = max(0.0, total - float(values.sum())) / degrees / left if left > 0 else 0.0

    def _set_components(self, components: Array, varies: Array) -> Array:
        """Keep the components, with signs that make the entry of largest magnitude positive, and return these signs.

        Rows without variance are replaced by orthonormal rows that are orthogonal to all others.
        """
        signs = np.ones(len(components))
        for number, row in enumerate(components):
            if varies[number] and row[np.abs(row).argmax()] < 0:
                row *= -1
                signs[number] = -1
        if not varies.all():
            components[~varies] = _orthonormal_complement(components[varies].astype(np.float64), int(np.sum(~varies)))
        self.components_ = components
        return signs


def variance_facts(reducer: Any) -> dict[str, Any]:
    """List the solver of a fitted reducer and the variance that it explains, for a card."""
    facts: dict[str, Any] = {}
    if hasattr(reducer, "solver_"):
        facts["solver"] = reducer.solver_
    if hasattr(reducer, "explained_variance_ratio_"):
        facts["variance explained"] = f"{float(np.sum(reducer.explained_variance_ratio_)):.2%}"
    return facts


def variance_picture(reducer: Any) -> str:
    """Draw bars of the share of the variance that the leading components explain together."""
    held = np.cumsum(reducer.explained_variance_ratio_)[:_MOST_BARS]
    return bars(held, f"variance explained by 1…{len(held)}")


def reduction_pictures(reducer: Any, scores: Array, features: FeatureMap) -> list[str]:
    """Draw a fitted reducer of statistics, for a card: its variance, the scores, and components as maps of the lag."""
    n_axes = len(features.shape) - 1
    pictures = [variance_picture(reducer)] if hasattr(reducer, "explained_variance_ratio_") else []
    if scores.shape[1] > 1:
        pictures.append(points(scores[:, :2], "scores μ₁, μ₂"))
    if hasattr(reducer, "components_") and 1 <= n_axes <= 3:
        components = np.real(features.unflatten(np.asarray(reducer.components_[:_MOST_COMPONENTS])))
        pictures += [
            picture(centre_of(component[..., 0], n_axes), f"φ{number}, first pair", diverging=True)
            for number, component in enumerate(components, 1)
        ]
    return pictures


def _orthonormal_complement(known: Array, n: int) -> Array:
    """Make orthonormal rows, shape (n, n_features), that are orthogonal to known orthonormal rows."""
    rng = np.random.default_rng(0)
    step = max(1, _COMPLEMENT_BYTES // (8 * known.shape[1]))
    n_known = len(known)
    for start in range(0, n, step):
        rows = rng.normal(size=(min(step, n - start), known.shape[1]))
        for _ in range(2):
            rows -= (rows @ known.T) @ known
            rows = np.linalg.qr(rows.T)[0].T
        known = np.concatenate([known, rows])
    return known[n_known:]
