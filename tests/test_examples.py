"""Each example runs with --quick, and each benchmark at a small size."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import real_data

ROOT = Path(__file__).parents[1]


def run(script, *arguments, cwd):
    result = subprocess.run(
        [sys.executable, ROOT / script, *arguments], capture_output=True, text=True, check=False, cwd=cwd
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_example__effective_stiffness(tmp_path):
    out = run("examples/effective_stiffness.py", "--quick", "--out", "figures", cwd=tmp_path)
    scores = [float(value) for value in re.findall(r"test R² = ([\d.]+)", out)]
    assert len(scores) == 2
    assert min(scores) > 0.98
    assert len(list((tmp_path / "figures").glob("*.png"))) == 8


def test_example__real_sandstone(tmp_path):
    out = run("examples/real_sandstone.py", real_data("berea_400.tif"), "--quick", "--out", "rock", cwd=tmp_path)
    assert "porosity 19.65%" in out
    assert float(re.search(r"hold-out of 6 sub-volumes: R² = (-?[\d.]+)", out).group(1)) > 0.0
    assert len(list((tmp_path / "rock").glob("*.png"))) == 3


def test_benchmark__correlation(tmp_path):
    # Speed is asserted when the benchmark runs by itself, on a machine with nothing else to do.
    options = ("--samples", "1", "--size", "48", "--rounds", "1", "--limit", "1e9")
    assert run("benchmarks/correlation.py", *options, cwd=tmp_path).count("ratio") == 3


@pytest.mark.slow
def test_benchmark__elasticity(tmp_path):
    assert "120 samples of section 5.1" in run("benchmarks/elasticity.py", "--quick", "--limit", "1e9", cwd=tmp_path)
