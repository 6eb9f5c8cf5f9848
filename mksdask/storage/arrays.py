"""The one place that makes arrays in stores: codecs, chunks and checksums are chosen here.

Each chunk ends with a checksum (crc32c), and so does the index of a shard. All chunks are written, also those that hold
nothing but the fill value. A chunk that is missing is therefore always damage.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr
import zarr
from zarr.abc.buffer import BufferPrototype
from zarr.buffer.cpu import Buffer, NDBuffer
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from mksdask.storage.atomic import Location
from mksdask.storage.layouts import CHECKSUM_BYTES
from mksdask.storage.limits import NUMBERS

# What xarray remembers of the array in the store from which a coordinate was read.
_LAYOUT = (
    *("chunks", "preferred_chunks", "shards", "compressor", "compressors", "filters", "serializer"),
    *("chunk_key_encoding", "write_empty_chunks", "cache_metadata", "order", "original_shape", "source"),
)


class _Taken(NDBuffer):
    """A result of zarr that takes over the values of the only chunk that is read into it, instead of a copy of them."""

    def __setitem__(self, key: Any, value: Any) -> None:
        read = value.as_ndarray_like() if isinstance(value, NDBuffer) else value
        if (
            isinstance(read, np.ndarray)
            and read.flags.writeable
            and read.dtype == self.dtype
            and read.shape == self.shape == self._data[key].shape
            # A part of a chunk would hold the memory of all of it.
            and isinstance(read.base, np.ndarray)
            and read.base.nbytes <= read.nbytes + CHECKSUM_BYTES
        ):
            self._data = read  # type: ignore[assignment]
        else:
            super().__setitem__(key, value)


class WholeChunks(zarr.Array[Any]):
    """An array that is not compressed, whose chunks are read without a copy if one is all that is wanted."""

    def __getitem__(self, selection: Any) -> Any:
        parts = selection if isinstance(selection, tuple) else (selection,)
        if all(isinstance(part, slice) for part in parts):
            return self.get_basic_selection(selection, prototype=BufferPrototype(Buffer, _Taken))
        return super().__getitem__(selection)


def all_chunks_of(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """Let an array write chunks of zeros too, on workers as well."""
    # The configuration of zarr, which says so too, is that of all threads.
    return array.with_config({"write_empty_chunks": True})


def create_array(
    group: zarr.Group,
    name: str,
    *,
    shape: Sequence[int],
    dtype: np.dtype[Any],
    objects: Sequence[int],
    parts: Sequence[int] | None = None,
    dims: Sequence[str] | None = None,
    attrs: Mapping[str, Any] | None = None,
    is_compressed: bool = True,
) -> zarr.Array[Any]:
    """Make an empty array in a group.

    Parameters
    ----------
    group, name
        Where the array is made.
    shape, dtype
        Shape and data type of the array.
    objects : sequence of int
        Shape of an object of the store.
    parts : sequence of int, optional
        Shape of the parts of an object that can be read separately. Default: an object is read as a whole.
    dims : sequence of str, optional
        Names of the axes.
    attrs : mapping, optional
        Attributes, of types that JSON has.
    is_compressed : bool, default True
        Whether to compress the chunks.

    Raises
    ------
    TypeError
        If a store does not hold values of this data type.
    """
    if np.dtype(dtype).name not in NUMBERS and np.dtype(dtype).kind != "U":
        msg = (
            f"{name} holds values of dtype {dtype}, which stores do not hold; convert it, such as by astype('float64')"
        )
        raise TypeError(msg)
    # NumPy has several types of the same integers, and zarr knows one of them.
    dtype = np.dtype(dtype.newbyteorder("=").str)
    shuffle: Literal["bitshuffle", "shuffle"] = "bitshuffle" if dtype.itemsize == 1 else "shuffle"
    compressor = BloscCodec(cname="zstd", clevel=1, shuffle=shuffle, typesize=dtype.itemsize)
    array = group.create_array(
        name,
        shape=tuple(shape),
        dtype=dtype,
        chunks=tuple(objects if parts is None else parts),
        shards=None if parts is None else tuple(objects),
        filters=None,
        compressors=(*((compressor,) if is_compressed else ()), Crc32cCodec()),
        fill_value=0,
        dimension_names=dims,
        attributes=dict(attrs or {}),
    )
    return all_chunks_of(array)


def write_dataset(
    dataset: xr.Dataset, location: Location, chunks: Mapping[Hashable, tuple[int, ...]] | None = None
) -> None:
    """Write labels or a table into a group that is new. xarray chooses how texts and times become numbers.

    `chunks` holds the shapes of the chunks of variables. All others have one chunk, or those of dask.
    """
    encoding: dict[Any, dict[str, Any]] = {}
    for name, variable in dataset.variables.items():
        encoding[name] = {key: value for key, value in variable.encoding.items() if key not in _LAYOUT}
        if chunks is not None and name in chunks:
            encoding[name]["chunks"] = chunks[name]
        encoding[name]["compressors"] = (ZstdCodec(), Crc32cCodec())
        if variable.dtype.kind == "f":
            encoding[name]["_FillValue"] = None
    dataset.to_zarr(
        location.opened(), mode="a", consolidated=False, encoding=encoding, zarr_format=3, write_empty_chunks=True
    )
