"""The look of figures in print: sizes for journals, fonts, and what a figure does when it is shown or saved."""

from __future__ import annotations

import functools
import io
import threading
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
from cycler import cycler
from matplotlib.figure import Figure

from mksdask.display.cards import COLOURS
from mksdask.display.notebook import in_notebook

P = ParamSpec("P")
R = TypeVar("R")

#: Widths of one and of two columns of a journal, 88 and 180 mm, in inches.
ONE_COLUMN, TWO_COLUMNS = 3.46, 7.09
#: Settings of matplotlib for figures in print. Fonts are in points at these widths, and none is below 6.
PRINT: Any = {
    # Numbers are written in full, or as a power of ten.
    "axes.formatter.use_mathtext": True,
    "axes.formatter.useoffset": False,
    "axes.grid": False,
    "axes.labelsize": 7.5,
    "axes.linewidth": 0.6,
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.titlesize": 8.0,
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.w_pad": 0.03,
    "figure.titlesize": 8.0,
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "grid.linewidth": 0.5,
    "image.cmap": "viridis",
    "legend.fontsize": 7.0,
    "legend.title_fontsize": 7.0,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.5,
    # Journals ask for fonts that can be edited, and refuse those of type 3.
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "savefig.dpi": 300,
    "xtick.labelsize": 6.5,
    "xtick.major.width": 0.6,
    "ytick.labelsize": 6.5,
    "ytick.major.width": 0.6,
}
# Settings of matplotlib belong to the process, so that only one thread may change and restore them at a time.
_LOCK = threading.RLock()


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Let a function draw in the style of print. The settings of matplotlib are the user's again when it returns."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **options: P.kwargs) -> R:
        with _LOCK, mpl.rc_context(PRINT):
            return draw(*args, **options)

    return drawn


class PrintFigure(Figure):
    """A figure of matplotlib that is saved in the style of print, and that is not registered with pyplot."""

    savefig = styled(Figure.savefig)

    def show(self, warn: bool = True) -> None:  # noqa: FBT001, FBT002
        """Show the figure in a notebook. Elsewhere, warn and go on, because a script may have no screen."""
        if in_notebook():
            import_module("IPython.display").display(self)
        elif warn:
            warnings.warn("figures are shown in notebooks only; fig.savefig('figure.png') keeps it", stacklevel=2)

    def _repr_png_(self) -> bytes:
        """Draw the figure for a notebook, also one without `%matplotlib inline`."""
        data = io.BytesIO()
        self.savefig(data, format="png", dpi=self.dpi)
        return data.getvalue()
