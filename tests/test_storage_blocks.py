"""Stores and scratch that are written block by block, and continued after a call that failed."""

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_array_equal

from mksdask import MKSStructureAnalysis, PrimitiveBasis, create_ensemble, create_volume, open_ensemble, open_volume
from mksdask.datasets import make_microstructure


def flaky(data, calls, fail_at=None):
    """The same samples, counted; the disk is full at one of them."""

    def kernel(block, block_info=None):
        place = block_info[0]["chunk-location"]
        if place == fail_at:
            msg = "the disk is full"
            raise OSError(msg)
        calls.append(place)
        return block

    return data.map_blocks(kernel, dtype=data.dtype, name="counted-" + data.name, meta=data._meta)


@pytest.mark.parametrize("fail_at", [(0, 0, 0), (3, 0, 0)])
def test_create_ensemble__goes_on_with_the_missing_shards(tmp_path, fail_at):
    X = make_microstructure(n_samples=20, size=(8, 6), grain_size=2)
    X[:5] = 0  # shards of nothing but the fill value
    lazy, url = da.from_array(X, chunks=(5, 8, 6)), tmp_path / "e.zarr"
    options = {"spacing": 0.5, "units": "um", "phases": ("a", "b"), "periodic_axes": [0]}
    calls = []

    def create(data, **more):
        # X and the response come from the same tasks.
        create_ensemble(url, data, data.mean(axis=(1, 2)), **options, **more)

    with dask.config.set(scheduler="sync"):
        with pytest.raises(OSError, match="disk is full"):
            create(flaky(lazy, calls, fail_at), resume=True)
        assert not url.exists()
        with pytest.raises(ValueError, match="holds a part of a store of other samples"):
            create_ensemble(url, flaky(lazy + 0, calls), **options, resume=True)
        first = len(calls)
        create(flaky(lazy, calls), resume=True)
    assert fail_at in calls[first:]
    # X and its response are computed together: what was not written of either is computed once more, if it failed.
    assert 4 <= len(calls) <= 4 + 1
    create_ensemble(tmp_path / "plain.zarr", X, X.mean(axis=(1, 2)), chunks=5, **options)
    xr.testing.assert_identical(open_ensemble(url).compute(), open_ensemble(tmp_path / "plain.zarr").compute())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.zarr", "plain.zarr"]
    with pytest.raises(FileExistsError, match="exists; choose another url"):
        create_ensemble(url, X, resume=True)


def test_create_volume__goes_on_with_the_missing_shards(tmp_path):
    X = make_microstructure(n_samples=1, size=(12, 10, 8), grain_size=2)[0]
    lazy, calls = da.from_array(X, chunks=4), []
    with dask.config.set(scheduler="sync"):
        with pytest.raises(OSError, match="disk is full"):
            create_volume(tmp_path / "v.zarr", flaky(lazy, calls, (2, 1, 1)), chunks=4, resume=True)
        create_volume(tmp_path / "v.zarr", flaky(lazy, calls), chunks=4, resume=True)
    assert len(calls) == lazy.npartitions
    assert_array_equal(open_volume(tmp_path / "v.zarr").microstructure, X)


def test_create_volume__arrays_in_memory_are_taken_up_too(tmp_path):
    X = make_microstructure(n_samples=1, size=(12, 10), grain_size=2)[0]
    create_volume(tmp_path / "v.zarr", X, chunks=4, resume=True)
    assert_array_equal(open_volume(tmp_path / "v.zarr").microstructure, X)


def test_fit__goes_on_with_the_statistics_in_scratch(tmp_path):
    X = make_microstructure(n_samples=20, size=(8, 6), grain_size=2)
    lazy, calls = da.from_array(X, chunks=(5, 8, 6)), []
    analysis = MKSStructureAnalysis(PrimitiveBasis(2), n_components=3, scratch=tmp_path)
    with dask.config.set(scheduler="sync"):
        with pytest.raises(OSError, match="disk is full"):
            analysis.fit(flaky(lazy, calls, (3, 0, 0)), resume=True)
        (kept,) = tmp_path.iterdir()
        assert kept.name.startswith("rows-")
        # Whether it is watched is not of its name.
        analysis.fit(flaky(lazy, calls), resume=True, watch=lambda partial: None)
    assert sorted(calls) == [(n, 0, 0) for n in range(4)]
    assert not list(tmp_path.iterdir())
    expected = MKSStructureAnalysis(PrimitiveBasis(2), n_components=3).fit(lazy)
    assert_array_equal(analysis.reduced_fit_data, expected.reduced_fit_data)
    with pytest.raises(ValueError, match="resume keeps statistics in scratch; give the model scratch="):
        MKSStructureAnalysis(PrimitiveBasis(2)).fit(lazy, resume=True)


def test_fit__other_statistics_are_not_taken_up(tmp_path):
    X = make_microstructure(n_samples=20, size=(8, 6), grain_size=2)
    lazy, calls = da.from_array(X, chunks=(5, 8, 6)), []
    with dask.config.set(scheduler="sync"):
        for cutoff, fail_at in ((2, (0, 0, 0)), (3, None)):
            analysis = MKSStructureAnalysis(PrimitiveBasis(2), n_components=3, cutoff=cutoff, scratch=tmp_path)
            try:
                analysis.fit(flaky(lazy, calls, fail_at), resume=True)
            except OSError:
                continue
    assert len(calls) == 3 + 4
    # What the first left is still there for it.
    assert len(list(tmp_path.iterdir())) == 1


def test_fit__parts_of_objects_do_not_count_as_written(tmp_path):
    X = make_microstructure(n_samples=20, size=(8, 6), grain_size=2)
    lazy, calls = da.from_array(X, chunks=(5, 8, 6)), []
    analysis = MKSStructureAnalysis(PrimitiveBasis(2), n_components=3, scratch=tmp_path)
    with dask.config.set(scheduler="sync"):
        with pytest.raises(OSError, match="disk is full"):
            analysis.fit(flaky(lazy, calls, (0, 0, 0)), resume=True)
        (kept,) = tmp_path.iterdir()
        # What zarr leaves when it is killed before an object gets its name.
        whole = kept / "rows" / "c" / "2" / "0"
        whole.rename(whole.with_name("0.0123456789ab.partial"))
        calls.clear()
        analysis.fit(flaky(lazy, calls), resume=True)
    assert sorted(calls) == [(0, 0, 0), (2, 0, 0)]
    expected = MKSStructureAnalysis(PrimitiveBasis(2), n_components=3).fit(lazy)
    assert_array_equal(analysis.reduced_fit_data, expected.reduced_fit_data)


def test_fit__begins_anew_where_scratch_was_being_removed(tmp_path):
    lazy = da.from_array(make_microstructure(n_samples=20, size=(8, 6), grain_size=2), chunks=(5, 8, 6))
    analysis = MKSStructureAnalysis(PrimitiveBasis(2), n_components=3, scratch=tmp_path)
    with dask.config.set(scheduler="sync"):
        with pytest.raises(OSError, match="disk is full"):
            analysis.fit(flaky(lazy, [], (0, 0, 0)), resume=True)
        (kept,) = tmp_path.iterdir()
        (kept / "zarr.json").unlink()
        analysis.fit(flaky(lazy, []), resume=True)
    assert not list(tmp_path.iterdir())


def test_create__resumes_with_the_same_options_alone(tmp_path):
    X = make_microstructure(n_samples=20, size=(8, 6), grain_size=2)
    lazy, url = da.from_array(X, chunks=(5, 8, 6)), tmp_path / "e.zarr"
    options = {"spacing": 1.0, "units": "um", "phases": ["a", "b"], "periodic_axes": [0, 1]}
    with dask.config.set(scheduler="sync"):
        with pytest.raises(OSError, match="disk is full"):
            create_ensemble(url, flaky(lazy, [], (0, 0, 0)), **options, resume=True)
        for name, other in {"spacing": 0.5, "units": "nm", "phases": ["b", "a"], "periodic_axes": [0]}.items():
            with pytest.raises(ValueError, match=r"or with other options: .*; remove it"):
                create_ensemble(url, flaky(lazy, []), **options | {name: other}, resume=True)
        # A part of an object that a killed task left is not kept in the store.
        part = next((tmp_path / "e.zarr.partial" / "microstructure" / "c").rglob("0"))
        (part.parent / "0.0123456789ab.partial").write_text("")
        create_ensemble(url, flaky(lazy, []), **options, resume=True)
    assert not list(url.rglob("*.partial"))
    assert open_ensemble(url).microstructure.attrs["phases"] == ["a", "b"]


def test_create__leaves_what_is_not_its_own(tmp_path):
    (tmp_path / "rock.zarr.partial").mkdir()
    (tmp_path / "rock.zarr.partial" / "thesis.txt").write_text("x")
    with pytest.raises(FileExistsError, match=r"is not a part of a store of this package; .*move it away"):
        create_ensemble(tmp_path / "rock.zarr", np.zeros((2, 4, 4), "uint8"), resume=True)
    assert (tmp_path / "rock.zarr.partial" / "thesis.txt").exists()
