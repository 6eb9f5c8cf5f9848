"""Panels of maps: a row or a grid of images with shared colour scales. A 3D field is drawn as three central slices."""

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

from mksdask.arrays import SPATIAL_DIMS, Array, shown
from mksdask.display.cards import COLOURS

MARKERS = "osD^vP*X"
# The axes that a caller passes as `ax`.
Panels: TypeAlias = Axes | Sequence[Axes]
PANEL = 2.1  # inches
MOST_PANELS = 64
# Fields of colours have no scale.
_NO_SCALE = (mpl.colormaps["gray"], Normalize(0.0, 1.0))
CAPTION = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1.0}


@dataclass(frozen=True)
class Extent:
    """The region that a map covers, and the names and units of its axes."""

    dims: tuple[str, ...]
    edges: tuple[tuple[float, float], ...]
    units: str

    @classmethod
    def of(cls, positions: Sequence[Array], dims: Sequence[str], units: str) -> Extent:
        """Make an extent from the positions of the pixels' centres."""
        edges = []
        for centres in positions:
            if not len(centres):
                msg = "fields must hold voxels along each axis, got an axis of length 0"
                raise ValueError(msg)
            step = float(centres[-1] - centres[0]) / max(1, len(centres) - 1) if len(centres) > 1 else 1.0
            edges.append((float(centres[0]) - 0.5 * step, float(centres[-1]) + 0.5 * step))
        return cls(tuple(dims), tuple(edges), units)

    def label(self, axis: int) -> str:
        """Axis label with units."""
        return f"{self.dims[axis]} / {self.units}"


def lag_extent(template: xr.DataArray | None, lags: Sequence[int]) -> Extent:
    """Extent of a map of lags: from the coordinates of a DataArray, otherwise in voxels with lag 0 at index n//2."""
    dims = [f"lag {dim}" for dim in SPATIAL_DIMS[: len(lags)]]
    positions: list[Array] = [np.arange(n) - n // 2 for n in lags]
    units = "voxel"
    if template is not None:
        for axis in range(len(lags)):
            dim = str(template.dims[template.ndim - 1 - len(lags) + axis])
            if dim in template.coords:
                positions[axis] = template.coords[dim].values
                units = str(template.coords[dim].attrs.get("units", units))
            dims[axis] = dim.replace("_", " ")
    return Extent.of(positions, dims, units)


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure in the style of the package. It is not registered with pyplot."""
    return Figure(figsize=(width, height), layout="constrained", dpi=150)


def axes_argument(ax: Any, number: int) -> NDArray[Any]:
    """Check axes of matplotlib to draw on, and return them in one row.

    Raises
    ------
    TypeError
        If `ax` holds something else.
    ValueError
        If it holds another number of axes.
    """
    is_one = not isinstance(ax, list | tuple | np.ndarray)
    if is_one and not isinstance(ax, Axes):
        msg = f"ax must be axes of matplotlib, one for each panel, got {shown(ax)}"
        raise TypeError(msg)
    try:
        given = np.ravel(np.array([ax] if is_one else ax, dtype=object))
    except (TypeError, ValueError):
        given = np.full(1, None)
    if not all(isinstance(each, Axes) for each in given):
        msg = f"ax must be axes of matplotlib, one for each panel, got {shown(ax)}"
        raise TypeError(msg)
    if len(given) != number:
        msg = f"ax must hold {number} axes, one for each panel, got {len(given)}"
        raise ValueError(msg)
    return given


def one_panel(
    ax: Axes | None, figsize: tuple[float, float] | None, default: tuple[float, float], *, projection: str | None = None
) -> tuple[Figure, Any]:
    """Return a figure and the axes to draw on. A new figure is made if the caller gives no axes.

    Raises
    ------
    ValueError
        If `projection` is "3d" and `ax` is not three-dimensional.
    """
    if ax is None:
        fig = new_figure(*(default if figsize is None else figsize))
        return fig, fig.add_subplot(projection=projection)
    (ax,) = axes_argument([ax], 1)
    if projection == "3d" and not hasattr(ax, "set_zlabel"):
        msg = 'ax must be three-dimensional for three components; make it with projection="3d"'
        raise ValueError(msg)
    return cast("Figure", ax.get_figure()), ax


def check_panels(number: int) -> None:
    """Check the number of panels before any lazy data is loaded.

    Raises
    ------
    ValueError
        If there are no panels, or more than a reader can make out.
    """
    if number < 1:
        msg = "there is nothing to draw: the input holds no fields; pass at least one"
        raise ValueError(msg)
    if number > MOST_PANELS:
        msg = f"got {number} panels, too many to read; draw at most {MOST_PANELS}, such as X[:8]"
        raise ValueError(msg)


def titles_of(titles: Sequence[str] | None, defaults: list[str]) -> list[str]:
    """Return the titles that the caller gave, or the defaults if there are none."""
    return defaults if titles is None else list(titles)


def names_of_sets(sets: Sequence[Any], labels: Sequence[str] | None, what: str) -> list[str]:
    """Return one name for each set of data. The names are empty if there are no labels.

    Raises
    ------
    ValueError
        If the numbers of sets and labels differ.
    """
    names = titles_of(labels, [""] * len(sets))
    if len(names) != len(sets):
        msg = f"labels must name each of the {len(sets)} {what}, got {len(names)}: {names!r}"
        raise ValueError(msg)
    return names


def style_of(index: int) -> dict[str, Any]:
    """Choose the colour and the marker of one of several curves or sets of points."""
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}


def phase_colours(n_phases: int) -> tuple[Colormap, BoundaryNorm]:
    """Choose discrete colours that look equally far apart, one for each phase."""
    samples = mpl.colormaps["cividis"](np.linspace(0.0, 1.0, max(2, n_phases)))
    return ListedColormap(samples[:n_phases]), BoundaryNorm(np.arange(n_phases + 1) - 0.5, n_phases)


def scale_of(fields: Array, *, diverging: bool = False) -> tuple[Colormap, Normalize]:
    """Choose the colours and limits that all panels share. Diverging limits are symmetric about 0."""
    if np.iscomplexobj(fields):
        msg = f"a figure shows real numbers, got fields of dtype {fields.dtype}; draw their .real or np.abs of them"
        raise TypeError(msg)
    finite = fields[np.isfinite(fields)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if diverging:
        bound = max(abs(low), abs(high)) or 1.0
        return mpl.colormaps["RdBu_r"], Normalize(-bound, bound)
    if np.isclose(low, high, rtol=1e-12, atol=0.0):
        low, high = low - 0.5, high + 0.5
    return mpl.colormaps["viridis"], Normalize(low, high)


def _slices(field: Array, dim: int) -> list[tuple[Array, tuple[int, int]]]:
    """List the 2D images of a field. Beside each stand the axis that runs right and the axis that runs up."""
    if dim == 2:
        return [(field, (0, 1))]
    centre = [n // 2 for n in field.shape[:dim]]
    return [(field[:, :, centre[2]], (0, 1)), (field[:, centre[1], :], (0, 2)), (field[centre[0]], (1, 2))]


def draw_maps(
    axes: Sequence[Axes], field: Array, extent: Extent, colours: Colormap, norm: Normalize, title: str
) -> None:
    """Draw one field on its panels: a curve in 1D, one image in 2D, three central slices in 3D.

    A field with one more axis than the extent holds red, green and blue. In 1D they are drawn as a strip.
    """
    dim, has_colours = len(extent.edges), field.ndim > len(extent.edges)
    if dim == 1 and has_colours:
        axes[0].imshow(field[None], extent=(*extent.edges[0], 0.0, 1.0), aspect="auto", interpolation="none")
        axes[0].set(title=title, xlabel=extent.label(0), yticks=[])
        return
    if dim == 1:
        low, high = extent.edges[0]
        centres = low + (np.arange(len(field)) + 0.5) * (high - low) / len(field)
        axes[0].plot(centres, field, color=COLOURS[0], drawstyle="steps-mid" if len(field) < 200 else "default")
        axes[0].set(title=title, xlabel=extent.label(0), ylim=_padded(norm))
        return
    for panel, (image, (right, up)) in zip(axes, _slices(field, dim), strict=True):
        panel.imshow(
            image.swapaxes(0, 1),
            origin="lower",
            extent=(*extent.edges[right], *extent.edges[up]),
            cmap=colours,
            norm=norm,
            interpolation="none",
        )
        panel.set(xlabel=extent.label(right), ylabel=extent.label(up))
        # The number of ticks is fixed. Otherwise it could change after the layout has made room for the labels.
        panel.locator_params(nbins=4)
        if dim == 3:
            across = 3 - right - up
            (low, high), n = extent.edges[across], field.shape[across]
            position = low + (n // 2 + 0.5) * (high - low) / n
            text = f"{extent.dims[across]} = {position:.3g}"
            panel.text(0.03, 0.96, text, transform=panel.transAxes, va="top", fontsize=6, bbox=CAPTION)
    axes[(len(axes) - 1) // 2].set_title(title, fontsize="medium")


def _padded(norm: Normalize) -> tuple[float, float]:
    low, high = float(norm.vmin or 0.0), float(norm.vmax or 1.0)
    margin = 0.05 * (high - low)
    return low - margin, high + margin


def maps_figure(
    fields: Sequence[Array],
    titles: Sequence[str],
    extent: Extent,
    scales: Sequence[tuple[Colormap, Normalize]],
    bar_labels: Sequence[str],
    *,
    shared: bool = True,
    columns: int | None = None,
    legend: str = "",
    figsize: tuple[float, float] | None = None,
    ticks: Sequence[tuple[Sequence[float], Sequence[str]] | None] | None = None,
    ax: Panels | None = None,
) -> Figure:
    """Draw all fields, on the given axes or on a new figure. `shared` panels have one colour bar in common.

    If there are no scales, the fields hold red, green and blue, and `legend` says below them what the colours mean.

    Raises
    ------
    ValueError
        If the numbers of fields and titles differ, if the numbers of panels and axes differ, or if the fields do not
        have 1 to 3 axes.
    """
    if len(fields) != len(titles):
        msg = f"labels must name each of the {len(fields)} panels, got {len(titles)}: {list(titles)!r}"
        raise ValueError(msg)
    check_panels(len(fields))
    dim = fields[0].ndim - (not scales)
    if 0 in fields[0].shape or fields[0].dtype.kind not in "biuf":
        msg = f"fields must hold real numbers in voxels, got shape {fields[0].shape} and dtype {fields[0].dtype}"
        raise ValueError(msg)
    if not 1 <= dim <= 3:
        msg = f"fields must have 1 to 3 spatial axes, got shape {fields[0].shape}"
        raise ValueError(msg)
    per_field = 3 if dim == 3 else 1
    columns = columns or (1 if dim == 3 else min(len(fields), 4))
    rows = -(-len(fields) // columns)
    if ax is None:
        # A single panel must still be wide enough for its title beside the colour bar.
        width = max(PANEL * per_field * columns + 1.0, 3.6)
        fig = new_figure(*((width, (PANEL + 0.35) * rows + 0.2) if figsize is None else figsize))
        panels = np.asarray(fig.subplots(rows, columns * per_field, squeeze=False)).reshape(rows * columns, per_field)
    else:
        given = axes_argument(ax, len(fields) * per_field)
        panels, fig = given.reshape(len(fields), per_field), cast("Figure", given[0].get_figure())
    for index, (field, title) in enumerate(zip(fields, titles, strict=True)):
        draw_maps(list(panels[index]), field, extent, *(scales[index] if scales else _NO_SCALE), title)
    for unused in panels[len(fields) :].ravel():
        unused.set_axis_off()
    if not scales:
        if ax is None:
            fig.supxlabel(legend, fontsize="x-small")
        return fig
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
