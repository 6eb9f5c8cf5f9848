"""Images in files of netCDF 3. Files of netCDF 4 are HDF5 files."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import netcdf_file

from mksdask.arrays import Array
from mksdask.importers.formats.dims import Selection, even_step, placed, select, sized, unread_sizes
from mksdask.importers.formats.packing import Packing
from mksdask.importers.sources import Choice, Source, chosen_dataset, lazy_slabs


@contextmanager
def _opened(path: Path) -> Iterator[netcdf_file]:
    """Open a file. What is read of it is mapped, not loaded, and must be copied."""
    file = netcdf_file(path, "r", mmap=True, maskandscale=False)
    try:
        yield file
    finally:
        with warnings.catch_warnings():
            # Arrays that an error keeps alive may outlast the file, and SciPy warns of them.
            warnings.simplefilter("ignore", RuntimeWarning)
            file.close()


@dataclass(frozen=True)
class _NetCdf3:
    """The kernel that reads rows of a variable of a netCDF 3 file."""

    path: Path
    name: str
    selection: Selection
    packing: Packing

    def __call__(self, first: int, last: int) -> Array:
        with _opened(self.path) as file:
            # The rows are copied, because mapped memory may not outlive the file.
            return np.array(self.packing.unpack(self.selection.read(file.variables[self.name].data, first, last)))


def is_classic_netcdf(path: Path) -> bool:
    """Whether a file is of netCDF 3, which is not HDF5."""
    with path.open("rb") as file:
        return file.read(3) == b"CDF"


def open_netcdf3(path: Path, choice: Choice) -> Source:
    """Open one variable of a netCDF 3 file."""
    choice.check(path, "dataset", "channel", "time")
    with _opened(path) as file:
        images = [name for name, item in file.variables.items() if len(item.shape) >= 2]
        name = chosen_dataset(choice.dataset, images, path)
        array = file.variables[name]
        selection = select(array.dimensions, array.data.shape, choice, path)
        packing = Packing.of(_attributes(array), array.data.dtype)
        kept = [dim for dim, part in zip(array.dimensions, selection.index, strict=True) if isinstance(part, slice)]
        sizes: dict[str, float] = {}
        places: dict[str, float] = {}
        stated: dict[str, Any] = {}
        told: list[str] = []
        for dim, axis in zip(kept, selection.axes, strict=True):
            beside = file.variables.get(dim)
            if axis in "xyz" and beside is not None and beside.dimensions == (dim,) and len(beside.data) > 1:
                sizes[axis], more = even_step(np.array(beside.data), axis)
                places[axis] = float(beside.data[0])
                told += more
                stated[axis] = getattr(beside, "units", None)
        if not sizes:
            told += unread_sizes(_attributes(array), _attributes(file))
        del array
    steps, unit, more = sized(sizes, stated, choice, path)
    data = lazy_slabs(_NetCdf3(path, name, selection, packing), selection.shape, np.dtype(packing.dtype))
    told, origin = [*selection.assumed, *told, *more], placed(places, sizes, steps)
    return Source(data, selection.axes, steps, unit, tuple(told), packing.missing, origin=origin)


def _attributes(variable: Any) -> dict[str, Any]:
    return dict(variable._attributes)
