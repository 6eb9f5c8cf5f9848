"""The two-point cluster function: how often two voxels at a lag lie in the same cluster of a phase.

It is the sum of the autocorrelations of all clusters. A small cluster is correlated by its pairs of voxels, a larger
one by a transform of its bounding box, and one that may run around a periodic axis by a transform of the whole sample.
Without weights, all sums are numbers of pairs, so the result is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numba
import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from mksdask.arrays import Array, ArrayLike, as_lazy
from mksdask.compute.blocks import array_of
from mksdask.compute.operation import Operation, operation
from mksdask.compute.plans import Limit, Plan, SampleWork, Stage, chunk_layout, fft_operations
from mksdask.samples import Samples, check_confidence
from mksdask.schema.arguments import checked
from mksdask.stats.clusters import Clustering
from mksdask.stats.components import label_sample
from mksdask.stats.halos import HaloedTiles
from mksdask.stats.lags import LagFFT
from mksdask.stats.microstructure import VolumeCorrelation
from mksdask.stats.pairs import lag_labels
from mksdask.stats.phases import samples_of_phases, volume_of_phases
from mksdask.storage.atomic import Url

# A transform takes as long as so many pairs of voxels that are counted one by one: at least, and for each
# floating-point operation.
LEAST_PAIRS, PAIRS_OF_OPERATION = 5e4, 0.1
# Bytes of a voxel of the padded block in a task: transforms in double precision, labels, places and their order.
WORK = 200
# Bytes of a voxel of a mask: its weights, and their transforms.
MASK_WORK = 64

_jit = numba.njit(cache=True, nogil=True)


@_jit
def _add_pairs(chosen, starts, places, is_first, weights, low, high, periods, counts):  # type: ignore[no-untyped-def]
    """Add the pairs of voxels of the chosen clusters to counts (*lags), with three axes."""
    for label in chosen:
        for i in range(starts[label], starts[label + 1]):
            if not is_first[i]:
                continue
            for j in range(starts[label], starts[label + 1]):
                x = places[j, 0] - places[i, 0]
                y = places[j, 1] - places[i, 1]
                z = places[j, 2] - places[i, 2]
                if periods[0]:
                    x = (x + low[0]) % periods[0] - low[0]
                if periods[1]:
                    y = (y + low[1]) % periods[1] - low[1]
                if periods[2]:
                    z = (z + low[2]) % periods[2] - low[2]
                if x < -low[0] or x > high[0] or y < -low[1] or y > high[1] or z < -low[2] or z > high[2]:
                    continue
                counts[x + low[0], y + low[1], z + low[2]] += weights[i] * weights[j]


@dataclass(frozen=True)
class ClusterPairs:
    """The kernel that counts the pairs (s, s + r) of voxels of one cluster at each lag r.

    Parameters
    ----------
    transform : LagFFT
        Transform of a sample, or of a tile with its halos, to its lags.
    """

    transform: LagFFT

    def __call__(
        self, labels: Array, inner: tuple[slice, ...] | None = None, weights: Array | None = None
    ) -> NDArray[np.float64]:
        """Count pairs with s in the part `inner` of labels (*spatial,), which are 0 outside clusters: (*lags,).

        With weights (*spatial,), a pair counts with the product of both.
        """
        is_first = np.ones(labels.shape, dtype=np.bool_)
        if inner is not None:
            is_first[...] = False
            is_first[inner] = True
            # Only clusters that have voxels in the inner part count.
            kept = np.unique(labels[inner])
            kept = kept[kept > 0]
            number = np.searchsorted(kept, labels)
            number[number == len(kept)] = 0
            labels = np.where(kept[number] == labels, number + 1, 0) if len(kept) else np.zeros_like(labels)
        flat = labels.ravel()
        starts = np.cumsum(np.bincount(flat))
        counts = np.zeros(self.transform.shape)
        if len(starts) < 2:
            return counts
        order = np.argsort(flat, kind="stable")[starts[0] :]
        firsts = is_first.ravel()[order]
        starts = starts - starts[0]
        n_all = np.diff(starts)
        n_first = np.diff(np.concatenate([[0], np.cumsum(firsts)])[starts])
        boxes = scipy.ndimage.find_objects(labels)
        is_small = n_first * n_all <= LEAST_PAIRS
        transforms = {label: self._of_box(boxes[label]) for label in np.flatnonzero(~is_small)}
        for label, transform in transforms.items():
            is_small[label] = n_first[label] * n_all[label] <= LEAST_PAIRS + _pairs_worth(transform)
        places = np.zeros((len(order), 3), dtype=np.int64)
        places[:, : labels.ndim] = np.stack(np.unravel_index(order, labels.shape), axis=1)
        low, high, periods = np.zeros((3, 3), dtype=np.int64)
        for axis, (reach, n, wraps) in enumerate(
            zip(self.transform.reach, self.transform.spatial, self.transform.periodic, strict=True)
        ):
            low[axis], high[axis], periods[axis] = *reach, n if wraps else 0
        of_three = counts.reshape(*counts.shape, *(1,) * (3 - counts.ndim))
        of_places = np.ones(len(order)) if weights is None else weights.ravel()[order].astype(np.float64)
        _add_pairs(np.flatnonzero(is_small), starts, places, firsts, of_places, low, high, periods, of_three)
        total: Any = 0.0
        is_exact = weights is None or bool(((weights == 0) | (weights == 1)).all())
        for label in np.flatnonzero(~is_small):
            transform, box = transforms[label], boxes[label]
            if transform is self.transform:
                box = (slice(None),) * labels.ndim
            field = (labels[box] == label + 1).astype(np.float64)
            if weights is not None:
                field *= weights[box]
            second = transform.forward(field[None])
            first = second
            if inner is not None:
                first = transform.forward((field * is_first[box])[None])
            if transform is self.transform:
                total = total + first.conj() * second
                continue
            part = tuple(
                slice(whole[0] - own[0], whole[0] + own[1] + 1)
                for whole, own in zip(self.transform.reach, transform.reach, strict=True)
            )
            counts[part] += _at_lags(transform, first.conj() * second, is_exact=is_exact)
        return counts if np.ndim(total) == 0 else counts + _at_lags(self.transform, total, is_exact=is_exact)

    def _of_box(self, box: tuple[slice, ...]) -> LagFFT:
        """Choose the transform of the bounding box of a cluster: of the box, or of all if the cluster may wrap."""
        whole = self.transform
        sizes = tuple(along.stop - along.start for along in box)
        for size, n, wraps, (before, _) in zip(sizes, whole.spatial, whole.periodic, whole.reach, strict=True):
            if wraps and size - 1 >= n - before:
                return whole
        reach = tuple((min(a, n - 1), min(b, n - 1)) for (a, b), n in zip(whole.reach, sizes, strict=True))
        return LagFFT(sizes, (False,) * len(sizes), reach, real=True)


def _pairs_worth(transform: LagFFT) -> float:
    return 3 * PAIRS_OF_OPERATION * fft_operations(transform.lengths, real=True)


def _share(counts: Array, *, omega: Array | None) -> Array:
    """Divide numbers of pairs by Ω[r], or by the second of three sums if Ω was added up too. The third tells NaN."""
    if omega is not None:
        return np.asarray(counts / omega)[..., None]
    return np.asarray(counts[0] / np.where(np.rint(counts[2]) > 0, counts[1], np.nan))[..., None]


def _at_lags(transform: LagFFT, spectra: Array, *, is_exact: bool) -> NDArray[np.float64]:
    out = np.empty((1, *transform.shape))
    transform.inverse(spectra, out, 1.0)
    return np.rint(out[0]) if is_exact else out[0]


@dataclass(frozen=True)
class _OfSamples:
    """The kernel of one block of samples: (n, *spatial) → (n, *lags, 1)."""

    phase: int
    pairs: ClusterPairs

    def __call__(self, block: Array, confidence: Array | None = None, shared: Array | None = None) -> Array:
        transform = self.pairs.transform
        out = np.empty((len(block), *transform.shape, 1))
        masks = [shared] * len(block) if confidence is None else confidence
        for sample, mask, found in zip(block, masks, out, strict=True):
            is_phase, omega = sample == self.phase, None
            if mask is not None:
                check_confidence(mask)
                is_phase &= mask > 0
                omega = transform.count_confident_pairs(mask[None])[0]
            labels, _ = label_sample(is_phase, transform.periodic)
            found[..., 0] = self.pairs(labels, None, mask) / (transform.count_pairs() if omega is None else omega)
        return out


@dataclass(frozen=True)
class _OfTile:
    """The kernel of one tile, whose labels are given with a halo."""

    cutoff: tuple[int, ...]

    def __call__(self, labels: Array, inner: tuple[slice, ...], mask: Array | None = None) -> NDArray[np.float64]:
        transform = LagFFT(labels.shape, (False,) * labels.ndim, tuple((c, c) for c in self.cutoff), real=True)
        if mask is None:
            return ClusterPairs(transform)(labels, inner)
        check_confidence(mask)
        is_first, found = np.zeros(mask.shape, dtype=bool), [ClusterPairs(transform)(labels, inner, mask)]
        is_first[inner] = True
        for weights in (mask.astype(np.float64), (mask > 0).astype(np.float64)):
            spectra = transform.forward((weights * is_first)[None]).conj() * transform.forward(weights[None])
            found.append(_at_lags(transform, spectra, is_exact=False))
        return np.stack(found)


@dataclass(frozen=True)
class _EnsembleFunction(Operation[Any]):
    """The checked arguments of `correlate_clusters`."""

    samples: Samples
    kernel: _OfSamples

    @property
    def work(self) -> SampleWork:
        transform, samples = self.kernel.pairs.transform, self.samples
        result_bytes = 8 * int(np.prod(transform.shape))
        largest = WORK * int(np.prod(transform.lengths)) + 2 * result_bytes
        if samples.confidence is not None:
            largest += MASK_WORK * int(np.prod(transform.lengths))
        return SampleWork(
            "cluster function",
            samples.sample_bytes,
            lambda n: n * result_bytes + largest,
            result_bytes,
            2 * fft_operations(transform.lengths, real=True),
            "take fewer lags, or smaller samples",
        )

    def plan(self, limit: Limit) -> Plan:
        stage = self.work.stage(self.samples.data, limit)
        layout = chunk_layout(self.samples.data, stage) | {"lags": self.kernel.pairs.transform.shape}
        return Plan("correlate_clusters", layout, (stage,), limit)

    def run(self) -> Any:
        samples, transform = self.samples, self.kernel.pairs.transform
        tail, name = (*transform.shape, 1), "correlate-clusters"
        found = samples.mapped(self.kernel, tail=tail, dtype=np.float64, name=name, work=self.work)
        pair = [(self.kernel.phase, self.kernel.phase)]
        dims, coords = lag_labels(samples.grid, transform.lags, pair, samples.basis)
        return samples.label(found, dims=dims, coords=coords, name="cluster_function", attrs=samples.attrs)


@operation
@checked
def correlate_clusters(
    X: ArrayLike,
    phase: int,
    *,
    size: Sequence[int] | None = None,
    periodic_axes: int | Sequence[int] | None = None,
    confidence_index: ArrayLike | None = None,
    cutoff: int | Sequence[int] | None = None,
) -> Operation[Any]:
    r"""Compute the two-point cluster function of each sample: how often two voxels lie in the same cluster of a phase.

    .. math:: C_2[r] = \frac{1}{\Omega[r]} \sum_k \sum_s m_k[s]\, m_k[s + r]

    m_k[s] is 1 in the cluster k of the phase, and 0 elsewhere. C₂ is never larger than the autocorrelation f[h, h; r]
    of the phase. The rest, f - C₂, belongs to pairs of voxels in different clusters. At long lags, C₂ is above 0 only
    if a cluster percolates.

    Parameters
    ----------
    X : array, shape (n_samples, *spatial)
        Phase number of each voxel, as NumPy, dask, zarr or xarray, with 1 to 3 spatial axes.
    phase : int
        Number of the phase.
    size, periodic_axes, cutoff
        As in `correlate`.
    confidence_index : array, shape (n_samples, *spatial) or (*spatial,), optional
        Weight c[s] in [0, 1] of each voxel, as in `correlate`. Voxels with the weight 0 were not measured, and connect
        nothing.

    Returns
    -------
    array of the kind of `X`, shape (n_samples, *lags, 1), float64
        As `correlate` returns the statistics of one pair. `radial_average` and the like take it. The result is lazy for
        lazy input, with one task for each chunk.

    Raises
    ------
    ValueError
        As in `correlate`, or if `phase` is no number of a phase.

    Notes
    -----
    Voxels of a phase belong to one cluster if a path from face to face leads from one to the other, as in
    `label_clusters`. Without weights, or with those of 0 and 1, the pairs are counted, so the result is exact.

    References
    ----------
    Torquato, S., Beasley, J. D., Chiew, Y. C. Two-point cluster function for continuum percolation. J. Chem. Phys. 88
    (1988) 6540.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[1, 1, 0, 1, 0, 0]])
    >>> correlate_clusters(X, 1, size=(6,), periodic_axes=[0], cutoff=2)[0, :, 0].round(3).tolist()
    [0.0, 0.167, 0.5, 0.167, 0.0]
    """
    samples = samples_of_phases(X, phase, size, periodic_axes, confidence_index)
    transform = LagFFT.of(samples.grid.shape, samples.grid.periodic, cutoff, real=True)
    return _EnsembleFunction(samples, _OfSamples(int(phase), ClusterPairs(transform)))


@dataclass(frozen=True)
class _VolumeFunction(Operation[Any]):
    """The checked arguments of `correlate_volume_clusters`."""

    problem: VolumeCorrelation
    phase: int
    cutoff: tuple[int, ...]
    scratch: Url | None

    def tiles(self, labels: Any, limit: Limit) -> HaloedTiles:
        volume, work = self.problem.volume, WORK if self.problem.volume.confidence is None else WORK + MASK_WORK
        halo, remedy = self.cutoff, "lower the cutoff"
        return HaloedTiles.of(labels, volume.grid, halo, work, limit, remedy=remedy, mask=volume.confidence)

    @property
    def clustering(self) -> Clustering:
        """The call of `label_clusters` for this volume."""
        volume, data, phase = self.problem.volume, self.problem.volume.data, self.phase
        if volume.confidence is not None:
            # Voxels that were not measured connect nothing.
            data, phase = (as_lazy(data) == phase) & (as_lazy(volume.confidence) > 0), 1
        return Clustering.of("label_clusters", data, phase, volume.grid.periodic_axes, self.scratch)

    def plan(self, limit: Limit) -> Plan:
        labelling = self.clustering.plan(limit)
        tiles = self.tiles(None, limit)
        tiling = tiles.tiling
        pairs = Stage("pairs of clusters", tiling.n_tiles, tiles.task_bytes, 8.0 * tiling.voxels_read())
        layout = {"volume": tiling.spatial, "tile": tiling.tile, "lags": " × ".join(f"±{c}" for c in self.cutoff)}
        return Plan("correlate_volume_clusters", layout, (*labelling.stages, pairs), limit, labelling.notes)

    def run(self) -> Any:
        tiles = self.tiles(self.clustering.run(), Limit.of())
        tiling, kernel = tiles.tiling, _OfTile(self.cutoff)
        counts = tiles.fold(kernel, np.add, name="pairs-of-clusters")
        transform = LagFFT.of(tiling.spatial, tiling.periodic, self.cutoff, real=True)
        is_masked = self.problem.volume.confidence is not None
        function = partial(_share, omega=None if is_masked else transform.count_pairs())
        found = array_of(counts, (*transform.shape, 1), np.float64, name="cluster-function", function=function)
        return self.problem.label(found, transform.lags, "cluster_function")


@operation
@checked
def correlate_volume_clusters(
    volume: ArrayLike,
    phase: int,
    *,
    cutoff: int | Sequence[int],
    periodic_axes: int | Sequence[int] | None = None,
    confidence_index: ArrayLike | None = None,
    scratch: Url | None = None,
) -> Operation[Any]:
    """Compute the two-point cluster function of one volume of any size, for lags up to a cutoff.

    Clusters are those of the whole volume, as `label_clusters` finds them. See `correlate_clusters` for the formula.

    Parameters
    ----------
    volume : array, shape (*spatial,)
        Phase number of each voxel, with 1 to 3 axes and any chunks: NumPy, zarr, dask, or a variable of the Dataset
        that `open_volume` returns.
    phase : int
        Number of the phase.
    cutoff : int or sequence of int
        Largest lag along each axis, as in `correlate_volume`.
    periodic_axes : sequence of int, optional
        Numbers of the periodic axes. Default: those in the attribute ``periodic_axes`` of a DataArray, or none.
    confidence_index : array, shape (*spatial,), optional
        Weight c[s] in [0, 1] of each voxel, as in `correlate_clusters`.
    scratch : str or path, optional
        A store for the labels of tiles, as in `label_clusters`.

    Returns
    -------
    dask array or DataArray, shape (*lags, 1), float64
        Lag 0 is at index `cutoff`. The result is lazy. It does not depend on the tiles.

    Raises
    ------
    ValueError
        As in `label_clusters` and `correlate_volume`.

    References
    ----------
    Torquato, S., Beasley, J. D., Chiew, Y. C. Two-point cluster function for continuum percolation. J. Chem. Phys. 88
    (1988) 6540.

    Examples
    --------
    >>> import numpy as np
    >>> volume = np.zeros((30, 30), int)
    >>> volume[:10], volume[12:20] = 1, 1
    >>> f = correlate_volume_clusters(volume, 1, cutoff=4).compute()
    >>> float(f[4, 4, 0]), float(f[8, 4, 0].round(3))  # the two strips are two clusters
    (0.6, 0.385)
    """
    whole = volume_of_phases(volume, phase, periodic_axes, confidence_index)
    reach = LagFFT.of(whole.spatial, whole.grid.periodic, cutoff, real=True).reach
    problem = VolumeCorrelation(whole, ((int(phase), int(phase)),), np.dtype(np.float64))
    return _VolumeFunction(problem, int(phase), tuple(low for low, _ in reach), scratch)
