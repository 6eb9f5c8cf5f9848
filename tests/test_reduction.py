"""Principal components against scikit-learn, in memory and out of core."""

import os
import time

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import decomposition
from sklearn.base import clone

from mksdask.reduction import PCA, pca
from tests.helpers import chunked, computes, sample_chunks


def matrix(n, p, seed=0, decay=4.0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, p)) @ np.diag(np.exp(-np.arange(p) / decay)) + rng.normal(size=p)


@settings(max_examples=30, deadline=None)
@given(shape=st.sampled_from([(12, 50), (50, 12), (20, 20), (9, 8)]), seed=st.integers(0, 99), data=st.data())
def test_pca__equals_scikit_learn_under_any_chunks(shape, seed, data):
    X = matrix(*shape, seed=seed)
    k = data.draw(st.integers(1, 5))
    oracle = decomposition.PCA(k, svd_solver="full").fit(X)
    lazy = chunked(X, data.draw(sample_chunks(len(X))))
    for source in (X, lazy):
        pca = PCA(k)
        scores = np.asarray(pca.fit_transform(source))
        assert_allclose(pca.components_, oracle.components_, atol=1e-8)
        assert_allclose(scores, oracle.transform(X), atol=1e-8)
        assert_allclose(pca.mean_, oracle.mean_, atol=1e-12)
        assert_allclose(pca.explained_variance_, oracle.explained_variance_, rtol=1e-8)
        assert_allclose(pca.explained_variance_ratio_, oracle.explained_variance_ratio_, rtol=1e-8)
        assert_allclose(pca.singular_values_, oracle.singular_values_, rtol=1e-8)
        assert_allclose(np.asarray(pca.transform(source)), scores, atol=1e-10)
        assert_allclose(pca.components_ @ pca.components_.T, np.eye(k), atol=1e-10)
        assert_allclose(
            np.asarray(pca.inverse_transform(scores)), oracle.inverse_transform(oracle.transform(X)), atol=1e-8
        )


def test_pca__float32_stays_float32_and_accumulates_in_float64():
    X = (matrix(30, 400) + 100.0).astype("float32")
    pca = PCA(3)
    for source in (X, chunked(X, (10, 20))):
        scores = pca.fit_transform(source)
        assert scores.dtype == pca.components_.dtype == pca.transform(source).dtype == np.float32
        oracle = decomposition.PCA(3, svd_solver="full").fit(X.astype("float64"))
        assert_allclose(np.asarray(scores), oracle.transform(X.astype("float64")), atol=1e-4)


def test_pca__many_slabs_give_the_same_and_repeat_to_the_last_bit(monkeypatch):
    X = matrix(20, 500)
    monkeypatch.setattr(pca, "SLAB_BYTES", 20 * 16 * 7)
    first, again, whole = PCA(4), PCA(4), PCA(4).fit(X)
    first.fit(chunked(X, (7, 13)))
    again.fit(chunked(X, (7, 13)))
    assert_array_equal(first.components_, again.components_)
    assert_allclose(first.components_, whole.components_, atol=1e-10)


@pytest.mark.parametrize(("shape", "passes"), [((12, 50), 3), ((50, 12), 1)])
def test_pca__computes_as_often_as_it_says(shape, passes):
    X = chunked(matrix(*shape), (4,) * (shape[0] // 4) + ((shape[0] % 4,) if shape[0] % 4 else ()))
    pca = PCA(2)
    with computes(passes):
        pca.fit(X)
    with computes(0):
        pca.inverse_transform(pca.transform(X))


def test_pca__scratch_is_removed_also_on_error(tmp_path):
    X = matrix(12, 50)
    PCA(2, scratch=tmp_path).fit(chunked(X, (6, 6)))
    assert os.listdir(tmp_path) == []

    def fail(block):
        msg = "a worker fell over"
        raise RuntimeError(msg)

    with pytest.raises(RuntimeError, match="fell over"):
        PCA(2, scratch=tmp_path).fit(chunked(X, (6, 6)).map_blocks(fail, dtype=float))
    assert os.listdir(tmp_path) == []

    def slow_or_broken(block, block_id):
        if block_id[0] == 0:
            msg = "a worker fell over"
            raise RuntimeError(msg)
        time.sleep(0.5)
        return block

    with pytest.raises(RuntimeError, match="fell over"):
        PCA(2, scratch=tmp_path).fit(chunked(X, (6, 6)).map_blocks(slow_or_broken, dtype=float))
    time.sleep(0.7)
    assert os.listdir(tmp_path) == []
    PCA(2, scratch="memory://scratch-test").fit(chunked(X, (6, 6)))


def test_pca__direction_without_variance_is_a_row_of_zeros():
    X = np.outer([1.0, 2.0, 4.0], np.ones(10))
    for source in (X, chunked(X, (1, 2))):
        pca = PCA(3)
        scores = np.asarray(pca.fit_transform(source))
        assert_allclose(np.linalg.norm(pca.components_[0]), 1.0)
        assert_array_equal(pca.components_[1:], 0.0)
        assert_allclose(np.asarray(pca.inverse_transform(scores)), X, atol=1e-12)


@pytest.mark.parametrize(
    ("X", "k", "error", "message"),
    [
        (np.zeros(5), 1, ValueError, "must be a matrix"),
        (np.zeros((5, 3), dtype=int), 1, TypeError, "float32 or float64"),
        (np.zeros((5, 3)), 4, ValueError, "n_components=4 must be an integer between 1 and 3"),
        (np.full((3, 5), np.nan), 1, ValueError, "NaN"),
        (np.full((5, 3), np.inf), 1, ValueError, "NaN or infinite"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_pca__raises_on_bad_input(X, k, error, message):
    with pytest.raises(error, match=message):
        PCA(k).fit(X)


def test_pca__is_a_scikit_learn_estimator():
    pca = PCA(2, scratch="somewhere")
    assert clone(pca).get_params() == {"n_components": 2, "scratch": "somewhere"}
    with pytest.raises(ValueError, match="is not fitted"):
        pca.transform(np.zeros((2, 3)))
    fitted = PCA(2).fit(matrix(9, 5))
    with pytest.raises(ValueError, match="must have 5 features"):
        fitted.transform(np.zeros((2, 3)))
    assert list(fitted.get_feature_names_out()) == ["pca0", "pca1"]
    with pytest.raises(ValueError, match="rechunk"):
        PCA(2).fit(da.zeros((4, 4), chunks=2))


def test_pca__empty_chunks_and_constant_features():
    X = matrix(12, 4)
    lazy = da.concatenate([da.zeros((0, 4)), da.from_array(X, chunks=(6, 4))])
    assert_allclose(PCA(2).fit(lazy).components_, PCA(2).fit(X).components_, atol=1e-10)
    constant = PCA(2).fit(np.ones((10, 3)))
    assert_array_equal(constant.components_, 0.0)
    assert_array_equal(constant.explained_variance_ratio_, 0.0)


def test_pca__large_mean_in_float32():
    X = (matrix(40, 300) * 3.0 + 1e4).astype("float32")
    pca = PCA(3)
    scores = pca.fit_transform(X)
    assert_allclose(pca.transform(X), scores, atol=2e-5 * np.abs(scores).max())
