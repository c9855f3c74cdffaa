"""A database that is dropped and made anew: keys of before have no effect in it, new ones work everywhere at once."""

from __future__ import annotations

from pathlib import Path

import pytest

import dqlite_py
from dqlite_py.errors import Outcome, OutcomeUnknown, SessionExpired
from tests.integration.cluster import wait_until
from tests.integration.embedded import check_same_state, embedded_cluster

TABLE = "CREATE TABLE IF NOT EXISTS t(v)"
INSERT = [("INSERT INTO t VALUES (?)", (1,))]


def drop_and_make(nodes: list[dqlite_py.Node]) -> None:
    nodes[0].drop_database("app")
    wait_until(lambda: all("app" not in node.status()["databases"] for node in nodes), "dropped everywhere")
    with nodes[1].connect("app") as connection:
        connection.execute(TABLE)
        connection.commit()


def test_keys_belong_to_one_life_of_a_database(tmp_path: Path) -> None:
    with embedded_cluster(tmp_path) as nodes:
        here = nodes[1].connect("app", isolation_level=None)
        here.execute(TABLE)
        addresses = [node.address for node in nodes]
        away = dqlite_py.connect(addresses, "app", isolation_level=None)
        used, unused, remote = here.new_key(), here.new_key(), away.new_key()
        here.execute_atomic(INSERT, key=used)
        away.execute_atomic(INSERT, key=remote)
        drop_and_make(nodes)
        for connection, key in ((here, used), (here, unused), (away, remote)):
            with pytest.raises(SessionExpired) as refused:
                connection.execute_atomic(INSERT, key=key)
            assert refused.value.outcome is Outcome.UNKNOWN
            lost = OutcomeUnknown("lost", session=key.session, sequence=key.sequence)
            with pytest.raises(SessionExpired):
                connection.resolve(lost)
        assert here.execute("SELECT count(*) FROM t").fetchone() == (0,)
        # Whoever knew the database before goes on, and so does whoever comes now.
        fresh = dqlite_py.connect(addresses, "app", isolation_level=None)
        for connection in (here, away, fresh, nodes[2].connect("app", isolation_level=None)):
            connection.execute("INSERT INTO t VALUES (2)")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT INTO t VALUES (3)")
            connection.execute("COMMIT")
            connection.execute_atomic(INSERT, key=connection.new_key())
            connection.close()
        with nodes[0].connect("app") as connection:
            assert connection.execute("SELECT count(*) FROM t").fetchone() == (12,)
        check_same_state(nodes)


def test_the_first_key_and_transaction_after_a_restart_are_new_enough(tmp_path: Path) -> None:
    """With nothing in the log to tell the time by."""
    node = dqlite_py.Node(tmp_path / "n0").start()
    try:
        node.wait_ready()
        with node.connect("app", isolation_level=None) as connection:
            connection.execute(TABLE)
        node.compact()
    finally:
        node.stop()
    node = dqlite_py.Node(tmp_path / "n0").start()
    try:
        node.wait_ready()
        connection = node.connect("app", isolation_level=None)
        connection.execute_atomic(INSERT, key=connection.new_key())
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO t VALUES (3)")
        connection.execute("COMMIT")
        assert connection.execute("SELECT v FROM t ORDER BY v").fetchall() == [(1,), (3,)]
        connection.close()
    finally:
        node.stop()
