"""Faults of tasks: what is tried again, what an error says, and blocks that are left out by request."""

import errno
import pickle
from contextlib import nullcontext

import dask
import dask.array as da
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from mksdask import MKSHomogenizationModel, MKSLocalizationModel, PrimitiveBasis, create_ensemble, open_ensemble
from mksdask.arrays import to_numpy
from mksdask.compute import faults
from mksdask.compute.blocks import computed, fold_samples, map_parts, map_samples
from mksdask.compute.faults import is_transient, retried, told
from mksdask.descriptors import ShapeDescriptors
from mksdask.importers.sources import lazy_slabs
from mksdask.stats import correlate
from mksdask.storage import checksums, materialize
from mksdask.storage.atomic import Location, attributes_of
from mksdask.storage.errors import DamageError
from mksdask.storage.results import Result

BASIS = PrimitiveBasis(2)
X = np.random.default_rng(0).integers(0, 2, (12, 6, 5)).astype(np.uint8)
EIO = OSError(errno.EIO, "Input/output error")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(faults, "FIRST_PAUSE", 0.0)


class Flaky:
    """A kernel that fails on blocks that begin with sample `first`, as often as said."""

    def __init__(self, folder, first, error, times):
        self.folder, self.first, self.error, self.times = folder, first, error, times

    def __call__(self, block, block_info=None):
        if block_info and block_info[0]["array-location"][0][0] == self.first:
            tries = len(list(self.folder.iterdir()))
            if tries < self.times:
                (self.folder / str(tries)).touch()
                raise type(self.error)(*self.error.args)
        return block


def flaky(tmp_path, *, error=EIO, first=8, times=10**6):
    """Samples in chunks of 4, of which one cannot be read."""
    folder = tmp_path / "tries"
    folder.mkdir(exist_ok=True)
    lazy = da.from_array(X, chunks=(4, 6, 5))
    return lazy.map_blocks(Flaky(folder, first, error, times), dtype=X.dtype, meta=lazy._meta), folder


class ResponseError(Exception):
    def __init__(self, status):
        super().__init__("answer")
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (EIO, True),
        (OSError(errno.ESTALE, "Stale file handle"), True),
        (OSError(errno.EBUSY, "Service Unavailable"), True),
        (ConnectionResetError("reset"), True),
        (TimeoutError("late"), True),
        (ResponseError(503), True),
        (ResponseError(429), True),
        (ResponseError(403), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (FileNotFoundError(errno.ENOENT, "none"), False),
        (ValueError("mmap length is greater than file size"), False),
        (KeyError("key"), False),
        (DamageError("s", "a", "c/0", "is missing"), False),
    ],
)
def test_transient__is_what_may_heal(error, expected):
    assert is_transient(error) == expected


@pytest.mark.parametrize(("error", "n_tries"), [(EIO, 4), (ValueError("bad"), 1)])
def test_retried__is_bounded_and_not_multiplied(error, n_tries):
    calls = []

    def call():
        calls.append(None)
        raise type(error)(*error.args)

    with pytest.raises(type(error)):
        retried(lambda: retried(call, 3), 3)
    assert len(calls) == n_tries


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ValueError("bad value"), ValueError, "bad value (stage s, sample 3)"),
        (OSError(5, "I/O error", "/scan"), OSError, "[Errno 5] I/O error (stage s, sample 3): '/scan'"),
        (OSError("cut"), OSError, "cut (stage s, sample 3)"),
        (KeyError("name"), LookupError, "'name' (stage s, sample 3)"),
        (b"\xff", ValueError, "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte (stage s, "),
        (np._core._exceptions._ArrayMemoryError((10,), np.dtype("f8")), MemoryError, "Unable to allocate 80"),
        (ZeroDivisionError(), ZeroDivisionError, "ZeroDivisionError (stage s, sample 3)"),
        (
            DamageError("/a.zarr", "x", "chunk c/0", "is missing", "mend it"),
            DamageError,
            "/a.zarr is damaged: chunk c/0 of its array 'x' is missing (stage s, sample 3); mend it",
        ),
    ],
)
def test_told__keeps_the_type_and_can_be_sent(error, kind, message):
    if isinstance(error, bytes):
        with pytest.raises(UnicodeDecodeError) as found:
            error.decode()
        error = found.value
    new = pickle.loads(pickle.dumps(told(error, "stage s, sample 3")))
    assert isinstance(new, kind)
    assert str(new).startswith(message)
    # The innermost place is told, and only that.
    assert str(told(new, "stage outer")) == str(new)


@pytest.mark.parametrize("on_cluster", [False, True])
def test_kernel__error_names_stage_and_samples(client, on_cluster):
    lazy = da.from_array(X + np.uint8(5) * (np.arange(12) == 9)[:, None, None].astype(np.uint8), chunks=(4, 6, 5))
    with client.as_current() if on_cluster else nullcontext():
        with pytest.raises(ValueError, match=r"outside the domain .* \(stage correlate, samples 8 to 11\)$"):
            correlate(lazy, BASIS).compute()
        with pytest.raises(ZeroDivisionError, match=r"\(stage total, samples 0 to 3\)$"):
            computed(fold_samples(lambda block: 1 // 0, max, lazy[:4], name="total"))
        with pytest.raises(ZeroDivisionError, match=r"\(stage chain, samples 0 to 3\)$"):
            computed(fold_samples(lambda block, value: 1 // 0, max, lazy, name="chain", chains=1))
        with pytest.raises(ZeroDivisionError, match=r"\(stage sums, tiles 2 to 4\)$"):
            computed(map_parts(lambda span: 1 // (span[0] - 2), [((2, 5),)], name="sums", unit="tiles"))
        with pytest.raises(ZeroDivisionError, match=r"\(stage sums, part 2 of 2\)$"):
            computed(map_parts(lambda n: 1 // n, [(1,), (0,)], name="sums"))


def test_kernel__error_of_memory_is_as_it_is():
    with pytest.raises(ZeroDivisionError, match=r"zero$"):
        map_samples(lambda block: 1 // 0, X, tail=(), dtype=float, name="ratio")


@pytest.mark.parametrize("on_cluster", [False, True])
def test_reading__error_names_store_and_samples(client, tmp_path, on_cluster):
    url = tmp_path / "e.zarr"
    create_ensemble(url, X, chunks=4)
    lazy = correlate(open_ensemble(url).microstructure, BASIS)
    (url / "microstructure" / "c" / "2" / "0" / "0").unlink()
    with client.as_current() if on_cluster else nullcontext():
        with pytest.raises(DamageError, match=rf"^{url} is damaged: chunk c/2/0/0 .* is missing; .*verify"):
            lazy.compute()
        with pytest.raises(DamageError, match=r"is missing \(stage .*-correlate, block \[8:12, "):
            materialize(lazy, tmp_path / "f.zarr", progress=False)


@pytest.mark.parametrize("on_cluster", [False, True])
def test_reading__error_of_whole_arrays_names_the_block(client, tmp_path, on_cluster):
    url = tmp_path / "e.zarr"
    create_ensemble(url, X, X.mean(axis=(1, 2)), chunks=4)
    stored = open_ensemble(url)
    assert_array_equal(to_numpy(stored.response[2:]), X.mean(axis=(1, 2))[2:])
    assert_array_equal(to_numpy(stored.response[:0]), np.zeros(0))
    for name, key in (("microstructure", "c/2/0/0"), ("response", "c/2")):
        (url / name / key).unlink()
    linkage, shapes = MKSHomogenizationModel(BASIS, n_components=1), ShapeDescriptors(descriptors=["fraction"])
    local = MKSLocalizationModel(BASIS)
    with client.as_current() if on_cluster else nullcontext():
        with pytest.raises(DamageError, match=r"'response' is missing \(stage .*response.*, block \[8:12\]\)"):
            linkage.fit(X, stored.response)
        with pytest.raises(DamageError, match=r"is missing \(stage .*largest-phase, block \[8:12\]\)"):
            shapes.fit(stored.microstructure)
        with pytest.raises(DamageError, match=r"is missing \(stage .*microstructure.*, block \[8:12, 0:6, 0:5\]\)"):
            local.fit(stored.microstructure, stored.microstructure.astype(float))


def test_reading_of_whole_arrays__is_tried_again(tmp_path):
    lazy, folder = flaky(tmp_path, times=2)
    assert_array_equal(to_numpy(lazy), X)
    assert len(list(folder.iterdir())) == 2


def test_reading__is_tried_again(tmp_path, monkeypatch):
    create_ensemble(tmp_path / "e.zarr", X, chunks=4)
    read, failed = checksums._read, []

    def failing(path, span, times=1):
        if len(failed) < times:
            failed.append(path)
            raise OSError(errno.EIO, "Input/output error")
        return read(path, span)

    data = open_ensemble(tmp_path / "e.zarr").microstructure
    monkeypatch.setattr(checksums, "_read", failing)
    assert_array_equal(data.compute(), X)
    assert failed
    with dask.config.set({"mksdask.retries": 0}):
        data = open_ensemble(tmp_path / "e.zarr").microstructure
    failed.clear()
    expected = rf"\[Errno 5\] Input/output error \(reading chunk c/\d/0/0 of the array .* of {tmp_path}/e.zarr\)"
    with pytest.raises(OSError, match=expected):
        data.compute()


def test_retries__are_checked(tmp_path):
    with dask.config.set({"mksdask.retries": "many"}), pytest.raises(ValueError, match=r"mksdask\.retries .* 'many'"):
        materialize(da.zeros(3), tmp_path / "a.zarr")


@pytest.mark.parametrize("on_cluster", [False, True])
@pytest.mark.parametrize("times", [2, 10**6])
def test_source_of_the_user__is_tried_again(client, tmp_path, on_cluster, times):
    lazy, tries = flaky(tmp_path, times=times)
    with client.as_current() if on_cluster else nullcontext(), dask.config.set({"mksdask.retries": 2}):
        if times == 2:
            stored = materialize(correlate(lazy, BASIS), tmp_path / "f.zarr", progress=False)
            assert_array_equal(stored, correlate(X, BASIS))
        else:
            with pytest.raises(OSError, match=r"\[Errno 5\] Input/output error \(stage .*, block \[8:12, "):
                materialize(correlate(lazy, BASIS), tmp_path / "f.zarr", progress=False)
    assert len(list(tries.iterdir())) == (2 if times == 2 else 3)


def test_writing__is_tried_again_and_names_the_store(tmp_path, monkeypatch):
    failed = []

    write = checksums._write

    def failing(path, pieces):
        if len(failed) < limit:
            failed.append(path)
            raise OSError(errno.EIO, "Input/output error")
        write(path, pieces)

    monkeypatch.setattr(checksums, "_write", failing)
    limit = 2
    stored = materialize(correlate(da.from_array(X, chunks=(4, 6, 5)), BASIS), tmp_path / "f.zarr", progress=False)
    assert_array_equal(stored, correlate(X, BASIS))
    assert len(failed) == 2
    limit = 10**6
    with pytest.raises(OSError, match=rf"error \(writing to {tmp_path}/g.zarr\) \(stage Array-store, block \[0:3\]\)"):
        materialize(da.zeros(3), tmp_path / "g.zarr", progress=False)


def test_import__error_names_file_and_planes(tmp_path):
    path = tmp_path / "scan.npy"
    np.save(path, np.zeros((4, 5, 6)))

    class Cut:
        def __init__(self, path):
            self.path = path

        def __call__(self, first, last):
            msg = "mmap length is greater than file size"
            raise ValueError(msg)

    with pytest.raises(
        ValueError, match=rf"^{path}: rows 0 to 3 cannot be read \(mmap length is greater than file size\)"
    ):
        lazy_slabs(Cut(path), (4, 5, 6), float).compute()


@pytest.mark.parametrize("on_cluster", [False, True])
def test_skip__leaves_a_block_out_and_lists_it(client, tmp_path, on_cluster):
    lazy, _ = flaky(tmp_path, error=ValueError("cannot be read"), times=2)
    statistics, url = correlate(lazy, BASIS), tmp_path / "f.zarr"
    with client.as_current() if on_cluster else nullcontext():
        with pytest.raises(ValueError, match="cannot be read"):
            materialize(statistics, url, progress=False)
        with pytest.warns(UserWarning, match=r"lacks 1 of 3 blocks.*cannot be read"):
            stored = materialize(statistics, url, progress=False, on_error="skip")
        found, expected = stored.compute(), correlate(X, BASIS)
        assert np.isnan(found[8:]).all()
        assert_array_equal(found[:8], expected[:8])
        ((name, block, text),) = attributes_of(Location.of(url))["left_out"]
        assert (name, block[0]) == ("result", 2)
        assert "cannot be read (stage" in text
        # The source has healed, so the same call completes the result.
        assert_array_equal(materialize(statistics, url, progress=False), expected)
        assert "left_out" not in attributes_of(Location.of(url))


def test_skip__raises_on_types_without_nan(tmp_path):
    with pytest.raises(ValueError, match=r"on_error='skip' needs a data type that has NaN, got int64"):
        materialize(da.arange(3), tmp_path / "a.zarr", on_error="skip")
    with pytest.raises(ValueError, match=r"on_error must be 'raise' or 'skip', got 'ignore'"):
        materialize(da.zeros(3), tmp_path / "a.zarr", on_error="ignore")
    assert Result.of(da.arange(3), tmp_path / "a.zarr", "result").blocks.state() == "absent"
