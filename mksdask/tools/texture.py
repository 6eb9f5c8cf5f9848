"""Figures of texture: pole figures, sections of the orientation distribution function, and misorientations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mksdask.arrays import ArrayLike, numbers_argument, shown
from mksdask.bases.gsh import GSHBasis
from mksdask.schema.arguments import checked
from mksdask.texture.distribution import odf, pole_figure
from mksdask.texture.misorientations import mackenzie_density
from mksdask.tools.layout import LINE, label_axes, legend_below, room_of
from mksdask.tools.panels import (
    Panels,
    check_panels,
    colour_bar,
    names_of_sets,
    one_panel,
    panel_grid,
    scale_of,
    style_of,
)
from mksdask.tools.style import ONE_COLUMN, TWO_COLUMNS, styled

FINE = np.deg2rad(2.5)
DENSITY = "multiples of random"


def _of_one(found: xr.DataArray) -> xr.DataArray:
    """Compute a result of one sample.

    Raises
    ------
    ValueError
        If it is of several samples.
    """
    if "sample" in found.dims or found.ndim > 3 or "function" in found.dims:
        msg = "coefficients must be those of one sample, got several; select one, such as coefficients[0]"
        raise ValueError(msg)
    return found.compute()


def _name_of(pole: Sequence[float]) -> str:
    """Write a direction as Miller indices are written, such as 111."""
    numbers = [f"{number:g}" for number in pole]
    return ("" if all(len(number) == 1 for number in numbers) else " ").join(numbers)


@checked
@styled
def draw_pole_figure(
    coefficients: ArrayLike,
    basis: GSHBasis,
    poles: Sequence[Sequence[float]] = ((0, 0, 1), (1, 1, 0), (1, 1, 1)),
    *,
    labels: Sequence[str] | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Panels | None = None,
) -> Figure:
    """Draw pole figures in equal-area projection, in multiples of a random distribution.

    Parameters
    ----------
    coefficients : array, shape (n_functions,)
        Texture coefficients of one sample or volume, as `mksdask.texture.texture_coefficients` returns them.
    basis : GSHBasis
        The basis of the coefficients.
    poles : sequence of (float, float, float)
        Directions of the crystal, one for each panel, as in `mksdask.texture.pole_figure`.
    labels : sequence of str, optional
        Titles of the panels.
    figsize : (float, float), optional
        Width and height of the figure, inches.
    ax : matplotlib Axes or a sequence of them, optional
        Axes to draw on, one for each pole. Default: a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        As in maps, x runs to the right and y downwards, so z points away from the viewer. Opposite directions have the
        same value. A white line is drawn where the density is 1.

    Raises
    ------
    TypeError, ValueError
        As in `mksdask.texture.pole_figure`, or if the coefficients are those of several samples.

    Examples
    --------
    >>> import numpy as np
    >>> from mksdask import GSHBasis
    >>> from mksdask.texture import texture_coefficients
    >>> basis = GSHBasis(None, domain="cubic", max_degree=8)
    >>> C = texture_coefficients(np.zeros((1, 4, 4, 3)), basis, halfwidth=0.3)
    >>> [panel.get_title() for panel in draw_pole_figure(C[0], basis).axes[:3]]
    ['001', '110', '111']
    """
    given = np.atleast_2d(numbers_argument(poles, "poles"))
    if given.ndim != 2 or given.shape[1] != 3:
        msg = f"poles must be directions of three numbers, such as [(0, 0, 1), (1, 1, 1)], got {shown(poles)}"
        raise ValueError(msg)
    check_panels(len(given))
    titles = names_of_sets([*given], [_name_of(pole) for pole in given] if labels is None else labels, "poles")
    found = [_of_one(pole_figure(coefficients, basis, pole, step=FINE)) for pole in given]
    scale = scale_of(np.stack([each.values for each in found]))
    columns = min(len(found), 4)
    width = ONE_COLUMN if columns == 1 else TWO_COLUMNS
    height = -(-len(found) // columns) * ((width - 0.9) / columns + 0.25)
    fig, panels = panel_grid(ax, len(found), columns, figsize or (width, height), is_images=True)
    for panel, each, title in zip(panels, found, titles, strict=True):
        radius = np.sqrt(2.0) * np.sin(0.5 * each.polar.to_numpy())[:, None]
        x, y = radius * np.cos(each.azimuth.to_numpy()), radius * np.sin(each.azimuth.to_numpy())
        panel.pcolormesh(x, y, each.to_numpy(), cmap=scale.colours, norm=scale.norm, shading="gouraud", rasterized=True)
        if each.min() < 1 < each.max():
            panel.contour(x, y, each.to_numpy(), [1.0], colors="white", linewidths=0.6)
        angle = np.linspace(0, 2 * np.pi, 181)
        panel.plot(np.cos(angle), np.sin(angle), color="0.2", linewidth=0.6, clip_on=False)
        panel.text(1.05, 0.0, "x", va="center", ha="left")
        panel.text(0.0, 1.05, "y", va="top", ha="center")
        panel.set(aspect="equal", xlim=(-1.16, 1.16), ylim=(1.2, -1.04), title=title)
        panel.set_axis_off()
    colour_bar(panels, scale, DENSITY)
    return fig


@checked
@styled
def draw_odf(
    coefficients: ArrayLike,
    basis: GSHBasis,
    sections: Sequence[float] | None = None,
    *,
    figsize: tuple[float, float] | None = None,
    ax: Panels | None = None,
) -> Figure:
    """Draw sections of the orientation distribution function at constant φ2, in multiples of a random distribution.

    Parameters
    ----------
    coefficients, basis
        As in `draw_pole_figure`.
    sections : sequence of float, optional
        Angles φ2 of the sections, in radians. Default: six that divide the period of the crystal.
    figsize : (float, float), optional
        Width and height of the figure, inches.
    ax : matplotlib Axes or a sequence of them, optional
        Axes to draw on, one for each section. Default: a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        φ1 runs to the right and Φ downwards, in degrees, as Bunge draws them. A white line is drawn where the density
        is 1.

    Raises
    ------
    TypeError, ValueError
        As in `mksdask.texture.odf`, or if the coefficients are those of several samples.

    Examples
    --------
    >>> import numpy as np
    >>> from mksdask import GSHBasis
    >>> from mksdask.texture import texture_coefficients
    >>> basis = GSHBasis(None, domain="cubic", max_degree=8)
    >>> C = texture_coefficients(np.zeros((1, 4, 4, 3)), basis, halfwidth=0.3)
    >>> draw_odf(C[0], basis, [np.pi / 4]).axes[0].get_title()
    'φ₂ = 45°'
    """
    whole = _of_one(odf(coefficients, basis, step=np.pi / 4))
    if sections is None:
        chosen = np.linspace(0.0, float(whole.phi2[-1]), 7)[:-1]
    else:
        chosen = np.atleast_1d(numbers_argument(sections, "sections"))
        if chosen.ndim != 1 or not np.isfinite(chosen).all():
            msg = f"sections must be angles φ2 in radians, got {shown(sections)}"
            raise ValueError(msg)
    check_panels(len(chosen))
    phi1, tilt = (
        np.linspace(0.0, float(axis[-1]), round(float(axis[-1]) / FINE) + 1) for axis in (whole.phi1, whole.Phi)
    )
    angles = np.stack(np.meshgrid(phi1, tilt, chosen, indexing="ij"), axis=-1)
    found = np.asarray(odf(coefficients, basis, angles))
    scale = scale_of(found)
    ratio = tilt[-1] / phi1[-1]
    width = figsize[0] if figsize else ONE_COLUMN if len(chosen) == 1 else TWO_COLUMNS
    # Sections are as long as they are wide, or up to four times as long.
    columns = min(len(chosen), 3, max(1, int(width * min(1.0, 1.6 * ratio))))
    height = -(-len(chosen) // columns) * ((width - 1.2) / columns * ratio + 0.4) + 0.3
    size = figsize or (width, height)
    fig, panels = panel_grid(ax, len(chosen), columns, size, is_images=True, sharex=True, sharey=True)
    x, y = np.rad2deg(phi1), np.rad2deg(tilt)
    for number, (panel, section) in enumerate(zip(panels, chosen, strict=True)):
        values = found[:, :, number].T
        panel.pcolormesh(x, y, values, cmap=scale.colours, norm=scale.norm, shading="gouraud", rasterized=True)
        if values.min() < 1 < values.max():
            panel.contour(x, y, values, [1.0], colors="white", linewidths=0.6)
        panel.set(aspect="equal", ylim=(y[-1], 0), title=f"φ₂ = {np.rad2deg(section):.3g}°")
        room = room_of(panel)
        tall = max(0.1, min(room[1] - 2 * LINE, room[0] * ratio))
        panel.xaxis.set_major_locator(MaxNLocator(min(4, max(1, int(tall / ratio / 0.35))), steps=[1, 3, 9]))
        panel.yaxis.set_major_locator(MaxNLocator(min(3, max(1, int(tall / LINE))), steps=[1, 3, 9]))
        if ax is not None or number + columns >= len(chosen):
            panel.set_xlabel("φ₁ / °")
        if ax is not None or number % columns == 0:
            panel.set_ylabel("Φ / °")
    colour_bar(panels, scale, DENSITY)
    return fig


@checked
@styled
def draw_misorientations(
    misorientations: xr.Dataset,
    *,
    title: str | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw the distribution of misorientation angles at boundaries, beside that of random orientations.

    Parameters
    ----------
    misorientations : Dataset
        What `mksdask.texture.misorientation_density` returns for one sample, or `volume_misorientation_density`.
    title : str, optional
        Title of the figure.
    figsize : (float, float), optional
        Width and height of the figure, inches.
    ax : matplotlib Axes, optional
        Axes to draw on. Default: a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        Density per degree. The line is `mksdask.texture.mackenzie_density`.

    Raises
    ------
    TypeError
        If `misorientations` is something else.
    ValueError
        If it is of several samples.

    Examples
    --------
    >>> from mksdask.datasets import make_polycrystal
    >>> from mksdask.texture import misorientation_density
    >>> found = misorientation_density(make_polycrystal(1, size=(32, 32), n_grains=50))
    >>> draw_misorientations(found.isel(sample=0)).axes[0].get_ylabel()
    'density / (1/°)'
    """
    known: Any = misorientations
    if not isinstance(known, xr.Dataset) or not {"density", "mean", "boundaries"} <= set(known):
        msg = f"misorientations must be the Dataset that misorientation_density returns, got {shown(misorientations)}"
        raise TypeError(msg)
    if known["density"].ndim != 1:
        msg = f"misorientations must be of one sample, got {known['density'].dims}; select one by .isel(sample=0)"
        raise ValueError(msg)
    known = known.compute()
    fig, panel = one_panel(ax, figsize, (ONE_COLUMN, 2.6))
    upper = np.rad2deg(known["angle"].to_numpy())
    width, density = float(upper[0]), known["density"].to_numpy() * np.pi / 180
    mean = np.rad2deg(float(known["mean"]))
    label = f"boundaries, mean {mean:.1f}°"
    color = style_of(0)["color"]
    panel.bar(upper - width, density, width=width, align="edge", color=color, edgecolor="white", label=label)
    fine = np.linspace(0.0, upper[-1], 721)
    group = str(known.attrs["laue_group"])
    random = mackenzie_density(np.deg2rad(fine), group) * np.pi / 180
    panel.plot(fine, random, color=style_of(1)["color"], label=f"random, {group}")
    label_axes(panel, "misorientation / °", "density / (1/°)", title)
    panel.set_xlim(0, upper[-1])
    legend_below([panel], ax, figsize)
    return fig
