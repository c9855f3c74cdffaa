"""The shell at a terminal: a line editor with history, completion and colours around a Session. Main thread."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.lexers import PygmentsLexer
from prompt_toolkit.shortcuts import CompleteStyle
from pygments.lexers.sql import SqlLexer

from dqlite_py.cli.exits import CommandFailed
from dqlite_py.cli.plain import visible
from dqlite_py.cli.shell.completing import ShellCompleter
from dqlite_py.cli.shell.reading import is_entered, lines_of, pieces
from dqlite_py.cli.shell.schemacommands import columns_by_table
from dqlite_py.cli.shell.session import Session
from dqlite_py.errors import Error
from dqlite_py.sqltext import StatementKind, describe

_MARKS: Final = {"none": "", "open": "*", "ended": "!"}
_CONTINUED: Final = "...> "
_GREETING_S: Final = 2.0


def run_interactive(session: Session, history: str | None = None, **parts: Any) -> None:
    """Prompt until .quit or the end of input. `history`: a file, "" for none, None: the usual place.

    `parts` (input, output) are those of prompt_toolkit, for tests.
    """
    schema = KnownSchema(session)
    prompt: PromptSession[str] = PromptSession(
        history=_history(history),
        completer=ShellCompleter(schema.known),
        complete_style=CompleteStyle.MULTI_COLUMN,
        complete_while_typing=False,
        auto_suggest=AutoSuggestFromHistory(),
        lexer=PygmentsLexer(SqlLexer),
        multiline=True,
        key_bindings=_bindings(),
        prompt_continuation=lambda width, _number, _soft: _CONTINUED.rjust(width),
        **parts,
    )
    with session.cancel.between():
        _greet(session)
        _loop(session, prompt, schema, lambda question: PromptSession(**parts).prompt(question))


def _loop(
    session: Session, prompt: PromptSession[str], schema: KnownSchema, ask: Callable[[str], str]
) -> None:
    offered: Error | None = None
    while not session.is_done:
        schema.refresh()
        try:
            text = prompt.prompt(prompt_text(session))
        except KeyboardInterrupt:  # what was typed is thrown away
            continue
        except EOFError:
            break
        _run(session, text)
        schema.note(text)
        if session.unresolved is not None and session.unresolved is not offered:
            offered = session.unresolved
            _offer(session, ask)


def prompt_text(session: Session) -> str:
    """`app> `; `app*> ` in a transaction, `app!> ` when the cluster has ended it."""
    return f"{session.database or '(no database)'}{_MARKS[session.transaction]}> "


def _run(session: Session, text: str) -> None:
    try:
        for piece in list(pieces(lines_of(text))):
            if session.is_done or not session.run(piece):
                return
    except Error as error:
        session.tell_error(error)


def _offer(session: Session, ask: Callable[[str], str]) -> None:
    """The newest write may have happened or not: find out now, if the user likes."""
    try:
        answer = ask("Ask the cluster what became of it? [Y/n] ")
    except (KeyboardInterrupt, EOFError):
        answer = "n"
    if answer.strip().lower() not in ("", "y", "yes"):
        click.echo("later: .resolve")
        return
    try:
        click.echo(session.resolve())
    except Error as error:
        session.tell_error(error)
    except KeyboardInterrupt:
        click.echo("later: .resolve")


def _greet(session: Session) -> None:
    try:
        _address, status = session.asked._replace(timeout_s=_GREETING_S).status()
    except CommandFailed as error:
        click.echo(f"Warning: {error.message}", err=True)
    else:
        leader = status.get("leader_address") or "none now"
        click.echo(visible(f"cluster {status.get('cluster_id')}, leader {leader}; .help for help"))
        databases = status.get("databases")
        if session.database and isinstance(databases, dict) and session.database not in databases:
            click.echo(f"{session.database} does not exist yet: the first statement makes it")


def _history(path: str | None) -> History:
    if path == "":
        return InMemoryHistory()
    if path is None:
        base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
        if not os.path.isabs(base):  # a user without a home
            return InMemoryHistory()
        path = os.path.join(base, "dqlite-py", "history")
    file = Path(os.path.expanduser(path))
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(file, os.O_CREAT | os.O_APPEND | os.O_RDWR, 0o600))
    except OSError as error:
        click.echo(f"Warning: no history: {error}", err=True)
        return InMemoryHistory()
    return _KeptHistory(str(file))


class _KeptHistory(FileHistory):
    """A file that cannot be written any more (a full disk) ends its keeping, not the shell."""

    _is_lost = False

    def store_string(self, string: str) -> None:
        if self._is_lost:
            return
        try:
            super().store_string(string)
        except OSError as error:
            self._is_lost = True
            click.echo(f"Warning: no more history: {error}", err=True)


def _bindings() -> KeyBindings:
    """Enter runs what is complete, and else begins a new line; so does Alt-Enter always."""
    bindings = KeyBindings()

    @Condition
    def is_whole() -> bool:
        return is_entered(get_app().current_buffer.text)

    @bindings.add("enter", filter=is_whole)
    def _accept(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return bindings


class KnownSchema:
    """Tables and columns, asked for between prompts: after opening, and after what changes the schema."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._database = ""
        self._is_old = False
        self._known: dict[str, list[str]] = {}

    def known(self) -> dict[str, list[str]]:
        return self._known

    def note(self, text: str) -> None:
        with contextlib.suppress(Error):
            self._is_old = self._is_old or describe(text).kind is StatementKind.SCHEMA or text.startswith(".")

    def refresh(self) -> None:
        session = self._session
        if not session.is_connected or session.transaction == "ended":
            return
        if self._is_old or self._database != session.database:
            with contextlib.suppress(Error, KeyboardInterrupt):
                self._known = columns_by_table(session)
                self._is_old, self._database = False, session.database
