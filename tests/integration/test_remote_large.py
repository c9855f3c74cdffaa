"""Results of a program's transaction that do not fit into an answer: what is told is what is true."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import dqlite_py
from dqlite_py.errors import Outcome, RequestTooLarge, TransactionEnded
from dqlite_py.node import transaction_services

LARGE = "hex(zeroblob(2000))"


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(transaction_services, "RESULTS_BYTES_MAX", 1000)
    with dqlite_py.Node(tmp_path / "node") as node:
        node.wait_ready()
        with dqlite_py.connect(f"{node.address}/app") as connection:
            connection.execute("CREATE TABLE t (a)")
        yield f"{node.address}/app"


@pytest.mark.parametrize(
    "sql", [f"INSERT INTO t VALUES (2) RETURNING {LARGE}", f"UPDATE t SET a = 2 RETURNING {LARGE}"]
)
def test_a_write_whose_rows_do_not_fit_ends_its_transaction(target: str, sql: str) -> None:
    with dqlite_py.connect(target) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO t VALUES (1)")
        with pytest.raises(TransactionEnded, match="does not fit into an answer") as caught:
            connection.execute(sql)
        assert caught.value.outcome is Outcome.NOT_APPLIED
        with pytest.raises(TransactionEnded):
            connection.execute("SELECT 1")
        connection.rollback()
        with dqlite_py.connect(target) as other:  # nobody holds the database
            other.execute("INSERT INTO t VALUES (3)")
            other.commit()
        assert connection.execute("SELECT a FROM t").fetchall() == [(3,)]


def test_a_read_whose_rows_do_not_fit_leaves_its_transaction_open(target: str) -> None:
    with dqlite_py.connect(target) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO t VALUES (1)")
        with pytest.raises(RequestTooLarge, match="does not fit into an answer"):
            connection.execute(f"SELECT {LARGE}")
        connection.commit()
        assert connection.execute("SELECT a FROM t").fetchall() == [(1,)]
