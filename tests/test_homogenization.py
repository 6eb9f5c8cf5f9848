"""MKSHomogenizationModel: the contract of scikit-learn, in memory and lazily."""

import os
import pickle
import threading
import warnings

import dask.array as da
import dask_ml.model_selection
import numpy as np
import pandas as pd
import pytest
import sklearn
import xarray as xr
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA as SklearnPCA, FastICA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.metrics import get_scorer
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict, cross_val_score
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, PolynomialFeatures, StandardScaler
from sklearn.svm import SVC, SVR
from threadpoolctl import threadpool_info, threadpool_limits

from mksdask import (
    ExtrapolationWarning,
    MissingPropertyWarning,
    MKSHomogenizationModel,
    MKSStructureAnalysis,
    PrimitiveBasis,
    create_ensemble,
    load_model,
    open_ensemble,
    plan,
    save_model,
)
from mksdask.datasets import make_microstructure
from mksdask.regression import KernelRegressor, next_samples
from mksdask.stats import correlate
from mksdask.storage import materialize
from tests.helpers import computes

BASIS = PrimitiveBasis(2, domain=[0, 1])


def model(**options):
    return MKSHomogenizationModel(**{"basis": BASIS, "periodic_axes": [0, 1], "n_components": 4} | options)


def test_model__equals_its_parts_written_out(ensemble):
    X, y = ensemble
    fitted = model(degree=2, correlations=[(0, 0), (1, 1)], dtype="float64").fit(X[::2], y[::2])
    f = correlate(X, BASIS, periodic_axes=[0, 1], correlations=[(0, 0), (1, 1)], dtype="float64").reshape(len(X), -1)
    pca = SklearnPCA(4, svd_solver="full").fit(f[::2])
    linkage = make_pipeline(PolynomialFeatures(2), LinearRegression()).fit(pca.transform(f[::2]), y[::2])
    assert_allclose(fitted.predict(X[1::2]), linkage.predict(pca.transform(f[1::2])), rtol=1e-7)
    assert_allclose(fitted.reduced_fit_data, pca.transform(f[::2]), atol=1e-9)
    assert_allclose(fitted.reduced_predict_data, pca.transform(f[1::2]), atol=1e-9)
    assert_allclose(fitted.components_.reshape(4, -1), pca.components_, atol=1e-8)
    assert_allclose(fitted.score(X[1::2], y[1::2]), linkage.score(pca.transform(f[1::2]), y[1::2]))
    assert fitted.components_.shape == (4, 11, 11, 2)
    assert fitted.coef_.shape == (14,)
    assert np.isscalar(fitted.intercept_)


def test_model__lazy_equals_eager_and_predict_computes_nothing(ensemble, tmp_path):
    X, y = ensemble
    eager = model(degree=2).fit(X, y)
    lazy_X, lazy_y = da.from_array(X, chunks=(7, 11, 11)), da.from_array(y, chunks=5)
    lazy = model(degree=2, scratch=tmp_path)
    with computes(4):  # y, statistics to scratch, Gram matrix, components
        lazy.fit(lazy_X, lazy_y)
    assert os.listdir(tmp_path) == []
    with computes(0):
        predicted = lazy.predict(lazy_X)
    assert isinstance(predicted, da.Array)
    assert predicted.chunks == ((7,) * 6 + (6,),)
    assert_allclose(predicted, eager.predict(X), rtol=1e-5)
    assert_allclose(np.asarray(lazy.reduced_predict_data), eager.reduced_predict_data, atol=1e-5)
    assert_allclose(lazy.score(lazy_X, lazy_y), eager.score(X, y), rtol=1e-4)


def test_model__labelled_from_a_store(ensemble, tmp_path):
    X, y = ensemble
    create_ensemble(tmp_path / "e.zarr", X, y, periodic_axes=[0, 1], chunks=16)
    ds = open_ensemble(tmp_path / "e.zarr")
    fitted = MKSHomogenizationModel(BASIS, n_components=4).fit(ds.microstructure, ds.response)
    predicted = fitted.predict(ds.microstructure)
    assert isinstance(predicted, xr.DataArray)
    assert predicted.dims == ("sample",)
    assert_allclose(predicted, model().fit(X, y).predict(X), rtol=1e-5)
    assert fitted.transform(ds.microstructure).dims == ("sample", "component")


def test_model__flat_samples_remember_their_size(ensemble):
    X, y = ensemble
    flat = X.reshape(len(X), -1)
    fitted = model().fit(flat, y, size=(11, 11))
    assert fitted.size_ == (11, 11)
    assert_array_equal(fitted.predict(flat), model().fit(X, y).predict(X))
    assert_array_equal(fitted.predict(X), fitted.predict(flat))
    assert_array_equal(model().fit(da.from_array(flat, chunks=(20, 121)), y, size=(11, 11)).size_, (11, 11))
    with pytest.raises(ValueError, match="size="):
        fitted.predict(flat[:, :50])
    with pytest.raises(ValueError, match="size="):
        model().fit(flat, y, size=(10, 10))


@pytest.mark.parametrize("search", [GridSearchCV, dask_ml.model_selection.GridSearchCV])
@pytest.mark.parametrize("in_pipeline", [False, True])
def test_model__grid_search_with_size(ensemble, search, in_pipeline):
    X, y = ensemble
    flat = X.reshape(len(X), -1)
    estimator, prefix = model(), ""
    if in_pipeline:
        estimator, prefix = Pipeline([("same", FunctionTransformer()), ("mks", model())]), "mks__"
    grid = {f"{prefix}n_components": [2, 4], f"{prefix}degree": [1, 2]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of dask-ml about scikit-learn
        found = search(estimator, grid, cv=3).fit(flat, y, **{f"{prefix}size": (11, 11)})
    assert found.best_score_ > 0.9
    best = {name.removeprefix(prefix): value for name, value in found.best_params_.items()}
    expected = cross_val_score(model(**best), X, y, cv=3).mean()
    assert_allclose(found.best_score_, expected, rtol=1e-6)


@pytest.mark.parametrize("in_pipeline", [False, True])
def test_model__grid_search_with_metadata_routing(ensemble, in_pipeline):
    X, y = ensemble
    flat = X.reshape(len(X), -1)
    with sklearn.config_context(enable_metadata_routing=True):
        estimator = (
            model()
            .set_fit_request(size=True, confidence_index=True)
            .set_score_request(size=True, confidence_index=True, sample_weight=True)
        )
        grid = {"n_components": [2, 4]}
        if in_pipeline:
            estimator, grid = Pipeline([("mks", estimator)]), {"mks__n_components": [2, 4]}
        confidence = np.ones(flat.shape)
        found = GridSearchCV(estimator, grid, cv=3).fit(flat, y, size=(11, 11), confidence_index=confidence)
    assert found.best_score_ > 0.9


def test_model__a_cutoff_lets_samples_of_another_size_be_predicted(ensemble):
    X, y = ensemble
    fitted = model(cutoff=3).fit(X, y)
    larger = make_microstructure(n_samples=3, size=(20, 17), grain_size=3)
    assert fitted.predict(larger).shape == (3,)
    assert_allclose(fitted.predict(np.tile(X, (1, 2, 2))), fitted.predict(X), rtol=1e-5)


def test_model__confidence_index_masks(ensemble):
    X, y = ensemble
    hidden = X.copy()
    hidden[:, :3] = 0
    confidence = np.ones(X.shape)
    confidence[:, :3] = 0.0
    options = {"cutoff": 3, "periodic_axes": ()}
    masked = model(**options).fit(X, y, confidence_index=confidence)
    assert_allclose(
        masked.predict(X, confidence_index=confidence), masked.predict(hidden, confidence_index=confidence), rtol=1e-6
    )
    shared = model(**options).fit(X, y, confidence_index=confidence[0])
    assert_allclose(shared.reduced_fit_data, masked.reduced_fit_data, atol=1e-5)
    never = np.where(np.arange(11) < 3, 1.0, 0.0)[:, None] * np.ones((11, 11))
    with pytest.raises(ValueError, match=r"NaN in all samples.*smaller cutoff"):
        model(periodic_axes=()).fit(X, y, confidence_index=never)
    with pytest.raises(ValueError, match="Set cutoff"):
        model(periodic_axes=(), dimension_reducer=SklearnPCA()).fit(X, y, confidence_index=never)


def test_model__kernel_linkage_with_spread_and_several_properties(ensemble):
    X, y = ensemble
    both = np.stack([y, 2.0 * y + 1.0], axis=1)
    fitted = model(property_linker="kernel").fit(X, both)
    expected = KernelRegressor().fit(fitted.reduced_fit_data.astype(float), both)
    for linker, oracle in (("kernel", expected), ("polynomial", None)):
        fitted = model(property_linker=linker).fit(X, both)
        mean, spread = fitted.predict(X[:5], return_std=True)
        assert mean.shape == spread.shape == (5, 2)
        assert_allclose(spread[:, 1], 2.0 * spread[:, 0], rtol=1e-6)
        assert_array_equal(mean, fitted.predict(X[:5]))
        if oracle is not None:
            assert_allclose(
                np.stack([mean, spread]), oracle.predict(fitted.transform(X[:5]).astype(float), return_std=True)
            )
        lazy = fitted.predict(
            xr.DataArray(da.from_array(X, chunks=(9, 11, 11)), dims=("sample", "x", "y")), return_std=True
        )
        assert [part.name for part in lazy] == ["prediction", "spread"]
        assert_allclose(lazy[1][:5], spread, rtol=1e-4)
    with pytest.raises(TypeError, match="does not know how sure it is"):
        model(property_linker=Ridge()).fit(X, y).predict(X, return_std=True)
    with pytest.raises(ValueError, match="one of polynomial, kernel, got 'cubic'"):
        model(property_linker="cubic").fit(X, y)


def test_model__phases_must_have_the_same_names(ensemble):
    X, y = ensemble
    labelled = xr.DataArray(X, dims=("sample", "x", "y"), attrs={"phases": ["a", "b"]})
    fitted = model().fit(labelled, y)
    assert fitted.phases_ == ("a", "b")
    assert_array_equal(fitted.predict(X), fitted.predict(labelled))
    with pytest.raises(ValueError, match=r"X has the phases \['b', 'a'\], fit saw \['a', 'b'\]"):
        fitted.predict(labelled.assign_attrs(phases=["b", "a"]))
    assert model().fit(fitted.share(labelled), y).phases_ == ("a", "b")


def test_model__warns_of_voxels_of_another_size(ensemble):
    X, y = ensemble

    def labelled(step, units="um"):
        coords = {dim: (dim, step * np.arange(n), {"units": units}) for dim, n in zip("xy", X.shape[1:], strict=True)}
        return xr.DataArray(X, dims=("sample", "x", "y"), coords=coords)

    fitted = model().fit(labelled(0.5), y)
    assert_array_equal(fitted.predict(labelled(0.5)), fitted.predict(X))
    for other in (labelled(0.25), labelled(0.5, "nm")):
        with pytest.warns(UserWarning, match=r"X has voxels of .*, fit saw 0\.5 µm × 0\.5 µm: a lag of as many voxels"):
            fitted.predict(other)
    assert_array_equal(model().fit(X, y).predict(labelled(0.25)), fitted.predict(X))


def test_model__groups_widen_the_spread_of_a_kernel_linkage(ensemble):
    X, y = ensemble
    groups = np.repeat([0, 1], len(X) // 2)
    alone, grouped = (model(property_linker="kernel").fit(X, y, groups=group) for group in (None, groups))
    kernel = model(property_linker="kernel")
    assert plan(kernel.fit, X, y, groups=groups) == plan(kernel.fit, X, y)
    assert grouped.predict(X, return_std=True)[1].mean() > alone.predict(X, return_std=True)[1].mean()
    with pytest.raises(TypeError, match="does not take groups"):
        model().fit(X, y, groups=groups)


def test_model__samples_without_a_property_shape_the_components_alone(ensemble):
    X, y = ensemble
    partly = np.where(np.arange(len(X)) % 3 == 0, y, np.nan)
    with pytest.warns(MissingPropertyWarning, match=r"32 of 48 samples have no property \(NaN in y\)") as caught:
        fitted = model(degree=1).fit(X, partly)
    assert [warning.filename for warning in caught] == [__file__]
    analysis = MKSStructureAnalysis(BASIS, n_components=4, periodic_axes=[0, 1]).fit(X)
    linkage = LinearRegression().fit(analysis.reduced_fit_data[::3].astype(float), y[::3])
    assert_allclose(fitted.predict(X), linkage.predict(analysis.reduced_fit_data.astype(float)), rtol=1e-6)
    with pytest.raises(ValueError, match="y is NaN for all samples"):
        model().fit(X, np.full(len(X), np.nan))
    with pytest.raises(ValueError, match=r"all properties of a sample or none.*sample 1"):
        model().fit(X, np.where(np.arange(2 * len(X)) == 2, np.nan, 1.0).reshape(-1, 2))


def test_model__suggests_what_its_linkage_knows_least_of(ensemble):
    X, y = ensemble
    fitted = model(property_linker="kernel").fit(X[:12], y[:12])
    chosen = fitted.suggest(X[12:], 5)
    assert_array_equal(chosen, next_samples(fitted.property_linker_, fitted.transform(X[12:]), 5))
    assert_array_equal(fitted.suggest(da.from_array(X[12:], chunks=(7, 11, 11)), 5), chosen)
    with pytest.raises(TypeError, match="does not know the covariance"):
        model(property_linker=Ridge()).fit(X, y).suggest(X, 2)


def test_model__any_reducer_and_linker_left_alone_unless_told(ensemble):
    X, y = ensemble
    reducer, linker = SklearnPCA(3), Ridge(alpha=0.5)
    fitted = MKSHomogenizationModel(BASIS, dimension_reducer=reducer, property_linker=linker).fit(X, y)
    assert fitted.reduced_fit_data.shape == (48, 3)
    assert not hasattr(reducer, "components_")
    assert not hasattr(linker, "coef_")
    assert fitted.property_linker_.alpha == 0.5
    fitted = clone(fitted).set_params(n_components=2).fit(X, y)
    assert fitted.reduced_fit_data.shape == (48, 2)
    assert reducer.n_components == 3
    poly = make_pipeline(PolynomialFeatures(1), LinearRegression())
    fitted = model(property_linker=poly, degree=2).fit(X, y)
    assert fitted.property_linker_[0].degree == 2
    assert poly[0].degree == 1
    assert MKSHomogenizationModel(BASIS).fit(X, y).reduced_fit_data.shape == (48, 5)
    assert MKSHomogenizationModel(BASIS).fit(X, y).coef_.shape == (5,)
    MKSStructureAnalysis(BASIS, dimension_reducer=FastICA(2, random_state=0)).fit(X)


def test_mean_center__takes_the_mean_off_and_warns_where_it_blinds(ensemble):
    X, y = ensemble
    with pytest.warns(UserWarning, match="blind"):
        blind = model(mean_center=True, correlations=[(0, 0)]).fit(X, y)
    assert blind.score(X, y) < 0.9 < model(correlations=[(0, 0)]).fit(X, y).score(X, y)
    model(mean_center=True).fit(X, y)


def test_model__classification():
    kinds = [
        make_microstructure(n_samples=30, size=(15, 15), grain_size=g, seed=i) for i, g in enumerate([(8, 2), (2, 8)])
    ]
    X, y = np.concatenate(kinds), np.repeat(["along x", "along y"], 30)
    classifier = MKSHomogenizationModel(BASIS, property_linker=LogisticRegression(), periodic_axes=[0, 1])
    assert is_classifier(classifier)
    assert is_regressor(model())
    assert cross_val_score(classifier, X, y, cv=3).mean() > 0.95
    lazy = classifier.fit(X, y).predict(da.from_array(X, chunks=(7, 15, 15)))
    assert_array_equal(lazy, classifier.predict(X))


def classifier(linker=None, **options):
    linker = make_pipeline(StandardScaler(), LogisticRegression()) if linker is None else linker
    return model(property_linker=linker, n_components=3, **options)


@pytest.fixture(scope="module")
def textures():
    """Samples of three kinds, with names of different lengths."""
    kinds = enumerate([(8, 2), (2, 8), (4, 4)])
    parts = [make_microstructure(n_samples=18, size=(12, 12), grain_size=g, seed=i) for i, g in kinds]
    return np.concatenate(parts), np.repeat(["along x", "y", "even"], 18)


def labels_of(y, kind):
    return {
        "text": lambda: y,
        "list": y.tolist,
        "objects": lambda: y.astype(object),
        "strings": lambda: y.astype(np.dtypes.StringDType()),
        "Categorical": lambda: pd.Categorical(y),
        "Series": lambda: pd.Series(y, dtype="category"),
        "lazy": lambda: da.from_array(y, chunks=5),
        "numbers": lambda: np.unique(y, return_inverse=True)[1],
        "booleans": lambda: y == "y",
    }[kind]()


@pytest.mark.parametrize(
    "kind", ["text", "list", "objects", "strings", "Categorical", "Series", "lazy", "numbers", "booleans"]
)
def test_classification__labels_of_any_kind(textures, kind):
    X, y = textures
    labels = labels_of(y, kind)
    fitted = classifier().fit(X, labels)
    expected = fitted.predict(X)
    assert expected.dtype.kind == {"numbers": "i", "booleans": "b"}.get(kind, "U")
    assert fitted.score(X, labels) == np.mean(expected == np.asarray(labels).astype(expected.dtype)) > 0.9
    assert_array_equal(fitted.classes_, np.unique(expected))
    # The first chunk holds the longest label alone, the second one the shortest alone.
    for chunks in ((18, 18, 18), (54,), (1,) * 54):
        lazy = fitted.predict(da.from_array(X[::-1], chunks=(chunks, 12, 12)))
        assert lazy.dtype == lazy.compute().dtype == expected.dtype
        assert_array_equal(lazy, expected[::-1])


def test_classification__responses_exist_where_the_linker_has_them(textures):
    X, y = textures
    lazy = da.from_array(X, chunks=(7, 12, 12))
    labelled = xr.DataArray(lazy, dims=("sample", "x", "y"), coords={"sample": np.arange(len(X))})
    fitted = classifier().fit(X, y)
    scores = fitted.reduced_fit_data.astype(float)
    for name in ("predict_proba", "predict_log_proba", "decision_function"):
        respond = getattr(fitted, name)
        expected = getattr(fitted.property_linker_, name)(scores)
        assert_allclose(respond(X), expected, rtol=1e-5, atol=1e-6)
        with computes(0):
            later = respond(lazy)
        assert later.chunks == ((7,) * 7 + (5,), (3,))
        assert later.dtype == expected.dtype
        assert_allclose(later, expected, rtol=1e-3)
        assert_allclose(respond(labelled), later)
        assert respond(labelled).dims == ("sample", "output" if name == "decision_function" else "class")
    assert fitted.predict_proba(labelled).coords["class"].to_numpy().tolist() == ["along x", "even", "y"]
    assert_array_equal(fitted.reduced_predict_data, fitted.transform(labelled))
    binary = classifier(SVC()).fit(X, y == "y")
    assert binary.decision_function(labelled).dims == ("sample",)
    assert_array_equal(binary.decision_function(X) > 0, binary.predict(X))
    for linker, missing in (
        (SVC(), ["predict_proba", "predict_log_proba"]),
        (KNeighborsClassifier(), ["predict_log_proba", "decision_function"]),
        ("kernel", ["predict_proba", "predict_log_proba", "decision_function", "classes_"]),
        (Ridge(), ["predict_proba", "predict_log_proba", "decision_function", "classes_"]),
    ):
        for estimator in (classifier(linker), classifier(linker).fit(X, labels_of(y, "numbers"))):
            for name in ("predict_proba", "predict_log_proba", "decision_function"):
                assert hasattr(estimator, name) == (name not in missing)
        assert hasattr(estimator, "classes_") == ("classes_" not in missing)
    with pytest.raises(AttributeError, match="has no attribute 'predict_proba'"):
        _ = classifier(SVC()).predict_proba
    for name in ("predict_proba", "decision_function"):
        with pytest.raises(NotFittedError):
            getattr(classifier(), name)(X)
    assert not hasattr(classifier(), "classes_")


def test_classification__several_outputs(textures):
    X, y = textures
    both = np.stack([y, np.where(y == "y", "yes", "no")], axis=1)
    fitted = classifier(RandomForestClassifier(5, random_state=0)).fit(X, both)
    lazy = da.from_array(X, chunks=(7, 12, 12))
    assert fitted.predict(lazy).dtype == "<U7"
    assert_array_equal(fitted.predict(lazy), fitted.predict(X))
    labelled = fitted.predict_proba(xr.DataArray(lazy, dims=("sample", "x", "y")))
    assert [part.coords["class"].to_numpy().tolist() for part in labelled] == [["along x", "even", "y"], ["no", "yes"]]
    for part, expected in zip(labelled, fitted.predict_proba(X), strict=True):
        assert_allclose(part, expected)


class Guess:
    """A classifier of one's own, with lists of text and without `classes_`."""

    def fit(self, X, y):
        return self

    def predict(self, X):
        return ["a" if row[0] < 0 else "longer" for row in X]


def test_classification__text_of_a_linker_without_classes_is_not_cut(textures):
    X, y = textures
    fitted = classifier(Guess()).fit(X, y)
    lazy = fitted.predict(da.from_array(X, chunks=(1, 12, 12)))
    assert lazy.dtype == object
    assert set(lazy.compute()) == {"a", "longer"}


@pytest.mark.parametrize("is_shared", [False, True])
@pytest.mark.parametrize(
    ("n_classes", "scoring"),
    [(2, name) for name in ("accuracy", "f1_macro", "roc_auc", "neg_log_loss")]
    + [(3, name) for name in ("accuracy", "f1_macro", "roc_auc_ovr", "neg_log_loss")],
)
def test_classification__scorers(textures, n_classes, scoring, is_shared):
    X, y = (part[: 18 * n_classes] for part in textures)
    estimator = classifier()
    given = estimator.share(X) if is_shared else X
    found = cross_val_score(estimator, given, y.astype(object), cv=3, scoring=scoring, error_score="raise")
    # An int cv of a classifier is stratified. Without that, a fold of sorted labels would be one whole class.
    folds = StratifiedKFold(3).split(X, y)
    expected = [get_scorer(scoring)(clone(estimator).fit(X[a], y[a]), X[b], y[b]) for a, b in folds]
    assert_allclose(found, expected, atol=1e-4)
    assert min(found) > (-0.6 if scoring == "neg_log_loss" else 0.7)
    if scoring != "neg_log_loss":
        search = GridSearchCV(estimator, {"n_components": [2, 3]}, cv=3, scoring=scoring, error_score="raise")
        assert search.fit(given, pd.Categorical(y)).best_score_ >= np.mean(found) - 1e-6
        assert_array_equal(search.classes_, np.unique(y))
        assert search.predict_proba(given).shape == (len(y), n_classes)


def test_classification__f1_of_numbers(textures):
    X, y = textures
    assert cross_val_score(classifier(), X, y == "y", cv=3, scoring="f1").min() > 0.7


@pytest.mark.parametrize("linker", [None, SVC()])
def test_classification__calibration(textures, linker):
    X, y = textures
    calibrated = CalibratedClassifierCV(classifier(linker), cv=3, ensemble=False).fit(X, y)
    assert_allclose(calibrated.predict_proba(X).sum(axis=1), 1.0)
    assert calibrated.score(X, y) > 0.9
    inside = classifier(CalibratedClassifierCV(SVC(), cv=3)).fit(X, y)
    assert_allclose(inside.predict_proba(da.from_array(X, chunks=(7, 12, 12))).sum(axis=1), 1.0)
    assert cross_val_predict(classifier(), X, y, cv=3, method="predict_proba").shape == (54, 3)


@pytest.mark.filterwarnings("ignore::mksdask.MissingPropertyWarning")
@pytest.mark.parametrize("unknown", [None, np.nan, pd.NA])
def test_classification__samples_of_unknown_class_shape_the_components_alone(textures, unknown):
    X, y = textures
    is_known = np.arange(len(X)) % 3 == 0
    partly = y.astype(object)
    partly[~is_known] = unknown
    fitted = classifier().fit(X, partly)
    analysis = MKSStructureAnalysis(BASIS, n_components=3, periodic_axes=[0, 1]).fit(X)
    linkage = clone(classifier().property_linker).fit(analysis.reduced_fit_data[is_known].astype(float), y[is_known])
    assert_array_equal(fitted.predict(X), linkage.predict(analysis.reduced_fit_data.astype(float)))
    with pytest.raises(ValueError, match="y must hold a property for each sample that is scored, but 36 have NaN"):
        fitted.score(X, partly)
    linker = classifier().property_linker
    supervised = model(dimension_reducer=LinearDiscriminantAnalysis(), n_components=None, property_linker=linker)
    with pytest.raises(ValueError, match=r"dimension_reducer LinearDiscriminantAnalysis\(\) needs y of all samples"):
        supervised.fit(X, partly)
    numbers = np.where(is_known, labels_of(y, "numbers"), None)
    assert classifier().fit(X, numbers).predict(X).dtype.kind == "i"


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (["a", 1], TypeError, "y must hold numbers alone, or text alone, got objects of the types int, str"),
        ([{}, {}], TypeError, "got objects of the types dict"),
        ([None, None], ValueError, "y is NaN for all samples"),
        ([["a", None], ["b", "c"]], ValueError, r"all properties of a sample or none .*sample 0"),
    ],
)
def test_classification__refuses_labels_that_are_none(textures, values, error, message):
    y = np.array([values[i % 2] for i in range(54)], dtype=object)
    with pytest.raises(error, match=message):
        classifier().fit(textures[0], y)


def test_classification__refuses_text_that_was_nan(textures):
    X, y = textures
    with pytest.raises(ValueError, match=r"y holds the text 'nan', which NumPy makes of NaN.* mark .* by None"):
        classifier().fit(X, [*y[:-1], np.nan])


@pytest.mark.parametrize(
    "linker",
    [
        LogisticRegression(class_weight="balanced", C=3),
        make_pipeline(StandardScaler(), LogisticRegression(solver="newton-cholesky")),
        make_pipeline(StandardScaler(with_std=False), PolynomialFeatures(2), LogisticRegression(max_iter=1000)),
    ],
)
@pytest.mark.parametrize("kind", ["text", "numbers", "booleans"])
def test_classification__saves_and_loads(textures, linker, kind, tmp_path):
    X, y = textures
    y = labels_of(y, kind)
    fitted = classifier(linker).fit(X, y)
    save_model(fitted, tmp_path / "model.zarr")
    loaded = load_model(tmp_path / "model.zarr")
    assert is_classifier(loaded)
    assert_array_equal(loaded.classes_, fitted.classes_)
    for name in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
        lazy = da.from_array(X, chunks=(7, 12, 12))
        for given in (X, lazy):
            assert_array_equal(np.asarray(getattr(loaded, name)(given)), np.asarray(getattr(fitted, name)(given)))
    assert loaded.predict(lazy).dtype == fitted.predict(lazy).dtype
    assert loaded.fit(X, y).score(X, y) > 0.8


def test_classification__saving_refuses_other_linkers(textures, tmp_path):
    X, y = textures
    for linker, message in (
        (
            RandomForestClassifier(3),
            "or KernelRegressor or LabelledPipeline or LeastSquares or LogisticRegression or Pipeline",
        ),
        (
            make_pipeline(StandardScaler(), SVC()),
            r"steps\[1\]\[1\] is of sklearn\.svm.*expected a .*LogisticRegression",
        ),
        (LogisticRegression(intercept_scaling=2), "intercept_scaling is 2, .*expected 1, its default"),
    ):
        with pytest.raises(TypeError, match=message):
            save_model(classifier(linker).fit(X, y), tmp_path / "model.zarr")


@pytest.mark.parametrize(
    ("attribute", "change", "message"),
    [
        ("classes_", lambda classes: classes[::-1], "classes_ is .*'y', 'even', 'along x'.*, expected .*'along x'"),
        ("classes_", lambda classes: classes[:2], "the number of rows of coef_ is 3, expected 1"),
        ("n_features_in_", lambda n: n + 1, "n_features_in_ is 4, expected 3"),
        ("intercept_", lambda intercept: intercept[:2], "expected an array of f8 of shape .*n_rows"),
    ],
)
def test_classification__refuses_a_classifier_that_contradicts_itself(textures, attribute, change, message, tmp_path):
    X, y = textures
    fitted = classifier(LogisticRegression()).fit(X, y)
    setattr(fitted.property_linker_, attribute, change(getattr(fitted.property_linker_, attribute)))
    with pytest.raises(ValueError, match=message):
        save_model(fitted, tmp_path / "model.zarr")


# zarr says that text of a fixed width may be stored in another way in future.
@pytest.mark.filterwarnings("ignore:The data type:zarr.errors.UnstableSpecificationWarning")
def test_classification__results_on_disk(textures, tmp_path):
    X, y = textures
    fitted = classifier().fit(X, y)
    lazy = xr.DataArray(da.from_array(X, chunks=(7, 12, 12)), dims=("sample", "x", "y"))
    for name in ("predict", "predict_proba"):
        expected = getattr(fitted, name)(lazy)
        xr.testing.assert_equal(materialize(expected, tmp_path / name, progress=False).compute(), expected.compute())


LINKERS = [
    Ridge(),
    RandomForestRegressor(5, random_state=0),
    GaussianProcessRegressor(alpha=1e-3, normalize_y=True),
    SVR(C=100.0),
    MLPRegressor(hidden_layer_sizes=(5,), solver="lbfgs", max_iter=200, random_state=0),
    KNeighborsRegressor(),
    HistGradientBoostingRegressor(max_iter=5),
    GridSearchCV(Ridge(), {"alpha": [1e-3, 1.0]}, cv=2),
    LogisticRegression(),
    RandomForestClassifier(5, random_state=0),
    GaussianProcessClassifier(),
    SVC(),
    MLPClassifier(hidden_layer_sizes=(5,), solver="lbfgs", max_iter=50, random_state=0),
    KNeighborsClassifier(),
    HistGradientBoostingClassifier(max_iter=5),
    LinearDiscriminantAnalysis(),
]


@pytest.mark.parametrize("linker", LINKERS, ids=lambda linker: type(linker).__name__)
def test_linkers__of_scikit_learn(ensemble, linker):
    X, y = ensemble
    if is_classifier(linker):
        y = np.where(y > np.median(y), "stiff", "softer")
    fitted = model(property_linker=linker).fit(da.from_array(X, chunks=(12, 11, 11)), y)
    scores = fitted.reduced_fit_data.astype(float)
    expected = clone(linker).fit(scores, y).predict(fitted.transform(X).astype(float))
    if is_classifier(linker):
        assert_array_equal(fitted.predict(X), expected)
    else:
        assert_allclose(fitted.predict(X), expected, rtol=1e-9)
    lazy = fitted.predict(da.from_array(X, chunks=(13, 11, 11)))
    assert lazy.dtype == lazy.compute().dtype
    assert fitted.score(X, y) > (0.8 if is_classifier(linker) else 0.0)
    assert is_classifier(fitted) == is_classifier(linker)
    assert is_regressor(fitted) == is_regressor(linker)
    assert type(linker).__name__ in fitted._repr_html_()


class LimitsBlas(Ridge):
    """Limits BLAS in predict, as nearest neighbours do. Of two threads, the first to begin is the first to end."""

    first, both, one_ended = threading.Lock(), threading.Barrier(2, timeout=60), threading.Event()

    def predict(self, X):
        if threading.current_thread() is threading.main_thread():
            return super().predict(X)
        is_first = self.first.acquire(blocking=False)
        if not is_first:
            self.both.wait()
        with threadpool_limits(1, user_api="blas"):
            self.both.wait()
            if is_first:
                self.both.wait()
            else:
                self.one_ended.wait(60)
            found = super().predict(X)
        self.one_ended.set()
        return found


def test_linkers__that_limit_blas_in_threads_give_its_threads_back(ensemble):
    X, y = ensemble
    fitted = model(property_linker=LimitsBlas()).fit(X, y)
    lazy = fitted.predict(da.from_array(X, chunks=(24, 11, 11)))
    with threadpool_limits(3, user_api="blas"):
        lazy.compute(scheduler="threads", num_workers=2)
        assert {info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"} == {3}


def test_model__several_properties_at_once(ensemble):
    X, y = ensemble
    both = np.stack([y, 2 * y + 1], axis=1)
    fitted = model().fit(X, both)
    assert_allclose(fitted.predict(X)[:, 1], 2 * fitted.predict(X)[:, 0] + 1)
    assert fitted.predict(da.from_array(X, chunks=(9, 11, 11))).shape == (48, 2)


def test_model__clones_pickles_and_refuses_unfitted_use(ensemble):
    X, y = ensemble
    unfitted = model(degree=2, mean_center=False)
    params = clone(unfitted).get_params()
    assert {**params, "basis": None} == {**unfitted.get_params(), "basis": None}
    assert params["basis"].get_params() == BASIS.get_params()
    with pytest.raises(NotFittedError):
        unfitted.predict(X)
    with pytest.raises(NotFittedError):
        _ = unfitted.components_
    fitted = unfitted.fit(X, y)
    assert_array_equal(pickle.loads(pickle.dumps(fitted)).predict(X), fitted.predict(X))


class OnlyFit:
    def fit(self, X, y=None):
        return self


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"dimension_reducer": OnlyFit()},
            TypeError,
            "dimension_reducer must have the methods fit_transform and transform",
        ),
        ({"property_linker": OnlyFit()}, TypeError, "property_linker must have .* fit and predict.*such as Ridge()"),
        (
            {"property_linker": Ridge},
            TypeError,
            r"property_linker must be an instance, got the class Ridge; pass Ridge\(\)",
        ),
        ({"property_linker": 2}, TypeError, "property_linker must have the methods .* 2 has no fit.*such as Ridge()"),
        ({"property_linker": LogisticRegression}, TypeError, r"pass LogisticRegression\(\)"),
        ({"dimension_reducer": SklearnPCA}, TypeError, r"dimension_reducer must be an instance.* pass PCA\(\)"),
        ({"dimension_reducer": 3}, TypeError, "dimension_reducer must have .* 3 has no fit_transform.* such as PCA"),
        ({"basis": PrimitiveBasis}, TypeError, r"basis must be an instance.* PrimitiveBasis; pass PrimitiveBasis\(\)"),
        ({"basis": 2}, TypeError, r"basis must be a basis such as PrimitiveBasis\(2\), .*got the number 2"),
        ({"property_linker": LinearRegression(), "degree": 2}, ValueError, "has no parameter degree"),
        ({"dimension_reducer": FunctionTransformer()}, ValueError, "has no parameter n_components"),
        ({"n_components": 500}, ValueError, "n_components=500"),
    ],
)
def test_model__raises_on_what_does_not_fit_in(ensemble, options, error, message):
    with pytest.raises(error, match=message):
        model(**options).fit(*ensemble)
    with pytest.raises(error, match=message):
        model(**options).fit(da.from_array(ensemble[0], chunks=(12, 11, 11)), ensemble[1])
    assert is_classifier(model(**options)) is False


def test_model__refuses_a_dataset_in_place_of_its_variable(ensemble):
    X, y = ensemble
    own = xr.Dataset({"image": (("sample", "x", "y"), X), "modulus": ("sample", y)})
    usual = own.rename(image="microstructure", modulus="response")
    fitted = model().fit(X, y)
    for given, of_X, of_y in (
        (own, "It holds image, modulus, and none of them is 'microstructure'", "none of them is 'response'"),
        (usual, r"pass one of its variables, such as X\['microstructure'\]", r"such as y\['response'\]"),
        (xr.Dataset(), "X is an xarray.Dataset without variables", "y is an xarray.Dataset without variables"),
    ):
        for call in (lambda X: model().fit(X, y), fitted.predict, fitted.transform):
            with pytest.raises(TypeError, match=of_X):
                call(given)
        for call in (lambda y: model().fit(X, y), lambda y: fitted.score(X, y)):
            with pytest.raises(TypeError, match=of_y):
                call(given)


def test_model__raises_on_missing_or_short_y(ensemble):
    X, y = ensemble
    with pytest.raises(ValueError, match="y is missing"):
        model().fit(X)
    with pytest.raises(ValueError, match="one entry for each of the 48 samples"):
        model().fit(X, y[:5])
    with pytest.raises(ValueError, match="size=\\(11, 11\\)"):
        model().fit(X, y).predict(X[:, :5])


def test_model__on_a_cluster(ensemble, client, tmp_path):
    X, y = ensemble
    with client.as_current():
        fitted = model(scratch=tmp_path).fit(da.from_array(X, chunks=(12, 11, 11)), y)
        predicted = fitted.predict(da.from_array(X, chunks=(12, 11, 11))).compute()
    assert_allclose(predicted, model().fit(X, y).predict(X), rtol=1e-5)
    assert os.listdir(tmp_path) == []


def test_model__periodicity_of_the_data_array_holds_for_all_later_input(ensemble):
    X, y = ensemble
    labelled = xr.DataArray(X, dims=("sample", "x", "y"), attrs={"periodic_axes": ["x", "y"]})
    fitted = MKSHomogenizationModel(BASIS, n_components=4).fit(labelled, y)
    expected = model().fit(X, y).predict(X)
    assert_allclose(fitted.predict(X), expected, rtol=1e-6)
    assert_allclose(fitted.predict(labelled.drop_attrs()), expected, rtol=1e-6)
    flat = xr.DataArray(X.reshape(len(X), -1), dims=("sample", "voxel"), attrs={"periodic_axes": [0, 1]})
    assert_allclose(
        MKSHomogenizationModel(BASIS, n_components=4).fit(flat, y, size=(11, 11)).predict(X), expected, rtol=1e-6
    )


def test_model__lazy_results_do_not_swell_the_pickle(ensemble):
    X, y = ensemble
    fitted = model(store_correlations=True).fit(X, y)
    fitted.predict(X[:1])
    before = len(pickle.dumps(fitted))
    fitted.predict(da.from_array(X, chunks=(8, 11, 11)))
    assert len(pickle.dumps(fitted)) <= before
    assert_array_equal(pickle.loads(pickle.dumps(fitted)).predict(X), fitted.predict(X))


def test_model__column_targets_that_the_linker_flattens(ensemble):
    X, y = ensemble
    forest = RandomForestRegressor(5, random_state=0)
    with pytest.warns(DataConversionWarning):
        fitted = model(property_linker=forest).fit(X, y[:, None])
    assert_array_equal(fitted.predict(da.from_array(X, chunks=(20, 11, 11))), fitted.predict(X))


def test_score__of_lazy_samples_takes_classes_in_memory(textures):
    X, y = textures
    fitted = classifier().fit(X, y)
    assert fitted.score(da.from_array(X, chunks=(7, 12, 12)), y) == fitted.score(X, y)


def test_distance__is_how_far_scores_lie_outside_of_those_of_fit(ensemble):
    X, y = ensemble
    fitted = model().fit(X[:10], y[:10])
    assert_allclose(fitted.distance(X[:10]), 0, atol=1e-5)
    seen, scores = fitted.reduced_fit_data.astype(float), fitted.transform(X).astype(float)
    expected = [
        max(
            max(0, row[k] - seen[:, k].max(), seen[:, k].min() - row[k]) / np.std(seen[:, k])
            for k in range(scores.shape[1])
        )
        for row in scores
    ]
    assert max(expected) > 0.5
    assert_allclose(fitted.distance(X), expected, rtol=1e-4, atol=1e-5)
    with computes(0):
        lazy = fitted.distance(da.from_array(X, chunks=(7, -1, -1)))
    assert_allclose(lazy, expected, rtol=1e-4, atol=1e-5)


def test_predict__warns_of_samples_unlike_those_of_fit(ensemble):
    X, y = ensemble
    fitted = model().fit(X, y)
    fitted.predict(X)
    others = np.concatenate([X[:3], 0 * X[:2]])
    with pytest.warns(
        ExtrapolationWarning, match=r"2 of 5 samples are unlike .* fit to samples that are like"
    ) as found:
        fitted.predict(others)
    assert {warning.filename for warning in found} == {__file__}
    # By chance, a sample of the same kind may be outside of the range.
    fitted.predict(np.concatenate([X, others[-1:]]))
    # Lazy samples are not computed.
    fitted.predict(da.from_array(others, chunks=(2, -1, -1)))


def test_predict__has_the_unit_of_the_fitted_property(ensemble, tmp_path):
    X = xr.DataArray(ensemble[0], dims=("sample", "x", "y"))
    y = xr.DataArray(ensemble[1], dims="sample", name="C11", attrs={"units": "GPa"})
    model = MKSHomogenizationModel(PrimitiveBasis(2), n_components=2).fit(X, y)
    save_model(model, tmp_path / "m.zarr")
    for fitted in (model, load_model(tmp_path / "m.zarr")):
        predicted, spread = fitted.predict(X[:4], return_std=True)
        assert predicted.attrs == {"long_name": "C11", "units": "GPa"}
        assert spread.attrs == {"units": "GPa"}
    assert model.fit(X, y.to_numpy()).predict(X[:4]).attrs == {}
