"""Passes over slabs of features: Gram matrices of samples, and components.

Products are computed in the precision of the data. Sums of more than `_BLOCK` products are in double precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg.blas import dsyrk, ssyrk

from mksdask.arrays import Array
from mksdask.reduction.missing import check_observed, fill_columns, refuse_infinite
from mksdask.reduction.triangles import packed, unpacked

NumberedSlabs = Iterator[tuple[int, Array]]

# For single-precision data, the products of so many features are summed in single precision. The rounding errors of
# these sums are independent, so they cancel over the blocks.
_BLOCK = 1024
# Gaps are filled in so many parts, which bounds the memory of copies.
_PARTS = 4


@dataclass(frozen=True)
class Gram:
    """A sum over features, and the slabs whose features with gaps were left out of it.

    Parameters
    ----------
    triangle : ndarray, shape (n_samples (n_samples + 1) / 2,)
        Packed upper triangle of Σ f fᵀ over the features, float64. The features are centred up to the rounding of their
        means.
    gappy : tuple of int
        Numbers of the slabs that have features with gaps.
    """

    triangle: Array
    gappy: tuple[int, ...] = ()

    @property
    def total(self) -> Array:
        """The symmetric matrix Σ f fᵀ, shape (n_samples, n_samples), in the order of Fortran."""
        return unpacked(self.triangle).T

    def merge(self, other: Gram) -> Gram:
        """Add the features of another sum."""
        return Gram(self.triangle + other.triangle, self.gappy + other.gappy)


def centred_gram(total: Array) -> Array:
    """Make both triangles of the centred Gram matrix of samples.

    Features were centred by rounded means before. What the rounding has left is removed here.
    """
    gram = np.triu(total) + np.triu(total, 1).T
    mean = gram.mean(axis=0)
    gram -= mean + (mean - mean.mean())[:, None]
    return gram


def _centre(values: Array) -> tuple[Array, Array]:
    """Subtract the mean of each feature. The mean is float64, and NaN for a feature with gaps."""
    mean = values.mean(axis=0, dtype=np.float64)
    return values - mean.astype(values.dtype), mean


class _Blocks:
    """Centres some features of a slab at a time, always in the same memory, so that they stay in cache."""

    def __init__(self) -> None:
        self._room: Array | None = None

    def of(self, slab: Array) -> Iterator[tuple[slice, Array, Array]]:
        """Yield the columns of each block, its centred values, and its mean.

        The next block overwrites the values. The mean is float64, and NaN for a feature with gaps.
        """
        n_samples, n_features = slab.shape
        width = min(_BLOCK, n_features)
        if self._room is None or self._room.dtype != slab.dtype or self._room.shape[1] < width:
            self._room = np.empty((n_samples, width), dtype=slab.dtype)
        for start in range(0, n_features, _BLOCK):
            where = slice(start, min(start + _BLOCK, n_features))
            block, centred = slab[:, where], self._room[:, : where.stop - start]
            with np.errstate(invalid="ignore"):
                mean = block.mean(axis=0, dtype=np.float64)
                np.subtract(block, mean.astype(slab.dtype), out=centred)
            yield where, centred, mean


def gram_of_complete(slabs: NumberedSlabs, n_samples: int) -> Gram:
    """Sum over the features that were observed in all samples."""
    total, gappy = np.zeros((n_samples, n_samples), order="F"), []
    single, blocks = np.zeros_like(total, dtype=np.float32), _Blocks()
    for number, slab in slabs:
        for where, centred, mean in blocks.of(slab):
            complete = np.isfinite(mean)
            if complete.all():
                _add_gram(total, centred, single)
                continue
            refuse_infinite(slab[:, where])
            gappy.append(number)
            _add_gram(total, centred[:, complete], single)
        # Free the slab before the next one is read.
        del slab
    return Gram(packed(total), tuple(dict.fromkeys(gappy)))


def gram_of_gappy(slabs: NumberedSlabs, n_samples: int, basis: Array | None) -> Array:
    """Sum over the features with gaps. Gaps are filled by `fill_columns` with a basis of left singular vectors."""
    total = np.zeros((n_samples, n_samples), order="F")
    single, blocks = np.zeros_like(total, dtype=np.float32), _Blocks()
    for _, slab in slabs:
        n_observed = np.count_nonzero(~np.isnan(slab), axis=0)
        check_observed(n_observed)
        gappy = np.flatnonzero(n_observed < n_samples)
        for part in np.array_split(gappy, _PARTS):
            for _, centred, _ in blocks.of(fill_columns(slab[:, part].astype(np.float64), basis)):
                _add_gram(total, centred, single)
    return total


def _add_gram(total: Array, centred: Array, single: Array) -> None:
    """Add the products of a block to the upper triangle. `single` is working memory for single precision."""
    if not centred.shape[1]:
        return
    if centred.dtype == np.float64:
        dsyrk(1.0, centred.T, beta=1.0, c=total, trans=1, overwrite_c=1)
    else:
        ssyrk(1.0, centred.T, beta=0.0, c=single, trans=1, overwrite_c=1)
        total += single


def gram_times(slabs: NumberedSlabs, basis: Array) -> Array:
    """Compute F Fᵀ times a basis, and the trace of F Fᵀ.

    Parameters
    ----------
    slabs : iterator of (int, ndarray)
        Numbered slabs of features.
    basis : ndarray, shape (n, l)
        Orthonormal columns.

    Returns
    -------
    ndarray, shape (n + 1, l)
        The product, and one more row that holds the trace in each column.

    Raises
    ------
    ValueError
        If a feature is not finite.
    """
    product, trace = np.zeros_like(basis), 0.0
    factor, blocks = None, _Blocks()
    for _, slab in slabs:
        factor = basis.astype(slab.dtype) if factor is None else factor
        for _, centred, mean in blocks.of(slab):
            if not np.isfinite(mean).all():
                msg = "X holds NaN or infinite values, but the randomized solver needs finite ones; use solver='gram'"
                raise ValueError(msg)
            product += centred @ (centred.T @ factor)
            trace += float(np.einsum("jf,jf->f", centred, centred).sum(dtype=np.float64))
        del slab
    return np.concatenate([product, np.full((1, basis.shape[1]), trace)])


def components_of(slabs: NumberedSlabs, left: Array, basis: Array | None, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Compute the components, in `dtype`, and the means of features, in float64."""
    components, means, vectors, blocks = [], [], left.T.astype(dtype), _Blocks()
    for _, slab in slabs:
        for where, centred, mean in blocks.of(slab):
            gaps = np.isnan(mean)
            if gaps.any():
                filled = fill_columns(slab[:, where][:, gaps].astype(np.float64), basis)
                centred[:, gaps], mean[gaps] = _centre(filled)
            components.append(vectors @ centred)
            means.append(mean)
        del slab
    return np.concatenate(components, axis=1), np.concatenate(means)
