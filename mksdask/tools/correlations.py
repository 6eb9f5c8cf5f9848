"""Figures of maps over lags: 2-point statistics, their principal components, and influence kernels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from mksdask.arrays import Array, ArrayLike, is_number, refuse_unnumeric, shown, to_numpy, unwrap
from mksdask.schema.arguments import checked
from mksdask.tools.fields import check_fields, check_real
from mksdask.tools.panels import Panels, check_panels, lag_extent, maps_figure, scale_of, scales_of, titles_of
from mksdask.tools.style import styled

SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def _pair_names(
    template: xr.DataArray | None, n_pairs: int, correlations: Sequence[tuple[int, int]] | None
) -> list[str]:
    if correlations is not None:
        if not isinstance(correlations, list | tuple | np.ndarray) or len(correlations) != n_pairs:
            msg = f"correlations must name each of the {n_pairs} pairs, got {correlations!r}"
            raise ValueError(msg)
        return [f"$f[{a}, {b}; r]$" for a, b in correlations]
    if template is not None and {"state_1", "state_2"} <= set(template.coords):
        states = [f"{int(a)},{int(b)}" for a, b in zip(template["state_1"], template["state_2"], strict=True)]
        named = [str(pair) for pair in template["pair"].to_numpy()] if "pair" in template.coords else states
        return [
            name if name != pair else f"$f[{pair.replace(',', ', ')}; r]$"
            for name, pair in zip(named, states, strict=True)
        ]
    return [f"pair {p}" for p in range(n_pairs)]


def _check_one_sample(shape: Sequence[int], n_spatial: int | None) -> None:
    """Refuse statistics without labels that are of several samples, or may be."""
    n_lags = len(shape) - 1
    if n_spatial is None and n_lags == 3:
        msg = (
            f"X_corr of shape {tuple(shape)} can be read in two ways; pass n_spatial=3 if it is (*lags, n_pairs) of "
            "one sample with three axes of lags, or one sample, X_corr[0], if it is (n_samples, *lags, n_pairs)"
        )
        raise ValueError(msg)
    if not 1 <= n_lags <= 3 or n_spatial not in (None, n_lags):
        msg = (
            f"X_corr must be the statistics of one sample, (*lags, n_pairs) with 1 to 3 axes of lags; got shape "
            f"{tuple(shape)} and n_spatial={n_spatial!r}; of several samples, pass one, such as X_corr[0]"
        )
        raise ValueError(msg)


@checked
@styled
def draw_correlations(
    X_corr: ArrayLike,
    correlations: Sequence[tuple[int, int]] | None = None,
    *,
    n_spatial: int | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Panels | None = None,
) -> Figure:
    """Draw the 2-point statistics of one sample, one map of the lag for each pair of states.

    A 3D map is drawn as three central slices. Maps whose values have much smaller ranges than others get colour scales
    of their own.

    Parameters
    ----------
    X_corr : array, shape (*lags, n_pairs)
        Statistics of one sample, as `correlate` returns them. Of complex statistics the real part is drawn.
    correlations : list of (int, int), optional
        The pairs of states, for the titles. Default: the pairs that a DataArray names.
    n_spatial : int, optional
        Number of lag axes. It is required for statistics without labels that have three axes of lags, because these
        may also be two-dimensional statistics of several samples.
    figsize : (float, float), optional
        Width and height of the figure, inches.
    ax : matplotlib Axes, or sequence of them, optional
        Axes to draw on: one for each panel, three for a 3D field. The function returns their figure. Default: a new
        figure.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If `correlations` does not name each pair, or `X_corr` holds more than one sample or may do so.

    Examples
    --------
    >>> from mksdask import PrimitiveBasis
    >>> from mksdask.datasets import make_microstructure
    >>> from mksdask.stats import correlate
    >>> X = make_microstructure(n_samples=1, size=(32, 32))
    >>> fig = draw_correlations(correlate(X, PrimitiveBasis(2))[0], [(0, 0), (0, 1)])
    """
    template = unwrap(X_corr, name="X_corr")[1]
    if template is not None and "sample" in template.dims:
        msg = (
            f"X_corr must be the statistics of one sample, got dims {template.dims}; pass one sample, such as X_corr[0]"
        )
        raise ValueError(msg)
    values = np.real(to_numpy(X_corr, name="X_corr"))
    if 0 in values.shape:
        msg = f"X_corr must hold at least one lag and one pair, got shape {values.shape}"
        raise ValueError(msg)
    if template is None:
        _check_one_sample(values.shape, n_spatial)
    titles = _pair_names(template, values.shape[-1], correlations)
    maps = list(np.moveaxis(values, -1, 0))
    extent = lag_extent(template, values.shape[:-1])
    return maps_figure(maps, titles, extent, scales_of(maps, "2-point statistics"), figsize=figsize, ax=ax)


@checked
@styled
def draw_autocorrelations(
    X_auto: ArrayLike,
    correlations: Sequence[tuple[int, int]] | None = None,
    *,
    n_spatial: int | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Panels | None = None,
) -> Figure:
    """Draw the autocorrelations of one sample. See `draw_correlations`.

    Parameters
    ----------
    X_auto : array, shape (*lags, n_pairs)
        Statistics of one sample, as `autocorrelate` returns them.
    correlations : list of (int, int), optional
        The pairs of states. Default: the pairs that a DataArray names, or (0, 0), (1, 1), ….
    n_spatial : int, optional
        Number of lag axes. It is required for statistics without labels that have three axes of lags, because these
        may also be two-dimensional statistics of several samples.
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
    >>> fig = draw_autocorrelations(np.random.default_rng(0).random((9, 9, 2)))
    """
    data, template = unwrap(X_auto, name="X_auto")
    if correlations is None and template is None and data.ndim:
        correlations = [(h, h) for h in range(data.shape[-1])]
    return draw_correlations(X_auto, correlations, n_spatial=n_spatial, figsize=figsize, ax=ax)


@checked
@styled
def draw_crosscorrelations(
    X_cross: ArrayLike,
    correlations: Sequence[tuple[int, int]] | None = None,
    *,
    n_spatial: int | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Panels | None = None,
) -> Figure:
    """Draw the cross-correlations of one sample. See `draw_correlations`.

    Parameters
    ----------
    X_cross : array, shape (*lags, n_pairs)
        Statistics of one sample, as `crosscorrelate` returns them.
    correlations : list of (int, int), optional
        The pairs of states, for the titles. Default: the pairs that a DataArray names.
    n_spatial : int, optional
        Number of lag axes. It is required for statistics without labels that have three axes of lags, because these
        may also be two-dimensional statistics of several samples.
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
    >>> fig = draw_crosscorrelations(np.random.default_rng(0).random((9, 9, 1)), [(0, 1)])
    """
    return draw_correlations(X_cross, correlations, n_spatial=n_spatial, figsize=figsize, ax=ax)


@checked
@styled
def draw_components(
    components: ArrayLike,
    correlations: Sequence[tuple[int, int]] | None = None,
    *,
    figsize: tuple[float, float] | None = None,
    ax: Panels | None = None,
) -> Figure:
    """Draw principal components as maps of the lag: one row for each component, one column for each pair of states.

    Parameters
    ----------
    components : array, shape (n_components, *lags, n_pairs)
        ``components_map()`` of a structure analysis or homogenization model, which names pairs and units, or its
        ``components_``.
    correlations : list of (int, int), optional
        The pairs of states, for the titles. Default: the pairs that a DataArray names.
    figsize : (float, float), optional
        Width and height of the figure, inches.
    ax : matplotlib Axes, or sequence of them, optional
        Axes to draw on: one for each panel, three for a 3D field. The function returns their figure. Default: a new
        figure.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If `components` holds scores of samples, which `draw_components_scatter` draws.

    Examples
    --------
    >>> import numpy as np
    >>> fig = draw_components(np.random.default_rng(0).normal(size=(2, 9, 9, 2)), [(0, 0), (0, 1)])
    """
    is_list = isinstance(components, list | tuple)
    if not is_list:
        refuse_unnumeric(unwrap(components, name="components")[0], name="components")
    n_axes = 1 + (np.ndim(components[0]) if components else 0) if is_list else np.ndim(components)
    has_pairs = correlations is not None and not any(isinstance(pair, str) for pair in correlations)
    # A list of matrices holds scores of several sets of samples, or maps of one axis.
    if n_axes < 3 or (is_list and n_axes == 3 and not has_pairs):
        msg = (
            "components must have shape (n_components, *lags, n_pairs), as components_ of a model has; use "
            "draw_components_scatter for scores of samples, such as reduced_fit_data[:, :2]"
        )
        raise ValueError(msg)
    template = unwrap(components, name="components")[1]
    values = np.real(to_numpy(components))
    n_pairs = values.shape[-1]
    names = _pair_names(template, n_pairs, correlations)
    maps = [values[k, ..., p] for k in range(len(values)) for p in range(n_pairs)]
    shares = [""] * len(values)
    if template is not None and "variance" in template.coords:
        shares = [f" ({100 * share:.3g} %)" for share in template["variance"].to_numpy()]
    numbers = [str(k + 1).translate(SUBSCRIPTS) for k in range(len(values))]
    titles = [f"φ{k}{share}, {name}" for k, share in zip(numbers, shares, strict=True) for name in names]
    # Each component has a scale of its own.
    scales = [scale for component in values for scale in [scale_of(component, "component", about=0.0)] * n_pairs]
    columns = n_pairs if values.ndim < 5 else 1
    extent = lag_extent(template, values.shape[1:-1])
    return maps_figure(maps, titles, extent, scales, columns=columns, figsize=figsize, ax=ax)


@checked
@styled
def draw_coeff(
    coeff: ArrayLike,
    labels: Sequence[str] | None = None,
    *,
    cutoff: int | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Panels | None = None,
) -> Figure:
    """Draw influence kernels as maps of the lag, one for each state, in a colour scale symmetric about zero.

    Parameters
    ----------
    coeff : array, shape (*spatial, n_states)
        ``coef_`` of a localization model. If the response has several components, pass the kernels of one.
    labels : sequence of str, optional
        Title of each state, such as the names of the phases. Default: ``h = 0``, ``h = 1``, ….
    cutoff : int, optional
        Largest lag to draw, voxels. Default: the part about lag 0 in which some coefficient is larger than a
        twentieth of the largest, and at least 5 voxels.
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
    >>> fig = draw_coeff(np.random.default_rng(0).normal(size=(9, 9, 2)))
    """
    values = to_numpy(coeff, name="coeff")
    check_fields(values, "coeff", 1)
    check_real(values, "coeff")
    if 0 in values.shape:
        msg = f"coeff must hold at least one lag and one state, got shape {values.shape}"
        raise ValueError(msg)
    n_states = values.shape[-1]
    titles = titles_of(labels, [f"$h = {state}$" for state in range(n_states)])
    check_panels(n_states)
    values, lags = _near_origin(values, cutoff)
    template = unwrap(coeff, name="coeff")[1]
    extent = lag_extent(None if template is None else template[lags], values.shape[:-1])
    scale = scale_of(values, r"$\alpha[h; r]$", about=0.0)
    return maps_figure(list(np.moveaxis(values, -1, 0)), titles, extent, [scale] * n_states, figsize=figsize, ax=ax)


def _near_origin(kernels: Array, cutoff: int | None) -> tuple[Array, tuple[slice, ...]]:
    """Cut kernels to the lags up to `cutoff`, by default to those that matter."""
    spatial = kernels.shape[:-1]
    if cutoff is None:
        largest = np.abs(kernels).max(axis=-1)
        far = np.max(np.abs(np.indices(spatial) - np.reshape([n // 2 for n in spatial], (-1, *(1,) * len(spatial)))), 0)
        cutoff = max(5, int(far[largest > 0.05 * largest.max()].max(initial=0)))
    elif not is_number(cutoff) or cutoff != int(cutoff) or cutoff < 0:
        msg = f"cutoff must be a number of voxels from 0, or None, got {shown(cutoff)}"
        raise ValueError(msg)
    cutoff = int(cutoff)
    lags = tuple(slice(max(0, n // 2 - cutoff), n // 2 + cutoff + 1) for n in spatial)
    return kernels[lags], lags
