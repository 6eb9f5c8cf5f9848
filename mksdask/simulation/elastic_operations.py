"""Operations of elasticity: the checked arguments of public functions, which can be planned and run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any, ClassVar, Self

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike as NumpyLike

from mksdask.arrays import (
    Array,
    ArrayLike,
    is_lazy,
    is_number,
    label,
    names,
    numbers_argument,
    shown,
    unwrap,
    unwrap_samples,
)
from mksdask.compute.blocks import map_samples
from mksdask.compute.operation import Operation
from mksdask.compute.plans import Limit, Plan, SampleWork, chunk_layout, thread_notes
from mksdask.labels import first_index, matched
from mksdask.samples import Grid
from mksdask.simulation.constituents import Constituents, CrystalOrientations, IsotropicPhases, cubic_grid
from mksdask.simulation.crystals import single_crystal_stiffness
from mksdask.simulation.equilibrium import batch_size
from mksdask.simulation.loads import COMPONENTS, Eigenstrains, Loads
from mksdask.simulation.matrices import StiffnessPhases, VoxelModuli, VoxelStiffness
from mksdask.simulation.solver import ElasticResponse, ElasticSolver, response_shapes
from mksdask.simulation.stencils import n_strain_components


@dataclass(frozen=True)
class ElasticArguments:
    """The arguments that public functions of elasticity share, as they were given; see `solve_fields`."""

    X: ArrayLike | None
    elastic_modulus: Sequence[float] | ArrayLike | None
    poissons_ratio: float | Sequence[float] | ArrayLike | None
    crystal_stiffness: NumpyLike | None
    stiffness: ArrayLike | None
    tolerance: float
    max_iterations: int

    def constituents(self) -> tuple[Constituents, dict[str, Any]]:
        """Return what voxels are made of, and the arrays that hold the values of voxels, by their names.

        Raises
        ------
        ValueError
            If the arguments describe no material, or more than one.
        """
        names_of = ("elastic_modulus", "poissons_ratio", "crystal_stiffness", "stiffness")
        given = [name for name in names_of if getattr(self, name) is not None]
        young, poisson, stiffness = self.elastic_modulus, self.poissons_ratio, self.stiffness
        if given == ["elastic_modulus", "poissons_ratio"]:
            if self.X is not None:
                return IsotropicPhases.from_engineering(young, poisson), {"X": self.X}  # type: ignore[arg-type]
            if is_number(poisson):
                values = VoxelModuli.of(float(poisson))  # type: ignore[arg-type]
                return values, {"elastic_modulus": young}
            return VoxelModuli(), {"elastic_modulus": young, "poissons_ratio": poisson}
        if given == ["stiffness"]:
            if self.X is None:
                return VoxelStiffness(), {"stiffness": stiffness}
            return StiffnessPhases.of(stiffness), {"X": self.X}  # type: ignore[arg-type]
        if given == ["crystal_stiffness"] and self.X is not None:
            return CrystalOrientations(single_crystal_stiffness(self.crystal_stiffness)), {"X": self.X}  # type: ignore[arg-type]
        got = ", ".join(f"{name}={shown(getattr(self, name))}" for name in names_of)
        msg = (
            "give elastic_modulus and poissons_ratio, or stiffness, with one value for each phase if X holds phase "
            "numbers, or for each voxel without X; or crystal_stiffness alone if X holds orientations; got "
            f"X={shown(self.X)}, {got}"
        )
        raise ValueError(msg)


def _checked_arrays(constituents: Constituents, given: dict[str, Any]) -> tuple[list[Any], list[xr.DataArray | None]]:
    """Check the arrays that hold the values of voxels. Return them, and their labels.

    Raises
    ------
    TypeError
        If an array holds no real numbers.
    ValueError
        If the shape of an array is wrong.
    """
    (name, first), *others = given.items()
    data, labels = unwrap_samples(first, name=name)
    sizes: Sequence[tuple[int, ...]]
    dim, tail = data.ndim - 1 - constituents.trailing, ", 3" if constituents.trailing == 1 else ""
    kind, sizes = (" of Bunge angles", [(3,)]) if tail else ("", [()])
    if constituents.trailing == 2:
        kind, tail, sizes = " of stiffness matrices", ", 6, 6", [(6, 6), (3, 3)][: 2 if dim == 2 else 1]
    last = data.shape[data.ndim - constituents.trailing :]
    if 0 in data.shape[1:] or dim not in COMPONENTS or last not in sizes:
        remedy = "if X is one sample, add an axis of samples: X[None]"
        if name != "X":
            remedy = f"if {name} holds the values of phases, give X too, which holds the phase numbers"
        msg = (
            f"{name} must be an array{kind} of shape (n_samples, nx, ny{tail}) or (n_samples, nx, ny, nz{tail}), got "
            f"shape {tuple(data.shape)}; {remedy}"
        )
        raise ValueError(msg)
    matrices = getattr(constituents, "stiffness", None)
    if matrices is not None and matrices.shape[-1] == 3 and dim == 3:
        msg = f"stiffness must hold 6 × 6 matrices for 3D samples, got shape {matrices.shape}"
        raise ValueError(msg)
    arrays, all_labels = [data], [labels]
    for other, values in others:
        array, more = unwrap_samples(matched(values, first_index(first), name=other, of=name), name=other)
        if array.shape != data.shape:
            msg = f"{other} must be a number, or have the shape {data.shape} of {name}, got shape {array.shape}"
            raise ValueError(msg)
        arrays.append(array)
        all_labels.append(more)
    _check_real(dict(zip(given, arrays, strict=True)))
    return arrays, all_labels


def _check_real(arrays: dict[str, Any]) -> None:
    """Refuse arrays of complex numbers, which would lose their imaginary part."""
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf":
            msg = f"{name} must hold real numbers, got dtype {array.dtype}"
            raise TypeError(msg)


@dataclass(frozen=True)
class Solve(Operation[Any]):
    """The arguments of a public function of elasticity, checked."""

    solver: ElasticSolver
    arrays: tuple[Any, ...]
    labels: xr.DataArray | None
    grid: Grid
    loads: Loads

    #: Name of the public function.
    name: ClassVar[str]
    #: Whether the fields are results, or only their averages.
    keeps_fields: ClassVar[bool] = False

    @classmethod
    def of(
        cls,
        given: ElasticArguments,
        macro_strain: float | NumpyLike = 0.0,
        macro_stress: float | NumpyLike | None = None,
        eigenstrain: float | ArrayLike | None = None,
    ) -> Self:
        """Check the samples and the loads."""
        constituents, named = given.constituents()
        arrays, labels = _checked_arrays(constituents, named)
        spatial = tuple(arrays[0].shape[1 : arrays[0].ndim - constituents.trailing])
        eigenstrains = None
        if eigenstrain is not None:
            # Matrices that hold the plane alone know no strain across it.
            matrices = {StiffnessPhases: given.stiffness, VoxelStiffness: arrays[0]}.get(type(constituents))
            n_components = n_strain_components(3) if matrices is None else np.shape(matrices)[-1]
            if unwrap(eigenstrain, name="eigenstrain")[0].ndim > 2 or is_lazy(eigenstrain):
                index = first_index(*named.values())
                of_voxels = matched(eigenstrain, index, name="eigenstrain", of=next(iter(named)))
                data, more = unwrap_samples(of_voxels, name="eigenstrain")
                eigenstrains = Eigenstrains.of_voxels(data.shape, (arrays[0].shape[0], *spatial), n_components)
                _check_real({"eigenstrain": data})
                arrays.append(data)
                labels.append(more)
            else:
                values = numbers_argument(eigenstrain, "eigenstrain")
                eigenstrains = Eigenstrains.of(values, constituents, len(spatial), n_components)
        solver = ElasticSolver(constituents, given.tolerance, given.max_iterations, eigenstrains)
        label_of = next((each for each in labels if each is not None), None)
        loads = Loads.of(macro_strain, macro_stress, len(spatial))
        return cls(solver, tuple(arrays), label_of, cubic_grid(label_of, spatial), loads)

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
        return self.solver.work("solve", self.arrays, self.loads, n_loads=self.n_loads, keeps_fields=self.keeps_fields)

    @property
    def leading(self) -> int:
        """Position of the array whose chunks are those of the tasks: the first lazy one."""
        return next((position for position, array in enumerate(self.arrays) if is_lazy(array)), 0)

    def plan(self, limit: Limit) -> Plan:
        """Plan one task for each chunk."""
        data = self.arrays[self.leading]
        stage = self.work.stage(data, limit)
        layout = chunk_layout(data, stage) | {"load cases": self.n_loads}
        batch = batch_size(self.grid.shape)
        layout["samples of a batch"] = min(batch, layout.get("samples of a task", len(data)))
        return Plan(self.name, layout, (stage,), limit, thread_notes(self.work, data, limit))

    def cut(self) -> tuple[Any, ...]:
        """Cut the chunks that are too large for a task. The other arrays follow the leading one."""
        arrays = list(self.arrays)
        arrays[self.leading] = self.work.fitting(arrays[self.leading])
        return tuple(arrays)

    def kernel_on(self, kernel: Callable[..., Any]) -> Callable[..., Any]:
        """Return a kernel for the samples, which has all threads of its worker if they are large and few."""
        return self.work.kernel_on(kernel, self.arrays[self.leading])

    def compute(self, kernel: Callable[..., Array], tail: tuple[int, ...], *dims: str) -> Any:
        """Map a kernel whose results are components over the samples, and label them."""
        result = map_samples(self.kernel_on(kernel), *self.cut(), tail=tail, dtype=np.float64, name=self.name)
        coords = dict.fromkeys(dims, names(self.components))
        return label(result, self.labels, dims=dims, coords=coords, name=self.name)


@dataclass(frozen=True)
class SolveFields(Solve):
    """The arguments of `solve_fields`."""

    name = "solve_fields"
    keeps_fields = True

    def run(self) -> ElasticResponse | xr.Dataset:
        """Solve for the fields and their averages."""
        arrays = self.cut()
        kernel = self.kernel_on(partial(self.solver.fields, loads=self.loads))
        if not any(map(is_lazy, arrays)):
            response = kernel(*arrays)
        else:
            # One task solves a chunk, and five light tasks pick the five fields out of its result.
            solved = map_samples(kernel, *arrays, tail=(), dtype=object, name="solve-elasticity")
            response = ElasticResponse(
                *(
                    map_samples(attrgetter(field), solved, tail=tail, dtype=np.float64, name=f"elastic-{field}")
                    for field, tail in response_shapes(self.grid.shape)._asdict().items()
                )
            )
        return response if self.labels is None else _label_response(response, self.labels, self.grid)


@dataclass(frozen=True)
class MeanStress(Solve):
    """The arguments of `mean_stress`."""

    name = "mean_stress"

    def run(self) -> Any:
        """Solve for the mean stress."""
        kernel = partial(self.solver.mean_stress, loads=self.loads)
        return self.compute(kernel, (len(self.components),), "component")


@dataclass(frozen=True)
class EffectiveStiffness(Solve):
    """The arguments of `effective_stiffness`."""

    name = "effective_stiffness"

    @property
    def n_loads(self) -> int:
        """One load case for each component of strain."""
        return len(self.components)

    def run(self) -> Any:
        """Solve for the stiffness."""
        n = len(self.components)
        return self.compute(self.solver.stiffness, (n, n), "component", "component_applied")


@dataclass(frozen=True)
class EffectiveExpansion(Solve):
    """The arguments of `effective_expansion`."""

    name = "effective_expansion"

    def run(self) -> Any:
        """Solve for the mean strain without mean stress."""
        kernel = partial(self.solver.mean_strain, loads=self.loads)
        return self.compute(kernel, (len(self.components),), "component")


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
