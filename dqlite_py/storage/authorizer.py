"""What a query may do: read this database, nothing else. The authorizer of reader connections (readers.py).

It has the words for a refusal as well. Statements for the log are judged in C (native/guard.c). Called by SQLite
while a statement is prepared, on the thread that prepares it; FTS and R-tree prepare statements of their own too,
so what they need is allowed.
"""

from __future__ import annotations

from typing import Final

import apsw

RESERVED_PREFIX: Final = "_dqlite_"

# PRAGMAs that only look. Those with `True` take an argument that names what to look at.
READ_PRAGMAS: Final = {
    "table_info": True,
    "table_xinfo": True,
    "table_list": True,
    "index_list": True,
    "index_info": True,
    "index_xinfo": True,
    "foreign_key_list": True,
    "foreign_key_check": True,
    "integrity_check": True,
    "quick_check": True,
    "function_list": False,
    "module_list": False,
    "collation_list": False,
    "pragma_list": False,
    "compile_options": False,
    "database_list": False,
    "page_count": False,
    "page_size": False,
    "freelist_count": False,
    "user_version": False,
    "application_id": False,
    "schema_version": False,
    "data_version": False,
    "encoding": False,
    "journal_mode": False,
    "foreign_keys": False,
    "auto_vacuum": False,
}
_REFUSED_FUNCTIONS: Final = frozenset({"load_extension", "fts3_tokenizer"})
_ALLOWED_ACTIONS: Final = frozenset({apsw.SQLITE_SELECT, apsw.SQLITE_RECURSIVE})
_WRITES: Final = frozenset({apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_DELETE})
_SCHEMA: Final = frozenset(
    {
        apsw.SQLITE_CREATE_TABLE,
        apsw.SQLITE_CREATE_INDEX,
        apsw.SQLITE_CREATE_VIEW,
        apsw.SQLITE_CREATE_TRIGGER,
        apsw.SQLITE_CREATE_VTABLE,
        apsw.SQLITE_DROP_TABLE,
        apsw.SQLITE_DROP_INDEX,
        apsw.SQLITE_DROP_VIEW,
        apsw.SQLITE_DROP_TRIGGER,
        apsw.SQLITE_DROP_VTABLE,
        apsw.SQLITE_ALTER_TABLE,
        apsw.SQLITE_ANALYZE,
        apsw.SQLITE_REINDEX,
    }
)


class ReadAuthorizer:
    """One per reader connection; `reason` is why the last statement was refused, or None."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.was_asked = False  # set with every statement that is prepared
        self.is_internal = False  # a statement of our own: everything is allowed
        self.explains = False  # an EXPLAIN: it names what a write would touch, and does not touch it
        self.only_looks = False  # what is prepared is not executed: SQLite is to judge all of it

    def __call__(
        self, action: int, first: str | None, second: str | None, schema: str | None, inside: str | None
    ) -> int:
        self.was_asked = True
        if self.is_internal:
            return apsw.SQLITE_OK
        if self.explains and action in _WRITES:
            return apsw.SQLITE_OK
        if self.only_looks and (action in _WRITES or action in _SCHEMA):
            return apsw.SQLITE_OK
        reason = _refusal(action, first, second)
        if reason is None:
            return apsw.SQLITE_OK
        self.reason = reason
        return apsw.SQLITE_DENY


def _refusal(action: int, first: str | None, second: str | None) -> str | None:
    if action in _ALLOWED_ACTIONS:
        return None
    if action == apsw.SQLITE_READ:
        if (first or "").lower().startswith(RESERVED_PREFIX):
            return f"tables beginning with {RESERVED_PREFIX} are reserved for the cluster's own state"
        return None
    if action == apsw.SQLITE_FUNCTION:
        return f"function {second}() is not available" if second in _REFUSED_FUNCTIONS else None
    if action == apsw.SQLITE_PRAGMA:
        return _pragma_refusal((first or "").lower(), second)
    if action in (apsw.SQLITE_TRANSACTION, apsw.SQLITE_SAVEPOINT):
        return "transaction control is not a query: use commit() and rollback()"
    if action in (apsw.SQLITE_ATTACH, apsw.SQLITE_DETACH):
        return "ATTACH and DETACH are not available: open one database per connection"
    if action in _WRITES:
        return f"table {first} cannot be changed by a query: send the statement as a write"
    return "the statement changes the database: send it as a write"


def _pragma_refusal(name: str, argument: str | None) -> str | None:
    takes_argument = READ_PRAGMAS.get(name)
    if takes_argument is None:
        return f"PRAGMA {name} is not available: the cluster fixes the connection's settings"
    if argument is not None and not takes_argument:
        return f"PRAGMA {name} can be read but not set: the cluster fixes the connection's settings"
    return None
