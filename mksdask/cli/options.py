"""What the subcommands share: options, the cluster, progress and reports."""

from __future__ import annotations

import json
import logging
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
from distributed import Client, LocalCluster
from matplotlib.backend_bases import FigureCanvasBase

from mksdask.cli.arguments import Bytes, LocalFile
from mksdask.cli.stopping import STOP, blocked
from mksdask.compute.plans import PROCESS_BYTES
from mksdask.compute.progress import progress
from mksdask.display.cards import value_text
from mksdask.display.pictures import is_our_picture, save_picture
from mksdask.storage.atomic import Location, Url, check_apart, check_outside
from mksdask.storage.sources import recorded
from mksdask.storage.staging import check_file

# Seconds to wait for a scheduler that does not answer, for the file of a scheduler that starts, and for workers.
ANSWER, FILE, WORKERS = 10, 30, 60


# Characters that a terminal obeys, and those that turn the direction of text. Tabs and ends of lines are none of them.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def say(text: str, *, err: bool = False) -> None:
    """Print a text. A terminal does not obey it, because names in files of others may hold commands for terminals."""
    click.echo(_CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text), err=err)


def asks_for_json(arguments: Sequence[str]) -> bool:
    """Whether the arguments of the command contain --json."""
    return "--json" in arguments[: arguments.index("--") if "--" in arguments else None]


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
    with recorded(**_described()):
        yield from _clients(scheduler, workers, memory_limit)


def _described() -> dict[str, Any]:
    """Name the command, and list the options that decide its result."""
    context = click.get_current_context(silent=True)
    if context is None:
        return {}
    of_runs = ("scheduler", "workers", "memory_limit", "resume", "overwrite", "as_json", "figure", "watch")
    places = {each.name for each in context.command.params if isinstance(each, click.Argument)}
    given = {
        name: str(value)
        for name, value in context.params.items()
        if name not in (*of_runs, *places) and value is not None and value is not False
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


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --workers, --memory-limit and --scheduler, which `open_client` takes."""
    for option in (
        click.option(
            "--scheduler",
            metavar="ADDRESS",
            help="Use a running dask scheduler instead of local workers: its address, such as tcp://10.0.0.1:8786, or "
            "the file that it writes, such as scheduler.json. Its workers must see the same files.",
        ),
        click.option(
            "--memory-limit",
            type=Bytes(PROCESS_BYTES),
            default="2GiB",
            show_default=True,
            help="Memory of each local worker, such as 2GiB or 512MiB.",
        ),
        click.option(
            "--workers",
            type=click.IntRange(min=1),
            default=2,
            show_default=True,
            help="Number of local workers, such as 4. Each has one thread.",
        ),
    ):
        command = option(command)
    return command


def resume_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --resume."""
    option = click.option(
        "--resume",
        is_flag=True,
        help="Continue an earlier run that failed or was killed. If this run is killed, keep what it has done.",
    )
    decorated: Callable[..., Any] = option(command)
    return decorated


def missing_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --allow-missing, which `allows_missing` reads."""

    def keep(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        context.meta["allow_missing"] = value
        return value

    option = click.option(
        "--allow-missing",
        is_flag=True,
        expose_value=False,
        callback=keep,
        help="Take chunks that a store of another program lacks as its fill value.",
    )
    decorated: Callable[..., Any] = option(command)
    return decorated


def allows_missing() -> bool:
    """Whether the command has --allow-missing."""
    return bool(click.get_current_context().meta.get("allow_missing"))


def overwrite_option(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add --overwrite, which replaces an earlier result."""
    option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
        "--overwrite",
        is_flag=True,
        help=f"Replace {what} when the new one is complete. If the run fails or is killed, the old one stays.",
    )
    return option


def watch_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --watch, which keeps a picture of the partial result."""
    option = click.option(
        "--watch",
        type=LocalFile(),
        help="Draw the partial result into a file, such as live.png, while the command runs.",
    )
    decorated: Callable[..., Any] = option(command)
    return decorated


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --json, which prints the report for scripts."""
    option = click.option(
        "--json",
        "as_json",
        is_flag=True,
        help="Print only the report, as one line of JSON. An error is one line of JSON on the standard error stream.",
    )
    decorated: Callable[..., Any] = option(command)
    return decorated


def check_pictures(
    figure: Path | None, watch: Path | None, *others: Url, overwrite: bool, resume: bool = False
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
    for option, picture in (("--figure", figure), ("--watch", watch)):
        if picture is None:
            continue
        if picture.suffix.removeprefix(".").lower() not in formats:
            msg = f"{option} {picture} must end with one of {', '.join(formats)}; choose another name"
            raise ValueError(msg)
        if picture.exists() and not (overwrite or (resume and is_our_picture(picture))):
            msg = f"{picture} exists; choose another output, or pass --overwrite"
            raise FileExistsError(msg)
        check_apart(picture, *others, *((figure,) if option == "--watch" and figure is not None else ()))
        check_outside(Location.of(picture))
        check_file(picture)


def save_figure(figure: Any, path: Path) -> None:
    """Save a figure of matplotlib completely or not at all. Make its folder if needed, and follow links."""
    target = Path(Location.of(path).path)
    target.parent.mkdir(parents=True, exist_ok=True)
    save_picture(figure, target)


def report(result: dict[str, Any], *, as_json: bool) -> None:
    """Print a result as one line for each entry, or as JSON."""
    if as_json:
        say(json.dumps(_known(result), default=_plain, ensure_ascii=False))
        return
    width = max(map(len, result), default=0)
    for name, value in result.items():
        say(f"{name:<{width}}  {value_text(value)}")


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
