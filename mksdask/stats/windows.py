"""Windows of one volume as an ensemble. They are read from the store of the volume when they are used."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mksdask.arrays import Array, ArrayLike, dims_of, shown, sizes_argument, unwrap_volume
from mksdask.compute.blocks import NamedArray, map_samples
from mksdask.compute.graph import stored_array
from mksdask.compute.plans import refuse_unless_fits, samples_per_chunk
from mksdask.samples import Grid
from mksdask.schema.arguments import checked


def _cut(numbers: NDArray[np.int64], *, source: Any, corners: NDArray[np.int64], size: tuple[int, ...]) -> Array:
    """Read the windows of some numbers: (n, *size, ...)."""
    source = source.array if isinstance(source, NamedArray) else source
    out = np.empty((len(numbers), *size, *source.shape[len(size) :]), dtype=source.dtype)
    for target, corner in zip(out, corners[numbers], strict=True):
        target[...] = np.asarray(source[tuple(slice(s, s + n) for s, n in zip(corner.tolist(), size, strict=True))])
    return out


def window_corners(
    spatial: Sequence[int],
    size: Sequence[int],
    stride: int | Sequence[int] | None = None,
    n: int | None = None,
    seed: int | None = None,
) -> NDArray[np.int64]:
    """Choose the first voxels of windows, (n_windows, n_axes): on a regular grid in C order, or `n` at random."""
    room = np.array(spatial) - np.array(size)
    if n is not None:
        rng = np.random.default_rng(np.random.SeedSequence(seed))
        return rng.integers(0, room + 1, size=(n, len(room)))
    steps = np.broadcast_to(np.asarray(size if stride is None else stride), len(room))
    axes = [np.arange(0, free + 1, step) for free, step in zip(room.tolist(), steps.tolist(), strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(room))


@checked
def sample_windows(
    volume: ArrayLike,
    *,
    size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    n: int | None = None,
    seed: int | None = None,
    chunks: int | None = None,
) -> Any:
    """Cut windows from a volume and return them as the samples of an ensemble, lazily.

    With windows, models for ensembles can be used on one large volume.

    Parameters
    ----------
    volume : array, shape (*spatial,) or (*spatial, n_components)
        NumPy, zarr, dask, or a variable of the Dataset that `open_volume` returns.
    size : int or sequence of int
        Number of voxels of a window along each spatial axis. A single number stands for all axes of the volume, except
        the last axis of a DataArray if its name is ``angle``.
    stride : int or sequence of int, optional
        Number of voxels from one window to the next on a regular grid. If it is smaller than `size`, windows overlap.
        Default: `size`, so that windows stand side by side.
    n : int, optional
        Cut this number of windows at random places instead of a grid. Each place has the same probability, and windows
        may overlap.
    seed : int, optional
        Seed of the random places. The same seed gives the same windows.
    chunks : int, optional
        Number of windows in a chunk. Default: windows of a few million voxels together.

    Returns
    -------
    dask array or DataArray, shape (n_windows, *size) or (n_windows, *size, n_components)
        A DataArray if the volume is labelled. Its spatial coordinates start at the corner of the window. The
        coordinates ``corner_x``, … along ``sample`` say where this corner lies in the volume. If the volume is a sample
        of an ensemble, ``volume`` is its label. Windows of a periodic volume are not periodic.

    Raises
    ------
    ValueError
        If a window is larger than the volume, if `n` and `stride` are both given, or if `n` is given without `seed`.

    Notes
    -----
    The volume is not copied. Each task reads its windows from the store of the volume. If the volume is a lazy array
    that is not stored, windows are cut from its chunks.

    Examples
    --------
    >>> import numpy as np
    >>> volume = np.arange(24).reshape(4, 6)
    >>> sample_windows(volume, size=(2, 3)).compute()[1].tolist()
    [[3, 4, 5], [9, 10, 11]]
    >>> sample_windows(volume, size=2, n=100, seed=0).shape
    (100, 2, 2)
    """
    data, labels = unwrap_volume(volume)
    wanted = sizes_argument(size)
    n_spatial = data.ndim - (dims_of(labels)[-1:] == ("angle",)) if isinstance(size, int | np.integer) else len(wanted)
    wanted = wanted * n_spatial if isinstance(size, int | np.integer) else wanted
    spatial = tuple(int(m) for m in data.shape[:n_spatial])
    if n_spatial > data.ndim or any(w > m for w, m in zip(wanted, spatial, strict=True)):
        msg = f"size={size!r} must be no larger than the volume of {spatial} voxels"
        raise ValueError(msg)
    if stride is not None:
        steps = sizes_argument(stride, name="stride")
        if n is not None or len(steps) not in (1, n_spatial):
            msg = f"stride must be one number, or one for each axis, and is not allowed with n; got {stride=} and {n=}"
            raise ValueError(msg)
    is_count = isinstance(n, int | np.integer) and not isinstance(n, bool) and 1 <= n < 2**63
    if n is not None and is_count and seed is None:
        msg = f"n={n} windows need the seed of their places too; pass it, such as seed=0"
        raise ValueError(msg)
    if n is not None and not is_count:
        msg = f"n must be a positive number of windows, got {shown(n)}"
        raise ValueError(msg)
    if n is not None:
        refuse_unless_fits(16 * n * n_spatial, f"n={n} windows", "take fewer")
    corners = window_corners(spatial, wanted, stride, n, seed)
    rows = samples_per_chunk(len(corners), int(np.prod(wanted)))
    if chunks is not None:
        (rows,) = (0,) if not isinstance(chunks, int | np.integer) else sizes_argument(chunks, name="chunks")
    if not rows:
        msg = f"chunks must be a positive number of windows, got {shown(chunks)}"
        raise ValueError(msg)
    windows = _windows(data, corners, wanted, rows)
    return windows if labels is None else _labelled(windows, labels, corners, wanted)


def _windows(data: Any, corners: NDArray[np.int64], size: tuple[int, ...], rows: int) -> da.Array:
    tail = data.shape[len(size) :]
    source = stored_array(data)
    if source is None:
        cuts = [data[tuple(slice(s, s + m) for s, m in zip(corner, size, strict=True))] for corner in corners.tolist()]
        return da.stack(cuts).rechunk((rows, *size, *tail))
    if isinstance(data, da.Array):
        # The name of a view of a store is the same in every process.
        source = NamedArray(source, str(data.name))
    return map_samples(
        partial(_cut, size=size),
        da.arange(len(corners), chunks=rows),
        tail=(*size, *tail),
        dtype=data.dtype,
        name="cut-windows",
        options={"source": source, "corners": corners},
    )


def _labelled(
    windows: da.Array, labels: xr.DataArray, corners: NDArray[np.int64], size: tuple[int, ...]
) -> xr.DataArray:
    # What is said of the whole volume is said of each window, but the name "sample" is that of the windows now.
    coords: dict[str, Any] = {
        str(k): v for k, v in labels.coords.items() if v.dims in (labels.dims[len(size) :], ()) and k != "sample"
    }
    if "sample" in labels.coords:
        coords["volume"] = labels.coords["sample"].drop_vars("sample")
    for axis, (dim, step, units) in enumerate(Grid.of(labels, labels.shape[: len(size)], first=0).axes):
        origin = float(labels.coords[dim][0]) if dim in labels.coords else 0.0
        coords[dim] = (dim, np.arange(size[axis]) * step, {"units": units, "spacing": step})
        coords[f"corner_{dim}"] = ("sample", origin + corners[:, axis] * step, {"units": units})
    attrs = {name: value for name, value in labels.attrs.items() if name not in ("periodic_axes", "periods")}
    return xr.DataArray(windows, dims=("sample", *labels.dims), coords=coords, name=labels.name, attrs=attrs)
