"""What checksums cost: writing and reading stores with them, over the same without them, and verifying over reading.

Each array is stored as the package stores it: a scan and its 2-point statistics, compressed; spectra and scratch, which
are not compressed. Reading with checksums also looks for missing chunks. The files are in the cache of the system, so
the ratios are the largest that can be: a checksum costs a fixed time for each stored byte.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import dask
import numpy as np
import tifffile
import zarr
from timing import ratio
from zarr.codecs import BloscCodec
from zarr.core.sync import sync

from mksdask import PrimitiveBasis, verify
from mksdask.stats import correlate
from mksdask.storage.arrays import all_chunks_of, create_array
from mksdask.storage.atomic import Location, seal
from mksdask.storage.opening import open_array


def measure(
    name: str, values: np.ndarray, layout: dict[str, Any], rounds: int, folder: Path, limit: float, slowest: float
) -> None:
    url = folder / f"{name}.zarr"
    group, other = (zarr.open_group(path, mode="w") for path in (url, folder / f"{name}-plain.zarr"))
    create_array(group, "a", shape=values.shape, dtype=values.dtype, **layout)
    seal(Location.of(url), {"mksdask": "result", "members": ["a"]}, members=True)
    objects, parts, is_compressed = layout["objects"], layout.get("parts"), layout.get("is_compressed", True)
    shuffle = "bitshuffle" if values.itemsize == 1 else "shuffle"
    codec = BloscCodec(cname="zstd", clevel=1, shuffle=shuffle, typesize=values.itemsize)
    plain = other.create_array(
        "a",
        shape=values.shape,
        dtype=values.dtype,
        chunks=objects if parts is None else parts,
        shards=None if parts is None else objects,
        compressors=codec if is_compressed else None,
        filters=None,
        fill_value=0,
    )
    plain, target = all_chunks_of(plain), open_array(Location.of(url), "a", mode="r+")
    blocks = [
        tuple(slice(i * step, (i + 1) * step) for i, step in zip(block, objects, strict=True))
        for block in np.ndindex(*(-(-n // step) for n, step in zip(values.shape, objects, strict=True)))
    ]

    def write(array: Any) -> None:
        # zarr reads a shard that is there, to add to it.
        sync(array.store.delete_dir(f"{array.path}/c"))
        for block in blocks:
            array[block] = values[block]

    def read(array: Any) -> None:
        for block in blocks:
            array[block]

    writing = ratio(lambda: write(target), lambda: write(plain), rounds=rounds)[-1]
    checked = open_array(Location.of(url), "a")
    assert np.array_equal(checked[:], values)
    reading = ratio(lambda: read(checked), lambda: read(plain), rounds=rounds)
    with dask.config.set(scheduler="sync"):
        verifying = ratio(lambda: verify(url), lambda: read(plain), rounds=rounds)[-1]
    speed = values.nbytes / reading[1] / 2**20
    stored = sum(path.stat().st_size for path in url.rglob("*") if path.is_file()) / values.nbytes
    print(
        f"  {name:<12}{values.nbytes / 2**20:6.0f} MiB, stored {stored:4.2f}, read at {speed:5.0f} MiB/s without"
        f"   ratio of writing {writing:.3f}, of reading {reading[-1]:.3f}, verifying over reading {verifying:.3f}",
        flush=True,
    )
    assert writing <= limit, f"{name}: writing takes {writing:.3f} of the time without checksums, more than {limit}"
    assert reading[-1] <= limit, f"{name}: reading takes {reading[-1]:.3f} of the time without, more than {limit}"
    assert verifying <= slowest, f"{name}: verifying takes {verifying:.3f} of the time of reading, more than {slowest}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scan", type=Path, help="a TIFF stack; default: random grains")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--limit", type=float, default=1.12, help="largest ratio that passes, scans")
    parser.add_argument("--float-limit", type=float, default=1.12, help="the same of statistics")
    parser.add_argument("--raw-limit", type=float, default=1.5, help="the same of arrays that are not compressed")
    parser.add_argument("--verify-limit", type=float, default=1.0, help="largest time of verifying over reading")
    arguments = parser.parse_args()
    n = arguments.size
    if arguments.scan is None:
        coarse = np.random.default_rng(0).integers(0, 2, (n // 8,) * 3, dtype="uint8")
        scan = coarse.repeat(8, 0).repeat(8, 1).repeat(8, 2)
    else:
        scan = tifffile.imread(arguments.scan)[:n, :n, :n]
    scan = np.ascontiguousarray((scan > 0).astype("uint8"))
    windows = scan.reshape(-1, 64, n, n)[:, :, :256, :256].reshape(-1, 64, 64, 64)
    f = np.asarray(correlate(windows, PrimitiveBasis(2), correlations=[(0, 0)]))
    spectra = np.fft.rfftn(scan[: n // 2].astype("float32"), axes=(1, 2)).astype("complex64")
    rows = f.reshape(len(f), -1).astype("float64")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, values, limit, layout in (
            ("scan", scan, arguments.limit, {"objects": (256, 256, 256), "parts": (64, 64, 64)}),
            ("statistics", f, arguments.float_limit, {"objects": (16, *f.shape[1:])}),
            (
                "spectra",
                spectra,
                arguments.raw_limit,
                {"objects": (32, *spectra.shape[1:]), "parts": (32, 32, spectra.shape[2]), "is_compressed": False},
            ),
            ("scratch", rows, arguments.raw_limit, {"objects": (16, 2**16), "is_compressed": False}),
        ):
            measure(name, values, layout, arguments.rounds, folder, limit, arguments.verify_limit)
