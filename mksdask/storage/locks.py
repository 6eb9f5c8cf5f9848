"""Locks on stores: two calls that would change one store in place do not run at the same time.

A lock is a small object beside the store, ``{store}.lock``. It names its owner: the host, the process and the call. It
is created only if there is none. A lock whose process no longer runs on this machine is taken over. Any other lock is
left alone, because nobody can know from here whether its owner still runs.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
import psutil

# Names of the calls of this process that hold a lock, or try to take one.
_CALLS: set[str] = set()
# Some file systems, such as that in memory, do not test and create in one step. Threads do so one after the other.
_CREATING = threading.Lock()
# How often, and after how many seconds, a call tries again to take a lock that nobody seems to hold.
_ATTEMPTS, _PAUSE = 40, 0.05
# What the name of a file goes on with, after that of a store, from which a lock is about to be made.
_UNFINISHED = re.compile(r".*\.lock-.*")
# Stores that the call has locked already, of which it may lock one again.
_HELD: ContextVar[tuple[str, ...]] = ContextVar("held", default=())


def _machine() -> str:
    """Name the running system in which process ids are unique. Return an empty text if that is not known."""
    if sys.platform != "linux":
        return f"{socket.gethostname()} {uuid.getnode()}"
    with suppress(OSError):
        # Containers may have the same host name, and each has its own process ids.
        boot, processes = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
        return f"{socket.gethostname()} {boot.read_text().strip()} {processes.readlink()}"
    return ""


def _process(pid: int | str) -> tuple[str, str]:
    """Read the state and the start time of a process, in ticks since the boot. Return empty texts if nothing tells."""
    with suppress(OSError):
        # The name of the program stands in parentheses, and may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return fields[0], fields[19]
    return "", ""


@dataclass(frozen=True)
class Owner:
    """A call that holds a lock.

    Parameters
    ----------
    call : str
        A name that no other call has.
    host : str
        Name of the host, for the user.
    machine : str
        The running system in which process ids are unique. It is empty if the system does not tell.
    pid : int
        The process.
    started : str
        When the process started. It is empty if the system does not tell.
    since : str
        When the lock was taken.
    """

    call: str = field(default_factory=lambda: uuid.uuid4().hex)
    host: str = field(default_factory=socket.gethostname)
    machine: str = field(default_factory=_machine)
    pid: int = field(default_factory=os.getpid)
    started: str = field(default_factory=lambda: _process("self")[1])
    since: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def is_gone(self) -> bool:
        """Whether it is certain that the call has ended."""
        if not self.machine or self.machine != _machine():
            return False
        if self.pid == os.getpid() and self.started == _process("self")[1]:
            return self.call not in _CALLS
        state, started = _process(self.pid)
        # A zombie runs no more. A process that started at another time has been given the same id.
        is_other = bool(started and self.started) and started != self.started
        return not psutil.pid_exists(self.pid) or state in ("Z", "X") or is_other

    def __str__(self) -> str:
        since = datetime.fromisoformat(self.since).astimezone(UTC)
        age = timedelta(seconds=int((datetime.now(UTC) - since).total_seconds()))
        return f"process {self.pid} on host {self.host} since {since:%Y-%m-%d %H:%M:%S} UTC ({age} ago)"


@dataclass(frozen=True)
class _Lock:
    """A lock at a path of a file system, and the call that wants it."""

    fs: Any
    path: str
    is_local: bool
    me: Owner

    def read(self) -> Owner | None:
        """Read who holds the lock. Return None if there is none, or if it does not say."""
        try:
            found = json.loads(self.fs.cat_file(self.path))
            owner = Owner(**found)
            # The call becomes a part of a path, so it must be what it should be.
            is_named = uuid.UUID(owner.call).hex == owner.call and isinstance(owner.pid, int) and bool(str(owner))
        except (OSError, ValueError, TypeError, AttributeError, OverflowError):
            return None
        return owner if is_named and found == asdict(owner) else None

    def write(self, *, create: bool) -> None:
        """Write the lock. With `create`, raise FileExistsError if there is one."""
        text = json.dumps(asdict(self.me)).encode()
        if self.is_local:
            self._write_file(text, create=create)
        elif not create:
            self.fs.pipe_file(self.path, text)
        else:
            self.fs.invalidate_cache()
            try:
                self.fs.pipe_file(self.path, text, mode="create")
            except (TypeError, NotImplementedError, ValueError):
                # The file system knows no such mode.
                if self.fs.exists(self.path):
                    raise FileExistsError(self.path) from None
                self.fs.pipe_file(self.path, text)

    def _write_file(self, text: bytes, *, create: bool) -> None:
        path = Path(self.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"{path.name}-{uuid.uuid4().hex[:8]}")
        try:
            new.write_bytes(text)
            if not create:
                new.replace(path)
                return
            try:
                # A link appears together with what it holds, so that no lock lacks its owner.
                path.hardlink_to(new)
            except FileExistsError:
                raise
            except OSError:
                # The file system has no such links.
                with path.open("xb") as file:
                    file.write(text)
        finally:
            new.unlink(missing_ok=True)

    def take(self) -> bool:
        """Take the lock if there is none, or if its owner is gone. Return whether this call holds it."""
        try:
            with _CREATING:
                self.write(create=True)
        except FileExistsError:
            owner = self.read()
            if owner is None or not owner.is_gone:
                return False
            # Only one call at a time may take the place of this owner. It looks again, because another may have done
            # so before.
            with _taken(_Lock(self.fs, f"{self.path}-{owner.call}", self.is_local, self.me)) as is_first:
                if not is_first or self.read() != owner:
                    return False
                self.write(create=False)
        # Where a file system does not create in one step, the last of several writers wins.
        return self.read() == self.me

    def release(self) -> None:
        """Remove the lock if this call holds it."""
        if self.read() == self.me:
            self.fs.rm(self.path)


@contextmanager
def _taken(lock: _Lock) -> Iterator[bool]:
    """Try to take a lock, yield whether this call has it, and remove it at the end."""
    try:
        is_mine = lock.take()
        for _ in range(_ATTEMPTS):
            owner = None if is_mine else lock.read()
            if is_mine or (owner is not None and not owner.is_gone):
                break
            # The owner has ended meanwhile, or another call is about to take its place.
            time.sleep(_PAUSE)
            is_mine = lock.take()
        yield is_mine
    finally:
        lock.release()


def neighbours(path: str, rest: re.Pattern[str]) -> list[Path]:
    """List what lies beside a path on this machine under its name and a rest that matches.

    The patterns are few. A glob with the name in it would stay compiled in the caches of Python, once for each name.
    """
    place = Path(path)
    try:
        files = list(place.parent.iterdir())
    except OSError:
        return []
    found = [file for file in files if file.name.startswith(place.name)]
    return [file for file in found if rest.fullmatch(file.name, len(place.name))]


def remove_unfinished(path: str) -> None:
    """Remove the files from which locks beside a path on this machine were about to be made by calls that are gone."""
    for file in neighbours(path, _UNFINISHED):
        owner = _Lock(fsspec.filesystem("file"), file.as_posix(), is_local=True, me=Owner()).read()
        if owner is not None and owner.is_gone:
            file.unlink(missing_ok=True)


@contextmanager
def locked(fs: Any, path: str, *, is_local: bool) -> Iterator[Callable[[], None]]:
    """Keep other calls from changing a store in place. A call may lock a store again that it has locked already.

    Parameters
    ----------
    fs, path, is_local
        As in `Location`.

    Yields
    ------
    callable
        It raises if this call has lost the lock, because somebody removed it.

    Raises
    ------
    BlockingIOError
        If another call holds the lock. The message names the owner, and says what to do.

    Notes
    -----
    A file system of objects is sound if ``pipe_file(mode="create")`` is one step there, as on S3 and Google Cloud
    Storage. On others, two calls that begin within the same moment may both hold the lock for a short time, until one
    of them finds out.
    """
    name = str(fs.unstrip_protocol(path))
    if name in _HELD.get():
        yield lambda: None
        return
    lock = _Lock(fs, f"{path}.lock", is_local, Owner())

    def check() -> None:
        if (owner := lock.read()) != lock.me:
            who = "an unknown call" if owner is None else str(owner)
            msg = (
                f"{path} is being changed by {who}; wait until that call ends, and call again. If you are sure that "
                f"it no longer runs, remove {lock.path}"
            )
            raise BlockingIOError(msg)

    _CALLS.add(lock.me.call)
    try:
        with _taken(lock) as is_mine:
            if not is_mine:
                check()
            token = _HELD.set((*_HELD.get(), name))
            try:
                yield check
            finally:
                _HELD.reset(token)
    finally:
        _CALLS.discard(lock.me.call)
