"""The processes of the matrix of faults: a cluster, and a server of S3. Their blocks fail as the cell wants."""

import asyncio
import contextlib
import errno
import importlib
import importlib.util
import json
import os
import random
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
from distributed import Scheduler, Worker
from zarr.storage import FsspecStore

import mksdask.importers.sources as files
from mksdask.storage import checksums


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
        read, write, slabs = checksums._read, checksums._write, files._Slabs.__call__

        def reading(path: Path, span: Any) -> Any:
            if "/c/" in str(path):
                cls.block("read", "/".join(path.parts[-5:]))
            return read(path, span)

        def writing(path: Path, pieces: Any) -> None:
            cls.block("write", "/".join(path.parts[-5:]))
            write(path, pieces)

        def reading_slab(kernel: Any, numbers: Any) -> Any:
            cls.block("read", f"scan {numbers[0]}")
            return slabs(kernel, numbers)

        checksums._read, checksums._write, files._Slabs.__call__ = reading, writing, reading_slab
        get, put = FsspecStore.get, FsspecStore.set

        async def getting(store: Any, key: str, *arguments: Any, **options: Any) -> Any:
            if "/c/" in key:
                await asyncio.to_thread(cls.block, "read", key)
            return await get(store, key, *arguments, **options)

        async def putting(store: Any, key: str, value: Any, *arguments: Any, **options: Any) -> None:
            if "/c/" in key:
                await asyncio.to_thread(cls.block, "write", f"{store.path}/{key}")
            await put(store, key, value, *arguments, **options)

        FsspecStore.get, FsspecStore.set = getting, putting


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


def in_fork(work: Callable[[], Any], folder: Path) -> Any:
    """Run a function in a process of its own, so that this one starts no thread, and return what it returns."""
    out = folder / f"out-{random.random()}"

    def run() -> None:
        out.write_text(json.dumps(work()))

    os.waitpid(forked(run, folder / "fork.txt"), 0)
    if not out.exists():
        raise SystemExit((folder / "fork.txt").read_text())
    return json.loads(out.read_text())


@contextlib.contextmanager
def bucket_of(folder: Path) -> Any:
    """Start a server of S3, and yield the URL of a bucket. Every tenth request for the cells "503" gets that answer."""
    if any(importlib.util.find_spec(name) is None for name in ("s3fs", "moto")):
        yield None
        return
    # Who connects before the server has started waits in the queue of this socket.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        pid = forked(lambda: serve(listener), folder / "s3.txt")
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        yield "s3://bucket"
    finally:
        end(pid)


def serve(listener: socket.socket) -> None:
    moto_server, werkzeug = importlib.import_module("moto.server"), importlib.import_module("werkzeug.serving")
    app, rng = moto_server.DomainDispatcherApplication(moto_server.create_backend_app), random.Random(0)

    def flaky(environ: Any, start_response: Any) -> Any:
        if "/503" in f"{environ['PATH_INFO']}?{environ['QUERY_STRING']}" and rng.random() < 0.1:
            start_response("503 Slow Down", [("Content-Length", "0")])
            return [b""]
        return app(environ, start_response)

    werkzeug.make_server(*listener.getsockname(), flaky, threaded=True, fd=listener.fileno()).serve_forever()


def make_bucket(url: str) -> None:
    fsspec.core.url_to_fs(url)[0].mkdir(url)
