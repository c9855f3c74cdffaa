"""A database as SQL: `connection.iterdump()`. Steps that yield the lines, too.

Identifiers and texts are quoted here, other values by SQLite itself: its quote() ends a text at a zero byte, and a text
that is not UTF-8 has no literal; these two are written as CAST(X'…' AS TEXT). Left out are tables of ours (_dqlite_…)
and the shadow tables of virtual ones, which CREATE VIRTUAL TABLE makes anew.
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
    "AND name NOT IN (SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'shadow') "
    "AND (?1 IS NULL OR name LIKE ?1 OR name = 'sqlite_sequence') ORDER BY name"
)
_OTHERS: Final = (
    "SELECT sql FROM sqlite_schema WHERE sql NOT NULL AND type IN ('index', 'trigger', 'view') "
    "AND substr(tbl_name, 1, 8) <> '_dqlite_' AND (?1 IS NULL OR tbl_name LIKE ?1)"
)
_COUNTED: Final = (  # who has no counters may have no table of them
    'SELECT 1 FROM "sqlite_sequence" WHERE ?1 IS NULL OR name LIKE ?1 LIMIT 1'
)


def dump_steps(core: Core, transaction: Transaction, pattern: str | None = None) -> Lines:
    """Yield calls, as any steps do, and lines of SQL: of the state that `transaction` sees.

    `pattern`: only tables and views whose name is LIKE it, with their indexes and triggers.
    """
    yield "BEGIN TRANSACTION;"
    sequences = False
    for name, sql in (yield from _all(core, transaction, _TABLES, pattern)):
        if name == "sqlite_sequence":
            sequences = True
        elif name.startswith("sqlite_stat"):
            yield 'ANALYZE "sqlite_schema";'
        elif not name.startswith("sqlite_"):
            yield f"{sql};"
            yield from _rows(core, transaction, name)
    for (sql,) in (yield from _all(core, transaction, _OTHERS, pattern)):
        yield f"{sql};"
    if sequences and (yield from _all(core, transaction, _COUNTED, pattern)):
        mine = "" if pattern is None else f" WHERE name LIKE {_text(pattern)}"
        yield f'DELETE FROM "sqlite_sequence"{mine};'
        yield from _rows(core, transaction, "sqlite_sequence", mine)
    yield "COMMIT;"


def _rows(core: Core, transaction: Transaction, table: str, where: str = "") -> Lines:
    columns = yield from _all(core, transaction, "SELECT name FROM pragma_table_info(?1)", table)
    values = ", ".join(
        f"CASE typeof({name}) WHEN 'text' THEN CAST({name} AS BLOB) ELSE quote({name}) END"
        for name in (quoted(column) for (column,) in columns)
    )
    into = f"INSERT INTO {quoted(table)} VALUES("
    sql = f"SELECT {values} FROM {quoted(table)}{where}"
    found, _reader = yield from transaction.read(sql, (), None, core.settings.timeout_s)
    rows: list[Any] = found.rows
    while rows:
        for row in rows:
            yield f"{into}{','.join(map(_literal, row))});"
        rows = []
        if found.more is not None:
            rows = yield found.more.fetch, (), NO_KEYWORDS


def _all(
    core: Core, transaction: Transaction, sql: str, param: str | None
) -> Generator[Call, Any, list[Any]]:
    found, _reader = yield from transaction.read(sql, (param,), None, core.settings.timeout_s)
    rows = list(found.rows)
    while found.more is not None:
        more = yield found.more.fetch, (), NO_KEYWORDS
        if not more:
            break
        rows += more
    return rows


def _literal(value: str | bytes) -> str:
    """A value as `_rows` selects it: a text as its bytes, all else as SQLite has quoted it."""
    if isinstance(value, str):
        return value
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = "\0"
    return f"CAST(X'{value.hex().upper()}' AS TEXT)" if "\0" in text else _text(text)


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
