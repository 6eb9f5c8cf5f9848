"""The matrix of faults, for a few of its cells."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "faults.py"
FAULTS = ("worker kill", "scheduler kill", "client kill", "error once", "disk full", "deleted")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that are forked")
def test_matrix__has_no_cell_that_is_wrong_or_stuck(tmp_path):
    line = [sys.executable, BENCHMARK, "--stages", "correlate", "--faults", *FAULTS, "--json", tmp_path / "told.json"]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    told = {cell["fault"]: cell for cell in json.loads((tmp_path / "told.json").read_text())}
    assert told.keys() == set(FAULTS)
    assert told["error once"]["verdict"] == told["worker kill"]["verdict"] == "equal"
    for fault, words in {
        "scheduler kill": "the scheduler tcp://",
        "disk full": "No space left on device (writing to",
        "deleted": "is missing (stage",
    }.items():
        assert words in told[fault]["first"]["message"]
        assert told[fault]["verdict"] == "resumed"
