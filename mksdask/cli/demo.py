"""`mksdask demo`: from microstructures to a fitted and tested linkage, and to a local field."""

from __future__ import annotations

import shlex
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mksdask import tools
from mksdask.arrays import concatenate_samples, to_numpy
from mksdask.bases import PrimitiveBasis
from mksdask.cli.options import open_client, save_figure, timed_step
from mksdask.compute.plans import samples_per_chunk
from mksdask.datasets import MicrostructureGenerator, mean_stress, solve_fields
from mksdask.homogenization import MKSHomogenizationModel
from mksdask.localization import MKSLocalizationModel
from mksdask.stats import correlate
from mksdask.storage.atomic import MICROSTRUCTURES, Location, check_ours, check_outside
from mksdask.storage.ensembles import create_ensemble, open_ensemble
from mksdask.storage.staging import put
from mksdask.tools.panels import new_figure
from mksdask.tools.style import TWO_COLUMNS, styled

FIGURES = ("microstructures", "correlations", "components", "scores", "goodness_of_fit", "local_field", "overview")
PHASES: dict[str, Any] = {"elastic_modulus": (100.0, 20.0), "poissons_ratio": (0.3, 0.3)}
# Components of the linkage, and samples that calibrate the influence kernels. Small demos have fewer.
COMPONENTS, CALIBRATION = 60, 48
STRAIN = 0.001
QUANTITY = "$C_{11}$ / GPa"
LOCAL = r"$\varepsilon_{xx}$ / 10⁻³"


def demo(
    out: Path,
    samples: int,
    size: tuple[int, ...],
    seed: int,
    resume: bool,  # noqa: FBT001
    overwrite: bool,  # noqa: FBT001
    **cluster: Any,
) -> None:
    """Run the whole chain: ensemble → 2-point statistics → PCA → regression → stiffness, and local fields."""
    if out.exists() and not overwrite:
        msg = f"{out} exists; choose another --out, or pass --overwrite"
        raise click.ClickException(msg)
    location = Location.of(out)
    check_outside(location)
    asked, out = out, Path(location.path).resolve()
    _check_demo(out)
    timings: dict[str, float] = {}
    start = time.perf_counter()
    with open_client(**cluster) as client:
        hint = "" if find_spec("bokeh") else " (to see it: pip install 'mksdask[dashboard]')"
        click.echo(f"dashboard: {client.dashboard_link}{hint}")
        out.parent.mkdir(parents=True, exist_ok=True)
        with _new_folder(out, keep=resume) as folder:
            found = _run_demo(folder, samples, size * 3 if len(size) == 1 else size, seed, timings, resume=resume)
            _replace(out, folder)
    store = shlex.quote(str(asked / "ensemble.zarr"))
    click.echo(
        f"{found}\n  {'all':<34} {time.perf_counter() - start:7.1f} s\n\n"
        f"Open this figure first: {out / 'overview.png'}\n\nNext, try:\n"
        f"  mksdask report {store} report.html\n"
        f"  mksdask fit {store} stiffness.model --linker kernel --components 60\n"
        "  mksdask import YOUR_SCAN.tif rock.zarr --otsu 2"
    )


@contextmanager
def _new_folder(out: Path, *, keep: bool) -> Iterator[Path]:
    """Make a folder beside `out` for what is new. To `keep` it means that a killed run leaves it, for --resume."""
    if not keep:
        with tempfile.TemporaryDirectory(prefix=f"{out.name}.partial-", dir=out.parent) as folder:
            yield Path(folder)
        return
    kept = out.with_name(f"{out.name}.partial")
    _check_demo(kept)
    kept.mkdir(exist_ok=True)
    yield kept
    # Files of others stay, and the folder with them.
    with suppress(OSError):
        kept.rmdir()


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


def _run_demo(
    out: Path, samples: int, size: tuple[int, ...], seed: int, timings: dict[str, float], *, resume: bool
) -> str:
    """Write the ensemble and the figures to a folder, and say how good the predictions are."""
    dim = len(size)
    small, large = 0.08 * size[0], 0.2 * size[0]
    shapes = [
        (large,) * dim,
        (small * 1.5,) * dim,
        *((*(small,) * a, 1.2 * large, *(small,) * (dim - 1 - a)) for a in (0, dim - 1)),
    ]
    counts = [samples // 4 + (i < samples % 4) for i in range(4)]
    chunk = samples_per_chunk(samples, int(np.prod(size)))
    X = concatenate_samples(
        [
            MicrostructureGenerator(n, size, 2, shape, seed, (0.5, 0.5), 0.4, chunks=chunk, stream=kind).generate()
            for kind, (n, shape) in enumerate(zip(counts, shapes, strict=True))
        ]
    )
    stiffness = mean_stress(X, **PHASES, macro_strain=STRAIN)[:, 0] / STRAIN
    moduli = " and ".join(f"{modulus:g}" for modulus in PHASES["elastic_modulus"])
    click.echo(f"{samples} samples of {'×'.join(map(str, size))} voxels, moduli {moduli} GPa")
    url = out / "ensemble.zarr"
    with timed_step("generate, and solve by FE → zarr", timings, err=False):
        create_ensemble(url, X, stiffness, phases=("stiff", "soft"), periodic_axes=list(range(dim)), resume=resume)
    ensemble = open_ensemble(url)
    is_unseen = np.arange(samples) % 4 == 0
    training, unseen = (ensemble.isel(sample=np.flatnonzero(chosen)) for chosen in (~is_unseen, is_unseen))
    n_components = min(COMPONENTS, len(training.sample) // 2)
    model = MKSHomogenizationModel(PrimitiveBasis(2), n_components=n_components, property_linker="kernel")
    with timed_step("statistics → PCA → regression", timings, err=False):
        model.fit(training.microstructure, training.response)
    with timed_step("predict unseen samples", timings, err=False):
        predicted, spread = map(to_numpy, model.predict(unseen.microstructure, return_std=True))
    with timed_step("calibrate, and predict a local field", timings, err=False):
        local = _local_field(training.microstructure, unseen.microstructure[0])
    fitted = np.asarray(model.property_linker_.predict(model.reduced_fit_data))
    truth = to_numpy(unseen.response)
    parity = np.array([to_numpy(training.response), fitted]), np.array([truth, predicted, spread])
    with timed_step("figures", timings, err=False):
        _draw_demo(out, ensemble, model, parity, local)
    error, difference = predicted - truth, local[2] - local[1]
    r2 = 1.0 - np.sum(error**2) / np.sum((truth - truth.mean()) ** 2)
    return (
        f"C11 of {len(truth)} unseen samples: R² = {r2:.4f}, mean error {np.abs(error).mean():.3g} GPa, "
        f"standard deviation of C11 {truth.std():.3g} GPa\n"
        f"local strain of an unseen sample: mean error {100 * float(np.abs(difference).mean()) / STRAIN:.2g} % of the "
        "mean strain"
    )


def _local_field(training: xr.DataArray, unseen: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """Calibrate influence kernels, and return an unseen sample, its strain along x from FE, and from the kernels."""
    few = training[:: max(1, len(training) // CALIBRATION)]
    strain = solve_fields(few, **PHASES, macro_strain=STRAIN).strain[..., 0]
    kernels = MKSLocalizationModel(PrimitiveBasis(2), alpha="gcv").fit(few, strain.drop_vars("component"))
    sample = unseen.expand_dims("sample").compute()
    true = solve_fields(sample, **PHASES, macro_strain=STRAIN).strain[..., 0]
    return sample[0], true.drop_vars("component")[0], kernels.predict(sample)[0]


def _middle(field: xr.DataArray) -> xr.DataArray:
    """Return the central plane of a field in 3D."""
    third = field.dims[2:3]
    return field.isel({dim: field.sizes[dim] // 2 for dim in third if str(dim).removeprefix("lag_") == "z"})


def _draw_demo(
    out: Path,
    ensemble: xr.Dataset,
    model: MKSHomogenizationModel,
    parity: tuple[NDArray[Any], NDArray[Any]],
    local: tuple[xr.DataArray, xr.DataArray, xr.DataArray],
) -> None:
    few = ensemble.microstructure[:: len(ensemble.sample) // 4][:4].compute()
    statistics = correlate(local[0].expand_dims("sample"), model.basis)[0]
    scores = [model.reduced_fit_data[:, :2], to_numpy(model.reduced_predict_data)[:, :2]]
    variance = model.dimension_reducer_.explained_variance_ratio_
    sets = ["training", "unseen"]
    sample, *strains = (_middle(each) for each in local)
    strains = [1e3 * strain for strain in strains]
    figures = (
        tools.draw_microstructures(few),
        tools.draw_correlations(statistics),
        tools.draw_components(model.components_map()[:2]),
        tools.draw_components_scatter(scores, sets, variance=variance),
        tools.draw_goodness_of_fit(parity[0], parity[1], sets, quantity=QUANTITY),
        tools.draw_strains_compare(*strains, label=LOCAL),
        _overview(sample, _middle(statistics), scores, variance, parity, strains),
    )
    for name, figure in zip(FIGURES, figures, strict=True):
        save_figure(figure, out / f"{name}.png")


@styled
def _overview(
    sample: xr.DataArray, statistics: xr.DataArray, scores: list[Any], variance: Any, parity: Any, strains: list[Any]
) -> Figure:
    """Draw the two chains: from a structure to a property, and from a structure to its local strain."""
    figure = new_figure(TWO_COLUMNS, 4.9)
    (structure, pairs, points), (line, *fields) = figure.subplots(2, 3)
    tools.draw_microstructures(sample.expand_dims("sample"), [""], ax=structure)
    tools.draw_correlations(statistics[..., :1], ax=pairs)
    tools.draw_components_scatter(scores, ["training", "unseen"], variance=variance, ax=points)
    tools.draw_goodness_of_fit(parity[0], parity[1], ["training", "unseen"], quantity=QUANTITY, ax=line)
    tools.draw_strains_compare(*strains, label=LOCAL, ax=fields)
    points.set_box_aspect(1)
    plane = ", central plane" if "z" in sample.coords else ""
    titles = [f"an unseen sample{plane}", f"2-point statistics{plane}\n{pairs.get_title()}", "scores of all samples"]
    # A longer title would meet the colour bar.
    titles += ["effective stiffness of all", f"finite elements,\nunseen sample{plane}", "MKS,\nthe same"]
    for panel, title in zip([structure, pairs, points, line, *fields], titles, strict=True):
        panel.set_title(title)
    return figure
