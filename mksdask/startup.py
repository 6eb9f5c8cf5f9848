"""What ``import mksdask`` does: it handles signals of the command, and waits for the import of dask's and xarray's.

Python takes seconds to import what the command needs, and Ctrl-C may come then. Without this module, which is imported
first, Python would print the place in its imports where it was stopped.

Other packages are not imported, but waited for: the accessor `.mks` is registered once xarray is imported, and the
defaults of workers are set once distributed is. In the same way, partial results learn how to draw themselves, so that
workers do without matplotlib, which would take tens of megabytes there.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from importlib import import_module
from pathlib import PurePath
from types import ModuleType
from typing import Any

import wrapt


def is_command(words: list[str]) -> bool:
    """Whether the words that started a process are those of the command, and not of a program that imports us."""
    return words[1:3] == ["-m", "mksdask"] or (len(words) > 1 and PurePath(words[1]).stem == "mksdask")


def stopped_by(number: int, more: str = "", *, as_json: bool) -> str:
    """Say in one line which signal stopped the command."""
    text = f"stopped by {signal.Signals(number).name}{more}"
    return json.dumps({"error": text, "exit_code": 128 + number}) if as_json else f"Error: {text}"


def _stop(number: int, frame: Any) -> None:
    os.write(2, f"{stopped_by(number, as_json='--json' in sys.argv)}\n".encode())
    # Nothing has begun that would have to be cleaned up.
    os._exit(128 + number)


if is_command(sys.orig_argv):
    for _number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(_number) is not signal.SIG_IGN:
            signal.signal(_number, _stop)


def _mks(labelled: Any) -> Any:
    """Make the accessor of labelled data."""
    return import_module("mksdask.accessor").MKSAccessor(labelled)


@wrapt.when_imported("xarray")
def _register_accessor(xarray: ModuleType) -> None:
    xarray.register_dataset_accessor("mks")(_mks)
    xarray.register_dataarray_accessor("mks")(_mks)


@wrapt.when_imported("distributed")
def _configure_workers(_: ModuleType) -> None:
    import_module("mksdask.compute.workers").configure_workers()


@wrapt.when_imported("mksdask.compute.watching")
def _draw_partial_results(watching: ModuleType) -> None:
    watching.draw_with(lambda partial: import_module("mksdask.tools").draw_partial(partial))
