"""Elasticity of periodic voxel samples, for ensembles: fields, mean stress, effective stiffness and expansion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import xarray as xr
from numpy.typing import ArrayLike as NumpyLike

from mksdask.arrays import ArrayLike
from mksdask.compute.operation import Operation, operation
from mksdask.schema.arguments import checked
from mksdask.simulation.elastic_operations import (
    EffectiveExpansion,
    EffectiveStiffness,
    ElasticArguments,
    MeanStress,
    SolveFields,
)
from mksdask.simulation.solver import ElasticResponse


@operation
@checked
def solve_fields(
    X: ArrayLike | None = None,
    *,
    elastic_modulus: Sequence[float] | ArrayLike | None = None,
    poissons_ratio: float | Sequence[float] | ArrayLike | None = None,
    crystal_stiffness: NumpyLike | None = None,
    stiffness: ArrayLike | None = None,
    macro_strain: float | NumpyLike = 0.01,
    macro_stress: float | NumpyLike | None = None,
    eigenstrain: float | ArrayLike | None = None,
    tolerance: float = 1e-8,
    max_iterations: int = 1000,
) -> Operation[ElasticResponse | xr.Dataset]:
    r"""Compute the strain, stress and displacement fields of each sample under an imposed mean strain or stress.

    .. math:: \sigma[s] = C[s] : (\varepsilon[s] - \varepsilon^*[s]), \qquad \nabla \cdot \sigma = 0

    Each sample is one cell of a periodic, linear elastic solid. The finite elements are linear (Q1), one for each
    voxel.

    Parameters
    ----------
    X : array, shape (n_samples, nx, ny) or (n_samples, nx, ny, nz), optional
        Phase number of each voxel, counted from 0, as a NumPy, dask, zarr or xarray array. 2D samples are in plane
        strain. With `crystal_stiffness`, X has one more axis and holds the orientation of the crystal in each voxel,
        as Bunge angles in radians. Leave X out if `elastic_modulus` or `stiffness` holds the values of each voxel.
    elastic_modulus : sequence of float, or array of the shape of the voxels, optional
        Young's modulus of each phase, or of each voxel, in any unit of stress. 0 stands for a pore.
    poissons_ratio : sequence of float, or array of the shape of the voxels, optional
        Poisson's ratio of each phase, or of each voxel, between -1 and 0.5. It may be one number for all voxels.
    crystal_stiffness : sequence of float or array, shape (6, 6), optional
        Elastic constants of one kind of crystal. They replace `elastic_modulus` and `poissons_ratio`. Give C11, C12,
        C44 for a cubic crystal, C11, C12, C13, C33, C44 for a hexagonal one, or any stiffness matrix in the frame of
        the crystal.
    stiffness : array, shape (n_phases, 6, 6) or (n_samples, *spatial, 6, 6), optional
        Stiffness matrix of each phase, or of each voxel, instead of the moduli. Rows and columns are in the order xx,
        yy, zz, yz, xz, xy, with engineering shear. 2D samples may have 3 × 3 matrices, in the order xx, yy, xy. A
        matrix of zeros stands for a pore.
    macro_strain : float, sequence or square array, default 0.01
        Imposed mean strain. A number is the strain along x, a sequence holds the components xx, yy, (zz, yz, xz,) xy
        with engineering shear, and a square array is the strain tensor.
    macro_stress : float, sequence or square array, optional
        Imposed mean stress, in the same forms. Where a component is a number, it is imposed, and that of
        `macro_strain` has no meaning. Where it is NaN, the strain is imposed.
    eigenstrain : float, sequence or array, optional
        Strain that the material would have without stress, such as a thermal expansion: a number for each phase, or
        components as in `macro_strain`, shape (n_phases, n_components), or for each voxel in the same way, shape
        (n_samples, *spatial) or (n_samples, *spatial, n_components). A number is the strain along all axes. For
        crystals, give a number or the 6 components of a crystal in its own frame. In 2D, numbers and 6 components
        hold the strain across the plane too, which plane strain hinders.
    tolerance : float, default 1e-8
        Factor by which the conjugate gradients reduce the preconditioned residual norm. At moderate contrast this is
        about the relative error in the energy norm, and of an imposed mean stress. As the contrast between the phases
        grows, it underestimates that error: by a factor of about 100 at a contrast of 1e5.
    max_iterations : int, default 1000
        Limit of iterations. About ``4 √contrast`` are needed, or a few hundred with pores.

    Returns
    -------
    ElasticResponse or xarray.Dataset
        A Dataset if X is a DataArray, otherwise a named tuple. Strain and stress are the means of each element,
        float64, shape (n_samples, *spatial, n_components). The displacement is given on the corners of the voxels, in
        voxels (in the units of X if X is a DataArray).

    Raises
    ------
    ValueError
        If a phase number, a modulus, a strain or an option of the solver is not valid, or the voxels are not cubes.
    TypeError
        If an array does not hold real numbers.
    ConvergenceError
        If the limit of iterations is reached, such as under a mean stress that pores cannot bear. It is raised when
        the block is computed.

    Notes
    -----
    Lazy input gives a lazy result. One task solves each chunk, in batches of samples that fit in cache. A task holds
    its results, which are ``2 · n_components + dim`` float64 fields, and the fields of one batch. A chunk that would
    not fit into the memory of a worker is cut; see `mksdask.plan`.

    Samples of at least 64³ voxels may have all threads of a worker and its whole memory, one after the other: if they
    are in memory, if there are fewer chunks than threads, or if one of them needs more than the share of a thread. A
    sample of two phases takes up to 370 bytes for each voxel here, and 250 in `mean_stress` and `effective_stiffness`.
    Results do not depend on the number of threads.

    The strain inside a pore is that of the elements that continue the displacement into it. It carries no stress.

    References
    ----------
    Schneider, M., Merkert, D., Kabel, M. FFT-based homogenization for microstructures discretized by
    linear hexahedral elements. Int. J. Numer. Meth. Eng. 109 (2017) 1461.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.zeros((1, 4, 4), dtype=int)
    >>> X[:, 2:] = 1
    >>> response = solve_fields(X, elastic_modulus=(1, 2), poissons_ratio=(0, 0), macro_strain=0.03)
    >>> response.stress[0, :, 0, 0].round(9).tolist()  # layers in series share one stress
    [0.04, 0.04, 0.04, 0.04]

    A mean stress along x alone stretches the layers, as springs in series.

    >>> response = solve_fields(X, elastic_modulus=(1, 2), poissons_ratio=(0, 0), macro_stress=0.04)
    >>> (response.mean_strain[0].round(9) + 0.0).tolist()
    [0.03, 0.0, 0.0]
    """
    given = ElasticArguments(
        X, elastic_modulus, poissons_ratio, crystal_stiffness, stiffness, tolerance, max_iterations
    )
    return SolveFields.of(given, macro_strain, macro_stress, eigenstrain)


@operation
@checked
def mean_stress(
    X: ArrayLike | None = None,
    *,
    elastic_modulus: Sequence[float] | ArrayLike | None = None,
    poissons_ratio: float | Sequence[float] | ArrayLike | None = None,
    crystal_stiffness: NumpyLike | None = None,
    stiffness: ArrayLike | None = None,
    macro_strain: float | NumpyLike = 0.01,
    macro_stress: float | NumpyLike | None = None,
    eigenstrain: float | ArrayLike | None = None,
    tolerance: float = 1e-8,
    max_iterations: int = 1000,
) -> Operation[Any]:
    """Compute the mean stress of each sample under an imposed mean strain, or mean stress in some components.

    The result equals ``mean_stress`` of `solve_fields`, but takes less memory, because no field is kept.

    Parameters
    ----------
    X : array, shape (n_samples, *spatial), or (n_samples, *spatial, 3) with `crystal_stiffness`, optional
        Phase number, or orientation, of each voxel.
    elastic_modulus, poissons_ratio, crystal_stiffness, stiffness, macro_strain, macro_stress, eigenstrain
        As in `solve_fields`.
    tolerance, max_iterations
        As in `solve_fields`.

    Returns
    -------
    array of the kind of `X`, shape (n_samples, n_components)
        Mean stress in the unit of the moduli: xx, yy, (zz, yz, xz,) xy. Lazy for lazy input, with one task for each
        chunk.

    Raises
    ------
    ValueError, TypeError, ConvergenceError
        As `solve_fields`.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.zeros((1, 4, 4), dtype=int)
    >>> mean_stress(X, elastic_modulus=[2.0], poissons_ratio=[0.0], macro_strain=0.5).tolist()
    [[1.0, 0.0, 0.0]]
    """
    given = ElasticArguments(
        X, elastic_modulus, poissons_ratio, crystal_stiffness, stiffness, tolerance, max_iterations
    )
    return MeanStress.of(given, macro_strain, macro_stress, eigenstrain)


@operation
@checked
def effective_stiffness(
    X: ArrayLike | None = None,
    *,
    elastic_modulus: Sequence[float] | ArrayLike | None = None,
    poissons_ratio: float | Sequence[float] | ArrayLike | None = None,
    crystal_stiffness: NumpyLike | None = None,
    stiffness: ArrayLike | None = None,
    tolerance: float = 1e-8,
    max_iterations: int = 1000,
) -> Operation[Any]:
    r"""Compute the effective stiffness tensor of each sample.

    The tensor relates the mean stress to the mean strain:

    .. math:: \langle\sigma\rangle = C_{eff} : \langle\varepsilon\rangle

    One load case for each component of strain is solved: 3 in 2D, 6 in 3D.

    Parameters
    ----------
    X : array, shape (n_samples, *spatial), or (n_samples, *spatial, 3) with `crystal_stiffness`, optional
        Phase number, or orientation, of each voxel.
    elastic_modulus, poissons_ratio, crystal_stiffness, stiffness, tolerance, max_iterations
        As in `solve_fields`.

    Returns
    -------
    array of the kind of `X`, shape (n_samples, n_components, n_components)
        Stiffness in the unit of the moduli. Rows and columns are in the order xx, yy, (zz, yz, xz,) xy, with
        engineering shear. The result is symmetric: the two triangles agree to about `tolerance`, and their average is
        returned. Lazy for lazy input, with one task for each chunk.

    Raises
    ------
    ValueError, TypeError, ConvergenceError
        As `solve_fields`.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.zeros((1, 4, 4), dtype=int)
    >>> effective_stiffness(X, elastic_modulus=[2.0], poissons_ratio=[0.0])[0].tolist()
    [[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]]

    The stiffness of each voxel may be given itself.

    >>> C = np.broadcast_to(np.diag([2.0, 2.0, 1.0]), (1, 4, 4, 3, 3))
    >>> effective_stiffness(stiffness=C)[0].tolist()
    [[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]]
    """
    given = ElasticArguments(
        X, elastic_modulus, poissons_ratio, crystal_stiffness, stiffness, tolerance, max_iterations
    )
    return EffectiveStiffness.of(given)


@operation
@checked
def effective_expansion(
    X: ArrayLike | None = None,
    *,
    eigenstrain: float | ArrayLike,
    elastic_modulus: Sequence[float] | ArrayLike | None = None,
    poissons_ratio: float | Sequence[float] | ArrayLike | None = None,
    crystal_stiffness: NumpyLike | None = None,
    stiffness: ArrayLike | None = None,
    tolerance: float = 1e-8,
    max_iterations: int = 1000,
) -> Operation[Any]:
    r"""Compute the mean strain of each sample without mean stress, such as its thermal expansion.

    .. math:: \langle\sigma\rangle = C_{eff} : (\langle\varepsilon\rangle - \varepsilon^*_{eff})

    With the expansion coefficients of the phases as `eigenstrain`, the result is the effective expansion coefficient.

    Parameters
    ----------
    X : array, shape (n_samples, *spatial), or (n_samples, *spatial, 3) with `crystal_stiffness`, optional
        Phase number, or orientation, of each voxel.
    eigenstrain : float, sequence or array
        Strain of each phase, crystal or voxel without stress; see `solve_fields`.
    elastic_modulus, poissons_ratio, crystal_stiffness, stiffness, tolerance, max_iterations
        As in `solve_fields`.

    Returns
    -------
    array of the kind of `X`, shape (n_samples, n_components)
        Strain xx, yy, (zz, yz, xz,) xy, with engineering shear. Lazy for lazy input, with one task for each chunk.

    Raises
    ------
    ValueError, TypeError, ConvergenceError
        As `solve_fields`.

    Notes
    -----
    2D samples are in plane strain: a strain across the plane is hindered. So an isotropic phase alone has
    the expansion ``(1 + ν) α``.

    References
    ----------
    Levin, V. M. Thermal expansion coefficients of heterogeneous materials. Mechanics of Solids 2 (1967) 58.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.zeros((1, 4, 4, 4), dtype=int)
    >>> X[:, 2:] = 1
    >>> elastic = {"elastic_modulus": (1, 3), "poissons_ratio": (0, 0)}
    >>> found = effective_expansion(X, eigenstrain=(0.0, 0.04), **elastic)
    >>> (found[0].round(9) + 0.0).tolist()  # across the layers, and along them, where the stiff ones prevail
    [0.02, 0.03, 0.03, 0.0, 0.0, 0.0]
    """
    given = ElasticArguments(
        X, elastic_modulus, poissons_ratio, crystal_stiffness, stiffness, tolerance, max_iterations
    )
    return EffectiveExpansion.of(given, macro_stress=0.0, eigenstrain=eigenstrain)
