"""A 3D view of a volume that you can turn, in a notebook or a browser."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

from mksdask.arrays import ArrayLike, shown, sizes_argument, to_numpy, unwrap_volume
from mksdask.display.cards import printed_unit
from mksdask.display.orientations import phase_ipf_colours
from mksdask.samples import Grid
from mksdask.schema.arguments import checked
from mksdask.tools.panels import phase_scale, scale_of

# A browser still turns this many voxels along the longest side smoothly.
MOST_VOXELS = 128
# k3d keeps voxels as bytes, and 0 means empty.
MOST_PHASES = 254
# Each channel of a colour has so many levels.
LEVELS = 6


@checked
def show_volume(
    volume: ArrayLike,
    *,
    hide: Sequence[int | str] = (),
    laue_group: str | None = None,
    size: int = MOST_VOXELS,
    height: int = 512,
) -> Any:
    """Show the phases or a field of one volume in 3D. This needs the extra ``interactive``.

    Parameters
    ----------
    volume : array, shape (nx, ny, nz), or (nx, ny, nz, 3) of Bunge angles
        Phase numbers are drawn as solid voxels in the colours of `draw_microstructures`. Real numbers are drawn as a
        cloud in the colours of `draw_strains`. Orientations are drawn as solid voxels in about the colours of
        `ipf_colours`, and voxels without an orientation are empty. A volume larger than `size` is thinned out: the
        function reads and draws every second voxel, every third, and so on.
    hide : sequence of int or str
        Phases to leave out, by number, or by name if a DataArray names its phases.
    laue_group : str, optional
        Laue group of the crystals, if `volume` holds orientations. Default: that of the attribute ``laue_groups`` of a
        DataArray, or "cubic".
    size : int, default 128
        Largest number of voxels to draw along the longest side.
    height : int, default 512
        Height of the view, pixels.

    Returns
    -------
    k3d.plot.Plot
        Leave it as the value of a notebook cell. ``plot.get_snapshot()`` returns a complete HTML page as text.

    Raises
    ------
    ImportError
        If k3d is not installed.
    ValueError
        If the volume is not 3D and real, or `hide` names a phase that does not exist.

    Examples
    --------
    >>> from mksdask.datasets import make_microstructure
    >>> plot = show_volume(make_microstructure(n_samples=1, size=(16, 16, 16))[0], hide=[1])
    >>> page = plot.get_snapshot()
    """
    try:
        k3d = import_module("k3d")
    except ImportError as error:
        msg = "show_volume needs k3d; install it with pip install 'mksdask[interactive]'"
        raise ImportError(msg) from error
    data, labels = unwrap_volume(volume)
    is_oriented = data.ndim == 4 and data.shape[-1] == 3 and data.dtype.kind == "f"
    if data.ndim != 3 + is_oriented or 0 in data.shape or data.dtype.kind not in "biuf":
        msg = f"volume must be three-dimensional and real, got shape {tuple(data.shape)} and dtype {data.dtype}"
        raise ValueError(msg)
    largest = sizes_argument(size)
    if len(largest) > 1:
        msg = f"size must be one number of voxels, which holds for the longest axis, got {shown(size)}"
        raise ValueError(msg)
    step = -(-max(data.shape[:3]) // largest[0])
    values = to_numpy(data[::step, ::step, ::step])
    grid = Grid.of(labels, data.shape[:3], first=0)
    extent = [n * step * width for n, (_, width, _) in zip(values.shape[:3], grid.axes, strict=True)]
    bounds = [bound for length in extent for bound in (0.0, length)]
    plot = k3d.plot(
        height=height, axes=[f"{dim} / {printed_unit(units)}" for dim, _, units in grid.axes], background_color=0xFFFFFF
    )
    if is_oriented:
        stated = [] if labels is None else [group for group in labels.attrs.get("laue_groups", ()) if group]
        mixed = phase_ipf_colours(values, None, [laue_group] if laue_group else stated or ["cubic"])
        # k3d has a table of colours, which holds some levels of each channel.
        levels = np.rint(mixed.transpose(2, 1, 0, 3) * (LEVELS - 1)).astype(int)
        packed = levels @ np.array([LEVELS**2, LEVELS, 1]) + 1
        packed[~np.isfinite(values).all(axis=-1).transpose(2, 1, 0)] = 0
        shades = np.indices((LEVELS, LEVELS, LEVELS)).reshape(3, -1).T * 255 // (LEVELS - 1)
        table = (shades @ np.array([2**16, 2**8, 1])).tolist()
        plot += k3d.voxels(packed.astype(np.uint8), color_map=table, bounds=bounds, outlines=False)
        return plot
    # The first axis of k3d is z.
    turned = np.ascontiguousarray(values.transpose(2, 1, 0))
    if values.dtype.kind == "f":
        scale = scale_of(values)
        shares = np.linspace(0.0, 1.0, 64)
        table = np.column_stack([shares, scale.colours(shares)[:, :3]]).astype(np.float32)
        limits = [float(scale.norm.vmin or 0.0), float(scale.norm.vmax or 1.0)]
        plot += k3d.volume(turned.astype(np.float32), color_map=table.ravel(), color_range=limits, bounds=bounds)
        return plot
    names = list(grid.phases)
    n_phases = max(int(values.max()) + 1, len(names))
    if values.min() < 0 or n_phases > MOST_PHASES:
        msg = (
            f"volume must hold phase numbers from 0 to {MOST_PHASES - 1}, got {values.min()} to {values.max()}; "
            "renumber the phases, or pass volume.astype(float) to draw them as real numbers"
        )
        raise ValueError(msg)
    hidden = [_phase(phase, names, n_phases) for phase in hide]
    # 0 means empty in k3d.
    solid = np.where(np.isin(turned, hidden), 0, turned.astype(np.int64) + 1).astype(np.uint8)
    rgb = np.rint(255 * phase_scale([""] * n_phases).colours(np.arange(n_phases))[:, :3]).astype(int)
    packed = [int(red) << 16 | int(green) << 8 | int(blue) for red, green, blue in rgb]
    plot += k3d.voxels(solid, color_map=packed, bounds=bounds, outlines=False)
    return plot


def _phase(phase: int | str, names: Sequence[str], n_phases: int) -> int:
    number = names.index(phase) if phase in names else phase
    if isinstance(number, bool) or not isinstance(number, int | np.integer) or not 0 <= number < n_phases:
        known = names or f"0…{n_phases - 1}"
        msg = f"hide must name phases of {known}, got {phase!r}"
        raise ValueError(msg)
    return int(number)
