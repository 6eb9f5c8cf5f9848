"""Which faults a run survives: each stage times each fault, with scheduler, workers and client in separate processes.

Each cell runs a stage, lets something fail in the middle, mends what was broken, and makes the same call again:

    equal       the call itself gave the result of a run that nothing disturbed
    resumed     the call stopped with an error, or was killed; the same call again gave that result
    WRONG       a call gave another result without a word
    STUCK       the same call again did not give a result

Behind the slash stand the blocks that were read again and the seconds that were lost. The exit status is 1 if a cell is
WRONG or STUCK. The column "503" needs the packages of the extra `dev`, and runs against a server of S3 that answers
every tenth request by 503.
"""

import argparse
import asyncio
import contextlib
import errno
import hashlib
import importlib.util
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

import dask
import fsspec
import numpy as np
from distributed import Client, Scheduler, Worker
from zarr.storage import LocalStore

import mksdask.importers.sources as files
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
)
from mksdask.datasets import effective_stiffness, solve_fields
from mksdask.descriptors import ShapeDescriptors
from mksdask.importers import import_images
from mksdask.stats import correlate, correlate_volume
from mksdask.stats.windows import sample_windows
from mksdask.storage import checksums, materialize

BASIS = PrimitiveBasis(2)
SHAPE, CHUNK, EDGE = (24, 12, 12), 2, 24
PATIENCE = 120.0  # seconds after which a call counts as stuck
PHASES = {"elastic_modulus": [100.0, 200.0], "poissons_ratio": [0.3, 0.3]}


def ensemble(at: str) -> Any:
    return open_ensemble(f"{at}/e.zarr").microstructure


def volume(at: str) -> Any:
    return open_volume(f"{at}/v.zarr").microstructure


def kept(at: str, lazy: Any) -> Any:
    return materialize(lazy, f"{at}/out.zarr", progress=False)


def create(at: str) -> Any:
    create_ensemble(f"{at}/out.zarr", ensemble(at), chunks=CHUNK, resume=True)
    return open_ensemble(f"{at}/out.zarr").microstructure


def append(at: str) -> Any:
    url = f"{at}/grown.zarr"
    if open_ensemble(url).sizes["sample"] == CHUNK:
        append_ensemble(url, ensemble(at))
    return open_ensemble(url).microstructure


def volume_copy(at: str) -> Any:
    create_volume(f"{at}/out.zarr", volume(at), chunks=EDGE // 3, resume=True)
    return open_volume(f"{at}/out.zarr").microstructure


def imported(at: str) -> Any:
    files.SLAB_BYTES = 4 * EDGE**2
    import_images(f"{at}/scan.npy", f"{at}/out.zarr", axes="xyz", resume=True)
    return open_volume(f"{at}/out.zarr").microstructure


def analysis(at: str) -> Any:
    model = MKSStructureAnalysis(BASIS, n_components=2, scratch=f"{at}/scratch")
    return model.fit(ensemble(at), resume=True).reduced_fit_data


def linkage(at: str) -> Any:
    model = MKSHomogenizationModel(BASIS, n_components=2, scratch=f"{at}/scratch")
    found = open_ensemble(f"{at}/e.zarr")
    return model.fit(found.microstructure, found.response, resume=True).predict(np.asarray(found.microstructure[:4]))


def localization(at: str) -> Any:
    X = ensemble(at)
    return MKSLocalizationModel(BASIS).fit(X, X.astype(float)).coef_


STAGES: dict[str, Callable[[str], Any]] = {
    "create": create,
    "append": append,
    "create volume": volume_copy,
    "import": imported,
    "correlate": lambda at: kept(at, correlate(ensemble(at), BASIS)),
    "tile sums": lambda at: correlate_volume(volume(at), BASIS, cutoff=4, scratch=f"{at}/out.zarr"),
    "all lags": lambda at: correlate_volume(volume(at), BASIS, cutoff=None, scratch=f"{at}/out.zarr"),
    "windows": lambda at: kept(at, sample_windows(volume(at), size=6, n=24, chunks=2, seed=1)),
    "descriptors": lambda at: kept(at, ShapeDescriptors().fit_transform(ensemble(at))),
    "analysis": analysis,
    "linkage": linkage,
    "predict": lambda at: kept(at, load_model(f"{at}/m.zarr").predict(ensemble(at))),
    "calibrate": localization,
    "localize": lambda at: kept(at, load_model(f"{at}/l.zarr").predict(ensemble(at))),
    "fields": lambda at: kept(at, solve_fields(ensemble(at), **PHASES).strain),
    "stiffness": lambda at: kept(at, effective_stiffness(ensemble(at), **PHASES)),
}


class Hooks:
    """What the processes of a cell do to blocks: they take a while, are logged, and fail as the cell wants."""

    folder: Path | None = None
    pause = 0.03

    @classmethod
    def block(cls, what: str, key: str) -> None:
        """Log a block that is read or written, and raise what the cell wants."""
        if cls.folder is None:
            return
        time.sleep(cls.pause)
        with (cls.folder / "log").open("a") as file:
            file.write(f"{os.getpid()} {what} {key}\n")
        n_blocks = len((cls.folder / "log").read_text().splitlines())
        if what == "write" and (cls.folder / "full").exists() and n_blocks > 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if what == "read" and (cls.folder / "always").exists() and n_blocks > 4:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if what == "read" and (cls.folder / "once").exists() and n_blocks > 4:
            with contextlib.suppress(FileNotFoundError):
                (cls.folder / "once").unlink()
                raise OSError(errno.EIO, os.strerror(errno.EIO))

    @classmethod
    def install(cls) -> None:
        read, write, slabs = checksums._read, LocalStore.set, files._Slabs.__call__

        def reading(path: Path, span: Any) -> Any:
            if "/c/" in str(path):
                cls.block("read", "/".join(path.parts[-5:]))
            return read(path, span)

        async def writing(store: Any, key: str, value: Any) -> None:
            if "/c/" in key:
                await asyncio.to_thread(cls.block, "write", f"{Path(store.root).name}/{key}")
            await write(store, key, value)

        def reading_slab(kernel: Any, numbers: Any) -> Any:
            cls.block("read", f"scan {numbers[0]}")
            return slabs(kernel, numbers)

        checksums._read, LocalStore.set, files._Slabs.__call__ = reading, writing, reading_slab


def forked(work: Callable[[], None], log: Path) -> int:
    """Run a function in a process of its own. It prints to a file."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setpgid(0, 0)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1), os.dup2(out, 2)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


def is_alive(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG) == (0, 0)
    return False


def end(pid: int) -> None:
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGCONT)
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


class Cluster:
    """A scheduler and two workers in processes of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "scheduler.json"
        self.scheduler, self.workers = 0, []

    def start(self) -> None:
        """Start what does not run."""
        if not self.scheduler or not is_alive(self.scheduler):
            for pid in self.workers:
                end(pid)
            self.workers = []
            self.file.unlink(missing_ok=True)
            self.scheduler = forked(lambda: asyncio.run(self._schedule()), self.folder / "scheduler.txt")
            while not self.file.exists():
                time.sleep(0.02)
        self.workers = [pid for pid in self.workers if is_alive(pid)]
        while len(self.workers) < 2:
            self.workers.append(forked(lambda: asyncio.run(self._work()), self.folder / "worker.txt"))

    async def _schedule(self) -> None:
        async with Scheduler(host="127.0.0.1", port=0, dashboard=False) as scheduler:
            new = self.file.with_suffix(".new")
            new.write_text(scheduler.address)
            new.rename(self.file)
            await scheduler.finished()

    async def _work(self) -> None:
        local = self.folder / f"local-{os.getpid()}"
        async with Worker(
            self.file.read_text(), nthreads=1, memory_limit=0, dashboard=False, local_directory=local
        ) as w:
            await w.finished()

    def stop(self) -> None:
        for pid in [*self.workers, self.scheduler]:
            end(pid)


def digest(values: Any) -> str:
    values = np.ascontiguousarray(values.compute() if hasattr(values, "compute") else values)
    return hashlib.sha256(values.tobytes() + str((values.shape, values.dtype)).encode()).hexdigest()[:16]


def call(stage: str, at: str, cluster: Cluster | None, out: Path) -> None:
    """Run a stage, and write down its result, or how it failed."""
    start = time.monotonic()
    found: dict[str, Any] = {}
    try:
        if cluster is None:
            found["digest"] = digest(STAGES[stage](at))
        else:
            client = Client(cluster.file.read_text(), timeout=20)
            client.wait_for_workers(1, timeout=30)
            found["digest"] = digest(STAGES[stage](at))
    except Exception as error:
        found |= {"error": type(error).__name__, "message": " ".join(str(error).split())}
    found["seconds"] = time.monotonic() - start
    out.write_text(json.dumps(found))


def prepare(base: Path) -> None:
    """Make the inputs of all stages."""
    rng = np.random.default_rng(0)
    X, V = rng.integers(0, 2, SHAPE).astype(np.uint8), rng.integers(0, 2, (EDGE,) * 3).astype(np.uint8)
    create_ensemble(base / "e.zarr", X, X.mean(axis=(1, 2)), chunks=CHUNK)
    create_ensemble(base / "grown.zarr", X[:CHUNK], chunks=CHUNK)
    create_volume(base / "v.zarr", V, chunks=EDGE // 3)
    np.save(base / "scan.npy", V)
    save_model(MKSHomogenizationModel(BASIS, n_components=2).fit(X, X.mean(axis=(1, 2))), base / "m.zarr")
    save_model(MKSLocalizationModel(BASIS).fit(X, X.astype(float)), base / "l.zarr")


def inputs_of(stage: str) -> str:
    """The input of a stage that is damaged or changed."""
    return {"import": "scan.npy", **dict.fromkeys(("create volume", "tile sums", "all lags", "windows"), "v.zarr")}.get(
        stage, "e.zarr"
    )


def damage(path: Path, how: str) -> None:
    """Damage a file in the middle of an input: a chunk of a store, or the file itself."""
    chunks = sorted(each for each in path.rglob("microstructure/c/*") if each.is_file() or each.is_symlink())
    chunks = chunks or sorted(each for each in path.rglob("microstructure/c/**/*") if each.is_file())
    target = chunks[len(chunks) // 2] if chunks else path
    data = bytearray(target.read_bytes())
    if how == "flipped":
        data[len(data) // 2] ^= 4
    target.write_bytes({"flipped": bytes(data), "cut": bytes(data[: len(data) // 2]), "emptied": b""}.get(how, b""))
    if how == "deleted":
        target.unlink()


def change(at: Path, stage: str) -> None:
    """Replace the input by another one of the same shape."""
    rng = np.random.default_rng(1)
    X, V = rng.integers(0, 2, SHAPE).astype(np.uint8), rng.integers(0, 2, (EDGE,) * 3).astype(np.uint8)
    name = inputs_of(stage)
    if name == "e.zarr":
        create_ensemble(at / name, X, X.mean(axis=(1, 2)), chunks=CHUNK, mode="w")
    elif name == "v.zarr":
        create_volume(at / name, V, chunks=EDGE // 3, mode="w")
    else:
        np.save(at / name, V)


FAULTS = (
    "worker kill",
    "scheduler kill",
    "client kill",
    "stop",
    "error once",
    "error always",
    "disk full",
    "flipped",
    "cut",
    "emptied",
    "deleted",
    "changed",
    "503",
)
DAMAGE = ("flipped", "cut", "emptied", "deleted")
FLAGS = {"error once": "once", "error always": "always", "disk full": "full"}


class Cell:
    """One stage and one fault."""

    def __init__(self, folder: Path, base: Path, stage: str, fault: str, bucket: str | None) -> None:
        self.folder, self.base, self.stage, self.fault = folder, base, stage, fault
        self.at = str(folder)
        if fault == "503":
            self.at = f"{bucket}/{folder.name}"
            in_fork(lambda: fsspec.core.url_to_fs(self.at)[0].put(f"{base}/", f"{self.at}/", recursive=True), folder)
        else:
            shutil.copytree(base, folder, dirs_exist_ok=True)
        self.log, self.cluster = folder / "log", Cluster(folder)

    def n_blocks(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0

    def run(self, number: int, disturb: Callable[[int], None] | None) -> dict[str, Any] | None:
        """Make the call in a process of its own. Return what it wrote down, or None if it was killed or hangs."""
        self.cluster.start()
        out = self.folder / f"call-{number}.json"
        start, before = time.monotonic(), self.n_blocks()
        pid = forked(lambda: call(self.stage, self.at, self.cluster, out), self.folder / "client.txt")
        while is_alive(pid):
            if disturb is not None and self.n_blocks() - before >= 8:
                disturb(pid)
                disturb = None
            if time.monotonic() - start > PATIENCE:
                end(pid)
                return {"error": "Hang", "message": f"no end after {PATIENCE} s", "seconds": PATIENCE}
            time.sleep(0.02)
        return json.loads(out.read_text()) if out.exists() else None

    def disturb(self, client: int) -> None:
        victim = self.cluster.workers[0]
        if self.fault == "worker kill":
            os.kill(victim, signal.SIGKILL)
        elif self.fault == "scheduler kill":
            os.kill(self.cluster.scheduler, signal.SIGKILL)
        elif self.fault == "client kill":
            os.kill(client, signal.SIGKILL)
        elif self.fault == "changed":
            pid = forked(lambda: change(self.folder, self.stage), self.folder / "change.txt")
            os.waitpid(pid, 0)
        elif self.fault == "stop":
            os.kill(victim, signal.SIGSTOP)
            time.sleep(2)
            os.kill(victim, signal.SIGCONT)

    def mend(self) -> None:
        for flag in FLAGS.values():
            (self.folder / flag).unlink(missing_ok=True)
        if self.fault in DAMAGE:
            name = inputs_of(self.stage)
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / name).unlink(missing_ok=True) if (self.folder / name).is_file() else None
            copy = shutil.copytree if (self.base / name).is_dir() else shutil.copy
            copy(self.base / name, self.folder / name)

    def result(self, good: set[str]) -> dict[str, Any]:
        """Run the cell. `good` holds the digests of right results."""
        if self.fault in FLAGS:
            (self.folder / FLAGS[self.fault]).touch()
        if self.fault in DAMAGE:
            damage(self.folder / inputs_of(self.stage), self.fault)
        moving = ("worker kill", "scheduler kill", "client kill", "stop", "changed")
        try:
            first = self.run(1, self.disturb if self.fault in moving else None)
            told = {"stage": self.stage, "fault": self.fault, "first": first}
            verdict, seconds = "equal", 0.0 if first is None else first["seconds"]
            if first is not None and "digest" in first:
                verdict = "equal" if first["digest"] in good else "WRONG"
            else:
                self.mend()
                second = self.run(2, None)
                told["second"], verdict = second, "STUCK"
                if second is not None and "digest" in second:
                    verdict = "resumed" if second["digest"] in good else "WRONG"
                seconds += 0.0 if second is None else second["seconds"]
            return told | {"verdict": verdict, "seconds": seconds, "blocks": self.n_blocks()}
        finally:
            self.cluster.stop()


@contextlib.contextmanager
def bucket_of(folder: Path) -> Any:
    """Start a server of S3 that answers every tenth request by 503, and yield the URL of a bucket."""
    if any(importlib.util.find_spec(name) is None for name in ("s3fs", "moto")):
        yield None
        return
    port = random.Random(os.getpid()).randint(20000, 50000)
    pid = forked(lambda: serve(port), folder / "s3.txt")
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        yield "s3://bucket"
    finally:
        end(pid)


def serve(port: int) -> None:
    moto_server, werkzeug = importlib.import_module("moto.server"), importlib.import_module("werkzeug.serving")
    app, rng = moto_server.DomainDispatcherApplication(moto_server.create_backend_app), random.Random(0)

    def flaky(environ: Any, start_response: Any) -> Any:
        if environ["PATH_INFO"].count("/") > 1 and rng.random() < 0.1:
            start_response("503 Slow Down", [("Content-Length", "0")])
            return [b""]
        return app(environ, start_response)

    werkzeug.run_simple("127.0.0.1", port, flaky, threaded=True)


def in_fork(work: Callable[[], Any], folder: Path) -> Any:
    """Run a function in a process of its own, so that this one starts no thread, and return what it returns."""
    out = folder / f"out-{random.random()}"

    def run() -> None:
        out.write_text(json.dumps(work()))

    os.waitpid(forked(run, folder / "fork.txt"), 0)
    if not out.exists():
        raise SystemExit((folder / "fork.txt").read_text())
    return json.loads(out.read_text())


def undisturbed(stage: str, folder: Path, base: Path) -> dict[str, Any]:
    """Run a stage on a cluster that nothing disturbs, on the inputs as they are, or as they are when they change."""
    cell = cell_in(folder, base, stage, "none", None)
    try:
        found = cell.run(0, None)
    finally:
        cell.cluster.stop()
    if found is None or "digest" not in found:
        msg = f"{stage} fails by itself: {found}\n{(folder / 'client.txt').read_text()}"
        raise SystemExit(msg)
    return found | {"blocks": cell.n_blocks()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=list(STAGES), metavar="STAGE")
    parser.add_argument("--faults", nargs="+", default=list(FAULTS), choices=FAULTS, metavar="FAULT")
    parser.add_argument("--json", type=Path, help="write what each call said, for each cell")
    options = parser.parse_args()
    told, n_bad = [], 0
    Hooks.install()
    with tempfile.TemporaryDirectory() as name, dask.config.set({"distributed.comm.timeouts.connect": "10s"}):
        folder = Path(name)
        base = folder / "base"
        base.mkdir()
        in_fork(lambda: prepare(base), folder)
        changed = folder / "changed"
        shutil.copytree(base, changed)
        for stage in {inputs_of(stage): stage for stage in options.stages}.values():
            in_fork(lambda stage=stage: change(changed, stage), folder)
        print(f"{'':<14}" + "".join(f"{fault:>17}" for fault in options.faults), flush=True)
        with bucket_of(folder) if "503" in options.faults else contextlib.nullcontext() as bucket:
            if bucket is not None:
                in_fork(lambda: make_bucket(bucket), folder)
            for stage in options.stages:
                place = folder / stage.replace(" ", "-")
                place.mkdir()
                Hooks.folder = place / "usual"
                usual = undisturbed(stage, place / "usual", base)
                Hooks.folder = place / "other"
                other = undisturbed(stage, place / "other", changed) if "changed" in options.faults else usual
                line = f"{stage:<14}"
                for fault in options.faults:
                    # The files of others have no checksums.
                    if (fault == "503" and (bucket is None or stage == "import")) or (fault, stage) == (
                        "flipped",
                        "import",
                    ):
                        line += f"{'-':>17}"
                        continue
                    Hooks.folder = place / fault.replace(" ", "-")
                    good = {usual["digest"], *([other["digest"]] if fault == "changed" else [])}
                    found = cell_in(Hooks.folder, base, stage, fault, bucket).result(good)
                    told.append(found)
                    n_bad += found["verdict"].isupper()
                    again, lost = max(0, found["blocks"] - usual["blocks"]), found["seconds"] - usual["seconds"]
                    line += f"{found['verdict'] + f' /{again:>3} {max(0.0, lost):4.1f}':>17}"
                print(line, flush=True)
    if options.json:
        options.json.write_text(json.dumps(told, indent=1))
    print(f"{n_bad} of {len(told)} cells are WRONG or STUCK")
    return int(n_bad > 0)


def make_bucket(url: str) -> None:
    fs = fsspec.core.url_to_fs(url)[0]
    for _ in range(100):
        with contextlib.suppress(OSError):
            fs.mkdir(url)
            return
        time.sleep(0.2)


def cell_in(folder: Path, base: Path, stage: str, fault: str, bucket: str | None) -> Cell:
    folder.mkdir(parents=True)
    return Cell(folder, base, stage, fault, bucket)


if __name__ == "__main__":
    sys.exit(main())
