"""The two-point cluster function: the defining sum under any tiling and chunks, never above the autocorrelation."""

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings, strategies as st

from mksdask import PrimitiveBasis, create_volume, open_volume, plan
from mksdask.stats import (
    cluster_function,
    clusters,
    correlate,
    correlate_clusters,
    correlate_volume_clusters,
    halos,
    label_clusters,
    radial_average,
)
from tests.helpers import chunked, computes, sample_chunks, statistics_bruteforce


def by_sum(mask, periodic, reach):
    """The sum of the autocorrelations of all clusters, by the definition."""
    axes = [axis for axis, wraps in enumerate(periodic) if wraps]
    labels = label_clusters(mask.astype(int), 1, periodic_axes=axes).compute(scheduler="sync")
    n = labels.max()
    m = (labels[..., None] == np.arange(1, n + 1)).astype(float)
    pairs = [(k, k) for k in range(n)]
    return statistics_bruteforce(m, pairs, periodic=periodic, reach=reach).sum(axis=-1)


@pytest.mark.parametrize("least", [0.0, 2e5])
@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=3),
    st.integers(0, 2**32 - 1),
    st.floats(0.3, 0.8),
    st.lists(st.booleans(), min_size=3, max_size=3),
    st.integers(0, 5),
    st.integers(1, 500),
)
def test_function__is_the_defining_sum(least, shape, seed, share, flags, cutoff, edge):
    mask, periodic = np.random.default_rng(seed).random(shape) < share, flags[: len(shape)]
    axes = [axis for axis, wraps in enumerate(periodic) if wraps]
    with pytest.MonkeyPatch.context() as patch, dask.config.set(scheduler="sync"):
        # Small clusters by their pairs, or all clusters by transforms.
        patch.setattr(cluster_function, "LEAST_PAIRS", least)
        patch.setattr(cluster_function, "PAIRS_OF_OPERATION", least)
        patch.setattr(clusters, "TILE_VOXELS", 50)
        whole = correlate_clusters(mask[None].astype(int), 1, size=shape, periodic_axes=axes)[0, ..., 0]
        reach = [(n // 2, (n - 1) // 2) for n in shape]
        np.testing.assert_allclose(whole, by_sum(mask, periodic, reach), atol=1e-14)
        lags = tuple(min(cutoff, (n - 1) // 2 if wraps else n - 1) for n, wraps in zip(shape, periodic, strict=True))
        near = correlate_clusters(mask[None].astype(int), 1, size=shape, periodic_axes=axes, cutoff=lags)[0, ..., 0]
        np.testing.assert_allclose(near, by_sum(mask, periodic, [(c, c) for c in lags]), atol=1e-14)
        # Of a volume, under any tiling.
        patch.setattr(halos, "BLOCK_VOXELS", edge)
        tiled = correlate_volume_clusters(mask.astype(int), 1, cutoff=lags, periodic_axes=axes)
        np.testing.assert_array_equal(tiled[..., 0], near)


@pytest.mark.parametrize("least", [0.0, 2e5])
@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from([(9,), (5, 6), (3, 4, 5)]),
    st.integers(0, 2**32 - 1),
    st.lists(st.booleans(), min_size=3, max_size=3),
    st.integers(0, 3),
    st.integers(1, 300),
    st.booleans(),
)
def test_function__where_voxels_were_not_measured(least, shape, seed, flags, cutoff, edge, is_binary):
    rng, periodic = np.random.default_rng(seed), flags[: len(shape)]
    mask, axes = rng.random(shape) < 0.7, [axis for axis, wraps in enumerate(flags[: len(shape)]) if wraps]
    confidence = (rng.random(shape) < 0.7) if is_binary else rng.choice([0.0, 0.25, 1.0], size=shape).astype("f4")
    lags = tuple(min(cutoff, (n - 1) // 2 if wraps else n - 1) for n, wraps in zip(shape, periodic, strict=True))
    options = {"periodic_axes": axes, "cutoff": lags}
    measured = mask & (confidence > 0)
    labels = label_clusters(measured.astype(int), 1, periodic_axes=axes).compute(scheduler="sync")
    m = (labels[..., None] == np.arange(1, max(1, labels.max()) + 1)).astype(float)
    pairs = [(k, k) for k in range(m.shape[-1])]
    reach = [(c, c) for c in lags]
    weights = confidence.astype(float)
    expected = statistics_bruteforce(m, pairs, periodic=periodic, reach=reach, confidence=weights).sum(axis=-1)
    with pytest.MonkeyPatch.context() as patch, dask.config.set(scheduler="sync"):
        patch.setattr(cluster_function, "LEAST_PAIRS", least)
        patch.setattr(cluster_function, "PAIRS_OF_OPERATION", least)
        patch.setattr(clusters, "TILE_VOXELS", 50)
        patch.setattr(halos, "BLOCK_VOXELS", edge)
        X, shared = mask.astype(int), {"size": shape, "confidence_index": confidence}
        found = correlate_clusters(X[None], 1, **shared, **options)[0, ..., 0]
        tiled = correlate_volume_clusters(X, 1, confidence_index=confidence, **options)[..., 0].compute()
    np.testing.assert_allclose(found, expected, atol=1e-13)
    np.testing.assert_allclose(tiled, expected, atol=1e-13)


@settings(max_examples=5, deadline=None)
@given(sample_chunks(6))
def test_function__chunk_invariant_and_never_above_the_autocorrelation(rows):
    X = (np.random.default_rng(1).random((6, 20, 21)) < 0.5).astype(np.uint8)
    found = correlate_clusters(X, 1, periodic_axes=[0])
    np.testing.assert_array_equal(correlate_clusters(chunked(X, rows), 1, periodic_axes=[0]), found)
    f = correlate(X, PrimitiveBasis(2), periodic_axes=[0], correlations=[(1, 1)], dtype="float64")
    assert (found <= f + 1e-12).all()
    np.testing.assert_allclose(found[:, 10, 10, 0], (X == 1).mean(axis=(1, 2)))
    assert (f - found).max() > 0.05


def test_function__lazy_labelled_and_planned(tmp_path):
    X = (np.random.default_rng(0).random((40, 30, 20)) < 0.25).astype("uint8")
    create_volume(tmp_path / "v.zarr", X, chunks=16, spacing=2.0, units="um", phases=["pore", "grain"])
    stored = open_volume(tmp_path / "v.zarr").microstructure
    with computes(0):
        found = correlate_volume_clusters(stored, 1, cutoff=3)
        lazy = correlate_volume_clusters(da.from_array(X, chunks=(13, 30, 7)) + 0, 1, cutoff=3)
    with computes(1):
        values = found.compute()
    assert found.dims == ("lag_x", "lag_y", "lag_z", "pair")
    assert found.pair.values.tolist() == ["grain–grain"]
    assert radial_average(found).radius.attrs["units"] == "um"
    np.testing.assert_array_equal(lazy.compute(), values)
    kept = correlate_volume_clusters(stored, 1, cutoff=3, scratch=tmp_path / "s.zarr")
    np.testing.assert_array_equal(kept, values)
    samples = xr.DataArray(X[None], dims=("sample", "x", "y", "z"))
    np.testing.assert_allclose(correlate_clusters(samples, 1, cutoff=3)[0], values, rtol=1e-15)
    planned = plan(correlate_volume_clusters, stored, 1, cutoff=3, memory_limit="1GiB")
    assert planned.peak_bytes <= planned.limit.task_bytes
    assert [stage.name for stage in planned.stages][-1] == "pairs of clusters"
    assert plan(correlate_clusters, samples, 1).stages[0].n_tasks == 1
    with pytest.raises(ValueError, match="memory_limit"):
        plan(correlate_volume_clusters, stored, 1, cutoff=19, memory_limit="560.1MiB")


def test_function__of_a_phase_without_a_name():
    X = xr.DataArray(np.full((1, 4, 5), -1), dims=("sample", "x", "y"))
    found = correlate_clusters(X, -1, cutoff=1)
    assert found.pair.values.tolist() == ["-1,-1"]
    np.testing.assert_array_equal(found, 1)
    with pytest.raises(ValueError, match="got -1; the phases are 0 pore, 1 grain"):
        correlate_clusters(X.assign_attrs(phases=["pore", "grain"]), -1, cutoff=1)


@pytest.mark.parametrize(
    ("options", "match"),
    [({"phase": 1.5}, "phase must be"), ({"phase": 1, "cutoff": 9}, "cutoff=9 must lie")],
)
def test_function__raises_on_bad_arguments(options, match):
    X = np.zeros((2, 4, 5), dtype=int)
    with pytest.raises(ValueError, match=match):
        correlate_clusters(X, **options)
    with pytest.raises(ValueError, match="X must hold phase numbers, got float64"):
        correlate_clusters(0.5 * X, 1)
    with pytest.raises(ValueError, match=match):
        correlate_volume_clusters(X[0], **({"cutoff": 2} | options))
