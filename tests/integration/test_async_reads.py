"""Reads of tasks: the same levels, streams and transactions; quick ones without a thread, cancelled ones ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import dqlite_py
from dqlite_py import errors
from dqlite_py.command import encode_statements
from dqlite_py.gateway import AsyncGateway, Freshness, Interrupt, QueryResult, ReadLevel, TransactionLimits
from tests.integration.embedded import embedded_cluster

T_S = 10.0
STALE = Freshness(ReadLevel.STALE)
POINT = "SELECT b FROM t WHERE a = 1"
ENDLESS = "WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
LEVELS = [Freshness(), Freshness(ReadLevel.LEADER), Freshness(ReadLevel.STALE, 0, 0.0), STALE]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[dqlite_py.Node]]:
    with embedded_cluster(tmp_path) as running:
        for node in running:
            node.gateway.open_database("app", T_S)
        write(running[0], "CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)")
        write(
            running[0],
            "INSERT INTO t (b) WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 5000) "
            "SELECT 'row ' || x FROM c",
        )
        for node in running:
            node.gateway.query("app", "SELECT 1", (), Freshness(), T_S)
        yield running


def write(node: dqlite_py.Node, sql: str) -> int:
    return node.gateway.execute_unit("app", encode_statements([(sql, [])]), T_S).log_index


async def read(gateway: AsyncGateway, sql: str, freshness: Freshness = STALE) -> QueryResult:
    return await gateway.query("app", sql, (), freshness, T_S)


async def rest(found: QueryResult) -> list[Any]:
    rows = list(found.rows)
    more: Any = found.more
    while more is not None and (piece := await more.fetch()):
        rows += piece
    return rows


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():  # noqa: ASYNC110 - seen from outside
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("freshness", LEVELS)
async def test_many_tasks_read_at_once(nodes: list[dqlite_py.Node], freshness: Freshness) -> None:
    for node in nodes:
        gateway = node.async_gateway
        for _ in range(2):
            found = await asyncio.gather(*(read(gateway, POINT, freshness) for _ in range(200)))
            assert {result.rows[0] for result in found} == {("row 1",)}


async def test_a_session_from_node_to_node(nodes: list[dqlite_py.Node]) -> None:
    token = 0
    for number in range(1, 31):
        unit = encode_statements([("UPDATE t SET b = ? WHERE a = 1", [str(number)])])
        written = await nodes[number % 3].async_gateway.execute_unit("app", unit, T_S)
        token = max(token, written.log_index)
        found = await read(nodes[(number + 1) % 3].async_gateway, POINT, Freshness(ReadLevel.SESSION, token))
        assert found.rows == [(str(number),)]
        assert found.log_index >= token
        token = found.log_index


async def test_streams_and_transactions(nodes: list[dqlite_py.Node]) -> None:
    for node in nodes:
        gateway = node.async_gateway
        for _ in range(3):  # the first on a thread, later ones at once
            assert len(await rest(await read(gateway, "SELECT a, b FROM t", Freshness()))) == 5_000
        transaction = await gateway.begin_read("app", Freshness(), T_S, TransactionLimits(60, 60))
        stream = await transaction.query("SELECT a FROM t", (), T_S)
        assert stream.log_index == transaction.log_index
        assert len(await rest(stream)) == 5_000
        assert (await transaction.query("SELECT count(*) FROM t", (), T_S)).rows == [(5_000,)]
        await transaction.close()
        with pytest.raises(errors.TransactionEnded):
            await transaction.query("SELECT 1", (), T_S)
        assert await gateway.is_read("WITH c AS (SELECT 1) SELECT * FROM c", "app")
        assert not node._running().applier().readers["app"].has_held


async def test_what_was_quick_and_is_not_any_more_is_broken_off(nodes: list[dqlite_py.Node]) -> None:
    sql = (
        "WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < ?) SELECT count(*) FROM c"
    )
    gateway = nodes[0].async_gateway
    pool = nodes[0]._running().applier().readers["app"]
    pool._pace.was_quick(sql)
    assert pool.stream_if_quick(sql, [10], timeout_s=T_S) is not None
    assert (await gateway.query("app", sql, [300_000], STALE, T_S)).rows == [(300_000,)]
    assert pool.stream_if_quick(sql, [10], timeout_s=T_S) is None
    pool._pace.was_quick(sql)
    assert pool.stream_if_quick(sql, [10], timeout_s=T_S) is None  # once slow, for long not quick


async def test_a_cancelled_task_ends_its_query(nodes: list[dqlite_py.Node]) -> None:
    gateway = nodes[1].async_gateway
    pool = nodes[1]._running().applier().readers["app"]
    tasks = [asyncio.ensure_future(gateway.query("app", ENDLESS, (), level, 3600.0)) for level in LEVELS]
    await until(lambda: pool._pending == len(tasks))
    for task in tasks:
        task.cancel()
    assert all(
        isinstance(e, asyncio.CancelledError) for e in await asyncio.gather(*tasks, return_exceptions=True)
    )
    await until(lambda: not pool._pending)


async def test_an_interrupt_ends_the_wait_and_the_query(nodes: list[dqlite_py.Node]) -> None:
    gateway = nodes[1].async_gateway
    for level in (STALE, Freshness(ReadLevel.SESSION, 1_000_000)):
        interrupt = Interrupt()
        task = asyncio.ensure_future(gateway.query("app", ENDLESS, (), level, 3600.0, interrupt))
        while not task.done():
            await asyncio.sleep(0.001)
            interrupt.request()
        with pytest.raises(errors.OperationalError, match="interrupted"):
            await task


async def test_errors_come_as_they_are(nodes: list[dqlite_py.Node]) -> None:
    gateway = nodes[0].async_gateway
    for _ in range(2):
        with pytest.raises(errors.OperationalError, match="no such table"):
            await read(gateway, "SELECT * FROM nope")
        with pytest.raises(errors.TooStale):
            await gateway.query("app", POINT, (), Freshness(ReadLevel.SESSION, 1_000_000), 0.05)
    with pytest.raises(errors.OperationalError, match="no such database"):
        await gateway.query("other", POINT, (), STALE, T_S)
