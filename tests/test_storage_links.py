"""Links in stores: what lies outside of a store is read only by request, and refused by name otherwise."""

import functools
import os
import shutil
from pathlib import Path
from unittest.mock import patch

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner
from numpy.testing import assert_array_equal

from mksdask import (
    PrimitiveBasis,
    append_ensemble,
    create_ensemble,
    create_volume,
    load_model,
    open_ensemble,
    open_volume,
    save_model,
)
from mksdask.cli import main
from mksdask.exporters import export
from mksdask.importers import import_images
from mksdask.localization import MKSLocalizationModel
from mksdask.reduction import IncrementalPCA
from mksdask.stats import correlate_volume
from mksdask.stats.all_lags import _Passes
from mksdask.storage import materialize, open_store, repair, verify
from mksdask.storage.links import files_in, link_out

V = np.random.default_rng(0).integers(0, 2, (8, 8, 8)).astype("uint8")
CHUNK, FOLDER, ARRAY, METADATA = "c/1/0/1", "c/1", "", "zarr.json"


def moved(store, place, name):
    """Move a file or a folder of a store to another place, and leave a link to it, as programs do that manage data."""
    path, target = (store / name) if name else store, place / "elsewhere"
    place.mkdir(exist_ok=True)
    shutil.move(path, target)
    path.symlink_to(target)
    return target


def volume(path, maker):
    """Make a volume by this package, or by xarray, whose chunks have no checksums."""
    if maker == "mksdask":
        create_volume(path, V, chunks=4)
    else:
        array = xr.DataArray(V, dims=["x", "y", "z"], name="microstructure")
        encoding = {"microstructure": {"chunks": (4, 4, 4)}}
        array.to_dataset().to_zarr(path, zarr_format=3, consolidated=False, encoding=encoding)
    return path / "microstructure"


@pytest.mark.parametrize("maker", ["mksdask", "xarray"])
@pytest.mark.parametrize("name", [CHUNK, FOLDER, ARRAY, METADATA])
def test_open__refuses_links_out_of_a_store(tmp_path, maker, name):
    store = tmp_path / "v.zarr"
    array = volume(store, maker)
    target = moved(array, tmp_path / "private", name)
    told = rf"v.zarr holds microstructure/?{name}.*, which leads by a link to {target}.*pass follow_links=True"
    with pytest.raises(ValueError, match=told):
        open_volume(store).microstructure.compute()
    if maker == "mksdask" and name == CHUNK:
        # An object of a store of this package is found when it is read.
        assert_array_equal(open_volume(store).microstructure[:4], V[:4])
    assert_array_equal(open_volume(store, follow_links=True).microstructure, V)
    assert_array_equal(open_store(store, follow_links=True).microstructure, V)


@pytest.mark.parametrize("name", [CHUNK, ARRAY])
def test_info__has_an_option_for_links(tmp_path, name):
    moved(volume(tmp_path / "v.zarr", "mksdask"), tmp_path / "private", name)
    line = ["info", str(tmp_path / "v.zarr"), "--fractions"]
    refused, followed = (CliRunner().invoke(main, [*line, *options]) for options in ([], ["--follow-links"]))
    assert refused.exit_code == 1
    assert "pass --follow-links" in refused.output
    assert followed.exit_code == 0, followed.output


@pytest.mark.parametrize("maker", ["mksdask", "xarray"])
def test_open__follows_links_that_stay_in_a_store(tmp_path, maker):
    store = tmp_path / "v.zarr"
    array = volume(store, maker)
    (array / CHUNK).unlink()
    (array / CHUNK).symlink_to("../../0/0/1")
    expected = V.copy()
    expected[4:, :4, 4:] = V[:4, :4, 4:]
    link = tmp_path / "link.zarr"
    link.symlink_to(store)
    for place in (store, link):
        assert_array_equal(open_volume(place).microstructure, expected)
        assert verify(place).is_sound


def test_open__counts_chunks_of_others_behind_links(tmp_path):
    store = tmp_path / "v.zarr"
    target = moved(volume(store, "xarray"), tmp_path / "private", FOLDER)
    shutil.rmtree(target / "1")
    with pytest.raises(ValueError, match="lacks 2 of 8 chunks of its array 'microstructure'"):
        open_volume(store, follow_links=True)
    # A chunk that is changed after the store was opened is refused behind a link too.
    (target / "1").mkdir()
    for number in "01":
        shutil.copy(target / "0" / number, target / "1" / number)
    opened = open_volume(store, follow_links=True).microstructure
    os.utime(target / "0" / "1", ns=(2**62, 2**62))
    with pytest.raises(ValueError, match="was changed, replaced or removed after it was opened"):
        opened.compute()


def test_open__takes_a_link_to_nothing_for_a_chunk_that_is_missing(tmp_path):
    store = tmp_path / "v.zarr"
    moved(volume(store, "mksdask"), tmp_path / "private", CHUNK).unlink()
    with pytest.raises(ValueError, match="chunk c/1/0/1 of its array 'microstructure' is missing"):
        open_volume(store).microstructure.compute()


def test_open__refuses_links_of_samples_and_models(tmp_path):
    X = V.reshape(8, 8, 8)
    create_ensemble(tmp_path / "e.zarr", X, X.mean(axis=(1, 2)), chunks=4)
    moved(tmp_path / "e.zarr" / "response", tmp_path / "private", ARRAY)
    with pytest.raises(ValueError, match=r"e.zarr holds response/zarr.json, which leads by a link"):
        open_ensemble(tmp_path / "e.zarr")
    assert_array_equal(open_ensemble(tmp_path / "e.zarr", follow_links=True).response, X.mean(axis=(1, 2)))
    model = MKSLocalizationModel(PrimitiveBasis(2)).fit(X, X.astype(float))
    save_model(model, tmp_path / "m.zarr")
    member = next(path for path in (tmp_path / "m.zarr").rglob("c") if path.parent.parent == tmp_path / "m.zarr")
    member.rename(tmp_path / "taken")
    member.symlink_to(tmp_path / "taken")
    with pytest.raises(ValueError, match=r"m.zarr holds .*, which leads by a link to .*taken"):
        load_model(tmp_path / "m.zarr")


def test_verify__lists_links_as_damage_and_repair_replaces_them(tmp_path):
    volume(tmp_path / "v.zarr", "mksdask")
    lazy = open_volume(tmp_path / "v.zarr").microstructure.data + 1
    materialize(lazy, tmp_path / "r.zarr", progress=False)
    target = moved(tmp_path / "r.zarr" / "result", tmp_path / "private", CHUNK)
    found, known = verify(tmp_path / "r.zarr"), target.read_bytes()
    assert [(each.chunk, each.kind) for each in found.damage] == [
        ("chunk c/1/0/1", "is a link that leads out of the store")
    ]
    assert verify(tmp_path / "r.zarr", follow_links=True).is_sound
    assert "--follow-links" in CliRunner().invoke(main, ["verify", "--help"]).output
    assert len(repair(tmp_path / "r.zarr", lazy)) == 1
    assert not (tmp_path / "r.zarr" / "result" / CHUNK).is_symlink()
    assert verify(tmp_path / "r.zarr").is_sound
    assert target.read_bytes() == known
    # Nothing is written through a folder that is a link.
    target.unlink()
    target = moved(tmp_path / "r.zarr" / "result", tmp_path / "private", FOLDER)
    with pytest.raises(ValueError, match=r"r.zarr holds result/c/1/0, which leads by a link"):
        repair(tmp_path / "r.zarr", lazy)


def test_import__refuses_links_out_of_a_store(tmp_path):
    array = zarr.create_array(tmp_path / "a.zarr", shape=V.shape, chunks=(4, 4, 4), dtype="u1")
    array[:] = V
    group = zarr.open_group(tmp_path / "g.zarr", mode="w")
    group.create_array("image", shape=V.shape, chunks=(4, 4, 4), dtype="u1")[:] = V
    moved(tmp_path / "a.zarr", tmp_path / "private", CHUNK)
    moved(tmp_path / "g.zarr" / "image", tmp_path / "other", ARRAY)
    for name, told in (("a.zarr", "c/1/0/1"), ("g.zarr", "image/zarr.json")):
        with pytest.raises(ValueError, match=rf"{name} holds {told}, which leads by a link .*--follow-links"):
            import_images(tmp_path / name, tmp_path / "v.zarr", axes="xyz")
        found = import_images(tmp_path / name, tmp_path / f"of-{name}", axes="xyz", follow_links=True)
        assert_array_equal(found.microstructure, V)


def test_link_out__finds_where_names_lead(tmp_path):
    (tmp_path / "s" / "a").mkdir(parents=True)
    (tmp_path / "other").write_text("")
    (tmp_path / "s" / "a" / "f").symlink_to("../../other")
    (tmp_path / "s" / "b").symlink_to("a")
    (tmp_path / "s" / "loop").symlink_to("loop")
    (tmp_path / "s" / "up").symlink_to(".")
    root = str(tmp_path / "s")
    assert link_out(root, "a/f") == link_out(root, "b/f") == link_out(root, "up/up/a/f") == str(tmp_path / "other")
    assert link_out(root, "../other") == str(tmp_path / "other")
    assert link_out(root, "a/nothing") is link_out(root, "b") is link_out(root, "loop") is link_out(root, "b/x") is None
    assert sorted(files_in(Path(root), follow_links=False)) == ["a/f", "b", "loop", "up"]
    # A circle of links ends.
    assert set(files_in(Path(root), follow_links=True)) >= {"a/f", "b/f"}


def append(place):
    append_ensemble(place / "a.zarr", V + 1)


def replace(place):
    create_ensemble(place / "a.zarr", V + 1, mode="w")


def complete(place):
    """Go on with what a call left that was stopped half-way."""
    materialize(CubedUnless(None).lazy(), place / "a.zarr", progress=False, resume=True)


def mend(place):
    """Compute a chunk again whose bytes are damaged; the hard link of the chunk is damaged with it."""
    assert len(repair(place / "a.zarr", CubedUnless(None).lazy())) == 1


class CubedUnless:
    """The cube of a volume in blocks, of which one fails."""

    def __init__(self, failing):
        self.failing = failing

    def __call__(self, block, block_info=None):
        if self.failing and block_info[0]["chunk-location"] == self.failing:
            msg = "a full disk"
            raise OSError(msg)
        return block.astype("f8") ** 3

    def __dask_tokenize__(self):
        return "cubed"

    def lazy(self):
        return da.from_array(V, chunks=4).map_blocks(self, dtype="f8", meta=np.empty((0, 0, 0)), token="cubed")


def stop_halfway(place):
    with pytest.raises(OSError, match="a full disk"):
        materialize(CubedUnless((1, 1, 1)).lazy(), place / "a.zarr", progress=False, resume=True)


def damage(place):
    materialize(CubedUnless(None).lazy(), place / "a.zarr", progress=False)
    chunk = place / "a.zarr" / "result" / CHUNK
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)


def model(value):
    def save(place):
        save_model(MKSLocalizationModel(PrimitiveBasis(2)).fit(V, value * V), place / "a.zarr")

    return save


def pca(value):
    def save(place):
        rows = np.random.default_rng(0).normal(size=(9, 4))
        IncrementalPCA(2).fit(value * rows).save(place / "a.zarr")

    return save


def exported(value):
    def call(place):
        export(xr.DataArray(value * V, dims=("x", "y", "z")), place / "a.vti", mode="w")

    return call


def all_lags(place):
    correlate_volume(V, PrimitiveBasis(2), scratch=place / "a.zarr", cutoff=None)


def stop_after_two_passes(place):
    @functools.wraps(_Passes.at_lags)
    def failing(*_):
        msg = "a full disk"
        raise OSError(msg)

    with patch.object(_Passes, "at_lags", failing), pytest.raises(OSError, match="a full disk"):
        all_lags(place)


@pytest.mark.filterwarnings("ignore:the first order")
@pytest.mark.parametrize(
    ("make", "change"),
    [
        (lambda place: create_ensemble(place / "a.zarr", V), append),
        (lambda place: create_ensemble(place / "a.zarr", V), replace),
        (stop_halfway, complete),
        (damage, mend),
        (model(1), model(2)),
        (pca(1), pca(2)),
        (exported(1), exported(2)),
        (stop_after_two_passes, all_lags),
    ],
    ids=["append", "replace", "resume", "repair", "model", "pca", "export", "scratch"],
)
def test_writes__never_go_through_hard_links(tmp_path, make, change):
    """Whoever keeps a copy of hard links, as programs for backups do, keeps what was there."""
    place, copy = tmp_path / "here", tmp_path / "copy"
    place.mkdir()
    make(place)
    shutil.copytree(place, copy, copy_function=os.link)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert before
    change(place)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before
    # Some of what was there before was replaced or removed.
    assert [path for path in before if path.stat().st_nlink == 1]
