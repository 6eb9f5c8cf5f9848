"""HDF5 files whose values lie elsewhere: links, external storage and virtual datasets, each checked before it is read.

A file of another person may link to any file that its reader may read. Files in its own folder are followed, and other
files only by request. Packed chunks need filters, which are looked for before anything is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import psutil

from mksdask.arrays import warn_caller
from mksdask.importers.sources import checked_place

# This package registers its filters when it is imported. Without it, chunks that need them are refused on opening.
with suppress(ImportError):
    import hdf5plugin  # noqa: F401

# So many links may follow each other. A circle of links is longer.
MOST_LINKS = 50
# Numbers of the filters that the package hdf5plugin holds, and of others, as the HDF Group has registered them.
FILTERS = {
    4: "szip", 305: "LZO", 307: "bzip2", 32000: "LZF", 32001: "Blosc", 32004: "LZ4", 32008: "bitshuffle", 32013: "ZFP",
    32014: "FPZIP", 32015: "Zstandard", 32017: "SZ", 32018: "FCIDECOMP", 32019: "JPEG", 32024: "SZ3", 32026: "Blosc2",
}  # fmt: skip


@contextmanager
def opened(path: Path, name: str) -> Iterator[h5py.Dataset]:
    """Open a dataset of a file.

    Raises
    ------
    ValueError
        If a link in `name` leads to another file.
    """
    with h5py.File(path, "r") as file:
        dataset = file[name]
        if dataset.file.filename != str(path):
            msg = f"{path}: {name} is linked from another file, {dataset.file.filename}; import that file"
            raise ValueError(msg)
        yield dataset


def followed(path: Path, name: str, *, follow_links: bool) -> tuple[Path, str] | None:
    """Follow all links in the name of a member of a file.

    Parameters
    ----------
    path : path
        The file.
    name : str
        Name of a member.
    follow_links : bool
        Whether links to files outside the folder of `path` are followed.

    Returns
    -------
    path : path
        The file in which the member is.
    name : str
        Its name there, in which no part is a link. None in place of both if there is no such member.

    Raises
    ------
    ValueError
        If a link leads to a file outside the folder and `follow_links` is not set, or links form a circle.
    """
    home = path.parent
    parts, done = _parts(name), []
    for _ in range(MOST_LINKS):
        with h5py.File(path, "r") as file:
            group: Any = file
            while parts:
                if not isinstance(group, h5py.Group) or (link := group.get(parts[0], getlink=True)) is None:
                    return None
                if not isinstance(link, h5py.HardLink):
                    break
                done.append(parts.pop(0))
                group = group[done[-1]]
        if not parts:
            return path, "/".join(done)
        if isinstance(link, h5py.ExternalLink):
            path = checked_place(link.filename, path, "/".join((*done, parts[0])), home, follow_links=follow_links)
            parts, done = [*_parts(link.path), *parts[1:]], []
        else:
            parts, done = [*([] if link.path.startswith("/") else done), *_parts(link.path), *parts[1:]], []
    msg = f"{path}: {name} is a link that leads over more than {MOST_LINKS} others; give the dataset itself as dataset="
    raise ValueError(msg)


def _parts(name: str) -> list[str]:
    return [part for part in PurePosixPath(name).parts if part not in ("/", ".")]


def check_readable(dataset: h5py.Dataset, path: Path, name: str, *, follow_links: bool, allow_missing: bool) -> None:
    """Check that the values of a dataset may and can be read, before anything is allocated.

    Raises
    ------
    ImportError
        If a filter of the chunks is not installed.
    ValueError
        If values lie outside the folder of the file, and `follow_links` is not set; or if values are missing, and
        `allow_missing` is not set.
    """
    if dataset.is_virtual:
        for source in dataset.virtual_sources():
            place = path
            if source.file_name != ".":
                place = checked_place(source.file_name, path, name, path.parent, follow_links=follow_links)
            shown = source.dset_name.strip("/")
            if not follow_links and followed(place, shown, follow_links=False) != (place, shown):
                msg = f"{path}: {name} shows {shown} of {place}, which is linked or not there; import that file"
                raise ValueError(msg)
            with opened(place, shown) as inner:
                if inner.is_virtual:
                    msg = f"{path}: {name} shows {shown} of {place}, which shows other data itself; import that file"
                    raise ValueError(msg)
                check_readable(inner, place, shown, follow_links=follow_links, allow_missing=allow_missing)
        return
    plan = dataset.id.get_create_plist()
    for number in range(plan.get_nfilters()):
        code = plan.get_filter(number)[0]
        if not h5py.h5z.filter_avail(code):
            msg = (
                f"{path}: {name} is packed by the filter {FILTERS.get(code, 'of an unknown name')} (number {code}), "
                "which is not installed; install the package hdf5plugin, as pip install 'mksdask[hdf5]' does, or save "
                "the file without it"
            )
            raise ImportError(msg)
    wanted = dataset.size * dataset.dtype.itemsize
    if dataset.external:
        outside(dataset, path, name, follow_links=follow_links)
        return
    if dataset.chunks is not None:
        part, free = math.prod(dataset.chunks) * dataset.dtype.itemsize, int(psutil.virtual_memory().available)
        if part > free:
            msg = (
                f"{path}: a chunk of {name} has {part} bytes and is unpacked as a whole, but only {free} bytes of "
                "memory are free; rechunk it, as by h5repack -l"
            )
            raise ValueError(msg)
        n_chunks = math.prod(-(-n // size) for n, size in zip(dataset.shape, dataset.chunks, strict=True))
        n_missing = n_chunks - dataset.id.get_num_chunks()
        told = f"{path} lacks {n_missing} of {n_chunks} chunks of {name}"
    else:
        n_missing = int(wanted > 0 and dataset.id.get_storage_size() == 0)
        told = f"{path} holds no values of {name}, only its shape {dataset.shape}"
    if n_missing and not allow_missing:
        msg = (
            f"{told}. If its author left them out because they hold nothing but {dataset.fillvalue}, pass "
            "allow_missing=True, or --allow-missing to mksdask import. Otherwise get a whole copy of it"
        )
        raise ValueError(msg)
    if n_missing:
        warn_caller(f"{told}; they are read as {dataset.fillvalue}")


def outside(dataset: h5py.Dataset, path: Path, name: str, *, follow_links: bool) -> tuple[Path, int] | None:
    """Return the file that holds the values of a dataset in place of its own, and where they begin. None if none does.

    Raises
    ------
    ValueError
        If it is outside the folder of `path` and `follow_links` is not set, or is too short, or if there are several.
    """
    if not dataset.external:
        return None
    if len(dataset.external) > 1:
        msg = (
            f"{path}: {name} is stored in {len(dataset.external)} other files; copy it into a file of its own, by h5py"
        )
        raise ValueError(msg)
    target, offset, _ = dataset.external[0]
    place = checked_place(target, path, name, path.parent, follow_links=follow_links)
    wanted = dataset.size * dataset.dtype.itemsize
    # HDF5 reads zeros beyond the end of such a file.
    if place.stat().st_size < offset + wanted:
        msg = f"{path}: {name} needs {wanted} bytes of {place} from byte {offset} on, but the file is shorter"
        raise ValueError(msg)
    return place, int(offset)
