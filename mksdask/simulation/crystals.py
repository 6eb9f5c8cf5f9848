"""Stiffness of single crystals, in their own frame and in the frame of the sample."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike as NumpyLike

from mksdask.arrays import Array, numbers_argument
from mksdask.simulation.forces import jit, voigt_pairs
from mksdask.simulation.stencils import Anisotropic, Float, n_strain_components


def single_crystal_stiffness(constants: NumpyLike) -> Float:
    """Build the stiffness matrix of a crystal in its own frame from its elastic constants.

    Parameters
    ----------
    constants : sequence or array
        C11, C12, C44 of a cubic crystal; C11, C12, C13, C33, C44 of a hexagonal crystal with its axis along z; or any
        6 × 6 stiffness matrix, with rows and columns in the order xx, yy, zz, yz, xz, xy and engineering shear.

    Returns
    -------
    ndarray, shape (6, 6), float64
        Stiffness in the unit of the constants.

    Raises
    ------
    ValueError
        If the number of constants is none of these, if the matrix is not finite and symmetric, or if the crystal would
        not be stable.

    Examples
    --------
    >>> single_crystal_stiffness([168.4, 121.4, 75.4])[0].tolist()  # copper, GPa
    [168.4, 121.4, 121.4, 0.0, 0.0, 0.0]
    """
    values = numbers_argument(constants, "constants")
    if values.shape == (3,):
        c11, c12, c44 = values
        c13, c33, c66 = c12, c11, c44
    elif values.shape == (5,):
        c11, c12, c13, c33, c44 = values
        c66 = (c11 - c12) / 2.0
    elif values.shape != (6, 6):
        msg = (
            "crystal_stiffness must hold C11, C12, C44 (cubic), or C11, C12, C13, C33, C44 (hexagonal), or be a 6 × 6 "
            f"matrix, got an array of shape {values.shape}"
        )
        raise ValueError(msg)
    if values.ndim == 1:
        stiffness = np.diag([c11, c11, c33, c44, c44, c66])
        stiffness[0, 1] = stiffness[1, 0] = c12
        stiffness[:2, 2] = stiffness[2, :2] = c13
    else:
        stiffness = values.copy()
    if not np.isfinite(stiffness).all() or not np.allclose(
        stiffness, stiffness.T, rtol=0.0, atol=1e-9 * np.abs(stiffness).max()
    ):
        msg = f"crystal_stiffness must be finite and symmetric, got {values.tolist()}"
        raise ValueError(msg)
    lowest = np.linalg.eigvalsh(stiffness)[0]
    if lowest <= 0.0:
        msg = (
            f"crystal_stiffness must be positive definite, because the crystal would not be stable otherwise; got "
            f"{values.tolist()}, whose lowest eigenvalue is {lowest:g}"
        )
        raise ValueError(msg)
    return 0.5 * (stiffness + stiffness.T)


def voigt_average(stiffness: Float) -> tuple[float, float]:
    """Compute the Lamé moduli λ, μ of the mean stiffness of a crystal over all orientations.

    Parameters
    ----------
    stiffness : ndarray, shape (6, 6)
        Stiffness of one crystal, in any orientation.

    Returns
    -------
    tuple of float
        λ and μ, in the unit of `stiffness`.

    References
    ----------
    Hill, R. The elastic behaviour of a crystalline aggregate. Proc. Phys. Soc. A 65 (1952) 349.
    """
    normal = np.trace(stiffness[:3, :3])
    coupling = stiffness[0, 1] + stiffness[1, 2] + stiffness[0, 2]
    shear = (normal - coupling + 3.0 * np.trace(stiffness[3:, 3:])) / 15.0
    bulk = (normal + 2.0 * coupling) / 9.0
    return float(bulk - 2.0 * shear / 3.0), float(shear)


@jit
def _turn(angles, stiffness, rows, columns, kept, out):  # type: ignore[no-untyped-def]
    """Write the upper triangle of M C Mᵀ of each voxel to `out`, (n_rows, n_packed, n_last).

    The rotation of the voxel turns the stress into σ' = M σ.
    """
    turn = np.empty((3, 3))
    bond = np.empty((6, 6))
    half = np.empty((6, 6))
    for line in range(len(angles)):
        for k in range(angles.shape[1]):
            c1, s1 = np.cos(angles[line, k, 0]), np.sin(angles[line, k, 0])
            c, s = np.cos(angles[line, k, 1]), np.sin(angles[line, k, 1])
            c2, s2 = np.cos(angles[line, k, 2]), np.sin(angles[line, k, 2])
            turn[0, 0], turn[0, 1], turn[0, 2] = c1 * c2 - s1 * s2 * c, -c1 * s2 - s1 * c2 * c, s1 * s
            turn[1, 0], turn[1, 1], turn[1, 2] = s1 * c2 + c1 * s2 * c, -s1 * s2 + c1 * c2 * c, -c1 * s
            turn[2, 0], turn[2, 1], turn[2, 2] = s2 * s, c2 * s, c
            for v in range(6):
                a, b = rows[v], columns[v]
                for w in range(6):
                    p, q = rows[w], columns[w]
                    bond[v, w] = turn[a, p] * turn[b, q]
                    if p != q:
                        bond[v, w] += turn[a, q] * turn[b, p]
            for v in kept:
                for w in range(6):
                    total = 0.0
                    for p in range(6):
                        total += bond[v, p] * stiffness[p, w]
                    half[v, w] = total
            position = 0
            for i in range(len(kept)):
                for j in range(i, len(kept)):
                    total = 0.0
                    for p in range(6):
                        total += half[kept[i], p] * bond[kept[j], p]
                    out[line, position, k] = total
                    position += 1


def turned_stiffness(stiffness: Float, angles: Array) -> Anisotropic:
    """Turn the stiffness of a crystal into the frame of the sample, for each voxel.

    Parameters
    ----------
    stiffness : ndarray, shape (6, 6)
        Stiffness of the crystal in its own frame.
    angles : ndarray, shape (n, nx, ny[, nz], 3)
        Bunge angles in radians, of the rotation from crystal to sample.

    Returns
    -------
    Anisotropic
        Stiffness of each voxel. In 2D it has the rows and columns xx, yy, xy, which means plane strain.
    """
    *lines, last, _ = angles.shape
    kept = np.array([0, 1, 5] if len(lines) == 2 else range(6))
    n_packed = n_strain_components(len(kept))
    packed = np.empty((int(np.prod(lines)), n_packed, last))
    rows, columns = (np.array(index) for index in voigt_pairs(3))
    _turn(np.ascontiguousarray(angles, dtype=np.float64).reshape(-1, last, 3), stiffness, rows, columns, kept, packed)
    return Anisotropic(packed.reshape(*lines, n_packed, last))
