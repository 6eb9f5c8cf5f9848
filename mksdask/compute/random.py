"""Random samples that depend on the seed and on their own index alone, and not on the chunks."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import dask.array as da
import numpy as np
from numpy.typing import DTypeLike, NDArray

from mksdask.compute.plans import refuse_unless_fits
from mksdask.types import Array

Chunks: TypeAlias = int | str | Sequence[int]
# Dask keeps some kB for each chunk, even if it is not computed.
MOST_CHUNKS = 1_000_000


def sample_rng(seed: int, stream: int, index: int) -> np.random.Generator:
    """Make the random generator of one sample. It depends on the seed, the stream and the index alone."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, index)))


def generate_samples(
    kernel: Callable[[NDArray[np.int64]], Array],
    n_samples: int,
    size: Sequence[int],
    *,
    dtype: DTypeLike,
    chunks: Chunks | None,
) -> Any:
    """Make samples from their indices.

    Parameters
    ----------
    kernel : callable
        ``kernel(indices)`` returns an array of shape (len(indices), *size).
    n_samples : int
        Number of samples.
    size : sequence of int
        Shape of one sample.
    dtype : dtype
        dtype of the samples.
    chunks : int, str, sequence of int, or None
        Chunks of a lazy result. None computes at once.

    Returns
    -------
    ndarray or dask array, shape (n_samples, *size)

    Raises
    ------
    ValueError
        If the number of samples of a chunk is not positive.
    """
    n_bytes = np.dtype(dtype).itemsize * math.prod(map(int, size))
    if chunks is None:
        what = f"{n_samples} samples of {tuple(size)} voxels"
        refuse_unless_fits(n_samples * n_bytes, what, "make fewer or smaller ones, or make them lazily with chunks=")
        return kernel(np.arange(n_samples))
    first = chunks[0] if isinstance(chunks, list | tuple) and chunks else chunks
    if isinstance(first, tuple) and first and all(isinstance(n, int | np.integer) for n in first):
        first = 0 if min(first) < 1 else max(first)
    if not isinstance(first, int | np.integer | str) or isinstance(first, bool):
        first = 0
    if isinstance(first, str):
        try:
            first = da.core.normalize_chunks((first,), (n_samples,), dtype=np.dtype(f"V{n_bytes}"))[0][0]
        except (TypeError, ValueError):
            first = 0
    if first < 1:
        msg = f"chunks must be a positive number of samples, or 'auto', got {reprlib.repr(chunks)}"
        raise ValueError(msg)
    largest = min(int(first), n_samples)
    if n_samples > MOST_CHUNKS * largest:
        msg = f"n_samples={n_samples} in chunks of {largest} makes more than {MOST_CHUNKS} chunks; make chunks larger"
        raise ValueError(msg)
    refuse_unless_fits(
        largest * n_bytes, f"a chunk of {largest} samples of {tuple(size)} voxels", "make chunks smaller"
    )
    first = chunks if isinstance(chunks, int | np.integer | str) else chunks[0]
    rows = da.core.normalize_chunks((first, *size), (n_samples, *size), dtype=np.dtype(dtype))[0]
    return da.arange(n_samples, chunks=(rows,)).map_blocks(
        kernel,
        chunks=(rows, *((n,) for n in size)),
        new_axis=list(range(1, 1 + len(size))),
        dtype=dtype,
        meta=np.empty((0,) * (1 + len(size)), dtype=dtype),
        token="generate",
    )


def check_seed(seed: int) -> int:
    """Check a seed, and return it.

    Raises
    ------
    ValueError
        If it is no integer, or negative.
    """
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or seed < 0:
        msg = (
            f"seed must be an integer from 0, such as seed=0, got {reprlib.repr(seed)}; the same seed gives the same "
            "samples"
        )
        raise ValueError(msg)
    return int(seed)


def check_n_samples(n_samples: int) -> int:
    """Check a number of samples, and return it.

    Raises
    ------
    ValueError
        If it is no positive integer.
    """
    if not isinstance(n_samples, int | np.integer) or isinstance(n_samples, bool) or not 1 <= n_samples < 2**63:
        msg = f"n_samples must be an integer from 1, got {reprlib.repr(n_samples)}"
        raise ValueError(msg)
    return int(n_samples)
