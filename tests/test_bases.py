"""The microstructure function."""

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import eval_legendre
from sklearn.base import clone

from mksdask import FourierBasis, GSHBasis, LegendreBasis, MKSStructureAnalysis, PrimitiveBasis, ProductBasis
from mksdask.stats import correlate
from tests.helpers import computes, statistics_bruteforce


@given(n_states=st.integers(1, 6), seed=st.integers(0, 99), dtype=st.sampled_from(["float32", "float64"]))
def test_primitive__states_sum_to_one_and_interpolate(n_states, seed, dtype):
    X = np.random.default_rng(seed).uniform(-1.0, 2.0, (2, 3, 4)).astype(dtype)
    m = PrimitiveBasis(n_states, domain=(-1.0, 2.0)).discretize(X, dtype=dtype)
    assert m.dtype == dtype
    assert m.shape == (2, 3, 4, n_states)
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    assert_allclose(m.sum(axis=-1), 1.0, atol=tolerance)
    assert m.min() >= 0
    if n_states > 1:
        assert_allclose(m @ np.linspace(-1.0, 2.0, n_states), X, atol=tolerance)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool", "float32"])
def test_primitive__indicators_of_phase_numbers(dtype):
    X = np.array([[0, 1, 1, 0]]).astype(dtype)
    assert_array_equal(PrimitiveBasis(2).discretize(X)[0, :, 1], [0, 1, 1, 0])


def test_repr__names_the_states_always():
    assert repr(PrimitiveBasis(2)) == "PrimitiveBasis(n_states=2)"
    assert repr(LegendreBasis(3, domain=(0, 1))) == "LegendreBasis(n_states=3, domain=(0, 1))"


def test_primitive__domain_of_grey_levels():
    X = np.array([[0, 85, 170]], dtype="uint8")
    assert_allclose(PrimitiveBasis(3, domain=(0, 170)).discretize(X)[0], np.eye(3))


def test_primitive__labels_choose_hats():
    X = np.array([[0, 1, 2]])
    assert_array_equal(PrimitiveBasis([2, 0]).discretize(X)[0], np.eye(3)[:, [2, 0]])
    assert PrimitiveBasis([2, 0]).states == (2, 0)
    assert not PrimitiveBasis([2, 0]).is_complete
    assert PrimitiveBasis([1, 0]).is_complete


def test_discretize__same_kind_out():
    X = np.random.default_rng(0).integers(0, 2, (4, 3))
    m = PrimitiveBasis(2).discretize(X)
    with computes(0):
        lazy = PrimitiveBasis(2).fit_transform(da.from_array(X, chunks=(2, 3)))
    assert_array_equal(lazy, m)
    labelled = PrimitiveBasis(2).discretize(xr.DataArray(X, dims=("specimen", "x")))
    assert labelled.dims == ("specimen", "x", "state")
    assert_array_equal(labelled, m)


@pytest.mark.parametrize("n_states", [0, [0, 0], [], 2.0, [0.5], "2"])
def test_basis__raises_on_bad_n_states(n_states):
    with pytest.raises(ValueError, match="n_states must be"):
        PrimitiveBasis(n_states).discretize(np.zeros((1, 2)))


def test_basis__is_a_scikit_learn_estimator():
    basis = PrimitiveBasis([0, 1], domain=(0, 3))
    assert clone(basis).get_params() == {"n_states": [0, 1], "domain": (0, 3)}
    with pytest.raises(ValueError, match="domain must be"):
        PrimitiveBasis(2, domain=(1, 0)).discretize(np.zeros((1, 2)))


@given(
    orders=st.lists(st.integers(0, 24), min_size=1, max_size=6, unique=True),
    seed=st.integers(0, 99),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_legendre__matches_scipy(orders, seed, dtype):
    X = np.random.default_rng(seed).uniform(-3.0, 5.0, (2, 3, 4))
    m = LegendreBasis(orders, domain=(-3.0, 5.0)).discretize(X, dtype=dtype)
    assert m.dtype == dtype
    for h, order in enumerate(orders):
        scale = order + 0.5
        expected = scale * eval_legendre(order, (X - 1.0) / 4.0)
        assert_allclose(m[..., h], expected, rtol=0, atol=scale * (2e-5 if dtype == "float32" else 1e-13))


@given(
    orders=st.lists(st.integers(-20, 20), min_size=1, max_size=6, unique=True),
    seed=st.integers(0, 99),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_fourier__matches_closed_form_and_wraps(orders, seed, dtype):
    X = np.random.default_rng(seed).uniform(-9.0, 9.0, (2, 3, 4))
    basis = FourierBasis(orders, domain=(1.0, 3.0))
    m = basis.discretize(X, dtype=dtype)
    assert m.dtype == np.result_type(dtype, np.complex64)
    tolerance = 2e-5 if dtype == "float32" else 1e-12
    assert_allclose(m, np.exp(1j * np.pi * np.array(orders) * (X[..., None] - 1.0)), atol=tolerance)
    assert_allclose(basis.discretize(X + 2.0, dtype=dtype), m, atol=tolerance)


def test_bases__states_are_orders():
    assert LegendreBasis(3).states == (0, 1, 2)
    assert FourierBasis(6).states == (0, 1, -1, 2, -2, 3)
    with pytest.raises(ValueError, match="orders from 0"):
        LegendreBasis([-1, 0]).discretize(np.zeros((1, 2)))
    with pytest.raises(ValueError, match="outside the domain"):
        LegendreBasis(2).discretize(np.full((1, 2), 1.5))
    with pytest.raises(ValueError, match="NaN"):
        FourierBasis(2).discretize(np.full((1, 2), np.nan))
    with pytest.raises(ValueError, match="domain must be"):
        FourierBasis(2, domain=(1, 1)).discretize(np.zeros((1, 2)))


def density(t):
    return np.exp(np.cos(3.0 * t) + t)


def test_legendre__density_of_local_states_converges():
    # The mean of m over many voxels holds the coefficients of their density: Σ_l <m[l]> P_l.
    t, weights = np.polynomial.legendre.leggauss(200)
    weights = weights * density(t)
    weights /= weights.sum()
    points = np.linspace(-1, 1, 41)
    truth = density(points) / np.sum(np.polynomial.legendre.leggauss(200)[1] * density(t))
    errors = []
    for n_states in (4, 8, 16, 24):
        coefficients = weights @ LegendreBasis(n_states).discretize(t[None])[0]
        series = sum(c * eval_legendre(order, points) for order, c in enumerate(coefficients))
        errors.append(np.abs(series - truth).max())
    assert errors[0] > 5 * errors[1] > 50 * errors[2]
    assert errors[-1] < 1e-5


def test_fourier__density_of_local_states_converges():
    angle = np.arange(256) * 2 * np.pi / 256
    weights = np.exp(np.cos(angle))
    weights /= weights.sum()
    errors = []
    for n_states in (3, 7, 15, 31):
        basis = FourierBasis(n_states)
        m = basis.discretize(angle[None])[0]
        series = (m.conj() * (weights @ m)).sum(axis=-1).real / 256
        errors.append(np.abs(series - weights).max() * 256)
    assert errors[0] > 10 * errors[1] > 100 * errors[2]
    assert errors[-1] < 1e-12


@pytest.mark.parametrize(
    ("basis", "components"),
    [
        (PrimitiveBasis(3, domain=(0, 1)), 0),
        (LegendreBasis([2, 0, 1], domain=(0, 1)), 0),
        (FourierBasis(5, domain=(0, 1)), 0),
        (GSHBasis(12, domain="hexagonal"), 3),
        (ProductBasis(LegendreBasis(2, domain=(0, 1)), FourierBasis(3, domain=(0, 1))), 2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_bases__weighted_sum_is_one(basis, components):
    X = np.random.default_rng(0).uniform(size=(2, 4, 5, *[components] * (components > 0)))
    assert_allclose(basis.discretize(X) @ basis.unity, 1.0, atol=1e-12)
    assert PrimitiveBasis([0, 2]).unity is LegendreBasis([1, 2]).unity is FourierBasis([1]).unity is None


@pytest.mark.parametrize("is_periodic", [True, False])
@pytest.mark.parametrize("is_masked", [True, False])
@pytest.mark.parametrize(
    "basis",
    [
        LegendreBasis(3, domain=(0, 1)),
        LegendreBasis([1, 2], domain=(0, 1)),
        FourierBasis(3, domain=(0, 1)),
        ProductBasis(PrimitiveBasis(2), FourierBasis(2, domain=(0, 1))),
        GSHBasis(5),
    ],
    ids=["legendre", "legendre-incomplete", "fourier", "product", "gsh"],
)
def test_correlate__any_basis_matches_bruteforce(basis, is_periodic, is_masked):
    rng = np.random.default_rng(3)
    components = (basis.state_size,) * basis.state_axes
    X = rng.uniform(size=(2, 4, 5, *components))
    mask = rng.uniform(0.2, 1.0, (2, 4, 5)) if is_masked else None
    pairs = [(a, b) for a in basis.states for b in basis.states]
    periodic_axes = [0, 1] if is_periodic else []
    f = correlate(
        X, basis, periodic_axes=periodic_axes, correlations=pairs, confidence_index=mask, cutoff=1, dtype="float64"
    )
    m = basis.discretize(X)
    index = [(basis.states.index(a), basis.states.index(b)) for a, b in pairs]
    for sample in range(2):
        expected = statistics_bruteforce(
            m[sample],
            index,
            periodic=[is_periodic] * 2,
            reach=[(1, 1)] * 2,
            confidence=None if mask is None else mask[sample],
        )
        assert_allclose(f[sample], expected, atol=1e-12 * max(1.0, np.abs(expected).max()))


def test_correlate__unobserved_voxels_of_a_product_basis_may_hold_anything():
    basis = ProductBasis(PrimitiveBasis(2), FourierBasis(2))
    X = np.random.default_rng(0).integers(0, 2, (1, 6, 6, 2)).astype(float)
    mask = np.ones((1, 6, 6))
    mask[0, 2, 3] = 0
    expected = correlate(X, basis, confidence_index=mask)
    X[0, 2, 3] = np.nan
    assert_array_equal(correlate(X, basis, confidence_index=mask), expected)


def test_structure__complex_statistics_come_back_whole():
    X = np.random.default_rng(0).uniform(0, 2 * np.pi, (9, 5, 6))
    analysis = MKSStructureAnalysis(FourierBasis(3), n_components=8, periodic_axes=[0, 1], dtype="float64")
    scores = analysis.fit_transform(X)
    statistics = correlate(X, FourierBasis(3), periodic_axes=[0, 1], dtype="float64")
    assert np.abs(statistics.imag).max() > 0.01
    assert_allclose(analysis.inverse_transform(scores), statistics, atol=1e-9)
    assert analysis.components_.dtype == np.complex128


def test_product__is_the_product_of_its_factors():
    phase, angle = PrimitiveBasis([1, 0]), GSHBasis([0, 2, 5], domain="trigonal")
    basis = ProductBasis(phase, angle, LegendreBasis(2))
    rng = np.random.default_rng(1)
    X = np.concatenate(
        [rng.integers(0, 2, (2, 3, 4, 1)), rng.uniform(0, 3, (2, 3, 4, 3)), rng.uniform(-1, 1, (2, 3, 4, 1))], axis=-1
    )
    expected = np.einsum(
        "...a,...b,...c->...abc",
        phase.discretize(X[..., 0]),
        angle.discretize(X[..., 1:4]),
        LegendreBasis(2).discretize(X[..., 4]),
    ).reshape(2, 3, 4, -1)
    assert_allclose(basis.discretize(X), expected, atol=1e-13)
    assert basis.index_[:3] == [(1, 0, 0), (1, 0, 1), (1, 2, 0)]
    with computes(0):
        lazy = basis.discretize(da.from_array(X, chunks=(1, 3, 4, 5)))
    assert_array_equal(lazy, basis.discretize(X))
    with pytest.raises(ValueError, match="5 components"):
        basis.discretize(X[..., :4])
    with pytest.raises(TypeError, match="takes bases"):
        _ = ProductBasis(PrimitiveBasis(2), 3).states


def test_product__is_a_scikit_learn_estimator():
    basis = ProductBasis(PrimitiveBasis(2), FourierBasis(3))
    copy = clone(basis).set_params(basis_0__n_states=4, basis_1=LegendreBasis(2))
    assert len(basis.states) == 6
    assert len(copy.states) == 8
    assert copy.get_params()["basis_0__n_states"] == 4
    assert "LegendreBasis" in repr(copy)
    nested = ProductBasis(basis, GSHBasis(2))
    assert nested.discretize(np.zeros((1, 2, 5))).shape == (1, 2, 12)
    with pytest.raises(ValueError, match="no parameter"):
        basis.set_params(basis_7=None)
    analysis = MKSStructureAnalysis(basis, n_components=2, periodic_axes=[0, 1])
    scores = clone(analysis).fit_transform(np.random.default_rng(0).uniform(size=(5, 4, 4, 2)))
    assert scores.shape == (5, 2)


def test_weighted_fields__do_not_depend_on_what_was_not_observed():
    values, mask = np.array([[0, 1], [1, 255]], dtype="uint8"), np.array([[1, 1], [1, 0]])
    for basis in (LegendreBasis(2, domain=(-1, 1)), PrimitiveBasis(2)):
        found = np.array(list(basis.weighted_fields(values, mask, [0, 1], np.float64)))
        expected = np.array(list(basis.fields(np.where(mask > 0, values, 0), [0, 1], np.float64))) * mask
        assert_array_equal(found, expected)
