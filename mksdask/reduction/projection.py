"""Rows to scores on components, and back."""

from __future__ import annotations

from functools import partial
from typing import Any

import dask.array as da
import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted, validate_data

from mksdask.arrays import LABELLED, Array, ArrayLike, unwrap
from mksdask.compute.blocks import map_samples
from mksdask.display.cards import WithCard, bars, card, centre_of, picture, points
from mksdask.reduction.missing import coefficients_of
from mksdask.reduction.sketch import Sketch
from mksdask.stats.features import FeatureMap

# Of directions without variance that are found at once.
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
            "X holds NaN or infinite values; where features were not observed, fit PCA(solver='gram') with a number of "
            "components, which fills gaps"
        )
        raise ValueError(msg)
    if gaps.any():
        scores[gaps] = _scores_of_gappy(centred[gaps].astype(np.float64), components.astype(np.float64))
    return np.asarray(scores / scale).astype(dtype, copy=False)


def _scores_of_gappy(rows: Array, components: Array) -> Array:
    """Scores by least squares on the features that each row has."""
    missing = np.isnan(rows)
    if np.isinf(rows).any():
        msg = "X holds infinite values; a feature that was not observed is NaN"
        raise ValueError(msg)
    if missing.all(axis=1).any():
        msg = "X holds samples of which no feature was observed; leave them out"
        raise ValueError(msg)
    return coefficients_of(rows.T, components.T).T


def _part_of_scores(block: Array, components: Array, mean: Array) -> Array:
    """What some features add to the scores: (n, 1, k)."""
    part = (block - mean) @ components.T.astype(np.float64)
    if not np.isfinite(part).all():
        msg = (
            "X holds NaN or infinite values; scores of samples of which a feature is missing need whole rows in "
            "each chunk: use X.rechunk({1: -1})"
        )
        raise ValueError(msg)
    return part[:, None]


def _rows_of_block(block: Array, components: Array, mean: Array, scale: Array) -> Array:
    dtype = np.result_type(block, components)
    return ((block * scale).astype(dtype, copy=False) @ components + mean).astype(dtype, copy=False)


def matrix_of(estimator: BaseEstimator, X: ArrayLike, *, reset: bool) -> Any:
    """X as a matrix: what is lazy or labelled is unwrapped, all else checked as scikit-learn does.

    Raises
    ------
    ValueError
        If it is no matrix, or without `reset` has other features than in `fit`.
    """
    if not isinstance(X, LABELLED):
        # What is not finite is refused, or filled, where blocks are read.
        return validate_data(estimator, X, reset=reset, dtype=(np.float64, np.float32), ensure_all_finite=False)
    data, _ = unwrap(X)
    if not reset and (data.ndim != 2 or data.shape[1] != estimator.n_features_in_):
        msg = f"X must have {estimator.n_features_in_} features as in fit, got shape {tuple(data.shape)}"
        raise ValueError(msg)
    return data


class Projection(WithCard, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Rows to scores and back, for estimators that fit `components_`, `mean_` and `explained_variance_`.

    Scores of one that has a true `whiten` parameter have unit variance.
    """

    components_: Array
    mean_: Array
    explained_variance_: Array
    n_components_: int
    n_features_in_: int

    def transform(self, X: ArrayLike) -> Any:
        """Scores μ = (f - f̄) Φᵀ; lazy for lazy input, one task a chunk.

        Parameters
        ----------
        X : array, shape (n_samples, n_features)
            NumPy or dask, chunked in samples and features. Where a row holds NaN and the estimator fills gaps, its
            scores are the least-squares solution of (f - f̄) = μ Φ on the features that it has; it must be whole in its
            chunk then.

        Returns
        -------
        array of the kind of `X`, shape (n_samples, n_components_)

        Raises
        ------
        ValueError
            If the number of features is not that of `fit`, or of a row nothing was observed.
        """
        check_is_fitted(self, "components_")
        data = matrix_of(self, X, reset=False)
        dtype = np.result_type(data.dtype, self.components_.dtype)
        if isinstance(data, da.Array) and data.numblocks[1] > 1:
            parts = da.blockwise(
                _part_of_scores,
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
            return (parts.sum(axis=1, split_every=2) / self._scale()).astype(dtype)
        return map_samples(
            partial(_scores_of_block, fills_gaps=get_tags(self).input_tags.allow_nan),
            data,
            tail=(self.n_components_,),
            dtype=dtype,
            name="pca-transform",
            shared=(self.components_, self.mean_, self._scale()),
        )

    def inverse_transform(self, X: ArrayLike) -> Any:
        """Rows f = μ Φ + f̄ (Eq. 2); lazy for lazy input.

        Parameters
        ----------
        X : array, shape (n_samples, n_components_)
            Scores.

        Returns
        -------
        array of the kind of `X`, shape (n_samples, n_features)
        """
        check_is_fitted(self, "components_")
        data, _ = unwrap(X)
        return map_samples(
            _rows_of_block,
            data,
            tail=(self.n_features_in_,),
            dtype=np.result_type(data.dtype, self.components_.dtype),
            name="pca-inverse",
            shared=(self.components_, self.mean_, self._scale()),
        )

    def _restored(self, most: int) -> None:
        """Set sizes of a saved one."""
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
        """What whitening divides scores by."""
        deviation = np.sqrt(self.explained_variance_)
        is_whitened = getattr(self, "whiten", False)
        return np.where(deviation > 0, deviation, 1.0) if is_whitened else np.ones_like(deviation)

    def _set_sketch(self, sketch: Sketch, n_components: int, dtype: np.dtype[Any]) -> None:
        k = min(n_components, len(sketch.directions))
        singular = np.linalg.norm(sketch.directions[:k], axis=1)
        # What is less is rounding of the sums, or of the data.
        varies = singular > singular[0] * max(np.finfo(float).eps * len(sketch.mean), 10 * np.finfo(dtype).eps)
        self._set_spectrum(np.where(varies, singular**2, 0.0), sketch.scatter, (sketch.count, len(sketch.mean)))
        self.mean_ = sketch.mean
        self._set_components(
            (sketch.directions[:k] / np.where(varies, singular, np.inf)[:, None]).astype(dtype), varies
        )

    def _set_spectrum(self, values: Array, total: float, shape: tuple[int, int]) -> None:
        """Set what follows from the leading eigenvalues σ² of the scatter matrix and from its trace."""
        n_samples, self.n_features_in_ = shape
        self.n_components_, degrees = len(values), max(1, n_samples - 1)
        self.singular_values_, self.explained_variance_ = np.sqrt(values), values / degrees
        self.explained_variance_ratio_ = values / total if total > 0 else np.zeros_like(values)
        left = min(shape) - len(values)
        self.noise_variance_ = max(0.0, total - float(values.sum())) / degrees / left if left > 0 else 0.0

    def _set_components(self, components: Array, varies: Array) -> Array:
        """Keep components, the largest entry of each positive; return the signs that this takes.

        Rows of no variance become orthonormal ones, orthogonal to all others.
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
    """What a fitted reducer that knows variances says of them, for a card."""
    facts: dict[str, Any] = {}
    if hasattr(reducer, "solver_"):
        facts["solver"] = reducer.solver_
    if hasattr(reducer, "explained_variance_ratio_"):
        facts["variance explained"] = f"{float(np.sum(reducer.explained_variance_ratio_)):.2%}"
    return facts


def variance_picture(reducer: Any) -> str:
    """Bars of the share of the variance that leading components explain together."""
    held = np.cumsum(reducer.explained_variance_ratio_)[:_MOST_BARS]
    return bars(held, f"variance explained by 1…{len(held)}")


def reduction_pictures(reducer: Any, scores: Array, features: FeatureMap) -> list[str]:
    """Draw what a fitted reducer of statistics knows, for a card: variance, scores, components as maps of the lag."""
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
    """Orthonormal rows, (n, n_features), that are orthogonal to orthonormal known ones."""
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
