"""Stores that replace others: a kill at any moment leaves the old or the new one, and the same call then succeeds."""

import itertools
import os
import signal
import subprocess
import sys
import textwrap

import dask.array as da
import fsspec
import numpy as np
import pytest
import xarray as xr
from fsspec.implementations.memory import MemoryFileSystem
from numpy.testing import assert_array_equal

from mksdask import MKSStructureAnalysis, PrimitiveBasis, create_ensemble, load_model, open_ensemble, save_model
from mksdask.storage import materialize
from mksdask.storage.atomic import MICROSTRUCTURES, RESULTS, Location, remove_store
from mksdask.storage.opening import open_array
from tests.conftest import some_slow

OLD = np.arange(6 * 4 * 5, dtype=np.uint8).reshape(6, 4, 5)
NEW = OLD[:4] + 1


class Killed(BaseException):
    """Stands for the end of the process."""


class Power:
    """Counts the operations that change objects, and cuts the power after some of them, until it is on again."""

    def __init__(self, monkeypatch):
        self.left, self.n_changes, self.written, self.n_copies = None, 0, [], 0
        pipe, remove, copy = MemoryFileSystem.pipe_file, MemoryFileSystem.rm_file, MemoryFileSystem.cp_file

        def written(fs, path, value, **options):
            self.spend()
            self.written.append(path)
            return pipe(fs, path, value, **options)

        def removed(fs, path):
            self.spend()
            return remove(fs, path)

        def removed_all(fs, paths, recursive=False, maxdepth=None):
            for path in fs.expand_path(paths, recursive=recursive, maxdepth=maxdepth):
                if fs.isfile(path):
                    removed(fs, path)

        def copied(fs, *paths, **options):
            self.n_copies += 1
            return copy(fs, *paths, **options)

        monkeypatch.setattr(MemoryFileSystem, "pipe_file", written)
        monkeypatch.setattr(MemoryFileSystem, "rm_file", removed)
        monkeypatch.setattr(MemoryFileSystem, "rm", removed_all)
        monkeypatch.setattr(MemoryFileSystem, "cp_file", copied)

    def spend(self):
        if self.left == 0:
            raise Killed
        self.left = None if self.left is None else self.left - 1
        self.n_changes += 1


@pytest.fixture
def power(monkeypatch):
    fsspec.filesystem("memory").rm("/staging", recursive=True) if MemoryFileSystem().exists("/staging") else None
    return Power(monkeypatch)


def model(n_components):
    return MKSStructureAnalysis(PrimitiveBasis(2), n_components=n_components).fit((OLD % 2).astype(np.uint8))


MODELS = {number: model(number) for number in (2, 3)}


def put_ensemble(url, values, **options):
    create_ensemble(url, values, chunks=2, mode="w", **options)


def put_result(url, values):
    materialize(da.from_array(values, chunks=(2, 4, 5)), url, resume=False, overwrite=True, progress=False)


def put_resumed_result(url, values):
    materialize(da.from_array(values, chunks=(2, 4, 5)), url, overwrite=True, progress=False)


CASES = {
    "ensemble": (put_ensemble, lambda url: open_ensemble(url).microstructure.values, OLD, NEW),
    "resumed ensemble": (
        lambda url, values: put_ensemble(url, values, resume=True),
        lambda url: open_ensemble(url).microstructure.values,
        OLD,
        NEW,
    ),
    "result": (put_result, lambda url: open_array(Location.of(url), "result")[...], OLD, NEW),
    "resumed result": (put_resumed_result, lambda url: open_array(Location.of(url), "result")[...], OLD, NEW),
    "model": (lambda url, n: save_model(MODELS[n], url), lambda url: load_model(url).n_components, 2, 3),
}


@pytest.mark.parametrize("is_there", [False, True], ids=["new", "replaced"])
@pytest.mark.parametrize("case", some_slow(CASES, ["resumed result"]))
def test_object_store__a_kill_at_any_moment_leaves_a_whole_store(power, case, is_there):
    put, get, old, new = CASES[case]
    fs, seen = fsspec.filesystem("memory"), set()
    for n_changes in itertools.count():
        url = f"memory://staging/{n_changes}/e.zarr"
        if is_there:
            put(url, old)
        power.left = n_changes
        try:
            put(url, new)
        except BaseException:
            is_killed = True
        else:
            is_killed = False
        power.left = None
        if is_killed and is_there:
            found = get(url)
            is_old = np.array_equal(found, old)
            assert is_old or np.array_equal(found, new)
            seen.add(is_old)
        put(url, new)
        assert_array_equal(get(url), new)
        if not is_killed:
            break
        # What was left is gone after the next call that replaces the store.
        put(url, old)
        place = f"/staging/{n_changes}"
        assert {key.removeprefix(place).split("/")[1] for key in fs.find(place)} == {"e.zarr"}
        generations = {key.split("/")[4] for key in fs.find(place) if "/g-" in key}
        assert len(generations) <= 1
    assert n_changes >= 8
    assert seen == ({True, False} if is_there else set())
    assert power.n_copies == 0


@pytest.mark.parametrize("case", CASES)
def test_object_store__writes_each_object_once(power, case):
    put, get, old, new = CASES[case]
    for values in (old, new):
        power.written.clear()
        put("memory://staging/once/e.zarr", values)
        chunks = [path for path in power.written if not path.endswith(("zarr.json", ".lock"))]
        assert len(chunks) == len(set(chunks)) > 0
        assert power.n_copies == 0
    assert_array_equal(get("memory://staging/once/e.zarr"), new)


def test_object_store__a_new_store_is_plain_zarr_and_a_replaced_one_holds_one():
    url = "memory://staging/plain/e.zarr"
    put_ensemble(url, OLD)
    assert_array_equal(xr.open_zarr(url).microstructure, OLD)
    put_ensemble(url, NEW)
    generation = Location.of(url).path.rpartition("/")[2]
    assert_array_equal(xr.open_zarr(f"{url}/{generation}").microstructure, NEW)
    remove_store(url, MICROSTRUCTURES)
    assert not fsspec.filesystem("memory").find("/staging/plain")


def test_object_store__a_removal_that_is_killed_can_be_repeated(power):
    for n_changes in itertools.count():
        url = f"memory://staging/removed-{n_changes}/r.zarr"
        put_result(url, OLD)
        put_result(url, NEW)
        power.left = n_changes
        try:
            remove_store(url, RESULTS)
        except Killed:
            power.left = None
            remove_store(url, RESULTS)
            assert not Location.of(url).exists()
        else:
            break
    assert n_changes > 6


SCRIPT = """
    import os, signal, sys
    from pathlib import Path
    import numpy as np
    from mksdask import create_ensemble
    import mksdask.storage.staging, mksdask.storage.blocks

    n_calls, url = int(sys.argv[1]), sys.argv[2]


    def killing(function):
        def call(*arguments, **options):
            global n_calls
            n_calls -= 1
            if n_calls < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)
        return call


    Path.rename, Path.replace, os.mkdir = killing(Path.rename), killing(Path.replace), killing(os.mkdir)
    Path.hardlink_to, os.unlink, os.rmdir = killing(Path.hardlink_to), killing(os.unlink), killing(os.rmdir)
    create_ensemble(url, np.ones((4, 4, 5), dtype="uint8"), chunks=2, mode="w")
    print("done")
"""


@pytest.mark.slow
def test_disk__a_kill_leaves_nothing_that_the_next_call_does_not_remove(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(SCRIPT))
    n_kills = 0
    for n_calls in range(0, 200, 7):
        url = tmp_path / str(n_calls) / "e.zarr"
        create_ensemble(url, OLD, chunks=2)
        done = subprocess.run([sys.executable, script, str(n_calls), url], capture_output=True, text=True, check=False)
        n_kills += done.returncode == -signal.SIGKILL
        create_ensemble(url, NEW, chunks=2, mode="w")
        assert_array_equal(open_ensemble(url).microstructure, NEW)
        assert os.listdir(tmp_path / str(n_calls)) == ["e.zarr"], n_calls
        if done.stdout:
            break
    assert n_kills >= 8
