"""Damage of stores: each byte of each file of each kind of store is read as it was written, or refused."""

import io
import json
import pickle
import random
import shutil
from contextlib import suppress
from pathlib import Path

import dask
import dask.array as da
import fsspec
import numpy as np
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner
from numpy.testing import assert_array_equal
from zarr.codecs import BloscCodec, Crc32cCodec

from mksdask import (
    MKSHomogenizationModel,
    MKSLocalizationModel,
    PrimitiveBasis,
    append_ensemble,
    create_ensemble,
    create_volume,
    load_model,
    open_ensemble,
    open_volume,
    save_model,
    verify,
)
from mksdask.cli import main
from mksdask.importers import import_images
from mksdask.reduction import IncrementalPCA
from mksdask.stats import correlate, correlate_volume
from mksdask.storage import checksums, materialize, open_store
from mksdask.storage.arrays import create_array
from mksdask.storage.atomic import SEAL, Location, seal
from mksdask.storage.errors import DamageError
from mksdask.storage.opening import open_array, open_dataset
from mksdask.storage.scratch import spill
from mksdask.storage.tables import write_table
from tests.conftest import some_slow

RNG = np.random.default_rng(0)
X = RNG.integers(0, 2, (7, 6, 5)).astype("uint8")
VOLUME = RNG.integers(0, 3, (9, 8, 7)).astype("uint8")


def make_ensemble(url):
    create_ensemble(url, X, np.arange(7.0), spacing=0.5, units="um", phases=["pore", "grain"], chunks=4)
    append_ensemble(url, X[:2], np.arange(2.0))


def make_result(url):
    create_ensemble(f"{url}.input", X, phases=["pore", "grain"], chunks=3)
    f = correlate(open_ensemble(f"{url}.input").microstructure, PrimitiveBasis(2))
    materialize(f, url, progress=False)
    shutil.rmtree(f"{url}.input")


def make_table(url):
    values = xr.Dataset({"prediction": ("sample", np.arange(5.0)), "std": ("sample", np.ones(5))})
    write_table(
        values.assign_coords(name=("sample", np.array(list("abcde"), dtype=np.dtypes.StringDType()))),
        Path(url),
        overwrite=False,
    )


def make_model(url):
    y = X.mean(axis=(1, 2)) + np.arange(7.0)
    save_model(MKSHomogenizationModel(PrimitiveBasis(2), n_components=2, degree=2).fit(X, y), url)


def make_localization(url):
    save_model(MKSLocalizationModel(PrimitiveBasis(2)).fit(X, X * 2.0 + np.roll(X, 1, axis=1)), url)


def make_scratch(url):
    lazy = da.from_array(RNG.random((8, 90)), chunks=(3, 90))
    with suppress(KeyboardInterrupt), spill(lazy, Path(url).parent, width=40, resume="token") as rows:
        shutil.copytree(rows.url, url)


def make_tile_sums(url):
    correlate_volume(VOLUME, PrimitiveBasis(3), cutoff=2, scratch=url)


def make_all_lags(url):
    correlate_volume(VOLUME, PrimitiveBasis(3), cutoff=None, scratch=url)


def make_field(url):
    lazy = da.from_array(RNG.random((4, 6, 5)).astype("float32"), chunks=(2, 6, 5))
    materialize(xr.DataArray(lazy, dims=("sample", "x", "y"), name="field"), url, progress=False)


def read_dataset(url):
    return open_dataset(Location.of(url), chunks={}).load()


def read_matrix(url):
    return open_array(Location.of(url), "rows")[:]


def read_model(url):
    # What is pickled are all numbers and names of the model.
    model = load_model(url)
    return pickle.dumps(model.predict(X) if isinstance(model, MKSHomogenizationModel) else model.coef_)


STORES = {
    "ensemble": (make_ensemble, lambda url: open_ensemble(url).load()),
    "volume": (lambda url: create_volume(url, VOLUME, chunks=5, spacing=2.0), lambda url: open_volume(url).load()),
    "orientations": (
        lambda url: create_volume(url, RNG.random((5, 4, 3)), phase=VOLUME[:5, :4, 0], spacing=(1.0, 1.0), chunks=3),
        lambda url: open_store(url).load(),
    ),
    "statistics": (make_result, read_dataset),
    "field": (make_field, read_dataset),
    "predictions": (make_table, read_dataset),
    "model": (make_model, read_model),
    "localization": (make_localization, read_model),
    "pca": (
        lambda url: IncrementalPCA(2).partial_fit(X.reshape(7, -1) * 1.0).save(url),
        lambda url: pickle.dumps(IncrementalPCA.load(url).partial_fit(X.reshape(7, -1)).components_),
    ),
    "scratch": (make_scratch, read_matrix),
    "tile sums": (make_tile_sums, read_dataset),
    "all lags": (make_all_lags, read_dataset),
}


def is_same(found, expected):
    if isinstance(expected, xr.Dataset):
        return found.identical(expected)
    return found == expected if isinstance(expected, bytes) else np.array_equal(found, expected)


@pytest.fixture(scope="module", params=some_slow(STORES, ["volume", "localization", "pca", "scratch", "tile sums"]))
def kind(request, tmp_path_factory):
    """A store of each kind, how it is read, and what is read."""
    url = tmp_path_factory.mktemp("store") / "s.zarr"
    makes, reads = STORES[request.param]
    makes(str(url))
    return url, reads, reads(str(url))


def files_of(url):
    return sorted(path for path in Path(url).rglob("*") if path.is_file())


def check_refused_or_same(url, path, reads, expected, what):
    """Reading fails with a message that names the store, and the array and the chunk, or gives what was written."""
    name, _, key = path.relative_to(url).as_posix().rpartition("/c")
    error: Exception | None = None
    try:
        found = reads(str(url))
    except (ValueError, FileNotFoundError) as caught:
        error = caught
    if error is None:
        assert is_same(found, expected), (path, what)
        return False
    assert "s.zarr" in str(error), (path, what)
    if name:
        # A model says in its own words which of its chunks is not of the right size.
        told = str(error).replace(f"chunk {name}/c{key}", f"chunk c{key} of its array '{name}'")
        assert f"chunk c{key} of its array '{name}'" in told, (path, what, repr(error))
        assert isinstance(error, DamageError) or "Save the model again" in told
        assert f"mksdask verify {url}" in told or "Save the model again" in told
    return True


def test_read__flipped_bytes_are_never_taken_for_data(kind):
    url, reads, expected = kind
    draw = random.Random(0)
    for path in files_of(url):
        content = path.read_bytes()
        is_metadata = path.name == "zarr.json"
        positions = range(len(content))
        for position in draw.sample(positions, min(len(content), 40 if is_metadata else 12)):
            changed = bytearray(content)
            changed[position] ^= 1 << draw.randrange(8)
            path.write_bytes(bytes(changed))
            is_refused = check_refused_or_same(url, path, reads, expected, f"bit of byte {position}")
            assert is_refused or is_metadata
            assert is_refused == (not verify(url).is_sound) if not is_metadata else True
        path.write_bytes(content)
    assert is_same(reads(str(url)), expected)


@pytest.mark.parametrize("damage", ["delete", "empty", "truncate", "truncate by one", "extend"])
def test_read__files_that_are_not_whole_are_never_taken_for_data(kind, damage):
    url, reads, expected = kind
    for path in files_of(url):
        content = path.read_bytes()
        if damage == "delete":
            path.unlink()
        else:
            parts = {"empty": b"", "truncate": content[: len(content) // 2], "truncate by one": content[:-1]}
            path.write_bytes(parts.get(damage, content + b"\0"))
        is_refused = check_refused_or_same(url, path, reads, expected, damage)
        if path.name != "zarr.json":
            assert is_refused
            assert any(found.array == path.relative_to(url).parts[0] for found in verify(url).damage)
        elif path.parent != url:
            assert is_refused or not verify(url).is_sound
        path.write_bytes(content)
    assert verify(url).is_sound
    assert is_same(reads(str(url)), expected)


def test_store__every_chunk_has_a_checksum(kind):
    url, _, _ = kind
    found = verify(url)
    assert found.is_sound
    assert found.n_unchecked == 0
    assert found.n_chunks >= 1
    for path in url.glob("*/zarr.json"):
        codecs = json.loads(path.read_text())["codecs"]
        if codecs[0]["name"] == "sharding_indexed":
            assert codecs[0]["configuration"]["index_codecs"][-1]["name"] == "crc32c"
            codecs = codecs[0]["configuration"]["codecs"]
        assert codecs[-1]["name"] == "crc32c"


def test_verify__counts_and_names_what_is_damaged(tmp_path):
    url = tmp_path / "v.zarr"
    create_volume(url, RNG.integers(0, 255, (140, 130, 70)).astype("uint8"), chunks=128)
    # 2 × 2 × 1 shards hold 3 × 3 × 2 chunks of 64³ that lie in the array, and there are 3 coordinates.
    assert (verify(url).n_chunks, verify(url).n_unchecked) == (3 * 3 * 2 + 3, 0)
    first, second = url / "microstructure/c/0/0/0", url / "microstructure/c/1/1/0"
    content = bytearray(first.read_bytes())
    content[5] ^= 1
    first.write_bytes(bytes(content))
    second.unlink()
    (url / "x/c/0").write_bytes(b"")
    with dask.config.set(scheduler="threads"):
        found = verify(url)
    assert {(each.array, each.chunk, each.kind) for each in found.damage} == {
        ("microstructure", "part 0, 0, 0 of chunk c/0/0/0", "has a checksum that is not the stored one"),
        ("microstructure", "chunk c/1/1/0", "is missing"),
        ("x", "chunk c/0", "is empty"),
    }
    assert found.n_chunks == 3 * 3 * 2 + 3 - 1 - 2 - 1
    result = CliRunner().invoke(main, ["verify", str(url)])
    assert result.exit_code == 1
    assert "microstructure: chunk c/1/1/0 is missing" in result.output
    assert "v.zarr is damaged in 3 places" in result.output


def test_read__through_fsspec():
    url = "memory://checks/e.zarr"
    create_ensemble(url, X, chunks=2)
    assert verify(url).n_chunks == 4 + 2
    assert_array_equal(open_ensemble(url).microstructure, X)
    fs = fsspec.filesystem("memory")
    content = fs.cat_file("/checks/e.zarr/microstructure/c/1/0/0")
    fs.pipe_file("/checks/e.zarr/microstructure/c/1/0/0", content[:3] + b"?" + content[4:])
    fs.rm("/checks/e.zarr/microstructure/c/2/0/0")
    assert {each.kind for each in verify(url).damage} == {"has a checksum that is not the stored one", "is missing"}
    for sample, told in ((2, "part 0, 0, 0 of chunk c/1/0/0"), (4, "chunk c/2/0/0")):
        with pytest.raises(DamageError, match=rf"memory://.*e.zarr is damaged: {told} of its array 'microstructure'"):
            open_ensemble(url).microstructure[sample].compute()
    fs.rm("/checks", recursive=True)


def test_read__damage_is_told_by_workers(tmp_path, client):
    create_ensemble(tmp_path / "e.zarr", np.zeros((9, 4, 4), dtype="uint8"), chunks=3)
    (tmp_path / "e.zarr/microstructure/c/1/0/0").unlink()
    stored = open_ensemble(tmp_path / "e.zarr").microstructure
    with client.as_current():
        assert not stored[:3].values.any()
        with pytest.raises(
            DamageError, match=r"e.zarr is damaged: chunk c/1/0/0 of its array 'microstructure' is miss"
        ):
            stored.mean().compute()
        found = verify(tmp_path / "e.zarr")
    assert [(each.array, each.chunk, each.kind) for each in found.damage] == [
        ("microstructure", "chunk c/1/0/0", "is missing")
    ]


def test_read__a_part_that_the_index_of_a_shard_lacks_is_missing(tmp_path):
    # A writer that leaves out zeros leaves shards whose index and checksums are right.
    url = tmp_path / "v.zarr"
    create_volume(url, np.ones((150, 70, 20), dtype="uint8"), chunks=128)
    with zarr.config.set({"array.write_empty_chunks": False}):
        zarr.open_array(url / "microstructure", mode="r+")[64:128, :64] = 0
    stored = open_volume(url).microstructure
    assert_array_equal(stored[128:], 1)
    for part in (stored[70], stored):
        with pytest.raises(
            DamageError, match=r"part 1, 0, 0 of chunk c/0/0/0 of its array 'microstructure' is missing"
        ):
            part.compute()
    assert [each.chunk for each in verify(url).damage] == ["part 1, 0, 0 of chunk c/0/0/0"]


@pytest.mark.parametrize("is_compressed", [True, False])
@pytest.mark.parametrize("parts", [None, (2, 3)])
def test_write__files_are_those_of_the_codec_of_zarr(tmp_path, parts, is_compressed):
    values = np.random.default_rng(1).random((9, 10)).round(1)
    values[:4] = 0
    groups = [zarr.open_group(tmp_path / name, mode="w") for name in ("ours.zarr", "theirs.zarr")]
    theirs = [
        create_array(
            group, "a", shape=values.shape, dtype=values.dtype, objects=(4, 6), parts=parts, is_compressed=is_compressed
        )
        for group in groups
    ][1]
    ours = open_array(Location.of(tmp_path / "ours.zarr"), "a", mode="r+")
    # A part of a shard, then more of it, a longer array, a shorter one, and an object anew.
    for array in (ours, theirs):
        array[:2, :3] = values[:2, :3]
        array[...] = values
        array.resize((12, 10))
        array[8:] = 2.5
        array.resize((10, 10))
        array[:4] = values[4:8]
    files = sorted(path.relative_to(tmp_path / "ours.zarr") for path in (tmp_path / "ours.zarr").rglob("*.*"))
    files += sorted(path.relative_to(tmp_path / "ours.zarr") for path in (tmp_path / "ours.zarr/a/c").rglob("[0-9]*"))
    assert sum((tmp_path / "ours.zarr" / name).is_file() for name in files) == 2 + 3 * 2
    for name in files:
        ours, theirs = (tmp_path / folder / name for folder in ("ours.zarr", "theirs.zarr"))
        assert theirs.is_dir() if ours.is_dir() else ours.read_bytes() == theirs.read_bytes(), name


def test_read__one_chunk_without_compression_is_not_copied(tmp_path, monkeypatch):
    values = RNG.random((9, 10))
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    create_array(group, "a", shape=(9, 10), dtype=values.dtype, objects=(4, 5), is_compressed=False)
    seal(Location.of(tmp_path / "a.zarr"), {"mksdask": "result", "members": ["a"]}, members=True)
    open_array(Location.of(tmp_path / "a.zarr"), "a", mode="r+")[...] = values
    stored = open_array(Location.of(tmp_path / "a.zarr"), "a")
    read, found = checksums._read, []

    def reading(path, span):
        found.append(read(path, span))
        return found[-1]

    monkeypatch.setattr(checksums, "_read", reading)
    for whole in ((slice(4, 8), slice(5)), (slice(8, 9), slice(5, 10)), (slice(4, 8), slice(5, None))):
        block = stored[whole]
        assert_array_equal(block, values[whole])
        assert block.flags.writeable
        is_whole = block.shape == (4, 5)
        assert np.shares_memory(block, found.pop()) == is_whole
    for part in (
        (slice(1, 7), slice(3, 8)),
        slice(4),
        (3, slice(5)),
        ...,
        (slice(None), 2),
        (slice(0, 8, 2), slice(5)),
    ):
        assert_array_equal(stored[part], values[part])
    assert_array_equal(pickle.loads(pickle.dumps(da.from_zarr(stored))).compute(), values)


def test_write__zeros_are_written_everywhere(tmp_path):
    url = tmp_path / "e.zarr"
    create_ensemble(url, np.zeros((4, 3, 3), dtype="uint8"), np.zeros(4), chunks=2)
    append_ensemble(url, np.zeros((3, 3, 3), dtype="uint8"), np.zeros(3))
    assert verify(url).n_chunks == 2 * 4 + 2
    assert not open_ensemble(url).microstructure.values.any()
    lazy = da.zeros((6, 4), chunks=(2, 4))
    assert not materialize(lazy, tmp_path / "r.zarr", progress=False).compute().any()


def test_read__a_result_that_is_not_complete_says_so(tmp_path):
    lazy = da.arange(6, chunks=2).map_blocks(_fails_at, dtype=int)
    with dask.config.set(scheduler="sync"), pytest.raises(OSError, match="disk is full"):
        materialize(lazy, tmp_path / "r.zarr", progress=False)
    with pytest.raises(DamageError, match=r"chunk c/1 of its array 'result' is missing; the store is not complete"):
        read_dataset(tmp_path / "r.zarr")


def _fails_at(block, block_id=None):
    if block_id == (1,):
        msg = "disk is full"
        raise OSError(msg)
    return block


def test_materialize__makes_a_chunk_that_was_removed_again(tmp_path):
    lazy = da.arange(6, chunks=2)
    materialize(lazy, tmp_path / "r.zarr", progress=False)
    (tmp_path / "r.zarr/result/c/1").unlink()
    assert_array_equal(materialize(lazy, tmp_path / "r.zarr", progress=False), np.arange(6))


def test_append__refuses_a_damaged_tail(tmp_path):
    create_ensemble(tmp_path / "e.zarr", X, chunks=4)
    path = tmp_path / "e.zarr/microstructure/c/1/0/0"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DamageError, match=r"chunk c/1/0/0 of its array 'microstructure' has an index"):
        append_ensemble(tmp_path / "e.zarr", X)


def test_open__refuses_other_metadata(tmp_path):
    create_ensemble(tmp_path / "e.zarr", X, spacing=0.5)
    path = tmp_path / "e.zarr/zarr.json"
    metadata = json.loads(path.read_text())
    for key in ("mksdask", "format", SEAL):
        changed = {name: value for name, value in metadata["attributes"].items() if name != key}
        path.write_text(json.dumps(metadata | {"attributes": changed}))
        with pytest.raises(ValueError, match=r"e.zarr (is damaged: zarr.json is not what|holds a ensemble of format)"):
            open_ensemble(tmp_path / "e.zarr")
    path.write_text(json.dumps(metadata))
    member = tmp_path / "e.zarr/x/zarr.json"
    member.write_text(member.read_text().replace("0.5", "0.7"))
    with pytest.raises(DamageError, match=r"zarr.json of its array 'x' is not what was written"):
        open_ensemble(tmp_path / "e.zarr")
    assert not verify(tmp_path / "e.zarr").is_sound


# Stores of other programs.


@pytest.mark.parametrize("options", [{}, {"zarr_format": 2}, {"shards": (4, 8, 7), "chunks": (2, 4, 7)}])
def test_import__missing_chunks_of_others_are_counted(tmp_path, options):
    image = VOLUME.copy()[:8]
    image[:4] = 0
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=image.shape, dtype="u1", fill_value=0, **({"chunks": (2, 4, 7)} | options)
    )
    array[:] = image
    told = r"a.zarr lacks 4 of 8 chunks of its array ''"
    with pytest.raises(ValueError, match=told + r".* nothing but 0, pass allow_missing=True, or --allow-missing"):
        import_images(tmp_path / "a.zarr", tmp_path / "v.zarr")
    with pytest.warns(UserWarning, match=told + "; they are read as 0"):
        import_images(tmp_path / "a.zarr", tmp_path / "v.zarr", axes="xyz", allow_missing=True)
    assert_array_equal(open_volume(tmp_path / "v.zarr").microstructure, image)
    assert CliRunner().invoke(main, ["import", str(tmp_path / "a.zarr"), str(tmp_path / "w.zarr")]).exit_code == 1
    if options.get("zarr_format") != 2:
        # The parts of a shard that is not there are one damage.
        assert len(verify(tmp_path / "a.zarr").damage) == (1 if "shards" in options else 4)


def test_import__whole_stores_of_others_pass(tmp_path):
    for number, options in enumerate(({}, {"zarr_format": 2}, {"shards": (4, 8, 7), "chunks": (2, 4, 7)})):
        zarr.create_array(tmp_path / f"{number}.zarr", data=VOLUME + 1, **options)
        stored = import_images(tmp_path / f"{number}.zarr", tmp_path / f"v{number}.zarr", axes="xyz")
        assert_array_equal(stored.microstructure, VOLUME + 1)


def test_open__stores_of_xarray(tmp_path):
    data = xr.Dataset({"microstructure": (("x", "y", "z"), VOLUME + 1)}, coords={"x": np.arange(9.0)})
    encoding = {"microstructure": {"chunks": (3, 4, 7), "compressors": (BloscCodec(), Crc32cCodec())}}
    data.to_zarr(tmp_path / "v.zarr", zarr_format=3, consolidated=False, encoding=encoding)
    assert_array_equal(open_volume(tmp_path / "v.zarr").microstructure, VOLUME + 1)
    found = verify(tmp_path / "v.zarr")
    assert (found.n_chunks, found.n_unchecked, found.is_sound) == (6, 1, True)
    opened = open_volume(tmp_path / "v.zarr")
    # What is lost after the store was opened is not taken for zeros either.
    (tmp_path / "v.zarr/microstructure/c/1/0/0").unlink()
    with pytest.raises(DamageError, match=r"chunk c/1/0/0 of its array 'microstructure' is missing"):
        opened.load()
    path = tmp_path / "v.zarr/microstructure/c/2/0/0"
    path.write_bytes(io.BytesIO(path.read_bytes()).read()[:-1] + b"?")
    with pytest.raises(DamageError, match=r"chunk c/2/0/0 .* has a checksum that is not the stored one"):
        opened.microstructure[8].load()
