"""Random microstructures: fractions, lengths, and bytes that depend on seed and index alone."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from mksdask import PrimitiveBasis
from mksdask.datasets import (
    ElasticFESimulation,
    MicrostructureGenerator,
    make_checkerboard_microstructure,
    make_delta_microstructures,
    make_microstructure,
)
from mksdask.datasets.responses import (
    make_elastic_FE_strain_delta,
    make_elastic_FE_strain_random,
    make_elastic_stiffness,
    make_elastic_stress_random,
)
from mksdask.stats import correlate
from tests.helpers import computes


@settings(max_examples=25, deadline=None)
@given(
    size=st.sampled_from([(9,), (8, 7), (4, 5, 6)]),
    chunks=st.integers(1, 7),
    seed=st.integers(0, 2**31),
    n_phases=st.integers(1, 4),
)
def test_microstructure__bytes_do_not_depend_on_chunks(size, chunks, seed, n_phases):
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    options = {"n_samples": 6, "size": size, "n_phases": n_phases, "grain_size": 3, "seed": seed}
    eager = make_microstructure(**options)
    with computes(0):
        lazy = make_microstructure(**options, chunks=chunks)
    assert lazy.dtype == eager.dtype == np.uint8
    assert_array_equal(lazy.compute(), eager)
    assert_array_equal(make_microstructure(**options | {"n_samples": 2}), eager[:2])
    assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@given(fraction=st.floats(0.0, 1.0), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_microstructure__fractions_hold_to_one_voxel(fraction, seed):
    X = make_microstructure(
        n_samples=2,
        size=(9, 11),
        n_phases=3,
        seed=seed,
        grain_size=2,
        volume_fraction=(fraction, (1 - fraction) / 3, 2 * (1 - fraction) / 3),
    )
    for phase, wanted in enumerate((fraction, (1 - fraction) / 3, 2 * (1 - fraction) / 3)):
        assert (np.abs((phase == X).sum(axis=(1, 2)) - wanted * 99) <= 1.0).all()


def test_microstructure__percent_variance_spreads_the_fractions():
    X = make_microstructure(
        n_samples=200, size=(20, 20), grain_size=3, volume_fraction=(0.5, 0.5), percent_variance=0.2
    )
    fractions = (X == 0).mean(axis=(1, 2))
    assert 0.4 - 1e-9 <= fractions.min() < 0.43
    assert 0.57 < fractions.max() <= 0.6 + 1e-9
    assert abs(fractions.mean() - 0.5) < 0.01


def test_microstructure__grain_size_is_twice_the_gaussian_sigma_along_each_axis():
    # Cut at the median, a Gaussian field of covariance ρ has S2(r) = 1/4 + arcsin ρ(r) / 2π, here ρ = exp(-r²/4σ²).
    g = (12.0, 5.0)
    X = make_microstructure(n_samples=40, size=(160, 160), grain_size=g, volume_fraction=(0.5, 0.5), seed=3)
    S2 = correlate(X, PrimitiveBasis(2), periodic_axes=[0, 1], correlations=[(0, 0)]).mean(axis=0)[..., 0]
    for axis in (0, 1):
        lags = np.arange(1, 12)
        along = S2[80 + lags, 80] if axis == 0 else S2[80, 80 + lags]
        expected = 0.25 + np.arcsin(np.exp(-(lags**2) / (g[axis] ** 2))) / (2 * np.pi)
        assert_allclose(along, expected, atol=6e-3)


def test_microstructure__is_periodic():
    X = make_microstructure(n_samples=30, size=(40, 40), grain_size=10, seed=5)
    inside = np.mean(X[:, 1:] != X[:, :-1])
    assert np.mean(X[:, 0] != X[:, -1]) < 1.5 * inside


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_samples": 0}, "n_samples must be"),
        ({"size": (4, 4, 4, 4)}, "size must be"),
        ({"n_phases": 0}, "n_phases must be"),
        ({"seed": None}, "seed must be"),
        ({"grain_size": (1, 2, 3)}, "grain_size must be"),
        ({"grain_size": 200}, "grain_size must be"),
        ({"volume_fraction": (0.5, 0.6)}, "volume_fraction must hold 2"),
        ({"percent_variance": 0.1}, "needs volume_fraction"),
        ({"percent_variance": 1.5, "volume_fraction": (0.5, 0.5)}, "percent_variance must lie"),
    ],
)
def test_microstructure__raises_on_bad_argument(options, message):
    with pytest.raises(ValueError, match=message):
        MicrostructureGenerator(**{"size": (20, 20)} | options).generate()


def test_elastic_stress__lazy_equals_eager_and_kinds_differ():
    options = {"n_samples": [4, 3], "grain_size": [(3, 3), (9, 9)], "volume_fraction": [(0.5, 0.5), (0.3, 0.7)]}
    X, y = make_elastic_stress_random(**options)
    with computes(0):
        lazy_X, lazy_y = make_elastic_stress_random(**options, chunks=2)
    assert_array_equal(lazy_X, X)
    assert_array_equal(lazy_y, y)
    assert_allclose((X == 0).mean(axis=(1, 2)), [0.5] * 4 + [0.3] * 3, atol=1 / 441)
    stiffness = make_elastic_stiffness(**options)[1]
    assert_allclose(stiffness, y / 0.01)
    with pytest.raises(ValueError, match="one entry for each kind"):
        make_elastic_stress_random(n_samples=[1, 2], grain_size=[(3, 3)])
    with pytest.raises(ValueError, match="macro_strain must be a number"):
        make_elastic_stiffness(macro_strain=(0.1, 0, 0))


def test_deltas__every_ordered_pair_once():
    X = make_delta_microstructures(n_phases=3, size=(4, 5, 3))
    assert X.shape == (6, 4, 5, 3)
    assert X.dtype == np.uint8
    pairs = [(sample[0, 0, 0], sample[2, 2, 1]) for sample in X]
    assert pairs == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    assert all((sample != matrix).sum() == 1 for sample, (matrix, _) in zip(X, pairs, strict=True))
    assert_array_equal(make_delta_microstructures(n_phases=3, size=(4, 5, 3), chunks=4), X)
    with pytest.raises(ValueError, match="n_phases must be an integer from 2"):
        make_delta_microstructures(n_phases=1)


def test_checkerboard__squares_alternate():
    board = make_checkerboard_microstructure(square_size=3, n_squares=4)
    assert board.shape == (1, 12, 12)
    assert board.mean() == 0.5
    assert_array_equal(board[0], np.roll(board[0], (3, 3), axis=(0, 1)))
    assert_array_equal(board[0], 1 - np.roll(board[0], 3, axis=0))
    assert_array_equal(board[0, :3, :3], 0)
    assert_array_equal(
        make_checkerboard_microstructure(2, 3, ndim=3, chunks=1)[0, :, :, 0],
        np.kron([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.ones((2, 2))),
    )
    with pytest.raises(ValueError, match="n_squares must be a positive integer"):
        make_checkerboard_microstructure(n_squares=0)
    with pytest.raises(ValueError, match="ndim must be a positive integer, at most 3"):
        make_checkerboard_microstructure(ndim=4)


@pytest.mark.parametrize("make", [make_elastic_FE_strain_delta, make_elastic_FE_strain_random])
def test_strain_data__is_the_solver_s_under_any_chunks(make):
    options = {
        "elastic_modulus": (80, 100, 120),
        "poissons_ratio": (0.3, 0.2, 0.3),
        "size": (7, 6),
        "macro_strain": 0.02,
    }
    if make is make_elastic_FE_strain_random:
        options["n_samples"] = 5
    X, strain = make(**options)
    solved = ElasticFESimulation(elastic_modulus=(80, 100, 120), poissons_ratio=(0.3, 0.2, 0.3), macro_strain=0.02).run(
        X
    )
    assert_array_equal(strain, solved.strain[..., 0])
    assert_array_equal(make(**options, component="xy")[1], solved.strain[..., 2])
    with computes(0):
        lazy_X, lazy_strain = make(**options, component=None, chunks=2)
    assert_array_equal(lazy_X, X)
    assert_array_equal(lazy_strain, solved.strain)
    with pytest.raises(ValueError, match="component must be one of"):
        make(**options, component="zz")


def test_random_strain_data__voxels_are_independent_and_phases_as_likely():
    X, _ = make_elastic_FE_strain_random(n_samples=20, elastic_modulus=(1, 1.1, 1.2), poissons_ratio=(0.3,) * 3)
    assert_allclose(np.bincount(X.ravel()) / X.size, 1 / 3, atol=0.02)
    neighbours = np.corrcoef(X.ravel().astype(float), np.roll(X, 1, axis=2).ravel())
    assert abs(neighbours[0, 1]) < 0.04


def test_strain_random__voxels_are_independent():
    X, _ = make_elastic_FE_strain_random(n_samples=400, elastic_modulus=(1, 1), size=(2, 2))
    uniform = np.mean(X.reshape(400, -1).max(axis=1) == X.reshape(400, -1).min(axis=1))
    assert abs(uniform - 2 / 16) < 0.06
    with pytest.raises(ValueError, match="2 or 3 axes"):
        make_elastic_FE_strain_random(size=(21,))
    with pytest.raises(ValueError, match="elastic_modulus must name two phases"):
        make_elastic_FE_strain_delta(elastic_modulus=(1,), poissons_ratio=(0.3,))


@pytest.mark.parametrize("chunks", [0, -1, (0, 4, 4)])
def test_generator__raises_on_bad_chunks(chunks):
    with pytest.raises(ValueError, match="chunks must be"):
        make_microstructure(n_samples=4, size=(4, 4), chunks=chunks)
