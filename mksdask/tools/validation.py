"""Figures of searches for parameters and of the quality of linkages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from sklearn.model_selection import learning_curve

from mksdask.arrays import Array, ArrayLike, numbers_argument, shown, to_numpy
from mksdask.labels import matched_values, sample_index
from mksdask.reduction.shared import SharedStatistics
from mksdask.schema.arguments import checked
from mksdask.tools.layout import LABELS, LETTER, label_axes, legend_below, number_text, room_of
from mksdask.tools.panels import names_of_sets, new_figure, one_panel, scale_of, style_of
from mksdask.tools.style import ONE_COLUMN, TWO_COLUMNS, styled


def _parameter(results: Mapping[str, Any], name: str) -> list[Any]:
    if not isinstance(results, Mapping) or not {"params", "mean_test_score"} <= results.keys():
        msg = f"cv_results must be the cv_results_ of a search, got {shown(results)}"
        raise TypeError(msg)
    values = [params.get(name) if isinstance(name, str) else None for params in results["params"]]
    if any(value is None for value in values):
        known = sorted({key for params in results["params"] for key in params})
        msg = f"the search did not vary {name!r}; it varied {known}"
        raise ValueError(msg)
    return values


def _are_pairs(cv: Any) -> bool:
    return (
        isinstance(cv, list | tuple)
        and len(cv) > 0
        and all(isinstance(each, list | tuple) and len(each) == 2 for each in cv)
    )


def _distinct(values: Sequence[Any]) -> list[Any]:
    """Return each value once: in rising order, or as they come if they have no order, such as bases."""
    found = {repr(value): value for value in values}.values()
    try:
        return sorted(found)
    except TypeError:
        return list(found)


def _second_parameter(results: Mapping[str, Any], param: str, by: str | None) -> str | None:
    """Find the parameter that the search varied beside `param`. None if there is none."""
    names = {name: None for params in results["params"] for name in params if name != param}
    varied = [name for name in names if len(_distinct([params.get(name) for params in results["params"]])) > 1]
    if set(varied) <= {by}:
        return by
    if by is None and len(varied) == 1:
        return varied[0]
    others = [name for name in varied if name != by]
    if by is None:
        others = others[1:]
    msg = (
        f"the search varied {[param, *varied]}, but a figure shows two parameters; draw a search with one value of "
        f"{' and '.join(others)}, such as search.best_params_[{others[0]!r}]"
    )
    raise ValueError(msg)


def _curve(
    ax: Axes, x: Array, mean: Array, low: Array, high: Array, name: str | None, color: str, marker: str = "o"
) -> None:
    """Draw a curve with a band around it."""
    ax.plot(x, mean, f"{marker}-", color=color, label=name)
    ax.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)


@checked
@styled
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
    """Draw cross-validated scores against one parameter, one curve for each value of a second one.

    Parameters
    ----------
    cv_results : dict
        A fitted search, such as `GridSearchCV`, or its ``cv_results_``.
    param : str
        Parameter along the horizontal axis.
    by : str, optional
        Parameter with one curve for each of its values. Default: the other parameter, if the search varied two.
    score_label, param_label : str
        Axis labels.
    data_labels, colors : sequence of str, optional
        Name and colour of each curve.
    figsize : (float, float), optional
        Width and height of the figure, inches.
    ax : matplotlib Axes, optional
        Axes to draw on. The function returns their figure. Default: a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The band around a curve is one standard deviation over the folds on either side.

    Raises
    ------
    ValueError
        If the search did not vary `param` or `by`, or varied further parameters.

    Examples
    --------
    >>> results = {
    ...     "params": [{"n": n, "degree": d} for n in (1, 2) for d in (1, 2)],
    ...     "mean_test_score": [0.8, 0.9, 0.85, 0.95],
    ...     "std_test_score": [0.02, 0.01, 0.02, 0.01],
    ... }
    >>> fig = draw_gridscores(results, "n")  # one curve for each degree
    """
    cv_results = getattr(cv_results, "cv_results_", cv_results)
    positions = np.array(_parameter(cv_results, param))
    by = _second_parameter(cv_results, param, by)
    curves = [""] * len(positions) if by is None else _parameter(cv_results, by)
    mean, std = np.asarray(cv_results["mean_test_score"]), np.asarray(cv_results["std_test_score"])
    values = _distinct(curves)
    names = (
        names_of_sets(list(values), data_labels, "curves")
        if data_labels
        else [f"{by} = {v}" if by else "" for v in values]
    )
    palette = list(colors) if colors is not None else [style_of(index)["color"] for index in range(len(values))]
    fig, panel = one_panel(ax, figsize, (ONE_COLUMN, 2.6))
    for value, name, colour in zip(values, names, palette, strict=True):
        chosen = np.flatnonzero([repr(each) == repr(value) for each in curves])
        chosen = chosen[np.argsort(positions[chosen])]
        low, high = (mean - std)[chosen], (mean + std)[chosen]
        _curve(panel, positions[chosen], mean[chosen], low, high, name or None, colour)
    label_axes(panel, param_label or param.replace("_", " "), score_label)
    if positions.dtype.kind in "iuf" and positions.min() > 0 and positions.max() >= 1000 * positions.min():
        panel.set_xscale("log")
    panel.grid(visible=True, alpha=0.3)
    if by is not None or data_labels:
        legend_below([panel], ax, figsize)
    return fig


def _value_text(value: Any) -> str:
    """Write a value of a parameter: a float with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@checked
@styled
def draw_gridscores_matrix(
    cv_results: Mapping[str, Any],
    params: tuple[str, str] | Sequence[str],
    *,
    score_label: str = "score",
    param_labels: Sequence[str] | None = None,
    figsize: tuple[float, float] | None = None,
) -> Figure:
    """Draw two maps over two parameters: the mean cross-validated score and its standard deviation.

    Parameters
    ----------
    cv_results : dict
        A fitted search, such as `GridSearchCV`, or its ``cv_results_``.
    params : (str, str)
        Parameters along the horizontal and the vertical axis.
    score_label : str
        Name of the score.
    param_labels : (str, str), optional
        Axis labels.
    figsize : (float, float), optional
        Width and height of the figure, inches.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If the search did not vary one of `params`.

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
    across, up = (np.array(_parameter(results, name)) for name in params)
    columns, rows = np.unique(across), np.unique(up)
    names = list(param_labels or [name.replace("_", " ") for name in params])
    if len(names) != 2:
        msg = f"params and param_labels must each name two parameters, got {list(params)!r} and {names!r}"
        raise ValueError(msg)
    fig = new_figure(*(figsize or (TWO_COLUMNS, 1.2 + 0.4 * len(rows))))
    axes = fig.subplots(1, 2, sharey=True)
    across_texts = [_value_text(value) for value in columns]
    is_long = len(columns) * (1 + max(map(len, across_texts))) * LETTER > room_of(axes[0])[0] - LABELS
    panels = [("mean_test_score", score_label), ("std_test_score", "standard deviation")]
    for ax, (key, title) in zip(axes, panels, strict=True):
        matrix = np.full((len(rows), len(columns)), np.nan)
        matrix[np.searchsorted(rows, up), np.searchsorted(columns, across)] = np.asarray(results[key], dtype=float)
        scale = scale_of(matrix)
        ax.imshow(matrix, origin="lower", cmap=scale.colours, norm=scale.norm, aspect="auto", interpolation="none")
        ax.set_xticks(range(len(columns)), labels=across_texts, rotation=90 if is_long else 0)
        ax.set_yticks(range(len(rows)), labels=[_value_text(value) for value in rows])
        ax.set(xlabel=names[0], title=title)
        fig.colorbar(ScalarMappable(scale.norm, scale.colours), ax=ax, pad=0.02)
    axes[0].set_ylabel(names[1])
    return fig


@checked
@styled
def draw_goodness_of_fit(
    fit_data: ArrayLike,
    pred_data: ArrayLike | None = None,
    labels: Sequence[str] = ("training", "test"),
    *,
    quantity: str = "property",
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw predicted values against true values, with the diagonal on which a perfect linkage lies.

    The legend gives R² and the root mean square error (RMSE) of each set.

    Parameters
    ----------
    fit_data, pred_data : array, shape (2, n_samples) or (3, n_samples)
        True values in the first row and predicted values in the second; `fit_data` of the training samples,
        `pred_data` of the test samples. A third row holds the standard deviation of each prediction, such as
        ``predict(X, return_std=True)`` returns it, which is drawn as an error bar.
    labels : (str, str)
        Names of the two sets.
    quantity : str
        Name of the predicted quantity, with its unit after a stroke: "stiffness / GPa".
    figsize : (float, float), optional
        Width and height of the figure, inches.
    ax : matplotlib Axes, optional
        Axes to draw on. The function returns their figure. Default: a new figure.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If `fit_data` or `pred_data` does not have two or three rows.

    Examples
    --------
    >>> fig = draw_goodness_of_fit([[1, 2, 3], [1.1, 2.0, 2.9]])
    """
    given = {"fit_data": fit_data, "pred_data": pred_data}
    sets = [numbers_argument(data, name) for name, data in given.items() if data is not None]
    if not all(np.isfinite(data).all() and data.size for data in sets):
        msg = "fit_data and pred_data must hold finite numbers; leave out samples without a property"
        raise ValueError(msg)
    if any(data.ndim != 2 or len(data) not in (2, 3) for data in sets):
        msg = (
            "fit_data and pred_data must have shape (2, n_samples): true values in the first row, predicted values in "
            f"the second, and their standard deviations in a third if they are known; got shapes "
            f"{[data.shape for data in sets]}"
        )
        raise ValueError(msg)
    fig, panel = one_panel(ax, figsize, (ONE_COLUMN, 3.0))
    low, high = min(data[:2].min() for data in sets), max(data[:2].max() for data in sets)
    margin = 0.04 * (high - low) or 0.5
    ends = (low - margin, high + margin)
    panel.plot(ends, ends, color="0.4", linewidth=0.8, zorder=0)
    symbol, _, unit = quantity.rpartition(" / ")
    for index, (data, name) in enumerate(zip(sets, labels, strict=False)):
        look = style_of(index)
        if len(data) == 3:
            panel.errorbar(
                data[0], data[1], yerr=data[2], fmt="none", ecolor=look["color"], elinewidth=0.6, alpha=0.5, zorder=1
            )
        text = f"{name}: {_errors(data, unit if symbol else '')}"
        panel.scatter(data[0], data[1], s=10, alpha=0.6, linewidths=0, label=text, zorder=2, **look)
    names = [f"{what} {symbol or quantity}" + (f" / {unit}" if symbol else "") for what in ("true", "predicted")]
    panel.set(xlim=ends, ylim=ends, aspect="equal")
    label_axes(panel, *names)
    has_bars = any(len(data) == 3 for data in sets)
    legend_below([panel], ax, figsize, title="bars: ± 1 standard deviation" if has_bars else None)
    return fig


def _errors(data: Array, unit: str) -> str:
    """Write R², if the true values differ, and the root mean square error."""
    truth, error = data[0], data[1] - data[0]
    variance = float(np.mean((truth - truth.mean()) ** 2))
    r2 = f"R² = {1.0 - float(np.mean(error**2)) / variance:.4f}\n" if variance > 0.0 else ""
    return f"{r2}RMSE = {number_text(np.sqrt(np.mean(error**2)))} {unit}".rstrip()


@checked
@styled
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
        It is cloned and fitted for each size and fold. For a dict of named estimators, only their cross-validated
        scores are drawn.
    X : array, shape (n_samples, ...)
        Samples. Lazy input is loaded into memory, except the result of `MKSStructureAnalysis.share`, whose
        statistics are used where they are.
    y : array, shape (n_samples, ...)
        Targets.
    cv, train_sizes, scoring, n_jobs
        See `sklearn.model_selection.learning_curve`.
    params : dict, optional
        Further arguments of `fit`, such as ``{"size": (21, 21)}``.
    loss : bool, default False
        Draw 1 − score on a logarithmic axis. This tells apart scores close to 1.
    score_label, title : str, optional
        Label of the vertical axis (default "score", or "1 − score" with `loss`) and title of the figure.
    figsize : (float, float), optional
        Width and height of the figure, inches.
    ax : matplotlib Axes, optional
        Axes to draw on. The function returns their figure. Default: a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The band around a curve is one standard deviation over the folds on either side.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LinearRegression
    >>> x = np.linspace(0, 1, 40)[:, None]
    >>> fig = draw_learning_curves(LinearRegression(), x, x[:, 0])
    """
    fractions = numbers_argument(train_sizes, "train_sizes")
    if fractions.ndim != 1 or not fractions.size or not (fractions > 0).all():
        msg = f"train_sizes must be positive fractions or numbers of samples, got {shown(train_sizes)}"
        raise ValueError(msg)
    is_folds = cv is None or hasattr(cv, "split") or (isinstance(cv, int | np.integer) and cv >= 2)
    if isinstance(cv, str | bytes) or not (is_folds or _are_pairs(cv)):
        msg = f"cv must be a number of folds from 2, a splitter, or pairs of rows, got {shown(cv)}"
        raise TypeError(msg)
    options: Any = {} if params is None else params
    if not isinstance(options, Mapping) or not all(isinstance(name, str) for name in options):
        msg = f"params must be a dict of arguments of fit, got {shown(params)}"
        raise TypeError(msg)
    shared, targets = isinstance(X, SharedStatistics), matched_values(y, sample_index(X), name="y")
    curves: list[tuple[str, Any, Any]] = []
    for label, each in estimator.items() if isinstance(estimator, Mapping) else (("", estimator),):
        try:
            sizes, training, validation = learning_curve(
                each,
                X if shared else to_numpy(X),
                targets,
                cv=cv,
                train_sizes=np.asarray(train_sizes),
                scoring=scoring,
                n_jobs=n_jobs,
                params=dict(options) or None,
            )[:3]
        except ValueError as error:
            msg = f"the estimator cannot be scored with this X, y, cv, params and scoring: {error}"
            raise ValueError(msg) from error
        curves += [(label, sizes, validation)] if label else [("training", sizes, training)]
        curves += [] if label else [("cross-validation", sizes, validation)]
    fig, panel = one_panel(ax, figsize, (ONE_COLUMN, 2.6))
    for index, (label, sizes, scores) in enumerate(curves):
        values = np.maximum(1.0 - scores, np.finfo(float).eps) if loss else scores
        mean, std = values.mean(axis=1), values.std(axis=1)
        low = np.maximum(mean - std, mean / 10) if loss else mean - std
        _curve(panel, sizes, mean, low, mean + std, label, **style_of(index))
    label_axes(panel, "training samples", score_label or ("1 − score" if loss else "score"), title)
    if loss:
        panel.set_yscale("log")
    panel.grid(visible=True, alpha=0.3)
    legend_below([panel], ax, figsize)
    return fig
