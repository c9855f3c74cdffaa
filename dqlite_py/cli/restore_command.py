"""The `dqlite-py restore` command: an SQLite file becomes a new cluster, or a database of a running one."""

from __future__ import annotations

import os

import click

from dqlite_py.cli.exits import CommandFailed, ExitCode, explain
from dqlite_py.cli.options import AddressType, servers_option, tls_options, tls_settings
from dqlite_py.cli.printing import print_json
from dqlite_py.cli.progress import BytesBar
from dqlite_py.cli.remote import Remote
from dqlite_py.client import RemoteGateway
from dqlite_py.client.shared import SharedLink
from dqlite_py.command import check_database_name
from dqlite_py.errors import Error, InterfaceError
from dqlite_py.model import Address
from dqlite_py.offline.found import found_cluster
from dqlite_py.offline.load import check_source, load_database
from dqlite_py.storage.source_file import SourceFile

_ADDRESS = Address("127.0.0.1:9001")


@click.command()
@click.argument("file", metavar="FILE", type=click.Path(dir_okay=False))
@servers_option(required=False)
@click.option(
    "--dir", "folder", type=click.Path(file_okay=False), help="New folder: found a new cluster in it."
)
@click.option("--database", required=True, help="Its name in the cluster.")
@click.option(
    "--address",
    type=AddressType(),
    default=_ADDRESS,
    show_default=True,
    help="With --dir: where the node will be. It corrects it when it starts.",
)
@click.option("--replace", is_flag=True, help="With -s: drop what the database holds, in the same step.")
@click.option(
    "--drop-first",
    is_flag=True,
    help="With -s: drop the database, then restore: for what is too large to be replaced at once. Until it is done, "
    "others see it gone, or in part.",
)
@click.option(
    "--ignore-versions", is_flag=True, help="With -s: leave out PRAGMA user_version and application_id."
)
@click.option("--json", "as_json", is_flag=True, help="What was done, as JSON on stdout.")
@click.option(
    "--timeout",
    "timeout_s",
    default=60.0,
    show_default=True,
    type=click.FloatRange(1, 3600),
    help="Seconds for each statement, and to wait for a leader.",
)
@tls_options
def restore(
    file: str,
    servers: tuple[Address, ...],
    folder: str | None,
    database: str,
    address: Address,
    replace: bool,
    drop_first: bool,
    ignore_versions: bool,
    as_json: bool,
    timeout_s: float,
    **tls: str | None,
) -> None:
    """Bring the SQLite file FILE into a cluster as --database.

    With --dir NEWDIR: NEWDIR becomes the first node of a new cluster; start it, and let others join. With -s: through
    the log of a running cluster; up to 64 MiB of rows appear in one step, or nothing of it, on every node; more go into
    a database that is new or empty, table by table.

    Schema, rows with their rowids, AUTOINCREMENT counters, indexes, views and triggers are kept; virtual tables are
    refused by name.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the folder cannot be used.
    """
    settings = tls_settings(tls["tls_cert"], tls["tls_key"], tls["tls_ca"])
    if bool(servers) == bool(folder):
        raise click.UsageError("say where to: -s HOST:PORT of a running cluster, or --dir of a new one")
    if folder and (replace or drop_first or ignore_versions):
        raise click.UsageError(
            "--replace, --drop-first and --ignore-versions go with -s: a new cluster keeps all"
        )
    if replace and drop_first:
        raise click.UsageError(
            "--replace keeps the old until the new is there, --drop-first does not: say one"
        )
    try:
        check_database_name(database)
    except InterfaceError as error:
        raise click.UsageError(error.message) from None
    try:
        with BytesBar(is_wanted=not as_json) as bar:
            if folder is not None:
                made = found_cluster(folder, database, file, address, bar.show)
                facts = {
                    "folder": made.folder,
                    "cluster_id": made.cluster_id.hex(),
                    "node_id": made.node_id,
                    "log_index": made.log_index,
                    "state_hash": f"{made.state_hash:016x}",
                }
                text = f"{made.folder} is a new cluster with database {database}: start it with dqlite-py node --dir"
            else:
                with SourceFile(file) as source:
                    if drop_first:  # AFTER the file was found to be good
                        check_source(source, ignore_versions)
                        _drop(Remote(settings), servers, database, timeout_s)
                    loaded = load_database(
                        RemoteGateway(SharedLink(servers, settings)),
                        database,
                        source,
                        replace=replace,
                        ignore_versions=ignore_versions,
                        timeout_s=timeout_s,
                        progress=bar.show,
                    )
                facts = {
                    "rows": loaded.rows,
                    "log_index": loaded.log_index,
                    "atomic": loaded.attempts > 0,
                    "attempts": loaded.attempts,
                }
                how = "in one step" if loaded.attempts else "table by table"
                text = f"{database} holds {loaded.rows} rows of {file}, {how}, as of log index {loaded.log_index}"
    except (Error, OSError) as error:
        raise CommandFailed(explain(error), ExitCode.CANNOT_START if folder else ExitCode.FAILED) from None
    if as_json:
        print_json({"database": database, "file": os.path.abspath(file), **facts})
    else:
        click.echo(text)


def _drop(remote: Remote, servers: tuple[Address, ...], database: str, timeout_s: float) -> None:
    """Through the log, if it is there; raises errors.Error."""
    address, status = remote.any_status(servers, timeout_s)
    if database in status.get("databases", ()):
        body = {"database": database, "timeout_s": timeout_s}
        remote.change(address, "sql.drop", body, timeout_s + 1.0)
