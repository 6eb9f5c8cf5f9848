"""Stores in object storage, by a server of S3 that the tests start."""

import gc
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from contextlib import contextmanager

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster
from numpy.testing import assert_array_equal

from mksdask import (
    MKSHomogenizationModel,
    MKSLocalizationModel,
    MKSStructureAnalysis,
    PrimitiveBasis,
    append_ensemble,
    create_ensemble,
    create_volume,
    load_model,
    open_ensemble,
    open_volume,
    save_model,
    verify,
)
from mksdask.datasets import make_microstructure
from mksdask.importers import import_images
from mksdask.stats import correlate, correlate_volume
from mksdask.storage import materialize
from mksdask.storage.atomic import Location
from mksdask.storage.opening import open_array

s3fs = pytest.importorskip("s3fs")
pytest.importorskip("moto.server")
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app  # noqa: E402
from werkzeug.serving import make_server  # noqa: E402

pytestmark = pytest.mark.s3

BASIS = PrimitiveBasis(2)
X = make_microstructure(n_samples=24, size=(9, 8), grain_size=(3, 2), seed=1)
Y = X.mean(axis=(1, 2))


class Flaky:
    """A server of S3, some of whose answers are 503, cut in the middle, or no answer at all."""

    def __init__(self):
        self.app, self.rng = DomainDispatcherApplication(create_backend_app), random.Random(0)
        self.lock, self.rate, self.n_faults = threading.Lock(), 0.0, 0

    def __call__(self, environ, start_response):
        with self.lock:
            draw, kind = self.rng.random(), self.rng.choice(["503", "reset", "cut"])
            self.n_faults += (is_fault := draw < self.rate)
        if not is_fault:
            return self.app(environ, start_response)
        if kind == "503" or self.rate == 1.0:
            start_response("503 Slow Down", [("Content-Length", "0")])
            return [b""]
        if kind == "reset":
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            return [b""]
        body = b"".join(self.app(environ, start_response))
        return [body[: len(body) // 2]]

    @contextmanager
    def failing(self, rate):
        """Let a share of the answers fail."""
        self.rate, self.n_faults = rate, 0
        try:
            yield
        finally:
            self.rate = 0.0


@pytest.fixture(scope="module")
def flaky():
    """A server of S3 that can be told to fail."""
    return Flaky()


@pytest.fixture(scope="module")
def endpoint(flaky):
    """The server with an empty bucket. Its address and keys are in the environment."""
    running = make_server("127.0.0.1", 0, flaky, threaded=True)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    host, port = running.server_address[:2]
    patch = pytest.MonkeyPatch()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        patch.setenv(name, value)
    # A file system that an earlier test made has no keys.
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("bucket")
    yield f"http://{host}:{port}"
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        # zarr has opened sessions of its own, which nobody closes.
        s3fs.S3FileSystem.clear_instance_cache()
        gc.collect()
    patch.undo()
    running.shutdown()
    thread.join()
    running.server_close()


@pytest.fixture(scope="module")
def workers(endpoint, tmp_path_factory):
    """A cluster that knows the server."""
    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            memory_limit="1GiB",
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            local_directory=tmp_path_factory.mktemp("dask"),
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def names(url):
    """The objects under a URL."""
    fs = s3fs.S3FileSystem()
    fs.invalidate_cache()
    return fs.find(url)


def command(*line, **options):
    line = [sys.executable, "-m", "mksdask", *map(str, line)]
    return subprocess.run(line, capture_output=True, text=True, check=False, **options)


@pytest.mark.usefixtures("endpoint")
def test_stores__give_what_local_ones_give(workers):
    with workers.as_current():
        create_ensemble("s3://bucket/e.zarr", da.from_array(X, chunks=(8, 9, 8)), Y, spacing=0.5, units="um")
        append_ensemble("s3://bucket/e.zarr", X[:5], Y[:5])
        ensemble = open_ensemble("s3://bucket/e.zarr")
        assert_array_equal(ensemble.microstructure, np.concatenate([X, X[:5]]))
        statistics = correlate(ensemble.microstructure, BASIS)
        materialize(statistics, "s3://bucket/f.zarr")
        assert_array_equal(statistics, correlate(np.concatenate([X, X[:5]]), BASIS))
        model = MKSHomogenizationModel(BASIS, n_components=3, scratch="s3://bucket/scratch").fit(
            ensemble.microstructure, ensemble.response
        )
        assert names("s3://bucket/scratch") == []
        save_model(model, "s3://bucket/m.zarr")
        assert_array_equal(load_model("s3://bucket/m.zarr").predict(X), model.predict(X))
        for name in "efm":
            assert verify(f"s3://bucket/{name}.zarr").is_sound
        # A replaced store leaves nothing of the one before, and nothing beside it.
        create_ensemble("s3://bucket/e.zarr", X[:3], Y[:3], mode="w")
        assert_array_equal(open_ensemble("s3://bucket/e.zarr").microstructure, X[:3])
        assert {key.split("/")[1] for key in names("s3://bucket")} == {"e.zarr", "f.zarr", "m.zarr"}


@pytest.mark.usefixtures("endpoint")
def test_damage__is_an_error_that_names_the_chunk():
    create_ensemble("s3://bucket/damaged.zarr", X, Y, chunks=8)
    (key,) = [key for key in names("s3://bucket/damaged.zarr") if key.endswith("microstructure/c/1/0/0")]
    s3fs.S3FileSystem().rm(key)
    with pytest.raises(ValueError, match=r"s3://bucket/damaged.zarr is damaged: chunk c/1/0/0 .*'microstructure'"):
        open_ensemble("s3://bucket/damaged.zarr").microstructure.compute()
    assert [damage.chunk for damage in verify("s3://bucket/damaged.zarr").damage] == ["chunk c/1/0/0"]


@pytest.mark.usefixtures("endpoint")
def test_command__takes_urls(tmp_path):
    volume = np.random.default_rng(0).integers(0, 2, (20, 18, 16)).astype(np.uint8)
    np.save(tmp_path / "scan.npy", volume)
    on = ("--workers", "1")
    for line in (
        ("import", tmp_path / "scan.npy", "s3://bucket/rock.zarr", "--axes", "xyz", "--phases", "0:pore,1:grain", *on),
        ("stats", "s3://bucket/rock.zarr", "s3://bucket/out.zarr", "--cutoff", "3", "--resume", *on),
        ("verify", "s3://bucket/out.zarr", *on),
        ("info", "s3://bucket/out.zarr"),
    ):
        result = command(*line)
        assert result.returncode == 0, result.stderr
    assert_array_equal(open_volume("s3://bucket/rock.zarr").microstructure, volume)
    create_volume(tmp_path / "rock.zarr", volume)
    expected = correlate_volume(open_volume(tmp_path / "rock.zarr").microstructure, BASIS, cutoff=3)
    assert_array_equal(open_array(Location.of("s3://bucket/out.zarr"), "correlations")[...], expected)


def test_command__without_keys_is_one_sentence(endpoint, tmp_path):
    keyless = {name: value for name, value in os.environ.items() if "AWS_" not in name}
    keyless |= {"AWS_ENDPOINT_URL": endpoint, "AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}
    result = command("info", "s3://bucket/e.zarr", env=keyless)
    assert result.returncode == 2
    line = result.stderr.splitlines()[-1]
    assert "'s3://bucket/e.zarr' cannot be reached: Unable to locate credentials; set them" in line
    assert "AWS_ACCESS_KEY_ID" in line


def steps(at, folder):
    """A study whose stores are at a place, as the result of each step."""
    create_ensemble(f"{at}/e.zarr", da.from_array(X, chunks=(6, 9, 8)), Y, spacing=0.5, units="um")
    append_ensemble(f"{at}/e.zarr", X[:6], Y[:6])
    ensemble = open_ensemble(f"{at}/e.zarr")
    lazy = ensemble.microstructure
    found = {"ensemble": lazy, "response": ensemble.response, "statistics": correlate(lazy, BASIS)}
    found["kept"] = materialize(found["statistics"], f"{at}/f.zarr", progress=False)
    analysis = MKSStructureAnalysis(BASIS, n_components=2, scratch=f"{at}/scratch").fit(lazy)
    found["scores"] = analysis.reduced_fit_data
    model = MKSHomogenizationModel(BASIS, n_components=2, scratch=f"{at}/scratch").fit(lazy, ensemble.response)
    save_model(model, f"{at}/m.zarr")
    found["predicted"] = materialize(load_model(f"{at}/m.zarr").predict(lazy), f"{at}/p.zarr", progress=False)
    local = MKSLocalizationModel(BASIS).fit(lazy, lazy.astype(float))
    save_model(local, f"{at}/l.zarr")
    found["localized"] = materialize(load_model(f"{at}/l.zarr").predict(lazy), f"{at}/fields.zarr", progress=False)
    import_images(folder / "scan.npy", f"{at}/v.zarr", axes="xyz")
    volume = open_volume(f"{at}/v.zarr").microstructure
    found["volume"] = volume
    found["tile sums"] = correlate_volume(volume, BASIS, cutoff=3, scratch=f"{at}/sums.zarr")
    found["all lags"] = correlate_volume(volume, BASIS, cutoff=None, scratch=f"{at}/lags.zarr")
    assert all(verify(f"{at}/{name}.zarr").is_sound for name in "efmplv")
    return {name: np.asarray(values) for name, values in found.items()}


@pytest.mark.slow
@pytest.mark.usefixtures("endpoint")
def test_faults__of_the_server_change_nothing(flaky, tmp_path):
    np.save(tmp_path / "scan.npy", np.random.default_rng(0).integers(0, 2, (20, 18, 16)).astype(np.uint8))
    expected = steps(tmp_path, tmp_path)
    with flaky.failing(0.05), dask.config.set({"mksdask.retries": 5}):
        found = steps("s3://bucket/flaky", tmp_path)
        assert flaky.n_faults >= 20
        line = ("stats", "s3://bucket/flaky/v.zarr", "s3://bucket/flaky/out.zarr", "--cutoff", "3", "--workers", "1")
        result = command(*line)
        assert result.returncode == 0, result.stderr
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert_array_equal(found[name], values, err_msg=name)
    assert_array_equal(open_array(Location.of("s3://bucket/flaky/out.zarr"), "correlations")[...], found["tile sums"])
    assert names("s3://bucket/flaky/scratch") == []


@pytest.mark.slow
@pytest.mark.usefixtures("endpoint")
def test_outage__is_one_sentence_and_what_is_done_is_kept(flaky):
    create_ensemble("s3://bucket/outage.zarr", X, Y, chunks=4)
    lazy, url = correlate(open_ensemble("s3://bucket/outage.zarr").microstructure.data, BASIS), "s3://bucket/late.zarr"
    begun = []

    def kernel(block):
        begun.append(None)
        flaky.rate = float(len(begun) == 3)
        return block

    slow = lazy.map_blocks(kernel, dtype=lazy.dtype, meta=lazy._meta, name="slow")
    with flaky.failing(0.0), dask.config.set({"mksdask.retries": 1, "scheduler": "sync"}):
        told = r"\(writing to s3://bucket/late\.zarr|of s3://bucket/outage\.zarr"
        with pytest.raises(OSError, match=told) as error:
            materialize(slow, url, progress=False)
        assert "\n" not in str(error.value)
        flaky.rate = 0.0
        n_before = len(begun)
        assert_array_equal(materialize(slow, url, progress=False), correlate(X, BASIS))
    assert (n_before, len(begun)) == (3, 7)


KILLED = """
import sys, time
import dask.array as da
from distributed import Client, LocalCluster
from mksdask import PrimitiveBasis, open_ensemble
from mksdask.stats import correlate
from mksdask.storage import materialize

if __name__ == "__main__":
    with LocalCluster(n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster:
        with Client(cluster):
            lazy = correlate(open_ensemble("s3://bucket/killed.zarr").microstructure.data, PrimitiveBasis(2))

            def slow(block):
                time.sleep(0.5)
                return block

            lazy = lazy.map_blocks(slow, dtype=lazy.dtype, meta=lazy._meta, name=f"slow-{lazy.name}")
            materialize(lazy, "s3://bucket/rest.zarr", progress=False)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("endpoint")
def test_kill__of_client_and_worker_is_continued():
    create_ensemble("s3://bucket/killed.zarr", X, Y, chunks=2)
    process = subprocess.Popen([sys.executable, "-c", KILLED], start_new_session=True, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 200
    while len(names("s3://bucket/rest.zarr")) < 6:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    lazy, begun = correlate(open_ensemble("s3://bucket/killed.zarr").microstructure.data, BASIS), []

    def counted(block):
        begun.append(None)
        return block

    lazy = lazy.map_blocks(counted, dtype=lazy.dtype, meta=lazy._meta, name=f"slow-{lazy.name}")
    done = sum("/c/" in key for key in names("s3://bucket/rest.zarr"))
    assert_array_equal(materialize(lazy, "s3://bucket/rest.zarr", progress=False), correlate(X, BASIS))
    assert len(begun) == 12 - done
