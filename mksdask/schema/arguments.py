"""Arguments of public calls: what they must be, by their names. A name means the same in each call of the package."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import numpy as np
import pandas as pd

from mksdask.arrays import is_number, shown

P = ParamSpec("P")
R = TypeVar("R")


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool | np.bool_)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list | tuple | np.ndarray | pd.Index) and all(isinstance(text, str) for text in value)


def _is_in_memory(value: Any) -> bool:
    if isinstance(value, memoryview):
        # Its rows cannot be taken one by one.
        return False
    graph = None if isinstance(value, type) else getattr(value, "__dask_graph__", None)
    # A DataArray in memory has the method too, and it returns None.
    return not callable(graph) or graph() is None


def _is_figure_size(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(is_number(n) and 0 < n <= 1000 for n in value)


def _whole(least: int, most: int = 2**63 - 1) -> tuple[Callable[[Any], bool], str]:
    """Make the kind of integers from `least` to `most`. True and False are none."""
    text = ("a positive integer" if least == 1 else f"an integer from {least}") + f", at most {most}" * (
        most < 2**63 - 1
    )

    def fits(value: Any) -> bool:
        return isinstance(value, int | np.integer) and type(value) is not bool and bool(least <= value <= most)

    return fits, text


_FLAGS = "allow_missing progress compute_correlations flatten is_checked is_complex legend_outside loss mean_center"
_FLAGS += " follow_links normalize overwrite resume return_grains return_std store_correlations whiten"
_TEXTS = "criterion label mode param_label quantity score_label solver time_label title units"
_LISTS = "component_labels data_labels labels names param_labels"
_PAIRS, _SMALL = "correlations", "colors hide params view_angles"
#: What the arguments of public calls must be that have these names. A default is always right.
ARGUMENTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(_FLAGS.split(), (_is_flag, "True or False")),
    **dict.fromkeys(_TEXTS.split(), (_is_text, "a text")),
    **dict.fromkeys(_LISTS.split(), (_are_texts, "texts, one for each; put what is to be compared into one list")),
    **dict.fromkeys(_PAIRS.split(), (_is_in_memory, "pairs in memory, such as [(0, 0), (0, 1)]")),
    **dict.fromkeys(
        _SMALL.split(), (_is_in_memory, "in memory, as a list or an array; call compute first if it is lazy")
    ),
    "figsize": (_is_figure_size, "the width and the height in inches, two positive numbers up to 1000"),
    "height": _whole(1, 10_000),
    "iterated_power": _whole(0, 1000),
    "max_iterations": _whole(1),
    "n_grains": _whole(1),
    "n_spatial": _whole(1, 3),
    "n_squares": _whole(1),
    "n_steps": _whole(0, 10**9),
    "ndim": _whole(1, 3),
    "order": _whole(1, 64),
    "oversampling": _whole(0),
    "seed": _whole(0),
    "square_size": _whole(1),
    "stream": _whole(0),
}


def check_argument(value: Any, name: str) -> None:
    """Check an argument of a name that `ARGUMENTS` lists.

    Raises
    ------
    TypeError
        If it must be a flag, a text, or in memory, and is not.
    ValueError
        If it is no number of the right kind, or no list of texts.
    """
    fits, text = ARGUMENTS[name]
    if not fits(value):
        msg = f"{name} must be {text}, got {shown(value)}"
        raise (TypeError if fits in (_is_flag, _is_text, _is_in_memory) else ValueError)(msg)


def checked(call: Callable[P, R]) -> Callable[P, R]:
    """Check the arguments of a public call, and the parameters of its object, whose names `ARGUMENTS` lists."""
    parameters = inspect.signature(call).parameters

    @functools.wraps(call)
    def checking(*args: P.args, **options: P.kwargs) -> R:
        given = dict(zip(parameters, args, strict=False)) | options
        _check_all(given, parameters)
        if "self" in given:
            _check_all(vars(given["self"]), inspect.signature(type(given["self"])).parameters)
        return call(*args, **options)

    return checking


def _check_all(values: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter]) -> None:
    for name in ARGUMENTS.keys() & values.keys() & parameters.keys():
        if values[name] is not parameters[name].default:
            check_argument(values[name], name)
