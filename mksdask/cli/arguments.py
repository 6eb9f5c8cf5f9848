"""Types of the arguments and options: how each is written, and what is said if it is written otherwise."""

from __future__ import annotations

import os
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from mksdask.cli.printing import typed

# What to do if an object store does not know the user.
KEYS = "; set them, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment"


def _package(module: str) -> Any:
    """Import a module of this package. Help and completion convert no values, and do without it."""
    return import_module(f"mksdask.{module}")


def written(value: Any, kind: click.ParamType) -> str:
    """Write the value of an option as a user types it."""
    if isinstance(kind, Size):
        return "x".join(map(str, value))
    if isinstance(kind, Axes):
        return ",".join("xyz"[axis] for axis in value) or "none"
    if isinstance(kind, Crop):
        ends = {axis: ["" if end is None else str(end) for end in pair] for axis, pair in value.items()}
        return ",".join(f"{axis}={low}:{high}" for axis, (low, high) in ends.items())
    return shlex.quote(typed(value))


class _Named(click.ParamType):
    """What paths and URLs have in common: shells complete paths."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete paths."""
        return click.Path().shell_complete(ctx, param, incomplete)


class Place(_Named):
    """A path or a URL of a store. A URL of this machine, such as file:///data/rock.zarr, becomes a path."""

    name = "path or URL"

    def __init__(self, *, exists: bool = False) -> None:
        self.exists = exists

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | Path:
        """Parse, or fail with what is wrong."""
        text = os.fspath(value)
        if ctx is not None and ctx.resilient_parsing:
            # A shell asks how to complete the line.
            return text
        is_url = "://" in text
        try:
            location = _package("storage.atomic").Location.of(text if is_url else Path(text))
            found = location.exists() if self.exists else True
        except Exception as error:
            # Clients of remote file systems raise errors of any kind if they may not read, or cannot connect.
            told = " ".join(str(error).split())
            if "credentials" in told:
                told += KEYS
            self.fail(f"{text!r} cannot be reached: {told}" if is_url else told, param, ctx)
        if isinstance(location.fs, import_module("fsspec.implementations.memory").MemoryFileSystem):
            self.fail(
                f"{text!r} lies in the memory of one process, but other processes compute; give a path, or a URL that "
                "all workers reach",
                param,
                ctx,
            )
        if not found:
            self.fail(f"{text!r} does not exist", param, ctx)
        if not is_url:
            return Path(text)
        return Path(location.path) if location.is_local else text


class LocalFile(_Named):
    """A file of this machine, as a path or as a URL such as file:///data/S2.png."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Parse, or fail with what is wrong."""
        found = Place().convert(value, param, ctx)
        if ctx is not None and ctx.resilient_parsing:
            return Path(found)
        if not isinstance(found, Path):
            self.fail(f"{value!r} is not a file of this machine; give a path", param, ctx)
        return found


class Size(click.ParamType):
    """Voxels along each axis: 24x24x24, 64x64, or one number, which the option explains.

    Parameters
    ----------
    least : int
        The smallest number of voxels along an axis.
    """

    name = "size"

    def __init__(self, least: int) -> None:
        self.least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Parse, or fail with how to write it."""
        if isinstance(value, tuple):
            return value
        try:
            size = tuple(int(n) for n in str(value).lower().split("x"))
        except ValueError:
            self.fail(f"{value!r} is not a size; write 24x24x24, 64x64, or one number", param, ctx)
        if len(size) > 3 or min(size) < self.least:
            self.fail(
                f"{value!r} must have up to 3 axes of at least {self.least} voxels; write 24x24x24 or 64x64", param, ctx
            )
        return size


class Bytes(click.ParamType):
    """A number of bytes: 2GiB, 512MiB."""

    name = "bytes"

    def __init__(self, *, for_worker: bool = False) -> None:
        self.for_worker = for_worker

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse, or fail with how to write it."""
        if ctx is not None and ctx.resilient_parsing:
            return 0
        try:
            found = _package("compute.plans").bytes_argument(value)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is not an amount of memory; write 2GiB or 512MiB", param, ctx)
        least = _package("compute.plans").PROCESS_BYTES if self.for_worker else 1
        if found < least:
            self.fail(f"{value!r} is less than a worker needs by itself; give {least >> 20}MiB or more", param, ctx)
        return found


class Cutoff(click.ParamType):
    """A largest lag for all axes, or one for each axis: 40 or 40,40,20."""

    name = "cutoff"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | tuple[int, ...]:
        """Parse, or fail with how to write it."""
        if isinstance(value, int | tuple):
            return value
        try:
            found = tuple(int(lag) for lag in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a number of voxels, or one for each axis; write 40 or 40,40,20", param, ctx)
        if min(found) < 0 or len(found) > 3:
            self.fail(f"{value!r} must be one number from 0, or one for each of up to 3 axes; write 40", param, ctx)
        return found if len(found) > 1 else found[0]


class Pairs(click.ParamType):
    """Pairs of phases, by name or by number: pore-grain,0-1. The store says what its phases are called."""

    name = "pairs"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        """Parse, or fail with how to write it."""
        pairs = value if isinstance(value, list) else [pair.strip() for pair in str(value).split(",")]
        if not all("-" in pair.strip("-") for pair in pairs):
            self.fail(f"{value!r} is not a list of pairs of phases; write pore-grain, or 0-0,0-1", param, ctx)
        return pairs


class Axes(click.ParamType):
    """Names of axes, such as x,y, or none."""

    name = "axes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        """Parse, or fail with how to write it."""
        if isinstance(value, list):
            return value
        names = [] if value in ("", "none") else [name.strip() for name in str(value).split(",")]
        if not set(names) <= set("xyz") or len(set(names)) < len(names):
            self.fail(f"{value!r} does not name axes; write x,y,z, or none", param, ctx)
        return ["xyz".index(name) for name in names]


class Numbers(click.ParamType):
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


class Phases(click.ParamType):
    """Values and the names of their phases: 0:pore,255:grain; or the word values."""

    name = "phases"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse, or fail with how to write it."""
        if isinstance(value, dict) or value == "values":
            return value
        try:
            pairs = [pair.split(":") for pair in str(value).split(",")]
            phases = {float(level): int(phase) if phase.isdigit() else phase.strip() for level, phase in pairs}
        except ValueError:
            phases, pairs = {}, []
        if not phases or "" in phases.values():
            self.fail(f"{value!r} is not a list of values and phases; write 0:pore,255:grain", param, ctx)
        if len(phases) < len(pairs):
            self.fail(f"{value!r} gives two phases to one value; name each value once", param, ctx)
        return phases


class Crop(click.ParamType):
    """Ranges of axes: x=0:200,z=50:."""

    name = "crop"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        """Parse, or fail with how to write it."""
        if isinstance(value, dict):
            return value
        crop: dict[str, Any] = {}
        parts = str(value).split(",")
        try:
            for part in parts:
                axis, bounds = part.split("=")
                low, high = bounds.split(":")
                crop[axis.strip()] = (int(low) if low else None, int(high) if high else None)
        except ValueError:
            self.fail(f"{value!r} is not a list of ranges; write x=0:200,z=50:", param, ctx)
        if len(crop) < len(parts):
            self.fail(f"{value!r} gives two ranges to one axis; name each axis once", param, ctx)
        return crop


class Selection(click.ParamType):
    """Labels along axes, such as sample=3,component=xx."""

    name = "axis=label"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, str]:
        """Parse, or fail with how to write it."""
        if isinstance(value, dict):
            return value
        pairs = [text.partition("=") for text in str(value).split(",")]
        if any(not (axis.strip() and sign and label.strip()) for axis, sign, label in pairs):
            self.fail(f"{value!r} is not written as axis=label, such as sample=3,component=xx", param, ctx)
        return {axis.strip(): label.strip() for axis, _, label in pairs}
