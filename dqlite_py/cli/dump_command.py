"""The `dqlite-py dump` command: one database of a cluster, or of a stopped node's folder, as a file."""

from __future__ import annotations

import contextlib
import os
import tempfile
from typing import Any

import click

from dqlite_py.cli.exits import CommandFailed, ExitCode, explain
from dqlite_py.cli.options import servers_option, tls_options, tls_settings
from dqlite_py.cli.printing import print_json
from dqlite_py.cli.progress import BytesBar
from dqlite_py.client.dump import fetch_database
from dqlite_py.config import TlsSettings
from dqlite_py.errors import Error
from dqlite_py.gateway import Freshness, ReadLevel
from dqlite_py.model import Address
from dqlite_py.offline.dump import check_hash, copy_from_folder, finish_copy, new_file

STDOUT = "-"
_LEVELS = ("linearizable", "leader", "stale")


@click.command()
@click.argument("file", metavar="FILE", type=click.Path(dir_okay=False, allow_dash=True))
@servers_option(required=False)
@click.option("--dir", "folder", type=click.Path(file_okay=False), help="Folder of a node that does not run.")
@click.option("--database", required=True, help="Its name in the cluster.")
@click.option("--sql", is_flag=True, help="As SQL text; FILE may be - for stdout.")
@click.option(
    "--level",
    type=click.Choice(_LEVELS),
    default="linearizable",
    show_default=True,
    help="How fresh: every write acknowledged before, or (stale) what the asked node has, also without a majority.",
)
@click.option("--force", is_flag=True, help="Replace FILE.")
@click.option(
    "--keep-internal", is_flag=True, help="Keep the cluster's own tables (_dqlite_...) in the SQLite file."
)
@click.option("--json", "as_json", is_flag=True, help="What was written, as JSON on stdout.")
@click.option(
    "--timeout",
    "timeout_s",
    default=60.0,
    show_default=True,
    type=click.FloatRange(1, 3600),
    help="Seconds without any progress after which it fails.",
)
@tls_options
def dump(
    file: str,
    servers: tuple[Address, ...],
    folder: str | None,
    database: str,
    sql: bool,
    level: str,
    force: bool,
    keep_internal: bool,
    as_json: bool,
    timeout_s: float,
    **tls: str | None,
) -> None:
    """Write one state of a database to FILE, which plain SQLite opens, while writes go on.

    From a running cluster (-s) or a stopped node's folder (--dir). FILE appears when it is whole and durable.

    Exit codes: 0 written, 1 failed, 2 wrong usage, 3 the folder cannot be looked at.
    """
    settings = tls_settings(tls["tls_cert"], tls["tls_key"], tls["tls_ca"])
    if bool(servers) == bool(folder):
        raise click.UsageError(
            "say where from: -s HOST:PORT of a running cluster, or --dir of a stopped node"
        )
    if file == STDOUT and (not sql or as_json):
        raise click.UsageError("only --sql without --json can be written to stdout")
    try:
        with BytesBar(is_wanted=not as_json) as bar, contextlib.ExitStack() as stack:
            if file == STDOUT:
                place = stack.enter_context(tempfile.TemporaryDirectory(prefix="dqlite-py-dump-"))
                target = os.path.join(place, "sql")
            else:
                target = stack.enter_context(new_file(file, replace=force))
            facts = _write(
                target, servers, folder, database, bar,
                tls=settings, level=level, timeout_s=timeout_s, sql=sql, keep_internal=keep_internal,
            )  # fmt: skip
            facts["bytes"] = os.path.getsize(target)
            if file == STDOUT:
                with open(target, encoding="utf-8") as text:
                    for line in text:
                        click.echo(line, nl=False)
    except (Error, OSError) as error:
        code = ExitCode.CANNOT_START if folder else ExitCode.FAILED
        raise CommandFailed(explain(error), code) from None
    if as_json:
        print_json({"database": database, "file": os.path.abspath(file), **facts})
    elif file != STDOUT:
        origin = facts.get("node") or facts["folder"]
        click.echo(
            f"{file}: {database} as of log index {facts['log_index']}, {facts['bytes']} bytes, from {origin}"
        )


def _write(
    target: str, servers: tuple[Address, ...], folder: str | None, database: str, bar: BytesBar, *,
    tls: TlsSettings | None, level: str, timeout_s: float, sql: bool, keep_internal: bool,
) -> dict[str, Any]:  # fmt: skip
    copy = f"{target}.copy" if sql else target
    try:
        facts: dict[str, Any]
        if folder is not None:
            copy_from_folder(folder, database, copy, bar.show)
            facts = {"folder": os.path.abspath(folder)}
        else:
            freshness = Freshness(ReadLevel(level))
            fetched = fetch_database(
                servers, database, copy, tls=tls, freshness=freshness, timeout_s=timeout_s, progress=bar.show
            )
            check_hash(copy, fetched.state_hash)
            facts = {"node": fetched.address}
        facts["log_index"] = finish_copy(copy, target, sql=sql, keep_internal=keep_internal)
        return facts
    finally:
        if sql:
            for name in (copy, f"{copy}-wal", f"{copy}-shm"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name)
