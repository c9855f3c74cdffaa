"""The `dqlite-py cluster` commands: look at the members of a running cluster, and change them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from dqlite_py.cli import members as changes
from dqlite_py.cli.cluster_view import configuration_table
from dqlite_py.cli.members import Asked
from dqlite_py.cli.options import (
    AddressType,
    FloatRange,
    json_option,
    servers_option,
    timeout_option,
    tls_options,
    tls_settings,
)
from dqlite_py.cli.printing import print_json, print_table
from dqlite_py.cli.recover_command import recover, rejoin
from dqlite_py.cli.remote import Remote
from dqlite_py.errors import InterfaceError
from dqlite_py.model import Address, RoleSettings

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def cluster() -> None:
    """Look at the members of a cluster and change them."""


def _tell(done: changes.Done, as_json: bool) -> None:
    if as_json:
        print_json(done.fields)
    else:
        click.echo(done.text)


def asks_cluster(command: Callable[..., None]) -> Callable[..., None]:
    """Options of a command to a running cluster; it is called with `asked` and `as_json` instead."""

    def run(
        servers: tuple[Address, ...], timeout_s: float, as_json: bool, tls_cert: str | None,
        tls_key: str | None, tls_ca: str | None, **rest: Any,
    ) -> None:  # fmt: skip
        remote = Remote(tls_settings(tls_cert, tls_key, tls_ca))
        command(asked=Asked(remote, servers, timeout_s), as_json=as_json, **rest)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__dict__.update(command.__dict__)  # click's arguments of the command itself
    wrapped: Callable[..., None] = tls_options(run)
    wrapped = timeout_option(15.0, "Seconds to wait for the answer.")(wrapped)
    return servers_option()(json_option(wrapped))


def member_id(_ctx: click.Context, _param: click.Parameter, value: int | None) -> int | None:
    """A click callback for a member's id."""
    if value is not None and not 0 < value < 2**63:
        raise click.BadParameter(f"{value} is no member id: see `dqlite-py cluster members`")
    return value


def member_argument(*, required: bool = True) -> Callable[[F], F]:
    return click.argument(
        "member", metavar="ID" if required else "[ID]", type=int, required=required, callback=member_id
    )


@cluster.command()
@asks_cluster
def members(asked: Asked, as_json: bool) -> None:
    """List the members as the asked node sees them; ask the leader for who is connected and how far."""
    _address, status = asked.status()
    if as_json:
        print_json(status.get("members"))
    else:
        print_table(configuration_table(status))


@cluster.command()
@asks_cluster
@click.argument("new", metavar="ADDRESS", type=AddressType())
def add(asked: Asked, as_json: bool, new: Address) -> None:
    """Add the running node at ADDRESS again, for example after it was removed.

    Its folder must belong to this cluster. A node with a new folder joins by itself: dqlite-py node --join.
    """
    _tell(changes.add(asked, new), as_json)


@cluster.command()
@asks_cluster
@member_argument()
def remove(asked: Asked, as_json: bool, member: int) -> None:
    """Remove the member with this ID; refused when the rest would have no majority.

    A node that was removed must not be started with its old folder again.
    """
    _tell(changes.remove(asked, member), as_json)


@cluster.command()
@asks_cluster
@member_argument()
@click.argument("role", type=click.Choice(changes.ROLES))
def assign(asked: Asked, as_json: bool, member: int, role: str) -> None:
    """Give the member with this ID a role: voter, standby (gets the log, no vote) or spare (gets no data).

    Waits, at most --timeout, until a new voter has caught up; refused when the rest would have no majority.
    """
    _tell(changes.assign(asked, member, role), as_json)


@cluster.command()
@asks_cluster
@member_argument()
def drain(asked: Asked, as_json: bool, member: int) -> None:
    """Take vote and leadership from the member with this ID, before its node is stopped for long or removed.

    Where roles are automatic another member has its vote first; refused when none can within --timeout.
    """
    _tell(changes.drain(asked, member), as_json)


@cluster.command()
@asks_cluster
@member_argument()
@click.option("--weight", type=click.IntRange(0, 2**64 - 1), help="Of several, the lightest gets a role.")
@click.option(
    "--domain", type=click.IntRange(0, 2**64 - 1), help="Members of one are expected to fail together."
)
def describe(asked: Asked, as_json: bool, member: int, weight: int | None, domain: int | None) -> None:
    """Set the weight or the failure domain of the member with this ID."""
    if weight is None and domain is None:
        raise click.UsageError("name a --weight, a --domain, or both")
    _tell(changes.describe(asked, member, weight, domain), as_json)


@cluster.command()
@asks_cluster
@click.argument(
    "kept", metavar="automatic|manual|all-vote", type=click.Choice(("automatic", "manual", "all-vote"))
)
@click.option("--voters", default=3, show_default=True, type=int, help="How many voters to keep; odd.")
@click.option("--standbys", default=3, show_default=True, type=int, help="How many stand-bys to keep.")
@click.option(
    "--gone-after",
    "gone_after_s",
    type=FloatRange(min=0),
    metavar="SECONDS",
    default=10.0,
    show_default=True,
    help="Seconds until a member is replaced.",
)
def roles(asked: Asked, as_json: bool, kept: str, voters: int, standbys: int, gone_after_s: float) -> None:
    """Who decides the members' roles: the leader by numbers, you by `assign`, or nobody: every member votes."""
    settings: RoleSettings | None = None
    if kept != "all-vote":
        try:
            settings = RoleSettings(kept == "automatic", voters, standbys, round(gone_after_s * 1000))
        except InterfaceError as error:
            raise click.UsageError(error.message) from None
    _tell(changes.roles(asked, settings), as_json)


@cluster.command()
@asks_cluster
@member_argument(required=False)
def transfer(asked: Asked, as_json: bool, member: int | None) -> None:
    """Hand leadership to the member with this ID, or to the most caught-up voter."""
    _tell(changes.transfer(asked, member), as_json)


@cluster.command("set-address")
@asks_cluster
@member_argument()
@click.argument("new", metavar="ADDRESS", type=AddressType())
def set_address(asked: Asked, as_json: bool, member: int, new: Address) -> None:
    """Give the running member with this ID another ADDRESS, by which the others dial it.

    The leader dials it first: refused when another node answers there, or none. A node that starts tells its own
    --listen or --advertise, so that should say the same.
    """
    _tell(changes.set_address(asked, member, new), as_json)


for command in (recover, rejoin):
    cluster.add_command(command)
