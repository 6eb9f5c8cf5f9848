"""The basis of samples that already hold their microstructure function m[h; s]."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from sklearn.base import clone

from mksdask.arrays import SPATIAL_DIMS, Array, dims_of, is_number, shown
from mksdask.bases.base import Basis, chosen_labels
from mksdask.schema import FLAG, Saved, Whole

# How much the sum of states may differ from 1, for each number of bytes of a value.
TOLERANCE = {2: 1e-2, 4: 1e-4, 8: 1e-6}
# So many values are checked at once.
CHECKED_VALUES = 2**18


class GivenStates(Basis):
    """The basis of X whose last axis already holds m[h; s].

    With ``basis=None``, the values of X must show that they are m[h; s]: a probability for each state, so that the
    states sum to 1 in each voxel and none is negative; an expansion of `LegendreBasis`, whose first state is 1/2 and
    whose states all belong to one number in each voxel; or complex numbers whose first state is 1, as `FourierBasis`
    and `GSHBasis` make them. Integers and bool must be 1 for one state of each voxel and 0 for all others. Anything
    else is refused, because X may hold phases, grey values or colours, and miss its basis. Voxels with a confidence of
    0 may hold anything.

    Pass ``basis=GivenStates(n_states)`` for other fields m[h; s], such as some of the states of a basis. Then the
    values are free. A DataArray whose last dim is "state", such as `discretize` returns, may also hold any values.

    Parameters
    ----------
    n_states : int
        Number of local states, which is the length of the last axis of X.
    is_complex : bool, default False
        Whether the values are complex.
    is_checked : bool, default False
        Whether the values must show that they are m[h; s], as with ``basis=None``.

    Examples
    --------
    >>> import numpy as np
    >>> from mksdask.stats import correlate
    >>> height = np.random.default_rng(0).normal(size=(3, 8, 8, 1))
    >>> correlate(height, GivenStates(1)).shape
    (3, 8, 8, 1)
    """

    state_axes = 1
    is_non_negative = None

    _saved = Saved({"n_states": Whole(1, sized=True), "is_complex": FLAG, "is_checked": FLAG})

    def __init__(self, n_states: int = 1, *, is_complex: bool = False, is_checked: bool = False) -> None:
        self.n_states = n_states
        self.is_complex = is_complex
        self.is_checked = is_checked

    @property
    def states(self) -> tuple[int, ...]:
        """Positions along the last axis."""
        return chosen_labels(self.n_states)

    @property
    def state_size(self) -> int:  # type: ignore[override]
        """Length of the last axis."""
        return int(self.n_states)

    @property
    def placeholder(self) -> NDArray[np.int8]:
        """One in the first state, and zero in all others."""
        return (np.arange(self.n_states) == 0).astype(np.int8)

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
        """Check what values show. `_functions` refuses NaN, but only in the states that are used."""
        if not values.ndim or values.shape[-1] != self.n_states:
            msg = f"X must have {self.n_states} states along its last axis, got shape {values.shape}"
            raise ValueError(msg)
        if values.dtype.kind == "c" and not self.is_complex:
            msg = f"X is complex, but {self!r} takes real values; use GivenStates({self.n_states}, is_complex=True)"
            raise TypeError(msg)
        if self.is_checked:
            step = max(1, CHECKED_VALUES // max(1, int(np.prod(values.shape[1:]))))
            for start in range(0, len(values), step):
                check_are_states(values[start : start + step])


def check_are_states(values: Array) -> None:
    """Refuse values that do not show that they are m[h; s]. `GivenStates` says which do.

    Parameters
    ----------
    values : ndarray, shape (..., n_states)
        Values. A voxel with NaN is not checked.

    Raises
    ------
    ValueError
        If a voxel fits none of the rules.
    """
    kind, n_states = values.dtype.kind, values.shape[-1]
    if not values.size:
        return
    remedy = (
        f"If X holds phases, pass their basis, such as PrimitiveBasis(2). If X holds other fields m[h; s], pass "
        f"basis=GivenStates({n_states})"
    )
    if kind in "biu":
        if (values.min() >= 0) and (values.sum(axis=-1, dtype=np.int64) == 1).all():
            return
        if values.dtype == np.uint8 and n_states in (3, 4):
            msg = (
                f"X holds integers up to {values.max()}, and its last axis has the length {n_states}, as in an image "
                f"with {n_states} colour channels; with basis=None it must be m[h; s]. Make one number of the colours, "
                "such as X[..., :3].mean(axis=-1), find the phases, and pass their basis, such as PrimitiveBasis(2)"
            )
            raise ValueError(msg)
        msg = (
            f"X holds {values.dtype} values from {values.min()} to {values.max()}; with basis=None it must be m[h; s], "
            f"which is 1 for one of the {n_states} states along the last axis, and 0 for all others. {remedy}"
        )
        raise ValueError(msg)
    tolerance = TOLERANCE.get(values.real.dtype.itemsize, 1e-6)
    if kind == "c":
        wrong = abs(values[..., 0] - 1.0) > tolerance
        demand, got = "has a first state of 1 if it is complex", values[..., 0][wrong]
    else:
        total = values.sum(axis=-1, dtype=np.float64)
        wrong = abs(total - 1.0) > tolerance
        if not values.min() >= -tolerance:
            wrong |= (values < -tolerance).any(axis=-1)
        if wrong.any():
            wrong[wrong] = ~_are_legendre(values[wrong], tolerance)
        demand, got = f"is not negative and sums to 1 over the {n_states} states along its last axis", total[wrong]
    if wrong.any():
        found = f"the sum {got.flat[0]:.6g}" if kind != "c" else f"a first state of {got.flat[0]:.6g}"
        if kind != "c" and abs(got.flat[0] - 1.0) <= tolerance:
            found = f"the states {values[wrong][0].tolist()}"
        msg = (
            f"with basis=None, X must be m[h; s], which {demand}; got {found} in a voxel. {remedy}. Give voxels "
            "without data a confidence_index of 0"
        )
        raise ValueError(msg)


def _are_legendre(values: Array, tolerance: float) -> NDArray[np.bool_]:
    """Find the rows (n, n_states) that are `LegendreBasis` of one number: (2l + 1)/2 P_l, for l = 0, 1, …."""
    rows, n_states = values.astype(np.float64), values.shape[-1]
    if n_states < 2:
        return np.zeros(len(rows), dtype=bool)
    chi = rows[:, 1] / 1.5
    fits = (rows[:, 0] == 0.5) & (abs(chi) <= 1.0 + tolerance)
    before, current = np.ones_like(chi), chi
    for degree in range(2, n_states):
        before, current = current, ((2 * degree - 1) * chi * current - (degree - 1) * before) / degree
        fits &= abs(rows[:, degree] - (degree + 0.5) * current) <= (2 * degree + 1) * tolerance
    return fits


def local_states(basis: Any, X: Any, labels: Any = None, *, is_volume: bool = False) -> Basis:
    """The basis to work with: a copy of the one that is given, or `GivenStates` for ``basis=None``.

    Parameters
    ----------
    basis : Basis or None
        As a public function gets it.
    X : array, shape (n_samples, *spatial, ...)
        Samples.
    labels : DataArray, optional
        The DataArray that holds X. Its last dim "state" says that X is m[h; s].
    is_volume : bool
        Whether X is one volume, to which the caller has added an axis of samples.

    Raises
    ------
    TypeError
        If `basis` is no basis.
    ValueError
        If X has too few or too many axes for samples with 1 to 3 spatial axes, or its dims say that it has no states.
    """
    n_trailing = trailing_axes(basis)
    is_given = basis is None
    if not 1 <= X.ndim - 1 - n_trailing <= 3 or (not is_given and n_trailing and X.shape[-1] != basis.state_size):
        tail = ", n_states" if is_given else f", {basis.state_size}" * n_trailing
        msg = (
            f"volume must be (*spatial{tail}) with 1 to 3 spatial axes, got shape {tuple(X.shape[1:])}; if these are "
            "several samples, select one of them"
            if is_volume
            else f"X must be (n_samples, *spatial{tail}) with 1 to 3 spatial axes, got shape {tuple(X.shape)}; if X is "
            "one sample, add an axis of samples: X[None]"
        )
        raise ValueError(msg)
    if not is_given:
        return clone(basis)
    last = dims_of(labels)[-1:]
    if last and last[0] in SPATIAL_DIMS:
        msg = (
            f"X has the dims {labels.dims} and no axis of states; pass the basis of its local state, such as "
            "PrimitiveBasis(2), or X that is m[h; s] with a last dim 'state'"
        )
        raise ValueError(msg)
    return GivenStates(int(X.shape[-1]), is_complex=X.dtype.kind == "c", is_checked=last != ("state",))


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
        got = shown(basis)
        if is_number(basis):
            got = f"the number {basis!r}; if it is the number of phases, pass PrimitiveBasis({basis!r})"
        msg = f"basis must be a basis such as PrimitiveBasis(2), or None for X that is m[h; s]; got {got}"
        raise TypeError(msg)
    return int(basis.state_axes)
