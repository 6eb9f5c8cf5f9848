"""The matrix of faults, for a few of its cells."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "faults.py"
# Stages of which the table of results has no row in S3.
IN_S3 = (
    "create volume",
    "correlate",
    "all lags",
    "windows",
    "descriptors",
    "calibrate",
    "localize",
    "fields",
    "stiffness",
)
FAULTS = ("worker kill", "scheduler kill", "client kill", "error once", "disk full", "deleted")


def cells(stage, faults, folder, *options):
    """What the benchmark tells of a stage, fault by fault."""
    line = [sys.executable, BENCHMARK, "--stages", stage, "--faults", *faults, "--json", folder / "told.json", *options]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "told.json").read_text())


@pytest.mark.slow
@pytest.mark.s3
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that are forked")
@pytest.mark.parametrize("stage", IN_S3)
def test_matrix__in_s3_has_no_cell_that_is_wrong_or_stuck(tmp_path, stage):
    pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    faults = ("client kill", "deleted", "503")
    told = cells(stage, faults, tmp_path, "--s3")
    assert {cell["fault"]: cell["verdict"] for cell in told} == dict(
        zip(faults, ("resumed", "resumed", "equal"), strict=True)
    )


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that are forked")
def test_matrix__has_no_cell_that_is_wrong_or_stuck(tmp_path):
    told = {cell["fault"]: cell for cell in cells("correlate", FAULTS, tmp_path)}
    assert told.keys() == set(FAULTS)
    assert told["error once"]["verdict"] == told["worker kill"]["verdict"] == "equal"
    for fault, words in {
        "scheduler kill": "the scheduler tcp://",
        "disk full": "No space left on device (writing to",
        "deleted": "is missing (stage",
    }.items():
        assert words in told[fault]["first"]["message"]
        assert told[fault]["verdict"] == "resumed"
