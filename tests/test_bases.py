"""The microstructure function."""

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

from mksdask import PrimitiveBasis
from tests.helpers import computes


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


@pytest.mark.parametrize("n_states", [0, [0, 0], []])
def test_basis__raises_on_bad_n_states(n_states):
    with pytest.raises(ValueError, match="n_states must be"):
        PrimitiveBasis(n_states).discretize(np.zeros((1, 2)))


def test_basis__is_a_scikit_learn_estimator():
    basis = PrimitiveBasis([0, 1], domain=(0, 3))
    assert clone(basis).get_params() == {"n_states": [0, 1], "domain": (0, 3)}
    with pytest.raises(ValueError, match="domain must be"):
        PrimitiveBasis(2, domain=(1, 0)).discretize(np.zeros((1, 2)))
