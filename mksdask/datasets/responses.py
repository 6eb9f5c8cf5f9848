"""Microstructures with their simulated responses: the data sets of the PyMKS paper."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike as NumpyLike, DTypeLike, NDArray

from mksdask.arrays import Array, concatenate_samples, is_number, numbers_argument, precision_argument, sizes_argument
from mksdask.compute.random import Chunks, check_n_samples, check_seed, generate_samples, sample_rng
from mksdask.datasets.generator import (
    MicrostructureGenerator,
    make_delta_microstructures,
    make_independent_voxels,
)
from mksdask.schema.arguments import checked
from mksdask.simulation.cahn_hilliard import CahnHilliardSimulation
from mksdask.simulation.conduction import solve_conduction
from mksdask.simulation.elasticity import mean_stress, solve_fields
from mksdask.simulation.loads import COMPONENTS


def _uniform(indices: NDArray[np.int64], *, size: tuple[int, ...], seed: int, dtype: np.dtype[Any]) -> Array:
    return np.stack([2.0 * sample_rng(seed, 0, int(index)).random(size, dtype=dtype) - 1.0 for index in indices])


@checked
def make_cahn_hilliard(
    n_samples: int = 1,
    size: Sequence[int] = (21, 21),
    dx: float | Sequence[float] = 0.25,
    width: float = 1.0,
    dt: float = 0.001,
    n_steps: int = 1,
    seed: int = 10,
    *,
    chunks: Chunks | None = None,
    dtype: DTypeLike = "float64",
) -> tuple[Any, Any]:
    """Make random initial concentrations, and the concentrations into which they evolve by the Cahn–Hilliard equation.

    Parameters
    ----------
    n_samples : int, default 1
        Number of samples.
    size : tuple of int, default (21, 21)
        Number of voxels along each of 1 to 3 axes.
    dx : float or sequence of float, default 0.25
        Spacing of the voxels.
    width : float, default 1
        Width of the interfaces, which sets γ = width².
    dt : float, default 0.001
        Time step.
    n_steps : int, default 1
        Number of time steps.
    seed : int, default 10
        The same seed gives the same samples under any chunking.
    chunks : int, optional
        Number of samples in a chunk. With it, the result is lazy.
    dtype : {"float64", "float32"}
        Precision of the fields and of the computation.

    Returns
    -------
    X : ndarray or dask array, shape (n_samples, *size)
        Initial concentrations. They are uniform in [-1, 1] and independent from voxel to voxel.
    y : ndarray or dask array, shape (n_samples, *size)
        Concentrations after `n_steps` time steps.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> X, y = make_cahn_hilliard(n_samples=2, size=(16, 24), n_steps=10)
    >>> X.shape, y.shape
    ((2, 16, 24), (2, 16, 24))
    """
    precision = precision_argument(dtype)
    voxels = sizes_argument(size)
    kernel = partial(_uniform, size=voxels, seed=check_seed(seed), dtype=precision)
    X = generate_samples(kernel, check_n_samples(n_samples), voxels, dtype=precision, chunks=chunks)
    if not (is_number(width) and 0 < width < 1e100):
        msg = f"width must be a positive number below 1e100, got {width!r}"
        raise ValueError(msg)
    return X, CahnHilliardSimulation(dx=dx, gamma=width**2, dt=dt).run(X, n_steps).response


@checked
def make_elastic_stress_random(
    n_samples: int | Sequence[int] = (10, 10),
    elastic_modulus: Sequence[float] = (100, 150),
    poissons_ratio: Sequence[float] = (0.3, 0.3),
    size: Sequence[int] = (21, 21),
    macro_strain: float | NumpyLike = 0.01,
    grain_size: Sequence[float] | Sequence[Sequence[float]] = ((3, 3), (9, 9)),
    seed: int = 10,
    volume_fraction: Sequence[float] | Sequence[Sequence[float]] | None = None,
    percent_variance: float | None = None,
    *,
    chunks: Chunks | None = None,
) -> tuple[Any, Any]:
    """Make random microstructures and compute their mean stress σ_xx by finite elements.

    Parameters
    ----------
    n_samples : int or sequence of int
        Number of samples. A sequence holds the number of samples of each kind of microstructure, that is, of each grain
        size and volume fraction.
    elastic_modulus, poissons_ratio : sequence of float
        Young's modulus and Poisson's ratio of each phase.
    size : tuple of int
        Number of voxels along each of 2 or 3 axes. Samples with 2 axes are in plane strain.
    macro_strain : float, sequence or square array
        Imposed mean strain. A number is the strain along x; see `solve_fields`.
    grain_size : tuple, or sequence of tuples
        Size of the features along each axis, in voxels: one tuple for all samples, or one for each entry of
        `n_samples`.
    seed : int
        The same seed gives the same samples under any chunking.
    volume_fraction : sequence of float, or sequence of such sequences, optional
        Fraction of each phase, for all samples or for each entry of `n_samples`.
    percent_variance : float, optional
        Relative spread of `volume_fraction` from sample to sample.
    chunks : int, optional
        Number of samples in a chunk. With it, the result is lazy.

    Returns
    -------
    X : ndarray or dask array, shape (n_samples, *size)
        Phase numbers.
    y : ndarray or dask array, shape (n_samples,)
        Mean stress σ_xx, in the unit of `elastic_modulus`.

    Raises
    ------
    ValueError
        If the arguments do not fit together.

    Examples
    --------
    >>> X, y = make_elastic_stress_random(
    ...     n_samples=1, elastic_modulus=(1, 1), poissons_ratio=(0, 0), grain_size=(3, 3), macro_strain=1.0
    ... )
    >>> y.tolist()
    [1.0]
    """
    kinds: list[Any] = list(n_samples) if isinstance(n_samples, list | tuple | np.ndarray) else [n_samples]
    counts = [check_n_samples(n) for n in kinds]
    moduli = numbers_argument(elastic_modulus, "elastic_modulus")
    sizes = numbers_argument(grain_size, "grain_size")
    grains: list[Any] = [grain_size] * len(counts) if sizes.ndim < 2 else list(grain_size)
    if volume_fraction is None or numbers_argument(volume_fraction, "volume_fraction").ndim < 2:
        fractions: list[Any] = [volume_fraction] * len(counts)
    else:
        fractions = list(volume_fraction)
    if not len(counts) == len(grains) == len(fractions):
        msg = (
            "n_samples, grain_size and volume_fraction must have one entry for each kind of microstructure, got "
            f"n_samples={n_samples!r}, grain_size={grain_size!r} and volume_fraction={volume_fraction!r}"
        )
        raise ValueError(msg)
    parts = [
        MicrostructureGenerator(
            count, size, moduli.size, grain, seed, fraction, percent_variance, chunks=chunks, stream=stream
        ).generate()
        for stream, (count, grain, fraction) in enumerate(zip(counts, grains, fractions, strict=True))
    ]
    X = concatenate_samples(parts)
    stress = mean_stress(X, elastic_modulus=elastic_modulus, poissons_ratio=poissons_ratio, macro_strain=macro_strain)
    return X, stress[:, 0]


@checked
def make_elastic_stiffness(
    n_samples: int | Sequence[int] = (10, 10),
    elastic_modulus: Sequence[float] = (100, 150),
    poissons_ratio: Sequence[float] = (0.3, 0.3),
    size: Sequence[int] = (21, 21),
    macro_strain: float = 0.01,
    grain_size: Sequence[float] | Sequence[Sequence[float]] = ((3, 3), (9, 9)),
    seed: int = 10,
    volume_fraction: Sequence[float] | Sequence[Sequence[float]] | None = None,
    percent_variance: float | None = None,
    *,
    chunks: Chunks | None = None,
) -> tuple[Any, Any]:
    """Make random microstructures and compute their effective stiffness C_xxxx = σ_xx / ε_xx by finite elements.

    Parameters
    ----------
    n_samples, elastic_modulus, poissons_ratio, size, grain_size, seed, volume_fraction, percent_variance, chunks
        See `make_elastic_stress_random`.
    macro_strain : float
        Imposed mean strain along x.

    Returns
    -------
    X : ndarray or dask array, shape (n_samples, *size)
        Phase numbers.
    y : ndarray or dask array, shape (n_samples,)
        Effective stiffness C_xxxx, in the unit of `elastic_modulus`.

    Raises
    ------
    ValueError
        If the arguments do not fit together, or `macro_strain` is not a number other than 0.

    Examples
    --------
    >>> X, y = make_elastic_stiffness(n_samples=3, grain_size=(3, 3))
    >>> X.shape, y.shape
    ((3, 21, 21), (3,))
    """
    if not is_number(macro_strain) or not macro_strain:
        msg = f"macro_strain must be a number other than 0, which is the strain along x; got {macro_strain!r}"
        raise ValueError(msg)
    X, stress = make_elastic_stress_random(
        n_samples,
        elastic_modulus,
        poissons_ratio,
        size,
        macro_strain,
        grain_size,
        seed,
        volume_fraction,
        percent_variance,
        chunks=chunks,
    )
    return X, stress / macro_strain


def _strain(
    X: Any,
    elastic_modulus: Sequence[float],
    poissons_ratio: Sequence[float],
    macro_strain: float | NumpyLike,
    component: str | None,
) -> Any:
    """Compute the strain field of samples: one component, or all of them."""
    names = COMPONENTS.get(X.ndim - 1)
    if names is None:
        msg = f"size must have 2 or 3 axes for the elastic solver, got {tuple(X.shape[1:])}"
        raise ValueError(msg)
    if component is not None and not (isinstance(component, str) and component in names):
        msg = f"component must be one of {names} for size={X.shape[1:]}, or None for all of them; got {component!r}"
        raise ValueError(msg)
    response = solve_fields(
        X, elastic_modulus=elastic_modulus, poissons_ratio=poissons_ratio, macro_strain=macro_strain
    )
    return response.strain if component is None else response.strain[..., names.index(component)]


@checked
def make_elastic_FE_strain_delta(
    elastic_modulus: Sequence[float] = (100, 150),
    poissons_ratio: Sequence[float] = (0.3, 0.3),
    size: Sequence[int] = (21, 21),
    macro_strain: float | NumpyLike = 0.01,
    *,
    component: str | None = "xx",
    chunks: Chunks | None = None,
) -> tuple[Any, Any]:
    """Make delta microstructures and compute their strain fields by finite elements.

    These are calibration data for localization.

    Parameters
    ----------
    elastic_modulus, poissons_ratio : sequence of float
        Young's modulus and Poisson's ratio of each of at least two phases.
    size : tuple of int
        Number of voxels along each of 2 or 3 axes. Samples with 2 axes are in plane strain.
    macro_strain : float, sequence or square array
        Imposed mean strain. A number is the strain along x; see `solve_fields`.
    component : {"xx", "yy", "zz", "yz", "xz", "xy"} or None
        Component of the strain to return. None means all of them.
    chunks : int, optional
        Number of samples in a chunk. With it, the result is lazy.

    Returns
    -------
    X : ndarray or dask array, shape (n_phases * (n_phases - 1), *size)
        Phase numbers; see `make_delta_microstructures`.
    y : ndarray or dask array, shape (n_samples, *size), or (n_samples, *size, n_components) for all components
        Mean strain in each voxel. Shear components are engineering shear.

    Raises
    ------
    ValueError
        If the arguments do not fit together.

    Examples
    --------
    >>> X, strain = make_elastic_FE_strain_delta(size=(5, 5))
    >>> X.shape, strain.mean(axis=(1, 2)).round(9).tolist()
    ((2, 5, 5), [0.01, 0.01])
    """
    n_phases = numbers_argument(elastic_modulus, "elastic_modulus").size
    if n_phases < 2:
        msg = f"elastic_modulus must name two phases at least, a matrix and an inclusion; got {elastic_modulus!r}"
        raise ValueError(msg)
    X = make_delta_microstructures(n_phases, size, chunks=chunks)
    return X, _strain(X, elastic_modulus, poissons_ratio, macro_strain, component)


@checked
def make_elastic_FE_strain_random(
    n_samples: int = 1,
    elastic_modulus: Sequence[float] = (100, 150),
    poissons_ratio: Sequence[float] = (0.3, 0.3),
    size: Sequence[int] = (21, 21),
    macro_strain: float | NumpyLike = 0.01,
    seed: int = 10,
    *,
    component: str | None = "xx",
    chunks: Chunks | None = None,
) -> tuple[Any, Any]:
    """Make microstructures of independent voxels and compute their strain fields by finite elements.

    Each voxel is of each phase with equal probability.

    Parameters
    ----------
    n_samples : int, default 1
        Number of samples.
    elastic_modulus, poissons_ratio, size, macro_strain, component, chunks
        See `make_elastic_FE_strain_delta`.
    seed : int
        The same seed gives the same samples under any chunking.

    Returns
    -------
    X : ndarray or dask array, shape (n_samples, *size)
        Phase numbers.
    y : ndarray or dask array, shape (n_samples, *size), or (n_samples, *size, n_components) for all components
        Mean strain in each voxel. Shear components are engineering shear.

    Raises
    ------
    ValueError
        If the arguments do not fit together.

    Examples
    --------
    >>> X, strain = make_elastic_FE_strain_random(n_samples=2, size=(6, 6, 6), component=None)
    >>> strain.shape
    (2, 6, 6, 6, 6)
    """
    n_phases = numbers_argument(elastic_modulus, "elastic_modulus").size
    if not n_phases:
        msg = f"elastic_modulus must hold a modulus for each phase, got {elastic_modulus!r}"
        raise ValueError(msg)
    X = make_independent_voxels(n_samples, size, n_phases, seed, chunks=chunks)
    return X, _strain(X, elastic_modulus, poissons_ratio, macro_strain, component)


@checked
def make_conduction_random(
    n_samples: int = 1,
    conductivity: NumpyLike = (1, 1.5),
    size: Sequence[int] = (21, 21),
    macro_gradient: float | NumpyLike = 1.0,
    seed: int = 10,
    *,
    chunks: Chunks | None = None,
) -> tuple[Any, Any]:
    """Make microstructures of independent voxels and compute the gradients that drive fluxes in them.

    Each voxel is of each phase with equal probability.

    Parameters
    ----------
    n_samples : int, default 1
        Number of samples.
    conductivity : array, shape (n_phases,) or (n_phases, d, d)
        Conductivity of each phase; see `mksdask.simulation.solve_conduction`.
    size : tuple of int
        Number of voxels along each of 2 or 3 axes.
    macro_gradient : float or sequence of float
        Imposed mean gradient. A number is the gradient along x.
    seed : int
        The same seed gives the same samples under any chunking.
    chunks : int, optional
        Number of samples in a chunk. With it, the result is lazy.

    Returns
    -------
    X : ndarray or dask array, shape (n_samples, *size)
        Phase numbers.
    y : ndarray or dask array, shape (n_samples, *size, dim)
        Mean gradient in each voxel.

    Raises
    ------
    ValueError
        If the arguments do not fit together.

    Examples
    --------
    >>> from mksdask import MKSLocalizationModel, PrimitiveBasis
    >>> X, gradient = make_conduction_random(n_samples=40, size=(9, 9))
    >>> model = MKSLocalizationModel(PrimitiveBasis(2)).fit(X[:30], gradient[:30])
    >>> bool(model.score(X[30:], gradient[30:]) > 0.9)
    True
    """
    values = numbers_argument(conductivity, "conductivity")
    if values.ndim not in (1, 3) or not len(values):
        msg = f"conductivity must hold one number, or one tensor, for each phase, got shape {values.shape}"
        raise ValueError(msg)
    X = make_independent_voxels(n_samples, size, len(values), seed, chunks=chunks)
    return X, solve_conduction(X, conductivity=conductivity, macro_gradient=macro_gradient).gradient
