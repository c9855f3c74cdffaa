"""Fixtures of the fault tests: a virtual world for the stock PySyncObj."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator

import pytest

from tests.faults.stock import StockWorld

if importlib.util.find_spec("uvloop") is not None:
    import uvloop

    uvloop.new_event_loop().close()  # libuv opens one pair of pipes per process: before descriptors are counted


@pytest.fixture
def stock_world(monkeypatch: pytest.MonkeyPatch) -> Iterator[StockWorld]:
    """Stock PySyncObj with clock, poller and randomness replaced for the length of one test."""
    level = logging.getLogger("pysyncobj").level
    logging.getLogger("pysyncobj").setLevel(logging.CRITICAL + 1)
    world = StockWorld(monkeypatch)
    yield world
    world.reset()
    logging.getLogger("pysyncobj").setLevel(level)
