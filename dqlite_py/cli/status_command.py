"""The `dqlite-py status` command: a cluster as its members describe it."""

from __future__ import annotations

import click

from dqlite_py.cli.cluster_view import database_table, member_addresses, member_table, summary
from dqlite_py.cli.exits import CommandFailed, ExitCode, explain
from dqlite_py.cli.options import AddressType, tls_options, tls_settings
from dqlite_py.cli.printing import print_json, print_table
from dqlite_py.cli.remote import Remote
from dqlite_py.client.caller import Status
from dqlite_py.errors import Error
from dqlite_py.model import Address


@click.command()
@click.option("--node", "address", required=True, type=AddressType(), help="Any running node of the cluster.")
@click.option("--json", "as_json", is_flag=True, help="Everything the members say, as JSON.")
@click.option(
    "--timeout",
    "timeout_s",
    default=3.0,
    show_default=True,
    type=click.FloatRange(0.1, 600),
    help="Seconds to wait for each member.",
)
@tls_options
def status(
    address: Address,
    as_json: bool,
    timeout_s: float,
    tls_cert: str | None,
    tls_key: str | None,
    tls_ca: str | None,
) -> None:
    """Show members, roles, progress and databases; every member is asked.

    Exit code 0 when the node answers and knows a leader, 1 otherwise.
    """
    remote = Remote(tls_settings(tls_cert, tls_key, tls_ca))
    try:
        asked = remote.status(address, timeout_s)
        own = str(asked.get("address") or address)
        others = [Address(other) for other in member_addresses(asked) if other != own]
        answers: dict[str, Status | Error] = {own: asked}
        answers |= {str(other): found for other, found in remote.statuses(others, timeout_s).items()}
    except Error as error:
        raise CommandFailed(explain(error)) from None
    if as_json:
        members = {
            member: {"error": found.message} if isinstance(found, Error) else found
            for member, found in answers.items()
        }
        print_json({"asked": own, "members": members})
    else:
        for line in summary(asked):
            click.echo(line)
        print_table(member_table(asked, answers))
        databases = database_table(answers)
        if databases.rows:
            click.echo()
            print_table(databases)
    if not asked.get("leader_address"):
        raise click.exceptions.Exit(int(ExitCode.FAILED))
