"""Images that are opened but not read: lazy arrays, with the axes, spacing and units that their files state.

Every reader returns a `Source`. A kernel reads its values later, slab by slab along the first axis of the file. The
kernel holds only the path, so that workers open the file themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import dask.array as da
import h5py
import numpy as np
from numpy.typing import NDArray

from mksdask.arrays import Array
from mksdask.compute.plans import Limit

# Largest number of bytes, and of rows, of a slab that is read at once.
SLAB_BYTES = 2**27
MOST_ROWS = 2048
# A task takes so many slabs: the one that it reads, its phases, and the shards that are cut from them.
SLABS_OF_A_TASK = 3.5
# Unpacking a chunk takes so many times its bytes: those in the file, those of the chunk, and a copy.
COPIES_OF_A_CHUNK = 3


@dataclass(frozen=True)
class Source:
    """An image that is opened but not read.

    Parameters
    ----------
    data : dask array
        Values, with the axes in the order of the file.
    axes : str
        One letter for each axis of `data`: x, y, z, or s for samples; such as "zyx".
    spacing : dict
        Voxel size along those of x, y, z for which the file states it.
    units : str or None
        Unit of the spacing, by the name of this package.
    assumed : tuple of str
        What the file does not say and the reader assumed, each with the argument that says it otherwise; such as "the
        axes are x, y, z; give axes= if they are others".
    """

    data: da.Array
    axes: str
    spacing: dict[str, float]
    units: str | None = None
    assumed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Choice:
    """What a caller chooses of a file that holds more than one image, or that does not describe itself.

    Parameters
    ----------
    dataset : str or None
        Name of an array.
    series, channel, time : int or None
        Number of a series of pages, of a channel, and of a time.
    shape : tuple of int or None
        Numbers of voxels along x, y, z of a file of raw values.
    dtype : str or None
        dtype of raw values, such as "uint16" or ">u2".
    offset : int or None
        Number of bytes before raw values.
    allow_missing : bool
        Whether chunks that a zarr store lacks are taken as its fill value.
    """

    dataset: str | None = None
    series: int | None = None
    channel: int | None = None
    time: int | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    offset: int | None = None
    allow_missing: bool = False

    def check(self, path: Path, *allowed: str) -> None:
        """Refuse options that say nothing of this kind of file.

        Parameters
        ----------
        path : path
            The file, for the message.
        *allowed : str
            Names of the options that this kind of file knows.

        Raises
        ------
        ValueError
            If another option is given. `allow_missing` is taken by every file.
        """
        for option in fields(self):
            value = getattr(self, option.name)
            if value is not None and option.name not in (*allowed, "allow_missing"):
                msg = f"{option.name}={value!r} does not apply to {path}, a file of another kind; leave it out"
                raise ValueError(msg)


@dataclass(frozen=True)
class _Slabs:
    """The kernel that reads the rows of a file that have the given, consecutive numbers."""

    read: Callable[[int, int], Array]

    def __call__(self, numbers: NDArray[np.int64]) -> Array:
        return self.read(int(numbers[0]), int(numbers[-1]) + 1)


def slab_thickness(shape: Sequence[int], dtype: Any) -> int:
    """Choose the number of rows that a task reads: a power of two, so that the shards of a store can be as thick.

    Workers with little memory read fewer rows.
    """
    row_bytes = max(1, int(np.prod(shape[1:])) * np.dtype(dtype).itemsize)
    slab_bytes = min(SLAB_BYTES, int(Limit.of().task_bytes / SLABS_OF_A_TASK))
    return min(MOST_ROWS, 1 << max(0, (slab_bytes // row_bytes).bit_length() - 1))


def check_chunks(shape: Sequence[int], chunks: Sequence[int], dtype: Any, what: str) -> None:
    """Refuse an array in chunks that a worker cannot unpack. A chunk is unpacked as a whole, even for a part of it.

    Raises
    ------
    ValueError
        If a chunk does not fit. The message names the smallest limit that would do.
    """
    limit = Limit.of()
    n_chunks = int(np.prod([-(-n // step) for n, step in zip(shape, chunks, strict=True)]))
    limit = replace(limit, n_threads=max(1, min(limit.n_threads, n_chunks)))
    needed = COPIES_OF_A_CHUNK * int(np.prod(chunks)) * np.dtype(dtype).itemsize
    if needed > limit.task_bytes:
        of_size = f"unpacking a chunk of shape {tuple(map(int, chunks))} of {what}"
        raise limit.refusal(needed, of_size, "store it in smaller chunks, with the program that wrote it")


def lazy_slabs(read: Callable[[int, int], Array], shape: Sequence[int], dtype: Any) -> da.Array:
    """Make a lazy array from ``read(first, last)``, which returns the rows from `first` to `last`."""
    n, rest = int(shape[0]), tuple(int(size) for size in shape[1:])
    chunks = da.core.normalize_chunks((slab_thickness(shape, dtype),), (n,), dtype=np.int64)
    return da.arange(n, chunks=chunks).map_blocks(
        _Slabs(read),
        chunks=(chunks[0], *((size,) for size in rest)),
        new_axis=list(range(1, len(shape))),
        dtype=dtype,
        meta=np.empty((0,) * len(shape), dtype=dtype),
        token="read-image",
    )


def array_axes(n_axes: int) -> str:
    """Name the axes of an array whose file does not name them."""
    return "sxyz" if n_axes > 3 else "xyz"[:n_axes]


def chosen_dataset(
    dataset: str | None, names: Sequence[str], path: Path, *, none: str = "none that is an image"
) -> str:
    """Return the name of the array that is wanted, or of the only array that there is.

    Raises
    ------
    ValueError
        If there is no such array, or there are several. The message lists the arrays, or says `none`.
    """
    if dataset in names:
        return str(dataset)
    if dataset is None and len(names) == 1:
        return names[0]
    listed = ", ".join(names[:12]) + (", …" if len(names) > 12 else "") if names else none
    msg = f"{path} " + (f"has no dataset {dataset!r}" if dataset else "needs dataset=") + f"; there are: {listed}"
    raise ValueError(msg)


def check_inside(item: Any, path: Path | str) -> None:
    """Refuse a member of an HDF5 file whose values lie in another file, such as a private one of who imports it.

    Raises
    ------
    ValueError
        If it was reached by an external link, or if it is stored in external files, or is a virtual dataset.
    """
    is_dataset = isinstance(item, h5py.Dataset)
    if item.file.filename != str(path):
        how = f"is linked from another file, {item.file.filename}"
    elif is_dataset and item.external:
        how = f"is stored in another file, {item.external[0][0]}"
    elif is_dataset and item.is_virtual:
        how = "is a virtual dataset, which shows values of other datasets or files"
    else:
        return
    msg = (
        f"{path}: {item.name.strip('/')} {how}, and only values in the file itself are read; copy them into a file of "
        "their own by h5py, and import that"
    )
    raise ValueError(msg)


def mean_step(coordinates: Array) -> float:
    """Compute the mean distance of coordinates along an axis."""
    return float(np.mean(np.diff(coordinates.astype(float))))
