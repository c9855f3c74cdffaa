"""Ours, in process: one node here with the client threads, the others as `dqlite-py node` processes.

Also as a member that joins another cluster, for reads on followers.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import dqlite_py
from dqlite_py.cli.demo.processes import NodeProcess, free_addresses
from dqlite_py.cli.remote import Remote
from dqlite_py.errors import Error
from dqlite_py.model import Address
from tests.benchmarks import counters, drivers
from tests.benchmarks.counters import NodeRef
from tests.benchmarks.drivers.base import Cluster
from tests.benchmarks.measures import LOST, Sample
from tests.benchmarks.workloads import BATCH_ROWS, FILL, INSERT, LOOKUP_ROWS, PUT, READ, SCHEMA

DATABASE = "bench"
READY_S = 30.0
PACKAGE = Path(dqlite_py.__file__).parent


def missing() -> str:
    return ""


def missing_python() -> str:
    """The Python implementation of apply, when this tree has one."""
    return (
        "" if list((PACKAGE / "storage").glob("python_engine*")) else "apply has no Python twin in this tree"
    )


def keep_on_one_processor() -> None:
    """This process, AFTER it has started others: threads that take turns at one lock gain nothing from a second one."""
    processor = {max(os.sched_getaffinity(0))}
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), processor)


def open_cluster(folder: Path, nodes: int = 3, join: str = "", name: str = "ours") -> OurCluster:
    return OurCluster(folder, nodes, join, name)


class OurClient:
    """`connect`: called by the thread that uses the client."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect

    @cached_property
    def _connection(self) -> Any:
        return self._connect()

    def insert(self, value: str) -> None:
        self._connection.execute(INSERT, (value,))

    def put(self, key: str, value: str) -> None:
        self._connection.execute(PUT, (key, value))

    def many(self, values: list[str]) -> None:
        self._connection.executemany(INSERT, [(value,) for value in values])

    def atomic(self, values: list[str]) -> None:
        self._connection.execute_atomic([(INSERT, (value,)) for value in values])

    def read(self, number: int) -> None:
        if self._connection.execute(READ, (number,)).fetchone() is None:
            raise AssertionError(f"row {number} is missing")


class OurCluster(Cluster):
    def __init__(self, folder: Path, nodes: int, join: str, name: str) -> None:
        super().__init__(folder, nodes)
        self.name = name
        self._should_lead = not join
        addresses = free_addresses(nodes)
        self._others = [
            NodeProcess(f"node{i + 2}", address, folder / f"node{i + 2}", (addresses[0],))
            for i, address in enumerate(addresses[1:])
        ]
        self._node = dqlite_py.Node(folder / "node1", listen=addresses[0], join=[join] if join else [])
        self._node.start()
        try:
            self._node.wait_ready()
            if join:
                wait_for_voter(self._node)
            else:
                self._start_others()
            if os.environ.get(drivers.ONE_PROCESSOR):
                keep_on_one_processor()
        except BaseException:
            self.close()
            raise

    def _start_others(self) -> None:
        for other in self._others:
            other.start()
        wait_for_voters(self._node, self.node_count)
        connection = self._node.connect(DATABASE, isolation_level=None)
        for sql in SCHEMA:
            connection.execute(sql)
        for _ in range(LOOKUP_ROWS // BATCH_ROWS):
            connection.executemany(FILL, [("x" * 100,)] * BATCH_ROWS)

    def nodes(self) -> list[NodeRef]:
        here = NodeRef("node1", os.getpid(), self._node.status()["is_leader"])
        return [here, *(NodeRef(o.name, o.pid) for o in self._others if o.pid is not None and o.is_running)]

    def measure(self, name: str, clients: int, seconds: float, rate: float | None = None) -> Sample:
        """Also makes sure that it is the leader's process that is measured, and says when it did not stay so."""
        if not self._should_lead:
            return super().measure(name, clients, seconds, rate)
        lead(self._node.status)
        return noted(super().measure(name, clients, seconds, rate), self._node.status())

    def sync_count(self) -> int | None:
        """From the journals of all nodes; SQLite's own, at checkpoints, are not in it."""
        found = [self._node.status(), *(Remote().status(other.address, 2.0) for other in self._others)]
        return journal_syncs(found)

    def client(self, level: str) -> OurClient:
        return OurClient(
            partial(self._node.connect, DATABASE, isolation_level=None, read_level=dqlite_py.ReadLevel(level))
        )

    def close(self) -> None:
        try:
            self._node.stop(hand_over=False)
        finally:
            for other in self._others:
                other.terminate()
            for other in self._others:
                other.wait_stopped()

    # -- asked by groups ----------------------------------------------------------------------------------------

    def address(self) -> str:
        return self._node.address

    def status(self) -> dict[str, Any]:
        return self._node.status()

    def resident_mib(self, field: str = "VmRSS") -> dict[str, float]:
        return {node.name: counters.resident_mib(node.pid, field) for node in self.nodes()}

    def write_rows(self, rows: int, size: int, per_call: int) -> None:
        """Rows by executemany, for groups that grow the database or the log."""
        connection = self._node.connect(DATABASE, isolation_level=None)
        value = ("x" * size,)
        while rows > 0:
            count = min(rows, per_call)
            connection.executemany(INSERT, [value] * count)
            rows -= count

    def grow_log(self, entries: int) -> int:
        """Write until the log's last index has reached `entries`; one entry per call. Returns the last index."""
        connection = self._node.connect(DATABASE, isolation_level=None)
        while True:
            left = entries - int(self._node.status()["last_index"])
            if left <= 0:
                return entries - left
            for _ in range(min(left, 1000)):
                connection.execute(INSERT, ("x",))

    def restart_follower(self) -> float:
        """kill -9 the last follower; seconds from its start until it has applied what was committed then."""
        other = self._others[-1]
        goal = int(self._node.status()["commit_index"])
        other.kill()
        began = time.monotonic()
        other.start()
        while True:
            try:
                status = Remote().status(other.address, 1.0)
            except Error:
                status = {}
            if int(status.get("applied_index", 0)) >= goal:
                return time.monotonic() - began
            if time.monotonic() - began > 20 * READY_S:
                raise TimeoutError(f"the follower has not applied index {goal}: {status}")
            time.sleep(0.01)


def lead(status_of_first: Callable[[], dict[str, Any]]) -> None:
    """Have leadership handed back to the first node when another took it over meanwhile; TimeoutError."""
    deadline = time.monotonic() + READY_S
    while not (status := status_of_first())["is_leader"]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"leadership did not come back within {READY_S:.0f} s: {status['state']}")
        if status["leader_address"]:
            with contextlib.suppress(Error):
                target = {"target": status["node_id"]}
                Remote().change(Address(status["leader_address"]), "transfer", target, 5.0)
        time.sleep(0.1)


def noted(sample: Sample, status: dict[str, Any]) -> Sample:
    """The sample, saying so when the first node does not lead any more."""
    return sample if status["is_leader"] else replace(sample, note=LOST)


def journal_syncs(statuses: list[dict[str, Any]]) -> int | None:
    counts = [status.get("journal_syncs") for status in statuses]
    known = [count for count in counts if isinstance(count, int)]
    return sum(known) if len(known) == len(counts) else None


def wait_for_voters(node: dqlite_py.Node, count: int) -> None:
    _wait(
        node, lambda status: sum(m["role"] == "voter" for m in status["members"]) == count, f"{count} voters"
    )


def wait_for_voter(node: dqlite_py.Node) -> None:
    """Until this node votes, and holds the rows that reads look up."""
    _wait(
        node,
        lambda status: (
            any(m["id"] == status["node_id"] and m["role"] == "voter" for m in status["members"])
            and status["applied_index"] >= status["commit_index"] > 0
            and DATABASE in status["databases"]
        ),
        "this node as a voter",
    )


def _wait(node: dqlite_py.Node, is_met: Any, what: str) -> None:
    deadline = time.monotonic() + READY_S
    while not is_met(status := node.status()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} expected within {READY_S:.0f} s: {status['members']}")
        time.sleep(0.05)
