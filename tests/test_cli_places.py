"""Places of the command: URLs, schedulers; options that Python has too, with results that are equal to the last bit."""

import json
import shutil
import sys

import click
import numpy as np
import pandas as pd
import pytest
import tifffile
import xarray as xr
from click.testing import CliRunner
from distributed import Client, LocalCluster
from numpy.testing import assert_array_equal

from mksdask import (
    MKSHomogenizationModel,
    MKSLocalizationModel,
    PrimitiveBasis,
    create_ensemble,
    create_volume,
    load_model,
    open_ensemble,
    open_volume,
)
from mksdask.cli import main
from mksdask.datasets import make_microstructure
from mksdask.datasets.responses import make_elastic_FE_strain_delta, make_elastic_stiffness
from mksdask.importers import import_images
from mksdask.stats import correlate, correlate_volume
from mksdask.storage.atomic import Location
from mksdask.storage.opening import open_dataset
from mksdask.storage.tables import EXACT

from .helpers import register_bucket


@pytest.fixture
def volume(tmp_path):
    phase = make_microstructure(n_samples=1, size=(16, 14, 12), grain_size=3, seed=0)[0]
    create_volume(tmp_path / "v.zarr", phase, phases=("pore", "grain"))
    return phase


@pytest.fixture
def ensemble(tmp_path):
    X, y = make_elastic_stiffness(n_samples=(20, 20), size=(11, 11), grain_size=((2, 2), (6, 3)), seed=0)
    create_ensemble(tmp_path / "e.zarr", X, y, phases=("stiff", "soft"), periodic_axes=[0, 1], chunks=10)
    return X, y


@pytest.fixture
def bucket(client, tmp_path):
    """The URL of the test's folder, as an object store would have it."""
    register_bucket()
    client.run(register_bucket)
    return f"bucket:/{tmp_path}"


@pytest.mark.parametrize(("text", "cutoff"), [("3", 3), ("4,3,2", (4, 3, 2))])
def test_stats__equals_python_to_the_last_bit(run, client, volume, text, cutoff):
    run("stats", "v.zarr", "S2.zarr", "--cutoff", text, "--pairs", "1-0,1-1", "--periodic", "y")
    with client.as_current():
        expected = correlate_volume(
            open_volume("v.zarr").microstructure,
            PrimitiveBasis(2),
            cutoff=cutoff,
            correlations=[(1, 0), (1, 1)],
            periodic_axes=[1],
        ).compute()
    found = xr.open_zarr("S2.zarr").correlations
    assert_array_equal(found, expected)
    assert found.pair.to_numpy().tolist() == ["grain–pore", "grain–grain"]


def test_stats__of_ensembles_equals_python_to_the_last_bit(run, client, ensemble):
    run("stats", "e.zarr", "f.zarr", "--cutoff", "4,2", "--pairs", "0-1")
    with client.as_current():
        X = open_ensemble("e.zarr").microstructure
        expected = correlate(X, PrimitiveBasis(2), cutoff=(4, 2), correlations=[(0, 1)]).compute()
    assert_array_equal(xr.open_zarr("f.zarr").correlations, expected)


@pytest.mark.parametrize(
    ("text", "window", "shape"),
    [
        ("4", 4, (16, 14, 12)),
        ("8x7x3", (8, 7, 3), (16, 14, 12)),
        ("5", 5, (16, 14)),
        ("8x3", (8, 3), (16, 14)),
        ("2", 2, (9,)),
    ],
)
def test_import__windows_equal_python(run, client, text, window, shape):
    np.save("scan.npy", np.random.default_rng(0).integers(0, 255, shape, dtype="uint8"))
    found = run("import", "scan.npy", "w.zarr", "--thresholds", "100", "--window", text)
    with client.as_current():
        expected = import_images("scan.npy", "expected.zarr", thresholds=100, window=window, axes="xyz"[: len(shape)])
    assert found["assumed"] == ([f"axes {'xyz'[: len(shape)]} assumed; say --axes"] if len(shape) > 1 else [])
    assert found["size"] == list(np.broadcast_to(window, len(shape)))
    assert_array_equal(open_ensemble("w.zarr").microstructure, expected.microstructure)


def test_import__says_which_arrays_a_file_has(run, volume):
    tifffile.imwrite("scan.tif", np.zeros((4, 5), "uint8"))
    assert "--dataset a does not apply to" in run("import", "scan.tif", "x.zarr", "--dataset", "a", code=1)
    # Grey levels are not listed as if they were phases, and are no states.
    np.save("grey.npy", np.arange(4000, dtype="uint16").reshape(50, 80))
    assert "fractions" not in run("import", "grey.npy", "grey.zarr")
    assert "are hardly phases; import it with --phases" in run("stats", "grey.zarr", "x.zarr", code=1)


def test_fit_predict__equal_python_to_the_last_bit_with_a_mask(run, client, ensemble, tmp_path):
    X, y = ensemble
    c = np.random.default_rng(0).uniform(0.5, 1.0, X.shape)
    create_ensemble(tmp_path / "c.zarr", X, y, confidence_index=c, periodic_axes=[0, 1], chunks=10)
    run("fit", "c.zarr", "m.zarr", "--components", "3", "--degree", "2", "--cutoff", "4,3", "--pairs", "0-0")
    run("predict", "m.zarr", "c.zarr", "p.zarr", "--std")
    run("predict", "m.zarr", "c.zarr", "p.csv", "--std")
    test = np.sort(np.random.default_rng(0).permutation(np.arange(40))[:8])
    train = np.setdiff1d(np.arange(40), test)
    options = {"n_components": 3, "degree": 2, "cutoff": (4, 3), "correlations": [(0, 0)]}
    with client.as_current():
        store = open_ensemble("c.zarr")
        model = MKSHomogenizationModel(PrimitiveBasis(2), **options, scratch=tmp_path)
        model.fit(store.microstructure[train], store.response[train], confidence_index=store.confidence_index[train])
        mean, spread = model.predict(store.microstructure, confidence_index=store.confidence_index, return_std=True)
        mean, spread = mean.compute(), spread.compute()
    found = xr.open_zarr("p.zarr")
    assert_array_equal(found.prediction, mean)
    assert_array_equal(found.spread, spread)
    table = pd.read_csv("p.csv", **EXACT)
    assert_array_equal(table.prediction.astype(mean.dtype), mean)
    assert_array_equal(load_model("m.zarr").components_, model.components_)


def test_localize__equals_python_to_the_last_bit(run, client, ensemble, tmp_path):
    X, strain = make_elastic_FE_strain_delta(elastic_modulus=(100, 130), poissons_ratio=(0.3, 0.3), size=(9, 9))
    create_ensemble(tmp_path / "d.zarr", X, strain, periodic_axes=[0, 1])
    run("fit", "d.zarr", "l.zarr", "--hold-out", "0")
    first = run("localize", "l.zarr", "e.zarr", "field.zarr")
    with client.as_current():
        store = open_ensemble("d.zarr")
        model = MKSLocalizationModel(PrimitiveBasis(2)).fit(store.microstructure, store.response).resize_coeff((11, 11))
        expected = model.predict(open_ensemble("e.zarr").microstructure).compute()
    assert_array_equal(xr.open_zarr("field.zarr").field, expected)
    again = run("localize", "l.zarr", "e.zarr", "field.zarr", "--resume")
    assert {**again, "seconds": 0} == {**first, "seconds": 0}


def test_predict_and_localize__take_the_same_options():
    options = {
        name: {
            (*option.opts, option.help)
            for option in main.commands[name].params
            if isinstance(option, click.Option) and option.name != "std"
        }
        for name in ("predict", "localize")
    }
    assert options["predict"] == options["localize"]
    names = {name: [argument.name for argument in main.commands[name].params[:3]] for name in options}
    assert names["predict"] == names["localize"] == ["model", "store", "out"]


def test_predict__resumes_a_store_that_is_complete(run, ensemble):
    run("fit", "e.zarr", "m.zarr", "--components", "3")
    first = run("predict", "m.zarr", "e.zarr", "p.zarr")
    again = run("predict", "m.zarr", "e.zarr", "p.zarr", "--resume")
    assert {**again, "seconds": 0} == {**first, "seconds": 0}
    assert "pass --overwrite to replace them" in run(
        "predict", "m.zarr", "e.zarr", "p.zarr", "--std", "--resume", code=1
    )


def test_url__of_an_object_store(run, bucket, volume, ensemble, tmp_path):
    np.save("scan.npy", volume)
    run("import", "scan.npy", f"{bucket}/b.zarr", "--axes", "xyz")
    assert_array_equal(open_volume(tmp_path / "b.zarr").microstructure, volume)
    assert json.loads(run("info", f"{bucket}/b.zarr", "--json", on_cluster=False))["size"] == [16, 14, 12]
    run("stats", "b.zarr", "S2.zarr", "--cutoff", "3")
    run("stats", f"{bucket}/b.zarr", f"{bucket}/B2.zarr", "--cutoff", "3")
    assert_array_equal(xr.open_zarr("B2.zarr").correlations, xr.open_zarr("S2.zarr").correlations)
    assert "exists; choose another output" in run("stats", "v.zarr", f"{bucket}/B2.zarr", code=1)
    run("stats", f"{bucket}/b.zarr", f"{bucket}/B2.zarr", "--cutoff", "3", "--resume")
    run("stats", f"{bucket}/b.zarr", f"{bucket}/B2.zarr", "--overwrite")
    # A store that was replaced in an object store lies in a folder that its metadata name.
    assert open_dataset(Location.of(f"{bucket}/B2.zarr"), chunks={}).correlations.shape == (16, 14, 12, 2)
    run("fit", f"{bucket}/e.zarr", f"{bucket}/m.zarr", "--components", "3")
    run("predict", f"{bucket}/m.zarr", f"{bucket}/e.zarr", f"{bucket}/p.zarr")
    run("predict", f"{bucket}/m.zarr", "e.zarr", "p.csv")
    assert_array_equal(pd.read_csv("p.csv", **EXACT).prediction, xr.open_zarr("p.zarr").prediction)
    assert "is not a file of this machine" in run("predict", "m.zarr", "e.zarr", f"{bucket}/q.csv", code=1)
    assert "does not exist" in run("stats", f"{bucket}/none.zarr", "x.zarr", code=2)
    left = {"b.zarr", "B2.zarr", "S2.zarr", "e.zarr", "m.zarr", "p.csv", "p.zarr", "scan.npy", "v.zarr"}
    assert {path.name for path in tmp_path.iterdir()} == left


def test_url__of_this_machine_or_inside_a_zip_file(run, volume, tmp_path):
    np.save("scan.npy", volume)
    run("import", f"file://{tmp_path}/scan.npy", f"file://{tmp_path}/f.zarr", "--axes", "xyz")
    assert_array_equal(open_volume("f.zarr").microstructure, volume)
    run("stats", "v.zarr", "S2.zarr", "--cutoff", "3")
    shutil.make_archive("packed", "zip", tmp_path, "v.zarr")
    run(
        "stats",
        f"zip://v.zarr::{tmp_path}/packed.zip",
        "z.zarr",
        "--cutoff",
        "3",
        "--figure",
        f"file://{tmp_path}/z.png",
    )
    assert_array_equal(xr.open_zarr("z.zarr").correlations, xr.open_zarr("S2.zarr").correlations)
    assert (tmp_path / "z.png").exists()
    assert "where nothing can be written" in run("stats", "v.zarr", "zip://x.zarr::packed.zip", code=1)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://bucket/x.zarr", "Install s3fs to access S3; or give a path"),
        ("strange://bucket/x.zarr", "Protocol not known: strange"),
        ("memory://x.zarr", "lies in the memory of one process"),
        ("s3:/bucket/x.zarr", "looks like a URL, but has no '://'"),
    ],
)
def test_url__says_what_is_missing(run, volume, url, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    told = json.loads(run("stats", "v.zarr", url, code=2))
    assert told["exit_code"] == 2
    assert message in told["error"]
    assert message in run("info", url, on_cluster=False, code=2)


def test_scheduler__by_its_file(client, volume, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scheduler.json").write_text(json.dumps({"type": "Scheduler", "address": client.scheduler.address}))
    for number, scheduler in enumerate((client.scheduler.address, "scheduler.json", tmp_path / "scheduler.json")):
        line = ["stats", "v.zarr", f"{number}.zarr", "--cutoff", "3", "--scheduler", str(scheduler)]
        result = CliRunner().invoke(main, line)
        assert result.exit_code == 0, result.output
    assert_array_equal(xr.open_zarr("0.zarr").correlations, xr.open_zarr("1.zarr").correlations)


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        ("none.json", "none.json does not exist; start one with `dask scheduler --scheduler-file none.json`"),
        ("strange.json", "strange.json does not hold the address of a scheduler"),
        ("stale.json", "no dask scheduler answers at tcp://127.0.0.1:9"),
        ("nonsense", "no dask scheduler answers at nonsense"),
    ],
)
def test_scheduler__says_that_there_is_none(volume, tmp_path, monkeypatch, scheduler, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mksdask.cli.options.FILE", 0.2)
    monkeypatch.setattr("mksdask.cli.options.ANSWER", 1)
    (tmp_path / "strange.json").write_text("[1, 2]")
    (tmp_path / "stale.json").write_text('{"address": "tcp://127.0.0.1:9"}')
    result = CliRunner().invoke(main, ["stats", "v.zarr", "S2.zarr", "--json", "--scheduler", scheduler])
    assert result.exit_code == 1
    assert message in json.loads(result.stderr)["error"]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_scheduler__without_workers_is_not_waited_for_for_ever(volume, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mksdask.cli.options.WORKERS", 0.5)
    with (
        LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False),
    ):
        address = cluster.scheduler_address
        result = CliRunner().invoke(main, ["stats", "v.zarr", "S2.zarr", "--scheduler", address])
    assert result.exit_code == 1
    assert f"the dask scheduler at {address} has no workers; start some with `dask worker {address}`" in result.stderr


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("stats", 2, "Missing argument 'STORE'."),
        ("stats none.zarr S2.zarr", 2, "'none.zarr' does not exist"),
        ("stats v.zarr S2.zarr --cutoff x", 2, "write 40 or 40,40,20"),
        ("stats v.zarr S2.zarr --nothing", 2, "No such option"),
        ("info e.zarr/response", 1, "is not a store"),
        ("plan stats v.zarr --cutoff 3,3", 1, "cutoff must be an integer, or one for each of the 3 spatial axes"),
        ("plan stats v.zarr --memory-limit 1KiB", 3, "the smallest memory_limit that would do"),
        ("plan fit v.zarr", 1, "fit takes an ensemble"),
        ("fit e.zarr m.zarr --hold-out nan", 1, "--hold-out must be a fraction from 0 to 0.9"),
        ("predict e.zarr e.zarr p.csv", 1, "holds no saved model"),
    ],
)
def test_error__is_json_if_the_report_is(volume, ensemble, tmp_path, monkeypatch, line, code, message):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, [*line.split(), "--json"])
    assert (result.exit_code, result.stdout) == (code, "")
    assert len(result.stderr.splitlines()) == 1
    told = json.loads(result.stderr)
    assert told["exit_code"] == code
    assert message in told["error"]


def test_error__of_any_kind_is_one_line(volume, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def fail(*_, **__):
        msg = "first line\nsecond line"
        raise KeyError(msg)

    monkeypatch.setattr("mksdask.cli.analysis.plan", fail)
    result = CliRunner().invoke(main, ["plan", "stats", "v.zarr"])
    assert result.exit_code == 1
    assert result.stderr.splitlines()[0].startswith("Error: KeyError: ")
    assert "mksdask --traceback shows the place" in result.stderr
    assert isinstance(CliRunner().invoke(main, ["--traceback", "plan", "stats", "v.zarr"]).exception, KeyError)


def commands(group=main, name="mksdask"):
    for each, command in group.commands.items():
        yield from (
            commands(command, f"{name} {each}") if isinstance(command, click.Group) else ((f"{name} {each}", command),)
        )


@pytest.mark.parametrize(("name", "command"), list(commands()))
def test_help__says_what_each_option_takes_with_an_example(name, command):
    text = command.help
    assert f"{name} " in text.partition("Example")[2]
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            is_choice = isinstance(parameter.type, click.Choice)
            assert is_choice or parameter.human_readable_name.rstrip(".").upper().partition(".")[0] in text
        elif not parameter.is_flag and not isinstance(parameter.type, click.Choice):
            assert "such as" in parameter.help, parameter.name
