"""What callers ask the node's loop for is made there, and never where nobody may come to await it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from dqlite_py.errors import Error, NodeStopped
from dqlite_py.node.local_gateway import LocalGateway


async def answer() -> int:
    return 5


def test_a_call_that_the_loop_never_takes_leaves_no_coroutine_behind() -> None:
    queued: list[Callable[[], None]] = []
    gateway: Any = LocalGateway.__new__(LocalGateway)
    gateway.inbox = SimpleNamespace(put=queued.append)
    LocalGateway.run_on_loop(gateway, answer, lambda _value, _error: None, lambda: NodeStopped("x"))
    assert len(queued) == 1
    queued.clear()
    gc.collect()  # a coroutine that nobody awaited would warn


def test_a_call_that_the_loop_takes_is_answered() -> None:
    heard: list[tuple[Any, Error | None]] = []
    gateway: Any = LocalGateway.__new__(LocalGateway)
    gateway.inbox = SimpleNamespace(put=lambda call: call())

    def spawn(work: Any) -> None:
        try:
            work.send(None)
        except StopIteration:
            return
        raise AssertionError("it waits for something")

    gateway._spawn = spawn
    LocalGateway.run_on_loop(
        gateway, answer, lambda value, error: heard.append((value, error)), lambda: NodeStopped("x")
    )
    assert heard == [(5, None)]
