"""`mksdask report`: what a store holds, as one HTML page with its figures inside."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from mksdask import tools
from mksdask.arrays import SPATIAL_DIMS, to_numpy
from mksdask.cli.analysis import basis_of, confidence_of
from mksdask.cli.options import open_client, opening, report as print_report, timed_step
from mksdask.compute.blocks import computed
from mksdask.compute.plans import size_text
from mksdask.descriptors import ShapeDescriptors
from mksdask.display.cards import printed_unit, value_text
from mksdask.stats import (
    chord_lengths,
    correlate,
    correlate_volume,
    phase_fraction_interval,
    radial_average,
    specific_surface,
)
from mksdask.storage.atomic import Location, Url, check_apart, check_outside
from mksdask.storage.microstructures import open_store
from mksdask.storage.sources import chain_of
from mksdask.storage.staging import check_file, staged_file
from mksdask.tools.layout import legend_below
from mksdask.tools.panels import one_panel, panel_grid, style_of
from mksdask.tools.style import TWO_COLUMNS, styled

# What tells a page of this command from those of others.
MARK = '<meta name="generator" content="mksdask report">'
# Phases and samples in tables and figures, and voxels along each axis that are read at once.
MOST_PHASES, MOST_SAMPLES, MOST_VOXELS = 6, 4, 200

STYLE = """
body{font:16px/1.55 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}
h1{font-size:1.7rem;margin-bottom:.2em}h2{font-size:1.2rem;margin-top:2em;border-bottom:1px solid #ccc}
table{border-collapse:collapse;margin:.8em 0;display:block;overflow-x:auto}
th,td{padding:.25em .9em .25em 0;text-align:left;vertical-align:top}thead th{border-bottom:1px solid #999}
code,td:only-of-type{overflow-wrap:anywhere}td{font-variant-numeric:tabular-nums}
figure{margin:1em 0}img{max-width:100%;height:auto}
figcaption,.note{color:#555;font-size:.9rem}
"""


def report(
    store: Url,
    out: Path,
    states: int | None,
    title: str | None,
    cutoff: int | None,
    overwrite: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
    **cluster: Any,
) -> None:
    """Write what a store holds as one HTML page, for readers without Python."""
    _check_page(out, store, overwrite=overwrite)
    timings: dict[str, float] = {}
    with open_client(**cluster), timed_step("report", timings):
        dataset = open_store(store, **opening())
        page = _page(dataset, states, title or Path(str(store)).stem, cutoff, [*chain_of(store)])
        target = Path(Location.of(out).path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with staged_file(target) as new:
            new.write_text(page, "utf-8")
    result = {"report": str(out), "bytes": len(page.encode()), "seconds": round(sum(timings.values()), 2)}
    print_report(result, as_json=as_json)


def _check_page(out: Path, store: Url, *, overwrite: bool) -> None:
    """Refuse a page that is none, that is not ours to replace, or that lies in a store."""
    if out.suffix.lower() not in (".html", ".htm"):
        msg = f"{out} must end with .html; choose another name"
        raise ValueError(msg)
    if out.exists() and not (overwrite and out.is_file() and MARK in out.read_text("utf-8", "replace")[:1000]):
        msg = f"{out} exists; choose another output, or pass --overwrite, which replaces an earlier report"
        raise FileExistsError(msg)
    check_apart(out, store)
    check_outside(Location.of(out))
    check_file(out)


def _page(dataset: xr.Dataset, states: int | None, title: str, cutoff: int | None, made: Sequence[str]) -> str:
    body = "".join(_sections(dataset, states, cutoff, made))
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">{MARK}\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body><h1>{escape(title)}</h1>{body}</body></html>\n"
    )


def _sections(dataset: xr.Dataset, states: int | None, cutoff: int | None, made: Sequence[str]) -> Iterator[str]:
    X, basis = dataset.microstructure, basis_of(dataset, states)
    is_ensemble = "sample" in X.dims
    dims = [str(dim) for dim in X.dims if dim in SPATIAL_DIMS]
    n_phases = min(len(basis.states), MOST_PHASES)
    names = [str(name) for name in X.attrs.get("phases", ())] or [f"phase {h}" for h in range(n_phases)]
    names = names[:n_phases]
    facts = dataset.mks.describe(fractions=True)
    fractions, unit = facts.pop("fractions", {}), printed_unit(str(facts.pop("units")))
    facts["bytes"] = size_text(facts["bytes"])
    facts["spacing"] = {dim: f"{step:.6g} {unit}" for dim, step in facts["spacing"].items()}
    yield _table([], [(name, value_text(value)) for name, value in facts.items()])

    few = X[:: max(1, len(X) // MOST_SAMPLES)][:MOST_SAMPLES] if is_ensemble else X.expand_dims("sample")
    few = _central(few, dims).compute()
    yield "<h2>Pictures</h2>"
    size = " × ".join(str(few.sizes[dim]) for dim in dims)
    labels = [f"sample {j}" for j in np.arange(len(X))[:: max(1, len(X) // MOST_SAMPLES)][:MOST_SAMPLES]]
    figure = tools.draw_microstructures(few, labels if is_ensemble else [""])
    yield _figure(figure, f"The central {size} voxels{', as three central slices' if len(dims) == 3 else ''}.")

    if cutoff is None:
        cutoff = max(1, min(50, min(X.sizes[dim] for dim in dims) // 4))
    pairs = [(h, h) for h in range(n_phases)]
    options: dict[str, Any] = {"cutoff": cutoff, "correlations": pairs} | confidence_of(dataset)
    found = correlate(X, basis, **options).mean("sample") if is_ensemble else correlate_volume(X, basis, **options)
    statistics = found.assign_attrs(X.attrs).compute()
    yield "<h2>Phases</h2>" + _phases(dataset, statistics, names, fractions, unit, dims)
    yield "<h2>2-point statistics</h2><p>The probability that both ends of a vector r lie in the same phase.</p>"
    yield _figure(tools.draw_correlations(statistics), "Maps over the vector r, which is 0 in the middle.")
    yield _figure(_curves(statistics, names, unit), "The same, averaged over all directions.")

    where = ", in the samples of the pictures" if is_ensemble else ""
    yield f"<h2>Chord lengths</h2><p>How long lines run inside a phase, along each axis{where}.</p>"
    yield _chords(few if is_ensemble else X, names, unit, dims)
    yield "<h2>Clusters</h2>" + _clusters(few, names, unit, dims)
    if made:
        yield (
            "<h2>How it was made</h2><ul>" + "".join(f"<li><code>{escape(line)}</code></li>" for line in made) + "</ul>"
        )


def _central(X: xr.DataArray, dims: Sequence[str]) -> xr.DataArray:
    """Select the middle of large samples, which is read at once."""
    starts = {dim: max(0, X.sizes[dim] - MOST_VOXELS) // 2 for dim in dims}
    # What is cut has ends, also along a periodic axis.
    periodic = [dim for dim in X.attrs.get("periodic_axes", ()) if X.sizes[dim] <= MOST_VOXELS]
    middle = X.isel({dim: slice(start, start + MOST_VOXELS) for dim, start in starts.items()})
    return middle.assign_attrs(periodic_axes=periodic)


def _phases(
    dataset: xr.Dataset,
    statistics: xr.DataArray,
    names: Sequence[str],
    fractions: dict[str, float],
    unit: str,
    dims: Sequence[str],
) -> str:
    """Tabulate fractions and interfaces, and for a volume how well it represents its material."""
    X, surfaces = dataset.microstructure, to_numpy(specific_surface(statistics))
    shares = [fractions.get(name, fractions.get(str(h), np.nan)) for h, name in enumerate(names)]
    head = ["phase", "volume fraction", f"interface per volume / {unit}⁻¹"]
    rows = [[name, f"{a:.4g}", f"{b:.3g}"] for name, a, b in zip(names, shares, surfaces, strict=True)]
    if "sample" in X.dims:
        return _table(head, rows)
    found = phase_fraction_interval(X, phases=range(len(names)), **confidence_of(dataset)).compute()
    head += ["95 % interval of the material", f"integral range / {unit}{('', '²', '³')[len(dims) - 1]}"]
    for h, row in enumerate(rows):
        one = found.isel(phase=h)
        row += [f"{float(one.low):.4g} to {float(one.high):.4g}", f"{float(one.integral_range):.3g}"]
    note = (
        "The volume is a sample of its material, whose fraction lies in the interval with 95 % confidence. The volume "
        "over the integral range is the number of independent pieces that it holds. The integral range is extrapolated "
        "to the longest waves, as by mksdask stats --representative. Without this option, mksdask stats sums over the "
        "lags up to its cutoff."
    )
    return _table(head, rows) + f'<p class="note">{note}</p>'


@styled
def _curves(statistics: xr.DataArray, names: Sequence[str], unit: str) -> Figure:
    """Draw the radial average of each autocorrelation."""
    found = radial_average(statistics)
    distance = next(dim for dim in found.dims if dim != "pair")
    figure, panel = one_panel(None, None, (TWO_COLUMNS, 2.6))
    for h, name in enumerate(names):
        panel.plot(found[distance], found.isel(pair=h), label=name, **style_of(h))
    panel.set(xlabel=f"distance / {unit}", ylabel="2-point statistics", ylim=(0.0, None))
    legend_below([panel], None, None)
    return figure


def _chords(X: xr.DataArray, names: Sequence[str], unit: str, dims: Sequence[str]) -> str:
    samples = list(X) if "sample" in X.dims else [X]
    counts = computed(
        [
            [chord_lengths(each, phase)[f"chords_{dim}"].data for dim in dims for each in samples]
            for phase in range(len(names))
        ]
    )
    rows, figures = [], []
    for name, of_phase in zip(names, counts, strict=True):
        by_axis = [np.sum(of_phase[a * len(samples) : (a + 1) * len(samples)], axis=0) for a in range(len(dims))]
        steps = [float(X[dim][1] - X[dim][0]) if dim in X.coords and X.sizes[dim] > 1 else 1.0 for dim in dims]
        lengths = [np.arange(1, len(n) + 1) * step for n, step in zip(by_axis, steps, strict=True)]
        means = [np.average(at, weights=n) if n.sum() else np.nan for at, n in zip(lengths, by_axis, strict=True)]
        rows.append((name, *(f"{mean:.3g}" for mean in means)))
        figures.append((name, lengths, by_axis))
    head = ("mean chord of", *(f"along {dim} / {unit}" for dim in dims))
    return _table(head, rows) + _figure(_histograms(figures, dims, unit), "Share of the chords, by length.")


@styled
def _histograms(figures: Sequence[tuple[str, Any, Any]], dims: Sequence[str], unit: str) -> Figure:
    columns = min(3, len(figures))
    size = TWO_COLUMNS, 2.3 * -(-len(figures) // columns)
    figure, panels = panel_grid(None, len(figures), columns, size)
    for panel, (name, lengths, by_axis) in zip(panels, figures, strict=True):
        for axis, (at, n) in enumerate(zip(lengths, by_axis, strict=True)):
            last = 1 + int(np.searchsorted(np.cumsum(n), 0.999 * n.sum()))
            there = np.flatnonzero(n[:last])
            shares, color = n[there] / max(1, n.sum()), style_of(axis)["color"]
            panel.plot(at[there], shares, label=f"along {dims[axis]}", color=color)
        panel.set(title=name, xlabel=f"length / {unit}", yscale="log")
    for leftmost in panels[::columns]:
        leftmost.set_ylabel("share of the chords")
    legend_below(panels[:1], None, None)
    return figure


def _clusters(few: xr.DataArray, names: Sequence[str], unit: str, dims: Sequence[str]) -> str:
    """Count clusters in the pictures: per volume, and the share of a phase that is in its largest."""
    shape = ShapeDescriptors(descriptors=("clusters", "largest"), n_phases=max(len(names), int(few.max()) + 1))
    found = dict(zip(shape.fit(few).get_feature_names_out(), to_numpy(shape.transform(few)).mean(axis=0), strict=True))
    power = {1: "", 2: "²", 3: "³"}[len(dims)]
    rows = [
        (name, *(f"{value:.4g}" for key, value in found.items() if key.endswith(f" {h}")))
        for h, name in enumerate(names)
    ]
    size = " × ".join(str(few.sizes[dim]) for dim in dims)
    note = f'<p class="note">Clusters are voxels that share faces, in the {size} voxels of the pictures.</p>'
    return _table(("phase", f"clusters per {unit}{power}", "share of the phase in its largest cluster"), rows) + note


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(text)}</th>" for text in head)
    body = "".join(
        f"<tr><th>{escape(first)}</th>{''.join(f'<td>{escape(text)}</td>' for text in others)}</tr>"
        for first, *others in rows
    )
    return f"<table>{f'<thead><tr>{top}</tr></thead>' if head else ''}<tbody>{body}</tbody></table>"


def _figure(figure: Figure, caption: str) -> str:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=160)
    source = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
    text = escape(caption)
    return f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>'
