"""Wigner's D-functions of Bunge angles: whole matrices for single rotations, and sums of them for many orientations.

    D^l_{mn}(g) = exp(-i m φ1) [exp(-i Φ J_x)]_{mn} exp(-i n φ2) = i^{m-n} exp(-i m φ1) d^l_{mn}(Φ) exp(-i n φ2)

for the active rotation g = Rz(φ1) Rx(Φ) Rz(φ2), so that D(g g') = D(g) D(g').
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numba
import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy.linalg import eigh_tridiagonal
from scipy.special import gammaln

from mksdask.arrays import Array

# So many orientations go through the recurrence together that their rows stay in cache.
TILE = 256


def wigner_matrices(degree: int, angles: NDArray[np.float64]) -> NDArray[np.complex128]:
    """Compute the matrices D^l of rotations from the eigenvectors of J_x.

    Parameters
    ----------
    degree : int
        Degree l.
    angles : ndarray, shape (n, 3)
        Bunge angles φ1, Φ, φ2 in radians.

    Returns
    -------
    ndarray, shape (n, 2 l + 1, 2 l + 1), complex128
        D^l_{mn}. The indices m and n run from -l to l.
    """
    orders = np.arange(-degree, degree + 1)
    steps = 0.5 * np.sqrt(degree * (degree + 1) - orders[:-1] * (orders[:-1] + 1.0))
    values, vectors = eigh_tridiagonal(np.zeros(len(orders)), steps)
    # The exact eigenvalues of J_x are -l … l. Those of the solver differ from them by rounding.
    tilt = np.exp(-1j * angles[:, 1, None] * np.rint(values))
    middle = np.einsum("ak,nk,bk->nab", vectors, tilt, vectors)
    first, last = (np.exp(-1j * angles[:, axis, None] * orders) for axis in (0, 2))
    return np.asarray(first[:, :, None] * middle * last[:, None, :])


@dataclass(frozen=True)
class WignerSums:
    """Functions of orientation that are finite sums of D-functions: T_s = Σ c D^l_{mn}.

    The pairs (m, n) and (-m, -n) share a recurrence, because d^l_{-m,-n} = (-1)^{m-n} d^l_{mn}.
    """

    n_functions: int
    pairs: NDArray[np.int64]  # (n_pairs, 2): m > 0, or m = 0 and n ≥ 0
    seeds: NDArray[np.float64]  # (n_pairs,): d^l = seed · cos(Φ/2)^|m+n| sin(Φ/2)^|m-n| for l = max(|m|, |n|)
    steps: NDArray[np.float64]  # (n_steps, 3): a, b, c of d^{l+1} = (a cos Φ + b) d^l + c d^{l-1}, pair after pair
    first_step: NDArray[np.int64]  # (n_pairs + 1,)
    terms: NDArray[np.int64]  # (n_terms, 3): step within the pair, function, whether the term belongs to (-m, -n)
    weights: NDArray[np.complex128]  # (n_terms,)
    first_term: NDArray[np.int64]  # (n_pairs + 1,)

    @classmethod
    def of(cls, sums: Sequence[Sequence[tuple[int, int, int, complex]]]) -> Self:
        """Prepare sums. Each function is a list of terms (l, m, n, coefficient of D^l_{mn})."""
        by_pair: dict[tuple[int, int], list[tuple[int, int, bool, complex]]] = {}
        for function, terms in enumerate(sums):
            for degree, m, n, coefficient in terms:
                is_mirrored = (m, n) < (0, 0)
                weight = coefficient * (1, 1j, -1, -1j)[(m - n) % 4] * (-1 if is_mirrored and (m - n) % 2 else 1)
                pair = (-m, -n) if is_mirrored else (m, n)
                by_pair.setdefault(pair, []).append((degree, function, is_mirrored, weight))
        seeds, steps, first_step, rows, weights, first_term = [], [], [0], [], [], [0]
        for (m, n), members in sorted(by_pair.items()):
            lowest = max(abs(m), abs(n))
            seeds.append(_seed(m, n))
            members.sort(key=lambda member: member[:2])
            steps += [_step(degree, m, n) for degree in range(lowest, members[-1][0])]
            rows += [(degree - lowest, function, mirrored) for degree, function, mirrored, _ in members]
            weights += [weight for *_, weight in members]
            first_step.append(len(steps))
            first_term.append(len(rows))
        return cls(
            len(sums),
            np.array(sorted(by_pair), dtype=np.int64).reshape(-1, 2),
            np.array(seeds),
            np.array(steps, dtype=np.float64).reshape(-1, 3),
            np.array(first_step),
            np.array(rows, dtype=np.int64).reshape(-1, 3),
            np.array(weights, dtype=np.complex128),
            np.array(first_term),
        )

    def evaluate(self, angles: Array, dtype: DTypeLike) -> Array:
        """Compute T_s of Bunge angles, radians: (..., 3) → (n_functions, ...), complex of the precision of `dtype`."""
        precision = np.dtype(dtype)
        rows = np.ascontiguousarray(angles.reshape(-1, 3), dtype=np.float64)
        out = np.empty((self.n_functions, len(rows)), dtype=np.result_type(precision, np.complex64))
        _evaluate(
            rows,
            self.pairs,
            self.seeds.astype(precision),
            self.steps.astype(precision),
            self.first_step,
            self.terms,
            self.weights.real.astype(precision),
            self.weights.imag.astype(precision),
            self.first_term,
            out,
        )
        return out.reshape(self.n_functions, *angles.shape[:-1])


def _seed(m: int, n: int) -> float:
    """Compute the factor of cos(Φ/2)^|m+n| sin(Φ/2)^|m-n| in d^l_{mn} for the lowest degree l = max(|m|, |n|)."""
    degree = max(abs(m), abs(n))
    binomial = np.exp(0.5 * (gammaln(2 * degree + 1) - gammaln(abs(m + n) + 1) - gammaln(abs(m - n) + 1)))
    return float(-binomial if m > n and (m - n) % 2 else binomial)


def _step(degree: int, m: int, n: int) -> tuple[float, float, float]:
    """Compute the coefficients a, b, c of d^{l+1} = (a cos Φ + b) d^l + c d^{l-1}."""
    if degree == 0:
        return 1.0, 0.0, 0.0
    following = degree + 1
    scale = degree * np.sqrt((following**2 - m**2) * (following**2 - n**2))
    previous = following * np.sqrt((degree**2 - m**2) * (degree**2 - n**2))
    return (
        float((2 * degree + 1) * degree * following / scale),
        float(-(2 * degree + 1) * m * n / scale),
        float(-previous / scale),
    )


_MATH = {"contract", "reassoc", "nsz"}
# A function that is compiled by itself too might be rounded in another way there, and it is chance which one is called.
_inline = numba.njit(inline="always", fastmath=_MATH)


@_inline
def _turn(cosines, sines, first_cosine, first_sine, next_cosine, next_sine):  # type: ignore[no-untyped-def]
    """Compute the cosines and sines of the next multiple of angles."""
    for t in range(len(cosines)):
        next_cosine[t] = cosines[t] * first_cosine[t] - sines[t] * first_sine[t]
        next_sine[t] = sines[t] * first_cosine[t] + cosines[t] * first_sine[t]


@_inline
def _start(sign, seed, c1, s1, c2, s2, powers_cos, powers_sin, phase_real, phase_imag, now, before):  # type: ignore[no-untyped-def]
    """Compute the phase exp(-i(m φ1 + n φ2)) of a pair, and its d^l of the lowest degree l."""
    for t in range(len(now)):
        s = sign * s2[t]
        phase_real[t] = c1[t] * c2[t] - s1[t] * s
        phase_imag[t] = -(s1[t] * c2[t] + c1[t] * s)
        now[t] = seed * powers_cos[t] * powers_sin[t]
        before[t] = 0


@_inline
def _advance(a, b, c, cos_tilt, now, before):  # type: ignore[no-untyped-def]
    """Compute d^{l+1} from d^l and d^{l-1}. It overwrites d^{l-1}."""
    for t in range(len(now)):
        before[t] = (a * cos_tilt[t] + b) * now[t] + c * before[t]


@_inline
def _add(x, y, mirror, now, phase_real, phase_imag, to_real, to_imag):  # type: ignore[no-untyped-def]
    """Add (x + i y) d^l times the phase. The conjugate of the phase belongs to (-m, -n)."""
    for t in range(len(now)):
        u, v = now[t] * phase_real[t], mirror * now[t] * phase_imag[t]
        to_real[t] += x * u - y * v
        to_imag[t] += x * v + y * u


@numba.njit(cache=True, nogil=True, fastmath=_MATH)
def _evaluate(  # type: ignore[no-untyped-def]
    angles, pairs, seeds, steps, first_step, terms, real, imag, first_term, out
):
    """Sum the functions tile by tile: powers of the phases, then the recurrence in l and the terms of each pair."""
    degree = 0
    for p in range(len(pairs)):
        degree = max(degree, abs(pairs[p, 0]), abs(pairs[p, 1]))
    # Room for cosines and sines of multiples of φ1 and φ2, and for powers of cos(Φ/2) and sin(Φ/2).
    cos1 = np.empty((degree + 2, TILE), dtype=seeds.dtype)
    sin1, cos2, sin2 = np.empty_like(cos1), np.empty_like(cos1), np.empty_like(cos1)
    cos_half = np.empty((2 * degree + 2, TILE), dtype=seeds.dtype)
    sin_half = np.empty_like(cos_half)
    work = np.empty((5, TILE), dtype=seeds.dtype)
    sum_real = np.empty((len(out), TILE), dtype=seeds.dtype)
    sum_imag = np.empty_like(sum_real)
    for start in range(0, len(angles), TILE):
        size = min(TILE, len(angles) - start)
        for t in range(size):
            phi1, half, phi2 = angles[start + t, 0], 0.5 * angles[start + t, 1], angles[start + t, 2]
            cos1[0, t], sin1[0, t], cos1[1, t], sin1[1, t] = 1, 0, np.cos(phi1), np.sin(phi1)
            cos2[0, t], sin2[0, t], cos2[1, t], sin2[1, t] = 1, 0, np.cos(phi2), np.sin(phi2)
            c, s = np.cos(half), np.sin(half)
            cos_half[0, t], sin_half[0, t], cos_half[1, t], sin_half[1, t] = 1, 1, c, s
            work[0, t] = (c - s) * (c + s)
        for k in range(2, degree + 1):
            _turn(cos1[k - 1], sin1[k - 1], cos1[1], sin1[1], cos1[k], sin1[k])
            _turn(cos2[k - 1], sin2[k - 1], cos2[1], sin2[1], cos2[k], sin2[k])
        for k in range(2, 2 * degree + 1):
            for t in range(size):
                cos_half[k, t] = cos_half[k - 1, t] * cos_half[1, t]
                sin_half[k, t] = sin_half[k - 1, t] * sin_half[1, t]
        sum_real[:] = 0
        sum_imag[:] = 0
        cos_tilt, now, before = work[0, :size], work[1, :size], work[2, :size]
        phase_real, phase_imag = work[3, :size], work[4, :size]
        for p in range(len(pairs)):
            m, n = pairs[p, 0], pairs[p, 1]
            sign = seeds.dtype.type(1 if n >= 0 else -1)
            _start(
                sign,
                seeds[p],
                cos1[abs(m)],
                sin1[abs(m)],
                cos2[abs(n)],
                sin2[abs(n)],
                cos_half[abs(m + n)],
                sin_half[abs(m - n)],
                phase_real,
                phase_imag,
                now,
                before,
            )
            step = 0
            for term in range(first_term[p], first_term[p + 1]):
                while step < terms[term, 0]:
                    row = first_step[p] + step
                    _advance(steps[row, 0], steps[row, 1], steps[row, 2], cos_tilt, now, before)
                    now, before = before, now
                    step += 1
                mirror = seeds.dtype.type(-1 if terms[term, 2] else 1)
                function = terms[term, 1]
                _add(
                    real[term], imag[term], mirror, now, phase_real, phase_imag, sum_real[function], sum_imag[function]
                )
        for f in range(len(out)):
            for t in range(size):
                out[f, start + t] = complex(sum_real[f, t], sum_imag[f, t])
