"""Dot commands about the cluster. A member is named by its id or its address."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dqlite_py.cli import members
from dqlite_py.cli.cluster_view import (
    Table,
    database_table,
    member_addresses,
    member_table,
    plain_lines,
    summary,
)
from dqlite_py.cli.exits import CommandFailed
from dqlite_py.cli.options import AddressType
from dqlite_py.cli.printing import plain_value
from dqlite_py.errors import Error
from dqlite_py.model import Address

if TYPE_CHECKING:
    from dqlite_py.cli.shell.session import Session


def cluster(session: Session, _arguments: Sequence[str]) -> None:
    asked, answers = _answers(session)
    if session.look.mode == "json":
        session.tell(json.dumps(asked.get("members"), default=plain_value))
        return
    for line in (*summary(asked), *plain_lines(member_table(asked, answers))):
        session.tell(line)


def databases(session: Session, _arguments: Sequence[str]) -> None:
    asked, answers = _answers(session)
    if session.look.mode == "json":
        session.tell(json.dumps(asked.get("databases"), default=plain_value))
        return
    table: Table = database_table(answers)
    for line in plain_lines(table) if table.rows else ():
        session.tell(line)


def leader(session: Session, _arguments: Sequence[str]) -> None:
    _address, asked = session.asked.status()
    address = asked.get("leader_address")
    if not isinstance(address, str) or not address:
        raise CommandFailed("no leader is known now")
    session.tell(address)


def describe(session: Session, arguments: Sequence[str]) -> None:
    """Everything that a member says of itself, or the asked node."""
    if arguments:
        found = members.find(session.asked, arguments[0])
        try:
            status = session.asked.remote.status(Address(found.address), session.asked.timeout_s)
        except Error as error:
            raise CommandFailed(error.message) from None
    else:
        _address, status = session.asked.status()
    session.tell(json.dumps(status, indent=2, default=plain_value))


def add(session: Session, arguments: Sequence[str]) -> None:
    session.tell(members.add(session.asked, AddressType().convert(arguments[0], None, None)).text)


def remove(session: Session, arguments: Sequence[str]) -> None:
    session.tell(members.remove(session.asked, members.find(session.asked, arguments[0]).id).text)


def transfer(session: Session, arguments: Sequence[str]) -> None:
    target = members.find(session.asked, arguments[0]).id if arguments else None
    session.tell(members.transfer(session.asked, target).text)


def assign(session: Session, arguments: Sequence[str]) -> None:
    target = members.find(session.asked, arguments[0])
    session.tell(members.assign(session.asked, target.id, arguments[1].lower()).text)


def weight(session: Session, arguments: Sequence[str]) -> None:
    if not arguments[1].isdecimal() or int(arguments[1]) >= 2**64:
        raise CommandFailed(f"{arguments[1]!r:.40} is no weight: write a number from 0")
    target = members.find(session.asked, arguments[0])
    session.tell(members.describe(session.asked, target.id, int(arguments[1]), None).text)


def _answers(session: Session) -> tuple[dict[str, Any], dict[str, Any]]:
    address, asked = session.asked.status()
    own = str(asked.get("address") or address)
    others = [Address(other) for other in member_addresses(asked) if other != own]
    answers: dict[str, Any] = {own: asked}
    found = session.asked.remote.statuses(others, min(session.asked.timeout_s, 3.0))
    return asked, answers | {str(other): answer for other, answer in found.items()}
