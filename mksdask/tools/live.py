"""The figure of a computation that is still running."""

from __future__ import annotations

from matplotlib.figure import Figure

from mksdask.compute.watching import PartialResult
from mksdask.tools.panels import colour_bar, draw_maps, lag_extent, new_figure, scale_of
from mksdask.tools.scores import draw_components_scatter
from mksdask.tools.style import ONE_COLUMN, TWO_COLUMNS, styled


@styled
def draw_partial(partial: PartialResult, *, figsize: tuple[float, float] | None = None) -> Figure:
    """Draw the results so far of a running computation: 2-point statistics and, if there are any, scores.

    Parameters
    ----------
    partial : mksdask.PartialResult
        The object that a function passed as ``watch=`` receives.
    figsize : (float, float), optional
        Width and height of the figure, inches.

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
    fig = new_figure(*(figsize or (TWO_COLUMNS if has_scores else ONE_COLUMN, 3.0)))
    panels = fig.subplots(1, 2 if has_scores else 1, squeeze=False)[0]
    values = partial.statistics.to_numpy()
    extent = lag_extent(partial.statistics.expand_dims("pair", axis=-1), values.shape)
    scale = scale_of(values)
    draw_maps(panels[:1], values, extent, scale, "2-point statistics")
    if values.ndim == 2:
        colour_bar(panels[:1], scale, "f(r)")
    if has_scores:
        draw_components_scatter([partial.scores], ax=panels[1])
        panels[1].set_title("scores" if is_whole else "scores so far")
    unit = partial.unit.removesuffix("s") if partial.total == 1 else partial.unit
    fig.suptitle(f"{partial.total:,} {unit}" if is_whole else f"{partial.done:,} of {partial.total:,} {unit}")
    return fig
