"""Surface correlation functions: how the interface of a phase lies to itself and to the phase.

The interface consists of faces between voxels. The area of a face is weighted, because faces along the axes have more
area than the interface that they stand for. Half of a face belongs to the voxel on each side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.ndimage
import xarray as xr
from numpy.typing import DTypeLike

from mksdask.arrays import Array, ArrayLike, is_number, names, precision_argument, shown
from mksdask.bases.given import GivenStates
from mksdask.compute.operation import PREPARE, Operation, operation
from mksdask.compute.plans import Limit, Plan, Stage
from mksdask.samples import Grid, Samples, check_confidence
from mksdask.schema.arguments import checked
from mksdask.stats.correlation import Correlation
from mksdask.stats.halos import HaloedTiles
from mksdask.stats.lags import LagFFT
from mksdask.stats.phases import samples_of_phases, volume_of_phases
from mksdask.stats.radial import AREA_OF_CROSSINGS
from mksdask.stats.volume import correlate_volume
from mksdask.storage.atomic import Url
from mksdask.storage.blocks import layout_begun
from mksdask.storage.results import Result

PAIRS = [(0, 0), (0, 1)]
# The Gaussian filter ends after so many standard deviations, as that of SciPy.
TRUNCATE = 4.0
# Gradients whose square is smaller have no direction.
LEAST_GRADIENT = 1e-12
# Where a mean has less weight, no voxel nearby was measured.
LEAST_WEIGHT = 1e-9
# Bytes of a voxel in a task: the indicator, its gradient and work arrays in double precision, and both fields.
WORK = 112
# Bytes of a voxel of a mask: the mask, its weights, their gradient, and the mean.
MASK_WORK = 40


@dataclass(frozen=True)
class SurfaceFields:
    """The kernel of the two fields of a phase: the area of its interface per volume, and its indicator.

    Parameters
    ----------
    phase : int
        Number of the phase.
    steps : tuple of float
        Voxel size along each axis.
    smoothing : float or None
        Standard deviation of the filter that tells the direction of the interface, in units of the smallest voxel size.
        None if the interface has no preferred direction.
    dtype : dtype
        Precision of the fields.
    """

    phase: int
    steps: tuple[float, ...]
    smoothing: float | None
    dtype: np.dtype[Any]

    @property
    def sigmas(self) -> list[float]:
        """Standard deviation along each axis, in voxels."""
        return [(self.smoothing or 0.0) * min(self.steps) / step for step in self.steps]

    @property
    def halo(self) -> tuple[int, ...]:
        """How far away voxels matter along each axis."""
        return tuple(int(TRUNCATE * sigma + 0.5) + 1 for sigma in self.sigmas)

    def of(self, values: Array, periodic: Sequence[bool], mask: Array | None = None) -> Array:
        """Compute the fields of a sample: (*spatial,) → (*spatial, 2). A face lies between two measured voxels."""
        indicator, known = values == self.phase, None
        if mask is not None:
            check_confidence(mask)
            known = mask > 0
            indicator &= known
        gradient = self._gradient(indicator, periodic, known)
        surface = np.zeros(indicator.shape)
        for axis, (step, wraps) in enumerate(zip(self.steps, periodic, strict=True)):
            faces = (indicator != np.roll(indicator, -1, axis)) / (2.0 * step)
            faces *= self._weight(gradient, axis)
            if known is not None:
                faces *= known & np.roll(known, -1, axis)
            if not wraps:
                faces[(slice(None),) * axis + (-1,)] = 0.0
            surface += faces
            surface += np.roll(faces, 1, axis)
        return np.stack([surface, indicator], axis=-1).astype(self.dtype)

    def _gradient(self, indicator: Array, periodic: Sequence[bool], known: Array | None) -> list[Array]:
        """Compute the gradient of the smoothed phase, up to a factor at each voxel: the mean of measured voxels."""
        if self.smoothing is None:
            return []
        modes = ["wrap" if wraps else "nearest" for wraps in periodic]
        field, found = indicator.astype(np.float64), []

        def smoothed(values: Array, axis: int | None) -> Any:
            order = [int(other == axis) for other in range(indicator.ndim)]
            return scipy.ndimage.gaussian_filter(values, self.sigmas, order=order, mode=modes, truncate=TRUNCATE)

        weights = None if known is None else known.astype(np.float64)
        if weights is not None:
            mean = smoothed(field, None) / np.maximum(smoothed(weights, None), LEAST_WEIGHT)
        for axis, step in enumerate(self.steps):
            along = smoothed(field, axis)
            if weights is not None:
                along -= mean * smoothed(weights, axis)
            found.append(along / step)
        return found

    def _weight(self, gradient: list[Array], axis: int) -> Any:
        """Compute the weights of the faces after each voxel along an axis: |n·e|, or the mean of all directions."""
        n = len(self.steps)
        if not gradient:
            return AREA_OF_CROSSINGS[n] / n
        squares = np.zeros(gradient[0].shape)
        for other, along in enumerate(gradient):
            square = (along + np.roll(along, -1, axis)) ** 2
            squares += square
            if other == axis:
                cosine = square
        # Where opposite interfaces are so near that they cancel, no direction is preferred.
        unknown = squares < LEAST_GRADIENT
        cosine[unknown], squares[unknown] = 1.0, n
        return np.sqrt(cosine / squares)


@dataclass(frozen=True)
class _OfSamples:
    """The kernel of one block of samples: (n, *spatial) → (n, *spatial, 2)."""

    fields: SurfaceFields
    periodic: tuple[bool, ...]

    def __call__(self, block: Array, confidence: Array | None = None, shared: Array | None = None) -> Array:
        masks = [shared] * len(block) if confidence is None else confidence
        found = [self.fields.of(sample, self.periodic, mask) for sample, mask in zip(block, masks, strict=True)]
        return np.array(found, dtype=self.fields.dtype).reshape(*block.shape, 2)


@dataclass(frozen=True)
class _OfTile:
    """The kernel of one tile with its halo."""

    fields: SurfaceFields

    def __call__(self, block: Array, inner: tuple[slice, ...], mask: Array | None = None) -> Array:
        return self.fields.of(block, (False,) * block.ndim, mask)[inner]


def _surface_fields(phase: Any, grid: Grid, smoothing: Any, dtype: DTypeLike) -> SurfaceFields:
    if smoothing is not None and (not is_number(smoothing) or not 0.5 <= smoothing <= 100):
        msg = f"smoothing must be a number of voxels from 0.5 to 100, or None, got {shown(smoothing)}"
        raise ValueError(msg)
    steps = tuple(abs(step) for step in grid.steps)
    return SurfaceFields(int(phase), steps, None if smoothing is None else float(smoothing), precision_argument(dtype))


def _with_names(found: Any, phase: int, grid: Grid) -> Any:
    """Give labelled statistics the names of their pairs."""
    if not isinstance(found, xr.DataArray):
        return found
    name = grid.phases[phase] if 0 <= phase < len(grid.phases) else str(phase)
    pairs = names(["surface–surface", f"surface–{name}"])
    return found.drop_vars(["state_1", "state_2"]).assign_coords(pair=pairs).rename("surface_correlations")


@dataclass(frozen=True)
class _EnsembleFunctions(Operation[Any]):
    """The checked arguments of `correlate_surfaces`."""

    samples: Samples
    fields: SurfaceFields
    cutoff: int | Sequence[int] | None

    def correlation(self, data: Any) -> Correlation:
        samples = self.samples
        given = samples.label(
            data,
            dims=(*samples.grid.dims, "state"),
            coords=samples.spatial_coords,
            name="surface_fields",
            attrs=samples.attrs,
        )
        grid = samples.grid
        made = Samples.of(given, GivenStates(2), size=grid.shape, periodic_axes=grid.periodic_axes)
        made = replace(made, confidence=samples.confidence, is_lazy=made.is_lazy or samples.is_lazy)
        return Correlation.of(made, PAIRS, self.cutoff, self.fields.dtype)

    def plan(self, limit: Limit) -> Plan:
        shape = (*self.samples.data.shape, 2)
        data = self._mapped() if self.samples.is_lazy else np.broadcast_to(self.fields.dtype.type(0), shape)
        return replace(self.correlation(data).plan(limit), operation="correlate_surfaces")

    def run(self) -> Any:
        return _with_names(self.correlation(self._mapped()).run(), self.fields.phase, self.samples.grid)

    def _mapped(self) -> Any:
        grid, dtype = self.samples.grid, self.fields.dtype
        kernel = _OfSamples(self.fields, grid.periodic)
        return self.samples.mapped(kernel, tail=(*grid.shape, 2), dtype=dtype, name="surface-fields")


@operation
@checked
def correlate_surfaces(
    X: ArrayLike,
    phase: int,
    *,
    smoothing: float | None = None,
    size: Sequence[int] | None = None,
    periodic_axes: int | Sequence[int] | None = None,
    confidence_index: ArrayLike | None = None,
    cutoff: int | Sequence[int] | None = None,
    dtype: DTypeLike = "float32",
) -> Operation[Any]:
    r"""Compute the surface correlation functions of a phase of each sample.

    .. math:: F_{ss}[r] = \frac{1}{\Omega[r]} \sum_s M[s]\, M[s + r] \qquad
              F_{sv}[r] = \frac{1}{\Omega[r]} \sum_s M[s]\, I[s + r]

    I is 1 in the phase and 0 elsewhere, and M is the area of its interface per volume. At long lags, F_ss goes to s²
    and F_sv to s φ, with the specific surface s and the volume fraction φ.

    Parameters
    ----------
    X : array, shape (n_samples, *spatial)
        Phase number of each voxel, as NumPy, dask, zarr or xarray, with 1 to 3 spatial axes.
    phase : int
        Number of the phase.
    smoothing : float, optional
        Standard deviation of a Gaussian filter from which the direction of the interface is taken, in voxels, or in the
        smallest voxel size if voxels are no cubes. Use it, such as 1.5, for smooth interfaces that prefer directions.
        Default: the interface prefers none.
    size, periodic_axes, cutoff, dtype
        As in `correlate`.
    confidence_index : array, shape (n_samples, *spatial) or (*spatial,), optional
        Weight c[s] in [0, 1] of each voxel, as in `correlate`. A face between voxels belongs to the interface only if
        both were measured, that is, if their weights are above 0.

    Returns
    -------
    array of the kind of `X`, shape (n_samples, *lags, 2)
        F_ss and F_sv, as `correlate` returns the statistics of two pairs. Their units are those of 1/length² and
        1/length, with the unit of `X`. `radial_average` and the like take them. The result is lazy for lazy input.

    Raises
    ------
    ValueError
        As in `correlate`, or if `phase` is no number of a phase, or `smoothing` is below 0.5.

    Notes
    -----
    The interface is the set of the faces between voxels. Half of a face belongs to the voxel on each side. Along the
    axis e, a face counts with the weight \|n·e\|, where n is the normal of the interface. Without `smoothing`, this is
    its mean over all directions, 2/3 in 3D and π/4 in 2D, as in `specific_surface`. If interfaces take all directions,
    F_sv is then exact but for voxels, and F_ss is at most 1 % too large. With `smoothing`, n is the direction of the
    gradient of the smoothed phase. A sphere of a radius of 10 voxels has errors of 2.5 % without `smoothing`, and of
    1.5 % with ``smoothing=1.5``, from lags of 2 voxels on. But smoothing takes area from edges at which interfaces
    meet: overlapping spheres of a radius of 8 voxels have 4 % less area without it, and 8 % less with it. At lag 0,
    F_ss of a sharp interface is infinite. Here it is finite, because faces belong to voxels.

    References
    ----------
    Torquato, S. Random Heterogeneous Materials. Springer, 2002, section 2.2, for M and both functions.
    Ma, Z., Torquato, S. Precise algorithms to compute surface correlation functions of two-phase heterogeneous media
    and their applications. Phys. Rev. E 98 (2018) 013307, for their meaning. They sample interfaces along lines.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.zeros((1, 40), int)
    >>> X[0, 10:30] = 1  # two interfaces on 40 voxels
    >>> f = correlate_surfaces(X, 1, size=(40,), periodic_axes=[0])
    >>> [round(float(value), 3) for value in f[0, [20, 30], 1]]  # F_sv at the lags 0 and 10
    [0.025, 0.025]
    """
    samples = samples_of_phases(X, phase, size, periodic_axes, confidence_index)
    fields = _surface_fields(phase, samples.grid, smoothing, dtype)
    LagFFT.of(samples.grid.shape, samples.grid.periodic, cutoff, real=True)
    return _EnsembleFunctions(samples, fields, cutoff)


@dataclass(frozen=True)
class _VolumeFunctions(Operation[Any]):
    """The checked arguments of `correlate_volume_surfaces`."""

    data: Any
    labels: xr.DataArray | None
    grid: Grid
    confidence: Any
    fields: SurfaceFields
    cutoff: int | Sequence[int]
    scratch: Url | None

    def tiles(self, limit: Limit) -> HaloedTiles:
        begun = None if self.scratch is None else layout_begun(self.scratch, "tile", len(self.grid.shape))
        halo, mask = self.fields.halo, self.confidence
        work = WORK if mask is None else WORK + MASK_WORK
        return HaloedTiles.of(self.data, self.grid, halo, work, limit, remedy="lower smoothing", begun=begun, mask=mask)

    def mapped(self, tiles: HaloedTiles) -> Any:
        """Compute both fields lazily."""
        return tiles.map(_OfTile(self.fields), self.fields.dtype, name="surface-fields", tail=(2,))

    def options(self) -> dict[str, Any]:
        return {
            "cutoff": self.cutoff,
            "correlations": PAIRS,
            "periodic_axes": self.grid.periodic_axes,
            "confidence_index": self.confidence,
            "dtype": self.fields.dtype.name,
        }

    def correlation(self, fields: Any) -> Operation[Any]:
        if self.labels is not None:
            dims = (*map(str, self.labels.dims), "state")
            fields = xr.DataArray(fields, dims=dims, coords=self.labels.coords, attrs=self.labels.attrs)
        made: Operation[Any] = getattr(correlate_volume, PREPARE)(fields, GivenStates(2), **self.options())
        return made

    def plan(self, limit: Limit) -> Plan:
        tiles, n = self.tiles(limit), int(np.prod(self.grid.shape))
        written = 0.0 if self.scratch is None else 2.0 * n * self.fields.dtype.itemsize
        read = float(tiles.tiling.voxels_read() * self.data.dtype.itemsize)
        first = Stage("surface fields", tiles.tiling.n_tiles, tiles.task_bytes, read, written)
        fields = self.mapped(tiles)
        if self.scratch is not None:
            fields = np.broadcast_to(self.fields.dtype.type(0), fields.shape)
        found = self.correlation(fields).plan(limit)
        return replace(found, operation="correlate_volume_surfaces", stages=(first, *found.stages))

    def run(self) -> Any:
        tiles = self.tiles(Limit.of())
        fields = self.mapped(tiles)
        if self.scratch is not None:
            fields = Result.of(fields, self.scratch, "scratch", layout={"tile": tiles.tiling.tile}).write()
        return _with_names(self.correlation(fields).run(), self.fields.phase, self.grid)


@operation
@checked
def correlate_volume_surfaces(
    volume: ArrayLike,
    phase: int,
    *,
    cutoff: int | Sequence[int],
    smoothing: float | None = None,
    periodic_axes: int | Sequence[int] | None = None,
    confidence_index: ArrayLike | None = None,
    dtype: DTypeLike = "float32",
    scratch: Url | None = None,
) -> Operation[Any]:
    """Compute the surface correlation functions of a phase of one volume of any size, for lags up to a cutoff.

    See `correlate_surfaces` for the formulas.

    Parameters
    ----------
    volume : array, shape (*spatial,)
        Phase number of each voxel, with 1 to 3 axes and any chunks: NumPy, zarr, dask, or a variable of the Dataset
        that `open_volume` returns.
    phase, smoothing
        As in `correlate_surfaces`.
    cutoff, periodic_axes, dtype
        As in `correlate_volume`.
    confidence_index : array, shape (*spatial,), optional
        Weight c[s] in [0, 1] of each voxel, as in `correlate_surfaces`.
    scratch : str or path, optional
        A store that keeps the two fields, 8 bytes for a voxel in float32. With `scratch`, the call computes them at
        once. If it is killed, the same call continues. You remove the store yourself. Default: fields stay in memory
        until all tiles that touch them are done.

    Returns
    -------
    dask array or DataArray, shape (*lags, 2), float64
        F_ss and F_sv. Lag 0 is at index `cutoff`. The result is lazy.

    Raises
    ------
    ValueError
        As in `correlate_surfaces` and `correlate_volume`.

    References
    ----------
    Torquato, S. Random Heterogeneous Materials. Springer, 2002, section 2.2.

    Examples
    --------
    >>> import numpy as np
    >>> volume = np.zeros((40, 40), int)
    >>> volume[10:30] = 1
    >>> f = correlate_volume_surfaces(volume, 1, cutoff=10, periodic_axes=[0, 1]).compute()
    >>> float(f[20, 10, 1].round(3))  # both interfaces lie along an axis
    0.02
    >>> f = correlate_volume_surfaces(volume, 1, cutoff=10, smoothing=1.5, periodic_axes=[0, 1]).compute()
    >>> float(f[20, 10, 1].round(3))  # F_sv is half of the specific surface, 2 / 40
    0.025
    """
    found = volume_of_phases(volume, phase, periodic_axes, confidence_index)
    grid = found.grid
    fields = _surface_fields(phase, grid, smoothing, dtype)
    LagFFT.of(grid.shape, grid.periodic, cutoff, real=True)
    return _VolumeFunctions(found.data, found.labels, grid, found.confidence, fields, cutoff, scratch)
