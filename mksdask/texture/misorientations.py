"""Misorientations of neighbouring voxels, and those of random orientations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numba
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mksdask.arrays import Array, ArrayLike, is_number, numbers_argument, shown
from mksdask.bases.gsh import GSHBasis, check_angles, symmetry_rotations
from mksdask.compute.blocks import array_of
from mksdask.compute.operation import Operation, operation
from mksdask.compute.plans import Limit, Plan, SampleWork, Stage, chunk_layout
from mksdask.samples import Grid, Samples, Volume, check_confidence
from mksdask.schema.arguments import checked
from mksdask.stats.halos import HaloedTiles

DEGREE = np.pi / 180.0
# Bytes of a voxel in a task: angles in double precision, cosines and sines, the quaternion, and the weight.
WORK = 24 + 64 + 32 + 9
# Axes over which misorientations of random crystals are averaged.
N_AXES = 2**18

_jit = numba.njit(cache=True, nogil=True)


@_jit
def _add_pairs(quaternions, weights, group, first, last, wraps, shares, width, least, sums):  # type: ignore[no-untyped-def]
    """Add pairs of neighbours to sums: classes of the angle, and weights of boundaries, of all, and of angles."""
    shape = weights.shape
    n_classes = len(sums) - 3
    for x in range(first[0], last[0]):
        for y in range(first[1], last[1]):
            for z in range(first[2], last[2]):
                if weights[x, y, z] == 0.0:
                    continue
                for axis in range(3):
                    i, j, k = x, y, z
                    if axis == 0:
                        i += 1
                    elif axis == 1:
                        j += 1
                    else:
                        k += 1
                    if i == shape[0] or j == shape[1] or k == shape[2]:
                        # A voxel is no neighbour of itself.
                        if not wraps[axis] or shape[axis] == 1:
                            continue
                        i, j, k = i % shape[0], j % shape[1], k % shape[2]
                    weight = weights[x, y, z] * weights[i, j, k] * shares[axis]
                    if weight == 0.0:
                        continue
                    p, q = quaternions[x, y, z], quaternions[i, j, k]
                    # p* q, with the real part last.
                    a = p[3] * q[0] - p[0] * q[3] - p[1] * q[2] + p[2] * q[1]
                    b = p[3] * q[1] - p[1] * q[3] - p[2] * q[0] + p[0] * q[2]
                    c = p[3] * q[2] - p[2] * q[3] - p[0] * q[1] + p[1] * q[0]
                    d = p[3] * q[3] + p[0] * q[0] + p[1] * q[1] + p[2] * q[2]
                    largest = 0.0
                    for s in range(len(group)):
                        turn = abs(d * group[s, 3] - a * group[s, 0] - b * group[s, 1] - c * group[s, 2])
                        largest = max(largest, turn)
                    angle = 2.0 * np.arccos(min(1.0, largest))
                    sums[n_classes + 1] += weight
                    if angle >= least:
                        sums[min(int(angle / width), n_classes - 1)] += weight
                        sums[n_classes] += weight
                        sums[n_classes + 2] += weight * angle


def _quaternions(angles: Array) -> NDArray[np.float64]:
    """Compute the quaternions (x, y, z, w) of Bunge angles, (..., 3) → (..., 4)."""
    phi1, tilt, phi2 = np.moveaxis(angles.astype(np.float64), -1, 0)
    out = np.empty((*angles.shape[:-1], 4))
    sine, cosine = np.sin(0.5 * tilt), np.cos(0.5 * tilt)
    difference, total = 0.5 * (phi1 - phi2), 0.5 * (phi1 + phi2)
    out[..., 0], out[..., 1] = sine * np.cos(difference), sine * np.sin(difference)
    out[..., 2], out[..., 3] = cosine * np.sin(total), cosine * np.cos(total)
    return out


@lru_cache(maxsize=16)
def _largest_angles(laue_group: str) -> NDArray[np.float64]:
    """Compute the largest angle of a disorientation about each of many axes, in rising order.

    Rodrigues vectors of disorientations lie in a body of planes. Each rotation of the crystal by α about the axis n is
    a plane, at the distance tan(α/4) along n.
    """
    rotations = symmetry_rotations(laue_group).as_rotvec()
    angles = np.linalg.norm(rotations, axis=1)
    # Rotations by half a turn have two planes.
    planes = np.concatenate([rotations, -rotations])[np.tile(angles > 1e-9, 2)]
    along = np.linalg.norm(planes, axis=1)
    number = np.arange(N_AXES) + 0.5
    height, azimuth = 1.0 - 2.0 * number / N_AXES, np.pi * (1.0 + np.sqrt(5.0)) * number
    across = np.sqrt(1.0 - height**2)
    axes = np.stack([across * np.cos(azimuth), across * np.sin(azimuth), height], axis=-1)
    nearest = np.full(N_AXES, np.inf)
    for plane, angle in zip(planes, along, strict=True):
        cosine = axes @ (plane / angle)
        with np.errstate(divide="ignore"):
            nearest = np.minimum(nearest, np.where(cosine > 1e-12, np.tan(0.25 * angle) / cosine, np.inf))
    found = np.sort(2.0 * np.arctan(nearest))
    found.flags.writeable = False
    return found


def largest_misorientation(laue_group: str) -> float:
    """Return the largest angle of a disorientation, such as 62.8° of cubic crystals, in radians."""
    return float(_largest_angles(laue_group)[-1])


def mackenzie_density(angles: ArrayLike, laue_group: str = "cubic") -> NDArray[np.float64]:
    r"""Compute the probability density of the misorientation of two crystals with random orientations.

    .. math:: p(\omega) = \frac{|G|}{\pi} (1 - \cos \omega)\, A(\omega)

    A(ω) is the share of axes about which a rotation by ω is the smallest of all that the symmetry G makes equal.

    Parameters
    ----------
    angles : array
        Angles ω in radians.
    laue_group : str, default "cubic"
        Laue group of both crystals, as in `GSHBasis`.

    Returns
    -------
    ndarray of the shape of `angles`, float64
        Density per radian. It is 0 beyond the largest misorientation, such as 62.8° for cubic crystals.

    Raises
    ------
    ValueError
        If there is no such Laue group.

    Notes
    -----
    A is averaged over 262,144 axes, so the density is exact to about four digits. For cubic crystals, it is the
    distribution of Mackenzie.

    References
    ----------
    Mackenzie, J. K. Second paper on statistics associated with the random disorientation of cubes. Biometrika 45
    (1958) 229.
    Morawiec, A. Misorientation-angle distribution of randomly oriented symmetric objects. J. Appl. Cryst. 28 (1995)
    289.

    Examples
    --------
    >>> import numpy as np
    >>> (mackenzie_density(np.deg2rad([30, 45, 63])) * np.pi / 180).round(4).tolist()  # per degree
    [0.0179, 0.0391, 0.0]
    """
    given = numbers_argument(angles, "angles")
    order = len(symmetry_rotations(laue_group, name="laue_group"))
    known = _largest_angles(laue_group)
    share = 1.0 - np.searchsorted(known, given, side="left") / len(known)
    return np.asarray(order / np.pi * (1.0 - np.cos(given)) * share * ((given >= 0) & (given <= np.pi)))


@dataclass(frozen=True)
class MisorientationSums:
    """The kernel of sums over pairs of neighbours in one sample, or in one tile of a volume.

    Parameters
    ----------
    laue_group : str
        Laue group of the crystals.
    shares : tuple of float
        Weight of the face between two voxels along each axis.
    width : float
        Width of the classes, radians.
    least : float
        The least angle of a boundary, radians.
    """

    laue_group: str
    shares: tuple[float, ...]
    width: float
    least: float

    @property
    def n_classes(self) -> int:
        """Number of classes, up to the largest angle."""
        return max(1, int(np.ceil(largest_misorientation(self.laue_group) / self.width - 1e-6)))

    def __call__(
        self, values: Array, confidence: Array | None, periodic: Sequence[bool], inner: tuple[slice, ...] | None = None
    ) -> NDArray[np.float64]:
        """Add pairs whose first voxel lies in a part `inner` of angles (*spatial, 3): (n_classes + 3,)."""
        spatial = values.shape[:-1]
        weights = np.ones(spatial)
        if confidence is not None:
            check_confidence(confidence)
            weights = confidence.astype(np.float64)
            values = np.where((confidence > 0)[..., None], values, 0.0)
        check_angles(values)
        group = symmetry_rotations(self.laue_group).as_quat()
        first, last, wraps, shares = np.zeros(3, np.int64), np.ones(3, np.int64), np.zeros(3, np.bool_), np.zeros(3)
        n, whole = len(spatial), tuple(slice(0, length) for length in spatial)
        first[:n], last[:n] = zip(*((part.start, part.stop) for part in inner or whole), strict=True)
        wraps[:n], shares[:n] = periodic, self.shares
        sums, shape = np.zeros(self.n_classes + 3), (*spatial, *(1,) * (3 - n))
        quaternions = _quaternions(values).reshape(*shape, 4)
        _add_pairs(quaternions, weights.reshape(shape), group, first, last, wraps, shares, self.width, self.least, sums)
        return sums


def _told(sums: Array, *, width: float) -> Array:
    """Turn sums (..., n_classes + 3) into densities, the mean angle, and the share of boundaries."""
    boundaries, pairs, angles = sums[..., -3:-2], sums[..., -2:-1], sums[..., -1:]
    known = np.where(boundaries > 0, boundaries, np.nan)
    with np.errstate(invalid="ignore"):
        share = boundaries / np.where(pairs > 0, pairs, np.nan)
        return np.concatenate([sums[..., :-3] / known / width, angles / known, share], axis=-1)


@dataclass(frozen=True)
class _OfSamples:
    """The kernel of one block of samples: (n, *spatial, 3) → (n, n_classes + 2)."""

    sums: MisorientationSums
    periodic: tuple[bool, ...]

    def __call__(self, block: Array, confidence: Array | None = None, shared: Array | None = None) -> Array:
        masks = [shared] * len(block) if confidence is None else confidence
        found = [self.sums(sample, mask, self.periodic) for sample, mask in zip(block, masks, strict=True)]
        return _told(np.array(found).reshape(len(block), self.sums.n_classes + 3), width=self.sums.width)


@dataclass(frozen=True)
class _OfTile:
    """The kernel of one tile with its halo."""

    sums: MisorientationSums

    def __call__(self, block: Array, inner: tuple[slice, ...], mask: Array | None = None) -> Array:
        return self.sums(block, mask, (False,) * len(inner), inner)


def _sums_argument(laue_group: Any, width: Any, least: Any, grid: Grid) -> MisorientationSums:
    """Check the arguments.

    Raises
    ------
    ValueError
        If one is not valid.
    """
    symmetry_rotations(laue_group, name="laue_group")
    if not is_number(width) or not 0.05 * DEGREE <= width <= np.pi:
        msg = f"width must be an angle in radians from 0.0009 (0.05°) to π, got {shown(width)}"
        raise ValueError(msg)
    if not is_number(least) or not 0 <= least <= np.pi:
        msg = f"least must be an angle in radians from 0 to π, got {shown(least)}"
        raise ValueError(msg)
    steps = [abs(step) for step in grid.steps]
    shares = tuple(min(steps) / step if step else 1.0 for step in steps)
    return MisorientationSums(laue_group, shares, float(width), float(least))


def _dataset(found: Any, kernel: MisorientationSums, labels: xr.DataArray | None) -> xr.Dataset:
    """Name the parts of densities, mean and share: (..., n_classes + 2)."""
    lead = found.ndim - 1
    dims: tuple[Any, ...] = ("sample",)[:lead] if labels is None else labels.dims[:lead]
    coords: dict[Any, Any] = {} if labels is None else {dim: labels[dim] for dim in dims if dim in labels.coords}
    upper = kernel.width * np.arange(1, kernel.n_classes + 1)
    return xr.Dataset(
        {
            "density": ((*dims, "angle"), found[..., :-2], {"units": "1/rad"}),
            "mean": (dims, found[..., -2], {"units": "rad"}),
            "boundaries": (dims, found[..., -1]),
        },
        coords=coords | {"angle": ("angle", upper, {"units": "rad"})},
        attrs={"laue_group": kernel.laue_group, "least": kernel.least},
    )


@dataclass(frozen=True)
class _EnsembleDensity(Operation[xr.Dataset]):
    """The checked arguments of `misorientation_density`."""

    samples: Samples
    kernel: _OfSamples

    @property
    def work(self) -> SampleWork:
        samples, n_voxels = self.samples, int(np.prod(self.samples.spatial))
        result_bytes, order = (
            16 * (self.kernel.sums.n_classes + 3),
            len(symmetry_rotations(self.kernel.sums.laue_group)),
        )
        return SampleWork(
            "misorientations",
            samples.sample_bytes,
            lambda n: n * result_bytes + WORK * n_voxels,
            result_bytes,
            float(n_voxels * len(samples.spatial) * (30 + 8 * order)),
        )

    def plan(self, limit: Limit) -> Plan:
        stage = self.work.stage(self.samples.data, limit)
        return Plan("misorientation_density", chunk_layout(self.samples.data, stage), (stage,), limit)

    def run(self) -> xr.Dataset:
        samples, kernel = self.samples, self.kernel
        tail = (kernel.sums.n_classes + 2,)
        found = samples.mapped(kernel, tail=tail, dtype=np.float64, name="misorientations", work=self.work)
        return _dataset(found, kernel.sums, samples.labels)


@operation
@checked
def misorientation_density(
    X: ArrayLike,
    laue_group: str = "cubic",
    *,
    width: float = 2 * DEGREE,
    least: float = 2 * DEGREE,
    size: Sequence[int] | None = None,
    periodic_axes: int | Sequence[int] | None = None,
    confidence_index: ArrayLike | None = None,
) -> Operation[xr.Dataset]:
    """Compute the distribution of misorientation angles between neighbouring voxels of each sample.

    The misorientation of two crystals is the least angle of the rotations that turn one of them into the other, out of
    those that the symmetry of the crystals makes equal.

    Parameters
    ----------
    X : array, shape (n_samples, *spatial, 3)
        Bunge angles of each voxel, in radians, as NumPy, dask, zarr or xarray.
    laue_group : str, default "cubic"
        Laue group of the crystals, as in `GSHBasis`.
    width : float, default 2°
        Width of the classes of angles, in radians.
    least : float, default 2°
        The least angle of a boundary, in radians. Pairs of voxels with a smaller angle lie in one grain.
    size, periodic_axes
        As in `correlate`.
    confidence_index : array, shape (n_samples, *spatial) or (*spatial,), optional
        Weight c[s] in [0, 1] of each voxel. A pair of neighbours has the weight c[s] c[s']. Where c is 0, X may hold
        any value, also NaN. Points that are not indexed, and points of other phases, must have the weight 0.

    Returns
    -------
    xarray.Dataset
        ``density``, the probability density of the angle at boundaries, per radian, in classes; ``mean``, the mean
        angle at boundaries; and ``boundaries``, the share of pairs of neighbours that are boundaries. The coordinate
        ``angle`` is the upper end of each class. Density and mean are NaN if there is no boundary. All are lazy for
        lazy input.

    Raises
    ------
    ValueError
        As in `correlate`, or if another argument is not valid. When a block is computed: if an angle with a weight is
        NaN, or no angle in radians.

    Notes
    -----
    Neighbours share a face. If voxels are not cubes, a pair counts by the area of its face. The faces of voxels do not
    show how a boundary is inclined. Compare the density with `mackenzie_density`, that of random orientations.

    References
    ----------
    Mackenzie, J. K. Second paper on statistics associated with the random disorientation of cubes. Biometrika 45
    (1958) 229.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.zeros((1, 6, 4, 3))
    >>> X[:, 3:, :, 0] = np.deg2rad(30)  # two crystals, turned by 30°
    >>> found = misorientation_density(X)
    >>> float(np.rad2deg(found["mean"][0]).round(6)), round(float(found.boundaries[0]), 3)
    (30.0, 0.105)
    """
    samples = Samples.of(X, GSHBasis(1), size=size, confidence_index=confidence_index, periodic_axes=periodic_axes)
    sums = _sums_argument(laue_group, width, least, samples.grid)
    return _EnsembleDensity(samples, _OfSamples(sums, samples.grid.periodic))


@dataclass(frozen=True)
class _VolumeDensity(Operation[xr.Dataset]):
    """The checked arguments of `volume_misorientation_density`."""

    volume: Volume
    kernel: MisorientationSums

    def tiles(self, limit: Limit) -> HaloedTiles:
        volume = self.volume
        voxel_bytes = 2 * volume.voxel_bytes + WORK
        # A voxel is no neighbour of itself.
        halo = tuple(int(n > 1) for n in volume.spatial)
        remedy = "use fewer threads"
        return HaloedTiles.of(volume.data, volume.grid, halo, voxel_bytes, limit, remedy=remedy, mask=volume.confidence)

    def plan(self, limit: Limit) -> Plan:
        tiles = self.tiles(limit)
        tiling, n = tiles.tiling, int(np.prod(self.volume.spatial))
        order = len(symmetry_rotations(self.kernel.laue_group))
        read, operations = float(tiling.voxels_read() * self.volume.voxel_bytes), float(n * 3 * (30 + 8 * order))
        stage = Stage("misorientations", tiling.n_tiles, tiles.task_bytes, read, 0.0, operations)
        layout = {"volume": tiling.spatial, "tile": tiling.tile}
        return Plan("volume_misorientation_density", layout, (stage,), limit)

    def run(self) -> xr.Dataset:
        kernel = self.kernel
        sums = self.tiles(Limit.of()).fold(_OfTile(kernel), np.add, name="misorientation-sums")
        function, shape = partial(_told, width=kernel.width), (kernel.n_classes + 2,)
        return _dataset(array_of(sums, shape, np.float64, name="misorientations", function=function), kernel, None)


@operation
@checked
def volume_misorientation_density(
    volume: ArrayLike,
    laue_group: str = "cubic",
    *,
    width: float = 2 * DEGREE,
    least: float = 2 * DEGREE,
    periodic_axes: int | Sequence[int] | None = None,
    confidence_index: ArrayLike | None = None,
) -> Operation[xr.Dataset]:
    """Compute the distribution of misorientation angles between neighbours in one volume, or EBSD map, of any size.

    Parameters
    ----------
    volume : array, shape (*spatial, 3)
        Bunge angles of each voxel, in radians, with any chunks: NumPy, zarr, dask, or a variable of the Dataset that
        `open_volume` or `import_ebsd` returns.
    laue_group, width, least, periodic_axes
        As in `misorientation_density`.
    confidence_index : array, shape (*spatial,), optional
        Weight c[s] in [0, 1] of each voxel. For the phase 1 of an EBSD map, pass
        ``ds.confidence_index * (ds.phase == 1)``.

    Returns
    -------
    xarray.Dataset
        As `misorientation_density` returns, without the axis of samples. All are lazy, and do not depend on the tiles
        but for rounding.

    Raises
    ------
    ValueError
        As in `misorientation_density`.

    Examples
    --------
    >>> import numpy as np
    >>> volume = np.zeros((6, 4, 3))
    >>> volume[3:, :, 0] = np.deg2rad(30)
    >>> float(np.rad2deg(volume_misorientation_density(volume)["mean"]).round(6))
    30.0
    """
    found = Volume.of(volume, GSHBasis(1), confidence_index=confidence_index, periodic_axes=periodic_axes)
    return _VolumeDensity(found, _sums_argument(laue_group, width, least, found.grid))
