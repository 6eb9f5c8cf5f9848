"""`mksdask fit`, `predict` and `localize`: models of a store, and what they say of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import xarray as xr

from mksdask import tools
from mksdask.arrays import to_numpy
from mksdask.cli.analysis import basis_of, statistics_options
from mksdask.cli.options import (
    check_pictures,
    cluster_options,
    json_option,
    open_client,
    output_of,
    report,
    resume_option,
    save_figure,
    stage,
    watch_option,
)
from mksdask.compute.blocks import computed
from mksdask.homogenization import MKSHomogenizationModel
from mksdask.localization import MKSLocalizationModel
from mksdask.storage.atomic import RESULTS, Location, check_ours, remove_store, staged_file
from mksdask.storage.ensembles import open_ensemble
from mksdask.storage.models import load_model, save_model
from mksdask.storage.opening import open_dataset
from mksdask.storage.results import materialize, place_of_result, save_result


def _response(dataset: xr.Dataset, response: str) -> Any:
    """A variable of the store, or a table of one row a sample: .csv with a header, or .npy."""
    if response in dataset:
        return dataset[response]
    path = Path(response)
    if path.suffix not in (".csv", ".npy"):
        known = sorted(str(name) for name in dataset.data_vars if name not in ("microstructure", "confidence_index"))
        msg = f"--response {response!r} is no variable of the store, which holds {known}, and no .csv or .npy file"
        raise ValueError(msg)
    if not path.exists():
        msg = f"--response {response!r}: there is no such file"
        raise FileNotFoundError(msg)
    values = np.load(path, allow_pickle=False) if path.suffix == ".npy" else _table(path)
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def _table(path: Path) -> np.ndarray[Any, Any]:
    """Numbers of a .csv file of one row a sample, but for their own numbers in a column ``sample``."""
    table = pd.read_csv(path)
    how = "write a header, then one row of numbers a sample, with commas between them and points in them"
    if not isinstance(table.index, pd.RangeIndex):
        msg = f"{path} has rows of more values than its header {list(table.columns)}; {how}"
        raise ValueError(msg)
    strange = [str(name) for name in table.columns if not pd.api.types.is_numeric_dtype(table[name])]
    if strange:
        msg = f"{path} holds text in the columns {strange}; {how}"
        raise ValueError(msg)
    if all(_is_number(name) for name in table.columns):
        msg = f"{path} has no header, its first row is {list(table.columns)}; {how}"
        raise ValueError(msg)
    if "sample" in table.columns and (table["sample"].to_numpy() == np.arange(len(table))).all():
        table = table.drop(columns="sample")
    if not table.shape[1]:
        msg = f"{path} has no column of properties; {how}"
        raise ValueError(msg)
    return np.asarray(table.to_numpy(dtype=float))


def _is_number(text: object) -> bool:
    try:
        float(str(text))
    except ValueError:
        return False
    return True


@click.command()
@statistics_options
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--response", default="response", show_default=True, help="Variable of the store, or a .csv or .npy file."
)
@click.option("--components", type=click.IntRange(min=1), default=5, show_default=True, help="Principal components.")
@click.option("--linker", type=click.Choice(["polynomial", "kernel"]), default="polynomial", show_default=True)
@click.option("--degree", type=click.IntRange(min=1), help="Of the polynomial. Default: 1.")
@click.option(
    "--hold-out", type=click.FloatRange(0, 0.9), default=0.2, show_default=True, help="Share of test samples."
)
@click.option("--figure", type=click.Path(path_type=Path), help="Draw predictions over responses: fit.png.")
@watch_option
@resume_option
@click.option("--overwrite", is_flag=True, help="Replace the model, once the new one is there.")
@cluster_options
@json_option
def fit(
    store: Path,
    model: Path,
    response: str,
    components: int,
    linker: str,
    degree: int | None,
    hold_out: float,
    figure: Path | None,
    watch: Path | None,
    resume: bool,  # noqa: FBT001
    overwrite: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
    states: int | None,
    pairs: list[tuple[int, int]] | None,
    cutoff: int | None,
    periodic: list[int] | None,
    **cluster: Any,
) -> None:
    """Fit a linkage from an ensemble to its response, and save it.

    A response of numbers gives a homogenization model; one of fields, with the samples' axes, a localization model of
    influence kernels, which takes --states alone. Test samples, drawn with a fixed seed, are kept out of the fit.

    \b
    Examples:
      mksdask fit samples.zarr stiffness.model --components 8 --degree 2
      mksdask fit samples.zarr strain.model --response strain.npy
    """
    inputs = (store, *((Path(response),) if Path(response).is_file() else ()))
    target = output_of(model, ("model",), *inputs, overwrite=overwrite)
    check_pictures(figure, watch, *inputs, target, overwrite=overwrite, resume=resume)
    timings: dict[str, float] = {}
    with open_client(**cluster):
        dataset = open_ensemble(store)
        X, y = dataset.microstructure, _response(dataset, response)
        basis, n = basis_of(dataset, states), X.sizes["sample"]
        if len(y) != n:
            msg = f"--response has {len(y)} rows, the store {n} samples"
            raise ValueError(msg)
        is_field = y.ndim > 1 and y.shape[1 : X.ndim] == X.shape[1:]
        given = {"--figure": figure, "--watch": watch, "--degree": degree, "--cutoff": cutoff, "--pairs": pairs}
        useless = [
            name
            for name, value in given.items()
            if value is not None and (is_field or (name, linker) == ("--degree", "kernel"))
        ]
        if useless:
            what = "a localization model" if is_field else "the kernel linker"
            msg = f"{', '.join(useless)} means nothing to {what}; leave it out"
            raise ValueError(msg)
        # Samples that have not been simulated, NaN, shape the components, and test nothing.
        known = np.arange(n) if is_field else np.flatnonzero(~np.isnan(to_numpy(y).reshape(n, -1)).any(axis=1))
        n_test = round(hold_out * len(known))
        test = np.sort(np.random.default_rng(0).permutation(known)[:n_test])
        train = np.setdiff1d(np.arange(n), test)
        rows = {"train": (X[train], y[train]), "test": (X[test], y[test])}
        if is_field:
            fitted: Any = MKSLocalizationModel(basis)
        else:
            fitted = MKSHomogenizationModel(
                basis,
                n_components=components,
                property_linker=linker,
                degree=degree,
                correlations=pairs,
                cutoff=cutoff,
                periodic_axes=periodic,
                scratch=target.parent,
            )
        with stage("fit", timings):
            fitted.fit(*rows["train"], **({} if is_field else {"watch": watch or False, "resume": resume}))
        result: dict[str, Any] = {"model": str(model), "kind": type(fitted).__name__, "samples": len(known) - n_test}
        if len(known) < n:
            result["without a response"] = n - len(known)
        if n_test:
            with stage("test", timings):
                result |= {"test samples": n_test, "test R²": fitted.score(*rows["test"])}
        save_model(fitted, target)
        if figure is not None and not is_field:
            with stage("figure", timings):
                _draw(fitted, rows, figure)
            result["figure"] = str(figure)
    report(result | {"seconds": round(sum(timings.values()), 2)}, as_json=as_json)


def _draw(fitted: MKSHomogenizationModel, rows: dict[str, tuple[Any, Any]], figure: Path) -> None:
    data = []
    for X, y in rows.values():
        truth, found = to_numpy(y), to_numpy(fitted.predict(X))
        data.append(np.array([part.reshape(len(y), -1)[:, 0] for part in (truth, found)]))
    save_figure(tools.draw_goodness_of_fit(data[0], data[1] if data[1].size else None), figure)


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True))
@click.argument("store", type=click.Path(path_type=Path, exists=True))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--std", is_flag=True, help="Write the standard deviation of each prediction too.")
@resume_option
@click.option("--overwrite", is_flag=True, help="Replace the result, once the new one is there.")
@cluster_options
@json_option
def predict(
    model: Path,
    store: Path,
    out: Path,
    std: bool,  # noqa: FBT001
    resume: bool,  # noqa: FBT001
    overwrite: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
    **cluster: Any,
) -> None:
    """Predict the effective properties of an ensemble by a homogenization model, into a .csv file or a zarr store.

    Example: mksdask predict stiffness.model other.zarr stiffness.csv --std
    """
    fitted = load_model(model)
    if not isinstance(fitted, MKSHomogenizationModel):
        msg = f"{model} is a {type(fitted).__name__}; predict takes a homogenization model, localize the other"
        raise ValueError(msg)
    if out.suffix not in (".csv", ".zarr"):
        msg = f"{out} must be a .csv file or a .zarr store"
        raise ValueError(msg)
    is_table = out.suffix == ".csv"
    target = output_of(out, None if is_table else RESULTS, model, store, overwrite=overwrite)
    kept = target.with_name(target.name + ".predictions")
    check_ours(Location.of(kept), RESULTS)
    timings: dict[str, float] = {}
    with open_client(**cluster):
        X = open_ensemble(store).microstructure
        with stage("predict", timings):
            found = fitted.predict(X, return_std=std)
            parts = xr.concat(found if std else (found,), "part").rename("predictions")
            if overwrite and not resume:
                remove_store(kept, RESULTS)
            stored = materialize(parts, kept, progress=False).compute()
            values = xr.Dataset(dict(zip(("prediction", "spread"), stored, strict=False)))
    if is_table:
        columns = {
            f"{name}_{i}" if array.ndim > 1 else str(name): column
            for name, array in values.data_vars.items()
            for i, column in enumerate(array.to_numpy().reshape(len(array), -1).T)
        }
        with staged_file(target, overwrite=overwrite) as new:
            pd.DataFrame(columns).to_csv(new, index_label="sample")
    else:
        save_result(values, target, "w" if overwrite else "w-")
    remove_store(kept, RESULTS)
    summary = {"result": str(out), "samples": X.sizes["sample"]}
    mean = values.prediction.to_numpy()
    summary |= {"lowest": float(mean.min()), "mean": float(mean.mean()), "highest": float(mean.max())}
    report(summary | {"seconds": round(sum(timings.values()), 2)}, as_json=as_json)


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True))
@click.argument("store", type=click.Path(path_type=Path, exists=True))
@click.argument("out", type=click.Path(path_type=Path))
@resume_option
@click.option("--overwrite", is_flag=True, help="Replace the result, once the new one is there.")
@cluster_options
@json_option
def localize(
    model: Path,
    store: Path,
    out: Path,
    resume: bool,  # noqa: FBT001
    overwrite: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
    **cluster: Any,
) -> None:
    """Predict the local field of each sample by a localization model, into a zarr store.

    Kernels that were calibrated on smaller samples are taken to the size of these.

    Example: mksdask localize strain.model large.zarr strain.zarr
    """
    fitted = load_model(model)
    if not isinstance(fitted, MKSLocalizationModel):
        msg = f"{model} is a {type(fitted).__name__}; localize takes a localization model, predict the other"
        raise ValueError(msg)
    target = output_of(out, RESULTS, model, store, overwrite=overwrite, resume=resume)
    timings: dict[str, float] = {}
    with open_client(**cluster):
        X = open_ensemble(store).microstructure
        size = tuple(X.sizes[dim] for dim in ("x", "y", "z") if dim in X.dims)
        if size != tuple(fitted.size_):
            fitted.resize_coeff(size)
        field = fitted.predict(X).rename("field")
        place = place_of_result(field, target, overwrite=overwrite, resume=resume)
        with stage("localize", timings), place as location:
            materialize(field, location.store, progress=False)
        field = open_dataset(Location.of(target), chunks={}).field
        extremes = computed((field.data.min(), field.data.mean(), field.data.max()))
    summary = {"result": str(out), "samples": X.sizes["sample"], "size": size}
    summary |= dict(zip(("lowest", "mean", "highest"), map(float, extremes), strict=True))
    report(summary | {"seconds": round(sum(timings.values()), 2)}, as_json=as_json)
