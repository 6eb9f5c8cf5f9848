"""Panels of maps: a row or a grid of images with shared colour scales. A 3D field is drawn as three central slices.

All maps are drawn as an image is shown: the first axis runs to the right, and the second runs downwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, TypeAlias, cast

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from mksdask.arrays import SPATIAL_DIMS, Array, dims_of, shown
from mksdask.display.cards import COLOURS, printed_unit
from mksdask.labels import sample_index
from mksdask.tools.layout import LABELS, LETTER, LINE, fitted, legend_below, room_of, size_of
from mksdask.tools.style import ONE_COLUMN, TWO_COLUMNS, PrintFigure

MARKERS = "osD^vP*X"
# The axes that a caller passes as `ax`.
Panels: TypeAlias = Axes | Sequence[Axes]
MOST_PANELS = 64
# Inches: the least width of a panel, the most height of one, the room of a colour bar, and its width.
PANEL, TALLEST, BAR, THICK = 1.05, 2.4, 0.55, 0.07


@dataclass(frozen=True)
class Scale:
    """Colours of the panels that share it. `names` of phases stand in a legend; other values have a colour bar."""

    colours: Colormap
    norm: Normalize
    label: str = ""
    names: tuple[str, ...] = ()


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
        return f"{self.dims[axis]} / {printed_unit(self.units)}"

    def length(self, axis: int) -> float:
        """Length of an axis."""
        low, high = self.edges[axis]
        return high - low


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


def new_figure(width: float, height: float, *, layout: Literal["constrained", "compressed"] = "constrained") -> Figure:
    """Make an empty figure in the style of the package. It is not registered with pyplot."""
    return PrintFigure(figsize=(width, height), layout=layout, dpi=150)


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


def panel_grid(
    ax: Any,
    number: int,
    columns: int,
    size: tuple[float, float],
    *,
    is_images: bool = False,
    sharex: bool = False,
    sharey: bool = False,
) -> tuple[Figure, list[Axes]]:
    """Return a figure and its panels, in rows: the axes that the caller gives, or those of a new figure."""
    if ax is not None:
        given = list(axes_argument(ax, number))
        return cast("Figure", given[0].get_figure()), given
    # Images of one shape stand close together, and colour bars are as high as they are.
    fig = new_figure(*size, layout="compressed" if is_images else "constrained")
    rows = -(-number // columns)
    panels = fig.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey).ravel()
    for unused in panels[number:]:
        unused.remove()
    return fig, list(panels[:number])


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


def titles_of_samples(titles: Sequence[str] | None, samples: Any, n: int) -> list[str]:
    """Return the titles that the caller gave, otherwise the labels of the samples or their numbers."""
    index = sample_index(samples) if "sample" in dims_of(samples) else None
    labels = range(n) if index is None else index
    return titles_of(titles, [label if isinstance(label, str) else f"sample {label}" for label in labels])


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


def phase_scale(names: Sequence[str]) -> Scale:
    """Choose discrete colours that look equally far apart, one for each phase."""
    n = len(names)
    samples = mpl.colormaps["cividis"](np.linspace(0.0, 1.0, max(2, n)))
    return Scale(ListedColormap(samples[:n]), BoundaryNorm(np.arange(n + 1) - 0.5, n), "phase", tuple(names))


def scale_of(fields: Array, label: str = "", *, about: float | None = None) -> Scale:
    """Choose colours and limits that hold all values. With `about`, the colours diverge from this value."""
    if np.iscomplexobj(fields):
        msg = f"a figure shows real numbers, got fields of dtype {fields.dtype}; draw their .real or np.abs of them"
        raise TypeError(msg)
    finite = fields[np.isfinite(fields)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if about is not None:
        bound = max(abs(low - about), abs(high - about)) or 1.0
        # White is a value here, so that voxels without one are grey.
        return Scale(mpl.colormaps["RdBu_r"].with_extremes(bad="0.6"), Normalize(about - bound, about + bound), label)
    # What differs by rounding alone is flat.
    if np.isclose(low, high, rtol=16 * np.finfo(np.result_type(fields, np.float32)).eps, atol=0.0):
        low, high = low - 0.5, high + 0.5
    return Scale(mpl.colormaps["viridis"], Normalize(low, high), label)


def scales_of(fields: Sequence[Array], label: str, *, about: float | None = None) -> list[Scale]:
    """Choose one scale for all fields, or one for each if some of them would be flat in a common one."""
    common = scale_of(np.stack(fields), label, about=about)
    own = [scale_of(field, label, about=about) for field in fields]
    width = float(np.diff(_limits(common.norm))[0])
    return [common] * len(own) if all(np.diff(_limits(each.norm))[0] > 0.5 * width for each in own) else own


def _limits(norm: Normalize) -> tuple[float, float]:
    return float(norm.vmin or 0.0), float(norm.vmax or 0.0)


def _slices(field: Array, dim: int) -> list[tuple[Array, tuple[int, int]]]:
    """List the 2D images of a field. Beside each stand the axis that runs right and the axis that runs down."""
    if dim == 2:
        return [(field, (0, 1))]
    centre = [n // 2 for n in field.shape[:dim]]
    return [(field[:, :, centre[2]], (0, 1)), (field[:, centre[1], :], (0, 2)), (field[centre[0]], (1, 2))]


def draw_maps(axes: Sequence[Axes], field: Array, extent: Extent, scale: Scale | None, title: str) -> None:
    """Draw one field on its panels: a curve in 1D, one image in 2D, three central slices in 3D.

    Without a scale, the last axis of the field holds red, green and blue. In 1D they are drawn as a strip.
    """
    dim = len(extent.edges)
    middle = axes[(len(axes) - 1) // 2]
    title = fitted(title, room_of(middle, len(axes))[0])
    middle.set_title(title)
    if dim == 1 and scale is None:
        axes[0].imshow(field[None], extent=(*extent.edges[0], 0.0, 1.0), aspect="auto", interpolation="none")
        axes[0].set(xlabel=extent.label(0), yticks=[])
        return
    if dim == 1 and scale is not None:
        low, high = extent.edges[0]
        centres = low + (np.arange(len(field)) + 0.5) * (high - low) / len(field)
        axes[0].plot(centres, field, color=COLOURS[0], drawstyle="steps-mid" if len(field) < 200 else "default")
        bottom, top = _limits(scale.norm)
        margin = 0.05 * (top - bottom)
        axes[0].set(xlabel=extent.label(0), ylabel=scale.label, ylim=(bottom - margin, top + margin))
        if scale.names:
            axes[0].set_yticks(range(len(scale.names)), labels=scale.names)
        return
    for panel, (image, (right, down)) in zip(axes, _slices(field, dim), strict=True):
        panel.imshow(
            image.swapaxes(0, 1),
            origin="upper",
            extent=(*extent.edges[right], *extent.edges[down][::-1]),
            cmap=None if scale is None else scale.colours,
            norm=None if scale is None else scale.norm,
            interpolation="none",
        )
        panel.set(xlabel=extent.label(right), ylabel=extent.label(down))
        # The number of ticks is fixed. Otherwise it could change after the layout has made room for the labels.
        panel.locator_params(nbins=4)
        if dim == 3:
            across = 3 - right - down
            step = extent.length(across) / field.shape[across]
            # Rounding errors are no position, nor is -0.
            position = step * round(extent.edges[across][0] / step + field.shape[across] // 2 + 0.5, 6) + 0.0
            text = f"{extent.dims[across]} = {position:g} {printed_unit(extent.units)}"
            panel.set_title(f"{title}\n{text}".strip() if panel is middle else text)


def _columns(fields: int, dim: int) -> int:
    """Choose how many fields stand beside one another: up to four, in rows that are about as long."""
    return 1 if dim == 3 else -(-fields // -(-fields // 4))


def maps_figure(
    fields: Sequence[Array],
    titles: Sequence[str],
    extent: Extent,
    scales: Sequence[Scale],
    *,
    columns: int | None = None,
    note: str = "",
    figsize: tuple[float, float] | None = None,
    ax: Panels | None = None,
) -> Figure:
    """Draw all fields, on the given axes or on a new figure. Neighbours with the same scale share a colour bar.

    If there are no scales, the fields hold red, green and blue, and `note` says below them what the colours mean.
    A new figure is as wide as one column of a journal if its panels fit, otherwise as wide as two.

    Raises
    ------
    ValueError
        If the numbers of fields and titles differ, if the numbers of panels and axes differ, or if the fields do not
        have 1 to 3 axes.
    """
    n = len(fields)
    if n != len(titles):
        msg = f"labels must name each of the {n} panels, got {len(titles)}: {list(titles)!r}"
        raise ValueError(msg)
    check_panels(n)
    dim = fields[0].ndim - (not scales)
    if 0 in fields[0].shape or fields[0].dtype.kind not in "biuf":
        msg = f"fields must hold real numbers in voxels, got shape {fields[0].shape} and dtype {fields[0].dtype}"
        raise ValueError(msg)
    if not 1 <= dim <= 3:
        msg = f"fields must have 1 to 3 spatial axes, got shape {fields[0].shape}"
        raise ValueError(msg)
    slices, columns = 3 if dim == 3 else 1, columns or _columns(n, dim)
    of_fields: list[Scale | None] = [*scales] or [None] * n
    size = figsize or _size_of(titles, columns, extent, of_fields)
    fig, given = panel_grid(ax, n * slices, columns * slices, size, is_images=dim == 2)
    panels = [given[start : start + slices] for start in range(0, n * slices, slices)]
    for index, (field, title, scale) in enumerate(zip(fields, titles, of_fields, strict=True)):
        draw_maps(panels[index], field, extent, scale, title)
        if ax is None:
            is_alone = dim == 1 and of_fields[index] is not of_fields[index - 1]
            is_left = index % columns == 0 or is_alone
            _share_axes(panels[index], is_left=is_left, is_lowest=index + columns >= n)
    if note and ax is None:
        fig.supxlabel(fitted(note, 1.2 * fig.get_figwidth()), fontsize=6.5)
    if dim > 1:
        for _, group in groupby(range(n), key=lambda index: id(of_fields[index])):
            chosen = list(group)
            is_last = chosen[-1] == n - 1 or (chosen[-1] + 1) % columns == 0
            scale, shown_on = of_fields[chosen[0]], [panel for index in chosen for panel in panels[index]]
            if scale is not None and scale.names:
                legend_below(shown_on, ax, figsize, _patches(scale))
            elif scale is not None:
                colour_bar(shown_on, scale, scale.label if is_last or ax is not None else "")
    return fig


def _share_axes(panels: Sequence[Axes], *, is_left: bool, is_lowest: bool) -> None:
    """Leave the labels of axes to the panels at the left and at the bottom. Slices of a volume have other axes."""
    for panel in panels:
        if not is_lowest:
            panel.set_xlabel("")
            panel.tick_params(labelbottom=False)
        if not is_left:
            panel.set_ylabel("")
            panel.tick_params(labelleft=False)


def _patches(scale: Scale) -> list[Patch]:
    """Make the handles of a legend of phases."""
    colours = scale.colours(scale.norm(np.arange(len(scale.names))))
    return [
        Patch(facecolor=colour, edgecolor="0.3", linewidth=0.4, label=name)
        for name, colour in zip(scale.names, colours, strict=True)
    ]


def colour_bar(panels: Sequence[Axes], scale: Scale, label: str) -> None:
    """Add the colour bar of panels that share a scale."""
    fig = cast("Figure", panels[0].get_figure())
    rows = len({spec.rowspan.start for panel in panels if (spec := panel.get_subplotspec()) is not None})
    mappable = ScalarMappable(scale.norm, scale.colours)
    # As with the panels, the number of ticks is fixed.
    box, (across, down) = panels[0].get_position(original=True), size_of(panels[0])
    height = max(1, rows) * min(box.height * down, box.width * across * panels[0].get_data_ratio())
    ticks = MaxNLocator(min(5, max(2, int(height / LINE))))
    bar = fig.colorbar(mappable, ax=list(panels), shrink=0.9, pad=0.02, aspect=height / THICK, ticks=ticks)
    bar.set_label(fitted(label, height))
    bar.outline.set_linewidth(0.4)


def _size_of(
    titles: Sequence[str], columns: int, extent: Extent, scales: Sequence[Scale | None]
) -> tuple[float, float]:
    """Choose the width and height of a figure in inches: one or two columns of a journal, panels in proportion."""
    dim, rows = len(extent.edges), -(-len(titles) // columns)
    across = columns * (3 if dim == 3 else 1)
    bars = 0
    if dim > 1:
        first = [scale for scale in scales[:columns] if scale is not None and not scale.names]
        bars = len({id(scale) for scale in first})
    around = LABELS * (3 if dim == 3 else 1) + BAR * bars
    pairs = [(0, 1), (0, 2), (1, 2)] if dim == 3 else [(0, 1)]
    ratio = 0.75 if dim == 1 else max(extent.length(down) / extent.length(right) for right, down in pairs)
    longest = max((len(word) for title in titles if "$" not in title for word in title.split()), default=0)
    # Panels that are as tall as they may be are narrow.
    least = max(min(PANEL, max(0.6, TALLEST / ratio)), LETTER * longest if dim < 3 else 0.0)
    width = ONE_COLUMN if around + across * least <= ONE_COLUMN else TWO_COLUMNS
    # Very many panels are for a screen.
    width = max(width, around + across * 0.6)
    tall = ratio * (width - around) / across
    has_note = any(scale is None for scale in scales)
    return width, rows * (min(max(tall, 0.5), TALLEST) + 2 * LINE) + LABELS + 1.5 * LINE * has_note
