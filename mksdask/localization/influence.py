"""NumPy kernels that fit and apply influence kernels: p[s] = Σ_h Σ_r α[h; r] m[h; s - r].

`calibrate` turns blocks of samples into least-squares factors, and `gather` into the rows that these replace.
`influence_kernels` solves either for α, and `localize` computes the response p of a block. All work in Fourier space,
where the convolution is a product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.fft
import scipy.linalg

from mksdask.arrays import Array
from mksdask.localization.expansion import Expansion, FieldFFT
from mksdask.localization.least_squares import absorb, empty_factor, solve
from mksdask.localization.linear_models import ridge_of, solve_with
from mksdask.localization.ridge import Filters


def _sums(spectra: Array, n_spatial: int) -> Array:
    """Select the zero frequency of spectra (..., *frequencies). It holds the sums of the fields."""
    zero: tuple[Any, ...] = (..., *(0,) * n_spatial)
    return np.asarray(spectra[zero])


def _finite(spectra: Array, name: str, n_spatial: int) -> Array:
    """Return the spectra, or refuse them if the sum of a field is not finite: then some of its values are not."""
    if not np.isfinite(_sums(spectra, n_spatial)).all():
        msg = f"{name} holds NaN or infinite values; leave out the samples that have them"
        raise ValueError(msg)
    return spectra


@dataclass
class Calibration:
    """Least-squares factors of all samples seen so far. The problem at each frequency has its own factor.

    If Σ_h w_h m[h; s] = 1 holds in the basis, then Σ_h w_h M[h; k] = 0 at all frequencies except zero. Therefore
    `waves` holds one state fewer. `mean` holds the zero frequency, with all states.
    """

    waves: Array  # (n_transformed, n_transformed + n_components, n_frequencies)
    mean: Array  # (n_states, n_states + n_components, 1)
    n_samples: int
    transform: FieldFFT
    # Σ |P|² of what no kernels explain, over samples, components and all frequencies of the full spectrum.
    outside: float = 0.0

    @classmethod
    def empty(cls, expansion: Expansion, n_components: int) -> Calibration:
        """Make the factors of no samples."""
        transform, n_states, n_transformed = expansion.transform, expansion.n_states, len(expansion.transformed)
        n_frequencies = int(np.prod(transform.frequencies))
        waves = empty_factor(n_transformed, n_components, n_frequencies, expansion.spectral_dtype)
        # The zero frequency needs double precision, which costs little there.
        return cls(waves, empty_factor(n_states, n_components, 1, np.complex128), 0, transform)

    def copy(self) -> Calibration:
        """Copy the factors, so that samples can be added to the copy."""
        return replace(self, waves=self.waves.copy(), mean=self.mean.copy())

    def absorb(self, waves: Array, mean: Array, n_samples: int) -> None:
        """Update the factors in place with further rows, or with other factors."""
        left, left_of_mean = np.zeros(waves.shape[-1]), np.zeros(1)
        absorb(self.mean, mean, left_of_mean)
        absorb(self.waves, waves, left)
        left[0] = 0.0  # `mean` holds the zero frequency.
        multiplicity = self.transform.multiplicity
        left = left.reshape(-1, len(multiplicity)).sum(axis=0)
        self.outside += float((left * multiplicity).sum() + left_of_mean[0])
        self.n_samples += n_samples

    def merge(self, other: Calibration) -> Calibration:
        """Combine the factors of two sets of samples."""
        merged = self.copy()
        merged.absorb(other.waves, other.mean, other.n_samples)
        merged.outside += other.outside
        return merged


@dataclass
class Spectra:
    """The rows of all samples seen so far, for linear models that need more than their factors."""

    waves: Array  # (n_samples, n_transformed + n_components, n_frequencies)
    mean: Array  # (n_samples, n_states + n_components, 1)

    @property
    def n_samples(self) -> int:
        """Number of samples."""
        return len(self.mean)

    def merge(self, other: Spectra) -> Spectra:
        """Combine the rows of two sets of samples."""
        return Spectra(np.concatenate([self.waves, other.waves]), np.concatenate([self.mean, other.mean]))


def _rows(samples: Array, responses: Array, expansion: Expansion) -> tuple[Array, Array]:
    """Compute the rows [M | P] of a batch of samples: at all frequencies, and at the zero frequency with all states.

    Their shapes are those of `Spectra`.
    """
    transform, n_states, n_transformed = expansion.transform, expansion.n_states, len(expansion.transformed)
    (n_rows, *_, n_components), n_spatial = responses.shape, len(transform.spatial)
    n_voxels = int(np.prod(transform.spatial))
    width = n_transformed + n_components
    rows = np.empty((n_rows, width, *transform.frequencies), dtype=expansion.spectral_dtype)
    for state, spectrum in enumerate(expansion.spectra(samples)):
        rows[:, state] = spectrum
    for component in range(n_components):
        field = responses[..., component].astype(expansion.field_dtype)
        rows[:, n_transformed + component] = _finite(transform.forward(field), "y", n_spatial)
    sums = _sums(rows, n_spatial).astype(np.complex128)
    means = np.empty((n_rows, n_states + n_components, 1), dtype=np.complex128)
    means[:, expansion.transformed, 0] = sums[:, :n_transformed]
    means[:, n_states:, 0] = sums[:, n_transformed:]
    if expansion.unity is not None:
        others = sums[:, :n_transformed] @ expansion.unity[expansion.transformed]
        means[:, expansion.derived, 0] = (n_voxels - others) / expansion.unity[expansion.derived]
    return rows.reshape(n_rows, width, int(np.prod(transform.frequencies))), means


def calibrate(
    samples: Array, responses: Array, seen: Calibration | None = None, *, expansion: Expansion
) -> Calibration:
    """Compute the least-squares factors of a block of samples, together with the samples `seen` before.

    Parameters
    ----------
    samples : ndarray, shape (n, *spatial)
        Local states of the block.
    responses : ndarray, shape (n, *spatial, n_components)
        Response of each voxel.
    seen : Calibration, optional
        Factors of the samples before. They are not changed.
    expansion : Expansion
        Computes the spectra of samples.

    Returns
    -------
    Calibration
        Factors of the samples seen before and of the block.

    Raises
    ------
    ValueError
        If a value is not finite, or lies outside the domain of the basis.
    """
    factors = Calibration.empty(expansion, responses.shape[-1]) if seen is None else seen.copy()
    for batch in expansion.transform.batches(len(samples)):
        factors.absorb(*_rows(samples[batch], responses[batch], expansion), len(samples[batch]))
    return factors


def gather(samples: Array, responses: Array, seen: Spectra | None = None, *, expansion: Expansion) -> Spectra:
    """Compute the rows of a block of samples, together with those `seen` before. The arguments are as in `calibrate`.

    Raises
    ------
    ValueError
        As in `calibrate`.
    """
    batches = expansion.transform.batches(len(samples)) or [slice(0)]
    found = [Spectra(*_rows(samples[batch], responses[batch], expansion)) for batch in batches]
    found = found if seen is None else [seen, *found]
    return Spectra(np.concatenate([part.waves for part in found]), np.concatenate([part.mean for part in found]))


def _chosen_ridge(calibration: Calibration, coordinates: Array, *, rcond: float, floor: float, epsilon: float) -> float:
    """Choose one ridge for all frequencies by generalized cross-validation."""
    transform, n_frequencies = calibration.transform, calibration.waves.shape[-1]
    multiplicity = transform.multiplicity
    weights = np.tile(multiplicity, n_frequencies // len(multiplicity))
    filters = Filters(calibration.outside, float(calibration.n_samples * np.prod(transform.spatial)))
    # `mean` holds the zero frequency.
    filters.add(calibration.waves[..., 1:], coordinates, weights[1:], rcond=rcond, floor=floor)
    filters.add(calibration.mean, np.eye(len(calibration.mean)), np.ones(1), rcond=rcond, floor=0.0)
    return filters.choose(epsilon)


def influence_kernels(
    calibration: Calibration | Spectra,
    expansion: Expansion,
    *,
    ridge: float | str,
    rcond: float | None,
    linear_model: Any = None,
) -> tuple[Array, float | None]:
    """Solve the problems at all frequencies for the influence kernels α[h; r]: by least squares, or by a linear model.

    Parameters
    ----------
    calibration : Calibration or Spectra
        Factors of all samples, or their rows if the linear model needs these.
    expansion : Expansion
        The expansion that made them.
    ridge : float or "gcv"
        Weight of Σ_h Σ_r α[h; r]² beside the squared error. "gcv" chooses it, see `Filters`.
    rcond : float or None
        Singular values below `rcond` times the largest of their frequency count as zero. Default: 10 n_states times
        the rounding unit.
    linear_model : estimator, optional
        A linear model of scikit-learn. Default: the least-squares solution of least norm.

    Returns
    -------
    kernels : ndarray, shape (*spatial, n_states, n_components)
        Kernels with lag 0 in the centre.
    ridge : float or None
        The ridge with which they were solved. None if the linear model has another penalty.

    Raises
    ------
    ValueError
        If the transforms or the kernels overflow.
    """
    transform, n_states = expansion.transform, expansion.n_states
    n_components = calibration.mean.shape[1] - n_states
    epsilon = float(np.finfo(expansion.dtype).eps)
    # The factors have n_states columns, so the threshold does not depend on the number of samples.
    rcond = 10.0 * epsilon * n_states if rcond is None else rcond
    states = calibration.waves[:, : len(expansion.transformed)]
    # By Parseval, the transforms carry rounding errors of about this size at each frequency.
    squares = sum(float(np.linalg.norm(row.astype(np.complex128)) ** 2) for column in states for row in column)
    floor = 4.0 * epsilon * float(np.sqrt(squares / states.shape[-1]))
    if not np.isfinite(floor):
        msg = f"X has values so large that transforms in {expansion.dtype} overflow; scale X, or pass y in float64"
        raise ValueError(msg)
    # The columns are orthonormal and span Σ_h w_h α_h = 0, so the norm of coordinates is the norm of the kernels.
    span = np.eye(n_states) if expansion.unity is None else scipy.linalg.null_space(expansion.unity[None])
    found = ridge_of(linear_model, ridge)
    if isinstance(found, str):
        assert isinstance(calibration, Calibration)
        found = _chosen_ridge(calibration, expansion.reduce(span), rcond=rcond, floor=floor, epsilon=epsilon)
    if found is None:
        span, n_rows = np.eye(n_states), calibration.n_samples
        waves = solve_with(linear_model, calibration.waves, expansion.reduce(span), n_rows=n_rows, floor=floor)
        mean = solve_with(linear_model, calibration.mean, span, n_rows=n_rows, floor=0.0)
    else:
        waves = solve(calibration.waves, expansion.reduce(span), rcond=rcond, floor=floor, ridge=found)
        mean = solve(calibration.mean, np.eye(n_states), rcond=rcond, floor=0.0, ridge=found)
    kernels = np.empty((*transform.spatial, n_states, n_components), dtype=expansion.field_dtype)
    for h, c in np.ndindex(n_states, n_components):
        spectrum = np.tensordot(span[h], waves[:, c], axes=1).astype(expansion.spectral_dtype)
        spectrum[0] = mean[h, c, 0]
        kernels[..., h, c] = scipy.fft.fftshift(transform.inverse(spectrum.reshape(transform.frequencies)))
    if not np.isfinite(kernels).all():
        msg = "the kernels overflow: X and y differ by too many orders of magnitude; scale one of them"
        raise ValueError(msg)
    return kernels, found


def kernels_argument(
    kernels: Array, *, n_states: int | None, n_spatial: int | None, components: tuple[int, ...]
) -> Array:
    """Copy kernels that a user gives, (*spatial, n_states, *components), as real or complex numbers.

    `n_states` and `n_spatial` are None if any number of states, or of spatial axes, is right.

    Raises
    ------
    ValueError
        If the shape is wrong, or a value is not finite.
    """
    values = np.array(kernels)
    if values.dtype.kind in "biu":
        values = values.astype(np.float64)
    n_axes = values.ndim - 1 - len(components)
    if (
        not 1 <= n_axes <= 3
        or n_axes != (n_axes if n_spatial is None else n_spatial)
        or values.dtype.kind not in "fc"
        or not values.size
        or (n_states is not None and values.shape[n_axes] != n_states)
        or values.shape[n_axes + 1 :] != components
    ):
        tail = ", ".join(map(str, (n_states or "n_states", *components)))
        msg = (
            f"coef_ must be (*spatial, {tail}) with {n_spatial or '1 to 3'} spatial axes, got shape {values.shape} of "
            f"{values.dtype}"
        )
        raise ValueError(msg)
    if not np.isfinite(values).all():
        msg = "coef_ holds NaN or infinite values"
        raise ValueError(msg)
    return values


def resized(kernels: Array, size: Sequence[int]) -> Array:
    """Pad kernels with zeros to a larger domain. Lag 0 is in the centre again."""
    for axis, (n, wanted) in enumerate(zip(kernels.shape, size, strict=False)):
        if n == wanted:
            continue
        if n % 2 == 0:
            # Lags -n/2 and n/2 of a periodic kernel are the same. On the larger domain each gets half of its value.
            half = np.take(kernels, [0], axis=axis) / 2
            kernels = np.concatenate([half, np.delete(kernels, 0, axis=axis), half], axis=axis)
        before = wanted // 2 - n // 2
        padding = [(0, 0)] * kernels.ndim
        padding[axis] = (before, wanted - before - kernels.shape[axis])
        kernels = np.pad(kernels, padding)
    return kernels


def transfer_function(kernels: Array, *, expansion: Expansion) -> Array:
    """Compute the spectra by which the spectra of the transformed states are multiplied.

    Parameters
    ----------
    kernels : ndarray, shape (*calibrated, n_states, n_components)
        Influence kernels. The samples to predict may have more voxels along each axis, but not fewer.
    expansion : Expansion
        The expansion of the samples to predict.

    Returns
    -------
    ndarray, shape (n_transformed, n_components, *frequencies)
    """
    transform = expansion.transform
    effective = expansion.reduce(np.moveaxis(kernels, (-2, -1), (0, 1)))
    out = np.empty((*effective.shape[:2], *transform.frequencies), dtype=expansion.spectral_dtype)
    for h, c in np.ndindex(out.shape[:2]):
        out[h, c] = transform.forward(scipy.fft.ifftshift(resized(effective[h, c], transform.spatial)))
    return out


def uniform_response(kernels: Array, expansion: Expansion) -> Array:
    """Compute the part of the response that is the same in all voxels, because Σ_h w_h m = 1: (n_components,)."""
    wide = np.result_type(kernels, np.float64)
    if expansion.unity is None:
        return np.zeros(kernels.shape[-1], dtype=wide)
    axes = tuple(range(kernels.ndim - 2))
    return np.asarray(
        kernels[..., expansion.derived, :].sum(axis=axes, dtype=wide) / expansion.unity[expansion.derived]
    )


def localize(
    samples: Array,
    transfer: Array,
    offset: Array,
    *,
    expansion: Expansion,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
) -> Array:
    """Compute the response p[s] of a block of samples.

    Parameters
    ----------
    samples : ndarray, shape (n, *spatial)
        Local states of the block.
    transfer : ndarray, shape (n_transformed, n_components, *frequencies)
        What `transfer_function` returns.
    offset : ndarray, shape (n_components,)
        What `uniform_response` returns.
    expansion : Expansion
        Computes the spectra of samples.
    dtype : dtype
        dtype of the result. If it is real, the imaginary part is dropped.
    shape : tuple of int
        Shape of the result for one sample: the axes of voxels and components, or one axis for flat samples.

    Returns
    -------
    ndarray, shape (n, *shape)
        Components come last.
    """
    transform = expansion.transform
    out = np.empty((len(samples), *transform.spatial, len(offset)), dtype=dtype)
    for start in range(0, len(samples), transform.batch):
        batch = slice(start, start + transform.batch)
        batch_shape = (len(samples[batch]), *transform.frequencies)
        sums = [np.zeros(batch_shape, dtype=expansion.spectral_dtype) for _ in offset]
        for state, spectrum in enumerate(expansion.spectra(samples[batch])):
            for total, response in zip(sums, transfer[state], strict=True):
                total += spectrum * response
            del spectrum
        for component in range(len(offset)):
            field = transform.inverse(sums.pop(0)) + offset[component]
            out[batch][..., component] = field if dtype.kind == "c" else field.real
            del field
    return out.reshape(len(samples), *shape)
