"""Facts about the machine, and the two yardsticks: fdatasync and SQLite alone."""

from __future__ import annotations

import datetime
import importlib.util
import os
import platform
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import apsw

from tests.benchmarks.counters import fdatasync_times_ms
from tests.benchmarks.figures import Figure
from tests.benchmarks.measures import percentile

SYNCS = 400
PLAIN_S = 3.0
FDATASYNC_MS_MAX = 0.3


def facts(folder: Path) -> dict[str, Any]:
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "kernel": platform.release(),
        "filesystem": _filesystem(folder),
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
        "event loop": _loop(),
        "dqlite": _debian_version("libdqlite0"),
        "commit": _commit(),
        "load before": f"{os.getloadavg()[0]:.1f}",
    }


def doubts(known: dict[str, Any], figures: list[Figure]) -> list[str]:
    """Why the figures may not be comparable with the targets."""
    found = []
    if float(known["load before"]) > 0.5:
        found.append(
            f"the machine was busy before the run (load {known['load before']}): the figures are too low"
        )
    for figure in figures:
        if figure.name == "fdatasync, median" and figure.value > FDATASYNC_MS_MAX:
            found.append(
                f"the targets suppose an fdatasync of 0.15 ms; here it takes {figure.value:.2f} ms (see --dir)"
            )
    return found


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _filesystem(folder: Path) -> str:
    found = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True, check=True)
    return found.stdout.strip()


def _loop() -> str:
    """What a node's loop runs on here, by default."""
    chosen = os.environ.get("DQLITE_PY_LOOP")
    if chosen:
        return chosen
    return "uvloop" if importlib.util.find_spec("uvloop") else "asyncio"


def _debian_version(package: str) -> str:
    if shutil.which("dpkg-query") is None:
        return "unknown"
    command = ["dpkg-query", "--show", "--showformat=${Version}", package]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "not installed by Debian"


def _commit() -> str:
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def fdatasync(folder: Path) -> list[Figure]:
    """See counters.fdatasync_times_ms."""
    times_ms = fdatasync_times_ms(folder, SYNCS)
    return [
        Figure("fdatasync, median", percentile(times_ms, 0.5), "ms", note="512 bytes, preallocated"),
        Figure("fdatasync, p99", percentile(times_ms, 0.99), "ms"),
    ]


def plain_sqlite(folder: Path, seconds: float = PLAIN_S) -> list[Figure]:
    """One process, no replication: WAL and synchronous=FULL, one row per transaction."""
    db = apsw.Connection(str(folder / "plain.db"))
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, value TEXT)")
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        db.execute("INSERT INTO t(value) VALUES (?)", ("x" * 100,))
        count += 1
    rate = count / (time.perf_counter() - started)
    db.close()
    return [Figure("SQLite alone, FULL, one writer", rate, "rows/s", note="no replication; for the ratio")]
