"""Tables of one row for each sample: responses that are read from files, and predictions that are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from mksdask.arrays import Array
from mksdask.storage.arrays import write_dataset
from mksdask.storage.atomic import RESULTS, attributes_of, seal, staged, staged_file

# The column with the number of each sample, which `write_table` adds.
INDEX = "sample"


def read_table(path: Path) -> Array:
    """Read the numbers of a .csv file with a header, or of a .npy file.

    Parameters
    ----------
    path : Path
        A file with one row for each sample. A .csv file may count its rows 0, 1, … in a column ``sample``, which is
        left out.

    Returns
    -------
    ndarray, shape (n_samples, ...)
        A table of one column has shape (n_samples,).

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file holds something other than numbers, or no header. Nothing is unpickled.
    """
    if not path.exists():
        msg = f"{str(path)!r}: there is no such file; name a .csv or .npy file that exists"
        raise FileNotFoundError(msg)
    values: Array = np.load(path, allow_pickle=False) if path.suffix == ".npy" else _read_csv(path)
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def _read_csv(path: Path) -> Array:
    table = pd.read_csv(path)
    how = "write a header, then one row of numbers for each sample, with commas between them and decimal points"
    if not isinstance(table.index, pd.RangeIndex):
        msg = f"{path} has rows of more values than its header {list(table.columns)}; {how}"
        raise ValueError(msg)
    strange = [str(name) for name in table.columns if not pd.api.types.is_numeric_dtype(table[name])]
    if strange:
        msg = f"{path} holds text in the columns {strange}; {how}"
        raise ValueError(msg)
    if all(_is_number(name) for name in table.columns):
        msg = f"{path} has no header, its first row is {list(table.columns)}; {how}"
        raise ValueError(msg)
    if INDEX in table.columns and (table[INDEX].to_numpy() == np.arange(len(table))).all():
        table = table.drop(columns=INDEX)
    if not table.shape[1]:
        msg = f"{path} has no column of properties; {how}"
        raise ValueError(msg)
    return np.asarray(table.to_numpy(dtype=float))


def _is_number(text: object) -> bool:
    try:
        float(str(text))
    except ValueError:
        return False
    return True


def write_table(values: xr.Dataset, path: Path, *, overwrite: bool) -> None:
    """Write values of samples to a .csv file or a zarr store, completely or not at all.

    Parameters
    ----------
    values : Dataset
        Variables whose first axis is the sample. A variable with more numbers for each sample takes several columns of
        a .csv file, ``name_0``, ``name_1``, ….
    path : Path
        A name that ends in .csv, or in .zarr.
    overwrite : bool
        Replace an earlier table.

    Raises
    ------
    FileExistsError
        If something is there that may not be replaced.
    """
    if path.suffix != ".csv":
        with staged(path, "w" if overwrite else "w-", RESULTS) as location:
            write_dataset(values, location)
            members = sorted(map(str, values.variables))
            seal(location, attributes_of(location) | {"mksdask": "result", "members": members}, members=True)
        return
    columns: dict[str, Any] = {
        f"{name}_{i}" if array.ndim > 1 else str(name): column
        for name, array in values.data_vars.items()
        for i, column in enumerate(array.to_numpy().reshape(len(array), -1).T)
    }
    with staged_file(path, overwrite=overwrite) as new:
        pd.DataFrame(columns).to_csv(new, index_label=INDEX)
