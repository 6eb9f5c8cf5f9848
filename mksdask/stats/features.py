"""Rows of features, which hold the statistics of samples for a reducer or another step of a pipeline."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mksdask.arrays import Array, ArrayLike, label, numbers_argument, unwrap
from mksdask.compute.blocks import map_samples
from mksdask.compute.watching import FeatureChannel
from mksdask.schema import NOTHING, NUMBERS, Dtype, Listed, Number, Saved, Whole


def _flatten_block(block: Array) -> Array:
    flat = block.reshape(len(block), math.prod(block.shape[1:]))
    return flat.view(flat.real.dtype) if flat.dtype.kind == "c" else flat


# Rounding of statistics, in units of the last place of the largest value of a sample.
_ROUNDING = 32


def rounding_of(dtype: np.dtype[Any], *, is_non_negative: bool | None) -> float:
    """How far below 0 rounding can take statistics that are not negative, relative to the largest of a sample.

    Parameters
    ----------
    dtype : dtype
        dtype of the statistics.
    is_non_negative : bool or None
        Whether m[h; s] is never negative. Then every negative value comes from rounding. None if this is not known.
    """
    if is_non_negative is None:
        return float(_ROUNDING * np.finfo(dtype).eps) if dtype.kind in "fc" else 0.0
    return np.inf if is_non_negative else 0.0


def without_negatives(rows: Array, rounding: float) -> Array:
    """Set to 0 what is negative by rounding alone, and refuse other negative values.

    Raises
    ------
    ValueError
        If a value is more negative than `rounding` times the largest of its row.
    """
    negative = rows < 0
    if not negative.any():
        return rows
    if np.isfinite(rounding) and (negative & (rows < -rounding * rows.max(axis=1, keepdims=True))).any():
        msg = (
            f"dimension_reducer takes no negative numbers, but the 2-point statistics go down to {rows.min():.3g}; use "
            "PrimitiveBasis and mean_center=False, or a reducer that takes them, such as PCA()"
        )
        raise ValueError(msg)
    return np.where(negative, 0, rows).astype(rows.dtype, copy=False)


@dataclass(frozen=True)
class _Preparation:
    """The kernel that turns statistics into rows of features.

    It refuses gaps or leaves them to the reducer, subtracts means, and multiplies pairs by their weights. If `rounding`
    is given, the features have no negative values.
    """

    dtype: np.dtype[Any]
    may_have_gaps: bool
    mean_center: bool
    weights: NDArray[np.float64] | None
    watched: FeatureChannel | None = None
    rounding: float | None = None

    def __call__(self, block: Array, numbers: NDArray[np.intp] | None = None) -> Array:
        block = _flatten_block(block).astype(self.dtype, copy=False)
        if self.watched is not None and numbers is not None:
            self.watched.publish(block, int(numbers[0]))
        if not self.may_have_gaps and not np.isfinite(block).all():
            msg = (
                "the 2-point statistics hold NaN, because the confidence_index leaves no pair of voxels at some lags. "
                "Set cutoff to leave out the largest lags, or use mksdask.reduction.PCA with an integer n_components, "
                "which fills gaps"
            )
            raise ValueError(msg)
        if self.mean_center:
            block = block - np.nanmean(block, axis=1, keepdims=True)
        if self.weights is not None:
            by_pair = block.reshape(len(block), -1, len(self.weights))
            block = (by_pair * self.weights.astype(block.dtype)).reshape(block.shape)
        return block if self.rounding is None else without_negatives(block, self.rounding)


@dataclass(frozen=True)
class FeatureMap:
    """The layout of the statistics of one sample in a row of features.

    Parameters
    ----------
    shape : tuple of int
        Shape of the statistics, (*lags, n_pairs).
    dtype : dtype
        dtype of the statistics. A complex value becomes two features, its real and its imaginary part.
    weights : ndarray, shape (n_pairs,), optional
        A positive weight for each pair, which multiplies its statistics.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    weights: Any = None

    _saved = Saved(
        {
            "shape": Listed(Whole(1, sized=True), 2, 4),
            "dtype": Dtype(NUMBERS),
            "weights": Listed(Number()) | NOTHING,
        }
    )

    @property
    def is_complex(self) -> bool:
        """Whether statistics are complex."""
        return self.dtype.kind == "c"

    @property
    def n_features(self) -> int:
        """Length of a row."""
        return int(np.prod(self.shape)) * (2 if self.is_complex else 1)

    def checked_weights(self) -> NDArray[np.float64] | None:
        """Check the weights, and return one for each feature of a lag. Complex statistics have two for each pair.

        Raises
        ------
        ValueError
            If there is not one positive weight for each pair.
        """
        if self.weights is None:
            return None
        weights = numbers_argument(self.weights, "weights")
        if weights.shape != (self.shape[-1],) or not (np.isfinite(weights) & (weights > 0)).all():
            msg = f"weights must be {self.shape[-1]} positive numbers, one for each pair, got {self.weights!r}"
            raise ValueError(msg)
        return np.repeat(weights, 2) if self.is_complex else weights

    def rows(
        self,
        statistics: Any,
        *,
        may_have_gaps: bool,
        mean_center: bool,
        dtype: np.dtype[Any],
        watched: FeatureChannel | None = None,
        rounding: float | None = None,
    ) -> Any:
        """Make the features of samples, (n_samples, n_features), lazily for lazy statistics.

        Parameters
        ----------
        statistics : ndarray or dask array, shape (n_samples, *shape)
            Statistics.
        may_have_gaps : bool
            Whether NaN is left to the reducer. If not, it is refused.
        mean_center : bool
            Whether the mean of each sample is subtracted from its statistics.
        dtype : dtype
            dtype of the features if statistics are integers.
        watched : FeatureChannel, optional
            Channel on which each block is published.
        rounding : float, optional
            For reducers that take no negative numbers; see `without_negatives`.
        """
        real = np.empty(0, self.dtype).real.dtype
        dtype = real if real.kind == "f" else dtype
        kernel = _Preparation(dtype, may_have_gaps, mean_center, self.checked_weights(), watched, rounding)
        numbers = None if watched is None else np.arange(len(statistics))
        return map_samples(kernel, statistics, numbers, tail=(self.n_features,), dtype=dtype, name="features")

    def unflatten(self, rows: Any) -> Any:
        """Turn rows of features back into statistics, (n, *shape). Weights are divided out."""
        if self.is_complex:
            rows = rows[:, 0::2] + 1j * rows[:, 1::2]
        maps = rows.reshape(-1, *self.shape)
        return maps if self.weights is None else maps / np.asarray(self.weights, dtype=maps.real.dtype)


def flat_features(statistics: ArrayLike) -> Any:
    """Flatten statistics: (n_samples, *lags, n_pairs) → (n_samples, n_features), of the kind of `statistics`.

    A complex value becomes two features, its real and its imaginary part. A DataArray keeps the coordinates of samples.
    """
    data, labels = unwrap(statistics, name="statistics")
    n_features = FeatureMap(tuple(data.shape[1:]), data.dtype).n_features
    rows = map_samples(
        _flatten_block, data, tail=(n_features,), dtype=np.empty(0, data.dtype).real.dtype, name="flat_features"
    )
    return label(rows, labels, dims=("feature",), coords={}, name="features")
