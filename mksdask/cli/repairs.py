"""The command `mksdask repair`: recipes of results, and damaged blocks that are computed again from them.

A recipe is what a command records in its result: its operation, and the inputs and parameters of it. It is read from a
file, so it is checked here before anything is opened, and nothing of it is executed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import xarray as xr

from mksdask.cli.analysis import statistics_call
from mksdask.cli.linkage import field_of, predictions_of
from mksdask.cli.options import open_client, report
from mksdask.stats import correlate
from mksdask.stats.all_lags import PASSES
from mksdask.storage.atomic import RESULTS, SCRATCH, Location, Url, attributes_of
from mksdask.storage.errors import DamageError
from mksdask.storage.outputs import Output
from mksdask.storage.repairs import damage_of, put_back, repair_blocks
from mksdask.storage.results import Result
from mksdask.storage.sources import recorded
from mksdask.storage.tables import write_table


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= 3 and all(map(_is_count, value))


def _are_pairs(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _or_none(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


# What each recipe holds, and the check of it.
_STATISTICS = {
    "store": _is_text,
    "states": _or_none(_is_count),
    "pairs": _or_none(_are_pairs),
    "cutoff": _or_none(lambda value: _is_count(value) or _are_counts(value)),
    "periodic": _or_none(_are_counts),
    "memory_limit": _is_count,
}
_RECIPES: Mapping[str, Mapping[str, Callable[[Any], bool]]] = {
    "stats": _STATISTICS,
    "predict": {"model": _is_text, "store": _is_text, "std": _is_flag},
    "localize": {"model": _is_text, "store": _is_text},
}


def recipe_in(store: Url) -> dict[str, Any]:
    """Read the recipe of a result, check it, and refuse inputs that are not what they were."""
    made = attributes_of(Location.of(store)).get("provenance")
    made = made if isinstance(made, dict) else {}
    recipe, inputs = made.get("recipe"), made.get("inputs")
    if not isinstance(recipe, dict) or not isinstance(inputs, dict):
        msg = (
            f"{store} does not say how it was computed, as results of mksdask stats, predict and localize do; make it "
            "again by the call that wrote it, or repair it in Python by mksdask.repair"
        )
        raise ValueError(msg)
    fields = _RECIPES.get(str(recipe.get("operation")), {})
    wrong = [name for name, is_right in fields.items() if name not in recipe or not is_right(recipe[name])]
    if not fields or wrong or recipe.keys() - {"operation", *fields}:
        what = f"holds {wrong[0]}={recipe.get(wrong[0])!r}" if wrong else f"is {sorted(map(str, recipe))}"
        msg = f"the recipe in {store} {what}, which no command of mksdask has recorded; make the result again"
        raise ValueError(msg)
    for role in {"store", "model"} & fields.keys():
        place = recipe[role]
        if place not in inputs or not Location.of(place).exists() or Location.of(place).stamp() != inputs[place]:
            msg = (
                f"{store} was made of the {role} {place}, which was changed, replaced or removed since then, so its "
                "blocks cannot be computed again; restore that, or make the result again"
            )
            raise ValueError(msg)
    return {name: recipe[name] for name in ("operation", *fields)}


def _repair(result: Url, damage: tuple[DamageError, ...], operation: str, **given: Any) -> None:
    """Compute what is damaged from the inputs of a recipe, and put it back."""
    if operation == "stats":
        _repair_statistics(result, damage, **given)
    elif operation == "localize":
        # The graph of the fields does not show the model.
        with recorded(given["model"]):
            _repair_lazy(result, damage, field_of(given["model"], given["store"]))
    else:
        values = predictions_of(given["model"], given["store"], std=given["std"])
        with tempfile.TemporaryDirectory(prefix="mksdask-") as folder:
            new = f"{folder}/new.zarr"
            write_table(values, new, overwrite=False)
            put_back(Location.of(result), Location.of(new), damage)


def _repair_statistics(result: Url, damage: tuple[DamageError, ...], *, memory_limit: int, **which: Any) -> None:
    operation, arguments, options = statistics_call(**which)
    if operation is correlate:
        _repair_lazy(result, damage, operation(*arguments, **options).rename("correlations"))
        return
    output = Output.of(result, RESULTS, which["store"], overwrite=False, resume=True)
    with output.intermediate("sums", SCRATCH, resume=False, beside=PASSES) as sums:
        found = operation(*arguments, **options, memory_limit=memory_limit, scratch=sums)
        _repair_lazy(result, damage, found.rename("correlations"), is_from_scratch=True)


def _repair_lazy(
    result: Url, damage: tuple[DamageError, ...], lazy: xr.DataArray, *, is_from_scratch: bool = False
) -> None:
    """Compute damaged blocks of a lazy array, if the result is one of it."""
    blocks = Result.of(lazy, result, "result").blocks
    if is_from_scratch:
        # The name of what is read from scratch is another one for each copy in scratch.
        known = attributes_of(blocks.location).get("fingerprint", {}).get("arrays", {})
        variables = {
            name: replace(variable, computation=str(known.get(name, {}).get("computation")))
            for name, variable in blocks.variables.items()
        }
        blocks = replace(blocks, variables=variables)
    blocks.open()
    repair_blocks(blocks, damage)


def repair(store: Url, as_json: bool, **cluster: Any) -> None:  # noqa: FBT001
    """Compute damaged blocks of a result again, from the inputs that it names, and write them into its store."""
    with open_client(**cluster):
        damage = damage_of(store)
        if damage:
            _repair(store, damage, **recipe_in(store))
    repaired = [f"{each.array}: {each.chunk} {each.kind}" for each in damage]
    report({"store": str(store), "repaired": repaired}, as_json=as_json)
