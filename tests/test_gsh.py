"""Generalized spherical harmonics: symmetry, orthogonality, closed forms and group theory."""

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.transform import Rotation
from sklearn.base import clone

from mksdask import GSHBasis, LegendreBasis
from mksdask.bases.gsh import LAUE_GROUPS, bunge_angles, invariants, symmetry_rotations
from mksdask.bases.wigner import wigner_matrices
from mksdask.stats import correlate
from tests.helpers import computes

ORDERS = dict(zip(LAUE_GROUPS, (1, 2, 4, 4, 8, 3, 6, 6, 12, 12, 24), strict=True))


def harmonics(basis, rotations):
    return basis.discretize(bunge_angles(rotations)[None])[0]


@pytest.mark.parametrize("group", LAUE_GROUPS)
def test_gsh__invariant_under_the_crystal_s_rotations(group):
    basis = GSHBasis(None, domain=group, max_degree=16)
    g = Rotation.random(10, random_state=1)
    T = harmonics(basis, g)
    rotations = symmetry_rotations(group)
    assert len(rotations) == ORDERS[group]
    for s in rotations:
        assert_allclose(harmonics(basis, g * s), T, rtol=0, atol=1e-12 * np.abs(T).max())


@pytest.mark.parametrize("group", LAUE_GROUPS)
def test_gsh__number_of_functions_is_that_of_group_theory(group):
    # The multiplicity of the identity is the mean character, sin((2l+1)ω/2)/sin(ω/2) for a turn by ω.
    angles = symmetry_rotations(group).magnitude()
    degrees = np.arange(17)
    half = np.where(angles < 1e-9, 1.0, angles / 2)
    characters = np.sin(np.outer(2 * degrees + 1, half)) / np.sin(half)
    characters[:, angles < 1e-9] = 2 * degrees[:, None] + 1
    assert_array_equal([len(invariants(group, degree)) for degree in degrees], np.rint(characters.mean(axis=1)))


def exact_quadrature(degree):
    """Angles and weights that integrate products of two functions up to a degree over all rotations."""
    n = 2 * degree + 2
    x, weights = np.polynomial.legendre.leggauss(n)
    turn = np.arange(n) * 2 * np.pi / n
    phi1, tilt, phi2 = np.meshgrid(turn, np.arccos(x), turn, indexing="ij")
    weight = np.broadcast_to(weights[None, :, None] / (2 * n * n), phi1.shape)
    return np.stack([phi1, tilt, phi2], axis=-1).reshape(1, -1, 3), weight.ravel()


@pytest.mark.parametrize("group", ["triclinic", "monoclinic", "trigonal", "hexagonal", "cubic-low", "cubic"])
def test_gsh__orthogonal_with_mean_square_2l_plus_1(group):
    degree = {"triclinic": 4, "monoclinic": 5, "trigonal": 6}.get(group, 9)
    basis = GSHBasis(None, domain=group, max_degree=degree)
    angles, weights = exact_quadrature(degree)
    T = basis.discretize(angles)[0]
    gram = np.einsum("va,v,vb->ab", T.conj(), weights, T, optimize=True)
    expected = np.diag([2.0 * index.l + 1 for index in basis.index_])
    assert_allclose(gram, expected, atol=1e-10)


def test_gsh__closed_forms():
    phi1, tilt, phi2 = angles = np.random.default_rng(0).uniform(0, 3, (3, 50))
    triclinic = GSHBasis(None, max_degree=1)
    T = triclinic.discretize(angles.T[None])[0]
    # The triclinic invariants are unit vectors, order -l first: mu = 2 is k = 1.
    position = [tuple(index) for index in triclinic.index_].index((1, 2, 1))
    assert_allclose(T[:, position], 1.5 * (1 + np.cos(tilt)) * np.exp(-1j * (phi1 + phi2)), atol=1e-13)
    hexagonal = GSHBasis(None, domain="hexagonal", max_degree=2)
    position = [tuple(index) for index in hexagonal.index_].index((2, 0, 0))
    T = hexagonal.discretize(angles.T[None])[0]
    assert_allclose(T[:, position], 7.5 * np.cos(tilt) ** 2 - 2.5, atol=1e-13)


@settings(max_examples=30, deadline=None)
@given(degree=st.integers(0, 20), seed=st.integers(0, 999))
def test_wigner__recurrence_matches_matrices_which_represent_rotations(degree, seed):
    g, h = Rotation.random(7, random_state=seed), Rotation.random(7, random_state=seed + 1)
    D, E, DE = (wigner_matrices(degree, bunge_angles(r)) for r in (g, h, g * h))
    assert_allclose(D @ E, DE, atol=1e-12)
    basis = GSHBasis(None, max_degree=degree)
    T = harmonics(basis, g)[:, [index.l == degree for index in basis.index_]]
    assert_allclose(T, (2 * degree + 1) * D.reshape(7, -1), atol=1e-11)


def test_gsh__a_component_and_its_equivalents_have_one_set_of_coefficients():
    # Grains scattered about a component, each described by any of its 24 equivalents.
    rng = np.random.default_rng(2)
    spread = Rotation.from_rotvec(rng.normal(scale=0.1, size=(200, 3)))
    grains = Rotation.from_euler("ZXZ", [0.3, 0.7, 0.2]) * spread
    group = symmetry_rotations("cubic")
    basis = GSHBasis(60, domain="cubic")
    texture = harmonics(basis, grains).mean(axis=0)
    assert_allclose(harmonics(basis, grains * group[rng.integers(0, 24, 200)]).mean(axis=0), texture, atol=1e-12)
    assert np.abs(texture[1:]).max() > 1.0


@pytest.mark.parametrize("group", ["triclinic", "hexagonal", "cubic"])
def test_gsh__a_turned_specimen_turns_the_coefficients(group):
    basis = GSHBasis(None, domain=group, max_degree=4)
    grains = Rotation.random(30, random_state=3)
    turn = Rotation.from_euler("ZXZ", [0.4, 1.1, -0.6])
    before = harmonics(basis, grains).mean(axis=0)
    after = harmonics(basis, turn * grains).mean(axis=0)
    for degree in range(5):
        D = wigner_matrices(degree, bunge_angles(turn)[None])[0]
        for mu in range(len(invariants(group, degree))):
            rows = [i for i, index in enumerate(basis.index_) if (index.l, index.mu) == (degree, mu)]
            assert_allclose(after[rows], D @ before[rows], atol=1e-12)


@pytest.mark.parametrize("specimen", ["orthorhombic", "monoclinic", "cubic"])
def test_gsh__sample_symmetry(specimen):
    basis = GSHBasis(None, domain="hexagonal", max_degree=8, sample_symmetry=specimen)
    g = Rotation.random(20, random_state=5)
    T = harmonics(basis, g)
    for s in symmetry_rotations(specimen):
        assert_allclose(harmonics(basis, s * g), T, atol=1e-11)
    angles, weights = exact_quadrature(8)
    T = basis.discretize(angles)[0]
    gram = np.einsum("va,v,vb->ab", T.conj(), weights, T, optimize=True)
    assert_allclose(gram, np.diag([2.0 * index.l + 1 for index in basis.index_]), atol=1e-10)


def test_gsh__states_are_ordered_and_chosen():
    basis = GSHBasis(12, domain="cubic")
    assert [tuple(index) for index in basis.index_[:3]] == [(0, 0, 0), (4, 0, -4), (4, 0, -3)]
    assert [index.l for index in basis.index_] == [0] + [4] * 9 + [6] * 2
    X = np.random.default_rng(0).uniform(0, 3, (2, 4, 3))
    chosen = GSHBasis([7, 0, 11], domain="cubic")
    assert chosen.index_ == [basis.index_[i] for i in (7, 0, 11)]
    assert_allclose(chosen.discretize(X), basis.discretize(X)[..., [7, 0, 11]], atol=1e-13)
    assert len(GSHBasis(None, max_degree=2).states) == 1 + 9 + 25


def test_gsh__single_precision_and_lazy():
    X = np.random.default_rng(0).uniform(0, 3, (4, 5, 6, 3))
    basis = GSHBasis(60, domain="cubic")
    double, single = basis.discretize(X), basis.discretize(X, dtype="float32")
    assert single.dtype == np.complex64
    assert_allclose(single, double, atol=3e-5 * np.abs(double).max())
    with computes(0):
        lazy = basis.discretize(da.from_array(X, chunks=(3, 5, 6, 3)))
    assert lazy.shape == (4, 5, 6, 60)
    assert_array_equal(lazy, double)


def test_gsh__groups_of_functions_are_evaluated_together(monkeypatch):
    X = np.random.default_rng(0).uniform(0, 3, (1, 5, 3))
    expected = GSHBasis(20).discretize(X)
    monkeypatch.setattr("mksdask.bases.gsh.GROUP_BYTES", 7 * 5 * 16)
    assert_allclose(GSHBasis(20).discretize(X), expected, atol=1e-14)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.full((1, 4, 3), 45.0), "numpy.deg2rad"),
        (np.full((1, 4, 3), np.nan), "confidence_index of 0"),
        (np.zeros((1, 4, 4)), "Bunge angles"),
    ],
)
def test_gsh__raises_on_what_are_no_angles(X, message):
    with pytest.raises(ValueError, match=message):
        GSHBasis(3).discretize(X)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"domain": "cubical"}, "domain must be one of"),
        ({"sample_symmetry": "none"}, "sample_symmetry must be one of"),
        ({"n_states": [50], "max_degree": 2}, "raise max_degree"),
        ({"n_states": None}, "give max_degree"),
        ({"n_states": [-1]}, "positions from 0"),
        ({"max_degree": -1}, "max_degree must lie"),
    ],
)
def test_gsh__raises_on_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        GSHBasis(**arguments).discretize(np.zeros((1, 2, 3)))


def test_gsh__raises_on_complex_angles():
    with pytest.raises(TypeError, match="X must be real angles"):
        GSHBasis(3).discretize(np.zeros((1, 2, 3), complex))


def test_gsh__is_a_scikit_learn_estimator():
    basis = GSHBasis(7, domain="hexagonal", max_degree=8, sample_symmetry="orthorhombic")
    assert clone(basis).get_params() == basis.get_params()


@pytest.mark.parametrize("group", ["cubic", "hexagonal"])
def test_correlate__orientation_statistics_ignore_symmetry_and_unindexed_points(group):
    rng = np.random.default_rng(4)
    rotations = Rotation.random(2 * 6 * 7, random_state=6)
    s = symmetry_rotations(group)
    equivalent = rotations * s[rng.integers(0, len(s), len(rotations))]
    X, Y = (bunge_angles(r).reshape(2, 6, 7, 3) for r in (rotations, equivalent))
    confidence = (rng.uniform(size=(2, 6, 7)) > 0.3) * rng.uniform(0.2, 1.0, (2, 6, 7))
    Y[confidence == 0] = np.nan
    basis = GSHBasis(12, domain=group)
    options = {"confidence_index": confidence, "dtype": "float64", "cutoff": 3}
    f = correlate(X, basis, **options)
    assert f.dtype == np.complex128
    assert_allclose(correlate(Y, basis, **options), f, atol=1e-11)
    # Lag 0 of (0, h) is the texture coefficient, weighted by confidence: (Σ c² T) / Σ c².
    m, weight = basis.discretize(X), confidence**2
    texture = (weight[..., None] * m).sum(axis=(1, 2)) / weight.sum(axis=(1, 2))[:, None]
    assert_allclose(f[:, 3, 3, :12], texture, atol=1e-12)
    with computes(0):
        lazy = correlate(
            da.from_array(Y, chunks=(1, 6, 7, 3)),
            basis,
            confidence_index=da.from_array(confidence, chunks=(1, 6, 7)),
            dtype="float64",
            cutoff=3,
        )
    assert_allclose(lazy, f, atol=1e-11)


def test_gsh__max_degree_caps_the_number_of_states():
    assert len(GSHBasis(max_degree=4, domain="cubic").states) == 10
    with pytest.raises(ValueError, match="with 1 to 3 spatial axes"):
        correlate(np.zeros((3, 8, 8, 2)), GSHBasis(5))


def test_correlate__default_pairs_see_where_grains_are():
    rng = np.random.default_rng(0)
    X = bunge_angles(Rotation.random(16, random_state=0)).reshape(1, 4, 4, 3).repeat(4, axis=1).repeat(4, axis=2)
    Y = X.reshape(1, 256, 3)[:, rng.permutation(256)].reshape(X.shape)
    for basis, of_basis in (
        (GSHBasis(6, domain="cubic"), lambda Z: Z),
        (LegendreBasis(3, (0, 7)), lambda Z: Z[..., 0]),
    ):
        f, g = (correlate(of_basis(Z), basis, periodic_axes=[0, 1]) for Z in (X, Y))
        assert f.shape[-1] == 2 * len(basis.states) - 1
        assert_allclose(f[..., : len(basis.states)], g[..., : len(basis.states)], atol=1e-5)
        assert np.abs(f - g).max() > 0.2
