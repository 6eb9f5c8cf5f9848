"""Stores and files that change under a run: the run ends with an error that names them."""

import itertools
from contextlib import suppress

import dask.array as da
import fsspec
import h5py
import numpy as np
import pytest
import zarr
from numpy.testing import assert_array_equal

from mksdask import (
    MKSStructureAnalysis,
    PrimitiveBasis,
    append_ensemble,
    create_ensemble,
    create_volume,
    open_ensemble,
    open_volume,
)
from mksdask.stats import correlate, correlate_volume
from mksdask.storage import materialize
from mksdask.storage.atomic import Location, attributes_of, remove_store
from mksdask.storage.errors import ChangedError
from mksdask.storage.sources import sources_of

BASIS = PrimitiveBasis(2)
X = np.random.default_rng(0).integers(0, 2, (12, 6, 7)).astype(np.uint8)
VOLUME = np.random.default_rng(1).integers(0, 2, (20, 18, 16)).astype(np.uint8)


def foreign_zarr(path, values):
    array = zarr.create_array(path, shape=values.shape, chunks=(4, *values.shape[1:]), dtype=values.dtype)
    array[...] = values
    return da.from_zarr(zarr.open_array(path, mode="r"))


def foreign_hdf5(path, values):
    with h5py.File(path, "w") as file:
        file["x"] = values
    OPEN.append(h5py.File(path))
    return da.from_array(OPEN[-1]["x"], chunks=(4, *values.shape[1:]), name=f"x-{path}")


OPEN = []
FOREIGN = {"zarr": foreign_zarr, "h5": foreign_hdf5}


@pytest.mark.parametrize("ending", FOREIGN)
def test_materialize__notices_an_array_that_was_changed_in_place(tmp_path, ending):
    path, url = tmp_path / f"x.{ending}", tmp_path / "f.zarr"
    lazy = FOREIGN[ending](path, X)
    materialize(lazy + 1, url, progress=False)
    assert_array_equal(materialize(lazy + 1, url, progress=False), X + 1)
    if ending == "h5":
        OPEN.pop().close()
        with h5py.File(path, "r+") as file:
            file["x"][0] = 7
        OPEN.append(h5py.File(path))
        lazy = da.from_array(OPEN[-1]["x"], chunks=lazy.chunksize, name=f"x-{path}")
    else:
        zarr.open_array(path, mode="r+")[0] = 7
    with pytest.raises(
        ValueError, match=rf"f.zarr holds a result of other inputs .*x.{ending} was changed or replaced"
    ):
        materialize(lazy + 1, url, progress=False)
    assert materialize(lazy + 1, url, overwrite=True, progress=False).compute().max() == 8


@pytest.mark.parametrize("cutoff", [3, None])
def test_correlate_volume__notices_an_array_that_was_changed_in_place(tmp_path, cutoff):
    foreign_zarr(tmp_path / "x.zarr", VOLUME)
    lazy = da.from_zarr(zarr.open_array(tmp_path / "x.zarr", mode="r"))
    first = correlate_volume(lazy, BASIS, cutoff=cutoff, scratch=tmp_path / "s.zarr").compute()
    again = correlate_volume(lazy, BASIS, cutoff=cutoff, scratch=tmp_path / "s.zarr").compute()
    assert_array_equal(first, again)
    zarr.open_array(tmp_path / "x.zarr", mode="r+")[0] = 1
    with pytest.raises(ValueError, match=r"x.zarr was changed or replaced since then"):
        correlate_volume(lazy, BASIS, cutoff=cutoff, scratch=tmp_path / "s.zarr")


def test_create__begins_anew_if_a_source_was_changed(tmp_path):
    def failing(block, block_info=None):
        if block_info[0]["chunk-location"][0] == 2:
            msg = "the disk is full"
            raise OSError(msg)
        return block

    lazy = foreign_zarr(tmp_path / "x.zarr", X)
    name = "step-of-a-script"
    broken = lazy.map_blocks(failing, name=name, dtype=X.dtype, meta=X[:0])
    with pytest.raises(OSError, match="the disk is full"):
        create_ensemble(tmp_path / "e.zarr", broken, resume=True)
    zarr.open_array(tmp_path / "x.zarr", mode="r+")[0] = 1
    whole = lazy.map_blocks(np.array, name=name, dtype=X.dtype, meta=X[:0])
    with pytest.warns(UserWarning, match=r"x.zarr changed after an earlier call began .*e.zarr.partial, which begins"):
        create_ensemble(tmp_path / "e.zarr", whole, resume=True)
    assert_array_equal(open_ensemble(tmp_path / "e.zarr").microstructure, whole)


@pytest.mark.parametrize("n_samples", [5, 12])
def test_store__that_was_replaced_is_not_read_as_a_mixture(tmp_path, n_samples):
    create_ensemble(tmp_path / "e.zarr", X, chunks=4)
    opened = open_ensemble(tmp_path / "e.zarr").microstructure
    lazy = correlate(opened, BASIS, cutoff=2)
    create_ensemble(tmp_path / "e.zarr", 1 - X[:n_samples], chunks=4, mode="w")
    for call in (
        opened.compute,
        lazy.compute,
        lambda: MKSStructureAnalysis(BASIS, n_components=2).fit(opened),
        lambda: materialize(lazy, tmp_path / "f.zarr", progress=False),
        lambda: create_ensemble(tmp_path / "copy.zarr", opened),
    ):
        with pytest.raises(ChangedError, match=r"e.zarr was changed, replaced or removed after it was opened"):
            call()
    assert_array_equal(open_ensemble(tmp_path / "e.zarr").microstructure, 1 - X[:n_samples])


@pytest.mark.parametrize("n_replaced", [1, 2])
def test_store_of_fsspec__that_was_replaced_is_told(n_replaced):
    url = "memory://replaced/e.zarr"
    try:
        for number in range(n_replaced):
            create_ensemble(url, X + number, chunks=4, mode="w")
        opened = open_ensemble(url).microstructure
        create_ensemble(url, 1 - X, chunks=4, mode="w")
        with pytest.raises(ChangedError, match=r"e.zarr.* was changed, replaced or removed after it was opened"):
            opened.compute()
        opened = open_ensemble(url).microstructure
        remove_store(url, ("ensemble",))
        with pytest.raises(ChangedError, match=r"e.zarr.* was changed, replaced or removed after it was opened"):
            opened.compute()
    finally:
        with suppress(FileNotFoundError):
            fsspec.filesystem("memory").rm("/replaced", recursive=True)


def test_store__that_is_replaced_during_a_run_ends_it(tmp_path):
    url = tmp_path / "v.zarr"
    create_volume(url, VOLUME, chunks=8)
    opened, calls = open_volume(url).microstructure, itertools.count()

    def late(block):
        if block.size and next(calls) == 3:
            create_volume(url, 1 - VOLUME, chunks=8, mode="w")
        return block

    lazy = opened.data.map_blocks(late, dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8), name="late")
    with pytest.raises(ChangedError, match=r"v.zarr was changed"):
        materialize(lazy, tmp_path / "r.zarr", progress=False)
    with pytest.raises(ValueError, match=r"v.zarr was changed or replaced since then"):
        materialize(open_volume(url).microstructure.data.map_blocks(np.array, name="late"), tmp_path / "r.zarr")


def test_foreign_store__whose_chunk_changes_is_refused(tmp_path):
    group = zarr.open_group(tmp_path / "x.zarr", mode="w")
    group.create_array(
        "microstructure", shape=X.shape, chunks=(4, 6, 7), dtype=X.dtype, dimension_names=("sample", "x", "y")
    )[...] = X
    opened = open_ensemble(tmp_path / "x.zarr").microstructure
    before = sources_of(opened.data)
    assert_array_equal(opened, X)
    zarr.open_array(tmp_path / "x.zarr", path="microstructure", mode="r+")[0] = 1
    with pytest.raises(ChangedError, match=r"x.zarr was changed"):
        opened.compute()
    assert list(sources_of(open_ensemble(tmp_path / "x.zarr").microstructure.data)) == list(before)
    assert sources_of(open_ensemble(tmp_path / "x.zarr").microstructure.data) != before


def test_append__leaves_what_was_opened_as_it_is_and_is_counted(tmp_path):
    create_ensemble(tmp_path / "e.zarr", X, chunks=5)
    before = attributes_of(Location.of(tmp_path / "e.zarr"))
    opened = open_ensemble(tmp_path / "e.zarr").microstructure
    append_ensemble(tmp_path / "e.zarr", X[:3])
    after = attributes_of(Location.of(tmp_path / "e.zarr"))
    assert_array_equal(opened, X)
    assert after["writes"] == before["writes"] + 1
    assert after["metadata_sha256"] != before["metadata_sha256"]
