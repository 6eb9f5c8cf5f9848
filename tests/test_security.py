"""Who is let in: the servers that the package starts, and clusters that ask for certificates."""

import os
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import xarray as xr
from distributed import LocalCluster
from distributed.security import Security
from numpy.testing import assert_array_equal

from mksdask import PrimitiveBasis, create_volume
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
