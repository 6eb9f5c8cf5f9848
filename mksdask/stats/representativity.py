"""How well one volume represents its material: intervals of confidence for volume fractions and for other means.

The variance of the mean of a volume V is A σ²/V, where A is the integral range, the integral of the autocorrelation.
A σ² is the spectral density of the field at frequency 0. The volume itself gives the density at low frequencies: the
squares of its components along waves that are long against the features of the material. A line through their
logarithm, as a function of the squared frequency, gives the value at 0, and says how well it is known.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import scipy.stats
import xarray as xr

from mksdask.arrays import TEXT, Array, ArrayLike, integers, is_lazy, is_number, shown
from mksdask.bases.primitive import PrimitiveBasis
from mksdask.compute.blocks import array_of, fold_parts
from mksdask.compute.graph import stored_array
from mksdask.samples import Volume, check_confidence
from mksdask.schema.arguments import checked

# Largest number of cells along each axis, by number of axes. Sums over cells are all that is kept of a volume.
CELLS = {1: 2**12, 2: 2**8, 3: 2**6}
# A task reads this many voxels.
BOX_VOXELS = 2**24
# Numbers of waves among which the fit chooses.
WAVES = (16, 24, 32, 48, 64, 96, 128, 192, 256)
# The largest drop of the logarithm of the spectral density over the waves of the fit. Beyond it, a line does not fit.
# A drop must be larger by so many of its standard errors, or it may be chance. Where a fit ends by chance, the density
# at 0 is too high. These numbers and those of waves give the nominal coverage, see benchmarks/representativity.py.
DROP = 0.35
STANDARD_ERRORS = 1.5
# What is told of each mean, in this order.
COLUMNS = ("mean", "error", "low", "high", "standard_error", "integral_range", "degrees_of_freedom")


@dataclass(frozen=True)
class _Cells:
    """The kernel of one box: sums of the fields, of the weights and of their squares over cells of the volume.

    Parameters
    ----------
    phases : tuple of int or None
        Phases whose indicators are the fields. None if the volume holds the field itself.
    size : tuple of int
        Number of voxels of a cell along each axis.
    shape : tuple of int
        Number of cells of the volume along each axis.
    """

    phases: tuple[int, ...] | None
    size: tuple[int, ...]
    shape: tuple[int, ...]

    def __call__(self, box: tuple[slice, ...], source: Any, mask: Any, *, is_cut: bool = False) -> Array:
        """Read a box, or take one that is cut already, and return the sums, (n_fields + 2, *cells)."""
        values = np.asarray(source if is_cut else source[box])
        weights = None
        if mask is not None:
            weights = np.asarray(mask if is_cut else mask[box])
            check_confidence(weights)
        fields: list[Any] = [values] if self.phases is None else [values == phase for phase in self.phases]
        if self.phases is None and np.isnan(values).any():
            known = ~np.isnan(values)
            weights = known.astype(float) if weights is None else weights * known
            fields = [np.where(known, values, 0)]
        if not np.isfinite(fields[0]).all():
            msg = (
                "field must hold finite numbers, or NaN where nothing is known, got infinite ones; replace them by NaN"
            )
            raise ValueError(msg)
        ones = np.broadcast_to(np.uint8(1), values.shape)
        if weights is None:
            parts = [*fields, ones, ones]
        else:
            parts = [*(field * weights for field in fields), weights, np.square(weights, dtype=np.float64)]
        out = np.zeros((len(parts), *self.shape))
        place = tuple(
            slice(along.start // size, -(-along.stop // size)) for along, size in zip(box, self.size, strict=True)
        )
        for target, part in zip(out, parts, strict=True):
            target[place] = self._sums(part)
        return out

    def _sums(self, values: Array) -> Array:
        for axis in reversed(range(values.ndim)):
            starts = np.arange(0, values.shape[axis], self.size[axis])
            values = np.add.reduceat(values, starts, axis=axis, dtype=np.float64)
        return values


@dataclass(frozen=True)
class _Waves:
    """The waves along one axis: their means over cells, (n_waves, n_cells), and their frequencies."""

    means: Array
    frequencies: Array

    @classmethod
    def of(cls, n: int, size: int, step: float, *, wraps: bool) -> _Waves:
        """Make the waves of an axis of n voxels, up to a quarter of the number of cells."""
        starts = np.arange(0, n, size)
        most = min(max(1, len(starts) // 4) if len(starts) > 16 else len(starts), 1 + WAVES[-1])
        number, shift = np.arange(most), np.zeros(most)
        if wraps:
            # Half as many frequencies, with a cosine and a sine each.
            shift[2::2] = -np.pi / 2
            number = (number + 1) // 2
        half = np.pi * number[:, None] / n * (1.0 if wraps else 0.5)  # half of the phase from voxel to voxel
        sizes = np.diff([*starts, n])
        # The sum of a cosine over neighbouring voxels is a geometric series.
        with np.errstate(invalid="ignore"):
            shares = np.where(half > 0, np.sin(sizes * half) / (sizes * np.sin(half)), 1.0)
        means = shares * np.cos(2 * half * (starts + sizes / 2) + shift[:, None])
        return cls(means, number / (n * step) * (1.0 if wraps else 0.5))


def _along(cells: Array, matrices: Sequence[Array]) -> Array:
    """Multiply each axis of an array by a matrix."""
    for axis, matrix in enumerate(matrices):
        cells = np.moveaxis(np.tensordot(matrix, cells, axes=(1, axis)), 0, axis)
    return cells


def _spectrum(sums: Array, waves: Sequence[_Waves]) -> tuple[Array, Array]:
    """Compute the spectral density of each field along waves: (n_fields, n_waves), by rising frequency (n_waves,)."""
    *fields, weights, squares = sums
    total = weights.sum()
    means, powers = [wave.means for wave in waves], [wave.means**2 for wave in waves]
    # A wave counts as far as it differs from its mean over the volume.
    offset = _along(weights, means) / total
    norms = _along(squares, powers) - 2.0 * offset * _along(squares, means) + offset**2 * squares.sum()
    frequencies = np.zeros((1,) * len(waves))
    for axis, wave in enumerate(waves):
        along = wave.frequencies**2
        frequencies = frequencies + along.reshape([-1 if a == axis else 1 for a in range(len(waves))])
    order = np.argsort(frequencies, axis=None, kind="stable")[1 : 1 + WAVES[-1]]
    order = order[norms.ravel()[order] > 1e-6 * squares.sum()]
    found = []
    for field in fields:
        parts = _along(field - field.sum() / total * weights, means)
        found.append((parts**2).ravel()[order] / norms.ravel()[order])
    return np.array(found), frequencies.ravel()[order]


def _density_at_zero(density: Array, frequencies: Array) -> tuple[float, float]:
    """Extrapolate a spectral density to frequency 0. Return it, with the degrees of freedom of this estimate.

    The squares are exponentially distributed, up to a factor, so a generalized linear model fits their logarithm.
    """
    n_known = len(density)
    if n_known == 0 or not density.any():
        return 0.0, max(1.0, float(n_known))
    counts = [n for n in WAVES if n < n_known] + [min(n_known, WAVES[-1])]
    found: tuple[float, float] | None = None
    for n in counts:
        design = np.ones((n, 1)) if n < 6 else np.stack([np.ones(n), frequencies[:n] / frequencies[n - 1]], axis=1)
        line = _fitted(density[:n], design)
        spread = np.linalg.inv(design.T @ design)
        if found is not None and len(line) > 1 and -line[1] - STANDARD_ERRORS * np.sqrt(2.0 * spread[1, 1]) > DROP:
            break
        found = float(np.exp(line[0])), 1.0 / float(spread[0, 0])
    assert found is not None
    return found


def _fitted(values: Array, design: Array) -> Array:
    """Fit the logarithm of the mean of exponentially distributed values by a line, with most likelihood."""
    line = np.zeros(design.shape[1])
    line[0] = np.log(values.mean())
    for _ in range(50):
        expected = np.exp(np.clip(design @ line, -600.0, 600.0))
        change = np.linalg.lstsq(design, (values - expected) / expected, rcond=None)[0]
        line = line + change * min(1.0, 2.0 / max(1e-12, float(np.abs(change).max())))
        if np.abs(change).max() < 1e-8:
            break
    return line


def _estimates(sums: Array, *, waves: Sequence[_Waves], cell: float, confidence: float, is_fraction: bool) -> Array:
    """Compute `COLUMNS` for each field, (n_fields, n_columns). `cell` is the size of a voxel."""
    *fields, weights, squares = sums
    total = float(weights.sum())
    out = np.full((len(fields), len(COLUMNS)), np.nan)
    if not total:
        return out
    densities, frequencies = _spectrum(sums, waves)
    for row, field, density in zip(out, fields, densities, strict=True):
        mean = float(field.sum()) / total
        at_zero, degrees = _density_at_zero(density, frequencies)
        deviation = np.sqrt(at_zero * float(squares.sum())) / total
        variance = mean * (1.0 - mean) if is_fraction else 1.0
        error = deviation * float(scipy.stats.t.ppf(0.5 + confidence / 2.0, degrees))
        low, high = mean - error, mean + error
        if is_fraction and variance > 0:
            low, high = _ends_of_fraction(mean, error**2 / variance)
        row[:5] = mean, (high - low) / 2.0, low, high, deviation
        row[5:] = at_zero * cell / variance if variance > 0 else np.nan, degrees
    return out


def _ends_of_fraction(mean: float, share: float) -> tuple[float, float]:
    """Return the ends of the interval of all v with (v - mean)² ≤ share · v (1 - v)."""
    centre = (mean + share / 2.0) / (1.0 + share)
    half = float(np.sqrt(share * (mean * (1.0 - mean) + share / 4.0))) / (1.0 + share)
    return max(0.0, centre - half), min(1.0, centre + half)


def _boxes(shape: Sequence[int], size: Sequence[int]) -> list[tuple[slice, ...]]:
    """Cut a volume into boxes of whole cells."""
    edge = int(BOX_VOXELS ** (1.0 / len(shape)))
    steps = [max(n, edge - edge % n) for n in size]
    along = [[slice(i, min(i + step, n)) for i in range(0, n, step)] for n, step in zip(shape, steps, strict=True)]
    return [*itertools.product(*along)]


def _told(volume: Volume, phases: tuple[int, ...] | None, confidence: float) -> Any:
    """Compute `COLUMNS` for each phase, or for the field, lazily."""
    grid, data, mask = volume.grid, volume.data, volume.confidence
    steps = [abs(step) for step in grid.steps]
    if not all(steps) or not np.isfinite(steps).all():
        named = dict(zip(grid.dims, steps, strict=True))
        msg = f"the coordinates of the field must differ from voxel to voxel, but the voxel sizes are {named}"
        raise ValueError(msg)
    size = tuple(-(-n // CELLS[len(grid.shape)]) for n in grid.shape)
    kernel = _Cells(phases, size, tuple(-(-n // m) for n, m in zip(grid.shape, size, strict=True)))
    boxes = _boxes(grid.shape, size)
    if volume.is_stored:
        shared = (stored_array(data), stored_array(mask))
        total = fold_parts(kernel, np.add, [(box,) for box in boxes], name="cells", shared=shared, of=(data, mask))
    else:
        parts = [(box, _cut(data, box), None if mask is None else _cut(mask, box)) for box in boxes]
        total = fold_parts(partial(kernel, is_cut=True), np.add, parts, name="cells", of=())
    waves = [
        _Waves.of(n, m, step, wraps=wraps)
        for n, m, step, wraps in zip(grid.shape, size, steps, grid.periodic, strict=True)
    ]
    function = partial(
        _estimates, waves=waves, cell=float(np.prod(steps)), confidence=confidence, is_fraction=phases is not None
    )
    shape = (1 if phases is None else len(phases), len(COLUMNS))
    found = array_of(total, shape, np.float64, name="representativity", function=function)
    return found if is_lazy(data) or is_lazy(mask) else found.compute(scheduler="sync")


def _cut(data: Any, box: tuple[slice, ...]) -> Any:
    part = data[box]
    return part.rechunk(-1).to_delayed(optimize_graph=False).item() if is_lazy(part) else part


def _confidence_argument(confidence: Any) -> float:
    if not is_number(confidence) or not 0.0 < confidence < 1.0:
        msg = f"confidence must be a probability between 0 and 1, such as 0.95, got {shown(confidence)}"
        raise ValueError(msg)
    return float(confidence)


def _phases_of(volume: Volume, phases: Sequence[int] | None) -> tuple[int, ...]:
    """Choose the phases: those that are given, that have names, or that occur in a volume in memory."""
    data = volume.data
    if data.dtype.kind not in "biu":
        msg = f"volume must hold phase numbers, got {data.dtype}; use mean_interval for other fields"
        raise ValueError(msg)
    if phases is not None:
        found = integers(phases)
        if found is None or not len(found) or len(np.unique(found)) < len(found):
            msg = f"phases must be different numbers of phases, such as [0, 1], got {shown(phases)}"
            raise ValueError(msg)
        return tuple(found.tolist())
    if volume.grid.phases:
        return tuple(range(len(volume.grid.phases)))
    if is_lazy(data):
        msg = "volume is lazy, and its phases have no names; pass their numbers, such as phases=[0, 1]"
        raise ValueError(msg)
    return tuple(np.unique(data).tolist())


def _coords_of(volume: Volume, phases: tuple[int, ...]) -> dict[str, Any]:
    names = volume.grid.phases
    coords: dict[str, Any] = {"phase": list(phases)}
    if names and max(phases) < len(names):
        coords["name_of_phase"] = ("phase", np.array([names[phase] for phase in phases], dtype=TEXT))
    return coords


def _named(volume: Volume, columns: Sequence[Any], dims: tuple[str, ...], **names: str) -> dict[str, Any]:
    """Make the variables of `COLUMNS`, some of which get other names."""
    units = {"units": f"{volume.grid.axes[0].units}^{len(volume.grid.shape)}"}
    return {
        names.get(name, name): (dims, values, units if name == "integral_range" else {})
        for name, values in zip(COLUMNS, columns, strict=True)
    }


@checked
def phase_fraction_interval(
    volume: ArrayLike,
    confidence: float = 0.95,
    *,
    phases: Sequence[int] | None = None,
    periodic_axes: int | Sequence[int] | None = None,
    confidence_index: ArrayLike | None = None,
) -> xr.Dataset:
    r"""Estimate the volume fraction of each phase of the material, with an interval of confidence, from one volume.

    The variance of the fraction v that a volume V shows is :math:`v (1 - v) A / V`, where the integral range A is the
    integral of the autocovariance of the phase over all lags, divided by :math:`v (1 - v)`. A is estimated from the
    same volume, and the interval takes into account how well.

    Parameters
    ----------
    volume : array, shape (*spatial,)
        Phase number of each voxel of an image or a volume, with 1 to 3 axes and any chunks.
    confidence : float, default 0.95
        Probability with which the interval holds the fraction of the material.
    phases : sequence of int, optional
        Numbers of the phases. Default: those with names, or those that occur in a volume in memory.
    periodic_axes : sequence of int, optional
        Numbers of the periodic axes. Default: those in the attribute ``periodic_axes`` of a DataArray, or none.
    confidence_index : array, shape (*spatial,), optional
        Weight of each voxel, in [0, 1].

    Returns
    -------
    xarray.Dataset
        For each ``phase``: ``fraction``; ``error``, half the width of the interval; ``low`` and ``high``, its ends;
        ``standard_error``; ``integral_range``, in the unit of the volume to the power of the number of axes; and
        ``degrees_of_freedom`` of the standard error. They are lazy for a lazy volume. The coordinate ``name_of_phase``
        holds the names of phases, if they have names.

    Raises
    ------
    ValueError
        If an argument is out of range, or the phases of a lazy volume are not known.

    Notes
    -----
    The volume is read once, box by box. :math:`v (1 - v) A` is the spectral density of the phase at frequency 0. It
    is extrapolated from the squares of the components of the volume along 16 to 256 long waves, of which there are as
    many as the material allows. The interval is that of Wilson: it holds each fraction v' that is at most
    :math:`t \sqrt{v' (1 - v') A / V}` from v, where t is the quantile of Student's distribution with the degrees of
    freedom of A. So its ends are not equally far from v. A phase that fills nothing or everything gets an interval of
    width 0, because nothing shows how it varies.

    For six simulated materials, intervals of 95 % hold the true fraction in 94 to 96 % of 2000 volumes with ten or more
    features along each axis, and the others lie about as often below it as above. With the integral range taken as
    exactly known, this is 62 to 73 %. Real materials may vary over longer distances than a volume shows. Of windows of
    80³ voxels of a sandstone, 92 % of the intervals hold the porosity of the whole, and of windows of 122² pixels of a
    micrograph, 83 %.

    References
    ----------
    Lantuéjoul, C. Ergodicity and integral range. J. Microsc. 161 (1991) 387.
    Lazarus, E., Lewis, D. J., Stock, J. H., Watson, M. W. HAR inference: recommendations for practice. J. Bus. Econ.
    Stat. 36 (2018) 541.
    Wilson, E. B. Probable inference, the law of succession, and statistical inference. J. Am. Stat. Assoc. 22 (1927)
    209.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.kron(np.random.default_rng(0).integers(0, 2, (50, 50)), np.ones((4, 4), int))  # pieces of 4 × 4 voxels
    >>> found = phase_fraction_interval(X)
    >>> bool(found.low[1] < 0.5 < found.high[1]), int(found.integral_range[1].round(-1))
    (True, 20)
    """
    found = Volume.of(volume, PrimitiveBasis(1), confidence_index=confidence_index, periodic_axes=periodic_axes)
    chosen = _phases_of(found, phases)
    table = _told(found, chosen, _confidence_argument(confidence))
    return xr.Dataset(_named(found, table.T, ("phase",), mean="fraction"), coords=_coords_of(found, chosen))


@checked
def mean_interval(
    field: ArrayLike,
    confidence: float = 0.95,
    *,
    periodic_axes: int | Sequence[int] | None = None,
    confidence_index: ArrayLike | None = None,
) -> xr.Dataset:
    """Estimate the mean of a field over the material, with an interval of confidence, from one volume of it.

    The field may also be a property of windows that stand side by side in a volume, laid out as the windows are.

    Parameters
    ----------
    field : array, shape (*spatial,)
        Real numbers, with 1 to 3 axes and any chunks. NaN does not count.
    confidence, periodic_axes, confidence_index
        As in `phase_fraction_interval`.

    Returns
    -------
    xarray.Dataset
        Numbers without axes: ``mean``, ``error``, ``low``, ``high``, ``standard_error`` and ``degrees_of_freedom``, as
        in `phase_fraction_interval`; and ``integral_range``, here the integral of the autocovariance itself.

    Raises
    ------
    ValueError
        If an argument is out of range, or the field holds complex numbers.

    Examples
    --------
    >>> import numpy as np
    >>> of_windows = 200.0 + np.random.default_rng(0).normal(size=(8, 8, 8))
    >>> found = mean_interval(of_windows)
    >>> bool(found.low < 200.0 < found.high), bool(found.error < 0.3)
    (True, True)
    """
    found = Volume.of(field, PrimitiveBasis(1), confidence_index=confidence_index, periodic_axes=periodic_axes)
    if found.data.dtype.kind == "c":
        msg = f"field must hold real numbers, got {found.data.dtype}"
        raise ValueError(msg)
    table = _told(found, None, _confidence_argument(confidence))
    return xr.Dataset(_named(found, table[0], ()))


def edge_of(interval: xr.Dataset, error: float, confidence: float, n_axes: int) -> xr.DataArray:
    """Compute the edge of a cube whose fractions have an error, from what `phase_fraction_interval` tells."""
    z = float(scipy.stats.norm.ppf(0.5 + confidence / 2.0))
    needed = (z / error) ** 2 * interval.fraction * (1.0 - interval.fraction) * interval.integral_range
    return needed ** (1.0 / n_axes)


@checked
def representative_size(
    volume: ArrayLike,
    error: float,
    *,
    confidence: float = 0.95,
    phases: Sequence[int] | None = None,
    periodic_axes: int | Sequence[int] | None = None,
    confidence_index: ArrayLike | None = None,
) -> xr.Dataset:
    r"""Compute how large a cube of the material must be, so that its volume fractions are as exact as wanted.

    A cube of edge L shows the fraction of a phase with an error of :math:`z \sqrt{v (1 - v) A / L^d}`, where z is 1.96
    for a confidence of 95 %.

    Parameters
    ----------
    volume : array, shape (*spatial,)
        Phase number of each voxel of an image or a volume.
    error : float
        Wanted half width of the interval of confidence, such as 0.002 for ± 0.2 %.
    confidence, phases, periodic_axes, confidence_index
        As in `phase_fraction_interval`.

    Returns
    -------
    xarray.Dataset
        For each ``phase``: ``size``, the edge of the cube, or in 2D of the square, in the unit of the volume; and
        ``low`` and ``high``, the ends of its interval of confidence. They are lazy for a lazy volume.

    Raises
    ------
    ValueError
        As in `phase_fraction_interval`, or if `error` does not lie between 0 and 1.

    References
    ----------
    Kanit, T. et al. Determination of the size of the representative volume element for random composites. Int. J.
    Solids Struct. 40 (2003) 3647.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.kron(np.random.default_rng(0).integers(0, 2, (50, 50)), np.ones((4, 4), int))  # pieces of 4 × 4 voxels
    >>> found = representative_size(X, error=0.01)  # 1.96 · 0.5 · 4 / 0.01 = 392
    >>> bool(found.low[1] < 392 < found.high[1])
    True
    """
    if not is_number(error) or not 1e-12 < error < 1.0:
        msg = f"error must be a number between 0 and 1, such as 0.002 for ± 0.2 %, got {shown(error)}"
        raise ValueError(msg)
    found = phase_fraction_interval(
        volume, confidence, phases=phases, periodic_axes=periodic_axes, confidence_index=confidence_index
    )
    grid = Volume.of(volume, PrimitiveBasis(1), periodic_axes=periodic_axes).grid
    n_axes = len(grid.shape)
    size, ends = edge_of(found, error, confidence, n_axes), {}
    for name, share in (("low", 0.5 + confidence / 2.0), ("high", 0.5 - confidence / 2.0)):
        quantile = xr.apply_ufunc(
            partial(scipy.stats.chi2.ppf, share), found.degrees_of_freedom, dask="parallelized", output_dtypes=[float]
        )
        ends[name] = size * (found.degrees_of_freedom / quantile) ** (1.0 / n_axes)
    units = {"units": grid.axes[0].units}
    return xr.Dataset({name: values.assign_attrs(units) for name, values in {"size": size, **ends}.items()})
