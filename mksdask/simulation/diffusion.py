"""Diffusion through the voxels of one phase, from side to side, by finite volumes.

The equilibrium is that of `equilibrium`, whose forces are the flows out of the voxels here. The preconditioner is the
inverse of the same stencil without obstacles, by sine transforms along the flow and cosine transforms across.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from mksdask.arrays import Array
from mksdask.compute.transforms import irfftn_in_place
from mksdask.simulation.equilibrium import equilibrium
from mksdask.simulation.forces import jit
from mksdask.simulation.stencils import Float, Real, Single


@dataclass(frozen=True)
class Channels:
    """The voxels through which something diffuses along the first axis.

    The unknown is the concentration less that of an empty box, which falls from 1 to 0 along the first axis.

    Parameters
    ----------
    mask : ndarray of bool, shape (n_along, n_1, n_2)
        The voxels.
    conductance : ndarray, shape (3,)
        Flow between neighbours along each axis, for a difference of 1. It is twice as large between a voxel and its
        own side.
    periodic : tuple of bool
        Whether the second and the third axis are periodic. Otherwise nothing flows through their sides.
    """

    mask: NDArray[np.bool_]
    conductance: Float
    periodic: tuple[bool, bool]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the voxels, with one sample."""
        return (1, *self.mask.shape)

    @property
    def n_fields(self) -> int:
        """There is one concentration."""
        return 1

    def largest(self) -> Float:
        """Return the flow that an empty box has through a voxel."""
        return np.array([self.conductance[0] / len(self.mask)])

    def single(self, factor: float | Float) -> Channels:
        """Return the same channels: their flows have the precision of the concentrations."""
        return self

    def forces(self, u: Real, macro: Real, active: NDArray[np.bool_], out: Real) -> Real:
        """Write the flows out of each voxel to `out`, (1, 1, *spatial)."""
        if active[0]:
            slope = float(macro[0, 0]) / len(self.mask)
            _flows(u[0, 0], self.mask, *map(float, self.conductance), *self.periodic, slope, out[0, 0])
        return out

    def precondition(self, r: Single) -> Single:
        """Return the concentration that belongs to flows in a box without obstacles."""
        closed = [axis for axis, is_periodic in enumerate(self.periodic, 1) if not is_periodic]
        around = [axis for axis, is_periodic in enumerate(self.periodic, 1) if is_periodic]
        v = scipy.fft.dst(r[0, 0], type=2, axis=0)
        v = scipy.fft.dctn(v, type=2, axes=closed, overwrite_x=True)
        if around:
            v = scipy.fft.rfftn(v, axes=around)
        v *= self._inverse
        if around:
            v = irfftn_in_place(v, [self.mask.shape[axis] for axis in around], around)
        v = scipy.fft.idctn(v, type=2, axes=closed, overwrite_x=True)
        return np.asarray(scipy.fft.idst(v, type=2, axis=0, overwrite_x=True))[None, None]

    @cached_property
    def _inverse(self) -> Single:
        """Invert the stencil of a box without obstacles at each frequency."""
        halved = max((axis for axis, is_periodic in enumerate(self.periodic, 1) if is_periodic), default=0)
        terms = []
        for axis, n in enumerate(self.mask.shape):
            first, turn = (1, 1.0) if axis == 0 else (0, 2.0 if self.periodic[axis - 1] else 1.0)
            frequencies = np.arange(first, first + (n // 2 + 1 if axis == halved and axis else n))
            terms.append(self.conductance[axis] * (2.0 - 2.0 * np.cos(turn * np.pi * frequencies / n)))
        return np.asarray(1.0 / (terms[0][:, None, None] + terms[1][:, None] + terms[2]), dtype=np.float32)


@jit
def _flows(u, mask, w0, w1, w2, around1, around2, slope, out):  # type: ignore[no-untyped-def]
    """Write the flows out of each voxel of the mask. Elsewhere `out` is 0."""
    n0, n1, n2 = u.shape
    for i in range(n0):
        for j in range(n1):
            for k in range(n2):
                if not mask[i, j, k]:
                    out[i, j, k] = 0.0
                    continue
                here, flow = u[i, j, k], 0.0
                # Along the flow, the concentration of the empty box falls by the slope from voxel to voxel.
                if i == 0:
                    flow += 2.0 * w0 * (here - 0.5 * slope)
                elif mask[i - 1, j, k]:
                    flow += w0 * (here - u[i - 1, j, k] - slope)
                if i == n0 - 1:
                    flow += 2.0 * w0 * (here + 0.5 * slope)
                elif mask[i + 1, j, k]:
                    flow += w0 * (here - u[i + 1, j, k] + slope)
                if (j > 0 or around1) and mask[i, j - 1, k]:
                    flow += w1 * (here - u[i, j - 1, k])
                if j < n1 - 1 or around1:
                    jp = j + 1 if j + 1 < n1 else 0
                    if mask[i, jp, k]:
                        flow += w1 * (here - u[i, jp, k])
                if (k > 0 or around2) and mask[i, j, k - 1]:
                    flow += w2 * (here - u[i, j, k - 1])
                if k < n2 - 1 or around2:
                    kp = k + 1 if k + 1 < n2 else 0
                    if mask[i, j, kp]:
                        flow += w2 * (here - u[i, j, kp])
                out[i, j, k] = flow


def diffusivity(
    mask: Array,
    axis: int,
    *,
    spacing: Sequence[float],
    periodic: Sequence[bool],
    tolerance: float,
    max_iterations: int,
) -> float:
    """Compute D_eff/D of the voxels of a mask along one axis. Two sides have fixed concentrations.

    Parameters
    ----------
    mask : ndarray of bool, shape (*spatial,)
        Voxels that are connected to both sides. There must be some.
    axis : int
        Axis along which something diffuses.
    spacing : sequence of float
        Size of a voxel along each axis.
    periodic : sequence of bool
        Whether each axis is periodic. Nothing flows through the other sides.
    tolerance, max_iterations
        As in `equilibrium`. The error of the result is about the square of `tolerance`.

    Returns
    -------
    float

    Raises
    ------
    ConvergenceError
        If `max_iterations` do not suffice.
    """
    others = [other for other in range(mask.ndim) if other != axis]
    n_missing = 3 - mask.ndim
    turned = np.ascontiguousarray(mask.transpose(axis, *others)).reshape(mask.shape[axis], *(1,) * n_missing, -1)
    turned = turned.reshape(mask.shape[axis], *(1,) * n_missing, *(mask.shape[other] for other in others))
    conductance = np.array([1.0, *(1.0,) * n_missing, *((spacing[axis] / spacing[other]) ** 2 for other in others)])
    around = (*(False,) * n_missing, *(bool(periodic[other]) for other in others))
    channels, one = Channels(turned, conductance, (around[0], around[1])), np.ones((1, 1))
    field, _ = equilibrium(channels, one, channels.precondition, tolerance, max_iterations)
    active = np.ones(1, dtype=bool)
    flows, outflow = (channels.forces(u, one, active, np.empty_like(field)) for u in (field, np.zeros_like(field)))
    # The dissipation of the whole flow: its error is the square of the error of the field.
    links = np.count_nonzero(turned[:-1] & turned[1:]) + 0.5 * (
        np.count_nonzero(turned[0]) + np.count_nonzero(turned[-1])
    )
    dissipated = links / len(turned) ** 2 + float((field * (flows + outflow)).sum())
    return dissipated * len(turned) / turned[0].size
