"""PRAGMAs that are the connection's own matter, and those that clients set to what they are anyway.

All others go where a statement goes, and are judged there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dqlite_py.dbapi.results import Result
from dqlite_py.errors import NotSupportedError
from dqlite_py.sqltext import tokens, word_of

if TYPE_CHECKING:
    from dqlite_py.server.dqlite.session import SqlSession

_TRUE: Final = frozenset({"1", "ON", "TRUE", "YES"})
_FALSE: Final = frozenset({"0", "OFF", "FALSE", "NO"})
_BUSY_TIMEOUT_MS_MAX: Final = 60_000
FOREIGN_KEYS: Final = True  # the engine's, on every node
_OWN: Final = ("QUERY_ONLY", "BUSY_TIMEOUT", "FOREIGN_KEYS", "JOURNAL_MODE")
_JOURNAL_MODE: Final = "wal"


def own_pragma(sql: str) -> tuple[str, str | None] | None:
    """Name and value of a PRAGMA of ours, in capitals; None for any other statement."""
    words = [
        word_of(token) or token.group().strip("'\"").upper() for token in tokens(sql) if token.group() != ";"
    ]
    if len(words) < 2 or words[0] != "PRAGMA":
        return None
    rest = words[3:] if len(words) > 3 and words[2] == "." else words[1:]
    name, value = rest[0], [word for word in rest[1:] if word not in ("=", "(", ")")]
    if name not in _OWN:
        return None
    return name, "".join(value) if value else None


def carry_out(session: SqlSession, name: str, value: str | None) -> Result | None:
    """The result of a PRAGMA that asks; None of one that sets. Raises NotSupportedError."""
    if name == "QUERY_ONLY":
        if value is None:
            return _one("query_only", int(session.is_query_only))
        session.is_query_only = _flag(value)
    elif name == "BUSY_TIMEOUT":
        if value is None:
            return _one("timeout", int(session.busy_timeout_s * 1000))
        ms = int(value) if value.isdigit() and len(value) < 10 else 0
        session.busy_timeout_s = min(ms, _BUSY_TIMEOUT_MS_MAX) / 1000
    elif name == "JOURNAL_MODE":
        if value not in (None, _JOURNAL_MODE.upper()):
            raise NotSupportedError("not authorized: journal_mode cannot be changed", code=23)
        return _one("journal_mode", _JOURNAL_MODE)
    else:
        if value is None:
            return _one("foreign_keys", int(FOREIGN_KEYS))
        if _flag(value) is not FOREIGN_KEYS:
            raise NotSupportedError(
                "not authorized: foreign_keys is ON on every node and cannot be changed", code=23
            )
    return None


def _flag(value: str) -> bool:
    """SQLite's sqlite3GetBoolean: what it does not know is false."""
    return value in _TRUE or (value.isdigit() and int(value[:9]) != 0)


def _one(name: str, value: int | str) -> Result:
    return Result((name,), (None,), [(value,)], None)
