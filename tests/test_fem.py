"""The elastic solver against closed forms, bounds and another finite-element code."""

import inspect

import dask.array as da
import numpy as np
import pytest
import scipy.fft
import xarray as xr
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.transform import Rotation

from mksdask.datasets import (
    ConvergenceError,
    ElasticFESimulation,
    effective_stiffness,
    make_microstructure,
    mean_stress,
    solve_fields,
)
from mksdask.simulation import (
    engineering_constants,
    hashin_shtrikman_bounds,
    isotropic_stiffness,
    voigt_reuss_bounds,
)
from mksdask.simulation.crystals import single_crystal_stiffness, turned_stiffness
from mksdask.simulation.equilibrium import green_operator, solve_elasticity
from mksdask.simulation.forces import voigt_pairs
from mksdask.simulation.loads import COMPONENTS, macro_strain_vector
from mksdask.simulation.stencils import Isotropic
from tests.helpers import chunked, computes, sample_chunks, tasks_per_chunk

COPPER = [168.4, 121.4, 75.4]  # C11, C12, C44, GPa
ZINC = [163.7, 36.4, 53.0, 63.5, 38.8]  # C11, C12, C13, C33, C44, GPa
YOUNG, POISSON = np.array([310.0, 20.0]), np.array([0.28, 0.35])


def turned_by_tensor(crystal, angles):
    """The definition: C'_ijkl = R_ia R_jb R_kc R_ld C_abcd, for each voxel."""
    first, second = (np.array(index) for index in voigt_pairs(3))
    position = np.zeros((3, 3), dtype=int)
    position[first, second] = position[second, first] = np.arange(6)
    C = crystal[position[:, :, None, None], position[None, None]]
    R = Rotation.from_euler("ZXZ", angles.reshape(-1, 3)).as_matrix()
    turned = np.einsum("nia,njb,nkc,nld,abcd->nijkl", R, R, R, R, C, optimize=True)
    return turned[:, first, second][:, :, first, second].reshape(*angles.shape[:-1], 6, 6)


def stiffness_matrix(young, poisson, dim):
    lam, mu = young * poisson / ((1 + poisson) * (1 - 2 * poisson)), young / (2 * (1 + poisson))
    n = dim * (dim + 1) // 2
    C = np.diag([2 * mu] * dim + [mu] * (n - dim))
    C[:dim, :dim] += lam
    return C


def laminate_stiffness(fraction, dim):
    """Layers normal to x: σ_xx, σ_xy, σ_xz and the in-plane strains are uniform (Backus averages)."""
    phases = [stiffness_matrix(e, v, dim) for e, v in zip(YOUNG, POISSON, strict=True)]
    normal = [i for i, pair in enumerate(zip(*voigt_pairs(dim), strict=True)) if 0 in pair]
    plane = [i for i in range(len(phases[0])) if i not in normal]
    weights = (fraction, 1 - fraction)

    def mean(parts):
        return sum(w * part for w, part in zip(weights, parts, strict=True))

    nn = [np.linalg.inv(C[np.ix_(normal, normal)]) for C in phases]
    coupling = [inverse @ C[np.ix_(normal, plane)] for inverse, C in zip(nn, phases, strict=True)]
    out = np.zeros_like(phases[0])
    top = np.linalg.inv(mean(nn))
    out[np.ix_(normal, normal)] = top
    out[np.ix_(normal, plane)] = top @ mean(coupling)
    out[np.ix_(plane, normal)] = out[np.ix_(normal, plane)].T
    out[np.ix_(plane, plane)] = mean(
        [C[np.ix_(plane, plane)] - C[np.ix_(plane, normal)] @ b for C, b in zip(phases, coupling, strict=True)]
    ) + mean(coupling).T @ top @ mean(coupling)
    return out


@pytest.mark.parametrize("dim", [2, 3])
def test_stiffness__laminate_closed_form_under_each_load(dim):
    X = np.zeros((1, 8, *(3,) * (dim - 1)), dtype=int)
    X[:, 3:] = 1
    C = effective_stiffness(X, elastic_modulus=YOUNG, poissons_ratio=POISSON, tolerance=1e-11)[0]
    assert_allclose(C, laminate_stiffness(3 / 8, dim), rtol=1e-8, atol=1e-8 * YOUNG[0])


@pytest.mark.parametrize("dim", [2, 3])
def test_stiffness__voigt_and_reuss_bound_each_sample(dim):
    X = make_microstructure(n_samples=12, size=(9,) * dim, grain_size=3, seed=dim)
    C = effective_stiffness(X, elastic_modulus=YOUNG, poissons_ratio=POISSON)
    fractions = np.stack([1 - X, X]).mean(axis=tuple(range(2, dim + 2))).T
    bounds = voigt_reuss_bounds(fractions, isotropic_stiffness(YOUNG, POISSON, n_spatial=dim))
    assert np.linalg.eigvalsh(bounds.upper - C).min() > -1e-6 * YOUNG[0]
    assert np.linalg.eigvalsh(C - bounds.lower).min() > -1e-6 * YOUNG[0]


def test_stiffness__isotropic_mean_lies_within_hashin_shtrikman():
    X = make_microstructure(n_samples=60, size=(16,) * 3, grain_size=3, seed=4, volume_fraction=(0.5, 0.5))
    C = effective_stiffness(X, elastic_modulus=YOUNG, poissons_ratio=POISSON).mean(axis=0)
    found = engineering_constants(C)
    lower, upper = (
        engineering_constants(bound)
        for bound in hashin_shtrikman_bounds([0.5, 0.5], elastic_modulus=YOUNG, poissons_ratio=POISSON)
    )
    assert lower.mean_bulk < found.mean_bulk < upper.mean_bulk
    assert lower.mean_shear < found.mean_shear < upper.mean_shear


@settings(max_examples=25, deadline=None)
@given(
    size=st.sampled_from([(1, 4), (2, 3), (7, 4), (2, 2, 2), (3, 1, 4), (4, 3, 5)]),
    seed=st.integers(0, 999),
    data=st.data(),
)
def test_fields__are_in_equilibrium_with_the_imposed_strain(size, seed, data):
    rng = np.random.default_rng(seed)
    dim = len(size)
    X = rng.integers(0, 2, (5, *size))
    macro = rng.normal(size=dim * (dim + 1) // 2)
    options = {"elastic_modulus": YOUNG, "poissons_ratio": POISSON, "macro_strain": macro, "tolerance": 1e-10}
    fields = solve_fields(X, **options)
    assert_allclose(
        fields.mean_strain, np.broadcast_to(macro, fields.mean_strain.shape), rtol=0, atol=1e-12 * np.abs(macro).max()
    )
    # Hill: the mean energy is the product of the means.
    axes = tuple(range(1, dim + 1))
    energy = effective_stiffness(X, elastic_modulus=YOUNG, poissons_ratio=POISSON, tolerance=1e-10)
    assert_allclose(fields.mean_stress, np.einsum("nij,j->ni", energy, macro), rtol=1e-6, atol=1e-6 * YOUNG[0])
    # The displacement on the nodes gives the strain of the elements.
    strain = np.zeros_like(fields.strain)
    for v, (a, b) in enumerate(zip(*voigt_pairs(dim), strict=True)):
        for i, j in {(a, b), (b, a)}:
            part = fields.displacement[..., i]
            for axis in range(dim):
                low = part.take(np.arange(size[axis]), axis=axis + 1)
                high = part.take(np.arange(1, size[axis] + 1), axis=axis + 1)
                part = high - low if axis == j else 0.5 * (high + low)
            strain[..., v] += part
    assert_allclose(strain, fields.strain, atol=1e-11 * np.abs(macro).max() * max(size))
    assert fields.stress.mean(axis=axes).shape == (5, len(COMPONENTS[dim]))
    lazy = solve_fields(chunked(X, data.draw(sample_chunks(5))), **options)
    for name, field in fields._asdict().items():
        assert_array_equal(getattr(lazy, name).compute(scheduler="sync"), field)


def sfepy_solution(C, macro):
    """Mean stress and displacement, with SfePy's stiffness matrix, opposite faces tied, and a direct solve."""
    pytest.importorskip("sfepy", reason="SfePy, the oracle, is not installed (extra: sfepy)")
    import scipy.sparse as sp
    from scipy.sparse.linalg import spsolve
    from sfepy.base.base import output
    from sfepy.discrete import Equation, Equations, FieldVariable, Function, Integral, Material, Problem
    from sfepy.discrete.fem import FEDomain, Field
    from sfepy.mesh.mesh_generators import gen_block_mesh
    from sfepy.terms import Term

    output.set_output(quiet=True)
    shape = np.array(C.shape[:-2])
    dim = len(shape)
    mesh = gen_block_mesh(shape.astype(float), shape + 1, shape / 2.0, verbose=False)
    omega = FEDomain("domain", mesh).create_region("Omega", "all")
    field = Field.from_args("displacement", np.float64, "vector", omega, approx_order=1)
    u = FieldVariable("u", "unknown", field)
    v = FieldVariable("v", "test", field, primary_var_name="u")
    elements = mesh.get_conn(f"{dim}_{2**dim}")
    voxel = tuple(np.floor(mesh.coors[elements].mean(axis=1)).astype(int).T)
    n = dim * (dim + 1) // 2
    # SfePy's order is xx, yy, zz, xy, xz, yz.
    order = [0, 1, 2] if dim == 2 else [0, 1, 2, 5, 4, 3]
    D = C[voxel][:, order][:, :, order]

    def properties(ts, coors, mode=None, **_):
        return {"D": np.repeat(D, len(coors) // len(D), axis=0)} if mode == "qp" else None

    material = Material("m", function=Function("properties", properties))
    term = Term.new("dw_lin_elastic(m.D, v, u)", Integral("i", order=2), omega, m=material, v=v, u=u)
    problem = Problem("cell", equations=Equations([Equation("equilibrium", term)]))
    problem.time_update()
    problem.update_materials()
    problem.set_default_state()
    K = problem.get_evaluator().eval_tangent_matrix(np.zeros(mesh.n_nod * dim), is_full=True)
    K = sp.csr_matrix((K.data, K.indices, K.indptr), shape=K.shape)

    position = np.rint(mesh.coors).astype(int)
    owner = np.ravel_multi_index(tuple((position % shape).T), shape)
    columns = (owner[:, None] * dim + np.arange(dim)).ravel()
    tie = sp.csr_matrix((np.ones(len(columns)), (np.arange(len(columns)), columns)))

    def affine(strain):
        tensor = np.zeros((dim, dim))
        for value, a, b in zip(strain, *voigt_pairs(dim), strict=True):
            tensor[a, b] = tensor[b, a] = value if a == b else 0.5 * value
        return (mesh.coors @ tensor).ravel()

    reduced = (tie.T @ K @ tie).tocsc()
    load = -(tie.T @ (K @ affine(macro)))
    fluctuation = np.zeros(reduced.shape[0])
    fluctuation[dim:] = spsolve(reduced[dim:, dim:], load[dim:])
    solution = affine(macro) + tie @ fluctuation
    stress = np.array([affine(unit) @ (K @ solution) for unit in np.eye(n)]) / np.prod(shape)
    return stress, solution.reshape(-1, dim), position


@pytest.mark.parametrize("kind", ["phases", "cubic", "hexagonal", "triclinic"])
@pytest.mark.parametrize(("size", "load"), [((5, 6), 0), ((5, 6), 2), ((4, 3, 5), 0), ((4, 3, 5), 3), ((3, 4, 3), 5)])
@pytest.mark.filterwarnings("ignore")
def test_fields__match_sfepy(size, load, kind):
    rng = np.random.default_rng(7)
    dim = len(size)
    n = dim * (dim + 1) // 2
    if kind == "phases":
        lam, mu = rng.uniform(1.0, 30.0, size), rng.uniform(1.0, 20.0, size)
        material = Isotropic(lam[None], mu[None])
        C = np.zeros((*size, n, n))
        C[..., :dim, :dim] = lam[..., None, None]
        C[..., range(n), range(n)] += np.where(np.arange(n) < dim, 2.0, 1.0) * mu[..., None]
    else:
        factor = rng.normal(size=(6, 6))
        constants = {"cubic": COPPER, "hexagonal": ZINC, "triclinic": factor @ factor.T + 3 * np.eye(6)}[kind]
        crystal = single_crystal_stiffness(constants) / 10
        angles = rng.uniform(0, 3, (*size, 3))
        material = turned_stiffness(crystal, angles[None])
        C = turned_by_tensor(crystal, angles)
        if dim == 2:
            C = C[..., [0, 1, 5], :][..., [0, 1, 5]]
    macro = np.zeros(n)
    macro[load] = 0.01
    stress, displacement, position = sfepy_solution(C, macro)
    found = solve_elasticity(material, macro[None], reference=(10.0, 10.0), tolerance=1e-11)
    assert_allclose(found.mean_stress()[0], stress, rtol=1e-6, atol=1e-6 * np.abs(stress).max())
    tensor = np.zeros((dim, dim))
    for value, a, b in zip(macro, *voigt_pairs(dim), strict=True):
        tensor[a, b] = tensor[b, a] = value if a == b else 0.5 * value
    ours = found.fluctuation[0][(slice(None), *(position % size).T)].T + position @ tensor
    shift = (ours - displacement)[0]
    assert_allclose(ours - shift, displacement, rtol=0, atol=1e-6 * np.abs(displacement).max())


@pytest.mark.parametrize(
    ("given_strain", "expected"),
    [(0.1, [0.1, 0, 0]), ([0.1, 0.2, 0.3], [0.1, 0.2, 0.3]), ([[0.1, 0.15], [0.15, 0.2]], [0.1, 0.2, 0.3])],
)
def test_macro_strain__number_components_or_tensor(given_strain, expected):
    assert_allclose(macro_strain_vector(given_strain, 2), expected)


@pytest.mark.parametrize("bad", [[0.1, 0.2], np.nan, [[0.1, 0.2], [0.3, 0.1]], np.zeros((3, 3))])
def test_macro_strain__raises_on_what_fits_no_dimension(bad):
    with pytest.raises(ValueError, match="macro_strain must be"):
        macro_strain_vector(bad, 2)


def test_simulation__iterations_do_not_depend_on_the_grid():
    counts = []
    for n in (16, 48):
        X = make_microstructure(n_samples=2, size=(n, n), grain_size=n / 6, seed=1)
        lam, mu = np.array([1.0, 100.0])[X], np.array([1.0, 100.0])[X]
        counts.append(
            solve_elasticity(Isotropic(lam, mu), np.tile([1.0, 0, 0], (2, 1)), reference=(50.0, 50.0)).iterations.max()
        )
    assert counts[1] <= 1.25 * counts[0]


@pytest.mark.parametrize("size", [(20, 20), (10, 10, 10)])
@pytest.mark.parametrize("contrast", [10.0, 1e4, 0.0])
@pytest.mark.parametrize("tolerance", [1e-3, 1e-8, 1e-12])
def test_solve_elasticity__residual_in_double_precision_reaches_the_tolerance(size, contrast, tolerance):
    dim = len(size)
    moduli = np.array([1.0, contrast])[make_microstructure(n_samples=3, size=size, grain_size=4, seed=2)]
    material, reference = Isotropic(moduli, moduli), moduli.mean()
    macro = np.eye(1, dim * (dim + 1) // 2).repeat(3, axis=0)
    found = solve_elasticity(material, macro, reference=(reference, reference), tolerance=tolerance)
    green = green_operator(size, 1.0, 1.0).astype(np.float64)
    axes, (rows, columns) = tuple(range(2, dim + 2)), np.triu_indices(dim)
    inverse = np.zeros((dim, dim, *green.shape[1:]))
    inverse[rows, columns] = inverse[columns, rows] = green

    def norm(u):
        forces = material.forces(u, macro, np.ones(3, dtype=bool), np.empty_like(u))
        spectra = scipy.fft.rfftn(forces, axes=axes)
        z = scipy.fft.irfftn(np.einsum("ab...,nb...->na...", inverse, spectra), s=size, axes=axes)
        return np.sqrt((forces * z).sum(axis=tuple(range(1, dim + 2))))

    # The last step, whose direction is known, need not lower this norm.
    assert (norm(found.fluctuation) <= 2.0 * tolerance * norm(np.zeros_like(found.fluctuation))).all()


def test_simulation__not_converging_is_an_error_that_says_how_far_it_got():
    X = make_microstructure(n_samples=3, size=(16, 16), grain_size=3)
    with pytest.raises(ConvergenceError, match=r"3 of 3 samples did not converge in max_iterations=4.*residual of \d"):
        mean_stress(X, elastic_modulus=(1, 1000), poissons_ratio=(0.3, 0.3), max_iterations=4)


@pytest.mark.parametrize("unit", [1e-9, 1e11])
def test_simulation__unit_of_stress_and_size_of_strain_scale_out(unit):
    X = make_microstructure(n_samples=2, size=(8, 8), grain_size=2)
    base = mean_stress(X, elastic_modulus=YOUNG, poissons_ratio=POISSON, macro_strain=1.0)
    scaled = mean_stress(X, elastic_modulus=YOUNG * unit, poissons_ratio=POISSON, macro_strain=1e-12)
    assert_allclose(scaled, base * unit * 1e-12, rtol=1e-7, atol=1e-7 * np.abs(base).max() * unit * 1e-12)


def test_simulation__homogeneous_and_unstrained_cells():
    X = np.zeros((2, 4, 4), dtype=int)
    fields = solve_fields(X, elastic_modulus=[2.0], poissons_ratio=[0.0], macro_strain=[0.1, 0.0, 0.2])
    assert_allclose(fields.stress, np.broadcast_to([0.2, 0.0, 0.2], fields.stress.shape), atol=1e-14)
    still = solve_fields(X, elastic_modulus=[2.0], poissons_ratio=[0.0], macro_strain=0.0)
    assert_array_equal(still.displacement, 0.0)


def test_simulation__takes_what_solve_fields_takes():
    of_fields, of_class = (dict(inspect.signature(each).parameters) for each in (solve_fields, ElasticFESimulation))
    del of_fields["X"]
    assert of_class.keys() == of_fields.keys()
    assert all(of_class[name].default == of_fields[name].default for name in of_class)
    options = {"stiffness": [stiffness_matrix(1.0, 0.3, 2), stiffness_matrix(3.0, 0.3, 2)], "eigenstrain": (0.0, 0.01)}
    X = np.array([[[0, 1], [1, 0]]])
    options |= {"macro_stress": (np.nan, 0.0, 0.0), "macro_strain": 0.02}
    found = ElasticFESimulation(**options).run(X)
    assert_array_equal(found.stress, solve_fields(X, **options).stress)
    assert_allclose(found.mean_strain[0, 0], 0.02)


def test_simulation__labelled_and_lazy():
    X = xr.DataArray(
        make_microstructure(n_samples=4, size=(6, 5), grain_size=2, chunks=2),
        dims=("sample", "x", "y"),
        coords={"x": ("x", np.arange(6) * 2.0, {"units": "um"}), "y": ("y", np.arange(5) * 2.0, {"units": "um"})},
    )
    simulation = ElasticFESimulation(elastic_modulus=YOUNG, poissons_ratio=POISSON, macro_strain=0.01)
    with computes(0):
        response = simulation.run(X).response
    assert isinstance(response, xr.Dataset)
    assert simulation.strain.dims == ("sample", "x", "y", "component")
    assert_array_equal(response.component, ["xx", "yy", "xy"])
    assert_allclose(response.x_node, np.arange(7) * 2.0 - 1.0)
    plain = ElasticFESimulation(elastic_modulus=YOUNG, poissons_ratio=POISSON, macro_strain=0.01).run(X.values)
    assert_array_equal(response.stress, plain.stress)
    assert_allclose(response.displacement, 2.0 * plain.displacement)
    labelled, bare = (
        effective_stiffness(each, elastic_modulus=YOUNG, poissons_ratio=POISSON) for each in (X, X.values)
    )
    assert_array_equal(labelled.sel(component="xx", component_applied="yy"), bare[:, 0, 1])
    lazy = mean_stress(
        da.from_array(X.values, chunks=(2, 6, 5), inline_array=True), elastic_modulus=YOUNG, poissons_ratio=POISSON
    )
    assert tasks_per_chunk(lazy) <= 2


@pytest.mark.parametrize(
    ("options", "X", "message"),
    [
        ({"elastic_modulus": (1,)}, np.zeros((1, 3, 3)), "one value for each phase"),
        ({"elastic_modulus": (1, -1)}, np.zeros((1, 3, 3)), "elastic_modulus must be positive"),
        ({"poissons_ratio": (0.3, 0.5)}, np.zeros((1, 3, 3)), "poissons_ratio must lie"),
        ({"tolerance": 0}, np.zeros((1, 3, 3)), "tolerance"),
        ({}, np.full((1, 3, 3), 2), "phase numbers 0…1"),
        ({}, np.full((1, 3, 3), 0.5), "phase numbers 0…1"),
        ({}, np.full((1, 3, 3), np.nan), "phase numbers 0…1"),
        ({}, np.zeros((1, 3)), "n_samples, nx, ny"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_simulation__raises_on_bad_argument(options, X, message):
    arguments = {"elastic_modulus": (1, 2), "poissons_ratio": (0.3, 0.3)} | options
    with pytest.raises(ValueError, match=message):
        mean_stress(X, **arguments)


def test_simulation__refuses_voxels_that_are_no_cubes():
    def labelled(x, y, units="um"):
        return xr.DataArray(
            np.zeros((1, 3, 3), dtype=int),
            dims=("sample", "x", "y"),
            coords={"x": ("x", x, {"units": "um"}), "y": ("y", y, {"units": units})},
        )

    steps = np.arange(3.0)
    options = {"elastic_modulus": [1.0], "poissons_ratio": [0.3]}
    for bad in (labelled(steps * 1e-9, steps * 5e-9), labelled(steps, steps, "mm")):
        with pytest.raises(ValueError, match="cubic voxels"):
            mean_stress(bad, **options)
    downwards = solve_fields(labelled(steps, steps[::-1]), **options)
    assert_allclose(downwards.y_node, [2.5, 1.5, 0.5, -0.5])


def test_simulation__no_samples_is_no_error():
    assert mean_stress(np.zeros((0, 3, 3)), elastic_modulus=[1.0], poissons_ratio=[0.3]).shape == (0, 3)
    fields = solve_fields(np.zeros((0, 3, 3)), elastic_modulus=[1.0], poissons_ratio=[0.3])
    assert fields.strain.shape == (0, 3, 3, 3)
