"""Counting computes, drawing chunkings, brute-force oracles."""

from __future__ import annotations

import itertools
from contextlib import contextmanager

import dask
import dask.array as da
import fsspec
import numpy as np
from dask.local import get_sync
from fsspec.implementations.local import LocalFileSystem
from hypothesis import strategies as st


@contextmanager
def computes(exactly: int):
    """Count the computations that a block starts."""
    count = 0

    def scheduler(dsk, keys, **options):
        nonlocal count
        count += 1
        return get_sync(dsk, keys, **options)

    with dask.config.set(scheduler=scheduler):
        yield
    assert count == exactly, f"{count} computations, expected {exactly}"


@st.composite
def sample_chunks(draw, n_samples: int) -> tuple[int, ...]:
    """A way to cut n_samples into chunks."""
    cuts = draw(st.sets(st.integers(1, n_samples - 1))) if n_samples > 1 else set()
    edges = [0, *sorted(cuts), n_samples]
    return tuple(np.diff(edges).tolist())


def chunked(array: np.ndarray, rows: tuple[int, ...]) -> da.Array:
    return da.from_array(array, chunks=(rows, *array.shape[1:]))


def tasks_per_chunk(array: da.Array) -> float:
    """Tasks of the optimised graph for each chunk of the result."""
    (optimised,) = dask.optimize(array)
    return len(dict(optimised.__dask_graph__())) / array.npartitions


def statistics_bruteforce(m, pairs, *, periodic, reach, confidence=None):
    """The defining sum of one sample: m (*spatial, n_states) → (*lags, n_pairs)."""
    spatial = m.shape[:-1]
    c = np.ones(spatial) if confidence is None else confidence
    lags = [range(-low, high + 1) for low, high in reach]
    out = np.full((*(len(axis) for axis in lags), len(pairs)), np.nan, dtype=np.result_type(m, float))
    voxels = list(np.ndindex(*spatial))
    for position, lag in zip(np.ndindex(*out.shape[:-1]), itertools.product(*lags), strict=True):
        total, omega = np.zeros(len(pairs), dtype=out.dtype), 0.0
        for s in voxels:
            t = [(i + r) % n if wraps else i + r for i, r, n, wraps in zip(s, lag, spatial, periodic, strict=True)]
            if any(not 0 <= i < n for i, n in zip(t, spatial, strict=True)):
                continue
            weight = c[s] * c[tuple(t)]
            omega += weight
            for p, (a, b) in enumerate(pairs):
                total[p] += weight * np.conj(m[(*s, a)]) * m[(*t, b)]
        if omega > 0:
            out[position] = total / omega
    return out


class Bucket(LocalFileSystem):
    """Files that are reached only by URLs such as bucket://folder/rock.zarr, as those of an object store are."""

    protocol = "bucket"

    def __init__(self, **options):
        super().__init__(**(options | {"auto_mkdir": True}))

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + str(path).removeprefix("bucket://").strip("/")

    def unstrip_protocol(self, name):
        return f"bucket:/{self._strip_protocol(name)}"


def register_bucket():
    fsspec.register_implementation("bucket", Bucket, clobber=True)
