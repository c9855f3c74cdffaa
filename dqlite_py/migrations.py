"""Migrations: a folder of numbered .sql files, each applied to a database once, through the log (docs/migrations.md).

A file is one unit: the record that it was applied comes first, in the table TABLE, then its statements. So of several
programs that migrate at once one applies a file, and the others find its record. Works on a PEP 249 connection of
this package, embedded or remote, and needs nothing else of it than `execute` and `execute_atomic`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from dqlite_py.errors import DatabaseError, Error, IntegrityError, ProgrammingError
from dqlite_py.sqltext import split_script

TABLE: Final = "dqlite_migrations"
_NAME: Final = re.compile(r"([0-9]{1,18})[_-](.+)\.sql", re.ASCII | re.DOTALL)
_EXISTS: Final = f"SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = '{TABLE}'"
_CREATE: Final = (
    f"CREATE TABLE IF NOT EXISTS {TABLE} "
    "(version INTEGER PRIMARY KEY, name TEXT NOT NULL, sha256 TEXT NOT NULL, applied_at TEXT NOT NULL)"
)
_READ: Final = f"SELECT version, name, sha256, applied_at FROM {TABLE} ORDER BY version"
_RECORD: Final = f"INSERT INTO {TABLE} VALUES (?, ?, ?, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))"


class MigrationError(DatabaseError):
    """The files do not fit each other or the database; the message names the file and says what to do."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file. `sha256`: of its text with Unix line ends."""

    version: int
    name: str
    sha256: str
    statements: tuple[str, ...]


class MigrationState(NamedTuple):
    """`applied_at`: log time in UTC, ISO 8601; None: it is still to be applied."""

    version: int
    name: str
    applied_at: str | None


class Database(Protocol):
    """What is needed of dqlite_py.Connection."""

    @property
    def in_transaction(self) -> bool: ...
    def cursor(self) -> Any: ...
    def execute_atomic(self, statements: Iterable[Any], /) -> Any: ...


def load(folder: str | os.PathLike[str]) -> list[Migration]:
    """The folder's files by number, as 0001_name.sql; other files than .sql are left alone. Raises MigrationError."""
    found: dict[int, Migration] = {}
    try:
        paths = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() == ".sql")
    except OSError as error:
        raise MigrationError(f"the folder of migrations cannot be read: {error}") from None
    for path in paths:
        migration = _load_file(path)
        other = found.get(migration.version)
        if other is not None:
            raise MigrationError(
                f"{other.name} and {migration.name} have the same number {migration.version}: give one of them another"
            )
        found[migration.version] = migration
    return [found[version] for version in sorted(found)]


def status(
    connection: Database, folder: str | os.PathLike[str], *, allow_newer: bool = False
) -> list[MigrationState]:
    """What was applied and what `migrate` would apply, in order. Changes nothing; raises as `migrate` does.

    allow_newer: the database may have had migrations behind the folder's last one, as while a newer release of the
    program is being rolled out.
    """
    _check_idle(connection)
    return _status(load(folder), _applied(connection), allow_newer)


def migrate(
    connection: Database, folder: str | os.PathLike[str], *, allow_newer: bool = False
) -> list[Migration]:
    """Apply the files that the database has not had, in order, each all or nothing; returns those applied here.

    Safe to run on every start of every program: files that another one applies meanwhile are skipped. Raises
    MigrationError, before anything is applied, where a file was changed, is missing, or comes before one that was
    applied; the error of a failing statement, with the file's name and its details `statement` (from 0): nothing of the
    file was applied, and all before it were; OutcomeUnknown and its like, after which it may be run again.
    """
    _check_idle(connection)
    migrations = load(folder)
    states = _status(migrations, _applied(connection), allow_newer)
    applied_here: list[Migration] = []
    pending = [migration for migration in migrations if _is_pending(migration, states)]
    if pending:
        connection.execute_atomic([_CREATE])
    for migration in pending:
        if _apply(connection, migration):
            applied_here.append(migration)
        else:  # somebody else migrates: what it applied must be what is here
            _status(migrations, _applied(connection), allow_newer)
    return applied_here


def _load_file(path: Path) -> Migration:
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise MigrationError(f"{path.name} has no number: name it like 0001_what_it_does.sql")
    try:
        text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
        statements = tuple(split_script(text))
    except OSError as error:
        raise MigrationError(f"{path.name} cannot be read: {error}") from None
    except (UnicodeDecodeError, Error) as error:
        raise MigrationError(f"{path.name} is not SQL text: {error}") from None
    if not statements:
        raise MigrationError(f"{path.name} holds no statement")
    return Migration(int(match[1]), path.name, hashlib.sha256(text.encode()).hexdigest(), statements)


def _check_idle(connection: Database) -> None:
    if connection.in_transaction:
        raise ProgrammingError(
            "migrations are transactions of their own: end the connection's transaction first"
        )


def _applied(connection: Database) -> dict[int, tuple[str, str, str]]:
    """(name, sha256, applied_at) by version."""
    cursor = connection.cursor()
    cursor.row_factory = None
    try:
        if not cursor.execute(_EXISTS).fetchall()[0][0]:
            return {}
        return {row[0]: (row[1], row[2], row[3]) for row in cursor.execute(_READ).fetchall()}
    finally:
        cursor.close()


def _status(
    migrations: list[Migration], applied: dict[int, tuple[str, str, str]], allow_newer: bool
) -> list[MigrationState]:
    here = {migration.version: migration for migration in migrations}
    newest_here, newest = max(here, default=0), max(applied, default=-1)
    for version, (name, _, _) in sorted(applied.items()):
        if version not in here and not (allow_newer and version > newest_here):
            raise MigrationError(
                f"{name} was applied to the database and is missing from the folder: bring the file back, or use a "
                "newer release of the program"
            )
    states = []
    for migration in migrations:
        record = applied.get(migration.version)
        if record is None and migration.version < newest:
            raise MigrationError(
                f"{migration.name} was not applied, and {applied[newest][0]}, which comes after it, was: give it a "
                f"number above {newest}"
            )
        if record is not None and record[1] != migration.sha256:
            raise MigrationError(
                f"{migration.name} was changed after it was applied (as {record[0]}, {record[2]}): undo the change, "
                "and write what is new into a file of its own"
            )
        states.append(
            MigrationState(migration.version, migration.name, None if record is None else record[2])
        )
    return states


def _is_pending(migration: Migration, states: list[MigrationState]) -> bool:
    return any(state.version == migration.version and state.applied_at is None for state in states)


def _apply(connection: Database, migration: Migration) -> bool:
    """False when it was applied by somebody else."""
    record = (_RECORD, (migration.version, migration.name, migration.sha256))
    try:
        connection.execute_atomic([record, *migration.statements])
    except Error as error:
        position = error.details.get("statement")
        if isinstance(error, IntegrityError) and position == 0:
            return False
        if not isinstance(position, int):
            raise
        details = {**error.details, "statement": position - 1, "file": migration.name}
        message = f"{migration.name}, statement {position}: {error.message}"
        raise type(error)(message, code=error.code, **details) from error
    return True
