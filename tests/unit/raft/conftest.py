"""The transport's tests run on every event loop that is supported and installed."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable, Mapping

import pytest

from dqlite_py.raft import connection, listener, refusals

if importlib.util.find_spec("uvloop"):
    import uvloop

    uvloop.new_event_loop().close()  # makes the pipe that libuv keeps for the life of the process

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, LoopFactory]:
    factories: dict[str, LoopFactory] = {"asyncio": asyncio.new_event_loop}
    if item.path.name.startswith("test_transport") and importlib.util.find_spec("uvloop"):
        factories["uvloop"] = uvloop.new_event_loop
    return factories


@pytest.fixture(autouse=True)
def logs_are_not_full() -> None:
    """What earlier tests logged about strangers does not silence this one."""
    for quiet in (connection.log, listener.log, refusals.log):
        quiet._lines = 0
