"""Distances in a phase: those of scipy under any tiling, balls of known size, and local thickness as defined."""

import dask
import dask.array as da
import numpy as np
import pytest
import scipy.ndimage
import tifffile
import xarray as xr
from hypothesis import given, settings, strategies as st

from mksdask import create_volume, open_volume, plan
from mksdask.stats import distance_map, halos, local_thickness, pore_sizes
from tests.conftest import real_data
from tests.helpers import computes

RNG = np.random.default_rng(0)


def tiled(mask, periodic):
    """A mask repeated three times along each periodic axis, and the part in the middle."""
    repeats = [3 if wraps else 1 for wraps in periodic]
    middle = tuple(slice(n, 2 * n) if wraps else slice(None) for n, wraps in zip(mask.shape, periodic, strict=True))
    return np.tile(mask, repeats), middle


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=3),
    st.integers(0, 2**32 - 1),
    st.floats(0.5, 1.0),
    st.lists(st.booleans(), min_size=3, max_size=3),
    st.sampled_from([1.0, 1.5, 2.9]),
    st.integers(1, 300),
)
def test_distances__are_those_of_scipy_under_any_tiling(shape, seed, share, flags, largest, voxels):
    mask, periodic = np.random.default_rng(seed).random(shape) < share, flags[: len(shape)]
    axes = [axis for axis, wraps in enumerate(periodic) if wraps]
    steps = [0.5, 1.0, 0.75][: len(shape)]
    volume = xr.DataArray(
        mask.astype(np.uint8),
        dims=("x", "y", "z")[: len(shape)],
        coords={d: (d, np.arange(n) * s) for d, n, s in zip("xyz", shape, steps, strict=False) if n > 1},
    )
    known = [s if n > 1 else 1.0 for s, n in zip(steps, shape, strict=True)]
    repeated, middle = tiled(mask, periodic)
    expected = np.inf * np.ones(shape)
    if not repeated.all():
        expected = scipy.ndimage.distance_transform_edt(repeated, sampling=known)[middle]
    radii = (0.5, 1.0, 1.4)
    thick = np.zeros(shape)
    for radius in radii:
        centres, _ = tiled(expected >= radius, periodic)
        if centres.any():
            thick[(scipy.ndimage.distance_transform_edt(~centres, sampling=known) < radius)[middle]] = radius
    with pytest.MonkeyPatch.context() as patch, dask.config.set(scheduler="sync"):
        patch.setattr(halos, "BLOCK_VOXELS", voxels)
        found = distance_map(volume, 1, largest=largest, periodic_axes=axes).compute()
        sizes = pore_sizes(volume, 1, largest=largest, periodic_axes=axes).compute()
        local = local_thickness(volume, 1, radii, periodic_axes=axes).compute()
    np.testing.assert_array_equal(found, np.where(expected > largest, np.inf, expected).astype(np.float32))
    np.testing.assert_array_equal(local, thick.astype(np.float32))
    inside = expected[mask]
    if inside.size:
        np.testing.assert_allclose(sizes["mean"], np.minimum(inside, largest).mean(), rtol=1e-6)
        np.testing.assert_allclose(sizes.mean_square, (np.minimum(inside, largest) ** 2).mean(), rtol=1e-6)
        assert float(sizes.beyond) == pytest.approx((inside > largest + 1e-6).mean())
        below = sizes.distance.values[:-1]
        farther = [(inside > d + 1e-5).mean() for d in below]
        np.testing.assert_allclose(sizes.farther[:-1], farther, atol=1e-12)
        assert float(sizes.density.sum()) * min(known) == pytest.approx(1 - float(sizes.beyond))


@settings(max_examples=10, deadline=None)
@given(
    st.sampled_from([(9,), (6, 7), (4, 5, 3)]),
    st.integers(0, 2**32 - 1),
    st.lists(st.booleans(), min_size=3, max_size=3),
    st.sampled_from([1.0, 2.3]),
    st.integers(1, 200),
)
def test_distances__where_voxels_were_not_measured(shape, seed, flags, largest, voxels):
    rng = np.random.default_rng(seed)
    X, confidence, periodic = (
        rng.integers(0, 4, shape) > 0,
        rng.choice([0.0, 0.5, 1.0], size=shape),
        flags[: len(shape)],
    )
    axes = [axis for axis, wraps in enumerate(periodic) if wraps]
    known, places = confidence > 0, np.indices(shape).reshape(len(shape), -1).T
    apart = np.abs(places[:, None] - places[None])
    lengths = np.array([n if wraps else 10**9 for n, wraps in zip(shape, periodic, strict=True)])
    apart = np.sqrt((np.minimum(apart, lengths - apart) ** 2).sum(axis=-1))
    inside, outside = (X & known).ravel(), (~X & known).ravel()
    expected = np.where(outside, 0.0, apart[:, outside].min(axis=1, initial=np.inf))
    radii, thick = (1.0, 1.5, 2.0), np.zeros(X.size)
    for radius in radii:
        centres = inside & (expected >= radius)
        thick[inside & (apart[:, centres].min(axis=1, initial=np.inf) < radius)] = radius
    options = {"periodic_axes": axes, "confidence_index": confidence}
    with pytest.MonkeyPatch.context() as patch, dask.config.set(scheduler="sync"):
        patch.setattr(halos, "BLOCK_VOXELS", voxels)
        found = distance_map(X.astype(int), 1, largest=largest, **options).compute().ravel()
        lazy = da.from_array(X.astype(int), chunks=3)
        sizes = pore_sizes(lazy, 1, largest=largest, **options).compute()
        local = local_thickness(X.astype(int), 1, radii, **options).compute().ravel()
    is_known = known.ravel()
    assert np.isnan(found[~is_known]).all()
    assert np.isnan(local[~is_known]).all()
    wanted = np.where(expected > largest + 1e-9, np.inf, expected).astype(np.float32)
    np.testing.assert_array_equal(found[is_known], wanted[is_known])
    np.testing.assert_array_equal(local[is_known], thick.astype(np.float32)[is_known])
    if inside.any():
        np.testing.assert_allclose(sizes["mean"], np.minimum(expected[inside], largest).mean(), rtol=1e-6)


def test_distances__lazy_stored_and_planned(tmp_path):
    X = (RNG.random((40, 30, 20)) < 0.9).astype("uint8")
    create_volume(tmp_path / "v.zarr", X, chunks=16, spacing=2.0, units="um", phases=["pore", "grain"])
    stored = open_volume(tmp_path / "v.zarr").microstructure
    with computes(0):
        found = distance_map(stored, 1, largest=6)
        lazy = distance_map(da.from_array(X, chunks=(13, 30, 7)) + 0, 1, largest=3)
        sizes = pore_sizes(stored, 1, largest=8)
    expected = 2.0 * scipy.ndimage.distance_transform_edt(X)
    np.testing.assert_allclose(found, np.where(expected > 6, np.inf, expected), rtol=1e-6)
    np.testing.assert_allclose(lazy, found.values / 2.0, rtol=1e-6)
    assert (found.dims, found.attrs["units"]) == (("x", "y", "z"), "um")
    with computes(1):
        sizes = sizes.compute()
    assert sizes["mean"].attrs["units"] == sizes.distance.attrs["units"] == "um"
    planned = plan(local_thickness, stored, 1, [2.0, 4.0], memory_limit="1GiB")
    assert planned.peak_bytes <= planned.limit.task_bytes
    assert planned.layout["halo"] == (4, 4, 4)
    with pytest.raises(ValueError, match="ask for shorter distances"):
        plan(distance_map, np.zeros((200, 200, 200), int), 1, largest=150, memory_limit="620MiB")


def test_thickness__of_a_ball_and_a_plate():
    grid = np.indices((41, 41, 41)) - 20
    ball = ((grid**2).sum(axis=0) <= 12**2).astype(int)
    radii = [2.0, 4.0, 8.0, 12.0]
    found = local_thickness(ball, 1, radii).compute()
    assert found.max() == 12
    # All of the ball is covered by its own ball, but for voxels of its rim.
    assert (found[ball == 1] == 12).mean() > 0.97
    plate = np.zeros((30, 30), dtype=int)
    plate[10:17] = 1
    assert np.unique(local_thickness(plate, 1, [1, 2, 4, 5]).compute()[10:17]).tolist() == [4]


def test_thickness__is_that_of_porespy():
    filters = pytest.importorskip("porespy").filters
    X = scipy.ndimage.gaussian_filter(RNG.random((60, 61, 62)), 3) > 0.5
    radii = [1, 2, 3, 4, 5, 6]
    expected = filters.local_thickness(X, method="dt", sizes=radii)
    np.testing.assert_array_equal(local_thickness(X.astype(int), 1, radii), expected)


def test_sizes__of_no_voxel_and_of_nothing_else():
    none = pore_sizes(np.zeros((4, 5), int), 1, largest=2).compute()
    assert np.isnan(none["mean"])
    assert not none.density.any()
    full = pore_sizes(np.ones((4, 5), int), 1, largest=2).compute()
    assert (float(full["mean"]), float(full.beyond)) == (2.0, 1.0)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda X: distance_map(X, 1, largest=0), "largest must be a positive distance"),
        (lambda X: pore_sizes(X, 1, largest=np.inf), "largest must be a positive distance"),
        (lambda X: distance_map(X, 1, largest=2**63), "largest must be at most 1e\\+07, which is 10000000 voxels"),
        (lambda X: pore_sizes(X, 1, largest=1e300), "largest must be at most"),
        (lambda X: local_thickness(X, 1, [2, 1e300]), "radii must be at most"),
        (lambda X: local_thickness(X, 1, [1, 1]), "radii must be different positive numbers"),
        (lambda X: local_thickness(X, 1, []), "radii must be different positive numbers"),
        (lambda X: distance_map(X * 0.5, 1, largest=1), "volume must hold phase numbers"),
    ],
)
def test_distances__raise_on_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call(np.zeros((3, 3), int))


@pytest.mark.slow
def test_sizes__of_the_pores_of_berea():
    pores = (tifffile.imread(real_data("berea_400.tif")) == 0).astype(np.uint8)[:200]
    told = pore_sizes(pores, 1, largest=25).compute()
    inside = scipy.ndimage.distance_transform_edt(pores)[pores == 1]
    assert float(told.beyond) == 0
    assert float(told["mean"]) == pytest.approx(inside.mean(), rel=1e-6)
