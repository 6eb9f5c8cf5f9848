"""The `mksdask` command."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import dask.array as da
import numpy as np
from dask.utils import parse_bytes
from distributed import Client, LocalCluster

from mksdask import tools
from mksdask.arrays import to_numpy
from mksdask.bases import PrimitiveBasis
from mksdask.datasets import MicrostructureGenerator, mean_stress
from mksdask.homogenization import MKSHomogenizationModel
from mksdask.planning import samples_per_chunk
from mksdask.stats import correlate
from mksdask.store import create_ensemble, open_ensemble

BAR_WIDTH = 30


def _task_counts(dask_scheduler: Any) -> tuple[int, int, str]:
    """Tasks begun and finished since the scheduler started, and the stage that runs now."""
    prefixes = dask_scheduler.task_prefixes.values()
    begun = sum(prefix.state_counts["waiting"] for prefix in prefixes)
    done = sum(prefix.state_counts["memory"] for prefix in prefixes)
    running = [prefix.name for prefix in prefixes if prefix.states["processing"]]
    return begun, done, running[0] if running else ""


@contextmanager
def _stage(client: Any, title: str, timings: dict[str, float]) -> Iterator[None]:
    """Time a stage and show how many of its tasks are done, whoever computes them."""
    finished = threading.Event()
    begun_before, done_before, _ = client.run_on_scheduler(_task_counts)
    shown = sys.stderr.isatty()
    start = time.perf_counter()

    def watch() -> None:
        while not finished.wait(0.25):
            begun, done, running = client.run_on_scheduler(_task_counts)
            total, count = begun - begun_before, done - done_before
            filled = BAR_WIDTH * count // max(1, total)
            bar = "█" * filled + "·" * (BAR_WIDTH - filled)
            click.echo(f"\r  {title:<34} {bar} {count:>5}/{total:<5} {running[:24]:<24}", nl=False, err=True)

    watcher = threading.Thread(target=watch, daemon=True)
    if shown:
        watcher.start()
    try:
        yield
    finally:
        finished.set()
        if shown:
            watcher.join()
            click.echo("\r" + " " * (BAR_WIDTH + 76) + "\r", nl=False, err=True)
        timings[title] = time.perf_counter() - start
    click.echo(f"  {title:<34} {timings[title]:7.1f} s")


class _Size(click.ParamType[tuple[int, ...]]):
    """Voxels along each axis: 24x24x24, 64x64, or one number for a cube."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            size = tuple(int(n) for n in str(value).lower().split("x"))
        except ValueError:
            self.fail(f"{value!r} is not a size; write 24x24x24, 64x64, or 24 for a cube", param, ctx)
        size = size * 3 if len(size) == 1 else size
        if len(size) not in (2, 3) or min(size) < 4:
            self.fail(f"{value!r} must have 2 or 3 axes of at least 4 voxels", param, ctx)
        return size


class _Bytes(click.ParamType[int]):
    """A number of bytes: 2GiB, 512MiB."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return int(parse_bytes(value))
        except ValueError:
            self.fail(f"{value!r} is not an amount of memory; write 2GiB or 512MiB", param, ctx)


@contextmanager
def _client(scheduler: str | None, workers: int, memory_limit: int) -> Iterator[Client]:
    """A client of a running scheduler, or of a local cluster that ends with it."""
    if scheduler is not None:
        try:
            client = Client(scheduler, timeout="10s")
        except (OSError, ValueError) as error:
            msg = f"no dask scheduler answers at {scheduler} ({error}); start one with `dask scheduler`"
            raise click.ClickException(msg) from error
        with client:
            yield client
        return
    cluster = LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        memory_limit=memory_limit,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
    )
    with cluster, Client(cluster) as client:
        yield client


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mksdask")
def main() -> None:
    """Materials Knowledge Systems on dask."""


@main.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("mksdask-demo"),
    show_default=True,
    help="Folder for the ensemble and the figures.",
)
@click.option("--samples", type=click.IntRange(min=40), default=480, show_default=True, help="Samples in the ensemble.")
@click.option(
    "--size", type=_Size(), default="24x24x24", show_default=True, help="Voxels of a sample, as 24x24x24 or 64x64."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the microstructures.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Workers of the local cluster, of one thread each.",
)
@click.option("--memory-limit", type=_Bytes(), default="2GiB", show_default=True, help="Memory of each local worker.")
@click.option("--scheduler", metavar="ADDRESS", help="Use this running dask scheduler; its workers must reach --out.")
@click.option("--overwrite", is_flag=True, help="Replace the ensemble and the figures in --out.")
def demo(
    out: Path,
    samples: int,
    size: tuple[int, ...],
    seed: int,
    workers: int,
    memory_limit: int,
    scheduler: str | None,
    overwrite: bool,  # noqa: FBT001
) -> None:
    """Run the main job: ensemble → 2-point statistics → PCA → regression → stiffness.

    Two-phase microstructures of four grain shapes are generated into zarr, together with their effective stiffness
    C11 from finite elements. A linkage is fitted on three quarters of them and predicts the rest.

    Example: mksdask demo --samples 200 --size 32x32 --out quick
    """
    if out.exists() and not overwrite:
        msg = f"{out} exists; choose another --out, or pass --overwrite"
        raise click.ClickException(msg)
    timings: dict[str, float] = {}
    start = time.perf_counter()
    with _client(scheduler, workers, memory_limit) as client:
        out.mkdir(parents=True, exist_ok=True)
        click.echo(f"dashboard: {client.dashboard_link}")
        _run_demo(client, out.resolve(), samples, size, seed, timings)
    click.echo(f"  {'all':<34} {time.perf_counter() - start:7.1f} s")


def _run_demo(
    client: Client, out: Path, samples: int, size: tuple[int, ...], seed: int, timings: dict[str, float]
) -> None:
    dim = len(size)
    axes = list(range(dim))
    small, large = 0.08 * size[0], 0.2 * size[0]
    shapes = [
        (large,) * dim,
        (small * 1.5,) * dim,
        *((*(small,) * a, 1.2 * large, *(small,) * (dim - 1 - a)) for a in (0, dim - 1)),
    ]
    moduli, poissons = (100.0, 20.0), (0.3, 0.3)
    counts = [samples // 4 + (i < samples % 4) for i in range(4)]
    chunk = samples_per_chunk(samples, int(np.prod(size)))
    X = da.concatenate(
        [
            MicrostructureGenerator(n, size, 2, shape, seed, (0.5, 0.5), 0.4, chunks=chunk, stream=kind).generate()
            for kind, (n, shape) in enumerate(zip(counts, shapes, strict=True))
        ]
    )
    stiffness = mean_stress(X, elastic_modulus=moduli, poissons_ratio=poissons, macro_strain=0.001)[:, 0] / 0.001

    click.echo(f"{samples} samples of {'×'.join(map(str, size))} voxels, moduli {moduli[0]:g} and {moduli[1]:g} GPa")
    url = out / "ensemble.zarr"
    with _stage(client, "generate, and solve by FE → zarr", timings):
        create_ensemble(url, X, stiffness, phases=("stiff", "soft"), periodic_axes=axes, mode="w")
    ensemble = open_ensemble(url)
    is_unseen = np.arange(samples) % 4 == 0
    training, unseen = (ensemble.isel(sample=np.flatnonzero(chosen)) for chosen in (~is_unseen, is_unseen))
    model = MKSHomogenizationModel(PrimitiveBasis(2), n_components=8, degree=2)
    with _stage(client, "statistics → PCA → regression", timings):
        model.fit(training.microstructure, training.response)
    with _stage(client, "predict unseen samples", timings):
        predicted = to_numpy(model.predict(unseen.microstructure))
    truth = to_numpy(unseen.response)
    fitted = np.asarray(model.property_linker_.predict(model.reduced_fit_data))
    error = predicted - truth
    r2 = 1.0 - np.sum(error**2) / np.sum((truth - truth.mean()) ** 2)
    with _stage(client, "figures", timings):
        _draw_demo(out, ensemble, model, (to_numpy(training.response), fitted), (truth, predicted))
    click.echo(
        f"C11 of {len(truth)} unseen samples: R² = {r2:.4f}, mean error {np.abs(error).mean():.3g} GPa "
        f"beside a spread of {truth.std():.3g} GPa"
    )
    click.echo(f"ensemble and figures: {out}")


def _draw_demo(
    out: Path, ensemble: Any, model: MKSHomogenizationModel, fit_data: tuple[Any, Any], pred_data: tuple[Any, Any]
) -> None:
    few = ensemble.microstructure[:4].compute()
    pairs = [(0, 0), (0, 1)]
    scores = to_numpy(model.reduced_predict_data)
    figures = {
        "microstructures": tools.draw_microstructures(few),
        "correlations": tools.draw_correlations(correlate(few, model.basis)[0]),
        "components": tools.draw_components(model.components_[:3], pairs),
        "component_variance": tools.draw_component_variance(model.dimension_reducer_.explained_variance_ratio_),
        "scores": tools.draw_components_scatter([model.reduced_fit_data[:, :2], scores[:, :2]], ["training", "unseen"]),
        "goodness_of_fit": tools.draw_goodness_of_fit(
            np.array(fit_data), np.array(pred_data), ["training", "unseen"], quantity="$C_{11}$ / GPa"
        ),
    }
    for name, figure in figures.items():
        figure.savefig(out / f"{name}.png")
