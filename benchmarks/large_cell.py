"""A sample that fills a worker: bytes a voxel beside the plan, and the time on all threads beside that on one."""

import argparse
import resource
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import dask
import numpy as np
import psutil
from timing import ratio

from mksdask import plan
from mksdask.compute.threads import threads_of_worker
from mksdask.datasets import make_microstructure
from mksdask.simulation import effective_conductivity, mean_stress, solve_conduction, solve_fields

PHASES = {"elastic_modulus": (1.0, 10.0), "poissons_ratio": (0.3, 0.3)}
CASES = {
    "mean_stress": (mean_stress, PHASES),
    "imposed mean stress": (mean_stress, PHASES | {"macro_stress": (1.0, 0.0, 0.0, 0.0, 0.0, 0.0)}),
    "solve_fields": (solve_fields, PHASES),
    "effective_conductivity": (effective_conductivity, {"conductivity": (1.0, 10.0)}),
    "solve_conduction": (solve_conduction, {"conductivity": (1.0, 10.0)}),
}


def cell(edge: int) -> np.ndarray:
    """One sample of two phases, as bytes."""
    return make_microstructure(n_samples=1, size=(edge,) * 3, grain_size=8, seed=1).astype("uint8")


def memory_of(name: str, edge: int) -> None:
    """Print the planned bytes and the growth of the resident set, a voxel: in a process of its own."""
    function, options = CASES[name]
    function(cell(16), **options)
    X = cell(edge)
    before = psutil.Process().memory_info().rss
    result = function(X, **options, tolerance=1e-4)
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    planned = plan(function, X, **options).peak_bytes
    print(f"  {name:<24} {edge}³: planned {planned / X.size:4.0f}, measured {growth / X.size:4.0f} bytes a voxel")
    del result


def memory(edges: list[int], limit: float) -> None:
    for name in CASES:
        for edge in edges:
            command = [sys.executable, str(Path(__file__)), "--one", name, str(edge)]
            line = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            print(line, end="", flush=True)
            measured = float(line.split("measured")[1].split()[0])
            assert measured <= limit, f"{name}: {measured} bytes a voxel, more than {limit}"


def solved(results: list[np.ndarray], name: str, X: np.ndarray, scheduler: str | None) -> None:
    """Solve on all threads, or on one with the scheduler that has one thread."""
    function, options = CASES[name]
    with dask.config.set(scheduler=scheduler):
        results.append(function(X, **options, tolerance=1e-6))


def speed(edge: int, rounds: int, least: float) -> None:
    X, n_threads = cell(edge), threads_of_worker()
    for name in ("mean_stress", "effective_conductivity"):
        results: list[np.ndarray] = []
        on_all, on_one = (partial(solved, results, name, X, scheduler) for scheduler in (None, "synchronous"))
        alone, shared, factor = ratio(on_one, on_all, rounds=rounds)
        assert all(np.array_equal(result, results[0]) for result in results), "threads change the result"
        # On a busy machine, the work that the main thread does alone tells more than the clock.
        own, every = time.thread_time(), time.process_time()
        on_all()
        share = (time.thread_time() - own) / (time.process_time() - every)
        bound = 1 / (share + (1 - share) / n_threads)
        print(
            f"  {name:<24} {edge}³: one thread {alone:.1f} s, {n_threads} threads {shared:.1f} s: {factor:.2f} times "
            f"as fast, equal to the last bit; {share:.1%} of the work has one thread, which alone would allow "
            f"{bound:.2f}; load {psutil.getloadavg()[0]:.1f}",
            flush=True,
        )
        assert factor >= least, f"{name}: {factor:.2f} times as fast, less than {least}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small samples, one round")
    parser.add_argument("--edge", type=int, default=256, help="voxels along each axis for times")
    parser.add_argument("--edges", type=int, nargs="+", default=[96, 128, 192], help="voxels for memory")
    parser.add_argument("--limit", type=float, default=400.0, help="largest bytes a voxel that pass")
    parser.add_argument("--least", type=float, default=0.0, help="least gain of all threads that passes")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "EDGE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        memory_of(arguments.one[0], int(arguments.one[1]))
    else:
        print("Memory of one sample, contrast 10")
        memory([64] if arguments.quick else arguments.edges, arguments.limit)
        print("Time of one sample, contrast 10")
        speed(64 if arguments.quick else arguments.edge, 1 if arguments.quick else 3, arguments.least)
