"""`mksdask stats` and `mksdask plan`: 2-point statistics of a store, and the memory and time that a call would need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import click
import dask
import numpy as np
import xarray as xr

from mksdask import tools
from mksdask.bases import PrimitiveBasis
from mksdask.cli.arguments import Axes, Bytes, Cutoff, LocalFile, Pairs, Place
from mksdask.cli.options import (
    allows_missing,
    check_pictures,
    cluster_options,
    json_option,
    missing_option,
    open_client,
    overwrite_option,
    report,
    resume_option,
    save_figure,
    say,
    timed_step,
    watch_option,
)
from mksdask.compute.graph import token_of
from mksdask.compute.operation import plan
from mksdask.compute.watching import LivePicture
from mksdask.stats import correlate, correlate_volume, integral_range, specific_surface
from mksdask.stats.all_lags import PASSES
from mksdask.storage.atomic import RESULTS, SCRATCH, Location, Url
from mksdask.storage.microstructures import open_store
from mksdask.storage.outputs import Output
from mksdask.storage.sources import recorded
from mksdask.structure import MKSStructureAnalysis

# More phases than this without names are grey levels, or numbers of grains.
MOST_UNNAMED = 32
LagLimit: TypeAlias = int | tuple[int, ...] | None


def statistics_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which statistics of which store to compute."""
    for option in (
        missing_option,
        click.option(
            "--periodic", type=Axes(), help="Periodic axes, such as x,y, or none. Default: as the store says."
        ),
        click.option(
            "--cutoff",
            type=Cutoff(),
            metavar="LAG[,LAG,LAG]",
            help="Largest lag in voxels, such as 40, or one for each axis, such as 40,40,20. Default: all lags from "
            "-n//2 to (n-1)//2 along an axis of n voxels.",
        ),
        click.option(
            "--pairs",
            type=Pairs(),
            help="Pairs of phases by their numbers, such as 0-0,0-1. Default: the first phase with each phase.",
        ),
        click.option(
            "--states",
            type=click.IntRange(min=1),
            help="Number of phases, such as 2. Default: as many as the store names, or one more than its largest "
            "number.",
        ),
        click.argument("store", type=Place(exists=True)),
    ):
        command = option(command)
    return command


def basis_of(dataset: xr.Dataset, states: int | None) -> PrimitiveBasis:
    """Make a basis of the phases of a store. If the store does not name its phases, all voxels are read."""
    X = dataset.microstructure
    if states is None:
        if X.dtype.kind not in "biu":
            msg = f"the store holds {X.dtype} numbers, not phases; import it with --phases, --thresholds or --otsu"
            raise ValueError(msg)
        states = len(X.attrs.get("phases", ()))
        if not states:
            states = int(X.max()) + 1
            if states > MOST_UNNAMED:
                msg = (
                    f"the store holds numbers up to {states - 1} without names, which are hardly phases; import it "
                    f"with --phases, --thresholds or --otsu, or give --states {states} if they are"
                )
                raise ValueError(msg)
    return PrimitiveBasis(states)


def confidence_of(dataset: xr.Dataset) -> dict[str, Any]:
    """Return the confidence index of a store as an option, if it has one."""
    return {"confidence_index": dataset.confidence_index} if "confidence_index" in dataset else {}


def statistics_call(
    store: Url,
    states: int | None,
    pairs: list[tuple[int, int]] | None,
    cutoff: LagLimit,
    periodic: list[int] | None,
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """Choose `correlate` or `correlate_volume`, and collect its arguments."""
    dataset = open_store(store, allow_missing=allows_missing())
    X = dataset.microstructure
    options: dict[str, Any] = {"cutoff": cutoff, "correlations": pairs, "periodic_axes": periodic}
    options |= confidence_of(dataset)
    return (correlate if "sample" in X.dims else correlate_volume), (X, basis_of(dataset, states)), options


@click.command()
@statistics_options
@click.argument("out", type=Place())
@click.option(
    "--figure",
    type=LocalFile(),
    help="Draw the statistics into a file, such as S2.png. For an ensemble, draw their mean.",
)
@watch_option
@resume_option
@overwrite_option("an earlier result")
@cluster_options
@json_option
def stats(
    store: Url,
    out: Url,
    figure: Path | None,
    watch: Path | None,
    resume: bool,  # noqa: FBT001
    overwrite: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
    states: int | None,
    pairs: list[tuple[int, int]] | None,
    cutoff: LagLimit,
    periodic: list[int] | None,
    **cluster: Any,
) -> None:
    """Compute the 2-point statistics of a volume, or of each sample of an ensemble, and write them to a zarr store.

    STORE is a volume or an ensemble, as mksdask import writes them, and OUT is the zarr store of the statistics.

    \b
    Examples:
      mksdask stats rock.zarr S2.zarr --cutoff 40 --figure S2.png
      mksdask stats samples.zarr f.zarr --pairs 0-0,0-1 --periodic x,y,z
      mksdask stats rock.zarr S2.zarr --cutoff 40,40,20 --scheduler scheduler.json
    """
    output = Output.of(out, RESULTS, store, overwrite=overwrite, resume=resume)
    check_pictures(figure, watch, store, output.path, overwrite=overwrite, resume=resume)
    timings: dict[str, float] = {}
    with open_client(**cluster):
        operation, arguments, options = statistics_call(store, states, pairs, cutoff, periodic)
        if watch is not None and operation is correlate:
            msg = (
                f"--watch needs a volume, and {store} is an ensemble; leave it out, or use mksdask fit --watch, which "
                "shows the mean of an ensemble"
            )
            raise ValueError(msg)
        live: dict[str, Any] = {} if watch is None else {"watch": LivePicture.of(watch, overwrite=overwrite)}
        recipe: dict[str, Any] = {"operation": "stats", "store": str(Location.of(store).place.store), "states": states}
        recipe |= {"pairs": pairs, "cutoff": cutoff, "periodic": periodic}
        step = token_of("volume" if operation is correlate_volume else "ensemble", arguments, options)
        if not output.is_done(step):
            # What is wrong with the arguments, or does not fit, is found before anything is written or removed.
            recipe["memory_limit"] = plan(operation, *arguments, **options, **live).limit.worker_bytes
        with output.intermediate("sums", SCRATCH, resume=resume, beside=PASSES) as sums:
            if not output.is_done(step):
                with timed_step("statistics", timings):
                    if operation is correlate_volume:
                        options["scratch"] = sums
                        if live:
                            operation(*arguments, **live, **options)
                    with recorded(recipe=recipe):
                        output.write(operation(*arguments, **options).rename("correlations"), step)
        found = output.open("correlations")
        mean = found if operation is correlate_volume else found.mean("sample", keep_attrs=True)
        mean = mean.compute()
        if figure is not None:
            with timed_step("figure", timings):
                save_figure(tools.draw_correlations(mean), figure)
    result = {"result": str(out), "lags": tuple(mean.shape[:-1])} | _summary(mean, arguments[0])
    result |= {} if figure is None else {"figure": str(figure)}
    report(result | {"seconds": round(sum(timings.values()), 2)}, as_json=as_json)


def _summary(mean: xr.DataArray, X: xr.DataArray) -> dict[str, Any]:
    """Compute volume fraction, interface and integral range of each phase whose autocorrelation was computed."""
    summary: dict[str, Any] = {"units": str(mean.coords[mean.dims[0]].attrs.get("units", "voxel"))}
    origin = tuple(n // 2 for n in mean.shape[:-1])
    surfaces, ranges = specific_surface(mean), integral_range(mean)
    phases = X.attrs.get("phases")
    for i, (state, other) in enumerate(zip(mean["state_1"].to_numpy(), mean["state_2"].to_numpy(), strict=True)):
        if state != other:
            continue
        name = phases[state] if phases and state < len(phases) else f"phase {state}"
        summary[f"volume fraction of {name}"] = float(np.asarray(mean[(*origin, i)]))
        summary[f"interface of {name} to the whole volume"] = float(surfaces[i])
        summary[f"integral range of {name}"] = float(ranges[i])
    return summary


@click.group("plan")
def plan_group() -> None:
    """Show the tasks, the memory and the bytes that a call would need, without making the call.

    \b
    Examples:
      mksdask plan stats rock.zarr --cutoff 40 --memory-limit 1GiB
      mksdask plan fit samples.zarr --components 20
    """


def _print_plan(
    operation: Callable[..., Any], *arguments: Any, as_json: bool, memory_limit: int, **options: Any
) -> None:
    # Plan for one thread, as each worker that the commands start has one.
    with dask.config.set(scheduler="synchronous"):
        found = plan(operation, *arguments, memory_limit=memory_limit, **options)
    if as_json:
        report(asdict(found) | {"peak_bytes": found.peak_bytes, "n_tasks": found.n_tasks}, as_json=True)
    else:
        say(str(found))


memory_option = click.option(
    "--memory-limit",
    type=Bytes(),
    default="2GiB",
    show_default=True,
    help="Memory of each worker, such as 2GiB or 512MiB.",
)


@plan_group.command("stats")
@statistics_options
@memory_option
@json_option
def plan_stats(store: Url, memory_limit: int, as_json: bool, **which: Any) -> None:  # noqa: FBT001
    """Show what `mksdask stats` would need. STORE is a volume or an ensemble.

    Example: mksdask plan stats rock.zarr --cutoff 40 --memory-limit 1GiB
    """
    operation, arguments, options = statistics_call(store, **which)
    _print_plan(operation, *arguments, as_json=as_json, memory_limit=memory_limit, **options)


@plan_group.command("fit")
@statistics_options
@click.option(
    "--components",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Number of principal components, such as 8.",
)
@memory_option
@json_option
def plan_fit(store: Url, components: int, memory_limit: int, as_json: bool, **which: Any) -> None:  # noqa: FBT001
    """Show what the statistics and components of `mksdask fit` would need. STORE is an ensemble.

    Example: mksdask plan fit samples.zarr --components 20
    """
    operation, (X, basis), options = statistics_call(store, **which)
    if operation is not correlate:
        msg = f"{store} is a volume, but fit takes an ensemble; make one with mksdask import --window"
        raise ValueError(msg)
    confidence = options.pop("confidence_index", None)
    analysis = MKSStructureAnalysis(basis, n_components=components, **options)
    _print_plan(analysis.fit, X, as_json=as_json, memory_limit=memory_limit, confidence_index=confidence)
