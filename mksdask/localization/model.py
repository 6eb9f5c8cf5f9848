"""MKSLocalizationModel: from microstructures to local fields, by influence kernels α[h; r]."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from mksdask.arrays import Array, ArrayLike, is_number, sizes_argument, to_numpy, unwrap
from mksdask.bases.base import Basis
from mksdask.bases.given import GivenStates
from mksdask.compute.operation import Operation, operation
from mksdask.display.cards import WithCard, card, centre_of, cut_of, picture
from mksdask.labels import first_index, matched_values
from mksdask.localization.calibration import Calibrate, Kind, Responses
from mksdask.localization.expansion import Expansion, FieldFFT
from mksdask.localization.influence import Calibration, Spectra, kernels_argument, resized
from mksdask.localization.linear_models import LinearModelKind, check_penalty
from mksdask.localization.prediction import Predict, r2_of_fields
from mksdask.samples import Grid, Samples
from mksdask.schema import (
    FLAG,
    LABELS,
    NOTHING,
    NUMBERS,
    TEXT,
    ArrayOf,
    Choice,
    Listed,
    Named,
    Number,
    Part,
    Record,
    Saved,
    Whole,
    agree,
)

# A card draws at most this many kernels.
MOST_DRAWN = 4
# Dtypes of kernels.
FIELDS = "f2 f4 f8 c8 c16"


class MKSLocalizationModel(WithCard, RegressorMixin, BaseEstimator):
    r"""Predict a local field, such as the strain in each voxel, from the microstructure around each voxel.

    The model is the series of Materials Knowledge Systems, to first order:

    .. math:: p[s] = \sum_h \sum_r \alpha[h; r]\, m[h; s - r]

    The influence kernel :math:`\alpha[h; r]` is what state h in one voxel adds to the response of the voxel at lag r
    from it. At each frequency k the sum is a product, :math:`P[k] = \sum_h A[h; k]\, M[h; k]`. `fit` finds A at all
    frequencies by least squares over the samples, in one pass.

    Parameters
    ----------
    basis : Basis or None
        Basis of the local state. None if X already holds m[h; s]; see `mksdask.GivenStates`.
    alpha : float or "gcv", default 0
        Ridge parameter λ. It adds ``λ · Σ_h Σ_r α[h; r]²`` to the squared error, which is summed over samples and
        voxels. "gcv" chooses λ by generalized cross-validation, in the same pass over the samples.
    lstsq_rcond : float, optional
        Singular values below `lstsq_rcond` times the largest at their frequency count as zero. Default: 10 n_states
        times the rounding unit, for any number of samples.
    linear_model : estimator, optional
        Linear model of scikit-learn that is fitted at each frequency, such as ``Lasso(0.1, fit_intercept=False)``. Then
        `alpha` must be 0. Default: least squares with the ridge `alpha`.

    Attributes
    ----------
    coef_ : ndarray, shape (*size_, n_states) or (*size_, n_states, *components)
        Influence kernels α[h; r], with lag 0 at index n//2 of each axis. The array is read-only, but a new one can be
        assigned. On an unfitted model, it must hold the kernels of a scalar response.
    grid_ : Grid
        Geometry of the samples of `fit`. Later samples are compared with it: samples with other phases are refused, and
        another voxel size, other units or other periodic axes give a warning.
    size_ : tuple of int
        Spatial shape of the samples that `predict` takes.
    phases_ : tuple of str
        Names of the phases of `grid_`.
    n_samples_seen_ : int
        Number of samples seen by `fit` and `partial_fit`. 0 after `coef_` was assigned.
    alpha_ : float or None
        λ of the kernels. None if they were assigned, or if the penalty of `linear_model` is no ridge.

    Notes
    -----
    **What the data do not determine.** Where the samples do not determine the kernels at a frequency, the model takes
    the solution of least norm. The states of a primitive basis sum to one, so ``Σ_h M[h; k] = 0`` at all frequencies
    except zero. There, the kernels are determined up to a term that all states share, and the solution of least norm
    satisfies ``Σ_h A[h; k] = 0``. So does that of any ridge, which penalizes ``Σ_h |A[h; k]|²`` over all states. Where
    the samples hold nothing at a frequency, their transforms are rounding errors, which count as zero.

    **Choice of the ridge.** ``alpha="gcv"`` chooses λ among 0 and 10^(j/16), with whole numbers j, and minimizes

    .. math:: GCV(\lambda) = \frac{1}{n} \|(I - H_\lambda)\, y\|^2 \; / \; (1 - \mathrm{tr}\, H_\lambda / n)^2

    Here y holds the responses in all n voxels of all samples, and :math:`H_\lambda` turns y into the fitted responses.
    The squared norm is summed over components, and all frequencies and components share one λ. By Parseval's theorem,
    norm and trace are sums over frequencies, which the factors give for any λ. Errors of voxels should be independent.

    **Linear models.** At each frequency, `linear_model` solves ``M A = P`` for all states, as the real problem
    ``[[Re M, -Im M], [Im M, Re M]] [Re A; Im A] = [Re P; Im P]``, with transforms as `scipy.fft` computes them.
    `LinearRegression`, `Ridge`, `Lasso`, `ElasticNet`, `MultiTaskLasso` and `MultiTaskElasticNet` are fitted to the
    factors, with the result of a fit to all rows. The first two are solved as ``alpha=0`` and ``alpha=λ`` are, so the
    options of their solvers do nothing. The others take about a millisecond for each frequency. Other classes, such as
    `HuberRegressor`, are fitted to the spectra of all samples, which must fit into memory. A model is refused if it has
    an intercept or ``positive=True``, or if it splits rows to choose its parameters.

    **Streaming.** Samples are absorbed into triangular factors, one for each frequency, along at most 128 chains of
    chunks. The factors of the chains are merged in a tree. Normal equations are never formed, because they square the
    condition number. `fit` computes lazy input once. `predict` computes nothing.

    **Memory.** It does not depend on the number of samples. Let D be the number of transformed states (n_states, or one
    fewer for a basis whose states sum to a constant), C the number of components of the response, and F ≈ n_voxels/2
    the number of frequencies. A factor takes ``16 D (D + C) F`` bytes in double precision, which is 0.27 GB for 256³
    voxels, two states and a scalar response. A task of `fit` holds its chunk, two factors, and D + C + 2 transforms of
    one small batch of samples. About eight factors, and some for each worker, wait for the merge. A task of `predict`
    holds its result, C + 3 transforms of a batch, and D·C spectra, which the model keeps if X is in memory. A fitted
    model, and its pickle, holds one factor beside its kernels, so that `partial_fit` can continue. The choice of a
    ridge takes ``64 D F`` bytes. Spectra, which some linear models need, take ``16 (D + C) F`` bytes a sample, twice.

    **Precision.** float32 responses are fitted with float32 transforms, all others in double precision. Predictions
    have the precision of `coef_`.

    **Basis.** The model keeps a copy of the basis with which it was fitted. Changes of `basis` take effect at the next
    fit.

    **Domain.** The samples are treated as periodic. With `resize_coeff`, kernels from small samples serve larger ones.

    References
    ----------
    Brough, D. B., Wheeler, D., Kalidindi, S. R. Materials Knowledge Systems in Python: a data science framework
    for accelerated development of hierarchical materials. Integr. Mater. Manuf. Innov. 6 (2017) 36, Eq. 4.
    Golub, G. H., Heath, M., Wahba, G. Generalized cross-validation as a method for choosing a good ridge parameter.
    Technometrics 21 (1979) 215.
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
    alpha_: float | None
    _calibration: Calibration | Spectra | None
    _kind: Kind
    _components: tuple[int, ...]
    _response_labels: tuple[tuple[str, ...], dict[str, Any]]
    _has_real_response: bool
    _basis: Basis
    _kernels: Array  # (*calibrated spatial, n_states, n_components)
    _kept_transfer: tuple[tuple[FieldFFT, int], Array] | None

    _saved = Saved(
        {
            "basis": Part(Basis) | NOTHING,
            "alpha": Number() | Choice("gcv"),
            "lstsq_rcond": Number() | NOTHING,
            "linear_model": NOTHING | LinearModelKind(),
        },
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
            "alpha_": Number(0) | NOTHING,
        },
        is_model=True,
    )

    def __init__(
        self,
        basis: Basis | None = None,
        *,
        alpha: float | str = 0.0,
        lstsq_rcond: float | None = None,
        linear_model: Any = None,
    ) -> None:
        self.basis = basis
        self.alpha = alpha
        self.lstsq_rcond = lstsq_rcond
        self.linear_model = linear_model

    @operation
    def fit(self, X: ArrayLike, y: ArrayLike, size: Sequence[int] | None = None) -> Operation[Self]:
        """Calibrate the kernels on samples and their responses.

        Parameters
        ----------
        X : array, shape (n_samples, *spatial), or (n_samples, n_voxels) with `size`
            Local state of each voxel, as NumPy, dask, zarr or xarray.
        y : array, shape (n_samples, *spatial) or (n_samples, *spatial, *components), or flat
            Response of each voxel: a scalar, or the components of a vector or tensor. If the samples of both X and y
            have labels, they are paired by them.
        size : tuple of int, optional
            Spatial shape of a sample, as in `MKSStructureAnalysis.fit`.

        Raises
        ------
        TypeError
            If `linear_model` is no linear model.
        ValueError
            If shapes or the labels of samples do not fit, a chunk cuts through samples, a value is NaN or outside the
            domain of the basis, `linear_model` is refused, or memory does not suffice.
        """
        return self._calibrate(X, y, size, None)

    @operation
    def partial_fit(self, X: ArrayLike, y: ArrayLike, size: Sequence[int] | None = None) -> Operation[Self]:
        """Continue the calibration with further samples. Up to rounding, the result is that of `fit` on all samples.

        Parameters
        ----------
        X, y, size
            As in `fit`. Samples must have the size, and responses the components, of those seen before.

        Raises
        ------
        ValueError
            As in `fit`, or if the samples are of another kind than those seen before.

        Notes
        -----
        Afterwards the kernels have the size of the samples again, even if `resize_coeff` was called before. After
        `coef_` was assigned, no samples count as seen, and this method does the same as `fit`.
        """
        return self._calibrate(X, y, size, getattr(self, "_calibration", None))

    def _calibrate(
        self, X: ArrayLike, y: ArrayLike, size: Sequence[int] | None, seen: Calibration | Spectra | None
    ) -> Any:
        """Check the arguments of `fit`, or of `partial_fit` if samples were seen before."""
        self._check_parameters()
        like = None if seen is None else self.grid_
        samples = Samples.of(X, self.basis, size=size, like=like).require(1 if seen is None else 0)
        responses = Responses.of(y, samples)
        expansion = Expansion.of(samples.basis, samples.spatial, responses.data.dtype)
        kind = Kind.of(expansion, responses.components, self.linear_model)
        if seen is not None:
            kind.refuse_other(self._kind)
        return Calibrate(self, samples, responses, expansion, kind, seen)

    def _card(self) -> str:
        kernels = np.real(self.coef_)
        n_spatial, states = len(self.size_), kernels.shape[len(self.size_)]
        first = kernels.reshape(*kernels.shape[: n_spatial + 1], -1)[..., 0]
        facts = {"size": self.size_, "states": states, "response": self._components or "one number for each voxel"}
        if self.n_samples_seen_:
            facts["samples seen"] = self.n_samples_seen_
        if self.alpha_:
            facts["alpha"] = f"{self.alpha_:.3g}"
        maps = [(centre_of(first[..., state], n_spatial), f"α[{state}; r]") for state in range(min(MOST_DRAWN, states))]
        pictures = [picture(*each, diverging=True) for each in maps]
        cut = [cut_of(first, n_spatial), f"{MOST_DRAWN} of {states} states" * (states > MOST_DRAWN)]
        return card("MKSLocalizationModel", facts, pictures, notes=[f"Drawn: {each}." for each in cut if each])

    @operation
    def predict(self, X: ArrayLike, size: Sequence[int] | None = None) -> Operation[Any]:
        """Predict the local response of samples. The result is lazy for lazy input, with one task for each chunk.

        Parameters
        ----------
        X : array, shape (n_samples, *size_), or flat
            Local state of each voxel.
        size : tuple of int, optional
            Spatial shape of flat samples. Default: `size_`.

        Returns
        -------
        array of the kind of `X`, shape (n_samples, *size_) or (n_samples, *size_, *components)
            For flat X the result is flat too, (n_samples, n_voxels · n_components). It is real if the responses of
            `fit` were.

        Raises
        ------
        ValueError
            If the samples have another size than the kernels. `resize_coeff` changes the size of the kernels.
        """
        samples = self._samples(X, size)
        self._check_size(samples.spatial)
        expansion = Expansion.of(samples.basis, self.size_, self._kernels.dtype)
        if expansion.n_states != self._kernels.shape[-2]:
            msg = f"X holds {expansion.n_states} local states along its last axis, fit saw {self._kernels.shape[-2]}"
            raise ValueError(msg)
        dtype = np.dtype(expansion.dtype if self._has_real_response else expansion.spectral_dtype)
        return Predict(self, samples, expansion, dtype)

    def _samples(self, X: ArrayLike, size: Sequence[int] | None) -> Samples:
        """Take samples to predict, in the basis with which the model was fitted."""
        check_is_fitted(self, "size_")
        fitted = self._basis
        basis = None if isinstance(fitted, GivenStates) and fitted.is_checked else fitted
        return Samples.of(X, basis, size=size, like=replace(self.grid_, shape=self.size_))

    def score(
        self,
        X: ArrayLike,
        y: ArrayLike,
        size: Sequence[int] | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> float:
        """Score predictions by R² over all voxels of all samples, averaged over components.

        Lazy input is computed once.

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
            1 for a perfect prediction. A component that is constant in y counts 0 if it is missed, as in scikit-learn.

        Raises
        ------
        ValueError
            If shapes or the labels of samples do not fit, if weights are negative or all 0, or if y or the prediction
            is not finite.
        """
        predicted, _ = unwrap(self.predict(X, size), name="prediction")
        n_samples = int(predicted.shape[0])
        samples = self._samples(X, size)
        responses = Responses.of(y, samples)
        if responses.components != self._components:
            msg = f"y has components of shape {responses.components}, fit saw {self._components}"
            raise ValueError(msg)
        weights = np.ones(n_samples)
        if sample_weight is not None:
            weights = matched_values(sample_weight, first_index(samples, y), name="sample_weight")
        if weights.shape != (n_samples,) or not (weights >= 0).all() or not 0 < weights.sum() < np.inf:
            msg = (
                "sample_weight must hold one weight from 0 for each of the samples, not all of them 0, and X must hold "
                f"one sample at least; got {n_samples} samples and weights {weights!r}"
            )
            raise ValueError(msg)
        return r2_of_fields(predicted.reshape(responses.data.shape), responses.data, weights)

    def resize_coeff(self, size: Sequence[int]) -> Self:
        """Extend the kernels to a larger domain. They are zero at all lags that were not calibrated.

        This is why localization is cheap: small samples calibrate the model, and it predicts large ones. The prediction
        is good if the kernels have decayed at the edge of the domain on which they were calibrated.

        Parameters
        ----------
        size : tuple of int
            Number of voxels along each axis of the samples to predict. It must not be smaller than in calibration.

        Returns
        -------
        MKSLocalizationModel
            The model itself.

        Raises
        ------
        ValueError
            If the domain is smaller than that of the calibration, or has another number of axes.

        Notes
        -----
        The model keeps the kernels as they were calibrated, and pads them when it uses them. For an even number of
        voxels, lags -n/2 and n/2 are the same lag in calibration. On the larger domain, each of the two gets half of
        the value.

        Elastic kernels fall off as the inverse dth power of the distance in d dimensions, so calibration samples
        should be a few times larger than the features of the samples to predict. The volume fractions of calibration
        samples should differ too. If they are all equal, the mean response is known for one fraction only, but on a
        larger domain the fraction varies from place to place.
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
        """Influence kernels α[h; r] on the domain `size_`, with lag 0 in the centre."""
        check_is_fitted(self, "size_")
        kernels = resized(self._kernels, self.size_)
        kernels = kernels.reshape(*kernels.shape[:-1], *self._components)
        kernels.flags.writeable = False
        return kernels

    @coef_.setter
    def coef_(self, kernels: ArrayLike) -> None:
        is_fitted = hasattr(self, "size_")
        values = kernels_argument(
            to_numpy(kernels),
            n_states=None if self.basis is None else len(self.basis.states),
            n_spatial=len(self.size_) if is_fitted else None,
            components=self._components if is_fitted else (),
        )
        if not is_fitted:
            self._components, self._response_labels = (), ((), {})
            self._has_real_response = values.dtype.kind != "c"
        n_spatial = values.ndim - 1 - len(self._components)
        spatial, n_states = values.shape[:n_spatial], values.shape[n_spatial]
        is_complex = values.dtype.kind == "c"
        given = GivenStates(n_states, is_complex=is_complex, is_checked=True)
        basis = given if self.basis is None else clone(self.basis)
        grid = replace(self.grid_, shape=spatial) if is_fitted else Grid.of(None, spatial)
        self._set_kernels(values.reshape(*spatial, n_states, -1), basis, self._components, grid)
        # The samples that the model has seen do not belong to these kernels.
        self._calibration, self.n_samples_seen_, self.alpha_ = None, 0, None

    def _set_kernels(self, kernels: Array, basis: Basis, components: tuple[int, ...], grid: Grid) -> None:
        """Use kernels of shape (*spatial, n_states, n_components), which belong to samples on a grid."""
        self._kernels, self._basis, self._components, self.grid_ = kernels, basis, components, grid
        self._kernels.flags.writeable = False
        self._kept_transfer, self.size_ = None, grid.shape

    @property
    def phases_(self) -> tuple[str, ...]:
        """Names of the phases of `grid_`."""
        return self.grid_.phases

    def _reaches(self, size: tuple[int, ...]) -> bool:
        """Whether the kernels can be extended to a domain."""
        calibrated = self._kernels.shape[: len(self.size_)]
        return len(size) == len(calibrated) and all(n >= m for n, m in zip(size, calibrated, strict=True))

    def _check_size(self, spatial: tuple[int, ...]) -> None:
        if spatial == self.size_:
            return
        remedy = f"calibrate on samples of {spatial} voxels or fewer"
        if self._reaches(spatial):
            remedy = f"call resize_coeff({spatial}) first, which pads the kernels with zeros"
        elif len(spatial) != len(self.size_):
            remedy = f"use samples with {len(self.size_)} spatial axes"
        msg = f"X holds samples of {spatial} voxels, but the kernels are for {self.size_}; {remedy}"
        raise ValueError(msg)

    def _check_parameters(self) -> None:
        check_penalty(self.alpha, self.linear_model)
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
        sizes, found = (
            dict(zip(dims, self._components, strict=True)),
            {dim: len(coord) for dim, coord in coords.items()},
        )
        agree("the sizes of _response_labels", found, {dim: sizes.get(dim) for dim in coords})
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
