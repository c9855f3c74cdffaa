"""What the servers are, found out by connecting: ours, stock dqlite, and ours that do not answer now."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

import dqlite_py
from dqlite_py.client.stock.choosing import DqliteServerWarning
from dqlite_py.errors import NoLeader, NotSupportedError
from tests.integration.embedded import embedded_cluster
from tests.support.stockdqlite import stock_cluster

WAIT_S = 30.0


def test_stock_servers(tmp_path: Path) -> None:
    with stock_cluster(tmp_path, 1) as [node]:
        with pytest.warns(DqliteServerWarning, match="servers of dqlite itself"):
            connection = dqlite_py.connect(f"{node.address}/app", timeout=WAIT_S)
        assert connection.server.name == "dqlite"
        connection.execute("CREATE TABLE t (v)")
        connection.execute("INSERT INTO t VALUES (5)")
        connection.commit()
        assert connection.execute("SELECT v FROM t").fetchall() == [(5,)]
        connection.close()
        with pytest.raises(NotSupportedError, match="keys"):
            dqlite_py.connect(f"{node.address}/app", timeout=WAIT_S, exactly_once=True)


async def test_stock_servers_from_an_event_loop(tmp_path: Path) -> None:
    with stock_cluster(tmp_path, 1) as [node]:
        options = {"timeout": WAIT_S, "read_level": "leader"}  # it is known what is there: no warning
        async with dqlite_py.connect_async(f"{node.address}/app", **options) as connection:
            assert connection.server.name == "dqlite"
            assert await (await connection.execute("SELECT 1")).fetchall() == [(1,)]


def test_our_nodes_are_never_taken_for_stock_servers(tmp_path: Path) -> None:
    with embedded_cluster(tmp_path, 1) as [node]:
        with dqlite_py.connect(f"{node.address}/app", timeout=WAIT_S) as connection:
            assert connection.server.name == "dqlite-py"
            connection.execute("CREATE TABLE t (v)")
        address = node.address
        node.stop(hand_over=False)
        with pytest.raises(NoLeader) as caught:
            dqlite_py.connect(f"{address}/app", timeout=0.5)
        assert type(caught.value) is NoLeader


def test_servers_that_say_nothing_at_all() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(NoLeader) as caught:
            dqlite_py.connect(f"{address}/app", timeout=0.3)
        assert type(caught.value) is NoLeader
