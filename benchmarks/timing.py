"""Times of two things in turn, so that a machine whose speed drifts does not tilt their ratio."""

import statistics
import time
from collections.abc import Callable


def ratio(
    work: Callable[[], object], yardstick: Callable[[], object], *, rounds: int = 5
) -> tuple[float, float, float]:
    """Seconds of the work and of the yardstick, and the median of their ratio pair by pair, after a warm-up of each."""
    work(), yardstick()
    pairs = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        middle = time.perf_counter()
        yardstick()
        pairs.append((middle - start, time.perf_counter() - middle))
    return (
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        statistics.median(a / b for a, b in pairs),
    )
