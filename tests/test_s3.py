"""Stores in object storage, by a server of S3 that the tests start."""

import gc
import os
import subprocess
import sys
import warnings

import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster
from numpy.testing import assert_array_equal

from mksdask import (
    MKSHomogenizationModel,
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
from mksdask.stats import correlate, correlate_volume
from mksdask.storage import materialize
from mksdask.storage.atomic import Location
from mksdask.storage.opening import open_array

s3fs = pytest.importorskip("s3fs")
server = pytest.importorskip("moto.server")

BASIS = PrimitiveBasis(2)
X = make_microstructure(n_samples=24, size=(9, 8), grain_size=(3, 2), seed=1)
Y = X.mean(axis=(1, 2))


@pytest.fixture(scope="module")
def endpoint():
    """A server with an empty bucket. Its address and keys are in the environment."""
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    patch = pytest.MonkeyPatch()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        patch.setenv(name, value)
    s3fs.S3FileSystem().mkdir("bucket")
    yield f"http://{host}:{port}"
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        # zarr has opened sessions of its own, which nobody closes.
        s3fs.S3FileSystem.clear_instance_cache()
        gc.collect()
    patch.undo()
    running.stop()


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
