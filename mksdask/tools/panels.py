"""Panels of maps: one row or grid of images with shared scales, 3D fields as three central slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mksdask.arrays import SPATIAL_DIMS

# Tol's bright scheme: distinguishable with any colour vision, and in print.
COLOURS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#BBBBBB")
MARKERS = "osD^vP*X"
# Axes that a caller gives.
Panels: TypeAlias = Axes | Sequence[Axes]
PANEL = 2.1  # inches
MOST_PANELS = 64
CAPTION = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1.0}


@dataclass(frozen=True)
class Grid:
    """Positions of voxels or lags along each axis, and what the axes are called."""

    dims: tuple[str, ...]
    edges: tuple[tuple[float, float], ...]
    units: str

    @classmethod
    def of(cls, positions: Sequence[NDArray[Any]], dims: Sequence[str], units: str) -> Grid:
        """From the centres of the pixels."""
        edges = []
        for centres in positions:
            step = float(centres[-1] - centres[0]) / max(1, len(centres) - 1) if len(centres) > 1 else 1.0
            edges.append((float(centres[0]) - 0.5 * step, float(centres[-1]) + 0.5 * step))
        return cls(tuple(dims), tuple(edges), units)

    def label(self, axis: int) -> str:
        """Axis label with units."""
        return f"{self.dims[axis]} / {self.units}"


def lag_grid(template: xr.DataArray | None, lags: Sequence[int]) -> Grid:
    """Lags from a DataArray's coordinates; else in voxels, lag 0 at n//2 as everywhere in the package."""
    dims = [f"lag {dim}" for dim in SPATIAL_DIMS[: len(lags)]]
    positions: list[NDArray[Any]] = [np.arange(n) - n // 2 for n in lags]
    units = "voxel"
    if template is not None:
        for axis in range(len(lags)):
            dim = str(template.dims[template.ndim - 1 - len(lags) + axis])
            if dim in template.coords:
                positions[axis] = template.coords[dim].values
                units = str(template.coords[dim].attrs.get("units", units))
            dims[axis] = dim.replace("_", " ")
    return Grid.of(positions, dims, units)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of the package's style, which pyplot does not know of."""
    return Figure(figsize=(width, height), layout="constrained", dpi=150)


def one_panel(
    ax: Axes | None, figsize: tuple[float, float] | None, default: tuple[float, float], *, projection: str | None = None
) -> tuple[Figure, Any]:
    """Axes to draw on, and their figure: those that are given, or those of a new figure.

    Raises
    ------
    ValueError
        If they are not of the projection.
    """
    if ax is None:
        fig = new_figure(*(figsize or default))
        return fig, fig.add_subplot(projection=projection)
    if projection == "3d" and not hasattr(ax, "set_zlabel"):
        msg = 'ax must be three-dimensional for three components; make it with projection="3d"'
        raise ValueError(msg)
    return cast("Figure", ax.get_figure()), ax


def check_panels(number: int) -> None:
    """Refuse no panels, or more than can be read, before anything lazy is loaded for them.

    Raises
    ------
    ValueError
    """
    if number < 1:
        msg = "there is nothing to draw, got no fields"
        raise ValueError(msg)
    if number > MOST_PANELS:
        msg = f"{number} panels are too many to be read; draw at most {MOST_PANELS}, such as X[:8]"
        raise ValueError(msg)


def phase_colours(n_phases: int) -> tuple[Colormap, BoundaryNorm]:
    """Discrete, perceptually uniform colours, one a phase."""
    samples = mpl.colormaps["cividis"](np.linspace(0.0, 1.0, max(2, n_phases)))
    return ListedColormap(samples[:n_phases]), BoundaryNorm(np.arange(n_phases + 1) - 0.5, n_phases)


def scale_of(fields: NDArray[Any], *, diverging: bool = False) -> tuple[Colormap, Normalize]:
    """Colours and limits shared by all panels; symmetric about 0 if diverging."""
    finite = fields[np.isfinite(fields)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if diverging:
        bound = max(abs(low), abs(high)) or 1.0
        return mpl.colormaps["RdBu_r"], Normalize(-bound, bound)
    if np.isclose(low, high, rtol=1e-12, atol=0.0):
        low, high = low - 0.5, high + 0.5
    return mpl.colormaps["viridis"], Normalize(low, high)


def _slices(field: NDArray[Any]) -> list[tuple[NDArray[Any], tuple[int, int]]]:
    """The 2D images of a field, with the axes that run right and up."""
    if field.ndim == 2:
        return [(field, (0, 1))]
    centre = [n // 2 for n in field.shape]
    return [(field[:, :, centre[2]], (0, 1)), (field[:, centre[1], :], (0, 2)), (field[centre[0]], (1, 2))]


def draw_maps(
    axes: Sequence[Axes], field: NDArray[Any], grid: Grid, colours: Colormap, norm: Normalize, title: str
) -> None:
    """Draw one field into its panels: a curve in 1D, one image in 2D, three central slices in 3D."""
    if field.ndim == 1:
        low, high = grid.edges[0]
        centres = low + (np.arange(len(field)) + 0.5) * (high - low) / len(field)
        axes[0].plot(centres, field, color=COLOURS[0], drawstyle="steps-mid" if len(field) < 200 else "default")
        axes[0].set(title=title, xlabel=grid.label(0), ylim=_padded(norm))
        return
    for panel, (image, (right, up)) in zip(axes, _slices(field), strict=True):
        panel.imshow(
            image.T,
            origin="lower",
            extent=(*grid.edges[right], *grid.edges[up]),
            cmap=colours,
            norm=norm,
            interpolation="none",
        )
        panel.set(xlabel=grid.label(right), ylabel=grid.label(up))
        # Of a fixed number: ticks that follow the size of the panel change after the layout has made room for them.
        panel.locator_params(nbins=4)
        if field.ndim == 3:
            across = 3 - right - up
            (low, high), n = grid.edges[across], field.shape[across]
            position = low + (n // 2 + 0.5) * (high - low) / n
            text = f"{grid.dims[across]} = {position:.3g}"
            panel.text(0.03, 0.96, text, transform=panel.transAxes, va="top", fontsize=6, bbox=CAPTION)
    axes[(len(axes) - 1) // 2].set_title(title, fontsize="medium")


def _padded(norm: Normalize) -> tuple[float, float]:
    low, high = float(norm.vmin or 0.0), float(norm.vmax or 1.0)
    margin = 0.05 * (high - low)
    return low - margin, high + margin


def maps_figure(
    fields: Sequence[NDArray[Any]],
    titles: Sequence[str],
    grid: Grid,
    scales: Sequence[tuple[Colormap, Normalize]],
    bar_labels: Sequence[str],
    *,
    shared: bool = True,
    columns: int | None = None,
    figsize: tuple[float, float] | None = None,
    ticks: Sequence[tuple[Sequence[float], Sequence[str]] | None] | None = None,
    ax: Panels | None = None,
) -> Figure:
    """Panels for all fields, with one colour bar if `shared`, else one each; on the axes given, or on a new figure.

    Raises
    ------
    ValueError
        If the numbers of fields and titles differ, or of panels and axes; or the fields have no 1 to 3 axes.
    """
    if len(fields) != len(titles):
        msg = f"labels must name each of the {len(fields)} panels, got {len(titles)}: {list(titles)!r}"
        raise ValueError(msg)
    dim = fields[0].ndim
    if not 1 <= dim <= 3:
        msg = f"fields must have 1 to 3 spatial axes, got shape {fields[0].shape}"
        raise ValueError(msg)
    per_field = 3 if dim == 3 else 1
    columns = columns or (1 if dim == 3 else min(len(fields), 4))
    rows = -(-len(fields) // columns)
    if ax is None:
        # One panel alone still has to hold its title beside the colour bar.
        width = max(PANEL * per_field * columns + 1.0, 3.6)
        fig = new_figure(*(figsize or (width, (PANEL + 0.35) * rows + 0.2)))
        panels = np.asarray(fig.subplots(rows, columns * per_field, squeeze=False)).reshape(rows * columns, per_field)
    else:
        given = np.ravel(np.asarray(ax, dtype=object))
        if len(given) != len(fields) * per_field:
            msg = f"ax must hold {len(fields) * per_field} axes, one for each panel, got {len(given)}"
            raise ValueError(msg)
        panels, fig = given.reshape(len(fields), per_field), cast("Figure", given[0].get_figure())
    for index, (field, title) in enumerate(zip(fields, titles, strict=True)):
        draw_maps(list(panels[index]), field, grid, *scales[index], title)
    for unused in panels[len(fields) :].ravel():
        unused.set_axis_off()
    if dim == 1:
        panels[0, 0].set_ylabel(bar_labels[0])
        return fig
    groups = [list(panels[: len(fields)].ravel())] if shared else [list(group) for group in panels[: len(fields)]]
    for index, group in enumerate(groups):
        mappable = ScalarMappable(scales[index][1], scales[index][0])
        bar = fig.colorbar(mappable, ax=group, shrink=0.85, pad=0.02, aspect=20 * max(1, rows - 1))
        bar.set_label(bar_labels[index])
        if ticks is not None and (tick := ticks[index]) is not None:
            bar.set_ticks(list(tick[0]), labels=list(tick[1]))
    return fig
