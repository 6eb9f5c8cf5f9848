"""Equilibrium of periodic voxel samples, by conjugate gradients that are preconditioned in Fourier space.

The elastic forces come from `stencils`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from mksdask.compute.threads import over_parts
from mksdask.compute.transforms import irfftn_in_place
from mksdask.simulation.conjugate_gradients import conjugate_gradients, write_residuals
from mksdask.simulation.elements import parts_of_planes, strain_of_planes, stress_forces, total_stress
from mksdask.simulation.forces import jit
from mksdask.simulation.stencils import Float, Material, Single, Stencil
from mksdask.simulation.stress_control import StressControl

# Largest number of unknowns that are solved together, so that a batch stays in cache.
BATCH_UNKNOWNS = 2**17
# Voxels from which threads share the work on one sample.
LARGE = 2**18


@dataclass(frozen=True)
class ElasticEquilibrium:
    """The equilibrium of a batch of periodic cells; see `solve_elasticity`."""

    material: Material
    macro: Float
    fluctuation: Float
    iterations: NDArray[np.int64]
    eigenstress: Float | None

    def write_fields(self, rows: NDArray[np.intp], strain: Float, stress: Float) -> None:
        """Write the mean strain and stress of each element to some rows of arrays, (n, *spatial, n_components)."""

        def write(first: int, last: int) -> None:
            for start, end in parts_of_planes(self.material.shape, first, last):
                part = strain_of_planes(self.fluctuation, self.macro, start, end)
                strain[rows, start:end], part = part, self.material.of_planes(start, end).stress(part)
                stress[rows, start:end] = part if self.eigenstress is None else part - self.eigenstress[:, start:end]

        over_parts(write, self.material.shape[1])

    def mean_stress(self) -> Float:
        """Compute the mean stress of each cell, (n, n_components)."""
        voxels = self.material.shape[1:]
        mean = total_stress(self.material, self.fluctuation, self.macro) / np.prod(voxels)
        return mean if self.eigenstress is None else mean - self.eigenstress.mean(axis=tuple(range(1, len(voxels) + 1)))


@jit
def _invert_symbols(squares, norms, sines, lam, mu, green, first, last):  # type: ignore[no-untyped-def]
    """Write the inverse of the stencil of a homogeneous material at each frequency; see `symbols`."""
    is_flat = len(green) == 3
    for i in range(first, last):
        for j in range(len(squares[1])):
            for k in range(len(squares[2])):
                gx, gy, gz = norms[0][i], norms[1][j], norms[2][k]
                sx, sy, sz = squares[0][i] * gy * gz, squares[1][j] * gx * gz, squares[2][k] * gx * gy
                shear, across = mu * (sx + sy + sz), lam + mu
                xx, yy, zz = shear + across * sx, shear + across * sy, shear + across * sz
                xy = across * sines[0][i] * sines[1][j] * gz
                xz = across * sines[0][i] * sines[2][k] * gy
                yz = across * sines[1][j] * sines[2][k] * gx
                a, b, c = yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy
                det = xx * a + xy * b + xz * c
                # The stencil is singular at the zero frequency.
                scale = 1.0 / det if i + j + k > 0 else 0.0
                green[0, i, j, k], green[1, i, j, k] = scale * a, scale * b
                if is_flat:
                    green[2, i, j, k] = scale * (xx * zz - xz * xz)
                else:
                    green[2, i, j, k], green[3, i, j, k] = scale * c, scale * (xx * zz - xz * xz)
                    green[4, i, j, k], green[5, i, j, k] = scale * (xy * xz - xx * yz), scale * (xx * yy - xy * xy)


@jit
def _multiply_green(green, v, first, last):  # type: ignore[no-untyped-def]
    """``v_a ← Σ_b G_ab v_b`` for some frequencies. The symmetric G is packed as its upper triangle, by rows."""
    n, dim, _ = v.shape
    for s in range(n):
        if dim == 2:
            for k in range(first, last):
                a, b = v[s, 0, k], v[s, 1, k]
                v[s, 0, k] = green[0, k] * a + green[1, k] * b
                v[s, 1, k] = green[1, k] * a + green[2, k] * b
        else:
            for k in range(first, last):
                a, b, c = v[s, 0, k], v[s, 1, k], v[s, 2, k]
                v[s, 0, k] = green[0, k] * a + green[1, k] * b + green[2, k] * c
                v[s, 1, k] = green[1, k] * a + green[3, k] * b + green[4, k] * c
                v[s, 2, k] = green[2, k] * a + green[4, k] * b + green[5, k] * c


def batch_size(spatial: tuple[int, ...]) -> int:
    """Choose the number of samples that are solved together."""
    return max(1, BATCH_UNKNOWNS // (len(spatial) * int(np.prod(spatial))))


def is_large(spatial: tuple[int, ...]) -> bool:
    """Tell whether threads can share the work on one sample."""
    return int(np.prod(spatial)) >= LARGE


@lru_cache(maxsize=2)
def green_operator(spatial: tuple[int, ...], lam: float, mu: float) -> Single:
    """Invert the stiffness stencil of a homogeneous reference at each rfft frequency.

    Parameters
    ----------
    spatial : tuple of int
        Voxels along each of 2 or 3 axes.
    lam, mu : float
        Lamé moduli of the homogeneous reference.

    Returns
    -------
    ndarray, shape (dim·(dim+1)/2, *rfft_shape), float32
        The upper triangle of the symmetric dim × dim inverse, row by row. It is 0 at the zero frequency, where the
        stencil is singular. Single precision is enough, because a preconditioner steers the iteration but does not
        enter the solution.
    """
    dim = len(spatial)
    squares, norms, sines = symbols((*spatial, *(1,) * (3 - dim)), halved=dim - 1)
    green = np.empty((dim * (dim + 1) // 2, *map(len, squares)), dtype=np.float32)
    over_parts(partial(_invert_symbols, squares, norms, sines, lam, mu, green), spatial[0])
    green = green.reshape(len(green), *map(len, squares[:dim]))
    green.flags.writeable = False
    return green


def symbols(shape: tuple[int, ...], halved: int) -> tuple[tuple[Float, ...], ...]:
    """Compute what the stencils of a homogeneous material are made of, for the frequencies ω along each axis.

    Parameters
    ----------
    shape : tuple of int
        Voxels along each axis.
    halved : int
        Axis along which the real transform keeps half of the frequencies.

    Returns
    -------
    squares, norms, sines : tuple of ndarray
        For each axis the square |d|² of a difference, the norm ``|m|² + |d|²/12`` of the means and differences across,
        and sin ω, which is the product of a difference and a mean.
    """
    turns = [2.0 * np.pi * np.arange(n // 2 + 1 if axis == halved else n) / n for axis, n in enumerate(shape)]
    squares = [4.0 * np.sin(0.5 * turn) ** 2 for turn in turns]
    norms = [np.cos(0.5 * turn) ** 2 + square / 12.0 for turn, square in zip(turns, squares, strict=True)]
    return tuple(squares), tuple(norms), tuple(map(np.sin, turns))


def kept_if_small(green: Any, spatial: tuple[int, ...], *arguments: float) -> Single:
    """Call a cached function of the shape of samples. The result for a large sample is not kept after the call."""
    function = green.__wrapped__ if is_large(spatial) else green
    return np.asarray(function(spatial, *arguments))


def _precondition(green: Single, r: Single) -> Single:
    axes = tuple(range(2, r.ndim))
    v = scipy.fft.rfftn(r, axes=axes)
    flat = v.reshape(*v.shape[:2], -1)
    over_parts(partial(_multiply_green, green.reshape(len(green), -1), flat), flat.shape[-1])
    return irfftn_in_place(v, r.shape[2:], axes)


def equilibrium(
    material: Stencil,
    macro: Float,
    precondition: Callable[[Single], Single],
    tolerance: float,
    max_iterations: int,
    forces: Float | None = None,
    unit: float | Float = 1.0,
) -> tuple[Float, NDArray[np.int64]]:
    """Find the fluctuation at which the forces of a material vanish, by preconditioned conjugate gradients.

    Parameters
    ----------
    material : Stencil
        The forces.
    macro : ndarray, shape (n, n_components)
        Imposed mean of each sample.
    precondition : callable
        Approximates the fluctuation that belongs to forces: a symmetric and positive map of fields, float32.
    tolerance : float
        Factor by which the preconditioned residual norm is reduced. Where rounding errors of float64 are larger, the
        iteration ends with them.
    max_iterations : int
        Limit of iterations.
    forces : ndarray, shape (n, n_fields, *spatial), optional
        Further forces on the corners, such as those of eigenstrains, in this unit.
    unit : float or ndarray, shape (n,), default 1
        Stiffness by which the forces of the material are divided, so that they fit in single precision.

    Returns
    -------
    fluctuation : ndarray, shape (n, n_fields, *spatial)
    iterations : ndarray, shape (n,)

    Raises
    ------
    ConvergenceError
        If a sample needs more than `max_iterations`.
    """
    n, *spatial = material.shape
    shape = (n, material.n_fields, *spatial)
    single, no_macro = material.single(1.0 / unit), np.zeros(macro.shape, dtype=np.float32)

    def apply(p: Single, active: NDArray[np.bool_], out: Single) -> None:
        single.forces(p.reshape(shape), no_macro, active, out.reshape(shape))

    def residual(x: Float, active: NDArray[np.bool_], out: Single) -> None:
        acting = np.empty(shape)
        material.forces(x.reshape(shape), macro, active, acting)
        write_residuals(forces, acting, unit, active, out.reshape(shape))

    load = np.abs(macro).max(axis=1) * material.largest() / unit
    if forces is not None:
        load = np.maximum(load, np.abs(forces).reshape(n, -1).max(axis=1))
    x, iterations = conjugate_gradients(
        (n, int(np.prod(shape[1:]))),
        residual,
        apply,
        lambda r: precondition(r.reshape(-1, *shape[1:])).reshape(len(r), -1),
        load,
        tolerance,
        max_iterations,
    )
    return x.reshape(shape), iterations


def solve_elasticity(
    material: Material,
    macro_strain: Float,
    *,
    reference: tuple[float, float],
    unit: float | Float | None = None,
    macro_stress: Float | None = None,
    eigenstress: Float | None = None,
    tolerance: float = 1e-8,
    max_iterations: int = 1000,
) -> ElasticEquilibrium:
    """Solve for the equilibrium of a batch of periodic voxel cells under imposed mean strains.

    The solver minimises the elastic energy ``1/2 Σ_e ∫ (B ũ + E - ε*) : C (B ũ + E - ε*)`` over periodic ``ũ``, and
    over those components of E whose mean stress is imposed, by conjugate gradients. They are preconditioned in Fourier
    space with the inverse stencil of a homogeneous reference. With this preconditioner the number of iterations does
    not depend on the grid. All cells are solved together.

    Parameters
    ----------
    material : Isotropic or Anisotropic
        Stiffness of each voxel of n cells, in any one unit of stress. The cells have 2 or 3 spatial axes; cells with 2
        axes are in plane strain.
    macro_strain : ndarray, shape (n, n_components), float64
        Imposed mean strain of each cell, with engineering shear.
    reference : tuple of float
        Lamé moduli λ, μ of the homogeneous reference. Only their ratio matters to the iteration.
    unit : float or ndarray, shape (n,), optional
        Stiffness of the material, or of each cell, by which it is divided in the computation. Default: μ of the
        reference.
    macro_stress : ndarray, shape (n_components,), optional
        Imposed mean stress of all cells. NaN stands for components whose strain is imposed.
    eigenstress : ndarray, shape (n, *spatial, n_components), optional
        Stress C ε* that belongs to the eigenstrain ε* of each voxel.
    tolerance : float
        The iteration stops when the preconditioned residual norm has fallen by this factor, or to the rounding errors
        of float64. The factor estimates the relative error in the energy norm, and underestimates it as the contrast
        grows.
    max_iterations : int
        Limit of iterations.

    Returns
    -------
    ElasticEquilibrium
        ``macro``, shape (n, n_components): mean strain.
        ``fluctuation``, shape (n, dim, *spatial): ũ at the lower corner of each voxel, in voxels.
        ``iterations``, shape (n,): number of iterations of each cell.
        Its methods compute the strain and the stress of each element, and the mean stress.

    Raises
    ------
    ConvergenceError
        If a cell needs more than ``max_iterations``. The message says how far it got.

    Notes
    -----
    Directions have single precision, and residuals that decide have double precision; see `conjugate_gradients`. Peak
    memory beyond the results is a copy of the material in single precision and about ``4.5 · dim`` float64 fields.
    `batch_size` tells how many cells fit in cache together.

    References
    ----------
    Schneider, M., Merkert, D., Kabel, M. FFT-based homogenization for microstructures discretized by
    linear hexahedral elements. Int. J. Numer. Meth. Eng. 109 (2017) 1461.
    Leute, R. J. et al. Elimination of ringing artifacts by finite-element projection in FFT-based
    homogenization. J. Comput. Phys. 453 (2022) 110931.

    Examples
    --------
    The strain of a homogeneous cell is homogeneous.

    >>> import numpy as np
    >>> from mksdask.simulation.stencils import Isotropic
    >>> one = np.ones((1, 4, 4))
    >>> found = solve_elasticity(Isotropic(one, one), np.array([[0.1, 0.0, 0.0]]), reference=(1.0, 1.0))
    >>> found.mean_stress().round(12).tolist()
    [[0.3, 0.1, 0.0]]
    """
    spatial = tuple(material.shape[1:])
    # The computation is dimensionless, so that single precision is safe for any unit.
    unit = reference[1] if unit is None else unit
    amplitude = np.abs(macro_strain).max(axis=1)
    if eigenstress is not None:
        np.maximum(amplitude, np.abs(eigenstress).reshape(len(amplitude), -1).max(axis=1) / unit, out=amplitude)
    if macro_stress is not None:
        np.maximum(amplitude, np.nanmax(np.abs(macro_stress)) / unit, out=amplitude)
    amplitude[amplitude == 0.0] = 1.0
    green = kept_if_small(green_operator, spatial, reference[0] / reference[1], 1.0)
    macro = macro_strain / amplitude[:, None]
    precondition = partial(_precondition, green)
    forces = None
    if eigenstress is not None:
        forces = stress_forces(eigenstress)
        # Those of a uniform stress are only rounding errors.
        largest, flat = (
            np.abs(eigenstress).reshape(len(forces), -1).max(axis=1),
            np.abs(forces).reshape(len(forces), -1),
        )
        forces[flat.max(axis=1) <= 1e-13 * largest] = 0.0
        forces /= (unit * amplitude).reshape(-1, *(1,) * (len(spatial) + 1))
    stop = (tolerance, max_iterations)
    if macro_stress is None:
        fluctuation, iterations = equilibrium(material, macro, precondition, *stop, forces, unit)
        macro = macro_strain
    else:
        stress = np.tile(macro_stress, (len(macro), 1))
        if eigenstress is not None:
            stress += eigenstress.mean(axis=tuple(range(1, len(spatial) + 1)))
        stress /= (unit * amplitude)[:, None]
        control = StressControl(material, stress, reference[0] / reference[1], unit)
        fluctuation, macro, iterations = control.equilibrium(macro, precondition, *stop, forces)
        macro *= amplitude[:, None]
    fluctuation *= amplitude.reshape(-1, *(1,) * (len(spatial) + 1))
    return ElasticEquilibrium(material, macro, fluctuation, iterations, eigenstress)
