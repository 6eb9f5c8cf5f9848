"""The same data as NumPy, dask, zarr or xarray, and through `.mks`, give the same answer."""

from dataclasses import dataclass

import dask.array as da
import h5py
import numpy as np
import pytest
import tifffile
import xarray as xr
import zarr
from click.testing import CliRunner
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from mksdask import (
    FourierBasis,
    GivenStates,
    LegendreBasis,
    MKSHomogenizationModel,
    MKSLocalizationModel,
    MKSStructureAnalysis,
    PrimitiveBasis,
    open_volume,
    sample_windows,
)
from mksdask.cli import main
from mksdask.descriptors import ShapeDescriptors
from mksdask.stats import (
    TwoPointStatistics,
    autocorrelate,
    correlate,
    correlate_volume,
    integral_range,
    radial_average,
    specific_surface,
)
from tests.helpers import sample_chunks

SHAPES = [(5,), (8,), (4, 5), (6, 3), (3, 4, 5)]
BASES = [PrimitiveBasis(2), LegendreBasis(2, domain=(0, 1)), FourierBasis(3, domain=(0, 2)), None, GivenStates(2)]
KINDS = ["dask", "zarr", "xarray", "lazy xarray"]


def as_kind(array, kind, rows, dims):
    """The array as another kind, cut into chunks of some rows along its first axis."""
    lazy = da.from_array(array, chunks=(rows, *array.shape[1:]))
    return {
        "dask": lambda: lazy,
        "zarr": lambda: zarr.create_array({}, data=np.ascontiguousarray(array), chunks=(max(rows), *array.shape[1:])),
        "xarray": lambda: xr.DataArray(array, dims=dims),
        "lazy xarray": lambda: xr.DataArray(lazy, dims=dims),
    }[kind]()


@dataclass
class Case:
    """Samples as NumPy and as another kind, with the options of calls."""

    data: np.ndarray
    kind: str
    rows: tuple[int, ...]
    basis: object
    periodic: list[int]

    @property
    def spatial(self):
        return self.data.shape[1 : self.data.ndim - (self.basis is None or isinstance(self.basis, GivenStates))]

    @property
    def line(self):
        """The size of samples with one axis, which arrays without dims must be given with."""
        return self.spatial if len(self.spatial) == 1 and "xarray" not in self.kind else None

    @property
    def dims(self):
        return ("sample", *"xyz"[: len(self.spatial)], *("state",) * (self.data.ndim - 1 - len(self.spatial)))

    def like(self, array, dims=None):
        """Another array for the same samples, as the same kind."""
        return as_kind(array, self.kind, self.rows, dims or self.dims[: array.ndim])

    @property
    def given(self):
        return self.like(self.data)

    def check_kind(self, result):
        """The result is lazy for lazy samples, and labelled for labelled ones."""
        assert isinstance(result, xr.DataArray) == ("xarray" in self.kind)
        data = result.data if isinstance(result, xr.DataArray) else result
        assert isinstance(data, da.Array) == (self.kind != "xarray")


@st.composite
def cases(draw, shapes=SHAPES, bases=BASES, least=2):
    n, spatial, basis = draw(st.integers(least, least + 4)), draw(st.sampled_from(shapes)), draw(st.sampled_from(bases))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    data = rng.integers(0, 2, (n, *spatial)).astype(draw(st.sampled_from(["uint8", "int64", "float32", "float64"])))
    if basis is None or isinstance(basis, GivenStates):
        data = np.stack([1 - data, data], axis=-1)
    periodic = draw(st.lists(st.sampled_from(range(len(spatial))), unique=True))
    return Case(data, draw(st.sampled_from(KINDS)), draw(sample_chunks(n)), basis, sorted(periodic))


@settings(max_examples=30, deadline=None)
@given(cases(), st.sampled_from(["none", "own", "shared"]), st.booleans())
def test_statistics__are_the_same_to_the_last_bit(case, mask, flat):
    rng = np.random.default_rng(0)
    confidence = rng.random((len(case.data), *case.spatial)) > 0.2
    masks = {
        "none": (None, None),
        "own": (confidence, case.like(confidence)),
        "shared": (confidence[0], confidence[0]),
    }[mask]
    options = {"periodic_axes": case.periodic, "cutoff": 1}
    for function in (correlate, autocorrelate):
        expected = function(case.data, case.basis, size=case.spatial, confidence_index=masks[0], **options)
        found = function(case.given, case.basis, size=case.line, confidence_index=masks[1], **options)
        case.check_kind(found)
        assert_array_equal(found, expected)
    rows = case.data.reshape(len(case.data), -1)
    transformer = TwoPointStatistics(case.basis, flatten=flat, **options)
    expected = transformer.fit(case.data, size=case.spatial).transform(case.data)
    assert_array_equal(transformer.fit(case.given, size=case.line).transform(case.given), expected)
    if len(case.spatial) > 1:
        whole = correlate(case.data, case.basis, **options)
        given = case.like(rows, ("sample", "voxel"))
        assert_array_equal(correlate(given, case.basis, size=case.spatial, **options), whole)


@settings(max_examples=12, deadline=None)
@given(cases(shapes=[(4, 5), (3, 4, 5)], bases=[PrimitiveBasis(2)]))
def test_accessor__does_what_functions_do(case):
    options = {"correlations": [(1, 1)], "dtype": "float64"}
    expected = correlate(case.data, case.basis, periodic_axes=case.periodic, **options)
    labelled = xr.DataArray(case.given, dims=case.dims) if "xarray" not in case.kind else case.given
    labelled.attrs["periodic_axes"] = [case.dims[1 + axis] for axis in case.periodic]
    dataset = xr.Dataset({"microstructure": labelled})
    for owner in (labelled, dataset):
        f = owner.mks.correlate(case.basis, **options)
        assert_array_equal(f, expected)
        n = {"n_spatial": len(case.spatial)}
        assert_allclose(f.mks.radial_average(), radial_average(expected, **n), rtol=1e-12)
        assert_allclose(f.mks.specific_surface(), specific_surface(expected, **n), rtol=1e-12)
        assert_allclose(f.mks.integral_range(), integral_range(expected, **n), rtol=1e-9, atol=1e-9)
        assert np.isnan(f.mks.integral_range()[..., f.state_1 != f.state_2]).all()


@settings(max_examples=12, deadline=None)
@given(cases(shapes=[(4, 5), (3, 4, 5)], bases=[PrimitiveBasis(2), LegendreBasis(2, domain=(0, 1)), None]))
def test_volumes__are_the_same(case):
    # Samples in 2D are taken as one volume in 3D. Of samples in 3D, the first is the volume.
    volume = case.data if len(case.spatial) == 2 else case.data[0]
    rows = case.rows if len(case.spatial) == 2 else (1,) * len(volume)
    given = as_kind(volume, case.kind, rows, ("x", "y", "z", *("state",) * (case.basis is None)))
    expected = correlate_volume(volume, case.basis, cutoff=1, dtype="float64")
    assert_allclose(correlate_volume(given, case.basis, cutoff=1, dtype="float64"), expected, atol=1e-13)
    if case.basis is not None:
        assert_array_equal(sample_windows(given, size=2, n=3, seed=0), sample_windows(volume, size=2, n=3, seed=0))


@settings(max_examples=10, deadline=None)
@given(cases(least=5), st.booleans())
def test_linkages__are_the_same(case, flat):
    y = np.arange(len(case.data)) % 3 + np.linspace(0.0, 1.0, len(case.data))
    size = case.spatial if flat and len(case.spatial) > 1 else None
    data = case.data if size is None else case.data.reshape(len(case.data), -1)
    given = case.like(data, case.dims if size is None else ("sample", "voxel"))
    options = {"n_components": 2, "periodic_axes": case.periodic, "dtype": "float64"}
    analysis = MKSStructureAnalysis(case.basis, **options)
    expected = analysis.fit_transform(data, size=case.spatial)
    again = MKSStructureAnalysis(case.basis, **options)
    tolerance = 1e-6 * max(1e-3, abs(expected).max())
    # Where eigenvalues are close to each other, components may turn. What they span does not.
    assert_allclose(gram(again.fit_transform(given, size=size or case.line)), gram(expected), atol=tolerance)
    case.check_kind(again.transform(given))
    assert_allclose(again.transform(given), np.asarray(again.transform(data)), atol=tolerance)
    linkage, other = (MKSHomogenizationModel(case.basis, degree=1, **options) for _ in range(2))
    linkage.fit(data, y, size=case.spatial)
    other.fit(given, case.like(y, ("sample",)), size=size or case.line)
    assert_allclose(other.predict(given), other.predict(data), atol=1e-8)
    assert_allclose(other.predict(given), linkage.predict(data), atol=1e-5)


def gram(scores):
    values = np.asarray(scores)
    return values @ values.T


@settings(max_examples=12, deadline=None)
@given(cases(least=3), st.booleans())
def test_localization__is_the_same(case, flat):
    y = np.random.default_rng(0).normal(size=(len(case.data), *case.spatial))
    size = case.spatial if flat and len(case.spatial) > 1 else None
    data, responses = case.data, y
    dims, y_dims = case.dims, case.dims[: y.ndim]
    if size is not None:
        data, responses = data.reshape(len(data), -1), y.reshape(len(y), -1)
        dims = y_dims = ("sample", "voxel")
    expected = MKSLocalizationModel(case.basis).fit(data, responses, size=case.spatial)
    given = case.like(data, dims)
    found = MKSLocalizationModel(case.basis).fit(given, case.like(responses, y_dims), size=size or case.line)
    assert_allclose(found.coef_, expected.coef_, atol=1e-9)
    predicted = found.predict(given)
    case.check_kind(predicted)
    assert_allclose(predicted, expected.predict(data), atol=1e-9)
    score = found.score(given, case.like(responses, y_dims))
    assert_allclose(score, expected.score(data, responses), rtol=1e-9)


@settings(max_examples=10, deadline=None)
@given(cases(shapes=[(4, 5), (3, 4, 5)], bases=[PrimitiveBasis(2)]))
def test_descriptors__are_the_same(case):
    shape = ShapeDescriptors(2, periodic_axes=case.periodic)
    data, given = case.data.astype("uint8"), case.like(case.data.astype("uint8"))
    expected = shape.fit_transform(data)
    found = shape.fit(given).transform(given)
    case.check_kind(found)
    assert_array_equal(found, expected)
    assert_array_equal(PrimitiveBasis(2).discretize(given), PrimitiveBasis(2).discretize(data))


def written(array, folder, kind):
    """Write a volume (x, y, z) as another program would, and return the path."""
    path = folder / f"scan.{kind}"
    if kind == "npy":
        np.save(path, array)
    elif kind == "tif":
        tifffile.imwrite(path, array.transpose(2, 1, 0), metadata={"axes": "ZYX"}, imagej=True)
    elif kind == "h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("scan", data=array, chunks=(4, 4, 4), compression="gzip")
    elif kind == "nc":
        xr.DataArray(array, dims=("x", "y", "z"), name="scan").to_netcdf(path, engine="h5netcdf")
    else:
        zarr.create_array(path, data=array, chunks=(4, 4, 4))
    return path


@pytest.mark.parametrize("kind", ["npy", "tif", "h5", "nc", "zarr"])
def test_files__through_importers_and_the_command_are_the_same(tmp_path, client, kind):
    array = np.random.default_rng(5).integers(0, 2, (9, 7, 6)).astype(np.uint8)
    source, store, out = written(array, tmp_path, kind), tmp_path / "rock.zarr", tmp_path / "out.zarr"
    axes = () if kind in ("tif", "nc") else ("--axes", "xyz")
    on = ("--scheduler", client.scheduler.address)
    for line in (
        ("import", source, store, "--phases", "0:pore,1:grain", *axes, *on),
        ("stats", store, out, "--cutoff", "2", "--periodic", "x,z", *on),
    ):
        result = CliRunner().invoke(main, [*map(str, line)])
        assert result.exit_code == 0, result.output
    imported = open_volume(store).microstructure
    assert_array_equal(imported, array)
    # The statistics of a volume are sums over tiles, which the limit of memory decides.
    options = {"cutoff": 2, "periodic_axes": [0, 2], "correlations": [(0, 0), (0, 1)]}
    found = xr.open_zarr(out).correlations
    assert_allclose(found, correlate_volume(array, PrimitiveBasis(2), **options), atol=1e-6)
    assert_allclose(found, correlate(array[None], PrimitiveBasis(2), **options)[0], atol=1e-6)
    assert_allclose(found, open_volume(store).mks.correlate(**options), atol=1e-6)
