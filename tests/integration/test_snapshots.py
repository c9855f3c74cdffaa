"""Compaction, catch-up by snapshot, several databases: embedded nodes, while writes go on."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

import dqlite_py
from dqlite_py import errors
from dqlite_py.limits import MIB
from dqlite_py.node import startup
from tests.integration.cluster import wait_until
from tests.integration.embedded import check_same_state, embedded_cluster, leader_of, state_hash, voters

ON_DEMAND: dict[str, Any] = {"compact_log_bytes": 2**60, "log_tail_bytes": 0}  # Node.compact() only
PIECE = b"x" * (256 * 1024)


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log is dropped by whole segments: make them small, so that little data shows it."""
    monkeypatch.setattr(startup, "SEGMENT_BYTES", MIB)


class Writer(threading.Thread):
    """Inserts 0, 1, 2, … into database app through one node until stopped; every write must succeed."""

    def __init__(self, node: dqlite_py.Node) -> None:
        super().__init__(name="writer")
        self.connection = node.connect("app", isolation_level=None, timeout=30, check_same_thread=False)
        self.count = 0
        self.failed: BaseException | None = None
        self._stopping = threading.Event()

    def run(self) -> None:
        try:
            while not self._stopping.wait(0.002):
                self.connection.execute("INSERT INTO rows VALUES (?)", (self.count,))
                self.count += 1
        except errors.Error as error:
            self.failed = error

    def wait_more(self, count: int) -> None:
        goal = self.count + count
        wait_until(lambda: self.failed or self.count >= goal, f"{count} more writes")
        assert self.failed is None, self.failed

    def __enter__(self) -> Writer:
        self.connection.execute("CREATE TABLE rows(n INTEGER)")
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stopping.set()
        self.join(60)
        assert not self.is_alive()


def advance(node: dqlite_py.Node, database: str = "app", size_bytes: int = 3 * MIB) -> None:
    """Let the log grow by so much, the database hardly."""
    connection = node.connect(database, isolation_level=None, timeout=30)
    connection.execute("CREATE TABLE IF NOT EXISTS pad(id INTEGER PRIMARY KEY, v BLOB)")
    for _ in range(size_bytes // len(PIECE)):
        connection.execute("INSERT OR REPLACE INTO pad VALUES (1, ?)", (PIECE,))


def compacted(nodes: list[dqlite_py.Node]) -> int:
    """Compact everywhere; the log's first index, the same or higher on all."""
    for node in nodes:
        node.compact()
    return min(int(node.status()["first_index"]) for node in nodes)


def rows_of(node: dqlite_py.Node, database: str = "app", table: str = "rows") -> list[int]:
    connection = node.connect(database, isolation_level=None, read_level=dqlite_py.ReadLevel.STALE)
    return [row[0] for row in connection.execute(f"SELECT n FROM {table} ORDER BY n")]


def test_a_lagging_follower_is_caught_up_by_a_snapshot_while_writes_go_on(tmp_path: Path) -> None:
    with embedded_cluster(tmp_path, **ON_DEMAND) as nodes:
        leader = leader_of(nodes)
        position, follower = next((i, n) for i, n in enumerate(nodes) if n is not leader)
        others = [node for node in nodes if node is not follower]
        with Writer(leader) as writer:
            writer.wait_more(20)
            address, had = follower.address, follower.status()["last_index"]
            follower.stop()
            advance(leader)
            wait_until(lambda: all(n.status()["applied_index"] > had + 10 for n in others), "others apply")
            assert compacted(others) > had + 1, "the log no longer continues what the follower has"
            before = writer.count
            back = dqlite_py.Node(tmp_path / f"n{position}", listen=address, **ON_DEMAND)
            nodes[position] = back.start()
            wait_until(lambda: back.status()["snapshot_index"] > had, "a snapshot is installed")
            writer.wait_more(20)
            assert writer.count > before
            status = back.status()
            assert status["first_index"] == status["snapshot_index"] + 1, "its log begins after the snapshot"
            assert leader.status()["term"] == status["term"]
        check_same_state(nodes)
        assert [rows_of(node) for node in nodes] == [list(range(writer.count))] * 3
        back.stop()
        nodes[position] = dqlite_py.Node(tmp_path / f"n{position}", listen=address, **ON_DEMAND).start()
        check_same_state(nodes)


def test_an_empty_node_joins_a_compacted_cluster_and_votes_only_when_caught_up(tmp_path: Path) -> None:
    with embedded_cluster(tmp_path, 2, **ON_DEMAND) as nodes:
        leader = leader_of(nodes)
        connection = leader.connect("app", isolation_level=None, timeout=60)
        connection.execute("CREATE TABLE big(v BLOB)")
        for _ in range(4):
            connection.execute(
                "INSERT INTO big WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50) "
                "SELECT randomblob(100000) FROM n"
            )
        advance(leader)
        assert compacted([leader]) > 2
        needed = leader.status()["commit_index"]
        promotions: list[int] = []
        seen_standby = threading.Event()
        stopping = threading.Event()
        known = {member["id"] for member in leader.members()}

        def watch() -> None:
            while not stopping.wait(0.002):
                for member in leader.members():
                    if member["id"] not in known and member["role"] != "voter":
                        seen_standby.set()
                    elif member["id"] not in known:
                        promotions.append(member["match_index"])
                        return

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            with Writer(leader) as writer:
                joiner = dqlite_py.Node(tmp_path / "n2", join=[nodes[1].address], **ON_DEMAND)
                nodes.append(joiner.start())
                wait_until(lambda: voters(joiner) == 3, "the new node votes")
                writer.wait_more(5)
        finally:
            stopping.set()
            watcher.join()
        assert seen_standby.is_set()
        assert promotions, "the promotion was seen"
        assert promotions[0] >= needed, "it votes only when it has what was committed before it came"
        status = joiner.status()
        assert status["first_index"] > 2, "its log really begins behind a snapshot"
        check_same_state(nodes)
        assert rows_of(joiner) == list(range(writer.count))


def test_databases_at_different_indexes_are_replayed_and_sent_alike(tmp_path: Path) -> None:
    """One database is written much, one little, one dropped, one dropped and made anew."""
    with embedded_cluster(tmp_path, **ON_DEMAND) as nodes:
        leader = leader_of(nodes)
        position, follower = next((i, n) for i, n in enumerate(nodes) if n is not leader)
        others = [node for node in nodes if node is not follower]
        for name in ("quiet", "busy", "gone", "anew"):
            connection = leader.connect(name, isolation_level=None)
            connection.execute("CREATE TABLE rows(n INTEGER)")
            connection.execute("INSERT INTO rows VALUES (-1)")
        wait_until(lambda: "anew" in follower.status()["databases"], "the follower has all databases")
        follower.compact()  # its manifest lists the databases that will be dropped
        address = follower.address
        follower.stop()
        leader.drop_database("gone")
        leader.drop_database("anew")
        leader.connect("anew", isolation_level=None).execute("CREATE TABLE rows(n INTEGER)")
        advance(leader, "busy")
        point = compacted(others)
        busy = leader.connect("busy", isolation_level=None)
        for number in range(
            50
        ):  # behind the compaction point: the snapshot is ahead of it, or the log follows
            busy.execute("INSERT INTO rows VALUES (?)", (number,))
        nodes[position] = dqlite_py.Node(tmp_path / f"n{position}", listen=address, **ON_DEMAND).start()
        back = nodes[position]
        wait_until(
            lambda: back.status()["snapshot_index"] >= point - 1 and back.status()["healthy"],
            "a snapshot is installed",
        )
        leader.connect("quiet", isolation_level=None).execute("INSERT INTO rows VALUES (0)")
        for name in ("quiet", "busy", "anew"):
            check_same_state(nodes, name)
        assert rows_of(back, "busy") == [-1, *range(50)]
        assert rows_of(back, "quiet") == [-1, 0]
        assert rows_of(back, "anew") == [], "the rows of the dropped database of this name are gone"
        assert set(back.status()["databases"]) == {"quiet", "busy", "anew"}
        hashes = {name: state_hash(back, name) for name in ("quiet", "busy", "anew")}
        back.stop()
        assert not list((tmp_path / f"n{position}").glob("state/g*/gone.db*"))
        again = dqlite_py.Node(tmp_path / f"n{position}", listen=address, **ON_DEMAND).start()
        nodes[position] = again
        again.wait_ready()
        assert set(again.status()["databases"]) == {"quiet", "busy", "anew"}
        assert {name: state_hash(again, name) for name in hashes} == hashes


@pytest.mark.parametrize("anew", [False, True])
def test_entries_of_a_dropped_database_are_replayed_without_harm(tmp_path: Path, anew: bool) -> None:
    """The log still holds writes to a database whose beginnings are compacted and whose file is gone."""
    with embedded_cluster(tmp_path, **ON_DEMAND) as nodes:
        leader = leader_of(nodes)
        position, follower = next((i, n) for i, n in enumerate(nodes) if n is not leader)
        gone, stays = (
            leader.connect("gone", isolation_level=None),
            leader.connect("stays", isolation_level=None),
        )
        gone.execute("CREATE TABLE rows(n INTEGER)")
        stays.execute("CREATE TABLE rows(n INTEGER)")
        check_same_state(nodes, "gone")
        for node in nodes:
            node.compact()
        for number in range(30):
            gone.execute("INSERT INTO rows VALUES (?)", (number,))
            stays.execute("INSERT INTO rows VALUES (?)", (number,))
        leader.drop_database("gone")
        if anew:
            leader.connect("gone", isolation_level=None)  # exists again, and nothing was written to it
        stays.execute("INSERT INTO rows VALUES (30)")
        check_same_state(nodes, "stays")
        address = follower.address
        follower.stop()
        nodes[position] = dqlite_py.Node(tmp_path / f"n{position}", listen=address, **ON_DEMAND).start()
        back = nodes[position]
        stays.execute("INSERT INTO rows VALUES (31)")
        check_same_state(nodes, "stays")
        assert ("gone" in back.status()["databases"]) is anew
        if anew:
            leader.connect("gone", isolation_level=None).execute("CREATE TABLE other(v)")
            check_same_state(nodes, "gone")
        assert rows_of(back, "stays") == list(range(32))
        status = back.status()
        assert (status["healthy"], status["divergences"]) == (True, 0), status["problem"]


def test_drops_and_compactions_at_the_same_time(tmp_path: Path) -> None:
    """A database that vanishes while its checkpoint is asked for must not stop compaction for ever."""
    with dqlite_py.Node(tmp_path / "n", **ON_DEMAND) as node:
        node.wait_ready()
        stopping = threading.Event()
        failures: list[BaseException] = []

        def compact() -> None:
            while not stopping.wait(0.001):
                try:
                    node.compact(timeout=20)
                except errors.OutcomeUnknown as error:
                    failures.append(error)
                    return
                except errors.Error:
                    continue  # postponed: the database went away

        compacting = threading.Thread(target=compact)
        compacting.start()
        try:
            for number in range(25):
                node.connect("brief", isolation_level=None).execute("CREATE TABLE rows(n INTEGER)")
                node.connect("stays", isolation_level=None).execute(
                    "CREATE TABLE IF NOT EXISTS rows(n INTEGER)"
                )
                node.connect("stays", isolation_level=None).execute("INSERT INTO rows VALUES (?)", (number,))
                node.drop_database("brief")
        finally:
            stopping.set()
            compacting.join(60)
        assert not failures, failures
        before = node.status()["snapshot_index"]
        node.connect("stays", isolation_level=None).execute("INSERT INTO rows VALUES (25)")
        assert node.compact(timeout=20) > before
        assert rows_of(node, "stays") == list(range(26))


def test_compaction_goes_on_by_itself(tmp_path: Path) -> None:
    """The log stays about as small as it was told to, without anybody asking."""
    settings: dict[str, Any] = {"compact_log_bytes": 2 * MIB, "log_tail_bytes": 0}
    with dqlite_py.Node(tmp_path / "n", **settings) as node:
        node.wait_ready()
        advance(node, size_bytes=8 * MIB)
        wait_until(
            lambda: node.status()["journal_bytes"] <= 3 * MIB, "the log is dropped behind the snapshot"
        )
        assert node.status()["snapshot_index"] > 10
    with dqlite_py.Node(tmp_path / "n", **settings) as node:
        node.wait_ready()
        assert node.connect("app", isolation_level=None).execute("SELECT length(v) FROM pad").fetchone() == (
            len(PIECE),
        )
