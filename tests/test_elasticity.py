"""Elasticity of phases, of crystals and of voxels under all loads, against closed forms, an assembly, and limits."""

import itertools

import dask.array as da
import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import xarray as xr
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.transform import Rotation

from mksdask.datasets import make_microstructure, make_polycrystal
from mksdask.simulation import ConvergenceError, effective_expansion, effective_stiffness, mean_stress, solve_fields
from mksdask.simulation.crystals import single_crystal_stiffness
from mksdask.simulation.forces import voigt_pairs
from tests.helpers import computes, sample_chunks, tasks_per_chunk
from tests.test_fem import COPPER, POISSON, YOUNG, ZINC, stiffness_matrix, turned_by_tensor

TIGHT = {"tolerance": 1e-12}
FULL = np.array([stiffness_matrix(e, v, 3) for e, v in zip(YOUNG, POISSON, strict=True)])
PLANE = np.ix_([0, 1], [0, 1, 5], [0, 1, 5])


def assembled(stiffness, macro, eigenstress=None):
    """Strains of the elements by an independent sparse assembly: Gauss points, shape functions, a direct solver."""
    *spatial, n_components, _ = stiffness.shape
    dim, n = len(spatial), int(np.prod(spatial))
    corners = list(itertools.product((0, 1), repeat=dim))
    points = list(itertools.product((0.5 - 0.5 / 3**0.5, 0.5 + 0.5 / 3**0.5), repeat=dim))

    def strain_matrix(x):
        B = np.zeros((n_components, dim * len(corners)))
        for position, c in enumerate(corners):
            slope = [
                np.prod([(2 * c[b] - 1.0) if b == a else (x[b] if c[b] else 1.0 - x[b]) for b in range(dim)])
                for a in range(dim)
            ]
            for v, (a, b) in enumerate(zip(*voigt_pairs(dim), strict=True)):
                B[v, dim * position + a] += slope[b]
                if a != b:
                    B[v, dim * position + b] += slope[a]
        return B

    matrices = [strain_matrix(x) for x in points]
    mean = sum(matrices) / len(matrices)
    rows, columns, values, load = [], [], [], np.zeros(dim * n)
    elements = list(np.ndindex(*spatial))
    numbers = []
    for element in elements:
        nodes = [np.ravel_multi_index(np.add(element, c) % spatial, spatial) for c in corners]
        own = np.concatenate([dim * node + np.arange(dim) for node in nodes])
        numbers.append(own)
        C = stiffness[element]
        local = sum(B.T @ C @ B for B in matrices) / len(matrices)
        stress = C @ macro - (0.0 if eigenstress is None else eigenstress[element])
        np.subtract.at(load, own, mean.T @ stress)
        rows.append(np.repeat(own, len(own))), columns.append(np.tile(own, len(own))), values.append(local.ravel())
    matrix = scipy.sparse.csc_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))))
    u = np.zeros(dim * n)
    u[dim:] = scipy.sparse.linalg.spsolve(matrix[dim:, dim:], load[dim:])
    return np.array([macro + mean @ u[own] for own in numbers]).reshape(*spatial, n_components)


def random_stiffness(rng, *shape, n):
    factor = rng.normal(size=(*shape, n, n))
    return factor @ factor.swapaxes(-1, -2) + 0.3 * np.eye(n)


@pytest.mark.parametrize(
    ("spatial", "kind"),
    [
        *itertools.product([(5, 6), (4, 3, 5)], ["6 x 6", "moduli", "modulus"]),
        ((5, 6), "3 x 3"),
    ],
)
def test_solve_fields__of_voxels_equals_an_independent_assembly(spatial, kind):
    rng, dim = np.random.default_rng(0), len(spatial)
    if kind.startswith("modul"):
        E, v = rng.uniform(1, 9, (2, *spatial)), rng.uniform(-0.4, 0.4, (2, *spatial))
        v = v if kind == "moduli" else 0.2
        options = {"elastic_modulus": E, "poissons_ratio": v}
        pairs = zip(E.ravel(), np.broadcast_to(v, E.shape).ravel(), strict=True)
        C = np.array([stiffness_matrix(e, n, dim) for e, n in pairs]).reshape(*E.shape, dim * (dim + 1) // 2, -1)
    else:
        given_matrices = random_stiffness(rng, 2, *spatial, n=int(kind[0]))
        options, C = {"stiffness": given_matrices}, given_matrices
        if dim == 2 and kind == "6 x 6":
            C = C[..., [0, 1, 5], :][..., [0, 1, 5]]
    macro = rng.normal(size=C.shape[-1])
    found = solve_fields(**options, macro_strain=macro, **TIGHT)
    for sample, strain in enumerate(found.strain):
        assert_allclose(strain, assembled(C[sample], macro), rtol=0, atol=1e-8)
    assert_allclose(found.stress, np.einsum("n...ab,n...b->n...a", C, found.strain), atol=1e-11)
    effective = effective_stiffness(**options, **TIGHT)
    assert_allclose(effective @ macro, found.mean_stress, rtol=0, atol=1e-8)
    assert_allclose(mean_stress(**options, macro_strain=macro, **TIGHT), found.mean_stress, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dim", [2, 3])
def test_effective_stiffness__of_phases_by_moduli_matrices_and_voxels_is_one(dim):
    X = make_microstructure(n_samples=2, size=(6, 5, 4)[:dim], grain_size=3, seed=1)
    expected = effective_stiffness(X, elastic_modulus=YOUNG, poissons_ratio=POISSON, **TIGHT)
    forms = {
        "matrices of phases": {"X": X, "stiffness": FULL},
        "matrices of voxels": {"stiffness": FULL[X]},
        "moduli of voxels": {"elastic_modulus": YOUNG[X], "poissons_ratio": POISSON[X]},
    }
    if dim == 2:
        forms |= {"plane": {"X": X, "stiffness": FULL[PLANE]}, "plane voxels": {"stiffness": FULL[PLANE][X]}}
    for name, options in forms.items():
        found = effective_stiffness(**options, **TIGHT)
        assert_allclose(found, expected, rtol=0, atol=1e-9 * YOUNG[0], err_msg=name)


@pytest.mark.parametrize("size", [(7, 8), (4, 5, 6)])
@pytest.mark.parametrize("constants", [COPPER, ZINC])
def test_effective_stiffness__of_crystals_by_orientations_and_voxels_is_one(size, constants):
    X = make_polycrystal(2, size, 5, seed=1)
    C = turned_by_tensor(single_crystal_stiffness(constants), X)
    expected = effective_stiffness(X, crystal_stiffness=constants, **TIGHT)
    assert_allclose(effective_stiffness(stiffness=C, **TIGHT), expected, rtol=0, atol=1e-9 * C.max())


@pytest.mark.parametrize("size", [(20, 20), (8, 8, 8)])
def test_effective_stiffness__of_pores_is_the_limit_of_a_large_contrast(size):
    X = make_microstructure(n_samples=2, size=size, grain_size=4, seed=2, volume_fraction=(0.7, 0.3))
    found = effective_stiffness(X, elastic_modulus=(1.0, 0.0), poissons_ratio=(0.3, 0.3))
    limit = effective_stiffness(X, elastic_modulus=(1.0, 1e-6), poissons_ratio=(0.3, 0.3))
    assert_allclose(found, limit, rtol=0, atol=1e-4)
    matrices = np.stack([stiffness_matrix(1.0, 0.3, 3), np.zeros((6, 6))])
    for other in (
        {"X": X, "stiffness": matrices},
        {"stiffness": matrices[X]},
        {"elastic_modulus": 1.0 - X, "poissons_ratio": 0.3},
    ):
        assert_allclose(effective_stiffness(**other), found, rtol=0, atol=1e-6)
    nothing = effective_stiffness(elastic_modulus=np.zeros((1, *size)), poissons_ratio=0.3)
    assert_array_equal(nothing, 0.0)
    assert_array_equal(effective_stiffness(np.ones_like(X[:1]), elastic_modulus=(1.0, 0.0), poissons_ratio=(0, 0)), 0.0)


def test_effective_stiffness__of_layers_of_pores_is_that_along_the_layers():
    X = np.zeros((1, 8, 4, 4), dtype=int)
    X[:, 3:] = 1
    C = effective_stiffness(X, elastic_modulus=(10.0, 0.0), poissons_ratio=(0.3, 0.0), **TIGHT)[0]
    # A layer by itself is in plane stress.
    expected, plane = np.zeros((6, 6)), 3 / 8 * 10.0 / (1 - 0.3**2)
    expected[1, 1] = expected[2, 2] = plane
    expected[1, 2] = expected[2, 1] = 0.3 * plane
    expected[3, 3] = 0.35 * plane
    assert_allclose(C, expected, rtol=0, atol=1e-8)


@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_solve_fields__of_voxels_is_chunk_invariant(data):
    rng = np.random.default_rng(1)
    C, E = random_stiffness(rng, 5, 4, 6, n=6), rng.uniform(1, 9, (5, 4, 6))
    # Samples that are solved with different preconditioners, and one without stiffness.
    v = np.broadcast_to(np.array([0.05, 0.47, 0.3, 0.47, -0.2])[:, None, None], E.shape)
    C[1, ..., :3, :3] += 50.0
    C[2] = 0.0
    rows = data.draw(sample_chunks(5))

    def lazy(array):
        return da.from_array(array, chunks=(rows, *array.shape[1:]))

    for eager, chunks in (
        ({"stiffness": C}, {"stiffness": lazy(C)}),
        ({"elastic_modulus": E, "poissons_ratio": v}, {"elastic_modulus": lazy(E), "poissons_ratio": lazy(v)}),
        ({"elastic_modulus": E, "poissons_ratio": v}, {"elastic_modulus": E, "poissons_ratio": lazy(v)}),
    ):
        for one, other in zip(solve_fields(**eager), solve_fields(**chunks), strict=True):
            assert_array_equal(one, other)


def test_solve_fields__of_voxels_is_lazy_with_one_task_a_chunk_and_labelled():
    X = make_microstructure(n_samples=6, size=(5, 6), grain_size=3, seed=3)
    E, v = (da.from_array(values[X], chunks=(2, -1, -1)) for values in (YOUNG, POISSON))
    with computes(0):
        tensors = effective_stiffness(elastic_modulus=E, poissons_ratio=v)
        fields = solve_fields(elastic_modulus=E, poissons_ratio=0.3)
    assert tasks_per_chunk(tensors) <= 3  # one for each array, and one that solves
    assert fields.stress.shape == (6, 5, 6, 3)
    names = [f"s{i}" for i in range(6)]
    labelled = xr.DataArray(YOUNG[X], dims=("sample", "x", "y"), coords={"sample": names, "x": 0.5 * np.arange(5)})
    labelled = labelled.assign_coords(y=0.5 * np.arange(6))
    turned = xr.DataArray(POISSON[X], dims=("sample", "x", "y"), coords={"sample": names})[::-1]
    found = effective_stiffness(elastic_modulus=labelled, poissons_ratio=turned)
    assert found.dims == ("sample", "component", "component_applied")
    assert_array_equal(found.sel(sample="s4"), tensors[4])
    C = xr.DataArray(FULL[X], dims=("sample", "x", "y", "row", "column"), coords={"sample": names})
    response = solve_fields(stiffness=C)
    assert response.stress.dims == ("sample", "x", "y", "component")


@pytest.mark.parametrize("size", [(7, 6), (5, 4, 6)])
@pytest.mark.parametrize("kind", ["phases", "crystals", "voxels"])
def test_macro_stress__equals_the_inverse_of_the_effective_stiffness(size, kind):
    rng, dim = np.random.default_rng(2), len(size)
    n = dim * (dim + 1) // 2
    X = make_microstructure(n_samples=3, size=size, grain_size=3, seed=1)
    options = {
        "phases": {"X": X, "elastic_modulus": YOUNG, "poissons_ratio": POISSON},
        "crystals": {"X": make_polycrystal(3, size, 5, seed=1), "crystal_stiffness": ZINC},
        "voxels": {"stiffness": random_stiffness(rng, 3, *size, n=6)},
    }[kind]
    C = effective_stiffness(**options, **TIGHT)
    unit = np.abs(C).max()
    stress, strain = unit * rng.normal(size=n), rng.normal(size=n)
    response = solve_fields(**options, macro_stress=stress, **TIGHT)
    assert_allclose(response.mean_strain, np.linalg.solve(C, np.tile(stress[:, None], (3, 1, 1)))[..., 0], rtol=1e-8)
    assert_allclose(response.mean_stress, np.tile(stress, (3, 1)), rtol=0, atol=1e-9 * unit)
    # Some components are imposed by stress, and the others by strain, whose other components have no meaning.
    is_stress = np.arange(n) % 2 == 0
    mixed = solve_fields(**options, macro_strain=strain, macro_stress=np.where(is_stress, stress, np.nan), **TIGHT)
    assert_allclose(mixed.mean_strain[:, ~is_stress], np.tile(strain[~is_stress], (3, 1)), rtol=0, atol=1e-13)
    assert_allclose(mixed.mean_stress[:, is_stress], np.tile(stress[is_stress], (3, 1)), rtol=0, atol=1e-9 * unit)
    assert_allclose(np.einsum("nab,nb->na", C, mixed.mean_strain), mixed.mean_stress, rtol=0, atol=1e-8 * unit)
    # The fields are those that the mean strain itself causes.
    again = solve_fields(
        **{k: v[:1] if k in ("X", "stiffness") else v for k, v in options.items()},
        macro_strain=mixed.mean_strain[0],
        **TIGHT,
    )
    for name in ("strain", "stress", "displacement"):
        expected = getattr(again, name)[0]
        assert_allclose(getattr(mixed, name)[0], expected, rtol=0, atol=1e-8 * np.abs(expected).max())
    averages = mean_stress(**options, macro_strain=strain, macro_stress=np.where(is_stress, stress, np.nan), **TIGHT)
    assert_allclose(averages, mixed.mean_stress, rtol=0, atol=1e-12 * unit)


def test_macro_stress__along_one_axis_gives_young_and_poisson():
    X = np.zeros((1, 4, 4, 4), dtype=int)
    found = solve_fields(X, elastic_modulus=[210.0], poissons_ratio=[0.3], macro_stress=2.1)
    assert_allclose(found.mean_strain[0], [0.01, -0.003, -0.003, 0, 0, 0], rtol=0, atol=1e-12)
    # The same, with the strain along x imposed instead, and a force that keeps the width along y.
    found = solve_fields(
        X, elastic_modulus=[210.0], poissons_ratio=[0.3], macro_strain=0.01, macro_stress=[np.nan, np.nan, 0, 0, 0, 0]
    )
    assert_allclose(found.mean_stress[0], np.array([1, 0.3, 0, 0, 0, 0]) * 2.1 / 0.91, rtol=0, atol=1e-10)
    # Layers with the same Poisson's ratio of 0 are springs in series, or side by side.
    X[:, :1] = 1
    layers = {"elastic_modulus": (1.0, 4.0), "poissons_ratio": (0, 0)}
    across = solve_fields(X, **layers, macro_stress=1.0).mean_strain[0, 0]
    along = solve_fields(X, **layers, macro_stress=[0, 1, 0, 0, 0, 0]).mean_strain[0, 1]
    assert_allclose([1 / across, 1 / along], [1 / (0.75 + 0.25 / 4), 0.75 + 0.25 * 4], rtol=1e-8)


def test_macro_stress__scales_and_is_chunk_invariant():
    X = make_microstructure(n_samples=5, size=(6, 5), grain_size=2, seed=1)
    options = {"elastic_modulus": YOUNG, "poissons_ratio": POISSON, "macro_strain": 0.01}
    tensor = [[np.nan, 3.0], [3.0, 5.0]]
    eager = solve_fields(X, **options, macro_stress=tensor)
    lazy = solve_fields(da.from_array(X, chunks=((2, 1, 2), 6, 5)), **options, macro_stress=tensor)
    for one, other in zip(eager, lazy, strict=True):
        assert_array_equal(one, other)
    small = solve_fields(
        X,
        elastic_modulus=YOUNG * 1e11,
        poissons_ratio=POISSON,
        macro_strain=1e-14,
        macro_stress=np.multiply(tensor, 0.1),
    )
    assert_allclose(small.mean_stress, eager.mean_stress * 0.1, rtol=1e-6)
    nothing = solve_fields(X, **options, macro_stress=np.zeros((2, 2)))
    assert_array_equal(nothing.strain, 0.0)
    strained = solve_fields(X, **options, macro_stress=np.full(3, np.nan))
    assert_array_equal(strained.stress, solve_fields(X, **options).stress)


def test_macro_stress__that_nothing_can_bear_does_not_converge():
    X = np.zeros((1, 6, 6), dtype=int)
    X[:, 3:] = 1
    options = {"elastic_modulus": (1.0, 0.0), "poissons_ratio": (0.3, 0.3), "max_iterations": 50}
    assert_allclose(mean_stress(X, **options, macro_stress=[0, 1, 0]), [[0, 1, 0]], atol=1e-8)
    with pytest.raises(ConvergenceError, match="max_iterations=50"):
        mean_stress(X, **options, macro_stress=[1, 0, 0])


@pytest.mark.parametrize("spatial", [(5, 6), (4, 3, 5)])
@pytest.mark.parametrize("kind", ["phases", "matrices", "crystals", "voxels", "moduli", "phases by voxels"])
def test_eigenstrain__equals_an_independent_assembly(spatial, kind):
    rng, dim = np.random.default_rng(3), len(spatial)
    X = rng.integers(0, 2, (2, *spatial))
    C, strains = FULL[X], rng.normal(size=(2, 6))
    eigen = strains[X]
    isotropic = {"X": X, "elastic_modulus": YOUNG, "poissons_ratio": POISSON}
    if kind == "phases":
        options = isotropic | {"eigenstrain": strains}
    elif kind == "matrices":
        C = random_stiffness(rng, 2, n=6)
        options, C = {"X": X, "stiffness": C, "eigenstrain": strains}, C[X]
    elif kind == "crystals":
        angles, crystal = rng.uniform(0, 3, (2, *spatial, 3)), single_crystal_stiffness(ZINC)
        C = turned_by_tensor(crystal, angles)
        options = {"X": angles, "crystal_stiffness": ZINC, "eigenstrain": strains[0]}
        eigen = turned_strain(strains[0], angles)
    elif kind == "voxels":
        C, eigen = random_stiffness(rng, 2, *spatial, n=6), rng.normal(size=(2, *spatial, 6))
        options = {"stiffness": C, "eigenstrain": eigen}
    else:
        eigen = rng.normal(size=(2, *spatial))
        options = (
            isotropic if kind == "phases by voxels" else {"elastic_modulus": YOUNG[X], "poissons_ratio": POISSON[X]}
        )
        options = options | {"eigenstrain": eigen}
        eigen = eigen[..., None] * np.array([1.0, 1, 1, 0, 0, 0])
    stress = (C @ eigen[..., None])[..., 0]
    if dim == 2:
        stress, C = stress[..., [0, 1, 5]], C[..., [0, 1, 5], :][..., [0, 1, 5]]
    macro = rng.normal(size=C.shape[-1])
    found = solve_fields(**options, macro_strain=macro, **TIGHT)
    for sample, strain in enumerate(found.strain):
        assert_allclose(strain, assembled(C[sample], macro, stress[sample]), rtol=0, atol=1e-8)
    assert_allclose(found.stress, (C @ found.strain[..., None])[..., 0] - stress, rtol=0, atol=1e-10 * np.abs(C).max())
    # Without mean stress, the mean strain is the effective expansion.
    free = effective_expansion(**options, **TIGHT)
    effective = effective_stiffness(**{k: v for k, v in options.items() if k != "eigenstrain"}, **TIGHT)
    expected = macro - np.linalg.solve(effective, found.mean_stress[..., None])[..., 0]
    assert_allclose(free, expected, rtol=0, atol=1e-7)
    relaxed = solve_fields(**options, macro_stress=np.zeros_like(macro), **TIGHT)
    assert_allclose(relaxed.mean_stress, 0, atol=1e-9 * np.abs(C).max())
    assert_allclose(relaxed.mean_strain, free, rtol=0, atol=1e-12)


def turned_strain(strain, angles):
    """Turn a strain by a vector basis that is turned: ε' = Σ_ab ε_ab (R e_a) (R e_b)."""
    tensor = np.empty((3, 3))
    for value, a, b in zip(strain, *voigt_pairs(3), strict=True):
        tensor[a, b] = tensor[b, a] = value if a == b else value / 2
    turns = Rotation.from_euler("ZXZ", angles.reshape(-1, 3)).as_matrix()
    turned = np.einsum("nia,ab,njb->nij", turns, tensor, turns)
    parts = [turned[:, a, b] * (1 if a == b else 2) for a, b in zip(*voigt_pairs(3), strict=True)]
    return np.stack(parts, axis=-1).reshape(*angles.shape[:-1], 6)


@pytest.mark.parametrize("dim", [2, 3])
def test_effective_expansion__of_laminates(dim):
    X = np.zeros((1, 8, *(3,) * (dim - 1)), dtype=int)
    X[:, 3:] = 1
    alpha = np.array([1.0, 4.0])
    found = effective_expansion(X, eigenstrain=alpha, elastic_modulus=YOUNG, poissons_ratio=POISSON, **TIGHT)[0]
    # Along the layers all have one strain, and the mean stress is 0. Across, each layer is free.
    plane = YOUNG / (1 - POISSON) if dim == 3 else YOUNG / (1 - POISSON**2)
    own = alpha if dim == 3 else (1 + POISSON) * alpha
    f = np.array([3 / 8, 5 / 8])
    along = (f * plane * own).sum() / (f * plane).sum()
    contraction = 2 * POISSON / (1 - POISSON) if dim == 3 else POISSON / (1 - POISSON)
    across = (f * (own - contraction * (along - own))).sum()
    expected = [across, along, 0] if dim == 2 else [across, along, along, 0, 0, 0]
    assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_effective_expansion__is_the_relation_of_levin():
    X = make_microstructure(n_samples=3, size=(7, 8, 6), grain_size=3, seed=4)
    alpha = np.array([1.0, 4.0])
    elastic = {"elastic_modulus": YOUNG, "poissons_ratio": POISSON}
    found = effective_expansion(X, eigenstrain=alpha, **elastic, **TIGHT)
    compliance = np.linalg.inv(effective_stiffness(X, **elastic, **TIGHT))
    one = np.array([1.0, 1, 1, 0, 0, 0])
    inverse = (1 - 2 * POISSON) / YOUNG  # 1 / (3 K): the strain along each axis under a unit stress on all sides
    fraction = np.stack([1 - X, X]).mean(axis=(2, 3, 4)).T
    mean, mean_inverse = (fraction @ alpha)[:, None] * one, (fraction @ inverse)[:, None] * one
    factor = (alpha[1] - alpha[0]) / (inverse[1] - inverse[0])
    assert_allclose(found, mean + factor * (compliance @ one - mean_inverse), rtol=0, atol=1e-9)


def test_effective_expansion__is_lazy_and_labelled_and_of_the_same_expansion_is_that():
    X = make_microstructure(n_samples=6, size=(5, 6, 4), grain_size=3, seed=3)
    elastic = {"elastic_modulus": YOUNG, "poissons_ratio": POISSON}
    one = solve_fields(np.zeros((2, 3, 4, 5)), eigenstrain=[0.3], elastic_modulus=[2.0], poissons_ratio=[0.2])
    assert_array_equal(one.strain, np.broadcast_to([0.01, 0, 0, 0, 0, 0], one.strain.shape))
    assert_allclose(one.stress[..., 1], 2 / (1 - 2 * 0.2) * (0.01 * 0.2 / 1.2 - 0.3))
    uniform = effective_expansion(X, eigenstrain=(2.0, 2.0), **elastic)
    assert_allclose(uniform, np.tile([2.0, 2, 2, 0, 0, 0], (6, 1)), rtol=0, atol=1e-6)
    lazy = da.from_array(X, chunks=((1, 3, 2), -1, -1, -1))
    with computes(0):
        found = effective_expansion(lazy, eigenstrain=(1.0, 3.0), **elastic)
        by_voxel = effective_expansion(X, eigenstrain=lazy * 2.0 + 1.0, **elastic)
        fields = solve_fields(lazy, eigenstrain=(1.0, 3.0), **elastic)
    assert tasks_per_chunk(found) <= 2
    assert_array_equal(found, effective_expansion(X, eigenstrain=(1.0, 3.0), **elastic))
    assert_allclose(by_voxel, found, rtol=0, atol=1e-12)
    assert_array_equal(fields.stress, solve_fields(X, eigenstrain=(1.0, 3.0), **elastic).stress)
    labelled = xr.DataArray(X, dims=("sample", "x", "y", "z"), coords={"sample": list("abcdef")})
    turned = xr.DataArray(1.0 + 2 * X, dims=("sample", "x", "y", "z"), coords={"sample": list("abcdef")})[::-1]
    tensors = effective_expansion(labelled, eigenstrain=turned, **elastic)
    assert tensors.dims == ("sample", "component")
    assert_allclose(tensors, found, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eigenstrain": (1.0, 2.0, 3.0)}, "a number, or 3 or 6 components, for each of the 2 phases"),
        ({"eigenstrain": 1.0}, "for each of the 2 phases"),
        ({"eigenstrain": (1.0, np.nan)}, "all finite"),
        ({"eigenstrain": np.ones((2, 4))}, "for each of the 2 phases"),
        ({"eigenstrain": np.ones((2, 3, 3))}, "eigenstrain must hold a number for each voxel"),
        ({"eigenstrain": np.full((1, 3, 3), np.nan)}, "eigenstrain must be finite"),
        ({"macro_stress": np.inf}, "macro_stress must be finite, or NaN"),
        ({"macro_stress": [1.0, 2.0]}, "macro_stress must be a number, the 3 components"),
    ],
)
def test_loads__raise_and_say_what_mends_them(options, message):
    with pytest.raises(ValueError, match=message):
        mean_stress(np.zeros((1, 3, 3)), elastic_modulus=(1, 2), poissons_ratio=(0.3, 0.3), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stiffness": np.eye(6)}, "stiffness must be an array of stiffness matrices"),
        ({"stiffness": np.ones((2, 6, 6))}, "give X too"),
        ({"stiffness": np.zeros((1, 3, 3, 3, 3, 3))}, r"n_samples, nx, ny, nz, 6, 6"),
        ({"stiffness": -np.broadcast_to(np.eye(3), (1, 2, 2, 3, 3))}, "without negative eigenvalues"),
        ({"stiffness": np.broadcast_to(np.eye(3, k=1), (1, 2, 2, 3, 3))}, "symmetric"),
        ({"stiffness": np.full((1, 2, 2, 3, 3), np.nan)}, "finite"),
        ({"X": np.zeros((1, 2, 2)), "stiffness": np.eye(6)}, "a matrix for each phase of X"),
        ({"X": np.zeros((1, 2, 2)), "stiffness": np.zeros((2, 6, 6))}, "not 0 in all phases"),
        ({"X": np.zeros((1, 2, 2, 2)), "stiffness": [np.eye(3)]}, "6 × 6 matrices for 3D"),
        ({"X": np.ones((1, 2, 2)), "stiffness": [np.eye(3)]}, "phase numbers 0…0, one for each value of stiffness"),
        ({"elastic_modulus": (1.0, 2.0), "poissons_ratio": (0.3, 0.3)}, "give X too"),
        ({"elastic_modulus": np.ones((1, 2, 2)), "poissons_ratio": np.ones((1, 2, 3))}, "have the shape"),
        ({"elastic_modulus": np.ones((1, 2, 2)), "poissons_ratio": 0.5}, "poissons_ratio must lie between"),
        (
            {"elastic_modulus": np.ones((1, 2, 2)), "poissons_ratio": np.ones((1, 2, 2))},
            "poissons_ratio must lie between",
        ),
        ({"elastic_modulus": -np.ones((1, 2, 2)), "poissons_ratio": 0.3}, "elastic_modulus must be finite, and"),
        ({"crystal_stiffness": COPPER}, "give elastic_modulus and poissons_ratio, or stiffness"),
        ({}, "give elastic_modulus and poissons_ratio, or stiffness"),
    ],
)
def test_stiffness__raises_and_says_what_mends_it(options, message):
    with pytest.raises(ValueError, match=message):
        mean_stress(**options)


def test_eigenstrain__of_crystals_and_of_voxels_alone_says_what_it_may_be():
    with pytest.raises(ValueError, match="a number or 6 components for the crystal"):
        mean_stress(np.zeros((1, 2, 2, 3)), crystal_stiffness=COPPER, eigenstrain=[1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="eigenstrain must be an array of numbers"):
        mean_stress(elastic_modulus=np.ones((1, 2, 2)), poissons_ratio=0.3, eigenstrain=[1.0])


def test_stiffness__of_complex_numbers_is_refused():
    with pytest.raises(TypeError, match="stiffness must hold real numbers"):
        mean_stress(stiffness=np.ones((1, 2, 2, 3, 3), dtype=complex))
