"""Tables of one row for each sample: responses that are read from files, and predictions that are written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from mksdask.arrays import Array
from mksdask.labels import matched_values
from mksdask.storage.arrays import write_dataset
from mksdask.storage.atomic import RESULTS, Url, attributes_of, seal
from mksdask.storage.coordinates import storable
from mksdask.storage.sources import provenance, sources_of
from mksdask.storage.staging import staged, staged_file

# The column with the label or the number of each sample, which `write_table` adds.
INDEX = "sample"
# pandas before 3.1 may read the last bit of a number wrong unless it is told not to. Later ones deprecate this option.
EXACT: dict[str, Any] = (
    {} if tuple(map(int, pd.__version__.split(".")[:2])) >= (3, 1) else {"float_precision": "round_trip"}
)
# The columns with predictions of a table of `mksdask predict`.
_PREDICTION = re.compile(r"prediction(_\d+)?")


def read_table(path: Path, like: pd.Index | None = None) -> Array:
    """Read the numbers of a .csv file with a header, or of a .npy file.

    Parameters
    ----------
    path : Path
        A file with one row for each sample. A .csv file may count its rows 0, 1, … in a column ``sample``, which is
        left out, or hold the labels of the samples there. Of a table of predictions, only these are taken.
    like : Index, optional
        Labels of the samples in the order in which their rows are returned. A file without labels has this order.

    Returns
    -------
    ndarray, shape (n_samples, ...)
        A table of one column has shape (n_samples,).

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file holds something other than numbers, no header, or other labels. Nothing is unpickled.
    """
    if not path.exists():
        msg = f"{str(path)!r}: there is no such file; name a .csv or .npy file that exists"
        raise FileNotFoundError(msg)
    values: Array = np.load(path, allow_pickle=False) if path.suffix == ".npy" else _read_csv(path, like)
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def table_columns(path: Path) -> list[str]:
    """Name the properties that `read_table` takes from a .csv file. Other files name none."""
    if path.suffix != ".csv":
        return []
    return [str(name) for name in _of_properties(pd.read_csv(path, nrows=0)).columns if name != INDEX]


def _of_properties(table: pd.DataFrame) -> pd.DataFrame:
    """Select the labels of samples and the properties of a table. Of a table of predictions, only these are taken."""
    predictions = [name for name in table.columns if _PREDICTION.fullmatch(str(name))]
    return table[[*table.columns.intersection([INDEX]), *predictions]] if predictions else table


def _read_csv(path: Path, like: pd.Index | None) -> Array:
    table = pd.read_csv(path, dtype=None if like is None else {INDEX: str}, **EXACT)
    how = "write a header, then one row of numbers for each sample, with commas between them and decimal points"
    if not isinstance(table.index, pd.RangeIndex):
        msg = f"{path} has rows of more values than its header {list(table.columns)}; {how}"
        raise ValueError(msg)
    table = _of_properties(table)
    texts = None if like is None else table.pop(INDEX) if INDEX in table.columns else None
    strange = [str(name) for name in table.columns if not pd.api.types.is_numeric_dtype(table[name])]
    if strange:
        msg = f"{path} holds text in the columns {strange}; {how}"
        raise ValueError(msg)
    if len(table.columns) and all(_is_number(name) for name in table.columns):
        msg = f"{path} has no header, its first row is {list(table.columns)}; {how}"
        raise ValueError(msg)
    if INDEX in table.columns and (table[INDEX].to_numpy() == np.arange(len(table))).all():
        table = table.drop(columns=INDEX)
    if not table.shape[1]:
        msg = f"{path} has no column of properties; {how}"
        raise ValueError(msg)
    values = np.asarray(table.to_numpy(dtype=float))
    is_counted = texts is not None and texts.tolist() == list(map(str, range(len(texts))))
    if like is None or texts is None or (is_counted and not pd.api.types.is_integer_dtype(like)):
        return values
    named = pd.DataFrame(values, index=_labels(texts, like))
    remedy = f"write the label of each sample into the column {INDEX!r}, or leave out this column"
    return matched_values(named, like, name=str(path), of="the store", remedy=remedy)


def _labels(texts: pd.Series[str], like: pd.Index) -> pd.Index:
    """Read labels in the dtype of others. They stay texts if they are no such values."""
    try:
        return pd.Index(texts.astype(like.dtype))
    except ValueError:
        return pd.Index(texts)


def _is_number(text: object) -> bool:
    try:
        float(str(text))
    except ValueError:
        return False
    return True


def write_table(
    values: xr.Dataset, path: Url, *, overwrite: bool, resume: bool = False, step: str | None = None
) -> None:
    """Write values of samples to a .csv file or a zarr store, completely or not at all.

    Parameters
    ----------
    values : Dataset
        Variables whose first axis is the sample. A variable with more numbers for each sample takes several columns of
        a .csv file, ``name_0``, ``name_1``, …. A .csv file holds the labels of the samples, or counts them, and then
        their other coordinates, such as the corners of windows.
    path : Path or str
        A name that ends in .csv, or in .zarr. The second may be a URL.
    overwrite : bool
        Replace an earlier table.
    resume : bool, default False
        Whether a .csv file that holds these same values may be there.
    step : str, optional
        A token of what the values were computed from, which a store keeps.

    Raises
    ------
    FileExistsError
        If something is there that may not be replaced.
    """
    if not str(path).endswith(".csv"):
        with staged(path, "w" if overwrite else "w-", RESULTS) as location:
            members = sorted(map(str, values.variables))
            # What a call that is killed leaves is known as a part of a store of this package.
            seal(location, {"mksdask": "partial result", "members": members})
            marked = values.assign_coords(storable(values.coords.to_dataset()).coords)
            write_dataset(marked if step is None else marked.assign_attrs(step=step), location)
            made = {"mksdask": "result", "members": members, "provenance": provenance(sources_of())}
            seal(location, attributes_of(location) | made, members=True)
        return
    columns: dict[str, Any] = {
        str(name): array.to_numpy()
        for name, array in values.coords.items()
        if array.dims == (INDEX,) and str(name) != INDEX
    }
    columns |= {
        f"{name}_{i}" if array.ndim > 1 else str(name): column
        for name, array in values.data_vars.items()
        for i, column in enumerate(array.to_numpy().reshape(len(array), -1).T)
    }
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with staged_file(Path(path), overwrite=overwrite, resume=resume) as new:
        pd.DataFrame(columns, index=values.indexes.get(INDEX)).to_csv(new, index_label=INDEX)
