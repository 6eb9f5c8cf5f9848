"""The `mksdask` command. Each subcommand parses its options, makes the call of Python, and prints the result."""

from __future__ import annotations

from typing import Any

import click
from click.shell_completion import get_completion_class

from mksdask.cli.analysis import plan_group, stats
from mksdask.cli.demo import demo
from mksdask.cli.linkage import fit, localize, predict
from mksdask.cli.stores import import_command, info, verify
from mksdask.compute.plans import DoesNotFitError


class _DoesNotFit(click.ClickException):
    exit_code = 3


class _Group(click.Group):
    """Prints an error of bad input in one line, and ends with an exit code that says what kind of error it was."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (OSError, ValueError, TypeError) as error:
            if ctx.find_root().params.get("traceback"):
                raise
            failure = _DoesNotFit if isinstance(error, DoesNotFitError) else click.ClickException
            raise failure(str(error) or repr(error)) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mksdask")
@click.option("--traceback", is_flag=True, help="Show the place in the Python code where an error occurred.")
def main(traceback: bool) -> None:  # noqa: FBT001
    """Materials Knowledge Systems on dask.

    From images to statistics and linkages:

    \b
      mksdask import scan.tif rock.zarr --phases 0:pore,255:grain --spacing 3 --units um
      mksdask info rock.zarr
      mksdask stats rock.zarr S2.zarr --cutoff 40 --figure S2.png

    Exit codes: 0 if all went well, 1 if an input or an output is wrong, 2 if the command line is wrong, 3 if the
    computation does not fit into the memory of the workers.
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


for command in (demo, import_command, info, verify, stats, fit, predict, localize, plan_group):
    main.add_command(command)
