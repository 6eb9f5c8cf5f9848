"""Metadata of a few bytes that ask for gigabytes are refused, before anything is decoded."""

import json

import numpy as np
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner
from numpy.testing import assert_array_equal

from mksdask import create_ensemble, open_ensemble
from mksdask.cli import main
from mksdask.importers import import_images

X = np.random.default_rng(0).integers(0, 2, (6, 4, 5)).astype("uint8")


def edited(path, edit):
    metadata = json.loads(path.read_text())
    edit(metadata)
    path.write_text(json.dumps(metadata))


BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
GZIP = {"name": "gzip", "configuration": {"level": 1}}
CRC32C = {"name": "crc32c"}


def sharded(codecs, index_codecs=(BYTES, CRC32C), size=1):
    options = {"chunk_shape": [size], "codecs": list(codecs), "index_codecs": list(index_codecs)}
    return {"name": "sharding_indexed", "configuration": options}


def chunked(*sizes):
    return {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(sizes)}}}


def text(kind, n_bytes):
    return {"data_type": {"name": kind, "configuration": {"length_bytes": n_bytes}}, "fill_value": ""}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"codecs": [BYTES, GZIP, GZIP]}, "2 compressors one after the other (gzip, gzip)"),
        ({"codecs": [BYTES, {"name": "zstd"}, CRC32C, GZIP]}, "2 compressors one after the other (zstd, gzip)"),
        ({"codecs": [sharded([BYTES, GZIP, GZIP])]}, "2 compressors"),
        ({"codecs": [sharded([BYTES, GZIP]), GZIP]}, "2 compressors"),
        ({"codecs": [sharded([BYTES], [BYTES, GZIP])]}, "the codec 'gzip', which is not one of bytes, crc32c"),
        ({"codecs": [sharded([BYTES], size=0)]}, "in chunks of shape [0]"),
        (chunked(0), "the shape [4] in chunks of shape [0], where chunks need a whole number of at least 1"),
        (chunked(4, 1), "in chunks of shape [4, 1]"),
        (chunked("4"), "in chunks of shape ['4']"),
        ({"shape": [-4]}, "the shape [-4]"),
        ({"shape": [10**9], "dimension_names": ["d"]} | chunked(1), "1000000000 chunks of shape [1], more than"),
        ({"shape": [2 * 10**8]} | chunked(2 * 10**8), "1600000000 bytes in 1 chunks"),
        (chunked(2 * 10**8), "1600000000 bytes in 1 chunks"),
        ({"shape": [10**5]} | chunked(1), "800000 bytes in 100000 chunks"),
        (text("null_terminated_bytes", 2 * 10**9), "texts of 2000000000 bytes"),
        (text("fixed_length_utf32", 4 * 10**9), "texts of 4000000000 bytes"),
        ({"attributes": {"a": json.loads("[" * 200 + "]" * 200)}}, "nested more than 100 levels deep"),
    ],
)
def test_open__refuses_metadata_that_ask_for_gigabytes(tmp_path, change, told):
    url = tmp_path / "e.zarr"
    create_ensemble(url, X)
    # Without consolidated metadata, those of each array count.
    edited(url / "zarr.json", lambda metadata: metadata.pop("consolidated_metadata"))
    edited(url / "x" / "zarr.json", lambda metadata: metadata.update(change))
    with pytest.raises(ValueError, match=r"e.zarr will not be opened, because its array 'x'") as caught:
        open_ensemble(url)
    assert told in str(caught.value)
    result = CliRunner().invoke(main, ["info", str(url)])
    assert result.exit_code == 1
    assert "will not be opened" in result.output


@pytest.mark.parametrize("depth", [150, 200_000])
@pytest.mark.parametrize("name", ["zarr.json", "x/zarr.json"])
def test_open__refuses_metadata_that_are_nested_deeply(tmp_path, name, depth):
    create_ensemble(tmp_path / "e.zarr", X)
    path = tmp_path / "e.zarr" / name
    path.write_text(path.read_text().rstrip().removesuffix("}") + ', "a": ' + "[" * depth + "]" * depth + "}")
    for opens in (open_ensemble, lambda url: import_images(url, tmp_path / "out.zarr", dataset="x")):
        with pytest.raises(ValueError, match=r"nested more than 100 levels deep"):
            opens(tmp_path / "e.zarr")


def test_open__passes_many_labels_and_one_compressor(tmp_path):
    group = zarr.create_group(tmp_path / "e.zarr", attributes={"mksdask": "ensemble"})
    n = 10**6
    group.create_array("sample", data=np.arange(n), chunks=(n // 100,), dimension_names=["sample"])
    image = group.create_array(
        "microstructure",
        shape=(n, 4),
        dtype="u1",
        chunks=(100, 4),
        shards=(n // 2, 4),
        compressors=[zarr.codecs.GzipCodec(), zarr.codecs.Crc32cCodec()],
        dimension_names=["sample", "x"],
    )
    image[:4] = 1
    with pytest.raises(ValueError, match=r"e.zarr lacks 9999 of 10000 chunks of its array 'microstructure'"):
        open_ensemble(tmp_path / "e.zarr")
    with pytest.warns(UserWarning, match=r"lacks 9999 of 10000 chunks .*; they are read as 0"):
        opened = open_ensemble(tmp_path / "e.zarr", allow_missing=True)
    assert opened.sample[-1] == n - 1
    assert_array_equal(opened.microstructure[2:6, 0], [1, 1, 0, 0])


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_import__refuses_coordinates_that_are_too_large(tmp_path, zarr_format):
    image = xr.DataArray(np.zeros((4, 5)), dims=("x", "y"), coords={"x": np.arange(4.0), "y": np.arange(5.0)})
    image.to_dataset(name="image").to_zarr(tmp_path / "a.zarr", zarr_format=zarr_format, consolidated=False)
    change = {"shape": [2 * 10**8], "chunks": [2 * 10**8]} if zarr_format == 2 else chunked(2 * 10**8)
    path = tmp_path / "a.zarr" / "x" / (".zarray" if zarr_format == 2 else "zarr.json")
    edited(path, lambda metadata: metadata.update(change))
    with pytest.raises(ValueError, match=r"its array 'x' labels an axis, .* it has 1600000000 bytes in 1 chunks"):
        import_images(tmp_path / "a.zarr", tmp_path / "out.zarr")
