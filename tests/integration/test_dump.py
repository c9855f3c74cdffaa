"""`dqlite-py dump` of a cluster that is written to and loses nodes, and of a stopped node's folder."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dqlite_py.cli.main import main
from dqlite_py.client.dump import fetch_database
from dqlite_py.model import Address
from tests.integration.cluster import DATABASE, Cluster, wait_until
from tests.integration.embedded import embedded_cluster
from tests.support.folders import fingerprint, flip
from tests.support.sqlite_files import SCHEMA, contents

ACCOUNTS = 50


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path / "cluster") as running:
        address = running.nodes[0].address
        running.client.write(
            address, "CREATE TABLE accounts(id INTEGER PRIMARY KEY, balance INTEGER, filler BLOB)"
        )
        for _ in range(ACCOUNTS):
            running.client.write(
                address, "INSERT INTO accounts(balance, filler) VALUES (100, zeroblob(200000))"
            )
        yield running


def run(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["dump", *arguments])


def rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(sql).fetchall()


class Transfers(threading.Thread):
    """Moves money until it is told to stop; the sum never changes."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__()
        self.stopping = threading.Event()
        self.count = 0
        self._cluster = cluster
        self._address = cluster.nodes[0].address

    def run(self) -> None:
        while not self.stopping.is_set():
            a = self.count % ACCOUNTS + 1
            b = (self.count * 7 + 3) % ACCOUNTS + 1
            self._cluster.client.write(
                self._address,
                "UPDATE accounts SET balance = balance + CASE id WHEN ? THEN -1 WHEN ? THEN 1 ELSE 0 END "
                "WHERE id IN (?, ?)",
                a,
                b if b != a else a % ACCOUNTS + 1,
                a,
                b if b != a else a % ACCOUNTS + 1,
            )
            self.count += 1


def test_one_state_while_writes_go_on(cluster: Cluster, tmp_path: Path) -> None:
    transfers = Transfers(cluster)
    transfers.start()
    try:
        for number, node in enumerate(cluster.nodes):
            target = tmp_path / f"{number}.db"
            result = run("-s", node.address, "--database", DATABASE, str(target), "--json")
            assert result.exit_code == 0, result.output
            facts = json.loads(result.stdout)
            assert facts["bytes"] == target.stat().st_size > ACCOUNTS * 200000
            assert facts["log_index"] > ACCOUNTS
            assert rows(target, "SELECT sum(balance), count(*) FROM accounts") == [(100 * ACCOUNTS, ACCOUNTS)]
            assert rows(target, "PRAGMA integrity_check") == [("ok",)]
            assert rows(target, "PRAGMA journal_mode") == [("delete",)]
            assert rows(
                target, "SELECT count(*) FROM sqlite_schema WHERE name LIKE '\\_dqlite%' ESCAPE '\\'"
            ) == [(0,)]
    finally:
        transfers.stopping.set()
        transfers.join()
    assert transfers.count
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.db", "1.db", "2.db", "cluster"]
    for node in cluster.nodes:
        assert list((node.folder / "outgoing").iterdir()) == []  # no copy is left behind


def test_what_was_acknowledged_before_is_in_it(cluster: Cluster, tmp_path: Path) -> None:
    for number, node in enumerate(cluster.nodes):
        cluster.client.write(cluster.nodes[0].address, "UPDATE accounts SET balance = ? WHERE id = 1", number)
        target = tmp_path / f"{number}.db"
        assert run("-s", node.address, "--database", DATABASE, str(target)).exit_code == 0
        assert rows(target, "SELECT balance FROM accounts WHERE id = 1") == [(number,)]


def test_the_node_that_hands_it_out_is_killed_in_the_middle(cluster: Cluster, tmp_path: Path) -> None:
    addresses = [Address(node.address) for node in cluster.nodes]
    killed: list[str] = []

    def progress(what: str, done: int, total: int) -> None:
        if not killed and what == DATABASE and 0 < done < total:
            # It is asked by this one address first, so it is the one that hands out.
            killed.append(addresses[0])
            cluster.nodes[0].kill()

    target = tmp_path / "file.db"
    found = fetch_database(addresses, DATABASE, str(target), timeout_s=30.0, progress=progress)
    assert killed
    assert found.address not in killed
    assert found.size_bytes == target.stat().st_size
    assert rows(target, "SELECT sum(balance), count(*) FROM accounts") == [(100 * ACCOUNTS, ACCOUNTS)]


def test_without_a_majority_only_a_stale_dump(cluster: Cluster, tmp_path: Path) -> None:
    cluster.settled()
    survivor = cluster.nodes[2]
    for node in cluster.nodes[:2]:
        node.kill()
    target = tmp_path / "file.db"
    place = ("-s", survivor.address, "--database", DATABASE, str(target), "--timeout", "3")
    refused = run(*place)
    assert refused.exit_code == 1
    assert not target.exists()
    found = run(*place, "--level", "stale")
    assert found.exit_code == 0, found.output
    assert rows(target, "SELECT sum(balance) FROM accounts") == [(100 * ACCOUNTS,)]


def test_a_stopped_nodes_folder(cluster: Cluster, tmp_path: Path) -> None:
    node = cluster.nodes[1]
    target = tmp_path / "file.db"
    assert run("--dir", str(node.folder), "--database", DATABASE, str(target)).exit_code == 3  # it runs
    cluster.settled()
    node.kill()
    before = fingerprint(node.folder)
    result = run("--dir", str(node.folder), "--database", DATABASE, str(target))
    assert result.exit_code == 0, result.output
    assert fingerprint(node.folder) == before
    assert rows(target, "SELECT sum(balance) FROM accounts") == [(100 * ACCOUNTS,)]
    again = run("--dir", str(node.folder), "--database", DATABASE, str(target))
    assert again.exit_code == 3
    assert "exists already" in again.output
    assert run("--dir", str(node.folder), "--database", DATABASE, str(target), "--force").exit_code == 0
    # Found by reading: SQLite would read the new file with what an earlier one of its name left.
    for left in ("file.db-wal", "file.db-journal"):
        (tmp_path / left).touch()
        beside = run("--dir", str(node.folder), "--database", DATABASE, str(target), "--force")
        assert beside.exit_code == 3
        assert f"{left} is there" in " ".join(beside.output.split())
        (tmp_path / left).unlink()
    other = run("--dir", str(node.folder), "--database", "nobody", str(tmp_path / "nobody.db"))
    assert other.exit_code == 3
    assert DATABASE in other.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cluster", "file.db"]


def test_a_node_whose_file_is_damaged_hands_out_nothing(tmp_path: Path) -> None:
    with embedded_cluster(tmp_path) as nodes:
        with nodes[0].connect(DATABASE) as connection:
            connection.execute("CREATE TABLE t(a INTEGER, b BLOB)")
            connection.executemany("INSERT INTO t VALUES (?, ?)", [(i, bytes(3000)) for i in range(500)])
            connection.commit()
        for node in nodes:
            wait_until(
                lambda n=node: n.databases()[DATABASE] == nodes[0].databases()[DATABASE], "all have it"
            )
            node.compact()
        [damaged] = (tmp_path / "n0" / "state").glob(f"g*/{DATABASE}.db")
        flip(damaged, -100)  # in the midst of a blob, where SQLite sees nothing
        addresses = [Address(node.address) for node in nodes]
        found = fetch_database(addresses, DATABASE, str(tmp_path / "file.db"), timeout_s=30.0)
        assert found.address in addresses[1:]
        assert rows(tmp_path / "file.db", "SELECT count(*), sum(b = zeroblob(3000)) FROM t") == [(500, 500)]


def test_a_database_that_is_not_there(cluster: Cluster, tmp_path: Path) -> None:
    result = run("-s", cluster.nodes[0].address, "--database", "nobody", str(tmp_path / "file.db"))
    assert result.exit_code == 1
    assert "does not exist" in result.output
    assert not (tmp_path / "file.db").exists()


def test_as_sql(cluster: Cluster, tmp_path: Path) -> None:
    address = cluster.nodes[0].address
    for statement in SCHEMA.replace("END;", "END;;").split(";\n"):
        if statement.strip():
            cluster.client.write(address, statement.strip().removesuffix(";"))
    odd = ["", "nul\0inside", "quote ' \" \n", "\U0001f600", None, 2**63 - 1, -(2**63), 0.1, b"", b"\0\xff"]
    for value in odd:
        cluster.client.write(address, "INSERT INTO strictly VALUES (1, 't', ?)", value)
    cluster.client.write(address, "INSERT INTO keyed(id, name) VALUES (7, 'x')")
    cluster.client.write(address, "DELETE FROM keyed")
    cluster.client.write(address, "INSERT INTO made(a, b) VALUES (1, 'x')")
    place = ("-s", address, "--database", DATABASE)
    assert run(*place, str(tmp_path / "file.db")).exit_code == 0
    assert run(*place, "--sql", str(tmp_path / "file.sql")).exit_code == 0
    shown = run(*place, "--sql", "-")
    assert shown.stdout == (tmp_path / "file.sql").read_text()
    with closing(sqlite3.connect(tmp_path / "again.db")) as db:
        db.executescript((tmp_path / "file.sql").read_text())
    assert contents(tmp_path / "again.db") == contents(tmp_path / "file.db")
    assert len(contents(tmp_path / "file.db")["rows of strictly"]) == len(odd)  # type: ignore[arg-type]


def test_wrong_usage(tmp_path: Path) -> None:
    for arguments in (
        ["--database", "app", "x.db"],
        ["-s", "127.0.0.1:1", "--dir", str(tmp_path), "--database", "app", "x.db"],
        ["-s", "127.0.0.1:1", "--database", "app", "-"],
    ):
        assert run(*arguments).exit_code == 2
