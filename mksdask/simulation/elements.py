"""Means over each element of what its corners hold, and the forces of uniform stresses on the corners."""

from __future__ import annotations

import numpy as np

from mksdask.simulation.forces import voigt_pairs
from mksdask.simulation.stencils import Float


def element_gradient(field: Float, axis: int) -> Float:
    """Compute the mean derivative in each element of a field on the corners, (n, *spatial), along an axis."""
    for other in range(field.ndim - 1):
        shifted = np.roll(field, -1, axis=1 + other)
        field = shifted - field if other == axis else 0.5 * (shifted + field)
    return field


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


def gradient_of_planes(field: Float, axis: int, first: int, last: int) -> Float:
    """Compute `element_gradient` in the planes of elements from `first` to `last`."""
    return element_gradient(field[:, np.arange(first, last + 1) % field.shape[1]], axis)[:, :-1]


def strain_of_planes(u: Float, macro: Float, first: int, last: int) -> Float:
    """Compute the mean strain of elements in some planes, (n, last - first, ..., n_components)."""
    dim = u.shape[1]
    rows, cols = voigt_pairs(dim)
    strain = np.empty((len(u), last - first, *u.shape[3:], len(rows)))
    for v, (a, b) in enumerate(zip(rows, cols, strict=True)):
        strain[..., v] = gradient_of_planes(u[:, a], b, first, last)
        if a != b:
            strain[..., v] += gradient_of_planes(u[:, b], a, first, last)
        strain[..., v] += macro[:, v].reshape(-1, *(1,) * dim)
    return strain
