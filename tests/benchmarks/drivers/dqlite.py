"""dqlite, measured by its own `dqlite-benchmark` (Debian: go-dqlite): three node processes, the workers in the first.

The tool writes a file per worker: `n`, `n_err`, averages, then lines "timestamp latency" under `measurements` and
"timestamp text" under `errors`. Successes and errors are counted from those lines; a worker that is told "database is
locked" tries something else at once, and its failed attempts cost it no latency in the tool's own figures either.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import subprocess
import time
from array import array
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from dqlite_py.cli.demo.processes import free_addresses
from tests.benchmarks import counters
from tests.benchmarks.children import die_with_parent
from tests.benchmarks.counters import NodeRef, Used
from tests.benchmarks.drivers.base import Cluster, Meter, NotSupported
from tests.benchmarks.measures import BUSY, Sample, Tally, Window
from tests.benchmarks.workloads import KEY_BYTES, Workload

PROGRAM = "dqlite-benchmark"
WORKLOADS = {  # ours: the tool's name, bytes of a value
    "kv100": ("kvwrite", 100),
    "kv1k": ("kvwrite", 1024),
    "kvreadwrite": ("kvreadwrite", 1024),
}
READWRITE = Workload(
    "kvreadwrite", "dqlite-benchmark's own mix of reads and writes", lambda _c, _r: lambda: None
)
START_S = 60.0  # until the driver's node has seen the others
POLL_S = 0.05


def missing() -> str:
    return "" if shutil.which(PROGRAM) else f"{PROGRAM} is not on PATH (Debian: apt-get install go-dqlite)"


def open_cluster(folder: Path, nodes: int = 3, name: str = "dqlite") -> DqliteCluster:
    return DqliteCluster(folder, nodes, name)


@dataclass(frozen=True, slots=True)
class WorkerFile:
    """One worker's results; times in seconds since 1970."""

    done: list[tuple[float, float]]  # (when, ms)
    errors: list[tuple[float, str]]


def parse_worker(text: str) -> WorkerFile:
    """Raises ValueError for a line that fits nowhere."""
    done: list[tuple[float, float]] = []
    errors: list[tuple[float, str]] = []
    section = "head"
    for line in text.splitlines():
        word = line.strip()
        if not word:
            continue
        if word.startswith("measurements"):
            section = "measurements"
        elif word.startswith("errors"):
            section = "errors"
        elif section != "head":
            stamp, _, rest = word.partition(" ")
            when_s = int(stamp) / 1e9
            if section == "measurements":
                done.append((when_s, float(rest)))
            else:
                errors.append((when_s, rest))
    return WorkerFile(done, errors)


def window_of(workers: list[WorkerFile], seconds: float) -> Window:
    """The last `seconds` before the last event, wall clock: what came before is warm-up. ValueError of nothing."""
    last_s = max((when for w in workers for when, _what in (*w.done, *w.errors)), default=None)
    if last_s is None:
        raise ValueError(f"{PROGRAM} left no results")
    return Window(last_s - seconds, last_s)


def tally_of(workers: list[WorkerFile], window: Window) -> Tally:
    """What happened inside the window."""
    ms = array("d")
    kinds: Counter[str] = Counter()
    for worker in workers:
        ms.extend(latency for when, latency in worker.done if window.holds(when))
        kinds.update(
            BUSY if "locked" in text or "busy" in text.lower() else text[:60]
            for when, text in worker.errors
            if window.holds(when)
        )
    return Tally(ms, len(ms), kinds)


class DqliteCluster(Cluster):
    """A cluster per measurement: the tool runs one workload and ends."""

    note = "dqlite-benchmark's own clients, in the leader's process"
    workloads = frozenset(WORKLOADS)

    def __init__(self, folder: Path, nodes: int, name: str) -> None:
        super().__init__(folder, nodes)
        self.name = name
        self._runs = 0
        self._processes: list[subprocess.Popen[bytes]] = []

    def measure(self, name: str, clients: int, seconds: float, rate: float | None = None) -> Sample:
        if name not in WORKLOADS or rate is not None:
            raise NotSupported(f"{PROGRAM} cannot run {name}{' at a fixed rate' if rate is not None else ''}")
        self._runs += 1
        folder = self.folder / f"run{self._runs}"
        folder.mkdir()
        fdatasync_ms = counters.fdatasync_ms(self.folder)
        try:
            return self._measure(folder, name, clients, seconds, fdatasync_ms)
        finally:
            self.close()
            shutil.rmtree(folder, ignore_errors=True)

    def _measure(self, folder: Path, name: str, clients: int, seconds: float, fdatasync_ms: float) -> Sample:
        tool_workload, size = WORKLOADS[name]
        addresses = free_addresses(self.node_count)
        duration_s = math.ceil(seconds) + 1  # whole seconds; the first is warm-up
        self._start(
            folder,
            *("--db", addresses[0], "--dir", str(folder / "1"), "--driver", "--cluster", ",".join(addresses)),
            *("--workload", tool_workload, "--workers", str(clients), "--duration", str(duration_s)),
            *("--key-size", str(KEY_BYTES), "--value-size", str(size)),
        )
        time.sleep(0.5)
        for number, address in enumerate(addresses[1:], 2):
            self._start(folder, "--db", address, "--dir", str(folder / str(number)), "--join", addresses[0])
        nodes = [NodeRef(f"node{i + 1}", p.pid, i == 0) for i, p in enumerate(self._processes)]
        meter = Meter(
            nodes, folder=self.folder
        )  # it writes with O_DSYNC and asynchronous I/O: no calls to count
        readings = self._watch(meter, duration_s)
        if self._processes[0].returncode != 0:
            raise RuntimeError(f"{PROGRAM} failed: {_tail(folder / 'output')}")
        workers = [parse_worker(path.read_text()) for path in (folder / "1").glob("*/results/*")]
        window = window_of(workers, seconds)
        for edge_s in (window.start_s, window.end_s):
            meter.add(min(readings, key=lambda reading: abs(reading[0] - edge_s))[1])
        tally = tally_of(workers, window)
        chosen = replace(READWRITE, name=name)
        return self.sample(chosen, clients, tally, window, meter, None, fdatasync_ms)

    def _start(self, folder: Path, *arguments: str) -> None:
        with (folder / "output").open("ab") as output:
            self._processes.append(
                subprocess.Popen(
                    [PROGRAM, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    preexec_fn=die_with_parent,
                )
            )

    def _watch(self, meter: Meter, duration_s: float) -> list[tuple[float, dict[int, Used]]]:
        """What the nodes had used, every POLL_S with the wall clock, until the driver's node ends."""
        driver = self._processes[0]
        deadline = time.monotonic() + START_S + duration_s
        readings = []
        while driver.poll() is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{PROGRAM} did not end within {START_S + duration_s:.0f} s")
            with contextlib.suppress(OSError):  # a node that ends at this moment
                readings.append((time.time(), meter.read()))
            time.sleep(POLL_S)
        return readings

    def close(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(3)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes = []


def _tail(path: Path) -> str:
    return path.read_text(errors="replace")[-300:].strip()
