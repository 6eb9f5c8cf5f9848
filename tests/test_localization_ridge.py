"""Influence kernels by linear models of scikit-learn, and a ridge that generalized cross-validation chooses."""

import dask
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.linear_model import (
    BayesianRidge,
    ElasticNet,
    HuberRegressor,
    Lasso,
    LassoCV,
    LassoLars,
    LinearRegression,
    LogisticRegression,
    MultiTaskElasticNet,
    MultiTaskLasso,
    OrthogonalMatchingPursuit,
    RANSACRegressor,
    Ridge,
    RidgeCV,
)
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from mksdask import (
    FourierBasis,
    GivenStates,
    LegendreBasis,
    MKSLocalizationModel,
    PrimitiveBasis,
    load_model,
    plan,
    save_model,
)
from mksdask.datasets import make_elastic_FE_strain_delta, make_elastic_FE_strain_random
from tests.helpers import chunked, computes, sample_chunks

EXACT = {"fit_intercept": False, "tol": 1e-13, "max_iter": 10**6}


def dense(model, m, y, *, together=True):
    """α[h; r] by a linear model that is fitted to all rows of each frequency as a real problem."""
    if not together:
        return np.concatenate([dense(model, m, y[..., c]) for c in range(y.shape[-1])], axis=-1)
    n_components = y.shape[-1] if y.ndim == m.ndim else 1
    axes = tuple(range(1, m.ndim - 1))
    M, P = np.fft.fftn(m, axes=axes), np.fft.fftn(y, axes=axes)
    n_states = M.shape[-1]
    A = np.empty((*M.shape[1:], n_components), dtype=complex)
    for k in np.ndindex(M.shape[1:-1]):
        states, targets = M[(slice(None), *k)], P[(slice(None), *k)]
        rows = np.block([[states.real, -states.imag], [states.imag, states.real]])
        found = clone(model).fit(rows, np.concatenate([targets.real, targets.imag]))
        coefficients = found.coef_.reshape(n_components, -1).T
        A[k] = coefficients[:n_states] + 1j * coefficients[n_states:]
    spatial = tuple(range(len(axes)))
    return np.fft.fftshift(np.fft.ifftn(A, axes=spatial), axes=spatial)


def problem(seed, basis, *, n_samples=12, spatial=(5, 6), n_components=2):
    """Samples, their states, and responses of random kernels with noise."""
    rng = np.random.default_rng(seed)
    X = rng.random((n_samples, *spatial)) if basis.domain == (0, 1) else rng.integers(0, 3, (n_samples, *spatial))
    m = basis.discretize(X)
    axes = tuple(range(1, 1 + len(spatial)))
    kernels = rng.normal(size=(*spatial, m.shape[-1], n_components)) / 4
    spectra = np.einsum("n...h,...hc->n...c", np.fft.fftn(m, axes=axes), np.fft.fftn(kernels, axes=range(len(spatial))))
    y = np.fft.ifftn(spectra, axes=axes).real
    return X, m, y + 0.5 * rng.normal(size=y.shape)


BASES = [PrimitiveBasis(3), LegendreBasis(3, domain=(0, 1)), FourierBasis(3, domain=(0, 1))]
IDS = ["primitive", "legendre", "complex"]


@pytest.mark.parametrize("basis", BASES, ids=IDS)
@pytest.mark.parametrize("ridge", [1e-3, 0.3, 40.0])
@pytest.mark.parametrize("n_samples", [1, 12])
def test_ridge__is_that_of_scikit_learn_on_all_rows(basis, ridge, n_samples):
    X, m, y = problem(0, basis, n_samples=n_samples)
    expected = dense(Ridge(alpha=ridge, fit_intercept=False, solver="svd"), m, y)
    model = MKSLocalizationModel(basis, linear_model=Ridge(ridge, fit_intercept=False))
    assert_allclose(model.fit(X, y).coef_, expected, rtol=0, atol=1e-10)
    assert model.alpha_ == ridge
    with computes(1):
        model.fit(chunked(X, (1,) * n_samples), chunked(y, (1,) * n_samples))
    assert_allclose(model.coef_, expected, rtol=0, atol=1e-10)
    assert_array_equal(model.fit(X, y).coef_, MKSLocalizationModel(basis, alpha=ridge).fit(X, y).coef_)


def test_ridge__of_each_component_its_own():
    X, m, y = problem(1, BASES[0])
    ridge = Ridge(alpha=np.array([0.1, 30.0]), fit_intercept=False)
    found = MKSLocalizationModel(BASES[0], linear_model=ridge).fit(X, y)
    assert_allclose(found.coef_, dense(ridge, m, y), rtol=0, atol=1e-10)
    assert found.alpha_ is None


def test_linear_regression__gives_the_kernels_of_least_norm():
    X, _, y = problem(2, BASES[0], n_samples=2)
    model = MKSLocalizationModel(BASES[0], linear_model=LinearRegression(fit_intercept=False)).fit(X, y)
    assert_array_equal(model.coef_, MKSLocalizationModel(BASES[0]).fit(X, y).coef_)
    assert model.alpha_ == 0.0


@pytest.mark.parametrize("basis", [*BASES, PrimitiveBasis(4)], ids=[*IDS, "even"])
@pytest.mark.parametrize(
    "linear_model",
    [
        Lasso(0.3, **EXACT),
        ElasticNet(0.3, l1_ratio=0.3, **EXACT),
        MultiTaskLasso(0.3, **EXACT),
        MultiTaskElasticNet(0.3, l1_ratio=0.3, **EXACT),
    ],
    ids=lambda model: type(model).__name__,
)
def test_lasso__on_factors_is_that_of_scikit_learn_on_all_rows(basis, linear_model):
    X, m, y = problem(3, basis, spatial=(4, 5))
    expected = dense(linear_model, m, y)
    model = MKSLocalizationModel(basis, linear_model=linear_model)
    with computes(1):
        model.fit(chunked(X, (5, 4, 3)), chunked(y, (5, 4, 3)))
    assert_allclose(model.coef_, expected, rtol=0, atol=1e-8)
    assert np.abs(expected - MKSLocalizationModel(basis).fit(X, y).coef_).max() > 1e-3
    parts = clone(model).fit(X[:5], y[:5]).partial_fit(X[5:], y[5:])
    assert_allclose(parts.coef_, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    "linear_model",
    [
        OrthogonalMatchingPursuit(n_nonzero_coefs=2, fit_intercept=False),
        BayesianRidge(fit_intercept=False, tol=1e-12, max_iter=10_000),
        LassoLars(0.1, fit_intercept=False),
    ],
    ids=lambda model: type(model).__name__,
)
def test_other_models__are_fitted_to_all_rows_in_memory(linear_model):
    X, m, y = problem(4, BASES[1])
    expected = dense(linear_model, m, y, together=False)
    model = MKSLocalizationModel(BASES[1], linear_model=linear_model)
    rows = (5, 4, 3)
    with computes(1):
        model.fit(chunked(X, rows), chunked(y, rows))
    for found in (
        model,
        clone(model).fit(X, y),
        clone(model).fit(X[:5], y[:5]).partial_fit(X[5:], chunked(y[5:], (7,))),
    ):
        assert_allclose(found.coef_, expected, rtol=0, atol=1e-10)
        assert found.n_samples_seen_ == 12
        assert found.alpha_ is None
        found.partial_fit(X[:0], y[:0])
        assert_allclose(found.coef_, expected, rtol=0, atol=1e-10)


def test_other_models__are_planned_and_refused_above_the_limit():
    X, y = np.zeros((400, 32, 32)), np.zeros((400, 32, 32))
    lazy = chunked(X, (50,) * 8), chunked(y, (50,) * 8)
    model = MKSLocalizationModel(LegendreBasis(3, domain=(0, 1)), linear_model=HuberRegressor(fit_intercept=False))
    spectra = 400 * 3 * 32 * 17 * 16
    found = plan(model.fit, *lazy, memory_limit="2GiB")
    assert found.layout["spectra of samples"] == 400
    assert 2 * spectra <= found.peak_bytes < 3 * spectra
    assert found.result_bytes > spectra
    message = (
        r"HuberRegressor\(fit_intercept=False\), which needs the spectra of all 400 samples at once, needs .* Lasso"
    )
    for arguments in (lazy, (X, y)):
        with pytest.raises(ValueError, match=message):
            plan(model.fit, *arguments, memory_limit="580MiB")
        with dask.config.set({"mksdask.memory-limit": "580MiB"}), computes(0), pytest.raises(ValueError, match=message):
            model.fit(*arguments)
    model.set_params(linear_model=Lasso(fit_intercept=False))
    assert plan(model.fit, *lazy, memory_limit="580MiB").peak_bytes < spectra


def test_partial_fit__refuses_a_linear_model_that_needs_other_data():
    X, _, y = problem(5, BASES[0])
    model = MKSLocalizationModel(BASES[0], linear_model=Lasso(**EXACT)).fit(X, y)
    lasso = model.coef_
    model.set_params(linear_model=BayesianRidge(fit_intercept=False))
    with pytest.raises(ValueError, match="a linear_model that needs spectra, but saw factors before; use fit"):
        model.partial_fit(X, y)
    # Factors serve any of their models, without the samples.
    model.set_params(linear_model=Ridge(2.0, fit_intercept=False)).partial_fit(X[:0], y[:0])
    assert_allclose(model.coef_, MKSLocalizationModel(BASES[0], alpha=2.0).fit(X, y).coef_, rtol=0, atol=1e-13)
    model.set_params(linear_model=Lasso(**EXACT)).partial_fit(X[:0], y[:0])
    assert_allclose(model.coef_, lasso, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"linear_model": Ridge()}, ValueError, r"set_params\(fit_intercept=False\)"),
        ({"linear_model": BayesianRidge()}, ValueError, "fit_intercept=False"),
        ({"linear_model": Lasso(fit_intercept=False, positive=True)}, ValueError, "positive=False"),
        ({"linear_model": RidgeCV(fit_intercept=False)}, ValueError, "alpha='gcv', or GridSearchCV"),
        ({"linear_model": LassoCV(fit_intercept=False)}, ValueError, "alpha='gcv', or GridSearchCV"),
        ({"linear_model": Ridge}, TypeError, "linear_model must be a linear model"),
        ({"linear_model": LogisticRegression()}, TypeError, "linear_model must be a linear model"),
        ({"linear_model": make_pipeline(Ridge(fit_intercept=False))}, TypeError, "must have coef_ of 6 features"),
        ({"linear_model": RANSACRegressor(random_state=0)}, TypeError, "must have coef_ of 6 features"),
        ({"linear_model": Ridge(fit_intercept=False), "alpha": 1.0}, ValueError, "alpha must be 0, got 1.0"),
        ({"linear_model": Ridge(fit_intercept=False), "alpha": "gcv"}, ValueError, "alpha must be 0, got 'gcv'"),
        ({"alpha": "loo"}, ValueError, "alpha must be a number from 0, got 'loo'; alpha='gcv' chooses it"),
    ],
)
def test_model__raises_and_says_what_mends_it(options, error, message):
    X, _, y = problem(6, BASES[0])
    with pytest.raises(error, match=message):
        MKSLocalizationModel(BASES[0], **options).fit(X, y)


def test_linear_model__is_a_parameter_as_any_other(tmp_path):
    X, strain = make_elastic_FE_strain_random(n_samples=12, size=(8, 7))
    model = MKSLocalizationModel(PrimitiveBasis(2), linear_model=Ridge(fit_intercept=False))
    assert clone(model).set_params(linear_model__alpha=7.0).get_params()["linear_model__alpha"] == 7.0
    assert model.linear_model.alpha == 1.0
    flat = X.reshape(12, -1), strain.reshape(12, -1)
    search = GridSearchCV(model, {"linear_model__alpha": [1e-9, 1e3]}, cv=3, scoring="r2").fit(*flat, size=(8, 7))
    assert search.best_params_ == {"linear_model__alpha": 1e-9}
    assert not hasattr(model.linear_model, "coef_")
    assert model.fit(X, strain).resize_coeff((12, 9)).predict(np.zeros((1, 12, 9))).shape == (1, 12, 9)
    for linear_model in (Ridge(0.5, fit_intercept=False), Lasso(1e-9, fit_intercept=False, tol=1e-2, random_state=3)):
        model.set_params(linear_model=linear_model).fit(X, strain)
        save_model(model, tmp_path / "model.zarr")
        loaded = load_model(tmp_path / "model.zarr")
        assert_array_equal(loaded.coef_, model.coef_)
        assert loaded.alpha_ == model.alpha_
        assert loaded.get_params()["linear_model"].get_params() == linear_model.get_params()
        assert loaded.fit(X, strain).score(X, strain) == model.score(X, strain)
    model.set_params(linear_model=BayesianRidge(fit_intercept=False)).fit(X, strain)
    with pytest.raises(TypeError, match=r"linear_model is of sklearn.*BayesianRidge, which cannot be saved"):
        save_model(model, tmp_path / "other.zarr")


def gcv(m, y, ridge):
    """GCV(λ) of all samples, voxels and components, from the hat matrix of each frequency."""
    axes = tuple(range(1, m.ndim - 1))
    M, P = np.fft.fftn(m, axes=axes), np.fft.fftn(y, axes=axes)
    residual = trace = 0.0
    for k in np.ndindex(M.shape[1:-1]):
        states, targets = M[(slice(None), *k)], P[(slice(None), *k)]
        hat = states @ np.linalg.solve(states.conj().T @ states + ridge * np.eye(states.shape[1]), states.conj().T)
        residual += (np.abs(targets - hat @ targets) ** 2).sum()
        trace += np.trace(hat).real
    n = len(m) * np.prod(m.shape[1:-1])
    return residual / n / (1 - trace / n) ** 2


@pytest.mark.parametrize("basis", BASES, ids=IDS)
@pytest.mark.parametrize(("n_samples", "spatial"), [(5, (5, 6)), (12, (7,)), (2, (4, 3, 3)), (30, (6, 5))])
def test_gcv__chooses_the_ridge_of_the_dense_criterion(basis, n_samples, spatial):
    X, m, y = problem(7, basis, n_samples=n_samples, spatial=spatial)
    model = MKSLocalizationModel(basis, alpha="gcv").fit(X, y, size=spatial)
    ridges = 10.0 ** np.arange(-3, 6, 1 / 16)
    values = np.array([gcv(m, y, ridge) for ridge in ridges])
    assert 0 < values.argmin() < len(values) - 1
    assert model.alpha_ == pytest.approx(ridges[values.argmin()], rel=1e-12)
    assert_array_equal(model.coef_, MKSLocalizationModel(basis, alpha=model.alpha_).fit(X, y, size=spatial).coef_)


def test_gcv__predicts_unseen_samples_about_as_well_as_the_best_ridge():
    rng = np.random.default_rng(8)
    phases = {"elastic_modulus": (100, 150), "poissons_ratio": (0.3, 0.3), "size": (15, 15)}
    X, strain = make_elastic_FE_strain_random(n_samples=8, **phases)
    noisy = strain + 2.0 * strain.std() * rng.normal(size=strain.shape)
    unseen, truth = make_elastic_FE_strain_random(n_samples=20, **phases)
    errors = [
        np.square(MKSLocalizationModel(PrimitiveBasis(2), alpha=ridge).fit(X, noisy).predict(unseen) - truth).mean()
        for ridge in (0.0, *10.0 ** np.arange(-2, 6, 0.25))
    ]
    found = MKSLocalizationModel(PrimitiveBasis(2), alpha="gcv").fit(X, noisy)
    error = np.square(found.predict(unseen) - truth).mean()
    assert error < 1.05 * min(errors)
    assert error < 0.7 * errors[0]


def test_gcv__needs_no_ridge_without_noise():
    rng = np.random.default_rng(9)
    X = rng.integers(0, 3, (20, 6, 7))
    known = MKSLocalizationModel(PrimitiveBasis(3))
    known.coef_ = rng.normal(size=(6, 7, 3))
    assert known.alpha_ is None
    model = MKSLocalizationModel(PrimitiveBasis(3), alpha="gcv").fit(X, known.predict(X))
    assert model.alpha_ < 1e-12
    assert_allclose(model.predict(X), known.predict(X), atol=1e-9)
    single = MKSLocalizationModel(PrimitiveBasis(3), alpha="gcv").fit(X, known.predict(X).astype(np.float32))
    assert single.alpha_ < 1e-4
    assert_allclose(single.predict(X), known.predict(X), atol=1e-4)


@pytest.mark.parametrize("n_states", [1, 2])
def test_gcv__of_problems_without_data_or_noise_alone(n_states):
    rng = np.random.default_rng(10)
    basis = PrimitiveBasis(n_states)
    X, noise = rng.integers(0, n_states, (9, 5, 4)), rng.normal(size=(9, 5, 4))
    assert np.isfinite(MKSLocalizationModel(basis, alpha="gcv").fit(X, noise).coef_).all()
    nothing = MKSLocalizationModel(basis, alpha="gcv").fit(X, 0 * noise)
    assert_array_equal(nothing.coef_, 0.0)
    assert MKSLocalizationModel(GivenStates(2), alpha="gcv").fit(np.zeros((9, 5, 4, 2)), noise).alpha_ == 0.0
    # As many unknowns as rows: without a ridge, the noise would be fitted.
    delta = make_elastic_FE_strain_delta(size=(5, 5))
    assert MKSLocalizationModel(PrimitiveBasis(2), alpha="gcv").fit(*delta).score(*delta) > 0.9


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_gcv__chunk_invariant(data):
    basis = data.draw(st.sampled_from(BASES))
    X, _, y = problem(11, basis, n_samples=9)
    whole = MKSLocalizationModel(basis, alpha="gcv").fit(X, y)
    rows = data.draw(sample_chunks(9))
    parts = MKSLocalizationModel(basis, alpha="gcv")
    with computes(1):
        parts.fit(chunked(X, rows), chunked(y, rows))
    assert parts.alpha_ == whole.alpha_
    assert_allclose(parts.coef_, whole.coef_, rtol=0, atol=1e-12)
    cut = data.draw(st.integers(1, 9))
    parts.fit(X[:cut], y[:cut]).partial_fit(chunked(X, rows)[cut:], chunked(y, rows)[cut:])
    assert parts.alpha_ == whole.alpha_
    assert_allclose(parts.coef_, whole.coef_, rtol=0, atol=1e-12)


def test_gcv__is_saved_and_needs_no_samples_again(tmp_path):
    X, _, y = problem(12, BASES[1])
    chosen = MKSLocalizationModel(BASES[1], alpha="gcv").fit(X, y)
    later = MKSLocalizationModel(BASES[1]).fit(X, y).set_params(alpha="gcv").partial_fit(X[:0], y[:0])
    assert later.alpha_ == chosen.alpha_ > 0
    assert_array_equal(later.coef_, chosen.coef_)
    save_model(chosen, tmp_path / "model.zarr")
    loaded = load_model(tmp_path / "model.zarr")
    assert (loaded.alpha, loaded.alpha_) == ("gcv", chosen.alpha_)
    assert_array_equal(loaded.predict(X), chosen.predict(X))
    assert "alpha" in chosen._repr_html_()
    search = GridSearchCV(chosen, {"alpha": [0.0, "gcv"]}, cv=3, scoring="r2")
    assert search.fit(X.reshape(12, -1), y[..., 0].reshape(12, -1), size=(5, 6)).best_params_ == {"alpha": "gcv"}


def test_gcv__plan_holds_the_singular_values():
    X = chunked(np.zeros((8, 32, 32, 32), np.uint8), (2,) * 4)
    plain, chosen = (
        plan(MKSLocalizationModel(PrimitiveBasis(5), alpha=alpha).fit, X, X.astype(float), memory_limit="2GiB")
        for alpha in (0.0, "gcv")
    )
    assert chosen.peak_bytes == plain.peak_bytes
    assert 0 < chosen.result_bytes - plain.result_bytes < 64 * 4 * 32 * 32 * 17
