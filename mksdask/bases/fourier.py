"""Fourier basis: harmonics of a periodic local state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mksdask.arrays import Array
from mksdask.bases.base import ScalarBasis, chosen_labels
from mksdask.schema import Saved


class FourierBasis(ScalarBasis):
    r"""Basis of complex exponentials, for a local state that wraps around, such as an angle.

    On the domain [a, b],

    .. math:: m[n; s] = \exp\left(2 \pi i\, n\, \frac{\chi[s] - a}{b - a}\right).

    The orders n are 0, 1, -1, 2, -2, …. The first state is the constant 1. Values outside the domain wrap around.

    Parameters
    ----------
    n_states : int or sequence of int
        Number of harmonics, or a list of their orders n.
    domain : (float, float), optional
        One period of the local state. Default (0, 2π).

    References
    ----------
    Adams, B. L., Kalidindi, S. R., Fullwood, D. T. Microstructure-Sensitive Design for Performance Optimization.
    Butterworth-Heinemann, 2013.

    Examples
    --------
    >>> import numpy as np
    >>> m = FourierBasis(n_states=[0, 1, -1], domain=(0, 4)).discretize(np.array([[0, 1, 5]]))
    >>> np.round(m[0, :, 1], 12).tolist()  # a quarter of a turn, and one whole turn further
    [(1+0j), 1j, 1j]
    """

    _saved = Saved(ScalarBasis._parameters)
    periodic_domain = True
    is_complex = True

    @property
    def _default_domain(self) -> tuple[float, float]:
        return 0.0, 2.0 * np.pi

    @property
    def states(self) -> tuple[int, ...]:
        """Orders n of the harmonics, in the order of the last axis of m[h; s].

        Raises
        ------
        ValueError
            If `n_states` names no order, or names one twice.
        """
        return chosen_labels(self.n_states, _first_orders)

    @property
    def unity(self) -> NDArray[np.float64] | None:
        """Weight 1 for order 0, whose function is 1 everywhere. None if order 0 is not among the states."""
        return 1.0 * (np.array(self.states) == 0) if 0 in self.states else None

    def _functions(self, values: Array, states: Sequence[int], dtype: DTypeLike) -> Iterator[Array]:
        low, high = self._interval()
        angle = (values.astype(np.result_type(values, dtype)) - low) * (2.0 * np.pi / (high - low))
        harmonic = np.empty(values.shape, dtype=self.result_dtype(dtype))
        harmonic.real, harmonic.imag = np.cos(angle), np.sin(angle)
        orders = self.states
        first = np.ones_like(harmonic)
        order, power = 0, first
        for state in states:
            wanted = abs(orders[state])
            if wanted < order:
                order, power = 0, first
            while order < wanted:
                order, power = order + 1, power * harmonic
            yield power if orders[state] >= 0 else power.conj()


def _first_orders(n_states: int) -> list[int]:
    """List the first `n_states` of the orders 0, 1, -1, 2, -2, …."""
    return [(index + 1) // 2 * (1 if index % 2 else -1) for index in range(n_states)]
