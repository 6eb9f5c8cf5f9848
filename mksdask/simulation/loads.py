"""Loads of elastic samples: imposed mean strains and stresses, and eigenstrains such as thermal expansion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike as NumpyLike, NDArray
from scipy.spatial.transform import Rotation

from mksdask.arrays import Array, numbers_argument
from mksdask.simulation.constituents import Constituents, phase_numbers
from mksdask.simulation.forces import voigt_pairs
from mksdask.simulation.matrices import PLANE
from mksdask.simulation.stencils import Float, Material, n_strain_components

# Names of the components of strain and stress, by the number of axes.
COMPONENTS = {2: ("xx", "yy", "xy"), 3: ("xx", "yy", "zz", "yz", "xz", "xy")}


def _components(given: float | NumpyLike, dim: int, *, name: str, shear: float, may_lack: bool) -> Float:
    """Turn a number along x, components, or a symmetric tensor into the vector of its components."""
    values = numbers_argument(given, name)
    n_components = n_strain_components(dim)
    if not (np.isfinite(values) | (may_lack & np.isnan(values))).all():
        msg = f"{name} must be finite{', or NaN where the strain is imposed' * may_lack}, got {given!r}"
        raise ValueError(msg)
    if values.ndim == 0:
        return np.concatenate([[float(values)], np.zeros(n_components - 1)])
    if values.shape == (n_components,):
        return values
    if values.shape == (dim, dim) and np.array_equal(values, values.T, equal_nan=True):
        rows, cols = (np.array(index) for index in voigt_pairs(dim))
        return values[rows, cols] * np.where(rows == cols, 1.0, shear)
    msg = (
        f"{name} must be a number, the {n_components} components {COMPONENTS[dim]}, or a symmetric "
        f"{dim} × {dim} tensor for {dim}D samples, got {given!r}"
    )
    raise ValueError(msg)


def macro_strain_vector(macro_strain: float | NumpyLike, dim: int) -> NDArray[np.float64]:
    """Turn an imposed mean strain into the vector of its components.

    Parameters
    ----------
    macro_strain : float, sequence or square array
        A number is the strain along x. A sequence holds the components xx, yy, (zz, yz, xz,) xy with engineering
        shear, γ = 2ε. A dim × dim array is the strain tensor.
    dim : {2, 3}
        Number of spatial axes.

    Returns
    -------
    ndarray, shape (n_components,), float64
        The components xx, yy, (zz, yz, xz,) xy, with engineering shear.

    Raises
    ------
    ValueError
        If the shape is none of these, or the tensor is not symmetric, or a value is not finite.

    Examples
    --------
    >>> macro_strain_vector([[0.1, 0.02], [0.02, 0.0]], 2).tolist()
    [0.1, 0.0, 0.04]
    """
    return _components(macro_strain, dim, name="macro_strain", shear=2.0, may_lack=False)


def macro_stress_vector(macro_stress: float | NumpyLike, dim: int) -> NDArray[np.float64]:
    """Turn an imposed mean stress into the vector of its components, as `macro_strain_vector` does for a strain.

    NaN stands for components that are not imposed.

    Examples
    --------
    >>> macro_stress_vector([[np.nan, 2.0], [2.0, 0.0]], 2).tolist()
    [nan, 0.0, 2.0]
    """
    return _components(macro_stress, dim, name="macro_stress", shear=1.0, may_lack=True)


@dataclass(frozen=True)
class Loads:
    """What is imposed on samples.

    Parameters
    ----------
    strain : ndarray, shape (n_components,)
        Mean strain. It has no meaning where a stress is imposed.
    stress : ndarray, shape (n_components,), optional
        Mean stress, or NaN where the strain is imposed.
    """

    strain: Float
    stress: Float | None = None

    @classmethod
    def of(cls, macro_strain: float | NumpyLike, macro_stress: float | NumpyLike | None, dim: int) -> Loads:
        """Check the arguments of a public function.

        Raises
        ------
        ValueError
            If they do not fit the number of axes.
        """
        strain = macro_strain_vector(macro_strain, dim)
        if macro_stress is None:
            return cls(strain)
        stress = macro_stress_vector(macro_stress, dim)
        return cls(np.where(np.isnan(stress), strain, 0.0), None if np.isnan(stress).all() else stress)

    @property
    def n_imposed_stresses(self) -> int:
        """Number of components whose stress is imposed."""
        return 0 if self.stress is None else int(np.isfinite(self.stress).sum())


@dataclass(frozen=True)
class Eigenstrains:
    """Strains that the voxels would have without stress.

    Parameters
    ----------
    values : ndarray or None
        Components of each phase, shape (n_phases, n), or of one kind of crystal in its own frame, shape (6,). None if
        an array holds them for each voxel. In 2D, 6 components hold the strain across the plane too.
    n_components : int
        Number of components that are used for a voxel.
    """

    values: Float | None
    n_components: int

    @classmethod
    def of(cls, given: Float, constituents: Constituents, dim: int, n_components: int) -> Eigenstrains:
        """Check the eigenstrains of phases, or of one kind of crystal.

        Raises
        ------
        ValueError
            If their shape does not fit, or a value is not finite.
        """
        is_crystal, n_phases = constituents.trailing == 1, constituents.n_phases
        first = () if is_crystal else given.shape[:1]
        is_number = given.ndim == len(first)
        fits = given.ndim == len(first) + 1 and _fits(given.shape[-1], 3 if is_crystal else dim, n_components)
        is_right = np.isfinite(given).all() and (is_number or fits) and (is_crystal or first == (n_phases,))
        if constituents.is_of_voxels or not is_right:
            kinds = "a number, or 3 or 6 components," if dim == 2 and not is_crystal else "a number or 6 components"
            whose = "the crystal" if is_crystal else f"each of the {n_phases} phases"
            of_phases = "" if constituents.is_of_voxels else f" hold {kinds} for {whose}, all finite, or"
            msg = (
                f"eigenstrain must{of_phases} be an array of numbers, shape (n_samples, *spatial), or of components, "
                f"shape (n_samples, *spatial, n_components), got shape {given.shape}"
            )
            raise ValueError(msg)
        return cls(_expanded(given, n_components, is_number=is_number), n_components)

    @classmethod
    def of_voxels(cls, shape: tuple[int, ...], voxels: tuple[int, ...], n_components: int) -> Eigenstrains:
        """Check the shape of eigenstrains of voxels.

        Raises
        ------
        ValueError
            If it is not that of the voxels.
        """
        if shape != voxels and not (shape[:-1] == voxels and _fits(shape[-1], len(voxels) - 1, n_components)):
            msg = (
                f"eigenstrain must hold a number for each voxel, shape {voxels}, or components, shape "
                f"{(*voxels, n_components)}, got shape {shape}"
            )
            raise ValueError(msg)
        return cls(None, n_components)

    def stress(self, constituents: Constituents, material: Material, blocks: tuple[Array, ...]) -> Float:
        """Compute the stress C ε* of each voxel, (n, *spatial, n_components), of the blocks of a batch.

        Raises
        ------
        ValueError
            If the eigenstrain of a voxel is not finite.
        """
        dim, *voxels = len(material.shape) - 1, *blocks[: constituents.n_arrays]
        if self.values is None:
            given = np.asarray(blocks[-1], dtype=np.float64)
            if not np.isfinite(given).all():
                msg = "eigenstrain must be finite in each voxel"
                raise ValueError(msg)
            strain = _expanded(given, self.n_components, is_number=given.ndim == dim + 1)
        elif self.values.ndim == 2:
            strain = self.values[phase_numbers(voxels[0], len(self.values), "eigenstrain")]
        else:
            strain = _turned(self.values, voxels[0])
        if self.n_components == n_strain_components(dim):
            return material.stress(strain)
        # Plane strain hinders the strain across the plane too, so the samples are taken as volumes.
        thick = constituents.material(*(block[:, :, :, None] for block in voxels))
        return np.ascontiguousarray(thick.stress(strain[:, :, :, None])[:, :, :, 0, PLANE])


def _fits(size: int, dim: int, n_components: int) -> bool:
    """Whether so many components stand for the strain of a voxel: all, or those in the plane of 2D samples."""
    return size == n_components or (size == 3 and dim == 2)


def _expanded(values: Float, n_components: int, *, is_number: bool) -> Float:
    """Return all components of numbers, which are the same along all axes, or of components in the plane."""
    if not is_number and values.shape[-1] == n_components:
        return values
    out = np.zeros((*(values.shape if is_number else values.shape[:-1]), n_components))
    if is_number:
        out[..., : 2 if n_components == 3 else 3] = values[..., None]
    else:
        out[..., PLANE] = values
    return out


def _turned(strain: Float, angles: Array) -> Float:
    """Turn a strain of a crystal into the frame of the sample, for each voxel: (..., 3) → (..., 6)."""
    first, second = (np.array(index) for index in voigt_pairs(3))
    tensor = np.empty((3, 3))
    tensor[first, second] = tensor[second, first] = strain * np.where(first == second, 1.0, 0.5)
    turns = Rotation.from_euler("ZXZ", angles.reshape(-1, 3)).as_matrix()
    turned = (turns @ tensor @ turns.swapaxes(1, 2))[:, first, second] * np.where(first == second, 1.0, 2.0)
    return np.ascontiguousarray(turned.reshape(*angles.shape[:-1], 6))
