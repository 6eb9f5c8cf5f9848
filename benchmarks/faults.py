"""Which faults a run survives: each stage times each fault, with scheduler, workers and client in separate processes.

Each cell runs a stage, lets something fail in the middle, mends what was broken, and makes the same call again:

    equal       the call itself gave the result of a run that nothing disturbed
    resumed     the call stopped with an error, or was killed; the same call again gave that result
    WRONG       a call gave another result without a word
    refused     an input was changed under the run; the same call again says so, and how to go on
    STUCK       the same call again did not give a result

Behind the slash stand the blocks that were read again and the seconds that were lost. The exit status is 1 if a cell is
WRONG or STUCK. The column "503" needs the packages of the extra `dev`, and runs against a server of S3 that answers
every tenth request by 503. With --s3, all cells keep their inputs and results there.
"""

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

import dask
import fsspec
import numpy as np
from distributed import Client
from fault_processes import Cluster, Hooks, bucket_of, end, forked, in_fork, is_alive, make_bucket
from fault_stages import STAGES, change, damage, inputs_of, prepare

PATIENCE = 120.0  # seconds after which a call counts as stuck
# How a partial result of inputs that were changed is refused.
_TOLD = "was changed or replaced since then"


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
        shutil.copytree(base, folder, dirs_exist_ok=True)
        if bucket is not None:
            self.at = f"{bucket}/{folder.parent.name}/{folder.name}"
        self.log, self.cluster = folder / "log", Cluster(folder)

    def upload(self) -> None:
        """Replace the inputs in the bucket by those in the folder."""

        def put() -> None:
            fs, inputs = fsspec.core.url_to_fs(self.at)[0], [place.name for place in self.base.iterdir()]
            for name in inputs:
                if fs.exists(f"{self.at}/{name}"):
                    fs.rm(f"{self.at}/{name}", recursive=True)
                fs.put(str(self.folder / name), f"{self.at}/{name}", recursive=True)

        if self.at.startswith("s3:"):
            in_fork(put, self.folder)

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
            pid = forked(lambda: change(self.at, self.stage), self.folder / "change.txt")
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
            self.upload()

    def result(self, good: set[str]) -> dict[str, Any]:
        """Run the cell. `good` holds the digests of right results."""
        if self.fault in FLAGS:
            (self.folder / FLAGS[self.fault]).touch()
        if self.fault in DAMAGE:
            damage(self.folder / inputs_of(self.stage), self.fault)
        self.upload()
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
                if second is not None and _TOLD in second.get("message", ""):
                    verdict = "refused"
                elif second is not None and "digest" in second:
                    verdict = "resumed" if second["digest"] in good else "WRONG"
                seconds += 0.0 if second is None else second["seconds"]
            return told | {"verdict": verdict, "seconds": seconds, "blocks": self.n_blocks()}
        finally:
            self.cluster.stop()


def undisturbed(stage: str, folder: Path, base: Path, bucket: str | None) -> dict[str, Any]:
    """Run a stage on a cluster that nothing disturbs, on the inputs as they are, or as they are when they change."""
    cell = cell_in(folder, base, stage, "none", bucket)
    cell.upload()
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
    parser.add_argument("--s3", action="store_true", help="keep the inputs and the results of all cells in S3")
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
        with bucket_of(folder) if options.s3 or "503" in options.faults else contextlib.nullcontext() as bucket:
            if bucket is not None:
                in_fork(lambda: make_bucket(bucket), folder)
            for stage in options.stages:
                place = folder / stage.replace(" ", "-")
                place.mkdir()
                Hooks.folder = place / "usual"
                home = bucket if options.s3 and stage != "import" else None
                usual = undisturbed(stage, place / "usual", base, home)
                Hooks.folder = place / "other"
                other = undisturbed(stage, place / "other", changed, home) if "changed" in options.faults else usual
                line = f"{stage:<14}"
                for fault in options.faults:
                    is_remote = options.s3 or fault == "503"
                    # The files of others have no checksums, and are on a disk. A bucket has no end.
                    if (
                        (is_remote and (bucket is None or stage == "import"))
                        or (fault, stage) == ("flipped", "import")
                        or (options.s3 and fault == "disk full")
                    ):
                        line += f"{'-':>17}"
                        continue
                    Hooks.folder = place / fault.replace(" ", "-")
                    good = {usual["digest"], *([other["digest"]] if fault == "changed" else [])}
                    found = cell_in(Hooks.folder, base, stage, fault, bucket if is_remote else None).result(good)
                    told.append(found)
                    n_bad += found["verdict"].isupper()
                    again, lost = max(0, found["blocks"] - usual["blocks"]), found["seconds"] - usual["seconds"]
                    line += f"{found['verdict'] + f' /{again:>3} {max(0.0, lost):4.1f}':>17}"
                print(line, flush=True)
    if options.json:
        options.json.write_text(json.dumps(told, indent=1))
    print(f"{n_bad} of {len(told)} cells are WRONG or STUCK")
    return int(n_bad > 0)


def cell_in(folder: Path, base: Path, stage: str, fault: str, bucket: str | None) -> Cell:
    folder.mkdir(parents=True)
    return Cell(folder, base, stage, fault, bucket)


if __name__ == "__main__":
    sys.exit(main())
