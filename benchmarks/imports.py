"""Import of a scan as raw voxels and as a TIFF stack packed by LZW, on one worker of 1 GiB.

Both files hold the same voxels of uint16: grey levels made from a real rock, mirrored side by side, with noise. For
each file the benchmark prints the peak memory of the worker, the seconds of the import, and the seconds that reading
takes in one thread: the bytes of the file, or its pages decoded by tifffile. The two stores are compared. It fails if a
worker takes more than 0.75 of its memory, or if an import takes more than `MOST_OVER_READING` times as long as reading.
The folder must have room for four times the voxels.
"""

import argparse
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from distributed import Client, LocalCluster
from memory import PeakMemory
from scipy.ndimage import gaussian_filter

from mksdask import open_volume
from mksdask.importers import import_images

GIB = 2**30
MOST_OF_LIMIT = 0.75
# Values are read, packed with checksums and written; LZW is slow to unpack, so that the rest weighs less.
MOST_OVER_READING = {"raw": 40.0, "lzw": 3.5}
ROCK = Path(__file__).parents[2] / "shared/data/berea_400.tif"


def pages(shape: tuple[int, int, int]) -> Iterator[Any]:
    """Grey levels of 12 bits, page by page: a rock seen through a blur, with noise."""
    rng = np.random.default_rng(0)
    rock = tifffile.imread(ROCK) if ROCK.exists() else 255 * (rng.random((100, 100, 100)) < 0.8)
    n_x, n_y, n_z = shape
    noise = rng.normal(0, 20, (n_y, n_x)).astype("f4")
    for z in range(n_z):
        # Mirrored copies join without a seam.
        plane = rock[(z if z // len(rock) % 2 == 0 else -1 - z) % len(rock)]
        plane = np.pad(plane, [(0, max(0, n - m)) for n, m in zip((n_y, n_x), plane.shape, strict=True)], "symmetric")
        grey = 1200 + 6 * gaussian_filter(plane[:n_y, :n_x].astype("f4"), 1.0)
        yield (grey + np.roll(noise, (37 * z, 61 * z), axis=(0, 1))).astype("<u2")


def reading(path: Path) -> float:
    """Seconds that reading a file takes: its bytes in pieces of 128 MiB, or its pages."""
    start = time.perf_counter()
    if path.suffix == ".raw":
        with path.open("rb", buffering=0) as file:
            while file.read(2**27):
                pass
    else:
        with tifffile.TiffFile(path) as file:
            for page in file.pages:
                page.asarray(maxworkers=1)
    return time.perf_counter() - start


def importing(path: Path, store: Path, folder: Path, n_threads: int, **options: Any) -> tuple[float, int]:
    """Seconds of an import on one worker of 1 GiB, and the peak memory of this worker."""
    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=n_threads,
            memory_limit=GIB,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            local_directory=folder,
        ) as cluster,
        Client(cluster) as client,
    ):
        peak = PeakMemory(client)
        start = time.perf_counter()
        import_images(path, store, **options)
        seconds = time.perf_counter() - start
        peak.start()
        found, _ = peak.close()
    return seconds, max(found.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="1000x1000x1600", help="voxels along x, y, z")
    parser.add_argument("--threads", type=int, default=1, help="threads of the worker")
    parser.add_argument("--folder", help="where the files are made, and removed")
    arguments = parser.parse_args()
    shape = tuple(int(n) for n in arguments.shape.split("x"))
    warnings.simplefilter("ignore")
    folder = Path(tempfile.mkdtemp(prefix="imports-", dir=arguments.folder))
    try:
        files = {"raw": folder / "scan.raw", "lzw": folder / "scan.tif"}
        with files["raw"].open("wb") as raw, tifffile.TiffWriter(files["lzw"], bigtiff=True) as tiff:
            for page in pages(shape):
                raw.write(page.tobytes())
                tiff.write(page, compression="lzw", photometric="minisblack", contiguous=False)
        n_bytes = files["raw"].stat().st_size
        print(f"{arguments.shape} voxels of uint16, {n_bytes / 1e9:.2f} GB, one worker of 1 GiB", flush=True)
        is_good, stores = True, []
        for kind, path in files.items():
            options = {"shape": shape, "dtype": "<u2"} if kind == "raw" else {}
            stores.append(folder / f"{kind}.zarr")
            read = reading(path)
            took, peak = importing(path, stores[-1], folder, arguments.threads, **options)
            is_good &= peak < MOST_OF_LIMIT * GIB and took < MOST_OVER_READING[kind] * read
            print(
                f"  {kind}: file of {path.stat().st_size / 1e9:.2f} GB, import {took:.1f} s "
                f"({n_bytes / took / 1e6:.0f} MB/s), reading {read:.1f} s, ratio {took / read:.2f}, "
                f"peak {peak / GIB:.2f} GiB",
                flush=True,
            )
            path.unlink()
        first, second = (open_volume(store).microstructure for store in stores)
        is_equal = all(
            (first[:, :, z : z + 100].to_numpy() == second[:, :, z : z + 100].to_numpy()).all()
            for z in range(0, shape[2], 100)
        )
        print(f"  the stores are {'equal' if is_equal else 'DIFFERENT'}")
    finally:
        shutil.rmtree(folder)
    return 0 if is_good and is_equal else 1


if __name__ == "__main__":
    sys.exit(main())
