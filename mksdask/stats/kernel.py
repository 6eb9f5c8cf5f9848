"""The kernel of 2-point statistics, which computes f[h, h'; r] of one block of samples at all lags.

    f[h, h'; r] = 1/Ω[r] Σ_s m*[h; s] m[h'; s + r]

The sum is a product in Fourier space. A few samples are transformed at a time, so that they stay in cache.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numba
import numpy as np

from mksdask.arrays import Array
from mksdask.bases.base import Basis
from mksdask.samples import check_confidence
from mksdask.stats.lags import LagFFT

# Small samples are transformed together, up to this many voxels, which stay in cache.
BATCH_VOXELS = 2**17


@numba.njit(cache=True, nogil=True)
def _cross_spectrum(a: Array, b: Array, out: Array) -> None:
    """Write a* b in one pass over memory."""
    for i in range(len(a)):
        out[i] = a[i].conjugate() * b[i]


@dataclass(frozen=True)
class CorrelationKernel:
    """The kernel of one block of samples.

    If the pairs need all states of a sum ``Σ_h w_h m[h; s] = 1``, the last of these is not transformed but follows from
    the others. If all weights are 1 and all axes are periodic, one pair of each full row follows from
    ``Σ_h' f[h, h'; r] = v_h``.

    Parameters
    ----------
    basis : Basis
        Basis of the local state.
    transform : LagFFT
        Transform of samples to their statistics.
    pairs : tuple of (int, int)
        Pairs of positions of states in the basis.
    dtype : dtype
        float32 or float64.
    """

    basis: Basis
    transform: LagFFT
    pairs: tuple[tuple[int, int], ...]
    dtype: np.dtype[Any]

    @property
    def n_states(self) -> int:
        """Number of states of the basis."""
        return len(self.basis.states)

    @property
    def result_dtype(self) -> np.dtype[Any]:
        """The dtype of the statistics."""
        return self.dtype if self.transform.real else np.result_type(self.dtype, np.complex64)

    def __call__(self, block: Array, confidence: Array | None = None, shared: Array | None = None) -> Array:
        """Compute f[h, h'; r] of a block, (n, *spatial) → (n, *lags, n_pairs).

        `confidence` has a mask for each sample, `shared` one mask for all. At most one of the two is given.
        """
        out = np.empty((len(block), *self.transform.shape, len(self.pairs)), dtype=self.result_dtype)
        masks, weight, whole = None, None, None
        if confidence is None:
            masks = None if shared is None else shared[None].astype(self.dtype)
            weight = self._weight(None if shared is None else shared[None])
            whole = self._whole(np.ones((1, *self.transform.spatial), self.dtype) if shared is None else shared[None])
        for start in range(0, len(block), self._batch):
            rows = slice(start, start + self._batch)
            if confidence is not None:
                weight, whole = self._weight(confidence[rows]), self._whole(confidence[rows])
                masks = confidence[rows].astype(self.dtype, copy=False)
            self._correlate(block[rows], masks, weight, whole, out[rows])
        return out

    @cached_property
    def _batch(self) -> int:
        """Number of samples that are transformed together. It is 1 for large samples."""
        return max(1, BATCH_VOXELS // int(np.prod(self.transform.lengths)))

    @cached_property
    def _needed(self) -> list[int]:
        return sorted({state for pair in self.pairs for state in pair})

    @cached_property
    def _unity(self) -> Array | None:
        """Weights w_h with Σ_h w_h m[h; s] = 1. None if there are none, or the pairs do not need all these states."""
        unity = None if self.n_states == 1 else self.basis.unity
        return unity if unity is not None and set(np.flatnonzero(unity)) <= set(self._needed) else None

    @cached_property
    def _derived(self) -> int | None:
        """Position of the state that follows from the others. None if there is none."""
        return None if self._unity is None else int(np.flatnonzero(self._unity)[-1])

    @cached_property
    def _full_rows(self) -> dict[int, list[int]]:
        """Positions of pairs in full rows (a, 0) … (a, n - 1): the last of each row, and with it all others."""
        if self._unity is None or not ((self._unity == 1.0).all() and all(self.transform.periodic)):
            return {}
        rows: dict[int, list[int]] = {}
        for position, (a, _) in enumerate(self.pairs):
            rows.setdefault(a, []).append(position)
        everything = list(range(self.n_states))
        return {row[-1]: row[:-1] for row in rows.values() if sorted(self.pairs[p][1] for p in row) == everything}

    def _weight(self, confidence: Array | None) -> Array | float:
        """Compute 1/Ω[r]."""
        if confidence is None:
            if all(self.transform.periodic):
                return 1.0 / math.prod(self.transform.spatial)
            return (1.0 / self.transform.count_pairs()).astype(self.dtype)
        check_confidence(confidence)
        return (1.0 / self.transform.count_confident_pairs(confidence)).astype(self.dtype)

    def _whole(self, confidence: Array) -> Array | None:
        """Transform Σ_h w_h c m[h; s], which is c. None if no state follows from the others."""
        return None if self._unity is None else self.transform.forward(confidence.astype(self.dtype, copy=False))

    def _correlate(self, samples: Array, masks: Array | None, weight: Any, whole: Array | None, out: Array) -> None:
        full_rows = self._full_rows if masks is None else {}
        transformed = [pair for position, pair in enumerate(self.pairs) if position not in full_rows]
        needed = {state for pair in transformed for state in pair} | {self.pairs[position][0] for position in full_rows}
        states = [state for state in self._needed if state != self._derived]
        spectra: dict[int, Array] = {}
        for state, field in zip(states, self.basis.weighted_fields(samples, masks, states, self.dtype), strict=True):
            spectra[state] = self.transform.forward(field)
        if whole is not None and self._unity is not None and self._derived in needed:
            rest = np.broadcast_to(whole, (len(samples), *whole.shape[1:])).copy()
            for state, spectrum in spectra.items():
                if self._unity[state]:
                    rest -= spectrum if self._unity[state] == 1.0 else self._unity[state] * spectrum
            spectra[self._derived] = rest if self._unity[self._derived] == 1.0 else rest / self._unity[self._derived]
        origin = (slice(None), *(slice(0, 1),) * (out.ndim - 2))
        fractions = {position: spectra[self.pairs[position][0]][origin].real * weight for position in full_rows}
        for position, (a, b) in enumerate(self.pairs):
            if position not in full_rows:
                is_needed = any(b in pair for pair in self.pairs[position + 1 :])
                product = np.empty_like(spectra[b]) if is_needed else spectra[b]
                _cross_spectrum(spectra[a].ravel(), spectra[b].ravel(), product.ravel())
                self.transform.inverse(product, out[..., position], weight)
        for position, others in full_rows.items():
            np.subtract(fractions[position], out[..., others[0]], out=out[..., position])
            for other in others[1:]:
                out[..., position] -= out[..., other]

    @property
    def sample_bytes(self) -> int:
        """Bytes of the statistics of one sample."""
        return int(np.prod(self.transform.shape)) * len(self.pairs) * self.result_dtype.itemsize

    def task_bytes(self, n_samples: int, *, is_masked: bool = False) -> int:
        """Peak bytes of a task beyond its input: its result, and the work arrays of one batch."""
        *leading, last = self.transform.lengths
        frequencies = int(np.prod(leading)) * (last // 2 + 1 if self.transform.real else last)
        batch = min(n_samples, self._batch)
        work = (len(self._needed) + 6) * frequencies * 2 * self.dtype.itemsize
        if is_masked:
            # Ω[r] is computed in double precision.
            work += 16 * int(np.prod(leading)) * (last // 2 + 1)
        n_voxels = batch * int(np.prod(self.transform.spatial))
        return (
            n_samples * self.sample_bytes
            + batch * work
            + self.basis.work_bytes(n_voxels, len(self._needed), self.dtype)
        )
