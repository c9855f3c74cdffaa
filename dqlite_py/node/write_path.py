"""Wires what a write passes on its way to the log. Called by node.runtime."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from dqlite_py.command import StateHash
from dqlite_py.node.applier import Applier
from dqlite_py.node.client_sessions import ClientSessions
from dqlite_py.node.cluster_view import ClusterView
from dqlite_py.node.log_clock import LogClock
from dqlite_py.node.proposals import DatabaseProposals
from dqlite_py.node.tickets import Inbox
from dqlite_py.node.writes import Call, Writes
from dqlite_py.ports import Clock
from dqlite_py.raft.host import RaftHost


def make_writes(
    *,
    loop: asyncio.AbstractEventLoop,
    view: ClusterView,
    host: RaftHost,
    call: Call,
    applier: Callable[[], Applier],
    clock: Clock,
    inbox: Inbox,
    sessions: ClientSessions,
) -> Writes:
    log_clock = LogClock(clock, lambda: applier().last_now_us)

    def state_hash(database: str) -> StateHash | None:
        worker = applier().workers.get(database)
        return None if worker is None else worker.last_hash

    def make_proposals(database: str, propose: Any) -> DatabaseProposals:
        return DatabaseProposals(
            database,
            propose=propose,
            now_us=log_clock.now_us,
            state_hash=state_hash,
            call_soon=inbox.soon,
            call_later=loop.call_later,
            pump=host.pump,
        )

    return Writes(
        loop=loop,
        view=view,
        propose=host.propose,
        pump=host.pump,
        call=call,
        make_proposals=make_proposals,
        now_us=log_clock.now_us,
        databases=lambda: applier().workers,
        sessions=sessions,
    )
