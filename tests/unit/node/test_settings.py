"""node.settings: what cannot work is refused before anything starts, by name."""

from __future__ import annotations

from typing import Any

import pytest

from dqlite_py.errors import InterfaceError
from dqlite_py.node.settings import NodeSettings, node_settings


def make(**changes: Any) -> NodeSettings:
    given: dict[str, Any] = {
        "directory": "/d",
        "listen": "127.0.0.1:9001",
        "join": [],
        "advertise": None,
        "tls": None,
        "insecure": False,
    }
    return node_settings(**{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"listen": "127.0.0.1"}, "listen address '127.0.0.1'"),
        ({"listen": "127.0.0.1:99999"}, "listen address"),
        ({"join": ["nonsense"]}, "join address 'nonsense'"),
        ({"join": "127.0.0.1:9002"}, "join is a list"),
        ({"join": ["127.0.0.1:9001"]}, "this node's own"),
        ({"listen": "10.0.0.1:9001"}, "--insecure"),
        ({"listen": "0.0.0.0:9001", "insecure": True}, "advertise"),
        ({"compact_log_bytes": -1}, "compact_log_bytes"),
    ],
)
def test_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InterfaceError, match=words):
        make(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"listen": "[::1]:0"},
        {"listen": "localhost:9001"},
        {"listen": "10.0.0.1:9001", "insecure": True},
        {"listen": "0.0.0.0:9001", "advertise": "10.0.0.1:9001", "insecure": True},
    ],
)
def test_accepted(changes: dict[str, Any]) -> None:
    assert make(**changes).directory == "/d"
