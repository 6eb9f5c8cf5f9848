"""What all image files have in common: what is assumed and said, what is recorded, and files that cannot be read."""

import gzip
import json
import struct
import warnings
import zlib
from types import SimpleNamespace

import dask.array as da
import h5py
import numpy as np
import psutil
import pytest
import xarray as xr
import zarr
from numpy.testing import assert_array_equal
from PIL import Image
from scipy.io import netcdf_file

from mksdask import create_ensemble, open_volume
from mksdask.importers import AssumedWarning, import_images
from mksdask.importers.image_files import READERS, open_source
from mksdask.importers.sources import Choice, Source

V = np.arange(60, dtype="u1").reshape(2, 5, 6)


def test_assumed__is_warned_of_recorded_and_printed(tmp_path, run):
    np.save("scan.npy", V)
    with pytest.warns(AssumedWarning, match=r"scan\.npy: axes xyz assumed; say axes=$") as told:
        stored = import_images(tmp_path / "scan.npy", "a.zarr")
    assert len(told) == 1
    assert told[0].filename == __file__
    attrs = {"source": str(tmp_path / "scan.npy"), "format": "npy", "source_axes": "xyz"}
    assert attrs | {"assumed": ["axes xyz assumed; say axes="]} == {
        key: stored.microstructure.attrs.get(key) for key in (*attrs, "assumed")
    }
    assert run("import", "scan.npy", "b.zarr")["assumed"] == ["axes xyz assumed; say --axes"]
    assert json.loads(run("info", "b.zarr", "--json", on_cluster=False))["source"] == str(tmp_path / "scan.npy")
    text = run("info", "b.zarr", on_cluster=False)
    assert "assumed" in text
    assert "source axes  xyz" in text
    stored = import_images("scan.npy", "c.zarr", axes="zyx")
    assert "assumed" not in stored.microstructure.attrs
    assert run("import", "scan.npy", "d.zarr", "--axes", "zyx")["assumed"] == []


def test_assumed__is_printed_in_lines(tmp_path, run, client):
    np.save("scan.npy", V)
    text = run("import", "scan.npy", "a.zarr", "--scheduler", client.scheduler.address, on_cluster=False)
    assert "  axes xyz assumed; say --axes\n" in text
    assert "Warning" not in text


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [("longlong", "int64"), (">u2", "uint16"), (">f8", "float64"), ("?", "bool"), ("u8", "uint64"), ("f2", "float16")],
)
def test_dtypes__have_one_name_in_a_store(tmp_path, dtype, stored):
    np.save(tmp_path / "a.npy", (V % 2).astype(dtype))
    found = import_images(tmp_path / "a.npy", tmp_path / "a.zarr", axes="zyx").microstructure
    assert found.dtype == np.dtype(stored)
    assert found.dtype.isnative
    assert_array_equal(found, V.T % 2)


def test_dtypes__of_create_ensemble(tmp_path):
    create_ensemble(tmp_path / "a.zarr", V.astype(np.longlong))
    with pytest.raises(TypeError, match=r"dtype .*128, which stores do not hold; convert it"):
        create_ensemble(tmp_path / "b.zarr", V.astype(np.longdouble))


def test_axes__of_length_1_are_dropped_aloud(tmp_path):
    np.save(tmp_path / "a.npy", V[:1])
    with pytest.warns(AssumedWarning) as told:
        found = import_images(tmp_path / "a.npy", tmp_path / "a.zarr").microstructure
    assert [str(each.message).split(": ")[1] for each in told] == [
        "axes xyz assumed; say axes=",
        "axes x of length 1 dropped, so that yz are called xy; say axes=",
    ]
    assert_array_equal(found, V[0])
    assert import_images(tmp_path / "a.npy", tmp_path / "b.zarr", axes="zyx").microstructure.shape == (6, 5, 1)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_raw__x_is_fastest(tmp_path, dtype, run):
    (tmp_path / "scan.vol").write_bytes(bytes(7) + V.astype(np.dtype(dtype).newbyteorder(">")).tobytes())
    options = {"shape": (6, 5, 2), "dtype": np.dtype(dtype).newbyteorder(">"), "offset": 7}
    found = import_images(tmp_path / "scan.vol", tmp_path / "a.zarr", **options)
    assert_array_equal(found.microstructure, V.T)
    assert found.microstructure.attrs["format"] == "raw"
    options["shape"] = (2, 5, 6)
    found = import_images(tmp_path / "scan.vol", tmp_path / "b.zarr", **options, axes="xyz")
    assert_array_equal(found.microstructure, V)
    more = ("--shape", "6x5x2", "--dtype", dtype, "--order", "big", "--offset", "7")
    assert run("import", "scan.vol", "c.zarr", *more)["size"] == [6, 5, 2]
    assert_array_equal(open_volume("c.zarr").microstructure, V.T)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (6, 5, 3), "dtype": "u1"}, "has 60 bytes, but 6 × 5 × 3 values of 1 bytes .* are 90"),
        ({"shape": (10**6, 10**6, 10**6), "dtype": "u2"}, "are 2000000000000000000; mend shape="),
        ({"shape": (6, 5, 2)}, "give dtype="),
        ({"shape": (6, 5, 2), "dtype": "U4"}, "must be a real number"),
        ({"shape": (6, 5, 2), "dtype": "u1", "axes": "xy"}, "must name the 3 axes"),
        ({"shape": (6, 5, 2), "dtype": "u1", "channel": 1}, "channel=1 does not apply"),
        ({"shape": (6, 5, 2), "dtype": "real"}, "dtype='real' is no data type"),
        ({"shape": (6, 5, 2), "dtype": "u1", "pattern": "*.raw"}, "but path .* is no folder"),
        ({}, "a format that is not known.*give shape=, dtype= and offset="),
    ],
)
def test_raw__refuses(tmp_path, options, message):
    (tmp_path / "a.raw").write_bytes(V.tobytes())
    with pytest.raises(ValueError, match=message):
        import_images(tmp_path / "a.raw", tmp_path / "a.zarr", **options)


def test_raw__a_file_that_is_cut_after_it_was_opened(tmp_path):
    (tmp_path / "a.raw").write_bytes(V.tobytes())
    source = open_source(tmp_path / "a.raw", Choice(shape=(6, 5, 2), dtype="u1"))
    (tmp_path / "a.raw").write_bytes(V.tobytes()[:40])
    with pytest.raises(ValueError, match=r"a\.raw: rows 0 to 1 cannot be read"):
        source.data.compute(scheduler="sync")


class Broken:
    """A reader whose library raises its own errors."""

    def __init__(self, error):
        self.error = error

    def __call__(self, path, choice):
        raise self.error


@pytest.mark.parametrize(
    "error", [struct.error("cut"), IndexError(), KeyError("x"), RuntimeError("codec"), OSError(5, "I/O"), EOFError()]
)
def test_errors__of_readers_name_the_file(tmp_path, monkeypatch, error):
    monkeypatch.setitem(READERS, ".npy", Broken(error))
    (tmp_path / "a.npy").write_bytes(b"1")
    with pytest.raises(ValueError, match=rf"{tmp_path}/a\.npy: it cannot be read .*check that the file is whole"):
        import_images(tmp_path / "a.npy", tmp_path / "a.zarr")


def test_spacing__of_some_axes_is_said(tmp_path, monkeypatch):
    source = Source(da.from_array(V, chunks=-1), "zyx", {"x": 0.5, "y": 0.5}, "um")
    monkeypatch.setitem(READERS, ".npy", lambda path, choice: source)
    (tmp_path / "a.npy").write_bytes(b"1")
    with pytest.warns(AssumedWarning, match=r"spacing 0\.5 along z assumed, as along (xy|yx); say spacing="):
        found = import_images(tmp_path / "a.npy", tmp_path / "a.zarr")
    assert found.z.attrs["spacing"] == 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = import_images(tmp_path / "a.npy", tmp_path / "b.zarr", spacing=(0.5, 0.5, 1))
    assert found.z.attrs == {"spacing": 1.0, "units": "um"}
    with pytest.warns(AssumedWarning):
        found = import_images(tmp_path / "a.npy", tmp_path / "c.zarr", units="nm")
    assert found.x.attrs == {"spacing": 500.0, "units": "nm"}
    with pytest.raises(ValueError, match="units must be a unit of length, such as 'um', got 'parsec'"):
        import_images(tmp_path / "a.npy", tmp_path / "d.zarr", units="parsec")


def test_spacing__is_assumed_aloud_if_only_its_unit_is_given(tmp_path):
    np.save(tmp_path / "a.npy", V)
    with pytest.warns(AssumedWarning, match=r"spacing 1 µm assumed; say spacing=$"):
        found = import_images(tmp_path / "a.npy", tmp_path / "a.zarr", axes="zyx", units="um")
    assert found.x.attrs == {"spacing": 1.0, "units": "um"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        import_images(tmp_path / "a.npy", tmp_path / "b.zarr", axes="zyx", units="um", spacing=2)
        import_images(tmp_path / "a.npy", tmp_path / "c.zarr", axes="zyx")


def test_join__one_file_is_an_ensemble_of_one_sample(tmp_path):
    np.save(tmp_path / "a.npy", V)
    found = import_images(tmp_path / "a.npy", tmp_path / "a.zarr", join="samples", axes="zyx")
    assert_array_equal(found.microstructure, V.T[None])
    with pytest.raises(ValueError, match="join must be 'slices' or 'samples', got 'rows'"):
        import_images(tmp_path / "a.npy", tmp_path / "b.zarr", join="rows")


def test_command__says_what_is_wrong_with_raw_values(tmp_path, run):
    (tmp_path / "a.raw").write_bytes(V.tobytes())
    more = ("--shape", "6x5x2", "--order", "big")
    assert "give their --dtype too" in run("import", "a.raw", "a.zarr", *more, code=1)
    assert "--dtype word is no data type" in run("import", "a.raw", "a.zarr", *more, "--dtype", "word", code=1)
    assert "give --dtype" in run("import", "a.raw", "a.zarr", "--shape", "6x5x2", code=1)


def test_positions__that_fall_are_turned_round(tmp_path):
    source = xr.DataArray(V, dims=("z", "y", "x"), coords={"y": [8.0, 6, 4, 2, 0]}, name="scan")
    source.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    with pytest.warns(AssumedWarning, match="spacing 2 along xz assumed, as along y"):
        found = import_images(tmp_path / "a.nc", tmp_path / "a.zarr")
    assert_array_equal(found.microstructure, V[:, ::-1].T)
    assert found.y.values.tolist() == [0, 2, 4, 6, 8]


def test_units__that_are_no_lengths_and_that_only_some_axes_have(tmp_path):
    coords = {"x": np.arange(6.0), "y": np.arange(5.0), "z": np.arange(2.0)}
    source = xr.DataArray(V, dims=("z", "y", "x"), coords=coords, name="scan")
    source["x"].attrs["units"] = "degrees_east"
    source.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    with pytest.warns(
        AssumedWarning, match="unit 'degrees_east' along x is no known length and is left out; say units="
    ):
        found = import_images(tmp_path / "a.nc", tmp_path / "a.zarr")
    assert found.x.attrs["units"] == "unit"
    assert import_images(tmp_path / "a.nc", tmp_path / "b.zarr", units="nm").x.attrs["units"] == "nm"
    source["x"].attrs["units"] = "um"
    source.to_netcdf(tmp_path / "b.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match=r"b\.nc: the voxel sizes .* give spacing= and units= for all axes"):
        import_images(tmp_path / "b.nc", tmp_path / "c.zarr")
    found = import_images(tmp_path / "b.nc", tmp_path / "c.zarr", spacing=2, units="um")
    assert found.z.attrs == {"units": "um", "spacing": 2.0}
    for axis, unit in zip("xyz", ("um", "um", "nm"), strict=True):
        source[axis].attrs["units"] = unit
    source.to_netcdf(tmp_path / "c.nc", engine="h5netcdf")
    found = import_images(tmp_path / "c.nc", tmp_path / "d.zarr")
    assert found.z.attrs == {"units": "um", "spacing": 0.001}


def test_axes__that_the_file_calls_something_else_are_assumed_aloud(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=V, dimension_names=("plane", "row", "column"))
    message = "axes xyz assumed, because the file calls them plane, row, column; say axes="
    with pytest.warns(AssumedWarning, match=message):
        import_images(tmp_path / "a.zarr", tmp_path / "b.zarr")
    assert_array_equal(import_images(tmp_path / "a.zarr", tmp_path / "c.zarr", axes="zyx").microstructure, V.T)
    with pytest.raises(ValueError, match="has no axis that is called channel, so channel=1 says nothing"):
        import_images(tmp_path / "a.zarr", tmp_path / "d.zarr", channel=1)


def test_pattern__takes_files_of_a_folder(tmp_path):
    for number, plane in enumerate(V):
        Image.fromarray(plane).save(tmp_path / f"slice{number}.png")
    Image.fromarray(V[0]).save(tmp_path / "overview.png")
    found = import_images(tmp_path, tmp_path.parent / f"{tmp_path.name}.zarr", pattern="slice*.png")
    assert_array_equal(found.microstructure, V.T)
    with pytest.raises(FileNotFoundError, match="names no image"):
        import_images(tmp_path, tmp_path.parent / "x.zarr", pattern="*.tif")


@pytest.mark.parametrize("kind", ["h5", "zarr", "nrrd", "mha", "npz"])
def test_sizes__parts_that_do_not_fit_in_memory_are_refused(tmp_path, monkeypatch, kind):
    # Files of a few kB, which hold megabytes of zeros when they are unpacked.
    zeros, path = np.zeros((2, 1000, 1000), "u1"), tmp_path / f"a.{kind}"
    if kind == "h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("data", data=zeros, chunks=zeros.shape, compression="gzip")
    elif kind == "zarr":
        zarr.create_array(path, data=zeros, chunks=zeros.shape, config={"write_empty_chunks": True})
    elif kind == "nrrd":
        head = b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 1000 1000 2\nencoding: gzip\n\n"
        path.write_bytes(head + gzip.compress(zeros.tobytes()))
    elif kind == "mha":
        head = b"NDims = 3\nCompressedData = True\nDimSize = 1000 1000 2\nElementType = MET_UCHAR\n"
        path.write_bytes(head + b"ElementDataFile = LOCAL\n" + zlib.compress(zeros.tobytes()))
    else:
        np.savez_compressed(path, zeros)
    axes = None if kind in ("nrrd", "mha") else "zyx"
    assert import_images(path, tmp_path / "a.zarr2", axes=axes).microstructure.shape == (1000, 1000, 2)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10**6))
    with pytest.raises(ValueError, match=rf"a\.{kind}.* more than the 1000000 bytes|a\.{kind}.* only 1000000 bytes"):
        import_images(path, tmp_path / "b.zarr2", axes=axes)


@pytest.mark.parametrize("kind", ["nrrd", "mha"])
def test_sizes__packed_bytes_that_are_more_or_fewer_than_the_header_says(tmp_path, kind):
    for number, size in enumerate((59, 61, 10**6)):
        path = tmp_path / f"{number}.{kind}"
        if kind == "nrrd":
            head = b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 6 5 2\nencoding: gzip\n\n"
            path.write_bytes(head + gzip.compress(bytes(size)))
        else:
            head = (
                b"NDims = 3\nCompressedData = True\nDimSize = 6 5 2\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n"
            )
            path.write_bytes(head + zlib.compress(bytes(size)))
        with pytest.raises(ValueError, match="when it is unpacked, but 6 × 5 × 2 values are 60 bytes"):
            import_images(path, tmp_path / "a.zarr")


def test_zarr__of_more_voxels_than_chunks(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", shape=(10**4,) * 3, chunks=(10**4,) * 3, dtype="u1")
    with pytest.raises(ValueError, match="lacks 1 of 1 chunks"):
        import_images(tmp_path / "a.zarr", tmp_path / "b.zarr", axes="zyx")
    with (
        pytest.warns(UserWarning, match="lacks 1 of 1"),
        pytest.raises(ValueError, match=r"unpacking a chunk of shape \(10000, 10000, 10000\)"),
    ):
        import_images(tmp_path / "a.zarr", tmp_path / "b.zarr", axes="zyx", allow_missing=True)


def refusal(path):
    """What is said when a file is refused. None if it is read."""
    try:
        open_source(path).data.compute(scheduler="sync")
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("kind", ["h5", "nc", "npy", "npz", "zarr", "nrrd", "mha", "nii"])
def test_mutated__files_are_refused_by_name_or_read(tmp_path, kind):
    """A few hundred files with bytes changed: no error but a ValueError that names the file, and no partial store."""
    path, rng = tmp_path / f"a.{kind}", np.random.default_rng(0)
    if kind == "h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("data", data=V, chunks=(1, 5, 6), compression="gzip")
    elif kind == "nc":
        with netcdf_file(path, "w") as file:
            for axis, n in zip("zyx", V.shape, strict=True):
                file.createDimension(axis, n)
            file.createVariable("scan", "i2", ("z", "y", "x"))[:] = V
    elif kind in ("npy", "npz"):
        np.save(path, V) if kind == "npy" else np.savez(path, V)
    elif kind == "zarr":
        zarr.create_array(path, data=V, chunks=(1, 5, 6))
    elif kind == "nrrd":
        path.write_bytes(b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 6 5 2\nencoding: raw\n\n" + V.tobytes())
    elif kind == "mha":
        head = b"NDims = 3\nDimSize = 6 5 2\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n"
        path.write_bytes(head + V.tobytes())
    else:
        nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed (extra: nifti)")
        nibabel.Nifti1Image(V.T, np.eye(4)).to_filename(path)
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    whole = {file: file.read_bytes() for file in files}
    for number in range(40):
        file = files[number % len(files)]
        content = bytearray(whole[file])
        place = int(rng.integers(0, min(len(content), 600)))
        content[place : place + 4] = rng.bytes(4)
        file.write_bytes(content[: None if number % 3 else int(rng.integers(0, len(content)))])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            told = refusal(path)
        assert told is None or str(path) in told
        file.write_bytes(whole[file])


def test_command__chooses_a_channel_and_follows_links(tmp_path, run):
    zarr.create_array("a.zarr", data=np.stack([V, V + 1]), dimension_names=("c", "z", "y", "x"))
    assert "holds 2 channels; choose one of them by --channel" in run("import", "a.zarr", "b.zarr", code=1)
    assert run("import", "a.zarr", "b.zarr", "--channel", "1")["assumed"] == []
    assert_array_equal(open_volume("b.zarr").microstructure, (V + 1).T)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.raw").write_bytes(V.tobytes())
    (tmp_path / "here").mkdir()
    head = "NDims = 3\nDimSize = 6 5 2\nElementType = MET_UCHAR\nElementDataFile = ../elsewhere/a.raw\n"
    (tmp_path / "here" / "a.mhd").write_text(head)
    assert "pass --follow-links" in run("import", "here/a.mhd", "c.zarr", code=1)
    run("import", "here/a.mhd", "c.zarr", "--follow-links")
    assert_array_equal(open_volume("c.zarr").microstructure, V.T)
