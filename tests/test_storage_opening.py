"""No store runs code: what is in a store is decoded only if its codecs and data types are on a list."""

import json
import os
import pickle
import shutil

import dask.array as da
import numcodecs
import numcodecs.pickles
import numpy as np
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner
from numpy.testing import assert_array_equal

from mksdask import (
    MKSHomogenizationModel,
    MKSStructureAnalysis,
    PrimitiveBasis,
    append_ensemble,
    create_ensemble,
    create_volume,
    load_model,
    open_ensemble,
    open_volume,
    save_model,
)
from mksdask.arrays import is_text
from mksdask.cli import main
from mksdask.importers import import_images
from mksdask.reduction import IncrementalPCA
from mksdask.stats import correlate, correlate_volume
from mksdask.storage import materialize, open_store
from mksdask.storage.atomic import Location
from mksdask.storage.opening import check_store, open_array

X = np.random.default_rng(0).integers(0, 2, (6, 4, 5)).astype("uint8")
MODEL = MKSHomogenizationModel(PrimitiveBasis(2), n_components=2).fit(X, X.mean(axis=(1, 2)) + np.arange(6.0))


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def codecs_unpickle(monkeypatch):
    """No codec refuses to run code, as those of new versions do."""
    monkeypatch.setattr(numcodecs.pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)
    with zarr.config.set({"array.allow_unsafe_pickle_decode": True}):
        yield


@pytest.fixture
def marker(tmp_path, codecs_unpickle):
    """What a store makes that runs code."""
    place = tmp_path / "marker"
    yield place
    assert not place.exists(), "the store has run code"


def old_array(shape, filters=("vlen-utf8", "pickle"), dtype="|O", compressor=None):
    return {
        "zarr_format": 2,
        "shape": list(shape),
        "chunks": list(shape),
        "dtype": dtype,
        "compressor": compressor,
        "fill_value": 0 if dtype == "|O" else None,
        "order": "C",
        "filters": [{"id": name} | ({"protocol": 5} if name == "pickle" else {}) for name in filters],
    }


def plant(folder, metadata, marker, attributes=None):
    """An array of format 2 whose chunk is pickled."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".zarray").write_text(json.dumps(metadata))
    (folder / ".zattrs").write_text(json.dumps(attributes or {}))
    (folder / ".".join("0" * max(1, len(metadata["shape"])))).write_bytes(pickle.dumps(Bomb(marker)))


def make(kind, url):
    """A store of the package, and the name of one of its arrays."""
    if kind == "model":
        save_model(MODEL, url)
        return "0"
    if kind == "pca":
        IncrementalPCA(2).partial_fit(X.reshape(6, -1) * 1.0).save(url)
        return "0"
    if kind == "result":
        materialize(correlate(da.from_array(X, chunks=(2, 4, 5)), PrimitiveBasis(2)), url, progress=False)
        return "result"
    (create_ensemble if kind == "ensemble" else create_volume)(url, X)
    return "x"


DOORS = {
    "open_ensemble": ("ensemble", open_ensemble),
    "open_volume": ("volume", open_volume),
    "open_store": ("volume", open_store),
    "append_ensemble": ("ensemble", lambda url: append_ensemble(url, X)),
    "load_model": ("model", load_model),
    "load": ("pca", IncrementalPCA.load),
    "materialize": (
        "result",
        lambda url: materialize(correlate(da.from_array(X, chunks=(2, 4, 5)), PrimitiveBasis(2)), url, progress=False),
    ),
    **{f"info of a {kind}": (kind, "info") for kind in ("ensemble", "volume", "model", "result")},
}


@pytest.fixture(params=DOORS)
def door(request, tmp_path):
    """A store, one of its arrays, and a way to open it that is to fail, with a message."""
    kind, opens = DOORS[request.param]
    url = tmp_path / "store.zarr"
    name = make(kind, url)

    def refused():
        if opens != "info":
            with pytest.raises(ValueError, match="will not be opened") as caught:
                opens(url)
            return str(caught.value)
        result = CliRunner().invoke(main, ["info", str(url)])
        assert result.exit_code == 1
        return result.output

    return url, name, refused


def edited(path, edit):
    metadata = json.loads(path.read_text())
    edit(metadata)
    path.write_text(json.dumps(metadata))


def test_open__refuses_arrays_of_format_2_in_consolidated_metadata(door, marker):
    url, name, refused = door
    shape = json.loads((url / name / "zarr.json").read_text())["shape"]
    shutil.rmtree(url / name)
    plant(url / name, old_array(shape), marker)

    def edit(metadata):
        found = metadata.setdefault("consolidated_metadata", None) or {
            "kind": "inline",
            "must_understand": False,
            "metadata": {},
        }
        found["metadata"][name] = old_array(shape) | {"node_type": "array", "attributes": {}}
        metadata["consolidated_metadata"] = found

    edited(url / "zarr.json", edit)
    message = refused()
    assert f"store.zarr will not be opened, because its array '{name}' is of zarr format 2, not 3" in message


def test_open__refuses_arrays_of_format_2_in_a_group_of_format_3(door, marker):
    url, name, refused = door
    shape = json.loads((url / name / "zarr.json").read_text())["shape"]
    shutil.rmtree(url / name)
    plant(url / name, old_array(shape), marker)
    edited(url / "zarr.json", lambda metadata: metadata.pop("consolidated_metadata", None))
    assert f"'{name}' is of zarr format 2" in refused()


@pytest.mark.parametrize("door", [name for name in DOORS if name != "materialize"], indirect=True)
def test_open__refuses_stores_of_format_2(door, marker):
    url, _, refused = door
    attributes = json.loads((url / "zarr.json").read_text())["attributes"]
    shapes = {path.parent.name: json.loads(path.read_text())["shape"] for path in url.glob("*/zarr.json")}
    shutil.rmtree(url)
    for each, shape in shapes.items():
        plant(url / each, old_array(shape), marker, {"_ARRAY_DIMENSIONS": [f"d{n}" for n in range(len(shape))]})
    (url / ".zgroup").write_text('{"zarr_format": 2}')
    (url / ".zattrs").write_text(json.dumps(attributes))
    content = {".zgroup": {"zarr_format": 2}, ".zattrs": attributes}
    content |= {f"{each}/.zarray": old_array(shape) for each, shape in shapes.items()}
    (url / ".zmetadata").write_text(json.dumps({"zarr_consolidated_format": 1, "metadata": content}))
    assert "store.zarr will not be opened, because it is of zarr format 2, not 3" in refused()


def test_materialize__refuses_stores_of_format_2(tmp_path, marker):
    plant(tmp_path / "r.zarr" / "result", old_array([6]), marker)
    (tmp_path / "r.zarr" / ".zgroup").write_text('{"zarr_format": 2}')
    (tmp_path / "r.zarr" / ".zattrs").write_text('{"mksdask": "result"}')
    with pytest.raises(FileExistsError, match=r"r.zarr exists and is not a result of materialize"):
        materialize(da.zeros(6), tmp_path / "r.zarr")


@pytest.mark.parametrize("where", ["array", "consolidated", "both"])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"codecs": [{"name": "numcodecs.pickle", "configuration": {"protocol": 5}}]}, "the codec 'numcodecs.pickle'"),
        ({"codecs": [{"name": "pickle"}]}, "the codec 'pickle'"),
        ({"codecs": ["bytes", "numcodecs.zlib"]}, "the codec 'numcodecs.zlib'"),
        (
            {
                "codecs": [
                    {
                        "name": "sharding_indexed",
                        "configuration": {
                            "chunk_shape": [1],
                            "codecs": [{"name": "bytes"}, {"name": "numcodecs.pickle"}],
                            "index_codecs": [{"name": "bytes"}],
                        },
                    }
                ]
            },
            "the codec 'numcodecs.pickle'",
        ),
        ({"data_type": "variable_length_bytes"}, "the data type 'variable_length_bytes'"),
        ({"data_type": {"name": "structured", "configuration": {"fields": []}}}, "the data type 'structured'"),
        ({"codecs": None}, "no list of codecs but None"),
        ({"zarr_format": 2}, "of zarr format 2"),
    ],
)
def test_open__refuses_codecs_and_data_types_that_are_not_listed(door, marker, change, told, where):
    url, name, refused = door
    array = json.loads((url / name / "zarr.json").read_text()) | change

    def edit(metadata):
        found = metadata.get("consolidated_metadata") or {"kind": "inline", "must_understand": False, "metadata": {}}
        found["metadata"][name] = array
        metadata["consolidated_metadata"] = found

    if where != "consolidated":
        (url / name / "zarr.json").write_text(json.dumps(array))
    if where != "array":
        edited(url / "zarr.json", edit)
    for chunk in (url / name / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(pickle.dumps(Bomb(marker)))
    message = refused()
    assert f"its array '{name}'" in message
    assert told in message
    assert "write its numbers anew" in message


@pytest.mark.parametrize("name", ["mine", "group/mine"])
def test_open__refuses_members_that_it_would_not_read(tmp_path, marker, name):
    create_ensemble(tmp_path / "e.zarr", X)
    plant(tmp_path / "e.zarr" / name, old_array([3]), marker)
    if "/" in name:
        (tmp_path / "e.zarr" / "group" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
    with pytest.raises(ValueError, match=f"its array '{name}' is of zarr format 2"):
        open_ensemble(tmp_path / "e.zarr")


def test_open__refuses_scratch_that_was_changed(tmp_path, marker):
    array = zarr.create_array(tmp_path / "rows.zarr", shape=(3,), chunks=(3,), dtype="f8")
    array[:] = 1.0
    assert_array_equal(open_array(Location.of(tmp_path / "rows.zarr")), np.ones(3))
    edited(
        tmp_path / "rows.zarr" / "zarr.json", lambda metadata: metadata["codecs"].append({"name": "numcodecs.pickle"})
    )
    with pytest.raises(ValueError, match=r"because it has the codec 'numcodecs.pickle'"):
        open_array(Location.of(tmp_path / "rows.zarr"))


def test_open__passes_what_the_package_writes(tmp_path):
    create_ensemble(
        tmp_path / "e.zarr",
        X,
        xr.DataArray(np.ones((6, 2)), dims=("sample", "moment"), coords={"moment": [1, 2]}),
        confidence_index=X / 2.0,
        spacing=0.5,
        units="um",
        phases=["pore", "grain"],
        chunks=4,
    )
    create_volume(tmp_path / "v.zarr", X[0] * 1j, chunks=3)
    microstructure = open_ensemble(tmp_path / "e.zarr").microstructure
    f = correlate(microstructure, PrimitiveBasis(2))
    assert is_text(f.pair.to_numpy())
    materialize(f, tmp_path / "f.zarr", progress=False)
    correlate_volume(X, PrimitiveBasis(2), cutoff=None, scratch=tmp_path / "s.zarr")
    for dtype in ("bool", "int8", "uint64", "float16", "complex64"):
        materialize(da.zeros((4, 3), chunks=2, dtype=dtype), tmp_path / f"{dtype}.zarr", progress=False)
    save_model(MODEL, tmp_path / "m.zarr")
    save_model(MKSStructureAnalysis(PrimitiveBasis(2), n_components=2).fit(microstructure), tmp_path / "a.zarr")
    IncrementalPCA(2).partial_fit(X.reshape(6, -1) * 1.0).save(tmp_path / "i.zarr")
    stores = sorted(tmp_path.glob("*.zarr"))
    assert len(stores) == 12
    for url in stores:
        assert check_store(Location.of(url))["zarr_format"] == 3
        assert CliRunner().invoke(main, ["info", str(url)]).exit_code == 0


def test_open__passes_texts_of_labels(tmp_path):
    names = {
        "a": ("sample", np.array(["é", "bb"] * 3, dtype=np.dtypes.StringDType())),
        "o": ("sample", np.array(["é", "bb"] * 3, dtype=object)),
        "t": ("sample", np.array(["2026-01-01"] * 6, dtype="M8[ns]")),
    }
    lazy = xr.DataArray(da.from_array(X, chunks=(2, 4, 5)), dims=("sample", "x", "y"), coords=names)
    assert_array_equal(materialize(lazy, tmp_path / "r.zarr", progress=False).a, names["a"][1])


# Importers.


def test_import__refuses_objects_of_format_2(tmp_path, marker):
    plant(tmp_path / "array.zarr", old_array((4, 5)), marker)
    plant(tmp_path / "group.zarr" / "image", old_array((4, 5)), marker)
    (tmp_path / "group.zarr" / ".zgroup").write_text('{"zarr_format": 2}')
    plant(tmp_path / "ome.zarr" / "0", old_array((4, 5)), marker)
    (tmp_path / "ome.zarr" / ".zgroup").write_text('{"zarr_format": 2}')
    (tmp_path / "ome.zarr" / ".zattrs").write_text(json.dumps({"multiscales": [{"datasets": [{"path": "0"}]}]}))
    for name in ("array.zarr", "group.zarr", "ome.zarr"):
        with pytest.raises(ValueError, match=rf"{name} will not be opened.*has the dtype '\|O', which is not a number"):
            import_images(tmp_path / name, tmp_path / "out.zarr")
        result = CliRunner().invoke(main, ["import", str(tmp_path / name), str(tmp_path / "out.zarr")])
        assert result.exit_code == 1
        assert "will not be opened" in result.output
    assert not (tmp_path / "out.zarr").exists()


def test_import__refuses_coordinates_that_are_pickled(tmp_path, marker):
    xr.Dataset({"image": (("x", "y"), X[0])}, coords={"x": np.arange(4.0), "y": np.arange(5.0)}).to_zarr(
        tmp_path / "a.zarr", zarr_format=2, consolidated=True
    )
    shutil.rmtree(tmp_path / "a.zarr" / "x")
    plant(tmp_path / "a.zarr" / "x", old_array([4]), marker, {"_ARRAY_DIMENSIONS": ["x"]})
    with pytest.raises(ValueError, match="its array 'x' has the dtype"):
        import_images(tmp_path / "a.zarr", tmp_path / "out.zarr")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"filters": [{"id": "pickle"}]}, "the codec 'pickle'"),
        ({"compressor": {"id": "pickle"}}, "the codec 'pickle'"),
        ({"filters": [{"id": "json2"}]}, "the codec 'json2'"),
        ({"dtype": [["a", "|O"], ["b", "<f8"]]}, "the dtype"),
        ({"filters": [{"id": "astype", "encode_dtype": "|O", "decode_dtype": "<f8"}]}, "encode_dtype '|O'"),
        ({"dtype": "nonsense"}, "the dtype 'nonsense'"),
        ({"compressor": {"id": "zlib"}, "filters": [{"id": "gzip"}]}, "2 compressors one after the other (zlib, gzip)"),
        ({"filters": [{"id": "packbits"}, {"id": "packbits"}]}, "the same filter twice (packbits, packbits)"),
        ({"chunks": [4, 0]}, "in chunks of shape [4, 0]"),
        ({"shape": [10**9, 5], "chunks": [1, 5]}, "1000000000 chunks"),
    ],
)
def test_import__refuses_codecs_that_are_not_listed(tmp_path, marker, change, told):
    plant(tmp_path / "a.zarr", old_array((4, 5), (), "<f8") | change, marker)
    with pytest.raises(ValueError, match=r"a.zarr will not be opened") as caught:
        import_images(tmp_path / "a.zarr", tmp_path / "out.zarr")
    assert told in str(caught.value)


def test_import__refuses_codecs_of_format_3_that_are_not_listed(tmp_path, marker):
    zarr.create_array(tmp_path / "a.zarr", data=X[0] * 1.0)
    edited(tmp_path / "a.zarr" / "zarr.json", lambda metadata: metadata["codecs"].append({"name": "numcodecs.pickle"}))
    with pytest.raises(ValueError, match=r"a.zarr will not be opened, because it has the codec 'numcodecs.pickle'"):
        import_images(tmp_path / "a.zarr", tmp_path / "out.zarr")


COMPRESSORS = [
    None,
    numcodecs.Blosc("zstd"),
    numcodecs.Zlib(),
    numcodecs.GZip(),
    numcodecs.Zstd(),
    numcodecs.LZ4(),
    numcodecs.BZ2(),
    numcodecs.LZMA(),
]
FILTERS = [
    numcodecs.Delta("<f8"),
    numcodecs.Shuffle(8),
    numcodecs.FixedScaleOffset(0, 1, "<f8", "<i4"),
    numcodecs.Quantize(3, "<f8"),
    numcodecs.BitRound(40),
    numcodecs.AsType("<f4", "<f8"),
]


@pytest.mark.parametrize("number", range(len(COMPRESSORS) + len(FILTERS)))
def test_import__reads_plain_codecs_of_format_2(tmp_path, number):
    compressor = COMPRESSORS[number] if number < len(COMPRESSORS) else None
    filters = None if number < len(COMPRESSORS) else [FILTERS[number - len(COMPRESSORS)]]
    for name in ("array.zarr", "group.zarr/image"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        if "/" in name:
            zarr.create_group(tmp_path / "group.zarr", zarr_format=2)
        array = zarr.create_array(
            tmp_path / name,
            shape=X.shape,
            dtype="<f8",
            chunks=(3, 4, 5),
            zarr_format=2,
            compressors=compressor,
            filters=filters,
        )
        array[:] = X
        stored = import_images(tmp_path / name.split("/")[0], tmp_path / f"{number}-{len(name)}.zarr", axes="sxy")
        assert_array_equal(stored.microstructure, X)


def test_import__reads_what_stands_beside_other_arrays(tmp_path, marker):
    group = zarr.create_group(tmp_path / "g.zarr", zarr_format=2)
    group.create_array("image", data=X)
    plant(tmp_path / "g.zarr" / "table", old_array([3]), marker)
    assert_array_equal(import_images(tmp_path / "g.zarr", tmp_path / "out.zarr", axes="sxy").microstructure, X)


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_import__unpickles_no_objects_of_numpy(tmp_path, marker, suffix):
    objects = np.empty((2, 2), dtype=object)
    objects[:] = Bomb(marker)
    path = tmp_path / f"objects.{suffix}"
    np.save(path, objects, allow_pickle=True) if suffix == "npy" else np.savez(path, objects)
    with pytest.raises(ValueError, match=f"objects.{suffix}.* cannot be read as an array of numbers"):
        import_images(path, tmp_path / "out.zarr")


def test_fit__unpickles_no_response(tmp_path, marker):
    create_ensemble(tmp_path / "e.zarr", X)
    objects = np.empty(6, dtype=object)
    objects[:] = Bomb(marker)
    np.save(tmp_path / "y.npy", objects, allow_pickle=True)
    arguments = ["fit", tmp_path / "e.zarr", tmp_path / "m.zarr", "--response", tmp_path / "y.npy"]
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == 1
    assert "allow_pickle=False" in result.output


@pytest.mark.usefixtures("codecs_unpickle")
def test_bomb__goes_off_where_nothing_is_checked(tmp_path):
    # Otherwise these tests would prove nothing.
    plant(tmp_path / "a.zarr", old_array((1,)), tmp_path / "marker")
    with pytest.raises(Exception):  # noqa: B017, PT011
        zarr.open_array(tmp_path / "a.zarr", mode="r")[:].tolist()
    assert (tmp_path / "marker").exists()
