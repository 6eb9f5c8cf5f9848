"""The command with --overwrite: until the new result is complete, the old one stays as it is, byte for byte."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from contextlib import chdir

import numpy as np
import psutil
import pytest
import tifffile
from click.testing import CliRunner

from mksdask import create_ensemble, create_volume
from mksdask.cli import main
from mksdask.datasets import make_microstructure
from mksdask.datasets.responses import make_elastic_FE_strain_delta, make_elastic_stiffness


def contents(folder):
    """What a folder holds: the bytes of each file."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture(scope="module")
def made(client, tmp_path_factory):
    """A folder with inputs, and a result of each command."""
    folder = tmp_path_factory.mktemp("made")
    phase = make_microstructure(n_samples=1, size=(24, 20, 16), grain_size=3, seed=0)[0]
    tifffile.imwrite(folder / "scan.tif", (phase * 255).astype("uint8").transpose(2, 1, 0), photometric="minisblack")
    X, y = make_elastic_stiffness(n_samples=(20, 20), size=(11, 11), grain_size=((2, 2), (6, 3)), seed=0)
    create_ensemble(folder / "e.zarr", X, y, phases=("stiff", "soft"), periodic_axes=[0, 1], chunks=10)
    strange = X.copy()
    strange[-1, 0, 0] = 7
    create_ensemble(folder / "strange.zarr", strange, periodic_axes=[0, 1], chunks=10)
    delta, strain = make_elastic_FE_strain_delta(elastic_modulus=(100, 130), poissons_ratio=(0.3, 0.3), size=(9, 9))
    create_ensemble(folder / "d.zarr", delta, strain, periodic_axes=[0, 1])
    with chdir(folder):
        for line in (
            "import scan.tif v.zarr --otsu 2",
            "stats v.zarr S2.zarr --cutoff 3 --figure S2.png",
            "fit e.zarr m.zarr --components 3 --figure fit.png",
            "predict m.zarr e.zarr p.csv",
            "predict m.zarr e.zarr p.zarr",
            "fit d.zarr l.zarr --hold-out 0",
            "localize l.zarr e.zarr field.zarr",
            "demo --samples 40 --size 8x8 --out demo",
        ):
            result = CliRunner().invoke(main, [*line.split(), "--scheduler", client.scheduler.address])
            assert result.exit_code == 0, result.output
    return folder


INVALID = {
    "import scan.tif v.zarr": [
        "--phases 0:pore",
        "--phases 0:pore,0:grain",
        "--thresholds 100,50",
        "--otsu 2 --thresholds 100",
        "--otsu 2 --names pore",
        "--otsu 2 --spacing -1",
        "--otsu 2 --spacing 1,2",
        "--otsu 2 --crop x=9:3",
        "--otsu 2 --crop x=0:4,x=4:8",
        "--otsu 2 --window 100",
        "--otsu 2 --window 4x4",
        "--otsu 2 --axes zz",
        "--dataset other",
        "--periodic x,x",
        "--otsu 2 --memory-limit 2",
    ],
    "import none.tif v.zarr": [""],
    "import s3://bucket/scan.tif v.zarr": [""],
    "import scan.tif S2.zarr": ["--otsu 2"],
    "stats v.zarr S2.zarr": [
        "--cutoff 3,3",
        "--cutoff 99",
        "--cutoff 3 --pairs 7-7",
        "--cutoff 3 --periodic q",
        "--cutoff 3 --states 1",
        "--cutoff 3 --figure S2.txt",
        "--cutoff 3 --figure v.zarr",
        "--cutoff 3 --figure S2.png --watch S2.png",
        "--watch S2.png",
        "--cutoff 3 --watch none/live.png",
        "--cutoff 3 --scheduler scan.json",
    ],
    "stats e.zarr S2.zarr": ["--watch S2.png", "--periodic z", "--cutoff 9"],
    "stats m.zarr S2.zarr": [""],
    "stats none.zarr S2.zarr": [""],
    "fit e.zarr m.zarr": [
        "--components 999",
        "--response none.csv",
        "--response other",
        "--linker kernel --degree 2",
        "--hold-out nan",
        "--pairs 5-5",
        "--cutoff 40",
        "--figure m.zarr/fit.png",
        "--states 1",
    ],
    "fit d.zarr m.zarr": ["--components 3", "--linker polynomial", "--periodic x", "--figure fit.png"],
    "fit v.zarr m.zarr": [""],
    "predict m.zarr v.zarr p.zarr": [""],
    "predict m.zarr d.zarr p.csv": [""],
    "predict m.zarr strange.zarr p.zarr": ["", "--std"],
    "predict m.zarr strange.zarr p.csv": [""],
    "predict l.zarr e.zarr p.csv": [""],
    "predict m.zarr e.zarr p.txt": [""],
    "localize l.zarr v.zarr field.zarr": [""],
    "localize l.zarr strange.zarr field.zarr": [""],
    "localize m.zarr e.zarr field.zarr": [""],
    "demo --out demo": ["--samples 3", "--size 2", "--scheduler scan.json"],
    "demo --out v.zarr/demo": [""],
    "demo --out scan.tif": [""],
}


@pytest.mark.parametrize("line", [f"{line} {options}" for line, each in INVALID.items() for options in each])
def test_overwrite__keeps_the_old_result_if_the_call_is_invalid(made, client, monkeypatch, line):
    monkeypatch.chdir(made)
    monkeypatch.setattr("mksdask.cli.options.FILE", 0.1)
    before = contents(made)
    scheduler = () if "--scheduler" in line else ("--scheduler", client.scheduler.address)
    result = CliRunner().invoke(main, [*line.split(), "--overwrite", *scheduler])
    assert result.exit_code in (1, 2, 3), result.output
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    # A usage error tells how to get help, too.
    assert len(result.stderr.strip().splitlines()) == (1 if result.exit_code == 1 else 4)
    assert contents(made) == before


def test_overwrite__keeps_the_sums_of_an_earlier_run_if_the_call_is_invalid(made, client, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with client.as_current():
        create_volume("v.zarr", make_microstructure(n_samples=1, size=(12, 12), seed=0)[0])
    address = client.scheduler.address

    def call(*more):
        return CliRunner().invoke(main, ["stats", "v.zarr", "S2.zarr", "--cutoff", "3", *more, "--scheduler", address])

    with monkeypatch.context() as broken:
        broken.setattr(
            "mksdask.cli.analysis.Output.write", lambda *_: (_ for _ in ()).throw(OSError("the disk is full"))
        )
        assert "the disk is full" in call().output
        assert sorted(path.name for path in tmp_path.iterdir()) == ["v.zarr"]
        assert "the disk is full" in call("--resume").output
    before = contents(tmp_path)
    assert "S2.zarr.sums" in before
    assert call("--overwrite", "--pairs", "7-7").exit_code == 1
    assert "pass --resume to continue with it" in call().output
    assert contents(tmp_path) == before
    assert call("--resume").exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["S2.zarr", "v.zarr"]


@pytest.mark.slow
def test_overwrite__keeps_the_old_demo_if_the_new_one_fails(made, client, monkeypatch):
    monkeypatch.chdir(made)
    monkeypatch.setattr("mksdask.tools.draw_components", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    before = contents(made)
    line = "demo --samples 44 --size 8x8 --out demo --overwrite --scheduler"
    result = CliRunner().invoke(main, [*line.split(), client.scheduler.address])
    assert result.stderr == "Error: disk full\n"
    assert contents(made) == before
    monkeypatch.undo()
    monkeypatch.chdir(made)
    (made / "demo" / "notes.txt").write_text("mine")
    assert CliRunner().invoke(main, [*line.split(), client.scheduler.address]).exit_code == 0
    after = contents(made)
    assert (made / "demo" / "notes.txt").read_text() == "mine"
    assert {name for name in after if name not in before} == {"demo/notes.txt"}
    assert after["demo/goodness_of_fit.png"] != before["demo/goodness_of_fit.png"]


KILLED = {
    "import scan.tif v.zarr --otsu 2": True,
    "stats v.zarr S2.zarr --cutoff 3": False,
    "stats v.zarr S2.zarr": True,
    "fit e.zarr m.zarr": True,
    "predict m.zarr e.zarr p.csv": True,
    "localize l.zarr e.zarr field.zarr": True,
    "demo --samples 40 --size 8x8 --out demo": True,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "line", [pytest.param(line, marks=pytest.mark.slow) if slow else line for line, slow in KILLED.items()]
)
def test_overwrite__keeps_the_old_result_if_the_run_is_killed(made, line):
    before = contents(made)
    process = subprocess.Popen(
        [sys.executable, "-m", "mksdask", *line.split(), "--overwrite"],
        cwd=made,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    names = set(os.listdir(made))
    # The run has begun to write when something new is there that is not a lock.
    while not {name for name in set(os.listdir(made)) - names if ".lock" not in name}:
        assert process.poll() is None
        time.sleep(0.001)
    family = [process, *psutil.Process(process.pid).children(recursive=True)]
    for each in family:
        os.kill(each.pid, signal.SIGKILL)
    process.wait()
    after = contents(made)
    assert {name: after.get(name) for name in before} == before
    # The same call succeeds afterwards.
    subprocess.run(
        [sys.executable, "-m", "mksdask", *line.split(), "--overwrite"], cwd=made, check=True, capture_output=True
    )
    assert np.isin(sorted(before), sorted(contents(made))).all()
