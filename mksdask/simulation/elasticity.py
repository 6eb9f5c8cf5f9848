"""Elastic response of periodic voxel microstructures, for ensembles: fields, mean stress, effective stiffness."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple, Self

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import ArrayLike as NumpyLike
from numpy.typing import NDArray

from mksdask.arrays import Array, ArrayLike, label, names, unwrap_samples
from mksdask.bases.gsh import check_angles
from mksdask.compute.blocks import map_samples
from mksdask.compute.operation import Limit, Plan, SampleWork, chunk_layout, fft_operations
from mksdask.samples import spacing_of
from mksdask.simulation.crystals import single_crystal_stiffness, turned_stiffness, voigt_average
from mksdask.simulation.equilibrium import ElasticFields, batch_size, solve_elasticity
from mksdask.simulation.stencils import Anisotropic, Isotropic, Material, n_strain_components, voigt_pairs

# Of the conjugate gradients at moderate contrast, for estimates.
ITERATIONS = 12

COMPONENTS = {2: ("xx", "yy", "xy"), 3: ("xx", "yy", "zz", "yz", "xz", "xy")}


class ElasticResponse(NamedTuple):
    """Fields and averages of an ensemble, NumPy or dask.

    ``strain`` and ``stress`` have shape (n_samples, *spatial, n_components), ``displacement`` (n_samples, *nodes, dim)
    with one node more than voxels along each axis, ``mean_strain`` and ``mean_stress`` (n_samples, n_components).
    """

    strain: Any
    stress: Any
    displacement: Any
    mean_strain: Any
    mean_stress: Any


@dataclass(frozen=True)
class _Solver(ABC):
    """The kernels of one block: a subclass says what the voxels are made of."""

    tolerance: float
    max_iterations: int

    #: Number of axes of a block after the spatial ones.
    trailing = 0
    #: Float64 fields that the material of a voxel takes, while it is made.
    material_fields = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.tolerance < 1.0 or self.max_iterations < 1:
            msg = f"need 0 < tolerance < 1 and max_iterations >= 1, got {self.tolerance!r} and {self.max_iterations!r}"
            raise ValueError(msg)

    @property
    @abstractmethod
    def reference(self) -> tuple[float, float]:
        """Lamé moduli of a homogeneous material like this one; the same for all samples, whatever their chunk."""

    @abstractmethod
    def material(self, block: Array) -> Material:
        """Stiffness of each voxel of a block."""

    def spatial(self, block: Array) -> tuple[int, ...]:
        """Spatial shape of the samples of a block."""
        return tuple(block.shape[1 : block.ndim - self.trailing])

    def work(self, what: str, data: Any, *, n_loads: int, keeps_fields: bool) -> SampleWork:
        """What tasks need: their results, and the fields of one batch."""
        spatial = tuple(int(n) for n in data.shape[1 : data.ndim - self.trailing])
        dim, field = len(spatial), 8 * int(np.prod(spatial))
        shapes = response_shapes(spatial)
        kept = shapes if keeps_fields else shapes[3:]
        result = sum(8 * int(np.prod(shape)) for shape in kept)
        # Conjugate gradients hold x, r, p and K p, and the preconditioner its transforms in single precision.
        batch = int(field * (self.material_fields + 2 * n_strain_components(dim) + 5.5 * dim))
        together = batch_size(spatial)
        transforms = 2 * dim * fft_operations(spatial, real=True)
        return SampleWork(
            what,
            int(np.prod(data.shape[1:])) * data.dtype.itemsize,
            lambda n: n * result + min(n, together) * batch,
            result,
            n_loads * ITERATIONS * (transforms + int(np.prod(spatial)) * (200 if dim == 2 else 900)),
        )

    def _batches(
        self, block: Array, macro_strain: NDArray[np.float64]
    ) -> Iterator[tuple[slice, ElasticFields, NDArray[np.float64]]]:
        """Solve samples in batches that fit in cache."""
        step = batch_size(self.spatial(block))
        for start in range(0, len(block), step):
            rows = slice(start, start + step)
            macro = np.tile(macro_strain, (len(block[rows]), 1))
            fields = solve_elasticity(
                self.material(block[rows]),
                macro,
                reference=self.reference,
                tolerance=self.tolerance,
                max_iterations=self.max_iterations,
            )
            yield rows, fields, macro

    def fields(self, block: Array, *, macro_strain: NDArray[np.float64]) -> ElasticResponse:
        """Fields and averages of one block."""
        n, spatial, n_components = len(block), self.spatial(block), len(macro_strain)
        out = ElasticResponse(*(np.empty((n, *tail)) for tail in response_shapes(spatial)))
        axes = tuple(range(1, len(spatial) + 1))
        for rows, fields, macro in self._batches(block, macro_strain):
            out.strain[rows], out.stress[rows] = fields.strain, fields.stress
            out.displacement[rows] = _displacement(fields.fluctuation, macro)
        out.mean_strain[...] = out.strain.mean(axis=axes).reshape(n, n_components)
        out.mean_stress[...] = out.stress.mean(axis=axes).reshape(n, n_components)
        return out

    def mean_stress(self, block: Array, *, macro_strain: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mean stress of one block, (n, n_components)."""
        axes = tuple(range(1, len(self.spatial(block)) + 1))
        out = np.empty((len(block), len(macro_strain)))
        for rows, fields, _ in self._batches(block, macro_strain):
            out[rows] = fields.stress.mean(axis=axes)
        return out

    def stiffness(self, block: Array) -> NDArray[np.float64]:
        """Effective stiffness of one block, (n, n_components, n_components)."""
        unit_loads = np.eye(n_strain_components(len(self.spatial(block))))
        columns = [self.mean_stress(block, macro_strain=load) for load in unit_loads]
        stiffness = np.stack(columns, axis=-1)
        return 0.5 * (stiffness + np.swapaxes(stiffness, -1, -2))


@dataclass(frozen=True)
class IsotropicPhases(_Solver):
    """Voxels hold phase numbers, and each phase has its Lamé moduli."""

    lam: NDArray[np.float64]
    mu: NDArray[np.float64]

    material_fields = 2

    @classmethod
    def from_engineering(
        cls, elastic_modulus: Sequence[float], poissons_ratio: Sequence[float], tolerance: float, max_iterations: int
    ) -> IsotropicPhases:
        """Lamé moduli from Young's moduli and Poisson's ratios.

        Raises
        ------
        ValueError
            If the two differ in length, or a phase is not elastically stable, or an option is out of range.
        """
        young = np.atleast_1d(np.asarray(elastic_modulus, dtype=np.float64))
        poisson = np.atleast_1d(np.asarray(poissons_ratio, dtype=np.float64))
        if young.ndim != 1 or young.shape != poisson.shape:
            msg = (
                "elastic_modulus and poissons_ratio must name one value a phase each, got "
                f"{young.tolist()} and {poisson.tolist()}"
            )
            raise ValueError(msg)
        if not (np.isfinite(young).all() and (young > 0).all()):
            msg = (
                f"elastic_modulus must be positive, got {young.tolist()}; give a pore a small modulus, such as "
                "1e-3 of the solid"
            )
            raise ValueError(msg)
        if not ((poisson > -1.0) & (poisson < 0.5)).all():
            msg = f"poissons_ratio must lie between -1 and 0.5, both excluded, got {poisson.tolist()}"
            raise ValueError(msg)
        mu = young / (2.0 * (1.0 + poisson))
        return cls(tolerance, max_iterations, 2.0 * mu * poisson / (1.0 - 2.0 * poisson), mu)

    @property
    def reference(self) -> tuple[float, float]:
        """Means over the phases."""
        return float(self.lam.mean()), float(self.mu.mean())

    def material(self, block: Array) -> Isotropic:
        """Moduli of each voxel."""
        n_phases = len(self.lam)
        phase = block.astype(np.intp)
        if block.size and not (block.min() >= 0 and block.max() < n_phases and np.array_equal(phase, block)):
            found = np.unique(block)[:8].tolist()
            msg = (
                f"X must hold phase numbers 0…{n_phases - 1}, one for each elastic_modulus, got values such as "
                f"{found}; "
                "number the phases of your data from 0"
            )
            raise ValueError(msg)
        return Isotropic(self.lam[phase], self.mu[phase])


@dataclass(frozen=True)
class CrystalOrientations(_Solver):
    """Voxels hold the orientation of one kind of crystal, as Bunge angles."""

    crystal: NDArray[np.float64]

    trailing = 1
    material_fields = 28

    @property
    def reference(self) -> tuple[float, float]:
        """The Voigt average over all orientations."""
        return voigt_average(self.crystal)

    def material(self, block: Array) -> Anisotropic:
        """Stiffness of each voxel."""
        check_angles(block)
        return turned_stiffness(self.crystal, block)


def response_shapes(spatial: tuple[int, ...]) -> ElasticResponse:
    """Shapes of the fields and averages of one sample."""
    dim = len(spatial)
    n_components = n_strain_components(dim)
    field = (*spatial, n_components)
    return ElasticResponse(field, field, (*(n + 1 for n in spatial), dim), (n_components,), (n_components,))


def _solver(
    elastic_modulus: Sequence[float] | None,
    poissons_ratio: Sequence[float] | None,
    crystal_stiffness: NumpyLike | None,
    tolerance: float,
    max_iterations: int,
) -> IsotropicPhases | CrystalOrientations:
    if crystal_stiffness is None and elastic_modulus is not None and poissons_ratio is not None:
        return IsotropicPhases.from_engineering(elastic_modulus, poissons_ratio, tolerance, max_iterations)
    if crystal_stiffness is None or elastic_modulus is not None or poissons_ratio is not None:
        msg = (
            "give elastic_modulus and poissons_ratio, one value a phase, for X of phase numbers, or crystal_stiffness "
            f"for X of orientations; got elastic_modulus={elastic_modulus!r}, poissons_ratio={poissons_ratio!r} and "
            f"crystal_stiffness={crystal_stiffness!r}"
        )
        raise ValueError(msg)
    return CrystalOrientations(tolerance, max_iterations, single_crystal_stiffness(crystal_stiffness))


def _displacement(fluctuation: NDArray[np.float64], macro: NDArray[np.float64]) -> NDArray[np.float64]:
    """U = E·x + ũ on all nodes, the periodic images at the far faces included."""
    n, dim, *spatial = fluctuation.shape
    u = np.pad(fluctuation, [(0, 0), (0, 0), *[(0, 1)] * dim], mode="wrap")
    u -= fluctuation.mean(axis=tuple(range(2, dim + 2)), keepdims=True)
    tensor = np.empty((n, dim, dim))
    for v, (a, b) in enumerate(zip(*voigt_pairs(dim), strict=True)):
        tensor[:, a, b] = tensor[:, b, a] = macro[:, v] if a == b else 0.5 * macro[:, v]
    position = np.stack(np.meshgrid(*(np.arange(size + 1.0) for size in spatial), indexing="ij"))
    u += np.einsum("nab,b...->na...", tensor, position)
    return np.ascontiguousarray(np.moveaxis(u, 1, -1))


def macro_strain_vector(macro_strain: float | NumpyLike, dim: int) -> NDArray[np.float64]:
    """Components of an imposed mean strain.

    Parameters
    ----------
    macro_strain : float, sequence or square array
        A number is the strain along x. A sequence holds the components xx, yy, (zz, yz, xz,) xy with engineering
        shear, γ = 2ε. A dim × dim array is the strain tensor.
    dim : {2, 3}
        Number of spatial axes.

    Raises
    ------
    ValueError
        If the shape fits neither, or the tensor is not symmetric, or a value is not finite.

    Examples
    --------
    >>> macro_strain_vector([[0.1, 0.02], [0.02, 0.0]], 2).tolist()
    [0.1, 0.0, 0.04]
    """
    strain = np.asarray(macro_strain, dtype=np.float64)
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
        f"macro_strain must be a number, {n_components} components {COMPONENTS[dim]} or a symmetric {dim} × {dim} "
        f"tensor for {dim}D samples, got {macro_strain!r}"
    )
    raise ValueError(msg)


def _elastic_samples(X: ArrayLike, solver: _Solver) -> tuple[Any, xr.DataArray | None, int]:
    data, labels = unwrap_samples(X)
    dim = data.ndim - 1 - solver.trailing
    if dim not in COMPONENTS or (solver.trailing and data.shape[-1] != 3):
        tail = ", 3" * solver.trailing
        kind = " of Bunge angles" * solver.trailing
        msg = (
            f"X must be (n_samples, nx, ny{tail}) or (n_samples, nx, ny, nz{tail}){kind}, got shape {tuple(data.shape)}"
        )
        raise ValueError(msg)
    if labels is not None:
        axes = spacing_of(labels, dim)
        steps = np.abs([step for _, step, _ in axes])
        units = {unit for _, _, unit in axes}
        if not np.allclose(steps, steps[0], rtol=1e-6, atol=0.0) or len(units) > 1:
            msg = f"the solver needs cubic voxels, X has spacing {steps.tolist()} in {sorted(units)}; resample X first"
            raise ValueError(msg)
    return data, labels, dim


def solve_fields(
    X: ArrayLike,
    *,
    elastic_modulus: Sequence[float] | None = None,
    poissons_ratio: Sequence[float] | None = None,
    crystal_stiffness: NumpyLike | None = None,
    macro_strain: float | NumpyLike = 0.01,
    tolerance: float = 1e-8,
    max_iterations: int = 1000,
) -> ElasticResponse | xr.Dataset:
    """Strain, stress and displacement of each sample under an imposed mean strain.

    Parameters
    ----------
    X : array, shape (n_samples, nx, ny) or (n_samples, nx, ny, nz)
        Phase number of each voxel, from 0; NumPy, dask, zarr or xarray. 2D means plane strain. With
        `crystal_stiffness` the orientation of the crystal in each voxel, one axis more: Bunge angles in radians.
    elastic_modulus : sequence of float, optional
        Young's modulus of each phase, in any unit of stress.
    poissons_ratio : sequence of float, optional
        Poisson's ratio of each phase, between -1 and 0.5.
    crystal_stiffness : sequence of float or array, shape (6, 6), optional
        Of one kind of crystal, in place of the two: C11, C12, C44 of a cubic crystal, C11, C12, C13, C33, C44 of a
        hexagonal one, or any stiffness matrix in the frame of the crystal.
    macro_strain : float, sequence or square array, default 0.01
        Mean strain: a number is along x, a sequence the components xx, yy, (zz, yz, xz,) xy with engineering
        shear, a square array the tensor.
    tolerance : float, default 1e-8
        Factor by which the conjugate gradients reduce the preconditioned residual norm. At moderate contrast this is
        about the relative energy-norm error, which it underestimates as the contrast of the phases grows: a
        hundredfold at 1e5.
    max_iterations : int, default 1000
        Limit of iterations; about ``4 √contrast`` are needed.

    Returns
    -------
    ElasticResponse or xarray.Dataset
        A Dataset for DataArray input, else a named tuple. Strain and stress are element means, float64,
        (n_samples, *spatial, n_components); displacement is on the voxels' corners, in voxels (in the units of X
        for a DataArray).

    Raises
    ------
    ValueError
        On phases, moduli or strains that make no sense.
    ConvergenceError
        If the iteration limit is reached, when the block is computed.

    Notes
    -----
    Lazy for lazy input: one solve a chunk, whose samples are solved in batches that fit in cache. A task holds its
    results, ``2 · n_components + dim`` float64 fields, and the work of one batch; a chunk that would not fit into a
    worker is cut, see `mksdask.plan`.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.zeros((1, 4, 4), dtype=int)
    >>> X[:, 2:] = 1
    >>> response = solve_fields(X, elastic_modulus=(1, 2), poissons_ratio=(0, 0), macro_strain=0.03)
    >>> response.stress[0, :, 0, 0].round(9).tolist()  # in series: the stress is one
    [0.04, 0.04, 0.04, 0.04]
    """
    solver = _solver(elastic_modulus, poissons_ratio, crystal_stiffness, tolerance, max_iterations)
    data, labels, dim = _elastic_samples(X, solver)
    kernel = partial(solver.fields, macro_strain=macro_strain_vector(macro_strain, dim))
    shapes = response_shapes(tuple(int(n) for n in data.shape[1 : 1 + dim]))
    data = solver.work("solve", data, n_loads=1, keeps_fields=True).fitting(data)
    if isinstance(data, da.Array):
        # One task solves a chunk; five light ones take its parts.
        solved = da.map_blocks(
            kernel, data, name=f"solve-elasticity-{da.core.tokenize(kernel, data)}", meta=np.empty((0,) * data.ndim)
        )
        response = ElasticResponse(
            *(
                map_samples(attrgetter(field), solved, tail=tail, dtype=np.float64, name=f"elastic-{field}")
                for field, tail in shapes._asdict().items()
            )
        )
    else:
        response = kernel(data)
    return response if labels is None else _label_response(response, labels, dim)


def _label_response(response: ElasticResponse, labels: xr.DataArray, dim: int) -> xr.Dataset:
    axes = spacing_of(labels, dim)
    dims = tuple(dim_name for dim_name, _, _ in axes)
    step, units = abs(axes[0][1]), axes[0][2]
    component = {"component": names(COMPONENTS[dim])}
    voxels = component | {name: labels.coords[name] for name in dims if name in labels.coords}
    nodes: dict[str, Any] = {"direction": names(dims)}
    for axis, name in enumerate(dims):
        first = float(labels.coords[name][0]) if name in labels.coords else 0.0
        corner = first + axes[axis][1] * (np.arange(labels.shape[axis + 1] + 1) - 0.5)
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


def mean_stress(
    X: ArrayLike,
    *,
    elastic_modulus: Sequence[float] | None = None,
    poissons_ratio: Sequence[float] | None = None,
    crystal_stiffness: NumpyLike | None = None,
    macro_strain: float | NumpyLike = 0.01,
    tolerance: float = 1e-8,
    max_iterations: int = 1000,
) -> Any:
    """Mean stress of each sample under an imposed mean strain: what `solve_fields` averages, without keeping fields.

    Parameters
    ----------
    X : array, shape (n_samples, *spatial), or (n_samples, *spatial, 3) with `crystal_stiffness`
        Phase number of each voxel, or orientation.
    elastic_modulus, poissons_ratio, crystal_stiffness, macro_strain, tolerance, max_iterations
        As in `solve_fields`.

    Returns
    -------
    array of the kind of `X`, shape (n_samples, n_components)
        Lazy for lazy input, one task a chunk.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.zeros((1, 4, 4), dtype=int)
    >>> mean_stress(X, elastic_modulus=[2.0], poissons_ratio=[0.0], macro_strain=0.5).tolist()
    [[1.0, 0.0, 0.0]]
    """
    solver = _solver(elastic_modulus, poissons_ratio, crystal_stiffness, tolerance, max_iterations)
    data, labels, dim = _elastic_samples(X, solver)
    kernel = partial(solver.mean_stress, macro_strain=macro_strain_vector(macro_strain, dim))
    data = solver.work("solve", data, n_loads=1, keeps_fields=False).fitting(data)
    result = map_samples(kernel, data, tail=(n_strain_components(dim),), dtype=np.float64, name="mean_stress")
    if labels is None:
        return result
    return label(result, labels, dims=("component",), coords={"component": names(COMPONENTS[dim])}, name="mean_stress")


def effective_stiffness(
    X: ArrayLike,
    *,
    elastic_modulus: Sequence[float] | None = None,
    poissons_ratio: Sequence[float] | None = None,
    crystal_stiffness: NumpyLike | None = None,
    tolerance: float = 1e-8,
    max_iterations: int = 1000,
) -> Any:
    r"""Effective stiffness tensor of each sample, from 3 load cases in 2D and 6 in 3D.

    .. math:: \langle\sigma\rangle = C_{eff} : \langle\varepsilon\rangle

    Parameters
    ----------
    X : array, shape (n_samples, *spatial), or (n_samples, *spatial, 3) with `crystal_stiffness`
        Phase number of each voxel, or orientation.
    elastic_modulus, poissons_ratio, crystal_stiffness, tolerance, max_iterations
        As in `solve_fields`.

    Returns
    -------
    array of the kind of `X`, shape (n_samples, n_components, n_components)
        In the unit of `elastic_modulus`; rows and columns in the order xx, yy, (zz, yz, xz,) xy with engineering
        shear. Symmetric: the two triangles, which agree to about `tolerance`, are averaged. Lazy for lazy input, one
        task a chunk.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.zeros((1, 4, 4), dtype=int)
    >>> effective_stiffness(X, elastic_modulus=[2.0], poissons_ratio=[0.0])[0].tolist()
    [[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]]
    """
    solver = _solver(elastic_modulus, poissons_ratio, crystal_stiffness, tolerance, max_iterations)
    data, labels, dim = _elastic_samples(X, solver)
    n = n_strain_components(dim)
    data = solver.work("solve", data, n_loads=n, keeps_fields=False).fitting(data)
    result = map_samples(solver.stiffness, data, tail=(n, n), dtype=np.float64, name="effective_stiffness")
    if labels is None:
        return result
    components = names(COMPONENTS[dim])
    return label(
        result,
        labels,
        dims=("component", "component_applied"),
        coords={"component": components, "component_applied": components},
        name="effective_stiffness",
    )


def _plan(
    X: ArrayLike,
    *,
    operation: str,
    elastic_modulus: Sequence[float] | None = None,
    poissons_ratio: Sequence[float] | None = None,
    crystal_stiffness: NumpyLike | None = None,
    macro_strain: float | NumpyLike = 0.01,
    tolerance: float = 1e-8,
    max_iterations: int = 1000,
) -> Plan:
    solver = _solver(elastic_modulus, poissons_ratio, crystal_stiffness, tolerance, max_iterations)
    data, _, dim = _elastic_samples(X, solver)
    macro_strain_vector(macro_strain, dim)
    n_loads = n_strain_components(dim) if operation == "effective_stiffness" else 1
    limit = Limit.of()
    work = solver.work("solve", data, n_loads=n_loads, keeps_fields=operation == "solve_fields")
    stage = work.stage(data, limit)
    layout = chunk_layout(data, stage) | {"load cases": n_loads}
    spatial = tuple(map(int, data.shape[1 : 1 + dim]))
    layout["samples of a batch"] = min(batch_size(spatial), layout.get("samples of a task", len(data)))
    return Plan(operation, layout, (stage,), limit)


class ElasticFESimulation:
    """Linear elastic finite elements on periodic voxel samples, one Q1 element a voxel.

    Parameters
    ----------
    elastic_modulus, poissons_ratio : sequence of float, optional
        One value a phase.
    crystal_stiffness : sequence of float or array, shape (6, 6), optional
        In place of the two, for samples that hold orientations; see `solve_fields`.
    macro_strain : float, sequence or square array, default 0.01
        Imposed mean strain; see `solve_fields`.
    tolerance : float, default 1e-8
        Where the solver stops; see `solve_fields`.
    max_iterations : int, default 1000
        Limit of iterations.

    Attributes
    ----------
    strain, stress : array, shape (n_samples, *spatial, n_components)
        Element means after `run`, of the kind of its input: xx, yy, (zz, yz, xz,) xy, engineering shear.
    displacement : array, shape (n_samples, *nodes, dim)
        On the corners of the voxels.
    mean_strain, mean_stress : array, shape (n_samples, n_components)
        Averages over each sample.
    response : ElasticResponse or xarray.Dataset
        All of these together; a Dataset where `run` was given a DataArray.

    Examples
    --------
    >>> import numpy as np
    >>> simulation = ElasticFESimulation(elastic_modulus=(100, 150), poissons_ratio=(0.3, 0.3), macro_strain=0.001)
    >>> simulation.run(np.array([[[0, 1], [1, 0]]])).mean_strain.round(12).tolist()
    [[0.001, 0.0, 0.0]]
    """

    strain: Any
    stress: Any
    displacement: Any
    mean_strain: Any
    mean_stress: Any

    def __init__(
        self,
        *,
        elastic_modulus: Sequence[float] | None = None,
        poissons_ratio: Sequence[float] | None = None,
        crystal_stiffness: NumpyLike | None = None,
        macro_strain: float | NumpyLike = 0.01,
        tolerance: float = 1e-8,
        max_iterations: int = 1000,
    ) -> None:
        self.elastic_modulus = elastic_modulus
        self.poissons_ratio = poissons_ratio
        self.crystal_stiffness = crystal_stiffness
        self.macro_strain = macro_strain
        self.tolerance = tolerance
        self.max_iterations = max_iterations

    def run(self, X: ArrayLike) -> Self:
        """Solve all samples; lazily for lazy input.

        Parameters
        ----------
        X : array, shape (n_samples, *spatial), or (n_samples, *spatial, 3) with `crystal_stiffness`
            Phase number of each voxel, from 0, or orientation.

        Returns
        -------
        ElasticFESimulation
            Itself, with the results as attributes.
        """
        self.response = solve_fields(X, macro_strain=self.macro_strain, **self._options)
        for field in ElasticResponse._fields:
            setattr(self, field, getattr(self.response, field))
        return self

    def stiffness(self, X: ArrayLike) -> Any:
        """Effective stiffness of all samples; see `effective_stiffness`.

        Parameters
        ----------
        X : array, shape (n_samples, *spatial), or (n_samples, *spatial, 3) with `crystal_stiffness`
            Phase number of each voxel, from 0, or orientation.

        Returns
        -------
        array of the kind of `X`, shape (n_samples, n_components, n_components)
        """
        return effective_stiffness(X, **self._options)

    @property
    def _options(self) -> dict[str, Any]:
        names = ("elastic_modulus", "poissons_ratio", "crystal_stiffness", "tolerance", "max_iterations")
        return {name: getattr(self, name) for name in names}
