"""How many samples a chunk should hold."""

from __future__ import annotations

# A chunk of this many voxels gives statistics of tens of megabytes a pair, which a worker of 1 GiB holds several
# times over.
CHUNK_VOXELS = 2**22
# Enough chunks to keep a few workers busy and a progress bar moving.
LEAST_CHUNKS = 8


def samples_per_chunk(n_samples: int, n_voxels: int) -> int:
    """Choose the number of samples in a chunk, and so in a task.

    Parameters
    ----------
    n_samples : int
        Samples in the ensemble.
    n_voxels : int
        Voxels in a sample.

    Returns
    -------
    int
        At least 1.

    Examples
    --------
    >>> samples_per_chunk(2000, 64**3), samples_per_chunk(1200, 21**2)
    (16, 150)
    """
    return max(1, min(CHUNK_VOXELS // max(1, n_voxels), -(-n_samples // LEAST_CHUNKS)))


def largest_divisor(number: int, limit: int) -> int:
    """Largest divisor of `number` that is at most `limit`, and at least 1."""
    return next(d for d in range(min(number, max(1, limit)), 0, -1) if number % d == 0)
