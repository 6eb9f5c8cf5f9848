"""Options for slow tests, stacks of processes that end early, and fixtures."""

import faulthandler
import json
import os
import tempfile
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from distributed import Client, LocalCluster

from mksdask.cli import main
from mksdask.datasets import make_elastic_stiffness

DATA = Path(__file__).parents[2] / "shared" / "data"
BEGUN = time.monotonic()
# The environment tells the processes that run tests where to write their stacks when they hang or crash.
STACKS = "MKSDASK_TEST_STACKS"
STACKS_FILE = pytest.StashKey()


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run tests marked slow too")
    parser.addoption("--minutes", type=float, help="skip tests that are not begun after so many minutes")
    parser.addoption("--draw", action="store_true", help="keep the figures that are drawn now as those to compare with")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="slow: run with --slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


def pytest_runtest_setup(item):
    minutes = item.config.getoption("--minutes")
    if minutes is not None and time.monotonic() - BEGUN > 60 * minutes:
        pytest.skip(f"not begun within {minutes:g} minutes")


@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        folder = tempfile.TemporaryDirectory()
        os.environ[STACKS] = folder.name
        config.add_cleanup(folder.cleanup)
    file = os.open(Path(os.environ[STACKS], f"{os.getpid()}.txt"), os.O_CREAT | os.O_WRONLY)
    config.add_cleanup(lambda: os.close(file))
    config.stash[STACKS_FILE] = file
    faulthandler.enable(file)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Write the stacks of all threads shortly before the time limit ends the process, whose output is lost."""
    limit = item.config.getoption("timeout") or float(item.config.getini("timeout"))
    faulthandler.dump_traceback_later(0.95 * limit, file=item.config.stash[STACKS_FILE])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def pytest_terminal_summary(terminalreporter):
    for file in sorted(Path(os.environ[STACKS]).glob("*.txt")):
        if stacks := file.read_text():
            terminalreporter.section(f"stacks of a process of tests that ended early: {file.stem}")
            terminalreporter.write(stacks)


def some_slow(values, fast):
    """Parameters of a test: those that are not in `fast` make it slow."""
    return [value if value in fast else pytest.param(value, marks=pytest.mark.slow) for value in values]


def real_data(name: str) -> Path:
    """Path of a real microstructure, or skip where the collection is not at hand."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"real data {name} is not at hand")
    return path


@pytest.fixture(scope="session")
def ensemble():
    """48 samples of two kinds, 11 × 11 voxels, and their effective stiffness."""
    return make_elastic_stiffness(n_samples=[24, 24], size=(11, 11), grain_size=[(2, 2), (6, 3)], seed=2)


@pytest.fixture(scope="session")
def client(tmp_path_factory):
    """A cluster of two processes, shared by the tests that need one."""
    folder = tmp_path_factory.mktemp("dask")
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            memory_limit="2GiB",
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            local_directory=folder,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture
def run(client, tmp_path, monkeypatch):
    """Call a command in a folder of its own, on a cluster that runs already; JSON where it gives it."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments, code=0, on_cluster=True):
        more = ("--scheduler", client.scheduler.address, "--json") if on_cluster else ()
        result = CliRunner().invoke(main, [*map(str, arguments), *more])
        assert result.exit_code == code, result.output
        return json.loads(result.stdout) if on_cluster and not code else result.output

    return call
