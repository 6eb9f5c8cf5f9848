"""Polycrystals, their textures and their elasticity."""

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.transform import Rotation

from mksdask import GSHBasis
from mksdask.bases.gsh import bunge_angles, symmetry_rotations
from mksdask.compute.random import sample_rng
from mksdask.datasets import (
    ComponentTexture,
    ElasticFESimulation,
    FibreTexture,
    RandomTexture,
    effective_stiffness,
    make_microstructure,
    make_polycrystal,
    mean_stress,
    solve_fields,
)
from mksdask.simulation.crystals import single_crystal_stiffness, turned_stiffness, voigt_average
from mksdask.simulation.stencils import Anisotropic, Isotropic
from tests.helpers import computes, sample_chunks, tasks_per_chunk
from tests.test_fem import COPPER, ZINC, turned_by_tensor


def isotropic(lam, mu):
    C = np.diag([2 * mu] * 3 + [mu] * 3)
    C[:3, :3] += lam
    return C


def unpacked(material):
    """(n, *spatial, n_components, n_components) of an anisotropic material."""
    packed = np.moveaxis(material.packed, -2, -1)
    n = {6: 3, 21: 6}[packed.shape[-1]]
    out = np.empty((*packed.shape[:-1], n, n))
    rows, columns = np.triu_indices(n)
    out[..., rows, columns] = out[..., columns, rows] = packed
    return out


@pytest.mark.parametrize("dim", [2, 3])
def test_crystals__turned_stiffness_is_the_turned_tensor(dim):
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(6, 6))
    crystal = factor @ factor.T
    angles = rng.uniform(-3, 3, (*(2, 3, 4, 2)[: dim + 1], 3))
    expected = turned_by_tensor(crystal, angles)
    if dim == 2:
        expected = expected[..., [0, 1, 5], :][..., [0, 1, 5]]
    material = turned_stiffness(crystal, angles)
    assert material.shape == angles.shape[:-1]
    assert_allclose(unpacked(material), expected, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize(("constants", "group"), [(COPPER, "cubic"), (ZINC, "hexagonal")])
def test_crystals__have_the_symmetry_of_their_class(constants, group):
    crystal = single_crystal_stiffness(constants)
    for s in symmetry_rotations(group):
        turned = unpacked(turned_stiffness(crystal, bunge_angles(s).reshape(1, 1, 1, 1, 3)))
        assert_allclose(turned[0, 0, 0, 0], crystal, atol=1e-10)


@pytest.mark.parametrize("constants", [COPPER, ZINC])
def test_crystals__voigt_average_is_the_mean_over_orientations(constants):
    crystal = single_crystal_stiffness(constants)
    # The 60 rotations of an icosahedron average any tensor of rank 4 as all rotations do.
    rotations = Rotation.create_group("I") * Rotation.from_euler("ZXZ", [0.2, 0.9, 0.4])
    mean = turned_by_tensor(crystal, rotations.as_euler("ZXZ")).mean(axis=0)
    assert_allclose(mean, isotropic(*voigt_average(crystal)), atol=1e-10)


def test_crystals__a_turned_matrix_is_symmetric_but_for_rounding():
    for rotation in Rotation.random(50, random_state=0):
        angles = bunge_angles(rotation).reshape(1, 1, 1, 1, 3)
        turned = turned_by_tensor(single_crystal_stiffness(ZINC), angles)[0, 0, 0, 0]
        assert_allclose(single_crystal_stiffness(turned), turned, atol=1e-10)


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ([1.0, 2.0], "cubic"),
        ([100.0, 120.0, 70.0], "positive definite"),
        ([100.0, np.nan, 70.0], "finite"),
        (np.triu(np.ones((6, 6))), "symmetric"),
    ],
)
def test_crystals__raises_on_bad_constants(constants, message):
    with pytest.raises(ValueError, match=message):
        mean_stress(np.zeros((1, 2, 2, 3)), crystal_stiffness=constants)


@pytest.mark.parametrize("dim", [2, 3])
def test_fields__isotropic_crystals_are_an_isotropic_material(dim):
    lam, mu = np.random.default_rng(0).uniform(1, 5, (2, 2, *(4, 3, 5)[:dim]))
    n = dim * (dim + 1) // 2
    stiffness = np.zeros((*lam.shape, n, n))
    stiffness[..., :dim, :dim] = lam[..., None, None]
    stiffness[..., range(n), range(n)] += np.where(np.arange(n) < dim, 2.0, 1.0) * mu[..., None]
    packed = stiffness[..., *np.triu_indices(n)]
    general = Anisotropic(np.ascontiguousarray(np.moveaxis(packed, -1, -2)))
    special = Isotropic(lam, mu)
    rng = np.random.default_rng(1)
    u, macro, active = rng.normal(size=(2, dim, *lam.shape[1:])), rng.normal(size=(2, n)), np.ones(2, dtype=bool)
    expected = special.forces(u, macro, active, np.empty_like(u))
    assert_allclose(general.forces(u, macro, active, np.empty_like(u)), expected, atol=1e-12)
    strain = rng.normal(size=(*lam.shape, n))
    assert_allclose(general.stress(strain), special.stress(strain), atol=1e-12)
    active[0] = False
    untouched = np.full_like(u, 7.0)
    general.forces(u, macro, active, untouched)
    assert_array_equal(untouched[0], 7.0)


@pytest.mark.parametrize("size", [(6, 7), (4, 5, 3)])
def test_fields__one_crystal_strains_homogeneously(size):
    angles = np.broadcast_to([0.4, 1.0, -0.3], (1, *size, 3))
    fields = solve_fields(angles, crystal_stiffness=ZINC, macro_strain=0.01)
    C = turned_by_tensor(single_crystal_stiffness(ZINC), np.array([[0.4, 1.0, -0.3]]))[0]
    kept = [0, 1, 5] if len(size) == 2 else list(range(6))
    assert_allclose(fields.strain[..., 0], 0.01)
    assert_allclose(fields.stress - C[kept, 0] * 0.01, 0, atol=1e-12)


@pytest.mark.parametrize("size", [(12, 12), (8, 8, 8)])
@pytest.mark.parametrize("constants", [COPPER, ZINC])
def test_stiffness__polycrystals_lie_between_voigt_and_reuss(size, constants):
    X = make_polycrystal(3, size, 12, seed=1)
    C = effective_stiffness(X, crystal_stiffness=constants)
    crystal = single_crystal_stiffness(constants)
    for sample, stiffness in zip(X, C, strict=True):
        local = turned_by_tensor(crystal, sample)
        if len(size) == 2:
            local = local[..., [0, 1, 5], :][..., [0, 1, 5]]
        axes = tuple(range(len(size)))
        voigt, reuss = local.mean(axis=axes), np.linalg.inv(np.linalg.inv(local).mean(axis=axes))
        # A cubic polycrystal under pressure is as stiff as its crystals: there the bounds coincide.
        assert np.linalg.eigvalsh(voigt - stiffness).min() > -1e-6 * crystal[0, 0]
        assert np.linalg.eigvalsh(stiffness - reuss).min() > -1e-6 * crystal[0, 0]
        assert np.linalg.eigvalsh(voigt - reuss).max() > 1.0


def test_stiffness__equivalent_orientations_are_one():
    X = make_polycrystal(2, (6, 6, 6), 8, seed=3)
    group = symmetry_rotations("cubic")
    turns = np.random.default_rng(0).integers(0, 24, X.shape[:-1])
    Y = bunge_angles(Rotation.from_euler("ZXZ", X.reshape(-1, 3)) * group[turns.ravel()]).reshape(X.shape)
    assert_allclose(
        effective_stiffness(Y, crystal_stiffness=COPPER), effective_stiffness(X, crystal_stiffness=COPPER), rtol=1e-6
    )


def test_simulation__crystals_labelled_and_lazy():
    X = make_polycrystal(4, (6, 5), 7, chunks=2)
    labelled = xr.DataArray(
        X, dims=("sample", "x", "y", "angle"), coords={"x": ("x", np.arange(6) * 2.0, {"units": "um"})}
    ).assign_coords(y=("y", np.arange(5) * 2.0, {"units": "um"}))
    simulation = ElasticFESimulation(crystal_stiffness=COPPER, macro_strain=0.01)
    with computes(0):
        response = simulation.run(labelled).response
        stiffness = effective_stiffness(X, crystal_stiffness=COPPER)
    plain = ElasticFESimulation(crystal_stiffness=COPPER, macro_strain=0.01).run(X.compute())
    assert simulation.strain.dims == ("sample", "x", "y", "component")
    assert_array_equal(response.stress, plain.stress)
    assert_array_equal(stiffness, effective_stiffness(X.compute(), crystal_stiffness=COPPER))
    assert_allclose(simulation.mean_strain, np.tile([0.01, 0, 0], (4, 1)), atol=1e-14)
    in_memory = da.from_array(X.compute(), chunks=(2, 6, 5, 3), inline_array=True)
    assert tasks_per_chunk(mean_stress(in_memory, crystal_stiffness=COPPER)) <= 2


@pytest.mark.parametrize(
    ("options", "X", "message"),
    [
        ({}, np.zeros((1, 3, 3)), "give elastic_modulus and poissons_ratio"),
        ({"elastic_modulus": [1.0]}, np.zeros((1, 3, 3)), "give elastic_modulus and poissons_ratio"),
        ({"crystal_stiffness": COPPER, "elastic_modulus": [1.0]}, np.zeros((1, 3, 3, 3)), "give elastic_modulus"),
        ({"crystal_stiffness": COPPER}, np.zeros((1, 3, 3)), "Bunge angles"),
        ({"crystal_stiffness": COPPER}, np.zeros((1, 3, 3, 2)), "Bunge angles"),
        ({"crystal_stiffness": COPPER}, np.full((1, 3, 3, 3), 45.0), "numpy.deg2rad"),
    ],
)
def test_simulation__raises_on_what_is_no_polycrystal(options, X, message):
    with pytest.raises(ValueError, match=message):
        mean_stress(X, **options)


@pytest.mark.parametrize("size", [(9,), (7, 8), (5, 6, 4)])
def test_polycrystal__voxels_belong_to_the_nearest_seed_of_the_periodic_cell(size):
    X, grains = make_polycrystal(2, size, 6, seed=4, return_grains=True)
    assert X.shape == (2, *size, 3)
    centres = np.stack(np.indices(size), axis=-1) + 0.5
    for index, (sample, number) in enumerate(zip(X, grains, strict=True)):
        seeds = sample_rng(4, 0, index).uniform(size=(6, len(size))) * size
        apart = np.abs(centres[..., None, :] - seeds)
        nearest = (np.minimum(apart, size - apart) ** 2).sum(axis=-1).argmin(axis=-1)
        assert_array_equal(number, nearest)
        assert len(np.unique(sample.reshape(-1, 3), axis=0)) == len(np.unique(number)) > 1
        for grain in np.unique(number):
            assert len(np.unique(sample[number == grain].reshape(-1, 3), axis=0)) == 1


@settings(max_examples=15, deadline=None)
@given(chunks=sample_chunks(5), seed=st.integers(0, 99))
def test_polycrystal__chunk_invariant(chunks, seed):
    texture = ComponentTexture([0.1, 0.2, 0.3], spread=0.2, weights=[0.5])
    options = {"seed": seed, "texture": texture, "return_grains": True}
    X, grains = make_polycrystal(5, (6, 5), 7, **options)
    with computes(0):
        lazy, lazy_grains = make_polycrystal(5, (6, 5), 7, chunks=[chunks], **options)
    assert lazy.chunks[0] == chunks
    assert_array_equal(lazy, X)
    assert_array_equal(lazy_grains, grains)
    assert_array_equal(make_polycrystal(3, (6, 5), 7, seed=seed, texture=texture), X[:3])
    single = make_polycrystal(5, (6, 5), 7, seed=seed, texture=texture, dtype="float32")
    assert_allclose(single, X, rtol=1e-6)


def draw(texture, n=4000):
    return texture.draw(n, np.random.default_rng(0))


def test_texture__random_has_no_harmonics():
    angles = draw(RandomTexture()).as_euler("ZXZ")[None]
    texture = GSHBasis(None, max_degree=3).discretize(angles)[0].mean(axis=0)
    # Each mean has the spread √((2l + 1) / n).
    assert_allclose(texture[0], 1.0)
    assert np.abs(texture[1:]).max() < 4.5 * np.sqrt(7 / 4000)


def test_texture__fibre_axes_coincide():
    texture = FibreTexture(crystal_axis=(1, 1, 1), sample_axis=(0, 2, 1))
    rotations = draw(texture)
    assert_allclose(rotations.apply(np.array([1, 1, 1]) / np.sqrt(3)) - np.array([0, 2, 1]) / np.sqrt(5), 0, atol=1e-12)
    # Uniform about the axis: a direction across it has zero mean.
    across = rotations.apply([1, -1, 0]) / np.sqrt(2)
    assert np.abs(across.mean(axis=0)).max() < 0.05
    scattered = draw(FibreTexture((1, 1, 1), (0, 2, 1), spread=0.1, weight=0.7))
    angle = np.arccos(scattered.apply(np.array([1, 1, 1]) / np.sqrt(3)) @ np.array([0, 2, 1]) / np.sqrt(5))
    assert abs(np.mean(angle < 0.4) - 0.7 - 0.3 * (1 - np.cos(0.4)) / 2) < 0.03
    assert_allclose(np.sqrt(np.mean(angle[angle < 0.4] ** 2)), 0.1 * np.sqrt(2), rtol=0.1)


def test_texture__components_have_their_shares():
    ideal = np.array([[0.1, 0.2, 0.3], [1.0, 1.2, 0.4]])
    rotations = draw(ComponentTexture(ideal, spread=0.05, weights=[0.5, 0.2]))
    near = [(rotations * Rotation.from_euler("ZXZ", angles).inv()).magnitude() < 0.25 for angles in ideal]
    assert_allclose([np.mean(close) for close in near], [0.5, 0.2], atol=0.03)
    exact = draw(ComponentTexture(ideal), n=50)
    assert all(min((r * Rotation.from_euler("ZXZ", a).inv()).magnitude() for a in ideal) < 1e-7 for r in exact)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_polycrystal(n_grains=0), "n_grains must be"),
        (lambda: make_polycrystal(size=(2, 2), n_grains=5), "n_grains must be"),
        (lambda: make_polycrystal(dtype="int8"), "dtype must be"),
        (lambda: FibreTexture((0, 0, 0), (0, 0, 1)), "crystal_axis must be"),
        (lambda: FibreTexture((0, 0, 1), (0, 0, 1), spread=-1), "spread must be"),
        (lambda: FibreTexture((0, 0, 1), (0, 0, 1), weight=2), "weights must be"),
        (lambda: ComponentTexture([0, 0]), "angles must be"),
        (lambda: ComponentTexture([10, 20, 30]), "radians within"),
        (lambda: ComponentTexture([0, np.nan, 0]), "radians within"),
        (lambda: ComponentTexture([0, 0, 0], weights=[0.5, 0.5]), "one number for each"),
    ],
)
def test_polycrystal__raises_on_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_polycrystal__raises_on_what_is_no_texture():
    with pytest.raises(TypeError, match="texture must be"):
        make_polycrystal(texture="fibre")
    with pytest.raises(ValueError, match="phase numbers"):
        mean_stress(make_microstructure(1, (4, 4)) + 5, elastic_modulus=[1], poissons_ratio=[0.3])
