"""Clusters of volumes of any size: those of scipy under any tiling, and those of a graph where axes are periodic."""

import subprocess
import sys
import textwrap

import dask
import dask.array as da
import numpy as np
import pytest
import scipy.ndimage
import scipy.sparse
import scipy.sparse.csgraph
import tifffile
import xarray as xr
from hypothesis import given, settings, strategies as st

from mksdask import create_volume, open_volume, plan
from mksdask.stats import cluster_statistics, clusters, label_clusters
from mksdask.storage import materialize
from tests.conftest import real_data
from tests.helpers import computes


def by_graph(mask, periodic):
    """The number of the cluster of each voxel, by an edge for each two neighbours."""
    number = np.arange(mask.size).reshape(mask.shape)
    edges = []
    for axis, wraps in enumerate(periodic):
        here, there = number, np.roll(number, -1, axis)
        if not wraps:
            keep = [slice(None)] * mask.ndim
            keep[axis] = slice(mask.shape[axis] - 1)
            here, there = here[tuple(keep)], there[tuple(keep)]
        both = mask.ravel()[here] & mask.ravel()[there]
        edges.append(np.stack([here[both], there[both]]))
    rows, columns = np.concatenate(edges, axis=1)
    graph = scipy.sparse.coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(mask.size, mask.size))
    _, found = scipy.sparse.csgraph.connected_components(graph, directed=False)
    # Numbers follow the first voxels.
    _, first, inverse = np.unique(found[mask.ravel()], return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=int)
    rank[np.argsort(first)] = np.arange(1, len(first) + 1)
    out = np.zeros(mask.shape, dtype=int)
    out[mask] = rank[inverse]
    return out


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=3),
    st.integers(0, 2**32 - 1),
    st.floats(0.3, 0.8),
    st.integers(1, 200),
    st.lists(st.booleans(), min_size=3, max_size=3),
)
def test_labels__are_those_of_a_graph_under_any_tiling(shape, seed, share, voxels, flags):
    mask = np.random.default_rng(seed).random(shape) < share
    periodic = flags[: len(shape)]
    axes = [axis for axis, wraps in enumerate(periodic) if wraps]
    before, clusters.TILE_VOXELS = clusters.TILE_VOXELS, voxels
    try:
        found = label_clusters(mask.astype(np.uint8), 1, periodic_axes=axes)
        told = cluster_statistics(mask.astype(np.uint8), 1, periodic_axes=axes)
    finally:
        clusters.TILE_VOXELS = before
    with dask.config.set(scheduler="sync"):
        found, told = found.compute(), told.compute()
    expected = by_graph(mask, periodic)
    np.testing.assert_array_equal(found, expected)
    if not axes:
        np.testing.assert_array_equal(found, scipy.ndimage.label(mask)[0])
    sizes = np.bincount(expected.ravel())[1:]
    assert int(told.n_clusters) == len(sizes)
    assert float(told.largest) == pytest.approx(sizes.max() / sizes.sum() if len(sizes) else 0)
    classes = [int(size).bit_length() - 1 for size in sizes]
    np.testing.assert_array_equal(told.counts, np.bincount(np.array(classes, dtype=int), minlength=48))
    for axis in range(mask.ndim):
        through = by_graph(mask, [wraps and other != axis for other, wraps in enumerate(periodic)])
        ends = [set(np.take(through, side, axis).ravel()) - {0} for side in (0, -1)]
        assert bool(told.percolates[axis]) == bool(ends[0] & ends[1])


def test_labels__lazy_stored_and_written(tmp_path, monkeypatch):
    monkeypatch.setattr(clusters, "TILE_VOXELS", 4000)
    X = (np.random.default_rng(0).random((40, 30, 20)) < 0.35).astype("uint8")
    create_volume(tmp_path / "v.zarr", X, chunks=16, spacing=2.0, units="um", phases=["pore", "grain"])
    stored = open_volume(tmp_path / "v.zarr").microstructure
    expected = scipy.ndimage.label(X)[0]
    with computes(0):
        found = label_clusters(stored, 1)
        told = cluster_statistics(stored, 1)
        lazy = label_clusters(da.from_array(X, chunks=(13, 30, 7)) + 0, 1)
    np.testing.assert_array_equal(materialize(found, tmp_path / "labels.zarr", progress=False), expected)
    np.testing.assert_array_equal(lazy.compute(), expected)
    assert found.dims == ("x", "y", "z")
    assert found.x.attrs["units"] == "um"
    with computes(1):
        told = told.compute()
    assert int(told.n_clusters) == expected.max()
    assert told["volume"].values[:2].tolist() == [8.0, 16.0]
    assert told["volume"].attrs["units"] == "um^3"
    # The names of tasks depend on their values alone, so that a call that was killed goes on.
    assert label_clusters(stored, 1).data.name != label_clusters(stored, 0).data.name


def test_clusters__are_the_same_from_labels_that_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(clusters, "TILE_VOXELS", 4000)
    X = (np.random.default_rng(0).random((40, 30, 20)) < 0.35).astype("uint8")
    for number, volume in enumerate((X, da.from_array(X, chunks=(13, 30, 7)) + 0)):
        url = tmp_path / f"{number}.zarr"
        told = cluster_statistics(volume, 1, periodic_axes=[1], scratch=url)
        xr.testing.assert_identical(told.compute(), cluster_statistics(volume, 1, periodic_axes=[1]).compute())
        before = {path: path.stat().st_mtime_ns for path in url.rglob("c/**/*") if path.is_file()}
        assert len(before) > 8
        found = label_clusters(volume, 1, periodic_axes=[1], scratch=url)
        np.testing.assert_array_equal(found, by_graph(X == 1, [False, True, False]))
        assert {path: path.stat().st_mtime_ns for path in before} == before
        with pytest.raises(ValueError, match="other"):
            label_clusters(volume, 0, scratch=url)


def test_clusters__plan_counts_tiles_within_a_limit(tmp_path):
    X = da.zeros((400, 400, 400), dtype="uint8", chunks=100)
    large = plan(label_clusters, X, 1, memory_limit="8GiB")
    small = plan(label_clusters, X, 1, memory_limit="620MiB", scratch=tmp_path / "s.zarr")
    assert large.layout["tile"] == (200, 200, 200)
    assert [stage.n_tasks for stage in large.stages] == [8, 1, 8]
    assert small.peak_bytes <= small.limit.task_bytes < large.peak_bytes
    assert small.bytes_written == 4 * X.size
    assert len(small.stages) == len(plan(cluster_statistics, X, 1, scratch=tmp_path / "s.zarr").stages) + 1
    with pytest.raises(ValueError, match="memory_limit"):
        plan(label_clusters, X, 1, memory_limit="520MiB")


KILLED = """
    import os, sys
    import dask, numpy as np
    from mksdask.stats import cluster_statistics, components

    n_calls, kernel = 5, components.NumberTile.__call__


    def killed(*arguments):
        global n_calls
        n_calls -= 1
        if n_calls < 0:
            os._exit(9)
        return kernel(*arguments)


    components.NumberTile.__call__ = killed
    with dask.config.set({"scheduler": "sync", "mksdask.memory-limit": "563MiB"}):
        cluster_statistics(np.load("v.npy"), 1, scratch="s.zarr")
"""


@pytest.mark.slow
def test_clusters__go_on_after_a_kill(tmp_path):
    X = (np.random.default_rng(0).random((120, 110, 100)) < 0.3).astype("uint8")
    np.save(tmp_path / "v.npy", X)
    line = [sys.executable, "-c", textwrap.dedent(KILLED)]
    assert subprocess.run(line, check=False, cwd=tmp_path).returncode == 9
    url = tmp_path / "s.zarr"
    before = {path: path.stat().st_mtime_ns for path in url.rglob("c/**/*") if path.is_file()}
    assert len(before) == 5
    # Larger workers keep the tiles, so that nothing that was done is done again.
    with dask.config.set(scheduler="sync"):
        told = cluster_statistics(X, 1, scratch=url).compute()
    assert len([path for path in url.rglob("c/**/*") if path.is_file()]) > 8
    assert {path: path.stat().st_mtime_ns for path in before} == before
    xr.testing.assert_identical(told, cluster_statistics(X, 1).compute())


def test_clusters__of_a_phase_that_is_not_there():
    X = np.zeros((5, 6), dtype=int)
    assert not label_clusters(X, 1).compute().any()
    told = cluster_statistics(X, 1).compute()
    assert (int(told.n_clusters), float(told.largest), told.percolates.any().item()) == (0, 0.0, False)


@pytest.mark.parametrize(
    ("volume", "phase", "match"),
    [
        (np.zeros((3, 3)), 1, "volume must hold phase numbers"),
        (np.zeros((3, 3), int), 1.0, "phase must be the number"),
        (np.zeros((0, 3), int), 1, "volume must hold phase numbers"),
        (xr.DataArray(np.zeros((2, 3), int), dims=("sample", "x")), 1, "one volume"),
    ],
)
def test_clusters__raise_on_bad_arguments(volume, phase, match):
    for function in (label_clusters, cluster_statistics):
        with pytest.raises(ValueError, match=match):
            function(volume, phase)


@pytest.mark.slow
def test_clusters__of_the_pores_of_berea():
    pores = (tifffile.imread(real_data("berea_400.tif")) == 0).astype(np.uint8)
    told = cluster_statistics(pores, 1).compute()
    labels, n = scipy.ndimage.label(pores)
    assert int(told.n_clusters) == n
    assert float(told.largest) == pytest.approx(np.bincount(labels.ravel())[1:].max() / pores.sum())
    assert float(told.largest) > 0.9
    assert told.percolates.all()
