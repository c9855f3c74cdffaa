"""What a replicated statement may not do, and the words that tell why: guard.c."""

from __future__ import annotations

import ctypes
from ctypes import c_char_p, c_int, c_void_p
from enum import IntEnum
from typing import Final

import apsw

from dqlite_py.storage.authorizer import READ_PRAGMAS
from dqlite_py.storage.python_engine.sql_text import Token, Tokens
from dqlite_py.storage.python_engine.sqlite_api import address_of, sqlite

RESERVED: Final = b"_dqlite_"
_REASON_BYTES: Final = 320  # with the NUL


class Place(IntEnum):
    """Where a statement may run: guard.h."""

    UNIT = 0
    GROUP = 1
    LOOKING = 2
    NOWHERE = 3


class Control(IntEnum):
    """Of savepoints."""

    NONE = 0
    SET_OR_RELEASE = 1
    ROLLBACK_TO = 2


# -- by first words -------------------------------------------------------------------------------------

_PRAGMA_ADVICE: Final = (
    b"PRAGMA cannot be replicated: the cluster fixes the connection's settings; send reading PRAGMAs as "
    b"queries of their own"
)
_KEYWORD_RULES: Final = {
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
    b"SAVEPOINT": b"SAVEPOINT is not a statement of a unit: a failing statement undoes its unit; begin a transaction",
    b"RELEASE": b"RELEASE is not a statement of a unit: it has no savepoints; begin a transaction",
}
_RESERVED_NAME: Final = b"names beginning with _dqlite_ are reserved: choose another name"
_NO_CONTROL: Final = b"transactions and attached databases are not part of a unit"
_GENERAL_NAMES: Final = frozenset({b"MAIN", b"TEMP", b"BINARY", b"NOCASE", b"RTRIM"})
_DML_WORDS: Final = frozenset({b"INSERT", b"UPDATE", b"DELETE", b"REPLACE", b"WITH"})

# -- by object ------------------------------------------------------------------------------------------

_LOCAL_FUNCTIONS: Final = frozenset(
    {
        b"sqlite_version",
        b"sqlite_source_id",
        b"sqlite_compileoption_used",
        b"sqlite_compileoption_get",
        b"fts5_source_id",
        b"sqlite_offset",
    }
)
_REFUSED_FUNCTIONS: Final = frozenset({b"load_extension", b"fts3_tokenizer"})
# Those that only look, and whether an argument says at what.
_READ_PRAGMAS: Final = {name.encode(): takes_argument for name, takes_argument in READ_PRAGMAS.items()}
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
_CONTROL: Final = frozenset({apsw.SQLITE_ATTACH, apsw.SQLITE_DETACH, apsw.SQLITE_TRANSACTION})
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
# guard.h tells what it is for.
FOLLOW_SQL: Final = b"CREATE TABLE IF NOT EXISTS _dqlite_changes (since INTEGER)"
FOLLOW_TABLE: Final = b"_dqlite_changes"
_DROPS: Final = frozenset({apsw.SQLITE_DROP_TABLE, apsw.SQLITE_DROP_VTABLE, apsw.SQLITE_DROP_VIEW})
_AUTHORIZER: Final = ctypes.CFUNCTYPE(c_int, c_void_p, c_int, c_char_p, c_char_p, c_char_p, c_char_p)

Name = bytes | None


def _skip_word(tokens: Tokens, word: bytes) -> None:
    """Skip `word` if it comes next."""
    token = tokens.copy().next()
    if token is not None and not token.quote and token.is_word(word):
        tokens.next()


def _is_one_name(tokens: Tokens) -> bool:
    name = tokens.next()
    return name is not None and name != (b";", b"") and tokens.is_blank()


def control_of(word: bytes, rest: Tokens) -> Control:
    """SAVEPOINT x, RELEASE [SAVEPOINT] x, ROLLBACK [TRANSACTION] TO [SAVEPOINT] x, and nothing else."""
    if word == b"SAVEPOINT":
        return Control.SET_OR_RELEASE if _is_one_name(rest) else Control.NONE
    if word == b"RELEASE":
        _skip_word(rest, b"SAVEPOINT")
        return Control.SET_OR_RELEASE if _is_one_name(rest) else Control.NONE
    if word != b"ROLLBACK":
        return Control.NONE
    _skip_word(rest, b"TRANSACTION")
    to = rest.next()
    if to is None or to.quote or not to.is_word(b"TO"):
        return Control.NONE
    _skip_word(rest, b"SAVEPOINT")
    return Control.ROLLBACK_TO if _is_one_name(rest) else Control.NONE


class Guard:
    """Of one connection. `active` while a client's statement is prepared."""

    def __init__(self) -> None:
        self.place = Place.UNIT  # of the statement at hand
        self.needed = Place.UNIT  # the least that allows it
        self.control = Control.NONE
        self.active = False
        self.is_refused = False
        self.is_alter = False  # the statement at hand begins with ALTER
        self.is_dml = False  # the statement at hand begins with INSERT, REPLACE, UPDATE, DELETE or WITH
        self.is_follow = False  # the statement at hand is FOLLOW_SQL
        self.saw_follow = False  # it was since this was last set to False
        self.deletes_rows = False  # DELETE without WHERE deletes row by row: changes are followed
        self.drops = 0  # tables that a statement was allowed to drop so far
        self._after_drop = False  # the last action was to drop a table: its rows are deleted next, as one
        self.is_pragma = False  # it is a PRAGMA: only those that read are let through
        self.reason = b""  # of the refusal, or why the statement needs another place than a unit
        self._callback = _AUTHORIZER(self._authorize)

    def install(self, db: int) -> int:
        """Install the authorizer (expires the connection's prepared statements)."""
        code: int = sqlite.set_authorizer(db, address_of(self._callback), None)
        return code

    def check(self, sql: bytes) -> bool:
        """First words of `sql`; True when refused, with the reason set. Also tells what it begins with."""
        self.reason = b""
        self.needed = Place.UNIT
        self.control = Control.NONE
        self.is_refused = self.is_dml = self.is_alter = self.is_pragma = False
        self.is_follow = sql == FOLLOW_SQL
        if self.is_follow:
            self.saw_follow = True
            return False
        tokens = Tokens(sql)
        word = tokens.next()
        while word is not None and word == (b";", b""):
            word = tokens.next()
        # SQLite executes some PRAGMAs while it prepares them, also behind EXPLAIN.
        is_explained = word is not None and word.is_word(b"EXPLAIN")
        if is_explained:
            word = tokens.next()
            if word is not None and word.is_word(b"QUERY"):
                word = tokens.next() and tokens.next()
        if word is None or word.quote:
            return False
        first = word.text.upper()
        self.is_dml = first in _DML_WORDS
        self.is_alter = first == b"ALTER"
        if first in (b"CREATE", b"ALTER") and RESERVED in sql.lower():
            return self._need(Place.NOWHERE, _RESERVED_NAME) != apsw.SQLITE_OK
        self.control = Control.NONE if is_explained else control_of(first, tokens.copy())
        return self._check_word(first, tokens) != apsw.SQLITE_OK

    def _need(self, place: Place, reason: bytes) -> int:
        """The statement needs `place`, for this reason; an SQLite verdict."""
        is_allowed = place <= self.place
        if not (is_allowed and self.is_refused):
            self.reason = reason[: _REASON_BYTES - 1]
        self.is_refused = self.is_refused or not is_allowed
        self.needed = max(self.needed, place)
        return apsw.SQLITE_OK if is_allowed else apsw.SQLITE_DENY

    def _check_word(self, word: bytes, rest: Tokens) -> int:
        if word == b"PRAGMA":
            self.is_pragma = True
            return self._need(Place.LOOKING, _PRAGMA_ADVICE)
        advice = _KEYWORD_RULES.get(word)
        if advice is not None:
            place = Place.NOWHERE if self.control is Control.NONE else Place.GROUP
            return self._need(place, advice)
        if word in (b"ANALYZE", b"REINDEX"):
            return self._check_no_name(rest, word)
        return apsw.SQLITE_OK

    def _check_no_name(self, words: Tokens, command: bytes) -> int:
        first = words.next()
        if first is not None and first != (b";", b""):
            is_qualified = words.next() == Token(b".", b"")
            if is_qualified or first.text.upper() not in _GENERAL_NAMES:
                return apsw.SQLITE_OK
        return self._need(
            Place.NOWHERE,
            b'%s of everything visits tables in an order that differs between nodes: use "%s <table>" for each'
            % (command, command),
        )

    # -- called by SQLite -----------------------------------------------------------------------------

    def _authorize(
        self, context: int, action: int, first: Name, second: Name, schema: Name, inside: Name
    ) -> int:
        try:
            after_drop, self._after_drop = self._after_drop, action in _DROPS
            verdict = self._judge(action, first, second, schema) if self.active else apsw.SQLITE_OK
            if verdict == apsw.SQLITE_OK and action in (apsw.SQLITE_DROP_TABLE, apsw.SQLITE_DROP_VTABLE):
                self.drops += 1
            is_delete = self.deletes_rows and action == apsw.SQLITE_DELETE and not after_drop
            if verdict == apsw.SQLITE_OK and is_delete and (first or b"").lower() != b"sqlite_master":
                return apsw.SQLITE_IGNORE  # to a DELETE: row by row; to DROP it would mean "do nothing"
            return verdict
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
        if action == apsw.SQLITE_SAVEPOINT:  # (operation, name)
            return self._check_savepoint(second)
        if action in _CONTROL:
            return self._deny(_NO_CONTROL)
        if action in _TEMPORARY:
            return self._need_temporary(Place.NOWHERE)
        return apsw.SQLITE_OK  # SELECT, RECURSIVE, REINDEX

    def _deny(self, reason: bytes) -> int:
        return self._need(Place.NOWHERE, reason)

    def _need_temporary(self, place: Place) -> int:
        return self._need(
            place, b"temporary objects exist on one node's connection only: use an ordinary table"
        )

    def _check_savepoint(self, name: Name) -> int:
        """`check` has seen that it is savepoint control and where it may be."""
        if self.control is Control.NONE:
            return self._deny(_NO_CONTROL)
        if (name or b"").lower().startswith(RESERVED):
            return self._deny(_RESERVED_NAME)
        return apsw.SQLITE_OK

    def _check_table(self, action: int, table: Name, schema: Name) -> int:
        if (schema or b"").lower() == b"temp":
            # ALTER looks for the names that it changes there, too; nothing can be in it.
            is_list = (table or b"").lower() == b"sqlite_temp_master"
            if is_list and self.is_alter:
                return apsw.SQLITE_OK
            is_look = is_list and action == apsw.SQLITE_READ
            return self._need_temporary(Place.LOOKING if is_look else Place.NOWHERE)
        shown = (table or b"(null)")[:60]
        name = (table or b"").lower()
        if self.is_follow and action == apsw.SQLITE_CREATE_TABLE and name == FOLLOW_TABLE:
            return apsw.SQLITE_OK
        if name.startswith(RESERVED):
            return self._deny(b"tables beginning with _dqlite_ are reserved for the cluster's own state")
        is_pragma = name.startswith(b"pragma_")
        if is_pragma or name in _LOCAL_TABLES:
            # A step of other pragma_ tables could do more than look.
            is_harmless = not is_pragma or name.removeprefix(b"pragma_") in _READ_PRAGMAS
            return self._need(
                Place.LOOKING if is_harmless else Place.NOWHERE,
                b"table %s shows one node's state, which differs between nodes: read it in a query of its own"
                % shown,
            )
        is_statistics = name.startswith(b"sqlite_stat")
        if action in _CHANGES and self.is_dml and is_statistics:  # ANALYZE and DROP TABLE write them too
            return self._deny(b'table %s cannot be written directly: use "ANALYZE <table>"' % shown)
        if action == apsw.SQLITE_DROP_TABLE and is_statistics:
            return self._deny(b"table %s cannot be dropped: nodes would plan queries differently" % shown)
        return apsw.SQLITE_OK

    def _check_pragma(self, name: Name, argument: Name) -> int:
        lower = (name or b"").lower()
        if argument is None and lower in _INNER_PRAGMAS:
            return apsw.SQLITE_OK
        if not self.is_pragma:
            return self._deny(_PRAGMA_ADVICE)
        shown = (name or b"(null)")[:60]
        takes_argument = _READ_PRAGMAS.get(lower)
        if takes_argument is None:
            return self._deny(
                b"PRAGMA %s is not available: the cluster fixes the connection's settings" % shown
            )
        if argument is not None and not takes_argument:
            return self._deny(
                b"PRAGMA %s can be read but not set: the cluster fixes the connection's settings" % shown
            )
        return apsw.SQLITE_OK

    def _check_function(self, name: Name) -> int:
        lower = (name or b"").lower()
        is_refused = lower in _REFUSED_FUNCTIONS
        if not is_refused and lower not in _LOCAL_FUNCTIONS:
            return apsw.SQLITE_OK
        shown = (name or b"")[:60]
        return self._need(
            Place.NOWHERE if is_refused else Place.LOOKING,
            b"function %s() may differ between nodes: compute the value first and pass it as a parameter"
            % shown,
        )

    def _check_module(self, module: Name) -> int:
        if (module or b"").lower() in _ALLOWED_MODULES:
            return apsw.SQLITE_OK
        shown = (module or b"(null)")[:60]
        return self._deny(
            b"virtual tables of module %s cannot be replicated: use fts5, fts4, fts3, rtree or geopoly"
            % shown
        )
