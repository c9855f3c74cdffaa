"""What clients were told, against what the log holds: nothing acknowledged is lost, nothing refused is there, nothing
is there twice, and no read is stale.

A client's write is one unit (clients.py): an INSERT of its (client, number) into `ops`, and a statement that makes it
the last writer of a register. The same tag is found in committed log entries, so every write's place in the log is
known, and the log's order is the order of all states. A read of a register shows the place of its last writer: it is
linearizable when that is not before any write acknowledged, or any place seen by a read that ended, before it began
(the log's order is the witness; values are unique, so nothing is guessed).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dqlite_py.model import Entry
from tests.simulation.cluster.checks_consensus import Fail
from tests.simulation.cluster.checks_reads import ReadFacts
from tests.simulation.cluster.checks_sessions import SessionFacts
from tests.simulation.cluster.checks_stale import StaleFacts
from tests.simulation.cluster.checks_streams import StreamFacts
from tests.simulation.cluster.checks_transactions import TransactionFacts
from tests.simulation.cluster.clients import INSERT, Operation

OpId = tuple[int, int]
"""(client, number): a client never uses a number twice."""


def tag_of(statements: Any) -> tuple[OpId, int] | None:
    """(operation, register) of a client's unit, by its statements; None for any other."""
    if len(statements) == 2 and statements[0][0] == INSERT:
        client, number = statements[0][1][:2]
        return (client, number), statements[1][1][0]
    return None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a write is in the log: `order` is (entry, position in it). `row`: so many writes has its database then."""

    order: tuple[int, int]
    register: int
    row: int = 0


NOWHERE: Final = (0, 0)


class ClientFacts:
    """Operations of all clients, by what the log and the callers' results say."""

    def __init__(self, fail: Fail) -> None:
        self._fail = fail
        self.places: dict[OpId, Place] = {}
        self.acked: dict[OpId, None] = {}
        self.sessions = SessionFacts()
        self.failed: dict[OpId, str] = {}  # certainly not done, and why
        self.unknown: dict[OpId, str] = {}
        self.reads = 0
        self.stale = StaleFacts(fail)
        self.levels = ReadFacts(fail, self.stale)
        self.streams = StreamFacts(fail)
        self.transactions = TransactionFacts(fail)
        self._floors: dict[OpId, int] = {}  # of stale reads under way; those of damaged nodes prove nothing
        self._reading: dict[OpId, tuple[int, int]] = {}  # what the read must show at least
        self._least: dict[
            int, tuple[int, int]
        ] = {}  # per register: acknowledged, or seen by a read that ended
        self._last: dict[int, OpId] = {}  # per register
        self._rows: Counter[str] = Counter()  # per database

    # -- the log -------------------------------------------------------------------------------------------

    def committed(self, entry: Entry) -> None:
        """`entry` is applied for the first time anywhere."""
        for position, (database, statements) in enumerate(self.sessions.effective(entry)):
            self.transactions.committed(database, (entry.index, position), statements)
            self.streams.committed(database, statements)
            tag = tag_of(statements)
            if tag is None:
                continue
            op, register = tag
            known = self.places.get(op)
            if known is not None:
                self._fail(
                    f"exactly once: write {op} is committed at entries {known.order[0]} and {entry.index}"
                )
            if op in self.failed:
                self._fail(
                    f"true outcomes: write {op} is committed at entry {entry.index}, its client was told that it "
                    f"certainly failed: {self.failed[op]}"
                )
            self._rows[database] += 1
            self.places[op] = Place((entry.index, position), register, self._rows[database])
            self._last[register] = op
            self.stale.committed(database, op, register, entry.index)
        self.streams.entry_ends(entry.index)

    # -- what clients are told -----------------------------------------------------------------------------

    def began(self, operation: Operation, is_damaged: bool = False) -> None:
        """An operation is about to be sent; is_damaged: to a node whose files somebody changed."""
        if operation.kind == "stale" and not is_damaged:
            self._floors[operation.client, operation.number] = self.stale.floor(
                operation.node, operation.life, operation.database
            )
        elif operation.kind == "read":
            self._reading[operation.client, operation.number] = self._least.get(operation.key, NOWHERE)

    def ended(self, operation: Operation, is_damaged: bool = False) -> None:
        """Its caller was told the outcome."""
        op = (operation.client, operation.number)
        if operation.kind == "stale":
            floor = self._floors.pop(op, None)
            if operation.outcome == "acknowledged" and floor is not None and not is_damaged:
                known = floor if operation.life >= 0 else 0
                self.stale.read(operation.node, operation.life, operation.database, operation.state, known)
        elif operation.kind == "read":
            least = self._reading.pop(op)
            if operation.outcome == "acknowledged":
                self._read(operation, least)
        elif operation.outcome == "acknowledged":
            self._acked(op, operation)
        elif operation.outcome == "failed":
            self._failed(op, operation.error)
        else:
            self.unknown[op] = operation.error

    def _acked(self, op: OpId, operation: Operation) -> None:
        place, row = self.places.get(op), operation.row
        if place is None:
            self._fail(f"acknowledged never lost: write {op} is acknowledged, but no node applied it")
        if row is not None and row != place.row:
            self._fail(f"answers: write {op} made row {place.row} of its database, its client is told {row}")
        self.acked[op] = None
        self._seen(place.register, place.order)
        self.levels.known(operation.database, operation.ended, place.row)
        if operation.log_index:
            self.levels.wrote(operation.database, operation.log_index, place.row)

    def _failed(self, op: OpId, error: str) -> None:
        place = self.places.get(op)
        if place is not None:
            self._fail(
                f"true outcomes: write {op} certainly failed ({error}), but it is committed at entry {place.order[0]}"
            )
        self.failed[op] = error

    def _seen(self, register: int, order: tuple[int, int]) -> None:
        if order > self._least.get(register, NOWHERE):
            self._least[register] = order

    def _read(self, operation: Operation, least: tuple[int, int]) -> None:
        self.reads += 1
        who, register, value = (
            f"client {operation.client} at {operation.node}",
            operation.key,
            operation.result,
        )
        order, count = NOWHERE, 0
        if value is not None:
            place = self.places.get(value)
            if place is None or place.register != register:
                self._fail(
                    f"reads: {who} reads write {value} in register {register}, which is not in the log"
                )
            order, count = place.order, place.row
        if order < least:
            self._fail(
                f"linearizable reads: {who} reads register {register} as of entry {order}, but entry {least} was "
                "acknowledged or read before the read began"
            )
        self._seen(register, order)
        self.levels.known(operation.database, operation.ended, count)

    # -- the end -------------------------------------------------------------------------------------------

    def final(self, contents: Mapping[str, Mapping[str, Sequence[Any]]]) -> None:
        """After all faults: per node the rows of `ops` (client, number) and `registers` (key, client, number)."""
        for name, tables in contents.items():
            self._check_ops(name, Counter(tables["ops"]))
            held = {key: (client, number) for key, client, number in tables["registers"]}
            if held != self._last:
                self._fail(f"equal states: the registers of {name} are {held}, by the log {self._last}")

    def _check_ops(self, name: str, times: Counter[OpId]) -> None:
        for op in self.acked:
            if times[op] != 1:
                self._fail(
                    f"acknowledged never lost: write {op} of entry {self.places[op].order[0]} is {times[op]} times at "
                    f"{name}"
                )
        for op, why in self.failed.items():
            if times[op]:
                self._fail(f"true outcomes: write {op} certainly failed ({why}), but it is at {name}")
        for op, count in times.items():
            if count > 1:
                self._fail(f"exactly once: write {op} is {count} times at {name}")
            if op not in self.places:
                self._fail(f"equal states: {name} holds write {op}, which is in no applied entry")
        missing = [op for op in self.places if op not in times]
        if missing:
            self._fail(f"equal states: {name} lacks the committed writes {missing[:5]}")
