"""Polycrystals: periodic Voronoi grains, with random orientations or with a texture of fibres or components."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike as NumpyLike, DTypeLike, NDArray
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from mksdask.arrays import Array, is_number, numbers_argument, precision_argument, shown, sizes_argument
from mksdask.bases.gsh import bunge_angles
from mksdask.compute.plans import refuse_unless_fits
from mksdask.compute.random import Chunks, check_n_samples, check_seed, generate_samples, sample_rng
from mksdask.schema.arguments import checked

# Rotation vectors that are longer than this have lost their digits.
_MOST_SPREAD = 1e6


class Texture(ABC):
    """A distribution of crystal orientations."""

    @abstractmethod
    def draw(self, n: int, rng: np.random.Generator) -> Rotation:
        """Draw the orientations of n grains, as active rotations from crystal to sample."""


@dataclass(frozen=True)
class RandomTexture(Texture):
    """A texture of orientations that are uniform over all rotations."""

    def draw(self, n: int, rng: np.random.Generator) -> Rotation:
        """Draw the orientations of n grains."""
        return Rotation.from_quat(rng.normal(size=(n, 4)))


@dataclass(frozen=True)
class FibreTexture(Texture):
    """A fibre texture: one crystal direction lies along a sample direction, and the rotation about it is random.

    Parameters
    ----------
    crystal_axis : sequence of 3 float
        Direction in the frame of the crystal, such as (1, 1, 1).
    sample_axis : sequence of 3 float
        Direction in the frame of the sample, such as (0, 0, 1).
    spread : float, default 0
        Scatter about the fibre: standard deviation of the components of an additional random rotation vector, in
        radians.
    weight : float, default 1
        Fraction of the grains that belong to the fibre. The other grains are random.
    """

    crystal_axis: Sequence[float]
    sample_axis: Sequence[float]
    spread: float = 0.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("crystal_axis", "sample_axis"):
            axis = numbers_argument(getattr(self, name), name)
            if axis.shape != (3,) or not np.isfinite(axis).all() or not axis.any():
                msg = f"{name} must be a direction of three numbers that are not all 0, got {getattr(self, name)!r}"
                raise ValueError(msg)
        _check_spread(self.spread)
        _check_weights([self.weight])

    @checked
    def draw(self, n: int, rng: np.random.Generator) -> Rotation:
        """Draw the orientations of n grains."""
        n = _grains(n)
        crystal, sample = (np.asarray(axis, dtype=float) for axis in (self.crystal_axis, self.sample_axis))
        sample = sample / np.linalg.norm(sample)
        align, _ = Rotation.align_vectors(sample[None], crystal[None] / np.linalg.norm(crystal))
        about = Rotation.from_rotvec(rng.uniform(0.0, 2.0 * np.pi, size=(n, 1)) * sample)
        fibre = _scatter(n, self.spread, rng) * about * align
        return _mixed([fibre], [self.weight], rng)


@dataclass(frozen=True)
class ComponentTexture(Texture):
    """A texture of components: orientations are scattered about one or more ideal orientations.

    Parameters
    ----------
    angles : array, shape (3,) or (n_components, 3)
        Bunge angles φ1, Φ, φ2 of each component, in radians.
    spread : float, default 0
        Scatter about a component: standard deviation of the components of an additional random rotation vector, in
        radians.
    weights : sequence of float, optional
        Fraction of the grains that belong to each component. If they sum to less than 1, the other grains are random.
        By default, the components have equal weights that sum to 1.
    """

    angles: NumpyLike
    spread: float = 0.0
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        components = np.atleast_2d(numbers_argument(self.angles, "angles"))
        is_angle = np.abs(components) <= 2.0 * np.pi + 1e-4
        if components.ndim != 2 or components.shape[1] != 3 or not is_angle.all():
            msg = (
                "angles must be three Bunge angles for each component, in radians within ±2π; got "
                f"{self.angles!r}; convert degrees by numpy.deg2rad"
            )
            raise ValueError(msg)
        _check_spread(self.spread)
        if self.weights is not None:
            _check_weights(self.weights)
            if len(self.weights) != len(components):
                msg = f"weights must hold one number for each of the {len(components)} components, got {self.weights!r}"
                raise ValueError(msg)

    @checked
    def draw(self, n: int, rng: np.random.Generator) -> Rotation:
        """Draw the orientations of n grains."""
        n = _grains(n)
        components = np.atleast_2d(np.asarray(self.angles, dtype=float))
        weights = [1.0 / len(components)] * len(components) if self.weights is None else self.weights
        scattered = [_scatter(n, self.spread, rng) * Rotation.from_euler("ZXZ", ideal) for ideal in components]
        return _mixed(scattered, weights, rng)


def _grains(n: int) -> int:
    """Check a number of grains."""
    if not isinstance(n, int | np.integer) or isinstance(n, bool) or not 0 <= n < 2**63:
        msg = f"n must be a number of grains, got {shown(n)}"
        raise ValueError(msg)
    refuse_unless_fits(9 * 8 * int(n), f"{n} orientations", "draw fewer")
    return int(n)


def _check_spread(spread: float) -> None:
    if not (is_number(spread) and 0 <= spread <= _MOST_SPREAD):
        msg = f"spread must be an angle in radians from 0 to {_MOST_SPREAD:g}, got {spread!r}"
        raise ValueError(msg)


def _check_weights(weights: Sequence[float]) -> None:
    fractions = numbers_argument(weights, "weights")
    if fractions.ndim != 1 or not (fractions.size and fractions.min() >= 0 and fractions.sum() <= 1 + 1e-9):
        msg = f"weights must be nonnegative fractions that sum to at most 1, got {weights!r}"
        raise ValueError(msg)


def _scatter(n: int, spread: float, rng: np.random.Generator) -> Rotation:
    return Rotation.from_rotvec(spread * rng.normal(size=(n, 3)))


def _mixed(kinds: Sequence[Rotation], weights: Sequence[float], rng: np.random.Generator) -> Rotation:
    """Draw each grain from one of the kinds with its weight. If the weights sum to less than 1, the rest is random."""
    n = len(kinds[0])
    quaternions = np.stack([*(kind.as_quat() for kind in kinds), RandomTexture().draw(n, rng).as_quat()])
    kind = np.searchsorted(np.cumsum(weights), rng.uniform(size=n), side="right")
    kind[kind == len(kinds)] -= int(np.isclose(sum(weights), 1.0))
    return Rotation.from_quat(quaternions[kind, np.arange(n)])


@dataclass(frozen=True)
class _Polycrystals:
    """The kernels of one block: they make the samples that have the given indices."""

    size: tuple[int, ...]
    n_grains: int
    seed: int
    texture: Texture
    dtype: np.dtype[Any]

    def grains(self, indices: NDArray[np.int64]) -> Array:
        """Return the number of the grain of each voxel, (n, *size)."""
        centres = np.stack([axis.ravel() for axis in np.indices(self.size)], axis=-1) + 0.5
        out = np.empty((len(indices), *self.size), dtype=np.min_scalar_type(self.n_grains - 1))
        for target, index in zip(out, indices, strict=True):
            rng = sample_rng(self.seed, 0, int(index))
            seeds = rng.uniform(size=(self.n_grains, len(self.size))) * self.size
            # Rounding may put a seed on the far face, and the tree would refuse it as outside of its box.
            tree = KDTree(np.minimum(seeds, np.nextafter(self.size, 0)), boxsize=self.size)
            target[...] = tree.query(centres)[1].reshape(self.size)
        return out

    def orientations(self, indices: NDArray[np.int64]) -> Array:
        """Return the Bunge angles of each voxel, (n, *size, 3)."""
        out = np.empty((len(indices), *self.size, 3), dtype=self.dtype)
        for target, index in zip(out, indices, strict=True):
            angles = bunge_angles(self.texture.draw(self.n_grains, sample_rng(self.seed, 1, int(index))))
            target[...] = angles[self.grains(np.array([index]))[0]]
        return out


@checked
def make_polycrystal(
    n_samples: int = 10,
    size: Sequence[int] = (21, 21, 21),
    n_grains: int = 50,
    seed: int = 10,
    *,
    texture: Texture | None = None,
    chunks: Chunks | None = None,
    dtype: DTypeLike = "float64",
    return_grains: bool = False,
) -> Any:
    """Make periodic polycrystals, whose grains are Voronoi cells of random points with one orientation each.

    Parameters
    ----------
    n_samples : int, default 10
        Number of samples.
    size : tuple of int, default (21, 21, 21)
        Number of voxels along each of 1 to 3 axes.
    n_grains : int, default 50
        Number of grains of each sample. If there are more than a few grains for each hundred voxels, some grains may
        hold no voxel.
    seed : int, default 10
        The same seed gives the same samples under any chunking.
    texture : Texture, optional
        Distribution from which the orientation of each grain is drawn: `RandomTexture` (the default), `FibreTexture` or
        `ComponentTexture`.
    chunks : int, optional
        Number of samples in a chunk. With it, the result is lazy.
    dtype : {"float64", "float32"}
        Precision of the angles.
    return_grains : bool, default False
        Whether to return also the number of the grain of each voxel.

    Returns
    -------
    X : ndarray or dask array, shape (n_samples, *size, 3)
        Bunge angles φ1, Φ, φ2 in radians, of the rotation from crystal to sample.
    grains : ndarray or dask array, shape (n_samples, *size)
        Grain numbers, counted from 0. They are returned only if `return_grains` is True.

    Raises
    ------
    TypeError
        If `texture` is not a texture.
    ValueError
        If another argument is out of range.

    Examples
    --------
    >>> X, grains = make_polycrystal(n_samples=2, size=(8, 8), n_grains=5, return_grains=True)
    >>> X.shape, int(grains.max())
    ((2, 8, 8, 3), 4)
    >>> fibre = FibreTexture(crystal_axis=(1, 1, 1), sample_axis=(0, 0, 1), spread=0.1)
    >>> make_polycrystal(n_samples=4, size=(8, 8), texture=fibre, chunks=2).chunks[0]
    (2, 2)
    """
    voxels = sizes_argument(size)
    if not isinstance(n_grains, int | np.integer) or not 1 <= n_grains <= np.prod(voxels):
        msg = f"n_grains must be an integer from 1 to the number of voxels {np.prod(voxels)}, got {n_grains!r}"
        raise ValueError(msg)
    distribution: Any = RandomTexture() if texture is None else texture
    if not isinstance(distribution, Texture):
        msg = f"texture must be a RandomTexture, FibreTexture or ComponentTexture, or None; got {texture!r}"
        raise TypeError(msg)
    precision = precision_argument(dtype)
    kernels = _Polycrystals(voxels, int(n_grains), check_seed(seed), distribution, precision)
    make = partial(generate_samples, n_samples=check_n_samples(n_samples), chunks=chunks)
    X = make(kernels.orientations, size=(*voxels, 3), dtype=precision)
    if not return_grains:
        return X
    return X, make(kernels.grains, size=voxels, dtype=np.min_scalar_type(n_grains - 1))
