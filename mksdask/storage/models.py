"""Fitted models on zarr: numbers and names alone, of classes that are listed here. Nothing is unpickled."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import PolynomialFeatures
from sklearn.utils.validation import check_is_fitted

from mksdask.arrays import is_lazy
from mksdask.bases import FourierBasis, GSHBasis, LegendreBasis, PrimitiveBasis, ProductBasis
from mksdask.bases.base import Basis
from mksdask.homogenization import MKSHomogenizationModel
from mksdask.localization import MKSLocalizationModel
from mksdask.reduction import PCA
from mksdask.reduction.shared import RotatedPCA
from mksdask.regression import KernelRegressor, LeadingScaler, LeastSquares
from mksdask.regression.exact import ExactFit
from mksdask.regression.kernels import Kernel
from mksdask.regression.landmarks import LandmarkFeatures, LandmarkFit
from mksdask.storage.atomic import Location, Url, staged
from mksdask.storage.opening import open_group
from mksdask.structure import MKSStructureAnalysis

MODELS = (MKSStructureAnalysis, MKSHomogenizationModel, MKSLocalizationModel)
CLASSES: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        *MODELS,
        *(FourierBasis, GSHBasis, LegendreBasis, PrimitiveBasis, ProductBasis),
        *(PCA, KernelRegressor, LeadingScaler, LeastSquares, Pipeline, PolynomialFeatures),
        *(ExactFit, Kernel, LandmarkFeatures, LandmarkFit),
    )
}
# What follows from the rest, or serves `partial_fit` alone.
LEFT_OUT = ("_calibration", "_kind", "_kept_transfer", "_ensemble", "_rotation", "_centre", "_sklearn_version")
FORMAT = 1


def save_model(model: Any, url: Url) -> None:
    """Write a fitted model to a zarr store, whole or not at all.

    Parameters
    ----------
    model : MKSStructureAnalysis, MKSHomogenizationModel or MKSLocalizationModel
        Fitted, with reducers and linkers of this package.
    url : str or path
        A path, or any URL that fsspec knows; an earlier model there is replaced, and nothing else.

    Raises
    ------
    FileExistsError
        If something is there that is no model.
    TypeError
        If it, or a part of it, is of a class that is not known here, such as a linker of your own: `pickle` then saves
        it, for yourself.

    Notes
    -----
    A model that was loaded predicts to the last bit what it did; `partial_fit` begins anew, and lazy attributes are
    gone.

    Examples
    --------
    >>> import tempfile
    >>> from mksdask import MKSHomogenizationModel, PrimitiveBasis, load_model
    >>> from mksdask.datasets.responses import make_elastic_stiffness
    >>> X, y = make_elastic_stiffness(n_samples=(20, 20), grain_size=((3, 3), (9, 9)))
    >>> model = MKSHomogenizationModel(PrimitiveBasis(2), n_components=3, periodic_axes=[0, 1]).fit(X, y)
    >>> url = tempfile.mkdtemp() + "/model.zarr"
    >>> save_model(model, url)
    >>> bool((load_model(url).predict(X) == model.predict(X)).all())
    True
    """
    if not isinstance(model, MODELS):
        msg = f"model must be one of {', '.join(cls.__name__ for cls in MODELS)}, got {model!r}"
        raise TypeError(msg)
    check_is_fitted(model, "_kernels" if isinstance(model, MKSLocalizationModel) else "dimension_reducer_")
    # Encoded before anything is written.
    arrays: list[np.ndarray[Any, Any]] = []
    encoded = _encode(model, arrays, type(model).__name__)
    with staged(url, "w", ("model",)) as location:
        group = zarr.open_group(location.store, mode="w")
        group.attrs.update({"mksdask": "model", "format": FORMAT, "model": encoded})
        for number, array in enumerate(arrays):
            group.create_array(str(number), data=array)


def load_model(url: Url) -> Any:
    """Read what `save_model` wrote.

    Parameters
    ----------
    url : str or path
        Where it is.

    Raises
    ------
    ValueError
        If there is no saved model, or one of another format; or if an array of it has a codec or data type that the
        package does not write, such as pickle.
    """
    try:
        group = open_group(Location.of(url))
        attrs: dict[str, Any] = dict(group.attrs)
    except FileNotFoundError as error:
        msg = f"{url} holds no saved model; make one with save_model"
        raise ValueError(msg) from error
    if attrs.get("mksdask") != "model" or attrs.get("format") != FORMAT:
        other = " but a store of microstructures or results" if "mksdask" in attrs else ""
        msg = f"{url} holds no saved model of format {FORMAT}{other}; make one with save_model, or mksdask fit"
        raise ValueError(msg)
    return _decode(attrs["model"], lambda number: np.asarray(group[str(number)][...]))  # type: ignore[index]


def _encode(value: Any, arrays: list[np.ndarray[Any, Any]], place: str) -> Any:
    """JSON of a value; arrays are kept aside and numbered."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic | float)):
        return {"dtype": np.dtype(value).str}
    if isinstance(value, np.generic):
        return {"scalar": _encode(value.item(), arrays, place), "dtype": value.dtype.str}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        arrays.append(value)
        return {"array": len(arrays) - 1}
    if isinstance(value, np.ndarray) and value.dtype.kind in "UT":
        return {"names": value.tolist()}
    if isinstance(value, list | tuple):
        items = [_encode(item, arrays, place) for item in value]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, dict):
        return {"dict": [[_encode(part, arrays, place) for part in pair] for pair in value.items()]}
    cls = PCA if isinstance(value, RotatedPCA) else type(value)
    if CLASSES.get(cls.__name__) is not cls:
        msg = f"{place} is of {cls.__module__}.{cls.__qualname__}, which cannot be saved; pickle the model for yourself"
        raise TypeError(msg)
    if isinstance(value, ProductBasis):
        return {"object": cls.__name__, "arguments": [_encode(basis, arrays, place) for basis in value.bases]}
    if isinstance(value, Basis):
        return {"object": cls.__name__, "options": _encode(value.get_params(deep=False), arrays, place)}
    state = value.__getstate__() if isinstance(value, BaseEstimator) else vars(value)
    kept = {name: part for name, part in state.items() if name not in LEFT_OUT and not is_lazy(part)}
    return {
        "object": cls.__name__,
        "state": {name: _encode(part, arrays, f"{place}.{name}") for name, part in kept.items()},
    }


def _decode(value: Any, array: Callable[[int], Any]) -> Any:
    if isinstance(value, list):
        return [_decode(item, array) for item in value]
    if not isinstance(value, dict):
        return value
    if "object" in value:
        if value["object"] not in CLASSES:
            msg = f"the saved model holds a {value['object']}, which is not known"
            raise ValueError(msg)
        cls = CLASSES[value["object"]]
        if "arguments" in value:
            return cls(*_decode(value["arguments"], array))
        if "options" in value:
            return cls(**_decode(value["options"], array))
        found: Any = object.__new__(cls)
        found.__dict__.update({name: _decode(part, array) for name, part in value["state"].items()})
        if cls is MKSLocalizationModel:
            found.__dict__.update({"_calibration": None, "_kept_transfer": None})
        return found
    if "array" in value:
        return array(int(value["array"]))
    if "names" in value:
        return np.array(value["names"])
    if "tuple" in value:
        return tuple(_decode(value["tuple"], array))
    if "dict" in value:
        return {_decode(key, array): _decode(part, array) for key, part in value["dict"]}
    if "scalar" in value:
        return np.dtype(value["dtype"]).type(_decode(value["scalar"], array))
    return np.dtype(value["dtype"]) if "dtype" in value else float(value["float"])
