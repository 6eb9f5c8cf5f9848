"""The command that is stopped: one line, the right exit status, no half result, and no process that stays."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import psutil
import pytest
from numpy.testing import assert_array_equal

from mksdask import create_volume, open_volume
from mksdask.startup import is_command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a volume, of which all lags take a while, and the image of the volume."""
    folder = tmp_path_factory.mktemp("stopped")
    X = np.random.default_rng(0).integers(0, 2, (200, 200, 200), dtype="uint8")
    create_volume(folder / "v.zarr", X)
    np.save(folder / "scan.npy", X)
    return folder


MOMENTS = {
    "imports": lambda new, family: psutil.Process(family[0]).cpu_times().user > 0.3,
    "start of the workers": lambda new, family: len(family) >= 2,
    "computing": lambda new, family: "S2.zarr.sums" in new,
    "writing": lambda new, family: any(name.startswith("w.zarr.partial") for name in new),
}
STATS, IMPORT = ["stats", "v.zarr", "S2.zarr"], ["import", "scan.npy", "w.zarr", "--window", "10"]


def stopped(folder, arguments, moment, number, *, times=1):
    """Run the command, send a signal to all its processes, as a terminal does, and return what is left."""
    names = set(os.listdir(folder))
    process = subprocess.Popen(
        [sys.executable, "-m", "mksdask", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell lets what it starts in the background ignore SIGINT, and so does what that starts.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    while True:
        assert process.poll() is None, process.communicate()
        children = psutil.Process(process.pid).children(recursive=True)
        if MOMENTS[moment](set(os.listdir(folder)) - names, [process.pid, *(child.pid for child in children)]):
            break
        time.sleep(0.005)
    for _ in range(times):
        os.killpg(process.pid, number)
    try:
        out, err = process.communicate(timeout=100)
    except subprocess.TimeoutExpired:
        # Otherwise its processes would stay, and hold the tests.
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"the command did not end in 100 s: {process.communicate()}")
    _, alive = psutil.wait_procs(children, timeout=10)
    return process.returncode, out, err, alive, sorted(set(os.listdir(folder)) - names)


@pytest.mark.parametrize(
    ("arguments", "moment", "number"),
    [
        pytest.param(STATS, "imports", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(STATS, "imports", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(STATS, "start of the workers", signal.SIGINT, marks=pytest.mark.slow),
        (STATS, "computing", signal.SIGINT),
        pytest.param(STATS, "computing", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(IMPORT, "writing", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(IMPORT, "writing", signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_signal__stops_the_command_without_a_trace(folder, arguments, moment, number):
    code, out, err, alive, new = stopped(folder, arguments, moment, number)
    assert (code, out, err) == (128 + number, "", f"Error: stopped by {signal.Signals(number).name}\n")
    assert alive == []
    assert new == []


@pytest.mark.slow
def test_signal__as_json_and_many_times(folder):
    code, out, err, alive, new = stopped(folder, [*STATS, "--json"], "computing", signal.SIGTERM, times=3)
    assert (code, out, alive, new) == (143, "", [], [])
    assert json.loads(err) == {"error": "stopped by SIGTERM", "exit_code": 143}


@pytest.mark.slow
def test_signal__keeps_what_is_done_only_to_resume(folder):
    code, _, err, alive, new = stopped(folder, [*STATS, "--cutoff", "20", "--resume"], "computing", signal.SIGINT)
    assert (code, alive, new) == (130, [], ["S2.zarr.sums"])
    assert err == "Error: stopped by SIGINT; what is done is kept, and the same call continues with it\n"
    ended = subprocess.run(
        [sys.executable, "-m", "mksdask", *STATS, "--cutoff", "20", "--resume", "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(ended.stdout)["lags"] == [41, 41, 41]
    assert ended.stderr == ""
    assert set(os.listdir(folder)) == {"v.zarr", "scan.npy", "S2.zarr"}
    assert_array_equal(open_volume(folder / "v.zarr").microstructure, np.load(folder / "scan.npy"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["python", "-m", "mksdask", "stats"], True),
        (["python", "/env/bin/mksdask", "stats"], True),
        (["python", "/env/bin/pytest", "mksdask"], False),
        (["python", "-m", "pytest", "mksdask"], False),
        (["python", "-c", "from multiprocessing.spawn import spawn_main"], False),
        (["python"], False),
    ],
)
def test_startup__handles_signals_of_the_command_alone(words, expected):
    assert is_command(words) == expected
