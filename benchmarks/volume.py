"""Time of the statistics of one stored volume over that of the FFTs its tiling needs, on as many cores."""

import argparse
import tempfile
from concurrent.futures import ThreadPoolExecutor

import dask
import dask.array as da
import numpy as np
import scipy.fft
from distributed import Client, LocalCluster
from timing import ratio

from mksdask import PrimitiveBasis, create_volume, open_volume, plan
from mksdask.stats import correlate_volume


def blobs(block: np.ndarray, block_info: dict) -> np.ndarray:
    """Two phases in cubes of eight voxels."""
    place = block_info[0]["chunk-location"]
    coarse = np.random.default_rng(place).integers(0, 2, [n // 8 for n in block.shape], dtype=np.uint8)
    return np.kron(coarse, np.ones((8,) * 3, np.uint8))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1024, help="voxels along the edge, a multiple of 64")
    parser.add_argument("--cutoff", type=int, default=50)
    parser.add_argument("--memory-limit", default="1.5GiB", help="of each worker, one for each core")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=1.5, help="largest ratio that passes")
    arguments = parser.parse_args()
    shape, threads = (arguments.size,) * 3, dask.system.CPU_COUNT
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(
            n_workers=threads,
            threads_per_worker=1,
            memory_limit=arguments.memory_limit,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster),
    ):
        url = f"{folder}/volume.zarr"
        zeros = da.zeros(shape, chunks=min(256, arguments.size), dtype=np.uint8)
        create_volume(url, zeros.map_blocks(blobs, dtype=np.uint8))
        volume = open_volume(url).microstructure
        options = {"cutoff": arguments.cutoff, "correlations": [(0, 0)]}
        planned = plan(correlate_volume, volume, PrimitiveBasis(2), **options)
        layout = planned.layout
        # Two for each tile, and one back for each task.
        n_transforms = 2 * layout["tiles"] + planned.stages[0].n_tasks
        field = np.random.default_rng(0).random(layout["FFT lengths"], dtype=np.float32)

        def transforms() -> None:
            with ThreadPoolExecutor(threads) as pool:
                for _ in pool.map(lambda _: scipy.fft.rfftn(field) is None, range(n_transforms)):
                    pass

        def statistics() -> None:
            correlate_volume(volume, PrimitiveBasis(2), **options).compute()

        seconds, bare, factor = ratio(statistics, transforms, rounds=arguments.rounds)
    print(
        f"{arguments.size}³, lags up to {arguments.cutoff}: {layout['tiles']} tiles of {layout['tile']}, transforms "
        f"of {layout['FFT lengths']}, {threads} cores"
    )
    print(
        f"  {seconds:.2f} s, {np.prod(shape) / seconds / 1e6:.1f} M voxels/s; its {n_transforms} FFTs "
        f"{bare:.2f} s: ratio {factor:.2f}"
    )
    assert factor <= arguments.limit, f"{factor:.2f} times the FFTs, more than {arguments.limit}"
