"""Prints what commands say, so that terminals show names in files of others as they are."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

import click

# Characters that a terminal obeys, and those that turn the direction of text. Tabs and ends of lines are none of them.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")

# Arguments of Python whose option has another name.
_OPTIONS = {
    "correlations": "pairs",
    "join": "as",
    "n_components": "components",
    "n_states": "states",
    "periodic_axes": "periodic",
    "property_linker": "linker",
}
# An argument of Python with its value, or alone as the subject of a sentence. The last group matches before a number.
_GIVEN = re.compile(r"\b([a-z_]+)=(?:(['\"])(.*?)\2|(True)\b|(\{[^{}]*\}|\(\)|\[\]))?((?=[\w(\[-]))?")
_NAMED_TWICE = re.compile(r"(--[a-z-]+(?: [^\s()]+)?)(?:, or \1\b(?: to mksdask [a-z]+)?| \(\1\))")
# An option, and behind it the same option with a value.
_NAMED_MORE = re.compile(r"(--[a-z-]+) \((\1 [^()]*)\)")
_SUBJECT = re.compile(r"^([a-z_]+)(?= (?:must|is|has|names|does|gives)\b)")


def typed(value: Any) -> str:
    """Write a value of Python as it is typed behind an option: {0: "pore"} as 0:pore, (3.0, 5.0) as 3,5."""
    if isinstance(value, Mapping):
        return ",".join(f"{typed(key)}:{typed(each)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ",".join(map(typed, value)) or "none"
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def with_options(text: str, known: Sequence[str] = ()) -> str:
    """Write arguments of Python in a message as options. `known` are the options that a command has."""

    def name(argument: str) -> str:
        return "--" + _OPTIONS.get(argument, argument).replace("_", "-")

    def given(found: re.Match[str]) -> str:
        option = name(found[1])
        if known and option not in known:
            return found[0]
        if found[2]:
            return f"{option} {found[3]}"
        if found[5]:
            return f"{option} {_typed_literal(found[5])}"
        return option if found[4] or found[6] is None else f"{option} "

    # Some messages name the option themselves.
    text = _NAMED_MORE.sub(r"\2", _NAMED_TWICE.sub(r"\1", _GIVEN.sub(given, text)))
    return _SUBJECT.sub(lambda found: name(found[1]) if name(found[1]) in known else found[0], text)


def _typed_literal(text: str) -> str:
    try:
        return typed(ast.literal_eval(text))
    except (ValueError, SyntaxError):
        return text


def say(text: str, *, err: bool = False) -> None:
    """Print a text. A terminal does not obey it, because names in files of others may hold commands for terminals."""
    click.echo(_CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text), err=err)


def asks_for_json(arguments: Sequence[str]) -> bool:
    """Whether the arguments of the command contain --json."""
    return "--json" in arguments[: arguments.index("--") if "--" in arguments else None]
