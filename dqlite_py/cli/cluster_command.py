"""The `dqlite-py cluster` commands: members, add, remove, transfer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from dqlite_py.cli.cluster_view import configuration_table
from dqlite_py.cli.exits import CommandFailed, explain
from dqlite_py.cli.options import AddressType, tls_options, tls_settings
from dqlite_py.cli.printing import print_json, print_table
from dqlite_py.cli.remote import Remote
from dqlite_py.errors import Error
from dqlite_py.model import Address

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def cluster() -> None:
    """Look at the members of a cluster and change them."""


def _common(command: F) -> F:
    command = tls_options(command)
    command = click.option(
        "--timeout",
        "timeout_s",
        default=15.0,
        show_default=True,
        type=click.FloatRange(0.1, 600),
        help="Seconds to wait for the answer.",
    )(command)
    return click.option(
        "--node", "address", required=True, type=AddressType(), help="Any running node of the cluster."
    )(command)


def _member_id(_ctx: click.Context, _param: click.Parameter, value: int | None) -> int | None:
    if value is not None and not 0 < value < 2**63:
        raise click.BadParameter(f"{value} is no member id: see `dqlite-py cluster members`")
    return value


@cluster.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@_common
def members(as_json: bool, address: Address, timeout_s: float, **tls: str | None) -> None:
    """List the members as the asked node sees them; ask the leader for who is connected and how far."""
    remote = Remote(_tls(tls))
    try:
        status = remote.status(address, timeout_s)
    except Error as error:
        raise CommandFailed(explain(error)) from None
    if as_json:
        print_json(status.get("members"))
    else:
        print_table(configuration_table(status))


@cluster.command()
@click.argument("new", metavar="ADDRESS", type=AddressType())
@_common
def add(new: Address, address: Address, timeout_s: float, **tls: str | None) -> None:
    """Add the running node at ADDRESS again, for example after it was removed.

    Its folder must belong to this cluster. A node with a new folder joins by itself: dqlite-py node --join.
    """
    remote = Remote(_tls(tls))
    try:
        joining, existing = remote.status(new, timeout_s), remote.status(address, timeout_s)
        if joining.get("cluster_id") != existing.get("cluster_id"):
            raise CommandFailed(
                f"the node at {new} belongs to another cluster ({joining.get('cluster_id')}): stop it, give it an "
                f"empty folder and start it with --join {address}"
            )
        body = {"id": joining.get("node_id"), "address": new}
        remote.change(address, "join", body, timeout_s, at_leader=True)
    except Error as error:
        raise CommandFailed(explain(error)) from None
    click.echo(f"added {joining.get('node_id')} at {new}; it becomes a voter when it has caught up")


@cluster.command()
@click.argument("member_id", metavar="ID", type=int, callback=_member_id)
@_common
def remove(member_id: int, address: Address, timeout_s: float, **tls: str | None) -> None:
    """Remove the member with this ID; refused when the rest would have no majority.

    A node that was removed must not be started with its old folder again.
    """
    try:
        Remote(_tls(tls)).change(address, "remove", {"id": member_id}, timeout_s)
    except Error as error:
        raise CommandFailed(explain(error)) from None
    click.echo(f"removed {member_id}")


@cluster.command()
@click.argument("member_id", metavar="[ID]", type=int, required=False, callback=_member_id)
@_common
def transfer(member_id: int | None, address: Address, timeout_s: float, **tls: str | None) -> None:
    """Hand leadership to the member with this ID, or to the most caught-up voter."""
    body = {} if member_id is None else {"target": member_id}
    try:
        answer = Remote(_tls(tls)).change(address, "transfer", body, timeout_s, at_leader=True)
    except Error as error:
        raise CommandFailed(explain(error)) from None
    target = answer.get("target") if isinstance(answer, dict) else None
    click.echo(f"leadership handed to {target}")


def _tls(options: dict[str, str | None]) -> Any:
    return tls_settings(options["tls_cert"], options["tls_key"], options["tls_ca"])
