"""Runs on a cluster whose client or worker is killed: nothing that was done is done again, and the result is equal."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import psutil
import pytest
import xarray as xr
from numpy.testing import assert_array_equal

KINDS = ["volume", "all lags", "ensemble"]

SCRIPT = """
    import os, sys, time
    import dask.array as da, numpy as np
    from distributed import Client, LocalCluster, WorkerPlugin
    import mksdask.stats.tiling as tiling
    from mksdask import PrimitiveBasis, create_volume, open_volume
    from mksdask.stats import correlate, correlate_volume
    from mksdask.storage import materialize

    kind, url, log = sys.argv[1:]


    class Log(WorkerPlugin):
        \"\"\"Writes down each statistic that a worker begins to compute, and by which process.\"\"\"

        def __init__(self, log):
            self.log = log

        def transition(self, key, start, finish, **options):
            # A kernel by itself is a task too, which does nothing. A task is written down before it runs, because a
            # worker may be killed after its block is in the store, and before it could write that down.
            is_work = str(key).strip("('").startswith(PREFIX) and "-kernel-" not in str(key)
            if is_work and finish == "executing":
                with open(self.log, "a") as file:
                    file.write(f"{os.getpid()} {key}\\n")


    PREFIX = {"volume": "correlate-volume-", "all lags": ("planes-", "lines-", "lags-"), "ensemble": "correlate-"}[kind]

    if __name__ == "__main__":
        tiling.SHORTEST, tiling.LONGEST = 4, 40
        X = np.random.default_rng(0).integers(0, 2, (64, 48, 48, 48)).astype("uint8")
        with LocalCluster(
            n_workers=2, threads_per_worker=1, memory_limit="1GiB", host="127.0.0.1", dashboard_address="127.0.0.1:0"
        ) as cluster, Client(cluster) as client:
            client.register_plugin(Log(log))
            if kind == "ensemble":
                lazy = da.from_array(X, chunks=(2, 48, 48, 48))
                slow = lazy.map_blocks(
                    lambda block: (time.sleep(0.05), block)[1], name="slow", dtype="uint8", meta=lazy._meta
                )
                materialize(correlate(slow, PrimitiveBasis(2), cutoff=10), url)
            else:
                volume = X.reshape(-1)[: 144**3]
                volume = volume.reshape(144, 144, 144)
                cutoff = 10 if kind == "volume" else None
                correlate_volume(volume, PrimitiveBasis(2), cutoff=cutoff, correlations=[(0, 0)], scratch=url)
"""


def lines_of(log):
    return log.read_text().split("\n")[:-1] if log.exists() else []


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The script, the command of a run, and the stores and logs of runs that nothing disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    script = folder / "run.py"
    script.write_text(textwrap.dedent(SCRIPT))

    def command(kind, place):
        return [sys.executable, script, kind, place / "result.zarr", place / "log"]

    for kind in KINDS:
        (folder / kind).mkdir()
        subprocess.run(command(kind, folder / kind), check=True, stderr=subprocess.DEVNULL)
    return command, folder


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["client", "worker"])
@pytest.mark.parametrize("kind", KINDS)
def test_kill__only_what_was_in_flight_is_done_again(tmp_path, run, kind, victim):
    command, undisturbed = run
    n_tasks, log = len(lines_of(undisturbed / kind / "log")), tmp_path / "log"
    assert n_tasks >= 16
    process = subprocess.Popen(command(kind, tmp_path), stderr=subprocess.DEVNULL)
    wanted = random.Random(os.getpid()).randint(2, n_tasks - 3)
    while len(lines_of(log)) < wanted:
        assert process.poll() is None
        time.sleep(0.01)
    if victim == "worker":
        os.kill(int(lines_of(log)[-1].split()[0]), signal.SIGKILL)
        assert process.wait(timeout=120) == 0
    else:
        family = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
        for pid in family:
            os.kill(pid, signal.SIGKILL)
        process.wait()
        subprocess.run(command(kind, tmp_path), check=True, stderr=subprocess.DEVNULL)
    # In flight: what each of two workers computes, and what each has computed and not yet written. What is done is
    # written down at least once.
    assert n_tasks <= len(lines_of(log)) <= n_tasks + 4
    found, expected = (xr.open_zarr(folder / "result.zarr") for folder in (tmp_path, undisturbed / kind))
    (name,) = expected.data_vars
    assert_array_equal(found[name], expected[name])
    assert np.isfinite(expected[name].values).all()
