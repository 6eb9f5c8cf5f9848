"""Waiting for a cluster: silent workers are told, runs without progress end, and nothing grows from call to call."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster, span
from numpy.testing import assert_array_equal

from mksdask.compute import waiting
from mksdask.compute.blocks import computed
from mksdask.storage import materialize


@contextmanager
def cluster(folder, n_workers=2):
    """A scheduler and workers in processes of their own, and a client. Yields the first and the last."""
    file = folder / "scheduler.json"
    line = [sys.executable, "-m", "distributed.cli.dask_{}", "--scheduler-file", str(file), "--no-dashboard"]
    roles = [("scheduler", "--host 127.0.0.1 --port 0 --preload mksdask")]
    roles += [("worker", "--nthreads 1 --no-nanny --preload mksdask")] * n_workers
    processes = [
        subprocess.Popen([*(word.format(role) for word in line), *more.split()], cwd=folder, stderr=subprocess.DEVNULL)
        for role, more in roles
    ]
    try:
        while not file.exists():
            time.sleep(0.05)
        with Client(scheduler_file=str(file), set_as_default=False, timeout=60) as client:
            client.wait_for_workers(n_workers, timeout=60)
            yield processes[0], client
    finally:
        for process in processes:
            process.kill()
            process.wait()


def slow(folder, n_blocks=20, seconds=0.3):
    """A lazy array whose kernel writes down its process, and takes a while."""

    def kernel(block):
        (folder / f"{os.getpid()}-{time.monotonic_ns()}").touch()
        time.sleep(seconds)
        return block

    folder.mkdir()
    lazy = da.arange(2 * n_blocks, chunks=2, dtype=float)
    return lazy.map_blocks(kernel, dtype=float, meta=lazy._meta, token="slow")


def after(n_blocks, folder, number, pid=None):
    """Send a signal, once so many blocks have begun, to a process, or to the worker that began the last one."""
    victims = []

    def send():
        while len(found := sorted(folder.iterdir(), key=lambda path: path.name.partition("-")[2])) < n_blocks:
            time.sleep(0.01)
        victims.append(int(found[-1].name.partition("-")[0]) if pid is None else pid)
        os.kill(victims[0], number)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread, victims


@pytest.mark.slow
def test_cluster__that_hangs_or_dies_is_told_and_the_run_ends_resumably(tmp_path, monkeypatch):
    monkeypatch.setattr(waiting, "SILENCE", 6.0)
    monkeypatch.setattr(waiting, "INTERVAL", 0.5)
    told = r"worker tcp://\S+ \(process \d+\) has been silent for \d+ s, and has \d+ tasks to do"
    with cluster(tmp_path) as (scheduler, client), client.as_current(), dask.config.set({"mksdask.timeout": "25 s"}):
        for call in ("materialize", "computed"):
            lazy, url = slow(tmp_path / call), tmp_path / "result.zarr"
            run = partial(materialize, lazy, url, progress=False) if call == "materialize" else partial(computed, lazy)
            thread, victims = after(12, tmp_path / call, signal.SIGSTOP)
            with (
                pytest.warns(UserWarning, match=told),
                pytest.raises(TimeoutError, match=rf"no task was finished in \d+ s.*{told}; .* goes on with it"),
            ):
                run()
            thread.join(timeout=10)
            os.kill(victims[0], signal.SIGCONT)
            assert_array_equal(run(), np.arange(40.0))
            # Only what was in flight is done again, if results are kept.
            assert call == "computed" or len(list((tmp_path / call).iterdir())) <= 20 + 4
        lazy, url = slow(tmp_path / "killed"), tmp_path / "killed.zarr"
        thread, _ = after(8, tmp_path / "killed", signal.SIGKILL, scheduler.pid)
        with pytest.raises(ConnectionError, match=r"the scheduler tcp://\S+ is gone; what is in stores .* is kept"):
            materialize(lazy, url, progress=False)
        thread.join(timeout=10)
    assert_array_equal(materialize(lazy, url, progress=False), np.arange(40.0))
    assert len(list((tmp_path / "killed").iterdir())) <= 20 + 6


def test_computation__in_a_task_leaves_its_thread_to_the_tasks_that_it_waits_for(tmp_path):
    lazy = da.arange(6, chunks=2)

    def in_task(place):
        return computed(lazy).sum(), np.asarray(materialize(lazy, place, progress=False)).sum()

    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as one,
        Client(one) as client,
    ):
        found = client.submit(in_task, tmp_path / "result.zarr").result(timeout=120)
    assert found == (15, 15)


def test_run__without_progress_ends_and_long_tasks_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(waiting, "LONG", 0.1)
    monkeypatch.setattr(waiting, "LONGER", 0.1)

    def kernel(block):
        while not (tmp_path / "go").exists():
            time.sleep(0.02)
        return block

    lazy = da.arange(4, chunks=2).map_blocks(kernel, dtype=int, meta=np.empty(0, int), name="waits")
    told = r"worker \S+ \(process .*\) has worked on one task of stage \S*waits for 0 minutes"
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as one,
        Client(one),
    ):
        with (
            dask.config.set({"mksdask.timeout": "2 s"}),
            pytest.warns(UserWarning, match=told),
            pytest.raises(TimeoutError, match=rf"no task was finished in \d+ s, .*{told}; what is in stores"),
        ):
            computed(lazy)
        (tmp_path / "go").touch()
        assert_array_equal(computed(lazy), np.arange(4))


def test_computations__belong_to_one_span_or_to_that_of_the_caller(client, tmp_path):
    def spans():
        return client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.extensions["spans"].spans))

    def call(name):
        lazy = da.arange(6, chunks=2)
        with client.as_current():
            materialize(lazy, tmp_path / name, progress=False)
            assert computed(lazy).sum() == 15

    call("a.zarr")
    before = spans()
    call("b.zarr")
    assert spans() == before
    with span("mine") as mine:
        call("c.zarr")
    assert spans() == [*before, mine]


@pytest.mark.parametrize("given", ["soon", "1 parsec", -1, 0, [1]])
def test_timeout__must_be_a_time(given):
    with (
        dask.config.set({"mksdask.timeout": given}),
        pytest.raises(ValueError, match="must be a time, such as '10 minutes', got"),
    ):
        waiting.timeout()
