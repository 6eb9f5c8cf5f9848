"""What the subcommands share: options, the cluster, progress and reports."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
from distributed import Client, LocalCluster
from matplotlib.backend_bases import FigureCanvasBase

from mksdask.cli.arguments import written
from mksdask.cli.declaring import OPENING
from mksdask.cli.printing import say
from mksdask.cli.stopping import STOP, blocked
from mksdask.compute.plans import size_text
from mksdask.compute.progress import progress
from mksdask.display.cards import printed_unit, value_text
from mksdask.display.pictures import is_our_picture, save_picture
from mksdask.storage.atomic import Location, Url, check_apart, check_outside
from mksdask.storage.sources import recorded
from mksdask.storage.staging import check_file

# Entries of results that hold entries of their own.
_NESTED = ("phases", "test", "prediction", "field")
# Seconds to wait for a scheduler that does not answer, for the file of a scheduler that starts, and for workers.
ANSWER, FILE, WORKERS = 10, 30, 60


@contextmanager
def timed_step(title: str, timings: dict[str, float], *, err: bool = True) -> Iterator[None]:
    """Show the progress of a step of a command, and then print the time that it took. With --json, print nothing."""
    start = time.perf_counter()
    try:
        with progress(title):
            yield
    finally:
        timings[title] = time.perf_counter() - start
    context = click.get_current_context(silent=True)
    if context is None or not context.params.get("as_json"):
        say(f"  {title:<34} {timings[title]:7.1f} s", err=err)


@contextmanager
def open_client(scheduler: str | None, workers: int, memory_limit: int) -> Iterator[Client]:
    """Yield a client of a running scheduler, or of a local cluster that is closed at the end.

    What is written meanwhile records the command and its options.
    """
    with recorded(**described_call()):
        yield from _clients(scheduler, workers, memory_limit)


def described_call() -> dict[str, Any]:
    """Name the command, and list the options that decide its result."""
    context = click.get_current_context(silent=True)
    if context is None:
        return {}
    of_runs = ("scheduler", "workers", "memory_limit", "resume", "overwrite", "as_json", "figure", "radial", "watch")
    given = {
        each.opts[-1].removeprefix("--"): "" if value is True else written(value, each.type)
        for each in context.command.params
        if isinstance(each, click.Option) and each.name not in of_runs
        if (value := context.params.get(str(each.name))) is not None and value is not False
    }
    return {"call": context.command_path, "parameters": given}


def _clients(scheduler: str | None, workers: int, memory_limit: int) -> Iterator[Client]:
    if scheduler is not None:
        with _connected(scheduler) as client:
            yield client
        return
    # The command prints an error once, in one line, so that the cluster does not log it too.
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        STOP.defer()
        with blocked():
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                memory_limit=memory_limit,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
            )
            client = Client(cluster)
        with cluster, client, STOP.ending(cluster):
            yield client
    finally:
        if STOP.number is None:
            logging.disable(disabled)


def _connected(scheduler: str) -> Client:
    """Connect to a running scheduler that has workers."""
    address = scheduler
    if "://" not in scheduler and scheduler.endswith(".json"):
        address = _address_in(Path(scheduler))
    try:
        client = Client(address, timeout=ANSWER)
    except TypeError as error:
        msg = (
            f"the scheduler at {address} asks for certificates; name their files in the configuration of dask, under "
            "distributed.comm.tls"
        )
        raise click.ClickException(msg) from error
    except (OSError, ValueError) as error:
        msg = f"no dask scheduler answers at {address} ({error}); start one with `dask scheduler`"
        raise click.ClickException(msg) from error
    try:
        client.wait_for_workers(1, timeout=WORKERS)
    except TimeoutError as error:
        client.close()
        msg = f"the dask scheduler at {address} has no workers; start some with `dask worker {scheduler}`"
        raise click.ClickException(msg) from error
    return client


def _address_in(path: Path) -> str:
    """Read the address of a scheduler from the file that it writes when it starts."""
    until = time.monotonic() + FILE
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.1)
    try:
        return str(json.loads(path.read_text())["address"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = "does not exist" if not path.exists() else "does not hold the address of a scheduler"
        msg = f"--scheduler {path} {what}; start one with `dask scheduler --scheduler-file {path}`"
        raise click.ClickException(msg) from error


def opening() -> dict[str, bool]:
    """Read how the command opens stores: the arguments of `open_store` that its options set."""
    found: dict[str, bool] = click.get_current_context().meta.get(OPENING, {})
    return found


def check_pictures(
    figure: Path | None,
    watch: Path | None,
    *others: Url,
    radial: Path | None = None,
    overwrite: bool,
    resume: bool = False,
) -> None:
    """Check before the computation that pictures can be drawn, and that they replace nothing.

    Raises
    ------
    FileExistsError
        If there is a file and `overwrite` is not set, or something other than a file. With `resume`, a picture of this
        package may be there.
    ValueError
        If there is no such format of figures (the message lists the formats); if a picture is an input, the output or
        the other picture; or if it lies in a store.
    """
    formats = sorted(FigureCanvasBase.get_supported_filetypes())
    named = {"--figure": figure, "--radial": radial, "--watch": watch}
    checked: list[Path] = []
    for option, picture in named.items():
        if picture is None:
            continue
        if picture.suffix.removeprefix(".").lower() not in formats:
            msg = f"{option} {picture} must end with one of {', '.join(formats)}; choose another name"
            raise ValueError(msg)
        if picture.exists() and not (overwrite or (resume and is_our_picture(picture))):
            msg = f"{picture} exists; choose another output, or pass --overwrite"
            raise FileExistsError(msg)
        check_apart(picture, *others, *checked)
        checked.append(picture)
        check_outside(Location.of(picture))
        check_file(picture)


def save_figure(figure: Any, path: Path) -> None:
    """Save a figure of matplotlib completely or not at all. Make its folder if needed, and follow links."""
    target = Path(Location.of(path).path)
    target.parent.mkdir(parents=True, exist_ok=True)
    save_picture(figure, target)


def report(result: Mapping[str, Any], *, as_json: bool) -> None:
    """Print a result as one line for each entry, or as JSON.

    The entry ``units`` holds the unit of each entry that has one, or of ``spacing`` alone. As text, units stand behind
    their values.
    """
    if as_json:
        say(json.dumps(_known(result), default=_plain, ensure_ascii=False))
        return
    units = result.get("units", {})
    lines = [*_lines(result, {"spacing": units} if isinstance(units, str) else units)]
    width = max((len(name) for name, _ in lines), default=0)
    for name, text in lines:
        say(f"{name:<{width}}  {text}")


def _lines(result: Mapping[str, Any], units: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Write each entry as a name and a text. Entries of an entry are named behind it, such as "pore: fraction"."""
    for name, value in result.items():
        title = {"r2": "R²", "r2_by_order": "R² by order", "r2_by_property": "R² by property"}.get(
            name, name.replace("_", " ")
        )
        if name in _NESTED and isinstance(value, Mapping):
            groups = value if all(isinstance(each, Mapping) for each in value.values()) else {title: value}
            for group, entries in groups.items():
                yield from ((f"{group}: {entry}", text) for entry, text in _lines(entries, units))
        elif name == "bytes":
            yield title, size_text(value)
        elif name != "units":
            unit = {"seconds": "s"}.get(name) or printed_unit(units.get(name, ""))
            yield title, f"{value_text(value)} {unit}".rstrip()


def _known(value: Any) -> Any:
    """Replace numbers that JSON does not have, such as NaN, by null."""
    if isinstance(value, dict):
        return {name: _known(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_known(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return str(value)
