"""Time of the statistics of one stored volume over that of the FFTs its tiling needs, on as many threads."""

import argparse
import tempfile
from concurrent.futures import ThreadPoolExecutor

import dask
import dask.array as da
import numpy as np
import scipy.fft
from timing import ratio

from mksdask import PrimitiveBasis, create_volume, open_volume
from mksdask.stats import correlate_volume
from mksdask.stats.volume import tiling_of


def blobs(block: np.ndarray, block_info: dict) -> np.ndarray:
    """Two phases in cubes of eight voxels."""
    place = block_info[0]["chunk-location"]
    coarse = np.random.default_rng(place).integers(0, 2, [n // 8 for n in block.shape], dtype=np.uint8)
    return np.kron(coarse, np.ones((8,) * 3, np.uint8))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=512, help="voxels along the edge, a multiple of 64")
    parser.add_argument("--cutoff", type=int, default=50)
    parser.add_argument("--memory-limit", default="3GiB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=2.5, help="largest ratio that passes")
    arguments = parser.parse_args()
    shape, threads = (arguments.size,) * 3, dask.system.CPU_COUNT
    with tempfile.TemporaryDirectory() as folder:
        url = f"{folder}/volume.zarr"
        zeros = da.zeros(shape, chunks=min(256, arguments.size), dtype=np.uint8)
        create_volume(url, zeros.map_blocks(blobs, dtype=np.uint8))
        volume = open_volume(url).microstructure
        options = {"cutoff": arguments.cutoff, "correlations": [(0, 0)], "memory_limit": arguments.memory_limit}
        tiling = tiling_of(volume, PrimitiveBasis(2), **options)
        field = np.random.default_rng(0).random(tiling.transform.lengths, dtype=np.float32)

        def transforms() -> None:
            with ThreadPoolExecutor(threads) as pool:
                for _ in pool.map(lambda _: scipy.fft.rfftn(field) is None, range(2 * tiling.n_tiles)):
                    pass

        def statistics() -> None:
            correlate_volume(volume, PrimitiveBasis(2), **options).compute(scheduler="threads")

        seconds, bare, factor = ratio(statistics, transforms, rounds=arguments.rounds)
    print(
        f"{arguments.size}³, lags up to {arguments.cutoff}: {tiling.n_tiles} tiles of {tiling.tile}, transforms of "
        f"{tiling.transform.lengths}, {threads} threads"
    )
    print(
        f"  {seconds:.2f} s, {np.prod(shape) / seconds / 1e6:.1f} M voxels/s; its {2 * tiling.n_tiles} FFTs "
        f"{bare:.2f} s: ratio {factor:.2f}"
    )
    assert factor <= arguments.limit, f"{factor:.2f} times the FFTs, more than {arguments.limit}"
