"""Just enough of SQL's lexical rules to see a statement's first words and what follows it: sql_text.c."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_SPACE: Final = re.compile(rb"[ \t\n\f\r]+")
_WORD: Final = re.compile(rb"[A-Za-z0-9_$\x80-\xff]+")
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"  # a space to SQLite
_CLOSING: Final = {b'"': b'"', b"'": b"'", b"`": b"`", b"[": b"]"}


class Token(NamedTuple):
    """A word, a quoted name without its quotes, or one character."""

    text: bytes
    quote: bytes  # the opening quote of a quoted name, else empty

    def is_word(self, upper_case_word: bytes) -> bool:
        """Compares the text only: a quoted name may be equal to a word."""
        return self.text.upper() == upper_case_word


class Tokens:
    """The tokens of `sql`, one by one."""

    def __init__(self, sql: bytes, at: int = 0) -> None:
        self._sql = sql
        self._at = at

    def copy(self) -> Tokens:
        return Tokens(self._sql, self._at)

    def is_blank(self) -> bool:
        """True when nothing but white space, comments and semicolons is left."""
        return is_blank(self._sql, self._at)

    def next(self) -> Token | None:
        """Next token after white space and comments; None at the end."""
        sql = self._sql
        at = _skip_blank(sql, self._at)
        if at >= len(sql):
            self._at = at
            return None
        first = sql[at : at + 1]
        closing = _CLOSING.get(first)
        if closing is not None:
            end = _end_of_quoted(sql, at + 1, closing)
            self._at = min(end + 1, len(sql))
            return Token(sql[at + 1 : end], first)
        word = _WORD.match(sql, at)
        self._at = word.end() if word else at + 1
        return Token(sql[at : self._at], b"")


def _skip_blank(sql: bytes, at: int) -> int:
    while True:
        space = _SPACE.match(sql, at)
        if space:
            at = space.end()
        elif sql.startswith(_BYTE_ORDER_MARK, at):
            at += len(_BYTE_ORDER_MARK)
        elif sql.startswith(b"--", at):
            at = _behind(sql, b"\n", at)
        elif sql.startswith(b"/*", at):
            at = _behind(sql, b"*/", at + 2)
        else:
            return at


def _behind(sql: bytes, mark: bytes, at: int) -> int:
    found = sql.find(mark, at)
    return len(sql) if found < 0 else found + len(mark)


def _end_of_quoted(sql: bytes, at: int, closing: bytes) -> int:
    """Where the closing quote is; a doubled one, other than ']', belongs to the name."""
    while (found := sql.find(closing, at)) >= 0:
        if closing == b"]" or not sql.startswith(closing, found + 1):
            return found
        at = found + 2
    return len(sql)


def is_blank(sql: bytes, at: int) -> bool:
    """True when nothing but white space, comments and semicolons is left."""
    tokens = Tokens(sql, at)
    while (token := tokens.next()) is not None:
        if token.quote or token.text != b";":
            return False
    return True
