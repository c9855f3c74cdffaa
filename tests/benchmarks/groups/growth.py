"""How speed and memory change as something grows: database, log, nodes, values; and memory over millions of rows."""

from __future__ import annotations

import shutil
import time

from dqlite_py.limits import MIB
from tests.benchmarks.session import Session

ROW_BYTES = 16_384
ROWS_PER_CALL = 64
DISK_FACTOR = 5  # three nodes with database and write-ahead log each, and the journals
GROW_S = 1800.0
MEMORY_POINTS = 60
MEMORY_BATCH = 1000


def nodes(session: Session) -> None:
    for count in session.effort.node_counts:
        with session.tolerant(f"nodes: {count}"), session.cluster("ours", nodes=count) as host:
            for writers in (1, 64):
                session.measure(
                    host,
                    "nodes",
                    "insert",
                    writers,
                    seconds=session.effort.short_s,
                    x=count,
                    series=f"{writers} writers",
                )


def values(session: Session) -> None:
    with session.tolerant("values"), session.cluster("ours") as host:
        for size in session.effort.value_bytes:
            for writers in (1, 16):
                session.measure(
                    host,
                    "values",
                    f"insert:{size}",
                    writers,
                    seconds=session.effort.short_s,
                    x=size,
                    series=f"{writers} writers",
                )


def database(session: Session) -> None:
    """Fill by steps; at each, one writer, 64 writers and reads, and the leader's resident memory."""
    effort, at_mib = session.effort, 0
    with session.tolerant("database"), session.cluster("ours") as host:
        for mib in effort.database_mib:
            free_mib = shutil.disk_usage(session.folder).free / MIB
            if free_mib < (mib - at_mib) * DISK_FACTOR + 1024:
                session.failures.append(
                    f"database: {mib:,} MiB left out: only {free_mib:,.0f} MiB of disk free"
                )
                return
            session.say(f"database: growing to {mib:,} MiB")
            rows = (mib - at_mib) * MIB // ROW_BYTES
            host.call("write_rows", rows, ROW_BYTES, ROWS_PER_CALL, timeout_s=GROW_S)
            at_mib = mib
            seconds = effort.short_s
            for workload, clients in (("insert", 1), ("insert", 64), ("read-stale", 1)):
                series = f"{workload}, {clients} clients"
                session.measure(host, "database", workload, clients, seconds=seconds, x=mib, series=series)
            for name, resident in host.call("resident_mib").items():
                session.curve(f"database memory|{name}", mib, resident)


def log_length(session: Session) -> None:
    """Entries in the log, one per write; at each step one writer's latency and a follower's restart after kill -9."""
    with session.tolerant("log"), session.cluster("ours") as host:
        for entries in session.effort.log_entries:
            session.say(f"log: growing to {entries:,} entries")
            last = host.call("grow_log", entries, timeout_s=GROW_S)
            session.measure(host, "log", "insert", 1, seconds=session.effort.short_s, x=last)
            restart_s = host.call("restart_follower", timeout_s=GROW_S)
            session.curve("log restart|follower", last, restart_s)
            status = host.call("status")
            session.curve("log bytes|journal of the leader, MiB", last, status["journal_bytes"] / MIB)


def memory(session: Session) -> None:
    """Resident size of every node while rows are written, 1,000 per call, then single rows by 64 writers."""
    rows = session.effort.memory_rows
    free_mib = shutil.disk_usage(session.folder).free / MIB
    needed_mib = rows * 150 * DISK_FACTOR / MIB + 1024
    if free_mib < needed_mib:
        session.failures.append(
            f"memory: {rows:,} rows need {needed_mib:,.0f} MiB of disk, {free_mib:,.0f} free"
        )
        return
    step = max(MEMORY_BATCH, rows // MEMORY_POINTS // MEMORY_BATCH * MEMORY_BATCH)
    with session.tolerant("memory"), session.cluster("ours") as host:
        written, began = 0, time.monotonic()
        while written < rows:
            host.call("write_rows", step, 100, MEMORY_BATCH, timeout_s=GROW_S)
            written += step
            if written * 10 // rows > (written - step) * 10 // rows:
                session.say(f"memory: {written:,} of {rows:,} rows")
            for name, resident in host.call("resident_mib").items():
                session.curve(f"memory|{name}", written, resident)
            for name, anonymous in host.call("resident_mib", "RssAnon").items():
                session.curve(f"memory without files|{name}", written, anonymous)
        session.curve("memory rate|rows/s", written, written / (time.monotonic() - began))
        session.measure(host, "memory", "insert", 64)
        for name, resident in host.call("resident_mib").items():
            session.curve(f"memory after single rows|{name}", written, resident)
