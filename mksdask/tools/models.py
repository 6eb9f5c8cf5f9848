"""Figures of scores, searches and the quality of linkages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from sklearn.model_selection import learning_curve

from mksdask.arrays import ArrayLike, to_numpy
from mksdask.reduction.shared import SharedStatistics
from mksdask.tools.panels import COLOURS, MARKERS, check_panels, new_figure, one_panel, scale_of


def _named(sets: Sequence[Any], labels: Sequence[str] | None, what: str) -> list[str]:
    if labels is None:
        return [""] * len(sets)
    if len(labels) != len(sets):
        msg = f"labels must name each of the {len(sets)} {what}, got {len(labels)}: {list(labels)!r}"
        raise ValueError(msg)
    return list(labels)


def draw_components_scatter(
    datasets: Sequence[ArrayLike],
    labels: Sequence[str] | None = None,
    *,
    title: str | None = None,
    component_labels: Sequence[str] | None = None,
    view_angles: tuple[float, float] | None = None,
    legend_outside: bool = False,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw sets of scores against each other, in 2D or 3D.

    Parameters
    ----------
    datasets : list of array, shape (n_samples, 2) or (n_samples, 3)
        Scores, one set for each kind of sample.
    labels : sequence of str, optional
        Name of each set.
    title : str, optional
        Title of the figure.
    component_labels : sequence of str, optional
        Names of the components.
    view_angles : (float, float), optional
        Elevation and azimuth of a 3D view, degrees.
    legend_outside : bool
        Put the legend beside the axes.
    figsize : (float, float), optional
        Inches.
    ax : matplotlib Axes, optional
        Draw here; the figure of these axes is returned. Default: a new figure.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If the sets do not all have 2, or all 3, components.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> fig = draw_components_scatter([rng.normal(size=(9, 2)), rng.normal(size=(9, 2))], ["rolled", "annealed"])
    """
    sets = [to_numpy(scores) for scores in datasets]
    shapes = {scores.shape[1] if scores.ndim == 2 else 0 for scores in sets}
    if shapes not in ({2}, {3}):
        msg = (
            f"datasets must be a list of (n_samples, 2) or of (n_samples, 3) arrays, got {[s.shape for s in sets]}; "
            "slice the scores"
        )
        raise ValueError(msg)
    (dim,) = shapes
    names = _named(sets, labels, "datasets")
    titles = list(component_labels or [f"PC {k + 1}" for k in range(dim)])
    default = (5.2, 4.2) if legend_outside else (4.2, 3.8)
    fig, panel = one_panel(ax, figsize, default, projection="3d" if dim == 3 else None)
    for index, (scores, name) in enumerate(zip(sets, names, strict=True)):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        panel.scatter(*scores.T, s=14, color=colour, marker=marker, alpha=0.7, linewidths=0, label=name or None)
    panel.set(xlabel=titles[0], ylabel=titles[1])
    if dim == 3:
        panel.set_zlabel(titles[2])
        panel.locator_params(nbins=4)
        panel.tick_params(labelsize=7, pad=0)
        panel.set_box_aspect(None, zoom=0.8)
        panel.view_init(*(view_angles or (22.0, -55.0)))
    if title:
        panel.set_title(title)
    if labels is not None:
        fig.legend(loc="outside right upper") if legend_outside else panel.legend()
    return fig


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
    """Draw how scores evolve with time, one panel a component.

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
        Label of the time axis, with units.
    legend_outside : bool
        Put the legend beside the axes.
    figsize : (float, float), optional
        Inches.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If the sets do not have the same number of columns, two at least.

    Examples
    --------
    >>> import numpy as np
    >>> time = np.arange(5.0)
    >>> fig = draw_evolution([np.stack([time, np.exp(-time)], axis=1)], ["annealing"])
    """
    sets = [to_numpy(scores) for scores in datasets]
    widths = {scores.shape[1] if scores.ndim == 2 else 0 for scores in sets}
    if len(widths) != 1 or min(widths) < 2:
        msg = (
            f"datasets must be a list of (n_times, 1 + n_components) arrays, time first, got {[s.shape for s in sets]}"
        )
        raise ValueError(msg)
    n_components = widths.pop() - 1
    check_panels(n_components)
    names = _named(sets, labels, "datasets")
    titles = list(component_labels or [f"PC {k + 1}" for k in range(n_components)])
    if len(titles) != n_components:
        msg = f"component_labels must name each of the {n_components} components, got {titles!r}"
        raise ValueError(msg)
    fig = new_figure(*(figsize or (3.4 * n_components + (1.2 if legend_outside else 0.4), 3.2)))
    panels = np.atleast_1d(fig.subplots(1, n_components))
    for component, (panel, name) in enumerate(zip(panels, titles, strict=True)):
        for index, (scores, set_name) in enumerate(zip(sets, names, strict=True)):
            style = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}
            # Only the first panel names the sets, so that a legend of the figure has each once.
            name_once = set_name if component == 0 and set_name else None
            panel.plot(scores[:, 0], scores[:, 1 + component], markersize=3, linewidth=1, label=name_once, **style)
        panel.set(xlabel=time_label, ylabel=name)
    if title:
        fig.suptitle(title)
    if labels is not None:
        fig.legend(loc="outside right upper") if legend_outside else panels[0].legend()
    return fig


def draw_component_variance(
    variance: ArrayLike, *, figsize: tuple[float, float] | None = None, ax: Axes | None = None
) -> Figure:
    """Draw the cumulative share of the variance that the leading components explain.

    Parameters
    ----------
    variance : array, shape (n_components,)
        ``explained_variance_ratio_`` of a reducer.
    figsize : (float, float), optional
        Inches.
    ax : matplotlib Axes, optional
        Draw here; the figure of these axes is returned. Default: a new figure.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> fig = draw_component_variance([0.8, 0.15, 0.04])
    """
    shares = 100.0 * np.cumsum(to_numpy(variance))
    fig, ax = one_panel(ax, figsize, (4.2, 3.2))
    ax.plot(np.arange(1, len(shares) + 1), shares, "o-", color=COLOURS[0], markersize=4)
    ax.set(xlabel="number of components", ylabel="explained variance / %")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(visible=True, alpha=0.3)
    return fig


def _parameter(results: Mapping[str, Any], name: str) -> NDArray[Any]:
    values = [params.get(name) for params in results["params"]]
    if any(value is None for value in values):
        known = sorted({key for params in results["params"] for key in params})
        msg = f"the search did not vary {name!r}; it varied {known}"
        raise ValueError(msg)
    return np.array(values)


def draw_gridscores(
    cv_results: Mapping[str, Any],
    param: str,
    *,
    by: str | None = None,
    score_label: str = "score",
    param_label: str | None = None,
    data_labels: Sequence[str] | None = None,
    colors: Sequence[str] | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw cross-validated scores against a parameter, one curve for each value of another.

    Parameters
    ----------
    cv_results : dict
        ``cv_results_`` of a search, or the search itself.
    param : str
        Parameter along the axis.
    by : str, optional
        Parameter whose values make the curves.
    score_label, param_label : str
        Axis labels.
    data_labels, colors : sequence of str, optional
        Name and colour of each curve.
    figsize : (float, float), optional
        Inches.
    ax : matplotlib Axes, optional
        Draw here; the figure of these axes is returned. Default: a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        Bands are one standard deviation over the folds.

    Raises
    ------
    ValueError
        If the search did not vary `param` or `by`.

    Examples
    --------
    >>> results = {
    ...     "params": [{"n": 1}, {"n": 2}],
    ...     "mean_test_score": [0.8, 0.9],
    ...     "std_test_score": [0.02, 0.01],
    ... }
    >>> fig = draw_gridscores(results, "n")
    """
    cv_results = getattr(cv_results, "cv_results_", cv_results)
    positions = _parameter(cv_results, param)
    curves = np.zeros(len(positions)) if by is None else _parameter(cv_results, by)
    mean, std = np.asarray(cv_results["mean_test_score"]), np.asarray(cv_results["std_test_score"])
    values = np.unique(curves)
    names = (
        _named(list(values), data_labels, "curves") if data_labels else [f"{by} = {v}" if by else "" for v in values]
    )
    palette = list(colors) if colors else [COLOURS[i % len(COLOURS)] for i in range(len(values))]
    fig, ax = one_panel(ax, figsize, (4.6, 3.4))
    for value, name, colour in zip(values, names, palette, strict=True):
        chosen = np.flatnonzero(curves == value)
        chosen = chosen[np.argsort(positions[chosen])]
        ax.plot(positions[chosen], mean[chosen], "o-", color=colour, markersize=4, label=name or None)
        ax.fill_between(
            positions[chosen], (mean - std)[chosen], (mean + std)[chosen], color=colour, alpha=0.15, linewidth=0
        )
    ax.set(xlabel=param_label or param.replace("_", " "), ylabel=score_label)
    ax.grid(visible=True, alpha=0.3)
    if by is not None or data_labels:
        ax.legend()
    return fig


def draw_gridscores_matrix(
    cv_results: Mapping[str, Any],
    params: tuple[str, str] | Sequence[str],
    *,
    score_label: str = "score",
    param_labels: Sequence[str] | None = None,
    figsize: tuple[float, float] | None = None,
) -> Figure:
    """Draw cross-validated scores and their spread over two parameters.

    Parameters
    ----------
    cv_results : dict
        ``cv_results_`` of a search, or the search itself.
    params : (str, str)
        Parameters along x and y.
    score_label : str
        Name of the score.
    param_labels : (str, str), optional
        Axis labels.
    figsize : (float, float), optional
        Inches.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If the search did not vary a parameter.

    Examples
    --------
    >>> results = {
    ...     "params": [{"n": n, "degree": d} for n in (1, 2) for d in (1, 2)],
    ...     "mean_test_score": [0.8, 0.9, 0.85, 0.95],
    ...     "std_test_score": [0.02, 0.01, 0.02, 0.01],
    ... }
    >>> fig = draw_gridscores_matrix(results, ("n", "degree"))
    """
    results: Mapping[str, Any] = getattr(cv_results, "cv_results_", cv_results)
    across, up = (_parameter(results, name) for name in params)
    columns, rows = np.unique(across), np.unique(up)
    names = list(param_labels or [name.replace("_", " ") for name in params])
    fig = new_figure(*(figsize or (max(6.5, 1.1 * len(columns)), 1.6 + 0.55 * len(rows))))
    axes = fig.subplots(1, 2)
    panels = [("mean_test_score", score_label), ("std_test_score", "standard deviation")]
    for ax, (key, title) in zip(axes, panels, strict=True):
        matrix = np.full((len(rows), len(columns)), np.nan)
        matrix[np.searchsorted(rows, up), np.searchsorted(columns, across)] = np.asarray(results[key], dtype=float)
        colours, norm = scale_of(matrix)
        ax.imshow(matrix, origin="lower", cmap=colours, norm=norm, aspect="auto", interpolation="none")
        ax.set_xticks(range(len(columns)), labels=[f"{v}" for v in columns])
        ax.set_yticks(range(len(rows)), labels=[f"{v}" for v in rows])
        ax.set(xlabel=names[0], ylabel=names[1], title=title)
        fig.colorbar(ScalarMappable(norm, colours), ax=ax, pad=0.02)
    return fig


def draw_goodness_of_fit(
    fit_data: ArrayLike,
    pred_data: ArrayLike | None = None,
    labels: Sequence[str] = ("training", "test"),
    *,
    quantity: str = "property",
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw predicted against true values.

    Parameters
    ----------
    fit_data, pred_data : array, shape (2, n_samples)
        True and predicted values, of training and of test samples.
    labels : (str, str)
        Names of the two sets.
    quantity : str
        What is predicted, with its unit.
    figsize : (float, float), optional
        Inches.
    ax : matplotlib Axes, optional
        Draw here; the figure of these axes is returned. Default: a new figure.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If a set is not (2, n_samples).

    Examples
    --------
    >>> fig = draw_goodness_of_fit([[1, 2, 3], [1.1, 2.0, 2.9]])
    """
    sets = [to_numpy(data) for data in (fit_data, pred_data) if data is not None]
    if any(data.ndim != 2 or len(data) != 2 for data in sets):
        msg = f"fit_data and pred_data must be (2, n_samples), true and predicted values; got {[d.shape for d in sets]}"
        raise ValueError(msg)
    fig, ax = one_panel(ax, figsize, (4.0, 3.8))
    low, high = min(data.min() for data in sets), max(data.max() for data in sets)
    margin = 0.04 * (high - low) or 0.5
    ends = (low - margin, high + margin)
    ax.plot(ends, ends, color="0.4", linewidth=0.8, zorder=0)
    for index, (data, name) in enumerate(zip(sets, labels, strict=False)):
        ax.scatter(
            data[0], data[1], s=12, color=COLOURS[index], marker=MARKERS[index], alpha=0.6, linewidths=0, label=name
        )
    ax.set(xlim=ends, ylim=ends, aspect="equal", xlabel=f"{quantity}, true", ylabel=f"{quantity}, predicted")
    ax.legend()
    return fig


def draw_learning_curves(
    estimator: Any,
    X: ArrayLike,
    y: ArrayLike,
    *,
    cv: Any = None,
    train_sizes: ArrayLike = (0.1, 0.325, 0.55, 0.775, 1.0),
    scoring: Any = None,
    n_jobs: int | None = None,
    params: Mapping[str, Any] | None = None,
    loss: bool = False,
    score_label: str | None = None,
    title: str | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw training and cross-validated scores against the number of training samples.

    Parameters
    ----------
    estimator : estimator, or dict of them
        Cloned and fitted for each size and fold. Of several, by name, cross-validated scores alone are drawn.
    X : array, shape (n_samples, ...)
        Samples; lazy input is loaded. What `MKSStructureAnalysis.share` returned is not: its statistics are used as
        they are.
    y : array, shape (n_samples, ...)
        Targets.
    cv, train_sizes, scoring, n_jobs
        As in `sklearn.model_selection.learning_curve`.
    params : dict, optional
        Handed to `fit`, such as ``{"size": (21, 21)}``.
    loss : bool, default False
        Draw 1 - score on a logarithmic axis, for scores that come near 1.
    score_label, title : str, optional
        Labels. Default: "score", or "1 - score".
    figsize : (float, float), optional
        Inches.
    ax : matplotlib Axes, optional
        Draw here; the figure of these axes is returned. Default: a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        Bands are one standard deviation over the folds.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LinearRegression
    >>> x = np.linspace(0, 1, 40)[:, None]
    >>> fig = draw_learning_curves(LinearRegression(), x, x[:, 0])
    """
    shared = isinstance(X, SharedStatistics)
    curves: list[tuple[str, Any, Any]] = []
    for label, each in estimator.items() if isinstance(estimator, Mapping) else (("", estimator),):
        sizes, training, validation = learning_curve(
            each,
            X if shared else to_numpy(X),
            to_numpy(y),
            cv=cv,
            train_sizes=np.asarray(train_sizes),
            scoring=scoring,
            n_jobs=n_jobs,
            params=dict(params) if params else None,
        )[:3]
        curves += [(label, sizes, validation)] if label else [("training", sizes, training)]
        curves += [] if label else [("cross-validation", sizes, validation)]
    fig, ax = one_panel(ax, figsize, (4.6, 3.4))
    for index, (label, sizes, scores) in enumerate(curves):
        values = np.maximum(1.0 - scores, np.finfo(float).eps) if loss else scores
        mean, std = values.mean(axis=1), values.std(axis=1)
        marker, colour = MARKERS[index % len(MARKERS)], COLOURS[index % len(COLOURS)]
        ax.plot(sizes, mean, f"{marker}-", color=colour, markersize=4, label=label)
        low = np.maximum(mean - std, mean / 10) if loss else mean - std
        ax.fill_between(sizes, low, mean + std, color=colour, alpha=0.15, linewidth=0)
    ax.set(xlabel="training samples", ylabel=score_label or ("1 - score" if loss else "score"))
    if loss:
        ax.set_yscale("log")
    ax.grid(visible=True, alpha=0.3)
    ax.legend()
    if title:
        ax.set_title(title)
    return fig
