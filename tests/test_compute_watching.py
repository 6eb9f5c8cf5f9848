"""Partial results while a computation goes on, and progress."""

import io
import threading
import time

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

import mksdask.compute.progress
import mksdask.compute.watching
from mksdask import (
    FourierBasis,
    MKSHomogenizationModel,
    MKSStructureAnalysis,
    PartialResult,
    PrimitiveBasis,
    create_ensemble,
    create_volume,
    open_ensemble,
    open_volume,
    progress,
)
from mksdask.compute.watching import Plane
from mksdask.datasets import make_microstructure
from mksdask.stats import correlate, correlate_volume
from mksdask.tools import draw_partial


@pytest.fixture(scope="module")
def client():
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            memory_limit="1GiB",
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def ensemble(tmp_path):
    X = make_microstructure(n_samples=40, size=(12, 10), n_phases=2, grain_size=3)
    create_ensemble(tmp_path / "e.zarr", X, periodic_axes=[0, 1], spacing=0.5, units="um", chunks=5)
    return open_ensemble(tmp_path / "e.zarr").microstructure


@pytest.fixture
def volume(tmp_path):
    X = make_microstructure(n_samples=1, size=(40, 36, 30), n_phases=2, grain_size=4)[0]
    create_volume(tmp_path / "v.zarr", X, spacing=2.0, units="nm", chunks=16)
    return open_volume(tmp_path / "v.zarr").microstructure


@pytest.fixture
def eager(monkeypatch):
    """Show what is known after every message."""
    monkeypatch.setattr(mksdask.compute.watching, "INTERVAL", 0.0)


class Slowly:
    """A kernel that takes its time, so that there is something to watch."""

    def __call__(self, block):
        time.sleep(0.05)
        return block


@pytest.mark.parametrize("components", [3, 200])
def test_fit__shows_the_mean_of_what_is_done(ensemble, eager, client, components):
    # With 40 samples of 240 features, or of 9: reduced by slabs of features, or by samples.
    few = components == 3
    options = {"correlations": [(0, 0), (1, 1)]} | ({"cutoff": 1, "correlations": [(0, 0)]} if few else {})
    seen = []
    analysis = MKSStructureAnalysis(PrimitiveBasis(2), n_components=3, **options)
    slow = ensemble.copy(data=ensemble.data.map_blocks(Slowly(), dtype=ensemble.dtype))
    analysis.fit(slow, watch=seen.append)
    counts = [partial.done for partial in seen]
    assert counts == sorted(counts)
    assert counts[-1] == seen[-1].total == 40
    assert 0 < counts[0] < 40
    expected = correlate(ensemble.compute(), PrimitiveBasis(2), **options)[..., 0].mean("sample")
    assert_allclose(seen[-1].statistics, expected, rtol=1e-5)
    assert_array_equal(seen[-1].statistics.lag_x, expected.lag_x)
    assert seen[-1].statistics.lag_x.attrs == {"units": "um"}
    assert_array_equal(seen[-1].scores, analysis.reduced_fit_data[:, :2])
    # Of whole blocks: each partial mean is that of so many samples, and near that of all.
    assert all(count % 5 == 0 for count in counts)
    assert all(np.abs(partial.statistics - expected).max() < 0.2 for partial in seen)


def test_fit__is_the_same_when_watched(ensemble, client):
    plain, watched = (MKSStructureAnalysis(PrimitiveBasis(2), n_components=3) for _ in range(2))
    plain.fit(ensemble)
    watched.fit(ensemble, watch=lambda partial: None)
    assert_array_equal(plain.reduced_fit_data, watched.reduced_fit_data)
    assert_array_equal(plain.components_, watched.components_)


def test_fit__mean_so_far_is_exact(ensemble):
    # One block after the other, in this process.
    publish, sums = mksdask.compute.watching.Channel.publish, []

    def record(channel, key, done, total, weight, rows=None):
        sums.append((done, np.asarray(total), np.asarray(weight)))
        publish(channel, key, done, total, weight, rows)

    with pytest.MonkeyPatch.context() as patch, dask.config.set(scheduler="sync"):
        patch.setattr(mksdask.compute.watching.Channel, "publish", record)
        MKSStructureAnalysis(PrimitiveBasis(2), n_components=2).fit(ensemble, watch=lambda partial: None)
    expected = correlate(ensemble.compute(), PrimitiveBasis(2))[..., 0]
    assert len(sums) == 8
    blocks = [expected[start : start + 5].sum("sample").to_numpy() for start in range(0, 40, 5)]
    for done, total, weight in sums:
        assert done == 5
        assert_array_equal(weight, 5)
        (match,) = (i for i, block in enumerate(blocks) if np.allclose(total.reshape(block.shape), block, rtol=1e-6))
        blocks.pop(match)
    assert not blocks


def test_fit__counts_a_block_once_however_often_it_is_computed(ensemble, client):
    seen = []
    # A task that is computed again, such as after the death of a worker, publishes again.
    watcher = mksdask.compute.watching.Watcher(seen.append, Plane.of([3], [("x", 1.0, "voxel")]), 8, "samples")
    channel = mksdask.compute.watching.FeatureChannel.of(
        mksdask.compute.watching.Channel(watcher.channel.name),
        Plane.of([3], [("x", 1.0, "voxel")]),
        (3, 1),
        is_complex=False,
    )
    block = np.arange(12.0).reshape(4, 3)
    watcher.start(client)
    for each, first in ((block, 0), (block + 1, 4), (block, 0), (block + 1, 4)):
        channel.publish(each, first)
    assert watcher._partial().done == 8
    assert_allclose(watcher._partial().statistics, (block.mean(axis=0) + (block + 1).mean(axis=0)) / 2)
    watcher.stop(client)


def test_fit__counts_blocks_that_are_alike(eager):
    X = np.zeros((12, 6, 5), dtype=int)
    X[8:, ::2] = 1
    lazy, seen = da.from_array(X, chunks=(1, 6, 5)), []
    analysis = MKSStructureAnalysis(PrimitiveBasis(2), n_components=2, mean_center=True)
    analysis.fit(lazy, watch=seen.append)
    assert seen[-1].done == 12
    expected = correlate(X, PrimitiveBasis(2))[..., 0].mean(axis=0)
    assert_allclose(seen[-1].statistics, expected, rtol=1e-5)


def test_fit__watches_masks_complex_bases_and_linkages(ensemble, eager):
    X = ensemble.compute()
    confidence = xr.ones_like(X, dtype=float)
    confidence[:4, 3:] = 0.0
    seen = []
    masked = MKSStructureAnalysis(PrimitiveBasis(2), n_components=2, cutoff=4, periodic_axes=())
    masked.fit(X, confidence_index=confidence, watch=seen.append)
    statistics = correlate(X, PrimitiveBasis(2), cutoff=4, periodic_axes=(), confidence_index=confidence)
    assert np.isnan(statistics).any()
    first = next(partial for partial in seen if partial.done == 40)
    assert_allclose(first.statistics, statistics[..., 0].mean("sample", skipna=True), rtol=1e-5)
    waves = FourierBasis(3, domain=(0, 2))
    MKSStructureAnalysis(waves, n_components=2).fit(X, watch=seen.append)
    assert_allclose(seen[-1].statistics, correlate(X, waves)[..., 0].mean("sample").real, rtol=1e-5)
    y = X.mean(["x", "y"])
    MKSHomogenizationModel(PrimitiveBasis(2), n_components=2).fit(X, y, watch=seen.append)
    assert seen[-1].done == 40
    model = MKSHomogenizationModel(PrimitiveBasis(2), n_components=2)
    shared = model.share(X, watch=seen.append)
    assert len(model.fit(shared, y, watch=True).reduced_fit_data) == 40


def test_volume__shows_the_sum_of_the_tiles_that_are_done(volume, eager, client):
    seen = []
    options = {"cutoff": 5, "correlations": [(0, 0), (0, 1)], "memory_limit": "576MiB"}
    found = correlate_volume(volume, PrimitiveBasis(2), watch=seen.append, **options)
    expected = correlate_volume(volume, PrimitiveBasis(2), **options).compute()
    xr.testing.assert_identical(found, expected)
    assert seen[-1].unit == "tiles"
    assert seen[-1].done == seen[-1].total
    assert_allclose(seen[-1].statistics, expected[:, :, 5, 0])
    assert seen[-1].statistics.lag_x.attrs == {"units": "nm"}
    assert_array_equal(seen[-1].statistics.lag_y, expected.lag_y)


def test_volume__watched_with_std_mask_and_scratch(volume, eager, tmp_path):
    confidence = np.ones(volume.shape)
    confidence[:10] = 0.5
    options = {"cutoff": 4, "correlations": [(1, 1)], "confidence_index": confidence, "return_std": True}
    seen = []
    found = correlate_volume(volume, PrimitiveBasis(2), scratch=tmp_path / "s.zarr", watch=seen.append, **options)
    # The sums that are kept are those of an unwatched call too.
    expected = correlate_volume(volume, PrimitiveBasis(2), scratch=tmp_path / "s.zarr", **options)
    for a, b in zip(found, expected, strict=True):
        xr.testing.assert_identical(a, b.compute())
    so_far = [partial for partial in seen if partial.done == partial.total]
    assert_allclose(so_far[0].statistics, found[0][:, :, 4, 0], rtol=1e-5)


def test_watch__keeps_a_picture(ensemble, tmp_path):
    MKSStructureAnalysis(PrimitiveBasis(2), n_components=2).fit(ensemble, watch=tmp_path / "live.png")
    assert [path.name for path in tmp_path.glob("*.png")] == ["live.png"]
    with Image.open(tmp_path / "live.png") as picture:
        assert picture.size[0] > 500


def test_watch__prints_a_line_where_there_is_no_notebook(ensemble, capsys):
    MKSStructureAnalysis(PrimitiveBasis(2), n_components=2).fit(ensemble, watch=True)
    assert "40 of 40 samples, f[0] = 0." in capsys.readouterr().err


def test_watch__raises_on_what_it_cannot_show(ensemble, volume, tmp_path):
    analysis = MKSStructureAnalysis(PrimitiveBasis(2), n_components=2)
    with pytest.raises(TypeError, match="watch must be True, the path of a picture"):
        analysis.fit(ensemble, watch=3)
    for path in ("live", tmp_path / "none" / "live.png"):
        with pytest.raises(ValueError, match=r"must be a picture such as 'live\.png'"):
            analysis.fit(ensemble, watch=path)
    with pytest.raises(ValueError, match="watch needs a cutoff"):
        correlate_volume(volume, PrimitiveBasis(2), cutoff=None, watch=True)
    assert not mksdask.compute.watching._listeners


def test_watch__that_fails_does_not_stop_the_run(ensemble):
    def broken(partial):
        raise KeyError(partial.unit)

    analysis = MKSStructureAnalysis(PrimitiveBasis(2), n_components=2)
    with pytest.warns(RuntimeWarning, match=r"watch failed and showed no more results: KeyError\('samples'\)"):
        analysis.fit(ensemble, watch=broken)
    assert len(analysis.reduced_fit_data) == 40


def test_watch__leaves_nothing_behind(ensemble, client):
    kept = []
    for _ in range(3):
        with client.as_current():
            MKSStructureAnalysis(PrimitiveBasis(2), n_components=2).fit(ensemble, watch=lambda partial: None)
        kept.append(
            client.run_on_scheduler(
                lambda dask_scheduler: (
                    {
                        name: len(topic.events)
                        for name, topic in dask_scheduler._broker._topics.items()
                        if "mks" in name
                    },
                    sorted(dask_scheduler.task_prefixes),
                )
            )
        )
    # The scheduler keeps topics and names of stages for ever, so their number may not grow.
    assert kept[0] == kept[1] == kept[2]
    assert kept[0][0] == {"mksdask-watch": 0}
    assert not mksdask.compute.watching._listeners
    assert not any("_refresh" in thread.name for thread in threading.enumerate())


def test_draw_partial__of_lags_with_and_without_scores():
    plane = Plane.of([9, 7, 5], [("x", 0.5, "um"), ("y", 1.0, "um"), ("z", 1.0, "um")])
    values = plane.label(np.random.default_rng(0).random((9, 7)))
    alone = draw_partial(PartialResult(3, 8, "tiles", values))
    assert [ax.get_xlabel() for ax in alone.axes[:1]] == ["lag x / µm"]
    assert "3 of 8 tiles" in alone.get_suptitle()
    both = draw_partial(PartialResult(8, 8, "samples", values, np.zeros((4, 2))))
    assert both.axes[1].get_xlabel() == "PC 1"
    line = Plane.of([9], [("x", 1.0, "voxel")])
    assert draw_partial(PartialResult(1, 2, "samples", line.label(np.zeros(9)))).axes


class _Screen(io.StringIO):
    def isatty(self):
        return True


def test_progress__counts_tasks_in_this_process(monkeypatch):
    screen = _Screen()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr(mksdask.compute.progress, "INTERVAL", 0.01)
    with dask.config.set(scheduler="threads"), progress("squares"):
        da.arange(40, chunks=2).map_blocks(Slowly(), dtype=int, name="slowly").sum().compute()
    lines = screen.getvalue().split("\r")
    counts = [line.split()[2].split("/") for line in lines if "squares" in line]
    done = [int(count) for count, _ in counts]
    assert done == sorted(done)
    assert 0 < done[-1] <= int(counts[-1][1])
    # The stage that runs, as dask calls it.
    assert any(line.split()[-1].startswith(("sum", "arange", "slowly")) for line in lines if "squares" in line), lines
    assert lines[-1] == ""


def test_progress__counts_tasks_of_a_cluster(monkeypatch, client):
    screen = _Screen()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr(mksdask.compute.progress, "INTERVAL", 0.02)
    with progress("squares"):
        da.arange(40, chunks=2).map_blocks(Slowly(), dtype=int).sum().compute()
    assert "squares" in screen.getvalue()
    assert screen.getvalue().endswith("\r")


def test_progress__is_silent_where_nobody_looks(capsys):
    with progress("squares"):
        da.arange(10).sum().compute(scheduler="sync")
    assert capsys.readouterr() == ("", "")
