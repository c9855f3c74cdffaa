"""Interactive transactions, against the log: each is there once or not at all, and what it read was the state there.

A transaction adds one to a counter: it reads it, and writes what it has read plus one into `counters`, and both into
`steps`. So its entry says what it read. Other writers add one in a single unit. The log's order is the order of all
states, so every counter's value before an entry is known: a lost update shows as a value that was read twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tests.simulation.cluster.checks_consensus import Fail

OpId = tuple[int, int]
Counter = tuple[str, int]
"""Database and key."""
Step = tuple[int, int, int, int, int]
"""Client, number, key, the value read, the value written."""
TRANSACTION_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS counters(key INTEGER PRIMARY KEY, value INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS steps(client INTEGER, number INTEGER, key INTEGER, seen INTEGER, value INTEGER)",
)
READ: Final = "SELECT value FROM counters WHERE key = ?"
STEP: Final = "INSERT INTO steps(client, number, key, seen, value) VALUES (?, ?, ?, ?, ?)"
STORE: Final = "INSERT OR REPLACE INTO counters(key, value) VALUES (?, ?)"
UNDONE: Final = "INSERT INTO steps(client, number, key, seen, value) VALUES (?, ?, ?, -1, -1)"
"""In a savepoint that is rolled back."""
ADD: Final = "INSERT INTO counters(key, value) VALUES (?, 1) ON CONFLICT(key) DO UPDATE SET value = value + 1"
ADDED: Final = (
    "INSERT INTO steps(client, number, key, seen, value) "
    "SELECT ?, ?, key, value - 1, value FROM counters WHERE key = ?"
)
ALL_STEPS: Final = "SELECT client, number, key, seen, value FROM steps ORDER BY rowid"
ALL_COUNTERS: Final = "SELECT key, value FROM counters ORDER BY key"


@dataclass(slots=True)
class Transacted:
    """`kind`: immediate, deferred, or unit (no transaction). `seen`: what it read, None for nothing yet."""

    client: int
    number: int
    kind: str
    database: str
    key: int
    node: str
    outcome: str = "pending"  # acknowledged, failed (certainly without a trace), unknown
    error: str = ""
    seen: int | None = None
    is_committing: bool = False
    floor: int = 0  # what it must see at least

    @property
    def op(self) -> OpId:
        return self.client, self.number

    @property
    def counter(self) -> Counter:
        return self.database, self.key


def flat(statements: Any) -> Iterator[tuple[str, Any]]:
    """The statements of a unit, or of all groups of a transaction, with their whole SQL."""
    for item in statements:
        if not isinstance(item, tuple) or not item or isinstance(item[0], tuple):
            yield from flat(item)
            continue
        sql, params = item
        if isinstance(sql, int):
            sql = [other[0] for other in statements if isinstance(other[0], str)][sql]
        yield sql, params


class TransactionFacts:
    """All counters, by what the log and the callers' results say."""

    def __init__(self, fail: Fail) -> None:
        self._fail = fail
        self.places: dict[OpId, tuple[int, int]] = {}  # entry, position in it
        self.failed: dict[OpId, str] = {}
        self.steps: dict[str, list[Step]] = defaultdict(list)
        self.values: dict[Counter, int] = {}
        self._least: dict[Counter, int] = {}  # acknowledged, or read by somebody
        self._keys: dict[OpId, Counter] = {}

    # -- the log -------------------------------------------------------------------------------------------

    def committed(self, database: str, place: tuple[int, int], statements: Any) -> None:
        """A unit that takes effect is applied for the first time anywhere."""
        for sql, params in flat(statements):
            if sql == STEP:
                client, number, key, seen, value = params
                self._stepped(database, place, (client, number, key, seen, value))
            elif sql == ADDED:
                client, number, key = params
                known = self.values.get((database, key), 0)
                self._stepped(database, place, (client, number, key, known, known + 1))

    def _stepped(self, database: str, place: tuple[int, int], step: Step) -> None:
        client, number, key, seen, value = step
        op, counter = (client, number), (database, key)
        if op in self.places:
            self._fail(
                f"exactly once: transaction {op} is committed at {self.places[op]} and at {place} (entry, position)"
            )
        if op in self.failed:
            self._fail(
                f"true outcomes: transaction {op} is committed at entry {place[0]}, but its caller was told that "
                f"nothing of it happened: {self.failed[op]}"
            )
        known = self.values.get(counter, 0)
        if seen != known or value != seen + 1:
            self._fail(
                f"strict serializability: transaction {op} of entry {place[0]} has read {seen} in {counter} and "
                f"writes {value}, by the log the counter is {known} there"
            )
        self.places[op] = place
        self.values[counter] = value
        self.steps[database].append(step)

    # -- what callers are told ---------------------------------------------------------------------------------

    def began(self, transacted: Transacted) -> None:
        transacted.floor = self._least.get(transacted.counter, 0)

    def read(self, transacted: Transacted, value: int) -> None:
        """A statement of it has answered. It may be the last that it does, so nothing in the log need say so."""
        transacted.seen = value
        newest = self.values.get(transacted.counter, 0)
        if not transacted.floor <= value <= newest:
            self._fail(
                f"transactions: {transacted.op} reads {value} in {transacted.counter} at {transacted.node}; "
                f"{transacted.floor} was known when it began, and {newest} is the newest"
            )
        self._known(transacted.counter, value)

    def ended(self, transacted: Transacted) -> None:
        op = transacted.op
        place = self.places.get(op)
        if transacted.outcome == "failed":
            if place is not None:
                self._fail(
                    f"true outcomes: nothing of transaction {op} happened ({transacted.error}), but it is committed "
                    f"at entry {place[0]}"
                )
            self.failed[op] = transacted.error
        elif transacted.outcome == "acknowledged":
            if place is None:
                self._fail(
                    f"acknowledged never lost: transaction {op} is acknowledged, but no node applied it"
                )
            self._known(transacted.counter, self._value_of(transacted))

    def _value_of(self, transacted: Transacted) -> int:
        return next(
            value
            for client, number, _key, _seen, value in reversed(self.steps[transacted.database])
            if (client, number) == transacted.op
        )

    def _known(self, counter: Counter, value: int) -> None:
        self._least[counter] = max(self._least.get(counter, 0), value)

    # -- the end -------------------------------------------------------------------------------------------

    def final(self, name: str, database: str, steps: Sequence[Step], counters: Mapping[int, int]) -> None:
        """After all faults: the tables of one node."""
        if list(steps) != self.steps[database]:
            self._fail(
                f"equal states: {name} holds the steps {_difference(steps, self.steps[database])} of {database}"
            )
        known = {key: value for (of, key), value in self.values.items() if of == database}
        if dict(counters) != known:
            self._fail(
                f"equal states: {database} of {name} holds the counters {counters}, by the log {known}"
            )


def _difference(found: Sequence[Step], known: Sequence[Step]) -> str:
    for position, (here, there) in enumerate(zip(found, known, strict=False)):
        if here != there:
            return f"{here} instead of {there} at {position}"
    return f"({len(found)} instead of {len(known)})"
