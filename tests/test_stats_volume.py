"""2-point statistics of one volume, tile by tile."""

import os
import re
from contextlib import nullcontext

import dask
import dask.array as da
import numpy as np
import pytest
import scipy.fft
import tifffile
import xarray as xr
import zarr
from distributed import Client, LocalCluster
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import mksdask.stats.tiling as tiling_module
from mksdask import FourierBasis, GSHBasis, LegendreBasis, PrimitiveBasis, create_volume, open_volume, plan
from mksdask.compute.graph import stored_array
from mksdask.stats import correlate, correlate_volume
from mksdask.stats.tiling import Tiling
from tests.conftest import real_data
from tests.helpers import computes


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of a few voxels, so that small volumes have many."""
    monkeypatch.setattr(tiling_module, "SHORTEST", 3)
    monkeypatch.setattr(tiling_module, "LONGEST", 20)


def use_tiles(monkeypatch, longest):
    monkeypatch.setattr(tiling_module, "SHORTEST", 1)
    monkeypatch.setattr(tiling_module, "LONGEST", longest)


BASES = {
    "primitive": (PrimitiveBasis(3), [(0, 0), (0, 1), (2, 1)]),
    "legendre": (LegendreBasis(3, domain=(0, 2)), [(1, 1), (0, 2)]),
    "fourier": (FourierBasis(3, domain=(0, 3)), [(1, 1), (0, -1)]),
}


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_volume__matches_the_whole_volume_transform(data):
    spatial = data.draw(st.sampled_from([(41,), (17, 23), (30, 7), (11, 13, 9)]))
    periodic = [axis for axis in range(len(spatial)) if data.draw(st.booleans())]
    cutoff = [
        data.draw(st.integers(0, min(8, (n - 1) // 2 if axis in periodic else n - 1))) for axis, n in enumerate(spatial)
    ]
    basis, pairs = BASES[data.draw(st.sampled_from(sorted(BASES)))]
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    X = rng.integers(0, 3, spatial)
    mask = data.draw(st.sampled_from([None, "indicator", "weights"]))
    if mask is not None:
        mask = rng.random(spatial) * (rng.random(spatial) > 0.2) if mask == "weights" else rng.random(spatial) > 0.3
    options = {"periodic_axes": periodic, "cutoff": cutoff, "correlations": pairs}
    expected = correlate(
        X[None],
        basis,
        size=spatial,
        confidence_index=None if mask is None else mask[None],
        dtype="float64",
        **options,
    )
    volume, masks = X, mask
    if data.draw(st.booleans()):
        chunks = tuple(data.draw(st.integers(1, n)) for n in spatial)
        volume = da.from_array(X, chunks=chunks) + 0
        masks = None if mask is None else da.from_array(mask, chunks=chunks)
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_tiles(monkeypatch, 2 * max(cutoff) + data.draw(st.integers(4, 12)))
        for dtype, tolerance in (("float64", 1e-12), ("float32", 2e-5)):
            with computes(0):
                f = correlate_volume(volume, basis, confidence_index=masks, dtype=dtype, **options)
            scale = max(1.0, np.nanmax(np.abs(expected)))
            assert_allclose(f.compute(scheduler="sync"), expected[0], rtol=0, atol=tolerance * scale)


def check_all_lags(spatial, periodic, name, mask, chunks, seed=0):
    """All lags of a volume, in parts, are those of the transform in memory."""
    basis, pairs = BASES[name]
    rng = np.random.default_rng(seed)
    X = rng.integers(0, 3, spatial)
    if mask is not None:
        mask = rng.random(spatial) * (rng.random(spatial) > 0.2) if mask == "weights" else rng.random(spatial) > 0.3
    options = {"periodic_axes": periodic, "cutoff": None, "correlations": pairs}
    expected = correlate(
        X[None],
        basis,
        size=spatial,
        confidence_index=None if mask is None else mask[None],
        dtype="float64",
        **options,
    )
    volume, masks = X, mask
    if chunks is not None:
        volume = da.from_array(X, chunks=chunks) + 0
        masks = None if mask is None else da.from_array(mask, chunks=chunks)
    for dtype, tolerance in (("float64", 1e-12), ("float32", 2e-5)):
        with dask.config.set(scheduler="sync"):
            f = correlate_volume(volume, basis, confidence_index=masks, dtype=dtype, **options)
        scale = max(1.0, np.nanmax(np.abs(expected)))
        assert f.dtype.itemsize == np.dtype(dtype).itemsize * (2 if basis.is_complex else 1)
        assert_allclose(f, expected[0], rtol=0, atol=tolerance * scale)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_volume__all_lags_match_the_transform_in_memory(data):
    spatial = data.draw(st.sampled_from([(41,), (17, 24), (1, 7), (10, 13, 9), (16, 5, 8)]))
    check_all_lags(
        spatial,
        [axis for axis in range(len(spatial)) if data.draw(st.booleans())],
        data.draw(st.sampled_from(sorted(BASES))),
        data.draw(st.sampled_from([None, "indicator", "weights"])),
        tuple(data.draw(st.integers(1, n)) for n in spatial) if data.draw(st.booleans()) else None,
        data.draw(st.integers(0, 99)),
    )


@pytest.mark.parametrize(
    ("spatial", "periodic", "name", "mask", "chunks"),
    [
        ((10, 13, 9), [1], "primitive", "weights", (4, 5, 9)),
        ((17, 24), [], "fourier", "indicator", None),
        ((41,), [], "legendre", None, (7,)),
    ],
)
def test_volume__all_lags_of_volumes_of_each_rank(spatial, periodic, name, mask, chunks):
    check_all_lags(spatial, periodic, name, mask, chunks)


def test_volume__all_lags_are_kept_and_labelled(tmp_path):
    X = np.random.default_rng(0).integers(0, 2, (30, 20, 25)).astype("uint8")
    create_volume(tmp_path / "v.zarr", X, spacing=0.5, units="um", periodic_axes=[0], chunks=16)
    volume, url = open_volume(tmp_path / "v.zarr").microstructure, tmp_path / "f.zarr"
    in_memory = correlate_volume(volume, PrimitiveBasis(2), cutoff=None)
    stored = correlate_volume(volume, PrimitiveBasis(2), cutoff=None, scratch=url)
    assert isinstance(in_memory.data, np.ndarray)
    assert isinstance(stored.data, da.Array)
    xr.testing.assert_identical(stored.compute(), in_memory)
    xr.testing.assert_identical(xr.open_zarr(url)[stored.name].compute(), in_memory)
    assert_allclose(stored.lag_x, np.arange(-15, 15) * 0.5)
    assert stored.attrs["periodic_axes"] == ["x"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.zarr", "v.zarr"]
    with computes(0):
        again = correlate_volume(volume, PrimitiveBasis(2), cutoff=None, scratch=url)
    xr.testing.assert_identical(again.compute(scheduler="sync"), in_memory)
    # What would be refused in the end is refused before anything is computed.
    with computes(0), pytest.raises(ValueError, match="other inputs or parameters"):
        correlate_volume(volume, PrimitiveBasis(2), cutoff=None, correlations=[(1, 1)], scratch=url)
    (tmp_path / "other").mkdir()
    with computes(0), pytest.raises(FileExistsError, match="choose another url"):
        correlate_volume(volume, PrimitiveBasis(2), cutoff=None, scratch=tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.zarr", "other", "v.zarr"]


def test_volume__all_lags_that_memory_does_not_hold_need_scratch():
    X = zarr.create_array({}, shape=(600,) * 3, dtype="u1", chunks=(100,) * 3)
    with computes(0), pytest.raises(ValueError, match=r"all lags, which take 824 MiB, needs .* pass scratch="):
        correlate_volume(X, PrimitiveBasis(2), cutoff=None, correlations=[(0, 0)], memory_limit="1GiB")


@pytest.mark.usefixtures("small_tiles")
def test_volume__orientations_and_measured_fields():
    rng = np.random.default_rng(0)
    angles = rng.uniform(0, 3, (13, 17, 3))
    mask = (rng.random((13, 17)) > 0.2).astype(float)
    basis = GSHBasis(4)
    expected = correlate(angles[None], basis, cutoff=3, confidence_index=mask[None], dtype="float64")[0]
    angles[mask == 0] = np.nan
    assert_allclose(
        correlate_volume(angles, basis, cutoff=3, confidence_index=mask, dtype="float64"), expected, atol=1e-12
    )
    fields = basis.discretize(np.nan_to_num(angles)[None])[0]
    f = correlate_volume(fields, None, cutoff=3, confidence_index=mask, dtype="float64")
    assert_allclose(f, expected[..., :4], atol=1e-12)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("kind", ["numpy", "zarr", "from_zarr", "open_volume", "unstored"])
def test_volume__any_kind_of_array_gives_the_same_bits(tmp_path, kind):
    X = np.random.default_rng(0).integers(0, 2, (23, 19, 17)).astype("uint8")
    create_volume(tmp_path / "v.zarr", X, spacing=0.5, units="um", periodic_axes=[0], chunks=8)
    stored = zarr.open_array(tmp_path / "v.zarr" / "microstructure", mode="r")
    opened = open_volume(tmp_path / "v.zarr").microstructure
    volume = {
        "numpy": X,
        "zarr": stored,
        "from_zarr": da.from_zarr(stored),
        "open_volume": opened,
        "unstored": opened.data.astype("int16"),
    }[kind]
    f = correlate_volume(volume, PrimitiveBasis(2), cutoff=3, periodic_axes=[0])
    expected = correlate_volume(X, PrimitiveBasis(2), cutoff=3, periodic_axes=[0]).compute()
    if kind == "unstored":  # one run a tile, so that sums are taken in another order
        assert_allclose(f, expected, atol=1e-13)
    else:
        assert_array_equal(f, expected)
        assert (stored_array(volume.data if kind == "open_volume" else da.asarray(volume)) is None) == (kind == "numpy")
    if kind == "open_volume":
        assert f.dims == ("lag_x", "lag_y", "lag_z", "pair")
        assert_allclose(f.lag_x, np.arange(-3, 4) * 0.5)
        assert f.lag_x.attrs["units"] == "um"
        assert_array_equal(
            correlate_volume(volume, PrimitiveBasis(2), cutoff=3), expected
        )  # periodicity from the store
        part = opened[1:, :-2].data
        assert stored_array(part).shape == part.shape
        assert_array_equal(
            correlate_volume(part, PrimitiveBasis(2), cutoff=3),
            correlate_volume(X[1:, :-2], PrimitiveBasis(2), cutoff=3).compute(),
        )


@pytest.mark.usefixtures("small_tiles")
def test_volume__repeats_to_the_last_bit_whatever_the_workers(tmp_path, client):
    X = np.random.default_rng(0).random((30, 31, 29))
    create_volume(tmp_path / "v.zarr", X, chunks=16)
    volume = open_volume(tmp_path / "v.zarr").microstructure
    f = correlate_volume(volume, LegendreBasis(2, domain=(0, 1)), cutoff=3)
    alone = f.compute(scheduler="sync")
    assert_array_equal(f.compute(scheduler="threads"), alone)
    assert_array_equal(client.compute(f).result(), alone)


STORED = zarr.create_array({}, shape=(13, 11), dtype="i8", chunks=(4, 3))
STORED[...] = np.arange(143).reshape(13, 11)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_boxes__of_stored_arrays_are_known(data):
    """Slices of slices, in chunks of any size, are boxes of the stored array."""
    sizes = st.integers(1, 13)
    lazy, values = da.from_array(STORED, chunks=(data.draw(sizes), data.draw(sizes))), STORED[...]
    for _ in range(data.draw(st.integers(1, 3))):
        cuts = []
        for n in values.shape:
            first = data.draw(st.integers(0, n - 1))
            cuts.append(slice(data.draw(st.sampled_from([first, first - n])), data.draw(st.integers(first + 1, n + 2))))
        chosen = tuple(cuts[: data.draw(st.integers(1, 2))])
        lazy, values = lazy[chosen], values[chosen]
    box = stored_array(lazy)
    assert (box.shape, box.dtype) == (values.shape, values.dtype)
    assert_array_equal(np.asarray(box), values)
    first = data.draw(st.integers(0, values.shape[0] - 1))
    assert_array_equal(box[first:, 1:], values[first:, 1:])
    assert_array_equal(box[np.array([first])], values[[first]])


@pytest.mark.parametrize(
    "part", [-1, 4, [0, 4], np.array([0, -1]), np.array([True, False, True, False]), slice(None, None, -1)]
)
@pytest.mark.parametrize("first", [0, 5])
def test_boxes__never_read_beyond_their_ends(first, part):
    box = stored_array(da.from_zarr(STORED)[first : first + 4])
    with pytest.raises(IndexError, match="is not a part of a box of 4 voxels"):
        box[part]
    assert_array_equal(box[[3, 0]], STORED[...][[first + 3, first]])
    assert box[np.arange(0)].shape == (0, 11)


@pytest.mark.parametrize(
    "change",
    [
        lambda V: V[::2],
        lambda V: V[::-1],
        lambda V: V[[1, 2, 3]],
        lambda V: V[[0, 1, 2, 3]][1:],
        lambda V: V[2],
        lambda V: V[1:][:, 2],
        lambda V: V[1:].T,
        lambda V: V[1:][None],
        lambda V: V[2:] > 5,
        lambda V: V[2:].astype("f4"),
        lambda V: V.blocks[[1, 0]][1:],
        lambda V: da.concatenate([V[:4], V[:4]])[1:],
        lambda V: da.concatenate([V[1:], V[1:] + 1], axis=1)[:, 1:],
        lambda V: V[V[:, 0] > 30],
        lambda V: V[1:].rechunk(2),
    ],
)
def test_boxes__anything_else_is_none(change):
    assert stored_array(change(da.from_zarr(STORED))) is None


@pytest.mark.parametrize("part", [slice(None), slice(100, None)])
def test_volume__the_graph_is_small(part):
    volume = da.from_zarr(zarr.create_array({}, shape=(2048,) * 3, dtype="u1", chunks=(256,) * 3))[part]
    options = {"cutoff": 50, "correlations": [(0, 0)], "memory_limit": "1160MiB"}
    f = correlate_volume(volume, PrimitiveBasis(2), **options)
    planned = plan(correlate_volume, volume, PrimitiveBasis(2), **options)
    assert planned.layout["tiles"] >= 512
    assert len(f.dask) <= 4 * planned.layout["tiles"]
    assert len(f.dask) <= 6 * planned.stages[0].n_tasks <= 6 * 128


def test_volume__float32_does_not_drift(monkeypatch):
    # 10,648 tiles; the sum of each pair's statistics over h' is the volume fraction at every lag.
    use_tiles(monkeypatch, 8)
    X = np.random.default_rng(0).integers(0, 2, (66, 66, 66)).astype("uint8")
    options = {"cutoff": 1, "periodic_axes": [0, 1, 2]}
    f = correlate_volume(X, PrimitiveBasis(2), **options)
    assert_allclose(f.sum(axis=-1), np.mean(X == 0), rtol=0, atol=1e-6)
    expected = correlate(X[None], PrimitiveBasis(2), dtype="float64", **options)[0]
    assert_allclose(f, expected, rtol=0, atol=1e-6)


def whole_volume_statistics(field, cutoff):
    """Autocorrelation of a field that is not periodic, by one transform of all of it."""
    lengths = [scipy.fft.next_fast_len(n + cutoff) for n in field.shape]
    spectrum = scipy.fft.rfftn(field.astype(float), s=lengths, workers=2)
    sums = scipy.fft.irfftn(spectrum.real**2 + spectrum.imag**2, s=lengths, workers=2)
    lags = np.arange(-cutoff, cutoff + 1)
    omega = np.ones((1, 1, 1))
    for axis, n in enumerate(field.shape):
        omega = omega * (n - np.abs(lags)).reshape([-1 if a == axis else 1 for a in range(3)])
    return sums[np.ix_(*(lags % n for n in lengths))] / omega


def test_volume__real_rock_in_small_tiles(tmp_path):
    rock = tifffile.imread(real_data("berea_400.tif"))[:200, :160, :120].transpose(2, 1, 0) // 255
    create_volume(tmp_path / "v.zarr", rock, chunks=64)
    volume = open_volume(tmp_path / "v.zarr").microstructure
    options = {"cutoff": 10, "correlations": [(0, 0)], "return_std": True, "memory_limit": "610MiB"}
    f, std = correlate_volume(volume, PrimitiveBasis(2), **options)
    assert plan(correlate_volume, volume, PrimitiveBasis(2), **options).layout["tiles"] > 8
    assert_allclose(f.values[..., 0], whole_volume_statistics(rock == 0, 10), atol=1e-6)
    assert 0 < float(std[10, 10, 10, 0]) < 0.1


@pytest.mark.slow
def test_volume__real_rock_on_workers_smaller_than_its_transform(tmp_path):
    rock = tifffile.imread(real_data("berea_400.tif")).transpose(2, 1, 0) // 255
    # The rock and its mirror image.
    rock = np.concatenate([rock, rock[::-1]])
    create_volume(tmp_path / "v.zarr", rock, chunks=100)
    volume = open_volume(tmp_path / "v.zarr").microstructure
    limit = 800 * 2**20
    # In single precision, complex, with the padding that the cutoff needs.
    assert limit < 8 * np.prod([scipy.fft.next_fast_len(n + 40) for n in rock.shape])
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            memory_limit=limit,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            local_directory=tmp_path / "dask",
        ) as cluster,
        Client(cluster) as client,
    ):
        before = client.run(os.getpid)
        f = correlate_volume(volume, PrimitiveBasis(2), cutoff=40, correlations=[(0, 0)])
        found = f.compute().values[..., 0]
        assert client.run(os.getpid) == before, "a worker ran out of memory"
    assert_allclose(found, whole_volume_statistics(rock == 0, 40), atol=1e-6)


@pytest.mark.slow
def test_volume__standard_error_is_that_of_independent_volumes(monkeypatch):
    use_tiles(monkeypatch, 18)
    rng = np.random.default_rng(0)
    found, errors = [], []
    for _ in range(60):
        # Squares of 4 × 4 voxels, so that neighbours are correlated.
        X = np.kron(rng.integers(0, 2, (24, 24)), np.ones((4, 4), int))
        f, std = correlate_volume(X, PrimitiveBasis(2), cutoff=2, correlations=[(1, 1)], return_std=True)
        found.append(f.compute(scheduler="sync"))
        errors.append(std.compute(scheduler="sync"))
    truth = np.std(found, axis=0)
    assert_allclose(np.mean(errors, axis=0) / truth, 1.0, atol=0.4)


def test_volume__partial_sums_are_kept_and_taken_up(tmp_path, monkeypatch):
    use_tiles(monkeypatch, 18)
    X = np.random.default_rng(0).integers(0, 2, (60, 50))
    options = {"cutoff": 3, "return_std": True, "correlations": [(0, 0), (0, 1)]}
    expected = dask.compute(*correlate_volume(X, PrimitiveBasis(2), **options), scheduler="sync")
    read = []

    def counting(*arguments):
        read.append(1)
        if len(read) == 9:
            msg = "killed"
            raise KeyboardInterrupt(msg)
        return volume_read(*arguments)

    volume_read = Tiling.read
    monkeypatch.setattr(Tiling, "read", counting)
    with dask.config.set(scheduler="sync"):
        with pytest.raises(KeyboardInterrupt):
            correlate_volume(X, PrimitiveBasis(2), scratch=tmp_path / "s.zarr", **options)
        again = correlate_volume(X, PrimitiveBasis(2), scratch=tmp_path / "s.zarr", **options)
        n_tiles = Tiling((60, 50), (False, False), (3, 3), (12, 10), real=True).n_tiles
        # The run of up to four tiles that was in flight is done again.
        assert n_tiles < len(read) <= n_tiles + 4
        for found, wanted in zip(again, expected, strict=True):
            assert_array_equal(found, wanted)
        done = len(read)
        correlate_volume(X, PrimitiveBasis(2), scratch=tmp_path / "s.zarr", **options)
        assert len(read) == done
        with pytest.raises(ValueError, match="computation"):
            correlate_volume(1 - X, PrimitiveBasis(2), scratch=tmp_path / "s.zarr", **options)


def test_volume__a_plan_fits_or_says_what_would(monkeypatch):
    X = zarr.create_array({}, shape=(300,) * 3, dtype="u1", chunks=(100,) * 3)
    with pytest.raises(ValueError, match=r"the smallest memory_limit that would do is \d+ MiB") as refused:
        correlate_volume(X, PrimitiveBasis(2), cutoff=40, memory_limit="570MiB")
    (least,) = map(int, re.findall(r"would do is (\d+) MiB", str(refused.value)))
    for limit, fits in ((least, True), (least - 1, False)):
        with nullcontext() if fits else pytest.raises(ValueError, match="would do"):
            plan(correlate_volume, X, PrimitiveBasis(2), cutoff=40, memory_limit=f"{limit}MiB")
    plain, tight = (
        plan(correlate_volume, X, PrimitiveBasis(2), cutoff=10, memory_limit=limit) for limit in ("8GiB", "610MiB")
    )
    assert tight.layout["tiles"] > plain.layout["tiles"]
    assert tight.peak_bytes <= tight.limit.task_bytes < plain.peak_bytes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cutoff": 1.5}, "cutoff must be"),
        ({"cutoff": None, "return_std": True}, "return_std needs a cutoff"),
        ({"cutoff": 30}, "must lie between 0 and"),
        ({"cutoff": None, "memory_limit": "much"}, "memory_limit must be"),
        ({"cutoff": 6, "periodic_axes": [0, 1]}, "must lie between 0 and"),
        ({"cutoff": 2, "confidence_index": np.ones((3, 3))}, "confidence_index must have the shape"),
        ({"cutoff": 2, "dtype": "int8"}, "dtype must be"),
        ({"cutoff": 2, "correlations": [(0, 5)]}, "correlations must be pairs"),
        ({"cutoff": 2, "periodic_axes": [2]}, "names an axis outside"),
    ],
)
def test_volume__raises_on_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        correlate_volume(np.zeros((10, 11), int), PrimitiveBasis(2), **options)


@pytest.mark.usefixtures("small_tiles")
def test_volume__raises_on_bad_values_when_computed():
    X = np.zeros((10, 11))
    X[3, 4] = 7
    with pytest.raises(ValueError, match="outside the domain"):
        correlate_volume(X, PrimitiveBasis(2), cutoff=1).compute(scheduler="sync")
    with pytest.raises(ValueError, match=r"confidence_index must lie in \[0, 1\]"):
        correlate_volume(X, PrimitiveBasis(8), cutoff=1, confidence_index=X).compute(scheduler="sync")
    with pytest.raises(ValueError, match="NaN"):
        correlate_volume(np.full((9, 9, 1), np.nan), None, cutoff=1).compute(scheduler="sync")


def test_volume__lags_that_nobody_observes_are_nan(monkeypatch):
    use_tiles(monkeypatch, 8)
    mask = np.zeros((12, 12))
    mask[:, :6] = 1
    X = xr.DataArray(np.zeros((12, 12), int), dims=("x", "y"))
    with dask.config.set(scheduler="sync"):
        f = correlate_volume(X, PrimitiveBasis(1), cutoff=8, confidence_index=mask).values[..., 0]
    assert np.isnan(f[:, [0, 1, 2, -1]]).all()
    assert_allclose(f[:, 3:-3], 1.0, atol=2e-6)


@pytest.mark.usefixtures("small_tiles")
def test_volume__masks_lie_along_the_dims_and_ensembles_are_no_volumes():
    rng = np.random.default_rng(0)
    X = xr.DataArray(rng.integers(0, 2, (9, 9)), dims=("x", "y"))
    mask = xr.DataArray(rng.random((9, 9)), dims=("x", "y"))
    f = correlate_volume(X, PrimitiveBasis(2), cutoff=2, confidence_index=mask)
    assert_array_equal(correlate_volume(X, PrimitiveBasis(2), cutoff=2, confidence_index=mask.T), f)
    with pytest.raises(ValueError, match="of an ensemble"):
        correlate_volume(X.expand_dims("sample"), PrimitiveBasis(2), cutoff=2)
    lazy = da.from_array(X.values, chunks=3)
    with pytest.raises(ValueError, match="compute_chunk_sizes"):
        correlate_volume(lazy[lazy[:, 0] > 0], PrimitiveBasis(2), cutoff=2)


def test_volume__tiles_of_a_lazy_volume_share_its_chunks(monkeypatch):
    # Each chunk is cut by many tiles; what they share must not be mistaken for another.
    use_tiles(monkeypatch, 4)
    X = np.random.default_rng(0).integers(0, 3, (17, 23))
    basis, seen = FourierBasis(3, domain=(0, 3)), []

    def count(block):
        seen.append(block.shape)
        return block

    lazy = da.from_array(X, chunks=(2, 4)).map_blocks(count, meta=np.empty((0, 0), X.dtype))
    f = correlate_volume(lazy, basis, cutoff=0, correlations=[(0, -1)], dtype="float64")
    assert_allclose(f.compute(scheduler="sync").item(), np.exp(-2j * np.pi * X / 3).mean(), atol=1e-14)
    assert len(seen) == lazy.npartitions
