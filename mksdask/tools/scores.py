"""Figures of scores and of the variance that components explain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mksdask.arrays import LABELLED, Array, ArrayLike, numbers_argument, refuse_unnumeric, shown, to_numpy
from mksdask.display.cards import COLOURS
from mksdask.schema.arguments import checked
from mksdask.tools.layout import fitted, label_axes, legend_below
from mksdask.tools.panels import check_panels, names_of_sets, one_panel, panel_grid, style_of
from mksdask.tools.style import ONE_COLUMN, TWO_COLUMNS, styled


@checked
@styled
def draw_components_scatter(
    datasets: Sequence[ArrayLike],
    labels: Sequence[str] | None = None,
    *,
    title: str | None = None,
    component_labels: Sequence[str] | None = None,
    variance: ArrayLike | None = None,
    view_angles: tuple[float, float] | None = None,
    legend_outside: bool = False,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw scores of samples as points in 2D or 3D, with one colour for each set of samples.

    Parameters
    ----------
    datasets : list of array, shape (n_samples, 2) or (n_samples, 3)
        Scores, one array for each kind of sample.
    labels : sequence of str, optional
        Name of each set.
    title : str, optional
        Title of the figure.
    component_labels : sequence of str, optional
        Names of the components.
    variance : array, shape (n_components,), optional
        Share of the variance that each component explains, such as ``explained_variance_ratio_`` of a PCA. The axes
        then show it in per cent.
    view_angles : (float, float), optional
        Elevation and azimuth of the 3D view, degrees.
    legend_outside : bool
        Put the legend beside the axes.
    figsize : (float, float), optional
        Width and height of the figure, inches.
    ax : matplotlib Axes, optional
        Axes to draw on. The function returns their figure. Default: a new figure.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If the sets do not all have 2 components or all have 3, or `labels` does not name each set.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> fig = draw_components_scatter([rng.normal(size=(9, 2)), rng.normal(size=(9, 2))], ["rolled", "annealed"])
    """
    angles = np.array((22.0, -55.0)) if view_angles is None else numbers_argument(view_angles, "view_angles")
    if angles.shape != (2,):
        msg = f"view_angles must be two angles in degrees, elevation and azimuth, got {shown(view_angles)}"
        raise ValueError(msg)
    sets = _sets(datasets)
    shapes = {scores.shape[1] if scores.ndim == 2 else 0 for scores in sets}
    if shapes not in ({2}, {3}):
        msg = (
            "datasets must be a list of arrays that all have shape (n_samples, 2), or all (n_samples, 3), got shapes "
            f"{[s.shape for s in sets]}; slice the scores, such as scores[:, :2]"
        )
        raise ValueError(msg)
    (dim,) = shapes
    names = names_of_sets(sets, labels, "datasets")
    titles = list(component_labels or [f"PC {k + 1}" for k in range(dim)])
    if len(titles) < dim:
        msg = f"component_labels must name each of the {dim} components, got {titles!r}"
        raise ValueError(msg)
    if variance is not None:
        shares = 100.0 * numbers_argument(variance, "variance")
        if shares.ndim != 1 or len(shares) < dim:
            msg = f"variance must hold a share for each of the {dim} components, got shape {shares.shape}"
            raise ValueError(msg)
        titles = [f"{each} ({share:.3g} %)" for each, share in zip(titles, shares, strict=False)]
    default = (1.35 * ONE_COLUMN if legend_outside else ONE_COLUMN, 2.9)
    fig, panel = one_panel(ax, figsize, default, projection="3d" if dim == 3 else None)
    for index, (scores, name) in enumerate(zip(sets, names, strict=True)):
        panel.scatter(*scores.T, s=11, alpha=0.7, linewidths=0, label=name or None, **style_of(index))
    label_axes(panel, titles[0], titles[1], title)
    if dim == 3:
        panel.set_zlabel(titles[2])
        panel.locator_params(nbins=4)
        panel.tick_params(pad=-2)
        panel.xaxis.labelpad = panel.yaxis.labelpad = panel.zaxis.labelpad = -3
        panel.set_box_aspect(None, zoom=0.84)
        panel.view_init(*angles)
    if any(names) and legend_outside:
        fig.legend(loc="outside right upper")
    elif any(names):
        legend_below([panel], ax, figsize)
    return fig


def _sets(datasets: Sequence[ArrayLike]) -> list[Array]:
    """Take the sets of a figure from a list of arrays, or from one array that holds them.

    Raises
    ------
    TypeError
        If `datasets` is something else.
    """
    if isinstance(datasets, LABELLED):
        datasets = to_numpy(datasets, name="datasets")  # type: ignore[assignment]
    if not isinstance(datasets, list | tuple | np.ndarray):
        msg = f"datasets must be a list of arrays of scores, got {shown(datasets)}"
        raise TypeError(msg)
    sets = [to_numpy(scores, name="datasets") for scores in datasets]
    for scores in sets:
        refuse_unnumeric(scores, name="datasets")
    return sets


@checked
@styled
def draw_evolution(
    datasets: Sequence[ArrayLike],
    labels: Sequence[str] | None = None,
    *,
    title: str | None = None,
    component_labels: Sequence[str] | None = None,
    time_label: str = "time",
    legend_outside: bool = False,
    figsize: tuple[float, float] | None = None,
) -> Figure:
    """Draw how scores evolve with time, one panel for each component.

    Parameters
    ----------
    datasets : sequence of arrays, each shape (n_times, 1 + n_components)
        Time in the first column, scores in the others.
    labels : sequence of str, optional
        Name of each set.
    title : str, optional
        Title of the figure.
    component_labels : sequence of str, optional
        Axis label of each component.
    time_label : str
        Label of the time axis, with its unit.
    legend_outside : bool
        Put the legend beside the axes.
    figsize : (float, float), optional
        Width and height of the figure, inches.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If the sets do not all have the same number of columns, or fewer than two; or if labels do not match.

    Examples
    --------
    >>> import numpy as np
    >>> time = np.arange(5.0)
    >>> fig = draw_evolution([np.stack([time, np.exp(-time)], axis=1)], ["annealing"])
    """
    sets = _sets(datasets)
    widths = {scores.shape[1] if scores.ndim == 2 else 0 for scores in sets}
    if len(widths) != 1 or min(widths) < 2:
        msg = (
            "datasets must be a list of arrays of shape (n_times, 1 + n_components), time first, got shapes "
            f"{[s.shape for s in sets]}"
        )
        raise ValueError(msg)
    n_components = widths.pop() - 1
    check_panels(n_components)
    names = names_of_sets(sets, labels, "datasets")
    titles = list(component_labels or [f"PC {k + 1}" for k in range(n_components)])
    if len(titles) != n_components:
        msg = f"component_labels must name each of the {n_components} components, got {titles!r}"
        raise ValueError(msg)
    width = figsize[0] if figsize else ONE_COLUMN if n_components == 1 else TWO_COLUMNS
    columns = min(n_components, 3, max(1, int(width / 1.6)))
    size = figsize or (width, 2.3 * -(-n_components // columns))
    fig, panels = panel_grid(None, n_components, columns, size, sharex=True)
    for component, (panel, name) in enumerate(zip(panels, titles, strict=True)):
        for index, (scores, set_name) in enumerate(zip(sets, names, strict=True)):
            # Only the first panel names the sets, so that the legend of the figure lists each set once.
            name_once = set_name if component == 0 and set_name else None
            xy = scores[:, 0], scores[:, 1 + component]
            panel.plot(*xy, label=name_once, **style_of(index))
        is_lowest = component + columns >= n_components
        label_axes(panel, time_label if is_lowest else "", name)
        panel.tick_params(labelbottom=is_lowest)
    if title:
        fig.suptitle(fitted(title, width))
    if any(names) and legend_outside:
        fig.legend(loc="outside right upper")
    elif any(names):
        legend_below(panels[:1], None, figsize)
    return fig


@checked
@styled
def draw_component_variance(
    variance: ArrayLike, *, figsize: tuple[float, float] | None = None, ax: Axes | None = None
) -> Figure:
    """Draw the cumulative share of the variance that the leading components explain.

    Parameters
    ----------
    variance : array, shape (n_components,)
        Share of the variance that each component explains, such as ``explained_variance_ratio_`` of a PCA.
    figsize : (float, float), optional
        Width and height of the figure, inches.
    ax : matplotlib Axes, optional
        Axes to draw on. The function returns their figure. Default: a new figure.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> fig = draw_component_variance([0.8, 0.15, 0.04])
    """
    shares = 100.0 * np.cumsum(numbers_argument(variance, "variance"))
    fig, ax = one_panel(ax, figsize, (ONE_COLUMN, 2.5))
    ax.plot(np.arange(1, len(shares) + 1), shares, "o-", color=COLOURS[0])
    ax.set(xlabel="number of components", ylabel="explained variance / %")
    ax.set_xlim(0.5, len(shares) + 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.grid(visible=True, alpha=0.3)
    return fig
