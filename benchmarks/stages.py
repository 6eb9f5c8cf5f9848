"""The stages of the package, each with its floor: the bare transforms, products or copies that it cannot do without."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import scipy.fft
import tifffile
import zarr
from threadpoolctl import threadpool_limits

from mksdask import GSHBasis, MKSLocalizationModel, PrimitiveBasis, plan
from mksdask.compute.transforms import transforms_by
from mksdask.datasets import CahnHilliardSimulation, make_microstructure
from mksdask.importers import import_images
from mksdask.reduction import PCA
from mksdask.simulation.equilibrium import batch_size, solve_elasticity
from mksdask.simulation.stencils import Isotropic
from mksdask.stats import correlate, correlate_volume

Work = Callable[[], object]


@dataclass(frozen=True)
class Stage:
    """One stage on one size of data.

    Parameters
    ----------
    name, size : str
        What is computed, and of how much.
    floor : str
        What the stage cannot do without.
    work, bare : callable
        The stage, and its floor.
    aim : float, optional
        Largest ratio of the two that is aimed at.
    clock : callable
        Time of the thread, so that other programs on the machine count little, or time of day.
    """

    name: str
    size: str
    floor: str
    work: Work
    bare: Work
    aim: float | None = None
    clock: Callable[[], float] = time.thread_time


def there_and_back(fields: np.ndarray, library: str, spatial: int, times: int = 1) -> Work:
    """Transforms of fields over their last axes and back, in batches that stay in cache."""
    axes, shape = tuple(range(1, spatial + 1)), fields.shape[-spatial:]
    fields = fields.reshape(-1, *shape)
    batch = max(1, 2**15 // int(np.prod(shape)))

    def bare() -> None:
        with transforms_by(library):
            for _ in range(times):
                for start in range(0, len(fields), batch):
                    spectra = scipy.fft.rfftn(fields[start : start + batch], axes=axes)
                    scipy.fft.irfftn(spectra, s=shape, axes=axes, overwrite_x=True)

    return bare


def by(library: str, work: Work) -> Work:
    """Let the package compute transforms by a library, in this thread."""

    def run() -> None:
        with dask.config.set({"mksdask.fft": library}), dask.config.set(scheduler="synchronous"):
            work()

    return run


def statistics(library: str, small: int) -> Iterator[Stage]:
    """2-point statistics of ensembles and of a volume."""
    two = "forward and inverse FFT"
    for shape in ((400 // small, 64, 64), (32 // small, 64, 64, 64), (max(1, 6 // small), 128, 128, 128)):
        n, *spatial = shape
        axes, size = tuple(range(len(spatial))), f"{n} × {'×'.join(map(str, spatial))}"
        X = make_microstructure(n_samples=n, size=spatial, grain_size=6, volume_fraction=(0.5, 0.5), seed=1)
        fields, basis = X.astype(np.float32), PrimitiveBasis(2)
        options = {"correlations": [(0, 0)], "periodic_axes": axes}
        bare = there_and_back(fields, library, len(spatial))
        cases = {"correlate, pair (0, 0)": options}
        if shape[-1] == 64 and len(shape) == 4:
            cases["correlate, pairs (0, 0), (0, 1)"] = options | {"correlations": [(0, 0), (0, 1)]}
            cases["correlate, one mask for all"] = options | {"confidence_index": np.ones(spatial, np.float32)}
        for name, chosen in cases.items():
            yield Stage(name, size, two, by(library, lambda X=X, b=basis, c=chosen: correlate(X, b, **c)), bare, 1.4)
    padded = np.zeros((32 // small, 80, 80, 80), np.float32)
    X = make_microstructure(n_samples=len(padded), size=(64,) * 3, grain_size=6, seed=1)
    yield Stage(
        "correlate, not periodic, lags to 16",
        f"{len(X)} × 64×64×64",
        "forward and inverse FFT of 80³",
        by(library, lambda: correlate(X, PrimitiveBasis(2), correlations=[(0, 0)], periodic_axes=(), cutoff=16)),
        there_and_back(padded, library, 3),
        1.4,
    )
    edge = 256 // small
    volume = da.from_array(make_microstructure(1, (edge,) * 3, grain_size=8, seed=1)[0], chunks=min(edge, 128))
    chosen = {"cutoff": 16, "correlations": [(0, 0)]}
    with dask.config.set({"mksdask.fft": library}):
        planned = plan(correlate_volume, volume, PrimitiveBasis(2), **chosen)
    tile = np.random.default_rng(0).random(planned.layout["FFT lengths"], dtype=np.float32)
    n_transforms = 2 * planned.layout["tiles"] + planned.stages[0].n_tasks

    def transforms() -> None:
        with transforms_by(library):
            for _ in range(n_transforms):
                scipy.fft.rfftn(tile)

    yield Stage(
        "correlate_volume, lags to 16",
        f"{edge}³",
        f"{n_transforms} FFTs of {'×'.join(map(str, tile.shape))}",
        by(library, lambda: correlate_volume(volume, PrimitiveBasis(2), **chosen).compute()),
        transforms,
        1.3,
    )


def localization(library: str, small: int) -> Iterator[Stage]:
    """Calibration and prediction of local fields."""
    n, edge = 50 // small, 32
    X = np.random.default_rng(0).integers(0, 2, (n, *(edge,) * 3), dtype=np.uint8)
    y = np.random.default_rng(1).normal(size=X.shape)
    model = MKSLocalizationModel(PrimitiveBasis(2)).fit(X, y)

    def transforms() -> None:
        with transforms_by(library):
            for sample in y:
                scipy.fft.rfftn(sample)
                scipy.fft.rfftn(sample)

    size = f"{n} × {edge}³"
    fresh = MKSLocalizationModel(PrimitiveBasis(2))
    yield Stage("localization, fit", size, "FFTs of X and y", by(library, lambda: fresh.fit(X, y)), transforms, 2.0)
    bare = there_and_back(y, library, 3)
    yield Stage(
        "localization, predict", size, "forward and inverse FFT", by(library, lambda: model.predict(X)), bare, 2.0
    )


def simulation(library: str, small: int) -> Iterator[Stage]:
    """Solvers, over the transforms of their iterations."""
    for size in ((21, 21), (128, 128), (32,) * 3, (64,) * 3)[: 3 if small > 1 else 4]:
        n = max(1, batch_size(size) // small)
        X = make_microstructure(n, size, grain_size=min(size) / 5, seed=1)
        shape = f"{n} × {'×'.join(map(str, size))}"
        moduli = np.array([1.0, 10.0])[X]
        macro = np.eye(1, len(size) * (len(size) + 1) // 2).repeat(n, axis=0)

        def solve(moduli: np.ndarray = moduli, macro: np.ndarray = macro) -> np.ndarray:
            found = solve_elasticity(Isotropic(moduli, moduli), macro, reference=(5.0, 5.0))
            found.mean_stress()
            return found.iterations

        times = int(solve().max())
        r = np.random.default_rng(0).normal(size=(n, len(size), *size)).astype(np.float32)
        bare = there_and_back(r, library, len(size), times)
        yield Stage("elasticity", shape, f"FFTs of {times} iterations", by(library, in_task(library, solve)), bare, 2.0)
    edge = 64 if small == 1 else 32
    X = (0.1 * np.random.default_rng(0).normal(size=(1, *(edge,) * 3))).astype(np.float32)
    steps = CahnHilliardSimulation(dx=1.0, gamma=1.0, dt=0.1)
    yield Stage(
        "Cahn–Hilliard",
        f"{edge}³, 20 steps",
        "FFTs of the steps",
        by(library, lambda: steps.run(X, n_steps=20)),
        there_and_back(X, library, 3, 20),
        1.6,
    )


def in_task(library: str, work: Work) -> Work:
    """Run a kernel as a task does."""

    def run() -> None:
        with transforms_by(library):
            work()

    return run


def numbers(small: int) -> Iterator[Stage]:
    """Stages without transforms: the bases, principal components, and files."""
    rng = np.random.default_rng(0)
    n, features = 500, 100_000 // small
    X = rng.standard_normal((n, features), dtype=np.float32)

    def products() -> None:
        # The Gram matrix, and the components from it.
        gram = X @ X.T
        gram[:20] @ X

    yield Stage("PCA(20)", f"{n} × {features:,}", "2 matrix products", lambda: PCA(20).fit(X), products, 1 / 0.6)
    angles = rng.uniform(0, np.pi, (200_000 // small, 3))
    basis = GSHBasis(15, domain="cubic")

    def turns() -> None:
        for angle in angles.T:
            np.cos(angle), np.sin(angle)

    yield Stage(
        "GSH, 15 cubic states",
        f"{len(angles):,} orientations",
        "sines and cosines of the angles",
        lambda: [None for _ in basis.fields(angles, range(15), "float64")],
        turns,
    )
    labels = rng.integers(0, 2, (200 // small, 64, 64), dtype=np.uint8)

    def writes() -> None:
        np.empty((*labels.shape, 2))[...] = 1.0

    yield Stage(
        "discretize, 2 phases",
        f"{len(labels)} × 64×64",
        "writing it",
        lambda: PrimitiveBasis(2).discretize(labels),
        writes,
    )


def files(small: int, folder: Path) -> Iterator[Stage]:
    """Import of a compressed stack."""
    edge = 256 // small
    stack = make_microstructure(1, (edge,) * 3, grain_size=8, seed=1)[0].astype(np.uint8)
    path, url = folder / "stack.tif", folder / "stack.zarr"
    tifffile.imwrite(path, stack, compression="zlib", metadata={"axes": "ZYX"})
    phases = {0: "pore", 1: "grain"}

    def copy() -> None:
        zarr.save_array(folder / "plain.zarr", tifffile.imread(path), mode="w")

    read = by("scipy", lambda: import_images(path, url, phases=phases, spacing=1.0, units="um", mode="w"))
    yield Stage("import of a TIFF stack, deflate", f"{edge}³ bytes", "tifffile, then zarr", read, copy)


def start() -> Iterator[Stage]:
    """Seconds that a user waits, over those of ``import numpy``."""

    def python(*line: str) -> Work:
        return lambda: subprocess.run([sys.executable, *line], check=True, stdout=subprocess.DEVNULL)

    numpy = python("-c", "import numpy")
    for name, line in (("import mksdask", ("-c", "import mksdask")), ("mksdask --help", ("-m", "mksdask", "--help"))):
        yield Stage(name, "", "import numpy", python(*line), numpy, None, time.perf_counter)


def all_stages(libraries: list[str], small: int, rest: ExitStack) -> Iterator[tuple[str, Stage]]:
    """Yield all stages, each with the library of its transforms. `small` divides the sizes."""
    folder = Path(rest.enter_context(tempfile.TemporaryDirectory()))
    rest.enter_context(threadpool_limits(1))
    for library in libraries:
        for group in (statistics, localization, simulation):
            for stage in group(library, small):
                yield library, stage
    for group in (numbers(small), files(small, folder), start()):
        for stage in group:
            yield "", stage
