"""Results that follow from 2-point statistics: radial averages, interface area and the integral range."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mksdask.arrays import (
    SPATIAL_DIMS,
    Array,
    ArrayLike,
    is_lazy,
    is_number,
    numbers_argument,
    refuse_unnumeric,
    shown,
    unwrap,
)
from mksdask.compute.blocks import array_of, fold_parts
from mksdask.compute.graph import check_known
from mksdask.schema.arguments import checked

# For each number of dimensions: interface area per volume, divided by the mean number of crossings per length of a
# line. These are the formulas of Cauchy and Crofton.
AREA_OF_CROSSINGS = {1: 1.0, 2: np.pi / 2.0, 3: 2.0}
# More shells than these would not fit in memory, and mean that the width or the spacing is in another unit.
MOST_SHELLS = 1_000_000
# A sum over lags is zero if it is less than this share of the sum of absolute values. Single precision leaves 1.3e-4
# of it for white noise on 512² voxels.
ZERO_SUM = 1e-3
# At lag 0, single precision leaves less than this of the statistics of two phases, which are zero there.
ZERO_FRACTION = 1e-6


def _n_lag_axes(shape: Sequence[int], n_spatial: int | None) -> int:
    """Return the number of lag axes of statistics without labels, (*lags, n_pairs) or (n_samples, *lags, n_pairs).

    Parameters
    ----------
    shape : sequence of int
        Shape of the statistics.
    n_spatial : int or None
        The number, if the caller gave it.

    Raises
    ------
    ValueError
        If the shape does not fit to `n_spatial`, or can be read in two ways without it.
    """
    n_axes = len(shape)
    possible = [n for n in (1, 2, 3) if n_axes - n in (1, 2)]
    if n_spatial is None and len(possible) == 2:
        fewer, more = possible
        msg = (
            f"statistics of shape {tuple(shape)} can be read in two ways; pass n_spatial={more} if it is "
            f"(*lags, n_pairs) of one sample with {more} axes of lags, or n_spatial={fewer} if it is "
            "(n_samples, *lags, n_pairs)"
        )
        raise ValueError(msg)
    if not possible or n_spatial not in (None, *possible):
        msg = (
            f"statistics must be (*lags, n_pairs) or (n_samples, *lags, n_pairs) with 1 to 3 axes of lags; got shape "
            f"{tuple(shape)} and n_spatial={n_spatial!r}"
        )
        raise ValueError(msg)
    return possible[0] if n_spatial is None else int(n_spatial)


def as_statistics(
    statistics: ArrayLike, spacing: float | Sequence[float] | None, n_spatial: int | None
) -> tuple[xr.DataArray, list[str], list[Array], str]:
    """Label statistics if they are not labelled. Return them with their lag dims, their lags and the unit of lags."""
    data, labels = unwrap(statistics, name="statistics")
    refuse_unnumeric(data, name="statistics")
    check_known(data, "statistics")
    if data.dtype.kind not in "iufc":
        msg = f"statistics must hold numbers, got {shown(data)}"
        raise TypeError(msg)
    if labels is None:
        n_lags = _n_lag_axes(data.shape, n_spatial)
        dims = [f"lag_{dim}" for dim in SPATIAL_DIMS[:n_lags]]
        labels = xr.DataArray(data, dims=[*(("sample",) if data.ndim - n_lags == 2 else ()), *dims, "pair"])
    lag_dims = [str(dim) for dim in labels.dims if str(dim).startswith("lag_")]
    if not lag_dims or "pair" not in labels.dims:
        msg = f"statistics must have dims lag_x, … and pair, as correlate returns them; got {labels.dims}"
        raise ValueError(msg)
    if spacing is None and all(dim in labels.coords for dim in lag_dims):
        lags = [labels.coords[dim].values for dim in lag_dims]
        return labels, lag_dims, lags, str(labels.coords[lag_dims[0]].attrs.get("units", "voxel"))
    steps = numbers_argument(1.0 if spacing is None else spacing, "spacing")
    if steps.shape not in ((), (len(lag_dims),)) or not (np.isfinite(steps).all() and (steps > 0).all()):
        msg = f"spacing must be a positive number, or one for each of the {len(lag_dims)} axes; got {spacing!r}"
        raise ValueError(msg)
    steps = np.broadcast_to(steps, len(lag_dims))
    sizes = [labels.sizes[dim] for dim in lag_dims]
    return labels, lag_dims, [(np.arange(n) - n // 2) * step for n, step in zip(sizes, steps, strict=True)], "voxel"


@dataclass(frozen=True)
class _Shells:
    """Shells of lags of similar length. They are centred on multiples of a thickness. Lag 0 has a shell of its own."""

    thickness: float
    n_shells: int

    def of(self, lags: Sequence[Array]) -> tuple[NDArray[np.int64], Array]:
        """Find the shell and the length of each lag of a block, (*lags). Shell `n_shells` holds all longer lags."""
        squares = np.zeros((1,) * len(lags))
        for axis, along in enumerate(lags):
            squares = squares + (along**2).reshape([-1 if a == axis else 1 for a in range(len(lags))])
        distance = np.sqrt(squares)
        shell = np.where(distance == 0.0, 0, np.maximum(np.rint(distance / self.thickness), 1))
        return np.minimum(shell, self.n_shells).astype(np.int64), distance

    def radius(self, lags: Sequence[Array]) -> Array:
        """Compute the mean length of the lags of each shell, plane by plane."""
        first, *others = lags
        sums = np.zeros((2, self.n_shells + 1))
        for value in first:
            shell, distance = (values.ravel() for values in self.of([np.array([value]), *others]))
            for row, weights in zip(sums, (None, distance), strict=True):
                row += np.bincount(shell, weights, self.n_shells + 1)
        with np.errstate(invalid="ignore"):
            return np.asarray(sums[1] / sums[0])[:-1]

    def sums(self, values: Array, lags: Sequence[Array]) -> Array:
        """Add up and count the values of each shell: (..., *lags, n_pairs) → (2, ..., n_shells, n_pairs).

        NaN does not count.
        """
        shell = self.of(lags)[0].ravel()
        leading = values.shape[: values.ndim - 1 - len(lags)]
        flat = values.reshape(*leading, -1, values.shape[-1])
        size = self.n_shells + 1
        out = np.empty((2, *leading, self.n_shells, flat.shape[-1]), dtype=np.result_type(values, np.float64))
        for index in np.ndindex(*leading, flat.shape[-1]):
            row = (*index[:-1], slice(None), index[-1])
            known = ~np.isnan(flat[row])
            part, shells = flat[row][known], shell[known]
            sums = np.bincount(shells, part.real, size).astype(out.dtype)
            if out.dtype.kind == "c":
                sums += 1j * np.bincount(shells, part.imag, size)
            out[(0, *row)], out[(1, *row)] = sums[:-1], np.bincount(shells, minlength=size)[:-1]
        return out


def _mean(sums: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return np.asarray(sums[0] / sums[1].real)


def _average(data: Any, lags: Sequence[Array], shells: _Shells) -> Any:
    """Average over shells: (..., *lags, n_pairs) → (..., n_shells, n_pairs), lazily with one task for each block."""
    if not is_lazy(data):
        return _mean(shells.sums(data, lags))
    data = data.rechunk({data.ndim - 1: -1})
    n_leading = data.ndim - 1 - len(lags)
    near = [
        np.split(along, np.cumsum(sizes)[:-1]) for along, sizes in zip(lags, data.chunks[n_leading:-1], strict=True)
    ]
    blocks, dtype, found = data.to_delayed(optimize_graph=False), np.result_type(data.dtype, np.float64), []
    for leading in np.ndindex(*data.numblocks[:n_leading]):
        parts = list(zip(blocks[leading].ravel(), itertools.product(*near), strict=True))
        total = fold_parts(shells.sums, np.add, parts, name="shells", of=())
        shape = (*(data.chunks[axis][i] for axis, i in enumerate(leading)), shells.n_shells, data.shape[-1])
        found.append(array_of(total, shape, dtype, name="radial-average", function=_mean))
    return np.concatenate(found)


@checked
def radial_average(
    statistics: ArrayLike,
    *,
    width: float | None = None,
    spacing: float | Sequence[float] | None = None,
    n_spatial: int | None = None,
) -> xr.DataArray:
    """Average 2-point statistics over all directions, as a function of the distance.

    Parameters
    ----------
    statistics : array, shape (*lags, n_pairs) or (n_samples, *lags, n_pairs)
        Result of `correlate_volume` or `correlate`.
    width : float, optional
        Thickness of a shell, in the unit of the lags. Default: the smallest voxel size of all axes.
    spacing : float or sequence of float, optional
        Voxel size along each axis. Default: that of the coordinates of a DataArray, or 1.
    n_spatial : int, optional
        Number of lag axes. It is required for statistics without labels that have three or four axes, because these
        may be of one sample or of several.

    Returns
    -------
    xarray.DataArray, shape (n_shells, n_pairs) or (n_samples, n_shells, n_pairs)
        Averages over shells of lags. The coordinate ``radius`` is the mean length of the lags of each shell. The first
        shell holds only lag 0. The last shell is the largest that has lags in all directions. The result is lazy for
        lazy input, with one task for each block of lags.

    Raises
    ------
    ValueError
        If the shape of `statistics` does not fit to `n_spatial` or can be read in two ways, or if `width` or `spacing`
        is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> from mksdask import PrimitiveBasis
    >>> from mksdask.stats import correlate_volume
    >>> f = correlate_volume(np.indices((40, 40)).sum(axis=0) % 2, PrimitiveBasis(2), cutoff=3)
    >>> radial_average(f, n_spatial=2).radius.values.round(2).tolist()
    [0.0, 1.21, 2.16, 3.04]
    """
    labelled, lag_dims, lags, units = as_statistics(statistics, spacing, n_spatial)
    steps = [float(abs(along[-1] - along[0]) / (len(along) - 1)) for along in lags if len(along) > 1]
    thickness = min(steps, default=1.0) if width is None else width
    if not is_number(thickness) or not thickness > 0:
        msg = f"width must be a positive number, got {width!r}"
        raise ValueError(msg)
    reach = min(min(-float(along[0]), float(along[-1])) if len(along) > 1 else np.inf for along in lags)
    if np.isfinite(reach) and reach / thickness > MOST_SHELLS:
        msg = (
            f"width={thickness} makes more than {MOST_SHELLS} shells of lags up to {reach:g}; take a larger width, or "
            "check spacing"
        )
        raise ValueError(msg)
    shells = _Shells(thickness, int(np.floor(reach / thickness + 1e-9)) + 1 if np.isfinite(reach) else 1)
    others = [str(dim) for dim in labelled.dims if dim not in (*lag_dims, "pair")]
    ordered = labelled.transpose(*others, *lag_dims, "pair")
    return xr.DataArray(
        _average(ordered.data, lags, shells),
        dims=(*others, "radius", "pair"),
        coords={name: value for name, value in ordered.coords.items() if not set(value.dims) & set(lag_dims)}
        | {"radius": ("radius", shells.radius(lags), {"units": units})},
        name=ordered.name,
        attrs=ordered.attrs,
    )


def _fraction_at_origin(labelled: xr.DataArray, lag_dims: Sequence[str]) -> xr.DataArray:
    return labelled.isel({dim: labelled.sizes[dim] // 2 for dim in lag_dims})


@checked
def pair_correlation(
    statistics: ArrayLike,
    fractions: Sequence[float] | None = None,
    *,
    width: float | None = None,
    spacing: float | Sequence[float] | None = None,
    n_spatial: int | None = None,
) -> xr.DataArray:
    """Compute the radial pair correlation g(r) = f[h, h'; r] / (v_h v_h').

    It is 1 at distances at which the phases of two voxels are independent. Where it is larger, the states h and h'
    occur together more often than by chance.

    Parameters
    ----------
    statistics : array, shape (*lags, n_pairs) or (n_samples, *lags, n_pairs)
        2-point statistics of phases.
    fractions : sequence of (float, float), optional
        Volume fractions v_h and v_h' of each pair. Default: v_h = f[h, h; 0], if all pairs are autocorrelations.
    width, spacing, n_spatial
        As in `radial_average`.

    Returns
    -------
    xarray.DataArray
        As in `radial_average`.

    Raises
    ------
    ValueError
        If `fractions` is missing but needed, or does not hold two positive numbers for each pair.

    Examples
    --------
    >>> import numpy as np
    >>> from mksdask import PrimitiveBasis
    >>> from mksdask.stats import correlate_volume
    >>> X = np.random.default_rng(0).integers(0, 2, (60, 60, 60))
    >>> g = pair_correlation(correlate_volume(X, PrimitiveBasis(2), cutoff=3, correlations=[(1, 1)]), n_spatial=3)
    >>> bool(abs(g[2:] - 1).max() < 0.01)
    True
    """
    labelled, lag_dims, _, _ = as_statistics(statistics, spacing, n_spatial)
    radial = radial_average(statistics, width=width, spacing=spacing, n_spatial=n_spatial)
    if fractions is not None:
        values = numbers_argument(fractions, "fractions")
        if values.shape != (labelled.sizes["pair"], 2) or not (values > 0).all():
            msg = (
                f"fractions must be two positive volume fractions for each of the {labelled.sizes['pair']} pairs, got "
                f"{fractions!r}"
            )
            raise ValueError(msg)
        return radial / xr.DataArray(values.prod(axis=1), dims="pair")
    if "state_1" in labelled.coords and not bool((labelled.state_1 == labelled.state_2).all()):
        msg = "statistics hold pairs of different states; pass the volume fractions of each pair as fractions="
        raise ValueError(msg)
    return radial / _fraction_at_origin(labelled, lag_dims).real ** 2


@checked
def specific_surface(
    statistics: ArrayLike, *, spacing: float | Sequence[float] | None = None, n_spatial: int | None = None
) -> xr.DataArray:
    r"""Compute the specific surface of a phase, its interface area per volume, from 2-point statistics.

    With voxels of size :math:`d_i` along axis i, a line along this axis crosses the interface
    :math:`2 (f[0] - f[e_i]) / d_i` times per length. Let P be the mean of these numbers over the axes. In 3D, the area
    per volume is :math:`S_V = 2 P`. In 2D, the length per area is :math:`\pi P / 2`. In 1D, the number per length is P.
    The formula is exact if P is the mean over all directions. Here the axes stand for all directions.

    Parameters
    ----------
    statistics : array, shape (*lags, n_pairs) or (n_samples, *lags, n_pairs)
        2-point statistics of phases at lags of at least one voxel.
    spacing, n_spatial
        As in `radial_average`.

    Returns
    -------
    xarray.DataArray, shape (n_pairs,) or (n_samples, n_pairs)
        Specific surface, in the inverse of the unit of the lags. For a pair of two phases, it is that of the interface
        between these two.

    Raises
    ------
    ValueError
        If `statistics` has no lags of one voxel.

    References
    ----------
    Debye, P., Anderson, H. R., Brumberger, H. Scattering by an inhomogeneous solid II. J. Appl. Phys. 28 (1957) 679.
    Berryman, J. G. Relationship between specific surface area and spatial correlation functions for anisotropic porous
    media. J. Math. Phys. 28 (1987) 244.

    Examples
    --------
    >>> import numpy as np
    >>> from mksdask import PrimitiveBasis
    >>> from mksdask.stats import correlate_volume
    >>> ball = (np.sum((np.indices((64,) * 3) - 31.5) ** 2, axis=0) < 20**2).astype(int)
    >>> f = correlate_volume(ball, PrimitiveBasis(2), cutoff=1, correlations=[(1, 1)], periodic_axes=[0, 1, 2])
    >>> round(float(specific_surface(f, n_spatial=3)[0]) * 64**3 / (4 * np.pi * 20**2), 1)
    1.0
    """
    labelled, lag_dims, lags, units = as_statistics(statistics, spacing, n_spatial)
    if any(len(along) < 3 for along in lags):
        msg = f"statistics must have lags of one voxel along each axis, got {labelled.sizes}; use cutoff=1 or more"
        raise ValueError(msg)
    origin = _fraction_at_origin(labelled, lag_dims).real
    crossings: Any = 0.0
    for dim, along in zip(lag_dims, lags, strict=True):
        middle = len(along) // 2
        centre = {other: labelled.sizes[other] // 2 for other in lag_dims}
        # One phase may follow the other more often in one direction than against it.
        neighbours = sum(labelled.isel(centre | {dim: middle + lag}).real for lag in (-1, 1))
        # The autocorrelation of a phase falls from lag 0, and the statistics of two phases rise from 0.
        crossings = crossings + abs(2.0 * origin - neighbours) / abs(float(along[middle + 1] - along[middle]))
    area = AREA_OF_CROSSINGS[len(lag_dims)] * crossings / len(lag_dims)
    kept = [name for name in area.coords if str(name).startswith("lag_")]
    return area.drop_vars(kept).assign_attrs(units=f"1/{units}").rename("specific_surface")


@checked
def integral_range(
    statistics: ArrayLike, *, spacing: float | Sequence[float] | None = None, n_spatial: int | None = None
) -> xr.DataArray:
    r"""Compute the integral range of each phase, which tells how large a representative sample must be.

    .. math:: A = \int \frac{f[h, h; r] - v^2}{v - v^2}\, dr

    A is the volume of one independent piece of the material. In a sample of volume V, the variance of the volume
    fraction v is about :math:`v (1 - v) A / V`.

    Parameters
    ----------
    statistics : array, shape (*lags, n_pairs) or (n_samples, *lags, n_pairs)
        Autocorrelations of phases, up to lags at which the phases of two voxels are independent.
    spacing, n_spatial
        As in `radial_average`.

    Returns
    -------
    xarray.DataArray, shape (n_pairs,) or (n_samples, n_pairs)
        Integral range, in the unit of the lags to the power of the number of axes. The integral is a sum over the lags
        of `statistics`, in which NaN does not count. It is NaN for a pair of two phases, for a phase that is absent or
        fills the sample, and if the sum is zero: all lags of a periodic sample add up to zero, whatever the material.

    Notes
    -----
    The sum is of use only with a cutoff. Statistics at lags as long as half the sample are so inexact that they may
    make it many times too large. `phase_fraction_interval` needs no cutoff.

    References
    ----------
    Lantuéjoul, C. Ergodicity and integral range. J. Microsc. 161 (1991) 387.

    Examples
    --------
    >>> import numpy as np
    >>> from mksdask import PrimitiveBasis
    >>> from mksdask.stats import correlate_volume
    >>> X = np.kron(np.random.default_rng(0).integers(0, 2, 20000), np.ones(10, int))  # pieces of 10 voxels
    >>> f = correlate_volume(X, PrimitiveBasis(2), cutoff=10, correlations=[(1, 1)])
    >>> round(float(integral_range(f)[0]))
    10
    """
    labelled, lag_dims, lags, units = as_statistics(statistics, spacing, n_spatial)
    origin = _fraction_at_origin(labelled, lag_dims).real.drop_vars(lag_dims, errors="ignore")
    cell = float(np.prod([abs(along[1] - along[0]) for along in lags if len(along) > 1]))
    variance = origin - origin**2
    covariance = labelled.real - origin**2
    total = covariance.sum(lag_dims)
    is_known = (variance > ZERO_FRACTION) & (abs(total) > ZERO_SUM * abs(covariance).sum(lag_dims))
    total = (total / variance).where(is_known)
    if "state_1" in total.coords:
        total = total.where(total.state_1 == total.state_2)
    return (total * cell).assign_attrs(labelled.attrs, units=f"{units}^{len(lag_dims)}").rename("integral_range")
