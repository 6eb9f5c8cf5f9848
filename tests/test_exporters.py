"""Export: what other programs read of the files, and what comes back by import_images."""

import json
import tracemalloc
from xml.etree import ElementTree as ET

import dask
import h5py
import numpy as np
import pytest
import tifffile
import xarray as xr
import zarr
from click.testing import CliRunner
from numpy.testing import assert_allclose, assert_array_equal

from mksdask import (
    MKSHomogenizationModel,
    PrimitiveBasis,
    create_ensemble,
    create_volume,
    open_ensemble,
    open_volume,
    save_model,
)
from mksdask.cli import main
from mksdask.exporters import export
from mksdask.exporters.fields import Exported
from mksdask.importers import import_images
from mksdask.storage.results import materialize

V = (np.arange(7 * 6 * 5) * 11 % 7).astype("u1").reshape(7, 6, 5)
STEPS = (0.25, 0.5, 2.0)
FILES = ("a.zarr", "a.vti", "a.vtkhdf", "a.tif", "a.ome.tif")


def a_volume(folder, values=V, **options):
    n = values.ndim
    create_volume(folder / "v.zarr", values, spacing=STEPS[:n], units="um", chunks=4, **options)
    return folder / "v.zarr"


@pytest.mark.parametrize("values", [V, V[:, :, 0], V.astype("u2"), V.astype("f4") / 7], ids=["3D", "2D", "u2", "f4"])
@pytest.mark.parametrize("name", FILES)
def test_export__comes_back_by_import(tmp_path, name, values):
    store = a_volume(tmp_path, values)
    if values.dtype == "u1":
        store = a_volume(tmp_path, values, phases=list("abcdefg"), mode="w")
    export(store, tmp_path / name)
    ds = import_images(tmp_path / name, tmp_path / "again.zarr", axes="zyx"[-values.ndim :])
    assert_array_equal(ds.microstructure.values, values)
    if values.dtype == "u1" and "tif" not in name:
        assert ds.microstructure.attrs["phases"] == list("abcdefg")
    assert ds.microstructure.dtype == values.dtype
    axes = "xyz"[: values.ndim]
    assert_allclose([float(ds[axis][1] - ds[axis][0]) for axis in axes], STEPS[: values.ndim], rtol=1e-6)
    assert ds.x.attrs["units"] == "um"


def cells_of(image):
    """Arrays of the cells of an image of VTK, (x, y, z, ...)."""
    support = pytest.importorskip("vtk.util.numpy_support")
    shape = [max(1, n - 1) for n in image.GetDimensions()]
    data = image.GetCellData()
    arrays = {}
    for number in range(data.GetNumberOfArrays()):
        array = data.GetArray(number)
        values = support.vtk_to_numpy(array)
        arrays[array.GetName()] = values.reshape(*shape[::-1], -1).transpose(2, 1, 0, 3)
    return arrays


def read_by_vtk(path):
    vtk = pytest.importorskip("vtk", reason="vtk is not installed (extra: dev)")
    reader = vtk.vtkXMLImageDataReader() if path.suffix == ".vti" else vtk.vtkHDFReader()
    reader.SetFileName(str(path))
    reader.Update()
    return reader.GetOutput()


@pytest.mark.parametrize("suffix", [".vti", ".vtkhdf"])
@pytest.mark.parametrize("n_axes", [2, 3])
def test_vtk__reads_values_sizes_and_places(tmp_path, suffix, n_axes):
    values = V if n_axes == 3 else V[..., 0]
    confidence = (np.arange(values.size) / 300).reshape(values.shape)
    store = a_volume(tmp_path, values, confidence_index=confidence)
    export(
        open_volume(store).isel(x=slice(2, None)),
        tmp_path / f"a{suffix}",
        variable=["microstructure", "confidence_index"],
    )
    image = read_by_vtk(tmp_path / f"a{suffix}")
    arrays = cells_of(image)
    assert_array_equal(arrays["microstructure"].reshape(values[2:].shape), values[2:])
    assert_array_equal(arrays["confidence_index"].reshape(values[2:].shape), confidence[2:])
    assert_allclose(image.GetSpacing()[:n_axes], STEPS[:n_axes])
    # The first voxel that is exported has its middle at x = 0.5.
    bounds = image.GetCell(0).GetBounds()
    middle = [0.5 * (bounds[2 * axis] + bounds[2 * axis + 1]) for axis in range(n_axes)]
    assert_allclose(middle, [0.5, 0, 0][:n_axes], atol=1e-12)
    if suffix == ".vti":
        assert image.GetFieldData().GetAbstractArray("units").GetValue(0) == "um"


@pytest.mark.parametrize("suffix", [".vti", ".vtkhdf"])
def test_vtk__fields_have_components_and_ensembles_arrays(tmp_path, suffix):
    strain = np.random.default_rng(0).random((2, 7, 6, 5, 3)).astype("f4")
    dims = ("sample", "x", "y", "z", "component")
    labelled = xr.DataArray(
        strain, dims=dims, coords={"component": ["xx", "yy", "xy"], "sample": ["a", "b"]}, name="strain"
    )
    export(labelled, tmp_path / f"a{suffix}")
    image = read_by_vtk(tmp_path / f"a{suffix}")
    arrays = cells_of(image)
    assert_array_equal(arrays["strain a"], strain[0])
    assert_array_equal(arrays["strain b"], strain[1])
    if suffix == ".vti":
        assert [image.GetCellData().GetArray("strain a").GetComponentName(i) for i in range(3)] == ["xx", "yy", "xy"]
    export(labelled, tmp_path / f"b{suffix}", select={"sample": "b", "component": "yy"})
    assert_array_equal(cells_of(read_by_vtk(tmp_path / f"b{suffix}"))["strain"][..., 0], strain[1, ..., 1])
    ds = import_images(tmp_path / f"b{suffix}", tmp_path / "again.zarr")
    assert_array_equal(ds.microstructure, strain[1, ..., 1])
    with pytest.raises(ValueError, match="there is no 'zz' along 'component'; there are xx, yy, xy"):
        export(labelled, tmp_path / f"c{suffix}", select={"component": "zz"})
    with pytest.raises(ValueError, match="select names the axis 'time'"):
        export(labelled, tmp_path / f"c{suffix}", select={"time": 0})


def test_export__tells_quantity_components_and_unit(tmp_path):
    stress = np.random.default_rng(0).random((2, 4, 3, 2, 6)).astype("f4")
    names = ["xx", "yy", "zz", "yz", "xz", "xy"]
    field = xr.DataArray(
        stress,
        dims=("sample", "x", "y", "z", "component"),
        coords={"component": names, "sample": ["a", "b"]},
        name="prediction",
        attrs={"long_name": "stress", "units": "MPa"},
    )
    export(field, tmp_path / "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.imagej_metadata["Info"] == "stress / MPa"
        assert file.imagej_metadata["Labels"] == [f"{j} {name}" for j in "ab" for _ in range(2) for name in names]
        assert_array_equal(file.asarray()[1, 0, 3], stress[1, :, :, 0, 3].T)
    export(field, tmp_path / "a.ome.tif")
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as file:
        assert 'Name="stress / MPa"' in file.ome_metadata
    export(field, tmp_path / "a.zarr", select={"sample": "a"})
    assert zarr.open_group(tmp_path / "a.zarr").attrs["ome"]["multiscales"][0]["name"] == "stress / MPa"
    export(field, tmp_path / "a.vtkhdf")
    with h5py.File(tmp_path / "a.vtkhdf") as file:
        attributes = file["VTKHDF/CellData/stress b"].attrs
        assert (attributes["units"], list(attributes["components"])) == ("MPa", names)
    export(field, tmp_path / "a.vti")
    image = read_by_vtk(tmp_path / "a.vti")
    array = image.GetCellData().GetArray("stress b")
    assert array.GetComponentName(3) == "yz"
    assert array.GetInformation().Get(array.UNITS_LABEL()) == "MPa"
    assert_array_equal(cells_of(image)["stress b"], stress[1])
    export(field, tmp_path / "b.vti", select={"sample": "b", "component": "yz"})
    ds = import_images(tmp_path / "b.vti", tmp_path / "again.zarr")
    assert_array_equal(ds.microstructure, stress[1, ..., 3])


# Where the first voxel of files of several programs lies, along x, y, z.
PLACE = (-3.0, 12.5, 100.0)


def itk_image(path):
    itk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed (extra: writers)")
    image = itk.GetImageFromArray(V.T)
    image.SetSpacing(STEPS)
    # In the frame of NIfTI, ITK counts x and y in the other direction.
    is_nifti = path.name.endswith(".nii.gz")
    image.SetDirection([-1, 0, 0, 0, -1, 0, 0, 0, 1] if is_nifti else [1, 0, 0, 0, 1, 0, 0, 0, 1])
    image.SetOrigin([-PLACE[0], -PLACE[1], PLACE[2]] if is_nifti else PLACE)
    itk.WriteImage(image, str(path), useCompression=True)


def xarray_image(path):
    coords = {
        axis: first + step * np.arange(n) for axis, first, step, n in zip("xyz", PLACE, STEPS, V.shape, strict=True)
    }
    found = xr.DataArray(V, coords, dims=("x", "y", "z"), name="scan").transpose("z", "y", "x").to_dataset()
    # The values along an axis that falls are turned round.
    found = found.isel(y=slice(None, None, -1))
    if path.suffix == ".zarr":
        found.to_zarr(path, consolidated=False)
    else:
        found.to_netcdf(path, engine="h5netcdf" if "4" in path.name else "scipy")


def dream3d_image(path):
    with h5py.File(path, "w") as file:
        group = file.create_group("DataStructure/Image")
        group.attrs["_SPACING"], group.attrs["_DIMENSIONS"] = STEPS, V.shape
        group.attrs["_ORIGIN"] = [first - 0.5 * step for first, step in zip(PLACE, STEPS, strict=True)]
        group["Cell Data/FeatureIds"] = V.T[..., None]


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.nrrd", itk_image),
        ("a.mha", itk_image),
        ("a.nii.gz", itk_image),
        ("x.zarr", xarray_image),
        ("3.nc", xarray_image),
        ("4.nc", xarray_image),
        ("a.dream3d", dream3d_image),
    ],
)
def test_origins__of_files_come_back_by_export(tmp_path, name, write):
    write(tmp_path / name)
    stored = import_images(tmp_path / name, tmp_path / "a.zarr", crop={"x": (2, None)})
    first = (PLACE[0] + 2 * STEPS[0], *PLACE[1:])
    assert_array_equal(stored.microstructure, V[2:])
    assert_allclose(stored.microstructure.attrs["origin"], first)
    assert float(stored.x[0]) == 0
    for new in ("a.vti", "a.vtkhdf", "a.ome.zarr", "a.tif", "a.ome.tif"):
        export(tmp_path / "a.zarr", tmp_path / new)
        again = import_images(tmp_path / new, tmp_path / "again.zarr", mode="w")
        assert_array_equal(again.microstructure, V[2:])
        assert_allclose(again.microstructure.attrs["origin"], first)
    # A part of a volume that is stored anew lies where it was, and an ensemble lies nowhere.
    part = stored.microstructure[:, 3:]
    create_volume(tmp_path / "part.zarr", part)
    assert_allclose(
        open_volume(tmp_path / "part.zarr").microstructure.attrs["origin"], first + 3 * np.eye(3)[1] * STEPS
    )
    windows = import_images(tmp_path / name, tmp_path / "windows.zarr", window=2)
    assert "origin" not in windows.microstructure.attrs


@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif"])
def test_origins__of_tiff_files_are_what_imagej_and_ome_read(tmp_path, name):
    X = np.random.default_rng(0).random((2, 4, 6, 5, 3)).astype("f4")
    places = {
        axis: (axis, first + step * np.arange(n), {"units": "um"})
        for axis, first, step, n in zip("xyz", PLACE, STEPS, X.shape[1:4], strict=True)
    }
    export(xr.DataArray(X, places, ("sample", "x", "y", "z", "component"), name="strain"), tmp_path / name)
    with tifffile.TiffFile(tmp_path / name) as file:
        if name == "a.tif":
            found = file.imagej_metadata
            assert_allclose([found[f"{axis}origin"] for axis in "xyz"], [12, -25, -50])
            return
        planes = ET.fromstring(file.ome_metadata).findall("{*}Image/{*}Pixels/{*}Plane")
        assert len(planes) == len(file.pages) == 2 * 5 * 3
        for plane in planes:
            at = [float(plane.get(f"Position{axis}")) for axis in "XYZ"]
            assert_allclose(at, [*PLACE[:2], PLACE[2] + 2.0 * int(plane.get("TheZ"))])
            assert plane.get("PositionZUnit") == "µm"


def test_origins__are_in_the_unit_of_the_store(tmp_path):
    a_volume(tmp_path)
    volume = open_volume(tmp_path / "v.zarr").microstructure
    export(volume.assign_attrs(origin=[1.0, 0.0, 2.0]), tmp_path / "a.vti")
    stored = import_images(tmp_path / "a.vti", tmp_path / "a.zarr", units="nm")
    assert_allclose(stored.microstructure.attrs["origin"], [1000, 0, 2000], atol=1e-9)
    assert_allclose(stored.x[1], 250)


def test_statistics__keep_lag_0_at_its_place(tmp_path):
    create_volume(tmp_path / "v.zarr", V % 2, spacing=2.0, units="um", phases=("pore", "grain"))
    S2 = open_volume(tmp_path / "v.zarr").mks.correlate(cutoff=2)
    stored = materialize(S2.chunk(), tmp_path / "S2.zarr", progress=False)
    assert stored.dims[-1] == "pair"
    export(tmp_path / "S2.zarr", tmp_path / "S2.vti", select={"pair": "pore–pore"})
    image = read_by_vtk(tmp_path / "S2.vti")
    (values,) = cells_of(image).values()
    cell = image.FindCell([0, 0, 0], None, 0, 1e-6, *_found())
    assert_allclose(values.transpose(2, 1, 0, 3).ravel()[cell], float((V % 2 == 0).mean()), rtol=1e-6)
    export(S2, tmp_path / "S2.ome.zarr")
    level = zarr.open_group(tmp_path / "S2.ome.zarr", mode="r")
    image = level.attrs["ome"]["multiscales"][0]
    assert [axis["name"] for axis in image["axes"]] == ["c", "z", "y", "x"]
    assert image["datasets"][0]["coordinateTransformations"][1]["translation"] == [0, -4, -4, -4]
    assert_array_equal(level["0"][:], S2.transpose("pair", "lag_z", "lag_y", "lag_x"))
    assert level.attrs["names"]["components"] == ["pore–pore", "pore–grain"]


def _found():
    """Places for what VTK returns beside the number of a cell."""
    vtk = pytest.importorskip("vtk")
    return vtk.reference(0), [0.0] * 3, [0.0] * 8


@pytest.mark.parametrize("n_axes", [2, 3])
def test_tiff__of_ensembles_and_components(tmp_path, n_axes):
    X = np.random.default_rng(0).integers(0, 2, (4, 6, 5, 3)[: n_axes + 1], dtype="u1")
    create_ensemble(tmp_path / "X.zarr", X, spacing=STEPS[:n_axes], units="nm", chunks=2)
    export(tmp_path / "X.zarr", tmp_path / "X.tif")
    with tifffile.TiffFile(tmp_path / "X.tif") as file:
        assert file.is_imagej
        assert file.series[0].axes == "TZYX"[: 1 + (n_axes == 3)] + "YX"
        assert_array_equal(file.asarray(), np.moveaxis(X, 1, -1) if n_axes == 2 else X.transpose(0, 3, 2, 1))
        assert file.imagej_metadata["unit"] == "nm"
        assert file.imagej_metadata.get("spacing") == (2.0 if n_axes == 3 else None)
    strain = np.random.default_rng(0).random((*(6, 5, 4, 3)[:n_axes], 3))
    labelled = xr.DataArray(strain, dims=(*"xyz"[:n_axes], "component"), coords={"component": ["xx", "yy", "xy"]})
    export(labelled, tmp_path / "strain.tif")
    with tifffile.TiffFile(tmp_path / "strain.tif") as file:
        assert file.is_ome
        assert file.series[0].axes == "ZCYX"[n_axes == 2 :]
        turned = labelled.transpose(*(["z"] if n_axes == 3 else []), "component", "y", "x")
        assert_array_equal(file.asarray(), turned)
        assert 'Name="xy"' in file.ome_metadata
    with pytest.raises(ValueError, match="holds int64, and TIFF files of ImageJ and OME hold"):
        export(labelled.astype("i8"), tmp_path / "b.tif")


def test_ome_zarr__levels_are_every_second_voxel(tmp_path):
    values = np.random.default_rng(0).integers(0, 9, (300, 40, 20), dtype="u2")
    create_volume(tmp_path / "v.zarr", values, spacing=STEPS, units="um", chunks=64, phases=list("abcdefghi"))
    export(tmp_path / "v.zarr", tmp_path / "a.ome.zarr")
    group = zarr.open_group(tmp_path / "a.ome.zarr", mode="r")
    ome = group.attrs["ome"]
    assert ome["version"] == "0.5"
    (image,) = ome["multiscales"]
    assert image["axes"][2] == {"name": "x", "type": "space", "unit": "micrometer"}
    assert len(image["datasets"]) == 2
    for level, each in enumerate(image["datasets"]):
        step = 2**level
        assert_array_equal(group[each["path"]][:], values.T[::step, ::step, ::step])
        assert each["coordinateTransformations"][0]["scale"] == [2.0 * step, 0.5 * step, 0.25 * step]
        assert group[each["path"]].metadata.dimension_names == ("z", "y", "x")
    assert group.attrs["names"]["phases"] == list("abcdefghi")
    ds = import_images(tmp_path / "a.ome.zarr", tmp_path / "again.zarr")
    assert_array_equal(ds.microstructure, values)


def test_ome_zarr__of_ensembles(tmp_path):
    X = np.random.default_rng(0).integers(0, 2, (6, 5, 4, 3), dtype="u1")
    create_ensemble(tmp_path / "X.zarr", X, chunks=4)
    export(open_ensemble(tmp_path / "X.zarr"), tmp_path / "a.zarr")
    group = zarr.open_group(tmp_path / "a.zarr", mode="r")
    image = group.attrs["ome"]["multiscales"][0]
    assert [axis["name"] for axis in image["axes"]] == ["sample", "z", "y", "x"]
    assert "unit" not in image["axes"][1]
    assert_array_equal(import_images(tmp_path / "a.zarr", tmp_path / "again.zarr").microstructure, X)
    assert_array_equal(group["0"][:], X.transpose(0, 3, 2, 1))
    both = xr.DataArray(np.zeros((2, 3, 3, 2)), dims=("sample", "x", "y", "component"))
    with pytest.raises(ValueError, match="has samples and components"):
        export(both, tmp_path / "b.zarr")


def test_ome_zarr__is_valid_for_its_own_libraries(tmp_path):
    ngff = pytest.importorskip("ngff_zarr", reason="ngff-zarr is not installed")
    export(a_volume(tmp_path), tmp_path / "a.ome.zarr")
    image = ngff.from_ngff_zarr(str(tmp_path / "a.ome.zarr"), validate=True).images[0]
    assert_array_equal(np.asarray(image.data), V.T)
    assert image.scale == {"x": 0.25, "y": 0.5, "z": 2.0}
    assert image.axes_units["x"] == "micrometer"


@pytest.mark.parametrize("name", FILES)
def test_export__replaces_only_its_own_kind(tmp_path, name):
    store, path = a_volume(tmp_path), tmp_path / name
    path.write_bytes(b"precious")
    for mode in ("w-", "w"):
        with pytest.raises(FileExistsError):
            export(store, path, mode=mode)
    assert path.read_bytes() == b"precious"
    path.unlink()
    export(store, path)
    with pytest.raises(FileExistsError):
        export(store, path)
    export(open_volume(store).microstructure + 1, path, mode="w")
    ds = import_images(path, tmp_path / "again.zarr", axes="zyx")
    assert_array_equal(ds.microstructure, V + 1)
    broken = xr.DataArray(open_volume(store).microstructure.data.map_blocks(_fail, dtype="u1"), dims=("x", "y", "z"))
    with pytest.raises(RuntimeError, match="no more"):
        export(broken, path, mode="w")
    # What was there stays, and nothing is left beside it.
    assert_array_equal(import_images(path, tmp_path / "b.zarr", axes="zyx").microstructure, V + 1)
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(["again.zarr", "b.zarr", name, "v.zarr"])


def _fail(block):
    msg = "no more"
    raise RuntimeError(msg)


def test_export__raises_on_what_files_do_not_hold(tmp_path):
    store = a_volume(tmp_path)
    with pytest.raises(ValueError, match=r"must end with one of \.zarr, \.vti"):
        export(store, tmp_path / "a.png")
    with pytest.raises(ValueError, match="lies in or around"):
        export(store, store / "a.vti")
    with pytest.raises(TypeError, match="complex128, which image files do not hold; export its real part"):
        export(xr.DataArray(np.zeros((2, 2), complex), dims=("x", "y")), tmp_path / "a.vti")
    with pytest.raises(TypeError, match="whose axes have names"):
        export(V, tmp_path / "a.vti")
    with pytest.raises(ValueError, match="no axis x, y or z"):
        export(xr.DataArray(V, dims=("a", "b", "c")), tmp_path / "a.vti")
    with pytest.raises(ValueError, match=r"the axes \['component', 'pair'\], of which files hold one"):
        export(xr.DataArray(V, dims=("x", "component", "pair")), tmp_path / "a.vti")
    with pytest.raises(ValueError, match="the store has no variable 'phase'; it holds microstructure"):
        export(store, tmp_path / "a.vti", variable="phase")
    with pytest.raises(ValueError, match="is not on this machine"):
        export(store, "memory://a.vti")
    with pytest.raises(ValueError, match="mode must be 'w-'"):
        export(store, tmp_path / "a.vti", mode="a")
    line = xr.DataArray(V[0, 0], dims="x", name="line")
    with pytest.raises(ValueError, match="variable='b' names a variable of a store, and source is one array"):
        export(line, tmp_path / "a.vti", variable="b")
    with pytest.raises(ValueError, match="line has one axis, and a TIFF file holds images"):
        export(line, tmp_path / "a.tif")
    with pytest.raises(ValueError, match="line has one axis, and an OME-Zarr image has two or three"):
        export(line, tmp_path / "a.zarr")
    several = xr.Dataset({"a": line, "b": line, "c": line.rename(x="y")})
    with pytest.raises(ValueError, match="variable must name what is exported; the store holds a, b, c"):
        export(several, tmp_path / "a.vti")
    with pytest.raises(ValueError, match=r"the variables \['a', 'c'\] lie on different axes"):
        export(several, tmp_path / "a.vti", variable=["a", "c"])
    with pytest.raises(ValueError, match=r"a TIFF file holds one array, and there are \['a', 'b'\]"):
        export(several, tmp_path / "a.tif", variable=["a", "b"])
    with pytest.raises(ValueError, match=r"an OME-Zarr image holds one array, got \['a', 'b'\]"):
        export(several, tmp_path / "a.zarr", variable=["a", "b"])
    many = xr.DataArray(np.zeros((1001, 1, 1)), dims=("sample", "x", "y"))
    with pytest.raises(ValueError, match=r"there are 1001 arrays, more than 1000 in one file; export some samples"):
        export(many, tmp_path / "a.vti")
    assert [each.name for each in tmp_path.iterdir()] == ["v.zarr"]


@pytest.mark.parametrize("limit", [1, 100, 10**9])
def test_slabs__of_any_thickness(tmp_path, limit, monkeypatch):
    monkeypatch.setattr("mksdask.exporters.fields.SLAB_BYTES", limit)
    field = Exported.of(open_volume(a_volume(tmp_path)).microstructure, {})
    slabs = list(field.slabs())
    assert_array_equal(np.concatenate(slabs), V.T)
    assert all(slab.flags.c_contiguous for slab in slabs)
    monkeypatch.setattr("mksdask.exporters.fields.PIECE", 2)
    assert_array_equal(np.concatenate(list(field.slabs())), V.T)
    export(tmp_path / "v.zarr", tmp_path / "a.vtkhdf")
    with h5py.File(tmp_path / "a.vtkhdf") as file:
        assert_array_equal(file["VTKHDF/CellData/microstructure"], V.T)


def test_export__orientations(tmp_path):
    angles = np.random.default_rng(0).random((6, 5, 3)).astype("f4")
    create_volume(tmp_path / "v.zarr", angles, spacing=(1.0, 2.0))
    for name in FILES:
        export(tmp_path / "v.zarr", tmp_path / name)
    assert_array_equal(cells_of(read_by_vtk(tmp_path / "a.vti"))["microstructure"][:, :, 0], angles)
    assert_array_equal(tifffile.imread(tmp_path / "a.tif"), angles.transpose(2, 1, 0))
    assert json.loads((tmp_path / "a.zarr" / "zarr.json").read_text())["attributes"]["ome"]["version"] == "0.5"


@pytest.mark.parametrize("name", ["a.vti", "a.vtkhdf", "a.tif"])
def test_export__memory_does_not_grow_with_the_volume(tmp_path, name, monkeypatch):
    monkeypatch.setattr("mksdask.exporters.fields.SLAB_BYTES", 2**18)
    create_volume(tmp_path / "v.zarr", np.zeros((128, 128, 1024), dtype="u1"), chunks=(128, 128, 16))
    volume = open_volume(tmp_path / "v.zarr").microstructure
    with dask.config.set(scheduler="single-threaded"):
        tracemalloc.start()
        export(volume, tmp_path / name)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # The volume takes 16 MiB.
    assert peak < 4 * 2**20


@pytest.mark.slow
def test_command__exports_stores(tmp_path):
    store = a_volume(tmp_path, phases=list("abcdefg"))
    run = CliRunner().invoke
    result = run(main, ["export", str(store), str(tmp_path / "out" / "a.vti"), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["file"] == str(tmp_path / "out" / "a.vti")
    again = import_images(tmp_path / "out" / "a.vti", tmp_path / "again.zarr")
    assert_array_equal(again.microstructure, V)
    result = run(main, ["export", str(store), str(tmp_path / "out" / "a.vti")])
    assert (result.exit_code, "exists" in result.output) == (1, True)
    create_ensemble(tmp_path / "X.zarr", V[None], spacing=STEPS)
    result = run(main, ["export", str(tmp_path / "X.zarr"), str(tmp_path / "a.zarr"), "--select", "sample=0"])
    assert result.exit_code == 0, result.output
    assert_array_equal(zarr.open_array(tmp_path / "a.zarr" / "0", mode="r")[:], V.T)
    result = run(main, ["export", str(tmp_path / "X.zarr"), str(tmp_path / "b.vti"), "--select", "sample"])
    assert (result.exit_code, "is not written as axis=label" in result.output) == (2, True)


def test_export__of_a_model_is_refused(tmp_path):
    X = np.random.default_rng(0).integers(0, 2, (6, 4, 4))
    save_model(MKSHomogenizationModel(PrimitiveBasis(2), n_components=2).fit(X, np.arange(6.0)), tmp_path / "m.model")
    with pytest.raises(ValueError, match=r"m\.model holds a model, which has no fields"):
        export(tmp_path / "m.model", tmp_path / "m.vti")
