"""The prediction of local responses by influence kernels, and its score."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mksdask.arrays import Array, to_numpy
from mksdask.compute.blocks import array_of, map_samples
from mksdask.compute.operation import Operation
from mksdask.compute.plans import Limit, Plan, SampleWork, chunk_layout, fft_operations
from mksdask.localization.expansion import Expansion
from mksdask.localization.influence import localize, transfer_function, uniform_response
from mksdask.samples import Samples


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


def r2_of_fields(predicted: Any, truth: Any, weights: Array) -> float:
    """Compute R² over all voxels of all samples, averaged over components. Lazy fields are computed once.

    Parameters
    ----------
    predicted, truth : ndarray or dask array, shape (n_samples, *spatial, n_components)
        Predicted and true responses.
    weights : ndarray, shape (n_samples,)
        Weight of each sample.

    Raises
    ------
    ValueError
        If a value is NaN or infinite.
    """
    tail = (4, truth.shape[-1])
    parts = map_samples(_moments, predicted, truth, weights, tail=tail, dtype=np.complex128, name="score")
    weight, mean, scatter, residual = np.moveaxis(to_numpy(parts), 1, 0)
    weight, scatter, residual = weight.real, scatter.real.sum(axis=0), residual.real.sum(axis=0)
    scatter += (weight * np.abs(mean - (weight * mean).sum(axis=0) / weight.sum(axis=0)) ** 2).sum(axis=0)
    is_constant = scatter == 0
    missed = np.where(is_constant, residual > 0, residual / np.where(is_constant, 1.0, scatter))
    return float((1.0 - missed).mean())


@dataclass(frozen=True)
class Predict(Operation[Any]):
    """The checked arguments of `predict`."""

    model: Any
    samples: Samples
    expansion: Expansion
    dtype: np.dtype[Any]

    @property
    def work(self) -> SampleWork:
        """Memory and operations of a task: its results, the transfer function, and the transforms of a batch."""
        expansion, transform, n_components = self.expansion, self.expansion.transform, self.model._kernels.shape[-1]
        spectrum = int(np.prod(transform.frequencies)) * expansion.spectral_dtype.itemsize
        n_voxels, n_transformed = int(np.prod(transform.spatial)), len(expansion.transformed)
        result = n_voxels * n_components * self.dtype.itemsize
        shared, batch = n_transformed * n_components * spectrum, (n_components + 3) * spectrum
        transforms = (n_transformed + n_components) * fft_operations(transform.spatial, real=transform.real)
        return SampleWork(
            "localize",
            self.samples.sample_bytes,
            lambda n: n * result + shared + min(n, transform.batch) * batch,
            result,
            transforms + 8.0 * n_transformed * n_components * np.prod(transform.frequencies),
        )

    def plan(self, limit: Limit) -> Plan:
        """Plan one task for each chunk."""
        data = self.samples.data
        stage = self.work.stage(data, limit)
        return Plan("MKSLocalizationModel.predict", chunk_layout(data, stage), (stage,), limit)

    def run(self) -> Any:
        """Predict the fields. They are labelled if the samples are."""
        model, samples, expansion = self.model, self.samples, self.expansion
        offset = uniform_response(model._kernels, expansion)
        transfer = self._transfer()
        extra_dims, extra_coords = model._response_labels
        tail, dims = (*samples.spatial, *model._components), (*samples.grid.dims, *extra_dims)
        coords = samples.spatial_coords | extra_coords
        if samples.is_flat:
            tail, dims, coords = (int(np.prod(samples.spatial)) * len(offset),), ("voxel",), {}
        predicted = map_samples(
            partial(localize, expansion=expansion, dtype=self.dtype, shape=tail),
            self.work.fitting(samples.data),
            tail=tail,
            dtype=self.dtype,
            name="localize",
            shared=(transfer, offset),
        )
        return samples.label(predicted, dims=dims, coords=coords, name="prediction")

    def _transfer(self) -> Any:
        """Compute the transfer function: as one task of the graph, or at once, and then the model keeps it.

        Loops over time steps call `predict` many times with the same kernels.
        """
        model, expansion = self.model, self.expansion
        kernels = model._kernels
        if self.samples.is_lazy:
            shape = (len(expansion.transformed), kernels.shape[-1], *expansion.transform.frequencies)
            function = partial(transfer_function, expansion=expansion)
            return array_of(kernels, shape, expansion.spectral_dtype, name="transfer-function", function=function)
        key = (expansion.transform, expansion.n_states)
        if model._kept_transfer is None or model._kept_transfer[0] != key:
            model._kept_transfer = key, transfer_function(kernels, expansion=expansion)
        return model._kept_transfer[1]
