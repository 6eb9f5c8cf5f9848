"""Lazy results that are written block by block, and continued after a run that was killed."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_array_equal

from mksdask import PrimitiveBasis, create_ensemble, open_ensemble
from mksdask.datasets import make_microstructure
from mksdask.stats import correlate
from mksdask.storage import materialize


def counting(data, calls, fail_at=None):
    def kernel(block, block_info=None):
        place = block_info[0]["chunk-location"]
        if fail_at is not None and place == fail_at:
            msg = "the disk is full"
            raise OSError(msg)
        calls.append(place)
        return block * 2

    # A token of its own, as the functions of the package have: that of the result, whoever counts.
    return data.map_blocks(kernel, dtype=data.dtype, name="doubled-" + data.name, meta=np.empty((0,) * data.ndim))


@pytest.mark.parametrize("chunks", [(4, 3), ((2, 5, 3), (7,)), (10, 7)])
def test_materialize__goes_on_with_the_missing_blocks(tmp_path, chunks):
    X = np.arange(70.0).reshape(10, 7)
    X[:4, :3] = 0  # a block that a store need not write
    lazy = da.from_array(X, chunks=chunks)
    url = tmp_path / "r.zarr"
    last = tuple(n - 1 for n in lazy.numblocks)
    first_calls, calls = [], []
    with dask.config.set(scheduler="sync"), pytest.raises(OSError, match="disk is full"):
        materialize(counting(lazy, first_calls, fail_at=last), url, progress=False)
    with pytest.raises(FileExistsError, match="resume=True"):
        materialize(counting(lazy, calls), url, resume=False, progress=False)
    with dask.config.set(scheduler="sync"):
        stored = materialize(counting(lazy, calls), url, progress=False)
    assert_array_equal(stored, 2 * X)
    assert last in calls
    if chunks != ((2, 5, 3), (7,)):  # blocks that are cut anew for the store share what they are made of
        assert len(calls) + len(first_calls) == np.prod(lazy.numblocks)
    done = len(calls)
    assert_array_equal(materialize(counting(lazy, calls), url, progress=False), 2 * X)
    assert len(calls) == done


def test_materialize__labelled_results_come_back_whole(tmp_path):
    create_ensemble(
        tmp_path / "e.zarr", make_microstructure(6, (8, 9), grain_size=2), spacing=0.5, units="um", chunks=2
    )
    f = correlate(open_ensemble(tmp_path / "e.zarr").microstructure, PrimitiveBasis(2), cutoff=3)
    stored = materialize(f, tmp_path / "f.zarr", progress=False)
    assert stored.chunks == f.chunks
    xr.testing.assert_identical(stored.compute(), f.compute())
    xr.testing.assert_identical(xr.open_zarr(tmp_path / "f.zarr")[f.name].compute(), f.compute())


def test_materialize__refuses_a_result_of_other_parameters(tmp_path):
    X = da.from_array(make_microstructure(6, (8, 9), grain_size=2), chunks=(2, 8, 9))
    materialize(correlate(X, PrimitiveBasis(2), cutoff=3), tmp_path / "f.zarr", progress=False)
    with pytest.raises(ValueError, match=r"shape \[6, 7, 7, 2\], now \[6, 5, 5, 2\]"):
        materialize(correlate(X, PrimitiveBasis(2), cutoff=2), tmp_path / "f.zarr")
    with pytest.raises(ValueError, match="computation correlate-"):
        materialize(correlate(X, PrimitiveBasis(2), cutoff=3, periodic_axes=[0]), tmp_path / "f.zarr")
    with pytest.raises(ValueError, match="dtype float32, now float64"):
        materialize(correlate(X, PrimitiveBasis(2), cutoff=3, dtype="float64"), tmp_path / "f.zarr")
    (tmp_path / "other").mkdir()
    with pytest.raises(FileExistsError, match="not a result of materialize"):
        materialize(X, tmp_path / "other")
    with pytest.raises(TypeError, match="lazy must be"):
        materialize(np.zeros(3), tmp_path / "n.zarr")
    with pytest.raises(ValueError, match="compute_chunk_sizes"):
        materialize(X[X[:, 0, 0] > 0], tmp_path / "n.zarr")


@pytest.mark.parametrize("resume", [True, False])
def test_materialize__replaces_another_result_when_the_new_one_is_complete(tmp_path, resume):
    lazy, url, calls = da.from_array(np.arange(12.0), chunks=4), tmp_path / "r.zarr", []
    materialize(lazy, url, progress=False)
    with dask.config.set(scheduler="sync"):
        with pytest.raises(OSError, match="disk is full"):
            materialize(counting(lazy, calls, (0,)), url, resume=resume, overwrite=True, progress=False)
        assert_array_equal(xr.open_zarr(url)["result"], np.arange(12.0))
        assert [path.name for path in tmp_path.iterdir() if path != url] == ["r.zarr.partial"] * resume
        first = len(calls)
        stored = materialize(counting(lazy, calls), url, resume=resume, overwrite=True, progress=False)
        assert_array_equal(stored, 2 * np.arange(12.0))
        assert len(calls) == (3 if resume else first + 3)
        # The same result is taken as it is, unless the caller wants it anew.
        materialize(counting(lazy, calls), url, resume=resume, overwrite=True, progress=False)
        assert len(calls) == (3 if resume else first + 6)
    assert [path.name for path in tmp_path.iterdir()] == ["r.zarr"]
    create_ensemble(tmp_path / "e.zarr", np.zeros((2, 4, 4), "uint8"))
    with pytest.raises(FileExistsError, match="is marked as 'ensemble', which is not 'result'"):
        materialize(lazy, tmp_path / "e.zarr", overwrite=True)


def test_materialize__on_a_cluster(tmp_path, client):
    X = da.zeros((40, 5), chunks=(4, 5))
    with client.as_current():
        stored = materialize(X + 0.0, tmp_path / "r.zarr")
        assert_array_equal(stored, np.zeros((40, 5)))
    assert len(list((tmp_path / "r.zarr" / "result" / "c").rglob("*"))) == 20


@pytest.mark.slow
def test_materialize__survives_being_killed(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys, time
            import dask.array as da, numpy as np
            from mksdask.storage import materialize

            def slow(block, block_info=None):
                time.sleep(0.15)
                with open(sys.argv[2], "a") as file:
                    file.write(f"{block_info[0]['chunk-location'][0]}\\n")
                return block + 1

            X = da.from_array(np.arange(120.0), chunks=4)
            materialize(X.map_blocks(slow, dtype=float, name="slow-" + X.name), sys.argv[1], progress=False)
            """
        )
    )
    url, log = tmp_path / "r.zarr", tmp_path / "log"
    command = [sys.executable, script, url, log]
    kills = 0
    for _ in range(3):
        process = subprocess.Popen(command)
        before = log.read_text().count("\n") if log.exists() else 0
        while process.poll() is None and (not log.exists() or log.read_text().count("\n") < before + 4):
            time.sleep(0.02)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert subprocess.run(command, check=False).returncode == 0
    assert_array_equal(xr.open_zarr(url)["result"], np.arange(120.0) + 1)
    # No more was done twice than was in flight when the process was killed.
    calls = log.read_text().split()
    assert len(set(calls)) == 30
    assert len(calls) - 30 <= kills * (os.cpu_count() or 1)
    assert kills == 3


def test_materialize__does_not_take_a_result_of_a_store_that_was_replaced(tmp_path):
    def mean():
        return open_ensemble(tmp_path / "e.zarr").microstructure.mean(("x", "y"))

    create_ensemble(tmp_path / "e.zarr", np.zeros((4, 6, 6), "uint8"))
    assert_array_equal(materialize(mean(), tmp_path / "m.zarr", progress=False), 0)
    assert_array_equal(materialize(mean(), tmp_path / "m.zarr", progress=False), 0)
    create_ensemble(tmp_path / "e.zarr", np.ones((4, 6, 6), "uint8"), mode="w")
    with pytest.raises(ValueError, match="holds a result of other inputs"):
        materialize(mean(), tmp_path / "m.zarr", progress=False)


@pytest.mark.parametrize("shape", [(), (0, 3)])
def test_materialize__refuses_what_has_no_blocks(tmp_path, shape):
    with pytest.raises(ValueError, match="must have an axis, and none that is empty"):
        materialize(da.zeros(shape), tmp_path / "r.zarr")
