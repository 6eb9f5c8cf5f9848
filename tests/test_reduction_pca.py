"""Principal components against scikit-learn, in memory and out of core."""

import os
import threading
import time
import tracemalloc

import dask
import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import decomposition
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from mksdask import plan
from mksdask.compute.blas import _controller, one_thread_of_blas
from mksdask.reduction import PCA, pca as pca_module, strategy
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
    monkeypatch.setattr(strategy, "SLAB_BYTES", 20 * 16 * 7)
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


@pytest.mark.parametrize(
    "X",
    [
        np.outer([1.0, 2.0, 4.0], np.ones(10)),
        np.outer(np.arange(10.0), [1.0, 0.0, 2.0]),
        np.full((4, 6), 3.0),
        np.full((6, 4), 3.0),
        np.arange(5.0)[None],
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_pca__directions_without_variance_as_in_scikit_learn(X):
    k = min(X.shape)
    oracle = decomposition.PCA(k, svd_solver="full").fit(X)
    for source in (X, chunked(X, (1,) * len(X)), da.from_array(X, chunks=(2, 2))):
        pca = PCA(k)
        scores = np.asarray(pca.fit_transform(source))
        assert_allclose(scores, oracle.transform(X), atol=1e-12)
        assert_allclose(pca.components_ @ pca.components_.T, np.eye(k), atol=1e-12)
        assert_allclose(pca.singular_values_, oracle.singular_values_, atol=1e-6)
        assert_allclose(pca.explained_variance_, np.nan_to_num(oracle.explained_variance_), atol=1e-12)
        assert_allclose(pca.explained_variance_ratio_, np.nan_to_num(oracle.explained_variance_ratio_), atol=1e-12)
        assert_allclose(np.asarray(pca.inverse_transform(scores)), X, atol=1e-12)


@pytest.mark.parametrize(
    ("X", "k", "error", "message"),
    [
        (np.zeros(5), 1, ValueError, "Expected 2D array"),
        (da.zeros(5), 1, ValueError, "must be a matrix"),
        (da.zeros((5, 3), dtype=int), 1, TypeError, "float32 or float64"),
        (np.zeros((5, 3)), 4, ValueError, "n_components=4 must be an integer between 1 and 3"),
        (np.zeros((5, 3)), 1.0, ValueError, "n_components=1.0 must be"),
        (np.zeros((5, 3)), True, ValueError, "n_components=True must be"),
        (np.full((3, 5), np.nan), 1, ValueError, "5 features, of 5 that were checked, that are NaN in all samples"),
        (np.full((5, 3), np.nan), 1, ValueError, "NaN in all samples"),
        (np.full((5, 3), np.inf), 1, ValueError, "infinite"),
        (np.full((3, 5), -np.inf), 1, ValueError, "infinite"),
        (np.where(np.eye(5), np.nan, 1.0), None, ValueError, "give their number"),
        (np.where(np.eye(5), np.nan, 1.0), 0.5, ValueError, "give their number"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_pca__raises_on_bad_input(X, k, error, message):
    with pytest.raises(error, match=message):
        PCA(k).fit(X)


def test_pca__is_a_scikit_learn_estimator():
    pca = PCA(2, scratch="somewhere")
    assert clone(pca).get_params() == pca.get_params()
    with pytest.raises(ValueError, match="is not fitted"):
        pca.transform(np.zeros((2, 3)))
    fitted = PCA(2).fit(matrix(9, 5))
    with pytest.raises(ValueError, match="expecting 5 features"):
        fitted.transform(np.zeros((2, 3)))
    assert list(fitted.get_feature_names_out()) == ["pca0", "pca1"]


def test_pca__empty_chunks():
    X = matrix(12, 4)
    lazy = da.concatenate([da.zeros((0, 4)), da.from_array(X, chunks=(6, 4))])
    assert_allclose(PCA(2).fit(lazy).components_, PCA(2).fit(X).components_, atol=1e-10)


def test_pca__large_mean_in_float32():
    X = (matrix(40, 300) * 3.0 + 1e4).astype("float32")
    pca = PCA(3)
    scores = pca.fit_transform(X)
    assert_allclose(pca.transform(X), scores, atol=2e-5 * np.abs(scores).max())


def both_chunked(X, draw):
    return da.from_array(X, chunks=(draw(sample_chunks(X.shape[0])), draw(sample_chunks(X.shape[1]))))


@settings(max_examples=40, deadline=None)
@given(
    shape=st.sampled_from([(12, 50), (50, 12), (20, 20)]),
    dtype=st.sampled_from(["float64", "float32"]),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_pca__gram_equals_svd_under_chunks_of_both_axes(shape, dtype, seed, data):
    X = matrix(*shape, seed=seed, decay=1.5).astype(dtype)
    tolerance, least = (1e-8, 1e-3) if dtype == "float64" else (1e-4, 3e-2)
    centred = X - X.mean(axis=0, dtype="float64")
    _, singular, right = np.linalg.svd(centred, full_matrices=False)
    k = np.count_nonzero(singular > least * singular[0])
    right *= np.where(right[np.arange(len(right)), np.abs(right).argmax(axis=1)] < 0, -1, 1)[:, None]
    lazy = both_chunked(X, data.draw)
    found, again = PCA(k, solver="gram"), PCA(k, solver="gram")
    scores = np.asarray(found.fit_transform(lazy))
    assert scores.dtype == found.components_.dtype == dtype
    assert_allclose(found.components_, right[:k], atol=tolerance)
    assert_allclose(found.singular_values_, singular[:k], rtol=tolerance)
    assert_allclose(found.explained_variance_, singular[:k] ** 2 / (len(X) - 1), rtol=tolerance)
    assert_allclose(scores, centred @ right[:k].T, atol=tolerance * np.abs(scores).max())
    assert_allclose(np.asarray(found.transform(lazy)), scores, atol=10 * np.finfo(dtype).eps * np.abs(X).max() * 10)
    assert_array_equal(np.asarray(again.fit_transform(lazy)), scores)
    assert_array_equal(again.components_, found.components_)


@pytest.mark.parametrize("shape", [(14, 40), (40, 14)])
@pytest.mark.parametrize("n_components", [None, 3, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("whiten", [False, True])
def test_pca__fractions_noise_and_whitening_as_in_scikit_learn(shape, n_components, whiten):
    X = matrix(*shape, decay=2.0)
    oracle = decomposition.PCA(n_components, svd_solver="full", whiten=whiten).fit(X)
    for source in (X, chunked(X, (shape[0] // 2,) * 2), da.from_array(X, chunks=(shape[0] // 2, 5))):
        pca = PCA(n_components, whiten=whiten)
        scores = np.asarray(pca.fit_transform(source))
        assert pca.n_components_ == oracle.n_components_
        assert pca.solver_ == "gram"
        strong = oracle.singular_values_ > 1e-5 * oracle.singular_values_[0]
        assert_allclose(scores[:, strong], oracle.transform(X)[:, strong], atol=1e-4 if whiten else 1e-8)
        assert_allclose(pca.noise_variance_, oracle.noise_variance_, atol=1e-10)
        assert_allclose(
            np.asarray(pca.inverse_transform(scores)), oracle.inverse_transform(oracle.transform(X)), atol=1e-6
        )


@pytest.mark.parametrize("solver", ["incremental", "randomized"])
@pytest.mark.parametrize("shape", [(60, 300), (300, 60)])
def test_pca__other_solvers_come_near_the_exact_one(solver, shape):
    X = matrix(*shape, decay=6.0)
    exact = decomposition.PCA(4, svd_solver="full").fit(X)
    for source in (X, chunked(X, (shape[0] // 4,) * 4), da.from_array(X, chunks=(shape[0] // 4, 25))):
        pca, again = PCA(4, solver=solver), PCA(4, solver=solver)
        scores = np.asarray(pca.fit_transform(source))
        assert pca.solver_ == solver
        assert_allclose(pca.components_, exact.components_, atol=1e-5)
        assert_allclose(pca.explained_variance_, exact.explained_variance_, rtol=1e-7)
        assert_allclose(pca.explained_variance_ratio_, exact.explained_variance_ratio_, rtol=1e-7)
        assert_allclose(pca.noise_variance_, exact.noise_variance_, rtol=1e-6)
        assert_allclose(scores, exact.transform(X), atol=1e-4)
        assert_array_equal(np.asarray(again.fit_transform(source)), scores)


def test_pca__auto_takes_what_fits_and_says_which():
    def planned(shape, chunks, memory_limit, **options):
        found = plan(PCA(5, **options).fit, da.zeros(shape, chunks=chunks, dtype="float32"), memory_limit=memory_limit)
        return found.layout["solver"]

    assert planned((1000, 20_000), (100, 20_000), "1104MiB") == "gram"
    # A Gram matrix of 1.6 GB, sketches of 7 MB.
    assert planned((20_000, 20_000), (100, 20_000), "1104MiB") == "incremental"
    # Sketches of 3.6 GB.
    assert planned((20_000, 10_000_000), (5000, 1000), "1104MiB") == "randomized"
    with pytest.raises(ValueError, match="by the gram solver needs"):
        planned((20_000, 20_000), (100, 20_000), "1104MiB", solver="gram")
    with pytest.raises(ValueError, match=r"X to fewer features in each chunk"):
        planned((2000, 10_000_000), (500, 100_000), "1104MiB", solver="gram")


def spread_matrix(n, p, seed=0):
    """Of components that all features take part in, as statistics have them."""
    rng = np.random.default_rng(seed)
    spectrum = np.diag(np.exp(-np.arange(8) / 1.5))
    return rng.normal(size=(n, 8)) @ spectrum @ rng.normal(size=(8, p)) + rng.normal(size=p)


def completed(X, k, passes=4000):
    """Fill gaps by a truncated SVD, again and again, until they stay."""
    gaps = np.isnan(X)
    filled = np.where(gaps, np.nanmean(X, axis=0), X)
    for _ in range(passes):
        mean = filled.mean(axis=0)
        left, singular, right = np.linalg.svd(filled - mean, full_matrices=False)
        filled = np.where(gaps, (left[:, :k] * singular[:k]) @ right[:k] + mean, X)
    return filled


@pytest.mark.parametrize("shape", [(16, 40), (40, 16)])
def test_pca__missing_values_are_what_the_components_say(shape):
    rng = np.random.default_rng(1)
    X = spread_matrix(*shape)
    X[rng.random(shape) < 0.04] = np.nan
    filled = completed(X, 2)
    oracle = decomposition.PCA(2, svd_solver="full").fit(filled)
    half = shape[0] // 2
    for source in (X, chunked(X, (half, half)), da.from_array(X, chunks=(half, 7))):
        pca = PCA(2)
        scores = pca.fit_scores(source)
        assert 1 < pca.n_iter_ < 100
        assert_allclose(pca.mean_, oracle.mean_, atol=1e-5)
        assert_allclose(pca.components_, oracle.components_, atol=1e-5)
        assert_allclose(pca.explained_variance_, oracle.explained_variance_, rtol=1e-5)
        if isinstance(scores, np.ndarray):
            assert_allclose(scores, oracle.transform(filled), atol=1e-4)
        assert_allclose(pca.transform(X), oracle.transform(filled), atol=1e-4)
    with pytest.raises(ValueError, match="whole rows"):
        PCA(2).fit(X).transform(da.from_array(X, chunks=(half, 7))).compute()
    with pytest.raises(ValueError, match="NaN"):
        PCA(2, solver="randomized").fit(X)
    with pytest.raises(ValueError, match="NaN"):
        PCA(2, solver="incremental").fit(X)


@pytest.mark.parametrize("shape", [(16, 40), (40, 16)])
def test_pca__says_if_gaps_still_change(shape, monkeypatch):
    X = spread_matrix(*shape)
    X[np.random.default_rng(1).random(shape) < 0.2] = np.nan
    monkeypatch.setattr(pca_module, "MOST_PASSES", 1)
    with pytest.warns(ConvergenceWarning, match="still changed after 1 passes; too many values are missing"):
        assert PCA(2).fit(X).n_iter_ >= 1


def test_pca__recovers_a_low_rank_matrix_from_what_was_observed():
    rng = np.random.default_rng(2)
    whole = rng.normal(size=(30, 3)) @ rng.normal(size=(3, 200)) + rng.normal(size=200)
    X = np.where(rng.random(whole.shape) < 0.2, np.nan, whole)
    pca = PCA(3)
    scores = pca.fit_transform(X)
    assert_allclose(pca.inverse_transform(scores), whole, atol=1e-3)
    lost = np.where(np.arange(30)[:, None] == 4, np.nan, X)
    with pytest.raises(ValueError, match="no feature was observed"):
        pca.transform(lost)


def test_pca__only_what_has_gaps_is_read_again(monkeypatch):
    X = spread_matrix(20, 500)
    X[3, 480] = np.nan
    monkeypatch.setattr(strategy, "SLAB_BYTES", 20 * 16 * 50)
    read = []

    def counted(block, block_info=None):
        read.append(block_info[0]["chunk-location"])
        return block

    source = da.from_array(X, chunks=(10, 100)).map_blocks(counted, dtype=float, meta=np.empty((0, 0)))
    pca = PCA(2).fit(source)
    assert pca.n_iter_ > 1
    # Twice all ten blocks, and the two of the last stripe once more for each pass.
    assert len(read) == 20 + 2 * pca.n_iter_


@pytest.mark.parametrize("solver", ["gram", "randomized", "incremental"])
@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("kind", ["low rank", "few samples far from 0", "repeated"])
def test_pca__directions_that_are_rounding_are_none(kind, solver, whiten, lazy):
    rng = np.random.default_rng(2)
    X = {
        "low rank": rng.normal(size=(23, 3)) @ rng.normal(size=(3, 89)),
        "few samples far from 0": rng.normal(size=(5, 80)) + 1e3,
        "repeated": rng.normal(size=(4, 88))[rng.integers(0, 4, 14)],
    }[kind].astype(np.float32)
    rank = {"low rank": 3, "few samples far from 0": 4, "repeated": 3}[kind]
    k = min(10, *X.shape)
    given = da.from_array(X, chunks=(3, 89)) if lazy else X
    pca = PCA(k, solver=solver, whiten=whiten)
    scores = np.asarray(pca.fit_transform(given))
    assert_allclose(pca.components_ @ pca.components_.T, np.eye(k), atol=1e-5)
    assert_array_equal(pca.explained_variance_ > 1e-9 * pca.explained_variance_[0], np.arange(k) < rank)
    spread = np.abs(X - X.mean(axis=0)).max()
    assert_allclose(pca.inverse_transform(pca.transform(X)), X, atol=1e-5 * spread + 1e-7 * np.abs(X).max())
    assert_allclose(np.asarray(pca.transform(X)), scores, atol=2e-5 * max(1.0, np.abs(scores).max()))


def test_blas__calls_at_the_same_time_give_its_threads_back():
    """The first call to begin is the first to end, and its thread lives on."""
    one, both, one_ended, all_ended = (threading.Event() for _ in range(4))

    def first():
        with one_thread_of_blas():
            one.set()
            both.wait(60)
        one_ended.set()
        all_ended.wait(60)

    with threadpool_limits(3, user_api="blas"):
        thread = threading.Thread(target=first)
        thread.start()
        one.wait(60)
        with one_thread_of_blas():
            both.set()
            one_ended.wait(60)
            assert threads_of_blas() == {1}
        assert threads_of_blas() == {3}
        all_ended.set()
        thread.join()


def threads_of_blas():
    """Of NumPy and SciPy; packages such as OpenCV may have loaded their own since."""
    return {info["num_threads"] for info in _controller().info() if info["user_api"] == "blas"}


def test_pca__raises_on_lazy_half_precision():
    half = da.zeros((8, 30), chunks=(4, 30), dtype=np.float16)
    with pytest.raises(TypeError, match="X must be float32 or float64, got float16"):
        PCA(2).fit(half)
    assert PCA(2).fit(half.compute()).components_.dtype == np.float64


def test_fit__of_many_samples_in_narrow_slabs_keeps_to_its_plan():
    X = da.random.default_rng(0).normal(size=(8000, 64), chunks=(8000, 8)).astype("float32")
    pca = PCA(2, solver="randomized")
    planned = plan(pca.fit, X, memory_limit="2GiB").peak_bytes
    with dask.config.set(scheduler="sync"):
        tracemalloc.start()
        pca.fit(X)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert 0.2 * planned < peak < 1.1 * planned
