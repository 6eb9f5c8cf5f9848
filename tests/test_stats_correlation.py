"""2-point statistics against the defining sum, and the algebra they obey."""

import itertools

import dask
import dask.array as da
import numpy as np
import pytest
import tifffile
import xarray as xr
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from mksdask import GivenStates, PrimitiveBasis, create_ensemble, open_ensemble
from mksdask.reduction import PCA
from mksdask.stats import TwoPointStatistics, autocorrelate, correlate, crosscorrelate
from tests.conftest import real_data
from tests.helpers import chunked, computes, sample_chunks, statistics_bruteforce, tasks_per_chunk


@st.composite
def cases(draw):
    """A random ensemble with options, and the reach of its lags."""
    spatial = draw(st.sampled_from([(1,), (7,), (8,), (4, 5), (5, 3), (3, 4, 3), (2, 3, 4)]))
    periodic = tuple(draw(st.booleans()) for _ in spatial)
    kind = draw(st.sampled_from(["none", "per axis", "one"]))
    limits = [(n - 1) // 2 if wraps else n - 1 for n, wraps in zip(spatial, periodic, strict=True)]
    if kind == "none":
        cutoff, reach = None, [(n // 2, (n - 1) // 2) for n in spatial]
    elif kind == "one":
        cutoff = draw(st.integers(0, min(limits)))
        reach = [(cutoff, cutoff)] * len(spatial)
    else:
        cutoff = tuple(draw(st.integers(0, limit)) for limit in limits)
        reach = [(c, c) for c in cutoff]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_states = draw(st.integers(1, 3))
    X = rng.integers(0, n_states, (3, *spatial)).astype("uint8")
    mask = draw(st.sampled_from(["none", "indicator", "weights", "shared"]))
    confidence = {
        "none": None,
        "indicator": rng.integers(0, 2, X.shape).astype(float),
        "weights": rng.random(X.shape) * rng.integers(0, 2, X.shape),
        "shared": rng.integers(0, 2, spatial).astype(float),
    }[mask]
    every = list(itertools.product(range(n_states), repeat=2))
    pairs = draw(st.sampled_from([None, every, every[-1:], [(n_states - 1, 0), (0, 0)]]))
    return X, n_states, periodic, cutoff, reach, confidence, pairs


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@settings(max_examples=60, deadline=None)
@given(case=cases(), data=st.data())
def test_correlate__matches_bruteforce_and_chunk_invariant(dtype, case, data):
    X, n_states, periodic, cutoff, reach, confidence, pairs = case
    basis = PrimitiveBasis(n_states)
    options = {
        "periodic_axes": np.flatnonzero(periodic),
        "cutoff": cutoff,
        "correlations": pairs,
        "confidence_index": confidence,
        "dtype": dtype,
        "size": X.shape[1:],
    }
    f = correlate(X, basis, **options)
    assert f.dtype == dtype
    resolved = [(0, h) for h in range(n_states)] if pairs is None else pairs
    m = basis.discretize(X)
    for j in range(len(X)):
        c = confidence if confidence is None or confidence.ndim < X.ndim else confidence[j]
        expected = statistics_bruteforce(m[j], resolved, periodic=periodic, reach=reach, confidence=c)
        assert_array_equal(np.isnan(f[j]), np.isnan(expected))
        weights = np.ones(X.shape[1:]) if c is None else c
        omega = statistics_bruteforce(weights[..., None], [(0, 0)], periodic=periodic, reach=reach) * _n_pairs(
            X, periodic, reach
        )
        growth = np.maximum(1.0, np.sum(weights**2) / np.where(omega > 0, omega, np.inf))
        unit = 1e-6 if dtype == "float32" else 1e-12
        assert (
            np.abs(f[j] - expected)[~np.isnan(expected)]
            <= (unit * growth * np.ones_like(expected))[~np.isnan(expected)]
        ).all()
    lazy = correlate(chunked(X, data.draw(sample_chunks(len(X)))), basis, **options)
    assert_array_equal(lazy.compute(scheduler="sync"), f)


def _n_pairs(X, periodic, reach):
    counts = np.ones((1,) * (X.ndim - 1))
    for axis, (n, wraps, (low, high)) in enumerate(zip(X.shape[1:], periodic, reach, strict=True)):
        along = np.array([n if wraps else n - abs(r) for r in range(-low, high + 1)], dtype=float)
        counts = counts * along.reshape([-1 if a == axis else 1 for a in range(X.ndim - 1)])
    return counts[..., None]


def test_correlate__matches_bruteforce_for_given_field():
    rng = np.random.default_rng(3)
    m = rng.normal(size=(2, 4, 5, 2)) + 1j * rng.normal(size=(2, 4, 5, 2))
    for field, basis in ((m.real, GivenStates(2)), (m, GivenStates(2, is_complex=True))):
        f = correlate(field, basis, periodic_axes=[0], correlations=[(0, 1), (1, 1)], dtype="float64")
        expected = [
            statistics_bruteforce(x, [(0, 1), (1, 1)], periodic=(True, False), reach=[(2, 1), (2, 2)]) for x in field
        ]
        assert_allclose(f, expected, rtol=0, atol=1e-12)


@given(n=st.integers(2, 12), seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_correlate__obeys_algebra(n, seed):
    X = np.random.default_rng(seed).integers(0, 3, (2, n, 7))
    every = [(a, b) for a in range(3) for b in range(3)]
    f = correlate(X, PrimitiveBasis(3), periodic_axes=[0, 1], correlations=every, dtype="float64").reshape(
        2, n, 7, 3, 3
    )
    fractions = np.stack([(h == X).mean(axis=(1, 2)) for h in range(3)], axis=-1)
    assert_allclose(f[:, n // 2, 3], fractions[:, :, None] * np.eye(3), atol=1e-12)
    assert_allclose(f.sum(axis=-1), np.broadcast_to(fractions[:, None, None], f.shape[:-1]), atol=1e-12)
    centred = f if n % 2 else f[:, 1:]
    assert_allclose(centred[:, ::-1, ::-1], np.swapaxes(centred, -1, -2), atol=1e-12)


def test_correlate__lazy_one_task_per_chunk():
    X = da.random.default_rng(0).integers(0, 2, size=(12, 8, 8), chunks=(3, 8, 8))
    with computes(0):
        f = correlate(X, PrimitiveBasis(2), periodic_axes=[0])
        flat = TwoPointStatistics(PrimitiveBasis(2), flatten=True).fit_transform(X)
    assert f.chunks[0] == X.chunks[0]
    stored = da.from_array(np.zeros((12, 8, 8), "uint8"), chunks=(3, 8, 8), inline_array=True)
    assert tasks_per_chunk(correlate(stored, PrimitiveBasis(2))) <= 2
    assert flat.shape == (12, 128)


def test_correlate__chunk_error_prints_rechunk_that_mends_it():
    X = da.zeros((4, 6, 6), chunks=(2, 3, 6), dtype="uint8")
    with pytest.raises(ValueError, match=r"X = X\.rechunk\(") as caught:
        correlate(X, PrimitiveBasis(2))
    mend = str(caught.value).split("Use X = ")[1]
    assert correlate(eval(mend, {"X": X}), PrimitiveBasis(2)).shape == (4, 6, 6, 2)


def test_correlate__labelled_in_physical_units(tmp_path):
    X = xr.DataArray(
        np.random.default_rng(0).integers(0, 2, (3, 6, 5)),
        dims=("sample", "x", "y"),
        coords={
            "x": ("x", np.arange(6) * 0.5, {"units": "um"}),
            "y": ("y", np.arange(5) * 0.25, {"units": "um"}),
            "sample": [4, 5, 6],
        },
        attrs={"periodic_axes": [1]},
    )
    f = correlate(X, PrimitiveBasis(2), correlations=[(0, 1)])
    assert f.dims == ("sample", "lag_x", "lag_y", "pair")
    assert_allclose(f.lag_x, np.arange(-3, 3) * 0.5)
    assert f.lag_y.attrs["units"] == "um"
    assert f.pair.item() == "0,1"
    assert (f.state_1.item(), f.state_2.item()) == (0, 1)
    assert_array_equal(f.sample, [4, 5, 6])
    assert_array_equal(f.values, correlate(X.values, PrimitiveBasis(2), periodic_axes=[1], correlations=[(0, 1)]))
    f.to_dataset().to_zarr(tmp_path / "f.zarr", consolidated=False)
    xr.testing.assert_identical(xr.open_zarr(tmp_path / "f.zarr", consolidated=False).two_point_statistics.load(), f)
    lazy = correlate(X.chunk(sample=1), PrimitiveBasis(2), correlations=[(0, 1)])
    assert dask.is_dask_collection(lazy)
    xr.testing.assert_identical(lazy.compute(), f)


def test_autocorrelate_and_crosscorrelate__are_parts_of_correlate():
    X = np.random.default_rng(1).integers(0, 3, (2, 9))
    basis = PrimitiveBasis(3)
    f = correlate(X, basis, size=(9,), correlations=[(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)])
    assert_allclose(autocorrelate(X, basis, size=(9,)), f[..., :3], atol=1e-6)
    assert_allclose(crosscorrelate(X, basis, size=(9,)), f[..., 3:], atol=1e-6)


def test_correlate__kept_states_are_named_by_label():
    X = np.random.default_rng(1).integers(0, 3, (2, 9))
    options = {"correlations": [(2, 2), (0, 2)], "size": (9,)}
    assert_allclose(
        correlate(X, PrimitiveBasis([0, 2]), **options), correlate(X, PrimitiveBasis(3), **options), atol=1e-6
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cutoff": 4, "periodic_axes": [0]}, "cutoff=4 must lie between 0 and"),
        ({"cutoff": -1}, "cutoff=-1"),
        ({"periodic_axes": [2]}, "periodic_axes=\\[2\\]"),
        ({"periodic_axes": True}, "numbers of spatial axes"),
        ({"periodic_axes": ["x"]}, "numbers of spatial axes"),
        ({"cutoff": (2, 2, 2)}, "one for each of the 2 spatial axes"),
        ({"correlations": (0, 1)}, "pairs of local states"),
        ({"correlations": [(0, 5)]}, "pairs of local states"),
        ({"correlations": []}, "correlations is empty"),
        ({"dtype": "float16"}, "float32 or float64"),
        ({"confidence_index": np.ones((3, 3))}, "confidence_index must have shape"),
        ({"confidence_index": np.full((2, 8, 8), 1.5)}, "confidence_index must lie in \\[0, 1\\]"),
        ({"confidence_index": np.full((2, 8, 8), np.nan)}, "confidence_index must lie in \\[0, 1\\]"),
    ],
)
def test_correlate__raises_on_bad_option(options, message):
    with pytest.raises(ValueError, match=message):
        correlate(np.zeros((2, 8, 8), dtype=int), PrimitiveBasis(2), **options)


@pytest.mark.parametrize(
    ("value", "message"), [(2, "outside the domain"), (-1, "outside the domain"), (np.nan, "X holds NaN")]
)
def test_correlate__raises_on_value_outside_domain_when_computed(value, message):
    X = np.full((1, 4), value)
    lazy = correlate(chunked(X, (1,)), PrimitiveBasis(2), size=(4,))
    with pytest.raises(ValueError, match=message):
        lazy.compute(scheduler="sync")


@pytest.mark.parametrize("hidden", [np.nan, -7.0, 300.0])
def test_correlate__what_a_mask_hides_does_not_matter(hidden):
    rng = np.random.default_rng(5)
    X = rng.random((2, 6, 5))
    c = rng.integers(0, 2, X.shape)
    basis = PrimitiveBasis(3, domain=(0, 1))
    garbage = np.where(c > 0, X, hidden)
    options = {"periodic_axes": [0], "confidence_index": c}
    assert_array_equal(correlate(garbage, basis, **options), correlate(X, basis, **options))
    field = basis.discretize(X)
    spoilt = np.where(c[..., None] > 0, field, hidden)
    assert_array_equal(correlate(spoilt, None, **options), correlate(field, None, **options))
    shared = options | {"confidence_index": da.from_array(c[0], chunks=2)}
    assert_array_equal(correlate(X, basis, **shared), correlate(X, basis, periodic_axes=[0], confidence_index=c[0]))


def test_correlate__raises_on_wrong_kind():
    with pytest.raises(TypeError, match=r"X\['microstructure'\]"):
        correlate(xr.Dataset({"microstructure": ("sample", [0.0])}), PrimitiveBasis(2))
    with pytest.raises(TypeError, match="must be numeric"):
        correlate(np.array([["a"]]), PrimitiveBasis(2))
    with pytest.raises(ValueError, match="1 to 3 spatial axes"):
        correlate(np.zeros(4), PrimitiveBasis(2))


def test_two_point_statistics__in_pipelines():
    X = np.random.default_rng(0).integers(0, 2, (10, 5, 5))
    statistics = TwoPointStatistics(PrimitiveBasis(2), periodic_axes=[0, 1], flatten=True)
    assert clone(statistics).get_params()["flatten"] is True
    pipeline = make_pipeline(statistics, PCA(2))
    scores = pipeline.fit_transform(X)
    flat = clone(pipeline).fit(X.reshape(10, -1), twopointstatistics__size=(5, 5))
    assert_allclose(flat.transform(X.reshape(10, -1)), scores, atol=1e-6)


def test_correlate__real_micrograph_matches_direct_counts():
    image = tifffile.imread(real_data("micrographs/binary_986x1376.tif"))
    X = (image > 0).astype("uint8")[None]
    f = correlate(X, PrimitiveBasis(2), correlations=[(1, 1)], cutoff=40)
    for lag in [(0, 0), (7, -3), (-40, 40), (25, 11)]:
        a, b = lag
        here = X[0, max(0, -a) : X.shape[1] - max(0, a), max(0, -b) : X.shape[2] - max(0, b)]
        there = X[0, max(0, a) : X.shape[1] - max(0, -a), max(0, b) : X.shape[2] - max(0, -b)]
        assert_allclose(f[0, 40 + a, 40 + b, 0], np.mean(here * there), atol=1e-6)


def test_correlate__labels_keep_axes_apart():
    X = np.random.default_rng(2).integers(0, 2, (3, 5, 4))
    A = xr.DataArray(X, dims=("sample", "x", "y"), attrs={"periodic_axes": ["x"]})
    f = correlate(A, PrimitiveBasis(2))
    turned = correlate(A.transpose("sample", "y", "x"), PrimitiveBasis(2))
    assert_allclose(turned.transpose(*f.dims), f, atol=1e-6)
    assert_allclose(
        correlate(A.isel(x=0), PrimitiveBasis(2)), correlate(X[:, 0], PrimitiveBasis(2), size=(4,)), atol=1e-6
    )
    c = xr.DataArray(np.random.default_rng(3).random((5, 4)), dims=("x", "y"))
    assert_array_equal(
        correlate(A, PrimitiveBasis(2), confidence_index=c.T), correlate(A, PrimitiveBasis(2), confidence_index=c)
    )
    with pytest.raises(ValueError, match=r"transpose\('sample', ...\)"):
        correlate(A.transpose("x", "y", "sample"), PrimitiveBasis(2))
    with pytest.raises(ValueError, match=r"chunk\({'sample': 3, 'x': -1, 'y': -1}\)"):
        correlate(A.chunk(x=2), PrimitiveBasis(2))
    with pytest.raises(ValueError, match=r"confidence_index = confidence_index\.rechunk"):
        correlate(X, PrimitiveBasis(2), confidence_index=da.ones(X.shape, chunks=2))


def test_correlate__a_lazy_result_does_not_follow_later_changes_of_the_basis():
    basis = PrimitiveBasis(2)
    lazy = correlate(da.from_array(np.array([[0, 0, 1, 1]])), basis, size=(4,))
    before = lazy.compute(scheduler="sync")
    basis.set_params(domain=(0, 2))
    assert_array_equal(lazy.compute(scheduler="sync"), before)


def test_correlate__a_cut_axis_is_no_longer_periodic(tmp_path):
    X = np.random.default_rng(4).integers(0, 2, (2, 8, 6)).astype("uint8")
    create_ensemble(tmp_path / "e.zarr", X, periodic_axes=[0, 1])
    stored = open_ensemble(tmp_path / "e.zarr").microstructure
    basis = PrimitiveBasis(2)
    assert_allclose(correlate(stored, basis), correlate(X, basis, periodic_axes=[0, 1]), atol=1e-6)
    assert_allclose(correlate(stored[:, :5], basis), correlate(X[:, :5], basis, periodic_axes=[1]), atol=1e-6)
    with pytest.raises(ValueError, match="no axis of samples"):
        correlate(stored[0], basis)
    with pytest.raises(TypeError, match="basis must be a basis"):
        correlate(X, 2)


def test_correlate__refuses_what_would_lose_information():
    with pytest.raises(TypeError, match=r"pass X\.data, and confidence_index=~X\.mask"):
        correlate(np.ma.masked_equal([[0, 1, 1, 1]], 0), PrimitiveBasis(2))
    with pytest.raises(ValueError, match="labels from 0"):
        correlate(np.zeros((1, 4, 4)), PrimitiveBasis([-1, 1]))
