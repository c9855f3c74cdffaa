"""Calls of a program that is no member: whose cluster it belongs to, and what it may send."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from dqlite_py.client.caller import open_caller
from dqlite_py.client.connections import Connections
from dqlite_py.errors import NotSupportedError, WrongCluster
from dqlite_py.limits import STRANGER_BYTES_MAX
from dqlite_py.model import Address
from dqlite_py.node.programs import CallContext, ProgramMethods
from dqlite_py.server.extended import ExtendedServer
from dqlite_py.wire.handshake import NO_CLUSTER
from dqlite_py.wire.rpc import RpcNotSent
from tests.support.wire import CLUSTER, WAIT_S, Station, stations


def serve(station: Station) -> list[CallContext]:
    contexts: list[CallContext] = []

    async def status(_context: CallContext, _body: Any) -> Any:
        return {"cluster_id": station.cluster.hex()}

    async def size(context: CallContext, body: Any) -> Any:
        contexts.append(context)
        return len(body)

    ExtendedServer(ProgramMethods(), station.transport.local_identity).serve_on(station.transport)
    station.transport.register("status", status, open_to_joiners=True)
    station.transport.register("sql.size", size, open_to_joiners=True)
    station.transport.register("leader.size", size)
    return contexts


async def test_large_requests_of_a_program() -> None:
    node = Station(1)
    async with stations(node), open_caller() as caller:
        contexts = serve(node)
        body = bytes(4 * STRANGER_BYTES_MAX)
        calls = [caller.call(node.address, "sql.size", body, WAIT_S) for _ in range(3)]
        assert await asyncio.gather(*calls) == [len(body)] * 3
        assert caller.cluster_id == CLUSTER
        assert len(contexts) == 3
        assert node.learned == []


async def test_what_is_for_nodes_is_refused() -> None:
    node = Station(1)
    async with stations(node), open_caller() as caller:
        contexts = serve(node)
        with pytest.raises(NotSupportedError, match=r"no method 'leader\.size' for programs"):
            await caller.call(node.address, "leader.size", b"", WAIT_S)
        assert contexts == []


async def test_another_cluster_is_not_spoken_to() -> None:
    node, other = Station(1), Station(2, cluster=b"some-other-group")
    async with stations(node, other), open_caller() as caller:
        serve(node)
        contexts = serve(other)
        assert await caller.call(node.address, "sql.size", b"x", WAIT_S) == 1
        with pytest.raises(WrongCluster, match="belongs to cluster"):
            await caller.call(other.address, "sql.size", b"x", WAIT_S)
        assert contexts == []


async def test_a_node_without_a_cluster_is_asked_for_nothing() -> None:
    node = Station(1, cluster=NO_CLUSTER)
    async with stations(node), open_caller() as caller:
        contexts = serve(node)
        with pytest.raises(RpcNotSent, match="no cluster"):
            await caller.call(node.address, "sql.size", b"x", WAIT_S)
        assert contexts == []


async def test_a_call_that_is_cancelled_while_connections_are_closed_stays_cancelled() -> None:
    """It would go on asking, and who ends the link waits for it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        connections = Connections(None)
        address = Address(f"127.0.0.1:{silent.getsockname()[1]}")
        calling = asyncio.create_task(connections.get(address))
        await asyncio.sleep(0)
        [dialling] = connections._tasks.values()
        dialling.add_done_callback(lambda _: calling.cancel())  # when it has heard of that, and not run
        await connections.stop()
        with pytest.raises(asyncio.CancelledError):
            await calling
