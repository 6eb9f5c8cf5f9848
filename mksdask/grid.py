"""The grid of samples or of a volume: axes, voxel sizes, periodic axes and phases."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from mksdask.arrays import SPATIAL_DIMS, Array, axes_argument, is_number, warn_caller
from mksdask.display.cards import printed_unit
from mksdask.schema import FLAG, NOTHING, TEXT, Listed, Number, Record, Saved, Whole, agree
from mksdask.schema.units import METRES, named_as_here

# Voxel sizes with a relative difference below this number count as equal.
SAME_SIZE = 1e-6
# Coordinates may be rounded by this share of a voxel. Those that lack a slice are a quarter of a voxel off or more.
UNEVEN = 0.2


class Axis(NamedTuple):
    """One spatial axis: its name, the size of a voxel along it, and the unit of this size."""

    name: str
    step: float
    units: str


def _read_grid(*, axes: Sequence[Sequence[Any]], **others: Any) -> Grid:
    """Make the grid of a saved model."""
    return Grid(tuple(Axis(*axis) for axis in axes), **others)


@dataclass(frozen=True)
class Grid:
    """The geometry of samples or of a volume, and the names of the phases.

    Parameters
    ----------
    axes : tuple of Axis
        The spatial axes in their order.
    shape : tuple of int
        Number of voxels along each axis.
    periodic : tuple of bool
        Whether each axis is periodic.
    phases : tuple of str
        Names of the phases 0, 1, …. Empty if the phases have no names.
    is_measured : bool
        Whether the sizes of voxels come from coordinates. If not, each step is 1 voxel.
    said_periodic : tuple of bool, optional
        Whether the labels of the array say that each axis is periodic. None if they say nothing about it.
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
        """Read the grid of an array from its labels.

        Parameters
        ----------
        labels : DataArray or None
            The labelled array. If there is none, the axes are x, y, z with steps of 1 voxel.
        shape : sequence of int
            Number of voxels along each spatial axis.
        periodic_axes : int or sequence of int, optional
            Numbers of the periodic axes. Default: those in the attribute ``periodic_axes`` of `labels`, or none if
            there is no such attribute.
        first : int
            Position of the first spatial axis: 1 for samples, 0 for a volume.

        Raises
        ------
        ValueError
            If a periodic axis does not exist, or the numbers of a coordinate are not evenly spaced.
        """
        n = len(shape)
        if labels is None:
            labels, first = xr.DataArray(np.broadcast_to(np.int8(0), shape), dims=SPATIAL_DIMS[:n]), 0
        axes = tuple(_axis_of(labels, first + axis) for axis in range(n))
        said = axes_argument(_periodic_axes(labels, first), n) if "periodic_axes" in labels.attrs else None
        periodic = axes_argument(periodic_axes, n) if periodic_axes is not None or said is None else said
        phases = tuple(map(str, labels.attrs.get("phases") or ()))
        is_measured = all(str(dim) in labels.coords for dim in labels.dims[first : first + n])
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
        """Size of a voxel in words, such as 0.5 µm × 0.5 µm."""
        return " × ".join(f"{axis.step:g} {printed_unit(axis.units)}" for axis in self.axes)

    def lags(self, along: Sequence[Array]) -> dict[str, Any]:
        """Make the coordinates ``lag_x``, … of statistics from the lags along each axis, in voxels."""
        return {
            f"lag_{axis.name}": (f"lag_{axis.name}", lags * axis.step, {"units": axis.units})
            for axis, lags in zip(self.axes, along, strict=True)
        }

    def check_phases(self, seen: Grid) -> None:
        """Refuse phases whose names, or their order, differ from those that `fit` saw.

        Raises
        ------
        ValueError
            If they differ.
        """
        if self.phases and seen.phases and self.phases != seen.phases:
            msg = (
                f"X has the phases {list(self.phases)}, fit saw {list(seen.phases)}; number phases alike in both, or "
                "remove the attribute 'phases' of X if its phases are the same and only their names differ"
            )
            raise ValueError(msg)

    def check_order(self, dims: Sequence[str], of: str) -> None:
        """Refuse the axes `dims` in another order, by which one direction would be taken for another.

        Raises
        ------
        ValueError
            If they are the same axes in another order.
        """
        if self.dims != tuple(dims) and sorted(self.dims) == sorted(dims):
            turned = ", ".join(map(repr, ("sample", *dims)))
            msg = f"X has its axes in the order {self.dims}, {of} {tuple(dims)}; use X.transpose({turned}, ...)"
            raise ValueError(msg)

    def check_like(self, seen: Grid) -> None:
        """Compare this grid with the grid `seen`, on which a model was fitted.

        Other phases, or the same axes in another order, raise an error. Another voxel size or other periodic axes give
        a warning. A property that one of the two grids does not know is not compared. Axes that `fit` was told to take
        as periodic, or as not periodic, are compared in place of those that its samples name.

        Raises
        ------
        ValueError
            If the names of the phases, or their order, or the order of the axes differ.
        """
        self.check_phases(seen)
        self.check_order(seen.dims, "fit saw")
        if len(self.axes) != len(seen.axes):
            return
        if self._has_other_voxels(seen):
            warn_caller(
                f"X has voxels of {self.voxel_text}, fit saw {seen.voxel_text}: a lag of as many voxels is another "
                "distance; resample X, or fit to samples with such voxels"
            )
        # The argument periodic_axes of a model counts more than what the samples of fit said.
        is_chosen = seen.said_periodic is not None or any(seen.periodic)
        if (
            self.said_periodic is not None
            and is_chosen
            and self.said_periodic not in (seen.said_periodic, seen.periodic)
        ):
            warn_caller(
                f"X says that its periodic axes are {_named(self, self.said_periodic)}, fit took "
                f"{_named(seen, seen.periodic)}, and X is treated like the samples of fit; fit to samples that are "
                "periodic along the same axes, or fit with periodic_axes=() if the model has this argument, so that no "
                "axis is periodic in fit and later"
            )

    def check_appended(self, new: Grid) -> None:
        """Refuse the grid of new samples for an ensemble with this grid, if it has other phases or another voxel size.

        Raises
        ------
        ValueError
            If it has. What one of the two grids does not know is not compared.
        """
        if new.phases and self.phases and new.phases != self.phases:
            msg = (
                f"X has the phases {list(new.phases)}, and the ensemble has {list(self.phases)}; number those of X "
                "alike"
            )
            raise ValueError(msg)
        if self._has_other_voxels(new):
            msg = f"X has voxels of {new.voxel_text}, and the ensemble of {self.voxel_text}; resample X"
            raise ValueError(msg)

    def check_beside(self, beside: Grid, name: str) -> None:
        """Compare this grid with that of another array, whose voxels are paired with those of this grid.

        Another voxel size, another unit or another direction of an axis gives a warning.

        Parameters
        ----------
        beside : Grid
            Grid of the other array.
        name : str
            Name of the other array.
        """
        if self._has_other_voxels(beside):
            warn_caller(
                f"{name} has voxels of {beside.voxel_text}, X has {self.voxel_text}, and they are paired by position; "
                f"give {name} on the voxels of X"
            )

    def _has_other_voxels(self, other: Grid) -> bool:
        """Whether both grids know the sizes of their voxels, and these differ."""
        return self.is_measured and other.is_measured and not all(map(_is_alike, self.axes, other.axes))


def _axis_of(labels: xr.DataArray, position: int) -> Axis:
    """Read an axis from its coordinate. If there is no coordinate, the step is 1 voxel.

    Raises
    ------
    ValueError
        If the coordinate does not hold evenly spaced numbers, or its attribute ``spacing`` is no size.
    """
    name = str(labels.dims[position])
    if name not in labels.coords or labels.coords[name].ndim != 1:
        return Axis(name, 1.0, "voxel")
    coordinate = labels.coords[name]
    if coordinate.size > 1:
        step = _step_of(coordinate)
    else:
        step = coordinate.attrs.get("spacing", 1.0)
        if not is_number(step) or step == 0:
            msg = f"the coordinate {name!r} must have the size of a voxel as its attribute 'spacing', got {step!r}"
            raise ValueError(msg)
    return Axis(name, float(step), named_as_here(str(coordinate.attrs.get("units", "voxel"))))


def _step_of(coordinate: xr.DataArray) -> float:
    """Compute the step of a coordinate of several voxels.

    Raises
    ------
    ValueError
        If it does not hold evenly spaced numbers.
    """
    values = coordinate.to_numpy()
    with suppress(TypeError, ValueError), np.errstate(invalid="ignore", over="ignore"):
        if values.dtype.kind in "iufO":
            places = values.astype(np.float64)
            step = float(places[-1] - places[0]) / (len(places) - 1)
            if (np.abs(places - places[0] - step * np.arange(len(places))) < UNEVEN * abs(step)).all():
                return step
    msg = (
        f"the coordinate {coordinate.name!r} must hold evenly spaced numbers, because all voxels have one size, got "
        f"{values[:4].tolist()}{', …' * (len(values) > 4)}; interpolate to such voxels, or remove the coordinate by "
        f"drop_vars({coordinate.name!r})"
    )
    raise ValueError(msg)


def _periodic_axes(labels: xr.DataArray, first: int) -> list[int]:
    """Read the numbers of the periodic axes from the attribute ``periodic_axes``, which holds names or numbers of axes.

    The attribute ``periods`` holds the number of voxels of each period. An axis with fewer voxels was cut, and is not
    periodic any more. An axis that was indexed away is left out.
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
    if a.units != b.units and not {a.units, b.units} <= set(METRES):
        return False
    factor = METRES.get(b.units, 1.0) / METRES.get(a.units, 1.0)
    return abs(a.step - factor * b.step) <= SAME_SIZE * abs(a.step)


def _named(grid: Grid, periodic: Sequence[bool]) -> list[str]:
    return [axis.name for axis, is_periodic in zip(grid.axes, periodic, strict=True) if is_periodic]
