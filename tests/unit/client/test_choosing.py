"""Nodes of ours or stock servers: the choice, and what is said of it."""

from __future__ import annotations

import gc
import warnings
from typing import Any

import pytest

from dqlite_py import aio, dbapi
from dqlite_py.client.stock import AsyncStockGateway, StockGateway
from dqlite_py.client.stock.choosing import (
    AsyncChoosingGateway,
    Choice,
    ChoosingGateway,
    DqliteServerWarning,
    StockServers,
)
from dqlite_py.errors import NotSupportedError
from dqlite_py.gateway import OURS, ReadLevel
from dqlite_py.model import Address
from tests.support.fakegateway import FakeGateway
from tests.support.fakestock import FakeServer, servers


class NotOurs:
    """The remote gateway of a program whose servers do not know the extension."""

    def open_database(self, database: str, timeout_s: float) -> None:
        raise StockServers("stock")


def connect(server: FakeServer, **options: Any) -> Any:
    choice = Choice.of([server.address], None, options)
    return dbapi.connect(ChoosingGateway(NotOurs, choice), "app", **options)


class AsyncNotOurs:
    async def open_database(self, database: str, timeout_s: float) -> None:
        raise StockServers("stock")


def test_nodes_of_ours_are_left_alone() -> None:
    with FakeGateway() as fake:
        choice = Choice.of([Address("h:1")], None, {})
        connection = dbapi.connect(ChoosingGateway(lambda: fake, choice), "app")
        assert connection.execute("SELECT 1").fetchone() == (1,)
        assert connection.server == OURS
        connection.close()


def test_what_was_not_asked_for_by_name_is_left_out_with_a_warning() -> None:
    with servers(1) as [server]:
        with pytest.warns(DqliteServerWarning, match="not linearizable"):
            connection = connect(server)
        assert connection.execute("SELECT 1").fetchall() == []
        assert connection.server == ("dqlite", False, ("stale",), False)  # what is kept, not what is answered
        connection.close()
        del connection
        gc.collect()


def test_who_knows_is_not_warned_and_what_was_asked_for_is_refused() -> None:
    with servers(1) as [server], warnings.catch_warnings():
        warnings.simplefilter("error")
        connection = connect(server, read_level="leader")
        connection.execute("SELECT 1")
        with pytest.raises(NotSupportedError, match="not linearizable"):
            connect(server, read_level="linearizable")
        with pytest.raises(NotSupportedError, match="exactly once"):
            connect(server, read_level="leader", exactly_once=True)
        connection.close()
        del connection
        gc.collect()


def test_a_level_named_later_is_refused_as_well() -> None:
    with servers(1) as [server]:
        with pytest.warns(DqliteServerWarning):
            connection = connect(server)
        assert connection.read_level is ReadLevel.LEADER
        with pytest.raises(NotSupportedError, match="not linearizable"):
            connection.read_level = "linearizable"
        with pytest.raises(NotSupportedError, match="not linearizable"):
            connection.execute("SELECT 1", read_level=ReadLevel.LINEARIZABLE)
        assert server.seen == []
        connection.execute("SELECT 1")
        connection.read_level = connection.read_level
        connection.execute("SELECT 1")
        connection.close()
        del connection
        gc.collect()


def test_connections_share_the_connections_to_servers() -> None:
    with servers(1) as [server]:
        choice = Choice.of([server.address], None, {"read_level": "leader"})
        gateway = choice.stock(StockGateway)
        assert choice.stock(StockGateway) is gateway
        other = choice.stock(AsyncStockGateway)
        assert isinstance(other, AsyncStockGateway)
        gateway.close()
        other.close()


async def test_coroutines() -> None:
    with servers(1) as [server]:
        options = {"read_level": "leader"}
        gateway = AsyncChoosingGateway(AsyncNotOurs, Choice.of([server.address], None, options))
        async with aio.connect(gateway, "app", **options) as connection:
            await connection.execute("SELECT 1")
            assert connection.server.name == "dqlite"
        gateway.close()
