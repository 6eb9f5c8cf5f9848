"""Product basis: local states with several attributes, such as a phase and an orientation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray
from sklearn.base import clone

from mksdask.arrays import Array
from mksdask.bases.base import Basis
from mksdask.schema import Listed, Part, Saved


class ProductBasis(Basis):
    r"""Basis of all products of the functions of several bases, for a local state with several attributes.

    .. math:: m[(h_1, h_2, …); s] = m_1[h_1; s]\, m_2[h_2; s] \cdots

    Each basis, called a factor, describes one attribute. X holds the attributes side by side along its last axis: one
    number for a basis of a scalar, three angles for a `GSHBasis`.

    Parameters
    ----------
    *bases : Basis
        One basis for each attribute, in the order of the last axis of X.

    Attributes
    ----------
    index_ : list of tuple
        State labels (h_1, h_2, …) of the factors, for each state. The last label varies fastest.

    References
    ----------
    Adams, B. L., Gao, X., Kalidindi, S. R. Finite approximations to the second-order properties closure in single
    phase polycrystals. Acta Mater. 53 (2005) 3563.

    Examples
    --------
    A phase and the orientation of its crystal:

    >>> import numpy as np
    >>> from mksdask import GSHBasis, PrimitiveBasis
    >>> basis = ProductBasis(PrimitiveBasis(2), GSHBasis(10, domain="cubic"))
    >>> basis.index_[10]
    (1, 0)
    >>> basis.discretize(np.zeros((1, 8, 8, 4))).shape
    (1, 8, 8, 20)
    """

    state_axes = 1
    _saved = Saved({"bases": Listed(Part(Basis), 1)}, make=lambda bases: ProductBasis(*bases))

    def __init__(self, *bases: Basis) -> None:
        self.bases = bases

    def _restored(self, most: int) -> None:
        n_states = math.prod(len(basis.states) for basis in self.bases)
        if n_states > most:
            msg = f"{n_states} states are more than the {most} bytes of the store"
            raise ValueError(msg)

    @property
    def states(self) -> tuple[int, ...]:
        """Numbers of the states, counted from 0.

        Raises
        ------
        TypeError
            If there is no factor, or a factor is not a basis.
        """
        if not self.bases or not all(isinstance(basis, Basis) for basis in self.bases):
            msg = f"ProductBasis takes bases such as PrimitiveBasis(2), at least one, got {self.bases!r}"
            raise TypeError(msg)
        return tuple(range(int(np.prod([len(basis.states) for basis in self.bases]))))

    @property
    def index_(self) -> list[tuple[int, ...]]:
        """State labels of the factors, for each state."""
        factors = self._factors()
        return [
            tuple(basis.states[h] for basis, h in zip(self.bases, row, strict=True))
            for row in zip(*(index.tolist() for index in factors), strict=True)
        ]

    @property
    def is_complex(self) -> bool:  # type: ignore[override]
        """Whether a factor is complex."""
        return any(basis.is_complex for basis in self.bases)

    @property
    def is_non_negative(self) -> bool:  # type: ignore[override]
        """Whether no function of a factor is ever negative."""
        return all(basis.is_non_negative for basis in self.bases)

    @property
    def unity(self) -> NDArray[np.float64] | None:
        """Products of the weights of the factors. None if a factor has no weights."""
        weights = [basis.unity for basis in self.bases]
        return None if any(w is None for w in weights) else reduce(np.kron, weights)  # type: ignore[arg-type]

    @property
    def state_size(self) -> int:  # type: ignore[override]
        """Number of components of one local state: the sum over the factors."""
        return sum(basis.state_size for basis in self.bases)

    @property
    def placeholder(self) -> NDArray[np.float64]:
        """Placeholders of the factors, side by side."""
        return np.concatenate([np.broadcast_to(basis.placeholder, basis.state_size) for basis in self.bases])

    @property
    def identity(self) -> tuple[Any, ...]:
        """Name of the class and the identities of the factors."""
        return type(self).__name__, *(basis.identity for basis in self.bases)

    def _factors(self) -> tuple[NDArray[np.intp], ...]:
        """Return, for each factor, the index of its state in each state of the product."""
        return np.unravel_index(np.arange(len(self.states)), [len(basis.states) for basis in self.bases])

    def _parts(self, values: Array) -> list[Array]:
        """Split the components among the factors."""
        ends = np.cumsum([basis.state_size for basis in self.bases])[:-1]
        parts = np.split(values, ends, axis=-1)
        return [part if basis.state_axes else part[..., 0] for basis, part in zip(self.bases, parts, strict=True)]

    def _check(self, values: Array) -> None:
        if values.shape[-1:] != (self.state_size,):
            msg = (
                f"X must hold the {self.state_size} components of {self!r} along its last axis, got shape "
                f"{values.shape}"
            )
            raise ValueError(msg)
        for basis, part in zip(self.bases, self._parts(values), strict=True):
            basis._check(part)

    def work_bytes(self, n_voxels: int, n_states: int, dtype: DTypeLike) -> int:
        """Bytes of the functions of all factors, which are kept until the last product, and of their own work."""
        return sum(
            len(basis.states) * n_voxels * basis.result_dtype(dtype).itemsize
            + basis.work_bytes(n_voxels, len(basis.states), dtype)
            for basis in self.bases
        )

    def _functions(self, values: Array, states: Sequence[int], dtype: DTypeLike) -> Iterator[Array]:
        factors = [index[list(states)] for index in self._factors()]
        tables = []
        for basis, part, wanted in zip(self.bases, self._parts(values), factors, strict=True):
            needed = sorted(set(wanted.tolist()))
            tables.append(dict(zip(needed, basis._functions(part, needed, dtype), strict=True)))
        for row in zip(*(index.tolist() for index in factors), strict=True):
            product = reduce(np.multiply, (table[h] for table, h in zip(tables, row, strict=True)))
            yield product.astype(self.result_dtype(dtype), copy=False)

    def _facts(self) -> dict[str, Any]:
        return {f"factor {number}": repr(basis) for number, basis in enumerate(self.bases)} | super()._facts()

    def _pictures(self) -> list[str]:
        return [drawn for basis in self.bases for drawn in basis._pictures()]

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: FBT001, FBT002
        """Return the factors as ``basis_0``, ``basis_1``, …, and with `deep` their parameters too.

        Parameters
        ----------
        deep : bool, default True
            Whether to include the parameters of the factors, such as ``basis_0__n_states``.
        """
        params: dict[str, Any] = {f"basis_{position}": basis for position, basis in enumerate(self.bases)}
        if deep:
            for name, basis in list(params.items()):
                params |= {f"{name}__{key}": value for key, value in basis.get_params().items()}
        return params

    def set_params(self, **params: Any) -> Self:
        """Replace factors (``basis_0``) or set their parameters (``basis_0__n_states``).

        Parameters
        ----------
        **params
            Names as `get_params` returns them, with their new values.

        Raises
        ------
        ValueError
            If a name is not a parameter of this basis.
        """
        for name, value in sorted(params.items()):
            factor, _, key = name.partition("__")
            known = [f"basis_{position}" for position in range(len(self.bases))]
            if factor not in known:
                msg = f"{name} is no parameter of a ProductBasis of {len(self.bases)} bases; the factors are {known}"
                raise ValueError(msg)
            position = known.index(factor)
            if key:
                self.bases[position].set_params(**{key: value})
            else:
                self.bases = (*self.bases[:position], value, *self.bases[position + 1 :])
        return self

    def __sklearn_clone__(self) -> ProductBasis:
        _ = self.states
        return ProductBasis(*(clone(basis) for basis in self.bases))

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        return f"ProductBasis({', '.join(map(repr, self.bases))})"
