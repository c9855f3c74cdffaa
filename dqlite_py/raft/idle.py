"""Connections on which nothing happens: asked with a ping, then given up. Called by raft/transport.py in its rounds."""

from __future__ import annotations

from dqlite_py.raft.connection import Connection, TransportTiming
from dqlite_py.raft.rpc import PendingCalls
from dqlite_py.wire.handshake import Purpose


def check_idle(
    connection: Connection, calls: PendingCalls | None, timing: TransportTiming, now: float
) -> None:
    """Close or ping `connection` if it is time to; `calls` are those made on it, None when we did not dial it."""
    connection.note_activity(now)
    idle_s = timing.idle_ms / 1000
    if now - connection.received_at > idle_s:
        connection.abort(f"nothing received for {timing.idle_ms:.0f} ms")
    elif calls is None:
        return
    elif connection.purpose is Purpose.CLIENT and not len(calls) and not connection.keepers:
        if now - calls.used_at > idle_s / 2:
            connection.close("not used any more")
    elif now - min(connection.received_at, connection.sent_at) > timing.ping_ms / 1000:
        connection.ping()
