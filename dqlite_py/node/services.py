"""RPC methods of a node: checked bodies in, plain values out. Loop thread.

`leader.*` and `raft.*` methods act on this node only and answer NotLeader elsewhere; the others may be asked of any
node and are passed on to the leader once. Errors travel as errors.Error.to_wire lists (raft.rpc).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from dqlite_py.command import check_unit, is_transaction
from dqlite_py.errors import (
    Error,
    MalformedMessage,
    OutcomeUnknown,
)
from dqlite_py.node.database_worker import unit_error
from dqlite_py.node.fields import (
    RESULTS_BYTES_MAX,
    TIMEOUT_S,
    database_of,
    field,
    timeout_of,
)
from dqlite_py.node.forwarding import pack_outcome
from dqlite_py.node.pending_write import PendingWrite
from dqlite_py.node.runtime_parts import Parts
from dqlite_py.node.tickets import Deadline
from dqlite_py.node.transaction_calls import settle
from dqlite_py.wire.rpc import error_body

Handler = Callable[[Any, Any], Awaitable[Any]]


class Services:
    """Registers the handlers on the transport."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def register(self) -> None:
        add = self._parts.transport.register
        for_nodes: dict[str, Handler] = {
            "leader.write": self.leader_write,
            "leader.open": self.leader_open,
            "leader.drop": self.leader_drop,
            "raft.read_index": self.read_index,
            "raft.lease_index": self.lease_index,
            "state.hash_at": self.state_hash_at,
            "state.suspect": self.state_suspect,
        }
        add("status", self.status, open_to_joiners=True)  # of nodes that do not belong to the cluster yet
        # Open to programs that are no members: with TLS they hold a certificate of the cluster's authority, without
        # it the node listens on loopback only or its operator said --insecure (node.settings).
        for_programs: dict[str, Handler] = {
            "sql.write": self.sql_write,
            "sql.open": self.sql_open,
            "sql.drop": self.sql_drop,
            "state.hash": self.state_hash,
        }
        for method, handler in (for_nodes | for_programs).items():
            add(method, handler)
        self._parts.programs.add(for_programs)

    # -- the leader's -----------------------------------------------------------------------------------------

    async def leader_write(self, _ctx: Any, body: Any) -> Any:
        """One answer for each unit: its packed outcome, or the wire form of its error."""
        database, units = database_of(body), field(body, "units", list)
        if not units or any(type(unit) is not bytes for unit in units):
            raise MalformedMessage("field 'units' must be a list of units", what="units")
        for unit in units:
            if is_transaction(check_unit(unit)):
                raise MalformedMessage("the unit of a transaction is proposed where it ran", what="units")
        deadlines = _deadlines(body, len(units))
        return _pack_answers(await self._parts.writes.submit_many_here(database, units, deadlines))

    async def leader_open(self, _ctx: Any, body: Any) -> Any:
        await self._parts.writes.open_here(database_of(body))

    async def leader_drop(self, _ctx: Any, body: Any) -> Any:
        return await self._parts.writes.drop_here(database_of(body))

    async def read_index(self, _ctx: Any, _body: Any) -> Any:
        return int(await self._parts.reads.read_index_here())

    async def lease_index(self, _ctx: Any, _body: Any) -> Any:
        return int(await self._parts.reads.lease_index_here())

    # -- any node's ---------------------------------------------------------------------------------------------

    async def sql_write(self, _ctx: Any, body: Any) -> Any:
        database, unit = database_of(body), check_unit(field(body, "unit", bytes))
        if is_transaction(unit):
            raise MalformedMessage("the unit of a transaction is proposed where it ran", what="unit")
        done: asyncio.Future[Any] = self._parts.loop.create_future()
        deadline = Deadline(timeout_of(body))
        self._parts.writes.submit(PendingWrite(database, b"", settle(done), deadline, once=False, unit=unit))
        _index, result = await done
        error = unit_error(result)
        if error is not None:
            raise error
        return result[1]

    async def sql_open(self, _ctx: Any, body: Any) -> Any:
        """Through the log, whatever is here; answers when it is here, too, or when the time is over: the log's time as
        known here, which a caller's next sequence exceeds."""
        database, deadline = database_of(body), Deadline(timeout_of(body))
        await self._parts.writes.open_database(database, deadline)
        while (
            database not in self._parts.applier().readers
            and not deadline.passed
            and not self._parts.view.is_spare
        ):
            await self._parts.view.wait_change(0.02)
        return self._parts.applier().log_time_us

    async def sql_drop(self, _ctx: Any, body: Any) -> Any:
        await self._parts.gateway.drop(database_of(body), Deadline(timeout_of(body)))

    async def state_hash(self, _ctx: Any, _body: Any) -> Any:
        """{database: [applied index of that database, 16 hex digits]} and the node's applied index."""
        applier = self._parts.applier()
        hashes = {
            name: [w.last_hash.index, f"{w.last_hash.value:016x}"]
            for name, w in applier.workers.items()
            if w.last_hash is not None
        }
        return {"applied_index": applier.applied_index, "databases": hashes}

    async def state_hash_at(self, _ctx: Any, body: Any) -> Any:
        return self._parts.hash_at(database_of(body), field(body, "index", int))

    async def state_suspect(self, _ctx: Any, body: Any) -> Any:
        self._parts.divergence.told(database_of(body), field(body, "index", int), field(body, "hash", int))

    async def status(self, _ctx: Any, _body: Any) -> Any:
        return self._parts.status()


def _deadlines(body: Any, count: int) -> list[Deadline]:
    """How long each unit may wait here before it is proposed."""
    waits = body.get("wait_ms", [int(TIMEOUT_S * 1000)] * count)
    if not (
        type(waits) is list
        and len(waits) == count
        and all(type(wait) is int and 0 < wait <= 3_600_000 for wait in waits)
    ):
        raise MalformedMessage(
            "field 'wait_ms' must be a number of milliseconds for each unit", what="wait_ms"
        )
    return [Deadline(wait / 1000) for wait in waits]


def _pack_answers(answers: list[Any]) -> list[Any]:
    packed: list[Any] = []
    room = RESULTS_BYTES_MAX
    for answer in answers:
        if isinstance(answer, Error):
            packed.append(error_body(answer))
            continue
        result = pack_outcome(answer)
        if len(result) > room:
            too_large = OutcomeUnknown(
                f"the write was committed, but its result of {len(result)} bytes does not fit into the leader's answer"
            )
            packed.append(error_body(too_large))
            continue
        room -= len(result)
        packed.append(result)
    return packed
