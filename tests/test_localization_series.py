"""The series beyond first order: known kernels, Eq. 4 as it stands, and the contract of the model at each order."""

import pickle
import warnings

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.linear_model import HuberRegressor, Lasso, Ridge

from mksdask import (
    FourierBasis,
    GivenStates,
    GSHBasis,
    LegendreBasis,
    MKSLocalizationModel,
    PrimitiveBasis,
    load_model,
    plan,
    save_model,
)
from mksdask.datasets import make_microstructure, solve_fields
from tests.helpers import chunked, computes, sample_chunks, tasks_per_chunk
from tests.test_localization import convolve

RNG = np.random.default_rng(0)
ELASTIC = {"elastic_modulus": (1.0, 10.0), "poissons_ratio": (0.3, 0.3), "macro_strain": 1.0, "tolerance": 1e-4}


def localized(rng, spatial, n_states, n_components):
    """Random kernels that fall off with the lag, so that responses of all orders have the same size."""
    kernels = rng.normal(size=(*spatial, n_states, n_components))
    return kernels / np.prod(spatial) ** 0.5


def chain_of_orders(basis, X, spatial, order, seed=1):
    """Responses with one component more for each order. Component k is exactly of order k + 1, with known kernels."""
    rng = np.random.default_rng(seed)
    m = basis.discretize(X)
    n_states = m.shape[-1]
    kernels = [localized(rng, spatial, n_states, 1)]
    fields = [convolve(m, kernels[0])[..., 0]]
    for _ in range(order - 1):
        states = np.concatenate([m, m[..., 1:] * fields[-1][..., None]], axis=-1)
        kernels.append(localized(rng, spatial, states.shape[-1], 1))
        fields.append(convolve(states, kernels[-1])[..., 0])
    y = np.stack(fields, axis=-1)
    return y if m.dtype.kind == "c" else y.real, kernels


def phases(n_samples, spatial, n_states=2, seed=0):
    # Fractions differ, so that the data determine the kernels at zero frequency too.
    rng = np.random.default_rng(seed)
    return (
        rng.random((n_samples, *spatial)) ** rng.uniform(0.4, 2.5, (n_samples, *(1,) * len(spatial))) * n_states
    ).astype(int)


@pytest.mark.parametrize(
    ("basis", "spatial", "order"),
    [
        (PrimitiveBasis(2), (9,), 3),
        (PrimitiveBasis(3), (6, 5), 2),
        (PrimitiveBasis(2), (5, 6), 3),
        (PrimitiveBasis(2), (3, 4, 3), 2),
        (LegendreBasis(3, domain=(0, 2)), (8,), 3),
        (GivenStates(2), (8,), 3),
    ],
)
def test_fit__recovers_a_response_of_its_order(basis, spatial, order):
    n_states = 3 if isinstance(basis, LegendreBasis) else len(basis.states)
    X = phases(90, spatial, n_states)
    if isinstance(basis, GivenStates):
        X = RNG.normal(size=(*X.shape, 2))
    y, _ = chain_of_orders(basis, X, spatial, order)
    model = MKSLocalizationModel(basis, order=order).fit(X[:70], y[:70], size=spatial)
    scale = abs(y).max()
    assert_allclose(model.predict(X[70:]), y[70:], rtol=0, atol=1e-8 * scale)
    # One order less leaves the last component out, and it alone.
    below = model.predict(X[70:], order=order - 1) - y[70:]
    assert abs(below[..., :-1]).max() < 1e-8 * scale < 1e-3 * abs(below[..., -1]).max()


def test_fit__recovers_known_kernels_of_second_order():
    spatial = (5, 6)
    basis, X = PrimitiveBasis(2), phases(120, spatial)
    y, (alpha, beta) = chain_of_orders(basis, X, spatial, 2)
    model = MKSLocalizationModel(basis, order=2).fit(X, y)
    # α and β are known up to a term that all states share, because Σ_h m[h] = 1. Differences have none.
    found = model.coef_[1]
    assert_allclose(np.diff(found[..., 0], axis=-1), np.diff(alpha[..., 0], axis=-1), atol=1e-8)
    (h,) = {h for h, c in model.terms_[2] if c is not None}
    at = model.terms_[2].index((h, 0))
    sign = 1.0 if h == 1 else -1.0
    assert_allclose(model.coef_[2][..., at, 1], sign * beta[..., 2, 0], atol=1e-8)
    # The kernel of Eq. 4 for a pair of lags is the product of the two.
    for r, other in (((0, 0), (0, 0)), ((1, -2), (0, 3)), ((-2, 2), (2, 2))):
        apart = np.subtract(other, r)
        index = tuple((apart + np.array(spatial) // 2) % spatial)
        expected = sign * beta[(r[0] + 2, (r[1] + 3) % 6, 2, 0)] * np.diff(alpha[(*index, slice(None), 0)])
        assert_allclose(np.diff(model.pair_coeff(r, other)[h, :, 1]), expected, atol=1e-8)


@pytest.mark.parametrize("basis", [PrimitiveBasis(2), GSHBasis(2)], ids=["primitive", "gsh"])
def test_predict__is_equation_4_as_it_stands(basis):
    spatial = (3, 4)
    rng = np.random.default_rng(3)
    X = rng.random((40, *spatial, 3)) if isinstance(basis, GSHBasis) else phases(40, spatial)
    y = rng.normal(size=(40, *spatial, 2)) + 1.0
    model = MKSLocalizationModel(basis, order=2)
    model.fit(X, y)
    m, terms, kernels = basis.discretize(X[:2]), model.terms_[2], model.coef_[2]
    n_states = m.shape[-1]
    linear = kernels[..., :n_states, :].copy()
    for kernel, (h, c) in zip(np.moveaxis(kernels, -2, 0), terms, strict=True):
        if c is not None:
            linear[..., h, :] -= model.mean_response_[c] * kernel
    expected = convolve(m, linear)
    for r in np.ndindex(spatial):
        for other in np.ndindex(spatial):
            pair = np.einsum(
                "...h,...g,hgc->...c", *(np.roll(m, lag, axis=(1, 2)) for lag in (r, other)), model.pair_coeff(r, other)
            )
            expected = expected + pair
    assert_allclose(model.predict(X[:2]), expected.real, rtol=0, atol=1e-9 * abs(expected).max())


def test_order_1__is_the_first_order_of_any_other():
    X = phases(30, (6, 5), 3)
    y = RNG.normal(size=(*X.shape, 2)) + X[..., None]
    for alpha in (0.0, "gcv"):
        first = MKSLocalizationModel(PrimitiveBasis(3), alpha=alpha).fit(X, y)
        second = MKSLocalizationModel(PrimitiveBasis(3), alpha=alpha, order=2).fit(X, y)
        # λ of the two belongs to states that are scaled in another way.
        assert_allclose(second.coef_[1], first.coef_, rtol=0, atol=1e-10 if alpha == 0.0 else 0.2)
    assert first.terms_ == {1: ((0, None), (1, None), (2, None))}
    assert isinstance(first.coef_, np.ndarray)
    assert isinstance(first.alpha_, float)
    assert len(second.alpha_) == 2


@pytest.mark.parametrize(
    ("basis", "X", "n_terms"),
    [
        (PrimitiveBasis(3), phases(40, (6, 5), 3), (3, 3 + 2 * 2, 3 + 3 * 2)),
        (LegendreBasis(2, domain=(0, 1)), RNG.random((40, 6, 5)), (2, 2 + 2, 2 + 4)),
        (PrimitiveBasis([1, 2]), phases(40, (6, 5), 3), (2, 2 + 4, 2 + 6)),
        (FourierBasis(2, domain=(0, 1)), RNG.random((40, 6, 5)), (2, 2 + 2, 2 + 4)),
        (GivenStates(1), RNG.normal(size=(40, 6, 5, 1)), (1, 1 + 2, 1 + 4)),
    ],
    ids=["primitive", "legendre", "no unity", "complex", "one state"],
)
def test_fit__no_order_explains_less_and_no_state_follows_from_others(basis, X, n_terms):
    m = basis.discretize(X)
    y = np.stack([np.abs(m[..., -1]) * m[..., 0].real, m[..., -1].real], axis=-1)
    y = y * np.roll(y, 1, axis=1) + 0.1 * RNG.normal(size=y.shape)
    model = MKSLocalizationModel(basis, order=3).fit(X, y)
    assert tuple(len(model.terms_[order]) for order in (1, 2, 3)) == n_terms
    assert tuple(model.coef_[order].shape for order in (1, 2, 3)) == tuple((6, 5, n, 2) for n in n_terms)
    assert 0 < model.explained_[0] < model.explained_[1] < model.explained_[2] < 1
    assert_allclose(model.mean_response_, y.mean(axis=(0, 1, 2)))
    assert model.mean_response_.dtype == y.dtype


def test_fit__of_finite_elements_gains_with_each_order():
    X = make_microstructure(n_samples=60, size=(16, 16), grain_size=4, seed=2)
    y = solve_fields(X, **ELASTIC).strain
    model = MKSLocalizationModel(PrimitiveBasis(2), order=4).fit(X[:50], y[:50])
    errors = [np.abs(model.predict(X[50:], order=order) - y[50:])[..., 0].mean() for order in (1, 2, 3, 4)]
    assert errors[1] < 0.6 * errors[0]
    assert errors[3] < 0.35 * errors[0]
    scores = model.score_by_order(X[50:], y[50:])
    assert scores[0] < scores[1] < scores[3]
    assert model.score(X[50:], y[50:]) == scores[3]
    weights = np.arange(10.0)
    assert model.score_by_order(X[50:], y[50:], sample_weight=weights)[3] == model.score(
        X[50:], y[50:], sample_weight=weights
    )


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_fit__chunk_invariant(data):
    X = phases(11, (5, 6))
    y = np.random.default_rng(1).normal(size=(*X.shape, 2)) + X[..., None]
    rows = data.draw(sample_chunks(11))
    model = MKSLocalizationModel(PrimitiveBasis(2), order=3, alpha=1e-3)
    eager = clone(model).fit(X, y)
    lazy = clone(model).fit(chunked(X, rows), chunked(y, rows))
    for order in (1, 2, 3):
        assert_allclose(lazy.coef_[order], eager.coef_[order], rtol=0, atol=1e-10)
    assert_array_equal(eager.predict(chunked(X, rows)), eager.predict(X))


def test_model__computes_once_for_each_order_in_fit_and_never_in_predict():
    X = phases(12, (5, 6))
    y = np.random.default_rng(1).normal(size=(*X.shape, 2))
    lazy_X, lazy_y = (da.from_array(array, chunks=(4, *array.shape[1:])) for array in (X, y))
    model = MKSLocalizationModel(PrimitiveBasis(2), order=3)
    with computes(3):
        model.fit(lazy_X, lazy_y)
    with computes(0):
        predicted = model.predict(lazy_X)
    assert tasks_per_chunk(predicted) <= tasks_per_chunk(model.predict(lazy_X, order=1)) + 4
    with computes(1):
        scores = model.score_by_order(lazy_X, lazy_y)
    assert_allclose(scores, model.score_by_order(X, y))


def test_partial_fit__adds_samples_to_the_last_order():
    X = phases(60, (5, 6))
    y, _ = chain_of_orders(PrimitiveBasis(2), X, (5, 6), 3)
    model = MKSLocalizationModel(PrimitiveBasis(2), order=3).fit(X[:30], y[:30])
    first = dict(model.coef_)
    model.partial_fit(X[30:], y[30:])
    assert model.n_samples_seen_ == 60
    for order in (1, 2):
        assert_array_equal(model.coef_[order], first[order])
    # Lower orders of this response are exact on any samples, so that the result is that of all of them.
    whole = MKSLocalizationModel(PrimitiveBasis(2), order=3).fit(X, y)
    assert_allclose(model.predict(X), whole.predict(X), rtol=0, atol=1e-8 * abs(y).max())
    with pytest.raises(ValueError, match="got the order 2, but saw 3 before; use fit"):
        model.set_params(order=2).partial_fit(X, y)


def test_resize__predicts_larger_samples_by_the_padded_kernels_of_each_order():
    X, spatial = phases(40, (5, 6)), (9, 11)
    y = np.random.default_rng(1).normal(size=X.shape) + 1.0
    model = MKSLocalizationModel(PrimitiveBasis(2), order=3).fit(X, y).resize_coeff(spatial)
    large = phases(2, spatial, seed=5)
    m = PrimitiveBasis(2).discretize(large)
    p = None
    for order in (1, 2, 3):
        assert model.coef_[order].shape[:2] == spatial
        states = [m[..., h] if c is None else m[..., h] * (p - model.mean_response_) for h, c in model.terms_[order]]
        p = convolve(np.stack(states, axis=-1), model.coef_[order][..., None])[..., 0]
        assert_allclose(model.predict(large, order=order), p, rtol=0, atol=1e-10 * abs(p).max())


def test_gcv__chooses_a_ridge_for_each_order():
    X = phases(8, (6, 5))
    y, _ = chain_of_orders(PrimitiveBasis(2), X, (6, 5), 2)
    noisy = y + 0.3 * np.random.default_rng(2).normal(size=y.shape)
    unseen = phases(50, (6, 5), seed=7)
    truth, _ = chain_of_orders(PrimitiveBasis(2), unseen, (6, 5), 2)
    model = MKSLocalizationModel(PrimitiveBasis(2), order=2, alpha="gcv").fit(X, noisy)
    without = clone(model).set_params(alpha=0.0).fit(X, noisy)
    assert all(ridge > 0 for ridge in model.alpha_)
    assert without.alpha_ == (0.0, 0.0)
    assert model.score(unseen, truth) > without.score(unseen, truth)


@pytest.mark.parametrize("linear_model", [Ridge(1e-3, fit_intercept=False), Lasso(1e-4, fit_intercept=False)])
def test_linear_models__of_higher_orders(linear_model):
    X = phases(30, (4, 5))
    y = np.random.default_rng(1).normal(size=X.shape)
    model = MKSLocalizationModel(PrimitiveBasis(2), order=2, linear_model=linear_model).fit(X, y)
    assert model.explained_[1] > model.explained_[0] > 0
    if isinstance(linear_model, Ridge):
        plain = MKSLocalizationModel(PrimitiveBasis(2), order=2, alpha=1e-3).fit(X, y)
        assert_array_equal(model.coef_[2], plain.coef_[2])


def test_linear_models__that_need_all_rows():
    X = phases(7, (3, 3))
    y = np.random.default_rng(1).normal(size=X.shape)
    huber = HuberRegressor(epsilon=1e3, alpha=0.0, fit_intercept=False, tol=1e-12, max_iter=10_000)
    model = MKSLocalizationModel(PrimitiveBasis(2), order=2, linear_model=huber).fit(X, y)
    expected = MKSLocalizationModel(PrimitiveBasis(2), order=2).fit(X, y)
    assert_allclose(model.predict(X), expected.predict(X), rtol=0, atol=1e-3)


def test_fit__responses_that_do_not_vary_have_no_products():
    X = phases(20, (5, 6))
    y = np.stack([np.random.default_rng(1).normal(size=X.shape), np.full(X.shape, 3.0)], axis=-1)
    model = MKSLocalizationModel(PrimitiveBasis(2), order=3).fit(X, y)
    for order in (2, 3):
        constant = [at for at, (_, c) in enumerate(model.terms_[order]) if c == 1]
        assert abs(model.coef_[order][..., constant, :]).max() == 0.0
    assert_allclose(model.predict(X)[..., 1], 3.0)


def test_fit__a_small_contrast_is_not_lost_in_rounding():
    X = make_microstructure(n_samples=30, size=(12, 12), grain_size=3, seed=2)
    strain = solve_fields(X, **(ELASTIC | {"elastic_modulus": (1.0, 1.05), "tolerance": 1e-10})).strain
    for dtype in ("float64", "float32"):
        y = strain.astype(dtype)
        model = MKSLocalizationModel(PrimitiveBasis(2), order=4).fit(X[:25], y[:25])
        assert model.predict(X).dtype == dtype
        assert np.abs(model.predict(X[25:]) - y[25:]).max() < 2e-4 < 0.02 * y[..., 0].std()


def test_model__is_saved_and_pickled_with_all_orders(tmp_path):
    X = phases(20, (5, 6))
    y = np.random.default_rng(1).normal(size=(*X.shape, 2))
    model = MKSLocalizationModel(PrimitiveBasis(2), order=3, alpha=1e-4).fit(X, y).resize_coeff((7, 8))
    larger = phases(3, (7, 8))
    save_model(model, tmp_path / "m.zarr")
    for copy in (load_model(tmp_path / "m.zarr"), pickle.loads(pickle.dumps(model))):
        assert_array_equal(copy.predict(larger), model.predict(larger))
        assert copy.get_params()["order"] == 3
        assert copy.explained_ == model.explained_
        assert copy.alpha_ == model.alpha_
    assert "order" in model._repr_html_()


def test_fit__says_where_the_first_order_explains_little():
    X = phases(40, (5, 6))
    y = np.random.default_rng(1).normal(size=X.shape)
    with pytest.warns(
        UserWarning, match=r"the first order .* explains \d+% of the fluctuation of y .*order=4"
    ) as caught:
        MKSLocalizationModel(PrimitiveBasis(2)).fit(X, y)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MKSLocalizationModel(PrimitiveBasis(2), order=2).fit(X, y)
        MKSLocalizationModel(PrimitiveBasis(2)).fit(X, X + 0.1 * y)
        MKSLocalizationModel(PrimitiveBasis(2)).fit(X, np.ones(X.shape))


def test_plan__holds_the_states_of_each_order():
    X = da.zeros((40, 16, 16, 16), chunks=(10, 16, 16, 16), dtype="uint8")
    y = da.zeros((40, 16, 16, 16, 6), chunks=(10, 16, 16, 16, 6))
    plans = [plan(MKSLocalizationModel(PrimitiveBasis(2), order=order).fit, X, y) for order in (1, 2, 4)]
    assert [len(found.stages) for found in plans] == [2, 4, 8]
    assert plans[0].peak_bytes < plans[1].peak_bytes < plans[2].peak_bytes
    assert plans[2].layout["states of the last order"] == 2 + 2 * 6
    with pytest.raises(ValueError, match=r"calibration of kernels .* smallest memory_limit"):
        plan(MKSLocalizationModel(PrimitiveBasis(2), order=4).fit, X, y, memory_limit="620MiB")


@pytest.mark.parametrize("order", [0, 1.5, "2", True, None, 65])
def test_model__raises_on_orders(order):
    X = phases(4, (3, 4))
    with pytest.raises(ValueError, match="order must be a positive integer, at most 64, got"):
        MKSLocalizationModel(PrimitiveBasis(2), order=order).fit(X, X)


def test_model__raises_and_says_what_mends_it():
    X = phases(9, (3, 4))
    model = MKSLocalizationModel(PrimitiveBasis(2), order=2).fit(X, X)
    with pytest.raises(ValueError, match="order must be at most 2, the order of the fitted model, got 3"):
        model.predict(X, order=3)
    with pytest.raises(ValueError, match="coef_ can be assigned if order is 1, got order=2"):
        model.coef_ = np.zeros((3, 4, 2))
    with pytest.raises(TypeError):
        model.coef_[1] = 0.0
    with pytest.raises(ValueError, match="read-only"):
        model.coef_[2][0] = 0.0
    with pytest.raises(ValueError, match="lag must hold 2 integers, one for each axis, got 1"):
        model.pair_coeff(1, (0, 0))
    with pytest.raises(ValueError, match=r"other_lag must hold 2 integers, .* got \(0, 0.5\)"):
        model.pair_coeff((0, 0), (0, 0.5))
    with pytest.raises(ValueError, match="fitted with order=1; use order=2"):
        MKSLocalizationModel(PrimitiveBasis(2)).fit(X, X).pair_coeff((0, 0), (0, 0))
