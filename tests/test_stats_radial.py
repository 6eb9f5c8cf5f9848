"""Radial averages, interface area and integral range, against closed forms."""

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose

from mksdask import PrimitiveBasis
from mksdask.stats import (
    correlate,
    correlate_volume,
    integral_range,
    pair_correlation,
    radial_average,
    specific_surface,
)
from tests.helpers import computes


def of_distance(function, spacing, cutoff=8):
    """Statistics that are a function of the distance, as correlate_volume gives them."""
    lags = [np.arange(-cutoff, cutoff + 1) * step for step in spacing]
    distance = np.sqrt(sum(np.meshgrid(*[along**2 for along in lags], indexing="ij")))
    dims = [f"lag_{dim}" for dim in "xyz"[: len(spacing)]]
    coords = {dim: (dim, along, {"units": "um"}) for dim, along in zip(dims, lags, strict=True)}
    return xr.DataArray(function(distance)[..., None], dims=(*dims, "pair"), coords=coords)


@pytest.mark.parametrize("spacing", [(0.5,), (1.0, 1.0), (0.5, 0.7), (1.0, 0.4, 0.6)])
def test_radial__a_function_of_distance_comes_back(spacing):
    radial = radial_average(of_distance(lambda r: 2.0 - 0.3 * r, spacing), width=min(spacing))
    assert_allclose(radial[:, 0], 2.0 - 0.3 * radial.radius, atol=1e-12)
    assert radial.radius[0] == 0
    assert float(radial.radius[-1]) <= 8 * min(spacing) + min(spacing)
    assert radial.radius.attrs["units"] == "um"


def test_radial__matches_a_loop_over_lags():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(7, 9, 2))
    values[3, 5] = np.nan
    radial = radial_average(values, spacing=(1.0, 0.5), width=0.8, n_spatial=2)
    sums, counts = np.zeros((len(radial), 2)), np.zeros((len(radial), 2))
    for i in range(7):
        for j in range(9):
            r = np.hypot(i - 3, 0.5 * (j - 4))
            shell = 0 if r == 0 else max(round(r / 0.8), 1)
            if shell < len(radial) and not np.isnan(values[i, j]).any():
                sums[shell] += values[i, j]
                counts[shell] += 1
    assert_allclose(radial, sums / counts)
    assert len(radial) == 3


def test_radial__ensembles_complex_and_lazy():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 5, 5, 3)) + 1j * rng.normal(size=(4, 5, 5, 3))
    expected = radial_average(values, n_spatial=2)
    assert expected.shape == (4, 3, 3)
    with computes(0):
        lazy = radial_average(da.from_array(values, chunks=(2, 5, 5, 3)), n_spatial=2)
    assert_allclose(lazy, expected)
    assert_allclose(expected[2], radial_average(values[2], n_spatial=2))
    assert_allclose(expected.real, radial_average(values.real, n_spatial=2))


def test_pair_correlation__of_independent_voxels_is_one():
    X = np.random.default_rng(0).integers(0, 3, (1, 70, 70, 70))
    f = correlate(X, PrimitiveBasis(3), correlations=[(0, 0), (1, 1)], cutoff=3)
    g = pair_correlation(f, n_spatial=3)
    assert_allclose(g[0, 0], 3.0, rtol=0.02)
    assert_allclose(g[0, 1:], 1.0, atol=0.02)
    mixed = correlate(X, PrimitiveBasis(3), correlations=[(0, 1)], cutoff=3)
    assert_allclose(pair_correlation(mixed, [(1 / 3, 1 / 3)], n_spatial=3)[0, 1:], 1.0, atol=0.02)
    labelled = correlate(
        xr.DataArray(X, dims=("sample", "x", "y", "z")), PrimitiveBasis(3), correlations=[(0, 1)], cutoff=1
    )
    with pytest.raises(ValueError, match="pairs of different states"):
        pair_correlation(labelled)
    with pytest.raises(ValueError, match="fractions must be two"):
        pair_correlation(labelled, [(0.5, 0.0)])
    with pytest.raises(TypeError, match="fractions must be real numbers in memory"):
        pair_correlation(labelled, xr.Dataset({"a": 0.5}))


def neighbours(X):
    """Autocorrelation of phase 1 of a periodic volume, lags of one voxel."""
    options = {"correlations": [(1, 1)], "periodic_axes": list(range(X.ndim)), "dtype": "float64"}
    return correlate_volume(X, PrimitiveBasis(2), cutoff=1, **options)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 1.0, 0.8)])
def test_specific_surface__of_balls(spacing):
    # A ball: area 4πR², whatever the voxels.
    grid = np.meshgrid(
        *[(np.arange(n) - n / 2 + 0.5) * d for n, d in zip((120, 64, 80), spacing, strict=True)], indexing="ij"
    )
    radius = 20.0 * min(spacing)
    ball = (sum(axis**2 for axis in grid) < radius**2).astype(int)
    f = correlate_volume(
        ball, PrimitiveBasis(2), cutoff=1, correlations=[(1, 1)], periodic_axes=[0, 1, 2], dtype="float64"
    )
    area = float(specific_surface(f, spacing=spacing, n_spatial=3)[0]) * ball.size * np.prod(spacing)
    assert area == pytest.approx(4 * np.pi * radius**2, rel=0.02)


def test_specific_surface__in_one_and_two_dimensions():
    stripes = np.repeat(np.arange(20) % 2, 5)
    f = correlate_volume(
        stripes, PrimitiveBasis(2), cutoff=1, correlations=[(1, 1)], periodic_axes=[0], dtype="float64"
    )
    assert specific_surface(f, spacing=0.1).values == pytest.approx([2.0])  # an interface every half
    disc = (np.sum((np.indices((100, 100)) - 49.5) ** 2, axis=0) < 30**2).astype(int)
    f = correlate_volume(
        disc, PrimitiveBasis(2), cutoff=1, correlations=[(1, 1)], periodic_axes=[0, 1], dtype="float64"
    )
    assert float(specific_surface(f, n_spatial=2)[0]) * 1e4 == pytest.approx(2 * np.pi * 30, rel=0.02)
    with pytest.raises(ValueError, match="lags of one voxel"):
        specific_surface(correlate_volume(disc, PrimitiveBasis(2), cutoff=0), n_spatial=2)


def test_integral_range__tells_the_spread_of_volume_fractions():
    rng = np.random.default_rng(0)
    # Squares of 5 × 5 voxels at places of their own: independent pieces of 25 voxels.
    X = np.kron(rng.integers(0, 2, (200, 200)), np.ones((5, 5), int))
    f = correlate_volume(X, PrimitiveBasis(2), cutoff=6, correlations=[(1, 1)])
    assert integral_range(f, n_spatial=2).values == pytest.approx([25.0], rel=0.15)
    assert integral_range(f, spacing=0.5, n_spatial=2).values == pytest.approx([25.0 / 4], rel=0.15)
    means = X.reshape(10, 100, 10, 100).mean(axis=(1, 3))
    assert means.var() == pytest.approx(0.25 * 25 / 1e4, rel=0.3)


def test_integral_range__is_nan_where_it_tells_nothing():
    X = np.random.default_rng(0).integers(0, 3, (2, 64, 64))
    X[:, 0] = X[:, 1]
    basis, options = PrimitiveBasis(4), {"correlations": [(0, 0), (0, 1), (3, 3)], "periodic_axes": [0, 1]}
    for dtype in ("float32", "float64"):
        of_all_lags = correlate(X, basis, dtype=dtype, **options)
        assert np.isnan(integral_range(of_all_lags, n_spatial=2)).all()
        found = integral_range(correlate(X, basis, dtype=dtype, cutoff=8, **options), n_spatial=2)
        assert np.isnan(found).values.tolist() == [[False, True, True]] * 2
    # Labels tell pairs of two states also where voxels are shared by two states.
    shared = xr.DataArray(X[0] / 2.0, dims=("x", "y"))
    found = integral_range(correlate_volume(shared, PrimitiveBasis(2), cutoff=8))
    assert np.isnan(found).values.tolist() == [False, True]
    assert found.name == "integral_range"


def test_specific_surface__of_two_phases_is_that_of_the_interface_between_them():
    layers = np.repeat([0, 1, 2, 1], 10)  # a period holds two interfaces of 0 and 1, and two of 1 and 2
    pairs = [(0, 0), (1, 1), (0, 1), (1, 2), (0, 2)]
    f = correlate_volume(layers, PrimitiveBasis(3), cutoff=3, correlations=pairs, periodic_axes=[0], dtype="float64")
    assert specific_surface(f).values * 40 == pytest.approx([2, 4, 2, 2, 0], abs=1e-9)
    # Here, each phase is always followed by the same other one.
    turning, options = np.repeat([0, 1, 2], 10), {"periodic_axes": [0], "dtype": "float64"}
    f = correlate_volume(turning, PrimitiveBasis(3), cutoff=1, correlations=[(0, 1), (1, 0), (2, 2)], **options)
    assert specific_surface(f).values * 30 == pytest.approx([1, 1, 2], abs=1e-9)
    assert specific_surface(f).name == "specific_surface"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: radial_average(f, n_spatial=3), "statistics must be"),
        (lambda f: radial_average(f, spacing=(1, 2, 3), n_spatial=2), "spacing must be"),
        (lambda f: radial_average(f, width=0, n_spatial=2), "width must be"),
        (lambda f: radial_average(xr.DataArray(f, dims=("a", "b", "c"))), "dims lag_x"),
    ],
)
def test_radial__raises_on_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.zeros((5, 5, 2)))
