"""What the subcommands share: types of options, the cluster, progress and reports."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
from distributed import Client, LocalCluster
from matplotlib.backend_bases import FigureCanvasBase

from mksdask.compute.plans import bytes_argument
from mksdask.compute.progress import progress
from mksdask.display.cards import value_text
from mksdask.display.pictures import is_our_picture, save_picture
from mksdask.storage.atomic import Location, check_apart, check_file, check_outside


@contextmanager
def timed_step(title: str, timings: dict[str, float], *, err: bool = True) -> Iterator[None]:
    """Show the progress of a step of a command, and then print the time that it took."""
    start = time.perf_counter()
    try:
        with progress(title):
            yield
    finally:
        timings[title] = time.perf_counter() - start
    click.echo(f"  {title:<34} {timings[title]:7.1f} s", err=err)


class Size(click.ParamType[tuple[int, ...]]):
    """Voxels along each axis: 24x24x24, 64x64, or one number for a cube."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Parse, or fail with how to write it."""
        if isinstance(value, tuple):
            return value
        try:
            size = tuple(int(n) for n in str(value).lower().split("x"))
        except ValueError:
            self.fail(f"{value!r} is not a size; write 24x24x24, 64x64, or 24 for a cube", param, ctx)
        size = size * 3 if len(size) == 1 else size
        if len(size) not in (2, 3) or min(size) < 4:
            self.fail(f"{value!r} must have 2 or 3 axes of at least 4 voxels; write 24x24x24 or 64x64", param, ctx)
        return size


class Bytes(click.ParamType[int]):
    """A number of bytes: 2GiB, 512MiB."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse, or fail with how to write it."""
        try:
            return bytes_argument(value)
        except ValueError:
            self.fail(f"{value!r} is not an amount of memory; write 2GiB or 512MiB", param, ctx)


@contextmanager
def open_client(scheduler: str | None, workers: int, memory_limit: int) -> Iterator[Client]:
    """Yield a client of a running scheduler, or of a local cluster that is closed at the end."""
    if scheduler is not None:
        try:
            client = Client(scheduler, timeout="10s")
        except TypeError as error:
            msg = (
                f"the scheduler at {scheduler} asks for certificates; name their files in the configuration of dask, "
                "under distributed.comm.tls"
            )
            raise click.ClickException(msg) from error
        except (OSError, ValueError) as error:
            msg = f"no dask scheduler answers at {scheduler} ({error}); start one with `dask scheduler`"
            raise click.ClickException(msg) from error
        with client:
            yield client
        return
    cluster = LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        memory_limit=memory_limit,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        # The command prints an error once, in one line, so the workers do not log it too.
        silence_logs=logging.CRITICAL,
    )
    with cluster, Client(cluster) as client:
        yield client


class Pairs(click.ParamType[list[tuple[int, int]]]):
    """Pairs of local states: 0-0,0-1."""

    name = "pairs"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[tuple[int, int]]:
        """Parse, or fail with how to write it."""
        if isinstance(value, list):
            return value
        try:
            pairs = [tuple(int(state) for state in pair.split("-")) for pair in str(value).split(",")]
        except ValueError:
            pairs = [()]
        if any(len(pair) != 2 for pair in pairs):
            self.fail(f"{value!r} is not a list of pairs of local states; write 0-0,0-1", param, ctx)
        return [(pair[0], pair[1]) for pair in pairs]


class Axes(click.ParamType[list[int]]):
    """Names of axes, such as x,y, or none."""

    name = "axes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        """Parse, or fail with how to write it."""
        if isinstance(value, list):
            return value
        names = [] if value in ("", "none") else str(value).split(",")
        if not set(names) <= set("xyz"):
            self.fail(f"{value!r} does not name axes; write x,y,z, or none", param, ctx)
        return ["xyz".index(name) for name in names]


class Numbers(click.ParamType[tuple[float, ...]]):
    """One or more numbers: 1.5 or 1.5,2."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Parse, or fail with how to write it."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(number) for number in str(value).split(","))
        except ValueError:
            self.fail(
                f"{value!r} is not a number, and not numbers with commas between them; write 1.5 or 1.5,2", param, ctx
            )


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --workers, --memory-limit and --scheduler, which `open_client` takes."""
    for option in (
        click.option(
            "--scheduler", metavar="ADDRESS", help="Use a running dask scheduler. Its workers must see the same files."
        ),
        click.option(
            "--memory-limit", type=Bytes(), default="2GiB", show_default=True, help="Memory of each local worker."
        ),
        click.option(
            "--workers",
            type=click.IntRange(min=1),
            default=2,
            show_default=True,
            help="Number of workers of the local cluster. Each has one thread.",
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


def watch_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --watch, which keeps a picture of the partial result."""
    option = click.option(
        "--watch",
        type=click.Path(path_type=Path),
        help="Draw the partial result into a file, such as live.png, while the command runs.",
    )
    decorated: Callable[..., Any] = option(command)
    return decorated


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --json, which prints the report for scripts."""
    option = click.option("--json", "as_json", is_flag=True, help="Print only the report, as JSON.")
    decorated: Callable[..., Any] = option(command)
    return decorated


def check_pictures(
    figure: Path | None, watch: Path | None, *others: Path, overwrite: bool, resume: bool = False
) -> None:
    """Check before the computation that pictures can be drawn, and that they replace nothing.

    Raises
    ------
    FileExistsError
        If there is a file and `overwrite` is not set, or something other than a file. With `resume`, a picture of this
        package may be there.
    ValueError
        If there is no such format of figures (the message lists the formats); if a picture is an input or the
        output; or if it lies in a store.
    """
    formats = sorted(FigureCanvasBase.get_supported_filetypes())
    if figure is not None and figure.suffix.removeprefix(".").lower() not in formats:
        msg = f"--figure {figure} must end with one of {', '.join(formats)}; choose another name"
        raise ValueError(msg)
    for picture in (figure, watch):
        if picture is not None:
            if picture.exists() and not (overwrite or (resume and is_our_picture(picture))):
                msg = f"{picture} exists; choose another output, or pass --overwrite"
                raise FileExistsError(msg)
            check_apart(picture, *others)
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
        click.echo(json.dumps(result, default=_plain, ensure_ascii=False))
        return
    width = max(map(len, result), default=0)
    for name, value in result.items():
        click.echo(f"{name:<{width}}  {value_text(value)}")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return str(value)
