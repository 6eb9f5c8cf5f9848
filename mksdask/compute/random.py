"""Random samples that depend on the seed and on their own index alone, whatever the chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import dask.array as da
import numpy as np
from numpy.typing import DTypeLike, NDArray

from mksdask.types import Array

Chunks: TypeAlias = int | str | Sequence[int]


def sample_rng(seed: int, stream: int, index: int) -> np.random.Generator:
    """Random numbers of one sample, which depend on the seed, the stream and its own index alone."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, index)))


def generate_samples(
    kernel: Callable[[NDArray[np.int64]], Array],
    n_samples: int,
    size: Sequence[int],
    *,
    dtype: DTypeLike,
    chunks: Chunks | None,
) -> Any:
    """Samples by their indices: ``kernel(indices)`` returns (len(indices), *size); lazily with `chunks`."""
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
    """A seed that makes samples reproducible.

    Raises
    ------
    ValueError
    """
    if not isinstance(seed, int | np.integer) or seed < 0:
        msg = f"seed must be an integer from 0, the same for the same samples; got {seed!r}"
        raise ValueError(msg)
    return int(seed)


def check_n_samples(n_samples: int) -> int:
    """A number of samples.

    Raises
    ------
    ValueError
    """
    if not isinstance(n_samples, int | np.integer) or n_samples < 1:
        msg = f"n_samples must be an integer from 1, got {n_samples!r}"
        raise ValueError(msg)
    return int(n_samples)
