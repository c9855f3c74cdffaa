"""The `dqlite-py status` command: a cluster as its members describe it, once or again and again."""

from __future__ import annotations

import click

from dqlite_py.cli.cluster_view import database_table, member_addresses, member_table, summary
from dqlite_py.cli.exits import CommandFailed, ExitCode, explain
from dqlite_py.cli.options import FloatRange, servers_option, timeout_option, tls_options, tls_settings
from dqlite_py.cli.printing import print_json, print_table
from dqlite_py.cli.remote import Remote
from dqlite_py.cli.watching import watch
from dqlite_py.client.caller import Status
from dqlite_py.errors import Error
from dqlite_py.model import Address


@click.command()
@servers_option()
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Everything the members say, as JSON; with --watch one object per line.",
)
@click.option("--watch", "is_watching", is_flag=True, help="Look again and again, until Ctrl-C.")
@click.option(
    "--interval",
    "interval_s",
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    type=FloatRange(0.05, 3600),
    help="With --watch: between two looks.",
)
@click.option(
    "--count", type=click.IntRange(min=1), metavar="N", help="With --watch: end after so many looks."
)
@timeout_option(3.0, "Seconds to wait for each member.")
@tls_options
def status(
    servers: tuple[Address, ...],
    as_json: bool,
    is_watching: bool,
    interval_s: float,
    count: int | None,
    timeout_s: float,
    tls_cert: str | None,
    tls_key: str | None,
    tls_ca: str | None,
) -> None:
    """Show members, roles, progress and databases; every member is asked.

    --watch keeps a live screen of it, with rates and how far new members have come; where stdout is no terminal it
    writes a line per look.

    Exit codes: 0 a node answers and knows a leader (--watch: at the last look), 1 otherwise, 2 wrong usage.
    """
    tls = tls_settings(tls_cert, tls_key, tls_ca)
    if is_watching:
        has_leader = watch(
            servers, tls, timeout_s=timeout_s, interval_s=interval_s, count=count, as_json=as_json
        )
    else:
        has_leader = _once(servers, Remote(tls), timeout_s, as_json)
    if not has_leader:
        raise click.exceptions.Exit(int(ExitCode.FAILED))


def _once(servers: tuple[Address, ...], remote: Remote, timeout_s: float, as_json: bool) -> bool:
    try:
        address, asked = remote.any_status(servers, timeout_s)
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
    return bool(asked.get("leader_address"))
