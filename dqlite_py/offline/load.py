"""The contents of an SQLite file, brought into a running cluster through its log.

Small contents (ATOMIC_BYTES_MAX) are one transaction: what the database held is dropped in it, the new tables, rows,
indexes, views and triggers are made in it, and its COMMIT shows all of it at once, on every node. When the leader is
lost before, nothing of it has happened, and it is done again; a COMMIT in doubt is asked for by its key.
Larger contents do not fit into one log entry. They go as many, each repeated until it has taken effect once, into a
database that is empty: others can see it grow, and a failure leaves a part, which the error says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from dqlite_py.command import encode_statements
from dqlite_py.errors import (
    DatabaseLocked,
    Error,
    InterfaceError,
    NoLeader,
    NotLeader,
    NotSupportedError,
    Outcome,
    OutcomeUnknown,
    RequestTooLarge,
    TransactionEnded,
)
from dqlite_py.gateway import LINEARIZABLE, Gateway, TransactionLimits, WriteTransaction
from dqlite_py.limits import MIB
from dqlite_py.storage.source_file import Plan, SourceFile, SourceTable, quoted
from dqlite_py.units import encode_repeated_statements

Progress = Callable[[str, int, int], None]
ATOMIC_BYTES_MAX: Final = 64 * MIB  # of rows as they travel: far enough below the limit of one entry
BATCH_BYTES: Final = 1 * MIB
ATTEMPTS_MAX: Final = 20
_PAUSE_S: Final = 0.5
_LIMITS: Final = TransactionLimits(idle_s=60.0, hold_s=3600.0)
_STAGE: Final = "restore_rows_of_table_"
_STEP: Final = "restore_step"
_OLD: Final = (
    "SELECT type, name FROM sqlite_schema WHERE type IN ('table', 'view', 'trigger') AND name NOT GLOB '_dqlite_*' "
    "AND name NOT GLOB 'sqlite_*' AND tbl_name NOT GLOB '_dqlite_*' "
    "AND name NOT IN (SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'shadow') "
    "ORDER BY type = 'table', type = 'view', rowid DESC"
)
_ENDED: Final = (TransactionEnded, NoLeader, NotLeader, DatabaseLocked)  # nothing of it has happened


@dataclass(frozen=True, slots=True)
class Loaded:
    """`attempts`: how often the transaction was begun; 0: it went as many entries, not at once."""

    rows: int
    size_bytes: int
    attempts: int
    log_index: int


def load_database(
    gateway: Gateway,
    database: str,
    source: SourceFile,
    *,
    replace: bool = False,
    ignore_versions: bool = False,
    timeout_s: float = 60.0,
    progress: Progress | None = None,
) -> Loaded:
    """Make `database`, created when it does not exist, hold what `source` holds; see the module.

    replace: drop what it holds. ignore_versions: leave user_version and application_id, which the log cannot set.
    timeout_s: of each statement, and for a leader. Raises InterfaceError (it holds something), NotSupportedError,
    RequestTooLarge, OutcomeUnknown, or the error of a statement; nothing has changed, unless it says so.
    """
    check_versions(source, ignore_versions)
    gateway.open_database(database, timeout_s)
    work = _Load(gateway, database, source, timeout_s, progress)
    if source.size_bytes > 2 * ATOMIC_BYTES_MAX or work.measure() > ATOMIC_BYTES_MAX:
        return work.in_pieces(replace)
    return work.at_once(replace)


def check_versions(source: SourceFile, ignore_versions: bool) -> None:
    """Raise NotSupportedError for what the log cannot set, unless it may be left out."""
    plan = source.plan
    if not ignore_versions and (plan.user_version or plan.application_id):
        raise NotSupportedError(
            f"{source.path} has user_version {plan.user_version} and application_id {plan.application_id}, which a "
            "running cluster cannot set: say that they may be left out (--ignore-versions), or found a new cluster "
            "from the file (--dir)"
        )


def check_source(source: SourceFile, ignore_versions: bool) -> None:
    """Raise, before anything is dropped for it, what `load_database` would find in the file only later."""
    check_versions(source, ignore_versions)
    for table in source.plan.tables:
        for rows, size in source.batches(table, BATCH_BYTES):  # reads each value as it will be sent
            if size > BATCH_BYTES:
                encode_repeated_statements(table.insert, rows)


class _Load:
    def __init__(
        self, gateway: Gateway, database: str, source: SourceFile, timeout_s: float, progress: Progress | None
    ) -> None:
        self._gateway = gateway
        self._database = database
        self._source = source
        self._timeout_s = timeout_s
        self._progress = progress
        self._rows = self._done = 0
        self._total = source.size_bytes

    def measure(self) -> int:
        """Bytes of all rows, or as soon as it is known that they are too many."""
        total = 0
        for table in self._source.plan.tables:
            for _rows, size in self._source.batches(table, BATCH_BYTES):
                total += size
                if total > ATOMIC_BYTES_MAX:
                    return total
        self._total = total
        return total

    # -- one transaction

    def at_once(self, replace: bool) -> Loaded:
        deadline = time.monotonic() + self._timeout_s
        for attempt in range(1, ATTEMPTS_MAX + 1):
            self._rows = self._done = 0
            try:
                begun = self._gateway.begin(self._database, self._timeout_s, _LIMITS)
                try:
                    self._check_empty(begun, replace)
                    for body in self._bodies():
                        begun.run(body, self._timeout_s)
                    index = begun.commit(self._timeout_s).log_index
                finally:
                    begun.rollback()  # without effect behind a commit
                return Loaded(self._rows, self._done, attempt, index)
            except _ENDED as error:
                if error.outcome is not Outcome.NOT_APPLIED or attempt == ATTEMPTS_MAX:
                    raise
                if isinstance(error, NoLeader) and time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE_S)
                deadline = max(deadline, time.monotonic() + self._timeout_s / 2)
        raise AssertionError

    def _check_empty(self, begun: WriteTransaction, replace: bool) -> None:
        [found] = begun.run(encode_statements([(_OLD, ())]), self._timeout_s)
        old = [(str(row[0]), str(row[1])) for row in found.rows or ()]
        if old and not replace:
            raise _not_empty(self._database, [name for _type, name in old])
        for sql in _dropping(begun, old, self._timeout_s):
            begun.run(encode_statements([(sql, ())]), self._timeout_s)

    # -- many entries

    def in_pieces(self, replace: bool) -> Loaded:
        if replace:
            raise RequestTooLarge(
                f"{self._source.path} holds more than {ATOMIC_BYTES_MAX // MIB} MiB of rows, more than a database can "
                "be replaced by in one step: restore it under a new name, or say --drop-first"
            )
        found = self._gateway.query(self._database, _OLD, (), LINEARIZABLE, self._timeout_s)
        if found.rows:
            raise _not_empty(self._database, [str(row[1]) for row in found.rows])
        index = 0
        try:
            for body in self._bodies():
                index = self._gateway.execute_unit(self._database, body, self._timeout_s).log_index
        except Error as error:
            if index == 0 and error.outcome is Outcome.NOT_APPLIED:
                raise
            raise OutcomeUnknown(
                f"{error.message}; database {self._database} holds a part of {self._source.path} now: drop it before "
                "you restore it again",
                code=error.code,
            ) from error
        return Loaded(self._rows, self._done, 0, index)

    # -- what is done

    def _bodies(self) -> Iterator[bytes]:
        plan = self._source.plan
        for group in plan.groups:
            for table in group:
                yield encode_statements([(table.create, ())])
            if len(group) == 1 and not group[0].refers_to_itself:
                yield from self._rows_of(group[0], group[0].insert)
            else:
                yield from self._rows_at_once(group)
        yield from _sequences(plan)
        for sql in plan.others:
            yield encode_statements([(sql, ())])
        for name in plan.analyzed:
            yield encode_statements([(f"ANALYZE {quoted(name)}", ())])

    def _rows_at_once(self, group: Sequence[SourceTable]) -> Iterator[bytes]:
        """All rows of these tables in one statement, so that each finds what it refers to."""
        moves = []
        for number, table in enumerate(group):
            stage = f"{_STAGE}{number}"
            columns = ", ".join(f"c{place}" for place in range(len(table.columns)))
            yield encode_statements([(f"CREATE TABLE {stage}({columns})", ())])
            yield from self._rows_of(
                table, f"INSERT INTO {stage} VALUES ({', '.join('?' * len(table.columns))})"
            )
            into = f"{quoted(table.name)}({', '.join(table.columns)})"
            moves.append(f"INSERT INTO {into} SELECT {columns} FROM {stage} ORDER BY rowid")
        dropping = [f"DROP TABLE {_STAGE}{number}" for number in range(len(group))]
        yield encode_statements([(sql, ()) for sql in (*_as_one(moves), *dropping)])

    def _rows_of(self, table: SourceTable, insert: str) -> Iterator[bytes]:
        for rows, size in self._source.batches(table, BATCH_BYTES):
            yield encode_repeated_statements(insert, rows)
            self._rows += len(rows)
            self._done += size
            if self._progress is not None:
                self._progress(f"{self._database}: {table.name}", self._done, max(self._done, self._total))


def _as_one(statements: Sequence[str]) -> list[str]:
    """Foreign keys are looked at when the statement ends that set off a trigger, not after each one in it."""
    return [
        f"CREATE TABLE {_STEP}(x)",
        f"CREATE TRIGGER {_STEP}_done AFTER INSERT ON {_STEP} BEGIN {'; '.join(statements)}; END",
        f"INSERT INTO {_STEP} VALUES (1)",
        f"DROP TABLE {_STEP}",
    ]


def _sequences(plan: Plan) -> Iterable[bytes]:
    for name, sequence in plan.sequences:
        yield encode_statements(
            [
                ("DELETE FROM sqlite_sequence WHERE name = ?", (name,)),
                ("INSERT INTO sqlite_sequence(name, seq) VALUES (?, ?)", (name, sequence)),
            ]
        )


def _dropping(begun: WriteTransaction, old: list[tuple[str, str]], timeout_s: float) -> Iterator[str]:
    """Statements in an order in which foreign keys let all of it go: children before parents."""
    for kind, name in old:
        if kind != "table":
            yield f"DROP {kind.upper()} {quoted(name)}"
    tables = {name.lower(): name for kind, name in old if kind == "table"}
    parents: dict[str, set[str]] = {}
    for low, name in tables.items():
        asked = encode_statements([('SELECT "table" FROM pragma_foreign_key_list(?)', (name,))])
        [found] = begun.run(asked, timeout_s)
        parents[low] = {str(row[0]).lower() for row in found.rows or ()} - {low}
    while tables:
        free = [low for low in tables if not any(low in parents[other] for other in tables)]
        if not free:  # a circle, and what it leads to
            yield from _as_one([f"DELETE FROM {quoted(name)}" for name in tables.values()])
        for low in free or list(tables):
            yield f"DROP TABLE {quoted(tables.pop(low))}"


def _not_empty(database: str, names: list[str]) -> Error:
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return InterfaceError(
        f"database {database} exists and holds {shown}: say --replace to drop that, or restore under a new name"
    )
