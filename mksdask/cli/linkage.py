"""`mksdask fit`, `predict` and `localize`: models fitted to a store, and their predictions for other stores."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import click
import numpy as np
import xarray as xr
from click.core import ParameterSource
from sklearn.metrics import r2_score

from mksdask import tools
from mksdask.arrays import to_numpy
from mksdask.cli.analysis import LagLimit, basis_of, confidence_of, pairs_of
from mksdask.cli.options import (
    check_pictures,
    open_client,
    opening,
    report,
    save_figure,
    timed_step,
)
from mksdask.compute.blocks import computed
from mksdask.compute.graph import token_of
from mksdask.compute.operation import plan
from mksdask.compute.watching import LivePicture
from mksdask.display.cards import printed_unit
from mksdask.homogenization import MissingPropertyWarning, MKSHomogenizationModel
from mksdask.labels import sample_index
from mksdask.localization import MKSLocalizationModel
from mksdask.reduction.extrapolation import FAR, warn_of_far
from mksdask.storage.atomic import RESULTS, Location, Url, attributes_of
from mksdask.storage.ensembles import open_ensemble
from mksdask.storage.models import load_model, write_state
from mksdask.storage.outputs import Output
from mksdask.storage.results import materialize
from mksdask.storage.sources import recorded
from mksdask.storage.tables import read_table, table_columns, write_table


def _response(dataset: xr.Dataset, response: str) -> Any:
    """Take a variable of the store, or read a table of one row for each sample: .csv with a header, or .npy.

    If the store has labels of samples, a column ``sample`` of a .csv file may hold them in any order.
    """
    if response in dataset:
        return dataset[response]
    path = Path(response)
    if path.suffix not in (".csv", ".npy"):
        known = sorted(str(name) for name in dataset.data_vars if name not in ("microstructure", "confidence_index"))
        msg = (
            f"--response {response!r} is not a variable of the store, and not a .csv or .npy file; name "
            f"{f'one of the variables {known}' if known else 'a file'}{' or a file' if known else ''}, such as a .csv "
            "file with the header stiffness and one number for each sample in each row"
        )
        raise ValueError(msg)
    return read_table(path, sample_index(dataset["microstructure"]))


def fit(
    store: Url,
    model: Url,
    response: str,
    components: int,
    linker: str,
    degree: int | None,
    order: int | None,
    hold_out: float,
    figure: Path | None,
    watch: Path | None,
    resume: bool,  # noqa: FBT001
    overwrite: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
    states: int | None,
    pairs: list[str] | None,
    cutoff: LagLimit,
    periodic: list[int] | None,
    **cluster: Any,
) -> None:
    """Fit a linkage from the samples of an ensemble to their response, and save it."""
    if math.isnan(hold_out):
        msg = "--hold-out must be a fraction from 0 to 0.9, got nan"
        raise ValueError(msg)
    inputs = (store, *((Path(response),) if Path(response).is_file() else ()))
    output = Output.of(model, ("model",), *inputs, overwrite=overwrite, resume=resume)
    check_pictures(figure, watch, *inputs, output.path, overwrite=overwrite, resume=resume)
    timings: dict[str, float] = {}
    with open_client(**cluster):
        dataset = open_ensemble(store, **opening())
        X, y = dataset.microstructure, _response(dataset, response)
        basis, n = basis_of(dataset, states), X.sizes["sample"]
        if len(y) != n:
            msg = f"--response has {len(y)} rows, the store {n} samples; give one row for each sample"
            raise ValueError(msg)
        is_field = y.ndim > 1 and y.shape[1 : X.ndim] == X.shape[1:]
        _refuse_useless(is_field=is_field, linker=linker)
        # A response of NaN marks a sample that was not simulated. It shapes the components, but cannot test the fit.
        known = np.arange(n) if is_field else np.flatnonzero(~np.isnan(to_numpy(y).reshape(n, -1)).any(axis=1))
        n_test = round(hold_out * len(known))
        test = np.sort(np.random.default_rng(0).permutation(known)[:n_test])
        train = np.setdiff1d(np.arange(n), test)
        weights = {} if is_field else confidence_of(dataset)
        rows = {
            name: (X[chosen], y[chosen], {key: value[chosen] for key, value in weights.items()})
            for name, chosen in (("train", train), ("test", test))
        }
        asked = (components, linker, degree, order, hold_out, pairs, cutoff, periodic)
        step = token_of("fit", X.data.name, y.data.name if isinstance(y, xr.DataArray) else y, weights, basis, asked)
        if resume and output.is_done(step):
            done = attributes_of(Location.of(output.path))["report"]
            if figure is not None and not figure.exists() and not is_field:
                _draw(load_model(output.path), rows, figure, _quantity(y, response))
            report(done | {"seconds": 0.0}, as_json=as_json)
            return
        _refuse_other(output)
        if is_field:
            fitted: Any = MKSLocalizationModel(basis, order=order or 1)
        else:
            fitted = MKSHomogenizationModel(
                basis,
                n_components=components,
                property_linker=linker,
                degree=degree,
                correlations=pairs_of(pairs, X),
                cutoff=cutoff,
                periodic_axes=periodic,
                scratch=output.folder,
            )
        X_train, y_train, options = rows["train"]
        if not is_field:
            live = False if watch is None else LivePicture.of(watch, overwrite=overwrite)
            options = options | {"watch": live, "resume": resume}
        with timed_step("fit", timings), warnings.catch_warnings():
            # The report counts the samples without a response.
            warnings.simplefilter("ignore", MissingPropertyWarning)
            fitted.fit(X_train, y_train, **options)
        result: dict[str, Any] = {"model": str(model), "kind": type(fitted).__name__, "samples": len(known) - n_test}
        if len(known) < n:
            result["without_response"] = n - len(known)
        if n_test:
            X_test, y_test, options = rows["test"]
            with timed_step("test", timings):
                if order is not None and order > 1:
                    by_order = fitted.score_by_order(X_test, y_test).tolist()
                    result["test"] = {"samples": n_test, "r2": by_order[-1], "r2_by_order": by_order}
                else:
                    result["test"] = {"samples": n_test, "r2": fitted.score(X_test, y_test, **options)}
                if not is_field and y.ndim == 2:
                    names = table_columns(Path(response)) or [str(number) for number in range(y.shape[1])]
                    scores = r2_score(
                        to_numpy(y_test), to_numpy(fitted.predict(X_test, **options)), multioutput="raw_values"
                    )
                    result["test"]["r2_by_property"] = dict(zip(names, scores.tolist(), strict=True))
        _refuse_other(output)
        with recorded(*inputs):
            write_state(fitted, output.path, step=step, report=json.loads(json.dumps(result)))
        if figure is not None and not is_field:
            with timed_step("figure", timings):
                _draw(fitted, rows, figure, _quantity(y, response))
            result["figure"] = str(figure)
    report(result | {"seconds": round(sum(timings.values()), 2)}, as_json=as_json)


def _refuse_other(output: Output) -> None:
    """Refuse to replace a complete model without --overwrite."""
    location = Location.of(output.path)
    if not output.overwrite and location.exists() and attributes_of(location).get("mksdask") == "model":
        msg = f"{output.path} holds another model; choose another output, or pass --overwrite"
        raise FileExistsError(msg)


def _refuse_useless(*, is_field: bool, linker: str) -> None:
    """Refuse options that the user gave, but that the kind of model does not have."""
    context = click.get_current_context()
    of_scores = ("pairs", "cutoff", "periodic", "components", "linker", "degree", "figure", "watch")
    names = of_scores if is_field else ("order", "degree") if linker == "kernel" else ("order",)
    useless = [
        f"--{name}"
        for name in names
        if context.get_parameter_source(name) not in (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)
    ]
    if useless:
        other = "a homogenization model" if "--order" in useless else "the kernel linker"
        what = "a localization model" if is_field else other
        msg = f"{', '.join(useless)} means nothing to {what}; leave it out"
        raise ValueError(msg)


def _quantity(y: Any, response: str) -> str:
    """Name the property that a figure shows, with its unit if the store knows it: the first one of several."""
    if isinstance(y, xr.DataArray):
        unit = y.attrs.get("units")
        return f"{response} / {printed_unit(unit)}" if unit else response
    return next(iter(table_columns(Path(response))), Path(response).stem)


def _draw(fitted: MKSHomogenizationModel, rows: dict[str, tuple[Any, Any, Any]], figure: Path, quantity: str) -> None:
    data = []
    for X, y, options in rows.values():
        parts = [to_numpy(y), *map(to_numpy, fitted.predict(X, return_std=True, **options))]
        values = np.array([part.reshape(len(y), -1)[:, 0] for part in parts])
        # Too few samples for the monomials say nothing of the spread.
        data.append(values if np.isfinite(values[2]).all() else values[:2])
    save_figure(tools.draw_goodness_of_fit(data[0], data[1] if data[1].size else None, quantity=quantity), figure)


def predict(
    model: Url,
    store: Url,
    out: Url,
    std: bool,  # noqa: FBT001
    resume: bool,  # noqa: FBT001
    overwrite: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
    **cluster: Any,
) -> None:
    """Predict the effective properties of the samples of an ensemble by a homogenization model."""
    suffix = Path(str(out)).suffix
    if suffix not in (".csv", ".zarr"):
        msg = f"{out} must be a .csv file or a .zarr store; choose a name with one of these endings"
        raise ValueError(msg)
    is_store = suffix == ".zarr"
    # A .csv file does not say of what it is the result. With --resume it may be there if it holds the same numbers.
    output = Output.of(out, RESULTS if is_store else None, model, store, overwrite=overwrite, resume=resume)
    timings: dict[str, float] = {}
    with open_client(**cluster):
        parts = _lazy_predictions(model, store, std=std)
        step = token_of(parts.data.name)
        with output.intermediate("predictions", RESULTS, resume=resume) as kept:
            if is_store and output.is_done(step):
                values = computed(output.open_all())
            else:
                with timed_step("predict", timings):
                    stored = computed(materialize(parts, kept, progress=False))
                values = _table_of(stored)
                recipe = {"operation": "predict"} | _places(model=model, store=store) | {"std": std}
                with recorded(model, store, recipe=recipe):
                    write_table(values, output.path, overwrite=overwrite, resume=resume, step=step)
    summary = {"result": str(out), "samples": len(values.prediction)}
    if "distance" in values:
        distances = values.distance.to_numpy()
        summary["unlike_training"] = int((distances > FAR).sum())
        warn_of_far(distances)
    mean = values.prediction.to_numpy()
    summary["prediction"] = {"lowest": float(mean.min()), "mean": float(mean.mean()), "highest": float(mean.max())}
    report(summary | {"seconds": round(sum(timings.values()), 2)}, as_json=as_json)


def localize(
    model: Url,
    store: Url,
    out: Url,
    resume: bool,  # noqa: FBT001
    overwrite: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
    **cluster: Any,
) -> None:
    """Predict the local field of each sample by a localization model, and write the fields to a zarr store."""
    output = Output.of(out, RESULTS, model, store, overwrite=overwrite, resume=resume)
    timings: dict[str, float] = {}
    with open_client(**cluster):
        lazy, recipe = field_of(model, store), {"operation": "localize"} | _places(model=model, store=store)
        with timed_step("localize", timings), recorded(model, recipe=recipe):
            field = output.write(lazy)
        extremes = computed((field.data.min(), field.data.mean(), field.data.max()))
    size = tuple(field.sizes[dim] for dim in ("x", "y", "z") if dim in field.dims)
    summary: dict[str, Any] = {"result": str(out), "samples": field.sizes["sample"], "size": size}
    summary["field"] = dict(zip(("lowest", "mean", "highest"), map(float, extremes), strict=True))
    report(summary | {"seconds": round(sum(timings.values()), 2)}, as_json=as_json)


def predictions_of(model: Url, store: Url, *, std: bool) -> xr.Dataset:
    """Predict the properties of the samples of a store, as the table of `mksdask predict`."""
    return _table_of(computed(_lazy_predictions(model, store, std=std)))


def _lazy_predictions(model: Url, store: Url, *, std: bool) -> xr.DataArray:
    fitted = load_model(model)
    if not isinstance(fitted, MKSHomogenizationModel):
        msg = f"{model} is a {type(fitted).__name__}, but predict takes a homogenization model; use mksdask localize"
        raise ValueError(msg)
    return lazy_parts(fitted, open_ensemble(store, **opening()), std=std)


def lazy_parts(fitted: MKSHomogenizationModel, dataset: xr.Dataset, *, std: bool) -> xr.DataArray:
    """Predict properties lazily, their standard deviation if `std`, and distances: (n_parts, n_samples, ...)."""
    found = fitted.predict(dataset.microstructure, return_std=std, **confidence_of(dataset))
    parts = dict(zip(("prediction", "spread"), found if std else (found,), strict=False))
    if parts["prediction"].dtype.kind == "f":
        distances = fitted.distance_of_scores(fitted.reduced_predict_data)
        parts["distance"] = distances.broadcast_like(parts["prediction"])
    names = xr.DataArray(list(parts), dims="part", name="part")
    return xr.concat(parts.values(), names).rename("predictions")


def _table_of(stored: xr.DataArray) -> xr.Dataset:
    found = {str(name): stored.sel(part=name, drop=True) for name in stored["part"].to_numpy()}
    if "distance" in found:
        # It is one number for each sample, also if there are several properties.
        found["distance"] = found["distance"].isel(dict.fromkeys(found["distance"].dims[1:], 0), drop=True)
    return xr.Dataset(found)


def field_of(model: Url, store: Url) -> xr.DataArray:
    """Predict the local fields of the samples of a store lazily, after a plan says that they fit."""
    fitted = load_model(model)
    if not isinstance(fitted, MKSLocalizationModel):
        msg = f"{model} is a {type(fitted).__name__}, but localize takes a localization model; use mksdask predict"
        raise ValueError(msg)
    X = open_ensemble(store, **opening()).microstructure
    size = tuple(X.sizes[dim] for dim in ("x", "y", "z") if dim in X.dims)
    if size != tuple(fitted.size_):
        fitted.resize_coeff(size)
    plan(fitted.predict, X)
    field: xr.DataArray = fitted.predict(X).rename("field")
    return field


def _places(**inputs: Url) -> dict[str, str]:
    """Name inputs as provenance does."""
    return {role: str(Location.of(url).place.store) for role, url in inputs.items()}
