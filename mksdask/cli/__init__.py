"""The `mksdask` command. Each subcommand parses its options, makes the call of Python, and prints the result."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import sys
import threading
import warnings
from asyncio import CancelledError
from collections.abc import Sequence
from concurrent import futures
from typing import Any

import click
from click.shell_completion import get_completion_class

from mksdask.cli.arguments import KEYS
from mksdask.cli.commands import COMMANDS
from mksdask.cli.declaring import Group
from mksdask.cli.printing import asks_for_json, say, with_options
from mksdask.cli.stopping import PATIENCE, Stop, stoppable
from mksdask.startup import stopped_by

# Errors whose message says what was wrong with an input. The message of any other error needs its name.
_TOLD = (OSError, ValueError, TypeError, ImportError)


class _DoesNotFit(click.ClickException):
    exit_code = 3


class _Main(Group):
    """Prints an error in one line, and ends with an exit code that says what kind of error it was."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt as error:
            raise click.Abort from error
        except (Exception, CancelledError) as error:
            if ctx.find_root().params.get("traceback"):
                raise
            failure = _DoesNotFit if _is(error, "DoesNotFitError") else click.ClickException
            raise failure(with_options(_message_of(error), self._options(ctx))) from error

    def _options(self, ctx: click.Context) -> list[str]:
        """List the options of the command that was called."""
        called: click.Command | None = self
        for word in ctx.meta.get("line", ()):
            if isinstance(called, click.Group):
                called = called.commands.get(word)
        return [option for parameter in (called.params if called else ()) for option in parameter.opts]

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        # What is written records the line, and messages say how to go on.
        ctx.find_root().meta.setdefault("line", list(args))
        return super().resolve_command(ctx, args)

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        try:
            return super().make_context(*args, **options)
        except KeyboardInterrupt as error:
            raise click.Abort from error

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: FBT001, FBT002
        windows_expand_args: bool = True,  # noqa: FBT001, FBT002
        **extra: Any,
    ) -> Any:
        options = {"complete_var": complete_var, "windows_expand_args": windows_expand_args, **extra}
        if not standalone_mode:
            return super().main(args, prog_name, standalone_mode=False, **options)
        given = list(sys.argv[1:] if args is None else args)
        as_json = asks_for_json(given)
        with warnings.catch_warnings(), stoppable() as stop:
            warnings.showwarning = _Warn(stop, as_json)
            try:
                # `--help` and `--version` return their exit code, and commands return nothing.
                code = super().main(args, prog_name, standalone_mode=False, **options) or 0
            except click.ClickException as error:
                code = _report_error(error, stop, given, as_json=as_json)
            except click.Abort:
                code = _report_error(click.ClickException("aborted"), stop, given, as_json=as_json)
            if stop.number is not None and args is None:
                stop.is_last = True
                # Python would tell of tasks that were waiting.
                logging.disable(logging.CRITICAL)
                _end_soon(code)
                # Python ends by SIGINT, whatever the code, if a KeyboardInterrupt has passed through text that was
                # executed, as imports of some extensions do. It forgets this when it executes another text.
                exec("")
        sys.exit(code)


def _is(error: BaseException, name: str) -> bool:
    """Whether an error is of a class that is known by its name alone, because to import it takes a second."""
    return name in {each.__name__ for each in type(error).__mro__}


def _message_of(error: BaseException) -> str:
    """Say in one line what went wrong."""
    text = " ".join(str(error).split())
    if isinstance(error, CancelledError | futures.CancelledError) or _is(error, "CommClosedError"):
        context = click.get_current_context(silent=True)
        is_kept = context is not None and "--resume" in context.find_root().meta.get("line", ())
        return "the scheduler of dask ended, or the connection to it was lost; " + (
            "what is done is kept, and the same call with --resume continues with it"
            if is_kept
            else "nothing is kept; call again with --resume, which keeps what is done"
        )
    if _is(error, "KilledWorker"):
        return (
            "workers died several times in the same task, most likely because they ran out of memory; give each more "
            f"by --memory-limit, such as 4GiB, or use fewer --workers ({text})"
        )
    if isinstance(error, MemoryError):
        return f"there is not enough memory ({text or 'MemoryError'}); use a smaller input, or a larger machine"
    if type(error).__name__ == "NoCredentialsError":
        return text + KEYS
    if isinstance(error, _TOLD):
        return text or type(error).__name__
    return f"{type(error).__name__}: {text}; mksdask --traceback shows the place in the code"


def _report_error(error: click.ClickException, stop: Stop, given: list[str], *, as_json: bool) -> int:
    """Print an error on the standard error stream, and return the exit code."""
    if stop.number is not None:
        more = "; what is done is kept, and the same call continues with it" if "--resume" in given else ""
        click.echo(stopped_by(stop.number, more, as_json=as_json), err=True)
        return 128 + stop.number
    if as_json:
        text = " ".join(error.format_message().split())
        say(json.dumps({"error": text, "exit_code": error.exit_code}, ensure_ascii=False), err=True)
    elif isinstance(error, click.UsageError):
        # It shows how to use the command too, and holds only what the user typed.
        error.show()
    else:
        say(f"Error: {error.format_message()}", err=True)
    return error.exit_code


def _end_soon(code: int) -> None:
    """End the other processes of the command, and also this one if its threads do not let it end."""
    for child in multiprocessing.active_children():
        child.kill()
    watchdog = threading.Timer(PATIENCE, os._exit, [code])
    watchdog.daemon = True
    watchdog.start()


class _Warn:
    """Prints a warning in one line, without the place in the code."""

    def __init__(self, stop: Stop, as_json: bool) -> None:  # noqa: FBT001
        self.stop, self.as_json = stop, as_json

    def __call__(self, message: Warning | str, *place: Any, **more: Any) -> None:
        if self.stop.number is not None:
            # Python warns of what a signal cut off.
            return
        text = with_options(" ".join(str(message).split()))
        say(json.dumps({"warning": text}, ensure_ascii=False) if self.as_json else f"Warning: {text}", err=True)


@click.group(cls=_Main, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mksdask")
@click.option("--traceback", is_flag=True, help="Show the place in the Python code where an error occurred.")
def main(traceback: bool) -> None:  # noqa: FBT001
    """Materials Knowledge Systems on dask.

    From images to statistics and linkages:

    \b
      mksdask import scan.tif rock.zarr --phases 0:pore,255:grain --spacing 3 --units um
      mksdask info rock.zarr
      mksdask stats rock.zarr S2.zarr --cutoff 40 --figure S2.png
      mksdask export rock.zarr rock.vti

    STORE, MODEL and OUT of the commands are paths, or URLs that fsspec knows, such as s3://bucket/rock.zarr, which
    needs the package s3fs. An output is written beside its place, and moved there when it is complete.

    Exit codes: 0 if all went well, 1 if an input or an output is wrong, 2 if the command line is wrong, 3 if the
    computation does not fit into the memory of the workers, 130 if Ctrl-C stopped it, 143 if it was terminated. With
    --json, an error is one line of JSON on the standard error stream: {"error": "...", "exit_code": 1}.
    """


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script that completes the command in a shell.

    Example: mksdask completion bash >> ~/.bash_completion
    """
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(main, {}, "mksdask", "_MKSDASK_COMPLETE").source())


for command in COMMANDS:
    main.add_command(command)
