"""Texts and legends of figures, in lines that fit."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from typing import Any, cast

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
FORMULA, NAME, SIGNS = re.compile(r"\$[^$]*\$"), re.compile(r"\\[a-zA-Z]+"), re.compile(r"[{}_^$]")
# Inches: the room of labels and of a line, the width of a letter of titles, and that of a handle in a legend.
LABELS, LINE, LETTER, KEY = 0.45, 0.16, 0.075, 0.4


def fitted(text: str, inches: float) -> str:
    """Break a long text into lines of so many inches, but neither in a formula nor before a unit."""
    formulas = iter(FORMULA.findall(text))
    # A formula is drawn in about as many letters as it has without its signs.
    tied = FORMULA.sub(lambda found: "\ue000" * max(1, len(SIGNS.sub("", NAME.sub("x", found.group())))), text)
    tied = re.sub(" ([/=]) ", "\u00a0\\1\u00a0", tied)
    letters = max(8, int(inches / LETTER))
    lines = [textwrap.fill(line, letters, break_long_words=False, break_on_hyphens=False) for line in tied.split("\n")]
    return re.sub("\ue000+", lambda _: next(formulas), "\n".join(lines).replace("\u00a0", " "))


def number_text(value: float) -> str:
    """Write a number with three digits, and a very large or small one with a power of ten."""
    digits, _, power = f"{value:.3g}".partition("e")
    return f"{digits} × 10{str(int(power)).translate(SUPERSCRIPTS)}" if power else digits


def size_of(panel: Axes) -> tuple[float, float]:
    """Width and height in inches of the figure, or part of one, in which a panel is."""
    fig = cast("Figure", panel.get_figure())
    return fig.bbox.width / fig.dpi, fig.bbox.height / fig.dpi


def room_of(panel: Axes, n_panels: int = 1) -> tuple[float, float]:
    """Width of some panels of a row, and height of one, in inches: what the grid of a figure leaves to them."""
    (width, height), spec = size_of(panel), panel.get_subplotspec()
    rows, columns = (1, 1) if spec is None else spec.get_gridspec().get_geometry()
    return (width * n_panels - LABELS) / columns, (height - LABELS) / rows


def label_axes(panel: Axes, x: str, y: str, title: str | None = None) -> None:
    """Name the axes of a panel, and the panel, in lines that fit."""
    width, height = room_of(panel)
    panel.set(xlabel=fitted(x, width), ylabel=fitted(y, 0.8 * height))
    if isinstance(locator := panel.xaxis.get_major_locator(), MaxNLocator):
        # As with maps, the number of ticks is fixed.
        locator.set_params(nbins=min(8, max(2, int(width / 0.4))))
    if title:
        panel.set_title(fitted(title, width))


def legend_below(
    panels: Sequence[Axes], ax: Any, figsize: Any, handles: Sequence[Any] | None = None, *, title: str | None = None
) -> None:
    """Add a legend below the panels, because inside it could hide data. It names what the first panel shows.

    A new figure is made higher by the legend, if its caller gave neither `ax` nor `figsize`.
    """
    fig = cast("Figure", panels[0].get_figure())
    given = panels[0].get_legend_handles_labels()[0] if handles is None else handles
    if not given:
        return
    width = fig.get_figwidth() if ax is None else room_of(panels[0], len(panels))[0]
    names = [fitted(str(handle.get_label()), width - KEY) for handle in given]
    size = mpl.rcParams["legend.fontsize"]
    widths = [
        KEY + max(TextPath((0, 0), line, size).get_extents().width for line in name.split("\n")) / 72 for name in names
    ]
    # As many columns as fit. Matplotlib fills one after the other.
    fits = (k for k in range(len(names), 1, -1) if sum(max(part) for part in np.array_split(widths, k)) <= width)
    columns = next(fits, 1)
    options: Any = {"handles": given, "labels": names, "ncols": columns, "title": title}
    options |= {"frameon": False, "columnspacing": 1.0}
    if ax is not None:
        # Below the numbers and the name of the axis of the lowest panels.
        heights = np.array([panel.get_position(original=True).y0 for panel in panels])
        lowest = np.flatnonzero(heights < heights.min() + 1e-3)
        panels[lowest[(len(lowest) - 1) // 2]].legend(
            loc="upper center", bbox_to_anchor=(0.5, 0.0), borderaxespad=4.5, **options
        )
        return
    fig.legend(loc="outside lower center", **options)
    if figsize is None:
        lines = max(name.count("\n") + 1 for name in names) * -(-len(names) // columns) + bool(title)
        fig.set_figheight(fig.get_figheight() + LINE * lines)
