"""Bounds of effective properties that follow from the fractions of phases alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike as NumpyLike

from mksdask.arrays import numbers_argument
from mksdask.schema.arguments import checked
from mksdask.simulation.moduli import checked_moduli, isotropic_matrix
from mksdask.simulation.stencils import Float


class Bounds(NamedTuple):
    """The lower and the upper bound of a property, as NumPy arrays of one shape.

    Tensors are bounded in the sense of quadratic forms: the property less the lower bound, and the upper bound less
    the property, have no negative eigenvalues.
    """

    lower: Float
    upper: Float


def _checked_fractions(fractions: NumpyLike, n_phases: int, whose: str) -> Float:
    """Check volume fractions, (..., n_phases).

    Raises
    ------
    ValueError
        If there is not one for each phase, or they are negative or do not sum to 1.
    """
    values = numbers_argument(fractions, "fractions")
    if values.ndim < 1 or values.shape[-1] != n_phases:
        msg = f"fractions must hold one number for each of the {n_phases} phases of {whose}, got shape {values.shape}"
        raise ValueError(msg)
    if not ((values >= 0.0).all() and np.allclose(values.sum(axis=-1), 1.0, rtol=0.0, atol=1e-6)):
        msg = "fractions must be from 0, and those of all phases must sum to 1"
        raise ValueError(msg)
    return values


def _harmonic_mean(fractions: Float, matrices: Float) -> Float:
    """Compute (Σ f C⁻¹)⁻¹ of matrices, (n_phases, n, n). Where a phase has no stiffness, the mean has none."""
    n = matrices.shape[-1]
    values, vectors = np.linalg.eigh(matrices)
    is_soft = values <= 1e-12 * np.abs(values).max()
    inverse = (vectors / np.where(is_soft, np.inf, values)[:, None]) @ vectors.swapaxes(-1, -2)
    out = np.zeros((*fractions.shape[:-1], n, n))
    present = fractions > 0.0
    for kind in np.unique(present.reshape(-1, len(matrices)), axis=0):
        rows = (present == kind).all(axis=-1)
        soft = [vectors[phase][:, is_soft[phase]] for phase in np.flatnonzero(kind)]
        # What no phase of these is without: the complement of all soft directions.
        left, sizes, _ = np.linalg.svd(np.concatenate([np.zeros((n, 1)), *soft], axis=1))
        basis = left[:, int((sizes > 1e-6).sum()) :]
        compliance = basis.T @ np.einsum("...p,pij->...ij", fractions[rows], inverse) @ basis
        out[rows] = basis @ np.linalg.inv(compliance) @ basis.T
    return out


def voigt_reuss_bounds(fractions: NumpyLike, properties: NumpyLike) -> Bounds:
    r"""Bound an effective stiffness or conductivity by the arithmetic and the harmonic mean of the phases.

    .. math:: \Big(\sum_i f_i C_i^{-1}\Big)^{-1} \le C_{eff} \le \sum_i f_i C_i

    The bounds hold for each periodic sample, as finite elements solve it, whatever its structure.

    Parameters
    ----------
    fractions : array, shape (..., n_phases)
        Volume fractions of the phases, which sum to 1, of one or more samples.
    properties : array, shape (n_phases,) or (n_phases, n, n)
        A number for each phase, such as a conductivity, or a symmetric matrix, such as a stiffness or a conductivity
        tensor. 0 stands for a pore.

    Returns
    -------
    Bounds
        ``lower`` (Reuss) and ``upper`` (Voigt), shape (...) for numbers and (..., n, n) for matrices.

    Raises
    ------
    ValueError
        If the fractions do not sum to 1, or a property is not finite, symmetric and without negative eigenvalues.

    References
    ----------
    Hill, R. The elastic behaviour of a crystalline aggregate. Proc. Phys. Soc. A 65 (1952) 349.

    Examples
    --------
    >>> voigt_reuss_bounds([0.5, 0.5], [1.0, 3.0])
    Bounds(lower=array(1.5), upper=array(2.))
    """
    values = numbers_argument(properties, "properties")
    if values.ndim not in (1, 3) or not values.size or (values.ndim == 3 and values.shape[1] != values.shape[2]):
        msg = (
            "properties must hold a number for each phase, shape (n_phases,), or a matrix, shape (n_phases, n, n), got "
            f"shape {values.shape}"
        )
        raise ValueError(msg)
    matrices = values.reshape(len(values), 1, 1) if values.ndim == 1 else values
    largest = np.abs(matrices).max()
    is_right = np.isfinite(matrices).all() and np.allclose(
        matrices, matrices.swapaxes(1, 2), rtol=0.0, atol=1e-9 * largest
    )
    if not is_right or np.linalg.eigvalsh(matrices).min() < -1e-9 * largest:
        msg = f"properties must be finite, symmetric and without negative eigenvalues, got {values.tolist()}"
        raise ValueError(msg)
    weights = _checked_fractions(fractions, len(values), "properties")
    lower, upper = _harmonic_mean(weights, matrices), np.einsum("...p,pij->...ij", weights, matrices)
    if values.ndim == 1:
        return Bounds(lower[..., 0, 0], upper[..., 0, 0])
    return Bounds(lower, upper)


def _shifted_mean(fractions: Float, values: Float, shift: float) -> Float:
    """Compute (Σ f / (x + y))⁻¹ - y, which grows with y from the harmonic to the arithmetic mean of x."""
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = np.where(fractions > 0.0, fractions / (values + shift), 0.0)
        return np.asarray(1.0 / parts.sum(axis=-1) - shift)


@checked
def hashin_shtrikman_bounds(
    fractions: NumpyLike,
    *,
    elastic_modulus: Sequence[float] | None = None,
    poissons_ratio: float | Sequence[float] | None = None,
    conductivity: Sequence[float] | None = None,
    n_spatial: int = 3,
) -> Bounds:
    r"""Bound the effective stiffness or conductivity of an isotropic mixture of isotropic phases.

    .. math::

       K^\pm = \Big(\sum_i \frac{f_i}{K_i + \frac43 G^\pm}\Big)^{-1} - \frac43 G^\pm, \qquad
       G^\pm = \Big(\sum_i \frac{f_i}{G_i + \zeta^\pm}\Big)^{-1} - \zeta^\pm, \qquad
       \zeta = \frac{G (9 K + 8 G)}{6 (K + 2 G)}

    On the right-hand sides, K and G without index are the largest moduli of all phases for the upper bound, and the
    smallest for the lower one. In 2D, which is plane strain, K is λ + μ, 4/3 G becomes G, and ζ = K G / (K + 2 G). For
    conductivities k in d dimensions, the shift is (d - 1) k.

    Parameters
    ----------
    fractions : array, shape (..., n_phases)
        Volume fractions of the phases, which sum to 1, of one or more mixtures.
    elastic_modulus, poissons_ratio : sequence of float, optional
        Young's modulus, from 0, and Poisson's ratio of each phase.
    conductivity : sequence of float, optional
        Conductivity of each phase, from 0, instead of the moduli.
    n_spatial : {3, 2}
        Number of spatial axes.

    Returns
    -------
    Bounds
        Isotropic stiffness matrices, shape (..., 6, 6) or (..., 3, 3) in 2D, or conductivities, shape (...).
        `engineering_constants` gives the moduli of a stiffness.

    Raises
    ------
    ValueError
        If the fractions do not sum to 1, or a property is not valid.

    Notes
    -----
    The bounds hold for an isotropic material, so for the mean of many samples of it, but not for each sample.

    References
    ----------
    Hashin, Z., Shtrikman, S. A variational approach to the theory of the elastic behaviour of multiphase materials.
    J. Mech. Phys. Solids 11 (1963) 127.
    Hashin, Z. On elastic behaviour of fibre reinforced materials of arbitrary transverse phase geometry. J. Mech. Phys.
    Solids 13 (1965) 119.
    Hashin, Z., Shtrikman, S. A variational approach to the theory of the effective magnetic permeability of multiphase
    materials. J. Appl. Phys. 33 (1962) 3125.
    Walpole, L. J. On bounds for the overall elastic moduli of inhomogeneous systems. J. Mech. Phys. Solids 14 (1966)
    151.

    Examples
    --------
    >>> found = hashin_shtrikman_bounds([0.5, 0.5], conductivity=(1.0, 3.0))
    >>> found.lower.round(4).tolist(), found.upper.round(4).tolist()
    (1.75, 1.875)
    """
    if conductivity is not None and elastic_modulus is None and poissons_ratio is None:
        values = numbers_argument(conductivity, "conductivity")
        if values.ndim != 1 or not values.size or not (np.isfinite(values).all() and values.min() >= 0.0):
            msg = f"conductivity must hold a number from 0 for each phase, got {values.tolist()}"
            raise ValueError(msg)
        weights = _checked_fractions(fractions, len(values), "conductivity")
        return Bounds(*(_shifted_mean(weights, values, (n_spatial - 1) * k) for k in (values.min(), values.max())))
    if conductivity is not None or elastic_modulus is None or poissons_ratio is None:
        msg = (
            "give elastic_modulus and poissons_ratio, or conductivity alone, with one value for each phase; got "
            f"elastic_modulus={elastic_modulus!r}, poissons_ratio={poissons_ratio!r} and conductivity={conductivity!r}"
        )
        raise ValueError(msg)
    lam, shear = (np.atleast_1d(values) for values in checked_moduli(elastic_modulus, poissons_ratio, n_spatial))
    if shear.ndim != 1:
        msg = f"elastic_modulus must hold one number for each phase, got shape {shear.shape}"
        raise ValueError(msg)
    weights = _checked_fractions(fractions, len(shear), "elastic_modulus")
    bulk = lam + 2.0 * shear / n_spatial
    bounds = []
    for of_all in (np.min, np.max):
        k, g = float(of_all(bulk)), float(of_all(shear))
        stiff = k + 2.0 * g
        if n_spatial == 3:
            shift, zeta = 4.0 * g / 3.0, g * (9.0 * k + 8.0 * g) / (6.0 * stiff) if stiff else 0.0
        else:
            shift, zeta = g, k * g / stiff if stiff else 0.0
        mean_bulk, mean_shear = _shifted_mean(weights, bulk, shift), _shifted_mean(weights, shear, zeta)
        bounds.append(isotropic_matrix(mean_bulk - 2.0 * mean_shear / n_spatial, mean_shear, n_spatial))
    return Bounds(*bounds)
