"""Signals while the command `mksdask` starts. Python takes seconds to import what it needs, and Ctrl-C may come then.

Without this module, which is imported first, Python would print the place in its imports where it was stopped.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import PurePath
from typing import Any


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
