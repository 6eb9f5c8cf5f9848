"""`mksdask demo`: from microstructures to a fitted and tested linkage."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from mksdask import tools
from mksdask.arrays import concatenate_samples, to_numpy
from mksdask.bases import PrimitiveBasis
from mksdask.cli.arguments import LocalFile, Size
from mksdask.cli.options import cluster_options, open_client, overwrite_option, save_figure, timed_step
from mksdask.compute.plans import samples_per_chunk
from mksdask.datasets import MicrostructureGenerator, mean_stress
from mksdask.homogenization import MKSHomogenizationModel
from mksdask.stats import correlate
from mksdask.storage.atomic import MICROSTRUCTURES, Location, check_ours, check_outside
from mksdask.storage.ensembles import create_ensemble, open_ensemble
from mksdask.storage.staging import put

FIGURES = ("microstructures", "correlations", "components", "component_variance", "scores", "goodness_of_fit")


@click.command()
@click.option(
    "--out",
    type=LocalFile(),
    metavar="FOLDER",
    default=Path("mksdask-demo"),
    show_default=True,
    help="Folder for the ensemble and the figures, such as quick.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=40),
    default=480,
    show_default=True,
    help="Number of samples in the ensemble, such as 200.",
)
@click.option(
    "--size",
    type=Size(4),
    default="24x24x24",
    show_default=True,
    help="Voxels of a sample, such as 24x24x24, 64x64, or 24 for a cube.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of the random microstructures, such as 3.",
)
@cluster_options
@overwrite_option("the ensemble and the figures in the folder --out")
def demo(
    out: Path,
    samples: int,
    size: tuple[int, ...],
    seed: int,
    overwrite: bool,  # noqa: FBT001
    **cluster: Any,
) -> None:
    """Run the whole chain: ensemble → 2-point statistics → PCA → regression → stiffness.

    The demo writes two-phase microstructures of four grain shapes to zarr, together with their effective stiffness C11
    from finite elements. It fits a linkage to three quarters of them, and predicts the stiffness of the others.

    Example: mksdask demo --samples 200 --size 32x32 --out quick
    """
    if out.exists() and not overwrite:
        msg = f"{out} exists; choose another --out, or pass --overwrite"
        raise click.ClickException(msg)
    location = Location.of(out)
    check_outside(location)
    out = Path(location.path).resolve()
    _check_demo(out)
    timings: dict[str, float] = {}
    start = time.perf_counter()
    with open_client(**cluster) as client:
        click.echo(f"dashboard: {client.dashboard_link}")
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{out.name}.partial-", dir=out.parent) as folder:
            found = _run_demo(Path(folder), samples, size * 3 if len(size) == 1 else size, seed, timings)
            _replace(out, Path(folder))
    click.echo(f"{found}\nensemble and figures: {out}")
    click.echo(f"  {'all':<34} {time.perf_counter() - start:7.1f} s")


def _check_demo(out: Path) -> None:
    """Refuse a folder that holds figures or an ensemble that a demo did not make."""
    check_ours(Location.of(out / "ensemble.zarr"), MICROSTRUCTURES)
    taken = [name for name in FIGURES if (out / f"{name}.png").exists()]
    if out.exists() and not out.is_dir():
        msg = f"{out} is not a folder; choose another --out"
        raise FileExistsError(msg)
    if taken and not (out / "ensemble.zarr").exists():
        msg = f"{out / taken[0]}.png exists, but there is no ensemble.zarr of a demo beside it; choose another --out"
        raise FileExistsError(msg)


def _replace(out: Path, new: Path) -> None:
    """Move the ensemble and the figures of a new folder to the places of earlier ones."""
    out.mkdir(exist_ok=True)
    _check_demo(out)
    put(Location.of(new / "ensemble.zarr"), Location.of(out / "ensemble.zarr"), MICROSTRUCTURES)
    for name in FIGURES:
        (new / f"{name}.png").replace(Path(Location.of(out / f"{name}.png").path))


def _run_demo(out: Path, samples: int, size: tuple[int, ...], seed: int, timings: dict[str, float]) -> str:
    """Write the ensemble and the figures to a folder, and say how good the predictions are."""
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
    X = concatenate_samples(
        [
            MicrostructureGenerator(n, size, 2, shape, seed, (0.5, 0.5), 0.4, chunks=chunk, stream=kind).generate()
            for kind, (n, shape) in enumerate(zip(counts, shapes, strict=True))
        ]
    )
    stiffness = mean_stress(X, elastic_modulus=moduli, poissons_ratio=poissons, macro_strain=0.001)[:, 0] / 0.001

    click.echo(f"{samples} samples of {'×'.join(map(str, size))} voxels, moduli {moduli[0]:g} and {moduli[1]:g} GPa")
    url = out / "ensemble.zarr"
    with timed_step("generate, and solve by FE → zarr", timings, err=False):
        create_ensemble(url, X, stiffness, phases=("stiff", "soft"), periodic_axes=axes)
    ensemble = open_ensemble(url)
    is_unseen = np.arange(samples) % 4 == 0
    training, unseen = (ensemble.isel(sample=np.flatnonzero(chosen)) for chosen in (~is_unseen, is_unseen))
    model = MKSHomogenizationModel(PrimitiveBasis(2), n_components=8, degree=2)
    with timed_step("statistics → PCA → regression", timings, err=False):
        model.fit(training.microstructure, training.response)
    with timed_step("predict unseen samples", timings, err=False):
        predicted = to_numpy(model.predict(unseen.microstructure))
    truth = to_numpy(unseen.response)
    fitted = np.asarray(model.property_linker_.predict(model.reduced_fit_data))
    error = predicted - truth
    r2 = 1.0 - np.sum(error**2) / np.sum((truth - truth.mean()) ** 2)
    with timed_step("figures", timings, err=False):
        _draw_demo(out, ensemble, model, (to_numpy(training.response), fitted), (truth, predicted))
    return (
        f"C11 of {len(truth)} unseen samples: R² = {r2:.4f}, mean error {np.abs(error).mean():.3g} GPa, "
        f"standard deviation of C11 {truth.std():.3g} GPa"
    )


def _draw_demo(
    out: Path, ensemble: Any, model: MKSHomogenizationModel, fit_data: tuple[Any, Any], pred_data: tuple[Any, Any]
) -> None:
    few = ensemble.microstructure[:4].compute()
    pairs = [(0, 0), (0, 1)]
    scores = to_numpy(model.reduced_predict_data)
    figures = (
        tools.draw_microstructures(few),
        tools.draw_correlations(correlate(few, model.basis)[0]),
        tools.draw_components(model.components_[:3], pairs),
        tools.draw_component_variance(model.dimension_reducer_.explained_variance_ratio_),
        tools.draw_components_scatter([model.reduced_fit_data[:, :2], scores[:, :2]], ["training", "unseen"]),
        tools.draw_goodness_of_fit(
            np.array(fit_data), np.array(pred_data), ["training", "unseen"], quantity="$C_{11}$ / GPa"
        ),
    )
    for name, figure in zip(FIGURES, figures, strict=True):
        save_figure(figure, out / f"{name}.png")
