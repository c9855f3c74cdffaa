"""The embedded API on leader and followers: sqlite3-like use, errors with a true outcome, determinism, refusals."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import dqlite_py
from dqlite_py import errors
from tests.integration.cluster import wait_until
from tests.integration.embedded import check_same_state, embedded_cluster, leader_of


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[dqlite_py.Node]]:
    with embedded_cluster(tmp_path) as running:
        yield running


INSERT = "INSERT INTO t VALUES (?)"


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_one_node_is_a_cluster(tmp_path: Path, loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DQLITE_PY_LOOP", loop)
    with dqlite_py.Node(tmp_path / "n") as node:
        node.wait_ready()
        connection = node.connect("app", isolation_level=None)
        connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
        cursor = connection.execute("INSERT INTO t(v) VALUES (?) RETURNING id", ("x",))
        assert cursor.fetchone() == (1,)
        assert connection.execute("SELECT v FROM t").fetchall() == [("x",)]
    with dqlite_py.Node(tmp_path / "n") as again:
        again.wait_ready()
        assert again.connect("app", isolation_level=None).execute("SELECT v FROM t").fetchall() == [("x",)]


def test_an_unknown_loop_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DQLITE_PY_LOOP", "trio")
    with pytest.raises(errors.InterfaceError, match="DQLITE_PY_LOOP is 'trio'"):
        dqlite_py.Node(tmp_path / "n").start()


def test_reads_follow_writes_on_every_node(nodes: list[dqlite_py.Node]) -> None:
    connections = [node.connect("app", isolation_level=None) for node in nodes]
    connections[0].execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
    for number in range(30):
        writer, reader = connections[number % 3], connections[(number + 1) % 3]
        writer.execute("INSERT INTO t(v) VALUES (:v)", {"v": number})
        assert reader.execute("SELECT max(id), max(v) FROM t").fetchone() == (number + 1, number)
    check_same_state(nodes)


def test_values_survive_the_round_trip(nodes: list[dqlite_py.Node]) -> None:
    values = (None, 0, -(2**63), 2**63 - 1, 1.5, float("inf"), "", "é\0z", b"", b"\0\xff", "x" * 100_000)
    for node in nodes:
        connection = node.connect("app", isolation_level=None)
        connection.execute("CREATE TABLE IF NOT EXISTS t(v)")
        connection.executemany("INSERT INTO t VALUES (?)", [(value,) for value in values])
        rows = [row[0] for row in connection.execute("SELECT v FROM t ORDER BY rowid DESC LIMIT 11")]
        assert rows[::-1] == list(values)


def test_functions_of_time_and_chance_are_the_same_everywhere(nodes: list[dqlite_py.Node]) -> None:
    connection = nodes[1].connect("app", isolation_level=None)
    connection.execute(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, at DEFAULT CURRENT_TIMESTAMP, r DEFAULT (random()), "
        "b DEFAULT (randomblob(8)))"
    )
    for _ in range(20):
        connection.execute("INSERT INTO t DEFAULT VALUES")
    connection.execute("UPDATE t SET at = datetime('now'), r = random() WHERE id % 3 = 0")
    check_same_state(nodes)
    contents = [
        node.connect("app", isolation_level=None, read_level=dqlite_py.ReadLevel.STALE)
        .execute("SELECT * FROM t")
        .fetchall()
        for node in nodes
    ]
    assert contents[0] == contents[1] == contents[2]
    assert len({row[2] for row in contents[0]}) == 20


def test_a_failing_statement_harms_only_its_unit(nodes: list[dqlite_py.Node]) -> None:
    connection = nodes[0].connect("app", isolation_level=None)
    connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY)")
    outcomes: list[bool] = []
    lock = threading.Lock()

    def write(node: dqlite_py.Node, number: int) -> None:
        mine = node.connect("app", isolation_level=None)
        for step in range(20):
            try:
                mine.execute_atomic([(INSERT, (step + 1,)), (INSERT, (-step - 1 - number * 100,))])
            except errors.IntegrityError as error:
                ok = error.outcome is not errors.Outcome.NOT_APPLIED  # else the count below is wrong
            else:
                ok = True
            with lock:
                outcomes.append(ok)

    threads = [threading.Thread(target=write, args=(nodes[i % 3], i)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = [row[0] for row in connection.execute("SELECT id FROM t")]
    assert len(rows) == 2 * outcomes.count(True)
    assert sorted(row for row in rows if row > 0) == list(range(1, 21))
    check_same_state(nodes)


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("ATTACH 'x.db' AS x", "ATTACH"),
        ("DETACH x", "DETACH"),
        ("SELECT load_extension('x')", "load_extension"),
        ("PRAGMA journal_mode = DELETE", "journal_mode"),
        ("PRAGMA writable_schema = 1", "writable_schema"),
        ("CREATE TEMP TABLE x(a)", "(?i)temp"),
        ("VACUUM", "VACUUM"),
        ("INSERT INTO _dqlite_meta VALUES (1)", "_dqlite"),
        ("SELECT 1; SELECT 2", "(?i)statement"),
    ],
)
def test_what_cannot_be_replicated_is_refused_by_name(tmp_path: Path, sql: str, words: str) -> None:
    with dqlite_py.Node(tmp_path / "n") as node:
        node.wait_ready()
        connection = node.connect("app", isolation_level=None)
        with pytest.raises(errors.Error, match=words) as caught:
            connection.execute(sql)
        assert caught.value.outcome is errors.Outcome.NOT_APPLIED
        connection.execute("CREATE TABLE still(works)")


def test_a_statement_of_seconds_costs_no_election(nodes: list[dqlite_py.Node]) -> None:
    leader = leader_of(nodes)
    connection = leader.connect("app", isolation_level=None, timeout=60)
    connection.execute("CREATE TABLE t(v)")
    term = leader.status()["term"]
    slow = (
        "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000000) "
        "SELECT count(*) FROM n WHERE i % 3 = length(i) % 3"
    )
    connection.execute(slow)
    other = leader.connect("other", isolation_level=None)
    other.execute("CREATE TABLE t(v)")  # another database is not held up
    wait_until(
        lambda: len({node.status()["applied_index"] for node in nodes}) == 1, "all applied the slow statement"
    )
    assert leader.status()["is_leader"]
    assert {node.status()["term"] for node in nodes} == {term}


def test_a_dropped_database_is_gone_everywhere_and_can_come_back(nodes: list[dqlite_py.Node]) -> None:
    nodes[1].connect("gone", isolation_level=None).execute("CREATE TABLE t(v)")
    nodes[2].drop_database("gone")
    wait_until(lambda: all("gone" not in node.status()["databases"] for node in nodes), "dropped everywhere")
    again = nodes[0].connect("gone", isolation_level=None)
    with pytest.raises(errors.OperationalError, match="no such table"):
        again.execute("SELECT * FROM t")


def test_below_the_reserve_writes_are_refused_and_reads_go_on(tmp_path: Path) -> None:
    with dqlite_py.Node(tmp_path / "n") as node:
        node.wait_ready()
        node.connect("app", isolation_level=None).execute("CREATE TABLE t(v)")
    with dqlite_py.Node(tmp_path / "n", disk_reserve_bytes=2**60) as full:
        full.wait_ready()
        connection = full.connect("app", isolation_level=None)
        with pytest.raises(errors.StorageFull, match="free space") as caught:
            connection.execute("INSERT INTO t VALUES (1)")
        assert caught.value.outcome is errors.Outcome.NOT_APPLIED
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_without_a_majority_writes_say_what_is_true(nodes: list[dqlite_py.Node]) -> None:
    leader = leader_of(nodes)
    connection = leader.connect("app", isolation_level=None, timeout=1.5)
    connection.execute("CREATE TABLE t(v)")
    for node in nodes:
        if node is not leader:
            node.stop(hand_over=False)
    with pytest.raises(errors.Error) as first:
        connection.execute("INSERT INTO t VALUES (1)")
    assert first.value.outcome is errors.Outcome.UNKNOWN  # appended here, may still be committed later
    wait_until(lambda: not leader.status()["is_leader"], "the leader without a majority steps down")
    with pytest.raises(errors.NoLeader) as second:
        connection.execute("INSERT INTO t VALUES (2)")
    assert second.value.outcome is errors.Outcome.NOT_APPLIED
    with pytest.raises(errors.NoLeader):
        connection.execute("SELECT * FROM t")
    stale = leader.connect("app", isolation_level=None, read_level=dqlite_py.ReadLevel.STALE)
    assert stale.execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_a_divergent_node_is_found_quarantined_and_rebuilt(tmp_path: Path) -> None:
    with embedded_cluster(tmp_path) as nodes:
        leader = leader_of(nodes)
        connection = leader.connect("app", isolation_level=None)
        connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
        connection.executemany("INSERT INTO t(v) VALUES (?)", [(i,) for i in range(100)])
        check_same_state(nodes)
        position, victim = next((i, node) for i, node in enumerate(nodes) if node is not leader)
        address = victim.address
        victim.stop()
        file = next((tmp_path / f"n{position}" / "state").glob("g*/app.db"))
        with sqlite3.connect(file) as direct:  # somebody edits the file behind our back
            direct.execute("UPDATE t SET v = 'changed' WHERE id = 7")
        direct.close()
        again = dqlite_py.Node(tmp_path / f"n{position}", listen=address)
        nodes[position] = again.start()
        for number in range(50):
            connection.execute("INSERT INTO t(v) VALUES (?)", (number,))
        wait_until(lambda: again.status()["divergences"] > 0, "the difference is noticed")
        wait_until(lambda: again.status()["healthy"], "the node is rebuilt")
        connection.execute("INSERT INTO t(v) VALUES ('after')")
        check_same_state(nodes)
        mine = again.connect("app", isolation_level=None, read_level=dqlite_py.ReadLevel.STALE)
        assert mine.execute("SELECT count(*) FROM t WHERE v = 'changed'").fetchone() == (0,)


def test_large_results_reach_a_follower(nodes: list[dqlite_py.Node]) -> None:
    """Forwarded writes answer with more rows than one message's element bound."""
    follower = next(node for node in nodes if not node.status()["is_leader"])
    connection = follower.connect("app", isolation_level=None, timeout=60)
    connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY)")
    connection.executemany("INSERT INTO t VALUES (?)", [(i,) for i in range(70_000)])
    returned = connection.execute("UPDATE t SET id = -id RETURNING id").fetchall()
    assert len(returned) == 70_000
    assert len(connection.execute("SELECT id FROM t").fetchall()) == 70_000


def test_who_waits_hears_that_the_node_stopped(nodes: list[dqlite_py.Node]) -> None:
    nodes[0].stop()
    nodes[1].stop()
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(nodes[2].wait_ready, 60.0)
        nodes[2].stop()
        error = waiting.exception(30)
    assert error is None or isinstance(error, dqlite_py.Error)


def test_asked_just_before_a_node_counts_as_stopped(tmp_path: Path) -> None:
    """Found as a node that failed while it waited for a leader: it ended with a traceback and the wrong exit code."""
    with dqlite_py.Node(tmp_path / "node", listen="127.0.0.1:0") as node:
        node.stop()
        node._stopped.clear()  # as it is after its loop was closed
        with pytest.raises(errors.NodeStopped):
            node.status()
        with pytest.raises(errors.NodeStopped):
            node.wait_ready(0.5)
        node._stopped.set()
