"""Phases cut from Gaussian fields whose spectra are those of given statistics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from mksdask.arrays import Array
from mksdask.stats.mismatch import Mismatch


def assign_phases(scores: Array, counts: Sequence[int]) -> tuple[NDArray[np.intp], Array]:
    """Give each voxel the phase of the highest score plus an offset. The offsets give each phase its number of voxels.

    Parameters
    ----------
    scores : ndarray, shape (n_phases, n_voxels)
        Scores of the phases.
    counts : sequence of int
        Number of voxels of each phase. Their sum is the number of voxels.

    Returns
    -------
    phases : ndarray of int, shape (n_voxels,)
        Phase of each voxel.
    offsets : ndarray, shape (n_phases,)
        Offset of each phase.
    """
    n_phases, n_voxels = scores.shape
    offsets, wanted = np.zeros(n_phases), np.asarray(counts)
    for _ in range(30 if n_phases > 2 else 1):
        for phase in range(n_phases):
            # A voxel gets the phase if its offset is larger than this gap.
            others = np.delete(scores + offsets[:, None], phase, axis=0).max(axis=0)
            gaps = others - scores[phase]
            ends = [max(wanted[phase] - 1, 0), min(wanted[phase], n_voxels - 1)]
            offsets[phase] = np.partition(gaps, ends)[ends].mean()
        phases = np.argmax(scores + offsets[:, None], axis=0)
        if np.array_equal(np.bincount(phases, minlength=n_phases), wanted):
            return phases, offsets
    # Scores are equal, or a phase has no voxel. The voxels that lose least by it get another phase.
    while (surplus := np.bincount(phases, minlength=n_phases) - wanted).any():
        many, few = int(np.argmax(surplus)), int(np.argmin(surplus))
        places = np.flatnonzero(phases == many)
        losses = (scores[many] - scores[few])[places]
        phases[places[np.argsort(losses, kind="stable")[: min(surplus[many], -surplus[few])]]] = few
    return phases, offsets


def voxel_counts(fractions: NDArray[np.float64], n_voxels: int) -> list[int]:
    """Turn fractions into numbers of voxels that sum up. The largest remainders are rounded up."""
    exact = fractions * n_voxels
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: n_voxels - counts.sum()]] += 1
    return [int(count) for count in counts]


def gaussian_scores(mismatch: Mismatch, fractions: NDArray[np.float64], rng: np.random.Generator) -> Array:
    """Draw Gaussian fields, (n_phases, *size). That of a phase has the spectrum of its autocovariance."""
    size = mismatch.transform.spatial
    places = np.ix_(*(along % n for along, n in zip(mismatch.transform.lags, size, strict=True)))
    covariances: dict[int, Array] = {}
    for own in (True, False):
        for (a, b), values in zip(mismatch.pairs, mismatch.wanted, strict=True):
            if (a == b) is own:
                covariance = np.zeros(size)
                # The covariance of two phases is mostly negative. That of a phase with itself is about the opposite.
                covariance[places] = np.nan_to_num((1 if own else -1) * (values - fractions[a] * fractions[b]))
                for phase in (a, b):
                    covariances.setdefault(phase, covariance)
    mean = np.mean([*covariances.values()], axis=0)
    scores = []
    for phase in range(len(fractions)):
        spectrum = scipy.fft.rfftn(rng.standard_normal(size))
        power = np.maximum(scipy.fft.rfftn(covariances.get(phase, mean)).real, 0.0)
        power.flat[0] = 0.0
        field = scipy.fft.irfftn(spectrum * np.sqrt(power), s=size)
        scores.append(field / (field.std() or 1.0))
    return np.stack(scores)
