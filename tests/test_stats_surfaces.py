"""Surface correlation functions: of planes, one sphere and overlapping spheres, whose functions are known."""

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings, strategies as st

from mksdask import PrimitiveBasis, create_volume, open_volume, plan
from mksdask.stats import (
    correlate,
    correlate_surfaces,
    correlate_volume_surfaces,
    halos,
    radial_average,
    specific_surface,
)
from mksdask.stats.radial import AREA_OF_CROSSINGS
from tests.helpers import chunked, computes, sample_chunks, statistics_bruteforce


@pytest.mark.parametrize(("smoothing", "tolerance"), [(None, 0.025), (1.5, 0.015)])
def test_surfaces__of_a_sphere(smoothing, tolerance):
    n, radius = 40, 10
    ball = (((np.indices((n,) * 3) - n // 2 + 0.3) ** 2).sum(axis=0) <= radius**2).astype(int)
    f = correlate_surfaces(ball[None], 1, smoothing=smoothing, periodic_axes=[0, 1, 2])
    found = radial_average(f[0], n_spatial=3)[2:17]
    r = found.radius.values
    # From a point on a sphere, the area nearer than r is π r², and (1 - r / 2R) / 2 of the directions lead inside.
    to_itself = 2 * np.pi * radius**2 / r / n**3
    to_the_ball = 4 * np.pi * radius**2 * 0.5 * (1 - r / (2 * radius)) / n**3
    np.testing.assert_allclose(found[:, 0], to_itself, rtol=tolerance)
    np.testing.assert_allclose(found[:, 1], to_the_ball, rtol=tolerance)


def overlapping_spheres(n, radius, share, seed):
    """The space outside of spheres with random centres, periodic."""
    rng, outside, along = np.random.default_rng(seed), np.ones((n,) * 3, dtype=int), np.arange(n)
    density = -np.log(share) / (4 / 3 * np.pi * radius**3)
    for centre in rng.uniform(0, n, (round(density * n**3), 3)):
        squares = [((along - c + n / 2) % n - n / 2) ** 2 for c in centre]
        near = [np.flatnonzero(each <= radius**2) for each in squares]
        x, y, z = (each[keep] for each, keep in zip(squares, near, strict=True))
        outside[np.ix_(*near)] &= x[:, None, None] + y[:, None] + z > radius**2
    return outside, density


def test_surfaces__of_overlapping_spheres():
    n, radius = 80, 8
    made = [overlapping_spheres(n, radius, 0.5, seed) for seed in range(5)]
    density = made[0][1]
    f = correlate_surfaces(np.array([X for X, _ in made]), 1, periodic_axes=[0, 1, 2]).mean(axis=0)
    found = radial_average(f, n_spatial=3)[2:]
    r = found.radius.values
    # The derivatives of exp(-ρ v) by the radii of both spheres, whose union is v (Torquato 2002, section 5.1).
    near = r < 2 * radius
    exposed = np.where(near, 2 * np.pi * radius**2 + np.pi * radius * r, 4 * np.pi * radius**2)
    share = 0.5 ** np.where(near, 1 + 0.75 * r / radius - (r / radius) ** 3 / 16, 2)
    ss = share * ((density * exposed) ** 2 + np.where(near, density * 2 * np.pi * radius**2 / r, 0))
    sv = share * density * exposed
    # Voxels lose some of the narrow gaps between spheres, so the specific surface is too small.
    s = float(np.sqrt(found[-8:, 0].mean()))
    assert s == pytest.approx(4 * np.pi * radius**2 * density * 0.5, rel=0.05)
    loss = s / (4 * np.pi * radius**2 * density * 0.5)
    away = abs(r - 2 * radius) > 1.5  # F_ss has a step at two radii
    np.testing.assert_allclose(found[away, 0], (loss**2 * ss)[away], rtol=0.02)
    np.testing.assert_allclose(found[:, 1], loss * sv, rtol=0.03)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_surfaces__of_plates(axis):
    X = np.zeros((20, 20, 20), dtype=int)
    X[5:15] = 1
    volume = xr.DataArray(
        np.moveaxis(X, 0, axis), dims=("x", "y", "z"), coords={d: (d, 0.5 * np.arange(20)) for d in "xyz"}
    )
    f = correlate_volume_surfaces(volume, 1, cutoff=6, smoothing=1.5, periodic_axes=[0, 1, 2]).compute()
    f = f.transpose(f"lag_{'xyz'[axis]}", ..., "pair")
    # Two interfaces on a length of 10: from one of them, one direction leads into the plate.
    np.testing.assert_allclose(f[:, 6, 6, 1], 0.2 * 0.5, rtol=1e-3)
    # The plates are 5 thick, so both interfaces are 5 apart, and each is smeared over two voxels.
    np.testing.assert_allclose(f[:5, 6, 6, 0], 0, atol=1e-6)
    np.testing.assert_allclose(f[6, :, :, 0].sum() / 13**2, 0.2 / (2 * 0.5), rtol=1e-3)


def test_surfaces__agree_with_the_specific_surface_and_the_fraction():
    X = (np.random.default_rng(0).random((2, 24, 25, 26)) < 0.4).astype(int)
    f = correlate_surfaces(X, 1, dtype="float64", periodic_axes=[0, 1, 2])
    s = specific_surface(correlate(X, PrimitiveBasis(2), correlations=[(1, 1)], periodic_axes=[0, 1, 2], cutoff=1))
    # The mean over all lags of one sample is the product of both means.
    np.testing.assert_allclose(np.sqrt(f[..., 0].mean(axis=(1, 2, 3))), s[:, 0], rtol=1e-5)
    share = (X == 1).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(f[..., 1].mean(axis=(1, 2, 3)), s[:, 0] * share, rtol=1e-5)


@settings(max_examples=6, deadline=None)
@given(sample_chunks(4), st.integers(1, 3000), st.sampled_from([None, 0.8]), st.sampled_from([[], [0], [0, 1]]))
def test_surfaces__chunk_invariant_under_any_tiling(rows, voxels, smoothing, axes):
    X = (np.random.default_rng(1).random((4, 16, 15)) < 0.5).astype(np.uint8)
    options = {"smoothing": smoothing, "periodic_axes": axes, "cutoff": 5, "dtype": "float64"}
    whole = correlate_surfaces(X, 1, **options)
    np.testing.assert_allclose(correlate_surfaces(chunked(X, rows), 1, **options), whole, rtol=1e-12)
    with pytest.MonkeyPatch.context() as patch, dask.config.set(scheduler="sync"):
        patch.setattr(halos, "BLOCK_VOXELS", voxels)
        found = correlate_volume_surfaces(X[0], 1, **options).compute()
    np.testing.assert_allclose(found, whole[0], rtol=1e-9, atol=1e-12)


def test_surfaces__lazy_labelled_and_planned(tmp_path):
    X = (np.random.default_rng(0).random((40, 30, 20)) < 0.4).astype("uint8")
    create_volume(tmp_path / "v.zarr", X, chunks=16, spacing=2.0, units="um", phases=["pore", "grain"])
    stored = open_volume(tmp_path / "v.zarr").microstructure
    with computes(0):
        found = correlate_volume_surfaces(stored, 0, cutoff=3)
        lazy = correlate_volume_surfaces(da.from_array(X, chunks=(13, 30, 7)) + 0, 0, cutoff=3)
        samples = correlate_surfaces(stored.expand_dims("sample").chunk(-1), 0, cutoff=3)
    assert found.pair.values.tolist() == samples.pair.values.tolist() == ["surface–surface", "surface–pore"]
    assert radial_average(found).radius.attrs["units"] == "um"
    np.testing.assert_allclose(lazy.compute() / [4, 2], found, rtol=1e-4)
    np.testing.assert_allclose(samples[0], found, rtol=1e-4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(halos, "BLOCK_VOXELS", 4000)
        kept = correlate_volume_surfaces(stored, 0, cutoff=3, scratch=tmp_path / "s.zarr")
    np.testing.assert_allclose(kept, found, rtol=1e-5)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "s.zarr").rglob("c/**/*") if path.is_file()}
    assert len(before) > 8
    # A call that would choose larger tiles goes on with those that were begun.
    again = correlate_volume_surfaces(stored, 0, cutoff=3, scratch=tmp_path / "s.zarr")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    np.testing.assert_allclose(again, found, rtol=1e-5)
    planned = plan(correlate_volume_surfaces, stored, 0, cutoff=3, memory_limit="1GiB")
    assert planned.peak_bytes <= planned.limit.task_bytes
    assert [stage.name for stage in planned.stages] == ["surface fields", "tile sums", "add up"]
    assert plan(correlate_surfaces, X[None], 0).operation == "correlate_surfaces"


@pytest.mark.parametrize(
    ("options", "match"),
    [({"phase": "1"}, "phase must be"), ({"cutoff": 9}, "cutoff=9"), ({"smoothing": 0.1}, "smoothing must be")],
)
def test_surfaces__raise_on_bad_arguments(options, match):
    X = np.zeros((2, 4, 5), dtype=int)
    arguments = {"phase": 1, "cutoff": 2} | options
    with pytest.raises(ValueError, match=match):
        correlate_surfaces(X, **arguments)
    with pytest.raises(ValueError, match=match):
        correlate_volume_surfaces(X[0], **arguments)


@settings(max_examples=10, deadline=None)
@given(
    st.sampled_from([(9,), (6, 7), (4, 5, 3)]),
    st.integers(0, 2**32 - 1),
    st.lists(st.booleans(), min_size=3, max_size=3),
    st.integers(1, 400),
)
def test_surfaces__where_voxels_were_not_measured(shape, seed, flags, voxels):
    rng, n, periodic = np.random.default_rng(seed), len(shape), flags[: len(shape)]
    X, confidence = rng.integers(0, 2, shape), rng.choice([0.0, 0.5, 1.0], size=shape)
    area = np.zeros(shape)
    for s in np.ndindex(*shape):
        for axis in range(n):
            t = list(s)
            t[axis] = (t[axis] + 1) % shape[axis] if periodic[axis] else t[axis] + 1
            if t[axis] < shape[axis] and confidence[s] > 0 and confidence[tuple(t)] > 0 and X[s] != X[tuple(t)]:
                area[s] += 0.5 * AREA_OF_CROSSINGS[n] / n
                area[tuple(t)] += 0.5 * AREA_OF_CROSSINGS[n] / n
    m = np.stack([area, X], axis=-1).astype(float)
    expected = statistics_bruteforce(m, [(0, 0), (0, 1)], periodic=periodic, reach=[(1, 1)] * n, confidence=confidence)
    axes = [axis for axis, wraps in enumerate(periodic) if wraps]
    options = {"cutoff": 1, "periodic_axes": axes, "dtype": "float64", "confidence_index": confidence}
    found = correlate_surfaces(X[None], 1, size=shape, **options)[0]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    ones = {"size": shape, "periodic_axes": axes, "smoothing": 1.0, "dtype": "float64"}
    whole = correlate_surfaces(X[None], 1, **ones)
    np.testing.assert_allclose(
        correlate_surfaces(X[None], 1, confidence_index=np.ones(shape), **ones), whole, atol=1e-9
    )
    with pytest.MonkeyPatch.context() as patch, dask.config.set(scheduler="sync"):
        patch.setattr(halos, "BLOCK_VOXELS", voxels)
        tiled = correlate_volume_surfaces(X, 1, **options).compute()
        smooth = correlate_volume_surfaces(X, 1, smoothing=0.5, **options).compute()
    np.testing.assert_allclose(tiled, expected, atol=1e-12)
    again = correlate_surfaces(X[None], 1, size=shape, smoothing=0.5, **options)[0]
    np.testing.assert_allclose(smooth, again, atol=1e-9)
