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
from dqlite_py.client.stock.probe import are_stock
from dqlite_py.errors import NotSupportedError
from dqlite_py.gateway import OURS
from dqlite_py.model import Address
from dqlite_py.wire.dqlite.frames import Frame, encode_frame
from dqlite_py.wire.dqlite.responses import Empty, Failure
from tests.support.fakegateway import FakeGateway
from tests.support.fakestock import CLOSE, SILENCE, Answer, FakeServer, Raw, servers


class NotOurs:
    """The remote gateway of a program whose servers do not know the extension."""

    def open_database(self, database: str, timeout_s: float) -> None:
        raise StockServers("stock")


def connect(server: FakeServer, **options: Any) -> Any:
    choice = Choice.of([server.address], None, options)
    return dbapi.connect(ChoosingGateway(NotOurs, choice), "app", **options)


async def yes(timeout_s: float) -> bool:
    return True


def test_nodes_of_ours_are_left_alone() -> None:
    with FakeGateway() as fake:
        choice = Choice.of([Address("h:1")], None, {})
        connection = dbapi.connect(ChoosingGateway(lambda: fake, choice, lambda _timeout_s: False), "app")
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
        other = connect(server, read_level="linearizable")
        with pytest.raises(NotSupportedError, match="not linearizable"):
            other.execute("SELECT 1")
        with pytest.raises(NotSupportedError, match="exactly once"):
            connect(server, read_level="leader", exactly_once=True)
        connection.close()
        other.close()
        del connection, other
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
        gateway = AsyncChoosingGateway(lambda: None, Choice.of([server.address], None, options), yes)
        async with aio.connect(gateway, "app", **options) as connection:
            await connection.execute("SELECT 1")
            assert connection.server.name == "dqlite"
        gateway.close()


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([Failure(1005, "unrecognized request type")], True),
        ([SILENCE], True),
        ([Failure(0xD0_0001, "another cluster")], False),
        ([Raw(encode_frame(Frame(0xD0, 0, bytes(16))))], False),
        ([CLOSE], False),
        ([Empty()], False),
    ],
)
async def test_what_servers_answer_to_the_extension(answers: list[Answer], expected: bool) -> None:
    with servers(1) as [server]:
        server.script["EXTEND"] = answers
        assert await are_stock([server.address], None) is expected


async def test_a_server_that_says_nothing_at_all_is_not_known() -> None:
    with servers(1) as [server]:
        server.script["EXTEND"] = [SILENCE]
        server.script["LEADER"] = [CLOSE]
        assert not await are_stock([server.address], None)


async def test_one_that_can_be_reached_is_enough() -> None:
    with servers(1) as [server]:
        server.script["EXTEND"] = [SILENCE]
        assert await are_stock([Address("127.0.0.1:1"), server.address], None)
