"""Through dqlite's protocol, by one unmodified client (go-dqlite, tests/foreign/go): our nodes beside stock dqlite.

Three processes each, in turns. Also what idle connections cost a node, and what a new voter costs the writers.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.counters import resident_mib
from tests.benchmarks.figures import Figure
from tests.benchmarks.measures import percentile
from tests.foreign import clusters, gotool
from tests.foreign.clusters import ForeignCluster

DATABASE = "bench"
VALUE_BYTES = 1024
WARM_S = 1
OPENERS = {"dqlite": clusters.stock, "ours": clusters.ours}
CLIENTS = (1, 16)
WRITES_RATIO_MIN, P50_RATIO_MAX = 10.0, 1.0
IDLE_COUNT, IDLE_MIB_MAX = 5000, 200.0
P99_RATIO_MAX = 2.0
LOAD_S = 7200.0


def missing() -> str:
    """Why this cannot run here; empty when it can."""
    try:
        gotool.program()
    except gotool.NotAvailable as error:
        return str(error)
    return clusters.missing_stock()


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of the client measured. `ended_s`: when each success ended, seconds since 1970."""

    seconds: float
    ms: list[float]
    ended_s: list[float]
    errors: dict[str, int]

    @property
    def rate(self) -> float:
        return len(self.ms) / self.seconds

    @property
    def p50(self) -> float:
        return percentile(self.ms, 0.5)

    def p99_within(self, start_s: float, end_s: float) -> float:
        chosen = [ms for ms, at_s in zip(self.ms, self.ended_s, strict=True) if start_s <= at_s < end_s]
        return percentile(chosen, 0.99)


def _command(cluster: ForeignCluster, scenario: str, *arguments: object) -> list[str]:
    return [str(gotool.program()), scenario, cluster.servers, DATABASE, *map(str, arguments)]


def _loaded(output: str, seconds: float) -> Load:
    found = json.loads(output.splitlines()[0])
    return Load(seconds, found["ms"], found["at"], found["errors"])


def load(cluster: ForeignCluster, clients: int, seconds: int) -> Load:
    """Key-value upserts of 1 KiB in a closed loop. CalledProcessError when the client fails."""
    command = _command(cluster, "bench", clients, seconds, WARM_S, VALUE_BYTES)
    ran = subprocess.run(command, capture_output=True, text=True, timeout=LOAD_S, check=True)
    return _loaded(ran.stdout, seconds)


def turn(name: str, folder: Path, seconds: int) -> dict[int, Load]:
    """A new cluster, measured with each number of clients."""
    folder.mkdir(parents=True)
    with OPENERS[name](folder) as cluster:
        return {clients: load(cluster, clients, seconds) for clients in CLIENTS}


@contextmanager
def idle(cluster: ForeignCluster, count: int) -> Iterator[None]:
    """So many connections with an open database to the leader."""
    command = _command(cluster, "idle", count)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{count} connections could not be opened")
        yield
        process.communicate("go on\n")


def idle_mib(folder: Path, count: int = IDLE_COUNT) -> Figure:
    """Resident memory of the leader that holds them."""
    folder.mkdir(parents=True)
    with clusters.ours(folder) as cluster:
        before_mib = resident_mib(cluster.leader_pid())
        with idle(cluster, count):
            found_mib = resident_mib(cluster.leader_pid())
        note = f"before: {before_mib:.0f} MiB"
    return Figure(
        f"resident memory with {count:,} idle connections", found_mib, "MiB", IDLE_MIB_MAX, True, note
    )


def new_voter(folder: Path, mib: int, seconds: int = 15, clients: int = 16) -> list[Figure]:
    """An empty node becomes a voter of a cluster with so large a database, under write load."""
    folder.mkdir(parents=True)
    with clusters.ours(folder) as cluster:
        fill = _command(cluster, "fill", mib)
        subprocess.run(fill, check=True, capture_output=True, timeout=LOAD_S)
        cluster.wait_settled()
        command = _command(cluster, "bench", clients, int(LOAD_S), WARM_S, VALUE_BYTES)
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            time.sleep(WARM_S + seconds)
            began_s = time.time()
            cluster.join(folder / "joiner")
            cluster.wait_settled(LOAD_S)
            ended_s = time.time()
            output, _errors = process.communicate("enough\n")
    found = _loaded(output, seconds)
    before, during = found.p99_within(began_s - seconds, began_s), found.p99_within(began_s, ended_s)
    note = f"{before:.1f} ms before, {during:.1f} ms while {mib:,} MiB were caught up in {ended_s - began_s:.0f} s"
    return [
        Figure(
            "writers' p99 while a voter is added, to before", during / before, "x", P99_RATIO_MAX, True, note
        )
    ]


def figures(turns: dict[str, list[dict[int, Load]]]) -> list[Figure]:
    """Medians over the rounds."""

    def median(name: str, clients: int, field: str) -> float:
        return percentile([getattr(one[clients], field) for one in turns[name]], 0.5)

    def told(name: str, clients: int) -> str:
        errors = sum(sum(one[clients].errors.values()) for one in turns[name])
        rate, p50 = median(name, clients, "rate"), median(name, clients, "p50")
        return f"{name}: {rate:,.0f}/s, p50 {p50:.2f} ms, {errors:,} errors"

    many, lone = CLIENTS[1], CLIENTS[0]
    return [
        Figure(
            f"protocol, {many} clients: successful writes to dqlite's",
            median("ours", many, "rate") / median("dqlite", many, "rate"),
            "x",
            WRITES_RATIO_MIN,
            note=f"{told('ours', many)}; {told('dqlite', many)}",
        ),
        Figure(
            "protocol, a lone client: p50 to dqlite's",
            median("ours", lone, "p50") / median("dqlite", lone, "p50"),
            "x",
            P50_RATIO_MAX,
            True,
            f"{told('ours', lone)}; {told('dqlite', lone)}",
        ),
    ]
