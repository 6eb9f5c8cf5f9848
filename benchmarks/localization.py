"""Calibration of influence kernels: time over that of FFTs and of a plain loop, error resized and by order, memory."""

import argparse
import tempfile
import time

import dask.array as da
import numpy as np
import scipy.fft
import scipy.linalg
import scipy.ndimage
from distributed import Client, LocalCluster
from memory import PeakMemory
from timing import ratio

from mksdask import MKSLocalizationModel, PrimitiveBasis
from mksdask.datasets import ElasticFESimulation, make_microstructure
from mksdask.datasets.responses import make_elastic_FE_strain_delta

GIB = 2**30


def loop(m: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The straightforward way: all transforms in memory, then `lstsq` at one frequency after the other."""
    axes = tuple(range(1, y.ndim))
    M, P = scipy.fft.rfftn(m, axes=axes), scipy.fft.rfftn(y, axes=axes)
    A = np.empty(M.shape[1:], dtype=complex)
    for k in np.ndindex(A.shape[:-1]):
        A[k] = scipy.linalg.lstsq(M[(slice(None), *k)], P[(slice(None), *k)])[0]
    kernels = scipy.fft.irfftn(A, s=y.shape[1:], axes=tuple(range(y.ndim - 1)))
    return scipy.fft.fftshift(kernels, axes=tuple(range(y.ndim - 1)))


def fit(samples: int, edge: int, rounds: int, limit: float) -> None:
    rng = np.random.default_rng(0)
    for n_states in (2, 5):
        X = rng.integers(0, n_states, size=(samples, *(edge,) * 3)).astype("uint8")
        y = rng.normal(size=X.shape)
        model = MKSLocalizationModel(PrimitiveBasis(n_states))
        # What has to be transformed: all states but the last, and the response.
        fields = [(h == X).astype(float) for h in range(n_states - 1)] + [y]

        def transforms(fields: list[np.ndarray] = fields) -> None:
            for field in fields:
                for sample in field:
                    scipy.fft.rfftn(sample)

        def calibrate(model: MKSLocalizationModel = model, X: np.ndarray = X, y: np.ndarray = y) -> None:
            model.fit(X, y)

        m = model.basis.discretize(X)

        def plainly(m: np.ndarray = m, y: np.ndarray = y) -> None:
            loop(m, y)

        seconds, bare, factor = ratio(calibrate, transforms, rounds=rounds)
        _, plain, against = ratio(calibrate, plainly, rounds=1)
        print(
            f"  {samples} of {edge}³, {n_states} states: {seconds:.3f} s, its rfftn {bare:.3f} s: ratio {factor:.2f}; "
            f"lstsq loop {plain:.2f} s: {1 / against:.0f} times",
            flush=True,
        )
        assert factor <= limit, f"{n_states} states: {factor:.2f} times the FFTs, more than {limit}"


def resized() -> None:
    """Error of ε_xx on 63×63 beside finite elements, kernels calibrated on 21×21 and, for comparison, on 63×63."""
    print("  63×63, mean and largest error of ε_xx over the imposed strain (spread of the field)")
    print("  contrast  grains   calibrated at 21×21   at 63×63               spread")
    for grain in (0, 5):
        X = make_microstructure(n_samples=4, size=(63, 63), grain_size=grain, volume_fraction=(0.5, 0.5), seed=1)
        for contrast in (1.2, 1.5, 2.0, 5.0, 10.0):
            phases = {"elastic_modulus": (1.0, contrast), "poissons_ratio": (0.3, 0.3), "macro_strain": 1.0}
            truth = ElasticFESimulation(**phases).run(X).strain[..., 0]
            cells = []
            for size in (21, 63):
                model = MKSLocalizationModel(PrimitiveBasis(2))
                model.fit(*make_elastic_FE_strain_delta(**phases, size=(size, size)))
                error = np.abs(model.resize_coeff((63, 63)).predict(X) - truth)
                cells.append(f"{error.mean():7.2%} {error.max():8.1%}")
            name = "voxels" if not grain else f"{grain} voxels"
            print(f"  {contrast:8.1f}  {name:<8} {cells[0]}      {cells[1]}      {truth.std():8.1%}", flush=True)


def series(samples: int, size: int) -> None:
    """Error of ε_xx by order, and time of a fit of all orders over that of as many fits of first order."""
    print("  contrast  mean error of ε_xx over the imposed strain, orders 1 to 8")
    rng = np.random.default_rng(0)
    noise = scipy.ndimage.gaussian_filter(rng.normal(size=(samples + 50, size, size)), (0, 3, 3), mode="wrap")
    X = (noise > 0).astype("uint8")
    for contrast in (10.0, 50.0):
        phases = {"elastic_modulus": (1.0, contrast), "poissons_ratio": (0.3, 0.3), "macro_strain": 1.0}
        y = ElasticFESimulation(**phases, tolerance=1e-6).run(X).strain
        model = MKSLocalizationModel(PrimitiveBasis(2), order=8).fit(X[:samples], y[:samples])
        errors = [np.abs(model.predict(X[samples:], order=k) - y[samples:])[..., 0].mean() for k in range(1, 9)]
        print(f"  {contrast:8.0f}  {' '.join(f'{error:.2%}' for error in errors)}", flush=True)
    first, last = (MKSLocalizationModel(PrimitiveBasis(2), order=order) for order in (1, 4))
    seconds, one, factor = ratio(
        lambda: last.fit(X[:samples], y[:samples]), lambda: first.fit(X[:samples], y[:samples]), rounds=3
    )
    states = len(last.terms_[4]) / len(first.terms_[1])
    each = f"{factor / 4:.1f} times the time for each order"
    print(f"  order 4: {seconds:.2f} s, first order {one:.2f} s: {each}, {states:.0f} times the states", flush=True)


def solid(samples: int, edge: int, order: int) -> None:
    """Error of ε_xx in 3D by order, with the ridge that "gcv" chooses beside the best of fixed ones."""
    print(f"  {edge}³, {samples} training samples, mean error of ε_xx over the imposed strain, orders 1 to {order}")
    rng = np.random.default_rng(0)
    noise = scipy.ndimage.gaussian_filter(rng.normal(size=(samples + 20, *(edge,) * 3)), (0, 3, 3, 3), mode="wrap")
    X = (noise > 0).astype("uint8")
    for contrast in (10.0, 50.0):
        phases = {"elastic_modulus": (1.0, contrast), "poissons_ratio": (0.3, 0.3), "macro_strain": 1.0}
        y = ElasticFESimulation(**phases, tolerance=1e-5).run(X).strain
        rows: dict[str | float, list[float]] = {}
        for alpha in ("gcv", 0.0, 1e-6, 1e-5, 1e-4, 1e-3):
            start = time.perf_counter()
            model = MKSLocalizationModel(PrimitiveBasis(2), order=order, alpha=alpha).fit(X[:samples], y[:samples])
            seconds = time.perf_counter() - start
            rows[alpha] = [
                float(np.abs(model.predict(X[samples:], order=k) - y[samples:])[..., 0].mean())
                for k in range(1, order + 1)
            ]
            errors = " ".join(f"{error:.2%}" for error in rows[alpha])
            print(f"  contrast {contrast:3.0f}, alpha {alpha!s:<6} {errors}  ({seconds:.0f} s)", flush=True)
        best = min(errors[-1] for alpha, errors in rows.items() if alpha != "gcv")
        assert rows["gcv"][-1] <= 1.05 * best, f"gcv: {rows['gcv'][-1]:.2%}, the best fixed ridge: {best:.2%}"


def peak_of_fit(samples: int, folder: str, order: int) -> float:
    """Largest resident set, GiB, of two workers of 1 GiB that fit a number of samples of 16³."""
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            memory_limit=GIB,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            local_directory=folder,
        ) as cluster,
        Client(cluster) as client,
    ):
        shape, chunks = (samples, 16, 16, 16), (50, 16, 16, 16)
        # Warm both workers up, so that what is compiled and loaded counts in neither case.
        X = da.random.default_rng(0).integers(0, 3, size=(200, 16, 16, 16), chunks=chunks, dtype="uint8")
        MKSLocalizationModel(PrimitiveBasis(3), order=order).fit(X, X.astype(float))
        peak = PeakMemory(client)
        peak.start()
        workers = set(peak.peak)
        X = da.random.default_rng(1).integers(0, 3, size=shape, chunks=chunks, dtype="uint8")
        y = da.random.default_rng(2).normal(size=shape, chunks=chunks)
        model = MKSLocalizationModel(PrimitiveBasis(3), order=order).fit(X, y)
        highest, spilled = peak.close()
        assert model.n_samples_seen_ == samples
        assert set(client.scheduler_info()["workers"]) == workers, "a worker was restarted"
        assert not spilled, f"{spilled} spilled"
    return max(highest.values()) / GIB


def memory(few: int, many: int, order: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        small, large = peak_of_fit(few, folder, order), peak_of_fit(many, folder, order)
    print(
        f"  16³ to order {order}, workers of 1 GiB: peak {small:.3f} GiB on {few} samples, {large:.3f} GiB on {many}",
        flush=True,
    )
    assert abs(large / small - 1) < 0.1, "memory depends on the number of samples"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parts = ["fit", "resized", "series", "solid", "memory"]
    parser.add_argument("parts", nargs="*", default=parts, help=f"any of {', '.join(parts)}")
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--many", type=int, default=20_000, help="samples of the memory contract")
    parser.add_argument("--order", type=int, default=1, help="order of the series in the memory contract")
    parser.add_argument("--training", type=int, default=600, help="samples of the series")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=float, default=4.0, help="largest ratio to its FFTs that passes")
    arguments = parser.parse_args()
    if "fit" in arguments.parts:
        fit(arguments.samples, arguments.size, arguments.rounds, arguments.limit)
    if "resized" in arguments.parts:
        resized()
    if "series" in arguments.parts:
        series(arguments.training, 32)
    if "solid" in arguments.parts:
        solid(100, 31, 8)
    if "memory" in arguments.parts:
        memory(200, arguments.many, arguments.order)
