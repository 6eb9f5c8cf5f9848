"""MKSLocalizationModel: from microstructures to local fields, by influence kernels α[h; r]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from mksdask.arrays import Array, ArrayLike, is_number, unwrap
from mksdask.bases.base import Basis
from mksdask.bases.given import GivenStates
from mksdask.compute.operation import Operation, operation
from mksdask.labels import first_index, matched_values
from mksdask.localization.calibration import Calibrate, Kind, Responses
from mksdask.localization.expansion import Expansion
from mksdask.localization.fitted import FittedKernels
from mksdask.localization.influence import Calibration, Spectra
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
)
from mksdask.schema.arguments import check_argument

# Dtypes of kernels.
FIELDS = "f2 f4 f8 c8 c16"


class MKSLocalizationModel(RegressorMixin, FittedKernels):
    r"""Predict a local field, such as the strain in each voxel, from the microstructure around each voxel.

    The model is the series of Materials Knowledge Systems. To first order, it is

    .. math:: p[s] = \sum_h \sum_r \alpha[h; r]\, m[h; s - r]

    The influence kernel :math:`\alpha[h; r]` is what state h in one voxel adds to the response of the voxel at lag r
    from it. At each frequency k the sum is a product, :math:`P[k] = \sum_h A[h; k]\, M[h; k]`. `fit` finds A at all
    frequencies by least squares over the samples, in one pass.

    With ``order=n`` the series goes to order n. This is for responses that vary much, such as those of phases whose
    moduli differ by a factor above 2. See the notes.

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
    order : int, default 1
        Highest order of the series. Each order takes one more pass over the samples.

    Attributes
    ----------
    coef_ : ndarray, shape (*size_, n_states) or (*size_, n_states, *components), or mapping of int to ndarray
        Influence kernels α[h; r], with lag 0 at index n//2 of each axis. The array is read-only, but a new one can be
        assigned. On an unfitted model, it must hold the kernels of a scalar response. With `order` above 1,
        ``coef_[k]`` holds the kernels of order k, for the states that ``terms_[k]`` lists.
    terms_ : dict of int to tuple
        The states of each order. (h, None) is m[h; s], (h, c) is m[h; s] (p_c[s] - p̄_c), and (None, c) is
        p_c[s] - p̄_c. h counts the states of the basis, and c the components of the response in C order.
    mean_response_ : ndarray, shape (*components,)
        Mean response p̄ in the samples of `fit`.
    explained_ : tuple of float or None
        For each order, the share of ``Σ |P[k]|²`` that it explains in the samples of `fit`, over all components and all
        frequencies except zero. None if the responses do not vary, or if the kernels were assigned.
    grid_ : Grid
        Geometry of the samples of `fit`. Later samples are compared with it: samples with other phases are refused, and
        another voxel size, other units or other periodic axes give a warning.
    size_ : tuple of int
        Spatial shape of the samples that `predict` takes.
    phases_ : tuple of str
        Names of the phases of `grid_`.
    n_samples_seen_ : int
        Number of samples seen by `fit` and `partial_fit`. 0 after `coef_` was assigned.
    alpha_ : float, None, or a tuple of them for each order
        λ of the kernels. None if they were assigned, or if the penalty of `linear_model` is no ridge.

    Notes
    -----
    **Higher orders.** The second term of Eq. 4 has a kernel α[h, h'; r, r'] of two lags, which is too large to fit or
    to keep. The theory makes it a product of kernels of one lag, and so does this model. Order k + 1 is a series of
    first order in the states m[h; s] and m[h; s] (p_c[s] - p̄_c), where p_c are the components of the response as
    order k predicts it, and p̄_c is their mean in the samples of `fit`. The constant p̄_c changes no prediction, but it
    keeps the products apart from m[h; s]. All lags of both kernels are kept. `pair_coeff` computes α[h, h'; r, r'].

    Where Σ_h w_h m[h; s] = 1, the products of one component add up to p_c. At second order, p_c follows from m[h; s],
    so the product with the last state of that sum is left out. In a basis without such weights, p_c itself is a state
    from third order on. Then no order explains less of the samples of `fit` than the order below. `terms_` lists the
    states.

    Columns of the least-squares problems are scaled to unit norm at each frequency if `order` is above 1: all states of
    the basis together, and each product by itself. λ then belongs to the scaled columns, so it is a share: 1e-6 to 1e-4
    are useful values, and 0 is often as good. "gcv" chooses a λ for each order. Singular values below `lstsq_rcond` =
    √ε of the largest count as zero, for the rounding unit ε, because the components of a strain field depend on each
    other, and so do their products.

    `partial_fit` adds samples to the highest order. The orders below stay as the first call found them, because their
    predictions are states of the highest order. For linear elasticity, the finite elements of `solve_fields` with
    ``tolerance=0.1`` are about as accurate and as fast as the series. The series is for responses whose solver is slow
    or unknown, and for experiments.

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
    condition number. `fit` computes lazy input once for each order. `predict` computes nothing.

    **Memory.** It does not depend on the number of samples. Let D be the number of transformed states (n_states, or one
    fewer for a basis whose states sum to a constant), C the number of components of the response, and F ≈ n_voxels/2
    the number of frequencies. A factor takes ``16 D (D + C) F`` bytes in double precision, which is 0.27 GB for 256³
    voxels, two states and a scalar response. A task of `fit` holds its chunk, two factors, and D + C + 2 transforms of
    one small batch of samples. About eight factors, and some for each worker, wait for the merge. A task of `predict`
    holds its result, C + 3 transforms of a batch, and D·C spectra, which the model keeps if X is in memory. A fitted
    model, and its pickle, holds one factor beside its kernels, so that `partial_fit` can continue. The choice of a
    ridge takes ``64 D F`` bytes. With `order` above 1, D is the number of transformed states of that order, a task also
    holds the ``D C`` spectra of each order below, and the orders below are predicted again in each task, because this
    takes about as long as reading their predictions from a store would. Spectra, which some linear models need, take
    ``16 (D + C) F`` bytes a sample, twice.

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

    Stiffer inclusions need a higher order:

    >>> from mksdask.datasets import make_microstructure, solve_fields
    >>> X = make_microstructure(n_samples=60, size=(16, 16), grain_size=4)
    >>> strain = solve_fields(X, elastic_modulus=(1, 10), poissons_ratio=(0.3, 0.3)).strain
    >>> series = MKSLocalizationModel(PrimitiveBasis(2), order=4).fit(X[:50], strain[:50])
    >>> (series.score_by_order(X[50:], strain[50:]) > [0.6, 0.85, 0.9, 0.9]).tolist()
    [True, True, True, True]
    """

    _kind: Kind

    _saved = Saved(
        {
            "basis": Part(Basis) | NOTHING,
            "alpha": Number() | Choice("gcv"),
            "lstsq_rcond": Number() | NOTHING,
            "linear_model": NOTHING | LinearModelKind(),
            "order": Whole(1),
        },
        fitted={
            "_kernels": Listed(
                ArrayOf(FIELDS, "x", None, "component")
                | ArrayOf(FIELDS, "x", "y", None, "component")
                | ArrayOf(FIELDS, "x", "y", "z", None, "component"),
                1,
            ),
            "_mean": ArrayOf("f8 c16", "component"),
            "_basis": Part(Basis),
            "_components": Listed(Whole(1)),
            "_response_labels": Record(Listed(TEXT), Named(LABELS | ArrayOf(NUMBERS, None))),
            "_quantity": Named(TEXT),
            "_has_real_response": FLAG,
            "size_": Listed(Whole(1), 1, 3),
            "grid_": Part(Grid),
            "n_samples_seen_": Whole(0),
            "_ridges": Listed(Number(0) | NOTHING),
            "explained_": Listed(Number() | NOTHING),
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
        order: int = 1,
    ) -> None:
        self.basis = basis
        self.alpha = alpha
        self.lstsq_rcond = lstsq_rcond
        self.linear_model = linear_model
        self.order = order

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

        Warns
        -----
        UserWarning
            If `order` is 1 and the first order explains less than half of the fluctuation of y.
        """
        return self._calibrate(X, y, size, None)

    @operation
    def partial_fit(self, X: ArrayLike, y: ArrayLike, size: Sequence[int] | None = None) -> Operation[Self]:
        """Continue the calibration with further samples. Up to rounding, the result is that of `fit` on all samples.

        With `order` above 1, this holds for the highest order, on the predictions of the orders below as the first call
        found them.

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
        kind = Kind.of(expansion, responses.components, self.linear_model, int(self.order))
        if seen is not None:
            kind.refuse_other(self._kind)
        return Calibrate(self, samples, responses, expansion, kind, seen)

    @operation
    def predict(self, X: ArrayLike, size: Sequence[int] | None = None, *, order: int | None = None) -> Operation[Any]:
        """Predict the local response of samples. The result is lazy for lazy input, with one task for each chunk.

        Parameters
        ----------
        X : array, shape (n_samples, *size_), or flat
            Local state of each voxel.
        size : tuple of int, optional
            Spatial shape of flat samples. Default: `size_`.
        order : int, optional
            Order of the series to predict. Default: the highest order of the fitted model.

        Returns
        -------
        array of the kind of `X`, shape (n_samples, *size_) or (n_samples, *size_, *components)
            For flat X the result is flat too, (n_samples, n_voxels · n_components). It is real if the responses of
            `fit` were. If X is a DataArray, the result has its samples and its geometry, and the names of the
            components, the quantity (attribute ``long_name``) and the unit (``units``) of the responses of `fit`.

        Raises
        ------
        ValueError
            If the samples have another size than the kernels, or the model has no such order. `resize_coeff` changes
            the size of the kernels.
        """
        samples = self._samples(X, size)
        highest = len(self._kernels)
        if order is not None:
            check_argument(order, "order")
            if order > highest:
                msg = (
                    f"order must be at most {highest}, the order of the fitted model, got {order!r}; fit a higher order"
                )
                raise ValueError(msg)
        self._check_size(samples.spatial)
        first = self._kernels[0]
        expansion = Expansion.of(samples.basis, self.size_, first.dtype)
        if expansion.n_states != first.shape[-2]:
            msg = f"X holds {expansion.n_states} local states along its last axis, fit saw {first.shape[-2]}"
            raise ValueError(msg)
        dtype = np.dtype(expansion.dtype if self._has_real_response else expansion.spectral_dtype)
        return Predict(self, samples, expansion, dtype, highest if order is None else int(order))

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
        check_is_fitted(self, "size_")
        return float(self._scores(X, y, size, sample_weight, [len(self._kernels)])[0])

    def score_by_order(
        self,
        X: ArrayLike,
        y: ArrayLike,
        size: Sequence[int] | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Array:
        """Score the predictions of each order, so that one sees at which order to stop.

        Lazy input is computed once.

        Parameters
        ----------
        X, y, size, sample_weight
            As in `score`.

        Returns
        -------
        ndarray, shape (order,)
            R² of orders 1, 2, …, each as `score` computes it.

        Raises
        ------
        ValueError
            As in `score`.
        """
        check_is_fitted(self, "size_")
        return self._scores(X, y, size, sample_weight, range(1, len(self._kernels) + 1))

    def _scores(
        self,
        X: ArrayLike,
        y: ArrayLike,
        size: Sequence[int] | None,
        sample_weight: ArrayLike | None,
        orders: Sequence[int],
    ) -> Array:
        fields = [unwrap(self.predict(X, size, order=order), name="prediction")[0] for order in orders]
        n_samples = int(fields[0].shape[0])
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
        shape = responses.data.shape
        return r2_of_fields([field.reshape(shape) for field in fields], responses.data, weights)

    def _check_parameters(self) -> None:
        check_argument(self.order, "order")
        check_penalty(self.alpha, self.linear_model)
        if self.lstsq_rcond is not None and not (is_number(self.lstsq_rcond) and 0 <= self.lstsq_rcond < 1):
            msg = f"lstsq_rcond must lie in [0, 1), or be None, got {self.lstsq_rcond!r}"
            raise ValueError(msg)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.target_tags.single_output = False
        tags.input_tags.three_d_array = True
        return tags
