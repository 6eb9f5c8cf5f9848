"""Microstructures of phases: random periodic ones from filtered noise, deltas and checkerboards.

A sample depends on the seed and on its own index alone, so it is the same under any chunking.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from mksdask.arrays import Array, as_lazy, is_number, numbers_argument, shown, sizes_argument
from mksdask.compute.plans import refuse_unless_fits
from mksdask.compute.random import Chunks, check_n_samples, check_seed, generate_samples, sample_rng
from mksdask.schema.arguments import check_argument, checked


@dataclass(frozen=True)
class _Filter:
    """The kernel of one block: it makes the samples of a seeded ensemble that have the given indices."""

    size: tuple[int, ...]
    n_phases: int
    grain_size: tuple[float, ...]
    seed: int
    stream: int
    volume_fraction: tuple[float, ...] | None
    percent_variance: float

    def __call__(self, indices: NDArray[np.int64]) -> Array:
        dtype = np.min_scalar_type(self.n_phases - 1)
        out = np.empty((len(indices), *self.size), dtype=dtype)
        transfer = self._transfer()
        for target, index in zip(out, indices, strict=True):
            rng = sample_rng(self.seed, self.stream, int(index))
            noise = rng.random(self.size)
            spectrum = scipy.fft.rfftn(noise)
            spectrum *= transfer
            field = scipy.fft.irfftn(spectrum, s=self.size, overwrite_x=True)
            target[...] = self._split(field, rng)
        return out

    def _transfer(self) -> NDArray[np.float64]:
        """Compute the transfer function of a periodic Gaussian with σ = grain_size / 2 voxels."""
        transfer = np.ones((1,) * len(self.size))
        last = len(self.size) - 1
        for axis, (n, grain) in enumerate(zip(self.size, self.grain_size, strict=True)):
            frequency = scipy.fft.rfftfreq(n) if axis == last else scipy.fft.fftfreq(n)
            shape = [-1 if a == axis else 1 for a in range(len(self.size))]
            transfer = transfer * np.exp(-2.0 * (np.pi * frequency * grain / 2.0) ** 2).reshape(shape)
        return transfer

    def _split(self, field: NDArray[np.float64], rng: np.random.Generator) -> Array:
        """Cut a smoothed field into phases, at its thresholds or at the volume fractions."""
        if self.volume_fraction is None:
            thresholds = np.linspace(field.min(), field.max(), self.n_phases + 1)[1:-1]
            return np.searchsorted(thresholds, field, side="left")
        fractions = np.array(self.volume_fraction)
        if self.percent_variance:
            fractions *= 1.0 + self.percent_variance * rng.uniform(-1.0, 1.0, len(fractions))
            fractions /= fractions.sum()
        ends = np.rint(np.cumsum(fractions)[:-1] * field.size).astype(int)
        inner = np.unique(ends[(ends > 0) & (ends < field.size)])
        if len(inner) == len(ends):
            thresholds = np.partition(field, inner, axis=None)[inner]
            phases = np.searchsorted(thresholds, field, side="right")
            if np.array_equal(np.cumsum(np.bincount(phases.ravel(), minlength=self.n_phases))[:-1], ends):
                return phases
        # A phase is empty, or several voxels have the value of a threshold, so the voxels are ranked one by one.
        phases = np.empty(field.size, dtype=np.intp)
        phases[np.argsort(field, axis=None, kind="stable")] = np.searchsorted(ends, np.arange(field.size), side="right")
        return phases.reshape(field.shape)


class MicrostructureGenerator:
    """Generate random periodic microstructures: white noise is smoothed by a Gaussian filter and cut into phases.

    Parameters
    ----------
    n_samples : int, default 10
        Number of samples.
    size : tuple of int, default (101, 101)
        Number of voxels along each of 1 to 3 axes.
    n_phases : int, default 2
        Number of phases.
    grain_size : float or sequence of float, optional
        Size g of the features along each axis, in voxels. The Gaussian has σ = g/2. The default is a third of `size`.
    seed : int, default 10
        The same seed gives the same bytes for any chunking, scheduler or number of workers.
    volume_fraction : sequence of float, optional
        Fraction of each phase, exact to one voxel. Without it, the phases split the range of the smoothed field evenly.
    percent_variance : float, default 0
        Relative spread of the volume fractions from sample to sample, such as 0.1. Each fraction is multiplied by a
        uniform random number in 1 ± percent_variance, and then all fractions are rescaled so that they sum to 1. This
        option needs `volume_fraction`.
    chunks : int or tuple of int, optional
        Number of samples in a chunk. With it, `generate` returns a lazy dask array; without it, a NumPy array.
    stream : int, default 0
        Number of the ensemble. Ensembles with different numbers are independent, although they share a seed.

    Examples
    --------
    >>> generator = MicrostructureGenerator(n_samples=2, size=(4, 4), volume_fraction=(0.25, 0.75))
    >>> (generator.generate() == 0).sum(axis=(1, 2)).tolist()
    [4, 4]
    """

    def __init__(
        self,
        n_samples: int = 10,
        size: Sequence[int] = (101, 101),
        n_phases: int = 2,
        grain_size: float | Sequence[float] | None = None,
        seed: int = 10,
        volume_fraction: Sequence[float] | None = None,
        percent_variance: float | None = None,
        *,
        chunks: Chunks | None = None,
        stream: int = 0,
    ) -> None:
        self.n_samples = n_samples
        self.size = size
        self.n_phases = n_phases
        self.grain_size = grain_size
        self.seed = seed
        self.volume_fraction = volume_fraction
        self.percent_variance = percent_variance
        self.chunks = chunks
        self.stream = stream

    @checked
    def generate(self) -> Any:
        """Make the samples.

        Returns
        -------
        ndarray or dask array, shape (n_samples, *size), the smallest unsigned integer dtype
            Phase numbers, counted from 0.

        Raises
        ------
        ValueError
            If an argument is out of range, or the arguments do not fit together.
        """
        kernel = self._kernel()
        check_argument(self.stream, "stream")
        dtype = np.min_scalar_type(self.n_phases - 1)
        return generate_samples(kernel, check_n_samples(self.n_samples), kernel.size, dtype=dtype, chunks=self.chunks)

    def _kernel(self) -> _Filter:
        size, seed = sizes_argument(self.size), check_seed(self.seed)
        n_phases: Any = self.n_phases
        if not isinstance(n_phases, int | np.integer) or isinstance(n_phases, bool) or not 1 <= n_phases <= 2**16:
            msg = f"n_phases must be an integer between 1 and 65536, got {shown(n_phases)}"
            raise ValueError(msg)
        grain = np.array(size) / 3.0
        if self.grain_size is not None:
            grain = numbers_argument(self.grain_size, "grain_size")
        if grain.shape not in ((), (len(size),)) or not (grain >= 0).all() or (grain > size).any():
            msg = (
                f"grain_size must be one number, or one for each of the {len(size)} axes, from 0 to size={size}; "
                f"got {self.grain_size!r}"
            )
            raise ValueError(msg)
        fractions = None
        variance = 0.0 if self.percent_variance is None else self.percent_variance
        if not (is_number(variance) and 0.0 <= variance < 1.0):
            msg = f"percent_variance must lie in [0, 1), such as 0.1, got {shown(self.percent_variance)}"
            raise ValueError(msg)
        if self.volume_fraction is not None:
            fractions = tuple(np.atleast_1d(numbers_argument(self.volume_fraction, "volume_fraction")).ravel().tolist())
            if len(fractions) != self.n_phases or not (min(fractions) >= 0 and abs(sum(fractions) - 1.0) <= 1e-6):
                msg = (
                    f"volume_fraction must hold {self.n_phases} nonnegative fractions that sum to 1, one for each "
                    f"phase; got {self.volume_fraction!r}"
                )
                raise ValueError(msg)
        elif variance:
            msg = (
                f"percent_variance={self.percent_variance!r} needs volume_fraction, because it varies these fractions; "
                "give volume_fraction too"
            )
            raise ValueError(msg)
        grains = tuple(np.broadcast_to(grain, len(size)).tolist())
        return _Filter(size, self.n_phases, grains, seed, self.stream, fractions, variance)


@checked
def make_microstructure(
    n_samples: int = 10,
    size: Sequence[int] = (101, 101),
    n_phases: int = 2,
    grain_size: float | Sequence[float] | None = None,
    seed: int = 10,
    volume_fraction: Sequence[float] | None = None,
    percent_variance: float | None = None,
    *,
    chunks: Chunks | None = None,
) -> Any:
    """Make random periodic microstructures; see `MicrostructureGenerator` for the parameters.

    Returns
    -------
    ndarray or dask array, shape (n_samples, *size)
        Phase numbers, counted from 0. The array is lazy if `chunks` is given.

    Examples
    --------
    >>> import numpy as np
    >>> eager = make_microstructure(n_samples=5, size=(8, 8), seed=1)
    >>> lazy = make_microstructure(n_samples=5, size=(8, 8), seed=1, chunks=2)
    >>> bool((lazy.compute() == eager).all())
    True
    """
    return MicrostructureGenerator(
        n_samples, size, n_phases, grain_size, seed, volume_fraction, percent_variance, chunks=chunks
    ).generate()


def _independent(indices: NDArray[np.int64], *, n_phases: int, size: tuple[int, ...], seed: int) -> Array:
    dtype = np.min_scalar_type(n_phases - 1)
    return np.stack([sample_rng(seed, 0, int(index)).integers(n_phases, size=size, dtype=dtype) for index in indices])


def make_independent_voxels(
    n_samples: int, size: Sequence[int], n_phases: int, seed: int, *, chunks: Chunks | None = None
) -> Any:
    """Make samples whose voxels are independent and of each phase with equal probability.

    The result has shape (n_samples, *size), and is lazy if `chunks` is given.
    """
    voxels = sizes_argument(size)
    kernel = partial(_independent, n_phases=n_phases, size=voxels, seed=check_seed(seed))
    dtype = np.min_scalar_type(n_phases - 1)
    return generate_samples(kernel, check_n_samples(n_samples), voxels, dtype=dtype, chunks=chunks)


def _deltas(indices: NDArray[np.int64], *, n_phases: int, size: tuple[int, ...]) -> Array:
    pairs = np.array(list(itertools.permutations(range(n_phases), 2)), dtype=np.min_scalar_type(n_phases - 1))
    matrix, inclusion = pairs[indices].T
    out = np.empty((len(indices), *size), dtype=pairs.dtype)
    out[...] = matrix.reshape(-1, *(1,) * len(size))
    out.reshape(len(out), -1)[:, np.ravel_multi_index([n // 2 for n in size], size)] = inclusion
    return out


@checked
def make_delta_microstructures(
    n_phases: int = 2, size: Sequence[int] = (21, 21), *, chunks: Chunks | None = None
) -> Any:
    """Make delta microstructures: one voxel of one phase in the centre of another, for every ordered pair of phases.

    The responses of these samples calibrate influence kernels at the least cost.

    Parameters
    ----------
    n_phases : int, default 2
        Number of phases, from 2 to 256.
    size : tuple of int, default (21, 21)
        Number of voxels along each of 1 to 3 axes.
    chunks : int, optional
        Number of samples in a chunk. With it, the result is lazy.

    Returns
    -------
    ndarray or dask array, shape (n_phases * (n_phases - 1), *size), the smallest unsigned integer dtype
        Samples in the order (matrix, inclusion) = (0, 1), (0, 2), …, (1, 0), …. The inclusion is at index n//2 of each
        axis.

    Raises
    ------
    ValueError
        If `n_phases` is out of range, or `size` is not 1 to 3 positive integers.

    Examples
    --------
    >>> make_delta_microstructures(n_phases=2, size=(3, 3)).tolist()
    [[[0, 0, 0], [0, 1, 0], [0, 0, 0]], [[1, 1, 1], [1, 0, 1], [1, 1, 1]]]
    """
    if not isinstance(n_phases, int | np.integer) or not 2 <= n_phases <= 2**8:
        msg = f"n_phases must be an integer from 2 to 256, got {n_phases!r}"
        raise ValueError(msg)
    voxels = sizes_argument(size)
    kernel = partial(_deltas, n_phases=int(n_phases), size=voxels)
    dtype = np.min_scalar_type(int(n_phases) - 1)
    return generate_samples(kernel, int(n_phases * (n_phases - 1)), voxels, dtype=dtype, chunks=chunks)


@checked
def make_checkerboard_microstructure(
    square_size: int = 21, n_squares: int = 8, *, ndim: int = 2, chunks: Chunks | None = None
) -> Any:
    """Make one checkerboard of two phases.

    Parameters
    ----------
    square_size : int, default 21
        Number of voxels along the edge of a square.
    n_squares : int, default 8
        Number of squares along each axis. The checkerboard is periodic if it is even.
    ndim : {1, 2, 3}, default 2
        Number of axes.
    chunks : int, optional
        With it, the result is lazy.

    Returns
    -------
    ndarray or dask array, shape (1, *size), uint8
        The first square is of phase 0. The size is ``square_size * n_squares`` along each axis.

    Raises
    ------
    ValueError
        If an argument is not a positive integer, or `ndim` is above 3.

    Examples
    --------
    >>> make_checkerboard_microstructure(square_size=1, n_squares=3)[0].tolist()
    [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    """
    n_voxels = (int(square_size) * int(n_squares)) ** int(ndim)
    refuse_unless_fits(
        8 * (1 + ndim) * n_voxels, f"a checkerboard of {n_voxels} voxels", "take fewer or smaller squares"
    )
    squares = np.indices((square_size * n_squares,) * ndim) // square_size
    board = (squares.sum(axis=0) % 2).astype(np.uint8)[None]
    return board if chunks is None else as_lazy(board, -1)
