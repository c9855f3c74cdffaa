"""What a session must know of SQL's text before it runs: its statements, and of each where it goes. Pure, any thread.

Looking at a text takes time by its length: long ones are looked at on a thread (`is_long`), short ones are remembered.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple, Protocol

from dqlite_py.dbapi.statements import Known, classify
from dqlite_py.server.dqlite.pragmas import own_pragma
from dqlite_py.sqltext import CACHED_LENGTH_MAX, StatementKind, first_end, split_script, tokens, word_of

_LONG: Final = 4 * CACHED_LENGTH_MAX
_ATTRIBUTES: Final = {  # of a session, by SQL's functions
    "LAST_INSERT_ROWID": "rowid",
    "CHANGES": "changes",
    "TOTAL_CHANGES": "total_changes",
}
_UNCHANGING: Final = (
    StatementKind.READ,
    StatementKind.ASK,
    StatementKind.EMPTY,
    StatementKind.TRANSACTION,
)


class Text(NamedTuple):
    """One statement, or none, with what stands behind it.

    `is_plain_write`: a write that returns no rows. `may_return`: a write with RETURNING in it. `pragma`: one of ours.
    `calls`: of functions that tell of the connection (`filled_in`), where each stands and which it is.
    """

    sql: str
    known: Known
    is_plain_write: bool
    may_return: bool
    changes_nothing: bool
    pragma: tuple[str, str | None] | None
    calls: tuple[tuple[int, int, str], ...] = ()

    @property
    def is_empty(self) -> bool:
        return self.known.kind is StatementKind.EMPTY

    @property
    def may_end_in_change(self) -> bool:
        """Whether the database may be another one behind it, when no transaction is open there."""
        control = self.known.control
        return not self.changes_nothing or (control is not None and control.verb in ("COMMIT", "RELEASE"))


def is_long(sql: str) -> bool:
    return len(sql) > _LONG


def look_at(sql: str) -> Text:
    """Raises what sqlite3 or SQLite would."""
    return _look_cached(sql) if len(sql) <= CACHED_LENGTH_MAX else _look(sql)


def _look(sql: str) -> Text:
    known = classify(sql)
    changes_nothing = known.kind in _UNCHANGING
    may_return = not changes_nothing and _says_returning(sql)
    calls = _calls(sql) if known.is_plain and known.kind is not StatementKind.SCHEMA else ()
    is_plain_write = known.is_plain and not changes_nothing and not may_return and not calls
    pragma = own_pragma(sql) if known.kind is StatementKind.ASK else None
    return Text(sql, known, is_plain_write, may_return, changes_nothing, pragma, calls)


_look_cached = lru_cache(maxsize=512)(_look)


def begins(sql: str) -> bool:
    """Whether it is BEGIN or SAVEPOINT, and nothing else."""
    if is_long(sql):
        return False
    control = look_at(sql).known.control
    return control is not None and control.verb in ("BEGIN", "SAVEPOINT")


def statements_of(sql: str) -> list[Text]:
    """Each statement of a text."""
    whole = look_at(sql)
    return [whole] if whole.known.is_single else [look_at(part) for part in split_script(sql)]


class First(NamedTuple):
    """The first statement of a text, its bytes, and whether another one follows."""

    text: Text
    size: int
    has_more: bool


def first_of(sql: str) -> First:
    end = first_end(sql)
    text, tail = sql[:end], sql[end:]
    return First(look_at(text), len(text.encode()), bool(tail) and not look_at(tail).is_empty)


class Sticky(Protocol):
    """What a connection remembers of its writes."""

    rowid: int
    changes: int
    total_changes: int


def filled_in(text: Text, sticky: Sticky) -> str:
    """Its SQL with the functions that tell of the client's connection, which SQLite knows nothing of, as numbers."""
    parts, position = [], 0
    for start, end, name in text.calls:
        parts += [text.sql[position:start], f"({getattr(sticky, _ATTRIBUTES[name])})"]
        position = end
    tail = text.sql[position:]
    if len(parts) == 2 and parts[0].strip().upper() == "SELECT" and tail.strip() in ("", ";"):
        parts.append(
            f' AS "{text.sql[text.calls[0][0] : position]}"'
        )  # the name that SQLite gives the column
    return "".join((*parts, tail))


def _calls(sql: str) -> tuple[tuple[int, int, str], ...]:
    lower = sql.lower()
    if "last_insert_rowid" not in lower and "changes" not in lower:
        return ()
    found, words = [], list(tokens(sql))
    for before, word, opening, closing in zip([None, *words], words, words[1:], words[2:], strict=False):
        name = word_of(word)
        is_call = name in _ATTRIBUTES and (opening.group(), closing.group()) == (
            "(",
            ")",
        )
        if is_call and (before is None or before.group() != "."):
            found.append((word.start(), closing.end(), name))
    return tuple(found)


def _says_returning(sql: str) -> bool:
    """Anywhere but in a string or comment."""
    if "returning" not in sql.lower():
        return False
    return any(word_of(token) == "RETURNING" for token in tokens(sql))
