"""Stores: whole or not there, appendable, plain zarr."""

import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from mksdask import append_ensemble, create_ensemble, create_volume, open_ensemble, open_volume
from mksdask.datasets import make_microstructure
from mksdask.storage.blocks import Variable
from mksdask.storage.microstructures import create_store
from tests.helpers import computes

X = np.random.default_rng(0).integers(0, 2, (10, 6, 5)).astype("uint8")


def test_ensemble__round_trip_with_everything(tmp_path):
    url = tmp_path / "e.zarr"
    y = np.arange(20.0).reshape(10, 2)
    c = np.random.default_rng(1).random(X.shape)
    create_ensemble(
        url,
        X,
        y,
        confidence_index=c,
        spacing=(0.5, 0.25),
        units="um",
        phases=["pore", "grain"],
        periodic_axes=[1],
        chunks=4,
    )
    ds = open_ensemble(url)
    assert ds.microstructure.dims == ("sample", "x", "y")
    assert ds.microstructure.chunks == ((4, 4, 2), (6,), (5,))
    assert_array_equal(ds.microstructure, X)
    assert_array_equal(ds.response, y)
    assert_array_equal(ds.confidence_index, c)
    assert ds.microstructure.attrs == {"periodic_axes": ["y"], "periods": [5], "phases": ["pore", "grain"]}
    assert_allclose(ds.y, np.arange(5) * 0.25)
    assert ds.x.attrs["units"] == "um"
    plain = xr.open_zarr(url).load()
    # By its stamp a store is known, whatever stood in its place before.
    assert len(plain.attrs.pop("stamp")) == 32
    assert len(plain.attrs.pop("metadata_sha256")) == 64
    assert plain.attrs.pop("format") == 3
    assert plain.attrs.pop("writes") == 2
    assert plain.attrs.pop("provenance")["inputs"] == {}
    assert plain.attrs.pop("members") == ["confidence_index", "microstructure", "response", "x", "y"]
    xr.testing.assert_identical(plain, ds.load())
    assert zarr.open_group(url)["microstructure"].shards == (4, 6, 5)
    assert os.listdir(tmp_path) == ["e.zarr"]


@pytest.mark.parametrize("kind", ["numpy", "dask", "zarr", "xarray"])
def test_ensemble__from_any_kind(tmp_path, kind):
    source = {
        "numpy": lambda: X,
        "dask": lambda: da.from_array(X, chunks=(3, 2, 5)),
        "zarr": lambda: zarr.create_array(tmp_path / "source.zarr", data=X),
        "xarray": lambda: xr.DataArray(X, dims=("sample", "x", "y")).chunk(sample=5),
    }[kind]()
    create_ensemble(tmp_path / "e.zarr", source, np.arange(10))
    assert_array_equal(open_ensemble(tmp_path / "e.zarr").microstructure, X)


def test_ensemble__lazy_input_is_written_in_one_computation_and_read_in_none(tmp_path):
    lazy = da.from_array(X, chunks=(5, 6, 5))
    with computes(1):
        create_ensemble(tmp_path / "e.zarr", lazy, lazy.mean(axis=(1, 2)))
    with computes(0):
        ds = open_ensemble(tmp_path / "e.zarr")
    assert ds.response.chunks == ((5, 5),)


def test_ensemble__on_an_fsspec_url():
    url = "memory://store-test/e.zarr"
    create_ensemble(url, X, chunks=4)
    append_ensemble(url, X[:3])
    assert_array_equal(open_ensemble(url).microstructure, np.concatenate([X, X[:3]]))
    create_ensemble(url, X[:2], mode="w")
    assert open_ensemble(url).sizes["sample"] == 2


def test_ensemble__refuses_to_overwrite_unless_told(tmp_path):
    url = tmp_path / "e.zarr"
    create_ensemble(url, X)
    with pytest.raises(FileExistsError, match="mode='w'"):
        create_ensemble(url, X)
    # The old store may even be the source of the new one.
    create_ensemble(url, 1 - open_ensemble(url).microstructure.data, mode="w")
    assert_array_equal(open_ensemble(url).microstructure, 1 - X)
    with pytest.raises(ValueError, match="mode must be"):
        create_ensemble(url, X, mode="r")


def test_ensemble__error_while_writing_leaves_what_was_there(tmp_path):
    url = tmp_path / "e.zarr"
    create_ensemble(url, X)

    def fail(block):
        msg = "the disk is on fire"
        raise RuntimeError(msg)

    broken = da.from_array(X, chunks=(5, 6, 5)).map_blocks(fail, dtype=X.dtype)
    for target, mode in [(url, "w"), (tmp_path / "new.zarr", "w-")]:
        with pytest.raises(RuntimeError, match="on fire"):
            create_ensemble(target, broken, mode=mode)
    with pytest.raises(RuntimeError, match="on fire"):
        append_ensemble(url, broken)
    assert os.listdir(tmp_path) == ["e.zarr"]
    assert_array_equal(open_ensemble(url).microstructure, X)
    append_ensemble(url, X[:1])
    assert_array_equal(open_ensemble(url).microstructure, np.concatenate([X, X[:1]]))


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("n_old", [6, 8])
def test_append__after_whole_and_partial_shards(tmp_path, lazy, n_old):
    url, X = tmp_path / "e.zarr", np.arange(13 * 4 * 5, dtype="uint16").reshape(13, 4, 5)
    create_ensemble(url, X[:n_old], chunks=4)
    append_ensemble(url, da.from_array(X[n_old:], chunks=(3, 4, 5)) if lazy else X[n_old:])
    assert_array_equal(open_ensemble(url).microstructure, X)


def test_append__failure_leaves_no_writer_behind(tmp_path):
    url = tmp_path / "e.zarr"
    create_ensemble(url, X[:4], chunks=2)

    def slow_or_broken(block, block_id):
        if block_id[0] == 0:
            msg = "the disk is on fire"
            raise RuntimeError(msg)
        time.sleep(1.0)
        return np.full_like(block, 99)

    bad = da.zeros((4, 6, 5), chunks=(2, 6, 5), dtype="uint8").map_blocks(slow_or_broken, dtype="uint8")
    with pytest.raises(RuntimeError, match="on fire"):
        append_ensemble(url, bad)
    append_ensemble(url, X[4:8])
    time.sleep(1.2)
    assert_array_equal(open_ensemble(url).microstructure, X[:8])
    with pytest.raises(RuntimeError, match="on fire"):
        create_ensemble(tmp_path / "new.zarr", bad)
    time.sleep(1.2)
    assert os.listdir(tmp_path) == ["e.zarr"]


def test_append__failure_on_a_cluster_leaves_no_writer_behind(tmp_path, client):
    url = tmp_path / "e.zarr"
    create_ensemble(url, X[:4], chunks=2)

    def slow_or_broken(block, block_id):
        time.sleep(0.3 if block_id[0] == 0 else 1.5)
        if block_id[0] == 0:
            msg = "the disk is on fire"
            raise RuntimeError(msg)
        return np.full_like(block, 99)

    bad = da.zeros((4, 6, 5), chunks=(2, 6, 5), dtype="uint8").map_blocks(slow_or_broken, dtype="uint8")
    with client.as_current():
        with pytest.raises(RuntimeError, match="on fire"):
            append_ensemble(url, bad)
        append_ensemble(url, X[4:8])
    time.sleep(1.5)
    assert_array_equal(open_ensemble(url).microstructure, X[:8])


def test_ensemble__a_folder_that_is_no_store_is_never_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("important")
    with pytest.raises(FileExistsError, match="not a store of this package"):
        create_ensemble(tmp_path / "mine", X, mode="w")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "important"


def test_ensemble__another_writer_wins_under_w_minus(tmp_path):
    url = tmp_path / "e.zarr"

    def intrude(block):
        if not url.exists():
            create_ensemble(url, X + 1)
        return block

    with pytest.raises(FileExistsError, match="meanwhile"):
        create_ensemble(url, da.from_array(X, chunks=(10, 6, 5)).map_blocks(intrude, meta=X[:0]))
    assert_array_equal(open_ensemble(url).microstructure, X + 1)
    assert os.listdir(tmp_path) == ["e.zarr"]


def test_ensemble__interrupted_overwrite_brings_the_old_store_back(tmp_path, monkeypatch):
    url = tmp_path / "e.zarr"
    create_ensemble(url, X)
    rename = Path.rename

    def interrupted(self, target):
        if "partial" in self.name:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        create_ensemble(url, 1 - X, mode="w")
    assert_array_equal(open_ensemble(url).microstructure, X)
    assert os.listdir(tmp_path) == ["e.zarr"]


def test_ensemble__labels_of_a_data_array_are_kept(tmp_path):
    create_ensemble(
        tmp_path / "a.zarr", X, spacing=(0.5, 0.25), units="um", phases=["pore", "grain"], periodic_axes=[1]
    )
    first = open_ensemble(tmp_path / "a.zarr")
    create_ensemble(tmp_path / "b.zarr", first.microstructure)
    xr.testing.assert_identical(open_ensemble(tmp_path / "b.zarr").load(), first.load())
    create_volume(tmp_path / "v.zarr", first.microstructure[0])
    assert_allclose(open_volume(tmp_path / "v.zarr").y, first.y)
    assert open_volume(tmp_path / "v.zarr").microstructure.attrs == first.microstructure.attrs


def test_append__integers_must_survive_the_stored_dtype(tmp_path):
    create_ensemble(tmp_path / "e.zarr", X, chunks=4)
    append_ensemble(tmp_path / "e.zarr", X[:2].astype("int64"))
    for wide in (np.full((2, 6, 5), 300), da.full((2, 6, 5), 300)):
        with pytest.raises(ValueError, match="cannot hold"):
            append_ensemble(tmp_path / "e.zarr", wide)
    assert_array_equal(open_ensemble(tmp_path / "e.zarr").microstructure, np.concatenate([X, X[:2]]))


@settings(max_examples=15, deadline=None)
@given(parts=st.lists(st.integers(1, 7), min_size=2, max_size=4), chunks=st.integers(1, 5), lazy=st.booleans())
def test_append__any_partial_shard(tmp_path_factory, parts, chunks, lazy):
    url = tmp_path_factory.mktemp("append") / "e.zarr"
    samples = np.random.default_rng(sum(parts)).integers(0, 255, (sum(parts), 3, 2)).astype("uint8")
    edges = np.cumsum([0, *parts])
    for i, (start, stop) in enumerate(itertools.pairwise(edges)):
        part = samples[start:stop]
        source = da.from_array(part, chunks=(2, 3, 1)) if lazy else part
        if i == 0:
            create_ensemble(url, source, part[:, 0, 0] * 1.0, chunks=chunks)
        else:
            append_ensemble(url, source, part[:, 0, 0] * 1.0)
    ds = open_ensemble(url)
    assert_array_equal(ds.microstructure, samples)
    assert_array_equal(ds.response, samples[:, 0, 0])
    assert set(ds.microstructure.chunks[0][:-1]) <= {min(chunks, parts[0])}


def test_append__killed_in_the_middle_leaves_the_ensemble_as_it_was(tmp_path):
    url = tmp_path / "e.zarr"
    create_ensemble(url, X, np.arange(10.0), chunks=4)
    script = f"""
        import os, signal
        import dask.array as da, numpy as np
        from mksdask import append_ensemble

        def die(block, block_id):
            if block_id[0] == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return block

        X = da.zeros((20, 6, 5), chunks=(4, 6, 5), dtype="uint8").map_blocks(die, dtype="uint8")
        append_ensemble({str(url)!r}, X, np.zeros(20))
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert run.returncode == -signal.SIGKILL
    # Some new shards are on disk, also beyond the old end, and must not show.
    assert json.loads((url / "microstructure" / "zarr.json").read_text())["shape"][0] == 30
    assert_array_equal(open_ensemble(url).microstructure, X)
    assert_array_equal(xr.open_zarr(url).response, np.arange(10.0))
    append_ensemble(url, X[:5], np.arange(5.0))
    assert_array_equal(open_ensemble(url).microstructure, np.concatenate([X, X[:5]]))
    assert_array_equal(open_ensemble(url).response, np.r_[np.arange(10.0), np.arange(5.0)])


def test_append__raises_on_what_does_not_fit(tmp_path):
    url = tmp_path / "e.zarr"
    create_ensemble(url, X, np.arange(10.0))
    for arguments, message in [
        ((X,), "holds \\['microstructure', 'response'\\]"),
        ((X[:, :3], np.arange(10.0)), "does not fit the stored samples"),
        ((X.astype(float), np.arange(10.0)), "does not fit the stored samples"),
        ((X, np.arange(9.0)), "same number of new samples"),
    ]:
        with pytest.raises(ValueError, match=message):
            append_ensemble(url, *arguments)
    assert_array_equal(open_ensemble(url).microstructure, X)


def test_ensemble__orientations_have_an_angle_axis(tmp_path):
    angles = np.random.default_rng(0).random((4, 6, 5, 3))
    create_ensemble(tmp_path / "a.zarr", angles)
    assert open_ensemble(tmp_path / "a.zarr").microstructure.dims == ("sample", "x", "y", "angle")
    create_ensemble(tmp_path / "b.zarr", angles, spacing=(1.0, 1.0, 1.0))
    assert open_ensemble(tmp_path / "b.zarr").microstructure.dims == ("sample", "x", "y", "z")


def test_ensemble__field_responses_share_the_spatial_dims(tmp_path):
    create_ensemble(tmp_path / "e.zarr", X, np.zeros((10, 6, 5, 3)))
    assert open_ensemble(tmp_path / "e.zarr").response.dims == ("sample", "x", "y", "component_0")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"y": np.arange(9)}, "y must have one entry for each of the 10 samples"),
        ({"confidence_index": np.ones((10, 6))}, "confidence_index must have shape"),
        ({"spacing": (1.0, 2.0, 3.0)}, "spacing must be a positive number"),
        ({"spacing": -1.0}, "spacing must be a positive number"),
        ({"periodic_axes": [2]}, "periodic_axes"),
        ({"chunks": 0}, "chunks must be"),
    ],
)
def test_ensemble__raises_on_bad_argument(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        create_ensemble(tmp_path / "e.zarr", X, **options)
    assert os.listdir(tmp_path) == []


def test_open__says_what_is_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="create_ensemble"):
        open_ensemble(tmp_path / "nothing.zarr")
    create_volume(tmp_path / "v.zarr", X[0])
    with pytest.raises(ValueError, match="open_volume"):
        open_ensemble(tmp_path / "v.zarr")
    create_ensemble(tmp_path / "e.zarr", X)
    with pytest.raises(ValueError, match="open_ensemble"):
        open_volume(tmp_path / "e.zarr")
    zarr.create_group(tmp_path / "other.zarr")
    with pytest.raises(ValueError, match="no variable 'microstructure'"):
        open_ensemble(tmp_path / "other.zarr")


@pytest.mark.parametrize("lazy", [False, True])
def test_volume__round_trip_in_blocks(tmp_path, lazy):
    volume = np.random.default_rng(0).integers(0, 3, (20, 17, 9)).astype("uint8")
    source = da.from_array(volume, chunks=(7, 6, 9)) if lazy else volume
    create_volume(
        tmp_path / "v.zarr", source, confidence_index=volume / 2.0, spacing=0.74, units="um", chunks=(8, 8, 4)
    )
    ds = open_volume(tmp_path / "v.zarr")
    assert_array_equal(ds.microstructure, volume)
    assert_array_equal(ds.confidence_index, volume / 2.0)
    assert ds.microstructure.chunks == ((8, 8, 4), (8, 8, 1), (4, 4, 1))
    assert_allclose(ds.z, np.arange(9) * 0.74)
    with pytest.raises(FileExistsError):
        create_volume(tmp_path / "v.zarr", volume)
    with pytest.raises(ValueError, match="chunks must be"):
        create_volume(tmp_path / "w.zarr", volume, chunks=0)


def test_ensemble__in_memory_data_is_not_sent_to_a_cluster(tmp_path, client):
    before = client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.task_prefixes))
    with client.as_current(), dask.config.set(scheduler="dask.distributed"):
        create_ensemble(tmp_path / "e.zarr", X)
    assert client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.task_prefixes)) == before


def test_ensemble__written_by_a_cluster(tmp_path, client):
    lazy = make_microstructure(n_samples=9, size=(8, 8), chunks=4)
    with client.as_current():
        create_ensemble(tmp_path / "e.zarr", lazy, chunks=2)
        append_ensemble(tmp_path / "e.zarr", lazy)
        stored = open_ensemble(tmp_path / "e.zarr").microstructure.values
    eager = make_microstructure(n_samples=9, size=(8, 8))
    assert_array_equal(stored, np.concatenate([eager, eager]))


def test_volume__chunks_do_not_shrink_for_sizes_that_are_prime(tmp_path):
    volume = np.random.default_rng(0).integers(0, 9, (521, 523)).astype("uint8")
    create_volume(tmp_path / "v.zarr", volume)
    stored = zarr.open_array(tmp_path / "v.zarr" / "microstructure")
    assert stored.chunks == (512, 512)
    assert_array_equal(open_volume(tmp_path / "v.zarr").microstructure, volume)


def test_store__labelled_arrays_are_laid_along_x_y_z(tmp_path):
    rng = np.random.default_rng(0)
    X = xr.DataArray(rng.random((4, 5, 5, 3)), dims=("sample", "x", "y", "angle"))
    phase = xr.DataArray(rng.integers(0, 3, (4, 5, 5)), dims=("sample", "x", "y"))
    turned = {"X": X.transpose("sample", "y", "x", "angle"), "phase": phase.transpose("sample", "y", "x")}
    create_ensemble(tmp_path / "e.zarr", **turned)
    ensemble = open_ensemble(tmp_path / "e.zarr")
    assert_array_equal(ensemble.microstructure, X)
    assert_array_equal(ensemble.phase, phase)
    append_ensemble(tmp_path / "e.zarr", **turned)
    ensemble = open_ensemble(tmp_path / "e.zarr")
    assert_array_equal(ensemble.microstructure[4:], X)
    assert_array_equal(ensemble.phase[4:], phase)
    create_volume(tmp_path / "v.zarr", X[0].transpose("y", "x", "angle"), phase=phase[0].T)
    assert_array_equal(open_volume(tmp_path / "v.zarr").phase, phase[0])
    assert open_volume(tmp_path / "v.zarr").microstructure.dims == ("x", "y", "angle")


@pytest.mark.filterwarnings("ignore:The specified chunks separate the stored chunks")
def test_append__to_variables_in_shards_of_different_length(tmp_path):
    # As a writer with other blocks makes it: microstructures four to a chunk, responses six.
    variables = {
        "microstructure": Variable(np.zeros((6, 3, 3), dtype="uint8"), ("sample", "x", "y"), (4, 3, 3)),
        "response": Variable(np.zeros(6), ("sample",), (6,)),
    }
    coords = xr.Dataset(coords={"x": np.arange(3.0), "y": np.arange(3.0)})
    create_store(tmp_path / "e.zarr", variables, coords, "w-", "ensemble", resume=False)
    append_ensemble(tmp_path / "e.zarr", np.ones((3, 3, 3), dtype="uint8"), np.ones(3))
    stored = open_ensemble(tmp_path / "e.zarr")
    assert_array_equal(stored.microstructure.mean(("x", "y")), [0] * 6 + [1] * 3)
    assert_array_equal(stored.response, [0] * 6 + [1] * 3)


def a_strain(units="1"):
    """Strains of the samples, with all that a DataArray says of them."""
    strain = np.random.default_rng(2).random((*X.shape, 3))
    dims, components = ("sample", "x", "y", "component"), ["xx", "yy", "xy"]
    return xr.DataArray(strain, dims=dims, coords={"component": components}, name="strain", attrs={"units": units})


# What materials scientists write behind numbers: no list of units holds them all.
@pytest.mark.parametrize("units", ["GPa", "MPa", "S/m", "W/(m K)", "µm", "nm", "1", "%", "HV", "MPa·√m", "J m^-2"])
def test_response__keeps_its_name_unit_and_components(tmp_path, units):
    url, strain = tmp_path / "e.zarr", a_strain(units)
    create_ensemble(url, X, strain)
    stored = open_ensemble(url).response
    assert stored.attrs == {"long_name": "strain", "units": units}
    assert stored.component.values.tolist() == ["xx", "yy", "xy"]
    # A copy of a store says what the store says.
    create_ensemble(tmp_path / "again.zarr", open_ensemble(url).microstructure, stored)
    assert_array_equal(open_ensemble(tmp_path / "again.zarr").response, strain)
    assert open_ensemble(tmp_path / "again.zarr").response.attrs == stored.attrs


def test_append__refuses_components_in_another_order(tmp_path):
    url, strain = tmp_path / "e.zarr", a_strain()
    create_ensemble(url, X, strain)
    with pytest.raises(ValueError, match=r"response has \['xy', 'yy', 'xx'\] along 'component', and the ensemble has"):
        append_ensemble(url, X, strain.isel(component=[2, 1, 0]))
    append_ensemble(url, X, strain)
    append_ensemble(url, X, strain.values)
    assert_array_equal(open_ensemble(url).response, np.concatenate([strain.values] * 3))


@pytest.mark.parametrize(("stated", "stored"), [("µm", "um"), ("Microns", "um"), ("Å", "angstrom"), ("pixel", "voxel")])
def test_units__of_length_have_one_name_in_stores(tmp_path, stated, stored):
    create_ensemble(tmp_path / "e.zarr", X, spacing=0.5, units=stated)
    create_volume(tmp_path / "v.zarr", X[0], spacing=0.5, units=stated)
    assert open_ensemble(tmp_path / "e.zarr").x.attrs["units"] == stored
    assert open_volume(tmp_path / "v.zarr").x.attrs["units"] == stored


def test_units__of_an_array_are_taken_as_they_are(tmp_path):
    x = ("x", np.arange(6) * 0.5, {"units": "micron"})
    labelled = xr.DataArray(X, dims=("sample", "x", "y"), coords={"x": x})
    create_ensemble(tmp_path / "e.zarr", labelled)
    assert open_ensemble(tmp_path / "e.zarr").x.attrs == {"units": "um", "spacing": 0.5}
    labelled.x.attrs["units"] = "degrees_east"
    create_ensemble(tmp_path / "e.zarr", labelled, mode="w")
    assert open_ensemble(tmp_path / "e.zarr").x.attrs["units"] == "degrees_east"
