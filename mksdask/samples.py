"""The nouns of the package: a `Grid`, the `Samples` on it, and one `Volume`.

Each is made once, where a public function gets its arguments. Below that door, code asks the noun instead of working
out anew what X is: there is always a grid, and there is always a basis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from mksdask.arrays import (
    SPATIAL_DIMS,
    Array,
    ArrayLike,
    axes_argument,
    label,
    unwrap,
    unwrap_samples,
    unwrap_volume,
    warn_caller,
)
from mksdask.bases.base import Basis
from mksdask.bases.given import local_states, trailing_axes
from mksdask.compute.blocks import check_whole_samples
from mksdask.compute.graph import stored_array
from mksdask.schema import FLAG, NOTHING, TEXT, Listed, Number, Record, Saved, Whole, agree

# Two voxel sizes that differ by less than this share are the same.
SAME_SIZE = 1e-6


class Axis(NamedTuple):
    """A spatial axis: its name, the size of a voxel along it, and the unit of that size."""

    name: str
    step: float
    units: str


def _read_grid(*, axes: Sequence[Sequence[Any]], **others: Any) -> Grid:
    """A grid as it stands in a saved model."""
    return Grid(tuple(Axis(*axis) for axis in axes), **others)


@dataclass(frozen=True)
class Grid:
    """The geometry of samples or of a volume, and the names of its phases.

    Parameters
    ----------
    axes : tuple of Axis
        The spatial axes in their order.
    shape : tuple of int
        Voxels along each axis.
    periodic : tuple of bool
        Whether each axis is periodic.
    phases : tuple of str
        Names of the phases 0, 1, …; empty where nothing names them.
    is_measured : bool
        Whether coordinates gave the sizes of voxels. If not, steps are 1 voxel.
    said_periodic : tuple of bool, optional
        What the labels of the array say of periodic axes; None if they say nothing.
    """

    axes: tuple[Axis, ...]
    shape: tuple[int, ...]
    periodic: tuple[bool, ...]
    phases: tuple[str, ...] = ()
    is_measured: bool = False
    said_periodic: tuple[bool, ...] | None = None

    _saved = Saved(
        {
            "axes": Listed(Record(TEXT, Number(), TEXT), 1, 3),
            "shape": Listed(Whole(1), 1, 3),
            "periodic": Listed(FLAG, 1, 3),
            "phases": Listed(TEXT),
            "is_measured": FLAG,
            "said_periodic": Listed(FLAG, 1, 3) | NOTHING,
        },
        make=_read_grid,
    )

    def __post_init__(self) -> None:
        agree("the number of flags of periodic", len(self.periodic), len(self.shape))
        agree("the number of axes", len(self.axes), len(self.shape))

    @classmethod
    def of(
        cls,
        labels: xr.DataArray | None,
        shape: Sequence[int],
        periodic_axes: int | Sequence[int] | None = None,
        *,
        first: int = 1,
    ) -> Grid:
        """Read the grid of an array.

        Parameters
        ----------
        labels : DataArray or None
            The labelled array. Without one, axes are x, y, z with steps of 1 voxel.
        shape : sequence of int
            Voxels along each spatial axis.
        periodic_axes : int or sequence of int, optional
            Periodic axes. Default: what the attribute ``periodic_axes`` of `labels` says, else none.
        first : int
            Position of the first spatial axis: 1 for samples, 0 for a volume.

        Raises
        ------
        ValueError
            If a periodic axis does not exist.
        """
        n = len(shape)
        axes = tuple(_axis_of(labels, first + axis, SPATIAL_DIMS[axis]) for axis in range(n))
        said = None
        if labels is not None and "periodic_axes" in labels.attrs:
            said = axes_argument(_periodic_axes(labels, first), n)
        periodic = axes_argument(periodic_axes, n) if periodic_axes is not None or said is None else said
        phases = () if labels is None else tuple(map(str, labels.attrs.get("phases") or ()))
        is_measured = labels is not None and all(str(dim) in labels.coords for dim in labels.dims[first : first + n])
        return cls(axes, tuple(map(int, shape)), periodic, phases, is_measured, said)

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the axes."""
        return tuple(axis.name for axis in self.axes)

    @property
    def steps(self) -> tuple[float, ...]:
        """Size of a voxel along each axis."""
        return tuple(axis.step for axis in self.axes)

    @property
    def periodic_axes(self) -> list[int]:
        """Numbers of the periodic axes."""
        return [axis for axis, is_periodic in enumerate(self.periodic) if is_periodic]

    @property
    def voxel_text(self) -> str:
        """The size of a voxel in words."""
        return " × ".join(f"{axis.step:g} {axis.units}" for axis in self.axes)

    def lags(self, along: Sequence[Array]) -> dict[str, Any]:
        """Coordinates ``lag_x``, … of lags, which are given in voxels along each axis."""
        return {
            f"lag_{axis.name}": (f"lag_{axis.name}", lags * axis.step, {"units": axis.units})
            for axis, lags in zip(self.axes, along, strict=True)
        }

    def check_phases(self, seen: Grid) -> None:
        """Refuse phases that have other names, or another order, than those that `fit` saw.

        Raises
        ------
        ValueError
            With the phases of both.
        """
        if self.phases and seen.phases and self.phases != seen.phases:
            msg = (
                f"X has the phases {list(self.phases)}, fit saw {list(seen.phases)}; number phases alike, or remove "
                "the attribute 'phases' if these are the same by other names"
            )
            raise ValueError(msg)

    def check_like(self, seen: Grid) -> None:
        """Compare with the grid that a model was fitted on.

        Other phases are refused. Other voxel sizes, units or periodic axes are warned of. What one of both does not
        say is not compared.

        Raises
        ------
        ValueError
            If phases have other names or another order.
        """
        self.check_phases(seen)
        if len(self.axes) != len(seen.axes):
            return
        if self.is_measured and seen.is_measured and not all(map(_is_alike, self.axes, seen.axes)):
            warn_caller(
                f"X has voxels of {self.voxel_text}, fit saw {seen.voxel_text}: lags of as many voxels are other "
                "distances; resample X, or fit to such samples"
            )
        told = self.said_periodic, seen.said_periodic
        if None not in told and self.said_periodic != seen.said_periodic:
            warn_caller(
                f"X says that its periodic axes are {_named(self)}, fit saw {_named(seen)}, which are used; fit to "
                "samples that are periodic along the same axes, or give the model periodic_axes"
            )


def _axis_of(labels: xr.DataArray | None, position: int, name: str) -> Axis:
    """An axis by its coordinate; without one, steps of 1 voxel."""
    if labels is None:
        return Axis(name, 1.0, "voxel")
    name = str(labels.dims[position])
    if name not in labels.coords or labels.coords[name].ndim != 1:
        return Axis(name, 1.0, "voxel")
    coordinate = labels.coords[name]
    step = float(coordinate.attrs.get("spacing", 1.0))
    if coordinate.size > 1:
        step = float(coordinate[-1] - coordinate[0]) / (coordinate.size - 1)
    return Axis(name, step, str(coordinate.attrs.get("units", "voxel")))


def _periodic_axes(labels: xr.DataArray, first: int) -> list[int]:
    """Spatial axes that the attribute ``periodic_axes`` names, by dim or by number.

    An attribute ``periods`` beside it holds the voxels of each period: an axis that was cut is no longer periodic, and
    neither is one that was indexed away.
    """
    dims = [str(dim) for dim in labels.dims[first:]]
    named = list(np.atleast_1d(labels.attrs["periodic_axes"]))
    periods = dict(zip(named, np.atleast_1d(labels.attrs.get("periods", [])), strict=False))
    whole = [
        axis
        for axis in named
        if not isinstance(axis, str) or (axis in dims and labels.sizes[axis] == periods.get(axis, labels.sizes[axis]))
    ]
    return [dims.index(axis) if isinstance(axis, str) else int(axis) for axis in whole]


def _is_alike(a: Axis, b: Axis) -> bool:
    return a.units == b.units and abs(a.step - b.step) <= SAME_SIZE * abs(a.step)


def _named(grid: Grid) -> list[str]:
    said = grid.said_periodic or ()
    return [axis.name for axis, is_periodic in zip(grid.axes, said, strict=True) if is_periodic]


@dataclass(frozen=True)
class Samples:
    """The samples of an ensemble: their local states, grid, basis and confidence.

    Parameters
    ----------
    data : ndarray or dask array, shape (n_samples, *spatial, ...)
        Local state of each voxel. Each chunk holds whole samples.
    basis : Basis
        Basis of the local state; `GivenStates` for data that are m[h; s].
    grid : Grid
        Geometry of a sample.
    labels : DataArray or None
        What labels the data.
    confidence : array or None
        Confidence of each voxel: shape (n_samples, *spatial), or (*spatial,) for one mask that all samples share.
    is_flat : bool
        Whether the caller's samples were flat.
    """

    data: Any
    basis: Basis
    grid: Grid
    labels: xr.DataArray | None = None
    confidence: Any = None
    is_flat: bool = False

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
        """Make samples of what a public function gets.

        Parameters
        ----------
        X : array, shape (n_samples, *spatial, ...), or flat with `size`
            NumPy, dask, zarr or xarray.
        basis : Basis or None
            Basis of the local state; None for X that is m[h; s].
        size : sequence of int, optional
            Spatial shape of flat samples. Default: that of `like`.
        confidence_index : array, optional
            Shape (n_samples, *spatial), flat, or (*spatial,) for one mask shared by all samples.
        periodic_axes : int or sequence of int, optional
            Periodic axes. Default: what the labels of X say.
        like : Grid, optional
            The grid that a model was fitted on: X is compared with it, and has its periodic axes.

        Raises
        ------
        TypeError
            If X is no array, or `basis` no basis.
        ValueError
            If shapes do not fit, a chunk cuts through samples, or X has other phases than `like`.
        """
        n_trailing = trailing_axes(basis)
        given, _ = unwrap(X)
        # Samples of one axis, without components, are a matrix anyway.
        is_flat = given.ndim == 2 and (size is not None if like is None else len(like.shape) + n_trailing > 1)
        if size is None and like is not None and is_flat:
            size = like.shape
        data, labels = unwrap_samples(unfold(X, size, n_trailing=n_trailing))
        states = local_states(basis, data)
        spatial = tuple(int(n) for n in data.shape[1 : data.ndim - states.state_axes])
        if 0 in spatial:
            msg = f"X must have voxels along each axis, got shape {tuple(data.shape)}"
            raise ValueError(msg)
        grid = Grid.of(labels, spatial, periodic_axes)
        if like is not None:
            grid.check_like(like)
            grid = replace(grid, periodic=like.periodic)
        confidence = _confidence(confidence_index, labels, data.shape[0], spatial)
        return cls(data, states, grid, labels, confidence, is_flat)

    def __len__(self) -> int:
        return int(self.data.shape[0])

    @property
    def spatial(self) -> tuple[int, ...]:
        """Voxels along each axis of a sample."""
        return self.grid.shape

    @property
    def masks(self) -> Any:
        """Confidence of each sample, (n_samples, *spatial); None if there is none, or one for all samples."""
        return None if self.has_shared_mask else self.confidence

    @property
    def has_shared_mask(self) -> bool:
        """Whether one mask serves all samples."""
        return self.confidence is not None and self.confidence.ndim == len(self.spatial)

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample, with its own mask."""
        own = int(np.prod(self.data.shape[1:])) * self.data.dtype.itemsize
        return own + (0 if self.masks is None else int(np.prod(self.spatial)) * self.masks.dtype.itemsize)

    def require(self, least: int = 1) -> Samples:
        """The samples themselves, if there are enough and their number is known.

        Raises
        ------
        ValueError
            If there are fewer than `least`, or chunks are of unknown sizes.
        """
        if np.isnan(self.data.shape[0]):
            msg = "X has chunks of unknown sizes; call X.compute_chunk_sizes() first"
            raise ValueError(msg)
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
        """Label a result of the samples, shape (n_samples, ...), if the samples are labelled."""
        if self.labels is None:
            return result
        return label(result, self.labels, dims=dims, coords=coords, name=name, attrs=attrs)

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Attributes of the labels."""
        return {} if self.labels is None else self.labels.attrs

    @property
    def spatial_coords(self) -> dict[str, Any]:
        """Coordinates of the spatial axes, where the labels have any."""
        known = {} if self.labels is None else self.labels.coords
        return {dim: known[dim] for dim in self.grid.dims if dim in known}


@dataclass(frozen=True)
class Volume:
    """One volume: its local states, grid, basis and confidence, chunked in space.

    Parameters
    ----------
    data : ndarray or dask array, shape (*spatial, ...)
        Local state of each voxel.
    basis : Basis
        Basis of the local state; `GivenStates` for data that are m[h; s].
    grid : Grid
        Geometry of the volume.
    labels : DataArray or None
        What labels the data.
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
        """Make a volume of what a public function gets; see `Samples.of`.

        Raises
        ------
        TypeError, ValueError
            As `Samples.of` does.
        """
        data, labels = unwrap_volume(volume)
        if 0 in data.shape:
            msg = f"volume holds no voxels, got shape {tuple(data.shape)}"
            raise ValueError(msg)
        states = local_states(basis, data[None])
        spatial = tuple(int(n) for n in data.shape[: data.ndim - states.state_axes])
        grid = Grid.of(labels, spatial, periodic_axes, first=0)
        confidence = None
        if confidence_index is not None:
            confidence, _ = unwrap_volume(_laid_along(confidence_index, labels), name="confidence_index")
            if tuple(confidence.shape) != spatial:
                msg = f"confidence_index must have the shape of the volume, {spatial}, got {confidence.shape}"
                raise ValueError(msg)
        return cls(data, states, grid, labels, confidence)

    @property
    def spatial(self) -> tuple[int, ...]:
        """Voxels along each axis."""
        return self.grid.shape

    @property
    def voxel_bytes(self) -> int:
        """Bytes of a voxel, with its confidence."""
        components = int(np.prod(self.data.shape[len(self.spatial) :]))
        own = self.data.dtype.itemsize * components
        return int(own + (0 if self.confidence is None else self.confidence.dtype.itemsize))

    @property
    def is_stored(self) -> bool:
        """Whether tasks can read the parts that they need by themselves."""
        return stored_array(self.data) is not None and (
            self.confidence is None or stored_array(self.confidence) is not None
        )


def unfold(X: ArrayLike, size: Sequence[int] | None, *, name: str = "X", n_trailing: int = 0) -> Any:
    """Give flat samples their spatial shape back: (n_samples, n_voxels) → (n_samples, *size).

    Parameters
    ----------
    X : array, shape (n_samples, *spatial, ...), or flat
        Samples.
    size : sequence of int or None
        Spatial shape of a sample; None leaves X as it is.
    name : str
        The argument's name in errors.
    n_trailing : int
        Number of axes after the spatial ones (local states, angles) that `size` does not name.

    Raises
    ------
    ValueError
        If the shapes do not agree.
    """
    data, labels = unwrap(X, name=name)
    array = data if labels is None else X
    if size is None:
        return array
    size = tuple(int(n) for n in np.atleast_1d(size))
    shape, n_voxels = tuple(array.shape), int(np.prod(size))
    if shape[1 : 1 + len(size)] == size and len(shape) == 1 + len(size) + n_trailing:
        return array
    if len(shape) == 2 and shape[1] % n_voxels == 0 and (n_trailing or shape[1] == n_voxels):
        whole = data.reshape(shape[0], *size, *((shape[1] // n_voxels,) if n_trailing else ()))
        if labels is None:
            return whole
        # What is said of the samples is kept; the axis of voxels is gone.
        kept = {name: value for name, value in labels.coords.items() if value.dims in (labels.dims[:1], ())}
        dims = (labels.dims[0], *SPATIAL_DIMS[: len(size)], *("component",) * bool(n_trailing))
        return xr.DataArray(whole, dims=dims, coords=kept, attrs=labels.attrs)
    msg = (
        f"{name} of shape {shape} does not hold samples of size={size}; expected (n_samples, "
        f"{', '.join(map(str, size))}) or flat samples of {n_voxels} values"
    )
    raise ValueError(msg)


def check_confidence(confidence: Array) -> None:
    """Refuse confidence outside [0, 1].

    Raises
    ------
    ValueError
        With the lowest and the highest value.
    """
    lowest, highest = confidence.min(), confidence.max()
    if not (lowest >= 0.0 and highest <= 1.0):
        msg = f"confidence_index must lie in [0, 1] without NaN, got values from {lowest} to {highest}"
        raise ValueError(msg)


def _laid_along(array: ArrayLike, labels: xr.DataArray | None) -> ArrayLike:
    """A labelled array with its dims in the order of those of X."""
    if not isinstance(array, xr.DataArray) or labels is None:
        return array
    return array.transpose(*(dim for dim in labels.dims if dim in array.dims))


def _confidence(
    confidence_index: ArrayLike | None, labels: xr.DataArray | None, n_samples: int, spatial: tuple[int, ...]
) -> Any:
    """Confidence of the samples, or the one mask that all share."""
    if confidence_index is None:
        return None
    given = _laid_along(confidence_index, labels)
    data, _ = unwrap(given, name="confidence_index")
    if len(spatial) > 1 and tuple(data.shape) == (n_samples, int(np.prod(spatial))):
        given = unfold(given, spatial, name="confidence_index")
        data, _ = unwrap(given, name="confidence_index")
    check_whole_samples(data, name="confidence_index")
    if tuple(data.shape) not in (spatial, (n_samples, *spatial)):
        msg = (
            f"confidence_index must have shape {(n_samples, *spatial)}, or {spatial} for one mask shared by all "
            f"samples; got {tuple(data.shape)}"
        )
        raise ValueError(msg)
    return data
