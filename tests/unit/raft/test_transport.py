"""The transport on loopback: delivery, handshakes, replaced connections, bounds, time-outs, leaks."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgpack
import pytest

from dqlite_py.errors import InterfaceError
from dqlite_py.limits import FRAME_FRAGMENT_BYTES, SEND_QUEUE_BYTES_MAX
from dqlite_py.model import Address, Entry, EntryKind, LogIndex, NodeId, Term
from dqlite_py.raft.connection import TransportTiming
from dqlite_py.raft.messages import AppendRequest, Message, TimeoutNow, VoteReply
from dqlite_py.wire.address import split_address
from dqlite_py.wire.frames import FrameDecoder, FrameType, Received, encode_frames
from dqlite_py.wire.handshake import (
    NO_CLUSTER,
    Hello,
    Purpose,
    Refusal,
    Refused,
    Welcome,
    decode_handshake,
    encode_handshake,
)
from dqlite_py.wire.peer import encode_message
from tests.support.wire import CLUSTER, IMPATIENT, WAIT_S, Relay, Station, stations, until


def append(sender: int, size: int, *, term: int = 5, number: int = 1) -> AppendRequest:
    entries = (Entry(LogIndex(number), Term(term), EntryKind.COMMAND, bytes(size)),) if size else ()
    return AppendRequest(
        NodeId(sender), Term(term), LogIndex(number - 1), Term(0), entries, LogIndex(0), number
    )


class Raw:
    """A hand-made peer: says exactly what a test tells it to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._decoder = FrameDecoder()

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def hello(self, number: int, /, **changes: Any) -> Welcome | Refused:
        address = f"127.0.0.1:{number}" if number else ""
        values = {
            "version": 1,
            "cluster_id": CLUSTER,
            "node_id": NodeId(number),
            "address": Address(address),
            "source_id": "",
            "options_digest": bytes(8),
            "purpose": Purpose.PEER,
            "target": NodeId(0),
        } | changes
        await self.say(encode_frames(FrameType.HELLO, encode_handshake(Hello(**values))))
        received = await self.hear()
        assert received is not None
        answer = decode_handshake(received.body)
        assert not isinstance(answer, Hello)
        if isinstance(answer, Welcome):
            self._decoder.established()
        return answer

    async def hear(self) -> Received | None:
        """The next message; None at the end of the connection."""
        async with asyncio.timeout(WAIT_S):
            while (message := self._decoder.next_message()) is None:
                try:
                    data = await self.reader.read(65_536)
                except ConnectionError:
                    return None
                if not data:
                    return None
                self._decoder.feed(data)
            return message

    async def closed(self) -> bool:
        """Wait for the other side to close; what it still says is dropped."""
        async with asyncio.timeout(WAIT_S):
            try:
                while await self.reader.read(65_536):
                    pass
            except ConnectionError:
                return True
            return True


@asynccontextmanager
async def raw(to: Station) -> AsyncIterator[Raw]:
    reader, writer = await asyncio.open_connection(*split_address(to.address))
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()


def raft(message: Message) -> bytes:
    return encode_frames(FrameType.RAFT, encode_message(message))


def open_sockets() -> set[str]:
    links = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            links.add(os.readlink(f"/proc/self/fd/{name}"))
    return {link for link in links if link.startswith("socket:")}


class TestDelivery:
    async def test_messages_arrive_in_order(self) -> None:
        a, b = Station(1), Station(2)
        async with stations(a, b):
            await a.reach(b)
            sent = [append(1, 100, number=n) for n in range(1, 301)]
            assert all(a.transport.send(b.id, message) for message in sent)
            await until(lambda: len(b.messages) == 300)
            assert b.messages == [(a.id, message) for message in sent]
            assert a.events == [("connected", b.id)]
            assert b.events == []

    async def test_sent_together_arrives_in_order_and_nothing_waits_for_more_to_send(self) -> None:
        a, b, c = Station(1), Station(2), Station(3)
        async with stations(a, b, c):
            a.dial(b, c)
            await until(lambda: a.transport.is_connected(b.id) and a.transport.is_connected(c.id))
            sent = [append(1, 10, number=n) for n in range(1, 4)]
            a.transport.send_all([(peer, m) for m in sent for peer in (b.id, c.id, NodeId(9))])
            for link in a.transport._links.values():
                connection = link.open_connection
                assert connection is not None
                assert connection.queued_bytes == 0
                assert connection.outbox.transport is not None
                socket_of = connection.outbox.transport.get_extra_info("socket")
                assert socket_of.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            await until(lambda: len(b.messages) == len(c.messages) == 3)
            assert b.messages == c.messages == [(a.id, message) for message in sent]

    async def test_both_directions_have_their_own_connection(self) -> None:
        a, b = Station(1), Station(2)
        async with stations(a, b):
            await a.reach(b)
            assert not b.transport.send(a.id, TimeoutNow(b.id, Term(1)))
            await b.reach(a)
            assert b.transport.send(a.id, TimeoutNow(b.id, Term(1)))
            assert a.transport.send(b.id, TimeoutNow(a.id, Term(2)))
            await until(lambda: len(a.messages) == len(b.messages) == 1)

    @pytest.mark.rf("RF-10")
    async def test_big_messages_and_heartbeats_between_their_fragments(self) -> None:
        a, b = Station(1), Station(2)
        async with stations(a, b), Relay(b.address) as relay:
            await a.reach(b, relay.address)
            relay.hold()
            big = append(1, 30 * 1024 * 1024)
            assert a.transport.send(b.id, big)
            await asyncio.sleep(0.02)
            # Part of it is under way; votes and heartbeats do not wait for the rest.
            vote = VoteReply(a.id, Term(5), False, Term(5), True)
            assert a.transport.send(b.id, vote)
            assert a.transport.send(b.id, append(1, 0, number=2))
            assert a.transport.send(b.id, append(1, 10, number=2))
            relay.flow()
            await until(lambda: len(b.messages) == 4)
            assert [m for _, m in b.messages] == [vote, append(1, 0, number=2), big, append(1, 10, number=2)]

    async def test_the_send_queue_is_bounded_and_send_says_so(self) -> None:
        a, b = (
            Station(1, timing=TransportTiming(idle_ms=60_000)),
            Station(2, timing=TransportTiming(idle_ms=60_000)),
        )
        async with stations(a, b), Relay(b.address) as relay:
            await a.reach(b, relay.address)
            relay.hold()
            accepted = 0
            for number in range(1, 100):
                if a.transport.send(b.id, append(1, 1024 * 1024, number=number)):
                    accepted += 1
                await asyncio.sleep(0)
            assert accepted < 60
            assert a.transport.status()[0].queued_bytes <= SEND_QUEUE_BYTES_MAX + FRAME_FRAGMENT_BYTES
            assert a.transport.send(b.id, TimeoutNow(a.id, Term(9)))
            relay.flow()
            await until(lambda: len(b.messages) == accepted + 1)

    async def test_nothing_is_sent_to_strangers(self) -> None:
        a = Station(1)
        async with stations(a):
            assert not a.transport.send(NodeId(9), TimeoutNow(a.id, Term(1)))


class TestHandshake:
    @pytest.mark.rf("RF-16")
    async def test_another_cluster_is_refused_and_both_sides_know(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        a, b = Station(1), Station(2, cluster=b"some-other-group")
        async with stations(a, b):
            a.transport.set_peers({b.id: b.address})
            await until(lambda: a.transport.status()[0].wrong_cluster)
            assert CLUSTER.hex() in a.transport.status()[0].last_error
            assert a.events == []
            assert CLUSTER.hex() in b.transport.refusals()[0]
            assert any("belongs to cluster" in record.message for record in caplog.records)
            assert b.learned == []

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"cluster_id": b"some-other-group"}, Refusal.WRONG_CLUSTER),
            ({"cluster_id": NO_CLUSTER}, Refusal.NO_CLUSTER),
            ({"node_id": NodeId(2)}, Refusal.OWN_ID),
            ({"target": NodeId(77)}, Refusal.WRONG_TARGET),
        ],
    )
    async def test_refusals(self, changes: dict[str, Any], reason: Refusal) -> None:
        b = Station(2)
        async with stations(b), raw(b) as peer:
            answer = await peer.hello(1, **changes)
            assert isinstance(answer, Refused)
            assert answer.reason is reason
            assert await peer.closed()

    async def test_an_unknown_protocol_version_is_refused_by_name(self) -> None:
        b = Station(2)
        async with stations(b), raw(b) as peer:
            await peer.say(encode_frames(FrameType.HELLO, msgpack.packb([1, 2, "what", "ever"])))
            received = await peer.hear()
            assert received is not None
            answer = decode_handshake(received.body)
            assert isinstance(answer, Refused)
            assert answer.reason is Refusal.UNKNOWN_VERSION
            assert "version 2" in answer.message

    @pytest.mark.rf("RF-16")
    @pytest.mark.parametrize("purpose", [Purpose.PEER, Purpose.CLIENT])
    async def test_raft_messages_only_from_whom_the_handshake_named(self, purpose: Purpose) -> None:
        b = Station(2)
        async with stations(b), raw(b) as peer:
            await peer.hello(1, purpose=purpose)
            sender = NodeId(3) if purpose is Purpose.PEER else NodeId(1)
            await peer.say(raft(TimeoutNow(sender, Term(5))))
            assert await peer.closed()
            assert b.messages == []

    @pytest.mark.rf("RF-16")
    @pytest.mark.parametrize("kind", [FrameType.RAFT, FrameType.REQUEST, FrameType.WELCOME, FrameType.PING])
    async def test_nothing_before_the_handshake(self, kind: FrameType) -> None:
        b = Station(2)
        async with stations(b), raw(b) as peer:
            await peer.say(encode_frames(kind, encode_message(TimeoutNow(NodeId(1), Term(5)))))
            assert await peer.closed()
            assert b.messages == []

    async def test_only_accepted_senders_are_delivered(self) -> None:
        b = Station(2)
        b.accepted = {NodeId(1)}
        async with stations(b), raw(b) as member, raw(b) as removed:
            await member.hello(1)
            await removed.hello(3)
            await removed.say(raft(TimeoutNow(NodeId(3), Term(5))))
            await removed.say(encode_frames(FrameType.PING, b""))
            assert (await removed.hear()) == (FrameType.PONG, b"")
            await member.say(raft(TimeoutNow(NodeId(1), Term(5))))
            await until(lambda: len(b.messages) == 1)
            assert b.messages[0][0] == 1

    async def test_a_joiner_is_connected_once_it_has_the_cluster_id(self) -> None:
        a, b = Station(1), Station(2, cluster=NO_CLUSTER)
        async with stations(a, b):
            a.transport.set_peers({b.id: b.address})
            await until(lambda: "no cluster" in a.transport.status()[0].last_error)
            assert a.events == []
            b.cluster = CLUSTER
            b.transport.identity_changed()
            await until(lambda: a.transport.is_connected(b.id))

    async def test_a_peer_at_the_wrong_address(self) -> None:
        a, b, c = Station(1), Station(2), Station(3)
        async with stations(a, b, c):
            a.transport.set_peers({b.id: c.address})
            await until(lambda: "not node 2" in a.transport.status()[0].last_error)
            assert a.events == []

    async def test_status_shows_the_peers_sqlite(self) -> None:
        a, b = Station(1), Station(2, source_id="3.99 of tomorrow")
        async with stations(a, b):
            await a.reach(b)
            (status,) = a.transport.status()
            assert status.source_id == "3.99 of tomorrow"
            assert status.options_digest == b"\x01" * 8


class TestReplacedConnections:
    @pytest.mark.rf("RF-16")
    async def test_a_newer_connection_ends_the_older_and_its_messages(self) -> None:
        b = Station(2)
        async with stations(b), raw(b) as old, raw(b) as new:
            await old.hello(1)
            frame = raft(TimeoutNow(NodeId(1), Term(1)))
            await old.say(frame + frame[:10])
            await until(lambda: len(b.messages) == 1)
            # Held back by the network, then both arrive in one iteration of the loop.
            await new.hello(1)
            old.writer.write(frame[10:])
            await new.say(raft(TimeoutNow(NodeId(1), Term(2))))
            await until(lambda: len(b.messages) == 2)
            assert await old.closed()
            assert [m.term for _, m in b.messages] == [1, 2]

    async def test_two_nodes_do_not_replace_each_other(self) -> None:
        b = Station(2)
        async with stations(b), raw(b) as first, raw(b) as second, raw(b) as client:
            await first.hello(1)
            await second.hello(3)
            await client.hello(1, purpose=Purpose.CLIENT)
            for peer in (first, second, client):
                await peer.say(encode_frames(FrameType.PING, b""))
                assert (await peer.hear()) == (FrameType.PONG, b"")


class TestBrokenConnections:
    async def test_reconnects_after_a_cut(self) -> None:
        a, b = Station(1), Station(2)
        async with stations(a, b), Relay(b.address) as relay:
            await a.reach(b, relay.address)
            relay.cut()
            await until(lambda: len(a.events) >= 3)
            assert a.events[:3] == [("connected", b.id), ("disconnected", b.id), ("connected", b.id)]

    async def test_a_restarted_peer(self) -> None:
        a, b = Station(1), Station(2)
        async with stations(a, b):
            await a.reach(b)
            address = b.address
            await b.transport.stop()
            await until(lambda: not a.transport.is_connected(b.id))
            assert not a.transport.send(b.id, TimeoutNow(a.id, Term(1)))
            again = Station(2)
            again.transport._listen = address
            async with stations(again):
                await until(lambda: a.transport.is_connected(b.id))

    async def test_flipped_bits_close_the_connection_and_nothing_wrong_is_delivered(self) -> None:
        a, b = Station(1), Station(2)
        passed = 0

        def flip(data: bytes) -> bytes:
            nonlocal passed
            passed += len(data)
            if passed < 5000:
                return data
            passed = 0
            damaged = bytearray(data)
            damaged[len(data) // 2] ^= 0x10
            return bytes(damaged)

        async with stations(a, b), Relay(b.address, flip) as relay:
            a.transport.set_peers({b.id: relay.address})
            number = 0
            async with asyncio.timeout(WAIT_S):
                while relay.accepted < 5:
                    number += 1
                    a.transport.send(b.id, append(1, 200, number=number))
                    await asyncio.sleep(0.001)
            assert b.messages
            numbers = [m.round for _, m in b.messages if isinstance(m, AppendRequest)]
            assert numbers == sorted(set(numbers))
            assert all(
                m == append(1, 200, number=m.round) for _, m in b.messages if isinstance(m, AppendRequest)
            )

    @pytest.mark.rf("RF-19")
    async def test_a_silent_connection_is_given_up(self) -> None:
        a, b = Station(1, timing=IMPATIENT), Station(2, timing=IMPATIENT)
        async with stations(a, b), Relay(b.address) as relay:
            await a.reach(b, relay.address)
            relay.hold()
            await until(lambda: ("disconnected", b.id) in a.events)
            relay.flow()
            await until(lambda: a.transport.is_connected(b.id))

    async def test_an_idle_connection_is_kept_by_pings(self) -> None:
        a, b = Station(1, timing=IMPATIENT), Station(2, timing=IMPATIENT)
        async with stations(a, b):
            await a.reach(b)
            await asyncio.sleep(IMPATIENT.idle_ms / 1000 * 2)
            assert a.events == [("connected", b.id)]

    @pytest.mark.rf("RF-19")
    async def test_a_black_holed_connect_is_bounded(self) -> None:
        with socket.socket() as hole, socket.socket() as filler:
            hole.bind(("127.0.0.1", 0))
            hole.listen(0)
            fillers = [filler]
            filler.connect(hole.getsockname())
            for _ in range(3):
                more = socket.socket()
                more.setblocking(False)
                more.connect_ex(hole.getsockname())
                fillers.append(more)
            timing = TransportTiming(
                connect_ms=100, handshake_ms=100, reconnect_min_ms=10, reconnect_max_ms=20
            )
            a = Station(1, timing=timing)
            async with stations(a):
                a.transport.set_peers({NodeId(2): Address(f"127.0.0.1:{hole.getsockname()[1]}")})
                await until(lambda: "within 100 ms" in a.transport.status()[0].last_error)
            for more in fillers:
                more.close()

    @pytest.mark.rf("RF-19")
    async def test_a_peer_that_accepts_and_says_nothing(self) -> None:
        writers: list[asyncio.StreamWriter] = []
        silent = await asyncio.start_server(lambda reader, writer: writers.append(writer), "127.0.0.1", 0)
        timing = TransportTiming(handshake_ms=100, reconnect_min_ms=10, reconnect_max_ms=20)
        a = Station(1, timing=timing)
        async with stations(a):
            a.transport.set_peers({NodeId(2): Address(f"127.0.0.1:{silent.sockets[0].getsockname()[1]}")})
            await until(lambda: "no handshake within 100 ms" in a.transport.status()[0].last_error)
        silent.close()
        for writer in writers:
            writer.transport.abort()

    async def test_a_host_that_does_not_resolve(self) -> None:
        a = Station(1)
        async with stations(a):
            a.transport.set_peers(
                {NodeId(2): Address("no-such-host.invalid:1"), NodeId(3): Address("bad..name:2")}
            )
            await until(lambda: all(status.last_error for status in a.transport.status()))


class TestAddresses:
    async def test_a_peer_is_found_at_the_address_it_announces(self) -> None:
        a, b = Station(1), Station(2)
        async with stations(a, b):
            with socket.socket() as nobody:
                nobody.bind(("127.0.0.1", 0))
                stale = Address(f"127.0.0.1:{nobody.getsockname()[1]}")
                a.transport.set_peers({b.id: stale})
                await until(lambda: a.transport.status()[0].last_error != "")
                await b.reach(a)
                await until(lambda: a.transport.is_connected(b.id))
                assert a.transport.learned_address(b.id) == b.address
                assert a.learned == [(b.id, b.address)]

    async def test_unknown_addresses_are_asked_who_is_there(self) -> None:
        a, b, c = Station(1), Station(2), Station(3)
        async with stations(a, b, c):
            with socket.socket() as nobody:
                nobody.bind(("127.0.0.1", 0))
                stale = Address(f"127.0.0.1:{nobody.getsockname()[1]}")
                a.transport.set_peers({b.id: stale, c.id: stale})
                a.transport.dial_unknown([b.address, c.address, a.address, stale])
                await until(lambda: a.transport.is_connected(b.id) and a.transport.is_connected(c.id))
                assert sorted(a.learned) == [(b.id, b.address), (c.id, c.address)]

    async def test_another_clusters_node_is_not_learned(self) -> None:
        a, b = Station(1), Station(2, cluster=b"some-other-group")
        async with stations(a, b):
            a.transport.dial_unknown([b.address])
            await until(lambda: a.transport.refusals() != [])
            assert a.learned == []

    async def test_a_new_configured_address_moves_the_connection(self) -> None:
        a, b = Station(1), Station(2)
        async with stations(a, b), Relay(b.address) as relay:
            await a.reach(b, relay.address)
            a.transport.set_peers({b.id: b.address})
            await until(lambda: a.events.count(("connected", b.id)) == 2)
            relay.cut()
            await asyncio.sleep(0.05)
            assert a.transport.is_connected(b.id)

    async def test_a_removed_peer_is_let_go(self) -> None:
        a, b = Station(1), Station(2)
        async with stations(a, b):
            await a.reach(b)
            a.transport.set_peers({a.id: a.address})
            assert not a.transport.send(b.id, TimeoutNow(a.id, Term(1)))
            assert a.transport.status() == []

    async def test_advertised_address_takes_the_bound_port(self) -> None:
        a = Station(1, advertise="localhost:0")
        b = Station(2, advertise="db2.example:77")
        async with stations(a, b):
            port = split_address(a.address)[1]
            assert a.transport.advertised_address() == f"localhost:{port}"
            assert b.transport.advertised_address() == "db2.example:77"


class TestStrangers:
    @pytest.mark.rf("RF-22")
    async def test_silent_strangers_are_closed_after_the_handshake_time(self) -> None:
        b = Station(2, timing=IMPATIENT)
        async with stations(b), raw(b) as silent, raw(b) as slow:
            await slow.say(b"\xd1lp\x01")
            assert await silent.closed()
            assert await slow.closed()
            assert b.transport._listener.count == 0

    @pytest.mark.rf("RF-22")
    async def test_a_flood_of_strangers_keeps_no_member_out(self) -> None:
        b = Station(2, timing=TransportTiming(handshake_ms=60_000))
        b.accepted = {NodeId(1), NodeId(3)}
        async with stations(b):
            b.transport._listener.incoming_max = 20
            async with raw(b) as member:
                await member.hello(1)
                flood = [await asyncio.open_connection(*split_address(b.address)) for _ in range(60)]
                await until(lambda: b.transport._listener.count == 20)
                async with raw(b) as late:
                    assert isinstance(await late.hello(3), Welcome)
                    for peer in (member, late):
                        await peer.say(encode_frames(FrameType.PING, b""))
                        assert (await peer.hear()) == (FrameType.PONG, b"")
                    # Those who shook hands but are no members go before members do.
                    clients = []
                    for _ in range(25):
                        reader, writer = await asyncio.open_connection(*split_address(b.address))
                        clients.append(Raw(reader, writer))
                        await clients[-1].hello(0, purpose=Purpose.CLIENT)
                    assert b.transport._listener.count <= 20
                    await member.say(encode_frames(FrameType.PING, b""))
                    assert (await member.hear()) == (FrameType.PONG, b"")
                    for client in clients:
                        client.writer.transport.abort()
                for _, writer in flood:
                    writer.transport.abort()

    async def test_members_fill_the_listener(self) -> None:
        b = Station(2, timing=TransportTiming(handshake_ms=60_000))
        async with stations(b):
            b.transport._listener.incoming_max = 2
            async with raw(b) as first, raw(b) as second:
                await first.hello(1)
                await second.hello(3)
                async with raw(b) as third:
                    assert await third.closed()
                await first.say(encode_frames(FrameType.PING, b""))
                assert (await first.hear()) == (FrameType.PONG, b"")

    @pytest.mark.parametrize(
        "first", [b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 100, b"\xd1lq", b"\x16\x03\x01\x00"]
    )
    async def test_unknown_first_bytes(self, first: bytes, caplog: pytest.LogCaptureFixture) -> None:
        b = Station(2)
        with caplog.at_level(logging.WARNING):
            async with stations(b), raw(b) as stranger:
                await stranger.say(first)
                assert await stranger.closed()
        assert any("connection closed" in record.message for record in caplog.records)

    async def test_too_many_bytes_before_the_handshake(self) -> None:
        b = Station(2)
        async with stations(b), raw(b) as stranger:
            await stranger.say(struct.pack(">3sBBBHI", b"\xd1lp", 1, 1, 0, 0, 4097))
            assert await stranger.closed()

    async def test_other_protocols_get_their_connections(self) -> None:
        class Echo(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                assert hasattr(transport, "write")
                self.transport = transport

            def data_received(self, data: bytes) -> None:
                self.transport.write(data.upper())

        b = Station(2, timing=IMPATIENT)
        wanted = b"\x01ab"
        b.transport.register_protocol(
            lambda first: None if len(first) < 3 and wanted.startswith(first) else first[:3] == wanted, Echo
        )
        async with stations(b), raw(b) as client:
            await client.say(wanted[:2])
            await asyncio.sleep(0.01)
            await client.say(wanted[2:] + b"cd")
            async with asyncio.timeout(WAIT_S):
                assert await client.reader.readexactly(5) == b"\x01ABCD"
            await asyncio.sleep(IMPATIENT.handshake_ms / 1000 * 2)
            await client.say(b"still")
            async with asyncio.timeout(WAIT_S):
                assert await client.reader.readexactly(5) == b"STILL"


class TestLife:
    async def test_an_address_that_nobody_can_dial(self) -> None:
        a = Station(1)
        a.transport._listen = Address("0.0.0.0:0")
        with pytest.raises(InterfaceError, match="address to advertise"):
            await a.transport.start()
        await a.transport.stop()
        b = Station(1, advertise="127.0.0.1:0")
        b.transport._listen = Address("0.0.0.0:0")
        async with stations(b):
            pass

    async def test_failing_callbacks_end_no_link(self, caplog: pytest.LogCaptureFixture) -> None:
        a, b = Station(1), Station(2)

        def broken(*arguments: object) -> None:
            raise RuntimeError("broken callback")

        a.transport._on_learned = a.transport._on_connected = a.transport._on_disconnected = broken
        async with stations(a, b), Relay(b.address) as relay:
            await a.reach(b, relay.address)
            relay.cut()
            await until(lambda: relay.accepted == 2)
            await until(lambda: a.transport.is_connected(b.id))
        assert caplog.text.count("broken callback") >= 3

    async def test_stop_leaves_no_task_socket_or_reference(self) -> None:
        gc.collect()
        sockets_before = open_sockets()
        tasks_before = len(asyncio.all_tasks())
        a, b, c = Station(1), Station(2), Station(3)

        async def slow(context: Any, body: Any) -> Any:
            await asyncio.sleep(3600)

        async with stations(a, b, c):
            b.transport.register("slow", slow)
            a.dial(b, c)
            b.dial(a, c)
            c.dial(a, b, Station(9))
            await until(lambda: a.transport.is_connected(b.id) and b.transport.is_connected(c.id))
            a.transport.dial_unknown([Address("127.0.0.1:1")])
            calls = [
                asyncio.ensure_future(a.transport.call(target, "slow", None, 3600.0))
                for target in (b.id, b.address, Address("127.0.0.1:1"))
            ]
            await asyncio.sleep(0.1)
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(type(result).__name__ in ("RpcLost", "RpcNotSent") for result in results), results
        await asyncio.sleep(0.05)
        assert len(asyncio.all_tasks()) == tasks_before
        gc.collect()
        assert open_sockets() == sockets_before

    async def test_stop_while_the_peer_does_not_read(self) -> None:
        a, b = Station(1), Station(2)
        async with stations(a, b), Relay(b.address) as relay:
            await a.reach(b, relay.address)
            relay.hold()
            a.transport.send(b.id, append(1, 20 * 1024 * 1024))
            await asyncio.sleep(0.01)
            async with asyncio.timeout(WAIT_S):
                await a.transport.stop()

    async def test_stop_twice_and_before_start(self) -> None:
        a = Station(1)
        await a.transport.stop()
        b = Station(2)
        async with stations(b):
            await b.transport.stop()

    async def test_an_address_in_use(self) -> None:
        a, b = Station(1), Station(2)
        async with stations(a):
            b.transport._listen = a.address
            with pytest.raises(OSError, match="in use"):
                await b.transport.start()
            await b.transport.stop()

    async def test_a_failing_message_handler_closes_only_its_connection(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        a, b, c = Station(1), Station(2), Station(3)

        def broken(sender: NodeId, message: Message) -> None:
            if sender == a.id:
                raise RuntimeError("broken handler")
            b.messages.append((sender, message))

        b.transport._on_message = broken
        async with stations(a, b, c):
            await a.reach(b)
            await c.reach(b)
            a.transport.send(b.id, TimeoutNow(a.id, Term(1)))
            await until(lambda: ("disconnected", b.id) in a.events)
            c.transport.send(b.id, TimeoutNow(c.id, Term(1)))
            await until(lambda: len(b.messages) == 1)
        assert "broken handler" in caplog.text
