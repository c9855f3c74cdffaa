"""The `dqlite-py shell` command: options to a Session, for a terminal or a pipe."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from dqlite_py.cli.exits import CommandFailed, ExitCode
from dqlite_py.cli.members import Asked
from dqlite_py.cli.options import FloatRange, servers_option, timeout_option, tls_options, tls_settings
from dqlite_py.cli.remote import Remote
from dqlite_py.cli.shell.formats import ALIASES, MODES, Look
from dqlite_py.cli.shell.output import StdoutLost
from dqlite_py.cli.shell.session import Session, stream_lines
from dqlite_py.command import check_database_name
from dqlite_py.errors import InterfaceError
from dqlite_py.gateway import ReadLevel
from dqlite_py.model import Address


def _database(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str:
    try:
        return "" if value is None else check_database_name(value)
    except InterfaceError as error:
        raise click.BadParameter(error.message) from None


@click.command()
@servers_option()
@click.argument("database", required=False, callback=_database)
@click.argument("sql", nargs=-1)
@click.option(
    "--mode", type=click.Choice(MODES), help="How rows look. Default: box at a terminal, else list."
)
@click.option("--json", "as_json", is_flag=True, help="Rows as JSON, as --mode json.")
@click.option("--headers/--no-headers", default=None, help="Column names above the rows.")
@click.option("--separator", help="What stands between values (list, csv, tabs, quote).")
@click.option("--nullvalue", default="", help="What stands for NULL.")
@click.option("--bail", is_flag=True, help="Stop at the first error.")
@click.option("--interactive", is_flag=True, help="As at a terminal, whatever stdin is.")
@click.option(
    "--level",
    type=click.Choice([level.value for level in ReadLevel]),
    help="How fresh reads are. Default: linearizable.",
)
@click.option(
    "--idle-limit",
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    type=FloatRange(1, 3600),
    help="How long a transaction may wait for the next statement; other writers wait as long.",
)
@click.option("--history", metavar="FILE", help="History of what was typed; '' for none.")
@timeout_option(10.0, "Seconds that a statement may take.", maximum=3600)
@tls_options
def shell(
    servers: tuple[Address, ...],
    database: str,
    sql: tuple[str, ...],
    mode: str | None,
    as_json: bool,
    headers: bool | None,
    separator: str | None,
    nullvalue: str,
    bail: bool,
    interactive: bool,
    level: str | None,
    idle_limit: float,
    history: str | None,
    timeout_s: float,
    tls_cert: str | None,
    tls_key: str | None,
    tls_ca: str | None,
) -> None:
    """Run SQL and dot commands in DATABASE: those given as arguments, or of stdin, or typed at a terminal.

    DATABASE is made when the first statement finds it missing. Results go to stdout, errors to stderr. SQL given as
    arguments stops at the first error; stdin goes on, unless --bail. .help lists the dot commands.

    Exit codes: 0 all went well (or typed at a terminal), 1 an error, 2 wrong usage.
    """
    if separator is not None and (as_json or mode == "json"):
        raise click.UsageError("JSON has no --separator")
    if mode == "csv" and separator is not None and len(separator) != 1:
        raise click.UsageError("the --separator of CSV is one character")
    tls = tls_settings(tls_cert, tls_key, tls_ca)
    is_typed = not sql and (interactive or (sys.stdin is not None and sys.stdin.isatty()))
    name = "json" if as_json else mode or ("box" if is_typed else "list")
    look = Look(ALIASES.get(name, name), is_typed if headers is None else headers, nullvalue, separator)
    limits: dict[str, Any] = {"idle_limit": idle_limit, "hold_limit": max(60.0, idle_limit * 5)}
    session = Session(
        Asked(Remote(tls), servers, timeout_s),
        database,
        tls=tls,
        look=look,
        is_interactive=is_typed,
        options={"timeout": timeout_s, **limits, **({} if level is None else {"read_level": level})},
    )
    session.is_bailing = bail
    try:
        _run(session, sql, history)
        session.output.close()
    except StdoutLost as error:
        _forget_stdout()
        if error.is_reader_gone:  # `| head -1`: it has what it wanted
            raise click.exceptions.Exit(int(ExitCode.FAILED)) from None
        raise CommandFailed(str(error)) from None
    except OSError as error:  # of .output's file, at the end
        raise CommandFailed(str(error)) from None
    finally:
        session.close()
    if session.failures and not is_typed:
        raise click.exceptions.Exit(int(ExitCode.FAILED))


def _forget_stdout() -> None:
    """What is still buffered for it would fail once more when the process ends."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(session: Session, sql: tuple[str, ...], history: str | None) -> None:
    if sql:
        for text in sql:
            if session.is_done or not session.run_text(text, stops=True):
                break
    elif session.is_interactive:
        from dqlite_py.cli.shell.interactive import run_interactive

        run_interactive(session, history)
    else:
        session.run_lines(stream_lines(sys.stdin))
    if session.transaction == "open":
        click.echo("Warning: the transaction was not committed: it is rolled back", err=True)
