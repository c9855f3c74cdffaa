"""Fixtures of the fault tests: the project root on the path, and a virtual world for the stock PySyncObj."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = str(Path(__file__).resolve().parents[2])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from tests.faults.stock import StockWorld  # noqa: E402 - needs the path above


@pytest.fixture
def stock_world(monkeypatch: pytest.MonkeyPatch) -> Iterator[StockWorld]:
    """Stock PySyncObj with clock, poller and randomness replaced for the length of one test."""
    level = logging.getLogger("pysyncobj").level
    logging.getLogger("pysyncobj").setLevel(logging.CRITICAL + 1)
    world = StockWorld(monkeypatch)
    yield world
    world.reset()
    logging.getLogger("pysyncobj").setLevel(level)
