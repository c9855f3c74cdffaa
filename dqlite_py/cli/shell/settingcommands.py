"""Dot commands for the shell itself: looks, levels, limits, and queries that are watched."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from dqlite_py.cli.shell.cancel import Cancelled
from dqlite_py.cli.shell.formats import FORMATTERS, MODES
from dqlite_py.cli.shell.messages import error_text
from dqlite_py.command import check_database_name
from dqlite_py.errors import Error, ProgrammingError
from dqlite_py.gateway import ReadLevel
from dqlite_py.sqltext import StatementKind, describe

if TYPE_CHECKING:
    from dqlite_py.cli.shell.session import Session


def _switch(text: str) -> bool:
    if text.lower() in ("on", "yes", "1", "true"):
        return True
    if text.lower() in ("off", "no", "0", "false"):
        return False
    raise ProgrammingError(f"{text!r:.40} is neither on nor off")


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 < found < 86_400:
        raise ProgrammingError(f"{text!r:.40} is no number of seconds")
    return found


def mode(session: Session, arguments: Sequence[str]) -> None:
    if not arguments:
        session.tell(session.look.mode)
        return
    look = session.look.with_mode(arguments[0].lower())
    if look.mode not in FORMATTERS:
        raise ProgrammingError(f"there is no mode {arguments[0]!r:.40}: {', '.join(MODES)}")
    session.look = look


def headers(session: Session, arguments: Sequence[str]) -> None:
    session.look = replace(session.look, has_headers=_switch(arguments[0]))


def nullvalue(session: Session, arguments: Sequence[str]) -> None:
    session.look = replace(session.look, null=arguments[0])


def separator(session: Session, arguments: Sequence[str]) -> None:
    text = arguments[0].replace("\\t", "\t").replace("\\n", "\n")
    if session.look.mode == "csv" and len(text) != 1:
        raise ProgrammingError("the separator of CSV is one character")
    session.look = replace(session.look, separator=text)


def timer(session: Session, arguments: Sequence[str]) -> None:
    session.has_timer = _switch(arguments[0])


def bail(session: Session, arguments: Sequence[str]) -> None:
    session.is_bailing = _switch(arguments[0])


def timeout(session: Session, arguments: Sequence[str]) -> None:
    session.set_option("timeout", _seconds(arguments[0]))


def open_(session: Session, arguments: Sequence[str]) -> None:
    session.open(check_database_name(arguments[0]))


def consistency(session: Session, arguments: Sequence[str]) -> None:
    """Show or set the read level; a number behind `stale` bounds how old a state may be."""
    if not arguments:
        staleness = session.option("max_staleness")
        session.tell(_level(session) + ("" if staleness is None else f", at most {staleness:g} s old"))
        return
    levels = [level.value for level in ReadLevel]
    if arguments[0] not in levels:
        raise ProgrammingError(f"there is no level {arguments[0]!r:.40}: {', '.join(levels)}")
    if len(arguments) > 1 and arguments[0] != ReadLevel.STALE.value:
        raise ProgrammingError("only stale reads have a bound in seconds")
    staleness = _seconds(arguments[1]) if len(arguments) > 1 else None
    session.set_option("max_staleness", staleness)
    session.set_option("read_level", arguments[0])


def _level(session: Session) -> str:
    """As the connection reads; with servers that promise less, what they keep."""
    if not session.is_connected:
        return str(session.option("read_level") or ReadLevel.LINEARIZABLE.value)
    connection = session.connection
    level: str = connection.read_level.value
    if level in connection.server.read_levels:
        return level
    kept = ", ".join(connection.server.read_levels)
    return f"{level} (what the leader has; what {connection.server.name} servers promise is: {kept})"


def _writes(session: Session) -> str:
    if not session.is_connected:
        return "(not connected yet)"
    return "exactly once" if session.connection.server.exactly_once else "not exactly once"


def show(session: Session, _arguments: Sequence[str]) -> None:
    look = session.look
    facts = {
        "database": session.database or "(none)",
        "servers": ",".join(session.asked.servers),
        "server": session.connection.server.name if session.is_connected else "(not connected yet)",
        "writes": _writes(session),
        "transaction": session.transaction,
        "consistency": _level(session),
        "mode": look.mode,
        "headers": "on" if look.has_headers else "off",
        "nullvalue": repr(look.null),
        "output": session.output.target,
        "timer": "on" if session.has_timer else "off",
        "bail": "on" if session.is_bailing else "off",
    }
    for name, value in facts.items():
        session.tell(f"{name.rjust(12)}: {value}")


def resolve(session: Session, _arguments: Sequence[str]) -> None:
    session.tell(session.resolve())


def watch(session: Session, arguments: Sequence[str]) -> None:
    """Run a query every few seconds until Ctrl-C; a write would be repeated, so only what reads is taken."""
    first = arguments[0]
    try:
        pause_s = _seconds(first)
        sql = arguments[1] if len(arguments) > 1 else ""
    except ProgrammingError:
        pause_s, sql = 2.0, " ".join(arguments)
    if describe(sql).kind is not StatementKind.READ:
        raise ProgrammingError("write .watch [SECONDS] SELECT …")
    try:
        while True:
            if session.output.is_terminal:
                session.output.write(["\x1b[H\x1b[2J"])
            session.tell(f"every {pause_s:g} s: {sql}    {time.strftime('%H:%M:%S')}")
            _look(session, sql)
            time.sleep(pause_s)
    except (Cancelled, KeyboardInterrupt):  # its usual end; of a script, too
        session.is_done = session.is_done or not session.is_interactive
        session.cancel.begin()


def _look(session: Session, sql: str) -> None:
    """Once; while nobody leads that is said, and the next look may find somebody."""
    try:
        session.run_sql(sql)
    except Error as error:
        session.cancel.check()
        if not error.retryable:
            raise
        click.echo(error_text(error), err=True)
