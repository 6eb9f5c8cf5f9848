"""Each stage over its floor, with the machine and its ceilings: ``python -m benchmarks.report``.

``--write`` keeps the table and the ratios in `benchmarks/results`. ``--check`` measures again, and fails where a ratio
is more than 25% above the one that is kept, in each of five repetitions.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import psutil
import scipy.fft
from threadpoolctl import threadpool_limits

from benchmarks.stages import Stage, all_stages
from benchmarks.timing import Timing, paired

RESULTS = Path(__file__).parent / "results"
WORSE = 1.25  # how much larger than the kept one a ratio may be
REPETITIONS = 5


def machine() -> list[str]:
    """Describe the machine and the libraries."""
    info = Path("/proc/cpuinfo")
    models = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    memory = psutil.virtual_memory().total / 2**30
    names = ("numpy", "scipy", "numba", "dask", "zarr", "pyfftw")
    return [
        f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB",
        f"Python {platform.python_version()}, " + ", ".join(f"{name} {installed(name) or 'none'}" for name in names),
        "one thread, seconds of that thread, medians; ratios pair by pair, with their range",
    ]


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def best(work: Callable[[], object], rounds: int = 5) -> float:
    """Shortest seconds of this thread."""
    seconds = []
    for _ in range(rounds):
        start = time.thread_time()
        work()
        seconds.append(time.thread_time() - start)
    return min(seconds)


def ceilings() -> list[str]:
    """What one thread of this machine can do at most."""
    rng = np.random.default_rng(0)
    source = rng.random(2**25)
    target = np.empty_like(source)
    lines = [f"copy {2 * source.nbytes / best(lambda: np.copyto(target, source)) / 1e9:.1f} GB/s (read and write)"]
    with threadpool_limits(1):
        for dtype in (np.float32, np.float64):
            a = rng.random((1500, 1500)).astype(dtype)
            rate = 2 * 1500**3 / best(lambda a=a: a @ a) / 1e9
            lines.append(f"matrix product, {np.dtype(dtype)}, {rate:.0f} GFLOP/s")
    for shape in ((64, 64), (64,) * 3, (128,) * 3, (256,) * 3):
        field = rng.random(shape, dtype=np.float32)
        n = field.size
        rate = 2.5 * n * np.log2(n) / best(lambda field=field: scipy.fft.rfftn(field)) / 1e9
        lines.append(f"rfftn of SciPy, float32, {'×'.join(map(str, shape))}: {rate:.1f} GFLOP/s")
    return lines


def key_of(library: str, stage: Stage) -> str:
    return " | ".join(part for part in (stage.name, stage.size, library) if part)


def row(library: str, stage: Stage, timing: Timing) -> str:
    aim = "" if stage.aim is None else f"≤ {stage.aim:.2f}" + ("" if timing.ratio <= stage.aim else " missed")
    return (
        f"{stage.name:<38}{stage.size:<22}{library:<8}{1e3 * timing.seconds:9.1f} ms {1e3 * timing.yardstick:9.1f} ms"
        f"  {timing.ratio:6.2f} ({timing.lowest:.2f} to {timing.highest:.2f})  {aim:<14} {stage.floor}"
    )


def report(libraries: list[str], small: int, rounds: int, *, write: bool) -> None:
    lines = [*machine(), "", *ceilings(), ""]
    lines.append(f"{'stage':<38}{'size':<22}{'FFT':<8}{'time':>12} {'floor':>12}  {'ratio':<22}  {'aim':<14} floor")
    print("\n".join(lines), flush=True)
    ratios = {}
    with ExitStack() as rest:
        for library, stage in all_stages(libraries, small, rest):
            timing = paired(stage.work, stage.bare, rounds=rounds, clock=stage.clock)
            lines.append(row(library, stage, timing))
            print(lines[-1], flush=True)
            ratios[key_of(library, stage)] = [round(v, 3) for v in (timing.ratio, timing.lowest, timing.highest)]
    if write:
        RESULTS.mkdir(exist_ok=True)
        kept = RESULTS / "ratios.json"
        known = json.loads(kept.read_text()) if kept.exists() else {}
        of = {"machine": machine()[0]}
        if known.get("machine") != of["machine"]:
            known = {}
        kept.write_text(json.dumps(of | known | ratios, indent=1, ensure_ascii=False) + "\n")
        if small == 1:
            (RESULTS / "report.txt").write_text("\n".join(lines) + "\n")


def check(libraries: list[str], small: int) -> None:
    """Fail where a ratio has become worse. Ratios of another machine are only printed beside those of this one."""
    known = json.loads((RESULTS / "ratios.json").read_text())
    if known["machine"] != machine()[0]:
        print(f"the ratios that are kept are of another machine: {known['machine']}")
    worse = []
    with ExitStack() as rest:
        for library, stage in all_stages(libraries, small, rest):
            kept = known.get(key_of(library, stage))
            if kept is None or stage.clock is not time.thread_time:
                continue
            found = paired(stage.work, stage.bare, rounds=REPETITIONS, clock=stage.clock)
            print(row(library, stage, found), f"kept {kept[0]:.2f}", flush=True)
            if found.lowest > WORSE * max(kept):
                worse.append(f"{key_of(library, stage)}: {found.ratio:.2f}, kept {kept[0]:.2f}")
    if worse and known["machine"] == machine()[0]:
        msg = "ratios to the floor are more than 25% worse in each repetition:\n" + "\n".join(worse)
        raise SystemExit(msg)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", type=int, default=1, help="divide the sizes by this number")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", action="store_true", help="keep the table and the ratios")
    parser.add_argument("--check", action="store_true", help="compare with the ratios that are kept")
    arguments = parser.parse_args()
    libraries = ["scipy", *(["pyfftw"] if installed("pyfftw") else [])]
    if arguments.check:
        check(libraries, arguments.small)
    else:
        report(libraries, arguments.small, arguments.rounds, write=arguments.write)
