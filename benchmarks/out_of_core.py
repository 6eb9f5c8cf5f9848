"""2000 samples of 64³ from zarr through statistics, PCA and linkage, on two workers of 1 GiB.

The finite-element stress of 200 samples trains the linkage, which then predicts all. The run must complete without a
restart or a spill; the peak resident memory of each worker is reported. `--samples` and `--size` scale it down.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from distributed import Client, LocalCluster
from memory import PeakMemory

from mksdask import MKSStructureAnalysis, PrimitiveBasis, create_ensemble, open_ensemble
from mksdask.arrays import to_numpy
from mksdask.datasets import make_microstructure, mean_stress
from mksdask.regression import polynomial_regression

GIB = 2**30


def run(samples: int, edge: int, solved: int, memory_limit: int, folder: Path) -> dict[str, float]:
    """Run the job; return seconds of each stage, peak bytes of each worker and R² of held-out samples."""
    seconds: dict[str, float] = {}
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            memory_limit=memory_limit,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            local_directory=folder,
        ) as cluster,
        Client(cluster) as client,
    ):
        peak = PeakMemory(client)
        peak.start()
        workers_before = set(peak.peak)

        def timed(name: str, start: float) -> None:
            seconds[name] = time.perf_counter() - start
            highest = max(peak.peak.values()) / GIB
            print(f"  {name:<28} {seconds[name]:7.1f} s   peak so far {highest:.2f} GiB", flush=True)

        start = time.perf_counter()
        X = make_microstructure(
            n_samples=samples,
            size=(edge,) * 3,
            grain_size=edge / 8,
            volume_fraction=(0.5, 0.5),
            percent_variance=0.4,
            chunks=max(1, 2**22 // edge**3),
        )
        create_ensemble(folder / "ensemble.zarr", X, periodic_axes=[0, 1, 2])
        timed("generate → zarr", start)

        X = open_ensemble(folder / "ensemble.zarr").microstructure
        start = time.perf_counter()
        options = {"elastic_modulus": (100.0, 20.0), "poissons_ratio": (0.3, 0.3), "macro_strain": 0.001}
        stress = to_numpy(mean_stress(X[: solved + solved // 4], **options))[:, 0]
        timed("finite elements", start)

        start = time.perf_counter()
        scores = MKSStructureAnalysis(PrimitiveBasis(2), n_components=8, scratch=folder).fit(X).reduced_fit_data
        timed("statistics → PCA", start)

        start = time.perf_counter()
        predicted = polynomial_regression(2).fit(scores[:solved], stress[:solved]).predict(scores)
        timed("linkage, predict all", start)
        truth = stress[solved:]
        error = predicted[solved : solved + len(truth)] - truth
        peaks, spilled = peak.close()
        assert set(client.scheduler_info()["workers"]) == workers_before, "a worker was restarted"
        assert spilled == 0, f"{spilled} bytes were spilled"
    r2 = 1 - np.sum(error**2) / np.sum((truth - truth.mean()) ** 2)
    for address, size in peaks.items():
        print(f"worker {address}: peak {size / GIB:.2f} GiB of {memory_limit / GIB:.2f}")
    print(f"R² on {len(truth)} solved samples that training did not see: {r2:.4f}")
    return seconds | {"peak": max(peaks.values()), "r2": float(r2)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--solved", type=int, default=200)
    parser.add_argument("--memory-limit", type=float, default=1.0, help="GiB of each worker")
    parser.add_argument("--folder", type=Path, help="where store and scratch go; default a temporary one")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    print(f"{arguments.samples} samples of {arguments.size}³, two workers of {arguments.memory_limit} GiB")
    try:
        run(arguments.samples, arguments.size, arguments.solved, int(arguments.memory_limit * GIB), folder)
    finally:
        shutil.rmtree(folder)
