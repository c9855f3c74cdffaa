"""Made-up nodes that answer sql.* and tx.* as a test says, and remote gateways to them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import msgpack

from dqlite_py.client.background import _running
from dqlite_py.client.calls import Calls
from dqlite_py.client.gateway import RemoteGateway
from dqlite_py.client.shared import SharedLink, shared_link
from tests.support.fakepeer import Answer, FakePeer, member

BODY = b"\x91\x92\xa1x\x90"  # one statement, "x", without parameters; nobody looks at it


def unit(log_index: int = 7, log_time_us: int = 1_000, result: Any = None) -> list[Any]:
    """An answer to a write; by default of one statement that changed one row."""
    packed = msgpack.packb([0, [[1, 5, None, None]]] if result is None else result)
    return [log_index, packed, log_time_us]


def rows(*found: list[Any], has_more: bool = False) -> list[Any]:
    return [["a"], [None], [*found], 3, has_more]


class Script:
    """The answers of one method, one after the other; the last one again and again. An exception is raised."""

    def __init__(self, *answers: Any) -> None:
        self._answers = [*answers]

    async def __call__(self, body: Any) -> Any:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return await answer(body) if callable(answer) else answer


@contextmanager
def nodes(*methods: dict[str, Answer], leader: int = 0) -> Iterator[list[FakePeer]]:
    """One node for each dict of methods; all say that the one at position `leader` leads, or nobody (-1)."""
    with ExitStack() as stack:
        peers = [
            stack.enter_context(FakePeer(number, methods=given).running())
            for number, given in enumerate(methods, 11)
        ]
        lead(peers, leader)
        try:
            yield peers
        finally:  # BEFORE the nodes: a link that connects to one that stops leaves an unclosed socket to asyncio
            for background in list(_running):
                background.end()


def lead(peers: list[FakePeer], leader: int) -> None:
    for position, peer in enumerate(peers):
        peer.status = {
            "is_leader": position == leader,
            "leader_address": peers[leader].address if leader >= 0 else "",
            "members": [member(each) for each in peers],
        }


def gateway(*peers: FakePeer) -> RemoteGateway:
    return RemoteGateway(shared_link([peer.address for peer in peers], None))


def asked(peer: FakePeer, method: str) -> list[Any]:
    return [body for name, body in peer.asked if name == method]


def keys(*peers: FakePeer) -> list[Any]:
    return [tuple(body["key"]) for peer in peers for body in asked(peer, "sql.execute")]


def cutting(peer: Callable[[], FakePeer], then: Any = None) -> Answer:
    """An answer that never arrives: the connection breaks when the request is there."""

    async def answer(_body: Any) -> Any:
        peer().cut()
        return then

    return answer


def settle(shared: SharedLink) -> None:
    """What the link has heard is through all its callbacks."""

    async def turns(_link: Any) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    Calls(shared).run(turns)


def client_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "dqlite-client"]


def wait_until(condition: Callable[[], bool]) -> None:
    """Fails when it does not come true; the bound is there to end a broken test."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "never came true"
        time.sleep(0.002)
