"""The part of `mksdask import` that imports EBSD maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from mksdask.importers import import_ebsd
from mksdask.importers.ebsd.files import is_ebsd

# Options of the command that say something of maps; the others are refused.
_OF_MAPS = {"sources", "store", "window", "setting", "scan", "hexagonal", "resume", "overwrite", "as_json"}
_OF_MAPS |= {"workers", "memory_limit", "scheduler"}


def is_map(paths: list[Path]) -> bool:
    """Whether the command is to import an EBSD map. Check that the options agree with it.

    Raises
    ------
    UsageError
        If an option is given that does not apply.
    """
    context = click.get_current_context()
    given = {
        str(parameter.name): parameter.opts[-1]
        for parameter in context.command.params
        if context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
    }
    # With --dataset, an array of an HDF5 file is wanted, such as an image of the electron microscope.
    found = len(paths) == 1 and "dataset" not in given and is_ebsd(paths[0])
    wrong = [
        given[name] for name in given if (name not in _OF_MAPS if found else name in ("setting", "scan", "hexagonal"))
    ]
    if wrong:
        what = "an EBSD map" if found else "no EBSD map"
        msg = f"{wrong[0]} does not apply to {paths[0].name}, which is {what}; leave it out"
        raise click.UsageError(msg)
    return found


def import_map(
    path: Path,
    target: Any,
    *,
    window: tuple[int, ...] | None,
    setting: int | None,
    scan: str | None,
    hexagonal: Any,
    resume: bool,
    overwrite: bool,
) -> None:
    """Import an EBSD map into a store."""
    sizes = window if window is None or len(window) > 1 else window[0]
    mode = "w" if overwrite else "w-"
    import_ebsd(path, target, window=sizes, setting=setting, scan=scan, hexagonal=hexagonal, mode=mode, resume=resume)
