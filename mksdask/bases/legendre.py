"""Legendre basis: polynomials on an interval."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mksdask.arrays import Array
from mksdask.bases.base import ScalarBasis
from mksdask.schema import Saved


class LegendreBasis(ScalarBasis):
    r"""Basis of Legendre polynomials, for a local state that is a real number.

    With ``t = 2 (χ - a)/(b - a) - 1`` on the domain [a, b],

    .. math:: m[l; s] = \frac{2 l + 1}{2} P_l(t[s]),

    so that ``Σ_l m[l] P_l(t)`` is the density of local states t in [-1, 1]: of one voxel, or of many voxels if m is
    their mean. The first state is the constant 1/2.

    Parameters
    ----------
    n_states : int or sequence of int
        Number of polynomials, or a list of their orders l.
    domain : (float, float), optional
        Lowest and highest local state, which are mapped to -1 and 1. Default (-1, 1).

    References
    ----------
    Yabansu, Y. C., Kalidindi, S. R. Representation and calibration of elastic localization kernels for a broad class
    of cubic polycrystals. Acta Mater. 94 (2015) 26.

    Examples
    --------
    >>> import numpy as np
    >>> LegendreBasis(n_states=3, domain=(0, 1)).discretize(np.array([[0.0, 0.5, 1.0]]))
    array([[[ 0.5 , -1.5 ,  2.5 ],
            [ 0.5 ,  0.  , -1.25],
            [ 0.5 ,  1.5 ,  2.5 ]]])
    """

    _saved = Saved(ScalarBasis._parameters)

    @property
    def _default_domain(self) -> tuple[float, float]:
        return -1.0, 1.0

    @property
    def states(self) -> tuple[int, ...]:
        """Orders l of the polynomials, in the order of the last axis of m[h; s].

        Raises
        ------
        ValueError
            If `n_states` names no order, names one twice, or names a negative one.
        """
        orders = super().states
        if min(orders) < 0:
            msg = f"n_states of a LegendreBasis must be orders from 0 upwards, got {self.n_states!r}"
            raise ValueError(msg)
        return orders

    @property
    def unity(self) -> NDArray[np.float64] | None:
        """Weight 2 for order 0, whose function is 1/2 everywhere. None if order 0 is not among the states."""
        return 2.0 * (np.array(self.states) == 0) if 0 in self.states else None

    def _functions(self, values: Array, states: Sequence[int], dtype: DTypeLike) -> Iterator[Array]:
        low, high = self._interval()
        t = ((values.astype(np.result_type(values, dtype)) - low) * (2.0 / (high - low)) - 1.0).astype(
            dtype, copy=False
        )
        orders = self.states
        first = np.ones(t.shape, dtype=dtype)
        order, polynomial, previous = 0, first, first
        for state in states:
            wanted = orders[state]
            if wanted < order:
                order, polynomial, previous = 0, first, first
            while order < wanted:
                following = (2 * order + 1) / (order + 1) * t * polynomial - order / (order + 1) * previous
                order, polynomial, previous = order + 1, following, polynomial
            yield (wanted + 0.5) * polynomial
