"""The shell's state, and running one statement or dot command of it. Main thread; knows nothing of terminals.

A statement outside BEGIN … COMMIT commits by itself. When a transaction is lost with its leader that is said, and
nothing of it is run outside a transaction by accident: its statements fail until ROLLBACK.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TextIO

import click

from dqlite_py import client
from dqlite_py.cli.members import Asked
from dqlite_py.cli.plain import visible_text
from dqlite_py.cli.shell.cancel import Cancel, Cancelled
from dqlite_py.cli.shell.dotcommands import run_command
from dqlite_py.cli.shell.formats import Look, format_rows
from dqlite_py.cli.shell.messages import error_text, is_resolvable, stock_servers_told
from dqlite_py.cli.shell.output import Output
from dqlite_py.cli.shell.reading import Piece, lines_of, pieces
from dqlite_py.config import TlsSettings
from dqlite_py.errors import Error, InterfaceError, NeverApplied, OutcomeUnknown, TransactionEnded
from dqlite_py.sqltext import StatementKind, describe

_BATCH: Final = 256  # rows fetched at a time
_ROLLBACK: Final = "ROLLBACK"
_WRITES: Final = (StatementKind.INSERT, StatementKind.CHANGE, StatementKind.SCHEMA)


class Session:
    """One shell. `failures`: errors so far; `unresolved`: the newest write whose outcome is not known."""

    def __init__(
        self,
        asked: Asked,
        database: str,
        *,
        tls: TlsSettings | None = None,
        look: Look | None = None,
        output: Output | None = None,
        is_interactive: bool = False,
        options: dict[str, Any] | None = None,
        connect: Callable[..., Any] | None = None,
    ) -> None:
        self.asked = asked
        self.database = database
        self.look = Look() if look is None else look
        self.output = Output() if output is None else output
        self.is_interactive = is_interactive
        self.has_timer = False
        self.is_bailing = False
        self.is_done = False
        self.failures = 0
        self.unresolved: Error | None = None
        self.cancel = Cancel()
        self.read_depth = 0  # files that read files
        self.tls = tls
        self._options = {} if options is None else options
        self._connect = client.connect if connect is None else connect
        self._connection: Any = None
        self._is_ended = False  # the open transaction, by its node

    # -- the connection ---------------------------------------------------------------------------------

    @property
    def connection(self) -> Any:
        """Made at its first use, which creates the database where it does not exist."""
        if self._connection is None:
            if not self.database:
                raise InterfaceError("no database is open: .open NAME")
            servers = ",".join(self.asked.servers)
            with self.cancel.watching(None), stock_servers_told():
                self._connection = self._connect(
                    servers, self.database, tls=self.tls, isolation_level=None, **self._options
                )
        return self._connection

    def use(self, connection: Any) -> None:
        """Another connection than the one that would be made."""
        self.close()
        self._connection = connection

    @property
    def is_connected(self) -> bool:
        return self._connection is not None

    @property
    def transaction(self) -> str:
        """ "none", "open", or "ended": by its node, and not yet rolled back here."""
        if self._connection is None or not self._connection.in_transaction:
            self._is_ended = False
            return "none"
        return "ended" if self._is_ended else "open"

    def open(self, database: str) -> None:
        """Use another database. Raises InterfaceError while a transaction is open."""
        if self.transaction != "none":
            raise InterfaceError("a transaction is open: COMMIT or ROLLBACK first")
        self.close()
        self.database = database

    def set_option(self, name: str, value: Any) -> None:
        """An option of this connection and of those that .open makes."""
        if self._connection is not None:
            setattr(self._connection, name, value)
        self._options[name] = value

    def option(self, name: str) -> Any:
        return self._options.get(name)

    def close(self) -> None:
        """Roll back what is open. Never raises for a cluster that does not answer."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    # -- running ----------------------------------------------------------------------------------------

    def run_lines(self, lines: Iterable[str], *, stops: bool = False) -> bool:
        """Run a script; returns False when it ended at an error (`stops`, or .bail on)."""
        for piece in pieces(lines):
            if not self.run(piece) and (stops or self.is_bailing):
                return False
            if self.is_done:
                break
        return True

    def run_text(self, text: str, *, stops: bool = False) -> bool:
        return self.run_lines(lines_of(text), stops=stops)

    def run(self, piece: Piece) -> bool:
        """One statement or dot command; returns whether it went well. Errors are told on stderr.

        Raises StdoutLost.
        """
        failures = self.failures
        self.cancel.begin()
        self._attempt(piece)
        try:
            self.output.command_done()
        except OSError as error:
            self._fail(f"Error: {error}")
        if self.cancel.is_requested:
            if self.failures == failures:
                self._fail("cancelled")
            self.is_done = (
                self.is_done or not self.is_interactive
            )  # Ctrl-C ends a script, not one statement of it
        return self.failures == failures

    def _attempt(self, piece: Piece) -> None:
        line = None if self.is_interactive else piece.line
        try:
            if piece.is_command:
                with self.cancel.watching(None):
                    run_command(self, piece.text)
            else:
                self.run_sql(piece.text)
        except Error as error:
            self.tell_error(error, line)
        except click.ClickException as error:
            self._fail(f"Error: {error.message}")
        except (OSError, UnicodeError) as error:
            self._fail(f"Error: {error}")
        except (Cancelled, KeyboardInterrupt):
            self._fail("cancelled")

    def run_sql(self, sql: str) -> None:
        """Run one statement and write its result. Raises what it raises, Cancelled after Ctrl-C."""
        began = time.perf_counter()
        self.show(self.execute(sql))
        if self.has_timer:
            click.echo(f"Run Time: real {time.perf_counter() - began:.3f}", err=True)

    def execute(self, sql: str) -> Any:
        """A cursor with the statement's result."""
        connection = self.connection
        statement = describe(sql)
        is_lone_write = statement.kind in _WRITES and self.transaction == "none"
        is_keyed = is_lone_write and self.is_interactive and connection.server.exactly_once
        key = connection.new_key() if is_keyed else None
        interrupt = None if is_lone_write else connection.interrupt
        try:
            with self.cancel.watching(interrupt):
                if key is None:
                    return connection.execute(sql)
                return connection.execute_atomic([sql], key=key)[0]
        except KeyboardInterrupt:
            if not is_lone_write:
                raise
            details = {} if key is None else {"session": key.session, "sequence": key.sequence}
            raise OutcomeUnknown("cancelled while the cluster worked on it", **details) from None
        except TransactionEnded:
            self._is_ended = statement.keyword != _ROLLBACK
            raise

    def write_many(self, sql: str, sets: list[Any]) -> None:
        """One statement for each set of parameters, as one unit or in the open transaction."""
        try:
            with self.cancel.watching(None):
                self.connection.executemany(sql, sets)
        except KeyboardInterrupt:
            raise OutcomeUnknown("cancelled while the cluster worked on it") from None
        except TransactionEnded:
            self._is_ended = True
            raise

    def show(self, cursor: Any) -> None:
        """Write a cursor's rows, or at a terminal how many it changed. Closes it."""
        try:
            if cursor.description is None:
                if self.is_interactive and cursor.rowcount >= 0:
                    click.echo(f"({cursor.rowcount} row{'' if cursor.rowcount == 1 else 's'} changed)")
                return
            columns = [column[0] for column in cursor.description]
            look = self.look
            if self.output.is_terminal and not look.is_safe:
                look = Look(look.mode, look.has_headers, look.null, look.separator, is_safe=True)
            with self.cancel.watching(self.connection.interrupt):
                self.output.write(self._checked(format_rows(look, columns, self._rows(cursor))))
        finally:
            cursor.close()

    def _rows(self, cursor: Any) -> Iterator[Any]:
        while rows := cursor.fetchmany(_BATCH):
            yield from rows

    def _checked(self, parts: Iterator[str]) -> Iterator[str]:
        for part in parts:
            yield part
            self.cancel.check()

    # -- telling ----------------------------------------------------------------------------------------

    def tell(self, text: str) -> None:
        """The result of a dot command."""
        self.output.write([self.shown(text) + "\n"])

    def shown(self, text: str) -> str:
        """Names and values of others cannot drive a terminal; into files and pipes they go as they are."""
        return visible_text(text) if self.output.is_terminal else text

    def tell_error(self, error: Error, line: int | None = None) -> None:
        if is_resolvable(error):
            self.unresolved = error
        self._fail(error_text(error, line))

    def _fail(self, text: str) -> None:
        self.failures += 1
        try:
            self.output.flush()
        finally:
            click.echo(visible_text(text), err=True)

    def resolve(self) -> str:
        """What became of the write whose outcome was not known. Raises as long as that cannot be told."""
        error = self.unresolved
        if error is None:
            return "there is no write whose outcome is unknown"
        try:
            with self.cancel.watching(None):
                cursor = self.connection.resolve(error)
        except NeverApplied:
            self.unresolved = None
            return "it did not happen, and never will"
        except Error as answer:
            if is_resolvable(answer) or answer.retryable:
                raise
            self.unresolved = None
            return f"it did not happen: {error_text(answer)}"
        self.unresolved = None
        changed = cursor.rowcount
        return "it happened, once" + (f" ({changed} rows changed)" if changed >= 0 else "")


def stream_lines(stream: TextIO | None) -> Iterator[str]:
    """Lines as they come, so that a pipe is answered while it is open. None: stdin was closed by who started us.

    A line ends with a line feed alone, and bytes that are not UTF-8 are for the statement to refuse.
    """
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(newline="\n", errors="surrogateescape")
    while stream is not None and (line := stream.readline()):
        yield line
