"""`mksdask stats` and `mksdask plan`: 2-point statistics of a store, and the memory and time that a call would need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import dask
import numpy as np
import xarray as xr

from mksdask import tools
from mksdask.bases import PrimitiveBasis
from mksdask.cli.options import (
    check_pictures,
    open_client,
    opening,
    report,
    save_figure,
    timed_step,
)
from mksdask.cli.printing import say
from mksdask.cli.representativity import intervals_of, told
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


def basis_of(dataset: xr.Dataset, states: int | None) -> PrimitiveBasis:
    """Make a basis of the phases of a store. If the store does not name its phases, all voxels are read."""
    X = dataset.microstructure
    if X.dims[-1] == "angle":
        msg = (
            "the store holds orientations, and this command takes phases; in Python, mksdask.stats.correlate takes "
            "orientations with GSHBasis, and the variable 'phase' of mksdask.storage.open_store is the map of phases"
        )
        raise ValueError(msg)
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


def pairs_of(given: Sequence[str] | None, X: xr.DataArray) -> list[tuple[int, int]] | None:
    """Turn pairs such as pore-grain or 0-1 into numbers of phases. Names may hold hyphens themselves."""
    if given is None:
        return None
    names = [str(name) for name in X.attrs.get("phases") or ()]
    numbers = {str(h): h for h in range(MOST_UNNAMED)} | {name: h for h, name in enumerate(names)}
    pairs = []
    for pair in given:
        cuts = [i for i, letter in enumerate(pair) if letter == "-"]
        found = [(numbers[pair[:i]], numbers[pair[i + 1 :]]) for i in cuts if {pair[:i], pair[i + 1 :]} <= set(numbers)]
        if len(found) != 1:
            known = f"its phases are {', '.join(names)}" if names else "its phases have no names, so write 0-1"
            msg = f"--pairs {pair} does not name two phases of the store; {known}"
            raise ValueError(msg)
        pairs += found
    return pairs


def statistics_call(
    store: Url,
    states: int | None,
    pairs: list[str] | None,
    cutoff: LagLimit,
    periodic: list[int] | None,
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """Choose `correlate` or `correlate_volume`, and collect its arguments."""
    dataset = open_store(store, **opening())
    X = dataset.microstructure
    options: dict[str, Any] = {"cutoff": cutoff, "correlations": pairs_of(pairs, X), "periodic_axes": periodic}
    options |= confidence_of(dataset)
    return (correlate if "sample" in X.dims else correlate_volume), (X, basis_of(dataset, states)), options


def stats(
    store: Url,
    out: Url,
    figure: Path | None,
    radial: Path | None,
    watch: Path | None,
    representative: bool,  # noqa: FBT001
    resume: bool,  # noqa: FBT001
    overwrite: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
    states: int | None,
    pairs: list[str] | None,
    cutoff: LagLimit,
    periodic: list[int] | None,
    **cluster: Any,
) -> None:
    """Compute the 2-point statistics of a volume, or of each sample of an ensemble, and write them to a zarr store."""
    output = Output.of(out, RESULTS, store, overwrite=overwrite, resume=resume)
    check_pictures(figure, watch, store, output.path, radial=radial, overwrite=overwrite, resume=resume)
    timings: dict[str, float] = {}
    with open_client(**cluster):
        operation, arguments, options = statistics_call(store, states, pairs, cutoff, periodic)
        if watch is not None and operation is correlate:
            msg = (
                f"--watch needs a volume, and {store} is an ensemble; leave it out, or use mksdask fit --watch, which "
                "shows the mean of an ensemble"
            )
            raise ValueError(msg)
        if representative and operation is correlate:
            msg = f"--representative needs a volume, and {store} is an ensemble; leave it out"
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
        if radial is not None:
            with timed_step("radial figure", timings):
                save_figure(tools.draw_radial(mean), radial)
        result = {"result": str(out), "lags": tuple(mean.shape[:-1])} | _summary(mean, arguments[0], cutoff)
        if representative:
            with timed_step("representativity", timings):
                intervals = intervals_of(open_store(store, **opening()))
            for each in intervals:
                # The sum over the lags up to the cutoff misses the longest waves, which the intervals extrapolate to.
                if each["phase"] in result["phases"]:
                    result["phases"][each["phase"]]["integral_range"] = each["integral_range"]
            result["representative"] = told(intervals, as_json=as_json)
    result |= {name: str(path) for name, path in (("figure", figure), ("radial", radial)) if path is not None}
    report(result | {"seconds": round(sum(timings.values()), 2)}, as_json=as_json)


def _summary(mean: xr.DataArray, X: xr.DataArray, cutoff: Any) -> dict[str, Any]:
    """Compute volume fraction, interface and integral range of each phase whose autocorrelation was computed.

    The integral range is a sum over the lags, which is of use only up to a cutoff.
    """
    unit = str(mean.coords[mean.dims[0]].attrs.get("units", "voxel"))
    dim = mean.ndim - 1
    origin = tuple(n // 2 for n in mean.shape[:-1])
    surfaces, ranges = specific_surface(mean), integral_range(mean)
    names, found = X.attrs.get("phases") or (), dict[str, Any]()
    for i, (state, other) in enumerate(zip(mean["state_1"].to_numpy(), mean["state_2"].to_numpy(), strict=True)):
        if state == other:
            name = names[state] if state < len(names) else f"phase {state}"
            found[name] = {
                "volume_fraction": float(np.asarray(mean[(*origin, i)])),
                "interface_per_volume": float(surfaces[i]),
            }
            if cutoff is not None and bool(np.isfinite(ranges[i])):
                found[name]["integral_range"] = float(ranges[i])
    units = {"interface_per_volume": f"1/{unit}", "integral_range": f"{unit}^{dim}" if dim > 1 else unit}
    return {"phases": found, "units": {"lag": unit} | units}


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


def plan_stats(store: Url, memory_limit: int, as_json: bool, **which: Any) -> None:  # noqa: FBT001
    """Show what `mksdask stats` would need. STORE is a volume or an ensemble."""
    operation, arguments, options = statistics_call(store, **which)
    _print_plan(operation, *arguments, as_json=as_json, memory_limit=memory_limit, **options)


def plan_fit(store: Url, components: int, memory_limit: int, as_json: bool, **which: Any) -> None:  # noqa: FBT001
    """Show what the statistics and components of `mksdask fit` would need. STORE is an ensemble."""
    operation, (X, basis), options = statistics_call(store, **which)
    if operation is not correlate:
        msg = f"{store} is a volume, but fit takes an ensemble; make one with mksdask import --window"
        raise ValueError(msg)
    confidence = options.pop("confidence_index", None)
    analysis = MKSStructureAnalysis(basis, n_components=components, **options)
    _print_plan(analysis.fit, X, as_json=as_json, memory_limit=memory_limit, confidence_index=confidence)
