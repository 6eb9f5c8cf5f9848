"""PCA against dask-ml's on 1000 × 131,072, and of a matrix far larger than memory that is never stored.

Ratios of times and of errors are taken in one run: `--limit` is the largest ratio of times that passes, and errors must
be a hundred times smaller. With `--features` a lazy matrix of so many features is reduced on two workers of 2 GiB.
"""

import argparse
import tempfile
import time
import warnings
from pathlib import Path

import dask.array as da
import dask_ml.decomposition
import numpy as np
from distributed import Client, LocalCluster
from memory import PeakMemory
from timing import ratio

from mksdask import plan
from mksdask.reduction import PCA

N_SAMPLES, N_COMPONENTS, RANK = 1000, 20, 200


def low_rank(block: np.ndarray, block_info: dict) -> np.ndarray:
    """Samples of a slowly decaying spectrum, and noise; a function of the place of the block alone."""
    (rows, columns), place = block_info[None]["array-location"], block_info[None]["chunk-location"]
    left = np.random.default_rng(0).standard_normal((N_SAMPLES, RANK), dtype=np.float32)[slice(*rows)]
    right = np.random.default_rng((1, place[1])).standard_normal((RANK, columns[1] - columns[0]), dtype=np.float32)
    noise = np.random.default_rng((2, *place)).standard_normal(block.shape, dtype=np.float32)
    weights = np.arange(1, RANK + 1, dtype=np.float32)[:, None] ** -0.5
    return left @ (weights * right) + 0.3 * noise + 5.0


def lazy_matrix(n_features: int, chunks: tuple[int, int]) -> da.Array:
    return da.zeros((N_SAMPLES, n_features), chunks=chunks, dtype=np.float32).map_blocks(low_rank, dtype=np.float32)


def beside_peers(limit: float, rounds: int) -> None:
    X = lazy_matrix(131_072, (100, 131_072)).persist()
    centred = X.compute().astype(np.float64)
    centred -= centred.mean(axis=0)
    exact = np.linalg.svd(centred, compute_uv=False)[:N_COMPONENTS] ** 2 / (N_SAMPLES - 1)

    def error(pca: object) -> float:
        return float(np.abs(pca.explained_variance_ / exact - 1).max())

    ours = PCA(N_COMPONENTS)
    peers = {
        "dask-ml PCA": dask_ml.decomposition.PCA(N_COMPONENTS, random_state=0),
        "dask-ml IncrementalPCA": dask_ml.decomposition.IncrementalPCA(N_COMPONENTS, batch_size=100),
    }
    for name, peer in peers.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seconds, theirs, found = ratio(lambda: ours.fit(X), lambda peer=peer: peer.fit(X), rounds=rounds)
        errors = error(ours), error(peer)
        print(
            f"{name:<24} {theirs:6.1f} s, error {errors[1]:.1e}; ours {seconds:6.1f} s, error {errors[0]:.1e}; "
            f"ratio of times {found:.2f}, of errors {errors[0] / errors[1]:.1e}"
        )
        assert found <= limit, f"ratio {found:.2f} exceeds {limit}"
        assert errors[0] * 100 <= errors[1], "errors are not a hundred times smaller"


def larger_than_memory(n_features: int) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            memory_limit="2GiB",
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            local_directory=Path(folder),
        ) as cluster,
        Client(cluster) as client,
    ):
        X = lazy_matrix(n_features, (250, 50_000))
        pca = PCA(N_COMPONENTS)
        print(plan(pca.fit, X))
        peak = PeakMemory(client)
        peak.start()
        start = time.perf_counter()
        pca.fit(X)
        seconds = time.perf_counter() - start
        peaks, spilled = peak.close()
    highest = max(peaks.values()) / 2**30
    print(
        f"{N_SAMPLES} × {n_features:,}: {seconds:.0f} s, {X.nbytes / 1e6 / seconds:.0f} MB/s, peak of a worker "
        f"{highest:.2f} GiB, {spilled} bytes spilled"
    )
    norms = np.einsum("kf,kf->k", pca.components_, pca.components_, dtype=np.float64)
    assert np.allclose(norms, 1, atol=1e-4)
    assert spilled == 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=int, default=0, help="10,000,000 are 40 GB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=1.2, help="largest ratio that passes")
    arguments = parser.parse_args()
    if arguments.features:
        larger_than_memory(arguments.features)
    else:
        beside_peers(arguments.limit, arguments.rounds)
