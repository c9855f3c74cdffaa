"""Dot commands about files: output, scripts, SQL out. CSV in: importcommand."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from dqlite_py.errors import Error, ProgrammingError

if TYPE_CHECKING:
    from dqlite_py.cli.shell.session import Session

READ_DEPTH_MAX: Final = 16


def output(session: Session, arguments: Sequence[str]) -> None:
    session.output.to(arguments[0] if arguments else "")


def once(session: Session, arguments: Sequence[str]) -> None:
    session.output.to(arguments[0], once=True)


def read(session: Session, arguments: Sequence[str]) -> None:
    """Run a file; its errors are the command's, so that .bail on ends what has read it, too."""
    session.read_depth += 1
    path = os.path.expanduser(arguments[0])
    try:
        if session.read_depth > READ_DEPTH_MAX:
            raise ProgrammingError(f"files that read files, {READ_DEPTH_MAX} deep: is it a circle?")
        # A line ends with a line feed alone: values may hold other characters that Python takes for one.
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            session.run_lines(file)
    finally:
        session.read_depth -= 1


def dump(session: Session, arguments: Sequence[str]) -> None:
    """The database of one state, or the tables whose name is LIKE the argument, as SQL that makes it anew."""
    lines = session.connection.iterdump(filter=arguments[0] if arguments else None)
    try:
        with session.cancel.watching(session.connection.interrupt):
            for line in lines:
                session.output.write([session.shown(line), "\n"])
                session.cancel.check()
    except Error:
        session.output.write(
            ["ROLLBACK; -- due to errors\n"]
        )  # who runs it does not take a part for the whole
        raise
    finally:
        lines.close()
