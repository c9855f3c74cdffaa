"""What a connection must know about a statement before it is sent: where it goes, its parameters, what it controls.

From the text alone, by sqltext's tokens; remembered for texts of usual length. Pure, any thread.
Sources: sqlite.org/lang_expr.html#varparam, sqlite.org/lang_transaction.html, sqlite.org/lang_savepoint.html.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from dqlite_py.errors import NotSupportedError, OperationalError
from dqlite_py.limits import STATEMENT_PARAMS_MAX
from dqlite_py.sqltext import CACHED_LENGTH_MAX, StatementKind, describe, tokens, word_of

MODES: Final = ("DEFERRED", "IMMEDIATE", "EXCLUSIVE")
_CHANGING: Final = ("INSERT", "UPDATE", "DELETE", "REPLACE")
_PLAIN: Final = (StatementKind.READ, StatementKind.INSERT, StatementKind.CHANGE, StatementKind.SCHEMA)
_QUOTES: Final = {"'": "'", '"': '"', "`": "`", "[": "]"}
_PARAMS_MAX: Final = 1_000_000  # a number behind a question mark beyond any that SQLite takes


class Control(NamedTuple):
    """A transaction statement: BEGIN (with a mode), COMMIT, ROLLBACK, SAVEPOINT, RELEASE, ROLLBACK TO (a name)."""

    verb: str
    argument: str = ""


class Known(NamedTuple):
    """`is_dml`: begins with INSERT, UPDATE, DELETE or REPLACE, before which sqlite3 opens a transaction.

    `parameters`: per number, from 1, its name without prefix, or None for `?`.
    """

    kind: StatementKind
    is_single: bool
    is_dml: bool
    changes: bool
    parameters: tuple[str | None, ...]
    control: Control | None
    is_plain: bool
    """One read or write, known by its text."""


def classify(sql: str) -> Known:
    """Look at a statement's text. Raises what sqlite3 or SQLite would."""
    if type(sql) is str and len(sql) <= CACHED_LENGTH_MAX:
        return _classify_cached(sql)
    return _classify(sql)


def _classify(sql: str) -> Known:
    if not isinstance(sql, str):
        raise TypeError(f"execute() argument 1 must be str, not {type(sql).__name__}")
    statement = describe(sql)
    kind = statement.kind
    first = ""
    for token in tokens(sql):
        if token.group() != ";":
            first = word_of(token)
            break
    changes = kind in (StatementKind.INSERT, StatementKind.CHANGE)
    control = None
    if kind is StatementKind.TRANSACTION and statement.is_single:
        control = _control(sql)
    parameters = _parameters(sql)
    if len(parameters) > STATEMENT_PARAMS_MAX:
        raise OperationalError("too many SQL variables", code=1)
    is_plain = statement.is_single and kind in _PLAIN
    return Known(kind, statement.is_single, first in _CHANGING, changes, parameters, control, is_plain)


_classify_cached = lru_cache(maxsize=512)(_classify)


def _parameters(sql: str) -> tuple[str | None, ...]:
    if "?" not in sql and ":" not in sql and "@" not in sql and "$" not in sql:
        return ()
    names: list[str | None] = []
    known: set[str] = set()
    mark, end = "", -1
    for token in tokens(sql):
        text = token.group()
        if token.lastgroup == "word":
            follows = mark if token.start() == end else ""
            if follows == "?" and text.isdigit() and 0 < int(text[:8]) <= _PARAMS_MAX:
                names.pop()
                names.extend([None] * (int(text) - len(names)))
            elif follows in (":", "@", "#") or (text[0] == "$" and len(text) > 1):
                name = (follows + text) if follows else text
                if name not in known:
                    known.add(name)
                    names.append(name[1:])
        mark, end = text, token.end()
        if mark == "?":
            names.append(None)
    return tuple(names)


def _control(sql: str) -> Control:
    parts = [token.group() for token in tokens(sql) if token.group() != ";"]
    verb = parts.pop(0).upper()
    if verb == "END":
        verb = "COMMIT"
    mode = "DEFERRED"
    if verb == "BEGIN" and parts and parts[0].upper() in MODES:
        mode = parts.pop(0).upper()
    if verb in ("BEGIN", "COMMIT", "ROLLBACK"):
        if parts and parts[0].upper() == "TRANSACTION":
            parts.pop(0)
            if parts and parts[0].upper() != "TO":
                parts.pop(0)  # a name, which SQLite ignores
        if verb != "ROLLBACK" or not parts:
            return _nothing_more(Control(verb, mode if verb == "BEGIN" else ""), parts)
        if parts.pop(0).upper() != "TO":
            raise _syntax_error("TO")
        verb = "ROLLBACK TO"
    if verb != "SAVEPOINT" and len(parts) > 1 and parts[0].upper() == "SAVEPOINT":
        parts.pop(0)
    if not parts:
        raise OperationalError("incomplete input", code=1)
    name = _unquoted(parts.pop(0))
    if name.lower().startswith("_dqlite_"):
        raise NotSupportedError(
            f"the savepoint name {name!r} is reserved: take one without _dqlite_", code=23
        )
    return _nothing_more(Control(verb, name), parts)


def _nothing_more(control: Control, parts: list[str]) -> Control:
    if parts:
        raise _syntax_error(parts[0])
    return control


def _syntax_error(text: str) -> OperationalError:
    return OperationalError(f'near "{text}": syntax error', code=1)


def _unquoted(text: str) -> str:
    end = _QUOTES.get(text[0])
    if end is None:
        return text
    return text[1:-1].replace(end * 2, end) if end != "]" else text[1:-1]


def quoted(name: str) -> str:
    """A name as it stands in SQL."""
    return '"' + name.replace('"', '""') + '"'
