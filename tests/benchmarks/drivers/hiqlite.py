"""hiqlite, measured by the `bench` program of its examples (as `hiqlite-bench` on PATH): three nodes in one process.

It has no SQL interface for programs in other languages. The program prints, for its single-row inserts, "N single
INSERTs with concurrency C took:" and "MS ms -> R inserts / s"; it tells no latencies, and reads ../../hiqlite.toml.
By default hiqlite syncs its log every 200 ms and acknowledges before; HIQLITE_TOML names a file to use instead.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.benchmarks import counters
from tests.benchmarks.children import die_with_parent
from tests.benchmarks.drivers.base import Cluster, NotSupported
from tests.benchmarks.measures import Sample

PROGRAM = "hiqlite-bench"
ROWS_PER_S = 10_000  # a guess: the program is given rows, not seconds
TIMEOUT_S = 60.0
CONFIG = """[hiqlite]
node_id = 1
nodes = ["1 localhost:8100 localhost:8200"]
secret_raft = "SuperSecureSecret1337"
secret_api = "SuperSecureSecret1337"
"""


def missing() -> str:
    return "" if shutil.which(PROGRAM) else f"{PROGRAM} (examples/bench of hiqlite) is not on PATH"


def open_cluster(folder: Path, nodes: int = 3, name: str = "hiqlite") -> HiqliteCluster:
    return HiqliteCluster(folder, nodes, name)


def parse_inserts(text: str) -> tuple[int, float]:
    """(rows, seconds) of the single-row inserts; ValueError when the text does not tell."""
    found = re.search(r"(\d+) single INSERTs with concurrency \d+ took:\s*(\d+) ms", text)
    if found is None or int(found[2]) == 0:
        raise ValueError(f"no time of single INSERTs in the output: {text[-300:]!r}")
    return int(found[1]), int(found[2]) / 1000


class HiqliteCluster(Cluster):
    workloads = frozenset({"insert"})
    note = "its own bench program: three nodes in one process, small rows, acknowledged before the sync by default"

    def __init__(self, folder: Path, nodes: int, name: str) -> None:
        super().__init__(folder, nodes)
        self.name = name

    def measure(self, name: str, clients: int, seconds: float, rate: float | None = None) -> Sample:
        if not self.supports(name) or ":" in name or rate is not None:
            raise NotSupported(f"{PROGRAM} cannot run {name}")
        place = self.folder / "a" / "b"
        place.mkdir(parents=True, exist_ok=True)
        given = os.environ.get("HIQLITE_TOML")
        (self.folder / "hiqlite.toml").write_text(Path(given).read_text() if given else CONFIG)
        rows = max(clients, int(seconds * ROWS_PER_S))
        fdatasync_ms = counters.fdatasync_ms(self.folder)
        found = subprocess.run(
            [PROGRAM, "cluster", "--concurrency", str(clients), "--rows", str(rows)],
            cwd=place,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            preexec_fn=die_with_parent,
        )
        done, took_s = parse_inserts(found.stdout + found.stderr)
        return Sample(
            driver=self.name,
            workload=name,
            clients=clients,
            nodes=self.node_count,
            seconds=took_s,
            rate=done / took_s,
            fdatasync_ms=fdatasync_ms,
            note=self.note,
        )
