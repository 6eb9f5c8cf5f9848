"""Texture coefficients: means of the generalized spherical harmonics over the voxels of a sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mksdask.arrays import Array, ArrayLike, is_number, names, shown
from mksdask.bases.gsh import GSHBasis, count_functions
from mksdask.compute.blocks import array_of
from mksdask.compute.operation import Operation, operation
from mksdask.compute.plans import Limit, Plan, SampleWork, Stage, chunk_layout
from mksdask.samples import Samples, Volume, check_confidence
from mksdask.schema.arguments import checked
from mksdask.stats.halos import HaloedTiles

# So many voxels are expanded together. Groups of their functions stay in cache.
PIECE = 2**14
# Floating-point operations of one function at one voxel, about.
OPERATIONS = 20.0


def texture_basis(basis: Any) -> GSHBasis:
    """Check a basis for texture, which must hold all functions up to a degree.

    Raises
    ------
    TypeError
        If it is no `GSHBasis`.
    ValueError
        If functions are missing.
    """
    if not isinstance(basis, GSHBasis):
        msg = f"basis must be a GSHBasis, got {shown(basis)}; use GSHBasis(None, domain='cubic', max_degree=16)"
        raise TypeError(msg)
    states, degree = basis.states, max(index.l for index in basis.index_)
    n_functions = count_functions(basis.domain, basis.sample_symmetry, degree)
    if states != tuple(range(n_functions)):
        msg = (
            f"basis must hold all {n_functions} functions up to degree {degree}, got {len(states)} of them; use "
            f"GSHBasis(None, domain={basis.domain!r}, max_degree={degree}, sample_symmetry={basis.sample_symmetry!r})"
        )
        raise ValueError(msg)
    return basis


def smoothing_factors(basis: GSHBasis, halfwidth: float | None) -> NDArray[np.float64]:
    """Compute the factor of each function under a kernel of de la Vallée Poussin, or 1 without a kernel.

    The kernel is cos^{2κ}(ω/2), up to a factor, and has half of its maximum at the half width.

    Raises
    ------
    ValueError
        If the half width is no angle between 0 and π.
    """
    degrees = np.array([index.l for index in basis.index_])
    if halfwidth is None:
        return np.ones(len(degrees))
    if not is_number(halfwidth) or not 1e-3 <= halfwidth < np.pi:
        msg = f"halfwidth must be an angle in radians from 0.001 to below π, or None, got {shown(halfwidth)}"
        raise ValueError(msg)
    kappa = 0.5 * np.log(0.5) / np.log(np.cos(0.5 * halfwidth))
    factors = np.zeros(degrees.max() + 2)
    factors[:2] = 1.0, kappa / (kappa + 2.0)
    for l in range(1, degrees.max()):  # noqa: E741
        factors[l + 1] = ((kappa - l + 1) * factors[l - 1] - (2 * l + 1) * factors[l]) / (kappa + l + 2)
    return factors[degrees]


@dataclass(frozen=True)
class TextureSums:
    """The kernel of sums over voxels: Σ c T of each function, and Σ c, (n_functions + 1,).

    Parameters
    ----------
    basis : GSHBasis
        The functions T.
    """

    basis: GSHBasis

    def __call__(self, values: Array, confidence: Array | None) -> NDArray[np.complex128]:
        """Sum over voxels with the angles `values`, (..., 3), and the confidence (...,)."""
        if confidence is not None:
            check_confidence(confidence)
            confidence = confidence.ravel().astype(np.float64)
        rows, states = values.reshape(-1, 3), range(len(self.basis.states))
        out = np.zeros(len(states) + 1, dtype=np.complex128)
        for start in range(0, len(rows), PIECE):
            weights = None if confidence is None else confidence[start : start + PIECE]
            fields = self.basis.weighted_fields(rows[start : start + PIECE], weights, states, np.float64)
            out[:-1] += [field.sum() for field in fields]
            out[-1] += len(rows[start : start + PIECE]) if weights is None else weights.sum()
        return out


def _means(sums: Array, *, factors: Array) -> Array:
    """Divide sums (..., n_functions + 1) by the last of them, and smooth."""
    total = sums[..., -1:].real
    with np.errstate(invalid="ignore"):
        return np.asarray(sums[..., :-1] / np.where(total > 0, total, np.nan) * factors)


@dataclass(frozen=True)
class _OfSamples:
    """The kernel of one block of samples: (n, *spatial, 3) → (n, n_functions)."""

    sums: TextureSums
    factors: NDArray[np.float64]

    def __call__(self, block: Array, confidence: Array | None = None, shared: Array | None = None) -> Array:
        masks = [shared] * len(block) if confidence is None else confidence
        found = [self.sums(sample, mask) for sample, mask in zip(block, masks, strict=True)]
        sums = np.array(found, dtype=np.complex128).reshape(len(block), len(self.factors) + 1)
        return _means(sums, factors=self.factors)


@dataclass(frozen=True)
class _OfTile:
    """The kernel of one tile."""

    sums: TextureSums

    def __call__(self, block: Array, inner: tuple[slice, ...], mask: Array | None = None) -> Array:
        return self.sums(block[inner], None if mask is None else mask[inner])


def _labels_of(basis: GSHBasis) -> dict[str, Any]:
    return {"function": names([f"{index.l},{index.mu},{index.n}" for index in basis.index_])}


def _work_bytes(basis: GSHBasis) -> int:
    return basis.work_bytes(PIECE, len(basis.states), np.float64) + 16 * 4 * PIECE


@dataclass(frozen=True)
class _EnsembleCoefficients(Operation[Any]):
    """The checked arguments of `texture_coefficients`."""

    samples: Samples
    kernel: _OfSamples

    @property
    def work(self) -> SampleWork:
        samples, basis = self.samples, self.kernel.sums.basis
        n_voxels, result_bytes = int(np.prod(samples.spatial)), 32 * len(basis.states)
        mask_bytes = 0 if samples.confidence is None else 9 * n_voxels
        return SampleWork(
            "texture coefficients",
            samples.sample_bytes,
            lambda n: n * result_bytes + mask_bytes + _work_bytes(basis),
            result_bytes,
            OPERATIONS * n_voxels * len(basis.states),
        )

    def plan(self, limit: Limit) -> Plan:
        stage = self.work.stage(self.samples.data, limit)
        layout = chunk_layout(self.samples.data, stage) | {"functions": len(self.kernel.factors)}
        return Plan("texture_coefficients", layout, (stage,), limit)

    def run(self) -> Any:
        samples, basis = self.samples, self.kernel.sums.basis
        tail, name = (len(basis.states),), "texture-coefficients"
        found = samples.mapped(self.kernel, tail=tail, dtype=np.complex128, name=name, work=self.work)
        return samples.label(found, dims=("function",), coords=_labels_of(basis), name="texture_coefficients")


@operation
@checked
def texture_coefficients(
    X: ArrayLike,
    basis: GSHBasis,
    *,
    size: Sequence[int] | None = None,
    confidence_index: ArrayLike | None = None,
    halfwidth: float | None = None,
) -> Operation[Any]:
    r"""Compute the texture coefficients of each sample, from which `odf` and `pole_figure` follow.

    .. math:: C_l^{\mu n} = \frac{\sum_s c[s]\, T_l^{\mu n}(g[s])}{\sum_s c[s]}

    Parameters
    ----------
    X : array, shape (n_samples, *spatial, 3)
        Bunge angles of each voxel, in radians, as NumPy, dask, zarr or xarray.
    basis : GSHBasis
        The functions T, all up to a degree, such as ``GSHBasis(None, domain="cubic", max_degree=16)``.
    size : tuple of int, optional
        As in `correlate`.
    confidence_index : array, shape (n_samples, *spatial) or (*spatial,), optional
        Weight c[s] in [0, 1] of each voxel. Where it is 0, X may hold any value, also NaN. Points that are not indexed,
        and points of other phases, must have the weight 0.
    halfwidth : float, optional
        Half width of a kernel of de la Vallée Poussin that smooths the orientations, in radians, such as
        ``numpy.deg2rad(10)``. A basis of the degree L can show details of about π/L. Default: no smoothing.

    Returns
    -------
    array of the kind of `X`, shape (n_samples, n_functions), complex128
        The first one is 1. The coefficients are NaN for a sample without weights. The result is lazy for lazy input,
        with one task for each chunk.

    Raises
    ------
    TypeError
        If `basis` is no GSHBasis.
    ValueError
        As in `correlate`, if functions of the basis are missing, or if `halfwidth` is no angle.

    Notes
    -----
    These are the 2-point statistics (0, h) that `correlate` computes at any lag, in double precision. A task takes
    about 70 MB beside its chunk.

    References
    ----------
    Bunge, H.-J. Texture Analysis in Materials Science. Butterworths, 1982, chapter 4.
    Schaeben, H. The de la Vallée Poussin standard orientation density function. Textures Microstruct. 33 (1999) 365.

    Examples
    --------
    >>> import numpy as np
    >>> from mksdask import GSHBasis
    >>> from mksdask.datasets import make_polycrystal
    >>> basis = GSHBasis(None, domain="cubic", max_degree=8)
    >>> C = texture_coefficients(make_polycrystal(2, size=(8, 8), n_grains=9), basis)
    >>> C.shape, bool(np.allclose(C[:, 0], 1))
    ((2, 40), True)
    """
    known = texture_basis(basis)
    samples = Samples.of(X, known, size=size, confidence_index=confidence_index)
    return _EnsembleCoefficients(samples, _OfSamples(TextureSums(known), smoothing_factors(known, halfwidth)))


@dataclass(frozen=True)
class _VolumeCoefficients(Operation[Any]):
    """The checked arguments of `volume_texture_coefficients`."""

    volume: Volume
    basis: GSHBasis
    factors: NDArray[np.float64]

    def tiles(self, limit: Limit) -> HaloedTiles:
        volume, work = self.volume, _work_bytes(self.basis)
        voxel_bytes = (1 if volume.is_stored else 2) * volume.voxel_bytes + (0 if volume.confidence is None else 9)
        halo, remedy = (0,) * len(volume.spatial), "take fewer functions"
        if work + voxel_bytes > limit.task_bytes:
            raise limit.refusal(work + voxel_bytes, f"{len(self.basis.states)} functions", remedy)
        # The tiles share the memory of a task with the functions.
        rest = replace(limit, held_bytes=work)
        return HaloedTiles.of(volume.data, volume.grid, halo, voxel_bytes, rest, remedy=remedy, mask=volume.confidence)

    def plan(self, limit: Limit) -> Plan:
        tiles = self.tiles(limit)
        tiling, n = tiles.tiling, int(np.prod(self.volume.spatial))
        task_bytes, read = tiles.task_bytes + _work_bytes(self.basis), float(n * self.volume.voxel_bytes)
        operations = OPERATIONS * n * len(self.basis.states)
        stage = Stage("texture coefficients", tiling.n_tiles, task_bytes, read, 0.0, operations)
        layout = {"volume": tiling.spatial, "tile": tiling.tile, "functions": len(self.basis.states)}
        return Plan("volume_texture_coefficients", layout, (stage,), limit)

    def run(self) -> Any:
        sums = self.tiles(Limit.of()).fold(_OfTile(TextureSums(self.basis)), np.add, name="texture-sums")
        shape, function = (len(self.basis.states),), partial(_means, factors=self.factors)
        found = array_of(sums, shape, np.complex128, name="texture-coefficients", function=function)
        if self.volume.labels is None:
            return found
        return xr.DataArray(found, dims=("function",), coords=_labels_of(self.basis), name="texture_coefficients")


@operation
@checked
def volume_texture_coefficients(
    volume: ArrayLike,
    basis: GSHBasis,
    *,
    confidence_index: ArrayLike | None = None,
    halfwidth: float | None = None,
) -> Operation[Any]:
    """Compute the texture coefficients of one volume, or of one EBSD map, of any size.

    See `texture_coefficients` for the formula.

    Parameters
    ----------
    volume : array, shape (*spatial, 3)
        Bunge angles of each voxel, in radians, with any chunks: NumPy, zarr, dask, or a variable of the Dataset that
        `open_volume` or `import_ebsd` returns.
    basis, halfwidth
        As in `texture_coefficients`.
    confidence_index : array, shape (*spatial,), optional
        Weight c[s] in [0, 1] of each voxel, as in `texture_coefficients`. For the phase 1 of an EBSD map, pass
        ``ds.confidence_index * (ds.phase == 1)``.

    Returns
    -------
    dask array or DataArray, shape (n_functions,), complex128
        The coefficients. The result is lazy.

    Raises
    ------
    TypeError, ValueError
        As in `texture_coefficients`.

    Examples
    --------
    >>> import numpy as np
    >>> from mksdask import GSHBasis
    >>> volume = np.full((20, 30, 3), [0.3, 0.6, 0.2])
    >>> basis = GSHBasis(None, domain="cubic", max_degree=4)
    >>> C = volume_texture_coefficients(volume, basis).compute()
    >>> bool(np.allclose(C, basis.discretize(volume[None])[0, 0, 0]))
    True
    """
    known = texture_basis(basis)
    found = Volume.of(volume, known, confidence_index=confidence_index)
    return _VolumeCoefficients(found, known, smoothing_factors(known, halfwidth))
