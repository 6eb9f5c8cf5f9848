"""Images that are opened but not read: lazy arrays, with the axes, spacing and units that their files state.

Every reader returns a `Source`. A kernel reads its values later, slab by slab along the first axis of the file. The
kernel holds only the path, so that workers open the file themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import dask.array as da
import h5py
import numpy as np
from numpy.typing import NDArray

from mksdask.arrays import Array
from mksdask.compute.faults import retried, retries
from mksdask.compute.graph import token_of
from mksdask.compute.plans import Limit

# Largest number of bytes, and of rows, of a slab that is read at once.
SLAB_BYTES = 2**27
MOST_ROWS = 2048
# A task takes so many slabs: the one that it reads, its phases, and the shards that are cut from them.
SLABS_OF_A_TASK = 3.5
# Unpacking a chunk takes so many times its bytes: those in the file, those of the chunk, and a copy.
COPIES_OF_A_CHUNK = 3
# Dask keeps some kB for each part, even if it is not read.
MOST_SLABS = 10**6


# Options that are taken by every file.
_FOR_ALL = ("axes", "join", "has_spacing", "allow_missing")
# The letter of the axis of the three Bunge angles of an orientation.
ANGLES = "a"


class AssumedWarning(UserWarning):
    """Something that a file does not say was assumed. The message names the argument that says it."""


@dataclass(frozen=True)
class Source:
    """An image that is opened but not read.

    Parameters
    ----------
    data : dask array
        Values, with the axes in the order of the file.
    axes : str
        One letter for each axis of `data`: x, y, z, s for samples, or a for the three Bunge angles of orientations, in
        radians, which are the last axis; such as "zyx".
    spacing : dict
        Voxel size along those of x, y, z for which the file states it.
    units : str or None
        Unit of the spacing, by the name of this package.
    assumed : tuple of str
        What the file does not say and the reader assumed, each with the argument that says it, such as "axes zyx
        assumed; say axes=". If a caller gives this argument, nothing is said.
    missing : float or None
        The value of voxels that were not measured, such as NaN. Their confidence is 0. None if all were measured.
    format : str
        Kind of file. By default it is the suffix.
    labels : tuple of str
        Labels of the samples. There are none if samples are numbered.
    beside : tuple of path
        Other files that hold values of the image.
    phases : tuple of str
        Names of the phases 0, 1, …, if the file states them.
    origin : dict
        Position of the first voxel along those of x, y, z for which the file states it, in the unit of the spacing.
        There is none if it is 0.
    """

    data: da.Array
    axes: str
    spacing: dict[str, float]
    units: str | None = None
    assumed: tuple[str, ...] = ()
    missing: float | None = None
    format: str = ""
    labels: tuple[str, ...] = ()
    beside: tuple[Path, ...] = ()
    phases: tuple[str, ...] = ()
    origin: dict[str, float] = field(default_factory=dict)


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
    axes : str or None
        Axes in the order of the file, if the caller names them.
    pattern : str or None
        Pattern of the names of the files to take from a folder, such as "slice*.tif".
    join : {"slices", "samples"}
        Whether several files, or pages without a name, are slices of one image, or samples of an ensemble.
    follow_links : bool
        Whether values in other files, outside the folder of the file, are read.
    has_spacing : bool
        Whether the caller gives the voxel size, so that none is read from the file.
    allow_missing : bool
        Whether chunks that a file lacks are taken as its fill value.
    """

    dataset: str | None = None
    series: int | None = None
    channel: int | None = None
    time: int | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    offset: int | None = None
    axes: str | None = None
    pattern: str | None = None
    join: str = "slices"
    follow_links: bool = False
    has_spacing: bool = False
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
            If another option is given. Some are taken by every file.
        """
        for option in fields(self):
            value = getattr(self, option.name)
            if value != option.default and option.name not in (*allowed, *_FOR_ALL):
                msg = f"{option.name}={value!r} does not apply to {path}, a file of another kind; leave it out"
                raise ValueError(msg)


@contextmanager
def reading(path: Path | str, what: str = "") -> Iterator[None]:
    """Turn any error of a library that reads a file into one that names the file and the remedy.

    Parameters
    ----------
    path : path
        The file.
    what : str
        The part of the file that is read, such as "rows 3 to 5".

    Raises
    ------
    ValueError
        If the file cannot be read. An error that names the file already stays as it is.
    """
    try:
        yield
    except MemoryError as error:
        msg = f"{path}: {what or 'it'} does not fit in memory; give workers more memory, or write it in smaller chunks"
        raise MemoryError(msg) from error
    except Exception as error:
        if isinstance(error, ValueError | ImportError) and str(path) in str(error):
            raise
        told = " ".join(str(error).split()) or "it gave no reason"
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        msg = (
            f"{path}: {what or 'it'} cannot be read ({kind}{told}); check that the file is whole, that its suffix says "
            "what it is, and that all workers see it, or save it again in the program that wrote it"
        )
        raise ValueError(msg) from error


@dataclass(frozen=True)
class _Slabs:
    """The kernel that reads the rows of a file that have the given, consecutive numbers."""

    read: Callable[[int, int], Array]
    n_retries: int

    def __call__(self, numbers: NDArray[np.int64]) -> Array:
        first, last = int(numbers[0]), int(numbers[-1]) + 1
        files = getattr(self.read, "files", None)
        with reading(files[first] if files else getattr(self.read, "path", "the file"), f"rows {first} to {last - 1}"):
            return retried(partial(self.read, first, last), self.n_retries)

    def __dask_tokenize__(self) -> str:
        # An import that goes on may retry more often than the one before.
        return token_of(self.read)


class SlabSize:
    """How many rows a task reads. Workers with little memory read fewer.

    Parameters
    ----------
    begun : int, optional
        Bytes of a slab in an import that an earlier call began, perhaps on workers of another size. Its slabs stay as
        they are where they fit.

    Attributes
    ----------
    n_bytes : int
        Bytes of a slab: those of the earlier call, unless some of its slabs do not fit.
    """

    def __init__(self, begun: int | None = None) -> None:
        self._most = min(SLAB_BYTES, int(Limit.of().task_bytes / SLABS_OF_A_TASK))
        self.n_bytes = self._begun = self._most if begun is None else begun

    def rows(self, shape: Sequence[int], dtype: Any) -> int:
        """Choose the number of rows of a slab: a power of two, so that the shards of a store can be as thick."""
        row_bytes = max(1, math.prod(map(int, shape[1:])) * np.dtype(dtype).itemsize)
        begun, most = (
            min(MOST_ROWS, 1 << max(0, (n_bytes // row_bytes).bit_length() - 1))
            for n_bytes in (self._begun, self._most)
        )
        if begun > most:
            self.n_bytes = self._most
        return min(begun, most)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let `lazy_slabs` cut slabs of this size inside the block."""
        token = _SIZE.set(self)
        try:
            yield
        finally:
            _SIZE.reset(token)


_SIZE: ContextVar[SlabSize | None] = ContextVar("slab size", default=None)


def check_chunks(shape: Sequence[int], chunks: Sequence[int], dtype: Any, what: str) -> None:
    """Refuse an array in chunks that a worker cannot unpack. A chunk is unpacked as a whole, even for a part of it.

    Raises
    ------
    ValueError
        If a chunk does not fit. The message names the smallest limit that would do.
    """
    limit = Limit.of()
    n_chunks = math.prod(-(-n // step) for n, step in zip(shape, chunks, strict=True))
    limit = replace(limit, n_threads=max(1, min(limit.n_threads, n_chunks)))
    needed = COPIES_OF_A_CHUNK * math.prod(map(int, chunks)) * np.dtype(dtype).itemsize
    if needed > limit.task_bytes:
        of_size = f"unpacking a chunk of shape {tuple(map(int, chunks))} of {what}"
        raise limit.refusal(needed, of_size, "store it in smaller chunks, with the program that wrote it")


def lazy_slabs(read: Callable[[int, int], Array], shape: Sequence[int], dtype: Any) -> da.Array:
    """Make a lazy array from ``read(first, last)``, which returns the rows from `first` to `last`."""
    n, rest = int(shape[0]), tuple(int(size) for size in shape[1:])
    n_rows = (_SIZE.get() or SlabSize()).rows(shape, dtype)
    if n > MOST_SLABS * n_rows:
        msg = (
            f"an array of shape {tuple(shape)} would be read in more than {MOST_SLABS} parts; store it in another shape"
        )
        raise ValueError(msg)
    chunks = da.core.normalize_chunks((n_rows,), (n,), dtype=np.int64)
    return da.arange(n, chunks=chunks).map_blocks(
        _Slabs(read, retries()),
        chunks=(chunks[0], *((size,) for size in rest)),
        new_axis=list(range(1, len(shape))),
        dtype=dtype,
        meta=np.empty((0,) * len(shape), dtype=dtype),
        token="read-image",
    )


def lazy_view(array: Any, chunks: Sequence[int], name: str) -> da.Array:
    """Make a lazy array of anything with shape, dtype and an index, in the given chunks."""
    return da.from_array(array, chunks=tuple(chunks), name=name)


def array_axes(n_axes: int) -> str:
    """Name the axes of an array whose file does not name them."""
    return "sxyz" if n_axes > 3 else "xyz"[:n_axes]


def chosen_dataset(dataset: str | None, names: Sequence[str], path: Path) -> str:
    """Return the name of the array that is wanted, or of the only array that there is.

    Raises
    ------
    ValueError
        If there is no such array, or there are several. The message lists the arrays.
    """
    if dataset in names:
        return str(dataset)
    if dataset is None and len(names) == 1:
        return names[0]
    listed = ", ".join(names[:12]) + ", …" * (len(names) > 12) or "none that is an image"
    msg = f"{path} " + (f"has no dataset {dataset!r}" if dataset else "needs dataset=") + f"; there are: {listed}"
    raise ValueError(msg)


def checked_place(target: str, path: Path, name: str, home: Path, *, follow_links: bool) -> Path:
    """Return the path of a file that a member of a file names, if it may be read.

    Raises
    ------
    ValueError
        If it is outside the folder `home` and `follow_links` is not set, or if it is not there.
    """
    place = (path.parent / target).resolve()
    if not follow_links and not place.is_relative_to(home.resolve()):
        msg = (
            f"{path}: {name} links to {target}, outside the folder of the file, and such links are followed only by "
            "request; if you trust the file, pass follow_links=True, or --follow-links to mksdask import"
        )
        raise ValueError(msg)
    if not place.is_file():
        msg = f"{path}: {name} links to {target}, which is not there; put it into the folder of the file"
        raise ValueError(msg)
    return place


def members(group: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """List the names and members of an HDF5 group.

    An iterator over ``group.items()`` holds the lock of h5py until its end. If an error stops the loop, whoever keeps
    the error keeps the lock, and every other thread that opens a file waits for ever.
    """
    return list(group.items())


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


def assumed_axes(axes: str, reason: str = "") -> tuple[str, ...]:
    """Say that the order of axes was assumed. There is nothing to assume of one axis."""
    return (f"axes {axes} assumed{reason}; say axes=",) if len(axes) > 1 else ()
