"""Temporary copies of lazy matrices on disk, which can be read several times, by rows and by slabs of features."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import dask.array as da
import numpy as np
import zarr

from mksdask.arrays import Array
from mksdask.compute.blocks import check_whole_samples
from mksdask.compute.graph import token_of
from mksdask.storage.atomic import SCRATCH, Location, Url, attributes_of, check_ours, holds_only, remove_store
from mksdask.storage.blocks import Blocks, Variable, layout_begun
from mksdask.storage.opening import open_array

# Name of the matrix in its store, and what its record calls the shape of its objects.
NAME, _LAYOUT = "rows", "samples and features of an object"
# Bytes of one slab of features: all samples in the precision of the matrix, and a centred copy of them.
SLAB_BYTES = 96 * 2**20
# Smallest number of features of a slab. Narrower slabs would be slow to read.
LEAST_WIDTH = 64


@dataclass(frozen=True)
class SpilledRows:
    """Rows of a lazy matrix on disk. A chunk holds some samples × a slab of features, so both directions are fast."""

    url: str
    row_chunks: tuple[int, ...]
    n_features: int
    dtype: np.dtype[Any]
    width: int  # features of a slab

    @property
    def n_samples(self) -> int:
        """The number of rows."""
        return sum(self.row_chunks)

    @property
    def slabs(self) -> list[slice]:
        """The features of each slab."""
        starts = range(0, self.n_features, self.width)
        return [slice(start, min(start + self.width, self.n_features)) for start in starts]

    def open(self, mode: Literal["r", "r+"] = "r") -> zarr.Array[Any]:
        """Open the matrix on disk. Index it as [samples, features]."""
        return open_array(Location.of(self.url), NAME, mode)

    def lazy(self) -> da.Array:
        """Open the matrix lazily, in chunks of some samples and all features."""
        return da.from_zarr(self.open(), chunks=(self.row_chunks[0], -1))

    def blocks(self) -> Iterator[Array]:
        """Yield chunks of some samples and all features."""
        matrix, start = self.open(), 0
        for n_rows in self.row_chunks:
            yield np.asarray(matrix[start : start + n_rows])
            start += n_rows


def slab_width(n_samples: int, n_features: int, dtype: np.dtype[Any], slab_bytes: int | None = None) -> int:
    """Choose the features of a slab that, with its centred copy, takes at most `slab_bytes` (default: `SLAB_BYTES`)."""
    slab_bytes = SLAB_BYTES if slab_bytes is None else slab_bytes
    widest = max(1, min(n_features, slab_bytes // (n_samples * 2 * dtype.itemsize)))
    n_slabs = -(-n_features // widest)
    # If there are several slabs, their number is a multiple of four, so that a few workers end at about the same time.
    return widest if n_slabs == 1 else -(-n_features // (-(-n_slabs // 4) * 4))


@contextmanager
def spill(
    features: da.Array, scratch: Url | None = None, *, width: int | None = None, resume: str | None = None
) -> Iterator[SpilledRows]:
    """Write a lazy matrix to disk once, to read it several times. It is removed at the end, also on error.

    Parameters
    ----------
    features : dask array, shape (n_samples, n_features)
        A matrix with whole rows in each chunk.
    scratch : str or path, optional
        Folder or fsspec URL that all workers can reach. A store with a new name is made in it. Default: the temporary
        folder of the system, which workers on this machine can reach.
    width : int, optional
        Number of features of a slab. Default: as many as take `SLAB_BYTES`.
    resume : str, optional
        A token of the computation of the matrix. With it, a copy that an earlier call for the same matrix left in
        `scratch` is continued, and on error the copy stays. If that call ran on smaller workers, its objects hold fewer
        samples or features, and stay so. Only one such call may run at a time. Default: nothing stays.

    Yields
    ------
    SpilledRows

    Raises
    ------
    BlockingIOError
        If another call with the same `resume` uses the copy.
    FileExistsError
        If something has the name of the copy and is not such a copy, or holds something else too.
    ValueError
        If the objects of the copy are larger than fits here.
    """
    check_whole_samples(features, name="features")
    sizes = features.chunks[0]
    if len(set(sizes[:-1])) > 1 or sizes[-1] > sizes[0]:
        # Each chunk on disk must be written by one task.
        features = features.rechunk({0: max(sizes)})
    with tempfile.TemporaryDirectory(prefix="mksdask-") as local:
        parent = local if scratch is None else str(scratch).rstrip("/")
        if width is None:
            n_samples, n_features = features.shape
            width = slab_width(n_samples, n_features, features.dtype)
        known = None if resume is None else token_of(resume, features.shape)
        url = f"{parent}/rows-{uuid.uuid4().hex[:12] if known is None else known}.zarr"
        if known is not None and (begun := layout_begun(url, _LAYOUT, 2)) is not None:
            n_rows = features.chunksize[0]
            if n_rows % begun[0] == 0 and begun[1] <= width:
                features, width = features.rechunk({0: begun[0]}), begun[1]
        rows = SpilledRows(url, features.chunks[0], features.shape[1], features.dtype, width)
        # A task writes all features of some samples. Each object holds one slab of features.
        objects = (features.chunksize[0], width)
        variable = Variable(features, ("sample", "feature"), objects, is_compressed=False, computation=known)
        location = Location.of(url)
        blocks = Blocks(location, "scratch", {NAME: variable}, layout={_LAYOUT: objects})
        with nullcontext() if known is None else location.locked():
            # If a call was killed while it removed a copy, the metadata of the copy may be gone.
            if location.fs.isdir(location.path) and not attributes_of(location) and holds_only(location, {NAME: 2}):
                location.remove()
            check_ours(location, SCRATCH)
            try:
                blocks.open()
                blocks.write()
                blocks.finish()
                yield rows
            except BaseException:
                if known is None and scratch is not None:
                    remove_store(url, SCRATCH)
                raise
            # The temporary folder goes with all that it holds.
            if scratch is not None:
                remove_store(url, SCRATCH)
