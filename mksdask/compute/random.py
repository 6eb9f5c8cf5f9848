"""Random samples that depend on the seed and on their own index alone, and not on the chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import dask.array as da
import numpy as np
from numpy.typing import DTypeLike, NDArray

from mksdask.types import Array

Chunks: TypeAlias = int | str | Sequence[int]


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
    if chunks is None:
        return kernel(np.arange(n_samples))
    first = chunks if isinstance(chunks, int | np.integer | str) else chunks[0]
    if isinstance(first, int | np.integer) and first < 1:
        msg = f"chunks must be a positive number of samples, got {chunks!r}"
        raise ValueError(msg)
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
    if not isinstance(seed, int | np.integer) or seed < 0:
        msg = f"seed must be an integer from 0, such as seed=0, got {seed!r}; the same seed gives the same samples"
        raise ValueError(msg)
    return int(seed)


def check_n_samples(n_samples: int) -> int:
    """Check a number of samples, and return it.

    Raises
    ------
    ValueError
        If it is no positive integer.
    """
    if not isinstance(n_samples, int | np.integer) or n_samples < 1:
        msg = f"n_samples must be an integer from 1, got {n_samples!r}"
        raise ValueError(msg)
    return int(n_samples)
