"""Two calls that change one store: each succeeds or is refused by name, and no data are lost."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask
import dask.array as da
import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from numpy.testing import assert_array_equal

from mksdask import MKSStructureAnalysis, PrimitiveBasis, append_ensemble, create_ensemble, open_ensemble
from mksdask.datasets import make_microstructure
from mksdask.stats import correlate_volume
from mksdask.storage import locks
from mksdask.storage.atomic import Location
from mksdask.storage.outputs import Output
from tests.conftest import some_slow

OLD = np.zeros((6, 3, 2), dtype="uint8")
LOCK = "e.zarr.lock"


def start(script, *arguments):
    """Start a script in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )


def wait_for(path):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def stopped(folder, *, fail=None):
    """Make samples that say in a folder that they are being computed, and wait until they may end."""

    def stop(block):
        (folder / "started").touch()
        wait_for(folder / "go")
        if fail is not None:
            raise fail
        return block

    return da.from_array(OLD + 7, chunks=(6, 3, 2)).map_blocks(stop, meta=OLD[:0])


def pieces(url):
    """Cut the samples after the old ones into runs of one value."""
    values = open_ensemble(url).microstructure.values
    assert_array_equal(values[:6], OLD)
    new = values[6:].mean(axis=(1, 2))
    assert_array_equal(values[6:], np.broadcast_to(new[:, None, None], values[6:].shape))
    cuts = np.flatnonzero(np.diff(new)) + 1
    return [(int(run[0]), len(run)) for run in np.split(new, cuts) if len(run)]


APPENDS = """
    import sys, time
    from pathlib import Path
    import dask.array as da, numpy as np
    from mksdask import append_ensemble

    folder, first, n_rounds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    (folder / f"ready-{first}").touch()
    for number in range(n_rounds):
        value, size = first + number, 3 + number % 4
        while not (folder / f"go-{number}").exists():
            time.sleep(0.001)
        X = np.full((size, 3, 2), value, dtype="uint8")
        try:
            append_ensemble(folder / "e.zarr", X if number % 2 else da.from_array(X, chunks=(2, 3, 2)))
        except BlockingIOError as error:
            print("refused", value, size, error, flush=True)
        else:
            print("done", value, size, flush=True)
        (folder / f"end-{first}-{number}").touch()
"""


@pytest.mark.parametrize("n_rounds", [1, pytest.param(25, marks=pytest.mark.slow)])
def test_append__two_processes_lose_nothing(tmp_path, n_rounds):
    create_ensemble(tmp_path / "e.zarr", OLD, chunks=4)
    writers = [start(APPENDS, tmp_path, first, n_rounds) for first in (1, 101)]
    for first in (1, 101):
        wait_for(tmp_path / f"ready-{first}")
    for number in range(n_rounds):
        (tmp_path / f"go-{number}").touch()
        for first in (1, 101):
            wait_for(tmp_path / f"end-{first}-{number}")
    lines = [line.split(maxsplit=3) for writer in writers for line in writer.communicate()[0].splitlines()]
    assert len(lines) == 2 * n_rounds
    done = [(int(value), int(size)) for word, value, size, *_ in lines if word == "done"]
    assert len(done) >= n_rounds
    assert sorted(pieces(tmp_path / "e.zarr")) == sorted(done)
    for word, _, _, *message in lines:
        assert word == "done" or f"{tmp_path / 'e.zarr'} is being changed by process" in message[0]
    assert not (tmp_path / LOCK).exists()


@pytest.mark.parametrize("place", ["local", "memory"])
def test_append__threads_lose_nothing(tmp_path, place):
    url = str(tmp_path / "e.zarr") if place == "local" else f"memory://locks{tmp_path}/e.zarr"
    create_ensemble(url, OLD, chunks=4)
    barrier = threading.Barrier(4)

    def append(value):
        barrier.wait()
        try:
            append_ensemble(url, np.full((5, 3, 2), value, dtype="uint8"))
        except BlockingIOError:
            return None
        return (value, 5)

    with ThreadPoolExecutor(4) as pool:
        done = [found for n in range(1, 6) for found in pool.map(append, range(10 * n, 10 * n + 4)) if found]
    assert len(done) >= 5
    assert sorted(pieces(url)) == sorted(done)
    assert not Location.of(f"{url}.lock").exists()


def test_append__is_refused_during_an_append_and_by_its_name(tmp_path):
    url = tmp_path / "e.zarr"
    create_ensemble(url, OLD, chunks=4)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(append_ensemble, url, stopped(tmp_path))
        wait_for(tmp_path / "started")
        message = rf"e.zarr is being changed by process {os.getpid()} on host .* since .* UTC \(0:00:.*{LOCK}"
        with pytest.raises(BlockingIOError, match=message):
            append_ensemble(url, OLD)
        # A new store in its place is refused too, before its samples are computed.
        unwanted = da.from_array(OLD, chunks=OLD.shape).map_blocks(lambda _: pytest.fail("computed"), meta=OLD[:0])
        with pytest.raises(BlockingIOError, match=r"e\.zarr is being changed by"):
            create_ensemble(url, unwanted, mode="w")
        (tmp_path / "go").touch()
        first.result()
    assert pieces(url) == [(7, 6)]


def test_create__is_refused_if_an_append_began_meanwhile(tmp_path):
    url = tmp_path / "e.zarr"
    create_ensemble(url, OLD, chunks=4)
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(create_ensemble, url, stopped(tmp_path), mode="w")
        wait_for(tmp_path / "started")
        with Location.of(url).locked():
            (tmp_path / "go").touch()
            with pytest.raises(BlockingIOError, match=r"e\.zarr is being changed by"):
                second.result()
    assert pieces(url) == []
    assert sorted(os.listdir(tmp_path)) == ["e.zarr", "go", "started"]


@pytest.mark.parametrize("error", [OSError("the disk is full"), KeyboardInterrupt()])
def test_append__no_lock_stays_after_an_error(tmp_path, error):
    url = tmp_path / "e.zarr"
    create_ensemble(url, OLD, chunks=4)
    (tmp_path / "go").touch()
    with dask.config.set(scheduler="sync"), pytest.raises(type(error)):
        append_ensemble(url, stopped(tmp_path, fail=error))
    with pytest.raises(ValueError, match="does not fit"):
        append_ensemble(url, OLD[:, :2])
    with pytest.raises(FileNotFoundError, match="create_ensemble"):
        append_ensemble(tmp_path / "nowhere" / "e.zarr", OLD)
    assert sorted(os.listdir(tmp_path)) == ["e.zarr", "go", "started"]
    append_ensemble(url, OLD + 1)
    assert pieces(url) == [(1, 6)]


HOLDS = """
    import sys, time
    from pathlib import Path
    from mksdask.storage.atomic import Location

    with Location.of(sys.argv[1]).locked():
        Path(sys.argv[2]).touch()
        time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.parametrize("is_reaped", [True, False])
def test_lock__of_a_killed_process_is_taken_over(tmp_path, is_reaped):
    url = tmp_path / "e.zarr"
    create_ensemble(url, OLD, chunks=4)
    holder = start(HOLDS, url, tmp_path / "started")
    wait_for(tmp_path / "started")
    with pytest.raises(BlockingIOError, match=f"process {holder.pid} on host"):
        append_ensemble(url, OLD + 1)
    holder.send_signal(signal.SIGKILL)
    if is_reaped:
        holder.wait()
    else:  # a zombie, as where nobody waits for its end
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    assert (tmp_path / LOCK).exists()
    append_ensemble(url, OLD + 1)
    assert pieces(url) == [(1, 6)]
    assert sorted(os.listdir(tmp_path)) == ["e.zarr", "started"]
    holder.communicate()


def write_lock(url, **changes):
    """Put the lock of somebody else beside a store."""
    text = json.dumps(vars(locks.Owner()) | changes).encode()
    location = Location.of(f"{url}.lock")
    location.fs.pipe_file(location.path, text)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs the start times of processes")
def test_lock__of_a_process_whose_id_was_given_anew_is_taken_over(tmp_path):
    with Location.of(tmp_path / "e.zarr").locked():
        pass
    for pid in (os.getpid(), os.getppid()):
        write_lock(tmp_path / "e.zarr", pid=pid, started="1")
        with Location.of(tmp_path / "e.zarr").locked():
            pass
    write_lock(tmp_path / "e.zarr", pid=os.getppid(), started=locks._process(os.getppid())[1])
    with pytest.raises(BlockingIOError), Location.of(tmp_path / "e.zarr").locked():
        pass


@pytest.mark.parametrize("place", ["local", "memory"])
def test_lock__of_another_host_is_left_to_the_user(tmp_path, place):
    url = str(tmp_path / "e.zarr") if place == "local" else f"memory://locks{tmp_path}/e.zarr"
    create_ensemble(url, OLD, chunks=4)
    lock = Location.of(f"{url}.lock")
    write_lock(url, host="far", machine="far 1 2", pid=2**22 + 1, since="2020-01-01T00:00:00+00:00")
    before = lock.fs.cat_file(lock.path)
    message = rf"process {2**22 + 1} on host far since 2020-01-01 00:00:00 UTC \(.* days, .* ago\); .* remove .*{LOCK}"
    with pytest.raises(BlockingIOError, match=message):
        append_ensemble(url, OLD)
    assert lock.fs.cat_file(lock.path) == before
    # The same process on this machine has ended.
    write_lock(url, pid=2**22 + 1)
    append_ensemble(url, OLD + 1)
    assert pieces(url) == [(1, 6)]
    assert not lock.exists()


@pytest.mark.parametrize(
    "text",
    some_slow(
        ["mine", "", "[]", "{}", json.dumps(vars(locks.Owner()) | {"call": "../../x", "pid": 2**22 + 1})], ["mine"]
    ),
    ids=["word", "nothing", "list", "dictionary", "call"],
)
def test_lock__that_is_no_lock_is_left_to_the_user(tmp_path, text):
    (tmp_path / LOCK).write_text(text)
    location = Location.of(tmp_path / "e.zarr")
    with pytest.raises(BlockingIOError, match=rf"by an unknown call.*remove .*{LOCK}"), location.locked():
        pass
    assert (tmp_path / LOCK).read_text() == text
    assert os.listdir(tmp_path) == [LOCK]


def test_lock__of_a_dead_owner_goes_to_one_of_many(tmp_path):
    location = Location.of(tmp_path / "e.zarr")
    barrier, inside, most = threading.Barrier(8), [], []

    def take(_):
        barrier.wait()
        try:
            with location.locked():
                inside.append(None)
                most.append(len(inside))
                time.sleep(0.02)
                inside.pop()
        except BlockingIOError:
            return 0
        return 1

    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            write_lock(location.path, pid=2**22 + 1)
            assert sum(pool.map(take, range(8))) >= 1
    assert set(most) == {1}
    assert os.listdir(tmp_path) == []


def test_lock__whose_removal_was_interrupted_does_not_block_this_process(tmp_path, monkeypatch):
    location = Location.of(tmp_path / "e.zarr")

    def interrupted(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(locks._Lock, "release", interrupted)
        with pytest.raises(KeyboardInterrupt), location.locked():
            pass
    assert os.listdir(tmp_path) == [LOCK]
    with location.locked():
        pass
    assert os.listdir(tmp_path) == []


def test_append__that_has_lost_its_lock_does_not_pass_for_complete(tmp_path):
    url = tmp_path / "e.zarr"
    create_ensemble(url, OLD, chunks=4)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(append_ensemble, url, stopped(tmp_path))
        wait_for(tmp_path / "started")
        (tmp_path / LOCK).unlink()
        (tmp_path / "go").touch()
        with pytest.raises(BlockingIOError, match=r"e\.zarr is being changed by an unknown call"):
            first.result()
    assert pieces(url) == []


class OldFileSystem(MemoryFileSystem):
    """A file system of objects without a mode of `pipe_file`, and without one store for all of its instances."""

    protocol = "oldobjects"
    store, pseudo_dirs = {}, [""]

    def pipe_file(self, path, value):
        super().pipe_file(path, value)


def test_lock__on_a_file_system_that_cannot_create_in_one_step():
    fsspec.register_implementation("oldobjects", OldFileSystem, clobber=True)
    location = Location(OldFileSystem(), "/a/e.zarr", is_local=False)
    with location.locked() as check, ThreadPoolExecutor(1) as pool:
        with pytest.raises(BlockingIOError, match="is being changed by process"):
            pool.submit(location.locked().__enter__).result()
        check()
        # Another writer of the same moment was later.
        location.fs.pipe_file("/a/e.zarr.lock", json.dumps(vars(locks.Owner())).encode())
        with pytest.raises(BlockingIOError, match="is being changed by process"):
            check()
    assert location.fs.find("/a") == ["/a/e.zarr.lock"]


def test_lock__on_a_disk_without_links(tmp_path, monkeypatch):
    def unsupported(self, target):
        msg = "no links here"
        raise PermissionError(msg)

    monkeypatch.setattr(Path, "hardlink_to", unsupported)
    location = Location.of(tmp_path / "e.zarr")
    with location.locked(), ThreadPoolExecutor(1) as pool:
        with pytest.raises(BlockingIOError, match="is being changed by process"):
            pool.submit(location.locked().__enter__).result()
        assert os.listdir(tmp_path) == [LOCK]
    assert os.listdir(tmp_path) == []


FITS = """
    import sys, time
    from pathlib import Path
    import dask.array as da, numpy as np
    from mksdask import MKSStructureAnalysis, PrimitiveBasis
    from mksdask.datasets import make_microstructure

    scratch, result = Path(sys.argv[1]), Path(sys.argv[2])
    X = make_microstructure(n_samples=20, size=(8, 6), grain_size=2)
    lazy = da.from_array(X, chunks=(5, 8, 6), name="the-same-samples")
    analysis = MKSStructureAnalysis(PrimitiveBasis(2), n_components=3, scratch=scratch)
    result.with_suffix(".ready").touch()
    while not (result.parent / "go").exists():
        time.sleep(0.001)
    try:
        analysis.fit(lazy, resume=True)
    except BlockingIOError as error:
        print("refused", error)
    else:
        np.save(result, analysis.reduced_fit_data)
        print("done")
"""


@pytest.mark.parametrize("n_rounds", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_fit__two_processes_on_one_scratch(tmp_path, n_rounds):
    X = make_microstructure(n_samples=20, size=(8, 6), grain_size=2)
    expected = MKSStructureAnalysis(PrimitiveBasis(2), n_components=3).fit(da.from_array(X, chunks=(5, 8, 6)))
    for number in range(n_rounds):
        folder = tmp_path / str(number)
        folder.mkdir()
        fits = [start(FITS, folder / "scratch", folder / f"{name}.npy") for name in "ab"]
        for name in "ab":
            wait_for(folder / f"{name}.ready")
        (folder / "go").touch()
        told = [fit.communicate()[0] for fit in fits]
        assert any(text.startswith("done") for text in told)
        for name, text in zip("ab", told, strict=True):
            if text.startswith("done"):
                assert_array_equal(np.load(folder / f"{name}.npy"), expected.reduced_fit_data)
            else:
                assert text.startswith("refused")
                assert "/scratch/rows-" in text
        assert os.listdir(folder / "scratch") == []


def test_fit__is_refused_during_another_on_the_same_scratch(tmp_path):
    X = make_microstructure(n_samples=20, size=(8, 6), grain_size=2)
    (tmp_path / "scratch").mkdir()

    def stop(block):
        (tmp_path / "started").touch()
        wait_for(tmp_path / "go")
        return block

    lazy = da.from_array(X, chunks=(5, 8, 6)).map_blocks(stop, meta=X[:0])

    def fit():
        model = MKSStructureAnalysis(PrimitiveBasis(2), n_components=3, scratch=tmp_path / "scratch")
        return model.fit(lazy, resume=True).reduced_fit_data

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(fit)
        wait_for(tmp_path / "started")
        with pytest.raises(BlockingIOError, match=r"scratch/rows-\w+\.zarr is being changed by process"):
            fit()
        (tmp_path / "go").touch()
        found = first.result()
    expected = MKSStructureAnalysis(PrimitiveBasis(2), n_components=3).fit(da.from_array(X, chunks=(5, 8, 6)))
    assert_array_equal(found, expected.reduced_fit_data)
    assert os.listdir(tmp_path / "scratch") == []


def test_lock__of_scratch_stores_of_whole_volumes(tmp_path):
    X = np.random.default_rng(0).integers(0, 2, (12, 10)).astype("uint8")
    scratch = Location.of(tmp_path / "sums.zarr")

    def run():
        return correlate_volume(X, PrimitiveBasis(2), cutoff=None, scratch=scratch.path).compute()

    # A call that has the lock already, such as a step of the command, may use the store.
    with scratch.locked(), ThreadPoolExecutor(1) as pool:
        with pytest.raises(BlockingIOError, match=r"sums\.zarr is being changed by"):
            pool.submit(run).result()
        found = run()
    assert_array_equal(found, run())
    assert os.listdir(tmp_path) == ["sums.zarr"]


def test_lock__of_intermediate_stores_of_the_command(tmp_path):
    output = Output(tmp_path / "out.zarr", overwrite=True)
    with ThreadPoolExecutor(1) as pool, output.intermediate("sums", ("scratch",), resume=True):
        second = output.intermediate("sums", ("scratch",), resume=True)
        with pytest.raises(BlockingIOError, match=r"out\.zarr\.sums is being changed by"):
            pool.submit(second.__enter__).result()
    assert os.listdir(tmp_path) == []
