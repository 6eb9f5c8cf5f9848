"""The package beside others on equal input: ``pip install ".[peers]"``, then ``python -m benchmarks.peers``.

Results must agree. A line holds the seconds of the day and of the processor of the second call, and how much memory the
process took beyond its input. A peer that is not installed is left out, and said.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[], Any]
ROOT = Path(__file__).parents[1]


def blobs(n: int, *spatial: int) -> np.ndarray:
    make = import_module("mksdask.datasets").make_microstructure
    return make(n_samples=n, size=spatial, grain_size=6, volume_fraction=(0.4, 0.6), seed=1).astype(np.uint8)


def autocorrelation(small: int) -> dict[str, Run]:
    """Mean periodic autocorrelation of phase 0 of an ensemble in chunks, on two threads."""
    da, scipy_fft = import_module("dask.array"), import_module("scipy.fft")
    X = da.from_array(blobs(64 // small, 64, 64, 64), chunks=(4, 64, 64, 64))
    axes = (1, 2, 3)

    def ours() -> Any:
        mksdask, stats = import_module("mksdask"), import_module("mksdask.stats")
        f = stats.correlate(X, mksdask.PrimitiveBasis(2), correlations=[(0, 0)], periodic_axes=(0, 1, 2))
        return f.mean(axis=0)[..., 0].compute(num_workers=2)

    def with_dask() -> Any:
        m = (X == 0).astype(np.float32)
        spectra = da.fft.rfftn(m, axes=axes)
        f = da.fft.irfftn((da.absolute(spectra) ** 2), s=X.shape[1:], axes=axes) / X[0].size
        return np.fft.fftshift(f.mean(axis=0).compute(num_workers=2))

    def with_xrft() -> Any:
        xrft, xr = import_module("xrft"), import_module("xarray")
        m = xr.DataArray((X == 0).astype(np.float32), dims=("sample", "x", "y", "z"))
        spectra = xrft.fft(m, dim=("x", "y", "z"), true_phase=False, shift=False)
        power = (abs(spectra) ** 2).mean("sample").compute(num_workers=2)
        return scipy_fft.fftshift(scipy_fft.ifftn(power.values).real) / m[0].size

    return {"mksdask": ours, "dask.array.fft": with_dask, "xrft": with_xrft}


def radial(small: int) -> dict[str, Run]:
    """Two-point probability of one volume by distance, not periodic."""
    volume = blobs(1, *(128 // small,) * 3)[0]

    def ours() -> Any:
        mksdask, stats = import_module("mksdask"), import_module("mksdask.stats")
        f = stats.correlate(volume[None], mksdask.PrimitiveBasis(2), correlations=[(1, 1)], periodic_axes=(), cutoff=16)
        return stats.radial_average(f, n_spatial=3).values[0, 1:10, 0]

    def with_porespy() -> Any:
        found = import_module("porespy").metrics.two_point_correlation(volume == 1, bins=np.arange(0.5, 17.5))
        return found.probability_scaled[:9]

    return {"mksdask": ours, "porespy": with_porespy}


def components(small: int) -> dict[str, Run]:
    """Variances of the first 10 principal components of a chunked matrix."""
    da = import_module("dask.array")
    n, features = 500, 40_000 // small
    rng = np.random.default_rng(0)
    X = (rng.standard_normal((n, 50)) * np.arange(1, 51) ** -0.7) @ rng.standard_normal((50, features))
    X = (X + 0.1 * rng.standard_normal((n, features)) + 3).astype(np.float32)

    def ours() -> Any:
        return import_module("mksdask.reduction").PCA(10).fit(da.from_array(X, chunks=(100, -1))).explained_variance_

    def with_sklearn() -> Any:
        return import_module("sklearn.decomposition").PCA(10, svd_solver="full").fit(X).explained_variance_

    def with_dask_ml() -> Any:
        pca = import_module("dask_ml.decomposition").PCA(10, random_state=0)
        return pca.fit(da.from_array(X, chunks=(100, -1))).explained_variance_

    return {"mksdask": ours, "scikit-learn": with_sklearn, "dask-ml": with_dask_ml}


def clusters(small: int) -> dict[str, Run]:
    """Number of clusters of a phase."""
    volume = blobs(1, *(256 // small,) * 3)[0]

    def ours() -> Any:
        da = import_module("dask.array")
        chunked = da.from_array(volume, chunks=128)
        return import_module("mksdask.stats").label_clusters(chunked, 0).max().compute(num_workers=2)

    def with_scipy() -> Any:
        return import_module("scipy.ndimage").label(volume == 0)[1]

    return {"mksdask": ours, "scipy.ndimage": with_scipy}


def thickness(small: int) -> dict[str, Run]:
    """Mean local thickness of a phase by balls of whole radii."""
    volume = blobs(1, *(128 // small,) * 3)[0]
    radii = [1, 2, 3, 4, 5, 6, 8]

    def ours() -> Any:
        return import_module("mksdask.stats").local_thickness(volume, 1, radii).mean().compute(num_workers=2)

    def with_porespy() -> Any:
        filters = import_module("porespy").filters
        return filters.local_thickness(volume == 1, sizes=radii, method="dt").mean()

    return {"mksdask": ours, "porespy": with_porespy}


# What is compared, and by how much results may differ, relative to the largest.
CASES: dict[str, tuple[Callable[[int], dict[str, Run]], float]] = {
    "autocorrelation": (autocorrelation, 1e-5),
    "radial": (radial, 1e-5),
    "components": (components, 1e-5),
    "clusters": (clusters, 0.0),
    "thickness": (thickness, 1e-6),
}

# Sides that estimate the result. Their difference is printed.
ESTIMATES = ("dask-ml",)


def measure(case: str, side: str, small: int, path: Path) -> None:
    """Run one side twice in this process, and write its result and what the second call took."""
    run = CASES[case][0](small)[side]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = run()
    start, spent = time.perf_counter(), time.process_time()
    result = run()
    seconds, cpu = time.perf_counter() - start, time.process_time() - spent
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    path.write_text(json.dumps([seconds, cpu, more / 1024, np.asarray(result, dtype=float).ravel().tolist()]))


def main(cases: list[str], small: int) -> None:
    for case in cases:
        make, tolerance = CASES[case]
        title = (make.__doc__ or "").partition(".")[0]
        print(f"{title}\n  {'':<16}{'seconds':>9}{'CPU':>9}{'MB more':>9}  of ours  differs by", flush=True)
        found: dict[str, list[Any]] = {}
        for side in make(small):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "found.json"
                line = [
                    sys.executable,
                    "-W",
                    "ignore",
                    "-m",
                    "benchmarks.peers",
                    case,
                    "--side",
                    side,
                    "--out",
                    str(path),
                ]
                done = subprocess.run(
                    [*line, "--small", str(small)], capture_output=True, text=True, check=False, cwd=ROOT
                )
                if done.returncode:
                    print(f"  {side:<16} left out: {done.stderr.strip().splitlines()[-1]}", flush=True)
                    continue
                found[side] = json.loads(path.read_text())
            seconds, cpu, more, result = found[side]
            ours, reference = found["mksdask"][0], np.array(found["mksdask"][3])
            differ = np.abs(np.array(result) - reference).max() / np.abs(reference).max()
            print(f"  {side:<16}{seconds:9.3f}{cpu:9.3f}{more:9.0f}  {seconds / ours:7.2f}  {differ:10.1e}", flush=True)
            assert side in ESTIMATES or differ <= tolerance, f"{case}: {side} differs by more than {tolerance:.0e}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(CASES), help=f"any of {', '.join(CASES)}")
    parser.add_argument("--small", type=int, default=1, help="divide the sizes by this number")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side is None:
        main(arguments.cases, arguments.small)
    else:
        measure(arguments.cases[0], arguments.side, arguments.small, arguments.out)
