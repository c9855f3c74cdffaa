"""Read levels by the DB-API, sync and async, on the leader and on a follower of a real cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import dqlite_py
from dqlite_py import aio
from dqlite_py.errors import InterfaceError, ProgrammingError, TooStale
from dqlite_py.gateway import ReadLevel
from tests.integration.embedded import embedded_cluster, leader_of
from tests.integration.test_transactions import start_threads

COUNT = "SELECT count(*) FROM t"
NOT_LEVEL = "read_level 'weak' is not known: use one of linearizable, leader, session, stale"
NOT_SECONDS = "max_staleness must be a number of seconds of at least 0, not "
FUTURE = "index-1000000000"
# options or keywords, and the message; for every place where they can be given
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"read_level": "weak"}, NOT_LEVEL),
    ({"read_level": "stale", "max_staleness": -1}, f"{NOT_SECONDS}-1"),
    ({"read_level": "stale", "max_staleness": "1"}, f"{NOT_SECONDS}'1'"),
    ({"read_level": "stale", "max_staleness": True}, f"{NOT_SECONDS}True"),
    ({"read_level": "stale", "max_staleness": float("nan")}, f"{NOT_SECONDS}nan"),
    ({"read_level": "stale", "max_staleness": float("inf")}, f"{NOT_SECONDS}inf"),
]


class Sync:
    """A connection of a task, on a thread of nobody's: the calls of the async one, made at once."""

    def __init__(self, node: dqlite_py.Node, **options: Any) -> None:
        self.connection = node.connect("app", isolation_level=None, **options)

    async def rows(self, sql: str, **keywords: Any) -> Any:
        cursor = self.connection.execute(sql, **keywords)
        return cursor.fetchall() if cursor.description is not None else []

    async def close(self) -> None:
        self.connection.close()


class Async:
    def __init__(self, node: dqlite_py.Node, **options: Any) -> None:
        self.connection = aio.AsyncConnection(node.async_gateway, "app", isolation_level=None, **options)

    async def rows(self, sql: str, **keywords: Any) -> Any:
        cursor = await self.connection.execute(sql, **keywords)
        return await cursor.fetchall() if cursor.description is not None else []

    async def close(self) -> None:
        await self.connection.close()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dqlite_py.Node]]:
    folder: Path = tmp_path_factory.mktemp("levels")
    with embedded_cluster(folder) as running:
        for node in running:
            node.gateway.open_database("app", 30.0)
            start_threads(node)
        with running[0].connect("app") as connection:
            connection.execute("CREATE TABLE t(v)")
        connection.close()
        yield running


@pytest.fixture
def leader(nodes: list[dqlite_py.Node]) -> dqlite_py.Node:
    return leader_of(nodes)


@pytest.fixture
def follower(nodes: list[dqlite_py.Node], leader: dqlite_py.Node) -> dqlite_py.Node:
    return next(node for node in nodes if node is not leader)


@pytest.fixture(params=["leader", "follower"])
def node(request: pytest.FixtureRequest, leader: dqlite_py.Node, follower: dqlite_py.Node) -> dqlite_py.Node:
    return leader if request.param == "leader" else follower


@pytest.fixture(params=[Sync, Async])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(autouse=True)
async def empty(nodes: list[dqlite_py.Node], leader: dqlite_py.Node) -> None:
    """On every node: also a stale read sees it."""
    connection = Sync(leader)
    await connection.rows("DELETE FROM t")
    await connection.close()
    for node in nodes:
        reader = Sync(node)
        assert await reader.rows(COUNT) == [(0,)]
        await reader.close()


async def refused(error: type[Exception], message: str, call: Callable[[], Any]) -> None:
    async def made() -> None:
        found = call()
        if asyncio.iscoroutine(found):
            await found

    with pytest.raises(error) as caught:
        await made()
    assert str(caught.value) == message
    assert type(caught.value) is error


@pytest.mark.parametrize(("given", "message"), REFUSED)
async def test_refused_values(node: dqlite_py.Node, kind: Any, given: dict[str, Any], message: str) -> None:
    await refused(InterfaceError, message, lambda: kind(node, **given))
    user = kind(node)
    await refused(InterfaceError, message, lambda: user.rows(COUNT, **given))
    for name, value in given.items():
        if value != "stale":
            await refused(InterfaceError, message, lambda n=name, v=value: setattr(user.connection, n, v))  # type: ignore[misc]
    assert user.connection.read_level is ReadLevel.LINEARIZABLE
    assert user.connection.max_staleness is None
    assert await user.rows(COUNT) == [(0,)]
    await user.close()


@pytest.mark.parametrize("level", ["linearizable", "leader", "session"])
async def test_a_bound_is_for_stale_reads(node: dqlite_py.Node, kind: Any, level: str) -> None:
    await refused(
        InterfaceError,
        "max_staleness is for read_level='stale'",
        lambda: kind(node, read_level=level, max_staleness=1),
    )
    user = kind(node, read_level=level)
    message = f"max_staleness is for reads of level 'stale', not '{level}'"
    await refused(InterfaceError, message, lambda: user.rows(COUNT, max_staleness=1))
    stale = kind(node, read_level="stale", max_staleness=1)
    await refused(InterfaceError, message, lambda: stale.rows(COUNT, read_level=level, max_staleness=1))
    assert await stale.rows(COUNT, read_level=level) == [(0,)]  # the connection's bound is not this read's
    await user.close()
    await stale.close()


@pytest.mark.parametrize("token", ["", "1", "index-", "index--1", "index-01", "index-1 ", 1, None])
async def test_refused_tokens(node: dqlite_py.Node, kind: Any, token: Any) -> None:
    user = kind(node)
    before = user.connection.session_token
    message = f"a session token looks like 'index-42', not {token!r}"
    await refused(InterfaceError, message, lambda: setattr(user.connection, "session_token", token))
    assert user.connection.session_token == before
    await user.close()


async def test_a_token_from_the_leader_sees_its_writes_on_a_follower(
    leader: dqlite_py.Node, follower: dqlite_py.Node, kind: Any
) -> None:
    writer, reader = kind(leader), kind(follower, read_level="session")
    for number in range(1, 51):
        await writer.rows(f"INSERT INTO t VALUES ({number})")
        reader.connection.session_token = token = writer.connection.session_token
        assert await reader.rows(COUNT) == [(number,)]
        assert index(reader) >= int(token.removeprefix("index-"))
    reader.connection.session_token = "index-1"  # an older one takes nothing back
    assert await reader.rows(COUNT) == [(50,)]
    assert index(reader) >= index(writer)
    await writer.close()
    await reader.close()


def index(user: Any) -> int:
    return int(user.connection.session_token.removeprefix("index-"))


async def test_a_token_of_the_future_is_waited_for(node: dqlite_py.Node, kind: Any) -> None:
    user = kind(node, read_level="session", timeout=0.1)
    user.connection.session_token = FUTURE
    with pytest.raises(TooStale, match=r"not yet 1000000000"):
        await user.rows(COUNT)
    assert await user.rows(COUNT, read_level="linearizable", timeout=10) == [(0,)]
    await user.close()


async def test_the_newest_state_by_every_level_that_promises_it(
    nodes: list[dqlite_py.Node], node: dqlite_py.Node, kind: Any
) -> None:
    """A write through another node has been acknowledged before."""
    writer = kind(next(one for one in nodes if one is not node))
    users = [
        kind(node),
        kind(node, read_level="leader"),
        kind(node, read_level="stale", max_staleness=0),
        kind(node, read_level="stale", max_staleness=0.0),
    ]
    for number in range(1, 26):
        await writer.rows(f"INSERT INTO t VALUES ({number})")
        user = users[number % 4]
        assert await user.rows(COUNT) == [(number,)]
        assert await user.rows(COUNT, read_level="stale", max_staleness=0) == [(number,)]
        assert await user.rows(COUNT, read_level=ReadLevel.LEADER) == [(number,)]
    for user in [*users, writer]:
        await user.close()


async def test_a_level_that_is_changed_later(
    leader: dqlite_py.Node, follower: dqlite_py.Node, kind: Any
) -> None:
    """The token that cannot be reached tells the levels apart."""
    user = kind(follower, timeout=0.1)
    connection = user.connection
    connection.session_token = FUTURE
    connection.timeout = 10
    assert await user.rows(COUNT) == [(0,)]
    connection.read_level = "session"
    with pytest.raises(TooStale):
        await user.rows(COUNT, timeout=0.1)
    connection.read_level = ReadLevel.STALE
    connection.max_staleness = 60
    assert await user.rows(COUNT) == [(0,)]
    with pytest.raises(TooStale):
        await user.rows(COUNT, read_level="session", timeout=0.1)
    connection.max_staleness = 0
    writer = kind(leader)
    await writer.rows("INSERT INTO t VALUES (1)")
    assert await user.rows(COUNT) == [(1,)]
    connection.read_level = "linearizable"  # its bound waits for the next stale read
    assert connection.max_staleness == 0
    assert await user.rows(COUNT) == [(1,)]
    connection.max_staleness = None
    await user.close()
    await writer.close()


async def test_a_transaction_keeps_the_level_of_its_first_read(node: dqlite_py.Node, kind: Any) -> None:
    user = kind(node)
    await user.rows("BEGIN")
    assert await user.rows(COUNT, read_level="stale") == [(0,)]
    await refused(
        ProgrammingError,
        "read_level is stale for the whole transaction: its first read has set it",
        lambda: user.rows(COUNT, read_level="linearizable"),
    )
    assert await user.rows(COUNT) == [(0,)]
    await user.rows("COMMIT")
    await user.close()
