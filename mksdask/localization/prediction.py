"""The prediction of local responses by influence kernels, and its score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from mksdask.arrays import Array
from mksdask.compute.blocks import array_of, computed, map_samples
from mksdask.compute.operation import Operation
from mksdask.compute.plans import Limit, Plan, SampleWork, chunk_layout, fft_operations
from mksdask.localization.expansion import Expansion
from mksdask.localization.response import localize, transfer_function, uniform_response
from mksdask.localization.series import Series
from mksdask.samples import Samples

# Attributes of samples that say where their voxels lie. They hold for fields on these voxels too.
GEOMETRY = ("origin", "periodic_axes", "periods")


def _moments(predicted: Array, truth: Array, weights: Array) -> Array:
    """Compute weight, mean, scatter and squared error of each component, sample by sample.

    The result is complex and has shape (n, 4, n_components).
    """
    out = np.zeros((len(truth), 4, truth.shape[-1]), dtype=np.complex128)
    axes = tuple(range(truth.ndim - 2))
    for row, guess, field, weight in zip(out, predicted, truth, weights, strict=True):
        wide = np.result_type(field, np.float64)
        mean = field.mean(axis=axes, dtype=wide)
        # The mean of a field is finite only if all its values are.
        if not (np.isfinite(mean).all() and np.isfinite(guess.mean(axis=axes)).all()):
            msg = "y or the prediction holds NaN or infinite values; leave out the samples that have them"
            raise ValueError(msg)
        row[0], row[1] = weight * (field.size // field.shape[-1]), mean
        row[2] = weight * (np.abs(field - mean) ** 2).sum(axis=axes)
        row[3] = weight * (np.abs(field.astype(wide) - guess) ** 2).sum(axis=axes)
    return out


def r2_of_fields(predicted: Sequence[Any], truth: Any, weights: Array) -> Array:
    """Compute R² over all voxels of all samples, averaged over components. Lazy fields are computed once.

    Parameters
    ----------
    predicted : sequence of ndarray or dask array, shape (n_samples, *spatial, n_components)
        Predictions to compare.
    truth : ndarray or dask array, shape (n_samples, *spatial, n_components)
        True responses.
    weights : ndarray, shape (n_samples,)
        Weight of each sample.

    Returns
    -------
    ndarray, shape (n_predictions,)

    Raises
    ------
    ValueError
        If a value is NaN or infinite.
    """
    tail = (4, truth.shape[-1])
    parts = [
        map_samples(_moments, fields, truth, weights, tail=tail, dtype=np.complex128, name="score")
        for fields in predicted
    ]
    return np.array([_r2(moments) for moments in computed(parts)])


def _r2(moments: Array) -> float:
    """Compute R² from the moments of all samples, (n, 4, n_components)."""
    weight, mean, scatter, residual = np.moveaxis(moments, 1, 0)
    weight, scatter, residual = weight.real, scatter.real.sum(axis=0), residual.real.sum(axis=0)
    scatter += (weight * np.abs(mean - (weight * mean).sum(axis=0) / weight.sum(axis=0)) ** 2).sum(axis=0)
    is_constant = scatter == 0
    missed = np.where(is_constant, residual > 0, residual / np.where(is_constant, 1.0, scatter))
    return float((1.0 - missed).mean())


def _localize_to_order(
    samples: Array, *shared: Array, expansion: Series, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> Array:
    """Compute the response of a block by a series. `shared` holds two arrays of each order, and the mean response."""
    *arrays, mean = shared
    below, last = list(zip(arrays[:-2:2], arrays[1:-2:2], strict=True)), arrays[-2:]
    return localize(samples, *last, expansion=expansion.following(mean, below), dtype=dtype, shape=shape)


@dataclass(frozen=True)
class Predict(Operation[Any]):
    """The checked arguments of `predict`."""

    model: Any
    samples: Samples
    expansion: Expansion
    dtype: np.dtype[Any]
    order: int

    def series(self, order: int) -> Series:
        """Make the expansion of an order, without the kernels of the orders below."""
        return Series.after(self.expansion, order, self.model._kernels[0].shape[-1])

    @property
    def work(self) -> SampleWork:
        """Memory and operations of a task: its results, the transfer functions, and the transforms of a batch."""
        expansion, transform = self.series(self.order), self.expansion.transform
        n_components = expansion.n_components
        spectrum = int(np.prod(transform.frequencies)) * expansion.spectral_dtype.itemsize
        n_voxels, n_transformed = int(np.prod(transform.spatial)), len(expansion.transformed)
        result = n_voxels * n_components * self.dtype.itemsize
        shared = n_transformed * n_components * spectrum + expansion.lower_bytes
        batch = (n_components + 3) * spectrum + expansion.batch_bytes
        return SampleWork(
            "localize",
            self.samples.sample_bytes,
            lambda n: n * result + shared + min(n, transform.batch) * batch,
            result,
            expansion.n_transforms * fft_operations(transform.spatial, real=transform.real)
            + 8.0 * n_transformed * n_components * np.prod(transform.frequencies),
        )

    def plan(self, limit: Limit) -> Plan:
        """Plan one task for each chunk."""
        data = self.samples.data
        stage = self.work.stage(data, limit)
        return Plan("MKSLocalizationModel.predict", chunk_layout(data, stage), (stage,), limit)

    def run(self) -> Any:
        """Predict the fields. They are labelled if the samples are."""
        model, samples = self.model, self.samples
        extra_dims, extra_coords = model._response_labels
        tail, dims = (*samples.spatial, *model._components), (*samples.grid.dims, *extra_dims)
        coords = samples.spatial_coords | extra_coords
        attrs = {key: samples.attrs[key] for key in GEOMETRY if key in samples.attrs} | model._quantity
        if samples.is_flat:
            tail, dims = (int(np.prod(samples.spatial)) * model._kernels[0].shape[-1],), ("voxel",)
            coords, attrs = {}, model._quantity
        levels = self._transfers()
        kernel: Any = partial(localize, expansion=self.expansion)
        shared: Sequence[Any] = levels[0]
        if self.order > 1:
            kernel = partial(_localize_to_order, expansion=self.series(self.order))
            shared = (*chain.from_iterable(levels), model._mean)
        predicted = map_samples(
            partial(kernel, dtype=self.dtype, shape=tail),
            self.work.fitting(samples.data),
            tail=tail,
            dtype=self.dtype,
            name="localize",
            shared=shared,
        )
        return samples.label(predicted, dims=dims, coords=coords, name="prediction", attrs=attrs)

    def _transfers(self) -> list[tuple[Any, Array]]:
        """Compute the transfer function and the uniform response of each order.

        The functions are tasks of the graph, or are computed at once, and then the model keeps them. Loops over time
        steps call `predict` many times with the same kernels.
        """
        model, expansion = self.model, self.expansion
        levels = [(self.series(order), model._kernels[order - 1]) for order in range(1, self.order + 1)]
        if self.samples.is_lazy:
            found = []
            for series, kernels in levels:
                shape = (len(series.transformed), kernels.shape[-1], *expansion.transform.frequencies)
                function = partial(transfer_function, expansion=series)
                transfer = array_of(
                    kernels, shape, expansion.spectral_dtype, name="transfer-function", function=function
                )
                found.append((transfer, uniform_response(kernels, series)))
            return found
        key = (expansion.transform, expansion.n_states)
        if model._kept_transfer is None or model._kept_transfer[0] != key:
            model._kept_transfer = key, []
        kept: list[tuple[Array, Array]] = model._kept_transfer[1]
        for series, kernels in levels[len(kept) :]:
            kept.append((transfer_function(kernels, expansion=series), uniform_response(kernels, series)))
        return kept[: self.order]
