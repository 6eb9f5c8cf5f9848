"""Peak memory of the processes of a cluster."""

import threading

import psutil
from distributed import Client


class PeakMemory(threading.Thread):
    """Peak resident set of each worker, sampled from outside, and the bytes that dask spilled."""

    def __init__(self, client: Client) -> None:
        super().__init__(daemon=True)
        self.client, self.done = client, threading.Event()
        pids = client.run(lambda: __import__("os").getpid())
        self.processes = {address: psutil.Process(pid) for address, pid in pids.items()}
        self.peak = dict.fromkeys(pids, 0)

    def run(self) -> None:
        while not self.done.wait(0.02):
            for address, process in self.processes.items():
                self.peak[address] = max(self.peak[address], process.memory_info().rss)

    def close(self) -> tuple[dict[str, int], int]:
        self.done.set()
        self.join()
        spilled = self.client.run(
            lambda dask_worker: (
                dask_worker.state.spilled_bytes_total
                if hasattr(dask_worker.state, "spilled_bytes_total")
                else len(getattr(dask_worker.data, "slow", None) or ())
            )
        )
        return self.peak, sum(spilled.values())
