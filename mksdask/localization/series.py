"""The states of the series beyond first order: m[h; s], and m[h; s] times what the order below predicts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Self

import numpy as np
import scipy.linalg

from mksdask.arrays import Array
from mksdask.bases.base import Basis
from mksdask.localization.expansion import Expansion
from mksdask.localization.response import respond

# (h, None) stands for m[h; s], (h, c) for m[h; s] (p_c[s] - p̄_c), and (None, c) for p_c[s] - p̄_c.
Term = tuple[int | None, int | None]


def products(basis: Basis, order: int, n_components: int) -> tuple[Term, ...]:
    """List the states of one order that are products, without one that follows from other states exactly.

    If Σ_h w_h m[h; s] = 1, then Σ_h w_h m[h; s] p_c[s] = p_c[s]. At second order, p_c is a convolution of m[h; s], so
    the product with one state follows from the other states at each frequency, and is left out. From third order on it
    does not follow. If no such weights exist, p_c is no sum of products, and becomes a state of its own from third
    order on, so that no order explains less than the order below.
    """
    if order == 1:
        return ()
    unity, states = basis.unity, list[int | None](range(len(basis.states)))
    if order == 2 and unity is not None:
        states.remove(int(np.flatnonzero(unity)[-1]))
    if order > 2 and unity is None:
        states.append(None)
    return tuple((h, c) for c in range(n_components) for h in states)


def terms(basis: Basis, order: int, n_components: int) -> tuple[Term, ...]:
    """List all states of one order, those of the basis first."""
    return (*((h, None) for h in range(len(basis.states))), *products(basis, order, n_components))


@dataclass(frozen=True, eq=False)
class Series(Expansion):
    """Computes the spectra of the states of one order: those of m[h; s], and of its products with the order below.

    Parameters
    ----------
    basis, transform, dtype
        As in `Expansion`.
    order : int
        The order, from 1.
    n_components : int
        Number of components of the response.
    mean : ndarray, shape (n_components,)
        Mean response p̄_c. Products hold p_c[s] - p̄_c, which spans the same kernels as p_c[s] and keeps them apart from
        those of m[h; s].
    lower : tuple of (ndarray, ndarray)
        Transfer function and uniform response of each order below, as `transfer_function` and `uniform_response` return
        them.
    """

    order: int = 1
    n_components: int = 0
    mean: Array | None = None
    lower: tuple[tuple[Array, Array], ...] = ()

    @classmethod
    def after(cls, first: Expansion, order: int, n_components: int) -> Self:
        """Make the series of an order from the expansion in the basis, without the kernels of the orders below."""
        return cls(first.basis, first.transform, first.dtype, order, n_components)

    def following(self, mean: Array, lower: Sequence[tuple[Array, Array]]) -> Self:
        """Return the same series with the orders below."""
        return replace(self, mean=mean, lower=tuple(lower))

    @cached_property
    def products(self) -> tuple[Term, ...]:
        """The states beyond those of the basis."""
        return products(self.basis, self.order, self.n_components)

    @property
    def n_states(self) -> int:
        """Number of states of this order."""
        return len(self.basis.states) + len(self.products)

    @cached_property
    def unity(self) -> Array | None:
        """Weights of the states, which are 0 for products."""
        unity = self.basis.unity
        return None if unity is None else np.concatenate([unity, np.zeros(len(self.products))])

    @property
    def span(self) -> Array:
        """Orthonormal columns for the states of the basis, and one more for each product."""
        first = super().span
        return np.asarray(scipy.linalg.block_diag(first, np.eye(len(self.products)))) if self.products else first

    @property
    def batch_bytes(self) -> int:
        """Bytes of a sample of a batch: fields of all states and components, and spectra of states and sums."""
        if not self.products:
            return 0
        n_states, itemsize = len(self.basis.states), self.spectral_dtype.itemsize
        fields = (n_states + 2 * self.n_components + 2) * self.transform.field_bytes(itemsize)
        return fields + (n_states + self.n_components + 2) * int(np.prod(self.transform.frequencies)) * itemsize

    @property
    def lower_bytes(self) -> int:
        """Bytes of the transfer functions of the orders below."""
        spectrum = int(np.prod(self.transform.frequencies)) * self.spectral_dtype.itemsize
        n_below = sum(len(replace(self, order=order).transformed) for order in range(1, self.order))
        return n_below * self.n_components * spectrum

    @property
    def n_transforms(self) -> int:
        """Number of Fourier transforms for one sample, with those of its response."""
        found = len(self.transformed) + self.n_components
        if self.products:
            below = sum(len(products(self.basis, order, self.n_components)) for order in range(1, self.order))
            found += below + (self.order - 1) * self.n_components
        return found

    def spectra(self, samples: Array) -> Iterator[Array]:
        """Yield the spectra of a batch, one transformed state after the other. Each has shape (n, *frequencies)."""
        if not self.products:
            yield from super().spectra(samples)
            return
        assert self.mean is not None
        n_states = len(self.basis.states)
        fields = list(self.basis.fields(samples, range(n_states), self.dtype))
        plain = [self.transform.forward(fields[state]) for state in self.transformed if state < n_states]
        fluctuations: list[Array] = []
        for order, below in enumerate(self.lower, 1):
            spectra = chain(plain, self._multiplied(order, fields, fluctuations))
            found = respond(spectra, len(samples), *below, self.transform)
            fluctuations = [(p - mean).astype(self.field_dtype) for p, mean in zip(found, self.mean, strict=True)]
        yield from plain
        yield from self._multiplied(self.order, fields, fluctuations)

    def _multiplied(self, order: int, fields: list[Array], fluctuations: list[Array]) -> Iterator[Array]:
        for h, c in products(self.basis, order, self.n_components):
            field = fluctuations[c or 0]
            yield self.transform.forward(field if h is None else fields[h] * field)
