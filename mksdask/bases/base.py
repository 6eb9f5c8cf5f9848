"""Base classes of the bases. They compute the microstructure function m[h; s] of samples, lazily for lazy input."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from inspect import signature
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.utils import Tags

from mksdask.arrays import (
    Array,
    ArrayLike,
    integers,
    is_trial_of_dask_ml,
    label_alike,
    numbers_argument,
    shown,
    unwrap_samples,
)
from mksdask.compute.blocks import map_samples
from mksdask.display.cards import WithCard, card, curves, value_text
from mksdask.schema import NOTHING, Kind, Listed, Number, Record, Whole
from mksdask.schema.arguments import checked

# The picture of a basis shows at most this many of its functions.
MOST_DRAWN = 7
# Most states of a basis.
MOST_STATES = 2**16
# Larger numbers than this are not taken for phases by an error.
MOST_PHASES = 32


class Basis(WithCard, TransformerMixin, BaseEstimator):
    """Base class of the local-state bases.

    A basis expands the local state χ of each voxel in functions ``B_h``: ``m[h; s] = B_h(χ[s])`` for each h in
    `states`. A subclass defines `states`, `placeholder`, `identity`, `_functions` and `_check`. The last two take NumPy
    arrays of local states of any shape. This class adds laziness, labels and the interface of a scikit-learn
    transformer.
    """

    #: Number of axes after the spatial axes. They hold the components of one local state.
    state_axes = 0
    #: Number of components of one local state.
    state_size = 1
    #: Whether m[h; s] is complex.
    is_complex: bool = False
    #: Whether no m[h; s] is ever negative. None if this depends on the samples.
    is_non_negative: bool | None = False
    #: Whether the local states are phases, so that the names of phases name them.
    states_are_phases = False

    @property
    @abstractmethod
    def states(self) -> tuple[int, ...]:
        """Labels of the states, in the order of the last axis of m[h; s]."""

    @property
    def unity(self) -> NDArray[np.float64] | None:
        """Weights w_h with Σ_h w_h m[h; s] = 1 in each voxel of any microstructure. None if no weights do so."""
        return None

    @property
    def is_complete(self) -> bool:
        """Whether Σ_h m[h; s] = 1 in each voxel."""
        return self.unity is not None and bool((self.unity == 1.0).all())

    @property
    @abstractmethod
    def placeholder(self) -> Any:
        """A local state inside the domain. It fills voxels that hold no data."""

    @property
    @abstractmethod
    def identity(self) -> tuple[Any, ...]:
        """A key that two bases of the same functions share, even if their parameters were written differently."""

    @abstractmethod
    def _functions(self, values: Array, states: Sequence[int], dtype: DTypeLike) -> Iterator[Array]:
        """Yield B_h of the local states, one h after the other. `states` holds indices into the labels."""

    @abstractmethod
    def _check(self, values: Array) -> None:
        """Refuse local states that are not finite or lie outside the domain."""

    def result_dtype(self, dtype: DTypeLike) -> np.dtype[Any]:
        """Return the dtype of m[h; s] for a real dtype. It is complex for complex bases."""
        try:
            found = np.dtype(dtype)
        except (TypeError, ValueError) as error:
            msg = f"dtype must be a data type, such as 'float32', got {dtype!r}"
            raise TypeError(msg) from error
        return np.result_type(found, np.complex64) if self.is_complex else found

    def work_bytes(self, n_voxels: int, n_states: int, dtype: DTypeLike) -> int:
        """Bytes that `fields` takes for a number of voxels and of functions, beside the field that it yields."""
        return 0

    def fields(self, values: Array, states: Sequence[int], dtype: DTypeLike) -> Iterator[Array]:
        """Check that local states lie in the domain, and expand them in some of the functions, one after the other.

        Parameters
        ----------
        values : ndarray, shape (...)
            Local states. Their shape is (..., n_components) if a local state has components.
        states : sequence of int
            Indices into `states`.
        dtype : dtype
            float32 or float64.

        Yields
        ------
        ndarray, shape (...)
            B_h of the local states, of dtype ``result_dtype(dtype)``. Do not write to it.

        Raises
        ------
        ValueError
            If a value is NaN or lies outside the domain.
        """
        self._check(values)
        yield from self._functions(values, states, dtype)

    def weighted_fields(
        self, values: Array, confidence: Array | None, states: Sequence[int], dtype: DTypeLike
    ) -> Iterator[Array]:
        """Expand local states as `fields` does, and weight each voxel by its confidence: c[s] m[h; s].

        Parameters
        ----------
        values, states, dtype
            As in `fields`.
        confidence : ndarray, shape (...), or None
            Weights from 0. Where one is 0, the local state does not matter: it may be NaN.

        Yields
        ------
        ndarray, shape (...)
            As `fields` does.
        """
        if confidence is None:
            yield from self.fields(values, states, dtype)
            return
        observed = confidence > 0
        if not observed.all():
            placeholder = np.asarray(self.placeholder)
            same = placeholder.astype(values.dtype)
            # Values keep their type where they can, since numbers of phases are expanded faster.
            fill = same if (same == placeholder).all() else placeholder
            values = np.where(observed if values.ndim == observed.ndim else observed[..., None], values, fill)
        weights = confidence.astype(dtype, copy=False)
        for field in self.fields(values, states, dtype):
            yield field * weights

    def _expand(self, block: Array, *, dtype: DTypeLike) -> Array:
        spatial = block.shape[1 : block.ndim - self.state_axes]
        states = range(len(self.states))
        out = np.empty((len(block), *spatial, len(states)), dtype=self.result_dtype(dtype))
        for target, sample in zip(out, block, strict=True):
            for state, field in enumerate(self.fields(sample, states, dtype)):
                target[..., state] = field
        return out

    @checked
    def discretize(self, X: ArrayLike, *, dtype: DTypeLike = "float64") -> Any:
        """Compute the microstructure function of samples.

        Parameters
        ----------
        X : array, shape (n_samples, *spatial)
            Local state of each voxel; NumPy, dask or xarray.
        dtype : {"float64", "float32"}
            Precision of the result.

        Returns
        -------
        array of the kind of `X`, shape (n_samples, *spatial, n_states)
            ``m[h; s]``. The result is lazy for lazy input, with one task for each chunk.

        Raises
        ------
        ValueError
            If a value is NaN or lies outside the domain. Lazy input is checked when it is computed.
        """
        data, labels = unwrap_samples(X)
        spatial = data.shape[1 : data.ndim - self.state_axes]
        if data.ndim <= self.state_axes:
            msg = f"X must be (n_samples, *spatial{f', {self.state_size}' * self.state_axes}), got shape {data.shape}"
            raise ValueError(msg)
        result = map_samples(
            partial(clone(self)._expand, dtype=dtype),
            data,
            tail=(*spatial, len(self.states)),
            dtype=self.result_dtype(dtype),
            name="discretize",
        )
        coords = {"state": list(self.states)}
        return label_alike(result, labels, len(spatial), name="microstructure_function", dims=("state",), coords=coords)

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Do nothing, because a basis has nothing to learn.

        Parameters
        ----------
        X : array, shape (n_samples, *spatial)
            Ignored.
        y : None
            Ignored.
        """
        return self

    def transform(self, X: ArrayLike) -> Any:
        """Compute the microstructure function of samples. This is `discretize` under the name that scikit-learn uses.

        Parameters
        ----------
        X : array, shape (n_samples, *spatial)
            Local state of each voxel.

        Returns
        -------
        array of the kind of `X`, shape (n_samples, *spatial, n_states)
        """
        return self.discretize(X)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        """Name the states, which scikit-learn leaves out where they are the default, and what else was chosen."""
        usual = {name: each.default for name, each in signature(type(self)).parameters.items()}
        given = self.get_params(deep=False)
        shown = {name: each for name in usual if repr(each := given[name]) != repr(usual[name]) or name == "n_states"}
        return f"{type(self).__name__}({', '.join(f'{name}={each!r}' for name, each in shown.items())})"

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags

    def _card(self) -> str:
        return card(f"m[h; s] of {len(self.states)} states", self._facts(), self._pictures())

    def _facts(self) -> dict[str, Any]:
        return {
            "states": value_text(list(self.states[:MOST_DRAWN])) + ", …" * (len(self.states) > MOST_DRAWN),
            "local state": "a number" if self.state_size == 1 else f"{self.state_size} numbers",
            "values": "complex" if self.is_complex else "real",
            "Σ m = 1": self.is_complete,
        }

    def _pictures(self) -> list[str]:
        return []


def chosen_labels(n_states: int | Sequence[int], first: Callable[[int], Iterable[int]] = range) -> tuple[int, ...]:
    """Return the labels of the states: the given labels, or the first `n_states` labels.

    Raises
    ------
    ValueError
        If `n_states` names no state, or names one twice.
    """
    if type(n_states) is int and 0 < n_states <= MOST_STATES:
        return tuple(first(n_states))
    is_one = isinstance(n_states, int | np.integer)
    wanted = integers(n_states)
    if (wanted is None and not (isinstance(n_states, list | tuple) and not n_states)) or isinstance(n_states, bool):
        msg = f"n_states must be a positive int or a list of integer state labels, got {shown(n_states)}"
        raise ValueError(msg)
    if wanted is None:
        wanted = np.array([], dtype=int)
    if is_one and int(wanted[0]) > MOST_STATES:
        msg = f"n_states must be at most {MOST_STATES}, got {n_states!r}, because each state is a field of its own"
        raise ValueError(msg)
    labels = tuple(first(int(wanted[0]))) if is_one else tuple(wanted.tolist())
    if not labels or len(set(labels)) < len(labels):
        msg = f"n_states must be a positive int or a list of different state labels, got {n_states!r}"
        raise ValueError(msg)
    return labels


class ScalarBasis(Basis):
    """Base class of the bases whose local state is one number in an interval.

    Parameters
    ----------
    n_states : int or sequence of int
        Number of states, or the labels of the states to keep.
    domain : tuple of float, optional
        Lowest and highest value of the local state.
    """

    #: Whether values outside the domain wrap around instead of being refused.
    periodic_domain = False
    #: What those save that declare it.
    _parameters: ClassVar[dict[str, Kind]] = {
        "n_states": Whole(1, sized=True) | Listed(Whole(sized=True), 1),
        "domain": Record(Number(), Number()) | NOTHING,
    }

    def __init__(self, n_states: int | Sequence[int] = 2, domain: Sequence[float] | None = None) -> None:
        self.n_states = n_states
        self.domain = domain

    @property
    def states(self) -> tuple[int, ...]:
        """Labels of the states, in the order of the last axis of m[h; s].

        Raises
        ------
        ValueError
            If `n_states` names no state, or names one twice.
        """
        return chosen_labels(self.n_states)

    @property
    def placeholder(self) -> float:
        """The lowest local state."""
        return self._interval()[0]

    @property
    def identity(self) -> tuple[Any, ...]:
        """Name of the class, states and domain."""
        return type(self).__name__, self.states, self._interval()

    @property
    @abstractmethod
    def _default_domain(self) -> tuple[float, float]:
        """Domain that is used if `domain` is None."""

    def _interval(self) -> tuple[float, float]:
        """Return the lowest and the highest local state."""
        if self.domain is None:
            return self._default_domain
        ends = numbers_argument(self.domain, "domain")
        low, high = ends if ends.shape == (2,) else (0.0, 0.0)
        if not (np.isfinite(low) and np.isfinite(high) and low < high):
            msg = f"domain must be (lowest, highest), two finite numbers in rising order, got {self.domain!r}"
            raise ValueError(msg)
        return float(low), float(high)

    def _restored(self, most: int) -> None:
        # Refuses states or a domain that make no sense.
        _ = self.identity

    def _facts(self) -> dict[str, Any]:
        return {"domain": list(self._interval()), "states": list(self.states)} | super()._facts()

    def _pictures(self) -> list[str]:
        values = np.linspace(*self._interval(), 97)
        drawn = list(self.fields(values, range(min(MOST_DRAWN, len(self.states))), np.float64))
        parts = [("Re ", np.real(drawn)), ("Im ", np.imag(drawn))] if self.is_complex else [("", np.array(drawn))]
        return [curves(values, part, f"{prefix}m[h] over the domain") for prefix, part in parts]

    def _check(self, values: Array) -> None:
        if values.dtype.kind == "c":
            msg = f"X must be real for {self!r}, got {values.dtype}"
            raise TypeError(msg)
        if not values.size:
            return
        low, high = self._interval()
        smallest, largest = values.min(), values.max()
        check_finite(smallest, largest)
        if not self.periodic_domain and (smallest < low or high < largest) and not is_trial_of_dask_ml():
            msg = (
                f"X holds values from {smallest} to {largest}, outside the domain [{low:g}, {high:g}] of {self!r}; "
                f"{self._remedy(values)}"
            )
            raise ValueError(msg)

    def _remedy(self, values: Array) -> str:
        """Say how to mend values outside the domain."""
        whole, found = "rescale X, or give the basis the domain or the n_states of your data", np.unique(values)
        if values.dtype == np.uint8 and values.shape[-1:] in ((3,), (4,)):
            return (
                f"the last axis of X has the length {values.shape[-1]}: if it holds the colours of an image, make one "
                "number of them, such as X[..., :3].mean(axis=-1), and find the phases"
            )
        if not (self.states_are_phases and self.domain is None and (found == np.rint(found)).all()):
            return whole
        n_phases = int(found[-1]) + 1
        if len(found) == 2:
            return f"if these are two phases, number them 0 and 1, such as X == {found[-1]}"
        if found[0] >= 0 and n_phases <= MOST_PHASES:
            start = f", or number the phases from 0, such as X - {found[0]}" if found[0] > 0 else ""
            return f"if these are phase numbers, use {type(self).__name__}({n_phases}){start}"
        return whole


def check_finite(*extremes: float) -> None:
    """Check the smallest and the largest value of samples.

    Raises
    ------
    ValueError
        If one of them is NaN or infinite.
    """
    if not np.isfinite(extremes).all():
        msg = (
            "X holds NaN or infinite values; leave out the samples that have them or, for statistics, give these "
            "voxels a confidence_index of 0"
        )
        raise ValueError(msg)
