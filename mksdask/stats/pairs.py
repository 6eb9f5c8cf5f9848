"""Pairs of local states: which are correlated, and how statistics are labelled by lag and pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from mksdask.arrays import Array, names
from mksdask.bases.base import Basis
from mksdask.samples import Grid

Pairs: TypeAlias = Sequence[tuple[int, int]]


def resolve_pairs(correlations: Pairs | None, basis: Basis) -> tuple[tuple[int, int], ...]:
    """Pairs of state labels.

    By default the first state is paired with each. If it is constant, so that its pairs are means, each other state is
    paired with itself too.

    Raises
    ------
    ValueError
        If a pair is not two labels of the basis' states.
    """
    states = basis.states
    if correlations is None:
        weights = basis.unity
        if weights is None or np.count_nonzero(weights) != 1 or len(states) == 1:
            return tuple((states[0], other) for other in states)
        # Statistics of a constant state know means alone.
        constant = states[int(np.argmax(weights != 0.0))]
        others = [state for state in states if state != constant]
        return (*((constant, state) for state in states), *((state, state) for state in others))
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
    """Pairs by the positions of their states."""
    return tuple((basis.states.index(a), basis.states.index(b)) for a, b in pairs)


def lag_labels(grid: Grid, lags: Sequence[Array], pairs: Pairs, basis: Basis) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Dims and coordinates of statistics: lags in the units of the grid, and pairs of states or of named phases."""
    coords: dict[str, Any] = grid.lags(lags)
    dims = (*coords, "pair")
    if basis.states_are_phases and len(grid.phases) > max(max(pair) for pair in pairs):
        coords["pair"] = names([f"{grid.phases[a]}–{grid.phases[b]}" for a, b in pairs])
    else:
        coords["pair"] = names([f"{a},{b}" for a, b in pairs])
    coords["state_1"] = ("pair", [a for a, _ in pairs])
    coords["state_2"] = ("pair", [b for _, b in pairs])
    return dims, coords
