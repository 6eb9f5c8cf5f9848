"""`mksdask export`: stores into files of other programs."""

from __future__ import annotations

from typing import Any

from mksdask.cli.options import open_client, report, timed_step
from mksdask.exporters import export
from mksdask.storage.atomic import Url


def export_command(
    store: Url,
    out: Url,
    variable: tuple[str, ...],
    select: dict[str, str] | None,
    overwrite: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
    **cluster: Any,
) -> None:
    """Export a store into a file of another program."""
    timings: dict[str, float] = {}
    with open_client(**cluster), timed_step("read, write", timings):
        export(store, out, variable=variable or None, select=select, mode="w" if overwrite else "w-")
    report({"store": str(store), "file": str(out), "seconds": round(sum(timings.values()), 2)}, as_json=as_json)
