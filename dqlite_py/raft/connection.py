"""One socket that carries frames: handshake, keep-alive, queue and close. Loop thread only.

It decides nothing about members: its owner (raft/transport.py) hears of every message. Data are decoded the
moment they arrive, so that buffered heartbeats count before timers run. After `abort` nothing is delivered.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from dataclasses import dataclass
from typing import Protocol, cast

from dqlite_py.errors import MalformedMessage, UnknownFormat
from dqlite_py.limits import (
    CONNECT_TIMEOUT_MS,
    FRAME_BYTES_MAX,
    HANDSHAKE_TIMEOUT_MS,
    IDLE_TIMEOUT_MS,
    RECONNECT_MAX_MS,
    RECONNECT_MIN_MS,
    STRANGER_BYTES_MAX,
)
from dqlite_py.logs import event
from dqlite_py.model import Address, NodeId
from dqlite_py.raft.outbox import Outbox
from dqlite_py.raft.quietlog import QuietLog
from dqlite_py.raft.tls import certified_names
from dqlite_py.wire.frames import FrameDecoder, FrameType, OutgoingMessage, Received
from dqlite_py.wire.handshake import (
    NO_CLUSTER,
    PROTOCOL_VERSION,
    Hello,
    LocalIdentity,
    Purpose,
    Refusal,
    Refused,
    Welcome,
    decode_handshake,
    encode_handshake,
    is_verified,
    judge_hello,
    judge_welcome,
    refused,
)
from dqlite_py.wire.sendqueue import Lane, Queued

log = QuietLog(logging.getLogger(__name__))


@dataclass(frozen=True, slots=True)
class TransportTiming:
    """Times in milliseconds; the defaults are those of limits.py."""

    connect_ms: float = CONNECT_TIMEOUT_MS
    handshake_ms: float = HANDSHAKE_TIMEOUT_MS
    idle_ms: float = IDLE_TIMEOUT_MS
    reconnect_min_ms: float = RECONNECT_MIN_MS
    reconnect_max_ms: float = RECONNECT_MAX_MS

    @property
    def ping_ms(self) -> float:
        return self.idle_ms / 4


class HandshakeRefused(Exception):
    """A connection did not get through the handshake."""

    def __init__(self, message: str, reason: Refusal | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason


class ConnectionOwner(Protocol):
    """Who hears of a connection's events; calls come from the loop thread, never re-entrantly from `send`."""

    def local_identity(self) -> LocalIdentity: ...
    def advertised_address(self) -> Address: ...
    def connection_established(self, connection: Connection) -> None: ...
    def connection_closed(self, connection: Connection) -> None: ...
    def socket_gone(self, connection: Connection) -> None: ...
    def raft_received(self, connection: Connection, body: bytes | bytearray) -> None: ...
    def all_received(self) -> None: ...
    def request_received(self, connection: Connection, body: bytes | bytearray) -> None: ...
    def response_received(self, connection: Connection, body: bytes | bytearray) -> None: ...
    def handshake_refused(self, connection: Connection, refusal: Refused, by_us: bool) -> None: ...


class ConnectionState(enum.Enum):
    HANDSHAKE = "handshake"
    ESTABLISHED = "established"
    CLOSED = "closed"


class Connection(asyncio.Protocol):
    """`hello` is given on the dialler's side and None on the acceptor's."""

    def __init__(self, owner: ConnectionOwner, hello: Hello | None = None) -> None:
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self.hello = hello
        self.dialled = hello is not None
        self.state = ConnectionState.HANDSHAKE
        self.remote: Hello | Welcome | None = None
        self.verified = False
        self.peer_id = NodeId(0)  # the other side's; 0 before the handshake and for clients
        self.close_reason = ""
        self.ready: asyncio.Future[None] = self._loop.create_future()  # dialler: HandshakeRefused when not
        self.lost = asyncio.Event()  # the socket is gone
        self.closed = asyncio.Event()  # nothing is delivered any more
        self.keepers = 0  # who wants it open without calls on it
        now = self._loop.time()
        self.made_at = self.received_at = self.sent_at = self.closed_at = now
        self._transport: asyncio.Transport | None = None
        self._decoder = FrameDecoder()
        self.outbox = Outbox(self._loop)
        self._has_heard = False
        self._carries_raft = False  # raft messages may come on it

    def __repr__(self) -> str:
        way = "to" if self.dialled else "from"
        where = self._transport.get_extra_info("peername") if self._transport else None
        return f"<connection {way} node {self.peer_id} at {where}, {self.state.value}>"

    @property
    def fileno(self) -> int:
        return fileno_of(self._transport)

    @property
    def is_open(self) -> bool:
        return self.state is ConnectionState.ESTABLISHED

    @property
    def is_closed(self) -> bool:
        return self.state is ConnectionState.CLOSED

    @property
    def peer_address(self) -> Address:
        return self.remote.address if self.remote is not None else Address("")

    @property
    def purpose(self) -> Purpose:
        hello = self.hello if self.hello is not None else self.remote
        return hello.purpose if isinstance(hello, Hello) else Purpose.CLIENT

    @property
    def has_socket(self) -> bool:
        return self._transport is not None and not self.lost.is_set()

    @property
    def queued_bytes(self) -> int:
        return self.outbox.size_bytes

    # -- sending

    def send(self, lane: Lane, message: OutgoingMessage) -> Queued | None:
        """Queue a message; None when the lane is full or the connection is not open (it is then not sent)."""
        if self.state is not ConnectionState.ESTABLISHED:
            return None
        queued = self.outbox.push(lane, message)
        if queued is not None:
            self.outbox.flush_soon()
        return queued

    def take_back(self, queued: Queued) -> bool:
        """Whether the message was still wholly ours; it will then never be sent."""
        return self.outbox.remove(queued)

    async def wait_space(self) -> bool:
        """Wait until the queue has shrunk; False when the connection is closed."""
        await self.outbox.wait_space()
        return self.is_open

    def ping(self) -> None:
        self.send(Lane.CONTROL, OutgoingMessage(FrameType.PING, b""))

    def note_activity(self, now: float) -> None:
        """Take over into `received_at` and `sent_at` what happened since the last call: a clock need not be read for
        each message."""
        if self._has_heard:
            self._has_heard = False
            self.received_at = now
        if self.outbox.has_sent:
            self.outbox.has_sent = False
            self.sent_at = now

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.outbox.attach(self._transport)
        if self.hello is not None:
            self._say(FrameType.HELLO, self.hello)

    def data_received(self, data: bytes) -> None:
        if self.state is ConnectionState.CLOSED:
            return
        self._has_heard = True
        decoder, handed = self._decoder, False
        try:
            decoder.feed(data)
            while (received := decoder.next_message()) is not None:
                if received.type is FrameType.RAFT and self._carries_raft:
                    handed = True
                    self._owner.raft_received(self, received.body)
                else:
                    self._handle(received)
                if not decoder.has_more or self.is_closed:
                    break
        except (MalformedMessage, UnknownFormat) as error:
            self._malformed(error)
        if handed:
            self._owner.all_received()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self.outbox.pause()

    def resume_writing(self) -> None:
        self.outbox.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        self._shut(str(exc) if exc else "the peer closed the connection")
        self.lost.set()
        self._owner.socket_gone(self)

    # -- closing

    def abort(self, reason: str) -> None:
        """Close at once: what is queued is dropped, what is received from now on too."""
        self._shut(reason)
        if self._transport is not None:
            self._transport.abort()

    def abort_socket(self) -> None:
        """Give up on what a closed connection has still to hand to its peer."""
        if self._transport is not None:
            self._transport.abort()

    def close(self, reason: str) -> None:
        """Close after what is queued (not more than a little) was handed to the socket."""
        if not self.is_closed and self._transport is not None and not self._transport.is_closing():
            self.outbox.farewell()
            self._transport.close()
        self._shut(reason)

    def _shut(self, reason: str) -> None:
        if self.state is ConnectionState.CLOSED:
            return
        self.close_reason = reason
        self.closed_at = self._loop.time()
        self.state = ConnectionState.CLOSED
        if not self.ready.done():
            self.ready.set_exception(HandshakeRefused(reason))
            self.ready.exception()  # the acceptor's side has nobody who waits for it
        self._owner.connection_closed(self)
        self.outbox.clear()
        self.closed.set()

    def _malformed(self, error: MalformedMessage | UnknownFormat) -> None:
        event(
            log,
            logging.WARNING,
            "a connection is closed for what came over it",
            connection=self,
            reason=error.message,
        )
        if self.state is ConnectionState.HANDSHAKE:
            reason = Refusal.UNKNOWN_VERSION if isinstance(error, UnknownFormat) else Refusal.MALFORMED
            self._refuse(refused(reason, error.message))
        else:
            self.abort(error.message)

    # -- messages

    def _handle(self, received: Received) -> None:
        if self.state is ConnectionState.HANDSHAKE:
            self._handshake(received)
        elif received.type is FrameType.RAFT:
            raise MalformedMessage("a raft message on a connection that carries none", what="frame type")
        elif received.type is FrameType.REQUEST and not self.dialled:
            self._owner.request_received(self, received.body)
        elif received.type is FrameType.RESPONSE and self.dialled:
            self._owner.response_received(self, received.body)
        elif received.type is FrameType.PING:
            self.send(Lane.CONTROL, OutgoingMessage(FrameType.PONG, b""))
        elif received.type is FrameType.REFUSED and not self.dialled:
            message = decode_handshake(received.body)
            if isinstance(message, Refused):
                self._owner.handshake_refused(self, message, by_us=False)
            self.abort("refused by the peer")
        elif received.type is not FrameType.PONG:
            raise MalformedMessage(f"{received.type.name} is not expected here", what="frame type")

    def _handshake(self, received: Received) -> None:
        expected = (FrameType.WELCOME, FrameType.REFUSED) if self.dialled else (FrameType.HELLO,)
        if received.type not in expected:
            raise MalformedMessage(f"{received.type.name} before the handshake", what="frame type")
        message = decode_handshake(received.body)
        if isinstance(message, Refused) and self.dialled:
            self._owner.handshake_refused(self, message, by_us=False)
            self._fail_ready(message)
            self.abort(message.message)
        elif isinstance(message, Welcome) and self.hello is not None:
            local = self._owner.local_identity()
            self._judged(message, judge_welcome(local, self.hello, message, self._certified()))
        elif isinstance(message, Hello) and not self.dialled:
            self._judged(message, judge_hello(self._owner.local_identity(), message, self._certified()))
        else:
            raise MalformedMessage(f"{type(message).__name__} in a {received.type.name}", what="handshake")

    def _judged(self, remote: Hello | Welcome, verdict: Refused | None) -> None:
        self.remote = remote
        self.peer_id = remote.node_id
        if verdict is not None:
            self._refuse(verdict)
            return
        local = self._owner.local_identity()
        if self.hello is not None and self.hello.cluster_id != local.cluster_id:
            self.abort("this node's cluster id changed during the handshake")
            return
        self.verified = is_verified(local, remote)
        names_us = remote.cluster_id == local.cluster_id != NO_CLUSTER
        self._decoder.established(FRAME_BYTES_MAX if names_us or self.dialled else STRANGER_BYTES_MAX)
        self._carries_raft = self.verified and not self.dialled and self.purpose is Purpose.PEER
        self.state = ConnectionState.ESTABLISHED
        if isinstance(remote, Hello):
            welcome = Welcome(
                PROTOCOL_VERSION,
                local.cluster_id,
                local.node_id,
                self._owner.advertised_address(),
                local.source_id,
                local.options_digest,
            )
            self._say(FrameType.WELCOME, welcome)
        if not self.ready.done():
            self.ready.set_result(None)
        self._owner.connection_established(self)

    def _refuse(self, verdict: Refused) -> None:
        self._owner.handshake_refused(self, verdict, by_us=True)
        self._fail_ready(verdict)
        self._say(FrameType.REFUSED, verdict)
        self.close(verdict.message)

    def _fail_ready(self, verdict: Refused) -> None:
        if not self.ready.done():
            self.ready.set_exception(HandshakeRefused(verdict.message, verdict.reason))
            self.ready.exception()

    def _say(self, kind: FrameType, message: Hello | Welcome | Refused) -> None:
        self.outbox.push(Lane.CONTROL, OutgoingMessage(kind, encode_handshake(message)))
        self.outbox.flush_soon()

    def _certified(self) -> tuple[str, ...] | None:
        """Names in the peer's certificate; None without TLS."""
        assert self._transport is not None
        certificate = self._transport.get_extra_info("peercert")
        return None if certificate is None else certified_names(certificate)


def fileno_of(transport: asyncio.BaseTransport | None) -> int:
    """The descriptor of a connection's socket; -1 when it has none."""
    socket = None if transport is None else transport.get_extra_info("socket")
    return -1 if socket is None else int(socket.fileno())


def make_hello(
    identity: LocalIdentity, address: Address, purpose: Purpose, target: NodeId = NodeId(0)
) -> Hello:
    """The dialler's words for `identity`."""
    return Hello(
        PROTOCOL_VERSION,
        identity.cluster_id,
        identity.node_id,
        address,
        identity.source_id,
        identity.options_digest,
        purpose,
        target,
    )
