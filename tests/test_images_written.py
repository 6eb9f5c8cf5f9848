"""Files that the writers of each format made: the axes, sizes, units, packing and values that they state come back."""

import importlib
import warnings
import zipfile

import h5py
import numcodecs
import numpy as np
import pytest
import xarray as xr
import zarr
from numpy.testing import assert_allclose, assert_array_equal
from scipy.io import netcdf_file

from mksdask import GSHBasis
from mksdask.importers import AssumedWarning, import_images, sources
from mksdask.importers.image_files import open_source
from mksdask.importers.sources import Choice
from mksdask.stats import correlate_volume

# The voxels of a file, with the axes z, y, x, and values that tell their place.
V = np.arange(60, dtype="u1").reshape(2, 5, 6)
STEPS = (0.25, 0.5, 2.0)


@pytest.fixture(autouse=True)
def small_slabs(monkeypatch):
    monkeypatch.setattr(sources, "SLAB_BYTES", 30)


def writer(name):
    """A package that writes a format, or skip where it is not installed."""
    return pytest.importorskip(name, reason=f"{name} is not installed (extra: writers)")


def check(stored, values, steps=None, units="voxel"):
    """The store holds values with the axes z, y, x of a file, with these voxel sizes."""
    assert_array_equal(stored.microstructure, np.asarray(values).T)
    if steps is not None:
        assert_allclose([stored[axis].attrs["spacing"] for axis in "xyz"[: len(steps)]], steps)
    assert stored.x.attrs["units"] == units


# NRRD.


@pytest.mark.parametrize("name", ["a.nrrd", "a.nhdr"])
@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2", "ascii"])
@pytest.mark.parametrize("dtype", ["u1", "<i2", ">u2", "f4", ">f8"])
def test_nrrd__of_pynrrd(tmp_path, name, encoding, dtype):
    nrrd = writer("nrrd")
    header = {"encoding": encoding, "spacings": STEPS, "units": ["um", "um", "um"]}
    if name == "a.nhdr" and encoding == "ascii":
        pytest.skip("pynrrd writes no detached text")
    nrrd.write(str(tmp_path / name), V.T.astype(dtype), header, detached_header=name == "a.nhdr")
    check(import_images(tmp_path / name, tmp_path / "a.zarr"), V, STEPS, "um")


@pytest.mark.parametrize("is_compressed", [False, True])
def test_nrrd__of_itk(tmp_path, is_compressed):
    itk = writer("SimpleITK")
    image = itk.GetImageFromArray(V.astype("u2"))
    image.SetSpacing(STEPS)
    itk.WriteImage(image, str(tmp_path / "a.nrrd"), useCompression=is_compressed)
    check(import_images(tmp_path / "a.nrrd", tmp_path / "a.zarr"), V, STEPS, "unit")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_nifti__of_itk(tmp_path, name):
    writer("nibabel")
    itk = writer("SimpleITK")
    image = itk.GetImageFromArray(V.astype("i2"))
    image.SetSpacing(STEPS)
    # ITK turns x and y round, because it counts them in the other direction.
    image.SetDirection([-1, 0, 0, 0, -1, 0, 0, 0, 1])
    itk.WriteImage(image, str(tmp_path / name))
    check(import_images(tmp_path / name, tmp_path / "a.zarr"), V, STEPS, "mm")


def test_nrrd__space_directions_time_and_channels(tmp_path):
    nrrd = writer("nrrd")
    header = {"space directions": np.diag(STEPS), "space": "left-posterior-superior", "space units": ["mm"] * 3}
    nrrd.write(str(tmp_path / "a.nrrd"), V.T, header)
    check(import_images(tmp_path / "a.nrrd", tmp_path / "a.zarr"), V, STEPS, "mm")
    nrrd.write(str(tmp_path / "b.nrrd"), V.T, header | {"space directions": -np.diag(STEPS)})
    with pytest.warns(AssumedWarning, match="directions of the axes zyx left out, which the file turns or mirrors"):
        check(import_images(tmp_path / "b.nrrd", tmp_path / "b.zarr"), V, STEPS, "mm")
    both = np.stack([V, V + 1]).T
    nrrd.write(str(tmp_path / "c.nrrd"), both, {"kinds": ["domain", "domain", "domain", "list"]})
    with pytest.raises(ValueError, match="holds 2 channels; choose one of them by channel=, from 0 to 1"):
        import_images(tmp_path / "c.nrrd", tmp_path / "c.zarr")
    check(import_images(tmp_path / "c.nrrd", tmp_path / "c.zarr", channel=1), V + 1)
    with pytest.raises(ValueError, match="holds 2 channels, so channel=2 must lie within 0 and 1"):
        import_images(tmp_path / "c.nrrd", tmp_path / "d.zarr", channel=2)
    nrrd.write(str(tmp_path / "t.nrrd"), np.stack([V, V + 1], axis=-1).T, {"kinds": ["time"] + ["domain"] * 3})
    check(import_images(tmp_path / "t.nrrd", tmp_path / "t.zarr", time=1), V + 1)
    stored = import_images(tmp_path / "c.nrrd", tmp_path / "s.zarr", axes="szyx")
    assert_array_equal(stored.microstructure, both.transpose(3, 0, 1, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b[:-1], "has .* bytes, but 6 × 5 × 2 values"),
        (lambda b: b.replace(b"sizes: 6 5 2", b"sizes: 1000000 1000000 1000000"), "1000000 × 1000000 × 1000000 values"),
        (lambda b: b.replace(b"sizes: 6 5 2", b"sizes: 6 5"), "expected up to 5 positive ones"),
        (lambda b: b.replace(b"sizes: 6 5 2", b"sizes: six 5 2"), "expected numbers"),
        (lambda b: b.replace(b"type: uint8", b"type: block"), "expected integers or real numbers"),
        (lambda b: b.replace(b"encoding: raw", b"encoding: hex"), "packed by 'hex'"),
        (lambda b: b.replace(b"dimension: 3\n", b""), "the header has no dimension"),
        (lambda b: b"MMMM" + b[4:], "is no NRRD file"),
        (lambda b: b.replace(b"type: uint8", b"type: uint16"), "does not state endian"),
        (lambda b: b.replace(b"encoding: raw", b"encoding: raw\nline skip: 2"), "lines .* are not skipped"),
    ],
)
def test_nrrd__broken(tmp_path, change, message):
    writer("nrrd").write(str(tmp_path / "a.nrrd"), V.T, {"encoding": "raw"})
    (tmp_path / "a.nrrd").write_bytes(change((tmp_path / "a.nrrd").read_bytes()))
    with pytest.raises(ValueError, match=rf"a\.nrrd.*{message}"):
        import_images(tmp_path / "a.nrrd", tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr").exists()


def test_nrrd__labels_and_values_at_the_end(tmp_path):
    writer("nrrd").write(str(tmp_path / "a.nrrd"), V.T, {"encoding": "raw", "labels": ["Y", "X", "Z"]})
    head, values = (tmp_path / "a.nrrd").read_bytes().split(b"\n\n")
    (tmp_path / "a.nrrd").write_bytes(head + b"\nbyte skip: -1\n\nnot yet" + values)
    source = open_source(tmp_path / "a.nrrd")
    assert (source.axes, source.assumed) == ("zxy", ())
    assert_array_equal(source.data, V)


def test_nrrd__values_elsewhere_by_request(tmp_path):
    nrrd = writer("nrrd")
    (tmp_path / "a").mkdir()
    nrrd.write(str(tmp_path / "a" / "a.nhdr"), V.T, {"encoding": "raw"})
    (tmp_path / "a" / "a.raw").rename(tmp_path / "a.raw")
    text = (tmp_path / "a" / "a.nhdr").read_text()
    (tmp_path / "a" / "a.nhdr").write_text(text.replace("a.raw", "../a.raw"))
    with pytest.raises(ValueError, match="outside the folder of the file"):
        import_images(tmp_path / "a" / "a.nhdr", tmp_path / "a.zarr")
    check(import_images(tmp_path / "a" / "a.nhdr", tmp_path / "a.zarr", follow_links=True), V)


@pytest.mark.parametrize("listed", [True, False])
def test_nrrd__slices_in_files_of_their_own(tmp_path, listed):
    for number, plane in enumerate(V):
        (tmp_path / f"s{number:02}.raw").write_bytes(plane.tobytes())
    files = "LIST\ns00.raw\ns01.raw" if listed else "s%02d.raw 0 1 1"
    head = f"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 6 5 2\nencoding: raw\ndata file: {files}\n"
    (tmp_path / "a.nhdr").write_text(head)
    check(import_images(tmp_path / "a.nhdr", tmp_path / "a.zarr"), V)


# MetaImage.


@pytest.mark.parametrize("name", ["a.mha", "a.mhd"])
@pytest.mark.parametrize("is_compressed", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u4", "f4", "f8"])
def test_metaimage__of_itk(tmp_path, name, is_compressed, dtype):
    itk = writer("SimpleITK")
    image = itk.GetImageFromArray(V.astype(dtype))
    image.SetSpacing(STEPS)
    itk.WriteImage(image, str(tmp_path / name), useCompression=is_compressed)
    check(import_images(tmp_path / name, tmp_path / "a.zarr"), V, STEPS, "unit")


def test_metaimage__turned_flat_and_with_channels(tmp_path):
    itk = writer("SimpleITK")
    image = itk.GetImageFromArray(V)
    image.SetDirection([-1, 0, 0, 0, 1, 0, 0, 0, 1])
    itk.WriteImage(image, str(tmp_path / "a.mha"))
    with pytest.warns(AssumedWarning, match="turns or mirrors in space"):
        check(import_images(tmp_path / "a.mha", tmp_path / "a.zarr"), V, units="unit")
    itk.WriteImage(itk.GetImageFromArray(V[0]), str(tmp_path / "b.mha"))
    check(import_images(tmp_path / "b.mha", tmp_path / "b.zarr"), V[0], units="unit")
    both = itk.GetImageFromArray(np.stack([V, V + 1], axis=-1), isVector=True)
    itk.WriteImage(both, str(tmp_path / "c.mha"))
    with pytest.raises(ValueError, match="holds 2 channels"):
        import_images(tmp_path / "c.mha", tmp_path / "c.zarr")
    check(import_images(tmp_path / "c.mha", tmp_path / "c.zarr", channel=1), V + 1, units="unit")
    itk.WriteImage(both, str(tmp_path / "d.mha"), useCompression=True)
    check(import_images(tmp_path / "d.mha", tmp_path / "d.zarr", channel=1), V + 1, units="unit")
    # Files of big-endian machines, with units.
    head = "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = True\nDimSize = 6 5 2\n"
    head += "DistanceUnits = um\nElementSpacing = 0.25 0.5 2\nElementType = MET_USHORT\nElementDataFile = LOCAL\n"
    (tmp_path / "e.mha").write_bytes(head.encode() + V.astype(">u2").tobytes())
    assert itk.GetArrayFromImage(itk.ReadImage(str(tmp_path / "e.mha"))).tolist() == V.tolist()
    check(import_images(tmp_path / "e.mha", tmp_path / "e.zarr"), V, STEPS, "um")
    # The values may be said to end the file.
    (tmp_path / "f.mha").write_bytes(
        head.replace("ElementType", "HeaderSize = -1\nElementType").encode() + V.astype(">u2").tobytes()
    )
    check(import_images(tmp_path / "f.mha", tmp_path / "f.zarr"), V, STEPS, "um")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b[:-1], "bytes, but 6 × 5 × 2 values"),
        (
            lambda b: b.replace(b"DimSize = 6 5 2", b"DimSize = 1000000 1000000 1000000"),
            "1000000 × 1000000 × 1000000 values",
        ),
        (lambda b: b.replace(b"MET_UCHAR", b"MET_STRING"), "expected one of MET_CHAR"),
        (lambda b: b.replace(b"NDims = 3\n", b""), "the header has no NDims"),
        (lambda b: b"\0" + b[-60:], "has lines such as NDims = 3"),
        (
            lambda b: b.replace(b"CompressedData = False", b"CompressedData = True"),
            "cannot be read .*check that the file is whole",
        ),
    ],
)
def test_metaimage__broken(tmp_path, change, message):
    itk = writer("SimpleITK")
    itk.WriteImage(itk.GetImageFromArray(V), str(tmp_path / "a.mha"))
    (tmp_path / "a.mha").write_bytes(change((tmp_path / "a.mha").read_bytes()))
    with pytest.raises(ValueError, match=rf"a\.mha.*{message}"):
        import_images(tmp_path / "a.mha", tmp_path / "a.zarr")


# NIfTI.


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i2", "f4"])
def test_nifti__of_nibabel(tmp_path, name, dtype):
    nibabel = writer("nibabel")
    header = nibabel.Nifti1Header(endianness=">" if dtype[0] == ">" else "<")
    header.set_xyzt_units("micron")
    header.set_data_dtype(dtype)
    image = nibabel.Nifti1Image(V.T.astype(dtype), np.diag([*STEPS, 1]), header)
    image.header.set_xyzt_units("micron")
    image.to_filename(tmp_path / name)
    stored = import_images(tmp_path / name, tmp_path / "a.zarr")
    check(stored, V, STEPS, "um")
    assert stored.microstructure.dtype == np.dtype(dtype).newbyteorder("=")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_nifti__scaled_with_times(tmp_path, name):
    nibabel = writer("nibabel")
    image = nibabel.Nifti1Image(np.stack([V.T, V.T + 1], axis=-1).astype("i2"), np.eye(4))
    image.header.set_slope_inter(0.5, 10)
    image.to_filename(tmp_path / name)
    expected = np.asarray(nibabel.load(tmp_path / name).dataobj)[..., 1]
    with pytest.raises(ValueError, match="holds 2 times; choose one of them by time="):
        import_images(tmp_path / name, tmp_path / "a.zarr")
    found = import_images(tmp_path / name, tmp_path / "a.zarr", time=1).microstructure
    assert found.dtype == np.float32
    assert_allclose(found, expected)


def test_nifti__broken(tmp_path):
    nibabel = writer("nibabel")
    nibabel.Nifti1Image(V.T, np.eye(4)).to_filename(tmp_path / "a.nii")
    content = (tmp_path / "a.nii").read_bytes()
    for number, part in enumerate((content[:-1], content[:200], b"")):
        (tmp_path / "a.nii").write_bytes(part)
        with pytest.raises(ValueError, match=r"a\.nii"):
            import_images(tmp_path / "a.nii", tmp_path / f"{number}.zarr")
    nibabel.Nifti1Image(V.T, np.eye(4)).to_filename(tmp_path / "a.nii.gz")
    content = (tmp_path / "a.nii.gz").read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"a\.nii\.gz"):
        import_images(tmp_path / "a.nii.gz", tmp_path / "b.zarr")
    (tmp_path / "a.tar.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.tar\.gz is packed by gzip"):
        import_images(tmp_path / "a.tar.gz", tmp_path / "c.zarr")


def test_nifti__of_surfaces_is_refused(tmp_path):
    nibabel = writer("nibabel")
    axes = (nibabel.cifti2.SeriesAxis(0, 1, 3), nibabel.cifti2.ScalarAxis(["a", "b"]))
    nibabel.Cifti2Image(np.zeros((3, 2), "f4"), axes).to_filename(tmp_path / "a.dscalar.nii")
    with pytest.raises(ValueError, match=r"a\.dscalar\.nii is of kind Cifti2Image, which is no image of voxels"):
        import_images(tmp_path / "a.dscalar.nii", tmp_path / "a.zarr")


# netCDF.


def dataset(**encoding):
    coords = {axis: np.arange(n) * step for axis, n, step in zip("zyx", V.shape, STEPS[::-1], strict=True)}
    found = xr.DataArray(V.astype("f8"), dims=("z", "y", "x"), coords=coords, name="scan")
    for axis in "xyz":
        found[axis].attrs["units"] = "micrometer"
    return found


@pytest.mark.parametrize(
    ("engine", "kind"), [("scipy", "NETCDF3_64BIT"), ("h5netcdf", "NETCDF4"), ("netcdf4", "NETCDF4")]
)
def test_netcdf__of_xarray_packed_and_with_gaps(tmp_path, engine, kind):
    if engine == "netcdf4":
        writer("netCDF4")
    values = dataset()
    values[0, 1, 2] = np.nan
    packed = {"dtype": "i2", "scale_factor": 0.5, "add_offset": 3.0, "_FillValue": -99}
    values.to_netcdf(tmp_path / "a.nc", engine=engine, format=kind, encoding={"scan": packed})
    stored = import_images(tmp_path / "a.nc", tmp_path / "a.zarr")
    assert_allclose(stored.microstructure, values.T)
    assert_array_equal(stored.confidence_index, ~np.isnan(values.T))
    assert stored.x.attrs == {"units": "um", "spacing": 0.25}
    phases = import_images(tmp_path / "a.nc", tmp_path / "b.zarr", thresholds=20)
    expected = np.where(np.isnan(values.T), 0, values.T >= 20)
    assert_array_equal(phases.microstructure, expected)
    assert_array_equal(phases.confidence_index, ~np.isnan(values.T))
    cut = import_images(tmp_path / "a.nc", tmp_path / "c.zarr", thresholds=20, window=(3, 2, 1))
    assert cut.confidence_index.sum() == cut.confidence_index.size - 1
    with pytest.raises(ValueError, match="otsu=2 needs an image without voxels that were not measured"):
        import_images(tmp_path / "a.nc", tmp_path / "d.zarr", otsu=2)


@pytest.mark.parametrize(("engine", "kind"), [("scipy", "NETCDF3_CLASSIC"), ("netcdf4", "NETCDF4")])
def test_netcdf__capital_names_channels_and_times(tmp_path, engine, kind):
    writer("netCDF4") if engine == "netcdf4" else None
    values = xr.DataArray(np.stack([V, V + 1]).astype("i4"), dims=("time", "Z", "Y", "X"), name="scan")
    values.to_netcdf(tmp_path / "a.nc", engine=engine, format=kind)
    with pytest.raises(ValueError, match="holds 2 times; choose one of them by time="):
        import_images(tmp_path / "a.nc", tmp_path / "a.zarr")
    check(import_images(tmp_path / "a.nc", tmp_path / "a.zarr", time=1), V + 1)
    with pytest.raises(ValueError, match="has no axis of channels, so channel=0 says nothing"):
        import_images(tmp_path / "a.nc", tmp_path / "b.zarr", time=1, channel=0)


def test_netcdf__labels_with_a_fill_value_and_uneven_coordinates(tmp_path):
    nc = writer("netCDF4")
    with nc.Dataset(tmp_path / "a.nc", "w") as file:
        for axis, n in zip("zyx", V.shape, strict=True):
            file.createDimension(axis, n)
        file.createVariable("x", "f8", ("x",))[:] = [0, 1, 2, 3, 4, 9]
        labels = file.createVariable("labels", "i4", ("z", "y", "x"), fill_value=-1, zlib=True)
        labels[:] = np.ma.masked_equal(V, 7)
    with pytest.warns(AssumedWarning) as told:
        stored = import_images(tmp_path / "a.nc", tmp_path / "a.zarr")
    assert "spacing 1.8 along x assumed, the mean of steps from 1 to 5; say spacing=" in str(told[0].message)
    assert "spacing 1.8 along yz assumed, as along x; say spacing=" in str(told[1].message)
    assert stored.microstructure.dtype == np.int32
    assert_array_equal(stored.confidence_index, V.T != 7)
    assert_array_equal(stored.microstructure.where(stored.confidence_index == 1, 7), V.T)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        import_images(tmp_path / "a.nc", tmp_path / "b.zarr", spacing=1)


def test_netcdf3__header_of_more_than_the_file_holds(tmp_path):
    with netcdf_file(tmp_path / "a.nc", "w") as file:
        for axis in "zyx":
            file.createDimension(axis, 4)
        file.createVariable("scan", "i2", ("z", "y", "x"))[:] = 1
    content = (tmp_path / "a.nc").read_bytes()
    (tmp_path / "a.nc").write_bytes(content[:-20])
    with pytest.raises(ValueError, match=r"a\.nc"):
        import_images(tmp_path / "a.nc", tmp_path / "a.zarr")


def test_netcdf__axes_that_grow(tmp_path):
    with netcdf_file(tmp_path / "a.nc", "w") as file:
        for axis, n in zip("zyx", (None, 5, 6), strict=True):
            file.createDimension(axis, n)
        file.createVariable("scan", "i2", ("z", "y", "x"))[:2] = V
        file.createVariable("other", "f8", ("z",))[:2] = [0, 0]
    check(import_images(tmp_path / "a.nc", tmp_path / "a.zarr"), V)


def test_netcdf__unsigned_numbers(tmp_path):
    values = np.arange(200, 260).reshape(2, 5, 6).astype("u1")
    source = xr.DataArray(values.view("i1"), dims=("z", "y", "x"), name="scan", attrs={"_Unsigned": "true"})
    source.to_netcdf(tmp_path / "a.nc", engine="scipy")
    assert_array_equal(xr.load_dataset(tmp_path / "a.nc", engine="scipy").scan, values)
    stored = import_images(tmp_path / "a.nc", tmp_path / "a.zarr")
    check(stored, values)
    assert stored.microstructure.dtype == np.uint8


# HDF5.


def test_hdf5__truth_values_and_images_of_one_slice(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["mask"] = V > 3
    found = import_images(tmp_path / "a.h5", tmp_path / "a.zarr", axes="zyx")
    check(found, V > 3)
    assert found.microstructure.dtype == bool
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["image"] = V[:1]
        for dim, label in zip(file["image"].dims, "zyx", strict=True):
            dim.label = label
    with pytest.warns(AssumedWarning, match="axes z of length 1 dropped; say axes="):
        check(import_images(tmp_path / "b.h5", tmp_path / "b.zarr"), V[0])


def test_hdf5__labels_of_dimensions_and_axistags(tmp_path):
    tags = (
        '{"axes": [{"key": "t", "typeFlags": 8}, {"key": "z", "typeFlags": 2, "resolution": 2.0}, {"key": "y", '
        '"typeFlags": 2, "resolution": 0.5}, {"key": "x", "typeFlags": 2, "resolution": 0.25}, {"key": "c"}]}'
    )
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["exported_data"] = np.stack([V, V + 1], axis=-1)[None]
        file["exported_data"].attrs["axistags"] = tags
    with pytest.raises(ValueError, match="holds 2 channels"):
        import_images(tmp_path / "a.h5", tmp_path / "a.zarr")
    check(import_images(tmp_path / "a.h5", tmp_path / "a.zarr", channel=1), V + 1, STEPS, "unit")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["data"] = V
        for dim, label in zip(file["data"].dims, "ZYX", strict=True):
            dim.label = label
    check(import_images(tmp_path / "b.h5", tmp_path / "b.zarr"), V)


def test_hdf5__element_size_um(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = V
        file["data"].attrs["element_size_um"] = STEPS[::-1]
    with pytest.warns(AssumedWarning, match="axes zyx assumed"):
        check(import_images(tmp_path / "a.h5", tmp_path / "a.zarr"), V, STEPS, "um")
    # The sizes stand in the order of the axes of the file.
    stored = import_images(tmp_path / "a.h5", tmp_path / "b.zarr", axes="xyz")
    assert [stored[axis].attrs["spacing"] for axis in "xyz"] == [*STEPS[::-1]]
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["data"] = V
        file["data"].attrs["voxel_size"] = STEPS
    with pytest.warns(AssumedWarning) as told:
        import_images(tmp_path / "c.h5", tmp_path / "c.zarr")
    assert "the attributes voxel_size follow no standard; say spacing=" in str(told[1].message)


def test_hdf5__nexus(tmp_path):
    with h5py.File(tmp_path / "a.nxs", "w") as file:
        file.attrs["default"] = "entry"
        entry = file.create_group("entry")
        entry.attrs["default"] = "data"
        data = entry.create_group("data")
        data.attrs["signal"], data.attrs["axes"] = "scan", ["z", "y", "x"]
        data["scan"], data["error"] = V, V
        for axis, n, step in zip("zyx", V.shape, STEPS[::-1], strict=True):
            data[axis] = np.arange(n) * step
            data[axis].attrs["units"] = "um"
    check(import_images(tmp_path / "a.nxs", tmp_path / "a.zarr"), V, STEPS, "um")
    # Early files name all axes in one text, at the array.
    for number, text in enumerate(("z:y:x", "zyx")):
        with h5py.File(tmp_path / "b.nxs", "w") as file:
            file["entry/scan"] = V
            file["entry/scan"].attrs["axes"] = text
        check(import_images(tmp_path / "b.nxs", tmp_path / f"b{number}.zarr"), V)


@pytest.mark.parametrize("version", [6, 8])
def test_dream3d__numbers_and_orientations(tmp_path, version):
    angles = np.random.default_rng(0).uniform(0, 3, (*V.shape, 3)).astype("f4")
    phases = (V > 3).astype("i4")
    with h5py.File(tmp_path / "a.dream3d", "w") as file:
        root = "DataContainers/Image" if version == 6 else "DataStructure/Image"
        cells = file.create_group(f"{root}/Cell Data")
        cells["FeatureIds"], cells["EulerAngles"], cells["Phases"] = V[..., None], angles, phases[..., None]
        cells["Quats"] = np.zeros((*V.shape, 4), "f4")
        file[f"{root}/Features/Volumes"] = np.zeros((9, 2), "f4")
        if version == 6:
            file[f"{root}/_SIMPL_GEOMETRY/SPACING"] = np.array(STEPS, "f4")
            file[f"{root}/_SIMPL_GEOMETRY/DIMENSIONS"] = np.array(V.shape[::-1], "u8")
        else:
            file[root].attrs["_SPACING"] = np.array(STEPS, "f4")
            file[root].attrs["_DIMENSIONS"] = np.array(V.shape[::-1], "u8")
    check(import_images(tmp_path / "a.dream3d", tmp_path / "a.zarr", dataset="FeatureIds"), V, STEPS, "unit")
    stored = import_images(tmp_path / "a.dream3d", tmp_path / "b.zarr", dataset="EulerAngles")
    assert stored.microstructure.dims == ("x", "y", "z", "angle")
    assert_array_equal(stored.confidence_index, phases.T)
    expected = np.where(phases[..., None] > 0, angles, np.nan).transpose(2, 1, 0, 3)
    assert_array_equal(stored.microstructure, expected)
    with pytest.raises(ValueError, match="holds orientations, which have no grey levels"):
        import_images(tmp_path / "a.dream3d", tmp_path / "c.zarr", dataset="EulerAngles", otsu=2)
    statistics = correlate_volume(
        stored.microstructure, GSHBasis(4), cutoff=1, confidence_index=stored.confidence_index
    )
    assert np.isfinite(statistics).all()
    with pytest.raises(ValueError, match="has 4 components in each voxel"):
        import_images(tmp_path / "a.dream3d", tmp_path / "c.zarr", dataset="Quats")
    with pytest.raises(ValueError, match=r"needs dataset=; there are: .*FeatureIds"):
        import_images(tmp_path / "a.dream3d", tmp_path / "c.zarr")
    with h5py.File(tmp_path / "a.dream3d", "a") as file:
        file[f"{root}/Cell Data/EulerAngles"][...] = np.rad2deg(angles) + 10
    with pytest.raises(ValueError, match="expected radians within ±2π"):
        import_images(tmp_path / "a.dream3d", tmp_path / "d.zarr", dataset="EulerAngles")


def write_hyperspy(path, axes):
    """Write what HyperSpy writes, in HDF5 or in zarr of format 2, of which its writer needs an earlier library."""
    is_zarr = path.suffix == ".zspy"
    root = zarr.open_group(path, mode="w", zarr_format=2) if is_zarr else h5py.File(path, "w")
    group = root.create_group("Experiments").create_group("__unnamed__")
    if is_zarr:
        group.create_array(
            "data",
            shape=V.shape,
            dtype=V.dtype,
            chunks=V.shape,
            compressors=numcodecs.Blosc("zstd", clevel=1, shuffle=1),
            chunk_key_encoding={"name": "v2", "separator": "/"},
        )[:] = V
    else:
        group["data"] = V
    for number, axis in enumerate(axes):
        said = group.create_group(f"axis-{number}")
        if "axis" in axis:
            values = np.array(axis["axis"])
            if is_zarr:
                said.create_array("axis", data=values)
            else:
                said["axis"] = values
        said.attrs.update({"is_binned": False, "navigate": not number} | {k: v for k, v in axis.items() if k != "axis"})
    if not is_zarr:
        root.close()


@pytest.mark.parametrize("name", ["a.hspy", "a.hdf5", "a.zspy"])
def test_hyperspy__axes(tmp_path, name):
    axes = [
        {"_type": "UniformDataAxis", "name": axis, "scale": step, "offset": first, "size": n, "units": "µm"}
        for axis, step, first, n in zip("zyx", STEPS[::-1], (0.0, 7.0, 0.0), V.shape, strict=True)
    ]
    write_hyperspy(tmp_path / name, axes)
    stored = import_images(tmp_path / name, tmp_path / "a.zarr")
    check(stored, V, STEPS, "um")
    assert stored.microstructure.attrs["origin"] == [0, 7, 0]
    # An uneven axis has coordinates in the place of a step.
    axes[2] = {"_type": "DataAxis", "name": "x", "units": "µm", "axis": [1.0, 2.0, 3.0, 4.0, 5.0, 7.0]}
    write_hyperspy(tmp_path / name, axes)
    with pytest.warns(
        AssumedWarning, match=r"spacing 1.2 along x assumed, the mean of steps from 1 to 2; say spacing="
    ):
        stored = import_images(tmp_path / name, tmp_path / "b.zarr")
    check(stored, V, (1.2, *STEPS[1:]), "um")
    assert_allclose(stored.microstructure.attrs["origin"], [1, 7, 0])
    # What is not known has a word of its own.
    for unknown in ("_None_", "<undefined>"):
        nothing = {"name": unknown, "units": unknown, "scale": 1.0, "offset": 0.0}
        write_hyperspy(tmp_path / name, [nothing | {"size": n} for n in V.shape])
        with pytest.warns(AssumedWarning, match="axes xyz assumed; say axes=") as told:
            stored = import_images(tmp_path / name, tmp_path / "c.zarr", mode="w")
        assert len(told) == 1
        assert_array_equal(stored.microstructure, V)


@pytest.mark.filterwarnings("ignore::mksdask.importers.AssumedWarning")
@pytest.mark.parametrize("dtype", ["u1", "i4", "f8", "?"])
def test_matlab__of_hdf5storage(tmp_path, dtype):
    found = {"volume": V.T.astype(dtype), "name": "scan", "more": {"inner": V}}
    options = {"format": "7.3", "oned_as": "column", "store_python_metadata": False}
    writer("hdf5storage").savemat(str(tmp_path / "a.mat"), found, **options)
    check(import_images(tmp_path / "a.mat", tmp_path / "a.zarr", dataset="volume", phases="values"), V.astype(dtype))
    with pytest.raises(ValueError, match="needs dataset=; there are: more/inner, volume"):
        import_images(tmp_path / "a.mat", tmp_path / "b.zarr")


def test_matlab__axes_are_reversed(tmp_path):
    # MATLAB writes an array M(x, y, z) with the axes z, y, x.
    with h5py.File(tmp_path / "a.mat", "w", userblock_size=512) as file:
        file["M"] = V
        file["M"].attrs["MATLAB_class"] = np.bytes_(b"uint8")
    with (tmp_path / "a.mat").open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64")
    with pytest.warns(AssumedWarning, match="axes zyx assumed, because MATLAB stores its axes"):
        check(import_images(tmp_path / "a.mat", tmp_path / "a.zarr"), V)
    (tmp_path / "b.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    with pytest.raises(ValueError, match=r"b\.mat is not a file of MATLAB 7\.3; save it in MATLAB"):
        import_images(tmp_path / "b.mat", tmp_path / "b.zarr")


FILTERS = ["Blosc", "Blosc2", "Zstd", "LZ4", "Bitshuffle", "BZip2"]


@pytest.mark.parametrize("name", FILTERS)
def test_hdf5__filters_of_hdf5plugin(tmp_path, name):
    plugin = writer("hdf5plugin")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("data", data=V, chunks=(1, 5, 6), **getattr(plugin, name)())
    check(import_images(tmp_path / "a.h5", tmp_path / "a.zarr", axes="zyx"), V)


def test_hdf5__filters_that_are_not_installed(tmp_path, monkeypatch):
    plugin = writer("hdf5plugin")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("data", data=V, chunks=(1, 5, 6), **plugin.Blosc2())
    monkeypatch.setattr("h5py.h5z.filter_avail", lambda code: False)
    with pytest.raises(
        ImportError, match=r"packed by the filter Blosc2 \(number 32026\).*pip install 'mksdask\[hdf5\]'"
    ):
        import_images(tmp_path / "a.h5", tmp_path / "a.zarr", axes="zyx")


def test_hdf5__damaged_chunk_names_the_file(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("data", data=V, chunks=(1, 5, 6), compression="gzip")
        place = data.id.get_chunk_info(1)
    content = bytearray((tmp_path / "a.h5").read_bytes())
    content[place.byte_offset : place.byte_offset + place.size] = bytes(place.size)
    (tmp_path / "a.h5").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.h5: rows 1 to 1 cannot be read .*check that the file is whole"):
        import_images(tmp_path / "a.h5", tmp_path / "a.zarr", axes="zyx")


def test_dream3d__orientations_of_one_slice(tmp_path):
    angles = np.random.default_rng(0).uniform(0, 3, (1, 5, 6, 3)).astype("f4")
    with h5py.File(tmp_path / "a.dream3d", "w") as file:
        file["DataStructure/Image/Cell Data/Euler Angles"] = angles
        file["DataStructure/Image"].attrs.update({"_SPACING": STEPS, "_DIMENSIONS": [6, 5, 1]})
    with pytest.warns(AssumedWarning, match="axes z of length 1 dropped; say axes="):
        stored = import_images(tmp_path / "a.dream3d", tmp_path / "a.zarr")
    assert stored.microstructure.dims == ("x", "y", "angle")
    assert_array_equal(stored.microstructure, angles[0].transpose(1, 0, 2))
    assert "confidence_index" not in stored


# NumPy.


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["u1", ">i4", "<f8"])
def test_npy__orders(tmp_path, order, dtype):
    np.save(tmp_path / "a.npy", np.asarray(V.astype(dtype), order=order))
    check(import_images(tmp_path / "a.npy", tmp_path / "a.zarr", axes="zyx"), V)


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_npy__headers_of_more_than_the_file_holds(tmp_path, suffix):
    np.save(tmp_path / "a.npy", V)
    content = (tmp_path / "a.npy").read_bytes()
    wrong = content.replace(b"(2, 5, 6), }" + b" " * 9, b"(1000000, 1000000), }")
    assert len(wrong) == len(content)
    (tmp_path / "a.npy").write_bytes(wrong)
    if suffix == "npz":
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.write(tmp_path / "a.npy", "arr_0.npy")
    with pytest.raises(ValueError, match=rf"a\.{suffix}"):
        import_images(tmp_path / f"a.{suffix}", tmp_path / "a.zarr")


# zarr.


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("name", ["a.zarr", "plain"])
def test_zarr__of_xarray(tmp_path, zarr_format, name):
    values = dataset().rename(x="X", y="Y", z="Z")
    values.to_dataset().to_zarr(tmp_path / name, zarr_format=zarr_format, consolidated=False)
    check(import_images(tmp_path / name, tmp_path / "out.zarr"), V, STEPS, "um")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr__of_xarray_packed_and_with_gaps(tmp_path, zarr_format):
    values = dataset()
    values[0, 1, 2] = np.nan
    packed = {"dtype": "i2", "scale_factor": 0.5, "add_offset": 3.0, "_FillValue": -99}
    options = {"zarr_format": zarr_format, "consolidated": False, "encoding": {"scan": packed}}
    values.to_dataset().to_zarr(tmp_path / "a.zarr", **options)
    stored = import_images(tmp_path / "a.zarr", tmp_path / "b.zarr")
    assert_allclose(stored.microstructure, values.T)
    assert_array_equal(stored.confidence_index, ~np.isnan(values.T))


def test_zarr__attributes_that_follow_no_standard_are_told(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=V, attributes={"resolution": [4, 4, 40]}, dimension_names=tuple("zyx"))
    with pytest.warns(AssumedWarning, match="spacing 1 assumed, because the attributes resolution follow no standard"):
        check(import_images(tmp_path / "a.zarr", tmp_path / "b.zarr"), V)
    check(import_images(tmp_path / "a.zarr", tmp_path / "c.zarr", spacing=4, units="nm"), V, (4, 4, 4), "nm")


def test_zarr__nested_groups_and_times(tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_array("labels/seg/0", data=V)
    group.create_array("raw/0", data=np.stack([V, V + 1]), dimension_names=("t", "z", "y", "x"))
    with pytest.raises(ValueError, match=r"needs dataset=; there are: labels/seg/0, raw/0"):
        import_images(tmp_path / "a.zarr", tmp_path / "b.zarr")
    check(import_images(tmp_path / "a.zarr", tmp_path / "b.zarr", dataset="labels/seg/0", axes="zyx"), V)
    with pytest.raises(ValueError, match="holds 2 times"):
        import_images(tmp_path / "a.zarr", tmp_path / "c.zarr", dataset="raw/0")
    check(import_images(tmp_path / "a.zarr", tmp_path / "c.zarr", dataset="raw/0", time=1), V + 1)


def test_zarr__choices_that_say_nothing(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=V)
    with pytest.raises(ValueError, match=r"a\.zarr has no series of images, so series=0 says nothing"):
        open_source(tmp_path / "a.zarr", Choice(series=0))
    with pytest.raises(ValueError, match=r"dataset='b' does not apply to .*a\.zarr, which is an array"):
        open_source(tmp_path / "a.zarr", Choice(dataset="b"))


def test_zarr__damaged_chunk_names_the_store(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=V, chunks=(1, 5, 6))
    (tmp_path / "a.zarr" / "c" / "1" / "0" / "0").write_bytes(b"nothing that zstd knows")
    with pytest.raises(ValueError, match=rf"{tmp_path}/a\.zarr.*cannot be read|a\.zarr is damaged"):
        import_images(tmp_path / "a.zarr", tmp_path / "b.zarr", axes="zyx")


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr__of_ome_zarr_py(tmp_path, version):
    writer("ome_zarr")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        formats, write = (importlib.import_module(f"ome_zarr.{name}") for name in ("format", "writer"))
    axes = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}]
    axes += [
        {"name": axis, "type": "space", "unit": unit}
        for axis, unit in zip("zyx", ("micrometer", "nanometer", "nanometer"), strict=True)
    ]
    image = np.stack([V, V + 1])[None]
    kind = formats.FormatV04() if version == "0.4" else formats.FormatV05()
    scales = [[{"type": "scale", "scale": [1, 1, 2.0, 250.0, 250.0]}, {"type": "translation", "translation": [0] * 5}]]
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2 if version == "0.4" else 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write.write_multiscale([image], group, fmt=kind, axes=axes, coordinate_transformations=scales)
        # A label image lies in a group of its own.
        write.write_labels(image[:, 0:1], group, "cells", fmt=kind, axes=axes, scale_factors=[])
    attrs = dict(group.attrs)
    images = attrs.get("ome", attrs)["multiscales"]
    images[0]["axes"] = axes  # some versions of the program leave the units out
    group.attrs.update(attrs)
    with pytest.raises(ValueError, match="holds 2 channels; choose one of them by channel="):
        import_images(tmp_path / "a.zarr", tmp_path / "b.zarr")
    check(import_images(tmp_path / "a.zarr", tmp_path / "b.zarr", channel=1), V + 1, (250, 250, 2000), "nm")
    # The transformation of the whole image comes after that of the level.
    images[0]["coordinateTransformations"] = [{"type": "scale", "scale": [1, 1, 3.0, 2.0, 2.0]}]
    group.attrs.update(attrs)
    check(import_images(tmp_path / "a.zarr", tmp_path / "c.zarr", channel=0), V, (500, 500, 6000), "nm")
    found = import_images(tmp_path / "a.zarr", tmp_path / "d.zarr", dataset="labels/cells")
    assert_array_equal(found.microstructure, V.T)


def test_ome_zarr__several_images(tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    for number in range(2):
        image = group.create_group(str(number))
        image.create_array("0", data=V + number)
        image.attrs["ome"] = {
            "multiscales": [{"axes": [{"name": axis} for axis in "zyx"], "datasets": [{"path": "0"}]}]
        }
    with pytest.raises(ValueError, match="holds 2 images; choose one of them by series=, from 0 to 1"):
        import_images(tmp_path / "a.zarr", tmp_path / "b.zarr")
    check(import_images(tmp_path / "a.zarr", tmp_path / "b.zarr", series=1), V + 1)
    del group["1"]
    check(import_images(tmp_path / "a.zarr", tmp_path / "c.zarr"), V)


def test_ome_zarr__several_images_of_one_group(tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_array("fine", data=V)
    group.create_array("coarse", data=V[:, ::2])
    axes = [{"name": axis} for axis in "zyx"]
    turned = {"path": "coarse", "coordinateTransformations": [{"type": "affine", "affine": []}]}
    group.attrs["ome"] = {"multiscales": [{"axes": axes, "datasets": [each]} for each in ({"path": "fine"}, turned)]}
    with pytest.raises(ValueError, match="describes 2 images; choose one of them by series=, from 0 to 1"):
        open_source(tmp_path / "a.zarr")
    with pytest.raises(ValueError, match="so series=2 must lie within 0 and 1"):
        open_source(tmp_path / "a.zarr", Choice(series=2))
    with pytest.raises(ValueError, match="transformation 'affine', which is not read; give spacing= and axes="):
        open_source(tmp_path / "a.zarr", Choice(series=1))
    assert_array_equal(open_source(tmp_path / "a.zarr", Choice(series=0)).data, V)


@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", "f8"])
def test_netcdf__values_that_are_not_valid_were_not_measured(tmp_path, dtype):
    attrs = {"valid_range": np.array([2, 20], dtype)}
    scan = xr.DataArray(np.arange(24).reshape(2, 3, 4).astype(dtype), dims=("z", "y", "x"), attrs=attrs)
    scan.to_dataset(name="scan").to_netcdf(
        tmp_path / "a.nc", encoding={"scan": {"_FillValue": np.dtype(dtype).type(0)}}
    )
    stored = import_images(tmp_path / "a.nc", tmp_path / "a.zarr", spacing=1)
    is_valid = (scan.values >= 2) & (scan.values <= 20)
    assert_array_equal(stored.confidence_index, is_valid.T)
    assert_array_equal(stored.microstructure.values[is_valid.T], scan.values.T[is_valid.T])


def test_netcdf__values_that_are_not_valid_need_a_value_to_stand_for_them(tmp_path):
    scan = xr.DataArray(np.arange(12, dtype="u1").reshape(3, 4), dims=("y", "x"), attrs={"valid_max": np.uint8(9)})
    scan.to_dataset(name="scan").to_netcdf(tmp_path / "a.nc")
    with pytest.raises(ValueError, match=r"a.nc.*its value 10 is outside of the valid ones, from 0 to 9"):
        import_images(tmp_path / "a.nc", tmp_path / "a.zarr", spacing=1)
    assert not (tmp_path / "a.zarr").exists()
