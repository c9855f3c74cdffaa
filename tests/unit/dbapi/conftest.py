"""What the tests of the API layers share: each runs on dbapi and on aio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.awaited import connector
from tests.support.fakegateway import FakeGateway, RecordingGateway


@pytest.fixture
def fake() -> Iterator[FakeGateway]:
    with FakeGateway() as gateway:
        yield gateway
        assert (gateway.open_transactions, gateway.open_streams) == (0, 0)


@pytest.fixture
def recorder(fake: FakeGateway) -> RecordingGateway:
    return RecordingGateway(fake)


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """`connect(gateway, database, **options)` to a connection, sync, or async and awaited call by call."""
    with asyncio.Runner() as runner:
        yield connector(request.param, runner)
