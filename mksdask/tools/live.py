"""The figure of a computation that goes on."""

from __future__ import annotations

from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from mksdask.compute.watching import PartialResult
from mksdask.tools.models import draw_components_scatter
from mksdask.tools.panels import PANEL, draw_maps, lag_grid, new_figure, scale_of


def draw_partial(partial: PartialResult, *, figsize: tuple[float, float] | None = None) -> Figure:
    """Draw what is known of a computation that goes on: 2-point statistics, and scores where there are any.

    Parameters
    ----------
    partial : mksdask.PartialResult
        As a function that is given as ``watch=`` gets it.
    figsize : (float, float), optional
        Inches.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> from mksdask import MKSStructureAnalysis, PrimitiveBasis
    >>> from mksdask.datasets import make_microstructure
    >>> seen = []
    >>> X = make_microstructure(n_samples=20, size=(16, 16))
    >>> analysis = MKSStructureAnalysis(PrimitiveBasis(2), n_components=2).fit(X, watch=seen.append)
    >>> fig = draw_partial(seen[-1])
    """
    has_scores = partial.scores is not None and len(partial.scores) > 0 and partial.scores.shape[1] == 2
    is_whole = partial.done >= partial.total
    fig = new_figure(*(figsize or ((2.0 if has_scores else 1.0) * (PANEL + 1.4), PANEL + 0.9)))
    panels = fig.subplots(1, 2 if has_scores else 1, squeeze=False)[0]
    values = partial.statistics.to_numpy()
    grid = lag_grid(partial.statistics.expand_dims("pair", axis=-1), values.shape)
    colours, norm = scale_of(values)
    draw_maps(panels[:1], values, grid, colours, norm, "2-point statistics")
    if values.ndim == 2:
        fig.colorbar(ScalarMappable(norm, colours), ax=panels[0], shrink=0.85, pad=0.02)
    if has_scores:
        draw_components_scatter([partial.scores], ax=panels[1])
        panels[1].set_title("scores" if is_whole else "scores so far", fontsize="medium")
    fig.suptitle(
        f"{partial.total:,} {partial.unit}" if is_whole else f"{partial.done:,} of {partial.total:,} {partial.unit}",
        fontsize="medium",
    )
    return fig
