"""Figures of microstructures, and of strains and concentrations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from mksdask.arrays import SPATIAL_DIMS, Array, ArrayLike, dims_of, refuse_unnumeric, shown, to_numpy, unwrap
from mksdask.display.cards import printed_unit
from mksdask.display.orientations import ipf_colours as ipf_colours, legend, phase_ipf_colours
from mksdask.grid import Grid
from mksdask.labels import quantity
from mksdask.schema.arguments import checked
from mksdask.tools.panels import (
    Extent,
    Panels,
    Scale,
    check_panels,
    maps_figure,
    phase_scale,
    scale_of,
    titles_of_samples,
)
from mksdask.tools.style import styled

MOST_PHASES = 12


def _voxel_extent(labels: xr.DataArray | None, spatial: Sequence[int]) -> Extent:
    axes = Grid.of(labels, spatial).axes
    positions = []
    for n, (dim, step, _) in zip(spatial, axes, strict=True):
        origin = 0.0
        if labels is not None and dim in labels.coords and labels.coords[dim].ndim == 1:
            origin = float(labels.coords[dim][0])
        positions.append(origin + np.arange(n) * step)
    return Extent.of(positions, [dim for dim, _, _ in axes], axes[0][2])


def _microstructure_scale(values: Array, phases: Sequence[str] | None) -> Scale:
    """Choose colours: discrete ones for a few phases, with their names, otherwise continuous ones."""
    if values.dtype.kind in "biu" and values.min() >= 0 and values.max() < MOST_PHASES:
        if phases is not None and not isinstance(phases, list | tuple):
            msg = f"phases must be a list of names, such as ['pore', 'grain'], got {shown(phases)}"
            raise TypeError(msg)
        if phases and len(phases) <= values.max():
            msg = f"phases must name each phase, but {list(phases)} has no name for the phase {values.max()}"
            raise ValueError(msg)
        return phase_scale(list(phases or [f"phase {h}" for h in range(int(values.max()) + 1)]))
    return scale_of(values, "local state")


def _laue_groups(template: xr.DataArray | None) -> list[str]:
    """Read the Laue groups of the crystals from an array of orientations."""
    stated = [] if template is None else np.atleast_1d(template.attrs.get("laue_groups", [])).tolist()
    return [str(group) for group in stated] or ["cubic"]


@checked
@styled
def draw_microstructures(
    microstructures: ArrayLike,
    labels: Sequence[str] | None = None,
    *,
    phases: Sequence[str] | None = None,
    laue_groups: str | Sequence[str] | None = None,
    phase: ArrayLike | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Panels | None = None,
) -> Figure:
    """Draw microstructures side by side, in one colour scale. Orientations are drawn in the colours of `ipf_colours`.

    Parameters
    ----------
    microstructures : array, shape (n_samples, *spatial)
        Samples. All of them are drawn, so pass a few. A 3D sample is drawn as three central slices.
    labels : sequence of str, optional
        Title of each sample. Default: its label in a DataArray, or its number.
    phases : sequence of str, optional
        Names of the phases. Default: the ``phases`` attribute of a DataArray, or the phase numbers.
    laue_groups : str or sequence of str, optional
        Laue group of the crystals, such as "cubic", or that of each phase. With it, the last axis of `microstructures`
        holds Bunge angles. Default: the ``laue_groups`` attribute of a DataArray whose last dim is ``angle``, or
        "cubic" if it has none.
    phase : array, shape (n_samples, *spatial), optional
        Phase number of each voxel, if `microstructures` are orientations of several phases.
    figsize : (float, float), optional
        Width and height of the figure, inches.
    ax : matplotlib Axes, or sequence of them, optional
        Axes to draw on: one for each panel, three for a 3D field. The function returns their figure. Default: a new
        figure.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> from mksdask.datasets import make_microstructure
    >>> fig = draw_microstructures(make_microstructure(n_samples=3, size=(32, 32)))
    >>> len(fig.axes)  # one for each sample
    3
    """
    data, template = unwrap(microstructures, name="microstructures")
    if not isinstance(microstructures, list | tuple):
        _refuse_one_field(data.shape, template, "microstructures")
    has_angles = laue_groups is not None or dims_of(template)[-1:] == ("angle",)
    check_fields(data[..., 0] if has_angles else data, "microstructures", 1)
    check_panels(data.shape[0])
    values = to_numpy(microstructures, name="microstructures")
    if template is not None and phases is None:
        phases = template.attrs.get("phases")
    titles = titles_of_samples(labels, template, len(values))
    extent = _voxel_extent(template, values.shape[1 : values.ndim - has_angles])
    if has_angles:
        groups = [laue_groups] if isinstance(laue_groups, str) else list(laue_groups or _laue_groups(template))
        numbers = None if phase is None else to_numpy(phase, name="phase")
        colours = phase_ipf_colours(values, numbers, groups)
        note = legend(groups) + ("" if np.isfinite(values).all() else "; black: no orientation")
        return maps_figure(list(colours), titles, extent, [], note=note, figsize=figsize, ax=ax)
    scales = [_microstructure_scale(values, phases)] * len(values)
    return maps_figure(list(values), titles, extent, scales, figsize=figsize, ax=ax)


def _component_label(fields: ArrayLike | Sequence[ArrayLike]) -> str:
    """Name the component of a strain, or of another quantity, by the labels of a field, or of the first of several."""
    several = fields if isinstance(fields, list | tuple) else [fields]
    field = next((each for each in several if isinstance(each, xr.DataArray)), xr.DataArray())
    said, chosen = quantity(field), field.coords.get("component")
    component = "" if chosen is None or chosen.ndim else str(chosen.item())
    name = said.get("long_name", "strain")
    text = rf"$\varepsilon_{{{component or 'xx'}}}$" if name == "strain" else f"{name} {component}".strip()
    return f"{text} / {printed_unit(said['units'])}" if "units" in said else text


@checked
@styled
def draw_microstructure_strain(
    microstructure: ArrayLike,
    strain: ArrayLike,
    *,
    label: str | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Panels | None = None,
) -> Figure:
    """Draw one sample beside a component of its strain field.

    Parameters
    ----------
    microstructure : array, shape (*spatial,)
        Local state of each voxel.
    strain : array, shape (*spatial,)
        One component of the strain.
    label : str, optional
        Name of the component. Default: what a DataArray says of itself, such as the component that was selected, and
        otherwise ε_xx.
    figsize : (float, float), optional
        Width and height of the figure, inches.
    ax : matplotlib Axes, or sequence of them, optional
        Axes to draw on: one for each panel, three for a 3D field. The function returns their figure. Default: a new
        figure.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> from mksdask.datasets import ElasticFESimulation, make_microstructure
    >>> X = make_microstructure(n_samples=1, size=(21, 21))
    >>> simulation = ElasticFESimulation(elastic_modulus=(100, 150), poissons_ratio=(0.3, 0.3)).run(X)
    >>> fig = draw_microstructure_strain(X[0], simulation.strain[0, ..., 0])
    """
    values, response = to_numpy(microstructure, name="microstructure"), to_numpy(strain, name="strain")
    refuse_unnumeric(values, name="microstructure")
    refuse_unnumeric(response, name="strain")
    if values.shape != response.shape:
        msg = (
            f"strain must have the shape of the microstructure, {values.shape}, got {response.shape}; pass one "
            "component of the strain"
        )
        raise ValueError(msg)
    template = unwrap(microstructure)[1]
    if template is not None and "sample" in template.dims:
        msg = f"microstructure must be one sample, got dims {template.dims}; choose one, such as [0]"
        raise ValueError(msg)
    expanded = None if template is None else template.expand_dims("sample")
    phases = None if template is None else template.attrs.get("phases")
    return maps_figure(
        [values, response],
        ["microstructure", "strain"],
        _voxel_extent(expanded, values.shape),
        [_microstructure_scale(values, phases), scale_of(response, label or _component_label(strain))],
        figsize=figsize,
        ax=ax,
    )


def _stacked(fields: ArrayLike | Sequence[ArrayLike], name: str) -> tuple[Array, xr.DataArray | None]:
    """Stack fields of one shape to (n, *spatial). Also return the DataArray that labels them, if there is one."""
    for field in fields if isinstance(fields, list | tuple) else [fields]:
        if isinstance(field, xr.DataArray) and "component" in field.dims:
            msg = f"{name} must be one component, got dims {field.dims}; use {name}.sel(component=...)"
            raise ValueError(msg)
        if isinstance(fields, list | tuple) and isinstance(field, xr.DataArray) and "sample" in field.dims:
            msg = f"{name} must hold fields of one sample each, got dims {field.dims}; choose one, such as [0]"
            raise ValueError(msg)
    if isinstance(fields, list | tuple):
        check_panels(len(fields))
        arrays = [to_numpy(field, name=name) for field in fields]
        for array in arrays:
            check_fields(array, name, 0)
        if len({array.shape for array in arrays}) != 1:
            msg = f"{name} must be fields of one shape, got the shapes {[array.shape for array in arrays]}"
            raise ValueError(msg)
        template = next((field for field in fields if isinstance(field, xr.DataArray)), None)
        return np.stack(arrays), None if template is None else template.expand_dims("sample")
    data, template = unwrap(fields, name=name)
    if data.ndim < 2:
        msg = f"{name} must have shape (n_samples, *spatial) or be a list of fields, got shape {data.shape}"
        raise ValueError(msg)
    _refuse_one_field(data.shape, template, name)
    check_fields(data, name, 1)
    check_panels(data.shape[0])
    return to_numpy(fields, name=name), template


def check_fields(data: Any, name: str, beside: int) -> None:
    """Refuse what are no fields of numbers, with `beside` axes beside those of space.

    Raises
    ------
    TypeError
        If they hold no numbers.
    ValueError
        If they have no axis of space, or no voxels.
    """
    refuse_unnumeric(data, name=name)
    if not 1 <= data.ndim - beside <= 3 or 0 in data.shape[1:]:
        msg = f"{name} must hold fields with 1 to 3 axes of voxels, got shape {tuple(data.shape)}"
        raise ValueError(msg)


def _refuse_one_field(shape: Sequence[int], template: xr.DataArray | None, name: str) -> None:
    """Refuse a matrix that may be one field. Dims of a DataArray, or a list of fields, say that it is several."""
    if len(shape) == 2 and dims_of(template)[1:] != SPATIAL_DIMS[:1]:
        msg = (
            f"{name} of shape {tuple(shape)} may be one field in 2D, or several in 1D; pass {name}[None] if it is one, "
            f"or list({name}) if it is several"
        )
        raise ValueError(msg)


def check_real(values: Array, name: str) -> None:
    """Refuse complex fields.

    Raises
    ------
    ValueError
        If they are complex.
    """
    if values.dtype.kind == "c":
        msg = f"{name} must be real to be drawn, got {values.dtype}; draw {name}.real and {name}.imag"
        raise ValueError(msg)


def _draw_responses(
    fields: ArrayLike | Sequence[ArrayLike],
    titles: Sequence[str] | None,
    *,
    name: str,
    bar_label: str,
    about: Callable[[Array], float] | None = None,
    figsize: tuple[float, float] | None,
    ax: Panels | None,
) -> Figure:
    values, template = _stacked(fields, name)
    check_real(values, name)
    if titles is not None and not all(isinstance(title, str) for title in titles):
        msg = (
            f"labels must be texts, one for each field, got {type(titles).__name__}; put the fields to compare into "
            "one list"
        )
        raise ValueError(msg)
    names = titles_of_samples(titles, template, len(values))
    scale = scale_of(values, bar_label, about=None if about is None else about(values))
    extent = _voxel_extent(template, values.shape[1:])
    return maps_figure(list(values), names, extent, [scale] * len(values), figsize=figsize, ax=ax)


@checked
@styled
def draw_strains(
    strains: ArrayLike | Sequence[ArrayLike],
    labels: Sequence[str] | None = None,
    *,
    label: str | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Panels | None = None,
) -> Figure:
    """Draw one component of strain fields side by side, in one colour scale.

    Parameters
    ----------
    strains : array, shape (n_samples, *spatial), or sequence of arrays of shape (*spatial,)
        One component of the strain. A 3D field is drawn as three central slices.
    labels : sequence of str, optional
        Title of each field.
    label : str, optional
        Name of the component. Default: what a DataArray says of itself, such as the component that was selected, and
        otherwise ε_xx.
    figsize : (float, float), optional
        Width and height of the figure, inches.
    ax : matplotlib Axes, or sequence of them, optional
        Axes to draw on: one for each panel, three for a 3D field. The function returns their figure. Default: a new
        figure.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> from mksdask.datasets.responses import make_elastic_FE_strain_delta
    >>> X, strains = make_elastic_FE_strain_delta(size=(21, 21))
    >>> fig = draw_strains(strains, ["stiff in soft", "soft in stiff"])
    """
    label = label or _component_label(strains)
    return _draw_responses(strains, labels, name="strains", bar_label=label, figsize=figsize, ax=ax)


@checked
@styled
def draw_strains_compare(
    strain_FEM: ArrayLike,
    strain_MKS: ArrayLike,
    *,
    label: str | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Panels | None = None,
) -> Figure:
    """Draw a strain field from finite elements beside that from localization, in one colour scale.

    Parameters
    ----------
    strain_FEM, strain_MKS : array, shape (*spatial,)
        One component of the strain.
    label : str, optional
        Name of the component. Default: what a DataArray says of itself, such as the component that was selected, and
        otherwise ε_xx.
    figsize : (float, float), optional
        Width and height of the figure, inches.
    ax : matplotlib Axes, or sequence of them, optional
        Axes to draw on: one for each panel, three for a 3D field. The function returns their figure. Default: a new
        figure.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> from mksdask.datasets.responses import make_elastic_FE_strain_delta
    >>> X, strains = make_elastic_FE_strain_delta(size=(21, 21))
    >>> fig = draw_strains_compare(strains[0], strains[0])
    """
    fields, titles = [strain_FEM, strain_MKS], ["finite elements", "MKS"]
    label = label or _component_label(fields)
    return _draw_responses(fields, titles, name="strains", bar_label=label, figsize=figsize, ax=ax)


@checked
@styled
def draw_concentrations(
    concentrations: ArrayLike | Sequence[ArrayLike],
    labels: Sequence[str] | None = None,
    *,
    label: str = r"$\phi$",
    figsize: tuple[float, float] | None = None,
    ax: Panels | None = None,
) -> Figure:
    """Draw concentration fields side by side, in one colour scale that diverges from their mean.

    Parameters
    ----------
    concentrations : array, shape (n_samples, *spatial), or sequence of arrays of shape (*spatial,)
        Concentrations. A 3D field is drawn as three central slices.
    labels : sequence of str, optional
        Title of each field.
    label : str
        Name of the concentration.
    figsize : (float, float), optional
        Width and height of the figure, inches.
    ax : matplotlib Axes, or sequence of them, optional
        Axes to draw on: one for each panel, three for a 3D field. The function returns their figure. Default: a new
        figure.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> from mksdask.datasets import make_cahn_hilliard
    >>> fig = draw_concentrations(make_cahn_hilliard(n_samples=2, size=(32, 32), n_steps=50)[1])
    """
    return _draw_responses(
        concentrations, labels, name="concentrations", bar_label=label, about=np.nanmean, figsize=figsize, ax=ax
    )


@checked
@styled
def draw_concentrations_compare(
    concentrations: ArrayLike | Sequence[ArrayLike],
    labels: Sequence[str] = ("simulation", "MKS"),
    *,
    label: str = r"$\phi$",
    figsize: tuple[float, float] | None = None,
    ax: Panels | None = None,
) -> Figure:
    """Draw a simulated concentration beside the same field from localization, in one diverging colour scale.

    Parameters
    ----------
    concentrations : sequence of arrays of shape (*spatial,)
        The fields to compare.
    labels : sequence of str
        Title of each field.
    label : str
        Name of the concentration.
    figsize : (float, float), optional
        Width and height of the figure, inches.
    ax : matplotlib Axes, or sequence of them, optional
        Axes to draw on: one for each panel, three for a 3D field. The function returns their figure. Default: a new
        figure.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> from mksdask.datasets import make_cahn_hilliard
    >>> X, y = make_cahn_hilliard(n_samples=1, size=(32, 32), n_steps=50)
    >>> fig = draw_concentrations_compare((y[0], y[0]))
    """
    return draw_concentrations(concentrations, labels, label=label, figsize=figsize, ax=ax)


@checked
@styled
def draw_differences(
    differences: ArrayLike | Sequence[ArrayLike],
    labels: Sequence[str] | None = None,
    *,
    label: str = "difference",
    figsize: tuple[float, float] | None = None,
    ax: Panels | None = None,
) -> Figure:
    """Draw differences of fields side by side, in one colour scale that is symmetric about zero.

    Parameters
    ----------
    differences : array, shape (n_samples, *spatial), or sequence of arrays of shape (*spatial,)
        Differences, such as finite elements minus localization.
    labels : sequence of str, optional
        Title of each field.
    label : str
        Label of the colour bar.
    figsize : (float, float), optional
        Width and height of the figure, inches.
    ax : matplotlib Axes, or sequence of them, optional
        Axes to draw on: one for each panel, three for a 3D field. The function returns their figure. Default: a new
        figure.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> import numpy as np
    >>> fig = draw_differences([np.random.default_rng(0).normal(size=(9, 9))], ["finite elements - MKS"])
    """
    return _draw_responses(
        differences, labels, name="differences", bar_label=label, about=lambda _: 0.0, figsize=figsize, ax=ax
    )
