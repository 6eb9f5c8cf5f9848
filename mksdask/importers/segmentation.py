"""Grey levels to phases: by a list of values, by thresholds, or by Otsu's method."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import dask
import dask.array as da
import numpy as np
from numba import njit

from mksdask.arrays import Array

# Classes of a histogram of values that are not 8- or 16-bit integers.
BINS = 2**16
# Voxels that are mapped at once.
PIECE = 2**18


def _like(levels: Array, values: Array) -> Array:
    """Levels in the precision of the image, in which they were read off it."""
    return levels.astype(values.dtype) if values.dtype.kind == "f" else levels


def _pieces(block: Array) -> Iterator[tuple[slice, Array]]:
    """Parts of a block, flat: what is made of one takes several times its bytes."""
    flat = block.reshape(-1)
    for start in range(0, flat.size, PIECE):
        part = slice(start, start + PIECE)
        yield part, flat[part]


def _mapped(function: Callable[[Array], Array], block: Array) -> Array:
    """Phases of a block: by a table of all values that its dtype has, where these are few."""
    out = np.empty(block.size, dtype=np.uint8)
    has_table = block.dtype.kind in "iu" and block.dtype.itemsize <= 2 and block.size > PIECE
    lowest = int(np.iinfo(block.dtype).min) if has_table else 0
    present = np.arange(lowest, int(np.iinfo(block.dtype).max) + 1) if has_table else None
    if present is not None:
        present = present[_counts(block, lowest, len(present)) > 0]
        table = np.zeros(int(present[-1]) - lowest + 1, dtype=np.uint8)
        table[present - lowest] = function(present.astype(block.dtype))
    for part, values in _pieces(block):
        out[part] = function(values) if present is None else table[values.astype(np.intp) - lowest]
    return out.reshape(block.shape)


def _counts(block: Array, lowest: int, n: int) -> Array:
    """How often integers from the lowest on occur."""
    counts = np.zeros(n, dtype=np.int64)
    for _, values in _pieces(block):
        counts += np.bincount(values.astype(np.intp) - lowest, minlength=n)
    return counts


@dataclass(frozen=True)
class Values:
    """Phases of listed values."""

    levels: tuple[float | int, ...]
    phases: tuple[int, ...]

    @property
    def n_phases(self) -> int:
        """Number of phases."""
        return max(self.phases) + 1

    def __call__(self, block: Array) -> Array:
        """Phases of a block.

        Raises
        ------
        ValueError
            If it holds other values.
        """
        return _mapped(self._phases_of, block)

    def _phases_of(self, values: Array) -> Array:
        order = np.argsort(self.levels)
        levels = _like(np.asarray(self.levels)[order], values)
        place = np.minimum(np.searchsorted(levels, values), len(levels) - 1)
        if not (levels[place] == values).all():
            strange = np.unique(values[levels[place] != values])
            msg = (
                f"phases must list every value of the image; {strange[:5].tolist()} are not among {list(self.levels)}. "
                "Use thresholds for grey levels"
            )
            raise ValueError(msg)
        return np.asarray(self.phases, dtype=np.uint8)[order][place]


@dataclass(frozen=True)
class Thresholds:
    """Phase k lies from threshold k - 1, included, to threshold k."""

    thresholds: tuple[float, ...]

    @property
    def n_phases(self) -> int:
        """Number of phases."""
        return len(self.thresholds) + 1

    def __call__(self, block: Array) -> Array:
        """Phases of a block.

        Raises
        ------
        ValueError
            If it holds NaN.
        """
        return _mapped(self._phases_of, block)

    def _phases_of(self, values: Array) -> Array:
        if values.dtype.kind == "f" and np.isnan(values).any():
            msg = "the image holds NaN, which lies on neither side of thresholds"
            raise ValueError(msg)
        return np.searchsorted(_like(np.asarray(self.thresholds), values), values, side="right").astype(np.uint8)


def by_values(phases: Mapping[float, str | int]) -> tuple[Values, list[str] | None]:
    """Phases from a mapping of values to names, numbered as they first appear, or to numbers; and the names.

    Raises
    ------
    ValueError
        If it is empty or mixes names and numbers.
    """
    targets = list(phases.values())
    are_names = [isinstance(target, str) for target in targets]
    if not targets or any(are_names) != all(are_names) or len(set(targets)) > 256:
        msg = f"phases must map values to names, or to numbers 0, 1, …, got {dict(phases)!r}"
        raise ValueError(msg)
    # Whole numbers as such: beyond 2**53 floats do not tell them apart.
    levels = tuple(int(level) if float(level).is_integer() else float(level) for level in phases)
    if all(are_names):
        names = list(dict.fromkeys(map(str, targets)))
        return Values(levels, tuple(names.index(str(target)) for target in targets)), names
    numbers = tuple(int(target) for target in targets)
    if set(numbers) != set(range(max(numbers) + 1)):
        msg = f"phases must be numbered 0, 1, … without gaps, got {sorted(set(numbers))}"
        raise ValueError(msg)
    return Values(levels, numbers), None


def by_thresholds(thresholds: Sequence[float]) -> Thresholds:
    """Phases between rising thresholds.

    Raises
    ------
    ValueError
        If they do not rise.
    """
    values = tuple(float(value) for value in np.atleast_1d(thresholds))
    if not values or any(a >= b for a, b in itertools.pairwise(values)) or not np.isfinite(values).all():
        msg = f"thresholds must be finite numbers that rise, got {list(values)}"
        raise ValueError(msg)
    return Thresholds(values)


def by_otsu(data: da.Array, n_phases: int) -> Thresholds:
    """Thresholds that part the grey levels of an image best; reads it once, or twice if it is not 8- or 16-bit.

    They make the variance between classes largest, over all places, for any number of classes.

    Otsu, N. A threshold selection method from gray-level histograms. IEEE Trans. SMC 9 (1979) 62.

    Parameters
    ----------
    data : dask array
        Grey levels.
    n_phases : int
        Classes, 2 to 6.

    Raises
    ------
    ValueError
        If the image has fewer values than classes, or NaN.
    """
    if isinstance(n_phases, bool) or not isinstance(n_phases, int | np.integer) or not 2 <= n_phases <= 6:
        msg = f"otsu must be a number of phases from 2 to 6, got {n_phases!r}"
        raise ValueError(msg)
    if data.dtype.kind in "biu" and data.dtype.itemsize <= 2:
        low = 0.0 if data.dtype.kind == "b" else float(np.iinfo(data.dtype).min)
        width, n_bins = 1.0, 2 ** (8 * data.dtype.itemsize)
    else:
        low, high = map(float, dask.compute(data.min(), data.max()))
        if not np.isfinite([low, high]).all():
            msg = "the image holds NaN or infinite values; otsu needs grey levels"
            raise ValueError(msg)
        n_bins = BINS
        width = (high - low) / n_bins or 1.0
    parts = data.map_blocks(
        _histogram,
        low,
        width,
        n_bins,
        chunks=(*((1,) * n for n in data.numblocks), (n_bins,)),
        new_axis=data.ndim,
        dtype=np.int64,
        meta=np.empty((0,) * (data.ndim + 1), dtype=np.int64),
        token="histogram",
    )
    counts = parts.sum(axis=tuple(range(data.ndim)), split_every=4).compute()
    if np.count_nonzero(counts) < n_phases:
        msg = f"otsu={n_phases} needs as many grey levels, the image has {np.count_nonzero(counts)}"
        raise ValueError(msg)
    cuts = _best_cuts(counts.astype(np.float64), n_phases)
    return Thresholds(tuple(low + width * cut for cut in cuts))


def _histogram(block: Array, low: float, width: float, n_bins: int) -> Array:
    counts = np.zeros(n_bins, dtype=np.int64)
    for _, values in _pieces(block):
        places = np.clip(((values.astype(np.float64) - low) / width).astype(np.int64), 0, n_bins - 1)
        counts += np.bincount(places, minlength=n_bins)
    return counts.reshape(*(1,) * block.ndim, n_bins)


def _best_cuts(counts: Array, n_classes: int) -> list[int]:
    """First bins of all classes but the lowest, by dynamic programming over the bins that are not empty."""
    bins = np.flatnonzero(counts)
    edges = np.append(bins, len(counts))
    # About the mean, so that sums of squares keep their digits.
    levels = bins - np.average(bins, weights=counts[bins])
    weight = np.concatenate([[0.0], np.cumsum(counts[bins])])
    moment = np.concatenate([[0.0], np.cumsum(counts[bins] * levels)])
    n = len(bins)
    best = np.concatenate([[-np.inf], moment[1:] ** 2 / weight[1:]])
    choices = []
    for _ in range(n_classes - 1):
        best, choice = _next_class(best, weight, moment)
        choices.append(choice)
    cuts, end = [], n
    for choice in choices[::-1]:
        end = int(choice[end])
        cuts.append(int(edges[end]))
    return cuts[::-1]


@njit
def _next_class(best, weight, moment):  # type: ignore[no-untyped-def]
    """Largest Σ (Σ c v)² / Σ c over one class more, of bins 0 to j - 1 for each j, and where its last class begins.

    That place rises with j, so that halving the range of j halves that of places: n log n steps, whatever the bins.
    """
    n = len(weight) - 1
    total, choice = np.full(n + 1, -np.inf), np.zeros(n + 1, dtype=np.int64)
    stack = [(1, n, 1, n)]
    while stack:
        first, last, low, high = stack.pop()
        if first > last:
            continue
        middle = (first + last) // 2
        place = low
        for start in range(low, min(high, middle - 1) + 1):
            mass, sums = weight[middle] - weight[start], moment[middle] - moment[start]
            value = best[start] + sums * sums / mass
            if value > total[middle]:
                total[middle], place = value, start
        choice[middle] = place
        stack.append((first, middle - 1, low, place))
        stack.append((middle + 1, last, place, high))
    return total, choice
