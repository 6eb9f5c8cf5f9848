"""Influence kernels against dense least squares, in Fourier space and in real space, and the contract of the model."""

import itertools
import pickle

import dask.array as da
import numpy as np
import pytest
import scipy.linalg
import xarray as xr
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from mksdask import (
    FourierBasis,
    GivenStates,
    GSHBasis,
    LegendreBasis,
    MKSLocalizationModel,
    PrimitiveBasis,
    ProductBasis,
    create_ensemble,
    load_model,
    open_ensemble,
    save_model,
)
from mksdask.datasets import ElasticFESimulation, make_delta_microstructures, make_microstructure
from mksdask.datasets.responses import make_elastic_FE_strain_delta, make_elastic_FE_strain_random
from mksdask.localization.least_squares import absorb, empty_factor, solve
from tests.helpers import chunked, computes, sample_chunks, tasks_per_chunk


def test_predict__says_what_the_responses_of_fit_were(tmp_path):
    X, strain = make_elastic_FE_strain_delta(elastic_modulus=(1, 1.1), poissons_ratio=(0.3, 0.3), size=(5, 5))
    dims, components = ("sample", "x", "y", "component"), {"component": ["xx", "xy"]}
    y = xr.DataArray(np.stack([strain, -strain], axis=-1), dims=dims, coords=components, name="stress")
    create_ensemble(tmp_path / "e.zarr", X, y.assign_attrs(units="MPa"), spacing=2.0, units="nm")
    stored = open_ensemble(tmp_path / "e.zarr")
    model = MKSLocalizationModel(PrimitiveBasis(2)).fit(stored.microstructure, stored.response)
    save_model(model, tmp_path / "m.zarr")
    others = stored.microstructure.assign_coords(sample=["a", "b"]).assign_attrs(origin=[3.0, 4.0], phases=["f", "g"])
    for each in (model, load_model(tmp_path / "m.zarr"), pickle.loads(pickle.dumps(model))):
        found = each.predict(others)
        assert found.attrs == {
            "long_name": "stress",
            "units": "MPa",
            "origin": [3.0, 4.0],
            "periodic_axes": [],
            "periods": [],
        }
        assert found.component.values.tolist() == ["xx", "xy"]
        assert found.sample.values.tolist() == ["a", "b"]
        assert found.x.attrs == {"units": "nm", "spacing": 2.0}
    # The next fit forgets, and what y does not say is not made up.
    assert model.fit(stored.microstructure, stored.response.values).predict(stored.microstructure).attrs.keys() == {
        "periodic_axes",
        "periods",
    }


def dense_coefficients(m, y, cond):
    """α[h; r] by scipy's least squares, one frequency after the other: (*spatial, n_states, n_components)."""
    axes = tuple(range(1, m.ndim - 1))
    M, P = np.fft.fftn(m, axes=axes), np.fft.fftn(y, axes=axes)
    M[np.abs(M) < 1e-12 * np.abs(M).max()] = 0.0  # where nothing but rounding is, scipy would fit it
    A = np.empty((*M.shape[1:], P.shape[-1]), dtype=complex)
    for k in np.ndindex(M.shape[1:-1]):
        A[k] = scipy.linalg.lstsq(M[(slice(None), *k)], P[(slice(None), *k)], cond=cond)[0]
    spatial = tuple(range(len(axes)))
    return np.fft.fftshift(np.fft.ifftn(A, axes=spatial), axes=spatial)


def convolve(m, kernels):
    """Σ_h Σ_r α[h; r] m[h; s - r] as it stands, on a periodic cell."""
    spatial = m.shape[1:-1]
    axes = tuple(range(1, 1 + len(spatial)))
    out = np.zeros((*m.shape[:-1], kernels.shape[-1]), dtype=np.result_type(m, kernels))
    for index in np.ndindex(spatial):
        lag = [i - n // 2 for i, n in zip(index, spatial, strict=True)]
        out += np.einsum("...h,hc->...c", np.roll(m, lag, axis=axes), kernels[index])
    return out


def random_problem(rng, *, n_samples, spatial, n_states, n_components=1):
    X = rng.integers(0, n_states, size=(n_samples, *spatial))
    return X, rng.normal(size=(*X.shape, n_components))


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_fit__matches_dense_least_squares_for_any_chunks(data):
    spatial = data.draw(st.sampled_from([(11,), (6,), (5, 6), (6, 5), (4, 3, 5)]))
    n_states, n_samples = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 12))
    n_components = data.draw(st.integers(1, 3))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    X, y = random_problem(rng, n_samples=n_samples, spatial=spatial, n_states=n_states, n_components=n_components)
    if data.draw(st.booleans()):  # a state that never occurs, so that nothing is known of it
        X = np.minimum(X, max(n_states - 2, 0))
    basis = PrimitiveBasis(n_states)
    m = basis.discretize(X)
    expected = dense_coefficients(m, y, 1e-11)
    rows = data.draw(sample_chunks(n_samples))
    tolerance = 1e-8 * abs(expected).max()
    model = MKSLocalizationModel(basis, lstsq_rcond=1e-11)
    assert_allclose(
        model.fit(chunked(X, rows), chunked(y, rows), size=spatial).coef_, expected.real, rtol=0, atol=tolerance
    )
    assert_allclose(model.fit(X, y, size=spatial).coef_, expected.real, rtol=0, atol=tolerance)
    # The same field of probabilities, of which the model does not know that it is complete.
    assert_allclose(
        clone(model).set_params(basis=None).fit(m, y, size=spatial).coef_, expected.real, rtol=0, atol=tolerance
    )


@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize("spatial", [(7,), (4, 3)])
def test_fit__is_the_least_norm_solution_in_real_space(alpha, spatial):
    rng = np.random.default_rng(1)
    X, y = random_problem(rng, n_samples=3, spatial=spatial, n_states=3)
    X[X == 2] = 1
    basis = PrimitiveBasis(3)
    m = basis.discretize(X)
    # One column a coefficient: the field that a kernel of one entry makes.
    columns = []
    for index in np.ndindex(*spatial, 3):
        kernel = np.zeros((*spatial, 3, 1))
        kernel[index] = 1.0
        columns.append(convolve(m, kernel).ravel())
    design, target = np.array(columns).T, y.ravel()
    if alpha:
        design = np.concatenate([design, np.sqrt(alpha) * np.eye(len(columns))])
        target = np.concatenate([target, np.zeros(len(columns))])
    expected = scipy.linalg.lstsq(design, target, cond=1e-11)[0].reshape(*spatial, 3)
    model = MKSLocalizationModel(basis, alpha=alpha, lstsq_rcond=1e-11).fit(X, y[..., 0], size=spatial)
    assert_allclose(model.coef_, expected, atol=1e-12)


@pytest.mark.parametrize("spatial", [(9,), (8,), (6, 7), (7, 4), (5, 4, 6)])
def test_fit__recovers_known_kernels(spatial):
    rng = np.random.default_rng(2)
    X, _ = random_problem(rng, n_samples=20, spatial=spatial, n_states=3)
    m = PrimitiveBasis(3).discretize(X)
    known = rng.normal(size=(*spatial, 3, 2))
    y = convolve(m, known)
    model = MKSLocalizationModel(PrimitiveBasis(3)).fit(X, y, size=spatial)
    assert_allclose(model.predict(X), y, atol=1e-10)
    # The data determine the kernels up to a term that all states share, but for its sum.
    shared = known.mean(axis=-2, keepdims=True) - known.mean(axis=(*range(len(spatial)), -2), keepdims=True)
    assert_allclose(model.coef_, known - shared, atol=1e-10)
    free = MKSLocalizationModel(GivenStates(3))
    free.fit(rng.normal(size=m.shape), convolve(m := rng.normal(size=m.shape), known), size=spatial)
    assert free.coef_.shape == known.shape
    assert_allclose(
        MKSLocalizationModel(GivenStates(3)).fit(m, convolve(m, known), size=spatial).coef_, known, atol=1e-10
    )


def test_predict__is_the_convolution_for_kernels_set_by_hand():
    rng = np.random.default_rng(3)
    X, _ = random_problem(rng, n_samples=4, spatial=(6, 5), n_states=3)
    kernels = rng.normal(size=(6, 5, 3))
    model = MKSLocalizationModel(PrimitiveBasis(3))
    model.coef_ = kernels
    expected = convolve(PrimitiveBasis(3).discretize(X), kernels[..., None])[..., 0]
    assert_allclose(model.predict(X), expected, atol=1e-13)
    model.coef_ = 2 * model.coef_
    assert_allclose(model.predict(X), 2 * expected, atol=1e-13)


def test_fit__complex_basis():
    rng = np.random.default_rng(4)
    X = rng.random(size=(12, 5, 6))
    basis = FourierBasis([1, 2], domain=(0, 1))
    m = basis.discretize(X)
    known = rng.normal(size=(5, 6, 2, 1)) + 1j * rng.normal(size=(5, 6, 2, 1))
    y = convolve(m, known)
    model = MKSLocalizationModel(basis).fit(X, y)
    assert_allclose(model.coef_, known, atol=1e-10)
    assert_allclose(model.predict(X), y, atol=1e-10)
    real = MKSLocalizationModel(basis).fit(X, y.real)
    assert_allclose(real.coef_, dense_coefficients(m, y.real, 1e-13), atol=1e-10)
    prediction = real.predict(da.from_array(X, chunks=(5, 5, 6)))
    assert prediction.dtype == np.float64
    assert_allclose(prediction, convolve(m, real.coef_).real, atol=1e-10)


@pytest.mark.parametrize(
    "basis",
    [
        LegendreBasis(3, domain=(0, 1)),
        LegendreBasis([2, 0, 1], domain=(0, 1)),
        LegendreBasis([1, 3], domain=(0, 1)),
        FourierBasis(4, domain=(0, 1)),
        GSHBasis(6, domain="hexagonal"),
        ProductBasis(PrimitiveBasis(2), LegendreBasis(2)),
    ],
    ids=["legendre", "reordered", "incomplete", "fourier", "gsh", "product"],
)
@pytest.mark.parametrize("n_samples", [3, 12])
def test_fit__any_basis_matches_dense_least_squares(basis, n_samples):
    rng = np.random.default_rng(5)
    X = rng.random(size=(n_samples, 5, 4, *[basis.state_size] * basis.state_axes))
    m = basis.discretize(X)
    known = rng.normal(size=(5, 4, m.shape[-1], 2))
    y = convolve(m, known) + 0.1 * rng.normal(size=(n_samples, 5, 4, 2))
    model = MKSLocalizationModel(basis, lstsq_rcond=1e-10)
    expected = dense_coefficients(m, y, 1e-10)
    rows = (2,) * (n_samples // 2) + (1,) * (n_samples % 2)
    assert_allclose(model.fit(chunked(X, rows), chunked(y, rows)).coef_, expected, atol=1e-8 * abs(expected).max())
    larger = rng.random(size=(2, 7, 6, *X.shape[3:]))
    predicted = model.resize_coeff((7, 6)).predict(larger)
    assert_allclose(predicted, convolve(basis.discretize(larger), model.coef_), atol=1e-9)


def test_fit__float32_responses_are_fitted_in_float32():
    rng = np.random.default_rng(5)
    X, _ = random_problem(rng, n_samples=30, spatial=(9, 8), n_states=3)
    kernels = rng.normal(size=(9, 8, 3, 1))
    y = convolve(PrimitiveBasis(3).discretize(X), kernels)[..., 0]
    single = MKSLocalizationModel(PrimitiveBasis(3)).fit(X, y.astype(np.float32))
    double = MKSLocalizationModel(PrimitiveBasis(3)).fit(X, y)
    assert single.coef_.dtype == single.predict(X).dtype == np.float32
    assert double.coef_.dtype == double.predict(X.astype(np.float32)).dtype == np.float64
    assert_allclose(single.coef_, double.coef_, atol=1e-4 * abs(double.coef_).max())


def test_fit__nothing_but_rounding_is_no_data():
    # A checkerboard lives at two frequencies; all others hold rounding errors only, which must not be fitted.
    X = np.indices((8, 8)).sum(axis=0)[None] % 2 * 0.7 + 0.1
    X = np.concatenate([X, 1 - X])
    y = np.random.default_rng(6).normal(size=X.shape)
    coefficients = MKSLocalizationModel(PrimitiveBasis(2)).fit(X, y).coef_
    assert np.abs(coefficients).max() < 10


def test_partial_fit__continues_and_fit_starts_anew():
    rng = np.random.default_rng(7)
    X, y = random_problem(rng, n_samples=9, spatial=(5, 6), n_states=2, n_components=2)
    whole = MKSLocalizationModel(PrimitiveBasis(2)).fit(X, y)
    parts = MKSLocalizationModel(PrimitiveBasis(2))
    for rows in (slice(0, 2), slice(2, 3), slice(3, 9)):
        parts.partial_fit(X[rows], y[rows])
    assert parts.n_samples_seen_ == whole.n_samples_seen_ == 9
    assert_allclose(parts.coef_, whole.coef_, atol=1e-12)
    continued = pickle.loads(pickle.dumps(MKSLocalizationModel(PrimitiveBasis(2)).fit(X[:4], y[:4])))
    assert_allclose(continued.partial_fit(X[4:], y[4:]).coef_, whole.coef_, atol=1e-12)
    assert_allclose(parts.fit(X[:3], y[:3]).coef_, MKSLocalizationModel(PrimitiveBasis(2)).fit(X[:3], y[:3]).coef_)
    assert parts.n_samples_seen_ == 3


def test_partial_fit__refuses_samples_of_another_kind_and_keeps_what_it_has():
    rng = np.random.default_rng(8)
    X, y = random_problem(rng, n_samples=4, spatial=(5, 6), n_states=2)
    model = MKSLocalizationModel(PrimitiveBasis(2)).fit(X, y[..., 0])
    before = model.coef_
    with pytest.raises(ValueError, match=r"samples of shape \(4, 6\), but saw \(5, 6\)"):
        model.partial_fit(X[:, :4], y[:, :4, :, 0])
    with pytest.raises(ValueError, match=r"components of shape \(1,\), but saw \(\)"):
        model.partial_fit(X, y)
    with pytest.raises(ValueError, match="fields of float32, but saw float64"):
        model.partial_fit(X, y[..., 0].astype(np.float32))
    with pytest.raises(ValueError, match="y holds NaN"):
        model.fit(X, np.full(X.shape, np.nan))
    assert_array_equal(model.coef_, before)
    assert model.partial_fit(X, y[..., 0]).n_samples_seen_ == 8


def test_resize__kernels_keep_their_place_and_sum():
    rng = np.random.default_rng(9)
    for calibrated, larger in itertools.product([(5, 6), (6, 5)], [(9, 9), (10, 12), (6, 6), (11, 6)]):
        model = MKSLocalizationModel(PrimitiveBasis(2))
        model.coef_ = kernels = rng.normal(size=(*calibrated, 2))
        resized = model.resize_coeff(larger).coef_
        assert resized.shape == (*larger, 2)
        assert_allclose(resized.sum(axis=(0, 1)), kernels.sum(axis=(0, 1)))
        inner = tuple(
            slice(n // 2 - (c - 1) // 2, n // 2 + (c - 1) // 2 + 1) for n, c in zip(larger, calibrated, strict=True)
        )
        assert_array_equal(resized[inner], kernels[tuple(slice(1 - c % 2, None) for c in calibrated)])
        X = rng.integers(0, 2, size=(2, *larger))
        expected = convolve(PrimitiveBasis(2).discretize(X), resized[..., None])[..., 0]
        assert_allclose(model.predict(X), expected, atol=1e-12)
        # Nothing is lost by a detour.
        assert_array_equal(model.resize_coeff((20, 20)).resize_coeff(larger).coef_, resized)


def test_resize__symmetric_kernels_stay_symmetric():
    model = MKSLocalizationModel(PrimitiveBasis(1))
    lag = np.arange(8) - 4
    model.coef_ = np.exp(-np.abs(lag) / 3.0)[:, None]
    padded = model.resize_coeff((15,)).coef_[:, 0]
    assert_array_equal(padded, padded[::-1])


def test_predict__on_a_larger_domain_agrees_with_finite_elements():
    phases = {"elastic_modulus": (100, 130), "poissons_ratio": (0.3, 0.3)}
    model = MKSLocalizationModel(PrimitiveBasis(2)).fit(*make_elastic_FE_strain_delta(size=(21, 21), **phases))
    X, strain = make_elastic_FE_strain_random(n_samples=2, size=(63, 40), **phases)
    error = np.abs(model.resize_coeff((63, 40)).predict(X) - strain)
    assert error.mean() < 0.01 * strain.mean()
    assert error.max() < 0.05 * strain.mean()


@pytest.mark.parametrize(("size", "limit"), [((21, 21), 2e-3), ((9, 9, 9), 4e-3)])
def test_section_5_2__misfit_of_the_calibration_falls_as_the_square_of_the_contrast(size, limit):
    misfit = []
    for contrast in (1.01, 1.1, 1.25):
        moduli = (80.0, 80.0 * np.sqrt(contrast), 80.0 * contrast)
        X, strain = make_elastic_FE_strain_delta(moduli, (0.3,) * 3, size, macro_strain=0.02)
        model = MKSLocalizationModel(PrimitiveBasis(3)).fit(X, strain)
        misfit.append(np.abs(model.predict(X) - strain).max() / 0.02)
    assert misfit[-1] < limit
    for (low, high), factor in zip(itertools.pairwise(misfit), ((0.1 / 0.01) ** 2, (0.25 / 0.1) ** 2), strict=True):
        assert 0.7 * factor < high / low < 1.3 * factor


def test_kernels__have_the_symmetries_of_the_load():
    X, strain = make_elastic_FE_strain_delta(size=(11, 11, 9), component=None)
    kernels = MKSLocalizationModel(PrimitiveBasis(2)).fit(X, strain).coef_
    assert kernels.shape == (11, 11, 9, 2, 6)
    # Stretch along x: mirrors keep normal strains, and turn the sign of the shears that they reverse.
    for axis, reversed_shears in ((0, (4, 5)), (1, (3, 5)), (2, (3, 4))):
        signs = np.where(np.isin(np.arange(6), reversed_shears), -1.0, 1.0)
        assert_allclose(np.flip(kernels, axis=axis), kernels * signs, atol=1e-9 * np.abs(kernels).max())
    # The mean strain is imposed whatever the microstructure.
    assert_allclose(kernels.sum(axis=(0, 1, 2)), [[0.01, 0, 0, 0, 0, 0]] * 2, atol=1e-12)


def test_fit__components_at_once_equal_one_by_one():
    X, strain = make_elastic_FE_strain_random(n_samples=6, size=(9, 8), component=None, chunks=4)
    tensor = MKSLocalizationModel(PrimitiveBasis(2)).fit(X, strain)
    for component in range(3):
        scalar = MKSLocalizationModel(PrimitiveBasis(2)).fit(X, strain[..., component])
        assert_allclose(tensor.coef_[..., component], scalar.coef_, atol=1e-15)
    assert tensor.predict(X).shape == strain.shape


def test_model__lazy_computes_once_in_fit_and_never_in_predict():
    X, strain = make_elastic_FE_strain_random(n_samples=6, size=(9, 8), chunks=2)
    data, field = X.persist(scheduler="sync"), strain.persist(scheduler="sync")
    with computes(1):
        model = MKSLocalizationModel(PrimitiveBasis(2)).fit(data, field)
    with computes(0):
        prediction = model.predict(data)
    assert prediction.chunks == data.chunks
    # Beside the chunks: the kernels, the transfer function and the offset, once each.
    assert tasks_per_chunk(prediction) * prediction.npartitions <= 2 * prediction.npartitions + 5
    assert_allclose(prediction, model.predict(data.compute()), rtol=0, atol=0)
    with computes(1):
        lazy_score = model.score(data, field)
    assert lazy_score == pytest.approx(model.score(data.compute(), field.compute()), abs=1e-12)


@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_predict__chunk_invariant(data):
    rng = np.random.default_rng(10)
    X, _ = random_problem(rng, n_samples=7, spatial=(6, 7), n_states=3)
    model = MKSLocalizationModel(PrimitiveBasis(3))
    model.coef_ = rng.normal(size=(6, 7, 3))
    rows = data.draw(sample_chunks(7))
    assert_array_equal(model.predict(chunked(X, rows)).compute(scheduler="sync"), model.predict(X))


def test_fit__mixes_lazy_and_eager_input():
    rng = np.random.default_rng(11)
    X, y = random_problem(rng, n_samples=6, spatial=(5, 5), n_states=2)
    expected = MKSLocalizationModel(PrimitiveBasis(2)).fit(X, y).coef_
    for samples, field in [
        (chunked(X, (2, 4)), y),
        (X, chunked(y, (1, 5))),
        (chunked(X, (2, 4)), chunked(y, (3, 3))),
    ]:
        model = MKSLocalizationModel(PrimitiveBasis(2)).fit(samples, field)
        assert_allclose(model.coef_, expected, atol=1e-12)
        assert model.score(samples, field) == pytest.approx(model.score(X, y))


def test_score__is_that_of_scikit_learn():
    rng = np.random.default_rng(12)
    X, y = random_problem(rng, n_samples=8, spatial=(5, 4), n_states=2, n_components=3)
    model = MKSLocalizationModel(PrimitiveBasis(2)).fit(X, y)
    weights = rng.random(8)
    expected = r2_score(y.reshape(-1, 3), model.predict(X).reshape(-1, 3), sample_weight=np.repeat(weights, 20))
    assert model.score(X, y, sample_weight=weights) == pytest.approx(expected, rel=1e-10)
    with pytest.raises(ValueError, match="one weight from 0 for each of the samples"):
        model.score(X, y, sample_weight=weights[:3])


def test_model__scikit_learn_contract_with_flat_samples():
    X, strain = make_elastic_FE_strain_random(n_samples=12, size=(8, 7))
    flat, target = X.reshape(12, -1), strain.reshape(12, -1)
    model = MKSLocalizationModel(PrimitiveBasis(2))
    assert is_regressor(model)
    assert clone(model.set_params(alpha=0.5)).alpha == 0.5
    with pytest.raises(NotFittedError):
        model.predict(X)
    fitted = clone(model).fit(flat, target, size=(8, 7))
    assert_allclose(fitted.coef_, clone(model).fit(X, strain).coef_)
    assert_allclose(fitted.predict(flat), fitted.predict(X).reshape(12, -1))
    assert fitted.score(flat, target) == pytest.approx(fitted.score(X, strain))
    scores = cross_val_score(model, flat, target, params={"size": (8, 7)}, cv=3)
    assert (scores > 0.9).all()
    search = GridSearchCV(model, {"alpha": [1e-9, 1e3]}, cv=3, scoring="r2").fit(flat, target, size=(8, 7))
    assert search.best_params_ == {"alpha": 1e-9}
    copy = pickle.loads(pickle.dumps(fitted))
    assert_array_equal(copy.predict(X), fitted.predict(X))
    steps = make_pipeline(FunctionTransformer(lambda X: 1 - X), MKSLocalizationModel(PrimitiveBasis(2)))
    assert steps.fit(X, strain).score(X, strain) > 0.9


def test_model__flat_tensor_fields():
    X, strain = make_elastic_FE_strain_random(n_samples=5, size=(6, 6), component=None)
    model = MKSLocalizationModel(PrimitiveBasis(2)).fit(X.reshape(5, -1), strain.reshape(5, -1), size=(6, 6))
    assert model.coef_.shape == (6, 6, 2, 3)
    assert_allclose(model.predict(X).reshape(5, -1), model.predict(X.reshape(5, -1)))
    model.fit(X.reshape(5, -1), strain.reshape(5, 36, 3), size=(6, 6))
    assert model.predict(X).shape == strain.shape


def test_model__labels(tmp_path):
    X = make_microstructure(n_samples=6, size=(9, 8), grain_size=2, chunks=2)
    create_ensemble(tmp_path / "e.zarr", X, spacing=0.5, units="um", periodic_axes=[0, 1])
    ensemble = open_ensemble(tmp_path / "e.zarr")
    simulation = ElasticFESimulation(elastic_modulus=(100, 120), poissons_ratio=(0.3, 0.3)).run(ensemble.microstructure)
    model = MKSLocalizationModel(PrimitiveBasis(2)).fit(ensemble.microstructure, simulation.strain)
    prediction = model.predict(ensemble.microstructure)
    assert prediction.dims == ("sample", "x", "y", "component")
    assert prediction.component.values.tolist() == ["xx", "yy", "xy"]
    assert prediction.x.attrs["units"] == "um"
    xr.testing.assert_allclose(
        prediction.mean(("x", "y")).compute(), simulation.mean_strain.rename("prediction").compute(), atol=1e-8
    )
    assert model.score(ensemble.microstructure, simulation.strain) > 0.95


def test_model__on_a_cluster(client):
    X, strain = make_elastic_FE_strain_random(n_samples=8, size=(12, 12), chunks=2)
    eager = MKSLocalizationModel(PrimitiveBasis(2)).fit(X.compute(), strain.compute())
    with client.as_current():
        model = MKSLocalizationModel(PrimitiveBasis(2)).fit(X, strain)
        assert_allclose(model.coef_, eager.coef_, atol=1e-14)
        assert_allclose(model.predict(X).compute(), eager.predict(X.compute()), atol=1e-14)


def test_model__raises_on_what_makes_no_sense():
    rng = np.random.default_rng(13)
    X, y = random_problem(rng, n_samples=4, spatial=(5, 6), n_states=2)
    y = y[..., 0]
    model = MKSLocalizationModel(PrimitiveBasis(2))
    with pytest.raises(ValueError, match="alpha must be a number from 0, got -1"):
        clone(model).set_params(alpha=-1).fit(X, y)
    with pytest.raises(ValueError, match="lstsq_rcond must lie"):
        clone(model).set_params(lstsq_rcond=2).fit(X, y)
    with pytest.raises(ValueError, match=r"y must hold a response of each voxel, shape \(4, 5, 6\)"):
        model.fit(X, y[:, 0, 0])
    with pytest.raises(ValueError, match=r"y must hold a response of each voxel"):
        model.fit(X, y[:3])
    with pytest.raises(ValueError, match="outside the domain"):
        model.fit(X + 1, y)
    with pytest.raises(ValueError, match=r"rechunk\(\{0: 2, 1: -1, 2: -1\}\)"):
        model.fit(X, da.from_array(y, chunks=(2, 2, 6)))
    with pytest.raises(TypeError, match="basis must be a basis"):
        MKSLocalizationModel(3).fit(X, y)
    model.fit(X, y)
    with pytest.raises(ValueError, match=r"call resize_coeff\(\(7, 6\)\)"):
        model.predict(np.zeros((1, 7, 6), dtype=int))
    with pytest.raises(ValueError, match=r"at least the \(5, 6\) voxels"):
        model.resize_coeff((4, 6))
    with pytest.raises(ValueError, match=r"coef_ must be \(\*spatial, 2\)"):
        model.coef_ = np.zeros((5, 6, 3))
    with pytest.raises(ValueError, match="coef_ holds NaN"):
        model.coef_ = np.full((5, 6, 2), np.nan)
    with pytest.raises(ValueError, match="y has components"):
        model.score(X, np.stack([y, y], axis=-1))


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
@pytest.mark.parametrize("n_rows", [1, 3, 33, 70])
def test_absorb__keeps_the_gram_matrix_and_a_real_diagonal(dtype, n_rows):
    rng = np.random.default_rng(n_rows)
    rows = (rng.normal(size=(n_rows, 5, 45)) + 1j * rng.normal(size=(n_rows, 5, 45))).astype(dtype)
    rows[..., 7] = 0.0
    rows[..., 8] *= 1e-200 if dtype == np.complex128 else 1e-30
    factor = absorb(empty_factor(3, 2, 45, dtype), rows)
    tolerance = 1e-4 if dtype == np.complex64 else 1e-12
    gram = np.einsum("ijf,ikf->fjk", rows[:, :3].conj(), rows)
    assert_allclose(np.einsum("ijf,ikf->fjk", factor[:, :3].conj(), factor), gram, atol=tolerance * n_rows)
    assert (factor[np.arange(3), np.arange(3)].real >= 0).all()
    assert_array_equal(factor[np.arange(3), np.arange(3)].imag, 0)
    assert all((factor[i, :i] == 0).all() for i in range(3))


def test_solve__does_not_square_the_condition_number():
    rng = np.random.default_rng(14)
    left, right = np.linalg.qr(rng.normal(size=(20, 4)))[0], np.linalg.qr(rng.normal(size=(4, 4)))[0]
    matrix = left @ np.diag([1.0, 1e-4, 1e-8, 1e-10]) @ right
    known = rng.normal(size=(4, 1))
    rows = np.concatenate([matrix, matrix @ known], axis=1)[..., None].astype(complex)
    found = solve(absorb(empty_factor(4, 1, 1, complex), rows), np.eye(4), rcond=1e-14, floor=0.0)
    assert_allclose(found[..., 0], known, atol=1e-4)
    truncated = solve(absorb(empty_factor(4, 1, 1, complex), rows), np.eye(4), rcond=1e-6, floor=0.0)
    assert_allclose(truncated[..., 0], scipy.linalg.lstsq(matrix, matrix @ known, cond=1e-6)[0], atol=1e-8)


def test_delta__calibration_is_the_smallest_that_determines_the_kernels():
    X = make_delta_microstructures(n_phases=3, size=(5, 4))
    rng = np.random.default_rng(15)
    y = rng.normal(size=X.shape)
    expected = dense_coefficients(PrimitiveBasis(3).discretize(X), y[..., None], 1e-11)[..., 0].real
    assert_allclose(MKSLocalizationModel(PrimitiveBasis(3)).fit(X, y).coef_, expected, atol=1e-12)


def test_score__refuses_what_is_not_finite_and_weights_nothing():
    rng = np.random.default_rng(20)
    X, y = random_problem(rng, n_samples=8, spatial=(5, 6), n_states=2)
    y = y[..., 0]
    model = MKSLocalizationModel(PrimitiveBasis(2), alpha=0.1).fit(X, y)
    for bad in (np.nan, np.inf):
        spoilt = y.copy()
        spoilt[7, 0, 0] = bad
        with pytest.raises(ValueError, match="NaN or infinite"):
            model.score(X, spoilt)
        with pytest.raises(ValueError, match="NaN or infinite"):
            model.score(chunked(X, (4, 4)), chunked(spoilt, (4, 4)))
    for weights in (np.zeros(8), np.full(8, np.nan), -np.ones(8)):
        with pytest.raises(ValueError, match="sample_weight must"):
            model.score(X, y, sample_weight=weights)
    with pytest.raises(ValueError, match="one sample at least"):
        model.score(X[:0], y[:0])
    constant = np.ones_like(y)
    assert model.score(X, constant) == 0.0


def test_score__of_complex_responses():
    rng = np.random.default_rng(21)
    X, y = random_problem(rng, n_samples=8, spatial=(5, 6), n_states=2)
    y = y[..., 0] + 1j * (rng.normal(size=(8, 5, 6)) + rng.normal(size=(8, 1, 1)))
    model = MKSLocalizationModel(PrimitiveBasis(2), alpha=1.0).fit(X, y)
    expected = 1 - (np.abs(y - model.predict(X)) ** 2).sum() / (np.abs(y - y.mean()) ** 2).sum()
    assert model.score(X, y) == pytest.approx(expected, rel=1e-10)


def test_fit__many_samples_in_single_precision_keep_a_rare_state():
    # Singular values that count as zero must not depend on the number of samples.
    rng = np.random.default_rng(22)
    n = 400_000
    X = np.where(rng.random((n, 8)) < 0.003, 2, rng.integers(0, 2, (n, 8))).astype(np.uint8)
    known = MKSLocalizationModel(PrimitiveBasis(3))
    known.coef_ = rng.normal(size=(8, 3))
    model = MKSLocalizationModel(PrimitiveBasis(3)).fit(X, known.predict(X).astype(np.float32), size=(8,))
    test = rng.integers(0, 3, (50, 8))
    assert_allclose(model.predict(test), known.predict(test), atol=2e-3)


def test_fit__large_values_in_single_precision():
    rng = np.random.default_rng(23)
    X = 1e16 * (1 + 0.3 * rng.random((20, 32, 32, 1)))
    known = MKSLocalizationModel(GivenStates(1))
    kernels = np.zeros((32, 32, 1))
    kernels[16, 16], kernels[15, 16] = 1e-16, 5e-17
    known.coef_ = kernels
    y = known.predict(X)
    assert MKSLocalizationModel(GivenStates(1)).fit(X, y.astype(np.float32)).score(X, y) > 0.9999
    tiny = MKSLocalizationModel(GivenStates(1)).fit(X * 1e-156, y)
    assert tiny.score(X * 1e-156, y) == pytest.approx(1.0)


def test_model__keeps_the_basis_it_was_fitted_with():
    rng = np.random.default_rng(24)
    X, y = random_problem(rng, n_samples=8, spatial=(5, 6), n_states=2)
    basis = PrimitiveBasis(2)
    model = MKSLocalizationModel(basis).fit(X, y[..., 0])
    before = model.predict(X)
    basis.domain = (0, 2)
    assert_array_equal(model.predict(X), before)
    with pytest.raises(ValueError, match="partial_fit got basis"):
        model.partial_fit(X, y[..., 0])


def test_partial_fit__knows_a_basis_by_its_functions():
    rng = np.random.default_rng(30)
    X, y = rng.random((4, 5)), rng.random((4, 5))
    model = MKSLocalizationModel(LegendreBasis(40, (0, 1)), alpha=1.0).fit(X, y, size=(5,))
    assert model.set_params(basis=LegendreBasis(list(range(40)), [0, 1])).partial_fit(X, y).n_samples_seen_ == 8
    with pytest.raises(ValueError, match="partial_fit got basis"):
        model.set_params(basis__n_states=[*range(39), 77]).partial_fit(X, y)


def test_coef__is_read_only_and_setting_it_takes_effect():
    rng = np.random.default_rng(25)
    X, y = random_problem(rng, n_samples=8, spatial=(5, 6), n_states=2)
    model = MKSLocalizationModel(PrimitiveBasis(2)).fit(X, y[..., 0])
    with pytest.raises(ValueError, match="read-only"):
        model.coef_[2, 3] += 1.0
    model.resize_coeff((7, 7))
    with pytest.raises(ValueError, match="read-only"):
        model.coef_[2, 3] += 1.0
    model.coef_ = 2 * model.coef_
    assert model.n_samples_seen_ == 0
    assert model.partial_fit(X, y[..., 0]).n_samples_seen_ == 8
    assert model.size_ == (5, 6)


def test_fit__what_both_inputs_come_from_is_computed_once():
    calls = []

    def evolve(block):
        calls.append(len(block))
        return block + 1.0

    source = da.from_array(np.random.default_rng(26).random((6, 4, 5)), chunks=(2, 4, 5))
    evolved = source.map_blocks(evolve, dtype=float, meta=np.empty((0, 0, 0)))
    MKSLocalizationModel(LegendreBasis(2, domain=(0, 4))).fit(evolved, 2 * evolved)
    assert calls == [2, 2, 2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, X, y: m.fit(X[:0], y[:0]), "X holds no samples"),
        (lambda m, X, y: m.fit(X, np.ones((8, 20, 24))), "a response of each voxel"),
        (lambda m, X, y: m.fit(X.reshape(8, -1), np.ones((8, 60)), size=(30,)), "a response of each voxel"),
        (lambda m, X, y: m.fit(da.from_array(X)[da.from_array(y)[:, 0, 0] > 0], y), "compute_chunk_sizes"),
        (lambda m, X, y: m.set_params(alpha="a").fit(X, y), "alpha must be a number"),
        (lambda m, X, y: m.set_params(lstsq_rcond="warn").fit(X, y), "lstsq_rcond must lie"),
        (lambda m, X, y: m.fit(X, y).predict(X[:, :4]), "voxels or fewer"),
        (lambda m, X, y: m.fit(X, y).predict(X[..., None]), "2 spatial axes"),
        (lambda m, X, y: m.fit(X, y).predict(np.zeros((1, 9, 9))), r"resize_coeff\(\(9, 9\)\)"),
        (lambda m, X, y: m.fit(X, y).predict(X, size=(6, 5)), "size=\\(6, 5\\)"),
        (lambda m, X, y: m.fit(X, y).resize_coeff((10.7, 10)), "size must be"),
        (lambda m, X, y: setattr(m, "coef_", np.zeros((0, 4, 2))), "coef_ must be"),
        (lambda m, X, y: setattr(m, "coef_", "abc"), "coef_ must be"),
    ],
)
def test_model__raises_and_says_what_mends_it(call, message):
    X, y = random_problem(np.random.default_rng(27), n_samples=8, spatial=(5, 6), n_states=2)
    with pytest.raises(ValueError, match=message):
        call(MKSLocalizationModel(PrimitiveBasis(2)), X, y[..., 0])


def test_model__raises_on_other_states_and_kinds():
    rng = np.random.default_rng(28)
    model = MKSLocalizationModel().fit(rng.dirichlet(np.ones(3), size=(6, 5, 6)), rng.normal(size=(6, 5, 6)))
    for n_states in (2, 4):
        with pytest.raises(ValueError, match=f"X holds {n_states} local states"):
            model.predict(rng.dirichlet(np.ones(n_states), size=(2, 5, 6)))
    with pytest.raises(TypeError, match="X must be real"):
        MKSLocalizationModel(PrimitiveBasis(2)).fit(np.zeros((2, 3, 3), complex), np.zeros((2, 3, 3)))


def test_fit__raises_on_labels_that_contradict_each_other():
    rng = np.random.default_rng(29)
    X = xr.DataArray(rng.integers(0, 2, (4, 5, 5)), dims=("sample", "x", "y"), coords={"sample": range(4)})
    y = xr.DataArray(rng.normal(size=(4, 5, 5)), dims=("sample", "x", "y"), coords={"sample": range(4)})
    model = MKSLocalizationModel(PrimitiveBasis(2)).fit(X, y)
    with pytest.raises(ValueError, match=r"y\.transpose"):
        model.fit(X, y.transpose("sample", "y", "x"))
    assert model.score(X, y[::-1]) == model.score(X, y)
    for call in (model.fit, model.score):
        with pytest.raises(ValueError, match=r"y lacks 1 label \(0\), and X lacks 1 label \(4\)"):
            call(X, y.assign_coords(sample=range(1, 5)))
