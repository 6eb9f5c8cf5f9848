"""Large samples have all threads of a worker, and give the same bits as on one thread."""

from dataclasses import replace
from types import SimpleNamespace

import dask
import dask.array as da
import numpy as np
import pytest
import scipy.fft
from distributed import Client, LocalCluster

from mksdask import plan
from mksdask.compute import threads
from mksdask.compute.blocks import map_samples
from mksdask.compute.plans import BUSY, PROCESS_BYTES, DoesNotFitError
from mksdask.compute.threads import OnWholeWorker, over_parts, whole_worker
from mksdask.simulation import mean_stress, solve_conduction, solve_fields
from mksdask.simulation.equilibrium import green_operator
from mksdask.simulation.fluxes import Conductive, _green
from mksdask.simulation.stencils import Anisotropic, Isotropic, n_strain_components
from tests.conftest import some_slow

ELASTIC = {"elastic_modulus": (1, 5), "poissons_ratio": (0.3, 0.2)}
LARGE = (64, 64, 64)


@pytest.fixture
def three_threads(monkeypatch):
    monkeypatch.setattr(threads, "threads_of_worker", lambda: 3)


def test_over_parts__covers_the_range_once_in_threads_of_the_task_alone(three_threads):
    seen = []
    over_parts(lambda first, last: seen.append((first, last)), 10)
    assert seen == [(0, 10)]
    seen.clear()
    with whole_worker(), whole_worker():
        over_parts(lambda first, last: seen.append((first, last)), 25)
        assert scipy.fft.get_workers() == 3
        with pytest.raises(ZeroDivisionError):
            over_parts(lambda first, last: 1 // first, 25)
    assert len(seen) == 12
    assert sorted(number for part in seen for number in range(*part)) == list(range(25))
    assert scipy.fft.get_workers() == 1
    over_parts(lambda first, last: seen.append((first, last)), 10)
    assert seen[-1] == (0, 10)


def materials(dim, spatial=(7, 5, 6)):
    rng, spatial = np.random.default_rng(dim), spatial[:dim]
    n_packed = n_strain_components(dim) * (n_strain_components(dim) + 1) // 2
    yield Isotropic(*rng.random((2, 2, *spatial)))
    yield Anisotropic(rng.random((2, *spatial[:-1], n_packed, spatial[-1])))
    yield Conductive(rng.random((2, 1, *spatial)))
    yield Conductive(rng.random((2, dim * (dim + 1) // 2, *spatial)))


@pytest.mark.parametrize("dim", [2, 3])
def test_forces__have_the_same_bits_on_all_threads(three_threads, dim):
    for material in materials(dim):
        n_components = dim if isinstance(material, Conductive) else n_strain_components(dim)
        rng = np.random.default_rng(0)
        u = rng.normal(size=(2, material.n_fields, *material.shape[1:]))
        active, macro = np.ones(2, dtype=bool), rng.normal(size=(2, n_components))
        whole = material.forces(u, macro, active, np.full_like(u, np.nan))
        with whole_worker():
            np.testing.assert_array_equal(material.forces(u, macro, active, np.full_like(u, np.nan)), whole)


def rolled(material):
    """The same material, whose last axis begins elsewhere."""
    return replace(material, **{name: np.roll(values, 77, axis=-1) for name, values in vars(material).items()})


@pytest.mark.parametrize("spatial", some_slow([(3, 300), (3, 2, 300)], [(3, 300)]))
def test_forces__do_not_depend_on_where_long_rows_begin(spatial):
    dim = len(spatial)
    for material in materials(dim, spatial):
        n_components = dim if isinstance(material, Conductive) else n_strain_components(dim)
        rng = np.random.default_rng(0)
        u = rng.normal(size=(2, material.n_fields, *spatial))
        macro = rng.normal(size=(2, n_components))
        active = np.ones(2, dtype=bool)
        forces = material.forces(u, macro, active, np.empty_like(u))
        turned = rolled(material).forces(np.roll(u, 77, axis=-1), macro, active, np.empty_like(u))
        np.testing.assert_allclose(np.roll(turned, -77, axis=-1), forces, rtol=0, atol=1e-14 * np.abs(forces).max())
        single, u32 = material.single(1.0), u.astype(np.float32)
        found = single.forces(u32, macro.astype(np.float32), active, np.empty_like(u32))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, forces, rtol=0, atol=1e-6 * np.abs(forces).max())


@pytest.mark.parametrize("spatial", [(6, 5), (4, 1), (6, 5, 4), (3, 4, 7)])
def test_green_operator__inverts_the_stencil_of_the_forces(spatial):
    dim, axes = len(spatial), tuple(range(1, len(spatial) + 1))
    isotropic = Isotropic(*(np.full((1, *spatial), value) for value in (1.7, 0.9)))
    for material, found in [
        (isotropic, green_operator(spatial, 1.7, 0.9)),
        (Conductive(np.ones((1, 1, *spatial))), _green(spatial)[None]),
    ]:
        n_fields, macro = material.n_fields, np.zeros((1, n_strain_components(dim)))
        symbol = []
        for column in range(n_fields):
            delta = np.zeros((1, n_fields, *spatial))
            delta[(0, column, *(0,) * dim)] = 1.0
            forces = material.forces(delta, macro, np.ones(1, dtype=bool), np.empty_like(delta))
            symbol.append(scipy.fft.rfftn(forces[0], axes=axes).real)
        matrices = np.moveaxis(np.array(symbol), (0, 1), (-2, -1))
        matrices[(0,) * dim] = np.eye(n_fields)
        inverse = np.linalg.inv(matrices)
        inverse[(0,) * dim] = 0.0
        rows, columns = np.triu_indices(n_fields)
        np.testing.assert_allclose(found, np.moveaxis(inverse[..., rows, columns], -1, 0), rtol=1e-6, atol=1e-12)


def test_large_sample__has_the_same_bits_on_all_threads(three_threads):
    X = np.random.default_rng(0).integers(0, 2, (1, *LARGE))
    for function, options in [
        (solve_fields, ELASTIC | {"tolerance": 0.1}),
        (solve_conduction, {"conductivity": (1, 5), "tolerance": 0.1}),
    ]:
        with dask.config.set(scheduler="synchronous"):
            alone = function(X, **options)
        shared = function(X, **options)
        for one, other in zip(alone, shared, strict=True):
            np.testing.assert_array_equal(one, other)


CALLS = [(mean_stress, ELASTIC), (solve_conduction, {"conductivity": (1, 5)})]


def lazily(n_chunks):
    return da.zeros((n_chunks, *LARGE), chunks=(1, *LARGE), dtype="uint8")


@pytest.mark.parametrize(("function", "options"), CALLS)
def test_plan__large_samples_have_a_worker_if_they_are_few_or_fill_it(monkeypatch, function, options):
    monkeypatch.setattr("dask.system.CPU_COUNT", 2)
    roomy = plan(function, lazily(1), **options, memory_limit=2**40)
    # A worker that holds one sample and a half at once.
    tight = int((1.5 * roomy.peak_bytes + PROCESS_BYTES) / BUSY)
    whole = "all 2 threads of its worker"
    assert whole in str(roomy)
    assert whole not in str(plan(function, lazily(2), **options, memory_limit=2**40))
    assert whole in str(plan(function, lazily(2), **options, memory_limit=tight))
    assert whole in str(plan(function, np.zeros((1, *LARGE)), **options))
    assert whole not in str(plan(function, lazily(1)[:, :32], **options))
    with pytest.raises(DoesNotFitError, match="memory_limit of"):
        plan(function, lazily(2), **options, memory_limit=tight // 2)


@pytest.mark.parametrize(("function", "options"), CALLS)
def test_large_sample_in_memory__is_refused_if_the_machine_cannot_hold_it(monkeypatch, function, options):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=2**20))
    with pytest.raises(DoesNotFitError, match="of memory, and 1 MiB are free; take smaller samples"):
        function(np.zeros((1, *LARGE)), **options)


def threads_seen(block):
    return np.full(len(block), scipy.fft.get_workers())


def test_task__has_the_threads_of_its_worker():
    X = da.zeros((3, 4), chunks=(1, 4))
    whole = map_samples(OnWholeWorker(threads_seen), X, tail=(), dtype=int, name="threads")
    with (
        LocalCluster(n_workers=1, threads_per_worker=3, processes=False, dashboard_address=None) as cluster,
        Client(cluster),
    ):
        assert whole.compute().tolist() == [3, 3, 3]
