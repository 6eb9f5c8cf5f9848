"""Segmentation: grey levels become phases, by a list of values, by thresholds, or by Otsu's method."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from mksdask.arrays import Array, is_number, shown
from mksdask.compute.blocks import computed, computed_array

# Number of bins of a histogram of values that are not 8- or 16-bit integers.
BINS = 2**16
# Number of voxels that are mapped at once.
PIECE = 2**18
# An image of so many values or fewer seems to hold phases, if it has so many voxels or more for each.
MOST_PHASES = 16
VOXELS_PER_PHASE = 8
# Share of the variance of grey levels that lies between two phases, from which on the rest is taken for noise.
SHARE_OF_TWO = 0.99


def _like(levels: Array, values: Array) -> Array:
    """Convert levels to the precision of the image, because they were read off values in this precision."""
    return levels.astype(values.dtype) if values.dtype.kind == "f" else levels


def _pieces(block: Array) -> Iterator[tuple[slice, Array]]:
    """Iterate over flat parts of a block, because intermediate arrays take several times the bytes of a part."""
    flat = block.reshape(-1)
    for start in range(0, flat.size, PIECE):
        part = slice(start, start + PIECE)
        yield part, flat[part]


def _mapped(function: Callable[[Array], Array], block: Array) -> Array:
    """Map a block to phases. If its dtype has few values, a table of all values is made first."""
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
    """Count how often each of the `n` integers from `lowest` on occurs in a block."""
    counts = np.zeros(n, dtype=np.int64)
    for _, values in _pieces(block):
        counts += np.bincount(values.astype(np.intp) - lowest, minlength=n)
    return counts


@dataclass(frozen=True)
class Values:
    """The kernel that maps listed values to phases.

    Parameters
    ----------
    levels : tuple of number
        Values of the image.
    phases : tuple of int
        Phase of each value.
    """

    levels: tuple[float | int, ...]
    phases: tuple[int, ...]

    @property
    def n_phases(self) -> int:
        """Number of phases."""
        return max(self.phases) + 1

    def __call__(self, block: Array) -> Array:
        """Return the phases of a block.

        Raises
        ------
        ValueError
            If the block holds other values.
        """
        return _mapped(self._phases_of, block)

    def _phases_of(self, values: Array) -> Array:
        order = np.argsort(self.levels)
        levels = _like(np.asarray(self.levels)[order], values)
        place = np.minimum(np.searchsorted(levels, values), len(levels) - 1)
        if not (levels[place] == values).all():
            strange = np.unique(values[levels[place] != values])
            msg = (
                f"phases must list every value of the image, but {strange[:5].tolist()} are not among "
                f"{list(self.levels)}; add them, or use thresholds for grey levels"
            )
            raise ValueError(msg)
        return np.asarray(self.phases, dtype=np.uint8)[order][place]


@dataclass(frozen=True)
class Thresholds:
    """The kernel that maps the values from threshold k - 1, included, to threshold k, excluded, to phase k.

    Parameters
    ----------
    thresholds : tuple of float
        Thresholds that rise, counted from 0.
    """

    thresholds: tuple[float, ...]

    @property
    def n_phases(self) -> int:
        """Number of phases."""
        return len(self.thresholds) + 1

    def __call__(self, block: Array) -> Array:
        """Return the phases of a block.

        Raises
        ------
        ValueError
            If the block holds NaN.
        """
        return _mapped(self._phases_of, block)

    def _phases_of(self, values: Array) -> Array:
        if values.dtype.kind == "f" and np.isnan(values).any():
            msg = "the image holds NaN, which lies on neither side of thresholds; replace NaN by a number first"
            raise ValueError(msg)
        return np.searchsorted(_like(np.asarray(self.thresholds), values), values, side="right").astype(np.uint8)


def refuse_grey_phases(data: Any, path: str) -> None:
    """Refuse integers that seem to be the grey levels of a few phases, and say which option names the phases.

    Parameters
    ----------
    data : dask array
        Values of an image.
    path : str
        The file, for the message.

    Raises
    ------
    ValueError
        If the image holds at most 16 integers, and they are not numbers of phases that begin with 0 or 1; or if it
        holds two grey levels with the noise of a lossy compression.

    Notes
    -----
    One chunk in the middle of the image is read first. The others are read too only if this one has few values or two
    grey levels with noise, so that the decision holds for all voxels.
    """
    if data.dtype.kind not in "iu" or data.size < 2 * VOXELS_PER_PHASE:
        return
    middle = data.blocks[tuple(n // 2 for n in data.numblocks)]
    if _values_of(middle) is not None:
        values = _values_of(data)
        if values is not None and data.size >= VOXELS_PER_PHASE * len(values):
            _refuse_values(values, path)
    elif data.dtype.itemsize == 1 and _two_levels(middle) is not None:
        levels = _two_levels(data)
        if levels is not None:
            msg = (
                f"{path} holds many values, but nearly all lie close to {levels[0]} and {levels[1]}, as of two phases "
                "after a lossy compression; say otsu=2 (--otsu 2) to tell the phases apart, or phases='values' "
                "(--phases values) to keep the grey levels"
            )
            raise ValueError(msg)


def _refuse_values(values: list[int], path: str) -> None:
    """Refuse values that are not 0, 1, 2, … or 1, 2, …."""
    if values[0] in (0, 1) and values == list(range(values[0], values[0] + len(values))):
        return
    names = dict(zip(values, "abcdefghijklmnop", strict=False))
    listed = ",".join(f"{value}:{name}" for value, name in names.items())
    msg = (
        f"{path} holds only the values {', '.join(map(str, values))}, which seem to be {len(values)} phases; name them "
        f"by phases={names} (--phases {listed}), or keep the values as they are by phases='values' (--phases values)"
    )
    raise ValueError(msg)


def _values_of(data: Any) -> list[int] | None:
    """Find all values of an image, in rising order. Return None if there are more than `MOST_PHASES`."""
    parts = data.map_blocks(
        _first_values,
        chunks=(*((1,) * n for n in data.numblocks), (MOST_PHASES + 1,)),
        new_axis=data.ndim,
        dtype=data.dtype,
        meta=np.empty((0,) * (data.ndim + 1), dtype=data.dtype),
        token="values",
    )
    values = np.unique(computed(parts))
    return None if len(values) > MOST_PHASES else [int(value) for value in values]


def _first_values(block: Array) -> Array:
    """Find up to `MOST_PHASES` + 1 values of a block, (1, ..., 1, n). The first is repeated if there are fewer."""
    found = block.reshape(-1)[:1]
    for _, values in _pieces(block):
        if block.dtype.itemsize == 1:
            lowest = int(np.iinfo(block.dtype).min)
            present = (np.flatnonzero(_counts(values, lowest, 256)) + lowest).astype(block.dtype)
        else:
            present = np.unique(values)
        found = np.union1d(found, present)[: MOST_PHASES + 1]
        if len(found) > MOST_PHASES:
            break
    return np.pad(found, (0, MOST_PHASES + 1 - len(found)), mode="edge").reshape(*(1,) * block.ndim, -1)


def _two_levels(data: Any) -> tuple[int, int] | None:
    """Find the mean grey levels of two phases, or return None if the grey levels are not those of two phases."""
    lowest = float(np.iinfo(data.dtype).min)
    counts = _histogram_of(data, lowest, 1.0, 256).astype(np.float64)
    levels = np.arange(256) + lowest
    if np.count_nonzero(counts) < 2:
        return None
    (cut,) = _best_cuts(counts, 2)
    means = [float(np.average(levels[part], weights=counts[part])) for part in (slice(cut), slice(cut, None))]
    mean = float(np.average(levels, weights=counts))
    whole = float(np.sum(counts * (levels - mean) ** 2))
    below = float(counts[:cut].sum())
    between = below * (means[0] - mean) ** 2 + float(counts[cut:].sum()) * (means[1] - mean) ** 2
    return (round(means[0]), round(means[1])) if between >= SHARE_OF_TWO * whole else None


def by_values(phases: Mapping[float, str | int]) -> tuple[Values, list[str] | None]:
    """Make phases from a mapping of values to names or to phase numbers.

    Parameters
    ----------
    phases : mapping of number to str or int
        Name or number of the phase of each value. Names are numbered in the order in which they first appear.

    Returns
    -------
    Values
        The kernel that maps values to phases.
    list of str or None
        Names of the phases, if the mapping holds names.

    Raises
    ------
    ValueError
        If the mapping is empty, mixes names and numbers, or numbers the phases with gaps.
    """
    if not isinstance(phases, Mapping) or not all(map(is_number, phases)):
        msg = f"phases must be a dict that maps values to names or numbers of phases, got {shown(phases)}"
        raise TypeError(msg)
    targets = list(phases.values())
    are_names = [isinstance(target, str) for target in targets]
    if not targets or any(are_names) != all(are_names) or len(set(targets)) > 256:
        msg = f"phases must map values to names, or to numbers 0, 1, …, got {dict(phases)!r}"
        raise ValueError(msg)
    # Whole numbers stay integers, because floats do not tell them apart beyond 2**53.
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
    """Make phases from thresholds that rise.

    Raises
    ------
    ValueError
        If the thresholds do not rise, or are not finite.
    """
    values = tuple(float(value) for value in np.atleast_1d(thresholds))
    if not values or any(a >= b for a, b in itertools.pairwise(values)) or not np.isfinite(values).all():
        msg = f"thresholds must be finite numbers that rise, got {list(values)}"
        raise ValueError(msg)
    return Thresholds(values)


def by_otsu(data: Any, n_phases: int) -> Thresholds:
    """Find the thresholds that separate the grey levels of an image best, by Otsu's method.

    These thresholds maximise the variance between the classes, over all possible thresholds and for any number of
    classes. The image is read once, or twice if its values are not of 8 or 16 bits.

    Parameters
    ----------
    data : dask array
        Grey levels.
    n_phases : int
        Number of classes, from 2 to 6.

    Raises
    ------
    ValueError
        If `n_phases` is out of range, or the image has fewer grey levels than classes, or NaN or infinite values.

    References
    ----------
    Otsu, N. A threshold selection method from gray-level histograms. IEEE Trans. SMC 9 (1979) 62.
    """
    if isinstance(n_phases, bool) or not isinstance(n_phases, int | np.integer) or not 2 <= n_phases <= 6:
        msg = f"otsu must be a number of phases from 2 to 6, got {n_phases!r}"
        raise ValueError(msg)
    if data.dtype.kind in "biu" and data.dtype.itemsize <= 2:
        low = 0.0 if data.dtype.kind == "b" else float(np.iinfo(data.dtype).min)
        width, n_bins = 1.0, 2 ** (8 * data.dtype.itemsize)
    else:
        low, high = map(float, computed((data.min(), data.max())))
        if not np.isfinite([low, high]).all():
            msg = "the image holds NaN or infinite values, but otsu needs finite grey levels; replace them first"
            raise ValueError(msg)
        n_bins = BINS
        width = (high - low) / n_bins or 1.0
    counts = _histogram_of(data, low, width, n_bins)
    if np.count_nonzero(counts) < n_phases:
        msg = (
            f"otsu={n_phases} needs at least as many grey levels, but the image has only {np.count_nonzero(counts)}; "
            "ask for fewer phases"
        )
        raise ValueError(msg)
    cuts = _best_cuts(counts.astype(np.float64), n_phases)
    return Thresholds(tuple(low + width * cut for cut in cuts))


def _histogram_of(data: Any, low: float, width: float, n_bins: int) -> Array:
    """Count the values of an image in bins of one width."""
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
    return computed_array(parts.sum(axis=tuple(range(data.ndim)), split_every=4))


def _histogram(block: Array, low: float, width: float, n_bins: int) -> Array:
    """Count the values of a block in bins of one width, (1, ..., 1, n_bins)."""
    counts = np.zeros(n_bins, dtype=np.int64)
    for _, values in _pieces(block):
        places = np.clip(((values.astype(np.float64) - low) / width).astype(np.int64), 0, n_bins - 1)
        counts += np.bincount(places, minlength=n_bins)
    return counts.reshape(*(1,) * block.ndim, n_bins)


def _best_cuts(counts: Array, n_classes: int) -> list[int]:
    """Find the first bin of each class except the lowest, by dynamic programming over the bins that are not empty."""
    bins = np.flatnonzero(counts)
    edges = np.append(bins, len(counts))
    # Levels are measured from their mean, so that sums of squares keep their digits.
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
    """Add one class: for each j, find the largest Σ (Σ c v)² / Σ c of bins 0 to j - 1, and where the last class begins.

    The place where the last class begins rises with j. So halving the range of j also halves the range of places, and
    n log n steps suffice for any values of the bins.
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
