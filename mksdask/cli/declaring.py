"""How commands are declared: what they do is imported when they are called, so that help and completion are fast."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable
from importlib import import_module
from typing import Any

import click

from mksdask.cli.arguments import Axes, Bytes, Cutoff, LocalFile, Pairs, Place

# Where the context of a command keeps how stores are opened.
OPENING = "mksdask.opening"

Declared = Callable[..., Any]

# Under which heading help lists an option. A name means the same in each command.
_HEADINGS = {
    "Phases": "phases thresholds otsu names states",
    "Geometry": "spacing units crop window axes shape periodic",
    "What is read": "dataset series channel time dtype byte_order offset pattern join follow_links scan setting"
    " hexagonal variable select allow_missing",
    "Statistics": "pairs cutoff fractions representative",
    "Model": "response components linker degree order hold_out std",
    "Samples": "samples size seed",
    "Output": "out figure radial watch title resume overwrite as_json",
    "Workers": "workers memory_limit scheduler",
}
_HEADING_OF = {name: heading for heading, names in _HEADINGS.items() for name in names.split()}
# The same for the commands.
_CHAPTERS = {
    "Begin": "demo import info",
    "Compute": "stats fit predict localize plan",
    "Pass on, and keep": "report export verify repair",
}


class Command(click.Command):
    """Lists its options under headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, one section for each heading."""
        sections = defaultdict(list)
        for parameter in self.get_params(ctx):
            # Newer versions of click give records of arguments too, which the texts of the commands explain.
            is_option = isinstance(parameter, click.Option)
            if is_option and (record := parameter.get_help_record(ctx)) is not None:
                sections[_HEADING_OF.get(str(parameter.name), "Options")].append(record)
        for heading in (*_HEADINGS, "Options"):
            if heading in sections:
                with formatter.section(heading):
                    formatter.write_dl(sections[heading])


class Group(click.Group):
    """Lists its commands in chapters, each with its whole first sentence."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, one section for each chapter."""
        summaries = {name: _first_sentence(command.help or "") for name, command in self.commands.items()}
        listed = [name for names in _CHAPTERS.values() for name in names.split()]
        chapters = _CHAPTERS | {"Commands": " ".join(sorted(set(summaries) - set(listed)))}
        for chapter, names in chapters.items():
            if found := [(name, summaries[name]) for name in names.split() if name in summaries]:
                with formatter.section(chapter):
                    formatter.write_dl(found)


def _first_sentence(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split()).partition(". ")[0].rstrip(".")


def command(target: str, name: str | None = None) -> Callable[[Declared], Command]:
    """Make a command of a declaration. `target` names the module and its function, such as "stores:info"."""
    module, _, function = target.partition(":")

    def declare(declared: Declared) -> Command:
        @functools.wraps(declared)
        def call(**given: Any) -> Any:
            return getattr(import_module(f"mksdask.cli.{module}"), function)(**given)

        return click.command(name or function, cls=Command)(call)

    return declare


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
            type=Bytes(for_worker=True),
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


def links_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --follow-links, which `opening` reads."""
    option = click.option(
        "--follow-links",
        is_flag=True,
        expose_value=False,
        callback=_keep,
        help="Follow links in the store out of it, if you trust its author.",
    )
    decorated: Callable[..., Any] = option(command)
    return decorated


def opening_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how a store is opened, which `opening` reads."""
    option = click.option(
        "--allow-missing",
        is_flag=True,
        expose_value=False,
        callback=_keep,
        help="Take chunks that a store of another program lacks as its fill value.",
    )
    decorated: Callable[..., Any] = option(links_option(command))
    return decorated


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    context.meta.setdefault(OPENING, {})[parameter.name] = value
    return value


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


def representative_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --representative, which tells how exact volume fractions are."""
    option = click.option(
        "--representative",
        is_flag=True,
        help="Tell how exact the volume fractions of a volume are, and how large a volume would be more exact.",
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


def statistics_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which statistics of which store to compute."""
    for option in (
        opening_options,
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
            help="Pairs of phases by their names or numbers, such as pore-grain or 0-0,0-1. Default: the first phase "
            "with each phase.",
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


def map_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --setting, --scan and --hexagonal, which `import_map` takes."""
    for option in (
        click.option(
            "--hexagonal",
            type=click.Choice(["nearest"]),
            help="Read a hexagonal grid of EDAX: each second row is moved by half a step.",
        ),
        click.option("--scan", help="Name of the EBSD scan, such as 'Scan 1', if the file holds several."),
        click.option(
            "--setting",
            type=click.IntRange(1, 4),
            help="Coordinate system of OIM Analysis, such as 2, for maps of EDAX and orix. Default: as the file says.",
        ),
    ):
        command = option(command)
    return command


memory_option = click.option(
    "--memory-limit",
    type=Bytes(),
    default="2GiB",
    show_default=True,
    help="Memory of each worker, such as 2GiB or 512MiB.",
)
