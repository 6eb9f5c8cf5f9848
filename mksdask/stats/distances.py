"""Distances inside a phase of a volume of any size: the distance map, pore sizes, and local thickness.

A tile is read with a halo as wide as the largest distance that counts. Then the result in the tile is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numba
import numpy as np
import xarray as xr

from mksdask.arrays import Array, ArrayLike, is_number, numbers_argument, shown
from mksdask.compute.blocks import array_of
from mksdask.compute.operation import Operation, operation
from mksdask.compute.plans import Limit, Plan, Stage
from mksdask.samples import Grid, check_confidence
from mksdask.schema.arguments import checked
from mksdask.stats.halos import HaloedTiles
from mksdask.stats.phases import volume_of_phases

# Bytes of a voxel in a task: squares of distances before and after a pass, and what is kept beside them.
WORK = 40
# A larger distance, in voxels, is one in another unit than that of the volume.
FARTHEST = 10**7


_jit = numba.njit(cache=True, nogil=True)


@_jit
def _spread(squares, step, most, out):  # type: ignore[no-untyped-def]
    """Take the least of ``squares[i + k] + (k step)²`` along the second of three axes."""
    before, n, after = squares.shape
    for p in range(before):
        for i in range(n):
            for q in range(after):
                best = squares[p, i, q]
                for k in range(1, max(i, n - 1 - i) + 1):
                    far = (k * step) ** 2
                    if far >= best or far > most:
                        break
                    if i >= k:
                        best = min(best, squares[p, i - k, q] + far)
                    if i + k < n:
                        best = min(best, squares[p, i + k, q] + far)
                out[p, i, q] = best


def distances_in(mask: Array, steps: Sequence[float], largest: float) -> Array:
    """Compute the distance of each voxel of a mask to the nearest voxel outside. It is infinite beyond the largest."""
    found, out = np.where(mask, np.inf, 0.0), np.empty(mask.shape)
    most = (largest * (1 + 1e-9)) ** 2
    for axis, (n, step) in enumerate(zip(mask.shape, steps, strict=True)):
        view = (int(np.prod(mask.shape[:axis])), n, -1)
        _spread(found.reshape(view), step, most, out.reshape(view))
        found, out = out, found
    np.sqrt(found, out=found)
    found[found > largest] = np.inf
    return found


@dataclass(frozen=True)
class _Distances:
    """The kernel of the distance map of one tile. Distances beyond the largest are infinite."""

    phase: int
    steps: tuple[float, ...]
    largest: float

    def __call__(self, block: Array, inner: tuple[slice, ...], mask: Array | None = None) -> Array:
        found = distances_in(~self.is_outside(block, mask), self.steps, self.largest)[inner].astype(np.float32)
        if mask is not None:
            found[mask[inner] == 0] = np.nan
        return found

    def is_outside(self, block: Array, mask: Array | None) -> Array:
        """Whether a voxel is known to be outside the phase."""
        outside = block != self.phase
        if mask is None:
            return outside
        check_confidence(mask)
        return outside & (mask > 0)


@dataclass(frozen=True)
class _PoreSizes:
    """The kernel of one tile: numbers of voxels in classes of distance, and sums of distances and their squares.

    The class k holds distances above k widths, up to k + 1 widths. The last class holds distances beyond the largest.
    """

    distances: _Distances
    width: float
    n_classes: int

    def __call__(self, block: Array, inner: tuple[slice, ...], mask: Array | None = None) -> Array:
        is_known = block[inner] == self.distances.phase
        if mask is not None:
            is_known &= mask[inner] > 0
        found = self.distances(block, inner, mask)[is_known].astype(np.float64)
        # Rounding must not move a distance of whole widths to the next class.
        classes = np.ceil(np.minimum(found / self.width, self.n_classes + 1.0) - 1e-6).astype(np.int64) - 1
        classes[np.isinf(found)] = self.n_classes
        counts = np.bincount(np.minimum(classes, self.n_classes), minlength=self.n_classes + 1)
        known = np.minimum(found, self.distances.largest)
        return np.concatenate([counts, [known.sum(), (known**2).sum()]])


@dataclass(frozen=True)
class _Thickness:
    """The kernel of the local thickness of one tile, for radii in falling order."""

    distances: _Distances
    radii: tuple[float, ...]

    def __call__(self, block: Array, inner: tuple[slice, ...], mask: Array | None = None) -> Array:
        steps = self.distances.steps
        depth = distances_in(~self.distances.is_outside(block, mask), steps, self.radii[0])
        if mask is not None:
            depth[mask == 0] = 0.0
        out = np.zeros(depth.shape, dtype=np.float32)
        for radius in self.radii:
            is_centre = depth >= radius
            if is_centre.any():
                out[(out == 0) & (distances_in(~is_centre, steps, radius) < radius)] = radius
        if mask is not None:
            out[mask == 0] = np.nan
        return out[inner]


@dataclass(frozen=True)
class _OfPhase(Operation[Any]):
    """The checked arguments of a call that works on the distances in a phase."""

    name: str
    data: Any
    labels: xr.DataArray | None
    grid: Grid
    phase: int
    confidence: Any
    reach: float  # how far a voxel may be whose phase matters
    largest: float = 0.0
    radii: tuple[float, ...] = field(default=())

    def __post_init__(self) -> None:
        most = FARTHEST * min(self.steps)
        if max(self.largest, *self.radii, 0.0) > most:
            name, given = ("radii", self.radii[0]) if self.radii else ("largest", self.largest)
            msg = f"{name} must be at most {most:g}, which is {FARTHEST} voxels, got {given:g}; look at its unit"
            raise ValueError(msg)

    @property
    def steps(self) -> tuple[float, ...]:
        return tuple(abs(step) for step in self.grid.steps)

    @property
    def distances(self) -> _Distances:
        return _Distances(self.phase, self.steps, self.largest)

    def tiles(self, limit: Limit) -> HaloedTiles:
        # No distance is longer than the volume, if the axis is not periodic.
        halo = [
            int(np.ceil(self.reach / step)) if wraps else min(int(np.ceil(self.reach / step)), n)
            for step, n, wraps in zip(self.steps, self.grid.shape, self.grid.periodic, strict=True)
        ]
        remedy = "ask for shorter distances"
        mask, voxel_bytes = self.confidence, WORK + self.data.dtype.itemsize
        voxel_bytes += 0 if mask is None else mask.dtype.itemsize + 2
        return HaloedTiles.of(self.data, self.grid, halo, voxel_bytes, limit, remedy=remedy, mask=mask)

    def plan(self, limit: Limit) -> Plan:
        tiles = self.tiles(limit)
        tiling = tiles.tiling
        read = float(tiling.voxels_read() * self.data.dtype.itemsize)
        layout = {"volume": tiling.spatial, "tile": tiling.tile, "halo": tiling.cutoff}
        notes = (f"Each voxel is read {tiling.voxels_read() / np.prod(tiling.spatial):.2f} times.",)
        stage = Stage("distances", tiling.n_tiles, tiles.task_bytes, read)
        return Plan(self.name, layout, (stage,), limit, notes)

    def run(self) -> Any:
        tiles = self.tiles(Limit.of())
        if self.name == "pore_sizes":
            return self._sizes(tiles)
        kernel: Any = self.distances
        if self.name == "local_thickness":
            kernel = _Thickness(self.distances, self.radii)
        found = tiles.map(kernel, np.float32, name=self.name.replace("_", "-"))
        if self.labels is None:
            return found
        attrs = {key: self.labels.attrs[key] for key in ("periodic_axes", "periods") if key in self.labels.attrs}
        attrs["units"] = self.grid.axes[0].units
        return xr.DataArray(found, dims=self.labels.dims, coords=self.labels.coords, name=self.name, attrs=attrs)

    def _sizes(self, tiles: HaloedTiles) -> xr.Dataset:
        width, units = min(self.steps), self.grid.axes[0].units
        n_classes = max(1, int(np.ceil(self.largest / width - 1e-9)))
        sums = tiles.fold(_PoreSizes(self.distances, width, n_classes), np.add, name="pore-sizes")

        def lazily(function: Any, shape: tuple[int, ...], name: str, **options: Any) -> Any:
            return array_of(sums, shape, np.float64, name=name, function=partial(function, **options))

        upper = width * np.arange(1, n_classes + 1)
        return xr.Dataset(
            {
                "density": ("distance", lazily(_density, (n_classes,), "pore-size-density", width=width)),
                "farther": ("distance", lazily(_farther, (n_classes,), "pore-size-cumulative")),
                "mean": ((), lazily(_moment, (), "mean-pore-size", order=1), {"units": units}),
                "mean_square": ((), lazily(_moment, (), "mean-square-pore-size", order=2), {"units": f"{units}^2"}),
                "beyond": ((), lazily(_beyond, (), "pore-size-beyond")),
            },
            coords={"distance": ("distance", upper, {"units": units})},
        )


def _density(sums: Array, *, width: float) -> Array:
    counts = sums[:-2]
    return np.asarray(counts[:-1] / max(1.0, counts.sum()) / width)


def _farther(sums: Array) -> Array:
    counts = sums[:-2]
    return np.asarray(1.0 - np.cumsum(counts[:-1]) / counts.sum()) if counts.any() else np.zeros(len(counts) - 1)


def _moment(sums: Array, *, order: int) -> Array:
    return np.asarray(sums[order - 3] / sums[:-2].sum() if sums[:-2].any() else np.nan)


def _beyond(sums: Array) -> Array:
    return np.asarray(sums[-3] / max(1.0, sums[:-2].sum()))


def _of_distance(
    name: str,
    volume: ArrayLike,
    phase: int,
    largest: float,
    periodic_axes: int | Sequence[int] | None,
    confidence_index: ArrayLike | None,
) -> _OfPhase:
    found = volume_of_phases(volume, phase, periodic_axes, confidence_index)
    if not is_number(largest) or not largest > 0:
        msg = f"largest must be a positive distance in the unit of the volume, got {shown(largest)}"
        raise ValueError(msg)
    given = (found.data, found.labels, found.grid, int(phase), found.confidence)
    return _OfPhase(name, *given, float(largest), largest=float(largest))


@operation
@checked
def distance_map(
    volume: ArrayLike,
    phase: int,
    *,
    largest: float,
    periodic_axes: int | Sequence[int] | None = None,
    confidence_index: ArrayLike | None = None,
) -> Operation[Any]:
    """Compute for each voxel of a phase the distance to the nearest voxel of another phase.

    Parameters
    ----------
    volume : array, shape (*spatial,)
        Phase number of each voxel, with 1 to 3 axes and any chunks: NumPy, zarr, dask, or a variable of the Dataset
        that `open_volume` returns.
    phase : int
        Number of the phase.
    largest : float
        The largest distance that is needed, in the unit of the volume. Tiles are read with a halo of this width.
    periodic_axes : sequence of int, optional
        Numbers of the periodic axes. Default: those in the attribute ``periodic_axes`` of a DataArray, or none.
    confidence_index : array, shape (*spatial,), optional
        Confidence of each voxel in [0, 1]. Voxels with 0 were not measured. As the sides of the volume, they are no
        other phase.

    Returns
    -------
    dask array or DataArray, shape (*spatial,), float32
        The distance between the centres of the two voxels, in the unit of the volume. It is 0 outside the phase,
        infinite if it is larger than `largest`, and NaN where the voxel was not measured. The sides of the volume are
        no other phase. The result is lazy and does not depend on the tiles. `mksdask.storage.materialize` writes it to
        a store, and goes on after a kill.

    Raises
    ------
    ValueError
        If the volume does not hold phase numbers, an axis does not exist, `largest` is not positive or more than 10⁷
        voxels, or no tile with its halo fits into memory.

    Notes
    -----
    A task takes up to 350 MB, or less on small workers. `mksdask.plan` shows it.

    Examples
    --------
    >>> import numpy as np
    >>> distance_map(np.array([0, 1, 1, 1, 1, 1, 0]), 1, largest=2).compute().tolist()
    [0.0, 1.0, 2.0, inf, 2.0, 1.0, 0.0]
    """
    return _of_distance("distance_map", volume, phase, largest, periodic_axes, confidence_index)


@operation
@checked
def pore_sizes(
    volume: ArrayLike,
    phase: int,
    *,
    largest: float,
    periodic_axes: int | Sequence[int] | None = None,
    confidence_index: ArrayLike | None = None,
) -> Operation[xr.Dataset]:
    r"""Compute the pore-size function of a phase: how far its points are from the nearest point outside.

    Parameters
    ----------
    volume, phase, largest, periodic_axes, confidence_index
        As in `distance_map`. Voxels that were not measured do not count.

    Returns
    -------
    xarray.Dataset
        ``density``, the probability density P(δ) of the distance in classes as wide as the smallest voxel size;
        ``farther``, the share of the phase that is farther from the outside than δ, called F(δ); ``mean`` and
        ``mean_square``, the mean pore size and the mean of its square; and ``beyond``, the share of the phase that is
        farther than `largest`. The coordinate ``distance`` is the upper end of each class. All are lazy.

    Raises
    ------
    ValueError
        As in `distance_map`.

    Notes
    -----
    Distances are those between centres of voxels. The interface lies about half a voxel nearer. Voxels that are farther
    than `largest` count with `largest` in the means, which are then too small. Choose `largest` so that ``beyond`` is
    0. The mean square bounds the time that a particle diffuses in the phase before it meets the interface.

    References
    ----------
    Torquato, S., Avellaneda, M. Diffusion and reaction in heterogeneous media: pore size distribution, relaxation
    times, and mean survival time. J. Chem. Phys. 95 (1991) 6477.

    Examples
    --------
    >>> import numpy as np
    >>> found = pore_sizes(np.array([0, 1, 1, 1, 1, 1, 0]), 1, largest=4)
    >>> float(found["mean"]), found.farther.values.round(2).tolist()
    (1.8, [0.6, 0.2, 0.0, 0.0])
    """
    return _of_distance("pore_sizes", volume, phase, largest, periodic_axes, confidence_index)


@operation
@checked
def local_thickness(
    volume: ArrayLike,
    phase: int,
    radii: Sequence[float],
    *,
    periodic_axes: int | Sequence[int] | None = None,
    confidence_index: ArrayLike | None = None,
) -> Operation[Any]:
    """Compute for each voxel of a phase the radius of the largest ball in the phase that covers it, out of given radii.

    Parameters
    ----------
    volume, phase, periodic_axes, confidence_index
        As in `distance_map`. No ball has its centre at a voxel that was not measured.
    radii : sequence of float
        Radii of the balls, in the unit of the volume. Tiles are read with a halo of twice the largest.

    Returns
    -------
    dask array or DataArray, shape (*spatial,), float32
        The largest of the radii whose ball fits into the phase and covers the voxel. It is 0 outside the phase, and
        where not even the smallest ball fits. It is NaN where the voxel was not measured. The result is lazy and does
        not depend on the tiles.

    Raises
    ------
    ValueError
        As in `distance_map`, or if `radii` are not different positive numbers up to 10⁷ voxels.

    Notes
    -----
    The result is exact for the given radii. A voxel is the centre of a ball if its distance to the next phase is at
    least the radius, and a voxel is covered if its centre is nearer than the radius. Both distances are those between
    centres of voxels. Between two radii, the thickness is rounded down. Each radius takes a distance transform of each
    tile.

    References
    ----------
    Hildebrand, T., Rüegsegger, P. A new method for the model-independent assessment of thickness in three-dimensional
    images. J. Microsc. 185 (1997) 67.

    Examples
    --------
    >>> import numpy as np
    >>> local_thickness(np.array([0, 1, 0, 1, 1, 1, 1, 1, 0]), 1, [1, 2, 3]).compute().tolist()
    [0.0, 1.0, 0.0, 3.0, 3.0, 3.0, 3.0, 3.0, 0.0]
    """
    found = volume_of_phases(volume, phase, periodic_axes, confidence_index)
    given = np.atleast_1d(numbers_argument(radii, "radii"))
    falling = sorted(given.ravel().tolist(), reverse=True)
    if (
        given.ndim > 1
        or not falling
        or not np.isfinite(given).all()
        or falling[-1] <= 0
        or len({*falling}) < given.size
    ):
        msg = f"radii must be different positive numbers, such as [1, 2, 4], got {shown(radii)}"
        raise ValueError(msg)
    of_volume = (found.data, found.labels, found.grid, int(phase), found.confidence)
    return _OfPhase("local_thickness", *of_volume, 2 * falling[0], radii=tuple(falling))
