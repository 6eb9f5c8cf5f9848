"""PCA of rows that arrive in pieces, against singular values of all of them."""

import pickle

import dask.array as da
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.linalg import subspace_angles
from sklearn.base import clone

from mksdask import MKSStructureAnalysis, PrimitiveBasis, sample_windows
from mksdask.reduction import PCA, IncrementalPCA
from mksdask.stats import correlate
from tests.conftest import real_data
from tests.helpers import chunked, computes, sample_chunks


def rows(n=60, p=30, decay=0.6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, p)) @ np.diag(decay ** np.arange(p)) @ np.linalg.qr(rng.normal(size=(p, p)))[0] + 3.0


@settings(max_examples=30, deadline=None)
@given(chunks=sample_chunks(60), p=st.sampled_from([5, 30, 90]))
def test_incremental__is_exact_where_the_sketch_holds_everything(chunks, p):
    X = rows(p=p, decay=0.9)
    k = min(5, p)
    left, values, right = np.linalg.svd(X - X.mean(axis=0), full_matrices=False)
    with computes(1):
        pca = IncrementalPCA(k, oversampling=100).fit(chunked(X, chunks))
    assert_allclose(pca.singular_values_, values[:k], rtol=1e-10)
    assert_allclose(pca.explained_variance_ratio_, (values**2 / np.sum(values**2))[:k], rtol=1e-10)
    assert_allclose(np.abs(np.sum(pca.components_ * right[:k], axis=1)), 1.0, atol=1e-10)
    assert_allclose(np.abs(pca.transform(X)), np.abs(left[:, :k] * values[:k]), atol=1e-8)
    assert pca.n_samples_seen_ == 60


def test_incremental__pieces_and_merged_ones_are_one():
    X = rows()
    whole = IncrementalPCA(4, oversampling=40).fit(X)
    pieces = IncrementalPCA(4, oversampling=40)
    for piece in (X[:1], X[1:20], da.from_array(X[20:45], chunks=(7, 30)), X[45:]):
        pieces.partial_fit(piece)
    first, second = (IncrementalPCA(4, oversampling=40).fit(part) for part in (X[:33], X[33:]))
    before = second.components_.copy()
    merged = first.merge(second)
    assert_array_equal(second.components_, before)
    for found in (pieces, merged):
        for name in ("components_", "mean_", "explained_variance_", "explained_variance_ratio_", "noise_variance_"):
            assert_allclose(getattr(found, name), getattr(whole, name), atol=1e-10)


def test_incremental__agrees_with_scikit_learn_in_its_conventions():
    from sklearn.decomposition import PCA as Reference

    X = rows()
    ours = IncrementalPCA(4, oversampling=40, whiten=True).fit(X)
    theirs = Reference(4, whiten=True, svd_solver="full").fit(X)
    for name in ("mean_", "singular_values_", "explained_variance_", "explained_variance_ratio_", "noise_variance_"):
        assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-9)
    scores = ours.transform(X)
    assert_allclose(np.abs(scores), np.abs(theirs.transform(X)), atol=1e-9)
    assert_allclose(scores.std(axis=0, ddof=1), 1.0)
    assert_allclose(ours.inverse_transform(scores), theirs.inverse_transform(theirs.transform(X)), atol=1e-9)


@pytest.mark.parametrize("X", [np.ones((5, 3)), np.ones((1, 4)), np.outer([1.0, 2.0, 4.0], [1.0, -1.0])])
def test_incremental__of_rows_without_variance(X):
    pca = IncrementalPCA(2).fit(X)
    assert np.isfinite(pca.components_).all()
    assert_allclose(pca.inverse_transform(pca.transform(X)), X, atol=1e-12)


def losses(f, k, oversampling):
    """Largest relative error of a variance, largest angle between the subspaces, largest error of a ratio."""
    _, values, right = np.linalg.svd(f - f.mean(axis=0), full_matrices=False)
    pca = IncrementalPCA(k, oversampling=oversampling).fit(da.from_array(f, chunks=(40, -1)))
    ratio = pca.explained_variance_ratio_ - (values**2 / np.sum(values**2))[:k]
    return (
        np.abs(pca.singular_values_**2 / values[:k] ** 2 - 1).max(),
        subspace_angles(pca.components_.T, right[:k].T).max(),
        np.abs(ratio).max(),
    )


@pytest.mark.slow
def test_incremental__of_real_statistics_loses_little():
    image = (tifffile.imread(real_data("micrographs/binary_986x1376.tif")) > 127).astype("uint8")
    windows = sample_windows(image, size=64, n=400, seed=0, chunks=40)
    f = correlate(windows, PrimitiveBasis(2), correlations=[(0, 0)]).reshape(400, -1).compute().astype(float)
    variance, angle, ratio = losses(f, 5, None)
    assert variance < 1e-4
    assert angle < 1e-3
    assert ratio < 1e-6
    assert variance < losses(f, 5, 10)[0] < losses(f, 5, 0)[0]


@pytest.mark.slow
def test_incremental__of_a_slowly_decaying_spectrum():
    f = np.random.default_rng(0).normal(size=(1000, 2000)) / np.sqrt(1 + np.arange(2000.0))
    variance, angle, ratio = losses(f, 5, None)
    assert variance < 1e-2
    assert angle < 2e-2
    assert ratio < 1e-3


def test_incremental__saves_and_goes_on(tmp_path):
    X = rows()
    pca = IncrementalPCA(3, oversampling=7).partial_fit(X[:40])
    pca.save(tmp_path / "pca.zarr")
    loaded = IncrementalPCA.load(tmp_path / "pca.zarr")
    assert loaded.get_params() == pca.get_params()
    assert_array_equal(loaded.components_, pca.components_)
    assert_array_equal(loaded.partial_fit(X[40:]).components_, pca.partial_fit(X[40:]).components_)
    pca.save(tmp_path / "pca.zarr")  # in place of the earlier one
    assert IncrementalPCA.load(tmp_path / "pca.zarr").n_samples_seen_ == 60
    assert_array_equal(pickle.loads(pickle.dumps(pca)).components_, pca.components_)
    assert not hasattr(clone(pca), "components_")
    (tmp_path / "other").mkdir()
    for wrong in ("other", "missing"):
        with pytest.raises(ValueError, match="no saved IncrementalPCA"):
            IncrementalPCA.load(tmp_path / wrong)
    with pytest.raises(FileExistsError):
        pca.save(tmp_path / "other")


def test_incremental__as_the_reducer_of_a_structure_analysis():
    X = da.from_array(np.random.default_rng(0).integers(0, 2, (40, 8, 8)), chunks=(10, 8, 8))
    options = {"basis": PrimitiveBasis(2), "periodic_axes": [0, 1]}
    exact = MKSStructureAnalysis(**options, n_components=3).fit(X)
    streamed = MKSStructureAnalysis(**options, dimension_reducer=IncrementalPCA(3, oversampling=40)).fit(X)
    assert_allclose(np.abs(streamed.reduced_fit_data), np.abs(exact.reduced_fit_data), atol=1e-4)
    assert_allclose(streamed.transform(X), streamed.reduced_fit_data, atol=1e-6)
    assert isinstance(exact.dimension_reducer_, PCA)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda X: IncrementalPCA(0).fit(X), "n_components must be"),
        (lambda X: IncrementalPCA(2, oversampling=-1).fit(X), "oversampling must be"),
        (lambda X: IncrementalPCA(2).fit(X[0]), "Expected 2D array"),
        (lambda X: IncrementalPCA(2).fit(X * np.nan), "NaN or infinite"),
        (lambda X: IncrementalPCA(2).fit(X).partial_fit(X[:, 1:]), "expecting 30 features"),
        (lambda X: IncrementalPCA(2).fit(X).merge(IncrementalPCA(2).fit(X[:, 1:])), "other has 29 features"),
    ],
)
def test_incremental__raises_on_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(rows())
