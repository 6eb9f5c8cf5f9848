"""Elasticity of periodic voxel samples, for ensembles: fields, mean stress and effective stiffness."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any, ClassVar, Self

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import ArrayLike as NumpyLike, NDArray

from mksdask.arrays import Array, ArrayLike, label, names, numbers_argument, unwrap_samples
from mksdask.compute.blocks import map_samples
from mksdask.compute.graph import token_of
from mksdask.compute.operation import Operation, operation
from mksdask.compute.plans import Limit, Plan, SampleWork, chunk_layout
from mksdask.samples import Grid
from mksdask.schema.arguments import checked
from mksdask.simulation.constituents import CrystalOrientations, IsotropicPhases, cubic_grid
from mksdask.simulation.crystals import single_crystal_stiffness
from mksdask.simulation.equilibrium import batch_size
from mksdask.simulation.solver import ElasticResponse, ElasticSolver, response_shapes
from mksdask.simulation.stencils import n_strain_components, voigt_pairs

# Names of the components of strain and stress, by the number of axes.
COMPONENTS = {2: ("xx", "yy", "xy"), 3: ("xx", "yy", "zz", "yz", "xz", "xy")}


def _solver(
    elastic_modulus: Sequence[float] | None,
    poissons_ratio: Sequence[float] | None,
    crystal_stiffness: NumpyLike | None,
    tolerance: float,
    max_iterations: int,
) -> ElasticSolver:
    """Build the solver for phases or for crystals, whichever the arguments describe."""
    if crystal_stiffness is None and elastic_modulus is not None and poissons_ratio is not None:
        phases = IsotropicPhases.from_engineering(elastic_modulus, poissons_ratio)
        return ElasticSolver(phases, tolerance, max_iterations)
    if crystal_stiffness is None or elastic_modulus is not None or poissons_ratio is not None:
        msg = (
            "give elastic_modulus and poissons_ratio, with one value for each phase, if X holds phase numbers, or "
            f"crystal_stiffness alone if X holds orientations; got elastic_modulus={elastic_modulus!r}, "
            f"poissons_ratio={poissons_ratio!r} and crystal_stiffness={crystal_stiffness!r}"
        )
        raise ValueError(msg)
    crystals = CrystalOrientations(single_crystal_stiffness(crystal_stiffness))
    return ElasticSolver(crystals, tolerance, max_iterations)


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
    strain = numbers_argument(macro_strain, "macro_strain")
    n_components = n_strain_components(dim)
    if not np.isfinite(strain).all():
        msg = f"macro_strain must be finite, got {macro_strain!r}"
        raise ValueError(msg)
    if strain.ndim == 0:
        return np.concatenate([[float(strain)], np.zeros(n_components - 1)])
    if strain.shape == (n_components,):
        return strain
    if strain.shape == (dim, dim) and np.array_equal(strain, strain.T):
        rows, cols = (np.array(index) for index in voigt_pairs(dim))
        return strain[rows, cols] * np.where(rows == cols, 1.0, 2.0)
    msg = (
        f"macro_strain must be a number, the {n_components} components {COMPONENTS[dim]}, or a symmetric "
        f"{dim} × {dim} tensor for {dim}D samples, got {macro_strain!r}"
    )
    raise ValueError(msg)


@dataclass(frozen=True)
class _Solve(Operation[Any]):
    """The arguments of a public function of elasticity, checked."""

    solver: ElasticSolver
    data: Any
    labels: xr.DataArray | None
    grid: Grid
    macro_strain: NDArray[np.float64]

    #: Name of the public function.
    name: ClassVar[str]
    #: Whether the fields are results, or only their averages.
    keeps_fields: ClassVar[bool] = False

    @classmethod
    def of(cls, X: ArrayLike, solver: ElasticSolver, macro_strain: float | NumpyLike = 0.0) -> Self:
        """Check the samples."""
        data, labels = unwrap_samples(X)
        dim = data.ndim - 1 - solver.trailing
        if 0 in data.shape[1:] or dim not in COMPONENTS or (solver.trailing and data.shape[-1] != 3):
            tail = ", 3" * solver.trailing
            kind = " of Bunge angles" * solver.trailing
            msg = (
                f"X must be an array{kind} of shape (n_samples, nx, ny{tail}) or (n_samples, nx, ny, nz{tail}), got "
                f"shape {tuple(data.shape)}; if X is one sample, add an axis of samples: X[None]"
            )
            raise ValueError(msg)
        grid = cubic_grid(labels, data.shape[1 : 1 + dim])
        return cls(solver, data, labels, grid, macro_strain_vector(macro_strain, dim))

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the components of strain and stress."""
        return COMPONENTS[len(self.grid.shape)]

    @property
    def n_loads(self) -> int:
        """Number of load cases of a sample."""
        return 1

    @property
    def work(self) -> SampleWork:
        """What the tasks need."""
        return self.solver.work("solve", self.data, n_loads=self.n_loads, keeps_fields=self.keeps_fields)

    def plan(self, limit: Limit) -> Plan:
        stage = self.work.stage(self.data, limit)
        layout = chunk_layout(self.data, stage) | {"load cases": self.n_loads}
        layout["samples of a batch"] = min(batch_size(self.grid.shape), layout.get("samples of a task", len(self.data)))
        return Plan(self.name, layout, (stage,), limit)

    def compute(self, kernel: Callable[[Array], Array], tail: tuple[int, ...], *dims: str) -> Any:
        """Map a kernel whose results are components over the samples, and label them."""
        data = self.work.fitting(self.data)
        result = map_samples(kernel, data, tail=tail, dtype=np.float64, name=self.name)
        coords = dict.fromkeys(dims, names(self.components))
        return label(result, self.labels, dims=dims, coords=coords, name=self.name)


@dataclass(frozen=True)
class _SolveFields(_Solve):
    name = "solve_fields"
    keeps_fields = True

    def run(self) -> ElasticResponse | xr.Dataset:
        data = self.work.fitting(self.data)
        kernel = partial(self.solver.fields, macro_strain=self.macro_strain)
        if not isinstance(data, da.Array):
            response = kernel(data)
        else:
            # One task solves a chunk, and five light tasks pick the five fields out of its result.
            solved = da.map_blocks(
                kernel, data, name=f"solve-elasticity-{token_of(kernel, data)}", meta=np.empty((0,) * data.ndim)
            )
            response = ElasticResponse(
                *(
                    map_samples(attrgetter(field), solved, tail=tail, dtype=np.float64, name=f"elastic-{field}")
                    for field, tail in response_shapes(self.grid.shape)._asdict().items()
                )
            )
        return response if self.labels is None else _label_response(response, self.labels, self.grid)


@dataclass(frozen=True)
class _MeanStress(_Solve):
    name = "mean_stress"

    def run(self) -> Any:
        kernel = partial(self.solver.mean_stress, macro_strain=self.macro_strain)
        return self.compute(kernel, (len(self.components),), "component")


@dataclass(frozen=True)
class _EffectiveStiffness(_Solve):
    name = "effective_stiffness"

    @property
    def n_loads(self) -> int:
        """One load case for each component of strain."""
        return len(self.components)

    def run(self) -> Any:
        n = len(self.components)
        return self.compute(self.solver.stiffness, (n, n), "component", "component_applied")


@operation
@checked
def solve_fields(
    X: ArrayLike,
    *,
    elastic_modulus: Sequence[float] | None = None,
    poissons_ratio: Sequence[float] | None = None,
    crystal_stiffness: NumpyLike | None = None,
    macro_strain: float | NumpyLike = 0.01,
    tolerance: float = 1e-8,
    max_iterations: int = 1000,
) -> Operation[ElasticResponse | xr.Dataset]:
    """Compute the strain, stress and displacement fields of each sample under an imposed mean strain.

    Each sample is one cell of a periodic, linear elastic solid. The finite elements are linear (Q1), one for each
    voxel.

    Parameters
    ----------
    X : array, shape (n_samples, nx, ny) or (n_samples, nx, ny, nz)
        Phase number of each voxel, counted from 0, as a NumPy, dask, zarr or xarray array. 2D samples are in plane
        strain. With `crystal_stiffness`, X has one more axis and holds the orientation of the crystal in each voxel,
        as Bunge angles in radians.
    elastic_modulus : sequence of float, optional
        Young's modulus of each phase, in any unit of stress.
    poissons_ratio : sequence of float, optional
        Poisson's ratio of each phase, between -1 and 0.5.
    crystal_stiffness : sequence of float or array, shape (6, 6), optional
        Elastic constants of one kind of crystal. They replace `elastic_modulus` and `poissons_ratio`. Give C11, C12,
        C44 for a cubic crystal, C11, C12, C13, C33, C44 for a hexagonal one, or any stiffness matrix in the frame of
        the crystal.
    macro_strain : float, sequence or square array, default 0.01
        Imposed mean strain. A number is the strain along x, a sequence holds the components xx, yy, (zz, yz, xz,) xy
        with engineering shear, and a square array is the strain tensor.
    tolerance : float, default 1e-8
        Factor by which the conjugate gradients reduce the preconditioned residual norm. At moderate contrast this is
        about the relative error in the energy norm. As the contrast between the phases grows, it underestimates that
        error: by a factor of about 100 at a contrast of 1e5.
    max_iterations : int, default 1000
        Limit of iterations. About ``4 √contrast`` are needed.

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
    ConvergenceError
        If the limit of iterations is reached. It is raised when the block is computed.

    Notes
    -----
    Lazy input gives a lazy result. One task solves each chunk, in batches of samples that fit in cache. A task holds
    its results, which are ``2 · n_components + dim`` float64 fields, and the fields of one batch. A chunk that would
    not fit into the memory of a worker is cut; see `mksdask.plan`.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.zeros((1, 4, 4), dtype=int)
    >>> X[:, 2:] = 1
    >>> response = solve_fields(X, elastic_modulus=(1, 2), poissons_ratio=(0, 0), macro_strain=0.03)
    >>> response.stress[0, :, 0, 0].round(9).tolist()  # layers in series share one stress
    [0.04, 0.04, 0.04, 0.04]
    """
    solver = _solver(elastic_modulus, poissons_ratio, crystal_stiffness, tolerance, max_iterations)
    return _SolveFields.of(X, solver, macro_strain)


def _label_response(response: ElasticResponse, labels: xr.DataArray, grid: Grid) -> xr.Dataset:
    """Give the fields and averages the names, coordinates and units of the samples."""
    dims, step, units = grid.dims, abs(grid.axes[0].step), grid.axes[0].units
    component = {"component": names(COMPONENTS[len(dims)])}
    voxels = component | {name: labels.coords[name] for name in dims if name in labels.coords}
    nodes: dict[str, Any] = {"direction": names(dims)}
    for (name, spacing, _), n in zip(grid.axes, grid.shape, strict=True):
        first = float(labels.coords[name][0]) if name in labels.coords else 0.0
        corner = first + spacing * (np.arange(n + 1) - 0.5)
        nodes[f"{name}_node"] = (f"{name}_node", corner, {"units": units})
    node_dims = tuple(f"{name}_node" for name in dims)
    displacement = response.displacement if step == 1.0 else response.displacement * step
    fields = {
        "strain": (response.strain, (*dims, "component"), voxels),
        "stress": (response.stress, (*dims, "component"), voxels),
        "displacement": (displacement, (*node_dims, "direction"), nodes),
        "mean_strain": (response.mean_strain, ("component",), component),
        "mean_stress": (response.mean_stress, ("component",), component),
    }
    arrays = {
        name: label(data, labels, dims=field_dims, coords=coords, name=name)
        for name, (data, field_dims, coords) in fields.items()
    }
    arrays["displacement"].attrs["units"] = units
    return xr.Dataset(arrays, attrs=labels.attrs)


@operation
@checked
def mean_stress(
    X: ArrayLike,
    *,
    elastic_modulus: Sequence[float] | None = None,
    poissons_ratio: Sequence[float] | None = None,
    crystal_stiffness: NumpyLike | None = None,
    macro_strain: float | NumpyLike = 0.01,
    tolerance: float = 1e-8,
    max_iterations: int = 1000,
) -> Operation[Any]:
    """Compute the mean stress of each sample under an imposed mean strain.

    The result equals ``mean_stress`` of `solve_fields`, but takes less memory, because no field is kept.

    Parameters
    ----------
    X : array, shape (n_samples, *spatial), or (n_samples, *spatial, 3) with `crystal_stiffness`
        Phase number, or orientation, of each voxel.
    elastic_modulus, poissons_ratio, crystal_stiffness, macro_strain, tolerance, max_iterations
        As in `solve_fields`.

    Returns
    -------
    array of the kind of `X`, shape (n_samples, n_components)
        Mean stress in the unit of the moduli: xx, yy, (zz, yz, xz,) xy. Lazy for lazy input, with one task for each
        chunk.

    Raises
    ------
    ValueError, ConvergenceError
        As `solve_fields`.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.zeros((1, 4, 4), dtype=int)
    >>> mean_stress(X, elastic_modulus=[2.0], poissons_ratio=[0.0], macro_strain=0.5).tolist()
    [[1.0, 0.0, 0.0]]
    """
    solver = _solver(elastic_modulus, poissons_ratio, crystal_stiffness, tolerance, max_iterations)
    return _MeanStress.of(X, solver, macro_strain)


@operation
@checked
def effective_stiffness(
    X: ArrayLike,
    *,
    elastic_modulus: Sequence[float] | None = None,
    poissons_ratio: Sequence[float] | None = None,
    crystal_stiffness: NumpyLike | None = None,
    tolerance: float = 1e-8,
    max_iterations: int = 1000,
) -> Operation[Any]:
    r"""Compute the effective stiffness tensor of each sample.

    The tensor relates the mean stress to the mean strain:

    .. math:: \langle\sigma\rangle = C_{eff} : \langle\varepsilon\rangle

    One load case for each component of strain is solved: 3 in 2D, 6 in 3D.

    Parameters
    ----------
    X : array, shape (n_samples, *spatial), or (n_samples, *spatial, 3) with `crystal_stiffness`
        Phase number, or orientation, of each voxel.
    elastic_modulus, poissons_ratio, crystal_stiffness, tolerance, max_iterations
        As in `solve_fields`.

    Returns
    -------
    array of the kind of `X`, shape (n_samples, n_components, n_components)
        Stiffness in the unit of the moduli. Rows and columns are in the order xx, yy, (zz, yz, xz,) xy, with
        engineering shear. The result is symmetric: the two triangles agree to about `tolerance`, and their average is
        returned. Lazy for lazy input, with one task for each chunk.

    Raises
    ------
    ValueError, ConvergenceError
        As `solve_fields`.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.zeros((1, 4, 4), dtype=int)
    >>> effective_stiffness(X, elastic_modulus=[2.0], poissons_ratio=[0.0])[0].tolist()
    [[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]]
    """
    solver = _solver(elastic_modulus, poissons_ratio, crystal_stiffness, tolerance, max_iterations)
    return _EffectiveStiffness.of(X, solver)
