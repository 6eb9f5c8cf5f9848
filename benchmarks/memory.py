"""Peak memory of a worker beside what `mksdask.plan` says, case by case, on clusters of one worker process.

Each case runs in the smallest worker that the plan allows, and in one of half as much again, with 1 and with 4 threads.
Planned is the process (`PROCESS_BYTES`) and as many tasks as there are threads. The table also says whether the worker
was restarted, and how many bytes dask spilled. Cases are chosen by parts of their names. The benchmark fails if a case
takes more than 1.1 times what is planned, or 0.8 of the worker, or does not run to its end.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import psutil
import zarr
from distributed import Client, LocalCluster
from sklearn.linear_model import OrthogonalMatchingPursuit

from mksdask import GSHBasis, MKSLocalizationModel, MKSStructureAnalysis, PrimitiveBasis
from mksdask.compute.operation import PREPARE
from mksdask.compute.plans import PROCESS_BYTES, DoesNotFitError, Limit, Plan
from mksdask.datasets import effective_stiffness, mean_stress, solve_fields
from mksdask.reduction import PCA
from mksdask.regression import KernelRegressor
from mksdask.simulation import effective_conductivity
from mksdask.stats import correlate, correlate_volume
from mksdask.stats.windows import sample_windows

MIB = 2**20
# The smallest worker may have so many times the tasks of a large one.
MOST_PARTS = 8
# Largest peak, over the plan and over the memory of the worker.
MOST_OF_PLAN, MOST_OF_LIMIT = 1.1, 0.8
# Seconds after which a case is given up.
PATIENCE = 300


def give_up(*_: object) -> None:
    msg = f"not finished after {PATIENCE} s"
    raise TimeoutError(msg)


class PeakMemory(threading.Thread):
    """Peak resident set of each worker, sampled from outside, and the bytes that dask spilled."""

    def __init__(self, client: Client) -> None:
        super().__init__(daemon=True)
        self.client, self.done = client, threading.Event()
        pids = client.run(lambda: __import__("os").getpid())
        self.processes = {address: psutil.Process(pid) for address, pid in pids.items()}
        self.peak = dict.fromkeys(pids, 0)

    def run(self) -> None:
        while not self.done.wait(0.004):
            for address, process in self.processes.items():
                try:
                    self.peak[address] = max(self.peak[address], process.memory_info().rss)
                except psutil.NoSuchProcess:
                    continue

    def close(self) -> tuple[dict[str, int], int]:
        self.done.set()
        self.join()
        for address, process in self.processes.items():
            # Linux keeps the peak itself.
            status = Path(f"/proc/{process.pid}/status")
            lines = status.read_text().splitlines() if status.exists() else []
            kept = [1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
            self.peak[address] = max(self.peak[address], *kept, 0)
        spilled = self.client.run(
            lambda dask_worker: (
                dask_worker.state.spilled_bytes_total
                if hasattr(dask_worker.state, "spilled_bytes_total")
                else len(getattr(dask_worker.data, "slow", None) or ())
            )
        )
        return self.peak, sum(spilled.values())


def drop(result: Any) -> None:
    """Make a result and let it go, chunk by chunk."""
    ones = (1,) * result.ndim
    result.map_blocks(lambda block: np.zeros(ones), chunks=ones, dtype=float, meta=np.empty(ones)).compute()


@dataclass
class Call:
    """A call, what to do with its result, and what plans it if it does not plan itself."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)
    finish: Callable[[Any], object] = id
    plan: Callable[[Limit], Plan] | None = None

    def planned(self, limit: Limit) -> Plan:
        if self.plan is not None:
            return self.plan(limit)
        owner = (self.function.__self__,) if hasattr(self.function, "__self__") else ()
        prepare = getattr(self.function, PREPARE)
        return prepare(*owner, *self.arguments, **self.options).plan(limit)

    def smallest(self, n_threads: int) -> int:
        """Find the smallest worker, in whole MiB, that the plan allows without cutting chunks to many small ones."""
        low, high = PROCESS_BYTES // MIB, 16384
        most = MOST_PARTS * self.planned(Limit(64 * high * MIB, n_threads)).n_tasks
        while high - low > 1:
            middle = (low + high) // 2
            try:
                found = self.planned(Limit(middle * MIB, n_threads))
                fits = found.peak_bytes <= Limit(middle * MIB, n_threads).task_bytes and found.n_tasks <= most
            except DoesNotFitError:
                fits = False
            low, high = (low, middle) if fits else (middle, high)
        return high * MIB


def _normal(block: np.ndarray, block_info: Any) -> np.ndarray:
    place = block_info[None]["chunk-location"]
    return np.random.default_rng(place).standard_normal(block.shape, dtype=block.dtype)


def _phases(block: np.ndarray, block_info: Any, n_states: int) -> np.ndarray:
    place = block_info[None]["chunk-location"]
    return np.random.default_rng(place).integers(0, n_states, block.shape, dtype=np.uint8)


def matrix(shape: tuple[int, ...], chunks: tuple[int, ...], dtype: Any = np.float32) -> da.Array:
    """Normal numbers, which are made in their own precision."""
    return da.empty(shape, chunks=chunks, dtype=dtype).map_blocks(_normal, dtype=dtype)


def ensemble(n: int, shape: tuple[int, ...], chunk: int, n_states: int = 2) -> da.Array:
    """Samples of phases."""
    lazy = da.empty((n, *shape), chunks=(chunk, *shape), dtype=np.uint8)
    return lazy.map_blocks(_phases, dtype=np.uint8, n_states=n_states)


def volume(edge: int, folder: Path, name: str = "volume") -> da.Array:
    """A volume in a store, uncompressed."""
    store = zarr.create_array(
        folder / f"{name}.zarr", shape=(edge,) * 3, chunks=(64,) * 3, dtype="uint8", compressors=None
    )
    rng = np.random.default_rng(0)
    for x in range(0, edge, 64):
        store[x : x + 64] = rng.integers(0, 2, (64, edge, edge), dtype=np.uint8)
    return da.from_zarr(store)


def stored(lazy: da.Array, folder: Path) -> da.Array:
    """The same array, read from a store."""
    chunks = tuple(map(max, lazy.chunks))
    store = zarr.create_array(folder / "given.zarr", shape=lazy.shape, chunks=chunks, dtype=lazy.dtype)
    with dask.config.set(scheduler="synchronous"):
        da.store(lazy, store)
    return da.from_zarr(store)


ALL = {"periodic_axes": [0, 1, 2]}
ELASTIC = {"elastic_modulus": (1, 2), "poissons_ratio": (0.3, 0.3), "tolerance": 0.1}
TWO = PrimitiveBasis(2)
CASES: dict[str, Callable[[Path], Call]] = {}


def case(name: str) -> Callable[[Callable[[Path], Call]], Callable[[Path], Call]]:
    def kept(make: Callable[[Path], Call]) -> Callable[[Path], Call]:
        CASES[name] = make
        return make

    return kept


@case("correlate, periodic")
def _(folder: Path) -> Call:
    return Call(correlate, (ensemble(64, (64,) * 3, 8), TWO), ALL, drop)


@case("correlate, cutoff")
def _(folder: Path) -> Call:
    return Call(correlate, (ensemble(96, (64,) * 3, 16), TWO), {"cutoff": 24}, drop)


@case("correlate, masked")
def _(folder: Path) -> Call:
    masks = ensemble(32, (64,) * 3, 4)
    options = {"correlations": [(0, 0)], "confidence_index": masks}
    return Call(correlate, (ensemble(32, (64,) * 3, 4), TWO), options, drop)


@case("correlate, prime sizes")
def _(folder: Path) -> Call:
    return Call(correlate, (ensemble(64, (61, 67, 71), 8), TWO), ALL, drop)


@case("correlate, large primes, float64")
def _(folder: Path) -> Call:
    return Call(correlate, (ensemble(16, (127, 131, 137), 2), TWO), ALL | {"dtype": "float64"}, drop)


@case("correlate, GSH")
def _(folder: Path) -> Call:
    angles = da.random.default_rng(0).uniform(0, 3, size=(40, 32, 32, 32, 3), chunks=(4, 32, 32, 32, 3))
    return Call(correlate, (angles, GSHBasis(8, domain="cubic")), ALL, drop)


@case("correlate, many small samples")
def _(folder: Path) -> Call:
    return Call(correlate, (ensemble(100_000, (32, 32), 4096), TWO), {"periodic_axes": [0, 1]}, drop)


@case("analysis of many small samples")
def _(folder: Path) -> Call:
    analysis = MKSStructureAnalysis(TWO, n_components=5, periodic_axes=[0, 1])
    return Call(analysis.fit, (ensemble(50_000, (32, 32), 4096),))


@case("analysis of many tiny chunks")
def _(folder: Path) -> Call:
    analysis = MKSStructureAnalysis(TWO, n_components=5, periodic_axes=[0, 1])
    return Call(analysis.fit, (ensemble(20_000, (32, 32), 100),))


@case("analysis of 64³")
def _(folder: Path) -> Call:
    return Call(MKSStructureAnalysis(TWO, n_components=5, **ALL).fit, (ensemble(96, (64,) * 3, 8),))


@case("PCA, more samples, 6000 × 1000")
def _(folder: Path) -> Call:
    return Call(PCA(5).fit, (matrix((120_000, 1000), (6000, 1000)),))


@case("PCA, more samples, small chunks")
def _(folder: Path) -> Call:
    return Call(PCA(5).fit, (matrix((40_000, 1000), (400, 1000)),))


@case("PCA, more samples, stored")
def _(folder: Path) -> Call:
    return Call(PCA(5).fit, (stored(matrix((120_000, 1000), (6000, 1000)), folder),))


@case("PCA, more samples, features in chunks")
def _(folder: Path) -> Call:
    return Call(PCA(5).fit, (matrix((60_000, 1000), (6000, 250)),))


@case("PCA, more features")
def _(folder: Path) -> Call:
    return Call(PCA(5).fit, (matrix((1000, 300_000), (10, 300_000)),))


@case("PCA, features in chunks")
def _(folder: Path) -> Call:
    return Call(PCA(5).fit, (matrix((1000, 300_000), (250, 20_000)),))


@case("PCA, incremental")
def _(folder: Path) -> Call:
    return Call(PCA(5, solver="incremental").fit, (matrix((1600, 40_000), (100, 40_000)),))


@case("PCA, randomized")
def _(folder: Path) -> Call:
    return Call(PCA(5, solver="randomized").fit, (matrix((6000, 20_000), (2000, 2000)),))


@case("kernel regression")
def _(folder: Path) -> Call:
    X = matrix((60_000, 60), (10_000, 60), np.float64)
    return Call(KernelRegressor(n_landmarks=600).fit, (X, X[:, 0]))


@case("localization, fit")
def _(folder: Path) -> Call:
    shape = (48,) * 3
    y = matrix((48, *shape, 3), (1, *shape, 3), np.float64)
    return Call(MKSLocalizationModel(PrimitiveBasis(3)).fit, (ensemble(48, shape, 1, 3), y))


@case("localization, fit in many small chunks")
def _(folder: Path) -> Call:
    y = matrix((4096, 32, 32), (8, 32, 32), np.float64)
    return Call(MKSLocalizationModel(TWO).fit, (ensemble(4096, (32, 32), 8), y))


@case("localization, fit to spectra")
def _(folder: Path) -> Call:
    pursuit = OrthogonalMatchingPursuit(n_nonzero_coefs=1, fit_intercept=False)
    y = matrix((400, 16, 16, 16), (20, 16, 16, 16), np.float64)
    return Call(MKSLocalizationModel(TWO, linear_model=pursuit).fit, (ensemble(400, (16,) * 3, 20), y))


@case("localization, predict")
def _(folder: Path) -> Call:
    model = MKSLocalizationModel(TWO)
    model.coef_ = np.random.default_rng(0).normal(size=(96, 96, 96, 2)).astype("float32")
    return Call(model.predict, (ensemble(96, (96,) * 3, 8),), {}, drop)


@case("solve_fields")
def _(folder: Path) -> Call:
    return Call(solve_fields, (ensemble(12, (48,) * 3, 1),), ELASTIC, lambda response: drop(response.stress))


@case("mean_stress")
def _(folder: Path) -> Call:
    return Call(mean_stress, (ensemble(12, (48,) * 3, 1),), ELASTIC, drop)


@case("effective_stiffness")
def _(folder: Path) -> Call:
    return Call(effective_stiffness, (ensemble(6, (32,) * 3, 1),), ELASTIC, drop)


@case("fields of crystals")
def _(folder: Path) -> Call:
    angles = da.random.default_rng(0).uniform(0, 3, size=(12, 32, 32, 32, 3), chunks=(1, 32, 32, 32, 3))
    options = {"crystal_stiffness": (168.4, 121.4, 75.4), "tolerance": 0.1}
    return Call(solve_fields, (angles,), options, lambda response: drop(response.stress))


@case("effective conductivity")
def _(folder: Path) -> Call:
    options = {"conductivity": (1.0, 2.0), "tolerance": 0.1}
    return Call(effective_conductivity, (ensemble(6, (32,) * 3, 1),), options, drop)


@case("volume, cutoff")
def _(folder: Path) -> Call:
    options = {"cutoff": 20, "correlations": [(0, 0), (0, 1)]}
    return Call(correlate_volume, (volume(256, folder), TWO), options, drop)


@case("volume, cutoff, with errors")
def _(folder: Path) -> Call:
    options = {"cutoff": 40, "correlations": [(0, 0), (0, 1)], "return_std": True}
    return Call(correlate_volume, (volume(256, folder), TWO), options, lambda pair: (drop(pair[0]), drop(pair[1])))


@case("volume, masked")
def _(folder: Path) -> Call:
    options = {"cutoff": 20, "correlations": [(0, 0)], "confidence_index": volume(192, folder, "mask")}
    return Call(correlate_volume, (volume(192, folder), TWO), options, drop)


@case("volume, all lags")
def _(folder: Path) -> Call:
    options = {"cutoff": None, "correlations": [(0, 0)], "scratch": str(folder / "all.zarr")}
    return Call(correlate_volume, (volume(256, folder), TWO), options)


@case("volume, all lags, prime")
def _(folder: Path) -> Call:
    options = {"cutoff": None, "correlations": [(0, 0)], "scratch": str(folder / "all.zarr"), "periodic_axes": 0}
    return Call(correlate_volume, (volume(256, folder)[:251, :241, :239], TWO), options)


@case("windows, correlate")
def _(folder: Path) -> Call:
    windows = sample_windows(volume(256, folder), size=64, n=200, seed=0)
    return Call(correlate, (windows, TWO), {"cutoff": 20}, drop)


def measured(name: str, n_threads: int, factor: float) -> dict[str, Any]:
    """Run a case in a worker of `factor` times the smallest limit, and compare its peak with the plan."""
    with tempfile.TemporaryDirectory() as temporary, dask.config.set(temporary_directory=temporary):
        folder = Path(temporary)
        call = CASES[name](folder)
        limit = int(factor * call.smallest(n_threads))
        plan = call.planned(Limit(limit, n_threads))
        planned = PROCESS_BYTES + n_threads * plan.peak_bytes
        with (
            LocalCluster(
                n_workers=1,
                threads_per_worker=n_threads,
                memory_limit=limit,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                local_directory=folder,
            ) as cluster,
            Client(cluster) as client,
        ):
            peak = PeakMemory(client)
            (bare,) = (process.memory_info().rss for process in peak.processes.values())
            peak.start()
            (before,) = client.run(os.getpid).values()
            start, end = time.perf_counter(), "whole"
            # A worker above 0.8 of its memory is paused, and may stay so for ever.
            signal.alarm(PATIENCE)
            try:
                call.finish(call.function(*call.arguments, **call.options))
            except Exception as error:
                end = f"{type(error).__name__}: {str(error)[:80]}"
            signal.alarm(0)
            seconds = time.perf_counter() - start
            workers = client.run(os.getpid)
            peaks, spilled = peak.close()
        n_restarts = int(before not in workers.values())
    return {
        "case": name,
        "threads": n_threads,
        "limit": limit / MIB,
        "bare": bare / MIB,
        "planned": planned / MIB,
        "measured": max(peaks.values()) / MIB,
        "of plan": max(peaks.values()) / planned,
        "of limit": max(peaks.values()) / limit,
        "restarts": n_restarts,
        "spilled": spilled / MIB,
        "seconds": seconds,
        "end": end,
    }


def is_kept(found: dict[str, Any]) -> bool:
    """Whether the worker kept to the plan."""
    within = found["of plan"] <= MOST_OF_PLAN and found["of limit"] <= MOST_OF_LIMIT
    return within and found["end"] == "whole" and not found["restarts"] and not found["spilled"]


def row(found: dict[str, Any]) -> str:
    figures = (found[key] for key in ("limit", "planned", "measured"))
    return (
        f"{found['case']:<40} {found['threads']:>2} {''.join(f'{figure:>9.0f}' for figure in figures)} "
        f"{found['of plan']:8.2f} {found['of limit']:8.2f} {found['restarts']:>8} {found['spilled']:>8.0f} "
        f"{found['seconds']:>7.1f}  {'' if found['end'] == 'whole' else found['end']}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", help="parts of the names of cases; default all")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--factors", type=float, nargs="+", default=[1.0, 1.5], help="of the smallest limit")
    parser.add_argument("--json", type=Path, help="file to which each case is appended as a line")
    arguments = parser.parse_args()
    signal.signal(signal.SIGALRM, give_up)
    print(f"{'case':<40} {'threads':>7} limit  planned measured  of plan of limit restarts  spilled seconds   (MiB)")
    broken = []
    for chosen in CASES:
        if arguments.cases and not any(part in chosen for part in arguments.cases):
            continue
        for threads in arguments.threads:
            for times in arguments.factors:
                result = measured(chosen, threads, times)
                print(row(result), flush=True)
                broken += [] if is_kept(result) else [chosen]
                if arguments.json:
                    with arguments.json.open("a") as file:
                        file.write(json.dumps(result) + "\n")
    sys.exit(f"exceeded by {', '.join(broken)}" if broken else 0)
