"""A database as SQL: `connection.iterdump()`. Steps that yield the lines, too.

Identifiers are quoted here, values by SQLite itself. Left out are tables of ours (_dqlite_…) and the shadow tables of
virtual ones, which CREATE VIRTUAL TABLE makes anew.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final

from dqlite_py.dbapi.statements import quoted
from dqlite_py.dbapi.steps import NO_KEYWORDS, Call
from dqlite_py.dbapi.transaction import Transaction

if TYPE_CHECKING:
    from dqlite_py.dbapi.core import Core

Lines = Generator[Call | str, Any, Any]
_TABLES: Final = (
    "SELECT name, sql FROM sqlite_schema WHERE sql NOT NULL AND type = 'table' AND substr(name, 1, 8) <> '_dqlite_' "
    "AND name NOT IN (SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'shadow') ORDER BY name"
)
_OTHERS: Final = (
    "SELECT sql FROM sqlite_schema WHERE sql NOT NULL AND type IN ('index', 'trigger', 'view') "
    "AND substr(tbl_name, 1, 8) <> '_dqlite_'"
)


def dump_steps(core: Core, transaction: Transaction) -> Lines:
    """Yield calls, as any steps do, and lines of SQL: of the state that `transaction` sees."""
    yield "BEGIN TRANSACTION;"
    sequences = False
    for name, sql in (yield from _all(core, transaction, _TABLES)):
        if name == "sqlite_sequence":
            sequences = True
        elif name.startswith("sqlite_stat"):
            yield 'ANALYZE "sqlite_schema";'
        elif not name.startswith("sqlite_"):
            yield f"{sql};"
            yield from _rows(core, transaction, name)
    for (sql,) in (yield from _all(core, transaction, _OTHERS)):
        yield f"{sql};"
    if sequences:
        yield 'DELETE FROM "sqlite_sequence";'
        yield from _rows(core, transaction, "sqlite_sequence")
    yield "COMMIT;"


def _rows(core: Core, transaction: Transaction, table: str) -> Lines:
    columns = yield from _all(core, transaction, f"SELECT name FROM pragma_table_info({_text(table)})")
    values = " || ',' || ".join(f"quote({quoted(name)})" for (name,) in columns)
    into = _text(f"INSERT INTO {quoted(table)} VALUES(")
    sql = f"SELECT {into} || {values} || ');' FROM {quoted(table)}"
    found, _reader = yield from transaction.read(sql, (), None, core.settings.timeout_s)
    rows: list[Any] = found.rows
    while rows:
        for (line,) in rows:
            yield line
        rows = []
        if found.more is not None:
            rows = yield found.more.fetch, (), NO_KEYWORDS


def _all(core: Core, transaction: Transaction, sql: str) -> Generator[Call, Any, list[Any]]:
    found, _reader = yield from transaction.read(sql, (), None, core.settings.timeout_s)
    rows = list(found.rows)
    while found.more is not None:
        more = yield found.more.fetch, (), NO_KEYWORDS
        if not more:
            break
        rows += more
    return rows


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
