"""Windows cut from one volume."""

import dask.array as da
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mksdask import MKSStructureAnalysis, PrimitiveBasis, create_volume, open_volume, sample_windows
from tests.helpers import computes, tasks_per_chunk


@pytest.mark.parametrize(
    ("spatial", "size", "stride"), [((17,), 5, None), ((10, 13), (3, 4), 2), ((7, 8, 9), (3, 2, 4), (2, 3, 1))]
)
@pytest.mark.parametrize("is_stored", [True, False])
def test_windows__on_a_grid(spatial, size, stride, is_stored):
    X = np.random.default_rng(0).integers(0, 9, spatial)
    volume = X if is_stored else da.from_array(X, chunks=4) + 0
    with computes(0):
        windows = sample_windows(volume, size=size, stride=stride, chunks=3)
    sizes = np.broadcast_to(size, len(spatial))
    steps = sizes if stride is None else np.broadcast_to(stride, len(spatial))
    view = np.lib.stride_tricks.sliding_window_view(X, tuple(sizes))
    expected = view[tuple(slice(None, None, step) for step in steps)].reshape(-1, *sizes)
    assert windows.chunks[0][0] == 3
    assert_array_equal(windows, expected)


def test_windows__at_random_places(tmp_path):
    X = np.arange(30 * 40.0).reshape(30, 40)
    create_volume(
        tmp_path / "v.zarr", X, spacing=(0.5, 2.0), units="um", periodic_axes=[0], phases=["a", "b"], chunks=16
    )
    volume = open_volume(tmp_path / "v.zarr").microstructure
    windows = sample_windows(volume, size=(6, 5), n=500, seed=3, chunks=100)
    assert windows.dims == ("sample", "x", "y")
    assert windows.attrs["phases"] == ["a", "b"]
    assert "periodic_axes" not in windows.attrs
    assert_allclose(windows.y, np.arange(5) * 2.0)
    corners = np.stack([windows.corner_x / 0.5, windows.corner_y / 2.0], axis=1).astype(int)
    assert_array_equal(windows.values[:, 0, 0], corners @ [40, 1])
    assert_array_equal(windows.values[:, 5, 4] - windows.values[:, 0, 0], 5 * 40 + 4)
    # Each place is as likely, the last ones too.
    assert corners.min(axis=0).tolist() == [0, 0]
    assert corners.max(axis=0).tolist() == [24, 35]
    assert_array_equal(sample_windows(volume, size=(6, 5), n=500, seed=3), windows)
    assert tasks_per_chunk(windows.data) <= 3


def test_windows__of_orientations(tmp_path):
    angles = np.random.default_rng(0).uniform(0, 3, (12, 9, 3))
    create_volume(tmp_path / "v.zarr", angles, spacing=(1.0, 1.0))
    windows = sample_windows(open_volume(tmp_path / "v.zarr").microstructure, size=3)
    assert windows.dims == ("sample", "x", "y", "angle")
    assert_array_equal(windows[4], angles[3:6, 3:6])
    assert sample_windows(angles, size=(3, 3)).shape == (12, 3, 3, 3)


def test_windows__feed_structure_analysis():
    X = np.random.default_rng(0).integers(0, 2, (40, 50))
    windows = sample_windows(X, size=10)
    assert MKSStructureAnalysis(PrimitiveBasis(2), n_components=2).fit_transform(windows).shape == (20, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 20}, "no larger than the volume"),
        ({"size": (3, 3, 3)}, "no larger than the volume"),
        ({"size": 0}, "size must be"),
        ({"size": 3, "stride": 0}, "stride must be"),
        ({"size": 3, "stride": 2, "n": 4, "seed": 0}, "stride must be"),
        ({"size": 3, "n": 4}, "need the seed"),
        ({"size": 3, "n": 0, "seed": 1}, "n must be"),
    ],
)
def test_windows__raises_on_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        sample_windows(np.zeros((10, 12)), **options)
