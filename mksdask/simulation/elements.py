"""Means over each element of what its corners hold, and the forces of uniform stresses on the corners."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mksdask.compute.threads import over_parts
from mksdask.simulation.forces import jit, voigt_pairs
from mksdask.simulation.stencils import Float, Material

# Voxels whose strains are computed at once.
PART = 2**16


def parts_of_planes(shape: tuple[int, ...], first: int, last: int) -> Iterator[tuple[int, int]]:
    """Cut the planes from `first` to `last` of voxels, (n, *spatial), into parts of about `PART` voxels."""
    step = max(1, PART * shape[1] // int(np.prod(shape)))
    for start in range(first, last, step):
        yield start, min(start + step, last)


@jit
def _mean_derivatives(u, macro, sources, out, first, last):  # type: ignore[no-untyped-def]
    """Write sums of mean derivatives of the elements in some planes to `out`, (n, last - first, ny, nz, n_out).

    ``sources[v]`` names the fields and the axes of the two derivatives of the sum v. The field -1 stands for none.
    """
    n, n_fields, _, ny, nz = u.shape
    slope = np.empty((n_fields, 3))
    for s in range(n):
        for i in range(first, last):
            ip = i + 1 if i + 1 < u.shape[2] else 0
            for j in range(ny):
                jp = j + 1 if j + 1 < ny else 0
                for k in range(nz):
                    kp = k + 1 if k + 1 < nz else 0
                    for c in range(n_fields):
                        field = u[s, c]
                        a, b, c01, d = field[i, j, k], field[ip, j, k], field[i, jp, k], field[ip, jp, k]
                        e, f, g, h = field[i, j, kp], field[ip, j, kp], field[i, jp, kp], field[ip, jp, kp]
                        slope[c, 0] = 0.25 * (b + d + f + h - a - c01 - e - g)
                        slope[c, 1] = 0.25 * (c01 + d + g + h - a - b - e - f)
                        slope[c, 2] = 0.25 * (e + f + g + h - a - b - c01 - d)
                    for v in range(len(sources)):
                        total = macro[s, v]
                        for field_of, axis in sources[v]:
                            if field_of >= 0:
                                total += slope[field_of, axis]
                        out[s, i - first, j, k, v] = total


def _of_planes(u: Float, macro: Float, sources: list[list[tuple[int, int]]], first: int, last: int) -> Float:
    """Compute sums of mean derivatives in some planes; see `_mean_derivatives`."""
    n, n_fields, *spatial = u.shape
    # Samples with two axes are volumes that are one voxel thick, along the second axis.
    thick = spatial if len(spatial) == 3 else (spatial[0], 1, spatial[1])
    axes = np.arange(3) if len(spatial) == 3 else np.array([0, 2])
    places = np.array(sources)
    places[..., 1] = axes[places[..., 1]]
    out = np.empty((n, last - first, *thick[1:], len(sources)))
    _mean_derivatives(u.reshape(n, n_fields, *thick), macro, places, out, first, last)
    return out.reshape(n, last - first, *spatial[1:], len(sources))


def gradient_of_planes(u: Float, macro: Float, first: int, last: int) -> Float:
    """Compute the mean gradient of elements in some planes, (n, last - first, ..., dim), of u, (n, 1, *spatial)."""
    return _of_planes(u, macro, [[(0, axis), (-1, 0)] for axis in range(u.ndim - 2)], first, last)


def strain_of_planes(u: Float, macro: Float, first: int, last: int) -> Float:
    """Compute the mean strain of elements in some planes, (n, last - first, ..., n_components)."""
    pairs = zip(*voigt_pairs(u.shape[1]), strict=True)
    return _of_planes(u, macro, [[(a, b), (b, a) if a != b else (-1, 0)] for a, b in pairs], first, last)


def total_stress(material: Material, u: Float, macro: Float) -> Float:
    """Sum the stress over the voxels of each sample, (n, n_components)."""
    sums = np.empty((u.shape[2], *macro.shape))

    def add(first: int, last: int) -> None:
        for start, end in parts_of_planes(material.shape, first, last):
            stress = material.of_planes(start, end).stress(strain_of_planes(u, macro, start, end))
            sums[start:end] = stress.reshape(len(u), end - start, -1, macro.shape[1]).sum(axis=2).swapaxes(0, 1)

    over_parts(add, len(sums))
    return np.asarray(sums.sum(axis=0))


def stress_forces(stress: Float) -> Float:
    """Compute the forces Bᵀ σ on the corners, (n, dim, *spatial), of uniform stresses of the elements."""
    n, *spatial, _ = stress.shape
    dim = len(spatial)
    forces = np.zeros((n, dim, *spatial))
    for v, (a, b) in enumerate(zip(*voigt_pairs(dim), strict=True)):
        for row, axis in {(a, b), (b, a)}:
            field = stress[..., v]
            for other in range(dim):
                shifted = np.roll(field, 1, axis=1 + other)
                field = shifted - field if other == axis else 0.5 * (shifted + field)
            forces[:, row] += field
    return forces
