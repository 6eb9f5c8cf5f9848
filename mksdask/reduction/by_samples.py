"""Passes over samples: means and scatter matrices of features."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import dask
import dask.array as da
import numpy as np

from mksdask.arrays import Array
from mksdask.compute.blocks import merge_tree
from mksdask.compute.graph import delayed_blocks
from mksdask.reduction.missing import fill_rows, refuse_infinite


@dataclass
class Moments:
    """Count, mean and scatter Σ (f - f̄)ᵀ(f - f̄) of complete rows; counts and sums of what all rows have."""

    count: int
    mean: Array
    scatter: Array
    seen: Array
    sums: Array

    @classmethod
    def of(cls, block: Array) -> Moments:
        """Of the rows without gaps."""
        values = block.astype(np.float64)
        gaps = ~np.isfinite(values.sum(axis=1))
        seen, sums = np.full(values.shape[1], len(values)), np.zeros(values.shape[1])
        if gaps.any():
            refuse_infinite(block)
            seen, sums = seen - np.isnan(values).sum(axis=0), np.nansum(values[gaps], axis=0)
            values = values[~gaps]
        mean = values.mean(axis=0) if len(values) else np.zeros(values.shape[1])
        sums += len(values) * mean
        values -= mean
        return cls(len(values), mean, values.T @ values, seen, sums)

    def merge(self, other: Moments) -> Moments:
        """Chan, Golub, LeVeque (1983), Eq. 2.1."""
        count, seen, sums = self.count + other.count, self.seen + other.seen, self.sums + other.sums
        if not count:
            return Moments(count, self.mean, self.scatter, seen, sums)
        shift = other.mean - self.mean
        weight = self.count * other.count / count
        scatter = self.scatter + other.scatter + weight * np.outer(shift, shift)
        return Moments(count, self.mean + shift * (other.count / count), scatter, seen, sums)


def moments_of_gappy(block: Array, components: Array | None, mean: Array) -> Moments:
    """Of the rows with gaps, filled."""
    rows = block[np.isnan(block).any(axis=1)].astype(np.float64)
    return Moments.of(fill_rows(rows, components, mean))


def moments_over(fold: Callable[[Array], Moments], data: Any, *, name: str) -> Moments:
    """Moments of all rows, merged in a tree that the chunks alone fix."""
    if not isinstance(data, da.Array):
        return fold(data)
    token = uuid.uuid4().hex
    stage = dask.delayed(fold, name=f"{name}-kernel-{token}")
    (blocks,) = delayed_blocks(data)
    parts = [stage(block, dask_key_name=f"{name}-{token}-{number}") for number, block in enumerate(blocks)]
    return merge_tree(parts, Moments.merge, name=f"merge-{name}-{token}").compute()
