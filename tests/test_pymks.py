"""Values that the documentation of PyMKS 0.4 prints for its own functions, and sections 5.1 and 5.2 of its paper.

The listings of the paper stand here as its users type them, for fewer and smaller samples. They differ only where time
has changed: the name of the package, `sklearn.model_selection`, arguments of `fit` that go to the `fit` of a search
because scikit-learn no longer has `fit_params`, `cv_results_` instead of `grid_scores_`, and `seed` instead of
`np.random.seed`.
"""

import warnings

import dask
import dask.array as da
import numpy as np
import pytest
from joblib import parallel_backend
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.decomposition import PCA as SklearnPCA
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split

from mksdask import MKSHomogenizationModel, MKSLocalizationModel, MKSStructureAnalysis, PrimitiveBasis
from mksdask.compute.recent import RECENT
from mksdask.datasets import (
    ElasticFESimulation,
    make_delta_microstructures,
    make_elastic_FE_strain_delta,
    make_elastic_FE_strain_random,
    make_elastic_stress_random,
    solve_fields,
)
from mksdask.stats import TwoPointStatistics, correlate
from mksdask.stats.kernel import CorrelationKernel
from mksdask.tools import (
    draw_component_variance,
    draw_components_scatter,
    draw_goodness_of_fit,
    draw_gridscores,
    draw_gridscores_matrix,
    draw_microstructures,
    draw_strains_compare,
)
from tests.conftest import some_slow

X = np.array([[[1, 1, 0], [0, 0, 1], [1, 1, 0]]])


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ((1, 1), [[3, 2, 3], [2, 5, 2], [3, 2, 3]]),
        ((1, 0), [[2, 3, 2], [3, 0, 3], [2, 3, 2]]),
    ],
)
def test_correlations__auto_correlation_and_cross_correlation(pair, expected):
    options = {"periodic_axes": [0, 1], "correlations": [pair]}
    assert_allclose(correlate(X, PrimitiveBasis(2), **options)[0, ..., 0], np.array(expected) / 9, rtol=1e-6)
    flat = TwoPointStatistics(PrimitiveBasis(2), flatten=True, **options).fit_transform(X)
    assert_allclose(flat, np.array(expected).reshape(1, -1) / 9, rtol=1e-6)


def test_localization__fit_of_three_states():
    model = MKSLocalizationModel(PrimitiveBasis(3, domain=[0, 1])).fit(
        np.array([[0.0], [1.0]]), np.array([[2.0], [1.0]]), size=(1,)
    )
    assert_allclose(model.coef_, [[2, 0, 1]], atol=1e-12)


def test_solve_fe__uniform_strain_and_offset_of_the_sides():
    layers = np.zeros((1, 3, 3), dtype=int)
    layers[0, :, 1] = 1
    fields = solve_fields(layers, elastic_modulus=(1.0, 10.0), poissons_ratio=(0.0, 0.0), macro_strain=1.0)
    assert_allclose(np.asarray(fields.strain)[..., 0], 1, atol=1e-6)
    assert_allclose(np.asarray(fields.strain)[..., 1:], 0, atol=1e-6)
    mixed = np.array([[[1, 0, 0, 1], [0, 1, 1, 1], [0, 0, 1, 1], [1, 0, 0, 1]]])
    found = ElasticFESimulation(elastic_modulus=(10.0, 1.0), poissons_ratio=(0.3, 0.3), macro_strain=0.1).run(mixed)
    assert_allclose(found.strain[..., 0].mean(), 0.1, atol=1e-7)


def test_generate_delta__one_voxel_for_each_ordered_pair():
    found = make_delta_microstructures(3, (3, 3))
    assert found.shape == (6, 3, 3)
    assert len({(sample[1, 1], sample[0, 0]) for sample in np.asarray(found)}) == 6


@pytest.fixture(scope="module")
def section_51():
    sample_size = 20
    grain_size = [(15, 2), (2, 15), (7, 7), (8, 3), (3, 9), (2, 2)]
    return make_elastic_stress_random(
        n_samples=[sample_size] * 6,
        size=(21, 21),
        grain_size=grain_size,
        elastic_modulus=(310, 200),
        poissons_ratio=(0.28, 0.3),
        macro_strain=0.001,
        seed=0,
    )


@pytest.fixture
def counted(monkeypatch):
    """Numbers of samples of each computation of statistics."""
    RECENT.clear()
    found, compute = [], CorrelationKernel.__call__
    monkeypatch.setattr(
        CorrelationKernel,
        "__call__",
        lambda kernel, block, *masks: found.append(len(block)) or compute(kernel, block, *masks),
    )
    return found


def test_section_51(section_51, counted):
    X, y = section_51
    draw_microstructures(X[::20])
    p_basis = PrimitiveBasis(n_states=2, domain=[0, 1])
    model = MKSHomogenizationModel(basis=p_basis, periodic_axes=[0, 1], correlations=[(0, 0), (1, 1)])
    flat_shape = (X.shape[0], X[0].size)
    X_train, X_test, y_train, y_test = train_test_split(X.reshape(flat_shape), y, test_size=0.2, random_state=3)
    params_to_tune = {"degree": np.arange(1, 4), "n_components": np.arange(2, 12)}
    fit_params = {"size": X[0].shape}
    gs = GridSearchCV(model, params_to_tune).fit(X_train, y_train, **fit_params)
    # Each fold once, its training samples and the others, and all training samples.
    assert sorted(counted) == [19] * 4 + [20] + [76] + [77] * 4 + [96]
    draw_gridscores_matrix(
        gs, ["n_components", "degree"], score_label="R-Squared", param_labels=["Number of Components", "Order"]
    )
    fig = draw_gridscores(gs.cv_results_, "n_components", score_label="R-Squared", param_label="Number of Components")
    assert [line.get_label() for line in fig.axes[0].lines] == ["degree = 1", "degree = 2", "degree = 3"]
    model = gs.best_estimator_
    assert gs.score(X_test, y_test) > 0.99
    y_predict = model.predict(X_test)
    draw_goodness_of_fit(
        np.array([y_train, model.predict(X_train)]), np.array([y_test, y_predict]), ["Training Data", "Testing Data"]
    )
    model.fit(X_train, y_train, **fit_params)
    draw_component_variance(model.dimension_reducer_.explained_variance_ratio_)
    draw_components_scatter(
        [model.reduced_fit_data[:, :2], model.transform(X_test)[:, :2]], ["Training Data", "Testing Data"]
    )
    assert len(counted) == 12


def test_section_52():
    elastic_modulus, poissons_ratio, macro_strain, size = (100, 130), (0.3, 0.3), 0.001, (21, 21)
    options = {"poissons_ratio": poissons_ratio, "macro_strain": macro_strain, "size": size}
    X_delta, strains_delta = make_elastic_FE_strain_delta(elastic_modulus=elastic_modulus, **options)
    p_basis = PrimitiveBasis(n_states=2, domain=[0, 1])
    model = MKSLocalizationModel(basis=p_basis)
    model.fit(X_delta, strains_delta)
    X, strain = make_elastic_FE_strain_random(n_samples=1, elastic_modulus=elastic_modulus, **options)
    strain_predict = model.predict(X)
    assert np.abs(strain_predict - strain).mean() < 0.03 * macro_strain
    draw_strains_compare(strain[0], strain_predict[0])


SEARCH = {"degree": [1, 2], "n_components": [2, 3, 5]}
OPTIONS = {"periodic_axes": [0, 1], "correlations": [(0, 0), (1, 1)]}


@pytest.mark.parametrize("reducer", some_slow([None, SklearnPCA(svd_solver="full")], [None]))
def test_search__gives_what_fits_without_a_cache_give(section_51, reducer, counted):
    X, y = section_51
    model = MKSHomogenizationModel(PrimitiveBasis(2, domain=[0, 1]), dimension_reducer=reducer, **OPTIONS)
    found = GridSearchCV(model, SEARCH, cv=3).fit(X, y)
    assert sorted(counted) == [40] * 3 + [80] * 3 + [120]
    with dask.config.set({"mksdask.cache-limit": 0}):
        alone = GridSearchCV(model, SEARCH, cv=3).fit(X, y)
    assert len(counted) == 7 + 2 * 18 + 1
    for name in ("mean_test_score", "std_test_score"):
        assert_array_equal(found.cv_results_[name], alone.cv_results_[name])
    assert_array_equal(found.best_estimator_.components_, alone.best_estimator_.components_)
    assert_array_equal(found.best_estimator_.reduced_fit_data, alone.best_estimator_.reduced_fit_data)


def test_search__other_statistics_are_computed(section_51, counted):
    X, y = section_51
    basis = PrimitiveBasis(2, domain=[0, 1])
    plain = MKSHomogenizationModel(basis, **OPTIONS)
    mask = np.ones(X.shape)
    mask[:, :3] = 0.5
    others = [
        (clone(plain).set_params(correlations=[(0, 1)]), X, {}),
        (clone(plain).set_params(periodic_axes=[0]), X, {}),
        (clone(plain).set_params(cutoff=3), X, {}),
        (clone(plain).set_params(dtype="float64"), X, {}),
        (clone(plain).set_params(basis=PrimitiveBasis(2, domain=[0, 2])), X, {}),
        (plain, X[::-1], {}),
        (plain, X.astype(float), {}),
        (plain, X, {"confidence_index": mask}),
        (plain, X, {"confidence_index": mask[0]}),
    ]
    plain.fit(X, y)
    for number, (model, samples, options) in enumerate(others):
        model.fit(samples, y, **options)
        assert len(counted) == number + 2
    # These share statistics, but not their components.
    for options in ({"mean_center": True}, {"weights": [1, 3]}):
        model = clone(plain).set_params(**options)
        cached = model.fit(X, y).components_
        RECENT.clear()
        assert_array_equal(model.fit(X, y).components_, cached)


def test_search__samples_that_change_in_place_are_computed_again(section_51, counted):
    X = section_51[0].copy()
    analysis = MKSStructureAnalysis(PrimitiveBasis(2, domain=[0, 1]), store_correlations=True, **OPTIONS)
    first = analysis.fit(X).fit_correlations
    assert_array_equal(analysis.fit(X).fit_correlations, first)
    # What the user does to the statistics stays with the user.
    analysis.fit_correlations[:] = 0
    assert_array_equal(analysis.fit(X).fit_correlations, first)
    assert len(counted) == 1
    X[5, 7, 7] = 1 - X[5, 7, 7]
    changed = analysis.fit(X).fit_correlations
    assert len(counted) == 2
    assert np.flatnonzero((changed != first).any(axis=(1, 2, 3))).tolist() == [5]
    # Nothing is kept of lazy samples.
    analysis.fit(da.from_array(X, chunks=(40, 21, 21)))
    analysis.fit(da.from_array(X, chunks=(40, 21, 21)))
    assert len(counted) > 4


@pytest.mark.parametrize("n_jobs", [2, 8])
def test_search__threads_compute_statistics_once(section_51, counted, n_jobs):
    X, y = section_51
    model = MKSHomogenizationModel(PrimitiveBasis(2, domain=[0, 1]), **OPTIONS)
    with parallel_backend("threading", n_jobs=n_jobs):
        GridSearchCV(model, SEARCH, cv=3, n_jobs=n_jobs).fit(X, y)
    assert sorted(counted) == [40] * 3 + [80] * 3 + [120]


@pytest.mark.slow
def test_search__processes(section_51):
    X, y = section_51
    model = MKSHomogenizationModel(PrimitiveBasis(2, domain=[0, 1]), **OPTIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = GridSearchCV(model, SEARCH, cv=3, n_jobs=2).fit(X, y)
    expected = cross_val_score(clone(model).set_params(**found.best_params_), X, y, cv=3).mean()
    assert_allclose(found.best_score_, expected, rtol=1e-6)
