"""A node with a 1 GiB database: resident memory, and restart after kill -9 with a full log to replay."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from dqlite_py.cli.demo.processes import Processes
from dqlite_py.client.caller import open_caller
from dqlite_py.command import encode_unit
from dqlite_py.errors import Error
from dqlite_py.limits import MIB
from dqlite_py.raft.rpc import RpcError
from tests.benchmarks.figures import Figure

ROW_BYTES = 64 * 1024
ROWS_PER_UNIT = 64
TIMEOUT_S = 60.0


def big(folder: Path, size_mib: int, entries: int) -> list[Figure]:
    return asyncio.run(_big(folder, size_mib, entries))


async def _big(folder: Path, size_mib: int, entries: int) -> list[Figure]:
    with Processes(folder, 1) as processes:
        node = processes.nodes[0]
        node.start()
        async with open_caller() as caller:

            async def call(method: str, body: Any) -> Any:
                return await caller.call(node.address, method, body, TIMEOUT_S)

            async def write(sql: str, rows: list[list[Any]]) -> None:
                unit = encode_unit([(sql, row) for row in rows])
                await call("sql.write", {"database": "big", "unit": unit, "timeout_s": TIMEOUT_S - 1})

            await _until_ready(call)
            await call("sql.open", {"database": "big"})
            await write("CREATE TABLE blobs(id INTEGER PRIMARY KEY, data BLOB)", [[]])
            await write("CREATE TABLE small(id INTEGER PRIMARY KEY, value TEXT)", [[]])
            for _ in range(size_mib * MIB // (ROW_BYTES * ROWS_PER_UNIT)):
                await write(
                    "INSERT INTO blobs(data) VALUES (?)",
                    [[os.urandom(ROW_BYTES)] for _ in range(ROWS_PER_UNIT)],
                )
            peak_mib = _resident_mib(node.pid, "VmHWM")
            before = (await call("status", {}))["applied_index"]
            await _small_entries(write, entries)
            resident_mib = _resident_mib(node.pid, "VmRSS")
            goal = (await call("status", {}))["applied_index"]
            node.kill()
            started = time.monotonic()
            node.start()
            await _until_ready(call)
            await _until_applied(call, goal)
            took_s = time.monotonic() - started
            on_disk_mib = sum(p.stat().st_size for p in node.folder.rglob("big.db*")) / MIB
            return [
                Figure(
                    f"{size_mib:,} MiB database, resident",
                    resident_mib,
                    "MiB",
                    250,
                    True,
                    f"files {on_disk_mib:,.0f} MiB",
                ),
                Figure(
                    f"{size_mib:,} MiB database, peak while loading", peak_mib, "MiB", note="units of 4 MiB"
                ),
                Figure(
                    "restart after kill -9",
                    took_s,
                    "s",
                    10,
                    True,
                    f"{goal - before:,} entries since the load",
                ),
                Figure("resident after the restart", _resident_mib(node.pid, "VmRSS"), "MiB", 250, True),
            ]


async def _small_entries(write: Any, count: int) -> None:
    """Single-row writes one after the other: group commit would put those of one moment into one entry."""
    for _ in range(count):
        await write("INSERT INTO small(value) VALUES (?)", [["x" * 100]])


async def _until_ready(call: Any) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            if (await call("status", {}))["leader_id"]:
                return
        except (Error, RpcError):
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.02)


async def _until_applied(call: Any, goal: int) -> None:
    deadline = time.monotonic() + 10 * TIMEOUT_S
    while (await call("status", {}))["applied_index"] < goal:
        if time.monotonic() > deadline:
            raise TimeoutError(f"log index {goal} was not applied in time")
        await asyncio.sleep(0.02)


def _resident_mib(pid: int | None, field: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise KeyError(field)
