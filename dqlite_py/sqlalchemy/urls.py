"""From `dqlitepy://h1:9001,h2:9001/app?read_level=stale` to addresses, database and options.

SQLAlchemy's own parser takes one port only (the rest of a list would be part of it). So members with different ports
stand in the query, `dqlitepy://h1:9001/app?host=h2:9002&host=h3:9003`, or share one port, `dqlitepy://h1,h2,h3:9001/app`.
`make_url` turns a list into the first form. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, unquote

from sqlalchemy.engine import URL
from sqlalchemy.engine import make_url as make_plain_url
from sqlalchemy.exc import ArgumentError

from dqlite_py.client.addresses import parse_addresses
from dqlite_py.command import check_database_name
from dqlite_py.errors import InterfaceError

_LISTED: Final = re.compile(
    r"(?P<name>dqlitepy(?:\+\w+)?)://(?P<hosts>[^/?#@]+)(?:/(?P<database>[^?]*))?(?:\?(?P<query>.*))?"
)


def _number(text: str) -> float:
    return float(text)


def _flag(text: str) -> bool:
    known = {
        "true": True,
        "1": True,
        "yes": True,
        "on": True,
        "false": False,
        "0": False,
        "no": False,
        "off": False,
    }
    return known[text.lower()]


# Options of a connection that are not text; others are handed on as they are written, and refused there if unknown.
_READERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "timeout": _number,
    "busy_timeout": _number,
    "max_staleness": _number,
    "exactly_once": _flag,
    "check_same_thread": _flag,
}


class Target(NamedTuple):
    """What a URL names: members ("host:port"; none for an embedded node), the database, options for `connect`."""

    addresses: tuple[str, ...]
    database: str
    options: dict[str, Any]


def make_url(text: str | URL) -> URL:
    """An SQLAlchemy URL from text that may list several members: `dqlitepy://h1:9001,h2:9001/app`.

    Raises ArgumentError for text that is no URL. URLs of other dialects are SQLAlchemy's business.
    """
    if isinstance(text, URL):
        return text
    match = _LISTED.fullmatch(text)
    if match is None or "," not in match["hosts"]:
        return make_plain_url(text)
    first, *others = _checked(unquote(host) for host in match["hosts"].split(","))
    host, _colon, port = first.rpartition(":")
    query: dict[str, list[str]] = {}
    for key, value in parse_qsl(match["query"] or ""):
        query.setdefault(key, []).append(value)
    query["host"] = [*others, *query.get("host", [])]
    return URL.create(
        match["name"],
        host=host.strip("[]"),
        port=int(port),
        database=match["database"] or None,
        query={key: values[0] if len(values) == 1 else values for key, values in query.items()},
    )


def target_of(url: URL) -> Target:
    """Read a URL. Raises ArgumentError, naming what is wrong and the form it should have."""
    if url.username or url.password:
        raise ArgumentError("dqlitepy URLs have no user and password: nodes authenticate each other by TLS")
    try:
        database = check_database_name(url.database or "")
    except InterfaceError as error:
        raise ArgumentError(f"{error}, as in dqlitepy://host:9001/app") from None
    query = dict(url.query)
    others = query.pop("host", ())
    given = [] if url.host is None else [_join(host, url.port) for host in url.host.split(",")]
    given += [others] if isinstance(others, str) else others
    addresses = tuple(str(address) for address in _checked(given)) if given else ()
    return Target(addresses, database, {key: _option(key, value) for key, value in query.items()})


def _checked(texts: Iterable[str]) -> Sequence[str]:
    try:
        return parse_addresses(texts)
    except InterfaceError as error:
        raise ArgumentError(f"in the URL: {error}") from None


def _option(key: str, value: str | tuple[str, ...]) -> Any:
    if not isinstance(value, str):
        raise ArgumentError(f"option {key!r} stands more than once in the URL")
    try:
        return _READERS.get(key, str)(value)
    except (ValueError, KeyError):
        raise ArgumentError(f"option {key}={value!r} in the URL cannot be read") from None


def _join(host: str, port: int | None) -> str:
    if port is None:
        raise ArgumentError(f"{host!r} in the URL has no port: write host:port")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
