"""Streams of changes, against the log: what became of every row, entry by entry, in its order and nothing else.

The log's effective units are executed a second time by a small model of the clients' statements, which tells for each
entry what rows are different after it. A consumer must be told exactly these, once, in the log's order, wherever it
goes on; when it cannot be, it must be told where to start again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from dqlite_py.changes import ROWID, Change, ChangeKind
from dqlite_py.errors import ChangesCompacted
from tests.simulation.cluster.checks_consensus import Fail
from tests.simulation.cluster.checks_transactions import ADD, ADDED, STEP, STORE, UNDONE, flat

Row = tuple[Any, ...]
Key = tuple[str, int]
"""Table, and its key or rowid."""
INSERT: Final = "INSERT INTO ops(client, number, filler) VALUES (?, ?, ?)"
SET: Final = "INSERT OR REPLACE INTO registers(key, client, number) VALUES (?, ?, ?)"
TWICE: Final = "INSERT INTO registers(key) VALUES (?)"
COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "ops": ("client", "number", "filler"),
    "registers": ("key", "client", "number"),
    "counters": ("key", "value"),
    "steps": ("client", "number", "key", "seen", "value"),
}
_ORDER: Final = {ChangeKind.SCHEMA: 0, ChangeKind.DELETE: 1, ChangeKind.UPDATE: 2, ChangeKind.INSERT: 3}


@dataclass(slots=True)
class Consumer:
    """Of one database. `position`: everything up to this log index was told, or read from the tables."""

    index: int
    database: str
    position: int
    node: str = ""
    told: int = 0  # entries


class _Tables:
    """One database as the log makes it."""

    def __init__(self) -> None:
        self.rows: dict[Key, Row] = {}
        self.counts = {"ops": 0, "steps": 0}
        self.before: dict[Key, Row | None] = {}  # of what the present entry touches
        self.indexes: list[int] = []
        self.entries: list[dict[Key, tuple[Row | None, Row]]] = []

    def put(self, key: Key, row: Row) -> None:
        self.before.setdefault(key, self.rows.get(key))
        self.rows[key] = row

    def add(self, table: str, row: Row) -> None:
        self.counts[table] += 1
        self.put((table, self.counts[table]), row)

    def execute(self, statements: Sequence[tuple[str, Any]]) -> None:
        """Those of a unit that succeeds; what it takes back itself was taken out before."""
        for sql, params in statements:
            if sql == INSERT:
                self.add("ops", tuple(params))
            elif sql == SET:
                self.put(("registers", params[0]), tuple(params))
            elif sql == STEP:
                self.add("steps", tuple(params))
            elif sql == STORE:
                self.put(("counters", params[0]), tuple(params))
            elif sql == ADD:
                before = self.rows.get(("counters", params[0]), (0, 0))
                self.put(("counters", params[0]), (params[0], before[1] + 1))
            elif sql == ADDED:
                client, number, key = params
                value = self.rows["counters", key][1]
                self.add("steps", (client, number, key, value - 1, value))

    def entry_ends(self, index: int) -> None:
        """What is different now is what its consumers are told."""
        changed = {key: (old, self.rows[key]) for key, old in self.before.items() if old != self.rows[key]}
        self.before = {}
        if changed:
            self.indexes.append(index)
            self.entries.append(changed)


def kept(statements: Any) -> list[tuple[str, Any]]:
    """The statements of a unit without those that it takes back; none when it fails as a whole."""
    found: list[tuple[str, Any]] = []
    marks: list[tuple[str, int]] = []
    for sql, params in flat(statements):
        word, _, rest = sql.partition(" ")
        if sql == TWICE:
            return []
        if word == "SAVEPOINT":
            marks.append((rest, len(found)))
        elif sql.startswith("ROLLBACK TO "):
            while marks[-1][0] != rest.removeprefix("TO "):
                marks.pop()
            del found[marks[-1][1] :]
        elif word == "RELEASE":
            while marks.pop()[0] != rest:
                pass
        else:
            found.append((sql, params))
    assert all(sql != UNDONE for sql, _ in found)
    return found


class StreamFacts:
    """Fed with the log's units in their order, and with what streams tell."""

    def __init__(self, fail: Fail) -> None:
        self._fail = fail
        self._tables: dict[str, _Tables] = defaultdict(_Tables)

    # -- the log -------------------------------------------------------------------------------------------

    def committed(self, database: str, statements: Any) -> None:
        """A unit that takes effect; `entry_ends` follows its entry's last one."""
        self._tables[database].execute(kept(statements))

    def entry_ends(self, index: int) -> None:
        for tables in self._tables.values():
            tables.entry_ends(index)

    def newest(self, database: str) -> int:
        """The newest entry that changed a row of the database."""
        indexes = self._tables[database].indexes
        return indexes[-1] if indexes else 0

    def before(self, database: str, index: int, rng: Random) -> int:
        """One of the last entries before this one: where somebody may be who comes late."""
        indexes = self._tables[database].indexes
        place = bisect_right(indexes, index) - 1
        return indexes[max(0, place - rng.randrange(1, 6))] if place > 0 else 0

    # -- what consumers are told -----------------------------------------------------------------------------

    def reached(self, consumer: Consumer, position: int) -> None:
        """The stream says that nothing up to here is left to tell."""
        missed = self._next(consumer)
        if missed is not None and missed <= position:
            self._fail(
                f"changes: {consumer.node} tells consumer {consumer.index} of {consumer.database} nothing of entry "
                f"{missed}, behind {consumer.position} and up to {position}"
            )
        consumer.position = max(consumer.position, position)

    def told(self, consumer: Consumer, changes: Sequence[Change]) -> None:
        """All changes of one entry."""
        index, who = (
            changes[0].log_index,
            f"consumer {consumer.index} of {consumer.database} at {consumer.node}",
        )
        if index <= consumer.position:
            self._fail(f"changes: {who} is told of entry {index} again, it was at {consumer.position}")
        if any(change.log_index != index or change.is_last for change in changes[:-1]):
            self._fail(f"changes: {who} is told of entry {index} in parts: {changes}")
        order = [_ORDER[change.kind] for change in changes]
        if order != sorted(order):
            self._fail(f"changes: {who} is told of entry {index} in the order {changes}")
        self.reached(consumer, index - 1)
        expected = self._expected(consumer.database, index)
        found = [_shown(change) for change in changes if change.table in COLUMNS and _is_row(change)]
        if sorted(found, key=repr) != sorted(expected, key=repr):
            self._fail(f"changes: {who} is told of entry {index}: {found}; by the log it is {expected}")
        consumer.position = index
        consumer.told += 1

    def compacted(self, consumer: Consumer, after: int, error: ChangesCompacted) -> None:
        """The stream cannot go on: it says where one can start."""
        oldest, newest = error.details.get("oldest"), error.details.get("newest")
        if type(oldest) is not int or type(newest) is not int or not after < oldest <= newest:
            self._fail(
                f"changes: {consumer.node} does not follow {consumer.database} from {after}, and tells oldest "
                f"{oldest}, newest {newest}: {error}"
            )

    def starts_again(self, consumer: Consumer, log_index: int, oldest: int) -> None:
        """It has read the tables as of `log_index`, because changes are kept from `oldest` on."""
        if log_index < oldest:
            self._fail(
                f"changes: consumer {consumer.index} reads {consumer.database} at {consumer.node} as of {log_index}, "
                f"it was told that this is {oldest} or more"
            )
        consumer.position = max(consumer.position, log_index)

    # -- inside ----------------------------------------------------------------------------------------------

    def _next(self, consumer: Consumer) -> int | None:
        """The first entry that the consumer was not told of."""
        indexes = self._tables[consumer.database].indexes
        place = bisect_right(indexes, consumer.position)
        return indexes[place] if place < len(indexes) else None

    def _expected(self, database: str, index: int) -> list[Any]:
        tables = self._tables[database]
        place = bisect_right(tables.indexes, index) - 1
        if place < 0 or tables.indexes[place] != index:
            return []
        return [_wanted(key, old, new) for key, (old, new) in tables.entries[place].items()]


def _is_row(change: Change) -> bool:
    return change.kind is not ChangeKind.SCHEMA


def _shown(change: Change) -> tuple[Any, ...]:
    return change.table, change.kind.value, *(_sorted(part) for part in (change.key, change.old, change.new))


def _wanted(key: Key, old: Row | None, new: Row) -> tuple[Any, ...]:
    table, number = key
    columns = COLUMNS[table]
    name = columns[0] if columns[0] == "key" else ROWID
    place, after = _sorted({name: number}), dict(zip(columns, new, strict=True))
    if old is None:
        return table, "INSERT", place, None, _sorted(after)
    before = dict(zip(columns, old, strict=True))
    differs = [column for column in columns if before[column] != after[column]]
    return (
        table,
        "UPDATE",
        place,
        _sorted({column: before[column] for column in differs}),
        _sorted({column: after[column] for column in differs}),
    )


def _sorted(part: Mapping[str, Any] | None) -> tuple[tuple[str, Any], ...] | None:
    return None if part is None else tuple(sorted(part.items()))
