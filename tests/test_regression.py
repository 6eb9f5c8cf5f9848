"""Linkages from scores to properties against scikit-learn and closed forms."""

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import t
from sklearn.base import clone
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Matern, WhiteKernel
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

from mksdask import plan
from mksdask.regression import KernelRegressor, LeastSquares, kernel_regressor, next_samples, polynomial_regression
from mksdask.regression.evidence import leave_one_out, spectrum_of
from mksdask.regression.kernels import CovarianceKernel
from mksdask.regression.landmarks import LandmarkFeatures, absorb, factor_of_rows, spectrum_of_factor
from tests.conftest import some_slow
from tests.helpers import chunked, computes, sample_chunks


def data(n, n_components=4, n_outputs=2, noise=0.02, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.uniform(-3, 3, size=(n, n_components)) * 0.5 ** np.arange(n_components)
    y = np.stack([np.sin(X[:, 0]) + X[:, 1] ** 2, np.exp(-(X[:, 0] ** 2)) * 5.0 + 100.0], axis=1)[:, :n_outputs]
    return X, y + noise * rng.normal(size=y.shape)


@pytest.mark.parametrize("kernel", ["rbf", "polynomial", "matern"])
@pytest.mark.parametrize("n_outputs", [1, 2])
def test_kernel_regressor__equals_scikit_learn_where_exact(kernel, n_outputs):
    X, y = data(120, n_outputs=n_outputs)
    alpha, gamma = 1e-2, 0.3
    scale = X.std(axis=0).max()
    ours = KernelRegressor(kernel, alpha=alpha, gamma=gamma, degree=2, coef0=0.5).fit(X[:80], y[:80])
    assert ours.scale_ == X[:80].std(axis=0).max()
    scale = ours.scale_
    if kernel == "matern":
        oracle = KernelRidge(alpha=alpha, kernel=Matern(length_scale=(2 * gamma) ** -0.5, nu=2.5))
    else:
        oracle = KernelRidge(alpha=alpha, kernel=kernel, gamma=gamma, degree=2, coef0=0.5)
    mean = y[:80].mean(axis=0)
    oracle.fit(X[:80] / scale, y[:80] - mean)
    assert_allclose(ours.predict(X), oracle.predict(X / scale) + mean, atol=1e-8)
    column = KernelRegressor(kernel, alpha=alpha, gamma=gamma, degree=2, coef0=0.5).fit(X[:80], y[:80, 0])
    assert column.predict(X).shape == (120,)
    assert_allclose(column.predict(X), ours.predict(X)[:, 0], atol=1e-8)


def test_kernel_regressor__spread_and_likelihood_are_those_of_a_gaussian_process():
    X, y = data(60, n_outputs=1)
    y = y[:, 0]
    alpha, gamma = 1e-2, 0.4
    ours = KernelRegressor(alpha=alpha, gamma=gamma).fit(X, y)
    scaled = X / ours.scale_
    # Of a process whose variance is s², the noise that of a new measurement.
    rbf = ConstantKernel(1.0, "fixed") * RBF((2 * gamma) ** -0.5, "fixed") + WhiteKernel(alpha, "fixed")
    oracle = GaussianProcessRegressor(rbf, optimizer=None, alpha=0.0).fit(scaled, y - y.mean())
    rng = np.random.default_rng(5)
    new = rng.normal(size=(30, 4)) * 3
    spread, expected = ours.predict(new, return_std=True)[1], oracle.predict(new / ours.scale_, return_std=True)[1]
    assert_allclose(spread, expected * ours.spread_, rtol=1e-6)
    variance = np.mean(np.linalg.solve(rbf(scaled), y - y.mean()) * (y - y.mean()))
    of_variance = ConstantKernel(variance, "fixed") * RBF((2 * gamma) ** -0.5, "fixed") + WhiteKernel(
        alpha * variance, "fixed"
    )
    exact = GaussianProcessRegressor(of_variance, optimizer=None, alpha=0.0).fit(scaled, y - y.mean())
    matrix = CovarianceKernel("rbf", gamma)(scaled, scaled)
    found = spectrum_of(matrix, (y - y.mean())[:, None]).log_likelihood(np.array([alpha]))[0]
    assert_allclose(found - len(y) * (1 + np.log(2 * np.pi)) / 2, exact.log_marginal_likelihood_value_, rtol=1e-8)


def test_kernel_regressor__leave_one_out_and_calibration_match_refits():
    X, y = data(40)
    options = {"alpha": 3e-2, "gamma": 0.2}
    model = KernelRegressor(**options).fit(X, y)
    scaled, target = X / model.scale_, (y - y.mean(axis=0)) / y.std(axis=0)
    errors, ratios = [], []
    kernel = CovarianceKernel("rbf", 0.2)
    groups = np.arange(40) // 8
    for rows in [np.array([i]) for i in range(40)] + [np.flatnonzero(groups == g) for g in range(5)]:
        rest = np.setdiff1d(np.arange(40), rows)
        inverse = np.linalg.inv(kernel(scaled[rest], scaled[rest]) + 3e-2 * np.eye(len(rest)))
        across = kernel(scaled[rows], scaled[rest])
        errors.append(target[rows] - across @ inverse @ target[rest])
        variance = kernel.diagonal(scaled[rows]) + 3e-2 - np.einsum("ij,jk,ik->i", across, inverse, across)
        ratios.append(errors[-1] ** 2 / variance[:, None])
    one, group = np.concatenate(errors[:40]), np.concatenate(ratios[40:])
    found = leave_one_out(kernel(scaled, scaled), target, np.array([3e-2]))[0]
    assert_allclose(found, -20 * np.log(np.mean(one**2, axis=0)).sum(), rtol=1e-8)
    assert_allclose(model.spread_, np.sqrt(np.concatenate(ratios[:40]).mean(axis=0)) * y.std(axis=0), rtol=1e-8)
    by_group = KernelRegressor(**options).fit(X, y, groups=groups)
    # Five groups: Student's t of four degrees of freedom, whose variance is 2.
    assert_allclose(by_group.spread_, np.sqrt(t(4).var() * group.mean(axis=0)) * y.std(axis=0), rtol=1e-8)


@pytest.mark.parametrize("criterion", ["likelihood", "loo"])
@pytest.mark.parametrize(
    "kernel", some_slow(["rbf", "polynomial", "matern", lambda a, b: np.exp(a @ b.T / 4)], ["rbf", "polynomial"])
)
def test_kernel_regressor__auto_finds_parameters_that_predict(kernel, criterion):
    X, y = data(300)
    new, truth = data(300, seed=1)
    model = KernelRegressor(kernel, criterion=criterion, degree=4).fit(X, y)
    mean, spread = model.predict(new, return_std=True)
    assert r2_score(truth, mean) > (0.9 if kernel == "polynomial" else 0.98)
    assert np.mean(np.abs(truth - mean) < 1.645 * spread) == pytest.approx(0.9, abs=0.07)


@pytest.mark.parametrize("criterion", ["likelihood", "loo"])
def test_kernel_regressor__chooses_alpha_of_all_samples(criterion, monkeypatch):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 2))
    y = np.sin(X[:, 0]) + 0.1 * rng.normal(size=60)
    monkeypatch.setattr(kernel_regressor, "SELECTION_SAMPLES", 25)
    model = KernelRegressor("rbf", criterion=criterion, random_state=0).fit(X, y)
    # With gamma from some samples, alpha is the best of the spectrum of all.
    kernel = CovarianceKernel("rbf", model.gamma_, 3.0, 1.0)
    scaled, centred = X / X.std(axis=0).max(), ((y - y.mean()) / y.std())[:, None]
    spectrum = spectrum_of(kernel(scaled, scaled), centred)
    ridges = spectrum.ridges()
    merits = (
        leave_one_out(kernel(scaled, scaled), centred, ridges)
        if criterion == "loo"
        else spectrum.log_likelihood(ridges)
    )
    assert model.alpha_ == ridges[merits.argmax()]


def test_kernel_regressor__factor_of_landmarks_squares_nothing():
    X, y = data(200)
    y = y - y.mean(axis=0)
    features = LandmarkFeatures.of(CovarianceKernel("rbf", 0.3), X[:30])
    phi = features(X)
    assert_allclose(phi[:30] @ phi[:30].T, CovarianceKernel("rbf", 0.3)(X[:30], X[:30]), atol=1e-10)
    parts = [factor_of_rows(features, X[rows], y[rows]) for rows in (slice(90), slice(90, 91), slice(91, 200))]
    factor = absorb(absorb(parts[0], parts[1]), parts[2])
    centred = phi - phi.mean(axis=0)
    spectrum = spectrum_of_factor(features, factor, 200, 1.0)
    assert_allclose(np.sqrt(spectrum.values), np.linalg.svd(centred, compute_uv=False), rtol=1e-7, atol=1e-12)
    ridges = np.array([1e-4, 1e-1])
    for ridge, found in zip(ridges, spectrum.log_likelihood(ridges), strict=True):
        covariance = centred @ centred.T + ridge * np.eye(200)
        variance = np.einsum("ij,ik,kj->j", y, np.linalg.inv(covariance), y) / 200
        expected = -100 * np.log(variance).sum() - np.linalg.slogdet(covariance)[1]
        assert_allclose(found, expected, rtol=1e-7)


def test_kernel_regressor__landmarks_that_are_all_samples_are_exact_but_for_the_constant():
    X, y = data(80)
    y -= y.mean(axis=0)
    options = {"alpha": 1e-2, "gamma": 0.5}
    exact = KernelRegressor(**options).fit(X, y)
    found = KernelRegressor(n_landmarks=80, **options).fit(X, y)
    # The constant that is not shrunk, by generalized least squares.
    scaled = X / exact.scale_
    matrix = CovarianceKernel("rbf", 0.5)(scaled, scaled) + 1e-2 * np.eye(80)
    ones = np.linalg.solve(matrix, np.ones(80))
    constant = ones @ y / ones.sum()
    new = data(20, seed=1)[0]
    across = CovarianceKernel("rbf", 0.5)(new / exact.scale_, scaled)
    assert_allclose(found.predict(new), across @ np.linalg.solve(matrix, y - constant) + constant, atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(chunks=sample_chunks(300), seed=st.integers(0, 9))
def test_kernel_regressor__chunk_invariant(chunks, seed):
    X, y = data(300, seed=seed)
    options = {"n_landmarks": 40, "gamma": 0.2}
    eager = KernelRegressor(**options).fit(X, y)
    lazy = KernelRegressor(**options).fit(chunked(X, chunks), y)
    again = KernelRegressor(**options).fit(chunked(X, chunks), chunked(y, chunks))
    assert_allclose(lazy.landmarks_, eager.landmarks_)
    assert lazy.alpha_ == pytest.approx(eager.alpha_)
    for found, same, expected in zip(
        *(model.predict(chunked(X, chunks), return_std=True) for model in (lazy, again, eager)), strict=True
    ):
        assert isinstance(found, da.Array)
        assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
        assert_array_equal(found, same)


@pytest.mark.slow
def test_kernel_regressor__nystroem_comes_near_exact():
    X, y = data(1500, noise=0.05)
    new, truth = data(1000, seed=1, noise=0.0)
    exact = KernelRegressor().fit(X, y)
    found = KernelRegressor(alpha=exact.alpha_, gamma=exact.gamma_, n_landmarks=400).fit(X, y)
    errors = [np.sqrt(np.mean((model.predict(new) - truth) ** 2)) for model in (exact, found)]
    assert errors[1] < 1.01 * errors[0]
    mean, spread = found.predict(X, return_std=True)
    assert np.mean(np.abs(y - mean) < 1.645 * spread) == pytest.approx(0.9, abs=0.05)


def test_kernel_regressor__computes_as_often_as_it_says_and_plans():
    X, y = data(300)
    lazy = chunked(X, (100, 200))
    model = KernelRegressor(n_landmarks=20)
    with computes(3):
        model.fit(lazy, y)
    with computes(0):
        model.predict(lazy, return_std=True)
    scores = da.zeros((1_000_000, 60), chunks=(20_000, 60))
    planned = plan(KernelRegressor().fit, scores, np.zeros(1_000_000), memory_limit="1GiB")
    assert planned.layout["landmarks"] == 1000
    assert planned.peak_bytes < 2**28
    with pytest.raises(ValueError, match="fewer n_landmarks"):
        plan(KernelRegressor(n_landmarks=4000).fit, scores, np.zeros(1_000_000), memory_limit="1GiB")


def test_kernel_regressor__posterior_is_what_conditioning_leaves():
    X, y = data(50)
    pool = data(12, seed=2)[0]
    for options in ({}, {"n_landmarks": 50}):
        model = KernelRegressor(alpha=1e-2, gamma=0.3, **options).fit(X, y)
        covariance, noise = model.posterior(pool)
        assert noise == 1e-2
        assert_allclose(covariance, covariance.T, atol=1e-10)
        spread = model.predict(pool, return_std=True)[1]
        assert_allclose(np.sqrt(covariance.diagonal() + noise)[:, None] * model.spread_, spread, rtol=1e-6)


def test_next_samples__least_squares_knows_least_of_the_pool_without_them():
    X, y = data(30)
    pool = data(25, seed=2)[0]
    linker = polynomial_regression(2).fit(X, y)

    def left(chosen):
        """Sum of the variances of predictions, over s², once these were measured: by fitting again."""
        more = clone(linker).fit(np.concatenate([X, pool[chosen]]), np.concatenate([y, np.zeros((len(chosen), 2))]))
        return more[-1].leverage(more[:-1].transform(pool)).sum()

    expected = []
    for _ in range(4):
        expected.append(min(set(range(25)) - set(expected), key=lambda i: left([*expected, i])))
    assert_array_equal(next_samples(linker, pool, 4), expected)


def test_next_samples__a_process_is_conditioned_on_each():
    X, y = data(30)
    pool = data(25, seed=2)[0]
    linker = KernelRegressor(alpha=1e-2, gamma=0.3).fit(X, y)
    covariance, noise = linker.posterior(pool)
    expected = []
    for _ in range(6):
        after = [covariance - np.outer(column, column) / (column[i] + noise) for i, column in enumerate(covariance)]
        expected.append(min(set(range(25)) - set(expected), key=lambda i: after[i].trace()))
        covariance = after[expected[-1]]
    assert_array_equal(next_samples(linker, pool, 6), expected)


def test_next_samples__large_pools_are_drawn_from_and_bad_arguments_refused():
    X, y = data(30)
    linker = KernelRegressor(alpha=1e-2, gamma=0.3).fit(X, y)
    chosen = next_samples(linker, data(5000, seed=3)[0], 20)
    assert len(set(chosen)) == 20
    assert chosen.max() > 4000
    for n in (0, 31, True, 2.0):
        with pytest.raises(ValueError, match="n must be an integer between 1 and 30"):
            next_samples(linker, X, n)
    with pytest.raises(TypeError, match="property_linker KernelRidge"):
        next_samples(KernelRidge().fit(X, y), X, 2)


@pytest.mark.parametrize(
    ("options", "call", "message"),
    [
        ({"kernel": "linear"}, {}, "kernel must be one of rbf, polynomial, matern"),
        ({"alpha": 0.0}, {}, "alpha must be a positive number or 'auto', got 0.0"),
        ({"gamma": "scale"}, {}, "gamma must be a positive number or 'auto', got 'scale'"),
        ({"degree": -1}, {}, "degree must be a positive number"),
        ({"coef0": -1}, {}, "coef0 must be a number from 0"),
        ({"criterion": "aic"}, {}, "criterion must be 'likelihood' or 'loo', got 'aic'"),
        ({"n_landmarks": 0}, {}, "n_landmarks must be a positive integer or None, got 0"),
        ({"n_landmarks": 5}, {"groups": np.zeros(20)}, "groups need an exact fit"),
        ({}, {"groups": np.zeros(20)}, "two groups or more"),
        ({}, {"y": np.zeros(19)}, "inconsistent numbers"),
        ({}, {"X": np.full((20, 2), np.nan)}, "NaN"),
        ({"n_landmarks": 5}, {"X": da.zeros((20, 2), chunks=(10, 1))}, r"rechunk\(\{0: 10, 1: -1\}\)"),
        ({"n_landmarks": 5}, {"X": da.full((20, 2), np.nan, chunks=(10, 2))}, "NaN"),
        (
            {"n_landmarks": 5},
            {"X": da.zeros((20, 2), chunks=(10, 2)), "y": np.zeros(19)},
            "one entry for each of the 20",
        ),
    ],
)
def test_kernel_regressor__raises_on_bad_input(options, call, message):
    arguments = {"X": np.zeros((20, 2)), "y": np.zeros(20)} | call
    with pytest.raises(ValueError, match=message):
        KernelRegressor(**options).fit(**arguments)


def test_kernel_regressor__of_what_does_not_vary():
    model = KernelRegressor().fit(np.zeros((5, 2)), np.full(5, 3.0))
    mean, spread = model.predict(np.ones((2, 2)), return_std=True)
    assert_allclose(mean, 3.0)
    assert np.isfinite(spread).all()
    one = KernelRegressor().fit([[1.0]], [2.0])
    assert one.predict([[1.0]]) == pytest.approx(2.0)
    assert clone(model).get_params() == model.get_params()


def test_least_squares__spread_is_that_of_the_textbook():
    X, y = data(40)
    found = LeastSquares().fit(X, y)
    oracle = LinearRegression().fit(X, y)
    new = data(10, seed=3)[0]
    mean, spread = found.predict(new, return_std=True)
    assert_allclose(mean, oracle.predict(new))
    rows, more = (np.concatenate([np.ones((len(part), 1)), part], axis=1) for part in (X, new))
    inverse = np.linalg.inv(rows.T @ rows)
    leverage = np.einsum("ij,jk,ik->i", rows, inverse, rows)
    s = np.sqrt(np.mean((y - oracle.predict(X)) ** 2 / (1 - leverage)[:, None], axis=0))
    assert_allclose(spread, np.sqrt(1 + np.einsum("ij,jk,ik->i", more, inverse, more))[:, None] * s)
    assert_allclose(found.posterior(new)[0], more @ inverse @ more.T, atol=1e-10)
    line = polynomial_regression(2).fit(X, y[:, 0])
    assert [part.shape for part in line.predict(new, return_std=True)] == [(10,), (10,)]
