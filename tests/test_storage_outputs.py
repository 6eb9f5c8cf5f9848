"""Outputs of steps: when a step is done, what it may replace, and what it keeps for the next call."""

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_array_equal

from mksdask import create_ensemble
from mksdask.storage import materialize
from mksdask.storage.atomic import RESULTS
from mksdask.storage.outputs import Output

LAZY = xr.DataArray(da.arange(12, chunks=4), dims=("x",), name="numbers")


def test_output__knows_the_step_that_it_holds(tmp_path):
    path = tmp_path / "folder" / "out.zarr"
    output = Output.of(path, RESULTS, overwrite=False)
    assert not output.is_done("step")
    assert_array_equal(output.write(LAZY, "step"), np.arange(12))
    with pytest.raises(FileExistsError, match=r"out.zarr exists; choose another output, or pass --overwrite"):
        Output.of(path, RESULTS, overwrite=False)
    again = Output.of(path, RESULTS, overwrite=False, resume=True)
    assert again.is_done("step")
    assert_array_equal(again.open("numbers"), np.arange(12))
    with pytest.raises(ValueError, match=r"out.zarr holds a result of another store, .* pass --overwrite"):
        again.is_done("another step")
    for resume in (False, True):
        replacing = Output.of(path, RESULTS, overwrite=True, resume=resume)
        assert replacing.is_done("step") == resume
        assert not replacing.is_done("another step")
    assert_array_equal(replacing.write(LAZY + 1, "another step"), np.arange(12) + 1)
    assert replacing.is_done("another step")


def test_output__of_python_is_completed_by_its_blocks(tmp_path):
    materialize(LAZY, tmp_path / "out.zarr", progress=False)
    output = Output.of(tmp_path / "out.zarr", RESULTS, overwrite=False, resume=True)
    assert not output.is_done("step")
    assert_array_equal(output.write(LAZY, "step"), np.arange(12))
    create_ensemble(tmp_path / "e.zarr", np.zeros((2, 4, 4), "uint8"))
    with pytest.raises(FileExistsError, match="is not a result that --resume can complete"):
        Output.of(tmp_path / "e.zarr", RESULTS, overwrite=False, resume=True)


def test_intermediate__stays_only_to_be_resumed(tmp_path):
    def step(*, overwrite=False, resume=False, fails=False):
        output = Output.of(tmp_path / "out.zarr", RESULTS, overwrite=overwrite)
        with output.intermediate("parts", RESULTS, resume=resume, beside=("more",)) as kept:
            was_there = kept.exists()
            materialize(LAZY, kept, progress=False)
            materialize(LAZY, f"{kept}.more", progress=False)
            if fails:
                msg = "the disk is full"
                raise OSError(msg)
        return was_there

    def names():
        return sorted(path.name for path in tmp_path.iterdir())

    kept = ["out.zarr.parts", "out.zarr.parts.more"]
    with pytest.raises(OSError, match="disk is full"):
        step(fails=True)
    assert not names()
    with pytest.raises(OSError, match="disk is full"):
        step(fails=True, resume=True)
    assert names() == kept
    # Nobody loses what was done by forgetting an option.
    with pytest.raises(FileExistsError, match=r"out.zarr.parts holds what an earlier run has done; pass --resume"):
        step()
    assert names() == kept
    assert step(resume=True)
    assert not names()
    for resume in (False, True):
        with pytest.raises(OSError, match="disk is full"):
            step(fails=True, resume=True)
        assert step(overwrite=True, resume=resume) == resume
        assert not names()


def test_output__refuses_places_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="file is a file and not a folder"):
        Output.of(tmp_path / "file" / "deep" / "out.zarr", RESULTS, overwrite=True)
    # Nothing is made before there is something to write.
    Output.of(tmp_path / "new" / "out.zarr", RESULTS, overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_output__fails_without_a_trace_unless_resumed(tmp_path):
    def fail(block, block_id=None):
        if block_id == (2,):
            msg = "no such sample"
            raise ValueError(msg)
        return block

    failing = LAZY.copy(data=LAZY.data.map_blocks(fail, dtype=int, meta=np.empty(0, int)))
    with pytest.raises(ValueError, match="no such sample"):
        Output.of(tmp_path / "out.zarr", RESULTS, overwrite=False).write(failing)
    assert not list(tmp_path.iterdir())
    Output.of(tmp_path / "out.zarr", RESULTS, overwrite=False).write(LAZY)
    with pytest.raises(ValueError, match="no such sample"):
        Output.of(tmp_path / "out.zarr", RESULTS, overwrite=True).write(failing)
    assert [path.name for path in tmp_path.iterdir()] == ["out.zarr"]
    assert_array_equal(Output.of(tmp_path / "out.zarr", RESULTS, overwrite=False, resume=True).write(LAZY), LAZY)
