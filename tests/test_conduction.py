"""Conduction against closed forms, an independent assembly, bounds, and limits."""

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

from mksdask import MKSLocalizationModel, PrimitiveBasis
from mksdask.datasets import make_conduction_random, make_microstructure
from mksdask.simulation import (
    ConvergenceError,
    effective_conductivity,
    hashin_shtrikman_bounds,
    solve_conduction,
    voigt_reuss_bounds,
)
from tests.helpers import computes, sample_chunks, tasks_per_chunk


def assembled(tensors, gradient):
    """Mean flux and gradients by an independent sparse assembly: Gauss points, shape functions, a direct solver."""
    *spatial, dim, _ = tensors.shape
    corners = list(itertools.product((0, 1), repeat=dim))
    points = np.array(list(itertools.product((0.5 - 0.5 / 3**0.5, 0.5 + 0.5 / 3**0.5), repeat=dim)))

    def derivatives(x):
        return np.array(
            [
                [
                    np.prod([(2 * c[b] - 1.0) if b == a else (x[b] if c[b] else 1.0 - x[b]) for b in range(dim)])
                    for c in corners
                ]
                for a in range(dim)
            ]
        )

    rows, columns, values = [], [], []
    n = int(np.prod(spatial))
    load = np.zeros(n)
    elements = list(np.ndindex(*spatial))
    numbers = [[np.ravel_multi_index(np.add(e, c) % spatial, spatial) for c in corners] for e in elements]
    shapes = [derivatives(x) for x in points]
    for element, nodes in zip(elements, numbers, strict=True):
        K = tensors[element]
        local = sum(B.T @ K @ B for B in shapes) / len(points)
        load_of = sum(B.T @ K @ gradient for B in shapes) / len(points)
        for a, node in enumerate(nodes):
            load[node] -= load_of[a]
            for b, other in enumerate(nodes):
                rows.append(node), columns.append(other), values.append(local[a, b])
    matrix = scipy.sparse.csc_matrix((values, (rows, columns)), shape=(n, n))
    u = np.zeros(n)
    u[1:] = scipy.sparse.linalg.spsolve(matrix[1:, 1:], load[1:])
    mean = sum(shapes) / len(points)
    return np.array([gradient + mean @ u[nodes] for nodes in numbers]).reshape(*spatial, dim)


def diagonal(numbers, dim):
    return np.asarray(numbers)[..., None, None] * np.eye(dim)


@pytest.mark.parametrize("spatial", [(5, 6), (6, 5), (4, 3, 5)])
@pytest.mark.parametrize("kind", ["numbers", "tensors", "crystals"])
def test_solve_conduction__equals_an_independent_assembly(spatial, kind):
    rng, dim = np.random.default_rng(0), len(spatial)
    X = rng.integers(0, 3, (2, *spatial))
    gradient = rng.normal(size=dim)
    if kind == "numbers":
        conductivity = np.array([1.0, 7.0, 0.3])
        tensors = diagonal(conductivity[X], dim)
    elif kind == "tensors":
        roots = rng.normal(size=(3, dim, dim))
        conductivity = roots @ roots.swapaxes(1, 2) + 0.1 * np.eye(dim)
        tensors = conductivity[X]
    else:
        conductivity = np.diag([1.0, 2.0, 9.0])
        X = rng.uniform(0, 3, (2, *spatial, 3))
        first, second, third = (
            np.einsum("n,a->na", X[..., i].ravel(), axis) for i, axis in enumerate(np.eye(3)[[2, 0, 2]])
        )
        turn = Rotation.from_rotvec(first) * Rotation.from_rotvec(second) * Rotation.from_rotvec(third)
        turn = turn.as_matrix()
        tensors = np.einsum("nab,bc,ndc->nad", turn, conductivity, turn)[:, :dim, :dim].reshape(*X.shape[:-1], dim, dim)
    found = solve_conduction(X, conductivity=conductivity, macro_gradient=gradient, tolerance=1e-12)
    for sample, fields in enumerate(found.gradient):
        assert_allclose(fields, assembled(tensors[sample], gradient), rtol=0, atol=1e-8)
    assert_allclose(found.flux, np.einsum("n...ab,n...b->n...a", tensors, found.gradient), atol=1e-12)
    assert_allclose(found.mean_gradient, np.broadcast_to(gradient, (2, dim)), atol=1e-12)
    effective = effective_conductivity(X, conductivity=conductivity, tolerance=1e-12)
    assert_allclose(effective @ gradient, found.mean_flux, rtol=0, atol=1e-8)
    assert_array_equal(effective, effective.swapaxes(1, 2))


@pytest.mark.parametrize("dim", [2, 3])
def test_effective_conductivity__of_laminates(dim):
    X = np.zeros((1, *(8,) * dim), dtype=int)
    X[:, :, 2:] = 1  # three quarters of phase 1, layers across y
    found = effective_conductivity(X, conductivity=(1.0, 5.0))[0]
    expected = np.full(dim, 0.25 + 0.75 * 5.0)
    expected[1] = 1.0 / (0.25 + 0.75 / 5.0)
    assert_allclose(found, np.diag(expected), atol=1e-8)
    pores = effective_conductivity(X, conductivity=(0.0, 5.0))[0]
    expected[:], expected[1] = 0.75 * 5.0, 0.0
    assert_allclose(pores, np.diag(expected), atol=1e-8)


def test_effective_conductivity__of_a_checkerboard_approaches_that_of_keller():
    errors = []
    for n in (8, 16, 32, 64):
        X = np.indices((2 * n, 2 * n)).sum(axis=0) * 0 + (np.indices((2 * n, 2 * n)) // n).sum(axis=0) % 2
        found = effective_conductivity(X[None], conductivity=(1.0, 4.0))[0]
        assert_allclose(found, found[0, 0] * np.eye(2), atol=1e-6)
        errors.append(found[0, 0] / 2.0 - 1.0)
    # Finite elements are too stiff, and the field is singular where four squares meet.
    assert 0 < errors[3] < errors[2] < errors[1] < errors[0] < 0.05
    assert errors[3] < 0.005


@pytest.mark.parametrize("dim", [2, 3])
def test_effective_conductivity__lies_between_the_bounds(dim):
    X = make_microstructure(n_samples=6, size=(20,) * dim, grain_size=3, seed=1)
    k1, k2 = 1.0, 6.0
    found = np.trace(effective_conductivity(X, conductivity=(k1, k2)), axis1=1, axis2=2) / dim
    f2 = X.mean(axis=tuple(range(1, dim + 1)))
    fractions = np.stack([1 - f2, f2], axis=-1)
    # Hashin and Shtrikman, for the mean over samples of an isotropic ensemble.
    narrow = hashin_shtrikman_bounds(fractions, conductivity=(k1, k2), n_spatial=dim)
    assert narrow.lower.mean() < found.mean() < narrow.upper.mean()
    wide = voigt_reuss_bounds(fractions, (k1, k2))
    assert (found > wide.lower).all()
    assert (found < wide.upper).all()


@pytest.mark.parametrize("size", [(24, 24), (12, 12, 12)])
def test_effective_conductivity__of_pores_is_the_limit_of_a_large_contrast(size):
    X = make_microstructure(n_samples=3, size=size, grain_size=4, seed=2)
    found = effective_conductivity(X, conductivity=(1.0, 0.0))
    limit = effective_conductivity(X, conductivity=(1.0, 1e-6))
    assert_allclose(found, limit, rtol=0, atol=1e-4)
    assert_allclose(effective_conductivity(np.zeros((1, *size)), conductivity=(0.0, 2.0)), 0.0)
    tensors = effective_conductivity(X, conductivity=diagonal((1.0, 0.0), len(size)))
    assert_allclose(tensors, found, rtol=0, atol=1e-7)


@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_solve_conduction__chunk_invariant(data):
    X = make_microstructure(n_samples=7, size=(9, 8), grain_size=3, seed=3)
    rows = data.draw(sample_chunks(7))
    eager = solve_conduction(X, conductivity=(1.0, 9.0))
    lazy = solve_conduction(da.from_array(X, chunks=(rows, -1, -1)), conductivity=(1.0, 9.0))
    for one, other in zip(eager, lazy, strict=True):
        assert_array_equal(one, other)


def test_solve_conduction__is_lazy_with_one_task_a_chunk_and_labelled():
    X = make_microstructure(n_samples=6, size=(9, 8), grain_size=3, seed=3)
    lazy = da.from_array(X, chunks=(2, -1, -1))
    with computes(0):
        tensors = effective_conductivity(lazy, conductivity=(1.0, 9.0))
        fields = solve_conduction(lazy, conductivity=(1.0, 9.0))
    assert tasks_per_chunk(tensors) <= 2
    assert fields.flux.shape == (6, 9, 8, 2)
    labelled = xr.DataArray(X, dims=("sample", "x", "y"), coords={"x": 0.5 * np.arange(9), "y": 0.5 * np.arange(8)})
    found = solve_conduction(labelled, conductivity=(1.0, 9.0))
    assert found.flux.dims == ("sample", "x", "y", "component")
    assert found.mean_flux.coords["component"].values.tolist() == ["x", "y"]
    assert_array_equal(found.flux, fields.flux)


def test_make_conduction_random__can_be_localized():
    X, gradient = make_conduction_random(n_samples=60, conductivity=(1.0, 3.0), size=(10, 10))
    model = MKSLocalizationModel(PrimitiveBasis(2), order=3).fit(X[:50], gradient[:50])
    scores = model.score_by_order(X[50:], gradient[50:])
    assert 0.7 < scores[0] < scores[1] < scores[2]
    assert_array_equal(make_conduction_random(n_samples=4, conductivity=(1.0, 3.0), size=(10, 10), chunks=3)[0], X[:4])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conductivity": (1.0, -1.0)}, "conductivity must be finite, from 0"),
        ({"conductivity": (0.0, 0.0)}, "not 0 in all phases"),
        ({"conductivity": (1.0, np.nan)}, "must be finite"),
        ({"conductivity": np.ones((2, 3))}, r"got shape \(2, 3\)"),
        ({"conductivity": [[[1.0, 2.0], [0.0, 1.0]]] * 2}, "must be symmetric"),
        ({"conductivity": (1.0,)}, "phase numbers 0…0, one for each value of conductivity"),
        (
            {"conductivity": (1.0, 2.0), "macro_gradient": (1.0, 0.0, 0.0)},
            "macro_gradient must be a finite number, or 2",
        ),
        ({"conductivity": (1.0, 2.0), "tolerance": 2.0}, "tolerance must lie between 0 and 1"),
        ({"conductivity": np.eye(3)}, "X must be an array of Bunge angles"),
    ],
)
def test_solve_conduction__raises_and_says_what_mends_it(options, message):
    X = make_microstructure(n_samples=2, size=(6, 5), grain_size=2, seed=3)
    with pytest.raises(ValueError, match=message):
        solve_conduction(X, **options)


def test_solve_conduction__says_how_far_it_got():
    X = make_microstructure(n_samples=2, size=(16, 16), grain_size=4, seed=3)
    with pytest.raises(ConvergenceError, match="max_iterations=3"):
        solve_conduction(X, conductivity=(1.0, 1e4), max_iterations=3)
    assert issubclass(ConvergenceError, ArithmeticError)
