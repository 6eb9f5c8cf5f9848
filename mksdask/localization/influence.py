"""NumPy kernels that fit influence kernels: p[s] = Σ_h Σ_r α[h; r] m[h; s - r].

`calibrate` turns blocks of samples into least-squares factors, and `gather` into the rows that these replace.
`influence_kernels` solves either for α. All work in Fourier space, where the convolution is a product.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import scipy.fft

from mksdask.arrays import Array
from mksdask.localization.expansion import Expansion, FieldFFT
from mksdask.localization.least_squares import SOLVE_TILE, absorb, empty_factor, solve
from mksdask.localization.linear_models import ridge_of, solve_with
from mksdask.localization.ridge import Filters
from mksdask.localization.series import Series


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
    # The part of it at zero frequency.
    outside_of_mean: float = 0.0
    # Σ [M | P] of the zero frequency over samples. Components come last.
    sums: Any = 0.0

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
        self.outside_of_mean += float(left_of_mean[0])
        self.n_samples += n_samples

    def merge(self, other: Calibration) -> Calibration:
        """Combine the factors of two sets of samples."""
        merged = self.copy()
        merged.absorb(other.waves, other.mean, other.n_samples)
        merged.outside += other.outside
        merged.outside_of_mean += other.outside_of_mean
        merged.sums = self.sums + other.sums
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

    @property
    def sums(self) -> Array:
        """Σ [M | P] of the zero frequency over samples. Components come last."""
        return np.asarray(self.mean[..., 0].sum(axis=0))

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
        waves, mean = _rows(samples[batch], responses[batch], expansion)
        factors.absorb(waves, mean, len(samples[batch]))
        factors.sums = factors.sums + mean[..., 0].sum(axis=0)
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


@dataclass
class _Problems:
    """Least-squares problems as they are solved: those of all frequencies but zero, or that of the zero frequency.

    Parameters
    ----------
    rows : ndarray, shape (n, n_unknowns + n_components, n_problems)
        Rows [M | P] of each problem, or their factor.
    coordinates : ndarray, shape (n_unknowns, n_coordinates)
        M · coordinates · c = P is solved for c.
    floor : float
        Singular values, or norms of all rows, up to it are rounding errors.
    scales : ndarray, shape (n_coordinates, n_problems), or None
        Factors of c. If there are any, the rows hold M · coordinates with columns of unit norm.
    """

    rows: Array
    coordinates: Array
    floor: float
    scales: Array | None = None

    def scaled(self, n_plain: int, noise: Array, means: Array, epsilon: float) -> _Problems:
        """Scale the columns of M · coordinates to unit norm, the first `n_plain` of them together.

        Columns whose norm is a rounding error become 0, and so do their coordinates. The first `n_plain` columns have
        the floor of the problems. The others are products, with rounding errors of about `noise` at each frequency,
        and of the rounding unit times `means` times the first columns at the same frequency.
        """
        n_unknowns, n = self.coordinates.shape
        width = self.rows.shape[1] - n_unknowns + n
        rows = np.empty((len(self.rows), width, self.rows.shape[-1]), dtype=self.rows.dtype)
        norms = np.zeros((n, rows.shape[-1]))
        for scaled, row in zip(rows, self.rows, strict=True):
            scaled[:n] = np.einsum("uf,uc->cf", row[:n_unknowns], self.coordinates)
            scaled[n:] = row[n_unknowns:]
            norms += np.abs(scaled[:n].astype(np.complex128)) ** 2
        if n_plain:
            norms[:n_plain] = norms[:n_plain].mean(axis=0)
        norms = np.sqrt(norms)
        scales = np.zeros_like(norms)
        for column, norm in enumerate(norms):
            floor: Any = self.floor
            if column >= n_plain:
                product = column - n_plain
                floor = noise[product] + (16.0 * epsilon * means[product] * norms[0] if n_plain else 0.0)
            np.divide(1.0, norm, out=scales[column], where=norm > floor)
        rows[:, :n] *= scales
        return _Problems(rows, np.eye(n), 0.0, scales)

    def unscaled(self, solution: Array) -> Array:
        """Return the coordinates c of a solution."""
        return solution if self.scales is None else (solution * self.scales[:, None]).astype(solution.dtype)


def _chosen_ridge(
    calibration: Calibration, waves: _Problems, mean: _Problems, *, rcond: float, epsilon: float
) -> float:
    """Choose one ridge for all frequencies by generalized cross-validation."""
    transform, n_frequencies = calibration.transform, calibration.waves.shape[-1]
    multiplicity = transform.multiplicity
    weights = np.tile(multiplicity, n_frequencies // len(multiplicity))
    filters = Filters(calibration.outside, float(calibration.n_samples * np.prod(transform.spatial)))
    # `mean` holds the zero frequency.
    filters.add(waves.rows[..., 1:], waves.coordinates, weights[1:], rcond=rcond, floor=waves.floor)
    filters.add(mean.rows, mean.coordinates, np.ones(1), rcond=rcond, floor=mean.floor)
    return filters.choose(epsilon)


def _explained(
    calibration: Calibration | Spectra, coordinates: Array, solution: Array, transform: FieldFFT
) -> float | None:
    """Compute the share of Σ |P|², over all frequencies except zero, that kernels explain. None if there is nothing."""
    n_unknowns, n_frequencies = len(coordinates), solution.shape[-1]
    weights = np.tile(transform.multiplicity, n_frequencies // len(transform.multiplicity))
    weights[0] = 0.0
    left = calibration.outside - calibration.outside_of_mean if isinstance(calibration, Calibration) else 0.0
    total = left
    for start in range(0, n_frequencies, SOLVE_TILE):
        part = slice(start, start + SOLVE_TILE)
        unknowns = np.einsum("uc,ctf->utf", coordinates, solution[..., part])
        for row in calibration.waves[..., part]:
            wanted = row[n_unknowns:].astype(np.complex128)
            total += float((np.abs(wanted) ** 2).sum(axis=0) @ weights[part])
            wanted -= (row[:n_unknowns, None] * unknowns).sum(axis=0)
            left += float((np.abs(wanted) ** 2).sum(axis=0) @ weights[part])
    return 1.0 - left / total if total > 0 else None


def _refuse_overflow(*found: Array) -> None:
    """Refuse factors or kernels that are not finite."""
    if not all(np.isfinite(part).all() for part in found):
        msg = "the kernels overflow: X and y differ by too many orders of magnitude; scale one of them"
        raise ValueError(msg)


class Kernels(NamedTuple):
    """Influence kernels, the ridge with which they were solved, and the share of the fluctuation that they explain."""

    values: Array  # (*spatial, n_states, n_components), with lag 0 in the centre
    ridge: float | None
    explained: float | None


def influence_kernels(
    calibration: Calibration | Spectra,
    expansion: Series,
    *,
    ridge: float | str,
    rcond: float | None,
    linear_model: Any = None,
    is_scaled: bool = False,
) -> Kernels:
    """Solve the problems at all frequencies for the influence kernels α[h; r]: by least squares, or by a linear model.

    Parameters
    ----------
    calibration : Calibration or Spectra
        Factors of all samples, or their rows if the linear model needs these.
    expansion : Series
        The expansion that made them.
    ridge : float or "gcv"
        Weight of Σ_h Σ_r α[h; r]² beside the squared error. "gcv" chooses it, see `Filters`.
    rcond : float or None
        Singular values below `rcond` times the largest of their frequency count as zero. Default: 10 n_states times
        the rounding unit, or the root of the rounding unit if columns are scaled.
    linear_model : estimator, optional
        A linear model of scikit-learn. Default: the least-squares solution of least norm.
    is_scaled : bool
        Whether the columns of states are scaled to unit norm at each frequency. Ridge and norms belong to the scaled
        columns.

    Returns
    -------
    Kernels
        Kernels of all states. The ridge is None if the linear model has another penalty.

    Raises
    ------
    ValueError
        If the transforms or the kernels overflow.
    """
    transform, n_states = expansion.transform, expansion.n_states
    n_components = calibration.mean.shape[1] - n_states
    epsilon = float(np.finfo(expansion.dtype).eps)
    # The factors have n_states columns, so the threshold does not depend on the number of samples.
    if rcond is None:
        rcond = float(np.sqrt(epsilon)) if is_scaled else 10.0 * epsilon * n_states
    n_products = len(expansion.products)
    states = calibration.waves[:, : len(expansion.transformed) - n_products]
    # By Parseval, the transforms carry rounding errors of about this size at each frequency.
    squares = sum(float(np.linalg.norm(row.astype(np.complex128)) ** 2) for column in states for row in column)
    floor = 4.0 * epsilon * float(np.sqrt(squares / states.shape[-1]))
    if not np.isfinite(floor):
        msg = f"X has values so large that transforms in {expansion.dtype} overflow; scale X, or pass y in float64"
        raise ValueError(msg)
    # A factor holds NaN if squares of its rows overflowed.
    _refuse_overflow(*calibration.waves, calibration.mean)
    # The columns are orthonormal and span Σ_h w_h α_h = 0, so the norm of coordinates is the norm of the kernels.
    span, found = expansion.span, ridge_of(linear_model, ridge)
    if found is None:
        span = np.eye(n_states)
    coordinates = expansion.reduce(span)
    waves = _Problems(calibration.waves, coordinates, floor)
    mean = _Problems(calibration.mean, np.eye(n_states), 0.0)
    if is_scaled:
        columns = calibration.waves[:, len(expansion.transformed) - n_products : len(expansion.transformed)]
        means = np.array([abs(expansion.mean[c or 0]) for _, c in expansion.products])  # type: ignore[index]
        sums = sum(np.linalg.norm(row.astype(np.complex128), axis=-1) ** 2 for row in columns)
        noise = 4.0 * epsilon * np.sqrt(sums / columns.shape[-1]) + floor * means
        waves = waves.scaled(coordinates.shape[1] - n_products, noise, means, epsilon)
        mean = mean.scaled(n_states - n_products, noise, means, epsilon)
    if isinstance(found, str):
        assert isinstance(calibration, Calibration)
        found = _chosen_ridge(calibration, waves, mean, rcond=rcond, epsilon=epsilon)
    solutions = []
    for problems in (waves, mean):
        rows, along, least = problems.rows, problems.coordinates, problems.floor
        if found is None:
            solution = solve_with(linear_model, rows, along, n_rows=calibration.n_samples, floor=least)
        else:
            solution = solve(rows, along, rcond=rcond, floor=least, ridge=found)
        solutions.append(problems.unscaled(solution))
    solved, of_mean = solutions
    kernels = np.empty((*transform.spatial, n_states, n_components), dtype=expansion.field_dtype)
    for h, c in np.ndindex(n_states, n_components):
        spectrum = np.tensordot(span[h], solved[:, c], axes=1).astype(expansion.spectral_dtype)
        spectrum[0] = of_mean[h, c, 0]
        kernels[..., h, c] = scipy.fft.fftshift(transform.inverse(spectrum.reshape(transform.frequencies)))
    _refuse_overflow(kernels)
    return Kernels(kernels, found, _explained(calibration, coordinates, solved, transform))
