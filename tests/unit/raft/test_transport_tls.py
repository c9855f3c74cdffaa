"""Mutual TLS: who gets in, who does not, and that the reason is said. Certificates: tests/support/tls."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from pathlib import Path

import pytest

from dqlite_py.config import TlsSettings
from dqlite_py.errors import InterfaceError, WrongCluster
from dqlite_py.limits import MIB
from dqlite_py.model import Address, Entry, EntryKind, LogIndex, Term
from dqlite_py.raft.connection import make_hello
from dqlite_py.raft.messages import AppendRequest, TimeoutNow
from dqlite_py.raft.rpc import RpcNotSent
from dqlite_py.wire.address import split_address
from dqlite_py.wire.frames import FrameType, encode_frames
from dqlite_py.wire.handshake import Purpose, encode_handshake
from tests.support.wire import IMPATIENT, WAIT_S, Relay, Station, stations, until

FOLDER = Path(__file__).parents[2] / "support" / "tls"


def settings(name: str, authority: str = "ca") -> TlsSettings:
    return TlsSettings(
        str(FOLDER / f"{name}.pem"), str(FOLDER / f"{name}.key"), str(FOLDER / f"{authority}.pem")
    )


NODE = settings("node")


async def refusal(dialler: Station, acceptor: Station, reason: str) -> str:
    """Wait until the dialler's status gives the reason; no connection came about."""
    dialler.transport.set_peers({acceptor.id: acceptor.address})
    said: set[str] = set()

    def is_said() -> bool:
        said.add(dialler.transport.status()[0].last_error)
        return any(reason in text for text in said)

    await until(is_said, f"{reason!r} among the errors")
    assert dialler.events == []
    return next(text for text in said if reason in text)


async def test_messages_big_and_small_and_requests() -> None:
    a, b = Station(1, tls=NODE), Station(2, tls=NODE)

    async def double(context: object, body: bytes) -> bytes:
        return body + body

    b.transport.register("double", double)
    async with stations(a, b):
        await a.reach(b)
        entry = Entry(LogIndex(1), Term(1), EntryKind.COMMAND, bytes(20 * MIB))
        big = AppendRequest(a.id, Term(1), LogIndex(0), Term(0), (entry,), LogIndex(0), 1)
        vote = TimeoutNow(a.id, Term(1))
        assert a.transport.send(b.id, big)
        assert a.transport.send(b.id, vote)
        await until(lambda: len(b.messages) == 2)
        assert {m for _, m in b.messages} == {big, vote}
        assert await a.transport.call(b.id, "double", bytes(5 * MIB), WAIT_S) == bytes(10 * MIB)
        assert await a.transport.call(b.address, "double", b"x", WAIT_S) == b"xx"


async def test_the_host_may_be_a_name() -> None:
    a, b = Station(1, tls=NODE, advertise="localhost:0"), Station(2, tls=NODE, advertise="localhost:0")
    async with stations(a, b):
        await a.reach(b, b.transport.advertised_address())
        await b.reach(a, a.transport.advertised_address())


async def test_a_cut_and_a_reconnect() -> None:
    a, b = Station(1, tls=NODE), Station(2, tls=NODE)
    async with stations(a, b), Relay(b.address) as relay:
        await a.reach(b, relay.address)
        relay.cut()
        await until(lambda: a.events.count(("connected", b.id)) == 2)


async def test_damage_on_the_way_ends_the_connection() -> None:
    a, b = Station(1, tls=NODE), Station(2, tls=NODE)
    flipping = False

    def flip(data: bytes) -> bytes:
        return data if not flipping else data[:-1] + bytes([data[-1] ^ 1])

    async with stations(a, b), Relay(b.address, flip) as relay:
        await a.reach(b, relay.address)
        flipping = True
        a.transport.send(b.id, TimeoutNow(a.id, Term(1)))
        await until(lambda: ("disconnected", b.id) in a.events)
        assert b.messages == []


async def test_an_acceptor_with_a_strangers_certificate_is_refused() -> None:
    a, b = Station(1, tls=NODE), Station(2, tls=settings("stranger", "other-ca"))
    async with stations(a, b):
        await refusal(a, b, "TLS handshake failed: self-signed certificate")


async def test_a_dialler_with_a_strangers_certificate_is_refused() -> None:
    # It trusts the node's authority, but the node does not trust its own.
    a, b = Station(1, tls=settings("stranger", "ca")), Station(2, tls=NODE)
    async with stations(a, b):
        await refusal(a, b, "TLS")
        assert b.transport._incoming_peers == {}


@pytest.mark.rf("RF-16")
async def test_a_client_without_a_certificate_is_refused() -> None:
    a, b = Station(1, advertise="127.0.0.1:5"), Station(2, tls=NODE)
    async with stations(b):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(FOLDER / "ca.pem")
        hello = make_hello(a.transport.local_identity(), Address("127.0.0.1:5"), Purpose.PEER)
        heard = b""
        async with asyncio.timeout(WAIT_S):
            reader, writer = await asyncio.open_connection(*split_address(b.address), ssl=context)
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                writer.write(encode_frames(FrameType.HELLO, encode_handshake(hello)))
                heard = await reader.read()
            writer.transport.abort()
        assert heard == b""
        assert b.transport._incoming_peers == {}
        assert b.transport.refusals() == [], "it ended within TLS, before our handshake"
        assert b.learned == []


async def test_the_dialled_host_must_be_in_the_acceptors_certificate() -> None:
    a, b = Station(1, tls=NODE), Station(2, tls=settings("wrong-host"))
    async with stations(a, b):
        await refusal(a, b, "IP address mismatch")


async def test_the_host_an_acceptor_claims_must_be_in_its_certificate() -> None:
    a, b = Station(1, tls=NODE), Station(2, tls=settings("elsewhere"), advertise="localhost:0")
    async with stations(a, b):
        reason = await refusal(a, b, "says it is at localhost")
        assert "elsewhere.example" in reason
        assert any("says it is at localhost" in text for text in b.transport.refusals())
        assert a.learned == []


@pytest.mark.rf("RF-16")
async def test_the_host_a_dialler_claims_must_be_in_its_certificate() -> None:
    a, b = Station(1, tls=settings("elsewhere"), advertise="localhost:0"), Station(2, tls=NODE)
    async with stations(a, b):
        await refusal(a, b, "says it is at localhost")
        assert b.transport._incoming_peers == {}
        assert b.learned == []


async def test_plaintext_to_a_tls_node(caplog: pytest.LogCaptureFixture) -> None:
    a, b = Station(1), Station(2, tls=NODE)
    async with stations(a, b):
        await refusal(a, b, "requires TLS")
        assert "requires TLS" in caplog.text


async def test_tls_to_a_plaintext_node(caplog: pytest.LogCaptureFixture) -> None:
    a, b = Station(1, tls=NODE), Station(2)
    async with stations(a, b):
        await refusal(a, b, "configured without TLS")
        assert "configured without TLS" in caplog.text


async def test_wrong_cluster_is_said_over_tls_too() -> None:
    a, b = Station(1, tls=NODE), Station(2, tls=NODE, cluster=b"some-other-group")
    async with stations(a, b):
        with pytest.raises(WrongCluster):
            await a.transport.call(b.address, "x", None, WAIT_S)


async def test_a_stranger_that_stops_within_the_tls_handshake_is_closed() -> None:
    b = Station(2, tls=NODE, timing=IMPATIENT)
    async with stations(b):
        reader, writer = await asyncio.open_connection(*split_address(b.address))
        writer.write(b"\x16\x03\x01\x00\x10")
        async with asyncio.timeout(WAIT_S):
            assert await reader.read() == b""
        writer.transport.abort()
        assert b.transport._listener.count == 0


async def test_an_acceptor_that_stops_within_the_tls_handshake() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10_000)
        await reader.read(1)
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    a = Station(1, tls=NODE, timing=IMPATIENT)
    async with server, stations(a):
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(RpcNotSent, match="no handshake within"):
            await a.transport.call(f"127.0.0.1:{port}", "x", None, WAIT_S)  # type: ignore[arg-type]


async def test_other_protocols_behind_tls() -> None:
    class Echo(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(data.upper())
            self.transport.close()

    b = Station(2, tls=NODE)
    b.transport.register_protocol(lambda first: first.startswith(b"ab"), Echo)
    async with stations(b):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(FOLDER / "ca.pem")
        context.load_cert_chain(FOLDER / "node.pem", FOLDER / "node.key")
        reader, writer = await asyncio.open_connection(*split_address(b.address), ssl=context)
        writer.write(b"abc")
        async with asyncio.timeout(WAIT_S):
            assert await reader.read() == b"ABC"
        writer.close()


def test_settings_are_checked(tmp_path: Path) -> None:
    with pytest.raises(InterfaceError, match="key"):
        TlsSettings(NODE.cert, str(tmp_path / "missing.key"), NODE.ca)
    with pytest.raises(ssl.SSLError):
        Station(1, tls=TlsSettings(NODE.cert, settings("wrong-host").key, NODE.ca))
