"""The `dqlite-py bench` command: how fast a running cluster is, measured in a database of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import click

from dqlite_py import client
from dqlite_py.cli import bench_load
from dqlite_py.cli.bench_load import Load, Result, Summary
from dqlite_py.cli.cluster_view import Table
from dqlite_py.cli.exits import CommandFailed, explain
from dqlite_py.cli.options import (
    FloatRange,
    json_option,
    servers_option,
    timeout_option,
    tls_options,
    tls_settings,
)
from dqlite_py.cli.plain import visible
from dqlite_py.cli.printing import print_json, print_table
from dqlite_py.cli.progress import TimeBar
from dqlite_py.cli.remote import Remote
from dqlite_py.command import check_database_name
from dqlite_py.config import TlsSettings
from dqlite_py.errors import Error, InterfaceError
from dqlite_py.gateway import ReadLevel
from dqlite_py.model import Address

_DATABASE: Final = "dqlite_py_bench"
_WORKERS: Final = click.IntRange(0, 256)
_ASK_S: Final = 5.0


def _database(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    try:
        return check_database_name(value)
    except InterfaceError as error:
        raise click.BadParameter(error.message) from None


@click.command()
@servers_option()
@click.option(
    "--writers",
    default=4,
    show_default=True,
    type=_WORKERS,
    help="Connections that write.",
)
@click.option(
    "--readers",
    default=4,
    show_default=True,
    type=_WORKERS,
    help="Connections that read.",
)
@click.option(
    "--duration",
    "duration_s",
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    type=FloatRange(0.1, 3600),
    help="How long the load lasts.",
)
@click.option(
    "--value-size",
    "value_bytes",
    default=100,
    show_default=True,
    metavar="BYTES",
    type=click.IntRange(0, 16 << 20),
    help="Of each row.",
)
@click.option(
    "--level",
    type=click.Choice([level.value for level in ReadLevel]),
    default=ReadLevel.LINEARIZABLE.value,
    show_default=True,
    help="How fresh reads are.",
)
@click.option(
    "--database",
    default=_DATABASE,
    show_default=True,
    callback=_database,
    help="Made for the load and dropped after it; one that exists is refused.",
)
@click.option("--keep", is_flag=True, help="Do not drop the database.")
@json_option
@timeout_option(10.0, "Seconds that a statement may take.")
@tls_options
def bench(
    servers: tuple[Address, ...],
    writers: int,
    readers: int,
    duration_s: float,
    value_bytes: int,
    level: str,
    database: str,
    keep: bool,
    as_json: bool,
    timeout_s: float,
    tls_cert: str | None,
    tls_key: str | None,
    tls_ca: str | None,
) -> None:
    """Load a running cluster for a bounded time and tell how fast it answered.

    Writers insert one row at a time, each durable on a majority before the next; readers read one at a time. It is real
    load: other programs of the cluster feel it. Ctrl-C ends it early and shows what was measured.

    Exit codes: 0 measured, 1 the cluster could not be loaded, or nothing succeeded, 2 wrong usage.
    """
    if writers + readers == 0:
        raise click.UsageError("--writers and --readers are both 0: there is nothing to measure")
    tls = tls_settings(tls_cert, tls_key, tls_ca)
    load = Load(writers, readers, duration_s, value_bytes)
    remote = Remote(tls)
    try:
        _check_unused(remote, servers, database)
        connect = _connecting(servers, database, tls, level, timeout_s)
        _make_table(connect)
    except Error as error:
        raise CommandFailed(explain(error)) from None
    kept = ""
    try:
        with TimeBar("load", load.duration_s, is_wanted=not as_json) as bar:
            result = bench_load.run(load, connect, bar.show)
    except Error as error:
        raise CommandFailed(explain(error)) from None
    finally:  # whatever ended the load, Ctrl-C too
        if not keep:
            kept = _drop(remote, servers, database, timeout_s)
    _show(result, load, as_json)
    if result.writes.done_count + result.reads.done_count == 0:
        raise CommandFailed("nothing succeeded")
    if kept:
        raise CommandFailed("measured, but not cleaned up")


def _drop(remote: Remote, servers: tuple[Address, ...], database: str, timeout_s: float) -> str:
    """Why it is still there, which is told; "" when it is not."""
    try:
        address, _status = remote.any_status(servers, _ASK_S)
        remote.change(address, "sql.drop", {"database": database}, max(_ASK_S, timeout_s))
    except Error as error:
        text = visible(error.message)
        click.echo(f"Warning: the database {database!r} was not dropped: {text}", err=True)
        return text
    return ""


def _check_unused(remote: Remote, servers: tuple[Address, ...], database: str) -> None:
    """Somebody's data is never loaded, nor dropped afterwards. Raises CommandFailed, or Error without an answer."""
    _address, status = remote.any_status(servers, _ASK_S)
    found = status.get("databases")
    if not isinstance(found, dict) or database in found:
        raise CommandFailed(
            f"there is a database {database!r} already: choose another name with --database, or drop it"
        )


def _connecting(
    servers: tuple[Address, ...], database: str, tls: TlsSettings | None, level: str, timeout_s: float
) -> Callable[[], Any]:
    def connect() -> Any:
        return client.connect(
            ",".join(servers), database, tls=tls, timeout=timeout_s, read_level=level, isolation_level=None,
            check_same_thread=False,
        )  # fmt: skip

    return connect


def _make_table(connect: Callable[[], Any]) -> None:
    first = connect()
    try:
        first.execute(bench_load.CREATE)  # fails when another one has made it since
    finally:
        first.close()


def _show(result: Result, load: Load, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                **load._asdict(),
                "took_s": round(result.took_s, 3),
                "writes": result.writes.to_json(),
                "reads": result.reads.to_json(),
            }
        )
        return
    header = ("", "count", "per second", *(f"p{p:g} ms" for p in bench_load.PERCENTILES), "max ms", "errors")
    rows = [
        _row(name, summary)
        for name, summary, workers in (
            ("writes", result.writes, load.writers),
            ("reads", result.reads, load.readers),
        )
        if workers
    ]
    print_table(Table(f"{result.took_s:.1f} s, values of {load.value_bytes} bytes", header, rows))


def _row(name: str, summary: Summary) -> tuple[str, ...]:
    errors = ", ".join(f"{count} {what}" for what, count in summary.errors.items()) or "0"
    shown = [
        f"{summary.percentiles_ms[p]:.2f}" if p in summary.percentiles_ms else "-"
        for p in bench_load.PERCENTILES
    ]
    return (name, str(summary.done_count), f"{summary.per_s:.0f}", *shown, f"{summary.max_ms:.2f}", errors)
