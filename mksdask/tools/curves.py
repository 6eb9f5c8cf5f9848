"""Curves of what a structure holds: statistics by distance, chord lengths, sizes of clusters, and reconstructions."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mksdask.arrays import ArrayLike, shown
from mksdask.bases.primitive import PrimitiveBasis
from mksdask.display.cards import printed_unit
from mksdask.schema.arguments import checked
from mksdask.stats.correlation import correlate
from mksdask.stats.radial import as_statistics, radial_average, specific_surface
from mksdask.tools.layout import label_axes, legend_below
from mksdask.tools.panels import one_panel, style_of
from mksdask.tools.style import ONE_COLUMN, styled

# The slope of an autocorrelation at distance 0 over the specific surface, by number of axes (Debye).
SLOPES = {1: 0.5, 2: 1.0 / np.pi, 3: 0.25}


def _of_one(statistics: ArrayLike, n_spatial: int | None, name: str) -> tuple[xr.DataArray, list[str]]:
    """Label the statistics of one sample, and compute them."""
    labelled, lag_dims, _, _ = as_statistics(statistics, None, n_spatial)
    if set(labelled.dims) != {*lag_dims, "pair"}:
        msg = f"{name} must be those of one sample, got the dims {labelled.dims}; select one, such as {name}[0]"
        raise ValueError(msg)
    if labelled.dtype.kind == "c":
        msg = f"{name} must be real, got {labelled.dtype}; draw {name}.real"
        raise ValueError(msg)
    return labelled.compute(), lag_dims


def _names(labelled: xr.DataArray) -> list[str]:
    return (
        [str(pair) for pair in labelled.pair.values]
        if "pair" in labelled.coords
        else [f"pair {number}" for number in range(labelled.sizes["pair"])]
    )


@checked
@styled
def draw_radial(
    statistics: ArrayLike,
    std: ArrayLike | None = None,
    *,
    n_spatial: int | None = None,
    title: str | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw 2-point statistics against distance, with error bars, and tangents that show the specific surface.

    Parameters
    ----------
    statistics : array, shape (*lags, n_pairs)
        2-point statistics of one sample or volume.
    std : array, shape (*lags, n_pairs), optional
        Their standard errors, as `correlate_volume` returns them with ``return_std``. The bar of a shell is the mean
        over its lags.
    n_spatial : int, optional
        Number of lag axes. It is required for statistics without labels that can be read in two ways.
    title : str, optional
        Title of the figure.
    figsize : (float, float), optional
        Width and height of the figure, inches.
    ax : matplotlib Axes, optional
        Axes to draw on. Default: a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        A dashed line begins at lag 0 of each autocorrelation that lags of one voxel make known. Its slope is that of a
        material with the same specific surface.

    Raises
    ------
    ValueError
        If `statistics` are those of several samples, or complex, or `std` has another shape or negative numbers.

    Examples
    --------
    >>> from mksdask import PrimitiveBasis
    >>> from mksdask.datasets import make_microstructure
    >>> from mksdask.stats import correlate
    >>> f = correlate(make_microstructure(1, (32, 32)), PrimitiveBasis(2), correlations=[(1, 1)])[0]
    >>> draw_radial(f, n_spatial=2).axes[0].get_xlabel()
    'distance / voxel'
    """
    labelled, lag_dims = _of_one(statistics, n_spatial, "statistics")
    fig, panel = one_panel(ax, figsize, (ONE_COLUMN, 2.6))
    mean = radial_average(labelled)
    errors = None
    if std is not None:
        beside = _of_one(std, n_spatial, "std")[0]
        if beside.shape != labelled.shape or bool((beside < 0).any()):
            msg = (
                f"std must have the shape of statistics, {labelled.shape}, and no negative numbers, got {shown(beside)}"
            )
            raise ValueError(msg)
        errors = radial_average(beside)
    radius = mean.radius.to_numpy()
    surface = None if any(labelled.sizes[dim] < 3 for dim in lag_dims) else specific_surface(labelled)
    own = labelled.state_1 == labelled.state_2 if "state_1" in labelled.coords else None
    for number, name in enumerate(_names(labelled)):
        values, style = mean.isel(pair=number).to_numpy(), style_of(number)
        error = None if errors is None else errors.isel(pair=number).to_numpy()
        panel.errorbar(radius, values, error, markersize=3, capsize=2, label=name, **style)
        # Without labels, a curve that falls from its start is taken for an autocorrelation.
        is_own = bool(own[number]) if own is not None else bool(values[0] >= np.nanmax(values))
        if surface is not None and is_own and len(radius) > 1:
            slope = SLOPES[len(lag_dims)] * float(surface[number])
            last = min(radius[-1], (values[0] - np.nanmin(values)) / slope) if slope > 0 else radius[-1]
            panel.plot([0, last], [values[0], values[0] - slope * last], "--", color=style["color"])
    label_axes(panel, f"distance / {printed_unit(mean.radius.attrs['units'])}", "f(r)", title)
    panel.set_xlim(left=0)
    legend_below([panel], ax, figsize)
    return fig


def _dataset(found: Any, name: str, maker: str, variables: tuple[str, ...]) -> xr.Dataset:
    """Check that an argument is the Dataset that a function returns, and compute it."""
    if not isinstance(found, xr.Dataset) or not all(any(str(v).startswith(w) for v in found) for w in variables):
        msg = f"{name} must be the Dataset that {maker} returns, got {shown(found)}"
        raise TypeError(msg)
    return found.compute()


@checked
@styled
def draw_chord_lengths(
    chords: xr.Dataset,
    *,
    title: str | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw the distribution of chord lengths along each axis.

    Parameters
    ----------
    chords : Dataset
        What `mksdask.stats.chord_lengths` returns.
    title, figsize, ax
        As in `draw_radial`.

    Returns
    -------
    matplotlib.figure.Figure
        Share of the chords of each length, on a logarithmic scale. The legend gives their mean length. Chords that a
        face of the volume cuts do not count.

    Raises
    ------
    TypeError
        If `chords` is something else.

    Examples
    --------
    >>> from mksdask.datasets import make_microstructure
    >>> from mksdask.stats import chord_lengths
    >>> len(draw_chord_lengths(chord_lengths(make_microstructure(1, (32, 32))[0], 1)).axes[0].lines)
    2
    """
    known = _dataset(chords, "chords", "chord_lengths", ("chords_",))
    fig, panel = one_panel(ax, figsize, (ONE_COLUMN, 2.6))
    units = "voxel"
    for number, variable in enumerate(v for v in known if str(v).startswith("chords_")):
        counts, axis = known[variable], str(variable).removeprefix("chords_")
        lengths = counts[counts.dims[0]]
        units = str(lengths.attrs.get("units", units))
        values, total = counts.to_numpy(), int(counts.sum())
        there = values > 0
        mean = float((values * lengths.to_numpy()).sum() / total) if total else np.nan
        label = f"{axis}, mean {mean:.3g} {printed_unit(units)}"
        shares = values[there] / max(1, total)
        panel.plot(lengths.to_numpy()[there], shares, markersize=3, label=label, **style_of(number))
    panel.set_yscale("log")
    label_axes(panel, f"chord length / {printed_unit(units)}", "share of chords", title)
    legend_below([panel], ax, figsize)
    return fig


@checked
@styled
def draw_clusters(
    clusters: xr.Dataset,
    *,
    title: str | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw how many clusters of a phase there are of each size.

    Parameters
    ----------
    clusters : Dataset
        What `mksdask.stats.cluster_statistics` returns.
    title, figsize, ax
        As in `draw_radial`. The default title says how much of the phase lies in the largest cluster, and along which
        axes a cluster reaches from side to side.

    Returns
    -------
    matplotlib.figure.Figure
        Numbers of clusters in classes of size, each twice as wide as the one before.

    Raises
    ------
    TypeError
        If `clusters` is something else.

    Examples
    --------
    >>> from mksdask.datasets import make_microstructure
    >>> from mksdask.stats import cluster_statistics
    >>> draw_clusters(cluster_statistics(make_microstructure(1, (32, 32))[0], 1)).axes[0].get_ylabel()
    'number of clusters'
    """
    known = _dataset(clusters, "clusters", "cluster_statistics", ("counts", "largest", "percolates", "n_clusters"))
    fig, panel = one_panel(ax, figsize, (ONE_COLUMN, 2.6))
    counts, volume = known["counts"].to_numpy(), known["volume"]
    last = int(np.flatnonzero(counts).max(initial=0)) + 1
    edges = volume.to_numpy()[: last + 1]
    widths = np.diff(edges)
    panel.bar(edges[:last], counts[:last], width=widths, align="edge", color=style_of(0)["color"], edgecolor="white")
    through = [str(axis) for axis in known["axis"].to_numpy()[known["percolates"].to_numpy()]]
    told = (
        f"{100 * float(known['largest']):.3g} % of the phase in its largest cluster; from side to side along "
        f"{', '.join(through) or 'no axis'}"
    )
    unit = printed_unit(volume.attrs.get("units", "voxel").removesuffix("^1"))
    label_axes(panel, f"size of a cluster / {unit}", "number of clusters", told if title is None else title)
    panel.set(xscale="log", yscale="log")
    panel.set_ylim(bottom=0.5)
    return fig


@checked
@styled
def draw_reconstruction(
    statistics: ArrayLike,
    structures: xr.Dataset,
    *,
    n_spatial: int | None = None,
    title: str | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw the statistics that were wanted against distance, and those of the structures that were made.

    Parameters
    ----------
    statistics : array, shape (*lags, n_pairs)
        The wanted statistics, with labels of pairs.
    structures : Dataset
        What `mksdask.stats.reconstruct` returns for them.
    n_spatial, title, figsize, ax
        As in `draw_radial`. The default title gives the largest error of a structure.

    Returns
    -------
    matplotlib.figure.Figure
        Circles for what was wanted, a line for each structure.

    Raises
    ------
    TypeError
        If `structures` is something else.
    ValueError
        If `statistics` are those of several samples, or have no labels of pairs.
    """
    labelled, lag_dims = _of_one(statistics, n_spatial, "statistics")
    known = _dataset(structures, "structures", "reconstruct", ("microstructure", "error"))
    if "state_1" not in labelled.coords:
        msg = "statistics must name their pairs; compute them of a labelled array, as open_ensemble returns it"
        raise ValueError(msg)
    pairs = [*zip(labelled.state_1.values.tolist(), labelled.state_2.values.tolist(), strict=True)]
    X = known["microstructure"]
    reach = [(labelled.sizes[dim] - 1) // 2 for dim in lag_dims]
    n_phases = 1 + max(int(X.max()), max(map(max, pairs)))
    made = radial_average(correlate(X, PrimitiveBasis(n_phases), correlations=pairs, cutoff=reach))
    wanted = radial_average(labelled)
    fig, panel = one_panel(ax, figsize, (ONE_COLUMN, 2.6))
    for number, name in enumerate(_names(labelled)):
        color = style_of(number)["color"]
        for sample in range(made.sizes["sample"]):
            label = None if sample else f"{name}, made"
            panel.plot(made.radius, made.isel(sample=sample, pair=number), color=color, linewidth=0.8, label=label)
        look: Any = {"color": color, "linestyle": "", "marker": "o", "fillstyle": "none"}
        panel.plot(wanted.radius, wanted.isel(pair=number), label=f"{name}, wanted", **look)
    error = float(np.sqrt((known["error"] ** 2).mean("pair")).max())
    told = f"error at most {100 * error:.2g} % of f(0) − f(∞)"
    unit = printed_unit(wanted.radius.attrs["units"])
    label_axes(panel, f"distance / {unit}", "f(r)", told if title is None else title)
    legend_below([panel], ax, figsize)
    return fig
