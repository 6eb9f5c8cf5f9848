"""Numbers that describe a stiffness tensor: moduli by direction, measures of anisotropy, and the nearest symmetries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike as NumpyLike

from mksdask.arrays import numbers_argument
from mksdask.schema.arguments import checked
from mksdask.simulation.constituents import lame_moduli
from mksdask.simulation.stencils import Float, n_strain_components


class ElasticConstants(NamedTuple):
    """Elastic constants of stiffness tensors of shape (..., 6, 6), or (..., 3, 3) in the plane.

    ``young`` has shape (..., dim): Young's moduli along x, y, z. ``poisson`` has shape (..., dim, dim): the entry i, j
    is the contraction along j under a stress along i; the diagonal is NaN. ``shear`` has shape (..., 3), or (..., 1) in
    the plane: the shear moduli yz, xz, xy.

    ``mean_bulk`` and ``mean_shear``, shape (...), are the moduli of ``isotropic``, the nearest isotropic tensor, and
    ``cubic`` is the nearest tensor with cubic symmetry along the axes (in the plane: that of a square). Both have the
    shape of the stiffness. ``zener``, shape (...), is the ratio 2 C44 / (C11 - C12) of ``cubic``, and ``anisotropy``,
    shape (...), is the universal anisotropy index. They are 1 and 0 for isotropic tensors.
    """

    young: Float
    poisson: Float
    shear: Float
    mean_bulk: Float
    mean_shear: Float
    isotropic: Float
    cubic: Float
    zener: Float
    anisotropy: Float


def isotropic_matrix(lam: Float, mu: Float, dim: int) -> Float:
    """Make stiffness matrices, (..., n, n), of Lamé moduli, (...). In 2D, this is plane strain."""
    lam, mu = np.asarray(lam), np.asarray(mu)
    n = n_strain_components(dim)
    out = np.zeros((*lam.shape, n, n))
    out[..., :dim, :dim] = lam[..., None, None]
    out[..., range(n), range(n)] += np.where(np.arange(n) < dim, 2.0, 1.0) * mu[..., None]
    return out


def _averages(matrices: Float, *, is_compliance: bool = False) -> tuple[Float, Float]:
    """Bulk and shear moduli of the means of stiffnesses over all orientations, or their inverses for compliances.

    In the plane the bulk modulus is λ + μ.
    """
    dim = 3 if matrices.shape[-1] == 6 else 2
    block = matrices[..., :dim, :dim]
    normal = np.trace(block, axis1=-2, axis2=-1)
    coupling = block.sum(axis=(-2, -1)) - normal
    shear = np.trace(matrices[..., dim:, dim:], axis1=-2, axis2=-1)
    if is_compliance:
        # Engineering shear: its compliances are 4 times those of the tensor.
        shear = shear / 4.0
    bulk = (normal + coupling) / dim**2
    # Twice the squares of the shear strains count, as they stand at two places of the tensor.
    deviatoric = (normal - (normal + coupling) / dim + 2.0 * shear) / (n_strain_components(dim) - 1)
    if is_compliance:
        return 1.0 / (dim**2 * bulk), 0.5 / deviatoric
    return bulk, 0.5 * deviatoric


def _cubic_part(matrices: Float) -> Float:
    """Average stiffnesses over the rotations of a cube, or of a square, along the axes."""
    dim = 3 if matrices.shape[-1] == 6 else 2
    n = matrices.shape[-1]
    block = matrices[..., :dim, :dim]
    normal = np.trace(block, axis1=-2, axis2=-1)
    coupling = (block.sum(axis=(-2, -1)) - normal) / (dim * (dim - 1))
    shear = np.trace(matrices[..., dim:, dim:], axis1=-2, axis2=-1) / (n - dim)
    out = np.zeros(matrices.shape)
    out[..., :dim, :dim] = coupling[..., None, None]
    out[..., range(dim), range(dim)] = normal[..., None] / dim
    out[..., range(dim, n), range(dim, n)] = shear[..., None]
    return out


def engineering_constants(stiffness: NumpyLike) -> ElasticConstants:
    r"""Compute the engineering constants, the anisotropy, and the nearest symmetric tensors of stiffness tensors.

    .. math:: A^U = 5 \frac{G_V}{G_R} + \frac{K_V}{K_R} - 6

    Here K and G are the bulk and shear moduli that Voigt and Reuss compute by averages over all orientations.

    Parameters
    ----------
    stiffness : array, shape (..., 6, 6) or (..., 3, 3)
        Stiffness matrices in memory, such as those of `effective_stiffness`. Rows and columns are in the order xx, yy,
        zz, yz, xz, xy, or xx, yy, xy in the plane, with engineering shear.

    Returns
    -------
    ElasticConstants
        Young's moduli, Poisson's ratios and shear moduli by direction; the nearest isotropic and cubic tensors with
        their moduli; the ratio of Zener, and the universal anisotropy index.

    Raises
    ------
    ValueError
        If `stiffness` has another shape, or a matrix is not finite, symmetric and positive definite.

    Notes
    -----
    In the plane, the moduli are those of plane strain: an isotropic material has E' = E / (1 - ν²) and
    ν' = ν / (1 - ν), its bulk modulus is λ + μ, and the index is 2 G_V / G_R + K_V / K_R - 3.

    The nearest tensors are projections: the sum of the squared differences of all entries of the tensor of rank 4 is
    least. That is the mean of the tensor over all rotations that the symmetry has.

    References
    ----------
    Ranganathan, S. I., Ostoja-Starzewski, M. Universal elastic anisotropy index. Phys. Rev. Lett. 101 (2008) 055504.
    Moakher, M., Norris, A. N. The closest elastic tensor of arbitrary symmetry to an elasticity tensor of lower
    symmetry. J. Elasticity 85 (2006) 215.

    Examples
    --------
    >>> from mksdask.simulation import single_crystal_stiffness
    >>> copper = engineering_constants(single_crystal_stiffness([168.4, 121.4, 75.4]))
    >>> copper.young.round(1).tolist(), copper.zener.round(2).tolist(), copper.anisotropy.round(2).tolist()
    ([66.7, 66.7, 66.7], 3.21, 1.82)
    """
    values = numbers_argument(stiffness, "stiffness")
    if values.ndim < 2 or values.shape[-2:] not in ((6, 6), (3, 3)):
        msg = f"stiffness must hold 6 × 6 matrices, or 3 × 3 matrices in the plane, got shape {values.shape}"
        raise ValueError(msg)
    n, dim = values.shape[-1], 3 if values.shape[-1] == 6 else 2
    margin = 1e-5 * np.abs(values).max(axis=(-2, -1), keepdims=True)
    is_right = np.isfinite(values).all() and (np.abs(values - values.swapaxes(-1, -2)) <= margin).all()
    if not is_right or (np.linalg.eigvalsh(values) <= 0.0).any():
        msg = (
            "stiffness must hold finite, symmetric and positive definite matrices; leave out samples without stiffness"
        )
        raise ValueError(msg)
    values = 0.5 * (values + values.swapaxes(-1, -2))
    compliance = np.asarray(np.linalg.inv(values), dtype=np.float64)
    young = 1.0 / compliance[..., range(dim), range(dim)]
    poisson = -compliance[..., :dim, :dim] * young[..., :, None]
    poisson[..., range(dim), range(dim)] = np.nan
    bulk, shear = _averages(values)
    soft_bulk, soft_shear = _averages(compliance, is_compliance=True)
    cubic = _cubic_part(values)
    return ElasticConstants(
        young,
        poisson,
        1.0 / compliance[..., range(dim, n), range(dim, n)],
        bulk,
        shear,
        isotropic_matrix(bulk - 2.0 * shear / dim, shear, dim),
        cubic,
        np.asarray(2.0 * cubic[..., dim, dim] / (cubic[..., 0, 0] - cubic[..., 0, 1])),
        np.asarray((n - 1) * (shear / soft_shear - 1.0) + bulk / soft_bulk - 1.0),
    )


@checked
def isotropic_stiffness(
    elastic_modulus: float | Sequence[float], poissons_ratio: float | Sequence[float], *, n_spatial: int = 3
) -> Float:
    """Make the stiffness matrices of isotropic materials.

    Parameters
    ----------
    elastic_modulus : float or array
        Young's moduli, from 0.
    poissons_ratio : float or array
        Poisson's ratios, between -1 and 0.5.
    n_spatial : {3, 2}
        Number of spatial axes. In 2D this is plane strain.

    Returns
    -------
    ndarray, shape (..., 6, 6), or (..., 3, 3) in 2D, float64
        Rows and columns in the order xx, yy, zz, yz, xz, xy (2D: xx, yy, xy), with engineering shear.

    Raises
    ------
    ValueError
        If a modulus or a ratio is out of range, or the shapes of both do not fit together.

    Examples
    --------
    >>> isotropic_stiffness(2.0, 0.0, n_spatial=2).tolist()
    [[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]]
    """
    return isotropic_matrix(*checked_moduli(elastic_modulus, poissons_ratio, n_spatial), n_spatial)


def checked_moduli(
    elastic_modulus: float | Sequence[float], poissons_ratio: float | Sequence[float], n_spatial: int
) -> tuple[Float, Float]:
    """Check the moduli of isotropic materials, and return their Lamé moduli.

    Raises
    ------
    ValueError
        As `isotropic_stiffness`.
    """
    young, poisson = (
        numbers_argument(elastic_modulus, "elastic_modulus"),
        numbers_argument(poissons_ratio, "poissons_ratio"),
    )
    if n_spatial not in (2, 3):
        msg = f"n_spatial must be 2 or 3, got {n_spatial}"
        raise ValueError(msg)
    if not (np.isfinite(young) & (young >= 0.0)).all():
        msg = f"elastic_modulus must be finite, and positive or 0, got {young.tolist()}"
        raise ValueError(msg)
    if not ((poisson > -1.0) & (poisson < 0.5)).all():
        msg = f"poissons_ratio must lie between -1 and 0.5, both excluded, got {poisson.tolist()}"
        raise ValueError(msg)
    if young.ndim and poisson.ndim and young.shape != poisson.shape:
        msg = (
            "poissons_ratio must be a number, or have the shape of elastic_modulus, got the shapes "
            f"{poisson.shape} and {young.shape}"
        )
        raise ValueError(msg)
    return lame_moduli(young, poisson)
