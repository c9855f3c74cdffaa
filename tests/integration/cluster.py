"""Real node processes on loopback, and blocking calls to them, for the integration tests.

Processes come from cli.demo.processes (they die with the test run); calls go through the peer transport's RPC.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Self

from dqlite_py.cli.demo.processes import NodeProcess, Processes
from dqlite_py.command import encode_unit
from dqlite_py.errors import Error
from dqlite_py.model import Address, NodeId
from dqlite_py.raft.rpc import RpcError
from dqlite_py.raft.transport import PeerTransport
from dqlite_py.wire.handshake import NO_CLUSTER, LocalIdentity

DATABASE = "app"
WAIT_S = 60.0


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> Any:
    """Poll until true; fails with `what` and never waits longer than the bound."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            found = condition()
        except (Error, RpcError, OSError) as error:
            found, last = None, repr(error)
        else:
            last = repr(found)
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what} (last: {last[:300]})")
        time.sleep(0.03)


class MemberCaller:
    """Says that it is a node of the cluster: the methods that nodes have for each other answer."""

    def __init__(self) -> None:
        node_id, nowhere = NodeId(random.randrange(1, 2**63)), Address("127.0.0.1:1")
        self._cluster_id = NO_CLUSTER
        self._transport = PeerTransport(
            identity=lambda: LocalIdentity(self._cluster_id, node_id),
            listen=nowhere,
            advertise=nowhere,
            on_message=lambda _sender, _message: None,
            accept_sender=lambda _sender: False,
        )

    async def call(self, target: Address, method: str, body: Any, timeout_s: float) -> Any:
        if self._cluster_id == NO_CLUSTER:
            status = await self._transport.call(target, "status", {}, timeout_s)
            self._cluster_id = bytes.fromhex(status["cluster_id"])
            self._transport.identity_changed()
        return await self._transport.call(target, method, body, timeout_s)

    async def stop(self) -> None:
        await self._transport.stop()


class Client:
    """Blocking RPC calls from any thread, over one loop thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="test-client")
        self._thread.start()
        self._caller = self._run(self._open())

    async def _open(self) -> MemberCaller:
        return MemberCaller()

    def _run(self, coroutine: Coroutine[Any, Any, Any], timeout_s: float = 30.0) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout_s)

    def call(self, address: str, method: str, body: Any = None, timeout_s: float = 10.0) -> Any:
        return self._run(
            self._caller.call(Address(address), method, {} if body is None else body, timeout_s),
            timeout_s + 5,
        )

    def write(self, address: str, sql: str, *params: Any, timeout_s: float = 10.0) -> Any:
        unit = encode_unit([(sql, list(params))])
        body = {"database": DATABASE, "unit": unit, "timeout_s": timeout_s}
        return self.call(address, "sql.write", body, timeout_s + 1)

    def read(
        self, address: str, sql: str, *params: Any, level: str = "linearizable"
    ) -> list[tuple[Any, ...]]:
        body = {"database": DATABASE, "sql": sql, "params": list(params), "level": level, "timeout_s": 10.0}
        return [tuple(row) for row in self.call(address, "sql.read", body, 11.0)[1]]

    def drop_connections(self) -> None:
        self._run(self._caller.stop())
        self._caller = self._run(self._open())

    def close(self) -> None:
        self._run(self._caller.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Cluster:
    """`count` node processes, started and formed; a context that leaves nothing running."""

    def __init__(self, folder: Path, count: int = 3) -> None:
        self.processes = Processes(folder, count)
        self.client = Client()

    def __enter__(self) -> Self:
        try:
            self.processes.start_all()
            self.wait_formed()
            self.client.call(self.nodes[0].address, "sql.open", {"database": DATABASE})
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.processes.__exit__(None, None, None)
        self.client.close()

    @property
    def nodes(self) -> list[NodeProcess]:
        return self.processes.nodes

    @property
    def running(self) -> list[NodeProcess]:
        return [node for node in self.nodes if node.is_running]

    def status(self, node: NodeProcess) -> dict[str, Any]:
        status: dict[str, Any] = self.client.call(node.address, "status", timeout_s=2.0)
        return status

    def leader(self) -> NodeProcess:
        """The node that leads, waited for."""

        def find() -> NodeProcess | None:
            for node in self.running:
                try:
                    if self.status(node)["is_leader"]:
                        return node
                except (Error, RpcError):
                    continue
            return None

        found: NodeProcess = wait_until(find, "a leader")
        return found

    def followers(self) -> list[NodeProcess]:
        leader = self.leader()
        return [node for node in self.running if node is not leader]

    def wait_formed(self) -> None:
        """Every running node is a voter and knows so."""
        for node in self.running:
            wait_until(
                lambda node=node: self._is_formed(node), f"{node.name} forms the cluster: {node.log_tail()}"
            )

    def _is_formed(self, node: NodeProcess) -> bool:
        status = self.status(node)
        voters = [m for m in status["members"] if m["role"] == "voter"]
        return len(voters) == len(self.nodes) and status["leader_id"] != 0

    def settled(self) -> list[dict[str, Any]]:
        """Wait until all running nodes have applied the same; their state hashes, which the caller compares."""

        def same() -> list[dict[str, Any]] | None:
            states = [self.client.call(node.address, "state.hash") for node in self.running]
            return states if len({state["applied_index"] for state in states}) == 1 else None

        found: list[dict[str, Any]] = wait_until(same, "all nodes applied the same entries")
        return found

    def check_equal(self) -> None:
        """State hashes and contents are equal on all running nodes."""
        states = self.settled()
        assert all(state == states[0] for state in states), states
