"""Stiffness of single crystals, turned into the frame of the sample."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike as NumpyLike

from mksdask.arrays import Array
from mksdask.simulation.stencils import Anisotropic, Float, jit, n_strain_components, voigt_pairs


def single_crystal_stiffness(constants: NumpyLike) -> Float:
    """Stiffness matrix of a crystal in its own frame, from its elastic constants.

    Parameters
    ----------
    constants : sequence or array
        C11, C12, C44 of a cubic crystal; C11, C12, C13, C33, C44 of a hexagonal one, its axis along z; or any 6 × 6
        stiffness matrix, rows and columns in the order xx, yy, zz, yz, xz, xy with engineering shear.

    Returns
    -------
    ndarray, shape (6, 6), float64
        In the unit of the constants.

    Raises
    ------
    ValueError
        If there are other numbers of constants, or the crystal would not be stable.

    Examples
    --------
    >>> single_crystal_stiffness([168.4, 121.4, 75.4])[0].tolist()  # copper, GPa
    [168.4, 121.4, 121.4, 0.0, 0.0, 0.0]
    """
    values = np.asarray(constants, dtype=np.float64)
    if values.shape == (3,):
        c11, c12, c44 = values
        c13, c33, c66 = c12, c11, c44
    elif values.shape == (5,):
        c11, c12, c13, c33, c44 = values
        c66 = (c11 - c12) / 2.0
    elif values.shape != (6, 6):
        msg = (
            "crystal_stiffness must be C11, C12, C44 (cubic), C11, C12, C13, C33, C44 (hexagonal) or a 6 × 6 matrix, "
            f"got shape {values.shape}"
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
            f"crystal_stiffness must be positive definite, as of a stable crystal; got {values.tolist()}, whose lowest "
            f"eigenvalue is {lowest:g}"
        )
        raise ValueError(msg)
    return 0.5 * (stiffness + stiffness.T)


def voigt_average(stiffness: Float) -> tuple[float, float]:
    """Lamé moduli λ, μ of the mean stiffness of crystals in all orientations.

    Parameters
    ----------
    stiffness : ndarray, shape (6, 6)
        Of one crystal, in any orientation.

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
    """Upper triangles of M C Mᵀ, with σ' = M σ for the rotation of each voxel; out (n_rows, n_packed, n_last)."""
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
    """Stiffness of each voxel in the frame of the sample.

    Parameters
    ----------
    stiffness : ndarray, shape (6, 6)
        Of the crystal in its own frame.
    angles : ndarray, shape (n, nx, ny[, nz], 3)
        Bunge angles in radians, crystal to sample.

    Returns
    -------
    Anisotropic
        In 2D the rows and columns xx, yy, xy: plane strain.
    """
    *lines, last, _ = angles.shape
    kept = np.array([0, 1, 5] if len(lines) == 2 else range(6))
    n_packed = n_strain_components(len(kept))
    packed = np.empty((int(np.prod(lines)), n_packed, last))
    rows, columns = (np.array(index) for index in voigt_pairs(3))
    _turn(np.ascontiguousarray(angles, dtype=np.float64).reshape(-1, last, 3), stiffness, rows, columns, kept, packed)
    return Anisotropic(packed.reshape(*lines, n_packed, last))
