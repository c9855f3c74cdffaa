"""What can be told from SQL text alone: a statement's kind, and where the statements of a script end.

A lexer, not a parser: it never judges whether SQL is right, only where it must go. Pure; called by dbapi on
user threads. Source of the statement-end rules: sqlite.org/c3ref/complete.html (a trigger's body holds
semicolons).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final, NamedTuple

from dqlite_py.errors import DataError, ProgrammingError

# Possessive quantifiers keep the scan linear on unterminated strings; a possessive group with a look-ahead in it
# (for comments) is matched wrongly by Python 3.11.2.
_TOKEN: Final = re.compile(
    r"""
      (?P<blank> [ \t\n\f\r\ufeff]++ | --[^\n]*+ | /\*.*?(?:\*/|\Z) )
    | (?P<quoted> '(?:[^']++|'')*+(?:'|\Z) | "(?:[^"]++|"")*+(?:"|\Z)
               | `(?:[^`]++|``)*+(?:`|\Z) | \[[^\]]*+(?:\]|\Z) )
    | (?P<word> [A-Za-z0-9_$\x80-\U0010ffff]++ )
    | (?P<mark> . )
    """,
    re.VERBOSE | re.DOTALL,
)
CACHED_LENGTH_MAX: Final = 4096


class StatementKind(enum.Enum):
    """Where a statement goes and what its result means."""

    EMPTY = "empty"  # blanks and comments only
    READ = "read"
    INSERT = "insert"  # INSERT or REPLACE: sets lastrowid
    CHANGE = "change"  # UPDATE or DELETE
    SCHEMA = "schema"  # any other write
    TRANSACTION = "transaction"  # BEGIN, COMMIT, SAVEPOINT …
    ASK = "ask"  # the text alone does not tell (PRAGMA, unknown words): ask SQLite


class Statement(NamedTuple):
    """`keyword`: the word that decided `kind`, in capitals ('' when there is none)."""

    kind: StatementKind
    keyword: str
    is_single: bool  # nothing but blanks and comments follow its semicolon


_KINDS: Final = {
    **dict.fromkeys(("SELECT", "VALUES", "EXPLAIN"), StatementKind.READ),
    **dict.fromkeys(("INSERT", "REPLACE"), StatementKind.INSERT),
    **dict.fromkeys(("UPDATE", "DELETE"), StatementKind.CHANGE),
    **dict.fromkeys(
        ("CREATE", "DROP", "ALTER", "ANALYZE", "REINDEX", "VACUUM", "ATTACH", "DETACH"), StatementKind.SCHEMA
    ),
    **dict.fromkeys(
        ("BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE"), StatementKind.TRANSACTION
    ),
}


def describe(sql: str) -> Statement:
    """Describe the first statement; raises ProgrammingError or DataError for text SQLite cannot take."""
    if not isinstance(sql, str):
        raise ProgrammingError(f"SQL must be str, not {type(sql).__name__}")
    return _describe_cached(sql) if len(sql) <= CACHED_LENGTH_MAX else _describe(sql)


def split_script(script: str) -> list[str]:
    """The statements of a script in order, without empty ones; the last may lack its semicolon."""
    _check_text(script)
    statements, begin, content = [], 0, False
    ends = _StatementEnd()
    for token in tokens(script):
        content = content or token.group() != ";"
        if ends.feed(token):
            if content:
                statements.append(script[begin : token.end()].strip())
            begin, content = token.end(), False
    if content:
        statements.append(script[begin:].strip())
    return statements


def first_end(script: str) -> int:
    """Where the first statement that is not empty ends, behind its semicolon; the length when there is no other."""
    _check_text(script)
    ends, content = _StatementEnd(), False
    for token in tokens(script):
        content = content or token.group() != ";"
        if ends.feed(token) and content:
            return token.end()
    return len(script)


def is_complete(sql: str) -> bool:
    """Whether a text ends with a whole statement and its semicolon (sqlite.org/c3ref/complete.html)."""
    return Completion().feed(sql)


class Completion:
    """`is_complete` of a text that comes in whole lines, each looked at once."""

    def __init__(self) -> None:
        self._ends = _StatementEnd()
        self._is_complete = False
        self._closer = ""  # what ends the literal or comment that is open

    @property
    def may_end(self) -> bool:
        """Whether a semicolon would end a statement here."""
        return not self._closer and self._ends.may_end

    def feed(self, lines: str) -> bool:
        """Take the next lines; returns whether the text ends with a whole statement."""
        at = 0
        if self._closer:
            found = _REST[self._closer].match(lines)
            if found is None:
                return False
            at, self._closer = found.end(), ""
        for token in _TOKEN.finditer(lines, at):
            self._closer = _closer_of(token)
            if token.lastgroup != "blank":
                self._is_complete = self._ends.feed(token)
        return self._is_complete and not self._closer


_REST: Final = {
    "'": re.compile(r"(?:[^']++|'')*+'"),
    '"': re.compile(r'(?:[^"]++|"")*+"'),
    "`": re.compile(r"(?:[^`]++|``)*+`"),
    "]": re.compile(r"[^\]]*+\]"),
    "*/": re.compile(r".*?\*/", re.DOTALL),
}


def _closer_of(token: re.Match[str]) -> str:
    """What an unfinished literal or comment waits for; "" for all else."""
    text = token.group()
    if token.lastgroup == "blank":
        return "*/" if text.startswith("/*") and not text[2:].endswith("*/") else ""
    if token.lastgroup != "quoted":
        return ""
    closer = "]" if text[0] == "[" else text[0]
    return "" if _REST[closer].fullmatch(text, 1) else closer


def _check_text(sql: str) -> None:
    if "\0" in sql:  # SQLite would stop reading there
        raise ProgrammingError("the query contains a null character")
    try:
        sql.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"SQL is not valid UTF-8: {error.reason}") from None


def _describe(sql: str) -> Statement:
    _check_text(sql)
    found = [*tokens(sql)]
    if all(token.group() == ";" for token in found):
        return Statement(StatementKind.EMPTY, "", True)
    keyword = _deciding_keyword(found)
    return Statement(_KINDS.get(keyword, StatementKind.ASK), keyword, _is_single(found))


_describe_cached = lru_cache(maxsize=512)(_describe)


def tokens(sql: str) -> Iterator[re.Match[str]]:
    return (token for token in _TOKEN.finditer(sql) if token.lastgroup != "blank")


def _deciding_keyword(tokens: list[re.Match[str]]) -> str:
    """The first word, or of WITH the verb after the table list.

    In `WITH name (…) AS (…), … SELECT` a word right after a parenthesis that closes to depth 0 is AS or the
    verb.
    """
    first = word_of(next(token for token in tokens if token.group() != ";"))
    if first != "WITH":
        return first
    depth, previous = 0, ""
    for token in tokens:
        text = token.group()
        if depth == 0 and previous == ")" and (word := word_of(token)) not in ("", "AS"):
            return word
        depth += (text == "(") - (text == ")")
        previous = text
    return first


def _is_single(tokens: list[re.Match[str]]) -> bool:
    ends, statements, content = _StatementEnd(), 0, False
    for token in tokens:
        if token.group() != ";" and not content:
            content = True
            statements += 1
        if ends.feed(token):
            content = False
    return statements <= 1


def word_of(token: re.Match[str]) -> str:
    return token.group().upper() if token.lastgroup == "word" else ""


class _Scan(enum.Enum):
    START = 1
    NORMAL = 2
    EXPLAIN = 3
    CREATE = 4
    TRIGGER = 5  # the body: its semicolons do not end the statement …
    TRIGGER_SEMICOLON = 6
    TRIGGER_END = 7  # … only the one after "; END" does


class _StatementEnd:
    """Follows tokens and tells which semicolons end a statement."""

    def __init__(self) -> None:
        self._state = _Scan.START

    @property
    def may_end(self) -> bool:
        return self._state not in (_Scan.TRIGGER, _Scan.TRIGGER_SEMICOLON)

    def feed(self, token: re.Match[str]) -> bool:
        word = word_of(token)
        state = self._state
        if token.group() == ";" and self.may_end:
            self._state = _Scan.START
            return True
        if state in (_Scan.TRIGGER, _Scan.TRIGGER_SEMICOLON, _Scan.TRIGGER_END):
            if token.group() == ";":
                self._state = _Scan.TRIGGER_SEMICOLON
            elif word == "END" and state is _Scan.TRIGGER_SEMICOLON:
                self._state = _Scan.TRIGGER_END
            else:
                self._state = _Scan.TRIGGER
        else:
            self._state = self._before_body(state, word)
        return False

    @staticmethod
    def _before_body(state: _Scan, word: str) -> _Scan:
        if state is _Scan.START and word == "EXPLAIN":
            return _Scan.EXPLAIN
        if state in (_Scan.START, _Scan.EXPLAIN) and word == "CREATE":
            return _Scan.CREATE
        if state is _Scan.EXPLAIN and word not in ("EXPLAIN", "TEMP", "TEMPORARY", "TRIGGER", "END"):
            return _Scan.EXPLAIN  # EXPLAIN QUERY PLAN …
        if state is _Scan.CREATE and word in ("TEMP", "TEMPORARY"):
            return _Scan.CREATE
        if state is _Scan.CREATE and word == "TRIGGER":
            return _Scan.TRIGGER
        return _Scan.NORMAL
