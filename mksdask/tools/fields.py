"""Figures of microstructures and of fields on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mksdask.arrays import ArrayLike, spacing_of, to_numpy, unwrap
from mksdask.tools.panels import Grid, check_panels, maps_figure, phase_colours, scale_of

MOST_PHASES = 12


def _voxel_grid(labels: xr.DataArray | None, spatial: Sequence[int]) -> Grid:
    axes = spacing_of(labels, len(spatial))
    positions = [np.arange(n) * step for n, (_, step, _) in zip(spatial, axes, strict=True)]
    return Grid.of(positions, [dim for dim, _, _ in axes], axes[0][2])


def _microstructure_scale(
    values: NDArray[Any], phases: Sequence[str] | None
) -> tuple[tuple[Colormap, Normalize], str, tuple[Sequence[float], Sequence[str]] | None]:
    """Colours, colour bar label and ticks: discrete where the values are few phase numbers."""
    if values.dtype.kind in "biu" and values.min() >= 0 and values.max() < MOST_PHASES:
        n_phases = max(int(values.max()) + 1, len(phases or ()))
        names = [str(h) for h in range(n_phases)] if phases is None else list(phases)
        return phase_colours(n_phases), "phase", (range(n_phases), names)
    return scale_of(values), "local state", None


def draw_microstructures(
    microstructures: ArrayLike,
    labels: Sequence[str] | None = None,
    *,
    phases: Sequence[str] | None = None,
    figsize: tuple[float, float] | None = None,
) -> Figure:
    """Draw samples side by side, in one colour scale.

    Parameters
    ----------
    microstructures : array, shape (n_samples, *spatial)
        All samples are drawn, so pass a few. 3D ones as three central slices.
    labels : sequence of str, optional
        Title of each sample.
    phases : sequence of str, optional
        Names of the phases; default what a DataArray's ``phases`` attribute says.
    figsize : (float, float), optional
        Inches.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> from mksdask.datasets import make_microstructure
    >>> fig = draw_microstructures(make_microstructure(n_samples=3, size=(32, 32)))
    >>> len(fig.axes)  # three samples and a colour bar
    4
    """
    data, template = unwrap(microstructures, name="microstructures")
    check_panels(data.shape[0])
    values = to_numpy(microstructures)
    if template is not None and phases is None:
        phases = template.attrs.get("phases")
    scale, name, ticks = _microstructure_scale(values, phases)
    titles = [f"sample {j}" for j in range(len(values))] if labels is None else list(labels)
    grid = _voxel_grid(template, values.shape[1:])
    n = len(values)
    return maps_figure(list(values), titles, grid, [scale] * n, [name], figsize=figsize, ticks=[ticks])


def draw_microstructure_strain(
    microstructure: ArrayLike,
    strain: ArrayLike,
    *,
    label: str = r"$\varepsilon_{xx}$",
    figsize: tuple[float, float] | None = None,
) -> Figure:
    """Draw one sample and a component of its strain field.

    Parameters
    ----------
    microstructure : array, shape (*spatial,)
        Local state of each voxel.
    strain : array, shape (*spatial,)
        One component of the strain.
    label : str
        Name of the component.
    figsize : (float, float), optional
        Inches.

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
    values, response = to_numpy(microstructure), to_numpy(strain)
    if values.shape != response.shape:
        msg = (
            f"strain must have the shape of the microstructure, {values.shape}, got {response.shape}; pass one "
            "component of it"
        )
        raise ValueError(msg)
    template = unwrap(microstructure)[1]
    expanded = None if template is None else template.expand_dims("sample")
    scale, name, ticks = _microstructure_scale(values, None if template is None else template.attrs.get("phases"))
    return maps_figure(
        [values, response],
        ["microstructure", "strain"],
        _voxel_grid(expanded, values.shape),
        [scale, scale_of(response)],
        [name, label],
        shared=False,
        figsize=figsize,
        ticks=[ticks, None],
    )
