"""What a replicated statement may not do, and the words that tell why: guard.c."""

from __future__ import annotations

import ctypes
from ctypes import c_char_p, c_int, c_void_p
from typing import Final

import apsw

from dqlite_py.storage.python_engine.sql_text import Token, Tokens
from dqlite_py.storage.python_engine.sqlite_api import address_of, sqlite

RESERVED: Final = b"_dqlite_"
_REASON_BYTES: Final = 320  # with the NUL

# -- by first words -------------------------------------------------------------------------------------

_PRAGMA_ADVICE: Final = (
    b"PRAGMA cannot be replicated: the cluster fixes the connection's settings; send reading PRAGMAs as "
    b"queries of their own"
)
_KEYWORD_RULES: Final = {
    b"PRAGMA": _PRAGMA_ADVICE,
    b"VACUUM": b"VACUUM cannot be replicated: it does not run inside a transaction; free pages are reused",
    b"ATTACH": b"ATTACH cannot be replicated: a file of one node is not on the others; open one database per "
    b"connection",
    b"DETACH": b"DETACH cannot be replicated: databases are opened per connection",
    b"BEGIN": b"BEGIN is not a statement of a unit: the statements sent together are one transaction; use commit() "
    b"and rollback()",
    b"COMMIT": b"COMMIT is not a statement of a unit: the statements sent together are one transaction; "
    b"use commit()",
    b"END": b"END is not a statement of a unit: the statements sent together are one transaction; use commit()",
    b"ROLLBACK": b"ROLLBACK is not a statement of a unit: a failing statement undoes its unit; use rollback()",
    b"SAVEPOINT": b"SAVEPOINT is not supported: a failing statement undoes its unit; split the unit instead",
    b"RELEASE": b"RELEASE is not supported: there are no savepoints; split the unit instead",
}
_GENERAL_NAMES: Final = frozenset({b"MAIN", b"TEMP", b"BINARY", b"NOCASE", b"RTRIM"})
_DML_WORDS: Final = frozenset({b"INSERT", b"UPDATE", b"DELETE", b"REPLACE", b"WITH"})

# -- by object ------------------------------------------------------------------------------------------

_REFUSED_FUNCTIONS: Final = frozenset(
    {
        b"sqlite_version",
        b"sqlite_source_id",
        b"sqlite_compileoption_used",
        b"sqlite_compileoption_get",
        b"load_extension",
        b"fts3_tokenizer",
        b"fts5_source_id",
        b"sqlite_offset",
    }
)
_ALLOWED_MODULES: Final = frozenset({b"fts5", b"fts4", b"fts3", b"rtree", b"rtree_i32", b"geopoly"})
# What FTS and R-tree ask for themselves when a statement first names their table.
_INNER_PRAGMAS: Final = frozenset({b"data_version", b"page_size", b"encoding"})
_LOCAL_TABLES: Final = frozenset(
    {
        b"dbstat",
        b"sqlite_stmt",
        b"bytecode",
        b"tables_used",
        b"sqlite_dbpage",
        b"sqlite_memstat",
        b"completion",
    }
)
_CHANGES: Final = frozenset({apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_DELETE})
_TABLE_FIRST: Final = _CHANGES | {
    apsw.SQLITE_READ,
    apsw.SQLITE_CREATE_TABLE,
    apsw.SQLITE_CREATE_VIEW,
    apsw.SQLITE_DROP_TABLE,
    apsw.SQLITE_DROP_VIEW,
    apsw.SQLITE_DROP_VTABLE,
    apsw.SQLITE_ANALYZE,
}
_TABLE_SECOND: Final = frozenset(
    {
        apsw.SQLITE_CREATE_INDEX,
        apsw.SQLITE_CREATE_TRIGGER,
        apsw.SQLITE_DROP_INDEX,
        apsw.SQLITE_DROP_TRIGGER,
    }
)
_CONTROL: Final = frozenset(
    {apsw.SQLITE_ATTACH, apsw.SQLITE_DETACH, apsw.SQLITE_TRANSACTION, apsw.SQLITE_SAVEPOINT}
)
_TEMPORARY: Final = frozenset(
    {
        apsw.SQLITE_CREATE_TEMP_INDEX,
        apsw.SQLITE_CREATE_TEMP_TABLE,
        apsw.SQLITE_CREATE_TEMP_TRIGGER,
        apsw.SQLITE_CREATE_TEMP_VIEW,
        apsw.SQLITE_DROP_TEMP_INDEX,
        apsw.SQLITE_DROP_TEMP_TABLE,
        apsw.SQLITE_DROP_TEMP_TRIGGER,
        apsw.SQLITE_DROP_TEMP_VIEW,
    }
)
_AUTHORIZER: Final = ctypes.CFUNCTYPE(c_int, c_void_p, c_int, c_char_p, c_char_p, c_char_p, c_char_p)

Name = bytes | None


class Guard:
    """Of one connection. `active` while a client's statement is prepared; `reason` is of the last refusal."""

    def __init__(self) -> None:
        self.active = False
        self.is_alter = False  # the statement at hand begins with ALTER
        self.is_dml = False  # the statement at hand begins with INSERT, REPLACE, UPDATE, DELETE or WITH
        self.reason = b""
        self._callback = _AUTHORIZER(self._authorize)

    def install(self, db: int) -> int:
        """Install the authorizer (expires the connection's prepared statements)."""
        code: int = sqlite.set_authorizer(db, address_of(self._callback), None)
        return code

    def check(self, sql: bytes) -> bool:
        """First words of `sql`; True when refused, with the reason set. Also sets `is_alter` and `is_dml`."""
        self.reason = b""
        self.is_dml = self.is_alter = False
        tokens = Tokens(sql)
        word = tokens.next()
        while word is not None and word == (b";", b""):
            word = tokens.next()
        # SQLite executes some PRAGMAs while it prepares them, also behind EXPLAIN.
        if word is not None and word.is_word(b"EXPLAIN"):
            word = tokens.next()
            if word is not None and word.is_word(b"QUERY"):
                word = tokens.next() and tokens.next()
        if word is None or word.quote:
            return False
        first = word.text.upper()
        self.is_dml = first in _DML_WORDS
        self.is_alter = first == b"ALTER"
        if first in (b"CREATE", b"ALTER") and RESERVED in sql.lower():
            return self._refuse(b"names beginning with _dqlite_ are reserved: choose another name")
        return self._check_word(first, tokens)

    def _refuse(self, reason: bytes) -> bool:
        self.reason = reason[: _REASON_BYTES - 1]
        return True

    def _deny(self, reason: bytes) -> int:
        self._refuse(reason)
        return apsw.SQLITE_DENY

    def _check_word(self, word: bytes, rest: Tokens) -> bool:
        advice = _KEYWORD_RULES.get(word)
        if advice is not None:
            return self._refuse(advice)
        if word in (b"ANALYZE", b"REINDEX"):
            return self._check_no_name(rest, word)
        return False

    def _check_no_name(self, words: Tokens, command: bytes) -> bool:
        first = words.next()
        if first is not None and first != (b";", b""):
            is_qualified = words.next() == Token(b".", b"")
            if is_qualified or first.text.upper() not in _GENERAL_NAMES:
                return False
        return self._refuse(
            b'%s of everything visits tables in an order that differs between nodes: use "%s <table>" for each'
            % (command, command)
        )

    # -- called by SQLite -----------------------------------------------------------------------------

    def _authorize(
        self, context: int, action: int, first: Name, second: Name, schema: Name, inside: Name
    ) -> int:
        try:
            return self._judge(action, first, second, schema) if self.active else apsw.SQLITE_OK
        except BaseException:  # noqa: BLE001 - what could not be judged is not allowed
            return apsw.SQLITE_DENY

    def _judge(self, action: int, first: Name, second: Name, schema: Name) -> int:
        if action in _TABLE_FIRST:
            return self._check_table(action, first, schema)
        if action in _TABLE_SECOND:
            return self._check_table(action, second, schema)
        if action == apsw.SQLITE_ALTER_TABLE:  # (schema, table)
            return self._check_table(action, second, first)
        if action == apsw.SQLITE_CREATE_VTABLE:
            return self._check_table(action, first, schema) or self._check_module(second)
        if action == apsw.SQLITE_FUNCTION:  # (NULL, name)
            return self._check_function(second)
        if action == apsw.SQLITE_PRAGMA:
            return self._check_pragma(first, second)
        if action in _CONTROL:
            return self._deny(b"transactions and attached databases are not part of a unit")
        if action in _TEMPORARY:
            return self._deny_temporary()
        return apsw.SQLITE_OK  # SELECT, RECURSIVE, REINDEX

    def _deny_temporary(self) -> int:
        return self._deny(b"temporary objects exist on one node's connection only: use an ordinary table")

    def _check_table(self, action: int, table: Name, schema: Name) -> int:
        if (schema or b"").lower() == b"temp":
            # ALTER looks for the names that it changes there, too; nothing can be in it.
            is_own = self.is_alter and (table or b"").lower() == b"sqlite_temp_master"
            return apsw.SQLITE_OK if is_own else self._deny_temporary()
        shown = (table or b"(null)")[:60]
        name = (table or b"").lower()
        if name.startswith(RESERVED):
            return self._deny(b"tables beginning with _dqlite_ are reserved for the cluster's own state")
        if name.startswith(b"pragma_") or name in _LOCAL_TABLES:
            return self._deny(
                b"table %s shows one node's state, which differs between nodes: read it in a query of its own"
                % shown
            )
        is_statistics = name.startswith(b"sqlite_stat")
        if action in _CHANGES and self.is_dml and is_statistics:  # ANALYZE and DROP TABLE write them too
            return self._deny(b'table %s cannot be written directly: use "ANALYZE <table>"' % shown)
        if action == apsw.SQLITE_DROP_TABLE and is_statistics:
            return self._deny(b"table %s cannot be dropped: nodes would plan queries differently" % shown)
        return apsw.SQLITE_OK

    def _check_pragma(self, name: Name, argument: Name) -> int:
        if argument is None and (name or b"").lower() in _INNER_PRAGMAS:
            return apsw.SQLITE_OK
        return self._deny(_PRAGMA_ADVICE)

    def _check_function(self, name: Name) -> int:
        if (name or b"").lower() not in _REFUSED_FUNCTIONS:
            return apsw.SQLITE_OK
        shown = (name or b"")[:60]
        return self._deny(
            b"function %s() may differ between nodes: compute the value first and pass it as a parameter"
            % shown
        )

    def _check_module(self, module: Name) -> int:
        if (module or b"").lower() in _ALLOWED_MODULES:
            return apsw.SQLITE_OK
        shown = (module or b"(null)")[:60]
        return self._deny(
            b"virtual tables of module %s cannot be replicated: use fts5, fts4, fts3, rtree or geopoly"
            % shown
        )
