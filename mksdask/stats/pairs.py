"""Pairs of local states: the choice of the pairs, and the labels of statistics by lag and pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from mksdask.arrays import Array, is_lazy, names, shown
from mksdask.bases.base import Basis
from mksdask.samples import Grid

Pairs: TypeAlias = Sequence[tuple[int, int]]


def resolve_pairs(correlations: Pairs | None, basis: Basis) -> tuple[tuple[int, int], ...]:
    """Choose the pairs of state labels.

    By default they pair the first state with each state. If the first state is constant, these pairs hold only means,
    so each other state is paired with itself too.

    Raises
    ------
    ValueError
        If a pair does not hold the labels of two states of the basis.
    """
    states = basis.states
    if correlations is None:
        weights = basis.unity
        if weights is None or np.count_nonzero(weights) != 1 or len(states) == 1:
            return tuple((states[0], other) for other in states)
        # The statistics of a constant state hold only means.
        constant = states[int(np.argmax(weights != 0.0))]
        others = [state for state in states if state != constant]
        return (*((constant, state) for state in states), *((state, state) for state in others))
    if is_lazy(correlations):
        msg = f"correlations must be pairs in memory, such as [(0, 0), (0, 1)], got {shown(correlations)}"
        raise TypeError(msg)
    pairs = []
    for pair in correlations:
        if np.shape(pair) != (2,) or any(h not in states for h in pair):
            msg = f"correlations must be pairs of local states out of {tuple(states)}, got {pair!r} in {correlations!r}"
            raise ValueError(msg)
        pairs.append((int(pair[0]), int(pair[1])))
    if not pairs:
        msg = "correlations is empty; name at least one pair, such as [(0, 0)], or leave it None"
        raise ValueError(msg)
    return tuple(pairs)


def indices_of(pairs: Pairs, basis: Basis) -> tuple[tuple[int, int], ...]:
    """Replace the labels of states in pairs by the positions of the states in the basis."""
    return tuple((basis.states.index(a), basis.states.index(b)) for a, b in pairs)


def lag_labels(grid: Grid, lags: Sequence[Array], pairs: Pairs, basis: Basis) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Make the dims and coordinates of statistics: lags in the units of the grid, and names of pairs."""
    coords: dict[str, Any] = grid.lags(lags)
    dims = (*coords, "pair")
    if basis.states_are_phases and all(0 <= h < len(grid.phases) for pair in pairs for h in pair):
        coords["pair"] = names([f"{grid.phases[a]}–{grid.phases[b]}" for a, b in pairs])
    else:
        coords["pair"] = names([f"{a},{b}" for a, b in pairs])
    coords["state_1"] = ("pair", [a for a, _ in pairs])
    coords["state_2"] = ("pair", [b for _, b in pairs])
    return dims, coords
