"""The `dqlite-py cluster` commands: look at the members of a running cluster, and change them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import click

from dqlite_py.cli.cluster_view import configuration_table
from dqlite_py.cli.exits import CommandFailed, explain
from dqlite_py.cli.options import (
    AddressType,
    json_option,
    servers_option,
    timeout_option,
    tls_options,
    tls_settings,
)
from dqlite_py.cli.printing import print_json, print_table
from dqlite_py.cli.remote import Remote
from dqlite_py.client.caller import Status
from dqlite_py.errors import Error
from dqlite_py.model import Address

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def cluster() -> None:
    """Look at the members of a cluster and change them."""


class Asked(NamedTuple):
    """A running cluster, as the options of a command name it."""

    remote: Remote
    servers: tuple[Address, ...]
    timeout_s: float
    as_json: bool

    def status(self) -> tuple[Address, Status]:
        """What one of the nodes says; raises CommandFailed when none does."""
        try:
            return self.remote.any_status(self.servers, self.timeout_s)
        except Error as error:
            raise CommandFailed(explain(error)) from None

    def change(self, method: str, body: Any, *, at_leader: bool = False) -> Any:
        """Ask for a change, once; raises CommandFailed."""
        address = self.servers[0] if len(self.servers) == 1 else self.status()[0]
        try:
            return self.remote.change(address, method, body, self.timeout_s, at_leader=at_leader)
        except Error as error:
            raise CommandFailed(explain(error)) from None

    def tell(self, text: str, fields: dict[str, Any]) -> None:
        """What was done, for people or as JSON."""
        if self.as_json:
            print_json(fields)
        else:
            click.echo(text)


def asks_cluster(command: Callable[..., None]) -> Callable[..., None]:
    """Options of a command to a running cluster; it is called with `asked` instead of them."""

    def run(
        servers: tuple[Address, ...], timeout_s: float, as_json: bool, tls_cert: str | None,
        tls_key: str | None, tls_ca: str | None, **rest: Any,
    ) -> None:  # fmt: skip
        remote = Remote(tls_settings(tls_cert, tls_key, tls_ca))
        command(asked=Asked(remote, servers, timeout_s, as_json), **rest)

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
def members(asked: Asked) -> None:
    """List the members as the asked node sees them; ask the leader for who is connected and how far."""
    _address, status = asked.status()
    if asked.as_json:
        print_json(status.get("members"))
    else:
        print_table(configuration_table(status))


@cluster.command()
@asks_cluster
@click.argument("new", metavar="ADDRESS", type=AddressType())
def add(asked: Asked, new: Address) -> None:
    """Add the running node at ADDRESS again, for example after it was removed.

    Its folder must belong to this cluster. A node with a new folder joins by itself: dqlite-py node --join.
    """
    address, existing = asked.status()
    try:
        joining = asked.remote.status(new, asked.timeout_s)
    except Error as error:
        raise CommandFailed(explain(error)) from None
    if joining.get("cluster_id") != existing.get("cluster_id"):
        raise CommandFailed(
            f"the node at {new} belongs to another cluster ({joining.get('cluster_id')}): stop it, give it an "
            f"empty folder and start it with --join {address}"
        )
    node_id = joining.get("node_id")
    asked.change("join", {"id": node_id, "address": new}, at_leader=True)
    asked.tell(
        f"added {node_id} at {new}; it becomes a voter when it has caught up", {"id": node_id, "address": new}
    )


@cluster.command()
@asks_cluster
@member_argument()
def remove(asked: Asked, member: int) -> None:
    """Remove the member with this ID; refused when the rest would have no majority.

    A node that was removed must not be started with its old folder again.
    """
    asked.change("remove", {"id": member})
    asked.tell(f"removed {member}", {"removed": member})


@cluster.command()
@asks_cluster
@member_argument(required=False)
def transfer(asked: Asked, member: int | None) -> None:
    """Hand leadership to the member with this ID, or to the most caught-up voter."""
    body = {} if member is None else {"target": member}
    answer = asked.change("transfer", body, at_leader=True)
    target = answer.get("target") if isinstance(answer, dict) else None
    asked.tell(f"leadership handed to {target}", {"leader": target})


@cluster.command("set-address")
@asks_cluster
@member_argument()
@click.argument("new", metavar="ADDRESS", type=AddressType())
def set_address(asked: Asked, member: int, new: Address) -> None:
    """Give the running member with this ID another ADDRESS, by which the others dial it.

    The leader dials it first: refused when another node answers there, or none. A node that starts tells its own
    --listen or --advertise, so that should say the same.
    """
    answer = asked.change("set_address", {"id": member, "address": new})
    advertised = answer.get("advertised") if isinstance(answer, dict) else None
    text = f"member {member} is at {new} now"
    if advertised != new:
        text += f"; itself it says {advertised}: start it with --advertise {new} from now on"
    asked.tell(text, {"id": member, "address": new, "advertised": advertised})
