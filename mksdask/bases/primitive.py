"""Primitive basis: hat functions on an interval."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mksdask.bases.base import ScalarBasis
from mksdask.storage.schema import Saved


class PrimitiveBasis(ScalarBasis):
    """Hat functions at equal steps of the domain; indicators of the phases where X holds phase numbers.

    With H hats and ``t = (H - 1)(χ - a)/(b - a)`` on the domain [a, b],
    ``m[h; s] = max(0, 1 - |t[s] - h|)``, so that ``Σ_h m[h; s] = 1``.

    Parameters
    ----------
    n_states : int or sequence of int
        Number of hats H, or the labels of those to keep; H is then one more than the largest label.
    domain : (float, float), optional
        Values of the first and the last hat. Default (0, H - 1): X holds phase numbers.

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

    _saved = Saved(ScalarBasis._parameters)

    @property
    def _n_hats(self) -> int:
        if min(self.states) < 0:
            msg = f"n_states of a PrimitiveBasis must be labels from 0, got {self.n_states!r}"
            raise ValueError(msg)
        return max(self.states) + 1

    @property
    def _default_domain(self) -> tuple[float, float]:
        return 0.0, self._n_hats - 1.0

    def _interval(self) -> tuple[float, float]:
        # One hat is 1 on a domain of any width, of none too.
        return (0.0, 0.0) if self._n_hats == 1 and self.domain is None else super()._interval()

    @property
    def unity(self) -> NDArray[np.float64] | None:
        """Ones, Σ_h m[h; s] = 1, where all hats are kept."""
        return np.ones(self._n_hats) if len(self.states) == self._n_hats else None

    def _functions(self, values: NDArray[Any], states: Sequence[int], dtype: DTypeLike) -> Iterator[NDArray[Any]]:
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
