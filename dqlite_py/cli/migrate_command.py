"""The `dqlite-py migrate` command: a folder of .sql files to a database of a running cluster."""

from __future__ import annotations

import click

from dqlite_py import client, migrations
from dqlite_py.cli.exits import CommandFailed, explain
from dqlite_py.cli.options import json_option, servers_option, timeout_option, tls_options, tls_settings
from dqlite_py.cli.printing import print_json
from dqlite_py.errors import Error
from dqlite_py.model import Address


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@servers_option()
@click.option("--database", required=True, help="Its name; created when it does not exist.")
@click.option("--dry-run", is_flag=True, help="Only show what was applied and what would be.")
@click.option(
    "--allow-newer", is_flag=True, help="The database may have had later migrations than the folder has."
)
@json_option
@timeout_option(60.0, "Seconds to wait for each file.", maximum=3600)
@tls_options
def migrate(
    folder: str,
    servers: tuple[Address, ...],
    database: str,
    dry_run: bool,
    allow_newer: bool,
    as_json: bool,
    timeout_s: float,
    tls_cert: str | None,
    tls_key: str | None,
    tls_ca: str | None,
) -> None:
    """Apply the numbered .sql files of FOLDER that the database has not had, each once and all or nothing."""
    tls = tls_settings(tls_cert, tls_key, tls_ca)
    try:
        connection = client.connect(
            ",".join(servers), database, tls=tls, timeout=timeout_s, isolation_level=None
        )
        try:
            if dry_run:
                states = migrations.status(connection, folder, allow_newer=allow_newer)
                if as_json:
                    print_json([{"name": state.name, "applied_at": state.applied_at} for state in states])
                    return
                for state in states:
                    click.echo(f"{state.name}  {state.applied_at or 'pending'}")
                return
            applied = migrations.migrate(connection, folder, allow_newer=allow_newer)
        finally:
            connection.close()
    except Error as error:
        raise CommandFailed(explain(error)) from None
    if as_json:
        print_json([{"name": migration.name} for migration in applied])
        return
    for migration in applied:
        click.echo(f"{migration.name}  applied")
    if not applied:
        click.echo("nothing to apply")
