"""Statistics computed once for many fits: equal to fits of their own, and counted."""

import pickle
import warnings

import dask
import dask.array as da
import dask_ml.model_selection
import joblib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import loguniform
from sklearn.base import clone
from sklearn.decomposition import PCA as SklearnPCA
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV, cross_val_score, learning_curve
from sklearn.pipeline import Pipeline

from mksdask import MissingPropertyWarning, MKSHomogenizationModel, MKSStructureAnalysis, PrimitiveBasis, plan
from mksdask.compute.recent import RECENT
from mksdask.datasets.responses import make_elastic_stiffness
from mksdask.reduction import PCA
from mksdask.reduction.shared import RotatedPCA
from mksdask.regression import KernelRegressor
from mksdask.stats.correlation import Correlation

BASIS = PrimitiveBasis(2, domain=[0, 1])


@pytest.fixture(scope="module")
def ensemble():
    return make_elastic_stiffness(n_samples=[30, 30], size=(9, 9), grain_size=[(2, 2), (6, 3)], seed=2)


@pytest.fixture
def counted(monkeypatch):
    """Numbers of samples of each computation of statistics, and of each PCA of a fold, which nothing has shortened."""
    RECENT.clear()
    statistics, folds = [], []
    compute, fit = Correlation.compute, PCA.fit
    monkeypatch.setattr(Correlation, "compute", lambda found: statistics.append(len(found.samples)) or compute(found))
    monkeypatch.setattr(PCA, "fit", lambda pca, X, y=None: folds.append(len(X)) or fit(pca, X, y))
    return statistics, folds


def model(**options):
    return MKSHomogenizationModel(
        **{"basis": BASIS, "periodic_axes": [0, 1], "n_components": 4, "dtype": "float64"} | options
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"n_components": 0.99},
        {"n_components": None},
        {"dimension_reducer": PCA(3, whiten=True), "n_components": None},
        {"dimension_reducer": PCA(None), "n_components": None, "property_linker": "kernel"},
        {"dimension_reducer": PCA(3, solver="incremental")},
        {"dimension_reducer": SklearnPCA(svd_solver="full")},
        {
            "property_linker": KernelRegressor(alpha=1e-3, gamma=0.1),
            "correlations": [(0, 1), (1, 1)],
            "cutoff": 3,
            "weights": [1, 4],
        },
        {"degree": 2, "mean_center": True},
        {"dtype": "float32"},
    ],
)
@pytest.mark.parametrize("lazy", [False, True])
def test_share__fits_as_if_statistics_were_computed_anew(ensemble, options, lazy, tmp_path):
    X, y = ensemble
    rows = np.random.default_rng(0).permutation(len(X))
    train, test = rows[:44], rows[44:]
    plain = model(**options, scratch=tmp_path).fit(X[train], y[train])
    given = da.from_array(X, chunks=(13, 9, 9)) if lazy else X
    shared = plain.share(given)
    fitted = clone(plain).fit(shared[train], y[train])
    rtol = 1e-3 if options.get("dtype") == "float32" else 1e-7
    if options.get("property_linker") == "kernel":
        # Its ridge is chosen as small as 1e-12 here, and then tells the order of sums.
        rtol = 1e-5
    assert fitted.size_ == (9, 9)
    found, scores = fitted.reduced_fit_data, plain.reduced_fit_data
    assert found.dtype == scores.dtype
    # All components are all directions in which statistics vary; beyond them are zeros.
    varies = found.shape[1]
    assert varies == scores.shape[1] or (plain.n_components is None and not scores[:, varies:].any())
    assert_allclose(np.abs(found), np.abs(scores[:, :varies]), atol=1e-7 + (rtol > 1e-5))
    expected = plain.predict(X[test])
    assert_allclose(fitted.predict(shared[test]), expected, rtol=rtol)
    assert_allclose(fitted.predict(X[test]), expected, rtol=rtol)
    assert_allclose(plain.predict(shared[test]), expected, rtol=rtol)
    assert_allclose(fitted.score(shared[test], y[test]), plain.score(X[test], y[test]), rtol=rtol)
    assert_allclose(pickle.loads(pickle.dumps(fitted)).predict(X[test]), expected, rtol=rtol)
    assert_allclose(pickle.loads(pickle.dumps(fitted)).predict(shared[test]), expected, rtol=rtol)
    ours, theirs = (m.dimension_reducer_ for m in (fitted, plain))
    assert_allclose(ours.explained_variance_, theirs.explained_variance_[:varies], rtol=rtol, atol=1e-12)
    assert_allclose(ours.noise_variance_, theirs.noise_variance_, rtol=1e-2, atol=1e-9)
    if isinstance(ours, RotatedPCA):
        kept = ours.explained_variance_ > 1e-9 * ours.explained_variance_[0]
        overlap = np.abs(np.einsum("ij,ij->i", ours.components_[kept], theirs.components_[:varies][kept]))
        assert_allclose(overlap, 1.0, atol=1e-4)


@pytest.mark.parametrize("kind", ["sklearn", "random", "dask_ml", "threads"])
def test_share__searches_compute_statistics_once_and_pca_once_a_fold(ensemble, counted, kind):
    X, y = ensemble
    linkage = model(property_linker=KernelRegressor(kernel="polynomial", alpha=1e-3, gamma=0.1))
    grid = {"n_components": [2, 4, 6], "property_linker__degree": [1, 2]}
    search = {
        "sklearn": lambda: GridSearchCV(linkage, grid, cv=3),
        "threads": lambda: GridSearchCV(linkage, grid, cv=3, n_jobs=2),
        "dask_ml": lambda: dask_ml.model_selection.GridSearchCV(linkage, grid, cv=3, scheduler="threads"),
        "random": lambda: RandomizedSearchCV(
            linkage, grid | {"property_linker__alpha": loguniform(1e-4, 1e-1)}, cv=3, n_iter=6, random_state=0
        ),
    }[kind]()
    statistics, folds = counted
    shared = linkage.share(X)
    assert statistics == [60]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of dask-ml about scikit-learn
        with joblib.parallel_backend("threading"):
            search.fit(shared, y)
    assert statistics == [60]
    assert sorted(folds) == [40, 40, 40, 60]
    if kind in ("sklearn", "threads", "dask_ml"):
        for parameters, found in zip(search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True):
            assert_allclose(
                found, cross_val_score(clone(linkage).set_params(**parameters), X, y, cv=3).mean(), rtol=1e-6
            )
    assert_allclose(search.best_estimator_.predict(X), search.best_estimator_.predict(shared), rtol=1e-7)


def test_share__a_pipeline_under_dask_ml(ensemble, counted):
    X, y = ensemble
    analysis = MKSStructureAnalysis(BASIS, periodic_axes=[0, 1], dtype="float64")
    pipeline = Pipeline([("analysis", analysis), ("link", KernelRegressor(alpha=1e-3, gamma=0.1))])
    grid = {"analysis__n_components": [2, 5], "link__alpha": [1e-3, 1e-2]}
    shared = analysis.share(X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        search = dask_ml.model_selection.GridSearchCV(pipeline, grid, cv=3, scheduler="threads").fit(shared, y)
    assert counted[0] == [60]
    assert sorted(counted[1]) == [40, 40, 40, 60]
    best = clone(pipeline).set_params(**search.best_params_)
    assert_allclose(search.best_score_, cross_val_score(best, X, y, cv=3).mean(), rtol=1e-6)
    assert_allclose(search.best_estimator_.predict(X), best.fit(X, y).predict(X), rtol=1e-6)


def test_share__learning_curve(ensemble, counted):
    X, y = ensemble
    linkage = model(degree=1)
    sizes, _, scores = learning_curve(linkage, linkage.share(X), y, train_sizes=[20, 40], cv=3)
    assert counted[0] == [60]
    _, _, expected = learning_curve(linkage, X, y, train_sizes=[20, 40], cv=3)
    assert_array_equal(sizes, [20, 40])
    assert_allclose(scores, expected, rtol=1e-6)


def test_share__samples_without_a_property_and_suggestions(ensemble):
    X, y = ensemble
    partly = np.where(np.arange(60) % 3 == 0, y, np.nan)
    linkage = model(property_linker="kernel")
    shared = linkage.share(X)
    warnings.simplefilter("ignore", MissingPropertyWarning)
    fitted, plain = linkage.fit(shared, partly), clone(linkage).fit(X, partly)
    assert_allclose(fitted.predict(shared), plain.predict(X), rtol=1e-5)
    # The sixth is as good as another one.
    assert_array_equal(fitted.suggest(shared, 5), plain.suggest(X, 5))
    assert_array_equal(fitted.nearest(shared[5:7], 1)[1], [[5], [6]])


def test_share__fewer_directions_are_said_and_planned(ensemble):
    X, y = ensemble
    analysis = model()
    shared = analysis.share(X, n_components=6)
    assert shared.shape == (60, 6)
    assert "60 samples, 6 directions" in repr(shared)
    assert analysis.set_params(n_components=6).fit(shared, y).score(shared, y) > 0.95
    with pytest.raises(ValueError, match="n_components=7 must be an integer between 1 and 6"):
        analysis.set_params(n_components=7).fit(shared, y)
    planned = plan(analysis.share, da.from_array(X, chunks=(13, 9, 9)))
    assert planned.layout["components"] == 60
    assert planned.operation.endswith("share")


def test_share__rows_are_views_that_know_who_they_are(ensemble):
    X, _ = ensemble
    shared = model().share(X)
    part = shared[10:40][np.array([3, 1, 2])]
    assert len(part) == 3
    assert_array_equal(part.features(), shared[[13, 11, 12]].features())
    assert part._ensemble.scores is shared._ensemble.scores
    assert part.__dask_tokenize__() == shared[[13, 11, 12], :].__dask_tokenize__()
    assert part.__dask_tokenize__() != shared[[11, 12, 13]].__dask_tokenize__()
    assert len(shared[5]) == 1
    with pytest.raises(IndexError, match="by samples alone"):
        shared[:, 2]
    with pytest.raises(IndexError):
        shared[60]


def test_share__the_cache_of_folds_is_limited(ensemble, counted, monkeypatch):
    X, y = ensemble
    shared = model().share(X)
    RECENT.clear()
    with dask.config.set({"mksdask.cache-limit": 2 * 40 * 61 * 8}):
        for start in (0, 5, 10, 0, 10):
            model().fit(shared[start : start + 40], y[start : start + 40])
    assert len(counted[1]) == 4
    assert len(RECENT) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cutoff": 3}, "cutoff=None, but the model has cutoff=3"),
        ({"basis": PrimitiveBasis(2, domain=[0, 2])}, "statistics of basis="),
        ({"dtype": "float32"}, "statistics of dtype="),
        ({"correlations": [(0, 0)]}, "statistics of correlations=None"),
        ({"weights": [1, 2]}, "statistics of weights=None"),
        ({"periodic_axes": [0]}, "periodic_axes"),
        ({"store_correlations": True}, "store_correlations must be False"),
    ],
)
def test_share__other_statistics_are_refused(ensemble, options, message):
    X, y = ensemble
    shared = model().share(X)
    model(periodic_axes=None).fit(shared, y)
    model(periodic_axes=(1, 0)).fit(shared, y)
    with pytest.raises(ValueError, match=message):
        model(**options).fit(shared, y)
    fitted = model().fit(shared, y)
    with pytest.raises(ValueError, match="size and confidence_index go to share"):
        fitted.predict(shared, size=(9, 9))
    with pytest.raises(ValueError, match="one entry for each of the 60 samples"):
        fitted.fit(shared, y[:50])


def test_share__gaps_that_a_fold_would_fill_are_refused(ensemble):
    X, _ = ensemble
    confidence = np.ones(X.shape)
    confidence[::4, 4:] = 0.0
    linkage = model(periodic_axes=(), cutoff=6)
    for n_components in (None, 4):
        with pytest.raises(ValueError, match=r"some lags are observed in some samples only|X holds NaN"):
            linkage.share(X, confidence_index=confidence, n_components=n_components)
