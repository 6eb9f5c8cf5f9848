"""The calibration of influence kernels on samples and their responses."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import xarray as xr

from mksdask.arrays import Array, ArrayLike, dims_of, is_lazy, unwrap_samples, warn_caller
from mksdask.compute.blocks import computed, fold_samples
from mksdask.compute.operation import Operation
from mksdask.compute.plans import Limit, Plan, Stage, chunk_layout, fft_operations
from mksdask.labels import matched, quantity
from mksdask.localization.expansion import Expansion
from mksdask.localization.influence import Calibration, Spectra, calibrate, gather, influence_kernels
from mksdask.localization.linear_models import FACTORED, ridge_of, takes_factors
from mksdask.localization.response import transfer_function, uniform_response
from mksdask.localization.ridge import FILTER_BYTES
from mksdask.localization.series import Series
from mksdask.samples import Grid, Samples

# Each chain of chunks has one factor, so the number of factors does not grow with the number of samples.
MOST_CHAINS = 128
# If the first order explains a smaller share than this of the fluctuation of the responses, `fit` says so.
LITTLE = 0.5


@dataclass(frozen=True)
class Responses:
    """The responses of samples: a number, or several components, for each voxel.

    Parameters
    ----------
    data : ndarray or dask array, shape (n_samples, *spatial, n_components)
        Responses. The components of a voxel stand along one axis.
    components : tuple of int
        Shape of the response of one voxel. Empty for a scalar.
    labels : (tuple of str, dict)
        Names and coordinates of the axes of components.
    quantity : dict of str to str
        What the responses are, and their unit, as far as y says it.
    """

    data: Any
    components: tuple[int, ...]
    labels: tuple[tuple[str, ...], dict[str, Any]]
    quantity: dict[str, str]

    @classmethod
    def of(cls, y: ArrayLike, samples: Samples) -> Responses:
        """Take the argument y of a public call, with the samples that it belongs to.

        Raises
        ------
        ValueError
            If the shape, the dims or the labels of y do not agree with the samples, or a chunk cuts through samples.
        """
        _check_same_axes(samples, y)
        n_samples, spatial = len(samples), samples.spatial
        cuts = samples.data.chunks[0] if samples.is_lazy else None
        data, own = unwrap_samples(matched(y, samples.index, name="y", cuts=cuts), name="y")
        shape, n_voxels = tuple(data.shape), int(np.prod(spatial))
        components: tuple[int, ...] | None = None
        if shape[1 : 1 + len(spatial)] == spatial:
            components = shape[1 + len(spatial) :]
        elif samples.is_flat and shape[1:2] == (n_voxels,):
            components = shape[2:]
        elif samples.is_flat and len(shape) == 2 and shape[1] > 0 and shape[1] % n_voxels == 0:
            components = (shape[1] // n_voxels,)
        if components is None or shape[0] != n_samples or 0 in components:
            flat = f", or flat ({n_samples}, {n_voxels})" if samples.is_flat else ""
            msg = (
                f"y must hold a response of each voxel, shape {(n_samples, *spatial)}{flat}, followed by the axes of "
                f"its components if it is not a scalar; got {shape}"
            )
            raise ValueError(msg)
        if own is not None and own.ndim > len(spatial) and not samples.is_flat:
            samples.grid.check_beside(Grid.of(own, spatial), "y")
        data = data.reshape(n_samples, *spatial, int(np.prod(components)))
        return cls(data, components, _component_labels(y, len(spatial), components), quantity(y))

    @property
    def n_components(self) -> int:
        """Number of components of a voxel."""
        return int(self.data.shape[-1])

    @property
    def is_real(self) -> bool:
        """Whether the responses are real."""
        return bool(self.data.dtype.kind != "c")


def _check_same_axes(samples: Samples, y: ArrayLike) -> None:
    """Refuse y if its dims contradict those of X."""
    own, n_spatial = dims_of(samples.labels), len(samples.spatial)
    if not own or not isinstance(y, xr.DataArray) or y.ndim < len(own):
        return
    dims, others = own[1 : 1 + n_spatial], y.dims[1 : 1 + n_spatial]
    if dims != others:
        msg = f"X has the dims {own} and y {y.dims}; use y.transpose({str(own[0])!r}, *{dims}, ...)"
        raise ValueError(msg)


def _component_labels(
    y: ArrayLike, n_spatial: int, components: tuple[int, ...]
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Read or make names and coordinates of the axes of components."""
    if isinstance(y, xr.DataArray) and y.ndim == 1 + n_spatial + len(components):
        dims = tuple(map(str, y.dims[1 + n_spatial :]))
        return dims, {dim: y.coords[dim].values for dim in dims if dim in y.coords}
    return tuple(f"component_{axis}" for axis in range(len(components))), {}


@dataclass(frozen=True)
class Kind:
    """The properties in which all samples that calibrate one model must agree."""

    basis: tuple[Any, ...]
    n_states: int
    spatial: tuple[int, ...]
    components: tuple[int, ...]
    dtype: str
    kept: str
    order: int

    @classmethod
    def of(cls, expansion: Expansion, components: tuple[int, ...], linear_model: Any, order: int) -> Kind:
        """Read the kind from the expansion of samples, the response of a voxel, the linear model, and the order."""
        spatial, dtype = expansion.transform.spatial, str(expansion.field_dtype)
        kept = "factors" if takes_factors(linear_model) else "spectra"
        return cls(expansion.basis.identity, expansion.n_states, spatial, components, dtype, kept, order)

    def refuse_other(self, seen: Kind) -> None:
        """Refuse samples of another kind than those seen before.

        Raises
        ------
        ValueError
            With the property that differs.
        """
        for field in fields(self):
            got, before = getattr(self, field.name), getattr(seen, field.name)
            if got != before:
                what = {
                    "components": "components of shape",
                    "dtype": "fields of",
                    "spatial": "samples of shape",
                    "kept": "a linear_model that needs",
                    "order": "the order",
                }
                msg = (
                    f"partial_fit got {what.get(field.name, field.name)} {got}, but saw {before} before; use fit to "
                    "start anew"
                )
                raise ValueError(msg)


@dataclass(frozen=True)
class Calibrate(Operation[Any]):
    """The checked arguments of `fit` and `partial_fit`."""

    model: Any
    samples: Samples
    responses: Responses
    expansion: Expansion
    kind: Kind
    seen: Calibration | Spectra | None

    @property
    def chunked(self) -> Any:
        """The array whose chunks become tasks."""
        return self.samples.data if self.samples.is_lazy else self.responses.data

    @property
    def orders(self) -> range:
        """The orders that are calibrated: all of them, or the last one if samples were seen before."""
        return range(1 if self.seen is None else self.kind.order, self.kind.order + 1)

    def series(self, order: int) -> Series:
        """Make the expansion of an order, without the kernels of the orders below."""
        return Series.after(self.expansion, order, self.responses.n_components)

    def plan(self, limit: Limit) -> Plan:
        """Plan a task for each chunk, and the tasks that merge factors, for each order."""
        stages, order, n_components = self.stages(limit), self.kind.order, self.responses.n_components
        n_factors = min(MOST_CHAINS, stages[0].n_tasks)
        parts = {"spectra of samples": self.n_kept} if self.keeps_spectra else {"chains": n_factors}
        layout = chunk_layout(self.chunked, stages[0]) | parts | {"components": n_components}
        if order > 1:
            layout |= {"orders": order, "states of the last order": self.series(order).n_states}
        result_bytes = max(self._solution_bytes(self.series(order)) for order in self.orders) + self._kept_bytes()
        return Plan("MKSLocalizationModel.fit", layout, stages, limit, result_bytes=result_bytes)

    def _solution_bytes(self, expansion: Series) -> int:
        """Bytes of the rows of one order, its solution at each frequency and its kernels, which are held together."""
        n_components, itemsize = self.responses.n_components, expansion.spectral_dtype.itemsize
        n_states, n_frequencies = len(expansion.transformed), int(np.prod(expansion.transform.frequencies))
        is_ridge = ridge_of(self.model.linear_model, 0.0) is not None
        solution = ((n_states if is_ridge else expansion.n_states) + 2 * expansion.n_states) * n_components * itemsize
        if self.model.alpha == "gcv":
            solution = max(solution, FILTER_BYTES * n_states)
        rows = self.n_kept if self.keeps_spectra else n_states
        row = (n_states + n_components) * itemsize
        if self.kind.order > 1:
            # The columns are scaled in a copy, and each has a scale.
            solution += rows * row + 16 * n_states
        return int((rows * row + solution) * n_frequencies)

    def _kept_bytes(self) -> int:
        """Bytes of the kernels and the transfer functions of the orders below the last."""
        last, n_components = self.series(self.kind.order), self.responses.n_components
        n_values = sum(self.series(order).n_states for order in range(1, self.kind.order)) * n_components
        return last.lower_bytes + n_values * int(np.prod(self.samples.spatial)) * self.expansion.field_dtype.itemsize

    def run(self) -> Any:
        """Calibrate the model, one order after the other."""
        model, order = self.model, self.kind.order
        if is_lazy(self.chunked) or self.keeps_spectra:
            self.stages(Limit.of())
        kernels: list[Array] = []
        ridges: list[float | None] = []
        shares: list[float | None] = []
        mean = None
        if self.seen is not None:
            kernels, ridges, shares = list(model._kernels[:-1]), list(model._ridges[:-1]), list(model.explained_[:-1])
            mean = model._mean
        lower = [_applied(values, self.expansion, k) for k, values in enumerate(kernels, 1)]
        for k in self.orders:
            expansion = self.series(k)
            if k > 1:
                assert mean is not None
                expansion = expansion.following(mean, lower)
            calibration = self._calibrated(expansion)
            if mean is None:
                n_values = calibration.n_samples * int(np.prod(self.samples.spatial))
                mean = calibration.sums[expansion.n_states :] / n_values
                mean = mean.real if self.responses.is_real else mean
            found = influence_kernels(
                calibration,
                expansion,
                ridge=model.alpha if model.alpha == "gcv" else float(model.alpha),
                rcond=model.lstsq_rcond,
                linear_model=model.linear_model,
                is_scaled=order > 1,
            )
            kernels.append(found.values)
            ridges.append(found.ridge)
            shares.append(found.explained)
            if k < order:
                lower.append(_applied(found.values, self.expansion, k))
        model._set_kernels(tuple(kernels), self.samples.basis, self.kind.components, self.samples.grid, mean)
        model._calibration, model._kind = calibration, self.kind
        model._response_labels, model._quantity = self.responses.labels, self.responses.quantity
        model._has_real_response = self.responses.is_real
        model.n_samples_seen_, model._ridges, model.explained_ = calibration.n_samples, tuple(ridges), tuple(shares)
        first = shares[0]
        if order == 1 and first is not None and first < LITTLE:
            warn_caller(
                f"the first order of the series explains {max(first, 0.0):.0%} of the fluctuation of y in these "
                "samples; further orders may explain more: MKSLocalizationModel(basis, order=4)"
            )
        return model

    @property
    def keeps_spectra(self) -> bool:
        """Whether the linear model needs the rows of all samples."""
        return self.kind.kept == "spectra"

    @property
    def n_kept(self) -> int:
        """Number of samples whose rows are kept then."""
        return len(self.samples) + (self.seen.n_samples if self.seen is not None else 0)

    def _calibrated(self, expansion: Series) -> Any:
        """Compute the factors of all chunks in one computation: along chains of chunks, then merged in a tree.

        The rows of chunks are merged in a tree as well.
        """
        samples, responses, seen = self.samples.data, self.responses.data, self.seen
        kernel: Any = gather if self.keeps_spectra else calibrate
        if not is_lazy(self.chunked):
            return kernel(samples, responses, seen, expansion=expansion)
        merge: Any = Spectra.merge if self.keeps_spectra else Calibration.merge
        chains, options = None if self.keeps_spectra else MOST_CHAINS, {"expansion": expansion}
        found = computed(
            fold_samples(kernel, merge, samples, responses, name="calibrate", options=options, chains=chains)
        )
        return found if seen is None else seen.merge(found)

    def stages(self, limit: Limit) -> tuple[Stage, ...]:
        """Compute what the tasks of `fit` need.

        Raises
        ------
        ValueError
            If they do not fit into the limit. The message names the limit into which they would fit.
        """
        stages = tuple(stage for order in self.orders for stage in self._stages_of(order))
        needed = max(stage.task_bytes for stage in stages)
        if needed > limit.task_bytes and self.keeps_spectra:
            what = f"{self.model.linear_model!r}, which needs the spectra of all {self.n_kept} samples at once,"
            remedy = f"use {' or '.join(FACTORED)}, or calibrate on fewer or smaller samples"
            raise limit.refusal(needed, what, remedy)
        if needed > limit.task_bytes and is_lazy(self.chunked):
            chunk = max(self.chunked.chunks[0])
            what = f"calibration of kernels of {self.expansion.transform.spatial} voxels in chunks of {chunk} samples"
            remedy = "calibrate on smaller samples, from which resize_coeff goes to larger ones, or in smaller chunks"
            raise limit.refusal(needed, what, remedy)
        return stages

    def _stages_of(self, order: int) -> tuple[Stage, Stage]:
        """Compute what the tasks of one order need."""
        expansion, lazy = self.series(order), self.chunked
        transform, itemsize = expansion.transform, expansion.spectral_dtype.itemsize
        n_states, n_components = len(expansion.transformed), self.responses.n_components
        n_frequencies, width = int(np.prod(transform.frequencies)), n_states + n_components
        factor = itemsize * n_states * width * n_frequencies
        chunks = lazy.chunks[0] if is_lazy(lazy) else (len(lazy),)
        chains = min(MOST_CHAINS, len(chunks))
        data = (self.samples.data, self.responses.data)
        sample = sum(int(np.prod(array.shape[1:])) * array.dtype.itemsize for array in data)
        # In the tree of merges, finished factors are held in memory until their partners are ready.
        waiting = int(np.ceil(np.log2(chains))) - 1 if chains > 1 else 0
        batch = min(max(chunks), transform.batch)
        rows = (width + 1) * n_frequencies * itemsize + transform.field_bytes(itemsize)
        work = max(chunks) * sample + batch * (rows + expansion.batch_bytes) + expansion.lower_bytes
        if self.keeps_spectra:
            row = width * n_frequencies * itemsize
            leaf, merge = work + (self.n_kept + max(chunks)) * row, 2 * self.n_kept * row
        else:
            left = 8 * n_frequencies
            leaf, merge = work + (2 + waiting) * factor + left, (3 + waiting) * factor + left
        n = len(self.samples)
        operations = expansion.n_transforms * fft_operations(transform.spatial, real=transform.real)
        absorbing = 0.0 if self.keeps_spectra else 8.0 * n_states * width * n_frequencies
        merges = (len(chunks) if self.keeps_spectra else chains) - 1
        name = "" if self.kind.order == 1 else f", order {order}"
        return (
            Stage(f"calibrate{name}", len(chunks), leaf, float(n * sample), 0.0, n * (operations + absorbing)),
            Stage(f"merge{name}", merges, merge, 0.0, 0.0, chains * absorbing * n_states),
        )


def _applied(kernels: Array, first: Expansion, order: int) -> tuple[Array, Array]:
    """Compute the transfer function and the uniform response of the kernels of one order."""
    expansion = Series.after(first, order, kernels.shape[-1])
    return transfer_function(kernels, expansion=expansion), uniform_response(kernels, expansion)
