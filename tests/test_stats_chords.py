"""Chords and the lineal-path function, against counting segment by segment."""

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from mksdask import create_volume, open_volume
from mksdask.stats import chord_lengths, chords, lineal_path
from tests.helpers import computes


def runs_of(line, *, wraps):
    """Lengths of runs of True that end inside, and of those that a border cuts."""
    n = len(line)
    if line.all():
        return [], [n]
    if wraps:
        line = np.roll(line, -int(np.argmin(line)))
    edges = np.flatnonzero(np.diff(np.concatenate([[False], line, [False]]).astype(int)))
    whole, cut = [], []
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        is_cut = not wraps and (start == 0 or stop == n)
        (cut if is_cut else whole).append(stop - start)
    return whole, cut


def segments_inside(line, lag, *, wraps):
    n = len(line)
    starts = range(n if wraps else n - lag)
    return sum(all(line[(start + step) % n] for step in range(lag + 1)) for start in starts), len(starts)


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_chords__match_a_count_line_by_line(data):
    spatial = data.draw(st.sampled_from([(17,), (9, 7), (5, 6, 8), (1, 4)]))
    periodic = [axis for axis in range(len(spatial)) if data.draw(st.booleans())]
    X = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 3, spatial) // 2
    volume = X if data.draw(st.booleans()) else da.from_array(X, chunks=3) + 0
    with pytest.MonkeyPatch.context() as monkeypatch, computes(0):
        monkeypatch.setattr(chords, "PENCIL_VOXELS", 20)
        lengths = chord_lengths(volume, 0, periodic_axes=periodic)
        path = lineal_path(volume, 0, periodic_axes=periodic)
    for axis, dim in enumerate("xyz"[: len(spatial)]):
        n, wraps = spatial[axis], axis in periodic
        lines = np.moveaxis(X == 0, axis, -1).reshape(-1, n)
        counts = np.zeros((2, n + 1), int)
        for line in lines:
            for row, found in zip(counts, runs_of(line, wraps=wraps), strict=True):
                np.add.at(row, found, 1)
        assert_array_equal(lengths[f"chords_{dim}"].compute(scheduler="sync"), counts[0, 1:])
        assert_array_equal(lengths[f"cut_{dim}"].compute(scheduler="sync"), counts[1, 1:])
        for lag in range(n):
            parts = np.array([segments_inside(line, lag, wraps=wraps) for line in lines])
            value = path[f"lineal_path_{dim}"][lag].compute(scheduler="sync")
            assert_allclose(value, parts[:, 0].sum() / parts[:, 1].sum(), atol=1e-14)


def test_lineal_path__of_independent_voxels_is_a_power(tmp_path):
    X = (np.random.default_rng(0).random((120, 130, 110)) < 0.3).astype("uint8")
    create_volume(tmp_path / "v.zarr", X, spacing=0.5, units="um", chunks=64)
    volume = open_volume(tmp_path / "v.zarr").microstructure
    path = lineal_path(volume, 1, cutoff=4)
    for dim in "xyz":
        values = path[f"lineal_path_{dim}"]
        assert_allclose(values, 0.3 ** np.arange(1, 6), rtol=0.05)
        assert_allclose(values[f"lag_{dim}"], np.arange(5) * 0.5)
    assert path.lag_x.attrs["units"] == "um"
    # The mean chord of independent voxels is 1/(1 - v).
    counts = chord_lengths(volume, 1, axes=[2])
    assert set(counts.data_vars) == {"chords_z", "cut_z"}
    mean = float((counts.chords_z * counts.length_z).sum() / counts.chords_z.sum())
    assert mean == pytest.approx(0.5 / 0.7, rel=0.01)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda X: chord_lengths(X * 0.5, 0), "phase numbers"),
        (lambda X: chord_lengths(X, 0.5), "phase must be"),
        (lambda X: chord_lengths(X, 0, axes=[2]), "axes"),
        (lambda X: lineal_path(X, 0, cutoff=9), "cutoff must be"),
    ],
)
def test_chords__raises_on_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.zeros((5, 6), int))
