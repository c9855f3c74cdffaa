"""Reads of programs outside the nodes: levels, tokens, results that are large, interrupts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import dqlite_py
from dqlite_py.errors import OperationalError
from tests.integration.embedded import embedded_cluster, leader_of

WAIT_S = 30.0


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[dqlite_py.Node]]:
    with embedded_cluster(tmp_path) as found:
        yield found


def target(nodes: list[dqlite_py.Node]) -> str:
    return ",".join(node.address for node in nodes) + "/app"


def test_read_levels_and_the_token_of_another_process(nodes: list[dqlite_py.Node]) -> None:
    leader = leader_of(nodes)
    followers = [node for node in nodes if node is not leader]
    writer = dqlite_py.connect([leader.address], "app", isolation_level=None, read_level="session")
    reader = dqlite_py.connect([followers[0].address], "app", read_level="session", isolation_level=None)
    writer.execute("CREATE TABLE t(v)")
    for number in range(20):
        writer.execute("INSERT INTO t VALUES (?)", (number,))
        reader.session_token = writer.session_token
        assert reader.execute("SELECT max(v) FROM t").fetchone() == (number,)
    for level in ("linearizable", "leader"):
        with dqlite_py.connect(target(nodes), read_level=level) as conn:
            assert conn.execute("SELECT max(v) FROM t").fetchone() == (19,)
        conn.close()
    writer.close()
    reader.close()


LARGE = (
    "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < ?) SELECT n, 'row ' || n FROM c"
)


def test_a_result_of_200_000_rows(nodes: list[dqlite_py.Node]) -> None:
    conn = dqlite_py.connect(target(nodes))
    found = conn.execute(LARGE, (200_000,))
    for number, row in zip(range(1, 200_001), found, strict=True):
        assert row == (number, f"row {number}")
    abandoned = conn.execute(LARGE, (200_000,))
    assert abandoned.fetchone() == (1, "row 1")
    assert conn.execute("SELECT 5").fetchone() == (5,)
    conn.close()


async def test_a_result_of_200_000_rows_with_asyncio(nodes: list[dqlite_py.Node]) -> None:
    async with dqlite_py.connect_async(target(nodes)) as conn:
        found = await conn.execute(LARGE, (200_000,))
        numbers = [number async for number, _ in found]
        assert numbers == list(range(1, 200_001))


def test_interrupt_from_another_thread(nodes: list[dqlite_py.Node]) -> None:
    conn = dqlite_py.connect(target(nodes), check_same_thread=False, timeout=WAIT_S)
    done = threading.Event()

    def interrupt() -> None:
        while not done.wait(0.05):
            conn.interrupt()

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(OperationalError, match="interrupt"):
            conn.execute(f"SELECT count(*) FROM ({LARGE})", (10**12,)).fetchone()
    finally:
        done.set()
        thread.join()
    assert conn.execute("SELECT 5").fetchone() == (5,)
    conn.close()
