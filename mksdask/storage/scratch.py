"""A lazy matrix on disk for a while, so that it can be read several times, by rows and by slabs of features."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import dask.array as da
import numpy as np
import zarr

from mksdask.arrays import Array
from mksdask.compute.blocks import check_whole_samples
from mksdask.compute.graph import token_of
from mksdask.storage.atomic import SCRATCH, Location, Url, attributes_of, check_ours, holds_only, remove_store
from mksdask.storage.blocks import Blocks, Variable
from mksdask.storage.opening import open_array

# Name of the matrix in its store.
NAME = "rows"
# Bytes of one slab of features, all samples, in its own precision, and centred.
SLAB_BYTES = 96 * 2**20
# Features of a slab, or more: fewer would make reading dear.
LEAST_WIDTH = 64


@dataclass(frozen=True)
class SpilledRows:
    """Rows of a lazy matrix on disk, in chunks that serve both directions: some samples × a slab of features."""

    url: str
    row_chunks: tuple[int, ...]
    n_features: int
    dtype: np.dtype[Any]
    width: int  # features of a slab

    @property
    def n_samples(self) -> int:
        """Number of rows."""
        return sum(self.row_chunks)

    @property
    def slabs(self) -> list[slice]:
        """Features of each slab."""
        starts = range(0, self.n_features, self.width)
        return [slice(start, min(start + self.width, self.n_features)) for start in starts]

    def open(self, mode: Literal["r", "r+"] = "r") -> zarr.Array[Any]:
        """The matrix on disk; index it as [samples, features]."""
        return open_array(Location.of(self.url), NAME, mode)

    def lazy(self) -> da.Array:
        """The matrix on disk in its chunks of samples, all features."""
        return da.from_zarr(self.open(), chunks=(self.row_chunks[0], -1))

    def blocks(self) -> Iterator[Array]:
        """Chunks of samples, all features."""
        matrix, start = self.open(), 0
        for n_rows in self.row_chunks:
            yield np.asarray(matrix[start : start + n_rows])
            start += n_rows


def slab_width(n_samples: int, n_features: int, dtype: np.dtype[Any], slab_bytes: int | None = None) -> int:
    """Features in a slab that takes at most `slab_bytes`, by default `SLAB_BYTES`, with its centred copy."""
    slab_bytes = SLAB_BYTES if slab_bytes is None else slab_bytes
    widest = max(1, min(n_features, slab_bytes // (n_samples * 2 * dtype.itemsize)))
    n_slabs = -(-n_features // widest)
    # Several slabs are a multiple of four, so that few workers end at the same time.
    return widest if n_slabs == 1 else -(-n_features // (-(-n_slabs // 4) * 4))


@contextmanager
def spill(
    features: da.Array, scratch: Url | None = None, *, width: int | None = None, resume: str | None = None
) -> Iterator[SpilledRows]:
    """Write a lazy matrix once, for being read several times; removed at the end, also on error.

    Parameters
    ----------
    features : dask array, shape (n_samples, n_features)
        Whole rows in each chunk.
    scratch : str or path, optional
        Folder or fsspec URL that all workers can reach; a store of a name of its own is made in it. Default: the
        system's temporary folder, which serves workers on this machine.
    width : int, optional
        Features of a slab. Default: what takes `SLAB_BYTES`.
    resume : str, optional
        What the matrix is made of, in a word: what an earlier call for the same left in `scratch` when it was killed is
        taken up, and on error it stays. Default: nothing stays.

    Yields
    ------
    SpilledRows

    Raises
    ------
    FileExistsError
        If what has the name of the copy is not a copy alone.
    """
    check_whole_samples(features, name="features")
    sizes = features.chunks[0]
    if len(set(sizes[:-1])) > 1 or sizes[-1] > sizes[0]:
        # A chunk on disk must belong to one task.
        features = features.rechunk({0: max(sizes)})
    with tempfile.TemporaryDirectory(prefix="mksdask-") as local:
        parent = local if scratch is None else str(scratch).rstrip("/")
        if width is None:
            n_samples, n_features = features.shape
            width = slab_width(n_samples, n_features, features.dtype)
        # With the layout, which other limits of memory may change.
        known = None if resume is None else token_of(resume, features.shape, features.chunks[0], width)
        url = f"{parent}/rows-{uuid.uuid4().hex[:12] if known is None else known}.zarr"
        rows = SpilledRows(url, features.chunks[0], features.shape[1], features.dtype, width)
        # A task writes some samples, whole, in objects of a slab of features each.
        objects = (features.chunksize[0], width)
        variable = Variable(features, ("sample", "feature"), objects, is_compressed=False, computation=known)
        location = Location.of(url)
        blocks = Blocks(location, "scratch", {NAME: variable})
        # A copy that was being removed when a call was killed may have lost its metadata.
        if location.exists() and not attributes_of(location) and holds_only(location, {NAME: 2}):
            location.remove()
        check_ours(location, SCRATCH)
        try:
            blocks.open()
            blocks.write()
            blocks.finish()
            yield rows
        except BaseException:
            if known is None:
                remove_store(url, SCRATCH)
            raise
        remove_store(url, SCRATCH)
