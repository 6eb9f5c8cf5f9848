"""3-point statistics: the defining sum, what follows from Σ_h m = 1, and structures of equal 2-point statistics."""

import itertools

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings, strategies as st
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline

from mksdask import FourierBasis, LegendreBasis, PrimitiveBasis, create_volume, open_volume, plan
from mksdask.reduction import PCA
from mksdask.stats import correlate, correlate3, correlate_volume3, halos, volume_three_points
from tests.helpers import chunked, computes, sample_chunks, tasks_per_chunk


def bruteforce(m, triples, offsets, *, periodic, reach, confidence=None):
    """The defining sum of one sample: m (*spatial, n_states) → (*lags, n_offsets, n_triples)."""
    spatial = m.shape[:-1]
    c = np.ones(spatial) if confidence is None else confidence
    lags = [range(-low, high + 1) for low, high in reach]
    out = np.full((*map(len, lags), len(offsets), len(triples)), np.nan, dtype=np.result_type(m, float))

    def at(s, r):
        found = [(i + d) % n if wraps else i + d for i, d, n, wraps in zip(s, r, spatial, periodic, strict=True)]
        return tuple(found) if all(0 <= i < n for i, n in zip(found, spatial, strict=True)) else None

    for place, lag in zip(np.ndindex(*map(len, lags)), itertools.product(*lags), strict=True):
        for number, offset in enumerate(offsets):
            total, omega = np.zeros(len(triples), dtype=out.dtype), 0.0
            for s in np.ndindex(*spatial):
                t, u = at(s, lag), at(s, offset)
                if t is None or u is None:
                    continue
                weight = c[s] * c[t] * c[u]
                omega += weight
                for p, (first, second, third) in enumerate(triples):
                    total[p] += weight * np.conj(m[(*s, first)]) * m[(*t, second)] * m[(*u, third)]
            if omega > 0:
                out[(*place, number)] = total / omega
    return out


@pytest.mark.parametrize(
    ("shape", "periodic", "offsets", "cutoff"),
    [
        ((7,), (True,), [[0], [2], [-6]], None),
        ((6,), (False,), [[1], [-5]], 5),
        ((4, 5), (True, False), [[1, 0], [-3, 4], [0, -2]], None),
        ((4, 5), (False, False), [[2, 1]], (3, 2)),
        ((3, 3, 4), (False, True, False), [[1, -2, 1]], 1),
    ],
)
@pytest.mark.parametrize("basis", [PrimitiveBasis(3), LegendreBasis(2, domain=(0, 2)), FourierBasis(3, domain=(0, 3))])
@pytest.mark.parametrize("masked", [None, "each", "shared"])
def test_correlate3__matches_bruteforce(shape, periodic, offsets, cutoff, basis, masked):
    rng = np.random.default_rng(0)
    X, axes = rng.integers(0, 3, (2, *shape)), [axis for axis, wraps in enumerate(periodic) if wraps]
    confidence = None
    if masked is not None:
        confidence = rng.choice([0.0, 0.5, 1.0], size=X.shape if masked == "each" else shape)
    states = basis.states
    triples = [(states[0], states[1], states[-1]), (states[1],) * 3, (states[1], states[0], states[1])]
    options = {"size": shape, "periodic_axes": axes, "cutoff": cutoff, "dtype": "float64"}
    found = correlate3(X, basis, offsets, correlations=triples, confidence_index=confidence, **options)
    lags = cutoff if isinstance(cutoff, tuple) else (cutoff,) * len(shape)
    reach = [(n // 2, (n - 1) // 2) if c is None else (c, c) for n, c in zip(shape, lags, strict=True)]
    indices = [tuple(map(states.index, triple)) for triple in triples]
    for number, sample in enumerate(basis.discretize(X, dtype="float64")):
        c = confidence if masked != "each" else confidence[number]
        expected = bruteforce(sample, indices, offsets, periodic=periodic, reach=reach, confidence=c)
        np.testing.assert_allclose(found[number], expected, atol=1e-11)


def test_correlate3__holds_two_point_statistics():
    X, basis = np.random.default_rng(0).integers(0, 2, (3, 8, 9)), PrimitiveBasis(2)
    options = {"periodic_axes": [0, 1], "dtype": "float64"}
    triples = [(1, 1, 0), (1, 1, 1)]
    f = correlate3(X, basis, [[0, 0], [2, -1]], correlations=triples, **options)
    two = correlate(X, basis, correlations=[(1, 1)], **options)[..., 0]
    np.testing.assert_allclose(f[..., 0, 1], two, atol=1e-12)
    np.testing.assert_allclose(f[..., 0, 0], 0, atol=1e-12)
    # Σ_h'' f[h, h', h''; r, r'] = f[h, h'; r].
    np.testing.assert_allclose(f.sum(axis=-1), np.stack([two, two], axis=-1), atol=1e-12)


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_correlate_volume3__matches_bruteforce_and_samples_under_any_tiling(data):
    shape = data.draw(st.sampled_from([(9,), (5, 6), (4, 3, 5)]))
    periodic = tuple(data.draw(st.booleans()) for _ in shape)
    cutoff = tuple(
        data.draw(st.integers(0, (n - 1) // 2 if w else n - 1)) for n, w in zip(shape, periodic, strict=True)
    )
    offsets = [[data.draw(st.integers(-n + 1, n - 1)) for n in shape] for _ in range(2)]
    basis = data.draw(st.sampled_from([PrimitiveBasis(3), FourierBasis(3, domain=(0, 3))]))
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    X, confidence = rng.integers(0, 3, shape).astype(float), None
    if data.draw(st.booleans()):
        confidence = rng.choice([0.0, 0.5, 1.0], size=shape)
        X[confidence == 0] = np.nan
    triples = [basis.states, (basis.states[1],) * 3]
    options = {"correlations": triples, "cutoff": cutoff, "confidence_index": confidence, "dtype": "float64"}
    options |= {"periodic_axes": [axis for axis, wraps in enumerate(periodic) if wraps]}
    with pytest.MonkeyPatch.context() as patch, dask.config.set(scheduler="sync"):
        patch.setattr(halos, "BLOCK_VOXELS", data.draw(st.integers(1, 200)))
        found = correlate_volume3(X, basis, offsets, **options).compute()
        lazy = da.from_array(X, chunks=2) + 0
        again = correlate_volume3(lazy, basis, offsets, **options).compute()
    m = basis.discretize(np.nan_to_num(X)[None], dtype="float64")[0]
    reach = [(c, c) for c in cutoff]
    indices = [tuple(map(basis.states.index, triple)) for triple in triples]
    expected = bruteforce(m, indices, offsets, periodic=periodic, reach=reach, confidence=confidence)
    np.testing.assert_allclose(found, expected, atol=1e-11)
    np.testing.assert_array_equal(found, again)
    samples = correlate3(X[None], basis, offsets, size=shape, **options)
    np.testing.assert_allclose(found, samples[0], atol=1e-11)


@pytest.mark.parametrize("is_masked", [False, True])
def test_correlate_volume3__continues_after_a_kill(tmp_path, monkeypatch, is_masked):
    X, basis = np.random.default_rng(0).integers(0, 2, (30, 20)), PrimitiveBasis(2)
    mask = np.random.default_rng(1).choice([0.0, 1.0], size=X.shape) if is_masked else None
    call = {"offsets": [[2, 0], [0, 1]], "cutoff": 2, "confidence_index": mask}
    monkeypatch.setattr(halos, "BLOCK_VOXELS", 100)
    expected = correlate_volume3(X, basis, **call).compute(scheduler="sync")
    kernel, done = volume_three_points._OfTile.__call__, []

    def counting(*arguments):
        done.append(1)
        if len(done) == 4:
            msg = "killed"
            raise KeyboardInterrupt(msg)
        return kernel(*arguments)

    monkeypatch.setattr(volume_three_points._OfTile, "__call__", counting)
    with dask.config.set(scheduler="sync"):
        with pytest.raises(KeyboardInterrupt):
            correlate_volume3(X, basis, scratch=tmp_path / "s.zarr", **call)
        n_tiles = plan(correlate_volume3, X, basis, **call).n_tasks
        assert n_tiles > 4
        # A call that would choose larger tiles goes on with those that were begun.
        monkeypatch.setattr(halos, "BLOCK_VOXELS", 10_000)
        found = correlate_volume3(X, basis, scratch=tmp_path / "s.zarr", **call).compute()
        assert len(done) == n_tiles + 1
        np.testing.assert_array_equal(found, expected)
        correlate_volume3(X, basis, scratch=tmp_path / "s.zarr", **call)
        assert len(done) == n_tiles + 1
        with pytest.raises(ValueError, match="computation"):
            correlate_volume3(1 - X, basis, scratch=tmp_path / "s.zarr", **call)


def test_correlate_volume3__lazy_labelled_and_planned(tmp_path):
    X = np.random.default_rng(0).integers(0, 2, (40, 30, 20)).astype("uint8")
    create_volume(tmp_path / "v.zarr", X, chunks=16, spacing=2.0, units="um", periodic_axes=[0])
    stored = open_volume(tmp_path / "v.zarr").microstructure
    with computes(0):
        found = correlate_volume3(stored, PrimitiveBasis(2), [[3, 0, 0]], cutoff=2)
    assert found.dims == ("lag_x", "lag_y", "lag_z", "offset", "triple")
    assert (found.offset_x.values.tolist(), found.lag_y.values.tolist()) == ([6.0], [-4.0, -2.0, 0.0, 2.0, 4.0])
    expected = correlate3(X[None], PrimitiveBasis(2), [[3, 0, 0]], cutoff=2, periodic_axes=[0])[0]
    np.testing.assert_allclose(found, expected, atol=2e-6)
    planned = plan(correlate_volume3, stored, PrimitiveBasis(2), [[3, 0, 0]], cutoff=2, memory_limit="1GiB")
    assert planned.operation == "correlate_volume3"
    assert 0 < planned.peak_bytes <= planned.limit.task_bytes
    large = np.broadcast_to(np.uint8(0), (400, 400, 400))
    small, wide = (
        plan(correlate_volume3, large, PrimitiveBasis(2), [[1, 0, 0]], cutoff=8, memory_limit=limit)
        for limit in ("620MiB", "4GiB")
    )
    assert small.n_tasks > wide.n_tasks > 1
    with pytest.raises(ValueError, match="lower the cutoff, or take shorter offsets"):
        plan(correlate_volume3, large, PrimitiveBasis(2), [[390, 390, 0]], cutoff=2, memory_limit="620MiB")
    with pytest.raises(ValueError, match="cutoff must be"):
        correlate_volume3(X, PrimitiveBasis(2), [[1, 0, 0]], cutoff=None)


@settings(max_examples=5, deadline=None)
@given(sample_chunks(6))
def test_correlate3__chunk_invariant(rows):
    X = np.random.default_rng(1).integers(0, 2, (6, 9, 8))
    call = {"basis": PrimitiveBasis(2), "offsets": [[1, 0], [0, 2]], "periodic_axes": [1]}
    np.testing.assert_array_equal(correlate3(chunked(X, rows), **call), correlate3(X, **call))


def test_correlate3__lazy_labelled_and_planned():
    X = np.random.default_rng(0).integers(0, 2, (6, 8, 9))
    labelled = xr.DataArray(
        da.from_array(X, chunks=(2, 8, 9)),
        dims=("sample", "x", "y"),
        coords={"x": ("x", np.arange(8) * 0.5, {"units": "um"}), "sample": list("abcdef")},
        attrs={"periodic_axes": ["x"]},
    )
    with computes(0):
        found = correlate3(labelled, PrimitiveBasis(2), [[3, 0], [0, 1]], cutoff=2)
    assert found.dims == ("sample", "lag_x", "lag_y", "offset", "triple")
    assert found.offset_x.values.tolist() == [1.5, 0.0]
    assert found.triple.values.tolist() == ["0,0,0", "1,1,1"]
    assert tasks_per_chunk(found.data) <= 3
    np.testing.assert_array_equal(
        found, correlate3(X, PrimitiveBasis(2), [[3, 0], [0, 1]], cutoff=2, periodic_axes=[0])
    )
    planned = plan(correlate3, labelled, PrimitiveBasis(2), [[1, 0]], memory_limit="1GiB")
    assert planned.stages[0].n_tasks == 3


def structure(sign, size, places=((0, 0),)):
    """A + B or A - B at some places: what 2-point statistics cannot tell apart."""
    a, b = np.array([(0, 0), (0, 1), (1, 0)]), np.array([(0, 0), (5, 2), (3, 9), (11, 5)])
    X = np.zeros((size, size), dtype=int)
    signs = np.broadcast_to(sign, len(places))
    for each, place in zip(signs, places, strict=True):
        points = (a[:, None] + each * b[None] + np.array(place)).reshape(-1, 2) % size
        X[tuple(points.T)] = 1
    return X


def test_correlate3__tells_structures_of_equal_two_point_statistics_apart():
    X = np.stack([structure(sign, 24) for sign in (1, -1)])
    options = {"periodic_axes": [0, 1], "dtype": "float64"}
    first, second = correlate(X, PrimitiveBasis(2), **options)
    np.testing.assert_allclose(first, second, atol=1e-12)
    first, second = correlate3(X, PrimitiveBasis(2), [[0, 1], [5, 2]], correlations=[(1, 1, 1)], **options)
    # Where they differ, it is by whole triples of voxels, out of twelve voxels that are set.
    assert abs(first - second).max() >= 0.99 / 24**2
    assert abs(first - second).max() > 0.05 * first.max()


@pytest.mark.slow
def test_correlate3__carries_a_linkage_that_two_points_cannot():
    rng, size = np.random.default_rng(0), 64
    signs = rng.choice([-1, 1], size=(200, 6))
    X = np.stack([structure(row, size, rng.integers(0, size, (6, 2))) for row in signs])
    y = (signs == 1).mean(axis=1)
    options = {"periodic_axes": [0, 1], "cutoff": 12}
    two = correlate(X, PrimitiveBasis(2), correlations=[(1, 1)], **options)
    three = correlate3(X, PrimitiveBasis(2), [[0, 1], [5, 2]], correlations=[(1, 1, 1)], **options)
    scores = []
    for statistics in (two, three):
        rows = statistics.reshape(len(X), -1)
        linkage = make_pipeline(PCA(10), LinearRegression())
        predicted = cross_val_predict(linkage, rows, y, cv=5)
        scores.append(1 - ((predicted - y) ** 2).mean() / y.var())
    assert scores[0] < 0.1
    assert scores[1] > 0.95


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"offsets": [[1]]}, "offsets must be vectors of 2 integers"),
        ({"offsets": [[0.5, 1.0]]}, "offsets must be vectors of 2 integers"),
        ({"offsets": []}, "offsets must be vectors of 2 integers"),
        ({"offsets": [[6, 0]]}, "offsets must be shorter than samples"),
        ({"correlations": [(0, 1)]}, "correlations must be triples"),
        ({"correlations": [(0, 1, 2)]}, "correlations must be triples"),
        ({"correlations": 1}, "correlations must be triples"),
        ({"correlations": da.zeros((2, 3), dtype=int)}, "correlations must be triples"),
    ],
)
def test_correlate3__raises_on_bad_arguments(options, match):
    with pytest.raises(ValueError, match=match):
        correlate3(np.zeros((2, 6, 5), int), PrimitiveBasis(2), **({"offsets": [[1, 0]]} | options))
