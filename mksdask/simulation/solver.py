"""Elastic response of one block of samples: fields, mean stress and effective stiffness, solved batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mksdask.arrays import Array, is_number, shown
from mksdask.compute.plans import MIB, SampleWork, fft_operations
from mksdask.schema.arguments import check_argument
from mksdask.simulation.constituents import Constituents
from mksdask.simulation.equilibrium import ElasticEquilibrium, batch_size, is_large, solve_elasticity
from mksdask.simulation.forces import voigt_pairs
from mksdask.simulation.loads import Eigenstrains, Loads
from mksdask.simulation.stencils import n_strain_components

# Typical number of iterations of the conjugate gradients at moderate contrast, for estimates of work.
ITERATIONS = 12
# Bytes beyond those of a process that the kernels of 21 entries of a stiffness take while they are compiled at first.
COMPILING = 24 * MIB


class ElasticResponse(NamedTuple):
    """Fields and averages of an ensemble, as NumPy or dask arrays.

    ``strain`` and ``stress`` have shape (n_samples, *spatial, n_components). ``displacement`` has shape
    (n_samples, *nodes, dim), with one node more than voxels along each axis. ``mean_strain`` and ``mean_stress`` have
    shape (n_samples, n_components).
    """

    strain: Any
    stress: Any
    displacement: Any
    mean_strain: Any
    mean_stress: Any


def response_shapes(spatial: tuple[int, ...]) -> ElasticResponse:
    """Shapes of the fields and averages of one sample."""
    dim = len(spatial)
    n_components = n_strain_components(dim)
    field = (*spatial, n_components)
    return ElasticResponse(field, field, (*(n + 1 for n in spatial), dim), (n_components,), (n_components,))


@dataclass(frozen=True)
class ElasticSolver:
    """Kernels that solve one block of samples.

    Parameters
    ----------
    constituents : Constituents
        The materials that the values of voxels stand for.
    tolerance : float
        Factor by which the preconditioned residual norm is reduced.
    max_iterations : int
        Limit of iterations.
    eigenstrains : Eigenstrains, optional
        Strains that the voxels would have without stress.
    """

    constituents: Constituents
    tolerance: float
    max_iterations: int
    eigenstrains: Eigenstrains | None = None

    def __post_init__(self) -> None:
        check_argument(self.max_iterations, "max_iterations")
        if not (is_number(self.tolerance) and 0.0 < self.tolerance < 1.0):
            msg = f"tolerance must lie between 0 and 1, both excluded, got {shown(self.tolerance)}"
            raise ValueError(msg)

    @property
    def trailing(self) -> int:
        """Number of axes of a block after the spatial ones."""
        return self.constituents.trailing

    def spatial(self, block: Array) -> tuple[int, ...]:
        """Spatial shape of the samples of a block."""
        return tuple(block.shape[1 : block.ndim - self.trailing])

    def work(self, what: str, arrays: Sequence[Any], loads: Loads, *, n_loads: int, keeps_fields: bool) -> SampleWork:
        """Estimate what a task needs: memory for its results and for the fields of one batch, and operations."""
        data = arrays[0]
        spatial = tuple(int(n) for n in data.shape[1 : data.ndim - self.trailing])
        dim, field = len(spatial), 8 * int(np.prod(spatial))
        n_components = n_strain_components(dim)
        shapes = response_shapes(spatial)
        kept = shapes if keeps_fields else shapes[3:]
        result = sum(8 * int(np.prod(shape)) for shape in kept)
        # Conjugate gradients hold x in float64, and in float32 the material, its preconditioner, and six vectors: r, p,
        # K p and those of a transform. The displacement comes afterwards.
        material = self.constituents.material_fields
        iteration = 0.5 * material + 0.25 * n_components + 4 * dim
        # The forces of a unit strain for each imposed stress, and copies of what is split into fluctuation and strain.
        iteration += (0.5 * loads.n_imposed_stresses + 3) * dim if loads.stress is not None else 0
        fields = material + max(iteration, 3 * dim)
        if self.eigenstrains is not None:
            fields += 2 * self.eigenstrains.n_components + n_components + dim
        batch = int(field * fields)
        together, compiling = batch_size(spatial), COMPILING if dim == 3 and material >= 21 else 0
        transforms = 2 * dim * fft_operations(spatial, real=True)
        return SampleWork(
            what,
            sum(int(np.prod(array.shape[1:])) * array.dtype.itemsize for array in arrays),
            lambda n: compiling + n * result + min(n, together) * batch,
            result,
            n_loads * ITERATIONS * (transforms + int(np.prod(spatial)) * (200 if dim == 2 else 900)),
            is_large=is_large(spatial),
        )

    def _batches(
        self, blocks: tuple[Array, ...], loads: Loads
    ) -> Iterator[tuple[NDArray[np.intp], ElasticEquilibrium]]:
        """Solve the samples of blocks in batches that fit in cache, and that share a reference."""
        step = batch_size(self.spatial(blocks[0]))
        for start in range(0, len(blocks[0]), step):
            parts = tuple(block[start : start + step] for block in blocks)
            whole = self.constituents.material(*parts[: self.constituents.n_arrays])
            stresses = None
            if self.eigenstrains is not None:
                stresses = self.eigenstrains.stress(self.constituents, whole, parts)
            for rows, reference, unit in self.constituents.references(whole):
                material, eigenstress = whole, stresses
                if len(rows) < len(parts[0]):
                    material, eigenstress = whole.of_samples(rows), None if stresses is None else stresses[rows]
                found = solve_elasticity(
                    material,
                    np.tile(loads.strain, (len(rows), 1)),
                    reference=reference,
                    unit=unit,
                    macro_stress=loads.stress,
                    eigenstress=eigenstress,
                    tolerance=self.tolerance,
                    max_iterations=self.max_iterations,
                )
                yield start + rows, found

    def fields(self, *blocks: Array, loads: Loads) -> ElasticResponse:
        """Solve for the fields and averages of one block."""
        n, spatial, n_components = len(blocks[0]), self.spatial(blocks[0]), len(loads.strain)
        out = ElasticResponse(*(np.empty((n, *tail)) for tail in response_shapes(spatial)))
        axes = tuple(range(1, len(spatial) + 1))
        for rows, found in self._batches(blocks, loads):
            found.write_fields(rows, out.strain, out.stress)
            out.displacement[rows] = _displacement(found.fluctuation, found.macro)
        out.mean_strain[...] = out.strain.mean(axis=axes).reshape(n, n_components)
        out.mean_stress[...] = out.stress.mean(axis=axes).reshape(n, n_components)
        return out

    def mean_stress(self, *blocks: Array, loads: Loads) -> NDArray[np.float64]:
        """Solve for the mean stress of one block, (n, n_components)."""
        out = np.empty((len(blocks[0]), len(loads.strain)))
        for rows, found in self._batches(blocks, loads):
            out[rows] = found.mean_stress()
        return out

    def mean_strain(self, *blocks: Array, loads: Loads) -> NDArray[np.float64]:
        """Solve for the mean strain of one block, (n, n_components)."""
        out = np.empty((len(blocks[0]), len(loads.strain)))
        for rows, found in self._batches(blocks, loads):
            out[rows] = found.macro
        return out

    def stiffness(self, *blocks: Array) -> NDArray[np.float64]:
        """Solve for the effective stiffness of one block, (n, n_components, n_components)."""
        unit_loads = np.eye(n_strain_components(len(self.spatial(blocks[0]))))
        columns = [self.mean_stress(*blocks, loads=Loads(load)) for load in unit_loads]
        stiffness = np.stack(columns, axis=-1)
        return 0.5 * (stiffness + np.swapaxes(stiffness, -1, -2))


def _displacement(fluctuation: NDArray[np.float64], macro: NDArray[np.float64]) -> NDArray[np.float64]:
    """U = E·x + ũ on all nodes, with the periodic images on the far faces."""
    n, dim, *spatial = fluctuation.shape
    u = np.pad(fluctuation, [(0, 0), (0, 0), *[(0, 1)] * dim], mode="wrap")
    u -= fluctuation.mean(axis=tuple(range(2, dim + 2)), keepdims=True)
    tensor = np.empty((n, dim, dim))
    for v, (a, b) in enumerate(zip(*voigt_pairs(dim), strict=True)):
        tensor[:, a, b] = tensor[:, b, a] = macro[:, v] if a == b else 0.5 * macro[:, v]
    for axis, size in enumerate(spatial):
        position = np.arange(size + 1.0).reshape(-1, *(1,) * (dim - 1 - axis))
        u += tensor[:, :, axis].reshape(n, dim, *(1,) * dim) * position
    return np.moveaxis(u, 1, -1)
