"""Fourier transforms of volumes in two steps: first planes, then lines along the first axis.

Transformed planes can be stored before lines are transformed, so a volume need not fit in memory. Lines are transformed
in bundles that stay in cache, and the products of their spectra are added up while they are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import scipy.fft
from numpy.typing import DTypeLike

from mksdask.arrays import Array
from mksdask.compute.transforms import fast_length

LINES_BYTES = 2**18  # bytes of the lines that are transformed together
LEAST_LINES = 32  # at least so many lines are transformed together, so that whole cache lines are read

_jit = numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz"})


@_jit
def _accumulate(total, a, b):  # type: ignore[no-untyped-def]
    """Total += conj(a) b."""
    for i in range(total.shape[0]):
        for j in range(total.shape[1]):
            total[i, j] += a[i, j].conjugate() * b[i, j]


@_jit
def _pack(rows, first, packed):  # type: ignore[no-untyped-def]
    """Pack two real rows, i and i + half, into each complex row, from column `first` on. The rest becomes zero."""
    n_rows, n = rows.shape
    half, length = packed.shape
    for i in range(half):
        has_second = i + half < n_rows
        for k in range(first):
            packed[i, k] = 0.0
        for k in range(n):
            packed[i, first + k] = complex(rows[i, k], rows[i + half, k] if has_second else 0.0)
        for k in range(first + n, length):
            packed[i, k] = 0.0


@_jit
def _unpack(packed, spectra):  # type: ignore[no-untyped-def]
    """Compute the spectra A, B of two real rows from the spectrum P of their packed row.

    A[k] = (P[k] + P*[-k])/2 and B[k] = (P[k] - P*[-k])/2i.
    """
    half, length = packed.shape
    n_rows, n = spectra.shape
    for i in range(half):
        has_second = i + half < n_rows
        for k in range(n):
            p, q = packed[i, k], packed[i, length - k if k else 0]
            spectra[i, k] = complex(0.5 * (p.real + q.real), 0.5 * (p.imag - q.imag))
            if has_second:
                spectra[i + half, k] = complex(0.5 * (p.imag + q.imag), 0.5 * (q.real - p.real))


def three_axes(values: Sequence[Any], fill: Any) -> tuple[Any, Any, Any]:
    """Extend values of 1 to 3 axes to three axes. One axis becomes the last, two become the first and the last."""
    if len(values) == 3:
        return values[0], values[1], values[2]
    return (fill, fill, values[0]) if len(values) == 1 else (values[0], fill, values[1])


@dataclass(frozen=True)
class PencilFFT:
    """The discrete Fourier transform over three axes. For real fields, the last axis keeps half of its frequencies.

    Parameters
    ----------
    lengths : tuple of int
        Number of voxels along each axis, with padding.
    real : bool
        Whether fields are real.
    """

    lengths: tuple[int, int, int]
    real: bool

    @classmethod
    def padded(cls, least: Sequence[int], *, real: bool) -> PencilFFT:
        """Choose the fastest transform of at least `least` voxels along 1 to 3 axes. An axis of one voxel stays so."""
        x, y, z = (fast_length(n) if n > 1 else 1 for n in three_axes(least, 1))
        return cls((x, y, z), real)

    @property
    def plane(self) -> tuple[int, int]:
        """Number of frequencies of a plane, along the second and the third axis."""
        _, y, z = self.lengths
        return y, z // 2 + 1 if self.real else z

    @property
    def n_frequencies(self) -> int:
        """Number of frequencies of the volume."""
        return self.lengths[0] * self.plane[0] * self.plane[1]

    def lines_together(self, itemsize: int) -> int:
        """Number of lines that are transformed together, for the bytes of one number of a spectrum."""
        return max(LEAST_LINES, LINES_BYTES // (self.lengths[0] * itemsize))


class Pencils:
    """A transform with its buffers, for one thread.

    The buffers are allocated once. On workers of dask, freed memory goes back to the system at once, and to allocate it
    again in every step costs more than the transforms.

    Parameters
    ----------
    transform : PencilFFT
        The transform.
    dtype : {"float32", "float64"}
        Precision of the fields.
    """

    def __init__(self, transform: PencilFFT, dtype: DTypeLike) -> None:
        self.transform = transform
        self.dtype = np.result_type(dtype, np.complex64)
        self._step = transform.lines_together(self.dtype.itemsize)
        _, y, z = transform.lengths
        self._packed = np.empty((-(-y // 2), z), dtype=self.dtype) if transform.real else None
        self._lines: dict[Any, Array] = {}

    def transform_planes(self, fields: Array, out: Array, first: tuple[int, int] = (0, 0)) -> None:
        """Transform planes of fields (n, ≤ y, ≤ z) and write them to `out` (n, *plane).

        The first voxel of each field is put at `first`, and the rest of the plane is zero.
        """
        top, left = first
        rows = slice(top, top + fields.shape[1])
        for field, plane in zip(fields, out, strict=True):
            plane[: rows.start] = 0
            plane[rows.stop :] = 0
            if self._packed is not None:
                packed = self._packed[: -(-len(field) // 2)]
                _pack(field, left, packed)
                _unpack(scipy.fft.fft(packed, axis=1, overwrite_x=True), plane[rows])
            else:
                plane[rows] = 0
                plane[rows, left : left + field.shape[1]] = field
                plane[rows] = scipy.fft.fft(plane[rows], axis=1, overwrite_x=True)
            if self.transform.lengths[1] > 1:
                transformed = scipy.fft.fft(plane, axis=0, overwrite_x=True)
                if transformed.ctypes.data != plane.ctypes.data:
                    plane[...] = transformed

    def transform_lines(self, spectra: Array, key: Any = None) -> Array:
        """Transform lines of the spectra of planes, (≤ x, n) → (x, n), padded with zeros.

        n is at most the number of lines that are transformed together. The result is in the buffer of its `key`, and
        the next call with this `key` overwrites it.
        """
        n = spectra.shape[1]
        if key not in self._lines:
            self._lines[key] = np.empty((self.transform.lengths[0], self._step), dtype=self.dtype)
        lines = self._lines[key][:, :n]
        lines[: len(spectra)] = spectra
        lines[len(spectra) :] = 0
        return np.asarray(scipy.fft.fft(lines, axis=0, overwrite_x=True)) if len(lines) > 1 else lines

    def empty_total(self) -> Array:
        """Make an array of zeros to which products are added, in blocks of lines that are transformed together."""
        y, z = self.transform.plane
        return np.zeros((-(-y * z // self._step), self.transform.lengths[0], self._step), dtype=self.dtype)

    def add_products(
        self,
        firsts: dict[int, Array],
        seconds: dict[int, Array],
        pairs: Sequence[tuple[int, int]],
        totals: Sequence[Array],
    ) -> None:
        """Add conj(F a) F b of each pair (a, b) to its total, from spectra of planes (≤ x, *plane)."""
        sides = [
            {state: spectra.reshape(len(spectra), -1) for state, spectra in side.items()} for side in (firsts, seconds)
        ]
        n_lines = self.transform.plane[0] * self.transform.plane[1]
        for block, start in enumerate(range(0, n_lines, self._step)):
            part = slice(start, min(start + self._step, n_lines))
            a, b = (
                {state: self.transform_lines(lines[:, part], (side, state)) for state, lines in spectra.items()}
                for side, spectra in enumerate(sides)
            )
            for total, (first, second) in zip(totals, pairs, strict=True):
                _accumulate(total[block, :, : part.stop - start], a[first], b[second])

    def correlate_lines(self, spectra: Array, pairs: Sequence[tuple[int, int]], keep: Array, out: Array) -> None:
        """Write the inverse along the first axis of conj(F a) F b of each pair (a, b), at the positions `keep`.

        It goes from spectra of planes (n_fields, ≤ x, n) to `out` (n_pairs, len(keep), n).
        """
        states = sorted({state for pair in pairs for state in pair})
        for start in range(0, spectra.shape[2], self._step):
            part = slice(start, min(start + self._step, spectra.shape[2]))
            lines = {state: self.transform_lines(spectra[state][:, part], state) for state in states}
            for target, (a, b) in zip(out, pairs, strict=True):
                target[:, part] = invert_lines(lines[a].conj() * lines[b])[keep]

    def invert_total(self, total: Array, keep: Array) -> Array:
        """Invert a total along the first axis, and return the planes `keep`: (len(keep), *plane). It overwrites it."""
        y, z = self.transform.plane
        out = np.empty((len(keep), y * z), dtype=total.dtype)
        for block, start in enumerate(range(0, y * z, self._step)):
            part = slice(start, min(start + self._step, y * z))
            out[:, part] = invert_lines(total[block])[keep, : part.stop - start]
        return out.reshape(-1, y, z)

    def invert_planes(self, spectra: Array, keep: tuple[Array, Array], out: Array) -> None:
        """Invert planes (n, *plane), and write rows and columns `keep` to `out` (n, len(keep[0]), len(keep[1]))."""
        rows, columns = keep
        _, y, z = self.transform.lengths
        for plane, target in zip(spectra, out, strict=True):
            part = (scipy.fft.ifft(plane, axis=0, overwrite_x=True) if y > 1 else plane)[rows]
            if self.transform.real:
                values = scipy.fft.irfft(part, n=z, axis=1, overwrite_x=True)
            else:
                values = scipy.fft.ifft(part, axis=1, overwrite_x=True)
            target[...] = values[:, columns]


def invert_lines(spectra: Array) -> Array:
    """Invert lines along the first axis, (x, n) → (x, n). This overwrites `spectra`."""
    return np.asarray(scipy.fft.ifft(spectra, axis=0, overwrite_x=True)) if len(spectra) > 1 else spectra
