"""Cahn–Hilliard: conservation, free energy, closed forms, an independent integrator, chunks."""

import dask.array as da
import numpy as np
import pytest
import scipy.integrate
import xarray as xr
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from mksdask.datasets import CahnHilliardSimulation, make_cahn_hilliard
from tests.helpers import chunked, computes, sample_chunks, tasks_per_chunk

BOXES = [(16,), (15,), (12, 9), (9, 12), (6, 8, 5), (5, 4, 8)]


def one_step(phi, dx, gamma, dt):
    """The scheme as the paper writes it, for one sample, with full complex transforms."""
    k2 = sum(
        np.meshgrid(
            *((2 * np.pi * np.fft.fftfreq(n, h)) ** 2 for n, h in zip(phi.shape, dx, strict=True)), indexing="ij"
        )
    )
    a1, a2 = 3.0, 0.0
    explicit = np.fft.fftn(phi) + dt * k2 * (np.fft.fftn(a1 * phi - phi**3) - a2 * gamma * k2 * np.fft.fftn(phi))
    return np.fft.ifftn(explicit / (1 - (1 - a1) * dt * k2 + (1 - a2) * gamma * dt * k2**2)).real


@pytest.mark.parametrize("size", BOXES)
def test_run__matches_the_scheme_written_out(size):
    dx = (0.25, 0.5, 0.4)[: len(size)]
    X = np.random.default_rng(0).uniform(-1, 1, size=(3, *size))
    simulation = CahnHilliardSimulation(dx=dx, gamma=0.3, dt=0.02)
    expected = X
    for _ in range(7):
        expected = np.stack([one_step(phi, dx, 0.3, 0.02) for phi in expected])
    assert_allclose(simulation.run(X, n_steps=7).response, expected, atol=1e-12)
    assert_array_equal(simulation.run(X, n_steps=0).response, X)


@pytest.mark.parametrize("size", BOXES)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-14), ("float32", 1e-6)])
def test_run__conserves_mass_and_lowers_the_free_energy(size, dtype, tolerance):
    X = (np.random.default_rng(1).uniform(-1, 1, size=(2, *size)) * 0.9 + 0.1).astype(dtype)
    # A step far beyond what an explicit scheme would bear.
    simulation = CahnHilliardSimulation(dx=[0.7] * len(size), gamma=0.5, dt=0.5)
    axes = tuple(range(1, X.ndim))
    state, energy = X, simulation.free_energy(X)
    for _ in range(30):
        state = simulation.run(state).response
        assert state.dtype == dtype
        assert_allclose(state.mean(axis=axes), X.mean(axis=axes), atol=tolerance)
        lower = simulation.free_energy(state)
        assert (lower < energy + tolerance).all()
        energy = lower
    assert (energy < 0.9 * simulation.free_energy(X)).all() or (energy < 0).all()


def test_run__small_waves_grow_at_the_rate_of_the_linearized_scheme():
    n, dx, gamma, dt, amplitude = 32, 0.5, 1.2, 0.05, 1e-6
    k = 2 * np.pi * 2 / (n * dx)
    wave = amplitude * np.cos(k * dx * np.arange(n))
    factor = (1 + 3 * dt * k**2) / (1 + 2 * dt * k**2 + gamma * dt * k**4)
    evolved = CahnHilliardSimulation([dx], gamma, dt).run(wave[None], n_steps=10).response[0]
    assert_allclose(evolved, wave * factor**10, atol=1e-6 * amplitude)


def test_run__converges_to_an_independent_integrator_in_first_order():
    n, dx, gamma = 24, 0.5, 0.6
    k2 = (2 * np.pi * np.fft.fftfreq(n, dx)) ** 2

    def rate(_, phi):
        potential = phi**3 - phi + gamma * np.fft.ifft(k2 * np.fft.fft(phi)).real
        return np.fft.ifft(-k2 * np.fft.fft(potential)).real

    start = 0.3 * np.cos(2 * np.pi * np.arange(n) / n) + 0.1 * np.random.default_rng(2).normal(size=n)
    exact = scipy.integrate.solve_ivp(rate, (0, 0.4), start, method="BDF", rtol=1e-10, atol=1e-12).y[:, -1]
    errors = [
        np.abs(CahnHilliardSimulation([dx], gamma, 0.4 / steps).run(start[None], steps).response[0] - exact).max()
        for steps in (400, 800, 1600)
    ]
    assert errors[-1] < 2e-4
    assert_allclose(np.array(errors[:-1]) / errors[1:], 2.0, atol=0.1)


def test_run__the_flat_interface_is_at_rest():
    n, dx, gamma = 256, 0.125, 1.0
    x = dx * np.arange(n)
    length = n * dx
    profile = np.tanh((x - length / 4) / np.sqrt(2 * gamma)) - np.tanh((x - 3 * length / 4) / np.sqrt(2 * gamma)) - 1
    simulation = CahnHilliardSimulation([dx], gamma, dt=0.1).run(profile[None], n_steps=50)
    assert_allclose(simulation.response[0], profile, atol=1e-3)
    # Two interfaces of energy 2√2/3·√γ each above the -1/4 of the phases.
    excess = simulation.free_energy(simulation.response)[0] + length / 4
    assert_allclose(excess, 2 * 2 * np.sqrt(2) / 3, rtol=1e-3)


@pytest.mark.parametrize("n", [16, 17])
def test_free_energy__of_a_wave(n):
    dx, gamma, amplitude, mean = 0.3, 0.8, 0.7, 0.2
    length = n * dx
    k = 2 * np.pi * 2 / length
    phi = mean + amplitude * np.sin(k * dx * np.arange(n))
    mean_fourth = mean**4 + 3 * mean**2 * amplitude**2 + 3 * amplitude**4 / 8
    expected = length * (mean_fourth / 4 - (mean**2 + amplitude**2 / 2) / 2 + gamma * amplitude**2 * k**2 / 4)
    assert_allclose(CahnHilliardSimulation([dx], gamma).free_energy(phi[None]), [expected])
    simulation = CahnHilliardSimulation(dx, gamma)
    # The same wave along each axis of a box.
    box = np.broadcast_to(phi[:, None, None], (n, 4, 5))
    for axis in range(3):
        rotated = np.moveaxis(box, 0, axis)[None]
        assert_allclose(simulation.free_energy(rotated), [expected * 20 * dx**2])


@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_run__chunk_invariant_to_the_bit(data):
    dtype = data.draw(st.sampled_from(["float32", "float64"]))
    X = np.random.default_rng(3).uniform(-1, 1, size=(9, 8, 6)).astype(dtype)
    simulation = CahnHilliardSimulation(dt=0.01)
    expected = simulation.run(X, n_steps=5).response
    rows = data.draw(sample_chunks(9))
    assert_array_equal(simulation.run(chunked(X, rows), n_steps=5).response.compute(scheduler="sync"), expected)


def test_make__lazy_is_the_same_and_one_task_takes_all_steps():
    options = {"n_samples": 7, "size": (10, 12), "n_steps": 20, "seed": 3}
    X, y = make_cahn_hilliard(**options)
    with computes(0):
        lazy_X, lazy_y = make_cahn_hilliard(**options, chunks=3)
    assert lazy_y.chunks == ((3, 3, 1), (10,), (12,))
    assert tasks_per_chunk(lazy_y) <= 3
    assert_array_equal(lazy_X, X)
    assert_array_equal(lazy_y, y)
    assert X.min() >= -1
    assert X.max() <= 1
    assert abs(X.mean()) < 0.05
    assert not np.array_equal(X, make_cahn_hilliard(**options | {"seed": 4})[0])
    assert_array_equal(make_cahn_hilliard(**options | {"n_samples": 3})[1], y[:3])
    single = make_cahn_hilliard(**options, dtype="float32")
    assert single[0].dtype == single[1].dtype == np.float32


def test_run__labels_and_integers():
    X = xr.DataArray(
        np.random.default_rng(4).integers(-1, 2, size=(2, 6, 5)),
        dims=("sample", "x", "y"),
        coords={"x": ("x", 0.25 * np.arange(6), {"units": "nm"})},
        attrs={"periodic_axes": ["x", "y"]},
    )
    simulation = CahnHilliardSimulation().run(X, n_steps=3)
    assert simulation.response.dims == X.dims
    assert simulation.response.attrs == X.attrs
    assert simulation.response.x.attrs["units"] == "nm"
    assert simulation.response.dtype == np.float64
    assert_array_equal(simulation.response, CahnHilliardSimulation().run(X.values, 3).response)
    assert simulation.free_energy(X).dims == ("sample",)


def test_run__raises_on_what_makes_no_sense():
    X = np.zeros((1, 4, 4))
    with pytest.raises(ValueError, match="dt must be a positive number, got 0"):
        CahnHilliardSimulation(dt=0).run(X)
    with pytest.raises(ValueError, match="gamma must be a positive number"):
        CahnHilliardSimulation(gamma=-1).run(X)
    with pytest.raises(ValueError, match="dx must be one positive number, or one for each of the 2 axes"):
        CahnHilliardSimulation(dx=(1, 1, 1)).run(X)
    with pytest.raises(ValueError, match="n_steps must be an integer from 0"):
        CahnHilliardSimulation().run(X, n_steps=1.5)
    with pytest.raises(ValueError, match="1 to 3 spatial axes"):
        CahnHilliardSimulation().run(np.zeros(4))
    with pytest.raises(TypeError, match="real concentrations"):
        CahnHilliardSimulation().run(X + 1j)
    with pytest.raises(ValueError, match="X holds NaN"):
        CahnHilliardSimulation().run(da.full((2, 4, 4), np.nan, chunks=(1, 4, 4))).response.compute()
    with pytest.raises(ValueError, match="dtype must be float32 or float64"):
        make_cahn_hilliard(dtype="int32")
    with pytest.raises(ValueError, match="width must be a positive number"):
        make_cahn_hilliard(width=0)


def test_simulation__steps_that_diverge_are_an_error():
    X = 4 * np.random.default_rng(0).uniform(-1, 1, (1, 16, 16))
    with pytest.raises(ValueError, match="the steps diverged"), np.errstate(all="ignore"):
        CahnHilliardSimulation(dx=1.0, dt=1.0).run(X, 3000)
    with pytest.raises(ValueError, match="NaN or infinite"):
        CahnHilliardSimulation(dx=[0.25]).free_energy(np.full((1, 4), np.nan))
    with pytest.raises(ValueError, match="axes of voxels"):
        CahnHilliardSimulation().run(np.zeros((2, 0, 3)))
    with pytest.raises(ValueError, match="gamma must be a positive number"):
        CahnHilliardSimulation(gamma="a").run(X)
