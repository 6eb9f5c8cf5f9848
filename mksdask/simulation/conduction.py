"""Conduction of heat, of electricity, or by diffusion, in periodic voxel samples: fields and effective conductivity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike as NumpyLike, NDArray
from scipy.spatial.transform import Rotation

from mksdask.arrays import Array, ArrayLike, is_number, label, names, numbers_argument, shown, unwrap_samples
from mksdask.bases.gsh import check_angles
from mksdask.compute.blocks import map_samples
from mksdask.compute.operation import Operation, operation
from mksdask.compute.plans import Limit, Plan, SampleWork, chunk_layout, fft_operations, thread_notes
from mksdask.samples import Grid
from mksdask.schema.arguments import check_argument, checked
from mksdask.simulation.constituents import cubic_grid, phase_numbers
from mksdask.simulation.equilibrium import BATCH_UNKNOWNS, is_large
from mksdask.simulation.fluxes import Conductive, solve_fluxes
from mksdask.simulation.solver import ITERATIONS


class ConductionResponse(NamedTuple):
    """Fields and averages of an ensemble, as NumPy or dask arrays.

    ``gradient`` and ``flux`` have shape (n_samples, *spatial, dim), ``mean_gradient`` and ``mean_flux`` (n_samples,
    dim).
    """

    gradient: Any
    flux: Any
    mean_gradient: Any
    mean_flux: Any


@dataclass(frozen=True)
class ConductionSolver:
    """Kernels that solve one block of samples.

    Parameters
    ----------
    conductivity : ndarray, shape (n_phases,), (n_phases, d, d) or (3, 3)
        Conductivity of each phase, as numbers or tensors, or the tensor of one kind of crystal in its own frame.
    tolerance : float
        Factor by which the preconditioned residual norm is reduced.
    max_iterations : int
        Limit of iterations.
    """

    conductivity: NDArray[np.float64]
    tolerance: float
    max_iterations: int

    @classmethod
    def of(cls, conductivity: NumpyLike, tolerance: float, max_iterations: int) -> Self:
        """Check the arguments of a public function.

        Raises
        ------
        ValueError
            If they make no sense.
        """
        values = np.atleast_1d(numbers_argument(conductivity, "conductivity"))
        shape, known = values.shape, values.ndim == 1 or (values.ndim == 3 and values.shape[1:] in ((2, 2), (3, 3)))
        if not values.size or not (known or shape == (3, 3)):
            msg = (
                "conductivity must hold a number for each phase, shape (n_phases,), a tensor for each phase, shape "
                "(n_phases, d, d), or the tensor of a crystal, shape (3, 3), if X holds orientations; got shape "
                f"{shape}"
            )
            raise ValueError(msg)
        tensors = values[:, None, None] if values.ndim == 1 else values.reshape(-1, *shape[-2:])
        is_right = np.isfinite(values).all() and (values != 0).any()
        if is_right and values.ndim > 1:
            is_right = np.allclose(tensors, tensors.swapaxes(1, 2), rtol=1e-9, atol=0.0)
        if not is_right or np.linalg.eigvalsh(tensors).min() < -1e-12 * np.abs(values).max():
            msg = (
                "conductivity must be finite, from 0 and not 0 in all phases, and its tensors must be symmetric and "
                f"without negative principal values; got {values.tolist()}"
            )
            raise ValueError(msg)
        check_argument(max_iterations, "max_iterations")
        if not (is_number(tolerance) and 0.0 < tolerance < 1.0):
            msg = f"tolerance must lie between 0 and 1, both excluded, got {shown(tolerance)}"
            raise ValueError(msg)
        return cls(values, tolerance, max_iterations)

    @property
    def trailing(self) -> int:
        """Number of axes of a block after the spatial ones."""
        return 1 if self.conductivity.ndim == 2 else 0

    def n_packed(self, dim: int) -> int:
        """Count the numbers that make the conductivity of a voxel."""
        return 1 if self.conductivity.ndim == 1 else dim * (dim + 1) // 2

    def material(self, block: Array) -> Conductive:
        """Return the conductivity of each voxel of a block.

        Raises
        ------
        ValueError
            If the block holds no phase numbers, or no angles.
        """
        spatial = block.shape[1 : block.ndim - self.trailing]
        if self.trailing:
            check_angles(block)
            turns = Rotation.from_euler("ZXZ", block.reshape(-1, 3)).as_matrix()
            tensors = (turns @ self.conductivity @ turns.swapaxes(1, 2)).reshape(*block.shape[:-1], 3, 3)
        else:
            phase = phase_numbers(block, len(self.conductivity), "conductivity")
            if self.conductivity.ndim == 1:
                return Conductive(self.conductivity[phase][:, None])
            tensors = self.conductivity[phase]
        rows, columns = np.triu_indices(len(spatial))
        return Conductive(np.ascontiguousarray(np.moveaxis(tensors[..., rows, columns], -1, 1)))

    def batch(self, spatial: tuple[int, ...]) -> int:
        """Choose the number of samples that are solved together."""
        return max(1, BATCH_UNKNOWNS // int(np.prod(spatial)))

    def fields(self, block: Array, *, macro_gradient: NDArray[np.float64]) -> NDArray[np.float64]:
        """Solve for the gradient and the flux of a block: (n, *spatial, 2, dim)."""
        spatial, dim = block.shape[1 : block.ndim - self.trailing], len(macro_gradient)
        out, step = np.empty((len(block), *spatial, 2, dim)), self.batch(spatial)
        for start in range(0, len(block), step):
            rows = slice(start, start + step)
            out[rows, ..., 0, :], out[rows, ..., 1, :] = self._solved(block[rows], macro_gradient)
        return out

    def conductivities(self, block: Array) -> NDArray[np.float64]:
        """Solve for the effective conductivity of a block: (n, dim, dim)."""
        spatial = block.shape[1 : block.ndim - self.trailing]
        dim, step = len(spatial), self.batch(spatial)
        out, axes = np.empty((len(block), dim, dim)), tuple(range(1, dim + 1))
        for start in range(0, len(block), step):
            rows = slice(start, start + step)
            for axis, load in enumerate(np.eye(dim)):
                out[rows, :, axis] = self._solved(block[rows], load)[1].mean(axis=axes)
        return 0.5 * (out + out.swapaxes(1, 2))

    def _solved(self, block: Array, macro_gradient: NDArray[np.float64]) -> tuple[Array, Array]:
        return solve_fluxes(
            self.material(block),
            np.tile(macro_gradient, (len(block), 1)),
            unit=float(np.abs(self.conductivity).max()),
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
        )


def _means(fields: Array) -> Array:
    """Average fields over the voxels of each sample: (n, *spatial, 2, dim) → (n, 2, dim)."""
    return np.asarray(fields.mean(axis=tuple(range(1, fields.ndim - 2)))).reshape(len(fields), *fields.shape[-2:])


@dataclass(frozen=True)
class _Conduct(Operation[Any]):
    """The arguments of a public function of conduction, checked."""

    solver: ConductionSolver
    data: Any
    labels: xr.DataArray | None
    grid: Grid
    macro_gradient: NDArray[np.float64]

    #: Name of the public function.
    name: ClassVar[str]

    @classmethod
    def of(cls, X: ArrayLike, solver: ConductionSolver, macro_gradient: float | NumpyLike = 0.0) -> Self:
        """Check the samples and the gradient."""
        data, labels = unwrap_samples(X)
        dim, tensors = data.ndim - 1 - solver.trailing, solver.conductivity
        if 0 in data.shape[1:] or dim not in (2, 3) or (solver.trailing and data.shape[-1] != 3):
            tail = ", 3" * solver.trailing
            kind = " of Bunge angles" * solver.trailing
            msg = (
                f"X must be an array{kind} of shape (n_samples, nx, ny{tail}) or (n_samples, nx, ny, nz{tail}), got "
                f"shape {tuple(data.shape)}; if X is one sample, add an axis of samples: X[None]"
            )
            raise ValueError(msg)
        if tensors.ndim == 3 and tensors.shape[-1] < dim:
            msg = f"conductivity must hold {dim} × {dim} tensors for {dim}D samples, got shape {tensors.shape}"
            raise ValueError(msg)
        given = numbers_argument(macro_gradient, "macro_gradient")
        gradient = np.concatenate([[float(given)], np.zeros(dim - 1)]) if given.ndim == 0 else given
        if gradient.shape != (dim,) or not np.isfinite(gradient).all():
            msg = f"macro_gradient must be a finite number, or {dim} of them for {dim}D samples, got {macro_gradient!r}"
            raise ValueError(msg)
        return cls(solver, data, labels, cubic_grid(labels, data.shape[1 : 1 + dim]), gradient)

    @property
    def n_loads(self) -> int:
        """Number of load cases of a sample."""
        return 1

    @property
    def result_shape(self) -> tuple[int, ...]:
        """Shape of the result of one sample."""
        dim = len(self.grid.shape)
        return (*self.grid.shape, 2, dim)

    @property
    def work(self) -> SampleWork:
        """What the tasks need: memory for results and for the fields of one batch, and operations."""
        spatial, dim = self.grid.shape, len(self.grid.shape)
        n_voxels, together, result = (
            int(np.prod(spatial)),
            self.solver.batch(spatial),
            8 * int(np.prod(self.result_shape)),
        )
        # As in elasticity: conjugate gradients, and then the fields of a batch.
        n_packed = self.solver.n_packed(dim)
        batch = 4 * n_voxels * (4 * n_packed + max(n_packed + 9, 2 + 4 * dim))
        return SampleWork(
            "solve",
            int(np.prod(self.data.shape[1:])) * self.data.dtype.itemsize,
            lambda n: n * result + min(n, together) * batch,
            result,
            self.n_loads * ITERATIONS * (2 * fft_operations(spatial, real=True) + 150.0 * n_voxels),
            is_large=is_large(spatial),
        )

    def plan(self, limit: Limit) -> Plan:
        """Plan one task for each chunk."""
        stage = self.work.stage(self.data, limit)
        layout = chunk_layout(self.data, stage) | {"load cases": self.n_loads}
        return Plan(self.name, layout, (stage,), limit, thread_notes(self.work, self.data, limit))

    def compute(self, kernel: Callable[[Array], Array]) -> Any:
        """Map a kernel over the samples."""
        data, kernel = self.work.fitting(self.data), self.work.kernel_on(kernel, self.data)
        return map_samples(kernel, data, tail=self.result_shape, dtype=np.float64, name=self.name)


@dataclass(frozen=True)
class _SolveConduction(_Conduct):
    name = "solve_conduction"

    def run(self) -> ConductionResponse | xr.Dataset:
        solved = self.compute(partial(self.solver.fields, macro_gradient=self.macro_gradient))
        tail = self.result_shape[-2:]
        means = map_samples(_means, solved, tail=tail, dtype=np.float64, name="mean-fluxes")
        response = ConductionResponse(solved[..., 0, :], solved[..., 1, :], means[:, 0], means[:, 1])
        if self.labels is None:
            return response
        dims = self.grid.dims
        component = {"component": names(dims)}
        voxels = component | {name: self.labels.coords[name] for name in dims if name in self.labels.coords}
        arrays = {
            name: label(
                data,
                self.labels,
                dims=("component",) if name.startswith("mean") else (*dims, "component"),
                coords=component if name.startswith("mean") else voxels,
                name=name,
            )
            for name, data in response._asdict().items()
        }
        return xr.Dataset(arrays, attrs=self.labels.attrs)


@dataclass(frozen=True)
class _EffectiveConductivity(_Conduct):
    name = "effective_conductivity"

    @property
    def n_loads(self) -> int:
        """One load case for each axis."""
        return len(self.grid.shape)

    @property
    def result_shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return (len(self.grid.shape),) * 2

    def run(self) -> Any:
        result = self.compute(self.solver.conductivities)
        dims = ("component", "component_applied")
        return label(result, self.labels, dims=dims, coords=dict.fromkeys(dims, names(self.grid.dims)), name=self.name)


@operation
@checked
def solve_conduction(
    X: ArrayLike,
    *,
    conductivity: NumpyLike,
    macro_gradient: float | NumpyLike = 1.0,
    tolerance: float = 1e-8,
    max_iterations: int = 1000,
) -> Operation[ConductionResponse | xr.Dataset]:
    r"""Compute the gradient and the flux in each voxel under an imposed mean gradient.

    .. math:: q[s] = K[s]\, g[s], \qquad \nabla \cdot q = 0

    Here g is the gradient that drives the flux q: -∇T for heat, the electric field, or -∇c for diffusion. Each sample
    is one cell of a periodic solid. The finite elements are linear (Q1), one for each voxel, as in `solve_fields`.

    Parameters
    ----------
    X : array, shape (n_samples, nx, ny) or (n_samples, nx, ny, nz)
        Phase number of each voxel, counted from 0, as a NumPy, dask, zarr or xarray array. With the conductivity of a
        crystal, X has one more axis and holds the orientation in each voxel, as Bunge angles in radians.
    conductivity : array, shape (n_phases,), (n_phases, d, d) or (3, 3)
        Conductivity of each phase, in any unit: a number, or a symmetric tensor with d axes. 0 stands for an insulator,
        such as a pore. An array of shape (3, 3) is the conductivity of one kind of crystal in its own frame. Nothing
        varies across 2D samples.
    macro_gradient : float or sequence of float, default 1
        Imposed mean gradient. A number is the gradient along x.
    tolerance : float, default 1e-8
        Factor by which the conjugate gradients reduce the preconditioned residual norm.
    max_iterations : int, default 1000
        Limit of iterations.

    Returns
    -------
    ConductionResponse or xarray.Dataset
        A Dataset if X is a DataArray, otherwise a named tuple: gradient and flux, the means of each element, float64,
        shape (n_samples, *spatial, dim), and their means over each sample, (n_samples, dim). Lengths are in voxels.

    Raises
    ------
    ValueError
        If an argument is not valid, or the voxels are not cubes.
    ConvergenceError
        If the limit of iterations is reached. It is raised when the block is computed.

    Notes
    -----
    Lazy input gives a lazy result, with one task for each chunk. A task holds its results, which are ``2 · dim``
    float64 fields, and the fields of one batch of samples. A chunk that would not fit into the memory of a worker is
    cut; see `mksdask.plan`. Large samples may have all threads of a worker, as in `solve_fields`.

    The gradient inside an insulator is that of the elements that continue the field into it. It carries no flux.

    References
    ----------
    Leute, R. J. et al. Elimination of ringing artifacts by finite-element projection in FFT-based
    homogenization. J. Comput. Phys. 453 (2022) 110931.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.zeros((1, 4, 4), dtype=int)
    >>> X[:, 2:] = 1
    >>> response = solve_conduction(X, conductivity=(1, 3))
    >>> response.flux[0, :, 0, 0].round(9).tolist()  # layers in series share one flux
    [1.5, 1.5, 1.5, 1.5]
    """
    return _SolveConduction.of(X, ConductionSolver.of(conductivity, tolerance, max_iterations), macro_gradient)


@operation
@checked
def effective_conductivity(
    X: ArrayLike,
    *,
    conductivity: NumpyLike,
    tolerance: float = 1e-8,
    max_iterations: int = 1000,
) -> Operation[Any]:
    r"""Compute the effective conductivity tensor of each sample, which relates the mean flux to the mean gradient.

    .. math:: \langle q \rangle = K_{eff}\, \langle g \rangle

    One load case is solved for each axis.

    Parameters
    ----------
    X, conductivity, tolerance, max_iterations
        As in `solve_conduction`.

    Returns
    -------
    array of the kind of `X`, shape (n_samples, dim, dim)
        Conductivity in the unit of `conductivity`. The result is symmetric: the two triangles agree to about
        `tolerance`, and their average is returned. Lazy for lazy input, with one task for each chunk.

    Raises
    ------
    ValueError, ConvergenceError
        As `solve_conduction`.

    Examples
    --------
    A sample with an insulator in every second layer conducts along the layers alone.

    >>> import numpy as np
    >>> X = np.zeros((1, 4, 4), dtype=int)
    >>> X[:, 2:] = 1
    >>> (effective_conductivity(X, conductivity=(1, 0))[0].round(9) + 0.0).tolist()
    [[0.0, 0.0], [0.0, 0.5]]
    """
    return _EffectiveConductivity.of(X, ConductionSolver.of(conductivity, tolerance, max_iterations))
