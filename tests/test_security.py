"""Who is let in: the servers that the package starts, and clusters that ask for certificates."""

import json
import os
import subprocess
import sys
import time

import h5py
import numpy as np
import psutil
import pytest
import xarray as xr
from click.testing import CliRunner
from distributed import LocalCluster
from distributed.security import Security
from numpy.testing import assert_array_equal

from mksdask import PrimitiveBasis, create_volume
from mksdask.cli import main
from mksdask.stats import correlate_volume

VOLUME = np.random.default_rng(0).integers(0, 2, (40, 40, 40)).astype(np.uint8)


@pytest.fixture
def stats(tmp_path):
    """The arguments of a command that computes statistics of a volume."""
    create_volume(tmp_path / "rock.zarr", VOLUME)
    return [sys.executable, "-m", "mksdask", "stats", tmp_path / "rock.zarr", tmp_path / "out.zarr", "--cutoff", "5"]


def listening(process):
    """List the addresses on which a process and its children listen."""
    found = set()
    try:
        for member in (process, *process.children(recursive=True)):
            connections = member.net_connections(kind="inet")
            found |= {entry.laddr.ip for entry in connections if entry.status == psutil.CONN_LISTEN}
    except psutil.Error:
        # A process has ended in the meantime.
        return found
    return found


@pytest.mark.slow
def test_servers__listen_on_loopback_only(stats):
    addresses = set()
    process = psutil.Popen(stats, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while process.poll() is None:
        addresses |= listening(process)
        time.sleep(0.05)
    assert process.returncode == 0, process.stderr.read()
    process.stderr.close()
    assert addresses <= {"127.0.0.1", "::1"}
    assert addresses, "the scheduler was not seen"


@pytest.mark.slow
def test_scheduler__with_certificates(stats, tmp_path):
    security = Security.temporary()
    files = {"ca": security.tls_ca_file, "key": security.tls_client_key, "cert": security.tls_client_cert}
    for name, text in files.items():
        (tmp_path / f"{name}.pem").write_text(text)
    certificates = {
        "DASK_DISTRIBUTED__COMM__TLS__CA_FILE": str(tmp_path / "ca.pem"),
        "DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY": str(tmp_path / "key.pem"),
        "DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT": str(tmp_path / "cert.pem"),
    }
    with LocalCluster(
        n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", security=security
    ) as cluster:
        assert cluster.scheduler_address.startswith("tls://")
        command = [*stats, "--scheduler", cluster.scheduler_address]
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
        assert refused.returncode != 0
        assert refused.stderr.startswith("Error: the scheduler at tls://")
        assert refused.stderr.endswith("under distributed.comm.tls\n")
        subprocess.run(command, check=True, env=os.environ | certificates, capture_output=True)
    expected = correlate_volume(VOLUME, PrimitiveBasis(2), cutoff=5)
    assert_array_equal(xr.open_zarr(tmp_path / "out.zarr").correlations.values, np.asarray(expected))


@pytest.mark.parametrize("as_json", [False, True])
def test_names__of_other_programs_do_not_command_a_terminal(tmp_path, as_json):
    # The title of a terminal, a colour, a bell, C1 codes, and text from right to left.
    evil = "\x1b]0;owned\x07\x1b[31mred\x9b2J\u202egnp"
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file[evil] = VOLUME
        file["other"] = VOLUME
    create_volume(tmp_path / "rock.zarr", VOLUME, phases=(evil, "pore"))
    options = ["--json"] if as_json else []
    for command in (["info", tmp_path / "rock.zarr"], ["import", tmp_path / "scan.h5", tmp_path / "out.zarr"]):
        result = CliRunner().invoke(main, [*map(str, command), *options])
        assert "owned" in result.output
        assert not set(result.output) & set("\x1b\x07\x9b\u202e")
        if as_json:
            (line,) = result.output.splitlines()
            found = json.loads(line)
            assert evil in found.get("error", evil)
            assert evil in found.get("phases", [evil])
