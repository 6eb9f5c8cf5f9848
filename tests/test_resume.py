"""Calls that are made again: in another process after a kill, on workers of another size, and of a source that changed.

A step that is complete is taken as done.
"""

import subprocess
import sys
import textwrap
import warnings
from functools import partial

import dask
import dask.array as da
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from mksdask import MKSStructureAnalysis, PrimitiveBasis, create_volume, open_volume, plan, sample_windows
from mksdask.compute.plans import MEMORY_LIMIT_KEY
from mksdask.importers import import_ebsd, import_images
from mksdask.importers.formats.raw_files import Raw
from mksdask.stats import correlate_volume
from mksdask.stats.all_lags import _Passes
from mksdask.stats.tile_sum import _TileSum
from mksdask.storage.atomic import Location, attributes_of
from mksdask.storage.blocks import layout_begun

VOLUME = np.random.default_rng(0).integers(0, 2, (96, 48, 48)).astype(np.uint8)
OPTIONS = {"tile sum": {"cutoff": 7, "return_std": True}, "all lags": {"cutoff": None}}
N_PLANES, SMALL, LARGE = {"tile sum": 48, "all lags": 96}, {"tile sum": "562MiB", "all lags": "561MiB"}, "2GiB"

KILLED = """
    import functools, os, sys
    import dask, numpy as np
    from mksdask import PrimitiveBasis
    from mksdask.stats import correlate_volume
    import mksdask.stats.all_lags as all_lags, mksdask.stats.tile_sum as tile_sum

    kind, folder, limit, n_calls = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    owner, name = (tile_sum._TileSum, "__call__") if kind == "tile sum" else (all_lags._Passes, "lines")
    kernel = getattr(owner, name)


    @functools.wraps(kernel)
    def killed(*arguments):
        global n_calls
        n_calls -= 1
        if n_calls < 0:
            os._exit(9)
        return kernel(*arguments)


    setattr(owner, name, killed)
    options = {"tile sum": {"cutoff": 7, "return_std": True}, "all lags": {"cutoff": None}}[kind]
    with dask.config.set(scheduler="sync"):
        correlate_volume(
            np.load(folder + "/v.npy"), PrimitiveBasis(2), memory_limit=limit, scratch=folder + "/s.zarr", **options
        )
"""


def chunks_of(url):
    return {path.relative_to(url): path.stat().st_mtime_ns for path in url.rglob("c/**/*") if path.name.isdigit()}


@pytest.mark.parametrize("kind", ["tile sum", pytest.param("all lags", marks=pytest.mark.slow)])
def test_volume__goes_on_with_the_layout_of_workers_of_another_size(tmp_path, kind):
    volume = VOLUME[: N_PLANES[kind]]
    np.save(tmp_path / "v.npy", volume)
    url, basis = tmp_path / "s.zarr", PrimitiveBasis(2)
    line = [sys.executable, "-c", textwrap.dedent(KILLED), kind, tmp_path, SMALL[kind], "5"]
    assert subprocess.run(line, check=False).returncode == 9
    options = OPTIONS[kind]
    with dask.config.set(scheduler="sync"):
        undisturbed = correlate_volume(volume, basis, memory_limit=SMALL[kind], scratch=tmp_path / "u.zarr", **options)
        before = {path: chunks_of(path) for path in tmp_path.glob("s.zarr*") if path.is_dir()}
        assert sum(map(len, before.values())) >= 5
        planned = [
            plan(correlate_volume, volume, basis, memory_limit=LARGE, scratch=tmp_path / place, **options).layout
            for place in ("s.zarr", "other.zarr")
        ]
        assert planned[0] != planned[1]
        found = correlate_volume(volume, basis, memory_limit=LARGE, scratch=url, **options)
        if kind == "tile sum":
            # What was done is not done again.
            assert {path: time for path, time in chunks_of(url).items() if path in before[url]} == before[url]
        for values, expected in zip(found, undisturbed, strict=True):
            assert_array_equal(values, expected)


def test_layout__is_not_taken_from_a_record_that_holds_something_else(tmp_path):
    volume, call = VOLUME[:48], partial(correlate_volume, basis=PrimitiveBasis(2), **OPTIONS["tile sum"])
    with dask.config.set(scheduler="sync"):
        call(volume, scratch=tmp_path / "s.zarr")
        assert layout_begun(tmp_path / "s.zarr", "tile", 3) == (24, 24, 24)
        assert layout_begun(tmp_path / "s.zarr", "tile", 2) is None
        assert layout_begun(tmp_path / "s.zarr", "rows", 3) is None
        assert layout_begun(tmp_path / "none.zarr", "tile", 3) is None
        # A layout that does not fit here is told.
        with pytest.raises(
            ValueError, match=r"tile \[24, 24, 24\], which workers of this size do not take, now \[16, "
        ):
            call(volume, scratch=tmp_path / "s.zarr", memory_limit=SMALL["tile sum"])


@pytest.mark.parametrize("kind", OPTIONS)
def test_volume__that_changed_is_begun_anew(tmp_path, kind, monkeypatch):
    store, call = tmp_path / "v.zarr", partial(correlate_volume, basis=PrimitiveBasis(2), scratch=tmp_path / "s.zarr")
    create_volume(store, VOLUME[:24, :20, :16], chunks=8)
    owner, name = (_TileSum, "__call__") if kind == "tile sum" else (_Passes, "at_lags")
    with monkeypatch.context() as patch, dask.config.set(scheduler="sync"):

        def failing(*_):
            msg = "the disk is full"
            raise OSError(msg)

        patch.setattr(owner, name, failing)
        with pytest.raises(OSError, match="the disk is full"):
            call(open_volume(store).microstructure, cutoff=OPTIONS[kind]["cutoff"])
    create_volume(store, VOLUME[24:48, :20, :16], chunks=8, mode="w")
    with dask.config.set(scheduler="sync"):
        with pytest.warns(UserWarning, match=r"v.zarr changed after an earlier call began .*s.zarr, which begins anew"):
            found = call(open_volume(store).microstructure, cutoff=OPTIONS[kind]["cutoff"])
        expected = correlate_volume(VOLUME[24:48, :20, :16], PrimitiveBasis(2), cutoff=OPTIONS[kind]["cutoff"])
        assert_array_equal(found, expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.zarr", "v.zarr"]


def test_import__of_a_source_that_was_cut_and_is_whole_again(tmp_path):
    path, url = tmp_path / "scan.raw", tmp_path / "v.zarr"
    image = np.random.default_rng(0).integers(0, 200, (96, 20, 20)).astype(np.uint8)

    def call():
        return import_images(
            path, url, axes="xyz", shape=image.shape, dtype="uint8", thresholds=100, spacing=1, resume=True
        )

    path.write_bytes(image.tobytes())
    with pytest.MonkeyPatch.context() as patch, dask.config.set(scheduler="sync"):
        patch.setattr("mksdask.importers.sources.MOST_ROWS", 32)
        n_left, read = 2, Raw.__call__

        def cut(*arguments):
            nonlocal n_left
            n_left -= 1
            if not n_left:
                path.write_bytes(image.tobytes()[:20_000])
            return read(*arguments)

        patch.setattr(Raw, "__call__", cut)
        with pytest.raises(ValueError, match=r"scan\.raw"):
            call()
    assert (tmp_path / "v.zarr.partial").exists()
    with pytest.raises(ValueError, match=r"scan\.raw"):
        call()
    path.write_bytes(image.tobytes()[::-1])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = call()
    assert any("scan.raw changed after an earlier call began " in str(each.message) for each in told)
    assert_array_equal(found.microstructure, image.ravel()[::-1].reshape(image.shape) >= 100)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["scan.raw", "v.zarr"]


def test_fit__goes_on_with_the_slabs_of_workers_of_another_size(tmp_path, monkeypatch):
    X, n_left = np.random.default_rng(0).integers(0, 2, (12, 40, 40)).astype(np.uint8), 2
    # Small workers write one sample at once, in slabs of 800 features, and large workers write three samples.

    def counted(block):
        nonlocal n_left
        n_left -= 1
        if n_left < 0:
            raise InterruptedError
        return block

    def fit(limit, place):
        lazy = da.from_array(X, chunks=(3, 40, 40)).map_blocks(counted, dtype=X.dtype, meta=X[:0], name="counted")
        analysis = MKSStructureAnalysis(PrimitiveBasis(2), n_components=2, scratch=tmp_path / place)
        with dask.config.set({"scheduler": "sync", MEMORY_LIMIT_KEY: limit}):
            return analysis.fit(lazy, resume=True).reduced_fit_data

    small, large = "560.3MiB", "2GiB"
    with pytest.raises(InterruptedError):
        fit(small, "a")
    n_left = 100
    expected = fit(small, "b")
    # Two of the four chunks were read, and the statistics of six samples were kept.
    assert len(list((tmp_path / "a").glob("*/rows/c/*/*"))) > 4
    n_left = 2
    assert_array_equal(fit(large, "a"), expected)
    assert n_left == 0
    assert not list((tmp_path / "a").iterdir())
    n_left = 2
    with pytest.raises(InterruptedError):
        fit(large, "a")
    told = r"samples and features of an object \[3, 3200\], which workers of this size do not take, now \[1, 800\]"
    with pytest.raises(ValueError, match=told):
        fit(small, "a")


@pytest.mark.parametrize("options", [{"thresholds": 100}, {"phases": "values", "window": 12}])
def test_import__goes_on_with_the_slabs_of_workers_of_another_size(tmp_path, options, monkeypatch):
    path, url = tmp_path / "scan.raw", tmp_path / "v.zarr"
    image = np.random.default_rng(0).integers(0, 200, (48, 24, 24)).astype(np.uint8)
    path.write_bytes(image.tobytes())
    # Workers of 642 MiB read 8 rows at once, and those of 2 GiB read 16.
    monkeypatch.setattr("mksdask.importers.sources.SLABS_OF_A_TASK", 300)
    monkeypatch.setattr("mksdask.importers.sources.MOST_ROWS", 16)
    options |= {"axes": "xyz", "shape": image.shape, "dtype": "uint8", "spacing": 1}
    read, taken = Raw.__call__, []

    def call(limit, place=url, *, n_left=100, resume=True):
        def reading(kernel, first, last):
            taken.append((first, last))
            if len(taken) > n_left:
                raise InterruptedError
            return read(kernel, first, last)

        taken.clear()
        with monkeypatch.context() as patch, dask.config.set({"scheduler": "sync", MEMORY_LIMIT_KEY: limit}):
            patch.setattr(Raw, "__call__", reading)
            return import_images(path, place, resume=resume, **options)

    with warnings.catch_warnings():
        # The threshold and the grey levels are only a test.
        warnings.simplefilter("ignore")
        expected = call("2GiB", tmp_path / "whole.zarr")
        assert max(last - first for first, last in taken) == 16
        with pytest.raises((InterruptedError, ValueError)):
            call("562MiB", n_left=4)
        found = call("2GiB")
        # What was done is not done again, and the rest is read in slabs of the same size.
        assert 0 < len(taken) < 6
        assert max(last - first for first, last in taken) == 8
        assert_array_equal(found.microstructure, expected.microstructure)
        stamp = attributes_of(Location.of(url))["stamp"]
        call("2GiB")
        call("562MiB")
        assert (attributes_of(Location.of(url))["stamp"], taken) == (stamp, [])
        # Slabs that are too large for these workers are told.
        with pytest.raises((InterruptedError, ValueError)):
            call("2GiB", tmp_path / "large.zarr", n_left=1)
        with pytest.raises(ValueError, match=r"bytes of a slab \[\d+\], which workers of this size do not take, now"):
            call("562MiB", tmp_path / "large.zarr")


ANG = """# TEM_PIXperUM 1.0
# GRID: SqrGrid
# XSTEP: 1.0
# YSTEP: 1.0
# NCOLS_ODD: 2
# NCOLS_EVEN: 2
# NROWS: 1
# Phase 1
# MaterialName Nickel
# Symmetry 43
0.1 0.2 0.3 0.0 0.0 100.0 0.9 1 1 1.0
0.2 0.2 0.3 1.0 0.0 100.0 0.9 1 1 1.0
"""


def test_map__that_is_imported_already_is_taken_as_done(tmp_path):
    path, url = tmp_path / "map.ang", tmp_path / "m.zarr"
    path.write_text(ANG)
    stamps = []
    for _ in range(2):
        import_ebsd(path, url, resume=True)
        stamps.append(attributes_of(Location.of(url))["stamp"])
    assert stamps[0] == stamps[1]
    with pytest.raises(FileExistsError, match=r"m.zarr exists"):
        import_ebsd(path, url, window=1, resume=True)


def test_windows__have_the_same_name_whatever_was_read_before(tmp_path):
    create_volume(tmp_path / "v.zarr", VOLUME[:24], chunks=12)
    names = []
    for _ in range(2):
        volume = open_volume(tmp_path / "v.zarr").microstructure
        names.append(sample_windows(volume, size=6, n=4, seed=1).data.name)
        np.asarray(volume)
        names.append(sample_windows(volume, size=6, n=4, seed=1).data.name)
        (tmp_path / "v.zarr" / "zarr.json").touch()
    assert len(set(names)) == 1
