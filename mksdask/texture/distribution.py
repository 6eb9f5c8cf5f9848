"""What follows from texture coefficients: the orientation distribution function, its index, and pole figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mksdask.arrays import Array, ArrayLike, is_number, numbers_argument, shown, unwrap
from mksdask.bases.gsh import LAUE_GROUPS, GSHBasis, check_angles, sides_of
from mksdask.bases.wigner import WignerSums, wigner_matrices
from mksdask.compute.blocks import map_samples
from mksdask.compute.graph import check_known
from mksdask.texture.coefficients import texture_basis

STEP = np.deg2rad(5.0)
# Order of the main axis of each rotation group.
ORDERS = {name: {"T": 2, "O": 4}.get(name) or int(name[1:]) for name in LAUE_GROUPS.values()}
# So many values of functions are computed together, if all functions fit.
TOGETHER = 2**21


@dataclass(frozen=True)
class _Functions:
    """The functions T of a basis at orientations."""

    basis: GSHBasis

    def __call__(self, angles: Array) -> Iterable[Array]:
        return self.basis.fields(angles, range(len(self.basis.states)), np.float64)


@dataclass(frozen=True)
class _Poles:
    """The mean of each function T over the orientations that turn a pole into directions, and into their opposites.

    The mean of D^l_{jk}(g) over all g with g h = y is D^l_{j0}(y) D^l_{k0}(h)*. That of opposite directions is -1 times
    as much for odd l, so that these vanish.
    """

    basis: GSHBasis
    pole: tuple[float, float, float]

    def __call__(self, angles: Array) -> Iterable[Array]:
        basis, towards = self.basis, _towards(np.array(self.pole))[None]
        of_pole = {
            degree: wigner_matrices(degree, towards)[0, :, degree].conj()
            for degree in {index.l for index in basis.index_}
        }
        sums: list[list[tuple[int, int, int, complex]]] = []
        for index in basis.index_:
            degree = index.l
            left, right = sides_of(basis.domain, basis.sample_symmetry, index)
            along = (2 * degree + 1) * complex(right @ of_pole[degree]) * (degree % 2 == 0)
            sums.append([(degree, int(j) - degree, 0, complex(left[j] * along)) for j in np.flatnonzero(left)])
        return np.asarray(WignerSums.of(sums).evaluate(angles, np.float64))


@dataclass(frozen=True)
class _Series:
    """The kernel of a series: coefficients (n, n_functions) → (n, n_points). It adds up Re C* T / (2 l + 1).

    Parameters
    ----------
    functions : _Functions or _Poles
        Values of the functions at a few points.
    angles : ndarray, shape (n_points, 3)
        All points.
    """

    functions: _Functions | _Poles
    angles: NDArray[np.float64]

    def __call__(self, coefficients: Array) -> Array:
        out = np.zeros((len(coefficients), len(self.angles)))
        degrees = np.array([index.l for index in self.functions.basis.index_])
        weights = (coefficients.conj() / (2.0 * degrees + 1.0)).T
        step = max(64, TOGETHER // len(degrees))
        for start in range(0, len(self.angles), step):
            part = slice(start, start + step)
            for weight, values in zip(weights, self.functions(self.angles[part]), strict=True):
                # Points are added one by one, so that they do not depend on how samples are grouped.
                out[:, part] += weight.real[:, None] * values.real - weight.imag[:, None] * values.imag
        return out


def _check_coefficients(coefficients: ArrayLike, basis: GSHBasis) -> tuple[Any, xr.DataArray | None]:
    """Split coefficients into their data and their labels.

    Raises
    ------
    ValueError
        If they are not those of the basis.
    """
    data, labels = unwrap(coefficients, name="coefficients")
    check_known(data, name="coefficients")
    n = len(basis.states)
    if data.ndim not in (1, 2) or data.shape[-1] != n:
        msg = (
            f"coefficients must be what texture_coefficients returns for this basis, of shape (n_samples, {n}) or "
            f"({n},), got {shown(data)}"
        )
        raise ValueError(msg)
    return data, labels


def _summed(
    coefficients: ArrayLike, functions: _Functions | _Poles, angles: NDArray[np.float64], name: str
) -> tuple[Any, xr.DataArray | None]:
    """Add up a series at points, and return it with the labels of the coefficients: (..., n_points)."""
    data, labels = _check_coefficients(coefficients, functions.basis)
    rows, kernel = data[None] if data.ndim == 1 else data, _Series(functions, angles.reshape(-1, 3))
    found = map_samples(kernel, rows, tail=(len(kernel.angles),), dtype=np.float64, name=name)
    return (found[0] if data.ndim == 1 else found), labels


def _labelled(found: Any, labels: xr.DataArray | None, grid: dict[str, Array], name: str) -> xr.DataArray:
    """Give a series (..., n_points) the axes of a grid."""
    lead = found.ndim - 1
    dims: tuple[Any, ...] = ("sample",)[:lead] if labels is None else labels.dims[:lead]
    coords: dict[Any, Any] = {dim: (dim, values, {"units": "rad"}) for dim, values in grid.items()}
    if labels is not None:
        coords |= {dim: labels.coords[dim] for dim in dims if dim in labels.coords}
    shape = (*found.shape[:lead], *map(len, grid.values()))
    return xr.DataArray(found.reshape(shape), dims=(*dims, *grid), coords=coords, name=name, attrs={"units": "mrd"})


def _divided(end: float, step: float) -> NDArray[np.float64]:
    return np.linspace(0.0, end, max(1, round(end / step)) + 1)


def _step_argument(step: Any) -> float:
    if not is_number(step) or not np.deg2rad(0.5) <= step <= np.pi / 4:
        msg = f"step must be an angle in radians from 0.0088 (0.5°) to π/4, got {shown(step)}"
        raise ValueError(msg)
    return float(step)


def euler_grid(basis: GSHBasis, step: float) -> dict[str, NDArray[np.float64]]:
    """Choose Bunge angles that are multiples of a step, up to the periods of the symmetry of crystal and specimen."""
    specimen, crystal = (LAUE_GROUPS[group] for group in (basis.sample_symmetry, basis.domain))
    around, of_crystal = (2.0 * np.pi / ORDERS[name] for name in (specimen, crystal))
    # Of two specimens that a 2-fold axis across z brings together, one is shown.
    if specimen[0] in "DTO":
        around /= 2.0
    tilt = np.pi / 2 if crystal[0] in "DTO" else np.pi
    return {"phi1": _divided(around, step), "Phi": _divided(tilt, step), "phi2": _divided(of_crystal, step)}


def odf(coefficients: ArrayLike, basis: GSHBasis, orientations: ArrayLike | None = None, *, step: float = STEP) -> Any:
    r"""Compute the orientation distribution function (ODF) from texture coefficients.

    .. math:: f(g) = \sum_{l \mu n} \frac{1}{2 l + 1}\, C_l^{\mu n *}\, T_l^{\mu n}(g)

    Parameters
    ----------
    coefficients : array, shape (n_samples, n_functions) or (n_functions,)
        What `texture_coefficients` or `volume_texture_coefficients` returns.
    basis : GSHBasis
        The basis of the coefficients.
    orientations : array, shape (..., 3), optional
        Bunge angles in radians at which the function is computed. Default: a grid.
    step : float, default 5°
        Step of the grid, in radians.

    Returns
    -------
    DataArray, shape ([n_samples,] n_phi1, n_Phi, n_phi2), or array, shape ([n_samples,] ...) at given orientations
        Multiples of a random distribution, so that the mean over all orientations is 1. The grid ends with the periods
        of the symmetry, so its first and last values along φ1 and φ2 may be equal. The result is lazy for lazy
        coefficients.

    Raises
    ------
    TypeError
        If `basis` is no GSHBasis.
    ValueError
        If functions of the basis are missing, or another argument is not valid.

    Notes
    -----
    Sharp textures need a high degree. A series that ends too early has values below 0. Use `halfwidth` of
    `texture_coefficients` to smooth the orientations, or a basis of a higher degree.

    References
    ----------
    Bunge, H.-J. Texture Analysis in Materials Science. Butterworths, 1982, chapter 4.

    Examples
    --------
    >>> import numpy as np
    >>> from mksdask import GSHBasis
    >>> from mksdask.texture import texture_coefficients
    >>> basis = GSHBasis(None, domain="cubic", max_degree=8)
    >>> cube = texture_coefficients(np.zeros((1, 4, 4, 3)), basis)
    >>> f = odf(cube[0], basis)
    >>> f.dims, f.shape
    (('phi1', 'Phi', 'phi2'), (73, 19, 19))
    >>> round(float(f[0, 0, 0]), 6), round(float(f.max()), 6)  # 1 + 9 + 13 + 17
    (40.0, 40.0)
    """
    known = texture_basis(basis)
    if orientations is None:
        grid = euler_grid(known, _step_argument(step))
        angles = np.stack(np.meshgrid(*grid.values(), indexing="ij"), axis=-1)
    else:
        angles = numbers_argument(orientations, "orientations")
        check_angles(angles)
    found, labels = _summed(coefficients, _Functions(known), angles, "odf")
    if orientations is None:
        return _labelled(found, labels, grid, "odf")
    return found.reshape((*found.shape[:-1], *angles.shape[:-1]))


def texture_index(coefficients: ArrayLike, basis: GSHBasis) -> Any:
    r"""Compute the texture index, which is the mean of the square of the ODF over all orientations.

    .. math:: J = \int f(g)^2 dg = \sum_{l \mu n} \frac{|C_l^{\mu n}|^2}{2 l + 1}

    Parameters
    ----------
    coefficients, basis
        As in `odf`.

    Returns
    -------
    array of the kind of `coefficients`, shape (n_samples,) or ()
        It is 1 for random orientations, and grows with the sharpness of the texture and with the degree of the basis.

    Raises
    ------
    TypeError, ValueError
        As in `odf`.

    References
    ----------
    Bunge, H.-J. Texture Analysis in Materials Science. Butterworths, 1982, section 4.2.

    Examples
    --------
    >>> import numpy as np
    >>> from mksdask import GSHBasis
    >>> from mksdask.texture import texture_coefficients
    >>> basis = GSHBasis(None, domain="cubic", max_degree=4)
    >>> one = texture_coefficients(np.zeros((1, 4, 4, 3)), basis)
    >>> [round(float(index), 6) for index in texture_index(one, basis)]  # 1 + 9
    [10.0]
    """
    known = texture_basis(basis)
    data, labels = _check_coefficients(coefficients, known)
    weights = 1.0 / (2.0 * np.array([index.l for index in known.index_]) + 1.0)
    found = (abs(data) ** 2 * weights).sum(axis=-1)
    if labels is None:
        return found
    return xr.DataArray(
        found,
        dims=labels.dims[:-1],
        coords={dim: labels.coords[dim] for dim in labels.dims[:-1] if dim in labels.coords},
        name="texture_index",
    )


def direction_argument(direction: Any, name: str) -> NDArray[np.float64]:
    """Check a direction of three numbers, and make it one long.

    Raises
    ------
    ValueError
        If it is none.
    """
    found = numbers_argument(direction, name)
    if found.shape != (3,) or not np.isfinite(found).all() or not found.any():
        msg = f"{name} must be a direction of three numbers that are not all 0, such as (1, 1, 1), got {direction!r}"
        raise ValueError(msg)
    return found / np.linalg.norm(found)


def _towards(directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Bunge angles of rotations that turn z into directions of length 1: (..., 3) → (..., 3)."""
    x, y, z = np.moveaxis(directions, -1, 0)
    return np.stack([np.arctan2(x, -y), np.arctan2(np.hypot(x, y), z), np.zeros_like(x)], axis=-1)


def pole_figure(
    coefficients: ArrayLike,
    basis: GSHBasis,
    pole: Sequence[float],
    directions: ArrayLike | None = None,
    *,
    step: float = STEP,
) -> Any:
    r"""Compute how often a direction of the crystals lies along each direction of the sample.

    .. math:: P_h(y) = \frac{1}{2} \left( \tilde P_h(y) + \tilde P_h(-y) \right), \qquad
              \tilde P_h(y) = \frac{1}{2 \pi} \int_{g h = y} f(g)\, dg

    Parameters
    ----------
    coefficients, basis
        As in `odf`.
    pole : (float, float, float)
        Direction h of the crystal, in Cartesian axes: the main axis is z, and the axis a is x in all groups. For cubic
        crystals these are Miller indices, such as (1, 1, 1).
    directions : array, shape (..., 3), optional
        Directions y of the sample, of any length. Default: a grid over the half sphere z ≥ 0.
    step : float, default 5°
        Step of the grid, in radians.

    Returns
    -------
    DataArray, shape ([n_samples,] n_polar, n_azimuth), or array, shape ([n_samples,] ...) at given directions
        Multiples of a random distribution, so that the mean over the sphere is 1. On the grid, ``polar`` is the angle
        from z, and ``azimuth`` that from x to y. Opposite directions have the same value. The result is lazy for lazy
        coefficients.

    Raises
    ------
    TypeError
        If `basis` is no GSHBasis.
    ValueError
        If functions of the basis are missing, or another argument is not valid.

    References
    ----------
    Bunge, H.-J. Texture Analysis in Materials Science. Butterworths, 1982, section 4.3.

    Examples
    --------
    >>> import numpy as np
    >>> from mksdask import GSHBasis
    >>> from mksdask.texture import texture_coefficients
    >>> basis = GSHBasis(None, domain="cubic", max_degree=8)
    >>> cube = texture_coefficients(np.zeros((1, 4, 4, 3)), basis)[0]
    >>> pole_figure(cube, basis, (0, 0, 1), [(0, 0, 1), (2, 1, 0)]).round(2).tolist()
    [16.64, -0.95]
    """
    known, h = texture_basis(basis), direction_argument(pole, "pole")
    if directions is None:
        width = _step_argument(step)
        grid = {"polar": _divided(np.pi / 2, width), "azimuth": _divided(2.0 * np.pi, width)}
        polar, azimuth = np.meshgrid(*grid.values(), indexing="ij")
        y = np.stack([np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar)], axis=-1)
    else:
        y = numbers_argument(directions, "directions")
        lengths = np.linalg.norm(y, axis=-1, keepdims=True) if y.ndim and y.shape[-1] == 3 else np.zeros(1)
        if not (lengths > 0).all() or not np.isfinite(lengths).all():
            msg = f"directions must be of three numbers that are not all 0, shape (..., 3), got {shown(directions)}"
            raise ValueError(msg)
        y = y / lengths
    found, labels = _summed(coefficients, _Poles(known, tuple(h.tolist())), _towards(y), "pole-figure")
    if directions is None:
        return _labelled(found, labels, grid, "pole_figure")
    return found.reshape((*found.shape[:-1], *y.shape[:-1]))
