"""Passes over slabs of features: Gram matrices of samples, and components.

Products are in the precision of the data, sums of more than `_BLOCK` of them in double precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dsyrk, ssyrk

from mksdask.reduction.missing import check_observed, fill_columns, refuse_infinite

Array = NDArray[Any]
NumberedSlabs = Iterator[tuple[int, Array]]

# Features whose products are summed up in single precision, where data are: errors of these sums are independent, and
# cancel over the blocks.
_BLOCK = 1024
# Parts in which gaps are filled, which bounds the copies that this takes.
_PARTS = 4


@dataclass(frozen=True)
class Gram:
    """Upper triangle of Σ f fᵀ over features, nearly centred, and the slabs of which some features were left out."""

    total: Array
    gappy: tuple[int, ...] = ()

    def merge(self, other: Gram) -> Gram:
        """Of the features of both."""
        return Gram(self.total + other.total, self.gappy + other.gappy)


def centred_gram(total: Array) -> Array:
    """Both triangles of the Gram matrix of samples less their mean, where a rounded mean was taken off before."""
    gram = np.triu(total) + np.triu(total, 1).T
    mean = gram.mean(axis=0)
    gram -= mean + (mean - mean.mean())[:, None]
    return gram


def _centre(slab: Array) -> tuple[Array, Array]:
    """Values less their mean, and the mean in float64, which is NaN for a feature with gaps."""
    mean = slab.mean(axis=0, dtype=np.float64)
    return slab - mean.astype(slab.dtype), mean


def gram_of_complete(slabs: NumberedSlabs, n_samples: int) -> Gram:
    """Over features that were observed in all samples."""
    total, gappy = np.zeros((n_samples, n_samples), order="F"), []
    for number, slab in slabs:
        centred, mean = _centre(slab)
        complete = np.isfinite(mean)
        if not complete.all():
            refuse_infinite(slab)
            gappy.append(number)
            centred = centred[:, complete]
        total = _add_gram(total, centred)
        # Let go before the next one is read.
        del slab, centred
    return Gram(total, tuple(gappy))


def gram_of_gappy(slabs: NumberedSlabs, n_samples: int, basis: Array | None) -> Array:
    """Over features with gaps, which are filled by left singular vectors."""
    total = np.zeros((n_samples, n_samples), order="F")
    for _, slab in slabs:
        n_observed = np.count_nonzero(~np.isnan(slab), axis=0)
        check_observed(n_observed)
        gappy = np.flatnonzero(n_observed < n_samples)
        for part in np.array_split(gappy, _PARTS):
            total = _add_gram(total, _centre(fill_columns(slab[:, part].astype(np.float64), basis))[0])
    return total


def _add_gram(total: Array, centred: Array) -> Array:
    if not centred.shape[1]:
        return total
    if centred.dtype == np.float64:
        return dsyrk(1.0, centred.T, beta=1.0, c=total, trans=1, overwrite_c=1)
    for start in range(0, centred.shape[1], _BLOCK):
        total += ssyrk(1.0, centred[:, start : start + _BLOCK].T, trans=1)
    return total


def gram_times(slabs: NumberedSlabs, basis: Array) -> Array:
    """F Fᵀ times the basis, and below it the trace of F Fᵀ once: (n + 1, l)."""
    product, trace = np.zeros_like(basis), 0.0
    factor: Array | None = None
    for _, slab in slabs:
        centred, mean = _centre(slab)
        if not np.isfinite(mean).all():
            msg = "X holds NaN or infinite values; the randomized solver needs finite features: use solver='gram'"
            raise ValueError(msg)
        factor = basis.astype(slab.dtype) if factor is None else factor
        product += centred @ (centred.T @ factor)
        trace += float(np.einsum("jf,jf->f", centred, centred).sum(dtype=np.float64))
        del slab, centred
    return np.concatenate([product, np.full((1, basis.shape[1]), trace)])


def components_of(slabs: NumberedSlabs, left: Array, basis: Array | None, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Components, in `dtype`, and mean of features."""
    components, means = [], []
    for _, slab in slabs:
        centred, mean = _centre(slab)
        gaps = np.isnan(mean)
        if gaps.any():
            centred[:, gaps], mean[gaps] = _centre(fill_columns(slab[:, gaps].astype(np.float64), basis))
        components.append(left.T.astype(dtype) @ centred)
        means.append(mean)
        del slab, centred
    return np.concatenate(components, axis=1), np.concatenate(means)
