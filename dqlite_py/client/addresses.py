"""Where a cluster is, as a user writes it: "h1:9001,h2:9001/app". Text only; any thread."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from dqlite_py.command import check_database_name
from dqlite_py.errors import InterfaceError
from dqlite_py.limits import MEMBERS_MAX
from dqlite_py.model import Address
from dqlite_py.wire.address import is_unspecified, split_address

SCHEME: Final = "dqlitepy"
_EXAMPLE: Final = "write host:port of one or more nodes and the database, like h1:9001,h2:9001/app"


class Target(NamedTuple):
    """`database` is "" when the text names none."""

    addresses: tuple[Address, ...]
    database: str = ""


def parse_target(text: str) -> Target:
    """Read "[dqlitepy://]host:port[,host:port …][/database]"; raises InterfaceError that says what is wrong."""
    if not isinstance(text, str):
        raise InterfaceError(f"the cluster's addresses must be text, not {type(text).__name__}: {_EXAMPLE}")
    rest = text.strip()
    scheme, found, after = rest.partition("://")
    if found:
        if scheme.partition("+")[0].lower() != SCHEME:
            raise InterfaceError(f"{text!r:.320} is for {scheme!r:.40}: write {SCHEME}://host:port/database")
        rest = after
    for sign, meaning in (("?", "options are keyword arguments"), ("#", "a part after # means nothing here")):
        if sign in rest:
            raise InterfaceError(f"{text!r:.320}: {meaning}")
    hosts, slash, database = rest.partition("/")
    if "@" in hosts:
        raise InterfaceError(
            f"{text!r:.320}: there are no users and passwords; certificates are given as tls="
        )
    if slash and not database:
        raise InterfaceError(f"{text!r:.320} names no database after the slash: {_EXAMPLE}")
    if database:
        check_database_name(database)
    return Target(parse_addresses(hosts.split(",")), database)


def parse_addresses(texts: Iterable[str]) -> tuple[Address, ...]:
    """Each "host:port", IPv6 hosts in brackets; one given twice counts once. Raises InterfaceError."""
    found: dict[Address, None] = {}
    for given in texts:
        if not isinstance(given, str):
            raise InterfaceError(f"an address must be text, not {type(given).__name__}: {_EXAMPLE}")
        text = given.strip()
        if not text:
            continue
        host, port = split_address(text)
        if port == 0 or is_unspecified(host):
            raise InterfaceError(f"{text!r:.320} is an address to listen on, which nobody can dial")
        found[Address(text)] = None
    if not found:
        raise InterfaceError(f"no address of a node is given: {_EXAMPLE}")
    if len(found) > MEMBERS_MAX:
        raise InterfaceError(f"{len(found)} addresses: a cluster has at most {MEMBERS_MAX} members")
    return tuple(found)
