"""`mksdask import` and `mksdask info`: import images into stores, and describe the contents of a store."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import xarray as xr

from mksdask.arrays import SPATIAL_DIMS
from mksdask.cli.analysis import MOST_UNNAMED
from mksdask.cli.maps import import_map, is_map
from mksdask.cli.options import (
    check_pictures,
    open_client,
    opening,
    report,
    save_figure,
    timed_step,
)
from mksdask.cli.printing import say, with_options
from mksdask.cli.representativity import intervals_of, told
from mksdask.importers import AssumedWarning, import_images
from mksdask.importers.formats.raw_files import data_type
from mksdask.importers.image_files import input_files
from mksdask.labels import quantity, quantity_text
from mksdask.schema.units import UNKNOWN
from mksdask.storage.atomic import MICROSTRUCTURES, Location, Url, attributes_of
from mksdask.storage.microstructures import open_store
from mksdask.storage.models import load_model
from mksdask.storage.opening import check_store, open_dataset, open_group
from mksdask.storage.outputs import Output
from mksdask.storage.sources import chain_of
from mksdask.storage.verification import verify as verify_store

# Samples of a picture, and voxels along each axis by the number of axes.
MOST_SAMPLES, MOST_VOXELS = 4, {1: 10_000, 2: 1000, 3: 200}


def import_command(
    sources: tuple[str, ...],
    store: Url,
    phases: dict[float, Any] | Literal["values"] | None,
    thresholds: tuple[float, ...] | None,
    otsu: int | None,
    names: str | None,
    spacing: tuple[float, ...] | None,
    units: str | None,
    crop: dict[str, Any] | None,
    window: tuple[int, ...] | None,
    dataset: str | None,
    series: int | None,
    channel: int | None,
    time: int | None,
    axes: str | None,
    shape: tuple[int, ...] | None,
    dtype: str | None,
    byte_order: str | None,
    offset: int | None,
    pattern: str | None,
    join: Literal["slices", "samples"],
    follow_links: bool,  # noqa: FBT001
    periodic: list[int],
    allow_missing: bool,  # noqa: FBT001
    setting: int | None,
    hexagonal: str | None,
    scan: str | None,
    resume: bool,  # noqa: FBT001
    overwrite: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
    **cluster: Any,
) -> None:
    """Import images into a store of one volume. With --window, import them into a store of an ensemble."""
    if byte_order is not None and dtype is None:
        msg = f"--order {byte_order} is for raw values; give their --dtype too, such as uint16"
        raise ValueError(msg)
    paths = [_source(source) for source in sources]
    inputs = input_files(paths if len(paths) > 1 else paths[0], pattern)
    target = Output.of(store, MICROSTRUCTURES, *inputs, overwrite=overwrite, resume=resume).path
    timings: dict[str, float] = {}
    if is_map(paths):
        with open_client(**cluster), timed_step("read, convert, write", timings):
            replacing = {"resume": resume, "overwrite": overwrite}
            import_map(paths[0], target, window=window, setting=setting, scan=scan, hexagonal=hexagonal, **replacing)
            found = open_store(target)
            described = found.mks.describe(fractions=True) | {"frame": found["microstructure"].attrs["frame"]}
        report({"store": str(store)} | described | {"seconds": round(sum(timings.values()), 2)}, as_json=as_json)
        return
    with (
        open_client(**cluster),
        timed_step("read, segment, write", timings),
        warnings.catch_warnings(),
    ):
        # The store records what was assumed, and the options are told below.
        warnings.simplefilter("ignore", AssumedWarning)
        import_images(
            paths if len(paths) > 1 else paths[0],
            target,
            dataset=dataset,
            series=series,
            channel=channel,
            time=time,
            axes=axes,
            shape=shape,
            dtype=None if dtype is None else data_type(dtype, byte_order),
            offset=offset,
            pattern=pattern,
            join=join,
            phases=phases,
            thresholds=thresholds,
            otsu=otsu,
            names=None if names is None else names.split(","),
            spacing=None if spacing is None else spacing if len(spacing) > 1 else spacing[0],
            units=units,
            crop=crop,
            window=window if window is None or len(window) > 1 else window[0],
            periodic_axes=periodic,
            mode="w" if overwrite else "w-",
            resume=resume,
            allow_missing=allow_missing,
            follow_links=follow_links,
        )
        described = open_store(target).mks.describe(fractions=True)
    if len(described.get("fractions", ())) > MOST_UNNAMED:
        described["values"] = f"{len(described.pop('fractions'))} labels or grey levels"
    assumed = [with_options(text) for text in described.pop("assumed", [])]
    if spacing is not None and described["units"] == UNKNOWN:
        assumed.append("the spacing has no unit; say --units, such as um")
    for text in () if as_json else assumed:
        say(f"  {text}", err=True)
    if as_json:
        described["assumed"] = assumed
    report({"store": str(store)} | described | {"seconds": round(sum(timings.values()), 2)}, as_json=as_json)


def _source(text: str) -> Path:
    """Take the path of an image, also from a URL of this machine."""
    if "://" not in text:
        return Path(text).absolute()
    location = Location.of(text)
    if not location.is_local:
        msg = f"{text} is not on this machine, and images are read from files; copy it to a file first"
        raise ValueError(msg)
    return Path(location.path)


def info(
    store: Url,
    figure: Path | None,
    overwrite: bool,  # noqa: FBT001
    fractions: bool,  # noqa: FBT001
    representative: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
) -> None:
    """Describe what a store holds: a volume, an ensemble, a model or a result."""
    options = opening()
    check_pictures(figure, None, store, overwrite=overwrite)
    location = replace(Location.of(store), follow_links=options["follow_links"])
    try:
        is_group = check_store(location).get("node_type") == "group"
    except FileNotFoundError:
        is_group = False
    if not is_group:
        msg = f"{store} is not a store; make one from images by mksdask import"
        raise ValueError(msg)
    attributes = attributes_of(location)
    if attributes.get("mksdask") == "model":
        found = _describe_model(load_model(store))
    else:
        try:
            stored = open_store(store, **options)
        except ValueError:
            found = _describe_result(location)
        else:
            found = stored.mks.describe(fractions=fractions)
    if representative:
        if found.get("kind") != "volume":
            msg = f"{store} holds no volume, which --representative needs; leave it out"
            raise ValueError(msg)
        found["representative"] = told(intervals_of(open_store(store, **options)), as_json=as_json)
    if figure is not None:
        if found.get("kind") not in ("volume", "ensemble"):
            msg = f"{store} holds no volume and no ensemble, which --figure draws; leave it out"
            raise ValueError(msg)
        save_figure(_middle(open_store(store, **options)).mks.plot(), figure)
        found["figure"] = str(figure)
    made = [*chain_of(store)] if "provenance" in attributes else []
    report(found | ({"made": made} if as_json and made else {}), as_json=as_json)
    if made and not as_json:
        say("made\n" + "\n".join(f"  {line}" for line in made))


def _middle(stored: xr.Dataset) -> xr.Dataset:
    """Select the first samples, and the middle of large ones, which is read at once."""
    few = stored.isel(sample=slice(0, MOST_SAMPLES)) if "sample" in stored.sizes else stored
    dims = [dim for dim in SPATIAL_DIMS if dim in few["microstructure"].dims]
    most = MOST_VOXELS[len(dims)]
    starts = {dim: max(0, few.sizes[dim] - most) // 2 for dim in dims}
    return few.isel({dim: slice(start, start + most) for dim, start in starts.items()}).compute()


def verify(store: Url, as_json: bool, **cluster: Any) -> None:  # noqa: FBT001
    """Read all chunks of a store, compare them with their checksums, and list what is damaged."""
    with open_client(**cluster):
        found = verify_store(store, **opening())
    report(
        {
            "store": str(store),
            "chunks": found.n_chunks,
            "unchecked": found.n_unchecked,
            "damaged": [f"{each.array or 'store'}: {each.chunk} {each.kind}" for each in found.damage],
        },
        as_json=as_json,
    )
    if not found.is_sound:
        msg = f"{store} is damaged in {len(found.damage)} places; make it again, or restore it from a copy"
        raise ValueError(msg)


def _describe_result(location: Location) -> dict[str, Any]:
    try:
        dataset = open_dataset(location, chunks={})
    except KeyError:
        # xarray does not open arrays whose axes have no names.
        shapes = {name: array.shape for name, array in sorted(open_group(location).arrays())}
        return {"kind": attributes_of(location).get("mksdask", "zarr group"), "arrays": shapes}
    statistics = [array for array in dataset.data_vars.values() if "pair" in array.dims]
    if len(statistics) == 1:
        return dict(statistics[0].mks.describe())
    variables = {str(name): array for name, array in dataset.data_vars.items()}
    found = {
        "kind": "result",
        "variables": {name: tuple(array.shape) for name, array in variables.items()},
        "dims": {str(name): size for name, size in dataset.sizes.items()},
    }
    if held := [quantity_text(array) for array in variables.values() if quantity(array).keys() & array.attrs.keys()]:
        found["holds"] = held
    others = [dim for dim in dataset.sizes if dim in dataset.coords and dim not in ("sample", *SPATIAL_DIMS)]
    found |= {str(dim): dataset[dim].values.tolist() for dim in others if dataset[dim].dtype.kind not in "iufc"}
    fields = [array.mks.describe() for array in variables.values() if set(SPATIAL_DIMS) & set(array.dims)]
    return found | {key: facts[key] for facts in fields[:1] for key in ("spacing", "units", "periodic") if key in facts}


def _describe_model(model: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": type(model).__name__, "basis": repr(model.basis), "size": tuple(model.size_)}
    if hasattr(model, "basis") and model.basis is not None:
        found["states"] = len(model.basis.states)
    if hasattr(model, "reduced_fit_data"):
        found["samples"], found["components"] = model.reduced_fit_data.shape
        found |= {"cutoff": model.cutoff, "periodic": list(model.periodic_axes_)}
        if getattr(model, "phases_", None):
            found["phases"] = list(model.phases_)
    if hasattr(model, "property_linker"):
        found["linker"] = getattr(model.property_linker_, "in_words", repr(model.property_linker_))
    return found
