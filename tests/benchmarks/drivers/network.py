"""Ours over the network: three `dqlite-py node` processes; client processes that call the leader's RPC methods.

Clients are asyncio tasks; each process has up to CONNECTIONS_MAX connections that its tasks share.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from dqlite_py.cli.demo.processes import Processes
from dqlite_py.cli.remote import Remote
from dqlite_py.client.caller import ClusterCaller, open_caller
from dqlite_py.command import encode_unit
from dqlite_py.errors import Error
from dqlite_py.model import Address
from tests.benchmarks import asyncload, clients
from tests.benchmarks.counters import NodeRef
from tests.benchmarks.drivers import ours
from tests.benchmarks.drivers.base import Cluster, Meter
from tests.benchmarks.measures import Sample, Tally, Window
from tests.benchmarks.workloads import (
    BATCH_ROWS,
    FILL,
    INSERT,
    LOOKUP_ROWS,
    PUT,
    READ,
    SCHEMA,
    Workload,
    workload,
)

DATABASE = "bench"
TIMEOUT_S = 10.0
READY_S = 30.0
CONNECTIONS_MAX = 8
Wait = Callable[[], Window]


def missing() -> str:
    return ""


missing_python = ours.missing_python


def open_cluster(folder: Path, nodes: int = 3, name: str = "ours-network") -> NetworkCluster:
    return NetworkCluster(folder, nodes, name)


class NetworkClient:
    """Every method is a coroutine."""

    def __init__(self, caller: ClusterCaller, address: Address, level: str) -> None:
        self._caller = caller
        self._address = address
        self._level = level

    async def write(self, statements: list[tuple[str, tuple[Any, ...]]]) -> None:
        body = {"database": DATABASE, "unit": encode_unit(statements), "timeout_s": TIMEOUT_S}
        await self._caller.call(self._address, "sql.write", body, TIMEOUT_S + 1)

    async def insert(self, value: str) -> None:
        await self.write([(INSERT, (value,))])

    async def put(self, key: str, value: str) -> None:
        await self.write([(PUT, (key, value))])

    async def many(self, values: list[str]) -> None:
        await self.write([(INSERT, (value,)) for value in values])

    atomic = many

    async def read(self, number: int) -> None:
        body = {"database": DATABASE, "sql": READ, "params": [number], "level": self._level}
        _columns, rows = await self._caller.call(self._address, "sql.read", body, TIMEOUT_S + 1)
        if not rows:
            raise AssertionError(f"row {number} is missing")


class NetworkCluster(Cluster):
    note = f"clients: asyncio tasks in other processes, at most {CONNECTIONS_MAX} connections each, to the leader"

    def __init__(self, folder: Path, nodes: int, name: str) -> None:
        super().__init__(folder, nodes)
        self.name = name
        self._processes = Processes(folder, nodes)
        try:
            self._processes.start_all()
            asyncio.run(self._prepare())
        except BaseException:
            self.close()
            raise

    async def _prepare(self) -> None:
        await asyncio.to_thread(self._wait_for_voters)
        async with open_caller() as caller:
            client = NetworkClient(caller, self._leader(), "linearizable")
            await caller.call(self._leader(), "sql.open", {"database": DATABASE}, TIMEOUT_S)
            for sql in SCHEMA:
                await client.write([(sql, ())])
            for _ in range(LOOKUP_ROWS // BATCH_ROWS):
                await client.write([(FILL, ("x" * 100,))] * BATCH_ROWS)

    def _leader(self) -> Address:
        return self._processes.nodes[0].address

    def _wait_for_voters(self) -> None:
        deadline = time.monotonic() + READY_S
        while True:
            try:
                status = Remote().status(self._leader(), 1.0)
                if sum(m["role"] == "voter" for m in status["members"]) == self.node_count:
                    return
            except Error:
                status = {}
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.node_count} voters expected within {READY_S:.0f} s: {status}")
            time.sleep(0.1)

    def nodes(self) -> list[NodeRef]:
        first = self._processes.nodes[0]
        return [NodeRef(n.name, n.pid, n is first) for n in self._processes.nodes if n.pid is not None]

    def sync_count(self) -> int | None:
        return ours.journal_syncs([Remote().status(node.address, 2.0) for node in self._processes.nodes])

    def measure(self, name: str, clients: int, seconds: float, rate: float | None = None) -> Sample:
        """On the first node, which must lead."""
        ours.lead(self._status)
        return ours.noted(super().measure(name, clients, seconds, rate), self._status())

    def _status(self) -> dict[str, Any]:
        return Remote().status(self._leader(), 2.0)

    def run(
        self, chosen: Workload, count: int, seconds: float, rate: float | None, meter: Meter
    ) -> tuple[Tally, Window]:
        arguments = {"address": self._leader(), "name": chosen.name}
        return clients.run_processes(_client_process, arguments, count, seconds, rate, meter.at_edge)

    def close(self) -> None:
        self._processes.__exit__(None, None, None)


def _client_process(
    address: Address, name: str, clients: int, first: int, wait: Wait, rate: float | None
) -> Tally:
    return asyncio.run(_clients(address, workload(name), clients, first, wait, rate))


async def _clients(
    address: Address, chosen: Workload, count: int, first: int, wait: Wait, rate: float | None
) -> Tally:
    async with AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(open_caller()) for _ in range(min(count, CONNECTIONS_MAX))]
        for caller in callers:
            await caller.call(address, "status", {}, TIMEOUT_S)
        operations = [
            chosen.make(
                NetworkClient(callers[number % len(callers)], address, chosen.level),
                random.Random(first + number),
            )
            for number in range(count)
        ]
        return await asyncload.run_tasks(operations, wait(), rate)
