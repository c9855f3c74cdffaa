"""dqlite's protocol on a node: its connections, what they may hold together, and what was counted. Loop thread.

Made by whoever runs the node, once its runtime has started; `stop` comes before the runtime's.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final

from dqlite_py.limits import DQLITE_REQUEST_BYTES_MAX
from dqlite_py.logs import event
from dqlite_py.node.loop_gateway import LoopGateway
from dqlite_py.node.runtime_parts import Parts
from dqlite_py.raft.quietlog import QuietLog
from dqlite_py.server.dqlite.bounds import PreparedTexts
from dqlite_py.server.dqlite.cluster import ClusterCalls
from dqlite_py.server.dqlite.connection import HANDSHAKE_BYTES, Connection
from dqlite_py.server.dqlite.extension import MakeExtension
from dqlite_py.server.dqlite.failures import ERROR, NOT_LEADER
from dqlite_py.server.dqlite.settings import (
    ANSWERS_BYTES_MAX,
    FRAME_RATE_BYTES,
    FRAME_S,
    REQUESTS_BYTES_MAX,
    SMALL_BYTES,
    STALL_BYTES,
    STALL_S,
    SWEEP_S,
    WRITE_BUFFER_BYTES,
    ServerSettings,
)
from dqlite_py.wire.dqlite.frames import Version, encode_handshake
from dqlite_py.wire.dqlite.responses import Failure

log = QuietLog(logging.getLogger("dqlite_py.server"))
_HANDSHAKES: Final = tuple(encode_handshake(version) for version in Version)
STOP_S: Final = 2.0
_STALLED: Final = "the client takes its answers too slowly, or not at all"
_STOPPING: Final = "the node is stopping"


class Counters:
    """Since the node started. `violations`: by kind; `failures`: of this program, which the log describes."""

    __slots__ = ("accepted", "failures", "refused", "requests", "violations")

    def __init__(self) -> None:
        self.accepted = self.requests = self.refused = self.failures = 0
        self.violations: Counter[str] = Counter()


class DqliteServer:
    """`extension`: what takes the frames of our own types, if anything does."""

    def __init__(self, parts: Parts, settings: ServerSettings | None = None) -> None:
        self.loop = parts.loop
        self.now = parts.loop.time
        self.settings = settings or ServerSettings()
        self.gateway = LoopGateway(parts.gateway, parts.loop, parts.view)
        self.dumps = parts.dumps
        self.cluster = ClusterCalls(parts)
        self.extension: MakeExtension | None = None
        self.counters = Counters()
        self.buffered_bytes = 0
        self.request_bytes_max = DQLITE_REQUEST_BYTES_MAX
        self.requests_bytes_max = REQUESTS_BYTES_MAX
        self.answers_bytes_max = ANSWERS_BYTES_MAX
        self.statements = PreparedTexts()
        self.write_buffer_bytes = WRITE_BUFFER_BYTES
        self.connections_max = _connections_max(self.settings.connections_max)
        self._connections: set[Connection] = set()
        self._partial: set[Connection] = set()
        self._stalled: set[Connection] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._is_stopping = False
        self._all_gone = asyncio.Event()
        parts.transport.register_protocol(starts_like_dqlite, lambda: Connection(self))

    def status(self) -> dict[str, Any]:
        """Plain values."""
        counters = self.counters
        return {
            "connections": len(self._connections),
            "accepted": counters.accepted,
            "requests": counters.requests,
            "refused": counters.refused,
            "failures": counters.failures,
            "violations": dict(counters.violations),
            "buffered_bytes": self.buffered_bytes,
        }

    async def stop(self) -> None:
        """End all connections, those with a request at work when it is answered; open transactions are rolled back."""
        self._is_stopping = True
        for connection in list(self._connections):
            connection.finish(_STOPPING)
        if self._connections:
            self._all_gone.clear()
        else:
            self._all_gone.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await self._all_gone.wait()
        for connection in list(self._connections):
            connection.abort(_STOPPING)
        if self._sweep is not None:
            self._sweep.cancel()
        await asyncio.sleep(0)  # the end of each connection is called from the loop
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_S)
        for task in list(self._tasks):
            task.cancel()

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- connections --------------------------------------------------------------------------------------

    def admit(self, connection: Connection) -> Failure | None:
        """None, or why not."""
        if self._is_stopping:
            return Failure(NOT_LEADER, "not leader: the node is stopping")
        if len(self._connections) >= self.connections_max:
            self.counters.refused += 1
            event(
                log,
                logging.WARNING,
                "a client is refused: too many are connected",
                where=connection.where,
                connected=len(self._connections),
            )
            return Failure(ERROR, "too many connections to this node")
        self.counters.accepted += 1
        self._connections.add(connection)
        return None

    def gone(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._partial.discard(connection)
        self._stalled.discard(connection)
        self.buffered_bytes -= connection.forget_bytes()
        if not self._connections:
            self._all_gone.set()

    def violation(self, connection: Connection, kind: str, message: str) -> None:
        self.counters.violations[kind] += 1
        event(
            log,
            logging.WARNING,
            "a client broke the protocol",
            where=connection.where,
            kind=kind,
            reason=message,
        )

    def partial(self, connection: Connection, *, is_partial: bool) -> None:
        """A frame has begun to come, or is whole."""
        if not is_partial:
            if connection.partial_since is not None:
                connection.partial_since = None
                self._partial.discard(connection)
        elif connection.partial_since is None:
            connection.partial_since = self.now()
            self._partial.add(connection)
            self._watch()

    def stalled(self, connection: Connection) -> None:
        connection.stalled_since = self.now()
        connection.stalled_taken = connection.taken_bytes
        self._stalled.add(connection)
        self._watch()

    def flows(self, connection: Connection) -> None:
        connection.stalled_since = None
        self._stalled.discard(connection)

    def has_room_for(self, size: int) -> bool:
        """For so many more bytes of an answer beside those that clients do not take."""
        if size <= SMALL_BYTES:
            return True
        unsent = sum(connection.unsent_bytes for connection in self._stalled)
        return not unsent or unsent + size <= self.answers_bytes_max

    def _watch(self) -> None:
        if self._sweep is None and not self._is_stopping:
            self._sweep = self.loop.call_later(SWEEP_S, self.sweep)

    def sweep(self) -> None:
        """End connections that make no progress."""
        self._sweep = None
        now = self.now()
        for connection in list(self._partial):
            allowed_s = FRAME_S + connection.buffered_bytes / FRAME_RATE_BYTES
            if connection.partial_since is not None and now - connection.partial_since > allowed_s:
                self.violation(connection, "slow", "a message did not come to its end in time")
                connection.abort("a message did not come to its end in time")
        for connection in list(self._stalled):
            if connection.taken_bytes - connection.stalled_taken >= STALL_BYTES:
                self.stalled(connection)  # from now on
            if connection.stalled_since is not None and now - connection.stalled_since > STALL_S:
                self.violation(connection, "stalled", _STALLED)
                connection.abort(_STALLED)
        if self._partial or self._stalled:
            self._watch()


def starts_like_dqlite(first: bytes) -> bool | None:
    """Predicate for Listener.register_protocol."""
    head = first[:HANDSHAKE_BYTES]
    if head in _HANDSHAKES:
        return True
    return None if any(handshake.startswith(head) for handshake in _HANDSHAKES) else False


def _connections_max(wanted: int) -> int:
    """Half of the descriptors at most: the rest is for members, the journal and databases."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else min(wanted, max(8, soft // 2))
