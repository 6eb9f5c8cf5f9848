"""The command, as a user calls it."""

import re
import subprocess
import sys

import pytest
from click.testing import CliRunner
from distributed import Client

from mksdask import open_ensemble
from mksdask.cli import main


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
    for stage in ("generate", "statistics", "predict", "figures"):
        assert re.search(rf"{stage}.* \d+\.\d s", result.stdout)
    ensemble = open_ensemble(out / "ensemble.zarr")
    assert ensemble.microstructure.shape == (48, 16, 16)
    assert ensemble.response.min() > 20
    pictures = {path.name for path in out.glob("*.png")}
    assert pictures >= {"microstructures.png", "correlations.png", "components.png", "goodness_of_fit.png"}
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    # Nothing is overwritten unless told.
    refused = CliRunner().invoke(main, ["demo", "--out", str(out)])
    assert refused.exit_code == 1
    assert "--overwrite" in refused.output


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


def test_demo__says_when_no_scheduler_answers(tmp_path):
    result = CliRunner().invoke(main, ["demo", "--out", str(tmp_path / "out"), "--scheduler", "tcp://127.0.0.1:9"])
    assert result.exit_code == 1
    assert "no dask scheduler answers at tcp://127.0.0.1:9" in result.output
    assert not (tmp_path / "out").exists()


def test_command__help_and_version():
    assert "Run the main job" in CliRunner().invoke(main, ["demo", "--help"]).output
    assert "0.1.0" in CliRunner().invoke(main, ["--version"]).output
