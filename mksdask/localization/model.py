"""MKSLocalizationModel: microstructures → local fields by influence kernels, p[s] = Σ_h Σ_r α[h; r] m[h; s - r]."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Self

import numpy as np
import xarray as xr
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from mksdask.arrays import Array, ArrayLike, is_lazy, is_number, sizes_argument, to_numpy, unwrap, unwrap_samples
from mksdask.bases.base import Basis
from mksdask.bases.given import GivenStates
from mksdask.compute.blocks import array_of, computed, fold_samples, map_samples
from mksdask.compute.operation import Limit, Operation, Plan, SampleWork, Stage, chunk_layout, fft_operations, operation
from mksdask.display.cards import WithCard, card, centre_of, picture
from mksdask.localization.influence import (
    Calibration,
    Expansion,
    Transform,
    calibrate,
    influence_kernels,
    localize,
    resized,
    transfer_function,
    uniform_response,
)
from mksdask.samples import Grid, Samples
from mksdask.schema import (
    FLAG,
    LABELS,
    NOTHING,
    NUMBERS,
    TEXT,
    ArrayOf,
    Listed,
    Named,
    Number,
    Part,
    Record,
    Saved,
    Whole,
    agree,
)

# Chains of chunks, each with one factor, so that the number of factors does not grow with that of samples.
MOST_CHAINS = 128
# Kernels that a card draws.
MOST_DRAWN = 4
# Dtypes of kernels.
FIELDS = "f2 f4 f8 c8 c16"


@dataclass(frozen=True)
class _Kind:
    """What samples must share to be fitted together."""

    basis: tuple[Any, ...]
    n_states: int
    spatial: tuple[int, ...]
    components: tuple[int, ...]
    dtype: str

    def refuse_other(self, seen: _Kind) -> None:
        """Name what differs from the samples seen before."""
        for field in fields(self):
            got, before = getattr(self, field.name), getattr(seen, field.name)
            if got != before:
                what = {"components": "components of shape", "dtype": "fields of", "spatial": "samples of shape"}
                msg = (
                    f"partial_fit got {what.get(field.name, field.name)} {got}, but saw {before} before; use fit to "
                    "start anew"
                )
                raise ValueError(msg)


@dataclass(frozen=True)
class _Calibrate(Operation["MKSLocalizationModel"]):
    """The arguments of `fit` and `partial_fit`, checked."""

    model: MKSLocalizationModel
    samples: Samples
    responses: Any  # (n_samples, *spatial, n_components)
    response_labels: tuple[tuple[str, ...], dict[str, Any]]
    expansion: Expansion
    kind: _Kind
    seen: Calibration | None

    @property
    def lazy(self) -> Any:
        """The array whose chunks are those of the tasks."""
        return self.samples.data if is_lazy(self.samples.data) else self.responses

    def plan(self, limit: Limit) -> Plan:
        """One task for each chunk, and those that merge factors."""
        stages, expansion, n_components = self.stages(limit), self.expansion, self.responses.shape[-1]
        n_factors = min(MOST_CHAINS, stages[0].n_tasks)
        layout = chunk_layout(self.lazy, stages[0]) | {"chains": n_factors, "components": n_components}
        n_states, n_frequencies = len(expansion.transformed), int(np.prod(expansion.transform.frequencies))
        # The factor, and the solution at each frequency beside the kernels.
        entries = n_states * (n_states + n_components) + (n_states + 2 * expansion.n_states) * n_components
        result_bytes = entries * n_frequencies * expansion.spectral_dtype.itemsize
        return Plan("MKSLocalizationModel.fit", layout, stages, limit, result_bytes=result_bytes)

    def run(self) -> MKSLocalizationModel:
        """Calibrate the model."""
        model, expansion = self.model, self.expansion
        if is_lazy(self.lazy):
            self.stages(Limit.of())
        calibration = _calibrate_chunks(self.samples.data, self.responses, self.seen, expansion)
        kernels = influence_kernels(calibration, expansion, ridge=float(model.alpha), rcond=model.lstsq_rcond)
        model._set_kernels(kernels, self.samples.basis, self.kind.components, self.samples.grid)
        model._calibration, model._kind = calibration, self.kind
        model._response_labels, model._has_real_response = self.response_labels, self.responses.dtype.kind != "c"
        model.n_samples_seen_ = calibration.n_samples
        return model

    def stages(self, limit: Limit) -> tuple[Stage, ...]:
        """What the tasks of `fit` need.

        Raises
        ------
        ValueError
            If they do not fit, with the limit that would.
        """
        transform, itemsize = self.expansion.transform, self.expansion.spectral_dtype.itemsize
        n_states, n_components = len(self.expansion.transformed), self.responses.shape[-1]
        n_frequencies, width = int(np.prod(transform.frequencies)), n_states + n_components
        factor = itemsize * n_states * width * n_frequencies
        lazy = self.lazy
        chunks = lazy.chunks[0] if is_lazy(lazy) else (len(lazy),)
        chains = min(MOST_CHAINS, len(chunks))
        sample = sum(int(np.prod(data.shape[1:])) * data.dtype.itemsize for data in (self.samples.data, self.responses))
        # Factors wait for one another in a tree of chains, the largest branch for none.
        waiting = int(np.ceil(np.log2(chains))) - 1 if chains > 1 else 0
        batch = min(max(chunks), transform.batch)
        work = batch * ((width + 1) * n_frequencies * itemsize + transform_bytes(transform, itemsize))
        leaf = max(chunks) * sample + (2 + waiting) * factor + work
        n = len(self.samples)
        operations = width * fft_operations(transform.spatial, real=transform.real)
        absorbing = 8.0 * n_states * width * n_frequencies
        stages = (
            Stage("calibrate", len(chunks), leaf, float(n * sample), 0.0, n * (operations + absorbing)),
            Stage("merge", max(0, chains - 1), (3 + waiting) * factor, 0.0, 0.0, chains * absorbing * n_states),
        )
        needed = max(stage.task_bytes for stage in stages)
        if needed > limit.task_bytes and is_lazy(lazy):
            what = f"calibration of kernels of {transform.spatial} voxels in chunks of {max(chunks)} samples"
            remedy = "calibrate on smaller samples, which resize_coeff takes to larger ones, or in smaller chunks"
            raise limit.refusal(needed, what, remedy)
        return stages


@dataclass(frozen=True)
class _Predict(Operation[Any]):
    """The arguments of `predict`, checked."""

    model: MKSLocalizationModel
    samples: Samples
    expansion: Expansion
    dtype: np.dtype[Any]

    @property
    def work(self) -> SampleWork:
        """What the tasks need: results, the transfer function, and the transforms of a batch."""
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
        """One task for each chunk."""
        data = self.samples.data
        stage = self.work.stage(data, limit)
        return Plan("MKSLocalizationModel.predict", chunk_layout(data, stage), (stage,), limit)

    def run(self) -> Any:
        """The fields, labelled as the samples are."""
        model, samples, expansion = self.model, self.samples, self.expansion
        offset = uniform_response(model._kernels, expansion)
        transfer = model._transfer(expansion, lazy=is_lazy(samples.data))
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


def transform_bytes(transform: Transform, itemsize: int) -> int:
    """Bytes of the field of a sample."""
    return int(np.prod(transform.spatial)) * itemsize // (2 if transform.real else 1)


class MKSLocalizationModel(WithCard, RegressorMixin, BaseEstimator):
    r"""Linkage from microstructure to local field, first order.

    .. math:: p[s] = \sum_h \sum_r \alpha[h; r]\, m[h; s - r]

    is a product at each frequency k, :math:`P[k] = \sum_h A[h; k]\, M[h; k]`. `fit` finds A at all frequencies by
    least squares over the samples, in one pass.

    Parameters
    ----------
    basis : Basis or None
        Basis of the local state; None if X already is m[h; s].
    alpha : float, default 0
        Ridge: adds ``alpha · Σ_h Σ_r α[h; r]²`` to the squared error, summed over samples and voxels.
    lstsq_rcond : float, optional
        Singular values below `lstsq_rcond` times the largest at their frequency count as zero. Default: 10 n_states
        times the rounding unit, whatever the number of samples.

    Attributes
    ----------
    coef_ : ndarray, shape (*size_, n_states) or (*size_, n_states, *components)
        Influence kernels α[h; r], lag 0 at index n//2 of each axis, not to be written to. It can be set: on an unfitted
        model to kernels of a scalar response.
    grid_ : Grid
        Geometry of the samples seen by `fit`. Later samples are compared with it: other phases are refused, other voxel
        sizes, units or periodic axes are warned of.
    size_ : tuple of int
        Spatial shape of the samples that `predict` takes.
    phases_ : tuple of str
        Names of the phases of `grid_`.
    n_samples_seen_ : int
        Samples seen by `fit` and `partial_fit`; 0 where `coef_` was set.

    Notes
    -----
    **What the data leave undetermined.** Where the samples do not determine the kernels at a frequency, the solution
    of least norm is taken. All states of a primitive basis sum to one, so away from zero frequency ``Σ_h M[h; k] = 0``
    and the kernels are determined up to a common term: there they satisfy ``Σ_h A[h; k] = 0``, which is the
    solution of least norm among all. What the transforms leave at a frequency where the samples hold nothing is
    rounding, and counts as zero.

    **Streaming.** Samples are absorbed into triangular factors, one a frequency, along at most 128 chains of chunks,
    whose factors are merged in a tree; normal equations, which would square the condition number, are never formed.
    `fit` computes lazy input once, `predict` nothing.

    **Memory.** It does not depend on the number of samples. With D transformed states (n_states, less one for a basis
    whose states sum to a constant), C response components and F ≈ n_voxels/2 frequencies, a factor takes
    ``16 D (D + C) F`` bytes in double precision: 0.27 GB for 256³ voxels, two states and a scalar response. A task of
    `fit` holds its chunk, two factors and, of one small batch of samples, D + C + 2 transforms; about eight factors,
    and some for each worker, wait for being merged. A task of `predict` holds its result and C + 3 transforms of a
    batch beside D·C spectra, which the model keeps where X is in memory. A fitted model holds, and pickles, one factor
    beside its kernels, so that `partial_fit` can go on.

    **Precision.** That of y: float32 responses are fitted with float32 transforms, all others in double
    precision; predictions have the precision of `coef_`.

    **Basis.** The model keeps a copy of the basis it was fitted with; changes of `basis` count from the next fit.

    **Domain.** Samples are taken as periodic. Kernels calibrated on one size serve larger ones by `resize_coeff`.

    References
    ----------
    Brough, D. B., Wheeler, D., Kalidindi, S. R. Materials Knowledge Systems in Python: a data science framework
    for accelerated development of hierarchical materials. Integr. Mater. Manuf. Innov. 6 (2017) 36, Eq. 4.
    Landi, G., Niezgoda, S. R., Kalidindi, S. R. Multi-scale modeling of elastic response of three-dimensional
    voxel-based microstructure datasets using novel DFT-based knowledge systems. Acta Mater. 58 (2010) 2716.

    Examples
    --------
    >>> from mksdask import PrimitiveBasis
    >>> from mksdask.datasets.responses import make_elastic_FE_strain_delta, make_elastic_FE_strain_random
    >>> phases = {"elastic_modulus": (100, 120), "poissons_ratio": (0.3, 0.3), "size": (15, 15)}
    >>> model = MKSLocalizationModel(PrimitiveBasis(2)).fit(*make_elastic_FE_strain_delta(**phases))
    >>> model.coef_.shape
    (15, 15, 2)
    >>> bool(model.score(*make_elastic_FE_strain_random(n_samples=3, **phases)) > 0.98)
    True
    """

    grid_: Grid
    size_: tuple[int, ...]
    _calibration: Calibration | None
    _kind: _Kind
    _components: tuple[int, ...]
    _response_labels: tuple[tuple[str, ...], dict[str, Any]]
    _has_real_response: bool
    _basis: Basis
    _kernels: Array  # (*calibrated spatial, n_states, n_components)
    _kept_transfer: tuple[tuple[Transform, int], Array] | None

    _saved = Saved(
        {"basis": Part(Basis) | NOTHING, "alpha": Number(), "lstsq_rcond": Number() | NOTHING},
        fitted={
            "_kernels": ArrayOf(FIELDS, "x", "state", "component")
            | ArrayOf(FIELDS, "x", "y", "state", "component")
            | ArrayOf(FIELDS, "x", "y", "z", "state", "component"),
            "_basis": Part(Basis),
            "_components": Listed(Whole(1)),
            "_response_labels": Record(Listed(TEXT), Named(LABELS | ArrayOf(NUMBERS, None))),
            "_has_real_response": FLAG,
            "size_": Listed(Whole(1), 1, 3),
            "grid_": Part(Grid),
            "n_samples_seen_": Whole(0),
        },
        is_model=True,
    )

    def __init__(self, basis: Basis | None = None, *, alpha: float = 0.0, lstsq_rcond: float | None = None) -> None:
        self.basis = basis
        self.alpha = alpha
        self.lstsq_rcond = lstsq_rcond

    @operation
    def fit(self, X: ArrayLike, y: ArrayLike, size: Sequence[int] | None = None) -> Operation[Self]:
        """Calibrate the kernels.

        Parameters
        ----------
        X : array, shape (n_samples, *spatial), or (n_samples, n_voxels) with `size`
            Local state of each voxel; NumPy, dask, zarr or xarray.
        y : array, shape (n_samples, *spatial) or (n_samples, *spatial, *components), or flat
            Response of each voxel: a scalar, or the components of a vector or tensor.
        size : tuple of int, optional
            Spatial shape of flat samples.

        Raises
        ------
        ValueError
            If shapes do not fit, a chunk cuts through samples, or values are NaN or outside the basis' domain.
        """
        return self._calibrate(X, y, size, None)

    @operation
    def partial_fit(self, X: ArrayLike, y: ArrayLike, size: Sequence[int] | None = None) -> Operation[Self]:
        """Calibrate further, with samples beyond those seen: what `fit` on all of them gives, up to rounding.

        Parameters
        ----------
        X, y, size
            As in `fit`, samples of the same size and responses of the same components.

        Raises
        ------
        ValueError
            As in `fit`, or if the samples are of another kind than those seen.

        Notes
        -----
        The kernels are again those of the calibrated size, whatever `resize_coeff` made of them. Where `coef_` was set,
        no samples have been seen, and this is `fit`.
        """
        return self._calibrate(X, y, size, getattr(self, "_calibration", None))

    def _calibrate(self, X: ArrayLike, y: ArrayLike, size: Sequence[int] | None, seen: Calibration | None) -> Any:
        """The arguments of `fit`, or of `partial_fit` where samples were seen, checked."""
        self._check_parameters()
        samples = Samples.of(X, self.basis, size=size).require(1 if seen is None else 0)
        _check_same_axes(samples, y)
        responses, components = _responses(y, samples, is_flat=samples.is_flat)
        expansion = _expansion(samples.basis, samples.spatial, responses.dtype)
        kind = _Kind(
            samples.basis.identity, expansion.n_states, samples.spatial, components, str(expansion.field_dtype)
        )
        if seen is not None:
            kind.refuse_other(self._kind)
            samples.grid.check_like(self.grid_)
        labels = _trailing_labels(y, len(samples.spatial), components)
        return _Calibrate(self, samples, responses, labels, expansion, kind, seen)

    def _card(self) -> str:
        kernels = np.real(self.coef_)
        n_spatial, states = len(self.size_), kernels.shape[len(self.size_)]
        first = kernels.reshape(*kernels.shape[: n_spatial + 1], -1)[..., 0]
        facts = {"size": self.size_, "states": states, "response": self._components or "a number a voxel"}
        if self.n_samples_seen_:
            facts["samples seen"] = self.n_samples_seen_
        pictures = [
            picture(centre_of(first[..., state], n_spatial), f"α[{state}; r]", diverging=True)
            for state in range(min(MOST_DRAWN, states))
        ]
        return card("MKSLocalizationModel", facts, pictures)

    @operation
    def predict(self, X: ArrayLike, size: Sequence[int] | None = None) -> Operation[Any]:
        """Local response of samples, lazily for lazy input: one task a chunk.

        Parameters
        ----------
        X : array, shape (n_samples, *size_), or flat
            Local state of each voxel.
        size : tuple of int, optional
            Spatial shape of flat samples; default `size_`.

        Returns
        -------
        array of the kind of `X`, shape (n_samples, *size_) or (n_samples, *size_, *components)
            Flat, (n_samples, n_voxels · n_components), for flat X. Real where the responses of `fit` were.

        Raises
        ------
        ValueError
            If the samples have another size than the kernels; see `resize_coeff`.
        """
        samples = self._samples(X, size)
        self._check_size(samples.spatial)
        expansion = _expansion(samples.basis, self.size_, self._kernels.dtype)
        if expansion.n_states != self._kernels.shape[-2]:
            msg = f"X holds {expansion.n_states} local states along its last axis, fit saw {self._kernels.shape[-2]}"
            raise ValueError(msg)
        dtype = np.dtype(expansion.dtype if self._has_real_response else expansion.spectral_dtype)
        return _Predict(self, samples, expansion, dtype)

    def _samples(self, X: ArrayLike, size: Sequence[int] | None) -> Samples:
        """Samples to predict, on the basis that the model was fitted with."""
        check_is_fitted(self, "size_")
        basis = None if isinstance(self._basis, GivenStates) else self._basis
        return Samples.of(X, basis, size=size, like=replace(self.grid_, shape=self.size_))

    def _transfer(self, expansion: Expansion, *, lazy: bool) -> Any:
        """The transfer function: one task of the graph, or kept for the next call, as when steps are rolled forward."""
        kernels = self._kernels
        if lazy:
            shape = (len(expansion.transformed), kernels.shape[-1], *expansion.transform.frequencies)
            function = partial(transfer_function, expansion=expansion)
            return array_of(kernels, shape, expansion.spectral_dtype, name="transfer-function", function=function)
        key = (expansion.transform, expansion.n_states)
        if self._kept_transfer is None or self._kept_transfer[0] != key:
            self._kept_transfer = key, transfer_function(kernels, expansion=expansion)
        return self._kept_transfer[1]

    def score(
        self,
        X: ArrayLike,
        y: ArrayLike,
        size: Sequence[int] | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> float:
        """R² over all voxels of all samples, averaged over components. Computes lazy input once.

        Parameters
        ----------
        X, size
            As in `predict`.
        y : array, shape (n_samples, *size_) or (n_samples, *size_, *components), or flat
            True response.
        sample_weight : array, shape (n_samples,), optional
            Weight of each sample.

        Returns
        -------
        float
            1 for a perfect prediction; as in scikit-learn, 0 for a component that is constant and missed.
        """
        predicted, _ = unwrap(self.predict(X, size), name="prediction")
        n_samples = int(predicted.shape[0])
        is_flat = predicted.ndim == 2 and len(self.size_) + len(self._components) > 1
        samples = self._samples(X, size)
        _check_same_axes(samples, y)
        truth, components = _responses(y, samples, is_flat=is_flat)
        if components != self._components:
            msg = f"y has components of shape {components}, fit saw {self._components}"
            raise ValueError(msg)
        weights = np.ones(n_samples) if sample_weight is None else to_numpy(sample_weight)
        if weights.shape != (n_samples,) or not (weights >= 0).all() or not 0 < weights.sum() < np.inf:
            msg = (
                f"sample_weight must hold one weight from 0 for each of the samples, not all 0, and X one sample at "
                f"least; got {n_samples} samples and weights {weights!r}"
            )
            raise ValueError(msg)
        predicted = predicted.reshape(truth.shape)
        tail = (4, truth.shape[-1])
        parts = map_samples(_moments, predicted, truth, weights, tail=tail, dtype=np.complex128, name="score")
        weight, mean, scatter, residual = np.moveaxis(to_numpy(parts), 1, 0)
        weight, scatter, residual = weight.real, scatter.real.sum(axis=0), residual.real.sum(axis=0)
        scatter += (weight * np.abs(mean - (weight * mean).sum(axis=0) / weight.sum(axis=0)) ** 2).sum(axis=0)
        is_constant = scatter == 0
        missed = np.where(is_constant, residual > 0, residual / np.where(is_constant, 1.0, scatter))
        return float((1.0 - missed).mean())

    def resize_coeff(self, size: Sequence[int]) -> Self:
        """Take the kernels to a larger domain, where they are zero beyond the lags that were calibrated.

        That is what makes localization cheap: calibrate on small samples, predict on large ones. It is good as far as
        the kernels have decayed at the edge of the calibration domain.

        Parameters
        ----------
        size : tuple of int
            Voxels along each axis of the samples to predict, no fewer than in calibration.

        Raises
        ------
        ValueError
            If the domain is smaller than that of calibration, or has other axes.

        Notes
        -----
        The kernels are kept as they were calibrated, and padded where they are used. For an even number of voxels,
        lags -n/2 and n/2 are one in calibration; each gets half of its value.

        Elastic kernels fall off as the inverse dth power of the distance in d dimensions, so calibration samples
        should be a few times larger than the features of the samples to predict. They should also differ in their
        volume fractions: if not, the mean response is known for that fraction only, and on a larger domain the fraction
        varies from place to place.
        """
        check_is_fitted(self, "size_")
        wanted = sizes_argument(size)
        calibrated = self._kernels.shape[: len(self.size_)]
        if not self._reaches(wanted):
            msg = (
                f"size must have {len(calibrated)} axes of at least the {calibrated} voxels that the kernels were "
                f"calibrated on, got {size!r}"
            )
            raise ValueError(msg)
        self.size_ = wanted
        return self

    @property
    def coef_(self) -> Array:
        """Influence kernels α[h; r] on the domain `size_`, lag 0 in the centre."""
        check_is_fitted(self, "size_")
        kernels = resized(self._kernels, self.size_)
        kernels = kernels.reshape(*kernels.shape[:-1], *self._components)
        kernels.flags.writeable = False
        return kernels

    @coef_.setter
    def coef_(self, kernels: ArrayLike) -> None:
        values = np.array(to_numpy(kernels))
        if values.dtype.kind in "biu":
            values = values.astype(np.float64)
        is_fitted = hasattr(self, "size_")
        n_spatial = len(self.size_) if is_fitted else values.ndim - 1
        n_states = None if self.basis is None else len(self.basis.states)
        components = values.shape[n_spatial + 1 :]
        if (
            not 1 <= n_spatial < values.ndim
            or n_spatial > 3
            or values.dtype.kind not in "fc"
            or not values.size
            or (n_states is not None and values.shape[n_spatial] != n_states)
            or (is_fitted and components != self._components)
        ):
            tail = (n_states or "n_states", *(self._components if is_fitted else ()))
            msg = (
                f"coef_ must be (*spatial, {', '.join(map(str, tail))}) with "
                f"{n_spatial if is_fitted else '1 to 3'} spatial axes, got shape {values.shape} of {values.dtype}"
            )
            raise ValueError(msg)
        if not np.isfinite(values).all():
            msg = "coef_ holds NaN or infinite values"
            raise ValueError(msg)
        if not is_fitted:
            self._components, self._response_labels = components, ((), {})
            self._has_real_response = values.dtype.kind != "c"
        spatial, n_states = values.shape[:n_spatial], values.shape[n_spatial]
        basis = GivenStates(n_states, is_complex=values.dtype.kind == "c") if self.basis is None else clone(self.basis)
        grid = replace(self.grid_, shape=spatial) if is_fitted else Grid.of(None, spatial)
        self._set_kernels(values.reshape(*spatial, n_states, -1), basis, self._components, grid)
        # The samples seen do not belong to these kernels.
        self._calibration, self.n_samples_seen_ = None, 0

    def _set_kernels(self, kernels: Array, basis: Basis, components: tuple[int, ...], grid: Grid) -> None:
        """Take kernels (*spatial, n_states, n_components) of samples on a grid."""
        self._kernels, self._basis, self._components, self.grid_ = kernels, basis, components, grid
        self._kernels.flags.writeable = False
        self._kept_transfer, self.size_ = None, grid.shape

    @property
    def phases_(self) -> tuple[str, ...]:
        """Names of the phases of the samples seen by `fit`."""
        return self.grid_.phases

    def _reaches(self, size: tuple[int, ...]) -> bool:
        """Whether the kernels can be resized to a domain."""
        calibrated = self._kernels.shape[: len(self.size_)]
        return len(size) == len(calibrated) and all(n >= m for n, m in zip(size, calibrated, strict=True))

    def _check_size(self, spatial: tuple[int, ...]) -> None:
        if spatial == self.size_:
            return
        remedy = f"calibrate on samples of {spatial} voxels or fewer"
        if self._reaches(spatial):
            remedy = f"call resize_coeff({spatial}) first, which pads the kernels"
        elif len(spatial) != len(self.size_):
            remedy = f"use samples with {len(self.size_)} spatial axes"
        msg = f"X holds samples of {spatial} voxels, the kernels are for {self.size_}; {remedy}"
        raise ValueError(msg)

    def _check_parameters(self) -> None:
        if not (is_number(self.alpha) and self.alpha >= 0):
            msg = f"alpha must be a number from 0, got {self.alpha!r}"
            raise ValueError(msg)
        if self.lstsq_rcond is not None and not (is_number(self.lstsq_rcond) and 0 <= self.lstsq_rcond < 1):
            msg = f"lstsq_rcond must lie in [0, 1), or be None, got {self.lstsq_rcond!r}"
            raise ValueError(msg)

    def _restored(self, most: int) -> None:
        self._calibration = self._kept_transfer = None
        kernels, (dims, coords) = self._kernels, self._response_labels
        agree("the number of axes of size_", len(self.size_), kernels.ndim - 2)
        agree("size_", self.size_, self.size_ if self._reaches(self.size_) else f"{kernels.shape[:-2]} or more")
        agree("the product of _components", math.prod(self._components), kernels.shape[-1])
        agree("the number of axes of _response_labels", len(dims), len(self._components))
        sizes = dict(zip(dims, self._components, strict=True))
        agree(
            "the sizes of _response_labels",
            {dim: len(coord) for dim, coord in coords.items()},
            {dim: sizes.get(dim) for dim in coords},
        )
        agree("the number of states of _basis", len(self._basis.states), kernels.shape[-2])
        kernels.flags.writeable = False

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return {name: None if name == "_kept_transfer" else value for name, value in state.items()}

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.target_tags.single_output = False
        tags.input_tags.three_d_array = True
        return tags


def _expansion(basis: Basis, spatial: tuple[int, ...], dtype: np.dtype[Any]) -> Expansion:
    """The expansion of samples for responses, or kernels, of a dtype."""
    precision = np.dtype(np.float32 if dtype in (np.float32, np.complex64) else np.float64)
    is_real = not basis.is_complex and dtype.kind != "c"
    return Expansion(basis, Transform(spatial, is_real), precision)


def _calibrate_chunks(samples: Any, responses: Any, seen: Calibration | None, expansion: Expansion) -> Calibration:
    """Factors of all chunks, in one computation: chains of chunks, whose factors are merged in a tree."""
    if not is_lazy(samples) and not is_lazy(responses):
        return calibrate(samples, responses, seen, expansion=expansion)
    options, merge = {"expansion": expansion}, Calibration.merge
    found: Calibration = computed(
        fold_samples(calibrate, merge, samples, responses, name="calibrate", options=options, chains=MOST_CHAINS)
    )
    return found if seen is None else seen.merge(found)


def _check_same_axes(samples: Samples, y: ArrayLike) -> None:
    """Refuse labels of X and y that contradict each other."""
    labels, n_spatial = samples.labels, len(samples.spatial)
    if labels is None or not isinstance(y, xr.DataArray) or y.ndim < labels.ndim:
        return
    dims, others = labels.dims[1 : 1 + n_spatial], y.dims[1 : 1 + n_spatial]
    if dims != others:
        msg = f"X has the dims {labels.dims} and y {y.dims}; use y.transpose({str(labels.dims[0])!r}, *{dims}, ...)"
        raise ValueError(msg)
    sample = labels.dims[0]
    if (
        sample == y.dims[0]
        and sample in labels.coords
        and sample in y.coords
        and not np.array_equal(labels.coords[sample], y.coords[sample])
    ):
        msg = f"X and y differ in their {sample!r} coordinates; select the same samples of both, in one order"
        raise ValueError(msg)


def _responses(y: ArrayLike, samples: Samples, *, is_flat: bool) -> tuple[Any, tuple[int, ...]]:
    """Responses as (n_samples, *spatial, n_components), and the shape of the components of one voxel."""
    n_samples, spatial = len(samples), samples.spatial
    data, _ = unwrap_samples(y, name="y")
    shape, n_voxels = tuple(data.shape), int(np.prod(spatial))
    components: tuple[int, ...] | None = None
    if shape[1 : 1 + len(spatial)] == spatial:
        components = shape[1 + len(spatial) :]
    elif is_flat and shape[1:2] == (n_voxels,):
        components = shape[2:]
    elif is_flat and len(shape) == 2 and shape[1] > 0 and shape[1] % n_voxels == 0:
        components = (shape[1] // n_voxels,)
    if components is None or shape[0] != n_samples or 0 in components:
        flat = f", or flat ({n_samples}, {n_voxels})" if is_flat else ""
        msg = (
            f"y must hold a response of each voxel, shape {(n_samples, *spatial)}{flat}, followed by the axes of its "
            f"components if it is no scalar; got {shape}"
        )
        raise ValueError(msg)
    return data.reshape(n_samples, *spatial, int(np.prod(components))), components


def _trailing_labels(
    y: ArrayLike, n_spatial: int, components: tuple[int, ...]
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Names and coordinates of the component axes of a labelled response."""
    if isinstance(y, xr.DataArray) and y.ndim == 1 + n_spatial + len(components):
        dims = tuple(map(str, y.dims[1 + n_spatial :]))
        return dims, {dim: y.coords[dim].values for dim in dims if dim in y.coords}
    return tuple(f"component_{axis}" for axis in range(len(components))), {}


def _moments(predicted: Array, truth: Array, weights: Array) -> Array:
    """Weight, mean, scatter and squared error of each component, sample by sample: (n, 4, n_components), complex."""
    out = np.zeros((len(truth), 4, truth.shape[-1]), dtype=np.complex128)
    axes = tuple(range(truth.ndim - 2))
    for row, guess, field, weight in zip(out, predicted, truth, weights, strict=True):
        wide = np.result_type(field, np.float64)
        mean = field.mean(axis=axes, dtype=wide)
        # Means tell whether all values are finite.
        if not (np.isfinite(mean).all() and np.isfinite(guess.mean(axis=axes)).all()):
            msg = "y or the prediction holds NaN or infinite values; leave out the samples that have them"
            raise ValueError(msg)
        row[0], row[1] = weight * (field.size // field.shape[-1]), mean
        row[2] = weight * (np.abs(field - mean) ** 2).sum(axis=axes)
        row[3] = weight * (np.abs(field.astype(wide) - guess) ** 2).sum(axis=axes)
    return out
