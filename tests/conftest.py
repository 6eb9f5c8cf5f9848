"""Options for slow tests, and fixtures: real data, an ensemble with its stiffness, a small cluster, the command."""

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from distributed import Client, LocalCluster

from mksdask.cli import main
from mksdask.datasets import make_elastic_stiffness

DATA = Path(__file__).parents[2] / "shared" / "data"
BEGUN = time.monotonic()


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
