"""Plans: what they say, how they come by their limit, and that the calls keep to them."""

import re
import subprocess
import sys
import textwrap

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from numpy.testing import assert_array_equal

from mksdask import (
    GSHBasis,
    MKSHomogenizationModel,
    MKSLocalizationModel,
    MKSStructureAnalysis,
    Plan,
    PrimitiveBasis,
    plan,
    sample_windows,
)
from mksdask.compute import workers
from mksdask.compute.plans import PROCESS_BYTES, DoesNotFitError, Limit, SampleWork
from mksdask.compute.workers import ALLOCATION
from mksdask.datasets import effective_stiffness, make_microstructure, mean_stress, solve_fields
from mksdask.reduction import PCA
from mksdask.regression import KernelRegressor
from mksdask.simulation import effective_conductivity, effective_expansion, solve_conduction
from mksdask.stats import (
    cluster_statistics,
    correlate,
    correlate3,
    correlate_clusters,
    correlate_surfaces,
    correlate_volume,
    correlate_volume3,
    correlate_volume_clusters,
    correlate_volume_surfaces,
    distance_map,
    label_clusters,
    local_thickness,
    pore_sizes,
)
from mksdask.texture import (
    misorientation_density,
    texture_coefficients,
    volume_misorientation_density,
    volume_texture_coefficients,
)


def lazy(shape, chunk, dtype="uint8"):
    return da.zeros(shape, chunks=(chunk, *shape[1:]), dtype=dtype)


X = lazy((64, 48, 48, 48), 16)
ELASTIC = {"elastic_modulus": (1, 2), "poissons_ratio": (0.3, 0.3)}
FITTED = MKSLocalizationModel(PrimitiveBasis(2))
FITTED.coef_ = np.ones((48, 48, 48, 2), dtype="float32")
CALLS = {
    "correlate": (correlate, (X, PrimitiveBasis(2)), {"periodic_axes": [0, 1, 2]}),
    "correlate_volume": (correlate_volume, (X[0], PrimitiveBasis(2)), {"cutoff": 5}),
    "all lags": (correlate_volume, (X[0], PrimitiveBasis(2)), {"cutoff": None}),
    "solve_fields": (solve_fields, (X,), ELASTIC),
    "mean_stress": (mean_stress, (X,), ELASTIC),
    "effective_stiffness": (effective_stiffness, (X,), ELASTIC),
    "effective_stiffness of voxels": (
        effective_stiffness,
        (),
        {"stiffness": lazy((8, 32, 32, 32, 6, 6), 2, "float32")},
    ),
    "effective_expansion": (effective_expansion, (X,), ELASTIC | {"eigenstrain": (1, 2)}),
    "solve_conduction": (solve_conduction, (X,), {"conductivity": (1, 2)}),
    "effective_conductivity": (effective_conductivity, (X,), {"conductivity": (1, 2)}),
    "PCA.fit": (PCA(3).fit, (lazy((64, 9000), 16, "float32"),), {}),
    "PCA.fit, tall": (PCA(3).fit, (lazy((9000, 64), 16, "float32"),), {}),
    "structure": (MKSStructureAnalysis(PrimitiveBasis(2), periodic_axes=[0, 1, 2]).fit, (X,), {}),
    "localization": (MKSLocalizationModel(PrimitiveBasis(2)).fit, (X, lazy(X.shape, 16, "float64")), {}),
    "series": (MKSLocalizationModel(PrimitiveBasis(2), order=2).fit, (X, lazy(X.shape, 16, "float64")), {}),
    "prediction": (FITTED.predict, (X,), {}),
}

BASIS, OFFSETS = PrimitiveBasis(2), [(1, 0, 0), (0, 1, 0)]
ANGLES, HARMONICS = lazy((32, 24, 24, 24, 3), 4, "float32"), GSHBasis(None, domain="cubic", max_degree=6)
SMALL, MAP = X[:, :24, :24, :24].rechunk((4, 24, 24, 24)), np.zeros((24, 24, 24, 3), "float32")
VOLUME = zarr.create_array({}, shape=(64,) * 3, chunks=(32,) * 3, dtype="uint8")
# Calls in which a step after the first one needs most, or in which another layout needs less.
LATER = {
    "correlate3": (correlate3, (SMALL, BASIS, OFFSETS), {"cutoff": 3}),
    "correlate_volume3": (correlate_volume3, (VOLUME, BASIS, 4 * OFFSETS), {"cutoff": 9}),
    "standard errors": (correlate_volume, (VOLUME, BASIS), {"cutoff": 5, "return_std": True}),
    "correlate_clusters": (correlate_clusters, (SMALL, 1), {"cutoff": 3}),
    "correlate_volume_clusters": (correlate_volume_clusters, (VOLUME, 1), {"cutoff": 3}),
    "correlate_surfaces": (correlate_surfaces, (SMALL, 1), {"cutoff": 3}),
    "correlate_volume_surfaces": (correlate_volume_surfaces, (VOLUME, 1), {"cutoff": 3}),
    "label_clusters": (label_clusters, (VOLUME, 1), {}),
    "cluster_statistics": (cluster_statistics, (VOLUME, 1), {}),
    "distance_map": (distance_map, (VOLUME, 1), {"largest": 9.0}),
    "pore_sizes": (pore_sizes, (VOLUME, 1), {"largest": 9.0}),
    "local_thickness": (local_thickness, (VOLUME, 1, [2.0, 5.0]), {}),
    "texture_coefficients": (texture_coefficients, (ANGLES, HARMONICS), {}),
    "volume_texture_coefficients": (volume_texture_coefficients, (MAP, HARMONICS), {}),
    "misorientation_density": (misorientation_density, (ANGLES,), {}),
    "volume_misorientation_density": (volume_misorientation_density, (MAP,), {}),
    "PCA.fit, pieces": (PCA(3).fit, (da.zeros((256, 13_000), chunks=(16, 1500)),), {}),
    "PCA.fit, incremental": (
        PCA(3, solver="incremental").fit,
        (da.zeros((256, 13_000), chunks=(16, 1500)),),
        {},
    ),
    "KernelRegressor.fit": (
        KernelRegressor(n_landmarks=300).fit,
        (lazy((9000, 5), 900, float), lazy((9000,), 900, float)),
        {},
    ),
    "structure, tall": (MKSStructureAnalysis(BASIS, cutoff=3).fit, (lazy((3000, 48, 48), 300),), {}),
    "structure, incremental": (
        MKSStructureAnalysis(BASIS, dimension_reducer=PCA(3, solver="incremental")).fit,
        (SMALL,),
        {},
    ),
    "share": (MKSStructureAnalysis(BASIS).share, (SMALL,), {}),
    "homogenization": (MKSHomogenizationModel(HARMONICS, cutoff=3).fit, (ANGLES, np.arange(32.0)), {}),
    "solve_fields, large": (solve_fields, (lazy((8, 96, 96, 96), 4),), ELASTIC),
    "solve_conduction, large": (solve_conduction, (lazy((8, 96, 96, 96), 4),), {"conductivity": (1, 2)}),
}


@pytest.mark.parametrize("name", CALLS)
def test_plan__of_each_operation_fits_and_can_be_read(name):
    operation, arguments, options = CALLS[name]
    found = plan(operation, *arguments, memory_limit="2GiB", **options)
    assert isinstance(found, Plan)
    assert 0 < found.peak_bytes <= found.limit.task_bytes < 2**31
    assert found.n_tasks >= 1
    assert found.bytes_read > 0
    assert found.operations > 1e5
    text, page = str(found), found._repr_html_()
    assert text.startswith(f"Plan of {found.operation}")
    assert "; a worker of 2 GiB with" in text
    for stage in found.stages:
        assert f"  {stage.name}  " in text
        assert f"<td>{stage.name}</td>" in page
    for layout in found.layout:
        assert layout in text
        assert layout in page
    assert "<script" not in page


@pytest.mark.parametrize("name", CALLS)
def test_plan__refuses_with_the_smallest_limit_that_would_do(name):
    operation, arguments, options = CALLS[name]
    with pytest.raises(ValueError, match=r"the smallest memory_limit that would do is \d+ MiB") as refused:
        plan(operation, *arguments, memory_limit="560MiB", **options)
    (least,) = map(int, re.findall(r"would do is (\d+) MiB", str(refused.value)))
    assert plan(operation, *arguments, memory_limit=least * 2**20, **options).n_tasks
    with pytest.raises(ValueError, match="would do"):
        plan(operation, *arguments, memory_limit=(least - 1) * 2**20, **options)
    # The call itself says the same, before it computes anything.
    with dask.config.set({"mksdask.memory-limit": "560MiB"}), pytest.raises(ValueError, match=f"would do is {least}"):
        operation(*arguments, **options)


class ReachedError(Exception):
    """A call has begun to compute."""


def begin(*_, **__):
    raise ReachedError


def begins(operation, arguments, options):
    """Whether a call comes so far that it computes, or returns a lazy result."""
    with dask.config.set(scheduler=begin):
        try:
            operation(*arguments, **options)
        except ReachedError:
            return True
    return True


@pytest.mark.parametrize("name", LATER)
def test_plan__the_limit_that_a_refusal_names_is_enough(name, monkeypatch):
    monkeypatch.setattr("dask.system.CPU_COUNT", 4)
    operation, arguments, options = LATER[name]
    with dask.config.set(scheduler="threads"):
        with pytest.raises(DoesNotFitError) as refused:
            plan(operation, *arguments, memory_limit="560MiB", **options)
        least = refused.value.least_bytes
        assert f"would do is {least // 2**20} MiB" in str(refused.value)
        assert plan(operation, *arguments, memory_limit=least, **options).n_tasks
        with pytest.raises(DoesNotFitError, match=f"would do is {least // 2**20} MiB"):
            plan(operation, *arguments, memory_limit=least - 2**20, **options)
    # On a volume, the smallest tiles make a large graph.
    if all(argument is not VOLUME and argument is not MAP for argument in arguments):
        with dask.config.set({"mksdask.memory-limit": least}):
            assert begins(operation, arguments, options)
        with dask.config.set({"mksdask.memory-limit": least - 2**20}), pytest.raises(DoesNotFitError):
            begins(operation, arguments, options)


WHOLE = X.rechunk((64, 48, 48, 48))
WIDE = da.zeros((500, 200_000), chunks=(50, 20_000), dtype="f4")
STRAIN = lazy((*X.shape, 6), 16, "float64")
# Other layouts: chunks that are too large, masks, windows, and more kinds of fits.
FURTHER = {
    "correlate, masked": (correlate, (X, BASIS), {"confidence_index": lazy(X.shape, 16, "float64")}),
    "correlate, one chunk": (correlate, (WHOLE, BASIS), {}),
    "correlate, windows": (correlate, (sample_windows(VOLUME, size=32, n=50, seed=0), BASIS), {}),
    "structure, windows": (MKSStructureAnalysis(BASIS).fit, (sample_windows(VOLUME, size=32, n=50, seed=0),), {}),
    "structure, one chunk": (MKSStructureAnalysis(BASIS).fit, (WHOLE,), {}),
    "homogenization, kernel": (
        MKSHomogenizationModel(BASIS, property_linker="kernel").fit,
        (SMALL, np.arange(64.0)),
        {},
    ),
    "PCA.fit, one chunk": (PCA(20).fit, (WIDE.rechunk(WIDE.shape),), {}),
    "PCA.fit, whitened": (PCA(20, whiten=True).fit, (WIDE,), {}),
    "localization, tensor": (MKSLocalizationModel(BASIS, alpha="gcv").fit, (X, STRAIN), {}),
    "series of a tensor": (MKSLocalizationModel(BASIS, order=3).fit, (X, STRAIN), {}),
    "prediction, one chunk": (FITTED.predict, (WHOLE,), {}),
}
ALL = CALLS | LATER | FURTHER
# On a volume, the smallest tiles make a large graph.
QUICK = [name for name, (_, given, _) in ALL.items() if not any(each is VOLUME or each is MAP for each in given)]


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("n_threads", [1, 3, 16])
def test_call__begins_at_the_limit_that_its_refusal_names(name, n_threads, monkeypatch):
    """A second refusal would name a limit that was asked for in vain."""
    monkeypatch.setattr("dask.system.CPU_COUNT", n_threads)
    operation, arguments, options = ALL[name]
    with dask.config.set({"scheduler": "sync" if n_threads == 1 else "threads", "mksdask.memory-limit": "560MiB"}):
        with pytest.raises(DoesNotFitError) as refused:
            begins(operation, arguments, options)
        least = refused.value.least_bytes
        with dask.config.set({"mksdask.memory-limit": least}):
            assert begins(operation, arguments, options)
        told = f"would do is {least // 2**20} MiB"
        with dask.config.set({"mksdask.memory-limit": least - 2**20}), pytest.raises(DoesNotFitError, match=told):
            begins(operation, arguments, options)


def test_limit__is_that_given_or_configured_or_of_the_cluster(client):
    with dask.config.set(scheduler="sync"):
        assert Limit.of("1GB") == Limit(10**9, 1)
        with dask.config.set({"mksdask.memory-limit": 2**30}):
            assert Limit.of() == Limit(2**30, 1)
            assert Limit.of("3GiB") == Limit(3 * 2**30, 1)
    with client.as_current():
        assert Limit.of() == Limit(2 * 2**30, 1)
    with dask.config.set(scheduler="threads"):
        assert Limit.of("1GiB").n_threads == dask.system.CPU_COUNT
    assert Limit(2**30, 2).task_bytes == int(0.8 * 2**30 - PROCESS_BYTES) // 2
    for wrong in ("much", -1, "0B"):
        with pytest.raises(ValueError, match="memory_limit must be"):
            Limit.of(wrong)


def test_plan__refuses_what_it_does_not_know():
    with pytest.raises(TypeError, match=r"operation must be one of those .* got sum"):
        plan(sum, [1])
    with pytest.raises(ValueError, match="cutoff"):
        plan(correlate, X, PrimitiveBasis(2), cutoff=99)


@pytest.mark.parametrize(("sizes", "fits", "expected"), [((8, 8), 4, (4,) * 4), ((7, 7, 3), 3, (3, 3, 1, 3, 3, 1, 3))])
def test_samples__are_cut_into_chunks_that_fit(sizes, fits, expected):
    work = SampleWork("work", 0, lambda n: n * 2**20, 2**20)
    data = da.zeros((sum(sizes), 2), chunks=(sizes, 2))
    limit = Limit(int((PROCESS_BYTES + fits * 2**20) / 0.8) + 1, 1)
    assert work.fitting(data, limit).chunks[0] == expected
    assert work.fitting(data, Limit(2**32, 1)) is data
    assert work.fitting(np.zeros((9, 2)), limit).shape == (9, 2)
    assert work.stage(data, limit).n_tasks == len(expected)


def test_correlate__cut_chunks_give_the_same_bits():
    samples = make_microstructure(24, (16, 16, 16), grain_size=3)
    data = da.from_array(samples, chunks=(24, 16, 16, 16))
    masks = da.from_array(np.ones(samples.shape), chunks=(24, 16, 16, 16))
    options = {"correlations": [(0, 0), (0, 1)], "confidence_index": masks}
    expected = correlate(data, PrimitiveBasis(2), **options)
    with dask.config.set({"mksdask.memory-limit": "562MiB", "scheduler": "sync"}):
        cut = correlate(data, PrimitiveBasis(2), **options)
        found = cut.compute()
    assert cut.numblocks[0] > 1
    assert_array_equal(found, expected.compute())


def test_pca__slabs_follow_the_limit():
    rng = np.random.default_rng(0)
    data = da.from_array(rng.normal(size=(200, 60_000)), chunks=(20, 60_000))
    wide, narrow = (plan(PCA(3).fit, data, memory_limit=limit) for limit in ("2GiB", "640MiB"))
    assert narrow.layout["features of a slab"] < wide.layout["features of a slab"]
    assert narrow.peak_bytes <= narrow.limit.task_bytes
    expected = PCA(3).fit(data)
    with dask.config.set({"mksdask.memory-limit": "640MiB", "scheduler": "sync"}):
        found = PCA(3).fit(data)
    np.testing.assert_allclose(found.components_, expected.components_, atol=1e-12)


def test_plan__says_when_a_volume_should_be_stored_first():
    stored = zarr.create_array({}, shape=(64,) * 3, chunks=(32,) * 3, dtype="uint8")
    options = {"cutoff": 3}
    assert "create_volume" not in str(plan(correlate_volume, stored, PrimitiveBasis(2), **options))
    assert "create_volume" in str(plan(correlate_volume, X[0] + 1, PrimitiveBasis(2), **options))


@pytest.mark.slow
def test_workers__are_started_with_their_allocation_unless_users_configure_another():
    script = """
        import dask
        {before}
        import mksdask
        import distributed
        print(dask.config.get("distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_"))
    """
    name = "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_"
    for before, expected in (
        ("", ALLOCATION["MALLOC_TRIM_THRESHOLD_"]),
        (f"dask.config.set({{{name!r}: 7}})", 7),
        (f"import distributed; dask.config.set({{{name!r}: 7}})", 7),
    ):
        code = textwrap.dedent(script).format(before=before)
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert int(found.stdout) == expected


@pytest.mark.parametrize("is_safe", [True, False])
def test_workers__are_not_profiled_by_a_python_in_which_that_may_stop_them(monkeypatch, is_safe):
    given = {}
    monkeypatch.setattr(dask.config, "update_defaults", given.update)
    monkeypatch.setattr(workers, "PROFILES_SAFELY", is_safe)
    workers.configure_workers()
    assert given["distributed"].get("worker") == (None if is_safe else {"profile": {"enabled": False}})
