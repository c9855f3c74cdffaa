"""RF-16: stock unpickles whatever a connection sends, obeys utility commands and streams the log to
anybody. Ours parses msgpack rows of a table after a handshake that proves cluster and node id (by
certificate with TLS); no module of ours imports pickle, and what is malformed closes its connection and
nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.stock_tcp import Stranger, TcpNode

pytestmark = pytest.mark.rf("RF-16")

EXECUTED: list[str] = []


class Payload:
    """Runs code of the sender's choice when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (exec, (f"import {__name__} as here; here.EXECUTED.append('by a stranger')",))


@pytest.fixture
def stock_node() -> Iterator[TcpNode]:
    node = TcpNode(dynamicMembershipChange=True)
    assert node.tick_until(node._isLeader)
    yield node
    node.destroy()


def test_stock_has_the_fault(stock_node: TcpNode) -> None:
    EXECUTED.clear()
    with Stranger(stock_node) as stranger:
        stranger.say(Payload())
        assert stock_node.tick_until(lambda: bool(EXECUTED))
    assert EXECUTED == ["by a stranger"]


def test_stock_shows_its_log_to_strangers(stock_node: TcpNode) -> None:
    stock_node.op("secret")
    assert stock_node.tick_until(lambda: stock_node.data == ["secret"])

    def told(messages: list[dict[str, list[tuple[bytes, int, int]]]]) -> bool:
        return any(b"secret" in entry[0] for message in messages for entry in message.get("entries", []))

    with Stranger(stock_node) as stranger:
        stranger.say("readonly")
        stranger.say({"type": "next_node_idx", "reset": True, "next_node_idx": 2, "success": False})
        assert stock_node.tick_until(lambda: told(stranger.heard()))


def test_stock_obeys_strangers(stock_node: TcpNode) -> None:
    with Stranger(stock_node) as stranger:
        stranger.say(["add", "127.0.0.1:9"])
        assert stock_node.tick_until(lambda: "127.0.0.1:9" in {other.id for other in stock_node.otherNodes})
