"""Time of `correlate` over that of the bare FFTs of the same data: one forward and one inverse a sample."""

import argparse

import numpy as np
import scipy.fft
from timing import ratio

from mksdask import PrimitiveBasis
from mksdask.datasets import make_microstructure
from mksdask.stats import correlate


def main(samples: int, edge: int, rounds: int, limit: float) -> None:
    X = make_microstructure(n_samples=samples, size=(edge,) * 3, grain_size=edge / 8, volume_fraction=(0.5, 0.5))
    fields = X.astype(np.float32)
    basis, axes = PrimitiveBasis(2), (0, 1, 2)

    def transforms() -> None:
        for field in fields:
            scipy.fft.irfftn(scipy.fft.rfftn(field), s=field.shape, overwrite_x=True)

    print(f"{samples} samples of {edge}³, float32, one thread")
    for name, options in {
        "(0, 0)": {"correlations": [(0, 0)]},
        "(0, 0), (0, 1)": {"correlations": [(0, 0), (0, 1)]},
        "(0, 0), cutoff 20, not periodic": {"correlations": [(0, 0)], "cutoff": 20, "periodic_axes": ()},
    }.items():
        seconds, bare, factor = ratio(
            lambda options=options: correlate(X, basis, **{"periodic_axes": axes} | options), transforms, rounds=rounds
        )
        print(f"  {name:<34} {seconds:6.2f} s, bare FFTs {bare:6.2f} s: ratio {factor:.2f}", flush=True)
        assert factor <= limit, f"{name}: {factor:.2f} times the bare FFTs, more than {limit}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=float, default=2.0, help="largest ratio that passes")
    arguments = parser.parse_args()
    main(arguments.samples, arguments.size, arguments.rounds, arguments.limit)
