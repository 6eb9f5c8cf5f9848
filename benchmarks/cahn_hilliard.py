"""Time of a Cahn–Hilliard step over that of its two FFTs."""

import argparse

import numpy as np
import scipy.fft
from timing import ratio

from mksdask.datasets import CahnHilliardSimulation


def main(edge: int, n_steps: int, rounds: int, limit: float) -> None:
    for dtype in ("float32", "float64"):
        X = (0.1 * np.random.default_rng(0).normal(size=(1, *(edge,) * 3))).astype(dtype)
        simulation = CahnHilliardSimulation(dx=1.0, gamma=1.0, dt=0.1)

        def transforms(field: np.ndarray = X[0]) -> None:
            for _ in range(n_steps):
                field = scipy.fft.irfftn(scipy.fft.rfftn(field), s=field.shape, overwrite_x=True)

        seconds, bare, factor = ratio(
            lambda X=X, simulation=simulation: simulation.run(X, n_steps=n_steps), transforms, rounds=rounds
        )
        print(
            f"  {edge}³, {n_steps} steps, {dtype}: {1e3 * seconds / n_steps:.1f} ms a step, its FFTs "
            f"{1e3 * bare / n_steps:.1f} ms: ratio {factor:.2f}",
            flush=True,
        )
        assert factor <= limit, f"{dtype}: {factor:.2f} times the FFTs, more than {limit}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=1.6, help="largest ratio that passes")
    arguments = parser.parse_args()
    main(arguments.size, arguments.steps, arguments.rounds, arguments.limit)
