"""Times of two things in turn, so that a machine whose speed drifts does not tilt their ratio."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Medians of the seconds of the work and of the yardstick, and of their ratio pair by pair, with its range."""

    seconds: float
    yardstick: float
    ratio: float
    lowest: float
    highest: float


def paired(
    work: Callable[[], object],
    yardstick: Callable[[], object],
    *,
    rounds: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> Timing:
    """Time the work and the yardstick in turn, after a warm-up of each."""
    work(), yardstick()
    pairs = []
    for _ in range(rounds):
        start = clock()
        work()
        middle = clock()
        yardstick()
        pairs.append((middle - start, clock() - middle))
    ratios = [a / b for a, b in pairs]
    seconds, bare = (statistics.median(part) for part in zip(*pairs, strict=True))
    return Timing(seconds, bare, statistics.median(ratios), min(ratios), max(ratios))


def ratio(
    work: Callable[[], object], yardstick: Callable[[], object], *, rounds: int = 5
) -> tuple[float, float, float]:
    """Seconds of the work and of the yardstick, and the median of their ratio pair by pair, after a warm-up of each."""
    timing = paired(work, yardstick, rounds=rounds)
    return timing.seconds, timing.yardstick, timing.ratio
