"""`mksdask export`: stores into files of other programs."""

from __future__ import annotations

from typing import Any

import click

from mksdask.cli.arguments import Place
from mksdask.cli.options import cluster_options, json_option, open_client, overwrite_option, report, timed_step
from mksdask.exporters import export
from mksdask.storage.atomic import Url


class _Selection(click.ParamType[dict[str, str]]):
    """Labels along axes, such as sample=3,component=xx."""

    name = "axis=label"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, str]:
        if isinstance(value, dict):
            return value
        pairs = [text.partition("=") for text in str(value).split(",")]
        if any(not (axis.strip() and sign and label.strip()) for axis, sign, label in pairs):
            self.fail(f"{value!r} is not written as axis=label, such as sample=3,component=xx", param, ctx)
        return {axis.strip(): label.strip() for axis, _, label in pairs}


@click.command("export")
@click.argument("store", type=Place(exists=True))
@click.argument("out", type=Place())
@click.option("--variable", multiple=True, help="Variable of the store, such as phase. VTK files take several.")
@click.option("--select", type=_Selection(), help="What is exported along some axes, such as sample=3,component=xx.")
@overwrite_option("a file of the same format, or an OME-Zarr image that this command made,")
@cluster_options
@json_option
def export_command(
    store: Url,
    out: Url,
    variable: tuple[str, ...],
    select: dict[str, str] | None,
    overwrite: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
    **cluster: Any,
) -> None:
    """Export a store into a file of another program.

    STORE holds an ensemble, a volume or a result. The suffix of OUT says the format: .zarr for OME-Zarr 0.5 (napari,
    Fiji), .vti or .vtkhdf for VTK (ParaView), .tif or .ome.tif for TIFF (ImageJ). Voxel sizes, units and names are
    kept.

    \b
    Examples:
      mksdask export rock.zarr rock.vti
      mksdask export rock.zarr rock.ome.zarr
      mksdask export S2.zarr S2.tif --select pair=pore–pore
    """
    timings: dict[str, float] = {}
    with open_client(**cluster), timed_step("read, write", timings):
        export(store, out, variable=variable or None, select=select, mode="w" if overwrite else "w-")
    report({"store": str(store), "file": str(out), "seconds": round(sum(timings.values()), 2)}, as_json=as_json)
