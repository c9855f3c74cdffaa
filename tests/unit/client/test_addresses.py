"""Where a cluster is, as a user writes it: what is understood, and what is refused with a reason."""

from __future__ import annotations

import pytest

from dqlite_py.client.addresses import parse_addresses, parse_target
from dqlite_py.errors import InterfaceError
from dqlite_py.limits import MEMBERS_MAX


@pytest.mark.parametrize(
    ("text", "addresses", "database"),
    [
        ("h1:9001/app", ("h1:9001",), "app"),
        ("h1:9001,h2:9001/app", ("h1:9001", "h2:9001"), "app"),
        (" h1:9001 , h2:9001 ", ("h1:9001", "h2:9001"), ""),
        ("dqlitepy://h1:9001,h2:9002/app", ("h1:9001", "h2:9002"), "app"),
        ("dqlitepy+aio://h1:9001/app", ("h1:9001",), "app"),
        ("[::1]:9001,[fe80::2]:9001/a-b.c", ("[::1]:9001", "[fe80::2]:9001"), "a-b.c"),
        ("h1:9001,h1:9001,/app", ("h1:9001",), "app"),
    ],
)
def test_targets(text: str, addresses: tuple[str, ...], database: str) -> None:
    assert parse_target(text) == (addresses, database)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no address"),
        (",", "no address"),
        ("/app", "no address"),
        ("h1/app", "write host:port"),
        ("h1:x/app", "write host:port"),
        ("h1:70000/app", "write host:port"),
        ("::1:9001/app", "IPv6 hosts in brackets"),
        ("h1 h2:9001/app", "write host:port"),
        ("h1:0/app", "nobody can dial"),
        ("0.0.0.0:9001/app", "nobody can dial"),
        ("h1:9001/", "names no database"),
        ("h1:9001/a/b", "is not allowed"),
        ("h1:9001/_dqlite_x", "is not allowed"),
        ("postgresql://h1:9001/app", "dqlitepy://"),
        ("me:secret@h1:9001/app", "no users and passwords"),
        ("h1:9001/app?timeout=3", "keyword arguments"),
        ("h1:9001/app#part", "after #"),
        (",".join(f"h{n}:1" for n in range(MEMBERS_MAX + 1)), "at most"),
    ],
)
def test_refused_targets(text: str, reason: str) -> None:
    with pytest.raises(InterfaceError, match=reason):
        parse_target(text)


def test_wrong_types_are_named() -> None:
    with pytest.raises(InterfaceError, match="not int"):
        parse_target(9001)  # type: ignore[arg-type]
    with pytest.raises(InterfaceError, match="not bytes"):
        parse_addresses([b"h1:9001"])  # type: ignore[list-item]
