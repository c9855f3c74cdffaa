"""The shell's input taken apart: statements, which may span lines, and dot commands, which are a line each. Pure."""

from __future__ import annotations

import io
import shlex
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from dqlite_py.errors import Error, ProgrammingError
from dqlite_py.sqltext import Completion, is_complete, split_script


class Piece(NamedTuple):
    """`text`: one SQL statement or a dot command; `line`: of the input where it begins, from 1."""

    text: str
    line: int

    @property
    def is_command(self) -> bool:
        return self.text.startswith(".")


def lines_of(text: str) -> Iterable[str]:
    """Lines end with a line feed alone: str.splitlines() would cut values at other characters, too."""
    return io.StringIO(text, newline="\n")


def pieces(lines: Iterable[str]) -> Iterator[Piece]:
    """Read as sqlite3's shell does: a dot command stands at the start of a line where no statement is open.

    A last statement may lack its semicolon. A line that is `/` or `GO` ends a statement, too, unless it is part of a
    value. A line that begins with `#` where no statement is open is a comment. What cannot be SQL (a zero byte, bytes
    that are not UTF-8) is one piece, which fails when it is run.
    """
    held: list[str] = []
    begin, completion = 1, Completion()
    for number, line in enumerate(lines, 1):
        if number == 1:
            line = line.removeprefix("\ufeff")
        if not held:
            begin = number
            if not line.strip() or line.lstrip().startswith("--") or line.startswith("#"):
                continue
            if line.startswith("."):
                yield Piece(line.strip(), number)
                continue
            completion = Completion()
        elif line.strip().lower() in ("/", "go") and completion.may_end:
            line = ";"
        held.append(line if line.endswith("\n") else line + "\n")
        if completion.feed(held[-1]):
            yield from _statements("".join(held), begin)
            held = []
    if held:
        yield from _statements("".join(held), begin)


def is_entered(text: str) -> bool:
    """Whether what is typed may be run as it is: a dot command, whole statements, or nothing."""
    stripped = text.strip()
    return not stripped or stripped.startswith(".") or is_complete(text)


def _statements(text: str, begin: int) -> Iterator[Piece]:
    at = 0
    try:
        statements = split_script(text)
    except Error:
        yield Piece(text.strip(), begin)
        return
    for statement in statements:
        found = text.find(statement, at)
        at = found + len(statement)
        yield Piece(statement, begin + text.count("\n", 0, found))


def words(command: str) -> list[str]:
    """A dot command's words; quotes as in a shell, a backslash is one. Raises ProgrammingError for an open quote."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters, lexer.escape = True, "", ""
    try:
        return list(lexer)
    except ValueError as error:
        raise ProgrammingError(f"{command!r:.80}: {str(error).lower()}") from None
