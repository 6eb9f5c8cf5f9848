"""Grid, Samples and Volume: what is read from labels, what is compared, and what the models do with it."""

import warnings

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from numpy.testing import assert_array_equal

from mksdask import (
    GSHBasis,
    MKSHomogenizationModel,
    MKSLocalizationModel,
    MKSStructureAnalysis,
    PrimitiveBasis,
    create_ensemble,
    open_ensemble,
)
from mksdask.bases.given import GivenStates
from mksdask.grid import Axis
from mksdask.samples import Grid, Samples, Volume

BASIS = PrimitiveBasis(2)
RNG = np.random.default_rng(0)
X = RNG.integers(0, 2, (12, 4, 5))
MASK = RNG.random(X.shape)


def labelled(array, *, step=0.5, units="um", **attrs):
    """Samples with dims sample, x, y, and coordinates of the voxels."""
    shape = array.shape[1:]
    coords = {dim: (dim, step * np.arange(n), {"units": units}) for dim, n in zip("xy", shape, strict=True)}
    return xr.DataArray(array, dims=("sample", "x", "y"), coords=coords, attrs=attrs)


def grid_of(array, periodic_axes=None):
    return Grid.of(array, array.shape[1:], periodic_axes)


# Grid.of


def test_grid__of_an_array_without_labels():
    grid = Grid.of(None, np.array([4, 5]))
    assert grid.axes == (Axis("x", 1.0, "voxel"), Axis("y", 1.0, "voxel"))
    assert (grid.shape, grid.periodic, grid.phases) == ((4, 5), (False, False), ())
    assert (grid.is_measured, grid.said_periodic) == (False, None)
    assert grid.voxel_text == "1 voxel × 1 voxel"
    assert Grid.of(None, (4, 5), [1]).periodic_axes == [1]
    with pytest.raises(ValueError, match=r"periodic_axes=\[2\] names an axis outside 0…1"):
        Grid.of(None, (4, 5), [2])


def test_grid__of_labels():
    grid = grid_of(labelled(X, periodic_axes=["y"], phases=["stiff", "soft"]))
    assert (grid.dims, grid.steps, grid.shape) == (("x", "y"), (0.5, 0.5), (4, 5))
    assert (grid.periodic, grid.said_periodic) == ((False, True), (False, True))
    assert (grid.phases, grid.is_measured) == (("stiff", "soft"), True)
    assert grid.voxel_text == "0.5 µm × 0.5 µm"
    lags = grid.lags([np.arange(-1, 2), np.arange(3)])
    dims, values, attrs = lags["lag_x"]
    assert (list(lags), dims, values.tolist(), attrs) == (["lag_x", "lag_y"], "lag_x", [-0.5, 0, 0.5], {"units": "um"})


def test_grid__an_argument_overrides_what_labels_say():
    grid = grid_of(labelled(X, periodic_axes=["y"]), [0])
    assert (grid.periodic, grid.said_periodic) == ((True, False), (False, True))
    assert grid_of(labelled(X, periodic_axes=["y"]), []).periodic == (False, False)


def test_grid__an_axis_of_one_voxel_keeps_its_spacing():
    thin = labelled(X)[:, :1]
    assert grid_of(thin).steps == (1.0, 0.5)
    thin.x.attrs["spacing"] = 0.25
    assert grid_of(thin).steps == (0.25, 0.5)


def test_grid__needs_a_coordinate_along_each_axis_to_be_measured():
    half = labelled(X).drop_vars("y")
    grid = grid_of(half)
    assert (grid.steps, grid.is_measured) == ((0.5, 1.0), False)
    assert grid.axes[1] == Axis("y", 1.0, "voxel")


@pytest.mark.parametrize(
    ("values", "step"),
    [
        ([0.0, 0.33, 0.67, 1.0], 1 / 3),
        (np.array([9, 7, 5, 3], dtype="uint8"), -2.0),
        (np.array([0, 2, 4, 6], dtype=object), 2.0),
        ([0, 1, 2, 4], None),
        ([0, 1, 3, 4], None),
        ([2, 2, 2, 2], None),
        ([0, 2, 1, 3], None),
        ([0, 1, np.nan, 3], None),
        ([False, True, False, True], None),
        (["a", "b", "c", "d"], None),
        (np.arange(4).astype("M8[s]"), None),
    ],
)
def test_grid__coordinates_are_evenly_spaced_numbers(values, step):
    given = labelled(X).assign_coords(x=values)
    if step is None:
        with pytest.raises(ValueError, match=r"the coordinate 'x' must hold evenly spaced numbers.*drop_vars\('x'\)"):
            grid_of(given)
    else:
        assert grid_of(given).steps[0] == pytest.approx(step)


@pytest.mark.parametrize("periodic_axes", [["x", "y"], [0, 1]])
def test_grid__periodic_axes_by_name_and_by_number(periodic_axes):
    assert grid_of(labelled(X, periodic_axes=periodic_axes)).periodic == (True, True)


def test_grid__an_axis_that_was_cut_or_indexed_away_is_not_periodic(tmp_path):
    create_ensemble(tmp_path / "e.zarr", X, periodic_axes=[0, 1])
    stored = open_ensemble(tmp_path / "e.zarr").microstructure
    assert grid_of(stored).periodic == (True, True)
    assert grid_of(stored[:, :3]).periodic == (False, True)
    assert grid_of(stored[:, :, 1:]).periodic == (True, False)
    assert Grid.of(stored[:, 0], (5,)).periodic == (True,)
    assert Grid.of(stored[:, 0], (5,)).dims == ("y",)


def test_grid__axes_of_samples_stand_behind_those_of_volumes():
    volume = labelled(X, periodic_axes=["x"])[0]
    grid = Grid.of(volume, (4, 5), first=0)
    assert (grid.dims, grid.periodic) == (("x", "y"), (True, False))
    assert grid == Grid.of(volume.expand_dims("sample"), (4, 5))


# Grid.check_like


def test_grid__other_phases_are_refused():
    seen = grid_of(labelled(X, phases=["a", "b"]))
    for phases in (["b", "a"], ["a", "b", "c"]):
        with pytest.raises(ValueError, match=r"X has the phases .*, fit saw \['a', 'b'\]; number phases alike"):
            grid_of(labelled(X, phases=phases)).check_like(seen)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (labelled(X, step=0.25, periodic_axes=["x"]), r"voxels of 0\.25 µm × 0\.25 µm, fit saw 0\.5 µm × 0\.5 µm"),
        (labelled(X, units="nm", periodic_axes=["x"]), r"voxels of 0\.5 nm × 0\.5 nm, fit saw 0\.5 µm × 0\.5 µm"),
        (labelled(X, periodic_axes=["x", "y"]), r"periodic axes are \['x', 'y'\], fit took \['x'\]"),
        (labelled(X, periodic_axes=[]), r"periodic axes are \[\], fit took \['x'\]"),
    ],
)
def test_grid__other_voxels_and_periodic_axes_are_warned_of(other, message):
    seen = grid_of(labelled(X, periodic_axes=["x"]))
    with pytest.warns(UserWarning, match=message):
        grid_of(other).check_like(seen)


@pytest.mark.parametrize(
    "other",
    [
        labelled(X, periodic_axes=["x"], phases=["a", "b"]),
        labelled(X, step=0.5 * (1 + 1e-9), periodic_axes=["x"], phases=["a", "b"]),
        labelled(X, periodic_axes=["x"]),
        labelled(X, phases=["a", "b"]),
        labelled(X, step=0.25).drop_vars(["x", "y"]),
        labelled(X, step=0.25).drop_vars("x"),
        labelled(X[..., :3]),
    ],
    ids=["equal", "rounding", "no phases", "no periodic axes", "no coordinates", "half of them", "other size"],
)
def test_grid__what_one_side_does_not_say_is_not_compared(other):
    seen = grid_of(labelled(X, periodic_axes=["x"], phases=["a", "b"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grid_of(other).check_like(seen)
        seen.check_like(grid_of(other))
        Grid.of(None, (7,)).check_like(seen)


@pytest.mark.parametrize("said", [[], ["x", "y"]])
def test_grid__periodic_axes_that_fit_was_told_count(said):
    seen = Grid.of(labelled(X, periodic_axes=["x", "y"]), (4, 5), ())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grid_of(labelled(X, periodic_axes=said)).check_like(seen)
    told = Grid.of(None, (4, 5), (0, 1))
    with pytest.warns(UserWarning, match=r"are \['x'\], fit took \['x', 'y'\].* fit with periodic_axes=\(\)"):
        grid_of(labelled(X, periodic_axes=["x"])).check_like(told)


# Samples.of


@pytest.mark.parametrize("kind", ["numpy", "dask", "zarr", "xarray"])
def test_samples__flat_with_size_and_with_like(kind):
    flat = X.reshape(12, -1)
    given = {
        "numpy": lambda: flat,
        "dask": lambda: da.from_array(flat, chunks=(5, 20)),
        "zarr": lambda: zarr.array(flat),
        "xarray": lambda: xr.DataArray(flat, dims=("sample", "voxel"), coords={"sample": range(12)}),
    }[kind]()
    like = Grid.of(None, (4, 5), [1])
    for options in ({"size": (4, 5)}, {"like": like}):
        samples = Samples.of(given, BASIS, **options)
        assert_array_equal(samples.data, X)
        assert samples.is_flat
        assert (len(samples), samples.spatial) == (12, (4, 5))
        assert (samples.labels is None) == (kind != "xarray")
    assert samples.grid.periodic == (False, True)
    assert not Samples.of(X, BASIS, like=like).is_flat
    # Samples of one axis are a matrix anyway.
    assert not Samples.of(given, BASIS, like=Grid.of(None, (20,))).is_flat


def test_samples__flat_labels_keep_what_they_say_of_samples():
    coords = {"sample": range(12), "temperature": ("sample", np.arange(12.0)), "voxel": range(20), "batch": 7}
    attrs = {"periodic_axes": ["y"], "phases": ["a", "b"]}
    flat = xr.DataArray(X.reshape(12, -1), dims=("sample", "voxel"), coords=coords, attrs=attrs)
    samples = Samples.of(flat, BASIS, size=(4, 5))
    assert samples.labels.dims == ("sample", "x", "y")
    assert set(samples.labels.coords) == {"sample", "temperature", "batch"}
    assert (samples.grid.periodic, samples.grid.phases) == ((False, True), ("a", "b"))
    assert samples.attrs == attrs


def test_samples__of_labels():
    array = labelled(X, periodic_axes=["x"], note="kept")
    samples = Samples.of(array, BASIS)
    assert samples.grid == grid_of(array)
    assert set(samples.spatial_coords) == {"x", "y"}
    result = samples.label(np.zeros((12, 3)), dims=("component",), coords={}, name="scores")
    assert (result.dims, result.name) == (("sample", "component"), "scores")
    plain = Samples.of(X, BASIS)
    assert plain.label(array, dims=(), coords={}, name="same") is array
    assert (plain.spatial_coords, plain.attrs) == ({}, {})


def test_samples__like_gives_its_periodic_axes():
    seen = Grid.of(None, (4, 5), [0, 1])
    assert Samples.of(X, BASIS, like=seen).grid.periodic == (True, True)
    assert Samples.of(labelled(X), BASIS, like=seen).grid.periodic == (True, True)


def test_samples__without_a_basis_hold_given_states():
    for dtype, is_complex in ((float, False), (complex, True)):
        fields = np.ones((3, 4, 5, 2), dtype)
        samples = Samples.of(fields, None)
        assert isinstance(samples.basis, GivenStates)
        assert (samples.basis.n_states, samples.basis.is_complex, samples.spatial) == (2, is_complex, (4, 5))
    flat = Samples.of(fields.reshape(3, -1), None, size=(4, 5))
    assert (flat.data.shape, flat.is_flat) == (fields.shape, True)
    line = Samples.of(fields.reshape(3, -1), None, like=Grid.of(None, (20,)))
    assert (line.data.shape, line.is_flat) == ((3, 20, 2), True)


def test_samples__keep_a_copy_of_the_basis():
    basis = PrimitiveBasis(2)
    samples = Samples.of(X, basis)
    basis.n_states = 3
    assert samples.basis.n_states == 2


def test_samples__angles_are_one_more_axis():
    angles = np.zeros((3, 4, 5, 3))
    assert Samples.of(angles, GSHBasis(2)).spatial == (4, 5)
    assert Samples.of(angles.reshape(3, -1), GSHBasis(2), size=(4, 5)).spatial == (4, 5)


def masks():
    whole, shared = labelled(MASK), labelled(MASK)[0]
    flat = MASK.reshape(12, -1)
    return {
        "a mask for each sample": (MASK, MASK),
        "one mask for all": (MASK[0], MASK[0]),
        "flat": (flat, MASK),
        "flat and labelled": (xr.DataArray(flat, dims=("sample", "voxel")), MASK),
        "dims turned": (whole.transpose("y", "x", "sample"), MASK),
        "dims turned, shared": (shared.T, MASK[0]),
        "other names of dims": (xr.DataArray(MASK, dims=("s", "a", "b")), MASK),
        "other names of dims, shared": (xr.DataArray(MASK[0], dims=("a", "b")), MASK[0]),
        "lazy": (da.from_array(MASK, chunks=(5, 4, 5)), MASK),
        "lazy, shared": (da.from_array(MASK[0], chunks=(2, 3)), MASK[0]),
    }


@pytest.mark.parametrize("name", masks())
def test_samples__masks_are_laid_along_the_samples(name):
    mask, expected = masks()[name]
    for given in (labelled(X), xr.DataArray(X.reshape(12, -1), dims=("sample", "voxel"))):
        samples = Samples.of(given, BASIS, size=(4, 5), confidence_index=mask)
        assert_array_equal(samples.confidence, expected)
        assert samples.has_shared_mask == (expected.ndim == 2)
        assert (samples.masks is None) == (expected.ndim == 2)
    own = 0 if samples.has_shared_mask else 20 * 8
    assert samples.sample_bytes == 20 * X.itemsize + own
    assert not Samples.of(X, BASIS).has_shared_mask


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Samples.of(X, 2), TypeError, "basis must be a basis"),
        (lambda: Samples.of(X[0, 0], BASIS), ValueError, "1 to 3 spatial axes"),
        (lambda: Samples.of(np.zeros((2, 3, 3, 3, 3), int), BASIS), ValueError, "1 to 3 spatial axes"),
        (lambda: Samples.of(X[:, :0], BASIS), ValueError, r"X must have voxels along each axis.*\(12, 0, 5\)"),
        (lambda: Samples.of(X.reshape(12, -1), BASIS, size=(4, 4)), ValueError, r"samples of size=\(4, 4\)"),
        (lambda: Samples.of(X, BASIS, size=(5, 4)), ValueError, r"samples of size=\(5, 4\)"),
        (lambda: Samples.of(X, BASIS, confidence_index=MASK[:2]), ValueError, r"shape \(12, 4, 5\), or \(4, 5\)"),
        (lambda: Samples.of(X, BASIS, confidence_index=MASK[0].T), ValueError, r"shape \(12, 4, 5\), or \(4, 5\)"),
        (lambda: Samples.of(X, GSHBasis(2)), ValueError, r"\(n_samples, \*spatial, 3\)"),
        (lambda: Samples.of(labelled(X).T, BASIS), ValueError, r"use X\.transpose\('sample', \.\.\.\)"),
        (lambda: Samples.of(labelled(X)[0], BASIS), ValueError, r"use X\.expand_dims\('sample'\)"),
        (lambda: Samples.of(da.zeros((4, 4), chunks=2), BASIS), ValueError, r"X = X\.rechunk\("),
        (lambda: Samples.of(X[:0], BASIS).require(), ValueError, r"X holds no samples, got shape \(0, 4, 5\)"),
        (lambda: Samples.of(X, BASIS, periodic_axes=2), ValueError, "periodic_axes=2 names an axis outside 0…1"),
    ],
)
def test_samples__raise_on_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_samples__require_a_known_number():
    lazy = da.from_array(X, chunks=(5, 4, 5))
    unknown = Samples.of(lazy[lazy[:, 0, 0] == 0], BASIS)
    with pytest.raises(ValueError, match=r"call X\.compute_chunk_sizes\(\)"):
        unknown.require()
    samples = Samples.of(X, BASIS)
    assert samples.require(12) is samples
    assert len(Samples.of(X[:0], BASIS).require(0)) == 0


# Volume.of


def test_volume__of_labels():
    coords = {"x": ("x", 0.5 * np.arange(5), {"units": "um"})}
    volume = xr.DataArray(X, dims=("z", "y", "x"), coords=coords, attrs={"periodic_axes": ["x"], "phases": ["a", "b"]})
    found = Volume.of(volume, BASIS)
    assert (found.spatial, found.grid.dims, found.grid.steps) == ((12, 4, 5), ("z", "y", "x"), (1.0, 1.0, 0.5))
    assert (found.grid.periodic_axes, found.grid.phases) == ([2], ("a", "b"))
    mask = xr.DataArray(MASK, dims=("z", "y", "x")).transpose("x", "z", "y")
    assert_array_equal(Volume.of(volume, BASIS, confidence_index=mask).confidence, MASK)


def test_volume__without_labels_or_basis():
    found = Volume.of(X, BASIS, periodic_axes=[0])
    assert (found.grid, found.labels, found.confidence) == (Grid.of(None, X.shape, [0]), None, None)
    fields = Volume.of(np.zeros((4, 5, 3), np.float32), None)
    assert isinstance(fields.basis, GivenStates)
    assert (fields.spatial, fields.voxel_bytes) == ((4, 5), 12)
    assert Volume.of(np.zeros((4, 5, 3)), GSHBasis(2), confidence_index=np.ones((4, 5), bool)).voxel_bytes == 25


def test_volume__knows_whether_tasks_can_read_it():
    chunked = da.from_array(zarr.array(X), chunks=3)
    assert Volume.of(X, BASIS).is_stored
    assert Volume.of(zarr.array(X), BASIS).is_stored
    assert Volume.of(chunked, BASIS).is_stored
    assert not Volume.of(chunked + 0, BASIS).is_stored
    assert Volume.of(chunked, BASIS, confidence_index=MASK).is_stored
    assert not Volume.of(chunked, BASIS, confidence_index=da.from_array(MASK) + 0).is_stored


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Volume.of(labelled(X), BASIS), ValueError, "volume must be one volume"),
        (lambda: Volume.of(X[:0], BASIS), ValueError, "volume must have voxels along each axis"),
        (lambda: Volume.of(X, BASIS, confidence_index=MASK[0]), ValueError, "the shape of the volume"),
        (lambda: Volume.of(X, 2), TypeError, "basis must be a basis"),
        (lambda: Volume.of(np.zeros((2, 2, 2, 2)), BASIS), ValueError, "1 to 3 spatial axes"),
    ],
)
def test_volume__raises_on_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


# The models, which all compare the grid of later samples with that of `fit`.

SEEN = {"periodic_axes": ["x", "y"], "phases": ["stiff", "soft"]}


def analysis(samples):
    return MKSStructureAnalysis(BASIS, n_components=2).fit(samples).transform


def homogenization(samples):
    return MKSHomogenizationModel(BASIS, n_components=2).fit(samples, np.arange(12.0)).predict


def localization(samples):
    return MKSLocalizationModel(BASIS).fit(samples, MASK).predict


MODELS = pytest.mark.parametrize("fitted", [analysis, homogenization, localization])


@MODELS
def test_models__refuse_other_phases(fitted):
    predict = fitted(labelled(X, **SEEN))
    with pytest.raises(ValueError, match=r"X has the phases \['soft', 'stiff'\], fit saw \['stiff', 'soft'\]"):
        predict(labelled(X, **SEEN | {"phases": ["soft", "stiff"]}))


@MODELS
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": 0.25}, r"voxels of 0\.25 µm × 0\.25 µm, fit saw 0\.5 µm × 0\.5 µm: a lag of as many voxels"),
        ({"units": "nm"}, r"voxels of 0\.5 nm × 0\.5 nm, fit saw 0\.5 µm × 0\.5 µm"),
        ({"periodic_axes": ["y"]}, r"its periodic axes are \['y'\], fit took \['x', 'y'\]"),
    ],
)
def test_models__warn_of_another_grid_and_treat_samples_alike(fitted, options, message):
    predict = fitted(labelled(X, **SEEN))
    with pytest.warns(UserWarning, match=message) as caught:
        result = predict(labelled(X, **SEEN | options))
    assert {warning.filename for warning in caught} == {__file__}
    assert_array_equal(result, predict(X))


@MODELS
def test_models__compare_nothing_with_what_says_nothing(fitted):
    predict = fitted(labelled(X, **SEEN))
    expected = np.asarray(predict(labelled(X, **SEEN)))
    for silent in (X, xr.DataArray(X, dims=("sample", "x", "y")), labelled(X), da.from_array(X, chunks=(12, 4, 5))):
        assert_array_equal(np.asarray(predict(silent)), expected)
    fitted(X)(labelled(X, step=7.0, units="nm", **SEEN))


def test_models__partial_fit_compares_too():
    model = MKSLocalizationModel(BASIS).partial_fit(labelled(X, **SEEN), MASK)
    with pytest.raises(ValueError, match="number phases alike"):
        model.partial_fit(labelled(X, phases=["soft", "stiff"]), MASK)
    with pytest.warns(UserWarning, match="X has voxels of"):
        model.partial_fit(labelled(X, step=0.25), MASK)
    assert model.n_samples_seen_ == 24
