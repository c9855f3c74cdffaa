"""RF-16: stock unpickles whatever a connection sends, obeys utility commands and streams the log to
anybody. Ours parses msgpack rows of a table after a handshake that proves cluster and node id (by
certificate with TLS); no module of ours imports pickle, and what is malformed closes its connection and
nothing else."""

from __future__ import annotations

import asyncio
import pickle
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from dqlite_py.config import TlsSettings
from dqlite_py.errors import WrongCluster
from dqlite_py.model import Address, LogIndex, NodeId, Term
from dqlite_py.raft.messages import AppendRequest, Message
from dqlite_py.raft.rpc import RpcContext, RpcNotSent
from dqlite_py.wire.frames import FrameType, encode_frames
from dqlite_py.wire.handshake import PROTOCOL_VERSION, Hello, Purpose, encode_handshake
from dqlite_py.wire.peer import encode_message
from tests.faults.stock_tcp import Stranger, TcpNode
from tests.support.wire import CLUSTER, Station, stations, until

pytestmark = pytest.mark.rf("RF-16")

EXECUTED: list[str] = []


class Payload:
    """Runs code of the sender's choice when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (exec, (f"import {__name__} as here; here.EXECUTED.append('by a stranger')",))


@pytest.fixture
def stock_node() -> Iterator[TcpNode]:
    node = TcpNode(dynamicMembershipChange=True)
    assert node.tick_until(node._isLeader)
    yield node
    node.destroy()


def test_stock_has_the_fault(stock_node: TcpNode) -> None:
    EXECUTED.clear()
    with Stranger(stock_node) as stranger:
        stranger.say(Payload())
        assert stock_node.tick_until(lambda: bool(EXECUTED))
    assert EXECUTED == ["by a stranger"]


def test_stock_shows_its_log_to_strangers(stock_node: TcpNode) -> None:
    stock_node.op("secret")
    assert stock_node.tick_until(lambda: stock_node.data == ["secret"])

    def told(messages: list[dict[str, list[tuple[bytes, int, int]]]]) -> bool:
        return any(b"secret" in entry[0] for message in messages for entry in message.get("entries", []))

    with Stranger(stock_node) as stranger:
        stranger.say("readonly")
        stranger.say({"type": "next_node_idx", "reset": True, "next_node_idx": 2, "success": False})
        assert stock_node.tick_until(lambda: told(stranger.heard()))


def test_stock_obeys_strangers(stock_node: TcpNode) -> None:
    with Stranger(stock_node) as stranger:
        stranger.say(["add", "127.0.0.1:9"])
        assert stock_node.tick_until(lambda: "127.0.0.1:9" in {other.id for other in stock_node.otherNodes})


FORGED = AppendRequest(NodeId(3), Term(10**6), LogIndex(1), Term(0), (), LogIndex(1), 1)


async def exchange(station: Station, *parts: bytes) -> bytes:
    """Send bytes as a stranger and read until the node closes the connection."""
    host, _, port = station.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    with suppress(ConnectionError):
        for part in parts:
            writer.write(part)
            await writer.drain()
        writer.write_eof()
    answer = b""
    with suppress(ConnectionError):
        answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    return answer


def hello(node: int, cluster: bytes = CLUSTER, purpose: Purpose = Purpose.PEER) -> bytes:
    greeting = Hello(
        PROTOCOL_VERSION, cluster, NodeId(node), Address("127.0.0.1:1"), "", bytes(8), purpose, NodeId(0)
    )
    return encode_frames(FrameType.HELLO, encode_handshake(greeting))


async def test_ours_is_closed() -> None:
    """What made stock run code makes ours close the connection; the next member is heard all the same."""
    EXECUTED.clear()
    one, two = Station(1), Station(2)
    async with stations(one, two):
        for attack in (
            pickle.dumps(Payload(), 2),
            encode_frames(FrameType.RAFT, pickle.dumps(Payload(), 2)),
            b"\x00\x00\x00\x10" + b"readonly" * 4,
        ):
            await exchange(one, attack)
        await exchange(one, hello(9, b"another cluster!"), encode_frames(FrameType.RAFT, b"\x93\x01\x02\x03"))
        await exchange(one, hello(9), encode_frames(FrameType.RAFT, pickle.dumps(Payload(), 2)))
        await two.reach(one)
        assert two.transport.send(one.id, message_of(two))
        await until(lambda: len(one.messages) == 1, "the member's message")
    assert EXECUTED == []
    assert one.messages == [(two.id, message_of(two))]


def message_of(station: Station) -> Message:
    return AppendRequest(station.id, Term(1), LogIndex(1), Term(1), (), LogIndex(1), 1)


async def test_ours_hears_a_member_only_in_its_own_name() -> None:
    """A connection of node 9 cannot speak for node 3; one that is no member's is not heard at all."""
    one = Station(1)
    one.accepted = {NodeId(2), NodeId(3)}
    async with stations(one):
        await exchange(one, hello(9), encode_frames(FrameType.RAFT, encode_message(FORGED)))
        own_name = AppendRequest(NodeId(9), Term(10**6), LogIndex(1), Term(0), (), LogIndex(1), 1)
        await exchange(one, hello(9), encode_frames(FrameType.RAFT, encode_message(own_name)))
        assert one.messages == []
        await exchange(one, hello(3), encode_frames(FrameType.RAFT, encode_message(FORGED)))
        await until(lambda: one.messages == [(NodeId(3), FORGED)], "node 3 is heard in its own name")


async def test_ours_shows_and_obeys_strangers_nothing() -> None:
    """Requests need the cluster's id, and with TLS its certificate; there are no utility messages."""
    one, stranger = Station(1), Station(9, cluster=bytes(16))
    asked: list[RpcContext] = []

    async def remove(context: RpcContext, _body: object) -> object:
        asked.append(context)
        return "removed"

    one.transport.register("remove", remove)
    async with stations(one, stranger):
        with pytest.raises((WrongCluster, RpcNotSent)):
            await stranger.transport.call(one.address, "remove", {"node": 2}, 20)
        assert asked == []
        member = Station(2)
        async with stations(member):
            assert await member.transport.call(one.address, "remove", {"node": 2}, 20) == "removed"
    assert one.messages == []


def test_ours_never_unpickles() -> None:
    """No module of the package can: none imports what executes data; messages are decoded by tables of types."""
    forbidden = re.compile(r"^\s*(import|from)\s+(pickle|marshal|shelve|dill|cloudpickle)\b", re.MULTILINE)
    modules = sorted((Path(__file__).parents[2] / "dqlite_py").rglob("*.py"))
    assert len(modules) > 50
    assert [path.name for path in modules if forbidden.search(path.read_text())] == []


def certificate(name: str) -> TlsSettings:
    folder = Path(__file__).parents[1] / "support" / "tls"
    return TlsSettings(str(folder / f"{name}.pem"), str(folder / f"{name}.key"), str(folder / "ca.pem"))


async def test_ours_proves_with_tls_who_speaks() -> None:
    """No certificate of the cluster's authority: not heard; a certificate for another host: not heard either."""
    member = Station(1, tls=certificate("node"))
    for pretender in (
        Station(2),
        Station(2, tls=certificate("stranger")),
        Station(2, tls=certificate("wrong-host")),
    ):
        async with stations(member, pretender):
            pretender.transport.set_peers({member.id: member.address})
            await until(lambda p=pretender: bool(p.transport.status()[0].last_error), "it is refused")
            assert not pretender.transport.send(member.id, message_of(pretender))
            assert pretender.events == []
        assert member.messages == []
        member = Station(1, tls=certificate("node"))
    other = Station(2, tls=certificate("node"))
    async with stations(member, other):
        await other.reach(member)
