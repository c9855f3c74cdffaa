"""The one listening address: accepts, looks at first bytes, keeps strangers few. Loop thread.

A connection is a stranger until its handshake is over. Strangers have handshake_ms and are dropped, oldest
first, when `incoming_max` is reached, so that they can never exhaust descriptors or keep a member out.
Connections of other protocols (`register_protocol`) are handed over and from then on counted by their owner.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Awaitable, Callable
from typing import Final, cast

from dqlite_py.limits import INCOMING_CONNECTIONS_MAX, LISTEN_BACKLOG
from dqlite_py.logs import event
from dqlite_py.model import Address
from dqlite_py.raft.connection import Connection, TransportTiming, fileno_of
from dqlite_py.raft.quietlog import QuietLog
from dqlite_py.raft.tls import TLS_FIRST_BYTE, TlsContexts, TlsLayer
from dqlite_py.wire.address import join_address, split_address
from dqlite_py.wire.frames import FrameType, encode_frames, starts_like_a_frame
from dqlite_py.wire.handshake import Refusal, Refused, encode_handshake

log = QuietLog(logging.getLogger(__name__))
_FIRST_BYTES_MAX: Final = 64
_TURNS_TO_MAKE: Final = 2  # of the loop, from asyncio's accept() to connection_made()
Predicate = Callable[[bytes], bool | None]
"""First bytes of a connection: ours, not ours, or None for too few to tell."""
Stop = Callable[[], Awaitable[None]]
"""Ends the connections of a protocol, when the listener stops."""


class Listener:
    """Accepts for one transport; `make_connection` gives the protocol of peers."""

    def __init__(
        self,
        make_connection: Callable[[], Connection],
        is_member: Callable[[Connection], bool],
        timing: TransportTiming,
        tls: TlsContexts | None,
    ) -> None:
        self.make_connection = make_connection
        self.tls = tls
        self._is_member = is_member
        self._timing = timing
        self._server: asyncio.Server | None = None
        self._protocols: list[tuple[Predicate, Callable[[], asyncio.Protocol]]] = []
        self._stops: list[Stop] = []
        self._incoming: dict[Incoming, None] = {}  # in the order of arrival
        self._foreign: set[Incoming] = set()  # handed over to other protocols: thousands, perhaps
        self.incoming_max = INCOMING_CONNECTIONS_MAX
        self.address = Address("")

    def register_protocol(
        self, predicate: Predicate, factory: Callable[[], asyncio.Protocol], stop: Stop | None = None
    ) -> None:
        """Hand connections whose first bytes satisfy `predicate` to `factory()`; the first one that agrees has it."""
        self._protocols.append((predicate, factory))
        if stop is not None:
            self._stops.append(stop)

    async def start(self, listen: Address) -> None:
        """Raises OSError when the address cannot be used."""
        host, port = split_address(listen)
        # Half of the descriptors at most: the rest is for the journal, databases and our own connections.
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY:
            self.incoming_max = min(INCOMING_CONNECTIONS_MAX, max(8, soft // 2))
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Incoming(self), host, port, backlog=LISTEN_BACKLOG, reuse_address=True
        )
        name = self._server.sockets[0].getsockname()
        self.address = join_address(name[0], name[1])

    @property
    def stranger_count(self) -> int:
        return sum(incoming.is_stranger for incoming in self._incoming)

    @property
    def count(self) -> int:
        return len(self._incoming) + len(self._foreign)

    def descriptors(self) -> list[int]:
        """Of the sockets that listen, and of those accepted."""
        listening = [] if self._server is None else [one.fileno() for one in self._server.sockets]
        return [*listening, *(incoming.fileno for incoming in (*self._incoming, *self._foreign))]

    async def stop(self) -> None:
        if self._server is not None:
            await self._accept_no_more()
            self._server.close()
        for stop in self._stops:
            await stop()
        for incoming in [*self._incoming, *self._foreign]:
            incoming.drop()
        if self._server is not None:
            await self._server.wait_closed()

    async def _accept_no_more(self) -> None:
        """Else asyncio would fail at what it has accepted and told nobody of, and leave the socket open."""
        assert self._server is not None
        loop = asyncio.get_running_loop()
        for one in self._server.sockets:
            loop.remove_reader(one.fileno())
        for _ in range(_TURNS_TO_MAKE):
            await asyncio.sleep(0)

    def housekeep(self, now: float) -> None:
        """Close strangers that took too long."""
        for incoming in list(self._incoming):
            if incoming.is_stranger and now - incoming.arrived_at > self._timing.handshake_ms / 1000:
                event(
                    log,
                    logging.INFO,
                    "incoming connection closed: no handshake in time",
                    where=incoming.where,
                )
                incoming.drop()

    def admitted(self, incoming: Incoming) -> None:
        """A connection arrived: make room for it."""
        own = len(self._incoming)
        if own >= self.incoming_max:
            victim = self._victim()
            if victim is None:
                event(
                    log,
                    logging.WARNING,
                    "incoming connection refused: too many members are connected",
                    where=incoming.where,
                    connected=own,
                )
                incoming.drop()
                return
            event(
                log,
                logging.INFO,
                "incoming connection dropped: too many are open",
                where=victim.where,
                open=own,
            )
            victim.drop()
        self._incoming[incoming] = None

    def gone(self, incoming: Incoming) -> None:
        self._incoming.pop(incoming, None)
        self._foreign.discard(incoming)

    def handed_over(self, incoming: Incoming) -> None:
        """It is another protocol's: its owner counts it."""
        if self._incoming.pop(incoming, self) is None:
            self._foreign.add(incoming)

    def _victim(self) -> Incoming | None:
        for incoming in self._incoming:
            if incoming.is_stranger:
                return incoming
        for incoming in self._incoming:
            connection = incoming.connection
            if connection is not None and not self._is_member(connection):
                return incoming
        return None

    def choose(self, first: bytes, over_tls: bool, where: str) -> asyncio.Protocol | Refused | str | None:
        """The protocol of these first bytes, a refusal to send, a reason to close, or None for more bytes."""
        if not over_tls and first[0] == TLS_FIRST_BYTE:
            if self.tls is None:
                return Refused(
                    Refusal.TLS_UNEXPECTED, "a TLS connection to a node that is configured without TLS"
                )
            inner = Incoming(self, over_tls=True)
            return TlsLayer(
                self.tls.server,
                inner,
                lambda reason: event(
                    log, logging.WARNING, "incoming connection failed", where=where, reason=reason
                ),
            )
        peer = starts_like_a_frame(first)
        if self.tls is not None and not over_tls:
            if peer is None:
                return None
            text = "a plaintext connection to a node that requires TLS"
            return Refused(Refusal.TLS_REQUIRED, text) if peer else text
        if peer:
            return self.make_connection()
        undecided = peer is None
        for predicate, factory in self._protocols:
            verdict = predicate(first)
            if verdict:
                return factory()
            undecided = undecided or verdict is None
        if undecided and len(first) < _FIRST_BYTES_MAX:
            return None
        return f"no protocol here starts with {first[:16]!r}"


class Incoming(asyncio.Protocol):
    """An accepted socket: waits for the first bytes, then passes everything to the protocol chosen."""

    def __init__(self, listener: Listener, *, over_tls: bool = False) -> None:
        self._listener = listener
        self._over_tls = over_tls
        self._transport: asyncio.Transport | None = None
        self._inner: asyncio.Protocol | None = None
        self._outer: Incoming | None = None  # of what came over TLS: the socket's
        self._first = b""
        self._dropped = False
        self.where = "nowhere"
        self.arrived_at = 0.0

    @property
    def connection(self) -> Connection | None:
        """The peer connection inside, if it is one."""
        inner = self._deepest()
        return inner if isinstance(inner, Connection) else None

    @property
    def fileno(self) -> int:
        return fileno_of(self._transport)

    @property
    def is_stranger(self) -> bool:
        inner = self._deepest()
        if isinstance(inner, Connection):
            return not inner.is_open
        return inner is None

    def _deepest(self) -> asyncio.Protocol | None:
        inner = self._inner
        if isinstance(inner, TlsLayer):
            inner = inner.inner
        if isinstance(inner, Incoming):
            inner = inner._inner
        return inner

    def drop(self) -> None:
        """Close at once."""
        self._dropped = True
        self._listener.gone(self)
        connection = self.connection
        if connection is not None:
            connection.abort("dropped by the listener")
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.arrived_at = asyncio.get_running_loop().time()
        name = transport.get_extra_info("peername")
        self.where = join_address(name[0], name[1]) if isinstance(name, tuple) else repr(name)
        if not self._over_tls:
            self._listener.admitted(self)

    def data_received(self, data: bytes) -> None:
        if self._dropped:
            return
        if self._inner is not None:
            self._inner.data_received(data)
            return
        self._first += data
        chosen = self._listener.choose(self._first, self._over_tls, self.where)
        if chosen is None:
            return
        if isinstance(chosen, asyncio.Protocol):
            self._adopt(chosen)
        else:
            self._turn_away(chosen)

    def _adopt(self, inner: asyncio.Protocol) -> None:
        assert self._transport is not None
        first, self._first = self._first, b""
        self._inner = inner
        if isinstance(inner, TlsLayer):
            if isinstance(inner.inner, Incoming):
                inner.inner._outer = self
        elif not isinstance(inner, Connection):
            self._listener.handed_over(self._outer or self)
        inner.connection_made(self._transport)
        inner.data_received(first)

    def _turn_away(self, why: Refused | str) -> None:
        assert self._transport is not None
        event(
            log,
            logging.WARNING,
            "incoming connection closed",
            where=self.where,
            reason=why.message if isinstance(why, Refused) else why,
        )
        if isinstance(why, Refused):
            self._transport.write(encode_frames(FrameType.REFUSED, encode_handshake(why)))
        self._dropped = True
        self._transport.close()

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._inner is not None else False

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._inner is not None:
            self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.gone(self)
        if self._inner is not None:
            self._inner.connection_lost(exc)
