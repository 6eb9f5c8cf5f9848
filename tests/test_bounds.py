"""Bounds of effective properties, and the numbers that describe a stiffness, against closed forms."""

import pickle

import dask.array as da
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.transform import Rotation
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, KFold

from mksdask import MKSHomogenizationModel, MKSStructureAnalysis, PrimitiveBasis, load_model, save_model
from mksdask.bases.gsh import bunge_angles
from mksdask.datasets import make_microstructure
from mksdask.reduction import PCA, IncrementalPCA, KeptFeatures
from mksdask.regression import KernelRegressor, polynomial_regression
from mksdask.simulation import (
    BoundedRegressor,
    effective_conductivity,
    effective_stiffness,
    engineering_constants,
    hashin_shtrikman_bounds,
    isotropic_stiffness,
    single_crystal_stiffness,
    voigt_reuss_bounds,
)
from mksdask.stats import correlate
from tests.test_fem import COPPER, POISSON, YOUNG, ZINC, stiffness_matrix, turned_by_tensor

KELVIN = {n: np.where(np.arange(n) < d, 1.0, 2**0.5) for n, d in ((6, 3), (3, 2))}


def random_stiffness(seed, n=6):
    factor = np.random.default_rng(seed).normal(size=(n, n))
    return factor @ factor.T + 0.3 * np.eye(n)


def test_engineering_constants__of_isotropic_materials():
    found = engineering_constants(isotropic_stiffness(YOUNG, POISSON))
    shear, bulk = YOUNG / (2 * (1 + POISSON)), YOUNG / (3 * (1 - 2 * POISSON))
    assert_allclose(found.young, np.tile(YOUNG[:, None], 3))
    assert_allclose(found.shear, np.tile(shear[:, None], 3))
    assert_allclose(found.poisson[:, [0, 2, 1], [1, 0, 2]], np.tile(POISSON[:, None], 3))
    assert np.isnan(found.poisson[:, range(3), range(3)]).all()
    assert_allclose(found.mean_bulk, bulk)
    assert_allclose(found.mean_shear, shear)
    assert_allclose(found.zener, 1.0)
    assert_allclose(found.anisotropy, 0.0, atol=1e-12)
    for same in (found.isotropic, found.cubic):
        assert_allclose(same, isotropic_stiffness(YOUNG, POISSON), atol=1e-10)
    plane = engineering_constants(isotropic_stiffness(YOUNG, POISSON, n_spatial=2))
    assert_allclose(plane.young[:, 0], YOUNG / (1 - POISSON**2))
    assert_allclose(plane.poisson[:, 1, 0], POISSON / (1 - POISSON))
    assert_allclose(plane.shear[:, 0], shear)
    assert_allclose(plane.mean_bulk, bulk + shear / 3)
    assert_allclose(plane.mean_shear, shear)
    assert_allclose(plane.anisotropy, 0.0, atol=1e-12)
    assert_allclose(plane.cubic, plane.isotropic, atol=1e-10)


def test_engineering_constants__of_an_orthotropic_compliance():
    young, shear = np.array([10.0, 20.0, 40.0]), np.array([3.0, 4.0, 5.0])
    S = np.diag([*1 / young, *1 / shear])
    for i, j, ratio in ((0, 1, 0.1), (0, 2, 0.2), (1, 2, 0.3)):
        S[i, j] = S[j, i] = -ratio / young[i]
    found = engineering_constants(np.linalg.inv(S))
    assert_allclose(found.young, young)
    assert_allclose(found.shear, shear)
    assert_allclose(found.poisson[[0, 0, 1], [1, 2, 2]], [0.1, 0.2, 0.3])
    assert_allclose(found.poisson[1, 0], 0.1 * 20 / 10)


def test_engineering_constants__of_cubic_crystals():
    found = engineering_constants(single_crystal_stiffness(COPPER))
    c11, c12, c44 = COPPER
    zener = 2 * c44 / (c11 - c12)
    assert_allclose(found.zener, zener)
    assert_allclose(found.anisotropy, 6 / 5 * (zener**0.5 - zener**-0.5) ** 2)
    assert_allclose(found.cubic, single_crystal_stiffness(COPPER))
    assert_allclose(found.mean_bulk, (c11 + 2 * c12) / 3)
    assert_allclose(found.mean_shear, (c11 - c12 + 3 * c44) / 5)
    turned = turned_by_tensor(single_crystal_stiffness(COPPER), np.array([[0.3, 0.8, 1.4]]))[0]
    assert_allclose(engineering_constants(turned).anisotropy, found.anisotropy)


@pytest.mark.parametrize(("group", "field"), [("I", "isotropic"), ("O", "cubic")])
@pytest.mark.parametrize("seed", [0, 1])
def test_engineering_constants__nearest_tensor_is_the_mean_over_rotations(group, field, seed):
    C = random_stiffness(seed)
    turns = bunge_angles(Rotation.create_group(group))
    found = getattr(engineering_constants(C), field)
    assert_allclose(found, turned_by_tensor(C, turns).mean(axis=0), atol=1e-10)
    # The difference is orthogonal to what has the symmetry, with all entries of the tensors counted.
    weights = np.outer(KELVIN[6], KELVIN[6]) ** 2
    assert_allclose(((C - found) * weights * found).sum(), 0, atol=1e-9)


def test_engineering_constants__in_the_plane_are_means_over_the_circle():
    C = random_stiffness(3, n=3)
    found = engineering_constants(C)
    means = []
    for M in (C * np.outer(KELVIN[3], KELVIN[3]), np.linalg.inv(C * np.outer(KELVIN[3], KELVIN[3]))):
        turned = []
        for t in np.arange(8) * np.pi / 8:
            c, s = np.cos(t), np.sin(t)
            Q = np.array([[c * c, s * s, -(2**0.5) * c * s], [s * s, c * c, 2**0.5 * c * s]])
            Q = np.vstack([Q, [2**0.5 * c * s, -(2**0.5) * c * s, c * c - s * s]])
            turned.append(Q @ M @ Q.T)
        means.append(np.mean(turned, axis=0))
        if len(means) == 1:
            square = np.mean([turned[0], turned[4]], axis=0) / np.outer(KELVIN[3], KELVIN[3])
    assert_allclose(found.isotropic, means[0] / np.outer(KELVIN[3], KELVIN[3]), atol=1e-12)
    # A mirror makes a square of what has the rotations of one.
    assert_allclose(np.diag(found.cubic), np.diag(square), atol=1e-12)
    assert_allclose(found.anisotropy, np.trace(means[0] @ means[1]) - 3)


def test_engineering_constants__raise_and_say_what_mends_them():
    for wrong, message in (
        (np.eye(4), r"got shape \(4, 4\)"),
        (np.zeros((6, 6)), "positive definite"),
        (np.full((3, 3), np.nan), "finite"),
        (np.eye(6) + np.eye(6, k=1), "symmetric"),
    ):
        with pytest.raises(ValueError, match=message):
            engineering_constants(wrong)
    with pytest.raises(ValueError, match="n_spatial must be 2 or 3"):
        isotropic_stiffness(1.0, 0.3, n_spatial=1)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), n_phases=st.integers(2, 4), dim=st.sampled_from([2, 3]))
def test_bounds__are_in_order(seed, n_phases, dim):
    rng = np.random.default_rng(seed)
    f = rng.dirichlet(np.ones(n_phases), size=5)
    f[0] = np.eye(n_phases)[0]
    E, v, k = rng.uniform(0.1, 9, n_phases), rng.uniform(-0.4, 0.45, n_phases), rng.uniform(0.1, 9, n_phases)
    wide = voigt_reuss_bounds(f, isotropic_stiffness(E, v, n_spatial=dim))
    narrow = hashin_shtrikman_bounds(f, elastic_modulus=E, poissons_ratio=v, n_spatial=dim)
    for low, high in ((wide.lower, narrow.lower), (narrow.lower, narrow.upper), (narrow.upper, wide.upper)):
        assert np.linalg.eigvalsh(high - low).min() > -1e-9
    wide, tight = voigt_reuss_bounds(f, k), hashin_shtrikman_bounds(f, conductivity=k, n_spatial=dim)
    in_order = np.stack([wide.lower, tight.lower, tight.upper, wide.upper])
    assert (np.diff(in_order, axis=0) > -1e-9).all()
    assert_allclose(in_order[:, 0], k[0])


def test_hashin_shtrikman__of_two_phases_is_the_closed_form():
    f = np.array([0.3, 0.7])
    g, k = YOUNG / (2 * (1 + POISSON)), YOUNG / (3 * (1 - 2 * POISSON))
    found = [
        engineering_constants(bound)
        for bound in hashin_shtrikman_bounds(f, elastic_modulus=YOUNG, poissons_ratio=POISSON)
    ]
    for bound, (i, j) in zip(found, ((1, 0), (0, 1)), strict=True):
        bulk = k[i] + f[j] / (1 / (k[j] - k[i]) + 3 * f[i] / (3 * k[i] + 4 * g[i]))
        root = 6 * f[i] * (k[i] + 2 * g[i]) / (5 * g[i] * (3 * k[i] + 4 * g[i]))
        assert_allclose(bound.mean_bulk, bulk)
        assert_allclose(bound.mean_shear, g[i] + f[j] / (1 / (g[j] - g[i]) + root))
    k = k + g / 3  # in the plane
    found = [
        engineering_constants(bound)
        for bound in hashin_shtrikman_bounds(f, elastic_modulus=YOUNG, poissons_ratio=POISSON, n_spatial=2)
    ]
    for bound, (i, j) in zip(found, ((1, 0), (0, 1)), strict=True):
        assert_allclose(bound.mean_bulk, k[i] + f[j] / (1 / (k[j] - k[i]) + f[i] / (k[i] + g[i])))
        root = f[i] * (k[i] + 2 * g[i]) / (2 * g[i] * (k[i] + g[i]))
        assert_allclose(bound.mean_shear, g[i] + f[j] / (1 / (g[j] - g[i]) + root))
    for dim in (2, 3):
        lower, upper = hashin_shtrikman_bounds(f, conductivity=(1.0, 6.0), n_spatial=dim)
        assert_allclose(lower, 1 + 0.7 / (1 / 5 + 0.3 / dim))
        assert_allclose(upper, 6 + 0.3 / (-1 / 5 + 0.7 / (6 * dim)))


def test_hashin_shtrikman__of_one_shear_modulus_is_the_solution_of_hill():
    mu, lam, f = 3.0, np.array([1.0, 5.0, 9.0]), np.array([0.2, 0.5, 0.3])
    poisson = lam / (2 * (lam + mu))
    exact = 1 / (f / (lam + 2 * mu)).sum() - 2 * mu
    for bound in hashin_shtrikman_bounds(f, elastic_modulus=2 * mu * (1 + poisson), poissons_ratio=poisson):
        assert_allclose(
            bound, isotropic_stiffness(mu * (3 * exact + 2 * mu) / (exact + mu), exact / (2 * (exact + mu)))
        )
    # Finite elements find it too, for any structure.
    X = make_microstructure(n_samples=1, n_phases=3, size=(8, 8, 8), grain_size=4, seed=1)
    f = np.bincount(X.ravel()) / X.size
    exact = 1 / (f / (lam + 2 * mu)).sum() - 2 * mu
    C = effective_stiffness(X, elastic_modulus=2 * mu * (1 + poisson), poissons_ratio=poisson)[0]
    assert_allclose(C[0, 1], exact, rtol=0.02)


def test_bounds__of_pores():
    f = [[0.4, 0.6], [1.0, 0.0], [0.0, 1.0]]
    wide = voigt_reuss_bounds(f, (5.0, 0.0))
    assert_allclose(wide.lower, [0, 5, 0])
    assert_allclose(wide.upper, [2, 5, 0])
    narrow = hashin_shtrikman_bounds(f, conductivity=(5.0, 0.0))
    assert_allclose(narrow.lower, [0, 5, 0], atol=1e-12)
    assert_allclose(narrow.upper[0], 5 * 0.8 / 2.6)  # 2 k f / (3 - f) of spheres in a matrix
    stiff = hashin_shtrikman_bounds(f, elastic_modulus=(5.0, 0.0), poissons_ratio=(0.3, 0.3))
    assert_array_equal(stiff.lower[0], 0.0)
    assert_allclose(stiff.upper[1], stiffness_matrix(5.0, 0.3, 3))
    # A phase that conducts along x and y alone: across, nothing passes where it is.
    sheet, other = np.diag([1.0, 2.0, 0.0]), np.diag([3.0, 2.0, 7.0])
    lower = voigt_reuss_bounds(f, [sheet, other]).lower
    assert_allclose(lower[0], np.diag([1 / (0.4 + 0.6 / 3), 2.0, 0.0]), atol=1e-12)
    assert_allclose(lower[2], other)
    tensors = voigt_reuss_bounds(f, [single_crystal_stiffness(COPPER), single_crystal_stiffness(ZINC)])
    inverse = [np.linalg.inv(single_crystal_stiffness(c)) for c in (COPPER, ZINC)]
    assert_allclose(tensors.lower[0], np.linalg.inv(0.4 * inverse[0] + 0.6 * inverse[1]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: voigt_reuss_bounds([0.5, 0.6], (1, 2)), "must sum to 1"),
        (lambda: voigt_reuss_bounds([1.0], (1, 2)), "each of the 2 phases"),
        (lambda: voigt_reuss_bounds([0.5, 0.5], (1, -2)), "without negative eigenvalues"),
        (lambda: voigt_reuss_bounds([0.5, 0.5], np.ones((2, 2))), "properties must hold a number"),
        (lambda: hashin_shtrikman_bounds([0.5, 0.5], conductivity=(1, -2)), "conductivity must hold"),
        (lambda: hashin_shtrikman_bounds([0.5, 0.5], elastic_modulus=(1, 2)), "give elastic_modulus and poissons"),
        (lambda: hashin_shtrikman_bounds([1.0], elastic_modulus=[-1], poissons_ratio=0.3), "elastic_modulus must be"),
        (lambda: hashin_shtrikman_bounds([1.0], elastic_modulus=[1], poissons_ratio=0.5), "poissons_ratio must lie"),
    ],
)
def test_bounds__raise_and_say_what_mends_them(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.fixture(scope="module")
def samples():
    """Structures of many fractions, their stiffness, and features: scores of their statistics, and the fraction."""
    X = np.concatenate(
        [
            make_microstructure(n_samples=10, size=(12, 12), grain_size=g, seed=7 * i + j, volume_fraction=(f, 1 - f))
            for i, g in enumerate([(4, 4), (2, 6), (6, 2)])
            for j, f in enumerate((0.2, 0.35, 0.5, 0.65, 0.8))
        ]
    )
    C = effective_stiffness(X, elastic_modulus=YOUNG, poissons_ratio=POISSON, tolerance=1e-6)
    scores = MKSStructureAnalysis(PrimitiveBasis(2), periodic_axes=[0, 1], n_components=4).fit_transform(X)
    return X, C, np.column_stack([scores, 1 - X.mean(axis=(1, 2))])


PLANE = isotropic_stiffness(YOUNG, POISSON, n_spatial=2)


def assert_bounded(tensors, fraction, properties=PLANE):
    bounds = voigt_reuss_bounds(np.column_stack([fraction, 1 - fraction]), properties)
    margin = 1e-9 * np.abs(properties).max()
    assert np.linalg.eigvalsh(bounds.upper - tensors).min() > -margin
    assert np.linalg.eigvalsh(tensors - bounds.lower).min() > -margin


@pytest.mark.parametrize(
    "regressor", [None, polynomial_regression(3), RandomForestRegressor(20, random_state=0), KernelRegressor()]
)
@pytest.mark.parametrize("normalize", [True, False])
def test_bounded_regressor__keeps_the_bounds_and_is_as_good_inside(samples, regressor, normalize):
    _, C, features = samples
    truth = C[1::2]
    model = BoundedRegressor(PLANE, regressor, columns=[4], normalize=normalize).fit(features[::2], C[::2])
    found = model.predict(features[1::2])
    assert found.shape == (75, 3, 3)
    assert_array_equal(found, found.swapaxes(1, 2))
    assert_bounded(found, features[1::2, 4])
    scatter = ((truth - truth.mean(axis=0)) ** 2).sum()
    assert_allclose(model.score(features[1::2], truth), 1 - ((found - truth) ** 2).sum() / scatter)
    # The same regressor on the entries themselves.
    plain = clone(polynomial_regression(2) if regressor is None else regressor)
    rows, columns = np.triu_indices(3)
    other = np.empty_like(truth)
    other[:, rows, columns] = plain.fit(features[::2], C[::2, rows, columns]).predict(features[1::2])
    other[:, columns, rows] = other[:, rows, columns]
    if normalize:
        # Trees choose other splits where rounding decides.
        most = {KernelRegressor: 1.25, RandomForestRegressor: 1.05}.get(type(regressor), 1.0)
        assert np.linalg.norm(found - truth) < most * np.linalg.norm(other - truth)
    else:
        # No prediction is made worse, measured within the range between the bounds.
        bounds = voigt_reuss_bounds(np.column_stack([features[1::2, 4], 1 - features[1::2, 4]]), PLANE)
        values, vectors = np.linalg.eigh(bounds.upper - bounds.lower)
        inverse = (vectors / np.sqrt(values)[:, None]) @ vectors.swapaxes(1, 2)
        before, after = (np.linalg.norm(inverse @ (each - truth) @ inverse, axis=(1, 2)) for each in (other, found))
        assert (after <= before * (1 + 1e-7)).all()
    # Scores far from all that was seen.
    far = features[1::2] * np.array([9, -9, 9, 9, 1])
    assert_bounded(model.predict(far), far[:, 4])


def test_bounded_regressor__is_better_on_fractions_that_it_has_not_seen(samples):
    _, C, features = samples
    is_seen = np.abs(features[:, 4] - 0.5) < 0.2
    bounded = BoundedRegressor(PLANE, columns=[4]).fit(features[is_seen], C[is_seen])
    plain = polynomial_regression(2).fit(features[is_seen], C[is_seen].reshape(-1, 9))
    new, truth = features[~is_seen], C[~is_seen]
    errors = [np.linalg.norm(model.predict(new).reshape(-1, 3, 3) - truth) for model in (bounded, plain)]
    assert errors[0] < 0.7 * errors[1]
    assert_bounded(bounded.predict(new), new[:, 4])
    pure = bounded.predict(np.array([[5.0, 5, 5, 5, 1], [5, 5, 5, 5, 0]]))
    assert_allclose(pure, PLANE, atol=1e-9 * YOUNG[0])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), n_phases=st.integers(2, 3), n=st.integers(1, 3))
def test_bounded_regressor__keeps_bounds_of_any_phases(seed, n_phases, n):
    rng = np.random.default_rng(seed)
    properties = np.stack([random_stiffness(rng.integers(2**31), n=n) for _ in range(n_phases)])
    properties[0] *= rng.integers(0, 2)  # pores, or none
    f = rng.dirichlet(np.ones(n_phases), size=30)
    lower, upper = voigt_reuss_bounds(f, properties)
    y = lower + rng.random((30, 1, 1)) * (upper - lower)
    X = np.column_stack([rng.normal(size=(30, 2)), f])
    columns = list(range(2, 2 + n_phases))
    if n == 1:
        properties, y = properties[:, 0, 0], y[:, 0, 0]
        lower, upper = lower[:, 0, 0], upper[:, 0, 0]
    model = BoundedRegressor(properties, columns=columns).fit(X, y)
    found = model.predict(X * np.array([30, 30, *[1] * n_phases]))
    assert found.shape == y.shape
    for gap in (found - lower, upper - found):
        assert np.linalg.eigvalsh(gap.reshape(30, *(n, n))).min() > -1e-8 * np.abs(properties).max()
    flat = BoundedRegressor(properties, columns=columns[:-1]).fit(X, y.reshape(30, -1))
    assert_allclose(flat.predict(X), model.predict(X).reshape(30, -1), rtol=0, atol=1e-7 * np.abs(properties).max())


LAG0 = np.ravel_multi_index((6, 6), (12, 12))  # of the first phase with itself, which is its fraction


@pytest.mark.parametrize(
    "reducer",
    [
        ColumnTransformer([("fraction", "passthrough", [LAG0]), ("scores", PCA(4), slice(0, None))]),
        KeptFeatures(PCA(4), [LAG0]),
        KeptFeatures(IncrementalPCA(4), [LAG0]),
    ],
)
def test_bounded_regressor__as_the_linker_of_a_model(samples, reducer, tmp_path):
    X, C, _ = samples
    model = MKSHomogenizationModel(
        PrimitiveBasis(2),
        correlations=[(0, 0)],
        periodic_axes=[0, 1],
        dimension_reducer=reducer,
        property_linker=BoundedRegressor(PLANE),
    )
    is_lazy = hasattr(reducer, "partial_fit")
    model.fit(da.from_array(X[::2], chunks=(30, -1, -1)) if is_lazy else X[::2], C[::2])
    lazy = model.predict(da.from_array(X[1::2], chunks=(20, -1, -1)))
    assert isinstance(lazy, da.Array)
    found = lazy.compute()
    assert_array_equal(found, model.predict(X[1::2]))
    assert_allclose(found, C[1::2], rtol=0, atol=0.2 * YOUNG[0])
    fraction = 1 - X[1::2].mean(axis=(1, 2))
    slack = 1e-6 * YOUNG[0]  # statistics are in single precision
    bounds = voigt_reuss_bounds(np.column_stack([fraction, 1 - fraction]), PLANE)
    assert np.linalg.eigvalsh(bounds.upper - found).min() > -slack
    assert np.linalg.eigvalsh(found - bounds.lower).min() > -slack
    if isinstance(reducer, KeptFeatures):
        assert_array_equal(model.transform(X)[:, 0], correlate(X, PrimitiveBasis(2), periodic_axes=[0, 1])[:, 6, 6, 0])
        save_model(model, tmp_path / "model.zarr")
        loaded = load_model(tmp_path / "model.zarr")
        assert_array_equal(loaded.predict(X[1::2]), found)
        assert_array_equal(loaded.fit(X[::2], C[::2]).property_linker.properties, PLANE)


@pytest.mark.parametrize(
    ("properties", "columns"), [([1.0, 8], [0]), (np.array([1, 8]), None), ([[[1.0]], np.array([[8.0]])], (0, 1))]
)
def test_bounded_regressor__is_saved_with_properties_of_any_form(samples, properties, columns, tmp_path):
    X = samples[0][:20]
    K = effective_conductivity(X, conductivity=(1.0, 8.0), tolerance=1e-4)[:, :1, 0]
    K = K[..., None] if np.ndim(properties) > 1 else K[:, 0]
    kept = [2 * LAG0, 2 * LAG0 + 1][: 2 if columns == (0, 1) else 1]
    linker = BoundedRegressor(properties, polynomial_regression(1), columns=columns, normalize=False)
    model = MKSHomogenizationModel(
        PrimitiveBasis(2), correlations=[(0, 0), (1, 1)], periodic_axes=[0, 1], property_linker=linker
    )
    model.set_params(dimension_reducer=KeptFeatures(PCA(2), kept)).fit(X, K)
    save_model(model, tmp_path / "model.zarr")
    loaded = load_model(tmp_path / "model.zarr")
    assert_array_equal(loaded.predict(X), model.predict(X))
    assert loaded.property_linker.columns == columns


def test_kept_features__raises_and_says_what_mends_it():
    X = np.random.default_rng(0).normal(size=(9, 5))
    for reducer, columns, error, message in [
        (PCA(2), [5], ValueError, "from 0 to 4, got"),
        (PCA(2), [-1], ValueError, "from 0 to 4"),
        (PCA(2), [], ValueError, "from 0 to 4"),
        (3, [0], TypeError, "reducer must have the methods fit and transform"),
    ]:
        with pytest.raises(error, match=message):
            KeptFeatures(reducer, columns).fit(X)
    with pytest.raises(NotFittedError):
        KeptFeatures(PCA(2), [0]).transform(X)
    assert not hasattr(KeptFeatures(PCA(2), [0]), "partial_fit")


def test_bounded_regressor__is_searched_copied_and_paired_by_labels(samples):
    X, _, features = samples
    K = effective_conductivity(X, conductivity=(1.0, 8.0), tolerance=1e-6)[:, 0, 0]
    search = GridSearchCV(
        BoundedRegressor((1.0, 8.0), polynomial_regression(1), columns=[4]),
        {"regressor__monomials__degree": [1, 2]},
        cv=KFold(5, shuffle=True, random_state=0),
    )
    search.fit(features, K)
    assert search.best_score_ > 0.9
    copied = pickle.loads(pickle.dumps(search.best_estimator_))
    assert_array_equal(copied.predict(features), search.predict(features))
    table = pd.DataFrame(features, index=[f"s{i}" for i in range(len(features))])
    turned = pd.Series(K, index=table.index)[::-1]
    by_label, by_order = (clone(search.best_estimator_).fit(*data) for data in ((table, turned), (features, K)))
    assert_allclose(by_label.predict(table), by_order.predict(features))


@pytest.mark.parametrize(
    ("arguments", "change", "message"),
    [
        ({"columns": [0, 1, 2]}, {}, "columns must be the columns of X"),
        ({"columns": [7]}, {}, "columns must lie between 0 and 4"),
        ({"columns": None}, {}, "fractions must be from 0"),
        ({"properties": PLANE[:1]}, {}, "the 1 phases"),
        ({"properties": PLANE / 1000}, {}, "y must lie between the bounds"),
        ({"properties": PLANE[::-1]}, {}, "the order of properties"),
        ({}, {"y": np.ones((150, 3))}, "y must hold one tensor 3 × 3"),
        ({}, {"X": np.tile([0.0, 0, 0, 0, 1], (150, 1)), "y": np.tile(PLANE[0], (150, 1, 1))}, "one phase alone"),
    ],
)
def test_bounded_regressor__raises_and_says_what_mends_it(samples, arguments, change, message):
    _, C, features = samples
    with pytest.raises(ValueError, match=message):
        BoundedRegressor(**{"properties": PLANE, "columns": [4]} | arguments).fit(**{"X": features, "y": C} | change)
