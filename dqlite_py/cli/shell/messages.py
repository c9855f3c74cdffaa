"""What the shell says of errors: SQLite's text, its code's name, and what is now true of the write."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TextIO

import click

from dqlite_py.cli.exits import mend
from dqlite_py.cli.plain import visible
from dqlite_py.client.stock.choosing import DqliteServerWarning
from dqlite_py.errors import Error, InterfaceError, Outcome, ProgrammingError, TransactionEnded

_OUTCOMES: Final = {
    Outcome.NOT_APPLIED: "not applied",
    Outcome.UNKNOWN: "outcome unknown: it may have happened",
    Outcome.APPLIED: "applied; only its result is gone",
}
_STOCK: Final = (
    "Warning: these are servers of dqlite itself: reads are what their leader has, not linearizable "
    "(--level leader says that you know), writes are not exactly once"
)


def error_text(error: Error, line: int | None = None) -> str:
    """`Error near line 3: no such table: t [SQLITE_ERROR; not applied]`, and what to do where that is known."""
    facts = [name for name in (error.sqlite_errorname,) if name]
    if not isinstance(error, (InterfaceError, ProgrammingError)) or facts:  # those never got to the cluster
        facts.append(_OUTCOMES[error.outcome])
    place = "" if line is None else f" near line {line}"
    text = f"Error{place}: {'  '.join(map(visible, error.message.splitlines()))}"
    if facts:
        text += f" [{'; '.join(facts)}]"
    advice = advice_for(error)
    return f"{text}\n  -> {advice}" if advice else text


def advice_for(error: Error) -> str:
    """'' where the message says all there is."""
    if isinstance(error, TransactionEnded):
        return "nothing of the transaction happened: ROLLBACK ends it, then begin anew"
    if is_resolvable(error):
        return ".resolve asks the cluster what became of it"
    if error.outcome is Outcome.UNKNOWN:
        return "look at the data before you try again"
    advice = mend(error)
    return "" if "dqlite-py status" in advice else advice


def is_resolvable(error: Error) -> bool:
    """Whether the write has a key, by which the cluster can be asked."""
    return error.outcome is Outcome.UNKNOWN and "session" in error.details and "sequence" in error.details


@contextmanager
def stock_servers_told() -> Iterator[None]:
    """A DqliteServerWarning is one line on stderr, not Python's three. Main thread."""
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, DqliteServerWarning):
                click.echo(_STOCK, err=True)
            else:
                usual(message, category, filename, lineno, file, line)

        warnings.simplefilter("always", DqliteServerWarning)
        warnings.showwarning = show
        yield
