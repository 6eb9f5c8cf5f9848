"""Tables of one row for each sample."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from numpy.testing import assert_array_equal

from mksdask.storage.tables import read_table, write_table

VALUES = np.random.default_rng(0).random((5, 2))


@pytest.mark.parametrize("values", [VALUES, VALUES[:, 0]])
def test_table__round_trip(tmp_path, values):
    dataset = xr.Dataset({"prediction": (("sample", "property")[: values.ndim], values)})
    write_table(dataset, tmp_path / "p.csv", overwrite=False)
    assert_array_equal(read_table(tmp_path / "p.csv"), values)
    columns = ["prediction"] if values.ndim == 1 else ["prediction_0", "prediction_1"]
    assert list(pd.read_csv(tmp_path / "p.csv").columns) == ["sample", *columns]
    write_table(dataset, tmp_path / "p.zarr", overwrite=False)
    assert_array_equal(xr.open_zarr(tmp_path / "p.zarr").prediction, values)
    np.save(tmp_path / "p.npy", values)
    assert_array_equal(read_table(tmp_path / "p.npy"), values)


@pytest.mark.parametrize("name", ["p.csv", "p.zarr"])
def test_table__is_replaced_only_if_told(tmp_path, name):
    first, second = (xr.Dataset({"prediction": ("sample", values)}) for values in VALUES.T)
    write_table(first, tmp_path / name, overwrite=False)
    with pytest.raises(FileExistsError, match=name):
        write_table(second, tmp_path / name, overwrite=False)
    write_table(second, tmp_path / name, overwrite=True)
    found = read_table(tmp_path / name) if name == "p.csv" else xr.open_zarr(tmp_path / name).prediction
    assert_array_equal(found, VALUES[:, 1])
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_read_table__says_which_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.csv.* there is no such file"):
        read_table(tmp_path / "none.csv")
