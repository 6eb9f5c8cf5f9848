"""What all image files have in common: what is assumed and said, what is recorded, and files that cannot be read."""

import json
import struct
import warnings

import dask.array as da
import numpy as np
import pytest
from numpy.testing import assert_array_equal

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
    with pytest.raises(ValueError, match="units: 'parsec' is no known unit of length"):
        import_images(tmp_path / "a.npy", tmp_path / "d.zarr", units="parsec")


def test_join__one_file_is_an_ensemble_of_one_sample(tmp_path):
    np.save(tmp_path / "a.npy", V)
    found = import_images(tmp_path / "a.npy", tmp_path / "a.zarr", join="samples", axes="zyx")
    assert_array_equal(found.microstructure, V.T[None])
    with pytest.raises(ValueError, match="join must be 'slices' or 'samples', got 'rows'"):
        import_images(tmp_path / "a.npy", tmp_path / "b.zarr", join="rows")
