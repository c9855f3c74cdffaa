"""Dot commands about what a database holds. Tables of the cluster's own (_dqlite_…) are not shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from dqlite_py.cli.shell.session import Session

_OURS: Final = "substr(name, 1, 7) NOT IN ('sqlite_', '_dqlite') AND substr(tbl_name, 1, 8) <> '_dqlite_'"
_TABLES: Final = (
    f"SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') AND {_OURS} AND name LIKE ? "
    "ORDER BY name"
)
_INDEXES: Final = (
    f"SELECT name FROM sqlite_schema WHERE type = 'index' AND {_OURS} AND tbl_name LIKE ? ORDER BY name"
)
_SCHEMA: Final = (
    f"SELECT sql FROM sqlite_schema WHERE sql NOT NULL AND {_OURS} AND tbl_name LIKE ? ORDER BY tbl_name, "
    "type = 'table' DESC, type = 'view' DESC, name"
)
_COLUMNS: Final = (
    "SELECT s.name, c.name FROM sqlite_schema AS s, pragma_table_xinfo(s.name) AS c "
    f"WHERE s.type IN ('table', 'view') AND {_OURS.replace('name,', 's.name,', 1)} ORDER BY 1, c.cid"
)


def _all(session: Session, sql: str, *params: Any) -> list[tuple[Any, ...]]:
    with session.cancel.watching(session.connection.interrupt):
        found: list[tuple[Any, ...]] = session.connection.execute(sql, params).fetchall()
    return found


def tables(session: Session, arguments: Sequence[str]) -> None:
    for (name,) in _all(session, _TABLES, arguments[0] if arguments else "%"):
        session.tell(name)


def indexes(session: Session, arguments: Sequence[str]) -> None:
    for (name,) in _all(session, _INDEXES, arguments[0] if arguments else "%"):
        session.tell(name)


def schema(session: Session, arguments: Sequence[str]) -> None:
    for (sql,) in _all(session, _SCHEMA, arguments[0] if arguments else "%"):
        session.tell(f"{sql};")


def columns_by_table(session: Session) -> dict[str, list[str]]:
    """For completion."""
    found: dict[str, list[str]] = {}
    for table, column in _all(session, _COLUMNS):
        found.setdefault(table, []).append(column)
    return found
