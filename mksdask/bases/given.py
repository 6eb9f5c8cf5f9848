"""The basis of samples that already hold their microstructure function m[h; s]."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike
from sklearn.base import clone

from mksdask.arrays import Array
from mksdask.bases.base import Basis
from mksdask.schema import FLAG, Saved, Whole


class GivenStates(Basis):
    """The basis that stands for ``basis=None``: the last axis of X holds m[h; s] itself.

    Parameters
    ----------
    n_states : int
        Number of local states.
    is_complex : bool, default False
        Whether the values are complex.

    Examples
    --------
    >>> GivenStates(3).states
    (0, 1, 2)
    """

    state_axes = 1
    is_non_negative = None

    _saved = Saved({"n_states": Whole(1, sized=True), "is_complex": FLAG})

    def __init__(self, n_states: int = 1, *, is_complex: bool = False) -> None:
        self.n_states = n_states
        self.is_complex = is_complex

    @property
    def states(self) -> tuple[int, ...]:
        """Positions along the last axis."""
        return tuple(range(self.n_states))

    @property
    def state_size(self) -> int:  # type: ignore[override]
        """Length of the last axis."""
        return int(self.n_states)

    @property
    def placeholder(self) -> float:
        """Zero in each state."""
        return 0.0

    @property
    def identity(self) -> tuple[Any, ...]:
        """Kind and number of states."""
        return type(self).__name__, self.n_states

    def _functions(self, values: Array, states: Sequence[int], dtype: DTypeLike) -> Iterator[Array]:
        for state in states:
            field = np.ascontiguousarray(values[..., state], dtype=self.result_dtype(dtype))
            if not np.isfinite(field).all():
                msg = (
                    f"X holds NaN or infinite values in state {state}; leave out the samples that have them or, for "
                    "statistics, give voxels without data a confidence_index of 0"
                )
                raise ValueError(msg)
            yield field

    def _check(self, values: Array) -> None:
        """Accept everything here: `_functions` checks only the states that are used."""


def local_states(basis: Any, X: Any) -> Basis:
    """The basis to work with: a copy of the one that is given, or `GivenStates` for ``basis=None``.

    Parameters
    ----------
    basis : Basis or None
        As a public function gets it.
    X : array, shape (n_samples, *spatial, ...)
        Samples.

    Raises
    ------
    TypeError
        If `basis` is no basis.
    ValueError
        If X has too few or too many axes for samples with 1 to 3 spatial axes.
    """
    n_trailing = trailing_axes(basis)
    is_given = basis is None
    if not 1 <= X.ndim - 1 - n_trailing <= 3 or (not is_given and n_trailing and X.shape[-1] != basis.state_size):
        tail = ", n_states" if is_given else f", {basis.state_size}" * n_trailing
        msg = f"X must be (n_samples, *spatial{tail}) with 1 to 3 spatial axes, got shape {tuple(X.shape)}"
        raise ValueError(msg)
    return GivenStates(int(X.shape[-1]), is_complex=X.dtype.kind == "c") if is_given else clone(basis)


def trailing_axes(basis: Any) -> int:
    """Number of axes after the spatial ones: those of the components of a local state, or of given local states.

    Raises
    ------
    TypeError
        If `basis` is no basis.
    """
    if basis is None:
        return GivenStates.state_axes
    if isinstance(basis, type):
        msg = f"basis must be an instance, got the class {basis.__name__}; pass {basis.__name__}() with its n_states"
        raise TypeError(msg)
    if not isinstance(basis, Basis):
        msg = f"basis must be a basis such as PrimitiveBasis(2), or None for X that is m[h; s]; got {basis!r}"
        raise TypeError(msg)
    return int(basis.state_axes)
