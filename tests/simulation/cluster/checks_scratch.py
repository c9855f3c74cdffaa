"""Databases that come and go: what their callers were told, against the log.

Whether a scratch database exists after an entry follows from the OPEN and DROP commands before it; a unit for one that
does not exist has no effect, and its caller must not hear that it has. A LIFE of a database is from an OPEN that made
it to the DROP that ended it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgpack

from dqlite_py.command import CommandKind
from dqlite_py.model import Entry
from tests.simulation.cluster.checks_consensus import Fail
from tests.simulation.cluster.checks_sessions import SessionFacts
from tests.simulation.cluster.checks_transactions import flat

OpId = tuple[int, int]
SCRATCH: Final = ("scratch", "scratch-2")
MAKE: Final = "CREATE TABLE IF NOT EXISTS marks(client INTEGER, number INTEGER, filler BLOB)"
MARK: Final = "INSERT INTO marks(client, number, filler) VALUES (?, ?, ?)"
NEWEST: Final = "SELECT client, number FROM marks ORDER BY rowid DESC LIMIT 1"
ALL_MARKS: Final = "SELECT client, number FROM marks ORDER BY rowid"
WRITES: Final = ("write", "transact")
NOWHERE: Final = (0, 0)
_HEAD_BYTES: Final = 32  # version, kind and name are in them


@dataclass(slots=True)
class Asked:
    """An operation on a scratch database. `kind`: open, drop, write, transact or read.

    `result` of a read: the newest mark."""

    client: int
    number: int
    kind: str
    database: str
    node: str
    outcome: str = "pending"  # acknowledged, failed, unknown
    error: str = ""
    result: OpId | None = None
    is_committing: bool = False
    # What the log held when it began:
    opens: int = 0
    drops: int = 0
    least: tuple[int, int] = NOWHERE

    @property
    def op(self) -> OpId:
        return self.client, self.number


def _op_of(statements: Sequence[Any]) -> OpId | None:
    """Of a scratch client's unit, by its statements, or of its transaction, by its groups."""
    return next(((params[0], params[1]) for sql, params in flat(statements) if sql == MARK), None)


@dataclass(slots=True)
class _Database:
    life: int = 0  # the entry that made it; 0: it does not exist
    rows: list[OpId] = field(default_factory=list)
    opens: int = 0  # commands in the log, with or without an effect
    drops: list[int] = field(default_factory=list)  # entries
    least: tuple[int, int] = NOWHERE  # acknowledged, or seen by a read that ended


class ScratchFacts:
    """All scratch databases, by what the log and the callers' results say."""

    def __init__(self, fail: Fail) -> None:
        self._fail = fail
        self._databases = {name: _Database() for name in SCRATCH}
        self.places: dict[OpId, tuple[int, int]] = {}  # of writes with an effect: (entry, position)
        self.void: dict[OpId, int] = {}  # committed where no database was
        self._failed: dict[OpId, str] = {}
        self._transacting: dict[OpId, int] = {}  # so many drops were there when a transaction had begun
        self._began: Counter[tuple[str, str]] = (
            Counter()
        )  # (kind, database): asked for and not known to have failed
        self.lives = 0
        self._sessions = SessionFacts()

    # -- the log -------------------------------------------------------------------------------------------

    def committed(self, entry: Entry) -> None:
        """`entry` is applied for the first time anywhere."""
        if b"scratch" not in entry.payload[:_HEAD_BYTES]:
            return
        command = msgpack.unpackb(entry.payload, raw=False, use_list=False, strict_map_key=False)
        database = self._databases.get(command[2])
        if database is None:
            return
        if command[1] == CommandKind.OPEN:
            self._opened(command[2], database, entry.index)
        elif command[1] == CommandKind.DROP:
            self._dropped(command[2], database, entry.index)
        elif not database.life:
            for _session, _sequence, statements, *_digest in command[6]:
                self._void(_op_of(statements), entry.index)
        for position, (_name, statements) in enumerate(self._sessions.effective(entry)):
            self._marked(database, _op_of(statements), (entry.index, position))

    def _opened(self, name: str, database: _Database, index: int) -> None:
        database.opens += 1
        if database.opens > self._began["open", name]:
            self._fail(
                f"true outcomes: entry {index} opens {name}, but whoever asked for it was told it failed"
            )
        if not database.life:
            database.life = index
            self.lives += 1

    def _dropped(self, name: str, database: _Database, index: int) -> None:
        database.drops.append(index)
        if len(database.drops) > self._began["drop", name]:
            self._fail(
                f"true outcomes: entry {index} drops {name}, but whoever asked for it was told it failed"
            )
        database.life = 0
        database.rows.clear()

    def _void(self, op: OpId | None, index: int) -> None:
        """It is committed where no database is; with a key perhaps not for the first time."""
        if op is not None:
            self.void.setdefault(op, index)

    def _marked(self, database: _Database, op: OpId | None, place: tuple[int, int]) -> None:
        """It takes effect: in no other life of the database, nor before it had one."""
        if op is None:
            return
        if op in self.places or op in self.void:
            self._fail(f"exactly once: scratch write {op} is committed again at entry {place[0]}")
        if op in self._failed:
            self._fail(
                f"true outcomes: scratch write {op} takes effect at entry {place[0]}, its caller was told that it "
                f"certainly failed: {self._failed[op]}"
            )
        if len(database.drops) > self._transacting.get(op, len(database.drops)):
            self._fail(
                f"transactions: scratch write {op} takes effect at entry {place[0]}, its transaction had begun before "
                f"the database was dropped at {database.drops[-1]}"
            )
        self.places[op] = place
        database.rows.append(op)

    # -- what callers are told ---------------------------------------------------------------------------------

    def began(self, asked: Asked) -> None:
        database = self._databases[asked.database]
        asked.opens, asked.drops, asked.least = database.opens, len(database.drops), database.least
        self._began[asked.kind, asked.database] += 1

    def transacts(self, asked: Asked) -> None:
        """Its transaction has begun."""
        self._transacting[asked.op] = len(self._databases[asked.database].drops)

    def is_dropped(self, asked: Asked) -> bool:
        """The database went while its transaction was open."""
        drops = len(self._databases[asked.database].drops)
        return drops > self._transacting.get(asked.op, drops)

    def ended(self, asked: Asked) -> None:
        database = self._databases[asked.database]
        if asked.outcome == "failed":
            self._began[asked.kind, asked.database] -= 1
            self._ended_in_failure(asked, database)
            done = {"open": database.opens, "drop": len(database.drops)}.get(asked.kind, 0)
            if done > self._began[asked.kind, asked.database] and asked.kind in ("open", "drop"):
                self._fail(
                    f"true outcomes: {asked.kind} of {asked.database} failed ({asked.error}), but is in the log"
                )
        elif asked.outcome != "acknowledged":
            return
        elif asked.kind == "open" and database.opens == asked.opens:
            self._fail(
                f"acknowledged never lost: {asked.database} was opened at {asked.node}, no entry says so"
            )
        elif asked.kind == "drop":
            if len(database.drops) == asked.drops:
                self._fail(
                    f"acknowledged never lost: {asked.database} was dropped at {asked.node}, no entry says so"
                )
            self._seen(database, (database.drops[asked.drops], 0))
        elif asked.kind in WRITES:
            place = self.places.get(asked.op)
            if place is None:
                where = self.void.get(asked.op, "none")
                self._fail(f"acknowledged never lost: scratch write {asked.op} has no effect (entry {where})")
            self._seen(database, place)
        elif asked.kind == "read":
            self._read(asked, database)

    def _ended_in_failure(self, asked: Asked, database: _Database) -> None:
        if asked.kind in WRITES:
            if asked.op in self.places:
                self._fail(
                    f"true outcomes: scratch write {asked.op} certainly failed ({asked.error}), but takes effect at "
                    f"entry {self.places[asked.op][0]}"
                )
            self._failed[asked.op] = asked.error
        elif asked.kind == "read" and "no such" in asked.error:
            was_written = asked.least > (database.drops[-1] if database.drops else 0, 0)
            if was_written and len(database.drops) == asked.drops:
                self._fail(
                    f"linearizable reads: {asked.database} at {asked.node} says {asked.error!r}, but entry "
                    f"{asked.least} was acknowledged or read in it before, and nobody dropped it"
                )

    def _read(self, asked: Asked, database: _Database) -> None:
        order = NOWHERE
        if asked.result is not None:
            if asked.result not in self.places:
                self._fail(
                    f"reads: {asked.node} reads {asked.result} in {asked.database}, which the log has not"
                )
            order = self.places[asked.result]
        if order < asked.least:
            self._fail(
                f"linearizable reads: {asked.database} is read at {asked.node} as of entry {order}, but entry "
                f"{asked.least} was acknowledged or read before the read began"
            )
        self._seen(database, order)

    @staticmethod
    def _seen(database: _Database, order: tuple[int, int]) -> None:
        database.least = max(database.least, order)

    # -- the end -------------------------------------------------------------------------------------------

    def exists(self, name: str) -> bool:
        return bool(self._databases[name].life)

    def final(self, contents: Mapping[str, Mapping[str, Sequence[OpId]]]) -> None:
        """After all faults: per node the marks of every scratch database that it has (no table: none)."""
        for node, found in contents.items():
            for name, database in self._databases.items():
                if (name in found) != bool(database.life):
                    self._fail(
                        f"equal states: {name} {'exists' if name in found else 'does not exist'} at {node}, by the log "
                        f"it was {'made' if database.life else 'dropped'}"
                    )
                if list(found.get(name, ())) != database.rows:
                    self._fail(
                        f"equal states: {name} of {node} holds {found.get(name)}, by the log {database.rows}"
                    )
