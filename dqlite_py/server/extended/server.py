"""All extended connections of a node: who they are told that it is, how many, how much, and who is silent. Loop thread.

Made before the node listens; `methods` fills when the node is ready. Its connections end by `stop`, or with the
listener's sockets.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Callable
from typing import Any, Final

from dqlite_py.limits import (
    EXTENDED_CONNECTIONS_MAX,
    HANDSHAKE_TIMEOUT_MS,
    IDLE_TIMEOUT_MS,
    RPC_RUNNING_BYTES_MAX,
)
from dqlite_py.logs import event
from dqlite_py.node.programs import ProgramMethods
from dqlite_py.raft.quietlog import QuietLog
from dqlite_py.raft.transport import PeerTransport
from dqlite_py.server.extended.connection import ExtendedConnection
from dqlite_py.wire.dqlite.extension import starts_extended
from dqlite_py.wire.handshake import LocalIdentity

log = QuietLog(logging.getLogger(__name__))
_STOP_WAIT_S: Final = 0.25
STALL_S: Final = 60.0  # a program that takes no answers, or does not end its request, for so long is given up


class ExtendedServer:
    """`connections`: with a socket, `count_max` at most. `held_bytes`: of calls at work and answers that wait for
    room; `pieces_bytes`: of messages that are not whole; `unsent_bytes`: of answers that are not taken. Each may be
    `held_bytes_max`."""

    def __init__(
        self,
        methods: ProgramMethods,
        who: Callable[[], LocalIdentity],
        *,
        handshake_ms: float = HANDSHAKE_TIMEOUT_MS,
        idle_ms: float = IDLE_TIMEOUT_MS,
        held_bytes_max: int = RPC_RUNNING_BYTES_MAX,
        stall_ms: float = STALL_S * 1000,
    ) -> None:
        self.methods = methods
        self.who = who
        self.held_bytes = self.pieces_bytes = self.unsent_bytes = 0
        self.held_bytes_max = held_bytes_max
        self.is_stopping = False
        self.refused_count = 0  # openings, and connections closed for what they sent
        self._handshake_s = handshake_ms / 1000
        self._idle_s = idle_ms / 1000
        self._stall_s = stall_ms / 1000
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.count_max = EXTENDED_CONNECTIONS_MAX
        if soft != resource.RLIM_INFINITY:
            self.count_max = min(self.count_max, max(8, soft // 2))
        self.connections: dict[ExtendedConnection, None] = {}
        self._sweeping: asyncio.TimerHandle | None = None
        self._sweep_due = 0.0

    def serve_on(self, transport: PeerTransport) -> None:
        """Take the connections of the transport's address that ask for the extension."""
        self.methods.serve_also(transport.open_method)
        transport.register_protocol(starts_extended, self.make_connection, self.stop)

    def make_connection(self) -> ExtendedConnection:
        """The protocol of a connection, to be fed from the handshake on."""
        return ExtendedConnection(self)

    @property
    def is_full(self) -> bool:
        return len(self.connections) > self.count_max

    def status(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "connections": len(self.connections),
            "refused": self.refused_count,
            "held_bytes": self.held_bytes,
        }

    def opened(self, connection: ExtendedConnection) -> None:
        """Its socket is there; nothing has been heard."""
        self.connections[connection] = None
        if self._sweeping is None:
            self._plan_sweep()

    def gone(self, connection: ExtendedConnection) -> None:
        """Nothing is asked by it any more."""
        if connection in self.connections:
            del self.connections[connection]
            self.methods.caller_gone(connection)
        if not self.connections and self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None

    def refused(self, where: str, reason: str) -> None:
        self.refused_count += 1
        event(log, logging.WARNING, "a program is refused", where=where, reason=reason)

    async def stop(self) -> None:
        """End what runs, send what is answered, close."""
        self.is_stopping = True
        connections = list(self.connections)
        await asyncio.gather(*(connection.stop() for connection in connections))
        try:
            async with asyncio.timeout(_STOP_WAIT_S):
                for connection in connections:
                    await connection.lost.wait()
        except TimeoutError:
            for connection in connections:
                connection.abort("the node stops")

    def _plan_sweep(self) -> None:
        step_s = min(0.25, self._handshake_s / 4, self._idle_s / 8)
        loop = asyncio.get_running_loop()
        self._sweep_due = loop.time() + step_s
        self._sweeping = loop.call_later(step_s, self._sweep)

    def _sweep(self) -> None:
        """Close who does not introduce itself, and who is silent: its process or machine is gone."""
        now = asyncio.get_running_loop().time()
        # After a stall of the loop, what was sent meanwhile may still be unread: nobody is judged now.
        stalled = now - self._sweep_due > self._idle_s / 4
        self._plan_sweep()
        if stalled:
            return
        for connection in list(self.connections):
            connection.note_heard(now)
            silent_s = now - connection.heard_at
            if silent_s > (self._idle_s if connection.is_open else self._handshake_s):
                connection.abort(f"nothing heard for {silent_s:.1f} s")
            elif connection.stalled_since is not None and now - connection.stalled_since > self._stall_s:
                connection.abort("it takes no answers")
            elif connection.holds_pieces and now - connection.piece_at > self._stall_s:
                connection.abort("a message did not come to its end in time")
