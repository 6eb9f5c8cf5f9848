"""What X is: the `Samples` of an ensemble, or one `Volume`, each on its `Grid`.

A public function that expands X in a basis makes them once, from its arguments. All code below takes these objects, so
it need not find out again what X is: there is always a grid, and there is always a basis. The physics, which reads
phases or angles and no basis, takes a `Grid` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import DTypeLike

from mksdask.arrays import (
    SPATIAL_DIMS,
    Array,
    ArrayLike,
    dims_of,
    is_lazy,
    is_trial_of_dask_ml,
    label,
    refuse_unnumeric,
    sizes_argument,
    unwrap,
    unwrap_samples,
    unwrap_volume,
)
from mksdask.bases.base import Basis
from mksdask.bases.given import local_states, trailing_axes
from mksdask.compute.blocks import check_whole_samples, map_samples
from mksdask.compute.graph import check_known, stored_array
from mksdask.compute.plans import SampleWork
from mksdask.grid import Grid as Grid
from mksdask.labels import matched, sample_index


@dataclass(frozen=True)
class Samples:
    """The samples of an ensemble, with their grid, their basis and their confidence.

    Parameters
    ----------
    data : ndarray or dask array, shape (n_samples, *spatial, ...)
        Local state of each voxel. Each chunk holds whole samples.
    basis : Basis
        Basis of the local state. It is `GivenStates` if the data hold m[h; s] itself.
    grid : Grid
        Geometry of a sample.
    labels : DataArray or None
        The DataArray that holds the data, if the caller gave one.
    confidence : array or None
        Confidence of each voxel, of shape (n_samples, *spatial), or (*spatial,) if all samples share one mask.
    is_flat : bool
        Whether the caller gave flat samples.
    index : Index or None
        Labels of the samples. They are those of the data, or else those of the confidence.
    is_lazy : bool
        Whether the data or the confidence is lazy.
    """

    data: Any
    basis: Basis
    grid: Grid
    labels: xr.DataArray | None = None
    confidence: Any = None
    is_flat: bool = False
    index: pd.Index | None = None
    is_lazy: bool = False

    @classmethod
    def of(
        cls,
        X: ArrayLike,
        basis: Basis | None,
        *,
        size: Sequence[int] | None = None,
        confidence_index: ArrayLike | None = None,
        periodic_axes: int | Sequence[int] | None = None,
        like: Grid | None = None,
    ) -> Samples:
        """Make samples from the arguments of a public function.

        Parameters
        ----------
        X : array, shape (n_samples, *spatial, ...), or flat with `size`
            Local state of each voxel, as NumPy, dask, zarr or xarray, or a DataFrame with `size`.
        basis : Basis or None
            Basis of the local state. None if X holds m[h; s] itself.
        size : sequence of int, optional
            Spatial shape of a sample. It is required for flat samples, and for samples with one axis whose dims do not
            name this axis "x", because X could also be flat, or one image. Default: that of `like`.
        confidence_index : array, optional
            Confidence of each voxel, of shape (n_samples, *spatial), flat, or (*spatial,) if all samples share one
            mask. A DataArray may have its dims in another order than X, and its samples too if both are labelled.
        periodic_axes : int or sequence of int, optional
            Numbers of the periodic axes. Default: those that the labels of X name.
        like : Grid, optional
            The grid on which a model was fitted. X is compared with it, and the result has its periodic axes.

        Raises
        ------
        TypeError
            If X is not an array, or `basis` is not a basis.
        ValueError
            If shapes do not fit or can be read in two ways, a chunk cuts through samples, X has other phases than
            `like`, or `confidence_index` has other samples than X.
        """
        n_trailing = trailing_axes(basis)
        size = None if size is None else sizes_argument(size)
        given, labels = unwrap_samples(X)
        lazy = is_lazy(given)
        # A matrix may also hold whole samples: those with one spatial axis, and one number in each voxel.
        wanted = size if size is not None or like is None else like.shape
        is_flat = given.ndim == 2 and wanted is not None and len(wanted) + n_trailing > 1
        if like is not None and given.ndim == 2 and is_trial_of_dask_ml():
            _check_trial(given.shape[1], like.shape, n_trailing)
        refuse_one_sample(given, labels, wanted, n_trailing)
        data, labels = unfold(given, labels, wanted if is_flat else size, n_trailing=n_trailing)
        states = local_states(basis, data, labels)
        spatial = tuple(int(n) for n in data.shape[1 : data.ndim - states.state_axes])
        if 0 in spatial:
            msg = f"X must have voxels along each axis, got shape {tuple(data.shape)}"
            raise ValueError(msg)
        if wanted is None:
            refuse_ambiguous_lines(X, spatial, labels, basis)
        grid = Grid.of(labels, spatial, periodic_axes)
        if like is not None:
            grid.check_like(like)
            # Samples with other axes are refused by the model, which knows what it needs.
            if len(grid.shape) == len(like.shape):
                grid = replace(grid, periodic=like.periodic)
        index, confidence = sample_index(X), None
        if confidence_index is not None:
            beside = _beside(confidence_index, index, labels, data, grid)
            confidence = _confidence(beside, data.shape[0], spatial)
            lazy |= is_lazy(confidence)
            if index is None and confidence.ndim > len(spatial):
                index = sample_index(beside)
        return cls(data, states, grid, labels, confidence, is_flat, index, lazy)

    def __len__(self) -> int:
        return int(self.data.shape[0])

    @property
    def spatial(self) -> tuple[int, ...]:
        """Number of voxels along each axis of a sample."""
        return self.grid.shape

    @property
    def masks(self) -> Any:
        """Confidence of each sample, (n_samples, *spatial). None if there is no mask, or one mask for all samples."""
        return None if self.has_shared_mask else self.confidence

    @property
    def has_shared_mask(self) -> bool:
        """Whether all samples share one mask."""
        return self.confidence is not None and self.confidence.ndim == len(self.spatial)

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample, with its own mask if it has one."""
        own = int(np.prod(self.data.shape[1:])) * self.data.dtype.itemsize
        return own + (0 if self.masks is None else int(np.prod(self.spatial)) * self.masks.dtype.itemsize)

    def mapped(
        self,
        kernel: Callable[..., Array],
        *,
        tail: Sequence[int],
        dtype: DTypeLike,
        name: str,
        work: SampleWork | None = None,
    ) -> Any:
        """Apply a kernel to the samples and their confidence, lazily if one of them is lazy.

        Parameters
        ----------
        kernel : callable
            ``kernel(block, masks)`` takes the samples of a block and their masks, or None. If all samples share one
            mask, it is called as ``kernel(block, None, mask)``.
        tail, dtype, name
            As in `map_samples`.
        work : SampleWork, optional
            What a task takes. Chunks that do not fit are cut. Default: all fit.
        """
        data = self.data if work is None else work.fitting(self.data)
        shared = (self.confidence,) if self.has_shared_mask else ()
        return map_samples(kernel, data, self.masks, tail=tail, dtype=dtype, name=name, shared=shared)

    def require(self, least: int = 1) -> Samples:
        """Return the samples themselves, after a check that their number is known and at least `least`.

        Raises
        ------
        ValueError
            If there are fewer samples, or chunks have unknown sizes.
        """
        check_known(self.data)
        if len(self) < least:
            msg = f"X holds no samples, got shape {tuple(self.data.shape)}"
            raise ValueError(msg)
        return self

    def label(
        self,
        result: Any,
        *,
        dims: Sequence[str],
        coords: Mapping[str, Any],
        name: str,
        attrs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Label a result of shape (n_samples, ...), if the samples are labelled."""
        return label(result, self.labels, dims=dims, coords=coords, name=name, attrs=attrs)

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Attributes of the labels."""
        return {} if self.labels is None else self.labels.attrs

    @property
    def spatial_coords(self) -> dict[str, Any]:
        """Coordinates of those spatial axes that have one."""
        known = {} if self.labels is None else self.labels.coords
        return {dim: known[dim] for dim in self.grid.dims if dim in known}


@dataclass(frozen=True)
class Volume:
    """One volume, with its grid, its basis and its confidence. Its chunks may cut it in space.

    Parameters
    ----------
    data : ndarray or dask array, shape (*spatial, ...)
        Local state of each voxel.
    basis : Basis
        Basis of the local state. It is `GivenStates` if the data hold m[h; s] itself.
    grid : Grid
        Geometry of the volume.
    labels : DataArray or None
        The DataArray that holds the data, if the caller gave one.
    confidence : array or None
        Confidence of each voxel, shape (*spatial,).
    """

    data: Any
    basis: Basis
    grid: Grid
    labels: xr.DataArray | None = None
    confidence: Any = None

    @classmethod
    def of(
        cls,
        volume: ArrayLike,
        basis: Basis | None,
        *,
        confidence_index: ArrayLike | None = None,
        periodic_axes: int | Sequence[int] | None = None,
    ) -> Volume:
        """Make a volume from the arguments of a public function, as `Samples.of` makes samples.

        Raises
        ------
        TypeError, ValueError
            As in `Samples.of`.
        """
        data, labels = unwrap_volume(volume)
        if 0 in data.shape:
            msg = f"volume must have voxels along each axis, got shape {tuple(data.shape)}"
            raise ValueError(msg)
        states = local_states(basis, data[None], labels, is_volume=True)
        spatial = tuple(int(n) for n in data.shape[: data.ndim - states.state_axes])
        grid = Grid.of(labels, spatial, periodic_axes, first=0)
        confidence = None
        if confidence_index is not None:
            given = _laid_along(confidence_index, labels)
            confidence, _ = unwrap_volume(given, name="confidence_index")
            if tuple(confidence.shape) != spatial:
                msg = f"confidence_index must have the shape of the volume, {spatial}, got {confidence.shape}"
                raise ValueError(msg)
            if isinstance(given, xr.DataArray):
                grid.check_beside(Grid.of(given, spatial, first=0), "confidence_index")
        return cls(data, states, grid, labels, confidence)

    @property
    def spatial(self) -> tuple[int, ...]:
        """Number of voxels along each axis."""
        return self.grid.shape

    @property
    def voxel_bytes(self) -> int:
        """Bytes of a voxel, with its confidence."""
        components = int(np.prod(self.data.shape[len(self.spatial) :]))
        own = self.data.dtype.itemsize * components
        return int(own + (0 if self.confidence is None else self.confidence.dtype.itemsize))

    @property
    def is_stored(self) -> bool:
        """Whether data and mask are NumPy arrays or views of stores, so that tasks can read parts of them directly."""
        return stored_array(self.data) is not None and (
            self.confidence is None or stored_array(self.confidence) is not None
        )


def unfold(
    data: Any, labels: xr.DataArray | None, size: Sequence[int] | None, *, name: str = "X", n_trailing: int = 0
) -> tuple[Any, xr.DataArray | None]:
    """Give flat samples their spatial shape: (n_samples, n_voxels) → (n_samples, *size).

    Parameters
    ----------
    data : ndarray or dask array, shape (n_samples, *spatial, ...), or flat
        Samples.
    labels : DataArray or None
        The DataArray that holds them.
    size : sequence of int or None
        Spatial shape of a sample. If it is None, the samples are returned as they are.
    name : str
        Name of the argument in errors.
    n_trailing : int
        Number of axes after the spatial ones, such as local states or angles, which `size` does not name.

    Returns
    -------
    data : array of the same kind, shape (n_samples, *size, ...)
        Samples.
    labels : DataArray or None
        The DataArray that holds them.

    Raises
    ------
    ValueError
        If the shape of the samples does not fit to `size`.
    """
    if size is None:
        return data, labels
    size = tuple(size)
    shape, n_voxels = tuple(data.shape), int(np.prod(size))
    if shape[1 : 1 + len(size)] == size and len(shape) == 1 + len(size) + n_trailing:
        return data, labels
    if len(shape) == 2 and shape[1] % n_voxels == 0 and (n_trailing or shape[1] == n_voxels):
        whole = data.reshape(shape[0], *size, *((shape[1] // n_voxels,) if n_trailing else ()))
        if labels is None:
            return whole, None
        # The axis of voxels is gone, and its coordinates with it. Those of the samples stay.
        kept = {name: value for name, value in labels.coords.items() if value.dims in (labels.dims[:1], ())}
        dims = (labels.dims[0], *SPATIAL_DIMS[: len(size)], *("component",) * bool(n_trailing))
        return whole, xr.DataArray(whole, dims=dims, coords=kept, attrs=labels.attrs)
    msg = (
        f"{name} of shape {shape} does not hold samples of size={size}; expected (n_samples, "
        f"{', '.join(map(str, size))}) or flat samples of {n_voxels} values"
    )
    raise ValueError(msg)


def refuse_one_sample(data: Any, labels: xr.DataArray | None, wanted: Sequence[int] | None, n_trailing: int) -> None:
    """Refuse data that have the shape of one sample, where the shape of a sample is known.

    Raises
    ------
    ValueError
        If the shape of the data is `wanted`, and they cannot be flat samples.
    """
    shape = tuple(data.shape)
    if wanted is None or len(shape) != len(wanted) + n_trailing or shape[: len(wanted)] != tuple(wanted):
        return
    may_be_flat = len(shape) == 2 and shape[1] % int(np.prod(wanted)) == 0
    if may_be_flat or "sample" in dims_of(labels):
        return
    add = "X[None]" if labels is None else "X.expand_dims('sample')"
    msg = f"X of shape {shape} is one sample, without an axis of samples; add the axis: {add}"
    raise ValueError(msg)


def refuse_ambiguous_lines(
    X: ArrayLike, spatial: Sequence[int], labels: xr.DataArray | None, basis: Any = None, *, argument: str = "size"
) -> None:
    """Refuse samples that seem to have one axis, where nothing says that they do.

    `argument` names what says it at this door: "size", or a size of voxels that has one entry for each axis.

    Raises
    ------
    ValueError
        If X can also be flat samples, one image, or a table whose columns have names.
    """
    if isinstance(X, pd.DataFrame) and any(isinstance(column, str) for column in X.columns):
        msg = (
            f"X is a DataFrame with the columns {[*map(str, X.columns[:4])]}; if each row is a flat sample, pass its "
            "spatial shape as size=. If each row is a voxel, make an array of shape (n_samples, *spatial)"
        )
        raise ValueError(msg)
    dims = dims_of(labels)
    if len(spatial) != 1 or (dims and dims[0] not in SPATIAL_DIMS and dims[1] in SPATIAL_DIMS):
        return
    n, shape, takes_size = spatial[0], np.shape(X), argument == "size"
    sides = [(power, round(n ** (1 / power))) for power in (2, 3)]
    guess = next(((side,) * power for power, side in sides if side**power == n), ("n_x", "n_y"))
    text = f"({', '.join(map(str, guess))})"
    ways = ["If it is one image, add an axis of samples: X[None]"]
    if len(shape) == 2:
        remedy = f"pass size={text}" if takes_size else f"reshape them to (n_samples, {text[1:]}"
        ways.append(f"If it holds flat samples, {remedy}")
    if basis is None and takes_size:
        ways.append("If it holds phases, pass their basis, such as PrimitiveBasis(2)")
    line = f"size=({n},)" if takes_size else f"{argument}=[…] with the size of a voxel along this axis"
    ways.append(f"If samples have one axis, pass {line}, or a DataArray with the dims 'sample' and 'x'")
    msg = f"X of shape {shape} can be read in several ways; say which. {'. '.join(ways)}"
    raise ValueError(msg)


def _check_trial(n_values: int, spatial: tuple[int, ...], n_trailing: int) -> None:
    """Refuse samples that are not flat, where a wrapper of dask-ml tries a model with one row of zeros.

    The row has as many numbers as the second axis of X, so it is no sample if X holds images.
    """
    n_voxels = int(np.prod(spatial))
    if n_values % n_voxels if n_trailing else n_values != n_voxels:
        msg = (
            f"dask_ml.wrappers.ParallelPostFit takes flat samples alone, of {n_voxels} voxels, got rows of {n_values} "
            "numbers; pass X.reshape(len(X), -1), or call the model itself, which is lazy for lazy X"
        )
        raise ValueError(msg)


def check_confidence(confidence: Array) -> None:
    """Refuse a confidence outside [0, 1].

    Raises
    ------
    TypeError
        If it is complex.
    ValueError
        If a value is outside, or NaN.
    """
    if confidence.dtype.kind == "c":
        msg = f"confidence_index must be real, got {confidence.dtype}"
        raise TypeError(msg)
    lowest, highest = confidence.min(), confidence.max()
    if not (lowest >= 0.0 and highest <= 1.0):
        msg = f"confidence_index must lie in [0, 1] without NaN, got values from {lowest} to {highest}"
        raise ValueError(msg)


def _laid_along(array: ArrayLike, labels: xr.DataArray | None) -> ArrayLike:
    """Transpose a labelled array, so that the dims that it shares with X have the same order. Other dims come last."""
    if not isinstance(array, xr.DataArray):
        return array
    shared = [dim for dim in dims_of(labels) if dim in array.dims]
    return array.transpose(*shared, *(dim for dim in array.dims if dim not in shared))


def _beside(array: ArrayLike | None, like: pd.Index | None, labels: xr.DataArray | None, data: Any, grid: Grid) -> Any:
    """Lay a mask along X, and put its samples into the order of those of X. Compare its voxels with those of X."""
    given, n_spatial = _laid_along(array, labels), len(grid.shape)
    if not isinstance(given, xr.DataArray):
        return given
    # A mask with as many axes as a sample is shared by all samples, unless its first axis is that of the samples.
    if given.ndim > n_spatial or given.dims[:1] == dims_of(labels)[:1]:
        cuts = data.chunks[0] if is_lazy(data) else None
        given = matched(given, like, name="confidence_index", cuts=cuts)
    if given.shape[-n_spatial:] == grid.shape:
        grid.check_beside(Grid.of(given, grid.shape, first=given.ndim - n_spatial), "confidence_index")
    return given


def _confidence(confidence_index: ArrayLike, n_samples: int, spatial: tuple[int, ...]) -> Any:
    """Check the confidence of the samples, or the mask that all of them share."""
    data, labels = unwrap(confidence_index, name="confidence_index")
    refuse_unnumeric(data, name="confidence_index")
    if len(spatial) > 1 and tuple(data.shape) == (n_samples, int(np.prod(spatial))):
        data, _ = unfold(data, labels, spatial, name="confidence_index")
    # A mask that all samples share is loaded whole, however it is cut.
    if data.ndim > len(spatial):
        check_whole_samples(data, name="confidence_index")
    if tuple(data.shape) not in (spatial, (n_samples, *spatial)):
        msg = (
            f"confidence_index must have shape {(n_samples, *spatial)}, or {spatial} for one mask that all samples "
            f"share; got {tuple(data.shape)}"
        )
        raise ValueError(msg)
    return data
