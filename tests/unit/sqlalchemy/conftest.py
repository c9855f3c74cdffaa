"""Engines on a gateway in memory: transactions are real, nothing is replicated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine

from dqlite_py import dbapi
from dqlite_py.sqlalchemy import engine_for
from tests.support.fakegateway import AsyncFakeGateway, FakeGateway


class FakeNode:
    """What engine_for asks of a node. Its files go with the gateway."""

    def __init__(self) -> None:
        self.gateway: FakeGateway = FakeGateway()

    def connect(self, database: str, **options: Any) -> dbapi.Connection:
        return dbapi.connect(self.gateway, database, **options)

    @property
    def async_gateway(self) -> AsyncFakeGateway:
        return AsyncFakeGateway(self.gateway)


@pytest.fixture
def node() -> Iterator[FakeNode]:
    node = FakeNode()
    yield node
    del node.gateway  # engines, which pytest keeps for a while, refer to the node


@pytest.fixture
def make_engine(node: FakeNode) -> Iterator[Callable[..., Engine]]:
    """engine_for(node, "app", …), disposed of at the end."""
    engines: list[Engine] = []

    def make(**options: Any) -> Engine:
        engines.append(engine_for(node, "app", **options))
        return engines[-1]

    yield make
    for engine in engines:
        engine.dispose()


@pytest.fixture
def engine(make_engine: Callable[..., Engine]) -> Engine:
    return make_engine(connect_args={"busy_timeout": 0.2})
