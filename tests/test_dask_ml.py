"""dask-ml around models, and inside them: lazy scores, splits, wrappers, searches, reducers; never all data at once."""

import io
import logging
import re
import warnings
import weakref
from dataclasses import dataclass, field

import dask
import dask.array as da
import dask_ml.decomposition
import dask_ml.metrics
import dask_ml.model_selection
import numpy as np
import pytest
import sklearn.metrics
import xarray as xr
from dask_ml.wrappers import Incremental, ParallelPostFit
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

from mksdask import MKSHomogenizationModel, MKSStructureAnalysis, PrimitiveBasis
from mksdask.reduction import PCA, IncrementalPCA
from mksdask.regression.scoring import Errors
from mksdask.stats import TwoPointStatistics
from mksdask.stats.features import _Preparation as Preparation
from tests.helpers import computes

BASIS = PrimitiveBasis(2, domain=[0, 1])
CHUNK = 7


def model(**options):
    return MKSHomogenizationModel(BASIS, **{"periodic_axes": [0, 1], "n_components": 4} | options)


@pytest.fixture(autouse=True)
def _in_one_thread(request):
    if "client" in request.fixturenames:
        yield
        return
    with dask.config.set(scheduler="sync"):
        yield


@dataclass
class Made:
    """Numbers of samples of the blocks that were made, and the largest number that was in memory at once."""

    rows: list = field(default_factory=list)
    held: int = 0
    most: int = 0

    def add(self, block):
        self.rows.append(len(block))
        self.held += len(block)
        self.most = max(self.most, self.held)
        weakref.finalize(block, self.free, len(block))
        return block

    def free(self, n):
        self.held -= n


@pytest.fixture
def blocks(ensemble):
    """Lazy samples, their properties, and a record of the blocks of samples that are made."""
    X, y = ensemble
    made = Made()

    def block(numbers):
        return made.add(X[numbers])

    numbers = da.arange(len(X), chunks=CHUNK)
    lazy = numbers.map_blocks(
        block, dtype=X.dtype, new_axis=[1, 2], chunks=(numbers.chunks[0], *((n,) for n in X.shape[1:])), meta=X[:0]
    )
    return lazy, da.from_array(y, chunks=CHUNK), made


@pytest.fixture
def flat(blocks):
    X, y, made = blocks
    return X.reshape(len(X), -1), y, made


# Scores.


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("linker", ["polynomial", "kernel", LinearRegression(), make_pipeline(LinearRegression())])
def test_score__of_lazy_samples_is_computed_once_in_chunks(ensemble, blocks, linker, weighted):
    (X, y), (lazy, lazy_y, made) = ensemble, blocks
    fitted = model(property_linker=linker).fit(X[::2], y[::2])
    weights = np.linspace(0, 2, len(X)) if weighted else None
    expected = fitted.score(X, y, sample_weight=weights)
    before = fitted.__dict__.get("reduced_predict_data")
    with computes(1):
        found = fitted.score(lazy, lazy_y, sample_weight=weights)
    assert isinstance(found, float)
    assert_allclose(found, expected, rtol=1e-5)
    assert sorted(made.rows) == [6] + [CHUNK] * 6
    assert made.most <= 2 * CHUNK
    assert fitted.__dict__.get("reduced_predict_data") is before
    labelled = xr.DataArray(lazy, dims=("sample", "x", "y")), xr.DataArray(lazy_y, dims=("sample",))
    assert_allclose(fitted.score(*labelled, sample_weight=None if weights is None else da.from_array(weights)), found)
    # y may be in memory, or cut in another way.
    assert_allclose(fitted.score(lazy, y, sample_weight=weights), found)
    assert_allclose(fitted.score(lazy, lazy_y.rechunk(11), sample_weight=weights), found)


def test_score__of_several_properties_and_of_constant_ones(ensemble, blocks):
    (X, y), (lazy, *_) = ensemble, blocks
    both = np.stack([y, -3 * y, np.full(len(y), 2.0)], axis=1)
    fitted = model().fit(X[::2], both[::2])
    assert_allclose(fitted.score(lazy, da.from_array(both, chunks=(9, 2))), fitted.score(X, both), rtol=1e-5)
    other = both + np.array([0, 0, 1])
    assert_allclose(fitted.score(lazy, other), fitted.score(X, other), rtol=1e-5)
    with pytest.raises(ValueError, match="y must have 3 properties for each sample"):
        fitted.score(lazy, both[:, :2])
    with pytest.raises(ValueError, match="must be finite to be scored"):
        fitted.score(lazy, np.where(both > y.mean(), np.nan, both))


def test_score__of_classes_is_the_accuracy_of_dask_ml(ensemble, blocks):
    (X, y), (lazy, lazy_y, made) = ensemble, blocks
    classes = np.where(y > np.median(y), 1, 0)
    fitted = model(property_linker=LogisticRegression()).fit(X[::2], classes[::2])
    weights = np.linspace(0, 2, len(X))
    for given in (None, weights):
        with computes(1):
            found = fitted.score(lazy, (lazy_y > np.median(y)).astype(int), sample_weight=given)
        assert_allclose(found, fitted.score(X, classes, sample_weight=given))
    assert sorted(made.rows) == [6] * 2 + [CHUNK] * 12
    assert made.most <= 2 * CHUNK
    predicted = fitted.predict(lazy)
    assert_allclose(
        dask_ml.metrics.accuracy_score(da.from_array(classes, chunks=CHUNK), predicted), fitted.score(X, classes)
    )


class OwnScore(LinearRegression):
    def score(self, X, y, sample_weight=None):
        return 42.0


def test_score__of_a_linker_of_its_own(ensemble, blocks):
    (X, y), (lazy, lazy_y, _) = ensemble, blocks
    assert model(property_linker=OwnScore()).fit(X, y).score(lazy, lazy_y) == 42.0


@pytest.mark.parametrize("metric", ["mean_squared_error", "mean_absolute_error"])
def test_metrics__of_lazy_predictions(ensemble, blocks, metric):
    (X, y), (lazy, lazy_y, made) = ensemble, blocks
    fitted = model().fit(X, y)
    with computes(1):
        found = getattr(dask_ml.metrics, metric)(lazy_y, fitted.predict(lazy))
    assert_allclose(found, getattr(sklearn.metrics, metric)(y, fitted.predict(X)), rtol=1e-4)
    assert sorted(made.rows) == [6] + [CHUNK] * 6
    assert made.most <= 2 * CHUNK


def test_errors__merge_to_those_of_all_samples():
    rng = np.random.default_rng(0)
    truth, predicted, weights = rng.normal(size=(30, 2)) + 1e6, rng.normal(size=(30, 2)) + 1e6, rng.uniform(size=30)
    weights[:7] = 0.0
    parts = [Errors.of(truth[rows], predicted[rows], weights[rows]) for rows in (slice(7), slice(7, 12), slice(12, 30))]
    found = parts[0].merge(parts[1]).merge(parts[2])
    expected = sklearn.metrics.r2_score(truth, predicted, sample_weight=weights)
    assert_allclose(found.r2, expected, rtol=1e-9)
    assert_allclose(parts[0].merge(parts[1].merge(parts[2])).r2, expected, rtol=1e-9)


# Splits.


def test_train_test_split__of_flat_lazy_samples(flat):
    X, y, made = flat
    X_train, X_test, y_train, y_test = dask_ml.model_selection.train_test_split(
        X, y, test_size=0.25, random_state=0, shuffle=True
    )
    assert made.rows == []
    fitted = model().fit(X_train, y_train, size=(11, 11))
    assert made.most <= 2 * CHUNK
    assert fitted.score(X_test, y_test) > 0.9
    assert fitted.predict(X_test).chunks == y_test.chunks


def test_train_test_split__of_labelled_lazy_samples(blocks):
    X, y, made = blocks
    labelled = xr.DataArray(X, dims=("sample", "x", "y")), xr.DataArray(y, dims=("sample",))
    X_train, X_test, y_train, y_test = dask_ml.model_selection.train_test_split(
        *labelled, test_size=0.25, random_state=0, shuffle=True
    )
    assert made.rows == []
    assert X_test.dims == ("sample", "x", "y")
    fitted = model().fit(X_train, y_train)
    assert made.most <= 2 * CHUNK
    assert fitted.score(X_test, y_test) > 0.9


@pytest.mark.parametrize(
    "splitter",
    [
        dask_ml.model_selection.KFold(3, shuffle=True, random_state=0),
        dask_ml.model_selection.ShuffleSplit(3, test_size=0.25, random_state=0),
    ],
)
def test_splitters__of_flat_lazy_samples(flat, splitter):
    X, y, made = flat
    scores = []
    for split in splitter.split(X):
        train, test = dask.compute(*split)
        fitted = model().fit(X[train], y[train], size=(11, 11))
        scores.append(fitted.score(X[test], y[test]))
    assert made.most <= 2 * CHUNK
    assert min(scores) > 0.9


# Wrappers.


def test_parallel_post_fit__of_flat_lazy_samples(ensemble, flat):
    (X, y), (lazy, lazy_y, made) = ensemble, flat
    wrapped = ParallelPostFit(model()).fit(X, y)
    with computes(0):
        predicted, scores = wrapped.predict(lazy), wrapped.transform(lazy)
    assert_allclose(predicted, model().fit(X, y).predict(X), rtol=1e-5)
    assert_allclose(np.asarray(scores), model().fit(X, y).transform(X), atol=1e-5)
    with computes(1):
        assert_allclose(wrapped.score(lazy, lazy_y), model().fit(X, y).score(X, y), rtol=1e-5)
    assert made.most <= 2 * CHUNK
    again = ParallelPostFit(model().fit(X, y), scoring="neg_mean_squared_error")
    assert_allclose(again.score(lazy, lazy_y), -sklearn.metrics.mean_squared_error(y, predicted), rtol=1e-4)


def test_parallel_post_fit__probes_with_zeros_where_there_are_none(ensemble, flat):
    (X, y), (lazy, *_) = ensemble, flat
    # Phases 1 and 2: the row of zeros, by which dask-ml finds out what a model returns, is outside of the domain.
    off = MKSHomogenizationModel(PrimitiveBasis(2, domain=[1, 2]), n_components=4, periodic_axes=[0, 1]).fit(X + 1, y)
    wrapped = ParallelPostFit(off)
    assert_allclose(wrapped.predict(lazy + 1), off.predict(X + 1), rtol=1e-5)
    assert_allclose(np.asarray(wrapped.transform(lazy + 1)), off.transform(X + 1), atol=1e-5)
    # A sample of zeros is refused as ever.
    with pytest.raises(ValueError, match=r"outside the domain \[1, 2\]"):
        off.predict(np.zeros((1, 121), X.dtype))
    with pytest.raises(ValueError, match=r"outside the domain \[1, 2\]"):
        wrapped.predict(lazy).compute()


def test_parallel_post_fit__says_what_it_cannot_take(ensemble, blocks):
    # The wrapper drops one axis of X, and its trial row has as many numbers as the second axis of X.
    (X, y), (lazy, *_) = ensemble, blocks
    wrapped = ParallelPostFit(model().fit(X, y))
    for call in (wrapped.predict, wrapped.transform):
        with pytest.raises(ValueError, match=r"ParallelPostFit takes flat samples alone, of 121.*X\.reshape"):
            call(lazy)
    statistics = TwoPointStatistics(BASIS, flatten=True).fit(X)
    with pytest.raises(ValueError, match=r"ParallelPostFit takes flat samples alone"):
        ParallelPostFit(statistics).transform(lazy)
    several = model().fit(X, np.stack([y, 2.0 * y], axis=1))
    with pytest.raises(ValueError, match=r"ParallelPostFit takes models of one property.*this model predicts 2"):
        ParallelPostFit(several).predict(lazy.reshape(len(lazy), -1))
    # What the messages advise.
    assert_allclose(several.predict(lazy), several.predict(X), rtol=1e-5)
    assert_allclose(wrapped.predict(lazy.reshape(len(lazy), -1)), wrapped.estimator.predict(X), rtol=1e-5)


def test_parallel_post_fit__of_steps_alone(ensemble, flat):
    (X, _), (lazy, *_) = ensemble, flat
    statistics = TwoPointStatistics(BASIS, periodic_axes=[0, 1], flatten=True).fit(X)
    rows = ParallelPostFit(statistics).transform(lazy)
    assert_array_equal(np.asarray(rows), statistics.transform(X))
    pca = ParallelPostFit(PCA(3)).fit(statistics.transform(X))
    features = da.from_array(statistics.transform(X), chunks=(CHUNK, -1))
    assert_allclose(np.asarray(pca.transform(features)), PCA(3).fit_transform(statistics.transform(X)), atol=1e-5)


def test_incremental__feeds_blocks_to_partial_fit():
    rows = np.random.default_rng(0).normal(size=(60, 12)) * np.arange(12, 0, -1)
    lazy = da.from_array(rows, chunks=(10, 12))
    wrapped = Incremental(IncrementalPCA(3), scoring=lambda *_: 0.0, shuffle_blocks=False).fit(lazy)
    assert_allclose(wrapped.estimator_.explained_variance_, IncrementalPCA(3).fit(lazy).explained_variance_, rtol=1e-6)
    assert_allclose(np.asarray(wrapped.transform(lazy)), wrapped.estimator_.transform(rows))


# Searches.


@pytest.mark.parametrize("search", ["GridSearchCV", "RandomizedSearchCV"])
def test_search__of_flat_samples_with_their_size(ensemble, search):
    X, y = ensemble
    grid = {"n_components": [2, 4], "degree": [1, 2]}
    options = {"n_iter": 3, "random_state": 0} if search == "RandomizedSearchCV" else {}
    found = getattr(dask_ml.model_selection, search)(model(), grid, cv=3, scheduler="threads", **options)
    found.fit(X.reshape(len(X), -1), y, size=(11, 11))
    expected = cross_val_score(model(**found.best_params_), X, y, cv=3).mean()
    assert_allclose(found.best_score_, expected, rtol=1e-6)


# Reducers.

REDUCERS = [
    dask_ml.decomposition.PCA(4, svd_solver="full"),
    dask_ml.decomposition.PCA(4, svd_solver="randomized", random_state=0, iterated_power=4),
    dask_ml.decomposition.TruncatedSVD(4),
    dask_ml.decomposition.IncrementalPCA(4, batch_size=CHUNK),
]


@pytest.mark.parametrize("reducer", REDUCERS)
def test_reducer__of_lazy_samples(ensemble, blocks, reducer, monkeypatch):
    (X, _), (lazy, lazy_y, made) = ensemble, blocks
    rows, prepare = Made(), Preparation.__call__
    monkeypatch.setattr(Preparation, "__call__", lambda kernel, *args: rows.add(prepare(kernel, *args)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # dask-ml divides by a variance of 0
        fitted = model(dimension_reducer=reducer).fit(lazy, lazy_y)
    assert made.most <= 2 * CHUNK
    # The PCA of dask-ml gathers all features in one task.
    assert rows.most <= 2 * CHUNK or isinstance(reducer, dask_ml.decomposition.PCA)
    assert_allclose(fitted.transform(lazy)[:, :2], fitted.reduced_fit_data[:, :2], atol=1e-2)
    assert_allclose(fitted.transform(lazy), fitted.transform(X), atol=1e-4)
    assert fitted.score(lazy, lazy_y) > 0.9
    exact = MKSStructureAnalysis(BASIS, n_components=4, periodic_axes=[0, 1]).fit_transform(X)
    if not isinstance(reducer, dask_ml.decomposition.TruncatedSVD):
        assert_allclose(np.abs(fitted.reduced_fit_data[:, 0]), np.abs(exact[:, 0]), atol=2e-2)


@pytest.mark.parametrize("reducer", REDUCERS)
def test_reducer__has_no_two_tasks_of_ours_under_one_name(blocks, reducer, client):
    lazy = blocks[0]
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger("distributed.scheduler").addHandler(handler)
    try:
        with client.as_current(), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            analysis = MKSStructureAnalysis(BASIS, dimension_reducer=reducer, periodic_axes=[0, 1]).fit(lazy)
            np.asarray(analysis.transform(lazy))
            np.asarray(analysis.transform(lazy))
    finally:
        logging.getLogger("distributed.scheduler").removeHandler(handler)
    named = re.findall(r"run_spec` for key \('?([a-z_-]+)", stream.getvalue())
    ours = {"features", "flat_features", "correlate", "statistics", "pca-transform", "reduce", "block"}
    assert not ours & {name.rstrip("-") for name in named}
