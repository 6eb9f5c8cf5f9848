"""MKSHomogenizationModel: the contract of scikit-learn, in memory and lazily."""

import os
import pickle
import warnings

import dask.array as da
import dask_ml.model_selection
import numpy as np
import pytest
import sklearn
import xarray as xr
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.decomposition import PCA as SklearnPCA
from sklearn.decomposition import FastICA
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, PolynomialFeatures

from mksdask import (
    MissingPropertyWarning,
    MKSHomogenizationModel,
    MKSStructureAnalysis,
    PrimitiveBasis,
    create_ensemble,
    open_ensemble,
    plan,
)
from mksdask.datasets import make_microstructure
from mksdask.regression import KernelRegressor, next_samples
from mksdask.stats import correlate
from tests.helpers import computes

BASIS = PrimitiveBasis(2, domain=[0, 1])


def model(**options):
    return MKSHomogenizationModel(BASIS, **{"periodic_axes": [0, 1], "n_components": 4} | options)


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
        with pytest.warns(UserWarning, match=r"X has voxels of .*, fit saw 0\.5 um × 0\.5 um: a lag of as many voxels"):
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
        ({"property_linker": OnlyFit()}, TypeError, "property_linker must have the methods fit and predict"),
        ({"property_linker": LinearRegression(), "degree": 2}, ValueError, "has no parameter degree"),
        ({"dimension_reducer": FunctionTransformer()}, ValueError, "has no parameter n_components"),
        ({"n_components": 500}, ValueError, "n_components=500"),
    ],
)
def test_model__raises_on_what_does_not_fit_in(ensemble, options, error, message):
    with pytest.raises(error, match=message):
        model(**options).fit(*ensemble)


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
