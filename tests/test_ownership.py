"""What is not of this package is never removed, replaced or written into."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import dask
import dask.array as da
import fsspec
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner
from numpy.testing import assert_array_equal
from PIL import Image

from mksdask import (
    MKSHomogenizationModel,
    MKSLocalizationModel,
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
from mksdask.cli import main
from mksdask.datasets.responses import make_elastic_FE_strain_delta
from mksdask.importers import import_images
from mksdask.reduction import IncrementalPCA
from mksdask.stats import correlate, correlate_volume
from mksdask.storage import materialize
from mksdask.storage.atomic import MICROSTRUCTURES, RESULTS, SCRATCH, Location, attributes_of, check_ours, remove_store
from mksdask.storage.sources import recorded
from tests.conftest import some_slow

X = np.random.default_rng(0).integers(0, 2, (20, 6, 6)).astype("uint8")
VOLUME = np.random.default_rng(1).integers(0, 2, (12, 10, 8)).astype("uint8")
BASIS = PrimitiveBasis(2)

# What each command makes of its inputs, with OUT for where it goes.
COMMANDS = {
    "stats of a volume": "stats v.zarr OUT --cutoff 3 --states 2",
    "stats of an ensemble": "stats e.zarr OUT --states 2",
    "localize": "localize l.zarr e.zarr OUT",
    "predict to a store": "predict m.zarr e.zarr OUT",
    "predict to a table": "predict m.zarr e.zarr OUT",
    "import": "import scan.npy OUT",
    "fit": "fit e.zarr OUT --components 2",
}
each_command = pytest.mark.parametrize("name", COMMANDS)


def digest(folder):
    """All names below a folder, with what files hold and where links lead."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            if path.is_symlink():
                what = f"link to {path.readlink()}"
            else:
                what = "folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path.relative_to(folder))] = what
    return found


def thesis(folder):
    """A folder of somebody's own."""
    (folder / "figures").mkdir(parents=True)
    (folder / "thesis.tex").write_text(r"\documentclass{book}")
    (folder / "figures" / "plot.pdf").write_bytes(b"%PDF-1.7")
    return folder


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    y = X.mean(axis=(1, 2)) + 0.01 * np.arange(20)
    create_ensemble(folder / "e.zarr", X, y, chunks=5, periodic_axes=[0, 1])
    create_volume(folder / "v.zarr", VOLUME, chunks=6)
    np.save(folder / "scan.npy", VOLUME)
    save_model(MKSHomogenizationModel(BASIS, n_components=2, periodic_axes=[0, 1]).fit(X, y), folder / "m.zarr")
    delta = make_elastic_FE_strain_delta(elastic_modulus=(100, 130), poissons_ratio=(0.3, 0.3), size=(6, 6))
    save_model(MKSLocalizationModel(BASIS).fit(*delta), folder / "l.zarr")
    return folder


@pytest.fixture
def run(client, inputs, tmp_path, monkeypatch):
    """Call a command in a folder with a copy of the inputs."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(inputs, tmp_path, dirs_exist_ok=True)

    def call(line, *options, out=None, code=0):
        words = [str(out) if word == "OUT" else word for word in line.split()]
        result = CliRunner().invoke(main, [*words, *map(str, options), "--scheduler", client.scheduler.address])
        assert result.exit_code == code, result.output
        return result.output

    return call


def output(name, stem="out"):
    return Path(stem + (".csv" if name == "predict to a table" else ".zarr"))


def refuses(call, line, *options, out, names=None, folder=".", code=1):
    """A command refuses an output and names it, and all that is there stays as it was."""
    before = digest(folder)
    text = call(line, *options, out=out, code=code)
    assert Path(names or out).name in text
    assert digest(folder) == before
    return text


@each_command
@pytest.mark.parametrize("options", [(), ("--overwrite",), ("--overwrite", "--resume")])
def test_commands__leave_a_folder_with_a_thesis(run, name, options):
    thesis(output(name))
    refuses(run, COMMANDS[name], *options, out=output(name))


@each_command
def test_commands__leave_an_empty_folder(run, name):
    output(name).mkdir()
    refuses(run, COMMANDS[name], "--overwrite", out=output(name))


def test_python__leaves_an_empty_folder(tmp_path):
    out = tmp_path / "out.zarr"
    out.mkdir()
    with pytest.raises(
        FileExistsError, match=r"out.zarr exists and is not a store of this package but an empty folder"
    ):
        create_ensemble(out, X, mode="w")
    with pytest.raises(FileExistsError, match=r"out.zarr exists; choose another url"):
        create_ensemble(out, X)
    with pytest.raises(FileExistsError, match=r"out.zarr exists and is not a result of materialize"):
        materialize(da.from_array(X), out)
    with pytest.raises(FileExistsError, match="an empty folder"):
        save_model(MKSStructureAnalysis(BASIS, n_components=2).fit(X), out)
    assert out.is_dir()


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "predict to a table"])
@pytest.mark.parametrize("how", ["itself", "another way", "a link", "a folder in it", "the folder around it"])
def test_commands__refuse_an_input_as_output(run, name, how, tmp_path):
    line = COMMANDS[name]
    given_inputs = [word for word in line.split() if (tmp_path / word).exists()]
    if how == "the folder around it":
        (tmp_path / "around.zarr").mkdir()
        for given in given_inputs:
            shutil.move(given, "around.zarr")
        line = " ".join(f"around.zarr/{word}" if word in given_inputs else word for word in line.split())
        assert "the output around.zarr lies in or around" in refuses(run, line, "--overwrite", out="around.zarr")
        return
    for given in given_inputs:
        if how == "a folder in it" and given == "scan.npy":
            continue
        out = {
            "itself": Path(given),
            "another way": Path("elsewhere", "..", "..", tmp_path.name, given),
            "a link": Path("link.zarr"),
            "a folder in it": Path(given, "out.zarr"),
        }[how]
        Path("elsewhere").mkdir(exist_ok=True)
        if how == "a link":
            out.unlink(missing_ok=True)
            out.symlink_to(given)
        text = refuses(run, line, "--overwrite", out=out, names=given)
        assert "the output" in text
        assert str(out) in text


def test_commands__refuse_an_input_as_a_picture_or_table(run):
    shutil.copy("scan.npy", "e.png")
    pd.DataFrame({"C11": np.arange(20.0)}).to_csv("y.csv", index=False)
    for line, out in [
        ("fit e.zarr OUT --response y.csv --overwrite", "y.csv"),
        ("fit e.zarr m2.zarr --response scan.npy --overwrite --watch OUT", "scan.npy"),
        ("stats e.zarr out.zarr --overwrite --figure OUT", "e.zarr/figure.png"),
        ("stats v.zarr out.zarr --overwrite --watch OUT", "v.zarr/live.png"),
        ("stats e.zarr out.zarr --overwrite --figure OUT", "out.zarr/figure.png"),
        ("predict m.zarr e.zarr OUT --overwrite", "e.zarr/p.csv"),
    ]:
        refuses(run, line, out=out)


def test_import__refuses_its_sources_as_output(run, tmp_path):
    Path("slices").mkdir()
    for number in range(3):
        Image.fromarray(VOLUME[:, :, number] * 255).save(f"slices/{number}.png")
    for out in ("slices", "slices/out.zarr", "slices/1.png"):
        for source in ("slices", "slices/*.png"):
            if (source, out) != ("slices/*.png", "slices/out.zarr"):
                refuses(run, f"import {source} OUT --overwrite", out=out)
    with pytest.raises(ValueError, match=r"the output .*scan.npy is the input .*scan.npy"):
        import_images("scan.npy", "scan.npy", mode="w")
    assert_array_equal(np.load("scan.npy"), VOLUME)


@each_command
def test_commands__replace_what_they_make(run, name):
    out = output(name)
    run(COMMANDS[name], out=out)
    assert "pass --overwrite" in refuses(run, COMMANDS[name], out=out)
    before = sorted(os.listdir())
    run(COMMANDS[name], "--overwrite", out=out)
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "predict to a table"])
def test_commands__leave_stores_of_another_kind(run, name):
    run(COMMANDS["stats of an ensemble"], out="result.zarr")
    shutil.copytree("e.zarr", "e2.zarr")
    shutil.copytree("m.zarr", "m2.zarr")
    wrong = {"import": ("result.zarr", "m2.zarr"), "fit": ("result.zarr", "e2.zarr")}.get(name, ("e2.zarr", "m2.zarr"))
    for out in wrong:
        assert "is marked as" in refuses(run, COMMANDS[name], "--overwrite", out=out)


def test_python__leaves_stores_of_another_kind(inputs, tmp_path):
    shutil.copytree(inputs, tmp_path, dirs_exist_ok=True)
    materialize(da.from_array(X), tmp_path / "r.zarr", progress=False)
    IncrementalPCA(2).partial_fit(X.reshape(20, -1) * 1.0).save(tmp_path / "i.zarr")
    before = digest(tmp_path)
    model = load_model(tmp_path / "m.zarr")
    for name in ("e.zarr", "v.zarr", "r.zarr", "i.zarr"):
        with pytest.raises(FileExistsError, match=f"{name} is marked as .*, which is not 'model'"):
            save_model(model, tmp_path / name)
    for name in ("m.zarr", "r.zarr", "i.zarr"):
        with pytest.raises(FileExistsError, match=f"{name} is marked as .*, which is not 'ensemble' or 'volume'"):
            create_ensemble(tmp_path / name, X, mode="w")
    for name in ("e.zarr", "m.zarr", "r.zarr"):
        with pytest.raises(FileExistsError, match=f"{name} is marked as .*, which is not 'incremental-pca'"):
            IncrementalPCA(2).partial_fit(X.reshape(20, -1) * 1.0).save(tmp_path / name)
    for name in ("e.zarr", "m.zarr", "i.zarr"):
        with pytest.raises(FileExistsError, match=f"{name} exists and is not a result of materialize"):
            materialize(da.from_array(X), tmp_path / name)
        with pytest.raises(FileExistsError, match=f"{name} exists and is not a copy in scratch"):
            correlate_volume(VOLUME, BASIS, cutoff=2, scratch=tmp_path / name)
    assert digest(tmp_path) == before


def test_python__leaves_zarr_of_others(tmp_path):
    xr.Dataset({"a": ("x", np.arange(3.0))}).to_zarr(tmp_path / "group.zarr", zarr_format=3, consolidated=False)
    xr.Dataset({"a": ("x", np.arange(3.0))}).to_zarr(tmp_path / "old.zarr", zarr_format=2, consolidated=False)
    before = digest(tmp_path)
    for name in ("group.zarr", "old.zarr"):
        with pytest.raises(FileExistsError, match=f"{name} exists and is not a store of this package"):
            create_ensemble(tmp_path / name, X, mode="w")
    assert digest(tmp_path) == before


PLACES = [
    "notes.txt",
    "zarr.json.bak",
    "zarr.partial",
    "figures/plot.pdf",
    "empty/",
    "microstructure/notes.txt",
    "microstructure/c/notes.txt",
    "microstructure/c/0/0/notes.txt",
    "microstructure/c/7",
    "microstructure/c/0/0/0.txt",
    "x/c/0.bak",
    "nested.zarr/zarr.json",
    "link",
]


@pytest.mark.parametrize("place", PLACES)
def test_stores__that_hold_files_of_others_stay(run, tmp_path, place):
    shutil.copytree("e.zarr", "out.zarr")
    path = tmp_path / "out.zarr" / place
    shutil.rmtree(path, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if place == "link":
        path.symlink_to(thesis(tmp_path / "thesis"))
    elif place.endswith("/"):
        path.mkdir()
    elif place.endswith("zarr.json"):
        shutil.copytree("e.zarr", path.parent, dirs_exist_ok=True)
    else:
        path.write_text("mine")
    text = refuses(run, COMMANDS["import"], "--overwrite", out="out.zarr")
    assert f"out.zarr holds {place.split('/')[0]}" in text
    before = digest(tmp_path)
    with pytest.raises(FileExistsError, match="which this package did not write"):
        create_ensemble(tmp_path / "out.zarr", X, mode="w")
    with pytest.raises(FileExistsError, match="which this package did not write"):
        remove_store(tmp_path / "out.zarr", MICROSTRUCTURES)
    assert digest(tmp_path) == before


@pytest.mark.parametrize("kind", ["result", "model"])
def test_stores__of_results_and_models_that_hold_files_of_others_stay(run, kind):
    line = COMMANDS["localize" if kind == "result" else "fit"]
    run(line, out="out.zarr")
    Path("out.zarr", "notes.txt").write_text("mine")
    assert "out.zarr holds notes.txt" in refuses(run, line, "--overwrite", out="out.zarr")


def test_stores__of_the_package_are_known_whatever_is_in_them(tmp_path, inputs):
    url = tmp_path / "e.zarr"
    everything = {
        "phase": X,
        "confidence_index": X / 2.0,
        "spacing": 0.5,
        "units": "um",
        "phases": ["pore", "grain"],
        "chunks": 6,
    }
    create_ensemble(url, X, X.mean(axis=(1, 2)), **everything)
    append_ensemble(url, X, X.mean(axis=(1, 2)), phase=X, confidence_index=X / 2.0)
    f = correlate(open_ensemble(url).microstructure, BASIS, correlations=[(0, 0), (0, 1)])
    materialize(f.assign_coords(scalar=3), tmp_path / "f.zarr", progress=False)
    create_volume(tmp_path / "v.zarr", VOLUME, chunks=5, resume=True)
    IncrementalPCA(2).partial_fit(X.reshape(20, -1) * 1.0).save(tmp_path / "i.zarr")
    # What zarr leaves when it is killed before an object gets its name.
    (url / "microstructure" / "c" / "0" / "0" / "0.0123456789abcdef0123456789abcdef.partial").write_text("")
    (url / "zarr.0123456789abcdef0123456789abcdef.partial").write_text("")
    (url / "x" / "c" / "0.0123456789abcdef0123456789abcdef.partial").write_text("")
    for name, kinds in {
        "e.zarr": MICROSTRUCTURES,
        "v.zarr": MICROSTRUCTURES,
        "f.zarr": RESULTS,
        "i.zarr": ("incremental-pca",),
    }.items():
        remove_store(tmp_path / name, kinds)
    assert not os.listdir(tmp_path)
    for name in ("m.zarr", "l.zarr"):
        check_ours(Location.of(inputs / name), ("model",))


@pytest.mark.parametrize(
    ("line", "beside"),
    [
        ("stats v.zarr out.zarr --cutoff 3", "out.zarr.sums"),
        ("stats v.zarr out.zarr", "out.zarr.sums"),
        ("stats v.zarr out.zarr", "out.zarr.sums.planes"),
        ("stats v.zarr out.zarr", "out.zarr.sums.lines"),
        ("predict m.zarr e.zarr out.csv", "out.csv.predictions"),
        ("predict m.zarr e.zarr out.zarr", "out.zarr.predictions"),
    ],
)
@pytest.mark.parametrize("options", [(), ("--overwrite",), ("--overwrite", "--resume")])
def test_commands__leave_folders_with_the_names_of_their_copies(run, line, beside, options):
    thesis(Path(beside))
    refuses(run, line, *options, out="", names=beside)


@pytest.mark.parametrize("line", ["import scan.npy out.zarr --resume", "stats e.zarr out.zarr --resume --overwrite"])
def test_commands__leave_a_folder_with_the_name_of_their_part(run, line):
    if line.startswith("stats"):
        run("stats e.zarr out.zarr --cutoff 1")
    thesis(Path("out.zarr.partial"))
    refuses(run, line, out="", names="out.zarr.partial")


def test_predict__leaves_files_beside_its_table(run):
    Path("out.csv.partial").write_text("mine")
    run("predict m.zarr e.zarr out.csv")
    assert Path("out.csv.partial").read_text() == "mine"
    assert len(pd.read_csv("out.csv")) == 20


@pytest.mark.parametrize("name", ["planes", "lines"])
def test_all_lags__leaves_folders_with_the_names_of_its_copies(tmp_path, name):
    thesis(tmp_path / f"s.zarr.{name}")
    before = digest(tmp_path)
    with pytest.raises(FileExistsError, match=f"s.zarr.{name} exists and is not a store of this package but a folder"):
        correlate_volume(VOLUME, BASIS, cutoff=None, scratch=tmp_path / "s.zarr")
    assert digest(tmp_path) == before


@pytest.mark.parametrize("lost", [False, True])
def test_fit__leaves_files_in_its_scratch(tmp_path, lost):
    def fail(block, block_info=None):
        if block_info[0]["chunk-location"][0] == 3:
            msg = "the disk is full"
            raise OSError(msg)
        return block

    lazy = da.from_array(X, chunks=(5, 6, 6))
    broken = lazy.map_blocks(fail, dtype=X.dtype, name="same", meta=lazy._meta)
    whole = lazy.map_blocks(lambda block: block, dtype=X.dtype, name="same", meta=lazy._meta)
    analysis = MKSStructureAnalysis(BASIS, n_components=3, scratch=tmp_path)
    with dask.config.set(scheduler="sync"):
        with pytest.raises(OSError, match="disk is full"):
            analysis.fit(broken, resume=True)
        (kept,) = tmp_path.iterdir()
        assert attributes_of(Location.of(kept))["mksdask"] == "partial scratch"
        (kept / "notes.txt").write_text("mine")
        if lost:
            (kept / "zarr.json").unlink()
        before = digest(tmp_path)
        with pytest.raises(FileExistsError, match=kept.name):
            analysis.fit(whole, resume=True)
        assert digest(tmp_path) == before
        (kept / "notes.txt").unlink()
        analysis.fit(whole, resume=True)
    assert not os.listdir(tmp_path)


@each_command
@pytest.mark.parametrize("dangling", [False, True])
def test_commands__write_through_links(run, name, dangling, tmp_path):
    out = output(name)
    Path("disk").mkdir()
    Path("disk", out.name).mkdir(exist_ok=True)
    target = Path("disk", out.name, out.name)
    out.symlink_to(target)
    if not dangling:
        run(COMMANDS[name], out=target)
        before = digest("disk")
    run(COMMANDS[name], *(() if dangling else ("--overwrite",)), out=out)
    assert out.is_symlink()
    assert os.listdir(target.parent) == [target.name]
    assert not target.is_symlink()
    if not dangling and name not in ("predict to a table", "predict to a store", "localize"):
        assert digest("disk").keys() == before.keys()
    remains = [path for path in os.listdir() if "partial" in path or path.startswith(".")]
    assert not remains


def test_commands__write_pictures_through_links(run):
    Path("disk").mkdir()
    for name in ("figure", "live"):
        Path("disk", f"{name}.png").write_text("old")
        Path(f"{name}.png").symlink_to(f"disk/{name}.png")
    pictures = ("--figure", "figure.png", "--watch", "live.png")
    run("stats v.zarr out.zarr --cutoff 3", *pictures, "--overwrite")
    run("fit e.zarr m2.zarr", *pictures, "--overwrite")
    for name in ("figure", "live"):
        assert Path(f"{name}.png").is_symlink()
        assert Path("disk", f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(os.listdir("disk")) == ["figure.png", "live.png"]


def test_commands__leave_pictures_unless_told(run):
    Path("plot.png").write_text("mine")
    thesis(Path("thesis.png"))
    for option in ("--figure", "--watch"):
        for out, more in (("plot.png", ()), ("thesis.png", ("--overwrite",))):
            refuses(run, f"stats v.zarr out.zarr --cutoff 3 {option} OUT", *more, out=out)
            refuses(run, f"fit e.zarr m2.zarr {option} OUT", *more, out=out)


def test_watch__leaves_folders_and_follows_links(tmp_path):
    thesis(tmp_path / "thesis.png")
    before = digest(tmp_path)
    with pytest.raises(ValueError, match=r"thesis.png' must be a picture"):
        correlate_volume(VOLUME, BASIS, cutoff=2, watch=tmp_path / "thesis.png")
    assert digest(tmp_path) == before
    (tmp_path / "link.png").symlink_to("real.png")
    correlate_volume(VOLUME, BASIS, cutoff=2, watch=tmp_path / "link.png")
    assert (tmp_path / "link.png").is_symlink()
    assert (tmp_path / "real.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("target", ["not mounted/out.zarr", "out.zarr"])
def test_links__that_lead_nowhere_are_refused(run, target):
    out = Path("out.zarr")
    out.symlink_to(target)
    for name in ("stats of an ensemble", "import", "localize"):
        text = refuses(run, COMMANDS[name], "--overwrite", out=out, code=2)
        assert "is a link to" in text
    with pytest.raises(FileNotFoundError, match=r"out.zarr is a link to .*make the folder, or remove the link"):
        create_ensemble(out, X)
    with pytest.raises(FileNotFoundError, match=r"out.zarr is a link to"):
        open_ensemble(out)
    assert out.is_symlink()


def test_python__writes_through_links(inputs, tmp_path):
    (tmp_path / "disk").mkdir()
    for name in ("e", "v", "m", "r", "s"):
        (tmp_path / name).symlink_to(tmp_path / "disk" / name)
    for mode in ("w-", "w"):
        create_ensemble(tmp_path / "e", X, mode=mode)
        create_volume(tmp_path / "v", VOLUME, mode=mode, resume=True)
        save_model(load_model(inputs / "m.zarr"), tmp_path / "m")
    append_ensemble(tmp_path / "e", X)
    materialize(da.from_array(X), tmp_path / "r", progress=False)
    correlate_volume(VOLUME, BASIS, cutoff=None, scratch=tmp_path / "s")
    assert all((tmp_path / name).is_symlink() for name in ("e", "v", "m", "r", "s"))
    assert sorted(os.listdir(tmp_path / "disk")) == ["e", "m", "r", "s", "v"]
    assert open_ensemble(tmp_path / "e").sizes["sample"] == 40
    assert_array_equal(open_volume(tmp_path / "v").microstructure, VOLUME)
    remove_store(tmp_path / "s", SCRATCH)
    assert (tmp_path / "s").is_symlink()


def spoil(name):
    """Break the last chunk of an input, and say how to mend it."""
    chunk = max(path for path in Path(name, "microstructure", "c").rglob("*") if path.is_file())
    good = chunk.read_bytes()
    chunk.write_bytes(b"\xff" * len(good))
    return lambda: chunk.write_bytes(good)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("import", "fit")])
def test_overwrite__that_fails_leaves_the_old_result(run, name):
    out = output(name)
    run(COMMANDS[name], out=out)
    old = digest(".") if out.suffix == ".csv" else digest(out)
    mend = spoil("v.zarr" if "volume" in name else "e.zarr")
    run(COMMANDS[name], "--overwrite", out=out, code=1)
    if out.suffix == ".csv":
        assert digest(".")["out.csv"] == old["out.csv"]
    else:
        assert digest(out) == old
    mend()
    run(COMMANDS[name], "--overwrite", out=out)


@pytest.mark.parametrize("options", [["--states", "9"], ["--pairs", "0-7"], ["--cutoff", "99"], ["--figure", "S.xyz"]])
def test_overwrite__with_bad_options_leaves_the_old_result(run, options):
    run("stats e.zarr out.zarr")
    before = digest("out.zarr")
    run("stats e.zarr out.zarr --overwrite", *options, code=0 if options[0] == "--states" else 1)
    assert options[0] == "--states" or digest("out.zarr") == before


@pytest.mark.parametrize("name", ["stats of an ensemble", "localize"])
def test_overwrite__goes_on_with_its_part(run, name):
    run(COMMANDS[name], out="out.zarr")
    first = digest("out.zarr")
    create_ensemble("e.zarr", 1 - X, X.mean(axis=(1, 2)), chunks=5, periodic_axes=[0, 1], mode="w")
    # What a run that was killed leaves: a store that lacks a block.
    stored = open_ensemble("e.zarr").microstructure
    options = {"cutoff": None, "correlations": None, "periodic_axes": None}
    lazy = load_model("l.zarr").predict(stored) if name == "localize" else correlate(stored, BASIS, **options)
    lazy = lazy.rename("field" if name == "localize" else "correlations")
    with recorded(*(["l.zarr"] if name == "localize" else [])):
        materialize(lazy, "out.zarr.partial", progress=False)
    last = max(path for path in Path("out.zarr.partial", lazy.name, "c").rglob("*") if path.is_file())
    last.unlink()
    written = {
        path: path.stat().st_ino for path in Path("out.zarr.partial", lazy.name, "c").rglob("*") if path.is_file()
    }
    assert len(written) == 3
    assert digest("out.zarr") == first
    run(COMMANDS[name], "--overwrite", "--resume", out="out.zarr")
    assert not Path("out.zarr.partial").exists()
    for path, inode in written.items():
        assert Path("out.zarr", path.relative_to("out.zarr.partial")).stat().st_ino == inode
    assert digest("out.zarr") != first
    # The same result is there now, and stays.
    done = digest("out.zarr")
    run(COMMANDS[name], "--overwrite", "--resume", out="out.zarr")
    assert digest("out.zarr") == done


def test_remove__that_is_killed_leaves_a_part_that_is_gone_on_with(tmp_path, monkeypatch):
    url, lazy = tmp_path / "r.zarr", da.from_array(X, chunks=(5, 6, 6))
    materialize(lazy, url, progress=False)
    remove = type(Location.of(url).fs).rm

    def killed(self, path, *arguments, **options):
        remove(self, path[:2], *arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(type(Location.of(url).fs), "rm", killed)
        with pytest.raises(KeyboardInterrupt):
            remove_store(url, RESULTS)
    assert attributes_of(Location.of(url))["mksdask"] == "partial result"
    assert_array_equal(materialize(lazy, url, progress=False), X)
    remove_store(url, RESULTS)
    assert not url.exists()


def test_materialize__two_writers_share_a_store(tmp_path, monkeypatch):
    lazy, other = da.from_array(X, chunks=(5, 6, 6)), da.from_array(X + 1, chunks=(5, 6, 6))
    rename = Path.rename

    def late(self, target):
        monkeypatch.setattr(Path, "rename", rename)
        if str(target).endswith("mine.zarr"):
            thesis(Path(target))
        else:
            materialize(lazy, target, progress=False)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    assert_array_equal(materialize(lazy, tmp_path / "r.zarr", progress=False), X)
    monkeypatch.setattr(Path, "rename", late)
    with pytest.raises(FileExistsError, match=r"mine.zarr exists and is not a result of materialize"):
        materialize(other, tmp_path / "mine.zarr", progress=False)
    assert (tmp_path / "mine.zarr" / "thesis.tex").exists()
    assert sorted(os.listdir(tmp_path)) == ["mine.zarr", "r.zarr"]


def test_stores__are_not_made_inside_others(run, tmp_path):
    url = tmp_path / "e.zarr" / "inner.zarr"
    lazy = da.from_array(X, chunks=(5, 6, 6))
    calls = (
        lambda: create_ensemble(url, X),
        lambda: materialize(lazy, url),
        lambda: correlate_volume(VOLUME, BASIS, cutoff=2, scratch=url),
        lambda: save_model(load_model(tmp_path / "m.zarr"), url),
        lambda: MKSStructureAnalysis(BASIS, n_components=2, scratch=tmp_path / "e.zarr").fit(lazy),
    )
    before = digest(tmp_path)
    for call in calls:
        with pytest.raises(ValueError, match=r"lies inside the store .*e.zarr; choose a place outside of it"):
            call()
    assert digest(tmp_path) == before
    refuses(run, "stats v.zarr OUT --cutoff 2", out=Path("e.zarr", "inner.zarr"), names="e.zarr")


@pytest.mark.parametrize("mode", ["w", "w-"])
def test_object_store__of_others_stays(mode):
    fs = fsspec.filesystem("memory")
    root = f"/ownership-{mode}"
    fs.pipe({f"{root}/mine/thesis.tex": b"important", f"{root}/s.planes/plot.pdf": b"%PDF"})
    create_ensemble(f"memory:/{root}/e.zarr", X)
    fs.pipe({f"{root}/e.zarr/notes.txt": b"mine"})

    def content():
        return {name: fs.cat_file(name) for name in fs.find(root)}

    before = content()
    with pytest.raises(FileExistsError, match="mine"):
        create_ensemble(f"memory:/{root}/mine", X, mode=mode)
    with pytest.raises(
        FileExistsError, match="notes.txt, which this package did not write" if mode == "w" else "exist"
    ):
        create_ensemble(f"memory:/{root}/e.zarr", X, mode=mode)
    with pytest.raises(FileExistsError, match=r"e.zarr is marked as 'ensemble', which is not 'model'"):
        save_model(MKSStructureAnalysis(BASIS, n_components=2).fit(X), f"memory:/{root}/e.zarr")
    with pytest.raises(FileExistsError, match=r"s.planes exists and is not a store"):
        correlate_volume(VOLUME, BASIS, cutoff=None, scratch=f"memory:/{root}/s")
    with pytest.raises(FileExistsError, match="mine exists and is not a result of materialize"):
        materialize(da.from_array(X), f"memory:/{root}/mine")
    with pytest.raises(ValueError, match="lies inside the store"):
        materialize(da.from_array(X), f"memory:/{root}/e.zarr/inner.zarr")
    assert content() == before


def test_object_store__of_the_package_is_replaced_and_removed(tmp_path):
    fs = fsspec.filesystem("memory")
    url = "memory://replaced/e.zarr"
    create_ensemble(url, X)
    create_ensemble(url, 1 - X, mode="w")
    create_ensemble(url, X, mode="w", resume=True)
    assert_array_equal(open_ensemble(url).microstructure, X)
    save_model(MKSStructureAnalysis(BASIS, n_components=2).fit(X), "memory://replaced/m.zarr")
    save_model(MKSStructureAnalysis(BASIS, n_components=3).fit(X), "memory://replaced/m.zarr")
    assert load_model("memory://replaced/m.zarr").n_components == 3
    found = correlate_volume(VOLUME, BASIS, cutoff=None, scratch="memory://replaced/s.zarr")
    assert_array_equal(found, correlate_volume(VOLUME, BASIS, cutoff=None, scratch=tmp_path / "s.zarr"))
    lazy = da.from_array(X, chunks=(5, 6, 6))
    MKSStructureAnalysis(BASIS, n_components=2, scratch="memory://replaced/scratch").fit(lazy)
    assert {name.split("/")[2] for name in fs.find("/replaced")} == {"e.zarr", "m.zarr", "s.zarr"}
    remove_store(url, MICROSTRUCTURES)
    remove_store("memory://replaced/s.zarr", SCRATCH)
    remove_store("memory://replaced/m.zarr", ("model",))
    assert not fs.find("/replaced")


def test_demo__leaves_folders_of_others(tmp_path):
    thesis(tmp_path / "mine")
    (tmp_path / "mine" / "scores.png").write_text("mine")
    thesis(tmp_path / "other" / "ensemble.zarr")
    before = digest(tmp_path)
    for out, name in (("mine", "scores.png"), ("other", "ensemble.zarr")):
        result = CliRunner().invoke(main, ["demo", "--overwrite", "--out", str(tmp_path / out)])
        assert result.exit_code == 1
        assert name in result.output
    assert digest(tmp_path) == before


def test_marks__are_in_the_attributes(tmp_path, inputs):
    marks = {
        name: json.loads((inputs / name / "zarr.json").read_text())["attributes"]["mksdask"]
        for name in ("e.zarr", "m.zarr")
    }
    assert marks == {"e.zarr": "ensemble", "m.zarr": "model"}


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_stores__that_inherit_the_mark_stay(tmp_path):
    create_ensemble(tmp_path / "e.zarr", X)
    attrs = xr.open_zarr(tmp_path / "e.zarr").attrs
    xr.Dataset({"years": ("year", np.arange(5.0))}, attrs=attrs).to_zarr(
        tmp_path / "mine.zarr", zarr_format=3, consolidated=False
    )
    before = digest(tmp_path)
    with pytest.raises(FileExistsError, match=r"mine.zarr holds year.*, which this package did not write"):
        create_volume(tmp_path / "mine.zarr", VOLUME, mode="w")
    zarr.open_group(tmp_path / "e.zarr", mode="r+").create_array("extra", data=np.arange(5.0))
    zarr.consolidate_metadata(tmp_path / "e.zarr")
    changed = digest(tmp_path)
    with pytest.raises(FileExistsError, match=r"e.zarr holds extra"):
        create_ensemble(tmp_path / "e.zarr", X, mode="w")
    assert digest(tmp_path) == changed
    assert {name for name in before if name.startswith("mine.zarr")} <= changed.keys()


def test_append__leaves_ensembles_of_others(tmp_path):
    url = tmp_path / "mine.zarr"
    xr.Dataset({"microstructure": (("sample", "x", "y"), X)}).to_zarr(url, zarr_format=3, consolidated=False)
    before = digest(tmp_path)
    with pytest.raises(ValueError, match=r"mine.zarr was not written by create_ensemble"):
        append_ensemble(url, X[:2])
    assert digest(tmp_path) == before


@pytest.mark.parametrize("line", ["stats v.zarr out.zarr --cutoff 3 --figure OUT", "fit e.zarr OUT"])
def test_commands__take_a_path_as_it_is_written(run, line, monkeypatch):
    Path("home").mkdir()
    monkeypatch.setenv("HOME", str(Path("home").resolve()))
    Path("home/f.png").write_text("mine")
    before = digest("home")
    run(line, out="~/f.png")
    assert digest("home") == before
    assert Path("~", "f.png").exists()
    out = f"file:{Path('home/f.png').resolve()}"
    assert "looks like a URL" in run(line, "--overwrite", out=out, code=2)
    assert digest("home") == before


def test_python__takes_a_path_as_it_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    create_ensemble("d#e?f%20.zarr", X)
    assert open_ensemble("d#e?f%20.zarr").sizes["sample"] == 20
    IncrementalPCA(2).partial_fit(X.reshape(20, -1) * 1.0).save("m#?.zarr")
    assert IncrementalPCA.load("m#?.zarr").n_components == 2
    # Both would be written to "a".
    for name in ("a::b.zarr", "a::c.zarr"):
        with pytest.raises(ValueError, match=r"looks like a URL"):
            create_ensemble(name, X)
    assert sorted(os.listdir()) == ["d#e?f%20.zarr", "m#?.zarr"]
    create_ensemble("~/e.zarr", X)
    assert open_ensemble(f"file://{tmp_path}/home/e.zarr").sizes["sample"] == 20


@pytest.mark.parametrize("option", some_slow(["--figure", "--watch"], ["--watch"]))
def test_resume__replaces_only_pictures_of_the_package(run, option):
    line = f"stats v.zarr out.zarr --cutoff 3 {option} OUT"
    Image.new("RGB", (8, 8)).save("photo.png")
    refuses(run, line, "--resume", out="photo.png")
    for out in ("drawn.png", "drawn.pdf", "drawn.svg"):
        run(line, "--resume", out=out)
        run(line, "--resume", out=out)
    assert "exists" in run("fit e.zarr m2.zarr --figure OUT", out="drawn.png", code=1)


def test_watch__replaces_only_pictures_of_the_package(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    before = digest(tmp_path)
    with pytest.raises(FileExistsError, match=r"photo.png' exists, and this package did not draw it"):
        correlate_volume(VOLUME, BASIS, cutoff=2, watch=tmp_path / "photo.png")
    assert digest(tmp_path) == before
    for _ in range(2):
        correlate_volume(VOLUME, BASIS, cutoff=2, watch=tmp_path / "live.png")


@pytest.mark.parametrize("kind", ["file", "link"])
def test_scratch__leaves_a_file_with_the_name_of_its_copy(tmp_path, monkeypatch, kind):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (tmp_path / "thesis").write_text("mine")
    lazy, options = da.from_array(X, chunks=(5, 6, 6)), {"n_components": 2, "scratch": scratch}
    names = []
    removed = Location.remove

    def spy(location):
        names.append(Path(location.path).name)
        removed(location)

    monkeypatch.setattr(Location, "remove", spy)
    MKSStructureAnalysis(BASIS, **options).fit(lazy, resume=True)
    (name,) = {name for name in names if name.startswith("rows-") and name.endswith(".zarr")}
    monkeypatch.undo()
    if kind == "file":
        (scratch / name).write_text("mine")
    else:
        (scratch / name).symlink_to(tmp_path / "thesis")
    before = digest(tmp_path)
    with pytest.raises(FileExistsError, match=r"is not a store of this package but a file"):
        MKSStructureAnalysis(BASIS, **options).fit(lazy, resume=True)
    assert digest(tmp_path) == before


def test_stores__are_not_written_into_through_links_or_by_pictures(run, tmp_path):
    Path("link").symlink_to("v.zarr/microstructure")
    before = digest(".")
    with pytest.raises(ValueError, match=r"lies inside the store"):
        create_ensemble("link/n.zarr", X)
    for line in ("stats e.zarr out.zarr --states 2 --figure OUT", "demo --samples 40 --size 6x6 --out OUT"):
        assert "inside the store" in run(line, out="v.zarr/sub/f.png", code=1)
    assert digest(".") == before
