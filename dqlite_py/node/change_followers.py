"""Cursors for subscribers to a database's changes, and the entry in the log that lets changes be captured."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from dqlite_py.errors import Error, OperationalError, OutcomeUnknown
from dqlite_py.limits import REQUEST_TIMEOUT_MS
from dqlite_py.logs import event
from dqlite_py.node.change_hub import ChangeHub
from dqlite_py.node.cluster_view import ClusterView
from dqlite_py.node.database_worker import DatabaseWorker
from dqlite_py.node.local_gateway import LocalGateway
from dqlite_py.node.pending_write import PendingWrite
from dqlite_py.node.tickets import Deadline
from dqlite_py.node.writes import Writes
from dqlite_py.storage.changelog.cursor import Cursor
from dqlite_py.storage.changelog.log import ChangeLog
from dqlite_py.storage.engine_api import FOLLOW_SQL
from dqlite_py.units import encode_statements

FOLLOW_AGAIN_S: Final = 1.0
_FOLLOW: Final = encode_statements([(FOLLOW_SQL, ())])
log = logging.getLogger("dqlite_py.changes")


class ChangeFollowers:
    """Opens cursors for subscribers: has the database captured when it is not yet. Any thread but the loop's."""

    def __init__(
        self, hub: ChangeHub, *, gateway: LocalGateway, workers: Callable[[], Mapping[str, DatabaseWorker]]
    ) -> None:
        self._hub = hub
        self._gateway = gateway
        self._workers = workers

    def follow(self, database: str, after: int | None, timeout_s: float) -> Cursor:
        """A cursor behind log index `after`; None: behind what is applied here now.

        Raises NoLeader and its like only where the database was never followed in this cluster: that goes through the
        log once. A `KeyboardInterrupt` leaves nothing behind but the wish to capture.
        """
        end = time.monotonic() + timeout_s
        self._gateway.open_database(database, timeout_s)
        wanted = self._hub.want(database)
        is_kept, applied = self._keep(database, wanted, end)
        if not is_kept:
            try:
                self._gateway.execute_unit(database, _FOLLOW, max(0.001, _left(end)), once=False)
            except OutcomeUnknown:
                event(log, logging.INFO, "whether a database is followed is not known yet", database=database)
            applied = self._wait_until_kept(database, wanted, end)
        return Cursor(wanted, database, applied if after is None else after)

    def _keep(self, database: str, wanted: ChangeLog, end: float) -> tuple[bool, int]:
        """Whether its changes are captured now, and its applied index."""
        worker = self._workers().get(database)
        if worker is None:
            raise OperationalError(f"no such database here (yet): {database}")
        work = worker.call(lambda engine: (engine.keep_changes(wanted), int(engine.applied_index)))
        try:
            return work.result(_left(end))
        except TimeoutError:
            raise OperationalError(
                f"database {database} is busy: its changes could not be asked for"
            ) from None

    def _wait_until_kept(self, database: str, wanted: ChangeLog, end: float) -> int:
        """The entry is committed; this node may be behind. Returns the applied index from which on it captures."""
        changed = threading.Event()
        while True:
            extent = wanted.extent
            is_kept, applied = self._keep(database, wanted, end)
            if is_kept:
                return applied
            if wanted.call_when_changed(extent, changed.set) and not changed.wait(_left(end)):
                wanted.forget(changed.set)
                raise OperationalError(
                    f"database {database} is followed, but this node has not caught up yet"
                )
            changed.clear()


async def follow_all(
    workers: Callable[[], Mapping[str, DatabaseWorker]], view: ClusterView, writes: Writes
) -> None:
    """Where a node keeps all changes: have every database followed, as soon as it is there and there is a leader. Loop
    thread."""
    asked: dict[str, DatabaseWorker] = {}
    while True:
        asked = {name: worker for name, worker in asked.items() if workers().get(name) is worker}
        for name, worker in list(workers().items()):
            if name in asked:
                continue
            try:
                if not await asyncio.wrap_future(worker.call(lambda engine: engine.is_followed)):
                    await _announce(name, writes)
                asked[name] = worker
            except Error as error:
                event(log, logging.INFO, "changes are not kept yet", database=name, reason=error)
        await view.wait_change(FOLLOW_AGAIN_S)


async def _announce(database: str, writes: Writes) -> None:
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def done(_outcome: Any, error: Error | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(None)
        else:
            answer.set_exception(error)

    writes.submit(PendingWrite(database, _FOLLOW, done, Deadline(REQUEST_TIMEOUT_MS / 1000), once=False))
    await answer


def _left(end: float) -> float:
    return max(0.0, end - time.monotonic())
