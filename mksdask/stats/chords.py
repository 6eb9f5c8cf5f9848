"""Chords of a phase along the axes of a volume, and the lineal-path function.

A line is a row of voxels along an axis. A chord is a run of voxels of one phase in a line. Each task reads a pencil, a
bundle of whole lines, so that no chord is cut where two pencils meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numba
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mksdask.arrays import Array, ArrayLike, axes_argument, integers, is_lazy, unwrap_volume
from mksdask.compute.blocks import array_of, fold_parts
from mksdask.compute.graph import stored_array
from mksdask.compute.plans import Limit
from mksdask.samples import Grid
from mksdask.stats.phases import phases_argument

PENCIL_VOXELS = 2**25
# Bytes of a voxel beside those that are read: whether it has the phase, and the same again in the order of lines.
COPIES = 2

_jit = numba.njit(cache=True, nogil=True)


@_jit
def _count_chords(lines, wraps, whole, cut):  # type: ignore[no-untyped-def]
    """Count runs of True in lines (n_lines, n) by their length.

    `whole` counts runs with both ends inside the line, `cut` those that a border cuts or that fill a periodic line.
    """
    n = lines.shape[1]
    for i in range(lines.shape[0]):
        line = lines[i]
        first = 0
        if wraps:
            # The line starts at a voxel of another phase, so that no run is counted in two parts.
            while first < n and line[first]:
                first += 1
            if first == n:
                cut[n] += 1
                continue
        length = 0
        starts_inside = wraps
        for step in range(n):
            position = first + step
            if position >= n:
                position -= n
            if line[position]:
                length += 1
                continue
            if length > 0:
                if starts_inside:
                    whole[length] += 1
                else:
                    cut[length] += 1
            length = 0
            starts_inside = True
        if length > 0:
            if wraps:
                whole[length] += 1
            else:
                cut[length] += 1


@dataclass(frozen=True)
class _Chords:
    """The kernel of one pencil. It counts whole chords and cut chords by length: (2, n + 1)."""

    phase: int
    axis: int
    wraps: bool

    def __call__(self, box: tuple[slice, ...], source: Any) -> NDArray[np.int64]:
        block = np.asarray(source[box])
        lines = np.ascontiguousarray(np.moveaxis(block == self.phase, self.axis, -1)).reshape(
            -1, block.shape[self.axis]
        )
        counts = np.zeros((2, lines.shape[1] + 1), dtype=np.int64)
        _count_chords(lines, self.wraps, counts[0], counts[1])
        return counts


def _pencils(data: Any, axis: int) -> list[tuple[slice, ...]]:
    """Cut a volume into boxes of whole lines along an axis, with at most `PENCIL_VOXELS` voxels that fit into a task.

    Raises
    ------
    ValueError
        If a single line does not fit.
    """
    spatial, limit = tuple(int(n) for n in data.shape), Limit.of()
    voxel_bytes = data.dtype.itemsize * (1 if stored_array(data) is not None else 2) + COPIES
    lines = min(PENCIL_VOXELS, limit.task_bytes // voxel_bytes) // spatial[axis]
    if not lines and limit.task_bytes < voxel_bytes * spatial[axis]:
        raise limit.refusal(voxel_bytes * spatial[axis], f"a line of {spatial[axis]} voxels", "rechunk the volume")
    edge = max(1, int(max(1, lines) ** (1.0 / max(1, len(spatial) - 1))))
    boxes: list[tuple[slice, ...]] = [()]
    for other, n in enumerate(spatial):
        # A block of the volume that is cut is read once for each of its parts, so boxes hold whole blocks if they can.
        block = data.chunksize[other] if is_lazy(data) else 1
        step = n if other == axis else edge - edge % block if edge > block else edge
        boxes = [(*box, slice(i, min(i + step, n))) for box in boxes for i in range(0, n, step)]
    return boxes


def _counts(volume: ArrayLike, phase: int, axis: int, *, wraps: bool) -> Any:
    """Count the chords along an axis by length, as a delayed array (2, n + 1)."""
    data, _ = unwrap_volume(volume)
    kernel, boxes, source = _Chords(int(phase), axis, wraps), _pencils(data, axis), stored_array(data)
    if source is not None:
        parts = [(box,) for box in boxes]
        return fold_parts(kernel, np.add, parts, name="count-chords", shared=(source,), of=(data,))
    blocks = [data[box].rechunk(-1).to_delayed(optimize_graph=False).item() for box in boxes]
    return fold_parts(kernel, np.add, [((), block) for block in blocks], name="count-chords", of=())


def _arguments(
    volume: ArrayLike, phase: Any, axes: int | Sequence[int] | None, periodic_axes: int | Sequence[int] | None
) -> tuple[Any, list[int], Grid]:
    """Check arguments, and return the data of the volume, the axes along which chords run, and the grid."""
    data, labels = phases_argument(volume, phase)
    grid = Grid.of(labels, data.shape, periodic_axes, first=0)
    chosen = list(range(data.ndim)) if axes is None else _ordered(axes, data.ndim)
    return data, chosen, grid


def _ordered(axes: Any, n_axes: int) -> list[int]:
    """Check numbers of axes, and return them in their order."""
    axes_argument(axes, n_axes, name="axes")
    found = integers(axes)
    return [] if found is None else found.tolist()


def chord_lengths(
    volume: ArrayLike,
    phase: int,
    *,
    axes: int | Sequence[int] | None = None,
    periodic_axes: int | Sequence[int] | None = None,
) -> xr.Dataset:
    """Count the chords of a phase along each axis by their length.

    The distribution of chord lengths describes how wide a phase is in each direction.

    Parameters
    ----------
    volume : array, shape (*spatial,)
        Phase number of each voxel, with 1 to 3 axes and any chunks: NumPy, zarr, dask, or a variable of the Dataset
        that `open_volume` returns.
    phase : int
        Number of the phase.
    axes : sequence of int, optional
        Axes along which chords run. Default: all axes.
    periodic_axes : sequence of int, optional
        Numbers of the periodic axes. Default: those in the attribute ``periodic_axes`` of a DataArray, or none.

    Returns
    -------
    xarray.Dataset
        For each axis, ``chords_x``, … counts the chords with both ends inside the volume, and ``cut_x``, … counts those
        that a face cuts or that run all around a periodic axis. Their dims are ``length_x``, …, in the units of the
        volume. The result is lazy.

    Raises
    ------
    ValueError
        If the volume does not hold phase numbers, or an axis does not exist.

    Notes
    -----
    A task reads whole lines along the axis, about 30 million voxels together, or fewer if the worker is small. The
    result is exact for any chunks.

    References
    ----------
    Torquato, S. Random Heterogeneous Materials. Springer, 2002, section 2.5.

    Examples
    --------
    >>> import numpy as np
    >>> chord_lengths(np.array([1, 0, 0, 1, 0, 1, 1]), phase=0).chords_x.values.tolist()
    [1, 1, 0, 0, 0, 0, 0]
    """
    data, chosen, grid = _arguments(volume, phase, axes, periodic_axes)
    found: dict[str, Any] = {}
    for axis in chosen:
        n, (dim, step, units) = int(data.shape[axis]), grid.axes[axis]
        counts = _counts(volume, phase, axis, wraps=grid.periodic[axis])
        array = array_of(counts, (2, n + 1), np.int64, name="chords")[:, 1:]
        lengths = (f"length_{dim}", np.arange(1, n + 1) * step, {"units": units})
        for row, name in enumerate(("chords", "cut")):
            found[f"{name}_{dim}"] = xr.DataArray(array[row], dims=f"length_{dim}", coords={f"length_{dim}": lengths})
    return xr.Dataset(found)


def _lineal_path(counts: NDArray[np.int64], *, n: int, n_lines: int, n_lags: int, wraps: bool) -> Array:
    """Compute the share of the segments of r + 1 voxels that lie in the phase, for r = 0 … n_lags - 1."""
    lags = np.arange(n_lags)
    lengths = np.arange(n + 1)
    segments = np.maximum(lengths[None] - lags[:, None], 0)
    if wraps:
        inside = segments @ counts[0] + n * counts[1, n]  # all segments of a line that the phase fills lie in it
        return np.asarray(inside / (n_lines * n))
    return np.asarray(segments @ counts.sum(axis=0) / (n_lines * (n - lags)))


def lineal_path(
    volume: ArrayLike,
    phase: int,
    *,
    cutoff: int | None = None,
    axes: int | Sequence[int] | None = None,
    periodic_axes: int | Sequence[int] | None = None,
) -> xr.Dataset:
    """Compute the lineal-path function: the probability that a segment of a given length lies wholly in a phase.

    Segments run along the axes.

    Parameters
    ----------
    volume, phase, axes, periodic_axes
        As in `chord_lengths`.
    cutoff : int, optional
        Length of the longest segment, in steps from voxel to voxel. Default: the longest that fits into the axis.

    Returns
    -------
    xarray.Dataset
        For each axis, ``lineal_path_x``, … with the dim ``lag_x``, …, for segments of 0 to `cutoff` steps. At lag 0 it
        is the volume fraction. The result is lazy.

    Raises
    ------
    ValueError
        As in `chord_lengths`, or if `cutoff` is too large for an axis.

    References
    ----------
    Lu, B., Torquato, S. Lineal-path function for random heterogeneous materials. Phys. Rev. A 45 (1992) 922.

    Examples
    --------
    >>> import numpy as np
    >>> lineal_path(np.array([1, 0, 0, 1, 0, 0]), phase=0, cutoff=2).lineal_path_x.values.round(3).tolist()
    [0.667, 0.4, 0.0]
    """
    data, chosen, grid = _arguments(volume, phase, axes, periodic_axes)
    found: dict[str, Any] = {}
    for axis in chosen:
        n, (dim, step, units) = int(data.shape[axis]), grid.axes[axis]
        longest = n - 1 if cutoff is None else cutoff
        if not isinstance(longest, int | np.integer) or not 0 <= longest < n:
            msg = f"cutoff must be an integer from 0 to {n - 1}, the steps along axis {axis}; got {cutoff!r}"
            raise ValueError(msg)
        kernel = partial(
            _lineal_path, n=n, n_lines=int(np.prod(data.shape)) // n, n_lags=longest + 1, wraps=grid.periodic[axis]
        )
        counts = _counts(volume, phase, axis, wraps=grid.periodic[axis])
        values = array_of(counts, (longest + 1,), np.float64, name="lineal-path", function=kernel)
        lags = (f"lag_{dim}", np.arange(longest + 1) * step, {"units": units})
        found[f"lineal_path_{dim}"] = xr.DataArray(values, dims=f"lag_{dim}", coords={f"lag_{dim}": lags})
    return xr.Dataset(found)
