"""Pins every database for a snapshot, each on its apply thread between two commits. Loop thread."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from functools import partial
from typing import Any

from dqlite_py.errors import OperationalError
from dqlite_py.model import LogIndex
from dqlite_py.node.applier import Applier
from dqlite_py.node.snapshot_source import PinnedState
from dqlite_py.raft.core import RaftCore
from dqlite_py.storage.pin import PinnedDatabase, pin


async def pin_all(core: RaftCore, applier: Applier) -> PinnedState:
    """Pin all databases: everything up to the returned index is in them (a database may be ahead of it).

    The calls queue behind all applies routed before them, so each database holds all entries up to `routed`.
    """
    routed = LogIndex(applier.dispatched_index)  # read BEFORE the calls are queued
    if routed == 0:
        raise OperationalError("there is no state to offer yet")
    at, now_us = core.snapshot_at(routed), applier.last_now_us
    calls = [
        worker.call(partial(pin_database, name, worker.path)) for name, worker in applier.workers.items()
    ]
    pinned: list[PinnedDatabase] = []
    try:
        for call in calls:
            pinned.append(await asyncio.wrap_future(call))
    except BaseException:
        for database in pinned:
            database.close()
        for call in calls[len(pinned) :]:
            # A pin that comes too late must not hold its WAL for ever.
            call.add_done_callback(_close_late)
        raise
    return PinnedState(at.index, at.term, at.configuration, tuple(pinned), now_us)


def pin_database(name: str, path: str, engine: Any) -> PinnedDatabase:
    """Pin one, on its apply thread."""
    return pin(path, name=name, applied_index=engine.applied_index, state_hash=engine.state_hash)


def _close_late(call: Future[PinnedDatabase]) -> None:
    if not call.cancelled() and call.exception() is None:
        call.result().close()
