"""NumPy kernels that apply influence kernels: `localize` computes the response p of a block of samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import scipy.fft

from mksdask.arrays import Array
from mksdask.localization.expansion import Expansion, FieldFFT


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


def respond(spectra: Iterable[Array], n: int, transfer: Array, offset: Array, transform: FieldFFT) -> Iterator[Array]:
    """Compute the response of a batch of n samples, one component after the other.

    Parameters
    ----------
    spectra : iterable of ndarray, shape (n, *frequencies)
        Spectra of the transformed states.
    n : int
        Number of samples.
    transfer : ndarray, shape (n_transformed, n_components, *frequencies)
        Spectra by which they are multiplied.
    offset : ndarray, shape (n_components,)
        The part of the response that is the same in all voxels.
    transform : FieldFFT
        The transform of the spectra.

    Yields
    ------
    ndarray, shape (n, *spatial)
    """
    sums = [np.zeros((n, *transform.frequencies), dtype=transfer.dtype) for _ in offset]
    for state, spectrum in enumerate(spectra):
        for total, response in zip(sums, transfer[state], strict=True):
            total += spectrum * response
        del spectrum
    for component in range(len(offset)):
        yield transform.inverse(sums.pop(0)) + offset[component]


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
    for batch in transform.batches(len(samples)):
        spectra = expansion.spectra(samples[batch])
        for component, field in enumerate(respond(spectra, len(samples[batch]), transfer, offset, transform)):
            out[batch][..., component] = field if dtype.kind == "c" else field.real
            del field
    return out.reshape(len(samples), *shape)
