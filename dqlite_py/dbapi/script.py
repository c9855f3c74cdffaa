"""Scripts and lists of statements, taken apart: what happens as one unit, and what controls transactions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from dqlite_py.dbapi.parameters import bind
from dqlite_py.dbapi.statements import Control, Known, classify
from dqlite_py.errors import InterfaceError, NotSupportedError, ProgrammingError
from dqlite_py.sqltext import StatementKind, split_script


def split(script: str) -> list[Control | list[str]]:
    """The statements of a script: transaction statements, and the lists of others between them.

    BEGIN … COMMIT around a list is left out where nothing else controls it: the list is a transaction by itself.
    """
    parts: list[Control | list[str]] = []
    for sql in split_script(script):
        known = classify(sql)
        if known.control is not None:
            parts.append(known.control)
        elif parts and isinstance(parts[-1], list):
            parts[-1].append(sql)
        else:
            parts.append([sql])
    if (
        len(parts) == 3
        and isinstance(parts[0], Control)
        and parts[0].verb == "BEGIN"
        and isinstance(parts[1], list)
        and isinstance(parts[2], Control)
        and parts[2].verb == "COMMIT"
    ):
        return [parts[1]]
    return parts


def atomic_pairs(statements: Iterable[Any]) -> tuple[list[tuple[str, Any]], list[Known]]:
    """The items of execute_atomic(), checked: (sql, params) pairs or just sql, each one statement."""
    pairs: list[tuple[str, Any]] = []
    known: list[Known] = []
    for item in statements:
        sql, params = _pair(item)
        about = classify(sql)
        if about.kind is StatementKind.TRANSACTION:
            raise NotSupportedError(f"execute_atomic() is a transaction by itself: leave out {sql!r:.80}")
        if about.kind is StatementKind.EMPTY or not about.is_single:
            raise ProgrammingError(f"each item of execute_atomic() is one statement, not {sql!r:.80}")
        pairs.append((sql, bind(about.parameters, params)))
        known.append(about)
    return pairs, known


def _pair(item: Any) -> tuple[str, Any]:
    if isinstance(item, str):
        return item, ()
    if isinstance(item, Sequence) and len(item) == 2:
        return item[0], item[1]
    raise InterfaceError(f"each item of execute_atomic() is (sql, params) or sql, not {item!r:.80}")
