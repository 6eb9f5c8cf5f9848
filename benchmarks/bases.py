"""Throughput of the bases, and their time over that of the same functions by vectorised scipy.special and NumPy."""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import eval_jacobi, eval_legendre, gammaln
from timing import ratio

from mksdask import FourierBasis, GSHBasis, LegendreBasis, PrimitiveBasis
from mksdask.bases import Basis
from mksdask.bases.gsh import invariants


def wigner(degree: int, m: int, n: int, tilt: np.ndarray) -> np.ndarray:
    """d^l_{mn} by Jacobi polynomials."""
    a, b = abs(m - n), abs(m + n)
    k = degree - (a + b) // 2
    norm = 0.5 * (gammaln(k + 1) + gammaln(k + a + b + 1) - gammaln(k + a + 1) - gammaln(k + b + 1))
    sign = -1.0 if m > n and (m - n) % 2 else 1.0
    half = 0.5 * tilt
    return sign * np.exp(norm) * np.sin(half) ** a * np.cos(half) ** b * eval_jacobi(k, a, b, np.cos(tilt))


def harmonics_by_scipy(basis: GSHBasis, angles: np.ndarray) -> np.ndarray:
    phi1, tilt, phi2 = np.moveaxis(angles, -1, 0)
    out = np.zeros((len(basis.states), *phi1.shape), dtype=complex)
    for state, (degree, mu, m) in enumerate(basis.index_):
        for position in np.flatnonzero(invariants(basis.domain, degree)[mu]):
            n = int(position) - degree
            weight = (2 * degree + 1) * invariants(basis.domain, degree)[mu][position] * 1j ** ((m - n) % 4)
            out[state] += weight * np.exp(-1j * (m * phi1 + n * phi2)) * wigner(degree, m, n, tilt)
    return out


def measure(name: str, basis: Basis, X: np.ndarray, other: Callable[[], Any] | None, rounds: int, limit: float) -> None:
    states = range(len(basis.states))
    n_voxels = X.size // basis.state_size
    for dtype in ("float64", "float32"):

        def fields(dtype: str = dtype) -> None:
            for _ in basis.fields(X, states, dtype):
                pass

        seconds, yardstick, factor = ratio(fields, other or fields, rounds=rounds)
        line = (
            f"  {name:<28}{dtype}  {n_voxels / seconds / 1e6:7.2f} M voxels/s  "
            f"{n_voxels * len(states) / seconds / 1e6:8.1f} M states·voxels/s"
        )
        if other is not None:
            line += f"   by scipy and NumPy in float64 {yardstick:.3f} s: ratio {factor:.3f}"
            assert factor <= limit, f"{name}: {factor:.2f} times the same by scipy, more than {limit}"
        print(line, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--voxels", type=int, default=10**6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=float, default=1.0, help="largest ratio that passes")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, arguments.voxels)
    angles = rng.uniform(0, np.pi, (arguments.voxels, 3))
    cubic, hexagonal = GSHBasis(15, domain="cubic"), GSHBasis(15, domain="hexagonal")
    high = GSHBasis(list(range(200, 215)), domain="cubic")
    rounds, limit = arguments.rounds, arguments.limit
    print(f"one thread, {arguments.voxels} voxels")
    measure("primitive, 5 hats", PrimitiveBasis(5, domain=(-1, 1)), x, None, rounds, limit)
    measure(
        "Legendre, orders 0 to 9",
        LegendreBasis(10),
        x,
        lambda: [(order + 0.5) * eval_legendre(order, x) for order in range(10)],
        rounds,
        limit,
    )
    fourier = FourierBasis(9, domain=(-1, 1))
    measure(
        "Fourier, orders -4 to 4",
        fourier,
        x,
        lambda: [np.exp(1j * np.pi * order * (x + 1)) for order in fourier.states],
        rounds,
        limit,
    )
    for name, basis in [
        ("GSH, first 15 cubic", cubic),
        ("GSH, first 15 hexagonal", hexagonal),
        (f"GSH, 15 cubic of l = {high.index_[0].l}, {high.index_[-1].l}", high),
    ]:
        part = angles[:1000]
        assert np.allclose(harmonics_by_scipy(basis, part), list(basis.fields(part, range(15), "float64")), atol=1e-9)
        measure(name, basis, angles, lambda basis=basis: harmonics_by_scipy(basis, angles), min(rounds, 2), limit)
