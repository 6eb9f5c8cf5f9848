"""Primitive basis: hat functions on an interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mksdask.bases.base import Basis


class PrimitiveBasis(Basis):
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

    @property
    def _n_hats(self) -> int:
        if min(self.states) < 0:
            msg = f"n_states of a PrimitiveBasis must be labels from 0, got {self.n_states!r}"
            raise ValueError(msg)
        return max(self.states) + 1

    def _interval(self) -> tuple[float, float]:
        low, high = (0.0, self._n_hats - 1.0) if self.domain is None else self.domain
        if not low < high and self._n_hats > 1:
            msg = f"domain must be (lowest, highest), got {self.domain!r}"
            raise ValueError(msg)
        return float(low), float(high)

    @property
    def is_complete(self) -> bool:
        """Whether Σ_h m[h; s] = 1: all hats are kept."""
        return len(self.states) == self._n_hats

    def _evaluate(self, sample: NDArray[Any], states: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
        low, high = self._interval()
        last = self._n_hats - 1
        out = np.empty((len(states), *sample.shape), dtype=dtype)
        is_identity = (low, high) == (0.0, float(last))
        is_phase_number = is_identity and sample.dtype.kind in "biu"
        position = sample if is_identity else (sample - low) * np.asarray(last / (high - low or 1.0), dtype=dtype)
        for target, state in zip(out, states, strict=True):
            hat = self.states[state]
            if is_phase_number:
                np.equal(position, hat, out=target, casting="unsafe")
            else:
                np.subtract(position, hat, out=target, casting="same_kind")
                np.abs(target, out=target)
                np.subtract(1.0, target, out=target)
                np.maximum(target, 0.0, out=target)
        return out
