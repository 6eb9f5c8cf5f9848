"""Windows that lie side by side in an image, cut while it is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mksdask.arrays import Array, concatenate_samples, sizes_argument
from mksdask.stats.windows import window_corners

# Number of bytes of the windows that are cut together.
BAND_BYTES = 2**25


@dataclass(frozen=True)
class _Cut:
    """The kernel that cuts a band, with the axes of the file and one window thick, into windows with the store's axes.

    Parameters
    ----------
    window : tuple of int
        Size of a window, with the axes in the order of the file.
    order : tuple of int
        Position in the file of each axis of the store.
    """

    window: tuple[int, ...]
    order: tuple[int, ...]

    def __call__(self, slab: Array) -> Array:
        counts = [n // size for n, size in zip(slab.shape, self.window, strict=True)]
        n_axes = slab.ndim
        split = slab.reshape([n for pair in zip(counts, self.window, strict=True) for n in pair])
        places = [2 * axis for axis in self.order] + [2 * axis + 1 for axis in self.order]
        return split.transpose(places).reshape(-1, *(self.window[axis] for axis in self.order[:n_axes]))


def corner_coordinates(
    shape: Sequence[int],
    size: Sequence[int],
    steps: Mapping[str, float],
    units: str,
    first: Mapping[str, int],
    slow: int,
) -> dict[str, Any]:
    """Say where windows that lie side by side begin in their image: the coordinates ``corner_x``, … along ``sample``.

    Parameters
    ----------
    shape, size : sequence of int
        Voxels of the image and of a window along each axis of the store.
    steps : dict of str to float
        Voxel size along each of these axes.
    units : str
        Unit of the voxel sizes.
    first : dict of str to int
        First voxel of the image along axes that were cropped.
    slow : int
        Axis of the store that is the first one of the file.
    """
    corners = window_corners(shape, size)
    # Windows follow each other by slabs of the file, and in a slab as in the store.
    corners = corners[np.argsort(corners[:, slow], kind="stable")]
    return {
        f"corner_{axis}": ("sample", (first.get(axis, 0) + corners[:, i]) * step, {"units": units})
        for i, (axis, step) in enumerate(steps.items())
    }


def cut_windows(data: Any, order: str, spatial: str, window: int | Sequence[int]) -> Any:
    """Cut an image into windows that lie side by side.

    Parameters
    ----------
    data : dask array
        The image, with the axes in the order of the file.
    order : str
        These axes, such as "zyx".
    spatial : str
        The axes of the store, such as "xyz".
    window : int or sequence of int
        Number of voxels along each axis of the store.

    Returns
    -------
    dask array, (n_windows, *window)
        Windows along the last axis of the store change fastest. Voxels beyond the last whole window are left out.

    Raises
    ------
    ValueError
        If a window does not fit into the image.
    """
    sizes = sizes_argument(window, name="window")
    sizes = sizes * len(spatial) if len(sizes) == 1 else sizes
    in_file = tuple(sizes[spatial.index(axis)] for axis in order) if len(sizes) == len(spatial) else ()
    if not in_file or any(size > n for size, n in zip(in_file, data.shape, strict=True)):
        shape = tuple(data.shape[order.index(axis)] for axis in spatial)
        msg = (
            f"window must be one size, or one for each axis, that fits into the image of {shape} voxels, got "
            f"{window!r}; give smaller windows, or as many numbers as axes"
        )
        raise ValueError(msg)
    in_store = tuple(order.index(axis) for axis in spatial)
    counts = [n // size for n, size in zip(data.shape, in_file, strict=True)]
    whole = data[tuple(slice(0, n * size) for n, size in zip(counts, in_file, strict=True))]
    chunks: list[Any] = [in_file[0], *(-1,) * (data.ndim - 1)]
    if data.ndim > 1:
        # A slab is cut into bands along the slowest axis of the order of windows, so that this order stays.
        across = next(axis for axis in in_store if axis)
        row_bytes = data.dtype.itemsize * int(np.prod(in_file)) * int(np.prod(counts[1:])) // counts[across]
        chunks[across] = in_file[across] * max(1, BAND_BYTES // row_bytes)
    bands = whole.rechunk(chunks)
    cut = _Cut(in_file, in_store)
    parts = []
    for block in np.ndindex(*bands.numblocks):
        band = bands.blocks[block]
        n_each = int(np.prod([n // size for n, size in zip(band.shape, in_file, strict=True)]))
        parts.append(
            band.map_blocks(
                cut,
                chunks=((n_each,), *((size,) for size in sizes)),
                new_axis=data.ndim,
                dtype=data.dtype,
                meta=np.empty((0,) * (data.ndim + 1), dtype=data.dtype),
                token="cut-windows",
            )
        )
    return concatenate_samples(parts)
