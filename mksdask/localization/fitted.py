"""The influence kernels of a fitted model, order by order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.utils.validation import check_is_fitted

from mksdask.arrays import Array, ArrayLike, integers, shown, sizes_argument, to_numpy
from mksdask.bases.base import Basis
from mksdask.bases.given import GivenStates
from mksdask.display.cards import WithCard, card, centre_of, cut_of, picture
from mksdask.localization.expansion import FieldFFT
from mksdask.localization.influence import Calibration, Spectra
from mksdask.localization.response import kernels_argument, resized
from mksdask.localization.series import Term, terms
from mksdask.samples import Grid
from mksdask.schema import agree

# A card draws at most this many kernels.
MOST_DRAWN = 4


class FittedKernels(WithCard, BaseEstimator):
    """The part of `MKSLocalizationModel` that holds and shows the kernels of all orders."""

    basis: Basis | None
    order: int
    grid_: Grid
    size_: tuple[int, ...]
    n_samples_seen_: int
    explained_: tuple[float | None, ...]
    _calibration: Calibration | Spectra | None
    _components: tuple[int, ...]
    _response_labels: tuple[tuple[str, ...], dict[str, Any]]
    _quantity: dict[str, str]
    _has_real_response: bool
    _basis: Basis
    _kernels: tuple[Array, ...]  # of each order: (*calibrated spatial, n_states of the order, n_components)
    _ridges: tuple[float | None, ...]
    _mean: Array  # (n_components,)
    _kept_transfer: tuple[tuple[FieldFFT, int], list[tuple[Array, Array]]] | None

    @property
    def coef_(self) -> Array | Mapping[int, Array]:
        """Kernels on the domain `size_`, with lag 0 in the centre. With `order` above 1, those of each order."""
        check_is_fitted(self, "size_")
        found = {}
        for order, values in enumerate(self._kernels, 1):
            kernels = resized(values, self.size_)
            found[order] = kernels.reshape(*kernels.shape[:-1], *self._components)
            found[order].flags.writeable = False
        return found[1] if len(found) == 1 else MappingProxyType(found)

    @coef_.setter
    def coef_(self, kernels: ArrayLike) -> None:
        if self.order != 1:
            msg = f"coef_ can be assigned if order is 1, got order={self.order!r}; call set_params(order=1) first"
            raise ValueError(msg)
        is_fitted = hasattr(self, "size_")
        values = kernels_argument(
            to_numpy(kernels),
            n_states=None if self.basis is None else len(self.basis.states),
            n_spatial=len(self.size_) if is_fitted else None,
            components=self._components if is_fitted else (),
        )
        if not is_fitted:
            self._components, self._response_labels, self._quantity = (), ((), {}), {}
            self._has_real_response = values.dtype.kind != "c"
        n_spatial = values.ndim - 1 - len(self._components)
        spatial, n_states = values.shape[:n_spatial], values.shape[n_spatial]
        is_complex = values.dtype.kind == "c"
        given = GivenStates(n_states, is_complex=is_complex, is_checked=True)
        basis = given if self.basis is None else clone(self.basis)
        grid = replace(self.grid_, shape=spatial) if is_fitted else Grid.of(None, spatial)
        first = values.reshape(*spatial, n_states, -1)
        self._set_kernels((first,), basis, self._components, grid, np.zeros(first.shape[-1]))
        # The samples that the model has seen do not belong to these kernels.
        self._calibration, self.n_samples_seen_, self._ridges, self.explained_ = None, 0, (None,), (None,)

    def _set_kernels(
        self, kernels: tuple[Array, ...], basis: Basis, components: tuple[int, ...], grid: Grid, mean: Array
    ) -> None:
        """Use the kernels of each order, (*spatial, n_states, n_components), which belong to samples on a grid."""
        self._kernels, self._basis, self._components, self.grid_, self._mean = kernels, basis, components, grid, mean
        for values in (*kernels, mean):
            values.flags.writeable = False
        self._kept_transfer, self.size_ = None, grid.shape

    @property
    def alpha_(self) -> float | tuple[float | None, ...] | None:
        """λ of the kernels. With `order` above 1, that of each order."""
        check_is_fitted(self, "size_")
        return self._ridges[0] if len(self._ridges) == 1 else self._ridges

    @property
    def mean_response_(self) -> Array:
        """Mean response p̄ in the samples of `fit`, by which products are centred: shape (*components,)."""
        check_is_fitted(self, "size_")
        return self._mean.reshape(self._components)

    @property
    def terms_(self) -> dict[int, tuple[Term, ...]]:
        """What the kernels of each order multiply, in the order of the states axis of `coef_`."""
        check_is_fitted(self, "size_")
        n_components, n_orders = self._kernels[0].shape[-1], len(self._kernels)
        return {order: terms(self._basis, order, n_components) for order in range(1, n_orders + 1)}

    @property
    def phases_(self) -> tuple[str, ...]:
        """Names of the phases of `grid_`."""
        return self.grid_.phases

    def pair_coeff(self, lag: Sequence[int], other_lag: Sequence[int]) -> Array:
        r"""Compute the kernel of second order :math:`\alpha[h, h'; r, r']` of Eq. 4 for a pair of lags.

        .. math:: \alpha[h, h'; r, r'] = \sum_c \beta[h, c; r]\, \alpha_c[h'; r' - r]

        Here β holds the kernels ``coef_[2]`` of products with component c, and α_c those of first order, ``coef_[1]``.

        Parameters
        ----------
        lag, other_lag : sequence of int
            The lags r and r', with one number for each axis, in voxels. The domain `size_` is periodic.

        Returns
        -------
        ndarray, shape (n_states, n_states, *components)
            The first two axes are h and h'.

        Raises
        ------
        ValueError
            If the model was fitted with ``order=1``, or a lag has another number of axes.

        Notes
        -----
        Products are centred by `mean_response_`. Therefore the kernel of one voxel that belongs to it is
        ``coef_[2]`` of m[h] less Σ_c p̄_c β[h, c; r].
        """
        check_is_fitted(self, "size_")
        if len(self._kernels) < 2:
            msg = "pair_coeff needs kernels of second order, but the model was fitted with order=1; use order=2"
            raise ValueError(msg)
        places = []
        for name, given in (("lag", lag), ("other_lag", other_lag)):
            found = integers(given)
            if found is None or np.shape(given) != (len(self.size_),):
                msg = f"{name} must hold {len(self.size_)} integers, one for each axis, got {shown(given)}"
                raise ValueError(msg)
            places.append(found)
        first, second = (resized(values, self.size_) for values in self._kernels[:2])
        sizes = np.array(self.size_)
        at, apart = ((vector + sizes // 2) % sizes for vector in (places[0], places[1] - places[0]))
        n_states, n_components = first.shape[-2:]
        found = np.zeros((n_states, n_states, n_components), dtype=np.result_type(first, second))
        for kernel, (h, c) in zip(second[tuple(at)], self.terms_[2], strict=True):
            if h is not None and c is not None:
                found[h] += np.multiply.outer(first[tuple(apart)][:, c], kernel)
        return found.reshape(n_states, n_states, *self._components)

    def resize_coeff(self, size: Sequence[int]) -> Self:
        """Extend the kernels of all orders to a larger domain. They are zero at all lags that were not calibrated.

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
        calibrated = self._kernels[0].shape[: len(self.size_)]
        if not self._reaches(wanted):
            msg = (
                f"size must have {len(calibrated)} axes of at least the {calibrated} voxels that the kernels were "
                f"calibrated on, got {size!r}"
            )
            raise ValueError(msg)
        self.size_ = wanted
        return self

    def _card(self) -> str:
        kernels = np.real(resized(self._kernels[0], self.size_))
        n_spatial, states = len(self.size_), kernels.shape[len(self.size_)]
        first = kernels.reshape(*kernels.shape[: n_spatial + 1], -1)[..., 0]
        facts = {"size": self.size_, "states": states, "response": self._components or "one number for each voxel"}
        if self.n_samples_seen_:
            facts["samples seen"] = self.n_samples_seen_
        if len(self._kernels) > 1:
            facts["order"] = len(self._kernels)
        if any(self._ridges):
            facts["alpha"] = ", ".join(f"{ridge:.3g}" for ridge in self._ridges if ridge is not None)
        maps = [(centre_of(first[..., state], n_spatial), f"α[{state}; r]") for state in range(min(MOST_DRAWN, states))]
        pictures = [picture(*each, diverging=True) for each in maps]
        cut = [cut_of(first, n_spatial), f"{MOST_DRAWN} of {states} states" * (states > MOST_DRAWN)]
        return card("MKSLocalizationModel", facts, pictures, notes=[f"Drawn: {each}." for each in cut if each])

    def _reaches(self, size: tuple[int, ...]) -> bool:
        """Whether the kernels can be extended to a domain."""
        calibrated = self._kernels[0].shape[: len(self.size_)]
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

    def _restored(self, most: int) -> None:
        self._calibration = self._kept_transfer = None
        kernels, (dims, coords) = self._kernels[0], self._response_labels
        agree("the number of axes of size_", len(self.size_), kernels.ndim - 2)
        agree("size_", self.size_, self.size_ if self._reaches(self.size_) else f"{kernels.shape[:-2]} or more")
        agree("the product of _components", math.prod(self._components), kernels.shape[-1])
        agree("the number of axes of _response_labels", len(dims), len(self._components))
        sizes = dict(zip(dims, self._components, strict=True))
        found = {dim: len(coord) for dim, coord in coords.items()}
        agree("the sizes of _response_labels", found, {dim: sizes.get(dim) for dim in coords})
        agree("the number of values of _mean", len(self._mean), kernels.shape[-1])
        for order, values in enumerate(self._kernels, 1):
            shape = (*kernels.shape[:-2], len(terms(self._basis, order, kernels.shape[-1])), kernels.shape[-1])
            agree(f"the shape of the kernels of order {order}", values.shape, shape)
            values.flags.writeable = False
        agree("the number of values of _ridges", len(self._ridges), len(self._kernels))
        agree("the number of values of explained_", len(self.explained_), len(self._kernels))

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return {name: None if name == "_kept_transfer" else value for name, value in state.items()}
