"""Who leads, found from several addresses, and found again when it moves."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from dqlite_py.client.caller import open_caller
from dqlite_py.client.directory import Directory
from dqlite_py.client.stock.choosing import StockServers
from dqlite_py.errors import NoLeader, NotLeader, WrongCluster
from dqlite_py.model import Address
from dqlite_py.raft.rpc import RpcNotSent
from dqlite_py.wire.handshake import NO_CLUSTER
from tests.support.fakepeer import FakePeer
from tests.support.fakestock import servers
from tests.unit.client.cluster import lead, nodes


@pytest.fixture
def nobody() -> Iterator[Address]:
    """An address where nobody listens, and one that takes connections and says nothing."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield Address(f"127.0.0.1:{probe.getsockname()[1]}")


@pytest.fixture
def silent() -> Iterator[Address]:
    """It takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield Address(f"127.0.0.1:{server.getsockname()[1]}")


async def test_any_address_leads_to_the_leader(nobody: Address, silent: Address) -> None:
    with nodes({}, {}, {}, leader=2) as peers:
        for given in ([peers[0].address], [nobody, peers[1].address], [silent, peers[2].address]):
            async with open_caller() as caller:
                directory = Directory(caller, given)
                assert await directory.pick(leader=True) == peers[2].address
                assert await directory.pick(leader=False) == given[-1]


async def test_without_a_leader_the_first_that_answers_is_asked(nobody: Address) -> None:
    with nodes({}, {}, leader=-1) as peers:
        async with open_caller() as caller:
            directory = Directory(caller, [nobody, peers[1].address])
            assert await directory.pick(leader=True) == peers[1].address
            lead(peers, 0)
            assert await directory.pick(leader=True) == peers[0].address


async def test_a_leader_that_is_named_and_gone(nobody: Address) -> None:
    with nodes({}, {}, leader=-1) as peers:
        peers[0].status["leader_address"] = nobody
        async with open_caller() as caller:
            directory = Directory(caller, [peers[0].address])
            assert await directory.pick(leader=True) == peers[0].address
            lead(peers, 1)
            assert await directory.pick(leader=True) == peers[1].address


@pytest.mark.parametrize("named", ["", "nonsense", 7, None, "h:1 h:2"])
async def test_a_leader_that_is_named_wrongly(named: object) -> None:
    with nodes({}, leader=-1) as peers:
        peers[0].status["leader_address"] = named
        peers[0].status["members"] = [7, {"address": named}]
        async with open_caller() as caller:
            assert await Directory(caller, [peers[0].address]).pick(leader=True) == peers[0].address


async def test_what_failed_is_asked_last() -> None:
    with nodes({}, {}, leader=-1) as peers:
        async with open_caller() as caller:
            directory = Directory(caller, [peer.address for peer in peers])
            assert await directory.pick(leader=False) == peers[0].address
            directory.failed(peers[0].address, RpcNotSent("gone"))
            assert await directory.pick(leader=False) == peers[1].address
            directory.failed(peers[1].address, RpcNotSent("gone"))
            assert await directory.pick(leader=False) in {peer.address for peer in peers}


async def test_who_leads_is_told_by_a_refusal() -> None:
    with nodes({}, {}) as peers:
        async with open_caller() as caller:
            directory = Directory(caller, [peers[0].address])
            assert await directory.pick(leader=True) == peers[0].address
            directory.told(NotLeader("not I", leader_address=peers[1].address), peers[0].address)
            assert await directory.pick(leader=True) == peers[1].address
            lead(peers, 1)
            directory.told(NotLeader("nor I"), peers[1].address)
            assert await directory.pick(leader=True) == peers[1].address


async def test_nobody_there(nobody: Address) -> None:
    async with open_caller() as caller:
        with pytest.raises(NoLeader, match=nobody):
            await Directory(caller, [nobody]).pick(leader=True)


async def test_another_cluster() -> None:
    with ExitStack() as stack:
        ours = stack.enter_context(FakePeer(1).running())
        theirs = stack.enter_context(FakePeer(2, cluster_id=b"some-other-group").running())
        async with open_caller() as caller:
            directory = Directory(caller, [ours.address, theirs.address])
            assert await directory.pick(leader=False) == ours.address
            for _ in range(2):
                directory.failed(ours.address, RpcNotSent("gone"))
                assert await directory.pick(leader=False) == ours.address
            with pytest.raises(WrongCluster):
                await Directory(caller, [theirs.address]).pick(leader=True)


async def test_a_node_without_a_cluster_is_passed_over() -> None:
    with ExitStack() as stack:
        joining = stack.enter_context(FakePeer(1, cluster_id=NO_CLUSTER).running())
        ours = stack.enter_context(FakePeer(2).running())
        async with open_caller() as caller:
            directory = Directory(caller, [joining.address, ours.address])
            assert await directory.pick(leader=False) == ours.address


async def test_a_stock_server_beside_a_node_of_ours_is_not_fallen_back_to() -> None:
    """It has other databases: what is meant for ours must not land there while ours is starting or stopping."""
    with ExitStack() as stack:
        joining = stack.enter_context(FakePeer(1, cluster_id=NO_CLUSTER).running())
        [stock] = stack.enter_context(servers(1))
        async with open_caller() as caller:
            for given in ([joining.address, stock.address], [stock.address, joining.address]):
                with pytest.raises(NoLeader) as caught:
                    await Directory(caller, given).pick(leader=True)
                assert not isinstance(caught.value, StockServers)
            with pytest.raises(StockServers):
                await Directory(caller, [stock.address]).pick(leader=True)


async def test_many_ask_at_the_same_time() -> None:
    with nodes({}, {}, {}, leader=1) as peers:
        async with open_caller() as caller:
            directory = Directory(caller, [peer.address for peer in peers])
            found = await asyncio.gather(*(directory.pick(leader=True) for _ in range(20)))
            assert set(found) == {peers[1].address}
