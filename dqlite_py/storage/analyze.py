"""ANALYZE and REINDEX of everything, as statements that every node executes alike.

Without a table SQLite visits tables in the order of a hash table in memory, which a restart changes; so does the
order of the statistics' rows, and with it the state hash. The log refuses that form (native/guard.c); whoever
proposes may expand it first. Pure but for the list of tables. Any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from dqlite_py.sqltext import describe
from dqlite_py.storage.implementation import refusal

_EXPANDED: Final = ("ANALYZE", "REINDEX")


def expand_general(sql: str, tables: Callable[[], Iterable[str]]) -> list[str] | None:
    """Return one statement per table, sorted, for ANALYZE or REINDEX of everything; None for any other statement.

    `tables` is ReaderPool.tables; the list may be empty.
    """
    keyword = describe(sql).keyword
    if keyword not in _EXPANDED or refusal(sql.encode()) is None:
        return None
    return [f"{keyword} {_quoted(name)}" for name in sorted(tables())]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
