"""MKSStructureAnalysis: reducers, weights, gaps, nearest samples and Eq. 2, in memory and lazily."""

import os
import warnings

import cloudpickle
import dask.array as da
import dask_ml.decomposition
import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose, assert_array_equal
from scipy.linalg import subspace_angles
from sklearn.base import BaseEstimator, TransformerMixin, clone, is_classifier
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import (
    NMF,
    PCA as SklearnPCA,
    FactorAnalysis,
    FastICA,
    IncrementalPCA,
    KernelPCA,
    MiniBatchNMF,
    TruncatedSVD,
)
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.manifold import TSNE, Isomap
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mksdask import FourierBasis, GivenStates, LegendreBasis, MKSStructureAnalysis, PrimitiveBasis, ProductBasis
from mksdask.datasets import make_microstructure
from mksdask.reduction import PCA
from mksdask.reduction.nearest import nearest_rows
from mksdask.stats import correlate

BASIS = PrimitiveBasis(2, domain=[0, 1])


def test_analysis__lags_missing_in_some_samples_are_filled(ensemble, tmp_path):
    X, _ = ensemble
    confidence = np.ones(X.shape)
    confidence[::4, 5:] = 0.0  # lags of 5 to 7 voxels along x are observed in the other samples alone
    options = {"n_components": 2, "periodic_axes": (), "correlations": [(0, 0), (0, 1)], "cutoff": 7}
    whole = MKSStructureAnalysis(BASIS, **options).fit(X)
    gappy = MKSStructureAnalysis(BASIS, **options, scratch=tmp_path).fit(X, confidence_index=confidence)
    assert gappy.dimension_reducer_.n_iter_ > 0
    complete = np.arange(len(X)) % 4 > 0
    # The subspace is that of all lags, and samples that have them keep their place in it.
    assert subspace_angles(gappy.dimension_reducer_.components_.T, whole.dimension_reducer_.components_.T).max() < 0.3
    correlation = np.corrcoef(gappy.reduced_fit_data[complete, 0], whole.reduced_fit_data[complete, 0])[0, 1]
    assert abs(correlation) > 0.95
    assert_allclose(
        gappy.transform(X, confidence_index=confidence)[complete], gappy.reduced_fit_data[complete], atol=1e-4
    )
    lazy = MKSStructureAnalysis(BASIS, **options, scratch=tmp_path).fit(
        da.from_array(X, chunks=(10, 11, 11)), confidence_index=da.from_array(confidence, chunks=(10, 11, 11))
    )
    assert_allclose(lazy.reduced_fit_data, gappy.reduced_fit_data, atol=1e-4)
    with pytest.raises(ValueError, match="fills gaps"):
        MKSStructureAnalysis(BASIS, dimension_reducer=PCA(3, solver="incremental"), **options).set_params(
            n_components=None
        ).fit(X, confidence_index=confidence)


@pytest.mark.parametrize("basis", [BASIS, FourierBasis(3, domain=[0, 1])])
def test_analysis__weights_of_pairs(ensemble, basis):
    X, _ = ensemble
    X = X if basis is BASIS else np.random.default_rng(0).uniform(size=X.shape)
    pairs, weights = [(0, 0), (0, 1)], [1.0, 3.0]
    options = {"n_components": 4, "periodic_axes": [0, 1], "correlations": pairs, "dtype": "float64"}
    analysis = MKSStructureAnalysis(basis, weights=weights, **options).fit(X)
    f = correlate(X, basis, periodic_axes=[0, 1], correlations=pairs, dtype="float64")
    rows = (f * weights).reshape(len(X), -1)
    rows = rows if rows.dtype.kind == "f" else np.concatenate([rows.real, rows.imag], axis=1)
    expected = SklearnPCA(4, svd_solver="full").fit_transform(rows)
    assert_allclose(np.abs(analysis.reduced_fit_data), np.abs(expected), atol=1e-9)
    full = MKSStructureAnalysis(basis, weights=weights, **options).set_params(n_components=47).fit(X)
    assert_allclose(full.inverse_transform(full.reduced_fit_data), f, atol=1e-9)
    again = np.tensordot(full.reduced_fit_data, full.components_, axes=1)
    assert_allclose(again, f - f.mean(axis=0), atol=1e-9)
    for bad in ([1.0], [1.0, 0.0], [1.0, np.nan], "ab"):
        with pytest.raises(ValueError, match=r"weights|could not convert"):
            MKSStructureAnalysis(basis, weights=bad, **options).fit(X)


def test_analysis__nearest_by_brute_force(ensemble):
    X, _ = ensemble
    analysis = MKSStructureAnalysis(BASIS, n_components=3, periodic_axes=[0, 1]).fit(X)
    queries = make_microstructure(n_samples=5, size=(11, 11), grain_size=(4, 2), seed=5)
    scores = analysis.transform(X).astype(np.float64)
    apart = np.linalg.norm(analysis.transform(queries).astype(np.float64)[:, None] - scores, axis=2)
    expected = np.argsort(apart, axis=1, kind="stable")[:, :7]
    for among in (
        None,
        scores,
        X,
        da.from_array(scores, chunks=(5, 3)),
        da.from_array(X, chunks=(9, 11, 11)),
        xr.DataArray(da.from_array(X, chunks=(9, 11, 11)), dims=("sample", "x", "y")),
    ):
        distances, indices = analysis.nearest(queries, 7, among=among)
        assert_array_equal(indices, expected)
        assert_allclose(distances, np.take_along_axis(apart, expected, axis=1), rtol=1e-4, atol=1e-5)
    twice = np.concatenate([scores, scores])
    distances, indices = analysis.nearest(X[:3], 2, among=da.from_array(twice, chunks=(11, 3)))
    assert_array_equal(indices, np.arange(3)[:, None] + [0, len(X)])
    assert analysis.nearest(queries, 100)[1].shape == (5, len(X))
    with pytest.raises(ValueError, match="n must be a positive integer, got 0"):
        analysis.nearest(queries, 0)
    with pytest.raises(ValueError, match="among must hold scores"):
        analysis.nearest(queries, among=scores[:, :2])
    with pytest.raises(ValueError, match="among holds NaN"):
        analysis.nearest(queries, among=np.full((3, 3), np.nan))


@pytest.mark.parametrize("chunk", [7, 10, 70, 120])
def test_nearest__of_equal_rows_the_first(chunk):
    rows = np.tile([[0.0, 0.0], [1.0, 0.0]], (60, 1))
    queries = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 0.0]])
    expected = [[0, 2, 4], [1, 3, 5], [0, 1, 2]]
    for catalogue in (rows, da.from_array(rows, chunks=(chunk, 2))):
        assert_array_equal(nearest_rows(queries, catalogue, 3)[1], expected)


@pytest.mark.parametrize(
    "reducer",
    [None, IncrementalPCA(4), dask_ml.decomposition.PCA(4, svd_solver="full"), dask_ml.decomposition.TruncatedSVD(4)],
)
def test_analysis__lazy_reducers(ensemble, reducer, tmp_path):
    X, _ = ensemble
    lazy = da.from_array(X, chunks=(3, 11, 11))
    analysis = MKSStructureAnalysis(
        BASIS, dimension_reducer=reducer, n_components=4, periodic_axes=[0, 1], scratch=tmp_path
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scores = analysis.fit_transform(lazy)
        again = analysis.transform(lazy)
    assert isinstance(again, da.Array)
    assert_allclose(again, scores, atol=1e-4)
    assert os.listdir(tmp_path) == []
    exact = MKSStructureAnalysis(BASIS, n_components=4, periodic_axes=[0, 1]).fit_transform(X)
    if not isinstance(reducer, dask_ml.decomposition.TruncatedSVD):
        assert_allclose(np.abs(scores[:, 0]), np.abs(exact[:, 0]), atol=2e-2)


def test_analysis__lazy_input_is_never_loaded_whole(ensemble):
    X, _y = ensemble
    lazy = da.from_array(X, chunks=(12, 11, 11))
    with pytest.raises(TypeError, match="would load lazy X whole"):
        MKSStructureAnalysis(BASIS, dimension_reducer=SklearnPCA(2)).fit(lazy)


REDUCERS = [
    NMF(3, max_iter=300, tol=1e-5),
    MiniBatchNMF(3, max_iter=20, random_state=0),
    Isomap(n_components=3, n_neighbors=20),
    KernelPCA(3, kernel="rbf"),
    FastICA(3, random_state=0),
    TruncatedSVD(3),
    FactorAnalysis(3),
    make_pipeline(StandardScaler(), SklearnPCA(3)),
    make_pipeline("passthrough", NMF(3, max_iter=300, tol=1e-5), StandardScaler()),
]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("options", [{}, {"periodic_axes": (), "cutoff": 8}], ids=["periodic", "not periodic"])
@pytest.mark.parametrize("reducer", REDUCERS, ids=lambda reducer: repr(reducer)[:24])
def test_analysis__reducers_of_scikit_learn(ensemble, reducer, options):
    X, _ = ensemble
    lazy = da.from_array(X, chunks=(13, 11, 11))
    options = {"periodic_axes": [0, 1], "dtype": "float64"} | options
    analysis = MKSStructureAnalysis(BASIS, dimension_reducer=reducer, **options).fit(X)
    f = correlate(X, BASIS, **options).reshape(len(X), -1)
    f = f.clip(0) if "NMF" in repr(reducer) else f
    oracle = clone(reducer).fit(f)
    assert_allclose(analysis.transform(X), oracle.transform(f), atol=1e-6)
    scores = analysis.transform(lazy)
    assert scores.dtype == scores.compute().dtype == analysis.transform(X).dtype == analysis.reduced_fit_data.dtype
    # NMF decides from all rows that it gets when to stop.
    assert_allclose(scores, analysis.transform(X), atol=0.05 if "NMF" in repr(reducer) else 1e-6)
    if hasattr(oracle, "components_"):
        assert analysis.components_.shape == (3, *analysis._map.shape)
    assert type(reducer).__name__ in analysis._repr_html_()
    shared = analysis.share(X)
    assert clone(analysis).fit(shared).transform(shared[:5]).shape == (5, 3)
    if not hasattr(reducer, "partial_fit"):
        with pytest.raises(TypeError, match="would load lazy X whole"):
            clone(analysis).fit(lazy)
    else:
        assert clone(analysis).fit(lazy).transform(lazy).compute().shape == (len(X), 3)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("is_lazy", [False, True])
def test_analysis__negative_values_by_rounding_alone_are_set_to_0(ensemble, is_lazy):
    X, _ = ensemble
    X = da.from_array(X, chunks=(13, 11, 11)) if is_lazy else X

    class Seen(TransformerMixin, BaseEstimator):
        """Takes no negative numbers, and keeps the smallest number that it gets."""

        least = 0.0

        def partial_fit(self, X, y=None):
            return self

        fit = partial_fit

        def transform(self, X):
            Seen.least = min(Seen.least, X.min())
            return X[:, :2]

        def __sklearn_tags__(self):
            tags = super().__sklearn_tags__()
            tags.input_tags.positive_only = True
            return tags

    def fit(basis=BASIS, X=X, **options):
        options = {"periodic_axes": [0, 1], "cutoff": 4} | options
        return MKSStructureAnalysis(basis, dimension_reducer=Seen(), **options).fit(X)

    f = np.asarray(correlate(X, BASIS, periodic_axes=[0, 1], cutoff=4))
    assert f.min() < 0  # Rounding.
    whole = np.asarray(X)
    product = np.stack([whole, 1 - whole], axis=-1)
    fit()
    fit(ProductBasis(BASIS, BASIS), product)
    fit(None, BASIS.discretize(X))
    fit(None, f, compute_correlations=False)
    fit(None, (100 * f.clip(0)).astype(int), compute_correlations=False)
    fit(weights=[2.0, 1.0])
    assert Seen.least == 0.0
    refused = "dimension_reducer takes no negative numbers, but .* use PrimitiveBasis and mean_center=False"
    real = f.copy()
    real[3, 0, 0, 0] = -1e-3
    for basis, values, options in (
        (LegendreBasis(2, domain=[0, 1]), X, {}),
        (ProductBasis(BASIS, LegendreBasis(2, domain=[0, 1])), product, {}),
        (FourierBasis(2, domain=[0, 2]), X, {}),
        (BASIS, X, {"mean_center": True}),
        (None, real, {"compute_correlations": False}),
        (GivenStates(2), BASIS.discretize(X) - 0.5, {}),
    ):
        with pytest.raises(ValueError, match=refused):
            fit(basis, values, **options)
    assert Seen.least == 0.0


@pytest.mark.parametrize("reducer", [LinearDiscriminantAnalysis(n_components=1), PLSRegression(2)])
def test_analysis__supervised_reducers_take_y(ensemble, reducer):
    X, y = ensemble
    y = np.where(y > np.median(y), "stiff", "softer").astype(object) if is_classifier(reducer) else y
    analysis = MKSStructureAnalysis(BASIS, dimension_reducer=reducer, periodic_axes=[0, 1]).fit(X, y)
    assert analysis.reduced_fit_data.shape == (48, reducer.n_components)
    assert_allclose(analysis.transform(X), analysis.reduced_fit_data, atol=1e-4)
    assert clone(analysis).fit(analysis.share(X), y).reduced_fit_data.shape == (48, reducer.n_components)


@pytest.mark.parametrize("is_lazy", [False, True])
@pytest.mark.parametrize(
    ("reducer", "message"),
    [
        (
            TSNE(),
            r"dimension_reducer must have .*but TSNE\(\) has no transform; pass a transformer that also takes new",
        ),
        (SklearnPCA, r"dimension_reducer must be an instance, got the class PCA; pass PCA\(\)"),
        (3, "but 3 has no fit_transform and no transform; pass a transformer"),
        ("pca", "but 'pca' has no fit_transform and no transform"),
    ],
)
def test_analysis__refuses_what_is_no_reducer(ensemble, reducer, message, is_lazy):
    X, _ = ensemble
    X = da.from_array(X, chunks=(13, 11, 11)) if is_lazy else X
    for call in ("fit", "fit_transform"):
        with pytest.raises(TypeError, match=message):
            getattr(MKSStructureAnalysis(BASIS, dimension_reducer=reducer), call)(X)


@pytest.mark.parametrize("compute_correlations", [False, True])
def test_analysis__refuses_what_is_no_basis(ensemble, compute_correlations):
    X, _ = ensemble
    for basis, message in (
        (PrimitiveBasis, r"basis must be an instance, got the class PrimitiveBasis; pass PrimitiveBasis\(\)"),
        (2, r"basis must be a basis such as PrimitiveBasis\(2\).*; got the number 2"),
    ):
        with pytest.raises(TypeError, match=message):
            MKSStructureAnalysis(basis, compute_correlations=compute_correlations).fit(X)
        with pytest.raises(TypeError, match=message):
            correlate(X, basis)


def test_analysis__inverse_transform_is_equation_2(ensemble):
    X, _ = ensemble
    analysis = MKSStructureAnalysis(BASIS, n_components=40, periodic_axes=[0, 1], dtype="float64")
    scores = analysis.fit_transform(X)
    f = correlate(X, BASIS, periodic_axes=[0, 1], dtype="float64")
    assert analysis.inverse_transform(scores).shape == f.shape
    assert_allclose(analysis.inverse_transform(scores), f, atol=2e-2)
    mean = analysis.inverse_transform(np.zeros((1, 40)))[0]
    assert_allclose(mean, f.mean(axis=0), atol=1e-9)


def test_analysis__given_statistics_and_stored_ones(ensemble):
    X, _ = ensemble
    f = correlate(X, BASIS, periodic_axes=[0, 1])
    from_statistics = MKSStructureAnalysis(compute_correlations=False, n_components=3).fit(f)
    computed = MKSStructureAnalysis(BASIS, n_components=3, periodic_axes=[0, 1], store_correlations=True).fit(X)
    assert_array_equal(from_statistics.reduced_fit_data, computed.reduced_fit_data)
    assert_array_equal(computed.fit_correlations, f)
    computed.transform(X[:3])
    assert_array_equal(computed.transform_correlations, f[:3])


def test_analysis__complex_statistics_keep_real_and_imaginary_parts():
    rng = np.random.default_rng(0)
    m = rng.normal(size=(30, 5, 4, 2)) + 1j * rng.normal(size=(30, 5, 4, 2))
    options = {"periodic_axes": [0, 1], "correlations": [(0, 1)], "dtype": "float64"}
    basis = GivenStates(2, is_complex=True)
    analysis = MKSStructureAnalysis(basis, n_components=29, **options)
    scores = analysis.fit_transform(m)
    f = correlate(m, basis, periodic_axes=[0, 1], correlations=[(0, 1)], dtype="float64")
    assert np.iscomplexobj(analysis.components_)
    assert_allclose(analysis.inverse_transform(scores), f, atol=1e-8)


def test_analysis__reducer_is_once_in_the_graph(ensemble):
    X, _ = ensemble
    lazy = da.from_array(X, chunks=(6, 11, 11))
    analysis = MKSStructureAnalysis(BASIS, dimension_reducer=IncrementalPCA(4)).fit(lazy)
    graph = analysis.transform(lazy).__dask_graph__()
    assert sum(analysis.dimension_reducer_ is getattr(task, "value", task) for task in dict(graph).values()) <= 1
    tasks = [task for key, task in dict(graph).items() if "reduce" in str(key)]
    assert max(len(cloudpickle.dumps(task)) for task in tasks) < 20_000
