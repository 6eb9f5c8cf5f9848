"""Primitive basis: hat functions on an interval."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mksdask.arrays import Array
from mksdask.bases.base import ScalarBasis
from mksdask.schema import Saved


class PrimitiveBasis(ScalarBasis):
    """Basis of hat functions at equal steps of the domain. For phase numbers, they are the indicators of the phases.

    With H hats and ``t = (H - 1)(χ - a)/(b - a)`` on the domain [a, b],
    ``m[h; s] = max(0, 1 - |t[s] - h|)``, so that ``Σ_h m[h; s] = 1``.

    Parameters
    ----------
    n_states : int or sequence of int
        Number of hats H, or the labels of the hats to keep. In the latter case, H is one more than the largest label.
    domain : (float, float), optional
        Local states at the first and the last hat. Default (0, H - 1), which suits phase numbers.

    References
    ----------
    Fullwood, D. T., Niezgoda, S. R., Adams, B. L., Kalidindi, S. R. Microstructure sensitive design for
    performance optimization. Prog. Mater. Sci. 55 (2010) 477, Eq. 2.

    Examples
    --------
    >>> import numpy as np
    >>> PrimitiveBasis(n_states=3, domain=(0, 1)).discretize(np.array([[0.0, 0.25, 1.0]]))
    array([[[1. , 0. , 0. ],
            [0.5, 0.5, 0. ],
            [0. , 0. , 1. ]]])
    """

    states_are_phases = True
    is_non_negative = True
    _saved = Saved(ScalarBasis._parameters)

    @property
    def _n_hats(self) -> int:
        if min(self.states) < 0:
            msg = f"n_states of a PrimitiveBasis must be labels from 0 upwards, got {self.n_states!r}"
            raise ValueError(msg)
        return max(self.states) + 1

    @property
    def _default_domain(self) -> tuple[float, float]:
        return 0.0, self._n_hats - 1.0

    def _interval(self) -> tuple[float, float]:
        # A single hat is 1 everywhere, so its domain may have no width.
        return (0.0, 0.0) if self._n_hats == 1 and self.domain is None else super()._interval()

    @property
    def unity(self) -> NDArray[np.float64] | None:
        """Weights 1, since Σ_h m[h; s] = 1. None if not all hats are kept."""
        return np.ones(self._n_hats) if len(self.states) == self._n_hats else None

    def _functions(self, values: Array, states: Sequence[int], dtype: DTypeLike) -> Iterator[Array]:
        low, high = self._interval()
        last = self._n_hats - 1
        is_identity = (low, high) == (0.0, float(last))
        is_phase_number = is_identity and values.dtype.kind in "biu"
        position = values if is_identity else (values - low) * np.asarray(last / (high - low), dtype=dtype)
        for state in states:
            hat = np.empty(values.shape, dtype=dtype)
            if is_phase_number:
                np.equal(position, self.states[state], out=hat, casting="unsafe")
            else:
                np.subtract(position, self.states[state], out=hat, casting="same_kind")
                np.abs(hat, out=hat)
                np.subtract(1.0, hat, out=hat)
                np.maximum(hat, 0.0, out=hat)
            yield hat
