"""The command, as a user calls it."""

import base64
import json
import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import tifffile
import xarray as xr
from click.testing import CliRunner
from distributed import Client
from numpy.testing import assert_allclose, assert_array_equal

from mksdask import (
    MKSHomogenizationModel,
    PrimitiveBasis,
    create_ensemble,
    create_volume,
    load_model,
    open_ensemble,
    open_volume,
    plan,
)
from mksdask.cli import main
from mksdask.cli.linkage import lazy_parts
from mksdask.cli.options import described_call
from mksdask.cli.printing import with_options
from mksdask.datasets import make_microstructure
from mksdask.datasets.responses import (
    make_elastic_FE_strain_delta,
    make_elastic_FE_strain_random,
    make_elastic_stiffness,
)
from mksdask.simulation import solve_fields
from mksdask.stats import correlate, correlate_volume
from mksdask.storage import materialize


@pytest.mark.slow
def test_demo__makes_ensemble_linkage_and_figures(tmp_path):
    out = tmp_path / "demo"
    result = subprocess.run(
        [sys.executable, "-m", "mksdask", "demo", "--samples", "48", "--size", "16x16", "--out", out, "--seed", "3"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert re.search(r"dashboard: http://127\.0\.0\.1:\d+/status", result.stdout)
    r2 = float(re.search(r"12 unseen samples: R² = (-?[\d.]+)", result.stdout).group(1))
    assert r2 > 0.5
    assert re.search(r"local strain of an unseen sample: mean error [\d.]+ % of the mean strain", result.stdout)
    assert len(re.findall(r"^  mksdask (report|fit|import) ", result.stdout, re.MULTILINE)) == 3
    for stage in ("generate", "statistics", "predict", "calibrate", "figures"):
        assert re.search(rf"{stage}.* \d+\.\d s", result.stdout)
    ensemble = open_ensemble(out / "ensemble.zarr")
    assert ensemble.microstructure.shape == (48, 16, 16)
    assert ensemble.response.min() > 20
    pictures = {path.name for path in out.glob("*.png")}
    assert pictures >= {
        "microstructures.png",
        "correlations.png",
        "goodness_of_fit.png",
        "local_field.png",
        "overview.png",
    }
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    # Nothing is overwritten unless told.
    refused = CliRunner().invoke(main, ["demo", "--out", str(out)])
    assert refused.exit_code == 1
    assert "--overwrite" in refused.output


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_demo__goes_on_with_the_samples_that_it_has_solved(tmp_path, client, monkeypatch):
    line = ["demo", "--samples", "40", "--size", "8x8", "--out", str(tmp_path / "demo"), "--resume"]
    line += ["--scheduler", client.scheduler.address]
    monkeypatch.setattr("mksdask.tools.draw_components", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    assert "disk full" in CliRunner().invoke(main, line).stderr
    solved = {path: path.stat().st_mtime_ns for path in (tmp_path / "demo.partial").rglob("c/**/*") if path.is_file()}
    monkeypatch.undo()
    assert CliRunner().invoke(main, line).exit_code == 0
    places = {tmp_path / "demo" / path.relative_to(tmp_path / "demo.partial"): time for path, time in solved.items()}
    assert places
    assert all(path.stat().st_mtime_ns == time for path, time in places.items())
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_demo__uses_a_given_scheduler(tmp_path, client):
    address = client.scheduler.address
    result = CliRunner().invoke(
        main,
        ["demo", "--samples", "40", "--size", "12x12", "--out", str(tmp_path / "demo"), "--scheduler", address],
        catch_exceptions=False,
    )
    assert result.exit_code == 0, result.output
    with Client(address, set_as_default=False) as still_there:
        assert len(still_there.scheduler_info()["workers"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "big"], "is not a size"),
        (["--size", "2x2"], "at least 4 voxels"),
        (["--samples", "3"], "3 is not in the range"),
        (["--workers", "0"], "0 is not in the range"),
        (["--memory-limit", "lots"], "is not an amount of memory"),
    ],
)
def test_demo__raises_on_bad_option(arguments, message):
    result = CliRunner().invoke(main, ["demo", *arguments])
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.slow
def test_demo__says_when_no_scheduler_answers(tmp_path):
    result = CliRunner().invoke(main, ["demo", "--out", str(tmp_path / "out"), "--scheduler", "tcp://127.0.0.1:9"])
    assert result.exit_code == 1
    assert "no dask scheduler answers at tcp://127.0.0.1:9" in result.output
    assert not (tmp_path / "out").exists()


def test_command__help_and_version():
    assert "Run the whole chain" in CliRunner().invoke(main, ["demo", "--help"]).output
    assert "0.1.0" in CliRunner().invoke(main, ["--version"]).output


@pytest.fixture
def scan(tmp_path):
    """A TIFF stack of two phases, 16 x 14 x 12 voxels, and what it shows."""
    phase = make_microstructure(n_samples=1, size=(16, 14, 12), grain_size=3)[0]
    tifffile.imwrite(tmp_path / "scan.tif", (phase * 255).astype(np.uint8).transpose(2, 1, 0), photometric="minisblack")
    return phase


@pytest.fixture
def ensemble(tmp_path):
    X, y = make_elastic_stiffness(n_samples=(30, 30), size=(13, 13), grain_size=((2, 2), (6, 3)))
    create_ensemble(tmp_path / "e.zarr", X, y, phases=("stiff", "soft"), periodic_axes=[0, 1], chunks=20)
    return X, y


def test_import_and_stats__from_a_scan_to_a_figure(run, scan, tmp_path):
    found = run("import", "scan.tif", "v.zarr", "--phases", "0:pore,255:grain", "--spacing", "3", "--units", "um")
    assert found["kind"] == "volume"
    assert found["size"] == [16, 14, 12]
    assert_allclose([found["fractions"]["pore"], found["fractions"]["grain"]], [1 - scan.mean(), scan.mean()])
    assert_array_equal(open_volume("v.zarr").microstructure, scan)
    found = run(
        "stats", "v.zarr", "S2.zarr", "--cutoff", "4", "--figure", "figures/S2.png", "--pairs", "pore-grain,1-1"
    )
    stored = xr.open_zarr("S2.zarr").correlations
    expected = correlate_volume(scan, PrimitiveBasis(2), cutoff=4, correlations=[(0, 1), (1, 1)])
    assert_allclose(stored, expected, atol=1e-6)
    assert stored.pair.to_numpy().tolist() == ["pore–grain", "grain–grain"]
    assert stored.lag_x.attrs["units"] == "um"
    assert_allclose(stored.lag_x, np.arange(-4, 5) * 3.0)
    assert_allclose(found["phases"]["grain"]["volume_fraction"], scan.mean(), rtol=1e-6)
    assert_allclose(found["phases"]["grain"]["interface_per_volume"], stored.mks.specific_surface()[1])
    assert list(found["phases"]) == ["grain"]
    assert found["units"] == {"lag": "um", "interface_per_volume": "1/um", "integral_range": "um^3"}
    with pytest.raises(ValueError, match=r"holds a result, correlations, and not samples; open it with xarray.open_z"):
        open_volume("S2.zarr")
    assert (tmp_path / "figures/S2.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "S2.zarr.sums").exists()
    assert "exists; choose another output" in run("stats", "v.zarr", "S2.zarr", code=1)
    assert run("stats", "v.zarr", "S2.zarr", "--overwrite")["lags"] == [16, 14, 12]
    told = json.loads(run("info", "S2.zarr", "--json", on_cluster=False))
    assert (told["kind"], told["lags"], told["pairs"]) == (
        "2-point statistics",
        [16, 14, 12],
        ["pore–pore", "pore–grain"],
    )


def test_import__windows_and_options(run, scan):
    found = run(
        "import", "scan.tif", "w.zarr", "--otsu", "2", "--names", "a,b", "--window", "4x4x4", "--crop", "x=0:8,z=3:"
    )
    assert (found["kind"], found["samples"], found["size"]) == ("ensemble", 12, [4, 4, 4])
    assert found["phases"] == ["a", "b"]
    np.save("levels.npy", scan * 10.0)
    found = run("import", "levels.npy", "t.zarr", "--thresholds", "5", "--periodic", "x,z", "--axes", "zyx")
    assert_array_equal(open_volume("t.zarr").microstructure, scan.T)
    assert open_volume("t.zarr").microstructure.attrs["periodic_axes"] == ["x", "z"]
    np.save("labels.npy", scan)
    refused = run("import", "labels.npy", "x.zarr", "--names", "a,b", code=1)
    assert 'are named by --phases 0:a,1:b"' in refused
    told = run("import", "labels.npy", "u.zarr", "--axes", "xyz", "--spacing", "0.5", on_cluster=False)
    assert "the spacing has no unit; say --units, such as um" in told
    assert "--phases must list every value" in run("import", "scan.tif", "x.zarr", "--phases", "0:pore", code=1)
    assert "a.tif does not exist" in run("import", "a.tif", "x.zarr", code=1)


def test_stats__of_an_ensemble(run, ensemble, tmp_path):
    found = run("stats", "e.zarr", "f.zarr", "--figure", "f.png", "--radial", "r.png")
    assert found["radial"] == "r.png"
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("f.png", "r.png"))
    expected = correlate(ensemble[0], PrimitiveBasis(2), periodic_axes=[0, 1])
    assert_allclose(xr.open_zarr("f.zarr").correlations, expected, atol=1e-6)
    assert_allclose(found["phases"]["stiff"]["volume_fraction"], 1 - ensemble[0].mean(), rtol=1e-5)
    refused = run("stats", "e.zarr", "g.zarr", "--pairs", "stiff-hard", code=1)
    assert "--pairs stiff-hard does not name two phases of the store; its phases are stiff, soft" in refused
    assert run("stats", "e.zarr", "f.zarr", "--resume")["lags"] == [13, 13]


def test_fit_and_predict__equal_python(run, ensemble):
    X, y = ensemble
    found = run("fit", "e.zarr", "m.zarr", "--components", "4", "--degree", "2", "--figure", "fit.png")
    assert found["samples"] == 48
    assert found["test"]["samples"] == 12
    test = np.sort(np.random.default_rng(0).permutation(np.arange(60))[:12])
    train = np.setdiff1d(np.arange(60), test)
    model = MKSHomogenizationModel(PrimitiveBasis(2), n_components=4, degree=2, periodic_axes=[0, 1])
    model.fit(X[train], y[train])
    assert_allclose(found["test"]["r2"], model.score(X[test], y[test]), rtol=1e-4)
    run("predict", "m.zarr", "e.zarr", "p.csv", "--std")
    mean, spread = model.predict(X, return_std=True)
    table = pd.read_csv("p.csv")
    assert_allclose(table.prediction, mean, rtol=1e-4)
    assert_allclose(table.spread, spread, rtol=1e-3)
    pd.DataFrame({"C11": y, "twice": 2 * y}).to_csv("y.csv", index=False)
    found = run("fit", "e.zarr", "k.zarr", "--linker", "kernel", "--response", "y.csv", "--hold-out", "0")
    assert "test" not in found
    found = run("fit", "e.zarr", "l.zarr", "--components", "4", "--response", "y.csv")["test"]
    assert list(found["r2_by_property"]) == ["C11", "twice"]
    assert_allclose(list(found["r2_by_property"].values()), found["r2"], rtol=1e-6)
    run("predict", "k.zarr", "e.zarr", "p.zarr")
    assert xr.open_zarr("p.zarr", consolidated=False).prediction.shape == (60, 2)
    assert "kernel" in run("info", "k.zarr", on_cluster=False)
    np.save("short.npy", y[:5])
    assert "has 5 rows, the store 60 samples" in run("fit", "e.zarr", "x.zarr", "--response", "short.npy", code=1)
    refused = run("fit", "e.zarr", "x.zarr", "--response", "stiffness", code=1)
    assert "is not a variable of the store" in refused
    assert "such as a .csv file with the header stiffness" in refused
    assert "m.zarr holds a model, not samples; open it with load_model" in run("fit", "m.zarr", "x.zarr", code=1)
    assert "localize takes a localization model" in run("localize", "m.zarr", "e.zarr", "x.zarr", code=1)


def test_commands__go_on_with_what_was_killed(run, scan, ensemble, tmp_path):
    # What a killed run leaves: a store that is not complete, results of some chunks.
    run("import", "scan.tif", "v.zarr", "--otsu", "2", "--resume")
    assert_array_equal(open_volume("v.zarr").microstructure, scan)
    run("fit", "e.zarr", "m.zarr", "--components", "3", "--resume")
    run("predict", "m.zarr", "e.zarr", "whole.csv", "--std")
    kept = tmp_path / "p.csv.predictions"
    found = lazy_parts(load_model("m.zarr"), open_ensemble("e.zarr"), std=True)
    materialize(found, kept, progress=False)
    last = max((kept / "predictions" / "c").rglob("[0-9]*"), key=lambda path: path.is_file())
    last.unlink()
    before = {path: path.stat().st_mtime_ns for path in (kept / "predictions" / "c").rglob("*") if path.is_file()}
    assert before
    run("predict", "m.zarr", "e.zarr", "p.csv", "--std", "--resume")
    pd.testing.assert_frame_equal(pd.read_csv("p.csv"), pd.read_csv("whole.csv"))
    assert not kept.exists()
    assert sorted(path.name for path in tmp_path.iterdir() if "partial" in path.name or "rows" in path.name) == []


def test_watch__shows_volumes_and_fits(run, scan, ensemble, tmp_path):
    run("import", "scan.tif", "v.zarr", "--otsu", "2")
    run("stats", "v.zarr", "S2.zarr", "--cutoff", "4", "--watch", "S2.png")
    run("stats", "v.zarr", "plain.zarr", "--cutoff", "4")
    assert_array_equal(xr.open_zarr("S2.zarr").correlations, xr.open_zarr("plain.zarr").correlations)
    run("fit", "e.zarr", "m.zarr", "--watch", "fit.png")
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("S2.png", "fit.png"))
    assert "e.zarr is an ensemble" in run("stats", "e.zarr", "x.zarr", "--watch", "x.png", code=1)


def test_stats__resumes_its_own_result_alone(run, scan, monkeypatch):
    run("import", "scan.tif", "v.zarr", "--otsu", "2")
    first = run("stats", "v.zarr", "S2.zarr", "--cutoff", "4")
    # What is there is not computed again.
    monkeypatch.setattr("mksdask.cli.analysis.correlate_volume", None)
    again = run("stats", "v.zarr", "S2.zarr", "--cutoff", "4", "--resume")
    assert again["phases"] == first["phases"]
    monkeypatch.undo()


def test_stats__says_when_a_result_is_another(run, scan):
    run("import", "scan.tif", "v.zarr", "--otsu", "2")
    run("stats", "v.zarr", "S2.zarr", "--cutoff", "4")
    assert "pass --overwrite to replace them" in run("stats", "v.zarr", "S2.zarr", "--cutoff", "3", "--resume", code=1)
    assert run("stats", "v.zarr", "S2.zarr", "--cutoff", "3", "--overwrite")["lags"] == [7, 7, 7]
    assert "must end with one of" in run("stats", "v.zarr", "S3.zarr", "--cutoff", "3", "--figure", "S.xyz", code=1)
    assert "is not a store; make one from images by mksdask import" in run("info", "scan.tif", on_cluster=False, code=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a;b\n0,18;0,12\n0,17;0,11\n", "rows of more values than its header"),
        ("k,name\n1.0,s0\n2.0,s1\n", r"holds text in the columns \['name'\]"),
        ("1.5\n2.5\n3.5\n", "has no header"),
        ("sample\n0\n1\n2\n", "has no column of properties"),
    ],
)
def test_fit__refuses_tables_that_it_would_misread(run, ensemble, tmp_path, text, message):
    (tmp_path / "y.csv").write_text(text)
    assert re.search(message, run("fit", "e.zarr", "m.zarr", "--response", "y.csv", code=1))


def test_fit__takes_its_own_predictions_and_gaps(run, ensemble, tmp_path):
    y = ensemble[1]
    run("fit", "e.zarr", "m.zarr", "--components", "3")
    run("predict", "m.zarr", "e.zarr", "p.csv")
    run("fit", "e.zarr", "again.zarr", "--response", "p.csv", "--components", "3")
    run("predict", "again.zarr", "e.zarr", "q.csv")
    # The numbers of samples are no property.
    assert list(pd.read_csv("q.csv").columns) == ["sample", "prediction", "distance"]
    pd.DataFrame({"C11": np.where(np.arange(60) % 2, y, np.nan)}).to_csv("half.csv", index=False)
    found = run("fit", "e.zarr", "half.zarr", "--response", "half.csv", "--components", "3")
    assert (found["samples"], found["test"]["samples"], found["without_response"]) == (24, 6, 30)
    assert found["test"]["r2"] > 0.5
    assert "there is no such file" in run("fit", "e.zarr", "x.zarr", "--response", "none.csv", code=1)
    assert "means nothing to the kernel linker" in run(
        "fit", "e.zarr", "x.zarr", "--linker", "kernel", "--degree", "2", code=1
    )
    assert "must be a .csv file or a .zarr store" in run("predict", "m.zarr", "e.zarr", "p.npy", code=1)


@pytest.mark.filterwarnings("default")
def test_predict__says_where_windows_lie_and_how_far_from_those_of_fit(run, ensemble, tmp_path):
    run("fit", "e.zarr", "m.zarr", "--components", "3", "--periodic", "none")
    np.save("one.npy", np.zeros((26, 26), np.uint8))
    run("import", "one.npy", "w.zarr", "--axes", "xy", "--window", "13", "--spacing", "2", "--units", "um")
    told = run("predict", "m.zarr", "w.zarr", "p.csv", "--std", on_cluster=False)
    assert re.search(r"Warning: 4 of 4 samples are unlike the samples of fit", told)
    assert "says that its periodic axes" not in told
    table = pd.read_csv("p.csv")
    assert list(table.columns) == ["sample", "corner_x", "corner_y", "prediction", "spread", "distance"]
    assert table.corner_x.tolist() == [0, 0, 26, 26]
    assert re.search(rf"^unlike training +{(table.distance > 1).sum()}$", told, re.MULTILINE)
    with pytest.warns(UserWarning, match=r"voxels of 2 µm × 2 µm, fit saw 1 voxel × 1 voxel"):
        expected = load_model("m.zarr").distance(open_ensemble("w.zarr").microstructure)
    assert_allclose(table.distance, expected, rtol=1e-4)


def test_predict__refuses_phases_in_another_order(run, ensemble, tmp_path):
    X, _ = ensemble
    run("fit", "e.zarr", "m.zarr", "--components", "3")
    create_ensemble(tmp_path / "swapped.zarr", 1 - X, phases=("soft", "stiff"), periodic_axes=[0, 1])
    assert "number phases alike" in run("predict", "m.zarr", "swapped.zarr", "p.csv", code=1)


def test_localize__on_larger_samples(run, ensemble, tmp_path):
    X, strain = make_elastic_FE_strain_delta(elastic_modulus=(100, 130), poissons_ratio=(0.3, 0.3), size=(9, 9))
    create_ensemble(tmp_path / "d.zarr", X, strain, periodic_axes=[0, 1])
    assert run("fit", "d.zarr", "l.zarr", "--hold-out", "0")["kind"] == "MKSLocalizationModel"
    assert run("localize", "l.zarr", "e.zarr", "field.zarr")["size"] == [13, 13]
    expected = load_model("l.zarr").resize_coeff((13, 13)).predict(ensemble[0])
    assert_allclose(xr.open_zarr("field.zarr").field, expected, atol=1e-9)
    assert "predict takes a homogenization model" in run("predict", "l.zarr", "e.zarr", "x.zarr", code=1)


def test_localize__fields_say_what_they_are(run, tmp_path):
    names = [f"S{j}" for j in range(12)]
    X = xr.DataArray(
        make_microstructure(n_samples=12, size=(8, 8), grain_size=3),
        dims=("sample", "x", "y"),
        coords={"sample": names},
    )
    create_ensemble(tmp_path / "X.zarr", X, spacing=0.5, units="µm", periodic_axes=[0, 1])
    phases = {"elastic_modulus": (1, 1.3), "poissons_ratio": (0.3, 0.3)}
    stored = open_ensemble(tmp_path / "X.zarr").microstructure
    stress = solve_fields(stored, **phases).stress.assign_attrs(units="MPa")
    create_ensemble(tmp_path / "e.zarr", stored, stress)
    run("fit", "e.zarr", "l.zarr", "--hold-out", "0")
    run("localize", "l.zarr", "X.zarr", "field.zarr")
    told = json.loads(run("info", "field.zarr", "--json", on_cluster=False))
    assert told["holds"] == ["stress / MPa"]
    assert told["component"] == ["xx", "yy", "xy"]
    assert (told["spacing"], told["units"], told["periodic"]) == ({"x": 0.5, "y": 0.5}, "um", ["x", "y"])
    text = run("info", "field.zarr", on_cluster=False)
    assert re.search(r"^spacing +x 0.5, y 0.5 µm$", text, re.MULTILINE)
    assert re.search(r"^component +xx, yy, xy$", text, re.MULTILINE)
    field = xr.open_zarr("field.zarr").field
    assert field.sample.values.tolist() == names
    assert field.attrs == {
        "long_name": "stress",
        "units": "MPa",
        "periodic_axes": ["x", "y"],
        "periods": [8, 8],
    }
    run("export", "field.zarr", "field.vti")
    head = (tmp_path / "field.vti").read_bytes()[:4000].decode("latin-1")
    assert 'Name="stress S0" NumberOfComponents="3" ComponentName0="xx"' in head
    assert 'Spacing="0.5 0.5 1.0"' in head


@pytest.mark.slow
def test_fit__of_higher_order_tells_where_to_stop(run, ensemble, tmp_path):
    options = {"elastic_modulus": (1, 20), "poissons_ratio": (0.3, 0.3), "macro_strain": 0.01}
    X, strain = make_elastic_FE_strain_random(n_samples=40, size=(9, 9), **options)
    create_ensemble(tmp_path / "d.zarr", X, strain, periodic_axes=[0, 1])
    found = run("fit", "d.zarr", "l.zarr", "--order", "3")["test"]
    assert len(found["r2_by_order"]) == 3
    assert found["r2_by_order"][2] == found["r2"] > found["r2_by_order"][0]
    assert load_model("l.zarr").order == 3
    text = run("fit", "d.zarr", "l.zarr", "--order", "2", "--overwrite", on_cluster=False)
    assert "R² by order" in text
    assert "--order means nothing to a homogenization model" in run("fit", "e.zarr", "m.zarr", "--order", "2", code=1)


def test_plan__says_what_the_command_will_take_or_that_it_does_not_fit(run, scan, ensemble):
    run("import", "scan.tif", "v.zarr", "--otsu", "2")
    text = run("plan", "stats", "v.zarr", "--cutoff", "4", "--memory-limit", "1GiB", on_cluster=False)
    X = open_volume("v.zarr").microstructure
    assert text.startswith("Plan of correlate_volume")
    assert "1 GiB with 1 thread" in text
    found = json.loads(run("plan", "fit", "e.zarr", "--components", "3", "--json", on_cluster=False))
    assert found["layout"]["components"] == 3
    assert found["peak_bytes"] > 0
    refused = run("plan", "stats", "v.zarr", "--cutoff", "4", "--memory-limit", "300MiB", on_cluster=False, code=3)
    assert "the smallest memory_limit that would do" in refused
    assert plan(correlate_volume, X, PrimitiveBasis(2), cutoff=4).operation == "correlate_volume"
    assert "fit takes an ensemble" in run("plan", "fit", "v.zarr", on_cluster=False, code=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["import", "a", "b", "--phases", "pore"], "write 0:pore,255:grain"),
        (["import", "a", "b", "--crop", "x"], "write x=0:200,z=50:"),
        (["import", "a", "b", "--thresholds", "low"], "is not a number"),
        (["import", "a", "b", "--periodic", "t"], "does not name axes"),
        (["info", "nothing.zarr"], "does not exist"),
        (["completion", "tcsh"], "is not one of"),
    ],
)
def test_commands__raise_on_bad_options(arguments, message):
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize(
    ("line", "environment"),
    [
        ("--help", {}),
        ("import --help", {}),
        ("", {"_MKSDASK_COMPLETE": "bash_complete", "COMP_WORDS": "mksdask st", "COMP_CWORD": "1"}),
        ("", {"_MKSDASK_COMPLETE": "bash_complete", "COMP_WORDS": "mksdask stats a b --mem", "COMP_CWORD": "4"}),
    ],
)
def test_command__helps_and_completes_without_numpy(line, environment):
    code = "import atexit, sys\natexit.register(lambda: print(*sorted(sys.modules), file=sys.stderr))\n"
    code += f"sys.argv = ['mksdask', *{line.split()!r}]\nfrom mksdask.cli import main\nmain(prog_name='mksdask')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | environment
    )
    modules = done.stderr.split()
    assert "mksdask.cli.commands" in modules
    assert not {"numpy", "dask", "distributed", "xarray", "zarr", "fsspec", "matplotlib", "pandas"} & set(modules)
    # The interpreter and click take about 300.
    assert len(modules) < 500
    expected = {"st": "stats", "stats a b --mem": "--memory-limit"}
    assert expected.get(environment.get("COMP_WORDS", "").removeprefix("mksdask "), "Usage: mksdask") in done.stdout


def test_command__help_is_whole_and_in_groups():
    told = CliRunner().invoke(main, ["--help"]).output
    assert "..." not in told.replace('"..."', "").replace("[ARGS]...", "")
    assert re.search(r"Compute:\n  stats .*?Pass on, and keep:\n  report ", told, re.DOTALL)
    told = CliRunner().invoke(main, ["fit", "--help"]).output
    order = [told.index(f"\n{heading}:\n") for heading in ("Phases", "Statistics", "Model", "Output", "Workers")]
    assert order == sorted(order)


class Page(HTMLParser):
    """The text of a page, its pictures, and whether all that is opened is closed."""

    def __init__(self, html):
        super().__init__()
        self.text, self.pictures, self.opened, self.others = "", [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.others += [value for name, value in attributes.items() if name in ("href", "src") and value[:5] != "data:"]
        if tag == "img":
            assert attributes["alt"]
            self.pictures.append(base64.b64decode(attributes["src"].removeprefix("data:image/png;base64,")))
        if tag not in ("img", "meta"):
            self.opened.append(tag)

    def handle_endtag(self, tag):
        assert self.opened.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("kind", ["volume", "ensemble"])
def test_report__is_one_page_of_all_that_is_known(run, tmp_path, kind):
    X = make_microstructure(n_samples=5, size=(14, 12, 10) if kind == "volume" else (14, 12), grain_size=4)
    geometry = {"spacing": 0.5, "units": "um", "phases": ("pore", "<script>alert(1)</script>")}
    if kind == "volume":
        create_volume(tmp_path / "s.zarr", X[0], **geometry)
    else:
        create_ensemble(tmp_path / "s.zarr", X, **geometry)
    found = run("report", "s.zarr", "out.html", "--title", "Rock & roll")
    html = (tmp_path / "out.html").read_text("utf-8")
    assert found["bytes"] == len(html.encode())
    page = Page(html)
    assert page.opened == []
    # Nothing comes from elsewhere, and what files say is text.
    assert page.others == []
    assert "<script" not in html
    assert "Rock & roll" in page.text
    assert page.text.count("<script>alert(1)</script>") >= 4
    assert all(picture.startswith(b"\x89PNG") for picture in page.pictures)
    assert len(page.pictures) == 4
    assert f"{(X[0] if kind == 'volume' else X).mean():.4g}" in page.text
    assert "interface per volume / µm⁻¹" in page.text
    assert "clusters per µm" in page.text
    assert "pass --overwrite" in run("report", "s.zarr", "out.html", code=1)
    run("report", "s.zarr", "out.html", "--overwrite")
    (tmp_path / "mine.html").write_text("mine")
    assert "which replaces an earlier report" in run("report", "s.zarr", "mine.html", "--overwrite", code=1)


def test_info_and_stats__print_units(run, scan, client):
    run("import", "scan.tif", "v.zarr", "--otsu", "2", "--names", "pore,grain", "--spacing", "3", "--units", "um")
    assert re.search(r"^spacing +x 3, y 3, z 3 µm$", run("info", "v.zarr", on_cluster=False), re.MULTILINE)
    line = ["stats", "v.zarr", "S2.zarr", "--cutoff", "3", "--scheduler", client.scheduler.address]
    told = CliRunner().invoke(main, line).stdout
    assert re.search(r"^pore: volume fraction +0\.\d+$", told, re.MULTILINE)
    assert re.search(r"^pore: interface per volume +[\d.]+ 1/µm$", told, re.MULTILINE)
    assert re.search(r"^pore: integral range +-?[\d.]+ µm³$", told, re.MULTILINE)
    # A sum over all lags would tell nothing.
    told = CliRunner().invoke(main, ["stats", "v.zarr", "all.zarr", *line[-2:]]).stdout
    assert "interface per volume" in told
    assert "integral range" not in told
    assert re.search(r"^seconds +[\d.]+ s$", told, re.MULTILINE)


def test_errors__name_options_instead_of_arguments():
    assert with_options('pass axes="zyx" if so', ["--axes"]) == "pass --axes zyx if so"
    assert with_options("correlations must be pairs, got n=3", ["--pairs"]) == "--pairs must be pairs, got n=3"
    assert with_options("cutoff=25 and window=(3, 3) are large") == "--cutoff 25 and --window (3, 3) are large"
    twice = "pass follow_links=True, or --follow-links to mksdask import; choose one by series= (--series): 0"
    assert with_options(twice) == "pass --follow-links; choose one by --series: 0"
    assert with_options("size must be a number", ["--axes"]) == "size must be a number"
    phases = "name them by phases={0: 'a', 255: 'b'} (--phases 0:a,255:b), or phases='values' (--phases values)"
    assert with_options(phases) == "name them by --phases 0:a,255:b, or --phases values"
    assert with_options("one by time= (--time 0 to 1); periodic_axes=()") == "one by --time 0 to 1; --periodic none"


@pytest.mark.parametrize(
    ("command", "given"),
    [
        ("import", "--phases 0:pore,255:grain --spacing 3,0.5 --crop x=0:200,z=50: --window 64x64 --as samples"),
        ("import", "--thresholds 80,160.5 --periodic none --names 'a b,c' --allow-missing"),
        ("fit", "--cutoff 4,5 --pairs 0-0,0-1 --periodic x,z --hold-out 0.25"),
    ],
)
def test_provenance__names_options_as_they_are_typed(command, given, tmp_path):
    (tmp_path / "in").touch()
    declared = main.commands[command]
    with declared.make_context(command, [*shlex.split(given), str(tmp_path / "in"), "out"]) as context:
        recorded = described_call()["parameters"]
    words = shlex.split(" ".join(f"--{name} {value}" for name, value in recorded.items()))
    with declared.make_context(command, [*words, str(tmp_path / "in"), "out"]) as again:
        assert again.params == context.params
    assert "{" not in "".join(recorded.values())


def test_commands__help_shows_examples_and_shells_complete():
    for command in ("import", "info", "stats", "fit", "predict", "localize", "plan", "demo"):
        assert (
            "mksdask " + command
            in CliRunner().invoke(main, [command, "--help"]).output.split("Options:")[0].split("\n\n", 1)[1]
        )
    # Each option stands under a heading, and only the help itself under the last.
    assert CliRunner().invoke(main, ["import", "--help"]).output.split("Options:\n")[1].split()[:2] == ["-h,", "--help"]
    assert "_MKSDASK_COMPLETE" in CliRunner().invoke(main, ["completion", "zsh"]).output
