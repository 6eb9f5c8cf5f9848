# %% [markdown]
# Statistics of a volume larger than memory: two phases are written block by block, and the 2-point statistics up to a
# lag of 50 voxels come out exact, tile by tile, within the memory of two small workers. Killed at any time, the same
# command goes on where it stopped.
#
#     python examples/huge_volume.py [--size 2048] [--memory-limit 2GiB] [--quick] [--out FOLDER]

# %%
import argparse
import threading
import time
from pathlib import Path

import dask.array as da
import numpy as np
import psutil
from distributed import Client, LocalCluster
from matplotlib.figure import Figure

from mksdask import PrimitiveBasis, plan
from mksdask.compute.random import sample_rng
from mksdask.stats import correlate_volume, integral_range, radial_average, specific_surface
from mksdask.storage import materialize
from mksdask.tools import draw_correlations

BLOCK = 128  # voxels of a block of the store
COARSE = 8  # voxels between the points of the random field


def phases(block, block_info=None):
    """Two phases of one block: a random field on a coarse grid, interpolated and cut at its middle."""
    info = block_info[None]
    edge, n = info["shape"][0] // COARSE + 1, block.shape[0] // COARSE + 1
    x, y, z = (low // COARSE for low, _ in info["array-location"])
    # A plane of numbers depends on its place alone, so that blocks fit together.
    planes = [sample_rng(1, plane, 0).random((edge, edge), dtype=np.float32) for plane in range(x, x + n)]
    values = np.stack(planes)[:, y : y + n, z : z + n]
    position = np.arange(block.shape[0]) / COARSE
    weights = np.maximum(0.0, 1.0 - np.abs(position[:, None] - np.arange(n))).astype(np.float32)
    for _ in range(3):
        values = np.tensordot(values, weights, axes=(0, 1))
    return (values > 0.5).astype(np.uint8)


class PeakMemory(threading.Thread):
    """Largest proportional set size of each process and of all together, in GiB, and what they read from files."""

    def __init__(self):
        super().__init__(daemon=True)
        self.process, self.largest, self.together, self.done = psutil.Process(), {}, 0.0, threading.Event()

    def processes(self):
        return (self.process, *self.process.children(recursive=True))

    def bytes_read(self):
        return sum(process.io_counters().read_chars for process in self.processes())

    def run(self):
        while not self.done.wait(0.5):
            now = {}
            for process in self.processes():
                try:
                    now[process.pid] = process.memory_full_info().pss / 2**30
                except psutil.Error:
                    continue
            self.together = max(self.together, sum(now.values()))
            for pid, size in now.items():
                self.largest[pid] = max(self.largest.get(pid, 0.0), size)


def main(size, cutoff, memory_limit, out):
    out.mkdir(parents=True, exist_ok=True)
    memory = PeakMemory()
    memory.start()
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            memory_limit=memory_limit,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster) as client,
    ):
        print(f"dashboard: {client.dashboard_link}")
        # %% [markdown]
        # The volume, written once.

        # %%
        start = time.perf_counter()
        blocks = da.zeros((size,) * 3, chunks=BLOCK, dtype=np.uint8)
        kind = {"dtype": np.uint8, "meta": np.empty((0,) * 3, np.uint8)}
        lazy = blocks.map_blocks(phases, name=f"phases-{size}-{BLOCK}-{COARSE}", **kind)
        volume = materialize(lazy, out / f"volume_{size}.zarr")
        print(f"{size}³ voxels, {size**3 / 1e9:.2f} GB of labels, written in {time.perf_counter() - start:.0f} s")

        # %% [markdown]
        # The plan: the tiles that fit, and what they read.

        # %%
        sums = out / f"sums_{size}_{cutoff}.zarr"
        options = {"cutoff": cutoff, "correlations": [(1, 1)], "return_std": True, "scratch": sums}
        print(plan(correlate_volume, volume, PrimitiveBasis(2), **options))

        # %%
        start, before = time.perf_counter(), memory.bytes_read()
        S2, error = correlate_volume(volume, PrimitiveBasis(2), **options)
        S2, error = client.gather(client.compute([S2, error]))
        seconds = time.perf_counter() - start
        print(f"S2 up to lag {cutoff} in {seconds:.0f} s, {size**3 / seconds / 1e6:.1f} M voxels/s")
        print(f"{(memory.bytes_read() - before) / 2**30:.2f} GiB of compressed files were read")
    memory.done.set()
    memory.join()
    processes = ", ".join(f"{gib:.2f}" for gib in sorted(memory.largest.values(), reverse=True))
    print(f"peak memory of the processes {processes} GiB, of all together {memory.together:.2f} GiB")

    # %%
    radial = radial_average(S2, n_spatial=3)
    origin = (cutoff, cutoff, cutoff, 0)
    print(f"volume fraction {S2[origin]:.4f} ± {error[origin]:.4f}")
    surface, independent = float(specific_surface(S2, n_spatial=3)[0]), float(integral_range(S2, n_spatial=3)[0])
    print(f"interface area {surface:.4f} to a voxel, integral range {independent:.0f} voxels")
    draw_correlations(S2, [(1, 1)], n_spatial=3).savefig(out / "S2.png")
    fig = Figure(figsize=(4.5, 3.2), layout="constrained", dpi=150)
    axes = fig.subplots()
    axes.plot(radial.radius, radial[:, 0], label="mean over all directions")
    axes.axhline(S2[origin] ** 2, color="grey", linewidth=1, linestyle="--", label="squared volume fraction")
    axes.set(xlabel="r / voxel", ylabel="$S_2(r)$")
    axes.legend(fontsize="small")
    fig.savefig(out / "radial.png")
    print(f"figures in {out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="2-point statistics of a volume larger than memory")
    parser.add_argument("--size", type=int, default=512, help=f"voxels along the edge, a multiple of {BLOCK}")
    parser.add_argument("--cutoff", type=int, default=50, help="largest lag in voxels")
    parser.add_argument("--memory-limit", default="2GiB", help="of each of the two workers")
    parser.add_argument("--quick", action="store_true", help="128³ voxels, lags up to 10")
    parser.add_argument("--out", type=Path, default=Path("huge-volume"), help="folder for the stores and the figures")
    arguments = parser.parse_args()
    size, cutoff = (BLOCK, 10) if arguments.quick else (arguments.size, arguments.cutoff)
    main(size, cutoff, arguments.memory_limit, arguments.out)
