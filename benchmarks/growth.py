"""How cost grows with samples, voxels, pairs, states, workers and tasks: ``python -m benchmarks.growth``.

The last part predicts how long statistics of 10⁴ volumes of 2048³ voxels take on clusters that nobody has at hand, from
the speed of one core and the time that the scheduler takes for a task.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import dask
import dask.array as da
import numpy as np
from dask.utils import format_time
from distributed import Client, LocalCluster, wait

from benchmarks import peak_memory
from mksdask import MKSLocalizationModel, PrimitiveBasis, plan
from mksdask.compute.blocks import map_samples
from mksdask.datasets import make_microstructure
from mksdask.reduction import PCA
from mksdask.stats import correlate, correlate_volume
from mksdask.storage import materialize

CORES = 32  # of each node in the prediction
NODES = (100, 1000)


def seconds_of(work: Callable[[], object], rounds: int = 3) -> float:
    """Shortest seconds of this thread, after a warm-up."""
    work()
    found = []
    for _ in range(rounds):
        start = time.thread_time()
        work()
        found.append(time.thread_time() - start)
    return min(found)


def structures(n: int, *spatial: int, states: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, states, (n, *spatial), dtype=np.uint8)


def row(name: str, of: str, sizes: Sequence[int], work: Callable[[int], Callable[[], object]]) -> None:
    """Print seconds by size, and the exponent of the line through their logarithms."""
    seconds = [seconds_of(work(size)) for size in sizes]
    exponent = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
    cells = "  ".join(f"{size:,}: {format_time(found)}" for size, found in zip(sizes, seconds, strict=True))
    print(f"  {name:<26}{of:<10} exponent {exponent:5.2f}   {cells}", flush=True)


def costs(quick: bool) -> None:  # noqa: FBT001
    most = 2 if quick else 4
    print("seconds of one thread")
    periodic = {"periodic_axes": (0, 1), "correlations": [(0, 0)]}

    def statistics(X: np.ndarray, n_states: int = 2, **options: object) -> Callable[[], object]:
        return lambda: correlate(X, PrimitiveBasis(n_states), **periodic | options)

    row("correlate, 21×21", "samples", [100, 1000, 10_000, 100_000][:most], lambda n: statistics(structures(n, 21, 21)))
    row(
        "correlate, one square",
        "voxels",
        [4**k for k in range(5, 5 + 2 * most - 1)],
        lambda n: statistics(structures(1, int(n**0.5), int(n**0.5))),
    )
    cubes = {"periodic_axes": (0, 1, 2)}
    row(
        "correlate, one cube",
        "voxels",
        [8**k for k in range(4, 4 + most)],
        lambda n: statistics(structures(1, *(round(n ** (1 / 3)),) * 3), **cubes),
    )
    row(
        "correlate, 100 × 64×64",
        "pairs",
        [1, 2, 4, 8],
        lambda n: statistics(structures(100, 64, 64, states=8), 8, correlations=[(0, k) for k in range(n)]),
    )
    row(
        "correlate, 100 × 64×64",
        "states",
        [2, 4, 8, 16],
        lambda n: statistics(structures(100, 64, 64, states=n), n, correlations=None),
    )
    rng = np.random.default_rng(0)
    row(
        "PCA(10), 4000 features",
        "samples",
        [125, 250, 500, 1000, 2000][: most + 1],
        lambda n: (lambda X: lambda: PCA(10).fit(X))(rng.standard_normal((n, 4000))),
    )
    row(
        "PCA(10), 200 samples",
        "features",
        [10_000, 100_000, 1_000_000][: max(2, most - 1)],
        lambda n: (lambda X: lambda: PCA(10).fit(X))(rng.standard_normal((200, n), dtype=np.float32)),
    )

    def kernels(X: np.ndarray, n_states: int = 2) -> Callable[[], object]:
        y = (X == 1) + 0.1 * np.roll(X == 0, 1, axis=1)
        return lambda: MKSLocalizationModel(PrimitiveBasis(n_states)).fit(X, y)

    row("localization, fit, 16³", "samples", [25, 100, 400], lambda n: kernels(structures(n, 16, 16, 16)))
    row(
        "localization, fit, 50 ×",
        "voxels",
        [8**3, 16**3, 32**3],
        lambda n: kernels(structures(50, *(round(n ** (1 / 3)),) * 3)),
    )
    row("localization, 50 × 16³", "states", [2, 4, 8], lambda n: kernels(structures(50, 16, 16, 16, states=n), n))


def volumes(edges: Sequence[int]) -> None:
    """Print seconds of day, and memory beyond that of the process, of the statistics of one volume in a store."""

    def statistics(volume: da.Array) -> None:
        correlate_volume(volume, PrimitiveBasis(2), cutoff=16, correlations=[(0, 0)]).compute()

    statistics(da.zeros((64,) * 3, chunks=64, dtype=np.uint8))
    seconds = []
    for edge in edges:
        random = da.random.default_rng(0).integers(0, 2, (edge,) * 3, dtype=np.uint8, chunks=min(edge, 256))
        with tempfile.TemporaryDirectory() as folder:
            volume = materialize(random, Path(folder) / "volume.zarr", progress=False)
            before, start = peak_memory.reset(), time.perf_counter()
            statistics(volume)
            seconds.append(time.perf_counter() - start)
        more, rate = peak_memory.megabytes() - before, edge**3 / seconds[-1] / 1e6
        print(f"  {edge}³: {seconds[-1]:.2f} s, {rate:.1f} million voxels a second, {more:.0f} MB more", flush=True)
    exponent = np.polyfit(np.log(edges), np.log(seconds), 1)[0] / 3
    print(f"  exponent {exponent:.2f}", flush=True)


def cluster(n_workers: int) -> LocalCluster:
    return LocalCluster(n_workers=n_workers, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0")


def workers(samples: int) -> None:
    """Seconds of day for the same statistics and mean on 1, 2 and 4 workers."""
    X = make_microstructure(n_samples=samples, size=(64,) * 3, grain_size=6, chunks=4, seed=1)
    found = {}
    for n in (1, 2, 4):
        with cluster(n) as local, Client(local):
            held = X.persist()
            statistics = correlate(held, PrimitiveBasis(2), periodic_axes=(0, 1, 2)).mean(axis=0)
            statistics.compute()
            start = time.perf_counter()
            statistics.compute()
            found[n] = time.perf_counter() - start
    times = ", ".join(f"{n}: {found[1] / seconds:.2f}" for n, seconds in found.items())
    print(f"speed of {samples} × 64³ on n workers over that on one, {dask.system.CPU_COUNT} cores: {times}", flush=True)


def nothing(block: np.ndarray) -> np.ndarray:
    return block[:, :1]


def scheduler(counts: Sequence[int]) -> float:
    """Seconds of the processor that the client and the scheduler take for each task. They run in this process."""
    each = 0.0
    with cluster(1) as local, Client(local):
        for n in counts:
            start = time.perf_counter()
            X = da.zeros((n, 1), chunks=(1, 1))
            lazy = map_samples(nothing, X, tail=(1,), dtype=float, name="nothing")
            built = time.perf_counter() - start
            start, spent = time.perf_counter(), time.process_time()
            held = lazy.persist()
            wait(held)
            seconds, each = time.perf_counter() - start, (time.process_time() - spent) / (2 * n)
            # One task makes a chunk, and one applies the kernel.
            print(
                f"  {n:,} chunks: graph in {built:.2f} s, {seconds:.1f} s beside a worker of one thread; scheduler and "
                f"client take {1e3 * each:.2f} ms for each of two tasks",
                flush=True,
            )
            held = None
    return each


def million(each: float) -> None:
    """Graph of the statistics of 10⁶ samples of 64³, in chunks as stores have them."""
    start = time.perf_counter()
    X = da.zeros((10**6, 64, 64, 64), chunks=(64, 64, 64, 64), dtype="uint8")
    options = {"periodic_axes": (0, 1, 2), "correlations": [(0, 0)], "cutoff": 20}
    lazy = correlate(X, PrimitiveBasis(2), **options)
    built = time.perf_counter() - start
    work = seconds_of(lambda: correlate(structures(64, 64, 64, 64), PrimitiveBasis(2), **options), rounds=1)
    print(
        f"  10⁶ samples of 64³: graph of {lazy.numblocks[0]:,} chunks in {built:.2f} s; two tasks a chunk cost "
        f"{2 * each / work:.1%} of the work of one core",
        flush=True,
    )


def predicted(each: float) -> None:
    """Hours of the statistics of 10⁴ volumes of 2048³ on clusters, from what was measured here."""
    edge = 256
    volume = da.from_array(make_microstructure(1, (edge,) * 3, grain_size=8, seed=1)[0], chunks=128)
    options = {"cutoff": 50, "correlations": [(0, 0)]}
    with dask.config.set(scheduler="synchronous"):
        found = correlate_volume(volume, PrimitiveBasis(2), **options)
        rate = edge**3 / seconds_of(found.compute, rounds=2)
    large = da.zeros((2048,) * 3, chunks=256, dtype="uint8")
    planned = plan(correlate_volume, large, PrimitiveBasis(2), memory_limit="4GiB", **options)
    tasks = sum(stage.n_tasks for stage in planned.stages)
    print(f"  one core: {rate / 1e6:.1f} million voxels a second; a volume of 2048³ takes {tasks} tasks")
    for nodes in NODES:
        work, serial = 1e4 * 2048**3 / rate / (nodes * CORES) / 3600, 1e4 * tasks * each / 3600
        limit = "the cores" if work > serial else "the scheduler: several clients, each with its own, are faster"
        print(
            f"  10⁴ volumes on {nodes} nodes of {CORES} cores: {max(work, serial):.2f} h, limited by {limit} "
            f"(cores {work:.2f} h, scheduler {serial:.2f} h)"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parts = ["costs", "volumes", "workers", "scheduler"]
    parser.add_argument("parts", nargs="*", default=parts, help=f"any of {', '.join(parts)}")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--chunks", type=int, nargs="*", default=[1000, 10_000], help="numbers of chunks to schedule")
    arguments = parser.parse_args()
    if "costs" in arguments.parts:
        costs(arguments.quick)
    if "volumes" in arguments.parts:
        print("one volume in a store, lags up to 16, seconds of day on all cores")
        volumes([64, 128] if arguments.quick else [256, 512, 1024, 2048])
    if "workers" in arguments.parts:
        workers(16 if arguments.quick else 64)
    if "scheduler" in arguments.parts:
        print("scheduler, kernels that do nothing")
        each = scheduler([1000] if arguments.quick else arguments.chunks)
        million(each)
        print("prediction")
        predicted(each)
