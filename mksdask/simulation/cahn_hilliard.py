"""Spinodal decomposition by the Cahn–Hilliard equation, ∂φ/∂t = ∇²(φ³ - φ) - γ∇⁴φ, on periodic boxes.

The time step is semi-implicit in Fourier space. The linear term is split between the old and the new time, with a₁ = 3
and a₂ = 0 in the notation of Cheng and Rutenberg (2005). This scheme is stable for any time step where |φ| ≤ √(5/3):

    φ̂(t + Δt) = [φ̂(t) - Δt k² (φ³ - 3φ)^] / [1 + 2 Δt k² + γ Δt k⁴] .
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numba
import numpy as np
import scipy.fft
from numpy.typing import DTypeLike, NDArray

from mksdask.arrays import Array, ArrayLike, is_number, label, label_alike, numbers_argument, unwrap_samples
from mksdask.compute.blocks import map_samples
from mksdask.compute.transforms import irfftn_in_place
from mksdask.samples import refuse_ambiguous_lines
from mksdask.schema.arguments import checked

# Small samples are advanced together in batches of about this many voxels, so that a batch stays in cache.
BATCH_VOXELS = 2**16

_jit = numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz"})


@_jit
def _chemical_potential(phi):  # type: ignore[no-untyped-def]
    """Replace φ by φ³ - 3φ, in place."""
    flat = phi.reshape(-1)
    three = phi.dtype.type(3)
    for i in range(flat.size):
        value = flat[i]
        flat[i] = (value * value - three) * value


@_jit
def _advance(spectrum, potential, kx, ky, kz, dt, gamma):  # type: ignore[no-untyped-def]
    """Advance φ̂, (n, nx, ny, nz), by one time step.

    `kx`, `ky` and `kz` hold k² along each axis. The new φ̂ is written to both `spectrum` and `potential`.
    """
    n, nx, ny, nz = spectrum.shape
    one, two = kz.dtype.type(1), kz.dtype.type(2)
    for s in range(n):
        for i in range(nx):
            for j in range(ny):
                square_xy = kx[i] + ky[j]
                row, source = spectrum[s, i, j], potential[s, i, j]
                for k in range(nz):
                    rate = dt * (square_xy + kz[k])
                    scale = one / (one + rate * (two + gamma * (square_xy + kz[k])))
                    row[k] = (row[k] - rate * source[k]) * scale
                    source[k] = row[k]


@dataclass(frozen=True)
class _Evolution:
    """The kernel of one block of concentrations."""

    dx: tuple[float, ...]
    gamma: float
    dt: float
    n_steps: int

    def __call__(self, block: Array) -> Array:
        """Take `n_steps` time steps: (n, *spatial) → (n, *spatial)."""
        out = np.empty(block.shape, dtype=_precision(block.dtype))
        step = max(1, BATCH_VOXELS // int(np.prod(block.shape[1:])))
        for start in range(0, len(block), step):
            self._evolve(block[start : start + step], out[start : start + step])
        return out

    def _evolve(self, initial: Array, out: Array) -> None:
        spatial, axes = initial.shape[1:], tuple(range(1, initial.ndim))
        dtype = out.dtype
        phi = initial.astype(dtype, order="C")
        spectrum = scipy.fft.rfftn(phi, axes=axes)
        _check_finite(spectrum)
        squares = [np.zeros(1, dtype)] * (3 - len(spatial)) + [k.astype(dtype) for k in squared_waves(spatial, self.dx)]
        padded = (len(initial), *(1,) * (3 - len(spatial)), *spectrum.shape[1:])
        for _ in range(self.n_steps):
            _chemical_potential(phi)
            potential = scipy.fft.rfftn(phi, axes=axes, overwrite_x=True)
            _advance(
                spectrum.reshape(padded),
                potential.reshape(padded),
                *squares,
                dtype.type(self.dt),
                dtype.type(self.gamma),
            )
            phi = irfftn_in_place(potential, spatial, axes)
        if not np.isfinite(phi).all():
            low, high = float(initial.min()), float(initial.max())
            msg = (
                f"the steps diverged from concentrations between {low:.3g} and {high:.3g}. Steps are stable at any dt "
                f"only for concentrations within ±1.29: rescale X, or lower dt={self.dt:g}"
            )
            raise ValueError(msg)
        out[...] = phi


def _check_finite(values: Array) -> None:
    if not np.isfinite(values).all():
        msg = "X holds NaN or infinite concentrations; fill or remove them first"
        raise ValueError(msg)


def squared_waves(spatial: Sequence[int], dx: Sequence[float]) -> list[NDArray[np.float64]]:
    """Compute the squared wave numbers along each axis, for the frequencies that `rfftn` keeps."""
    last = len(spatial) - 1
    frequency = [scipy.fft.rfftfreq if axis == last else scipy.fft.fftfreq for axis in range(len(spatial))]
    return [(2.0 * np.pi * f(n, step)) ** 2 for f, n, step in zip(frequency, spatial, dx, strict=True)]


def _free_energy(block: Array, *, dx: tuple[float, ...], gamma: float) -> NDArray[np.float64]:
    """Compute the free energy of each sample of a block, (n,)."""
    spatial = block.shape[1:]
    n_voxels = int(np.prod(spatial))
    squares = np.zeros(1)
    for axis, wave in enumerate(squared_waves(spatial, dx)):
        squares = squares[..., None] + wave if axis else wave
    # `rfftn` drops the conjugates of most frequencies, so the frequencies that it keeps count twice. Along the last
    # axis, the first frequency, and the last one if n is even, are kept with their conjugates, so they count once.
    counts = np.full(squares.shape[-1], 2.0)
    counts[0] = 1.0
    if spatial[-1] % 2 == 0:
        counts[-1] = 1.0
    out = np.empty(len(block))
    for j, sample in enumerate(block):
        phi = sample.astype(np.float64)
        _check_finite(phi)
        power = np.abs(scipy.fft.rfftn(phi)) ** 2
        gradient = (power * squares * counts).sum() / n_voxels
        out[j] = (phi**4 / 4 - phi**2 / 2).sum() + 0.5 * gamma * gradient
    return out * float(np.prod(dx))


def _precision(dtype: DTypeLike) -> np.dtype[Any]:
    return np.dtype(np.float32 if dtype == np.float32 else np.float64)


class CahnHilliardSimulation:
    r"""Simulate the spinodal decomposition of a concentration field on a periodic box of 1 to 3 dimensions.

    The concentration φ follows the Cahn–Hilliard equation,

    .. math:: \frac{\partial \phi}{\partial t} = \nabla^2 (\phi^3 - \phi) - \gamma \nabla^4 \phi .

    The equation conserves the mean of φ and lowers the free energy
    :math:`F = \int \frac{\phi^4}{4} - \frac{\phi^2}{2} + \frac{\gamma}{2} |\nabla\phi|^2`. The phases that form are
    near φ = -1 and φ = 1, and the interfaces between them are about √γ wide.

    Parameters
    ----------
    dx : float or sequence of float, default 0.25
        Spacing of the voxels: one number for all axes, or one for each axis.
    gamma : float, default 1
        Gradient energy γ, in the squared unit of `dx`.
    dt : float, default 0.001
        Time step. Every time step is stable as long as ``|φ|`` ≤ √(5/3) ≈ 1.29, and the phases lie within these limits.
        Concentrations beyond them may need a small time step. The error is of first order in `dt`.

    Attributes
    ----------
    response : array, shape (n_samples, *spatial)
        Concentrations after `run`, as an array of the same kind as its input.

    Notes
    -----
    Derivatives are spectral, and a step takes two Fourier transforms. All steps of a sample are taken inside one task.
    The task holds its block, its result and four fields of one batch of samples. float32 input is computed in float32,
    and all other input in float64.

    References
    ----------
    Cheng, M., Rutenberg, A. D. Maximally fast coarsening algorithms. Phys. Rev. E 72 (2005) 055701(R).
    Vollmayr-Lee, B. P., Rutenberg, A. D. Fast and accurate coarsening simulation with an unconditionally stable time
    step. Phys. Rev. E 68 (2003) 066703.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).uniform(-1, 1, size=(1, 32, 32))
    >>> simulation = CahnHilliardSimulation(dx=0.5, gamma=1.0, dt=0.01).run(X, n_steps=100)
    >>> bool(np.isclose(simulation.response.mean(), X.mean()))
    True
    >>> bool(simulation.free_energy(simulation.response) < simulation.free_energy(X))
    True
    """

    response: Any

    def __init__(self, dx: float | Sequence[float] = 0.25, gamma: float = 1.0, dt: float = 0.001) -> None:
        self.dx = dx
        self.gamma = gamma
        self.dt = dt

    @checked
    def run(self, X: ArrayLike, n_steps: int = 1) -> Self:
        """Evolve concentrations in time. Lazy input gives a lazy result.

        Parameters
        ----------
        X : array, shape (n_samples, *spatial)
            Initial concentrations φ, with 1 to 3 spatial axes of any lengths.
        n_steps : int, default 1
            Number of time steps.

        Returns
        -------
        CahnHilliardSimulation
            The simulation itself, with the result as `response`.

        Raises
        ------
        TypeError
            If `X` is complex.
        ValueError
            If `X` does not have 1 to 3 spatial axes, or may be one image without an axis of samples, or a parameter is
            out of range. When a block is computed: if it holds NaN or infinite values, or the steps diverge.
        """
        data, labels = self._samples(X)
        kernel = _Evolution(self._spacing(data), *self._parameters(), int(n_steps))
        result = map_samples(kernel, data, tail=data.shape[1:], dtype=_precision(data.dtype), name="cahn-hilliard")
        self.response = label_alike(result, labels, data.ndim - 1, name="concentration")
        return self

    def free_energy(self, X: ArrayLike) -> Any:
        """Compute the free energy F of concentrations. Lazy input gives a lazy result.

        Parameters
        ----------
        X : array, shape (n_samples, *spatial)
            Concentrations φ.

        Returns
        -------
        array of the kind of `X`, shape (n_samples,), float64
            Free energy of each sample.

        Raises
        ------
        TypeError, ValueError
            As `run`.
        """
        data, labels = self._samples(X)
        kernel = partial(_free_energy, dx=self._spacing(data), gamma=self._parameters()[0])
        result = map_samples(kernel, data, tail=(), dtype=np.float64, name="free_energy")
        return label(result, labels, dims=(), coords={}, name="free_energy")

    def _samples(self, X: ArrayLike) -> tuple[Any, Any]:
        """Split X into data and labels. The spacing of one axis says that X holds lines."""
        data, labels = unwrap_samples(X)
        if numbers_argument(self.dx, "dx").ndim == 0:
            refuse_ambiguous_lines(X, data.shape[1:], labels, argument="dx")
        return data, labels

    def _parameters(self) -> tuple[float, float]:
        for name in ("gamma", "dt"):
            value = getattr(self, name)
            if not (is_number(value) and value > 0):
                msg = f"{name} must be a positive number, got {value!r}"
                raise ValueError(msg)
        return float(self.gamma), float(self.dt)

    def _spacing(self, data: Any) -> tuple[float, ...]:
        n_spatial = data.ndim - 1
        if not 1 <= n_spatial <= 3 or 0 in data.shape[1:]:
            msg = (
                "X must have shape (n_samples, *spatial), with 1 to 3 spatial axes of voxels, got shape "
                f"{tuple(data.shape)}"
            )
            raise ValueError(msg)
        if data.dtype.kind == "c":
            msg = f"X must hold real concentrations, got dtype {data.dtype}; pass X.real"
            raise TypeError(msg)
        dx = numbers_argument(self.dx, "dx")
        if dx.shape not in ((), (n_spatial,)) or not (np.isfinite(dx).all() and (dx > 0).all()):
            msg = f"dx must be one positive number, or one for each of the {n_spatial} axes of X, got {self.dx!r}"
            raise ValueError(msg)
        return tuple(np.broadcast_to(dx, n_spatial).tolist())
