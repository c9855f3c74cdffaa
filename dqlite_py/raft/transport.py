"""The transport between nodes: one listening address, one outgoing connection per peer, requests.

Raft messages may be lost and reordered by it, never altered: raft resends. It knows who may be heard
(`accept_sender`) and whom to dial (`set_peers`), not what messages mean. Lives on the loop thread; driven by
raft/host.py; node/ registers request handlers and calls. Faults of PySyncObj's transport that end here:
RF-10, RF-13, RF-16, RF-19, RF-22.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Mapping
from typing import Any

from dqlite_py.config import TlsSettings
from dqlite_py.errors import InterfaceError, MalformedMessage, WrongCluster
from dqlite_py.limits import MEMBERS_MAX
from dqlite_py.logs import event
from dqlite_py.model import Address, NodeId
from dqlite_py.raft.callers import AddressCallers
from dqlite_py.raft.connection import Connection, TransportTiming
from dqlite_py.raft.dialer import Dialer, DialFailed
from dqlite_py.raft.idle import check_idle
from dqlite_py.raft.links import PeerLink, PeerStatus, Search
from dqlite_py.raft.listener import Listener
from dqlite_py.raft.messages import Message
from dqlite_py.raft.refusals import Refusals
from dqlite_py.raft.rpc import Handler, PendingCalls, RpcNotSent, RpcServer
from dqlite_py.raft.sender import MessageSender
from dqlite_py.raft.tls import TlsContexts
from dqlite_py.wire.address import is_unspecified, split_address
from dqlite_py.wire.handshake import LocalIdentity, Purpose, Refusal, Refused
from dqlite_py.wire.peer import decode_message

log = logging.getLogger(__name__)
_STOP_WAIT_S = 0.25


def _nothing(*_: object) -> None:
    """A callback nobody asked for."""


class PeerTransport:
    """Create, `await start()`, `await stop()`; a stopped transport stays stopped. Unstarted it can only `call`.

    identity: this node's ids, asked at every handshake. on_message(sender, message): from a member's
    connection only; on_all_received(): what arrived together has been handed over.
    on_connected / on_disconnected(peer): our connection TO the peer is there / gone.
    on_learned(peer, address): a handshake showed a node of our cluster at a new address. accept_sender(peer):
    whether raft messages of this node may be delivered now. `send`, `send_all`: see raft/sender.py;
    `register_protocol`: raft/listener.py; `open_method`: raft/rpc.py.
    """

    def __init__(
        self,
        *,
        identity: Callable[[], LocalIdentity],
        listen: Address,
        advertise: Address | None = None,
        tls: TlsSettings | None = None,
        on_message: Callable[[NodeId, Message], None],
        on_all_received: Callable[[], None] = _nothing,
        on_connected: Callable[[NodeId], None] = _nothing,
        on_disconnected: Callable[[NodeId], None] = _nothing,
        on_learned: Callable[[NodeId, Address], None] = _nothing,
        accept_sender: Callable[[NodeId], bool] = lambda _: True,
        timing: TransportTiming | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.local_identity = identity
        self._listen = listen
        self._advertise = advertise
        self._on_message = on_message
        self._on_all_received = on_all_received
        self._on_connected = on_connected
        self._on_disconnected = on_disconnected
        self._on_learned = on_learned
        self._accept_sender = accept_sender
        self._timing = timing or TransportTiming()
        self._random = rng or random.Random()
        contexts = TlsContexts(tls) if tls is not None else None
        self._dialer = Dialer(self, self._timing, contexts)
        self._listener = Listener(lambda: Connection(self), self._is_member, self._timing, contexts)
        self.register_protocol = self._listener.register_protocol
        self._search = Search(self._dialer, self._timing, self._random, self._learn)
        self._server = RpcServer()
        self.open_method = self._server.open_method
        self._links: dict[NodeId, PeerLink] = {}
        self._sender = MessageSender(self._links)
        self.send = self._sender.send
        self.send_all = self._sender.send_all
        self._learned: dict[NodeId, Address] = {}
        self._connections: dict[Connection, PendingCalls | None] = {}  # open ones; calls: of those we dialled
        self._lingering: dict[Connection, None] = {}  # closed, socket not yet gone
        self._incoming_peers: dict[NodeId, Connection] = {}
        self.callers = AddressCallers(self._dialer)
        self._retired: dict[asyncio.Task[None], None] = {}
        self._housekeeping: asyncio.TimerHandle | None = None
        self._housekeeping_due = 0.0
        self._refusals = Refusals()
        self._caller_watchers: list[Callable[[Connection], None]] = []
        self._stopped = False

    # -- life

    async def start(self) -> None:
        """Listen; raises OSError when the address cannot be used, InterfaceError when peers could not dial it."""
        await self._listener.start(self._listen)
        if is_unspecified(split_address(self.advertised_address())[0]):
            await self._listener.stop()
            raise InterfaceError(
                f"peers cannot dial {self.advertised_address()}: give an address to advertise"
            )
        self._plan_housekeeping()

    async def stop(self) -> None:
        """Close everything and wait for it. No callback comes after this was called."""
        self._stopped = True
        if self._housekeeping is not None:
            self._housekeeping.cancel()
        await self._search.stop()
        links = list(self._links.values())
        self._links.clear()
        await asyncio.gather(*(link.stop() for link in links), *self._retired, return_exceptions=True)
        await self.callers.stop()
        await self._server.stop()
        await self._dialer.stop()
        open_now = list(self._connections)
        for connection in open_now:
            connection.close("the node stops")
        try:
            async with asyncio.timeout(_STOP_WAIT_S):
                for connection in list(self._lingering):
                    await connection.lost.wait()
        except TimeoutError:
            event(log, logging.INFO, "stopping: a peer did not take what was still to be sent")
        for connection in list(self._lingering):
            connection.abort_socket()
        await self._listener.stop()
        for connection in list(self._lingering):
            await connection.lost.wait()

    @property
    def bound_address(self) -> Address:
        """Where it listens (port 0 replaced); empty before `start`."""
        return self._listener.address

    def advertised_address(self) -> Address:
        """What peers are told: `advertise`, or where it listens."""
        if self._advertise is None:
            return self.bound_address
        _, port = split_address(self._advertise)
        if port:
            return self._advertise
        bound_port = split_address(self.bound_address)[1] if self.bound_address else 0
        return Address(f"{self._advertise.rpartition(':')[0]}:{bound_port}")

    def identity_changed(self) -> None:
        """This node's cluster id is another one now: every connection has to be made anew."""
        for connection in list(self._connections):
            connection.abort("this node's cluster id changed")
        for link in self._links.values():
            link.nudge()

    # -- peers

    def set_peers(self, peers: Mapping[NodeId, Address]) -> None:
        """Dial exactly these (without ourselves) from now on; after `start`."""
        own_id = self.local_identity().node_id
        for node_id in [known for known in self._links if known not in peers or known == own_id]:
            self._retire(self._links.pop(node_id))
        for node_id, address in peers.items():
            if node_id == own_id or self._stopped:
                continue
            link = self._links.get(node_id)
            if link is not None:
                link.set_address(address)
                continue
            link = PeerLink(node_id, address, self._dialer, self._timing, self._random, self._link_changed)
            link.learned_address = self._learned.get(node_id)
            self._links[node_id] = link

    def dial_unknown(self, addresses: Collection[Address]) -> None:
        """Ask these addresses who is there, until each has answered; replaces the addresses given before."""
        if not self._stopped:
            self._search.set_addresses(addresses)

    def learned_address(self, node_id: NodeId) -> Address | None:
        """Where a node of our cluster last was, by its handshake."""
        return self._learned.get(node_id)

    def is_connected(self, node_id: NodeId) -> bool:
        link = self._links.get(node_id)
        return link is not None and link.open_connection is not None

    def status(self) -> list[PeerStatus]:
        return [link.status() for link in self._links.values()]

    def refusals(self) -> list[str]:
        """The last few handshakes refused by either side, for the status display."""
        return self._refusals.texts()

    def _retire(self, link: PeerLink) -> None:
        task = asyncio.get_running_loop().create_task(link.stop())
        self._retired[task] = None
        task.add_done_callback(lambda done: self._retired.pop(done, None))

    def _link_changed(self, node_id: NodeId, connected: bool) -> None:
        link = self._links.get(node_id)
        if not self._stopped and link is not None:
            self._tell(self._on_connected if connected else self._on_disconnected, node_id)

    def _learn(self, node_id: NodeId, address: Address) -> None:
        if self._learned.get(node_id) == address:
            return
        self._learned[node_id] = address
        while len(self._learned) > 4 * MEMBERS_MAX:
            del self._learned[next(iter(self._learned))]
        link = self._links.get(node_id)
        if link is not None:
            link.learned(address)
        if not self._stopped:
            self._tell(self._on_learned, node_id, address)

    def _tell(self, callback: Callable[..., None], *arguments: object) -> None:
        """A callback that fails must not end a link."""
        try:
            callback(*arguments)
        except Exception:  # noqa: BLE001 - logged
            event(log, logging.ERROR, "a callback of the transport failed", exc_info=True)

    def descriptors(self) -> list[int]:
        """Of its open sockets; those still being dialled are not among them."""
        return [*self._listener.descriptors(), *(one.fileno for one in self._connections)]

    # -- raft messages

    def raft_received(self, connection: Connection, body: bytes | bytearray) -> None:
        message = decode_message(body)
        if message.sender != connection.peer_id:
            raise MalformedMessage(
                f"node {connection.peer_id} sent a message of node {message.sender}", what="sender"
            )
        if self._stopped or not self._accept_sender(message.sender):
            return
        try:
            self._on_message(message.sender, message)
        except Exception:  # noqa: BLE001 - logged
            event(log, logging.ERROR, "handling a message failed", node=message.sender, exc_info=True)
            connection.abort("handling a message failed")

    def all_received(self) -> None:
        """What arrived together was handed over."""
        if self._stopped:
            return
        try:
            self._on_all_received()
        except Exception:  # noqa: BLE001 - logged
            event(log, logging.ERROR, "what follows from received messages failed", exc_info=True)

    # -- requests

    def register(self, method: str, handler: Handler, *, open_to_joiners: bool = False) -> None:
        """Serve a method; `open_to_joiners`: also for callers that are not nodes of this cluster."""
        self._server.register(method, handler, open_to_joiners)

    def watch_callers(self, on_gone: Callable[[Connection], None]) -> None:
        """Hear of every connection by which nothing is asked any more."""
        self._caller_watchers.append(on_gone)

    async def call(self, target: NodeId | Address, method: str, body: Any, timeout_s: float) -> Any:
        """Ask a peer (by id) or whoever is at an address.

        Raises RpcNotSent (certainly not delivered), RpcLost (may have been executed), WrongCluster (not
        delivered), InterfaceError or RequestTooLarge for the body, or the errors.Error of the other side.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        link = self._links.get(target) if isinstance(target, int) else None
        connection = link.open_connection if link is not None else None
        if connection is None or self._stopped:
            connection = await self._connection_by(deadline, target, method)
        calls = self._connections.get(connection)
        if calls is None:
            raise RpcNotSent(f"{method}: the connection to {target} is gone")
        return await calls.call(method, body, deadline)

    async def _connection_by(self, deadline: float, target: NodeId | Address, method: str) -> Connection:
        try:
            async with asyncio.timeout_at(deadline):
                return await self._connection_to(target)
        except TimeoutError:
            raise RpcNotSent(f"{method}: no connection to {target} in time") from None
        except DialFailed as failure:
            if failure.reason is Refusal.WRONG_CLUSTER:
                raise WrongCluster(str(failure)) from None
            raise RpcNotSent(f"{method}: {failure}") from None

    async def _connection_to(self, target: NodeId | Address) -> Connection:
        if self._stopped:
            raise DialFailed(Address(str(target)), "the transport is stopped")
        if isinstance(target, str):
            return await self.callers.connection(target)
        link = self._links.get(target)
        if link is None:
            raise DialFailed(Address(str(target)), f"node {target} is not a known peer")
        return await link.wait_connection()

    # -- what connections report

    def connection_established(self, connection: Connection) -> None:
        if self._stopped:
            connection.abort("the node stops")
            return
        self._connections[connection] = PendingCalls(connection) if connection.dialled else None
        if connection.purpose is Purpose.PEER and not connection.dialled:
            self._replace_incoming(connection)
            link = self._links.get(connection.peer_id)
            if link is not None and link.open_connection is None:
                link.nudge()  # it is up and of our cluster now: an earlier refusal need not be waited out
        if self._housekeeping is None:  # a transport that only calls is never started
            self._plan_housekeeping()
        # A client may be a command that names a member's address as its own.
        if connection.verified and (connection.dialled or connection.purpose is Purpose.PEER):
            self._learn(connection.peer_id, connection.peer_address)

    def _replace_incoming(self, newer: Connection) -> None:
        older = self._incoming_peers.get(newer.peer_id)
        self._incoming_peers[newer.peer_id] = newer
        if older is None:
            return
        before, now = older.peer_address, newer.peer_address
        if before != now:
            name = "a node is connected from two addresses: it moved, or a data folder was copied"
            event(log, logging.WARNING, name, node=newer.peer_id, before=before, now=now)
        # BEFORE anything of the newer one is delivered: messages never come out of order across them.
        older.abort("replaced by a newer connection of the same node")

    def connection_closed(self, connection: Connection) -> None:
        calls = self._connections.pop(connection, None)
        if calls is not None:
            calls.connection_lost(connection.close_reason)
        elif not self._stopped:
            for watcher in self._caller_watchers:
                self._tell(watcher, connection)
        if connection.has_socket:
            self._lingering[connection] = None
        if self._incoming_peers.get(connection.peer_id) is connection:
            del self._incoming_peers[connection.peer_id]
        self.callers.closed(connection)

    def socket_gone(self, connection: Connection) -> None:
        self._lingering.pop(connection, None)

    def request_received(self, connection: Connection, body: bytes | bytearray) -> None:
        self._server.request_received(connection, body)

    def response_received(self, connection: Connection, body: bytes | bytearray) -> None:
        calls = self._connections.get(connection)
        if calls is not None:
            calls.received(body)

    def handshake_refused(self, connection: Connection, refusal: Refused, by_us: bool) -> None:
        self._refusals.note(connection, refusal, by_us)

    def _is_member(self, connection: Connection) -> bool:
        return (
            connection.verified
            and connection.purpose is Purpose.PEER
            and self._accept_sender(connection.peer_id)
        )

    # -- time

    def _plan_housekeeping(self) -> None:
        timing = self._timing
        step_s = min(250.0, timing.handshake_ms / 4, timing.idle_ms / 8) / 1000
        loop = asyncio.get_running_loop()
        self._housekeeping_due = loop.time() + step_s
        self._housekeeping = loop.call_later(step_s, self._housekeep)

    def _housekeep(self) -> None:
        now = asyncio.get_running_loop().time()
        # After a stall of the loop, what peers sent meanwhile may still be unread: nobody is judged now.
        stalled = now - self._housekeeping_due > self._timing.idle_ms / 4000
        self._plan_housekeeping()
        if stalled:
            return
        self._listener.housekeep(now)
        for connection, calls in list(self._connections.items()):
            check_idle(connection, calls, self._timing, now)
        for connection in list(self._lingering):
            if now - connection.closed_at > self._timing.handshake_ms / 1000:
                connection.abort_socket()
        if not any(connection.queued_bytes for connection in self._connections):
            self._sender.forget()
