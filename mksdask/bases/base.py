"""What all bases share: the microstructure function m[h; s] of samples, lazily."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.utils import Tags

from mksdask.arrays import ArrayLike, label, unwrap_samples
from mksdask.compute.blocks import map_samples
from mksdask.display.cards import WithCard, card, curves
from mksdask.storage.schema import NOTHING, Kind, Listed, Number, Record, Whole

# Functions in the picture of a basis.
MOST_DRAWN = 7


class Basis(WithCard, TransformerMixin, BaseEstimator):
    """Base class of the local-state bases.

    A basis expands the local state χ of each voxel in functions ``B_h``:
    ``m[h; s] = B_h(χ[s])``, h in `states`. A subclass writes `_functions` and `_check`, for arrays of local states of
    any shape; laziness, labels and the scikit-learn transformer come from here.
    """

    #: Number of axes after the spatial ones that hold the components of one local state.
    state_axes = 0
    #: Number of components of one local state.
    state_size = 1
    #: Whether m[h; s] is complex.
    is_complex = False

    @property
    @abstractmethod
    def states(self) -> tuple[int, ...]:
        """Labels of the local states, in the order of the last axis of m[h; s]."""

    @property
    def unity(self) -> NDArray[np.float64] | None:
        """Weights w_h for which Σ_h w_h m[h; s] = 1 in each voxel, whatever the microstructure; None without any."""
        return None

    @property
    def is_complete(self) -> bool:
        """Whether Σ_h m[h; s] = 1 in each voxel."""
        return self.unity is not None and bool((self.unity == 1.0).all())

    @property
    @abstractmethod
    def placeholder(self) -> Any:
        """Some local state of the domain, which stands where voxels hold no data."""

    @property
    @abstractmethod
    def identity(self) -> tuple[Any, ...]:
        """What two bases of the same functions have in common, however their parameters were given."""

    @abstractmethod
    def _functions(self, values: NDArray[Any], states: Sequence[int], dtype: DTypeLike) -> Iterator[NDArray[Any]]:
        """B_h of local states, one h after the other; `states` are indices into the labels."""

    @abstractmethod
    def _check(self, values: NDArray[Any]) -> None:
        """Refuse local states that are not finite or outside the domain."""

    def result_dtype(self, dtype: DTypeLike) -> np.dtype[Any]:
        """The dtype of m[h; s] for a real dtype: complex for complex bases."""
        return np.result_type(dtype, np.complex64) if self.is_complex else np.dtype(dtype)

    def fields(self, values: NDArray[Any], states: Sequence[int], dtype: DTypeLike) -> Iterator[NDArray[Any]]:
        """Expand local states, checked to lie in the domain, in some of the functions, one after the other.

        Parameters
        ----------
        values : ndarray, shape (...) or, of bases whose local state has components, (..., n_components)
            Local states.
        states : sequence of int
            Indices into `states`.
        dtype : dtype
            float32 or float64.

        Yields
        ------
        ndarray, shape (...)
            Of dtype ``result_dtype(dtype)``, not to be written to.

        Raises
        ------
        ValueError
            If a value is NaN or outside the domain.
        """
        self._check(values)
        yield from self._functions(values, states, dtype)

    def _expand(self, block: NDArray[Any], *, dtype: DTypeLike) -> NDArray[Any]:
        spatial = block.shape[1 : block.ndim - self.state_axes]
        states = range(len(self.states))
        out = np.empty((len(block), *spatial, len(states)), dtype=self.result_dtype(dtype))
        for target, sample in zip(out, block, strict=True):
            for state, field in enumerate(self.fields(sample, states, dtype)):
                target[..., state] = field
        return out

    def discretize(self, X: ArrayLike, *, dtype: DTypeLike = "float64") -> Any:
        """Microstructure function of samples.

        Parameters
        ----------
        X : array, shape (n_samples, *spatial)
            Local state of each voxel; NumPy, dask or xarray.
        dtype : {"float64", "float32"}
            Precision of the result.

        Returns
        -------
        array of the kind of `X`, shape (n_samples, *spatial, n_states)
            ``m[h; s]``. Lazy for lazy input, one task a chunk.

        Raises
        ------
        ValueError
            If a value is NaN or outside the domain (when the block is computed).
        """
        data, labels = unwrap_samples(X)
        spatial = data.shape[1 : data.ndim - self.state_axes]
        result = map_samples(
            partial(clone(self)._expand, dtype=dtype),
            data,
            tail=(*spatial, len(self.states)),
            dtype=self.result_dtype(dtype),
            name="discretize",
        )
        if labels is None:
            return result
        dims = labels.dims[1 : 1 + len(spatial)]
        coords: dict[str, Any] = {str(d): labels.coords[d] for d in dims if d in labels.coords}
        coords["state"] = list(self.states)
        return label(
            result,
            labels,
            dims=(*map(str, dims), "state"),
            coords=coords,
            name="microstructure_function",
            attrs=labels.attrs,
        )

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Do nothing: a basis has nothing to learn.

        Parameters
        ----------
        X : array, shape (n_samples, *spatial)
            Ignored.
        y : None
            Ignored.
        """
        return self

    def transform(self, X: ArrayLike) -> Any:
        """`discretize` under scikit-learn's name.

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

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags

    def _card(self) -> str:
        return card(f"m[h; s] of {len(self.states)} local states", self._facts(), self._pictures())

    def _facts(self) -> dict[str, Any]:
        return {
            "local state": "a number" if self.state_size == 1 else f"{self.state_size} numbers",
            "values": "complex" if self.is_complex else "real",
            "Σ m = 1": self.is_complete,
        }

    def _pictures(self) -> list[str]:
        return []


def chosen_labels(n_states: int | Sequence[int], first: Callable[[int], Iterable[int]] = range) -> tuple[int, ...]:
    """Labels of states: those given, or the first so many.

    Raises
    ------
    ValueError
        If `n_states` names no state, or one twice.
    """
    wanted: Any = n_states
    if np.asarray(wanted).dtype.kind not in "iu" and np.size(wanted):
        msg = f"n_states must be a positive int or a list of integer state labels, got {n_states!r}"
        raise ValueError(msg)
    labels = tuple(first(wanted)) if np.ndim(wanted) == 0 else tuple(map(int, wanted))
    if not labels or len(set(labels)) < len(labels):
        msg = f"n_states must be a positive int or a list of different state labels, got {n_states!r}"
        raise ValueError(msg)
    return labels


class ScalarBasis(Basis):
    """A basis of functions of one number on an interval.

    Parameters
    ----------
    n_states : int or sequence of int
        Number of local states, or the labels of those to keep.
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
        """Labels of the local states, in the order of the last axis of m[h; s].

        Raises
        ------
        ValueError
            If `n_states` names no state, or one twice.
        """
        return chosen_labels(self.n_states)

    @property
    def placeholder(self) -> float:
        """The lowest local state."""
        return self._interval()[0]

    @property
    def identity(self) -> tuple[Any, ...]:
        """Kind, states and domain."""
        return type(self).__name__, self.states, self._interval()

    @property
    def _default_domain(self) -> tuple[float, float]:
        """Domain where none was given."""
        return 0.0, 1.0

    def _interval(self) -> tuple[float, float]:
        """Lowest and highest local state."""
        low, high = self._default_domain if self.domain is None else self.domain
        if not (np.isfinite(low) and np.isfinite(high) and low < high):
            msg = f"domain must be (lowest, highest), got {self.domain!r}"
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

    def _check(self, values: NDArray[Any]) -> None:
        if values.dtype.kind == "c":
            msg = f"X must be real for {self!r}, got {values.dtype}"
            raise TypeError(msg)
        if not values.size:
            return
        low, high = self._interval()
        smallest, largest = values.min(), values.max()
        is_finite = np.isfinite(smallest) and np.isfinite(largest)
        if is_finite and (self.periodic_domain or (low <= smallest and largest <= high)):
            return
        if not is_finite:
            msg = (
                "X holds NaN or infinite values; leave out the samples that have them or, for statistics, give these "
                "voxels a confidence_index of 0"
            )
            raise ValueError(msg)
        msg = (
            f"X holds values from {smallest} to {largest}, outside the domain [{low:g}, {high:g}] of {self!r}; "
            "rescale X, or give the basis the domain or the n_states of your data"
        )
        raise ValueError(msg)


def state_labels(basis: Basis | None, X: Any) -> tuple[int, ...]:
    """State labels of a basis, or of X that already is m[h; s] where the basis is None."""
    return basis.states if basis is not None else tuple(range(X.shape[-1]))


def trailing_axes(basis: Any) -> int:
    """Number of axes after the spatial ones: of local states where the basis is None, else of one state's components.

    Raises
    ------
    TypeError
        If `basis` is no basis.
    """
    if basis is not None and not isinstance(basis, Basis):
        msg = f"basis must be a basis such as PrimitiveBasis(2), or None for X that is m[h; s]; got {basis!r}"
        raise TypeError(msg)
    return 1 if basis is None else int(basis.state_axes)


def n_spatial_axes(basis: Any, X: Any) -> int:
    """Number of spatial axes of samples, 1 to 3.

    Raises
    ------
    TypeError
        If `basis` is no basis.
    ValueError
        If X has too few or too many axes.
    """
    trailing = trailing_axes(basis)
    n_spatial = int(X.ndim) - 1 - trailing
    if not 1 <= n_spatial <= 3 or (basis is not None and trailing and X.shape[-1] != basis.state_size):
        expected = (
            "(n_samples, *spatial, n_states)"
            if basis is None
            else f"(n_samples, *spatial{f', {basis.state_size}' * trailing})"
        )
        msg = f"X must be {expected} with 1 to 3 spatial axes, got shape {tuple(X.shape)}"
        raise ValueError(msg)
    return n_spatial
