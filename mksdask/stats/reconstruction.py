"""Microstructures that have given 2-point statistics.

A structure starts as Gaussian fields with the spectra of the wanted statistics. Then the share of each phase in each
voxel is found by descent along the gradient of the mismatch, while a growing penalty makes the shares 0 or 1. After
that, voxels of different phases are exchanged, many at once. The interfaces of the best structure are then blurred, and
descent and exchange begin again, as long as such rounds bring the statistics nearer.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import scipy.ndimage
import scipy.special
import xarray as xr
from numpy.typing import NDArray

from mksdask.arrays import (
    Array,
    ArrayLike,
    axes_argument,
    is_number,
    numbers_argument,
    shown,
    sizes_argument,
    unwrap,
    warn_caller,
)
from mksdask.compute.blocks import map_samples
from mksdask.compute.graph import unchanged
from mksdask.compute.plans import Limit, refuse_unless_fits
from mksdask.compute.random import Chunks, check_n_samples, check_seed, generate_samples, sample_rng
from mksdask.schema.arguments import checked
from mksdask.stats.gaussian_phases import assign_phases, gaussian_scores, voxel_counts
from mksdask.stats.lags import LagFFT
from mksdask.stats.mismatch import MEMORY, Mismatch, descend
from mksdask.stats.pairs import Pairs
from mksdask.stats.radial import as_statistics

# Weights of the penalty on voxels of several phases. The descent takes a number of steps at each.
PENALTIES = (1e-4, 4e-4, 1.6e-3)
STEPS = 40
# The first step changes the logits of shares by this much on average.
FIRST = 0.1
# Exchanges begin with this share of all voxels. They end after so many, or so many in a row that bring nothing.
EXCHANGED = 1 / 256
EXCHANGES = 150
TRIALS = 20
# After an exchange that brings nothing, voxels are drawn from candidates that are up to this many times as many.
WIDEST = 16
# The next round starts from a structure that is blurred by so many voxels, with shares of at least about this.
BLUR = 0.7
SOFTEST = 0.02
# The search ends after so many rounds in a row that leave more than this share of the mismatch.
IDLE = 3
LEAST = 0.99
# Number of the random stream of structures, so that they are independent of other samples of the same seed.
STREAM = 2
# Why a search ended.
REASONS = ("tolerance_reached", "no_progress", "max_iterations_reached")

# The mismatch of a structure, its gradient, and its parts: what `Mismatch` returns.
Found = tuple[float, Array, Array]


def _indicators(phases: Array, n_phases: int, shape: Sequence[int]) -> Array:
    return np.stack([phases == phase for phase in range(n_phases)]).reshape(n_phases, *shape).astype(np.float32)


def _shares(logits: Array) -> Array:
    """Compute the shares of all phases from the logits of all but the last, whose logit is 0."""
    return np.asarray(scipy.special.softmax(np.concatenate([logits, np.zeros_like(logits[:1])]), axis=0))


@dataclass(frozen=True)
class _Penalized:
    """The function of the descent: the mismatch, and a penalty that is 0 where one phase fills a voxel."""

    mismatch: Mismatch
    penalty: float

    def __call__(self, logits: Array) -> tuple[float, Array]:
        shares = _shares(logits)
        value, slope, _ = self.mismatch(shares)
        n_voxels = shares[0].size
        value = n_voxels * value + self.penalty * (n_voxels - float(np.sum(shares**2, dtype=np.float64)))
        slope = n_voxels * slope - 2.0 * self.penalty * shares
        slope -= np.sum(shares * slope, axis=0)
        return value, (shares * slope)[:-1].astype(logits.dtype)


@dataclass(frozen=True)
class _Reconstruction:
    """The kernel: it makes the structures of some indices, and says of each how near its statistics are, and why."""

    pairs: tuple[tuple[int, int], ...]
    size: tuple[int, ...]
    periodic: tuple[bool, ...]
    volume_fraction: tuple[float, ...] | None
    tolerance: float
    max_iterations: int
    seed: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """What is told of each structure."""
        return np.dtype(
            [
                ("phases", np.uint8, self.size),
                ("error", np.float64, (len(self.pairs),)),
                ("iterations", np.int64),
                ("reason", np.uint8),
            ]
        )

    def __call__(self, indices: NDArray[np.int64], statistics: Array) -> Array:
        wanted = np.moveaxis(statistics, -1, 0)
        transform = LagFFT(self.size, self.periodic, tuple((n // 2, (n - 1) // 2) for n in wanted[0].shape), real=True)
        fractions = self._fractions(wanted)
        scales = tuple(
            float(fractions[a] * ((a == b) - fractions[b])) if a == b else float(fractions[a] * fractions[b])
            for a, b in self.pairs
        )
        told = Mismatch(transform, self.pairs, wanted.astype(np.float32), scales)
        sought = told
        if len(fractions) == 2 and all(self.periodic):
            # Each pair of two phases determines the others.
            sought = Mismatch(transform, self.pairs[:1], told.wanted[:1], scales[:1])
        counts = voxel_counts(fractions, int(np.prod(self.size)))
        out = np.empty(len(indices), dtype=self.dtype)
        for number, index in enumerate(indices):
            rng = sample_rng(self.seed, STREAM, int(index))
            phases, out["iterations"][number], reason = self._search(sought, counts, fractions, rng)
            out["phases"][number] = phases.reshape(self.size)
            out["reason"][number] = REASONS.index(reason)
            out["error"][number] = np.sqrt(told(_indicators(phases, len(counts), self.size))[2])
        return out

    def _fractions(self, wanted: Array) -> NDArray[np.float64]:
        """Find the volume fraction of each phase: as given, or from the statistics at lag 0.

        Raises
        ------
        ValueError
            If they do not follow from the statistics, or a phase of the pairs fills nothing or everything.
        """
        n_phases = max(2, 1 + max(map(max, self.pairs)))
        fractions = np.full(n_phases, np.nan)
        if self.volume_fraction is not None:
            fractions = np.array(self.volume_fraction)
        for (a, b), values in zip(self.pairs, wanted, strict=True):
            if a == b and self.volume_fraction is None:
                fractions[a] = float(values[tuple(n // 2 for n in values.shape)])
        if self.volume_fraction is None and np.isnan(fractions).sum() > 1:
            self._add_means(fractions, wanted)
        unknown, rest = np.flatnonzero(np.isnan(fractions)), 1.0 - float(np.nansum(fractions))
        if len(unknown) == 1:
            fractions[unknown] = rest
        elif not len(unknown) and rest > 1e-3:
            fractions = np.append(fractions, rest)
        inside = fractions[sorted({phase for pair in self.pairs for phase in pair})] if len(unknown) < 2 else [np.nan]
        if not (np.min(inside) > 0 and np.max(inside) < 1 and abs(np.sum(fractions) - 1) < 1e-2):
            msg = (
                f"statistics give the phases the volume fractions {fractions.round(4).tolist()}, but those must lie "
                "between 0 and 1 and sum to 1; give the pair (h, h) of all phases but one, or volume_fraction"
            )
            raise ValueError(msg)
        return np.asarray(np.maximum(fractions, 0.0) / np.maximum(fractions, 0.0).sum())

    def _add_means(self, fractions: NDArray[np.float64], wanted: Array) -> None:
        """Find fractions from means: over all lags of a periodic structure, that of f[h, h'; r] is v_h v_h'."""
        if not all(self.periodic) or wanted.shape[1:] != self.size:
            return
        for (a, b), values in zip(self.pairs, wanted, strict=True):
            for known, other in ((a, b), (b, a)):
                if np.isnan(fractions[other]) and fractions[known] > 0:
                    fractions[other] = float(values.mean(dtype=np.float64)) / fractions[known]

    def _search(
        self, mismatch: Mismatch, counts: Sequence[int], fractions: NDArray[np.float64], rng: np.random.Generator
    ) -> tuple[Array, int, str]:
        """Search one structure. Return the phases of its voxels, the number of evaluations, and why it ended."""
        n_phases, limit = len(counts), self.tolerance**2
        scores = gaussian_scores(mismatch, fractions, rng)
        phases, offsets = assign_phases(scores.reshape(n_phases, -1), counts)
        n_calls, best = 1, mismatch(_indicators(phases, n_phases, self.size))
        logits = scores + offsets.reshape(-1, *(1,) * len(self.size))
        idle = 0
        while best[0] > limit and idle < IDLE and n_calls < self.max_iterations:
            new, found, n_calls = self._descend(mismatch, logits, counts, n_calls)
            new, found, n_calls = self._exchange(mismatch, new, found, n_calls, rng)
            idle = 0 if found[0] < LEAST * best[0] else idle + 1
            if found[0] < best[0]:
                phases, best = new, found
            logits = self._softened(phases, n_phases)
        return phases, n_calls, REASONS[0 if best[0] <= limit else 1 if idle == IDLE else 2]

    def _softened(self, phases: Array, n_phases: int) -> Array:
        """Compute logits of shares that change over about a voxel on both sides of each interface."""
        modes = ["wrap" if wraps else "nearest" for wraps in self.periodic]
        shares = [
            scipy.ndimage.gaussian_filter(indicator, BLUR, mode=modes)
            for indicator in _indicators(phases, n_phases, self.size)
        ]
        return np.log(np.stack(shares) + SOFTEST)

    def _descend(
        self, mismatch: Mismatch, logits: Array, counts: Sequence[int], n_calls: int
    ) -> tuple[Array, Found, int]:
        """Descend along the gradient. Return the phases, their mismatch, and the number of evaluations so far."""
        n_phases, free = len(counts), (logits[:-1] - logits[-1]).astype(np.float32)
        best: tuple[Array, Found] | None = None
        for penalty in PENALTIES:
            steps = min(STEPS, self.max_iterations - n_calls)
            free, made = descend(_Penalized(mismatch, penalty), free, steps, first=FIRST)
            new, _ = assign_phases(np.concatenate([free, np.zeros_like(free[:1])]).reshape(n_phases, -1), counts)
            found = mismatch(_indicators(new, n_phases, self.size))
            n_calls += made + 1
            if best is None or found[0] < best[1][0]:
                best = new, found
            if found[0] <= self.tolerance**2 or n_calls >= self.max_iterations:
                break
        assert best is not None
        return *best, n_calls

    def _exchange(
        self, mismatch: Mismatch, phases: Array, found: Found, n_calls: int, rng: np.random.Generator
    ) -> tuple[Array, Found, int]:
        """Exchange voxels of two phases, those first whose exchange promises most, while the mismatch falls."""
        couples = [*itertools.combinations(np.unique(phases).tolist(), 2)]
        numbers = dict.fromkeys(couples, max(1.0, EXCHANGED * phases.size))
        failures = dict.fromkeys(couples, 0)
        for a, b in itertools.islice(itertools.cycle(couples), max(0, min(EXCHANGES, self.max_iterations - n_calls))):
            value, slope, _ = found
            if value <= self.tolerance**2 or min(failures.values()) >= TRIALS:
                break
            gain = (slope[a] - slope[b]).ravel()
            places = {phase: np.flatnonzero(phases == phase) for phase in (a, b)}
            number = min(int(numbers[a, b]), *(len(found) // 2 + 1 for found in places.values()))
            trial, width = phases.copy(), min(WIDEST, 1 + failures[a, b])
            for one, other, losses in ((a, b, -gain[places[a]]), (b, a, gain[places[b]])):
                n_candidates = min(len(losses), number * width)
                nearest = np.argpartition(losses, n_candidates - 1)[:n_candidates]
                # Their order depends on the processor, so they are sorted before some are drawn.
                candidates = np.sort(places[one][nearest])
                trial[candidates if width == 1 else rng.choice(candidates, number, replace=False)] = other
            new = mismatch(_indicators(trial, len(slope), self.size))
            n_calls += 1
            if new[0] < value:
                phases, found = trial, new
                failures = dict.fromkeys(couples, 0)
                numbers[a, b] *= 1.3
            else:
                failures[a, b] += 1
                numbers[a, b] = max(1.0, numbers[a, b] / 2.0)
        return phases, found, n_calls

    def check_fits(self, n_lags: int, limit: Limit) -> None:
        """Refuse structures whose search does not fit into a task."""
        n_phases, n_voxels = 1 + max(map(max, self.pairs)), int(np.prod(self.size))
        padded = int(np.prod([n if wraps else 2 * n for n, wraps in zip(self.size, self.periodic, strict=True)]))
        needed = 4 * n_voxels * n_phases * (2 * MEMORY + 8) + 4 * padded * (2 * n_phases + 6) + 16 * n_lags
        if needed > limit.task_bytes:
            raise limit.refusal(needed, f"a structure of {self.size} voxels", "make it smaller")


@checked
def reconstruct(
    statistics: ArrayLike,
    *,
    size: Sequence[int] | None = None,
    n_samples: int = 1,
    seed: int = 0,
    tolerance: float = 0.005,
    volume_fraction: Sequence[float] | None = None,
    correlations: Pairs | None = None,
    periodic_axes: int | Sequence[int] | None = None,
    max_iterations: int = 4000,
    chunks: Chunks | None = None,
) -> xr.Dataset:
    r"""Make microstructures of phases whose 2-point statistics are the given ones.

    The structures minimize the mean of :math:`(f[h, h'; r] - f^*[h, h'; r])^2 / (f^*(0) - f^*(\infty))^2` over the
    given pairs and lags. The error is its root. The volume fractions are exact, to one voxel.

    Parameters
    ----------
    statistics : array, shape (*lags, n_pairs)
        The wanted statistics :math:`f^*` of phases, with lag 0 at index n//2 of each axis: of a measured structure, or
        those that `MKSStructureAnalysis.inverse_transform` gives for a point among the scores. Lags that are NaN may
        have any statistics.
    size : sequence of int, optional
        Number of voxels of a structure along each axis. It may be larger than the number of lags. Statistics at
        other lags are then left free. Default: the number of lags.
    n_samples : int, default 1
        Number of structures.
    seed : int, default 0
        The same seed gives the same bytes for any chunking, scheduler or number of workers.
    tolerance : float, default 0.005
        The search ends if the error is this small.
    volume_fraction : sequence of float, optional
        Fraction of each phase. Default: f*[h, h; 0]. If one phase h has no such pair, it has the rest.
    correlations : list of (int, int), optional
        Pairs of phases. Default: those that labels of `statistics` name. Without labels: those that `correlate`
        computes by default for as many phases as there are pairs, or (0, 0) of two phases if there is one pair.
    periodic_axes : sequence of int, optional
        Axes along which the structures are periodic, as the structure of the statistics was. Default: those in the
        attribute ``periodic_axes`` of a DataArray, or none.
    max_iterations : int, default 4000
        Largest number of evaluations of the statistics for each structure.
    chunks : int, optional
        Number of structures in a chunk. With it, the result is lazy, with one task for each chunk.

    Returns
    -------
    xarray.Dataset
        ``microstructure``, of shape (n_samples, *size) and uint8, holds the phase of each voxel. ``error``, of shape
        (n_samples, n_pairs), is the root mean square of :math:`f - f^*` over the lags, divided by
        :math:`f^*(0) - f^*(\infty)`, for each pair. ``iterations`` counts the evaluations. ``reason`` says why the
        search ended, by a number; its attribute ``flag_meanings`` names 0, 1 and 2: the tolerance was reached, the
        statistics came no nearer in three rounds of descent and exchange, or `max_iterations` was reached.

    Raises
    ------
    ValueError
        If an argument is out of range, or a structure has fewer voxels along an axis than there are lags. When a
        structure is computed: if the volume fractions do not follow from the statistics.

    Warns
    -----
    UserWarning
        If a structure in memory does not reach the tolerance.

    Notes
    -----
    2-point statistics do not determine a structure, even up to a shift. If A and B are any sets of points, the sums
    A + B and A - B of their points are different in general, and all their 2-point statistics are equal. What depends
    on more than two points, such as connectivity, is not controlled; see `mksdask.descriptors.ShapeDescriptors`.

    How near the statistics can come depends on how many are given. All lags and pairs of one image are about as many
    numbers as the image has voxels, and hold its chance features too. Only the image, shifted or mirrored, has just
    these. For a few dozen voxels along each axis, a small `tolerance` gives it back. For larger ones, the search ends
    at an error of 0.3 to 0.6 % for two phases, and of about 1 % for three phases. Where an axis is not periodic, the
    pairs of two phases do not follow from each other, so there are three times as many numbers, and the error is up to
    twice as large. Statistics up to a cutoff are met more exactly.

    A task works on one structure at a time. It needs about 100 bytes for each voxel and phase. A structure of 128²
    voxels takes seconds, one of 64³ voxels some seconds, and one of 128³ voxels about half a minute.

    References
    ----------
    Yeong, C. L. Y., Torquato, S. Reconstructing random media. Phys. Rev. E 57 (1998) 495.
    Jiao, Y., Stillinger, F. H., Torquato, S. A superior descriptor of random textures and its predictive capacity.
    Proc. Natl. Acad. Sci. USA 106 (2009) 17634.

    Examples
    --------
    >>> from mksdask import PrimitiveBasis
    >>> from mksdask.datasets import make_microstructure
    >>> from mksdask.stats import correlate
    >>> X = make_microstructure(1, (32, 32), grain_size=6, volume_fraction=(0.3, 0.7), seed=1)
    >>> wanted = correlate(X, PrimitiveBasis(2), correlations=[(0, 0)], periodic_axes=[0, 1])[0]
    >>> found = reconstruct(wanted, correlations=[(0, 0)], periodic_axes=[0, 1], tolerance=0.02)
    >>> bool(found.error.max() <= 0.02), int((found.microstructure == 0).sum()), int((X == 0).sum())
    (True, 307, 307)
    """
    # Statistics without labels are those of one structure, so all their axes but the last are lags.
    data, _ = unwrap(statistics, name="statistics")
    labelled, lag_dims, lags, units = as_statistics(statistics, None, min(3, max(1, data.ndim - 1)))
    if set(labelled.dims) != {*lag_dims, "pair"} or labelled.dtype.kind == "c" or 0 in data.shape:
        msg = (
            f"statistics must be those of one structure of phases, real and of shape (*lags, n_pairs), got "
            f"{dict(labelled.sizes)} of {labelled.dtype}; select one sample, such as statistics[0]"
        )
        raise ValueError(msg)
    labelled = labelled.transpose(*lag_dims, "pair")
    names = [dim.removeprefix("lag_") for dim in lag_dims]
    n_lags = tuple(len(along) for along in lags)
    wanted_size = n_lags if size is None else sizes_argument(size)
    if len(wanted_size) != len(n_lags) or any(n < m for n, m in zip(wanted_size, n_lags, strict=True)):
        msg = f"size={size!r} must be at least the number of lags along each axis, {n_lags}; select fewer lags"
        raise ValueError(msg)
    if not is_number(tolerance) or not tolerance > 0:
        msg = f"tolerance must be a positive number, such as 0.005, got {shown(tolerance)}"
        raise ValueError(msg)
    if periodic_axes is None:
        said = np.atleast_1d(labelled.attrs.get("periodic_axes", ())).tolist()
        periodic_axes = [names.index(axis) if axis in names else axis for axis in said]
    pairs = _pairs_of(labelled, correlations)
    kernel = _Reconstruction(
        pairs,
        wanted_size,
        axes_argument(periodic_axes, len(names)),
        _fractions_argument(volume_fraction, 1 + max(map(max, pairs))),
        float(tolerance),
        max_iterations,
        check_seed(seed),
    )
    kernel.check_fits(labelled.size, Limit.of())
    if chunks is None:
        what = f"{check_n_samples(n_samples)} structures of {wanted_size} voxels"
        refuse_unless_fits(n_samples * kernel.dtype.itemsize, what, "make fewer, or make them lazily with chunks=")
    numbers = generate_samples(unchanged, check_n_samples(n_samples), (), dtype=np.int64, chunks=chunks)
    found = map_samples(kernel, numbers, tail=(), dtype=kernel.dtype, name="reconstruct", shared=(labelled.data,))
    if not isinstance(found, da.Array):
        _warn_of_errors(found, kernel)
    steps = [abs(float(along[-1] - along[0])) / max(1, len(along) - 1) or 1.0 for along in lags]
    coords: dict[str, Any] = {
        name: (name, np.arange(n) * step, {"units": units, "spacing": step})
        for name, n, step in zip(names, wanted_size, steps, strict=True)
    }
    around = [axis for axis, wraps in enumerate(kernel.periodic) if wraps]
    attrs = {"periodic_axes": [names[axis] for axis in around], "periods": [wanted_size[axis] for axis in around]}
    if "phases" in labelled.attrs:
        attrs["phases"] = list(labelled.attrs["phases"])
    meanings = {"flag_values": [*range(len(REASONS))], "flag_meanings": " ".join(REASONS)}
    return xr.Dataset(
        {
            "microstructure": (("sample", *names), found["phases"], attrs),
            "error": (("sample", "pair"), found["error"]),
            "iterations": ("sample", found["iterations"]),
            "reason": ("sample", found["reason"], meanings),
        },
        coords={name: value for name, value in labelled.coords.items() if value.dims == ("pair",)} | coords,
    )


def _pairs_of(labelled: xr.DataArray, correlations: Pairs | None) -> tuple[tuple[int, int], ...]:
    """Choose the pairs of phases of statistics."""
    n_pairs = labelled.sizes["pair"]
    pairs = np.array([(0, h) for h in range(n_pairs)], dtype=float)
    if correlations is not None:
        pairs = numbers_argument(correlations, "correlations")
    elif "state_1" in labelled.coords:
        pairs = np.stack([labelled.state_1.values, labelled.state_2.values], axis=1).astype(float)
    if pairs.shape != (n_pairs, 2) or not np.isin(pairs, np.arange(256)).all():
        msg = (
            f"correlations must be {n_pairs} pairs of phases from 0 to 255, one for each of statistics, got "
            f"{shown(correlations if correlations is not None else pairs)}"
        )
        raise ValueError(msg)
    return tuple((a, b) for a, b in pairs.astype(int).tolist())


def _fractions_argument(volume_fraction: Sequence[float] | None, least: int) -> tuple[float, ...] | None:
    if volume_fraction is None:
        return None
    fractions = numbers_argument(volume_fraction, "volume_fraction")
    if (
        fractions.ndim != 1
        or len(fractions) < least
        or not (fractions.min() >= 0 and abs(fractions.sum() - 1.0) <= 1e-6)
    ):
        msg = (
            f"volume_fraction must hold nonnegative fractions that sum to 1, one for each phase from 0 to at least "
            f"{least - 1}; got {shown(volume_fraction)}"
        )
        raise ValueError(msg)
    return tuple(fractions.tolist())


def _warn_of_errors(found: Array, kernel: _Reconstruction) -> None:
    """Warn of structures that did not reach the tolerance."""
    short = found[found["reason"] != 0]
    if len(short):
        errors = np.sqrt((short["error"] ** 2).mean(axis=1))
        why = REASONS[int(short["reason"][0])].replace("_", " ").replace("max iterations", "max_iterations")
        warn_caller(
            f"{len(short)} of {len(found)} structures do not reach tolerance={kernel.tolerance:g}: the error is "
            f"{errors.max():.2g}, and {why}. Raise tolerance or max_iterations, or take larger structures"
        )
