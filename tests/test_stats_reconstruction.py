"""Structures of given statistics: the gradient, the error that is told, exact fractions, and the same bytes."""

import dask
import numpy as np
import pytest
import tifffile
import xarray as xr
from hypothesis import given, settings

from mksdask import MKSStructureAnalysis, PrimitiveBasis
from mksdask.datasets import make_microstructure
from mksdask.reduction import PCA
from mksdask.stats import correlate, reconstruct
from mksdask.stats.gaussian_phases import assign_phases
from mksdask.stats.lags import LagFFT
from mksdask.stats.mismatch import Mismatch, descend
from tests.conftest import real_data
from tests.helpers import computes, sample_chunks, statistics_bruteforce

RNG = np.random.default_rng(0)
TWO = make_microstructure(1, (32, 30), 2, grain_size=6, volume_fraction=(0.3, 0.7), seed=1)
THREE = make_microstructure(1, (32, 32), 3, grain_size=6, volume_fraction=(0.3, 0.5, 0.2), seed=2)

MICROGRAPHS = ("alloy", "carbonate", "copolymer", "sandstone")


def statistics(X, pairs, **options):
    return correlate(X, PrimitiveBasis(int(X.max()) + 1), correlations=pairs, **options)[0]


def rms(error):
    return np.sqrt((np.asarray(error) ** 2).mean(axis=-1))


@pytest.mark.parametrize(
    ("shape", "periodic", "lags", "is_whole"),
    [
        ((6, 5), (True, True), (6, 5), True),
        ((6, 5), (True, True), (3, 3), False),
        ((6, 5), (False, True), (5, 3), False),
        ((6,), (False,), (6,), False),
        ((4, 3, 5), (True, False, True), (3, 3, 3), False),
    ],
)
def test_mismatch__value_and_gradient_are_those_of_the_defining_sum(shape, periodic, lags, is_whole):
    pairs, reach = ((0, 0), (0, 2)), tuple((n // 2, (n - 1) // 2) for n in lags)
    wanted = RNG.random((2, *lags))
    wanted[1, (0,) * len(lags)] = np.nan if not is_whole else 0.5
    mismatch = Mismatch(LagFFT(shape, periodic, reach, real=True), pairs, wanted, (0.5, 0.25))
    assert mismatch._is_whole == is_whole

    def defined(fields):
        found = statistics_bruteforce(np.moveaxis(fields, 0, -1), pairs, periodic=periodic, reach=reach)
        squares = ((np.moveaxis(found, -1, 0) - wanted) / np.reshape([0.5, 0.25], (2, *(1,) * len(shape)))) ** 2
        return np.nanmean(squares.reshape(2, -1), axis=1)

    fields = RNG.random((3, *shape))
    value, gradient, squares = mismatch(fields)
    np.testing.assert_allclose(squares, defined(fields), rtol=1e-9)
    assert value == pytest.approx(squares.mean())
    way = RNG.normal(size=fields.shape)
    slope = (defined(fields + 1e-5 * way).mean() - defined(fields - 1e-5 * way).mean()) / 2e-5
    assert np.sum(gradient * way) == pytest.approx(slope, rel=1e-6)


def test_descend__finds_the_lowest_point_of_a_curved_valley():
    def rosenbrock(x):
        a, b = x
        return 100 * (b - a**2) ** 2 + (1 - a) ** 2, np.array([-400 * a * (b - a**2) - 2 * (1 - a), 200 * (b - a**2)])

    x, n_calls = descend(rosenbrock, np.array([-1.2, 1.0]), 100, first=0.1)
    np.testing.assert_allclose(x, [1, 1], atol=1e-5)
    assert n_calls < 120


def test_descend__where_the_change_of_the_gradient_is_too_small_to_square():
    def nearly_straight(x):
        return float(np.sum(1e-17 * x.astype(float))), np.float32(1e-17) + np.float32(1e-22) * x

    x, n_calls = descend(nearly_straight, np.ones(3, np.float32), 5, first=0.1)
    assert (x < 1).all()
    assert n_calls == 6


@pytest.mark.parametrize("counts", [(3, 7, 10), (0, 5, 15), (20, 0, 0), (1, 18, 1)])
@pytest.mark.parametrize("is_tied", [False, True])
def test_assign_phases__gives_each_phase_its_number(counts, is_tied):
    scores = np.zeros((3, 20)) if is_tied else RNG.normal(size=(3, 20))
    assert np.bincount(assign_phases(scores, counts)[0], minlength=3).tolist() == list(counts)


@pytest.mark.parametrize(
    ("X", "pairs", "periodic", "cutoff", "tolerance"),
    [
        (TWO, [(0, 0)], [0, 1], None, 0.02),
        (TWO, [(0, 0), (0, 1)], [0, 1], None, 0.006),  # a single round ends at 0.008
        (TWO, [(1, 1), (1, 0)], [1], 6, 0.03),
        (TWO, [(1, 1)], [], None, 0.08),
        (THREE, [(0, 0), (0, 1), (0, 2)], [0, 1], None, 0.06),
        (THREE, [(1, 1), (0, 0)], [0, 1], 5, 0.01),
    ],
)
def test_reconstruct__reaches_the_statistics_with_exact_fractions(X, pairs, periodic, cutoff, tolerance):
    wanted = statistics(X, pairs, periodic_axes=periodic, cutoff=cutoff)
    found = reconstruct(
        wanted, size=X[0].shape, correlations=pairs, periodic_axes=periodic, tolerance=tolerance, n_samples=2
    )
    made = found.microstructure.values
    assert made.shape == (2, *X[0].shape)
    assert (made[0] != made[1]).any()
    counts = np.bincount(X.ravel())
    if cutoff is None or len(periodic) == 2:
        # Otherwise f(0) is that of the sample, too.
        np.testing.assert_array_equal([np.bincount(one.ravel()) for one in made], [counts, counts])
    # The error is that of the package's own statistics.
    again = correlate(made, PrimitiveBasis(len(counts)), correlations=pairs, periodic_axes=periodic, cutoff=cutoff)
    v = counts / X[0].size
    scales = np.array([v[a] * (1 - v[a]) if a == b else v[a] * v[b] for a, b in pairs])
    error = np.sqrt(((again - wanted) ** 2).mean(axis=(1, 2))) / scales
    np.testing.assert_allclose(found.error, error, rtol=1e-3, atol=1e-6)
    assert (rms(error) <= 1.001 * tolerance).all()
    assert (found.reason == 0).all()


def test_reconstruct__in_three_dimensions_and_larger_than_the_lags():
    X = make_microstructure(1, (16, 16, 16), 2, grain_size=5, volume_fraction=(0.4, 0.6), seed=1)
    wanted = statistics(X, [(0, 0)], periodic_axes=[0, 1, 2], cutoff=4)
    found = reconstruct(wanted, size=(24, 20, 18), correlations=[(0, 0)], periodic_axes=[0, 1, 2], tolerance=0.01)
    assert found.microstructure.shape == (1, 24, 20, 18)
    assert float(found.error.max()) <= 0.01
    assert int((found.microstructure == 0).sum()) == round(float(wanted[4, 4, 4, 0]) * 24 * 20 * 18)


@settings(max_examples=2, deadline=None)
@given(sample_chunks(4))
def test_reconstruct__chunk_invariant(rows):
    wanted = statistics(TWO, [(0, 0)], periodic_axes=[0, 1])
    options = {"correlations": [(0, 0)], "periodic_axes": [0, 1], "tolerance": 0.02, "seed": 3}
    whole = reconstruct(wanted, n_samples=4, **options)
    lazy = reconstruct(wanted, n_samples=4, chunks=(rows,), **options)
    assert lazy.microstructure.chunks[0] == rows
    xr.testing.assert_identical(lazy.compute(), whole)
    xr.testing.assert_identical(reconstruct(wanted, n_samples=2, **options), whole.isel(sample=slice(2)))


def test_reconstruct__lazy_and_labelled():
    X = xr.DataArray(
        TWO,
        dims=("sample", "x", "y"),
        coords={"x": ("x", np.arange(32) * 0.5, {"units": "um"}), "y": ("y", np.arange(30) * 0.5, {"units": "um"})},
        attrs={"phases": ["pore", "grain"], "periodic_axes": ["x", "y"]},
    ).chunk({"sample": 1})
    wanted = correlate(X, PrimitiveBasis(2))[0]
    with computes(0):
        found = reconstruct(wanted, tolerance=0.02, n_samples=3, chunks=1)
    with computes(1):
        found = found.compute()
    assert float(rms(found.error).max()) <= 0.02
    assert found.pair.values.tolist() == ["pore–pore", "pore–grain"]
    assert found.microstructure.attrs == {"phases": ["pore", "grain"], "periodic_axes": ["x", "y"], "periods": [32, 30]}
    assert found.x.attrs["units"] == "um"
    np.testing.assert_array_equal(found.x, X.x)
    # It is an ensemble like any other.
    again = correlate(found.microstructure, PrimitiveBasis(2))
    np.testing.assert_allclose(again.mean("sample"), wanted, atol=0.02)
    # Statistics of a volume come in several chunks.
    cut = reconstruct(wanted.chunk({"lag_x": 10, "lag_y": 7}), tolerance=0.02, n_samples=3, chunks=1)
    xr.testing.assert_identical(cut.compute(), found)


def test_reconstruct__is_one_task_for_each_chunk():
    wanted = statistics(TWO, [(0, 0)], periodic_axes=[0, 1])
    lazy = reconstruct(wanted, correlations=[(0, 0)], periodic_axes=[0, 1], n_samples=6, chunks=2)
    (optimised,) = dask.optimize(lazy.microstructure.data)
    assert len([key for key in dict(optimised.__dask_graph__()) if "reconstruct" in str(key)]) <= 2 * 3


def test_reconstruct__of_a_point_among_scores():
    X = make_microstructure(12, (24, 24), 2, grain_size=5, volume_fraction=(0.4, 0.6), seed=1)
    model = MKSStructureAnalysis(
        PrimitiveBasis(2), dimension_reducer=PCA(4), periodic_axes=[0, 1], correlations=[(0, 0)]
    ).fit(X)
    scores = model.transform(X)
    wanted = model.inverse_transform(scores.mean(axis=0, keepdims=True))
    found = reconstruct(wanted[0], correlations=[(0, 0)], periodic_axes=[0, 1], tolerance=0.03)
    assert float(found.error.max()) <= 0.03
    spread = np.ptp(scores, axis=0).max()
    assert np.abs(model.transform(found.microstructure.values) - scores.mean(axis=0)).max() < 0.1 * spread


def test_reconstruct__two_structures_may_have_equal_statistics():
    """A + B and A - B: what 2-point statistics cannot tell apart."""
    a, b = np.array([(0, 0), (0, 1), (1, 0)]), np.array([(0, 0), (5, 2), (3, 9), (11, 5)])
    X = np.zeros((2, 24, 24), dtype=int)
    for structure, sign in zip(X, (1, -1), strict=True):
        points = (a[:, None] + sign * b[None]).reshape(-1, 2) % 24
        structure[tuple(points.T)] = 1
    first, second = correlate(X, PrimitiveBasis(2), periodic_axes=[0, 1], dtype="float64")
    np.testing.assert_allclose(first, second, atol=1e-12)
    shifts = [np.roll(X[0], shift, (0, 1)) for shift in np.ndindex(24, 24)]
    assert not any(np.array_equal(shift, X[1]) for shift in shifts)


def test_reconstruct__says_why_it_stopped():
    wanted = statistics(TWO, [(0, 0)], periodic_axes=[0, 1])
    options = {"correlations": [(0, 0)], "periodic_axes": [0, 1], "tolerance": 1e-9}
    with pytest.warns(UserWarning, match=r"1 of 1 structures do not reach tolerance=1e-09.*no progress"):
        found = reconstruct(wanted, max_iterations=10**6, **options)
    assert found.reason.attrs["flag_meanings"].split()[int(found.reason[0])] == "no_progress"
    with pytest.warns(UserWarning, match="max_iterations reached"):
        found = reconstruct(wanted, max_iterations=5, **options)
    assert int(found.iterations[0]) < 40


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"size": (16, 16)}, "size=.* must be at least the number of lags"),
        ({"tolerance": 0}, "tolerance must be a positive number"),
        ({"correlations": [(0, 0), (1, 1)]}, "correlations must be 1 pairs"),
        ({"correlations": [(0, -1)]}, "correlations must be 1 pairs"),
        ({"volume_fraction": (0.5, 0.6)}, "volume_fraction must hold nonnegative"),
        ({"volume_fraction": (0.0, 1.0)}, "give the phases the volume fractions"),
        ({"periodic_axes": [2]}, "names an axis outside"),
        ({"n_samples": 0}, "n_samples must be"),
        ({"chunks": 0, "n_samples": 2}, "chunks must be"),
    ],
)
def test_reconstruct__raises_on_bad_arguments(change, match):
    wanted = statistics(TWO, [(0, 0)], periodic_axes=[0, 1])
    with pytest.raises(ValueError, match=match):
        reconstruct(wanted, **{"correlations": [(0, 0)], "periodic_axes": [0, 1]} | change)


def test_reconstruct__raises_on_statistics_of_no_phases():
    wanted = statistics(TWO, [(0, 0)], periodic_axes=[0, 1])
    with pytest.raises(ValueError, match="real and of shape"):
        reconstruct(wanted.astype(complex))
    with pytest.raises(ValueError, match="volume fractions"):
        reconstruct(5 * wanted)
    with pytest.raises(ValueError, match="select one sample"):
        reconstruct(xr.DataArray(np.stack([wanted] * 2), dims=("sample", "lag_x", "lag_y", "pair")))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "is_periodic", "tolerance"),
    [
        ("berea_400.tif", 64, True, 0.004),
        ("electrode_256_3phase.tif", 64, True, 0.01),
        ("micrographs/composite_resized.npy", 128, True, 0.01),
        *((f"micrographs/{name}_resized.npy", 128, True, 0.005) for name in MICROGRAPHS),
        *((f"micrographs/{name}_resized.npy", 128, False, 0.009) for name in MICROGRAPHS),
    ],
)
def test_reconstruct__real_structures(name, size, is_periodic, tolerance):
    path = real_data(name)
    image = np.load(path) if path.suffix == ".npy" else tifffile.imread(path, key=range(size))
    X = np.searchsorted(np.unique(image), image[(slice(size),) * image.ndim])[None]
    pairs = [(a, b) for a in range(X.max() + 1) for b in range(a, X.max() + 1)]
    periodic = list(range(image.ndim)) if is_periodic else []
    wanted = statistics(X, pairs, periodic_axes=periodic)
    found = reconstruct(wanted, correlations=pairs, periodic_axes=periodic, tolerance=tolerance)
    assert rms(found.error)[0] <= tolerance
