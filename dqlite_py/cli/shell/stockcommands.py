"""The dot commands about the cluster where the servers are stock dqlite: what these can do, and a plain no."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dqlite_py.cli.cluster_view import Table, plain_lines
from dqlite_py.cli.exits import CommandFailed
from dqlite_py.client.stock.choosing import StockServers
from dqlite_py.client.stock.members import ROLES, StockMembers
from dqlite_py.errors import Error
from dqlite_py.gateway import OURS
from dqlite_py.model import Address
from dqlite_py.wire.dqlite.requests import RequestType
from dqlite_py.wire.dqlite.responses import ServerEntry

if TYPE_CHECKING:
    from dqlite_py.cli.shell.session import Session


def are_stock(session: Session) -> bool:
    """By the connection; without one the servers are asked."""
    if session.is_connected:
        return bool(session.connection.server.name != OURS.name)
    found = session.asked.remote.statuses(session.asked.servers, session.asked.timeout_s).values()
    return any(isinstance(answer, StockServers) for answer in found) and not any(
        not isinstance(answer, Error) for answer in found
    )


def run(session: Session, name: str, arguments: Sequence[str]) -> None:
    """The command `name`. Raises errors.Error and CommandFailed."""
    asked = session.asked
    members = StockMembers(asked.servers, session.tls, asked.timeout_s)
    match name, arguments:
        case "cluster", _:
            _cluster(session, members)
        case "leader", _:
            session.tell(members.leader())
        case "describe", _:
            address = _find(members, arguments[0]).address if arguments else members.leader()
            found = members.describe(Address(address))
            session.tell(json.dumps({"address": address, **found._asdict()}, indent=2))
        case "transfer", _:
            target = _find(members, arguments[0]).id if arguments else 0
            members.change(RequestType.TRANSFER, target)
            session.tell(f"leadership handed to {target}" if target else "leadership handed over")
        case "remove", [member]:
            target = _find(members, member).id
            members.change(RequestType.REMOVE, target)
            session.tell(f"removed {target}")
        case "assign", [member, role]:
            if role.lower() not in ROLES:
                raise CommandFailed(f"there is no role {role!r:.40}: {', '.join(ROLES)}")
            target = _find(members, member).id
            members.change(RequestType.ASSIGN, target, ROLES.index(role.lower()))
            session.tell(f"{target} is a {role.lower()} now")
        case "weight", [member, text]:
            if not text.isdecimal() or int(text) >= 2**64:
                raise CommandFailed(f"{text!r:.40} is no weight: write a number from 0")
            entry = _find(members, member)
            members.set_weight(Address(entry.address), int(text))
            session.tell(f"{entry.id} has weight {text} now")
        case "add", _:
            raise CommandFailed(
                "these are servers of dqlite itself: one joins by its own program, which alone knows its id"
            )
        case _:
            raise CommandFailed(f"these are servers of dqlite itself, which do not have what .{name} shows")


def _cluster(session: Session, members: StockMembers) -> None:
    leader = members.leader()
    rows = [(entry.id, entry.address, _role(entry), entry.address == leader) for entry in members.list()]
    names = ("id", "address", "role", "leads")
    if session.look.mode == "json":
        session.tell(json.dumps([dict(zip(names, row, strict=True)) for row in rows]))
        return
    session.tell(f"servers of dqlite itself  leader {leader}")
    table = Table(
        "members",
        names,
        [(str(i), address, role, "leader" if leads else "") for i, address, role, leads in rows],
    )
    for line in plain_lines(table):
        session.tell(line)


def _role(entry: ServerEntry) -> str:
    return ROLES[entry.role] if entry.role is not None and entry.role < len(ROLES) else "?"


def _find(members: StockMembers, text: str) -> ServerEntry:
    for entry in members.list():
        if text in (str(entry.id), entry.address):
            return entry
    raise CommandFailed(f"there is no member {text!r:.80}: .cluster lists them")
